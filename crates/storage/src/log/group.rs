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
    /// So many entries at the start of `summary.span` have no slot: while a stopped log is being read, those that were in
    /// segments which are gone. A number, because the span is only what some bytes on the disk claim.
    missing: u64,
    /// The other entries of `summary.span`, in order.
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
    /// Where its record is; `None` until it has been written.
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
        self.missing = self.len();
    }

    pub fn truncate_after(&mut self, after: Option<u64>) {
        self.summary.truncate_after(after);
        self.missing = self.missing.min(self.len());
        let keep = self.len() - self.missing;
        self.slots.truncate(usize::try_from(keep).unwrap_or(usize::MAX));
        if let Some(last) = self.slots.back() {
            self.bytes_ever = last.bytes_through;
        }
    }

    pub fn purge(&mut self, index: u64, log_id: Bytes) {
        let before = self.len();
        self.summary.purge(index, log_id);
        let dropped = before - self.len();
        let missing = dropped.min(self.missing);
        self.missing -= missing;
        self.slots.drain(..(dropped - missing) as usize);
        // A log is purged in steps of thousands; give the memory back when most of it is unused.
        if self.slots.capacity() > 1024 && self.slots.len() < self.slots.capacity() / 4 {
            self.slots.shrink_to(2 * self.slots.len());
        }
    }

    fn len(&self) -> u64 {
        self.summary.span.map_or(0, |(first, last)| last - first + 1)
    }

    /// Where in `slots` an entry is.
    fn slot_at(&self, index: u64) -> Option<usize> {
        let (first, _) = self.summary.span?;
        usize::try_from(index.checked_sub(first)?.checked_sub(self.missing)?).ok()
    }

    pub fn slot(&self, index: u64) -> Option<&Slot> {
        self.slots.get(self.slot_at(index)?)
    }

    pub fn slot_mut(&mut self, index: u64) -> Option<&mut Slot> {
        let at = self.slot_at(index)?;
        self.slots.get_mut(at)
    }

    /// The first entry whose record is in no segment we have, once recovery is over.
    pub fn first_missing(&self) -> Option<u64> {
        let (first, _) = self.summary.span?;
        (self.missing > 0).then_some(first)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemDisk;

    #[test]
    fn a_span_costs_nothing_until_its_entries_are_found() {
        let mut group = GroupMemory::default();
        group.install(&Summary { span: Some((1, 1 << 60)), ..Summary::default() });
        assert_eq!(group.first_missing(), Some(1));
        let segment = Arc::new(Segment::prepare(&MemDisk::new(), 1, 1, 16_384, None).unwrap());
        for index in [(1 << 60) + 1, (1 << 60) + 2] {
            group.append_found(index, index, segment.clone(), 512, 50);
        }
        assert!(group.slot(1 << 60).is_none());
        assert_eq!(group.slot((1 << 60) + 2).map(|slot| slot.op), Some((1 << 60) + 2));
        assert_eq!((group.bytes_live(), group.bytes_since((1 << 60) + 1)), (100, 50));

        group.purge(7, Bytes::new());
        assert_eq!(group.first_missing(), Some(8));
        group.purge((1 << 60) + 1, Bytes::new());
        assert_eq!((group.first_missing(), group.bytes_live()), (None, 50));
        assert_eq!(group.slot((1 << 60) + 2).map(|slot| slot.op), Some((1 << 60) + 2));
    }

    #[test]
    fn truncating_into_missing_entries_leaves_the_others_missing() {
        let mut group = GroupMemory::default();
        group.install(&Summary { span: Some((5, 9)), ..Summary::default() });
        let segment = Arc::new(Segment::prepare(&MemDisk::new(), 1, 1, 16_384, None).unwrap());
        group.append_found(10, 1, segment.clone(), 512, 50);
        group.truncate_after(Some(6));
        assert_eq!((group.summary.span, group.first_missing()), (Some((5, 6)), Some(5)));
        group.append_found(7, 2, segment, 512, 60);
        assert_eq!(group.slot(7).map(|slot| slot.op), Some(2));
        group.purge(6, Bytes::new());
        assert_eq!((group.first_missing(), group.bytes_live()), (None, 60));
        group.truncate_after(None);
        assert_eq!((group.summary.span, group.bytes_live()), (None, 0));
    }
}
