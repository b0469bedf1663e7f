//! What do groups that have nothing to do cost? Three peers in one process, on disks in memory, with a network that only hands
//! over: so this is the cost of the groups themselves, without sockets.
//!
//! `cargo run --release -p skein-cohort --example idle_groups -- [GROUPS] [SECONDS]`
// A tool for developers: it may stop at the first surprise.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use skein_cohort::group::{Group, GroupOptions, Timing};
use skein_cohort::machine::{Chunk, Entry, Machine, MachineError, Staging, View};
use skein_cohort::peers::{PeerError, Peers, Replica};
use skein_model::{GroupId, HostId, StoreId};
use skein_storage::disk::MemDisk;
use skein_storage::log::{Log, LogOptions};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

/// Keeps nothing but its place.
#[derive(Default)]
struct Nothing(Mutex<(u64, Option<Bytes>)>);

struct NoView;
struct NoStaging;

impl View for NoView {
    fn place(&self) -> Option<Bytes> {
        None
    }
    fn bytes_estimate(&self) -> u64 {
        0
    }
    fn chunk(&self, _from: &[u8], _bytes_max: usize) -> Result<Option<Chunk>, MachineError> {
        Ok(None)
    }
}

impl Staging for NoStaging {
    async fn write(&mut self, _chunk: Bytes) -> Result<(), MachineError> {
        Ok(())
    }
}

impl Machine for Nothing {
    type View = NoView;
    type Staging = NoStaging;
    fn place(&self) -> Option<Bytes> {
        self.0.lock().unwrap().1.clone()
    }
    async fn apply(&self, entry: Entry) -> Result<(), MachineError> {
        *self.0.lock().unwrap() = (entry.position(), Some(entry.place));
        Ok(())
    }
    fn durable_position(&self) -> u64 {
        0
    }
    async fn checkpoint(&self) -> Result<(), MachineError> {
        Ok(())
    }
    async fn view(&self) -> Result<NoView, MachineError> {
        Ok(NoView)
    }
    async fn stage(&self) -> Result<NoStaging, MachineError> {
        Ok(NoStaging)
    }
    async fn promote(&self, _staged: NoStaging, _place: Bytes) -> Result<(), MachineError> {
        Ok(())
    }
}

type Up = BTreeMap<(GroupId, StoreId), Group<Nothing>>;

#[derive(Clone, Default)]
struct Net {
    up: Arc<Mutex<Up>>,
    calls: Arc<AtomicU64>,
}

struct End(Replica, Net);

impl Peers for End {
    fn call(
        &self,
        to: Replica,
        group: GroupId,
        body: Bytes,
        _deadline: Instant,
    ) -> BoxFuture<'static, Result<Bytes, PeerError>> {
        self.1.calls.fetch_add(1, Ordering::Relaxed);
        let (me, it) = (self.0, self.1.up.lock().unwrap().get(&(group, to.store)).cloned());
        Box::pin(async move {
            let it = it.ok_or_else(|| PeerError::Unreachable("not there".into()))?;
            it.receive(me, body).await.map_err(|e| PeerError::Refused(e.to_string()))
        })
    }

    fn fetch(
        &self,
        _from: Replica,
        _group: GroupId,
        _body: Bytes,
    ) -> BoxStream<'static, Result<Bytes, PeerError>> {
        Box::pin(stream::empty())
    }
}

/// Seconds of processor time that this process has used.
fn processor_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    // A tick is a hundredth of a second wherever this runs.
    ticks as f64 / 100.0
}

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

fn main() {
    let mut args = std::env::args().skip(1).map(|arg| arg.parse::<u64>().expect("a number"));
    let groups = args.next().unwrap_or(256);
    let seconds = args.next().unwrap_or(20);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let net = Net::default();
        let replicas: Vec<Replica> =
            (1..=3).map(|n| Replica { store: StoreId(100 + n), host: HostId(n) }).collect();
        let members: BTreeSet<Replica> = replicas.iter().copied().collect();
        let before = resident_mib();
        let mut all = Vec::new();
        for me in &replicas {
            let log = Log::open(Arc::new(MemDisk::new()), LogOptions::default()).unwrap();
            for group in 1..=groups {
                let options = GroupOptions {
                    me: *me,
                    life: skein_model::LifeId::founding(me.store),
                    group: GroupId(group),
                    peers: Arc::new(End(*me, net.clone())),
                    timing: Timing::default(),
                    seed: me.store.0 * 100_000 + group,
                    checkpoint_log_bytes: 64 << 20,
                    throttle: None,
                    beats_from: Instant::now(),
                    suspend_clock: None,
                    on_failure: Arc::new(|failure| println!("{failure}")),
                };
                let opened = Group::open(log.group(group), Arc::new(Nothing::default()), options).await.unwrap();
                net.up.lock().unwrap().insert((GroupId(group), me.store), opened.clone());
                all.push(opened);
            }
        }
        for group in &all {
            group.initialise(&members).await.unwrap();
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
        let leaders = |all: &[Group<Nothing>]| {
            all.iter().filter(|group| { let role = *group.role().borrow(); group.lease_valid(role.term) }).count()
        };
        println!("{} of {groups} groups have a leader with a lease", leaders(&all));
        let (used, calls, start) = (processor_seconds(), net.calls.load(Ordering::Relaxed), Instant::now());
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        let time = start.elapsed().as_secs_f64();
        let calls = (net.calls.load(Ordering::Relaxed) - calls) as f64 / time;
        println!("{} of {groups} groups still have", leaders(&all));
        println!(
            "{groups} groups on three peers, idle: {:.1} % of a core in total, {calls:.0} calls/s, {:.0} us of a core per call, {} MiB",
            100.0 * (processor_seconds() - used) / time,
            1e6 * (processor_seconds() - used) / time / calls,
            resident_mib() - before,
        );
        std::process::exit(0);
    });
}
