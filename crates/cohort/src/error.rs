//! Why a cohort did not answer with an outcome.

use crate::group::{Failure, GroupError};
use crate::machine::MachineError;
use crate::peers::Replica;
use skein_model::{FutureTime, TxClock, TxId};
use skein_storage::drives::DrivesError;
use skein_storage::engine::EngineError;
use skein_storage::log::LogError;
use skein_storage::rows::RowsError;
use std::time::Duration;

/// Each variant says what state the request left behind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CohortError {
    /// The time ran out before the request could change anything.
    #[error("the cohort did not answer within {waited:?}")]
    TimedOut {
        /// How long the request waited.
        waited: Duration,
    },
    /// The transaction was handed over and its fate is not known; it may yet be written.
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
    /// There is no room on the disk. Nothing was written.
    #[error("the disk is full: {detail}")]
    Full {
        /// What was needed and what there is.
        detail: String,
    },
    /// Too many requests are waiting. Nothing was written.
    #[error("{waiting} transactions are already waiting")]
    Overloaded {
        /// How many.
        waiting: usize,
    },
    /// The ID names a transaction with other operations. Nothing was written now.
    #[error("transaction {id} was used before with different operations")]
    IdReused {
        /// The ID.
        id: TxId,
    },
    /// Stored data failed a check; the replica no longer answers.
    #[error("stored data is damaged: {detail}")]
    Damaged {
        /// Which file or keyspace, and what was found.
        detail: String,
    },
    /// The disk failed; what it was writing is unknown, and the replica writes nothing more until it is restarted.
    #[error("the disk failed: {detail}")]
    DiskFailed {
        /// What failed.
        detail: String,
    },
    /// This replica does not lead the cohort. Nothing was written; ask the leader.
    #[error("this replica does not lead the cohort{}", leader.map(|l| format!("; {} does", l.host)).unwrap_or_default())]
    NotLeader {
        /// Who leads it, as far as this replica knows.
        leader: Option<Replica>,
    },
    /// The members cannot be changed as asked, or not now.
    #[error("{detail}")]
    Members {
        /// Why.
        detail: String,
    },
    /// The cohort is closing. Nothing was written.
    #[error("the cohort is closing")]
    Closing,
}

impl CohortError {
    /// Whether the replica cannot go on after this.
    pub fn is_fatal(&self) -> bool {
        match self {
            CohortError::Damaged { .. } | CohortError::DiskFailed { .. } => true,
            CohortError::TimedOut { .. }
            | CohortError::Unknown { .. }
            | CohortError::Gone { .. }
            | CohortError::FutureTime(_)
            | CohortError::Full { .. }
            | CohortError::Overloaded { .. }
            | CohortError::IdReused { .. }
            | CohortError::NotLeader { .. }
            | CohortError::Members { .. }
            | CohortError::Closing => false,
        }
    }
}

impl From<LogError> for CohortError {
    fn from(error: LogError) -> CohortError {
        let detail = error.to_string();
        match error {
            LogError::Full { .. } => CohortError::Full { detail },
            LogError::Closed => CohortError::Closing,
            LogError::Corrupt { .. } | LogError::Missing { .. } | LogError::NewerFormat { .. } => {
                CohortError::Damaged { detail }
            }
            _ => CohortError::DiskFailed { detail: with_cause(detail, &error) },
        }
    }
}

impl From<Failure> for CohortError {
    fn from(failure: Failure) -> CohortError {
        match failure {
            Failure::Damaged(detail) => CohortError::Damaged { detail },
            Failure::DiskFailed(detail) => CohortError::DiskFailed { detail },
            Failure::Closed => CohortError::Closing,
        }
    }
}

impl From<GroupError> for CohortError {
    fn from(error: GroupError) -> CohortError {
        match error {
            GroupError::Stopped(failure) => failure.into(),
            other => CohortError::Damaged { detail: other.to_string() },
        }
    }
}

impl From<DrivesError> for CohortError {
    fn from(error: DrivesError) -> CohortError {
        let detail = with_cause(error.to_string(), &error);
        match error {
            error if error.is_full() => CohortError::Full { detail },
            DrivesError::Engine(EngineError::Io { .. }) | DrivesError::Io { .. } => {
                CohortError::DiskFailed { detail }
            }
            _ => CohortError::Damaged { detail },
        }
    }
}

impl From<MachineError> for CohortError {
    fn from(error: MachineError) -> CohortError {
        match error {
            MachineError::Full(detail) => CohortError::Full { detail },
            MachineError::Damaged(detail) | MachineError::Refused(detail) => CohortError::Damaged { detail },
            MachineError::Failed(detail) => CohortError::DiskFailed { detail },
            MachineError::Closing => CohortError::Closing,
        }
    }
}

impl From<RowsError> for CohortError {
    fn from(error: RowsError) -> CohortError {
        let detail = error.to_string();
        match error {
            RowsError::Gone { oldest, .. } => CohortError::Gone { oldest },
            RowsError::Engine(engine) if engine.is_full() => CohortError::Full { detail },
            RowsError::Engine(engine @ EngineError::Io { .. }) => {
                CohortError::DiskFailed { detail: with_cause(detail, &engine) }
            }
            _ => CohortError::Damaged { detail },
        }
    }
}

/// The error's text and that of what caused it.
fn with_cause(mut text: String, error: &dyn std::error::Error) -> String {
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
