//! The log as its callers see it, on a disk that misbehaves.

mod behaviour;
mod crash;
mod damage;
mod groups;
mod pumped;
mod recycle;
mod space;

use std::collections::BTreeMap;
use std::sync::mpsc;
use std::time::Instant;

use super::*;
use crate::disk::MemDisk;

/// Small segments, so that a test sees many of them.
pub(super) const SEGMENT: u64 = 32 << 10;

/// Far longer than anything takes here, on however slow a machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn small() -> LogOptions {
    LogOptions { segment_bytes: SEGMENT, cache_bytes: 8 << 10, idle_mark: Duration::from_secs(600) }
}

fn open(disk: &MemDisk) -> Log {
    try_open(disk).unwrap()
}

fn try_open(disk: &MemDisk) -> Result<Log, LogError> {
    Log::open(Arc::new(disk.clone()), small())
}

/// Makes a call that takes a `Done` and waits for it.
fn wait(call: impl FnOnce(Done) -> Result<(), LogError>) -> Result<(), LogError> {
    let (tell, told) = mpsc::channel();
    call(Box::new(move |result| tell.send(result).unwrap()))?;
    told.recv().unwrap()
}

fn ignore() -> Done {
    Box::new(|_| ())
}

/// Waits, within bounds, for the keeper to have done something.
fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !check() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Waits until the keeper has prepared the next segment, so that only the writer syncs.
fn settle(log: &Log) {
    eventually("preparing", || lock(&log.handle.shared.queue).room.ready() > 0);
}

fn append(group: &GroupLog, index: u64, payload: &[u8]) -> Result<(), LogError> {
    wait(|done| group.append(vec![(index, Bytes::copy_from_slice(payload))], done))
}

/// A group's contents, without the hint.
type Contents = (Option<Bytes>, Option<(u64, Bytes)>, Vec<(u64, Bytes)>);

fn contents(log: &Log) -> BTreeMap<u64, Contents> {
    let groups = log.groups().into_iter().map(|id| {
        let group = log.group(id);
        let state = group.state();
        let entries = group.read(0, u64::MAX, usize::MAX).unwrap();
        assert_eq!(entries.first().map(|entry| entry.0), state.first);
        assert_eq!(entries.last().map(|entry| entry.0), state.last);
        (id, (state.vote, state.purged, entries))
    });
    groups.collect()
}

/// SplitMix64, so that a failing seed fails again.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn bytes(&mut self, len: u64) -> Bytes {
        (0..len).map(|_| self.next() as u8).collect()
    }
}

/// One random thing to do to a group, and to a model of it.
#[derive(Clone, Debug)]
enum Action {
    Append(u64, Bytes),
    Vote(Bytes),
    Truncate(Option<u64>),
    Purge(u64, Bytes),
}

impl Action {
    /// Something that makes sense for a group with these contents.
    fn draw(random: &mut Random, model: &Contents) -> Action {
        let (_, purged, entries) = model;
        let before = purged.as_ref().map(|(index, _)| *index);
        let last = entries.last().map(|(index, _)| *index).or(before);
        match (random.below(20), last) {
            (0 | 1, _) => {
                let len = random.below(40);
                Action::Vote(random.bytes(len))
            }
            (2, Some(last)) => {
                let back = random.below(4);
                let keep = last.saturating_sub(back);
                let none_left = before.is_some_and(|before| keep <= before) || last < back;
                Action::Truncate((!none_left).then_some(keep))
            }
            (3 | 4, Some(last)) => {
                let index = (last + random.below(3)).saturating_sub(random.below(9));
                Action::Purge(index, random.bytes(8))
            }
            (kind, _) => {
                let len = match kind {
                    5 => 5000 + random.below(12_000),
                    6..=8 => random.below(4000),
                    _ => random.below(200),
                };
                Action::Append(last.map_or(0, |last| last + 1), random.bytes(len))
            }
        }
    }

    fn apply(&self, model: &mut Contents) {
        let (vote, purged, entries) = model;
        match self {
            Action::Append(index, payload) => entries.push((*index, payload.clone())),
            Action::Vote(saved) => *vote = Some(saved.clone()),
            Action::Truncate(after) => {
                entries.retain(|(index, _)| after.is_some_and(|after| *index <= after))
            }
            Action::Purge(upto, log_id) => {
                if purged.as_ref().is_none_or(|(index, _)| index <= upto) {
                    *purged = Some((*upto, log_id.clone()));
                    entries.retain(|(index, _)| upto < index);
                }
            }
        }
    }

    fn submit(self, group: &GroupLog, done: Done) -> Result<(), LogError> {
        match self {
            Action::Append(index, payload) => group.append(vec![(index, payload)], done),
            Action::Vote(vote) => group.save_vote(vote, done),
            Action::Truncate(after) => group.truncate_after(after, done),
            Action::Purge(index, log_id) => group.purge(index, log_id, done),
        }
    }
}
