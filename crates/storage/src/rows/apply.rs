//! Applying what the log says: new versions become heads, and the heads they supersede move to the past.

use super::codec::{self, TxOutcome, TxRecord};
use super::retention::Raise;
use super::{Rows, RowsError, meta};
use crate::engine::{Keyspace, View, WriteBatch};
use bytes::{Bytes, BytesMut};
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use skein_model::{TableId, TxClock, TxId, Value};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use xxhash_rust::xxh3::xxh3_64;

/// Most bytes of keys and values that share an allocation: whoever holds a single value holds all of them.
const SHARED_BYTES_MAX: usize = 16 << 10;

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

/// A row while a batch is put together. Keys and versions are encoded.
struct Row {
    key: Bytes,
    head: Option<(TxClock, Bytes)>,
    head_changed: bool,
    /// Superseded versions to be put, by their time; of two for one time, the later counts.
    past: Vec<(TxClock, Bytes)>,
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
        let writes: usize = changes.commits.iter().map(|commit| commit.writes.len()).sum();
        let mut out = BytesMut::with_capacity(bytes_of(&changes).min(SHARED_BYTES_MAX));
        let mut rows: Vec<Row> = Vec::with_capacity(writes);
        let mut by_key: HashTable<usize> = HashTable::with_capacity(writes);
        let mut past = PastLookup { rows: self, view: None };
        for commit in &changes.commits {
            for write in &commit.writes {
                let key = codec::put_head_key(write.table, write.key, &mut out);
                let is_it = |row: &usize| rows[*row].key == key;
                let place = by_key.entry(xxh3_64(&key), is_it, |row| xxh3_64(&rows[*row].key));
                let row = match place {
                    Entry::Occupied(place) => *place.get(),
                    Entry::Vacant(place) => {
                        let row = self.load(key)?;
                        place.insert(rows.len());
                        rows.push(row);
                        rows.len() - 1
                    }
                };
                let version = codec::encode_version(commit.time, write.value, &mut out);
                rows[row].place(commit.time, version, write, &mut past, &mut out)?;
            }
            let record = TxRecord {
                outcome: TxOutcome::Committed(commit.time),
                fingerprint: commit.fingerprint,
                decided_at: commit.time,
            };
            let key = codec::put_tx_key(commit.id, &mut out);
            batch.push(Keyspace::Tx, key, record.put(&mut out));
        }
        for (id, record) in &changes.records {
            let key = codec::put_tx_key(id, &mut out);
            batch.push(Keyspace::Tx, key, record.put(&mut out));
        }
        let mut prefix = Vec::new();
        for row in rows {
            if !row.past.is_empty() {
                let (table, row_key) = codec::split_head_key(&row.key).unwrap_or((TableId(0), &[]));
                codec::past_prefix(table, row_key, &mut prefix);
                for (time, version) in row.past {
                    batch.push(Keyspace::Past, codec::put_past_key(&prefix, time, &mut out), version);
                }
            }
            if let (true, Some((_, version))) = (row.head_changed, row.head) {
                batch.push(Keyspace::Head, row.key, version);
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

    fn load(&self, key: Bytes) -> Result<Row, RowsError> {
        let head = match self.engine().get(Keyspace::Head, &key)? {
            None => None,
            Some(head) => {
                let (time, _) = codec::decode_stamp(&head)
                    .map_err(|e| RowsError::undecodable(Keyspace::Head, &key, e))?;
                Some((time, head))
            }
        };
        Ok(Row { key, head, head_changed: false, past: Vec::new() })
    }
}

/// Bytes that changes take when encoded, but for what they supersede.
fn bytes_of(changes: &Changes<'_>) -> usize {
    const WRITE: usize = 24;
    const TX: usize = 48;
    let writes = changes.commits.iter().flat_map(|commit| &commit.writes);
    let bytes = writes.map(|w| WRITE + w.key.len() + w.value.map_or(0, |value| value.bytes.len()));
    bytes.sum::<usize>() + (changes.commits.len() + changes.records.len()) * TX
}

impl Row {
    /// Adds a version to the row's set.
    fn place(
        &mut self,
        time: TxClock,
        version: Bytes,
        write: &Write<'_>,
        past: &mut PastLookup<'_>,
        out: &mut BytesMut,
    ) -> Result<(), RowsError> {
        match self.head.take() {
            None => {
                self.head = Some((time, version));
                self.head_changed = true;
            }
            Some((head_time, head)) if head_time < time => {
                self.past.push((head_time, codec::restamp(&head, time, out)));
                self.head = Some((time, version));
                self.head_changed = true;
            }
            Some((head_time, head)) => {
                self.head = Some((head_time, head));
                if time < head_time {
                    self.place_below(time, version, head_time, write, past, out)?;
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
        out: &mut BytesMut,
    ) -> Result<(), RowsError> {
        let mut versions = past.of(write.table, write.key)?;
        versions.extend(self.past.iter().map(|(time, version)| (*time, version.clone())));
        if versions.contains_key(&time) {
            return Ok(());
        }
        let above = versions.range((Bound::Excluded(time), Bound::Excluded(head_time))).next();
        let successor = above.map_or(head_time, |(successor, _)| *successor);
        if let Some((predecessor, below)) = versions.range(..time).next_back() {
            self.past.push((*predecessor, codec::restamp(below, time, out)));
        }
        self.past.push((time, codec::restamp(&version, successor, out)));
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
