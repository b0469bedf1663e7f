//! The writer: everything that has arrived, in one write and one sync, then the callbacks.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use super::error::LogError;
use super::group::Cache;
use super::lock;
use super::record::{ALIGN, Body, ENTRY_PREFIX, RECORD_HEADER, Summary, encode, record_bytes};
use super::segment::{SEGMENT_HEADER, Segment};
use super::shared::{Op, Queue, Shared, Work};

/// A write buffer larger than this is given back after use.
const BUFFER_KEPT: usize = 4 << 20;

/// The only one who writes to segments once the log is open.
pub(super) struct Writer {
    shared: Arc<Shared>,
    segment: Arc<Segment>,
    /// The states of the groups have to be written first.
    opening: bool,
    /// Records of this round that are not written yet.
    buffer: Vec<u8>,
    /// Where the buffer goes in the segment.
    buffer_at: u64,
    next_sequence: u64,
    durable: u64,
    ends_in_mark: bool,
    /// The groups as the records so far describe them; callers see [`super::group::GroupMemory`], which is
    /// ahead.
    groups: BTreeMap<u64, Summary>,
    cache: Cache,
    /// Where the entries of this round went.
    placed: Vec<Placed>,
    round: Round,
}

struct Placed {
    op: usize,
    index: u64,
    segment: Arc<Segment>,
    /// In units of the record alignment.
    offset: u32,
}

/// For the metrics of one round.
#[derive(Default)]
struct Round {
    records: u64,
    bytes: u64,
}

/// What a writer found in the queue.
pub(super) enum Next {
    Work,
    Nothing,
    /// There will be no more work, or the log has failed.
    End,
}

fn look_for_work(queue: &mut Queue, ops: &mut Vec<Op>) -> Next {
    if queue.fault.is_some() {
        return Next::End;
    }
    if !queue.ops.is_empty() {
        std::mem::swap(ops, &mut queue.ops);
        return Next::Work;
    }
    if queue.closing {
        return Next::End;
    }
    queue.writer_waits = true;
    Next::Nothing
}

/// Where a writer begins.
pub(super) struct Start {
    pub segment: Arc<Segment>,
    pub at: u64,
    pub last_sequence: u64,
    pub ends_in_mark: bool,
    pub groups: BTreeMap<u64, Summary>,
    pub cache: Cache,
}

impl Writer {
    pub fn new(shared: Arc<Shared>, start: Start) -> Writer {
        Writer {
            shared,
            opening: start.at == SEGMENT_HEADER,
            segment: start.segment,
            buffer: Vec::new(),
            buffer_at: start.at,
            next_sequence: start.last_sequence + 1,
            durable: start.last_sequence,
            ends_in_mark: start.ends_in_mark,
            groups: start.groups,
            cache: start.cache,
            placed: Vec::new(),
            round: Round::default(),
        }
    }

    /// Runs until the log is closed or fails.
    pub fn run(mut self) {
        let guard = Ended { shared: self.shared.clone() };
        let mut ops = Vec::new();
        while self.next_ops(&mut ops) {
            match self.write_ops(&ops).and_then(|()| self.sync_written()) {
                Ok(()) => self.finish_round(&mut ops),
                Err(fault) => self.shared.fail(fault),
            }
        }
        self.end(&mut ops);
        drop(guard);
    }

    /// The last thing a writer does: it closes the log, or tells everybody that it has failed.
    pub fn end(&mut self, ops: &mut Vec<Op>) {
        let fault = lock(&self.shared.queue).fault.clone();
        if let Some(fault) = fault {
            self.shared.refuse(ops, &fault);
        } else if let Err(fault) = self.write_closing_mark() {
            self.shared.fail(fault);
        }
    }

    /// Takes all work there is.
    pub fn take(&mut self, ops: &mut Vec<Op>) -> Next {
        look_for_work(&mut lock(&self.shared.queue), ops)
    }

    /// Waits for work and takes all there is; false when there will be none, or the log has failed.
    fn next_ops(&mut self, ops: &mut Vec<Op>) -> bool {
        let shared = self.shared.clone();
        let mut queue = lock(&shared.queue);
        loop {
            match look_for_work(&mut queue, ops) {
                Next::Work => return true,
                Next::End => return false,
                Next::Nothing => {}
            }
            if self.ends_in_mark || self.next_sequence == 1 {
                queue = shared.writer_wakes.wait(queue).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let idle = shared.options.idle_mark;
            let (back, timeout) = shared
                .writer_wakes
                .wait_timeout_while(queue, idle, |queue| {
                    queue.ops.is_empty() && !queue.closing && queue.fault.is_none()
                })
                .unwrap_or_else(PoisonError::into_inner);
            queue = back;
            if timeout.timed_out() {
                drop(queue);
                if let Err(fault) = self.put_idle_mark() {
                    shared.fail(fault);
                    return false;
                }
                queue = lock(&shared.queue);
            }
        }
    }

    /// Notes that everything is durable, without a sync; to be called between rounds only.
    pub fn put_idle_mark(&mut self) -> Result<(), LogError> {
        if self.ends_in_mark || self.next_sequence == 1 {
            return Ok(());
        }
        // Where there is no room left, the next segment's first record says the same.
        let fits = !self.opening
            && self.at() + record_bytes(0) <= self.segment.records_end()
            && lock(&self.shared.queue).room.place_here(record_bytes(0));
        self.ends_in_mark = true;
        if fits {
            self.put(0, &Body::Mark);
            self.write_buffer()?;
        }
        Ok(())
    }

    /// Where the next record goes.
    fn at(&self) -> u64 {
        self.buffer_at + self.buffer.len() as u64
    }

    /// The first half of a round.
    pub fn write_ops(&mut self, ops: &[Op]) -> Result<(), LogError> {
        for (number, op) in ops.iter().enumerate() {
            self.encode_op(number, op)?;
        }
        if self.buffer.is_empty() { Ok(()) } else { self.write_buffer() }
    }

    /// The second half, after which callers may be told.
    pub fn sync_written(&mut self) -> Result<(), LogError> {
        if self.durable + 1 < self.next_sequence { self.sync() } else { Ok(()) }
    }

    fn encode_op(&mut self, number: usize, op: &Op) -> Result<(), LogError> {
        let id = op.group.id;
        match &op.work {
            Work::Entries(entries) => {
                for (index, payload) in entries {
                    let body = Body::Entry { index: *index, payload };
                    let at = self.put_fitting(id, &body, ENTRY_PREFIX + payload.len())?;
                    self.groups.entry(id).or_default().append(*index);
                    let offset = (at / ALIGN) as u32;
                    let segment = self.segment.clone();
                    self.placed.push(Placed { op: number, index: *index, segment, offset });
                }
            }
            Work::Vote(vote) => {
                self.put_fitting(id, &Body::Vote(vote), vote.len())?;
                self.groups.entry(id).or_default().vote = Some(vote.clone());
            }
            Work::Truncate(after) => {
                self.put_fitting(id, &Body::Truncate { after: *after }, 8)?;
                self.groups.entry(id).or_default().truncate_after(*after);
            }
            Work::Purge { index, log_id } => {
                let body = Body::Purge { index: *index, log_id };
                self.put_fitting(id, &body, 8 + log_id.len())?;
                self.groups.entry(id).or_default().purge(*index, log_id.clone());
            }
            Work::Committed(committed) => {
                self.put_fitting(id, &Body::Committed(committed), committed.len())?;
                self.groups.entry(id).or_default().committed = Some(committed.clone());
            }
            Work::Forget => {
                self.put_fitting(id, &Body::Forget, 0)?;
                self.groups.remove(&id);
            }
        }
        Ok(())
    }

    /// Puts a record where it fits, in the next segment if need be; returns its offset.
    fn put_fitting(&mut self, group: u64, body: &Body<'_>, body_bytes: usize) -> Result<u64, LogError> {
        if self.opening {
            self.put_states();
        }
        if self.at() + record_bytes(body_bytes as u64) > self.segment.records_end() {
            self.begin_next_segment()?;
        }
        let at = self.at();
        self.put(group, body);
        Ok(at)
    }

    fn put(&mut self, group: u64, body: &Body<'_>) {
        encode(&mut self.buffer, self.segment.seed, self.next_sequence, self.durable, group, body);
        self.next_sequence += 1;
        self.round.records += 1;
        self.ends_in_mark = matches!(body, Body::Mark);
    }

    /// The first records of a segment: everything about the groups but their entries, so that the segments
    /// before this one can go.
    fn put_states(&mut self) {
        self.opening = false;
        let groups = std::mem::take(&mut self.groups);
        lock(&self.shared.queue).note_begun(self.segment.generation, self.next_sequence);
        for (id, summary) in &groups {
            self.put(*id, &Body::State(summary.clone()));
        }
        self.groups = groups;
    }

    /// Ends this segment and makes it durable, so that a torn tail is only ever in one segment.
    fn begin_next_segment(&mut self) -> Result<(), LogError> {
        self.put(0, &Body::End);
        self.write_buffer()?;
        self.sync()?;
        let next = lock(&self.shared.queue).room.begin_next();
        let Some(next) = next else {
            // The paper is never behind; see [`super::room`].
            panic!("no segment was claimed for the record after {}", self.next_sequence - 1);
        };
        self.segment = next;
        self.buffer_at = SEGMENT_HEADER;
        self.put_states();
        Ok(())
    }

    fn write_buffer(&mut self) -> Result<(), LogError> {
        let written = self.segment.file.write_at(&self.buffer, self.buffer_at);
        written.map_err(|error| self.fault("write", error))?;
        self.buffer_at += self.buffer.len() as u64;
        self.round.bytes += self.buffer.len() as u64;
        self.buffer.clear();
        if self.buffer.capacity() > BUFFER_KEPT {
            self.buffer.shrink_to(BUFFER_KEPT);
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), LogError> {
        let began = Instant::now();
        self.segment.file.sync_data().map_err(|error| self.fault("sync", error))?;
        self.shared.metrics.sync_seconds.record(began.elapsed());
        self.shared.syncs.add(1);
        self.durable = self.next_sequence - 1;
        Ok(())
    }

    fn fault(&self, doing: &'static str, error: std::io::Error) -> LogError {
        let file = self.shared.disk.describe(&self.segment.name());
        LogError::Failed { doing, file, source: Arc::new(error) }
    }

    /// Tells callers that the round is durable.
    pub fn finish_round(&mut self, ops: &mut Vec<Op>) {
        for op in ops.iter_mut() {
            if let Some(done) = op.done.take() {
                done(Ok(()));
            }
        }
        self.tell_places(ops);
        let metrics = &self.shared.metrics;
        metrics.group_appends.record(ops.len() as f64);
        metrics.group_bytes.record(self.round.bytes as f64);
        metrics.records.increment(self.round.records);
        metrics.bytes.increment(self.round.bytes);
        self.round = Round::default();
        self.shared.appends.add(ops.len() as u64);

        let mut queue = lock(&self.shared.queue);
        let state = if self.opening { queue.room.state_bytes_max } else { 0 };
        queue.round_is_durable(ops, self.durable, &self.segment, self.at() + state);
        let settled = queue.demand > 0 && queue.demand <= queue.room.ready();
        if settled {
            queue.demand = 0;
        }
        let keeper = queue.look_for_free || queue.keeper_wants_durable || queue.wants_segment();
        drop(queue);
        if keeper {
            self.shared.keeper_wakes.notify_one();
        }
        if settled {
            self.shared.room_changes.notify_all();
        }
        ops.clear();
    }

    /// Notes where the entries are now, and lets the oldest payloads in memory go.
    fn tell_places(&mut self, ops: &[Op]) {
        for placed in self.placed.drain(..) {
            let op = &ops[placed.op];
            let mut memory = op.group.lock();
            // It may have been truncated or purged meanwhile, and even replaced.
            if let Some(slot) = memory.slot_mut(placed.index).filter(|slot| slot.op == op.id) {
                slot.segment = Some(placed.segment);
                slot.offset = placed.offset;
                let payload_bytes = slot.length - (RECORD_HEADER + ENTRY_PREFIX) as u32;
                drop(memory);
                self.cache.push(op.group.clone(), placed.index, op.id, payload_bytes);
            }
        }
        self.cache.trim(self.shared.options.cache_bytes);
    }

    /// The last record of a log that is closed in good order says that all others are durable.
    fn write_closing_mark(&mut self) -> Result<(), LogError> {
        if self.next_sequence == 1 {
            return Ok(());
        }
        if self.opening {
            self.put_states();
        }
        if !self.ends_in_mark {
            self.put(0, &Body::Mark);
        }
        self.write_buffer()?;
        self.sync()?;
        lock(&self.shared.queue).round_is_durable(&[], self.durable, &self.segment, self.buffer_at);
        Ok(())
    }
}

impl Shared {
    /// Tells everybody who waits that the log has failed.
    fn refuse(&self, taken: &mut Vec<Op>, fault: &LogError) {
        let queued = std::mem::take(&mut lock(&self.queue).ops);
        for op in taken.drain(..).chain(queued) {
            if let Some(done) = op.done {
                done(Err(fault.clone()));
            }
        }
    }
}

/// Lets the keeper go when the writer has ended, however that came.
struct Ended {
    shared: Arc<Shared>,
}

impl Drop for Ended {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let source = Arc::new(std::io::Error::other("the log's writer panicked"));
            let fault =
                LogError::Failed { doing: "run the writer of", file: self.shared.disk.describe(""), source };
            self.shared.fail(fault.clone());
            self.shared.refuse(&mut Vec::new(), &fault);
        }
        lock(&self.shared.queue).writer_ended = true;
        self.shared.keeper_wakes.notify_all();
    }
}
