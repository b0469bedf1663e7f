//! What peers send each other: every value comes back as it was, and what breaks a rule is refused.

#![allow(clippy::unwrap_used, reason = "clippy does not see that helpers of tests are tests")]

use bytes::Bytes;
use proptest::prelude::*;
use skein_model::{
    ContentType, Expect, Pick, Refusal, RowOp, Slice, TableId, Transaction, TxClock, TxId, Value, Window,
    WriteOp,
};

fn round<T: serde::Serialize + serde::de::DeserializeOwned>(value: &T) -> T {
    postcard::from_bytes(&postcard::to_stdvec(value).unwrap()).unwrap()
}

#[test]
fn a_transaction_comes_back_as_it_was_sent() {
    let value = |content_type| Value { content_type, bytes: Bytes::from_static(b"{}") };
    let op = |op, expect| RowOp { table: TableId(7), key: Bytes::from_static(b"k\0"), op, expect };
    let tx = Transaction {
        id: TxId::draw(1_700_000_000_000_000, [9; TxId::RANDOM_BYTES]),
        id_from_client: true,
        condition: Some(TxClock(5)),
        ops: vec![
            op(WriteOp::Create(value(ContentType::Json)), vec![Expect::Live, Expect::Absent]),
            op(WriteOp::Hold, vec![Expect::VersionIn(vec![TxClock(1)]), Expect::VersionNotIn(Vec::new())]),
            op(
                WriteOp::Update(value(ContentType::Other("text/x".into()))),
                vec![Expect::NotAfter(TxClock::MAX)],
            ),
            op(WriteOp::Delete, Vec::new()),
        ],
    };
    assert_eq!(round(&tx), tx);
    for refusal in [Refusal::Collision { op: 3 }, Refusal::Stale { op: 0, latest: TxClock(8) }] {
        assert_eq!(round(&refusal), refusal);
    }
    let window = Window { pick: Pick::Through, since: TxClock(1), until: TxClock(2) };
    assert_eq!(round(&window), window);
}

#[test]
fn a_slice_that_is_none_is_refused() {
    for pair in [(0u32, 0u32), (2, 2), (0, 3)] {
        let bytes = postcard::to_stdvec(&pair).unwrap();
        assert!(postcard::from_bytes::<Slice>(&bytes).is_err(), "{pair:?}");
    }
    assert_eq!(round(&Slice::new(3, 4).unwrap()), Slice::new(3, 4).unwrap());
}

#[test]
fn a_transaction_id_has_one_form_and_a_longest_length() {
    let padded = postcard::to_stdvec(&Bytes::from_static(&[0, 0, 7])).unwrap();
    assert_eq!(postcard::from_bytes::<TxId>(&padded), Ok("7".parse().unwrap()));
    let long = postcard::to_stdvec(&Bytes::from(vec![1; 257])).unwrap();
    assert!(postcard::from_bytes::<TxId>(&long).is_err());
}

proptest! {
    #[test]
    fn any_bytes_decode_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        // Whatever comes out is sound: it goes back in and is the same.
        if let Ok(tx) = postcard::from_bytes::<Transaction>(&bytes) {
            prop_assert_eq!(round(&tx), tx);
        }
    }
}
