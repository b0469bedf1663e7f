//! Messages from other replicas.

use super::{Group, GroupError};
use crate::machine::Machine;
use crate::peers::{PeerError, Replica};
use crate::raft::rpc::{
    Lives, Request, encode_append_response, encode_may_end, encode_transfer_response, encode_vote_response,
};
use crate::raft::{Member, RaftTypes};
use bytes::Bytes;
use futures_util::stream::BoxStream;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::error::RaftError;
use openraft::raft::AppendEntriesResponse;
use skein_model::LifeId;

impl<M: Machine> Group<M> {
    /// The answer to a message that the replica `from` sent with [`Peers::call`](crate::peers::Peers::call). The owner has seen
    /// to it that the message is meant for this store, and that `from` is who it says. One for another life than this replica's
    /// never comes to Raft.
    ///
    /// Dropping the future forgets the answer; what the message changed stays changed.
    pub async fn receive(&self, from: Replica, body: Bytes) -> Result<Bytes, GroupError> {
        let (lives, request) = Request::decode(body).map_err(|e| GroupError::Refused(e.to_string()))?;
        let inner = &*self.inner;
        match request {
            Request::Who => return Ok(self.presence().encode()),
            Request::MayEnd => return Ok(encode_may_end(self.may_end(from, LifeId(lives.from)).await?)),
            _ => self.check_lives(from, lives)?,
        }
        let sent_by = |node: u64| match node == lives.from {
            true => Ok(()),
            false => {
                Err(refused("another life", format!("{} speaks for another life than its own", from.host)))
            }
        };
        match request {
            Request::Append(rpc) => {
                sent_by(rpc.vote.leader_id.node_id)?;
                let response = inner.raft.append_entries(rpc).await.map_err(|e| self.raft_error(e))?;
                if !matches!(response, AppendEntriesResponse::HigherVote(_)) {
                    inner.heard.leader();
                }
                Ok(encode_append_response(&response))
            }
            Request::Vote(rpc) => {
                sent_by(rpc.vote.leader_id.node_id)?;
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
                sent_by(rpc.vote.leader_id.node_id)?;
                self.check_free_to_vote()?;
                let response = inner.raft.pre_vote(rpc).await.map_err(|e| self.raft_error(e))?;
                Ok(encode_vote_response(&response))
            }
            Request::Transfer(rpc) => {
                sent_by(rpc.from_leader().leader_id.node_id)?;
                let response = inner.raft.handle_transfer_leader(rpc).await;
                let response = response.map_err(|fatal| self.stopped(&fatal))?;
                Ok(encode_transfer_response(&response))
            }
            Request::Install(install) => {
                sent_by(install.vote.leader_id.node_id)?;
                let (peers, group) = (&inner.peers, inner.group);
                let inbound = &inner.inbound;
                let (from, life) = (Member { life: lives.from, replica: from }, inner.life.0);
                let (raft, machine) = (&inner.raft, &inner.machine);
                let state = inbound.install(install, from, life, peers, group, raft, machine).await;
                Ok(state.encode())
            }
            Request::Fetch(_) => Err(GroupError::Refused("a snapshot is fetched as a stream".into())),
            Request::Who | Request::MayEnd => Err(GroupError::Refused("answered above".into())),
        }
    }

    /// The other end of [`Peers::fetch`](crate::peers::Peers::fetch): a snapshot's chunks, read no faster than they are taken.
    pub fn serve(&self, from: Replica, body: Bytes) -> BoxStream<'static, Result<Bytes, PeerError>> {
        let refused = match Request::decode(body) {
            Ok((lives, Request::Fetch(fetch))) => match self.check_lives(from, lives) {
                Ok(()) => {
                    let from = Member { life: lives.from, replica: from };
                    return self.inner.outbound.serve(from, fetch);
                }
                Err(error) => error.to_string(),
            },
            Ok(_) => "only a snapshot is fetched as a stream".to_owned(),
            Err(error) => error.to_string(),
        };
        Box::pin(futures_util::stream::iter([Err(PeerError::Refused(refused))]))
    }

    /// A message is for this life only, and of one that lives where it comes from, as far as that is known here.
    fn check_lives(&self, from: Replica, lives: Lives) -> Result<(), GroupError> {
        let life = self.inner.life;
        if lives.to != life.0 {
            let text = format!("the replica here has the life {life}, not {}", LifeId(lives.to));
            return Err(refused("a life that is over", text));
        }
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        match metrics.membership_config.get_node(&lives.from) {
            Some(known) if *known != from => {
                let text = format!("{} speaks for a life that is lived on {}", from.host, known.host);
                Err(refused("another life", text))
            }
            _ => Ok(()),
        }
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

/// A refusal that is counted by its reason.
fn refused(reason: &'static str, text: String) -> GroupError {
    metrics::counter!("skein_raft_refused_total", "reason" => reason).increment(1);
    GroupError::Refused(text)
}
