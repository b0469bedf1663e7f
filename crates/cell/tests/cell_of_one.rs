//! A cell of one host on a real directory: what it takes, what it refuses, and what a restart keeps.

// Helpers of tests may stop the test.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use skein_cell::{
    Cell, CellError, CellOptions, PutAtlasError, Readiness, ScanRequest, ScanWindow, TxOutcome, TxStatus,
};
use skein_model::{
    Atlas, CellId, ContentType, HostId, Pick, Refusal, RowOp, Slice, TableId, Transaction, TxClock, TxId,
    Value, WriteOp,
};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

const T: TableId = TableId(1);
const HOST: HostId = HostId(7);
const START: u64 = 1_700_000_000_000_000;

/// A wall clock that the test sets.
#[derive(Clone)]
struct Wall(Arc<AtomicU64>);

impl Wall {
    fn new() -> Wall {
        Wall(Arc::new(AtomicU64::new(START)))
    }
    fn set(&self, micros: u64) {
        self.0.store(micros, Ordering::SeqCst);
    }
}

fn options(dir: &Path, wall: &Wall) -> CellOptions {
    let wall = wall.clone();
    CellOptions {
        solo: true,
        disk_reserve_bytes: 0,
        log_segment_bytes: 64 << 20,
        horizon_interval: Duration::from_secs(3600),
        wall: Arc::new(move || wall.0.load(Ordering::SeqCst)),
        ..CellOptions::new(dir.to_owned(), HOST, CellId(9))
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

fn json(text: &str) -> Value {
    Value { content_type: ContentType::Json, bytes: Bytes::copy_from_slice(text.as_bytes()) }
}

fn put(cell: &Cell, key: &str, text: &str) -> Transaction {
    batch(cell, vec![(key, WriteOp::Update(json(text)))])
}

fn batch(cell: &Cell, ops: Vec<(&str, WriteOp)>) -> Transaction {
    let ops = ops
        .into_iter()
        .map(|(key, op)| RowOp { table: T, key: Bytes::copy_from_slice(key.as_bytes()), op, expect: vec![] })
        .collect();
    Transaction { id: cell.draw_tx_id(), id_from_client: false, condition: None, ops }
}

/// Stops the cell for good: its directory can be opened again.
async fn close(cell: Cell) {
    cell.shutdown(Duration::from_secs(5)).await;
}

async fn commit(cell: &Cell, tx: Transaction) -> TxClock {
    match cell.write(tx, soon()).await.unwrap() {
        TxOutcome::Committed(time) => time,
        other => panic!("should have committed: {other:?}"),
    }
}

async fn get(cell: &Cell, key: &str, at: Option<TxClock>) -> Option<(TxClock, Bytes)> {
    let reply = cell.read(T, Bytes::copy_from_slice(key.as_bytes()), at, soon()).await.unwrap();
    reply.value.map(|value| (reply.time, value.bytes))
}

async fn scan(cell: &Cell, pick: Pick, until: Option<TxClock>) -> Vec<(Bytes, TxClock)> {
    let window = ScanWindow { pick, since: TxClock::ZERO, until };
    let request =
        ScanRequest { table: T, window, key: Bytes::new(), time: TxClock::MAX, end: None, slice: Slice::ALL };
    let mut scan = cell.scan(request, soon()).await.unwrap();
    let mut rows = Vec::new();
    loop {
        let chunk = scan.next(3, 1 << 20).await.unwrap();
        if chunk.is_empty() {
            return rows;
        }
        rows.extend(chunk.into_iter().map(|row| (row.key, row.time)));
    }
}

#[tokio::test]
async fn a_write_is_read_back_at_once_and_its_past_stays_readable() {
    let dir = tempfile::tempdir().unwrap();
    let cell = Cell::open(options(dir.path(), &Wall::new())).await.unwrap();
    let first = commit(&cell, put(&cell, "a", "1")).await;
    assert_eq!(get(&cell, "a", None).await, Some((first, Bytes::from_static(b"1"))));
    let second = commit(&cell, put(&cell, "a", "2")).await;
    assert!(first < second);
    assert_eq!(get(&cell, "a", None).await, Some((second, Bytes::from_static(b"2"))));
    assert_eq!(get(&cell, "a", Some(first)).await, Some((first, Bytes::from_static(b"1"))));
    assert_eq!(get(&cell, "a", Some(first.prev())).await, None);
    cell.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn everything_acknowledged_survives_a_stop_and_a_start() {
    let dir = tempfile::tempdir().unwrap();
    let wall = Wall::new();
    let mut times: Vec<(String, TxClock)> = Vec::new();
    for round in 0..3 {
        let cell = Cell::open(options(dir.path(), &wall)).await.unwrap();
        for (key, time) in &times {
            assert_eq!(get(&cell, key, None).await.map(|(t, _)| t), Some(*time), "round {round}");
        }
        for n in 0..20 {
            let key = format!("{round}-{n}");
            times.push((key.clone(), commit(&cell, put(&cell, &key, "true")).await));
        }
        close(cell).await;
    }
    assert!(times.windows(2).all(|pair| pair[0].1 < pair[1].1), "no time is issued twice");
}

#[tokio::test]
async fn a_refused_batch_leaves_every_row_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let cell = Cell::open(options(dir.path(), &Wall::new())).await.unwrap();
    let time = commit(&cell, put(&cell, "there", "1")).await;
    let ops = vec![("other", WriteOp::Update(json("2"))), ("there", WriteOp::Create(json("2")))];
    let refused = cell.write(batch(&cell, ops), soon()).await.unwrap();
    assert_eq!(refused, TxOutcome::Refused(Refusal::Collision { op: 1 }));
    let mut stale = batch(&cell, vec![("other", WriteOp::Update(json("2"))), ("there", WriteOp::Hold)]);
    stale.condition = Some(time.prev());
    let refused = cell.write(stale, soon()).await.unwrap();
    assert_eq!(refused, TxOutcome::Refused(Refusal::Stale { op: 1, latest: time }));
    assert_eq!(get(&cell, "other", None).await, None);
}

#[tokio::test]
async fn concurrent_creates_of_one_row_have_one_winner() {
    let dir = tempfile::tempdir().unwrap();
    let cell = Cell::open(options(dir.path(), &Wall::new())).await.unwrap();
    let writers: Vec<_> = (0..50)
        .map(|n| {
            let cell = cell.clone();
            let tx = batch(&cell, vec![("prize", WriteOp::Create(json(&n.to_string())))]);
            tokio::spawn(async move { cell.write(tx, soon()).await.unwrap() })
        })
        .collect();
    let mut winners = 0;
    for writer in writers {
        match writer.await.unwrap() {
            TxOutcome::Committed(_) => winners += 1,
            other => assert_eq!(other, TxOutcome::Refused(Refusal::Collision { op: 0 })),
        }
    }
    assert_eq!(winners, 1);
}

#[tokio::test]
async fn conditional_increments_of_one_row_lose_none() {
    let dir = tempfile::tempdir().unwrap();
    let cell = Cell::open(options(dir.path(), &Wall::new())).await.unwrap();
    let writers: Vec<_> = (0..8)
        .map(|_| {
            let cell = cell.clone();
            tokio::spawn(async move {
                for _ in 0..10 {
                    loop {
                        let read = cell.read(T, Bytes::from_static(b"n"), None, soon()).await.unwrap();
                        let n: u64 =
                            read.value.map_or(0, |v| std::str::from_utf8(&v.bytes).unwrap().parse().unwrap());
                        let mut tx = put(&cell, "n", &(n + 1).to_string());
                        tx.condition = Some(read.time);
                        if let TxOutcome::Committed(_) = cell.write(tx, soon()).await.unwrap() {
                            break;
                        }
                    }
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(get(&cell, "n", None).await.unwrap().1, Bytes::from_static(b"80"));
}

#[tokio::test]
async fn a_scan_is_a_snapshot_while_writes_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let cell = Cell::open(options(dir.path(), &Wall::new())).await.unwrap();
    for n in 0..20 {
        commit(&cell, put(&cell, &format!("{n:02}"), "1")).await;
    }
    let window = ScanWindow { pick: Pick::Latest, since: TxClock::ZERO, until: None };
    let request =
        ScanRequest { table: T, window, key: Bytes::new(), time: TxClock::MAX, end: None, slice: Slice::ALL };
    let mut scan = cell.scan(request, soon()).await.unwrap();
    let mut seen = Vec::new();
    loop {
        let chunk = scan.next(3, 1 << 20).await.unwrap();
        if chunk.is_empty() {
            break;
        }
        for row in chunk {
            assert!(row.time <= scan.until());
            assert_eq!(row.value.unwrap().bytes, Bytes::from_static(b"1"));
            seen.push(row.key);
        }
        for n in 0..20 {
            commit(&cell, put(&cell, &format!("{n:02}"), "2")).await;
        }
        commit(&cell, put(&cell, &format!("new-{}", seen.len()), "2")).await;
    }
    assert_eq!(seen.len(), 20);
}

#[tokio::test]
async fn times_rise_and_reads_stay_true_while_the_wall_clock_jumps() {
    let dir = tempfile::tempdir().unwrap();
    let wall = Wall::new();
    let mut last = TxClock::ZERO;
    let mut promised: Vec<(TxClock, Option<(TxClock, Bytes)>)> = Vec::new();
    for micros in [START, START - 3_600_000_000, START - 3_600_000_000, START + 86_400_000_000, START] {
        wall.set(micros);
        let cell = Cell::open(options(dir.path(), &wall)).await.unwrap();
        for (at, found) in &promised {
            assert_eq!(get(&cell, "k", Some(*at)).await, *found, "a promised read changed");
        }
        let read = cell.read(T, Bytes::from_static(b"k"), None, soon()).await.unwrap();
        promised.push((read.read_time, read.value.map(|v| (read.time, v.bytes))));
        let time = commit(&cell, put(&cell, "k", "1")).await;
        assert!(last < time && read.read_time < time, "{last} {} {time}", read.read_time);
        last = time;
        close(cell).await;
    }
}

#[tokio::test]
async fn a_time_too_far_ahead_is_refused_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let cell = Cell::open(options(dir.path(), &Wall::new())).await.unwrap();
    let far = TxClock(START + 300_000_000 + 3_000_000);
    let error = cell.read(T, Bytes::from_static(b"k"), Some(far), soon()).await.unwrap_err();
    assert!(matches!(error, CellError::FutureTime(_)), "{error:?}");
    let mut tx = put(&cell, "k", "1");
    tx.condition = Some(far);
    assert!(matches!(cell.write(tx, soon()).await, Err(CellError::FutureTime(_))));
    let near = TxClock(START + 200_000_000);
    assert_eq!(get(&cell, "k", Some(near)).await, None);
    assert!(near < commit(&cell, put(&cell, "k", "1")).await, "the read promised that");
}

#[tokio::test]
async fn the_status_of_a_transaction_never_changes() {
    let dir = tempfile::tempdir().unwrap();
    let cell = Cell::open(options(dir.path(), &Wall::new())).await.unwrap();
    let tx = put(&cell, "k", "1");
    let id = tx.id.clone();
    let time = commit(&cell, tx).await;
    assert_eq!(cell.tx_status(id.clone(), soon()).await.unwrap(), TxStatus::Committed(time));
    let unknown: TxId = "abc".parse().unwrap();
    assert_eq!(cell.tx_status(unknown.clone(), soon()).await.unwrap(), TxStatus::Aborted);
    let mut late = put(&cell, "k", "2");
    late.id = unknown.clone();
    late.id_from_client = true;
    assert_eq!(cell.write(late.clone(), soon()).await.unwrap(), TxOutcome::Aborted);
    close(cell).await;
    let cell = Cell::open(options(dir.path(), &Wall::new())).await.unwrap();
    assert_eq!(cell.tx_status(id, soon()).await.unwrap(), TxStatus::Committed(time));
    assert_eq!(cell.write(late, soon()).await.unwrap(), TxOutcome::Aborted);
}

#[tokio::test]
async fn a_repeated_transaction_is_written_once_and_another_under_its_id_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let cell = Cell::open(options(dir.path(), &Wall::new())).await.unwrap();
    let mut tx = put(&cell, "k", "1");
    tx.id_from_client = true;
    let time = commit(&cell, tx.clone()).await;
    assert_eq!(commit(&cell, tx.clone()).await, time);
    assert_eq!(scan(&cell, Pick::Between, None).await.len(), 1);
    tx.ops[0].op = WriteOp::Delete;
    assert!(matches!(cell.write(tx, soon()).await, Err(CellError::IdReused { .. })));
}

#[tokio::test]
async fn a_host_without_an_atlas_answers_nothing_until_it_is_given_one() {
    let dir = tempfile::tempdir().unwrap();
    let cell = Cell::open(CellOptions { solo: false, ..options(dir.path(), &Wall::new()) }).await.unwrap();
    assert!(matches!(cell.readiness(), Readiness::NotReady(_)));
    let at_once = Instant::now();
    let read = cell.read(T, Bytes::from_static(b"k"), None, at_once).await;
    assert_eq!(read, Err(CellError::NoAtlas));
    let others = Atlas::parse_targets(br#"[{"hosts":["0x8"]}]"#).unwrap();
    let refused = cell.put_atlas(others, None, soon()).await;
    let named = |detail: &str| detail.contains("0x0000000000000008") && detail.contains("--hail");
    assert!(matches!(&refused, Err(PutAtlasError::Unsupported { detail }) if named(detail)), "{refused:?}");
    assert!(cell.atlas().is_empty());
    let waiting = cell.clone();
    let read = tokio::spawn(async move { waiting.read(T, Bytes::from_static(b"k"), None, soon()).await });
    let this = Atlas::parse_targets(br#"[{"hosts":["0x7"]}]"#).unwrap();
    assert!(matches!(
        cell.put_atlas(this.clone(), Some(5), soon()).await,
        Err(PutAtlasError::Stale { current: 0, expected: 5 })
    ));
    assert_eq!(cell.put_atlas(this, Some(0), soon()).await.unwrap().version, 1);
    assert_eq!(read.await.unwrap().unwrap().value, None);
    assert_eq!(cell.readiness(), Readiness::Ready);
}

#[tokio::test]
async fn history_goes_with_the_retention_of_its_table_and_stays_readable_until_then() {
    let dir = tempfile::tempdir().unwrap();
    let wall = Wall::new();
    let tick = CellOptions { horizon_interval: Duration::from_millis(20), ..options(dir.path(), &wall) };
    let cell = Cell::open(tick).await.unwrap();
    cell.put_schema("table short { id: 1; retain: 1h; };", soon()).await.unwrap();
    let first = commit(&cell, put(&cell, "k", "1")).await;
    let second = commit(&cell, put(&cell, "k", "2")).await;
    assert_eq!(get(&cell, "k", Some(first)).await, Some((first, Bytes::from_static(b"1"))));
    wall.set(START + 2 * 3_600_000_000);
    let oldest = loop {
        match cell.read(T, Bytes::from_static(b"k"), Some(first), soon()).await {
            Err(CellError::Gone { oldest }) => break oldest,
            other => assert_eq!(other.unwrap().time, first),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert_eq!(get(&cell, "k", Some(oldest)).await, Some((second, Bytes::from_static(b"2"))));
    assert_eq!(get(&cell, "k", None).await, Some((second, Bytes::from_static(b"2"))));
}

#[tokio::test]
async fn a_condition_on_a_version_whose_deletion_is_forgotten_is_stale_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let wall = Wall::new();
    let tick = CellOptions { horizon_interval: Duration::from_millis(20), ..options(dir.path(), &wall) };
    let cell = Cell::open(tick).await.unwrap();
    cell.put_schema("table short { id: 1; retain: 1h; };", soon()).await.unwrap();
    let seen = commit(&cell, put(&cell, "k", "1")).await;
    commit(&cell, batch(&cell, vec![("k", WriteOp::Delete)])).await;
    wall.set(START + 3 * 3_600_000_000);
    while !matches!(
        cell.read(T, Bytes::from_static(b"k"), Some(seen), soon()).await,
        Err(CellError::Gone { .. })
    ) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut late = put(&cell, "never", "2");
    late.condition = Some(seen);
    let refused = cell.write(late, soon()).await.unwrap();
    assert!(matches!(refused, TxOutcome::Refused(Refusal::Stale { .. })), "{refused:?}");
    let mut fresh = put(&cell, "never", "2");
    fresh.condition = Some(TxClock::ZERO);
    commit(&cell, fresh).await;
}
