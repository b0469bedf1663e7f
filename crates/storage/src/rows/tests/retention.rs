use super::*;

fn raise(rows: &Rows, position: u64, table: Option<TableId>, to: TxClock) {
    let mut changes = Changes::at(position, Bytes::new());
    changes.horizons.push((table, to));
    rows.apply(changes).unwrap();
}

fn filled(rows: &Rows, plan: &[Vec<PlannedWrite>]) {
    for (index, writes) in plan.iter().enumerate() {
        apply(rows, index as u64 + 1, &[(index, writes.clone())]).unwrap();
    }
}

fn keeps_what_is_readable(rows: &Rows, plan: &[Vec<PlannedWrite>], horizon: TxClock, default: TxClock) {
    filled(rows, plan);
    let mut model = Model::of(plan);
    for (position, (table, to)) in [(1000, (Some(TABLES[1]), horizon)), (1001, (None, default))] {
        raise(rows, position, table, to);
        model.raise(table, to);
    }
    assert_same(rows, &model, time_of(plan.len()));
    rows.reclaim().unwrap();
    assert_same(rows, &model, time_of(plan.len()));
    // A deleted and forgotten row starts anew, and its old history does not come back.
    let again: Vec<PlannedWrite> = (0..KEYS.len()).map(|key| ((1, key), Some(9))).collect();
    apply(rows, 1002, &[(40, again.clone())]).unwrap();
    model.apply(40, &again);
    assert_same(rows, &model, time_of(41));
}

proptest! {
    #![proptest_config(few_cases(48))]

    #[test]
    fn reclaiming_changes_no_answer(plan in plan(20), horizon in 1..200u64, default in 0..200u64) {
        keeps_what_is_readable(&in_memory(), &plan, TxClock(horizon), TxClock(default));
    }
}

proptest! {
    #![proptest_config(few_cases(8))]

    #[test]
    fn reclaiming_on_disk_changes_no_answer(plan in plan(20), horizon in 1..200u64, default in 0..200u64) {
        let dir = tempfile::tempdir().unwrap();
        let rows = on_disk(dir.path());
        keeps_what_is_readable(&rows, &plan, TxClock(horizon), TxClock(default));
    }
}

#[test]
fn before_the_horizon_the_answer_is_gone() {
    let rows = in_memory();
    filled(&rows, &[vec![((1, 3), Some(1))], vec![((1, 3), Some(2))]]);
    raise(&rows, 10, Some(TABLES[1]), TxClock(15));
    let gone = rows.read(TABLES[1], KEYS[3], TxClock(14)).unwrap_err();
    assert!(matches!(gone, RowsError::Gone { asked: TxClock(14), oldest: TxClock(15), .. }), "{gone}");
    assert_eq!(rows.read(TABLES[1], KEYS[3], TxClock(15)).unwrap().unwrap().time, TxClock(10));
    for pick in PICKS {
        let window = Window { pick, since: TxClock::ZERO, until: TxClock(14) };
        let mut spec = ScanSpec { table: TABLES[1], window, slice: Slice::ALL, end: None };
        assert!(matches!(scan(&rows, &spec, &ScanPosition::START, ALL_AT_ONCE), Err(RowsError::Gone { .. })));
        spec.table = TABLES[0];
        assert!(
            scan(&rows, &spec, &ScanPosition::START, ALL_AT_ONCE).is_ok(),
            "other tables have their own horizon"
        );
    }
}

/// Entries of a keyspace.
fn count(engine: &dyn Engine, keyspace: Keyspace) -> usize {
    let view = engine.view().unwrap();
    view.range(keyspace, Bound::Unbounded, Bound::Unbounded).collect::<Result<Vec<_>, _>>().unwrap().len()
}

fn reclaims(engine: Arc<dyn Engine>) {
    let rows = Rows::open(engine.clone()).unwrap();
    let row = (1, 3);
    filled(&rows, &[vec![(row, Some(1))], vec![(row, Some(2))], vec![(row, Some(3))], vec![((1, 4), None)]]);
    rows.reclaim().unwrap();
    let counts = || [Keyspace::Past, Keyspace::Head, Keyspace::Tx].map(|keyspace| count(&*engine, keyspace));
    assert_eq!(counts(), [2, 2, 4], "nothing has passed yet");
    let mut changes = Changes::at(50, Bytes::new());
    changes.horizons.push((Some(TABLES[1]), TxClock(25)));
    changes.horizons.push((None, TxClock(20)));
    rows.apply(changes).unwrap();
    rows.reclaim().unwrap();
    assert_eq!(counts(), [1, 2, 3], "the first version, and the first outcome");
    raise(&rows, 51, Some(TABLES[1]), TxClock(40));
    rows.reclaim().unwrap();
    assert_eq!(counts(), [0, 1, 3], "the second version, and the tombstone");
    assert_eq!(rows.stats().versions_reclaimed, 4);
}

#[test]
fn what_has_passed_is_reclaimed() {
    reclaims(Arc::new(MemEngine::new()));
}

#[test]
fn what_has_passed_is_reclaimed_from_disk() {
    let dir = tempfile::tempdir().unwrap();
    reclaims(Arc::new(disk_engine(dir.path())));
}

#[test]
fn nothing_is_dropped_by_a_horizon_that_a_crash_could_take_back() {
    let engine = Arc::new(MemEngine::new());
    let rows = Rows::open(engine.clone()).unwrap();
    filled(&rows, &[vec![((1, 3), Some(1))], vec![((1, 3), Some(2))]]);
    rows.checkpoint().unwrap();
    raise(&rows, 10, Some(TABLES[1]), TxClock(30));
    engine.compact(Keyspace::Past).unwrap();
    let after = Rows::open(Arc::new(engine.crash())).unwrap();
    assert_eq!(after.horizon(TABLES[1]), TxClock::ZERO);
    assert_eq!(after.read(TABLES[1], KEYS[3], TxClock(15)).unwrap().unwrap().time, TxClock(10));
}
