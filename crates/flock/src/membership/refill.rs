//! Getting links when there are too few: walks while all is well, dials in growing numbers when it is not.
//!
//! A round of dials is not an exchange with certain peers but a number of them under way. One that is refused is
//! made up for at once; those that stay silent are given up with the round, and the next round has twice as many.
//! When every contact has been tried, all get another chance after a wait that grows.

use super::{Membership, Message, Phase, Step, Want};
use crate::addr::Addr;
use crate::io::Unreachable;
use crate::time::Time;
use rand::RngExt;
use std::time::Duration;

/// Refused dials that are made up for in one round.
const MADE_UP_MAX: u16 = 64;

/// Most contacts asked to let us in at the same time.
const JOINS_MAX: usize = 4;

/// Deaths within this time of each other are one disaster.
const DISASTER: Duration = Duration::from_secs(2);

/// Deaths that make a disaster.
const DISASTER_DEATHS: u8 = 3;

/// The state of the search for links.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Refill {
    at: Option<Time>,
    died_at: Time,
    /// Dials under way in this round.
    under_way: u16,
    /// Refused dials of this round that were made up for.
    made_up: u16,
    round: u8,
    /// How often every contact was tried in vain.
    sweeps: u8,
    /// Neighbours that died shortly after each other.
    deaths: u8,
    /// Every contact was tried; the next round begins anew.
    exhausted: bool,
    by: By,
    /// Whether that has just happened, and anybody who knows more addresses should say so.
    at_a_loss: bool,
}

/// How a round looks for links.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum By {
    #[default]
    Walking,
    Joining,
    Dialling,
}

impl Refill {
    pub(super) fn due(&self) -> Option<Time> {
        self.at
    }

    /// Whether so many neighbours died together that it cannot be chance.
    pub(super) fn disaster(&self) -> bool {
        self.deaths >= DISASTER_DEATHS
    }

    /// Whether somebody was asked to let us in, and its walks may still be under way.
    pub(super) fn joins(&self) -> bool {
        self.by == By::Joining && self.under_way > 0
    }

    /// Forgets about waiting.
    pub(super) fn hurry(&mut self) {
        *self = Self { died_at: self.died_at, ..Self::default() };
    }

    /// A neighbour died.
    pub(super) fn died(&mut self, now: Time) {
        if now.since(self.died_at) > DISASTER {
            self.deaths = 0;
        }
        self.died_at = now;
        self.deaths = self.deaths.saturating_add(1);
    }
}

impl Membership {
    /// Looks after the number of links; called after everything that may have changed it.
    pub(super) fn tend(&mut self, step: &mut Step<'_>) {
        if matches!(self.phase, Phase::New | Phase::Left) {
            return;
        }
        let (links, active) = (self.links.len(), self.config.active);
        if links >= active {
            let Refill { died_at, deaths, .. } = self.refill;
            self.refill = Refill { died_at, deaths, ..Refill::default() };
            return;
        }
        if self.refill.deaths > 0 && step.now.since(self.refill.died_at) > DISASTER {
            self.refill.deaths = 0;
        }
        // A link lost one at a time is often about to be made up for by others.
        let urgent = links * 2 <= active || self.refill.deaths > 1;
        let wait = if urgent { Duration::ZERO } else { self.config.dial_wait };
        let at = self.refill.at.unwrap_or(step.now + wait);
        let at = if urgent && self.refill.round == 0 && !self.refill.exhausted { step.now } else { at };
        // After a death, a walk is given its time only while one link is all that is missing. Where nobody died, peers
        // are still finding their places, and dials in between would only unsettle them.
        let walking = self.refill.round > 0 && self.refill.by == By::Walking;
        let overtaken = walking && self.refill.deaths > 0 && links + 1 < active;
        let at = if overtaken && !self.refill.exhausted { step.now } else { at };
        self.refill.at = Some(at);
        if at <= step.now {
            self.begin_round(step);
        } else if self.refill.round > 0 {
            self.dial_more(step);
        }
    }

    /// A dial failed, which makes room for another one.
    pub(super) fn dial_failed(&mut self, addr: Addr, why: Unreachable) {
        self.book.doubt(addr);
        let refill = &mut self.refill;
        if why == Unreachable::Refused && refill.made_up < MADE_UP_MAX && refill.under_way > 0 {
            refill.under_way -= 1;
            refill.made_up += 1;
        }
    }

    /// Enough peers say that nobody listens there: as if we had dialled in vain.
    pub(crate) fn avoid(&mut self, addr: Addr) {
        if self.links.find_addr(addr).is_none() {
            self.book.doubt(addr);
        }
    }

    /// Whether every contact was just tried in vain; asking ends it.
    pub(crate) fn is_at_a_loss(&mut self) -> bool {
        std::mem::take(&mut self.refill.at_a_loss)
    }

    /// Takes in more addresses in answer; if any are new, they are tried at once.
    pub(crate) fn take_help(&mut self, addrs: &[Addr], step: &mut Step<'_>) {
        let trusted = self.book.trusted();
        addrs.iter().for_each(|addr| self.hear_of(*addr, step));
        if trusted < self.book.trusted() && self.refill.exhausted {
            self.refill.exhausted = false;
            self.refill.at = Some(step.now + self.config.dial_wait);
        }
    }

    fn begin_round(&mut self, step: &mut Step<'_>) {
        if self.refill.exhausted {
            self.book.trust_all();
            self.refill.exhausted = false;
            self.refill.round = 0;
        }
        let refill = &mut self.refill;
        refill.round = refill.round.saturating_add(1);
        (refill.under_way, refill.made_up) = (0, 0);
        refill.by = match () {
            () if self.phase == Phase::Outside => By::Joining,
            () if self.links.len() + 1 == self.config.active && refill.round <= 2 => By::Walking,
            () => By::Dialling,
        };
        let by = refill.by;
        let wait = if by == By::Dialling { self.config.dial_wait } else { self.config.walk_wait };
        // Peers that lost each other at the same moment need not go on in step.
        let jitter = wait.mul_f64(step.rng.random_range(0.0..0.2));
        self.refill.at = Some(step.now + wait + jitter);
        if by == By::Walking {
            self.walk(Want::One, step);
        } else {
            self.dial_more(step);
        }
    }

    /// As many dials as this round wants and are not under way.
    fn dial_more(&mut self, step: &mut Step<'_>) {
        let short = self.config.active.saturating_sub(self.links.len());
        let (wanted, most) = match self.refill.by {
            _ if self.refill.exhausted => return,
            By::Walking => return,
            // Let in: the walks are under way.
            By::Joining if self.phase != Phase::Outside => return,
            By::Joining => (1, JOINS_MAX),
            By::Dialling => (short.div_ceil(2), self.config.dials),
        };
        let doublings = u32::from(self.refill.round.max(1) - 1) + u32::from(self.refill.deaths.max(1) - 1);
        let wanted = (wanted << doublings.min(6)).min(most);
        while usize::from(self.refill.under_way) < wanted {
            let Some(addr) = self.book.draw(step.rng) else { return self.exhausted(step) };
            if self.links.find_addr(addr).is_some() {
                // Doubted in vain; but drawn, so that this loop ends.
                continue;
            }
            self.refill.under_way += 1;
            self.counters.dials += 1;
            if self.refill.by == By::Joining {
                self.expect(self.config.active as u8, step.now);
                self.send(addr, &Message::Join, step);
            } else {
                let (want, links) = if short > 1 { (Want::Two, 2) } else { (Want::One, 1) };
                self.expect(links, step.now);
                self.send(addr, &Message::Neighbour { want }, step);
            }
        }
    }

    /// Every contact was tried. Neighbours may still know a way; then all are tried again, after a while.
    fn exhausted(&mut self, step: &mut Step<'_>) {
        let neighbours: Vec<Addr> = self.links.iter().map(|(_, it)| it.peer.addr).collect();
        neighbours.into_iter().for_each(|addr| self.book.trust(addr));
        if !self.links.is_empty() {
            let two = self.links.len() + 1 < self.config.active;
            self.walk(if two { Want::Two } else { Want::One }, step);
        }
        let wait = (self.config.retry_wait / 64) * (1 << self.refill.sweeps.min(6));
        let wait = wait.mul_f64(step.rng.random_range(0.75..1.25));
        self.refill.sweeps = self.refill.sweeps.saturating_add(1);
        self.refill.exhausted = true;
        self.refill.at_a_loss = true;
        self.refill.at = Some(step.now + wait);
    }
}
