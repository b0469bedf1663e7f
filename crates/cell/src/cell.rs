//! The cell from the point of view of one of its peers.

use crate::api::*;
use crate::catalog_of_one::{Catalog, Facts};
use crate::errors::{PutAtlasError, PutSchemaError};
use crate::horizons;
use crate::luck::Luck;
use crate::options::{CellOptions, OpenError};
use crate::space::Space;
use crate::status::{CatalogStatus, CellStatus, CohortStatus, Health, PeerStatus};
use bytes::Bytes;
use skein_cohort::group::Timing;
use skein_cohort::peers::{NoPeers, Replica};
use skein_cohort::{Cohort as CohortHandle, CohortOptions, Outcome, ScanOptions};
use skein_model::{
    Atlas, CellId, Cohort, GroupId, HostId, HybridClock, Schema, Slice, TableId, Transaction, TxClock, TxId,
};
use skein_storage::blocking;
use skein_storage::drives::{Drives, RealDrives};
use skein_storage::engine::EngineOptions;
use skein_storage::log::{Log, LogOptions};
use skein_storage::rows::{ChunkBudget, ScanRow};
use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// The Raft group of the cell's only cohort.
const COHORT_GROUP: GroupId = GroupId::FIRST;

/// A handle on the cell; clones share it.
#[derive(Clone)]
pub struct Cell {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    options: CellOptions,
    catalog: Catalog,
    facts: RwLock<Facts>,
    /// Held while the catalog changes, so that changes come one after another.
    changing: Mutex<()>,
    drives: Arc<dyn Drives>,
    log: Log,
    space: Arc<Space>,
    luck: Luck,
    cohort: watch::Sender<Option<CohortHandle>>,
    /// Turns true when the cell shuts down.
    stopping: watch::Sender<bool>,
    /// The task that looks after retention.
    retention: Mutex<Option<JoinHandle<()>>>,
}

impl Inner {
    pub(crate) fn facts(&self) -> Facts {
        self.facts.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn cohort(&self) -> Option<CohortHandle> {
        self.cohort.borrow().clone()
    }

    /// Writes the new facts down, then puts them in force.
    async fn put_facts(self: &Arc<Self>, facts: Facts) -> Result<(), CellError> {
        let inner = self.clone();
        let store = move || {
            inner.catalog.store(&facts)?;
            *inner.facts.write().unwrap_or_else(PoisonError::into_inner) = facts;
            Ok(())
        };
        blocking(store)
            .await
            .map_err(|e| CellError::DiskFailed { detail: format!("change the catalog: {e}") })?
    }

    async fn start_cohort(&self) -> Result<(), CellError> {
        let mut run = [0u8; 8];
        getrandom::fill(&mut run)
            .map_err(|e| CellError::DiskFailed { detail: format!("draw a random number: {e}") })?;
        let space = self.space.clone();
        let me = Replica { store: self.options.store, host: self.options.host };
        let options = CohortOptions {
            group: COHORT_GROUP,
            me,
            log: self.log.group(COHORT_GROUP.0),
            drives: self.drives.clone(),
            peers: Arc::new(NoPeers),
            timing: Timing::default(),
            throttle: None,
            suspend_clock: None,
            run: u64::from_le_bytes(run),
            wall: self.options.wall.clone(),
            room: Arc::new(move || space.check()),
            entries_in_flight_max: self.options.entries_in_flight_max,
            waiting_max: self.options.waiting_max,
            checkpoint_log_bytes: self.options.checkpoint_log_bytes,
        };
        let cohort = CohortHandle::open(options).await?;
        cohort.initialise(&BTreeSet::from([me])).await?;
        cohort.leads().await?;
        self.cohort.send_replace(Some(cohort));
        Ok(())
    }

    fn wall(&self) -> u64 {
        (self.options.wall)()
    }
}

impl Cell {
    /// Opens the store, repairs what a crash may have left, and, if the atlas names this host, serves rows when
    /// this returns.
    ///
    /// The store's directory holds `catalog`, `log/` and `cohorts/`; see `docs/FORMAT.md`.
    pub async fn open(options: CellOptions) -> Result<Cell, OpenError> {
        let catalog = Catalog::in_dir(&options.dir);
        let facts = catalog.load()?;
        let log_options = LogOptions {
            segment_bytes: options.log_segment_bytes,
            cache_bytes: options.log_cache_bytes,
            ..LogOptions::default()
        };
        let engine_options = EngineOptions {
            cache_bytes: options.cache_bytes,
            write_buffer_bytes: options.write_buffer_bytes,
            ..EngineOptions::default()
        };
        let dir = options.dir.clone();
        let open = move || -> Result<(RealDrives, Log), OpenError> {
            let drives = RealDrives::open(&dir, engine_options)?;
            let log = Log::open(drives.log_disk(), log_options)?;
            Ok((drives, log))
        };
        let (drives, log) = blocking(open).await.map_err(|e| OpenError::Io {
            verb: "open",
            path: options.dir.clone(),
            source: e.into(),
        })??;
        let space = Space::new(drives.log_disk(), options.disk_reserve_bytes);
        // A cohort starts only after the catalog that names it is durable.
        if !log.groups().is_empty() {
            catalog.check_is_there()?;
        }
        let inner = Arc::new(Inner {
            catalog,
            facts: RwLock::new(facts),
            changing: Mutex::new(()),
            drives: Arc::new(drives),
            log,
            space: space.clone(),
            luck: Luck::new(),
            cohort: watch::channel(None).0,
            stopping: watch::channel(false).0,
            retention: Mutex::new(None),
            options,
        });
        let cell = Cell { inner };
        cell.start().await?;
        tokio::spawn(space.watch());
        let interval = cell.inner.options.horizon_interval;
        let stopping = cell.inner.stopping.subscribe();
        let retention = tokio::spawn(horizons::look_after(Arc::downgrade(&cell.inner), interval, stopping));
        *cell.inner.retention.lock().await = Some(retention);
        Ok(cell)
    }

    async fn start(&self) -> Result<(), OpenError> {
        let inner = &self.inner;
        let only_this = BTreeSet::from([inner.options.host]);
        let mut facts = inner.facts();
        if inner.options.solo && facts.atlas.is_empty() {
            let cohorts = vec![Cohort::Settled { hosts: only_this.clone() }];
            facts.atlas = Arc::new(Atlas { version: 1, cohorts });
            inner.put_facts(facts.clone()).await.map_err(OpenError::Cohort)?;
        }
        if facts.atlas.is_empty() {
            return Ok(());
        }
        if facts.atlas.cohorts.iter().any(|cohort| *cohort.target() != only_this) {
            return Err(OpenError::NotSolo { host: inner.options.host });
        }
        inner.start_cohort().await.map_err(OpenError::Cohort)
    }

    /// This host's ID.
    pub fn host(&self) -> HostId {
        self.inner.options.host
    }

    /// The cell's ID.
    pub fn cell(&self) -> CellId {
        self.inner.options.cell
    }

    /// The cell's present time: at or after every time it ever issued, saw or promised.
    pub fn now(&self) -> TxClock {
        match &*self.inner.cohort.borrow() {
            Some(cohort) => cohort.now(),
            None => HybridClock::starting_after(TxClock::ZERO).now(self.inner.wall()),
        }
    }

    /// Draws a transaction ID for a client that gave none.
    pub fn draw_tx_id(&self) -> TxId {
        TxId::draw(self.inner.wall(), self.inner.luck.draw())
    }

    /// The schema in force.
    pub fn schema(&self) -> Arc<Schema> {
        self.inner.facts.read().unwrap_or_else(PoisonError::into_inner).schema.clone()
    }

    /// Replaces the schema; answers when the new one is in force and durable.
    pub async fn put_schema(&self, text: &str) -> Result<(), PutSchemaError> {
        let schema = Arc::new(Schema::parse(text)?);
        let _one_at_a_time = self.inner.changing.lock().await;
        let mut facts = self.inner.facts();
        if facts.atlas.is_empty() {
            return Err(CellError::NoAtlas.into());
        }
        facts.schema_version += 1;
        facts.schema = schema;
        Ok(self.inner.put_facts(facts).await?)
    }

    /// The atlas in force.
    pub fn atlas(&self) -> Arc<Atlas> {
        self.inner.facts.read().unwrap_or_else(PoisonError::into_inner).atlas.clone()
    }

    /// Asks for new cohorts; answers when the change is in force and durable. `if_version` makes it conditional.
    pub async fn put_atlas(
        &self,
        targets: Vec<Cohort>,
        if_version: Option<u64>,
    ) -> Result<Arc<Atlas>, PutAtlasError> {
        let _one_at_a_time = self.inner.changing.lock().await;
        let mut facts = self.inner.facts();
        if let Some(expected) = if_version
            && expected != facts.atlas.version
        {
            return Err(PutAtlasError::Stale { current: facts.atlas.version, expected });
        }
        let host = self.inner.options.host;
        if targets.len() != 1 || targets.iter().any(|cohort| *cohort.target() != BTreeSet::from([host])) {
            let detail = format!(
                "this release serves cells of one peer: PUT [{{\"hosts\":[\"{host}\"]}}], this host alone"
            );
            return Err(PutAtlasError::Unsupported { detail });
        }
        if let Some(next) = facts.atlas.next(&targets) {
            facts.atlas = Arc::new(next);
            self.inner.put_facts(facts.clone()).await?;
        }
        // Also without a change: an earlier attempt may have put the atlas in force and then failed to start the cohort.
        if self.inner.cohort().is_none() {
            self.inner.start_cohort().await?;
        }
        Ok(facts.atlas)
    }

    /// The peers that store part of a slice, with their weights.
    pub fn hosts(&self, slice: Slice) -> Vec<HostWeight> {
        let options = &self.inner.options;
        let weights = self.atlas().slice_weights(slice).into_iter();
        weights
            .map(|(host, weight)| HostWeight {
                weight,
                host,
                addr: (host == options.host).then(|| options.share_http_addr.clone()),
                ssl_addr: None,
            })
            .collect()
    }

    /// The cohort that owns a row; waits for an atlas until the deadline.
    async fn cohort(&self, deadline: Instant) -> Result<CohortHandle, CellError> {
        if let Some(cohort) = &*self.inner.cohort.borrow() {
            return Ok(cohort.clone());
        }
        let mut changes = self.inner.cohort.subscribe();
        let wait = changes.wait_for(Option::is_some);
        match tokio::time::timeout_at(deadline, wait).await {
            Ok(Ok(cohort)) => cohort.clone().ok_or(CellError::NoAtlas),
            Ok(Err(_)) | Err(_) => Err(CellError::NoAtlas),
        }
    }

    /// Reads one row: at `at`, or at the present, which shows every write acknowledged before.
    pub async fn read(
        &self,
        table: TableId,
        key: Bytes,
        at: Option<TxClock>,
        deadline: Instant,
    ) -> Result<ReadReply, CellError> {
        let read = self.cohort(deadline).await?.read(table, &key, at, deadline).await?;
        Ok(ReadReply { read_time: read.read_time, time: read.time, value: read.value })
    }

    /// Runs one transaction. Repeating one with the same client-given ID answers the recorded outcome.
    pub async fn write(&self, tx: Transaction, deadline: Instant) -> Result<TxOutcome, CellError> {
        Ok(match self.cohort(deadline).await?.write(tx, false, deadline).await? {
            Outcome::Committed(time) => TxOutcome::Committed(time),
            Outcome::Refused(refusal) => TxOutcome::Refused(refusal),
            Outcome::Aborted => TxOutcome::Aborted,
        })
    }

    /// What became of a transaction; one that was never decided is aborted for good by asking.
    pub async fn tx_status(&self, id: TxId, deadline: Instant) -> Result<TxStatus, CellError> {
        Ok(match self.cohort(deadline).await?.tx_status(id, deadline).await? {
            Outcome::Committed(time) => TxStatus::Committed(time),
            Outcome::Refused(_) | Outcome::Aborted => TxStatus::Aborted,
        })
    }

    /// Begins a scan.
    pub async fn scan(&self, request: ScanRequest, deadline: Instant) -> Result<Scan, CellError> {
        let options = ScanOptions {
            table: request.table,
            pick: request.window.pick,
            since: request.window.since,
            until: request.window.until,
            key: request.key,
            time: request.time,
            end: request.end,
            slice: request.slice,
        };
        let scan = self.cohort(deadline).await?.scan(options, deadline).await?;
        Ok(Scan { scan })
    }

    /// The tables that hold rows on this host.
    pub async fn tables(&self) -> Result<Vec<TableInfo>, CellError> {
        let Some(cohort) = self.inner.cohort() else { return Ok(Vec::new()) };
        let rows = cohort.rows();
        let tables = blocking(move || rows.tables())
            .await
            .map_err(|e| CellError::DiskFailed { detail: e.to_string() })?
            .map_err(|e| CellError::from(skein_cohort::CohortError::from(e)))?;
        let schema = self.schema();
        let name = |id| schema.tables().find(|(_, table)| table.id == id).map(|(name, _)| name.to_owned());
        Ok(tables
            .into_iter()
            .map(|table| TableInfo { id: table.id, name: name(table.id), oldest: table.horizon })
            .collect())
    }

    /// Whether rows are being served.
    pub fn readiness(&self) -> Readiness {
        let Some(cohort) = self.inner.cohort() else {
            return Readiness::NotReady("there is no atlas; PUT /atlas, or start with --solo".into());
        };
        if let Some(failure) = cohort.failure() {
            return Readiness::NotReady(failure.to_string());
        }
        match self.inner.log.health() {
            Ok(()) => Readiness::Ready,
            Err(error) => Readiness::NotReady(error.to_string()),
        }
    }

    /// The cell as this peer knows it. Leaders elsewhere are asked for what only they know, until the deadline.
    pub async fn status(&self, _deadline: Instant) -> CellStatus {
        let inner = &self.inner;
        let atlas = self.atlas();
        let leader = inner.cohort().map(|_| inner.options.host);
        let cohorts = atlas.cohorts.iter().enumerate().filter(|(_, state)| **state != Cohort::Empty);
        CellStatus {
            cell: inner.options.cell,
            host: inner.options.host,
            atlas_version: atlas.version,
            peers: self.peers(),
            cohorts: cohorts
                .map(|(index, state)| CohortStatus {
                    index,
                    group: COHORT_GROUP,
                    state: state.clone(),
                    leader,
                    preferred: leader,
                    term: 0,
                    committed: 0,
                    replicas: Vec::new(),
                    bytes: inner.cohort().map(|cohort| cohort.rows().stats().disk_bytes.iter().sum()),
                    moving: None,
                    failure: inner.cohort().and_then(|c| c.failure()).map(|e| e.to_string()),
                })
                .collect(),
            catalog: self.flock_status(),
        }
    }

    /// Everybody known, by ascending host; this peer included.
    pub fn peers(&self) -> Vec<PeerStatus> {
        let options = &self.inner.options;
        let cohorts = self.atlas().cohorts.iter().filter(|c| c.hosts().any(|h| h == options.host)).count();
        vec![PeerStatus {
            host: options.host,
            store: Some(options.store),
            is_me: true,
            health: Health::Healthy,
            connected: true,
            peer_addr: options.share_peer_addr.clone(),
            http_addr: Some(options.share_http_addr.clone()),
            build: Some(options.build.clone()),
            draining: false,
            seen: Some(self.atlas().version),
            disk_free_bytes: self.inner.space.free_bytes(),
            cohorts: u32::try_from(cohorts).unwrap_or(u32::MAX),
            leads: u32::from(self.inner.cohort().is_some()),
        }]
    }

    /// Where the catalog is kept: its members, its leader, how far it is.
    pub fn flock_status(&self) -> CatalogStatus {
        let facts = self.inner.facts();
        CatalogStatus {
            version: facts.atlas.version + facts.schema_version,
            schema_version: facts.schema_version,
            ..CatalogStatus::default()
        }
    }

    /// Refreshes the gauges that are read rather than counted. Called before metrics are rendered.
    pub fn refresh_metrics(&self) {
        let log = self.inner.log.stats();
        metrics::gauge!("skein_log_bytes").set(log.bytes_on_disk as f64);
        metrics::gauge!("skein_log_live_bytes").set(log.live_bytes as f64);
        self.inner.drives.stats();
        if let Some(cohort) = self.inner.cohort() {
            metrics::gauge!("skein_log_replay_bytes").set(cohort.log_bytes_since_checkpoint() as f64);
        }
    }

    /// Finishes what is in flight, for at most `grace`, and closes the log and the store.
    ///
    /// When this returns within `grace`, nothing of this cell touches the directory any more.
    pub async fn shutdown(&self, grace: Duration) {
        let deadline = Instant::now() + grace;
        self.inner.stopping.send_replace(true);
        if let Some(cohort) = self.inner.cohort() {
            cohort.close(grace).await;
        }
        // It may be compacting, which cannot be interrupted.
        if let Some(retention) = self.inner.retention.lock().await.take()
            && tokio::time::timeout_at(deadline, retention).await.is_err()
        {
            tracing::warn!("stopping while superseded versions are being reclaimed; that is harmless");
        }
        let log = self.inner.log.clone();
        if let Err(error) = blocking(move || log.close()).await {
            tracing::error!(%error, "close the log");
        }
    }
}

/// A scan under way; a consistent snapshot however long it takes.
pub struct Scan {
    scan: skein_cohort::Scan,
}

impl Scan {
    /// The settled upper bound of the scan's window.
    pub fn until(&self) -> TxClock {
        self.scan.until()
    }

    /// The next selected versions, at most `rows_max` of them and about `bytes_max` bytes of values; empty
    /// at the end of the scan, and only there.
    pub async fn next(&mut self, rows_max: usize, bytes_max: usize) -> Result<Vec<ScanRow>, CellError> {
        Ok(self.scan.next(ChunkBudget { rows: rows_max, bytes: bytes_max }).await?)
    }
}
