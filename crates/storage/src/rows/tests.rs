//! Rows against a naive model: every version ever written, in ordered maps.

mod crash;
mod history;
mod retention;
mod scans;
mod transfer;

use super::*;
use crate::engine::{EngineOptions, LsmEngine, MemEngine};
use proptest::prelude::*;
use skein_model::{ContentType, Pick, Slice, Window};
use std::collections::BTreeMap;
use std::path::Path;

/// Keys that are prefixes of each other or hold the bytes that escaping changes.
const KEYS: [&[u8]; 7] = [b"", b"\0", b"\0\xFF", b"a", b"a\0", b"a\0b", b"\xFF\xFF"];
const TABLES: [TableId; 3] = [TableId(0), TableId(7), TableId(u64::MAX)];

/// Row and value number; no value deletes.
type PlannedWrite = ((usize, usize), Option<u8>);

/// Transactions to be committed at the times 10, 20, 30…
fn plan(transactions: usize) -> impl Strategy<Value = Vec<Vec<PlannedWrite>>> {
    let row = (0..TABLES.len(), 0..KEYS.len());
    let write = (row, prop::option::weighted(0.75, any::<u8>()));
    prop::collection::vec(prop::collection::vec(write, 1..4), 1..transactions)
}

fn time_of(index: usize) -> TxClock {
    TxClock(10 * (index as u64 + 1))
}

fn value(number: u8) -> Value {
    match number % 4 {
        0 => Value {
            content_type: ContentType::Other("text/plain".into()),
            bytes: Bytes::from(vec![number; 300]),
        },
        _ => Value { content_type: ContentType::Json, bytes: Bytes::from(number.to_string()) },
    }
}

fn tx_id(index: usize) -> TxId {
    TxId::from_be_bytes(&(index as u64).to_be_bytes())
}

/// Applies planned transactions, given with their numbers, as one batch.
fn apply(rows: &Rows, position: u64, transactions: &[(usize, Vec<PlannedWrite>)]) -> Result<(), RowsError> {
    let values: Vec<Value> = (0..=255).map(value).collect();
    let ids: Vec<TxId> = transactions.iter().map(|(index, _)| tx_id(*index)).collect();
    let mut changes = Changes::at(position, Bytes::from(position.to_string()));
    for ((index, writes), id) in transactions.iter().zip(&ids) {
        let unique: BTreeMap<_, _> = writes.iter().copied().collect();
        let writes = unique.into_iter().map(|((table, key), number)| Write {
            table: TABLES[table],
            key: KEYS[key],
            value: number.map(|number| &values[usize::from(number)]),
        });
        changes.commits.push(Commit { id, time: time_of(*index), fingerprint: 1, writes: writes.collect() });
    }
    rows.apply(changes)
}

/// The versions of one row.
type History = BTreeMap<TxClock, Option<Value>>;

/// Every version of every row.
#[derive(Default, Clone, Debug)]
struct Model {
    versions: BTreeMap<(TableId, &'static [u8]), History>,
    horizons: Horizons,
}

impl Model {
    fn apply(&mut self, index: usize, writes: &[PlannedWrite]) {
        let unique: BTreeMap<_, _> = writes.iter().copied().collect();
        for ((table, key), number) in unique {
            let row = self.versions.entry((TABLES[table], KEYS[key])).or_default();
            row.insert(time_of(index), number.map(value));
        }
    }

    fn of(plan: &[Vec<PlannedWrite>]) -> Model {
        let mut model = Model::default();
        for (index, writes) in plan.iter().enumerate() {
            model.apply(index, writes);
        }
        model
    }

    /// Raises a horizon and forgets what no readable time sees: versions whose successor is at or before it, and
    /// tombstones that are at or before it themselves.
    fn raise(&mut self, table: Option<TableId>, to: TxClock) {
        self.horizons.raise(table, to);
        for ((table, _), versions) in &mut self.versions {
            let horizon = self.horizons.of(*table);
            let times: Vec<TxClock> = versions.keys().copied().collect();
            for pair in times.windows(2) {
                if pair[1] <= horizon {
                    versions.remove(&pair[0]);
                }
            }
            versions.retain(|time, value| value.is_some() || horizon < *time);
        }
    }

    fn read(&self, table: TableId, key: &'static [u8], at: TxClock) -> Option<Version> {
        let (time, value) = self.versions.get(&(table, key))?.range(..=at).next_back()?;
        Some(Version { time: *time, value: value.clone() })
    }

    fn scan(&self, spec: &ScanSpec, from: &ScanPosition) -> Vec<ScanRow> {
        let Window { pick, since, until } = spec.window;
        let mut found = Vec::new();
        for ((table, key), versions) in &self.versions {
            let wanted = *table == spec.table
                && from.key[..] <= **key
                && spec.end.as_ref().is_none_or(|end| **key < end[..])
                && spec.slice.contains(*table, key);
            if !wanted {
                continue;
            }
            let at = if **key == from.key[..] { until.min(from.time) } else { until };
            let row = |time: TxClock, value: &Option<Value>| ScanRow {
                key: Bytes::from_static(key),
                time,
                value: value.clone(),
            };
            for (n, (time, value)) in versions.range(..=at).rev().enumerate() {
                let selected = match pick {
                    Pick::Latest => n == 0 && since < *time && value.is_some(),
                    Pick::Between => since < *time,
                    Pick::Through => true,
                };
                if selected {
                    found.push(row(*time, value));
                }
                if pick == Pick::Through && *time <= since {
                    break;
                }
            }
        }
        found
    }
}

/// Collects a whole scan in chunks of so many rows and bytes.
fn scan(
    rows: &Rows,
    spec: &ScanSpec,
    from: &ScanPosition,
    budget: ChunkBudget,
) -> Result<Vec<ScanRow>, RowsError> {
    let mut found = Vec::new();
    let mut next = Some(from.clone());
    for _ in 0..10_000 {
        let Some(position) = next else { return Ok(found) };
        let before = found.len();
        next = rows.scan_chunk(spec, &position, budget, &mut |row| found.push(row))?;
        assert!(found.len() - before <= budget.rows.max(1), "a chunk of at most {} rows", budget.rows);
        assert_ne!(next.as_ref(), Some(&position), "a chunk makes progress");
    }
    panic!("the scan does not end");
}

const ALL_AT_ONCE: ChunkBudget = ChunkBudget { rows: usize::MAX, bytes: usize::MAX };
const ONE_BY_ONE: ChunkBudget = ChunkBudget { rows: 1, bytes: usize::MAX };
const PICKS: [Pick; 3] = [Pick::Latest, Pick::Between, Pick::Through];

/// Compares every answer at every readable time.
fn assert_same(rows: &Rows, model: &Model, until: TxClock) {
    for table in TABLES {
        let oldest = model.horizons.of(table).0 / 5;
        for at in (oldest..=until.0 / 5 + 1).map(|fives| TxClock(5 * fives).max(model.horizons.of(table))) {
            for key in KEYS {
                assert_eq!(
                    rows.read(table, key, at).unwrap(),
                    model.read(table, key, at),
                    "{table} {key:?} at {at}"
                );
            }
        }
        for key in KEYS {
            let newest = model.read(table, key, TxClock::MAX);
            let found = rows.latest(table, key).unwrap();
            match newest {
                Some(version) => {
                    assert_eq!(found, Latest { time: version.time, live: version.value.is_some() })
                }
                // A tombstone that has passed may still be there.
                None => assert!(!found.live && found.time <= model.horizons.of(table)),
            }
        }
        let horizon = model.horizons.of(table);
        for pick in PICKS {
            for (since, until) in [(0, u64::MAX), (0, until.0 / 2), (until.0 / 3, until.0)] {
                let (since, until) = (TxClock(since), TxClock(until).max(horizon));
                let spec =
                    ScanSpec { table, window: Window { pick, since, until }, slice: Slice::ALL, end: None };
                let expected = model.scan(&spec, &ScanPosition::START);
                assert_eq!(
                    scan(rows, &spec, &ScanPosition::START, ALL_AT_ONCE).unwrap(),
                    expected,
                    "{spec:?}"
                );
            }
        }
    }
}

fn in_memory() -> Rows {
    Rows::open(Arc::new(MemEngine::new())).unwrap()
}

fn on_disk(dir: &Path) -> Rows {
    Rows::open(Arc::new(disk_engine(dir))).unwrap()
}

/// An engine that compacts only when asked to, so that tests are the same every time.
fn disk_engine(dir: &Path) -> LsmEngine {
    let options = EngineOptions { compaction_threads: 0, cache_bytes: 1 << 20, ..EngineOptions::default() };
    LsmEngine::open(dir, options).unwrap()
}

fn few_cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}
