//! What a cell takes and answers: the requests, replies and errors that the HTTP server, and later the peers,
//! speak in.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use skein_model::{FutureTime, HostId, Refusal, Slice, TableId, TxClock, TxId, Value, Window};
use std::time::Duration;

/// The answer to a read of one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadReply {
    /// The time that was read at. No later write of the row gets a time at or before it.
    pub read_time: TxClock,
    /// Time of the newest version at or before `read_time`, value or tombstone; zero if there is none.
    pub time: TxClock,
    /// The value of that version; `None` for a tombstone or a row never written.
    pub value: Option<Value>,
}

/// What became of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TxOutcome {
    /// Written, durable at a quorum, all rows with this one time.
    Committed(TxClock),
    /// Not written, and never will be, because of what the rows held.
    Refused(Refusal),
    /// Not written, and never will be, because somebody asked for its status before it was decided.
    Aborted,
}

/// The answer to a question after a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TxStatus {
    /// Written with this time.
    Committed(TxClock),
    /// Not written, and never will be.
    Aborted,
}

/// Which rows and versions a scan shall visit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanRequest {
    /// The table.
    pub table: TableId,
    /// Versions to pick; `None` as `until` of the window stands for now.
    pub window: ScanWindow,
    /// First key, inclusive; empty for the start of the table.
    pub key: Bytes,
    /// On the first key, start at its newest version at or before this time.
    pub time: TxClock,
    /// Stop before this key.
    pub end: Option<Bytes>,
    /// Which share of the table.
    pub slice: Slice,
}

/// As [`Window`], with an upper bound that may be left to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScanWindow {
    /// How to pick among the versions of one row.
    pub pick: skein_model::Pick,
    /// Exclusive lower bound.
    pub since: TxClock,
    /// Inclusive upper bound; `None`: the present, which shows every write acknowledged before.
    pub until: Option<TxClock>,
}

impl ScanWindow {
    /// The window with its upper bound settled.
    pub fn until(self, until: TxClock) -> Window {
        Window { pick: self.pick, since: self.since, until }
    }
}

/// A peer that stores part of a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostWeight {
    /// How many cohorts of the slice the peer serves.
    pub weight: u32,
    /// The peer.
    pub host: HostId,
    /// Where it serves HTTP; `None` if it has not said.
    pub addr: Option<String>,
    /// Where it serves HTTPS; `None` if it has not said.
    pub ssl_addr: Option<String>,
}

/// Why a request was not answered with an outcome.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CellError {
    /// The cell has no atlas, so there is nobody to ask. Nothing was written.
    #[error("this cell has no atlas: no cohort serves any row")]
    NoAtlas,
    /// The rows of one transaction belong to different cohorts, and this release keeps a transaction within one. Nothing
    /// was written.
    #[error(
        "the transaction's rows belong to {cohorts} different cohorts; this release writes to one at a time"
    )]
    ManyCohorts {
        /// To how many.
        cohorts: usize,
    },
    /// The catalog was not read or changed, or nobody knows whether it was; the text says which.
    #[error("{detail}")]
    Catalog {
        /// What was in the way.
        detail: String,
    },
    /// Who could answer is out of reach, or does not know. Nothing was written.
    #[error("{detail}")]
    Unreachable {
        /// Who, and why.
        detail: String,
    },
    /// The time ran out. Nothing was written, or nothing was to be written.
    #[error("no quorum answered within {waited:?}")]
    TimedOut {
        /// How long the request waited.
        waited: Duration,
    },
    /// The time ran out after the transaction was proposed: it may yet be written. Ask for its status.
    #[error("the outcome of transaction {id} is unknown: {why}")]
    Unknown {
        /// The transaction to ask about.
        id: TxId,
        /// What cut the wait short.
        why: String,
    },
    /// The time asked for is before what the table still keeps.
    #[error("history before {oldest} is no longer kept")]
    Gone {
        /// The oldest time that can be read.
        oldest: TxClock,
    },
    /// The time asked for is too far ahead. Nothing was written.
    #[error(transparent)]
    FutureTime(#[from] FutureTime),
    /// The disk is full. Nothing was written; reads go on.
    #[error("the disk is full: {detail}")]
    Full {
        /// What was needed and what there is.
        detail: String,
    },
    /// More work is waiting than the server will take on. Nothing was written.
    #[error("the server is overloaded: {detail}")]
    Overloaded {
        /// Which limit was reached.
        detail: String,
        /// When to try again.
        retry_after: Duration,
    },
    /// The transaction's ID was used before with other content. Nothing was written now.
    #[error("transaction {id} was used before with different operations")]
    IdReused {
        /// The ID.
        id: TxId,
    },
    /// The stored data failed a check, so this replica no longer answers. The chain says where.
    #[error("stored data is damaged: {detail}")]
    Damaged {
        /// File, offset and what was expected, as far as known.
        detail: String,
    },
    /// The disk failed; writes are refused until the server is started again.
    #[error("the disk failed: {detail}")]
    DiskFailed {
        /// What failed.
        detail: String,
    },
    /// The server is stopping. Nothing was written.
    #[error("the server is shutting down")]
    ShuttingDown,
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
