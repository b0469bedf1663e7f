//! Broadcasts that were announced and have not come: who has them, who was asked, when to ask again.

use super::message::Short;
use crate::links::{Link, LinkSet};
use crate::time::Time;
use std::time::Duration;

/// One broadcast that was announced.
#[derive(Clone, Copy, Debug)]
pub struct Want {
    pub short: Short,
    /// When the first to announce it would have pushed it here.
    pub since: Time,
    /// When to ask, or ask another.
    pub due: Time,
    /// Who says to have it or to have it soon.
    pub announcers: LinkSet,
    /// Of these, who surely has it.
    pub holders: LinkSet,
    /// Who was asked in this round.
    pub asked: LinkSet,
    /// Neighbours that asked us for it already.
    pub wanted_by: LinkSet,
    /// Neighbours that we told it is coming.
    pub told: LinkSet,
    /// Who announced it first; it counts against that neighbour's share.
    pub first: Link,
    /// How often all announcers were asked in vain.
    pub rounds: u8,
    /// Whether it is to be had outside of any tree.
    pub pull: bool,
}

impl Want {
    /// The next to ask: the first that announced it, then those that surely have it, then those that will.
    pub fn next(&mut self) -> Option<Link> {
        if self.announcers.without(self.asked).is_empty() {
            self.asked = LinkSet::default();
            self.rounds = self.rounds.saturating_add(1);
        }
        let left = self.announcers.without(self.asked);
        if left.has(self.first) && (self.holders.has(self.first) || self.holders.is_empty()) {
            self.asked.insert(self.first);
            return Some(self.first);
        }
        let link = left.and(self.holders).iter().next().or_else(|| left.iter().next())?;
        self.asked.insert(link);
        Some(link)
    }

    /// How long to wait for an answer, given how long the first time: twice as long each round, up to 16 times.
    pub fn patience(&self, first: Duration) -> Duration {
        first * (1 << self.rounds.min(4))
    }
}

/// All that is wanted, in the order of short names.
#[derive(Debug, Default)]
pub struct Wanted {
    wants: Vec<Want>,
    /// Not after the earliest due.
    due: Option<Time>,
}

impl Wanted {
    /// The want of this broadcast, to be changed. After a change of its due: [`Wanted::hasten`].
    pub fn get(&mut self, short: Short) -> Option<&mut Want> {
        self.place(short).ok().map(|at| &mut self.wants[at])
    }

    /// Takes one in that is not there yet, unless there are `max` or `share` that the same neighbour brought up.
    pub fn add(&mut self, want: Want, max: usize, share: usize) -> bool {
        let full = self.wants.len() >= max;
        if full || (self.wants.len() >= share && self.brought_up_by(want.first) >= share) {
            return false;
        }
        if let Err(at) = self.place(want.short) {
            self.wants.insert(at, want);
            self.hasten(want.due);
        }
        true
    }

    /// Takes it out: it came.
    pub fn remove(&mut self, short: Short) -> Option<Want> {
        let want = self.wants.remove(self.place(short).ok()?);
        self.tidy();
        Some(want)
    }

    /// There is something due at this time.
    pub fn hasten(&mut self, due: Time) {
        self.due = Some(self.due.map_or(due, |earlier| earlier.min(due)));
    }

    /// When [`Wanted::each_due`] has something to do.
    pub fn due(&self) -> Option<Time> {
        self.due
    }

    /// Shows those that are due; the visitor sets a new due, or says false to drop one.
    pub fn each_due(&mut self, now: Time, mut visit: impl FnMut(&mut Want) -> bool) {
        self.wants.retain_mut(|want| want.due > now || visit(want));
        self.due = self.wants.iter().map(|want| want.due).min();
        self.tidy();
    }

    /// Forgets a link; what was asked of it is due at once, and what only it had is dropped.
    pub fn cut(&mut self, link: Link, now: Time) {
        self.wants.retain_mut(|want| {
            for set in [
                &mut want.announcers,
                &mut want.holders,
                &mut want.wanted_by,
                &mut want.told,
                &mut want.asked,
            ] {
                set.remove(link);
            }
            want.due = now;
            !want.announcers.is_empty()
        });
        self.due = (!self.wants.is_empty()).then_some(now);
        self.tidy();
    }

    /// How many.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.wants.len()
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        self.wants.capacity() * size_of::<Want>()
    }

    fn place(&self, short: Short) -> Result<usize, usize> {
        self.wants.binary_search_by_key(&short, |want| want.short)
    }

    fn brought_up_by(&self, link: Link) -> usize {
        self.wants.iter().filter(|want| want.first == link).count()
    }

    /// Gives the room back when nothing is wanted.
    fn tidy(&mut self) {
        if self.wants.is_empty() {
            (self.wants, self.due) = (Vec::new(), None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links(all: &[usize]) -> LinkSet {
        let mut set = LinkSet::default();
        all.iter().for_each(|at| set.insert(Link::from_index(*at).unwrap()));
        set
    }

    fn want(seq: u32, announcers: &[usize]) -> Want {
        Want {
            short: Short { tag: 1, seq },
            since: Time(0),
            due: Time(u64::from(seq)),
            announcers: links(announcers),
            holders: LinkSet::default(),
            asked: LinkSet::default(),
            wanted_by: LinkSet::default(),
            told: LinkSet::default(),
            first: links(announcers).iter().next().unwrap(),
            rounds: 0,
            pull: false,
        }
    }

    #[test]
    fn those_who_have_it_are_asked_before_those_who_will_and_then_all_again() {
        let mut want = want(1, &[1, 2, 3]);
        want.holders = links(&[2]);
        let order: Vec<_> = (0..5).map(|_| want.next().unwrap().index()).collect();
        assert_eq!(order, [2, 1, 3, 2, 1]);
        assert_eq!(want.rounds, 1);
    }

    #[test]
    fn one_neighbour_fills_only_its_share() {
        let mut wanted = Wanted::default();
        let taken = (1..9).filter(|seq| wanted.add(want(*seq, &[0]), 6, 4)).count();
        assert_eq!(taken, 4);
        let taken = (11..19).filter(|seq| wanted.add(want(*seq, &[1]), 6, 4)).count();
        assert_eq!((taken, wanted.len()), (2, 6));
    }

    #[test]
    fn what_only_a_lost_neighbour_had_is_no_longer_wanted() {
        let mut wanted = Wanted::default();
        wanted.add(want(1, &[0]), 9, 9);
        wanted.add(want(2, &[0, 1]), 9, 9);
        wanted.cut(Link::from_index(0).unwrap(), Time(0));
        assert_eq!((wanted.len(), wanted.due()), (1, Some(Time(0))));
        wanted.each_due(Time(0), |_| false);
        assert_eq!((wanted.due(), wanted.heap_bytes()), (None, 0));
    }
}
