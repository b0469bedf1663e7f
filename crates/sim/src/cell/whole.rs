//! The whole cell: every peer is the server's own `Cell`, on the simulated network, drives and clock.

use super::machine::Machine;
use super::system::{Digest, Found, KeyAnswer, Peer, Place, ScanRows, System, Trouble};
use crate::check::{Answer, Row};
use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use skein_cell::catalog::{CatalogError, Command, Freshness, KeyExpect, Refusal as CatalogRefusal};
use skein_cell::{
    Cell, CellError, CellOptions, PutAtlasError, Scan, ScanRequest, ScanWindow, TxOutcome, TxStatus,
};
use skein_model::{
    Atlas, CellId, Cohort, ContentType, GroupId, HostId, Pick, Refusal, Slice, TableId, Transaction, TxClock,
    TxId, Value,
};
use skein_storage::drives::Drives;
use skein_storage::log::{Log, LogOptions};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The cell that all peers are of.
const CELL: CellId = CellId(0x5e11);
/// Small, so that logs are cut and recycled within a run.
const SEGMENT_BYTES: u64 = 256 << 10;
const CHECKPOINT_BYTES: u64 = 400 << 10;
/// How long a change of the catalog may take.
const CHANGE_WITHIN: Duration = Duration::from_secs(20);

/// A cell.
#[derive(Debug, Clone, Copy, Default)]
pub struct Whole;

/// One of its peers.
pub struct WholePeer {
    cell: Cell,
    log: Log,
    machine: Machine,
}

impl System for Whole {
    type Peer = WholePeer;

    async fn open(&self, place: Place) -> Result<Rc<WholePeer>, String> {
        let machine = place.machine.clone();
        let options = LogOptions {
            segment_bytes: SEGMENT_BYTES,
            cache_bytes: 1 << 20,
            idle_mark: Duration::from_secs(600),
        };
        let (log, pump) = Log::open_pumped(machine.drives.log_disk(), options).map_err(|e| e.to_string())?;
        tokio::spawn(super::cohorts::run_log(pump, machine.clone()));
        let clock = machine.clock.clone();
        let others = place.peers.iter().filter(|(host, _)| *host != machine.host);
        let options = CellOptions {
            store: machine.store,
            peer_addr: Some(SocketAddr::new([0, 0, 0, 0].into(), place.addr.port())),
            share_peer_addr: Some(place.addr.to_string()),
            // Not everybody: one that is alive is enough, and the flock knows the rest.
            hail: others.take(3).map(|(host, addr)| (*host, addr.to_string())).collect(),
            share_http_addr: format!("{}:7070", Machine::name(machine.index)),
            log_segment_bytes: SEGMENT_BYTES,
            log_cache_bytes: 1 << 20,
            checkpoint_log_bytes: CHECKPOINT_BYTES,
            disk_reserve_bytes: 0,
            waiting_max: 1000,
            network: Arc::new(place.network.clone()),
            drives: Some(Arc::new(machine.drives.clone())),
            log: Some(log.clone()),
            seed: Some(place.seed),
            wall: Arc::new(move || clock.read()),
            ..CellOptions::new(PathBuf::from("simulated"), machine.host, CELL)
        };
        let cell = Box::pin(Cell::open(options)).await.map_err(|error| error.to_string())?;
        Ok(Rc::new(WholePeer { cell, log, machine }))
    }

    fn crashed(&self, _: &Machine) {}
}

fn trouble(error: CellError) -> Trouble {
    let why = error.to_string();
    match error {
        CellError::Unknown { .. } | CellError::DiskFailed { .. } => Trouble::Unknown(why),
        CellError::Damaged { .. } | CellError::IdReused { .. } | CellError::Gone { .. } => {
            Trouble::Broken(why)
        }
        _ => Trouble::Nothing(why),
    }
}

fn catalog_trouble(error: CatalogError) -> Trouble {
    let why = error.to_string();
    match error {
        CatalogError::Unknown { .. } | CatalogError::Disk { .. } => Trouble::Unknown(why),
        CatalogError::TwoFoundings(_) => Trouble::Broken(why),
        _ => Trouble::Nothing(why),
    }
}

impl Peer for WholePeer {
    async fn read(&self, row: &Row, at: Option<TxClock>, deadline: Instant) -> Result<Answer, Trouble> {
        let read =
            Box::pin(self.cell.read(row.table, row.key.clone(), at, deadline)).await.map_err(trouble)?;
        let value = read.value.map(|value| value.bytes);
        Ok(Answer::Found { read_time: read.read_time, time: read.time, value })
    }

    async fn write(&self, tx: Transaction, deadline: Instant) -> Result<Answer, Trouble> {
        Ok(match Box::pin(self.cell.write(tx, deadline)).await.map_err(trouble)? {
            TxOutcome::Committed(time) => Answer::Committed(time),
            TxOutcome::Refused(Refusal::Collision { .. }) => Answer::Collision,
            TxOutcome::Refused(Refusal::Stale { latest, .. }) => Answer::Stale(latest),
            TxOutcome::Aborted => Answer::Aborted,
        })
    }

    async fn status(&self, id: TxId, deadline: Instant) -> Result<Answer, Trouble> {
        Ok(match Box::pin(self.cell.tx_status(id, deadline)).await.map_err(trouble)? {
            TxStatus::Committed(time) => Answer::Committed(time),
            TxStatus::Aborted => Answer::Aborted,
        })
    }

    async fn scan(
        &self,
        table: TableId,
        slice: Slice,
        at: Option<TxClock>,
        history: bool,
        deadline: Instant,
    ) -> Result<Box<dyn ScanRows>, Trouble> {
        let pick = if history { Pick::Between } else { Pick::Latest };
        let request = ScanRequest {
            table,
            window: ScanWindow { pick, since: TxClock::ZERO, until: at },
            key: Bytes::new(),
            time: TxClock::MAX,
            end: None,
            slice,
        };
        let scan = Box::pin(self.cell.scan(request, deadline)).await.map_err(trouble)?;
        Ok(Box::new(Rows(scan)))
    }

    fn atlas(&self) -> Arc<Atlas> {
        self.cell.atlas()
    }

    async fn put_atlas(&self, cohorts: &[BTreeSet<HostId>]) -> Result<(), Trouble> {
        let targets = cohorts.iter().map(|hosts| Cohort::Settled { hosts: hosts.clone() }).collect();
        match Box::pin(self.cell.put_atlas(targets, None, Instant::now() + CHANGE_WITHIN)).await {
            Ok(_) => Ok(()),
            Err(PutAtlasError::Catalog(error)) => Err(catalog_trouble(error)),
            Err(error) => Err(Trouble::Nothing(error.to_string())),
        }
    }

    async fn drain(&self, on: bool) -> Result<(), Trouble> {
        self.cell.drain(on);
        Ok(())
    }

    async fn forget(&self, host: HostId) -> Result<(), Trouble> {
        let deadline = Instant::now() + Duration::from_secs(5);
        Box::pin(self.cell.forget(host, deadline)).await.map(|_| ()).map_err(catalog_trouble)
    }

    async fn leaders(&self) -> Vec<Option<HostId>> {
        let state = self.cell.catalog().state().borrow().clone();
        let mut leaders = vec![None; state.atlas.cohorts.len()];
        for (group, cohort) in self.cell.replicas() {
            if let Some(leader) = state.position(group).and_then(|position| leaders.get_mut(position)) {
                *leader = cohort.leader().borrow().leader.map(|replica| replica.host);
            }
        }
        leaders
    }

    async fn put_key(
        &self,
        key: &str,
        expected: u64,
        value: Bytes,
        deadline: Instant,
    ) -> Result<KeyAnswer, Trouble> {
        let expect = if expected == 0 { KeyExpect::Absent } else { KeyExpect::Version(expected) };
        let value = Value { content_type: ContentType::Other("text/plain".into()), bytes: value };
        let command = Command::PutKey { key: key.to_owned(), value, expect };
        match Box::pin(self.cell.catalog().change(command, deadline)).await {
            Ok(outcome) => Ok(KeyAnswer::Written(outcome.version)),
            Err(CatalogError::Refused(CatalogRefusal::Stale { current, .. })) => Ok(KeyAnswer::Is(current)),
            Err(CatalogError::Refused(CatalogRefusal::Exists { version, .. })) => Ok(KeyAnswer::Is(version)),
            Err(CatalogError::Refused(CatalogRefusal::Missing { .. })) => Ok(KeyAnswer::Is(0)),
            Err(error) => Err(catalog_trouble(error)),
        }
    }

    async fn get_key(&self, key: &str, deadline: Instant) -> Result<(u64, Bytes), Trouble> {
        let found = Box::pin(self.cell.catalog().get_key(key, Freshness::Linearizable, deadline)).await;
        Ok(found
            .map_err(catalog_trouble)?
            .map_or((0, Bytes::new()), |entry| (entry.version, entry.value.bytes)))
    }

    async fn digests(&self) -> Result<Vec<Digest>, Trouble> {
        let store = self.machine.store;
        let digest = |(group, cohort): (GroupId, skein_cohort::Cohort)| {
            let applied = cohort.status().applied_end;
            let digest = cohort.rows().digest().map_err(|error| Trouble::Broken(error.to_string()))?;
            Ok(Digest { group, store, applied, digest: digest.hash as u64 })
        };
        self.cell.replicas().into_iter().map(digest).collect()
    }

    fn failure(&self) -> Option<String> {
        if let Err(error) = self.log.health() {
            return Some(error.to_string());
        }
        self.cell
            .replicas()
            .into_iter()
            .find_map(|(group, cohort)| Some(format!("{group}: {}", cohort.failure()?)))
    }
}

struct Rows(Scan);

impl ScanRows for Rows {
    fn until(&self) -> TxClock {
        self.0.until()
    }

    fn next(&mut self) -> LocalBoxFuture<'_, Result<Vec<Found>, Trouble>> {
        Box::pin(async move {
            let rows = self.0.next(20, 100_000).await.map_err(trouble)?;
            Ok(rows.into_iter().map(|row| (row.key, row.time, row.value.map(|value| value.bytes))).collect())
        })
    }
}
