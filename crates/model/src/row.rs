//! Where a row belongs: its hash, and the slices and cohorts that the hash picks.

use crate::TableId;
use serde::{Deserialize, Serialize};

/// MurmurHash3_x86_32 with seed 0 over table ID (8 bytes little-endian), key length (4 bytes little-endian) and key.
///
/// Picks the row's cohort and slice by its low bits. Source: A. Appleby's public-domain MurmurHash3; vectors in
/// the tests. Ours because the row's three parts are hashed without being copied together first.
pub fn row_hash(table: TableId, key: &[u8]) -> u32 {
    let mut h = 0u32;
    let table = table.0;
    h = mix(h, table as u32);
    h = mix(h, (table >> 32) as u32);
    h = mix(h, key.len() as u32);
    let mut words = key.chunks_exact(4);
    for word in &mut words {
        h = mix(h, u32::from_le_bytes([word[0], word[1], word[2], word[3]]));
    }
    let mut tail = 0u32;
    for (i, byte) in words.remainder().iter().enumerate() {
        tail |= u32::from(*byte) << (8 * i);
    }
    h ^= scramble(tail);
    h ^= 12u32.wrapping_add(key.len() as u32);
    h ^= h >> 16;
    h = h.wrapping_mul(0x85eb_ca6b);
    h ^= h >> 13;
    h = h.wrapping_mul(0xc2b2_ae35);
    h ^ (h >> 16)
}

fn scramble(word: u32) -> u32 {
    word.wrapping_mul(0xcc9e_2d51).rotate_left(15).wrapping_mul(0x1b87_3593)
}

fn mix(h: u32, word: u32) -> u32 {
    (h ^ scramble(word)).rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64)
}

/// Why a slice is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SliceError {
    /// The number of slices is zero, negative or not a power of two.
    #[error("Number of slices must be a power of two and at least one.")]
    Count,
    /// The slice is not below the number of slices.
    #[error("The slice must be between 0 (inclusive) and the number of slices (exclusive).")]
    Range,
}

/// A power-of-two share of a table: the rows with `hash & (nslices - 1) == slice`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "(u32, u32)", into = "(u32, u32)")]
pub struct Slice {
    slice: u32,
    nslices: u32,
}

impl Slice {
    /// The whole table.
    pub const ALL: Slice = Slice { slice: 0, nslices: 1 };

    /// Slice number `slice` of `nslices`.
    pub fn new(slice: i64, nslices: i64) -> Result<Slice, SliceError> {
        let count = u32::try_from(nslices).ok().filter(|n| n.is_power_of_two()).ok_or(SliceError::Count)?;
        let number = u32::try_from(slice).ok().filter(|s| *s < count).ok_or(SliceError::Range)?;
        Ok(Slice { slice: number, nslices: count })
    }

    /// The slice's number, below [`Slice::nslices`].
    pub fn slice(self) -> u32 {
        self.slice
    }

    /// Into how many slices the table is cut: a power of two.
    pub fn nslices(self) -> u32 {
        self.nslices
    }

    /// Whether a row belongs to this slice.
    pub fn contains(self, table: TableId, key: &[u8]) -> bool {
        self.nslices == 1 || row_hash(table, key) & (self.nslices - 1) == self.slice
    }
}

impl TryFrom<(u32, u32)> for Slice {
    type Error = SliceError;
    /// Slice number and number of slices.
    fn try_from((slice, nslices): (u32, u32)) -> Result<Slice, SliceError> {
        Slice::new(slice.into(), nslices.into())
    }
}

impl From<Slice> for (u32, u32) {
    fn from(slice: Slice) -> (u32, u32) {
        (slice.slice, slice.nslices)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_hash_agrees_with_the_published_vectors() {
        let vectors: [(u64, &str, u32); 9] = [
            (1, "apple", 0x8c08_3d39),
            (1, "banana", 0xc061_a04c),
            (1, "grape", 0x7aa7_479a),
            (1, "kiwi", 0x3b6c_b210),
            (1, "orange", 0x1921_67ad),
            (1, "a", 0x909e_13c8),
            (1, "c", 0xc627_589b),
            (0xBE, "apple", 0xa13d_d4e7),
            (0xBE, "grape", 0x098f_928d),
        ];
        for (table, key, hash) in vectors {
            assert_eq!(row_hash(TableId(table), key.as_bytes()), hash, "table {table} key {key}");
        }
    }

    #[test]
    fn rows_fall_into_the_published_slices() {
        // Table, key, and the slice of 2, 4, 8 and 16.
        let rows: [(u64, &str, [i64; 4]); 9] = [
            (1, "apple", [1, 1, 1, 9]),
            (1, "banana", [0, 0, 4, 12]),
            (1, "grape", [0, 2, 2, 10]),
            (1, "kiwi", [0, 0, 0, 0]),
            (1, "orange", [1, 1, 5, 13]),
            (1, "a", [0, 0, 0, 8]),
            (1, "c", [1, 3, 3, 11]),
            (0xBE, "apple", [1, 3, 7, 7]),
            (0xBE, "grape", [1, 1, 5, 13]),
        ];
        for (table, key, slices) in rows {
            for (slice, nslices) in slices.into_iter().zip([2, 4, 8, 16]) {
                assert_eq!(
                    owners(TableId(table), key.as_bytes(), nslices),
                    [slice],
                    "{table} {key} {nslices}"
                );
            }
        }
    }

    #[test]
    fn a_slice_needs_a_power_of_two_and_a_number_below_it() {
        for nslices in [0, -1, -2, 3, 6, 7, i64::MIN, i64::MAX, 1 << 32, (1 << 32) + 1] {
            assert_eq!(Slice::new(0, nslices), Err(SliceError::Count), "{nslices}");
        }
        for (slice, nslices) in [(-1, 1), (1, 1), (4, 4), (i64::MIN, 8), (i64::MAX, 8), (1 << 32, 8)] {
            assert_eq!(Slice::new(slice, nslices), Err(SliceError::Range), "{slice} {nslices}");
        }
        let last = Slice::new((1 << 31) - 1, 1 << 31).unwrap();
        assert_eq!((last.slice(), last.nslices()), ((1 << 31) - 1, 1 << 31));
        assert_eq!(Slice::new(0, 1), Ok(Slice::ALL));
    }

    #[test]
    fn the_whole_table_holds_every_row() {
        assert!(Slice::ALL.contains(TableId(7), b""));
        assert!(Slice::ALL.contains(TableId(7), b"any"));
    }

    /// The slices of so many that hold the row.
    fn owners(table: TableId, key: &[u8], nslices: i64) -> Vec<i64> {
        (0..nslices).filter(|s| Slice::new(*s, nslices).unwrap().contains(table, key)).collect()
    }

    proptest! {
        #[test]
        fn every_row_is_in_exactly_one_slice(table: u64, key in prop::collection::vec(any::<u8>(), 0..40), log in 0..7u32) {
            prop_assert_eq!(owners(TableId(table), &key, 1 << log).len(), 1);
        }

        #[test]
        fn a_slice_is_two_slices_of_twice_as_many(table: u64, key in prop::collection::vec(any::<u8>(), 0..40), log in 0..6u32) {
            let (table, n) = (TableId(table), 1i64 << log);
            for i in 0..n {
                let coarse = Slice::new(i, n).unwrap().contains(table, &key);
                let low = Slice::new(i, 2 * n).unwrap().contains(table, &key);
                let high = Slice::new(i + n, 2 * n).unwrap().contains(table, &key);
                prop_assert_eq!(coarse, low || high);
            }
        }

        #[test]
        fn the_hash_is_that_of_the_parts_written_one_after_another(table: u64, key in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut bytes = table.to_le_bytes().to_vec();
            bytes.extend((key.len() as u32).to_le_bytes());
            bytes.extend(&key);
            prop_assert_eq!(row_hash(TableId(table), &key), murmur3_32(&bytes));
        }
    }

    /// MurmurHash3_x86_32 with seed 0 in the plainest form, byte by byte.
    fn murmur3_32(bytes: &[u8]) -> u32 {
        let mut h = 0u32;
        for block in bytes.chunks(4) {
            let k = block.iter().rev().fold(0u32, |k, b| k << 8 | u32::from(*b));
            h ^= k.wrapping_mul(0xcc9e_2d51).rotate_left(15).wrapping_mul(0x1b87_3593);
            if block.len() == 4 {
                h = h.rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64);
            }
        }
        h ^= bytes.len() as u32;
        h = (h ^ h >> 16).wrapping_mul(0x85eb_ca6b);
        h = (h ^ h >> 13).wrapping_mul(0xc2b2_ae35);
        h ^ h >> 16
    }
}
