//! Drives of this machine: one directory.
//!
//! ```text
//! DIR/log/                                 the log
//! DIR/*                                    small files
//! DIR/cohorts/GROUP/GENERATION/            a store; GROUP in 16 hexadecimal digits, GENERATION counts from 1
//! DIR/cohorts/GROUP/GENERATION.incoming    an empty file: that store is staged
//! DIR/cohorts/GROUP/GENERATION.removed     an empty file: that store is to be deleted
//! DIR/cohorts/GROUP/life.LIFE              an empty file: the replica lives under this ID, in 16 hexadecimal digits
//! DIR/cohorts/GROUP/ended.LIFE             an empty file: the replica that had this ID was given up
//! ```
//!
//! The group's store is its newest generation with neither mark; promoting removes a mark. Marks rather than new names
//! for the directory, because an open store knows its files by their paths. A mark is durable before the directory
//! it speaks of is made, and goes only after that directory is durably gone. So whatever a crash leaves can be told from
//! a store, and the next start clears it away.
//!
//! A life ends by a rename, before anything of the replica is deleted; what is marked `ended` stays, so that whoever comes after it
//! knows not to be the first. Where both are found, the life began after the other had ended.

use super::{Drives, DrivesError, Life};
use crate::disk::{Disk, RealDisk};
use crate::engine::{Engine, EngineOptions, EnginePool, EngineStats, StoreRef};
use skein_model::{GroupId, LifeId};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const INCOMING: &str = "incoming";
const REMOVED: &str = "removed";
const LIVES: &str = "life";
const ENDED: &str = "ended";

/// Where a database of one kept its only store.
const SOLE_STORE: &str = "store";

/// A directory of this machine, whose lock the caller holds. All its stores share one pool of memory and threads.
pub struct RealDrives {
    cohorts: PathBuf,
    log: Arc<RealDisk>,
    files: Arc<RealDisk>,
    pool: EnginePool,
    /// Each under a lock of its own: making a store takes many syncs, and those of several groups take hardly longer.
    stores: Mutex<BTreeMap<GroupId, Arc<Mutex<Stores>>>>,
}

/// What is known of one group's stores.
#[derive(Default)]
struct Stores {
    current: Option<Store>,
    staged: Option<Store>,
    /// The highest generation there ever was since the start.
    newest: u64,
    life: Option<Life>,
}

struct Store {
    generation: u64,
    /// Of its handles, if there are any.
    open: StoreRef,
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DrivesError {
    let path = path.display().to_string();
    move |source| DrivesError::Io { doing, path, source }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change of what is guarded is a single step.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn sync_dir(dir: &Path) -> Result<(), DrivesError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io_error("sync", dir))
}

/// Makes a directory and those above it that are missing, durably.
fn make_dir(dir: &Path) -> Result<(), DrivesError> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = dir.parent().unwrap_or(Path::new("."));
    make_dir(parent)?;
    match fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(io_error("make", dir)(error));
        }
        _ => {}
    }
    sync_dir(parent)
}

fn group_dir(cohorts: &Path, group: GroupId) -> PathBuf {
    cohorts.join(format!("{:016x}", group.0))
}

/// The file that marks a generation.
fn mark(dir: &Path, generation: u64, kind: &str) -> PathBuf {
    dir.join(format!("{generation}.{kind}"))
}

fn put_mark(dir: &Path, generation: u64, kind: &str) -> Result<(), DrivesError> {
    let path = mark(dir, generation, kind);
    File::create(&path).and_then(|file| file.sync_all()).map_err(io_error("make", &path))?;
    sync_dir(dir)
}

/// Deletes a generation, then its marks. Durable when this returns.
fn delete(dir: &Path, generation: u64) -> Result<(), DrivesError> {
    let path = dir.join(generation.to_string());
    match fs::remove_dir_all(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(io_error("delete", &path)(error));
        }
        _ => sync_dir(dir)?,
    }
    for kind in [INCOMING, REMOVED] {
        let path = mark(dir, generation, kind);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io_error("delete", &path)(error));
            }
            _ => {}
        }
    }
    sync_dir(dir)
}

fn life_file(dir: &Path, kind: &str, life: LifeId) -> PathBuf {
    dir.join(format!("{kind}.{:016x}", life.0))
}

fn put_life(dir: &Path, kind: &str, life: LifeId) -> Result<(), DrivesError> {
    let path = life_file(dir, kind, life);
    File::create(&path).and_then(|file| file.sync_all()).map_err(io_error("make", &path))?;
    sync_dir(dir)
}

/// What stands in a group's directory.
#[derive(Debug, Default)]
struct Found {
    lives: BTreeSet<LifeId>,
    has_ended: bool,
    generations: BTreeSet<u64>,
    marked: BTreeSet<u64>,
}

impl Found {
    fn in_dir(dir: &Path) -> Result<Found, DrivesError> {
        let mut found = Found::default();
        for entry in fs::read_dir(dir).map_err(io_error("list", dir))? {
            let name = entry.map_err(io_error("list", dir))?.file_name();
            // Other names are not ours.
            let Some(name) = name.to_str() else { continue };
            let (number, kind) = name.split_once('.').map_or((name, None), |(n, kind)| (n, Some(kind)));
            if let (LIVES | ENDED, Some(life)) = (number, kind) {
                let life = u64::from_str_radix(life, 16).ok().map(LifeId);
                match life.filter(|life| life_file(dir, number, *life) == dir.join(name)) {
                    Some(life) if number == LIVES => _ = found.lives.insert(life),
                    Some(_) => found.has_ended = true,
                    None => {}
                }
                continue;
            }
            let Some(generation) = number.parse::<u64>().ok().filter(|n| n.to_string() == number) else {
                continue;
            };
            match kind {
                None => found.generations.insert(generation),
                Some(INCOMING | REMOVED) => found.marked.insert(generation),
                Some(_) => continue,
            };
        }
        Ok(found)
    }

    fn life(&self, dir: &Path) -> Result<Option<Life>, DrivesError> {
        let mut lives = self.lives.iter();
        match (lives.next(), lives.next()) {
            (None, _) => Ok(self.has_ended.then_some(Life::Ended)),
            (Some(life), None) => Ok(Some(Life::Lives(*life))),
            (Some(_), Some(_)) => {
                let source =
                    io::Error::other("two files say under which ID the replica lives, and it has one");
                Err(io_error("open", dir)(source))
            }
        }
    }

    fn current(&self) -> Option<u64> {
        self.generations.difference(&self.marked).max().copied()
    }
}

/// The store of the database of one becomes that of the first group.
fn adopt_sole_store(dir: &Path, cohorts: &Path) -> Result<(), DrivesError> {
    let old = dir.join(SOLE_STORE);
    if !old.try_exists().map_err(io_error("look for", &old))? {
        return Ok(());
    }
    let group = group_dir(cohorts, GroupId::FIRST);
    make_dir(&group)?;
    let new = group.join("1");
    if new.try_exists().map_err(io_error("look for", &new))? {
        return Err(DrivesError::Io {
            doing: "adopt",
            path: old.display().to_string(),
            source: io::Error::other(format!(
                "{} is there as well, and only one of them can be the store; move one of them away",
                new.display()
            )),
        });
    }
    fs::rename(&old, &new).map_err(io_error("rename", &old))?;
    sync_dir(&group)?;
    sync_dir(dir)?;
    tracing::info!(from = %old.display(), to = %new.display(), "the store has a new place");
    Ok(())
}

impl RealDrives {
    /// Opens the drives in `dir`, or makes them; deletes what a crash left half-way, and gives the store of a database
    /// of one its new place. Stores are opened when they are asked for.
    pub fn open(dir: &Path, options: EngineOptions) -> Result<RealDrives, DrivesError> {
        let cohorts = dir.join("cohorts");
        make_dir(&cohorts)?;
        adopt_sole_store(dir, &cohorts)?;
        let log_dir = dir.join("log");
        let log = RealDisk::open(&log_dir).map_err(io_error("open", &log_dir))?;
        let files = RealDisk::open(dir).map_err(io_error("open", dir))?;
        let mut stores = BTreeMap::new();
        for entry in fs::read_dir(&cohorts).map_err(io_error("list", &cohorts))? {
            let name = entry.map_err(io_error("list", &cohorts))?.file_name();
            let group = name.to_str().and_then(|name| u64::from_str_radix(name, 16).ok()).map(GroupId);
            // Names that we would not give are not ours.
            let Some(group) = group.filter(|group| group_dir(&cohorts, *group) == cohorts.join(&name)) else {
                continue;
            };
            let found = Stores::clear(&group_dir(&cohorts, group))?;
            stores.insert(group, Arc::new(Mutex::new(found)));
        }
        Ok(RealDrives {
            cohorts,
            log: Arc::new(log),
            files: Arc::new(files),
            pool: EnginePool::new(options)?,
            stores: Mutex::new(stores),
        })
    }

    /// The directory of each group's current store in a peer's directory, without changing anything there: also that of a
    /// database of one that was not started since. For those who look at a stopped peer.
    pub fn store_dirs(dir: &Path) -> Result<Vec<(GroupId, PathBuf)>, DrivesError> {
        let mut dirs = Vec::new();
        let old = dir.join(SOLE_STORE);
        if old.is_dir() {
            dirs.push((GroupId::FIRST, old));
        }
        let cohorts = dir.join("cohorts");
        if !cohorts.is_dir() {
            return Ok(dirs);
        }
        for entry in fs::read_dir(&cohorts).map_err(io_error("list", &cohorts))? {
            let name = entry.map_err(io_error("list", &cohorts))?.file_name();
            let Some(group) = name.to_str().and_then(|name| u64::from_str_radix(name, 16).ok()) else {
                continue;
            };
            let group_dir = cohorts.join(&name);
            if let Some(generation) = Found::in_dir(&group_dir)?.current() {
                dirs.push((GroupId(group), group_dir.join(generation.to_string())));
            }
        }
        dirs.sort();
        Ok(dirs)
    }

    /// What all stores share: memory, threads, and the sum of their numbers.
    pub fn pool(&self) -> &EnginePool {
        &self.pool
    }

    fn stores(&self, group: GroupId) -> Arc<Mutex<Stores>> {
        lock(&self.stores).entry(group).or_default().clone()
    }

    /// Opens a generation's directory, whose store, should it ever be given up, is deleted with its marks.
    fn open_store(&self, dir: &Path, generation: u64) -> Result<(Arc<dyn Engine>, Store), DrivesError> {
        let group = dir.to_owned();
        let delete = Box::new(move || {
            if let Err(error) = delete(&group, generation) {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(%error, cause, "a store that is given up is deleted at the next start");
            }
        });
        let engine = self.pool.open_deletable(&dir.join(generation.to_string()), delete)?;
        let open = engine.store_ref();
        Ok((Arc::new(engine), Store { generation, open }))
    }
}

impl Stores {
    /// Deletes all generations in the group's directory but its store.
    fn clear(dir: &Path) -> Result<Stores, DrivesError> {
        let found = Found::in_dir(dir)?;
        let current = found.current();
        for generation in found.generations.union(&found.marked).filter(|n| Some(**n) != current) {
            delete(dir, *generation)?;
        }
        let newest = found.generations.union(&found.marked).max().copied().unwrap_or(0);
        let current = current.map(|generation| Store { generation, open: StoreRef::default() });
        Ok(Stores { current, newest, life: found.life(dir)?, ..Stores::default() })
    }

    /// Lets go of a store that is marked, or older than the current one.
    fn give_up(dir: &Path, generation: u64, open: &StoreRef) {
        if open.delete_when_unused() {
            return;
        }
        if let Err(error) = delete(dir, generation) {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            tracing::warn!(%error, cause, "a store that is given up is deleted at the next start");
        }
    }
}

impl Drives for RealDrives {
    fn log_disk(&self) -> Arc<dyn Disk> {
        self.log.clone()
    }

    fn small_files(&self) -> Arc<dyn Disk> {
        self.files.clone()
    }

    fn groups(&self) -> Result<Vec<GroupId>, DrivesError> {
        let all = lock(&self.stores).clone();
        Ok(all.iter().filter(|(_, stores)| lock(stores).current.is_some()).map(|(group, _)| *group).collect())
    }

    fn open(&self, group: GroupId) -> Result<Arc<dyn Engine>, DrivesError> {
        let dir = group_dir(&self.cohorts, group);
        let stores = self.stores(group);
        let mut stores = lock(&stores);
        if let Some(current) = &stores.current {
            if let Some(engine) = current.open.handle(&self.pool)? {
                return Ok(Arc::new(engine));
            }
            let (engine, current) = self.open_store(&dir, current.generation)?;
            stores.current = Some(current);
            return Ok(engine);
        }
        make_dir(&dir)?;
        let generation = stores.newest + 1;
        let (engine, current) = self.open_store(&dir, generation)?;
        sync_dir(&dir)?;
        stores.newest = generation;
        stores.current = Some(current);
        Ok(engine)
    }

    fn stage(&self, group: GroupId) -> Result<Arc<dyn Engine>, DrivesError> {
        let dir = group_dir(&self.cohorts, group);
        let stores = self.stores(group);
        let mut stores = lock(&stores);
        if let Some(Store { generation, open }) = stores.staged.take() {
            Stores::give_up(&dir, generation, &open);
        }
        make_dir(&dir)?;
        let generation = stores.newest + 1;
        stores.newest = generation;
        put_mark(&dir, generation, INCOMING)?;
        let (engine, staged) = self.open_store(&dir, generation)?;
        stores.staged = Some(staged);
        Ok(engine)
    }

    fn promote(&self, group: GroupId) -> Result<(), DrivesError> {
        let dir = group_dir(&self.cohorts, group);
        let stores = self.stores(group);
        let mut stores = lock(&stores);
        let stores = &mut *stores;
        let staged = stores.staged.as_ref().ok_or(DrivesError::NotStaged { group })?;
        // Its name is durable before its mark goes.
        sync_dir(&dir)?;
        let mark = mark(&dir, staged.generation, INCOMING);
        match fs::remove_file(&mark) {
            // An earlier attempt came this far.
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io_error("delete", &mark)(error));
            }
            _ => sync_dir(&dir)?,
        }
        let superseded = std::mem::replace(&mut stores.current, stores.staged.take());
        if let Some(Store { generation, open }) = superseded {
            Stores::give_up(&dir, generation, &open);
        }
        Ok(())
    }

    fn life(&self, group: GroupId) -> Result<Option<Life>, DrivesError> {
        let stores = lock(&self.stores).get(&group).cloned();
        Ok(stores.and_then(|stores| lock(&stores).life))
    }

    fn begin_life(&self, group: GroupId, life: LifeId) -> Result<(), DrivesError> {
        let dir = group_dir(&self.cohorts, group);
        let stores = self.stores(group);
        let mut stores = lock(&stores);
        make_dir(&dir)?;
        put_life(&dir, LIVES, life)?;
        stores.life = Some(Life::Lives(life));
        Ok(())
    }

    fn end_life(&self, group: GroupId) -> Result<(), DrivesError> {
        let dir = group_dir(&self.cohorts, group);
        let stores = self.stores(group);
        let mut stores = lock(&stores);
        match stores.life {
            Some(Life::Ended) => return Ok(()),
            Some(Life::Lives(life)) => {
                let from = life_file(&dir, LIVES, life);
                match fs::rename(&from, life_file(&dir, ENDED, life)) {
                    // An earlier attempt came this far.
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(io_error("rename", &from)(error));
                    }
                    _ => sync_dir(&dir)?,
                }
            }
            // It is from before lives were written down; that one was here is all that matters.
            None => {
                make_dir(&dir)?;
                put_life(&dir, ENDED, LifeId(0))?;
            }
        }
        stores.life = Some(Life::Ended);
        Ok(())
    }

    fn remove(&self, group: GroupId) -> Result<(), DrivesError> {
        let dir = group_dir(&self.cohorts, group);
        let stores = self.stores(group);
        let mut stores = lock(&stores);
        if stores.current.is_none() && stores.staged.is_none() {
            return Ok(());
        }
        // Also superseded ones that still have readers. Oldest first: a crash in between must not bring one of them back in
        // place of the current one.
        let found = Found::in_dir(&dir)?;
        for generation in found.generations.difference(&found.marked) {
            put_mark(&dir, *generation, REMOVED)?;
        }
        for store in [stores.staged.take(), stores.current.take()].into_iter().flatten() {
            Stores::give_up(&dir, store.generation, &store.open);
        }
        Ok(())
    }

    fn stats(&self) -> EngineStats {
        self.pool.stats()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.files.free_bytes()
    }
}
