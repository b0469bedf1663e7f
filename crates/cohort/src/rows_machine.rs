//! The cohort's rows as the group's state machine.

use crate::entry::{Decision, Entry, Outcome};
use crate::error::CohortError;
use crate::machine::{self, Machine, MachineError};
use crate::shared::Shared;
use bytes::Bytes;
use skein_model::{Refusal, TxClock};
use skein_storage::rows::{Changes, Commit, Rows, RowsError, TxOutcome, TxRecord, Write};
use std::sync::Arc;

/// The rows, and whom to tell that an entry is applied.
pub(crate) struct RowsMachine {
    pub(crate) rows: Rows,
    /// Recognises this run's own entries.
    pub(crate) run: u64,
    pub(crate) shared: Arc<Shared>,
}

impl RowsMachine {
    fn apply_now(&self, at: machine::Entry) -> Result<(), MachineError> {
        let position = at.position();
        let entry = match at.command {
            Some(command) => Some(
                Entry::decode(command)
                    .map_err(|error| MachineError::Damaged(format!("log entry {}: {error}", at.index)))?,
            ),
            None => None,
        };
        // A void entry is as good as one of Raft's own.
        let entry = entry.filter(|entry| entry.counts_in(at.term));
        let mut changes = Changes::at(position, at.place);
        if let Some(entry) = &entry {
            changes.ceiling = Some(entry.ceiling);
            changes.horizons = entry.horizons.clone();
            for decision in &entry.decisions {
                decide(&mut changes, decision, entry.ceiling);
            }
        }
        self.rows.apply(changes).map_err(machine_error)?;
        match entry {
            Some(entry) if entry.proposer == self.run => {
                self.shared.entry_applied(entry.sequence, entry.ceiling)
            }
            Some(entry) => self.shared.foreign_entry_applied(entry.ceiling),
            None => {}
        }
        Ok(())
    }
}

fn machine_error(error: RowsError) -> MachineError {
    if error.is_full() {
        return MachineError::Full(error.to_string());
    }
    match CohortError::from(error) {
        CohortError::DiskFailed { detail } => MachineError::Failed(detail),
        CohortError::Damaged { detail } => MachineError::Damaged(detail),
        other => MachineError::Damaged(other.to_string()),
    }
}

/// Adds what a decision writes. `ceiling` is that of its entry, a little after the decision was made.
fn decide<'a>(changes: &mut Changes<'a>, decision: &'a Decision, ceiling: TxClock) {
    let outcome = match decision.outcome {
        Outcome::Committed(time) => {
            let writes = decision.writes.iter();
            let writes =
                writes.map(|w| Write { table: w.table, key: &w.key, value: w.value.as_ref() }).collect();
            let fingerprint = decision.fingerprint;
            changes.commits.push(Commit { id: &decision.id, time, fingerprint, writes });
            return;
        }
        Outcome::Refused(Refusal::Collision { op }) => TxOutcome::Collision { op },
        Outcome::Refused(Refusal::Stale { op, latest }) => TxOutcome::Stale { op, latest },
        Outcome::Aborted => TxOutcome::Aborted,
    };
    let record = TxRecord { outcome, fingerprint: decision.fingerprint, decided_at: ceiling };
    changes.records.push((&decision.id, record));
}

impl Machine for RowsMachine {
    type View = NoView;
    type Staging = NoStaging;

    fn place(&self) -> Option<Bytes> {
        self.rows.meta().applied
    }

    async fn apply(&self, entry: machine::Entry) -> Result<(), MachineError> {
        self.apply_now(entry)
    }

    fn durable_position(&self) -> u64 {
        self.rows.durable_position()
    }

    async fn checkpoint(&self) -> Result<(), MachineError> {
        let rows = self.rows.clone();
        let done = skein_storage::blocking(move || rows.checkpoint()).await;
        match done {
            Ok(done) => done.map(|_| ()).map_err(machine_error),
            Err(error) => Err(MachineError::Failed(format!("checkpoint: {error}"))),
        }
    }

    async fn view(&self) -> Result<NoView, MachineError> {
        Err(MachineError::Failed(ALONE.to_owned()))
    }

    async fn stage(&self) -> Result<NoStaging, MachineError> {
        Err(MachineError::Failed(ALONE.to_owned()))
    }

    async fn promote(&self, staged: NoStaging, _place: Bytes) -> Result<(), MachineError> {
        match staged {}
    }
}

/// Until the rows of a cohort can be exported, nobody asks for them: a cohort has one replica.
const ALONE: &str = "the rows of a cohort of one are not copied";

pub(crate) enum NoView {}

impl machine::View for NoView {
    fn place(&self) -> Option<Bytes> {
        match *self {}
    }

    fn bytes_estimate(&self) -> u64 {
        match *self {}
    }

    fn chunk(&self, _from: &[u8], _bytes_max: usize) -> Result<Option<machine::Chunk>, MachineError> {
        match *self {}
    }
}

pub(crate) enum NoStaging {}

impl machine::Staging for NoStaging {
    async fn write(&mut self, _chunk: Bytes) -> Result<(), MachineError> {
        match *self {}
    }
}
