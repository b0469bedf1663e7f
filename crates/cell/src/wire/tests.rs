use super::*;
use proptest::prelude::*;
use skein_model::{Pick, Refusal};

fn round<T: Serialize + DeserializeOwned>(message: &T) -> T {
    decode("message", &encode(message).unwrap()).unwrap()
}

#[test]
fn every_error_of_a_cohort_says_the_same_to_a_client_of_another_peer() {
    let id: TxId = "7f".parse().unwrap();
    let errors = [
        CohortError::TimedOut { waited: Duration::from_millis(1500) },
        CohortError::Unknown { id: id.clone(), why: "leadership ended".into() },
        CohortError::Gone { oldest: TxClock(9) },
        CohortError::FutureTime(FutureTime { asked: TxClock(10), latest: TxClock(8) }),
        CohortError::Full { detail: "no room".into() },
        CohortError::Overloaded { waiting: 16_384 },
        CohortError::IdReused { id: id.clone() },
        CohortError::Damaged { detail: "checksum".into() },
        CohortError::DiskFailed { detail: "sync".into() },
    ];
    for error in errors {
        let there = round(&Refused::from(error.clone())).into_cell_error(Some(&id));
        assert_eq!(there, CellError::from(error));
    }
}

#[test]
fn a_hint_names_the_leader_to_ask_next() {
    let leader = skein_cohort::peers::Replica { store: StoreId(4), host: HostId(3) };
    let refused = Refused::from(CohortError::NotLeader { leader: Some(leader) });
    assert_eq!(round(&refused), Refused::NotLeader(Some((StoreId(4), HostId(3)))));
}

#[test]
fn an_envelope_keeps_what_is_in_it() {
    let envelope = Envelope { group: GroupId(5), from: StoreId(1), to: StoreId(u64::MAX) };
    assert_eq!(Envelope::open(envelope.seal(b"vote")), Ok((envelope, Bytes::from_static(b"vote"))));
    assert_eq!(Envelope::open(envelope.seal(b"")), Ok((envelope, Bytes::new())));
    assert!(Envelope::open(Bytes::from_static(&[0; 23])).is_err());
}

#[test]
fn what_follows_a_message_makes_it_none() {
    let mut bytes = encode(&Told::Promised(TxClock(3))).unwrap().to_vec();
    bytes.push(0);
    let error = decode::<Told>("answer", &bytes).unwrap_err();
    assert!(error.to_string().contains("1 bytes follow"), "{error}");
}

fn wants() -> impl Strategy<Value = Want> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from);
    prop_oneof![
        (any::<u64>(), bytes(), any::<Option<u64>>()).prop_map(|(table, key, at)| Want::Read {
            table: TableId(table),
            key,
            at: at.map(TxClock)
        }),
        any::<[u8; 20]>().prop_map(|id| Want::TxStatus(TxId::from_be_bytes(&id))),
        any::<Option<u64>>().prop_map(|at| Want::Promise(at.map(TxClock))),
        (any::<u64>(), bytes(), any::<Option<u8>>(), any::<u32>()).prop_map(|(time, key, end, rows)| {
            let window = Window { pick: Pick::Between, since: TxClock(1), until: TxClock(time) };
            let end = end.map(|end| Bytes::from(vec![end]));
            let spec = Spec { table: TableId(2), window, slice: Slice::new(1, 4).unwrap(), end };
            Want::Chunk { spec, position: Position { key, time: TxClock(time) }, rows, bytes: rows / 2 }
        }),
    ]
}

proptest! {
    #[test]
    fn a_request_comes_back_as_it_was_sent(want in wants(), group: u64, millis in 0u64..100_000) {
        let ask = Ask { group: GroupId(group), patience: Duration::from_millis(millis), want };
        prop_assert_eq!(round(&ask), ask);
    }

    #[test]
    fn any_bytes_are_a_message_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(ask) = decode::<Ask>("request", &bytes) {
            prop_assert_eq!(round(&ask), ask);
        }
        if let Ok(answer) = decode::<Result<Told, Refused>>("answer", &bytes) {
            prop_assert_eq!(round(&answer), answer);
        }
        if let Ok((envelope, body)) = Envelope::open(Bytes::from(bytes.clone())) {
            prop_assert_eq!(&envelope.seal(&body)[..], &bytes[..]);
        }
    }

    #[test]
    fn a_message_that_is_cut_short_is_refused(want in wants(), keep: prop::sample::Index) {
        let ask = Ask { group: GroupId(1), patience: Duration::ZERO, want };
        let bytes = encode(&ask).unwrap();
        prop_assert!(decode::<Ask>("request", &bytes[..keep.index(bytes.len())]).is_err());
    }

    #[test]
    fn outcomes_come_back(time: u64, op: u32) {
        for outcome in [
            TxOutcome::Committed(TxClock(time)),
            TxOutcome::Refused(Refusal::Stale { op, latest: TxClock(time) }),
            TxOutcome::Refused(Refusal::Collision { op }),
            TxOutcome::Aborted,
        ] {
            let told: Result<Told, Refused> = Ok(Told::Written(outcome));
            prop_assert_eq!(round(&told), told);
        }
    }
}
