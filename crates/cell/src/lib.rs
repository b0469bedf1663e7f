//! A cell: the strongly consistent database that one or more peers form together.
//!
//! This crate routes each request by the atlas to the cohort that owns the row, and keeps the catalog, the
//! cell's facts about itself. In this release a cell has one peer.
#![forbid(unsafe_code)]

mod api;

pub use api::{CellError, HostWeight, ReadReply, ScanRequest, ScanRow, ScanWindow, TxOutcome, TxStatus};
use bytes::Bytes;
use skein_model::{
    Atlas, AtlasError, CellId, Cohort, HostId, Schema, SchemaError, Slice, TableId, Transaction, TxClock,
    TxId,
};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A handle on the cell; clones share it.
#[derive(Clone)]
pub struct Cell {
    inner: Arc<Inner>,
}

struct Inner {
    host: HostId,
    cell: CellId,
}

/// Why a new schema was not put in force.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PutSchemaError {
    /// The text is not a schema. Nothing changed.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// The catalog could not be changed.
    #[error(transparent)]
    Cell(#[from] CellError),
}

/// Why a new atlas was not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PutAtlasError {
    /// The atlas breaks a rule. Nothing changed.
    #[error(transparent)]
    Atlas(#[from] AtlasError),
    /// The atlas in force is not the one the change was meant for. Nothing changed.
    #[error("the atlas is at version {current}, not {expected}")]
    Stale {
        /// Version in force.
        current: u64,
        /// Version asked for.
        expected: u64,
    },
    /// The atlas names hosts that this release cannot serve. Nothing changed.
    #[error("{detail}")]
    Unsupported {
        /// Which, and what to do.
        detail: String,
    },
    /// The catalog could not be changed.
    #[error(transparent)]
    Cell(#[from] CellError),
}

/// How the cell is doing, for the health pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// Rows are served.
    Ready,
    /// Not yet, or not any more; the text says why and what to do.
    NotReady(String),
}

/// One table on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableInfo {
    /// The table.
    pub id: TableId,
    /// Its name, if the schema gives one.
    pub name: Option<String>,
    /// The oldest time that can be read.
    pub oldest: TxClock,
}

/// A scan under way; a consistent snapshot however long it takes.
pub struct Scan {
    until: TxClock,
}

impl Scan {
    /// The settled upper bound of the scan's window.
    pub fn until(&self) -> TxClock {
        self.until
    }

    /// The next selected versions, at most `rows_max` of them and about `bytes_max` bytes of values; empty
    /// at the end of the scan, and only there.
    pub async fn next(&mut self, rows_max: usize, bytes_max: usize) -> Result<Vec<ScanRow>, CellError> {
        let _ = (rows_max, bytes_max);
        Err(CellError::ShuttingDown)
    }
}

impl Cell {
    /// This host's ID.
    pub fn host(&self) -> HostId {
        self.inner.host
    }

    /// The cell's ID.
    pub fn cell(&self) -> CellId {
        self.inner.cell
    }

    /// The cell's present time: at or after every time it ever issued, saw or promised.
    pub fn now(&self) -> TxClock {
        TxClock::ZERO
    }

    /// Draws a transaction ID for a client that gave none.
    pub fn draw_tx_id(&self) -> TxId {
        TxId::draw(0, [0; TxId::RANDOM_BYTES])
    }

    /// The schema in force.
    pub fn schema(&self) -> Arc<Schema> {
        Arc::new(Schema::default())
    }

    /// Replaces the schema; answers when the new one is in force and durable.
    pub async fn put_schema(&self, text: &str) -> Result<(), PutSchemaError> {
        let _ = text;
        Err(CellError::NoAtlas.into())
    }

    /// The atlas in force.
    pub fn atlas(&self) -> Arc<Atlas> {
        Arc::new(Atlas::empty())
    }

    /// Asks for new cohorts; answers when the change is in force and durable. `if_version` makes it conditional.
    pub async fn put_atlas(
        &self,
        targets: Vec<Cohort>,
        if_version: Option<u64>,
    ) -> Result<Arc<Atlas>, PutAtlasError> {
        let _ = (targets, if_version);
        Err(CellError::NoAtlas.into())
    }

    /// The peers that store part of a slice, with their weights.
    pub fn hosts(&self, slice: Slice) -> Vec<HostWeight> {
        let _ = slice;
        Vec::new()
    }

    /// Reads one row: at `at`, or at the present, which shows every write acknowledged before.
    pub async fn read(
        &self,
        table: TableId,
        key: Bytes,
        at: Option<TxClock>,
        deadline: Instant,
    ) -> Result<ReadReply, CellError> {
        let _ = (table, key, at, deadline);
        Err(CellError::NoAtlas)
    }

    /// Runs one transaction. Repeating one with the same client-given ID answers the recorded outcome.
    pub async fn write(&self, tx: Transaction, deadline: Instant) -> Result<TxOutcome, CellError> {
        let _ = (tx, deadline);
        Err(CellError::NoAtlas)
    }

    /// What became of a transaction; one that was never decided is aborted for good by asking.
    pub async fn tx_status(&self, id: TxId, deadline: Instant) -> Result<TxStatus, CellError> {
        let _ = (id, deadline);
        Err(CellError::NoAtlas)
    }

    /// Begins a scan.
    pub async fn scan(&self, request: ScanRequest, deadline: Instant) -> Result<Scan, CellError> {
        let _ = (request, deadline);
        Err(CellError::NoAtlas)
    }

    /// The tables that hold rows on this host.
    pub async fn tables(&self) -> Result<Vec<TableInfo>, CellError> {
        Ok(Vec::new())
    }

    /// Whether rows are being served.
    pub fn readiness(&self) -> Readiness {
        Readiness::NotReady("being written".into())
    }

    /// Refreshes the gauges that are read rather than counted (bytes, memory). Called before metrics are rendered.
    pub fn refresh_metrics(&self) {}

    /// Finishes what is in flight, for at most `grace`, and closes the log and the store.
    pub async fn shutdown(&self, grace: Duration) {
        let _ = grace;
    }
}
