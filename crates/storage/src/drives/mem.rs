//! Drives in memory, which can be crashed.

use super::{Drives, DrivesError, Life};
use crate::disk::{Disk, MemDisk};
use crate::engine::{Engine, EngineStats, MemEngine};
use skein_model::{GroupId, LifeId};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Drives in memory. Clones share them.
///
/// What should go wrong is told to the parts: [`MemDrives::log`] and [`MemDrives::files`] for slow and failing syncs,
/// [`MemDrives::engine`] for the faults of a store.
#[derive(Clone, Default)]
pub struct MemDrives {
    log: MemDisk,
    files: MemDisk,
    stores: Arc<Mutex<BTreeMap<GroupId, Stores>>>,
}

#[derive(Default)]
struct Stores {
    current: Option<Arc<MemEngine>>,
    staged: Option<Arc<MemEngine>>,
    life: Option<Life>,
}

impl MemDrives {
    /// Empty drives.
    pub fn new() -> MemDrives {
        MemDrives::default()
    }

    /// The disk of the log.
    pub fn log(&self) -> &MemDisk {
        &self.log
    }

    /// The disk of small files.
    pub fn files(&self) -> &MemDisk {
        &self.files
    }

    /// The current store of a group, if it has one.
    pub fn engine(&self, group: GroupId) -> Option<Arc<MemEngine>> {
        self.lock().get(&group)?.current.clone()
    }

    /// The drives as they are found after the machine lost power now: each written and unsynced sector is kept or lost
    /// as `seed` says, stores are as their last checkpoint left them, staged stores are gone. These drives go on
    /// unharmed, so that whoever still holds them is not seen by whoever opens the image.
    pub fn crash(&self, seed: u64) -> MemDrives {
        // Two streams of luck, so that the one does not repeat the other.
        self.image(self.log.crash(seed), self.files.crash(!seed))
    }

    /// The drives as another process finds them when this one was killed: everything written to the disks is there,
    /// stores are as their last checkpoint left them, staged stores are gone.
    pub fn killed(&self) -> MemDrives {
        self.image(self.log.killed(), self.files.killed())
    }

    fn image(&self, log: MemDisk, files: MemDisk) -> MemDrives {
        let survives = |(group, stores): (&GroupId, &Stores)| {
            let current = stores.current.as_ref().map(|engine| Arc::new(engine.crash()));
            (*group, Stores { current, staged: None, life: stores.life })
        };
        let stores = self.lock().iter().map(survives).collect();
        MemDrives { log, files, stores: Arc::new(Mutex::new(stores)) }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<GroupId, Stores>> {
        self.stores.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drives for MemDrives {
    fn log_disk(&self) -> Arc<dyn Disk> {
        Arc::new(self.log.clone())
    }

    fn small_files(&self) -> Arc<dyn Disk> {
        Arc::new(self.files.clone())
    }

    fn groups(&self) -> Result<Vec<GroupId>, DrivesError> {
        let stores = self.lock();
        Ok(stores.iter().filter(|(_, stores)| stores.current.is_some()).map(|(group, _)| *group).collect())
    }

    fn open(&self, group: GroupId) -> Result<Arc<dyn Engine>, DrivesError> {
        Ok(self.lock().entry(group).or_default().current.get_or_insert_default().clone())
    }

    fn stage(&self, group: GroupId) -> Result<Arc<dyn Engine>, DrivesError> {
        Ok(self.lock().entry(group).or_default().staged.insert(Arc::default()).clone())
    }

    fn promote(&self, group: GroupId) -> Result<(), DrivesError> {
        let mut all = self.lock();
        let stores = all.get_mut(&group).filter(|stores| stores.staged.is_some());
        let stores = stores.ok_or(DrivesError::NotStaged { group })?;
        stores.current = stores.staged.take();
        Ok(())
    }

    fn life(&self, group: GroupId) -> Result<Option<Life>, DrivesError> {
        Ok(self.lock().get(&group).and_then(|stores| stores.life))
    }

    fn begin_life(&self, group: GroupId, life: LifeId) -> Result<(), DrivesError> {
        self.lock().entry(group).or_default().life = Some(Life::Lives(life));
        Ok(())
    }

    fn end_life(&self, group: GroupId) -> Result<(), DrivesError> {
        self.lock().entry(group).or_default().life = Some(Life::Ended);
        Ok(())
    }

    fn remove(&self, group: GroupId) -> Result<(), DrivesError> {
        if let Some(stores) = self.lock().get_mut(&group) {
            (stores.current, stores.staged) = (None, None);
        }
        Ok(())
    }

    fn stats(&self) -> EngineStats {
        let mut sum = EngineStats::default();
        for engine in self.lock().values().filter_map(|stores| stores.current.as_ref()) {
            sum.add(&engine.stats());
        }
        sum
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.log.free_bytes()
    }
}
