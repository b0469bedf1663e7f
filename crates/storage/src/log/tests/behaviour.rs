//! What callers may rely on while nothing breaks.

use std::sync::atomic::AtomicUsize;

use super::*;
use crate::disk::RealDisk;

#[test]
fn entries_votes_and_purges_are_there_after_closing_and_opening() {
    let disk = MemDisk::new();
    let log = open(&disk);
    let (a, b) = (log.group(7), log.group(9));
    append(&a, 0, b"zero").unwrap();
    append(&a, 1, b"").unwrap();
    append(&a, 2, b"two").unwrap();
    wait(|done| b.save_vote(Bytes::from_static(b"me"), done)).unwrap();
    wait(|done| a.purge(0, Bytes::from_static(b"id"), done)).unwrap();
    a.save_committed(Bytes::from_static(b"2"));
    log.close();
    assert!(matches!(append(&a, 3, b"late"), Err(LogError::Closed)));

    let log = open(&disk);
    assert_eq!(log.groups(), [7, 9]);
    let state = log.group(7).state();
    assert_eq!((state.first, state.last), (Some(1), Some(2)));
    assert_eq!(state.purged, Some((0, Bytes::from_static(b"id"))));
    assert_eq!(state.committed, Some(Bytes::from_static(b"2")));
    assert_eq!(log.group(9).state().vote, Some(Bytes::from_static(b"me")));
    let entries = log.group(7).read(0, 10, 1 << 20).unwrap();
    assert_eq!(entries, [(1, Bytes::new()), (2, Bytes::from_static(b"two"))]);
}

#[test]
fn entries_are_visible_before_they_are_durable() {
    let disk = MemDisk::new();
    let log = open(&disk);
    let group = log.group(1);
    append(&group, 1, b"first").unwrap();
    disk.sync_delay(Duration::from_millis(20));
    let (tell, told) = mpsc::channel();
    let reader = group.clone();
    let done: Done = Box::new(move |result| tell.send(result).unwrap());
    group.append(vec![(2, Bytes::from_static(b"x"))], done).unwrap();
    assert_eq!(reader.read(2, 3, 0).unwrap(), [(2, Bytes::from_static(b"x"))]);
    assert_eq!(reader.state().last, Some(2));
    told.recv().unwrap().unwrap();
}

#[test]
fn what_arrives_during_a_sync_shares_the_next_one_and_completes_in_order() {
    let disk = MemDisk::new();
    let log = open(&disk);
    let group = log.group(1);
    append(&group, 1, b"first").unwrap();
    settle(&log);
    let before = log.stats();
    let (release, released) = mpsc::channel::<()>();
    let released = Mutex::new(released);
    // Fails once the sender is gone, and so blocks only while the test wants it to.
    disk.on_sync(move |_| {
        let _ = lock(&released).recv();
    });
    let (tell, told) = mpsc::channel();
    for index in 2..102 {
        let tell = tell.clone();
        let done: Done = Box::new(move |result| tell.send((index, result)).unwrap());
        group.append(vec![(index, Bytes::from_static(b"small"))], done).unwrap();
    }
    drop(release);
    for index in 2..102 {
        let (told, result) = told.recv().unwrap();
        assert_eq!(told, index);
        result.unwrap();
    }
    // The last round counts itself after its callbacks; the next append comes after that.
    append(&group, 102, b"last").unwrap();
    let rounds = log.stats().syncs - before.syncs;
    assert!(
        rounds <= 3,
        "{rounds} syncs for 100 appends, of which all but the first came during one of them"
    );
    assert!(log.stats().appends >= before.appends + 100);
}

#[test]
fn entries_have_to_follow_one_another_also_after_truncating_and_purging() {
    let log = open(&MemDisk::new());
    let group = log.group(1);
    append(&group, 5, b"any first index will do").unwrap();
    let error = append(&group, 7, b"gap").unwrap_err();
    assert_eq!(error.to_string(), "the log of group 1 goes on at index 6, not at 7");
    let two = vec![(6, Bytes::new()), (8, Bytes::new())];
    assert!(matches!(group.append(two, ignore()), Err(LogError::OutOfOrder { expected: 7, .. })));
    append(&group, 6, b"").unwrap();
    append(&group, 7, b"").unwrap();
    wait(|done| group.truncate_after(Some(5), done)).unwrap();
    append(&group, 6, b"another").unwrap();
    wait(|done| group.purge(20, Bytes::new(), done)).unwrap();
    assert_eq!((group.state().first, group.state().last), (None, None));
    assert!(append(&group, 7, b"").is_err());
    append(&group, 21, b"after the purge").unwrap();
    wait(|done| group.purge(3, Bytes::new(), done)).unwrap();
    assert_eq!(group.state().purged, Some((20, Bytes::new())), "a purge does not go back");
    wait(|done| group.truncate_after(None, done)).unwrap();
    append(&group, 21, b"again").unwrap();
    assert_eq!(group.read(0, 100, 100).unwrap(), [(21, Bytes::from_static(b"again"))]);
}

#[test]
fn reads_stop_at_the_bytes_asked_for_but_bring_at_least_one() {
    let log = open(&MemDisk::new());
    let group = log.group(1);
    let payload = |index: u64| Bytes::from(vec![index as u8; 1000]);
    // More than the cache holds, so that the older ones come from the disk.
    for index in 1..=40 {
        append(&group, index, &payload(index)).unwrap();
    }
    assert_eq!(group.read(3, 9, 1).unwrap(), [(3, payload(3))]);
    let some = group.read(3, 40, 5000).unwrap();
    assert!((3..=5).contains(&some.len()), "{} entries", some.len());
    let all = group.read(0, u64::MAX, usize::MAX).unwrap();
    assert_eq!(all, (1..=40).map(|index| (index, payload(index))).collect::<Vec<_>>());
    assert!(group.read(41, 50, 1000).unwrap().is_empty());
}

#[test]
fn bytes_since_counts_what_a_replay_would_read() {
    let disk = MemDisk::new();
    let log = open(&disk);
    let group = log.group(1);
    for index in 1..=10 {
        append(&group, index, &[0; 52]).unwrap();
    }
    assert_eq!(group.bytes_since(0), 1000);
    assert_eq!(group.bytes_since(7), 300);
    assert_eq!(group.bytes_since(10), 0);
    wait(|done| group.truncate_after(Some(8), done)).unwrap();
    append(&group, 9, &[0; 52]).unwrap();
    wait(|done| group.purge(4, Bytes::new(), done)).unwrap();
    assert_eq!((group.bytes_since(4), group.bytes_since(8)), (500, 100));
    assert_eq!(log.stats().live_bytes, 500);
    log.close();
    assert_eq!(open(&disk).group(1).bytes_since(0), 500);
}

#[test]
fn a_failed_sync_stops_the_log_for_good_and_tells_everybody() {
    let disk = MemDisk::new();
    let log = open(&disk);
    let group = log.group(1);
    append(&group, 1, b"good").unwrap();
    settle(&log);
    disk.fail_sync_after(0);
    let error = append(&group, 2, b"bad").unwrap_err();
    assert!(matches!(error, LogError::Failed { doing: "sync", .. }), "{error}");
    let syncs = disk.sync_count();
    assert!(matches!(append(&group, 3, b""), Err(LogError::Failed { .. })));
    assert!(matches!(group.reserve(1), Err(LogError::Failed { .. })));
    assert!(log.health().unwrap_err().to_string().contains("sync memory/log-"));
    log.close();
    assert_eq!(disk.sync_count(), syncs, "a failed sync is never tried again");

    let log = open(&disk.killed());
    assert_eq!(log.group(1).state().last, Some(1));
}

#[test]
fn a_failed_sync_of_the_control_file_or_a_new_segment_loses_nothing() {
    for successes in 0..6 {
        let disk = MemDisk::new();
        let log = open(&disk);
        let group = log.group(1);
        append(&group, 1, b"good").unwrap();
        settle(&log);
        disk.fail_sync_after(successes);
        let mut acknowledged = 1;
        // Enough for the next segment to be begun and the one after it to be prepared.
        for index in 2..=60 {
            match append(&group, index, &[0; 1000]) {
                Ok(()) => acknowledged = index,
                Err(_) => break,
            }
        }
        assert!(acknowledged < 60);
        for image in [disk.crash_losing_all(), disk.killed(), disk.crash(successes), disk.clone()] {
            image.fail_sync_after(u64::MAX);
            let last = open(&image).group(1).state().last.unwrap();
            assert!(acknowledged <= last, "{acknowledged} acknowledged, {last} found");
        }
    }
}

#[test]
fn records_that_cannot_fit_a_segment_are_refused_and_the_largest_that_can_is_taken() {
    let disk = MemDisk::new();
    let log = open(&disk);
    let group = log.group(1);
    let max = small().record_bytes_max() as usize - RECORD_HEADER - ENTRY_PREFIX;
    assert!(matches!(append(&group, 1, &vec![1; max + 1]), Err(LogError::TooLarge { .. })));
    assert!(matches!(group.save_vote(vec![0; 513].into(), ignore()), Err(LogError::TooLarge { .. })));
    for index in 1..=5 {
        append(&group, index, &vec![index as u8; max]).unwrap();
    }
    let many = (6..30).map(|index| (index, Bytes::from(vec![index as u8; max / 3]))).collect();
    wait(|done| group.append(many, done)).unwrap();
    log.close();
    let entries = open(&disk).group(1).read(0, 100, usize::MAX).unwrap();
    assert_eq!(entries.len(), 29);
    assert!(entries.iter().all(|(index, payload)| payload.iter().all(|byte| u64::from(*byte) == *index)));
}

#[test]
fn there_is_a_limit_to_groups_and_it_is_said() {
    let log = open(&MemDisk::new());
    let max = small().groups_max() as u64;
    for id in 0..max {
        append(&log.group(id), 1, b"").unwrap();
    }
    let error = append(&log.group(max), 1, b"").unwrap_err();
    assert!(matches!(error, LogError::TooManyGroups { .. }), "{error}");
    append(&log.group(0), 2, b"others go on").unwrap();
}

#[test]
fn options_that_make_no_sense_are_refused() {
    for segment_bytes in [0, 4096, SEGMENT + 1, 4 << 30] {
        let options = LogOptions { segment_bytes, ..small() };
        let error = Log::open(Arc::new(MemDisk::new()), options).unwrap_err();
        assert!(error.to_string().starts_with("log.segment_bytes ("), "{error}");
    }
    LogOptions::default().check().unwrap();
    assert!(LogOptions::default().record_bytes_max() > 33 << 20, "a batch of 32 MiB has to fit");
}

#[test]
fn a_log_that_is_dropped_inside_its_own_callback_still_closes() {
    let disk = MemDisk::new();
    let log = open(&disk);
    let group = log.group(1);
    let (tell, told) = mpsc::channel();
    let inside = (log.clone(), group.clone());
    let done: Done = Box::new(move |_| {
        drop(inside);
        tell.send(()).unwrap();
    });
    group.append(vec![(1, Bytes::new())], done).unwrap();
    drop((log, group));
    told.recv().unwrap();
}

#[test]
fn many_threads_and_groups_share_the_log_of_a_real_directory() {
    let dir = tempfile::tempdir().unwrap();
    let open = || {
        let disk = Arc::new(RealDisk::open(&dir.path().join("log")).unwrap());
        Log::open(disk, LogOptions { segment_bytes: 256 << 10, ..small() }).unwrap()
    };
    let log = open();
    let acknowledged = Arc::new(AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for id in 1..=4 {
            let (group, acknowledged) = (log.group(id), acknowledged.clone());
            scope.spawn(move || {
                for index in 1..=100 {
                    let payload = Bytes::from(format!("group {id} entry {index}").repeat(20));
                    let acknowledged = acknowledged.clone();
                    let done: Done = Box::new(move |result| {
                        result.unwrap();
                        acknowledged.fetch_add(1, Ordering::Relaxed);
                    });
                    group.append(vec![(index, payload)], done).unwrap();
                }
            });
        }
    });
    log.close();
    assert_eq!(acknowledged.load(Ordering::Relaxed), 400);
    let report = Log::verify(&RealDisk::open(&dir.path().join("log")).unwrap()).unwrap();
    assert!(report.closed && report.cut.is_none(), "{report:?}");
    assert_eq!(report.groups.len(), 4);
    let log = open();
    for id in 1..=4 {
        let entries = log.group(id).read(0, 1000, usize::MAX).unwrap();
        assert_eq!(entries.len(), 100);
        assert!(
            entries.iter().all(|(index, payload)| {
                payload.starts_with(format!("group {id} entry {index}").as_bytes())
            })
        );
    }
}

#[test]
fn the_largest_number_is_no_index() {
    let disk = MemDisk::new();
    let log = open(&disk);
    let group = log.group(1);
    assert!(matches!(append(&group, u64::MAX, b"x"), Err(LogError::OutOfOrder { .. })));
    let purged = group.purge(u64::MAX, Bytes::new(), ignore());
    assert!(matches!(purged, Err(LogError::OutOfOrder { .. })));
    append(&group, u64::MAX - 1, b"x").unwrap();
    assert!(matches!(append(&group, u64::MAX, b"x"), Err(LogError::OutOfOrder { .. })));
    log.close();
    assert_eq!(open(&disk).group(1).state().last, Some(u64::MAX - 1));
}
