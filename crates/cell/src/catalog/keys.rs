//! The users' own small replicated store: keys of text, values with a media type, a version for each.

use super::command::{KEY_BYTES_MAX, KEYS_BYTES_MAX, KEYS_MAX, KeyExpect, Refusal, Subject, VALUE_BYTES_MAX};
use serde::{Deserialize, Serialize};
use skein_model::limits::CONTENT_TYPE_BYTES_MAX;
use skein_model::{ContentType, Value};
use std::collections::BTreeMap;
use std::ops::Bound;

/// A value and its version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyEntry {
    /// Index in the catalog's log of the entry that wrote it. A later value has a greater one, also after a removal.
    pub version: u64,
    /// What was written.
    pub value: Value,
}

/// All keys. Removed ones leave no trace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "BTreeMap<String, KeyEntry>", into = "BTreeMap<String, KeyEntry>")]
pub struct Keys {
    entries: BTreeMap<String, KeyEntry>,
    /// Of keys, values and media types together.
    bytes: usize,
}

impl From<BTreeMap<String, KeyEntry>> for Keys {
    fn from(entries: BTreeMap<String, KeyEntry>) -> Keys {
        let bytes = entries.iter().map(|(key, entry)| weight(key, &entry.value)).sum();
        Keys { entries, bytes }
    }
}

impl From<Keys> for BTreeMap<String, KeyEntry> {
    fn from(keys: Keys) -> BTreeMap<String, KeyEntry> {
        keys.entries
    }
}

impl Keys {
    /// The key's value; `None` if it has none.
    pub fn get(&self, key: &str) -> Option<&KeyEntry> {
        self.entries.get(key)
    }

    /// Up to `max` keys that begin with `prefix` and come after `after`, ascending by their bytes.
    pub fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        max: usize,
    ) -> impl Iterator<Item = (&'a str, &'a KeyEntry)> {
        let from = match after {
            Some(after) if prefix <= after => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        self.entries
            .range::<str, _>((from, Bound::Unbounded))
            .take_while(move |(key, _)| key.starts_with(prefix))
            .take(max)
            .map(|(key, entry)| (key.as_str(), entry))
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of keys, values and media types together.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Writes a key; gives its version and whether anything changed.
    pub(crate) fn put(
        &mut self,
        index: u64,
        key: &str,
        value: &Value,
        expect: KeyExpect,
    ) -> Result<(u64, bool), Refusal> {
        check_key(key)?;
        check_value(value)?;
        self.check(key, expect)?;
        let old = self.entries.get(key).map(|entry| weight(key, &entry.value));
        let bytes = self.bytes - old.unwrap_or(0) + weight(key, value);
        if KEYS_BYTES_MAX < bytes {
            return Err(Refusal::Full { bytes });
        }
        if old.is_none() && KEYS_MAX <= self.entries.len() {
            return Err(Refusal::TooManyKeys);
        }
        self.bytes = bytes;
        self.entries.insert(key.to_owned(), KeyEntry { version: index, value: own(value) });
        Ok((index, true))
    }

    /// Removes a key; gives 0 and whether it was there.
    pub(crate) fn delete(&mut self, key: &str, expect: KeyExpect) -> Result<(u64, bool), Refusal> {
        check_key(key)?;
        self.check(key, expect)?;
        let Some(entry) = self.entries.remove(key) else { return Ok((0, false)) };
        self.bytes -= weight(key, &entry.value);
        Ok((0, true))
    }

    fn check(&self, key: &str, expect: KeyExpect) -> Result<(), Refusal> {
        let current = self.entries.get(key).map(|entry| entry.version);
        match (expect, current) {
            (KeyExpect::Anything, _) | (KeyExpect::Absent, None) | (KeyExpect::Present, Some(_)) => Ok(()),
            (KeyExpect::Absent, Some(version)) => Err(Refusal::Exists { key: key.to_owned(), version }),
            (KeyExpect::Present, None) => Err(Refusal::Missing { key: key.to_owned() }),
            (KeyExpect::Version(expected), current) if current == Some(expected) => Ok(()),
            (KeyExpect::Version(expected), current) => Err(Refusal::Stale {
                subject: Subject::Key(key.to_owned()),
                current: current.unwrap_or(0),
                expected,
            }),
        }
    }
}

/// Checks a key's length.
pub fn check_key(key: &str) -> Result<(), Refusal> {
    match key.len() {
        1..=KEY_BYTES_MAX => Ok(()),
        bytes => Err(Refusal::KeyLength { bytes }),
    }
}

/// Checks the lengths of a value and of its media type.
pub fn check_value(value: &Value) -> Result<(), Refusal> {
    if VALUE_BYTES_MAX < value.bytes.len() {
        return Err(Refusal::ValueTooLong { bytes: value.bytes.len() });
    }
    match &value.content_type {
        ContentType::Other(name) if CONTENT_TYPE_BYTES_MAX < name.len() => {
            Err(Refusal::ContentTypeTooLong { bytes: name.len() })
        }
        _ => Ok(()),
    }
}

fn weight(key: &str, value: &Value) -> usize {
    let content_type = match &value.content_type {
        ContentType::Json => 0,
        ContentType::Other(name) => name.len(),
    };
    key.len() + value.bytes.len() + content_type
}

/// The value in memory of its own: what arrives may be a slice of a large buffer, which it would keep.
fn own(value: &Value) -> Value {
    Value { content_type: value.content_type.clone(), bytes: bytes::Bytes::copy_from_slice(&value.bytes) }
}
