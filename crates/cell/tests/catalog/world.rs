//! The peers, what is between them, and what they can be asked to do.

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use skein_cell::catalog::{Catalog, CatalogLink, CatalogOptions, CatalogState, LinkError};
use skein_cohort::group::{GroupOptions, Timing};
use skein_cohort::peers::{PeerError, Peers, Replica};
use skein_model::{Cohort, GroupId, HostId, StoreId};
use skein_storage::disk::MemDisk;
use skein_storage::log::{Log, LogOptions};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// One way over the network.
const DELAY: Duration = Duration::from_millis(1);

#[derive(Default)]
pub struct Net {
    up: Mutex<BTreeMap<HostId, (StoreId, Catalog)>>,
    /// From whom to whom nothing arrives.
    cut: Mutex<BTreeSet<(HostId, HostId)>>,
}

impl Net {
    fn up(&self) -> MutexGuard<'_, BTreeMap<HostId, (StoreId, Catalog)>> {
        self.up.lock().unwrap()
    }

    fn is_cut(&self, from: HostId, to: HostId) -> bool {
        self.cut.lock().unwrap().contains(&(from, to))
    }

    /// Whom a message arrives at, after a while; `None` if it is lost.
    async fn carry(&self, from: HostId, to: HostId) -> Option<(StoreId, Catalog)> {
        tokio::time::sleep(DELAY).await;
        if self.is_cut(from, to) { None } else { self.up().get(&to).cloned() }
    }

    pub fn cut_one_way(&self, from: u64, to: u64) {
        self.cut.lock().unwrap().insert((HostId(from), HostId(to)));
    }

    pub fn cut(&self, one: u64, others: &[u64]) {
        for other in others {
            self.cut_one_way(one, *other);
            self.cut_one_way(*other, one);
        }
    }

    pub fn heal(&self) {
        self.cut.lock().unwrap().clear();
    }
}

/// One peer's end of the network.
struct Wire {
    me: Replica,
    net: Arc<Net>,
}

impl CatalogLink for Wire {
    fn ask(
        &self,
        to: HostId,
        body: Bytes,
        deadline: Instant,
    ) -> BoxFuture<'static, Result<Bytes, LinkError>> {
        let (net, from) = (self.net.clone(), self.me.host);
        Box::pin(async move {
            let Some((_, catalog)) = net.carry(from, to).await else {
                return Err(LinkError::NotSent("the test cut it off".into()));
            };
            let answer = tokio::time::timeout_at(deadline, catalog.answer(from, body, deadline)).await;
            let answer = answer.map_err(|_| LinkError::NoAnswer("too late".into()))?;
            match net.carry(to, from).await {
                Some(_) => Ok(answer),
                None => Err(LinkError::NoAnswer("the test lost the answer".into())),
            }
        })
    }

    fn reachable(&self) -> Vec<HostId> {
        let up: Vec<HostId> = self.net.up().keys().copied().collect();
        up.into_iter().filter(|host| !self.net.is_cut(self.me.host, *host)).collect()
    }
}

impl Peers for Wire {
    fn call(
        &self,
        to: Replica,
        _group: GroupId,
        body: Bytes,
        deadline: Instant,
    ) -> BoxFuture<'static, Result<Bytes, PeerError>> {
        let (net, me) = (self.net.clone(), self.me);
        Box::pin(async move {
            let catalog = match net.carry(me.host, to.host).await {
                Some((store, catalog)) if store == to.store => catalog,
                Some(_) => return Err(PeerError::Refused("another directory".into())),
                None => return Err(PeerError::Unreachable("the test cut it off".into())),
            };
            let answer = tokio::time::timeout_at(deadline, catalog.receive(me, body)).await;
            let answer = answer.map_err(|_| PeerError::NoAnswer("too late".into()))?;
            let answer = answer.map_err(|error| PeerError::Refused(error.to_string()))?;
            match net.carry(to.host, me.host).await {
                Some(_) => Ok(answer),
                None => Err(PeerError::NoAnswer("the test lost the answer".into())),
            }
        })
    }

    fn fetch(
        &self,
        from: Replica,
        _group: GroupId,
        body: Bytes,
    ) -> BoxStream<'static, Result<Bytes, PeerError>> {
        let (net, me) = (self.net.clone(), self.me);
        let stream = async move {
            match net.carry(me.host, from.host).await {
                Some((_, catalog)) => catalog.serve(me, body),
                None => {
                    let error = PeerError::Unreachable("the test cut it off".into());
                    futures_util::stream::iter([Err(error)]).boxed()
                }
            }
        };
        futures_util::stream::once(stream).flatten().boxed()
    }
}

/// What stays of a peer that is down.
#[derive(Clone)]
pub struct Disks {
    pub files: MemDisk,
    pub log: MemDisk,
    pub store: StoreId,
}

struct Running {
    catalog: Catalog,
    disks: Disks,
    pump: JoinHandle<()>,
    gossip: JoinHandle<()>,
}

#[derive(Default)]
pub struct World {
    pub net: Arc<Net>,
    running: BTreeMap<u64, Running>,
    /// Luck must not begin anew in another life of a peer: its requests would have the names of earlier ones.
    lives: u64,
}

pub fn soon() -> Instant {
    within(20)
}

pub fn within(seconds: u64) -> Instant {
    Instant::now() + Duration::from_secs(seconds)
}

pub fn settled(hosts: &[u64]) -> Cohort {
    Cohort::Settled { hosts: hosts.iter().copied().map(HostId).collect() }
}

impl World {
    /// Fresh peers of these IDs; the directory of N is 100 + N.
    pub async fn of(hosts: &[u64]) -> World {
        let mut world = World::default();
        for host in hosts {
            world.start(*host, World::fresh(100 + host)).await;
        }
        world
    }

    /// Peers 1, 2, … of a founded cell whose only cohort is all of them.
    pub async fn founded(hosts: &[u64]) -> World {
        let world = World::of(hosts).await;
        world.at(hosts[0]).put_atlas(vec![settled(hosts)], None, soon()).await.unwrap();
        world
    }

    pub fn fresh(store: u64) -> Disks {
        Disks { files: MemDisk::new(), log: MemDisk::new(), store: StoreId(store) }
    }

    pub async fn start(&mut self, host: u64, disks: Disks) {
        let options = LogOptions { segment_bytes: 1 << 20, ..LogOptions::default() };
        let (log, pump) = Log::open_pumped(Arc::new(disks.log.clone()), options).unwrap();
        let work = Arc::new(Notify::new());
        let wake = work.clone();
        pump.on_work(move || wake.notify_one());
        let pump = tokio::spawn(async move {
            while !pump.has_ended() {
                work.notified().await;
                while pump.round() {}
            }
        });
        let me = Replica { store: disks.store, host: HostId(host) };
        let wire = Arc::new(Wire { me, net: self.net.clone() });
        self.lives += 1;
        let draws = AtomicU64::new(mix(self.lives));
        let options = CatalogOptions {
            files: Arc::new(disks.files.clone()),
            log: log.group(GroupId::CATALOG.0),
            group: group_options(me, wire.clone()),
            link: wire,
            luck: Arc::new(move || mix(draws.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed))),
        };
        let catalog = Catalog::open(options).await.unwrap();
        self.net.up().insert(HostId(host), (disks.store, catalog.clone()));
        let gossip = tokio::spawn(gossip(self.net.clone(), HostId(host), catalog.clone()));
        self.running.insert(host, Running { catalog, disks, pump, gossip });
    }

    pub fn at(&self, host: u64) -> &Catalog {
        &self.running[&host].catalog
    }

    pub fn is_up(&self, host: u64) -> bool {
        self.running.contains_key(&host)
    }

    pub fn state(&self, host: u64) -> Arc<CatalogState> {
        self.at(host).state().borrow().clone()
    }

    /// Ends a peer at once; `keep` says what its disks are then.
    async fn end(&mut self, host: u64, keep: impl FnOnce(&Disks) -> Disks) -> Disks {
        let running = self.running.remove(&host).unwrap();
        self.net.up().remove(&HostId(host));
        let disks = keep(&running.disks);
        running.gossip.abort();
        // What it still writes goes to disks that nobody looks at any more.
        running.catalog.close().await;
        running.pump.abort();
        disks
    }

    /// Power failure: what was not synced may be lost.
    pub async fn crash(&mut self, host: u64, seed: u64) -> Disks {
        let crashed = |disks: &Disks| Disks {
            files: disks.files.crash(seed),
            log: disks.log.crash(!seed),
            store: disks.store,
        };
        self.end(host, crashed).await
    }

    pub async fn restart(&mut self, host: u64, seed: u64) {
        let disks = self.crash(host, seed).await;
        self.start(host, disks).await;
    }

    /// Waits until a peer's state is so.
    pub async fn until(&self, host: u64, what: impl FnMut(&Arc<CatalogState>) -> bool) -> Arc<CatalogState> {
        let mut state = self.at(host).state();
        let seen = tokio::time::timeout(Duration::from_secs(30), state.wait_for(what)).await;
        seen.expect("in time").unwrap().clone()
    }
}

fn group_options(me: Replica, peers: Arc<dyn Peers>) -> GroupOptions {
    GroupOptions {
        me,
        life: skein_model::LifeId::founding(me.store),
        group: GroupId::CATALOG,
        peers,
        timing: Timing::default(),
        seed: me.store.0,
        checkpoint_log_bytes: 1 << 20,
        throttle: None,
        beats_from: Instant::now(),
        suspend_clock: None,
        on_failure: Arc::new(|_| {}),
    }
}

fn mix(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// What the flock does for the catalog: tells everybody of newer versions, and of who runs by which.
async fn gossip(net: Arc<Net>, me: HostId, catalog: Catalog) {
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let others: Vec<(HostId, Catalog)> = {
            let up = net.up();
            let near = |host: &HostId| !net.is_cut(*host, me);
            up.iter().filter(|(host, _)| near(host)).map(|(host, (_, c))| (*host, c.clone())).collect()
        };
        for (host, other) in others {
            let summary = other.summary();
            catalog.saw(host, summary.version);
            if catalog.summary().version < summary.version {
                // Tried again in a moment, and told by the catalog if it never works.
                let _ = catalog.catch_up(&summary, &[host], within(1)).await;
            }
        }
    }
}
