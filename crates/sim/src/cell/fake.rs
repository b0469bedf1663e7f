//! A database that is right because it is hardly one: a map that all peers share, outside of all faults.
//!
//! It shows that the simulator lets a right database pass, and, with a [`Bug`] planted, that it catches a wrong one.

use super::machine::Machine;
use super::system::{Digest, Found, KeyAnswer, Peer, Place, ScanRows, System, Trouble};
use crate::check::{Answer, Row};
use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use skein_model::{
    Atlas, Cohort, GroupId, HostId, Slice, StoreId, TableId, Transaction, TxClock, TxId, WriteOp,
};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// What is wrong with a fake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// Nothing.
    None,
    /// When a machine goes down, the last acknowledged write goes with it.
    ForgetsAWrite,
    /// Now and then a read shows the version before the newest.
    ReadsStale,
    /// A scan shows at its end what was written after its beginning.
    TearsScans,
    /// A transaction sent again is written again.
    WritesTwice,
    /// A condition is looked at, and then forgotten while the write waits.
    LosesUpdates,
    /// One replica differs.
    ReplicasDiffer,
    /// A move never ends.
    NeverSettles,
    /// A write that was said not to have happened did.
    LiesAboutNothing,
    /// A conditional write of a catalog key does not look.
    OverwritesKeys,
    /// A peer panics.
    Panics,
}

impl Bug {
    /// All but none.
    pub const ALL: [Bug; 10] = [
        Bug::ForgetsAWrite,
        Bug::ReadsStale,
        Bug::TearsScans,
        Bug::WritesTwice,
        Bug::LosesUpdates,
        Bug::ReplicasDiffer,
        Bug::NeverSettles,
        Bug::LiesAboutNothing,
        Bug::OverwritesKeys,
        Bug::Panics,
    ];
}

#[derive(Default)]
struct Store {
    rows: BTreeMap<Row, BTreeMap<TxClock, Option<Bytes>>>,
    outcomes: BTreeMap<TxId, Answer>,
    keys: BTreeMap<String, (u64, Bytes)>,
    key_versions: u64,
    clock: u64,
    last: Option<(Row, TxClock)>,
    calls: u64,
}

impl Store {
    fn tick(&mut self) -> TxClock {
        self.clock += 1;
        TxClock(self.clock)
    }

    fn newest(&self, row: &Row, at: TxClock) -> (TxClock, Option<Bytes>) {
        let newest = self.rows.get(row).and_then(|versions| versions.range(..=at).next_back());
        newest.map_or((TxClock::ZERO, None), |(time, value)| (*time, value.clone()))
    }

    /// Why the transaction may not be written, if it may not.
    fn refusal(&self, tx: &Transaction) -> Option<Answer> {
        let latest = tx.ops.iter().map(|op| self.newest(&row(op.table, &op.key), TxClock::MAX).0).max();
        tx.ops.iter().find_map(|op| {
            let (time, value) = self.newest(&row(op.table, &op.key), TxClock::MAX);
            match op.op {
                WriteOp::Create(_) if value.is_some() => Some(Answer::Collision),
                _ if op.expect.iter().all(|expect| expect.holds(time, value.is_some())) => None,
                _ => latest.map(Answer::Stale),
            }
        })
    }

    fn write(&mut self, tx: &Transaction) -> Answer {
        let time = self.tick();
        for op in &tx.ops {
            let value = match &op.op {
                WriteOp::Create(value) | WriteOp::Update(value) => Some(value.bytes.clone()),
                WriteOp::Delete => None,
                WriteOp::Hold => continue,
            };
            let row = row(op.table, &op.key);
            self.rows.entry(row.clone()).or_default().insert(time, value);
            self.last = Some((row, time));
        }
        Answer::Committed(time)
    }
}

fn row(table: TableId, key: &Bytes) -> Row {
    Row { table, key: key.clone() }
}

/// The fake. Clones are the same database.
#[derive(Clone)]
pub struct Fake {
    bug: Bug,
    store: Rc<RefCell<Store>>,
    atlas: Rc<RefCell<Arc<Atlas>>>,
}

impl Fake {
    /// An empty database with a bug.
    pub fn with(bug: Bug) -> Fake {
        Fake { bug, store: Rc::default(), atlas: Rc::new(RefCell::new(Arc::new(Atlas::empty()))) }
    }
}

impl System for Fake {
    type Peer = FakePeer;

    async fn open(&self, place: Place) -> Result<Rc<FakePeer>, String> {
        sleep(Duration::from_millis(5)).await;
        Ok(Rc::new(FakePeer { fake: self.clone(), index: place.machine.index, store: place.machine.store }))
    }

    fn crashed(&self, _: &Machine) {
        if self.bug == Bug::ForgetsAWrite {
            let mut store = self.store.borrow_mut();
            if let Some((row, time)) = store.last.take()
                && let Some(versions) = store.rows.get_mut(&row)
            {
                versions.remove(&time);
            }
        }
    }
}

/// A peer of the fake.
pub struct FakePeer {
    fake: Fake,
    index: usize,
    store: StoreId,
}

impl FakePeer {
    /// As long as a message there and one back would take; nothing if that is too long.
    async fn travel(&self, deadline: Instant) -> Result<(), Trouble> {
        let millis = {
            let mut store = self.fake.store.borrow_mut();
            store.calls += 1;
            1 + (store.calls * 7 + self.index as u64) % 9
        };
        match tokio::time::timeout_at(deadline, sleep(Duration::from_millis(millis))).await {
            Ok(()) => Ok(()),
            Err(_) => Err(Trouble::Nothing("the time ran out".into())),
        }
    }
}

impl Peer for FakePeer {
    async fn read(&self, row: &Row, at: Option<TxClock>, deadline: Instant) -> Result<Answer, Trouble> {
        self.travel(deadline).await?;
        let mut store = self.fake.store.borrow_mut();
        let read_time = at.unwrap_or_else(|| store.tick());
        let (mut time, mut value) = store.newest(row, read_time);
        if self.fake.bug == Bug::ReadsStale
            && store.calls.is_multiple_of(7)
            && at.is_none()
            && TxClock::ZERO < time
        {
            (time, value) = store.newest(row, TxClock(time.0 - 1));
        }
        Ok(Answer::Found { read_time, time, value })
    }

    async fn write(&self, tx: Transaction, deadline: Instant) -> Result<Answer, Trouble> {
        let bug = self.fake.bug;
        let early = self.fake.store.borrow().refusal(&tx);
        self.travel(deadline).await?;
        let answer = {
            let mut store = self.fake.store.borrow_mut();
            let before = store.outcomes.get(&tx.id).filter(|_| bug != Bug::WritesTwice).cloned();
            before.unwrap_or_else(|| {
                let refusal = if bug == Bug::LosesUpdates { early } else { store.refusal(&tx) };
                let answer = refusal.unwrap_or_else(|| store.write(&tx));
                store.outcomes.insert(tx.id.clone(), answer.clone());
                answer
            })
        };
        match self.travel(deadline).await {
            Ok(()) => Ok(answer),
            Err(_) if bug == Bug::LiesAboutNothing => Err(Trouble::Nothing("nothing was written".into())),
            Err(_) => Err(Trouble::Unknown("the time ran out".into())),
        }
    }

    async fn status(&self, id: TxId, deadline: Instant) -> Result<Answer, Trouble> {
        self.travel(deadline).await?;
        let mut store = self.fake.store.borrow_mut();
        Ok(match store.outcomes.entry(id).or_insert(Answer::Aborted) {
            Answer::Committed(time) => Answer::Committed(*time),
            _ => Answer::Aborted,
        })
    }

    async fn scan(
        &self,
        table: TableId,
        slice: Slice,
        at: Option<TxClock>,
        history: bool,
        deadline: Instant,
    ) -> Result<Box<dyn ScanRows>, Trouble> {
        self.travel(deadline).await?;
        let until = at.unwrap_or_else(|| self.fake.store.borrow_mut().tick());
        Ok(Box::new(FakeScan { fake: self.fake.clone(), table, slice, until, history, position: 0 }))
    }

    fn atlas(&self) -> Arc<Atlas> {
        self.fake.atlas.borrow().clone()
    }

    async fn put_atlas(&self, cohorts: &[BTreeSet<HostId>]) -> Result<(), Trouble> {
        let wanted: Vec<Cohort> =
            cohorts.iter().map(|hosts| Cohort::Settled { hosts: hosts.clone() }).collect();
        let next = self.fake.atlas.borrow().next(&wanted);
        if let Some(next) = next {
            *self.fake.atlas.borrow_mut() = Arc::new(next);
        }
        sleep(Duration::from_millis(300)).await;
        if self.fake.bug != Bug::NeverSettles {
            let mut atlas = self.fake.atlas.borrow_mut();
            let settle = |cohort: &Cohort| Cohort::Settled { hosts: cohort.target().clone() };
            let cohorts = atlas.cohorts.iter().map(settle).collect();
            *atlas = Arc::new(Atlas { version: atlas.version + 1, cohorts });
        }
        Ok(())
    }

    async fn drain(&self, _: bool) -> Result<(), Trouble> {
        Ok(())
    }

    async fn forget(&self, _: HostId) -> Result<(), Trouble> {
        Ok(())
    }

    async fn leaders(&self) -> Vec<Option<HostId>> {
        let atlas = self.fake.atlas.borrow();
        let calls = self.fake.store.borrow().calls as usize / 500;
        atlas.cohorts.iter().map(|cohort| cohort.hosts().nth(calls % cohort.hosts().count().max(1))).collect()
    }

    async fn put_key(
        &self,
        key: &str,
        expected: u64,
        value: Bytes,
        deadline: Instant,
    ) -> Result<KeyAnswer, Trouble> {
        self.travel(deadline).await?;
        let answer = {
            let mut store = self.fake.store.borrow_mut();
            let version = store.keys.get(key).map_or(0, |(version, _)| *version);
            if version == expected || self.fake.bug == Bug::OverwritesKeys {
                store.key_versions += 1;
                let version = store.key_versions;
                store.keys.insert(key.to_owned(), (version, value));
                KeyAnswer::Written(version)
            } else {
                KeyAnswer::Is(version)
            }
        };
        self.travel(deadline).await.map_err(|_| Trouble::Unknown("the time ran out".into()))?;
        Ok(answer)
    }

    async fn get_key(&self, key: &str, deadline: Instant) -> Result<(u64, Bytes), Trouble> {
        self.travel(deadline).await?;
        assert!(self.fake.bug != Bug::Panics, "this peer has a bug");
        Ok(self.fake.store.borrow().keys.get(key).cloned().unwrap_or_default())
    }

    async fn digests(&self) -> Result<Vec<Digest>, Trouble> {
        let store = self.fake.store.borrow();
        let differs = u64::from(self.fake.bug == Bug::ReplicasDiffer && self.index == 0);
        let host = HostId(self.index as u64 + 1);
        let digest = |(n, _): (usize, &Cohort)| Digest {
            group: GroupId(n as u64 + 1),
            store: self.store,
            applied: 1,
            digest: store.clock + differs,
        };
        let atlas = self.fake.atlas.borrow();
        Ok(atlas
            .cohorts
            .iter()
            .enumerate()
            .filter(|(_, c)| c.hosts().any(|h| h == host))
            .map(digest)
            .collect())
    }

    fn failure(&self) -> Option<String> {
        None
    }
}

struct FakeScan {
    fake: Fake,
    table: TableId,
    slice: Slice,
    until: TxClock,
    history: bool,
    position: usize,
}

impl ScanRows for FakeScan {
    fn until(&self) -> TxClock {
        self.until
    }

    fn next(&mut self) -> LocalBoxFuture<'_, Result<Vec<Found>, Trouble>> {
        let store = self.fake.store.borrow();
        let torn = self.fake.bug == Bug::TearsScans && !self.history;
        let until = if torn { TxClock::MAX } else { self.until };
        let in_slice = |row: &Row| row.table == self.table && self.slice.contains(row.table, &row.key);
        let all = store.rows.iter().filter(|(row, _)| in_slice(row)).flat_map(|(row, versions)| {
            let visible = versions.range(..=until).rev().take(if self.history { usize::MAX } else { 1 });
            visible.map(|(time, value)| (row.key.clone(), *time, value.clone()))
        });
        let all = all.filter(|(.., value)| self.history || value.is_some());
        let chunk: Vec<Found> = all.skip(self.position).take(10).collect();
        self.position += chunk.len();
        Box::pin(std::future::ready(Ok(chunk)))
    }
}
