//! Every target over its seeds and over mutations of them, the same ones each time: a moment of fuzzing for every test
//! run, so that targets keep building and what was found once stays fixed.
#![allow(clippy::unwrap_used)]

use skein_fuzz::{TARGETS, Target};
use std::fs;
use std::path::Path;

/// Mutations of each seed. What they are depends on nothing but the seed's place in its directory.
const MUTATIONS: u64 = 60;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % end.max(1) as u64) as usize
    }

    fn mutate(&mut self, seed: &[u8]) -> Vec<u8> {
        let mut data = seed.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(data.len() + 1);
            match self.below(5) {
                0 => data.insert(at, self.below(256) as u8),
                1 => data.truncate(at),
                2 => data.extend_from_slice(&seed[self.below(seed.len())..]),
                _ if at == data.len() => {}
                3 => drop(data.remove(at)),
                _ => data[at] ^= 1 << self.below(8),
            }
        }
        data
    }
}

fn seeds(name: &str) -> Vec<(String, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(name);
    let mut seeds: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.display().to_string(), fs::read(&path).unwrap())
        })
        .collect();
    seeds.sort();
    seeds
}

fn run(name: &str, target: Target) {
    let seeds = seeds(name);
    assert!(!seeds.is_empty(), "{name} has no seeds");
    for (at, (path, seed)) in seeds.iter().enumerate() {
        // Shown only when the target panics.
        println!("{path}");
        target(seed);
        let mut random = Random(at as u64);
        for _ in 0..MUTATIONS {
            let data = random.mutate(seed);
            println!("{path} as {}", data.escape_ascii());
            target(&data);
        }
    }
}

#[test]
fn every_target_holds_on_its_seeds_and_on_mutations_of_them() {
    for (name, target) in TARGETS {
        run(name, target);
        target(b"");
    }
}

#[test]
fn every_target_has_a_program_that_the_script_runs() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    let script = fs::read_to_string(dir.join("run")).unwrap();
    let names: Vec<_> = TARGETS.iter().map(|(name, _)| *name).collect();
    assert!(script.contains(&format!("ALL=({})", names.join(" "))), "{names:?}");
    for name in names {
        let program = fs::read_to_string(dir.join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(program.contains(&format!("skein_fuzz::{name}(data)")), "{name}");
    }
}
