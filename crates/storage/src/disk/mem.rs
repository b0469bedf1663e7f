//! A disk in memory that can misbehave the ways real ones do.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Disk, DiskFile};

/// What a disk writes whole or not at all.
const SECTOR: usize = 512;

type SyncHook = Arc<dyn Fn(&MemDisk) + Send + Sync>;

/// A directory in memory. Clones share it.
///
/// Creating, renaming and removing are durable at once, as [`Disk`] promises; written bytes are durable
/// only after a sync. [`MemDisk::crash`] makes the image a machine would find after losing power now.
#[derive(Clone, Default)]
pub struct MemDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    files: BTreeMap<String, Arc<Mutex<Contents>>>,
    capacity: Option<u64>,
    syncs: u64,
    syncs_until_failure: Option<u64>,
    sync_delay: Duration,
    on_sync: Option<SyncHook>,
}

/// One file: as a reader sees it, as the platter has it, and the sectors in which the two may differ.
#[derive(Clone, Default)]
struct Contents {
    seen: Vec<u8>,
    durable: Vec<u8>,
    unsynced: BTreeSet<usize>,
}

impl Contents {
    fn settle(&mut self, sector: usize) {
        let from = sector * SECTOR;
        let to = (from + SECTOR).min(self.seen.len());
        if self.durable.len() < to {
            self.durable.resize(to, 0);
        }
        self.durable[from..to].copy_from_slice(&self.seen[from..to]);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn missing(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("no file {name} on the disk in memory"))
}

/// SplitMix64: a few good bits for each sector, the same for the same seed.
fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl MemDisk {
    /// An empty disk without a limit.
    pub fn new() -> MemDisk {
        MemDisk::default()
    }

    /// The disk as found after a crash now: each 512-byte sector written since the last sync of its file is
    /// kept or lost, independently, as `seed` says. This disk goes on unharmed.
    pub fn crash(&self, seed: u64) -> MemDisk {
        let mut random = seed;
        self.image(|| next_random(&mut random) & 1 == 0)
    }

    /// The disk as found after a crash now in which nothing unsynced survived.
    pub fn crash_losing_all(&self) -> MemDisk {
        self.image(|| false)
    }

    /// The disk as another process finds it when this one is killed: everything written is there.
    pub fn killed(&self) -> MemDisk {
        self.image(|| true)
    }

    fn image(&self, mut survives: impl FnMut() -> bool) -> MemDisk {
        let state = lock(&self.state);
        let mut files = BTreeMap::new();
        for (name, file) in &state.files {
            let mut contents = lock(file).clone();
            for sector in std::mem::take(&mut contents.unsynced) {
                if survives() {
                    contents.settle(sector);
                }
            }
            contents.seen = contents.durable.clone();
            files.insert(name.clone(), Arc::new(Mutex::new(contents)));
        }
        MemDisk { state: Arc::new(Mutex::new(State { files, capacity: state.capacity, ..State::default() })) }
    }

    /// Lets `n` more syncs succeed; every one after those fails, and what it should have made durable is
    /// lost in the next crash although it can still be read.
    pub fn fail_sync_after(&self, n: u64) {
        lock(&self.state).syncs_until_failure = Some(n);
    }

    /// Makes each sync take this long.
    pub fn sync_delay(&self, delay: Duration) {
        lock(&self.state).sync_delay = delay;
    }

    /// Calls `hook` before each sync takes effect, for instance to keep an image of that moment.
    pub fn on_sync(&self, hook: impl Fn(&MemDisk) + Send + Sync + 'static) {
        lock(&self.state).on_sync = Some(Arc::new(hook));
    }

    /// How many syncs have been asked for.
    pub fn sync_count(&self) -> u64 {
        lock(&self.state).syncs
    }

    /// Total bytes the files may have; creating beyond it fails with `StorageFull`.
    pub fn set_capacity(&self, bytes: u64) {
        lock(&self.state).capacity = Some(bytes);
    }

    /// Inverts one bit, counted from the start of the file, as seen and on the platter.
    pub fn flip_bit(&self, name: &str, bit: u64) -> io::Result<()> {
        let file = self.file(name)?;
        let mut contents = lock(&file);
        let byte = usize::try_from(bit / 8).unwrap_or(usize::MAX);
        let mask = 1 << (bit % 8);
        match contents.seen.get_mut(byte) {
            Some(seen) => *seen ^= mask,
            None => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "bit past the end of the file")),
        }
        if let Some(durable) = contents.durable.get_mut(byte) {
            *durable ^= mask;
        }
        Ok(())
    }

    /// Cuts the file to `len` bytes, as seen and on the platter.
    pub fn truncate(&self, name: &str, len: u64) -> io::Result<()> {
        let file = self.file(name)?;
        let mut contents = lock(&file);
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        contents.seen.truncate(len);
        contents.durable.truncate(len);
        contents.unsynced.retain(|sector| sector * SECTOR < len);
        Ok(())
    }

    /// The whole file as a reader sees it.
    pub fn contents(&self, name: &str) -> io::Result<Vec<u8>> {
        let file = self.file(name)?;
        let seen = lock(&file).seen.clone();
        Ok(seen)
    }

    fn file(&self, name: &str) -> io::Result<Arc<Mutex<Contents>>> {
        lock(&self.state).files.get(name).cloned().ok_or_else(|| missing(name))
    }

    fn handle(&self, contents: Arc<Mutex<Contents>>) -> Box<dyn DiskFile> {
        Box::new(MemFile { disk: self.clone(), contents })
    }
}

impl State {
    fn free(&self) -> u64 {
        let used: u64 = self.files.values().map(|file| lock(file).seen.len() as u64).sum();
        self.capacity.unwrap_or(1 << 50).saturating_sub(used)
    }
}

impl fmt::Debug for MemDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = lock(&self.state);
        f.debug_struct("MemDisk").field("files", &state.files.keys()).field("syncs", &state.syncs).finish()
    }
}

impl Disk for MemDisk {
    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        Ok(self.handle(self.file(name)?))
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<Box<dyn DiskFile>> {
        let mut state = lock(&self.state);
        if state.files.contains_key(name) {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{name} already exists")));
        }
        if bytes > state.free() {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "no space left on the disk in memory"));
        }
        let zeros = vec![0; usize::try_from(bytes).map_err(io::Error::other)?];
        let contents = Contents { seen: zeros.clone(), durable: zeros, unsynced: BTreeSet::new() };
        let contents = Arc::new(Mutex::new(contents));
        state.files.insert(name.to_owned(), contents.clone());
        drop(state);
        Ok(self.handle(contents))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        lock(&self.state).files.remove(name).map(|_| ()).ok_or_else(|| missing(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = lock(&self.state);
        let file = state.files.remove(from).ok_or_else(|| missing(from))?;
        state.files.insert(to.to_owned(), file);
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(lock(&self.state).files.keys().cloned().collect())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(lock(&self.state).free())
    }

    fn describe(&self, name: &str) -> String {
        format!("memory/{name}")
    }
}

struct MemFile {
    disk: MemDisk,
    contents: Arc<Mutex<Contents>>,
}

impl DiskFile for MemFile {
    fn len(&self) -> io::Result<u64> {
        Ok(lock(&self.contents).seen.len() as u64)
    }

    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let contents = lock(&self.contents);
        let rest = usize::try_from(at).ok().and_then(|at| contents.seen.get(at..)).unwrap_or_default();
        let n = rest.len().min(buf.len());
        buf[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }

    fn write_at(&self, buf: &[u8], at: u64) -> io::Result<()> {
        if buf.is_empty() {
            return Ok(());
        }
        let _image_is_of_one_moment = lock(&self.disk.state);
        let mut contents = lock(&self.contents);
        let from = usize::try_from(at).map_err(io::Error::other)?;
        let to = from + buf.len();
        if contents.seen.len() < to {
            contents.seen.resize(to, 0);
        }
        contents.seen[from..to].copy_from_slice(buf);
        contents.unsynced.extend(from / SECTOR..=(to - 1) / SECTOR);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let (hook, delay, fails) = {
            let mut state = lock(&self.disk.state);
            state.syncs += 1;
            let fails = match &mut state.syncs_until_failure {
                Some(0) => true,
                Some(n) => {
                    *n -= 1;
                    false
                }
                None => false,
            };
            (state.on_sync.clone(), state.sync_delay, fails)
        };
        if let Some(hook) = hook {
            hook(&self.disk);
        }
        if !delay.is_zero() {
            std::thread::sleep(delay);
        }
        let _image_is_of_one_moment = lock(&self.disk.state);
        let mut contents = lock(&self.contents);
        let unsynced = std::mem::take(&mut contents.unsynced);
        if fails {
            // As Linux does: the pages are marked clean although they never reached the disk.
            return Err(io::Error::other("the disk in memory was told to fail this sync"));
        }
        for sector in unsynced {
            contents.settle(sector);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_keeps_what_was_synced_and_chooses_sectors_of_the_rest() {
        let disk = MemDisk::new();
        let file = disk.create("f", 64 * SECTOR as u64).unwrap();
        file.write_at(&[1; 10], 0).unwrap();
        file.sync_data().unwrap();
        file.write_at(&vec![2; 63 * SECTOR], SECTOR as u64).unwrap();
        let all_lost = disk.crash_losing_all().contents("f").unwrap();
        assert_eq!(&all_lost[..12], &[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0]);
        assert!(all_lost[SECTOR..].iter().all(|byte| *byte == 0));
        let some = disk.crash(7).contents("f").unwrap();
        let kept = some[SECTOR..].chunks(SECTOR).filter(|sector| sector[0] == 2).count();
        assert!((1..63).contains(&kept), "{kept} of 63 unsynced sectors were kept");
        assert_eq!(some, disk.crash(7).contents("f").unwrap(), "the same seed gives the same image");
        assert_eq!(disk.killed().contents("f").unwrap(), disk.contents("f").unwrap());
    }

    #[test]
    fn a_failed_sync_reads_well_and_is_lost_in_the_next_crash() {
        let disk = MemDisk::new();
        let file = disk.create("f", 512).unwrap();
        disk.fail_sync_after(0);
        file.write_at(b"x", 0).unwrap();
        assert!(file.sync_data().is_err());
        assert_eq!(disk.contents("f").unwrap()[0], b'x');
        assert_eq!(disk.killed().contents("f").unwrap()[0], 0);
    }

    #[test]
    fn space_runs_out_at_the_capacity_and_returns_when_a_file_goes() {
        let disk = MemDisk::new();
        disk.set_capacity(1000);
        disk.create("a", 600).unwrap();
        assert_eq!(disk.create("b", 600).err().unwrap().kind(), io::ErrorKind::StorageFull);
        assert_eq!(disk.free_bytes().unwrap(), 400);
        disk.remove("a").unwrap();
        disk.create("b", 600).unwrap();
    }
}
