//! Checkpoints: all four buffers frozen at one point, and flushed with `Meta` last.

use super::buffer::Buffer;
use super::merge::{Merge, of_buffers};
use super::{Shared, lock};
use crate::engine::{EngineError, Keyspace};
use lsm_tree::{AbstractTree, InternalValue, Slice, ValueType};
use std::ops::Bound;
use std::sync::Arc;
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
            // No view is taken between the keyspaces.
            let _views = lock(&self.views);
            self.images.iter().for_each(|image| image.freeze());
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
            self.flush(keyspace).map_err(|e| self.read_error(keyspace, e))?;
        }
        sealed.flushed = true;
        drop(sealed);
        self.durable.fetch_max(position, Ordering::AcqRel);
        self.publish_tables();
        self.core.request_compaction(self);
        Ok(position)
    }

    /// Writes the frozen buffers of a keyspace to tables.
    ///
    /// Of each key only the newest entry: a view that needs an older one has the buffers, and does not see these tables, which
    /// are registered under a number above its own.
    fn flush(&self, keyspace: Keyspace) -> lsm_tree::Result<()> {
        let (tree, image) = (self.tree(keyspace), &self.images[keyspace.slot()]);
        let frozen = image.frozen();
        if frozen.is_empty() {
            return Ok(());
        }
        let flush_lock = tree.get_flush_lock();
        if let Some((tables, _)) = tree.flush_to_tables(self.newest_of(keyspace, &frozen))? {
            tree.register_tables(&tables, None, None, &[], self.watermark())?;
        }
        drop(flush_lock);
        self.show_tables();
        image.follow(tree, &frozen);
        self.see_tables(keyspace);
        Ok(())
    }

    /// The newest entry of each key in some buffers, in order. Those of rows pass by the cache of the newest, which
    /// nobody asked about them as long as they were in the buffers.
    fn newest_of(
        &self,
        keyspace: Keyspace,
        buffers: &[Arc<Buffer>],
    ) -> impl Iterator<Item = lsm_tree::Result<InternalValue>> {
        let all = of_buffers(buffers, Bound::Unbounded, Bound::Unbounded, u64::MAX);
        Merge::new(all).map(move |entry| {
            let entry = entry?;
            if keyspace == Keyspace::Head {
                self.core.newest.flushed(self.number, &entry.key, entry.value.as_ref());
            }
            let key = Slice::from(entry.key);
            Ok(match entry.value {
                Some(value) => InternalValue::from_components(key, value, entry.seqno, ValueType::Value),
                None => InternalValue::new_tombstone(key, entry.seqno),
            })
        })
    }

    /// Lets new views see all tables there are.
    fn show_tables(&self) {
        // No batch is half-way in, so everything numbered so far may be seen.
        let _writer = lock(&self.writer);
        self.visible.fetch_max(self.sequence.get(), Ordering::AcqRel);
    }

    /// Shows new views the tables just made, and lets go of the files that only older views need.
    ///
    /// Without this, the trees would keep them until the next write or flush: they number their own changes with the
    /// counter that numbers batches, and a view looks for the newest change below its own number.
    pub(super) fn publish_tables(&self) {
        self.show_tables();
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

/// Takes flushed bytes off the account, or puts unflushed ones back on that of the active buffers, so that the next
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
