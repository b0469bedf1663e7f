//! Checkpoints: all four memtables sealed at one point, and flushed with `Meta` last.

use super::{Shared, lock};
use crate::engine::{EngineError, Keyspace};
use lsm_tree::AbstractTree;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// Sorted runs in level 0 at which no more are added.
const RUNS_MAX: usize = 200;

impl Shared {
    /// Makes everything written so far durable; records trouble, or that it is over.
    pub(super) fn run_checkpoint(&self) -> Result<u64, EngineError> {
        let started = Instant::now();
        let result = self.flush_all();
        match &result {
            Ok(_) => {
                *lock(&self.trouble) = None;
                self.checkpoints.fetch_add(1, Ordering::Relaxed);
                metrics::histogram!("skein_checkpoint_seconds").record(started.elapsed().as_secs_f64());
            }
            Err(e) => {
                *lock(&self.trouble) = Some((describe(e), e.is_full()));
                self.sweep();
            }
        }
        self.note_runs();
        self.core.progress();
        result
    }

    fn flush_all(&self) -> Result<u64, EngineError> {
        let _one_at_a_time = lock(&self.checkpoint);
        let (position, sealed_bytes) = {
            let writer = lock(&self.writer);
            for (tree, image) in self.trees.iter().zip(&self.images) {
                image.seal(tree);
            }
            (writer.position, self.active.swap(0, Ordering::AcqRel))
        };
        self.core.sealed(sealed_bytes);
        let mut sealed = SealedBytes { shared: self, bytes: sealed_bytes, flushed: false };
        for keyspace in Keyspace::ALL {
            let tree = self.tree(keyspace);
            // A list of tables counts the runs of a level in one byte.
            if RUNS_MAX <= tree.l0_run_count() {
                return Err(EngineError::Io {
                    what: format!("flush {}", self.path(keyspace).display()),
                    source: std::io::Error::other("compaction is too far behind"),
                });
            }
            let image = &self.images[keyspace.slot()];
            let sealed = image.sealed_ids();
            let flush_lock = tree.get_flush_lock();
            tree.flush(&flush_lock, self.watermark()).map_err(|e| self.read_error(keyspace, e))?;
            drop(flush_lock);
            image.follow(tree, &sealed);
            self.see_tables(keyspace);
        }
        sealed.flushed = true;
        drop(sealed);
        self.durable.fetch_max(position, Ordering::AcqRel);
        self.publish_tables();
        self.core.request_compaction(self);
        Ok(position)
    }

    /// Shows new views the tables just made, and lets go of the memtables and files that only older views need.
    ///
    /// Without this, the trees would keep them until the next write or flush: they number their own changes with the
    /// counter that numbers batches, and a view looks for the newest change below its own number.
    pub(super) fn publish_tables(&self) {
        {
            // No batch is half-way in, so everything numbered so far may be seen.
            let _writer = lock(&self.writer);
            self.visible.fetch_max(self.sequence.get(), Ordering::AcqRel);
        }
        let watermark = self.watermark();
        for keyspace in Keyspace::ALL {
            let mut history = self.tree(keyspace).get_version_history_lock();
            if let Err(e) = history.maintenance(&self.path(keyspace), watermark) {
                // Only memory and small files are held longer; the next checkpoint tries again.
                tracing::warn!(keyspace = keyspace.name(), error = ?e, "could not remove old lists of tables");
            }
        }
    }
}

/// Takes flushed bytes off the account, or puts unflushed ones back on that of the active memtables, so that the next
/// checkpoint counts them again.
struct SealedBytes<'a> {
    shared: &'a Shared,
    bytes: u64,
    flushed: bool,
}

impl Drop for SealedBytes<'_> {
    fn drop(&mut self) {
        if self.flushed {
            self.shared.unflushed.fetch_sub(self.bytes, Ordering::AcqRel);
            self.shared.core.flushed(self.bytes);
        } else {
            self.shared.active.fetch_add(self.bytes, Ordering::AcqRel);
            self.shared.core.unsealed(self.bytes);
        }
    }
}

/// An error with its causes in one line.
pub(super) fn describe(error: &EngineError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
