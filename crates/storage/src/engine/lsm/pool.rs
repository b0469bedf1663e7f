//! What all engines of a process share: caches, table files kept open, the write buffer, and a few threads.
//!
//! The write buffer is one sum over what all engines have in memory. When half of it is active, the engine that has most is checkpointed,
//! then the next; writers wait only when all of it is taken. Threads sleep until there is something to do, so an idle
//! engine costs its place in a map.

use super::background;
use super::newest::Newest;
use super::{Delete, DirGuard, EngineOptions, LsmEngine, Shared, lock};
use crate::engine::{EngineError, EngineStats, Keyspace};
use lsm_tree::{AbstractTree, Cache, DescriptorTable};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A smaller write buffer would be checkpoints only.
const WRITE_BUFFER_MIN: u64 = 1 << 16;

/// Threads that run checkpoints. A checkpoint of small buffers is mostly syncs, and the syncs of several stores take
/// hardly longer than those of one.
const CHECKPOINTERS: usize = 4;

/// Memory and threads for any number of engines. Clones share it; its threads end when the last clone and the last of its
/// engines is dropped.
#[derive(Clone)]
pub struct EnginePool {
    threads: Arc<Threads>,
}

/// Stops the threads when dropped. They hold [`Core`], never this.
struct Threads {
    core: Arc<Core>,
    handles: Mutex<Vec<JoinHandle<()>>>,
}

/// What engines and threads share.
pub(super) struct Core {
    pub(super) cache: Arc<Cache>,
    pub(super) files: Arc<DescriptorTable>,
    /// Of [`Keyspace::Head`] of all engines.
    pub(super) newest: Newest,
    write_buffer: AtomicU64,
    /// Bytes in active buffers.
    active: AtomicU64,
    /// Bytes in active and in frozen buffers.
    unflushed: AtomicU64,
    next_engine: AtomicU64,
    wanted: Mutex<Wanted>,
    /// Wakes the threads.
    work: Condvar,
    /// Wakes writers that wait for room, and those who wait for the threads to let go of an engine.
    progress: Condvar,
    stopped: AtomicBool,
}

/// What a thread does until the pool stops.
type Body = fn(&Core);

/// A compaction to be done.
type Task = (u64, Keyspace);

#[derive(Default)]
struct Wanted {
    engines: BTreeMap<u64, Arc<Shared>>,
    /// How many threads are at work on an engine.
    busy: BTreeMap<u64, usize>,
    /// Somebody waits for room.
    flush: bool,
    /// Engines that a thread is checkpointing.
    flushing: BTreeSet<u64>,
    /// Engines whose checkpoint failed, and when to try again.
    failed: BTreeMap<u64, Instant>,
    compactions: VecDeque<Task>,
    /// Compactions that failed, and when to try again.
    later: Vec<(Instant, Task)>,
    /// Rises with every flush and compaction.
    progress: u64,
}

impl Wanted {
    fn begin(&mut self, engine: u64) -> Option<Arc<Shared>> {
        let shared = self.engines.get(&engine)?.clone();
        *self.busy.entry(engine).or_insert(0) += 1;
        Some(shared)
    }

    fn begin_checkpoint(&mut self, engine: u64) -> Option<Arc<Shared>> {
        let shared = self.begin(engine)?;
        self.flushing.insert(engine);
        Some(shared)
    }

    fn want(&mut self, task: Task) {
        if self.engines.contains_key(&task.0) && !self.compactions.contains(&task) {
            self.compactions.push_back(task);
        }
    }

    /// The engine to checkpoint now; otherwise until when there is none, if one is waiting for its time. `active` bytes are
    /// in active memtables, `budget` is the write buffer, and `full` says that all of it is taken.
    fn next_checkpoint(
        &mut self,
        active: u64,
        budget: u64,
        full: bool,
    ) -> Result<Arc<Shared>, Option<Instant>> {
        let now = Instant::now();
        let due = self.failed.iter().find(|(_, when)| **when <= now).map(|(engine, _)| *engine);
        if let Some(engine) = due {
            self.failed.remove(&engine);
            if let Some(shared) = self.begin_checkpoint(engine) {
                return Ok(shared);
            }
        }
        let active_of = |shared: &Shared| shared.active.load(Ordering::Acquire);
        // Summed up rather than taken off the sum of all: an engine whose checkpoint begins just now counts in one of
        // these and not in the other, and a lean one would be checkpointed in its place.
        let left_alone = || -> u64 {
            let others = self.engines.iter().filter(|(engine, _)| !self.flushing.contains(engine));
            others.map(|(_, shared)| active_of(shared)).sum()
        };
        let over = budget / 2 <= active && budget / 2 <= left_alone();
        // What somebody waits for may have been done meanwhile, or be under way.
        if std::mem::take(&mut self.flush) && full && self.flushing.is_empty() || over {
            let waiting = self
                .engines
                .iter()
                .filter(|(engine, _)| !self.failed.contains_key(engine) && !self.flushing.contains(engine));
            let fattest = waiting.max_by_key(|(_, shared)| active_of(shared));
            if let Some(engine) =
                fattest.filter(|(_, shared)| 0 < active_of(shared)).map(|(engine, _)| *engine)
                && let Some(shared) = self.begin_checkpoint(engine)
            {
                return Ok(shared);
            }
        }
        Err(self.failed.values().min().copied())
    }

    fn next_compaction(&mut self) -> Result<(Arc<Shared>, Task), Option<Instant>> {
        let now = Instant::now();
        while let Some(due) = self.later.iter().position(|(when, _)| *when <= now) {
            let (_, task) = self.later.swap_remove(due);
            self.want(task);
        }
        while let Some(task) = self.compactions.pop_front() {
            if let Some(shared) = self.begin(task.0) {
                return Ok((shared, task));
            }
        }
        Err(self.later.iter().map(|(when, _)| *when).min())
    }
}

impl EnginePool {
    /// Makes a pool and starts its threads.
    ///
    /// Errors: [`EngineError::Io`] when a thread cannot be started.
    pub fn new(options: EngineOptions) -> Result<EnginePool, EngineError> {
        let core = Arc::new(Core {
            cache: Arc::new(Cache::with_capacity_bytes(options.cache_bytes / 4 * 3)),
            files: Arc::new(DescriptorTable::new(options.open_files_max.max(16))),
            newest: Newest::with_bytes(options.cache_bytes / 4),
            write_buffer: AtomicU64::new(options.write_buffer_bytes.max(WRITE_BUFFER_MIN)),
            active: AtomicU64::new(0),
            unflushed: AtomicU64::new(0),
            next_engine: AtomicU64::new(0),
            wanted: Mutex::default(),
            work: Condvar::new(),
            progress: Condvar::new(),
            stopped: AtomicBool::new(false),
        });
        // Should a thread not start, dropping this stops the others.
        let threads = Threads { core: core.clone(), handles: Mutex::default() };
        let mut bodies: Vec<(String, Body)> = Vec::new();
        bodies.extend(
            (0..CHECKPOINTERS).map(|n| (format!("skein-flush-{n}"), background::checkpoints as Body)),
        );
        let compactors = 0..options.compaction_threads;
        bodies.extend(compactors.map(|n| (format!("skein-lsm-{n}"), background::compactions as Body)));
        for (name, body) in bodies {
            let core = core.clone();
            let thread = std::thread::Builder::new().name(name).spawn(move || body(&core));
            let thread = thread.map_err(|e| EngineError::io("start a background thread", e))?;
            lock(&threads.handles).push(thread);
        }
        Ok(EnginePool { threads: Arc::new(threads) })
    }

    /// Opens the store in `dir`, or creates one if there is none; see [`LsmEngine::open`].
    pub fn open(&self, dir: &Path) -> Result<LsmEngine, EngineError> {
        self.enlist(Shared::open(self.core().clone(), DirGuard::keeping(dir))?)
    }

    /// As [`EnginePool::open`]; `delete` is called when the store is no longer in use, if by then
    /// [`StoreRef::delete_when_unused`] was.
    pub(crate) fn open_deletable(&self, dir: &Path, delete: Delete) -> Result<LsmEngine, EngineError> {
        self.enlist(Shared::open(self.core().clone(), DirGuard::deleting(dir, delete))?)
    }

    fn enlist(&self, shared: Arc<Shared>) -> Result<LsmEngine, EngineError> {
        self.core().enlist(&shared);
        Ok(LsmEngine { shared, pool: self.clone() })
    }

    /// Sets the write buffer to use from now on. (The caches keep their size.)
    pub fn set_write_buffer(&self, bytes: u64) {
        self.core().write_buffer.store(bytes.max(WRITE_BUFFER_MIN), Ordering::Relaxed);
        self.core().wake();
    }

    /// The sum of what all open engines say. Also sets the gauges of the metrics to it.
    pub fn stats(&self) -> EngineStats {
        let core = self.core();
        let engines: Vec<Arc<Shared>> = lock(&core.wanted).engines.values().cloned().collect();
        let mut sum = core.stats();
        for shared in engines {
            sum.add_store(&shared.stats());
        }
        background::publish(&sum);
        sum
    }

    pub(super) fn core(&self) -> &Arc<Core> {
        &self.threads.core
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.core.stop();
        for thread in lock(&self.handles).drain(..) {
            if thread.join().is_err() {
                tracing::error!("a background thread of the store had panicked");
            }
        }
    }
}

/// Knows an open engine without keeping it open.
#[derive(Clone, Default)]
pub(crate) struct StoreRef(Weak<Shared>);

impl StoreRef {
    pub(super) fn to(shared: &Arc<Shared>) -> StoreRef {
        StoreRef(Arc::downgrade(shared))
    }

    /// Another handle of the engine, if anybody still uses it, be it for a view only. All it holds is then durable.
    pub(crate) fn handle(&self, pool: &EnginePool) -> Result<Option<LsmEngine>, EngineError> {
        let Some(shared) = self.0.upgrade() else { return Ok(None) };
        let was_closed = pool.core().enlist(&shared);
        let engine = LsmEngine { shared, pool: pool.clone() };
        if was_closed {
            // As after any other opening, what is there is durable.
            engine.shared.run_checkpoint()?;
        }
        Ok(Some(engine))
    }

    /// Has the engine's directory deleted when nobody uses it any more; false if that is so already.
    pub(crate) fn delete_when_unused(&self) -> bool {
        match self.0.upgrade() {
            Some(shared) => {
                shared.dir_guard.delete();
                true
            }
            None => false,
        }
    }
}

impl Core {
    /// A number that no other engine of this pool has or had.
    pub(super) fn number_engine(&self) -> u64 {
        self.next_engine.fetch_add(1, Ordering::Relaxed)
    }

    /// Counts a handle of an engine, and has the threads look after it; says whether it had none before.
    fn enlist(&self, shared: &Arc<Shared>) -> bool {
        let first = {
            let mut wanted = lock(&self.wanted);
            let first = shared.handles.fetch_add(1, Ordering::AcqRel) == 0;
            if first {
                shared.closed.store(false, Ordering::Release);
                wanted.engines.insert(shared.number, shared.clone());
            }
            first
        };
        if first {
            shared.note_runs();
            // A store left in the middle of things has compactions to catch up with.
            self.request_compaction(shared);
        }
        first
    }

    /// Takes a handle off; after the last one, waits until no thread is at work on the engine.
    pub(super) fn retire(&self, shared: &Shared) {
        let mut wanted = lock(&self.wanted);
        if shared.handles.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        shared.closed.store(true, Ordering::Release);
        wanted.engines.remove(&shared.number);
        wanted.failed.remove(&shared.number);
        wanted.compactions.retain(|(engine, _)| *engine != shared.number);
        wanted.later.retain(|(_, (engine, _))| *engine != shared.number);
        let gone = self.progress.wait_while(wanted, |wanted| {
            wanted.busy.contains_key(&shared.number) && shared.closed.load(Ordering::Acquire)
        });
        drop(gone.unwrap_or_else(PoisonError::into_inner));
    }

    pub(super) fn write_buffer(&self) -> u64 {
        self.write_buffer.load(Ordering::Relaxed)
    }

    pub(super) fn unflushed(&self) -> u64 {
        self.unflushed.load(Ordering::Acquire)
    }

    /// Bytes went into an active buffer.
    pub(super) fn written(&self, bytes: u64) {
        self.unflushed.fetch_add(bytes, Ordering::AcqRel);
        let active = self.active.fetch_add(bytes, Ordering::AcqRel) + bytes;
        // One half fills up while the other is flushed. Only the write that crosses the line needs to wake anybody; after
        // each checkpoint the thread looks for itself.
        let half = self.write_buffer() / 2;
        if half <= active && active - bytes < half {
            self.wake();
        }
    }

    /// Active buffers were frozen.
    pub(super) fn sealed(&self, bytes: u64) {
        self.active.fetch_sub(bytes, Ordering::AcqRel);
    }

    /// What was sealed could not be flushed, and counts as active again.
    pub(super) fn unsealed(&self, bytes: u64) {
        self.active.fetch_add(bytes, Ordering::AcqRel);
        self.wake();
    }

    /// Frozen buffers are in tables.
    pub(super) fn flushed(&self, bytes: u64) {
        self.unflushed.fetch_sub(bytes, Ordering::AcqRel);
    }

    /// An engine is gone with all its buffers.
    pub(super) fn forget(&self, active: u64, unflushed: u64) {
        self.active.fetch_sub(active, Ordering::AcqRel);
        self.unflushed.fetch_sub(unflushed, Ordering::AcqRel);
    }

    /// Wakes the threads; under the lock, so that none looks just before and then sleeps through it.
    fn wake(&self) {
        let _wanted = lock(&self.wanted);
        self.work.notify_all();
    }

    /// A writer waits for room.
    pub(super) fn request_flush(&self) {
        lock(&self.wanted).flush = true;
        self.work.notify_all();
    }

    pub(super) fn request_compaction(&self, shared: &Shared) {
        let mut wanted = lock(&self.wanted);
        for keyspace in Keyspace::ALL {
            if 0 < shared.tree(keyspace).table_count() {
                wanted.want((shared.number, keyspace));
            }
        }
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

    /// The trouble of some engine that has any, and whether it is for lack of space.
    pub(super) fn trouble(&self) -> Option<(String, bool)> {
        let wanted = lock(&self.wanted);
        wanted.engines.values().find_map(|shared| lock(&shared.trouble).clone())
    }

    fn stop(&self) {
        let _wanted = lock(&self.wanted);
        self.stopped.store(true, Ordering::Release);
        self.work.notify_all();
        self.progress.notify_all();
    }

    /// Waits until there is something to do; `None` when stopped. What it gives has to be given back with
    /// [`Core::finish`].
    fn next<T>(&self, mut pick: impl FnMut(&mut Wanted) -> Result<T, Option<Instant>>) -> Option<T> {
        let mut wanted = lock(&self.wanted);
        loop {
            if self.stopped.load(Ordering::Acquire) {
                return None;
            }
            wanted = match pick(&mut wanted) {
                Ok(found) => return Some(found),
                Err(None) => self.work.wait(wanted).unwrap_or_else(PoisonError::into_inner),
                Err(Some(until)) => {
                    let wait = until.saturating_duration_since(Instant::now());
                    self.work.wait_timeout(wanted, wait).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    pub(super) fn next_checkpoint(&self) -> Option<Arc<Shared>> {
        self.next(|wanted| {
            let budget = self.write_buffer();
            wanted.next_checkpoint(self.active.load(Ordering::Acquire), budget, budget <= self.unflushed())
        })
    }

    pub(super) fn next_compaction(&self) -> Option<(Arc<Shared>, Keyspace)> {
        self.next(Wanted::next_compaction).map(|(shared, (_, keyspace))| (shared, keyspace))
    }

    /// A thread is done with an engine; `change` sees what is wanted.
    fn finish(&self, shared: Arc<Shared>, change: impl FnOnce(&mut Wanted)) {
        let number = shared.number;
        // Before it counts as let go: dropping it may be the end of the engine.
        drop(shared);
        let mut wanted = lock(&self.wanted);
        if let Some(busy) = wanted.busy.get_mut(&number) {
            *busy -= 1;
            if *busy == 0 {
                wanted.busy.remove(&number);
            }
        }
        change(&mut wanted);
        wanted.progress += 1;
        self.progress.notify_all();
    }

    /// A checkpoint is over; after a failure, it is to be tried again after `retry`.
    pub(super) fn finish_checkpoint(&self, shared: Arc<Shared>, retry: Option<Duration>) {
        let number = shared.number;
        self.finish(shared, |wanted| {
            wanted.flushing.remove(&number);
            if let Some(retry) = retry.filter(|_| wanted.engines.contains_key(&number)) {
                wanted.failed.insert(number, Instant::now() + retry);
            }
        });
        // It may have filled up again meanwhile, or failed, and only those who look again would know.
        self.wake();
    }

    /// As [`Core::finish_checkpoint`], for a compaction.
    pub(super) fn finish_compaction(&self, shared: Arc<Shared>, keyspace: Keyspace, retry: Option<Duration>) {
        let number = shared.number;
        self.finish(shared, |wanted| {
            if let Some(retry) = retry.filter(|_| wanted.engines.contains_key(&number)) {
                wanted.later.push((Instant::now() + retry, (number, keyspace)));
            }
        });
    }

    /// What is the same for all engines.
    pub(super) fn stats(&self) -> EngineStats {
        EngineStats {
            cache_bytes: self.cache.size() + self.newest.bytes(),
            cache_bytes_max: self.cache.capacity() + self.newest.bytes_max(),
            write_buffer_bytes: self.write_buffer(),
            ..EngineStats::default()
        }
    }
}
