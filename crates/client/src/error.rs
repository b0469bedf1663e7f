//! What can go wrong, and whether it may have happened all the same.

use skein_model::{CellId, TxClock, TxId};
use std::time::Duration;

/// What a peer said when it refused a request: the essence of its problem document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The HTTP status.
    pub status: u16,
    /// The last part of the problem's type, as `many-cohorts`; empty if the answer was no problem document.
    pub kind: String,
    /// For people: what was wrong and what to do.
    pub detail: String,
    /// The ID under which the peer's log knows the request.
    pub request_id: String,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}: {}", self.status, self.kind, self.detail)
    }
}

/// Whether what was asked for may have happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Nothing was written, and nothing will be.
    NotDone,
    /// It may have been written, or may yet be.
    Unknown,
}

/// Why there is no result. [`Error::fate`] says whether a write may have happened all the same.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting or an argument cannot be used. Nothing was sent.
    #[error("{what}: {why}")]
    Invalid {
        /// The setting or argument.
        what: &'static str,
        /// What is wrong with it and what would be right.
        why: String,
    },
    /// No peer could be reached, or none was able to serve the request, until the deadline. Nothing was written.
    #[error("no peer served the request within {waited:?}, of {tried} attempts; the last: {last}")]
    Unavailable {
        /// How many attempts there were.
        tried: u32,
        /// How long we tried.
        waited: Duration,
        /// What came of the last one.
        last: String,
    },
    /// The outcome of a write is not known: it may have happened or may yet. [`crate::Client::tx_status`] settles it; sending the same
    /// once more under the same ID does, too.
    #[error("the outcome of transaction {id} is unknown after {waited:?}; the last attempt: {last}")]
    Unknown {
        /// The transaction.
        id: TxId,
        /// How long we tried.
        waited: Duration,
        /// What came of the last attempt.
        last: String,
    },
    /// A row changed after the time that the write was conditional on. Nothing was written; read again.
    #[error("a row changed at {latest}, after the time that the write depends on")]
    Stale {
        /// The latest version among the rows of the write.
        latest: TxClock,
    },
    /// A row that was to be created has a value. Nothing was written.
    #[error("a row that was to be created exists already: {0}")]
    Collision(Refused),
    /// The transaction was aborted by somebody who asked after it. Nothing was written; send it under another ID.
    #[error("transaction {id} was aborted")]
    Aborted {
        /// The transaction.
        id: TxId,
    },
    /// The time asked for lies before what the table keeps.
    #[error("the history asked for is no longer kept: {0}")]
    HistoryGone(Refused),
    /// The cell refused the request for another reason, and would again. Nothing was written.
    #[error("refused: {0}")]
    Refused(Refused),
    /// A transaction was overtaken by others each time it ran. Nothing was written.
    #[error("the transaction was overtaken by others {tries} times")]
    Contention {
        /// How often it ran.
        tries: u32,
    },
    /// The peers at all addresses that answered belong to another cell. Nothing was sent to them but that question.
    #[error("{address} belongs to cell {found}, and this client to {wanted}")]
    WrongCell {
        /// The peer.
        address: String,
        /// Its cell.
        found: CellId,
        /// Ours.
        wanted: CellId,
    },
    /// A peer answered what Skein never answers. It was a question; nothing was written.
    #[error("an answer is unusable: {detail}")]
    Unusable {
        /// What is wrong with it.
        detail: String,
    },
    /// A value is not what the caller wanted to read it as.
    #[error("read the value as JSON: {why}")]
    Decode {
        /// The parser's words.
        why: String,
    },
}

impl Error {
    /// Whether a write that ended with this error may have happened.
    pub fn fate(&self) -> Fate {
        match self {
            Error::Unknown { .. } => Fate::Unknown,
            Error::Invalid { .. }
            | Error::Unavailable { .. }
            | Error::Stale { .. }
            | Error::Collision(_)
            | Error::Aborted { .. }
            | Error::HistoryGone(_)
            | Error::Refused(_)
            | Error::Contention { .. }
            | Error::WrongCell { .. }
            | Error::Unusable { .. }
            | Error::Decode { .. } => Fate::NotDone,
        }
    }
}
