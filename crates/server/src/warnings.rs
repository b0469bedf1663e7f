//! How often the log hears of requests that fail in the same way. Under overload thousands do every second, and a
//! flood of equal lines hides the first one and costs what is short anyway.

use crate::problem::Kind;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// At most one line of a kind in this time.
const INTERVAL: Duration = Duration::from_secs(1);

/// When each kind of problem was last told, and how many were not since.
#[derive(Debug)]
pub(crate) struct Warnings {
    /// At the place of the kind in [`Kind::ALL`]; few ever occur.
    told: Mutex<[Option<Told>; Kind::ALL.len()]>,
}

#[derive(Debug, Clone, Copy)]
struct Told {
    at: Instant,
    held_back: u64,
}

impl Default for Warnings {
    fn default() -> Warnings {
        Warnings { told: Mutex::new([None; Kind::ALL.len()]) }
    }
}

impl Warnings {
    /// Whether to tell of a problem now: with how many of its kind were held back since the last that was told.
    pub(crate) fn may_tell(&self, kind: Kind, now: Instant) -> Option<u64> {
        let place = Kind::ALL.iter().position(|other| *other == kind)?;
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut told[place] {
            Some(last) if now.saturating_duration_since(last.at) < INTERVAL => {
                last.held_back += 1;
                None
            }
            last => last.replace(Told { at: now, held_back: 0 }).map(|last| last.held_back).or(Some(0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_one_kind_is_told_once_a_second_with_its_number_and_hides_no_other_kind() {
        let warnings = Warnings::default();
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        assert_eq!(warnings.may_tell(Kind::Overloaded, at(0)), Some(0));
        for millis in 1..=500 {
            assert_eq!(warnings.may_tell(Kind::Overloaded, at(millis)), None);
        }
        assert_eq!(warnings.may_tell(Kind::Damaged, at(500)), Some(0));
        assert_eq!(warnings.may_tell(Kind::Overloaded, at(1_000)), Some(500));
        assert_eq!(warnings.may_tell(Kind::Overloaded, at(2_500)), Some(0));
    }
}
