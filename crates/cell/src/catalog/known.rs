//! The newest state known to this peer, whoever it came from, and its file.
//!
//! A peer that is no member of the catalog's group learns states from others; a member's own replica may be behind what
//! it learned before a restart. Either way the newest counts, and an older one never takes its place. States of another founding
//! belong to another database: they are refused, and that is remembered, to be told.

use super::file::{self, FileError, Found, LEARNED};
use super::state::{CatalogState, Founding};
use skein_storage::disk::Disk;
use std::sync::Arc;
use tokio::sync::watch;

/// Two foundings met: this peer and another belong to different databases of the same cell ID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "this peer belongs to the cell founded as {ours}, and met one of a cell founded as {theirs} under the same cell ID: one of the two was founded apart from the other; keep the one that has your rows, and start the other's peers in fresh directories (skein init)"
)]
pub struct TwoFoundings {
    /// The founding that this peer goes by.
    pub ours: Founding,
    /// The other one.
    pub theirs: Founding,
}

pub(crate) struct Known {
    disk: Arc<dyn Disk>,
    newest: watch::Sender<Arc<CatalogState>>,
    /// The version in the file.
    kept: tokio::sync::Mutex<u64>,
    conflict: watch::Sender<Option<TwoFoundings>>,
}

impl Known {
    /// What the file says; nothing if there is none. Blocks.
    pub(crate) fn open(disk: Arc<dyn Disk>) -> Result<Known, FileError> {
        let state = match file::read(&*disk, LEARNED)? {
            None => Arc::default(),
            Some(Found::Saved(saved)) => saved.content.state,
            Some(Found::OfOne(_)) => {
                let detail = "it has the format of the catalog of a cell of one".to_owned();
                return Err(FileError::Damaged { file: disk.describe(LEARNED), detail });
            }
        };
        Ok(Known {
            disk,
            kept: tokio::sync::Mutex::new(state.version),
            newest: watch::Sender::new(state),
            conflict: watch::Sender::new(None),
        })
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Arc<CatalogState>> {
        self.newest.subscribe()
    }

    pub(crate) fn state(&self) -> Arc<CatalogState> {
        self.newest.borrow().clone()
    }

    pub(crate) fn conflict(&self) -> watch::Receiver<Option<TwoFoundings>> {
        self.conflict.subscribe()
    }

    /// Says whether a founding is this peer's, if both are known; if not, that is remembered.
    pub(crate) fn check(&self, theirs: Option<Founding>) -> Result<(), TwoFoundings> {
        let ours = self.newest.borrow().founding;
        match (ours, theirs) {
            (Some(ours), Some(theirs)) if ours != theirs => {
                let conflict = TwoFoundings { ours, theirs };
                if self.conflict.send_if_modified(|known| known.replace(conflict) != Some(conflict)) {
                    tracing::error!(%conflict, "two cells with one ID");
                }
                Err(conflict)
            }
            _ => Ok(()),
        }
    }

    /// Takes a state if it is newer; tells whether it was.
    ///
    /// It is kept before anybody acts on it: a peer that has replicas of cohorts knows of a catalog at every start. Should the disk
    /// not take it, it counts all the same, as a full disk is a reason to learn where the rows go; [`Known::keep`] tries again.
    pub(crate) async fn learn(&self, state: Arc<CatalogState>) -> Result<bool, TwoFoundings> {
        self.check(state.founding)?;
        if state.version <= self.state().version {
            return Ok(false);
        }
        let mut kept = self.kept.lock().await;
        if let Err(error) = self.write(&mut kept, &state).await {
            tracing::warn!(%error, "keep the catalog that was learned; this is tried again");
        }
        self.check(state.founding)?;
        Ok(self.newest.send_if_modified(|newest| {
            // Compared again under the lock: another may have learned more while this was written.
            let newer = newest.version < state.version
                && newest.founding.is_none_or(|ours| state.founding == Some(ours));
            if newer {
                *newest = state;
            }
            newer
        }))
    }

    /// Makes the newest state durable, if it is not yet.
    pub(crate) async fn keep(&self) -> Result<(), FileError> {
        let mut kept = self.kept.lock().await;
        let state = self.state();
        self.write(&mut kept, &state).await
    }

    async fn write(&self, kept: &mut u64, state: &Arc<CatalogState>) -> Result<(), FileError> {
        if state.version <= *kept {
            return Ok(());
        }
        let version = state.version;
        let (disk, state) = (self.disk.clone(), state.clone());
        let write = move || file::write(&*disk, LEARNED, &file::learned(&state));
        skein_storage::blocking(write).await.map_err(|unfinished| FileError::Io {
            verb: "write",
            file: self.disk.describe(LEARNED),
            source: unfinished.into(),
        })??;
        *kept = version;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skein_model::Atlas;
    use skein_storage::disk::MemDisk;

    fn state(founding: u64, version: u64) -> Arc<CatalogState> {
        let content = super::super::content::tests::founded(founding);
        Arc::new(CatalogState { version, ..CatalogState::clone(&content.state) })
    }

    #[tokio::test]
    async fn the_newest_state_counts_and_survives_a_restart() {
        let disk = MemDisk::new();
        let known = Known::open(Arc::new(disk.clone())).unwrap();
        assert!(known.learn(state(1, 5)).await.unwrap());
        assert!(!known.learn(state(1, 4)).await.unwrap());
        assert!(!known.learn(Arc::default()).await.unwrap(), "a peer that knows nothing says nothing");
        let again = Known::open(Arc::new(disk.crash_losing_all())).unwrap();
        assert_eq!(again.state(), state(1, 5));
        assert!(!again.learn(state(1, 3)).await.unwrap());
    }

    #[tokio::test]
    async fn a_full_disk_does_not_keep_a_peer_from_learning_and_it_is_kept_once_there_is_room() {
        let disk = MemDisk::new();
        let known = Known::open(Arc::new(disk.clone())).unwrap();
        disk.set_capacity(8);
        assert!(known.learn(state(1, 5)).await.unwrap());
        assert_eq!(known.state(), state(1, 5));
        assert!(known.keep().await.unwrap_err().is_full());
        disk.set_capacity(1 << 20);
        known.keep().await.unwrap();
        assert_eq!(Known::open(Arc::new(disk.crash_losing_all())).unwrap().state(), state(1, 5));
    }

    #[tokio::test]
    async fn a_state_of_another_founding_is_refused_whatever_its_version() {
        let known = Known::open(Arc::new(MemDisk::new())).unwrap();
        known.learn(state(1, 5)).await.unwrap();
        let conflict = TwoFoundings { ours: Founding(1), theirs: Founding(2) };
        assert_eq!(known.learn(state(2, 9)).await, Err(conflict));
        assert_eq!(*known.conflict().borrow(), Some(conflict));
        assert_eq!(known.state(), state(1, 5));
        assert!(conflict.to_string().contains("skein init"));
    }

    #[test]
    fn damage_of_the_learned_file_is_told() {
        let disk = MemDisk::new();
        file::write(&disk, LEARNED, &file::learned(&state(1, 5))).unwrap();
        disk.flip_bit(LEARNED, 400).unwrap();
        assert!(matches!(Known::open(Arc::new(disk)), Err(FileError::Damaged { .. })));
    }

    #[test]
    fn the_learned_file_of_a_cell_of_one_is_no_such_thing() {
        let dir = tempfile::tempdir().unwrap();
        let facts = crate::catalog_of_one::Facts {
            atlas: Arc::new(Atlas::empty()),
            schema_version: 0,
            schema: Arc::default(),
        };
        crate::catalog_of_one::Catalog::in_dir(dir.path()).store(&facts).unwrap();
        std::fs::rename(dir.path().join("catalog"), dir.path().join(LEARNED)).unwrap();
        let disk = skein_storage::disk::RealDisk::open(dir.path()).unwrap();
        assert!(matches!(Known::open(Arc::new(disk)), Err(FileError::Damaged { .. })));
    }
}
