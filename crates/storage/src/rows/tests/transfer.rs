//! Carrying a store to another replica.

use super::*;

/// All chunks of an export from a position on.
fn chunks_from(export: &Export, from: ExportPosition, bytes_max: usize) -> Vec<Bytes> {
    let (mut chunks, mut next) = (Vec::new(), Some(from));
    while let Some(at) = next {
        let chunk = export.chunk(&at, bytes_max).unwrap();
        assert!(chunks.len() < 10_000, "an export ends");
        chunks.push(chunk.bytes);
        next = chunk.next;
    }
    chunks
}

fn chunks(export: &Export, bytes_max: usize) -> Vec<Bytes> {
    chunks_from(export, ExportPosition::default(), bytes_max)
}

fn import(engine: Arc<dyn Engine>, chunks: &[Bytes], position: u64) -> Rows {
    let mut import = Import::begin(engine.clone()).unwrap();
    chunks.iter().for_each(|chunk| import.chunk(chunk).unwrap());
    import.finish(position, None).unwrap();
    Rows::open(engine).unwrap()
}

/// A store with some history, horizons and a ceiling, at position 41.
fn some_rows() -> Rows {
    let rows = in_memory();
    for index in 0..40usize {
        let row = |n: usize| ((index + n) % 3, (index * 5 + n) % KEYS.len());
        let writes = vec![(row(0), Some(index as u8)), (row(1), (index % 4 != 0).then_some(7))];
        apply(&rows, index as u64 + 1, &[(index, writes)]).unwrap();
    }
    let mut changes = Changes::at(41, Bytes::from_static(b"41"));
    changes.ceiling = Some(TxClock(5000));
    changes.horizons = vec![(None, TxClock(30)), (Some(TABLES[1]), TxClock(150))];
    rows.apply(changes).unwrap();
    rows
}

proptest! {
    #![proptest_config(few_cases(24))]
    #[test]
    fn an_imported_store_is_the_exported_one(
        plan in plan(40), horizon in 0u64..200, bytes_max in 1usize..2000, to_disk: bool,
    ) {
        let (dir, rows) = (tempfile::tempdir().unwrap(), in_memory());
        let mut model = Model::default();
        for (index, writes) in plan.iter().enumerate() {
            apply(&rows, index as u64 + 1, &[(index, writes.clone())]).unwrap();
            model.apply(index, writes);
        }
        let position = plan.len() as u64 + 1;
        let mut changes = Changes::at(position, Bytes::from_static(b"here"));
        changes.horizons = vec![(Some(TABLES[0]), TxClock(horizon))];
        changes.ceiling = Some(TxClock(99_999));
        rows.apply(changes).unwrap();
        model.horizons.tables.insert(TABLES[0], TxClock(horizon));
        let export = rows.export().unwrap();
        let engine: Arc<dyn Engine> =
            if to_disk { Arc::new(disk_engine(dir.path())) } else { Arc::new(MemEngine::new()) };
        let copy = import(engine, &chunks(&export, bytes_max), position);
        prop_assert_eq!(copy.digest().unwrap(), export.digest().unwrap());
        prop_assert_eq!(copy.digest().unwrap(), rows.digest().unwrap());
        prop_assert_eq!(copy.meta().applied, rows.meta().applied);
        prop_assert_eq!(copy.meta().ceiling, TxClock(99_999));
        prop_assert_eq!(&copy.meta().horizons, &rows.meta().horizons);
        prop_assert_eq!(copy.durable_position(), position);
        for index in 0..plan.len() {
            prop_assert_eq!(copy.tx(&tx_id(index)).unwrap(), rows.tx(&tx_id(index)).unwrap());
        }
        for table in TABLES {
            for key in KEYS {
                let at = TxClock(100_000);
                prop_assert_eq!(copy.read(table, key, at).unwrap(), rows.read(table, key, at).unwrap());
            }
        }
        // It goes on as the other one does.
        for rows in [&copy, &rows] {
            apply(rows, position + 1, &[(500, vec![((1, 2), Some(9)), ((0, 0), None)])]).unwrap();
        }
        prop_assert_eq!(copy.digest().unwrap(), rows.digest().unwrap());
    }
}

#[test]
fn an_export_does_not_change_whatever_is_written_and_compacted_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let rows = on_disk(dir.path());
    for index in 0..20usize {
        let writes = vec![((index % 3, index % KEYS.len()), Some(index as u8))];
        apply(&rows, index as u64 + 1, &[(index, writes)]).unwrap();
    }
    let (export, before) = (rows.export().unwrap(), rows.digest().unwrap());
    let first = chunks(&export, 100);
    for index in 20..60usize {
        let writes = vec![((index % 3, index % KEYS.len()), Some(index as u8))];
        apply(&rows, index as u64 + 1, &[(index, writes)]).unwrap();
    }
    let mut changes = Changes::at(99, Bytes::from_static(b"99"));
    changes.horizons = vec![(None, TxClock(400))];
    rows.apply(changes).unwrap();
    rows.reclaim().unwrap();
    assert_eq!(export.digest().unwrap(), before);
    assert_eq!(chunks(&export, 100), first);
    assert_ne!(rows.export().unwrap().id(), export.id());
}

#[test]
fn replicas_that_compacted_at_different_times_have_one_digest_and_one_export() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let replicas = dirs.each_ref().map(|dir| on_disk(dir.path()));
    for round in 0..4u64 {
        for rows in &replicas {
            for step in 0..10u64 {
                let index = (round * 10 + step) as usize;
                let deletes = step % 3 == 0;
                let writes = vec![((index % 2, index % 3), (!deletes).then_some(index as u8))];
                apply(rows, 2 * index as u64 + 1, &[(index, writes)]).unwrap();
            }
            let mut changes = Changes::at(round * 20 + 20, Bytes::from(round.to_string()));
            changes.horizons = vec![(None, TxClock(round * 100 + 50))];
            rows.apply(changes).unwrap();
        }
        replicas[0].reclaim().unwrap();
        let [a, b] = replicas.each_ref().map(|rows| rows.export().unwrap());
        assert_eq!(a.digest().unwrap(), b.digest().unwrap(), "round {round}");
        assert_eq!(a.id(), b.id());
        let copies = [a, b].map(|export| import(Arc::new(MemEngine::new()), &chunks(&export, 300), 7));
        assert_eq!(copies[0].digest().unwrap(), copies[1].digest().unwrap());
    }
    apply(&replicas[0], 1000, &[(100, vec![((0, 0), Some(1))])]).unwrap();
    apply(&replicas[1], 1000, &[(100, vec![((0, 0), Some(2))])]).unwrap();
    assert_ne!(replicas[0].digest().unwrap(), replicas[1].digest().unwrap());
}

#[test]
fn a_cut_at_any_chunk_is_gone_on_from_also_with_another_export_of_the_same() {
    let rows = some_rows();
    let whole = chunks(&rows.export().unwrap(), 200);
    assert!(10 < whole.len());
    for cut in 0..=whole.len() {
        let engine: Arc<dyn Engine> = Arc::new(MemEngine::new());
        let mut import = Import::begin(engine.clone()).unwrap();
        whole[..cut].iter().for_each(|chunk| import.chunk(chunk).unwrap());
        if cut < whole.len() {
            let sent = import.position().encode();
            let position = ExportPosition::decode(&sent).unwrap();
            let again = rows.export().unwrap();
            assert!(import.export().is_none_or(|id| id == again.id()));
            chunks_from(&again, position, 333).iter().for_each(|chunk| import.chunk(chunk).unwrap());
        }
        import.finish(41, None).unwrap();
        assert_eq!(Rows::open(engine).unwrap().digest().unwrap(), rows.digest().unwrap(), "cut at {cut}");
    }
    assert_eq!(ExportPosition::decode(b"short"), None);
    assert_eq!(ExportPosition::decode(&[9; 12]), None);
}

#[test]
fn whatever_is_wrong_with_a_chunk_it_is_refused_by_name_and_the_right_one_is_taken_after_it() {
    let rows = some_rows();
    let whole = chunks(&rows.export().unwrap(), 300);
    apply(&rows, 42, &[(60, vec![((0, 0), Some(1))])]).unwrap();
    let foreign = chunks(&rows.export().unwrap(), 300);
    let engine: Arc<dyn Engine> = Arc::new(MemEngine::new());
    let mut import = Import::begin(engine.clone()).unwrap();
    for (number, chunk) in whole.iter().enumerate() {
        for bit in 0..chunk.len() * 8 {
            let mut damaged = chunk.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let error = import.chunk(&Bytes::from(damaged)).unwrap_err();
            assert!(matches!(error, ImportError::Damaged { .. }), "chunk {number}, bit {bit}: {error}");
        }
        for cut in [0, 1, 39, 40, chunk.len() - 1] {
            let error = import.chunk(&chunk.slice(..cut.min(chunk.len() - 1))).unwrap_err();
            assert!(matches!(error, ImportError::Damaged { .. }), "chunk {number} cut at {cut}: {error}");
        }
        for other in (0..whole.len()).filter(|other| *other != number) {
            let error = import.chunk(&whole[other]).unwrap_err();
            let expected = number as u64;
            assert!(matches!(error, ImportError::OutOfOrder { expected: e, .. } if e == expected), "{error}");
        }
        if 0 < number {
            let error = import.chunk(&foreign[number]).unwrap_err();
            assert!(matches!(error, ImportError::Foreign { .. }), "{error}");
        }
        assert!(!import.is_complete());
        import.chunk(chunk).unwrap();
    }
    assert!(matches!(import.chunk(&whole[0]), Err(ImportError::OutOfOrder { .. })));
    assert!(import.is_complete());
    let imported = import.finish(41, None).unwrap();
    assert_eq!(imported.bytes, whole.iter().map(|chunk| chunk.len() as u64).sum::<u64>());
    assert_eq!(Rows::open(engine).unwrap().meta().ceiling, TxClock(5000));
}

#[test]
fn a_newer_chunk_is_refused_with_both_formats_named() {
    let mut chunk = chunks(&some_rows().export().unwrap(), 300)[0].to_vec();
    chunk[12] = 9;
    let checksum = crc32c::crc32c(&chunk[4..]);
    chunk[..4].copy_from_slice(&checksum.to_le_bytes());
    let mut import = Import::begin(Arc::new(MemEngine::new())).unwrap();
    let error = import.chunk(&Bytes::from(chunk)).unwrap_err();
    let text = "a chunk of rows has format 9, and this version of Skein reads formats up to 1";
    assert_eq!(error.to_string(), text);
}

#[test]
fn an_import_that_lacks_its_end_or_has_no_empty_store_is_refused() {
    let rows = some_rows();
    let whole = chunks(&rows.export().unwrap(), 300);
    let dir = tempfile::tempdir().unwrap();
    let engine: Arc<dyn Engine> = Arc::new(disk_engine(dir.path()));
    let mut import = Import::begin(engine.clone()).unwrap();
    whole[..whole.len() - 1].iter().for_each(|chunk| import.chunk(chunk).unwrap());
    let next = whole.len() as u64 - 1;
    assert!(matches!(import.finish(41, None), Err(ImportError::Incomplete { next: n }) if n == next));
    // Nothing of it claims to be a store.
    assert_eq!(Rows::open(engine.clone()).unwrap().meta().applied, None);
    apply(&Rows::open(engine.clone()).unwrap(), 1, &[(0, vec![((0, 0), Some(1))])]).unwrap();
    let refused = Import::begin(engine).err().unwrap();
    assert!(matches!(refused, ImportError::Engine(EngineError::NotEmpty { .. })), "{refused}");
}

#[test]
fn an_imported_store_is_there_after_a_restart_and_every_checksum_in_it_is_right() {
    let (rows, dir) = (some_rows(), tempfile::tempdir().unwrap());
    let copy = import(Arc::new(disk_engine(dir.path())), &chunks(&rows.export().unwrap(), 500), 41);
    drop(copy);
    let again = on_disk(dir.path());
    assert_eq!((again.digest().unwrap(), again.durable_position()), (rows.digest().unwrap(), 41));
    assert_eq!(again.verify().unwrap().damaged, []);
    apply(&again, 42, &[(70, vec![((1, 1), Some(1))])]).unwrap();
    again.reclaim().unwrap();
    apply(&rows, 42, &[(70, vec![((1, 1), Some(1))])]).unwrap();
    assert_eq!(again.digest().unwrap(), rows.digest().unwrap());
}

#[test]
fn a_disk_that_fills_up_fails_the_import_and_nothing_else() {
    let whole = chunks(&some_rows().export().unwrap(), 300);
    let engine = Arc::new(MemEngine::new());
    let mut import = Import::begin(engine.clone()).unwrap();
    engine.set_full(true);
    assert!(matches!(import.chunk(&whole[0]), Err(ImportError::Engine(error)) if error.is_full()));
    engine.set_full(false);
    assert!(import.chunk(&whole[0]).is_err(), "it has to begin anew");
}

#[test]
fn the_owner_of_the_log_puts_its_own_bytes_in_the_place_of_those_that_came_at_the_same_position() {
    for position in [1, 41] {
        let rows = in_memory();
        rows.apply(Changes::at(position, Bytes::from_static(b"theirs"))).unwrap();
        let engine: Arc<dyn Engine> = Arc::new(MemEngine::new());
        let mut import = Import::begin(engine.clone()).unwrap();
        assert_eq!(import.applied(), None);
        chunks(&rows.export().unwrap(), 300).iter().for_each(|chunk| import.chunk(chunk).unwrap());
        assert_eq!(import.applied().unwrap(), "theirs");
        import.finish(position, Some(Bytes::from_static(b"ours"))).unwrap();
        let imported = Rows::open(engine).unwrap();
        assert_eq!(imported.meta().applied.unwrap(), "ours");
        assert_eq!(imported.durable_position(), position);
        apply(&imported, position + 1, &[(0, vec![((0, 0), Some(1))])]).unwrap();
    }
}
