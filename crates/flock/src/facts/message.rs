//! What peers tell each other about facts and settings, as bytes.
//!
//! ```text
//! 0x30 Digest   | sum of the records: u64 | sum of the settings: u64 |                 17 bytes: "is this yours too?"
//! 0x31 Same     |                                                                       1 byte: "it is"
//! 0x32 Ranges   | set: u8 | salt: u16 | ranges |      "these are my sums of the sixteen parts of these ranges"
//!      range    | prefix | which parts are not empty: u16 | 3 bytes of the sum of each of them |
//! 0x33 Listing  | set: u8 | salt: u16 | lists |        "this is all I have in these ranges"
//!      list     | prefix | count: varint | elements by rising place |
//!      element  | place without the prefix's whole bytes: 2 to 8 bytes, be | 3 bytes of the fingerprint |
//! 0x34 Have     | set: u8, +2 where the fingerprints differ | elements |  "I have these so; send what is newer"
//!      element  | place: u64 be | incarnation: varint | counter: varint |  NONE: "I have it not"
//! 0x35 Items    | 1 when there is more to come, else 0: u8 | items |
//!      item     | 0 | host: u64 | addr | incarnation, counter, floor: varints | body: slice |        a whole record
//!               | 1 | host: u64 | incarnation, base, counter - base, floor: varints | changes: slice |
//!               | 2 | host: u64 | incarnation, counter: varints |                       gone at this version
//!               | 3 | key: slice | version: varint | 0, or 1 + length: varint | value |           a setting
//! 0x36 Probe    |                                                                            "are you there?"
//! 0x37 Answer   |                                                                                  "I am"
//! prefix        | depth in nibbles: u8 | the nibbles, filled up with zeros to whole bytes |
//! ```
//!
//! `set` is 0 for records and 1 for settings. The ranges of one message rise and do not overlap. Bodies are drawn in [`super::record`]. A broadcast's payload is items
//! and nothing else.

use super::forest::{DEPTH_MAX, Prefix};
use super::record;
use super::version::{COUNTER_MAX, INCARNATION_MAX, Version};
use crate::addr::Addr;
use crate::wire::{DecodeError, Reader, Writer};
use bytes::Bytes;
use skein_model::HostId;

/// Tags of this part's messages.
pub mod tag {
    /// See [`super::Message::Digest`]; likewise the others.
    pub const DIGEST: u8 = 0x30;
    /// An equal digest.
    pub const SAME: u8 = 0x31;
    /// Sums of parts of ranges.
    pub const RANGES: u8 = 0x32;
    /// All there is in some ranges.
    pub const LISTING: u8 = 0x33;
    /// Versions one has.
    pub const HAVE: u8 = 0x34;
    /// Records, changes and settings.
    pub const ITEMS: u8 = 0x35;
    /// A question to a peer that may be gone.
    pub const PROBE: u8 = 0x36;
    /// Its answer.
    pub const ANSWER: u8 = 0x37;
}

/// Longest name of a setting, in bytes.
pub const SETTING_KEY_BYTES_MAX: usize = 256;

/// Which of the two things that are kept equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Set {
    /// The owners' records.
    Records,
    /// The settings.
    Settings,
}

/// One range and the sums of its sixteen parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// Which range.
    pub prefix: Prefix,
    /// Three bytes of the sum of each part; `None` where there is nothing.
    pub parts: [Option<u32>; 16],
}

/// All that one peer has in a range: places that rise, with three bytes of each fingerprint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List {
    /// Which range.
    pub prefix: Prefix,
    /// What is there.
    pub elements: Vec<(u64, u32)>,
}

/// A thing that one peer has and another may lack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// All that an owner says.
    Whole {
        /// Whose record.
        host: HostId,
        /// Where the owner takes gossip.
        addr: Addr,
        /// At which version.
        version: Version,
        /// Retractions up to this counter are forgotten.
        floor: u64,
        /// The entries.
        body: Bytes,
    },
    /// What an owner changed after counter `base` of the same incarnation.
    Changes {
        /// Whose record.
        host: HostId,
        /// The version that the changes lead to.
        version: Version,
        /// The counter they build on.
        base: u64,
        /// Retractions up to this counter are forgotten; at most `base`.
        floor: u64,
        /// The entries changed.
        changes: Bytes,
    },
    /// An owner left, or cannot be reached, having said nothing after this version.
    Gone {
        /// Who.
        host: HostId,
        /// The last version heard.
        version: Version,
    },
    /// A setting.
    Setting {
        /// Its name.
        key: Bytes,
        /// The higher wins.
        version: u64,
        /// What it says; `None` when deleted.
        value: Option<Bytes>,
    },
}

/// A message between two peers; the module draws the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Opens an exchange.
    Digest {
        /// The sum of the fingerprints of all records.
        records: u64,
        /// The sum of the fingerprints of all settings.
        settings: u64,
    },
    /// Both sums are ours too.
    Same,
    /// The sums of the parts of ranges in which the two differ.
    Ranges {
        /// Of which set.
        set: Set,
        /// What the sums are shortened with.
        salt: u16,
        /// The ranges.
        ranges: Vec<Range>,
    },
    /// All that one has in ranges in which the two differ.
    Listing {
        /// Of which set.
        set: Set,
        /// What the fingerprints are shortened with.
        salt: u16,
        /// The ranges.
        lists: Vec<List>,
    },
    /// The versions that one has.
    Have {
        /// Of which set.
        set: Set,
        /// Whether the fingerprints differ, so that even an equal version has to be sent.
        differ: bool,
        /// Places and versions.
        elements: Vec<(u64, Version)>,
    },
    /// What the other lacks, or a part of it.
    Items {
        /// There is more: open another exchange once these are taken in.
        more: bool,
        /// The items.
        items: Vec<Item>,
    },
    /// Asks a peer that may be gone whether it is there.
    Probe,
    /// It is.
    Answer,
}

impl Message {
    /// The bytes, tag first.
    pub fn encode(&self) -> Bytes {
        let writer = match self {
            Message::Digest { records, settings } => {
                let mut writer = Writer::new(tag::DIGEST, 17);
                writer.u64(*records);
                writer.u64(*settings);
                writer
            }
            Message::Same => Writer::new(tag::SAME, 1),
            Message::Ranges { set, salt, ranges } => {
                let mut writer = salted(tag::RANGES, *set, *salt, 58 * ranges.len());
                ranges.iter().for_each(|range| range.write(&mut writer));
                writer
            }
            Message::Listing { set, salt, lists } => {
                let mut writer = salted(tag::LISTING, *set, *salt, 64 * lists.len());
                lists.iter().for_each(|list| list.write(&mut writer));
                writer
            }
            Message::Have { set, differ, elements } => {
                let mut writer = Writer::new(tag::HAVE, 2 + 20 * elements.len());
                writer.u8(set.byte() | u8::from(*differ) << 1);
                for (place, version) in elements {
                    writer.raw(&place.to_be_bytes());
                    write_version(*version, &mut writer);
                }
                writer
            }
            Message::Items { more, items } => {
                let mut writer =
                    Writer::new(tag::ITEMS, 2 + items.iter().map(Item::bytes_about).sum::<usize>());
                writer.u8(u8::from(*more));
                items.iter().for_each(|item| item.write(&mut writer));
                writer
            }
            Message::Probe => Writer::new(tag::PROBE, 1),
            Message::Answer => Writer::new(tag::ANSWER, 1),
        };
        writer.finish()
    }

    /// The message with this tag and these fields; [`DecodeError`] when no sender of this version writes it.
    pub fn decode(tag: u8, mut reader: Reader) -> Result<Self, DecodeError> {
        let message = match tag {
            tag::DIGEST => Message::Digest { records: reader.u64("a sum")?, settings: reader.u64("a sum")? },
            tag::SAME => Message::Same,
            tag::RANGES => {
                let (set, salt) = (Set::read(&mut reader)?, read_salt(&mut reader)?);
                let ranges = all(&mut reader, Range::read)?;
                in_order(ranges.iter().map(|range| range.prefix))?;
                Message::Ranges { set, salt, ranges }
            }
            tag::LISTING => {
                let (set, salt) = (Set::read(&mut reader)?, read_salt(&mut reader)?);
                let lists = all(&mut reader, List::read)?;
                in_order(lists.iter().map(|list| list.prefix))?;
                Message::Listing { set, salt, lists }
            }
            tag::HAVE => {
                let byte = reader.u8("a set")?;
                let set = Set::from_byte(byte & !2)?;
                let elements = all(&mut reader, |reader| {
                    Ok((u64::from_be_bytes(reader.array("a place")?), read_version(reader)?))
                })?;
                Message::Have { set, differ: byte & 2 != 0, elements }
            }
            tag::ITEMS => {
                let more = match reader.u8("whether there is more")? {
                    0 => false,
                    1 => true,
                    _ => return Err(DecodeError::Range("whether there is more")),
                };
                Message::Items { more, items: all(&mut reader, Item::read)? }
            }
            tag::PROBE => Message::Probe,
            tag::ANSWER => Message::Answer,
            tag => return Err(DecodeError::Tag(tag)),
        };
        reader.end()?;
        Ok(message)
    }
}

/// The payload of a broadcast.
pub fn encode_items(items: &[Item]) -> Bytes {
    let mut writer = Writer::bare(items.iter().map(Item::bytes_about).sum());
    items.iter().for_each(|item| item.write(&mut writer));
    writer.finish()
}

/// The items of a broadcast's payload.
pub fn decode_items(payload: &Bytes) -> Result<Vec<Item>, DecodeError> {
    all(&mut Reader::over(payload.clone()), Item::read)
}

/// Reads things until the bytes end. Each takes at least two bytes, so a message cannot make us allocate much
/// more than it paid for.
fn all<T>(
    reader: &mut Reader,
    read: impl Fn(&mut Reader) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    let mut things = Vec::new();
    while reader.remaining() > 0 {
        things.push(read(reader)?);
    }
    Ok(things)
}

/// Ranges rise and do not overlap, so that whatever is asked in one message, no element is looked at twice.
fn in_order(prefixes: impl Iterator<Item = Prefix>) -> Result<(), DecodeError> {
    let mut last = None;
    for prefix in prefixes {
        if last.is_some_and(|last| prefix.bits <= last) {
            return Err(DecodeError::Range("a prefix"));
        }
        last = Some(*prefix.range().end());
    }
    Ok(())
}

fn salted(tag: u8, set: Set, salt: u16, room: usize) -> Writer {
    let mut writer = Writer::new(tag, 4 + room);
    writer.u8(set.byte());
    writer.raw(&salt.to_le_bytes());
    writer
}

fn read_salt(reader: &mut Reader) -> Result<u16, DecodeError> {
    reader.array("a salt").map(u16::from_le_bytes)
}

fn write_three(value: u32, writer: &mut Writer) {
    writer.raw(&value.to_le_bytes()[..3]);
}

fn read_three(reader: &mut Reader) -> Result<u32, DecodeError> {
    let [a, b, c] = reader.array("a shortened sum")?;
    Ok(u32::from_le_bytes([a, b, c, 0]))
}

fn write_version(version: Version, writer: &mut Writer) {
    writer.varint(version.incarnation);
    writer.varint(version.counter);
}

fn bounded(value: u64, max: u64, what: &'static str) -> Result<u64, DecodeError> {
    if value <= max { Ok(value) } else { Err(DecodeError::Range(what)) }
}

/// Settings' versions are the catalog's and may be any number; an owner's are bounded where items are read.
fn read_version(reader: &mut Reader) -> Result<Version, DecodeError> {
    let incarnation = bounded(reader.varint("an incarnation")?, INCARNATION_MAX, "an incarnation")?;
    Ok(Version { incarnation, counter: reader.varint("a counter")? })
}

impl Set {
    fn byte(self) -> u8 {
        match self {
            Set::Records => 0,
            Set::Settings => 1,
        }
    }

    fn from_byte(byte: u8) -> Result<Self, DecodeError> {
        match byte {
            0 => Ok(Set::Records),
            1 => Ok(Set::Settings),
            _ => Err(DecodeError::Range("a set")),
        }
    }

    fn read(reader: &mut Reader) -> Result<Self, DecodeError> {
        Set::from_byte(reader.u8("a set")?)
    }
}

impl Prefix {
    fn write(self, writer: &mut Writer) {
        writer.u8(self.depth);
        writer.raw(&self.bits.to_be_bytes()[..usize::from(self.depth).div_ceil(2)]);
    }

    fn read(reader: &mut Reader) -> Result<Self, DecodeError> {
        let depth = reader.u8("a depth")?;
        if depth > DEPTH_MAX {
            return Err(DecodeError::Range("a depth"));
        }
        let mut bits = [0; 8];
        for byte in &mut bits[..usize::from(depth).div_ceil(2)] {
            *byte = reader.u8("a prefix")?;
        }
        let prefix = Prefix { bits: u64::from_be_bytes(bits), depth };
        if prefix.bits & prefix.below() != 0 {
            return Err(DecodeError::Range("a prefix"));
        }
        Ok(prefix)
    }

    /// How many bytes of each place in the range are the same.
    fn whole_bytes(self) -> usize {
        usize::from(self.depth) / 2
    }
}

impl Range {
    fn write(&self, writer: &mut Writer) {
        self.prefix.write(writer);
        let present =
            self.parts.iter().enumerate().fold(0, |mask, (at, it)| mask | u16::from(it.is_some()) << at);
        writer.raw(&present.to_le_bytes());
        self.parts.iter().flatten().for_each(|sum| write_three(*sum, writer));
    }

    fn read(reader: &mut Reader) -> Result<Self, DecodeError> {
        let prefix = Prefix::read(reader)?;
        if prefix.depth == DEPTH_MAX {
            return Err(DecodeError::Range("a depth"));
        }
        let present = u16::from_le_bytes(reader.array("which parts there are")?);
        let mut parts = [None; 16];
        for (at, part) in parts.iter_mut().enumerate() {
            if present & 1 << at != 0 {
                *part = Some(read_three(reader)?);
            }
        }
        Ok(Range { prefix, parts })
    }
}

impl List {
    fn write(&self, writer: &mut Writer) {
        self.prefix.write(writer);
        writer.varint(self.elements.len() as u64);
        for (place, sum) in &self.elements {
            writer.raw(&place.to_be_bytes()[self.prefix.whole_bytes()..]);
            write_three(*sum, writer);
        }
    }

    fn read(reader: &mut Reader) -> Result<Self, DecodeError> {
        let prefix = Prefix::read(reader)?;
        let same = prefix.whole_bytes();
        let count = reader.count(8 - same + 3, "the elements of a list")?;
        let mut elements: Vec<(u64, u32)> = Vec::with_capacity(count);
        for _ in 0..count {
            let mut place = prefix.bits.to_be_bytes();
            for byte in &mut place[same..] {
                *byte = reader.u8("a place")?;
            }
            let place = u64::from_be_bytes(place);
            if !prefix.range().contains(&place) || elements.last().is_some_and(|(last, _)| place <= *last) {
                return Err(DecodeError::Range("a place"));
            }
            elements.push((place, read_three(reader)?));
        }
        Ok(List { prefix, elements })
    }
}

impl Item {
    /// About as many bytes as it takes on the wire, and never fewer.
    pub fn bytes_about(&self) -> usize {
        match self {
            Item::Whole { body, .. } => 60 + body.len(),
            Item::Changes { changes, .. } => 45 + changes.len(),
            Item::Gone { .. } => 28,
            Item::Setting { key, value, .. } => 20 + key.len() + value.as_ref().map_or(0, Bytes::len),
        }
    }

    fn write(&self, writer: &mut Writer) {
        match self {
            Item::Whole { host, addr, version, floor, body } => {
                writer.u8(0);
                writer.host(*host);
                writer.addr(*addr);
                write_version(*version, writer);
                writer.varint(*floor);
                writer.slice(body);
            }
            Item::Changes { host, version, base, floor, changes } => {
                writer.u8(1);
                writer.host(*host);
                writer.varint(version.incarnation);
                writer.varint(*base);
                writer.varint(version.counter - base);
                writer.varint(*floor);
                writer.slice(changes);
            }
            Item::Gone { host, version } => {
                writer.u8(2);
                writer.host(*host);
                write_version(*version, writer);
            }
            Item::Setting { key, version, value } => {
                writer.u8(3);
                writer.slice(key);
                writer.varint(*version);
                match value {
                    None => writer.varint(0),
                    Some(value) => {
                        writer.varint(value.len() as u64 + 1);
                        writer.raw(value);
                    }
                }
            }
        }
    }

    fn read(reader: &mut Reader) -> Result<Self, DecodeError> {
        match reader.u8("an item")? {
            0 => {
                let (host, addr) = (reader.host("an owner")?, reader.addr("an owner's address")?);
                let version = read_owners_version(reader)?;
                let floor = bounded(reader.varint("a floor")?, version.counter, "a floor")?;
                let body = reader.slice(usize::MAX, "a record")?;
                record::check(&body, version.counter)?;
                Ok(Item::Whole { host, addr, version, floor, body })
            }
            1 => {
                let host = reader.host("an owner")?;
                let incarnation =
                    bounded(reader.varint("an incarnation")?, INCARNATION_MAX, "an incarnation")?;
                let base = bounded(reader.varint("a counter")?, COUNTER_MAX, "a counter")?;
                let counter = base.saturating_add(reader.varint("a counter")?);
                if counter > COUNTER_MAX || counter == base {
                    return Err(DecodeError::Range("a counter"));
                }
                let floor = bounded(reader.varint("a floor")?, base, "a floor")?;
                let changes = reader.slice(usize::MAX, "changes")?;
                record::check(&changes, counter)?;
                Ok(Item::Changes { host, version: Version { incarnation, counter }, base, floor, changes })
            }
            2 => Ok(Item::Gone { host: reader.host("an owner")?, version: read_owners_version(reader)? }),
            3 => {
                let key = reader.slice(SETTING_KEY_BYTES_MAX, "a setting's name")?;
                if key.is_empty() || std::str::from_utf8(&key).is_err() {
                    return Err(DecodeError::Range("a setting's name"));
                }
                let version = reader.varint("a setting's version")?;
                let value = match reader.varint("a setting's length")?.checked_sub(1) {
                    None => None,
                    Some(length) => {
                        let length =
                            usize::try_from(length).map_err(|_| DecodeError::Range("a setting's length"))?;
                        Some(reader.bytes(length, "a setting's value")?)
                    }
                };
                if version == 0 {
                    return Err(DecodeError::Range("a setting's version"));
                }
                Ok(Item::Setting { key, version, value })
            }
            _ => Err(DecodeError::Range("an item's kind")),
        }
    }
}

fn read_owners_version(reader: &mut Reader) -> Result<Version, DecodeError> {
    let version = read_version(reader)?;
    if version.counter == 0 || version.counter > COUNTER_MAX {
        return Err(DecodeError::Range("a counter"));
    }
    Ok(version)
}

#[cfg(test)]
mod tests;
