//! Applying what the log says: new versions become heads, and the heads they supersede move to the past.

use super::codec::{self, TxOutcome, TxRecord};
use super::retention::Raise;
use super::{Rows, RowsError, meta};
use crate::engine::{Keyspace, View, WriteBatch};
use bytes::Bytes;
use skein_model::{TableId, TxClock, TxId, Value};
use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

/// One version to be written; `None` as value writes a tombstone.
#[derive(Debug, Clone, Copy)]
pub struct Write<'a> {
    /// The row's table.
    pub table: TableId,
    /// The row's key.
    pub key: &'a [u8],
    /// What to write.
    pub value: Option<&'a Value>,
}

/// One committed transaction.
#[derive(Debug, Clone)]
pub struct Commit<'a> {
    /// Its ID.
    pub id: &'a TxId,
    /// The time of all its versions.
    pub time: TxClock,
    /// Kept in its [`TxRecord`].
    pub fingerprint: u64,
    /// Its versions; no row twice.
    pub writes: Vec<Write<'a>>,
}

/// What one or several consecutive log entries change, to be applied as one.
#[derive(Debug, Clone)]
pub struct Changes<'a> {
    /// The log index of the last entry; higher than in all calls before.
    pub position: u64,
    /// What to find again in [`super::MetaState::applied`].
    pub applied: Bytes,
    /// Committed transactions, in any order.
    pub commits: Vec<Commit<'a>>,
    /// Outcomes of transactions that wrote nothing.
    pub records: Vec<(&'a TxId, TxRecord)>,
    /// A new ceiling; a lower one than before changes nothing.
    pub ceiling: Option<TxClock>,
    /// New oldest readable times, of one table or (`None`) of all that have none of their own and of transactions'
    /// outcomes; lower ones than before change nothing. No version at or before one may be applied after it, other
    /// than by a replay.
    pub horizons: Vec<(Option<TableId>, TxClock)>,
}

impl Changes<'_> {
    /// Nothing but the new position.
    pub fn at(position: u64, applied: Bytes) -> Changes<'static> {
        Changes {
            position,
            applied,
            commits: Vec::new(),
            records: Vec::new(),
            ceiling: None,
            horizons: Vec::new(),
        }
    }
}

/// A row while a batch is put together. Versions are encoded.
struct Row {
    head: Option<(TxClock, Bytes)>,
    head_changed: bool,
    /// Superseded versions to be put, by their time.
    past: BTreeMap<TxClock, Bytes>,
}

impl Rows {
    /// Applies changes in one engine batch; one caller at a time.
    ///
    /// Versions that are already there change nothing, and the order of versions does not matter, so a log may be
    /// replayed over a store that has some of its entries. On an error nothing was applied.
    pub fn apply(&self, changes: Changes<'_>) -> Result<(), RowsError> {
        let inner = &*self.inner;
        let mut batch = WriteBatch::new();
        let fresh = inner.fresh.load(Ordering::Acquire);
        if fresh {
            meta::put_format(&mut batch);
        }
        let mut rows: HashMap<Bytes, Row> = HashMap::new();
        let mut past = PastLookup { rows: self, view: None };
        for commit in &changes.commits {
            for write in &commit.writes {
                let key = codec::head_key(write.table, write.key);
                let row = match rows.entry(key) {
                    std::collections::hash_map::Entry::Occupied(row) => row.into_mut(),
                    std::collections::hash_map::Entry::Vacant(vacant) => {
                        let row = self.load(vacant.key())?;
                        vacant.insert(row)
                    }
                };
                let version = codec::encode_version(commit.time, write.value);
                row.place(commit.time, version, write, &mut past)?;
            }
            let record = TxRecord {
                outcome: TxOutcome::Committed(commit.time),
                fingerprint: commit.fingerprint,
                decided_at: commit.time,
            };
            batch.push(Keyspace::Tx, codec::tx_key(commit.id), record.encode());
        }
        for (id, record) in &changes.records {
            batch.push(Keyspace::Tx, codec::tx_key(id), record.encode());
        }
        let mut prefix = Vec::new();
        for (key, row) in rows {
            if !row.past.is_empty() {
                let (table, row_key) = codec::split_head_key(&key).unwrap_or((TableId(0), &[]));
                codec::past_prefix(table, row_key, &mut prefix);
                for (time, version) in row.past {
                    batch.push(Keyspace::Past, codec::past_key(&prefix, time), version);
                }
            }
            if let (true, Some((_, version))) = (row.head_changed, row.head) {
                batch.push(Keyspace::Head, key, version);
            }
        }
        meta::put_applied(&mut batch, changes.applied.clone());

        let mut raises: Vec<Raise> = Vec::new();
        let ceiling = {
            let mut meta = inner.meta.write().unwrap_or_else(PoisonError::into_inner);
            // Before the write: once it is durable, a compaction may drop by these, and readers have to know by then.
            for (table, to) in &changes.horizons {
                meta.horizons.raise(*table, *to);
                raises.push((*table, table.map_or(meta.horizons.default, |table| meta.horizons.of(table))));
            }
            changes.ceiling.filter(|ceiling| meta.ceiling < *ceiling)
        };
        for raise in &raises {
            meta::put_horizon(&mut batch, *raise);
        }
        if let Some(ceiling) = ceiling {
            meta::put_ceiling(&mut batch, ceiling);
        }
        inner.retention.note(changes.position, &raises);
        inner.engine.write(batch, changes.position)?;

        inner.fresh.store(false, Ordering::Release);
        let mut meta = inner.meta.write().unwrap_or_else(PoisonError::into_inner);
        meta.applied = Some(changes.applied);
        if let Some(ceiling) = ceiling {
            meta.ceiling = ceiling;
        }
        Ok(())
    }

    fn load(&self, head_key: &[u8]) -> Result<Row, RowsError> {
        let head = match self.engine().get(Keyspace::Head, head_key)? {
            None => None,
            Some(head) => {
                let (time, _) = codec::decode_stamp(&head)
                    .map_err(|e| RowsError::undecodable(Keyspace::Head, head_key, e))?;
                Some((time, head))
            }
        };
        Ok(Row { head, head_changed: false, past: BTreeMap::new() })
    }
}

impl Row {
    /// Adds a version to the row's set.
    fn place(
        &mut self,
        time: TxClock,
        version: Bytes,
        write: &Write<'_>,
        past: &mut PastLookup<'_>,
    ) -> Result<(), RowsError> {
        match self.head.take() {
            None => {
                self.head = Some((time, version));
                self.head_changed = true;
            }
            Some((head_time, head)) if head_time < time => {
                self.past.insert(head_time, codec::restamp(&head, time));
                self.head = Some((time, version));
                self.head_changed = true;
            }
            Some((head_time, head)) => {
                self.head = Some((head_time, head));
                if time < head_time {
                    self.place_below(time, version, head_time, write, past)?;
                }
            }
        }
        Ok(())
    }

    /// Adds a version older than the head: a replay over a store that is ahead of it.
    fn place_below(
        &mut self,
        time: TxClock,
        version: Bytes,
        head_time: TxClock,
        write: &Write<'_>,
        past: &mut PastLookup<'_>,
    ) -> Result<(), RowsError> {
        let mut versions = past.of(write.table, write.key)?;
        versions.extend(self.past.iter().map(|(time, version)| (*time, version.clone())));
        if versions.contains_key(&time) {
            return Ok(());
        }
        let above = versions.range((Bound::Excluded(time), Bound::Excluded(head_time))).next();
        let successor = above.map_or(head_time, |(successor, _)| *successor);
        if let Some((predecessor, below)) = versions.range(..time).next_back() {
            self.past.insert(*predecessor, codec::restamp(below, time));
        }
        self.past.insert(time, codec::restamp(&version, successor));
        Ok(())
    }
}

/// Superseded versions of rows as the store has them; opens a view only if asked at all.
struct PastLookup<'a> {
    rows: &'a Rows,
    view: Option<Box<dyn View>>,
}

impl PastLookup<'_> {
    fn of(&mut self, table: TableId, key: &[u8]) -> Result<BTreeMap<TxClock, Bytes>, RowsError> {
        let view = match &mut self.view {
            Some(view) => view,
            empty => empty.insert(self.rows.engine().view()?),
        };
        let mut prefix = Vec::new();
        codec::past_prefix(table, key, &mut prefix);
        let (from, to) = (codec::past_key(&prefix, TxClock::MAX), codec::past_key(&prefix, TxClock::ZERO));
        let mut versions = BTreeMap::new();
        for entry in view.range(Keyspace::Past, Bound::Included(&from), Bound::Included(&to)) {
            let (key, version) = entry?;
            if let Some((_, time)) = codec::split_past_key(&key) {
                versions.insert(time, version);
            }
        }
        Ok(versions)
    }
}
