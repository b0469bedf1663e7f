//! The seam between rows and the disk: four ordered keyspaces, written in atomic batches.
//!
//! An [`Engine`] never syncs on the write path. What it holds is an image of the durable log: after a crash it
//! is back at some [`Engine::durable_position`], and whoever owns the log applies the rest again.
//! [`LsmEngine`] keeps the keyspaces in LSM trees on disk; [`MemEngine`] keeps them in memory and can be crashed,
//! filled up and made to fail.

mod lsm;
mod mem;

pub(crate) use lsm::StoreRef;
pub use lsm::{EngineOptions, EnginePool, LsmEngine};
pub use mem::{Fault, MemEngine};

use bytes::Bytes;
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

/// One of the four ordered maps of an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Keyspace {
    /// The newest version of every row.
    Head,
    /// Superseded versions.
    Past,
    /// Outcomes of transactions.
    Tx,
    /// The store's own facts: how far the log was applied, ceilings, horizons.
    Meta,
}

impl Keyspace {
    /// All four, in the order in which batches are inserted and checkpoints are flushed.
    ///
    /// `Past` comes before `Head`, so that a superseded version is in its new place before it vanishes from its old
    /// one: a crash between the two leaves it in both, never in neither. `Meta` comes last, so that it never claims
    /// more than the others hold.
    pub const ALL: [Keyspace; 4] = [Keyspace::Past, Keyspace::Tx, Keyspace::Head, Keyspace::Meta];

    /// Lower-case name: the directory on disk, and the label of metrics.
    pub fn name(self) -> &'static str {
        match self {
            Keyspace::Head => "head",
            Keyspace::Past => "past",
            Keyspace::Tx => "tx",
            Keyspace::Meta => "meta",
        }
    }

    /// Position in [`Keyspace::ALL`].
    pub(crate) fn slot(self) -> usize {
        match self {
            Keyspace::Past => 0,
            Keyspace::Tx => 1,
            Keyspace::Head => 2,
            Keyspace::Meta => 3,
        }
    }
}

impl fmt::Display for Keyspace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Keys of [`Keyspace::Meta`] that start with this byte belong to the engine itself and are never given to or taken
/// from its users.
pub const ENGINE_KEY: u8 = 0;

/// Puts and deletes that become visible together.
#[derive(Debug, Default, Clone)]
pub struct WriteBatch {
    /// By [`Keyspace::slot`]; `None` deletes. A later entry for a key wins over an earlier one.
    entries: [Vec<(Bytes, Option<Bytes>)>; 4],
    bytes: u64,
}

impl WriteBatch {
    /// An empty batch.
    pub fn new() -> WriteBatch {
        WriteBatch::default()
    }

    /// Puts `value` under `key`, which must not be empty and is at most 65,535 bytes.
    pub fn push(&mut self, keyspace: Keyspace, key: Bytes, value: Bytes) {
        self.bytes += (key.len() + value.len()) as u64;
        self.entries[keyspace.slot()].push((key, Some(value)));
    }

    /// Deletes `key`.
    pub fn delete(&mut self, keyspace: Keyspace, key: Bytes) {
        self.bytes += key.len() as u64;
        self.entries[keyspace.slot()].push((key, None));
    }

    /// Bytes of all keys and values.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The entries of one keyspace, in the order they were added.
    pub(crate) fn take(&mut self, keyspace: Keyspace) -> Vec<(Bytes, Option<Bytes>)> {
        std::mem::take(&mut self.entries[keyspace.slot()])
    }
}

/// Whether compaction may drop an entry for good: asked with keyspace, key and value.
pub type Drop = Arc<dyn Fn(Keyspace, &[u8], &[u8]) -> bool + Send + Sync>;

/// Makes the [`Drop`] for one compaction, given the engine's durable position at its start.
///
/// What a compaction drops is gone at once, while the facts it was dropped by may still be in memory only. So the
/// answer may rest only on what was written at or below that position.
pub type DropRule = Arc<dyn Fn(u64) -> Drop + Send + Sync>;

/// Four ordered maps with atomic batches, consistent views and checkpoints.
pub trait Engine: Send + Sync + 'static {
    /// Applies the batch at once: a view sees all or none of it.
    ///
    /// One caller at a time. `position` strictly rises from write to write, and is what
    /// [`Engine::durable_position`] is measured in. Never syncs; may wait, for a bounded time, for flushes to catch up.
    fn write(&self, batch: WriteBatch, position: u64) -> Result<(), EngineError>;

    /// The newest value of a key. It may be newer than what a view taken at the same moment sees, and may be one that
    /// the drop rule has already let go: what may be dropped may be seen for as long as it pleases.
    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Bytes>, EngineError>;

    /// A consistent view over all keyspaces. Files and memory that it needs are kept while it lives.
    fn view(&self) -> Result<Box<dyn View>, EngineError>;

    /// Makes everything written so far durable, and returns the position that it reaches. Blocks.
    ///
    /// On an error everything written is still readable, and the call may be repeated.
    fn checkpoint(&self) -> Result<u64, EngineError>;

    /// The position that a crash at this moment would fall back to; 0 for an empty store.
    fn durable_position(&self) -> u64;

    /// Installs the rule by which compactions drop entries; until then they drop none.
    fn set_drop_rule(&self, rule: DropRule);

    /// Compacts a whole keyspace, so that the drop rule sees every flushed entry. Blocks, possibly for long.
    fn compact(&self, keyspace: Keyspace) -> Result<(), EngineError>;

    /// Begins to load entries in bulk, without passing through memory, into an engine that is empty.
    ///
    /// Errors: [`EngineError::NotEmpty`], or that of the operating system.
    fn load(&self) -> Result<Box<dyn Load>, EngineError>;

    /// Sets the memory to use from now on, as far as that can change while running. Where engines share their memory, it
    /// is that of all of them.
    fn set_memory(&self, cache_bytes: u64, write_buffer_bytes: u64);

    /// Sizes and counters.
    fn stats(&self) -> EngineStats;

    /// Reads every file from end to end and compares checksums. Blocks for as long as that takes.
    fn verify(&self) -> Result<VerifyReport, EngineError>;
}

/// A bulk load under way. Nobody writes to the engine meanwhile; one that is dropped, or fails, leaves an engine that is
/// of no use but to be deleted.
pub trait Load: Send {
    /// Adds entries: keyspaces one after the other, keys strictly ascending within each, also from call to call. May block
    /// while earlier entries are being written.
    fn add(&mut self, keyspace: Keyspace, entries: Vec<(Bytes, Bytes)>) -> Result<(), EngineError>;

    /// Makes all of it visible. It is durable after the next [`Engine::checkpoint`].
    fn finish(self: Box<Self>) -> Result<(), EngineError>;
}

/// What [`View::range`] yields: keys and values in ascending order of keys, until an error.
pub type Range<'a> = Box<dyn Iterator<Item = Result<(Bytes, Bytes), EngineError>> + Send + 'a>;

/// All keyspaces as of one moment.
pub trait View: Send {
    /// The value of a key.
    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Bytes>, EngineError>;

    /// The entries between two bounds; none if the bounds are the wrong way round.
    fn range<'a>(&'a self, keyspace: Keyspace, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Range<'a>;
}

/// Sizes and counters of an engine.
#[derive(Debug, Clone, Default)]
pub struct EngineStats {
    /// Bytes in table files, by keyspace in the order of [`Keyspace::ALL`].
    pub disk_bytes: [u64; 4],
    /// Entries, in the same order; one that was overwritten counts again until a compaction has dropped the older.
    pub entries: [u64; 4],
    /// Table files, in the same order.
    pub tables: [usize; 4],
    /// Sorted runs that every read of the keyspace has to look into, in the same order; of several stores, the most.
    pub l0_runs: [usize; 4],
    /// Written but not yet in durable tables.
    pub memtable_bytes: u64,
    /// Blocks and rows held in the caches.
    pub cache_bytes: u64,
    /// Most that the caches may hold.
    pub cache_bytes_max: u64,
    /// Memtable bytes at which a checkpoint starts by itself.
    pub write_buffer_bytes: u64,
    /// Entries dropped for good by compactions since the engine was opened.
    pub versions_reclaimed: u64,
    /// Checkpoints completed since the engine was opened.
    pub checkpoints: u64,
    /// Views alive.
    pub views: usize,
    /// Writes are waiting for flushes or compactions.
    pub stalled: bool,
    /// Why the last checkpoint or compaction failed, until one succeeds again.
    pub trouble: Option<String>,
}

impl EngineStats {
    /// Disk bytes of one keyspace.
    pub fn disk_bytes_of(&self, keyspace: Keyspace) -> u64 {
        self.disk_bytes[keyspace.slot()]
    }

    /// Entries of one keyspace, about.
    pub fn entries_of(&self, keyspace: Keyspace) -> u64 {
        self.entries[keyspace.slot()]
    }

    /// Adds what another engine says that has caches and write buffer of its own.
    pub(crate) fn add(&mut self, other: &EngineStats) {
        self.cache_bytes += other.cache_bytes;
        self.cache_bytes_max += other.cache_bytes_max;
        self.write_buffer_bytes += other.write_buffer_bytes;
        self.add_store(other);
    }

    /// Adds what another engine says that shares its caches and write buffer with this one.
    pub(crate) fn add_store(&mut self, other: &EngineStats) {
        for slot in 0..4 {
            self.disk_bytes[slot] += other.disk_bytes[slot];
            self.entries[slot] += other.entries[slot];
            self.tables[slot] += other.tables[slot];
            self.l0_runs[slot] = self.l0_runs[slot].max(other.l0_runs[slot]);
        }
        self.memtable_bytes += other.memtable_bytes;
        self.versions_reclaimed += other.versions_reclaimed;
        self.checkpoints += other.checkpoints;
        self.views += other.views;
        self.stalled |= other.stalled;
        self.trouble = self.trouble.take().or_else(|| other.trouble.clone());
    }
}

/// One file that is not what was once written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The file, or the directory if no single file could be blamed.
    pub what: String,
    /// What is wrong with it.
    pub detail: String,
}

/// What [`Engine::verify`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Files read.
    pub files: usize,
    /// Bytes read.
    pub bytes: u64,
    /// Every damaged file.
    pub damaged: Vec<Damage>,
}

/// What can go wrong in an engine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// There is no room on the drive and none left in memory. Nothing of this call was done; all that was written
    /// before is readable, and writes go on once there is room.
    #[error("no space left for {what}")]
    Full {
        /// The directory or keyspace that needs room.
        what: String,
    },
    /// Bytes on disk are not those once written. What was read is not to be trusted; the store needs repair.
    #[error("{what} is damaged: {detail}")]
    Damaged {
        /// The file, or the directory if no single file could be blamed.
        what: String,
        /// What is wrong with it.
        detail: String,
    },
    /// Bulk loads are for new stores only. Nothing was changed.
    #[error("{what} is not empty, so nothing can be loaded into it in bulk")]
    NotEmpty {
        /// The directory.
        what: String,
    },
    /// The operating system failed. A write was not done; a checkpoint may be repeated.
    #[error("{what}")]
    Io {
        /// What was being done to which file.
        what: String,
        /// The operating system's word.
        source: std::io::Error,
    },
    /// The store was written by a newer Skein. Nothing was touched.
    #[error("{what} has format {found}, and this version of Skein reads formats up to {supported}")]
    NewerFormat {
        /// The file.
        what: String,
        /// The format found.
        found: u32,
        /// The newest format we read.
        supported: u32,
    },
    /// Positions have to rise. Nothing was written.
    #[error("position {given} was written after position {last}")]
    OutOfOrder {
        /// The position given.
        given: u64,
        /// The last position written.
        last: u64,
    },
}

impl EngineError {
    /// Whether freeing space on the drive would help.
    pub fn is_full(&self) -> bool {
        match self {
            EngineError::Full { .. } => true,
            EngineError::Io { source, .. } => source.kind() == std::io::ErrorKind::StorageFull,
            EngineError::Damaged { .. }
            | EngineError::NewerFormat { .. }
            | EngineError::NotEmpty { .. }
            | EngineError::OutOfOrder { .. } => false,
        }
    }

    /// An operating system error with what was being done; a full drive becomes [`EngineError::Full`].
    pub(crate) fn io(what: impl Into<String>, source: std::io::Error) -> EngineError {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        let what = what.into();
        match source.kind() {
            StorageFull | QuotaExceeded => EngineError::Full { what },
            _ => EngineError::Io { what, source },
        }
    }
}

/// Whether two bounds enclose nothing whatever the keys are; the maps underneath would panic on some of these.
pub(crate) fn is_empty_range(from: Bound<&[u8]>, to: Bound<&[u8]>) -> bool {
    use Bound::{Excluded, Included, Unbounded};
    match (from, to) {
        (Unbounded, _) | (_, Unbounded) => false,
        (Included(a), Included(b)) => b < a,
        (Included(a) | Excluded(a), Included(b) | Excluded(b)) => b <= a,
    }
}
