//! What one Raft entry of a cohort says: transactions already decided, in the order of their times.
//!
//! The sequencer checks conditions before it proposes, so an entry holds outcomes, not questions, and applying it
//! cannot fail for what the rows hold. Layout (all integers little-endian), also drawn in `docs/FORMAT.md`:
//!
//! ```text
//! | version u8 = 2 | term u64 | first u64 | proposer u64 | sequence u64 | ceiling u64 |
//! | decisions u32 | decision … |
//! | horizons u32 | { flag u8 (0 default, 1 table) | table u64 | time u64 } … |
//! decision: | id length u16 | id | fingerprint u64 | outcome u8 | time u64 | op u32 | writes u32 | write … |
//! write:    | table u64 | key length u16 | key | kind u8 | [type length u16 | type] | [value length u32 | value] |
//! outcome:  0 committed at time, 1 collision at op, 2 stale at op with latest time, 3 aborted
//! kind:     0 tombstone, 1 JSON value, 2 value with a content type
//! ```
//!
//! Version 1, of the releases that knew no other replicas, has neither term nor first. Its entries always count.
//!
//! An entry rests on those that its proposer proposed before it: they decided what its conditions were judged by. So it
//! counts only where it belongs: appended in the term in which its proposer led, and right after its predecessor,
//! or as the first of its reign. Any other is *void* and changes nothing anywhere. That matters when leadership is lost
//! and won again between two entries, or when one is refused and the next one is not.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use skein_model::limits::{CONTENT_TYPE_BYTES_MAX, KEY_BYTES_MAX, TX_ID_DIGITS_MAX, VALUE_BYTES_MAX};
use skein_model::{ContentType, Refusal, TableId, TxClock, TxId, Value};
use std::sync::Arc;

/// Newest layout that this build reads and writes.
pub const ENTRY_VERSION: u8 = 2;

const _: () = assert!(KEY_BYTES_MAX <= u16::MAX as usize, "a key's length has to fit in 16 bits");
const _: () = assert!(TX_ID_DIGITS_MAX / 2 <= u16::MAX as usize, "an ID's length has to fit in 16 bits");

/// What was decided about one transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Written, every row with this time.
    Committed(TxClock),
    /// Not written because of what the rows held.
    Refused(Refusal),
    /// Not written because somebody asked first.
    Aborted,
}

/// A version that a committed transaction adds to a row; no value is a tombstone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// The row's table.
    pub table: TableId,
    /// The row's key.
    pub key: Bytes,
    /// What the row holds from now on.
    pub value: Option<Value>,
}

/// One decided transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The transaction.
    pub id: TxId,
    /// Hash of its operations if the client chose the ID, else zero.
    pub fingerprint: u64,
    /// What was decided.
    pub outcome: Outcome,
    /// The versions it adds; empty unless committed.
    pub writes: Vec<Write>,
}

/// The unbroken leadership in which an entry was proposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryReign {
    /// The term in which its proposer led.
    pub term: u64,
    /// Sequence of the first entry of the reign.
    pub first: u64,
}

/// The last entry that counted: what the next one has to follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Predecessor {
    /// See [`Entry::proposer`].
    pub proposer: u64,
    /// See [`Entry::sequence`].
    pub sequence: u64,
}

/// One Raft entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The reign in which it was proposed; `None` for version 1.
    pub reign: Option<EntryReign>,
    /// The run of the replica that proposed it: drawn at random when the replica was opened.
    pub proposer: u64,
    /// The proposer's own count of entries since it started; recognises its entry when it is applied.
    pub sequence: u64,
    /// Every time issued or promised stays below this until a later entry raises it.
    pub ceiling: TxClock,
    /// Oldest readable times that rise with this entry: of one table, or (`None`) of all that have none of their own.
    pub horizons: Vec<(Option<TableId>, TxClock)>,
    /// The transactions, committed ones in the order of their times.
    pub decisions: Vec<Decision>,
}

/// The bytes are not an entry of a version we know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// Written by a newer release.
    #[error(
        "the entry has format version {found}; this release reads up to {ENTRY_VERSION}; start the newer release"
    )]
    Newer {
        /// The version it names.
        found: u8,
    },
    /// Cut short, too long, or with an impossible field.
    #[error("the entry is malformed at its {what}")]
    Malformed {
        /// The field at which decoding stopped.
        what: &'static str,
    },
}

/// Builds the bytes of an entry decision by decision.
#[derive(Debug)]
pub struct EntryBuilder {
    bytes: BytesMut,
    count_at: usize,
    ceiling_at: usize,
    count: u32,
    horizons: Vec<(Option<TableId>, TxClock)>,
}

impl EntryBuilder {
    /// An entry without decisions.
    pub fn new(reign: EntryReign, proposer: u64, sequence: u64) -> EntryBuilder {
        let mut bytes = BytesMut::with_capacity(512);
        bytes.put_u8(ENTRY_VERSION);
        bytes.put_u64_le(reign.term);
        bytes.put_u64_le(reign.first);
        bytes.put_u64_le(proposer);
        bytes.put_u64_le(sequence);
        let ceiling_at = bytes.len();
        bytes.put_u64_le(0);
        let count_at = bytes.len();
        bytes.put_u32_le(0);
        EntryBuilder { bytes, count_at, ceiling_at, count: 0, horizons: Vec::new() }
    }

    /// Starts a decision; exactly `writes` calls of [`EntryBuilder::write`] have to follow.
    pub fn decision(&mut self, id: &TxId, fingerprint: u64, outcome: &Outcome, writes: usize) {
        let id = id.as_be_bytes();
        self.count += 1;
        self.bytes.reserve(id.len() + 32);
        self.bytes.put_u16_le(id.len() as u16);
        self.bytes.put_slice(id);
        self.bytes.put_u64_le(fingerprint);
        let (kind, time, op) = match outcome {
            Outcome::Committed(time) => (0, *time, 0),
            Outcome::Refused(Refusal::Collision { op }) => (1, TxClock::ZERO, *op),
            Outcome::Refused(Refusal::Stale { op, latest }) => (2, *latest, *op),
            Outcome::Aborted => (3, TxClock::ZERO, 0),
        };
        self.bytes.put_u8(kind);
        self.bytes.put_u64_le(time.0);
        self.bytes.put_u32_le(op);
        self.bytes.put_u32_le(writes as u32);
    }

    /// Adds a version to the decision begun last.
    pub fn write(&mut self, table: TableId, key: &[u8], value: Option<&Value>) {
        self.bytes.reserve(key.len() + 24 + value.map_or(0, |v| v.bytes.len()));
        self.bytes.put_u64_le(table.0);
        self.bytes.put_u16_le(key.len() as u16);
        self.bytes.put_slice(key);
        let Some(value) = value else {
            self.bytes.put_u8(0);
            return;
        };
        match &value.content_type {
            ContentType::Json => self.bytes.put_u8(1),
            ContentType::Other(name) => {
                self.bytes.put_u8(2);
                self.bytes.put_u16_le(name.len() as u16);
                self.bytes.put_slice(name.as_bytes());
            }
        }
        self.bytes.put_u32_le(value.bytes.len() as u32);
        self.bytes.put_slice(&value.bytes);
    }

    /// Adds horizons that rise with this entry.
    pub fn horizons(&mut self, horizons: &[(Option<TableId>, TxClock)]) {
        self.horizons.extend_from_slice(horizons);
    }

    /// Bytes so far.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The finished entry.
    pub fn finish(mut self, ceiling: TxClock) -> Bytes {
        self.bytes[self.ceiling_at..self.ceiling_at + 8].copy_from_slice(&ceiling.0.to_le_bytes());
        self.bytes[self.count_at..self.count_at + 4].copy_from_slice(&self.count.to_le_bytes());
        self.bytes.put_u32_le(self.horizons.len() as u32);
        for (table, time) in &self.horizons {
            self.bytes.put_u8(u8::from(table.is_some()));
            self.bytes.put_u64_le(table.map_or(0, |t| t.0));
            self.bytes.put_u64_le(time.0);
        }
        self.bytes.freeze()
    }
}

/// Bytes of a decision without ID and writes.
const DECISION_BYTES_MIN: usize = 27;

/// Bytes of a tombstone under an empty key.
const WRITE_BYTES_MIN: usize = 11;

/// Takes fields off the front of an entry, or says at which one the bytes end.
struct Reader(Bytes);

impl Reader {
    /// How many of `count` parts of at least so many bytes there can be, to make room for.
    fn at_most(&self, count: u32, bytes_min: usize) -> usize {
        (count as usize).min(self.0.len() / bytes_min)
    }

    fn need(&self, bytes: usize, what: &'static str) -> Result<(), EntryError> {
        if self.0.len() < bytes { Err(EntryError::Malformed { what }) } else { Ok(()) }
    }
    fn u8(&mut self, what: &'static str) -> Result<u8, EntryError> {
        self.need(1, what)?;
        Ok(self.0.get_u8())
    }
    fn u16(&mut self, what: &'static str) -> Result<u16, EntryError> {
        self.need(2, what)?;
        Ok(self.0.get_u16_le())
    }
    fn u32(&mut self, what: &'static str) -> Result<u32, EntryError> {
        self.need(4, what)?;
        Ok(self.0.get_u32_le())
    }
    fn u64(&mut self, what: &'static str) -> Result<u64, EntryError> {
        self.need(8, what)?;
        Ok(self.0.get_u64_le())
    }
    fn bytes(&mut self, bytes: usize, max: usize, what: &'static str) -> Result<Bytes, EntryError> {
        if max < bytes {
            return Err(EntryError::Malformed { what });
        }
        self.need(bytes, what)?;
        Ok(self.0.split_to(bytes))
    }
}

impl Entry {
    /// Whether the entry counts when it is found appended in `term`, with `before` as the last one that counted.
    pub fn counts(&self, term: u64, before: Predecessor) -> bool {
        let Some(reign) = self.reign else { return true };
        let follows =
            before.proposer == self.proposer && before.sequence.checked_add(1) == Some(self.sequence);
        reign.term == term && (follows || self.sequence == reign.first)
    }

    /// What the entry after this one has to follow.
    pub fn as_predecessor(&self) -> Predecessor {
        Predecessor { proposer: self.proposer, sequence: self.sequence }
    }

    /// Reads an entry; values and keys share `bytes`' memory.
    pub fn decode(bytes: Bytes) -> Result<Entry, EntryError> {
        let mut r = Reader(bytes);
        let version = r.u8("version")?;
        if ENTRY_VERSION < version {
            return Err(EntryError::Newer { found: version });
        }
        if version == 0 {
            return Err(EntryError::Malformed { what: "version" });
        }
        let reign = match version {
            1 => None,
            _ => Some(EntryReign { term: r.u64("term")?, first: r.u64("first")? }),
        };
        let proposer = r.u64("proposer")?;
        let sequence = r.u64("sequence")?;
        let ceiling = TxClock(r.u64("ceiling")?);
        let count = r.u32("decision count")?;
        let mut decisions = Vec::with_capacity(r.at_most(count, DECISION_BYTES_MIN));
        for _ in 0..count {
            decisions.push(decode_decision(&mut r)?);
        }
        let mut horizons = Vec::new();
        for _ in 0..r.u32("horizon count")? {
            let flag = r.u8("horizon flag")?;
            let table = TableId(r.u64("horizon table")?);
            let time = TxClock(r.u64("horizon time")?);
            horizons.push((
                match flag {
                    0 => None,
                    1 => Some(table),
                    _ => return Err(EntryError::Malformed { what: "horizon flag" }),
                },
                time,
            ));
        }
        if !r.0.is_empty() {
            return Err(EntryError::Malformed { what: "end" });
        }
        Ok(Entry { reign, proposer, sequence, ceiling, horizons, decisions })
    }
}

fn decode_decision(r: &mut Reader) -> Result<Decision, EntryError> {
    let id_len = r.u16("ID length")?;
    let id = TxId::from_be_bytes(&r.bytes(id_len as usize, TX_ID_DIGITS_MAX / 2, "ID")?);
    let fingerprint = r.u64("fingerprint")?;
    let kind = r.u8("outcome")?;
    let time = TxClock(r.u64("time")?);
    let op = r.u32("operation")?;
    let outcome = match kind {
        0 => Outcome::Committed(time),
        1 => Outcome::Refused(Refusal::Collision { op }),
        2 => Outcome::Refused(Refusal::Stale { op, latest: time }),
        3 => Outcome::Aborted,
        _ => return Err(EntryError::Malformed { what: "outcome" }),
    };
    let count = r.u32("write count")?;
    if count != 0 && !matches!(outcome, Outcome::Committed(_)) {
        return Err(EntryError::Malformed { what: "write count" });
    }
    let mut writes = Vec::with_capacity(r.at_most(count, WRITE_BYTES_MIN));
    for _ in 0..count {
        let table = TableId(r.u64("table")?);
        let key_len = r.u16("key length")?;
        let key = r.bytes(key_len as usize, KEY_BYTES_MAX, "key")?;
        let content_type = match r.u8("value kind")? {
            0 => None,
            1 => Some(ContentType::Json),
            2 => {
                let len = r.u16("content type length")?;
                let name = r.bytes(len as usize, CONTENT_TYPE_BYTES_MAX, "content type")?;
                let name =
                    std::str::from_utf8(&name).map_err(|_| EntryError::Malformed { what: "content type" })?;
                Some(ContentType::Other(Arc::from(name)))
            }
            _ => return Err(EntryError::Malformed { what: "value kind" }),
        };
        let value = match content_type {
            None => None,
            Some(content_type) => {
                let len = r.u32("value length")?;
                Some(Value { content_type, bytes: r.bytes(len as usize, VALUE_BYTES_MAX, "value")? })
            }
        };
        writes.push(Write { table, key, value });
    }
    Ok(Decision { id, fingerprint, outcome, writes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const REIGN: EntryReign = EntryReign { term: 5, first: 2 };

    fn value() -> impl Strategy<Value = Option<Value>> {
        proptest::option::of((any::<bool>(), proptest::collection::vec(any::<u8>(), 0..40)).prop_map(
            |(json, bytes)| Value {
                content_type: if json { ContentType::Json } else { ContentType::Other(Arc::from("text/x")) },
                bytes: Bytes::from(bytes),
            },
        ))
    }

    fn decision() -> impl Strategy<Value = Decision> {
        let write = (any::<u64>(), proptest::collection::vec(any::<u8>(), 0..20), value())
            .prop_map(|(t, k, value)| Write { table: TableId(t), key: Bytes::from(k), value });
        (
            proptest::collection::vec(any::<u8>(), 0..24),
            any::<u64>(),
            0..4u8,
            any::<u64>(),
            any::<u32>(),
            proptest::collection::vec(write, 0..4),
        )
            .prop_map(|(id, fingerprint, kind, time, op, writes)| Decision {
                id: TxId::from_be_bytes(&id),
                fingerprint,
                outcome: match kind {
                    0 => Outcome::Committed(TxClock(time)),
                    1 => Outcome::Refused(Refusal::Collision { op }),
                    2 => Outcome::Refused(Refusal::Stale { op, latest: TxClock(time) }),
                    _ => Outcome::Aborted,
                },
                writes: if kind == 0 { writes } else { Vec::new() },
            })
    }

    fn encode(entry: &Entry) -> Bytes {
        let mut builder = EntryBuilder::new(entry.reign.unwrap_or(REIGN), entry.proposer, entry.sequence);
        builder.horizons(&entry.horizons);
        for d in &entry.decisions {
            builder.decision(&d.id, d.fingerprint, &d.outcome, d.writes.len());
            for w in &d.writes {
                builder.write(w.table, &w.key, w.value.as_ref());
            }
        }
        builder.finish(entry.ceiling)
    }

    proptest! {
        #[test]
        fn an_entry_comes_back_as_it_was(
            term: u64, first: u64, proposer: u64, sequence: u64, ceiling: u64,
            horizons in proptest::collection::vec((proptest::option::of(any::<u64>()), any::<u64>()), 0..3),
            decisions in proptest::collection::vec(decision(), 0..4),
        ) {
            let horizons = horizons.into_iter().map(|(t, h)| (t.map(TableId), TxClock(h))).collect();
            let entry = Entry { reign: Some(EntryReign { term, first }), proposer, sequence, ceiling: TxClock(ceiling), horizons, decisions };
            prop_assert_eq!(Entry::decode(encode(&entry)), Ok(entry));
        }

        #[test]
        fn an_entry_of_version_1_is_read_and_always_counts(decisions in proptest::collection::vec(decision(), 0..4), term: u64) {
            let entry = Entry { reign: None, proposer: 1, sequence: 2, ceiling: TxClock(3), horizons: vec![], decisions };
            let now = encode(&entry);
            let then = [&[1u8][..], &now[17..]].concat();
            let read = Entry::decode(Bytes::from(then));
            prop_assert_eq!(read.as_ref(), Ok(&entry));
            prop_assert!(entry.counts(term, Predecessor::default()));
        }

        #[test]
        fn any_bytes_decode_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Entry::decode(Bytes::from(bytes));
        }

        #[test]
        fn an_entry_cut_short_is_refused(decisions in proptest::collection::vec(decision(), 1..3), cut in 1..40usize) {
            let entry = Entry { reign: Some(REIGN), proposer: 1, sequence: 2, ceiling: TxClock(3), horizons: vec![], decisions };
            let bytes = encode(&entry);
            prop_assert!(Entry::decode(bytes.slice(..bytes.len() - cut.min(bytes.len()))).is_err());
        }
    }

    #[test]
    fn writes_of_a_transaction_that_was_not_committed_are_refused() {
        for outcome in [
            Outcome::Refused(Refusal::Collision { op: 0 }),
            Outcome::Refused(Refusal::Stale { op: 0, latest: TxClock(1) }),
            Outcome::Aborted,
        ] {
            let mut builder = EntryBuilder::new(REIGN, 1, 2);
            builder.decision(&TxId::from_be_bytes(&[1]), 0, &outcome, 1);
            builder.write(TableId(1), b"key", None);
            let malformed = EntryError::Malformed { what: "write count" };
            assert_eq!(Entry::decode(builder.finish(TxClock(3))), Err(malformed), "{outcome:?}");
        }
    }

    #[test]
    fn an_entry_counts_only_in_its_term_and_after_its_predecessor() {
        let entry =
            |sequence| Entry::decode(EntryBuilder::new(REIGN, 1, sequence).finish(TxClock(3))).unwrap();
        let (first, second, third) = (entry(2), entry(3), entry(4));
        let another = Predecessor { proposer: 9, sequence: 2 };
        assert!(first.counts(5, another));
        assert!(!first.counts(6, another) && !first.counts(4, another));
        assert!(second.counts(5, first.as_predecessor()));
        assert!(!second.counts(6, first.as_predecessor()));
        assert!(!second.counts(5, another));
        // The second was refused, and the third was not.
        assert!(!third.counts(5, first.as_predecessor()));
    }

    #[test]
    fn an_entry_of_a_newer_release_is_refused_by_version() {
        assert_eq!(Entry::decode(Bytes::from_static(&[9, 0, 0])), Err(EntryError::Newer { found: 9 }));
    }
}
