//! All that one owner says: its facts, kept as the bytes in which they travel.
//!
//! A body is its entries by rising key,
//!
//! ```text
//! | key length: u8 | key: UTF-8 | counter: varint | 0, or 1 + length of the value: varint | value |
//! ```
//!
//! where the counter is that of the change that wrote the entry, and 0 in place of a length says that the key
//! was retracted by that change. A fact so costs 3 to 7 bytes beside key and value, and an owner
//! about 120 with the node that holds it; a map of maps would cost several times that.

use super::forest::{Element, place_of};
use super::message::Item;
use super::version::Version;
use crate::addr::Addr;
use crate::wire::{DecodeError, Reader, Writer};
use bytes::Bytes;
use skein_model::HostId;
use std::cmp::Ordering;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Longest key of a fact, in bytes.
pub const KEY_BYTES_MAX: usize = 64;

/// One change of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Which fact.
    pub key: &'a str,
    /// Which change of the owner's wrote it.
    pub counter: u64,
    /// What it says; `None` when retracted.
    pub value: Option<&'a [u8]>,
}

/// The entries of a body that was checked; stops where a body that was not is no body any more.
#[derive(Clone, Debug)]
pub struct Entries<'a> {
    left: &'a [u8],
}

/// Reads the entries of a body.
pub fn entries(body: &[u8]) -> Entries<'_> {
    Entries { left: body }
}

impl<'a> Entries<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, left) = self.left.split_at_checked(count)?;
        self.left = left;
        Some(taken)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = *self.take(1)?.first()?;
            value |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Entry<'a>;

    fn next(&mut self) -> Option<Entry<'a>> {
        let length = *self.take(1)?.first()?;
        let key = std::str::from_utf8(self.take(usize::from(length))?).ok()?;
        let counter = self.varint()?;
        let value = match self.varint()?.checked_sub(1) {
            None => None,
            Some(length) => Some(self.take(usize::try_from(length).ok()?)?),
        };
        Some(Entry { key, counter, value })
    }
}

/// Writes an entry as [`entries`] reads it.
pub fn write(entry: Entry<'_>, body: &mut Writer) {
    body.u8(entry.key.len() as u8);
    body.raw(entry.key.as_bytes());
    body.varint(entry.counter);
    match entry.value {
        None => body.varint(0),
        Some(value) => {
            body.varint(value.len() as u64 + 1);
            body.raw(value);
        }
    }
}

/// Makes sure that bytes are a body as an owner at `counter` writes it: whole entries with keys of 1 to
/// [`KEY_BYTES_MAX`] bytes that rise, and counters from 1 to `counter`.
pub fn check(body: &Bytes, counter: u64) -> Result<(), DecodeError> {
    let mut reader = Reader::over(body.clone());
    let mut last = Bytes::new();
    while reader.remaining() > 0 {
        let length = usize::from(reader.u8("a key's length")?);
        if length == 0 || length > KEY_BYTES_MAX {
            return Err(DecodeError::Range("a key's length"));
        }
        let key = reader.bytes(length, "a key")?;
        if std::str::from_utf8(&key).is_err() || key <= last {
            return Err(DecodeError::Range("a key"));
        }
        last = key;
        let written = reader.varint("an entry's counter")?;
        if written == 0 || written > counter {
            return Err(DecodeError::Range("an entry's counter"));
        }
        match reader.varint("a value's length")?.checked_sub(1) {
            None => {}
            Some(length) => {
                let length = usize::try_from(length).map_err(|_| DecodeError::Range("a value's length"))?;
                reader.bytes(length, "a value")?;
            }
        }
    }
    Ok(())
}

/// One owner's facts at one version.
///
/// Whoever has the record at a version has exactly what the owner had then: changes are taken in without a
/// gap or not at all. So the version alone says what a peer lacks (as in van Renesse et al.,
/// "Efficient Reconciliation and Flow Control for Anti-Entropy Protocols", 2008), and a retraction can be forgotten
/// by all at the same version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Whose.
    pub host: HostId,
    /// Where the owner takes gossip.
    pub addr: Addr,
    /// The owner's last change.
    pub version: Version,
    /// Retractions up to this counter are forgotten; who is further behind needs the whole.
    pub floor: u64,
    fingerprint: u64,
    body: Box<[u8]>,
}

impl Record {
    /// A record with a body that was checked.
    pub fn new(host: HostId, addr: Addr, version: Version, floor: u64, body: &[u8]) -> Self {
        let mut record = Self { host, addr, version, floor, fingerprint: 0, body: body.into() };
        record.fingerprint = record.hash();
        record
    }

    fn hash(&self) -> u64 {
        let mut about = [0_u8; 50];
        let mut rest = &mut about[..];
        for number in [place_of(self.host), self.version.incarnation, self.version.counter, self.floor] {
            let (front, back) = rest.split_at_mut(8);
            front.copy_from_slice(&number.to_le_bytes());
            rest = back;
        }
        rest.copy_from_slice(&self.addr.octets());
        // Never 0, so that the sum of a single element never looks like that of none.
        xxh3_64_with_seed(&self.body, xxh3_64_with_seed(&about, 0)).max(1)
    }

    /// The bytes of the entries.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The entries by rising key, retracted ones too.
    pub fn entries(&self) -> Entries<'_> {
        entries(&self.body)
    }

    /// The facts by rising key.
    pub fn facts(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.entries().filter_map(|entry| entry.value.map(|value| (entry.key, value)))
    }

    /// What the fact of this key says.
    pub fn get(&self, key: &str) -> Option<&[u8]> {
        self.facts().find(|(its, _)| *its == key).map(|(_, value)| value)
    }

    /// The record after taking in `changes` (a checked body), all that changed since a version at or before ours.
    pub fn after(&self, version: Version, floor: u64, changes: &[u8]) -> Record {
        let mut body = Writer::bare(self.body.len() + changes.len());
        let (mut ours, mut theirs) = (self.entries().peekable(), entries(changes).peekable());
        loop {
            let order = match (ours.peek(), theirs.peek()) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(a), Some(b)) => a.key.cmp(b.key),
            };
            let entry = match order {
                Ordering::Less => ours.next(),
                Ordering::Greater => theirs.next(),
                Ordering::Equal => {
                    let (a, b) = (ours.next(), theirs.next());
                    if b.map(|it| it.counter) < a.map(|it| it.counter) { a } else { b }
                }
            };
            match entry {
                Some(it) if it.value.is_some() || it.counter > floor => write(it, &mut body),
                _ => {}
            }
        }
        Record::new(self.host, self.addr, version, floor, &body.finish())
    }

    /// The same facts, all written at `version`: whoever has anything older needs the whole.
    pub fn restated(&self, addr: Addr, version: Version) -> Record {
        let mut body = Writer::bare(self.body.len() + 8);
        for (key, value) in self.facts() {
            write(Entry { key, counter: version.counter, value: Some(value) }, &mut body);
        }
        Record::new(self.host, addr, version, version.counter, &body.finish())
    }

    /// Which of two bodies of the same version stands, should they ever differ: any rule that all share will do.
    pub fn beats(&self, other: &Record) -> bool {
        (&self.body, self.addr, self.floor) > (&other.body, other.addr, other.floor)
    }
}

impl Element for Record {
    fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    fn version(&self) -> Version {
        self.version
    }

    fn item(&self, since: Version) -> Item {
        let Record { host, addr, version, floor, .. } = *self;
        if since.incarnation != version.incarnation || since.counter < floor || since >= version {
            let body = Bytes::copy_from_slice(&self.body);
            return Item::Whole { host, addr, version, floor, body };
        }
        let mut changes = Writer::bare(64);
        self.entries().filter(|it| it.counter > since.counter).for_each(|it| write(it, &mut changes));
        Item::Changes { host, version, base: since.counter, floor, changes: changes.finish() }
    }

    fn heap_bytes(&self) -> usize {
        self.body.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;

    pub fn addr() -> Addr {
        SocketAddr::from(([127, 0, 0, 1], 7000)).into()
    }

    fn body(entries: &[(&str, u64, Option<&str>)]) -> Bytes {
        let mut body = Writer::bare(0);
        for (key, counter, value) in entries {
            write(Entry { key, counter: *counter, value: value.map(str::as_bytes) }, &mut body);
        }
        body.finish()
    }

    fn version(counter: u64) -> Version {
        Version { incarnation: 9, counter }
    }

    #[test]
    fn changes_since_a_version_bring_its_record_to_the_owners() {
        let then =
            Record::new(HostId(1), addr(), version(2), 0, &body(&[("a", 1, Some("x")), ("b", 2, Some("y"))]));
        let now = then.after(version(5), 0, &body(&[("a", 5, None), ("c", 4, Some("z"))]));
        let Item::Changes { base: 2, changes, .. } = now.item(version(2)) else {
            panic!("not the changes alone")
        };
        assert_eq!(changes, body(&[("a", 5, None), ("c", 4, Some("z"))]));
        assert_eq!(then.after(version(5), 0, &changes), now);
        assert_eq!(now.facts().collect::<Vec<_>>(), [("b", &b"y"[..]), ("c", &b"z"[..])]);
    }

    #[test]
    fn who_is_behind_the_forgotten_retractions_gets_the_whole() {
        let then =
            Record::new(HostId(1), addr(), version(2), 0, &body(&[("a", 1, Some("x")), ("b", 2, Some("y"))]));
        let now = then.after(version(6), 5, &body(&[("a", 5, None), ("d", 6, Some("new"))]));
        assert_eq!(now.entries().map(|it| it.key).collect::<Vec<_>>(), ["b", "d"]);
        assert!(matches!(now.item(version(4)), Item::Whole { .. }));
        assert!(matches!(now.item(version(5)), Item::Changes { .. }));
        assert!(matches!(now.item(Version { incarnation: 8, counter: 6 }), Item::Whole { .. }));
    }

    #[test]
    fn what_differs_in_anything_differs_in_its_fingerprint() {
        let record = |host, counter, floor, text| {
            Record::new(HostId(host), addr(), version(counter), floor, &body(&[("a", 1, Some(text))]))
                .fingerprint()
        };
        let one = record(1, 2, 0, "x");
        assert_eq!(one, record(1, 2, 0, "x"));
        for other in [record(2, 2, 0, "x"), record(1, 3, 0, "x"), record(1, 2, 1, "x"), record(1, 2, 0, "y")]
        {
            assert_ne!(one, other);
        }
    }

    #[test]
    fn bodies_that_no_owner_writes_are_refused() {
        assert_eq!(check(&body(&[("a", 1, Some("")), ("b", 7, None)]), 7), Ok(()));
        assert!(check(&body(&[("a", 8, None)]), 7).is_err(), "written after the version");
        assert!(check(&body(&[("a", 0, None)]), 7).is_err(), "counter 0");
        assert!(check(&body(&[("b", 1, None), ("a", 1, None)]), 7).is_err(), "keys out of order");
        assert!(check(&body(&[("a", 1, None), ("a", 1, None)]), 7).is_err(), "a key twice");
        assert!(check(&body(&[("", 1, None)]), 7).is_err(), "an empty key");
        assert!(check(&body(&[(&"k".repeat(65), 1, None)]), 7).is_err(), "a long key");
        assert!(check(&Bytes::from_static(&[1, 0xFF, 1, 0]), 7).is_err(), "not UTF-8");
        let whole = body(&[("key", 3, Some("value"))]);
        for cut in 1..whole.len() {
            assert!(check(&whole.slice(..cut), 7).is_err(), "cut at {cut}");
        }
    }
}
