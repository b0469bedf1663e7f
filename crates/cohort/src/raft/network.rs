//! Raft's messages to the other replicas.

use super::outbound::Outbound;
use super::rpc::{Lives, Request, decode_append_response, decode_transfer_response, decode_vote_response};
use super::state_machine::{RaftSnapshot, SnapshotData};
use super::types::{Member, RaftTypes, RaftVote};
use crate::machine::Machine;
use crate::peers::{PeerError, Peers, Replica};
use bytes::Bytes;
use openraft::error::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{AnyError, OptionalSend, RaftNetworkFactory, RaftNetworkV2};
use skein_model::GroupId;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long a follower may take to make entries durable before they are sent again.
const APPEND_PATIENCE: Duration = Duration::from_secs(4);

/// Makes the senders to a group's replicas.
pub(crate) struct Network<M: Machine> {
    /// The life that sends.
    pub(crate) life: u64,
    pub(crate) peers: Arc<dyn Peers>,
    pub(crate) group: GroupId,
    /// How long to wait for an answer to a heartbeat, a vote, a transfer.
    pub(crate) patience: Duration,
    pub(crate) outbound: Outbound<M>,
}

/// Sends to one replica.
pub(crate) struct Sender<M: Machine> {
    life: u64,
    to: Member,
    peers: Arc<dyn Peers>,
    group: GroupId,
    patience: Duration,
    outbound: Outbound<M>,
}

impl<M: Machine> Sender<M> {
    async fn call<T>(
        &self,
        request: Request,
        patience: Duration,
        decode: impl FnOnce(Bytes) -> io::Result<T>,
    ) -> Result<T, RPCError<RaftTypes>> {
        let deadline = Instant::now() + patience;
        let request = request.encode(Lives { from: self.life, to: self.to.life });
        let answer = self.peers.call(self.to.replica, self.group, request, deadline);
        // The transport keeps to the deadline, too; this is for one that does not.
        let answer = match tokio::time::timeout_at(deadline, answer).await {
            Ok(answer) => answer,
            Err(_) => Err(PeerError::NoAnswer("the time ran out".into())),
        };
        match answer {
            Ok(bytes) => decode(bytes).map_err(|e| RPCError::Network(NetworkError::new(&e))),
            Err(error @ PeerError::NoAnswer(_)) => Err(RPCError::Network(NetworkError::new(&error))),
            // Raft waits longer and longer before it tries these again.
            Err(error) => Err(RPCError::Unreachable(Unreachable::new(&error))),
        }
    }
}

impl<M: Machine> RaftNetworkFactory<RaftTypes> for Network<M> {
    type Network = Sender<M>;

    async fn new_client(&mut self, target: u64, node: &Replica) -> Sender<M> {
        Sender {
            life: self.life,
            to: Member { life: target, replica: *node },
            peers: self.peers.clone(),
            group: self.group,
            patience: self.patience,
            outbound: self.outbound.clone(),
        }
    }
}

impl<M: Machine> RaftNetworkV2<RaftTypes> for Sender<M> {
    type SnapshotData = SnapshotData<M>;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<RaftTypes>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<RaftTypes>, RPCError<RaftTypes>> {
        // A heartbeat that is lost must not hold up the next one.
        let patience = if rpc.entries.is_empty() { self.patience } else { APPEND_PATIENCE };
        self.call(Request::Append(rpc), patience, decode_append_response).await
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<RaftTypes>,
        _option: RPCOption,
    ) -> Result<VoteResponse<RaftTypes>, RPCError<RaftTypes>> {
        self.call(Request::Vote(rpc), self.patience, decode_vote_response).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<RaftTypes>,
        _option: RPCOption,
    ) -> Result<VoteResponse<RaftTypes>, RPCError<RaftTypes>> {
        self.call(Request::PreVote(rpc), self.patience, decode_vote_response).await
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<RaftTypes>,
        _option: RPCOption,
    ) -> Result<TransferLeaderResponse<RaftTypes>, RPCError<RaftTypes>> {
        self.call(Request::Transfer(request), self.patience, decode_transfer_response).await
    }

    async fn full_snapshot(
        &mut self,
        vote: RaftVote,
        snapshot: RaftSnapshot<M>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<RaftTypes>, StreamingError<RaftTypes>> {
        let SnapshotData::Outgoing(view) = snapshot.snapshot else {
            let error = AnyError::error("the store cannot be looked at now");
            return Err(StreamingError::Unreachable(Unreachable::new(&error)));
        };
        let sending =
            self.outbound.send(&self.peers, self.group, self.life, self.to, vote, snapshot.meta, view);
        tokio::select! {
            biased;
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = sending => match sent {
                Ok(vote) => Ok(SnapshotResponse { vote }),
                Err(why) => {
                    tracing::warn!(to = %self.to.replica.host, group = %self.group, why, "send a snapshot; tried again");
                    Err(StreamingError::Unreachable(Unreachable::new(&AnyError::error(why))))
                }
            },
        }
    }
}
