//! Whether a leader may answer reads without asking: while a quorum has promised to vote for nobody else.
//!
//! A follower that hears from its leader refuses its vote for [`Timing::lease`](super::Timing::lease) from then on; one that starts again refuses it
//! for as long, because it may have promised before. The leader counts from when it *sent* what a quorum answered, less a margin for
//! clocks that run at different speeds, so its lease is over before theirs. Handing over lets a new leader be elected at once;
//! that ends the lease beforehand, for the rest of the term: the message may arrive late.

use super::{Group, SuspendClock};
use crate::clock::locked;
use crate::machine::Machine;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::{Instant as _, ServerState};
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

/// A longer sleep than this counts; clocks read one after the other differ a little anyway.
const SUSPENDED_MIN: Duration = Duration::from_millis(20);

/// Notices that the machine was suspended: the clock that leases go by does not count that time.
pub(super) struct Suspended {
    clock: Option<SuspendClock>,
    /// How long it was suspended when last asked, and when that was first seen.
    seen: Mutex<(Duration, Option<Instant>)>,
}

impl Suspended {
    pub(super) fn new(clock: Option<SuspendClock>) -> Suspended {
        let now = clock.as_ref().map_or(Duration::ZERO, |clock| clock());
        Suspended { clock, seen: Mutex::new((now, None)) }
    }

    /// Whether the machine has been awake ever since `moment`.
    fn awake_since(&self, moment: Instant) -> bool {
        let Some(clock) = &self.clock else { return true };
        let total = clock();
        let mut seen = locked(&self.seen);
        if seen.0 + SUSPENDED_MIN < total {
            *seen = (total, Some(Instant::now()));
        }
        seen.1.is_none_or(|woken| woken < moment)
    }
}

impl<M: Machine> Group<M> {
    /// Whether this replica leads `term` and certainly nobody leads a later one yet: what is applied here is all there is.
    ///
    /// Holds for the moment of asking, so whoever answers a read asks after having taken the time to read at. Cheap.
    pub fn lease_valid(&self, term: u64) -> bool {
        let inner = &*self.inner;
        let role = *inner.role.borrow();
        if !role.leading || role.term != term || inner.handing_over.load(Ordering::SeqCst) == term {
            return false;
        }
        let metrics = inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let leader = metrics.vote.leader_id;
        if metrics.state != ServerState::Leader
            || !metrics.vote.committed
            || (leader.term, leader.node_id) != (term, inner.life.0)
            || metrics.running_state.is_err()
        {
            return false;
        }
        let mut voters = metrics.membership_config.voter_ids();
        if voters.next() == Some(inner.life.0) && voters.next().is_none() {
            return true;
        }
        let Some(acked) = metrics.last_quorum_acked else { return false };
        let acked = acked.into_inner();
        let lease = inner.timing.lease.saturating_sub(inner.timing.lease_margin);
        acked.elapsed() < lease && inner.suspended.awake_since(Instant::now() - acked.elapsed())
    }
}
