//! Horizons: how far back the past can be read, and what compaction may therefore drop.

use super::codec::{TxRecord, decode_stamp, split_head_key, split_past_key};
use crate::engine::{Drop, Keyspace};
use skein_model::{TableId, TxClock};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

/// Oldest readable times. They only ever rise.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Horizons {
    /// Of all tables that are not in `tables`; also, outcomes of transactions decided before this are forgotten.
    pub default: TxClock,
    /// Of tables with a horizon of their own.
    pub tables: HashMap<TableId, TxClock>,
}

impl Horizons {
    /// The oldest readable time of a table.
    pub fn of(&self, table: TableId) -> TxClock {
        self.tables.get(&table).copied().unwrap_or(self.default)
    }

    /// Raises the horizon of one table, which from then on has its own, or the default. Says whether that changed
    /// anything.
    pub(super) fn raise(&mut self, table: Option<TableId>, to: TxClock) -> bool {
        let Some(table) = table else {
            let rises = self.default < to;
            self.default = to.max(self.default);
            return rises;
        };
        let to = to.max(self.of(table));
        self.tables.insert(table, to) != Some(to)
    }

    /// Whether no read at a readable time gets a value from this entry, or is hindered from getting one.
    ///
    /// A superseded version goes when its successor is at or before the horizon, a tombstone when it is itself. What
    /// cannot be decoded stays, for a reader to report.
    pub(super) fn has_passed(&self, keyspace: Keyspace, key: &[u8], value: &[u8]) -> bool {
        match keyspace {
            Keyspace::Head => match (split_head_key(key), decode_stamp(value)) {
                (Some((table, _)), Ok((time, live))) => is_forgotten_tombstone(time, live, self.of(table)),
                _ => false,
            },
            Keyspace::Past => match (split_head_key(key), split_past_key(key), decode_stamp(value)) {
                (Some((table, _)), Some((_, time)), Ok((superseded_at, live))) => {
                    let horizon = self.of(table);
                    superseded_at <= horizon || is_forgotten_tombstone(time, live, horizon)
                }
                _ => false,
            },
            Keyspace::Tx => {
                TxRecord::decode_decided_at(value).is_some_and(|decided_at| decided_at < self.default)
            }
            Keyspace::Meta => false,
        }
    }
}

/// Whether a version is a tombstone that a horizon has passed. Readers treat it as not there, so that answers do not
/// depend on when compaction comes by.
pub(super) fn is_forgotten_tombstone(time: TxClock, live: bool, horizon: TxClock) -> bool {
    !live && time <= horizon
}

/// A horizon to be raised: of one table, or the default.
pub(super) type Raise = (Option<TableId>, TxClock);

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
        while let Some((position, (table, to))) = state.pending.front().copied() {
            if durable_position < position {
                break;
            }
            state.pending.pop_front();
            if Arc::make_mut(&mut state.durable).raise(table, to) {
                state.generation += 1;
            }
        }
        state
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
