//! Where queued records will go, decided before they are accepted: so that an append that does not fit is
//! refused while nothing has been written.
//!
//! The records are placed on paper, by the writer's own rule (next fit), but with the largest possible
//! state at the start of each segment. The writer therefore never is further than the paper: what fits
//! here fits there.

use std::collections::VecDeque;
use std::sync::Arc;

use super::segment::{SEGMENT_HEADER, Segment};

/// The paper.
pub(super) struct Room {
    /// Where the next record goes in the segment reached on paper.
    at: u64,
    /// Where records end in that segment.
    end: u64,
    /// Segments that hold queued records on paper and that the writer has not begun.
    claimed: VecDeque<Arc<Segment>>,
    /// Segments behind those, prepared and empty.
    ready: VecDeque<Arc<Segment>>,
    /// The most that the state of all groups takes at the start of a segment.
    pub state_bytes_max: u64,
}

/// Not enough segments; this many prepared ones would do.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Short {
    pub segments: usize,
}

impl Room {
    /// Room in `current` from byte `at` on, and in `ready`.
    pub fn new(current: &Segment, at: u64, ready: VecDeque<Arc<Segment>>, state_bytes_max: u64) -> Room {
        Room { at, end: current.records_end(), claimed: VecDeque::new(), ready, state_bytes_max }
    }

    /// Prepared segments that nothing is queued for.
    pub fn ready(&self) -> usize {
        self.ready.len()
    }

    /// Hands over a prepared segment, whose generation follows all others.
    pub fn add(&mut self, segment: Arc<Segment>) {
        self.ready.push_back(segment);
    }

    /// Places records of these sizes (padding included), all or none of them.
    pub fn place(&mut self, sizes: impl Iterator<Item = u64>) -> Result<(), Short> {
        let (mut at, mut end, mut used) = (self.at, self.end, 0);
        let spare = self.ready.back().map_or(end, |segment| segment.records_end());
        for size in sizes {
            if at + size > end {
                at = SEGMENT_HEADER + self.state_bytes_max;
                end = self.ready.get(used).map_or(spare, |segment| segment.records_end());
                used += 1;
            }
            at += size;
        }
        if used > self.ready.len() {
            return Err(Short { segments: used });
        }
        self.claimed.extend(self.ready.drain(..used));
        (self.at, self.end) = (at, end);
        Ok(())
    }

    /// Places a record only if no new segment is needed for it.
    pub fn place_here(&mut self, size: u64) -> bool {
        let fits = self.at + size <= self.end;
        if fits {
            self.at += size;
        }
        fits
    }

    /// Whether any number of records of `bytes` bytes in total will fit, whatever their order.
    pub fn promises(&self, bytes: u64) -> Result<(), Short> {
        if bytes <= self.end.saturating_sub(self.at) {
            return Ok(());
        }
        let Some(smallest) = self.ready.iter().map(|segment| self.usable(segment)).min() else {
            return Err(Short { segments: 1 });
        };
        // Next fit fills any two neighbouring segments with more than one segment's worth.
        let promised = smallest * (self.ready.len() as u64).div_ceil(2);
        if bytes <= promised {
            return Ok(());
        }
        let pairs = bytes.div_ceil(smallest.max(1));
        Err(Short { segments: usize::try_from(2 * pairs - 1).unwrap_or(usize::MAX) })
    }

    fn usable(&self, segment: &Segment) -> u64 {
        segment.records_end().saturating_sub(SEGMENT_HEADER + self.state_bytes_max)
    }

    /// The writer goes on to the next segment.
    pub fn begin_next(&mut self) -> Option<Arc<Segment>> {
        self.claimed.pop_front()
    }

    /// Nothing is queued and the writer stands at `at` in `current`: the paper follows it back.
    pub fn settle(&mut self, current: &Segment, at: u64) {
        while let Some(segment) = self.claimed.pop_back() {
            self.ready.push_front(segment);
        }
        (self.at, self.end) = (at, current.records_end());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::disk::MemDisk;

    fn segment(generation: u64) -> Arc<Segment> {
        let disk = MemDisk::new();
        Arc::new(Segment::prepare(&disk, 1, generation, 16_384, None).unwrap())
    }

    fn room(ready: u64) -> Room {
        Room::new(&segment(1), SEGMENT_HEADER, (2..2 + ready).map(segment).collect(), 1000)
    }

    #[test]
    fn a_placement_that_does_not_fit_changes_nothing_and_says_how_many_segments_would_do() {
        let mut room = room(1);
        assert_eq!(room.place([8000, 8000, 8000, 8000].into_iter()), Err(Short { segments: 3 }));
        room.place([8000, 8000].into_iter()).unwrap();
        assert_eq!((room.ready(), room.begin_next().unwrap().generation), (0, 2));
        assert_eq!(room.place([8000].into_iter()), Err(Short { segments: 1 }));
        assert!(room.place_here(100));
        assert!(!room.place_here(8000));
    }

    proptest! {
        #[test]
        fn what_was_promised_fits_in_any_pieces(
            ready in 0u64..6, taken in 0u64..13_000, pieces in proptest::collection::vec(1u64..11_000, 1..12),
        ) {
            let mut room = room(ready);
            room.place_here(taken.min(12_208));
            let total = pieces.iter().sum();
            if room.promises(total).is_ok() {
                prop_assert_eq!(room.place(pieces.into_iter()), Ok(()));
            }
        }

        #[test]
        fn the_writer_never_needs_a_segment_the_paper_has_not_claimed(
            sizes in proptest::collection::vec(1u64..11_000, 1..60), state in 0u64..1000,
        ) {
            let mut room = room(60);
            let (mut at, mut begun) = (SEGMENT_HEADER, 0);
            for size in sizes {
                room.place([size].into_iter()).unwrap();
                if at + size > 16_384 - crate::log::segment::SEGMENT_TRAILER {
                    prop_assert!(room.begin_next().is_some(), "after {} segments", begun);
                    at = SEGMENT_HEADER + state;
                    begun += 1;
                }
                at += size;
            }
        }
    }
}
