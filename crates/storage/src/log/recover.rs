//! Reading a log that nobody writes to: what is in it, where it ends, and whether it is whole.
//!
//! The records are walked in sequence, from segment to segment. Where the walk stops is either the end, or
//! a torn tail (the last writes before a crash, of which the disk kept any part), or damage. Marks tell: if
//! any valid record after that place, or the control file, says that the missing record was durable once,
//! it is damage, and the log refuses to open. Otherwise nobody was ever told that the rest was written.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::control::{self, Control, Found};
use super::error::LogError;
use super::group::{CACHED_OVERHEAD, GroupMemory};
use super::record::{
    ALIGN, Body, COUNT_MAX, Damage, Head, RECORD_HEADER, decode, padded, peek_length, peek_sequence,
};
use super::segment::{SEGMENT_HEADER, Segment, parse_segment_name, segment_name};
use crate::disk::Disk;

/// What a stopped log holds.
pub(super) struct Scan {
    pub control: Control,
    /// Of the control file's newest slot.
    pub counter: u64,
    /// A slot of the control file is damaged; the other one was good enough.
    pub control_damage: Option<LogError>,
    /// The segments in use, generations without gaps, oldest first.
    pub segments: Vec<Walked>,
    /// Segment files that nothing needs.
    pub unused: Vec<String>,
    pub groups: BTreeMap<u64, GroupMemory>,
    /// The last record of the log; 0 when there is none.
    pub last_sequence: u64,
    /// Whether that record is a mark which covers all others.
    pub ends_in_mark: bool,
    /// Which of `segments` the next record goes to, and where. `None` only while there is no segment.
    pub tail: Option<Tail>,
    /// Valid records after the tail that nobody was told about: to be erased before going on.
    pub stale: Vec<Stale>,
    /// Payloads of the newest entries: group, index, operation, payload.
    pub recent: VecDeque<(u64, u64, u64, Bytes)>,
}

/// One segment and what the walk found in it.
pub(super) struct Walked {
    pub segment: Arc<Segment>,
    /// The sequence of its first record; `None` when it has none.
    pub first_sequence: Option<u64>,
    pub records: u64,
    /// Where its records end, in bytes.
    pub end: u64,
}

/// Where a log goes on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tail {
    pub segment: usize,
    pub at: u64,
    /// Records from here to `at` were perhaps never synced.
    pub uncovered_from: u64,
}

/// A record that must not be found again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stale {
    pub segment: usize,
    pub at: u64,
    pub mark: u64,
}

/// Walks the log on `disk` without changing anything; `None` when there is none. Payloads of the newest
/// entries are kept, up to `cache_bytes`.
pub(super) fn scan(disk: &dyn Disk, cache_bytes: usize) -> Result<Option<Scan>, LogError> {
    let generations = generations(disk)?;
    let (control, counter, control_damage) = match control::read(disk)? {
        Found::Control { control, counter, other_damaged } => (control, counter, other_damaged),
        Found::Nothing if generations.is_empty() => return Ok(None),
        Found::Nothing => {
            return Err(LogError::Missing {
                file: disk.describe(control::CONTROL_NAME),
                why: format!("there are {} log segments beside it", generations.len()),
            });
        }
    };
    let segments = open_segments(disk, &control, control_damage.is_some(), &generations)?;
    let used: BTreeSet<u64> = segments.iter().map(|segment| segment.generation).collect();
    let unused = generations.difference(&used).copied().map(segment_name).collect();
    let expected = match segments.first() {
        // An old slot of the control file may name a segment that was dropped since.
        Some(segment) if segment.generation != control.first => None,
        _ => Some(control.first_sequence),
    };
    let walk = Walk {
        disk,
        control,
        trust_closed: control.closed && control_damage.is_none(),
        cache_bytes,
        expected: expected.unwrap_or(control.first_sequence),
        any_first: expected.is_none(),
        covered: control.durable,
        segments: segments.into_iter().map(Walked::new).collect(),
        groups: BTreeMap::new(),
        recent: VecDeque::new(),
        recent_bytes: 0,
        uncovered: VecDeque::new(),
        ends_in_mark: false,
    };
    let mut scan = walk.run()?;
    scan.counter = counter;
    scan.control_damage = control_damage;
    scan.unused = unused;
    Ok(Some(scan))
}

fn generations(disk: &dyn Disk) -> Result<BTreeSet<u64>, LogError> {
    let names = disk.list().map_err(LogError::io("list", disk.describe("")))?;
    let generations = names.iter().filter_map(|name| parse_segment_name(name));
    Ok(generations.filter(|generation| *generation <= COUNT_MAX).collect())
}

/// The segments that have to exist, and those prepared since the control file was last written.
fn open_segments(
    disk: &dyn Disk,
    control: &Control,
    control_is_old: bool,
    generations: &BTreeSet<u64>,
) -> Result<Vec<Arc<Segment>>, LogError> {
    let mut first = control.first;
    if control_is_old {
        // Of the segments dropped since, some are removed and some wait to be used again: what is in use is the
        // unbroken row up to `last`. That nothing is missing before it is checked by what it holds.
        let row = (first..control.last).rev().take_while(|generation| generations.contains(generation));
        first = row.last().unwrap_or(control.last.max(first));
    }
    let mut segments = Vec::new();
    for generation in first..=control.last {
        if !generations.contains(&generation) {
            return Err(LogError::Missing {
                file: disk.describe(&segment_name(generation)),
                why: format!("the log is in the segments {first} to {}", control.last),
            });
        }
        segments.push(Arc::new(Segment::open(disk, control.salt, generation)?));
    }
    for generation in first.max(control.last + 1).. {
        if !generations.contains(&generation) {
            break;
        }
        match Segment::open(disk, control.salt, generation) {
            Ok(segment) => segments.push(Arc::new(segment)),
            // Its preparation was cut short, so nothing was ever written to it.
            Err(LogError::Corrupt { .. }) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(segments)
}

impl Walked {
    fn new(segment: Arc<Segment>) -> Walked {
        Walked { segment, first_sequence: None, records: 0, end: SEGMENT_HEADER }
    }
}

struct Walk<'a> {
    disk: &'a dyn Disk,
    control: Control,
    trust_closed: bool,
    cache_bytes: usize,
    /// The sequence of the next record.
    expected: u64,
    /// The first record may have any sequence.
    any_first: bool,
    /// The largest sequence that a record so far, or the control file, says was durable.
    covered: u64,
    segments: Vec<Walked>,
    groups: BTreeMap<u64, GroupMemory>,
    recent: VecDeque<(u64, u64, u64, Bytes)>,
    recent_bytes: usize,
    /// Sequence and place of the records in the present segment that are not covered so far.
    uncovered: VecDeque<(u64, u64)>,
    ends_in_mark: bool,
}

/// How the walk through one segment ended.
enum Stop {
    /// At the record that sends us to the next segment.
    End,
    /// At something that is not the next record.
    Hole { at: u64, found: String },
}

impl Walk<'_> {
    fn run(mut self) -> Result<Scan, LogError> {
        let mut hole = None;
        for at in 0..self.segments.len() {
            if let Stop::Hole { at: offset, found } = self.walk_segment(at)? {
                hole = Some((at, offset, found));
                break;
            }
        }
        let (tail, stale) = match hole {
            Some((segment, at, found)) => {
                let (tail, stale) = self.judge(segment, at, found)?;
                (Some(tail), stale)
            }
            None if self.segments.is_empty() && self.covered == 0 => (None, Vec::new()),
            // The last segment says that there is another, or the control file says so.
            None => {
                let last = self.segments.last().map_or(self.control.last, |last| last.segment.generation);
                return Err(LogError::Missing {
                    file: self.disk.describe(&segment_name(last + 1)),
                    why: format!("the log goes on after record {}", self.expected - 1),
                });
            }
        };
        self.check_whole()?;
        Ok(Scan {
            control: self.control,
            counter: 0,
            control_damage: None,
            segments: self.segments,
            unused: Vec::new(),
            groups: self.groups,
            last_sequence: self.expected - 1,
            ends_in_mark: self.ends_in_mark,
            tail,
            stale,
            recent: self.recent,
        })
    }

    fn path(&self, segment: usize) -> String {
        self.disk.describe(&self.segments[segment].segment.name())
    }

    fn walk_segment(&mut self, number: usize) -> Result<Stop, LogError> {
        let segment = self.segments[number].segment.clone();
        let mut window = Window::new(&segment, self.path(number));
        let known: BTreeSet<u64> = self.groups.keys().copied().collect();
        let (first_expected, mut states, mut only_states) = (self.expected, BTreeSet::new(), true);
        self.uncovered.clear();
        let mut at = SEGMENT_HEADER;
        let stop = loop {
            let found = match window.record(at)? {
                Ok((head, body)) if head.sequence == self.expected || self.any_first => {
                    self.any_first = false;
                    self.expected = head.sequence + 1;
                    let walked = &mut self.segments[number];
                    walked.first_sequence.get_or_insert(head.sequence);
                    walked.records += 1;
                    if let Body::State(_) = body {
                        states.insert(head.group);
                    } else if number > 0 && states.len() < known.len() {
                        return Err(self.opening_incomplete(number, at, head.sequence));
                    } else {
                        only_states = false;
                    }
                    self.note_mark(&head, at, matches!(body, Body::Mark));
                    let is_end = body == Body::End;
                    let place = Place { number, segment: &segment, at };
                    self.apply(&place, &head, body)?;
                    at += padded(u64::from(head.length));
                    self.segments[number].end = at;
                    if is_end {
                        break Stop::End;
                    }
                    continue;
                }
                Ok((head, _)) => format!("record {}", head.sequence),
                Err(damage) => damage.to_string(),
            };
            break Stop::Hole { at, found };
        };
        // A crash in the very first write to a segment can leave part of its opening state. Going on
        // behind that would lose the rest of it once the older segments are dropped: begin it again.
        let torn_opening = number > 0 && only_states && states.len() < known.len();
        if let Stop::Hole { at, .. } = stop
            && torn_opening
        {
            if self.covered < first_expected {
                self.expected = first_expected;
                self.uncovered.clear();
                self.ends_in_mark = false;
                let fresh = Walked::new(segment.clone());
                self.segments[number] = fresh;
                return Ok(Stop::Hole {
                    at: SEGMENT_HEADER,
                    found: "part of a segment's opening state".to_owned(),
                });
            }
            // Durable in part, so it can be neither begun again nor gone on from. Where the next record is known to be
            // missing, `judge` says that.
            if self.covered < self.expected {
                return Err(self.opening_incomplete(number, at, self.expected));
            }
        }
        Ok(stop)
    }

    /// A segment goes on with record `sequence` although the states before it are not those of all groups: what they
    /// leave out would be lost with the older segments.
    fn opening_incomplete(&self, number: usize, at: u64, sequence: u64) -> LogError {
        LogError::Corrupt {
            file: self.path(number),
            offset: at,
            expected: "the state of every group at the start of the segment".to_owned(),
            found: format!("record {sequence} after some of them"),
        }
    }

    fn note_mark(&mut self, head: &Head, at: u64, is_mark: bool) {
        self.covered = self.covered.max(head.mark);
        self.uncovered.push_back((head.sequence, at));
        while self.uncovered.front().is_some_and(|(sequence, _)| *sequence <= self.covered) {
            self.uncovered.pop_front();
        }
        self.ends_in_mark = is_mark && head.mark + 1 == head.sequence;
    }

    fn apply(&mut self, place: &Place<'_>, head: &Head, body: Body<'_>) -> Result<(), LogError> {
        let contradiction = |expected: String, found: String| LogError::Corrupt {
            file: self.disk.describe(&place.segment.name()),
            offset: place.at,
            expected,
            found,
        };
        if matches!(body, Body::Mark | Body::End) {
            return Ok(());
        }
        if body == Body::Forget {
            self.groups.remove(&head.group);
            return Ok(());
        }
        let is_new = !self.groups.contains_key(&head.group);
        let group = self.groups.entry(head.group).or_default();
        match body {
            Body::Entry { index, payload } => {
                if let Some(next) = group.summary.next_index()
                    && next != index
                {
                    return Err(contradiction(
                        format!("entry {next} of group {}", head.group),
                        format!("entry {index}"),
                    ));
                }
                let units = (place.at / ALIGN) as u32;
                group.append_found(index, head.sequence, place.segment.clone(), units, head.length);
                if payload.len() + CACHED_OVERHEAD <= self.cache_bytes {
                    self.recent_bytes += payload.len() + CACHED_OVERHEAD;
                    let payload = Bytes::copy_from_slice(payload);
                    self.recent.push_back((head.group, index, head.sequence, payload));
                    while self.cache_bytes < self.recent_bytes {
                        let Some((.., dropped)) = self.recent.pop_front() else { break };
                        self.recent_bytes -= dropped.len() + CACHED_OVERHEAD;
                    }
                }
            }
            Body::Vote(vote) => group.summary.vote = Some(Bytes::copy_from_slice(vote)),
            Body::Truncate { after } => group.truncate_after(after),
            Body::Purge { index, log_id } => group.purge(index, Bytes::copy_from_slice(log_id)),
            Body::Committed(committed) => group.summary.committed = Some(Bytes::copy_from_slice(committed)),
            Body::State(state) if place.number == 0 && is_new => group.install(&state),
            Body::State(state) => {
                let known = &group.summary;
                if (&state.vote, &state.purged, state.span) != (&known.vote, &known.purged, known.span) {
                    return Err(contradiction(
                        format!("a state of group {} that follows from the records before", head.group),
                        format!("entries {:?} where those give {:?}", state.span, known.span),
                    ));
                }
            }
            Body::Mark | Body::End | Body::Forget => {}
        }
        Ok(())
    }

    /// Decides what the place is where the walk stopped.
    fn judge(&mut self, number: usize, at: u64, found: String) -> Result<(Tail, Vec<Stale>), LogError> {
        let mut stale = Vec::new();
        // After a close in good order there is nothing to look for.
        if !(self.trust_closed && self.control.durable + 1 == self.expected) {
            for later in number..self.segments.len() {
                let from = if later == number { at } else { SEGMENT_HEADER };
                self.search(later, from, &mut stale)?;
            }
        }
        let witness = stale.iter().max_by_key(|stale| stale.mark);
        let marked = witness.map_or(0, |witness| witness.mark);
        if self.expected <= self.covered.max(marked) {
            let why = match witness {
                Some(witness) if self.covered <= witness.mark => format!(
                    "record {} (at byte {} of {} its durability is noted)",
                    self.expected,
                    witness.at,
                    self.path(witness.segment),
                ),
                _ => format!("record {} (the log was durable through {})", self.expected, self.covered),
            };
            return Err(LogError::Corrupt { file: self.path(number), offset: at, expected: why, found });
        }
        let uncovered_from = self.uncovered.front().map_or(at, |(_, at)| *at);
        Ok((Tail { segment: number, at, uncovered_from }, stale))
    }

    /// Finds all valid records from byte `from` on that could follow the hole.
    fn search(&self, number: usize, from: u64, stale: &mut Vec<Stale>) -> Result<(), LogError> {
        let segment = &self.segments[number].segment;
        let mut window = Window::new(segment, self.path(number));
        let mut at = from;
        while at + RECORD_HEADER as u64 <= segment.bytes {
            let head = window.bytes(at, RECORD_HEADER)?;
            // Looking at the sequence first spares nearly all checksums over other bytes.
            if head.len() == RECORD_HEADER
                && peek_sequence(head) >= self.expected
                && let Ok((head, _)) = window.record(at)?
            {
                stale.push(Stale { segment: number, at, mark: head.mark });
                at += padded(u64::from(head.length));
            } else {
                at += ALIGN;
            }
        }
        Ok(())
    }

    /// Every entry that a group has must be in a segment that we have.
    fn check_whole(&self) -> Result<(), LogError> {
        for (group, memory) in &self.groups {
            if let Some(index) = memory.first_missing() {
                return Err(LogError::Corrupt {
                    file: self.path(0),
                    offset: SEGMENT_HEADER,
                    expected: format!("a log with entry {index} of group {group}"),
                    found: "that the segment with it is gone, and no purge says it may be".to_owned(),
                });
            }
        }
        Ok(())
    }
}

struct Place<'a> {
    number: usize,
    segment: &'a Arc<Segment>,
    at: u64,
}

/// A moving view of a segment file.
struct Window<'a> {
    segment: &'a Segment,
    path: String,
    start: u64,
    buffer: Vec<u8>,
}

const WINDOW_BYTES: usize = 256 << 10;

impl<'a> Window<'a> {
    fn new(segment: &'a Segment, path: String) -> Window<'a> {
        Window { segment, path, start: 0, buffer: Vec::new() }
    }

    /// `len` bytes from `at` on, fewer at the end of the segment.
    fn bytes(&mut self, at: u64, len: usize) -> Result<&[u8], LogError> {
        let len = len.min(usize::try_from(self.segment.bytes.saturating_sub(at)).unwrap_or(usize::MAX));
        let inside = self.start <= at && at + len as u64 <= self.start + self.buffer.len() as u64;
        if !inside {
            let want = len.max(WINDOW_BYTES);
            let rest = self.segment.bytes.saturating_sub(at);
            let want = want.min(usize::try_from(rest).unwrap_or(usize::MAX));
            self.buffer.clear();
            self.buffer.resize(want, 0);
            let read = self.segment.file.read_at(&mut self.buffer, at);
            let read = read.map_err(LogError::io("read", self.path.clone()))?;
            self.buffer.truncate(read);
            self.start = at;
        }
        let from = (at - self.start) as usize;
        let to = (from + len).min(self.buffer.len());
        Ok(&self.buffer[from..to])
    }

    /// The record at `at`, if there is one.
    fn record(&mut self, at: u64) -> Result<Result<(Head, Body<'_>), Damage>, LogError> {
        let head = self.bytes(at, RECORD_HEADER)?;
        if head.len() < RECORD_HEADER {
            return Ok(Err(Damage::Length(0)));
        }
        let length = peek_length(head);
        if (length as usize) < RECORD_HEADER || self.segment.bytes - at < u64::from(length) {
            return Ok(Err(Damage::Length(length)));
        }
        let seed = self.segment.seed;
        let bytes = self.bytes(at, length as usize)?;
        Ok(decode(seed, bytes))
    }
}
