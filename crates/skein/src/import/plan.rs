//! Which row goes into which batch: the same for every run over the same file, and in order for each key.
//!
//! Rows are dealt to lanes by a hash of their key, and each lane sends its batches one after the other. So batches
//! go out in parallel and still no row overtakes an earlier one of the same key. A batch may not hold a key
//! twice, so a second one closes the batch first.

use super::source::Row;
use bytes::Bytes;
use skein_model::{TableId, TxId, row_hash};
use std::collections::HashSet;
use std::ops::Range;

/// Bytes of rows after which a batch is closed. Far below the limit of a batch, so that a server with a small
/// memory budget takes it too; a single larger row travels alone.
const BATCH_BYTES: usize = 1 << 20;

/// Rows that go in together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Which lane sends it.
    pub lane: usize,
    /// Its number in the lane, from 0.
    pub number: u64,
    /// The body for `/batch-write`.
    pub body: Bytes,
    /// For each row its line in the file, and where its operation stands in the body.
    pub rows: Vec<(u64, Range<usize>)>,
}

impl Batch {
    /// The body of a batch with the row at this position alone.
    pub fn alone(&self, row: usize) -> Bytes {
        let operation = &self.body[self.rows[row].1.clone()];
        [b"[", operation, b"]"].concat().into()
    }
}

/// Deals rows into batches.
#[derive(Debug)]
pub struct Planner {
    lanes: Vec<Lane>,
    rows_max: usize,
    /// What each operation begins with, before the row's own members.
    prefix: Vec<u8>,
}

#[derive(Debug, Default)]
struct Lane {
    number: u64,
    body: Vec<u8>,
    rows: Vec<(u64, Range<usize>)>,
    keys: HashSet<Vec<u8>>,
}

impl Planner {
    /// Batches of at most `rows_max` rows for `table`, over `lanes` lanes; both at least 1.
    pub fn new(table: &str, lanes: u16, rows_max: u32) -> Planner {
        let table = serde_json::Value::from(table);
        Planner {
            lanes: (0..lanes.max(1)).map(|_| Lane::default()).collect(),
            rows_max: rows_max.max(1) as usize,
            prefix: format!("{{\"table\":{table},\"op\":\"update\",").into_bytes(),
        }
    }

    /// Adds a row; gives the batch that this closed, which does not hold the row.
    pub fn push(&mut self, row: Row) -> Option<Batch> {
        // Any fixed hash would do; the row hash is at hand and will stay the same.
        let at = row_hash(TableId(0), &row.key) as usize % self.lanes.len();
        let lane = &mut self.lanes[at];
        let full = self.rows_max <= lane.rows.len()
            || !lane.rows.is_empty() && BATCH_BYTES < lane.body.len() + row.members.len()
            || lane.keys.contains(&row.key);
        let closed = if full { lane.close(at) } else { None };
        lane.body.push(if lane.rows.is_empty() { b'[' } else { b',' });
        let start = lane.body.len();
        lane.body.extend_from_slice(&self.prefix);
        lane.body.extend_from_slice(&row.members);
        lane.body.push(b'}');
        lane.rows.push((row.line, start..lane.body.len()));
        lane.keys.insert(row.key);
        closed
    }

    /// The batches still open, at the end of the file.
    pub fn finish(mut self) -> Vec<Batch> {
        self.lanes.iter_mut().enumerate().filter_map(|(at, lane)| lane.close(at)).collect()
    }
}

impl Lane {
    fn close(&mut self, at: usize) -> Option<Batch> {
        if self.rows.is_empty() {
            return None;
        }
        let mut body = std::mem::take(&mut self.body);
        body.push(b']');
        let batch =
            Batch { lane: at, number: self.number, body: body.into(), rows: std::mem::take(&mut self.rows) };
        self.number += 1;
        self.keys.clear();
        Some(batch)
    }
}

/// What all transaction IDs of one import have in common: drawn when it begins, kept while it is resumed.
///
/// Not derived from the file: importing a file a second time on purpose must write its rows a second time, and
/// the server would take a repeated ID for a repeated request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RunId(pub u128);

impl RunId {
    /// The ID of one batch, or of one of its rows sent alone; the same each time it is asked for, so that what
    /// is sent twice is written once.
    pub fn transaction(self, lane: usize, number: u64, alone: Option<usize>) -> TxId {
        let mut bytes = [0u8; 32];
        bytes[..16].copy_from_slice(&self.0.to_be_bytes());
        // At most 256 lanes.
        bytes[16..20].copy_from_slice(&(lane as u32).to_be_bytes());
        bytes[20..28].copy_from_slice(&number.to_be_bytes());
        // At most 10,000 rows; zero stands for all of them.
        bytes[28..].copy_from_slice(&alone.map_or(0, |row| row as u32 + 1).to_be_bytes());
        TxId::from_be_bytes(&bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn row(key: &str, value: usize) -> Row {
        Row {
            line: value as u64 + 1,
            key: key.as_bytes().to_vec(),
            members: format!("\"key\":\"{key}\",\"value\":{value}").into_bytes(),
        }
    }

    fn plan(keys: &[String], lanes: u16, rows_max: u32) -> Vec<Batch> {
        let mut planner = Planner::new("t", lanes, rows_max);
        let mut batches: Vec<Batch> =
            keys.iter().enumerate().filter_map(|(i, key)| planner.push(row(key, i))).collect();
        batches.extend(planner.finish());
        batches
    }

    fn operations(batch: &Batch) -> Vec<(String, u64)> {
        let ops: Vec<serde_json::Value> = serde_json::from_slice(&batch.body).unwrap();
        ops.iter()
            .map(|op| {
                assert_eq!((&op["table"], &op["op"]), (&"t".into(), &"update".into()));
                (op["key"].as_str().unwrap().to_owned(), op["value"].as_u64().unwrap())
            })
            .collect()
    }

    proptest! {
        #[test]
        fn every_row_goes_in_once_and_in_order_for_its_key(
            keys in prop::collection::vec("[a-e]{1,2}", 0..120), lanes in 1u16..6, rows_max in 1u32..9,
        ) {
            let mut batches = plan(&keys, lanes, rows_max);
            prop_assert_eq!(&batches, &plan(&keys, lanes, rows_max));
            batches.sort_by_key(|b| (b.lane, b.number));
            let mut by_key: HashMap<String, (usize, Vec<u64>)> = HashMap::new();
            let mut next = HashMap::new();
            for batch in &batches {
                let number = next.entry(batch.lane).or_insert(0);
                prop_assert_eq!(batch.number, *number);
                *number += 1;
                let ops = operations(batch);
                prop_assert_eq!(ops.len(), batch.rows.len());
                prop_assert!(ops.len() <= rows_max as usize);
                let distinct: HashSet<_> = ops.iter().map(|(key, _)| key).collect();
                prop_assert_eq!(distinct.len(), ops.len());
                for (at, op) in ops.iter().enumerate() {
                    let alone = Batch { body: batch.alone(at), ..batch.clone() };
                    prop_assert_eq!(operations(&alone), vec![op.clone()]);
                    prop_assert_eq!(batch.rows[at].0, op.1 + 1);
                }
                for (key, value) in ops {
                    let (lane, values) = by_key.entry(key).or_insert((batch.lane, Vec::new()));
                    prop_assert_eq!(*lane, batch.lane);
                    values.push(value);
                }
            }
            for (key, (_, values)) in &by_key {
                let expected: Vec<u64> =
                    (0..keys.len()).filter(|i| keys[*i] == *key).map(|i| i as u64).collect();
                prop_assert_eq!(values, &expected);
            }
            prop_assert_eq!(by_key.values().map(|(_, v)| v.len()).sum::<usize>(), keys.len());
        }
    }

    #[test]
    fn a_batch_closes_before_it_grows_past_its_bytes_and_a_large_row_travels_alone() {
        let big = |key: &str| Row { line: 1, key: key.into(), members: vec![b' '; BATCH_BYTES * 3 / 4] };
        let mut planner = Planner::new("t", 1, 100);
        assert_eq!(planner.push(big("a")), None);
        assert_eq!(planner.push(big("b")).unwrap().rows.len(), 1);
        assert_eq!(planner.push(row("c", 1)), None);
        assert_eq!(planner.finish()[0].rows.len(), 2);
    }

    #[test]
    fn transaction_ids_differ_between_batches_and_runs_and_repeat_for_the_same_batch() {
        let (a, b) = (RunId(1 << 100), RunId(1 << 101));
        let ids = [
            a.transaction(0, 0, None),
            a.transaction(0, 1, None),
            a.transaction(1, 0, None),
            a.transaction(0, 0, Some(0)),
            a.transaction(0, 0, Some(1)),
            b.transaction(0, 0, None),
        ];
        assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len());
        assert_eq!(ids[1], a.transaction(0, 1, None));
    }
}
