use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// What a buffer should hold: of each key, what was written when.
type Model = BTreeMap<Vec<u8>, Vec<(SeqNo, Option<Bytes>)>>;

fn newest(writes: &[(SeqNo, Option<Bytes>)], below: SeqNo) -> Option<Option<Bytes>> {
    writes.iter().rev().find(|(seqno, _)| *seqno < below).map(|(_, value)| value.clone())
}

fn expected(
    model: &Model,
    from: Bound<&[u8]>,
    to: Bound<&[u8]>,
    below: SeqNo,
) -> Vec<(Bytes, Option<Bytes>)> {
    let between = model.iter().filter(|(key, _)| is_after(key, from) && is_before(key, to));
    between.filter_map(|(key, writes)| Some((key.clone().into(), newest(writes, below)?))).collect()
}

fn found(buffer: &Buffer, from: Bound<&[u8]>, to: Bound<&[u8]>, below: SeqNo) -> Vec<(Bytes, Option<Bytes>)> {
    buffer.range(from, to, below).map(|entry| (entry.key, entry.value)).collect()
}

/// Keys that share beginnings, are beginnings of each other, and differ only in how many zeros they end with.
fn key() -> impl Strategy<Value = Vec<u8>> {
    let ending = prop::collection::vec(prop_oneof![Just(0u8), Just(1), any::<u8>()], 0..12);
    (0..3usize, ending).prop_map(|(beginning, ending)| [&b"tablekey"[..1 + beginning * 3], &ending].concat())
}

fn bound() -> impl Strategy<Value = Bound<Vec<u8>>> {
    let kinds = [Bound::Included(()), Bound::Excluded(()), Bound::Unbounded];
    (key(), prop::sample::select(kinds.to_vec())).prop_map(|(key, kind)| kind.map(|()| key))
}

#[derive(Debug, Clone)]
enum Step {
    /// So many batches of so many entries, by a generator with this seed.
    Write {
        batches: u64,
        entries: usize,
        seed: u64,
    },
    Range {
        from: Bound<Vec<u8>>,
        to: Bound<Vec<u8>>,
        back: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1..12u64, 1..90usize, any::<u64>()).prop_map(|(batches, entries, seed)| Step::Write {
            batches,
            entries,
            seed
        }),
        (bound(), bound(), 0..40u64).prop_map(|(from, to, back)| Step::Range { from, to, back }),
    ]
}

fn slice(bound: &Bound<Vec<u8>>) -> Bound<&[u8]> {
    bound.as_ref().map(Vec::as_slice)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_buffer_shows_at_every_number_what_a_map_of_all_writes_does(
        keys in prop::collection::vec(key(), 1..200),
        steps in prop::collection::vec(step(), 1..12),
        is_indexed: bool,
    ) {
        let buffer = Buffer::new(is_indexed);
        let mut model = Model::new();
        let mut seqno = 1;
        for step in steps {
            match step {
                Step::Write { batches, entries, mut seed } => for _ in 0..batches {
                    let mut batch = Vec::new();
                    for n in 0..entries {
                        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        let key = &keys[(seed >> 33) as usize % keys.len()];
                        let value = (seed >> 60 != 0).then(|| Bytes::from(format!("{seqno} {n}")));
                        model.entry(key.clone()).or_default().push((seqno, value.clone()));
                        batch.push((Bytes::from(key.clone()), value));
                    }
                    buffer.append(batch, seqno);
                    seqno += 1;
                },
                Step::Range { from, to, back } => {
                    let below = seqno.saturating_sub(back);
                    prop_assert_eq!(
                        found(&buffer, slice(&from), slice(&to), below),
                        expected(&model, slice(&from), slice(&to), below)
                    );
                }
            }
        }
        for below in [SeqNo::MAX, seqno / 2, 1] {
            for key in &keys {
                let written = model.get(key).and_then(|writes| newest(writes, below));
                prop_assert_eq!(buffer.get(key, below), written);
            }
            prop_assert_eq!(
                found(&buffer, Bound::Unbounded, Bound::Unbounded, below),
                expected(&model, Bound::Unbounded, Bound::Unbounded, below)
            );
        }
    }
}

fn put(key: u64, value: u64) -> (Bytes, Option<Bytes>) {
    (Bytes::copy_from_slice(&key.to_be_bytes()), Some(Bytes::copy_from_slice(&value.to_be_bytes())))
}

#[test]
fn a_range_begun_before_a_write_does_not_show_it() {
    let buffer = Buffer::new(true);
    buffer.append((0..CHUNK as u64 + 7).map(|key| put(key * 2, 0)).collect(), 1);
    let range = buffer.range(Bound::Unbounded, Bound::Unbounded, SeqNo::MAX);
    for round in 2..9 {
        buffer.append((0..CHUNK as u64 * 2).map(|key| put(key, round)).collect(), round);
    }
    let seen: Vec<Entry> = range.collect();
    assert_eq!(seen.len(), CHUNK + 7);
    assert!(seen.iter().all(|entry| entry.seqno == 1));
}

#[test]
fn runs_stay_few_however_often_somebody_reads() {
    let buffer = Buffer::new(true);
    let mut seqno = 0;
    for key in 0..CHUNK as u64 * 64 {
        seqno += 1;
        buffer.append(vec![put(key.wrapping_mul(0x9E37_79B9_7F4A_7C15), key)], seqno);
        if key % 300 == 0 {
            buffer.range(Bound::Unbounded, Bound::Unbounded, SeqNo::MAX).next();
        }
    }
    let all: Vec<Entry> = buffer.range(Bound::Unbounded, Bound::Unbounded, SeqNo::MAX).collect();
    assert_eq!(all.len(), CHUNK * 64);
    assert!(all.windows(2).all(|pair| pair[0].key < pair[1].key));
    assert!(lock(&buffer.runs).runs.len() <= 7);
}

#[test]
fn the_last_of_several_entries_of_a_key_in_one_batch_wins() {
    for is_indexed in [false, true] {
        let buffer = Buffer::new(is_indexed);
        // Once within the tail, once across chunks.
        buffer.append(vec![put(1, 1), put(1, 2), (put(2, 0).0, None)], 1);
        buffer.append((0..CHUNK as u64 * 3).map(|n| put(7, n)).collect(), 2);
        let value = |n: u64| Some(Some(Bytes::copy_from_slice(&n.to_be_bytes())));
        assert_eq!(buffer.get(&1u64.to_be_bytes(), 9), value(2));
        assert_eq!(buffer.get(&2u64.to_be_bytes(), 9), Some(None));
        assert_eq!(buffer.get(&7u64.to_be_bytes(), 9), value(CHUNK as u64 * 3 - 1));
        assert_eq!(buffer.get(&7u64.to_be_bytes(), 2), None);
        let all: Vec<Entry> = buffer.range(Bound::Unbounded, Bound::Unbounded, 9).collect();
        assert_eq!(all.len(), 3);
        assert_eq!(all[2].value, value(CHUNK as u64 * 3 - 1).flatten());
    }
}
