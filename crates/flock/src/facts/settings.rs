//! Settings: named values of which the highest version wins, the same at every peer.
//!
//! A deleted setting stays as its name and version, for ever: a peer that was away for a year has to learn
//! that it was deleted, and settings are few. So deleted ones count against the bounds, and giving a deleted name
//! a value again costs nothing.

use super::forest::{Element, Forest, mix};
use super::message::{Item, SETTING_KEY_BYTES_MAX};
use super::version::Version;
use crate::io::Refused;
use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

/// One setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Its name.
    pub key: Box<str>,
    /// The higher wins; of equal ones the greater value in the order of bytes, and a deletion loses.
    pub version: u64,
    /// What it says; `None` when deleted.
    pub value: Option<Box<[u8]>>,
}

impl Setting {
    fn bytes(&self) -> usize {
        self.key.len() + self.value.as_ref().map_or(0, |value| value.len())
    }
}

impl Element for Setting {
    fn fingerprint(&self) -> u64 {
        let value = self.value.as_ref().map_or(0, |value| xxh3_64(value).wrapping_add(1));
        mix(place_of(&self.key) ^ mix(self.version ^ mix(value))).max(1)
    }

    fn version(&self) -> Version {
        Version { incarnation: 0, counter: self.version }
    }

    fn item(&self, _: Version) -> Item {
        Item::Setting {
            key: Bytes::copy_from_slice(self.key.as_bytes()),
            version: self.version,
            value: self.value.as_deref().map(Bytes::copy_from_slice),
        }
    }

    fn heap_bytes(&self) -> usize {
        self.bytes()
    }
}

/// Where a setting stands. Two names may share a place, once in 2^64 pairs; the second is then refused.
pub fn place_of(key: &str) -> u64 {
    xxh3_64(key.as_bytes())
}

/// All settings.
#[derive(Debug, Default)]
pub struct Settings {
    pub(super) forest: Forest<Setting>,
    bytes: usize,
}

/// The bounds of the settings.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) count: usize,
    pub(super) bytes: usize,
}

impl Settings {
    /// The value of a setting, and its version; `None` where it was never set or is deleted.
    pub fn get(&self, key: &str) -> Option<(u64, &[u8])> {
        let setting = self.forest.get(place_of(key)).filter(|it| &*it.key == key)?;
        setting.value.as_deref().map(|value| (setting.version, value))
    }

    /// Every setting that has a value, in the order of a hash of its name: the same at every peer.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64, &[u8])> {
        self.forest
            .iter()
            .filter_map(|(_, it)| it.value.as_deref().map(|value| (&*it.key, it.version, value)))
    }

    /// Bytes of names and values.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes a setting in, if it is newer than what is there, and gives its place.
    /// * Errors: [`Refused::Stale`] when it is not newer, [`Refused::TooMany`] and [`Refused::TooLarge`] when
    ///   it does not fit.
    pub(super) fn put(
        &mut self,
        key: &str,
        version: u64,
        value: Option<&[u8]>,
        bounds: Bounds,
    ) -> Result<u64, Refused> {
        if key.is_empty() || key.len() > SETTING_KEY_BYTES_MAX {
            return Err(Refused::TooLarge {
                what: "a setting's name",
                bytes: key.len(),
                max: SETTING_KEY_BYTES_MAX,
            });
        }
        if version == 0 {
            return Err(Refused::Implausible("a setting at version 0"));
        }
        let place = place_of(key);
        let mut less = 0;
        if let Some(old) = self.forest.get(place) {
            if &*old.key != key {
                return Err(Refused::Implausible("the name of a setting that shares its hash with another"));
            }
            if (version, value) <= (old.version, old.value.as_deref()) {
                return Err(Refused::Stale);
            }
            less = old.bytes();
        } else if self.forest.len() >= bounds.count {
            return Err(Refused::TooMany { what: "settings", max: bounds.count });
        }
        let setting = Setting { key: key.into(), version, value: value.map(Box::from) };
        let bytes = self.bytes - less + setting.bytes();
        if bytes > bounds.bytes {
            return Err(Refused::TooLarge { what: "all settings", bytes, max: bounds.bytes });
        }
        self.bytes = bytes;
        self.forest.insert(place, setting);
        Ok(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { count: 3, bytes: 20 };

    #[test]
    fn the_highest_version_wins_in_any_order() {
        let puts =
            [("k", 2, Some(&b"two"[..])), ("k", 3, None), ("k", 1, Some(b"one")), ("k", 3, Some(b"tie"))];
        for turn in 0..puts.len() {
            let mut settings = Settings::default();
            for at in 0..puts.len() {
                let (key, version, value) = puts[(turn + at) % puts.len()];
                let _ = settings.put(key, version, value, BOUNDS);
            }
            assert_eq!(settings.get("k"), Some((3, &b"tie"[..])), "beginning at {turn}");
        }
    }

    #[test]
    fn a_deleted_setting_does_not_come_back_by_an_older_value() {
        let mut settings = Settings::default();
        settings.put("k", 5, None, BOUNDS).unwrap();
        assert_eq!(settings.put("k", 4, Some(b"old"), BOUNDS), Err(Refused::Stale));
        assert_eq!(settings.get("k"), None);
        settings.put("k", 6, Some(b"new"), BOUNDS).unwrap();
        assert_eq!(settings.get("k"), Some((6, &b"new"[..])));
    }

    #[test]
    fn what_does_not_fit_is_refused_and_changes_nothing() {
        let mut settings = Settings::default();
        settings.put("a", 1, Some(&[0; 15]), BOUNDS).unwrap();
        let sum = settings.forest.sum();
        let too_large = Refused::TooLarge { what: "all settings", bytes: 21, max: 20 };
        assert_eq!(settings.put("b", 1, Some(&[0; 4]), BOUNDS), Err(too_large));
        assert_eq!((settings.forest.sum(), settings.bytes()), (sum, 16));
        settings.put("a", 2, Some(&[0; 9]), BOUNDS).unwrap();
        settings.put("b", 1, None, BOUNDS).unwrap();
        settings.put("c", 1, None, BOUNDS).unwrap();
        assert_eq!(settings.put("d", 1, None, BOUNDS), Err(Refused::TooMany { what: "settings", max: 3 }));
        assert_eq!(settings.bytes(), 12);
    }
}
