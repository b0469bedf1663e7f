//! The threads of the engine: one runs checkpoints, the others compact.

use super::{Shared, checkpoint, lock};
use crate::engine::{EngineError, EngineStats, Keyspace};
use lsm_tree::AbstractTree;
use lsm_tree::compaction::Leveled;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
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

/// What threads tell each other.
#[derive(Default)]
pub(super) struct Signals {
    wanted: Mutex<Wanted>,
    /// Wakes the background threads.
    work: Condvar,
    /// Wakes writers that wait for room.
    progress: Condvar,
    stopped: AtomicBool,
}

#[derive(Default)]
struct Wanted {
    checkpoint: bool,
    /// By [`Keyspace::slot`].
    compaction: [bool; 4],
    /// Rises with every flush and compaction.
    progress: u64,
}

impl Signals {
    pub(super) fn request_checkpoint(&self) {
        lock(&self.wanted).checkpoint = true;
        self.work.notify_all();
    }

    pub(super) fn request_compaction(&self) {
        lock(&self.wanted).compaction = [true; 4];
        self.work.notify_all();
    }

    pub(super) fn progress(&self) {
        lock(&self.wanted).progress += 1;
        self.progress.notify_all();
    }

    pub(super) fn wait_for_progress(&self, at_most: Duration) {
        let wanted = lock(&self.wanted);
        let seen = wanted.progress;
        let waited = self.progress.wait_timeout_while(wanted, at_most, |wanted| wanted.progress == seen);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    fn stop(&self) {
        // Under the lock, so that no thread checks the flag just before and then sleeps through the wake-up.
        let _wanted = lock(&self.wanted);
        self.stopped.store(true, Ordering::Release);
        self.work.notify_all();
        self.progress.notify_all();
    }

    /// Sleeps until stopped, at most so long.
    fn pause(&self, at_most: Duration) {
        let waited = self.work.wait_timeout_while(lock(&self.wanted), at_most, |_| !self.is_stopped());
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// Waits until `pick` finds something to do; `None` when stopped.
    fn next<T>(&self, mut pick: impl FnMut(&mut Wanted) -> Option<T>) -> Option<T> {
        let mut wanted = lock(&self.wanted);
        loop {
            if self.is_stopped() {
                return None;
            }
            if let Some(found) = pick(&mut wanted) {
                return Some(found);
            }
            wanted = self.work.wait(wanted).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// What a thread does until the engine stops.
type Body = fn(&Shared);

/// The running threads.
pub(super) struct Workers {
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    pub(super) fn start(shared: &Arc<Shared>, compactors: usize) -> Result<Workers, EngineError> {
        let mut workers = Workers { threads: Vec::new() };
        let mut bodies: Vec<(String, Body)> = vec![("skein-flush".to_owned(), checkpoints)];
        bodies.extend((0..compactors).map(|n| (format!("skein-lsm-{n}"), compactions as Body)));
        for (name, body) in bodies {
            let for_thread = shared.clone();
            match std::thread::Builder::new().name(name).spawn(move || body(&for_thread)) {
                Ok(thread) => workers.threads.push(thread),
                Err(e) => {
                    workers.stop(shared);
                    return Err(EngineError::io("start a background thread", e));
                }
            }
        }
        // A store left in the middle of things has compactions to catch up with.
        shared.note_runs();
        shared.signals.request_compaction();
        Ok(workers)
    }

    pub(super) fn stop(&mut self, shared: &Shared) {
        shared.signals.stop();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a background thread of the store had panicked");
            }
        }
    }
}

/// Runs checkpoints as they are asked for or the write buffer fills up.
fn checkpoints(shared: &Shared) {
    let mut retry = RETRY_FIRST;
    while let Some(()) = shared.signals.next(|wanted| std::mem::take(&mut wanted.checkpoint).then_some(())) {
        // Another caller may have done it by now.
        if shared.unflushed.load(Ordering::Acquire) == 0 {
            shared.signals.progress();
            continue;
        }
        match shared.run_checkpoint() {
            Ok(_) => retry = RETRY_FIRST,
            Err(e) => {
                tracing::error!(error = checkpoint::describe(&e), retry_in = ?retry, "checkpoint failed");
                shared.signals.pause(retry);
                retry = (retry * 2).min(RETRY_MAX);
                shared.signals.request_checkpoint();
            }
        }
    }
}

/// Compacts each tree until it is in shape.
fn compactions(shared: &Shared) {
    let mut retry = RETRY_FIRST;
    let pick = |wanted: &mut Wanted| {
        let slot = wanted.compaction.iter().position(|wanted| *wanted)?;
        wanted.compaction[slot] = false;
        Some(Keyspace::ALL[slot])
    };
    while let Some(keyspace) = shared.signals.next(pick) {
        match compact_until_in_shape(shared, keyspace) {
            Ok(()) => {
                if retry != RETRY_FIRST {
                    *lock(&shared.trouble) = None;
                }
                retry = RETRY_FIRST;
            }
            Err(_) if shared.signals.is_stopped() => return,
            Err(e) => {
                let e = shared.read_error(keyspace, e);
                tracing::error!(keyspace = keyspace.name(), error = checkpoint::describe(&e), retry_in = ?retry, "compaction failed");
                *lock(&shared.trouble) = Some((checkpoint::describe(&e), e.is_full()));
                shared.sweep();
                shared.signals.pause(retry);
                retry = (retry * 2).min(RETRY_MAX);
                lock(&shared.signals.wanted).compaction[keyspace.slot()] = true;
            }
        }
    }
}

fn compact_until_in_shape(shared: &Shared, keyspace: Keyspace) -> lsm_tree::Result<()> {
    // Far more rounds than any shape needs; a strategy that never settles must not keep the thread for good.
    const ROUNDS_MAX: usize = 1000;
    let table_bytes = table_bytes(shared.write_buffer.load(Ordering::Relaxed));
    let strategy = Arc::new(Leveled::default().with_table_target_size(table_bytes));
    let tree = shared.tree(keyspace);
    for _ in 0..ROUNDS_MAX {
        if shared.signals.is_stopped() {
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
        shared.signals.progress();
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
