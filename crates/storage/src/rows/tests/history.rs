use super::*;

/// A plan, and an order of its transactions in which some stand twice.
fn shuffled(transactions: usize) -> impl Strategy<Value = (Vec<Vec<PlannedWrite>>, Vec<usize>)> {
    plan(transactions).prop_flat_map(|plan| {
        let again = prop::collection::vec(0..plan.len(), 0..plan.len());
        let order = again.prop_flat_map({
            let all: Vec<usize> = (0..plan.len()).collect();
            move |again| Just([all.clone(), again].concat()).prop_shuffle()
        });
        (Just(plan), order)
    })
}

fn apply_in_order(rows: &Rows, plan: &[Vec<PlannedWrite>], order: &[usize], batch: usize) {
    for (n, chunk) in order.chunks(batch).enumerate() {
        let transactions: Vec<_> = chunk.iter().map(|index| (*index, plan[*index].clone())).collect();
        apply(rows, n as u64 + 1, &transactions).unwrap();
    }
}

proptest! {
    #![proptest_config(few_cases(64))]

    #[test]
    fn versions_are_a_set_whatever_the_order_and_repetition((plan, order) in shuffled(14), batch in 1..5usize) {
        let rows = in_memory();
        apply_in_order(&rows, &plan, &order, batch);
        assert_same(&rows, &Model::of(&plan), time_of(plan.len()));
    }

    #[test]
    fn any_order_leaves_the_same_bytes((plan, order) in shuffled(14), batch in 1..5usize) {
        let in_order: Vec<usize> = (0..plan.len()).collect();
        let image = |order: &[usize]| {
            let engine = Arc::new(MemEngine::new());
            let rows = Rows::open(engine.clone()).unwrap();
            apply_in_order(&rows, &plan, order, batch);
            let view = engine.view().unwrap();
            [Keyspace::Head, Keyspace::Past, Keyspace::Tx].map(|keyspace| {
                let entries = view.range(keyspace, Bound::Unbounded, Bound::Unbounded);
                entries.collect::<Result<Vec<_>, _>>().unwrap()
            })
        };
        prop_assert_eq!(image(&order), image(&in_order));
    }
}

proptest! {
    #![proptest_config(few_cases(8))]

    #[test]
    fn the_engine_on_disk_answers_like_the_model((plan, order) in shuffled(14), flush_every in 1..6usize) {
        let dir = tempfile::tempdir().unwrap();
        let rows = on_disk(dir.path());
        for (n, index) in order.iter().enumerate() {
            apply(&rows, n as u64 + 1, &[(*index, plan[*index].clone())]).unwrap();
            if n % flush_every == 0 {
                rows.checkpoint().unwrap();
            }
        }
        let model = Model::of(&plan);
        assert_same(&rows, &model, time_of(plan.len()));
        rows.checkpoint().unwrap();
        drop(rows);
        assert_same(&on_disk(dir.path()), &model, time_of(plan.len()));
    }
}

#[test]
fn a_row_written_twice_in_one_batch_keeps_both_versions() {
    let rows = in_memory();
    let row = (1, 3);
    apply(&rows, 1, &[(0, vec![(row, Some(1))]), (1, vec![(row, None)]), (2, vec![(row, Some(3))])]).unwrap();
    let (table, key) = (TABLES[1], KEYS[3]);
    assert_eq!(rows.read(table, key, TxClock(9)).unwrap(), None);
    assert_eq!(rows.read(table, key, TxClock(10)).unwrap().unwrap().value, Some(value(1)));
    assert_eq!(
        rows.read(table, key, TxClock(29)).unwrap().unwrap(),
        Version { time: TxClock(20), value: None }
    );
    assert_eq!(rows.latest(table, key).unwrap(), Latest { time: TxClock(30), live: true });
}

#[test]
fn outcomes_and_facts_are_found_again() {
    let engine = Arc::new(MemEngine::new());
    let rows = Rows::open(engine.clone()).unwrap();
    assert_eq!(rows.meta().applied, None);
    let id = tx_id(99);
    let refused = TxRecord {
        outcome: TxOutcome::Stale { op: 3, latest: TxClock(5) },
        fingerprint: 77,
        decided_at: TxClock(44),
    };
    let mut changes = Changes::at(1, Bytes::from_static(b"log 1"));
    changes.records.push((&id, refused));
    changes.ceiling = Some(TxClock(500));
    changes.horizons.push((Some(TableId(7)), TxClock(3)));
    changes.horizons.push((None, TxClock(2)));
    rows.apply(changes).unwrap();
    apply(&rows, 2, &[(0, vec![((1, 1), Some(1))])]).unwrap();
    let mut lower = Changes::at(3, Bytes::from_static(b"log 3"));
    lower.ceiling = Some(TxClock(400));
    lower.horizons.push((Some(TableId(7)), TxClock(1)));
    lower.horizons.push((None, TxClock(1)));
    rows.apply(lower).unwrap();

    for rows in [rows, Rows::open(engine).unwrap()] {
        assert_eq!(rows.tx(&id).unwrap(), Some(refused));
        assert_eq!(rows.tx(&tx_id(0)).unwrap().unwrap().outcome, TxOutcome::Committed(time_of(0)));
        assert_eq!(rows.tx(&tx_id(1)).unwrap(), None);
        let meta = rows.meta();
        assert_eq!(meta.applied.as_deref(), Some(&b"log 3"[..]));
        assert_eq!(meta.ceiling, TxClock(500), "a ceiling is never lowered");
        assert_eq!(meta.horizons.of(TableId(7)), TxClock(3), "nor is a horizon");
        assert_eq!(meta.horizons.default, TxClock(2));
        assert_eq!(rows.tables().unwrap(), [TableFacts { id: TableId(7), horizon: TxClock(3) }]);
    }
}

#[test]
fn tables_are_found_at_both_ends_of_the_ids() {
    let rows = in_memory();
    apply(&rows, 1, &[(0, vec![((0, 0), Some(1)), ((2, 6), None), ((2, 0), Some(1))])]).unwrap();
    let ids: Vec<TableId> = rows.tables().unwrap().into_iter().map(|table| table.id).collect();
    assert_eq!(ids, [TableId(0), TableId(u64::MAX)]);
}

#[test]
fn a_newer_format_is_refused_with_both_versions() {
    let engine = Arc::new(MemEngine::new());
    let mut batch = crate::engine::WriteBatch::new();
    batch.push(Keyspace::Meta, Bytes::from_static(b"format"), Bytes::copy_from_slice(&9u32.to_le_bytes()));
    batch.push(Keyspace::Meta, Bytes::from_static(b"brand new"), Bytes::new());
    engine.write(batch, 1).unwrap();
    let refused = Rows::open(engine).map(|_| ()).unwrap_err().to_string();
    assert!(refused.contains('9') && refused.contains('1'), "{refused}");
}

#[test]
fn a_failed_write_applies_nothing() {
    let engine = Arc::new(MemEngine::new());
    let rows = Rows::open(engine.clone()).unwrap();
    engine.fail_next_write(crate::engine::Fault::Full);
    let writes = [(0, vec![((1, 1), Some(1))])];
    assert!(apply(&rows, 1, &writes).unwrap_err().is_full());
    assert_eq!(rows.latest(TABLES[1], KEYS[1]).unwrap().time, TxClock::ZERO);
    assert_eq!(rows.meta().applied, None);
    apply(&rows, 1, &writes).unwrap();
    assert_eq!(rows.latest(TABLES[1], KEYS[1]).unwrap().time, time_of(0));
}

#[test]
fn values_share_the_memory_of_the_engine() {
    let engine = Arc::new(MemEngine::new());
    let rows = Rows::open(engine.clone()).unwrap();
    apply(&rows, 1, &[(0, vec![((1, 1), Some(4))])]).unwrap();
    let stored = engine.get(Keyspace::Head, &codec::head_key(TABLES[1], KEYS[1])).unwrap().unwrap();
    let read = rows.read(TABLES[1], KEYS[1], TxClock::MAX).unwrap().unwrap().value.unwrap();
    assert!(stored.as_ptr_range().contains(&read.bytes.as_ptr()));
}
