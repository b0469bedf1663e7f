//! Which peers a question is about.

use super::value::{Number, Value, text};
use crate::wire::{DecodeError, Reader, Writer};
use std::cmp::Ordering;
use std::fmt;

/// Longest key of a fact that a question can name, in bytes.
pub const KEY_BYTES_MAX: usize = 128;

/// Longest text a filter compares with, in bytes.
pub const TEXT_BYTES_MAX: usize = 256;

/// Deepest nesting of a filter; a comparison alone is 1 deep.
pub const DEPTH_MAX: usize = 16;

/// Most conditions, brackets and nots in a filter taken together.
pub const PARTS_MAX: usize = 64;

/// How a number is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compare {
    /// `<`
    Less,
    /// `<=`
    AtMost,
    /// `=`
    Equal,
    /// `!=`: there is a number, and it is another one.
    Unequal,
    /// `>=`
    AtLeast,
    /// `>`
    Greater,
}

impl Compare {
    /// All, in the order of their numbers on the wire.
    pub(crate) const ALL: [(Self, &str); 6] = [
        (Self::Less, "<"),
        (Self::AtMost, "<="),
        (Self::Equal, "="),
        (Self::Unequal, "!="),
        (Self::AtLeast, ">="),
        (Self::Greater, ">"),
    ];

    fn holds(self, order: Ordering) -> bool {
        match self {
            Self::Less => order.is_lt(),
            Self::AtMost => order.is_le(),
            Self::Equal => order.is_eq(),
            Self::Unequal => order.is_ne(),
            Self::AtLeast => order.is_ge(),
            Self::Greater => order.is_gt(),
        }
    }
}

impl fmt::Display for Compare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::ALL[*self as usize].1)
    }
}

/// A condition on the facts that a peer publishes about itself. A comparison with a fact that is not there, or is of
/// another kind, is false (and `not` of it true).
///
/// [`Filter::parse`] reads it from text, and it prints as text that reads as the same.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Filter {
    /// Every peer.
    #[default]
    All,
    /// `exists key`: the peer has published something there.
    Exists {
        /// Which fact.
        key: String,
    },
    /// `disk.free >= 10 GB`
    Number {
        /// Which fact.
        key: String,
        /// How.
        compare: Compare,
        /// With what.
        with: Number,
    },
    /// `zone = "north"`
    Text {
        /// Which fact.
        key: String,
        /// With what.
        with: String,
    },
    /// `build ^= "0.1."`: it begins so.
    Prefix {
        /// Which fact.
        key: String,
        /// With what.
        with: String,
    },
    /// `not ...`
    Not(Box<Filter>),
    /// `... and ...`; true when empty.
    And(Vec<Filter>),
    /// `... or ...`; false when empty.
    Or(Vec<Filter>),
}

impl Filter {
    /// Whether it holds where `value` gives the value of a key.
    pub fn holds(&self, value: &dyn Fn(&str) -> Option<Value>) -> bool {
        match self {
            Self::All => true,
            Self::Exists { key } => value(key).is_some(),
            Self::Number { key, compare, with } => value(key)
                .and_then(|value| value.number())
                .is_some_and(|number| compare.holds(number.cmp(with))),
            Self::Text { key, with } => matches!(value(key), Some(Value::Text(text)) if text == *with),
            Self::Prefix { key, with } => {
                matches!(value(key), Some(Value::Text(text)) if text.starts_with(with.as_str()))
            }
            Self::Not(filter) => !filter.holds(value),
            Self::And(filters) => filters.iter().all(|filter| filter.holds(value)),
            Self::Or(filters) => filters.iter().any(|filter| filter.holds(value)),
        }
    }

    /// What about it is beyond the limits of this module, if anything.
    pub fn fault(&self) -> Option<&'static str> {
        let mut parts = 0;
        self.fault_below(0, &mut parts)
    }

    fn fault_below(&self, depth: usize, parts: &mut usize) -> Option<&'static str> {
        *parts += 1;
        if depth >= DEPTH_MAX {
            return Some("the filter is nested too deep");
        }
        if *parts > PARTS_MAX {
            return Some("the filter has too many conditions");
        }
        match self {
            Self::All => None,
            Self::Exists { key } | Self::Number { key, .. } => key_fault(key),
            Self::Text { key, with } | Self::Prefix { key, with } => {
                key_fault(key).or((with.len() > TEXT_BYTES_MAX).then_some("a text in the filter is too long"))
            }
            Self::Not(filter) => filter.fault_below(depth + 1, parts),
            Self::And(filters) | Self::Or(filters) => {
                filters.iter().find_map(|filter| filter.fault_below(depth + 1, parts))
            }
        }
    }

    /// `| kind: u8 | fields |`, nested filters after each other.
    pub(crate) fn encode(&self, writer: &mut Writer) {
        match self {
            Self::All => writer.u8(0),
            Self::Exists { key } => {
                writer.u8(1);
                writer.slice(key.as_bytes());
            }
            Self::Number { key, compare, with } => {
                writer.u8(2);
                writer.slice(key.as_bytes());
                writer.u8(*compare as u8);
                with.encode(writer);
            }
            Self::Text { key, with } | Self::Prefix { key, with } => {
                writer.u8(if matches!(self, Self::Text { .. }) { 3 } else { 4 });
                writer.slice(key.as_bytes());
                writer.slice(with.as_bytes());
            }
            Self::Not(filter) => {
                writer.u8(5);
                filter.encode(writer);
            }
            Self::And(filters) | Self::Or(filters) => {
                writer.u8(if matches!(self, Self::And(_)) { 6 } else { 7 });
                writer.varint(filters.len() as u64);
                filters.iter().for_each(|filter| filter.encode(writer));
            }
        }
    }

    pub(crate) fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        let mut parts = 0;
        Self::decode_below(reader, 0, &mut parts)
    }

    fn decode_below(reader: &mut Reader, depth: usize, parts: &mut usize) -> Result<Self, DecodeError> {
        *parts += 1;
        if depth >= DEPTH_MAX || *parts > PARTS_MAX {
            return Err(DecodeError::Range("filter"));
        }
        let kind = reader.u8("filter")?;
        match kind {
            0 => Ok(Self::All),
            1 => Ok(Self::Exists { key: key(reader)? }),
            2 => {
                let key = key(reader)?;
                let compare = usize::from(reader.u8("comparison")?);
                let (compare, _) = *Compare::ALL.get(compare).ok_or(DecodeError::Range("comparison"))?;
                Ok(Self::Number { key, compare, with: Number::decode(reader)? })
            }
            3 | 4 => {
                let (key, with) = (key(reader)?, text(reader, TEXT_BYTES_MAX, "text")?);
                Ok(if kind == 3 { Self::Text { key, with } } else { Self::Prefix { key, with } })
            }
            5 => Ok(Self::Not(Box::new(Self::decode_below(reader, depth + 1, parts)?))),
            6 | 7 => {
                let count = reader.count(1, "conditions")?;
                if count > PARTS_MAX {
                    return Err(DecodeError::Range("conditions"));
                }
                let mut filters = Vec::new();
                for _ in 0..count {
                    filters.push(Self::decode_below(reader, depth + 1, parts)?);
                }
                Ok(if kind == 6 { Self::And(filters) } else { Self::Or(filters) })
            }
            _ => Err(DecodeError::Range("filter")),
        }
    }
}

/// What about a key is beyond the limits.
pub(crate) fn key_fault(key: &str) -> Option<&'static str> {
    match key.len() {
        0 => Some("a key is empty"),
        1..=KEY_BYTES_MAX => None,
        _ => Some("a key is too long"),
    }
}

pub(crate) fn key(reader: &mut Reader) -> Result<String, DecodeError> {
    text(reader, KEY_BYTES_MAX, "key")
        .and_then(|key| if key.is_empty() { Err(DecodeError::Range("key")) } else { Ok(key) })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::query::value::tests::{numbers, values};
    use proptest::prelude::*;

    pub(crate) fn filters() -> impl Strategy<Value = Filter> {
        let leaf = prop_oneof![
            Just(Filter::All),
            "[a-c]".prop_map(|key| Filter::Exists { key }),
            ("[a-c]", prop::sample::select(Compare::ALL.to_vec()), numbers())
                .prop_map(|(key, (compare, _), with)| Filter::Number { key, compare, with }),
            ("[a-c]", "[a-e]{0,3}").prop_map(|(key, with)| Filter::Text { key, with }),
            ("[a-c]", ".{0,2}").prop_map(|(key, with)| Filter::Prefix { key, with }),
        ];
        leaf.prop_recursive(4, 20, 4, |inner| {
            prop_oneof![
                inner.clone().prop_map(|filter| Filter::Not(Box::new(filter))),
                prop::collection::vec(inner.clone(), 0..4).prop_map(Filter::And),
                prop::collection::vec(inner, 0..4).prop_map(Filter::Or),
            ]
        })
    }

    fn nested(depth: usize) -> Filter {
        (1..depth).fold(Filter::All, |filter, _| Filter::Not(Box::new(filter)))
    }

    #[test]
    fn a_comparison_with_what_is_not_there_is_false_and_its_opposite_true() {
        let nothing = |_: &str| None;
        let filter = Filter::Number { key: "load".into(), compare: Compare::Unequal, with: Number::Int(1) };
        assert!(!filter.holds(&nothing));
        assert!(Filter::Not(Box::new(filter)).holds(&nothing));
    }

    #[test]
    fn a_filter_nested_too_deep_or_too_wide_is_refused() {
        assert_eq!(nested(DEPTH_MAX).fault(), None);
        for filter in [nested(DEPTH_MAX + 1), Filter::Or(vec![Filter::All; PARTS_MAX])] {
            assert!(filter.fault().is_some());
            let mut writer = Writer::new(0, 100);
            filter.encode(&mut writer);
            let (_, mut reader) = Reader::new(writer.finish()).unwrap();
            assert_eq!(Filter::decode(&mut reader), Err(DecodeError::Range("filter")));
        }
    }

    proptest! {
        #[test]
        fn a_filter_reads_back_as_written(filter in filters()) {
            prop_assert_eq!(filter.fault(), None);
            let mut writer = Writer::new(0, 100);
            filter.encode(&mut writer);
            let (_, mut reader) = Reader::new(writer.finish()).unwrap();
            prop_assert_eq!(Filter::decode(&mut reader), Ok(filter));
            prop_assert_eq!(reader.end(), Ok(()));
        }

        #[test]
        fn any_bytes_are_a_filter_within_the_limits_or_none(bytes in prop::collection::vec(0_u8..9, 1..60)) {
            let (_, mut reader) = Reader::new(bytes::Bytes::from(bytes)).unwrap();
            if let Ok(filter) = Filter::decode(&mut reader) {
                prop_assert_eq!(filter.fault(), None);
            }
        }

        #[test]
        fn exactly_one_of_less_equal_and_greater_holds_for_a_number(value in values(), with in numbers()) {
            let holds = |compare| Filter::Number { key: "a".into(), compare, with }
                .holds(&|_| Some(value.clone()));
            let all = [Compare::Less, Compare::Equal, Compare::Greater].map(holds);
            prop_assert_eq!(all.iter().filter(|it| **it).count(), usize::from(value.number().is_some()));
            prop_assert_eq!(holds(Compare::AtMost), all[0] || all[1]);
            prop_assert_eq!(holds(Compare::AtLeast), all[1] || all[2]);
            prop_assert_eq!(holds(Compare::Unequal), all[0] || all[2]);
        }
    }
}
