//! A cell: the strongly consistent database that one or more peers form together.
//!
//! This crate routes each request by the atlas to the cohort that owns the row, and keeps the [`catalog`], the
//! cell's facts about itself. [`Cell`] is the view of one of its peers.
#![forbid(unsafe_code)]

mod administration;
mod api;
pub mod catalog;
pub mod catalog_of_one;
mod cell;
mod closing;
mod duties;
mod errors;
pub mod fuzzing;
mod gossip;
mod groups;
mod health;
mod horizons;
pub mod leaders;
mod link;
mod luck;
mod merge;
mod opening;
mod options;
mod overview;
mod progress;
mod relief;
mod router;
mod routing;
mod scans;
mod services;
mod share;
mod small_file;
mod space;
mod status;
pub mod supervisor;
mod wire;

pub use api::{
    CellError, HostWeight, ReadReply, Readiness, ScanRequest, ScanWindow, TableInfo, TxOutcome, TxStatus,
};
pub use cell::Cell;
pub use errors::{PutAtlasError, PutSchemaError};
pub use options::{CellOptions, OpenError};
pub use scans::Scan;
pub use skein_cohort::group::CopyRate;
pub use skein_storage::rows::ScanRow;
pub use status::{
    CatalogMember, CatalogStatus, CellStatus, CohortStatus, CopyStatus, Health, MoveStatus, PeerStatus,
    ReplicaStatus,
};
