//! What the threads of the pool do: one runs checkpoints, the others compact.

use super::pool::Core;
use super::{Shared, checkpoint, lock};
use crate::engine::{EngineStats, Keyspace};
use lsm_tree::AbstractTree;
use lsm_tree::compaction::Leveled;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Most that table files aim at.
const TABLE_BYTES_MAX: u64 = 64 << 20;

/// Below this a store of some size would be all files.
const TABLE_BYTES_MIN: u64 = 4 << 20;

/// Size that table files aim at. While one is written by a compaction, its index holds a key of each block, and each of
/// these keys keeps the block it was read from in memory: as many bytes as the whole table. So it has to be a small part
/// of the memory there is.
pub(super) fn table_bytes(write_buffer_bytes: u64) -> u64 {
    (write_buffer_bytes / 4).clamp(TABLE_BYTES_MIN, TABLE_BYTES_MAX)
}

/// How long to wait after a failed checkpoint or compaction: longer each time, up to this.
const RETRY_MAX: Duration = Duration::from_secs(10);
const RETRY_FIRST: Duration = Duration::from_millis(500);

/// How long to wait after the given failure of several in a row.
fn pause_after(failures: u32) -> Duration {
    RETRY_FIRST.saturating_mul(1 << failures.min(8)).min(RETRY_MAX)
}

/// What each thread for checkpoints does until the pool stops.
pub(super) fn checkpoints(core: &Core) {
    while let Some(shared) = core.next_checkpoint() {
        let mut retry = None;
        // Another caller may have done it by now.
        if 0 < shared.unflushed.load(Ordering::Acquire) {
            match shared.run_checkpoint() {
                Ok(_) => shared.failures[0].store(0, Ordering::Relaxed),
                Err(e) => {
                    let pause = pause_after(shared.failures[0].fetch_add(1, Ordering::Relaxed));
                    tracing::error!(store = %shared.dir_guard.dir.display(), error = checkpoint::describe(&e), retry_in = ?pause, "checkpoint failed");
                    retry = Some(pause);
                }
            }
        }
        core.finish_checkpoint(shared, retry);
    }
}

/// What each thread for compactions does until the pool stops: bring one tree after the other into shape.
pub(super) fn compactions(core: &Core) {
    while let Some((shared, keyspace)) = core.next_compaction() {
        let mut retry = None;
        match compact_until_in_shape(&shared, keyspace) {
            Ok(()) => {
                if shared.failures[1].swap(0, Ordering::Relaxed) != 0 {
                    *lock(&shared.trouble) = None;
                }
            }
            Err(_) if shared.is_closing() => {}
            Err(e) => {
                let e = shared.read_error(keyspace, e);
                let pause = pause_after(shared.failures[1].fetch_add(1, Ordering::Relaxed));
                tracing::error!(store = %shared.dir_guard.dir.display(), keyspace = keyspace.name(), error = checkpoint::describe(&e), retry_in = ?pause, "compaction failed");
                *lock(&shared.trouble) = Some((checkpoint::describe(&e), e.is_full()));
                shared.sweep();
                retry = Some(pause);
            }
        }
        core.finish_compaction(shared, keyspace, retry);
    }
}

fn compact_until_in_shape(shared: &Shared, keyspace: Keyspace) -> lsm_tree::Result<()> {
    // Far more rounds than any shape needs; a strategy that never settles must not keep the thread for good.
    const ROUNDS_MAX: usize = 1000;
    let table_bytes = table_bytes(shared.core.write_buffer());
    let strategy = Arc::new(Leveled::default().with_table_target_size(table_bytes));
    let tree = shared.tree(keyspace);
    for _ in 0..ROUNDS_MAX {
        if shared.is_closing() {
            return Ok(());
        }
        let before = tree.current_version().id();
        let done = {
            let _under_way = shared.begin_compaction();
            tree.compact(strategy.clone(), shared.watermark())
        };
        shared.images[keyspace.slot()].follow(tree, &[]);
        shared.see_tables(keyspace);
        done?;
        if tree.current_version().id() == before {
            break;
        }
        shared.publish_tables();
        shared.note_runs();
        shared.core.progress();
    }
    Ok(())
}

impl Shared {
    /// Remembers how many runs reads have to look into, for writers to slow down by.
    pub(super) fn note_runs(&self) {
        let most = self.trees.iter().map(AbstractTree::l0_run_count).max().unwrap_or(0);
        self.l0_runs.store(most as u64, Ordering::Relaxed);
    }
}

/// Sets the gauges to what `stats` says.
pub(super) fn publish(stats: &EngineStats) {
    for keyspace in Keyspace::ALL {
        metrics::gauge!("skein_store_bytes", "keyspace" => keyspace.name())
            .set(stats.disk_bytes[keyspace.slot()] as f64);
    }
    metrics::gauge!("skein_store_memtable_bytes").set(stats.memtable_bytes as f64);
    metrics::gauge!("skein_cache_bytes").set(stats.cache_bytes as f64);
}
