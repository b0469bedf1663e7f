//! Opening a log: what the walk found becomes a running log, after its tail has been made safe.

use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use super::control::{self, Control, ControlFile};
use super::error::LogError;
use super::group::{Cache, Group, GroupMemory};
use super::keeper::{self, SPARES_MAX};
use super::pump::{Pump, Pumped, Turns};
use super::record::{RECORD_HEADER, Summary};
use super::recover::{Scan, Tail, Walked, scan};
use super::room::Room;
use super::segment::{SEGMENT_HEADER, parse_segment_name};
use super::shared::{Kept, Metrics, Ready, Shared, queue};
use super::writer::{Start, Writer};
use super::{Count, Handle, Log, LogOptions, lock};
use crate::disk::Disk;

/// Opens a log that runs in threads of its own.
pub(super) fn open(disk: Arc<dyn Disk>, options: LogOptions) -> Result<Log, LogError> {
    // The only luck in the log, and only against clients that would forge records inside their values.
    let salt = || RandomState::new().build_hasher().finish() as u32;
    let (shared, start) = recover(disk, options, None, salt)?;
    spawn(shared, start)
}

/// Opens a log that its owner runs; without luck, so that what is done again gives the same bytes.
pub(super) fn open_pumped(disk: Arc<dyn Disk>, options: LogOptions) -> Result<(Log, Pump), LogError> {
    let (shared, start) = recover(disk, options, Some(Pumped::default()), || 0x706d_7570)?;
    let turns = Arc::new(Mutex::new(Turns::new(Writer::new(shared.clone(), start))));
    let pump = Pump::new(shared.clone(), turns.clone());
    let (threads, thread_ids) = (Mutex::default(), Mutex::default());
    let handle = Handle { shared, threads, thread_ids, turns: Some(turns) };
    Ok((Log { handle: Arc::new(handle) }, pump))
}

/// Everything a writer needs to go on from what is on the disk.
fn recover(
    disk: Arc<dyn Disk>,
    options: LogOptions,
    pumped: Option<Pumped>,
    salt: impl FnOnce() -> u32,
) -> Result<(Arc<Shared>, Start), LogError> {
    options.check()?;
    let found = match scan(&*disk, options.cache_bytes)? {
        Some(found) => found,
        None => begin(&*disk, salt())?,
    };
    if let Some(damage) = &found.control_damage {
        tracing::warn!(%damage, "half of the log's control file is damaged; the other half will do");
    }
    if let Some(tail) = found.tail {
        make_tail_safe(&*disk, &found, tail)?;
    }
    start(disk, options, found, pumped)
}

/// Makes the control file of a new log.
fn begin(disk: &dyn Disk, salt: u32) -> Result<Scan, LogError> {
    let control = Control { first: 1, last: 0, first_sequence: 1, durable: 0, closed: false, salt };
    ControlFile::create(disk)?.write(&control)?;
    let found = scan(disk, 0)?;
    found.ok_or_else(|| LogError::Missing {
        file: disk.describe(control::CONTROL_NAME),
        why: "it was written a moment ago".to_owned(),
    })
}

/// Makes sure that what was found stays found, and what was cut stays cut.
///
/// Records that no mark covers may be in the machine's memory only, and a sync that failed before a restart
/// may have left them looking clean; writing them again settles it. Valid records after the cut are
/// overwritten, so that they cannot turn up as the continuation of what is written next.
fn make_tail_safe(disk: &dyn Disk, found: &Scan, tail: Tail) -> Result<(), LogError> {
    let segment = &found.segments[tail.segment].segment;
    let path = disk.describe(&segment.name());
    let mut buffer = vec![0; (1 << 20).min(tail.at - tail.uncovered_from) as usize];
    let mut at = tail.uncovered_from;
    while at < tail.at {
        let step = buffer.len().min((tail.at - at) as usize);
        let piece = &mut buffer[..step];
        let again = match segment.file.read_at(piece, at) {
            Ok(read) if read == step => segment.file.write_at(piece, at),
            Ok(_) => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
            Err(error) => Err(error),
        };
        again.map_err(LogError::io("write the tail of", path.clone()))?;
        at += step as u64;
    }
    if !found.stale.is_empty() {
        tracing::info!(
            file = path,
            offset = tail.at,
            records = found.stale.len(),
            "cut a torn tail off the log"
        );
    }
    for stale in &found.stale {
        let segment = &found.segments[stale.segment].segment;
        let written = segment.file.write_at(&[0; RECORD_HEADER], stale.at);
        written.map_err(LogError::io("erase the torn tail of", disk.describe(&segment.name())))?;
    }
    // Later segments first: until the tail's own is synced, no record in them can follow it.
    for walked in found.segments[tail.segment..].iter().rev() {
        let synced = walked.segment.file.sync_data();
        synced.map_err(LogError::io("sync", disk.describe(&walked.segment.name())))?;
    }
    Ok(())
}

fn start(
    disk: Arc<dyn Disk>,
    options: LogOptions,
    mut found: Scan,
    pumped: Option<Pumped>,
) -> Result<(Arc<Shared>, Start), LogError> {
    // Prepared segments of another size are no use; what follows them goes too, so as to leave no gap.
    let after_tail = found.tail.map_or(0, |tail| tail.segment + 1);
    let usable = found.segments[after_tail..]
        .iter()
        .position(|walked| walked.segment.bytes != options.segment_bytes)
        .map_or(found.segments.len(), |count| after_tail + count);
    for walked in found.segments.drain(usable..) {
        found.unused.push(walked.segment.name());
    }
    let mut kept: BTreeMap<u64, Kept> = BTreeMap::new();
    for Walked { segment, first_sequence, .. } in &found.segments {
        kept.insert(segment.generation, Kept { segment: segment.clone(), first_sequence: *first_sequence });
    }
    let groups: BTreeMap<u64, Arc<Group>> = std::mem::take(&mut found.groups)
        .into_iter()
        .map(|(id, memory)| (id, Arc::new(Group::new(id, GroupMemory::counted(memory)))))
        .collect();
    let max = options.groups_max();
    if max < groups.len() {
        return Err(LogError::TooManyGroups { max });
    }
    let mut cache = Cache::default();
    for (id, index, op, payload) in std::mem::take(&mut found.recent) {
        let Some(group) = groups.get(&id) else { continue };
        if let Some(slot) = group.lock().slot_mut(index).filter(|slot| slot.op == op) {
            cache.push(group.clone(), index, op, payload.len() as u32);
            slot.payload = Some(payload);
        }
    }
    cache.trim(options.cache_bytes);
    let summaries = groups.iter().map(|(id, group)| (*id, group.lock().summary.clone())).collect();

    let mut control = Control {
        first: found.segments.first().map_or(found.control.first, |walked| walked.segment.generation),
        last: found.segments.last().map_or(found.control.last, |walked| walked.segment.generation),
        first_sequence: found
            .segments
            .first()
            .and_then(|walked| walked.first_sequence)
            .unwrap_or(found.control.first_sequence),
        durable: found.last_sequence,
        closed: false,
        salt: found.control.salt,
    };
    let mut control_file = ControlFile::open(&*disk, found.counter)?;
    control_file.write(&control)?;
    let spares = sort_out(&*disk, &options, &found.unused, control.first);

    let (segment, at) = match found.tail {
        Some(tail) => (found.segments[tail.segment].segment.clone(), tail.at),
        None => {
            let generation = control.last + 1;
            let made = keeper::make_segment(&*disk, &options, control.salt, generation, None)?;
            control.last = generation;
            control_file.write(&control)?;
            let made = Arc::new(made);
            kept.insert(generation, Kept { segment: made.clone(), first_sequence: None });
            (made, SEGMENT_HEADER)
        }
    };
    let state_bytes_max = Summary::bytes_max(groups.len());
    let ready: Ready = found.segments.iter().skip(after_tail).map(|walked| walked.segment.clone()).collect();
    let paper_at = if at == SEGMENT_HEADER { at + state_bytes_max } else { at };
    let room = Room::new(&segment, paper_at, ready, state_bytes_max);
    let metrics = Metrics::register();
    metrics.segments.set(kept.len() as f64);
    let queue = queue(room, kept, spares, segment.generation, groups.len(), found.last_sequence);
    let shared = Arc::new(Shared {
        disk,
        options,
        salt: control.salt,
        groups: Mutex::new(groups),
        control: Mutex::new(control_file),
        queue: Mutex::new(queue),
        pumped,
        writer_wakes: Condvar::new(),
        keeper_wakes: Condvar::new(),
        room_changes: Condvar::new(),
        held: AtomicU64::new(0),
        appends: Count::default(),
        syncs: Count::default(),
        metrics,
    });
    let start = Start {
        segment,
        at,
        last_sequence: found.last_sequence,
        ends_in_mark: found.ends_in_mark,
        groups: summaries,
        cache,
    };
    Ok((shared, start))
}

fn spawn(shared: Arc<Shared>, start: Start) -> Result<Log, LogError> {
    let (threads, thread_ids) = (Mutex::default(), Mutex::default());
    let handle = Handle { shared: shared.clone(), threads, thread_ids, turns: None };
    let keep = |thread: thread::JoinHandle<()>| {
        lock(&handle.thread_ids).push(thread.thread().id());
        lock(&handle.threads).push(thread);
    };
    let path = || shared.disk.describe("");
    let writer = Writer::new(shared.clone(), start);
    let thread = thread::Builder::new().name("log-writer".to_owned()).spawn(move || writer.run());
    keep(thread.map_err(LogError::io("start the writer of", path()))?);
    let keeper_shared = shared.clone();
    let thread =
        thread::Builder::new().name("log-keeper".to_owned()).spawn(move || keeper::run(&keeper_shared));
    keep(thread.map_err(LogError::io("start the keeper of", path()))?);
    Ok(Log { handle: Arc::new(handle) })
}

/// Of the segment files that nothing needs, keeps a few to be used again and removes the others.
fn sort_out(disk: &dyn Disk, options: &LogOptions, unused: &[String], first: u64) -> Vec<String> {
    let mut spares = Vec::new();
    for name in unused {
        let fits = disk.open(name).and_then(|file| file.len()).is_ok_and(|len| len == options.segment_bytes);
        // A spare must not stand where a later segment will be made.
        let is_old = parse_segment_name(name).is_some_and(|generation| generation < first);
        if fits && is_old && spares.len() < SPARES_MAX {
            spares.push(name.clone());
        } else if let Err(error) = disk.remove(name) {
            tracing::warn!(%error, file = disk.describe(name), "could not remove a log segment");
        }
    }
    spares
}
