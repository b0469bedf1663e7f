//! Totals per label over many peers in bounded room: which topics trend, and how sure that is.

use super::value::{LABEL_BYTES_MAX, text};
use crate::wire::{DecodeError, Reader, Writer};

/// Totals of the heaviest labels, and how much any of them may have been counted short.
///
/// The true total of a kept label lies between its count and its count plus [`LabelTotals::short`]; that of any other label is
/// at most `short`; and `short` is at most the total of everything divided by `kept_max + 1`. While no more than `kept_max` labels
/// are about, `short` is 0 and everything exact. This holds whatever order and grouping they were merged in, though the counts
/// themselves may differ with it (without `short`, they cannot).
///
/// Source: Agarwal et al., "Mergeable Summaries" (PODS 2012), section 3: the Misra-Gries summary and its merge.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct LabelTotals {
    /// By rising label.
    counts: Vec<(String, u128)>,
    short: u128,
    total: u128,
}

impl LabelTotals {
    /// The counters of one peer. Labels come in rising order, each once.
    pub fn of(counts: &[(String, u64)], kept_max: usize) -> Self {
        let seen = counts.iter().filter(|(_, count)| *count > 0);
        let counts: Vec<_> = seen.map(|(label, count)| (label.clone(), u128::from(*count))).collect();
        let total = counts.iter().map(|(_, count)| count).sum();
        let mut totals = Self { counts, short: 0, total };
        totals.cut(kept_max);
        totals
    }

    /// Takes in another summary.
    pub fn merge(&mut self, other: LabelTotals, kept_max: usize) {
        self.total = self.total.saturating_add(other.total);
        self.short = self.short.saturating_add(other.short);
        self.counts.extend(other.counts);
        self.counts.sort_by(|a, b| a.0.cmp(&b.0));
        self.counts.dedup_by(|next, kept| {
            let same = next.0 == kept.0;
            if same {
                kept.1 = kept.1.saturating_add(next.1);
            }
            same
        });
        self.cut(kept_max);
    }

    /// Takes the count of the heaviest label that does not fit from every label, so that at most `kept_max` are left. Each
    /// unit of that count is taken from `kept_max + 1` labels at once, which is why `short` stays small.
    fn cut(&mut self, kept_max: usize) {
        if self.counts.len() <= kept_max {
            return;
        }
        let mut sizes: Vec<u128> = self.counts.iter().map(|(_, count)| *count).collect();
        sizes.sort_unstable_by(|a, b| b.cmp(a));
        let taken = sizes[kept_max];
        self.short = self.short.saturating_add(taken);
        self.counts.retain_mut(|(_, count)| {
            *count = count.saturating_sub(taken);
            *count > 0
        });
    }

    /// What everything added up to: exact.
    pub fn total(&self) -> u128 {
        self.total
    }

    /// The most by which a label's count may be below the truth; 0 when all is exact.
    pub fn short(&self) -> u128 {
        self.short
    }

    /// The `k` heaviest labels with their least possible totals, heaviest first, ties by label.
    pub fn top(&self, k: usize) -> Vec<(String, u128)> {
        let mut heaviest = self.counts.clone();
        heaviest.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        heaviest.truncate(k);
        heaviest
    }

    /// What of it no honest peers can have said about `peers` peers.
    pub(crate) fn fault(&self, peers: u64, kept_max: usize) -> Option<&'static str> {
        let most = u128::from(peers) * u128::from(u64::MAX) * super::value::LABELS_MAX as u128;
        let listed = self.counts.iter().try_fold(0_u128, |sum, (_, count)| sum.checked_add(*count));
        let shortest = self.short.checked_mul(kept_max as u128 + 1);
        let sum = listed.zip(shortest).and_then(|(listed, shortest)| listed.checked_add(shortest));
        match sum {
            Some(sum) if sum <= self.total && self.total <= most && self.counts.len() <= kept_max => None,
            _ => Some("counters that cannot be so"),
        }
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        self.counts.capacity() * size_of::<(String, u128)>()
            + self.counts.iter().map(|(label, _)| label.capacity()).sum::<usize>()
    }

    /// `| total | short | count: varint | (label: slice, total of it) each |`, totals as two varints, high half first.
    pub(crate) fn encode(&self, writer: &mut Writer) {
        wide(writer, self.total);
        wide(writer, self.short);
        writer.varint(self.counts.len() as u64);
        for (label, count) in &self.counts {
            writer.slice(label.as_bytes());
            wide(writer, *count);
        }
    }

    pub(crate) fn decode(reader: &mut Reader, kept_max: usize) -> Result<Self, DecodeError> {
        let (total, short) = (read_wide(reader)?, read_wide(reader)?);
        let count = reader.count(3, "labels")?;
        if count > kept_max {
            return Err(DecodeError::Range("labels"));
        }
        let mut counts = Vec::with_capacity(count);
        for _ in 0..count {
            counts.push((text(reader, LABEL_BYTES_MAX, "label")?, read_wide(reader)?));
        }
        if !counts.is_sorted_by(|a, b| a.0 < b.0) {
            return Err(DecodeError::Range("label"));
        }
        Ok(Self { counts, short, total })
    }
}

/// `| high 64 bits: varint | low 64 bits: varint |`
pub(crate) fn wide(writer: &mut Writer, value: u128) {
    writer.varint((value >> 64) as u64);
    writer.varint(value as u64);
}

pub(crate) fn read_wide(reader: &mut Reader) -> Result<u128, DecodeError> {
    let high = reader.varint("number")?;
    Ok(u128::from(high) << 64 | u128::from(reader.varint("number")?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    type Counts = BTreeMap<String, u64>;

    fn peers() -> impl Strategy<Value = Vec<Counts>> {
        prop::collection::vec(prop::collection::btree_map("[a-l]", 0_u64..50, 0..8), 1..12)
    }

    fn list(counts: &Counts) -> Vec<(String, u64)> {
        counts.iter().map(|(label, count)| (label.clone(), *count)).collect()
    }

    fn truth(peers: &[Counts]) -> BTreeMap<String, u128> {
        let mut truth = BTreeMap::new();
        for (label, count) in peers.iter().flatten() {
            *truth.entry(label.clone()).or_default() += u128::from(*count);
        }
        truth
    }

    /// Merges in an order that the choices give.
    fn merged(peers: &[Counts], kept_max: usize, choices: &[prop::sample::Index]) -> LabelTotals {
        let mut heap: Vec<_> = peers.iter().map(|counts| LabelTotals::of(&list(counts), kept_max)).collect();
        for choice in choices.iter().cycle() {
            if heap.len() == 1 {
                break;
            }
            let one = heap.swap_remove(choice.index(heap.len()));
            let at = choice.index(heap.len());
            heap[at].merge(one, kept_max);
        }
        heap.remove(0)
    }

    proptest! {
        #[test]
        fn the_truth_lies_within_the_bound_in_any_order_of_merging(
            peers in peers(), kept_max in 1_usize..8, choices in prop::collection::vec(any::<prop::sample::Index>(), 12),
        ) {
            let (truth, totals) = (truth(&peers), merged(&peers, kept_max, &choices));
            let sum: u128 = truth.values().sum();
            prop_assert_eq!(totals.total(), sum);
            prop_assert!(totals.short() <= sum / (kept_max as u128 + 1));
            prop_assert_eq!(totals.fault(peers.len() as u64, kept_max), None);
            for (label, true_count) in &truth {
                let kept = totals.counts.iter().find(|(kept, _)| kept == label).map_or(0, |(_, count)| *count);
                prop_assert!(kept <= *true_count && *true_count <= kept + totals.short());
            }
        }

        #[test]
        fn with_room_for_all_labels_it_is_exact(
            peers in peers(), choices in prop::collection::vec(any::<prop::sample::Index>(), 12),
        ) {
            let totals = merged(&peers, 12, &choices);
            let truth: Vec<_> = truth(&peers).into_iter().filter(|(_, count)| *count > 0).collect();
            prop_assert_eq!((totals.counts, totals.short), (truth, 0));
        }

        #[test]
        fn totals_read_back_as_written(
            peers in peers(), kept_max in 1_usize..8, choices in prop::collection::vec(any::<prop::sample::Index>(), 12),
        ) {
            let totals = merged(&peers, kept_max, &choices);
            let mut writer = Writer::new(0, 16);
            totals.encode(&mut writer);
            let (_, mut reader) = Reader::new(writer.finish()).unwrap();
            prop_assert_eq!(LabelTotals::decode(&mut reader, kept_max), Ok(totals));
            prop_assert_eq!(reader.end(), Ok(()));
        }
    }
}
