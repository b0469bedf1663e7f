use super::*;
use proptest::prelude::*;
use std::str::FromStr;

fn value() -> impl Strategy<Value = Value> {
    let content_type = prop_oneof![
        Just(ContentType::Json),
        "[a-z]{1,8}/[a-zé]{0,30}".prop_map(|media_type| ContentType::Other(media_type.into())),
    ];
    (content_type, prop::collection::vec(any::<u8>(), 0..40))
        .prop_map(|(content_type, bytes)| Value { content_type, bytes: Bytes::from(bytes) })
}

fn outcome() -> impl Strategy<Value = TxOutcome> {
    prop_oneof![
        any::<u64>().prop_map(|time| TxOutcome::Committed(TxClock(time))),
        any::<u32>().prop_map(|op| TxOutcome::Collision { op }),
        any::<(u32, u64)>().prop_map(|(op, latest)| TxOutcome::Stale { op, latest: TxClock(latest) }),
        Just(TxOutcome::Aborted),
    ]
}

/// Keys with many zero and 0xFF bytes, which are the ones that escaping could get wrong.
fn key() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(0xFE), Just(0xFF), any::<u8>()], 0..8)
}

fn prefix(table: u64, key: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    past_prefix(TableId(table), key, &mut out);
    out
}

proptest! {
    #[test]
    fn a_version_comes_back_as_it_was_stored(stamp: u64, value in prop::option::of(value())) {
        let encoded = encode_version(TxClock(stamp), value.as_ref(), &mut BytesMut::new());
        let entry = decode_head(&encoded).unwrap();
        prop_assert_eq!(entry.stamp, TxClock(stamp));
        prop_assert_eq!(entry.is_live(), value.is_some());
        prop_assert_eq!(entry.into_value(&encoded), value);
    }

    #[test]
    fn restamping_changes_the_stamp_alone(first: u64, second: u64, value in prop::option::of(value())) {
        let out = &mut BytesMut::new();
        let version = encode_version(TxClock(first), value.as_ref(), out);
        let restamped = restamp(&version, TxClock(second), out);
        prop_assert_eq!(restamped, encode_version(TxClock(second), value.as_ref(), out));
    }

    #[test]
    fn a_record_comes_back_as_it_was_stored(outcome in outcome(), fingerprint: u64, decided_at: u64) {
        let record = TxRecord { outcome, fingerprint, decided_at: TxClock(decided_at) };
        let encoded = record.encode();
        prop_assert_eq!(TxRecord::decode(&encoded), Ok(record));
        prop_assert_eq!(TxRecord::decode_decided_at(&encoded), Some(TxClock(decided_at)));
        // Neither shorter nor longer bytes pass for a record.
        prop_assert_eq!(TxRecord::decode(&encoded[..encoded.len() - 1]), Err(DecodeError::Short));
        let longer = [&encoded[..], &[0]].concat();
        prop_assert_eq!(TxRecord::decode(&longer), Err(DecodeError::Long));
    }

    #[test]
    fn past_keys_sort_by_table_then_key_then_newest_first(
        a in (0..3u64, key(), 0..4u64),
        b in (0..3u64, key(), 0..4u64),
    ) {
        let encoded = |(table, key, time): &(u64, Vec<u8>, u64)| past_key(&prefix(*table, key), TxClock(*time));
        let natural = (a.0, &a.1, std::cmp::Reverse(a.2)).cmp(&(b.0, &b.1, std::cmp::Reverse(b.2)));
        prop_assert_eq!(encoded(&a).cmp(&encoded(&b)), natural);
    }

    #[test]
    fn no_row_has_a_past_prefix_that_starts_another_rows(a in key(), b in key()) {
        prop_assume!(a != b);
        prop_assert!(!prefix(1, &a).starts_with(&prefix(1, &b)));
    }

    #[test]
    fn keys_split_into_what_they_were_made_of(table: u64, key in key(), time: u64) {
        let head = head_key(TableId(table), &key);
        prop_assert_eq!(split_head_key(&head), Some((TableId(table), &key[..])));
        let prefix = prefix(table, &key);
        let past = past_key(&prefix, TxClock(time));
        prop_assert_eq!(split_past_key(&past), Some((&prefix[..], TxClock(time))));
    }

    #[test]
    fn decoders_take_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let encoded = Bytes::from(bytes);
        if let Ok(entry) = decode_head(&encoded) {
            entry.into_value(&encoded);
        }
        let _ = (decode_past(&encoded).is_ok(), TxRecord::decode(&encoded).is_ok());
        let _ = (split_head_key(&encoded).is_some(), split_past_key(&encoded).is_some());
    }
}

#[test]
fn what_no_version_says_is_refused() {
    let tombstone = encode_version(TxClock(7), None, &mut BytesMut::new());
    assert_eq!(decode_head(&[&tombstone[..], b"x"].concat()), Err(DecodeError::Long));
    assert_eq!(decode_head(&tombstone[..8]), Err(DecodeError::Short));
    let mut unknown = tombstone.to_vec();
    unknown[8] = 4;
    assert_eq!(decode_head(&unknown), Err(DecodeError::Unknown));
    unknown[8] = OTHER;
    assert_eq!(decode_head(&unknown), Err(DecodeError::Unknown), "a tombstone has no media type");
    unknown[8] = LIVE | OTHER;
    unknown.extend([2, 0, 0xC3]);
    assert_eq!(decode_head(&unknown), Err(DecodeError::Short));
    unknown.push(0x28);
    assert_eq!(decode_head(&unknown), Err(DecodeError::MediaType));
}

#[test]
fn the_transaction_zero_has_a_key() {
    assert_eq!(&tx_key(&TxId::from_str("0").unwrap())[..], [1]);
}
