//! Bringing the members of a group to what is wanted, one step at a time, all of them repeatable: whoever leads asks again and
//! again, and what is wanted may be another set each time.
//!
//! New members learn first, and vote once they have nearly everything; then the voters change at once, through a joint
//! configuration (Ongaro, "Consensus: Bridging Theory and Practice", 2014, 4.3), so that the group never depends on somebody who
//! is behind. What is wanted names directories; which life of a replica that means, the one who lives there says ([`super::lives`]), and a
//! member whose life is over is replaced by the one that is lived there now. A leader that is not wanted makes everybody wanted a voter beside itself, hands over, and leaves the
//! rest to its successor.

use super::transfer::LAG_MAX;
use super::{Group, GroupError, GroupStatus, MemberStatus};
use crate::clock::locked;
use crate::machine::Machine;
use crate::peers::Replica;
use crate::raft::Leader;
use openraft::ChangeMembers;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::error::{ClientWriteError, RaftError};
use openraft::raft::Precondition;
use std::collections::BTreeSet;
use std::time::Duration;

/// As many voters as a group may have at a time; more would make every write slow, and a record of them long.
const VOTERS_MAX: usize = 64;

/// Where the change of members stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reconcile {
    /// The members are exactly those wanted, and that is committed.
    Done,
    /// These were made members that learn.
    Added(Vec<Replica>),
    /// These have not nearly everything yet.
    CatchingUp(Vec<MemberStatus>),
    /// A change of voters is under way, or not committed yet; these voters have not answered for a while.
    Changing {
        /// Voters, old or new, that do not answer.
        silent: Vec<Replica>,
    },
    /// Leadership went to a member that stays, which will do the rest.
    HandedOver(Replica),
    /// Nobody who is wanted can take over yet.
    Waiting(String),
}

impl<M: Machine> Group<M> {
    /// Takes one step towards having exactly these voters and no other members, and tells where that stands. Repeat it until it
    /// is [`Reconcile::Done`]; a second or so in between is plenty.
    ///
    /// Errors: [`GroupError::NotLeader`]; [`GroupError::Membership`] for an empty or far too large set, or one that names a host twice.
    /// Dropping the future does not stop a step that has begun.
    pub async fn reconcile(&self, wanted: &BTreeSet<Replica>) -> Result<Reconcile, GroupError> {
        check_wanted(wanted)?;
        let status = self.status();
        if !status.leading {
            return Err(GroupError::NotLeader { leader: status.leader });
        }
        if let Some(result) = self.last_change().await {
            result?;
        } else if locked(&self.inner.changing).is_some() {
            return Ok(self.changing(&status));
        }
        let (config, at) = {
            let metrics = self.inner.raft.metrics();
            let metrics = metrics.borrow_watched();
            let membership = &metrics.membership_config;
            if membership.log_id() != metrics.committed_membership_config.log_id() {
                return Ok(self.changing(&status));
            }
            (membership.get_joint_config().clone(), *membership.log_id())
        };
        if 1 < config.len() {
            // A leader before this one did not finish: the later of the two sets is the one to go on with.
            self.change(ChangeMembers::AddVoterIds(BTreeSet::new()), Retain::Yes, at);
            return Ok(self.settle(&status).await);
        }
        let chosen = self.choose(wanted, &status).await;
        if self.inner.role.borrow().term != status.term {
            // What was said to the leader of an earlier term counts no more.
            return Err(GroupError::NotLeader { leader: self.inner.role.borrow().leader });
        }
        let ids: BTreeSet<u64> = chosen.lives.keys().copied().collect();
        let voters = config.into_iter().next().unwrap_or_default();
        let nodes: BTreeSet<u64> = status.members.iter().map(|member| member.life.0).collect();
        let mut missing = chosen.lives.clone();
        missing.retain(|life, _| !nodes.contains(life));
        if !missing.is_empty() {
            self.change(ChangeMembers::AddNodes(missing.clone()), Retain::Yes, at);
            // From here on the change itself stands in the way of whoever wants to end.
            drop(chosen);
            self.settle(&status).await;
            return Ok(Reconcile::Added(missing.into_values().collect()));
        }
        if !chosen.unknown.is_empty() {
            let why: Vec<String> = chosen.unknown.iter().map(|(_, why)| why.clone()).collect();
            return Ok(Reconcile::Waiting(why.join("; ")));
        }
        drop(chosen);
        let behind: Vec<MemberStatus> = status
            .members
            .iter()
            .filter(|m| ids.contains(&m.life.0) && !voters.contains(&m.life.0))
            .filter(|m| status.lag(m).is_none_or(|lag| LAG_MAX < lag))
            .cloned()
            .collect();
        if !behind.is_empty() {
            return Ok(Reconcile::CatchingUp(behind));
        }
        let me = self.inner.life.0;
        if !ids.contains(&me) {
            return self.leave(wanted, ids, voters, at, &status).await;
        }
        if voters != ids {
            self.change(ChangeMembers::ReplaceAllVoters(ids), Retain::No, at);
            return Ok(self.settle(&status).await);
        }
        let learners: BTreeSet<u64> = nodes.difference(&ids).copied().collect();
        if !learners.is_empty() {
            self.change(ChangeMembers::RemoveNodes(learners), Retain::No, at);
            return Ok(self.settle(&status).await);
        }
        Ok(Reconcile::Done)
    }

    /// The leader itself is not wanted.
    async fn leave(
        &self,
        wanted: &BTreeSet<Replica>,
        mut ids: BTreeSet<u64>,
        voters: BTreeSet<u64>,
        at: Option<crate::raft::RaftLogId>,
        status: &GroupStatus,
    ) -> Result<Reconcile, GroupError> {
        if !ids.is_subset(&voters) {
            ids.insert(self.inner.life.0);
            self.change(ChangeMembers::ReplaceAllVoters(ids), Retain::No, at);
            return Ok(self.settle(status).await);
        }
        let mut why = String::new();
        for replica in wanted {
            if let Err(error) = self.heir(replica.store) {
                why = error.to_string();
                continue;
            }
            return match self.transfer(replica.store).await {
                Ok(()) => Ok(Reconcile::HandedOver(*replica)),
                Err(error @ (GroupError::NotLeader { .. } | GroupError::Stopped(_))) => Err(error),
                Err(error) => Ok(Reconcile::Waiting(error.to_string())),
            };
        }
        Ok(Reconcile::Waiting(why))
    }

    /// The result of the change that was under way, once it has one.
    async fn last_change(&self) -> Option<Result<(), GroupError>> {
        let task = {
            let mut changing = locked(&self.inner.changing);
            match &*changing {
                Some(task) if task.is_finished() => changing.take(),
                _ => None,
            }
        }?;
        // It is finished, so this does not wait.
        Some(task.await.unwrap_or_else(|e| Err(GroupError::Membership(format!("was cut short: {e}")))))
    }

    /// Begins a change of the members as they were at `at`, in the present term only.
    fn change(
        &self,
        change: ChangeMembers<u64, Replica>,
        retain: Retain,
        at: Option<crate::raft::RaftLogId>,
    ) {
        let term = self.inner.role.borrow().term;
        let raft = self.inner.raft.clone();
        let health = self.inner.health.clone();
        let unchanged = Precondition::LastMembershipLogId { last_membership_log_id: at };
        let committed_leader_id = Leader { term, node_id: self.inner.life.0 };
        let same_reign = Precondition::CommittedLeaderId { committed_leader_id };
        let retain = matches!(retain, Retain::Yes);
        let task = tokio::spawn(async move {
            match raft.change_membership_if(change, retain, [unchanged, same_reign]).await {
                Ok(_) => Ok(()),
                Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to))) => {
                    Err(GroupError::NotLeader { leader: to.leader_node })
                }
                Err(RaftError::APIError(error)) => Err(GroupError::Membership(error.to_string())),
                Err(RaftError::Fatal(fatal)) => Err(match health.failure() {
                    Some(failure) => failure.into(),
                    None => GroupError::Membership(fatal.to_string()),
                }),
            }
        });
        *locked(&self.inner.changing) = Some(task);
    }

    /// Gives a change that has begun a moment to be done.
    async fn settle(&self, status: &GroupStatus) -> Reconcile {
        let mut waited = Duration::ZERO;
        let step = Duration::from_millis(5);
        while waited < self.election_patience() {
            let finished = locked(&self.inner.changing).as_ref().is_none_or(|task| task.is_finished());
            if finished {
                break;
            }
            tokio::time::sleep(step).await;
            waited += step;
        }
        self.changing(status)
    }

    fn changing(&self, status: &GroupStatus) -> Reconcile {
        let patience = self.inner.timing.lease;
        let silent = status
            .members
            .iter()
            .filter(|member| member.voter && member.silent.is_none_or(|silent| patience < silent));
        Reconcile::Changing { silent: silent.map(|member| member.replica).collect() }
    }
}

/// Whether members that lose their vote stay to learn.
#[derive(Clone, Copy)]
enum Retain {
    Yes,
    No,
}

fn check_wanted(wanted: &BTreeSet<Replica>) -> Result<(), GroupError> {
    let hosts: BTreeSet<_> = wanted.iter().map(|replica| replica.host).collect();
    let stores: BTreeSet<_> = wanted.iter().map(|replica| replica.store).collect();
    if wanted.is_empty() || VOTERS_MAX < wanted.len() {
        let text = format!("a group has between 1 and {VOTERS_MAX} members, not {}", wanted.len());
        return Err(GroupError::Membership(text));
    }
    if hosts.len() < wanted.len() || stores.len() < wanted.len() {
        return Err(GroupError::Membership("a host or a store is named twice".into()));
    }
    Ok(())
}
