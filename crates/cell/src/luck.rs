//! Random bytes for transaction IDs, taken from the system a page at a time: a call for each ID would cost a write more
//! than its place in the log does.

use skein_model::TxId;
use std::sync::{Mutex, PoisonError};

const BYTES: usize = TxId::RANDOM_BYTES * 256;

/// A supply of random bytes; each is given out once.
pub(crate) struct Luck {
    supply: Mutex<Supply>,
}

struct Supply {
    bytes: [u8; BYTES],
    used: usize,
}

impl Luck {
    pub(crate) fn new() -> Luck {
        Luck { supply: Mutex::new(Supply { bytes: [0; BYTES], used: BYTES }) }
    }

    /// The next bytes.
    pub(crate) fn draw(&self) -> [u8; TxId::RANDOM_BYTES] {
        let mut supply = self.supply.lock().unwrap_or_else(PoisonError::into_inner);
        if supply.used == BYTES {
            // Fails only where the system has no randomness at all, which `skein init` would have noticed. What is
            // left then is unique within this process's milliseconds.
            if let Err(error) = getrandom::fill(&mut supply.bytes) {
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
        let luck = Luck::new();
        let drawn: HashSet<_> = (0..1000).map(|_| luck.draw()).collect();
        assert_eq!(drawn.len(), 1000);
    }
}
