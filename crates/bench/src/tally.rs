//! What came of the requests: latencies of those that succeeded, counts of those that did not.

use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Instant;

/// Why one request did not count as done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// The server answered with this HTTP status.
    Status(u16),
    /// Anything else, in a few words.
    Named(&'static str),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => status.fmt(f),
            Self::Named(name) => f.write_str(name),
        }
    }
}

/// What one operation brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Rows read by a scan; 0 for other operations.
    pub rows: u64,
    /// Bytes of answer bodies.
    pub bytes: u64,
}

/// One operation's end: done, or why not.
pub type Outcome = Result<Done, Failure>;

/// Longest latency told apart; anything longer counts as this. Nanoseconds: ten minutes.
const LATENCY_NANOS_MAX: u64 = 600_000_000_000;

/// Counts of one run, or of one thread's share of it.
#[derive(Clone, Debug)]
pub struct Tally {
    /// Latencies of successful operations in nanoseconds, three significant digits.
    pub latency: Histogram<u64>,
    /// Failed operations by kind. Their latencies are left out: a quick refusal would flatter the percentiles.
    pub failures: BTreeMap<Failure, u64>,
    /// Rows read by scans.
    pub rows: u64,
    /// Bytes of successful answers' bodies.
    pub bytes: u64,
    /// Arrivals of an open-loop run that were due but never sent, because every client was still waiting.
    pub unsent: u64,
    first_start: Option<Instant>,
    last_end: Option<Instant>,
}

impl Default for Tally {
    fn default() -> Self {
        Self::new()
    }
}

impl Tally {
    /// Nothing counted yet.
    pub fn new() -> Self {
        Tally {
            latency: Histogram::new_with_bounds(1, LATENCY_NANOS_MAX, 3)
                .expect("the bounds are constants that the histogram accepts"),
            failures: BTreeMap::new(),
            rows: 0,
            bytes: 0,
            unsent: 0,
            first_start: None,
            last_end: None,
        }
    }

    /// Counts one operation that was due at `due`, was sent at `start` (not before `due`) and ended at `end`.
    /// Its latency runs from `due`.
    pub fn record(&mut self, due: Instant, start: Instant, end: Instant, outcome: Outcome) {
        self.first_start = Some(self.first_start.map_or(start, |first| first.min(start)));
        self.last_end = Some(self.last_end.map_or(end, |last| last.max(end)));
        match outcome {
            Ok(done) => {
                let nanos = end.saturating_duration_since(due).as_nanos();
                self.latency.saturating_record(u64::try_from(nanos).unwrap_or(u64::MAX).max(1));
                self.rows += done.rows;
                self.bytes += done.bytes;
            }
            Err(failure) => *self.failures.entry(failure).or_default() += 1,
        }
    }

    /// Adds what another thread counted in the same run.
    pub fn merge(&mut self, other: &Tally) {
        // Both have the bounds of `new`, so there is nothing the addition could refuse.
        self.latency.add(&other.latency).expect("both histograms have the same bounds");
        for (failure, count) in &other.failures {
            *self.failures.entry(*failure).or_default() += count;
        }
        self.rows += other.rows;
        self.bytes += other.bytes;
        self.unsent += other.unsent;
        self.first_start = [self.first_start, other.first_start].into_iter().flatten().min();
        self.last_end = self.last_end.max(other.last_end);
    }

    /// Operations that succeeded.
    pub fn done(&self) -> u64 {
        self.latency.len()
    }

    /// Operations that failed, all kinds together.
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    /// Seconds from the first counted operation's start to the last one's end; 0 when there was none.
    pub fn seconds(&self) -> f64 {
        match (self.first_start, self.last_end) {
            (Some(first), Some(last)) => last.saturating_duration_since(first).as_secs_f64(),
            _ => 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn latency_runs_from_the_scheduled_moment_and_time_from_the_first_start() {
        let t = Instant::now();
        let mut tally = Tally::new();
        tally.record(t, t + 9 * MS, t + 10 * MS, Ok(Done { rows: 2, bytes: 5 }));
        assert_eq!(tally.latency.max() / 1_000_000, 10);
        assert!((tally.seconds() - 0.001).abs() < 1e-9);
        assert_eq!((tally.done(), tally.rows, tally.bytes), (1, 2, 5));
    }

    #[test]
    fn failures_are_counted_by_kind_and_stay_out_of_the_latencies() {
        let t = Instant::now();
        let mut tally = Tally::new();
        for failure in [Failure::Status(412), Failure::Named("timed out"), Failure::Status(412)] {
            tally.record(t, t, t + MS, Err(failure));
        }
        assert_eq!((tally.done(), tally.failed()), (0, 3));
        assert_eq!(tally.failures[&Failure::Status(412)], 2);
    }

    #[test]
    fn merged_tallies_count_what_both_counted() {
        let t = Instant::now();
        let (mut a, mut b) = (Tally::new(), Tally::new());
        a.record(t, t, t + MS, Ok(Done::default()));
        b.record(t, t + MS, t + 4 * MS, Ok(Done::default()));
        b.record(t, t + MS, t + 3 * MS, Err(Failure::Status(503)));
        b.unsent = 7;
        a.merge(&b);
        assert_eq!((a.done(), a.failed(), a.unsent), (2, 1, 7));
        assert!((a.seconds() - 0.004).abs() < 1e-9);
    }

    #[test]
    fn a_latency_beyond_the_bound_counts_as_the_bound() {
        let t = Instant::now();
        let mut tally = Tally::new();
        tally.record(t, t, t + Duration::from_secs(5000), Ok(Done::default()));
        assert_eq!(tally.done(), 1);
        assert!(tally.latency.max() >= LATENCY_NANOS_MAX);
    }
}
