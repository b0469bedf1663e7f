//! The cohort's rows as Raft's state machine.
//!
//! A Raft snapshot here is what the store holds durably: it stays where it is, and "building" one means noting how far
//! that reaches. The checkpoint itself comes before and outside of Raft, which would stop for good if it failed.
//! Streaming a snapshot to another peer is the business of a later release.

use super::codec::{decode_applied, encode_applied};
use super::log_store::LogStore;
use super::types::{Leader, RaftLogId, RaftTypes, StoredRaftMembership};
use crate::clock::locked;
use crate::entry::{Decision, Entry, Outcome};
use crate::error::CohortError;
use crate::shared::Shared;
use futures_util::{Stream, TryStreamExt};
use openraft::entry::RaftEntry as _;
use openraft::impls::EmptyNode;
use openraft::storage::{EntryResponder, RaftStateMachine, Snapshot, SnapshotMeta};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use skein_model::{Refusal, TxClock};
use skein_storage::rows::{Changes, Commit, Rows, RowsError, TxOutcome, TxRecord, Write};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Between two attempts to apply an entry that finds no room.
const RETRY: Duration = Duration::from_millis(50);

type RaftSnapshotMeta = SnapshotMeta<Leader, u64, EmptyNode>;
type RaftSnapshot = Snapshot<Leader, u64, EmptyNode, SnapshotHandle>;

/// A snapshot's data: the store itself, which needs no copy on its own host.
pub(crate) struct SnapshotHandle;

/// Whom to tell that an entry is applied.
#[derive(Clone)]
pub(crate) struct Applied {
    /// Recognises this run's own entries.
    pub(crate) run: u64,
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct StateMachine {
    rows: Rows,
    applied: Applied,
    last: Option<RaftLogId>,
    membership: StoredRaftMembership,
    log: LogStore,
    /// What the store held durably when it was last asked: the current snapshot.
    snapshot: Arc<Mutex<Option<RaftSnapshotMeta>>>,
}

impl StateMachine {
    pub(crate) fn open(rows: Rows, log: LogStore, applied: Applied) -> io::Result<StateMachine> {
        let (last, membership) = match rows.meta().applied {
            Some(bytes) => decode_applied(bytes)?,
            None => (None, StoredRaftMembership::default()),
        };
        let snapshot =
            last.map(|last| SnapshotMeta { last_log_id: Some(last), last_membership: membership.clone() });
        Ok(StateMachine { rows, applied, last, membership, log, snapshot: Arc::new(Mutex::new(snapshot)) })
    }

    /// Index of the entry last applied.
    pub(crate) fn last_index(&self) -> Option<u64> {
        self.last.map(|last| last.index)
    }

    fn apply_entry(&mut self, log_id: RaftLogId, entry: Option<&Entry>) -> Result<(), RowsError> {
        self.last = Some(log_id);
        let applied = encode_applied(self.last.as_ref(), &self.membership);
        // Positions count from 1, so that 0 can stand for an empty store; Raft's indexes count from 0.
        let mut changes = Changes::at(log_id.index + 1, applied);
        if let Some(entry) = entry {
            changes.ceiling = Some(entry.ceiling);
            changes.horizons = entry.horizons.clone();
            for decision in &entry.decisions {
                decide(&mut changes, decision, entry.ceiling);
            }
        }
        self.rows.apply(changes)?;
        match entry {
            Some(entry) if entry.proposer == self.applied.run => {
                self.applied.shared.entry_applied(entry.sequence, entry.ceiling)
            }
            Some(entry) => self.applied.shared.foreign_entry_applied(entry.ceiling),
            None => {}
        }
        Ok(())
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

impl RaftStateMachine<RaftTypes> for StateMachine {
    type SnapshotData = SnapshotHandle;
    type SnapshotBuilder = Checkpointer;

    async fn applied_state(&mut self) -> Result<(Option<RaftLogId>, StoredRaftMembership), io::Error> {
        Ok((self.last, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<RaftTypes>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some((raft_entry, responder)) = entries.try_next().await? {
            let log_id = raft_entry.log_id();
            let entry = match raft_entry.payload {
                EntryPayload::Blank => None,
                EntryPayload::Membership(membership) => {
                    self.membership = StoredRaftMembership::new(Some(log_id), membership);
                    None
                }
                EntryPayload::Normal(command) => Some(Entry::decode(command.0).map_err(|error| {
                    let detail = format!("log entry {}: {error}", log_id.index);
                    self.applied.shared.fail(CohortError::Damaged { detail: detail.clone() });
                    io::Error::new(io::ErrorKind::InvalidData, detail)
                })?),
            };
            // A full disk is waited out: the entry is safe in the log, and its writers are told nothing wrong.
            let mut waits = 0u32;
            while let Err(error) = self.apply_entry(log_id, entry.as_ref()) {
                if !error.is_full() {
                    let error = CohortError::from(error);
                    self.applied.shared.fail(error.clone());
                    return Err(io::Error::other(error));
                }
                if let Some(failure) = self.applied.shared.failure() {
                    return Err(io::Error::other(failure));
                }
                if waits.is_multiple_of(600) {
                    tracing::warn!(%error, "an entry waits for room in the store; free disk space");
                }
                waits += 1;
                self.applied.shared.set_store_full(Some(error.to_string()));
                tokio::time::sleep(RETRY).await;
            }
            if 0 < waits {
                self.applied.shared.set_store_full(None);
            }
            if let Some(responder) = responder {
                responder.send(());
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Checkpointer {
        Checkpointer {
            rows: self.rows.clone(),
            log: self.log.clone(),
            membership: self.membership.clone(),
            snapshot: self.snapshot.clone(),
        }
    }

    async fn install_snapshot(
        &mut self,
        _meta: &RaftSnapshotMeta,
        _snapshot: SnapshotHandle,
    ) -> Result<(), io::Error> {
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "a cohort of one has nobody to receive a snapshot from",
        ))
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<RaftSnapshot>, io::Error> {
        Ok(locked(&self.snapshot).clone().map(|meta| Snapshot { meta, snapshot: SnapshotHandle }))
    }
}

/// Notes how far the store is durable.
pub(crate) struct Checkpointer {
    rows: Rows,
    log: LogStore,
    membership: StoredRaftMembership,
    snapshot: Arc<Mutex<Option<RaftSnapshotMeta>>>,
}

impl RaftSnapshotBuilder<RaftTypes> for Checkpointer {
    type SnapshotData = SnapshotHandle;

    async fn build_snapshot(&mut self) -> Result<RaftSnapshot, io::Error> {
        let (rows, log) = (self.rows.clone(), self.log.clone());
        let last = tokio::task::spawn_blocking(move || match rows.durable_position().checked_sub(1) {
            Some(index) => log.log_id(index),
            None => Ok(None),
        })
        .await
        .map_err(io::Error::other)??;
        let mut snapshot = locked(&self.snapshot);
        let before = snapshot.as_ref().and_then(|meta| meta.last_log_id);
        let meta = SnapshotMeta { last_log_id: last.max(before), last_membership: self.membership.clone() };
        *snapshot = Some(meta.clone());
        Ok(Snapshot { meta, snapshot: SnapshotHandle })
    }
}
