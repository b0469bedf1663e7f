//! Replicas on machines in memory that crash and start again.

use crate::network::{Network, Random};
use skein_cohort::group::{Reconcile, Timing};
use skein_cohort::peers::Replica;
use skein_cohort::{Cohort, CohortError, CohortOptions};
use skein_model::{GroupId, HostId, StoreId};
use skein_storage::drives::{Drives, MemDrives};
use skein_storage::log::{Log, LogOptions};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// 2026-01-01, in microseconds.
pub const EPOCH: u64 = 1_767_225_600_000_000;

/// Runs a story on one thread and a clock that leaps to whatever is next.
pub fn on_runtime<T>(story: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true).build().unwrap().block_on(story)
}

/// The seeds of a story: as many as `SKEIN_SEEDS` says, or `default`.
pub fn seeds(default: u64) -> std::ops::Range<u64> {
    let count = std::env::var("SKEIN_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(default);
    1..count + 1
}

pub fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

pub async fn pause(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

pub fn replica(number: u64) -> Replica {
    Replica { store: StoreId(number), host: HostId(100 + number) }
}

struct Machine {
    drives: MemDrives,
    /// Microseconds that its wall clock is off by.
    skew: Arc<AtomicI64>,
    pump: Option<JoinHandle<()>>,
}

/// Clones share it.
#[derive(Clone)]
pub struct World {
    pub network: Network,
    pub random: Arc<Mutex<Random>>,
    machines: Arc<Mutex<BTreeMap<u64, Machine>>>,
    wanted: Arc<Mutex<BTreeSet<Replica>>>,
    /// The first so many machines begin the cohort.
    founders: u64,
    start: Instant,
    runs: Arc<AtomicU64>,
    /// Counts calls and answers.
    moments: Arc<AtomicU64>,
}

impl World {
    /// So many machines; the first `members` of them are the cohort.
    pub async fn new(seed: u64, machines: u64, members: u64) -> World {
        let world = World {
            network: Network::new(seed ^ 0x55),
            random: Arc::new(Mutex::new(Random(seed))),
            machines: Arc::default(),
            wanted: Arc::new(Mutex::new((1..=members).map(replica).collect())),
            founders: members,
            start: Instant::now(),
            runs: Arc::new(AtomicU64::new(seed << 20)),
            moments: Arc::default(),
        };
        for number in 1..=machines {
            let skew = world.below(400_000) as i64 - 200_000;
            let machine =
                Machine { drives: MemDrives::new(), skew: Arc::new(AtomicI64::new(skew)), pump: None };
            world.machines.lock().unwrap().insert(number, machine);
            world.boot(number).await;
        }
        for number in 1..=members {
            let founders = (1..=members).map(replica).collect();
            world.cohort(number).unwrap().initialise(&founders).await.unwrap();
        }
        world
    }

    pub fn below(&self, n: u64) -> u64 {
        self.random.lock().unwrap().below(n)
    }

    pub fn moment(&self) -> u64 {
        self.moments.fetch_add(1, Ordering::SeqCst)
    }

    pub fn machines(&self) -> u64 {
        self.machines.lock().unwrap().len() as u64
    }

    pub fn cohort(&self, number: u64) -> Option<Cohort> {
        self.network.get(StoreId(number))
    }

    pub fn wanted(&self) -> BTreeSet<Replica> {
        self.wanted.lock().unwrap().clone()
    }

    pub fn want(&self, wanted: BTreeSet<Replica>) {
        *self.wanted.lock().unwrap() = wanted;
    }

    pub fn shift_wall(&self, number: u64, micros: i64) {
        self.machines.lock().unwrap()[&number].skew.store(micros, Ordering::SeqCst);
    }

    /// Starts the replica on what its machine holds.
    pub async fn boot(&self, number: u64) {
        if self.cohort(number).is_some() {
            return;
        }
        let (drives, skew) = {
            let machines = self.machines.lock().unwrap();
            (machines[&number].drives.clone(), machines[&number].skew.clone())
        };
        let options =
            LogOptions { segment_bytes: 64 << 10, cache_bytes: 8 << 10, idle_mark: Duration::from_secs(600) };
        let (log, pump) = Log::open_pumped(drives.log_disk(), options).unwrap();
        let work = Arc::new(Notify::new());
        let bell = work.clone();
        pump.on_work(move || bell.notify_one());
        let world = self.clone();
        let pump = tokio::spawn(async move {
            loop {
                work.notified().await;
                while pump.write() {
                    let micros = 200 + world.below(2_000);
                    tokio::time::sleep(Duration::from_micros(micros)).await;
                    pump.sync();
                }
            }
        });
        let start = self.start;
        let wall = move || {
            let now = EPOCH + start.elapsed().as_micros() as u64;
            now.saturating_add_signed(skew.load(Ordering::SeqCst))
        };
        let options = CohortOptions {
            group: GroupId::FIRST,
            me: replica(number),
            founder: number <= self.founders,
            log: log.group(1),
            drives: Arc::new(drives),
            peers: self.network.as_seen_by(replica(number)),
            timing: Timing::default(),
            throttle: None,
            beats_from: Instant::now(),
            suspend_clock: None,
            run: self.runs.fetch_add(1, Ordering::SeqCst),
            wall: Arc::new(wall),
            room: Arc::new(|| Ok(())),
            entries_in_flight_max: 3,
            pipeline_from: 1,
            waiting_max: 1000,
            checkpoint_log_bytes: 16 << 10,
        };
        let cohort = Cohort::open(options).await.unwrap();
        self.machines.lock().unwrap().get_mut(&number).unwrap().pump = Some(pump);
        self.network.put(StoreId(number), Some(cohort));
    }

    /// Takes the machine's power away: what was not synced is kept or lost as luck has it.
    pub fn crash(&self, number: u64) {
        let seed = self.random.lock().unwrap().next();
        self.network.put(StoreId(number), None);
        let mut machines = self.machines.lock().unwrap();
        let machine = machines.get_mut(&number).unwrap();
        if let Some(pump) = machine.pump.take() {
            pump.abort();
        }
        machine.drives = machine.drives.crash(seed);
    }

    /// The replica that says it leads the latest term.
    pub fn leader(&self) -> Option<u64> {
        let leads = |number: u64| {
            let role = *self.cohort(number)?.leader().borrow();
            role.leading.then_some((role.term, number))
        };
        (1..=self.machines()).filter_map(leads).max().map(|(_, number)| number)
    }

    pub async fn wait_for_leader(&self) -> u64 {
        for _ in 0..2_000 {
            if let Some(leader) = self.leader() {
                return leader;
            }
            pause(10).await;
        }
        panic!("nobody leads");
    }

    /// Cuts a machine off from all others, both ways or only one.
    pub fn isolate(&self, number: u64, hears: bool) {
        for other in (1..=self.machines()).filter(|other| *other != number) {
            self.network.cut(StoreId(number), StoreId(other));
            if !hears {
                self.network.cut(StoreId(other), StoreId(number));
            }
        }
    }

    /// One step towards the wanted members, by whoever leads.
    pub async fn reconcile(&self) -> Option<Result<Reconcile, CohortError>> {
        let leader = self.cohort(self.leader()?)?;
        Some(leader.reconcile(&self.wanted()).await)
    }

    /// Heals everything, waits until the members are the wanted ones and have applied the same, and compares them.
    pub async fn settle(&self, what: &str) {
        self.network.heal();
        for number in 1..=self.machines() {
            self.boot(number).await;
        }
        let mut last = None;
        for _ in 0..1_000 {
            pause(100).await;
            last = self.reconcile().await;
            if !matches!(last, Some(Ok(Reconcile::Done))) {
                continue;
            }
            let members: Vec<Cohort> =
                self.wanted().iter().map(|member| self.cohort(member.store.0).unwrap()).collect();
            let ends: BTreeSet<(u64, u64)> =
                members.iter().map(|m| m.status()).map(|s| (s.log_end, s.applied_end)).collect();
            if ends.len() == 1 && ends.iter().all(|(log, applied)| log == applied) {
                let first = members[0].digest().await.unwrap();
                for member in &members[1..] {
                    assert_eq!(member.digest().await.unwrap(), first, "{what}: replicas differ");
                }
                return;
            }
        }
        let members: Vec<_> =
            (1..=self.machines()).filter_map(|n| self.cohort(n)).map(|c| (c.status(), c.failure())).collect();
        panic!("{what}: did not settle: {last:?}: {members:#?}");
    }
}
