use super::*;
use crate::engine::{EngineOptions, Keyspace, LsmEngine, WriteBatch};
use bytes::Bytes;

const GROUP: GroupId = GroupId(7);

/// Writes one row, which is durable when this returns.
fn put(engine: &dyn Engine, value: &'static str, position: u64) {
    let mut batch = WriteBatch::new();
    batch.push(Keyspace::Head, Bytes::from_static(b"key"), Bytes::from_static(value.as_bytes()));
    engine.write(batch, position).unwrap();
    engine.checkpoint().unwrap();
}

fn value(engine: &dyn Engine) -> Option<String> {
    let value = engine.view().unwrap().get(Keyspace::Head, b"key").unwrap()?;
    Some(String::from_utf8(value.to_vec()).unwrap())
}

/// What every kind of drives does.
fn a_staged_store_takes_the_place_of_the_current_one_when_promoted(drives: &dyn Drives) {
    assert_eq!(drives.groups().unwrap(), []);
    assert!(matches!(drives.promote(GROUP), Err(DrivesError::NotStaged { group: GROUP })));
    let old = drives.open(GROUP).unwrap();
    put(&*old, "old", 1);
    put(&*drives.stage(GROUP).unwrap(), "given up", 1);
    let new = drives.stage(GROUP).unwrap();
    put(&*new, "new", 5);
    assert_eq!(value(&*drives.open(GROUP).unwrap()).as_deref(), Some("old"));
    let reader = old.view().unwrap();
    drives.promote(GROUP).unwrap();
    assert!(drives.promote(GROUP).is_err(), "there is nothing left to promote");
    assert_eq!(value(&*drives.open(GROUP).unwrap()).as_deref(), Some("new"));
    assert_eq!(value(&*old).as_deref(), Some("old"), "old handles stay usable");
    drop(old);
    assert_eq!(reader.get(Keyspace::Head, b"key").unwrap().as_deref(), Some(&b"old"[..]), "and so do views");
    drop(reader);
    put(&*new, "newer", 6);
    assert_eq!(value(&*drives.open(GROUP).unwrap()).as_deref(), Some("newer"), "they are one store");
    drives.open(GroupId(3)).unwrap();
    assert_eq!(drives.groups().unwrap(), [GroupId(3), GROUP]);
    drives.remove(GROUP).unwrap();
    drives.remove(GroupId(99)).unwrap();
    assert_eq!(drives.groups().unwrap(), [GroupId(3)]);
    assert_eq!(value(&*new).as_deref(), Some("newer"), "a removed store's handle stays usable");
    assert_eq!(value(&*drives.open(GROUP).unwrap()), None, "the next one is empty");
}

/// What every kind of drives does; `again` opens them anew after a loss of power.
fn a_life_is_kept_and_its_end_outlives_the_store<D: Drives>(drives: D, again: impl Fn(D) -> D) {
    assert_eq!(drives.life(GROUP).unwrap(), None);
    drives.begin_life(GROUP, LifeId(0xAB)).unwrap();
    assert_eq!(drives.groups().unwrap(), [], "a life is no store");
    drives.open(GROUP).unwrap();
    let drives = again(drives);
    assert_eq!(drives.life(GROUP).unwrap(), Some(Life::Lives(LifeId(0xAB))));
    for _ in 0..2 {
        drives.end_life(GROUP).unwrap();
    }
    let drives = again(drives);
    assert_eq!(drives.life(GROUP).unwrap(), Some(Life::Ended));
    drives.remove(GROUP).unwrap();
    let drives = again(drives);
    assert_eq!(drives.life(GROUP).unwrap(), Some(Life::Ended));
    assert_eq!(drives.groups().unwrap(), []);
    drives.begin_life(GROUP, LifeId(u64::MAX)).unwrap();
    let drives = again(drives);
    assert_eq!(drives.life(GROUP).unwrap(), Some(Life::Lives(LifeId(u64::MAX))));
    // Of one from before lives were written down.
    drives.end_life(GroupId(9)).unwrap();
    assert_eq!(again(drives).life(GroupId(9)).unwrap(), Some(Life::Ended));
}

#[test]
fn drives_in_memory_keep_lives() {
    a_life_is_kept_and_its_end_outlives_the_store(MemDrives::new(), |drives| drives.crash(1));
}

#[test]
fn drives_of_a_machine_keep_lives_and_two_of_one_group_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let open = || RealDrives::open(dir.path(), EngineOptions::default());
    a_life_is_kept_and_its_end_outlives_the_store(open().unwrap(), |drives| {
        drop(drives);
        open().unwrap()
    });
    let group = dir.path().join("cohorts/0000000000000007");
    std::fs::write(group.join("life.12"), "").unwrap();
    open().unwrap();
    std::fs::write(group.join("life.0000000000000012"), "").unwrap();
    assert!(open().is_err(), "which of the two it is cannot be known");
}

#[test]
fn drives_in_memory_replace_a_store_whole() {
    a_staged_store_takes_the_place_of_the_current_one_when_promoted(&MemDrives::new());
}

#[test]
fn a_crash_in_memory_forgets_what_was_staged_or_not_checkpointed() {
    let drives = MemDrives::new();
    put(&*drives.open(GROUP).unwrap(), "durable", 1);
    let mut batch = WriteBatch::new();
    batch.push(Keyspace::Head, Bytes::from_static(b"key"), Bytes::from_static(b"written"));
    drives.open(GROUP).unwrap().write(batch, 2).unwrap();
    put(&*drives.stage(GROUP).unwrap(), "staged", 9);
    let file = drives.small_files().create("fact", 512).unwrap();
    file.write_at(b"x", 0).unwrap();
    for (image, kept) in [(drives.crash(0), None), (drives.killed(), Some(b'x'))] {
        assert_eq!(value(&*image.open(GROUP).unwrap()).as_deref(), Some("durable"));
        assert!(image.promote(GROUP).is_err());
        let byte = image.files().contents("fact").unwrap()[0];
        assert!(kept.is_none_or(|kept| kept == byte));
    }
    assert_eq!(
        value(&*drives.open(GROUP).unwrap()).as_deref(),
        Some("written"),
        "the drives themselves go on"
    );
}

fn real(dir: &std::path::Path) -> RealDrives {
    let options = EngineOptions { cache_bytes: 1 << 20, compaction_threads: 0, ..EngineOptions::default() };
    RealDrives::open(dir, options).unwrap()
}

/// The files and directories of a group, by name.
fn names(dir: &std::path::Path, group: GroupId) -> Vec<String> {
    let entries = std::fs::read_dir(dir.join(format!("cohorts/{:016x}", group.0))).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn drives_on_disk_replace_a_store_whole_and_delete_what_nobody_uses() {
    let dir = tempfile::tempdir().unwrap();
    let drives = real(dir.path());
    a_staged_store_takes_the_place_of_the_current_one_when_promoted(&drives);
    assert_eq!(names(dir.path(), GROUP), ["4"], "generations are not used again while the process runs");
    drop(drives);
    let drives = real(dir.path());
    assert_eq!(drives.groups().unwrap(), [GroupId(3), GROUP]);
    assert!(drives.free_bytes().unwrap() > 0);
}

#[test]
fn a_store_that_is_used_by_a_view_only_is_still_the_same_store() {
    let dir = tempfile::tempdir().unwrap();
    let drives = real(dir.path());
    let engine = drives.open(GROUP).unwrap();
    let view = engine.view().unwrap();
    let mut batch = WriteBatch::new();
    batch.push(Keyspace::Head, Bytes::from_static(b"key"), Bytes::from_static(b"unsynced"));
    engine.write(batch, 4).unwrap();
    drop(engine);
    let again = drives.open(GROUP).unwrap();
    assert_eq!((value(&*again).as_deref(), again.durable_position()), (Some("unsynced"), 4));
    drop((view, again));
    assert_eq!(value(&*drives.open(GROUP).unwrap()).as_deref(), Some("unsynced"));
}

#[test]
fn whatever_moment_a_crash_cuts_a_promotion_or_a_removal_the_store_is_the_old_or_the_new_or_gone() {
    let dir = tempfile::tempdir().unwrap();
    let group = dir.path().join(format!("cohorts/{:016x}", GROUP.0));
    let (old, new) = (group.join("1"), group.join("2"));
    {
        let drives = real(dir.path());
        put(&*drives.open(GROUP).unwrap(), "old", 1);
        put(&*drives.stage(GROUP).unwrap(), "new", 5);
    }
    let keep = tempfile::tempdir().unwrap();
    let saved = keep.path().join("2");
    let copy = |from: &std::path::Path, to: &std::path::Path| {
        let done = std::process::Command::new("cp").arg("-r").arg(from).arg(to).status().unwrap();
        assert!(done.success());
    };
    copy(&new, &saved);
    // Staged, and killed before the promotion.
    let drives = real(dir.path());
    assert_eq!(value(&*drives.open(GROUP).unwrap()).as_deref(), Some("old"));
    assert_eq!(names(dir.path(), GROUP), ["1"]);
    drop(drives);
    // The mark is gone, and the older store is half deleted.
    copy(&saved, &new);
    std::fs::remove_dir_all(old.join("head")).unwrap();
    let drives = real(dir.path());
    assert_eq!(value(&*drives.open(GROUP).unwrap()).as_deref(), Some("new"));
    assert_eq!(names(dir.path(), GROUP), ["2"]);
    drop(drives);
    // Marked as removed, and half deleted.
    std::fs::write(group.join("2.removed"), b"").unwrap();
    std::fs::remove_dir_all(new.join("head")).unwrap();
    // A mark whose store is gone already, and one whose store was never made.
    std::fs::write(group.join("1.removed"), b"").unwrap();
    std::fs::write(group.join("9.incoming"), b"").unwrap();
    let drives = real(dir.path());
    assert_eq!(drives.groups().unwrap(), []);
    assert_eq!(names(dir.path(), GROUP), [""; 0]);
    assert_eq!(value(&*drives.open(GROUP).unwrap()), None);
}

#[test]
fn a_removed_group_does_not_come_back_as_an_older_store_that_still_has_readers() {
    let dir = tempfile::tempdir().unwrap();
    let drives = real(dir.path());
    let old = drives.open(GROUP).unwrap();
    put(&*old, "old", 1);
    let new = drives.stage(GROUP).unwrap();
    put(&*new, "new", 5);
    drives.promote(GROUP).unwrap();
    drives.remove(GROUP).unwrap();
    // As after a crash: both stores are still there.
    assert_eq!(names(dir.path(), GROUP), ["1", "1.removed", "2", "2.removed"]);
    assert_eq!(RealDrives::store_dirs(dir.path()).unwrap(), []);
    drop((old, new));
    assert_eq!(names(dir.path(), GROUP), [""; 0]);
}

#[test]
fn the_store_of_a_database_of_one_becomes_that_of_the_first_group() {
    let dir = tempfile::tempdir().unwrap();
    let old = dir.path().join("store");
    put(&LsmEngine::open(&old, EngineOptions::default()).unwrap(), "kept", 1);
    assert_eq!(RealDrives::store_dirs(dir.path()).unwrap(), [(GroupId::FIRST, old.clone())]);
    for _ in 0..2 {
        let drives = real(dir.path());
        assert_eq!(drives.groups().unwrap(), [GroupId::FIRST]);
        assert_eq!(value(&*drives.open(GroupId::FIRST).unwrap()).as_deref(), Some("kept"));
    }
    let new = dir.path().join("cohorts/0000000000000001/1");
    assert_eq!(RealDrives::store_dirs(dir.path()).unwrap(), [(GroupId::FIRST, new)]);
    std::fs::create_dir(&old).unwrap();
    let options = EngineOptions::default();
    let error = RealDrives::open(dir.path(), options).err().unwrap();
    assert!(error.to_string().starts_with("adopt "), "{error}");
}

#[test]
fn many_stores_share_one_write_buffer_and_the_fattest_is_checkpointed_first() {
    let dir = tempfile::tempdir().unwrap();
    let options = EngineOptions { write_buffer_bytes: 1 << 20, ..EngineOptions::default() };
    let drives = RealDrives::open(dir.path(), options).unwrap();
    let lean = drives.open(GroupId(1)).unwrap();
    let fat = drives.open(GroupId(2)).unwrap();
    let write = |engine: &dyn Engine, position: u64, bytes: usize| {
        let mut batch = WriteBatch::new();
        let key = Bytes::from(position.to_be_bytes().to_vec());
        batch.push(Keyspace::Head, key, Bytes::from(vec![7; bytes]));
        engine.write(batch, position).unwrap();
    };
    write(&*lean, 1, 1000);
    for position in 1..=1000 {
        write(&*fat, position, 8000);
    }
    assert!(3 < fat.stats().checkpoints, "{:?}", fat.stats());
    assert_eq!(lean.stats().checkpoints, 0);
    assert!(0 < lean.stats().memtable_bytes);
    assert!(drives.stats().memtable_bytes < 2 << 20);
    assert_eq!(drives.stats().write_buffer_bytes, 1 << 20);
    // A store that is dropped gives its part of the buffer back.
    drop((lean, fat));
    let next = drives.open(GroupId(3)).unwrap();
    for position in 1..=20 {
        write(&*next, position, 8000);
    }
    assert_eq!(next.stats().checkpoints, 0);
}
