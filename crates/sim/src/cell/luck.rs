//! All randomness of a run.

/// A stream of luck. Each part of a run forks one of its own by name, so that what one part draws does not change what
/// another one does.
#[derive(Debug, Clone)]
pub struct Luck(u64);

impl Luck {
    /// The stream of a seed.
    pub fn new(seed: u64) -> Luck {
        // Neighbouring seeds should not be neighbouring states.
        let mut luck = Luck(seed ^ 0x5ee1_c0de_5ee1_c0de);
        Luck(luck.draw())
    }

    /// A stream of its own for a part of what this one is for.
    pub fn fork(&self, name: &str, number: u64) -> Luck {
        let mut state = self.0;
        for byte in name.bytes().chain(number.to_le_bytes()) {
            state = Luck(state ^ u64::from(byte)).draw();
        }
        Luck(state)
    }

    /// 64 bits: Steele, Lea and Flood's SplitMix64 (2014).
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`; 0 if `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        match n {
            0 => 0,
            n => self.draw() % n,
        }
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of them; `None` of none.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        let place = self.below(of.len() as u64);
        of.get(place as usize)
    }

    /// Some of them, in a random order.
    pub fn sample<T: Clone>(&mut self, of: &[T], count: usize) -> Vec<T> {
        let mut left = of.to_vec();
        let mut taken = Vec::new();
        while taken.len() < count && !left.is_empty() {
            taken.push(left.swap_remove(self.below(left.len() as u64) as usize));
        }
        taken
    }
}
