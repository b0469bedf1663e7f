//! The cohort is closed while clients write.

use crate::journal::Journal;
use crate::machine::{Machine, on_runtime, put, seeds, soon};
use crate::survive::assert_survived;
use skein_cohort::CohortError;
use skein_storage::engine::Engine;
use std::time::Duration;

#[test]
fn a_close_answers_what_was_taken_refuses_what_comes_later_and_leaves_nothing_to_replay() {
    for seed in seeds(4) {
        let machine = Machine::new();
        let journal = Journal::default();
        on_runtime(async {
            let cohort = machine.start().await;
            journal.write(&cohort, put(1, "k", "first"), soon()).await.unwrap();
            let writers = (0..6).map(|client| {
                let (cohort, journal) = (cohort.clone(), journal.clone());
                tokio::spawn(async move {
                    for step in 0..1000 {
                        let number = (seed << 32) + (client << 16) + step;
                        match journal.write(&cohort, put(number, "k", &number.to_string()), soon()).await {
                            Ok(_) => {}
                            Err(CohortError::Closing) => return,
                            Err(error) => panic!("{error}"),
                        }
                    }
                    panic!("the cohort was never closed");
                })
            });
            let writers: Vec<_> = writers.collect();
            tokio::time::sleep(Duration::from_millis(2 + seed % 10)).await;
            cohort.close(Duration::from_secs(10)).await;
            for writer in writers {
                writer.await.unwrap();
            }
            assert_eq!(cohort.log_bytes_since_checkpoint(), 0);
            assert!(machine.engine.durable_position() > 0);
            // What is there can still be read.
            assert!(journal.read(&cohort, "k", None, soon()).await.unwrap().value.is_some());
        });
        let events = journal.events();
        assert_survived(&machine.crashed_losing_all(), &events, &events, &format!("seed {seed}"));
    }
}

#[test]
fn a_close_on_a_full_store_gives_up_in_time_and_loses_nothing() {
    let machine = Machine::new();
    let journal = Journal::default();
    on_runtime(async {
        let cohort = machine.start().await;
        journal.write(&cohort, put(1, "k", "one"), soon()).await.unwrap();
        machine.engine.set_full(true);
        let stuck = journal.write(&cohort, put(2, "k", "two"), crate::machine::after_millis(20)).await;
        assert!(matches!(stuck, Err(CohortError::Unknown { .. })), "{stuck:?}");
        cohort.close(Duration::from_millis(20)).await;
        assert_eq!(journal.write(&cohort, put(3, "k", "three"), soon()).await, Err(CohortError::Closing));
    });
    let events = journal.events();
    assert_survived(&machine.crashed(1), &events, &events, "after all");
}
