//! What callers, the writer and the keeper share: the queue between them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::control::ControlFile;
use super::error::LogError;
use super::group::{Group, GroupMemory};
use super::keeper;
use super::pump::Pumped;
use super::record::{ENTRY_PREFIX, RECORD_HEADER, Summary, record_bytes};
use super::room::Room;
use super::segment::Segment;
use super::{Count, Done, LogOptions, LogStats, lock};
use crate::disk::Disk;

/// After the disk had no room for a segment, nobody asks it again for this long.
const RETRY: Duration = Duration::from_millis(20);

/// One piece of work.
pub(super) enum Work {
    Entries(Vec<(u64, Bytes)>),
    Vote(Bytes),
    Truncate(Option<u64>),
    Purge { index: u64, log_id: Bytes },
    Committed(Bytes),
    Forget,
}

impl Work {
    fn frees_segments(&self) -> bool {
        matches!(self, Work::Truncate(_) | Work::Purge { .. } | Work::Forget)
    }

    /// Bytes of a record that is not an entry.
    fn single_record_bytes(&self) -> Option<u64> {
        let body = match self {
            Work::Entries(_) => return None,
            Work::Vote(blob) | Work::Committed(blob) => blob.len(),
            Work::Truncate(_) => 8,
            Work::Forget => 0,
            Work::Purge { log_id, .. } => 8 + log_id.len(),
        };
        Some(record_bytes(body as u64))
    }
}

/// Work in the queue.
pub(super) struct Op {
    pub group: Arc<Group>,
    /// Counts all work ever queued.
    pub id: u64,
    pub work: Work,
    pub done: Option<Done>,
}

/// Everything the log's threads and its callers share.
pub(super) struct Shared {
    pub disk: Arc<dyn Disk>,
    pub options: LogOptions,
    pub salt: u32,
    pub groups: Mutex<BTreeMap<u64, Arc<Group>>>,
    pub control: Mutex<ControlFile>,
    pub queue: Mutex<Queue>,
    /// When the log has no threads.
    pub pumped: Option<Pumped>,
    /// The writer waits here for work.
    pub writer_wakes: Condvar,
    /// The keeper waits here for something to prepare or to take back.
    pub keeper_wakes: Condvar,
    /// Callers wait here for a segment.
    pub room_changes: Condvar,
    /// Payload bytes that reservations hold.
    pub held: AtomicU64,
    pub appends: Count,
    pub syncs: Count,
    pub metrics: Metrics,
}

/// A segment in use or prepared.
pub(super) struct Kept {
    pub segment: Arc<Segment>,
    /// The sequence of its first record, once it has one.
    pub first_sequence: Option<u64>,
}

/// Behind one lock: what is queued, and where it will go.
pub(super) struct Queue {
    pub ops: Vec<Op>,
    /// The ID of the next work.
    pub next_op: u64,
    /// All work with smaller IDs is durable.
    pub durable_op: u64,
    /// All records up to this are durable.
    pub durable_sequence: u64,
    /// The generation that the last finished round ended in.
    pub generation: u64,
    pub room: Room,
    pub kept: BTreeMap<u64, Kept>,
    /// Segment files of the right size that nothing needs.
    pub spares: Vec<String>,
    pub groups: usize,
    /// Why nothing is accepted any more.
    pub fault: Option<LogError>,
    pub closing: bool,
    /// The writer has ended; the keeper may too.
    pub writer_ended: bool,
    pub writer_waits: bool,
    /// Callers want this many prepared segments.
    pub demand: usize,
    /// How often the keeper has tried to prepare a segment.
    pub attempts: u64,
    /// Why it could not, last time, and when.
    pub refusal: Option<(LogError, Instant)>,
    /// Entries went away, so segments may be free.
    pub look_for_free: bool,
    /// The keeper wants to hear when more work is durable.
    pub keeper_wants_durable: bool,
}

impl Queue {
    /// Whether work is accepted.
    pub fn check(&self) -> Result<(), LogError> {
        match &self.fault {
            Some(fault) => Err(fault.clone()),
            None if self.closing => Err(LogError::Closed),
            None => Ok(()),
        }
    }

    /// Whether the keeper should prepare a segment although nobody waits for it.
    pub fn wants_segment(&self) -> bool {
        self.room.ready() == 0 && self.refusal.is_none()
    }

    fn recent_refusal(&self) -> Option<&LogError> {
        self.refusal.as_ref().filter(|(_, when)| when.elapsed() < RETRY).map(|(error, _)| error)
    }
}

impl Shared {
    /// Whether work is accepted.
    pub fn check(&self) -> Result<(), LogError> {
        lock(&self.queue).check()
    }

    /// Queues work for a group, visible in its memory at once.
    pub fn submit(&self, group: &Arc<Group>, work: Work, mut done: Option<Done>) -> Result<(), LogError> {
        loop {
            let mut memory = group.lock();
            if let Work::Entries(entries) = &work {
                check_order(group.id, &memory, entries)?;
            }
            let mut queue = lock(&self.queue);
            queue.check()?;
            self.count_group(&mut memory, &mut queue)?;
            let hint = memory.summary.committed.clone();
            let hint = hint.filter(|_| memory.hint_unwritten && !matches!(work, Work::Forget));
            let hint_bytes = hint.as_ref().map(|hint| record_bytes(hint.len() as u64));
            let entries: &[(u64, Bytes)] = if let Work::Entries(entries) = &work { entries } else { &[] };
            let entry_bytes =
                entries.iter().map(|(_, payload)| record_bytes((ENTRY_PREFIX + payload.len()) as u64));
            let sizes = hint_bytes.into_iter().chain(work.single_record_bytes()).chain(entry_bytes);
            if let Err(short) = queue.room.place(sizes) {
                // The keeper takes the groups' locks, so we wait without ours.
                drop(memory);
                drop(self.wait_for_segments(queue, short.segments)?);
                continue;
            }
            if let Some(hint) = hint {
                memory.hint_unwritten = false;
                queue.push(Op { group: group.clone(), id: 0, work: Work::Committed(hint), done: None });
            }
            apply(&mut memory, &work, queue.next_op);
            if matches!(work, Work::Forget) {
                // Segments begun from here on are begun after the record that says so, and without the group's state.
                queue.groups -= 1;
                queue.room.state_bytes_max = Summary::bytes_max(queue.groups);
            }
            queue.push(Op { group: group.clone(), id: 0, work, done: done.take() });
            if queue.wants_segment() {
                self.keeper_wakes.notify_one();
            }
            let wake = std::mem::take(&mut queue.writer_waits);
            drop(queue);
            drop(memory);
            if wake {
                self.writer_wakes.notify_one();
                self.wake_pump();
            }
            return Ok(());
        }
    }

    /// Makes sure that the state of this group has its place at the start of each segment.
    fn count_group(&self, memory: &mut GroupMemory, queue: &mut Queue) -> Result<(), LogError> {
        if memory.counted {
            return Ok(());
        }
        let max = self.options.groups_max();
        if max <= queue.groups {
            return Err(LogError::TooManyGroups { max });
        }
        memory.counted = true;
        queue.groups += 1;
        queue.room.state_bytes_max = Summary::bytes_max(queue.groups);
        Ok(())
    }

    /// Makes sure that there is room for `bytes` more payload bytes beside what is held.
    pub fn promise(&self, bytes: u64) -> Result<(), LogError> {
        // Raft's own records come without a reservation; they are small.
        let own = (self.options.segment_bytes / 16).min(1 << 20);
        let mut queue = lock(&self.queue);
        loop {
            queue.check()?;
            let needed = bytes.saturating_add(self.held.load(Ordering::Relaxed)).saturating_add(own);
            match queue.room.promises(needed) {
                Ok(()) => return Ok(()),
                Err(short) => queue = self.wait_for_segments(queue, short.segments)?,
            }
        }
    }

    /// Asks for prepared segments and waits for the keeper's next attempt.
    fn wait_for_segments<'a>(
        &'a self,
        mut queue: MutexGuard<'a, Queue>,
        segments: usize,
    ) -> Result<MutexGuard<'a, Queue>, LogError> {
        if let Some(pumped) = &self.pumped {
            drop(queue);
            return self.prepare_here(pumped, segments);
        }
        if let Some(refusal) = queue.recent_refusal() {
            return Err(refusal.clone());
        }
        queue.demand = queue.demand.max(segments);
        let seen = queue.attempts;
        self.keeper_wakes.notify_one();
        let queue = self
            .room_changes
            .wait_while(queue, |queue| {
                queue.attempts == seen && queue.room.ready() < segments && queue.check().is_ok()
            })
            .unwrap_or_else(PoisonError::into_inner);
        queue.check()?;
        match &queue.refusal {
            // Also without the keeper: the writer gives back what was claimed on paper and not used.
            _ if segments <= queue.room.ready() => Ok(queue),
            Some((refusal, _)) => Err(refusal.clone()),
            None => Ok(queue),
        }
    }

    /// For a log without threads: prepares segments in place of the keeper.
    fn prepare_here(&self, pumped: &Pumped, segments: usize) -> Result<MutexGuard<'_, Queue>, LogError> {
        let _one_at_a_time = lock(&pumped.keeping);
        loop {
            let queue = lock(&self.queue);
            queue.check()?;
            if segments <= queue.room.ready() {
                return Ok(queue);
            }
            drop(queue);
            keeper::try_prepare(self)?;
        }
    }

    fn wake_pump(&self) {
        if let Some(pumped) = &self.pumped {
            pumped.wake();
        }
    }

    /// Stops everything: nobody knows what the disk has. The writer tells those who wait.
    pub fn fail(&self, fault: LogError) {
        tracing::error!(error = %fault, "the log stops");
        lock(&self.queue).fault.get_or_insert(fault);
        self.wake_all();
    }

    /// Queues the last hints and refuses everything after them.
    pub fn ask_to_close(&self) {
        let groups: Vec<Arc<Group>> = lock(&self.groups).values().cloned().collect();
        for group in groups {
            let mut memory = group.lock();
            if memory.hint_unwritten
                && let Some(hint) = memory.summary.committed.clone()
            {
                let mut queue = lock(&self.queue);
                // Only a hint: when there is no room it is let go.
                if queue.check().is_ok()
                    && self.count_group(&mut memory, &mut queue).is_ok()
                    && queue.room.place_here(record_bytes(hint.len() as u64))
                {
                    memory.hint_unwritten = false;
                    let group = group.clone();
                    queue.push(Op { group, id: 0, work: Work::Committed(hint), done: None });
                }
            }
        }
        lock(&self.queue).closing = true;
        self.wake_all();
    }

    fn wake_all(&self) {
        self.writer_wakes.notify_all();
        self.keeper_wakes.notify_all();
        self.room_changes.notify_all();
        self.wake_pump();
    }

    pub fn stats(&self) -> LogStats {
        let groups: Vec<Arc<Group>> = lock(&self.groups).values().cloned().collect();
        let live_bytes = groups.iter().map(|group| group.lock().bytes_live()).sum();
        let queue = lock(&self.queue);
        let kept: u64 = queue.kept.values().map(|kept| kept.segment.bytes).sum();
        LogStats {
            bytes_on_disk: kept + queue.spares.len() as u64 * self.options.segment_bytes,
            live_bytes,
            segments: queue.kept.len(),
            appends: self.appends.get(),
            syncs: self.syncs.get(),
            durable_sequence: queue.durable_sequence,
        }
    }
}

impl Queue {
    fn push(&mut self, mut op: Op) {
        op.id = self.next_op;
        self.next_op += 1;
        self.ops.push(op);
    }

    /// After a round: how far the log is durable, and in which segment it stands.
    pub fn round_is_durable(&mut self, ops: &[Op], sequence: u64, segment: &Segment, at: u64) {
        if let Some(last) = ops.last() {
            self.durable_op = last.id + 1;
        }
        self.durable_sequence = sequence;
        self.generation = segment.generation;
        self.look_for_free |= ops.iter().any(|op| op.work.frees_segments());
        if self.ops.is_empty() {
            self.room.settle(segment, at);
        }
    }
}

fn check_order(group: u64, memory: &GroupMemory, entries: &[(u64, Bytes)]) -> Result<(), LogError> {
    let mut expected = memory.summary.next_index();
    for (index, _) in entries {
        if let Some(expected) = expected.filter(|expected| expected != index) {
            return Err(LogError::OutOfOrder { group, index: *index, expected });
        }
        let next = index.checked_add(1);
        // The largest number is not an index: nothing could follow it.
        expected = Some(next.ok_or(LogError::OutOfOrder { group, index: *index, expected: 0 })?);
    }
    Ok(())
}

fn apply(memory: &mut GroupMemory, work: &Work, op: u64) {
    match work {
        Work::Entries(entries) => {
            for (index, payload) in entries {
                // Its length was checked against the segment size, which is far below 4 GiB.
                let length = (RECORD_HEADER + ENTRY_PREFIX + payload.len()) as u32;
                memory.append_unwritten(*index, op, length, payload.clone());
            }
        }
        Work::Vote(vote) => memory.summary.vote = Some(vote.clone()),
        Work::Truncate(after) => memory.truncate_after(*after),
        Work::Purge { index, log_id } => memory.purge(*index, log_id.clone()),
        Work::Committed(_) => {}
        Work::Forget => *memory = GroupMemory::default(),
    }
}

/// Handles to the log's metrics, looked up once.
pub(super) struct Metrics {
    pub sync_seconds: metrics::Histogram,
    pub group_bytes: metrics::Histogram,
    pub group_appends: metrics::Histogram,
    pub records: metrics::Counter,
    pub bytes: metrics::Counter,
    pub segments: metrics::Gauge,
}

impl Metrics {
    pub fn register() -> Metrics {
        use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
        describe_histogram!("skein_log_sync_seconds", Unit::Seconds, "Time of one sync of the log.");
        describe_histogram!("skein_log_group_bytes", Unit::Bytes, "Bytes written with one sync.");
        describe_histogram!("skein_log_group_appends", Unit::Count, "Appends made durable by one sync.");
        describe_counter!("skein_log_records_total", Unit::Count, "Records written to the log.");
        describe_counter!("skein_log_bytes_total", Unit::Bytes, "Bytes written to the log.");
        describe_gauge!("skein_log_segments", Unit::Count, "Segments in use or prepared.");
        Metrics {
            sync_seconds: metrics::histogram!("skein_log_sync_seconds"),
            group_bytes: metrics::histogram!("skein_log_group_bytes"),
            group_appends: metrics::histogram!("skein_log_group_appends"),
            records: metrics::counter!("skein_log_records_total"),
            bytes: metrics::counter!("skein_log_bytes_total"),
            segments: metrics::gauge!("skein_log_segments"),
        }
    }
}

/// What the log starts with, when it is opened.
pub(super) fn queue(
    room: Room,
    kept: BTreeMap<u64, Kept>,
    spares: Vec<String>,
    generation: u64,
    groups: usize,
    last_sequence: u64,
) -> Queue {
    Queue {
        ops: Vec::new(),
        // Entries found on disk are known by their sequences; work to come is told apart from them.
        next_op: last_sequence + 1,
        durable_op: last_sequence + 1,
        durable_sequence: last_sequence,
        generation,
        room,
        kept,
        spares,
        groups,
        fault: None,
        closing: false,
        writer_ended: false,
        writer_waits: false,
        demand: 0,
        attempts: 0,
        refusal: None,
        look_for_free: true,
        keeper_wants_durable: false,
    }
}

/// Prepared segments for the paper, as [`Room::new`] wants them.
pub(super) type Ready = VecDeque<Arc<Segment>>;

impl Queue {
    /// The writer puts its first record into a segment.
    pub fn note_begun(&mut self, generation: u64, sequence: u64) {
        if let Some(kept) = self.kept.get_mut(&generation) {
            kept.first_sequence.get_or_insert(sequence);
        }
    }
}
