//! What a client may write: values, operations on rows, and the transaction that holds them together.

use crate::limits::TX_ID_DIGITS_MAX;
use crate::{TableId, TxClock};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// What the bytes of a value are.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ContentType {
    /// One well-formed JSON value; kept byte for byte as it was sent.
    Json,
    /// Anything else, under the media type the client gave.
    Other(Arc<str>),
}

/// A value and its type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Value {
    /// The media type.
    pub content_type: ContentType,
    /// The bytes, as sent.
    pub bytes: Bytes,
}

/// What one operation of a transaction does to its row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum WriteOp {
    /// Writes the value if the row has none; else the transaction is a collision.
    Create(Value),
    /// Writes nothing; only demands that the row has not changed since the condition time.
    Hold,
    /// Writes the value.
    Update(Value),
    /// Writes a tombstone, whether or not there is a value.
    Delete,
}

/// A demand on one row beyond the transaction's condition time; failing it makes the transaction stale.
/// These are what the `If-…` headers of HTTP say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expect {
    /// The row has a value.
    Live,
    /// The row has no value.
    Absent,
    /// The row has a value, and its version is one of these.
    VersionIn(Vec<TxClock>),
    /// The row has no value, or its version is none of these.
    VersionNotIn(Vec<TxClock>),
    /// The row's latest version, value or tombstone, is at or before this time.
    NotAfter(TxClock),
}

impl Expect {
    /// Whether a row whose latest version has this `time` (zero: never written) and is `live` meets the demand.
    pub fn holds(&self, time: TxClock, live: bool) -> bool {
        match self {
            Expect::Live => live,
            Expect::Absent => !live,
            Expect::VersionIn(times) => live && times.contains(&time),
            Expect::VersionNotIn(times) => !live || !times.contains(&time),
            Expect::NotAfter(limit) => time <= *limit,
        }
    }
}

/// One operation on one row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowOp {
    /// The row's table.
    pub table: TableId,
    /// The row's key, at most [`crate::limits::KEY_BYTES_MAX`] bytes.
    pub key: Bytes,
    /// What to do.
    pub op: WriteOp,
    /// Further demands on the row; all have to hold.
    pub expect: Vec<Expect>,
}

/// A set of operations that is written whole or not at all. No row stands in it twice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transaction {
    /// Names the transaction for good.
    pub id: TxId,
    /// Whether the client chose the ID, and may therefore send the transaction again.
    pub id_from_client: bool,
    /// Every held, updated or deleted row must have its latest version at or before this time; `None` demands nothing.
    pub condition: Option<TxClock>,
    /// The operations; at least one of them writes.
    pub ops: Vec<RowOp>,
}

/// Why a transaction was not written. Nothing of it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// A created row already has a value: 409.
    Collision {
        /// Position in [`Transaction::ops`] of the first such row.
        op: u32,
    },
    /// A row changed after the condition time or failed an [`Expect`]: 412.
    Stale {
        /// Position in [`Transaction::ops`] of the first such row.
        op: u32,
        /// The maximum latest-version time over all rows of the transaction.
        latest: TxClock,
    },
}

/// Why a text is not a transaction ID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TxIdError {
    /// It is empty or holds something other than hexadecimal digits.
    #[error("a transaction ID is a hexadecimal number without prefix")]
    Malformed,
    /// It is longer than we keep.
    #[error("a transaction ID has at most {TX_ID_DIGITS_MAX} hexadecimal digits")]
    TooLong,
}

/// A transaction's ID: one big hexadecimal number; letter case and leading zeros do not matter.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Bytes", into = "Bytes")]
pub struct TxId(Bytes);

impl TxId {
    /// Bytes drawn at random for an ID that the server makes up.
    pub const RANDOM_BYTES: usize = 14;

    /// An ID for a client that gave none: 160 bits, the milliseconds of `wall` (µs) first so that neighbours in
    /// time are neighbours on disk, then `random`.
    pub fn draw(wall: u64, random: [u8; Self::RANDOM_BYTES]) -> TxId {
        let mut bytes = [0u8; 6 + Self::RANDOM_BYTES];
        bytes[..6].copy_from_slice(&(wall / 1000).to_be_bytes()[2..]);
        bytes[6..].copy_from_slice(&random);
        TxId::from_be_bytes(&bytes)
    }

    /// The ID that is this big-endian number.
    pub fn from_be_bytes(bytes: &[u8]) -> TxId {
        let start = bytes.iter().position(|b| *b != 0).unwrap_or(bytes.len());
        TxId(Bytes::copy_from_slice(&bytes[start..]))
    }

    /// The number, big-endian, without leading zero bytes; empty for zero.
    pub fn as_be_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl TryFrom<Bytes> for TxId {
    type Error = TxIdError;
    /// The number, big-endian, as [`TxId::as_be_bytes`] gives it: one form for each number.
    fn try_from(bytes: Bytes) -> Result<TxId, TxIdError> {
        if TX_ID_DIGITS_MAX < bytes.len() * 2 {
            return Err(TxIdError::TooLong);
        }
        Ok(TxId::from_be_bytes(&bytes))
    }
}

impl From<TxId> for Bytes {
    fn from(id: TxId) -> Bytes {
        id.0
    }
}

impl FromStr for TxId {
    type Err = TxIdError;
    fn from_str(text: &str) -> Result<Self, TxIdError> {
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(TxIdError::Malformed);
        }
        let digits = text.trim_start_matches('0').as_bytes();
        if TX_ID_DIGITS_MAX < digits.len() {
            return Err(TxIdError::TooLong);
        }
        let nibble = |b: u8| (b as char).to_digit(16).unwrap_or(0) as u8;
        let mut bytes = Vec::with_capacity(digits.len().div_ceil(2));
        let (first, rest) = digits.split_at(digits.len() % 2);
        bytes.extend(first.iter().map(|b| nibble(*b)));
        bytes.extend(rest.chunks_exact(2).map(|pair| nibble(pair[0]) << 4 | nibble(pair[1])));
        Ok(TxId(Bytes::from(bytes)))
    }
}

impl fmt::Display for TxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("0");
        }
        // By hand: every answer to a write carries one, and `{:02x}` costs more than the rest of its head.
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0u8; 64];
        for bytes in self.0.chunks(text.len() / 2) {
            for (byte, pair) in bytes.iter().zip(text.chunks_exact_mut(2)) {
                pair[0] = DIGITS[usize::from(byte >> 4)];
                pair[1] = DIGITS[usize::from(byte & 15)];
            }
            f.write_str(std::str::from_utf8(&text[..bytes.len() * 2]).map_err(|_| fmt::Error)?)?;
        }
        Ok(())
    }
}

impl fmt::Debug for TxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TxId({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(text: &str) -> TxId {
        text.parse().unwrap()
    }

    #[test]
    fn letter_case_and_leading_zeros_of_an_id_do_not_matter() {
        assert_eq!(id("aBc"), id("ABC"));
        assert_eq!(id("000abc"), id("0abc"));
        assert_eq!(id("0abc"), TxId::from_be_bytes(&[0, 0x0a, 0xbc]));
        assert_ne!(id("abc"), id("abc0"));
    }

    #[test]
    fn zero_is_an_id() {
        assert_eq!(id("0"), id("0000"));
        assert_eq!(id("0").as_be_bytes(), b"");
        assert_eq!(id("0").to_string(), "0");
    }

    #[test]
    fn only_hexadecimal_digits_make_an_id() {
        for text in ["", "0x1", "g", " 1", "1 ", "-1", "+1", "١", "12 34"] {
            assert_eq!(text.parse::<TxId>(), Err(TxIdError::Malformed), "{text}");
        }
    }

    #[test]
    fn an_id_has_a_bounded_number_of_digits_not_counting_leading_zeros() {
        let longest = "f".repeat(TX_ID_DIGITS_MAX);
        assert_eq!(id(&format!("000{longest}")).to_string(), longest);
        assert_eq!(format!("1{longest}").parse::<TxId>(), Err(TxIdError::TooLong));
        assert_eq!("f".repeat(1 << 20).parse::<TxId>(), Err(TxIdError::TooLong));
    }

    #[test]
    fn a_drawn_id_begins_with_the_milliseconds() {
        let drawn = TxId::draw(0x0123_4567_89ab * 1000 + 999, [0xee; TxId::RANDOM_BYTES]);
        assert_eq!(drawn.to_string(), format!("0123456789ab{}", "ee".repeat(TxId::RANDOM_BYTES)));
    }

    #[test]
    fn a_row_meets_exactly_the_demands_that_are_true_of_it() {
        let (zero, five, six) = (TxClock::ZERO, TxClock(5), TxClock(6));
        let never = (zero, false);
        let live = (five, true);
        let deleted = (five, false);
        // Each demand, and whether a row never written, live since 5, or deleted at 5 meets it.
        let cases = [
            (Expect::Live, [false, true, false]),
            (Expect::Absent, [true, false, true]),
            (Expect::VersionIn(vec![five, six]), [false, true, false]),
            (Expect::VersionIn(vec![zero, six]), [false, false, false]),
            (Expect::VersionIn(vec![]), [false, false, false]),
            (Expect::VersionNotIn(vec![five, six]), [true, false, true]),
            (Expect::VersionNotIn(vec![zero, six]), [true, true, true]),
            (Expect::VersionNotIn(vec![]), [true, true, true]),
            (Expect::NotAfter(TxClock(4)), [true, false, false]),
            (Expect::NotAfter(five), [true, true, true]),
            (Expect::NotAfter(zero), [true, false, false]),
        ];
        for (expect, holds) in cases {
            let got = [never, live, deleted].map(|(time, live)| expect.holds(time, live));
            assert_eq!(got, holds, "{expect:?}");
        }
    }

    proptest! {
        #[test]
        fn an_id_reads_back_as_printed(bytes in prop::collection::vec(any::<u8>(), 0..TX_ID_DIGITS_MAX / 2)) {
            let id = TxId::from_be_bytes(&bytes);
            prop_assert_eq!(id.to_string().parse(), Ok(id.clone()));
            prop_assert_eq!(id.to_string().to_uppercase().parse(), Ok(id.clone()));
            prop_assert_eq!(TxId::from_be_bytes(id.as_be_bytes()), id);
        }

        #[test]
        fn the_digits_of_an_id_are_kept(text in "[0-9a-fA-F]{1,60}") {
            let digits = |text: &str| text.to_lowercase().trim_start_matches('0').to_owned();
            prop_assert_eq!(digits(&id(&text).to_string()), digits(&text));
        }

        #[test]
        fn any_text_is_an_id_or_an_error(text in "\\PC{0,40}") {
            let sound = !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit());
            prop_assert_eq!(text.parse::<TxId>().is_ok(), sound);
        }

        #[test]
        fn demands_on_versions_are_each_others_opposite(time: u64, live: bool, times in prop::collection::vec(any::<u64>(), 0..4)) {
            let mut times: Vec<TxClock> = times.into_iter().map(TxClock).collect();
            if time % 2 == 0 {
                times.push(TxClock(time));
            }
            let within = Expect::VersionIn(times.clone()).holds(TxClock(time), live);
            prop_assert_ne!(within, Expect::VersionNotIn(times).holds(TxClock(time), live));
            prop_assert_eq!(within, live && time % 2 == 0);
        }
    }
}
