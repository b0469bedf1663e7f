use super::*;
use crate::clock::{CohortClock, locked};
use crate::entry::Entry;
use proptest::prelude::*;
use skein_model::{ContentType, Expect, RowOp, Value};
use std::collections::BTreeMap;
use std::sync::Mutex;

const T: TableId = TableId(1);
const WALL: u64 = 1_000_000;

struct Bench {
    sequencer: Sequencer,
    clock: Mutex<CohortClock>,
    next_id: u64,
}

impl Bench {
    fn new() -> Bench {
        let mut clock = CohortClock::starting_at(TxClock(WALL));
        clock.applied(0, TxClock(u64::MAX / 2));
        Bench {
            sequencer: Sequencer::new(EntryReign { term: 3, first: 1 }, 7),
            clock: Mutex::new(clock),
            next_id: 1,
        }
    }

    fn tx(&mut self, ops: Vec<RowOp>) -> Transaction {
        self.next_id += 1;
        let id = TxId::from_be_bytes(&self.next_id.to_be_bytes());
        Transaction { id, id_from_client: false, condition: None, ops }
    }

    fn write(&mut self, tx: &Transaction, observed: &Observed) -> Verdict {
        let issue = |sequence, after| locked(&self.clock).issue(sequence, WALL, after);
        self.sequencer.write(issue, tx, false, fingerprint(tx), observed)
    }

    fn take(&mut self) -> Entry {
        let (_, bytes) = self.sequencer.take(TxClock(0)).expect("an entry is being built");
        Entry::decode(bytes).expect("our own entry")
    }
}

fn fingerprint(tx: &Transaction) -> u64 {
    if tx.id_from_client { tx.ops.len() as u64 + 1 } else { 0 }
}

fn row(key: &str, op: WriteOp) -> RowOp {
    RowOp { table: T, key: Bytes::copy_from_slice(key.as_bytes()), op, expect: Vec::new() }
}

fn value(text: &str) -> Value {
    Value { content_type: ContentType::Json, bytes: Bytes::copy_from_slice(text.as_bytes()) }
}

fn committed(verdict: &Verdict) -> TxClock {
    match verdict {
        Verdict::Decided { outcome: Outcome::Committed(time), .. } => *time,
        other => panic!("should have committed: {other:?}"),
    }
}

fn refused(verdict: &Verdict) -> Refusal {
    match verdict {
        Verdict::Decided { outcome: Outcome::Refused(refusal), .. } => refusal.clone(),
        other => panic!("should have been refused: {other:?}"),
    }
}

#[test]
fn a_condition_is_checked_against_a_version_that_is_only_proposed() {
    let mut b = Bench::new();
    let nothing_seen = Observed { sequence: 0, rows: vec![Latest::default()] };
    let create = b.tx(vec![row("a", WriteOp::Create(value("1")))]);
    let first = committed(&b.write(&create, &nothing_seen));
    let again = b.tx(vec![row("a", WriteOp::Create(value("2")))]);
    let verdict = b.write(&again, &nothing_seen);
    assert_eq!(refused(&verdict), Refusal::Collision { op: 0 });
    assert!(
        matches!(verdict, Verdict::Decided { sequence: 1, .. }),
        "true only once the first one is: {verdict:?}"
    );
    let mut conditional = b.tx(vec![row("a", WriteOp::Update(value("3")))]);
    conditional.condition = Some(first.prev());
    assert_eq!(refused(&b.write(&conditional, &nothing_seen)), Refusal::Stale { op: 0, latest: first });
    conditional.condition = Some(first);
    assert!(first < committed(&b.write(&conditional, &nothing_seen)));
}

#[test]
fn a_hot_key_pipelines_over_entries_that_are_not_applied() {
    let mut b = Bench::new();
    let mut last = TxClock::ZERO;
    for _ in 0..5 {
        let mut tx = b.tx(vec![row("hot", WriteOp::Update(value("1")))]);
        tx.condition = Some(last);
        let seen = Observed { sequence: 0, rows: vec![Latest::default()] };
        last = committed(&b.write(&tx, &seen));
        b.take();
    }
}

#[test]
fn nothing_of_a_refused_batch_is_in_the_entry() {
    let mut b = Bench::new();
    let live = Latest { time: TxClock(5), live: true };
    let tx = b.tx(vec![row("a", WriteOp::Update(value("1"))), row("b", WriteOp::Create(value("2")))]);
    let seen = Observed { sequence: 0, rows: vec![Latest::default(), live] };
    assert_eq!(refused(&b.write(&tx, &seen)), Refusal::Collision { op: 1 });
    assert_eq!(b.sequencer.take(TxClock(0)), None);
}

#[test]
fn a_stale_batch_reports_the_latest_time_over_all_its_rows() {
    let mut b = Bench::new();
    let mut tx = b.tx(vec![row("a", WriteOp::Hold), row("b", WriteOp::Delete)]);
    tx.condition = Some(TxClock(10));
    let rows = vec![Latest { time: TxClock(11), live: true }, Latest { time: TxClock(12), live: false }];
    let verdict = b.write(&tx, &Observed { sequence: 0, rows });
    assert_eq!(refused(&verdict), Refusal::Stale { op: 0, latest: TxClock(12) });
}

#[test]
fn holding_a_row_adds_no_version_to_it() {
    let mut b = Bench::new();
    let tx = b.tx(vec![row("held", WriteOp::Hold), row("written", WriteOp::Delete)]);
    b.write(&tx, &Observed::default());
    let entry = b.take();
    let keys: Vec<_> = entry.decisions[0].writes.iter().map(|w| w.key.clone()).collect();
    assert_eq!(keys, [Bytes::from_static(b"written")]);
}

#[test]
fn a_time_lies_after_the_condition_and_after_every_row() {
    let mut b = Bench::new();
    let mut tx = b.tx(vec![row("a", WriteOp::Update(value("1")))]);
    tx.condition = Some(TxClock(WALL + 500));
    let seen = Observed { sequence: 0, rows: vec![Latest { time: TxClock(WALL + 400), live: true }] };
    assert_eq!(committed(&b.write(&tx, &seen)), TxClock(WALL + 501));
}

#[test]
fn a_repeated_id_gets_the_recorded_outcome_and_is_written_once() {
    let mut b = Bench::new();
    let mut tx = b.tx(vec![row("a", WriteOp::Update(value("1")))]);
    tx.id_from_client = true;
    let first = b.write(&tx, &Observed::default());
    assert_eq!(b.write(&tx, &Observed::default()), first);
    assert_eq!(b.take().decisions.len(), 1);
    tx.ops.push(row("b", WriteOp::Delete));
    assert_eq!(b.write(&tx, &Observed::default()), Verdict::IdReused);
}

#[test]
fn a_refusal_under_a_clients_id_is_recorded() {
    let mut b = Bench::new();
    let mut tx = b.tx(vec![row("a", WriteOp::Create(value("1")))]);
    tx.id_from_client = true;
    let seen = Observed { sequence: 0, rows: vec![Latest { time: TxClock(3), live: true }] };
    let verdict = b.write(&tx, &seen);
    assert_eq!(refused(&verdict), Refusal::Collision { op: 0 });
    assert_eq!(b.take().decisions[0].outcome, Outcome::Refused(Refusal::Collision { op: 0 }));
}

#[test]
fn asking_first_aborts_the_write_that_comes_later() {
    let mut b = Bench::new();
    let mut tx = b.tx(vec![row("a", WriteOp::Update(value("1")))]);
    tx.id_from_client = true;
    b.sequencer.resolve(&tx.id, &Observed::default());
    let verdict = b.write(&tx, &Observed::default());
    assert!(matches!(verdict, Verdict::Decided { outcome: Outcome::Aborted, .. }), "{verdict:?}");
    assert!(b.take().decisions[0].writes.is_empty());
}

#[test]
fn asking_after_a_write_that_is_only_proposed_says_committed() {
    let mut b = Bench::new();
    let tx = b.tx(vec![row("a", WriteOp::Update(value("1")))]);
    let verdict = b.write(&tx, &Observed::default());
    assert_eq!(b.sequencer.resolve(&tx.id, &Observed::default()), verdict);
}

#[test]
fn a_look_up_older_than_the_memory_is_done_again() {
    let mut b = Bench::new();
    for _ in 0..=MEMORY {
        let tx = b.tx(vec![row("a", WriteOp::Update(value("1")))]);
        b.write(&tx, &Observed::default());
        b.take();
    }
    b.sequencer.applied(MEMORY + 1);
    let create = b.tx(vec![row("a", WriteOp::Create(value("2")))]);
    let old = Observed { sequence: 0, rows: vec![Latest::default()] };
    assert_eq!(b.write(&create, &old), Verdict::LookAgain);
    let fresh = Observed { sequence: 1, rows: vec![Latest::default()] };
    assert_eq!(refused(&b.write(&create, &fresh)), Refusal::Collision { op: 0 });
    let unconditional = b.tx(vec![row("a", WriteOp::Update(value("3")))]);
    committed(&b.write(&unconditional, &old));
}

#[test]
fn expectations_are_judged_with_the_conditions() {
    let mut b = Bench::new();
    let mut tx = b.tx(vec![row("a", WriteOp::Update(value("1")))]);
    tx.ops[0].expect = vec![Expect::Live];
    let missing = Observed { sequence: 0, rows: vec![Latest { time: TxClock(9), live: false }] };
    assert_eq!(refused(&b.write(&tx, &missing)), Refusal::Stale { op: 0, latest: TxClock(9) });
}

/// One random transaction over three rows: which rows, what is done to each, and how old its look-up is.
#[derive(Debug, Clone)]
struct Step {
    ops: Vec<(usize, u8)>,
    conditional: bool,
    lag: u64,
    new_entry: bool,
}

fn step() -> impl Strategy<Value = Step> {
    let ops = proptest::collection::btree_map(0..3usize, 0..4u8, 1..3);
    (ops, any::<bool>(), 0..4u64, any::<bool>()).prop_map(|(ops, conditional, lag, new_entry)| Step {
        ops: ops.into_iter().collect(),
        conditional,
        lag,
        new_entry,
    })
}

proptest! {
    /// Whatever look-up a request comes with, fresh or some entries old, the sequencer decides as a database that
    /// runs one transaction after the other.
    #[test]
    fn outcomes_are_those_of_a_serial_execution(steps in proptest::collection::vec(step(), 1..60)) {
        let mut b = Bench::new();
        // History of the rows as of each entry: what a look-up at that sequence would have seen.
        let mut states: Vec<BTreeMap<usize, Latest>> = vec![BTreeMap::new()];
        let mut serial: BTreeMap<usize, Latest> = BTreeMap::new();
        for step in steps {
            let names = ["x", "y", "z"];
            let ops = step.ops.iter().map(|(r, op)| row(names[*r], match op {
                0 => WriteOp::Create(value("c")),
                1 => WriteOp::Hold,
                2 => WriteOp::Update(value("u")),
                _ => WriteOp::Delete,
            })).collect();
            let mut tx = b.tx(ops);
            let applied = states.len() as u64 - 1;
            let at = applied.saturating_sub(step.lag);
            if step.conditional {
                let known = step.ops.iter().filter_map(|(r, _)| states[at as usize].get(r)).map(|l| l.time).max();
                tx.condition = Some(known.unwrap_or(TxClock::ZERO));
            }
            let rows = step.ops.iter().map(|(r, _)| states[at as usize].get(r).copied().unwrap_or_default()).collect();
            let verdict = b.write(&tx, &Observed { sequence: at, rows });
            let collides = step.ops.iter().any(|(r, op)| *op == 0 && serial.get(r).is_some_and(|l| l.live));
            let stale = tx.condition.is_some_and(|ct| step.ops.iter().any(|(r, op)|
                *op != 0 && serial.get(r).is_some_and(|l| ct < l.time)));
            match verdict {
                Verdict::Decided { outcome: Outcome::Committed(time), .. } => {
                    prop_assert!(!collides && !stale);
                    for (r, op) in &step.ops {
                        prop_assert!(serial.get(r).is_none_or(|l| l.time < time));
                        if *op != 1 {
                            serial.insert(*r, Latest { time, live: *op != 3 });
                        }
                    }
                }
                Verdict::Decided { outcome: Outcome::Refused(Refusal::Collision { .. }), .. } => prop_assert!(collides),
                Verdict::Decided { outcome: Outcome::Refused(Refusal::Stale { .. }), .. } => prop_assert!(stale && !collides),
                other => prop_assert!(false, "{:?}", other),
            }
            if step.new_entry && b.sequencer.take(TxClock(0)).is_some() {
                states.push(serial.clone());
                b.sequencer.applied(states.len() as u64 - 1);
            }
        }
    }
}

#[test]
fn the_refusal_of_a_transaction_that_may_come_again_is_recorded() {
    let mut b = Bench::new();
    let live = Observed { sequence: 0, rows: vec![Latest { time: TxClock(5), live: true }] };
    let tx = b.tx(vec![row("a", WriteOp::Create(value("1")))]);
    let verdict = b.sequencer.write(|_, _| unreachable!("it is refused"), &tx, true, 0, &live);
    assert_eq!(refused(&verdict), Refusal::Collision { op: 0 });
    assert_eq!(b.take().decisions[0].outcome, Outcome::Refused(Refusal::Collision { op: 0 }));
    // The row is gone meanwhile, and the duplicate arrives.
    let gone = Observed { sequence: 1, rows: vec![Latest { time: TxClock(6), live: false }] };
    assert_eq!(b.sequencer.write(|_, _| unreachable!("it was refused"), &tx, true, 0, &gone), verdict);
}

#[test]
fn what_was_looked_up_for_an_earlier_leader_is_looked_up_again() {
    let mut b = Bench::new();
    b.sequencer = Sequencer::new(EntryReign { term: 4, first: 12 }, 7);
    let tx = b.tx(vec![row("a", WriteOp::Create(value("1")))]);
    let seen = |sequence| Observed { sequence, rows: vec![Latest::default()] };
    assert_eq!(b.write(&tx, &seen(10)), Verdict::LookAgain);
    committed(&b.write(&tx, &seen(11)));
    let entry = b.take();
    assert_eq!(
        (entry.reign, entry.proposer, entry.sequence),
        (Some(EntryReign { term: 4, first: 12 }), 7, 12)
    );
}
