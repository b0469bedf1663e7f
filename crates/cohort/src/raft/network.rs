//! The network of a cohort of one: there is nobody to talk to.

use super::state_machine::SnapshotHandle;
use super::types::{Leader, RaftTypes};
use openraft::error::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::impls::{EmptyNode, Vote};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::{AnyError, OptionalSend, RaftNetworkFactory, RaftNetworkV2, Snapshot};
use std::future::Future;

/// Makes connections to peers; in a cohort of one Raft never asks for any.
pub(crate) struct NoPeers;

/// A connection to a peer that cannot be reached.
pub(crate) struct NoPeer(u64);

impl NoPeer {
    fn unreachable(&self) -> Unreachable<RaftTypes> {
        Unreachable::new(&AnyError::error(format!(
            "host 0x{:016X} is not a member of this cell of one",
            self.0
        )))
    }
}

impl RaftNetworkFactory<RaftTypes> for NoPeers {
    type Network = NoPeer;

    async fn new_client(&mut self, target: u64, _node: &EmptyNode) -> NoPeer {
        NoPeer(target)
    }
}

impl RaftNetworkV2<RaftTypes> for NoPeer {
    type SnapshotData = SnapshotHandle;

    async fn append_entries(
        &mut self,
        _rpc: AppendEntriesRequest<RaftTypes>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<RaftTypes>, RPCError<RaftTypes>> {
        Err(RPCError::Unreachable(self.unreachable()))
    }

    async fn vote(
        &mut self,
        _rpc: VoteRequest<RaftTypes>,
        _option: RPCOption,
    ) -> Result<VoteResponse<RaftTypes>, RPCError<RaftTypes>> {
        Err(RPCError::Unreachable(self.unreachable()))
    }

    async fn full_snapshot(
        &mut self,
        _vote: Vote<Leader>,
        _snapshot: Snapshot<Leader, u64, EmptyNode, SnapshotHandle>,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<RaftTypes>, StreamingError<RaftTypes>> {
        Err(StreamingError::Unreachable(self.unreachable()))
    }
}
