//! A sync of the log fails: nobody knows what the disk has.

use crate::journal::Journal;
use crate::machine::{EPOCH, HOUR, Machine, Random, TABLE, json, on_runtime, put, seeds, soon};
use crate::survive::assert_survived;
use crate::workload::{Plan, run};
use skein_cohort::CohortError;
use skein_model::TxClock;

fn says_so(error: &CohortError) -> bool {
    matches!(error, CohortError::Unknown { .. } | CohortError::DiskFailed { .. })
}

#[test]
fn after_a_failed_sync_waiting_writers_hear_that_nothing_is_known_and_later_ones_are_refused() {
    for seed in 0..4 {
        let machine = Machine::new();
        let journal = Journal::default();
        on_runtime(async {
            let cohort = machine.start().await;
            journal.write(&cohort, put(1, "a", "before"), soon()).await.unwrap();
            machine.disk.fail_sync_after(0);
            let waiting = (2..8).map(|n| journal.write(&cohort, put(n, "a", "during"), soon()));
            for result in futures_util::future::join_all(waiting).await {
                let error = result.unwrap_err();
                assert!(says_so(&error), "{error}");
            }
            // The disk may do better now: it does not matter.
            machine.disk.fail_sync_after(u64::MAX);
            for n in 10..13 {
                let error = journal.write(&cohort, put(n, "a", "after"), soon()).await.unwrap_err();
                assert!(matches!(error, CohortError::DiskFailed { .. }), "{error}");
                assert!(error.to_string().contains("told to fail"), "{error} names no cause");
            }
            let failure = cohort.failure();
            assert!(matches!(failure, Some(CohortError::DiskFailed { .. })), "{failure:?}");
            match journal.read(&cohort, "a", None, soon()).await {
                Ok(read) => assert_eq!(read.value, Some(json("before"))),
                Err(error) => assert!(matches!(error, CohortError::DiskFailed { .. }), "{error}"),
            }
        });
        let events = journal.events();
        assert_survived(&machine.crashed(seed), &events, &events, &format!("crash {seed}"));
    }
}

#[test]
fn whatever_sync_fails_what_was_answered_is_there_after_a_restart() {
    for seed in seeds(12) {
        let machine = Machine { segment_bytes: 16 << 10, checkpoint_log_bytes: 4 << 10, ..Machine::new() };
        let journal = Journal::default();
        on_runtime(async {
            let cohort = machine.start().await;
            let mut random = Random(seed);
            machine.disk.fail_sync_after(random.below(25));
            let plan = Plan { clients: 3, steps: 30, checkpoints: true, clock_jumps: true };
            run(&machine, &cohort, &journal, seed, plan, |error| {
                assert!(says_so(&error), "seed {seed}: {error}");
            })
            .await;
        });
        let events = journal.events();
        for crash in 0..4 {
            let what = format!("seed {seed}, crash {crash}");
            assert_survived(&machine.crashed(crash), &events, &events, &what);
        }
    }
}

#[test]
fn a_sync_that_fails_during_the_start_fails_the_start() {
    for failing in 0..6 {
        let machine = Machine::new();
        let journal = Journal::default();
        on_runtime(async {
            let cohort = machine.start().await;
            journal.write(&cohort, put(1, "a", "before"), soon()).await.unwrap();
        });
        let machine = machine.crashed(failing);
        on_runtime(async {
            // The log itself syncs while it opens; what fails there is not the cohort's business.
            let log = machine.open_log();
            machine.disk.fail_sync_after(failing);
            match machine.try_start_with(log).await {
                Ok(cohort) => drop(journal.read(&cohort, "a", None, soon()).await),
                Err(error) => assert!(matches!(error, CohortError::DiskFailed { .. }), "{error}"),
            }
        });
        let events = journal.events();
        assert_survived(&machine.crashed(failing), &events, &events, &format!("failing sync {failing}"));
    }
}

#[test]
fn a_read_that_needs_a_higher_ceiling_when_the_log_fails_says_why_it_cannot_have_it() {
    let machine = Machine::new();
    on_runtime(async {
        let cohort = machine.start().await;
        cohort.write(put(1, "a", "before"), false, soon()).await.unwrap();
        machine.advance(HOUR);
        machine.disk.fail_sync_after(0);
        let at = TxClock(EPOCH + HOUR);
        let error = cohort.read(TABLE, b"a", Some(at), soon()).await.unwrap_err();
        assert!(matches!(error, CohortError::DiskFailed { .. }), "{error}");
    });
}
