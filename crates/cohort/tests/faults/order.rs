//! Many clients at once, without faults: each row behaves as if calls came one at a time, and times agree with that.

use crate::machine::{Machine, Random, TABLE, json, op, put, seeds, soon, tx};
use skein_cohort::{Cohort, Outcome};
use skein_model::{Expect, Refusal, TxClock, WriteOp};
use skein_sim::check::linear::{Action, Call, Version, check};
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

const KEYS: [&str; 3] = ["x", "y", "z"];

/// A call on a row, and the time it happened at: that of the version written, or the one read at.
type Recorded = (&'static str, Call, TxClock);

#[derive(Clone, Default)]
struct Recorder {
    counter: Arc<AtomicU64>,
    calls: Arc<Mutex<Vec<Recorded>>>,
}

impl Recorder {
    fn tick(&self) -> u64 {
        self.counter.fetch_add(1, Ordering::SeqCst)
    }

    fn add(&self, key: &'static str, invoked: u64, action: Action, at: TxClock) {
        let answered = self.tick();
        self.calls.lock().unwrap().push((key, Call { invoked, answered, action }, at));
    }
}

async fn client(machine: Machine, cohort: Cohort, recorder: Recorder, seed: u64, steps: u64) {
    let mut random = Random(seed);
    let mut seen: BTreeMap<&str, TxClock> = BTreeMap::new();
    for step in 0..steps {
        machine.advance(random.below(2));
        let key = KEYS[random.below(3) as usize];
        let number = (seed << 16) + step;
        let known = seen.get(key).copied().unwrap_or_default();
        let mut tx = put(number, key, &format!("{number}"));
        tx.id_from_client = random.one_in(2);
        let invoked = recorder.tick();
        let committed = |outcome: &Outcome| match outcome {
            Outcome::Committed(time) => Some(*time),
            Outcome::Refused(_) | Outcome::Aborted => None,
        };
        match random.below(12) {
            0..=3 => {
                let read = cohort.read(TABLE, key.as_bytes(), None, soon()).await.unwrap();
                let version = Version { time: read.time.0, live: read.value.is_some() };
                recorder.add(key, invoked, Action::Read(version), read.read_time);
                seen.insert(key, read.time);
            }
            4 | 5 => {
                let outcome = cohort.write(tx, false, soon()).await.unwrap();
                let time = committed(&outcome).unwrap();
                recorder.add(key, invoked, Action::Write(Version { time: time.0, live: true }), time);
                seen.insert(key, time);
            }
            6 => {
                tx.ops[0].op = WriteOp::Delete;
                let outcome = cohort.write(tx, false, soon()).await.unwrap();
                let time = committed(&outcome).unwrap();
                recorder.add(key, invoked, Action::Write(Version { time: time.0, live: false }), time);
            }
            7 => {
                tx.ops[0].op = WriteOp::Create(json("created"));
                let time = committed(&cohort.write(tx, false, soon()).await.unwrap());
                recorder.add(key, invoked, Action::Create(time.map(|t| t.0)), time.unwrap_or_default());
            }
            _ => {
                tx.ops[0].expect = vec![Expect::VersionIn(vec![known])];
                let outcome = cohort.write(tx, false, soon()).await.unwrap();
                let (result, at) = match &outcome {
                    Outcome::Committed(time) => (Ok(time.0), *time),
                    Outcome::Refused(Refusal::Stale { latest, .. }) => (Err(latest.0), TxClock::ZERO),
                    other => panic!("{other:?}"),
                };
                recorder.add(key, invoked, Action::WriteIf { expected: known.0, result }, at);
                seen.insert(key, TxClock(result.unwrap_or_else(|latest| latest)));
            }
        }
        if random.one_in(4) {
            tokio::task::yield_now().await;
        }
    }
}

/// Whatever was answered before something else was called for has the earlier time, on whatever row.
fn assert_strict(calls: &[Recorded], what: &str) {
    let mut by_answer: Vec<&Recorded> = calls.iter().collect();
    by_answer.sort_by_key(|(_, call, _)| call.answered);
    let mut by_call: Vec<&Recorded> = calls.iter().collect();
    by_call.sort_by_key(|(_, call, _)| call.invoked);
    let mut answered = by_answer.into_iter().peekable();
    let mut latest = TxClock::ZERO;
    for (key, call, at) in by_call {
        while let Some((_, _, time)) = answered.next_if(|(_, before, _)| before.answered < call.invoked) {
            latest = latest.max(*time);
        }
        let in_order = match &call.action {
            Action::Read(_) => latest <= *at,
            Action::Write(_) | Action::WriteIf { result: Ok(_), .. } | Action::Create(Some(_)) => {
                latest < *at
            }
            Action::WriteIf { .. } | Action::Create(None) => true,
        };
        assert!(in_order, "{what}: {key}: {call:?} at {at}, and {latest} had been answered before");
    }
}

async fn many_clients(seed: u64, clients: u64, steps: u64) {
    let machine = Machine::new();
    let cohort = machine.start().await;
    let recorder = Recorder::default();
    let tasks: Vec<_> = (0..clients)
        .map(|n| {
            let client = client(machine.clone(), cohort.clone(), recorder.clone(), seed * 1000 + n, steps);
            tokio::spawn(client)
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let calls = recorder.calls.lock().unwrap().clone();
    assert_eq!(calls.len() as u64, clients * steps);
    let what = format!("seed {seed}");
    for key in KEYS {
        let of_row: Vec<Call> =
            calls.iter().filter(|(k, ..)| *k == key).map(|(_, call, _)| call.clone()).collect();
        if let Err(why) = check(&of_row) {
            panic!("{what}: row {key}: {why}");
        }
    }
    assert_strict(&calls, &what);
}

fn on_two_threads<T>(story: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_time().build().unwrap().block_on(story)
}

#[test]
fn rows_behave_as_if_calls_came_one_at_a_time() {
    for seed in seeds(10) {
        crate::machine::on_runtime(many_clients(seed, 5, 60));
    }
}

#[test]
fn rows_behave_as_if_calls_came_one_at_a_time_on_two_threads() {
    for seed in seeds(6) {
        on_two_threads(many_clients(seed, 6, 80));
    }
}

#[test]
fn a_batch_is_seen_whole_or_not_at_all_at_any_time_read() {
    for seed in seeds(3) {
        on_two_threads(async {
            let machine = Machine::new();
            let cohort = machine.start().await;
            let writer = |client: u64| {
                let (cohort, machine) = (cohort.clone(), machine.clone());
                tokio::spawn(async move {
                    for step in 0..40 {
                        machine.advance(1);
                        let value = json(&format!("{client}.{step}"));
                        let ops = ["p", "q"].map(|key| op(key, WriteOp::Update(value.clone())));
                        let number = (seed << 32) + (client << 16) + step;
                        cohort.write(tx(number, ops.to_vec()), false, soon()).await.unwrap();
                    }
                })
            };
            let writers = [writer(1), writer(2)];
            let mut times = 0;
            while !writers.iter().all(|writer| writer.is_finished()) || times == 0 {
                let one = cohort.read(TABLE, b"p", None, soon()).await.unwrap();
                let other = cohort.read(TABLE, b"q", Some(one.read_time), soon()).await.unwrap();
                assert_eq!(one, other, "seed {seed}");
                times += 1;
                tokio::task::yield_now().await;
            }
        });
    }
}
