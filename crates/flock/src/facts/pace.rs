//! When to compare notes with which neighbour, and how much a neighbour may cost.

use super::config::Config;
use crate::links::{Link, Links};
use crate::time::Time;
use rand::{Rng, RngExt};
use std::time::Duration;

#[derive(Clone, Copy, Debug, Default)]
struct Place {
    /// When to open the next exchange out of turn.
    due: Option<Time>,
    /// How long after opening to open again, unless all was the same; zero while nothing is known to differ.
    wait: Duration,
    /// When the neighbour's share was last added to `left`.
    filled: Time,
    /// Bytes that the neighbour may still cost.
    left: u32,
}

/// Per link 48 bytes; see the module.
#[derive(Debug, Default)]
pub struct Pace {
    places: Vec<Place>,
    /// When to open an exchange with any neighbour.
    turn: Option<Time>,
    /// Whom to choose for it, if he is still there.
    newest: Option<Link>,
    /// When an exchange was last opened.
    last: Option<Time>,
    /// With whom an exchange is under way, and when last a word of it was said.
    talk: Option<(Link, Time)>,
    /// When news was last passed on to all neighbours.
    passed_on: Option<Time>,
    /// When a neighbour was last heard of facts.
    pub heard: Option<Time>,
}

impl Pace {
    fn place(&mut self, link: Link) -> &mut Place {
        if self.places.len() <= link.index() {
            self.places.reserve_exact(link.index() + 1 - self.places.len());
            self.places.resize(link.index() + 1, Place::default());
        }
        &mut self.places[link.index()]
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        self.places.capacity() * size_of::<Place>()
    }

    /// A neighbour is there; `first` when there was none. Who was alone compares at once. Others may do so soon, but not
    /// for every link of many: where peers join in a storm, or two halves find each other, the first of them tells.
    pub fn begin(&mut self, link: Link, first: bool, now: Time, config: &Config, rng: &mut dyn Rng) {
        let due = first.then(|| now + rng.random_range(Duration::ZERO..=Duration::from_secs(1)));
        let left = config.link_bytes_per_second.saturating_mul(4);
        *self.place(link) = Place { due, wait: Duration::ZERO, filled: now, left };
        if first || self.turn.is_none() {
            self.turn = Some(now + turn(config, rng));
        } else if self.last.is_none_or(|last| now.since(last) > config.exchange_every / 2) {
            let soon = now + rng.random_range(Duration::ZERO..=config.exchange_every / 6);
            if self.turn.is_some_and(|turn| soon < turn) {
                (self.turn, self.newest) = (Some(soon), Some(link));
            }
        }
    }

    /// The neighbour is not there any more.
    pub fn end(&mut self, link: Link, last: bool) {
        *self.place(link) = Place::default();
        self.newest = self.newest.filter(|newest| *newest != link);
        self.talk = self.talk.filter(|(with, _)| *with != link);
        if last {
            self.turn = None;
        }
    }

    /// A word of an exchange with the neighbour is said or heard.
    pub fn talks(&mut self, link: Link, now: Time) {
        self.talk = Some((link, now));
    }

    /// Whether an exchange with another neighbour seems under way. Two at a time would find the same differences, and
    /// both would mend them.
    pub fn is_busy(&self, link: Link, now: Time, config: &Config) -> bool {
        self.talk.is_some_and(|(with, at)| with != link && now.since(at) < config.retry / 2)
    }

    /// An exchange is opened: when it finds differences, another follows.
    pub fn opened(&mut self, link: Link, now: Time, config: &Config) {
        self.last = Some(now);
        self.talks(link, now);
        let place = self.place(link);
        place.wait = (place.wait * 2).max(config.retry);
        place.due = (place.wait < config.exchange_every).then_some(now + place.wait);
    }

    /// An exchange found nothing different.
    pub fn same(&mut self, link: Link) {
        let place = self.place(link);
        (place.due, place.wait) = (None, Duration::ZERO);
        self.talk = self.talk.filter(|(with, _)| *with != link);
    }

    /// Compare with the neighbour in a while, if nothing else comes of it.
    pub fn again(&mut self, link: Link, now: Time, config: &Config) {
        self.place(link).due.get_or_insert(now + config.retry);
    }

    /// The neighbour has more for us.
    pub fn more(&mut self, link: Link, now: Time, config: &Config) {
        let place = self.place(link);
        let due = now + config.next_chunk;
        place.due = Some(place.due.map_or(due, |it| it.min(due)));
        place.wait = Duration::ZERO;
    }

    /// An exchange with the neighbour at `link` brought news that no broadcast had: the others may lack them too, as when
    /// two halves have found each other. Once in `exchange_every`, lest two peers that hear of changes all the time compare
    /// all the time.
    pub fn pass_on(&mut self, link: Link, links: &Links, now: Time, config: &Config, rng: &mut dyn Rng) {
        if self.passed_on.is_some_and(|last| now.since(last) < config.exchange_every) {
            return;
        }
        self.passed_on = Some(now);
        for (other, _) in links.iter().filter(|(other, _)| *other != link) {
            let due = now + rng.random_range(config.retry / 2..=config.retry * 3 / 2);
            let place = self.place(other);
            place.due = Some(place.due.map_or(due, |it| it.min(due)));
        }
    }

    /// A link to which an exchange is to be opened now.
    pub fn take_due(&mut self, now: Time) -> Option<Link> {
        let at = self.places.iter().position(|place| place.due.is_some_and(|due| due <= now))?;
        self.places[at].due = None;
        Link::from_index(at)
    }

    /// The neighbour to open an exchange with in turn, if it is time: one drawn at random, or who came last.
    pub fn take_turn(
        &mut self,
        links: &Links,
        now: Time,
        config: &Config,
        rng: &mut dyn Rng,
    ) -> Option<Link> {
        self.turn.filter(|turn| *turn <= now)?;
        self.turn = Some(now + turn(config, rng));
        let count = links.len();
        let any = (count > 0).then(|| rng.random_range(0..count))?;
        self.newest.take().or_else(|| links.iter().nth(any).map(|(link, _)| link))
    }

    /// The earliest that something is due.
    pub fn next(&self) -> Option<Time> {
        self.places.iter().filter_map(|place| place.due).chain(self.turn).min()
    }

    /// Whether the neighbour has any of its share left.
    pub fn affords(&mut self, link: Link, now: Time, config: &Config) -> bool {
        let place = self.place(link);
        let most = u64::from(config.link_bytes_per_second) * 4;
        let micros = u64::try_from(now.since(place.filled).as_micros()).unwrap_or(u64::MAX);
        let more = micros.saturating_mul(u64::from(config.link_bytes_per_second)) / 1_000_000;
        if more > 0 {
            place.left = u32::try_from((u64::from(place.left) + more).min(most)).unwrap_or(u32::MAX);
            place.filled = now;
        }
        place.left > 0
    }

    /// The neighbour has cost so much.
    pub fn charge(&mut self, link: Link, bytes: usize) {
        let place = self.place(link);
        place.left = place.left.saturating_sub(u32::try_from(bytes).unwrap_or(u32::MAX));
    }
}

/// Neither in step with others nor ever sooner than three quarters of the time.
fn turn(config: &Config, rng: &mut dyn Rng) -> Duration {
    let every = config.exchange_every;
    rng.random_range(every * 3 / 4..=every * 5 / 4)
}
