//! The engine on disk: four LSM trees (crate `lsm-tree`, the engine inside fjall 3) under one sequence counter.
//!
//! A write goes into the [`buffer`]s of all keyspaces under one sequence number and is then published by raising
//! [`Shared::visible`]; views read below it. A checkpoint freezes all four buffers at one point between two
//! writes and flushes them in the order of [`Keyspace::ALL`]. There is no journal here: the durable log is ours. The trees'
//! own memtables stay empty.
//!
//! What `lsm-tree` checks by itself: every block of a table (data, index, filter, meta) carries a 128-bit xxh3 of
//! its bytes and a checksum of its header, tested whenever it is read from disk. What it does not check, and
//! [`check`] does before the trees are opened: the version file that lists the tables, and the footers of table files.

mod background;
mod buffer;
mod check;
mod checkpoint;
mod filter;
mod image;
mod load;
mod merge;
mod newest;
mod pool;
mod sweep;
mod version_file;
mod view;

use super::{DropRule, Engine, EngineError, EngineStats, Keyspace, Load, VerifyReport, View, WriteBatch};
use bytes::Bytes;
use filter::RuleSlot;
use image::Image;
use lsm_tree::config::{BlockSizePolicy, RestartIntervalPolicy};
use lsm_tree::{AbstractTree, AnyTree, Config, SeqNo, SequenceNumberCounter, Tree};
use pool::Core;
pub use pool::EnginePool;
pub(crate) use pool::StoreRef;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;
use view::LsmView;

/// Key of the position in [`Keyspace::Meta`]; starts with [`super::ENGINE_KEY`].
const POSITION_KEY: &[u8] = b"\0position";

/// How the engines of an [`EnginePool`], or a lone [`LsmEngine`], use the machine.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// Bytes of the caches: a quarter for rows lately written, the rest for blocks of all keyspaces. Fixed while the
    /// pool is open.
    pub cache_bytes: u64,
    /// Bytes of all write buffers together. At half of it a checkpoint starts by itself; beyond it, writes wait.
    pub write_buffer_bytes: u64,
    /// Threads that compact; with none, only [`Engine::compact`] does. A few more run checkpoints.
    pub compaction_threads: usize,
    /// Table files kept open at once.
    pub open_files_max: usize,
}

impl Default for EngineOptions {
    fn default() -> Self {
        EngineOptions {
            cache_bytes: 64 << 20,
            write_buffer_bytes: 64 << 20,
            compaction_threads: 1,
            open_files_max: 256,
        }
    }
}

/// An [`Engine`] on disk. After dropping it nothing but its views touches the directory; what was not checkpointed is
/// then gone.
pub struct LsmEngine {
    shared: Arc<Shared>,
    pool: EnginePool,
}

/// What callers and background threads share.
struct Shared {
    /// Tells the engines of a pool apart.
    number: u64,
    core: Arc<Core>,
    /// Engines made for this; the threads look after it while there are any.
    handles: AtomicUsize,
    /// The last handle is gone, and what threads do for it should end.
    closed: AtomicBool,
    /// By [`Keyspace::slot`].
    trees: [Tree; 4],
    /// By [`Keyspace::slot`].
    images: [Image; 4],
    /// Numbers batches, and also the trees' own changes of version.
    sequence: SequenceNumberCounter,
    /// Views see what was written with a lower sequence number.
    ///
    /// Not the counter the trees are opened with: they raise theirs whenever a flush or compaction ends, which may be
    /// in the middle of a batch.
    visible: AtomicU64,
    /// Sequence bounds of the views alive, and how many there are of each.
    views: Mutex<BTreeMap<SeqNo, usize>>,
    /// Held while a batch goes in and while buffers are frozen.
    writer: Mutex<Writer>,
    /// Held by the checkpoint under way.
    checkpoint: Mutex<()>,
    /// Held for reading by compactions under way.
    compacting: RwLock<()>,
    seen: sweep::SeenTables,
    durable: AtomicU64,
    /// Bytes written since the buffers were last frozen; changes only under the lock of writers, and when frozen
    /// buffers could not be flushed.
    active: AtomicU64,
    /// Bytes in active and in frozen buffers.
    unflushed: AtomicU64,
    /// The most sorted runs any tree has in its level 0.
    l0_runs: AtomicU64,
    rule: Arc<RuleSlot>,
    stalled: AtomicBool,
    checkpoints: AtomicU64,
    /// Why the last checkpoint failed, and whether for lack of space.
    trouble: Mutex<Option<(String, bool)>>,
    /// Checkpoints and compactions of the threads that failed since one did not.
    failures: [AtomicU32; 2],
    /// Last, so that the trees are gone when it deletes their directory.
    dir_guard: DirGuard,
}

struct Writer {
    /// Last position written; 0 at first.
    position: u64,
}

/// Deletes a directory.
type Delete = Box<dyn FnOnce() + Send + Sync>;

/// Deletes the directory of an engine that was given up, when all use of it has ended.
struct DirGuard {
    dir: PathBuf,
    delete: Option<Delete>,
    is_given_up: AtomicBool,
}

impl DirGuard {
    /// For a directory that stays.
    fn keeping(dir: &Path) -> DirGuard {
        DirGuard { dir: dir.to_owned(), delete: None, is_given_up: AtomicBool::new(false) }
    }

    /// For one that `delete` deletes, should it be given up.
    fn deleting(dir: &Path, delete: Delete) -> DirGuard {
        DirGuard { dir: dir.to_owned(), delete: Some(delete), is_given_up: AtomicBool::new(false) }
    }

    fn delete(&self) {
        self.is_given_up.store(true, Ordering::Release);
    }
}

impl std::ops::Drop for DirGuard {
    fn drop(&mut self) {
        if self.is_given_up.load(Ordering::Acquire)
            && let Some(delete) = self.delete.take()
        {
            delete();
        }
    }
}

impl LsmEngine {
    /// Opens the store in `dir`, or creates one if there is none, with memory and threads of its own.
    ///
    /// Tests the checksums of everything that says which tables there are; the tables themselves are tested as they are
    /// read, and all at once by [`Engine::verify`]. The caller makes sure that no other process has the store open.
    pub fn open(dir: &Path, options: EngineOptions) -> Result<LsmEngine, EngineError> {
        EnginePool::new(options)?.open(dir)
    }

    /// Whether there is a store in `dir` whose creation was completed; changes nothing. One whose creation was cut short holds nothing, and is
    /// begun again when it is opened.
    ///
    /// Errors: as [`LsmEngine::open`], for what is damaged in what says which tables there are.
    pub fn is_there(dir: &Path) -> Result<bool, EngineError> {
        check::before_open(dir)
    }

    /// A way to this engine that does not keep it open.
    pub(crate) fn store_ref(&self) -> StoreRef {
        StoreRef::to(&self.shared)
    }
}

impl Shared {
    fn open(core: Arc<Core>, dir_guard: DirGuard) -> Result<Arc<Shared>, EngineError> {
        let dir = &dir_guard.dir;
        std::fs::create_dir_all(dir).map_err(|e| EngineError::io(format!("create {}", dir.display()), e))?;
        check::before_open(dir)?;
        let sequence = SequenceNumberCounter::new(1);
        let rule = Arc::new(RuleSlot::default());
        let mut trees = Vec::with_capacity(4);
        for keyspace in Keyspace::ALL {
            let path = dir.join(keyspace.name());
            let config = Config::new(&path, sequence.clone(), SequenceNumberCounter::default())
                .use_cache(core.cache.clone())
                .use_descriptor_table(Some(core.files.clone()))
                .data_block_size_policy(BlockSizePolicy::all(block_bytes(keyspace)))
                // Each key whole: iteration can then hand out keys as parts of the block instead of copies.
                .data_block_restart_interval_policy(RestartIntervalPolicy::all(1))
                .with_compaction_filter_factory(filter::factory(keyspace, rule.clone()));
            trees.push(open_tree(config, &path)?);
        }
        let trees: [Tree; 4] = match trees.try_into() {
            Ok(trees) => trees,
            Err(_) => unreachable!("one tree was opened for each of the four keyspaces"),
        };
        check::mark_complete(dir)?;
        let next =
            trees.iter().filter_map(AbstractTree::get_highest_seqno).max().map_or(1, |highest| highest + 1);
        sequence.fetch_max(next);
        let position = read_position(&trees[Keyspace::Meta.slot()], dir)?;
        let shared = Arc::new(Shared {
            number: core.number_engine(),
            core,
            handles: AtomicUsize::new(0),
            closed: AtomicBool::new(true),
            images: Keyspace::ALL.map(|keyspace| Image::of(&trees[keyspace.slot()], is_indexed(keyspace))),
            trees,
            sequence,
            visible: AtomicU64::new(next),
            views: Mutex::default(),
            writer: Mutex::new(Writer { position }),
            checkpoint: Mutex::default(),
            compacting: RwLock::default(),
            seen: sweep::SeenTables::default(),
            durable: AtomicU64::new(position),
            active: AtomicU64::new(0),
            unflushed: AtomicU64::new(0),
            l0_runs: AtomicU64::new(0),
            rule,
            stalled: AtomicBool::new(false),
            checkpoints: AtomicU64::new(0),
            trouble: Mutex::default(),
            failures: Default::default(),
            dir_guard,
        });
        shared.rule.follow(&shared);
        Keyspace::ALL.into_iter().for_each(|keyspace| shared.see_tables(keyspace));
        Ok(shared)
    }

    /// Whether what threads do for this engine should end.
    fn is_closing(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }
}

impl std::ops::Drop for LsmEngine {
    fn drop(&mut self) {
        self.pool.core().retire(&self.shared);
    }
}

impl std::ops::Drop for Shared {
    fn drop(&mut self) {
        self.core.forget(self.active.load(Ordering::Acquire), self.unflushed.load(Ordering::Acquire));
    }
}

/// Bytes of a block before compression: small where single rows are looked up, larger where runs are read.
fn block_bytes(keyspace: Keyspace) -> u32 {
    match keyspace {
        Keyspace::Head | Keyspace::Tx | Keyspace::Meta => 4 << 10,
        Keyspace::Past => 16 << 10,
    }
}

/// Whether keys are looked up one by one while they are in memory, and not only in ranges.
fn is_indexed(keyspace: Keyspace) -> bool {
    match keyspace {
        Keyspace::Head | Keyspace::Tx | Keyspace::Meta => true,
        Keyspace::Past => false,
    }
}

fn open_tree(config: Config, path: &Path) -> Result<Tree, EngineError> {
    // What a tree parses here was tested before; should something slip through, a panic in its parser is damage too.
    let opened = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| config.open()));
    match opened {
        Ok(Ok(AnyTree::Standard(tree))) => Ok(tree),
        Ok(Ok(AnyTree::Blob(_))) => Err(EngineError::Damaged {
            what: path.display().to_string(),
            detail: "it is a tree with separated values, which we never make".to_owned(),
        }),
        Ok(Err(e)) => Err(check::tree_error(path, e)),
        Err(_) => Err(EngineError::Damaged {
            what: path.display().to_string(),
            detail: "its tables cannot be parsed".to_owned(),
        }),
    }
}

fn read_position(meta: &Tree, dir: &Path) -> Result<u64, EngineError> {
    let path = dir.join(Keyspace::Meta.name());
    let value = meta.get(POSITION_KEY, SeqNo::MAX).map_err(|e| check::tree_error(&path, e))?;
    match value {
        None => Ok(0),
        Some(value) => match <[u8; 8]>::try_from(&value[..]) {
            Ok(bytes) => Ok(u64::from_le_bytes(bytes)),
            Err(_) => Err(EngineError::Damaged {
                what: path.display().to_string(),
                detail: format!("the position has {} bytes instead of 8", value.len()),
            }),
        },
    }
}

/// Locks a mutex whose guarded state is whole even if a holder panicked.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn tree(&self, keyspace: Keyspace) -> &Tree {
        &self.trees[keyspace.slot()]
    }

    fn path(&self, keyspace: Keyspace) -> PathBuf {
        self.dir_guard.dir.join(keyspace.name())
    }

    fn begin_compaction(&self) -> RwLockReadGuard<'_, ()> {
        self.compacting.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The sequence number below which no view alive, and none still to come, needs shadowed entries or old versions
    /// of the list of tables.
    fn watermark(&self) -> SeqNo {
        let views = lock(&self.views);
        let visible = self.visible.load(Ordering::Acquire);
        views.keys().next().map_or(visible, |oldest| visible.min(*oldest))
    }

    /// Waits while flushes or compactions are far behind; says so if that is hopeless.
    fn wait_for_room(&self) -> Result<(), EngineError> {
        const L0_RUNS_MAX: u64 = 24;
        const ROUND: Duration = Duration::from_millis(200);
        const ROUNDS_MAX: u32 = 25;
        for _ in 0..ROUNDS_MAX {
            let budget = self.core.write_buffer();
            let unflushed = self.core.unflushed();
            let behind = budget <= unflushed || L0_RUNS_MAX <= self.l0_runs.load(Ordering::Relaxed);
            if !behind {
                self.stalled.store(false, Ordering::Relaxed);
                return Ok(());
            }
            self.stalled.store(true, Ordering::Relaxed);
            if let Some((why, full)) = self.core.trouble() {
                // The flush will be retried; until then, memory is all there is.
                return match budget.saturating_mul(2) <= unflushed {
                    false => Ok(()),
                    true if full => Err(EngineError::Full { what: self.dir_guard.dir.display().to_string() }),
                    true => Err(EngineError::Io {
                        what: format!("flush {}", self.dir_guard.dir.display()),
                        source: std::io::Error::other(why),
                    }),
                };
            }
            self.core.request_flush();
            self.core.wait_for_progress(ROUND);
        }
        Ok(())
    }

    /// What is this engine's own.
    fn stats(&self) -> EngineStats {
        EngineStats {
            disk_bytes: std::array::from_fn(|slot| self.trees[slot].disk_space()),
            entries: std::array::from_fn(|slot| self.trees[slot].approximate_len() as u64),
            tables: std::array::from_fn(|slot| self.trees[slot].table_count()),
            l0_runs: std::array::from_fn(|slot| self.trees[slot].l0_run_count()),
            memtable_bytes: self.unflushed.load(Ordering::Acquire),
            versions_reclaimed: self.rule.reclaimed(),
            checkpoints: self.checkpoints.load(Ordering::Relaxed),
            views: lock(&self.views).values().sum(),
            stalled: self.stalled.load(Ordering::Relaxed),
            trouble: lock(&self.trouble).as_ref().map(|(why, _)| why.clone()),
            ..EngineStats::default()
        }
    }

    fn read_error(&self, keyspace: Keyspace, error: lsm_tree::Error) -> EngineError {
        match check::tree_error(&self.path(keyspace), error) {
            EngineError::Damaged { what, detail } => self.blame(keyspace, what, detail),
            other => other,
        }
    }

    /// Damage names the file it is in, if looking for it does not take too long.
    fn blame(&self, keyspace: Keyspace, what: String, detail: String) -> EngineError {
        const SEARCH_BYTES_MAX: u64 = 256 << 20;
        let tree = self.tree(keyspace);
        if tree.disk_space() <= SEARCH_BYTES_MAX {
            let mut report = VerifyReport::default();
            if check::verify_tree(&self.path(keyspace), tree, &mut report).is_ok()
                && let Some(damage) = report.damaged.into_iter().next()
            {
                return EngineError::Damaged { what: damage.what, detail: damage.detail };
            }
        }
        EngineError::Damaged { what, detail }
    }
}

impl Engine for LsmEngine {
    fn write(&self, mut batch: WriteBatch, position: u64) -> Result<(), EngineError> {
        let shared = &*self.shared;
        shared.wait_for_room()?;
        let mut writer = lock(&shared.writer);
        if position <= writer.position {
            return Err(EngineError::OutOfOrder { given: position, last: writer.position });
        }
        batch.push(
            Keyspace::Meta,
            Bytes::from_static(POSITION_KEY),
            Bytes::copy_from_slice(&position.to_le_bytes()),
        );
        let seqno = shared.sequence.next();
        let mut bytes = 0;
        for keyspace in Keyspace::ALL {
            let entries = batch.take(keyspace);
            if entries.is_empty() {
                continue;
            }
            // Nobody freezes it meanwhile, since that takes the writer's lock.
            bytes += shared.images[keyspace.slot()].active().append(entries, seqno);
        }
        shared.visible.fetch_max(seqno + 1, Ordering::AcqRel);
        writer.position = position;
        // Counted before a checkpoint can seal it, so that no sum is ever less than what is taken off it.
        shared.unflushed.fetch_add(bytes, Ordering::AcqRel);
        shared.active.fetch_add(bytes, Ordering::AcqRel);
        shared.core.written(bytes);
        drop(writer);
        Ok(())
    }

    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let shared = &*self.shared;
        let newest = || match keyspace {
            Keyspace::Head => shared.core.newest.get(shared.number, key),
            Keyspace::Past | Keyspace::Tx | Keyspace::Meta => None,
        };
        let value = shared.images[keyspace.slot()].get(key, newest);
        value.map_err(|e| shared.read_error(keyspace, e))
    }

    fn view(&self) -> Result<Box<dyn View>, EngineError> {
        Ok(Box::new(LsmView::of(&self.shared)))
    }

    fn checkpoint(&self) -> Result<u64, EngineError> {
        self.shared.run_checkpoint()
    }

    fn durable_position(&self) -> u64 {
        self.shared.durable.load(Ordering::Acquire)
    }

    fn set_drop_rule(&self, rule: DropRule) {
        self.shared.rule.set(rule);
    }

    fn compact(&self, keyspace: Keyspace) -> Result<(), EngineError> {
        let shared = &*self.shared;
        let tree = shared.tree(keyspace);
        if tree.table_count() == 0 {
            return Ok(());
        }
        let done = {
            let _under_way = shared.begin_compaction();
            let table_bytes = background::table_bytes(shared.core.write_buffer());
            tree.major_compact(table_bytes, shared.watermark())
        };
        shared.images[keyspace.slot()].follow(tree, &[]);
        shared.see_tables(keyspace);
        shared.publish_tables();
        shared.note_runs();
        if done.is_err() {
            shared.sweep();
        }
        done.map_err(|e| shared.read_error(keyspace, e))
    }

    fn load(&self) -> Result<Box<dyn Load>, EngineError> {
        Ok(Box::new(load::LsmLoad::begin(&self.shared)?))
    }

    fn set_memory(&self, _cache_bytes: u64, write_buffer_bytes: u64) {
        // The cache of the trees cannot be resized; the next open takes a new size.
        self.pool.set_write_buffer(write_buffer_bytes);
    }

    fn stats(&self) -> EngineStats {
        let mut stats = self.shared.core.stats();
        stats.add_store(&self.shared.stats());
        stats
    }

    fn verify(&self) -> Result<VerifyReport, EngineError> {
        let mut report = VerifyReport::default();
        check::verify_marker(&self.shared.dir_guard.dir, &mut report)?;
        for keyspace in Keyspace::ALL {
            check::verify_tree(&self.shared.path(keyspace), self.shared.tree(keyspace), &mut report)?;
        }
        Ok(report)
    }
}

#[cfg(test)]
mod tests;
