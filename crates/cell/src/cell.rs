//! The cell from the point of view of one of its peers: the handle that the rest of the program uses.

use crate::api::*;
use crate::catalog::{Catalog, CatalogState};
use crate::gossip::Gossip;
use crate::groups::Groups;
use crate::link::Link;
use crate::luck::Luck;
use crate::options::CellOptions;
use crate::router::{Router, Routes, attempt, unexpected};
use crate::routing::Attempt;
use crate::space::Space;
use crate::wire::{Refused, Told, Want};
use bytes::Bytes;
use skein_cohort::group::Pace;
use skein_cohort::peers::Replica;
use skein_cohort::{Cohort as CohortHandle, CohortError, Outcome};
use skein_model::{
    Atlas, CellId, GroupId, HostId, HybridClock, Schema, TableId, Transaction, TxClock, TxId, row_hash,
};
use skein_storage::drives::Drives;
use skein_storage::log::Log;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// A handle on the cell; clones share it.
#[derive(Clone)]
pub struct Cell {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) options: CellOptions,
    pub(crate) catalog: Catalog,
    pub(crate) drives: Arc<dyn Drives>,
    pub(crate) log: Log,
    pub(crate) space: Arc<Space>,
    pub(crate) luck: Arc<Luck>,
    /// When the heartbeats of all groups here leave.
    pub(crate) beats_from: Instant,
    /// Slows the copies down that leave here.
    pub(crate) pace: Arc<Pace>,
    pub(crate) link: Link,
    pub(crate) gossip: Gossip,
    pub(crate) groups: Groups,
    pub(crate) router: Router,
    pub(crate) routes: watch::Sender<Arc<Routes>>,
    /// What the changes of members of the cohorts led here wait for.
    pub(crate) waits: Mutex<BTreeMap<GroupId, String>>,
    /// What all leaders said when they were last asked.
    pub(crate) told: tokio::sync::Mutex<Option<crate::overview::Told>>,
    /// Turns true when the cell shuts down.
    pub(crate) stopping: watch::Sender<bool>,
    /// What has to be over before the log closes.
    pub(crate) tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Inner {
    pub(crate) fn state(&self) -> Arc<CatalogState> {
        self.catalog.state().borrow().clone()
    }

    pub(crate) fn me(&self) -> Replica {
        Replica { store: self.options.store, host: self.options.host }
    }

    pub(crate) fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    pub(crate) fn options(&self) -> &CellOptions {
        &self.options
    }

    pub(crate) fn drives(&self) -> &Arc<dyn Drives> {
        &self.drives
    }

    pub(crate) fn log(&self) -> &Log {
        &self.log
    }

    pub(crate) fn space(&self) -> &Arc<Space> {
        &self.space
    }

    pub(crate) fn link(&self) -> &Link {
        &self.link
    }

    pub(crate) fn gossip(&self) -> &Gossip {
        &self.gossip
    }

    pub(crate) fn groups(&self) -> &Groups {
        &self.groups
    }

    pub(crate) fn router(&self) -> &Router {
        &self.router
    }

    pub(crate) fn put_routes(&self, routes: Arc<Routes>) {
        self.routes.send_replace(routes);
    }

    pub(crate) fn roll(&self) -> u64 {
        self.luck.roll()
    }

    /// Notes what a cohort's change of members waits for.
    pub(crate) fn waits(&self, group: GroupId, what: Option<String>) {
        let mut waits = self.waits.lock().unwrap_or_else(PoisonError::into_inner);
        match what {
            Some(what) => waits.insert(group, what),
            None => waits.remove(&group),
        };
    }

    pub(crate) fn waits_for(&self, group: GroupId) -> Option<String> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner).get(&group).cloned()
    }

    pub(crate) fn wall(&self) -> u64 {
        (self.options.wall)()
    }
}

/// Whether nobody else has a vote in a cohort, so that nobody else need be asked.
pub(crate) fn is_alone(routes: &Routes, position: usize, me: HostId) -> bool {
    routes.state.atlas.cohorts.get(position).is_some_and(|cohort| cohort.hosts().eq([me]))
}

impl Cell {
    /// This host's ID.
    pub fn host(&self) -> HostId {
        self.inner.options.host
    }

    /// The cell's ID.
    pub fn cell(&self) -> CellId {
        self.inner.options.cell
    }

    /// The cell's present time: at or after every time that this peer's replicas ever issued, saw or promised.
    pub fn now(&self) -> TxClock {
        let routes = self.inner.routes.borrow();
        let times = routes.local.iter().flatten().map(CohortHandle::now);
        times.max().unwrap_or_else(|| HybridClock::starting_after(TxClock::ZERO).now(self.inner.wall()))
    }

    /// Draws a transaction ID for a client that gave none.
    pub fn draw_tx_id(&self) -> TxId {
        TxId::draw(self.inner.wall(), self.inner.luck.draw())
    }

    /// The cell's catalog: atlas, schema, members, and the users' keys.
    pub fn catalog(&self) -> &Catalog {
        &self.inner.catalog
    }

    /// The replicas of cohorts on this peer, for those who look after or compare them.
    pub fn replicas(&self) -> Vec<(GroupId, CohortHandle)> {
        self.inner.groups.all()
    }

    /// The schema in force.
    pub fn schema(&self) -> Arc<Schema> {
        self.inner.state().schema.clone()
    }

    /// The atlas in force.
    pub fn atlas(&self) -> Arc<Atlas> {
        self.inner.state().atlas.clone()
    }

    /// Reads one row: at `at`, or at the present, which shows every write acknowledged before.
    pub async fn read(
        &self,
        table: TableId,
        key: Bytes,
        at: Option<TxClock>,
        deadline: Instant,
    ) -> Result<ReadReply, CellError> {
        let router = &self.inner.router;
        let routes = router.routes(deadline).await?;
        let position = routes.state.atlas.cohort_for(row_hash(table, &key));
        // The way that every read takes on the leader: no message, no copy.
        if let Some(Some(cohort)) = routes.local.get(position) {
            match cohort.read(table, &key, at, deadline).await {
                Ok(read) => {
                    return Ok(ReadReply { read_time: read.read_time, time: read.time, value: read.value });
                }
                Err(error) => self.unless_elsewhere(error, is_alone(&routes, position, self.host()))?,
            };
        }
        let place = router.place(&routes, position)?;
        // Apart from the future that every request has room for: most never come here.
        match Box::pin(router.ask(&place, Want::Read { table, key, at }, None, deadline, None)).await? {
            Told::Read { read_time, time, value } => Ok(ReadReply { read_time, time, value }),
            other => Err(unexpected(&other)),
        }
    }

    /// Goes on, with why it may have been done already, if another replica may do better; else the client's error.
    fn unless_elsewhere(&self, error: CohortError, alone: bool) -> Result<Option<String>, CellError> {
        if alone && !matches!(error, CohortError::NotLeader { .. }) {
            return Err(error.into());
        }
        if let CohortError::Gone { .. } | CohortError::FutureTime(_) = error {
            return Err(error.into());
        }
        match attempt(Refused::from(error), self.host()) {
            Attempt::Final(error) => Err(error),
            Attempt::Unsure(why) => Ok(Some(why)),
            Attempt::Done(_) | Attempt::Elsewhere(_) | Attempt::NotDone(_) => Ok(None),
        }
    }

    /// Runs one transaction. Repeating one with the same client-given ID answers the recorded outcome.
    ///
    /// Errors: [`CellError::ManyCohorts`] where its rows belong to more than one.
    pub async fn write(&self, tx: Transaction, deadline: Instant) -> Result<TxOutcome, CellError> {
        let router = &self.inner.router;
        let routes = router.routes(deadline).await?;
        let position = position_of(&routes, &tx)?;
        let mut unsure = None;
        if let Some(Some(cohort)) = routes.local.get(position)
            && cohort.leader().borrow().leading
        {
            if is_alone(&routes, position, self.host()) {
                return Ok(cohort.write(tx, false, deadline).await?.into());
            }
            match cohort.write(tx.clone(), false, deadline).await {
                Ok(outcome) => return Ok(outcome.into()),
                Err(CohortError::IdReused { id }) => return Err(CellError::IdReused { id }),
                Err(error) => unsure = self.unless_elsewhere(error, false)?,
            }
        }
        let place = router.place(&routes, position)?;
        let id = tx.id.clone();
        match Box::pin(router.ask(&place, Want::Write(tx), Some(&id), deadline, unsure)).await? {
            Told::Written(outcome) => Ok(outcome),
            other => Err(unexpected(&other)),
        }
    }

    /// What became of a transaction; one that was never decided is aborted for good by asking.
    ///
    /// An ID does not tell which cohort it was for, so all are asked. That is harmless where it was never meant: nothing of
    /// it can come there.
    pub async fn tx_status(&self, id: TxId, deadline: Instant) -> Result<TxStatus, CellError> {
        let router = &self.inner.router;
        let routes = router.routes(deadline).await?;
        let asked = (0..routes.state.atlas.cohorts.len()).map(|position| {
            let (id, routes) = (id.clone(), &routes);
            async move {
                let place = router.place(routes, position)?;
                let want = Want::TxStatus(id.clone());
                // Asking is a write of its own kind, but what it may have done harms nobody: it is not reported as unknown.
                match router.ask(&place, want, None, deadline, None).await? {
                    Told::Status(status) => Ok(status),
                    other => Err(unexpected(&other)),
                }
            }
        });
        let mut missing = None;
        for status in futures_util::future::join_all(asked).await {
            match status {
                Ok(TxStatus::Committed(time)) => return Ok(TxStatus::Committed(time)),
                Ok(TxStatus::Aborted) => {}
                Err(error) => missing = Some(error),
            }
        }
        missing.map_or(Ok(TxStatus::Aborted), Err)
    }
}

/// The cohort that all rows of a transaction belong to.
fn position_of(routes: &Routes, tx: &Transaction) -> Result<usize, CellError> {
    let atlas = &routes.state.atlas;
    let position = |op: &skein_model::RowOp| atlas.cohort_for(row_hash(op.table, &op.key));
    if atlas.cohorts.len() == 1 {
        return Ok(0);
    }
    let positions: BTreeSet<usize> = tx.ops.iter().map(position).collect();
    match positions.first() {
        Some(position) if positions.len() == 1 => Ok(*position),
        _ => Err(CellError::ManyCohorts { cohorts: positions.len() }),
    }
}

impl From<Outcome> for TxOutcome {
    fn from(outcome: Outcome) -> TxOutcome {
        match outcome {
            Outcome::Committed(time) => TxOutcome::Committed(time),
            Outcome::Refused(refusal) => TxOutcome::Refused(refusal),
            Outcome::Aborted => TxOutcome::Aborted,
        }
    }
}
