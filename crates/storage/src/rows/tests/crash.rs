//! Crashes at every point, and the replay of the log that follows.

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Commit(Vec<PlannedWrite>),
    /// Raises the horizon of the table with this number, or the default, to the time of the commit before last.
    Raise(Option<usize>),
    Checkpoint,
    Compact(Keyspace),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let row = (0..TABLES.len(), 0..KEYS.len());
    let write = (row, prop::option::weighted(0.7, any::<u8>()));
    let keyspace = prop_oneof![Just(Keyspace::Past), Just(Keyspace::Head)];
    let step = prop_oneof![
        6 => prop::collection::vec(write, 1..4).prop_map(Step::Commit),
        1 => prop::option::of(0..TABLES.len()).prop_map(Step::Raise),
        1 => Just(Step::Checkpoint),
        1 => keyspace.prop_map(Step::Compact),
    ];
    prop::collection::vec(step, 1..30)
}

/// What the log says: applies one step at its position, unless the store has it already.
fn replay(rows: &Rows, model: &mut Model, steps: &[Step], has: u64) {
    for (n, step) in steps.iter().enumerate() {
        let position = n as u64 + 1;
        match step {
            Step::Commit(writes) => {
                if has < position {
                    apply(rows, position, &[(n, writes.clone())]).unwrap();
                }
                model.apply(n, writes);
            }
            Step::Raise(table) => {
                let table = table.map(|table| TABLES[table]);
                let to = TxClock((10 * n as u64).saturating_sub(15));
                let mut changes = Changes::at(position, Bytes::from(position.to_string()));
                changes.horizons.push((table, to));
                if has < position {
                    rows.apply(changes).unwrap();
                }
                model.raise(table, to);
            }
            // Not in the log: they happened before the crash only.
            Step::Checkpoint | Step::Compact(_) => {}
        }
    }
}

/// Runs steps without a log's help.
fn run(rows: &Rows, steps: &[Step]) {
    for (n, step) in steps.iter().enumerate() {
        let upto = &steps[..=n];
        match step {
            Step::Commit(_) | Step::Raise(_) => replay(rows, &mut Model::default(), upto, n as u64),
            Step::Checkpoint => {
                rows.checkpoint().unwrap();
            }
            Step::Compact(keyspace) => rows.engine().compact(*keyspace).unwrap(),
        }
    }
}

fn applied(rows: &Rows) -> u64 {
    let applied = rows.meta().applied.unwrap_or_else(|| Bytes::from_static(b"0"));
    std::str::from_utf8(&applied).unwrap().parse().unwrap()
}

proptest! {
    #![proptest_config(few_cases(96))]

    #[test]
    fn a_replay_after_a_crash_brings_everything_back(steps in steps(), flushed in 0..=4usize) {
        let engine = Arc::new(MemEngine::new());
        run(&Rows::open(engine.clone()).unwrap(), &steps);
        let rows = Rows::open(Arc::new(engine.crash_in_checkpoint(flushed))).unwrap();
        let mut model = Model::default();
        replay(&rows, &mut model, &steps, applied(&rows));
        assert_same(&rows, &model, time_of(steps.len()));
        rows.reclaim().unwrap();
        assert_same(&rows, &model, time_of(steps.len()));
    }
}

proptest! {
    #![proptest_config(few_cases(10))]

    #[test]
    fn a_replay_after_a_crash_on_disk_brings_everything_back(steps in steps()) {
        let dir = tempfile::tempdir().unwrap();
        run(&on_disk(dir.path()), &steps);
        // Dropped without a checkpoint: what was in memory is gone.
        let rows = on_disk(dir.path());
        let mut model = Model::default();
        replay(&rows, &mut model, &steps, applied(&rows));
        assert_same(&rows, &model, time_of(steps.len()));
        rows.reclaim().unwrap();
        assert_same(&rows, &model, time_of(steps.len()));
    }
}
