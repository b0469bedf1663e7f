//! What a question wants to know of the peers that it is about.

use super::filter::{key, key_fault};
use super::value::Number;
use crate::wire::{DecodeError, Reader, Writer};

/// Most peers an answer lists by name.
pub const LISTED_MAX: u16 = 1_000;

/// Most bounds of a histogram.
pub const BOUNDS_MAX: usize = 64;

/// Most peers or labels in a top-k.
pub const TOP_MAX: u16 = 256;

/// Most labels that a partial answer keeps to find the top-k of them.
pub const KEPT_MAX: u16 = 1_024;

/// Which end of the order a top-k wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The largest first.
    Largest,
    /// The smallest first.
    Smallest,
}

/// What is told about the peers for which the filter holds. Sums, counts, extremes, buckets and lists are exact, whatever
/// way the tree took; so is a top-k of peers. Only the labels of [`Aggregate::TopLabels`] are estimates, with their bound beside them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Aggregate {
    /// How many there are.
    Count,
    /// Which they are: the `listed` lowest IDs, and how many more.
    List {
        /// How many to name; 1 to [`LISTED_MAX`].
        listed: u16,
    },
    /// The sum and the mean of their numbers.
    Sum {
        /// Under which key.
        key: String,
    },
    /// The smallest and the largest of their numbers, and who has them (the lower ID of two that have the same).
    Range {
        /// Under which key.
        key: String,
    },
    /// How many of their numbers lie below the first bound, from each bound to below the next, and from the last on.
    Histogram {
        /// Under which key.
        key: String,
        /// Rising; 1 to [`BOUNDS_MAX`] of them.
        bounds: Vec<Number>,
    },
    /// The peers with the largest or smallest numbers.
    TopPeers {
        /// Under which key.
        key: String,
        /// How many; 1 to [`TOP_MAX`].
        k: u16,
        /// Which.
        end: End,
    },
    /// The labels with the largest totals over all peers: "trending topics".
    TopLabels {
        /// Under which key; values there are labelled counters.
        key: String,
        /// How many; 1 to [`TOP_MAX`].
        k: u16,
        /// How many labels a partial answer keeps, from `k` to [`KEPT_MAX`]: no total is short by more than the total of
        /// everything divided by `kept + 1`. Eight times `k` is a good choice.
        kept: u16,
    },
}

impl Aggregate {
    /// The key it reads, if it reads one.
    pub fn key(&self) -> Option<&str> {
        match self {
            Self::Count | Self::List { .. } => None,
            Self::Sum { key }
            | Self::Range { key }
            | Self::Histogram { key, .. }
            | Self::TopPeers { key, .. }
            | Self::TopLabels { key, .. } => Some(key),
        }
    }

    /// What about it is beyond the limits of this module, if anything.
    pub fn fault(&self) -> Option<&'static str> {
        let own = match self {
            Self::Count | Self::Sum { .. } | Self::Range { .. } => None,
            Self::List { listed } => {
                (!(1..=LISTED_MAX).contains(listed)).then_some("a list of that length is not given")
            }
            Self::Histogram { bounds, .. } => {
                let fine = (1..=BOUNDS_MAX).contains(&bounds.len()) && bounds.is_sorted_by(|a, b| a < b);
                (!fine).then_some("the bounds of a histogram have to rise, and are not too many")
            }
            Self::TopPeers { k, .. } => {
                (!(1..=TOP_MAX).contains(k)).then_some("a top of that size is not given")
            }
            Self::TopLabels { k, kept, .. } => {
                let fine = (1..=TOP_MAX).contains(k) && (*k..=KEPT_MAX).contains(kept);
                (!fine).then_some("a top of labels of that size is not given")
            }
        };
        own.or_else(|| self.key().and_then(key_fault))
    }

    /// `| kind: u8 | fields |`
    pub(crate) fn encode(&self, writer: &mut Writer) {
        let kind = match self {
            Self::Count => 0,
            Self::List { .. } => 1,
            Self::Sum { .. } => 2,
            Self::Range { .. } => 3,
            Self::Histogram { .. } => 4,
            Self::TopPeers { end: End::Largest, .. } => 5,
            Self::TopPeers { end: End::Smallest, .. } => 6,
            Self::TopLabels { .. } => 7,
        };
        writer.u8(kind);
        if let Some(key) = self.key() {
            writer.slice(key.as_bytes());
        }
        match self {
            Self::Count | Self::Sum { .. } | Self::Range { .. } => {}
            Self::List { listed } => writer.varint((*listed).into()),
            Self::Histogram { bounds, .. } => {
                writer.varint(bounds.len() as u64);
                bounds.iter().for_each(|bound| bound.encode(writer));
            }
            Self::TopPeers { k, .. } => writer.varint((*k).into()),
            Self::TopLabels { k, kept, .. } => {
                writer.varint((*k).into());
                writer.varint((*kept).into());
            }
        }
    }

    pub(crate) fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        let aggregate = match reader.u8("aggregate")? {
            0 => Self::Count,
            1 => Self::List { listed: small(reader)? },
            2 => Self::Sum { key: key(reader)? },
            3 => Self::Range { key: key(reader)? },
            4 => {
                let key = key(reader)?;
                let count = reader.count(2, "bounds")?;
                if count > BOUNDS_MAX {
                    return Err(DecodeError::Range("bounds"));
                }
                let bounds = (0..count).map(|_| Number::decode(reader)).collect::<Result<_, _>>()?;
                Self::Histogram { key, bounds }
            }
            5 => Self::TopPeers { key: key(reader)?, k: small(reader)?, end: End::Largest },
            6 => Self::TopPeers { key: key(reader)?, k: small(reader)?, end: End::Smallest },
            7 => Self::TopLabels { key: key(reader)?, k: small(reader)?, kept: small(reader)? },
            _ => return Err(DecodeError::Range("aggregate")),
        };
        match aggregate.fault() {
            None => Ok(aggregate),
            Some(_) => Err(DecodeError::Range("aggregate")),
        }
    }
}

fn small(reader: &mut Reader) -> Result<u16, DecodeError> {
    u16::try_from(reader.varint("size")?).map_err(|_| DecodeError::Range("size"))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::query::value::tests::numbers;
    use proptest::prelude::*;

    pub(crate) fn aggregates() -> impl Strategy<Value = Aggregate> {
        let key = || "[a-c]";
        prop_oneof![
            Just(Aggregate::Count),
            (1_u16..6).prop_map(|listed| Aggregate::List { listed }),
            key().prop_map(|key| Aggregate::Sum { key }),
            key().prop_map(|key| Aggregate::Range { key }),
            (key(), prop::collection::btree_set(numbers(), 1..6))
                .prop_map(|(key, bounds)| Aggregate::Histogram { key, bounds: bounds.into_iter().collect() }),
            (key(), 1_u16..4, prop::bool::ANY).prop_map(|(key, k, large)| Aggregate::TopPeers {
                key,
                k,
                end: if large { End::Largest } else { End::Smallest }
            }),
            (key(), 1_u16..4, 0_u16..3).prop_map(|(key, k, more)| Aggregate::TopLabels {
                key,
                k,
                kept: k + more
            }),
        ]
    }

    proptest! {
        #[test]
        fn an_aggregate_reads_back_as_written(aggregate in aggregates()) {
            let mut writer = Writer::new(0, 100);
            aggregate.encode(&mut writer);
            let (_, mut reader) = Reader::new(writer.finish()).unwrap();
            prop_assert_eq!(Aggregate::decode(&mut reader), Ok(aggregate));
            prop_assert_eq!(reader.end(), Ok(()));
        }

        #[test]
        fn any_bytes_are_an_aggregate_within_the_limits_or_none(bytes in prop::collection::vec(0_u8..9, 1..40)) {
            let (_, mut reader) = Reader::new(bytes::Bytes::from(bytes)).unwrap();
            if let Ok(aggregate) = Aggregate::decode(&mut reader) {
                prop_assert_eq!(aggregate.fault(), None);
            }
        }
    }

    #[test]
    fn a_histogram_whose_bounds_do_not_rise_is_refused() {
        let bounds = vec![Number::Int(1), Number::Float(1.0)];
        assert!(Aggregate::Histogram { key: "load".into(), bounds }.fault().is_some());
    }
}
