//! What a gossip protocol has to offer to be measured: ours ([`FlockPeer`](crate::FlockPeer)) or another.

use crate::engine::{Io, Node, Protocol};
use bytes::{BufMut, Bytes, BytesMut};
use std::time::Duration;

/// What a kind of message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Signs of life and nothing else.
    Liveness,
    /// Joins, views, shuffles.
    Membership,
    /// A broadcast's payload.
    Payload,
    /// What a broadcast needs besides: digests, grafts, prunes.
    Control,
    /// Facts and settings.
    Facts,
    /// Questions and answers.
    Query,
    /// Anything else.
    Other,
}

/// What peers tell the one who measures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Report {
    /// A broadcast arrived, at another than its origin.
    Delivered {
        /// Its number; see [`payload`].
        number: u32,
        /// How many links it passed.
        hops: u8,
    },
    /// A link is up.
    LinkUp(Node),
    /// A link is down because the neighbour seems dead.
    LinkDown(Node),
    /// A question was answered, at the one who asked.
    Answer {
        /// Peers counted.
        counted: usize,
        /// Peers known.
        known: usize,
        /// The value, as far as a number says it.
        value: f64,
    },
}

/// One peer of a protocol that can be measured.
pub trait Subject: Protocol<Report = Report> {
    /// A peer that will start with what it remembers of earlier runs, or with the one contact given.
    /// * `run`: 0 at first, one more with each restart.
    fn create(shared: &mut Self::Shared, me: Node, run: u32, contacts: &[Node]) -> Self;
    /// Tells all peers.
    fn broadcast(&mut self, payload: Bytes, io: &mut Io<'_, Self>);
    /// Says goodbye; the peer is killed right after.
    fn leave(&mut self, io: &mut Io<'_, Self>);
    /// Appends the active view.
    fn neighbours(&self, out: &mut Vec<Node>);
    /// Peers to try after a restart; at most some hundreds.
    fn remembered(&self) -> Vec<Node>;
    /// Asks all peers how many links they have, and for the sum; answered by [`Report::Answer`]. False when the
    /// protocol has no questions.
    fn ask_links(&mut self, within: Duration, io: &mut Io<'_, Self>) -> bool {
        let _ = (within, io);
        false
    }
    /// Says `bytes` bytes about this peer under the key `fact` to all; something else with each `version`. False
    /// when the protocol has no facts.
    fn say(&mut self, version: u32, bytes: usize, io: &mut Io<'_, Self>) -> bool {
        let _ = (version, bytes, io);
        false
    }
    /// A sum over all facts it knows; equal at peers that know the same.
    fn facts_sum(&self) -> u64 {
        0
    }
    /// Bytes of overlay and tree state, inline and on the heap, without facts and cached payloads.
    fn state_bytes(&self) -> usize;
    /// What a kind of message is for.
    fn class(kind: u8) -> Class;
}

/// The payload of broadcast `number`: the number, then zeros, `bytes` in all (but never fewer than four).
pub fn payload(number: u32, bytes: usize) -> Bytes {
    let mut payload = BytesMut::with_capacity(bytes.max(4));
    payload.put_u32_le(number);
    payload.resize(bytes.max(4), 0);
    payload.freeze()
}

/// The number of the broadcast with this payload; `None` when it is none of [`payload`]'s.
pub fn number(payload: &[u8]) -> Option<u32> {
    payload.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}
