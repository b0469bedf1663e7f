//! The flock in the simulator: [`Flock`] as a [`Protocol`].

use crate::engine::{Event, Io, Node, Protocol};
use crate::network::mix;
use crate::subject::{Class, Report, Subject, number, payload};
use bytes::Bytes;
use skein_flock::flock::{Config, Remembered};
use skein_flock::io::{Down, Told};
use skein_flock::query::{Aggregate, Filter, Question};
use skein_flock::{Addr, Effect, Flock, Frame, Input, Outbox, Peer, Refused, Time};
use skein_model::HostId;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// Bytes the transport puts around each message: its length.
const FRAME_BYTES: usize = 2;
/// Kinds under which payloads of other channels than the user's are counted.
const OWN_PAYLOADS: u8 = 0xF0;
const PORT: u16 = 7_400;
/// Simulated peers live in 10.0.0.0/8.
const NET: u32 = 10 << 24;
const NODE_BITS: u32 = 24;
const NODE_MASK: u64 = (1 << NODE_BITS) - 1;

/// A peer's ID and address. The ID's upper bits look random, the lower ones are the number.
pub fn peer_of(node: Node) -> Peer {
    let id = mix(u64::from(node.0)) & !NODE_MASK | u64::from(node.0);
    Peer { id: HostId(id), addr: addr_of(node) }
}

/// A peer's address.
pub fn addr_of(node: Node) -> Addr {
    // From 10.0.0.1 on.
    let ip = IpAddr::V4(Ipv4Addr::from(NET + 1 + node.0));
    SocketAddr::new(ip, PORT).into()
}

/// The peer at an address; `None` for one outside of the simulation.
pub fn node_at(addr: Addr) -> Option<Node> {
    let IpAddr::V4(ip) = addr.ip() else { return None };
    u32::from(ip).checked_sub(NET + 1).filter(|number| u64::from(*number) <= NODE_MASK).map(Node)
}

/// The peer with an ID that [`peer_of`] gave.
pub fn node_of(id: HostId) -> Node {
    Node((id.0 & NODE_MASK) as u32)
}

/// What the flock's peers share in a simulation.
#[derive(Debug, Default)]
pub struct World {
    /// The knobs.
    pub config: Arc<Config>,
    /// Inputs refused, by reason.
    pub refused: BTreeMap<String, u64>,
    /// Messages to addresses outside of the simulation.
    pub astray: u64,
    out: Outbox,
}

impl World {
    /// A world in which everyone has this configuration.
    pub fn new(config: Config) -> Self {
        Self { config: Arc::new(config), ..Self::default() }
    }
}

/// A peer that runs [`Flock`].
#[derive(Debug)]
pub struct FlockPeer {
    /// The state machine.
    pub flock: Flock,
}

impl FlockPeer {
    /// Brings an input and does what the flock asks for.
    pub fn input(&mut self, input: Input, io: &mut Io<'_, Self>) -> Result<(), Refused> {
        let mut out = std::mem::take(&mut io.shared.out);
        let result = self.flock.handle(input, io.now, io.rng, &mut out);
        for effect in out.effects.drain(..) {
            match effect {
                Effect::Send { to, bytes } => match node_at(to) {
                    Some(node) => io.send(node, bytes),
                    None => io.shared.astray += 1,
                },
                Effect::Close { to } => {
                    if let Some(node) = node_at(to) {
                        io.close(node);
                    }
                }
                Effect::Deliver { payload, hops, .. } => {
                    if let Some(number) = number(&payload) {
                        io.report(Report::Delivered { number, hops });
                    }
                }
                Effect::Told(Told::LinkUp(peer)) => io.report(Report::LinkUp(node_of(peer.id))),
                // What was given up on purpose tells nothing of who is dead.
                Effect::Told(Told::LinkDown { peer, why: Down::Silent | Down::Lost }) => {
                    io.report(Report::LinkDown(node_of(peer.id)));
                }
                Effect::Told(Told::Answered(answer)) => io.report(Report::Answer {
                    counted: answer.coverage.counted,
                    known: answer.coverage.known,
                    value: answer.sum().unwrap_or_default(),
                }),
                Effect::Remember | Effect::Told(_) => {}
            }
        }
        io.shared.out = out;
        if let Err(refused) = &result {
            // The reason without its numbers and names.
            let reason = format!("{refused:?}");
            let reason = reason.split([' ', '{']).next().unwrap_or_default().to_owned();
            *io.shared.refused.entry(reason).or_default() += 1;
        }
        result
    }
}

impl Protocol for FlockPeer {
    type Message = Frame;
    type Report = Report;
    type Shared = World;

    fn handle(&mut self, event: Event<Frame>, io: &mut Io<'_, Self>) {
        let input = match event {
            Event::Start => Input::Start,
            Event::Received { from, message } => Input::Received { from: peer_of(from), bytes: message },
            Event::Unreachable { node, why } => Input::Unreachable { addr: addr_of(node), why },
            Event::Deadline => Input::Deadline,
        };
        // Refusals are counted; to the sender they look like silence.
        let _refused = self.input(input, io);
    }

    fn next_deadline(&self) -> Option<Time> {
        self.flock.next_deadline()
    }

    fn touch(&self, message: Option<&Frame>, behind: bool) -> u64 {
        self.flock.touch(message.and_then(|message| message.get(0)), behind)
    }

    fn size(message: &Frame) -> usize {
        message.len() + FRAME_BYTES
    }

    fn kind(message: &Frame) -> u8 {
        match (message.get(0).unwrap_or_default(), message.get(1).map(|channel| channel & 0x0F)) {
            // Payloads of the flock's own parts are not those of its user, and are counted apart.
            (0x20 | 0x21, Some(channel)) if channel != 0 => OWN_PAYLOADS | channel,
            (tag, _) => tag,
        }
    }

    fn digest(message: &Frame) -> u64 {
        let (head, body) = (message.head(), message.body());
        let turned = |hash: u64, word: u64| (hash ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(31);
        // Words of eight bytes, the last one filled up with zeros; one of them may lie across the two parts.
        let (mut hash, mut word, mut filled) = (message.len() as u64, 0_u64, 0);
        for byte in head.iter().chain(body) {
            word |= u64::from(*byte) << (8 * filled);
            filled += 1;
            if filled == 8 {
                (hash, word, filled) = (turned(hash, word), 0, 0);
            }
        }
        if filled > 0 { turned(hash, word) } else { hash }
    }
}

impl Subject for FlockPeer {
    fn create(shared: &mut World, me: Node, run: u32, contacts: &[Node]) -> Self {
        let remembered = Remembered {
            addrs: contacts.iter().map(|node| addr_of(*node)).collect(),
            incarnation: u64::from(run) + 1,
        };
        Self { flock: Flock::new(shared.config.clone(), peer_of(me), remembered) }
    }

    fn broadcast(&mut self, payload: Bytes, io: &mut Io<'_, Self>) {
        let _refused = self.input(Input::Broadcast { payload }, io);
    }

    fn leave(&mut self, io: &mut Io<'_, Self>) {
        let _refused = self.input(Input::Leave, io);
    }

    fn neighbours(&self, out: &mut Vec<Node>) {
        out.extend(self.flock.links().iter().filter_map(|(_, neighbour)| node_at(neighbour.peer.addr)));
    }

    fn remembered(&self) -> Vec<Node> {
        self.flock.remember().addrs.into_iter().filter_map(node_at).collect()
    }

    fn ask_links(&mut self, within: Duration, io: &mut Io<'_, Self>) -> bool {
        let (filter, aggregate) = (Filter::All, Aggregate::Sum { key: "flock.links".to_owned() });
        let question = Question { filter, aggregate, within };
        self.input(Input::Ask { ticket: 0, question }, io).is_ok()
    }

    fn say(&mut self, version: u32, bytes: usize, io: &mut Io<'_, Self>) -> bool {
        self.input(Input::Publish { key: "fact".to_owned(), value: payload(version, bytes) }, io).is_ok()
    }

    fn facts_sum(&self) -> u64 {
        self.flock.facts().sums().0
    }

    fn state_bytes(&self) -> usize {
        self.flock.state_bytes()
    }

    fn class(kind: u8) -> Class {
        match kind >> 4 {
            0 => Class::Liveness,
            1 => Class::Membership,
            2 if kind <= 0x21 => Class::Payload,
            2 => Class::Control,
            3 => Class::Facts,
            4 => Class::Query,
            15 if kind & 0x0F == 1 => Class::Facts,
            15 if kind & 0x0F == 2 => Class::Query,
            _ => Class::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_peer_is_found_by_its_address_and_its_id() {
        for number in [0, 1, 255, 9_999, 1 << 20] {
            let peer = peer_of(Node(number));
            assert_eq!(node_at(peer.addr), Some(Node(number)));
            assert_eq!(node_of(peer.id), Node(number));
        }
    }
}
