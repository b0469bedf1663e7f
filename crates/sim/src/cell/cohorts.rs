//! Replicated cohorts alone: the real log, Raft, rows and transport of each peer, under a catalog that is perfect because
//! it is one map outside of all faults.
//!
//! Finds what is wrong below the cell without the cell's own routing and catalog in the way, and runs before those do.

mod board;
mod requests;
mod supervise;

use super::machine::Machine;
use super::system::{Digest, KeyAnswer, Peer, Place, ScanRows, System, Trouble};
use crate::check::{Answer, Row};
use board::Board;
use bytes::Bytes;
use requests::{Ask, Link, Told};
use skein_cohort::Cohort;
use skein_model::{Atlas, CellId, GroupId, HostId, Slice, TableId, Transaction, TxClock, TxId, row_hash};
use skein_storage::log::{Log, LogOptions, Pump};
use skein_transport::{Identity, Options, Transport};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// The cell that all peers say they are of.
const CELL: CellId = CellId(0x5e11);

/// Small segments, so that logs are cut and recycled within a run.
const SEGMENT_BYTES: u64 = 256 << 10;
const CHECKPOINT_BYTES: u64 = 400 << 10;

/// Several cohorts; clones are the same.
#[derive(Clone, Default)]
pub struct Cohorts {
    board: Arc<Mutex<Board>>,
}

/// One peer: its replicas, and how it reaches the others.
pub struct CohortsPeer {
    inner: Arc<Inner>,
}

/// What the peer's tasks share.
struct Inner {
    place: Place,
    board: Arc<Mutex<Board>>,
    log: Log,
    transport: Mutex<Option<Transport>>,
    cohorts: Mutex<BTreeMap<GroupId, Cohort>>,
    /// Where each cohort's leader was last.
    hints: Mutex<BTreeMap<usize, HostId>>,
    draining: AtomicBool,
    /// Replicas opened so far: each is to have luck of its own.
    opened: AtomicU64,
    failure: Mutex<Option<String>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl System for Cohorts {
    type Peer = CohortsPeer;

    async fn open(&self, place: Place) -> Result<Rc<CohortsPeer>, String> {
        let machine = place.machine.clone();
        locked(&self.board).join(machine.host, machine.store)?;
        let options = LogOptions {
            segment_bytes: SEGMENT_BYTES,
            cache_bytes: 1 << 20,
            idle_mark: Duration::from_secs(600),
        };
        let disk = skein_storage::drives::Drives::log_disk(&machine.drives);
        let (log, pump) = Log::open_pumped(disk, options).map_err(|error| error.to_string())?;
        tokio::spawn(run_log(pump, machine.clone()));
        let identity = Identity { cell: CELL, host: machine.host, store: machine.store };
        let any = SocketAddr::new([0, 0, 0, 0].into(), place.addr.port());
        let mut options = Options::new(identity, any, place.seed);
        options.share = Some(place.addr);
        options.network = Arc::new(place.network.clone());
        let inner = Arc::new(Inner {
            board: self.board.clone(),
            log,
            transport: Mutex::default(),
            cohorts: Mutex::default(),
            hints: Mutex::default(),
            draining: AtomicBool::new(false),
            opened: AtomicU64::new(0),
            failure: Mutex::default(),
            place: place.clone(),
        });
        let link = Arc::new(Link::new(&inner));
        let transport = Transport::start(options, link).await.map_err(|error| error.to_string())?;
        for (host, addr) in &place.peers {
            transport.learn(*host, *addr);
        }
        *locked(&inner.transport) = Some(transport);
        tokio::spawn(supervise::run(inner.clone()));
        Ok(Rc::new(CohortsPeer { inner }))
    }

    fn crashed(&self, _: &Machine) {}
}

/// Takes the turns of the log, as fast as the disk is.
pub async fn run_log(pump: Pump, machine: Machine) {
    let work = Arc::new(Notify::new());
    let wake = work.clone();
    pump.on_work(move || wake.notify_one());
    while !pump.has_ended() {
        work.notified().await;
        while pump.write() {
            tokio::time::sleep(Duration::from_micros(machine.sync.get())).await;
            pump.sync();
        }
    }
}

impl CohortsPeer {
    /// The position of the cohort that owns a row.
    fn owner(&self, table: TableId, key: &[u8]) -> Result<usize, Trouble> {
        let atlas = locked(&self.inner.board).atlas();
        match atlas.is_empty() {
            true => Err(Trouble::Nothing("there is no atlas".into())),
            false => Ok(atlas.cohort_for(row_hash(table, key))),
        }
    }
}

impl Peer for CohortsPeer {
    async fn read(&self, row: &Row, at: Option<TxClock>, deadline: Instant) -> Result<Answer, Trouble> {
        let cohort = self.owner(row.table, &row.key)?;
        let ask = Ask::Read { table: row.table, key: row.key.clone(), at };
        Box::pin(self.inner.ask(cohort, ask, deadline)).await?.into_answer()
    }

    async fn write(&self, tx: Transaction, deadline: Instant) -> Result<Answer, Trouble> {
        let first = tx.ops.first().ok_or_else(|| Trouble::Nothing("it does nothing".into()))?;
        let cohort = self.owner(first.table, &first.key)?;
        Box::pin(self.inner.ask(cohort, Ask::Write { tx, again: false }, deadline)).await?.into_answer()
    }

    async fn status(&self, id: TxId, deadline: Instant) -> Result<Answer, Trouble> {
        // The first cohort that knows it as written; if none does, all have aborted it.
        let cohorts = locked(&self.inner.board).atlas().cohorts.len();
        let mut told = Answer::Aborted;
        for cohort in 0..cohorts {
            let ask = Ask::Status { id: id.clone() };
            let answer = Box::pin(self.inner.ask(cohort, ask, deadline)).await?.into_answer()?;
            if matches!(answer, Answer::Committed(_)) {
                told = answer;
            }
        }
        Ok(told)
    }

    async fn scan(
        &self,
        table: TableId,
        slice: Slice,
        at: Option<TxClock>,
        history: bool,
        deadline: Instant,
    ) -> Result<Box<dyn ScanRows>, Trouble> {
        Box::pin(requests::scan(self.inner.clone(), table, slice, at, history, deadline)).await
    }

    fn atlas(&self) -> Arc<Atlas> {
        locked(&self.inner.board).atlas()
    }

    async fn put_atlas(&self, cohorts: &[BTreeSet<HostId>]) -> Result<(), Trouble> {
        locked(&self.inner.board).put(cohorts).map_err(Trouble::Nothing)
    }

    async fn drain(&self, on: bool) -> Result<(), Trouble> {
        self.inner.draining.store(on, std::sync::atomic::Ordering::Relaxed);
        Ok(())
    }

    async fn forget(&self, host: HostId) -> Result<(), Trouble> {
        locked(&self.inner.board).forget(host);
        Ok(())
    }

    async fn leaders(&self) -> Vec<Option<HostId>> {
        let count = locked(&self.inner.board).atlas().cohorts.len();
        let cohorts = locked(&self.inner.cohorts);
        let leader = |n: usize| {
            let role = *cohorts.get(&GroupId(n as u64 + 1))?.leader().borrow();
            Some(role.leader?.host)
        };
        (0..count).map(leader).collect()
    }

    async fn put_key(&self, _: &str, _: u64, _: Bytes, _: Instant) -> Result<KeyAnswer, Trouble> {
        Err(Trouble::Nothing("cohorts alone have no catalog".into()))
    }

    async fn get_key(&self, _: &str, _: Instant) -> Result<(u64, Bytes), Trouble> {
        Err(Trouble::Nothing("cohorts alone have no catalog".into()))
    }

    async fn digests(&self) -> Result<Vec<Digest>, Trouble> {
        let cohorts: Vec<(GroupId, Cohort)> =
            locked(&self.inner.cohorts).iter().map(|(group, cohort)| (*group, cohort.clone())).collect();
        let store = self.inner.place.machine.store;
        let digest = |(group, cohort): (GroupId, Cohort)| {
            let applied = cohort.status().applied_end;
            let digest = requests::digest(&cohort.rows()).map_err(Trouble::Broken)?;
            Ok(Digest { group, store, applied, digest })
        };
        cohorts.into_iter().map(digest).collect()
    }

    fn failure(&self) -> Option<String> {
        if let Some(failure) = locked(&self.inner.failure).clone() {
            return Some(failure);
        }
        if let Err(error) = self.inner.log.health() {
            return Some(error.to_string());
        }
        locked(&self.inner.cohorts).values().find_map(|cohort| Some(cohort.failure()?.to_string()))
    }
}

impl Told {
    fn into_answer(self) -> Result<Answer, Trouble> {
        Ok(match self {
            Told::Found { read_time, time, value } => Answer::Found { read_time, time, value },
            Told::Committed(time) => Answer::Committed(time),
            Told::Collision => Answer::Collision,
            Told::Stale(latest) => Answer::Stale(latest),
            Told::Aborted => Answer::Aborted,
            Told::Nothing(why) => return Err(Trouble::Nothing(why)),
            Told::Unknown(why) => return Err(Trouble::Unknown(why)),
            Told::Broken(why) => return Err(Trouble::Broken(why)),
            other => return Err(Trouble::Broken(format!("the answer does not fit the question: {other:?}"))),
        })
    }
}
