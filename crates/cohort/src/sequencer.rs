//! Orders the writes of one cohort: checks conditions, gives times, and packs decided transactions into entries.
//!
//! A pure core: the shell brings requests with what it looked up, the wall clock, and news of applied entries.
//!
//! A condition has to be checked against the newest version of the row, committed or only proposed. The store knows
//! what is applied; `rows` remembers what was proposed since. A request says which entry was the last applied
//! *before* its look-up; a remembered version of a later entry overrides the look-up. Remembered versions are
//! forgotten [`MEMORY`] entries after they were applied, so a look-up from before that is done again.

use crate::entry::{EntryBuilder, EntryReign, Outcome};
use bytes::Bytes;
use hashbrown::HashMap;
use skein_model::{Refusal, TableId, Transaction, TxClock, TxId, WriteOp};
use std::collections::VecDeque;

/// For how many applied entries the sequencer remembers what they wrote.
pub const MEMORY: u64 = 64;

/// Newest version of a row, as looked up in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Latest {
    /// Time of the newest version; zero if the row was never written.
    pub time: TxClock,
    /// Whether that version is a value.
    pub live: bool,
}

/// What a request saw in the store before it came here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Observed {
    /// Sequence of the last entry applied before the look-up.
    pub sequence: u64,
    /// The rows of the transaction, in its order; empty if it demands nothing of them.
    pub rows: Vec<Latest>,
}

/// What became of a request in the sequencer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Decided; true once entry `sequence` is applied.
    Decided {
        /// What to answer.
        outcome: Outcome,
        /// The entry that makes it true.
        sequence: u64,
    },
    /// The look-up is too old to judge by: look again and come back.
    LookAgain,
    /// The ID names a transaction with other operations.
    IdReused,
}

/// Whether a transaction's outcome depends on what its rows hold, so that they have to be looked up first.
pub fn depends_on_rows(tx: &Transaction) -> bool {
    tx.condition.is_some()
        || tx.ops.iter().any(|op| matches!(op.op, WriteOp::Create(_)) || !op.expect.is_empty())
}

#[derive(Debug, Clone, Copy)]
struct ProposedRow {
    latest: Latest,
    sequence: u64,
}

#[derive(Debug, Clone)]
struct ProposedTx {
    outcome: Outcome,
    fingerprint: u64,
    sequence: u64,
}

/// Names of what one entry put into the sequencer's memory.
#[derive(Debug, Default)]
struct Proposed {
    sequence: u64,
    rows: Vec<(TableId, Bytes)>,
    transactions: Vec<TxId>,
}

/// The state; one per cohort, in the hands of its leader.
#[derive(Debug)]
pub struct Sequencer {
    reign: EntryReign,
    proposer: u64,
    /// Sequence of the entry being built.
    sequence: u64,
    applied: u64,
    /// Everything up to this entry is forgotten.
    forgotten: u64,
    rows: HashMap<(TableId, Bytes), ProposedRow>,
    transactions: HashMap<TxId, ProposedTx>,
    memory: VecDeque<Proposed>,
    building: Option<(EntryBuilder, Proposed)>,
}

impl Sequencer {
    /// A sequencer that has proposed nothing yet in this reign.
    ///
    /// `proposer` is that of no other run, and the reign's first sequence lies at least two above every one that this run
    /// has used, so that what was looked up for an earlier reign of the same run is known to be too old.
    pub fn new(reign: EntryReign, proposer: u64) -> Sequencer {
        let before = reign.first.saturating_sub(1);
        Sequencer {
            reign,
            proposer,
            sequence: reign.first,
            applied: before,
            forgotten: before,
            rows: HashMap::new(),
            transactions: HashMap::new(),
            memory: VecDeque::new(),
            building: None,
        }
    }

    /// Entries up to `sequence` are applied: what they wrote can soon be forgotten.
    pub fn applied(&mut self, sequence: u64) {
        self.applied = self.applied.max(sequence);
        while self.memory.front().is_some_and(|p| p.sequence + MEMORY <= self.applied) {
            let Some(old) = self.memory.pop_front() else { break };
            for row in old.rows {
                if self.rows.get(&row).is_some_and(|r| r.sequence == old.sequence) {
                    self.rows.remove(&row);
                }
            }
            for id in old.transactions {
                self.transactions.remove(&id);
            }
            self.forgotten = old.sequence;
        }
    }

    /// Sequence of the reign's first entry.
    pub fn first(&self) -> u64 {
        self.reign.first
    }

    /// Sequence of the entry being built, or of the next one.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Bytes of the entry being built.
    pub fn bytes(&self) -> usize {
        self.building.as_ref().map_or(0, |(builder, _)| builder.bytes())
    }

    /// Judges a transaction and, unless it is to be looked up again, puts it into the entry being built.
    ///
    /// `issue` gives the time of a write in the entry of the given sequence that has to be later than another time: see
    /// [`CohortClock::issue`](crate::clock::CohortClock::issue). It is called for a transaction that commits.
    ///
    /// `again` says that the transaction may have come before, or may come again: its outcome is then recorded whatever
    /// it is, as is that of every ID chosen by a client. Otherwise somebody could be told of a refusal that a delayed
    /// duplicate makes untrue.
    pub fn write(
        &mut self,
        issue: impl FnOnce(u64, TxClock) -> TxClock,
        tx: &Transaction,
        again: bool,
        fingerprint: u64,
        observed: &Observed,
    ) -> Verdict {
        if let Some(verdict) = self.known(&tx.id, fingerprint, tx.id_from_client) {
            return verdict;
        }
        let depends = depends_on_rows(tx);
        let recorded = again || tx.id_from_client;
        if (depends || recorded) && observed.sequence < self.forgotten {
            return Verdict::LookAgain;
        }
        let mut latest_max = TxClock::ZERO;
        if depends {
            let (refusal, max, newest_entry) = self.judge(tx, observed);
            latest_max = max;
            if let Some(refusal) = refusal {
                let outcome = Outcome::Refused(refusal);
                if !recorded {
                    // Nothing to record, but the versions that refused it must themselves become true first.
                    return Verdict::Decided { outcome, sequence: newest_entry };
                }
                return self.record(&tx.id, fingerprint, outcome);
            }
        }
        let after = latest_max.max(tx.condition.unwrap_or(TxClock::ZERO));
        let sequence = self.sequence;
        let time = issue(sequence, after);
        let outcome = Outcome::Committed(time);
        let writes = tx.ops.iter().filter(|op| op.op != WriteOp::Hold).count();
        let (builder, proposed) = self.open();
        builder.decision(&tx.id, fingerprint, &outcome, writes);
        for op in &tx.ops {
            match &op.op {
                WriteOp::Hold => continue,
                WriteOp::Create(value) | WriteOp::Update(value) => {
                    builder.write(op.table, &op.key, Some(value))
                }
                WriteOp::Delete => builder.write(op.table, &op.key, None),
            }
            proposed.rows.push((op.table, op.key.clone()));
        }
        proposed.transactions.push(tx.id.clone());
        for op in tx.ops.iter().filter(|op| op.op != WriteOp::Hold) {
            let latest = Latest { time, live: op.op != WriteOp::Delete };
            self.rows.insert((op.table, op.key.clone()), ProposedRow { latest, sequence });
        }
        self.transactions
            .insert(tx.id.clone(), ProposedTx { outcome: outcome.clone(), fingerprint, sequence });
        Verdict::Decided { outcome, sequence }
    }

    /// Decides a transaction that nobody has decided: it is aborted.
    pub fn resolve(&mut self, id: &TxId, observed: &Observed) -> Verdict {
        if let Some(verdict) = self.known(id, 0, false) {
            return verdict;
        }
        if observed.sequence < self.forgotten {
            return Verdict::LookAgain;
        }
        self.record(id, 0, Outcome::Aborted)
    }

    /// Raises horizons, or with none just makes sure that there is an entry, for the sake of its ceiling.
    /// Answers the entry's sequence.
    pub fn touch(&mut self, horizons: &[(Option<TableId>, TxClock)]) -> u64 {
        self.open().0.horizons(horizons);
        self.sequence
    }

    /// Takes the entry being built, if there is one: its sequence and bytes.
    pub fn take(&mut self, ceiling: TxClock) -> Option<(u64, Bytes)> {
        let (builder, proposed) = self.building.take()?;
        let sequence = self.sequence;
        self.sequence += 1;
        self.memory.push_back(proposed);
        Some((sequence, builder.finish(ceiling)))
    }

    fn open(&mut self) -> (&mut EntryBuilder, &mut Proposed) {
        let (reign, proposer, sequence) = (self.reign, self.proposer, self.sequence);
        let (builder, proposed) = self.building.get_or_insert_with(|| {
            (EntryBuilder::new(reign, proposer, sequence), Proposed { sequence, ..Proposed::default() })
        });
        (builder, proposed)
    }

    fn record(&mut self, id: &TxId, fingerprint: u64, outcome: Outcome) -> Verdict {
        let sequence = self.sequence;
        let (builder, proposed) = self.open();
        builder.decision(id, fingerprint, &outcome, 0);
        proposed.transactions.push(id.clone());
        self.transactions.insert(id.clone(), ProposedTx { outcome: outcome.clone(), fingerprint, sequence });
        Verdict::Decided { outcome, sequence }
    }

    /// The verdict on a transaction that was proposed lately.
    fn known(&self, id: &TxId, fingerprint: u64, same_content: bool) -> Option<Verdict> {
        let known = self.transactions.get(id)?;
        if same_content && known.outcome != Outcome::Aborted && known.fingerprint != fingerprint {
            return Some(Verdict::IdReused);
        }
        Some(Verdict::Decided { outcome: known.outcome.clone(), sequence: known.sequence })
    }

    /// Whether the rows refuse the transaction, the latest time over all its rows, and the newest entry relied on.
    fn judge(&self, tx: &Transaction, observed: &Observed) -> (Option<Refusal>, TxClock, u64) {
        let mut max = TxClock::ZERO;
        let mut newest_entry = 0;
        let mut collision = None;
        let mut stale = None;
        for (position, op) in tx.ops.iter().enumerate() {
            let seen = observed.rows.get(position).copied().unwrap_or_default();
            let latest = match self.rows.get(&(op.table, op.key.clone())) {
                Some(row) if observed.sequence < row.sequence => {
                    newest_entry = newest_entry.max(row.sequence);
                    row.latest
                }
                _ => seen,
            };
            max = max.max(latest.time);
            if matches!(op.op, WriteOp::Create(_)) {
                if latest.live {
                    collision.get_or_insert(position as u32);
                }
            } else if tx.condition.is_some_and(|ct| ct < latest.time) {
                stale.get_or_insert(position as u32);
            }
            if !op.expect.iter().all(|expect| expect.holds(latest.time, latest.live)) {
                stale.get_or_insert(position as u32);
            }
        }
        // Where both happen, the collision is what is told.
        let refusal = collision
            .map(|op| Refusal::Collision { op })
            .or(stale.map(|op| Refusal::Stale { op, latest: max }));
        (refusal, max, newest_entry)
    }
}

#[cfg(test)]
mod tests;
