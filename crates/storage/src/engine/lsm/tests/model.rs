//! The engine on disk beside the one in memory, whatever is done to both.

use super::*;
use crate::engine::MemEngine;
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Step {
    /// Batches of so many entries in each keyspace, by a generator with this seed.
    Write {
        batches: u64,
        entries: u64,
        seed: u64,
    },
    Checkpoint,
    /// A checkpoint that fails after it flushed the first keyspaces.
    FailedCheckpoint(Keyspace),
    Compact(Keyspace),
    /// Views are taken of both, and compared from now on.
    View,
    /// A crash: what was not checkpointed is gone.
    Crash,
    /// Closed after a checkpoint, and opened again.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let keyspace = || prop::sample::select(Keyspace::ALL.to_vec());
    prop_oneof![
        6 => (1..20u64, 1..60u64, any::<u64>())
            .prop_map(|(batches, entries, seed)| Step::Write { batches, entries, seed }),
        2 => Just(Step::Checkpoint),
        1 => keyspace().prop_map(Step::FailedCheckpoint),
        1 => keyspace().prop_map(Step::Compact),
        2 => Just(Step::View),
        1 => Just(Step::Crash),
        1 => Just(Step::Restart),
    ]
}

fn key(n: u64) -> Bytes {
    // Beginnings of each other among them.
    Bytes::from(format!("{:b}", 1 + n % 700))
}

fn draw(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *seed >> 33
}

fn agree(disk: &dyn View, memory: &dyn View, seed: u64) {
    let mut luck = seed | 1;
    for keyspace in Keyspace::ALL {
        assert_eq!(entries(disk, keyspace).unwrap(), entries(memory, keyspace).unwrap(), "{keyspace}");
        for _ in 0..20 {
            let (a, b) = (key(draw(&mut luck)), key(draw(&mut luck)));
            assert_eq!(disk.get(keyspace, &a).unwrap(), memory.get(keyspace, &a).unwrap());
            let bounds = match draw(&mut luck) % 3 {
                0 => (Bound::Included(&a[..]), Bound::Excluded(&b[..])),
                1 => (Bound::Excluded(&a[..]), Bound::Included(&b[..])),
                _ => (Bound::Included(&a[..]), Bound::Unbounded),
            };
            let some = |view: &dyn View| -> Vec<(Bytes, Bytes)> {
                let range = view.range(keyspace, bounds.0, bounds.1).take(9);
                range.collect::<Result<_, _>>().unwrap()
            };
            assert_eq!(some(disk), some(memory), "{keyspace} {bounds:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn the_engine_on_disk_shows_what_the_one_in_memory_does(
        steps in prop::collection::vec(step(), 1..14),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let (mut disk, mut memory) = (open(dir.path()), MemEngine::new());
        let (mut position, mut half_flushed) = (0, false);
        let mut views: Vec<(Box<dyn View>, Box<dyn View>)> = Vec::new();
        for (seed, step) in (1..).zip(steps) {
            match step {
                Step::Write { batches, entries, mut seed } => for _ in 0..batches {
                    position += 1;
                    let mut batch = WriteBatch::new();
                    for keyspace in Keyspace::ALL {
                        for n in 0..entries {
                            let key = key(draw(&mut seed));
                            match draw(&mut seed) % 8 {
                                0 => batch.delete(keyspace, key),
                                _ => batch.push(keyspace, key, Bytes::from(format!("{position} {n}"))),
                            }
                        }
                    }
                    memory.write(batch.clone(), position).unwrap();
                    disk.write(batch, position).unwrap();
                },
                Step::Checkpoint => {
                    half_flushed = false;
                    prop_assert_eq!(disk.checkpoint().unwrap(), memory.checkpoint().unwrap());
                }
                Step::FailedCheckpoint(keyspace) => {
                    let next = disk.shared.tree(keyspace).get_next_table_id() + 1;
                    let blocker = dir.path().join(keyspace.name()).join("tables").join(next.to_string());
                    std::fs::create_dir(&blocker).unwrap();
                    let failed = disk.checkpoint().is_err();
                    std::fs::remove_dir(&blocker).unwrap();
                    if !failed {
                        // There was nothing to flush.
                        memory.checkpoint().unwrap();
                    }
                    half_flushed = failed;
                }
                Step::Compact(keyspace) => disk.compact(keyspace).unwrap(),
                Step::View => views.push((disk.view().unwrap(), memory.view().unwrap())),
                Step::Crash | Step::Restart => {
                    if matches!(step, Step::Restart) {
                        half_flushed = false;
                        prop_assert_eq!(disk.checkpoint().unwrap(), memory.checkpoint().unwrap());
                    } else if half_flushed {
                        // The first keyspaces are ahead then, and the log has to be applied again.
                        continue;
                    }
                    views.clear();
                    drop(disk);
                    disk = open(dir.path());
                    memory = memory.crash();
                    position = disk.durable_position();
                }
            }
            for (disk, memory) in &views {
                agree(&**disk, &**memory, seed);
            }
            agree(&*disk.view().unwrap(), &*memory.view().unwrap(), seed);
            for n in 0..700 {
                for keyspace in Keyspace::ALL {
                    prop_assert_eq!(disk.get(keyspace, &key(n)).unwrap(), memory.get(keyspace, &key(n)).unwrap());
                }
            }
        }
    }
}
