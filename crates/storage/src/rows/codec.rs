//! Rows, versions and outcomes as keys and values of the engine. `docs/FORMAT.md` has the same pictures.
//!
//! ```text
//! Head key:   | table: u64 be | key |
//! Past key:   | table: u64 be | key, 00 as 00 FF | 00 00 | !time: u64 be |
//! both values: | stamp: u64 le | flags: u8 | if flags has OTHER: length u16 le, media type | value |
//!             stamp in Head: the version's time; in Past: the time of the version that superseded it
//! Tx key:     | 01 | ID, big-endian without leading zeros |
//! Tx value:   | kind: u8 | fingerprint: u64 le | decided at: u64 le | by kind, see TxRecord |
//! ```

use bytes::{BufMut, Bytes, BytesMut};
use skein_model::{ContentType, TableId, TxClock, TxId, Value};

/// Format of all keys and values here, kept in `Meta`.
pub const ROWS_FORMAT: u32 = 1;

/// The version has a value; without it, it is a tombstone.
const LIVE: u8 = 1;
/// The value has a media type of its own; without it, it is JSON.
const OTHER: u8 = 2;
const STAMP_BYTES: usize = 8;

/// Bytes that are none of ours, whatever the checksums say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end early.
    #[error("it ends early")]
    Short,
    /// The bytes go on after the end.
    #[error("it has bytes after its end")]
    Long,
    /// A flag or kind that this version does not know.
    #[error("it has an unknown flag or kind")]
    Unknown,
    /// A media type that is not UTF-8.
    #[error("its media type is not UTF-8")]
    MediaType,
}

/// A decoded value of `Head` or `Past`, without the bytes it was decoded from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// In `Head` the version's own time, in `Past` the time of the version that superseded it.
    pub stamp: TxClock,
    /// Type of the value, and where it starts; `None` for a tombstone.
    value: Option<(ContentType, usize)>,
}

impl Entry {
    /// Whether there is a value.
    pub fn is_live(&self) -> bool {
        self.value.is_some()
    }

    /// The value, sharing the memory of `encoded`, which has to be what this entry was decoded from.
    pub fn into_value(self, encoded: &Bytes) -> Option<Value> {
        self.value.map(|(content_type, at)| Value { content_type, bytes: encoded.slice(at..) })
    }
}

/// Decodes a value of `Head`: the newest version of a row.
pub fn decode_head(encoded: &[u8]) -> Result<Entry, DecodeError> {
    let (stamp, live) = decode_stamp(encoded)?;
    let flags = encoded[STAMP_BYTES];
    let at = STAMP_BYTES + 1;
    if !live {
        return match flags == 0 && encoded.len() == at {
            true => Ok(Entry { stamp, value: None }),
            false => Err(if flags == 0 { DecodeError::Long } else { DecodeError::Unknown }),
        };
    }
    if flags & OTHER == 0 {
        return Ok(Entry { stamp, value: Some((ContentType::Json, at)) });
    }
    let length = encoded.get(at..at + 2).ok_or(DecodeError::Short)?;
    let end = at + 2 + usize::from(u16::from_le_bytes([length[0], length[1]]));
    let media_type = encoded.get(at + 2..end).ok_or(DecodeError::Short)?;
    let media_type = std::str::from_utf8(media_type).map_err(|_| DecodeError::MediaType)?;
    Ok(Entry { stamp, value: Some((ContentType::Other(media_type.into()), end)) })
}

/// Decodes a value of `Past`: a superseded version. Its own time is in its key.
pub fn decode_past(encoded: &[u8]) -> Result<Entry, DecodeError> {
    decode_head(encoded)
}

/// Only the stamp and whether there is a value.
pub(super) fn decode_stamp(encoded: &[u8]) -> Result<(TxClock, bool), DecodeError> {
    let (stamp, rest) = encoded.split_first_chunk::<STAMP_BYTES>().ok_or(DecodeError::Short)?;
    let flags = *rest.first().ok_or(DecodeError::Short)?;
    if flags & !(LIVE | OTHER) != 0 {
        return Err(DecodeError::Unknown);
    }
    Ok((TxClock(u64::from_le_bytes(*stamp)), flags & LIVE != 0))
}

/// Takes what was just written to `out` off it. Keys and values of a batch share a few allocations this way, instead of having one or
/// two each.
pub(super) fn take(out: &mut BytesMut) -> Bytes {
    out.split().freeze()
}

/// Encodes a version with its stamp, as a part of `out`, which is empty before and afterwards. A media type is at most 65,535
/// bytes; the limit upstream is far lower.
pub(super) fn encode_version(stamp: TxClock, value: Option<&Value>, out: &mut BytesMut) -> Bytes {
    let other = match value.map(|value| &value.content_type) {
        Some(ContentType::Other(media_type)) => Some(media_type),
        Some(ContentType::Json) | None => None,
    };
    let size = STAMP_BYTES
        + 1
        + other.map_or(0, |media_type| 2 + media_type.len())
        + value.map_or(0, |value| value.bytes.len());
    out.reserve(size);
    out.put_u64_le(stamp.0);
    out.put_u8(if value.is_some() { LIVE } else { 0 } | if other.is_some() { OTHER } else { 0 });
    if let Some(media_type) = other {
        let length = u16::try_from(media_type.len());
        assert!(length.is_ok(), "a media type of {} bytes got past the limits", media_type.len());
        out.put_u16_le(length.unwrap_or(u16::MAX));
        out.put_slice(media_type.as_bytes());
    }
    if let Some(value) = value {
        out.put_slice(&value.bytes);
    }
    take(out)
}

/// The same version under another stamp, as a part of `out`.
pub(super) fn restamp(encoded: &[u8], stamp: TxClock, out: &mut BytesMut) -> Bytes {
    out.reserve(encoded.len());
    out.put_u64_le(stamp.0);
    out.put_slice(encoded.get(STAMP_BYTES..).unwrap_or_default());
    take(out)
}

/// `| table: u64 be | key |`
pub(super) fn head_key(table: TableId, key: &[u8]) -> Bytes {
    put_head_key(table, key, &mut BytesMut::new())
}

/// As [`head_key`], as a part of `out`.
pub(super) fn put_head_key(table: TableId, key: &[u8], out: &mut BytesMut) -> Bytes {
    out.reserve(8 + key.len());
    out.put_u64(table.0);
    out.put_slice(key);
    take(out)
}

/// Table and key of a head key; `None` if it is too short.
pub(super) fn split_head_key(encoded: &[u8]) -> Option<(TableId, &[u8])> {
    let (table, key) = encoded.split_first_chunk::<8>()?;
    Some((TableId(u64::from_be_bytes(*table)), key))
}

/// All of a past key but the time: keys of one row share it, and no other row's key starts with it.
pub(super) fn past_prefix(table: TableId, key: &[u8], out: &mut Vec<u8>) {
    out.clear();
    out.reserve(8 + key.len() + 2 + 8);
    out.extend_from_slice(&table.0.to_be_bytes());
    escape(key, out);
}

/// Appends `key` so that the bytes sort as keys do and none is a prefix of another: 00 becomes 00 FF, the end 00 00.
pub(super) fn escape(key: &[u8], out: &mut Vec<u8>) {
    for part in key.split_inclusive(|byte| *byte == 0) {
        out.extend_from_slice(part);
        if part.last() == Some(&0) {
            out.push(0xFF);
        }
    }
    out.extend_from_slice(&[0, 0]);
}

/// The past key of a row's version, given the row's [`past_prefix`]. Newer versions sort first.
pub(super) fn past_key(prefix: &[u8], time: TxClock) -> Bytes {
    put_past_key(prefix, time, &mut BytesMut::new())
}

/// As [`past_key`], as a part of `out`.
pub(super) fn put_past_key(prefix: &[u8], time: TxClock, out: &mut BytesMut) -> Bytes {
    out.reserve(prefix.len() + 8);
    out.put_slice(prefix);
    out.put_u64(!time.0);
    take(out)
}

/// The row's prefix and the version's time; `None` if it is too short for a past key.
pub(super) fn split_past_key(encoded: &[u8]) -> Option<(&[u8], TxClock)> {
    let (prefix, time) = encoded.split_last_chunk::<8>()?;
    (8 + 2 <= prefix.len()).then(|| (prefix, TxClock(!u64::from_be_bytes(*time))))
}

/// `| 01 | ID |`; the first byte keeps the key of the ID zero from being empty.
pub(super) fn tx_key(id: &TxId) -> Bytes {
    put_tx_key(id, &mut BytesMut::new())
}

/// As [`tx_key`], as a part of `out`.
pub(super) fn put_tx_key(id: &TxId, out: &mut BytesMut) -> Bytes {
    out.reserve(1 + id.as_be_bytes().len());
    out.put_u8(1);
    out.put_slice(id.as_be_bytes());
    take(out)
}

/// How a transaction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TxOutcome {
    /// Written at this time.
    Committed(TxClock),
    /// Refused: a created row had a value.
    Collision {
        /// Position of the operation in the transaction.
        op: u32,
    },
    /// Refused: a row had changed.
    Stale {
        /// Position of the operation in the transaction.
        op: u32,
        /// The latest version of all rows of the transaction.
        latest: TxClock,
    },
    /// Given up before anything was decided, for good.
    Aborted,
}

/// What is remembered of a transaction.
///
/// `| kind: u8 | fingerprint: u64 le | decided at: u64 le |`, then by kind: 1 committed `| time: u64 le |`,
/// 2 collision `| op: u32 le |`, 3 stale `| op: u32 le | latest: u64 le |`, 4 aborted nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TxRecord {
    /// How it ended.
    pub outcome: TxOutcome,
    /// A hash of what was asked for, to tell a repetition from another use of the same ID.
    pub fingerprint: u64,
    /// When it was decided; the record is kept until retention passes this.
    pub decided_at: TxClock,
}

impl TxRecord {
    /// The record as it is stored.
    pub fn encode(&self) -> Bytes {
        self.put(&mut BytesMut::new())
    }

    /// As [`TxRecord::encode`], as a part of `out`.
    pub(super) fn put(&self, out: &mut BytesMut) -> Bytes {
        out.reserve(29);
        let kind = match self.outcome {
            TxOutcome::Committed(_) => 1,
            TxOutcome::Collision { .. } => 2,
            TxOutcome::Stale { .. } => 3,
            TxOutcome::Aborted => 4,
        };
        out.put_u8(kind);
        out.put_u64_le(self.fingerprint);
        out.put_u64_le(self.decided_at.0);
        match self.outcome {
            TxOutcome::Committed(time) => out.put_u64_le(time.0),
            TxOutcome::Collision { op } => out.put_u32_le(op),
            TxOutcome::Stale { op, latest } => {
                out.put_u32_le(op);
                out.put_u64_le(latest.0);
            }
            TxOutcome::Aborted => {}
        }
        take(out)
    }

    /// Reads a stored record; every byte has to be accounted for.
    pub fn decode(encoded: &[u8]) -> Result<TxRecord, DecodeError> {
        fn word<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], DecodeError> {
            let (word, after) = rest.split_first_chunk::<N>().ok_or(DecodeError::Short)?;
            *rest = after;
            Ok(*word)
        }
        let rest = &mut &*encoded;
        let [kind] = word(rest)?;
        let fingerprint = u64::from_le_bytes(word(rest)?);
        let decided_at = TxClock(u64::from_le_bytes(word(rest)?));
        let outcome = match kind {
            1 => TxOutcome::Committed(TxClock(u64::from_le_bytes(word(rest)?))),
            2 => TxOutcome::Collision { op: u32::from_le_bytes(word(rest)?) },
            3 => TxOutcome::Stale {
                op: u32::from_le_bytes(word(rest)?),
                latest: TxClock(u64::from_le_bytes(word(rest)?)),
            },
            4 => TxOutcome::Aborted,
            _ => return Err(DecodeError::Unknown),
        };
        match rest.is_empty() {
            true => Ok(TxRecord { outcome, fingerprint, decided_at }),
            false => Err(DecodeError::Long),
        }
    }

    /// Only when it was decided.
    pub(super) fn decode_decided_at(encoded: &[u8]) -> Option<TxClock> {
        Some(TxClock(u64::from_le_bytes(encoded.get(9..17)?.try_into().ok()?)))
    }
}

#[cfg(test)]
mod tests;
