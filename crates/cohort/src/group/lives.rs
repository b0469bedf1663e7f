//! Who lives where, and when a life may end.
//!
//! Raft counts lives of replicas, not the directories they live in: a replica that was deleted and made again has forgotten its vote and
//! its log, so it comes back as another node. A leader therefore asks a replica for its life before it makes it a member, and asks
//! those again that are members and do not answer: a dead life is replaced like a host that moved.
//!
//! A replica is deleted only when the leader says that it is no member, and it must not become one in between. So it first retires: from
//! then on it tells whoever asks that it does not stay, which keeps it from being added. Then it asks the leader, who says yes only if
//! no question of its own is under way, no change either, a quorum confirms *after* that that it leads, and the life is in none of
//! its memberships. Who leads later asks later, and hears that the replica does not stay; who led before and does not
//! know that it was deposed can commit nothing.

use super::{Group, GroupError, GroupStatus};
use crate::clock::locked;
use crate::machine::Machine;
use crate::peers::{PeerError, Peers, Replica};
use crate::raft::rpc::{Lives, Presence, Request, decode_may_end};
use openraft::async_runtime::watch::WatchReceiver;
use skein_model::{GroupId, LifeId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// Which lives there should be.
pub(super) struct Chosen<'a> {
    /// The life of each wanted replica that is known to live, or taken to.
    pub(super) lives: BTreeMap<u64, Replica>,
    /// The others, and why.
    pub(super) unknown: Vec<(Replica, String)>,
    /// While this is held, nobody is told that it may end.
    _asking: Asking<'a>,
}

/// Counts questions under way.
struct Asking<'a>(&'a AtomicUsize);

impl<'a> Asking<'a> {
    fn begin(count: &'a AtomicUsize) -> Asking<'a> {
        count.fetch_add(1, Ordering::SeqCst);
        Asking(count)
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl<M: Machine> Group<M> {
    /// Says whether this replica stays. One that does not is not made a member from now on; what it is, it remains.
    pub fn retire(&self, on: bool) {
        self.inner.retiring.store(on, Ordering::SeqCst);
    }

    /// The answer to who asks for this replica's life.
    pub(super) fn presence(&self) -> Presence {
        Presence { life: self.inner.life.0, stays: !self.inner.retiring.load(Ordering::SeqCst) }
    }

    /// The lives to have as members: of members that answer those they have, of all others those that they say.
    pub(super) async fn choose(&self, wanted: &BTreeSet<Replica>, status: &GroupStatus) -> Chosen<'_> {
        let inner = &*self.inner;
        // Before anybody is asked: an answer counts only until the one who gave it has leave to end.
        let asking = Asking::begin(&inner.asking);
        let patience = inner.timing.lease;
        let known = |replica: &Replica| -> Vec<LifeId> {
            let there = status.members.iter().filter(|member| member.replica == *replica);
            there.map(|member| member.life).collect()
        };
        let answers = |life: LifeId| {
            let member = status.members.iter().find(|member| member.life == life);
            member.is_some_and(|member| member.silent.is_some_and(|silent| silent < patience))
        };
        let asks = wanted.iter().map(|replica| async {
            let known = known(replica);
            let alone = if let [life] = known[..] { Some(life) } else { None };
            if *replica == inner.me {
                return (*replica, Ok(inner.life));
            }
            if let Some(life) = alone.filter(|life| answers(*life)) {
                return (*replica, Ok(life));
            }
            let life = match self.who(*replica).await {
                Ok(Presence { life, stays }) if stays || known.contains(&LifeId(life)) => Ok(LifeId(life)),
                Ok(_) => Err(format!("{} to have deleted the replica that it is giving up", replica.host)),
                // Whoever is a member and cannot be asked may well live.
                Err(error) => alone.ok_or_else(|| format!("{}, which {error}", replica.host)),
            };
            (*replica, life)
        });
        let mut chosen = Chosen { lives: BTreeMap::new(), unknown: Vec::new(), _asking: asking };
        for (replica, life) in futures_util::future::join_all(asks).await {
            match life {
                Ok(life) => {
                    chosen.lives.insert(life.0, replica);
                }
                Err(why) => chosen.unknown.push((replica, why)),
            }
        }
        chosen
    }

    async fn who(&self, replica: Replica) -> Result<Presence, PeerError> {
        let inner = &*self.inner;
        let deadline = Instant::now() + inner.timing.lease;
        let request = Request::Who.encode(Lives { from: inner.life.0, to: 0 });
        let answer = timeout_at(deadline, inner.peers.call(replica, inner.group, request, deadline)).await;
        let answer = answer.unwrap_or_else(|_| Err(PeerError::NoAnswer("the time ran out".into())))?;
        Presence::decode(answer).map_err(|error| PeerError::Refused(error.to_string()))
    }

    /// Whether a life that retired may end, as the leader says.
    pub(super) async fn may_end(&self, from: Replica, life: LifeId) -> Result<bool, GroupError> {
        let inner = &*self.inner;
        let role = *inner.role.borrow();
        if !role.leading {
            return Err(GroupError::NotLeader { leader: role.leader });
        }
        let changing = locked(&inner.changing).as_ref().is_some_and(|task| !task.is_finished());
        // Somebody may have been asked before it retired, and be added now.
        if changing || 0 < inner.asking.load(Ordering::SeqCst) {
            return Ok(false);
        }
        self.read_barrier().await?;
        let metrics = inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let is_member = [&metrics.membership_config, &metrics.committed_membership_config]
            .iter()
            .any(|membership| membership.get_node(&life.0).is_some());
        if is_member {
            tracing::debug!(group = %inner.group, host = %from.host, %life, "a member asked for leave");
        }
        Ok(!is_member)
    }
}

/// Asks these replicas of a group whether one of them leads and says that a life which retired may end. That life stays as it is.
///
/// Each is given `patience` to answer. `false` also if nobody who leads could be asked.
pub async fn may_end(
    peers: &Arc<dyn Peers>,
    group: GroupId,
    life: LifeId,
    ask: &BTreeSet<Replica>,
    patience: Duration,
) -> bool {
    for to in ask {
        let deadline = Instant::now() + patience;
        let request = Request::MayEnd.encode(Lives { from: life.0, to: 0 });
        let answer = timeout_at(deadline, peers.call(*to, group, request, deadline)).await;
        if let Ok(Ok(answer)) = answer
            && let Ok(may) = decode_may_end(answer)
        {
            return may;
        }
    }
    false
}
