//! The durable log, opened on whatever disk the fuzzer describes.

use crate::log_image::{SEGMENT_BYTES, build};
use bytes::Bytes;
use skein_storage::disk::{Disk, MemDisk};
use skein_storage::log::{Log, LogError, LogOptions, LogReport};
use std::collections::BTreeMap;
use std::sync::{Arc, mpsc};
use std::time::Duration;

fn options() -> LogOptions {
    LogOptions { segment_bytes: SEGMENT_BYTES, cache_bytes: 4096, idle_mark: Duration::from_secs(600) }
}

/// Looking at the log changes nothing, and opening it comes to the same verdict. A log that opens has all the entries it
/// says it has, and takes another that survives a crash.
pub fn log(data: &[u8]) {
    let Ok(disk) = build(data) else { return };
    let before = contents(&disk);
    let verified = Log::verify(&disk);
    assert_eq!(contents(&disk), before, "a look at the log changed it");
    match (verified, Log::open(Arc::new(disk.clone()), options())) {
        (Ok(report), Ok(log)) => goes_on(&disk, &report, log),
        (Err(verify), Err(open)) => assert_eq!(verify.to_string(), open.to_string()),
        // Whether there is room for all groups depends on the options, which a look does not have.
        (Ok(_), Err(LogError::TooManyGroups { .. })) => {}
        (verified, opened) => panic!("a look gives {verified:?}, opening {opened:?}"),
    }
}

fn contents(disk: &MemDisk) -> BTreeMap<String, Vec<u8>> {
    let names = disk.list().unwrap_or_default();
    names.into_iter().map(|name| (name.clone(), disk.contents(&name).unwrap_or_default())).collect()
}

/// A group's entries with their indexes.
type Entries = Vec<(u64, Bytes)>;

fn entries(log: &Log) -> BTreeMap<u64, Entries> {
    let groups = log.groups().into_iter().map(|id| {
        let group = log.group(id);
        let state = group.state();
        let entries = match group.read(0, u64::MAX, usize::MAX) {
            Ok(entries) => entries,
            Err(error) => panic!("group {id}: {error}"),
        };
        let found = (entries.first().map(|entry| entry.0), entries.last().map(|entry| entry.0));
        assert_eq!(found, (state.first, state.last), "group {id}");
        assert!(entries.windows(2).all(|pair| pair[0].0 + 1 == pair[1].0), "group {id} has a gap");
        (id, entries)
    });
    groups.collect()
}

fn goes_on(disk: &MemDisk, report: &LogReport, log: Log) {
    let reported: Vec<_> = report.groups.iter().map(|group| (group.id, group.first, group.last)).collect();
    let mut expected = entries(&log);
    let spans = |entries: &BTreeMap<u64, Entries>| -> Vec<_> {
        let span = |list: &Entries| (list.first().map(|e| e.0), list.last().map(|e| e.0));
        entries.iter().map(|(id, list)| (*id, span(list).0, span(list).1)).collect()
    };
    assert_eq!(spans(&expected), reported);

    let id = reported.first().map_or(1, |group| group.0);
    let group = log.group(id);
    let state = group.state();
    let last = state.last.or(state.purged.map(|(index, _)| index)).unwrap_or(0);
    if last == u64::MAX - 1 {
        // The largest number is no index, so this group is full.
        return;
    }
    let payload = Bytes::from_static(b"one more");
    let (tell, told) = mpsc::channel();
    let done = Box::new(move |result| drop(tell.send(result)));
    match group.append(vec![(last + 1, payload.clone())], done) {
        Ok(()) => assert!(matches!(told.recv(), Ok(Ok(()))), "the append was accepted and then failed"),
        Err(error) => panic!("the log opened and refuses entry {} of group {id}: {error}", last + 1),
    }
    expected.entry(id).or_default().push((last + 1, payload));
    assert_eq!(entries(&log), expected);
    let crashed = disk.crash_losing_all();
    log.close();
    if report.closed {
        // What follows a log that says it was closed is not searched, for the sake of a quick start, and no log leaves
        // anything there. Whoever put records there may find them taken for what follows.
        return;
    }
    for (disk, how) in [(crashed, "after a crash"), (disk.killed(), "after a close")] {
        match Log::open(Arc::new(disk), options()) {
            Ok(log) => assert_eq!(entries(&log), expected, "{how}"),
            Err(error) => panic!("{how}: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So that the fuzzer starts from logs and not only from rubbish.
    #[test]
    fn the_seeds_are_the_logs_that_their_names_say() {
        let report = |seed: &[u8]| Log::verify(&build(seed).unwrap()).map_err(|error| error.to_string());
        let shape =
            |seed| report(seed).map(|log| (log.segments.len(), log.records, log.closed, log.cut.is_some()));
        assert_eq!(shape(include_bytes!("../seeds/log/one-segment")), Ok((1, 7, false, false)));
        assert_eq!(shape(include_bytes!("../seeds/log/two-segments")), Ok((2, 8, false, false)));
        assert_eq!(shape(include_bytes!("../seeds/log/closed")), Ok((1, 3, true, false)));
        assert_eq!(shape(include_bytes!("../seeds/log/torn-tail")), Ok((1, 1, false, true)));
        assert_eq!(shape(include_bytes!("../seeds/log/two-slots")), Ok((1, 2, false, false)));
        assert_eq!(shape(include_bytes!("../seeds/log/recycled")), Ok((1, 2, false, false)));
        for (seed, why) in [
            (&include_bytes!("../seeds/log/no-control")[..], "log.control is missing"),
            (include_bytes!("../seeds/log/wide-span"), "expected a log with entry 1 of group 1"),
            (include_bytes!("../seeds/log/last-numbers"), "expected the numbers of a log"),
            (include_bytes!("../seeds/log/no-opening-states"), "expected the state of every group"),
        ] {
            let error = report(seed).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
