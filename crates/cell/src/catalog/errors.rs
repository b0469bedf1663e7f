//! Why the catalog could not be opened, read or changed.

use super::command::Refusal;
use super::file::FileError;
use super::known::TwoFoundings;
use skein_cohort::group::GroupError;
use skein_model::HostId;

/// Why the catalog was not read or changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CatalogError {
    /// It says no. Nothing changed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Nobody who leads the catalog could be reached in time. Nothing changed.
    #[error("the catalog's leader could not be asked in time: {why}")]
    NotLed {
        /// What was in the way last.
        why: String,
    },
    /// The time ran out after the change was sent: it may have been made, or be made yet. Look at what it is about.
    #[error("nobody knows whether the catalog was changed: {why}")]
    Unknown {
        /// What cut the wait short.
        why: String,
    },
    /// The cell is not founded yet, and the host that would have to do it cannot. Nothing changed.
    #[error("the cell is founded by the first host of cohort 0, {host}, and that {why}")]
    NoFounder {
        /// Who.
        host: HostId,
        /// Why not.
        why: String,
    },
    /// Another host is founding the cell at this moment. Nothing was done here; try again.
    #[error("host {host} is founding the cell at this moment; try again")]
    BeingFounded {
        /// Who.
        host: HostId,
    },
    /// This peer met another cell with the same ID.
    #[error(transparent)]
    TwoFoundings(#[from] TwoFoundings),
    /// This peer's disk did not take what has to be kept.
    #[error("keep the catalog: {detail}")]
    Disk {
        /// Which file, and what the system said.
        detail: String,
    },
}

impl From<FileError> for CatalogError {
    fn from(error: FileError) -> CatalogError {
        CatalogError::Disk { detail: error.to_string() }
    }
}

/// Why the catalog did not open.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenCatalogError {
    /// One of its files.
    #[error(transparent)]
    File(#[from] FileError),
    /// Its group.
    #[error("open the catalog's replica")]
    Group(#[from] GroupError),
    /// Its log and its file are of different foundings: one of them was brought from elsewhere.
    #[error(transparent)]
    TwoFoundings(#[from] TwoFoundings),
}
