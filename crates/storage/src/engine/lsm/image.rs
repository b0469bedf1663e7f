//! The parts of a keyspace: what is in memory, and the tables.
//!
//! The tables' look-up is kept here too, because a tree holds its own lock while it syncs a new list of tables, which takes as long
//! as the drive takes: with the dirty pages of a compaction in its queue, a second is not rare. Every write and look-up would
//! wait for it. We replace the look-up whenever we changed the tables, which only our flushes and compactions do. Views, which
//! need the tree's history, use the tree itself.

use super::buffer::Buffer;
use super::lock;
use bytes::Bytes;
use lsm_tree::table::filter::standard_bloom;
use lsm_tree::{AbstractTree, InternalValue, SeqNo, Tree};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// The newest entry of a key in the tables, markers of deleted keys included.
type LookUp = Box<dyn Fn(&[u8]) -> lsm_tree::Result<Option<InternalValue>> + Send + Sync>;

struct Parts {
    active: Arc<Buffer>,
    /// To be flushed; newest first.
    frozen: Vec<Arc<Buffer>>,
    tables: Arc<Tables>,
}

struct Tables {
    /// The number of the tree's version, which rises with every change.
    version: u64,
    look_up: LookUp,
}

/// The parts of one keyspace as of its last change.
pub(super) struct Image {
    parts: RwLock<Arc<Parts>>,
    /// Held while the parts are replaced.
    change: Mutex<()>,
}

impl Image {
    /// The parts of a tree just opened.
    pub(super) fn of(tree: &Tree, is_indexed: bool) -> Image {
        let active = Arc::new(Buffer::new(is_indexed));
        let parts = Parts { active, frozen: Vec::new(), tables: Arc::new(tables(tree)) };
        Image { parts: RwLock::new(Arc::new(parts)), change: Mutex::default() }
    }

    /// The buffer to write to. It is not frozen while the caller holds the lock of writers.
    pub(super) fn active(&self) -> Arc<Buffer> {
        self.parts().active.clone()
    }

    /// All buffers, the newest first.
    pub(super) fn buffers(&self) -> Vec<Arc<Buffer>> {
        let parts = self.parts();
        std::iter::once(&parts.active).chain(&parts.frozen).cloned().collect()
    }

    /// The newest value of a key. `newest` is asked before the tables, and after the buffers: what it says is at least as new
    /// as the tables seen here.
    pub(super) fn get(
        &self,
        key: &[u8],
        newest: impl FnOnce() -> Option<Bytes>,
    ) -> lsm_tree::Result<Option<Bytes>> {
        let parts = self.parts();
        let mut buffers = std::iter::once(&parts.active).chain(&parts.frozen);
        if let Some(value) = buffers.find_map(|buffer| buffer.get(key, SeqNo::MAX)) {
            return Ok(value);
        }
        if let Some(value) = newest() {
            return Ok(Some(value));
        }
        let found = (parts.tables.look_up)(key)?;
        Ok(found.filter(|entry| !entry.is_tombstone()).map(|entry| Bytes::from(entry.value)))
    }

    /// Freezes the active buffer, if there is something in it. The caller holds the lock of writers.
    pub(super) fn freeze(&self) {
        let _one_at_a_time = lock(&self.change);
        let old = self.parts();
        if old.active.is_empty() {
            return;
        }
        let frozen = std::iter::once(&old.active).chain(&old.frozen).cloned().collect();
        self.replace(Parts { active: Arc::new(old.active.new_like()), frozen, tables: old.tables.clone() });
    }

    /// The buffers that the next flush writes, the newest first.
    pub(super) fn frozen(&self) -> Vec<Arc<Buffer>> {
        self.parts().frozen.clone()
    }

    /// Takes over the tree's tables after a flush of these buffers, or after a compaction, of none.
    ///
    /// After a flush, new views see the tables already, so that nobody sees neither.
    pub(super) fn follow(&self, tree: &Tree, flushed: &[Arc<Buffer>]) {
        let fresh = Arc::new(tables(tree));
        let _one_at_a_time = lock(&self.change);
        let old = self.parts();
        // Another change may have overtaken this one; its tables then include what this one made.
        let tables = if old.tables.version < fresh.version { fresh } else { old.tables.clone() };
        let is_left = |buffer: &&Arc<Buffer>| !flushed.iter().any(|flushed| Arc::ptr_eq(flushed, buffer));
        let frozen = old.frozen.iter().filter(is_left).cloned().collect();
        self.replace(Parts { active: old.active.clone(), frozen, tables });
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
