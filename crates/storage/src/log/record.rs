//! Records: what a segment is made of, to bytes and back.
//!
//! ```text
//! | crc32c: u32 | length: u32 | sequence: u64 | mark: u64 | group: u64 | kind: u8 | zero: 7 bytes | body | pad |
//! ```
//!
//! All numbers are little-endian. `length` counts header and body; zero bytes then pad to a multiple of 8.
//! The checksum covers everything after itself up to `length` and starts from the segment's seed, so a
//! record left over from an earlier life of the segment file never validates. `sequence` counts all records
//! of the log without gaps from 1; `mark` is the sequence that was known durable when this was written.

use bytes::Bytes;

/// Bytes before a record's body.
pub(super) const RECORD_HEADER: usize = 40;
/// Records start at multiples of this.
pub(super) const ALIGN: u64 = 8;
/// A vote, a log ID or a committed hint may have this many bytes.
pub(super) const BLOB_BYTES_MAX: usize = 512;

const _: () = assert!(BLOB_BYTES_MAX <= u16::MAX as usize, "their lengths are written as u16");

/// The log counts its records, segments and updates from 1 and never gets this far; a file that says otherwise was not
/// written by a log, whatever its checksum.
pub(super) const COUNT_MAX: u64 = 1 << 62;

/// Bytes the record takes in the segment, padding included.
pub(super) fn padded(length: u64) -> u64 {
    length.next_multiple_of(ALIGN)
}

/// Bytes a record with a body of `body` bytes takes in the segment.
pub(super) fn record_bytes(body: u64) -> u64 {
    padded(RECORD_HEADER as u64 + body)
}

/// What an entry adds to its payload: its index.
pub(super) const ENTRY_PREFIX: usize = 8;

/// Where the checksum of a segment's records starts from. Different for any two of 2^32 generations in a
/// row, because a CRC of 32 bits tells all messages apart that differ in only 32 adjacent bits. The log's
/// salt keeps clients from guessing it and hiding a record of their own in a value.
pub(super) fn seed(salt: u32, generation: u64) -> u32 {
    crc32c::crc32c_append(salt, &generation.to_le_bytes())
}

/// The fixed part of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// Header and body, in bytes, without the padding.
    pub length: u32,
    pub sequence: u64,
    pub mark: u64,
    /// The Raft group; 0 in records about the log itself.
    pub group: u64,
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Body<'a> {
    /// `| index: u64 | payload |`
    Entry { index: u64, payload: &'a [u8] },
    /// The vote, as the caller wrote it.
    Vote(&'a [u8]),
    /// Entries after `after` are gone: empty for all entries, else `| after: u64 |`
    Truncate { after: Option<u64> },
    /// Entries up to `index` are no longer needed: `| index: u64 | log ID |`
    Purge { index: u64, log_id: &'a [u8] },
    /// A hint how far the group had committed.
    Committed(&'a [u8]),
    /// At the start of each segment, one for each group: everything about it but its entries.
    State(Summary),
    /// Nothing but its `mark`: written when the log goes idle, and at close.
    Mark,
    /// The log goes on in the next segment.
    End,
    /// The group is as if it had never been.
    Forget,
}

/// A group's state without its entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Summary {
    pub vote: Option<Bytes>,
    /// The last index that was purged, and the log ID the caller gave with it.
    pub purged: Option<(u64, Bytes)>,
    pub committed: Option<Bytes>,
    /// First and last index of the entries that exist.
    pub span: Option<(u64, u64)>,
}

const HAS_VOTE: u8 = 1;
const HAS_PURGED: u8 = 2;
const HAS_COMMITTED: u8 = 4;
const HAS_SPAN: u8 = 8;

impl Summary {
    /// The index the next entry has to have; `None` when any will do.
    pub fn next_index(&self) -> Option<u64> {
        match (self.span, &self.purged) {
            (Some((_, last)), _) => Some(last + 1),
            (None, Some((purged, _))) => Some(purged + 1),
            (None, None) => None,
        }
    }

    pub fn append(&mut self, index: u64) {
        self.span = Some((self.span.map_or(index, |(first, _)| first), index));
    }

    pub fn truncate_after(&mut self, after: Option<u64>) {
        self.span = match (self.span, after) {
            (Some((first, last)), Some(after)) if first <= after => Some((first, last.min(after))),
            _ => None,
        };
    }

    /// Notes a purge; one that would go back is ignored.
    pub fn purge(&mut self, index: u64, log_id: Bytes) {
        if self.purged.as_ref().is_some_and(|(purged, _)| index < *purged) {
            return;
        }
        self.purged = Some((index, log_id));
        self.span =
            self.span.filter(|(_, last)| index < *last).map(|(first, last)| (first.max(index + 1), last));
    }

    /// The most bytes the state records of `groups` groups can take in a segment.
    pub fn bytes_max(groups: usize) -> u64 {
        groups as u64 * record_bytes(1 + 3 * (2 + BLOB_BYTES_MAX as u64) + 8 + 16)
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let flag = |present: bool, flag: u8| if present { flag } else { 0 };
        out.push(
            flag(self.vote.is_some(), HAS_VOTE)
                | flag(self.purged.is_some(), HAS_PURGED)
                | flag(self.committed.is_some(), HAS_COMMITTED)
                | flag(self.span.is_some(), HAS_SPAN),
        );
        let blob = |out: &mut Vec<u8>, blob: &[u8]| {
            // The public functions refuse longer ones.
            assert!(blob.len() <= BLOB_BYTES_MAX, "a blob of {} bytes reached the encoder", blob.len());
            out.extend_from_slice(&(blob.len() as u16).to_le_bytes());
            out.extend_from_slice(blob);
        };
        if let Some(vote) = &self.vote {
            blob(out, vote);
        }
        if let Some((index, log_id)) = &self.purged {
            out.extend_from_slice(&index.to_le_bytes());
            blob(out, log_id);
        }
        if let Some(committed) = &self.committed {
            blob(out, committed);
        }
        if let Some((first, last)) = self.span {
            out.extend_from_slice(&first.to_le_bytes());
            out.extend_from_slice(&last.to_le_bytes());
        }
    }

    fn decode(bytes: &[u8]) -> Option<Summary> {
        let mut rest = bytes;
        let flags = *rest.split_off_first()?;
        if flags & !(HAS_VOTE | HAS_PURGED | HAS_COMMITTED | HAS_SPAN) != 0 {
            return None;
        }
        let mut summary = Summary::default();
        if flags & HAS_VOTE != 0 {
            summary.vote = Some(take_blob(&mut rest)?);
        }
        if flags & HAS_PURGED != 0 {
            summary.purged = Some((take_index(&mut rest)?, take_blob(&mut rest)?));
        }
        if flags & HAS_COMMITTED != 0 {
            summary.committed = Some(take_blob(&mut rest)?);
        }
        if flags & HAS_SPAN != 0 {
            let (first, last) = (take_index(&mut rest)?, take_index(&mut rest)?);
            summary.span = Some((first, last)).filter(|_| first <= last);
            summary.span?;
        }
        rest.is_empty().then_some(summary)
    }
}

fn take_u64(rest: &mut &[u8]) -> Option<u64> {
    let bytes = rest.split_off(..8)?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

/// The index of an entry: all but the largest number, so that there is always a next one.
fn take_index(rest: &mut &[u8]) -> Option<u64> {
    take_u64(rest).filter(|index| *index < u64::MAX)
}

fn take_blob(rest: &mut &[u8]) -> Option<Bytes> {
    let len = u16::from_le_bytes(rest.split_off(..2)?.try_into().ok()?);
    Some(Bytes::copy_from_slice(rest.split_off(..usize::from(len))?))
}

/// Why bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Damage {
    #[error("no record (length {0})")]
    Length(u32),
    #[error("a record with checksum {stored:08x} over bytes that have {computed:08x}")]
    Checksum { stored: u32, computed: u32 },
    #[error("a record numbered {0}, which no log gets to")]
    Count(u64),
    #[error("a record of unknown kind {0}")]
    Kind(u8),
    #[error("a record of kind {0} whose body makes no sense")]
    Body(u8),
}

impl Body<'_> {
    fn kind(&self) -> u8 {
        match self {
            Body::Entry { .. } => 1,
            Body::Vote(_) => 2,
            Body::Truncate { .. } => 3,
            Body::Purge { .. } => 4,
            Body::Committed(_) => 5,
            Body::State(_) => 6,
            Body::Mark => 7,
            Body::End => 8,
            Body::Forget => 9,
        }
    }
}

/// Appends one record, padding included, to `out`, whose length has to be aligned. Returns its length
/// without the padding.
pub(super) fn encode(
    out: &mut Vec<u8>,
    seed: u32,
    sequence: u64,
    mark: u64,
    group: u64,
    body: &Body<'_>,
) -> u32 {
    let start = out.len();
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&sequence.to_le_bytes());
    out.extend_from_slice(&mark.to_le_bytes());
    out.extend_from_slice(&group.to_le_bytes());
    out.extend_from_slice(&[body.kind(), 0, 0, 0, 0, 0, 0, 0]);
    match body {
        Body::Entry { index, payload } => {
            out.extend_from_slice(&index.to_le_bytes());
            out.extend_from_slice(payload);
        }
        Body::Vote(bytes) | Body::Committed(bytes) => out.extend_from_slice(bytes),
        Body::Truncate { after: None } | Body::Mark | Body::End | Body::Forget => {}
        Body::Truncate { after: Some(after) } => out.extend_from_slice(&after.to_le_bytes()),
        Body::Purge { index, log_id } => {
            out.extend_from_slice(&index.to_le_bytes());
            out.extend_from_slice(log_id);
        }
        Body::State(summary) => summary.encode(out),
    }
    let length = u32::try_from(out.len() - start).expect("the public functions refuse longer records");
    out[start + 4..start + 8].copy_from_slice(&length.to_le_bytes());
    let checksum = crc32c::crc32c_append(seed, &out[start + 4..]);
    out[start..start + 4].copy_from_slice(&checksum.to_le_bytes());
    let end = start + padded(u64::from(length)) as usize;
    out.resize(end, 0);
    length
}

/// The stored length of the record that starts with `bytes` (at least 8): header and body.
pub(super) fn peek_length(bytes: &[u8]) -> u32 {
    let mut length = [0; 4];
    length.copy_from_slice(&bytes[4..8]);
    u32::from_le_bytes(length)
}

/// The stored sequence of the record that starts with `bytes` (at least 16), not yet verified.
pub(super) fn peek_sequence(bytes: &[u8]) -> u64 {
    let mut sequence = [0; 8];
    sequence.copy_from_slice(&bytes[8..16]);
    u64::from_le_bytes(sequence)
}

/// Reads the record that fills `bytes` exactly, without its padding.
pub(super) fn decode(seed: u32, bytes: &[u8]) -> Result<(Head, Body<'_>), Damage> {
    let length = bytes.len() as u32;
    if bytes.len() < RECORD_HEADER || peek_length(bytes) != length {
        return Err(Damage::Length(length));
    }
    let (mut head, body) = bytes.split_at(RECORD_HEADER);
    let short = Damage::Length(length);
    let first = take_u64(&mut head).ok_or(short)?;
    let stored = first as u32;
    let computed = crc32c::crc32c_append(seed, &bytes[4..]);
    if stored != computed {
        return Err(Damage::Checksum { stored, computed });
    }
    let sequence = take_u64(&mut head).ok_or(short)?;
    let mark = take_u64(&mut head).ok_or(short)?;
    if COUNT_MAX < sequence.max(mark) {
        return Err(Damage::Count(sequence.max(mark)));
    }
    let group = take_u64(&mut head).ok_or(short)?;
    let kind = *head.split_off_first().ok_or(short)?;
    let mut rest = body;
    let bad = Damage::Body(kind);
    let blob = |rest: &[u8]| if rest.len() <= BLOB_BYTES_MAX { Ok(()) } else { Err(bad) };
    let body = match kind {
        1 => Body::Entry { index: take_index(&mut rest).ok_or(bad)?, payload: rest },
        2 => {
            blob(rest)?;
            Body::Vote(rest)
        }
        3 if rest.is_empty() => Body::Truncate { after: None },
        3 if rest.len() == 8 => Body::Truncate { after: take_u64(&mut rest) },
        4 => {
            let index = take_index(&mut rest).ok_or(bad)?;
            blob(rest)?;
            Body::Purge { index, log_id: rest }
        }
        5 => {
            blob(rest)?;
            Body::Committed(rest)
        }
        6 => Body::State(Summary::decode(rest).ok_or(bad)?),
        7 if rest.is_empty() => Body::Mark,
        8 if rest.is_empty() => Body::End,
        9 if rest.is_empty() => Body::Forget,
        3 | 7 | 8 | 9 => return Err(bad),
        unknown => return Err(Damage::Kind(unknown)),
    };
    Ok((Head { length, sequence, mark, group }, body))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Owned {
        Entry(u64, Vec<u8>),
        Vote(Vec<u8>),
        Truncate(Option<u64>),
        Purge(u64, Vec<u8>),
        Committed(Vec<u8>),
        State(Summary),
        Mark,
        End,
        Forget,
    }

    impl Owned {
        fn body(&self) -> Body<'_> {
            match self {
                Owned::Entry(index, payload) => Body::Entry { index: *index, payload },
                Owned::Vote(vote) => Body::Vote(vote),
                Owned::Truncate(after) => Body::Truncate { after: *after },
                Owned::Purge(index, log_id) => Body::Purge { index: *index, log_id },
                Owned::Committed(committed) => Body::Committed(committed),
                Owned::State(summary) => Body::State(summary.clone()),
                Owned::Mark => Body::Mark,
                Owned::End => Body::End,
                Owned::Forget => Body::Forget,
            }
        }
    }

    fn blob() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(any::<u8>(), 0..60)
    }

    fn shared_blob() -> impl Strategy<Value = Option<Bytes>> {
        proptest::option::of(blob().prop_map(Bytes::from))
    }

    fn summary() -> impl Strategy<Value = Summary> {
        let purged = proptest::option::of((0..u64::MAX, blob().prop_map(Bytes::from)));
        let span = proptest::option::of((0..u64::MAX, 0..u64::MAX).prop_map(|(a, b)| (a.min(b), a.max(b))));
        (shared_blob(), purged, shared_blob(), span).prop_map(|(vote, purged, committed, span)| Summary {
            vote,
            purged,
            committed,
            span,
        })
    }

    fn body() -> impl Strategy<Value = Owned> {
        prop_oneof![
            (0..u64::MAX, proptest::collection::vec(any::<u8>(), 0..300))
                .prop_map(|(index, payload)| Owned::Entry(index, payload)),
            blob().prop_map(Owned::Vote),
            any::<Option<u64>>().prop_map(Owned::Truncate),
            (0..u64::MAX, blob()).prop_map(|(index, log_id)| Owned::Purge(index, log_id)),
            blob().prop_map(Owned::Committed),
            summary().prop_map(Owned::State),
            Just(Owned::Mark),
            Just(Owned::End),
            Just(Owned::Forget),
        ]
    }

    proptest! {
        #[test]
        fn a_record_comes_back_as_it_was_written(
            owned in body(), generation: u64, sequence in 0..=COUNT_MAX, mark in 0..=COUNT_MAX, group: u64,
        ) {
            let mut out = Vec::new();
            let body = owned.body();
            let length = encode(&mut out, seed(9, generation), sequence, mark, group, &body);
            prop_assert_eq!(out.len() as u64, padded(u64::from(length)));
            let head = Head { length, sequence, mark, group };
            prop_assert_eq!(decode(seed(9, generation), &out[..length as usize]), Ok((head, body)));
            if let Owned::State(_) = owned {
                prop_assert!(out.len() as u64 <= Summary::bytes_max(1));
            }
        }

        #[test]
        fn any_flipped_bit_of_a_record_is_noticed(owned in body(), generation: u64, at: prop::sample::Index) {
            let mut out = Vec::new();
            let length = encode(&mut out, seed(9, generation), 5, 4, 3, &owned.body()) as usize;
            let bit = at.index(length * 8);
            out[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(decode(seed(9, generation), &out[..length]).is_err());
        }

        #[test]
        fn a_record_of_another_generation_never_validates(owned in body(), generation: u64, later in 1u64..1 << 32) {
            let mut out = Vec::new();
            let length = encode(&mut out, seed(9, generation), 5, 4, 3, &owned.body()) as usize;
            let other = seed(9, generation.wrapping_add(later));
            let is_checksum = matches!(decode(other, &out[..length]), Err(Damage::Checksum { .. }));
            prop_assert!(is_checksum || seed(9, generation) == other);
        }

        #[test]
        fn random_bytes_do_not_upset_the_decoder(bytes: Vec<u8>, seed: u32) {
            let _ = decode(seed, &bytes);
            let _ = Summary::decode(&bytes);
        }
    }

    #[test]
    fn numbers_that_have_no_next_are_refused_under_a_right_checksum() {
        let refused = |sequence: u64, mark: u64, body: Body<'_>| {
            let mut out = Vec::new();
            let length = encode(&mut out, 1, sequence, mark, 3, &body) as usize;
            decode(1, &out[..length]).err()
        };
        assert_eq!(refused(COUNT_MAX, COUNT_MAX, Body::Mark), None);
        assert_eq!(refused(COUNT_MAX + 1, 0, Body::Mark), Some(Damage::Count(COUNT_MAX + 1)));
        assert_eq!(refused(1, u64::MAX, Body::Mark), Some(Damage::Count(u64::MAX)));
        let state = |summary| Body::State(summary);
        let purged = Some((u64::MAX, Bytes::new()));
        for (kind, body) in [
            (1, Body::Entry { index: u64::MAX, payload: b"" }),
            (4, Body::Purge { index: u64::MAX, log_id: b"" }),
            (6, state(Summary { purged, ..Summary::default() })),
            (6, state(Summary { span: Some((1, u64::MAX)), ..Summary::default() })),
        ] {
            assert_eq!(refused(1, 0, body), Some(Damage::Body(kind)));
        }
    }

    #[test]
    fn seeds_of_neighbouring_generations_differ() {
        let seeds: std::collections::BTreeSet<u32> =
            (0..100_000).map(|generation| seed(9, generation)).collect();
        assert_eq!(seeds.len(), 100_000);
    }
}
