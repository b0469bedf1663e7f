//! The cohort's rows as the group's state machine.

use crate::clock::locked;
use crate::entry::{Decision, Entry, Outcome, Predecessor};
use crate::error::CohortError;
use crate::machine::{self, Machine, MachineError};
use crate::raft::codec::decode_place;
use crate::shared::Shared;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use skein_model::{GroupId, Refusal, TxClock};
use skein_storage::blocking;
use skein_storage::drives::Drives;
use skein_storage::engine::Engine;
use skein_storage::rows::{
    Changes, Commit, Export, ExportPosition, Import, ImportError, Rows, RowsError, TxOutcome, TxRecord, Write,
};
use std::sync::{Arc, Mutex};

/// The rows, and whom to tell that an entry is applied.
///
/// What the rows keep as the group's place is that place behind a head of our own, which names the last entry that counted:
///
/// ```text
/// | 128 u8 | proposer u64 | sequence u64 | the group's place |      (little-endian; drawn in docs/FORMAT.md)
/// ```
///
/// A place without that head is from a store whose entries had no reigns. No place of the group begins with 128.
pub(crate) struct RowsMachine {
    /// Recognises this run's own entries.
    run: u64,
    group: GroupId,
    drives: Arc<dyn Drives>,
    shared: Arc<Shared>,
    progress: Mutex<Progress>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    /// The last entry that counted.
    counted: Predecessor,
    /// The latest term of which an entry was applied since the start.
    term: u64,
}

/// What begins a place with a head of ours.
const HEAD: u8 = 128;
const HEAD_BYTES: usize = 17;

fn with_head(counted: Predecessor, place: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(HEAD_BYTES + place.len());
    out.put_u8(HEAD);
    out.put_u64_le(counted.proposer);
    out.put_u64_le(counted.sequence);
    out.put_slice(place);
    out.freeze()
}

/// The last entry that counted, and the group's place.
fn split_head(mut stored: Bytes) -> Result<(Predecessor, Bytes), MachineError> {
    if stored.first() != Some(&HEAD) {
        return Ok((Predecessor::default(), stored));
    }
    if stored.len() < HEAD_BYTES {
        return Err(MachineError::Damaged("the store's place in the log is cut short".into()));
    }
    stored.advance(1);
    let (proposer, sequence) = (stored.get_u64_le(), stored.get_u64_le());
    Ok((Predecessor { proposer, sequence }, stored))
}

impl RowsMachine {
    pub(crate) fn open(
        group: GroupId,
        run: u64,
        drives: Arc<dyn Drives>,
        shared: Arc<Shared>,
    ) -> Result<RowsMachine, MachineError> {
        let counted = counted_in(&shared.rows())?;
        let progress = Mutex::new(Progress { counted, term: 0 });
        Ok(RowsMachine { run, group, drives, shared, progress })
    }

    fn apply_now(&self, at: machine::Entry) -> Result<(), MachineError> {
        let position = at.position();
        let entry = match at.command {
            Some(command) => Some(
                Entry::decode(command)
                    .map_err(|error| MachineError::Damaged(format!("log entry {}: {error}", at.index)))?,
            ),
            None => None,
        };
        let before = *locked(&self.progress);
        let counts = entry.as_ref().is_some_and(|entry| entry.counts(at.term, before.counted));
        // A void entry is as good as one of Raft's own.
        let counted = match &entry {
            Some(entry) if counts => entry.as_predecessor(),
            _ => before.counted,
        };
        let mut changes = Changes::at(position, with_head(counted, &at.place));
        if let Some(entry) = entry.as_ref().filter(|_| counts) {
            changes.ceiling = Some(entry.ceiling);
            changes.horizons = entry.horizons.clone();
            for decision in &entry.decisions {
                decide(&mut changes, decision, entry.ceiling);
            }
        }
        self.shared.rows().apply(changes).map_err(machine_error)?;
        *locked(&self.progress) = Progress { counted, term: at.term };
        if before.term < at.term {
            self.shared.term_applied(at.term);
        }
        match entry {
            Some(entry) if entry.proposer == self.run && counts => {
                self.shared.entry_applied(entry.sequence, entry.ceiling)
            }
            Some(entry) if entry.proposer == self.run => self.shared.not_written(entry.sequence),
            Some(entry) if counts => self.shared.foreign_entry_applied(entry.ceiling),
            _ => {}
        }
        Ok(())
    }
}

/// The last entry that counted, as these rows have it.
fn counted_in(rows: &Rows) -> Result<Predecessor, MachineError> {
    Ok(match rows.meta().applied {
        Some(stored) => split_head(stored)?.0,
        None => Predecessor::default(),
    })
}

fn machine_error(error: RowsError) -> MachineError {
    machine_error_of(error.into())
}

fn machine_error_of(error: CohortError) -> MachineError {
    match error {
        CohortError::Full { detail } => MachineError::Full(detail),
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
    type View = RowsView;
    type Staging = RowsStaging;

    fn place(&self) -> Option<Bytes> {
        // What cannot be split is found out when the machine is opened.
        self.shared.rows().meta().applied.and_then(|stored| Some(split_head(stored).ok()?.1))
    }

    async fn apply(&self, entry: machine::Entry) -> Result<(), MachineError> {
        self.apply_now(entry)
    }

    fn durable_position(&self) -> u64 {
        self.shared.rows().durable_position()
    }

    async fn checkpoint(&self) -> Result<(), MachineError> {
        let rows = self.shared.rows();
        off_thread("checkpoint", move || rows.checkpoint().map(|_| ()).map_err(machine_error)).await
    }

    async fn view(&self) -> Result<RowsView, MachineError> {
        let rows = self.shared.rows();
        let export = off_thread("look at the rows", move || rows.export().map_err(machine_error)).await?;
        let place = match &export.meta().applied {
            Some(stored) => Some(split_head(stored.clone())?.1),
            None => None,
        };
        Ok(RowsView { export, place })
    }

    async fn stage(&self) -> Result<RowsStaging, MachineError> {
        let (drives, group) = (self.drives.clone(), self.group);
        off_thread("stage a store", move || {
            let engine = drives.stage(group).map_err(|e| machine_error_of(e.into()))?;
            let import = Import::begin(engine.clone()).map_err(import_error)?;
            Ok(RowsStaging { engine, import: Some(import) })
        })
        .await
    }

    async fn promote(&self, staged: RowsStaging, place: Bytes) -> Result<(), MachineError> {
        let (drives, group) = (self.drives.clone(), self.group);
        let (rows, counted) =
            off_thread("promote a store", move || finish(staged, place, &*drives, group)).await?;
        locked(&self.progress).counted = counted;
        self.shared.rows_replaced(rows);
        Ok(())
    }
}

/// Completes a staged store and makes it the current one, with this place of the group.
fn finish(
    mut staged: RowsStaging,
    place: Bytes,
    drives: &dyn Drives,
    group: GroupId,
) -> Result<(Rows, Predecessor), MachineError> {
    let last = decode_place(place.clone()).map_err(|e| MachineError::Refused(e.to_string()))?.last;
    let position = last.map_or(0, |last| last.index + 1);
    let import = staged.import.take().ok_or_else(cut_short)?;
    // The store came with the place of the replica that it was copied from.
    let counted = match import.applied() {
        Some(stored) => split_head(stored.clone())?.0,
        None => Predecessor::default(),
    };
    import.finish(position, Some(with_head(counted, &place))).map_err(import_error)?;
    let rows = Rows::open(staged.engine).map_err(machine_error)?;
    drives.promote(group).map_err(|e| machine_error_of(e.into()))?;
    Ok((rows, counted))
}

/// Does what blocks where it may.
async fn off_thread<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> Result<T, MachineError> + Send + 'static,
) -> Result<T, MachineError> {
    match blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(MachineError::Failed(format!("{what}: {error}"))),
    }
}

fn import_error(error: ImportError) -> MachineError {
    match error {
        ImportError::Engine(error) => machine_error(error.into()),
        other => MachineError::Refused(other.to_string()),
    }
}

fn cut_short() -> MachineError {
    MachineError::Refused("a chunk of rows was cut short".into())
}

/// The rows as of one moment.
pub(crate) struct RowsView {
    export: Export,
    place: Option<Bytes>,
}

/// The position after the last chunk: too short for one of an export.
const END: &[u8] = &[0];

impl machine::View for RowsView {
    fn place(&self) -> Option<Bytes> {
        self.place.clone()
    }

    fn bytes_estimate(&self) -> u64 {
        self.export.bytes_estimate()
    }

    fn rows_estimate(&self) -> u64 {
        self.export.rows_estimate()
    }

    fn chunk(&self, from: &[u8], bytes_max: usize) -> Result<Option<machine::Chunk>, MachineError> {
        let at = match from {
            [] => ExportPosition::default(),
            END => return Ok(None),
            from => ExportPosition::decode(from)
                .ok_or_else(|| MachineError::Refused("no chunk of rows begins there".into()))?,
        };
        let chunk = self.export.chunk(&at, bytes_max).map_err(machine_error)?;
        let next = chunk.next.map_or(Bytes::from_static(END), |next| next.encode());
        Ok(Some(machine::Chunk { bytes: chunk.bytes, next }))
    }
}

/// A store that is being filled.
pub(crate) struct RowsStaging {
    engine: Arc<dyn Engine>,
    /// Gone while a chunk is written, and for good if that was cut short.
    import: Option<Import>,
}

impl machine::Staging for RowsStaging {
    async fn write(&mut self, chunk: Bytes) -> Result<(), MachineError> {
        let mut import = self.import.take().ok_or_else(cut_short)?;
        let (import, written) = off_thread("write a chunk of rows", move || {
            let written = import.chunk(&chunk).map_err(import_error);
            Ok((import, written))
        })
        .await?;
        self.import = Some(import);
        written
    }

    fn rows(&self) -> u64 {
        self.import.as_ref().map_or(0, |import| import.imported().rows)
    }
}
