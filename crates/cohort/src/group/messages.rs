//! Messages from other replicas.

use super::{Group, GroupError};
use crate::machine::Machine;
use crate::peers::{PeerError, Replica};
use crate::raft::RaftTypes;
use crate::raft::rpc::{Request, encode_append_response, encode_transfer_response, encode_vote_response};
use bytes::Bytes;
use futures_util::stream::BoxStream;
use openraft::error::RaftError;
use openraft::raft::AppendEntriesResponse;

impl<M: Machine> Group<M> {
    /// The answer to a message that the replica `from` sent with [`Peers::call`](crate::peers::Peers::call). The owner has seen
    /// to it that the message is meant for this store, and that `from` is who it says.
    ///
    /// Dropping the future forgets the answer; what the message changed stays changed.
    pub async fn receive(&self, from: Replica, body: Bytes) -> Result<Bytes, GroupError> {
        let request = Request::decode(body).map_err(|e| GroupError::Refused(e.to_string()))?;
        let inner = &*self.inner;
        match request {
            Request::Append(rpc) => {
                sent_by(from, rpc.vote.leader_id.node_id)?;
                let response = inner.raft.append_entries(rpc).await.map_err(|e| self.raft_error(e))?;
                if !matches!(response, AppendEntriesResponse::HigherVote(_)) {
                    inner.heard.leader();
                }
                Ok(encode_append_response(&response))
            }
            Request::Vote(rpc) => {
                sent_by(from, rpc.vote.leader_id.node_id)?;
                if !rpc.leadership_transfer {
                    self.check_free_to_vote()?;
                }
                let response = inner.raft.vote(rpc).await.map_err(|e| self.raft_error(e))?;
                if response.vote_granted {
                    inner.heard.candidate();
                }
                Ok(encode_vote_response(&response))
            }
            Request::PreVote(rpc) => {
                sent_by(from, rpc.vote.leader_id.node_id)?;
                self.check_free_to_vote()?;
                let response = inner.raft.pre_vote(rpc).await.map_err(|e| self.raft_error(e))?;
                Ok(encode_vote_response(&response))
            }
            Request::Transfer(rpc) => {
                sent_by(from, rpc.from_leader().leader_id.node_id)?;
                let response = inner.raft.handle_transfer_leader(rpc).await;
                let response = response.map_err(|fatal| self.stopped(&fatal))?;
                Ok(encode_transfer_response(&response))
            }
            Request::Install(install) => {
                sent_by(from, install.vote.leader_id.node_id)?;
                let (peers, group) = (&inner.peers, inner.group);
                let inbound = &inner.inbound;
                let state = inbound.install(install, from, peers, group, &inner.raft, &inner.machine).await;
                Ok(state.encode())
            }
            Request::Fetch(_) => Err(GroupError::Refused("a snapshot is fetched as a stream".into())),
        }
    }

    /// The other end of [`Peers::fetch`](crate::peers::Peers::fetch): a snapshot's chunks, read no faster than they are taken.
    pub fn serve(&self, from: Replica, body: Bytes) -> BoxStream<'static, Result<Bytes, PeerError>> {
        let refused = match Request::decode(body) {
            Ok(Request::Fetch(fetch)) => return self.inner.outbound.serve(from, fetch),
            Ok(_) => "only a snapshot is fetched as a stream".to_owned(),
            Err(error) => error.to_string(),
        };
        Box::pin(futures_util::stream::iter([Err(PeerError::Refused(refused))]))
    }

    /// Before it was started, this replica may have promised a leader not to vote; it does not remember.
    fn check_free_to_vote(&self) -> Result<(), GroupError> {
        if self.inner.heard.is_bound() {
            return Err(GroupError::Refused("started a moment ago, and votes for nobody yet".into()));
        }
        Ok(())
    }

    fn raft_error(&self, error: RaftError<RaftTypes>) -> GroupError {
        self.stopped(&error).into()
    }
}

/// A message of Raft's speaks for its sender only.
fn sent_by(from: Replica, node: u64) -> Result<(), GroupError> {
    if from.store.0 == node {
        return Ok(());
    }
    Err(GroupError::Refused(format!("{} speaks for another store than its own", from.host)))
}
