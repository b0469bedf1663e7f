//! The machine stops at every moment a sync is asked for, and keeps any part of what was not synced.

use std::sync::atomic::AtomicUsize;

use super::*;
use crate::disk::Disk;

/// An image, and how many actions had been acknowledged when it was taken.
type Image = (MemDisk, usize);

/// Everything the log held after each action, from the first (nothing) to the last.
type History = Vec<BTreeMap<u64, Contents>>;

/// Performs `count` random actions and cuts an image at every sync.
fn run(seed: u64, count: usize) -> (History, Vec<Image>, MemDisk) {
    let disk = MemDisk::new();
    let mut random = Random(seed);
    let acknowledged = Arc::new(AtomicUsize::new(0));
    let images: Arc<Mutex<Vec<Image>>> = Arc::default();
    let mut history: History = vec![BTreeMap::new()];
    let log = open(&disk);
    {
        let (acknowledged, images) = (acknowledged.clone(), images.clone());
        let crashes = AtomicU64::new(seed);
        disk.on_sync(move |disk| {
            // Counted first: what is acknowledged while the image is made does no harm.
            let before = acknowledged.load(Ordering::SeqCst);
            let seed = crashes.fetch_add(1, Ordering::Relaxed);
            let image = match seed % 4 {
                0 => disk.crash_losing_all(),
                1 => disk.killed(),
                _ => disk.crash(seed),
            };
            lock(&images).push((image, before));
        });
    }
    let groups: Vec<GroupLog> = (1..=3).map(|id| log.group(id)).collect();
    for number in 1..=count {
        let group = &groups[random.below(3) as usize];
        let mut model = history[number - 1].clone();
        let contents = model.entry(group.id()).or_default();
        let action = Action::draw(&mut random, contents);
        action.apply(contents);
        history.push(model);
        let acknowledged = acknowledged.clone();
        let count_it = move |result: Result<(), LogError>| {
            result.unwrap();
            acknowledged.store(number, Ordering::SeqCst);
        };
        if random.below(3) == 0 {
            wait(|done| {
                let both: Done = Box::new(move |result| {
                    count_it(result.clone());
                    done(result);
                });
                action.submit(group, both)
            })
            .unwrap();
        } else {
            action.submit(group, Box::new(count_it)).unwrap();
        }
    }
    log.close();
    assert_eq!(contents(&log), history[count], "seed {seed}: before any crash");
    let images = std::mem::take(&mut *lock(&images));
    (history, images, disk)
}

/// Which action the log ends with; panics when it holds something that never was.
fn position(found: &BTreeMap<u64, Contents>, history: &History, from: usize, what: &str) -> usize {
    let position = history[from..].iter().position(|state| state == found);
    position.unwrap_or_else(|| {
        let any = history.iter().position(|state| state == found);
        panic!("{what}: acknowledged through {from}, found {any:?}")
    }) + from
}

fn every_crash_keeps_what_was_acknowledged(seed: u64, count: usize) {
    let (history, images, _) = run(seed, count);
    assert!(images.len() > count / 20, "seed {seed}: only {} syncs", images.len());
    for (number, (image, acknowledged)) in images.into_iter().enumerate() {
        let what = format!("seed {seed}, sync {number}");
        let log = try_open(&image).unwrap_or_else(|error| panic!("{what}: {error}"));
        let found = contents(&log);
        let end = position(&found, &history, acknowledged, &what);

        // Going on from there, and crashing again, loses nothing and brings nothing back.
        let group = log.group(2);
        let next = group.state().last.or(group.state().purged.map(|(index, _)| index));
        append(&group, next.map_or(0, |next| next + 1), b"after the crash").unwrap();
        let after = contents(&log);
        drop(group);
        let again = open(&image.crash(number as u64));
        assert_eq!(contents(&again), after, "{what}: crashed again after action {end}");
        drop(log);
        assert_eq!(contents(&open(&image)), after, "{what}: closed after action {end}");
    }
}

#[test]
fn no_crash_loses_what_was_acknowledged_or_invents_what_was_not() {
    for seed in 1..=6 {
        every_crash_keeps_what_was_acknowledged(seed, 120);
    }
}

#[test]
fn crashing_again_and_again_right_after_opening_changes_nothing() {
    let (history, images, _) = run(77, 60);
    for (number, (image, acknowledged)) in images.into_iter().enumerate().step_by(5) {
        let mut image = image;
        let mut first = None;
        for round in 0..4 {
            let log = open(&image);
            let found = contents(&log);
            position(&found, &history, acknowledged, "opened again");
            let before = first.get_or_insert(found.clone());
            assert_eq!(&found, before, "sync {number}, round {round}");
            image = image.crash(round);
        }
    }
}

/// Three acknowledged entries, then one that is written and not synced, of which the middle is lost.
#[test]
fn a_torn_tail_with_a_valid_record_behind_the_hole_is_cut_and_never_comes_back() {
    let disk = MemDisk::new();
    let image: Arc<Mutex<Option<MemDisk>>> = Arc::default();
    let log = open(&disk);
    let group = log.group(1);
    append(&group, 1, &[1; 3]).unwrap();
    settle(&log);
    {
        let image = image.clone();
        disk.on_sync(move |disk| {
            lock(&image).get_or_insert_with(|| disk.killed());
        });
    }
    let entries = vec![(2, Bytes::from(vec![2; 700])), (3, Bytes::from(vec![3; 700]))];
    wait(|done| group.append(entries, done)).unwrap();
    let image = lock(&image).take().unwrap();
    let name = "log-0000000000000001.segment";
    let at = Log::verify(&image).unwrap().segments[0].used - 2 * record::record_bytes(708);
    image.flip_bit(name, (at + 100) * 8).unwrap();

    let report = Log::verify(&image).unwrap();
    let cut = report.cut.unwrap();
    assert_eq!((cut.offset, cut.records), (at, 1), "{cut:?}");
    let log = open(&image);
    let group = log.group(1);
    assert_eq!(group.state().last, Some(1));
    // Exactly as long as the lost one: what follows it on disk is where the third entry was.
    append(&group, 2, &[9; 700]).unwrap();
    let image = image.killed();
    drop((log, group));
    let entries = open(&image).group(1).read(0, 9, 10_000).unwrap();
    assert_eq!(entries, [(1, Bytes::from(vec![1; 3])), (2, Bytes::from(vec![9; 700]))]);
}

#[test]
fn a_tail_that_was_only_in_memory_is_written_again_before_it_is_built_upon() {
    let disk = MemDisk::new();
    let log = open(&disk);
    let group = log.group(1);
    append(&group, 1, b"durable").unwrap();
    settle(&log);
    disk.fail_sync_after(0);
    // As after a failed sync: the page looks clean, and only memory has it.
    append(&group, 2, b"not durable").unwrap_err();
    drop((log, group));
    disk.fail_sync_after(u64::MAX);
    let log = open(&disk);
    assert_eq!(log.group(1).state().last, Some(2));
    let after_power_loss = open(&disk.crash_losing_all());
    assert_eq!(after_power_loss.group(1).state().last, Some(2));
}

/// Votes are only in the state at the start of the second segment once the first has been dropped.
#[test]
fn a_segment_whose_opening_state_was_torn_is_begun_again() {
    let disk = MemDisk::new();
    let log = open(&disk);
    let vote = |id: u64| Bytes::from(vec![id as u8; 300]);
    for id in 1..=4 {
        wait(|done| log.group(id).save_vote(vote(id), done)).unwrap();
    }
    let image: Arc<Mutex<Option<MemDisk>>> = Arc::default();
    {
        let image = image.clone();
        disk.on_sync(move |disk| {
            let second = disk.contents("log-0000000000000002.segment").unwrap_or_default();
            if second.get(SEGMENT_HEADER as usize + 8).is_some_and(|byte| *byte != 0) {
                lock(&image).get_or_insert_with(|| disk.killed());
            }
        });
    }
    let mut index = 0;
    while lock(&image).is_none() {
        index += 1;
        append(&log.group(1), index, &[1; 3000]).unwrap();
        assert!(index < 100, "the second segment is never begun");
    }
    let image = lock(&image).take().unwrap();
    // Of its four states the first two reached the disk.
    let lost = SEGMENT_HEADER + 2 * 512 + 256;
    let second = image.open("log-0000000000000002.segment").unwrap();
    second.write_at(&vec![0; (SEGMENT - lost) as usize], lost).unwrap();
    let before = Log::verify(&image).unwrap();
    assert_eq!(before.segments[1].records, 0, "{before:?}");

    let log = open(&image);
    let last = log.group(1).state().last.unwrap();
    assert_eq!(last, index - 1);
    append(&log.group(1), index, &[2; 100]).unwrap();
    wait(|done| log.group(1).purge(index - 1, Bytes::new(), done)).unwrap();
    eventually("freeing", || Log::verify(&image.killed()).unwrap().segments[0].generation == 2);
    let log = open(&image.crash_losing_all());
    for id in 1..=4 {
        assert_eq!(log.group(id).state().vote, Some(vote(id)), "group {id}");
    }
}
