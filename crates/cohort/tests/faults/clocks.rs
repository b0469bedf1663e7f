//! The wall clock falls back and leaps ahead, while the cohort runs and while it does not.

use crate::crashes::survive_every_crash;
use crate::journal::Journal;
use crate::machine::{
    DAY, EPOCH, HOUR, Machine, SECOND, TABLE, after_millis, id, on_runtime, put, seeds, soon,
};
use crate::survive::assert_survived;
use crate::workload::Plan;
use skein_cohort::Outcome;
use skein_model::TxClock;

#[test]
fn no_clock_jump_while_clients_write_takes_a_time_back_in_any_crash() {
    let plan = Plan { clients: 2, steps: 40, checkpoints: true, clock_jumps: true };
    for seed in seeds(4) {
        survive_every_crash(seed + 1000, plan, |_| ());
    }
}

#[test]
fn times_rise_and_reads_repeat_through_restarts_with_the_clock_an_hour_back_and_a_day_ahead() {
    let journal = Journal::default();
    let mut machine = Machine::new();
    let mut last = TxClock::ZERO;
    let mut number = 0;
    for (round, wall) in
        [EPOCH, EPOCH - HOUR, EPOCH + DAY, EPOCH, EPOCH + DAY + HOUR, 0].into_iter().enumerate()
    {
        machine.set_wall(wall);
        on_runtime(async {
            let cohort = machine.start().await;
            for step in 0..6 {
                number += 1;
                let Outcome::Committed(time) =
                    journal.write(&cohort, put(number, "k", &number.to_string()), soon()).await.unwrap()
                else {
                    panic!("a plain put is committed")
                };
                assert!(last < time, "round {round}, step {step}: {time} after {last}");
                let read = journal.read(&cohort, "k", None, soon()).await.unwrap();
                assert_eq!(read.time, time);
                assert!(time <= read.read_time);
                last = read.read_time;
                match step {
                    1 => machine.set_wall(wall.saturating_sub(HOUR)),
                    3 => machine.set_wall(wall + DAY),
                    _ => machine.advance(SECOND),
                }
            }
        });
        let events = journal.events();
        assert_survived(&machine.crashed(round as u64), &events, &events, &format!("round {round}"));
        machine = machine.crashed(100 + round as u64);
    }
}

#[test]
fn a_read_at_a_named_time_is_repeatable_after_a_crash_with_the_clock_set_back() {
    let machine = Machine::new();
    let (promised, before) = on_runtime(async {
        let cohort = machine.start().await;
        cohort.write(put(1, "k", "one"), false, soon()).await.unwrap();
        // Four minutes ahead is still acceptable.
        let promised = TxClock(EPOCH + 240 * SECOND);
        let before = cohort.read(TABLE, b"k", Some(promised), soon()).await.unwrap();
        (promised, before)
    });
    let machine = machine.crashed(7);
    machine.set_wall(EPOCH - HOUR);
    on_runtime(async {
        let cohort = machine.start().await;
        let Outcome::Committed(time) = cohort.write(put(2, "k", "two"), false, soon()).await.unwrap() else {
            panic!("a plain put is committed")
        };
        assert!(promised < time);
        assert_eq!(cohort.read(TABLE, b"k", Some(promised), soon()).await.unwrap(), before);
    });
}

/// The wall clock ran far past the ceiling; a write is under way; somebody reads; then power is lost before the
/// write is durable, and the clock is set back.
#[test]
fn a_read_beside_a_write_that_a_crash_takes_away_is_repeatable_too() {
    for named in [false, true] {
        let machine = Machine::new();
        let (crashed, before) = on_runtime(async {
            let cohort = machine.start().await;
            cohort.write(put(1, "k", "one"), false, soon()).await.unwrap();
            machine.advance(HOUR);
            let held = machine.hold_syncs();
            let writer = tokio::spawn({
                let cohort = cohort.clone();
                async move { cohort.write(put(2, "k", "two"), false, soon()).await }
            });
            held.reached().await;
            // Just before the time of the write under way; it is after what any entry in the log allows to promise.
            let at = named.then_some(TxClock(EPOCH + HOUR));
            // Only the former may have to wait, and then in vain.
            let deadline = if named { after_millis(30) } else { soon() };
            let before = cohort.read(TABLE, b"k", at, deadline).await;
            let crashed = machine.crashed_losing_all();
            held.release();
            assert!(writer.await.unwrap().is_ok());
            (crashed, before)
        });
        // A named time may have to wait for the write, and time out; the present may not.
        let before = match before {
            Ok(before) => before,
            Err(error) if named => {
                assert!(matches!(error, skein_cohort::CohortError::TimedOut { .. }), "{error}");
                continue;
            }
            Err(error) => panic!("a read of the present waits for no write: {error}"),
        };
        crashed.set_wall(EPOCH);
        on_runtime(async {
            let cohort = crashed.start().await;
            assert_eq!(cohort.tx_status(id(2), soon()).await.unwrap(), Outcome::Aborted);
            let Outcome::Committed(time) = cohort.write(put(3, "k", "three"), false, soon()).await.unwrap()
            else {
                panic!("a plain put is committed")
            };
            assert!(before.read_time < time, "{time} was given, and {} had been read", before.read_time);
            let again = cohort.read(TABLE, b"k", Some(before.read_time), soon()).await.unwrap();
            assert_eq!(again, before);
        });
    }
}

/// The scan of several cohorts: its time comes from the leader whose clock is furthest ahead.
#[test]
fn a_chunk_is_read_at_a_time_that_a_leader_a_day_ahead_promised_while_a_client_may_not_ask_for_that_time() {
    use skein_model::{Pick, Slice, Window};
    use skein_storage::rows::{ChunkBudget, ScanPosition, ScanSpec};
    let machine = Machine::new();
    on_runtime(async {
        let cohort = machine.start().await;
        cohort.write(put(1, "k", "one"), false, soon()).await.unwrap();
        let until = TxClock(EPOCH + DAY);
        assert!(cohort.promise(Some(until), soon()).await.is_err(), "a client's wish has a limit");
        let spec = ScanSpec {
            table: TABLE,
            window: Window { pick: Pick::Latest, since: TxClock::ZERO, until },
            slice: Slice::ALL,
            end: None,
        };
        let from = ScanPosition { key: Default::default(), time: TxClock::MAX };
        let budget = ChunkBudget { rows: 10, bytes: 1000 };
        let (rows, next) = cohort.scan_chunk(spec, from, budget, soon()).await.unwrap();
        assert_eq!((rows.len(), next), (1, None));
        // What was read stays as it was: later writes lie after it.
        let Outcome::Committed(time) = cohort.write(put(2, "k", "two"), false, soon()).await.unwrap() else {
            panic!("a plain put is committed")
        };
        assert!(until < time);
    });
}
