//! Clients: each calls, waits for the answer, thinks, and calls again.

use super::luck::Luck;
use super::shared::{Phase, Sent, Shared};
use super::system::{KeyAnswer, Peer, Trouble};
use crate::check::linear::{self, Action, Version};
use crate::check::{Answer, Asked, Change, Demand, Row};
use bytes::Bytes;
use skein_model::{
    ContentType, Expect, RowOp, Slice, TableId, Transaction, TxClock, TxId, Value, WriteOp, row_hash,
};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// The table of all rows.
pub const TABLE: TableId = TableId(7);

/// One client of one peer, in one life of the peer's process. It ends with the chaos, or with the process.
pub struct Client<P> {
    /// The run.
    pub shared: Rc<Shared>,
    /// Whom it calls.
    pub peer: Rc<P>,
    /// Its number; not used twice.
    pub number: u64,
    luck: Luck,
    /// The versions it knows.
    known: BTreeMap<Row, TxClock>,
    /// The catalog's keys it knows.
    keys: BTreeMap<String, u64>,
}

impl<P: Peer> Client<P> {
    /// A client that knows nothing.
    pub fn new(shared: Rc<Shared>, peer: Rc<P>, number: u64) -> Client<P> {
        let luck = shared.luck.fork("client", number);
        Client { shared, peer, number, luck, known: BTreeMap::new(), keys: BTreeMap::new() }
    }

    /// Calls for as long as the chaos lasts.
    pub async fn live(mut self) {
        loop {
            // At least two ticks, so that this client's calls follow each other by the moments that are written down.
            let think = self.luck.between(2 * self.shared.plan.tick_millis, self.shared.plan.think_millis);
            sleep(Duration::from_millis(think)).await;
            match self.shared.phase.get() {
                Phase::Beginning => {}
                Phase::Chaos => self.step().await,
                Phase::Healing | Phase::Over => return,
            }
        }
    }

    async fn step(&mut self) {
        match self.luck.below(100) {
            0..=27 => self.read(false).await,
            28..=33 => self.read(true).await,
            34..=53 => self.write(Kind::Put).await,
            54..=65 => self.write(Kind::PutIf).await,
            66..=72 => self.write(Kind::Create).await,
            73..=78 => self.write(Kind::Delete).await,
            79..=82 => self.write(Kind::Batch).await,
            83..=86 => self.scan(None, Slice::ALL).await,
            87..=89 => self.slice().await,
            90..=92 => self.ask().await,
            93..=95 => self.repeat().await,
            _ => self.key().await,
        }
    }

    /// How long the client would wait; now and then not long.
    fn deadline(&mut self) -> Instant {
        let millis =
            if self.luck.one_in(8) { self.luck.between(5, 300) } else { self.luck.between(2000, 8000) };
        Instant::now() + Duration::from_millis(millis)
    }

    /// A row; half of the time one of a few that everybody wants.
    fn row(&mut self) -> Row {
        let among = if self.luck.one_in(2) { 8 } else { self.shared.plan.keys };
        Row { table: TABLE, key: Bytes::from(format!("row-{:03}", self.luck.below(among))) }
    }

    fn value(&mut self, id: &TxId, place: usize) -> Bytes {
        let padding = if self.luck.one_in(20) { self.luck.below(3000) } else { self.luck.below(20) };
        Bytes::from(format!("\"{id}.{place}{}\"", "x".repeat(padding as usize)))
    }

    /// Writes the answer down. What is not an answer is counted, and ends the run if it may not happen.
    fn note(
        &self,
        call: crate::check::history::CallId,
        what: &'static str,
        answer: Result<Answer, Trouble>,
    ) -> Option<Answer> {
        let answer = match answer {
            Ok(answer) => {
                self.shared.count(what);
                answer
            }
            Err(trouble) => self.trouble(trouble),
        };
        self.shared.end(self.number, call, answer.clone());
        Some(answer)
    }

    fn trouble(&self, trouble: Trouble) -> Answer {
        match trouble {
            Trouble::Nothing(why) => {
                self.shared.count("calls that came to nothing");
                Answer::Nothing(why)
            }
            Trouble::Unknown(why) => {
                self.shared.count("calls whose outcome stayed unknown");
                Answer::Unknown(why)
            }
            Trouble::Broken(why) => {
                self.shared.break_with(format!("client {:x}: {why}", self.number));
                Answer::Unknown(why)
            }
        }
    }

    async fn read(&mut self, back_in_time: bool) {
        let row = self.row();
        let at = if back_in_time { self.time() } else { None };
        let call = self.shared.begin(self.number, Asked::Read { row: row.clone(), at });
        let deadline = self.deadline();
        let answer = self.peer.read(&row, at, deadline).await;
        let what = if at.is_some() { "reads back in time" } else { "reads" };
        if let Some(Answer::Found { read_time, time, .. }) = self.note(call, what, answer) {
            self.known.insert(row, time);
            self.shared.saw_time(read_time);
        }
    }

    /// A time that somebody saw.
    fn time(&mut self) -> Option<TxClock> {
        let times = self.shared.times.borrow();
        let place = self.luck.below(times.len() as u64) as usize;
        times.get(place).copied()
    }

    async fn write(&mut self, kind: Kind) {
        let from_client = !self.luck.one_in(4);
        let random: [u8; 16] = {
            let (a, b) = (self.luck.draw().to_be_bytes(), self.luck.draw().to_be_bytes());
            std::array::from_fn(|n| if n < 8 { a[n] } else { b[n - 8] })
        };
        let id = TxId::from_be_bytes(&random);
        let first = self.row();
        let mut rows = vec![first];
        if kind == Kind::Batch {
            // Of one cohort, whatever the number of cohorts.
            let mask = self.shared.plan.atlas.len() as u32 - 1;
            let hash = |row: &Row| row_hash(row.table, &row.key) & mask;
            for _ in 0..12 {
                let row = self.row();
                if hash(&row) == hash(&rows[0]) && !rows.contains(&row) && rows.len() < 4 {
                    rows.push(row);
                }
            }
        }
        let mut demand = Demand::None;
        let mut changes = BTreeMap::new();
        let mut ops = Vec::new();
        for (place, row) in rows.into_iter().enumerate() {
            let bytes = self.value(&id, place);
            let value = Value { content_type: ContentType::Json, bytes: bytes.clone() };
            let mut expect = Vec::new();
            let delete = kind == Kind::Delete || (kind == Kind::Batch && self.luck.one_in(5));
            let (op, change) = match kind {
                _ if delete => (WriteOp::Delete, Change::Delete),
                Kind::Create => (WriteOp::Create(value), Change::Create(bytes)),
                _ => (WriteOp::Update(value), Change::Put(bytes)),
            };
            if kind == Kind::PutIf {
                let version = self.known.get(&row).copied().unwrap_or_default();
                demand = Demand::Version(version);
                expect.push(Expect::VersionIn(vec![version]));
            }
            ops.push(RowOp { table: row.table, key: row.key.clone(), op, expect });
            changes.insert(row, change);
        }
        let tx = Transaction { id, id_from_client: from_client, condition: None, ops };
        if from_client {
            self.shared.was_sent(Sent { tx: tx.clone(), demand });
        }
        self.send(tx, demand, changes, kind.name()).await;
    }

    async fn send(
        &mut self,
        tx: Transaction,
        demand: Demand,
        changes: BTreeMap<Row, Change>,
        what: &'static str,
    ) {
        let asked = Asked::Write { id: tx.id.clone(), demand, changes: changes.clone() };
        let call = self.shared.begin(self.number, asked);
        let deadline = self.deadline();
        let answer = self.peer.write(tx, deadline).await;
        match self.note(call, what, answer) {
            Some(Answer::Committed(time)) => {
                self.shared.count("commits");
                self.shared.saw_time(time);
                self.known.extend(changes.into_keys().map(|row| (row, time)));
            }
            Some(Answer::Stale(latest)) => {
                self.shared.count("refusals");
                self.known.extend(changes.into_keys().map(|row| (row, latest)));
            }
            Some(Answer::Collision | Answer::Aborted) => self.shared.count("refusals"),
            _ => {}
        }
    }

    /// Sends a transaction again that somebody sent, perhaps with success.
    async fn repeat(&mut self) {
        let Some(sent) = self.somebodys() else { return };
        let changes = sent.tx.ops.iter().map(|op| {
            let change = match &op.op {
                WriteOp::Create(value) => Change::Create(value.bytes.clone()),
                WriteOp::Update(value) => Change::Put(value.bytes.clone()),
                WriteOp::Delete | WriteOp::Hold => Change::Delete,
            };
            (Row { table: op.table, key: op.key.clone() }, change)
        });
        let changes = changes.collect();
        self.send(sent.tx, sent.demand, changes, "transactions sent again").await;
    }

    fn somebodys(&mut self) -> Option<Sent> {
        let sent = self.shared.sent.borrow();
        let place = self.luck.below(sent.len() as u64) as usize;
        sent.get(place).cloned()
    }

    /// Asks what became of a transaction of anybody's.
    async fn ask(&mut self) {
        let Some(Sent { tx, .. }) = self.somebodys() else { return };
        let call = self.shared.begin(self.number, Asked::Status { id: tx.id.clone() });
        let deadline = self.deadline();
        let answer = self.peer.status(tx.id, deadline).await;
        self.note(call, "questions after a transaction", answer);
    }

    /// Scans a slice that somebody wants, or wants slices of a scan's time.
    async fn slice(&mut self) {
        let next = self.shared.slices.borrow_mut().pop_front();
        match next {
            Some((slice, at)) => self.scan(Some(at), slice).await,
            None => {
                let Some(at) = self.time() else { return };
                let count = 1i64 << self.luck.between(1, 3);
                let slices = (0..count).filter_map(|n| Some((Slice::new(n, count).ok()?, at)));
                self.shared.slices.borrow_mut().extend(slices);
            }
        }
    }

    async fn scan(&mut self, at: Option<TxClock>, slice: Slice) {
        let call = self.shared.begin(self.number, Asked::Scan { table: TABLE, slice, at });
        let deadline = self.deadline();
        let mut scan = match self.peer.scan(TABLE, slice, at, false, deadline).await {
            Ok(scan) => scan,
            Err(trouble) => {
                let answer = self.trouble(trouble);
                return self.shared.end(self.number, call, answer);
            }
        };
        let until = scan.until();
        let mut rows = Vec::new();
        let complete = loop {
            match scan.next().await {
                Ok(chunk) if chunk.is_empty() => break true,
                Ok(chunk) => {
                    rows.extend(chunk.into_iter().filter_map(|(key, time, value)| Some((key, time, value?))));
                    // Time for others to write and for leaders to fall.
                    let pause = self.luck.below(30);
                    sleep(Duration::from_millis(pause)).await;
                }
                Err(trouble) => {
                    self.trouble(trouble);
                    break false;
                }
            }
        };
        self.shared.count(match (slice.nslices(), complete) {
            (1, true) => "scans",
            (_, true) => "scanned slices",
            (_, false) => "scans cut short",
        });
        self.shared.saw_time(until);
        self.shared.end(self.number, call, Answer::Scanned { until, rows, complete });
    }

    /// Reads or writes a key of the catalog.
    async fn key(&mut self) {
        let key = format!("key-{}", self.luck.below(3));
        let invoked = self.shared.invoked();
        let deadline = self.deadline();
        let known = self.keys.get(&key).copied();
        let (answered, action) = match known {
            Some(expected) if !self.luck.one_in(3) => {
                let value = Bytes::from(format!("{:x}.{}", self.number, self.luck.draw()));
                // Written down before it is sent: should this process die now, it may have been done all the same. What
                // version it then made is found out from those who see it.
                let lost = Action::WriteIf { expected, result: Ok(0) };
                let place = self
                    .add_key_call(&key, linear::Call { invoked, answered: u64::MAX, action: lost.clone() });
                let answer = self.peer.put_key(&key, expected, value, deadline).await;
                let (answered, action) = match answer {
                    Ok(KeyAnswer::Written(version)) => {
                        self.shared.count("catalog keys written");
                        self.keys.insert(key.clone(), version);
                        let action = match expected {
                            0 => Action::Create(Some(version)),
                            _ => Action::WriteIf { expected, result: Ok(version) },
                        };
                        (self.shared.answered(), Some(action))
                    }
                    Ok(KeyAnswer::Is(version)) => {
                        self.shared.count("catalog keys found changed");
                        self.keys.insert(key.clone(), version);
                        let found = Version { time: version, live: version != 0 };
                        (self.shared.answered(), Some(Action::Read(found)))
                    }
                    Err(trouble) => match self.trouble(trouble) {
                        Answer::Nothing(_) => (self.shared.answered(), None),
                        _ => {
                            self.keys.remove(&key);
                            (u64::MAX, Some(lost))
                        }
                    },
                };
                self.shared.trace.say(|| format!("client {:x}: {key} put: {action:?}", self.number));
                let mut keys = self.shared.keys.borrow_mut();
                if let Some(call) = keys.get_mut(&key).and_then(|calls| calls.get_mut(place)) {
                    *call = action.map(|action| linear::Call { invoked, answered, action });
                }
                return;
            }
            _ => match self.peer.get_key(&key, deadline).await {
                Ok((version, _)) => {
                    self.shared.count("catalog keys read");
                    self.keys.insert(key.clone(), version);
                    (self.shared.answered(), Action::Read(Version { time: version, live: version != 0 }))
                }
                Err(trouble) => {
                    self.trouble(trouble);
                    return;
                }
            },
        };
        self.shared.trace.say(|| format!("client {:x}: {key} read: {action:?}", self.number));
        self.add_key_call(&key, linear::Call { invoked, answered, action });
    }

    /// Writes a call down, and where.
    fn add_key_call(&self, key: &str, call: linear::Call) -> usize {
        let mut keys = self.shared.keys.borrow_mut();
        let calls = keys.entry(key.to_owned()).or_default();
        calls.push(Some(call));
        calls.len() - 1
    }
}

/// What a write does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Put,
    PutIf,
    Create,
    Delete,
    Batch,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Put => "puts",
            Kind::PutIf => "conditional puts",
            Kind::Create => "creations",
            Kind::Delete => "deletions",
            Kind::Batch => "batches",
        }
    }
}

/// Holds what clients saw of the catalog's keys against what a register could do.
///
/// A write whose outcome stayed unknown has no version of its own. So every version that somebody saw and nobody is known to
/// have written is taken for the work of one of those, as long as there are enough of them.
pub fn check_keys(keys: &super::shared::KeyCalls) -> Result<(), String> {
    for (key, calls) in keys {
        let mut lost: Vec<&linear::Call> = Vec::new();
        let mut known: Vec<linear::Call> = Vec::new();
        for call in calls.iter().flatten() {
            match call.action {
                Action::WriteIf { result: Ok(0), .. } => lost.push(call),
                _ => known.push(call.clone()),
            }
        }
        let mut writers: BTreeMap<u64, usize> = BTreeMap::new();
        let mut seen: Vec<u64> = Vec::new();
        for call in &known {
            match &call.action {
                Action::Create(Some(version)) => *writers.entry(*version).or_default() += 1,
                Action::WriteIf { expected, result: Ok(version) } => {
                    *writers.entry(*version).or_default() += 1;
                    seen.push(*expected);
                }
                Action::Read(version) => seen.push(version.time),
                _ => {}
            }
        }
        if let Some((version, _)) = writers.iter().find(|(_, writers)| 1 < **writers) {
            return Err(format!("catalog key {key}: two writers were given version {version}"));
        }
        seen.sort_unstable();
        seen.dedup();
        let orphans: Vec<u64> = seen.into_iter().filter(|v| *v != 0 && !writers.contains_key(v)).collect();
        if lost.len() < orphans.len() {
            return Err(format!(
                "catalog key {key}: versions {orphans:?} were seen, nobody wrote them, and only {} outcomes are unknown",
                lost.len()
            ));
        }
        let invoked = lost.iter().map(|call| call.invoked).min().unwrap_or(0);
        known.extend(orphans.into_iter().map(|time| linear::Call {
            invoked,
            answered: u64::MAX,
            action: Action::Write(Version { time, live: true }),
        }));
        linear::check(&known).map_err(|why| format!("catalog key {key} is not linearizable: {why}"))?;
    }
    Ok(())
}
