//! Keeps quiet groups from holding the log of all.
//!
//! The log takes its segments back from the oldest on, so one entry of a group that has nothing to say keeps everything that
//! others wrote after it. A group checkpoints by itself only when its own entries are many. Hence: when the log as a whole has
//! grown beyond what one busy group would make of it, every group is checkpointed, which lets its old entries go.

use crate::cell::Inner;
use std::sync::Weak;
use std::time::Duration;
use tokio::sync::watch;

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(2);

/// Runs until the cell is gone or stopping.
pub(crate) async fn look_after(cell: Weak<Inner>, mut stopping: watch::Receiver<bool>) {
    let mut tick = tokio::time::interval(PERIOD);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // What the log had on disk after the last relief: without growth, another one would bring nothing.
    let mut left = 0;
    loop {
        tokio::select! {
            biased;
            _ = async { stopping.wait_for(|stopping| *stopping).await.map(drop) } => return,
            _ = tick.tick() => {}
        }
        let Some(inner) = cell.upgrade() else { return };
        let bytes = inner.log().stats().bytes_on_disk;
        left = bytes.min(left);
        let options = inner.options();
        if !is_due(bytes, left, options.checkpoint_log_bytes, options.log_segment_bytes) {
            continue;
        }
        if let Err(error) = inner.catalog().group().checkpoint().await {
            tracing::warn!(%error, "checkpoint the catalog; tried again");
        }
        for (group, cohort) in inner.groups().all() {
            if *stopping.borrow() {
                return;
            }
            if let Err(error) = cohort.checkpoint().await {
                tracing::debug!(%group, %error, "checkpoint a cohort to shorten the log; tried again");
            }
        }
        left = inner.log().stats().bytes_on_disk;
    }
}

/// Whether the log is longer than a busy group alone makes it, spare segments included, and has grown since the last relief.
fn is_due(bytes: u64, left: u64, checkpoint: u64, segment: u64) -> bool {
    let usual = checkpoint.saturating_mul(2).saturating_add(segment.saturating_mul(3));
    usual < bytes && left.saturating_add(checkpoint.max(segment)) <= bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relief_is_due_when_the_log_is_long_and_again_only_when_it_has_grown() {
        let (checkpoint, segment) = (96 << 20, 64 << 20);
        assert!(!is_due(300 << 20, 0, checkpoint, segment));
        assert!(is_due(500 << 20, 0, checkpoint, segment));
        assert!(!is_due(500 << 20, 450 << 20, checkpoint, segment));
        assert!(is_due(600 << 20, 450 << 20, checkpoint, segment));
    }
}
