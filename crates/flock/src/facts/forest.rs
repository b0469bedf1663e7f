//! Elements in the order of a hash of their names, with the sum of their fingerprints over any range.
//!
//! Two peers find where they differ by comparing the sums of sixteen subranges, then of sixteen within each
//! that differs: ranges as in Meyer, "Range-Based Set Reconciliation" (2023), sums that an element joins and
//! leaves in one step as in Bellare and Micciancio, "Incremental Cryptographic Hashing" (1997), without the
//! strength against an enemy that theirs has. Kept by step: the sum of all, and of each of 256 ranges once there
//! are more than [`BUCKETS_FROM`] elements; sums of narrower ranges are added up when asked for, at most a
//! 256th of the elements each.

use super::message::Item;
use super::version::Version;
use skein_model::HostId;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// From how many elements on the 256 sums are kept; they take 2 KiB.
const BUCKETS_FROM: usize = 256;

/// Where an owner's record stands: a bijection of its ID (the finaliser of Appleby's MurmurHash3, public domain)
/// that spreads neighbouring IDs over all ranges, so that no two owners share a place.
pub fn place_of(host: HostId) -> u64 {
    mix(host.0)
}

/// The finaliser of MurmurHash3: a bijection in which every bit of the input moves half of the output's.
pub fn mix(mut x: u64) -> u64 {
    x ^= x >> 33;
    x = x.wrapping_mul(0xFF51_AFD7_ED55_8CCD);
    x ^= x >> 33;
    x = x.wrapping_mul(0xC4CE_B9FE_1A85_EC53);
    x ^ (x >> 33)
}

/// Three bytes of a sum or fingerprint, other bytes for every salt: two sums that happen to look alike in
/// one exchange (one chance in 16 million) do not in the next.
pub fn short(sum: u64, salt: u16) -> u32 {
    (mix(sum ^ u64::from(salt).wrapping_mul(0x9E37_79B9_7F4A_7C15)) >> 40) as u32
}

/// The places that begin with the same nibbles; depth 0 is all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    /// The nibbles, from the top; zero below.
    pub bits: u64,
    /// How many nibbles, at most [`DEPTH_MAX`].
    pub depth: u8,
}

/// The deepest a range can be split.
pub const DEPTH_MAX: u8 = 12;

impl Prefix {
    /// All places.
    pub const ALL: Prefix = Prefix { bits: 0, depth: 0 };

    /// The `at`th of its sixteen parts; `None` at the greatest depth.
    pub fn child(self, at: usize) -> Option<Prefix> {
        (self.depth < DEPTH_MAX).then(|| Prefix {
            bits: self.bits | ((at as u64 & 15) << (60 - 4 * u32::from(self.depth))),
            depth: self.depth + 1,
        })
    }

    /// The bits of a place below the prefix.
    pub fn below(self) -> u64 {
        match self.depth {
            0 => u64::MAX,
            depth => u64::MAX >> (4 * u32::from(depth)),
        }
    }

    /// First and last place.
    pub fn range(self) -> RangeInclusive<u64> {
        self.bits..=(self.bits | self.below())
    }
}

/// What a [`Forest`] holds.
pub trait Element {
    /// Hash of all that peers have to agree on; never 0.
    fn fingerprint(&self) -> u64;
    /// Which of two is newer.
    fn version(&self) -> Version;
    /// What somebody who has it at version `since` lacks; the whole for [`Version::NONE`].
    fn item(&self, since: Version) -> Item;
    /// Bytes on the heap.
    fn heap_bytes(&self) -> usize;
}

/// Elements by place, and their sums.
#[derive(Debug)]
pub struct Forest<V> {
    elements: BTreeMap<u64, V>,
    /// Sums by the first byte of the place; empty while there are few.
    buckets: Vec<u64>,
    sum: u64,
}

impl<V> Default for Forest<V> {
    fn default() -> Self {
        Self { elements: BTreeMap::new(), buckets: Vec::new(), sum: 0 }
    }
}

impl<V: Element> Forest<V> {
    /// The sum of all fingerprints; 0 when empty.
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// How many elements.
    pub fn len(&self) -> usize {
        self.elements.len()
    }

    /// The element at a place.
    pub fn get(&self, place: u64) -> Option<&V> {
        self.elements.get(&place)
    }

    /// Puts an element in its place, and gives the one that was there.
    pub fn insert(&mut self, place: u64, element: V) -> Option<V> {
        let fingerprint = element.fingerprint();
        let old = self.elements.insert(place, element);
        let less = old.as_ref().map_or(0, V::fingerprint);
        self.add(place, fingerprint.wrapping_sub(less));
        if self.buckets.is_empty() && self.elements.len() > BUCKETS_FROM {
            self.buckets = vec![0; 256];
            for (place, element) in &self.elements {
                let bucket = &mut self.buckets[(place >> 56) as usize];
                *bucket = bucket.wrapping_add(element.fingerprint());
            }
        }
        old
    }

    /// Takes an element out.
    pub fn remove(&mut self, place: u64) -> Option<V> {
        let old = self.elements.remove(&place)?;
        self.add(place, old.fingerprint().wrapping_neg());
        if self.elements.len() < BUCKETS_FROM / 2 {
            self.buckets = Vec::new();
        }
        Some(old)
    }

    fn add(&mut self, place: u64, amount: u64) {
        self.sum = self.sum.wrapping_add(amount);
        if let Some(bucket) = self.buckets.get_mut((place >> 56) as usize) {
            *bucket = bucket.wrapping_add(amount);
        }
    }

    /// The sums of the sixteen parts of a range.
    pub fn parts(&self, prefix: Prefix) -> [u64; 16] {
        let mut parts = [0_u64; 16];
        if prefix.depth < 2 && !self.buckets.is_empty() {
            let first = (prefix.bits >> 56) as usize;
            let (count, shift) = if prefix.depth == 0 { (256, 4) } else { (16, 0) };
            for (at, sum) in self.buckets[first..first + count].iter().enumerate() {
                parts[at >> shift] = parts[at >> shift].wrapping_add(*sum);
            }
            return parts;
        }
        let shift = 60 - 4 * u32::from(prefix.depth);
        for (place, element) in self.elements.range(prefix.range()) {
            let part = &mut parts[(place >> shift & 15) as usize];
            *part = part.wrapping_add(element.fingerprint());
        }
        parts
    }

    /// The elements of a range by rising place.
    pub fn range(&self, prefix: Prefix) -> impl Iterator<Item = (u64, &V)> {
        self.elements.range(prefix.range()).map(|(place, element)| (*place, element))
    }

    /// Whether a range holds at most `max` elements.
    pub fn at_most(&self, prefix: Prefix, max: usize) -> bool {
        self.elements.range(prefix.range()).nth(max).is_none()
    }

    /// The first element from a place on, going round at the end.
    pub fn from(&self, place: u64) -> Option<&V> {
        self.elements
            .range(place..)
            .next()
            .or_else(|| self.elements.first_key_value())
            .map(|(_, element)| element)
    }

    /// All elements by rising place.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &V)> {
        self.elements.iter().map(|(place, element)| (*place, element))
    }

    /// Bytes on the heap, with about a third more than the elements for the nodes that are not full.
    pub fn heap_bytes(&self) -> usize {
        let each = size_of::<V>() + size_of::<u64>();
        let nodes = (self.elements.len() * each).div_ceil(3) * 4;
        nodes + 8 * self.buckets.capacity() + self.elements.values().map(V::heap_bytes).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Number(u64);

    impl Element for Number {
        fn fingerprint(&self) -> u64 {
            mix(self.0) | 1
        }
        fn version(&self) -> Version {
            Version { incarnation: 0, counter: self.0 }
        }
        fn item(&self, _: Version) -> Item {
            Item::Gone { host: HostId(self.0), version: self.version() }
        }
        fn heap_bytes(&self) -> usize {
            0
        }
    }

    proptest! {
        #[test]
        fn sums_kept_by_step_are_those_added_up_anew(
            steps in prop::collection::vec((0_u64..700, 0_u64..3), 0..1500),
            depth in 0_u8..4, somewhere: u64,
        ) {
            let mut forest = Forest::default();
            for (name, value) in steps {
                match value {
                    0 => drop(forest.remove(mix(name))),
                    value => drop(forest.insert(mix(name), Number(value))),
                }
            }
            let all = forest.iter().fold(0_u64, |sum, (_, it)| sum.wrapping_add(it.fingerprint()));
            prop_assert_eq!(forest.sum(), all);
            let mut prefix = Prefix::ALL;
            for at in 0..depth {
                prefix = prefix.child((somewhere >> (4 * at) & 15) as usize).unwrap();
            }
            let parts = forest.parts(prefix);
            for (at, part) in parts.into_iter().enumerate() {
                let child = prefix.child(at).unwrap();
                let sum = forest.range(child).fold(0_u64, |sum, (_, it)| sum.wrapping_add(it.fingerprint()));
                prop_assert_eq!(part, sum, "part {} of {:?}", at, prefix);
            }
        }
    }

    #[test]
    fn every_place_is_in_exactly_one_part_of_a_range() {
        let parent = Prefix::ALL.child(7).and_then(|it| it.child(3)).unwrap();
        let place = 0x73C5_0000_0000_0001;
        let inside: Vec<_> =
            (0..16).filter(|at| parent.child(*at).unwrap().range().contains(&place)).collect();
        assert_eq!(inside, [0xC]);
    }
}
