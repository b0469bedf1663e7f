//! Peers, the connections between them and the messages on their way: a discrete-event simulation of any
//! [`Protocol`]. One seed gives one history, to the byte.
//!
//! What it takes of the world: messages between two peers arrive whole and in order while their connection
//! lasts. The first message to a peer without a connection dials: a round trip passes before the message itself
//! leaves. A dial to the dead is refused after that round trip or gives no answer at all, a kill chooses
//! ([`Death`]). A connection to the dead is reset at once, or silent until the transport gives up. Whether the
//! other end is dead is looked up when the dial begins, not when it arrives; the error is at most one way's time.

use crate::network::{Delays, Network, micros, mix};
use crate::wheel::Wheel;
use connections::{Connection, Connections, millis};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use skein_flock::{Time, Unreachable};
use std::time::Duration;

mod connections;
#[cfg(test)]
mod tests;

/// A peer's number in the simulation, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Node(pub u32);

impl Node {
    /// As an index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// What happens to a peer.
#[derive(Clone, Debug)]
pub enum Event<M> {
    /// It starts; once, and first.
    Start,
    /// A message arrived.
    Received {
        /// From whom.
        from: Node,
        /// The message.
        message: M,
    },
    /// A peer it sent to cannot be reached, or no longer.
    Unreachable {
        /// Who.
        node: Node,
        /// Why.
        why: Unreachable,
    },
    /// The moment that [`Protocol::next_deadline`] named has come.
    Deadline,
}

/// One peer's state machine.
pub trait Protocol: Sized {
    /// What peers send each other.
    type Message;
    /// What the simulation's owner wants to hear of, such as deliveries.
    type Report;
    /// What all peers of a simulation share: configuration, scratch space, counters.
    type Shared;

    /// Takes one event; sends and reports through `io`.
    fn handle(&mut self, event: Event<Self::Message>, io: &mut Io<'_, Self>);
    /// When to bring [`Event::Deadline`]; asked after every event, so it has to be cheap.
    fn next_deadline(&self) -> Option<Time>;
    /// Reads here and there in the state, so that it comes into the processor's caches before the event does; what it
    /// gives means nothing. With `behind`, what lies behind pointers.
    fn touch(&self, _message: Option<&Self::Message>, _behind: bool) -> u64 {
        0
    }
    /// Bytes of a message on the wire, the frame around it included.
    fn size(message: &Self::Message) -> usize;
    /// The kind of a message, for counting.
    fn kind(message: &Self::Message) -> u8;
    /// A hash of everything in the message, for [`Sim::trace`].
    fn digest(message: &Self::Message) -> u64;
}

/// What a peer is lent while it handles an event.
pub struct Io<'a, P: Protocol> {
    /// The time.
    pub now: Time,
    /// Who it is.
    pub me: Node,
    /// All its luck.
    pub rng: &'a mut Xoshiro256PlusPlus,
    /// What it shares with all others.
    pub shared: &'a mut P::Shared,
    actions: &'a mut Vec<Action<P::Message>>,
    reports: &'a mut Vec<(Time, Node, P::Report)>,
}

impl<P: Protocol> Io<'_, P> {
    /// Sends a message; dials if there is no connection.
    pub fn send(&mut self, to: Node, message: P::Message) {
        self.actions.push(Action::Send(to, message));
    }

    /// Closes the connection behind what was sent on it. The other end is told, this end is not.
    pub fn close(&mut self, to: Node) {
        self.actions.push(Action::Close(to));
    }

    /// Tells the owner of the simulation.
    pub fn report(&mut self, report: P::Report) {
        self.reports.push((self.now, self.me, report));
    }
}

#[derive(Debug)]
enum Action<M> {
    Send(Node, M),
    Close(Node),
}

/// How a peer dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// Its process ends and its host lives: connections are reset and dials refused, at once.
    Refusing,
    /// Its process ends and its connections are reset, and dials get no answer from then on.
    Reset,
    /// Its host is gone: connections stay silent and dials get no answer.
    Silent,
}

/// How many, and how many bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many messages.
    pub messages: u64,
    /// Bytes of them, frames included.
    pub bytes: u64,
}

/// What was counted since the simulation began.
#[derive(Clone, Debug)]
pub struct Counters {
    /// Events brought to peers: starts, messages, failures, deadlines.
    pub events: u64,
    /// Sent, by [`Protocol::kind`].
    pub sent: [Tally; 256],
    /// Dials begun.
    pub dials: u64,
    /// Dials that were refused or got no answer.
    pub failed_dials: u64,
    /// Messages that never arrived.
    pub lost: u64,
}

impl Counters {
    /// Everything sent of the kinds that `which` accepts.
    pub fn sum(&self, which: impl Fn(u8) -> bool) -> Tally {
        let mut sum = Tally::default();
        for (_, tally) in self.sent.iter().enumerate().filter(|(kind, _)| which(*kind as u8)) {
            sum.messages += tally.messages;
            sum.bytes += tally.bytes;
        }
        sum
    }

    /// What was counted since `earlier`.
    pub fn since(&self, earlier: &Counters) -> Counters {
        let mut diff = self.clone();
        diff.events -= earlier.events;
        diff.dials -= earlier.dials;
        diff.failed_dials -= earlier.failed_dials;
        diff.lost -= earlier.lost;
        for (tally, before) in diff.sent.iter_mut().zip(&earlier.sent) {
            tally.messages -= before.messages;
            tally.bytes -= before.bytes;
        }
        diff
    }
}

/// What a sender has to know of the other end; kept apart from the peers so that looking it up is cheap.
#[derive(Clone, Copy, Debug, Default)]
struct Condition {
    /// Added to every message from and to this peer, in microseconds.
    slow: u32,
    /// Peers of different groups do not hear each other.
    group: u8,
    death: Option<Death>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A message; the first on its connection says so.
    Opens,
    Follows,
    Closed,
    Lost,
    Refused,
    TimedOut,
    Wake,
}

#[derive(Debug)]
struct Pending<M> {
    to: Node,
    from: Node,
    connection: u32,
    kind: Kind,
    message: Option<M>,
}

/// What [`Sim::step`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stepped {
    /// Brought a message.
    Message {
        /// From whom.
        from: Node,
        /// To whom.
        to: Node,
        /// Its kind.
        kind: u8,
    },
    /// Told a peer that another cannot be reached.
    Unreachable {
        /// Who was told.
        node: Node,
        /// Of whom.
        of: Node,
    },
    /// Brought a deadline.
    Deadline {
        /// To whom.
        node: Node,
    },
    /// Something that no peer noticed, such as a message to the dead.
    Unseen,
}

/// A message on its way; see [`Sim::in_flight`].
#[derive(Clone, Copy, Debug)]
pub struct InFlight<'a, M> {
    /// From whom.
    pub from: Node,
    /// To whom.
    pub to: Node,
    /// When it arrives.
    pub at: Time,
    /// The message.
    pub message: &'a M,
}

/// A simulation of peers that run `P`.
pub struct Sim<P: Protocol> {
    /// By node, as are the three that follow: what the engine looks at with every event lies apart from the
    /// peers' own large states, as memory is what it waits for.
    peers: Vec<Option<P>>,
    conditions: Vec<Condition>,
    connections: Vec<Connections>,
    /// The time of each one's one waiting wake-up that counts.
    armed: Vec<u64>,
    wheel: Wheel<Pending<P::Message>>,
    network: Network,
    delays: Delays,
    now: Time,
    rng: Xoshiro256PlusPlus,
    /// The network's luck, apart from the peers' so that a lossy network does not change their choices.
    network_rng: Xoshiro256PlusPlus,
    shared: P::Shared,
    actions: Vec<Action<P::Message>>,
    reports: Vec<(Time, Node, P::Report)>,
    next_connection: u32,
    counters: Counters,
    trace: u64,
    seed: u64,
    /// How many of the next events have been looked at; see [`Sim::look_ahead`].
    looked: usize,
}

/// Events looked at together. As many states should fit into the processor's nearer caches.
const AHEAD: usize = 16;

impl<P: Protocol> Sim<P> {
    /// A simulation without peers at time 0.
    pub fn new(network: Network, shared: P::Shared, seed: u64) -> Self {
        Self {
            peers: Vec::new(),
            conditions: Vec::new(),
            connections: Vec::new(),
            armed: Vec::new(),
            wheel: Wheel::default(),
            delays: Delays::new(network.latency.clone(), seed),
            network,
            now: Time(0),
            rng: Xoshiro256PlusPlus::seed_from_u64(seed),
            network_rng: Xoshiro256PlusPlus::seed_from_u64(mix(seed ^ 0x6E65_7477_6F72_6B00)),
            shared,
            actions: Vec::new(),
            reports: Vec::new(),
            next_connection: 0,
            counters: Counters {
                events: 0,
                sent: [Tally::default(); 256],
                dials: 0,
                failed_dials: 0,
                lost: 0,
            },
            trace: seed,
            seed,
            looked: 0,
        }
    }

    /// Adds a peer and brings it [`Event::Start`].
    pub fn add(&mut self, protocol: P) -> Node {
        let node = Node(u32::try_from(self.peers.len()).unwrap_or(u32::MAX));
        self.peers.push(Some(protocol));
        self.conditions.push(Condition::default());
        self.connections.push(Connections::default());
        self.armed.push(u64::MAX);
        self.dispatch(node, Event::Start);
        node
    }

    /// Starts a dead peer anew with the state given. Does nothing to a live one.
    pub fn restart(&mut self, node: Node, protocol: P) {
        if self.peers[node.index()].is_none() {
            self.peers[node.index()] = Some(protocol);
            self.armed[node.index()] = u64::MAX;
            self.conditions[node.index()].death = None;
            self.dispatch(node, Event::Start);
        }
    }

    /// Ends a peer without a word; gives back its state. `None` when it is dead already.
    pub fn kill(&mut self, node: Node, death: Death) -> Option<P> {
        let protocol = self.peers[node.index()].take()?;
        self.conditions[node.index()].death = Some(death);
        let connections = std::mem::take(&mut self.connections[node.index()]);
        if death != Death::Silent {
            for (peer, connection) in connections.iter() {
                // Behind what it sent before it died.
                let at = (self.now.0 + self.delay(node, peer)).max(connection.free_at);
                self.push(at, peer, node, connection.id, Kind::Lost, None);
            }
        }
        Some(protocol)
    }

    /// Takes the peer's part and tells it something outside of its events: a command of its user.
    /// `None` when it is dead.
    pub fn act<R>(&mut self, node: Node, act: impl FnOnce(&mut P, &mut Io<'_, P>) -> R) -> Option<R> {
        let protocol = self.peers[node.index()].as_mut()?;
        let result = act(
            protocol,
            &mut Io {
                now: self.now,
                me: node,
                rng: &mut self.rng,
                shared: &mut self.shared,
                actions: &mut self.actions,
                reports: &mut self.reports,
            },
        );
        self.settle(node);
        Some(result)
    }

    /// Brings everything that happens up to and including `until`, which then is now.
    pub fn run_until(&mut self, until: Time) {
        while let Some((at, pending)) = self.wheel.pop(until.0) {
            self.now = Time(at);
            self.bring(pending);
            match self.looked.checked_sub(1) {
                Some(left) => self.looked = left,
                None => self.look_ahead(),
            }
        }
        self.now = self.now.max(until);
    }

    /// Runs for a while; see [`Sim::run_until`].
    pub fn run_for(&mut self, wait: Duration) {
        self.run_until(self.now + wait);
    }

    /// Brings the one next event that happens up to and including `until`; `None` when there is none, and then
    /// it is `until` now.
    pub fn step(&mut self, until: Time) -> Option<Stepped> {
        let Some((at, pending)) = self.wheel.pop(until.0) else {
            self.now = self.now.max(until);
            return None;
        };
        self.now = Time(at);
        Some(self.bring(pending))
    }

    /// The time.
    pub fn now(&self) -> Time {
        self.now
    }

    /// How many peers there are, dead or alive.
    pub fn len(&self) -> usize {
        self.peers.len()
    }

    /// Whether no peer was added yet.
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    /// A live peer's state.
    pub fn get(&self, node: Node) -> Option<&P> {
        self.peers.get(node.index())?.as_ref()
    }

    /// All live peers in rising order.
    pub fn live(&self) -> impl Iterator<Item = (Node, &P)> {
        let numbered = self.peers.iter().enumerate();
        numbered.filter_map(|(at, place)| place.as_ref().map(|live| (Node(at as u32), live)))
    }

    /// What peers share.
    pub fn shared(&self) -> &P::Shared {
        &self.shared
    }

    /// What peers share.
    pub fn shared_mut(&mut self) -> &mut P::Shared {
        &mut self.shared
    }

    /// What was counted so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// What peers reported since the last call.
    pub fn take_reports(&mut self) -> Vec<(Time, Node, P::Report)> {
        std::mem::take(&mut self.reports)
    }

    /// A hash of everything that has happened: times, ends, kinds, lengths and contents of messages.
    /// Two runs that agree in it are the same run.
    pub fn trace(&self) -> u64 {
        self.trace
    }

    /// The seed.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Luck for the owner's own choices, so that they replay too.
    pub fn rng(&mut self) -> &mut Xoshiro256PlusPlus {
        &mut self.rng
    }

    /// The network's settings.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Changes the network from now on. Messages on their way are not affected.
    pub fn set_network(&mut self, network: Network) {
        self.delays = Delays::new(network.latency.clone(), self.seed);
        self.network = network;
    }

    /// Slows a peer down: every message from or to it takes `extra` longer. Zero ends that.
    pub fn slow(&mut self, node: Node, extra: Duration) {
        self.conditions[node.index()].slow = u32::try_from(micros(extra)).unwrap_or(u32::MAX);
    }

    /// Puts a peer into a group; messages between groups vanish. All begin in group 0.
    pub fn isolate(&mut self, node: Node, group: u8) {
        self.conditions[node.index()].group = group;
    }

    /// Microseconds that a message sent now takes one way, without jitter, loss and waiting for others.
    pub fn delay(&self, from: Node, to: Node) -> u64 {
        let (from_slow, to_slow) = (self.conditions[from.index()].slow, self.conditions[to.index()].slow);
        self.delays.between(from, to) + u64::from(from_slow) + u64::from(to_slow)
    }

    /// Messages on their way, in no useful order.
    pub fn in_flight(&self) -> impl Iterator<Item = InFlight<'_, P::Message>> {
        self.wheel.iter().filter_map(|(at, pending)| {
            let (from, to) = (pending.from, pending.to);
            pending.message.as_ref().map(|message| InFlight { from, to, at: Time(at), message })
        })
    }

    /// Bytes the simulator itself holds, without the peers' states and the contents of messages.
    pub fn bytes(&self) -> usize {
        let each =
            size_of::<Option<P>>() + size_of::<Condition>() + size_of::<Connections>() + size_of::<u64>();
        let connections = self.connections.iter().map(Connections::heap_bytes).sum::<usize>();
        self.peers.capacity() * each + connections + self.wheel.bytes()
    }

    /// Reads what the next events will need of memory. Ten thousand states do not fit into the caches, and peers come one
    /// after the other in no order; each event would wait for its peer's memory, for one line after the other. Here
    /// the lines of all [`AHEAD`] are asked for at once, so that their waits overlap.
    fn look_ahead(&mut self) {
        let mut sum = 0;
        self.looked = 0;
        for next in self.wheel.upcoming().take(AHEAD) {
            let node = next.to.index();
            sum ^= self.connections[node].touch() ^ self.armed[node] ^ u64::from(self.conditions[node].slow);
            self.looked += 1;
        }
        for behind in [false, true] {
            for next in self.wheel.upcoming().take(AHEAD) {
                let peer = self.peers[next.to.index()].as_ref();
                sum ^= peer.map_or(0, |peer| peer.touch(next.message.as_ref(), behind));
            }
        }
        std::hint::black_box(sum);
    }

    fn bring(&mut self, pending: Pending<P::Message>) -> Stepped {
        let Pending { to, from, connection, kind, message } = pending;
        match kind {
            Kind::Opens | Kind::Follows => {
                let Some(message) = message else { return Stepped::Unseen };
                self.arrive(from, to, connection, kind == Kind::Opens, message)
            }
            Kind::Closed | Kind::Lost => self.fail(to, from, connection, Unreachable::Lost),
            Kind::Refused => self.fail(to, from, connection, Unreachable::Refused),
            Kind::TimedOut => self.fail(to, from, connection, Unreachable::TimedOut),
            Kind::Wake => self.wake(to),
        }
    }

    fn arrive(&mut self, from: Node, to: Node, connection: u32, opens: bool, message: P::Message) -> Stepped {
        if let Some(death) = self.conditions[to.index()].death {
            self.counters.lost += 1;
            let wait = match death {
                Death::Silent => micros(self.network.silence_timeout),
                Death::Reset | Death::Refusing => self.delay(to, from),
            };
            self.doom(from, to, connection, wait);
            return Stepped::Unseen;
        }
        if !self.heard(from, to) {
            self.counters.lost += 1;
            self.doom(from, to, connection, micros(self.network.silence_timeout));
            return Stepped::Unseen;
        }
        let used = millis(self.now.0);
        let connections = &mut self.connections[to.index()];
        match connections.find(from) {
            Some(mine) => {
                if opens && mine.doomed {
                    // A new connection takes the place of one that would have turned out broken.
                    *mine = Connection { id: connection, free_at: 0, used, doomed: false };
                } else if opens {
                    // Both dialled at once: one connection is kept, and both agree which.
                    mine.id = mine.id.max(connection);
                }
                mine.used = used;
            }
            None if opens => {
                connections.add(from, Connection { id: connection, free_at: 0, used, doomed: false });
            }
            None => {
                self.counters.lost += 1;
                self.doom(from, to, connection, self.delay(to, from));
                return Stepped::Unseen;
            }
        }
        let kind = P::kind(&message);
        self.note(u64::from(from.0) << 32 | u64::from(to.0), P::digest(&message));
        self.dispatch(to, Event::Received { from, message });
        Stepped::Message { from, to, kind }
    }

    /// The sender's side of a connection will turn out lost after `wait`.
    fn doom(&mut self, from: Node, to: Node, connection: u32, wait: u64) {
        if let Some(mine) = self.connections[from.index()].find(to)
            && mine.id == connection
            && !mine.doomed
        {
            mine.doomed = true;
            self.push(self.now.0 + wait, from, to, connection, Kind::Lost, None);
        }
    }

    fn fail(&mut self, node: Node, of: Node, connection: u32, why: Unreachable) -> Stepped {
        // A newer connection to the same peer is none of this failure's business.
        if self.peers[node.index()].is_none() || !self.connections[node.index()].remove(of, connection) {
            return Stepped::Unseen;
        }
        if why != Unreachable::Lost {
            self.counters.failed_dials += 1;
        }
        self.note(u64::from(of.0) << 32 | u64::from(node.0), why as u64);
        self.dispatch(node, Event::Unreachable { node: of, why });
        Stepped::Unreachable { node, of }
    }

    fn wake(&mut self, node: Node) -> Stepped {
        if self.armed[node.index()] != self.now.0 {
            return Stepped::Unseen;
        }
        self.armed[node.index()] = u64::MAX;
        let Some(protocol) = &self.peers[node.index()] else { return Stepped::Unseen };
        // It was put off since; most deadlines are.
        if protocol.next_deadline().is_none_or(|at| at > self.now) {
            self.arm(node);
            return Stepped::Unseen;
        }
        self.note(u64::from(node.0), 0);
        self.dispatch(node, Event::Deadline);
        Stepped::Deadline { node }
    }

    fn dispatch(&mut self, node: Node, event: Event<P::Message>) {
        self.counters.events += 1;
        if self.act(node, |protocol, io| protocol.handle(event, io)).is_none() {
            self.settle(node);
        }
    }

    fn settle(&mut self, node: Node) {
        let mut actions = std::mem::take(&mut self.actions);
        for action in actions.drain(..) {
            match action {
                Action::Send(to, message) => self.send(node, to, message),
                Action::Close(to) => self.close(node, to),
            }
        }
        self.actions = actions;
        self.arm(node);
    }

    fn arm(&mut self, node: Node) {
        let Some(at) = self.peers[node.index()].as_ref().and_then(P::next_deadline) else { return };
        // A deadline in the past comes next, but not in this same microsecond for ever.
        let at = at.0.max(self.now.0 + 1);
        if at < self.armed[node.index()] {
            self.armed[node.index()] = at;
            self.push(at, node, node, 0, Kind::Wake, None);
        }
    }

    fn send(&mut self, from: Node, to: Node, message: P::Message) {
        let tally = &mut self.counters.sent[P::kind(&message) as usize];
        tally.messages += 1;
        tally.bytes += P::size(&message) as u64;
        if to.index() >= self.peers.len() || to == from {
            self.counters.lost += 1;
            return;
        }
        let now = self.now.0;
        let mut delay = self.delay(from, to);
        if self.network.jitter > 0.0 {
            let most = (delay as f64 * self.network.jitter) as u64;
            delay += self.network_rng.random_range(0..=most);
        }
        if self.network.loss > 0.0 {
            let mut wait = micros(self.network.resend_after);
            while self.network_rng.random_bool(self.network.loss.min(0.5)) {
                delay += wait;
                wait *= 2;
            }
        }
        let (id, at, kind) = match self.connections[from.index()].find(to) {
            Some(connection) if connection.doomed => {
                self.counters.lost += 1;
                return;
            }
            Some(connection) => {
                let at = (now + delay).max(connection.free_at);
                connection.free_at = at;
                connection.used = millis(now);
                (connection.id, at, Kind::Follows)
            }
            None => match self.dial(from, to) {
                Some(id) => (id, now + 2 * self.delay(from, to) + delay, Kind::Opens),
                None => {
                    self.counters.lost += 1;
                    return;
                }
            },
        };
        if kind == Kind::Opens
            && let Some(connection) = self.connections[from.index()].find(to)
        {
            connection.free_at = at;
        }
        if self.network.breaks > 0.0 && self.network_rng.random_bool(self.network.breaks.min(0.1)) {
            self.counters.lost += 1;
            self.doom(from, to, id, delay);
            self.push(at, to, from, id, Kind::Lost, None);
            return;
        }
        self.push(at, to, from, id, kind, Some(message));
    }

    /// Begins a connection; `None` when it will fail, which the dialler is told in time.
    fn dial(&mut self, from: Node, to: Node) -> Option<u32> {
        self.counters.dials += 1;
        self.next_connection = self.next_connection.wrapping_add(1);
        let (id, now) = (self.next_connection, self.now.0);
        let fails = match self.conditions[to.index()].death {
            Some(Death::Refusing) if self.heard(from, to) => Some((Kind::Refused, 2 * self.delay(from, to))),
            None if self.heard(from, to) => None,
            _ => Some((Kind::TimedOut, micros(self.network.dial_timeout))),
        };
        self.close_idle(from);
        let doomed = fails.is_some();
        let connection = Connection { id, free_at: 0, used: millis(now), doomed };
        self.connections[from.index()].add(to, connection);
        if let Some((kind, wait)) = fails {
            self.push(now + wait, from, to, id, kind, None);
            return None;
        }
        Some(id)
    }

    fn close(&mut self, from: Node, to: Node) {
        let connections = &mut self.connections[from.index()];
        let Some(connection) = connections.find(to).copied() else { return };
        connections.remove(to, connection.id);
        if !connection.doomed {
            let at = (self.now.0 + self.delay(from, to)).max(connection.free_at);
            self.push(at, to, from, connection.id, Kind::Closed, None);
        }
    }

    /// Both ends of a connection that nobody uses forget it, as a transport's idle timeout does.
    fn close_idle(&mut self, node: Node) {
        let Some(before) = self.now.0.checked_sub(micros(self.network.idle_close)) else { return };
        while let Some((peer, id)) = self.connections[node.index()].idle(before) {
            self.connections[node.index()].remove(peer, id);
            let theirs = &mut self.connections[peer.index()];
            if theirs.find(node).is_some_and(|theirs| theirs.id == id && !theirs.doomed) {
                theirs.remove(node, id);
            }
        }
    }

    fn heard(&self, from: Node, to: Node) -> bool {
        self.conditions[from.index()].group == self.conditions[to.index()].group
    }

    fn push(
        &mut self,
        at: u64,
        to: Node,
        from: Node,
        connection: u32,
        kind: Kind,
        message: Option<P::Message>,
    ) {
        self.wheel.push(at, Pending { to, from, connection, kind, message });
    }

    fn note(&mut self, who: u64, what: u64) {
        let turned = (self.trace ^ self.now.0).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(23);
        self.trace = (turned ^ who).wrapping_mul(0xD6E8_FEB8_6659_FD93).rotate_left(29) ^ what;
    }
}
