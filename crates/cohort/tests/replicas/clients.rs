//! Clients that follow leaders, repeat what they heard nothing of, and note what they were told.

use crate::network::Random;
use crate::world::{World, pause};
use bytes::Bytes;
use skein_cohort::{Cohort, CohortError, Outcome, Read};
use skein_model::{ContentType, Refusal, RowOp, TableId, Transaction, TxClock, TxId, Value, WriteOp};
use skein_sim::check::linear::{Action, Call, Version, check};
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

pub const TABLE: TableId = TableId(7);
const KEYS: [&str; 3] = ["a", "b", "c"];
/// How long one replica is asked before the next one is.
const PATIENCE: Duration = Duration::from_millis(700);

pub fn write_of(number: u64, from_client: bool, key: &str, op: WriteOp) -> Transaction {
    let row = RowOp { table: TABLE, key: Bytes::copy_from_slice(key.as_bytes()), op, expect: Vec::new() };
    let id = TxId::from_be_bytes(&number.to_be_bytes());
    Transaction { id, id_from_client: from_client, condition: None, ops: vec![row] }
}

pub fn value(number: u64) -> Value {
    Value {
        content_type: ContentType::Json,
        bytes: Bytes::from(format!("{{\"n\":{number},\"pad\":\"{:0200}\"}}", 0)),
    }
}

/// A write that nobody was told the outcome of.
struct Open {
    key: &'static str,
    tx: Transaction,
    invoked: u64,
}

/// What clients did and were told; clones share it.
#[derive(Clone, Default)]
pub struct Histories {
    calls: Arc<Mutex<BTreeMap<&'static str, Vec<Call>>>>,
    open: Arc<Mutex<Vec<Open>>>,
    repeated: Arc<Mutex<u64>>,
}

impl Histories {
    fn note(&self, key: &'static str, invoked: u64, answered: u64, action: Action) {
        self.calls.lock().unwrap().entry(key).or_default().push(Call { invoked, answered, action });
    }

    /// How many calls were answered, how many writes were left open, and how often a call was repeated.
    pub fn counts(&self) -> (usize, usize, u64) {
        let calls = self.calls.lock().unwrap().values().map(Vec::len).sum();
        (calls, self.open.lock().unwrap().len(), *self.repeated.lock().unwrap())
    }

    /// Finds out what became of the open writes, then whether each row's history is linearizable.
    pub async fn check(&self, world: &World, what: &str) {
        let open = std::mem::take(&mut *self.open.lock().unwrap());
        let mut random = Random(1);
        for Open { key, tx, invoked } in open {
            let id = tx.id.clone();
            let deadline = Instant::now() + Duration::from_secs(60);
            let status = ask(world, &mut random, self, deadline, |cohort, _, until| {
                let id = id.clone();
                async move { cohort.tx_status(id, until).await }
            });
            let status = status.await.unwrap_or_else(|e| panic!("{what}: the status of {id}: {e}"));
            if let Outcome::Committed(_) = status {
                self.note(key, invoked, u64::MAX, action(&tx, status));
            }
        }
        for (key, calls) in &*self.calls.lock().unwrap() {
            if let Err(why) = check(calls) {
                panic!("{what}: row {key} is not linearizable: {why}");
            }
        }
    }
}

/// What a transaction on one row did.
fn action(tx: &Transaction, outcome: Outcome) -> Action {
    match (&tx.ops[0].op, tx.condition, outcome) {
        (WriteOp::Create(_), _, Outcome::Committed(time)) => Action::Create(Some(time.0)),
        (WriteOp::Create(_), _, Outcome::Refused(Refusal::Collision { .. })) => Action::Create(None),
        (WriteOp::Update(_), None, Outcome::Committed(time)) => {
            Action::Write(Version { time: time.0, live: true })
        }
        (WriteOp::Delete, None, Outcome::Committed(time)) => {
            Action::Write(Version { time: time.0, live: false })
        }
        // Only ever tried on a version that was seen as a value, and nothing writes an older time later.
        (WriteOp::Update(_), Some(seen), Outcome::Committed(time)) => {
            Action::WriteIf { expected: seen.0, result: Ok(time.0) }
        }
        (WriteOp::Update(_), Some(seen), Outcome::Refused(Refusal::Stale { latest, .. })) => {
            Action::WriteIf { expected: seen.0, result: Err(latest.0) }
        }
        (op, condition, outcome) => panic!("{op:?} on {condition:?} got {outcome:?}"),
    }
}

/// Asks one replica after the other until one answers.
async fn ask<T, F>(
    world: &World,
    random: &mut Random,
    histories: &Histories,
    deadline: Instant,
    request: impl Fn(Cohort, bool, Instant) -> F,
) -> Result<T, CohortError>
where
    F: Future<Output = Result<T, CohortError>> + Send + 'static,
    T: Send + 'static,
{
    let mut again = false;
    let mut hint = world.leader();
    let mut last = CohortError::NotLeader { leader: None };
    while Instant::now() < deadline {
        let number = hint.take().unwrap_or_else(|| 1 + random.below(world.machines()));
        if let Some(cohort) = world.cohort(number) {
            let until = deadline.min(Instant::now() + PATIENCE);
            // Goes on by itself when the client despairs of it, as on another machine.
            let asked = tokio::spawn(request(cohort, again, until + PATIENCE));
            match tokio::time::timeout_at(until, asked).await {
                Ok(Ok(Ok(answer))) => return Ok(answer),
                Ok(Ok(Err(CohortError::NotLeader { leader }))) => hint = leader.map(|leader| leader.store.0),
                Ok(Ok(Err(error @ (CohortError::IdReused { .. } | CohortError::FutureTime(_))))) => {
                    return Err(error);
                }
                Ok(Ok(Err(error))) => last = error,
                Ok(Err(_)) | Err(_) => {}
            }
        }
        again = true;
        *histories.repeated.lock().unwrap() += 1;
        pause(5 + random.below(40)).await;
    }
    Err(last)
}

/// One client's life until `end`.
pub async fn client(world: World, histories: Histories, seed: u64, client: u64, end: Instant) {
    let mut random = Random(seed.wrapping_mul(0x1_0000).wrapping_add(client));
    let mut seen: BTreeMap<&str, (u64, bool)> = BTreeMap::new();
    let mut step = 0;
    while Instant::now() < end {
        step += 1;
        let number = (seed << 40) + (client << 32) + step;
        let key = KEYS[random.below(3) as usize];
        let deadline = Instant::now() + Duration::from_secs(4);
        let invoked = world.moment();
        if random.one_in(2) {
            let read =
                ask(&world, &mut random, &histories, deadline, |cohort: Cohort, _, until| async move {
                    cohort.read(TABLE, key.as_bytes(), None, until).await
                });
            if let Ok(Read { time, value, .. }) = read.await {
                let version = Version { time: time.0, live: value.is_some() };
                seen.insert(key, (version.time, version.live));
                histories.note(key, invoked, world.moment(), Action::Read(version));
            }
        } else {
            let (op, condition) = match random.below(4) {
                0 => (WriteOp::Create(value(number)), None),
                1 => (WriteOp::Delete, None),
                2 => match seen.get(key) {
                    Some((time, true)) => (WriteOp::Update(value(number)), Some(TxClock(*time))),
                    _ => (WriteOp::Update(value(number)), None),
                },
                _ => (WriteOp::Update(value(number)), None),
            };
            let mut tx = write_of(number, random.one_in(2), key, op);
            tx.condition = condition;
            let told = ask(&world, &mut random, &histories, deadline, |cohort: Cohort, again, until| {
                let tx = tx.clone();
                async move { cohort.write(tx, again, until).await }
            });
            match told.await {
                Ok(outcome) => histories.note(key, invoked, world.moment(), action(&tx, outcome)),
                Err(_) => histories.open.lock().unwrap().push(Open { key, tx, invoked }),
            }
        }
        pause(random.below(30)).await;
    }
}
