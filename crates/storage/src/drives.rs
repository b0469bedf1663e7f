//! Everything a peer keeps: where its log is, where small files go, and one store of rows for each Raft group.
//!
//! A group's store is replaced whole when a snapshot arrives: it is received into a *staged* store beside the current
//! one, and [`Drives::promote`] makes that the current one in a single durable step. [`RealDrives`] is a directory of
//! this machine; [`MemDrives`] lives in memory and forgets in a crash what a real one would.

mod mem;
mod real;

pub use mem::MemDrives;
pub use real::RealDrives;

use crate::disk::Disk;
use crate::engine::{Engine, EngineError, EngineStats};
use skein_model::{GroupId, LifeId};
use std::io;
use std::sync::Arc;

/// Why drives could not do something.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DrivesError {
    /// A store; its error says what state it is in.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The operating system failed. Nothing was changed, or what was begun is finished or undone at the next start.
    #[error("{doing} {path}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// There is no staged store to promote: none was made since the start, or it was promoted or removed already.
    #[error("group {group} has no staged store to promote; stage one first")]
    NotStaged {
        /// The group.
        group: GroupId,
    },
}

impl DrivesError {
    /// Whether freeing space on the drive would help.
    pub fn is_full(&self) -> bool {
        match self {
            DrivesError::Engine(error) => error.is_full(),
            DrivesError::Io { source, .. } => {
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            DrivesError::NotStaged { .. } => false,
        }
    }
}

/// What is known of the replica of a group that is, or was, kept here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// It lives, under this ID.
    Lives(LifeId),
    /// It was given up; perhaps not all that it had is deleted yet. Whoever comes after it needs an ID of its own.
    Ended,
}

/// What a peer keeps on its drives. All of it blocks.
///
/// A group has at most one current and one staged store. Handles stay usable after their store was superseded or
/// removed, so that readers can finish; its files go when the last handle, and the last view of it, is dropped.
pub trait Drives: Send + Sync + 'static {
    /// Where the log is.
    fn log_disk(&self) -> Arc<dyn Disk>;

    /// Where small files are: the catalog, what the flock remembers. Others may keep files beside them.
    fn small_files(&self) -> Arc<dyn Disk>;

    /// The groups that have a current store, in ascending order.
    fn groups(&self) -> Result<Vec<GroupId>, DrivesError>;

    /// The group's current store; made, empty, when there is none. While a handle of it lives, another one for the same
    /// store is given out.
    fn open(&self, group: GroupId) -> Result<Arc<dyn Engine>, DrivesError>;

    /// A fresh store beside the current one, which stays the current one until [`Drives::promote`]. A store staged
    /// earlier is given up. After a restart no staged store is left.
    fn stage(&self, group: GroupId) -> Result<Arc<dyn Engine>, DrivesError>;

    /// Makes the staged store the group's current one, durably and at once: after a crash at any moment it is either
    /// the old or the new one. The staged store's handle goes on as one of the current store.
    ///
    /// The caller has made everything in it durable with [`Engine::checkpoint`].
    fn promote(&self, group: GroupId) -> Result<(), DrivesError>;

    /// The life of the group's replica here; `None` where none began, or it began before lives were written down.
    fn life(&self, group: GroupId) -> Result<Option<Life>, DrivesError>;

    /// Notes that a replica begins to live here under this ID; durable when this returns. There may be a store already.
    fn begin_life(&self, group: GroupId, life: LifeId) -> Result<(), DrivesError>;

    /// Notes that the replica is given up; durable when this returns, and remembered for good: also after [`Drives::remove`].
    fn end_life(&self, group: GroupId) -> Result<(), DrivesError>;

    /// Removes the group's stores, current and staged; durable when this returns. Does nothing when there are none.
    fn remove(&self, group: GroupId) -> Result<(), DrivesError>;

    /// The sum of what all open stores say; gauges are brought up to date.
    fn stats(&self) -> EngineStats;

    /// Bytes that could still be written.
    fn free_bytes(&self) -> io::Result<u64>;
}

#[cfg(test)]
mod tests;
