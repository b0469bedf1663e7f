//! Checkpoints of the store, and the purges of the log that they allow.

use crate::error::CohortError;
use crate::raft::{LogStore, Raft};
use crate::shared::Shared;
use skein_storage::rows::Rows;
use std::sync::Arc;
use std::time::Duration;

/// Between two looks at whether a checkpoint is due.
const TICK: Duration = Duration::from_millis(250);

/// Makes the store durable. A failure other than damage leaves it as it was.
pub(crate) async fn checkpoint(shared: &Shared, rows: &Rows) -> Result<(), CohortError> {
    let rows = rows.clone();
    let done = tokio::task::spawn_blocking(move || rows.checkpoint()).await;
    let error = match done {
        Ok(Ok(_)) => return Ok(()),
        Ok(Err(error)) => CohortError::from(error),
        Err(error) => CohortError::DiskFailed { detail: format!("checkpoint: {error}") },
    };
    if let CohortError::Damaged { .. } = error {
        shared.fail(error.clone());
    }
    Err(error)
}

/// Has the store checkpointed, and the log purged, whenever the log has grown enough.
pub(crate) struct Housekeeper {
    pub(crate) shared: Arc<Shared>,
    pub(crate) raft: Raft,
    pub(crate) log: LogStore,
    pub(crate) rows: Rows,
    /// Log bytes at which a checkpoint is due.
    pub(crate) log_bytes_max: u64,
}

impl Housekeeper {
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
            // The engine checkpoints by itself when its buffers fill up; only the rest is worth another one.
            if self.log.bytes_live() / 2 < self.log.bytes_since_position(self.rows.durable_position()) {
                match checkpoint(&self.shared, &self.rows).await {
                    Ok(()) => troubled = false,
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
