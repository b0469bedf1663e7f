//! A flock's peer as the simulator runs it in a session.

use super::actions::PeerNo;
use super::ledger::{Arrived, Kind, Ledger, number};
use crate::flock_peer::{addr_of, node_at, peer_of};
use crate::network::mix;
use crate::{Event, Io, Node, Protocol};
use skein_flock::broadcast::{Channel, Message};
use skein_flock::flock::{Config, Remembered};
use skein_flock::wire::Reader;
use skein_flock::{Addr, Effect, Flock, Frame, Input, Outbox, Time};
use std::sync::Arc;

/// Bytes of the frame that a transport puts around a message: its length.
const FRAME_BYTES: usize = 2;

/// A message and when it was sent.
#[derive(Clone, Debug)]
pub(super) struct Parcel {
    pub bytes: Frame,
    pub sent: Time,
}

impl Parcel {
    /// What it is for.
    pub fn kind(&self) -> Kind {
        kind_of(&self.bytes)
    }

    /// The number of the person's broadcast whose payload it carries.
    pub fn broadcast(&self) -> Option<u64> {
        match message_of(&self.bytes)? {
            Message::Gossip(gossip) | Message::Supply(gossip) if gossip.channel == Channel::App => {
                number(&gossip.payload())
            }
            _ => None,
        }
    }
}

/// The message, if it is one of the broadcast part.
fn message_of(bytes: &Frame) -> Option<Message> {
    let (tag, reader) = Reader::new(bytes).ok()?;
    if !matches!(kind_of_tag(tag), Kind::Payload | Kind::Ihave | Kind::Graft | Kind::Prune) {
        return None;
    }
    Message::decode(tag, reader).ok()
}

fn kind_of(bytes: &Frame) -> Kind {
    kind_of_tag(bytes.get(0).unwrap_or(0))
}

/// What a message is for, by its tag.
pub(super) fn kind_of_tag(tag: u8) -> Kind {
    match tag {
        0x00..=0x0F => Kind::Liveness,
        0x10..=0x1F => Kind::Membership,
        0x20 | 0x21 => Kind::Payload,
        // Told once to a new neighbour: what is still held.
        0x22 | 0x23 | 0x29 => Kind::Ihave,
        0x24 | 0x25 | 0x27 => Kind::Graft,
        0x26 | 0x28 | 0x2A..=0x2F => Kind::Prune,
        0x30..=0x3F => Kind::Facts,
        0x40..=0x4F => Kind::Query,
        _ => Kind::Health,
    }
}

/// What all peers of a session share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub ledger: Ledger,
    pub refused: u64,
    out: Outbox,
}

/// One peer.
#[derive(Debug)]
pub(super) struct Resident {
    flock: Flock,
    /// What it wrote down last, for its next start.
    pub written: Vec<Addr>,
}

impl Resident {
    /// A peer that has not started. `addrs` is where it looks for others.
    pub fn new(config: &Arc<Config>, me: Node, addrs: Vec<Addr>, incarnation: u64) -> Self {
        let remembered = Remembered { addrs: addrs.clone(), incarnation };
        Self { flock: Flock::new(config.clone(), peer_of(me), remembered), written: addrs }
    }

    /// Its neighbours.
    pub fn links(&self) -> impl Iterator<Item = Node> {
        self.flock.links().iter().filter_map(|(_, neighbour)| node_at(neighbour.peer.addr))
    }

    /// Its neighbours, and whether it pushes the origin's messages to them. Without an origin: all.
    pub fn pushes(&self, origin: Option<PeerNo>) -> impl Iterator<Item = (Node, bool)> {
        let eager = match origin {
            Some(origin) => self.flock.broadcast().eager(peer_of(Node(u32::from(origin.0))).id),
            None => self.flock.links().set(),
        };
        let all = self.flock.links().iter();
        all.filter_map(move |(link, neighbour)| Some((node_at(neighbour.peer.addr)?, eager.has(link))))
    }

    /// Its passive view.
    pub fn passive(&self) -> impl Iterator<Item = Node> {
        self.flock.membership().passive().filter_map(node_at)
    }

    /// Memory that its state takes.
    pub fn bytes(&self) -> usize {
        self.flock.state_bytes()
    }

    /// Brings it something from outside, such as a broadcast.
    pub fn bring(&mut self, input: Input, io: &mut Io<'_, Self>) {
        self.take(input, None, io);
    }

    fn take(&mut self, input: Input, from: Option<Node>, io: &mut Io<'_, Self>) {
        let mut out = std::mem::take(&mut io.shared.out);
        if self.flock.handle(input, io.now, io.rng, &mut out).is_err() {
            io.shared.refused += 1;
        }
        for effect in out.effects.drain(..) {
            match effect {
                Effect::Send { to, bytes } => {
                    if let Some(to) = node_at(to) {
                        self.send(to, bytes, io);
                    }
                }
                Effect::Close { to } => {
                    if let Some(to) = node_at(to) {
                        io.close(to);
                    }
                }
                Effect::Deliver { payload, hops, .. } => {
                    if let Some(from) = from {
                        io.shared.ledger.delivered(io.me, from, io.now, &payload, hops);
                    }
                }
                Effect::Remember => self.written = self.flock.remember().addrs,
                Effect::Told(_) => {}
            }
        }
        io.shared.out = out;
    }

    fn send(&self, to: Node, bytes: Frame, io: &mut Io<'_, Self>) {
        if let Some(message) = message_of(&bytes) {
            io.shared.ledger.sent(&message);
        }
        io.send(to, Parcel { bytes, sent: io.now });
    }
}

impl Protocol for Resident {
    type Message = Parcel;
    type Report = ();
    type Shared = Shared;

    fn handle(&mut self, event: Event<Parcel>, io: &mut Io<'_, Self>) {
        match event {
            Event::Start => self.take(Input::Start, None, io),
            Event::Received { from, message } => {
                let (kind, sent) = (message.kind(), message.sent);
                io.shared.ledger.arrived(Arrived { from, to: io.me, kind, sent, at: io.now });
                self.take(Input::Received { from: peer_of(from), bytes: message.bytes }, Some(from), io);
            }
            Event::Unreachable { node, why } => {
                self.take(Input::Unreachable { addr: addr_of(node), why }, None, io);
            }
            Event::Deadline => self.take(Input::Deadline, None, io),
        }
    }

    fn next_deadline(&self) -> Option<Time> {
        self.flock.next_deadline()
    }

    fn size(message: &Parcel) -> usize {
        FRAME_BYTES + message.bytes.len()
    }

    fn kind(message: &Parcel) -> u8 {
        message.bytes.get(0).unwrap_or(0)
    }

    fn digest(message: &Parcel) -> u64 {
        message.bytes.to_bytes().chunks(8).fold(message.bytes.len() as u64, |hash, chunk| {
            let word = chunk.iter().fold(0_u64, |word, byte| word << 8 | u64::from(*byte));
            mix(hash ^ word)
        })
    }
}
