//! Which history scans under way need, and which horizons are about to rise: no horizon passes a pin.
//!
//! A pin lives as long as one request. Between two requests of a scan nobody here knows whether the next one will come,
//! so the history at its time is *kept* for a while: [`KEPT_FOR`].

use crate::clock::locked;
use skein_model::{TableId, TxClock};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::time::Instant;

/// How long after a scan's request the history at its time stays readable, so that the next request finds it.
pub const KEPT_FOR: Duration = Duration::from_secs(60);
/// Scans between two requests whose history is kept, at most.
const KEPT_MAX: usize = 64 << 10;

/// Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pins {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// Read times of scans under way, with how many read at each.
    times: BTreeMap<TxClock, usize>,
    /// Times that are kept readable, and until when.
    kept: BTreeMap<TxClock, Instant>,
    /// Horizons that were proposed, and may be in force before the next scan looks.
    intended: BTreeMap<Option<TableId>, TxClock>,
}

/// Keeps the history at one time readable while it lives.
#[derive(Debug)]
pub(crate) struct Pin {
    pins: Pins,
    time: TxClock,
}

impl Pins {
    fn lock(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }

    /// Keeps `table` readable at `time`; or says the oldest time that still can be.
    ///
    /// `present` is the horizon in force, and `own` whether it is the table's own rather than the default.
    pub(crate) fn pin(
        &self,
        table: TableId,
        time: TxClock,
        present: TxClock,
        own: bool,
    ) -> Result<Pin, TxClock> {
        let mut state = self.lock();
        let intended = match state.intended.get(&Some(table)) {
            Some(intended) => Some(intended),
            None if own => None,
            None => state.intended.get(&None),
        };
        let oldest = intended.copied().unwrap_or_default().max(present);
        if time < oldest {
            return Err(oldest);
        }
        *state.times.entry(time).or_insert(0) += 1;
        Ok(Pin { pins: self.clone(), time })
    }

    /// Forgets which horizons were about to rise: none of them is any more.
    pub(crate) fn forget_intentions(&self) {
        self.lock().intended.clear();
    }

    /// Settles which horizons are to rise: `plan` is given the oldest time pinned or kept, which none of them may pass,
    /// and no scan is pinned below them from then on.
    pub(crate) fn intend(
        &self,
        now: Instant,
        plan: impl FnOnce(TxClock) -> Vec<(Option<TableId>, TxClock)>,
    ) -> Vec<(Option<TableId>, TxClock)> {
        let mut state = self.lock();
        state.kept.retain(|_, until| now < *until);
        let pinned = state.times.keys().next().copied().unwrap_or(TxClock::MAX);
        let kept = state.kept.keys().next().copied().unwrap_or(TxClock::MAX);
        let oldest = pinned.min(kept);
        let horizons = plan(oldest);
        for (table, time) in &horizons {
            let intended = state.intended.entry(*table).or_default();
            *intended = time.max(intended).to_owned();
        }
        horizons
    }
}

impl Pin {
    /// Keeps the pinned time readable for [`KEPT_FOR`] from `now` on. Says no when there are too many to keep.
    pub(crate) fn keep(self, now: Instant) -> bool {
        let mut state = self.pins.lock();
        if KEPT_MAX <= state.kept.len() && !state.kept.contains_key(&self.time) {
            state.kept.retain(|_, until| now < *until);
            if KEPT_MAX <= state.kept.len() {
                return false;
            }
        }
        state.kept.insert(self.time, now + KEPT_FOR);
        true
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut state = self.pins.lock();
        if let Some(count) = state.times.get_mut(&self.time) {
            *count -= 1;
            if *count == 0 {
                state.times.remove(&self.time);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: TableId = TableId(1);
    const OTHER: TableId = TableId(2);

    fn pin(pins: &Pins, table: TableId, time: u64) -> Result<Pin, TxClock> {
        pins.pin(table, TxClock(time), TxClock(10), false)
    }

    #[test]
    fn no_horizon_passes_the_oldest_pin_until_it_is_dropped() {
        let pins = Pins::default();
        let (first, again, later) = (pin(&pins, TABLE, 20), pin(&pins, TABLE, 20), pin(&pins, OTHER, 30));
        let oldest = || {
            let mut seen = TxClock::ZERO;
            pins.intend(Instant::now(), |oldest| {
                seen = oldest;
                Vec::new()
            });
            seen
        };
        assert_eq!(oldest(), TxClock(20));
        drop(first);
        assert_eq!(oldest(), TxClock(20));
        drop(again);
        assert_eq!(oldest(), TxClock(30));
        drop(later);
        assert_eq!(oldest(), TxClock::MAX);
    }

    #[test]
    fn what_a_scan_goes_on_with_is_kept_for_a_while_after_its_last_request() {
        let (pins, start) = (Pins::default(), Instant::now());
        let oldest_at = |now| {
            let mut seen = TxClock::ZERO;
            pins.intend(now, |oldest| {
                seen = oldest;
                Vec::new()
            });
            seen
        };
        assert!(pin(&pins, TABLE, 20).unwrap().keep(start));
        assert_eq!(oldest_at(start + KEPT_FOR / 2), TxClock(20));
        assert!(pin(&pins, TABLE, 20).unwrap().keep(start + KEPT_FOR / 2));
        assert_eq!(oldest_at(start + KEPT_FOR), TxClock(20));
        assert_eq!(oldest_at(start + KEPT_FOR * 3 / 2), TxClock::MAX);
    }

    #[test]
    fn only_so_many_scans_are_kept_and_they_make_room_in_time() {
        let (pins, start) = (Pins::default(), Instant::now());
        for time in 0..KEPT_MAX as u64 {
            assert!(pin(&pins, TABLE, 20 + time).unwrap().keep(start));
        }
        assert!(!pin(&pins, TABLE, 15).unwrap().keep(start));
        assert!(pin(&pins, TABLE, 20).unwrap().keep(start));
        assert!(pin(&pins, TABLE, 15).unwrap().keep(start + KEPT_FOR));
    }

    #[test]
    fn nothing_is_pinned_below_a_horizon_that_is_about_to_rise() {
        let pins = Pins::default();
        let now = Instant::now();
        pins.intend(now, |_| vec![(None, TxClock(50)), (Some(OTHER), TxClock(15))]);
        assert_eq!(pin(&pins, TABLE, 49).unwrap_err(), TxClock(50));
        assert!(pin(&pins, TABLE, 50).is_ok());
        // A table with a horizon of its own does not follow the default.
        assert_eq!(pin(&pins, OTHER, 14).unwrap_err(), TxClock(15));
        assert!(pin(&pins, OTHER, 15).is_ok());
        assert!(pins.pin(TABLE, TxClock(20), TxClock(20), true).is_ok());
        pins.forget_intentions();
        assert!(pin(&pins, TABLE, 10).is_ok());
    }

    #[test]
    fn nothing_is_pinned_below_the_horizon_in_force() {
        assert_eq!(pin(&Pins::default(), TABLE, 9).unwrap_err(), TxClock(10));
    }
}
