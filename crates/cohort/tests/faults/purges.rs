//! Checkpoints and purges of the log while clients write.

use crate::crashes::survive_every_crash;
use crate::journal::Journal;
use crate::machine::{Machine, on_runtime, put, seeds, soon};
use crate::survive::assert_survived;
use crate::workload::Plan;
use skein_storage::engine::Engine;
use std::time::Duration;
use tokio::time::Instant;

#[test]
fn a_crash_between_checkpoint_and_purge_or_in_either_loses_nothing() {
    let plan = Plan { clients: 3, steps: 40, checkpoints: true, clock_jumps: true };
    for seed in seeds(6) {
        survive_every_crash(seed, plan, |machine| {
            machine.segment_bytes = 16 << 10;
            machine.checkpoint_log_bytes = 2 << 10;
        });
    }
}

/// Waits until the log has at most so many segments; panics when that takes too long.
async fn purged_to(machine: &Machine, cohort: &skein_cohort::Cohort, segments: usize) {
    let deadline = soon();
    while Instant::now() < deadline {
        let names = skein_storage::disk::Disk::list(&machine.disk).unwrap();
        if names.iter().filter(|name| name.ends_with(".segment")).count() <= segments {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("the log was not purged; {} bytes would be replayed", cohort.log_bytes_since_checkpoint());
}

#[test]
fn a_checkpoint_gives_the_logs_segments_back_and_the_rows_stay() {
    let machine = Machine { segment_bytes: 16 << 10, ..Machine::new() };
    let journal = Journal::default();
    on_runtime(async {
        let cohort = machine.start().await;
        let long = "x".repeat(1000);
        for number in 0..100 {
            let tx = put(number, &format!("k{}", number % 7), &long);
            journal.write(&cohort, tx, soon()).await.unwrap();
        }
        let used = skein_storage::disk::Disk::list(&machine.disk).unwrap().len();
        assert!(used > 7, "{used} files: this should have filled many segments");
        assert_eq!(machine.engine.durable_position(), 0);
        cohort.checkpoint().await.unwrap();
        assert!(machine.engine.durable_position() > 0);
        // The segment written, the next one, and the spare ones.
        purged_to(&machine, &cohort, 4).await;
        assert_eq!(cohort.log_bytes_since_checkpoint(), 0);
        // And once more, with nothing new to checkpoint.
        cohort.checkpoint().await.unwrap();
        journal.write(&cohort, put(1000, "k", "after"), soon()).await.unwrap();
    });
    let events = journal.events();
    for seed in 0..8 {
        assert_survived(&machine.crashed(seed), &events, &events, &format!("seed {seed}"));
    }
}
