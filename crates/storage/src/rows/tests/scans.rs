use super::*;

fn spec(pick: Pick, since: u64, until: u64) -> ScanSpec {
    let window = Window { pick, since: TxClock(since), until: TxClock(until) };
    ScanSpec { table: TABLES[1], window, slice: Slice::ALL, end: None }
}

fn filled(plan: &[Vec<PlannedWrite>]) -> Rows {
    let rows = in_memory();
    for (index, writes) in plan.iter().enumerate() {
        apply(&rows, index as u64 + 1, &[(index, writes.clone())]).unwrap();
    }
    rows
}

proptest! {
    #![proptest_config(few_cases(64))]

    #[test]
    fn a_scan_can_go_on_at_each_of_its_rows(plan in plan(24), since in 0..100u64, until in 100..260u64) {
        let rows = filled(&plan);
        for pick in PICKS {
            let spec = spec(pick, since, until);
            let whole = scan(&rows, &spec, &ScanPosition::START, ALL_AT_ONCE).unwrap();
            prop_assert_eq!(&whole, &Model::of(&plan).scan(&spec, &ScanPosition::START));
            for (n, row) in whole.iter().enumerate() {
                let from = ScanPosition { key: row.key.clone(), time: row.time };
                prop_assert_eq!(&scan(&rows, &spec, &from, ALL_AT_ONCE).unwrap()[..], &whole[n..], "{:?} from {}", pick, n);
            }
        }
    }

    #[test]
    fn chunks_of_any_size_add_up(plan in plan(24), since in 0..100u64, rows_max in 0..4usize, bytes in 0..400usize) {
        let rows = filled(&plan);
        for pick in PICKS {
            let spec = spec(pick, since, 200);
            let whole = scan(&rows, &spec, &ScanPosition::START, ALL_AT_ONCE).unwrap();
            let budget = ChunkBudget { rows: rows_max, bytes: usize::MAX };
            prop_assert_eq!(&scan(&rows, &spec, &ScanPosition::START, budget).unwrap(), &whole);
            let budget = ChunkBudget { rows: 100, bytes };
            prop_assert_eq!(&scan(&rows, &spec, &ScanPosition::START, budget).unwrap(), &whole);
        }
    }

    #[test]
    fn a_scan_starts_at_any_position_and_stops_at_any_key(
        plan in plan(24),
        (key, time) in (0..KEYS.len(), 0..260u64),
        end in prop::option::of(0..KEYS.len()),
        slice in (0..4i64, Just(4)),
    ) {
        let (rows, model) = (filled(&plan), Model::of(&plan));
        let from = ScanPosition { key: Bytes::from_static(KEYS[key]), time: TxClock(time) };
        for pick in PICKS {
            let mut spec = spec(pick, 35, 200);
            spec.end = end.map(|end| Bytes::from_static(KEYS[end]));
            prop_assert_eq!(scan(&rows, &spec, &from, ONE_BY_ONE).unwrap(), model.scan(&spec, &from), "{:?}", pick);
            spec.slice = Slice::new(slice.0, slice.1).unwrap();
            prop_assert_eq!(scan(&rows, &spec, &from, ONE_BY_ONE).unwrap(), model.scan(&spec, &from), "{:?}", pick);
        }
    }

    #[test]
    fn a_scan_in_chunks_is_a_snapshot_while_writes_go_on(before in plan(12), after in plan(12)) {
        for pick in PICKS {
            let rows = filled(&before);
            let until = time_of(before.len() - 1);
            let spec = spec(pick, 15, until.0);
            let expected = scan(&rows, &spec, &ScanPosition::START, ALL_AT_ONCE).unwrap();
            let (mut found, mut next) = (Vec::new(), Some(ScanPosition::START));
            let mut writes = after.iter().enumerate();
            while let Some(position) = next {
                next = rows.scan_chunk(&spec, &position, ONE_BY_ONE, &mut |row| found.push(row)).unwrap();
                if let Some((n, writes)) = writes.next() {
                    let index = before.len() + n;
                    apply(&rows, index as u64 + 1, &[(index, writes.clone())]).unwrap();
                }
            }
            prop_assert_eq!(found, expected, "{:?}", pick);
        }
    }
}

#[test]
fn a_sparse_slice_gives_the_thread_back_without_rows() {
    let rows = in_memory();
    let mut changes = Changes::at(1, Bytes::new());
    let id = tx_id(0);
    let keys: Vec<[u8; 4]> = (0..40_000u32).map(u32::to_be_bytes).collect();
    let one = value(1);
    let writes = keys.iter().map(|key| Write { table: TABLES[1], key, value: Some(&one) }).collect();
    changes.commits.push(Commit { id: &id, time: TxClock(10), fingerprint: 0, writes });
    rows.apply(changes).unwrap();
    let mut spec = spec(Pick::Latest, 0, 100);
    spec.slice = Slice::new(5, 1 << 16).unwrap();
    let mut found = Vec::new();
    let first =
        rows.scan_chunk(&spec, &ScanPosition::START, ALL_AT_ONCE, &mut |row| found.push(row)).unwrap();
    assert!(first.is_some(), "40,000 rows are too many to look at in one chunk");
    let expected = keys.iter().filter(|key| spec.slice.contains(TABLES[1], &key[..])).count();
    assert_eq!(scan(&rows, &spec, &ScanPosition::START, ALL_AT_ONCE).unwrap().len(), expected);
}

#[test]
fn a_row_with_very_many_versions_is_read_in_parts() {
    let rows = in_memory();
    let versions = 40_000;
    let plan: Vec<_> = (0..versions).map(|index| (index, vec![((1, 3), Some(1))])).collect();
    apply(&rows, 1, &plan).unwrap();
    apply(&rows, 2, &[(versions, vec![((1, 4), Some(2))])]).unwrap();
    let mut early = spec(Pick::Between, 0, 35);
    let chunk = |spec: &ScanSpec| {
        let mut found = 0;
        let next = rows.scan_chunk(spec, &ScanPosition::START, ALL_AT_ONCE, &mut |_| found += 1).unwrap();
        (found, next.is_some())
    };
    assert_eq!(chunk(&early), (0, true), "most versions are newer than the window");
    assert_eq!(scan(&rows, &early, &ScanPosition::START, ALL_AT_ONCE).unwrap().len(), 3);
    early.window.until = TxClock::MAX;
    assert!(chunk(&early).0 < versions);
    assert_eq!(scan(&rows, &early, &ScanPosition::START, ALL_AT_ONCE).unwrap().len(), versions + 1);
}
