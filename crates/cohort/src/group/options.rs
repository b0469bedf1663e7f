//! How a group is run.

use crate::peers::{Peers, Replica};
use crate::raft::health::OnFailure;
use crate::raft::outbound::Throttle;
use skein_model::{GroupId, LifeId};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How a replica is run.
#[derive(Clone)]
pub struct GroupOptions {
    /// This replica.
    pub me: Replica,
    /// Its life: the replica has had it since its log and its machine were made, and nobody else ever had it in this group.
    pub life: LifeId,
    /// The group it is one of.
    pub group: GroupId,
    /// The other replicas.
    pub peers: Arc<dyn Peers>,
    /// Heartbeats and elections.
    pub timing: Timing,
    /// Heartbeats leave at this moment and every [`Timing::heartbeat`] from then on. The same for all groups of a process: their
    /// heartbeats then travel together, which costs a fraction of what it costs one by one.
    pub beats_from: Instant,
    /// All the replica's luck: decides who campaigns first. Should differ between replicas.
    pub seed: u64,
    /// The machine is checkpointed, and the log cut, when the log holds this many bytes past the last checkpoint.
    pub checkpoint_log_bytes: u64,
    /// Slows down the snapshots that this replica sends; `None` for as fast as they are taken.
    pub throttle: Option<Arc<dyn Throttle>>,
    /// Tells how long the machine has been suspended; `None` where that cannot be.
    pub suspend_clock: Option<SuspendClock>,
    /// Called once should the replica stop for good, also when it is closed.
    pub on_failure: OnFailure,
}

impl fmt::Debug for GroupOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupOptions")
            .field("me", &self.me)
            .field("group", &self.group)
            .finish_non_exhaustive()
    }
}

/// How long the machine has been suspended in all. A suspended leader's own clock stands still while others elect another one.
pub type SuspendClock = Arc<dyn Fn() -> Duration + Send + Sync>;

/// When replicas talk to and despair of each other. The same on all replicas of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Between two heartbeats of a leader that has nothing else to say.
    pub heartbeat: Duration,
    /// How long a follower that heard from a leader votes for nobody else; how long the leader may rely on that, less the margin.
    pub lease: Duration,
    /// Subtracted from the leader's lease: what its clock may run slow by against a follower's within one lease.
    pub lease_margin: Duration,
    /// A follower campaigns at a random moment within this after the lease ran out.
    pub campaign_spread: Duration,
}

impl Default for Timing {
    fn default() -> Timing {
        Timing {
            // One may get lost, and the next still comes before the lease is over.
            heartbeat: Duration::from_millis(400),
            lease: Duration::from_millis(900),
            lease_margin: Duration::from_millis(100),
            campaign_spread: Duration::from_millis(500),
        }
    }
}
