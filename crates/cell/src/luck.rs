//! Random bytes for transaction IDs, taken from the system a page at a time: a call for each ID would cost a write more
//! than its place in the log does.

use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng, SeedableRng};
use skein_model::TxId;
use std::sync::{Mutex, PoisonError};

const BYTES: usize = TxId::RANDOM_BYTES * 256;

/// A supply of random bytes; each is given out once.
pub(crate) struct Luck {
    supply: Mutex<Supply>,
}

struct Supply {
    /// In place of the system's, where a simulator owns all luck.
    seeded: Option<Xoshiro256PlusPlus>,
    bytes: [u8; BYTES],
    used: usize,
}

impl Luck {
    /// With a seed, everything that is drawn follows from it; without, the system draws.
    pub(crate) fn new(seed: Option<u64>) -> Luck {
        let seeded = seed.map(Xoshiro256PlusPlus::seed_from_u64);
        Luck { supply: Mutex::new(Supply { seeded, bytes: [0; BYTES], used: BYTES }) }
    }

    /// A number that nobody can guess, but for whoever knows the seed.
    pub(crate) fn roll(&self) -> u64 {
        let drawn = self.draw();
        u64::from_le_bytes(std::array::from_fn(|at| drawn[at]))
    }

    /// The next bytes.
    pub(crate) fn draw(&self) -> [u8; TxId::RANDOM_BYTES] {
        let mut supply = self.supply.lock().unwrap_or_else(PoisonError::into_inner);
        if supply.used == BYTES {
            // Fails only where the system has no randomness at all, which `skein init` would have noticed. What is
            // left then is unique within this process's milliseconds.
            let Supply { seeded, bytes, .. } = &mut *supply;
            if let Some(rng) = seeded {
                rng.fill_bytes(bytes);
            } else if let Err(error) = getrandom::fill(bytes) {
                tracing::error!(%error, "draw random bytes");
            }
            supply.used = 0;
        }
        let mut drawn = [0; TxId::RANDOM_BYTES];
        let at = supply.used;
        drawn.copy_from_slice(&supply.bytes[at..at + TxId::RANDOM_BYTES]);
        supply.used += TxId::RANDOM_BYTES;
        drawn
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_bytes_are_given_out_twice_across_refills() {
        let luck = Luck::new(None);
        let drawn: HashSet<_> = (0..1000).map(|_| luck.draw()).collect();
        assert_eq!(drawn.len(), 1000);
    }
}
