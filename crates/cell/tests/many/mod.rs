//! Peers for tests: how to start, stop and ask them.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use bytes::Bytes;
use skein_cell::{Cell, CellError, CellOptions, Health, ScanRequest, ScanWindow, TxOutcome};
use skein_model::{
    CellId, Cohort, ContentType, HostId, Pick, RowOp, Slice, StoreId, TableId, Transaction, TxClock, Value,
    WriteOp,
};
use skein_storage::drives::{Drives, MemDrives};
use skein_transport::memory::MemoryNetwork;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

pub const TABLE: TableId = TableId(1);
/// Longer than anything takes that works.
const PATIENCE: Duration = Duration::from_secs(60);

pub fn soon() -> Instant {
    Instant::now() + PATIENCE
}

pub fn key(n: usize) -> String {
    format!("key {n:05}")
}

/// Cohorts of these hosts.
pub fn hosts(cohorts: &[&[u64]]) -> Vec<Cohort> {
    cohorts
        .iter()
        .map(|hosts| Cohort::Settled { hosts: hosts.iter().copied().map(HostId).collect() })
        .collect()
}

fn addr(host: u64) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, host as u8], 6278))
}

pub struct Peers {
    network: MemoryNetwork,
    drives: BTreeMap<u64, (StoreId, MemDrives)>,
    cells: BTreeMap<u64, Cell>,
}

impl Peers {
    pub fn new() -> Peers {
        Peers { network: MemoryNetwork::new(), drives: BTreeMap::new(), cells: BTreeMap::new() }
    }

    pub fn cell(&self, host: u64) -> &Cell {
        &self.cells[&host]
    }

    async fn open(&mut self, host: u64, solo: bool) {
        let (store, drives) =
            self.drives.entry(host).or_insert_with(|| (StoreId(100 + host), MemDrives::new())).clone();
        let options = CellOptions {
            solo,
            store,
            peer_addr: Some(addr(host)),
            // Everybody knows the first, and it the second: one that is alive is enough.
            hail: [1, 2].map(|other| (HostId(other), addr(other).to_string())).to_vec(),
            network: Arc::new(self.network.clone()),
            drives: Some(Arc::new(drives)),
            log_segment_bytes: 4 << 20,
            disk_reserve_bytes: 0,
            share_http_addr: format!("host-{host}:7070"),
            ..CellOptions::new(PathBuf::from("nowhere"), HostId(host), CellId(77))
        };
        let cell = Cell::open(options).await.unwrap();
        self.cells.insert(host, cell);
    }

    pub async fn start(&mut self, host: u64) {
        self.open(host, false).await;
    }

    pub async fn start_solo(&mut self, host: u64) {
        self.open(host, true).await;
    }

    /// Starts the hosts 1 to `count`, and waits until they have met.
    pub async fn start_all(&mut self, count: u64) {
        for host in 1..=count {
            self.start(host).await;
        }
        self.until_met(count as usize).await;
    }

    /// Ends the peer without letting it finish anything; its drives forget what was not synced.
    pub async fn kill(&mut self, host: u64) {
        let (_, drives) = self.drives.get_mut(&host).unwrap();
        // From here on nothing that the old process does reaches the drives that the next one finds.
        let left = drives.crash(host);
        self.network.silence(addr(host), true);
        self.network.cut(addr(host));
        let cell = self.cells.remove(&host).unwrap();
        cell.shutdown(Duration::from_millis(1)).await;
        *drives = left;
        self.network.silence(addr(host), false);
        self.network.cut(addr(host));
    }

    pub async fn restart(&mut self, host: u64) {
        let cell = self.cells.remove(&host).unwrap();
        cell.shutdown(Duration::from_secs(10)).await;
        drop(cell);
        self.start(host).await;
    }

    /// The host's disk is lost; it comes back with another directory.
    pub fn wipe(&mut self, host: u64) {
        self.drives.insert(host, (StoreId(1000 + host), MemDrives::new()));
    }

    pub async fn stop(self) {
        for cell in self.cells.values() {
            cell.shutdown(Duration::from_secs(2)).await;
        }
    }

    /// Stores of rows that the host has.
    pub fn stores(&self, host: u64) -> usize {
        self.drives[&host].1.groups().unwrap().len()
    }

    pub async fn until(&self, what: &str, done: impl Fn(&Peers) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !done(self) {
            assert!(Instant::now() < until, "not within {PATIENCE:?}: {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until every peer knows of so many, itself included.
    pub async fn until_met(&self, count: usize) {
        self.until("the peers have met", |peers| {
            peers.cells.values().all(|cell| {
                let known = cell.peers();
                let up = |peer: &&skein_cell::PeerStatus| {
                    peer.health == Health::Healthy && peer.http_addr.is_some() && peer.connected
                };
                count <= known.iter().filter(up).count()
            })
        })
        .await;
    }

    pub async fn until_settled(&self, host: u64) {
        self.until("the atlas is settled", |peers| peers.cell(host).atlas().is_settled()).await;
    }

    /// Waits until what each peer leads is as wanted; by ascending host.
    pub async fn until_leads(&self, what: &str, done: impl Fn(&[u32]) -> bool) {
        let until = Instant::now() + PATIENCE;
        loop {
            let status = self.cell(1).status(soon()).await;
            let leads: Vec<u32> = status.peers.iter().map(|peer| peer.leads).collect();
            if done(&leads) {
                return;
            }
            assert!(Instant::now() < until, "not within {PATIENCE:?}: {what}; last {leads:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    pub async fn until_voters(&self, host: u64, count: usize) {
        let until = Instant::now() + PATIENCE;
        loop {
            let status = self.cell(host).status(soon()).await;
            if status.cohorts[0].replicas.iter().filter(|it| it.votes).count() == count {
                return;
            }
            assert!(Instant::now() < until, "not within {PATIENCE:?}: {count} voters; last {status:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Who leads the first cohort, as this peer is told.
    pub async fn leader(&self, host: u64) -> u64 {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(leader) = self.cell(host).status(soon()).await.cohorts[0].leader {
                return leader.0;
            }
            assert!(Instant::now() < until, "nobody leads");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn put_atlas(&self, host: u64, cohorts: &[&[u64]]) {
        let until = Instant::now() + PATIENCE;
        // Hosts that met may not have joined yet; the refusal says so.
        while let Err(error) = self.cell(host).put_atlas(hosts(cohorts), None, soon()).await {
            assert!(Instant::now() < until, "{error}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn update(cell: &Cell, keys: &[String], text: &str) -> Transaction {
        let value = Value { content_type: ContentType::Json, bytes: Bytes::copy_from_slice(text.as_bytes()) };
        let op = |key: &String| RowOp {
            table: TABLE,
            key: Bytes::copy_from_slice(key.as_bytes()),
            op: WriteOp::Update(value.clone()),
            expect: Vec::new(),
        };
        let ops = keys.iter().map(op).collect();
        Transaction { id: cell.draw_tx_id(), id_from_client: false, condition: None, ops }
    }

    pub async fn put_many(&self, host: u64, keys: &[String]) -> Result<TxOutcome, CellError> {
        let cell = self.cell(host);
        cell.write(Self::update(cell, keys, "1"), soon()).await
    }

    /// Writes a row through a peer, whoever leads.
    pub async fn put(&self, host: u64, key: &str, text: &str) -> TxClock {
        let cell = self.cell(host);
        let tx = Self::update(cell, &[key.to_owned()], text);
        match cell.write(tx, soon()).await {
            Ok(TxOutcome::Committed(time)) => time,
            other => panic!("{key} through {host}: {other:?}"),
        }
    }

    /// Reads a row through a peer, whoever leads.
    pub async fn get(&self, host: u64, key: &str) -> Option<(TxClock, Bytes)> {
        let key = Bytes::copy_from_slice(key.as_bytes());
        let read = self.cell(host).read(TABLE, key, None, Instant::now() + PATIENCE).await;
        let read = read.unwrap_or_else(|error| panic!("through {host}: {error:?}"));
        read.value.map(|value| (read.time, value.bytes))
    }

    /// The keys that a scan of a slice through a peer gives, so many at a time.
    pub async fn scan(&self, host: u64, nslices: u64, slice: u64, batch: usize) -> Vec<String> {
        let request = ScanRequest {
            table: TABLE,
            window: ScanWindow { pick: Pick::Latest, since: TxClock::ZERO, until: None },
            key: Bytes::new(),
            time: TxClock::MAX,
            end: None,
            slice: Slice::new(slice as i64, nslices as i64).unwrap(),
        };
        let mut scan = self.cell(host).scan(request, soon()).await.unwrap();
        let mut keys = Vec::new();
        loop {
            let rows = scan.next(batch, 1 << 20).await.unwrap();
            if rows.is_empty() {
                return keys;
            }
            keys.extend(rows.into_iter().map(|row| String::from_utf8(row.key.to_vec()).unwrap()));
        }
    }
}
