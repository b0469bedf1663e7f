//! The cell from the point of view of one of its peers: the handle that the rest of the program uses.

use crate::api::*;
use crate::catalog::{Catalog, CatalogError, CatalogState, Command};
use crate::errors::{PutAtlasError, PutSchemaError};
use crate::gossip::Gossip;
use crate::groups::Groups;
use crate::link::Link;
use crate::luck::Luck;
use crate::merge::{Merge, Source};
use crate::options::CellOptions;
use crate::router::{CohortRows, Router, Routes, attempt, unexpected};
use crate::routing::Attempt;
use crate::space::Space;
use crate::wire::{Refused, Told, Want};
use bytes::Bytes;
use skein_cohort::peers::Replica;
use skein_cohort::{Cohort as CohortHandle, CohortError, Outcome, ScanOptions};
use skein_model::{
    Atlas, CellId, Cohort, GroupId, HostId, HybridClock, Schema, Slice, TableId, Transaction, TxClock, TxId,
    row_hash,
};
use skein_storage::blocking;
use skein_storage::drives::Drives;
use skein_storage::log::Log;
use skein_storage::rows::{ChunkBudget, ScanPosition, ScanRow, ScanSpec};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// How long a change of the catalog may take.
const CHANGE_WITHIN: Duration = Duration::from_secs(20);

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
    pub(crate) link: Link,
    pub(crate) gossip: Gossip,
    pub(crate) groups: Groups,
    pub(crate) router: Router,
    pub(crate) routes: watch::Sender<Arc<Routes>>,
    /// What the changes of members of the cohorts led here wait for.
    pub(crate) waits: Mutex<BTreeMap<GroupId, String>>,
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
fn is_alone(routes: &Routes, position: usize, me: HostId) -> bool {
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

    /// Replaces the schema; answers when the new one is durable, and in force on this peer.
    pub async fn put_schema(&self, text: &str) -> Result<(), PutSchemaError> {
        Schema::parse(text)?;
        let command = Command::PutSchema { text: text.to_owned(), if_version: None };
        let deadline = Instant::now() + CHANGE_WITHIN;
        let outcome = self.inner.catalog.change(command, deadline).await?;
        self.catch_up(outcome, deadline).await;
        Ok(())
    }

    /// The atlas in force.
    pub fn atlas(&self) -> Arc<Atlas> {
        self.inner.state().atlas.clone()
    }

    /// Asks for new cohorts; answers when the change is durable, and in force on this peer. `if_version` makes it conditional.
    pub async fn put_atlas(
        &self,
        targets: Vec<Cohort>,
        if_version: Option<u64>,
    ) -> Result<Arc<Atlas>, PutAtlasError> {
        let deadline = Instant::now() + CHANGE_WITHIN;
        let changed = self.inner.catalog.put_atlas(targets, if_version, deadline).await;
        let outcome = changed.map_err(|error| match error {
            CatalogError::NoFounder { .. } => PutAtlasError::Unsupported {
                detail: format!(
                    "{error}; start it with --hail and the address of this peer, or begin with this host alone: PUT \
                     [{{\"hosts\":[\"{}\"]}}].",
                    self.host()
                ),
            },
            other => other.into(),
        })?;
        self.catch_up(outcome, deadline).await;
        Ok(self.atlas())
    }

    /// Takes over the catalog with the change of this index, so that whoever asked for it finds it here, and requests go by it.
    /// Should that fail, the flock brings it a little later.
    async fn catch_up(&self, outcome: crate::catalog::Outcome, deadline: Instant) {
        // What changed nothing left the version as it was.
        let index = if outcome.changed { outcome.index } else { self.inner.state().version };
        if self.inner.state().version < index
            && let Ok(state) = self.inner.catalog.read_linearizable(deadline).await
            && let Err(error) = self.inner.catalog.learn(state).await
        {
            tracing::error!(%error, "take over a change of the catalog");
        }
        let mut routes = self.inner.routes.subscribe();
        let followed = routes.wait_for(|routes| index <= routes.state.version);
        if tokio::time::timeout_at(deadline, followed).await.is_err() {
            tracing::warn!(index, "requests here do not go by the newest catalog yet");
        }
    }

    /// Says that a host's directory is lost for good; it may then come back with another one. Tells whether the directory was
    /// known.
    ///
    /// Errors: the catalog's; nothing changed but after [`CatalogError::Unknown`].
    pub async fn forget(&self, host: HostId, deadline: Instant) -> Result<bool, CatalogError> {
        let outcome = self.inner.catalog.change(Command::Forget { host }, deadline).await?;
        self.catch_up(outcome, deadline).await;
        Ok(outcome.changed)
    }

    /// Has this peer lead nothing (or, with `false`, its share again). Remembered across restarts.
    pub fn drain(&self, on: bool) {
        self.inner.gossip.drain(on);
    }

    /// Whether this peer wants to lead nothing.
    pub fn is_draining(&self) -> bool {
        self.inner.gossip.is_draining()
    }

    /// The peers that store part of a slice, with their weights.
    pub fn hosts(&self, slice: Slice) -> Vec<HostWeight> {
        let options = &self.inner.options;
        let view = self.inner.gossip.look();
        let addr = |host: HostId| match view.peers.get(&host) {
            _ if host == options.host => Some(options.share_http_addr.clone()),
            Some(peer) => peer.http.clone(),
            None => None,
        };
        let weights = self.atlas().slice_weights(slice).into_iter();
        weights.map(|(host, weight)| HostWeight { weight, host, addr: addr(host), ssl_addr: None }).collect()
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

    /// Begins a scan: settles one time for all cohorts that hold rows of the slice.
    pub async fn scan(&self, request: ScanRequest, deadline: Instant) -> Result<Scan, CellError> {
        let router = &self.inner.router;
        let routes = router.routes(deadline).await?;
        let positions = Router::positions(&routes, request.slice);
        let window = request.window;
        if let [position] = positions[..]
            && is_alone(&routes, position, self.host())
            && let Some(Some(cohort)) = routes.local.get(position)
        {
            cohort.leads().await?;
            let options = ScanOptions {
                table: request.table,
                pick: window.pick,
                since: window.since,
                until: window.until,
                key: request.key,
                time: request.time,
                end: request.end,
                slice: request.slice,
            };
            let scan = cohort.scan(options, deadline).await?;
            return Ok(Scan { until: scan.until(), rows: ScanRows::Here(scan) });
        }
        let places: Vec<_> =
            positions.iter().map(|position| router.place(&routes, *position)).collect::<Result<_, _>>()?;
        let promises = places.iter().map(|place| async {
            match router.ask(place, Want::Promise(window.until), None, deadline, None).await? {
                Told::Promised(time) => Ok(time),
                other => Err(unexpected(&other)),
            }
        });
        // Whatever was acknowledged before has a time at or before that of its own leader's promise.
        let mut until = TxClock::ZERO;
        for promised in futures_util::future::join_all(promises).await {
            until = until.max(promised?);
        }
        let spec = ScanSpec {
            table: request.table,
            window: window.until(until),
            slice: request.slice,
            end: request.end,
        };
        let source = |place| {
            Box::new(CohortRows { router: router.clone(), place, spec: spec.clone() }) as Box<dyn Source>
        };
        let from = ScanPosition { key: request.key, time: request.time };
        let merge = Merge::new(places.into_iter().map(source).collect(), &from);
        Ok(Scan { until, rows: ScanRows::Merged(merge) })
    }

    /// The tables that hold rows on this host.
    pub async fn tables(&self) -> Result<Vec<TableInfo>, CellError> {
        let mut oldest: BTreeMap<TableId, TxClock> = BTreeMap::new();
        for (_, cohort) in self.inner.groups.all() {
            let rows = cohort.rows();
            let tables = blocking(move || rows.tables())
                .await
                .map_err(|e| CellError::DiskFailed { detail: e.to_string() })?
                .map_err(|e| CellError::from(CohortError::from(e)))?;
            for table in tables {
                let known = oldest.entry(table.id).or_default();
                *known = table.horizon.max(*known);
            }
        }
        let schema = self.schema();
        let name = |id| schema.tables().find(|(_, table)| table.id == id).map(|(name, _)| name.to_owned());
        Ok(oldest.into_iter().map(|(id, oldest)| TableInfo { id, name: name(id), oldest }).collect())
    }

    /// Whether rows are being served.
    pub fn readiness(&self) -> Readiness {
        let inner = &self.inner;
        if let Some(conflict) = *inner.catalog.conflict().borrow() {
            return Readiness::NotReady(conflict.to_string());
        }
        let routes = inner.routes.borrow().clone();
        if routes.local.is_empty() {
            return Readiness::NotReady("there is no atlas; PUT /atlas, or start with --solo".into());
        }
        for facts in &routes.state.cohorts {
            if let Some(failure) = inner.groups.failure(facts.group) {
                return Readiness::NotReady(failure);
            }
        }
        match inner.log.health() {
            Ok(()) => Readiness::Ready,
            Err(error) => Readiness::NotReady(error.to_string()),
        }
    }

    /// Refreshes the gauges that are read rather than counted. Called before metrics are rendered.
    pub fn refresh_metrics(&self) {
        let inner = &self.inner;
        let log = inner.log.stats();
        metrics::gauge!("skein_log_bytes").set(log.bytes_on_disk as f64);
        metrics::gauge!("skein_log_live_bytes").set(log.live_bytes as f64);
        inner.drives.stats();
        let replicas = inner.groups.all();
        let replay: u64 = replicas.iter().map(|(_, cohort)| cohort.log_bytes_since_checkpoint()).sum();
        metrics::gauge!("skein_log_replay_bytes").set(replay as f64);
        let leading = replicas.iter().filter(|(_, cohort)| cohort.leader().borrow().leading).count();
        metrics::gauge!("skein_replicas").set(replicas.len() as f64);
        metrics::gauge!("skein_replicas_led").set(leading as f64);
        metrics::gauge!("skein_peers_known").set(inner.gossip.look().peers.len() as f64);
        metrics::gauge!("skein_peers_connected").set(inner.link.connected().len() as f64);
        let state = inner.state();
        let moving = state.atlas.cohorts.iter().filter(|cohort| !cohort.is_settled()).count();
        metrics::gauge!("skein_cohorts_moving").set(moving as f64);
        let led = inner.led();
        let lag = led.iter().flat_map(|it| &it.replicas).filter_map(|it| it.lag).max().unwrap_or(0);
        metrics::gauge!("skein_replica_lag_entries").set(lag as f64);
    }

    /// Hands over what this peer leads, finishes what is in flight, for at most `grace`, and closes the log and the store.
    ///
    /// When this returns within `grace`, nothing of this cell touches the directory any more.
    pub async fn shutdown(&self, grace: Duration) {
        let inner = &self.inner;
        let deadline = Instant::now() + grace;
        inner.hand_over_all(grace / 4).await;
        inner.stopping.send_replace(true);
        let left = || deadline.saturating_duration_since(Instant::now());
        let replicas = inner.groups.all();
        futures_util::future::join_all(replicas.iter().map(|(_, cohort)| cohort.close(left()))).await;
        inner.catalog.close().await;
        if let Some(transport) = inner.link.transport() {
            transport.close(left() / 2).await;
        }
        // One may be compacting, which cannot be interrupted.
        let tasks = std::mem::take(&mut *inner.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        for task in tasks {
            if tokio::time::timeout_at(deadline, task).await.is_err() {
                tracing::warn!("stopping while superseded versions are being reclaimed; that is harmless");
            }
        }
        let log = inner.log.clone();
        if let Err(error) = blocking(move || log.close()).await {
            tracing::error!(%error, "close the log");
        }
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

/// A scan under way; a consistent snapshot however long it takes.
pub struct Scan {
    until: TxClock,
    rows: ScanRows,
}

enum ScanRows {
    /// All rows are with this peer, and nobody else has a say.
    Here(skein_cohort::Scan),
    /// From whoever leads.
    Merged(Merge),
}

impl Scan {
    /// The settled upper bound of the scan's window.
    pub fn until(&self) -> TxClock {
        self.until
    }

    /// The next selected versions, at most `rows_max` of them and about `bytes_max` bytes of values; empty
    /// at the end of the scan, and only there.
    pub async fn next(&mut self, rows_max: usize, bytes_max: usize) -> Result<Vec<ScanRow>, CellError> {
        let budget = ChunkBudget { rows: rows_max, bytes: bytes_max };
        match &mut self.rows {
            ScanRows::Here(scan) => Ok(scan.next(budget).await?),
            ScanRows::Merged(merge) => merge.next(budget).await,
        }
    }
}
