//! iroh-gossip's pure protocol as one peer that is told things and asks for things, like ours.
//!
//! Nothing of the protocol is changed. What its own network layer would do around it is done here the same way: one
//! topic, a failed dial and a lost connection are both told as a disconnected peer, timers are kept in its own map, and
//! a message on the wire is the message of the topic without the topic's ID (which its streams send once).

use bytes::Bytes;
use iroh_gossip::proto::state::{InEvent, Message, OutEvent, State, Timer};
use iroh_gossip::proto::topic::{Command, Config, Event};
use iroh_gossip::proto::util::TimerMap;
use iroh_gossip::proto::{DeliveryScope, PeerData, PeerIdentity, Scope};
use n0_future::time::Instant;
use postcard::ser_flavors::Flavor;
use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;
use serde::{Deserialize, Serialize};
use skein_flock::Time;
use skein_sim::engine::{self as sim, Io, Node, Protocol};
use skein_sim::subject::{Class, Report, Subject, number};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

/// The one topic.
const TOPIC: [u8; 32] = [7; 32];

/// How a peer is named: iroh names it by a public key of 32 bytes.
pub trait Name: PeerIdentity + 'static {
    /// The name of the peer with this index.
    fn of(index: u32) -> Self;
    /// The index again.
    fn index(self) -> u32;
}

/// As long as a public key, and as random after the index, so that no encoding can shorten it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key32([u8; 32]);

impl Name for Key32 {
    fn of(index: u32) -> Self {
        let mut key = [0xA5; 32];
        key[..4].copy_from_slice(&index.to_be_bytes());
        Self(key)
    }

    fn index(self) -> u32 {
        u32::from_be_bytes([self.0[0], self.0[1], self.0[2], self.0[3]])
    }
}

/// As long as our host IDs: what iroh-gossip would send if its names were as short as ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key8([u8; 8]);

impl Name for Key8 {
    fn of(index: u32) -> Self {
        Self((u64::from(index) << 32).to_be_bytes())
    }

    fn index(self) -> u32 {
        u32::from_be_bytes([self.0[0], self.0[1], self.0[2], self.0[3]])
    }
}

/// What its network layer tells others about a peer; the fields are those of its own `AddrInfo`.
#[derive(Serialize)]
struct AddrInfo {
    relay_url: Option<String>,
    direct_addresses: BTreeSet<SocketAddr>,
}

/// What all peers share.
#[derive(Debug)]
pub struct Shared {
    /// What the simulator's zero is on the protocol's clock; only differences matter.
    zero: Instant,
    /// Everyone's settings.
    config: Config,
    /// Scratch space.
    sent: Vec<Node>,
}

impl Default for Shared {
    /// With the protocol's own default settings: an active view of 5 and a passive one of 30, as ours.
    fn default() -> Self {
        Self { zero: Instant::now(), config: Config::default(), sent: Vec::new() }
    }
}

/// One peer.
pub struct Iroh<N> {
    /// Absent until the peer starts.
    state: Option<State<N, Xoshiro256PlusPlus>>,
    timers: TimerMap<Timer<N>>,
    next: Option<Time>,
    neighbours: Vec<Node>,
    /// Peers whose connection has not been given up by this end: its network layer's `peers`.
    connected: Vec<Node>,
    /// Whom to join through.
    contacts: Vec<Node>,
}

impl<N: Name> Iroh<N> {
    fn start(&mut self, io: &mut Io<'_, Self>) {
        let info = AddrInfo { relay_url: None, direct_addresses: BTreeSet::from([addr(io.me)]) };
        let data = postcard::to_allocvec(&info).expect("an address can be encoded");
        let rng = Xoshiro256PlusPlus::from_rng(&mut *io.rng);
        let config = io.shared.config.clone();
        self.state = Some(State::new(N::of(io.me.0), PeerData::new(data), config, rng));
        let join = Command::Join(self.contacts.drain(..).map(|node| N::of(node.0)).collect());
        self.tell(InEvent::Command(TOPIC.into(), join), io);
    }

    fn timers(&mut self, io: &mut Io<'_, Self>) {
        let now = io.shared.zero + Duration::from_micros(io.now.0);
        while let Some((_, timer)) = self.timers.pop_before(now) {
            self.tell(InEvent::TimerExpired(timer), io);
        }
    }

    fn connected(&mut self, node: Node) {
        if !self.connected.contains(&node) {
            self.connected.push(node);
        }
    }

    fn tell(&mut self, event: InEvent<N>, io: &mut Io<'_, Self>) {
        let now = io.shared.zero + Duration::from_micros(io.now.0);
        let Some(state) = &mut self.state else { return };
        let mut sent = std::mem::take(&mut io.shared.sent);
        for event in state.handle(event, now, None) {
            match event {
                OutEvent::SendMessage(to, message) => {
                    sent.push(Node(to.index()));
                    io.send(Node(to.index()), Wire::new(message));
                }
                // Its network layer stops sending then, and goes on receiving until the other end stops too; the
                // other end is not told.
                OutEvent::DisconnectPeer(peer) => self.connected.retain(|node| node.0 != peer.index()),
                OutEvent::ScheduleTimer(wait, timer) => self.timers.insert(now + wait, timer),
                OutEvent::EmitEvent(_, Event::NeighborUp(peer)) => {
                    let peer = Node(peer.index());
                    self.neighbours.push(peer);
                    io.report(Report::LinkUp(peer));
                }
                OutEvent::EmitEvent(_, Event::NeighborDown(peer)) => {
                    let peer = Node(peer.index());
                    self.neighbours.retain(|node| *node != peer);
                    io.report(Report::LinkDown(peer));
                }
                OutEvent::EmitEvent(_, Event::Received(event)) => {
                    if let Some(number) = number(&event.content) {
                        io.report(Report::Delivered { number, hops: hops(event.scope) });
                    }
                }
                OutEvent::PeerData(..) => {}
            }
        }
        sent.drain(..).for_each(|node| self.connected(node));
        io.shared.sent = sent;
        let first = self.timers.first();
        self.next = first.map(|at| Time(at.duration_since(io.shared.zero).as_micros() as u64));
    }
}

impl<N: Name> Protocol for Iroh<N> {
    type Message = Wire<N>;
    type Report = Report;
    type Shared = Shared;

    fn handle(&mut self, event: sim::Event<Self::Message>, io: &mut Io<'_, Self>) {
        match event {
            sim::Event::Start => self.start(io),
            sim::Event::Received { from, message } => {
                self.connected(from);
                self.tell(InEvent::RecvMessage(N::of(from.0), message.message), io);
            }
            sim::Event::Unreachable { node, .. } => {
                if self.connected.contains(&node) {
                    self.connected.retain(|it| *it != node);
                    self.tell(InEvent::PeerDisconnected(N::of(node.0)), io);
                }
            }
            sim::Event::Deadline => self.timers(io),
        }
    }

    fn next_deadline(&self) -> Option<Time> {
        self.next
    }

    /// What its codec makes of it, and two bytes of frame, as is counted for ours; its own frames have four.
    fn size(wire: &Self::Message) -> usize {
        wire.encoded.length - TOPIC.len() + 2
    }

    fn kind(wire: &Self::Message) -> u8 {
        wire.encoded.kind
    }

    fn digest(wire: &Self::Message) -> u64 {
        wire.encoded.hash
    }
}

/// A message on its way, and what its encoding would be like.
#[derive(Debug)]
pub struct Wire<N> {
    message: Message<N>,
    encoded: Encoded,
}

impl<N: Name> Wire<N> {
    fn new(message: Message<N>) -> Self {
        let encoded = postcard::serialize_with_flavor(&message, Encoded::default());
        Self { encoded: encoded.expect("a message can be encoded"), message }
    }
}

/// Looks at the bytes of its codec without keeping them.
#[derive(Clone, Copy, Debug, Default)]
struct Encoded {
    /// Bytes, with those of the topic.
    length: usize,
    /// The numbers of the layer (0 membership, 1 tree) and of the message in it, four bits each: after the
    /// topic, an encoding begins with them.
    kind: u8,
    hash: u64,
}

/// Carries a broadcast.
const KIND_PAYLOAD: u8 = 0x10;

impl Flavor for Encoded {
    type Output = Self;

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        if (TOPIC.len()..TOPIC.len() + 2).contains(&self.length) {
            self.kind = self.kind << 4 | byte & 0xF;
        }
        self.length += 1;
        self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3).rotate_left(7);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<Self> {
        Ok(self)
    }
}

/// Where a peer listens, in the address it tells others.
fn addr(node: Node) -> SocketAddr {
    let [_, a, b, c] = node.0.to_be_bytes();
    SocketAddr::from(([10, a, b, c], 7400))
}

/// Its type for rounds keeps the number to itself, but not from its codec.
fn hops(scope: DeliveryScope) -> u8 {
    let DeliveryScope::Swarm(round) = scope else { return 0 };
    let round: Option<u16> = postcard::to_allocvec(&round).ok().and_then(|it| postcard::from_bytes(&it).ok());
    round.map_or(0, |round| round.try_into().unwrap_or(u8::MAX))
}

impl<N: Name> Subject for Iroh<N> {
    fn create(_: &mut Shared, _: Node, _: u32, contacts: &[Node]) -> Self {
        Self {
            state: None,
            timers: TimerMap::new(),
            next: None,
            neighbours: Vec::new(),
            connected: Vec::new(),
            contacts: contacts.to_vec(),
        }
    }

    fn broadcast(&mut self, payload: Bytes, io: &mut Io<'_, Self>) {
        let command = Command::Broadcast(payload, Scope::Swarm);
        self.tell(InEvent::Command(TOPIC.into(), command), io);
    }

    fn leave(&mut self, io: &mut Io<'_, Self>) {
        self.tell(InEvent::Command(TOPIC.into(), Command::Quit), io);
    }

    fn neighbours(&self, out: &mut Vec<Node>) {
        out.extend_from_slice(&self.neighbours);
    }

    /// Its network layer keeps nothing for the next run.
    fn remembered(&self) -> Vec<Node> {
        Vec::new()
    }

    /// Not to be seen from outside: the fields are private. See the scenario that asks the allocator.
    fn state_bytes(&self) -> usize {
        0
    }

    fn class(kind: u8) -> Class {
        match kind {
            KIND_PAYLOAD => Class::Payload,
            0x11..=0x1F => Class::Control,
            _ => Class::Membership,
        }
    }
}
