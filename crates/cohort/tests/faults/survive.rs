//! What has to be true of a cohort that was started on what a crash left.

use crate::journal::Event;
use crate::machine::{Machine, TABLE, id, on_runtime, put, soon};
use bytes::Bytes;
use skein_cohort::{Cohort, Outcome, ScanOptions};
use skein_model::{Pick, Slice, Transaction, TxClock, TxId, Value, WriteOp};
use skein_storage::rows::ChunkBudget;
use std::collections::{BTreeMap, HashMap};

/// What each row that a transaction writes holds afterwards.
type Writes = BTreeMap<Bytes, Option<Value>>;

/// The versions in the store, by time: all those of one time have to be of one transaction.
pub async fn versions(cohort: &Cohort) -> BTreeMap<TxClock, Writes> {
    let options = ScanOptions {
        table: TABLE,
        pick: Pick::Between,
        since: TxClock::ZERO,
        until: None,
        key: Bytes::new(),
        time: TxClock::MAX,
        end: None,
        slice: Slice::ALL,
    };
    let mut scan = cohort.scan(options, soon()).await.unwrap();
    let mut versions: BTreeMap<TxClock, Writes> = BTreeMap::new();
    loop {
        let rows = scan.next(ChunkBudget { rows: 7, bytes: 10_000 }).await.unwrap();
        if rows.is_empty() {
            return versions;
        }
        for row in rows {
            versions.entry(row.time).or_default().insert(row.key, row.value);
        }
    }
}

fn writes_of(tx: &Transaction) -> Writes {
    let writes = tx.ops.iter().filter_map(|op| match &op.op {
        WriteOp::Hold => None,
        WriteOp::Create(value) | WriteOp::Update(value) => Some((op.key.clone(), Some(value.clone()))),
        WriteOp::Delete => Some((op.key.clone(), None)),
    });
    writes.collect()
}

/// Starts a cohort on `machine` and holds it against what clients saw (`seen`) and may have sent (`all`).
pub fn assert_survived(machine: &Machine, seen: &[Event], all: &[Event], what: &str) {
    on_runtime(async {
        let cohort = machine.start().await;
        check(&cohort, seen, all, what).await;
    });
}

/// As [`assert_survived`], of a cohort that is running.
pub async fn check(cohort: &Cohort, seen: &[Event], all: &[Event], what: &str) {
    let mut sent: HashMap<TxId, &Transaction> = HashMap::new();
    for event in all {
        if let Event::Sent(tx) = event {
            sent.insert(tx.id.clone(), tx);
        }
    }
    let mut told: HashMap<TxId, Outcome> = HashMap::new();
    let mut latest = TxClock::ZERO;
    for event in seen {
        match event {
            Event::Sent(_) => {}
            Event::Told(id, outcome) => {
                if let Outcome::Committed(time) = outcome {
                    latest = latest.max(*time);
                }
                let before = told.insert(id.clone(), outcome.clone());
                assert!(before.is_none_or(|b| b == *outcome), "{what}: {id} changed to {outcome:?}");
            }
            Event::Found(_, read) => latest = latest.max(read.read_time),
        }
    }
    let found = versions(cohort).await;
    assert_each_whole(&found, &sent, &told, what);

    // What was read can be read again.
    for event in seen {
        if let Event::Found(key, before) = event {
            let now = cohort.read(TABLE, key.as_bytes(), Some(before.read_time), soon()).await;
            let now = now.unwrap_or_else(|e| panic!("{what}: {key} at {}: {e}", before.read_time));
            assert_eq!(&now, before, "{what}: {key} reads differently at {}", before.read_time);
        }
    }

    // Statuses stay, and what nobody was told yet is decided by what is there.
    let by_row: HashMap<(&Bytes, &Bytes), TxClock> = found
        .iter()
        .flat_map(|(time, rows)| rows.iter().map(move |(key, value)| (key, value, *time)))
        .filter_map(|(key, value, time)| value.as_ref().map(|value| ((key, &value.bytes), time)))
        .collect();
    // All at once, so that they share their entries.
    let ask = sent.keys().map(|id| cohort.tx_status(id.clone(), soon()));
    let statuses = futures_util::future::join_all(ask).await;
    for ((id, tx), status) in sent.iter().zip(statuses) {
        let status = status.unwrap();
        match told.get(id) {
            Some(outcome) => assert_eq!(&status, outcome, "{what}: the status of {id}"),
            None => {
                let writes = writes_of(tx);
                let valued = writes.iter().find_map(|(k, v)| v.as_ref().map(|v| (k, &v.bytes)));
                if let Some(row) = valued {
                    let present = by_row.get(&row).copied();
                    let committed = if let Outcome::Committed(time) = status { Some(time) } else { None };
                    assert_eq!(committed, present, "{what}: {id} is {status:?}, its row has {present:?}");
                }
            }
        }
    }

    // New writes come after everything seen and everything there.
    let newest = found.last_key_value().map_or(TxClock::ZERO, |(time, _)| *time);
    let outcome = cohort.write(put(u64::MAX, "a", "after"), false, soon()).await.unwrap();
    let Outcome::Committed(time) = outcome else { panic!("{what}: a plain put got {outcome:?}") };
    assert!(latest < time && newest < time, "{what}: {time} after {latest} was seen and {newest} written");
    assert_eq!(
        cohort.write(put(u64::MAX, "a", "after"), false, soon()).await.unwrap(),
        outcome,
        "{what}: repeated"
    );
    assert_eq!(cohort.tx_status(id(u64::MAX), soon()).await.unwrap(), outcome, "{what}");
    let read = cohort.read(TABLE, b"a", None, soon()).await.unwrap();
    assert_eq!(read.time, time, "{what}: the newest write is read");
}

/// Each time in the store is that of one transaction, all of it; and every transaction told to be committed is there.
fn assert_each_whole(
    found: &BTreeMap<TxClock, Writes>,
    sent: &HashMap<TxId, &Transaction>,
    told: &HashMap<TxId, Outcome>,
    what: &str,
) {
    let mut committed: HashMap<TxClock, &TxId> = HashMap::new();
    for (id, outcome) in told {
        let Outcome::Committed(time) = outcome else { continue };
        let twice = committed.insert(*time, id);
        assert!(twice.is_none(), "{what}: {id} and {twice:?} both have the time {time}");
        let Some(tx) = sent.get(id) else { panic!("{what}: {id} is committed and was never sent") };
        assert_eq!(found.get(time), Some(&writes_of(tx)), "{what}: {id}, committed at {time}");
    }
    let mut unclaimed: Vec<Writes> =
        sent.iter().filter(|(id, _)| !told.contains_key(*id)).map(|(_, tx)| writes_of(tx)).collect();
    for (time, writes) in found {
        if !committed.contains_key(time) {
            let at = unclaimed.iter().position(|other| other == writes);
            let Some(at) = at else {
                panic!("{what}: {time} holds no transaction that was sent: {writes:?}")
            };
            unclaimed.swap_remove(at);
        }
    }
}
