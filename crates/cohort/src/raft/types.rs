//! What openraft's type parameters are for a group.

use crate::peers::Replica;
use bytes::Bytes;
use openraft::impls::{BoxedErrorSource, InlineBatch, Vote, leader_id_adv};
use openraft::raft::responder::Responder;
use openraft::{
    EntryPayload, LogId, Membership, OptionalSend, RaftTypeConfig, StoredMembership, TokioRuntime,
};
use std::fmt;

/// What was proposed, as it travels and is stored.
#[derive(Clone, PartialEq, Eq)]
pub struct Command(pub Bytes);

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Command({} bytes)", self.0.len())
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A group's configuration: nodes are lives of replicas, each with where it is lived; addresses are the flock's business, entries are
/// opaque bytes.
#[derive(Debug, Clone, Copy, Default, Eq, PartialEq, Ord, PartialOrd)]
pub struct RaftTypes;

impl RaftTypeConfig for RaftTypes {
    type D = Command;
    type R = ();
    type NodeId = u64;
    type Node = Replica;
    type Term = u64;
    type LeaderId = Leader;
    type Vote = RaftVote;
    type Payload = EntryPayload<Command, u64, Replica>;
    type Entry = openraft::Entry<Leader, Self::Payload>;
    type AsyncRuntime = TokioRuntime;
    type Responder<T>
        = EntryResponder<T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = BoxedErrorSource;
}

pub(crate) type Leader = leader_id_adv::LeaderId<u64, u64>;
pub(crate) type RaftVote = Vote<Leader>;
pub(crate) type RaftLogId = LogId<Leader>;
pub(crate) type RaftEntry = openraft::Entry<Leader, EntryPayload<Command, u64, Replica>>;
pub(crate) type RaftMembership = Membership<u64, Replica>;
pub(crate) type StoredRaftMembership = StoredMembership<Leader, u64, Replica>;

/// One life of a replica: a node of Raft's, and where it is lived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Member {
    pub(crate) life: u64,
    pub(crate) replica: Replica,
}

/// Calls back when an entry is applied or refused, on the task that found out: no channel, no wake-up in between.
/// Raft drops it uncalled when it stops; what `done` captures has to notice.
pub struct EntryResponder<T>(Box<dyn FnOnce(T) + Send>);

impl<T> EntryResponder<T> {
    /// `done` gets the result.
    pub fn new(done: impl FnOnce(T) + Send + 'static) -> Self {
        EntryResponder(Box::new(done))
    }
}

impl<T: OptionalSend + 'static> Responder<RaftTypes, T> for EntryResponder<T> {
    fn on_complete(self, result: T) {
        (self.0)(result);
    }
}
