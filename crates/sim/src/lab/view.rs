//! A session's state as the page gets it. Peers are told by their numbers; times are microseconds of simulated time.

use super::actions::PeerNo;
use super::ledger::{Broadcast, Got, Kind};
use super::world::World;
use crate::Node;
use crate::graph::Graph;
use serde::Serialize;
use serde::ser::{SerializeTuple as _, Serializer};
use skein_flock::Time;
use std::collections::BTreeMap;

/// Flights in a view; of more, the latest to arrive are told.
const FLIGHTS_MAX: usize = 8_000;

/// The state that a seed and actions lead to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct View {
    /// The seed.
    pub seed: u64,
    /// The actions in canonical form.
    pub actions: String,
    /// The time.
    pub now: u64,
    /// How many peers are up.
    pub up: usize,
    /// How many components the peers that are up form; one is well.
    pub parts: usize,
    /// Whose tree the edges show.
    pub origin: Option<u16>,
    /// All peers in the order of their addition.
    pub peers: Vec<PeerView>,
    /// Links: one end, the other, greater end, and flags. 1: the first pushes the origin's messages to the second;
    /// 2: the second to the first; 4: one end is down.
    pub edges: Vec<(u16, u16, u8)>,
    /// What the kinds of messages are called, by their number.
    pub kinds: [Kind; Kind::ALL.len()],
    /// Messages that were on their way at some time since the question's `since`.
    pub flights: Vec<Flight>,
    /// The latest broadcasts, newest first.
    pub broadcasts: Vec<BroadcastView>,
    /// How many of the peers that are up have no link, one, two...
    pub degrees: Vec<usize>,
    /// Everything sent so far, by kind.
    pub sent: Vec<Sent>,
}

/// One peer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PeerView {
    /// Its name, such as `F`.
    pub name: String,
    /// Whether it runs.
    pub up: bool,
    /// How often it was started.
    pub runs: u32,
    /// Milliseconds by which it is slowed down.
    pub slow: u32,
    /// Its neighbours, as it sees it.
    pub links: Vec<u16>,
    /// Its passive view.
    pub passive: Vec<u16>,
    /// Memory that its state takes, in bytes.
    pub bytes: usize,
    /// How many links the shown broadcast passed until here; absent where it has not come.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hops: Option<u8>,
    /// From whom the shown broadcast came; absent at its origin.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<u16>,
}

/// A message on its way; as JSON `[from, to, kind, sent, arrives]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flight {
    /// From whom.
    pub from: u16,
    /// To whom.
    pub to: u16,
    /// Its kind, by number.
    pub kind: u8,
    /// When it was sent.
    pub sent: u64,
    /// When it arrives.
    pub arrives: u64,
}

impl Serialize for Flight {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut tuple = to.serialize_tuple(5)?;
        tuple.serialize_element(&self.from)?;
        tuple.serialize_element(&self.to)?;
        tuple.serialize_element(&self.kind)?;
        tuple.serialize_element(&self.sent)?;
        tuple.serialize_element(&self.arrives)?;
        tuple.end()
    }
}

/// A broadcast and what became of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BroadcastView {
    /// Its origin's name.
    pub from: String,
    /// When it began.
    pub at: u64,
    /// Whether it is the one that peers are marked by: the latest of the shown origin.
    pub shown: bool,
    /// Peers that got it, without the origin.
    pub reached: usize,
    /// Peers that were up when it began, without the origin.
    pub expected: u32,
    /// Copies of the payload that were sent, those that are still on their way left out.
    pub payloads: u64,
    /// Relative message redundancy: payloads per peer reached, less one. 0 before any is reached.
    /// * Source: Leitão et al., "Epidemic Broadcast Trees" (2007), section 4.
    pub rmr: f64,
    /// Last delivery hop: how many links the longest way had.
    pub ldh: u8,
    /// Last delivery time: how long until the last of them got it.
    pub ldt: u64,
    /// I-have, graft and prune messages sent about it, until the same origin broadcasts again.
    pub control: u64,
}

/// What was sent of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Sent {
    /// The kind.
    pub kind: Kind,
    /// How many messages.
    pub messages: u64,
    /// Their bytes on the wire, frames included.
    pub bytes: u64,
}

fn number(node: Node) -> u16 {
    // A session has at most a thousand.
    node.0 as u16
}

impl View {
    /// Looks at a world: at the tree of `origin`, and at what was on its way since `since`.
    pub(super) fn of(world: &World, actions: String, origin: Option<PeerNo>, since: u64) -> View {
        let shown = origin.and_then(|origin| {
            world.ledger().broadcasts.iter().rev().find(|one| one.origin.index() == origin.index())
        });
        let peers = peers(world, shown);
        let links = |at: u32| {
            let peer = &peers[at as usize];
            let live = peer.links.iter().filter(|to| peers[usize::from(**to)].up);
            live.map(|to| u32::from(*to)).collect::<Vec<u32>>()
        };
        let graph = Graph::new((0..peers.len() as u32).map(links));
        let down = peers.iter().filter(|peer| !peer.up).count();
        let mut degrees: Vec<usize> = Vec::new();
        for peer in peers.iter().filter(|peer| peer.up) {
            if degrees.len() <= peer.links.len() {
                degrees.resize(peer.links.len() + 1, 0);
            }
            degrees[peer.links.len()] += 1;
        }
        View {
            seed: world.seed(),
            actions,
            now: world.now().0,
            up: peers.len() - down,
            // Each peer that is down is a component of its own.
            parts: graph.components().len() - down,
            origin: origin.map(|origin| origin.0),
            edges: edges(world, &peers, origin),
            peers,
            kinds: Kind::ALL,
            flights: flights(world, since),
            broadcasts: broadcasts(world, shown),
            degrees,
            sent: world.sent(),
        }
    }
}

fn peers(world: &World, shown: Option<&Broadcast>) -> Vec<PeerView> {
    let all = world.peers().enumerate();
    all.map(|(at, peer)| {
        let got = shown.and_then(|one| one.got.get(at).copied().flatten());
        let is_origin = shown.is_some_and(|one| one.origin.index() == at);
        PeerView {
            name: PeerNo(at as u16).to_string(),
            up: peer.resident.is_some(),
            runs: peer.runs,
            slow: peer.slow_millis,
            links: peer.resident.map(|it| it.links().map(number).collect()).unwrap_or_default(),
            passive: peer.resident.map(|it| it.passive().map(number).collect()).unwrap_or_default(),
            bytes: peer.resident.map_or(0, |it| it.bytes()),
            hops: got.map(|Got { hops, .. }| hops).or(is_origin.then_some(0)),
            from: got.map(|Got { from, .. }| number(from)),
        }
    })
    .collect()
}

/// Every link once, with who pushes to whom.
fn edges(world: &World, peers: &[PeerView], origin: Option<PeerNo>) -> Vec<(u16, u16, u8)> {
    let mut ends: Vec<(u16, u16, u8)> = Vec::new();
    for (at, peer) in world.peers().enumerate() {
        let Some(resident) = peer.resident else { continue };
        let at = at as u16;
        for (to, eager) in resident.pushes(origin) {
            let to = number(to);
            let down = if peers[usize::from(to)].up { 0 } else { 4 };
            let pushes = u8::from(eager);
            ends.push(if at < to { (at, to, pushes | down) } else { (to, at, pushes << 1 | down) });
        }
    }
    ends.sort_unstable();
    ends.dedup_by(|next, kept| {
        let same = (next.0, next.1) == (kept.0, kept.1);
        if same {
            kept.2 |= next.2;
        }
        same
    });
    ends
}

fn flights(world: &World, since: u64) -> Vec<Flight> {
    let kind = |kind: Kind| Kind::ALL.iter().position(|one| *one == kind).unwrap_or_default() as u8;
    let arrived = world.ledger().arrived.iter().rev().take_while(|one| one.at >= Time(since));
    let mut flights: Vec<Flight> = arrived
        .map(|one| (one.from, one.to, one.kind, one.sent, one.at))
        .chain(world.in_flight())
        .map(|(from, to, what, sent, at)| Flight {
            from: number(from),
            to: number(to),
            kind: kind(what),
            sent: sent.0,
            arrives: at.0,
        })
        .collect();
    flights.sort_unstable_by_key(|one| (one.arrives, one.sent, one.from, one.to, one.kind));
    let surplus = flights.len().saturating_sub(FLIGHTS_MAX);
    flights.drain(..surplus);
    flights
}

fn broadcasts(world: &World, shown: Option<&Broadcast>) -> Vec<BroadcastView> {
    let mut on_their_way = BTreeMap::<u64, u64>::new();
    for number in world.payloads_in_flight() {
        *on_their_way.entry(number).or_default() += 1;
    }
    let all = world.ledger().broadcasts.iter().rev();
    all.map(|one| {
        let arrived = one.payloads - on_their_way.get(&one.number).copied().unwrap_or(0);
        broadcast(one, arrived, shown)
    })
    .collect()
}

fn broadcast(one: &Broadcast, payloads: u64, shown: Option<&Broadcast>) -> BroadcastView {
    let got = || one.got.iter().flatten();
    let reached = got().count();
    BroadcastView {
        from: PeerNo(number(one.origin)).to_string(),
        at: one.at.0,
        shown: shown.is_some_and(|shown| shown.number == one.number),
        reached,
        expected: one.expected,
        payloads,
        rmr: if reached == 0 { 0.0 } else { payloads as f64 / reached as f64 - 1.0 },
        ldh: got().map(|got| got.hops).max().unwrap_or(0),
        ldt: got().map(|got| got.at.0 - one.at.0).max().unwrap_or(0),
        control: one.control,
    }
}
