//! Many groups in one log.

use super::*;

const GROUPS: u64 = 256;

/// Large enough for the states of all groups, small enough to be filled often.
fn options() -> LogOptions {
    LogOptions { segment_bytes: 2 << 20, ..small() }
}

fn open(disk: &MemDisk) -> Log {
    Log::open(Arc::new(disk.clone()), options()).unwrap()
}

/// Appends an entry of 1000 bytes to each group; returns when all are durable.
fn append_round(log: &Log, groups: impl Iterator<Item = u64>, index: u64) {
    let (tell, told) = mpsc::channel();
    let mut asked = 0;
    for id in groups {
        let tell = tell.clone();
        let payload = Bytes::from(vec![id as u8; 1000]);
        log.group(id).append(vec![(index, payload)], Box::new(move |r| tell.send(r).unwrap())).unwrap();
        asked += 1;
    }
    for _ in 0..asked {
        told.recv().unwrap().unwrap();
    }
}

fn forget(log: &Log, id: u64) {
    wait(|done| log.group(id).forget(done)).unwrap();
}

#[test]
fn hundreds_of_groups_come_back_as_they_were_and_share_the_syncs() {
    let disk = MemDisk::new();
    let log = open(&disk);
    for id in 0..GROUPS {
        log.group(id).save_vote(Bytes::from(id.to_le_bytes().to_vec()), ignore()).unwrap();
    }
    for index in 0..20 {
        append_round(&log, 0..GROUPS, index);
    }
    assert!(log.stats().syncs < 2000, "{:?}", log.stats());
    for id in 0..GROUPS {
        wait(|done| log.group(id).purge(id % 20, Bytes::new(), done)).unwrap();
    }
    let before = contents(&log);
    assert_eq!(before.len() as u64, GROUPS);
    assert_eq!(contents(&open(&disk.crash_losing_all())), before);
    log.close();
    assert_eq!(contents(&open(&disk)), before);
}

#[test]
fn an_idle_group_keeps_its_segments_until_it_is_forgotten() {
    let disk = MemDisk::new();
    let log = open(&disk);
    append_round(&log, 0..GROUPS, 0);
    let grow = |from: u64| {
        for index in from..from + 10 {
            append_round(&log, 1..GROUPS, index);
        }
        for id in 1..GROUPS {
            wait(|done| log.group(id).purge(from + 9, Bytes::new(), done)).unwrap();
        }
    };
    grow(1);
    let held = log.stats().segments;
    assert!(2 < held, "{:?}", log.stats());
    forget(&log, 0);
    eventually("freeing", || log.stats().segments < held);
    assert_eq!(log.group(0).state(), GroupState::default());
    assert_eq!(log.groups().len() as u64, GROUPS - 1);
    let before = contents(&log);
    assert_eq!(contents(&open(&disk.crash_losing_all())), before, "it stays forgotten");
}

#[test]
fn a_forgotten_group_begins_anew_whatever_segment_that_falls_into() {
    let disk = MemDisk::new();
    let log = open(&disk);
    for round in 0..8u64 {
        let group = log.group(7);
        wait(|done| group.save_vote(Bytes::from(vec![round as u8]), done)).unwrap();
        // Entries start where they please, which they could not after others.
        for index in 100 * round..100 * round + 30 {
            append(&group, index, &vec![round as u8; 20_000]).unwrap();
        }
        let before = contents(&log);
        assert_eq!(contents(&open(&disk.crash_losing_all())), before, "round {round}");
        forget(&log, 7);
        assert!(contents(&open(&disk.crash_losing_all())).is_empty(), "round {round}");
    }
    // One that never wrote is forgotten already.
    forget(&log, 99);
    log.close();
    assert!(matches!(log.group(99).forget(ignore()), Err(LogError::Closed)));
}

#[test]
fn groups_that_come_and_go_do_not_use_up_the_room_for_groups() {
    let disk = MemDisk::new();
    let log = Log::open(Arc::new(disk.clone()), small()).unwrap();
    let max = small().groups_max() as u64;
    for id in 0..10 * max {
        append(&log.group(id), 1, b"x").unwrap();
        forget(&log, id);
    }
    for id in 0..max {
        append(&log.group(id), 1, b"x").unwrap();
    }
    assert!(matches!(append(&log.group(max), 1, b"x"), Err(LogError::TooManyGroups { .. })));
}

#[test]
fn damage_in_one_group_s_records_is_named_with_hundreds_of_groups() {
    let disk = MemDisk::new();
    let log = open(&disk);
    for index in 0..5 {
        append_round(&log, 0..GROUPS, index);
    }
    log.close();
    drop(log);
    let name = segment::segment_name(1);
    disk.flip_bit(&name, 8 * 500_000).unwrap();
    let error = Log::open(Arc::new(disk), options()).err().unwrap();
    assert!(matches!(&error, LogError::Corrupt { file, .. } if file.ends_with(&name)), "{error}");
}
