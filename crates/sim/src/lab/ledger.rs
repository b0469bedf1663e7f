//! What is written down while a session runs: messages that arrived, broadcasts and whom they reached.

use crate::Node;
use crate::flock_peer::peer_of;
use serde::Serialize;
use skein_flock::Time;
use skein_flock::broadcast::{Channel, Message, MessageId};
use std::collections::VecDeque;

/// Arrived messages that are kept for the picture.
const ARRIVED_MAX: usize = 30_000;
/// Broadcasts that are kept; of older ones nothing is shown.
const BROADCASTS_MAX: usize = 50;

/// What a message is for, as a person tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A heartbeat or its answer.
    Liveness,
    /// Joins, shuffles, neighbour requests.
    Membership,
    /// A broadcast with its payload.
    Payload,
    /// Tells which broadcasts one has.
    Ihave,
    /// Asks for a broadcast, and for those to come.
    Graft,
    /// Asks not to be sent the like any more.
    Prune,
    /// Facts and their digests.
    Facts,
    /// Questions and answers.
    Query,
    /// Suspicions.
    Health,
}

impl Kind {
    /// All of them, by their number in a view.
    pub const ALL: [Kind; 9] = [
        Kind::Liveness,
        Kind::Membership,
        Kind::Payload,
        Kind::Ihave,
        Kind::Graft,
        Kind::Prune,
        Kind::Facts,
        Kind::Query,
        Kind::Health,
    ];
}

/// A message that arrived.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrived {
    pub from: Node,
    pub to: Node,
    pub kind: Kind,
    pub sent: Time,
    pub at: Time,
}

/// How a peer got a broadcast.
#[derive(Clone, Copy, Debug)]
pub(super) struct Got {
    pub from: Node,
    pub at: Time,
    pub hops: u8,
}

/// The number of the broadcast that has this payload.
pub(super) fn number(payload: &[u8]) -> Option<u64> {
    payload.try_into().ok().map(u64::from_le_bytes)
}

/// A broadcast and what became of it.
#[derive(Clone, Debug)]
pub(super) struct Broadcast {
    /// Its number in the session, from 0; the payload says it.
    pub number: u64,
    pub origin: Node,
    pub at: Time,
    /// Peers that were up then, without the origin.
    pub expected: u32,
    /// By peer.
    pub got: Vec<Option<Got>>,
    /// Copies of the payload that were sent.
    pub payloads: u64,
    /// I-have, graft and prune messages sent about it, or about what the same run of the origin says beside it, until
    /// that broadcasts again.
    pub control: u64,
    /// What short messages call the origin's run.
    tag: u32,
}

/// The book.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub arrived: VecDeque<Arrived>,
    /// Oldest first.
    pub broadcasts: VecDeque<Broadcast>,
    begun: u64,
}

impl Ledger {
    /// A message has arrived.
    pub fn arrived(&mut self, message: Arrived) {
        if self.arrived.len() == ARRIVED_MAX {
            self.arrived.pop_front();
        }
        self.arrived.push_back(message);
    }

    /// Begins a broadcast of the origin's run with this incarnation, and gives its payload.
    pub fn begin(&mut self, origin: Node, incarnation: u64, at: Time, expected: u32) -> [u8; 8] {
        if self.broadcasts.len() == BROADCASTS_MAX {
            self.broadcasts.pop_front();
        }
        let number = self.begun;
        self.begun += 1;
        let tag = MessageId { origin: peer_of(origin).id, incarnation, seq: 1 }.tag();
        self.broadcasts.push_back(Broadcast {
            number,
            origin,
            at,
            expected,
            got: Vec::new(),
            payloads: 0,
            control: 0,
            tag,
        });
        number.to_le_bytes()
    }

    /// The broadcast with this payload, while it is kept.
    fn find(&mut self, payload: &[u8]) -> Option<&mut Broadcast> {
        let number = number(payload)?;
        let first = self.broadcasts.front()?.number;
        self.broadcasts.get_mut(usize::try_from(number.checked_sub(first)?).ok()?)
    }

    /// A peer got a broadcast for the first time in its life.
    pub fn delivered(&mut self, to: Node, from: Node, at: Time, payload: &[u8], hops: u8) {
        let Some(broadcast) = self.find(payload) else { return };
        if broadcast.got.len() <= to.index() {
            broadcast.got.resize(to.index() + 1, None);
        }
        // A peer that was restarted may get it again; the first time counts.
        broadcast.got[to.index()].get_or_insert(Got { from, at, hops });
    }

    /// A message of the broadcast part was sent.
    pub fn sent(&mut self, message: &Message) {
        let mut about: Vec<u32> = match message {
            Message::Gossip(gossip) | Message::Supply(gossip) if gossip.channel == Channel::App => {
                if let Some(broadcast) = self.find(&gossip.payload()) {
                    broadcast.payloads += 1;
                }
                return;
            }
            Message::Gossip(_) | Message::Supply(_) => return,
            Message::Have(list) => list.iter().map(|have| have.short.tag).collect(),
            Message::Scout(list) | Message::Graft(list) | Message::Pull(list) => {
                list.iter().map(|short| short.tag).collect()
            }
            Message::Prune(short) => vec![short.tag],
            Message::Adopt(tag) | Message::Release(tag) => vec![*tag],
            Message::Recent(spans) => spans.iter().map(|span| span.first.tag).collect(),
        };
        about.sort_unstable();
        about.dedup();
        for tag in about {
            if let Some(latest) = self.broadcasts.iter_mut().rev().find(|one| one.tag == tag) {
                latest.control += 1;
            }
        }
    }
}
