//! Time as the flock is told it.

use std::ops::{Add, Sub};
use std::time::Duration;

/// Microseconds since some moment that the caller chose; never goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(pub u64);

impl Time {
    /// How long ago `earlier` was; zero when it is not in the past.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Time;

    /// Saturates: a deadline too far away to be told is never reached.
    fn add(self, wait: Duration) -> Time {
        Time(self.0.saturating_add(u64::try_from(wait.as_micros()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for Time {
    type Output = Time;

    /// Saturates at zero.
    fn sub(self, back: Duration) -> Time {
        Time(self.0.saturating_sub(u64::try_from(back.as_micros()).unwrap_or(u64::MAX)))
    }
}
