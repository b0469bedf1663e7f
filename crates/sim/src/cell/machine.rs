//! What outlives a process: the drives of a server, which directory of them it is, and a wall clock that errs.

use skein_model::{HostId, StoreId};
use skein_storage::drives::MemDrives;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// 2026-01-01, in microseconds: when every run begins.
pub const EPOCH_MICROS: u64 = 1_767_225_600_000_000;

/// How long a sync takes on a disk without fault.
const SYNC_MICROS: u64 = 300;

/// One wall clock. It is right but for an offset and a drift, and it may jump.
#[derive(Clone)]
pub struct Clock {
    /// True time since the run began, µs; all clocks of a run share it.
    now: Arc<AtomicU64>,
    offset: Arc<AtomicI64>,
    /// Parts in a million.
    drift: Arc<AtomicI64>,
}

impl Clock {
    /// A clock that is right, by this true time.
    pub fn new(now: Arc<AtomicU64>) -> Clock {
        Clock { now, offset: Arc::default(), drift: Arc::default() }
    }

    /// What it shows: microseconds since 1970.
    pub fn read(&self) -> u64 {
        let now = self.now.load(Ordering::Relaxed);
        let drifted = (now as i64).saturating_mul(self.drift.load(Ordering::Relaxed)) / 1_000_000;
        let wrong = self.offset.load(Ordering::Relaxed).saturating_add(drifted);
        (EPOCH_MICROS + now).saturating_add_signed(wrong)
    }

    /// Moves it by so many microseconds.
    pub fn jump(&self, micros: i64) {
        self.offset.fetch_add(micros, Ordering::Relaxed);
    }

    /// From now on it gains this many parts in a million, without a jump.
    pub fn set_drift(&self, parts: i64) {
        let before = self.drift.swap(parts, Ordering::Relaxed);
        let now = self.now.load(Ordering::Relaxed) as i64;
        self.jump(now.saturating_mul(before - parts) / 1_000_000);
    }
}

/// How long a sync takes, µs; a fault may change it at any time.
#[derive(Clone, Debug)]
pub struct SyncMicros(Arc<AtomicU64>);

impl SyncMicros {
    /// A disk that takes this long.
    pub fn new(micros: u64) -> SyncMicros {
        SyncMicros(Arc::new(AtomicU64::new(micros)))
    }

    /// How long.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Makes it faster or slower.
    pub fn set(&self, micros: u64) {
        self.0.store(micros, Ordering::Relaxed);
    }
}

/// One server. Clones share its clock and disk, until it is crashed.
#[derive(Clone)]
pub struct Machine {
    /// Its place among the machines, and the number of its host name.
    pub index: usize,
    /// Its ID.
    pub host: HostId,
    /// Its directory's ID.
    pub store: StoreId,
    /// What it keeps.
    pub drives: MemDrives,
    /// Its wall clock.
    pub clock: Clock,
    /// How slow its disk is.
    pub sync: SyncMicros,
    /// How many lives its process had.
    pub lives: u64,
}

impl Machine {
    /// A new server with empty drives.
    pub fn new(index: usize, now: Arc<AtomicU64>) -> Machine {
        let host = HostId(index as u64 + 1);
        Machine {
            index,
            host,
            store: StoreId(host.0 << 8 | 1),
            drives: MemDrives::new(),
            clock: Clock::new(now),
            sync: SyncMicros::new(SYNC_MICROS),
            lives: 0,
        }
    }

    /// Its name on the network.
    pub fn name(index: usize) -> String {
        format!("peer-{index}")
    }

    /// Its disk is as fast as it should be.
    pub fn fast(&self) {
        self.sync.set(SYNC_MICROS);
    }

    /// Its drive has no room for new files, nor for more rows.
    pub fn fill(&self) {
        self.drives.log().set_capacity(0);
    }

    /// Its drive has room.
    pub fn free(&self) {
        self.drives.log().set_capacity(u64::MAX);
    }

    /// Loses what was not synced, as `seed` says.
    pub fn lose_power(&mut self, seed: u64) {
        self.drives = self.drives.crash(seed);
    }

    /// Loses its process.
    pub fn be_killed(&mut self) {
        self.drives = self.drives.killed();
    }

    /// Loses its disk. The new one is empty and has another ID.
    pub fn be_wiped(&mut self) {
        self.drives = MemDrives::new();
        self.store = StoreId(self.store.0 + 1);
    }
}
