//! Checkpoints of a machine, and the purges of the log that they allow.

use crate::group::Failure;
use crate::machine::{Machine, MachineError};
use crate::raft::health::Health;
use crate::raft::outbound::Outbound;
use crate::raft::{Applied, LogStore, Raft};
use openraft::async_runtime::watch::WatchReceiver;
use std::sync::Arc;
use std::time::Duration;

/// Between two looks at whether a checkpoint is due.
const TICK: Duration = Duration::from_millis(500);

/// A replica that is behind may have so many times the usual log kept for it before it has to take a snapshot…
const KEEP_FOR_THE_SLOW: u64 = 4;
/// …and so many times while it takes one, which would be for nothing if the log after it were gone.
const KEEP_FOR_A_SNAPSHOT: u64 = 16;

/// Has the machine checkpointed, and the log purged, whenever the log has grown enough.
pub(crate) struct Housekeeper<M: Machine> {
    pub(crate) raft: Raft<M>,
    pub(crate) log: LogStore,
    pub(crate) machine: Arc<M>,
    pub(crate) health: Health,
    pub(crate) applied: Arc<Applied>,
    pub(crate) outbound: Outbound<M>,
    /// Log bytes at which a checkpoint is due.
    pub(crate) log_bytes_max: u64,
}

impl<M: Machine> Housekeeper<M> {
    /// Runs until Raft has stopped.
    pub(crate) async fn run(self) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut troubled = false;
        loop {
            tick.tick().await;
            if self.log.bytes_live() < self.log_bytes_max {
                continue;
            }
            // The machine may checkpoint by itself when its buffers fill up; only the rest is worth another one.
            if self.log.bytes_live() / 2 < self.log.bytes_since_position(self.machine.durable_position()) {
                match self.machine.checkpoint().await {
                    Ok(()) => troubled = false,
                    Err(MachineError::Damaged(detail)) => self.health.fail(Failure::Damaged(detail)),
                    Err(error) if troubled => tracing::debug!(%error, "checkpoint"),
                    Err(error) => {
                        tracing::warn!(%error, "checkpoint the store; tried again until it works");
                        troubled = true;
                    }
                }
            }
            self.applied.hold_after(self.needed_after());
            // "Snapshot" is Raft's word for "the state machine is durable up to here"; it purges the log afterwards.
            if self.raft.trigger().snapshot().await.is_err() {
                return;
            }
        }
    }

    /// The entry after which some other replica still needs the log, as far as that is to be waited for.
    fn needed_after(&self) -> Option<u64> {
        let live = self.log.bytes_live();
        let snapshots = if live < self.log_bytes_max.saturating_mul(KEEP_FOR_A_SNAPSHOT) {
            self.outbound.oldest_index()
        } else {
            None
        };
        if self.log_bytes_max.saturating_mul(KEEP_FOR_THE_SLOW) <= live {
            return snapshots;
        }
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        // Only a leader knows. Who takes a snapshot, or has nothing at all and will, needs no earlier log.
        let slowest = metrics.replication.as_ref().and_then(|replication| {
            let waits = |node: &u64| self.outbound.progress(*node).is_none();
            replication
                .iter()
                .filter(|(node, _)| waits(node))
                .filter_map(|(_, at)| Some(at.as_ref()?.index))
                .min()
        });
        match (slowest, snapshots) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }
}
