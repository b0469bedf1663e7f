//! What there is to tell about a group.

use super::{Failure, Group, SnapshotProgress};
use crate::machine::Machine;
use crate::peers::Replica;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::{Instant as _, LogIdOptionExt};
use skein_model::LifeId;
use std::time::Duration;

/// One replica's view of its group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupStatus {
    /// This replica.
    pub me: Replica,
    /// Its life.
    pub life: LifeId,
    /// The latest term heard of.
    pub term: u64,
    /// Who leads it, if known.
    pub leader: Option<Replica>,
    /// Whether this replica leads, with everything of earlier terms applied.
    pub leading: bool,
    /// Entries in the log, from the first there ever was: the next one's index.
    pub log_end: u64,
    /// As many are known to be committed.
    pub committed_end: u64,
    /// As many are applied here.
    pub applied_end: u64,
    /// Bytes of this group's entries in the log.
    pub log_bytes: u64,
    /// The members as they were last proposed.
    pub members: Vec<MemberStatus>,
    /// The voters as they were last committed.
    pub committed_voters: Vec<Replica>,
    /// Whether a change of members is under way: two sets of voters, or one not committed yet.
    pub changing: bool,
    /// Why this replica stopped, if it did.
    pub failure: Option<Failure>,
}

/// One member of a group. What it has is known to the leader only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberStatus {
    /// Where it lives.
    pub replica: Replica,
    /// Which of those who lived there.
    pub life: LifeId,
    /// Whether it votes, or only learns.
    pub voter: bool,
    /// Entries it has, from the first; `None` if not known.
    pub log_end: Option<u64>,
    /// How long ago it answered what it was then sent; `None` if it never did, or this replica does not lead.
    pub silent: Option<Duration>,
    /// The snapshot that it is being sent.
    pub snapshot: Option<SnapshotProgress>,
}

impl GroupStatus {
    /// Entries that a member lacks, as far as the leader knows.
    pub fn lag(&self, member: &MemberStatus) -> Option<u64> {
        member.log_end.map(|end| self.log_end.saturating_sub(end))
    }
}

impl<M: Machine> Group<M> {
    /// What there is to tell, as of now.
    pub fn status(&self) -> GroupStatus {
        let inner = &*self.inner;
        let role = *inner.role.borrow();
        let metrics = inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let effective = &metrics.membership_config;
        let committed = &metrics.committed_membership_config;
        let voters: Vec<u64> = effective.voter_ids().collect();
        let members = effective.nodes().map(|(node, replica)| {
            let me = *node == inner.life.0;
            let matched = metrics.replication.as_ref().and_then(|all| all.get(node)).copied();
            let heard = metrics.heartbeat.as_ref().and_then(|all| all.get(node)).copied().flatten();
            MemberStatus {
                replica: *replica,
                life: LifeId(*node),
                voter: voters.contains(node),
                log_end: if me {
                    Some(metrics.last_log_index.map_or(0, |last| last + 1))
                } else {
                    matched.map(|at| at.next_index())
                },
                silent: if me { Some(Duration::ZERO) } else { heard.map(|at| at.into_inner().elapsed()) },
                snapshot: inner.outbound.progress(*node),
            }
        });
        let committed_voters = committed.voter_ids().filter_map(|node| committed.get_node(&node).copied());
        GroupStatus {
            me: inner.me,
            life: inner.life,
            term: role.term,
            leader: role.leader,
            leading: role.leading,
            log_end: metrics.last_log_index.map_or(0, |last| last + 1),
            committed_end: metrics.local_committed.next_index(),
            applied_end: metrics.last_applied.next_index(),
            log_bytes: inner.log.bytes_live(),
            members: members.collect(),
            committed_voters: committed_voters.collect(),
            changing: effective.log_id() != committed.log_id() || 1 < effective.get_joint_config().len(),
            failure: inner.health.failure(),
        }
    }
}
