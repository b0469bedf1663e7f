//! What a fact's bytes mean to a query.

use crate::wire::{DecodeError, Reader, Writer};
use bytes::Bytes;
use std::cmp::Ordering;
use std::fmt;

/// Longest label of a counter, in bytes.
pub const LABEL_BYTES_MAX: usize = 64;

/// Most labels in one value.
pub const LABELS_MAX: usize = 256;

/// First byte of an integer's fact. No UTF-8 text begins with this or the two below, so a text fact is simply its text.
const INT: u8 = 0xF8;
const FLOAT: u8 = 0xF9;
const COUNTERS: u8 = 0xFA;

/// A number in a fact or a question. Ordered by its numeric value, exactly, across both kinds.
#[derive(Clone, Copy, Debug)]
pub enum Number {
    /// A whole number.
    Int(i64),
    /// A finite one; [`Number::float`] makes it.
    Float(f64),
}

impl Number {
    /// `None` for infinities and what is not a number: no order and no sum could be told of them.
    pub fn float(value: f64) -> Option<Self> {
        // Adding zero makes -0.0 the 0.0 that it is equal to, so that equal numbers print and travel alike.
        value.is_finite().then_some(Self::Float(value + 0.0))
    }

    /// The nearest `f64`.
    pub fn as_f64(self) -> f64 {
        match self {
            Self::Int(value) => value as f64,
            Self::Float(value) => value,
        }
    }

    /// `| 0: u8 | zigzag varint |` or `| 1: u8 | IEEE 754 binary64: 8 bytes le |`
    pub(crate) fn encode(self, writer: &mut Writer) {
        match self {
            Self::Int(value) => {
                writer.u8(0);
                writer.varint(zigzag(value));
            }
            Self::Float(value) => {
                writer.u8(1);
                writer.u64(value.to_bits());
            }
        }
    }

    pub(crate) fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        match reader.u8("number")? {
            0 => Ok(Self::Int(unzigzag(reader.varint("number")?))),
            1 => Self::float(f64::from_bits(reader.u64("number")?)).ok_or(DecodeError::Range("number")),
            _ => Err(DecodeError::Range("number")),
        }
    }
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

/// Compares without rounding either side: 2^53 + 1 as an integer is greater than 2^53 as a float.
fn int_to_float(int: i64, float: f64) -> Ordering {
    const LIMIT: f64 = 9_223_372_036_854_775_808.0; // 2^63
    if float >= LIMIT {
        return Ordering::Less;
    }
    if float < -LIMIT {
        return Ordering::Greater;
    }
    let whole = float.trunc();
    int.cmp(&(whole as i64)).then_with(|| 0.0_f64.total_cmp(&(float - whole + 0.0)))
}

impl Ord for Number {
    fn cmp(&self, other: &Self) -> Ordering {
        match (*self, *other) {
            (Self::Int(a), Self::Int(b)) => a.cmp(&b),
            (Self::Float(a), Self::Float(b)) => (a + 0.0).total_cmp(&(b + 0.0)),
            (Self::Int(a), Self::Float(b)) => int_to_float(a, b),
            (Self::Float(a), Self::Int(b)) => int_to_float(b, a).reverse(),
        }
    }
}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Number {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Number {}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(value) => value.fmt(f),
            // With a point or an exponent, so that it reads back as what it was.
            Self::Float(value) => write!(f, "{value:?}"),
        }
    }
}

/// A fact's value as queries see it.
///
/// | bytes of the fact | value |
/// | --- | --- |
/// | `F8`, zigzag varint | whole number |
/// | `F9`, IEEE 754 binary64 le, finite | number |
/// | `FA`, count: varint, then (label: slice, count: varint) by rising label | labelled counters |
/// | any other valid UTF-8 | text |
/// | anything else | opaque: it exists, and that is all a filter can say of it |
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Compared, summed and put into buckets.
    Number(Number),
    /// Compared for equality and by prefix.
    Text(String),
    /// How often each label was seen; by rising label, each once. "Trending topics" are made of these.
    Counters(Vec<(String, u64)>),
    /// Bytes that only their publisher understands.
    Opaque(Bytes),
}

impl Value {
    /// A whole number.
    pub fn int(value: i64) -> Self {
        Self::Number(Number::Int(value))
    }

    /// Labelled counters in any order; counts under the same label are added (and stop at `u64::MAX`). `None` when there are more than
    /// [`LABELS_MAX`] labels, or one is longer than [`LABEL_BYTES_MAX`].
    pub fn counters(counts: impl IntoIterator<Item = (String, u64)>) -> Option<Self> {
        let mut sorted: Vec<(String, u64)> = counts.into_iter().collect();
        sorted.sort();
        sorted.dedup_by(|next, kept| {
            let same = next.0 == kept.0;
            if same {
                kept.1 = kept.1.saturating_add(next.1);
            }
            same
        });
        let fits =
            sorted.len() <= LABELS_MAX && sorted.iter().all(|(label, _)| label.len() <= LABEL_BYTES_MAX);
        fits.then_some(Self::Counters(sorted))
    }

    /// What to publish as the fact's value.
    pub fn to_bytes(&self) -> Bytes {
        match self {
            Self::Number(Number::Int(value)) => {
                let mut writer = Writer::new(INT, 11);
                writer.varint(zigzag(*value));
                writer.finish()
            }
            Self::Number(Number::Float(value)) => {
                let mut writer = Writer::new(FLOAT, 9);
                writer.u64(value.to_bits());
                writer.finish()
            }
            Self::Text(text) => Bytes::copy_from_slice(text.as_bytes()),
            Self::Counters(counts) => {
                let mut writer = Writer::new(COUNTERS, 16 * counts.len() + 2);
                writer.varint(counts.len() as u64);
                for (label, count) in counts {
                    writer.slice(label.as_bytes());
                    writer.varint(*count);
                }
                writer.finish()
            }
            Self::Opaque(bytes) => bytes.clone(),
        }
    }

    /// Reads any fact's value; what is none of ours is text or opaque.
    pub fn from_fact(fact: &[u8]) -> Self {
        Self::from_bytes(&Bytes::copy_from_slice(fact))
    }

    /// As [`Value::from_fact`], and shares the bytes where it can.
    pub fn from_bytes(bytes: &Bytes) -> Self {
        match (bytes.first(), std::str::from_utf8(bytes)) {
            (_, Ok(text)) => Self::Text(text.to_owned()),
            (Some(&(INT | FLOAT | COUNTERS)), _) => {
                typed(bytes).unwrap_or_else(|_| Self::Opaque(bytes.clone()))
            }
            _ => Self::Opaque(bytes.clone()),
        }
    }

    /// The number, if it is one.
    pub fn number(&self) -> Option<Number> {
        match self {
            Self::Number(number) => Some(*number),
            _ => None,
        }
    }
}

fn typed(bytes: &Bytes) -> Result<Value, DecodeError> {
    let (kind, mut reader) = Reader::new(bytes)?;
    let value = match kind {
        INT => Value::int(unzigzag(reader.varint("integer")?)),
        FLOAT => Number::float(f64::from_bits(reader.u64("float")?))
            .map(Value::Number)
            .ok_or(DecodeError::Range("float"))?,
        _ => {
            let count = reader.count(2, "labels")?;
            if count > LABELS_MAX {
                return Err(DecodeError::Range("labels"));
            }
            let mut counts = Vec::with_capacity(count);
            for _ in 0..count {
                let label = text(&mut reader, LABEL_BYTES_MAX, "label")?;
                counts.push((label, reader.varint("count")?));
            }
            if !counts.is_sorted_by(|a, b| a.0 < b.0) {
                return Err(DecodeError::Range("label"));
            }
            Value::Counters(counts)
        }
    };
    reader.end()?;
    Ok(value)
}

/// UTF-8 of at most `max` bytes, after its length.
pub(crate) fn text(reader: &mut Reader, max: usize, what: &'static str) -> Result<String, DecodeError> {
    let bytes = reader.slice(max, what)?;
    std::str::from_utf8(&bytes).map(str::to_owned).map_err(|_| DecodeError::Range(what))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Any number, often one of a few, so that ties and neighbours happen.
    pub(crate) fn numbers() -> impl Strategy<Value = Number> {
        let edges =
            prop::sample::select(vec![0.0, -1.5, 3.0, 1e300, -1e300, 9007199254740992.0, 5e-324, 0.1]);
        prop_oneof![
            (-5_i64..5).prop_map(Number::Int),
            any::<i64>().prop_map(Number::Int),
            edges.prop_map(Number::Float),
            any::<f64>().prop_filter_map("finite", Number::float),
        ]
    }

    pub(crate) fn values() -> impl Strategy<Value = Value> {
        prop_oneof![
            4 => numbers().prop_map(Value::Number),
            2 => "[a-e]{0,3}".prop_map(Value::Text),
            2 => prop::collection::vec(("[a-f]", 0_u64..100), 0..6)
                .prop_map(|counts| Value::counters(counts).unwrap()),
            1 => Just(Value::Opaque(Bytes::from_static(&[0xFF, 0]))),
        ]
    }

    #[test]
    fn an_integer_and_a_float_compare_without_rounding() {
        let big = 1_i64 << 53;
        assert!(Number::Int(big + 1) > Number::Float(big as f64));
        assert!(Number::Int(i64::MAX) < Number::Float(9_223_372_036_854_775_808.0));
        assert!(Number::Int(-1) > Number::Float(-1.5));
        assert!(Number::Int(1) < Number::Float(1.5));
        assert_eq!(Number::Int(3), Number::Float(3.0));
        assert_eq!(Number::Int(0), Number::Float(-0.0));
    }

    #[test]
    fn what_is_not_finite_is_no_number() {
        assert_eq!(Number::float(f64::NAN), None);
        assert_eq!(Number::float(f64::INFINITY), None);
        let mut bytes = vec![FLOAT];
        bytes.extend_from_slice(&f64::NAN.to_bits().to_le_bytes());
        assert!(matches!(Value::from_bytes(&bytes.into()), Value::Opaque(_)));
    }

    #[test]
    fn a_text_fact_is_its_text() {
        assert_eq!(Value::from_bytes(&Bytes::from_static(b"0.1.0")), Value::Text("0.1.0".into()));
    }

    #[test]
    fn counters_with_too_many_or_too_long_labels_are_refused() {
        assert_eq!(Value::counters((0..=LABELS_MAX).map(|at| (at.to_string(), 1))), None);
        assert_eq!(Value::counters([("x".repeat(LABEL_BYTES_MAX + 1), 1)]), None);
    }

    proptest! {
        #[test]
        fn a_value_reads_back_as_written(value in values()) {
            prop_assert_eq!(Value::from_bytes(&value.to_bytes()), value);
        }

        #[test]
        fn any_bytes_are_some_value(bytes in prop::collection::vec(any::<u8>(), 0..40), kind in 0xF8_u8..0xFC) {
            let mut typed = vec![kind];
            typed.extend_from_slice(&bytes);
            Value::from_bytes(&bytes.into());
            Value::from_bytes(&typed.into());
        }

        #[test]
        fn the_order_of_numbers_is_an_order(a in numbers(), b in numbers(), c in numbers()) {
            prop_assert_eq!(a.cmp(&b), b.cmp(&a).reverse());
            if a <= b && b <= c {
                prop_assert!(a <= c);
            }
        }
    }
}
