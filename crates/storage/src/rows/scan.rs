//! Scans, a chunk at a time.
//!
//! Each chunk opens its own view, so that a slow reader holds back neither flushes nor compactions. The chunks of one
//! scan are a snapshot nevertheless, because they read by time: no version at or before `until` is added once
//! `until` is promised, and none is dropped while retention covers it.

use super::codec::{self, DecodeError};
use super::retention::is_forgotten_tombstone;
use super::{Rows, RowsError, decode_head, decode_past, past_at};
use crate::engine::{Keyspace, Range, View};
use bytes::Bytes;
use skein_model::{Pick, Slice, TableId, TxClock, Value, Window};
use std::ops::Bound;

/// Entries that one chunk looks at, at most, before it gives the thread back, however few of them it yields.
const EXAMINED_MAX: usize = 16 << 10;

/// What to scan.
#[derive(Debug, Clone)]
pub struct ScanSpec {
    /// The table.
    pub table: TableId,
    /// Which versions of each row.
    pub window: Window,
    /// Which rows.
    pub slice: Slice,
    /// Stop before this key.
    pub end: Option<Bytes>,
}

/// Where a scan starts or goes on: at `key`, there at its newest version at or before `time`; at the keys after it
/// without that bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanPosition {
    /// The first key.
    pub key: Bytes,
    /// Inclusive upper bound for the versions of that key alone.
    pub time: TxClock,
}

impl ScanPosition {
    /// The start of a table.
    pub const START: ScanPosition = ScanPosition { key: Bytes::new(), time: TxClock::MAX };
}

/// When a chunk ends: as soon as it has yielded so many rows or bytes. It makes some progress even if these are zero.
#[derive(Debug, Clone, Copy)]
pub struct ChunkBudget {
    /// Rows.
    pub rows: usize,
    /// Bytes of keys and values, and [`ScanRow::OVERHEAD_BYTES`] for each row.
    pub bytes: usize,
}

/// One version that a scan selects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanRow {
    /// The row's key.
    pub key: Bytes,
    /// The version's time.
    pub time: TxClock,
    /// Its value; `None` for a tombstone.
    pub value: Option<Value>,
}

impl ScanRow {
    /// What a row counts in a [`ChunkBudget`] beyond its key and value.
    pub const OVERHEAD_BYTES: usize = 32;
}

impl Rows {
    /// Scans on from a position until the budget is used up, calls `out` for every selected version in order, and
    /// returns where to go on; `None` at the end.
    ///
    /// Order: keys ascending, within a key newest first. Keys and values share the engine's memory. The bytes budget is
    /// exceeded by at most one row. A chunk may yield nothing and still have a successor.
    /// After an error, what this call gave to `out` is not to be used. [`RowsError::Gone`] if retention no longer
    /// covers `until`.
    pub fn scan_chunk(
        &self,
        spec: &ScanSpec,
        from: &ScanPosition,
        budget: ChunkBudget,
        out: &mut dyn FnMut(ScanRow),
    ) -> Result<Option<ScanPosition>, RowsError> {
        let horizon = self.check_horizon(spec.table, spec.window.until)?;
        let view = self.engine().view()?;
        let mut chunk = Chunk {
            spec,
            horizon,
            view: &*view,
            out,
            budget,
            rows: 0,
            bytes: 0,
            examined: 0,
            prefix: Vec::new(),
        };
        let next = match spec.window.pick {
            Pick::Latest => chunk.latest(from),
            Pick::Between | Pick::Through => chunk.versions(from),
        }?;
        // Afterwards again: what was missed because the horizon rose meanwhile is then noticed.
        self.check_horizon(spec.table, spec.window.until)?;
        Ok(next)
    }
}

struct Chunk<'a> {
    spec: &'a ScanSpec,
    horizon: TxClock,
    view: &'a dyn View,
    out: &'a mut dyn FnMut(ScanRow),
    budget: ChunkBudget,
    rows: usize,
    bytes: usize,
    examined: usize,
    prefix: Vec<u8>,
}

impl<'a> Chunk<'a> {
    /// The heads from a position to the end of the scan.
    fn heads(&self, from: &ScanPosition) -> Range<'a> {
        let table = self.spec.table;
        let first = codec::head_key(table, &from.key);
        let end = match (&self.spec.end, table.0.checked_add(1)) {
            (Some(end), _) => Some(codec::head_key(table, end)),
            (None, Some(next)) => Some(codec::head_key(TableId(next), &[])),
            (None, None) => None,
        };
        let end = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        self.view.range(Keyspace::Head, Bound::Included(&first), end)
    }

    fn latest(&mut self, from: &ScanPosition) -> Result<Option<ScanPosition>, RowsError> {
        let Window { since, until, .. } = self.spec.window;
        for head in self.heads(from) {
            let (head_key, head) = head?;
            let key = row_key(&head_key);
            if self.is_spent() {
                return Ok(Some(ScanPosition { key, time: self.time_bound(from, &head_key) }));
            }
            self.examined += 1;
            if !self.spec.slice.contains(self.spec.table, &key) {
                continue;
            }
            let at = until.min(self.time_bound(from, &head_key));
            let (time, live) = codec::decode_stamp(&head)
                .map_err(|e| RowsError::undecodable(Keyspace::Head, &head_key, e))?;
            if time <= at {
                if live && since < time {
                    let entry = decode_head(&head)
                        .map_err(|e| RowsError::undecodable(Keyspace::Head, &head_key, e))?;
                    self.yield_row(key, time, entry.into_value(&head));
                }
                continue;
            }
            self.examined += 1;
            codec::past_prefix(self.spec.table, &key, &mut self.prefix);
            if let Some(version) = past_at(self.view, &self.prefix, at)?
                && version.value.is_some()
                && since < version.time
            {
                self.yield_row(key, version.time, version.value);
            }
        }
        Ok(None)
    }

    /// `between` and `through`: heads and superseded versions merged key by key.
    fn versions(&mut self, from: &ScanPosition) -> Result<Option<ScanPosition>, RowsError> {
        let Window { until, .. } = self.spec.window;
        let mut first = Vec::new();
        codec::past_prefix(self.spec.table, &from.key, &mut first);
        let mut past = PastCursor::start(self.view, &codec::past_key(&first, from.time));
        for head in self.heads(from) {
            let (head_key, head) = head?;
            let key = row_key(&head_key);
            if self.is_spent() {
                return Ok(Some(ScanPosition { key, time: self.time_bound(from, &head_key) }));
            }
            self.examined += 1;
            if !self.spec.slice.contains(self.spec.table, &key) {
                continue;
            }
            let at = until.min(self.time_bound(from, &head_key));
            codec::past_prefix(self.spec.table, &key, &mut self.prefix);
            let entry =
                decode_head(&head).map_err(|e| RowsError::undecodable(Keyspace::Head, &head_key, e))?;
            let head_time = entry.stamp;
            if head_time <= at && !is_forgotten_tombstone(head_time, entry.is_live(), self.horizon) {
                match self.offer(&key, head_time, || entry.into_value(&head)) {
                    Offered::More => {}
                    Offered::RowDone => continue,
                    Offered::Spent => return Ok(Some(ScanPosition { key, time: head_time })),
                }
            }
            loop {
                let Some((time, version)) = past.next_of(&self.prefix, &mut self.examined)? else { break };
                if EXAMINED_MAX <= self.examined {
                    return Ok(Some(ScanPosition { key, time }));
                }
                // A store in the middle of a replay may have versions in the past that are the head or newer.
                if at < time || head_time <= time {
                    continue;
                }
                let entry = decode_past(&version)
                    .map_err(|e| RowsError::undecodable(Keyspace::Past, &self.prefix, e))?;
                if entry.stamp <= self.horizon || is_forgotten_tombstone(time, entry.is_live(), self.horizon)
                {
                    continue;
                }
                match self.offer(&key, time, || entry.into_value(&version)) {
                    Offered::More => {}
                    Offered::RowDone => break,
                    Offered::Spent => return Ok(Some(ScanPosition { key, time })),
                }
            }
        }
        Ok(None)
    }

    /// Takes a version at or before `until` if the window selects it; versions of a row come newest first.
    fn offer(&mut self, key: &Bytes, time: TxClock, value: impl FnOnce() -> Option<Value>) -> Offered {
        let Window { pick, since, .. } = self.spec.window;
        let selected = since < time || pick == Pick::Through;
        if selected {
            // A row's versions may be many, so the budget ends in their midst too.
            if self.is_spent() {
                return Offered::Spent;
            }
            self.yield_row(key.clone(), time, value());
        }
        if since < time { Offered::More } else { Offered::RowDone }
    }

    fn yield_row(&mut self, key: Bytes, time: TxClock, value: Option<Value>) {
        self.rows += 1;
        self.bytes +=
            key.len() + value.as_ref().map_or(0, |value| value.bytes.len()) + ScanRow::OVERHEAD_BYTES;
        (self.out)(ScanRow { key, time, value });
    }

    /// Whether to stop before the next entry. Never before the first.
    fn is_spent(&self) -> bool {
        0 < self.examined
            && (self.budget.rows.max(1) <= self.rows
                || (0 < self.rows && self.budget.bytes <= self.bytes)
                || EXAMINED_MAX <= self.examined)
    }

    /// The time of the position, for its own key; no bound for others.
    fn time_bound(&self, from: &ScanPosition, head_key: &[u8]) -> TxClock {
        if head_key.get(8..) == Some(&from.key[..]) { from.time } else { TxClock::MAX }
    }
}

enum Offered {
    /// Older versions may be selected too.
    More,
    /// None of the older versions is.
    RowDone,
    /// The version is selected, but belongs to the next chunk.
    Spent,
}

/// The superseded versions from a position on.
struct PastCursor<'a> {
    view: &'a dyn View,
    entries: Range<'a>,
    next: Option<(Bytes, Bytes)>,
}

impl<'a> PastCursor<'a> {
    fn start(view: &'a dyn View, from: &[u8]) -> PastCursor<'a> {
        PastCursor {
            view,
            entries: view.range(Keyspace::Past, Bound::Included(from), Bound::Unbounded),
            next: None,
        }
    }

    /// The next version of the row with this prefix; skips those of rows before it, leaves those after it.
    fn next_of(
        &mut self,
        prefix: &[u8],
        examined: &mut usize,
    ) -> Result<Option<(TxClock, Bytes)>, RowsError> {
        /// Skipping more than this many entries costs more than looking the row up.
        const SKIPPED_MAX: usize = 64;
        let mut skipped = 0;
        loop {
            let (key, version) = match self.next.take() {
                Some(entry) => entry,
                None => match self.entries.next() {
                    Some(entry) => {
                        *examined += 1;
                        entry?
                    }
                    None => return Ok(None),
                },
            };
            let Some((found, time)) = codec::split_past_key(&key) else {
                return Err(RowsError::undecodable(Keyspace::Past, &key, DecodeError::Short));
            };
            match found.cmp(prefix) {
                std::cmp::Ordering::Less => skipped += 1,
                std::cmp::Ordering::Equal => return Ok(Some((time, version))),
                std::cmp::Ordering::Greater => {
                    self.next = Some((key, version));
                    return Ok(None);
                }
            }
            if skipped == SKIPPED_MAX {
                *self = PastCursor::start(self.view, prefix);
            }
        }
    }
}

/// The row's key within its head key, which the range bounds made start with the table.
fn row_key(head_key: &Bytes) -> Bytes {
    head_key.slice(8.min(head_key.len())..)
}
