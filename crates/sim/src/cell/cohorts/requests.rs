//! Requests between peers, and the way to the leader.

use super::super::system::{Found, ScanRows, Trouble};
use super::{Inner, locked};
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::future::{BoxFuture, LocalBoxFuture};
use futures_util::stream::BoxStream;
use serde::{Deserialize, Serialize};
use skein_cohort::peers::{PeerError, Peers, Replica};
use skein_cohort::{Cohort, CohortError, Outcome, Room};
use skein_model::{
    GroupId, HostId, Pick, Refusal, Slice, StoreId, TableId, Transaction, TxClock, TxId, Window,
};
use skein_storage::rows::{ChunkBudget, Rows, ScanPosition, ScanSpec};
use skein_transport::{CallError, Chunks, Failure, Handler, PeerInfo, Transport, Unreachable};
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::time::{Instant, sleep};
use xxhash_rust::xxh3::Xxh3Default;

/// Messages of Raft.
const RAFT: u8 = 1;
/// An [`Ask`].
const ASK: u8 = 2;

/// What one peer asks of another, or of itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Ask {
    Read { table: TableId, key: Bytes, at: Option<TxClock> },
    Write { tx: Transaction, again: bool },
    Status { id: TxId },
    Promise { at: Option<TxClock> },
    Chunk { table: TableId, slice: Slice, until: TxClock, history: bool, key: Bytes, time: TxClock },
}

/// The answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Told {
    Found { read_time: TxClock, time: TxClock, value: Option<Bytes> },
    Committed(TxClock),
    Collision,
    Stale(TxClock),
    Aborted,
    Promised(TxClock),
    Rows(Vec<Found>, Option<(Bytes, TxClock)>),
    NotLeader(Option<HostId>),
    Nothing(String),
    Unknown(String),
    Broken(String),
}

impl From<CohortError> for Told {
    fn from(error: CohortError) -> Told {
        let why = error.to_string();
        match error {
            CohortError::NotLeader { leader } => Told::NotLeader(leader.map(|leader| leader.host)),
            CohortError::Unknown { .. } | CohortError::DiskFailed { .. } => Told::Unknown(why),
            CohortError::Damaged { .. } | CohortError::IdReused { .. } | CohortError::Gone { .. } => {
                Told::Broken(why)
            }
            _ => Told::Nothing(why),
        }
    }
}

/// There is always room, but for what the log itself finds.
pub fn room() -> Room {
    Arc::new(|| Ok(()))
}

/// Both ends of the transport.
pub struct Link {
    inner: Weak<Inner>,
}

impl Link {
    pub fn new(inner: &Arc<Inner>) -> Link {
        Link { inner: Arc::downgrade(inner) }
    }

    fn transport(&self) -> Option<Transport> {
        locked(&self.inner.upgrade()?.transport).clone()
    }
}

/// The message, with the directory and the group it is for: a host that has another directory by now must not answer.
fn framed(to: Replica, group: GroupId, body: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(16 + body.len());
    bytes.put_u64_le(to.store.0);
    bytes.put_u64_le(group.0);
    bytes.put_slice(body);
    bytes.freeze()
}

fn failure(text: impl ToString) -> Failure {
    Failure { code: 1, text: text.to_string(), detail: Bytes::new() }
}

fn peer_error(error: CallError) -> PeerError {
    match error {
        CallError::NotSent { why, .. } => PeerError::Unreachable(why),
        CallError::NoAnswer { why, .. } => PeerError::NoAnswer(why),
        CallError::Failed(failure) => PeerError::Refused(failure.text),
    }
}

impl Peers for Link {
    fn call(
        &self,
        to: Replica,
        group: GroupId,
        body: Bytes,
        deadline: Instant,
    ) -> BoxFuture<'static, Result<Bytes, PeerError>> {
        let transport = self.transport();
        Box::pin(async move {
            let transport = transport.ok_or_else(|| PeerError::Unreachable("closed".into()))?;
            transport.request(to.host, RAFT, framed(to, group, &body), deadline).await.map_err(peer_error)
        })
    }

    fn fetch(
        &self,
        from: Replica,
        group: GroupId,
        body: Bytes,
    ) -> BoxStream<'static, Result<Bytes, PeerError>> {
        match self.transport() {
            Some(transport) => Box::pin(
                transport
                    .stream(from.host, RAFT, framed(from, group, &body))
                    .map(|chunk| chunk.map_err(peer_error)),
            ),
            None => Box::pin(futures_util::stream::iter([Err(PeerError::Unreachable("closed".into()))])),
        }
    }
}

impl Link {
    /// The cohort that a message of Raft is for, and the message.
    fn cohort(&self, body: &Bytes) -> Result<(Cohort, Bytes), Failure> {
        let number = |at: usize| body.get(at..at + 8).and_then(|n| n.try_into().ok()).map(u64::from_le_bytes);
        let (Some(store), Some(group)) = (number(0), number(8)) else { return Err(failure("short")) };
        let group = GroupId(group);
        let inner = self.inner.upgrade().ok_or_else(|| failure("closed"))?;
        if inner.place.machine.store != StoreId(store) {
            return Err(failure("this host has another store by now"));
        }
        let cohort = locked(&inner.cohorts).get(&group).cloned();
        Ok((cohort.ok_or_else(|| failure(format!("no replica of {group}")))?, body.slice(16..)))
    }
}

impl Handler for Link {
    fn admit(&self, peer: &PeerInfo) -> Result<(), String> {
        let inner = self.inner.upgrade().ok_or("closed")?;
        let (host, store) = (peer.identity.host, peer.identity.store);
        match locked(&inner.board).admits(host, store) {
            true => Ok(()),
            false => Err(format!("{host} with store {store} is not known")),
        }
    }

    fn up(&self, _: &PeerInfo) {}

    fn down(&self, _: &PeerInfo) {}

    fn posted(&self, _: &PeerInfo, _: Bytes) {}

    fn unreachable(&self, _: SocketAddr, _: Unreachable) {}

    fn request(
        &self,
        from: PeerInfo,
        service: u8,
        body: Bytes,
        deadline: Instant,
    ) -> BoxFuture<'static, Result<Bytes, Failure>> {
        let from = Replica { store: from.identity.store, host: from.identity.host };
        if service == RAFT {
            let cohort = self.cohort(&body);
            return Box::pin(async move {
                let (cohort, body) = cohort?;
                cohort.receive(from, body).await.map_err(failure)
            });
        }
        let inner = self.inner.upgrade();
        Box::pin(async move {
            let inner = inner.ok_or_else(|| failure("closed"))?;
            let (cohort, ask): (usize, Ask) = postcard::from_bytes(&body).map_err(failure)?;
            let told = inner.here(cohort, ask, deadline).await;
            postcard::to_stdvec(&told).map(Bytes::from).map_err(failure)
        })
    }

    fn stream(&self, from: PeerInfo, _: u8, body: Bytes) -> Chunks<Failure> {
        let from = Replica { store: from.identity.store, host: from.identity.host };
        match self.cohort(&body) {
            Ok((cohort, body)) => Box::pin(cohort.serve(from, body).map(|chunk| chunk.map_err(failure))),
            Err(error) => Box::pin(futures_util::stream::iter([Err(error)])),
        }
    }
}

impl Inner {
    /// Answers from this peer's own replica.
    async fn here(&self, cohort: usize, ask: Ask, deadline: Instant) -> Told {
        let found = locked(&self.cohorts).get(&GroupId(cohort as u64 + 1)).cloned();
        let Some(cohort) = found else { return Told::NotLeader(None) };
        Box::pin(answer(&cohort, ask, deadline)).await.unwrap_or_else(Told::from)
    }

    /// Asks the cohort's leader, whoever and wherever that is, until the time is up.
    pub async fn ask(&self, cohort: usize, mut ask: Ask, deadline: Instant) -> Result<Told, Trouble> {
        let me = self.place.machine.host;
        let mut in_doubt = None;
        let mut next = locked(&self.hints).get(&cohort).copied().unwrap_or(me);
        let mut last = String::new();
        for turn in 0.. {
            let told = match next == me {
                true => self.here(cohort, ask.clone(), deadline).await,
                false => self.there(next, cohort, &ask, deadline).await,
            };
            // It may have come to somebody now, whatever he said.
            if let Ask::Write { again, .. } = &mut ask {
                *again = true;
            }
            let hint = match told {
                Told::NotLeader(leader) => leader.filter(|leader| *leader != next),
                Told::Unknown(why) => {
                    in_doubt = Some(why);
                    None
                }
                Told::Nothing(why) => {
                    last = why;
                    None
                }
                told => {
                    locked(&self.hints).insert(cohort, next);
                    return Ok(told);
                }
            };
            let hosts: Vec<HostId> = match locked(&self.board).atlas().cohorts.get(cohort) {
                Some(cohort) => cohort.hosts().collect(),
                None => return Err(Trouble::Nothing("there is no such cohort".into())),
            };
            next = hint.unwrap_or(hosts[(turn + me.0 as usize) % hosts.len()]);
            let pause = if hint.is_some() { 1 } else { 20 + (turn as u64 * 37 + me.0 * 13) % 50 };
            sleep(Duration::from_millis(pause)).await;
            if deadline <= Instant::now() {
                break;
            }
        }
        Err(match (ask, in_doubt) {
            (Ask::Write { .. }, Some(why)) => Trouble::Unknown(why),
            _ => Trouble::Nothing(format!("no leader in time; last heard: {last}")),
        })
    }

    async fn there(&self, host: HostId, cohort: usize, ask: &Ask, deadline: Instant) -> Told {
        let mut ask = ask.clone();
        if let Ask::Write { again, .. } = &mut ask {
            *again = true;
        }
        let Ok(body) = postcard::to_stdvec(&(cohort, ask)) else {
            return Told::Broken("a request cannot be encoded".into());
        };
        let transport = locked(&self.transport).clone();
        let Some(transport) = transport else { return Told::Nothing("closed".into()) };
        // Long enough for a quorum, short enough to try somebody else.
        let patience = deadline.min(Instant::now() + Duration::from_millis(1500));
        match transport.request(host, ASK, body.into(), patience).await {
            Ok(body) => postcard::from_bytes(&body).unwrap_or_else(|error| Told::Broken(error.to_string())),
            Err(error @ CallError::NotSent { .. }) => Told::Nothing(error.to_string()),
            Err(error) => Told::Unknown(error.to_string()),
        }
    }
}

async fn answer(cohort: &Cohort, ask: Ask, deadline: Instant) -> Result<Told, CohortError> {
    let outcome = |outcome| match outcome {
        Outcome::Committed(time) => Told::Committed(time),
        Outcome::Refused(Refusal::Collision { .. }) => Told::Collision,
        Outcome::Refused(Refusal::Stale { latest, .. }) => Told::Stale(latest),
        Outcome::Aborted => Told::Aborted,
    };
    Ok(match ask {
        Ask::Read { table, key, at } => {
            let read = cohort.read(table, &key, at, deadline).await?;
            Told::Found {
                read_time: read.read_time,
                time: read.time,
                value: read.value.map(|value| value.bytes),
            }
        }
        Ask::Write { tx, again } => outcome(cohort.write(tx, again, deadline).await?),
        Ask::Status { id } => match outcome(cohort.tx_status(id, deadline).await?) {
            Told::Committed(time) => Told::Committed(time),
            _ => Told::Aborted,
        },
        Ask::Promise { at } => Told::Promised(cohort.promise(at, deadline).await?),
        Ask::Chunk { table, slice, until, history, key, time } => {
            let pick = if history { Pick::Between } else { Pick::Latest };
            let window = Window { pick, since: TxClock::ZERO, until };
            let spec = ScanSpec { table, window, slice, end: None };
            let budget = ChunkBudget { rows: 20, bytes: 100_000 };
            let (rows, next) = cohort.scan_chunk(spec, ScanPosition { key, time }, budget, deadline).await?;
            let rows = rows.into_iter().map(|row| (row.key, row.time, row.value.map(|value| value.bytes)));
            Told::Rows(rows.collect(), next.map(|next| (next.key, next.time)))
        }
    })
}

/// A scan of several cohorts: of each what it has, one cohort after the other, and sorted at the end.
pub async fn scan(
    inner: Arc<Inner>,
    table: TableId,
    slice: Slice,
    at: Option<TxClock>,
    history: bool,
    deadline: Instant,
) -> Result<Box<dyn ScanRows>, Trouble> {
    let cohorts = locked(&inner.board).atlas().cohorts.len();
    let mut until = TxClock::ZERO;
    for cohort in 0..cohorts {
        match inner.ask(cohort, Ask::Promise { at }, deadline).await? {
            Told::Promised(time) => until = until.max(time),
            other => return Err(Trouble::Broken(format!("promised {other:?}"))),
        }
    }
    Ok(Box::new(Scan { inner, table, slice, until, history, deadline, cohorts, rows: None }))
}

struct Scan {
    inner: Arc<Inner>,
    table: TableId,
    slice: Slice,
    until: TxClock,
    history: bool,
    deadline: Instant,
    cohorts: usize,
    rows: Option<std::vec::IntoIter<Found>>,
}

impl Scan {
    async fn all(&self) -> Result<Vec<Found>, Trouble> {
        let mut all = Vec::new();
        for cohort in 0..self.cohorts {
            let mut from = Some((Bytes::new(), TxClock::MAX));
            while let Some((key, time)) = from {
                let (table, slice, until, history) = (self.table, self.slice, self.until, self.history);
                let ask = Ask::Chunk { table, slice, until, history, key, time };
                match self.inner.ask(cohort, ask, self.deadline).await? {
                    Told::Rows(rows, next) => {
                        all.extend(rows);
                        from = next;
                    }
                    Told::Broken(why) => return Err(Trouble::Broken(why)),
                    other => return Err(Trouble::Broken(format!("a chunk of a scan is {other:?}"))),
                }
            }
        }
        all.sort_by(|a, b| (&a.0, b.1).cmp(&(&b.0, a.1)));
        Ok(all)
    }
}

impl ScanRows for Scan {
    fn until(&self) -> TxClock {
        self.until
    }

    fn next(&mut self) -> LocalBoxFuture<'_, Result<Vec<Found>, Trouble>> {
        Box::pin(async move {
            if self.rows.is_none() {
                self.rows = Some(self.all().await?.into_iter());
            }
            Ok(self.rows.iter_mut().flat_map(|rows| rows.take(10)).collect())
        })
    }
}

/// A hash of all versions of all rows.
pub fn digest(rows: &Rows) -> Result<u64, String> {
    let mut hash = Xxh3Default::new();
    for table in rows.tables().map_err(|error| error.to_string())? {
        hash.update(&table.id.0.to_le_bytes());
        let window = Window { pick: Pick::Between, since: TxClock::ZERO, until: TxClock::MAX };
        let spec = ScanSpec { table: table.id, window, slice: Slice::ALL, end: None };
        let mut from = Some(ScanPosition::START);
        while let Some(position) = from {
            let budget = ChunkBudget { rows: 1000, bytes: 1 << 20 };
            let next = rows.scan_chunk(&spec, &position, budget, &mut |row| {
                hash.update(&(row.key.len() as u64).to_le_bytes());
                hash.update(&row.key);
                hash.update(&row.time.0.to_le_bytes());
                hash.update(&[u8::from(row.value.is_some())]);
                hash.update(row.value.as_ref().map_or(&[][..], |value| &value.bytes));
            });
            from = next.map_err(|error| error.to_string())?;
        }
    }
    Ok(hash.digest())
}
