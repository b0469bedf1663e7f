//! The peers of a session, and what a person can do to them.

use super::actions::{Action, PEERS_MAX, PeerNo};
use super::ledger::{Kind, Ledger};
use super::resident::{Resident, Shared, kind_of_tag};
use super::view::Sent;
use crate::engine::{Death, Stepped};
use crate::flock_peer::addr_of;
use crate::network::mix;
use crate::{Latency, Network, Node, Sim};
use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use skein_flock::flock::Config;
use skein_flock::{Addr, Input, Time};
use std::sync::Arc;
use std::time::Duration;

/// Most events that a session may take altogether: some seconds of this machine's time.
pub const EVENTS_MAX: u64 = 30_000_000;
/// Longest that a session may run in simulated time.
const TIME_MAX: Duration = Duration::from_secs(3600);
/// How long [`Action::Messages`] waits for one message in a flock that has nothing to say.
const QUIET_MAX: Duration = Duration::from_secs(10);
/// Simulated time between two looks at the number of events.
const LOOK: Duration = Duration::from_millis(100);
/// Half of the pairs of peers are so far apart.
const LATENCY_MEDIAN: Duration = Duration::from_millis(40);
/// How different the pairs are; one in twenty takes 1.6 times as long as the median.
const LATENCY_SIGMA: f64 = 0.3;

/// Why an action cannot be done where it stands in the list. The world is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Impossible {
    /// No such peer was added.
    #[error("there is no peer {0} yet")]
    Nobody(PeerNo),
    /// It is down already, and this is for peers that are up.
    #[error("{0} is down")]
    Down(PeerNo),
    /// It is up already.
    #[error("{0} is up")]
    Up(PeerNo),
    /// More than [`PEERS_MAX`] peers.
    #[error("a session has at most {PEERS_MAX} peers, and has {0}")]
    Full(usize),
    /// The session would run for more than an hour of simulated time.
    #[error("a session runs for at most an hour of its own time")]
    TooLate,
    /// The session has cost as much as it may; see [`EVENTS_MAX`].
    #[error("the session has taken {EVENTS_MAX} events, which is all that it may")]
    TooMuch,
}

/// One peer from outside.
pub(super) struct PeerRef<'a> {
    /// Its state, while it is up.
    pub resident: Option<&'a Resident>,
    /// How often it was started.
    pub runs: u32,
    /// Milliseconds by which it is slowed down.
    pub slow_millis: u32,
}

#[derive(Debug, Default)]
struct Register {
    runs: u32,
    slow_millis: u32,
    /// What it wrote down when it was last up.
    written: Vec<Addr>,
}

/// A flock, its network, and its history so far.
pub struct World {
    sim: Sim<Resident>,
    config: Arc<Config>,
    registers: Vec<Register>,
    /// For what the actions leave to chance, apart from the peers' luck: who dies does not change with the protocol.
    luck: Xoshiro256PlusPlus,
}

impl World {
    /// Nobody yet, at time 0.
    pub fn new(seed: u64) -> Self {
        let latency = Latency::Lognormal { median: LATENCY_MEDIAN, sigma: LATENCY_SIGMA };
        let network = Network { latency, ..Network::default() };
        Self {
            sim: Sim::new(network, Shared::default(), seed),
            config: Arc::new(Config::default()),
            registers: Vec::new(),
            luck: Xoshiro256PlusPlus::seed_from_u64(mix(seed ^ 0x6C75_636B)),
        }
    }

    /// Does one thing. On an error that names a peer or the room, nothing has changed; when the session's time or
    /// events are used up, a part of it may have been done, and the world is of no use any more.
    pub fn act(&mut self, action: Action) -> Result<(), Impossible> {
        match action {
            Action::Add(count) => self.add(count as usize),
            Action::Kill(who) => {
                let node = self.up(who)?;
                self.end(node, Death::Silent);
                Ok(())
            }
            Action::KillShare(percent) => {
                self.kill_share(percent);
                Ok(())
            }
            Action::Restart(who) => self.restart(who),
            Action::Leave(who) => {
                let node = self.up(who)?;
                self.sim.act(node, |resident, io| resident.bring(Input::Leave, io));
                // Its process ends once it has said so: what it sent arrives, then its connections close.
                self.end(node, Death::Refusing);
                Ok(())
            }
            Action::Slow(who, millis) => {
                let node = self.known(who)?;
                self.registers[node.index()].slow_millis = millis;
                self.sim.slow(node, Duration::from_millis(u64::from(millis)));
                Ok(())
            }
            Action::Broadcast(who) => {
                let node = self.up(who)?;
                let (now, others) = (self.sim.now(), self.sim.live().count() - 1);
                let runs = u64::from(self.registers[node.index()].runs);
                let payload = self.sim.shared_mut().ledger.begin(node, runs, now, others as u32);
                let payload = payload.to_vec().into();
                self.sim.act(node, |resident, io| resident.bring(Input::Broadcast { payload }, io));
                Ok(())
            }
            Action::Messages(count) => (0..count).try_for_each(|_| self.next_message()),
            Action::Heartbeats(count) => {
                let beat = self.config.membership.beat;
                self.run_until(self.sim.now() + beat * count)
            }
            Action::Wait(millis) => self.run_until(self.sim.now() + Duration::from_millis(u64::from(millis))),
        }
    }

    fn add(&mut self, count: usize) -> Result<(), Impossible> {
        if self.registers.len() + count > PEERS_MAX {
            return Err(Impossible::Full(self.registers.len()));
        }
        for _ in 0..count {
            let contact = self.contact();
            let me = Node(self.registers.len() as u32);
            self.registers.push(Register { runs: 1, ..Register::default() });
            self.sim.add(Resident::new(&self.config, me, contact, 1));
        }
        Ok(())
    }

    /// One of those that are up, at random, for a newcomer to join through.
    fn contact(&mut self) -> Vec<Addr> {
        let live: Vec<Node> = self.sim.live().map(|(node, _)| node).collect();
        if live.is_empty() {
            return Vec::new();
        }
        let drawn = live[self.luck.random_range(0..live.len())];
        vec![addr_of(drawn)]
    }

    fn restart(&mut self, who: PeerNo) -> Result<(), Impossible> {
        let node = self.known(who)?;
        if self.sim.get(node).is_some() {
            return Err(Impossible::Up(who));
        }
        let register = &mut self.registers[node.index()];
        register.runs += 1;
        let (written, runs) = (std::mem::take(&mut register.written), register.runs);
        self.sim.restart(node, Resident::new(&self.config, node, written, u64::from(runs)));
        Ok(())
    }

    fn end(&mut self, node: Node, death: Death) {
        if let Some(resident) = self.sim.kill(node, death) {
            self.registers[node.index()].written = resident.written;
        }
    }

    fn kill_share(&mut self, percent: u32) {
        let mut live: Vec<Node> = self.sim.live().map(|(node, _)| node).collect();
        let count = (live.len() * percent as usize).div_ceil(100);
        let (chosen, _) = live.partial_shuffle(&mut self.luck, count);
        let mut chosen = chosen.to_vec();
        chosen.sort_unstable();
        chosen.into_iter().for_each(|node| self.end(node, Death::Silent));
    }

    /// Goes on until a message has arrived that is not a heartbeat.
    fn next_message(&mut self) -> Result<(), Impossible> {
        self.check(self.sim.now() + QUIET_MAX)?;
        let until = self.sim.now() + QUIET_MAX;
        while let Some(stepped) = self.sim.step(until) {
            if let Stepped::Message { kind, .. } = stepped
                && !is_heartbeat(kind)
            {
                return Ok(());
            }
        }
        self.sim.run_until(until);
        Ok(())
    }

    fn run_until(&mut self, until: Time) -> Result<(), Impossible> {
        while self.sim.now() < until {
            self.check(until)?;
            self.sim.run_until(until.min(self.sim.now() + LOOK));
        }
        Ok(())
    }

    fn check(&self, until: Time) -> Result<(), Impossible> {
        if until > Time(0) + TIME_MAX {
            return Err(Impossible::TooLate);
        }
        if self.sim.counters().events > EVENTS_MAX {
            return Err(Impossible::TooMuch);
        }
        Ok(())
    }

    fn known(&self, who: PeerNo) -> Result<Node, Impossible> {
        if who.index() < self.registers.len() {
            Ok(Node(u32::from(who.0)))
        } else {
            Err(Impossible::Nobody(who))
        }
    }

    fn up(&self, who: PeerNo) -> Result<Node, Impossible> {
        let node = self.known(who)?;
        if self.sim.get(node).is_some() { Ok(node) } else { Err(Impossible::Down(who)) }
    }

    /// The seed.
    pub fn seed(&self) -> u64 {
        self.sim.seed()
    }

    /// The time.
    pub fn now(&self) -> Time {
        self.sim.now()
    }

    /// How many peers were ever added.
    pub fn len(&self) -> usize {
        self.registers.len()
    }

    /// Whether no peer was ever added.
    pub fn is_empty(&self) -> bool {
        self.registers.is_empty()
    }

    /// A hash of everything that has happened: two worlds that agree in it have the same history.
    pub fn trace(&self) -> u64 {
        self.sim.trace()
    }

    /// All peers in the order of their addition.
    pub(super) fn peers(&self) -> impl Iterator<Item = PeerRef<'_>> {
        self.registers.iter().enumerate().map(|(at, register)| PeerRef {
            resident: self.sim.get(Node(at as u32)),
            runs: register.runs,
            slow_millis: register.slow_millis,
        })
    }

    pub(super) fn ledger(&self) -> &Ledger {
        &self.sim.shared().ledger
    }

    /// Messages on their way: from, to, kind, when sent, when they arrive.
    pub(super) fn in_flight(&self) -> impl Iterator<Item = (Node, Node, Kind, Time, Time)> {
        self.sim.in_flight().map(|one| (one.from, one.to, one.message.kind(), one.message.sent, one.at))
    }

    /// The numbers of the broadcasts whose payloads are on their way, once for each copy.
    pub(super) fn payloads_in_flight(&self) -> impl Iterator<Item = u64> {
        self.sim.in_flight().filter_map(|one| one.message.broadcast())
    }

    pub(super) fn sent(&self) -> Vec<Sent> {
        let all = Kind::ALL.into_iter().map(|kind| {
            let tally = self.sim.counters().sum(|tag| kind_of_tag(tag) == kind);
            Sent { kind, messages: tally.messages, bytes: tally.bytes }
        });
        all.filter(|sent| sent.messages > 0).collect()
    }
}

fn is_heartbeat(tag: u8) -> bool {
    kind_of_tag(tag) == Kind::Liveness
}
