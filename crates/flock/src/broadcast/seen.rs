//! Which broadcasts have been here: per run of an origin, a window over its numbers.

use super::MessageId;
use crate::time::Time;
use skein_model::HostId;

/// How far behind the newest broadcast of an origin another may be and still be told from one that came before.
pub const WINDOW: u32 = 128;

/// How far ahead of what is known of an origin a broadcast may be; farther is a lie that would close the window on
/// what the origin really sends.
pub const LEAP_MAX: u32 = 1 << 20;

/// What is known of a broadcast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// It has not been here.
    New,
    /// It has been here.
    Seen,
    /// So far behind its origin's newest that nobody knows any more.
    TooOld,
    /// So far ahead that it is not believed.
    TooFar,
}

#[derive(Clone, Copy, Debug)]
struct Row {
    origin: HostId,
    incarnation: u64,
    /// Bit i: `highest - i` has been here. Two halves, so that the row is aligned to eight bytes.
    window: [u64; 2],
    highest: u32,
    /// When a broadcast of it came last, in [`stamp`]s.
    used: u32,
}

/// Time in units of 65.5 ms: four bytes for nine years.
fn stamp(now: Time) -> u32 {
    (now.0 >> 16) as u32
}

/// The windows of the runs of origins heard of, least recently used out.
#[derive(Debug, Default)]
pub struct Seen {
    /// Beside the rows, so that a search touches few cache lines.
    tags: Vec<u32>,
    rows: Vec<Row>,
}

impl Seen {
    /// What is known of the broadcast, by its short name.
    pub fn sight(&self, tag: u32, seq: u32) -> Sight {
        match self.tags.iter().position(|it| *it == tag) {
            Some(at) => self.rows[at].sight(seq),
            None => Sight::New,
        }
    }

    /// What is known of the broadcast.
    pub fn sight_of(&self, id: MessageId) -> Sight {
        match self.find(id) {
            Some(at) => self.rows[at].sight(id.seq),
            None => Sight::New,
        }
    }

    /// Remembers that the broadcast was here; it must not be too old. At most `max` runs of origins are remembered.
    pub fn mark(&mut self, id: MessageId, now: Time, max: usize) {
        let at = match self.find(id) {
            Some(at) => at,
            None => self.add(id, max),
        };
        let row = &mut self.rows[at];
        row.used = stamp(now);
        let mut window = u128::from(row.window[0]) | u128::from(row.window[1]) << 64;
        if id.seq > row.highest {
            window = window.checked_shl(id.seq - row.highest).unwrap_or(0);
            row.highest = id.seq;
        }
        window |= 1_u128.checked_shl(row.highest - id.seq).unwrap_or(0);
        row.window = [window as u64, (window >> 64) as u64];
    }

    /// Whose tag this is, if one of its broadcasts was here.
    pub fn origin(&self, tag: u32) -> Option<(HostId, u64)> {
        let at = self.tags.iter().position(|it| *it == tag)?;
        Some((self.rows[at].origin, self.rows[at].incarnation))
    }

    /// The latest run of the origin of which a broadcast was here.
    pub fn latest(&self, origin: HostId) -> Option<u64> {
        self.rows.iter().filter(|row| row.origin == origin).map(|row| row.incarnation).max()
    }

    /// How many runs of origins are remembered.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Of the first few origins, which in most flocks are all: where they are looked up, and their windows.
    pub fn touch(&self) -> u64 {
        let tags = self.tags.iter().step_by(16).take(4).fold(0, |sum, tag| sum ^ tag);
        let rows = self.rows.iter().take(24).fold(0, |sum, row| sum ^ row.window[0]);
        u64::from(tags) ^ rows
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        self.tags.capacity() * size_of::<u32>() + self.rows.capacity() * size_of::<Row>()
    }

    fn find(&self, id: MessageId) -> Option<usize> {
        let tag = id.tag();
        let same = |row: &Row| row.origin == id.origin && row.incarnation == id.incarnation;
        (0..self.tags.len()).find(|at| self.tags[*at] == tag && same(&self.rows[*at]))
    }

    fn add(&mut self, id: MessageId, max: usize) -> usize {
        let row =
            Row { origin: id.origin, incarnation: id.incarnation, window: [0; 2], highest: id.seq, used: 0 };
        if self.rows.len() >= max.max(1) {
            let oldest = (0..self.rows.len()).min_by_key(|at| self.rows[*at].used).unwrap_or(0);
            self.tags[oldest] = id.tag();
            self.rows[oldest] = row;
            return oldest;
        }
        super::grow(&mut self.tags);
        super::grow(&mut self.rows);
        self.tags.push(id.tag());
        self.rows.push(row);
        self.rows.len() - 1
    }
}

impl Row {
    fn sight(&self, seq: u32) -> Sight {
        match self.highest.checked_sub(seq) {
            None if seq - self.highest > LEAP_MAX => Sight::TooFar,
            None => Sight::New,
            Some(behind) if behind >= WINDOW => Sight::TooOld,
            Some(behind) if self.window[behind as usize / 64] >> (behind % 64) & 1 == 1 => Sight::Seen,
            Some(_) => Sight::New,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn id(origin: u64, incarnation: u64, seq: u32) -> MessageId {
        MessageId { origin: HostId(origin), incarnation, seq }
    }

    proptest! {
        #[test]
        fn the_window_agrees_with_a_set(seqs in prop::collection::vec(1_u32..400, 1..200)) {
            let (mut seen, mut model) = (Seen::default(), BTreeSet::new());
            for seq in seqs {
                let expected = match model.last() {
                    Some(last) if *last >= seq && last - seq >= WINDOW => Sight::TooOld,
                    _ if model.contains(&seq) => Sight::Seen,
                    _ => Sight::New,
                };
                prop_assert_eq!(seen.sight_of(id(1, 1, seq)), expected);
                prop_assert_eq!(seen.sight(id(1, 1, seq).tag(), seq), expected);
                if expected == Sight::New {
                    seen.mark(id(1, 1, seq), Time(0), 8);
                    model.insert(seq);
                }
            }
        }
    }

    #[test]
    fn a_restarted_origin_begins_a_window_of_its_own() {
        let mut seen = Seen::default();
        seen.mark(id(1, 1, 90), Time(0), 8);
        assert_eq!(seen.sight_of(id(1, 2, 1)), Sight::New);
        seen.mark(id(1, 2, 1), Time(0), 8);
        assert_eq!((seen.sight_of(id(1, 1, 90)), seen.sight_of(id(1, 2, 1))), (Sight::Seen, Sight::Seen));
    }

    #[test]
    fn the_least_recently_used_origin_goes_first() {
        let mut seen = Seen::default();
        for (origin, second) in [(1, 1), (2, 2), (1, 3), (3, 4)] {
            seen.mark(id(origin, 1, second), Time(u64::from(second) * 1_000_000), 2);
        }
        assert_eq!(seen.len(), 2);
        assert_eq!(seen.sight_of(id(1, 1, 3)), Sight::Seen);
        assert_eq!(seen.sight_of(id(2, 1, 2)), Sight::New);
    }

    #[test]
    fn a_leap_is_not_believed() {
        let mut seen = Seen::default();
        seen.mark(id(1, 1, 1), Time(0), 2);
        assert_eq!(seen.sight_of(id(1, 1, u32::MAX)), Sight::TooFar);
        assert_eq!(seen.sight_of(id(1, 1, LEAP_MAX)), Sight::New);
    }
}
