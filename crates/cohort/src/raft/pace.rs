//! How fast something that is counted up goes on of late.

use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;

/// What is older tells nothing about the present pace.
const WINDOW: Duration = Duration::from_secs(10);
/// Readings that are kept; of more, the older ones go first.
const READINGS_MAX: usize = 16;
/// Readings that are closer together tell more of luck than of pace.
const SPAN_MIN: Duration = Duration::from_millis(200);

/// The last readings of a counter that never falls.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    readings: VecDeque<(Instant, u64)>,
}

impl Pace {
    /// Takes a reading. One that is lower than the one before begins anew: what was counted was given up.
    pub(crate) fn note(&mut self, now: Instant, count: u64) {
        if self.readings.back().is_some_and(|(_, last)| count < *last) {
            self.readings.clear();
        }
        self.readings.push_back((now, count));
        // The newest of those before the window stays, so that a pace of one reading a minute can still be told.
        while READINGS_MAX < self.readings.len()
            || self.readings.get(1).is_some_and(|(at, _)| WINDOW < now.duration_since(*at))
        {
            self.readings.pop_front();
        }
    }

    /// By how much it rises in a second; `None` while that cannot be told. It falls while nothing is heard.
    pub(crate) fn per_second(&self, now: Instant) -> Option<u64> {
        let (first, last) = (self.readings.front()?, self.readings.back()?);
        let over = now.saturating_duration_since(first.0);
        if self.readings.len() < 2 || last.0.duration_since(first.0) < SPAN_MIN {
            return None;
        }
        Some(((last.1 - first.1) as f64 / over.as_secs_f64()) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[tokio::test(start_paused = true)]
    async fn the_pace_is_that_of_the_last_ten_seconds_and_falls_in_silence() {
        let start = Instant::now();
        let mut pace = Pace::default();
        assert_eq!(pace.per_second(start), None);
        pace.note(start, 0);
        assert_eq!(pace.per_second(after(start, 1)), None);
        for second in 1..=20 {
            pace.note(after(start, second), 100 * second);
        }
        assert_eq!(pace.per_second(after(start, 20)), Some(100));
        for second in 21..=40 {
            pace.note(after(start, second), 2000 + 7 * (second - 20));
        }
        assert_eq!(pace.per_second(after(start, 40)), Some(7));
        assert!(pace.per_second(after(start, 80)).unwrap() < 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_count_that_begins_anew_has_no_pace_yet_and_readings_stay_few() {
        let start = Instant::now();
        let mut pace = Pace::default();
        pace.note(start, 500);
        pace.note(after(start, 1), 900);
        pace.note(after(start, 2), 10);
        assert_eq!(pace.per_second(after(start, 2)), None);
        for millis in 0..1000u64 {
            pace.note(after(start, 2) + Duration::from_millis(millis), 10 + millis);
        }
        assert!(pace.readings.len() <= READINGS_MAX);
        // Sixteen readings of one millisecond each are too close together to tell.
        assert_eq!(pace.per_second(after(start, 3)), None);
    }
}
