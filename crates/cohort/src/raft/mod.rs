//! Raft, by openraft: the types it is configured with, and where its log, state machine and network live.

pub(crate) mod codec;
pub(crate) mod health;
pub(crate) mod inbound;
mod log_store;
mod network;
pub(crate) mod outbound;
mod pace;
pub(crate) mod rpc;
mod state_machine;
mod types;

pub(crate) use log_store::LogStore;
pub(crate) use network::Network;
pub(crate) use state_machine::{Applied, StateMachine};
pub(crate) use types::{Command, EntryResponder, Leader, Member, RaftLogId, RaftTypes};

/// A group's Raft.
pub(crate) type Raft<M> = openraft::Raft<RaftTypes, StateMachine<M>>;
