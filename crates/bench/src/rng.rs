//! All the luck of a workload: one small generator per client, drawn from the run's seed.

/// SplitMix64: eight bytes of state, a handful of instructions per draw, and the same draws on every machine.
///
/// Source: Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators" (2014).
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The generator of stream `stream` (say, a client's number) under `seed`.
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut rng = Rng(seed ^ stream.wrapping_mul(0xD1B5_4A32_D192_ED03));
        // One draw apart, so that neighbouring streams do not start in neighbouring states.
        rng.0 = rng.next_u64();
        rng
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`, each about equally likely; 0 when `bound` is 0.
    ///
    /// Multiply and shift: the unevenness is at most `bound / 2^64`, far below what a workload could notice.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_and_stream_draw_the_same_numbers() {
        let (mut a, mut b) = (Rng::new(7, 3), Rng::new(7, 3));
        for _ in 0..100 {
            assert_eq!(a.next_u64(), b.next_u64());
        }
    }

    #[test]
    fn another_stream_draws_other_numbers() {
        let draws = |stream| {
            let mut rng = Rng::new(7, stream);
            [rng.next_u64(), rng.next_u64()]
        };
        assert_ne!(draws(0), draws(1));
        assert_ne!(draws(1), draws(2));
    }

    #[test]
    fn below_reaches_every_number_under_its_bound_and_none_other() {
        let mut rng = Rng::new(1, 1);
        let mut seen = [false; 10];
        for _ in 0..1000 {
            seen[rng.below(10) as usize] = true;
        }
        assert_eq!(seen, [true; 10]);
        assert_eq!(rng.below(1), 0);
        assert_eq!(rng.below(0), 0);
    }
}
