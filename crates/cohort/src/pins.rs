//! Which history scans under way need, and which horizons are about to rise: no horizon passes a pin.

use crate::clock::locked;
use skein_model::{TableId, TxClock};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};

/// Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pins {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// Read times of scans under way, with how many read at each.
    times: BTreeMap<TxClock, usize>,
    /// Horizons that were proposed, and may be in force before the next scan looks.
    intended: HashMap<Option<TableId>, TxClock>,
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

    /// Settles which horizons are to rise: `plan` is given the oldest pinned time, which none of them may pass, and no
    /// scan is pinned below them from then on.
    pub(crate) fn intend(
        &self,
        plan: impl FnOnce(TxClock) -> Vec<(Option<TableId>, TxClock)>,
    ) -> Vec<(Option<TableId>, TxClock)> {
        let mut state = self.lock();
        let oldest = state.times.keys().next().copied().unwrap_or(TxClock::MAX);
        let horizons = plan(oldest);
        for (table, time) in &horizons {
            let intended = state.intended.entry(*table).or_default();
            *intended = time.max(intended).to_owned();
        }
        horizons
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
            pins.intend(|oldest| {
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
    fn nothing_is_pinned_below_a_horizon_that_is_about_to_rise() {
        let pins = Pins::default();
        pins.intend(|_| vec![(None, TxClock(50)), (Some(OTHER), TxClock(15))]);
        assert_eq!(pin(&pins, TABLE, 49).unwrap_err(), TxClock(50));
        assert!(pin(&pins, TABLE, 50).is_ok());
        // A table with a horizon of its own does not follow the default.
        assert_eq!(pin(&pins, OTHER, 14).unwrap_err(), TxClock(15));
        assert!(pin(&pins, OTHER, 15).is_ok());
        assert!(pins.pin(TABLE, TxClock(20), TxClock(20), true).is_ok());
    }

    #[test]
    fn nothing_is_pinned_below_the_horizon_in_force() {
        assert_eq!(pin(&Pins::default(), TABLE, 9).unwrap_err(), TxClock(10));
    }
}
