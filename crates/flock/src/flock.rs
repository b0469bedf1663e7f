//! The parts put together.

use crate::addr::{Addr, Peer};
use crate::io::{Effect, Input, Outbox, Refused};
use crate::links::Links;
use crate::membership::{self, Change, Membership, Step};
use crate::time::Time;
use crate::wire::Reader;
use rand::Rng;
use std::sync::Arc;

/// Every knob of the flock; each part documents its own.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Views, heartbeats, the address book.
    pub membership: Arc<membership::Config>,
}

/// What a peer is given when it starts.
#[derive(Clone, Debug, Default)]
pub struct Remembered {
    /// Addresses to try: from configuration, and what the last run remembered.
    pub addrs: Vec<Addr>,
    /// Greater than in every earlier run of this peer; orders its facts and broadcasts across restarts.
    pub incarnation: u64,
}

/// One peer's end of the gossip.
#[derive(Debug)]
pub struct Flock {
    me: Peer,
    incarnation: u64,
    membership: Membership,
}

impl Flock {
    /// A peer that has not started; bring [`Input::Start`] first.
    pub fn new(config: Arc<Config>, me: Peer, remembered: Remembered) -> Self {
        Self {
            me,
            incarnation: remembered.incarnation,
            membership: Membership::new(config.membership.clone(), me, &remembered.addrs),
        }
    }

    /// Takes one input and appends what follows to `out`, to be done in order.
    /// * `now`: never before that of an earlier call.
    /// * Errors: [`Refused`] says why the input was dropped; the state is then as it was, but that the sender
    ///   counts as alive if it is a neighbour.
    pub fn handle(
        &mut self,
        input: Input,
        now: Time,
        rng: &mut dyn Rng,
        out: &mut Outbox,
    ) -> Result<(), Refused> {
        if self.membership.has_left() {
            return Ok(());
        }
        let before = out.effects.len();
        let mut step = Step { now, rng, me: self.me, out };
        let result = match input {
            Input::Received { from, bytes } => self.receive(from, &bytes, &mut step),
            Input::Unreachable { addr, why } => {
                self.membership.unreachable(addr, why, &mut step);
                Ok(())
            }
            Input::Deadline => {
                self.membership.deadline(&mut step);
                Ok(())
            }
            Input::Start => {
                self.membership.start(&mut step);
                Ok(())
            }
            Input::Hail { addrs } => {
                self.membership.hail(&addrs, &mut step);
                Ok(())
            }
            Input::Leave => {
                self.membership.leave(&mut step);
                Ok(())
            }
            // (The broadcast takes it from here.)
            Input::Broadcast { .. } => Ok(()),
        };
        self.tell_changes(&mut step);
        if let Err(refused) = &result {
            self.membership.note(refused);
        }
        for effect in &out.effects[before..] {
            if let Effect::Send { to, .. } = effect {
                self.membership.sent(*to, now);
            }
        }
        result
    }

    /// When to bring [`Input::Deadline`]; ask again after each [`Flock::handle`].
    pub fn next_deadline(&self) -> Option<Time> {
        self.membership.next_deadline()
    }

    /// The active view.
    pub fn links(&self) -> &Links {
        self.membership.links()
    }

    /// The views, and what happened to them.
    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    /// Who this is.
    pub fn me(&self) -> Peer {
        self.me
    }

    /// What to start the next run with: neighbours first, then the address book. Its incarnation is one more than
    /// that of this run.
    pub fn remember(&self) -> Remembered {
        Remembered { addrs: self.membership.remember(), incarnation: self.incarnation + 1 }
    }

    /// Bytes held, inline and on the heap, without what all peers of a process share.
    pub fn state_bytes(&self) -> usize {
        size_of::<Self>() - size_of::<Membership>() + self.membership.state_bytes()
    }

    fn receive(&mut self, from: Peer, bytes: &bytes::Bytes, step: &mut Step<'_>) -> Result<(), Refused> {
        if from.id == self.me.id || from.addr == self.me.addr {
            return Err(Refused::Implausible("it comes from this peer itself"));
        }
        let (tag, reader) = Reader::new(bytes)?;
        let link = self.membership.heard(from, step.now);
        if tag < 0x20 {
            return self.membership.handle(from, tag, reader, step);
        }
        // Everything else is between neighbours.
        let Some(_link) = link else { return Err(self.membership.disown(from, step)) };
        Err(crate::wire::DecodeError::Tag(tag).into())
    }

    /// Tells the other parts which links came up and went down.
    fn tell_changes(&mut self, _step: &mut Step<'_>) {
        for change in self.membership.take_changes() {
            match change {
                Change::Up(_link) => {}
                Change::Down(_link, _neighbour) => {}
            }
        }
    }
}
