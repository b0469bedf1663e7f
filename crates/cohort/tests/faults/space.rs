//! The drive is full, and then it is not.

use crate::journal::Journal;
use crate::machine::{Machine, after_millis, id, json, on_runtime, op, put, soon, tx};
use crate::survive::{assert_survived, check};
use skein_cohort::{Cohort, CohortError, Outcome};
use skein_model::WriteOp;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

fn is_full<T: std::fmt::Debug>(result: &Result<T, CohortError>) -> bool {
    matches!(result, Err(CohortError::Full { .. }))
}

/// Writes rows of about `bytes`, `at_once` of them at a time, until one is refused; panics when none ever is.
async fn fill(cohort: &Cohort, journal: &Journal, first: u64, bytes: usize, at_once: u64) -> u64 {
    let long = "x".repeat(bytes);
    for round in 0..400 {
        let from = first + round * at_once;
        let writes = (from..from + at_once)
            .map(|n| journal.write(cohort, put(n, &format!("k{}", n % 9), &format!("{n}{long}")), soon()));
        let results = futures_util::future::join_all(writes).await;
        for result in &results {
            assert!(result.is_ok() || is_full(result), "{result:?}");
        }
        if results.iter().any(is_full) {
            return from + at_once;
        }
    }
    panic!("the drive never filled up");
}

/// The log and the store notice new space within some milliseconds.
async fn until_there_is_room<T, F>(attempt: impl Fn() -> F) -> T
where
    F: Future<Output = Result<T, CohortError>>,
{
    let deadline = soon();
    while Instant::now() < deadline {
        match attempt().await {
            Ok(done) => return done,
            Err(CohortError::Full { .. }) => tokio::time::sleep(Duration::from_millis(5)).await,
            Err(error) => panic!("{error}"),
        }
    }
    panic!("the space was never noticed");
}

#[test]
fn a_full_log_refuses_writes_and_goes_on_when_there_is_space_again() {
    for (bytes, at_once) in [(400, 1), (1000, 1), (1000, 8), (3000, 24), (6000, 3), (60, 150)] {
        let machine = Machine { segment_bytes: 16 << 10, ..Machine::new() };
        let journal = Journal::default();
        let crashed = on_runtime(async {
            let cohort = machine.start().await;
            machine.disk.set_capacity(90 << 10);
            let next = fill(&cohort, &journal, 0, bytes, at_once).await;
            assert_eq!(cohort.failure(), None);
            // Reads go on.
            for key in 0..9 {
                journal.read(&cohort, &format!("k{key}"), None, soon()).await.unwrap();
            }
            assert_eq!(cohort.failure(), None);
            machine.disk.set_capacity(1 << 20);
            until_there_is_room(|| journal.write(&cohort, put(next, "k0", "after"), soon())).await;
            // That may have found a last free place; the log asks the disk again after 20 milliseconds.
            tokio::time::sleep(Duration::from_millis(30)).await;
            let (events, crashed) = (journal.events(), machine.crashed(1));
            check(&cohort, &events, &events, "with space again").await;
            crashed
        });
        let events = journal.events();
        assert_survived(&crashed, &events, &events, &format!("{at_once} of {bytes} bytes at a time"));
    }
}

#[test]
fn a_drive_that_fills_up_and_empties_again_and_again_costs_nothing_but_refusals() {
    let machine = Machine { segment_bytes: 16 << 10, ..Machine::new() };
    let journal = Journal::default();
    on_runtime(async {
        let cohort = machine.start().await;
        machine.disk.set_capacity(150 << 10);
        let mut next = 0;
        for _ in 0..6 {
            next = fill(&cohort, &journal, next, 700, 12).await + 1;
            // A checkpoint lets the log be cut, and that makes space.
            cohort.checkpoint().await.unwrap();
            until_there_is_room(|| journal.write(&cohort, put(next, "k", &"x".repeat(6000)), soon())).await;
            next += 1;
        }
        assert_eq!(cohort.failure(), None);
    });
    let events = journal.events();
    assert_survived(&machine.crashed(3), &events, &events, "after the last time");
}

#[test]
fn a_cohort_told_that_there_is_no_room_writes_nothing_and_reads_on() {
    let machine = Machine::new();
    let journal = Journal::default();
    on_runtime(async {
        let cohort = machine.start().await;
        journal.write(&cohort, put(1, "k", "before"), soon()).await.unwrap();
        machine.no_room.store(true, Ordering::SeqCst);
        let syncs = machine.disk.sync_count();
        assert!(is_full(&journal.write(&cohort, put(2, "k", "during"), soon()).await));
        // Even asking is a write, when nothing was decided.
        assert!(is_full(&journal.status(&cohort, id(2), soon()).await));
        // The ceiling cannot be raised any more, however much time goes by.
        machine.advance(crate::machine::HOUR);
        let read = journal.read(&cohort, "k", None, soon()).await.unwrap();
        assert_eq!(read.value, Some(json("before")));
        assert_eq!(machine.disk.sync_count(), syncs);
        machine.no_room.store(false, Ordering::SeqCst);
        journal.write(&cohort, put(2, "k", "during"), soon()).await.unwrap();
    });
    let events = journal.events();
    assert_survived(&machine.crashed(4), &events, &events, "with room again");
}

#[test]
fn a_full_store_keeps_what_the_log_has_refuses_more_and_catches_up_when_there_is_space() {
    let machine = Machine::new();
    let journal = Journal::default();
    let crashed = on_runtime(async {
        let cohort = machine.start().await;
        journal.write(&cohort, put(1, "a", "before"), soon()).await.unwrap();
        machine.engine.set_full(true);
        // In the log, and waiting for room in the store: its fate is not known yet, and it is never half there.
        let both = vec![op("a", WriteOp::Update(json("two"))), op("b", WriteOp::Update(json("two")))];
        let stuck = journal.write(&cohort, tx(2, both), after_millis(30)).await;
        assert!(matches!(stuck, Err(CohortError::Unknown { .. })), "{stuck:?}");
        // Reads of the present show what was acknowledged.
        for (key, value) in [("a", Some(json("before"))), ("b", None)] {
            let read = journal.read(&cohort, key, None, soon()).await.unwrap();
            assert_eq!(read.value, value);
        }
        // More writes are refused at once rather than left to wait.
        for n in 3..8 {
            let refused = journal.write(&cohort, put(n, "c", "never"), soon()).await;
            assert!(is_full(&refused), "{refused:?}");
        }
        // Checkpoints fail and can be repeated.
        let checkpoint = cohort.checkpoint().await;
        assert!(is_full(&checkpoint), "{checkpoint:?}");
        assert_eq!(cohort.failure(), None);

        machine.engine.set_full(false);
        let status = until_there_is_room(|| journal.status(&cohort, id(2), soon())).await;
        assert!(matches!(status, Outcome::Committed(_)), "{status:?}");
        journal.write(&cohort, put(9, "c", "after"), soon()).await.unwrap();
        cohort.checkpoint().await.unwrap();
        let (events, crashed) = (journal.events(), machine.crashed(5));
        check(&cohort, &events, &events, "with space again").await;
        crashed
    });
    let events = journal.events();
    assert_survived(&crashed, &events, &events, "after all");
}

#[test]
fn a_checkpoint_that_finds_no_space_stops_nothing() {
    let machine = Machine { checkpoint_log_bytes: 1, ..Machine::new() };
    let journal = Journal::default();
    on_runtime(async {
        machine.engine.fail_next_checkpoint(skein_storage::engine::Fault::Full);
        let cohort = machine.start().await;
        for number in 0..20 {
            journal.write(&cohort, put(number, "k", "v"), soon()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        machine.engine.fail_next_checkpoint(skein_storage::engine::Fault::Full);
        assert!(is_full(&cohort.checkpoint().await));
        journal.write(&cohort, put(20, "k", "v"), soon()).await.unwrap();
        assert_eq!(cohort.failure(), None);
    });
    let events = journal.events();
    assert_survived(&machine.crashed(6), &events, &events, "after all");
}

#[test]
fn a_transaction_that_no_log_record_can_hold_is_refused_and_harms_nobody() {
    let machine = Machine { segment_bytes: 16 << 10, ..Machine::new() };
    let journal = Journal::default();
    on_runtime(async {
        let cohort = machine.start().await;
        let too_large = put(1, "k", &"x".repeat(20_000));
        let beside = (2..30).map(|n| journal.write(&cohort, put(n, "k", &"x".repeat(700)), soon()));
        let (refused, beside) = futures_util::future::join(
            journal.write(&cohort, too_large, soon()),
            futures_util::future::join_all(beside),
        )
        .await;
        assert!(is_full(&refused), "{refused:?}");
        assert!(beside.iter().all(Result::is_ok), "{beside:?}");
    });
    let events = journal.events();
    assert_survived(&machine.crashed(7), &events, &events, "after all");
}
