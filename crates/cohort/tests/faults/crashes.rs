//! Power is lost at every sync of the log.

use crate::journal::Journal;
use crate::machine::{HOUR, Machine, on_runtime, seeds};
use crate::survive::assert_survived;
use crate::workload::{Plan, run};

/// Runs a plan on a fresh machine, from before its first start, and checks each crash on the way.
pub fn survive_every_crash(seed: u64, plan: Plan, tune: impl Fn(&mut Machine)) -> usize {
    let mut machine = Machine::new();
    tune(&mut machine);
    let journal = Journal::default();
    let crashes = machine.keep_crashes(seed, &journal);
    on_runtime(async {
        let cohort = machine.start().await;
        run(&machine, &cohort, &journal, seed, plan, |error| panic!("seed {seed}: {error}")).await;
    });
    let events = journal.events();
    let images = crashes.take();
    let count = images.len();
    for (number, (image, seen)) in images.into_iter().enumerate() {
        let what = format!("seed {seed}, sync {number}, {seen} events seen");
        // The clock may have been wrong before, or be wrong now.
        match number % 3 {
            0 => image.set_wall(image.wall.load(std::sync::atomic::Ordering::SeqCst) - HOUR),
            1 => image.advance(HOUR),
            _ => {}
        }
        assert_survived(&image, &events[..seen], &events, &what);
    }
    assert_survived(&machine.crashed(seed), &events, &events, &format!("seed {seed}, at the end"));
    count
}

#[test]
fn a_crash_at_any_sync_loses_nothing_that_was_answered_and_halves_nothing_that_was_not() {
    let plan = Plan { clients: 3, steps: 40, checkpoints: false, clock_jumps: false };
    for seed in seeds(6) {
        let crashes = survive_every_crash(seed, plan, |_| ());
        assert!(crashes > 20, "seed {seed}: only {crashes} syncs");
    }
}

#[test]
fn crashing_again_right_after_a_crash_changes_nothing() {
    for seed in seeds(3) {
        let machine = Machine::new();
        let journal = Journal::default();
        let crashes = machine.keep_crashes(seed, &journal);
        let plan = Plan { clients: 3, steps: 30, checkpoints: true, clock_jumps: true };
        on_runtime(async {
            let cohort = machine.start().await;
            run(&machine, &cohort, &journal, seed, plan, |error| panic!("seed {seed}: {error}")).await;
        });
        let events = journal.events();
        for (number, (image, seen)) in crashes.take().into_iter().enumerate().step_by(6) {
            // The second crash comes while the first is being recovered from, at each sync of that.
            let again = image.keep_crashes(seed, &journal);
            on_runtime(async { drop(image.start().await) });
            for (round, (image, _)) in again.take().into_iter().enumerate() {
                let what = format!("seed {seed}, sync {number}, then {round}");
                assert_survived(&image, &events[..seen], &events, &what);
            }
        }
    }
}
