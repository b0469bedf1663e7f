mod damage;
mod model;

use super::*;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::Instant;

type Entries = BTreeMap<Bytes, Bytes>;

fn quiet() -> EngineOptions {
    EngineOptions { compaction_threads: 0, cache_bytes: 1 << 20, ..EngineOptions::default() }
}

fn open(dir: &Path) -> LsmEngine {
    LsmEngine::open(dir, quiet()).unwrap()
}

/// A batch that puts `round` under some keys of every keyspace.
fn batch(round: u64) -> WriteBatch {
    let mut batch = WriteBatch::new();
    for keyspace in Keyspace::ALL {
        for n in 0..20u64 {
            let key = Bytes::from(format!("key {}", (round * 7 + n * 3) % 50));
            batch.push(keyspace, key, Bytes::from(format!("{round} {n} {}", "x".repeat(100))));
        }
    }
    batch
}

/// What a keyspace of the engine's users holds.
fn entries(view: &dyn View, keyspace: Keyspace) -> Result<Entries, EngineError> {
    let all = view.range(keyspace, Bound::Included(&[1]), Bound::Unbounded);
    all.collect()
}

fn everything(engine: &LsmEngine) -> Result<[Entries; 4], EngineError> {
    let view = engine.view()?;
    let [a, b, c, d] = Keyspace::ALL.map(|keyspace| entries(&*view, keyspace));
    Ok([a?, b?, c?, d?])
}

#[test]
fn a_view_does_not_change_whatever_happens_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    engine.write(batch(1), 1).unwrap();
    let view = engine.view().unwrap();
    let before = Keyspace::ALL.map(|keyspace| entries(&*view, keyspace).unwrap());
    let same = |moment: &str| {
        assert_eq!(Keyspace::ALL.map(|keyspace| entries(&*view, keyspace).unwrap()), before, "{moment}");
        assert_eq!(
            view.get(Keyspace::Head, b"key 7").unwrap().as_ref(),
            before[2].get(&b"key 7"[..]),
            "{moment}"
        );
    };
    engine.write(batch(2), 2).unwrap();
    same("after a write");
    engine.checkpoint().unwrap();
    same("after a checkpoint");
    for round in 3..9 {
        engine.write(batch(round), round).unwrap();
        engine.checkpoint().unwrap();
    }
    engine.set_drop_rule(Arc::new(|_| Arc::new(|_, _, _| true)));
    for keyspace in Keyspace::ALL {
        engine.compact(keyspace).unwrap();
    }
    same("after compactions");
    drop(view);
    let now = everything(&engine).unwrap();
    assert!(now[Keyspace::Past.slot()].is_empty() && now[Keyspace::Head.slot()].is_empty());
    assert!(!now[Keyspace::Meta.slot()].is_empty(), "nothing is dropped from meta");
    assert_eq!(engine.stats().views, 0);
}

#[test]
fn a_view_sees_all_of_a_batch_or_nothing_while_others_write_and_flush() {
    let dir = tempfile::tempdir().unwrap();
    let options = EngineOptions { write_buffer_bytes: 1 << 19, ..EngineOptions::default() };
    let engine = LsmEngine::open(dir.path(), options).unwrap();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for round in 1..400u64 {
                let mut batch = WriteBatch::new();
                for keyspace in Keyspace::ALL {
                    for key in 0..4u8 {
                        let padded = format!("{round:08}{}", "x".repeat(100));
                        batch.push(keyspace, Bytes::copy_from_slice(&[b'k', key]), Bytes::from(padded));
                    }
                }
                engine.write(batch, round).unwrap();
            }
        });
        while !writer.is_finished() {
            let view = engine.view().unwrap();
            let all = Keyspace::ALL.map(|keyspace| entries(&*view, keyspace).unwrap());
            let rounds: std::collections::BTreeSet<&Bytes> = all.iter().flat_map(BTreeMap::values).collect();
            assert!(rounds.len() <= 1, "a view shows parts of several batches: {rounds:?}");
            assert!(all.iter().all(|entries| entries.len() == all[0].len()));
        }
    });
    assert!(0 < engine.stats().checkpoints, "the write buffer filled up many times");
}

#[test]
fn the_last_entry_of_a_key_in_a_batch_wins() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let mut batch = WriteBatch::new();
    batch.push(Keyspace::Head, Bytes::from_static(b"b"), Bytes::from_static(b"first"));
    batch.push(Keyspace::Head, Bytes::from_static(b"a"), Bytes::from_static(b"first"));
    batch.delete(Keyspace::Head, Bytes::from_static(b"a"));
    batch.push(Keyspace::Head, Bytes::from_static(b"b"), Bytes::from_static(b"last"));
    engine.write(batch, 1).unwrap();
    for _ in 0..2 {
        assert_eq!(engine.get(Keyspace::Head, b"a").unwrap(), None);
        assert_eq!(engine.get(Keyspace::Head, b"b").unwrap().as_deref(), Some(&b"last"[..]));
        engine.checkpoint().unwrap();
    }
}

#[test]
fn what_was_checkpointed_is_found_again_and_the_rest_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    assert_eq!(engine.durable_position(), 0);
    engine.write(batch(1), 10).unwrap();
    assert_eq!(engine.checkpoint().unwrap(), 10);
    let durable = everything(&engine).unwrap();
    engine.write(batch(2), 20).unwrap();
    assert_eq!(engine.durable_position(), 10);
    drop(engine);
    let engine = open(dir.path());
    assert_eq!(engine.durable_position(), 10);
    assert_eq!(everything(&engine).unwrap(), durable);
    // New entries are newer than old ones after a restart too.
    engine.write(batch(2), 20).unwrap();
    let (now, mut expected) = (everything(&engine).unwrap(), durable);
    for keyspace in Keyspace::ALL {
        let written = batch(2).take(keyspace).into_iter().filter_map(|(key, value)| Some((key, value?)));
        expected[keyspace.slot()].extend(written);
    }
    assert_eq!(now, expected);
}

#[test]
fn positions_have_to_rise() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    engine.write(batch(1), 5).unwrap();
    assert!(matches!(engine.write(batch(2), 5), Err(EngineError::OutOfOrder { given: 5, last: 5 })));
    assert_eq!(everything(&engine).unwrap()[0].len(), 20, "the refused batch left nothing");
}

#[test]
fn the_largest_values_come_back_through_memory_tables_and_compaction() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let value: Bytes = (0..16u32 << 20).map(|n| (n.wrapping_mul(0x9E37_79B1) >> 13) as u8).collect();
    let mut batch = WriteBatch::new();
    for key in [&b"a"[..], b"b"] {
        batch.push(Keyspace::Head, Bytes::from_static(key), value.clone());
    }
    engine.write(batch, 1).unwrap();
    assert_eq!(engine.get(Keyspace::Head, b"b").unwrap(), Some(value.clone()));
    engine.checkpoint().unwrap();
    assert_eq!(engine.get(Keyspace::Head, b"b").unwrap(), Some(value.clone()));
    engine.compact(Keyspace::Head).unwrap();
    assert_eq!(engine.get(Keyspace::Head, b"a").unwrap(), Some(value));
}

#[test]
fn a_dropped_key_does_not_uncover_its_older_values() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let put = |value: &'static [u8], position: u64| {
        let mut batch = WriteBatch::new();
        batch.push(Keyspace::Head, Bytes::from_static(b"key"), Bytes::from_static(value));
        engine.write(batch, position).unwrap();
        engine.checkpoint().unwrap();
    };
    engine.set_drop_rule(Arc::new(|_| Arc::new(|_, _, value| value == b"dead")));
    put(b"old", 1);
    engine.compact(Keyspace::Head).unwrap();
    // With a view alive, the older value has to stay below the newer one.
    let _view = engine.view().unwrap();
    put(b"dead", 2);
    engine.compact(Keyspace::Head).unwrap();
    assert_eq!(engine.view().unwrap().get(Keyspace::Head, b"key").unwrap(), None);
    // It was written lately, so it may still be known; what it covered must not be.
    assert_ne!(engine.get(Keyspace::Head, b"key").unwrap().as_deref(), Some(&b"old"[..]));
    put(b"new", 3);
    engine.compact(Keyspace::Head).unwrap();
    assert_eq!(engine.get(Keyspace::Head, b"key").unwrap().as_deref(), Some(&b"new"[..]));
    assert_eq!(engine.stats().versions_reclaimed, 1);
}

#[test]
fn the_drop_rule_learns_what_is_durable() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let heard = asked.clone();
    engine.set_drop_rule(Arc::new(move |durable| {
        lock(&heard).push(durable);
        Arc::new(|_, _, _| false)
    }));
    engine.write(batch(1), 7).unwrap();
    engine.checkpoint().unwrap();
    engine.write(batch(2), 8).unwrap();
    engine.compact(Keyspace::Head).unwrap();
    assert_eq!(*lock(&asked), [7]);
}

#[test]
fn flushed_memory_is_given_back() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    for round in 1..20 {
        engine.write(batch(round), round).unwrap();
    }
    assert!(0 < engine.stats().memtable_bytes);
    engine.checkpoint().unwrap();
    assert_eq!(engine.stats().memtable_bytes, 0);
    for (tree, image) in engine.shared.trees.iter().zip(&engine.shared.images) {
        assert_eq!(image.buffers().len(), 1);
        assert!(image.active().is_empty());
        assert_eq!(tree.version_free_list_len(), 0, "no old version of the tree is held on to");
    }
}

#[test]
fn background_threads_keep_the_trees_in_shape() {
    let dir = tempfile::tempdir().unwrap();
    let options = EngineOptions { write_buffer_bytes: 1 << 16, ..EngineOptions::default() };
    let engine = LsmEngine::open(dir.path(), options).unwrap();
    let mut round = 0;
    let deadline = Instant::now() + Duration::from_secs(60);
    while engine.stats().checkpoints < 7 && Instant::now() < deadline {
        round += 1;
        engine.write(batch(round), round).unwrap();
    }
    while engine.stats().l0_runs.iter().any(|runs| 4 < *runs) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    let stats = engine.stats();
    assert!(stats.l0_runs.iter().all(|runs| *runs <= 4), "{stats:?}");
    assert_eq!(stats.trouble, None);
    assert_eq!(everything(&engine).unwrap()[0].len(), 50);
}

#[test]
fn a_checkpoint_that_fails_loses_nothing_and_can_be_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    engine.write(batch(1), 1).unwrap();
    engine.checkpoint().unwrap();
    engine.write(batch(2), 2).unwrap();
    let written = everything(&engine).unwrap();
    let unflushed = engine.stats().memtable_bytes;
    // A directory in the way of the next table of head: the flush fails after that of past.
    let tree = engine.shared.tree(Keyspace::Head);
    let blocker = dir.path().join("head/tables").join((tree.get_next_table_id() + 1).to_string());
    std::fs::create_dir(&blocker).unwrap();
    engine.checkpoint().unwrap_err();
    assert!(engine.stats().trouble.is_some());
    assert_eq!(engine.durable_position(), 1);
    assert_eq!(engine.stats().memtable_bytes, unflushed);
    assert_eq!(everything(&engine).unwrap(), written);
    engine.write(batch(3), 3).unwrap();
    std::fs::remove_dir(&blocker).unwrap();
    assert_eq!(engine.checkpoint().unwrap(), 3);
    assert_eq!(engine.stats().trouble, None);
    assert_eq!(engine.stats().memtable_bytes, 0);
    let written = everything(&engine).unwrap();
    drop(engine);
    assert_eq!(everything(&open(dir.path())).unwrap(), written);
}

#[test]
fn what_a_failed_flush_leaves_behind_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    engine.write(batch(1), 1).unwrap();
    engine.checkpoint().unwrap();
    let view = engine.view().unwrap();
    engine.write(batch(2), 2).unwrap();
    engine.checkpoint().unwrap();
    engine.compact(Keyspace::Head).unwrap();
    let debris = dir.path().join("head/tables/4444");
    std::fs::write(&debris, b"half a table").unwrap();
    engine.write(batch(3), 3).unwrap();
    let tree = engine.shared.tree(Keyspace::Head);
    let blocker = dir.path().join("head/tables").join((tree.get_next_table_id() + 1).to_string());
    std::fs::create_dir(&blocker).unwrap();
    engine.checkpoint().unwrap_err();
    assert!(!debris.exists());
    assert_eq!(entries(&*view, Keyspace::Head).unwrap().len(), 20, "tables that a view needs are left alone");
    std::fs::remove_dir(&blocker).unwrap();
    engine.checkpoint().unwrap();
    assert_eq!(engine.verify().unwrap().damaged, []);
}
