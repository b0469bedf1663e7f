//! Times: the [`TxClock`] that orders the versions of a row, and the hybrid clock that hands them out.

use crate::limits::SKEW_MAX_MICROS;
use crate::number::{NumberError, parse_u64};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Microseconds since the Unix epoch, unsigned. Zero stands for "never written".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct TxClock(pub u64);

impl TxClock {
    /// Before every version: the time of a row never written.
    pub const ZERO: TxClock = TxClock(0);
    /// After every version.
    pub const MAX: TxClock = TxClock(u64::MAX);

    /// The next time; saturates at [`TxClock::MAX`].
    pub fn next(self) -> TxClock {
        TxClock(self.0.saturating_add(1))
    }

    /// The time before; saturates at [`TxClock::ZERO`].
    pub fn prev(self) -> TxClock {
        TxClock(self.0.saturating_sub(1))
    }

    /// Whole seconds since the Unix epoch, rounded down.
    pub fn seconds(self) -> u64 {
        self.0 / 1_000_000
    }
}

impl fmt::Display for TxClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for TxClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TxClock({})", self.0)
    }
}

impl FromStr for TxClock {
    type Err = NumberError;
    fn from_str(text: &str) -> Result<Self, NumberError> {
        parse_u64(text).map(TxClock)
    }
}

/// A time asked for lies further ahead of the wall clock than we are ready to promise for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("the time {asked} is in the future; the latest time allowed now is {latest}")]
pub struct FutureTime {
    /// The time asked for.
    pub asked: TxClock,
    /// The latest time that would have been accepted.
    pub latest: TxClock,
}

/// A clock that never hands out a time twice and never one at or before a promised time, whatever the wall
/// clock does.
///
/// It reads no clock itself: `wall` is always the caller's reading, in microseconds since the epoch.
/// Source: Kulkarni et al., "Logical Physical Clocks" (2014), with the logical part folded into the
/// microseconds.
#[derive(Debug, Clone)]
pub struct HybridClock {
    last: TxClock,
}

impl HybridClock {
    /// A clock whose next time is later than `floor`.
    pub fn starting_after(floor: TxClock) -> Self {
        Self { last: floor }
    }

    /// The latest time issued, seen or promised.
    pub fn last(&self) -> TxClock {
        self.last
    }

    /// Now, without issuing: the wall clock, or the latest time issued, seen or promised if that is later.
    pub fn now(&self, wall: u64) -> TxClock {
        self.last.max(TxClock(wall))
    }

    /// Issues a time: later than every earlier issue and promise, later than `after`, and later than `wall`.
    pub fn issue(&mut self, wall: u64, after: TxClock) -> TxClock {
        self.last = self.last.max(after).max(TxClock(wall)).next();
        self.last
    }

    /// Promises that every later issue is after `read`.
    pub fn promise(&mut self, read: TxClock) {
        self.last = self.last.max(read);
    }

    /// Accepts a time that a client names, unless it lies [`SKEW_MAX_MICROS`] or more ahead of the wall clock
    /// and is also later than anything this clock ever issued or promised.
    ///
    /// The second half lets clients repeat times that we gave them before the wall clock was set back; that it is
    /// not `last + SKEW_MAX_MICROS` keeps them from pushing the clock ahead step by step.
    pub fn check_asked(&self, wall: u64, asked: TxClock) -> Result<(), FutureTime> {
        let latest = TxClock(wall.saturating_add(SKEW_MAX_MICROS).saturating_sub(1)).max(self.last);
        if latest < asked { Err(FutureTime { asked, latest }) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WALL: u64 = 1_436_030_454_000_000;

    #[test]
    fn on_an_idle_clock_a_write_gets_the_microsecond_after_now() {
        let mut clock = HybridClock::starting_after(TxClock::ZERO);
        assert_eq!(clock.issue(WALL, TxClock::ZERO), TxClock(WALL + 1));
    }

    #[test]
    fn a_wall_clock_set_back_does_not_set_the_times_back() {
        let mut clock = HybridClock::starting_after(TxClock::ZERO);
        let before = clock.issue(WALL, TxClock::ZERO);
        let hour = 3_600_000_000;
        assert_eq!(clock.now(WALL - hour), before);
        assert_eq!(clock.issue(WALL - hour, TxClock::ZERO), before.next());
    }

    #[test]
    fn a_clock_started_after_a_floor_stays_above_it() {
        let mut clock = HybridClock::starting_after(TxClock(WALL + 7));
        assert_eq!(clock.issue(WALL, TxClock::ZERO), TxClock(WALL + 8));
    }

    #[test]
    fn a_write_is_later_than_the_rows_it_replaces() {
        let mut clock = HybridClock::starting_after(TxClock::ZERO);
        assert_eq!(clock.issue(WALL, TxClock(WALL + 99)), TxClock(WALL + 100));
    }

    #[test]
    fn a_time_five_minutes_ahead_is_refused_and_one_microsecond_less_is_not() {
        let clock = HybridClock::starting_after(TxClock::ZERO);
        let latest = TxClock(WALL + SKEW_MAX_MICROS - 1);
        assert_eq!(clock.check_asked(WALL, latest), Ok(()));
        let asked = latest.next();
        assert_eq!(clock.check_asked(WALL, asked), Err(FutureTime { asked, latest }));
        assert!(clock.check_asked(WALL, TxClock::MAX).is_err());
    }

    #[test]
    fn a_time_we_gave_out_is_accepted_after_the_wall_clock_was_set_back_a_day() {
        let mut clock = HybridClock::starting_after(TxClock::ZERO);
        let given = clock.issue(WALL, TxClock::ZERO);
        let yesterday = WALL - 86_400_000_000;
        assert_eq!(clock.check_asked(yesterday, given), Ok(()));
        assert!(clock.check_asked(yesterday, given.next()).is_err());
    }

    #[test]
    fn clients_cannot_walk_the_clock_ahead_step_by_step() {
        let mut clock = HybridClock::starting_after(TxClock::ZERO);
        for _ in 0..3 {
            let asked = TxClock(clock.now(WALL).0 + SKEW_MAX_MICROS - 1);
            if clock.check_asked(WALL, asked).is_ok() {
                clock.promise(asked);
            }
        }
        assert_eq!(clock.last(), TxClock(WALL + SKEW_MAX_MICROS - 1));
    }

    #[test]
    fn times_stop_at_the_ends_of_their_range() {
        assert_eq!(TxClock::MAX.next(), TxClock::MAX);
        assert_eq!(TxClock::ZERO.prev(), TxClock::ZERO);
        assert_eq!(TxClock(1_999_999).seconds(), 1);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Issue { wall: u64, after: u64 },
        Promise { read: u64 },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        // A small range, so that equal and decreasing readings are common.
        let step = prop_oneof![
            (0..50u64, 0..50u64).prop_map(|(wall, after)| Step::Issue { wall, after }),
            (0..50u64).prop_map(|read| Step::Promise { read }),
        ];
        prop::collection::vec(step, 0..60)
    }

    proptest! {
        #[test]
        fn no_time_is_issued_twice_or_at_or_before_a_promise(floor in 0..50u64, steps in steps()) {
            let mut clock = HybridClock::starting_after(TxClock(floor));
            let mut forbidden = TxClock(floor);
            for step in steps {
                match step {
                    Step::Issue { wall, after } => {
                        let issued = clock.issue(wall, TxClock(after));
                        prop_assert!(forbidden < issued);
                        prop_assert!(wall < issued.0 && after < issued.0);
                        // And not later than these call for.
                        prop_assert_eq!(issued, forbidden.max(TxClock(wall)).max(TxClock(after)).next());
                        forbidden = issued;
                    }
                    Step::Promise { read } => {
                        clock.promise(TxClock(read));
                        forbidden = forbidden.max(TxClock(read));
                    }
                }
                prop_assert_eq!(clock.last(), forbidden);
            }
        }
    }
}
