//! How much room the disk has, looked at a few times a second rather than at every write.

use skein_storage::disk::Disk;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Between two looks.
const PERIOD: Duration = Duration::from_millis(200);

/// The latest reading, shared by those who decide whether to write.
pub(crate) struct Space {
    disk: Arc<dyn Disk>,
    free: AtomicU64,
    reserve: u64,
}

impl Space {
    pub(crate) fn new(disk: Arc<dyn Disk>, reserve: u64) -> Arc<Space> {
        let space = Arc::new(Space { disk, free: AtomicU64::new(u64::MAX), reserve });
        space.look();
        space
    }

    fn look(&self) {
        // An unreadable reading must not stop writes: they will meet the disk's own answer.
        let free = self.disk.free_bytes().unwrap_or(u64::MAX);
        self.free.store(free, Ordering::Relaxed);
        if free != u64::MAX {
            metrics::gauge!("skein_disk_free_bytes").set(free as f64);
        }
    }

    /// The latest reading; `None` if the disk cannot tell.
    pub(crate) fn free_bytes(&self) -> Option<u64> {
        Some(self.free.load(Ordering::Relaxed)).filter(|free| *free != u64::MAX)
    }

    /// Says what is missing if less is free than is kept in reserve for checkpoints and compaction.
    pub(crate) fn check(&self) -> Result<(), String> {
        let free = self.free.load(Ordering::Relaxed);
        if free < self.reserve {
            return Err(format!(
                "{free} bytes are free on the drive of {}, and {} are kept in reserve; \
                 free some space or lower --disk-reserve",
                self.disk.describe(""),
                self.reserve
            ));
        }
        Ok(())
    }

    /// Looks until the cell is gone.
    pub(crate) async fn watch(self: Arc<Self>) {
        let mut tick = tokio::time::interval(PERIOD);
        while 1 < Arc::strong_count(&self) {
            tick.tick().await;
            self.look();
        }
    }
}
