//! Contacts exchanged with random peers, and doubtful ones given another chance.

use super::{ADDRS_MAX, Membership, Message, Step, Want};
use crate::addr::{Addr, Peer};
use crate::io::{Effect, Refused};
use crate::links::{Link, LinkSet};
use crate::time::Time;
use rand::RngExt;

/// A doubtful contact that is tried again is forgotten once in so many times, unless it answers.
const TRIES: u32 = 8;

/// Answers to offers that are waited for at most; some never come.
const RETURNS_MAX: u8 = 8;

/// Contacts called together after many deaths.
const CALLED: u16 = 8;

/// Shuffles at the quick pace after a neighbour's death.
const HURRIED: u8 = 3;

/// Exchanges in a row that bring hardly anything new, after which there is no more to be had: the flock is smaller
/// than the address book.
const BARREN: u8 = 3;

/// When to exchange contacts, and with whom it is under way.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Shuffling {
    at: Time,
    mend_at: Time,
    /// How many more shuffles come at the quick pace, because of a neighbour's death.
    hurry: u8,
    /// Exchanges in a row that brought hardly anything new.
    barren: u8,
    /// A shuffle of ours is under way.
    open: bool,
    /// Answers due to us from those whose shuffles ended here.
    returns: u8,
    /// Contacts still to be called after many deaths.
    calls: u16,
    /// How often we shall still move, because nobody around us had found a place when we came.
    moves: u8,
}

impl Shuffling {
    pub(super) fn due(&self) -> Time {
        self.at.min(self.mend_at)
    }
}

impl Membership {
    pub(super) fn start_shuffling(&mut self, step: &mut Step<'_>) {
        let config = &self.config;
        self.shuffle.at = step.now + config.shuffle_young_wait.mul_f64(step.rng.random_range(0.5..1.5));
        self.shuffle.mend_at = step.now + config.mend_wait.mul_f64(step.rng.random_range(0.5..1.5));
    }

    /// What is known grows old quickly when peers die.
    pub(super) fn shuffle_sooner(&mut self, step: &mut Step<'_>) {
        let soon = self.config.shuffle_young_wait;
        self.shuffle.hurry = HURRIED;
        self.shuffle.at = self.shuffle.at.min(step.now + soon.mul_f64(step.rng.random_range(0.5..1.5)));
    }

    /// A newcomer became our neighbour, as its contact, while we were joining ourselves. Where that happens, everybody has
    /// only just come, and takes whoever is nearest: what grows is no random graph. So we move some times, once we have
    /// heard of peers farther away.
    pub(super) fn begin_to_move(&mut self) {
        self.shuffle.moves = self.config.moves;
    }

    pub(super) fn shuffle_if_due(&mut self, step: &mut Step<'_>) {
        if self.shuffle.at > step.now {
            return;
        }
        let young = self.book.len() < self.config.contacts && self.shuffle.barren < BARREN;
        let quick = young || self.shuffle.hurry > 0;
        self.shuffle.hurry = self.shuffle.hurry.saturating_sub(1);
        let wait = if quick { self.config.shuffle_young_wait } else { self.config.shuffle_wait };
        self.shuffle.at = step.now + wait.mul_f64(step.rng.random_range(0.75..1.25));
        self.shuffle.open = true;
        let count = if young { self.config.shuffle_young } else { self.config.shuffle_count };
        if let Some(next) = self.any_link(LinkSet::default(), step).and_then(|link| self.links.get(link)) {
            let (to, hops) = (next.peer.addr, self.config.shuffle_hops.saturating_sub(1));
            let count = count.min(ADDRS_MAX as u8);
            self.send(to, &Message::Shuffle { hops, count, origin: step.me.addr }, step);
        }
        if usize::from(self.news) * 4 >= self.config.contacts.min(self.book.len() * 4) {
            self.news = 0;
            step.out.effects.push(Effect::Remember);
        }
    }

    /// Somebody's shuffle, here for a hop or at its end.
    pub(super) fn handle_shuffle(
        &mut self,
        from: Peer,
        link: Option<Link>,
        hops: u8,
        count: u8,
        origin: Addr,
        step: &mut Step<'_>,
    ) -> Result<(), Refused> {
        let Some(link) = link else { return Err(self.disown(from, step)) };
        self.serve(step.now)?;
        if origin == step.me.addr {
            return Ok(());
        }
        // Everybody on the way learns of the origin. A random walk comes to all equally often, so that in the end all
        // are known to equally many, whoever joined when and through whom.
        self.hear_of(origin, step);
        let mut back = LinkSet::default();
        back.insert(link);
        self.links.find_addr(origin).into_iter().for_each(|link| back.insert(link));
        let next = self.any_link(back, step).and_then(|link| self.links.get(link)).map(|next| next.peer.addr);
        if let Some(to) = next.filter(|_| hops > 0) {
            self.send(to, &Message::Shuffle { hops: hops - 1, count, origin }, step);
            return Ok(());
        }
        let known = self.book.sample(usize::from(count), step.rng);
        self.shuffle.returns = self.shuffle.returns.saturating_add(1).min(RETURNS_MAX);
        self.send(origin, &Message::Offer { known }, step);
        Ok(())
    }

    /// Contacts from where our shuffle ended.
    pub(super) fn handle_offer(
        &mut self,
        from: Peer,
        known: &[Addr],
        step: &mut Step<'_>,
    ) -> Result<(), Refused> {
        if !std::mem::take(&mut self.shuffle.open) {
            return Err(Refused::Stale);
        }
        let mine = self.book.sample(known.len().max(usize::from(self.config.shuffle_count)), step.rng);
        self.send(from.addr, &Message::Return { known: mine }, step);
        self.learn(from, known, step);
        Ok(())
    }

    /// Contacts from somebody whose shuffle ended here.
    pub(super) fn handle_return(
        &mut self,
        from: Peer,
        link: Option<Link>,
        known: &[Addr],
        step: &mut Step<'_>,
    ) -> Result<(), Refused> {
        self.shuffle.returns = self.shuffle.returns.checked_sub(1).ok_or(Refused::Stale)?;
        self.learn(from, known, step);
        if link.is_none() {
            step.out.effects.push(Effect::Close { to: from.addr });
        }
        Ok(())
    }

    fn learn(&mut self, from: Peer, known: &[Addr], step: &mut Step<'_>) {
        let before = self.book.len();
        self.hear_of(from.addr, step);
        self.book.trust(from.addr);
        known.iter().for_each(|addr| self.hear_of(*addr, step));
        let fruitful = self.book.len().saturating_sub(before) * 4 > known.len();
        self.shuffle.barren = if fruitful { 0 } else { self.shuffle.barren.saturating_add(1) };
    }

    /// Several neighbours died at once, so most of all peers may have: once we have links ourselves, we shall call everybody
    /// we know, for some may know nobody who lives.
    pub(super) fn call_after_disaster(&mut self, step: &mut Step<'_>) {
        if self.shuffle.calls == 0 {
            self.shuffle.calls = self.book.trusted() as u16;
            let soon = self.config.dial_wait * 4;
            self.shuffle.mend_at = self.shuffle.mend_at.min(step.now + soon);
        }
    }

    /// Calls some: whoever lacks links takes a sign of life from a stranger for an offer of one, others decline.
    fn call_survivors(&mut self, step: &mut Step<'_>) {
        self.shuffle.mend_at = step.now + self.config.dial_wait.mul_f64(step.rng.random_range(0.75..1.25));
        if self.links.len() < self.config.active {
            return;
        }
        for _ in 0..CALLED.min(self.shuffle.calls) {
            self.shuffle.calls -= 1;
            let Some(addr) = self.book.draw(step.rng) else {
                self.shuffle.calls = 0;
                return;
            };
            if self.links.find_addr(addr).is_some() {
                self.book.trust(addr);
            } else {
                self.send(addr, &Message::Beat, step);
            }
        }
        self.expect(1, step.now);
    }

    /// Gives a doubtful contact another chance; if it lives, we move closer to it. Where many are doubtful, others
    /// are tried too: they may be on the far side of what happened. And moves to any contact while moves are left.
    pub(super) fn mend_if_due(&mut self, step: &mut Step<'_>) {
        if self.shuffle.mend_at > step.now {
            return;
        }
        if self.shuffle.calls > 0 {
            return self.call_survivors(step);
        }
        self.shuffle.mend_at = step.now + self.config.mend_wait.mul_f64(step.rng.random_range(0.75..1.25));
        // Where all fit into a passive view, any overlay is as good as another.
        let moves = self.shuffle.moves > 0 && self.book.len() > self.config.passive;
        let doubted = self.book.doubted();
        if doubted == 0 && !moves || self.links.len() < self.config.active {
            return;
        }
        self.shuffle.moves -= u8::from(moves);
        let addr = if moves || step.rng.random_range(0..self.book.len()) < doubted {
            self.book.draw(step.rng)
        } else {
            self.book.any_doubtful(step.rng)
        };
        let Some(addr) = addr else { return };
        if self.links.find_addr(addr).is_some() {
            return self.book.trust(addr);
        }
        if self.once_in(TRIES, step) {
            self.book.forget(addr);
        }
        self.expect(2, step.now);
        self.send(addr, &Message::Neighbour { want: Want::Two }, step);
    }
}
