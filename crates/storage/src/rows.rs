//! Rows with their history, over an [`Engine`].
//!
//! Every row's newest version is in the keyspace `Head`; the ones it superseded are in `Past`, each with the time
//! of its successor. So "latest" never meets dead versions, and whether a superseded version is still readable can be
//! told from the version alone. Keys and values are drawn in `rows/codec.rs` and `docs/FORMAT.md`.
//!
//! The versions of a row are a set: applying one twice, or in another order, gives the same rows. That is what lets
//! the log be replayed over a store that already has part of it.

mod apply;
mod codec;
mod digest;
mod meta;
mod retention;
mod scan;
mod transfer;

pub use apply::{Changes, Commit, Write};
pub use codec::{DecodeError, Entry, ROWS_FORMAT, TxOutcome, TxRecord, decode_head, decode_past};
pub use digest::Digest;
pub use retention::Horizons;
pub use scan::{ChunkBudget, ScanPosition, ScanRow, ScanSpec};
pub use transfer::{CHUNK_VERSION, Export, ExportChunk, ExportPosition, Import, ImportError, Imported};

use crate::engine::{Engine, EngineError, EngineStats, Keyspace, VerifyReport, View};
use bytes::Bytes;
use retention::{Retention, is_forgotten_tombstone};
use skein_model::{TableId, TxClock, TxId, Value};
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

/// What can go wrong with rows.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RowsError {
    /// The time asked for is before what retention still covers. Read at `oldest` or later.
    #[error("table {table} can be read back to {oldest}, and {asked} is before that")]
    Gone {
        /// The table.
        table: TableId,
        /// The time asked for.
        asked: TxClock,
        /// The oldest readable time.
        oldest: TxClock,
    },
    /// The engine failed; its error says what state we are left in.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl RowsError {
    /// Whether freeing space on the drive would help.
    pub fn is_full(&self) -> bool {
        match self {
            RowsError::Engine(e) => e.is_full(),
            RowsError::Gone { .. } => false,
        }
    }

    fn undecodable(keyspace: Keyspace, key: &[u8], error: DecodeError) -> RowsError {
        EngineError::Damaged {
            what: format!("the keyspace {keyspace}"),
            detail: format!("the entry of key {} is not one of ours: {error}", key.escape_ascii()),
        }
        .into()
    }
}

/// A row's newest version, without its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Latest {
    /// Its time; zero if the row was never written, or was deleted so long ago that this is forgotten.
    pub time: TxClock,
    /// Whether it has a value.
    pub live: bool,
}

/// One version of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// When it was written.
    pub time: TxClock,
    /// Its value; `None` for a tombstone.
    pub value: Option<Value>,
}

/// The store's own facts, as of the last [`Rows::apply`].
#[derive(Debug, Clone)]
pub struct MetaState {
    /// What the owner of the log gave with the last batch; `None` for an empty store.
    pub applied: Option<Bytes>,
    /// The replicated ceiling of times.
    pub ceiling: TxClock,
    /// Oldest readable times.
    pub horizons: Horizons,
}

/// One table that has rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableFacts {
    /// Its ID.
    pub id: TableId,
    /// Its oldest readable time.
    pub horizon: TxClock,
}

/// The rows of one cohort. Clones share everything.
#[derive(Clone)]
pub struct Rows {
    inner: Arc<Inner>,
}

struct Inner {
    engine: Arc<dyn Engine>,
    meta: RwLock<MetaState>,
    retention: Arc<Retention>,
    /// The store has no format yet; the next batch brings it.
    fresh: AtomicBool,
    /// [`Retention::generation`] up to which everything was reclaimed.
    reclaimed: AtomicU64,
}

impl Rows {
    /// Opens the rows in an engine that was itself just opened: all it holds must be durable, because compactions
    /// drop by the horizons found here. Refuses a newer format, naming both.
    pub fn open(engine: Arc<dyn Engine>) -> Result<Rows, RowsError> {
        let view = engine.view()?;
        let (meta, fresh) = meta::load(&*view)?;
        drop(view);
        let retention = Arc::new(Retention::new(meta.horizons.clone()));
        let rule = retention.clone();
        engine.set_drop_rule(Arc::new(move |durable_position| rule.rule(durable_position)));
        let inner = Inner {
            engine,
            meta: RwLock::new(meta),
            retention,
            fresh: AtomicBool::new(fresh),
            reclaimed: AtomicU64::new(0),
        };
        Ok(Rows { inner: Arc::new(inner) })
    }

    /// The newest version of a row, without copying its value.
    ///
    /// A tombstone counts until compaction drops it, which may be long after retention passed it.
    pub fn latest(&self, table: TableId, key: &[u8]) -> Result<Latest, RowsError> {
        let head_key = codec::head_key(table, key);
        let Some(head) = self.engine().get(Keyspace::Head, &head_key)? else {
            return Ok(Latest { time: TxClock::ZERO, live: false });
        };
        let (time, live) =
            codec::decode_stamp(&head).map_err(|e| RowsError::undecodable(Keyspace::Head, &head_key, e))?;
        Ok(Latest { time, live })
    }

    /// The newest version at or before `at`, if there is one; its value shares the engine's memory.
    ///
    /// A row's deletion is forgotten once retention has passed it: the row then reads as never written.
    /// [`RowsError::Gone`] if retention no longer covers `at`.
    pub fn read(&self, table: TableId, key: &[u8], at: TxClock) -> Result<Option<Version>, RowsError> {
        let found = self.look_up(table, key, at)?;
        // After the look-up: what it missed because the horizon rose meanwhile is then noticed.
        let oldest = self.check_horizon(table, at)?;
        Ok(found.filter(|version| !is_forgotten_tombstone(version.time, version.value.is_some(), oldest)))
    }

    fn look_up(&self, table: TableId, key: &[u8], at: TxClock) -> Result<Option<Version>, RowsError> {
        let head_key = codec::head_key(table, key);
        let head_at = |head: Bytes| -> Result<Option<Version>, RowsError> {
            let entry =
                decode_head(&head).map_err(|e| RowsError::undecodable(Keyspace::Head, &head_key, e))?;
            Ok((entry.stamp <= at).then(|| Version { time: entry.stamp, value: entry.into_value(&head) }))
        };
        let Some(head) = self.engine().get(Keyspace::Head, &head_key)? else { return Ok(None) };
        if let Some(version) = head_at(head)? {
            return Ok(Some(version));
        }
        // This head may be from a batch that no view shows yet, and its predecessor not be in the past; so look again,
        // at both in one view.
        let view = self.engine().view()?;
        let Some(head) = view.get(Keyspace::Head, &head_key)? else { return Ok(None) };
        if let Some(version) = head_at(head)? {
            return Ok(Some(version));
        }
        let mut prefix = Vec::new();
        codec::past_prefix(table, key, &mut prefix);
        past_at(&*view, &prefix, at)
    }

    /// What is remembered of a transaction.
    pub fn tx(&self, id: &TxId) -> Result<Option<TxRecord>, RowsError> {
        let key = codec::tx_key(id);
        match self.engine().get(Keyspace::Tx, &key)? {
            None => Ok(None),
            Some(value) => {
                TxRecord::decode(&value).map(Some).map_err(|e| RowsError::undecodable(Keyspace::Tx, &key, e))
            }
        }
    }

    /// The store's own facts.
    pub fn meta(&self) -> MetaState {
        self.meta_read().clone()
    }

    /// The oldest readable time of a table.
    pub fn horizon(&self, table: TableId) -> TxClock {
        self.meta_read().horizons.of(table)
    }

    /// The oldest readable time of tables without a horizon of their own.
    pub fn default_horizon(&self) -> TxClock {
        self.meta_read().horizons.default
    }

    /// Whether a table has a horizon of its own.
    pub fn has_own_horizon(&self, table: TableId) -> bool {
        self.meta_read().horizons.tables.contains_key(&table)
    }

    /// Makes everything applied so far durable in the store; returns the position reached. Blocks.
    pub fn checkpoint(&self) -> Result<u64, RowsError> {
        Ok(self.engine().checkpoint()?)
    }

    /// The position below which the log is no longer needed.
    pub fn durable_position(&self) -> u64 {
        self.engine().durable_position()
    }

    /// Sizes and counters of the engine.
    pub fn stats(&self) -> EngineStats {
        self.engine().stats()
    }

    /// Reads every file and compares checksums. Blocks, possibly for long.
    pub fn verify(&self) -> Result<VerifyReport, RowsError> {
        Ok(self.engine().verify()?)
    }

    /// The tables that have rows, deleted ones not yet reclaimed included, in ascending order of ID.
    ///
    /// Costs one look-up per table.
    pub fn tables(&self) -> Result<Vec<TableFacts>, RowsError> {
        let view = self.engine().view()?;
        let mut tables = Vec::new();
        let mut from = Some(TableId(0));
        while let Some(at_least) = from {
            let bound = at_least.0.to_be_bytes();
            let first = view.range(Keyspace::Head, Bound::Included(&bound), Bound::Unbounded).next();
            let Some(entry) = first else { break };
            let (key, _) = entry?;
            let Some((id, _)) = codec::split_head_key(&key) else {
                return Err(RowsError::undecodable(Keyspace::Head, &key, DecodeError::Short));
            };
            tables.push(TableFacts { id, horizon: self.horizon(id) });
            from = id.0.checked_add(1).map(TableId);
        }
        Ok(tables)
    }

    /// Drops everything that no readable time can see, by compacting whole keyspaces. Blocks, possibly for long;
    /// reads and writes go on. Does nothing if no horizon was raised since the last time.
    pub fn reclaim(&self) -> Result<(), RowsError> {
        let inner = &*self.inner;
        let durable = inner.engine.checkpoint()?;
        let generation = inner.retention.generation(durable);
        if inner.reclaimed.load(Ordering::Acquire) == generation {
            return Ok(());
        }
        for keyspace in [Keyspace::Past, Keyspace::Tx, Keyspace::Head] {
            inner.engine.compact(keyspace)?;
        }
        inner.reclaimed.store(generation, Ordering::Release);
        Ok(())
    }

    fn engine(&self) -> &dyn Engine {
        &*self.inner.engine
    }

    fn meta_read(&self) -> RwLockReadGuard<'_, MetaState> {
        self.inner.meta.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The oldest readable time, if `asked` is not before it.
    fn check_horizon(&self, table: TableId, asked: TxClock) -> Result<TxClock, RowsError> {
        let oldest = self.horizon(table);
        if asked < oldest { Err(RowsError::Gone { table, asked, oldest }) } else { Ok(oldest) }
    }
}

/// The newest superseded version at or before `at`, unless its successor was at or before `at` too: then the
/// successor was a tombstone that is already reclaimed.
fn past_at(view: &dyn View, prefix: &[u8], at: TxClock) -> Result<Option<Version>, RowsError> {
    let (from, to) = (codec::past_key(prefix, at), codec::past_key(prefix, TxClock::ZERO));
    let newest = view.range(Keyspace::Past, Bound::Included(&from), Bound::Included(&to)).next();
    let Some(found) = newest else { return Ok(None) };
    let (key, value) = found?;
    let Some((_, time)) = codec::split_past_key(&key) else {
        return Err(RowsError::undecodable(Keyspace::Past, &key, DecodeError::Short));
    };
    let entry = decode_past(&value).map_err(|e| RowsError::undecodable(Keyspace::Past, &key, e))?;
    if entry.stamp <= at {
        return Ok(None);
    }
    Ok(Some(Version { time, value: entry.into_value(&value) }))
}

#[cfg(test)]
mod tests;
