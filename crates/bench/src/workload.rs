//! Workloads as data: which share of operations reads, what a write looks like, which keys are touched.

use crate::rng::Rng;

/// A named mix of operations, or a limit of the machine to hold one against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum Workload {
    /// Write one row of the key spread.
    Put,
    /// Read one row of the key spread; its length is checked.
    Get,
    /// Half put, half get.
    Mixed,
    /// Write two different rows of the key spread atomically.
    Batch2,
    /// Write one and the same row from all clients.
    Hot,
    /// Each client updates a row of its own, on condition that nobody did since its last update.
    Cond,
    /// Read the whole table as lines of JSON.
    Scan,
    /// Limit: append the value's bytes to a preallocated file and `fdatasync` it, one after the other.
    Fsync,
    /// Limit: about 200 bytes over TCP to an echo and back.
    Loopback,
    /// Limit: the requests of `get` to a bare HTTP server that has one fixed answer.
    Hello,
}

/// Which keys an operation may touch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// Any key of the key spread, each equally likely.
    Uniform,
    /// The first key only.
    One,
}

/// What a write is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// One row, unconditionally.
    Put,
    /// Two different rows in one atomic batch.
    Pair,
    /// The client's own row, on condition of its last time.
    Conditional,
}

/// What a workload is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Out of 100 operations, how many read one row; the others write.
    pub reads_percent: u8,
    /// What the writes are.
    pub write: Write,
    /// Which keys are touched.
    pub spread: Spread,
}

impl Workload {
    /// The name as given on the command line and printed in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
            Self::Mixed => "mixed",
            Self::Batch2 => "batch2",
            Self::Hot => "hot",
            Self::Cond => "cond",
            Self::Scan => "scan",
            Self::Fsync => "fsync",
            Self::Loopback => "loopback",
            Self::Hello => "hello",
        }
    }

    /// What its row operations are made of; `None` for those that are not made of row operations.
    pub fn shape(self) -> Option<Shape> {
        let (reads_percent, write, spread) = match self {
            Self::Put => (0, Write::Put, Spread::Uniform),
            Self::Get | Self::Hello => (100, Write::Put, Spread::Uniform),
            Self::Mixed => (50, Write::Put, Spread::Uniform),
            Self::Batch2 => (0, Write::Pair, Spread::Uniform),
            Self::Hot => (0, Write::Put, Spread::One),
            Self::Cond => (0, Write::Conditional, Spread::One),
            Self::Scan | Self::Fsync | Self::Loopback => return None,
        };
        Some(Shape { reads_percent, write, spread })
    }

    /// Whether it needs no database, only this machine.
    pub fn is_limit(self) -> bool {
        matches!(self, Self::Fsync | Self::Loopback | Self::Hello)
    }
}

/// One operation to be done by a client. Keys are numbers; each target spells them its own way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Write row `key`.
    Put {
        /// Number of the row.
        key: u64,
    },
    /// Read row `key`.
    Get {
        /// Number of the row.
        key: u64,
    },
    /// Write both rows or none.
    Pair {
        /// Numbers of the rows; never the same.
        keys: [u64; 2],
    },
    /// Update the client's own row, on condition of its last time.
    Conditional,
    /// Read the whole table.
    Scan,
    /// Write the rows `first`, `first + 1`, … `first + count - 1` in as few requests as the target can.
    Fill {
        /// Number of the first row.
        first: u64,
        /// How many.
        count: u64,
    },
}

/// The operations of one client, in order; the same for the same workload, key count, seed and client.
#[derive(Clone, Debug)]
pub struct Ops {
    shape: Option<Shape>,
    keys: u64,
    rng: Rng,
}

impl Ops {
    /// The operations of client number `client`, over rows `0..keys` (at least 2 for a workload of pairs).
    pub fn new(workload: Workload, keys: u64, seed: u64, client: u64) -> Self {
        Ops { shape: workload.shape(), keys: keys.max(1), rng: Rng::new(seed, client) }
    }

    fn key(&mut self, spread: Spread) -> u64 {
        match spread {
            Spread::Uniform => self.rng.below(self.keys),
            Spread::One => 0,
        }
    }

    /// The next one. There is no last one.
    pub fn next_op(&mut self) -> Op {
        let Some(shape) = self.shape else { return Op::Scan };
        let reads = match shape.reads_percent {
            0 => false,
            100 => true,
            share => self.rng.below(100) < u64::from(share),
        };
        if reads {
            return Op::Get { key: self.key(shape.spread) };
        }
        match shape.write {
            Write::Put => Op::Put { key: self.key(shape.spread) },
            Write::Conditional => Op::Conditional,
            Write::Pair => {
                let first = self.key(shape.spread);
                // A step of 1 … keys-1 from the first never comes back to it.
                let step = 1 + self.rng.below(self.keys.saturating_sub(1));
                Op::Pair { keys: [first, (first + step) % self.keys] }
            }
        }
    }
}

/// Random text that values are cut from; enough that neighbouring values share nothing a compressor would see
/// within one block of a store.
const POOL_BYTES: usize = 64 << 10;
const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Values of one exact size: JSON strings, quotes included, cut from a pool of random letters.
#[derive(Clone, Debug)]
pub struct Values {
    pool: Vec<u8>,
    value: Vec<u8>,
    rng: Rng,
}

impl Values {
    /// Shortest value: the empty string's two quotes.
    pub const BYTES_MIN: usize = 2;

    /// Values of `bytes` bytes (at least [`Values::BYTES_MIN`]) for client number `client`.
    pub fn new(bytes: usize, seed: u64, client: u64) -> Self {
        let bytes = bytes.max(Self::BYTES_MIN);
        let mut rng = Rng::new(!seed, client);
        let pool = (0..POOL_BYTES + bytes).map(|_| LETTERS[(rng.next_u64() >> 58) as usize]).collect();
        Values { pool, value: vec![b'"'; bytes], rng }
    }

    /// Bytes of each value.
    pub fn bytes(&self) -> usize {
        self.value.len()
    }

    /// The next value; valid until the one after it.
    pub fn next_value(&mut self) -> &[u8] {
        let inner = self.value.len() - 2;
        let from = self.rng.below(POOL_BYTES as u64) as usize;
        self.value[1..=inner].copy_from_slice(&self.pool[from..from + inner]);
        &self.value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    fn first_ops(workload: Workload, keys: u64, seed: u64, client: u64) -> Vec<Op> {
        let mut ops = Ops::new(workload, keys, seed, client);
        (0..500).map(|_| ops.next_op()).collect()
    }

    #[test]
    fn the_same_seed_asks_the_same_questions() {
        for workload in Workload::value_variants() {
            assert_eq!(first_ops(*workload, 1000, 5, 2), first_ops(*workload, 1000, 5, 2));
        }
    }

    #[test]
    fn another_seed_or_client_asks_other_questions() {
        assert_ne!(first_ops(Workload::Put, 1000, 5, 2), first_ops(Workload::Put, 1000, 6, 2));
        assert_ne!(first_ops(Workload::Put, 1000, 5, 2), first_ops(Workload::Put, 1000, 5, 3));
    }

    #[test]
    fn mixed_is_about_half_reads() {
        let reads =
            first_ops(Workload::Mixed, 9, 1, 0).iter().filter(|op| matches!(op, Op::Get { .. })).count();
        assert!((200..300).contains(&reads), "{reads} of 500");
    }

    #[test]
    fn a_pair_never_names_one_row_twice() {
        for keys in [2, 3, 1000] {
            for op in first_ops(Workload::Batch2, keys, 11, 4) {
                let Op::Pair { keys: [a, b] } = op else { panic!("{op:?}") };
                assert!(a != b && a < keys && b < keys, "{op:?} of {keys}");
            }
        }
    }

    #[test]
    fn a_hot_workload_touches_one_row() {
        assert!(first_ops(Workload::Hot, 1000, 5, 2).iter().all(|op| *op == Op::Put { key: 0 }));
    }

    #[test]
    fn names_are_those_of_the_command_line() {
        for workload in Workload::value_variants() {
            assert_eq!(workload.to_possible_value().unwrap().get_name(), workload.name());
        }
    }

    #[test]
    fn values_are_json_strings_of_exactly_the_size_asked_for() {
        for bytes in [2, 3, 100, 70_000] {
            let mut values = Values::new(bytes, 1, 2);
            for _ in 0..20 {
                let value = values.next_value();
                assert_eq!(value.len(), bytes);
                let text: String = serde_json::from_slice(value).unwrap();
                assert_eq!(text.len(), bytes - 2);
            }
        }
    }

    #[test]
    fn values_differ_from_one_another_but_not_from_run_to_run() {
        let mut a = Values::new(100, 1, 2);
        let mut b = Values::new(100, 1, 2);
        let (first, second) = (a.next_value().to_vec(), a.next_value().to_vec());
        assert_ne!(first, second);
        assert_eq!(b.next_value(), first);
        assert_eq!(b.next_value(), second);
    }
}
