//! iroh-gossip's pure protocol as one peer that is told things and asks for things, like ours.
//!
//! Nothing of the protocol is changed. What its own network layer would do around it is done here the same way: one
//! topic, a failed dial and a lost connection are both told as a disconnected peer, timers are kept in its own map, and
//! a message on the wire is the message of the topic without the topic's ID (which its streams send once).

use bytes::Bytes;
use iroh_gossip::proto::state::{InEvent, Message, OutEvent, State, Timer};
use iroh_gossip::proto::topic::{Command, Config, Event};
use iroh_gossip::proto::util::TimerMap;
use iroh_gossip::proto::{DeliveryScope, PeerData, PeerIdentity, Scope, TopicId};
use n0_future::time::Instant;
use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt::Debug;
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

/// What a peer asks for.
#[derive(Debug)]
pub enum Ask {
    /// Send; connect first where there is no connection.
    Send {
        /// Index of the peer.
        to: u32,
        /// The encoded message.
        bytes: Bytes,
    },
    /// Close the connection after what is queued.
    Close {
        /// Index of the peer.
        to: u32,
    },
    /// A broadcast arrived, once.
    Deliver {
        /// What was broadcast.
        payload: Bytes,
        /// How many links it passed.
        hops: u16,
    },
}

/// One peer.
pub struct Peer<N> {
    state: State<N, Xoshiro256PlusPlus>,
    timers: TimerMap<Timer<N>>,
    neighbours: Vec<u32>,
    /// What the simulator's zero is on its clock; only differences matter.
    zero: Instant,
}

impl<N: Name> Peer<N> {
    /// A peer that has not joined.
    /// * `addr`: one direct address, known to all who know the peer, as a peer without a relay has.
    /// * `zero`: any moment; the same for all peers.
    pub fn new(index: u32, addr: SocketAddr, config: Config, zero: Instant, seed: u64) -> Self {
        let info = AddrInfo { relay_url: None, direct_addresses: BTreeSet::from([addr]) };
        let data = postcard::to_allocvec(&info).expect("an address can be encoded");
        let rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        Self {
            state: State::new(N::of(index), PeerData::new(data), config, rng),
            timers: TimerMap::new(),
            neighbours: Vec::new(),
            zero,
        }
    }

    /// The active view, by indexes, in the order in which they came.
    pub fn neighbours(&self) -> &[u32] {
        &self.neighbours
    }

    /// When to call [`Peer::timers`]; in microseconds.
    pub fn next_deadline(&self) -> Option<u64> {
        self.timers.first().map(|at| at.duration_since(self.zero).as_micros() as u64)
    }

    /// Joins through these contacts.
    pub fn join(&mut self, contacts: &[u32], now: u64, asks: &mut Vec<Ask>) {
        let contacts = contacts.iter().map(|index| N::of(*index)).collect();
        self.tell(InEvent::Command(TopicId::from_bytes(TOPIC), Command::Join(contacts)), now, asks);
    }

    /// Tells all peers.
    pub fn broadcast(&mut self, payload: Bytes, now: u64, asks: &mut Vec<Ask>) {
        let command = Command::Broadcast(payload, Scope::Swarm);
        self.tell(InEvent::Command(TopicId::from_bytes(TOPIC), command), now, asks);
    }

    /// A message arrived.
    pub fn received(&mut self, from: u32, bytes: &Bytes, now: u64, asks: &mut Vec<Ask>) {
        let mut whole = Vec::with_capacity(TOPIC.len() + bytes.len());
        whole.extend_from_slice(&TOPIC);
        whole.extend_from_slice(bytes);
        let message: Message<N> = postcard::from_bytes(&whole).expect("peers send what they encoded");
        self.tell(InEvent::RecvMessage(N::of(from), message), now, asks);
    }

    /// A dial failed or a connection was lost.
    pub fn disconnected(&mut self, from: u32, now: u64, asks: &mut Vec<Ask>) {
        self.tell(InEvent::PeerDisconnected(N::of(from)), now, asks);
    }

    /// The next deadline has come.
    pub fn timers(&mut self, now: u64, asks: &mut Vec<Ask>) {
        let at = self.zero + Duration::from_micros(now);
        while let Some((_, timer)) = self.timers.pop_before(at) {
            self.tell(InEvent::TimerExpired(timer), now, asks);
        }
    }

    fn tell(&mut self, event: InEvent<N>, now: u64, asks: &mut Vec<Ask>) {
        let at = self.zero + Duration::from_micros(now);
        for event in self.state.handle(event, at, None) {
            match event {
                OutEvent::SendMessage(to, message) => {
                    let mut bytes =
                        Bytes::from(postcard::to_allocvec(&message).expect("a message can be encoded"));
                    let topic = bytes.split_to(TOPIC.len());
                    debug_assert_eq!(topic[..], TOPIC);
                    asks.push(Ask::Send { to: to.index(), bytes });
                }
                OutEvent::DisconnectPeer(to) => asks.push(Ask::Close { to: to.index() }),
                OutEvent::ScheduleTimer(wait, timer) => self.timers.insert(at + wait, timer),
                OutEvent::EmitEvent(_, Event::NeighborUp(peer)) => self.neighbours.push(peer.index()),
                OutEvent::EmitEvent(_, Event::NeighborDown(peer)) => {
                    self.neighbours.retain(|it| *it != peer.index());
                }
                OutEvent::EmitEvent(_, Event::Received(event)) => {
                    let hops = match event.scope {
                        DeliveryScope::Swarm(round) => postcard::to_allocvec(&round)
                            .ok()
                            .and_then(|bytes| postcard::from_bytes(&bytes).ok())
                            .unwrap_or(0),
                        DeliveryScope::Neighbors => 0,
                    };
                    asks.push(Ask::Deliver { payload: event.content, hops });
                }
                OutEvent::PeerData(..) => {}
            }
        }
    }
}
