//! How a cell is opened, and why it might not open.

use crate::CellError;
use crate::catalog::OpenCatalogError;
use crate::catalog::file::FileError;
use crate::small_file::SmallFileError;
use skein_cohort::group::{CopyRate, Failure, GroupError, SuspendClock, Timing};
use skein_model::{CellId, HostId, StoreId};
use skein_storage::drives::{Drives, DrivesError};
use skein_storage::log::{Log, LogError};
use skein_storage::rows::RowsError;
use skein_transport::{Network, StartError, Tcp, Tls};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How a host takes part in its cell. Make one with [`CellOptions::new`] and change what you need.
#[derive(Clone)]
pub struct CellOptions {
    /// The store's directory. The caller holds its lock.
    pub dir: PathBuf,
    /// This host.
    pub host: HostId,
    /// The cell.
    pub cell: CellId,
    /// The directory's own ID. In directories of the first format it is the host's number.
    pub store: StoreId,
    /// Where to take connections of peers; `None` for a cell that stays alone.
    pub peer_addr: Option<SocketAddr>,
    /// Where peers reach this host, `host:port`; `None` for the address that `peer_addr` came to. If that is all addresses of
    /// the machine, for the one from which it reaches those hailed, or other machines.
    pub share_peer_addr: Option<String>,
    /// Peers to look for at first: their IDs and where they might be, `host:port`. One that is alive is enough.
    pub hail: Vec<(HostId, String)>,
    /// What this release calls itself, for the status pages of others.
    pub build: String,
    /// Make this host the cell's only cohort at start.
    pub solo: bool,
    /// Where clients reach this host's data port, `host:port`.
    pub share_http_addr: String,
    /// Memory for blocks of tables read from disk.
    pub cache_bytes: u64,
    /// Memory for rows not yet written to tables.
    pub write_buffer_bytes: u64,
    /// Size of one log segment; must hold the largest batch.
    pub log_segment_bytes: u64,
    /// Memory for log entries that are about to be applied.
    pub log_cache_bytes: usize,
    /// The store is checkpointed when the log holds this much.
    pub checkpoint_log_bytes: u64,
    /// Writes are refused while less than this is free on the drive.
    pub disk_reserve_bytes: u64,
    /// Raft entries in flight at most.
    pub entries_in_flight_max: usize,
    /// Requests that wait before an entry is proposed beside another; see [`CohortOptions`](skein_cohort::CohortOptions).
    pub pipeline_from: usize,
    /// Transactions waiting for the sequencer at most.
    pub waiting_max: usize,
    /// How fast the copies leave that replicas elsewhere begin with.
    pub copy_rate: CopyRate,
    /// How often retention is looked after.
    pub horizon_interval: Duration,
    /// Makes the connections between peers.
    pub network: Arc<dyn Network>,
    /// With it, all connections between peers are mutual TLS; without it, none is.
    pub tls: Option<Tls>,
    /// Where everything is kept; `None` for the directory `dir` of this machine.
    pub drives: Option<Arc<dyn Drives>>,
    /// The log on those drives, if its owner runs it; `None` to open it with threads of its own.
    pub log: Option<Log>,
    /// All luck of this peer follows from it; `None` for the system's. Another one at each start, or IDs repeat.
    pub seed: Option<u64>,
    /// Heartbeats and elections; the same on all peers of a cell.
    pub timing: Timing,
    /// Tells how long the machine has been suspended; `None` where that cannot be.
    pub suspend_clock: Option<SuspendClock>,
    /// Microseconds since the Unix epoch.
    pub wall: skein_cohort::WallClock,
}

impl CellOptions {
    /// The defaults for a store in `dir`.
    pub fn new(dir: PathBuf, host: HostId, cell: CellId) -> CellOptions {
        CellOptions {
            dir,
            host,
            cell,
            store: StoreId(host.0),
            peer_addr: None,
            share_peer_addr: None,
            hail: Vec::new(),
            build: env!("CARGO_PKG_VERSION").into(),
            solo: false,
            share_http_addr: "localhost:7070".into(),
            cache_bytes: 256 << 20,
            write_buffer_bytes: 64 << 20,
            log_segment_bytes: 64 << 20,
            log_cache_bytes: 16 << 20,
            checkpoint_log_bytes: 96 << 20,
            disk_reserve_bytes: 256 << 20,
            entries_in_flight_max: 2,
            pipeline_from: 64,
            waiting_max: 16_384,
            copy_rate: CopyRate::default(),
            horizon_interval: Duration::from_secs(1),
            network: Arc::new(Tcp),
            tls: None,
            drives: None,
            log: None,
            seed: None,
            timing: Timing::default(),
            suspend_clock: None,
            wall: Arc::new(wall_clock),
        }
    }
}

impl OpenError {
    /// Whether the catalog or a replica found that what is stored is not what was once written: neither freeing room nor
    /// starting again helps. (The log and the drives say so themselves.)
    pub fn is_damage(&self) -> bool {
        match self {
            OpenError::CatalogGone { .. }
            | OpenError::Cohort(CellError::Damaged { .. })
            | OpenError::Catalog(
                OpenCatalogError::File(FileError::Damaged { .. })
                | OpenCatalogError::Group(GroupError::Stopped(Failure::Damaged(_)))
                | OpenCatalogError::TwoFoundings(_),
            ) => true,
            OpenError::Io { .. }
            | OpenError::Drives(_)
            | OpenError::Catalog(_)
            | OpenError::Memory(_)
            | OpenError::Transport(_)
            | OpenError::ShareAddr { .. }
            | OpenError::Log(_)
            | OpenError::Rows(_)
            | OpenError::Cohort(_)
            | OpenError::NotSolo { .. } => false,
        }
    }
}

impl From<SmallFileError> for OpenError {
    fn from(error: SmallFileError) -> OpenError {
        OpenError::Memory(error.to_string())
    }
}

/// The machine's clock; a clock before 1970 counts as 1970, and the hybrid clock takes it from there.
fn wall_clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as u64)
}

/// Why a cell did not open. Nothing was changed on disk, but for what recovery repairs by itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The directory or a file in it could not be used.
    #[error("{verb} {}: {source}", path.display())]
    Io {
        /// What was being done.
        verb: &'static str,
        /// To what.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The catalog.
    #[error(transparent)]
    Catalog(#[from] OpenCatalogError),
    /// The catalog's file is missing, and the log holds entries that rest on it: of the catalog itself, or of a cohort that it
    /// named.
    #[error("{file} is damaged: it is missing, and the log holds entries that rest on it")]
    CatalogGone {
        /// Where it should be.
        file: String,
    },
    /// What the flock remembers could not be read or written.
    #[error("{0}")]
    Memory(String),
    /// Peers could not be listened for.
    #[error(transparent)]
    Transport(#[from] StartError),
    /// The address that peers are told is none.
    #[error("the address {addr:?} that peers are to be told cannot be looked up: {why}")]
    ShareAddr {
        /// What was given.
        addr: String,
        /// What the system said.
        why: String,
    },
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The drives, or the engine of a store on them.
    #[error(transparent)]
    Drives(#[from] DrivesError),
    /// The store's rows.
    #[error(transparent)]
    Rows(#[from] RowsError),
    /// The cohort did not start.
    #[error("start the cohort")]
    Cohort(#[source] CellError),
    /// `--solo` contradicts the atlas of the store.
    #[error("the atlas of this store names other hosts than {host}; start without --solo")]
    NotSolo {
        /// This host.
        host: HostId,
    },
}
