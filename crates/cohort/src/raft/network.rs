//! Raft's messages to the other replicas.

use super::state_machine::{RaftSnapshot, SnapshotData};
use super::types::{RaftTypes, RaftVote};
use crate::machine::Machine;
use crate::peers::{Peers, Replica};
use openraft::error::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::{AnyError, OptionalSend, RaftNetworkFactory, RaftNetworkV2};
use skein_model::{GroupId, HostId, StoreId};
use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;

/// Makes the senders to a group's replicas.
pub(crate) struct Network<M> {
    pub(crate) peers: Arc<dyn Peers>,
    pub(crate) group: GroupId,
    pub(crate) machine: PhantomData<fn() -> M>,
}

/// Sends to one replica.
pub(crate) struct Sender<M> {
    to: Replica,
    machine: PhantomData<fn() -> M>,
}

impl<M> Sender<M> {
    fn unreachable(&self) -> Unreachable<RaftTypes> {
        Unreachable::new(&AnyError::error(format!("{} cannot be reached", self.to.host)))
    }
}

impl<M: Machine> RaftNetworkFactory<RaftTypes> for Network<M> {
    type Network = Sender<M>;

    async fn new_client(&mut self, target: u64, node: &HostId) -> Sender<M> {
        Sender { to: Replica { store: StoreId(target), host: *node }, machine: PhantomData }
    }
}

impl<M: Machine> RaftNetworkV2<RaftTypes> for Sender<M> {
    type SnapshotData = SnapshotData<M>;

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
        _vote: RaftVote,
        _snapshot: RaftSnapshot<M>,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<RaftTypes>, StreamingError<RaftTypes>> {
        Err(StreamingError::Unreachable(self.unreachable()))
    }
}
