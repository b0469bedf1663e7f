//! History that is no longer kept, and history that a scan still needs.

use crate::machine::{DAY, EPOCH, Machine, TABLE, json, on_runtime, op, put, soon, tx};
use bytes::Bytes;
use skein_cohort::{Cohort, CohortError, Outcome, Scan, ScanOptions};
use skein_model::{Pick, Retain, Slice, TableId, TxClock, WriteOp};
use skein_storage::rows::ChunkBudget;
use std::collections::BTreeMap;

const KEYS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

async fn write_all(cohort: &Cohort, first: u64, value: &str) -> TxClock {
    let ops = KEYS.map(|key| op(key, WriteOp::Update(json(value))));
    match cohort.write(tx(first, ops.to_vec()), false, soon()).await.unwrap() {
        Outcome::Committed(time) => time,
        other => panic!("{other:?}"),
    }
}

async fn scan(cohort: &Cohort, until: Option<TxClock>) -> Result<Scan, CohortError> {
    let options = ScanOptions {
        table: TABLE,
        pick: Pick::Latest,
        since: TxClock::ZERO,
        until,
        key: Bytes::new(),
        time: TxClock::MAX,
        end: None,
        slice: Slice::ALL,
    };
    cohort.scan(options, soon()).await
}

async fn rest(scan: &mut Scan) -> Result<Vec<(Bytes, Option<skein_model::Value>)>, CohortError> {
    let mut found = Vec::new();
    loop {
        let rows = scan.next(ChunkBudget { rows: 1, bytes: 1 }).await?;
        if rows.is_empty() {
            return Ok(found);
        }
        found.extend(rows.into_iter().map(|row| (row.key, row.value)));
    }
}

fn oldest(error: CohortError) -> TxClock {
    match error {
        CohortError::Gone { oldest } => oldest,
        other => panic!("{other}"),
    }
}

/// Raises the default horizon as far as it goes, and drops what that frees.
async fn reclaim(cohort: &Cohort) -> bool {
    let rose = cohort.raise_horizons(&BTreeMap::new(), soon()).await.unwrap();
    cohort.checkpoint().await.unwrap();
    cohort.rows().reclaim().unwrap();
    rose
}

#[test]
fn a_scan_under_way_keeps_its_snapshot_while_the_horizon_wants_to_pass() {
    let machine = Machine::new();
    on_runtime(async {
        let cohort = machine.start().await;
        let old = write_all(&cohort, 1, "old").await;
        let mut under_way = scan(&cohort, None).await.unwrap();
        let snapshot = under_way.until();
        let first = under_way.next(ChunkBudget { rows: 1, bytes: 1 }).await.unwrap();
        assert_eq!(first.len(), 1);
        write_all(&cohort, 2, "new").await;
        cohort.write(tx(3, vec![op("f", WriteOp::Delete)]), false, soon()).await.unwrap();

        machine.advance(5 * DAY);
        write_all(&cohort, 4, "newest").await;
        assert!(reclaim(&cohort).await, "up to the scan it may rise");
        assert_eq!(cohort.rows().default_horizon(), snapshot);
        assert!(!reclaim(&cohort).await, "and no further");
        let found = rest(&mut under_way).await.unwrap();
        let expected = KEYS[1..].iter().map(|key| (Bytes::from_static(key.as_bytes()), Some(json("old"))));
        assert_eq!(found, expected.collect::<Vec<_>>());

        drop(under_way);
        let before = cohort.rows().stats().versions_reclaimed;
        assert!(reclaim(&cohort).await, "nothing holds it any more");
        assert!(before < cohort.rows().stats().versions_reclaimed);
        let horizon = oldest(cohort.read(TABLE, b"a", Some(old), soon()).await.unwrap_err());
        assert_eq!(horizon, Retain::default().oldest_readable(TxClock(EPOCH + 5 * DAY)));
        assert_eq!(oldest(scan(&cohort, Some(snapshot)).await.err().unwrap()), horizon);
        let read = cohort.read(TABLE, b"a", Some(horizon), soon()).await.unwrap();
        assert_eq!(read.value, Some(json("new")), "what was the newest at the horizon stays");
    });
}

#[test]
fn no_scan_begins_below_a_horizon_that_is_on_its_way() {
    let machine = Machine::new();
    on_runtime(async {
        let cohort = machine.start().await;
        let old = write_all(&cohort, 1, "old").await;
        write_all(&cohort, 2, "new").await;
        machine.advance(5 * DAY);
        write_all(&cohort, 3, "newest").await;
        let held = machine.hold_syncs();
        let raising = tokio::spawn({
            let cohort = cohort.clone();
            async move { cohort.raise_horizons(&BTreeMap::new(), soon()).await }
        });
        held.reached().await;
        // Not in force yet; but a scan that began now would find it in its way.
        assert!(cohort.rows().default_horizon() < old);
        let refused = oldest(scan(&cohort, Some(old)).await.err().unwrap());
        held.release();
        assert!(raising.await.unwrap().unwrap());
        assert_eq!(refused, cohort.rows().default_horizon());
    });
}

#[test]
fn a_horizon_taken_from_a_clock_that_was_days_ahead_hides_neither_the_present_nor_later_writes() {
    let mut machine = Machine::new();
    let ahead = EPOCH + 30 * DAY;
    on_runtime(async {
        let cohort = machine.start().await;
        write_all(&cohort, 1, "one").await;
        machine.set_wall(ahead);
        assert!(reclaim(&cohort).await);
        machine.set_wall(EPOCH);
        let read = cohort.read(TABLE, b"a", None, soon()).await.unwrap();
        assert_eq!(read.value, Some(json("one")));
        let mut all = scan(&cohort, None).await.unwrap();
        assert_eq!(rest(&mut all).await.unwrap().len(), KEYS.len());
        let time = write_all(&cohort, 2, "two").await;
        assert!(cohort.rows().default_horizon() < time);
        assert_eq!(cohort.read(TABLE, b"a", None, soon()).await.unwrap().time, time);
    });
    machine = machine.crashed(2);
    on_runtime(async {
        let cohort = machine.start().await;
        let read = cohort.read(TABLE, b"a", None, soon()).await.unwrap();
        assert_eq!(read.value, Some(json("two")));
        assert!(read.time < write_all(&cohort, 3, "three").await);
        assert_eq!(cohort.read(TABLE, b"a", Some(read.read_time), soon()).await.unwrap(), read);
    });
}

#[test]
fn a_horizon_that_was_raised_stays_so_through_any_crash_and_drops_nothing_above_it() {
    for seed in 0..8 {
        let machine = Machine::new();
        let other = BTreeMap::from([(TableId(99), Retain::Forever)]);
        let (horizon, kept) = on_runtime(async {
            let cohort = machine.start().await;
            write_all(&cohort, 1, "old").await;
            machine.advance(5 * DAY);
            let kept = write_all(&cohort, 2, "new").await;
            assert!(cohort.raise_horizons(&other, soon()).await.unwrap());
            if seed % 2 == 0 {
                cohort.checkpoint().await.unwrap();
                cohort.rows().reclaim().unwrap();
            }
            write_all(&cohort, 3, "newest").await;
            (cohort.rows().default_horizon(), kept)
        });
        let machine = machine.crashed(seed);
        // Whatever the clock says now.
        machine.set_wall(EPOCH);
        on_runtime(async {
            let cohort = machine.start().await;
            assert_eq!(cohort.rows().default_horizon(), horizon);
            assert_eq!(cohort.rows().horizon(TableId(99)), TxClock::ZERO);
            assert_eq!(
                oldest(cohort.read(TABLE, b"a", Some(horizon.prev()), soon()).await.unwrap_err()),
                horizon
            );
            let read = cohort.read(TABLE, b"a", Some(horizon), soon()).await.unwrap();
            assert_eq!(read.value, Some(json("old")), "seed {seed}");
            let read = cohort.read(TABLE, b"a", Some(kept), soon()).await.unwrap();
            assert_eq!(read.value, Some(json("new")), "seed {seed}");
            cohort.write(put(9, "a", "after"), false, soon()).await.unwrap();
        });
    }
}
