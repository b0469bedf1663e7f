use super::*;
use crate::engine::{Keyspace, WriteBatch};
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
