//! The newest values of keys lately written and already flushed, by hash.
//!
//! Whoever applies a new version of a row needs the one it supersedes, and a row lately written is often read. In the
//! tables each look-up searches filters, indexes and blocks; here it is one probe.
//!
//! Only a flush puts entries in, before what it flushed leaves the buffers, and it replaces or removes whatever was there for the
//! key. Since everybody looks into the buffers first, an entry found here is the newest.

use bytes::Bytes;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{Equivalent, OptionsBuilder, Weighter};
use xxhash_rust::xxh3::Xxh3DefaultBuilder;

/// Larger values are not kept: each would take the place of many, and a walk to it is little beside sending it.
const VALUE_BYTES_MAX: usize = 16 << 10;

/// What an entry takes besides key and value: two allocations with their counters, and its place in the table.
const ENTRY_BYTES: u64 = 168;

/// A key of one of the engines that share the map.
#[derive(PartialEq, Eq, Hash)]
struct Place {
    engine: u64,
    key: Bytes,
}

/// As [`Place`], for looking up.
#[derive(Hash)]
struct Probe<'a> {
    engine: u64,
    key: &'a [u8],
}

impl Equivalent<Place> for Probe<'_> {
    fn equivalent(&self, place: &Place) -> bool {
        self.engine == place.engine && self.key == place.key
    }
}

#[derive(Clone)]
struct Weight;

impl Weighter<Place, Bytes> for Weight {
    fn weight(&self, place: &Place, value: &Bytes) -> u64 {
        place.key.len() as u64 + value.len() as u64 + ENTRY_BYTES
    }
}

/// A bounded map from keys to their newest values, shared by engines that are told apart by a number. What an engine
/// leaves behind makes room for others by and by; its number is not used again.
pub(super) struct Newest {
    cache: Cache<Place, Bytes, Weight, Xxh3DefaultBuilder>,
}

impl Newest {
    /// A map of so many bytes, all told.
    pub(super) fn with_bytes(bytes: u64) -> Newest {
        let typical = ENTRY_BYTES + 140;
        let options = OptionsBuilder::new()
            .weight_capacity(bytes)
            .estimated_items_capacity((bytes / typical) as usize)
            .shards(16)
            .build();
        let hasher = Xxh3DefaultBuilder::new();
        let cache = match options {
            Ok(options) => Cache::with_options(options, Weight, hasher, DefaultLifecycle::default()),
            Err(_) => unreachable!("both capacities are given"),
        };
        Newest { cache }
    }

    /// The newest value of the key, if it is here.
    pub(super) fn get(&self, engine: u64, key: &[u8]) -> Option<Bytes> {
        self.cache.get(&Probe { engine, key })
    }

    /// Takes note of what leaves the buffers; `None` for a deletion. Copies it, so that it keeps nothing else in memory.
    pub(super) fn flushed(&self, engine: u64, key: &[u8], value: Option<&Bytes>) {
        match value {
            Some(value) if value.len() <= VALUE_BYTES_MAX => {
                let place = Place { engine, key: Bytes::copy_from_slice(key) };
                self.cache.insert(place, Bytes::copy_from_slice(value));
            }
            _ => {
                self.cache.remove(&Probe { engine, key });
            }
        }
    }

    /// Most bytes it may hold.
    pub(super) fn bytes_max(&self) -> u64 {
        self.cache.capacity()
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> u64 {
        self.cache.weight()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_too_large_to_keep_takes_the_older_one_away() {
        let newest = Newest::with_bytes(1 << 20);
        let key = Bytes::from_static(b"key");
        newest.flushed(1, &key, Some(&Bytes::from_static(b"old")));
        assert_eq!(newest.get(1, b"key").as_deref(), Some(b"old".as_slice()));
        assert_eq!(newest.get(2, b"key"), None, "another engine has keys of its own");
        newest.flushed(1, &key, Some(&Bytes::from(vec![0; VALUE_BYTES_MAX + 1])));
        assert_eq!(newest.get(1, b"key"), None);
    }

    #[test]
    fn a_deletion_takes_the_value_away() {
        let newest = Newest::with_bytes(1 << 20);
        let key = Bytes::from_static(b"key");
        newest.flushed(1, &key, Some(&Bytes::from_static(b"old")));
        newest.flushed(1, &key, None);
        assert_eq!(newest.get(1, b"key"), None);
    }

    #[test]
    fn whatever_is_evicted_no_key_ever_shows_an_older_value() {
        let newest = Newest::with_bytes(64 << 10);
        let mut last = std::collections::HashMap::new();
        let mut seed = 7_u64;
        for round in 0..20_000_u64 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let key = Bytes::from(format!("key {}", (seed >> 40) % 500));
            let value = Bytes::from(vec![(round % 251) as u8; (seed >> 50) as usize % 6_000]);
            newest.flushed(1, &key, Some(&value));
            last.insert(key, value);
            let probe = Bytes::from(format!("key {}", (seed >> 30) % 500));
            if let Some(found) = newest.get(1, &probe) {
                assert_eq!(Some(&found), last.get(&probe));
            }
        }
        assert!(newest.bytes() <= 64 << 10);
    }
}
