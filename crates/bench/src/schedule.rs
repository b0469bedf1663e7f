//! When an open-loop run sends what: arrivals at a fixed rate, whatever the server does.

use std::time::Duration;

const NANOS: u128 = 1_000_000_000;

/// One thread's share of the arrivals of a run: those numbered `first`, `first + stride`, `first + 2 stride`, …
///
/// Arrival `k` of the run is due `k / rate` seconds after its start. Everything is computed from `k` with whole
/// numbers, never by adding up periods, so a long run does not drift.
#[derive(Clone, Copy, Debug)]
pub struct Arrivals {
    per_second: u64,
    first: u64,
    stride: u64,
}

impl Arrivals {
    /// The share of thread `first` out of `stride` threads, of `per_second` arrivals in all; zeros count as 1.
    pub fn new(per_second: u64, first: u64, stride: u64) -> Self {
        Arrivals { per_second: per_second.max(1), first, stride: stride.max(1) }
    }

    /// How long after the start this thread's arrival number `own` (from 0) is due.
    pub fn offset(&self, own: u64) -> Duration {
        let k = u128::from(self.first) + u128::from(own) * u128::from(self.stride);
        let nanos = k * NANOS / u128::from(self.per_second);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// How many of this thread's arrivals have an offset of at most `elapsed`.
    pub fn due(&self, elapsed: Duration) -> u64 {
        // Arrival k is due when floor(k * NANOS / rate) <= e, that is when k < (e + 1) * rate / NANOS.
        self.below((elapsed.as_nanos() + 1) * u128::from(self.per_second))
    }

    /// How many of this thread's arrivals have an offset of less than `elapsed`.
    pub fn before(&self, elapsed: Duration) -> u64 {
        self.below(elapsed.as_nanos() * u128::from(self.per_second))
    }

    /// How many of this thread's arrivals have a number below `scaled / NANOS`.
    fn below(&self, scaled: u128) -> u64 {
        let all = u64::try_from(scaled.div_ceil(NANOS)).unwrap_or(u64::MAX);
        all.saturating_sub(self.first).div_ceil(self.stride)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_are_a_period_apart_and_never_drift() {
        let arrivals = Arrivals::new(1000, 0, 1);
        assert_eq!(arrivals.offset(0), Duration::ZERO);
        assert_eq!(arrivals.offset(1), Duration::from_millis(1));
        assert_eq!(arrivals.offset(86_400_000), Duration::from_secs(86_400));
        // A period of a third of a microsecond: a billion of them are still exact.
        assert_eq!(Arrivals::new(3_000_000, 0, 1).offset(3_000_000_000), Duration::from_secs(1000));
    }

    #[test]
    fn threads_share_the_arrivals_without_overlap() {
        let mut all: Vec<_> =
            (0..4).flat_map(|t| (0..25).map(move |own| Arrivals::new(700, t, 4).offset(own))).collect();
        all.sort();
        let alone: Vec<_> = (0..100).map(|own| Arrivals::new(700, 0, 1).offset(own)).collect();
        assert_eq!(all, alone);
    }

    #[test]
    fn due_counts_exactly_the_arrivals_whose_moment_has_come() {
        for rate in [1, 3, 700, 999_999_937] {
            for (first, stride) in [(0, 1), (1, 3), (2, 3)] {
                let arrivals = Arrivals::new(rate, first, stride);
                for own in 0..50 {
                    let at = arrivals.offset(own);
                    let same_moment = (own..own + 4).take_while(|k| arrivals.offset(*k) == at).count() as u64;
                    assert_eq!(arrivals.due(at), own + same_moment, "rate {rate}, own {own}");
                    if own > 0 && arrivals.offset(own - 1) < at {
                        assert_eq!(arrivals.before(at), own, "rate {rate}, own {own}");
                    }
                }
            }
        }
    }

    #[test]
    fn nothing_is_before_the_start() {
        assert_eq!(Arrivals::new(10, 0, 1).before(Duration::ZERO), 0);
        assert_eq!(Arrivals::new(10, 0, 1).due(Duration::ZERO), 1);
        assert_eq!(Arrivals::new(10, 1, 2).due(Duration::ZERO), 0);
    }
}
