//! The drive fills up and empties again.

use super::*;
use crate::disk::Disk;

/// Asks until the answer is yes; the keeper asks a full disk only now and then.
fn until_there_is_room(group: &GroupLog, bytes: u64) {
    eventually("room coming back", || match group.reserve(bytes) {
        Ok(()) => true,
        Err(LogError::Full { .. }) => false,
        Err(error) => panic!("{error}"),
    });
}

fn fill(group: &GroupLog) -> u64 {
    let GroupState { last, purged, .. } = group.state();
    let mut index = last.or(purged.map(|(index, _)| index)).map_or(1, |last| last + 1);
    // Only between rounds is the room known to the byte.
    let between_rounds = || {
        let queue = lock(&group.handle.shared.queue);
        queue.durable_op == queue.next_op
    };
    while {
        eventually("finishing a round", between_rounds);
        group.reserve(1000).is_ok()
    } {
        append(group, index, &[1; 1000]).unwrap();
        index += 1;
        assert!(index < 10_000, "the disk never fills");
    }
    index
}

#[test]
fn a_full_disk_refuses_before_anything_is_written_and_recovers_when_space_returns() {
    let disk = MemDisk::new();
    disk.set_capacity(8192 + 3 * SEGMENT + 100);
    let log = open(&disk);
    let group = log.group(1);
    let next = fill(&group);
    let error = group.reserve(1000).unwrap_err();
    assert!(matches!(error, LogError::Full { needed: SEGMENT, free: 100 }), "{error}");
    assert_eq!(std::io::Error::from(error).kind(), std::io::ErrorKind::StorageFull);
    log.health().unwrap();
    // What Raft itself has to write still finds room, and reads go on.
    wait(|done| group.save_vote(Bytes::from_static(b"vote"), done)).unwrap();
    assert_eq!(group.read(1, next, usize::MAX).unwrap().len() as u64, next - 1);

    // Without asking first, an append is refused just as whole.
    let too_much = vec![(next, Bytes::from(vec![2; 9000])), (next + 1, Bytes::from(vec![2; 9000]))];
    let before = log.stats().live_bytes;
    assert!(matches!(group.append(too_much, ignore()), Err(LogError::Full { .. })));
    assert_eq!((group.state().last, log.stats().live_bytes), (Some(next - 1), before));

    disk.set_capacity(8192 + 5 * SEGMENT);
    until_there_is_room(&group, 1000);
    append(&group, next, b"goes on").unwrap();
    log.close();
    assert_eq!(open(&disk).group(1).state().last, Some(next));
}

#[test]
fn purging_makes_room_on_a_full_disk() {
    let disk = MemDisk::new();
    disk.set_capacity(8192 + 4 * SEGMENT);
    let log = open(&disk);
    let group = log.group(1);
    for _ in 0..5 {
        let next = fill(&group);
        wait(|done| group.purge(next - 1, Bytes::new(), done)).unwrap();
        until_there_is_room(&group, 1000);
    }
}

#[test]
fn held_room_is_kept_from_others_until_it_is_given_back() {
    let disk = MemDisk::new();
    disk.set_capacity(8192 + 2 * SEGMENT);
    let log = open(&disk);
    let group = log.group(1);
    append(&group, 1, &[0; 8000]).unwrap();
    let held = group.hold(14_000).unwrap();
    assert!(matches!(group.reserve(12_000), Err(LogError::Full { .. })));
    assert!(matches!(group.hold(12_000), Err(LogError::Full { .. })));
    drop(held);
    until_there_is_room(&group, 12_000);
    append(&group, 2, &[0; 12_000]).unwrap();
}

#[test]
fn a_log_opens_and_can_be_read_on_a_full_disk() {
    let disk = MemDisk::new();
    let log = open(&disk);
    append(&log.group(1), 1, b"kept").unwrap();
    log.close();
    disk.set_capacity(0);
    let log = open(&disk);
    assert_eq!(log.group(1).read(1, 2, 100).unwrap().len(), 1);
    append(&log.group(1), 2, b"there is room in what is allocated").unwrap();
}

#[test]
fn a_log_cannot_begin_on_a_full_disk_and_can_when_there_is_space() {
    let disk = MemDisk::new();
    disk.set_capacity(10_000);
    let error = try_open(&disk).unwrap_err();
    assert!(matches!(error, LogError::Full { .. }), "{error}");
    assert_eq!(disk.list().unwrap(), ["log.control"]);
    disk.set_capacity(1 << 20);
    append(&open(&disk).group(1), 1, b"").unwrap();
}
