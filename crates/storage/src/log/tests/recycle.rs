//! Segments come back again and again; what was in them does not.

use super::*;
use crate::disk::Disk;

#[test]
fn segments_are_reused_once_every_group_has_purged_them() {
    let disk = MemDisk::new();
    let log = open(&disk);
    let (busy, quiet) = (log.group(1), log.group(2));
    append(&quiet, 1, b"keeps the first segment").unwrap();
    wait(|done| quiet.save_vote(Bytes::from_static(b"once, long ago"), done)).unwrap();
    for index in 1..=100 {
        append(&busy, index, &[7; 2000]).unwrap();
    }
    let full = log.stats();
    assert!(full.segments > 6, "{full:?}");
    wait(|done| busy.purge(100, Bytes::from_static(b"busy"), done)).unwrap();
    append(&busy, 101, b"").unwrap();
    assert!(log.stats().segments >= full.segments, "the quiet group still needs the first segment");

    wait(|done| quiet.purge(1, Bytes::from_static(b"quiet"), done)).unwrap();
    // The one with entry 101, and one or two prepared.
    eventually("freeing", || log.stats().segments <= 3);
    eventually("deleting", || disk.list().unwrap().len() <= 3 + keeper::SPARES_MAX + 1);
    log.close();
    let log = open(&disk);
    assert_eq!(log.group(2).state().vote, Some(Bytes::from_static(b"once, long ago")));
    assert_eq!(log.group(2).state().purged, Some((1, Bytes::from_static(b"quiet"))));
    assert_eq!(log.group(1).state().last, Some(101));
}

#[test]
fn segments_stay_until_the_purge_that_frees_them_is_durable() {
    let disk = MemDisk::new();
    let log = open(&disk);
    let group = log.group(1);
    for index in 1..=100 {
        append(&group, index, &[7; 2000]).unwrap();
    }
    settle(&log);
    let before = log.stats().segments;
    let (release, released) = mpsc::channel::<()>();
    let released = Mutex::new(released);
    let inside = group.clone();
    let block = disk.clone();
    // Frees nothing, but has the keeper look, just when the other purge is in memory only.
    let done: Done = Box::new(move |_| {
        block.on_sync(move |_| {
            if std::thread::current().name() == Some("log-writer") {
                // Fails once the sender is gone, and so blocks only while the test wants it to.
                let _ = lock(&released).recv();
            }
        });
        inside.purge(100, Bytes::new(), ignore()).unwrap();
    });
    group.purge(1, Bytes::new(), done).unwrap();
    eventually("queueing", || group.state().last.is_none());
    std::thread::sleep(Duration::from_millis(40));
    assert!(before <= log.stats().segments);
    assert_eq!(open(&disk.crash_losing_all()).group(1).state().last, Some(100));
    drop(release);
    eventually("freeing", || log.stats().segments < before);
}

#[test]
fn data_survives_many_rounds_of_recycling_truncating_and_crashing() {
    for seed in 1..=3 {
        let mut disk = MemDisk::new();
        let mut random = Random(seed);
        let mut models: BTreeMap<u64, Contents> = BTreeMap::new();
        for round in 0..12 {
            let log = open(&disk);
            assert_eq!(contents(&log), models, "seed {seed}, round {round}");
            for _ in 0..60 {
                let id = 1 + random.below(3);
                let model = models.entry(id).or_default();
                let action = Action::draw(&mut random, model);
                action.apply(model);
                action.submit(&log.group(id), ignore()).unwrap();
            }
            let purge_id = 1 + random.below(3);
            for (id, model) in &mut models {
                let last = model.2.last().map(|(index, _)| *index);
                if let Some(last) = last.filter(|_| *id == purge_id || round % 3 == 0) {
                    let action = Action::Purge(last.saturating_sub(2), Bytes::from_static(b"p"));
                    action.apply(model);
                    action.submit(&log.group(*id), ignore()).unwrap();
                }
            }
            wait(|done| log.group(1).save_vote(Bytes::from_static(b"v"), done)).unwrap();
            models.entry(1).or_default().0 = Some(Bytes::from_static(b"v"));
            if round % 2 == 0 {
                log.close();
            }
            disk = disk.crash(seed * 100 + round);
            let files = disk.list().unwrap().len();
            assert!(files < 40, "seed {seed}, round {round}: {files} files");
        }
        let newest = Log::verify(&disk).unwrap().segments.last().unwrap().generation;
        assert!(newest > 20, "seed {seed}: only {newest} generations");
    }
}

#[test]
fn purging_while_others_read_gives_entries_or_nothing_but_never_rubbish() {
    let log = open(&MemDisk::new());
    let group = log.group(1);
    let payload = |index: u64| Bytes::from(index.to_le_bytes().repeat(100));
    std::thread::scope(|scope| {
        let reader = group.clone();
        let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let stop = done.clone();
        scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let first = reader.state().first.unwrap_or(0);
                for (index, found) in reader.read(first, first + 30, 20_000).unwrap() {
                    assert_eq!(found, payload(index));
                }
            }
        });
        for index in 1..=1500 {
            group.append(vec![(index, payload(index))], ignore()).unwrap();
            if index % 50 == 0 {
                wait(|done| group.purge(index - 45, Bytes::new(), done)).unwrap();
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    eventually("freeing", || log.stats().segments <= 5);
}

#[test]
fn segments_may_have_another_size_after_a_restart() {
    let disk = MemDisk::new();
    let mut expected = Vec::new();
    for (round, segment_bytes) in [SEGMENT, 4 * SEGMENT, 2 * SEGMENT].into_iter().enumerate() {
        let options = LogOptions { segment_bytes, ..small() };
        let max = options.record_bytes_max() as usize - RECORD_HEADER - ENTRY_PREFIX;
        let log = Log::open(Arc::new(disk.clone()), options).unwrap();
        let group = log.group(1);
        for number in 0..4 {
            let index = round as u64 * 4 + number;
            let payload = Bytes::from(vec![index as u8; max]);
            append(&group, index, &payload).unwrap();
            expected.push((index, payload));
        }
    }
    assert_eq!(open(&disk).group(1).read(0, 100, usize::MAX).unwrap(), expected);
}

#[test]
fn a_log_opened_many_times_without_purging_does_not_grow() {
    let disk = MemDisk::new();
    for index in 0..30 {
        let log = open(&disk);
        append(&log.group(1), index, b"one more start").unwrap();
        if index % 2 == 0 {
            log.close();
        }
    }
    assert!(Log::verify(&disk).unwrap().segments.len() <= 2);
}
