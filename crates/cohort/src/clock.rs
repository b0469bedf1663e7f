//! The cohort's clock: which times may be issued and promised, and which writes a read has to wait for.
//!
//! Three facts meet here, under one lock held for nanoseconds:
//! * `hybrid`: the latest time issued or promised. Issues and promises only ever raise it.
//! * `ceiling`: replicated. No promise lies above it, so that a new leader, which issues only times above it, can
//!   break none. An issued time needs no ceiling: the entry that carries the time carries a later ceiling too.
//! * `outstanding`: entries proposed and not yet applied, with the first time in each. A read at or after that
//!   time has to wait for the entry's fate; a read of the present goes just before it instead, and need not wait.

use skein_model::{FutureTime, HybridClock, TxClock};
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How far the ceiling lies ahead of the time it is renewed at, in microseconds. A restarted cohort begins this
/// far ahead of its last promise, at worst.
pub const CEILING_LEAD_MICROS: u64 = 3_000_000;

/// Locks what is left whole after every step, so that a panic of another holder is no reason to give up.
pub fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A pure state; the caller brings the wall clock in microseconds since the Unix epoch.
#[derive(Debug)]
pub struct CohortClock {
    hybrid: HybridClock,
    ceiling: TxClock,
    outstanding: VecDeque<(u64, TxClock)>,
}

/// What a read may do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadAt {
    /// Read at this time; it is promised, and everything at or before it is applied.
    Now(TxClock),
    /// Promised; wait until this entry is applied, then read at the time.
    AfterEntry {
        /// The time to read at.
        time: TxClock,
        /// Sequence of the last entry that may hold a write at or before that time.
        sequence: u64,
    },
    /// The ceiling is too low to promise the time; have it raised above `time`, then ask again.
    RaiseCeiling {
        /// What could not be promised.
        time: TxClock,
    },
}

impl CohortClock {
    /// The clock of a leader that found this ceiling in the replicated state.
    pub fn starting_at(ceiling: TxClock) -> CohortClock {
        CohortClock { hybrid: HybridClock::starting_after(ceiling), ceiling, outstanding: VecDeque::new() }
    }

    /// The present: at or after every time issued or promised.
    pub fn now(&self, wall: u64) -> TxClock {
        self.hybrid.now(wall)
    }

    /// Whether a time that a client names is acceptable; see [`HybridClock::check_asked`].
    pub fn check_asked(&self, wall: u64, asked: TxClock) -> Result<(), FutureTime> {
        self.hybrid.check_asked(wall, asked)
    }

    /// The ceiling that an entry proposed now should carry so that `floor` can be promised once it is applied.
    pub fn next_ceiling(&self, wall: u64, floor: TxClock) -> TxClock {
        TxClock(self.hybrid.now(wall).max(floor).0.saturating_add(CEILING_LEAD_MICROS)).max(self.ceiling)
    }

    /// The time of the next write, which goes into entry `sequence`: later than all times issued and promised, than
    /// `after`, and than the wall clock. From here on reads know that the entry is outstanding.
    pub fn issue(&mut self, sequence: u64, wall: u64, after: TxClock) -> TxClock {
        let time = self.hybrid.issue(wall, after);
        if self.outstanding.back().is_none_or(|(s, _)| *s != sequence) {
            self.outstanding.push_back((sequence, time));
        }
        time
    }

    /// All entries up to `sequence` are applied, and the replicated ceiling is now `ceiling`.
    pub fn applied(&mut self, sequence: u64, ceiling: TxClock) {
        while self.outstanding.front().is_some_and(|(s, _)| *s <= sequence) {
            self.outstanding.pop_front();
        }
        self.ceiling = self.ceiling.max(ceiling);
    }

    /// An entry that is not ours was applied; its ceiling holds for us too, and our times must lie above its.
    pub fn saw_ceiling(&mut self, ceiling: TxClock) {
        if self.ceiling < ceiling {
            self.ceiling = ceiling;
            self.hybrid.promise(ceiling);
        }
    }

    /// A read of the present: sees every write acknowledged so far, and never waits for one that is not.
    ///
    /// `settle` is for a caller that could not get the ceiling raised: it is given the latest time that can be promised.
    pub fn read_present(&mut self, wall: u64, settle: bool) -> ReadAt {
        if let Some((_, first)) = self.outstanding.front() {
            // Everything before is applied, and every later issue is later than `first`. But that entry may never
            // become durable, and a successor knows nothing of its times: it only stays above the ceiling.
            return ReadAt::Now(first.prev().min(self.ceiling));
        }
        let mut time = self.hybrid.now(wall);
        if self.ceiling < time {
            if !settle {
                return ReadAt::RaiseCeiling { time };
            }
            // Every acknowledged write lies at or below the ceiling that its own entry carried.
            time = self.ceiling;
        }
        self.hybrid.promise(time);
        ReadAt::Now(time)
    }

    /// A read at a time that the client names and [`CohortClock::check_asked`] accepted, or that another leader promised.
    pub fn read_at(&mut self, time: TxClock) -> ReadAt {
        // Also when the time was issued already: the write that has it may never become durable.
        if self.ceiling < time {
            return ReadAt::RaiseCeiling { time };
        }
        self.hybrid.promise(time);
        match self.outstanding_at(time) {
            Some(sequence) => ReadAt::AfterEntry { time, sequence },
            None => ReadAt::Now(time),
        }
    }

    /// The first time in the oldest entry not applied yet; zero without one.
    pub fn oldest_outstanding(&self) -> TxClock {
        self.outstanding.front().map_or(TxClock::ZERO, |(_, first)| *first)
    }

    /// The last entry not applied yet that may hold a write at or before `time`.
    pub fn outstanding_at(&self, time: TxClock) -> Option<u64> {
        self.outstanding.iter().rev().find(|(_, first)| *first <= time).map(|(sequence, _)| *sequence)
    }

    /// The horizon of some table is being raised to `time`: every write from here on has to lie after it, even if the
    /// wall clock that it was taken from is set back.
    pub fn pass_horizon(&mut self, time: TxClock) {
        self.hybrid.promise(time);
    }

    /// The latest time promised or issued.
    pub fn last(&self) -> TxClock {
        self.hybrid.last()
    }

    /// The replicated ceiling.
    pub fn ceiling(&self) -> TxClock {
        self.ceiling
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WALL: u64 = 10_000_000_000;

    fn clock() -> CohortClock {
        let mut clock = CohortClock::starting_at(TxClock(WALL));
        clock.applied(0, TxClock(WALL + CEILING_LEAD_MICROS));
        clock
    }

    #[test]
    fn a_read_of_the_present_goes_just_before_the_first_unapplied_write() {
        let mut clock = clock();
        let first = clock.issue(1, WALL + 10, TxClock::ZERO);
        clock.issue(1, WALL + 10, TxClock::ZERO);
        clock.issue(2, WALL + 20, TxClock::ZERO);
        assert_eq!(clock.read_present(WALL + 30, false), ReadAt::Now(first.prev()));
        clock.applied(1, TxClock::ZERO);
        assert_eq!(clock.read_present(WALL + 30, false), ReadAt::Now(TxClock(WALL + 20)));
    }

    #[test]
    fn a_write_after_a_read_gets_a_later_time_even_when_the_wall_clock_went_back() {
        let mut clock = clock();
        let ReadAt::Now(read) = clock.read_present(WALL + 500, false) else { panic!("has to be readable") };
        assert!(read < clock.issue(1, WALL - 3_600_000_000, TxClock::ZERO));
    }

    #[test]
    fn a_read_at_a_named_time_waits_for_the_writes_at_or_before_it() {
        let mut clock = clock();
        let first = clock.issue(7, WALL + 10, TxClock::ZERO);
        let second = clock.issue(8, WALL + 10, TxClock::ZERO);
        assert_eq!(clock.read_at(first), ReadAt::AfterEntry { time: first, sequence: 7 });
        assert_eq!(clock.read_at(second), ReadAt::AfterEntry { time: second, sequence: 8 });
        assert_eq!(clock.read_at(first.prev()), ReadAt::Now(first.prev()));
    }

    #[test]
    fn no_promise_lies_above_the_ceiling() {
        let mut clock = clock();
        let late = WALL + CEILING_LEAD_MICROS + 1;
        assert_eq!(clock.read_present(late, false), ReadAt::RaiseCeiling { time: TxClock(late) });
        assert_eq!(clock.read_at(TxClock(late)), ReadAt::RaiseCeiling { time: TxClock(late) });
        assert_eq!(clock.read_present(late, true), ReadAt::Now(clock.ceiling()));
        assert!(TxClock(late) < clock.next_ceiling(late, TxClock::ZERO));
    }

    #[test]
    fn a_restarted_clock_issues_later_than_every_promise_of_its_predecessor() {
        let mut before = clock();
        let ReadAt::Now(promised) = before.read_at(TxClock(WALL + CEILING_LEAD_MICROS)) else {
            panic!("the ceiling itself can be promised")
        };
        let mut after = CohortClock::starting_at(before.ceiling());
        assert!(promised < after.issue(1, 0, TxClock::ZERO));
    }

    #[test]
    fn no_read_beside_an_entry_under_way_lies_above_the_ceiling() {
        let mut clock = clock();
        let ceiling = clock.ceiling();
        let first = clock.issue(1, WALL + 3_600_000_000, TxClock::ZERO);
        assert_eq!(clock.read_present(WALL + 3_600_000_000, false), ReadAt::Now(ceiling));
        for time in [first.prev(), first] {
            assert_eq!(clock.read_at(time), ReadAt::RaiseCeiling { time });
        }
        assert_eq!(clock.read_at(ceiling), ReadAt::Now(ceiling));
    }

    #[test]
    fn no_time_lies_at_or_before_a_raised_horizon_even_when_the_wall_clock_goes_back() {
        let mut clock = clock();
        let horizon = TxClock(WALL + 86_400_000_000);
        clock.pass_horizon(horizon);
        assert!(horizon <= clock.now(WALL));
        assert!(horizon < clock.issue(1, WALL, TxClock::ZERO));
    }
}
