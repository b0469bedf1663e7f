//! All the luck of a test from one number.

/// A small generator of numbers that look random (SplitMix64, Steele et al. 2014).
pub struct Luck(u64);

impl Luck {
    /// The same seed gives the same numbers.
    pub fn of(seed: u64) -> Luck {
        Luck(seed)
    }

    /// From `SKEIN_SEED`, or else this seed; says which.
    pub fn of_run(default: u64) -> Luck {
        let seed = number_from_environment("SKEIN_SEED").unwrap_or(default);
        eprintln!("SKEIN_SEED={seed}");
        Luck(seed)
    }

    /// Any number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is not zero.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// True this many times out of a hundred.
    pub fn percent(&mut self, share: u64) -> bool {
        self.below(100) < share
    }

    /// Another generator, whose numbers have nothing to do with ours.
    pub fn split(&mut self) -> Luck {
        Luck(self.next())
    }
}

/// A number that the caller of the tests gave, if any.
pub fn number_from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|e| panic!("{name}={text}: {e}")))
}
