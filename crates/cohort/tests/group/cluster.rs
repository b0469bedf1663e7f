//! Replicas that can be started, killed and waited for, and what has to be true of them at all times.
//!
//! Time is virtual: it stands still while anybody has something to do, the disks included, and leaps to whatever is next. So how
//! busy the machine is decides nothing.

use crate::machine::{ListMachine, Store};
use crate::net::Net;
use bytes::Bytes;
use skein_cohort::group::{Fate, Group, GroupOptions, Timing};
use skein_cohort::peers::Replica;
use skein_model::{GroupId, HostId, LifeId, StoreId};
use skein_storage::disk::MemDisk;
use skein_storage::log::{Log, LogOptions};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

pub const GROUP: GroupId = GroupId(1);
const STEP: Duration = Duration::from_millis(5);

/// Random numbers from one seed (SplitMix64).
#[derive(Default, Clone)]
pub struct Luck(u64);

impl Luck {
    pub fn new(seed: u64) -> Luck {
        Luck(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// What outlives a process.
struct Host {
    replica: Replica,
    life: LifeId,
    disk: MemDisk,
    store: Store,
    running: Option<Running>,
}

/// A process.
struct Running {
    group: Group<ListMachine>,
    /// Writes and syncs the log.
    pump: JoinHandle<()>,
}

/// What became of proposals.
#[derive(Default)]
pub struct Fates {
    pub applied: BTreeSet<u64>,
    pub refused: BTreeSet<u64>,
    pub unknown: BTreeSet<u64>,
}

pub struct Cluster {
    pub net: Net,
    pub luck: Luck,
    hosts: BTreeMap<HostId, Host>,
    pub fates: Arc<Mutex<Fates>>,
    next_command: u64,
    stores: u64,
    pub checkpoint_log_bytes: u64,
    /// In each term, who was seen to lead.
    led: BTreeMap<u64, StoreId>,
}

/// Runs a story in virtual time, on one thread.
pub fn story<F: Future<Output = ()>>(tell: impl FnOnce() -> F) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(tell());
}

/// How many seeds a seeded story is told with.
pub fn seeds(few: u64) -> std::ops::Range<u64> {
    let count = std::env::var("SKEIN_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(few);
    0..count
}

impl Cluster {
    /// These hosts, running, with no members yet.
    pub async fn of(hosts: u64, seed: u64) -> Cluster {
        let mut cluster = Cluster {
            net: Net::new(seed),
            luck: Luck::new(seed ^ 0xC0FFEE),
            hosts: BTreeMap::new(),
            fates: Arc::default(),
            next_command: 0,
            stores: 100,
            checkpoint_log_bytes: 64 << 20,
            led: BTreeMap::new(),
        };
        for host in 1..=hosts {
            cluster.add(HostId(host)).await;
        }
        cluster
    }

    /// These hosts, all of them voters, with a leader.
    pub async fn founded(hosts: u64, seed: u64) -> Cluster {
        let mut cluster = Cluster::of(hosts, seed).await;
        let all = cluster.replicas(1..=hosts);
        for replica in &all {
            cluster.group(replica.host).initialise(&all).await.unwrap();
        }
        cluster.leader().await;
        cluster
    }

    /// A host with an empty disk.
    pub async fn add(&mut self, host: HostId) {
        self.stores += 1;
        let replica = Replica { store: StoreId(self.stores), host };
        let (disk, store) = (MemDisk::new(), Store::default());
        let life = LifeId::founding(replica.store);
        self.hosts.insert(host, Host { replica, life, disk, store, running: None });
        self.start(host).await;
    }

    pub async fn start(&mut self, host: HostId) {
        let seed = self.luck.next();
        let it = self.hosts.get_mut(&host).unwrap();
        let options = LogOptions { segment_bytes: 1 << 20, ..LogOptions::default() };
        let (log, pump) = Log::open_pumped(Arc::new(it.disk.clone()), options).unwrap();
        let work = Arc::new(Notify::new());
        let bell = work.clone();
        pump.on_work(move || bell.notify_one());
        let mut luck = Luck::new(seed);
        let pump = tokio::spawn(async move {
            loop {
                work.notified().await;
                while pump.write() {
                    tokio::time::sleep(Duration::from_micros(200 + luck.below(2000))).await;
                    pump.sync();
                }
            }
        });
        let machine = Arc::new(ListMachine::open(it.store.clone()));
        let options = GroupOptions {
            me: it.replica,
            life: it.life,
            group: GROUP,
            peers: self.net.end_of(it.replica),
            timing: Timing::default(),
            seed,
            checkpoint_log_bytes: self.checkpoint_log_bytes,
            throttle: None,
            beats_from: tokio::time::Instant::now(),
            suspend_clock: None,
            on_failure: Arc::new(|_| {}),
        };
        let group = Group::open(log.group(GROUP.0), machine, options).await.unwrap();
        self.net.plug_in(it.replica, group.clone());
        it.running = Some(Running { group, pump });
    }

    /// The process dies; what was not synced is lost.
    pub async fn kill(&mut self, host: HostId) {
        let seed = self.luck.next();
        let it = self.hosts.get_mut(&host).unwrap();
        let Running { group, pump } = it.running.take().unwrap();
        self.net.unplug(it.replica);
        it.disk = it.disk.crash(seed);
        // What it still writes goes to a disk that nobody looks at any more.
        group.close().await;
        pump.abort();
    }

    /// The process dies and the disk is lost; the host comes back as another replica.
    pub async fn wipe(&mut self, host: HostId) {
        self.kill(host).await;
        self.add(host).await;
    }

    /// The replica is deleted, and another one begins in its directory.
    pub async fn begin_again(&mut self, host: HostId) {
        self.kill(host).await;
        let life = LifeId(self.luck.next());
        let it = self.hosts.get_mut(&host).unwrap();
        (it.life, it.disk, it.store) = (life, MemDisk::new(), Store::default());
        self.start(host).await;
    }

    pub fn replica(&self, host: u64) -> Replica {
        self.hosts[&HostId(host)].replica
    }

    pub fn replicas(&self, hosts: impl IntoIterator<Item = u64>) -> BTreeSet<Replica> {
        hosts.into_iter().map(|host| self.replica(host)).collect()
    }

    pub fn group(&self, host: HostId) -> &Group<ListMachine> {
        &self.hosts[&host].running.as_ref().unwrap().group
    }

    pub fn is_up(&self, host: HostId) -> bool {
        self.hosts[&host].running.is_some()
    }

    pub fn up(&self) -> Vec<HostId> {
        self.hosts.keys().copied().filter(|host| self.is_up(*host)).collect()
    }

    /// Virtual time goes on by one step.
    pub async fn step(&mut self) {
        tokio::time::sleep(STEP).await;
        self.check();
    }

    /// At most one replica may answer reads by itself, and each term has one leader.
    fn check(&mut self) {
        let mut holders = Vec::new();
        for host in self.up() {
            let group = self.group(host).clone();
            let role = *group.role().borrow();
            if role.leading {
                let leader = self.led.entry(role.term).or_insert(group.me().store);
                assert_eq!(*leader, group.me().store, "term {} has two leaders", role.term);
                if group.lease_valid(role.term) {
                    holders.push(host);
                }
            }
        }
        assert!(holders.len() <= 1, "two leases at once: {holders:?}");
    }

    pub async fn run(&mut self, time: Duration) {
        for _ in 0..time.as_millis() / STEP.as_millis() {
            self.step().await;
        }
    }

    /// Goes on until it is so; returns how long that took in virtual time.
    pub async fn until(&mut self, what: &str, mut so: impl FnMut(&Cluster) -> bool) -> Duration {
        let mut waited = Duration::ZERO;
        while !so(self) {
            self.step().await;
            waited += STEP;
            if Duration::from_secs(60) < waited {
                for host in self.up() {
                    eprintln!("{:?}", self.group(host).status());
                }
                panic!("waited a minute until {what}");
            }
        }
        waited
    }

    /// Carries out something of which time has to go on for.
    pub async fn while_stepping<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = self.step() => {}
            }
        }
    }

    fn leader_now(&self) -> Option<HostId> {
        self.up().into_iter().find(|host| {
            let group = self.group(*host);
            let role = *group.role().borrow();
            role.leading && group.lease_valid(role.term)
        })
    }

    /// Waits for a leader with a lease.
    pub async fn leader(&mut self) -> HostId {
        self.until("somebody leads", |cluster| cluster.leader_now().is_some()).await;
        self.leader_now().unwrap()
    }

    /// Proposes a command to a replica that believes it leads, if it does; it is told later what came of it.
    pub async fn propose_to(&mut self, host: HostId) -> u64 {
        let command = self.next_command;
        self.next_command += 1;
        let fates = self.fates.clone();
        let group = self.group(host).clone();
        let term = group.role().borrow().term;
        let bytes = Bytes::copy_from_slice(&command.to_be_bytes());
        group
            .propose(bytes, term, move |fate| {
                let mut fates = fates.lock().unwrap();
                match fate {
                    Fate::Applied { .. } => fates.applied.insert(command),
                    Fate::NotWritten { .. } => fates.refused.insert(command),
                    Fate::Unknown { .. } => fates.unknown.insert(command),
                };
            })
            .await;
        command
    }

    /// Proposes to whoever leads, and waits until so many commands are applied.
    pub async fn write(&mut self, commands: usize) {
        let host = self.leader().await;
        let mut wanted = BTreeSet::new();
        for _ in 0..commands {
            wanted.insert(self.propose_to(host).await);
        }
        let fates = self.fates.clone();
        self.until("the commands are applied", |_| wanted.is_subset(&fates.lock().unwrap().applied)).await;
    }

    /// Waits until these have applied the same, and checks that it is what the clients were told.
    pub async fn converge(&mut self, hosts: &[HostId]) {
        self.leader().await;
        self.write(1).await;
        self.until("all have applied the same", |cluster| {
            let mut ends = hosts.iter().map(|host| cluster.group(*host).machine().position());
            let first = ends.next().unwrap();
            ends.all(|end| end == first)
        })
        .await;
        let first = self.group(hosts[0]).machine().state().applied;
        for host in hosts {
            assert!(self.group(*host).machine().state().applied == first, "{host} differs");
        }
        let present: Vec<u64> =
            first.iter().map(|(_, _, c)| u64::from_be_bytes(c[..].try_into().unwrap())).collect();
        let set: BTreeSet<u64> = present.iter().copied().collect();
        assert_eq!(set.len(), present.len(), "a command was applied twice");
        let fates = self.fates.lock().unwrap();
        let lost: Vec<_> = fates.applied.difference(&set).collect();
        assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
        let ghosts: Vec<_> = fates.refused.intersection(&set).collect();
        assert!(ghosts.is_empty(), "said not to be written, and is there: {ghosts:?}");
    }

    /// Asks whoever leads, again and again, until the members are these.
    pub async fn reconcile(&mut self, hosts: impl IntoIterator<Item = u64>) {
        let wanted = self.replicas(hosts);
        for _ in 0..200 {
            if self.reconcile_once(&wanted).await {
                return;
            }
            self.run(Duration::from_millis(100)).await;
        }
        panic!("the members were not brought to {wanted:?}");
    }

    /// One question to whoever leads; whether the members are these.
    pub async fn reconcile_once(&mut self, wanted: &BTreeSet<Replica>) -> bool {
        let host = self.leader().await;
        let group = self.group(host).clone();
        let wanted = wanted.clone();
        let step = self.while_stepping(async move { group.reconcile(&wanted).await }).await;
        step == Ok(skein_cohort::group::Reconcile::Done)
    }

    pub async fn stop(mut self) {
        for host in self.up() {
            self.kill(host).await;
        }
    }
}
