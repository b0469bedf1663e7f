//! What peers of a cell ask each other, and how it looks on the wire.
//!
//! The transport carries bytes for a *service*. Each service has one layout; its version is that of the connection, agreed
//! on in the handshake. Decoding is total: any bytes give a message or a [`WireError`].
//!
//! ```text
//! service GROUP    | group: u64 le | from store: u64 le | to store: u64 le | what the Raft group says |
//! service ROWS     request: postcard of Ask;   answer: postcard of Result<Told, Refused>
//! service STATUS   request: empty;             answer: postcard of Vec<LedStatus>
//! ```

use crate::api::{CellError, TxOutcome, TxStatus};
use crate::status::ReplicaStatus;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use skein_cohort::CohortError;
use skein_model::{
    FutureTime, GroupId, HostId, Slice, StoreId, TableId, Transaction, TxClock, TxId, Value, Window,
};
use skein_storage::rows::{ScanPosition, ScanRow, ScanSpec};
use std::time::Duration;

/// Numbers of the services that a peer offers; never used again for another.
pub(crate) mod service {
    /// Messages and streams between the replicas of one Raft group.
    pub(crate) const GROUP: u8 = 1;
    /// Requests about rows, to the leader of their cohort.
    pub(crate) const ROWS: u8 = 2;
    /// Requests about the catalog.
    pub(crate) const CATALOG: u8 = 3;
    /// How the cohorts that a peer leads are doing.
    pub(crate) const STATUS: u8 = 4;
}

/// Rows that one chunk of a scan can have, whatever was asked for.
pub(crate) const CHUNK_ROWS_MAX: usize = 10_000;
/// Bytes after which a chunk of a scan ends, whatever was asked for; its last row may go beyond.
pub(crate) const CHUNK_BYTES_MAX: usize = 4 << 20;

/// Bytes from a peer that are no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a {what}: {why}")]
pub(crate) struct WireError {
    what: &'static str,
    why: String,
}

/// A message as bytes.
pub(crate) fn encode<T: Serialize>(message: &T) -> Result<Bytes, WireError> {
    let bytes = postcard::to_stdvec(message)
        .map_err(|e| WireError { what: std::any::type_name::<T>(), why: e.to_string() })?;
    Ok(bytes.into())
}

/// The message that the bytes are, all of them.
pub(crate) fn decode<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, WireError> {
    match postcard::take_from_bytes(bytes) {
        Ok((message, [])) => Ok(message),
        Ok((_, rest)) => Err(WireError { what, why: format!("{} bytes follow it", rest.len()) }),
        Err(error) => Err(WireError { what, why: error.to_string() }),
    }
}

/// Between whom a message of a Raft group goes. The host of the sender is known from the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Envelope {
    /// Which group.
    pub(crate) group: GroupId,
    /// The replica that sends.
    pub(crate) from: StoreId,
    /// The replica that is meant; the receiver refuses what is for another.
    pub(crate) to: StoreId,
}

impl Envelope {
    const BYTES: usize = 24;

    /// The envelope with what is in it.
    pub(crate) fn seal(self, body: &[u8]) -> Bytes {
        let mut bytes = BytesMut::with_capacity(Self::BYTES + body.len());
        bytes.put_u64_le(self.group.0);
        bytes.put_u64_le(self.from.0);
        bytes.put_u64_le(self.to.0);
        bytes.put_slice(body);
        bytes.freeze()
    }

    /// The envelope and what is in it, which is not copied.
    pub(crate) fn open(mut bytes: Bytes) -> Result<(Envelope, Bytes), WireError> {
        if bytes.len() < Self::BYTES {
            let why = format!("it has {} bytes, fewer than {}", bytes.len(), Self::BYTES);
            return Err(WireError { what: "group's message", why });
        }
        let group = GroupId(bytes.get_u64_le());
        let from = StoreId(bytes.get_u64_le());
        let to = StoreId(bytes.get_u64_le());
        Ok((Envelope { group, from, to }, bytes))
    }
}

/// A request about rows, to the leader of their cohort.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ask {
    /// The cohort's group.
    pub(crate) group: GroupId,
    /// How long the asker waits.
    pub(crate) patience: Duration,
    /// What it wants.
    pub(crate) want: Want,
}

/// See [`Ask`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Want {
    /// One row.
    Read {
        /// The table.
        table: TableId,
        /// The key.
        key: Bytes,
        /// When; `None` for the present.
        at: Option<TxClock>,
    },
    /// A transaction, which may have been sent before.
    Write(Transaction),
    /// What became of a transaction.
    TxStatus(TxId),
    /// A time after which every later write lies.
    Promise(Option<TxClock>),
    /// The next rows of a scan.
    Chunk {
        /// Which rows.
        spec: Spec,
        /// From where on.
        position: Position,
        /// At most so many.
        rows: u32,
        /// About so many bytes.
        bytes: u32,
    },
}

/// [`ScanSpec`] on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Spec {
    table: TableId,
    window: Window,
    slice: Slice,
    end: Option<Bytes>,
}

impl From<&ScanSpec> for Spec {
    fn from(spec: &ScanSpec) -> Spec {
        let ScanSpec { table, window, slice, end } = spec;
        Spec { table: *table, window: *window, slice: *slice, end: end.clone() }
    }
}

impl From<Spec> for ScanSpec {
    fn from(Spec { table, window, slice, end }: Spec) -> ScanSpec {
        ScanSpec { table, window, slice, end }
    }
}

/// [`ScanPosition`] on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Position {
    key: Bytes,
    time: TxClock,
}

impl From<&ScanPosition> for Position {
    fn from(position: &ScanPosition) -> Position {
        Position { key: position.key.clone(), time: position.time }
    }
}

impl From<Position> for ScanPosition {
    fn from(Position { key, time }: Position) -> ScanPosition {
        ScanPosition { key, time }
    }
}

/// [`ScanRow`] on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Row {
    key: Bytes,
    time: TxClock,
    value: Option<Value>,
}

impl From<ScanRow> for Row {
    fn from(ScanRow { key, time, value }: ScanRow) -> Row {
        Row { key, time, value }
    }
}

impl From<Row> for ScanRow {
    fn from(Row { key, time, value }: Row) -> ScanRow {
        ScanRow { key, time, value }
    }
}

/// The answer to a [`Want`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Told {
    /// To [`Want::Read`].
    Read {
        /// The time read at.
        read_time: TxClock,
        /// The version's time.
        time: TxClock,
        /// Its value.
        value: Option<Value>,
    },
    /// To [`Want::Write`].
    Written(TxOutcome),
    /// To [`Want::TxStatus`].
    Status(TxStatus),
    /// To [`Want::Promise`].
    Promised(TxClock),
    /// To [`Want::Chunk`].
    Chunk {
        /// The rows in order.
        rows: Vec<Row>,
        /// Where to go on; `None` at the end.
        next: Option<Position>,
    },
}

/// Why a leader, or who was taken for it, did not answer with an outcome. Mirrors [`CohortError`], so that an error means the
/// same wherever the cohort is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Refused {
    /// Nothing was done; ask this one.
    NotLeader(Option<(StoreId, HostId)>),
    /// The host has no replica of the group. Nothing was done.
    NoReplica,
    /// Nothing was done.
    TimedOut(Duration),
    /// It may yet be written.
    Unknown(String),
    /// Too long ago.
    Gone(TxClock),
    /// Too far ahead.
    Future(FutureTime),
    /// Nothing was done.
    Full(String),
    /// Nothing was done; so many wait.
    Overloaded(u64),
    /// Nothing was done.
    IdReused,
    /// The replica stopped.
    Damaged(String),
    /// The replica stopped.
    DiskFailed(String),
    /// Nothing was done.
    Closing,
    /// Anything else, in words. What was done is not known.
    Other(String),
}

impl From<CohortError> for Refused {
    fn from(error: CohortError) -> Refused {
        match error {
            CohortError::NotLeader { leader } => Refused::NotLeader(leader.map(|it| (it.store, it.host))),
            CohortError::TimedOut { waited } => Refused::TimedOut(waited),
            CohortError::Unknown { why, .. } => Refused::Unknown(why),
            CohortError::Gone { oldest } => Refused::Gone(oldest),
            CohortError::FutureTime(error) => Refused::Future(error),
            CohortError::Full { detail } => Refused::Full(detail),
            CohortError::Overloaded { waiting } => Refused::Overloaded(waiting as u64),
            CohortError::IdReused { .. } => Refused::IdReused,
            CohortError::Damaged { detail } => Refused::Damaged(detail),
            CohortError::DiskFailed { detail } => Refused::DiskFailed(detail),
            CohortError::Closing => Refused::Closing,
            other => Refused::Other(other.to_string()),
        }
    }
}

impl Refused {
    /// What the client hears, for those refusals that another leader would not take back.
    pub(crate) fn into_cell_error(self, id: Option<&TxId>) -> CellError {
        let unknown = |why: String| match id {
            Some(id) => CellError::Unknown { id: id.clone(), why },
            None => CellError::Unreachable { detail: why },
        };
        match self {
            Refused::Gone(oldest) => CellError::Gone { oldest },
            Refused::Future(error) => CellError::FutureTime(error),
            Refused::Full(detail) => CellError::Full { detail },
            Refused::Overloaded(waiting) => CellError::Overloaded {
                detail: format!("{waiting} transactions are already waiting"),
                retry_after: Duration::from_secs(1),
            },
            Refused::IdReused => match id {
                Some(id) => CellError::IdReused { id: id.clone() },
                None => CellError::Unreachable { detail: "an ID was reused that was not sent".into() },
            },
            Refused::TimedOut(waited) => CellError::TimedOut { waited },
            Refused::Unknown(why) | Refused::Other(why) => unknown(why),
            Refused::Damaged(detail) => CellError::Damaged { detail },
            Refused::DiskFailed(detail) => CellError::DiskFailed { detail },
            Refused::NotLeader(_) => CellError::Unreachable { detail: "the cohort has no leader".into() },
            Refused::NoReplica => CellError::Unreachable { detail: "the replica has moved away".into() },
            Refused::Closing => CellError::Unreachable { detail: "the leader is stopping".into() },
        }
    }
}

/// A cohort, told by its leader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LedStatus {
    /// The cohort's group.
    pub(crate) group: GroupId,
    /// The leader's term.
    pub(crate) term: u64,
    /// Entries committed.
    pub(crate) committed: u64,
    /// Bytes of rows on the leader's disk.
    pub(crate) bytes: u64,
    /// Rows, about.
    pub(crate) rows: u64,
    /// The replicas.
    pub(crate) replicas: Vec<ReplicaStatus>,
    /// Whether its members are changing.
    pub(crate) changing: bool,
    /// What the change of its members waits for.
    pub(crate) waits_for: Option<String>,
}

#[cfg(test)]
mod tests;
