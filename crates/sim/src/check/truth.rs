//! Every version of every row, as the cell tells it when all is over.

use super::{Row, Violation};
use bytes::Bytes;
use skein_model::{Slice, TableId, TxClock};
use std::collections::BTreeMap;
use std::ops::Bound;

/// The versions of each row by their time; `None` is a tombstone.
#[derive(Debug, Clone, Default)]
pub struct Truth {
    rows: BTreeMap<Row, BTreeMap<TxClock, Option<Bytes>>>,
}

impl Truth {
    /// Adds the version of a row. There may be only one at a time.
    pub fn add(&mut self, row: Row, time: TxClock, value: Option<Bytes>) -> Result<(), Violation> {
        match self.rows.entry(row.clone()).or_default().insert(time, value) {
            None => Ok(()),
            Some(_) => Err(Violation(format!("row {row:?} has two versions at {time}"))),
        }
    }

    /// All versions of all rows.
    pub fn versions(&self) -> impl Iterator<Item = (&Row, TxClock, Option<&Bytes>)> {
        self.rows.iter().flat_map(|(row, versions)| {
            versions.iter().map(move |(time, value)| (row, *time, value.as_ref()))
        })
    }

    /// The newest version of a row at or before a time; time 0 if there is none.
    pub fn at(&self, row: &Row, time: TxClock) -> (TxClock, Option<&Bytes>) {
        let newest = self.rows.get(row).and_then(|versions| versions.range(..=time).next_back());
        newest.map_or((TxClock::ZERO, None), |(time, value)| (*time, value.as_ref()))
    }

    /// What a scan of the newest values shows at a time: the rows of the slice that hold a value then, by key.
    pub fn scan(
        &self,
        table: TableId,
        slice: Slice,
        time: TxClock,
    ) -> impl Iterator<Item = (&Bytes, TxClock, &Bytes)> {
        let first = Row { table, key: Bytes::new() };
        self.rows
            .range((Bound::Included(first), Bound::Unbounded))
            .take_while(move |(row, _)| row.table == table)
            .filter(move |(row, _)| slice.contains(table, &row.key))
            .filter_map(move |(row, versions)| {
                let (time, value) = versions.range(..=time).next_back()?;
                Some((&row.key, *time, value.as_ref()?))
            })
    }
}
