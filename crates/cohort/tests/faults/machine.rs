//! A machine in memory: a disk for the log, an engine for the rows, a wall clock; and how to start a cohort on it.

use crate::journal::Journal;
use bytes::Bytes;
use skein_cohort::group::Timing;
use skein_cohort::peers::{NoPeers, Replica};
use skein_cohort::{Cohort, CohortError, CohortOptions};
use skein_model::{
    ContentType, GroupId, HostId, LifeId, RowOp, StoreId, TableId, Transaction, TxId, Value, WriteOp,
};
use skein_storage::disk::{Disk, MemDisk};
use skein_storage::drives::{Drives, DrivesError, Life};
use skein_storage::engine::{Engine, EngineStats, MemEngine};
use skein_storage::log::{Log, LogOptions};
use std::collections::BTreeSet;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;
use tokio::time::Instant;

/// 2026-01-01, in microseconds.
pub const EPOCH: u64 = 1_767_225_600_000_000;
pub const SECOND: u64 = 1_000_000;
pub const HOUR: u64 = 3_600 * SECOND;
pub const DAY: u64 = 24 * HOUR;

/// The only member.
const ME: Replica = Replica { store: StoreId(1), host: HostId(1) };

/// The table that all stories happen in.
pub const TABLE: TableId = TableId(7);

/// SplitMix64, so that a failing seed fails again.
#[derive(Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// The seeds of a story: as many as `SKEIN_SEEDS` says, or `default`.
pub fn seeds(default: u64) -> std::ops::Range<u64> {
    let count = std::env::var("SKEIN_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(default);
    1..count + 1
}

/// Runs a story on one thread; every task of it is gone when this returns, as if the process had been killed.
pub fn on_runtime<T>(story: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(story)
}

/// Far enough not to matter.
pub fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

pub fn after_millis(millis: u64) -> Instant {
    Instant::now() + Duration::from_millis(millis)
}

/// What outlives a process.
#[derive(Clone)]
pub struct Machine {
    pub disk: MemDisk,
    pub engine: Arc<MemEngine>,
    pub wall: Arc<AtomicU64>,
    /// Whether the cohort is told that the drive has no room.
    pub no_room: Arc<AtomicBool>,
    pub segment_bytes: u64,
    pub checkpoint_log_bytes: u64,
}

/// Differs from start to start, as the random number does that a cell draws.
static RUNS: AtomicU64 = AtomicU64::new(1);

impl Machine {
    pub fn new() -> Machine {
        Machine::of(MemDisk::new(), MemEngine::new(), EPOCH)
    }

    /// A machine found with these on it.
    pub fn of(disk: MemDisk, engine: MemEngine, wall: u64) -> Machine {
        Machine {
            disk,
            engine: Arc::new(engine),
            wall: Arc::new(AtomicU64::new(wall)),
            no_room: Arc::default(),
            segment_bytes: 64 << 10,
            checkpoint_log_bytes: u64::MAX,
        }
    }

    pub fn set_wall(&self, wall: u64) {
        self.wall.store(wall, Ordering::SeqCst);
    }

    pub fn advance(&self, micros: u64) {
        self.wall.fetch_add(micros, Ordering::SeqCst);
    }

    /// The same machine after losing power now: unsynced sectors and the engine's unflushed rows survive or not
    /// as `seed` says.
    pub fn crashed(&self, seed: u64) -> Machine {
        let mut random = Random(seed);
        // Were a checkpoint to end between the two images, the disk's could have purged what the engine's lacks.
        let (engine, disk) = loop {
            let before = self.engine.durable_position();
            let flushed = if random.one_in(2) { 0 } else { random.below(5) as usize };
            let engine = self.engine.crash_in_checkpoint(flushed);
            let disk = match random.below(4) {
                0 => self.disk.crash_losing_all(),
                1 => self.disk.killed(),
                _ => self.disk.crash(random.next()),
            };
            if self.engine.durable_position() == before {
                break (engine, disk);
            }
        };
        Machine {
            disk,
            engine: Arc::new(engine),
            wall: Arc::new(AtomicU64::new(self.wall.load(Ordering::SeqCst))),
            no_room: Arc::default(),
            ..*self
        }
    }

    pub fn open_log(&self) -> Log {
        let options = LogOptions {
            segment_bytes: self.segment_bytes,
            cache_bytes: 4 << 10,
            idle_mark: Duration::from_secs(600),
        };
        Log::open(Arc::new(self.disk.clone()), options).unwrap()
    }

    /// As [`Machine::crashed`], and nothing that was not synced survived.
    pub fn crashed_losing_all(&self) -> Machine {
        Machine {
            disk: self.disk.crash_losing_all(),
            engine: Arc::new(self.engine.crash()),
            ..self.crashed(0)
        }
    }

    /// Makes the next syncs wait until they are released.
    pub fn hold_syncs(&self) -> HeldSyncs {
        let held = HeldSyncs::default();
        let gate = held.clone();
        self.disk.on_sync(move |_| {
            gate.reached.fetch_add(1, Ordering::SeqCst);
            let (released, changed) = &*gate.gate;
            let guard = released.lock().unwrap();
            drop(changed.wait_while(guard, |released| !*released).unwrap());
        });
        held
    }

    /// Starts a cohort on what is here.
    pub async fn start(&self) -> Cohort {
        self.try_start_with(self.open_log()).await.unwrap()
    }

    pub async fn try_start_with(&self, log: Log) -> Result<Cohort, CohortError> {
        let (wall, no_room) = (self.wall.clone(), self.no_room.clone());
        let options = CohortOptions {
            group: GroupId::FIRST,
            me: ME,
            founder: true,
            log: log.group(1),
            drives: Arc::new(OneStore(self.clone())),
            peers: Arc::new(NoPeers),
            timing: Timing::default(),
            throttle: None,
            beats_from: Instant::now(),
            suspend_clock: None,
            run: RUNS.fetch_add(1, Ordering::Relaxed),
            wall: Arc::new(move || wall.load(Ordering::SeqCst)),
            room: Arc::new(move || match no_room.load(Ordering::SeqCst) {
                true => Err("the test says so".to_owned()),
                false => Ok(()),
            }),
            entries_in_flight_max: 2,
            pipeline_from: 1,
            waiting_max: 1000,
            checkpoint_log_bytes: self.checkpoint_log_bytes,
        };
        let cohort = Cohort::open(options).await?;
        cohort.initialise(&BTreeSet::from([ME])).await?;
        cohort.leads().await?;
        Ok(cohort)
    }

    /// Keeps, at every sync of the log's disk from now on, what a crash at that moment leaves, and how many events
    /// the journal had just before.
    pub fn keep_crashes(&self, seed: u64, journal: &Journal) -> Crashes {
        let crashes = Crashes::default();
        let (kept, machine, journal) = (crashes.clone(), self.clone(), journal.clone());
        let count = AtomicU64::new(0);
        self.disk.on_sync(move |_| {
            let number = count.fetch_add(1, Ordering::SeqCst);
            let seen = journal.len();
            let crashed = machine.crashed(seed.wrapping_mul(1_000_003).wrapping_add(number));
            kept.images.lock().unwrap().push((crashed, seen));
        });
        crashes
    }
}

/// The drives of a machine with one store, which nobody replaces.
struct OneStore(Machine);

impl Drives for OneStore {
    fn log_disk(&self) -> Arc<dyn Disk> {
        Arc::new(self.0.disk.clone())
    }

    fn small_files(&self) -> Arc<dyn Disk> {
        self.log_disk()
    }

    fn groups(&self) -> Result<Vec<GroupId>, DrivesError> {
        Ok(vec![GroupId::FIRST])
    }

    fn open(&self, _group: GroupId) -> Result<Arc<dyn Engine>, DrivesError> {
        Ok(self.0.engine.clone())
    }

    fn stage(&self, group: GroupId) -> Result<Arc<dyn Engine>, DrivesError> {
        Err(DrivesError::NotStaged { group })
    }

    fn promote(&self, group: GroupId) -> Result<(), DrivesError> {
        Err(DrivesError::NotStaged { group })
    }

    fn life(&self, _group: GroupId) -> Result<Option<Life>, DrivesError> {
        Ok(Some(Life::Lives(LifeId::founding(ME.store))))
    }

    fn begin_life(&self, group: GroupId, _life: LifeId) -> Result<(), DrivesError> {
        Err(DrivesError::NotStaged { group })
    }

    fn end_life(&self, group: GroupId) -> Result<(), DrivesError> {
        Err(DrivesError::NotStaged { group })
    }

    fn remove(&self, group: GroupId) -> Result<(), DrivesError> {
        Err(DrivesError::NotStaged { group })
    }

    fn stats(&self) -> EngineStats {
        self.0.engine.stats()
    }

    fn free_bytes(&self) -> std::io::Result<u64> {
        Ok(u64::MAX)
    }
}

/// What [`Machine::keep_crashes`] keeps.
#[derive(Clone, Default)]
pub struct Crashes {
    images: Arc<Mutex<Vec<(Machine, usize)>>>,
}

impl Crashes {
    pub fn take(&self) -> Vec<(Machine, usize)> {
        std::mem::take(&mut *self.images.lock().unwrap())
    }
}

/// Syncs that wait; see [`Machine::hold_syncs`].
#[derive(Clone, Default)]
pub struct HeldSyncs {
    reached: Arc<AtomicU64>,
    gate: Arc<(Mutex<bool>, Condvar)>,
}

impl HeldSyncs {
    /// Returns once a sync waits.
    pub async fn reached(&self) {
        while self.reached.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Lets all syncs go on, now and later.
    pub fn release(&self) {
        *self.gate.0.lock().unwrap() = true;
        self.gate.1.notify_all();
    }
}

pub fn json(text: &str) -> Value {
    Value { content_type: ContentType::Json, bytes: Bytes::from(format!("\"{text}\"")) }
}

pub fn id(number: u64) -> TxId {
    TxId::from_be_bytes(&number.to_be_bytes())
}

pub fn op(key: &str, op: WriteOp) -> RowOp {
    RowOp { table: TABLE, key: Bytes::copy_from_slice(key.as_bytes()), op, expect: Vec::new() }
}

/// A transaction with a client-given ID and no condition.
pub fn tx(number: u64, ops: Vec<RowOp>) -> Transaction {
    Transaction { id: id(number), id_from_client: true, condition: None, ops }
}

/// Writes one row.
pub fn put(number: u64, key: &str, value: &str) -> Transaction {
    tx(number, vec![op(key, WriteOp::Update(json(value)))])
}
