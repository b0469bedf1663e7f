//! What is needed to write to a tree and to read its newest values, without the tree's own lock.
//!
//! A tree holds that lock while it syncs a new list of tables, which takes as long as the drive takes: with the dirty
//! pages of a compaction in its queue, a second is not rare. Every write and look-up would wait for it. So we keep the
//! tree's parts here, and replace them whenever we changed them: memtables are sealed and flushed by our checkpoints
//! alone, tables change in our flushes and compactions alone. Views, which need the tree's history, use the tree itself.

use super::lock;
use lsm_tree::table::filter::standard_bloom;
use lsm_tree::{AbstractTree, InternalValue, Memtable, MemtableId, SeqNo, Slice, Tree};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// The newest entry of a key in the tables, markers of deleted keys included.
type LookUp = Box<dyn Fn(&[u8]) -> lsm_tree::Result<Option<InternalValue>> + Send + Sync>;

struct Parts {
    active: Arc<Memtable>,
    /// Newest first.
    sealed: Vec<Arc<Memtable>>,
    tables: Arc<Tables>,
}

struct Tables {
    /// The number of the tree's version, which rises with every change.
    version: u64,
    look_up: LookUp,
}

/// The parts of one tree as of its last change.
pub(super) struct Image {
    parts: RwLock<Arc<Parts>>,
    /// Held while the parts are replaced.
    change: Mutex<()>,
}

impl Image {
    /// The parts of a tree just opened.
    pub(super) fn of(tree: &Tree) -> Image {
        let parts =
            Parts { active: tree.active_memtable(), sealed: Vec::new(), tables: Arc::new(tables(tree)) };
        Image { parts: RwLock::new(Arc::new(parts)), change: Mutex::default() }
    }

    /// The memtable to write to. It is not sealed while the caller holds the lock of writers.
    pub(super) fn active(&self) -> Arc<Memtable> {
        self.parts().active.clone()
    }

    /// The newest value of a key.
    pub(super) fn get(&self, key: &[u8]) -> lsm_tree::Result<Option<Slice>> {
        let parts = self.parts();
        let in_memory =
            std::iter::once(&parts.active).chain(&parts.sealed).find_map(|m| m.get(key, SeqNo::MAX));
        let found = match in_memory {
            Some(entry) => Some(entry),
            None => (parts.tables.look_up)(key)?,
        };
        Ok(found.filter(|entry| !entry.is_tombstone()).map(|entry| entry.value))
    }

    /// Seals the tree's memtable, if there is something in it. The caller holds the lock of writers.
    pub(super) fn seal(&self, tree: &Tree) {
        let _one_at_a_time = lock(&self.change);
        let Some(sealed) = tree.rotate_memtable() else { return };
        let old = self.parts();
        let sealed = std::iter::once(sealed).chain(old.sealed.iter().cloned()).collect();
        self.replace(Parts { active: tree.active_memtable(), sealed, tables: old.tables.clone() });
    }

    /// The sealed memtables that the next flush writes.
    pub(super) fn sealed_ids(&self) -> Vec<MemtableId> {
        self.parts().sealed.iter().map(|memtable| memtable.id()).collect()
    }

    /// Takes over the tree's tables after a flush of these memtables, or after a compaction, of none.
    pub(super) fn follow(&self, tree: &Tree, flushed: &[MemtableId]) {
        let fresh = Arc::new(tables(tree));
        let _one_at_a_time = lock(&self.change);
        let old = self.parts();
        // Another change may have overtaken this one; its tables then include what this one made.
        let tables = if old.tables.version < fresh.version { fresh } else { old.tables.clone() };
        let sealed =
            old.sealed.iter().filter(|memtable| !flushed.contains(&memtable.id())).cloned().collect();
        self.replace(Parts { active: old.active.clone(), sealed, tables });
    }

    fn parts(&self) -> Arc<Parts> {
        self.parts.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn replace(&self, parts: Parts) {
        *self.parts.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(parts);
    }
}

fn tables(tree: &Tree) -> Tables {
    let version = tree.current_version();
    let number = version.id();
    let look_up = move |key: &[u8]| {
        let hash = standard_bloom::Builder::get_hash(key);
        // Levels and their runs go from new to old, and a run has at most one table for a key.
        for table in
            version.iter_levels().flat_map(|level| level.iter()).filter_map(|run| run.get_for_key(key))
        {
            if let Some(entry) = table.get(key, SeqNo::MAX, hash)? {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    };
    Tables { version: number, look_up: Box::new(look_up) }
}
