//! Horizons: how far back the past can be read, and what compaction may therefore drop.

use super::codec::{TxRecord, decode_stamp, split_head_key};
use crate::engine::{Drop, Keyspace};
use skein_model::{TableId, TxClock};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

/// Oldest readable times. They only ever rise.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Horizons {
    /// By table; a table that is not here can be read back to its first version.
    pub tables: HashMap<TableId, TxClock>,
    /// Outcomes of transactions decided before this are forgotten.
    pub tx: TxClock,
}

impl Horizons {
    /// The oldest readable time of a table.
    pub fn of(&self, table: TableId) -> TxClock {
        self.tables.get(&table).copied().unwrap_or(TxClock::ZERO)
    }

    /// Raises a horizon; says whether it was lower before.
    pub(super) fn raise(&mut self, raise: Raise) -> bool {
        let (horizon, to) = match raise {
            Raise::Table(table, to) => (self.tables.entry(table).or_default(), to),
            Raise::Tx(to) => (&mut self.tx, to),
        };
        let rises = *horizon < to;
        *horizon = to.max(*horizon);
        rises
    }

    /// Whether no read at a readable time can see this entry.
    ///
    /// A superseded version goes when its successor is at or before the horizon, a tombstone when it is itself. What
    /// cannot be decoded stays, for a reader to report.
    pub(super) fn has_passed(&self, keyspace: Keyspace, key: &[u8], value: &[u8]) -> bool {
        match keyspace {
            Keyspace::Head => match (split_head_key(key), decode_stamp(value)) {
                (Some((table, _)), Ok((time, live))) => !live && time <= self.of(table),
                _ => false,
            },
            Keyspace::Past => match (split_head_key(key), decode_stamp(value)) {
                (Some((table, _)), Ok((superseded_at, _))) => superseded_at <= self.of(table),
                _ => false,
            },
            Keyspace::Tx => TxRecord::decode_decided_at(value).is_some_and(|decided_at| decided_at < self.tx),
            Keyspace::Meta => false,
        }
    }
}

/// One horizon to be raised.
#[derive(Debug, Clone, Copy)]
pub(super) enum Raise {
    Table(TableId, TxClock),
    Tx(TxClock),
}

/// The horizons that compaction goes by: only those that a crash cannot take back.
pub(super) struct Retention {
    state: Mutex<State>,
}

struct State {
    durable: Arc<Horizons>,
    /// Raises at positions that may not be durable yet, in order of position.
    pending: VecDeque<(u64, Raise)>,
    /// Raises that became durable so far.
    generation: u64,
}

impl Retention {
    pub(super) fn new(durable: Horizons) -> Retention {
        let state = State { durable: Arc::new(durable), pending: VecDeque::new(), generation: 1 };
        Retention { state: Mutex::new(state) }
    }

    /// Notes raises written at `position`.
    pub(super) fn note(&self, position: u64, raises: &[Raise]) {
        self.lock().pending.extend(raises.iter().map(|raise| (position, *raise)));
    }

    /// The answer for one compaction, given the engine's durable position.
    pub(super) fn rule(&self, durable_position: u64) -> Drop {
        let horizons = self.advance(durable_position).durable.clone();
        Arc::new(move |keyspace, key, value| horizons.has_passed(keyspace, key, value))
    }

    /// Rises whenever there may be more to drop than before.
    pub(super) fn generation(&self, durable_position: u64) -> u64 {
        self.advance(durable_position).generation
    }

    fn advance(&self, durable_position: u64) -> std::sync::MutexGuard<'_, State> {
        let mut state = self.lock();
        while let Some((position, raise)) = state.pending.front().copied() {
            if durable_position < position {
                break;
            }
            state.pending.pop_front();
            if Arc::make_mut(&mut state.durable).raise(raise) {
                state.generation += 1;
            }
        }
        state
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
