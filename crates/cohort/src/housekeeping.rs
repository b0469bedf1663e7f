//! Checkpoints of a machine, and the purges of the log that they allow.

use crate::group::Failure;
use crate::machine::{Machine, MachineError};
use crate::raft::health::Health;
use crate::raft::{LogStore, Raft};
use std::sync::Arc;
use std::time::Duration;

/// Between two looks at whether a checkpoint is due.
const TICK: Duration = Duration::from_millis(250);

/// Has the machine checkpointed, and the log purged, whenever the log has grown enough.
pub(crate) struct Housekeeper<M: Machine> {
    pub(crate) raft: Raft<M>,
    pub(crate) log: LogStore,
    pub(crate) machine: Arc<M>,
    pub(crate) health: Health,
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
            // "Snapshot" is Raft's word for "the state machine is durable up to here"; it purges the log afterwards.
            if self.raft.trigger().snapshot().await.is_err() {
                return;
            }
        }
    }
}
