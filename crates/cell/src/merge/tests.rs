use super::*;
use bytes::Bytes;
use proptest::prelude::*;
use skein_model::TxClock;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The rows of one cohort in memory; fails every `fails`th chunk, and gives `step` rows at a time at most.
#[derive(Clone)]
struct Fixed {
    rows: Arc<Vec<ScanRow>>,
    step: usize,
    fails: usize,
    asked: Arc<AtomicUsize>,
}

fn row(key: &str, time: u64) -> ScanRow {
    ScanRow { key: Bytes::copy_from_slice(key.as_bytes()), time: TxClock(time), value: None }
}

impl Fixed {
    fn of(rows: Vec<ScanRow>) -> Fixed {
        Fixed { rows: Arc::new(rows), step: 2, fails: usize::MAX, asked: Arc::default() }
    }
}

impl Source for Fixed {
    fn chunk(&self, from: ScanPosition, budget: ChunkBudget) -> BoxFuture<'static, Result<Chunk, CellError>> {
        let it = self.clone();
        Box::pin(async move {
            let turn = it.asked.fetch_add(1, Ordering::Relaxed) + 1;
            if turn.is_multiple_of(it.fails) {
                return Err(CellError::Unreachable { detail: "no leader".into() });
            }
            // An empty chunk with a successor now and then, as a scan past tombstones gives.
            if turn.is_multiple_of(3) {
                return Ok((Vec::new(), Some(from)));
            }
            let at = it
                .rows
                .partition_point(|row| row.key < from.key || (row.key == from.key && from.time < row.time));
            let end = it.rows.len().min(at + it.step.min(budget.rows));
            let next = it.rows.get(end).map(|row| ScanPosition { key: row.key.clone(), time: row.time });
            Ok((it.rows[at..end].to_vec(), next))
        })
    }
}

fn merge(cohorts: Vec<Fixed>) -> Merge {
    let sources = cohorts.into_iter().map(|it| Box::new(it) as Box<dyn Source>).collect();
    Merge::new(sources, &ScanPosition::START)
}

async fn all(merge: &mut Merge, rows: usize) -> Vec<ScanRow> {
    let mut out = Vec::new();
    let mut failures = 0;
    loop {
        match merge.next(ChunkBudget { rows, bytes: usize::MAX }).await {
            Ok(rows) if rows.is_empty() => return out,
            Ok(rows) => out.extend(rows),
            Err(_) => {
                failures += 1;
                assert!(failures < 1000, "it never gets on");
            }
        }
    }
}

#[tokio::test]
async fn rows_of_several_cohorts_come_in_key_order_with_the_versions_of_a_key_together() {
    let one = Fixed::of(vec![row("a", 9), row("a", 3), row("d", 1)]);
    let two = Fixed::of(vec![row("b", 8), row("c", 7), row("c", 2), row("e", 5)]);
    let mut merge = merge(vec![one, Fixed::of(Vec::new()), two]);
    let rows = all(&mut merge, 3).await;
    let order: Vec<_> = rows.iter().map(|row| (row.key.as_ref(), row.time.0)).collect();
    assert_eq!(order, [(&b"a"[..], 9), (b"a", 3), (b"b", 8), (b"c", 7), (b"c", 2), (b"d", 1), (b"e", 5)]);
}

#[tokio::test]
async fn nothing_is_read_ahead_of_a_reader_that_does_not_read_but_one_chunk() {
    let source = Fixed::of((0..1000).map(|n| row(&format!("{n:04}"), 1)).collect());
    let asked = source.asked.clone();
    let mut merge = merge(vec![source]);
    merge.next(ChunkBudget { rows: 1, bytes: usize::MAX }).await.unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 1, "who wants one row may want no more");
    merge.next(ChunkBudget { rows: 1, bytes: usize::MAX }).await.unwrap();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    // The second chunk gave the row (or was empty, as every third is), and one more is read ahead.
    assert!(asked.load(Ordering::Relaxed) <= 3);
}

#[tokio::test]
async fn the_budget_of_bytes_ends_a_batch_of_rows() {
    let mut merge =
        merge(vec![Fixed { step: 100, ..Fixed::of((0..100).map(|n| row(&format!("{n:02}"), 1)).collect()) }]);
    let rows = merge.next(ChunkBudget { rows: 100, bytes: 5 * (2 + ScanRow::OVERHEAD_BYTES) }).await.unwrap();
    assert_eq!(rows.len(), 5);
}

proptest! {
    #[test]
    fn failures_and_any_cutting_neither_repeat_nor_skip_a_row(
        keys in prop::collection::btree_set((0u16..500, 0u64..3), 0..120),
        cohorts in 1usize..6,
        step in 1usize..7,
        batch in 1usize..9,
        fails in 2usize..9,
    ) {
        // Newest first within a key, as cohorts give them.
        let mut wanted: Vec<ScanRow> = keys.iter().map(|(key, time)| row(&format!("{key:05}"), *time)).collect();
        wanted.sort_by(|a, b| (&a.key, Reverse(a.time)).cmp(&(&b.key, Reverse(b.time))));
        let share = |at: usize| {
            let mine = |row: &&ScanRow| row.key.iter().map(|b| usize::from(*b)).sum::<usize>() % cohorts == at;
            Fixed { step, fails, ..Fixed::of(wanted.iter().filter(mine).cloned().collect()) }
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let rows = runtime.block_on(all(&mut merge((0..cohorts).map(share).collect()), batch));
        prop_assert_eq!(rows, wanted);
    }
}
