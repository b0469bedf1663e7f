//! Raft, by openraft: the types it is configured with, and where its log, state machine and network live.

pub(crate) mod codec;
mod log_store;
mod network;
mod state_machine;
mod types;

pub(crate) use log_store::LogStore;
pub(crate) use network::NoPeers;
pub(crate) use state_machine::{Applied, StateMachine};
pub(crate) use types::{Command, EntryResponder, RaftTypes};

/// The cohort's Raft.
pub(crate) type Raft = openraft::Raft<RaftTypes, StateMachine>;
