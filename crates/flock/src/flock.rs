//! The parts put together.

use crate::addr::{Addr, Peer};
use crate::io::{Input, Outbox, Refused};
use crate::links::Links;
use crate::time::Time;
use rand::Rng;
use std::sync::Arc;

/// Every knob of the flock; each part documents its own.
#[derive(Clone, Debug, Default)]
pub struct Config {}

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
    _config: Arc<Config>,
    _me: Peer,
    links: Links,
}

impl Flock {
    /// A peer that has not started; bring [`Input::Start`] first.
    pub fn new(config: Arc<Config>, me: Peer, _remembered: Remembered) -> Self {
        Self { _config: config, _me: me, links: Links::default() }
    }

    /// Takes one input and appends what follows to `out`, to be done in order.
    /// * `now`: never before that of an earlier call.
    /// * Errors: [`Refused`] says why the input was dropped; the state is then as it was.
    pub fn handle(
        &mut self,
        input: Input,
        now: Time,
        rng: &mut dyn Rng,
        out: &mut Outbox,
    ) -> Result<(), Refused> {
        let _ = (input, now, rng, out);
        Ok(())
    }

    /// When to bring [`Input::Deadline`]; ask again after each [`Flock::handle`].
    pub fn next_deadline(&self) -> Option<Time> {
        None
    }

    /// The active view.
    pub fn links(&self) -> &Links {
        &self.links
    }
}
