//! What survives, and what travels.

use super::*;
use crate::catalog::{Command, Founding, Genesis, KeyExpect};
use skein_model::{Cohort, ContentType, HostId, StoreId, Value};
use skein_storage::disk::MemDisk;
use std::collections::{BTreeMap, BTreeSet};

fn entry(index: u64, command: Option<Command>) -> Entry {
    let command = command.map(|command| {
        let request = Request { id: index.into(), after: index, again: false, command };
        Bytes::from(request.encode().unwrap())
    });
    Entry { index, term: 1, place: Bytes::from(format!("place {index}")), command }
}

fn genesis() -> Command {
    Command::Found(Genesis {
        founding: Founding(1),
        cohorts: vec![Cohort::Settled { hosts: BTreeSet::from([HostId(1)]) }],
        atlas_version: 1,
        schema_version: 0,
        schema: String::new(),
        members: BTreeMap::from([(HostId(1), StoreId(101))]),
        opened: false,
    })
}

fn put(key: &str) -> Command {
    let value = Value { content_type: ContentType::Json, bytes: Bytes::from_static(b"{}") };
    Command::PutKey { key: key.into(), value, expect: KeyExpect::Absent }
}

fn reopened(disk: &MemDisk) -> CatalogMachine {
    let saved = match file::read(disk, REPLICA).unwrap() {
        Some(file::Found::Saved(saved)) => *saved,
        Some(file::Found::OfOne(_)) => panic!("format 1"),
        None => Saved::default(),
    };
    CatalogMachine::new(Arc::new(disk.clone()), saved)
}

#[tokio::test]
async fn what_was_checkpointed_survives_and_the_rest_is_applied_again() {
    let disk = MemDisk::new();
    let machine = reopened(&disk);
    machine.apply(entry(1, None)).await.unwrap();
    machine.apply(entry(2, Some(genesis()))).await.unwrap();
    assert_eq!(machine.durable_position(), 0);
    machine.checkpoint().await.unwrap();
    assert_eq!(machine.durable_position(), 3);
    machine.apply(entry(3, Some(put("a")))).await.unwrap();
    let again = reopened(&disk.crash_losing_all());
    assert_eq!(again.place().unwrap(), "place 2");
    assert!(again.look(|content| content.keys.is_empty()));
    again.apply(entry(3, Some(put("a")))).await.unwrap();
    assert!(again.look(|content| content.keys.get("a").is_some()));
}

#[tokio::test]
async fn an_entry_that_is_not_understood_stops_the_replica_before_it_differs() {
    let machine = reopened(&MemDisk::new());
    for command in [&b""[..], &[2, 0], &[1, 255]] {
        let bad = Entry { command: Some(Bytes::copy_from_slice(command)), ..entry(1, None) };
        assert!(matches!(machine.apply(bad).await, Err(MachineError::Damaged(_))), "{command:?}");
    }
    assert_eq!(machine.place(), None);
}

#[tokio::test]
async fn a_snapshot_travels_in_chunks_of_any_size_and_survives_a_crash_once_promoted() {
    let machine = reopened(&MemDisk::new());
    machine.apply(entry(1, Some(genesis()))).await.unwrap();
    machine.apply(entry(2, Some(put("a")))).await.unwrap();
    let view = machine.view().await.unwrap();
    machine.apply(entry(3, Some(put("b")))).await.unwrap();
    for bytes_max in [0, 1, 7, 1 << 20] {
        let disk = MemDisk::new();
        let other = reopened(&disk);
        let mut staged = other.stage().await.unwrap();
        let mut from = Bytes::new();
        while let Some(chunk) = view.chunk(&from, bytes_max).unwrap() {
            assert!(chunk.bytes.len() <= bytes_max.max(1));
            staged.write(chunk.bytes).await.unwrap();
            from = chunk.next;
        }
        other.promote(staged, Bytes::from_static(b"there")).await.unwrap();
        assert_eq!(other.durable_position(), 3);
        let after = reopened(&disk.crash_losing_all());
        assert_eq!(after.place().unwrap(), "there");
        let keys = after
            .look(|content| content.keys.list("", None, 9).map(|(k, _)| k.to_owned()).collect::<Vec<_>>());
        assert_eq!(keys, ["a"], "the view is of the moment it was taken");
        assert!(after.state().borrow().is_founded());
    }
    assert!(view.chunk(b"nowhere", 10).is_err());
    assert!(view.chunk(&u64::MAX.to_le_bytes(), 10).is_err());
}

#[tokio::test]
async fn a_damaged_snapshot_is_refused_and_changes_nothing() {
    let machine = reopened(&MemDisk::new());
    machine.apply(entry(1, Some(genesis()))).await.unwrap();
    let mut staged = machine.stage().await.unwrap();
    staged.write(Bytes::from_static(&[7; 40])).await.unwrap();
    let refused = machine.promote(staged, Bytes::new()).await;
    assert!(matches!(refused, Err(MachineError::Refused(_))));
    assert!(machine.state().borrow().is_founded());
    let mut staged = machine.stage().await.unwrap();
    let chunk = Bytes::from(vec![0; 1 << 20]);
    for _ in 0..64 {
        staged.write(chunk.clone()).await.unwrap();
    }
    assert!(matches!(staged.write(chunk).await, Err(MachineError::Refused(_))));
}

#[tokio::test]
async fn a_full_disk_is_told_as_such_and_nothing_is_lost() {
    let disk = MemDisk::new();
    let machine = reopened(&disk);
    machine.apply(entry(1, Some(genesis()))).await.unwrap();
    disk.set_capacity(8);
    assert!(matches!(machine.checkpoint().await, Err(MachineError::Full(_))));
    disk.set_capacity(1 << 20);
    machine.checkpoint().await.unwrap();
    assert_eq!(machine.durable_position(), 2);
}
