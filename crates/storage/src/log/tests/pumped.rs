//! The log without threads.

use std::sync::atomic::AtomicUsize;

use super::*;

fn open_pumped(disk: &MemDisk) -> (Log, Pump) {
    Log::open_pumped(Arc::new(disk.clone()), small()).unwrap()
}

/// Counts the callbacks that said yes, and those that said no.
#[derive(Clone, Default)]
struct Told(Arc<(AtomicUsize, AtomicUsize)>);

impl Told {
    fn done(&self) -> Done {
        let told = self.clone();
        Box::new(move |result| {
            let count = if result.is_ok() { &told.0.0 } else { &told.0.1 };
            count.fetch_add(1, Ordering::SeqCst);
        })
    }

    fn yes_and_no(&self) -> (usize, usize) {
        (self.0.0.load(Ordering::SeqCst), self.0.1.load(Ordering::SeqCst))
    }
}

#[test]
fn nothing_is_written_or_told_but_by_the_pump() {
    let disk = MemDisk::new();
    let (log, pump) = open_pumped(&disk);
    let woken = Arc::new(AtomicUsize::new(0));
    let count = woken.clone();
    pump.on_work(move || {
        count.fetch_add(1, Ordering::SeqCst);
    });
    assert!(!pump.round(), "there is nothing to do");
    let (told, before) = (Told::default(), woken.load(Ordering::SeqCst));
    let group = log.group(1);
    group.append(vec![(1, Bytes::from_static(b"a"))], told.done()).unwrap();
    group.append(vec![(2, Bytes::from_static(b"b"))], told.done()).unwrap();
    assert_eq!(woken.load(Ordering::SeqCst), before + 1, "once is enough");
    assert!(pump.write());
    assert!(pump.write(), "still to be synced");
    assert_eq!(told.yes_and_no(), (0, 0));
    assert!(contents(&open(&disk.crash_losing_all())).is_empty(), "written and not durable");
    // What arrives meanwhile goes into the next round.
    group.append(vec![(3, Bytes::from_static(b"c"))], told.done()).unwrap();
    pump.sync();
    assert_eq!(told.yes_and_no(), (2, 0));
    assert_eq!(contents(&open(&disk.crash_losing_all()))[&1].2.len(), 2);
    assert!(pump.round());
    assert_eq!(told.yes_and_no(), (3, 0));
    assert!(!pump.round());
}

#[test]
fn one_thread_fills_many_segments_without_waiting_for_another() {
    let disk = MemDisk::new();
    let (log, pump) = open_pumped(&disk);
    let (group, told) = (log.group(1), Told::default());
    // More than any prepared segment holds, before the pump gets a turn.
    for index in 0..50 {
        group.append(vec![(index, Bytes::from(vec![1; 9000]))], told.done()).unwrap();
    }
    while pump.round() {}
    assert_eq!(told.yes_and_no(), (50, 0));
    group.purge(48, Bytes::new(), told.done()).unwrap();
    while pump.round() {}
    assert!(log.stats().segments < 10, "{:?}", log.stats());
    drop(group.hold(10 * SEGMENT).unwrap());
    let before = contents(&log);
    log.close();
    assert!(pump.has_ended());
    assert!(Log::verify(&disk).unwrap().closed);
    assert_eq!(contents(&open(&disk)), before, "a log with threads goes on from it");
}

#[test]
fn a_full_disk_refuses_at_once_and_is_asked_again_the_next_time() {
    let disk = MemDisk::new();
    let (log, pump) = open_pumped(&disk);
    disk.set_capacity(4 * SEGMENT);
    let (group, told) = (log.group(1), Told::default());
    let mut index = 0;
    let refused = loop {
        match group.append(vec![(index, Bytes::from(vec![1; 9000]))], told.done()) {
            Ok(()) => index += 1,
            Err(error) => break error,
        }
        assert!(index < 100);
    };
    assert!(matches!(refused, LogError::Full { .. }), "{refused}");
    disk.set_capacity(100 * SEGMENT);
    group.append(vec![(index, Bytes::from(vec![1; 9000]))], told.done()).unwrap();
    while pump.round() {}
    assert_eq!(told.yes_and_no(), (index as usize + 1, 0));
}

#[test]
fn a_failed_sync_is_told_to_all_and_ends_the_pump() {
    let disk = MemDisk::new();
    let (log, pump) = open_pumped(&disk);
    pump.round();
    let (group, told) = (log.group(1), Told::default());
    group.append(vec![(1, Bytes::from_static(b"a"))], told.done()).unwrap();
    assert!(pump.write());
    group.append(vec![(2, Bytes::from_static(b"b"))], told.done()).unwrap();
    disk.fail_sync_after(0);
    pump.sync();
    assert_eq!(told.yes_and_no(), (0, 2));
    assert!(pump.has_ended() && log.health().is_err());
    assert!(matches!(append_now(&group, 3), Err(LogError::Failed { .. })));
    log.close();
}

fn append_now(group: &GroupLog, index: u64) -> Result<(), LogError> {
    group.append(vec![(index, Bytes::new())], ignore())
}

#[test]
fn a_callback_may_append_and_close() {
    let disk = MemDisk::new();
    let (log, pump) = open_pumped(&disk);
    let (inner, told) = (log.clone(), Told::default());
    let again = told.clone();
    let done: Done = Box::new(move |_| {
        inner.group(2).append(vec![(1, Bytes::from_static(b"b"))], again.done()).unwrap();
        inner.close();
    });
    log.group(1).append(vec![(1, Bytes::from_static(b"a"))], done).unwrap();
    for _ in 0..5 {
        pump.round();
    }
    assert!(pump.has_ended());
    assert_eq!(told.yes_and_no(), (1, 0), "accepted before the close, so it was written");
}

#[test]
fn dropping_the_log_closes_it_and_the_same_calls_give_the_same_bytes() {
    let run = || {
        let disk = MemDisk::new();
        let (log, pump) = open_pumped(&disk);
        let mut random = Random(5);
        let mut model = Contents::default();
        for round in 0..200 {
            let action = Action::draw(&mut random, &model);
            action.apply(&mut model);
            action.submit(&log.group(1), ignore()).unwrap();
            match round % 7 {
                0 => pump.mark_idle(),
                1 | 4 => drop(pump.round()),
                _ => {}
            }
        }
        drop(log);
        assert!(pump.has_ended());
        let mut names = disk.list().unwrap();
        names.sort();
        names.into_iter().map(|name| (disk.contents(&name).unwrap(), name)).collect::<Vec<_>>()
    };
    assert_eq!(run(), run());
}

#[test]
fn a_crash_between_write_and_sync_loses_nothing_that_was_told() {
    for seed in 0..300 {
        let disk = MemDisk::new();
        let (log, pump) = open_pumped(&disk);
        let mut random = Random(seed);
        let mut model = Contents::default();
        let mut steps = vec![model.clone()];
        for _ in 0..random.below(30) {
            for _ in 0..random.below(4) {
                let action = Action::draw(&mut random, &model);
                action.apply(&mut model);
                action.submit(&log.group(1), ignore()).unwrap();
                steps.push(model.clone());
            }
            pump.round();
        }
        let told = steps.len() - 1;
        for _ in 0..3 {
            let action = Action::draw(&mut random, &model);
            action.apply(&mut model);
            action.submit(&log.group(1), ignore()).unwrap();
            steps.push(model.clone());
        }
        pump.write();
        let (found, _pump) = open_pumped(&disk.crash(seed));
        let found = contents(&found).remove(&1).unwrap_or_default();
        assert!(steps[told..].contains(&found), "seed {seed}");
    }
}
