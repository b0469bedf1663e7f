//! Times: the [`TxClock`] that orders the versions of a row, and the hybrid clock that hands them out.

use crate::limits::SKEW_MAX_MICROS;
use crate::number::{NumberError, parse_u64};
use std::fmt;
use std::str::FromStr;

/// Microseconds since the Unix epoch, unsigned. Zero stands for "never written".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
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
