//! Handing leadership over.

use super::{Group, GroupError};
use crate::machine::Machine;
use crate::peers::Replica;
use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::{Instant as _, LogIdOptionExt};
use skein_model::{LifeId, StoreId};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A replica this many entries behind or fewer may take over: it has them before it is elected.
pub(super) const LAG_MAX: u64 = 256;

impl<M: Machine> Group<M> {
    /// Hands leadership over to this replica, and waits until it leads. While it lasts, a few round trips, nobody takes proposals;
    /// from the moment it begins this replica's lease is over, for good in this term.
    ///
    /// Errors: [`GroupError::NotLeader`], [`GroupError::Membership`] when the replica is no voter or too far behind, and
    /// [`GroupError::NoQuorum`] when it did not take over in time. Leadership is open then, and soon somebody is elected.
    /// Dropping the future does not stop a handover that has begun.
    pub async fn transfer(&self, to: StoreId) -> Result<(), GroupError> {
        let group = self.clone();
        let done = tokio::spawn(async move { group.hand_over(to).await });
        match done.await {
            Ok(done) => done,
            Err(error) => Err(GroupError::NoQuorum(format!("handing over was cut short: {error}"))),
        }
    }

    async fn hand_over(&self, to: StoreId) -> Result<(), GroupError> {
        let inner = &*self.inner;
        let mut role = inner.role.clone();
        let Replica { store: me, .. } = inner.me;
        let term = {
            let role = role.borrow_and_update();
            if !role.leading {
                return Err(GroupError::NotLeader { leader: role.leader });
            }
            role.term
        };
        if to == me {
            return Ok(());
        }
        let heir = self.heir(to)?;
        if inner.handing_over.swap(term, Ordering::SeqCst) == term {
            return Err(GroupError::Membership("leadership is being handed over already".into()));
        }
        let trigger = inner.raft.trigger();
        trigger.transfer_leader(heir.0).await.map_err(|fatal| self.stopped(&fatal))?;
        // The new leader's term is heard of when it asks for votes; a lease is ample for that.
        let patience = inner.timing.lease;
        let changed = {
            let changed = tokio::time::timeout(patience, role.wait_for(|role| role.term != term));
            changed.await.is_ok_and(|waited| waited.is_ok())
        };
        if changed {
            let takes_over = role.wait_for(|role| role.leader.is_some_and(|leader| leader.store == to));
            let led = tokio::time::timeout(patience, takes_over).await.is_ok_and(|waited| waited.is_ok());
            let missed = || GroupError::NoQuorum("somebody else may have been elected instead".into());
            return if led { Ok(()) } else { Err(missed()) };
        }
        // Raft takes no proposals any more in this term, so it has to end. Whoever is elected begins another.
        trigger.elect(false).await.map_err(|fatal| self.stopped(&fatal))?;
        Err(GroupError::NoQuorum(format!("{to} did not take over within {patience:?}")))
    }

    /// The life in a directory that can take over; the error says why there is none.
    pub(super) fn heir(&self, to: StoreId) -> Result<LifeId, GroupError> {
        let status = self.status();
        let mut why = GroupError::Membership(format!("{to} is no member"));
        for member in status.members.iter().filter(|member| member.replica.store == to) {
            match self.check_can_lead(member.life) {
                Ok(()) => return Ok(member.life),
                Err(error) => why = error,
            }
        }
        Err(why)
    }

    /// Whether a life of a replica is a voter and close enough behind to be elected.
    fn check_can_lead(&self, to: LifeId) -> Result<(), GroupError> {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        if metrics.state != ServerState::Leader {
            let node = metrics.current_leader;
            let leader = node.and_then(|node| metrics.membership_config.get_node(&node).copied());
            return Err(GroupError::NotLeader { leader });
        }
        if !metrics.membership_config.voter_ids().any(|node| node == to.0) {
            return Err(GroupError::Membership(format!("{to} is no voter")));
        }
        let matched = metrics.replication.as_ref().and_then(|all| all.get(&to.0)).copied().flatten();
        let behind = metrics.last_log_index.map_or(0, |last| last + 1).saturating_sub(matched.next_index());
        if LAG_MAX < behind {
            return Err(GroupError::Membership(format!("{to} is {behind} entries behind")));
        }
        let heard = metrics.heartbeat.as_ref().and_then(|all| all.get(&to.0)).copied().flatten();
        let silent = heard.map(|at| at.into_inner().elapsed());
        if silent.is_none_or(|silent| self.inner.timing.lease < silent) {
            return Err(GroupError::Membership(format!("{to} has not answered for a while")));
        }
        Ok(())
    }

    /// How long to give an election.
    pub(super) fn election_patience(&self) -> Duration {
        self.inner.timing.lease + self.inner.timing.campaign_spread
    }
}
