//! Where a row belongs: its hash, and the slices and cohorts that the hash picks.

use crate::TableId;

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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
