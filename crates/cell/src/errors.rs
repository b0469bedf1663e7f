//! Why the catalog was not changed, and how a cohort's errors read from outside.

use crate::api::CellError;
use crate::catalog::{CatalogError, Refusal};
use skein_cohort::CohortError;
use skein_model::{AtlasError, SchemaError};
use std::time::Duration;

/// Why a new schema was not put in force.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PutSchemaError {
    /// The text is not a schema. Nothing changed.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// The catalog was not changed, or nobody knows whether it was.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
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
    /// The cell cannot begin with this atlas. Nothing changed.
    #[error("{detail}")]
    Unsupported {
        /// Why, and what to do.
        detail: String,
    },
    /// The catalog was not changed, or nobody knows whether it was.
    #[error(transparent)]
    Catalog(CatalogError),
}

impl From<CohortError> for CellError {
    fn from(error: CohortError) -> CellError {
        match error {
            CohortError::TimedOut { waited } => CellError::TimedOut { waited },
            CohortError::Unknown { id, why } => CellError::Unknown { id, why },
            CohortError::Gone { oldest } => CellError::Gone { oldest },
            CohortError::FutureTime(error) => CellError::FutureTime(error),
            CohortError::Full { detail } => CellError::Full { detail },
            CohortError::Overloaded { waiting } => CellError::Overloaded {
                detail: format!("{waiting} transactions are already waiting"),
                retry_after: Duration::from_secs(1),
            },
            CohortError::IdReused { id } => CellError::IdReused { id },
            CohortError::Damaged { detail } => CellError::Damaged { detail },
            CohortError::DiskFailed { detail } => CellError::DiskFailed { detail },
            CohortError::Closing => CellError::ShuttingDown,
            CohortError::NotLeader { .. } => CellError::Unreachable { detail: error.to_string() },
            // A kind that this crate does not know yet: say what it says, and that nothing is sure.
            other => CellError::DiskFailed { detail: other.to_string() },
        }
    }
}

/// What a catalog's error means for who asked for the change.
impl From<CatalogError> for CellError {
    fn from(error: CatalogError) -> CellError {
        let detail = error.to_string();
        match error {
            CatalogError::Refused(Refusal::NotFounded) => CellError::NoAtlas,
            CatalogError::Disk { .. } => CellError::DiskFailed { detail },
            _ => CellError::Catalog { detail },
        }
    }
}

impl From<CatalogError> for PutAtlasError {
    fn from(error: CatalogError) -> PutAtlasError {
        match error {
            CatalogError::Refused(Refusal::Stale { current, expected, .. }) => {
                PutAtlasError::Stale { current, expected }
            }
            other => PutAtlasError::Catalog(other),
        }
    }
}
