//! A [`Machine`] as Raft's state machine.
//!
//! To Raft, a "snapshot" is how far the machine would survive a crash; that permits purging the log. Making the machine durable
//! comes before and outside of Raft, which would stop for good if it failed. A snapshot that travels is a view taken when it
//! is asked for.

use super::codec::{Origin, Place, decode_place, encode_place};
use super::health::{Failure, Health};
use super::log_store::LogStore;
use super::types::{Leader, RaftLogId, RaftTypes, StoredRaftMembership};
use crate::clock::locked;
use crate::machine::{Entry, Machine, MachineError, View};
use crate::peers::Replica;
use bytes::Bytes;
use futures_util::{Stream, TryStreamExt};
use openraft::entry::RaftEntry as _;
use openraft::storage::{EntryResponder, RaftStateMachine, Snapshot, SnapshotMeta};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;

/// Between two attempts to apply an entry that finds no room.
const RETRY: Duration = Duration::from_millis(50);

pub(crate) type RaftSnapshotMeta = SnapshotMeta<Leader, u64, Replica>;
pub(crate) type RaftSnapshot<M> = Snapshot<Leader, u64, Replica, SnapshotData<M>>;

/// What travels with a snapshot's description inside this process.
pub(crate) enum SnapshotData<M: Machine> {
    /// Only how far the machine is durable.
    Mark,
    /// To be sent.
    Outgoing(Arc<M::View>),
    /// Received in full.
    Incoming(M::Staging),
}

/// What the machine's wrapper knows and others ask for.
pub(crate) struct Applied {
    /// The last entry applied. Changes are told only when the leader that appended it is another one.
    pub(crate) leader: watch::Sender<Option<Leader>>,
    /// Why a committed entry waits for room, if one does.
    pub(crate) full: watch::Sender<Option<String>>,
    /// Whether Raft is running: from then on, a snapshot that is asked for is meant to travel.
    running: std::sync::atomic::AtomicBool,
    /// How far the log may be purged although the machine is durable further: somebody still needs the rest.
    hold: Mutex<Option<u64>>,
    /// What the machine held durably when it was last asked.
    durable: Mutex<Option<RaftSnapshotMeta>>,
}

impl Applied {
    pub(crate) fn set_running(&self) {
        self.running.store(true, std::sync::atomic::Ordering::Release);
    }

    /// Keeps entries after `index` in the log, until told otherwise.
    pub(crate) fn hold_after(&self, index: Option<u64>) {
        *locked(&self.hold) = index;
    }
}

pub(crate) struct StateMachine<M: Machine> {
    machine: Arc<M>,
    applied: Arc<Applied>,
    last: Option<RaftLogId>,
    membership: StoredRaftMembership,
    log: LogStore,
    health: Health,
}

impl<M: Machine> StateMachine<M> {
    pub(crate) fn open(
        machine: Arc<M>,
        log: LogStore,
        health: Health,
    ) -> Result<(StateMachine<M>, Arc<Applied>), Failure> {
        let place = match machine.place() {
            Some(bytes) => decode_place(bytes).map_err(|e| Failure::Damaged(e.to_string()))?,
            None => Place::default(),
        };
        if let (Origin::Applied, Some(last)) = (place.origin, &place.last) {
            // An entry is durable in the log before it is applied. A snapshot from elsewhere is not in the log at all, and
            // Raft purges up to it when it opens.
            log.reaches(last.index).map_err(Failure::Damaged)?;
        }
        let durable = place
            .last
            .map(|last| SnapshotMeta { last_log_id: Some(last), last_membership: place.membership.clone() });
        let applied = Arc::new(Applied {
            leader: watch::channel(place.last.map(|last| last.leader_id)).0,
            full: watch::channel(None).0,
            running: false.into(),
            hold: Mutex::new(None),
            durable: Mutex::new(durable),
        });
        let machine = StateMachine {
            machine,
            applied: applied.clone(),
            last: place.last,
            membership: place.membership,
            log,
            health,
        };
        Ok((machine, applied))
    }

    fn stop(&self, error: MachineError) -> io::Error {
        let failure = Failure::from(error);
        self.health.fail(failure.clone());
        io::Error::other(failure)
    }

    fn place(&self, origin: Origin) -> Bytes {
        encode_place(&Place { origin, last: self.last, membership: self.membership.clone() })
    }

    async fn apply_entry(&mut self, log_id: RaftLogId, command: Option<Bytes>) -> Result<(), io::Error> {
        self.last = Some(log_id);
        let place = self.place(Origin::Applied);
        let entry = Entry { index: log_id.index, term: log_id.leader_id.term, place, command };
        // A full disk is waited out: the entry is safe in the log, and its writers are told nothing wrong.
        let mut waits = 0u32;
        while let Err(error) = self.machine.apply(entry.clone()).await {
            let MachineError::Full(detail) = error else {
                return Err(self.stop(error));
            };
            if let Some(failure) = self.health.failure() {
                return Err(io::Error::other(failure));
            }
            if waits.is_multiple_of(600) {
                tracing::warn!(%detail, "an entry waits for room in the store; free disk space");
            }
            waits += 1;
            self.set_full(Some(detail));
            tokio::time::sleep(RETRY).await;
        }
        if 0 < waits {
            self.set_full(None);
        }
        self.note_leader(log_id.leader_id);
        Ok(())
    }

    fn set_full(&self, detail: Option<String>) {
        self.applied.full.send_if_modified(|present| {
            let changes = present.is_some() != detail.is_some();
            if changes {
                *present = detail;
            }
            changes
        });
    }

    fn note_leader(&self, leader: Leader) {
        self.applied.leader.send_if_modified(|present| {
            let changes = *present != Some(leader);
            *present = Some(leader);
            changes
        });
    }
}

impl<M: Machine> RaftStateMachine<RaftTypes> for StateMachine<M> {
    type SnapshotData = SnapshotData<M>;
    type SnapshotBuilder = Durability<M>;

    async fn applied_state(&mut self) -> Result<(Option<RaftLogId>, StoredRaftMembership), io::Error> {
        Ok((self.last, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<RaftTypes>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some((raft_entry, responder)) = entries.try_next().await? {
            let log_id = raft_entry.log_id();
            let command = match raft_entry.payload {
                EntryPayload::Blank => None,
                EntryPayload::Membership(membership) => {
                    self.membership = StoredRaftMembership::new(Some(log_id), membership);
                    None
                }
                EntryPayload::Normal(command) => Some(command.0),
            };
            self.apply_entry(log_id, command).await?;
            if let Some(responder) = responder {
                responder.send(());
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Durability<M> {
        Durability {
            machine: self.machine.clone(),
            log: self.log.clone(),
            membership: self.membership.clone(),
            applied: self.applied.clone(),
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &RaftSnapshotMeta,
        snapshot: SnapshotData<M>,
    ) -> Result<(), io::Error> {
        let SnapshotData::Incoming(staged) = snapshot else {
            // At its start Raft installs what it was told is durable if it is ahead of what is applied, which it never is.
            return Ok(());
        };
        let place = Place {
            origin: Origin::Received,
            last: meta.last_log_id,
            membership: meta.last_membership.clone(),
        };
        let promoted = self.machine.promote(staged, encode_place(&place)).await;
        promoted.map_err(|error| self.stop(error))?;
        self.last = place.last;
        self.membership = place.membership;
        *locked(&self.applied.durable) = Some(meta.clone());
        if let Some(last) = self.last {
            self.note_leader(last.leader_id);
        }
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<RaftSnapshot<M>>, io::Error> {
        if !self.applied.running.load(std::sync::atomic::Ordering::Acquire) {
            let durable = locked(&self.applied.durable).clone();
            return Ok(durable.map(|meta| Snapshot { meta, snapshot: SnapshotData::Mark }));
        }
        let view = match self.machine.view().await {
            Ok(view) => view,
            Err(error @ MachineError::Damaged(_)) => return Err(self.stop(error)),
            Err(error) => {
                // Nothing to be sent now; the sender comes back.
                tracing::warn!(%error, "look at the store for a snapshot");
                let durable = locked(&self.applied.durable).clone();
                return Ok(durable.map(|meta| Snapshot { meta, snapshot: SnapshotData::Mark }));
            }
        };
        let Some(place) = view.place() else { return Ok(None) };
        let place = decode_place(place).map_err(|e| self.stop(MachineError::Damaged(e.to_string())))?;
        let meta = SnapshotMeta { last_log_id: place.last, last_membership: place.membership };
        Ok(Some(Snapshot { meta, snapshot: SnapshotData::Outgoing(Arc::new(view)) }))
    }
}

/// Notes how far the machine is durable.
pub(crate) struct Durability<M> {
    machine: Arc<M>,
    log: LogStore,
    membership: StoredRaftMembership,
    applied: Arc<Applied>,
}

impl<M: Machine> RaftSnapshotBuilder<RaftTypes> for Durability<M> {
    type SnapshotData = SnapshotData<M>;

    async fn build_snapshot(&mut self) -> Result<RaftSnapshot<M>, io::Error> {
        let durable = self.machine.durable_position().checked_sub(1);
        let hold = *locked(&self.applied.hold);
        let index = match hold {
            Some(hold) => durable.map(|index| index.min(hold)),
            None => durable,
        };
        let last = match index {
            Some(index) => self.log.log_id(index)?,
            None => None,
        };
        let mut snapshot = locked(&self.applied.durable);
        let before = snapshot.as_ref().and_then(|meta| meta.last_log_id);
        let meta = SnapshotMeta { last_log_id: last.max(before), last_membership: self.membership.clone() };
        *snapshot = Some(meta.clone());
        Ok(Snapshot { meta, snapshot: SnapshotData::Mark })
    }
}
