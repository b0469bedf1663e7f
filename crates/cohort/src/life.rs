//! Under which ID a replica of a cohort lives: from when its store is made to when it is deleted.
//!
//! The ID is durable before anything is said under it. Where a replica was given up, that stays noted, so the next one in the same directory
//! draws an ID of its own. Giving up is noted first, then the log is forgotten, then the store is deleted; a crash in
//! between is made up for when the next replica begins, or when the peer looks after what it keeps.

use crate::error::CohortError;
use skein_model::{GroupId, LifeId, StoreId};
use skein_storage::blocking;
use skein_storage::drives::{Drives, Life};
use skein_storage::log::{GroupLog, LogError};
use std::sync::Arc;
use tokio::sync::oneshot;

/// What a replica needs to know to begin, or to go on with, its life.
pub(crate) struct Beginning<'a> {
    pub(crate) drives: &'a Arc<dyn Drives>,
    pub(crate) group: GroupId,
    pub(crate) log: &'a GroupLog,
    pub(crate) store: StoreId,
    /// Whether the group begins with this directory.
    pub(crate) founder: bool,
    /// The ID for a life that nobody knows of yet, never drawn before.
    pub(crate) drawn: LifeId,
}

impl Beginning<'_> {
    /// The life of the replica; one that begins is noted.
    pub(crate) async fn live(self) -> Result<LifeId, CohortError> {
        let (drives, group) = (self.drives.clone(), self.group);
        let (life, kept) =
            on_drives(move || Ok((drives.life(group)?, drives.groups()?.contains(&group)))).await?;
        let life = match life {
            Some(Life::Lives(life)) => return Ok(life),
            Some(Life::Ended) => {
                remove_replica(self.drives.clone(), group, self.log).await?;
                self.drawn
            }
            // From when a replica went by its directory.
            None if kept || self.is_in_log() => LifeId::founding(self.store),
            None if self.founder => LifeId::founding(self.store),
            None => self.drawn,
        };
        let drives = self.drives.clone();
        on_drives(move || drives.begin_life(group, life)).await?;
        Ok(life)
    }

    fn is_in_log(&self) -> bool {
        let state = self.log.state();
        state.vote.is_some() || state.purged.is_some() || state.last.is_some()
    }
}

/// Deletes a replica that is not running: its life ends, its part of the log is forgotten, its store deleted. The caller has made
/// sure that the group does not count on it.
///
/// Errors: what could not be done; call it again then. The life has ended as soon as that could be noted.
pub async fn remove_replica(
    drives: Arc<dyn Drives>,
    group: GroupId,
    log: &GroupLog,
) -> Result<(), CohortError> {
    let ended = drives.clone();
    on_drives(move || ended.end_life(group)).await?;
    let (done, forgotten) = oneshot::channel();
    log.forget(Box::new(move |result| {
        // The waiter is gone only when nobody wants to know.
        let _ = done.send(result);
    }))?;
    forgotten.await.unwrap_or(Err(LogError::Closed))?;
    on_drives(move || drives.remove(group)).await
}

async fn on_drives<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, skein_storage::drives::DrivesError> + Send + 'static,
) -> Result<T, CohortError> {
    Ok(blocking(work).await.map_err(|error| CohortError::DiskFailed { detail: error.to_string() })??)
}

#[cfg(test)]
mod tests;
