//! One Raft group's part of the log in memory: where each entry is, and the payloads of recent ones.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;

use super::lock;
use super::record::Summary;
use super::segment::Segment;

/// A group as all its views share it.
pub(super) struct Group {
    pub id: u64,
    state: Mutex<GroupMemory>,
}

impl Group {
    pub fn new(id: u64, memory: GroupMemory) -> Group {
        Group { id, state: Mutex::new(memory) }
    }

    pub fn lock(&self) -> MutexGuard<'_, GroupMemory> {
        lock(&self.state)
    }
}

/// What a group's views see: it runs ahead of the disk by what is queued and being written.
#[derive(Default)]
pub(super) struct GroupMemory {
    pub summary: Summary,
    /// The entries of `summary.span`, in order.
    slots: VecDeque<Slot>,
    /// Record bytes of all entries ever appended and not cut off; slots remember it, so that sums are one
    /// subtraction.
    bytes_ever: u64,
    /// `summary.committed` has changed since it was last queued.
    pub hint_unwritten: bool,
    /// The log has counted this group.
    pub counted: bool,
}

/// One entry.
#[derive(Clone)]
pub(super) struct Slot {
    /// The append that made it, so that a late word about an overwritten entry is not taken for this one.
    pub op: u64,
    /// The group's `bytes_ever` after it.
    bytes_through: u64,
    /// Where its record is; `None` until it has been written. A missing one never is.
    pub segment: Option<Arc<Segment>>,
    /// Where in the segment, in units of the record alignment.
    pub offset: u32,
    /// Bytes of the record, without padding.
    pub length: u32,
    pub payload: Option<Bytes>,
}

impl GroupMemory {
    /// A group that was found on disk, and so has its place in the log.
    pub fn counted(mut self) -> GroupMemory {
        self.counted = true;
        self
    }

    pub fn append(&mut self, index: u64, slot: Slot) {
        self.summary.append(index);
        self.slots.push_back(slot);
    }

    /// Appends an entry that waits to be written.
    pub fn append_unwritten(&mut self, index: u64, op: u64, length: u32, payload: Bytes) {
        self.bytes_ever += u64::from(length);
        let bytes_through = self.bytes_ever;
        let slot = Slot { op, bytes_through, segment: None, offset: 0, length, payload: Some(payload) };
        self.append(index, slot);
    }

    /// Appends an entry found on disk.
    pub fn append_found(&mut self, index: u64, op: u64, segment: Arc<Segment>, offset: u32, length: u32) {
        self.bytes_ever += u64::from(length);
        let bytes_through = self.bytes_ever;
        let slot = Slot { op, bytes_through, segment: Some(segment), offset, length, payload: None };
        self.append(index, slot);
    }

    /// Takes over the state at the start of the oldest segment: its entries are in segments that are gone,
    /// so a later record has to declare them unneeded.
    pub fn install(&mut self, summary: &Summary) {
        self.summary = summary.clone();
        self.slots.clear();
        if let Some((first, last)) = summary.span {
            let gone = Slot { op: 0, bytes_through: 0, segment: None, offset: 0, length: 0, payload: None };
            self.slots.extend((first..=last).map(|_| gone.clone()));
        }
    }

    pub fn truncate_after(&mut self, after: Option<u64>) {
        self.summary.truncate_after(after);
        let keep = self.len();
        self.slots.truncate(keep);
        if let Some(last) = self.slots.back() {
            self.bytes_ever = last.bytes_through;
        }
    }

    pub fn purge(&mut self, index: u64, log_id: Bytes) {
        self.summary.purge(index, log_id);
        let keep = self.len();
        self.slots.drain(..self.slots.len() - keep);
        // A log is purged in steps of thousands; give the memory back when most of it is unused.
        if self.slots.capacity() > 1024 && self.slots.len() < self.slots.capacity() / 4 {
            self.slots.shrink_to(2 * self.slots.len());
        }
    }

    fn len(&self) -> usize {
        self.summary.span.map_or(0, |(first, last)| (last - first + 1) as usize)
    }

    pub fn slot(&self, index: u64) -> Option<&Slot> {
        let (first, _) = self.summary.span?;
        self.slots.get(usize::try_from(index.checked_sub(first)?).ok()?)
    }

    pub fn slot_mut(&mut self, index: u64) -> Option<&mut Slot> {
        let (first, _) = self.summary.span?;
        self.slots.get_mut(usize::try_from(index.checked_sub(first)?).ok()?)
    }

    /// The first entry whose record is in no segment we have, once recovery is over.
    pub fn first_missing(&self) -> Option<u64> {
        let (first, _) = self.summary.span?;
        let at = self.slots.iter().position(|slot| slot.segment.is_none())?;
        Some(first + at as u64)
    }

    /// The oldest generation that holds one of the entries; entries still unwritten count as none.
    pub fn oldest_generation(&self) -> Option<u64> {
        // Entries are written in the order of their indexes, so the first one is in the oldest segment.
        self.slots.front()?.segment.as_ref().map(|segment| segment.generation)
    }

    /// Record bytes of the entries after `index`.
    pub fn bytes_since(&self, index: u64) -> u64 {
        let Some((first, last)) = self.summary.span else { return 0 };
        if index < first {
            return self.bytes_live();
        }
        match self.slot(index.min(last)) {
            Some(slot) => self.bytes_ever - slot.bytes_through,
            None => 0,
        }
    }

    /// Record bytes of all entries there are.
    pub fn bytes_live(&self) -> u64 {
        self.slots
            .front()
            .map_or(0, |front| self.bytes_ever - (front.bytes_through - u64::from(front.length)))
    }
}

/// The payloads kept in memory, oldest first, so that the oldest can be dropped.
#[derive(Default)]
pub(super) struct Cache {
    order: VecDeque<(Arc<Group>, u64, u64, u32)>,
    bytes: usize,
}

/// What an entry costs beside its payload.
pub(super) const CACHED_OVERHEAD: usize = 96;

impl Cache {
    /// Notes that the entry `index`, made by `op`, is written and holds its payload.
    pub fn push(&mut self, group: Arc<Group>, index: u64, op: u64, payload_bytes: u32) {
        self.bytes += payload_bytes as usize + CACHED_OVERHEAD;
        self.order.push_back((group, index, op, payload_bytes));
    }

    /// Drops the oldest payloads beyond `bytes_max`.
    pub fn trim(&mut self, bytes_max: usize) {
        while self.bytes > bytes_max {
            let Some((group, index, op, payload_bytes)) = self.order.pop_front() else { return };
            self.bytes -= payload_bytes as usize + CACHED_OVERHEAD;
            if let Some(slot) = group.lock().slot_mut(index).filter(|slot| slot.op == op) {
                slot.payload = None;
            }
        }
    }
}
