//! What is known of the answer so far: merged from peers in any order, always to the same.

use super::aggregate::{Aggregate, End};
use super::exact::ExactSum;
use super::labels::LabelTotals;
use super::peers::PeerSet;
use super::value::{Number, Value};
use crate::wire::{DecodeError, Reader, Writer};
use skein_model::HostId;
use std::cmp::Reverse;

/// A number and whose it is.
pub type Held = (Number, HostId);

/// The aggregate of some peers. Merging is associative and commutative (for labels: within their bound), and its size is
/// bounded by the question, not by the number of peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tally {
    /// Peers for which the filter holds.
    pub matched: u64,
    /// Those of them that have a value of the kind asked for; 0 where the aggregate reads none.
    pub valued: u64,
    /// What was asked for.
    pub found: Found,
}

/// See [`Aggregate`], whose variants these are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// The count is [`Tally::matched`].
    Count,
    /// By rising ID.
    List(Vec<HostId>),
    /// Whole numbers apart from the others, so that they stay whole.
    Sum {
        /// The sum of the whole numbers.
        ints: i128,
        /// The sum of the others.
        floats: ExactSum,
    },
    /// Smallest and largest, while there is one.
    Range(Option<(Held, Held)>),
    /// One more than there are bounds.
    Histogram(Vec<u64>),
    /// The asked-for end first, ties by rising ID.
    TopPeers(Vec<Held>),
    /// Labels and totals.
    TopLabels(LabelTotals),
}

impl Tally {
    /// Of nobody.
    pub fn empty(aggregate: &Aggregate) -> Self {
        let found = match aggregate {
            Aggregate::Count => Found::Count,
            Aggregate::List { .. } => Found::List(Vec::new()),
            Aggregate::Sum { .. } => Found::Sum { ints: 0, floats: ExactSum::default() },
            Aggregate::Range { .. } => Found::Range(None),
            Aggregate::Histogram { bounds, .. } => Found::Histogram(vec![0; bounds.len() + 1]),
            Aggregate::TopPeers { .. } => Found::TopPeers(Vec::new()),
            Aggregate::TopLabels { .. } => Found::TopLabels(LabelTotals::default()),
        };
        Self { matched: 0, valued: 0, found }
    }

    /// Of one peer for which the filter holds; `value` is what it has under the aggregate's key.
    pub fn of(aggregate: &Aggregate, host: HostId, value: Option<Value>) -> Self {
        let mut tally = Self::empty(aggregate);
        tally.matched = 1;
        match (&mut tally.found, value) {
            (Found::Count, _) => {}
            (Found::List(hosts), _) => hosts.push(host),
            (Found::TopLabels(totals), Some(Value::Counters(counts))) => {
                *totals = LabelTotals::of(&counts, kept(aggregate));
                tally.valued = 1;
            }
            (Found::TopLabels(_), _) => {}
            (found, Some(Value::Number(number))) => {
                tally.valued = 1;
                match found {
                    Found::Sum { ints, floats } => match number {
                        Number::Int(value) => *ints = value.into(),
                        Number::Float(_) => floats.add(number),
                    },
                    Found::Range(range) => *range = Some(((number, host), (number, host))),
                    Found::Histogram(counts) => {
                        if let Aggregate::Histogram { bounds, .. } = aggregate {
                            counts[bounds.partition_point(|bound| *bound <= number)] = 1;
                        }
                    }
                    Found::TopPeers(held) => held.push((number, host)),
                    Found::Count | Found::List(_) | Found::TopLabels(_) => {}
                }
            }
            _ => {}
        }
        tally
    }

    /// Takes in that of other peers; both have to be of this aggregate, and no peer in both.
    pub fn merge(&mut self, other: Tally, aggregate: &Aggregate) {
        self.matched = self.matched.saturating_add(other.matched);
        self.valued = self.valued.saturating_add(other.valued);
        match (&mut self.found, other.found, aggregate) {
            (Found::List(hosts), Found::List(more), Aggregate::List { listed }) => {
                hosts.extend(more);
                hosts.sort();
                hosts.truncate((*listed).into());
            }
            (Found::Sum { ints, floats }, Found::Sum { ints: more, floats: parts }, _) => {
                // Cannot overflow: a message may claim 2^63 for each of its peers, no more, and there are not 2^64 peers.
                *ints = ints.saturating_add(more);
                floats.merge(&parts);
            }
            (Found::Range(range), Found::Range(Some((least, most))), _) => {
                let (old_least, old_most) = range.unwrap_or((least, most));
                *range = Some((old_least.min(least), by_largest(old_most, most)));
            }
            (Found::Histogram(counts), Found::Histogram(more), _) => {
                for (count, more) in counts.iter_mut().zip(more) {
                    *count = count.saturating_add(more);
                }
            }
            (Found::TopPeers(held), Found::TopPeers(more), Aggregate::TopPeers { k, end, .. }) => {
                held.extend(more);
                match end {
                    End::Largest => held.sort_by_key(|(number, host)| (Reverse(*number), *host)),
                    End::Smallest => held.sort(),
                }
                held.truncate((*k).into());
            }
            (Found::TopLabels(totals), Found::TopLabels(more), _) => totals.merge(more, kept(aggregate)),
            // Counts are all there is to a count, and nothing is added to by an empty range. Of two kinds one would be our own
            // mistake: what a message brings is read as what the question asks for.
            _ => {}
        }
    }

    /// What of it no honest peers can have said, when these are the peers it is about.
    pub(crate) fn fault(&self, peers: &PeerSet, aggregate: &Aggregate) -> Option<&'static str> {
        let most = peers.len() as u64;
        if self.matched > most || self.valued > self.matched {
            return Some("more peers match than were asked");
        }
        let whose = |held: &[Held]| held.iter().all(|(_, host)| peers.has(*host));
        let fine = match (&self.found, aggregate) {
            (Found::Count, _) => true,
            (Found::List(hosts), Aggregate::List { listed }) => {
                hosts.len() as u64 == self.matched.min(u64::from(*listed))
                    && hosts.is_sorted_by(|a, b| a < b)
                    && hosts.iter().all(|host| peers.has(*host))
            }
            (Found::Sum { ints, floats }, _) => {
                ints.unsigned_abs() <= u128::from(self.valued) << 63
                    && (self.valued > 0 || *floats == ExactSum::default())
            }
            (Found::Range(None), _) => self.valued == 0,
            (Found::Range(Some((least, most))), _) => {
                self.valued > 0 && least.0 <= most.0 && whose(&[*least, *most])
            }
            (Found::Histogram(counts), _) => {
                counts.iter().try_fold(0_u64, |sum, count| sum.checked_add(*count)) == Some(self.valued)
            }
            (Found::TopPeers(held), Aggregate::TopPeers { k, end, .. }) => {
                let sorted = match end {
                    End::Largest => held.is_sorted_by_key(|(number, host)| (Reverse(*number), *host)),
                    End::Smallest => held.is_sorted(),
                };
                let mut hosts: Vec<HostId> = held.iter().map(|(_, host)| *host).collect();
                hosts.sort();
                hosts.dedup();
                sorted
                    && held.len() as u64 == self.valued.min(u64::from(*k))
                    && hosts.len() == held.len()
                    && whose(held)
            }
            (Found::TopLabels(totals), _) => return totals.fault(self.valued, kept(aggregate)),
            (Found::List(_) | Found::TopPeers(_), _) => false,
        };
        (!fine).then_some("an aggregate that cannot be so")
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        match &self.found {
            Found::Count | Found::Range(_) => 0,
            Found::List(hosts) => hosts.capacity() * size_of::<HostId>(),
            Found::Sum { floats, .. } => {
                if *floats == ExactSum::default() {
                    0
                } else {
                    272
                }
            }
            Found::Histogram(counts) => counts.capacity() * 8,
            Found::TopPeers(held) => held.capacity() * size_of::<Held>(),
            Found::TopLabels(totals) => totals.heap_bytes(),
        }
    }

    /// `| matched: varint | valued: varint | what was asked for |`; its kind is known from the question.
    pub(crate) fn encode(&self, writer: &mut Writer) {
        writer.varint(self.matched);
        writer.varint(self.valued);
        match &self.found {
            Found::Count => {}
            Found::List(hosts) => {
                writer.varint(hosts.len() as u64);
                hosts.iter().for_each(|host| writer.host(*host));
            }
            Found::Sum { ints, floats } => {
                super::labels::wide(writer, ((ints << 1) ^ (ints >> 127)) as u128);
                floats.encode(writer);
            }
            Found::Range(range) => {
                writer.u8(range.is_some().into());
                if let Some((least, most)) = range {
                    encode_held(writer, least);
                    encode_held(writer, most);
                }
            }
            Found::Histogram(counts) => counts.iter().for_each(|count| writer.varint(*count)),
            Found::TopPeers(held) => {
                writer.varint(held.len() as u64);
                held.iter().for_each(|held| encode_held(writer, held));
            }
            Found::TopLabels(totals) => totals.encode(writer),
        }
    }

    pub(crate) fn decode(reader: &mut Reader, aggregate: &Aggregate) -> Result<Self, DecodeError> {
        let (matched, valued) = (reader.varint("matched")?, reader.varint("valued")?);
        let found = match aggregate {
            Aggregate::Count => Found::Count,
            Aggregate::List { listed } => {
                let count = reader.count(8, "list")?;
                if count > usize::from(*listed) {
                    return Err(DecodeError::Range("list"));
                }
                Found::List((0..count).map(|_| reader.host("list")).collect::<Result<_, _>>()?)
            }
            Aggregate::Sum { .. } => {
                let folded = super::labels::read_wide(reader)?;
                let ints = (folded >> 1) as i128 ^ -((folded & 1) as i128);
                Found::Sum { ints, floats: ExactSum::decode(reader)? }
            }
            Aggregate::Range { .. } => Found::Range(match reader.u8("range")? {
                0 => None,
                1 => Some((decode_held(reader)?, decode_held(reader)?)),
                _ => return Err(DecodeError::Range("range")),
            }),
            Aggregate::Histogram { bounds, .. } => Found::Histogram(
                (0..=bounds.len()).map(|_| reader.varint("bucket")).collect::<Result<_, _>>()?,
            ),
            Aggregate::TopPeers { k, .. } => {
                let count = reader.count(10, "top")?;
                if count > usize::from(*k) {
                    return Err(DecodeError::Range("top"));
                }
                Found::TopPeers((0..count).map(|_| decode_held(reader)).collect::<Result<_, _>>()?)
            }
            Aggregate::TopLabels { .. } => Found::TopLabels(LabelTotals::decode(reader, kept(aggregate))?),
        };
        Ok(Self { matched, valued, found })
    }
}

/// How many labels are kept.
fn kept(aggregate: &Aggregate) -> usize {
    match aggregate {
        Aggregate::TopLabels { kept, .. } => (*kept).into(),
        _ => 0,
    }
}

/// The larger number, the lower ID of two that have it.
fn by_largest(one: Held, other: Held) -> Held {
    if (Reverse(one.0), one.1) <= (Reverse(other.0), other.1) { one } else { other }
}

fn encode_held(writer: &mut Writer, (number, host): &Held) {
    number.encode(writer);
    writer.host(*host);
}

fn decode_held(reader: &mut Reader) -> Result<Held, DecodeError> {
    Ok((Number::decode(reader)?, reader.host("holder")?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::aggregate::tests::aggregates;
    use crate::query::value::tests::values;
    use proptest::prelude::*;

    fn peers_values() -> impl Strategy<Value = Vec<Option<Value>>> {
        prop::collection::vec(prop::option::weighted(0.9, values()), 0..12)
    }

    fn tally(aggregate: &Aggregate, values: &[Option<Value>], first: u64) -> Tally {
        let mut tally = Tally::empty(aggregate);
        for (at, value) in values.iter().enumerate() {
            tally.merge(Tally::of(aggregate, HostId(first + at as u64), value.clone()), aggregate);
        }
        tally
    }

    fn peers(count: usize) -> PeerSet {
        (0..count as u64).map(HostId).collect()
    }

    proptest! {
        #[test]
        fn merging_is_associative_and_commutative(
            aggregate in aggregates().prop_filter("labels have a bound instead", |it| !matches!(it, Aggregate::TopLabels { .. })),
            a in peers_values(), b in peers_values(), c in peers_values(),
        ) {
            let [a, b, c] = [(a, 0), (b, 100), (c, 200)].map(|(values, first)| tally(&aggregate, &values, first));
            let merge = |one: &Tally, other: &Tally| {
                let mut both = one.clone();
                both.merge(other.clone(), &aggregate);
                both
            };
            prop_assert_eq!(merge(&a, &b), merge(&b, &a));
            prop_assert_eq!(merge(&merge(&a, &b), &c), merge(&a, &merge(&b, &c)));
            prop_assert_eq!(merge(&a, &Tally::empty(&aggregate)), a);
        }

        #[test]
        fn an_honest_tally_has_no_fault_and_reads_back_as_written(aggregate in aggregates(), values in peers_values()) {
            let tally = tally(&aggregate, &values, 0);
            prop_assert_eq!(tally.fault(&peers(values.len()), &aggregate), None);
            let mut writer = Writer::new(0, 100);
            tally.encode(&mut writer);
            let (_, mut reader) = Reader::new(writer.finish()).unwrap();
            prop_assert_eq!(Tally::decode(&mut reader, &aggregate), Ok(tally));
            prop_assert_eq!(reader.end(), Ok(()));
        }

        #[test]
        fn any_bytes_are_a_tally_or_an_error(aggregate in aggregates(), bytes in prop::collection::vec(any::<u8>(), 1..60)) {
            let (_, mut reader) = Reader::new(bytes::Bytes::from(bytes)).unwrap();
            if let Ok(tally) = Tally::decode(&mut reader, &aggregate) {
                tally.fault(&peers(3), &aggregate);
            }
        }

        #[test]
        fn a_tally_is_what_counting_by_hand_gives(values in peers_values()) {
            let key = || "a".to_owned();
            let mut numbers: Vec<Held> = values.iter().enumerate()
                .filter_map(|(at, value)| Some((value.as_ref()?.number()?, HostId(at as u64)))).collect();
            numbers.sort();
            let of = |aggregate: Aggregate| tally(&aggregate, &values, 0);
            let top = of(Aggregate::TopPeers { key: key(), k: 3, end: End::Smallest });
            prop_assert_eq!((top.matched, top.valued), (values.len() as u64, numbers.len() as u64));
            prop_assert_eq!(top.found, Found::TopPeers(numbers.iter().copied().take(3).collect()));
            let Found::Range(range) = of(Aggregate::Range { key: key() }).found else { panic!() };
            let extremes = numbers.first().zip(numbers.last()).map(|(first, last)| (first.0, last.0));
            prop_assert_eq!(range.map(|(least, most)| (least.0, most.0)), extremes);
            let bound = Number::Float(0.0);
            let below = numbers.iter().filter(|(number, _)| *number < bound).count() as u64;
            let histogram = of(Aggregate::Histogram { key: key(), bounds: vec![bound] });
            prop_assert_eq!(histogram.found, Found::Histogram(vec![below, numbers.len() as u64 - below]));
            let Found::Sum { ints, .. } = of(Aggregate::Sum { key: key() }).found else { panic!() };
            let by_hand: i128 = numbers.iter().map(|it| if let Number::Int(int) = it.0 { int.into() } else { 0 }).sum();
            prop_assert_eq!(ints, by_hand);
        }
    }

    #[test]
    fn numbers_that_its_peers_cannot_have_are_a_fault() {
        let (sum, list) = (Aggregate::Sum { key: "a".into() }, Aggregate::List { listed: 5 });
        let of_two = |found| Tally { matched: 2, valued: 2, found };
        let absurd = of_two(Found::Sum { ints: i128::MAX, floats: ExactSum::default() });
        assert!(absurd.fault(&peers(2), &sum).is_some());
        assert!(of_two(Found::Count).fault(&peers(1), &Aggregate::Count).is_some());
        let named_others = Tally { matched: 2, valued: 0, found: Found::List(vec![HostId(0), HostId(9)]) };
        assert!(named_others.fault(&peers(2), &list).is_some());
        let buckets = Aggregate::Histogram { key: "a".into(), bounds: vec![Number::Int(0)] };
        assert!(of_two(Found::Histogram(vec![u64::MAX, 3])).fault(&peers(2), &buckets).is_some());
        let top = Aggregate::TopPeers { key: "a".into(), k: 2, end: End::Largest };
        let twice = of_two(Found::TopPeers(vec![(Number::Int(9), HostId(1)), (Number::Int(8), HostId(1))]));
        assert!(twice.fault(&peers(2), &top).is_some());
    }
}
