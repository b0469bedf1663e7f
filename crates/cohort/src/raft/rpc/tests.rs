use super::*;
use crate::peers::Replica;
use crate::raft::types::{Command, Leader, RaftEntry, RaftLogId, RaftMembership, StoredRaftMembership};
use openraft::{EntryPayload, LogId};
use proptest::prelude::*;
use skein_model::{HostId, StoreId};

const LIVES: Lives = Lives { from: 11, to: 12 };

fn log_id(term: u64, node: u64, index: u64) -> RaftLogId {
    LogId { leader_id: Leader { term, node_id: node }, index }
}

fn log_ids() -> impl Strategy<Value = RaftLogId> {
    (any::<u64>(), any::<u64>(), 0..1000u64).prop_map(|(term, node, index)| log_id(term, node, index))
}

fn replica(number: u64) -> Replica {
    Replica { host: HostId(number), store: StoreId(number / 2) }
}

fn votes() -> impl Strategy<Value = RaftVote> {
    (any::<u64>(), any::<u64>(), any::<bool>())
        .prop_map(|(term, node_id, committed)| RaftVote { leader_id: Leader { term, node_id }, committed })
}

fn payloads() -> impl Strategy<Value = EntryPayload<Command, u64, Replica>> {
    let nodes = proptest::collection::btree_map(any::<u64>(), any::<u64>().prop_map(replica), 1..4);
    prop_oneof![
        Just(EntryPayload::Blank),
        proptest::collection::vec(any::<u8>(), 0..40)
            .prop_map(|bytes| EntryPayload::Normal(Command(bytes.into()))),
        nodes.prop_map(|nodes| EntryPayload::Membership(RaftMembership::from(nodes))),
    ]
}

fn same(request: &Request) {
    let bytes = request.encode(LIVES);
    let (lives, back) = Request::decode(bytes.clone()).unwrap();
    assert_eq!(lives, LIVES);
    assert_eq!(format!("{back:?}"), format!("{request:?}"));
    // Cut anywhere, and with something behind, it is refused: all but a fetch, whose position ends with the message.
    if !matches!(request, Request::Fetch(_)) {
        for end in 0..bytes.len() {
            assert!(Request::decode(bytes.slice(..end)).is_err(), "cut at {end}");
        }
        let mut longer = BytesMut::from(&bytes[..]);
        longer.put_u8(0);
        assert!(Request::decode(longer.freeze()).is_err());
    }
}

proptest! {
    #[test]
    fn entries_travel(
        vote in votes(),
        prev in proptest::option::of(log_ids()),
        commit in proptest::option::of(log_ids()),
        payloads in proptest::collection::vec(payloads(), 0..4),
    ) {
        let first = prev.map_or(0, |id| id.index + 1);
        let entries = (first..).zip(payloads).map(|(i, payload)| RaftEntry { log_id: log_id(3, 4, i), payload });
        let entries: Vec<_> = entries.collect();
        let rpc = AppendEntriesRequest { vote, prev_log_id: prev, entries, leader_commit: commit };
        let (LIVES, Request::Append(back)) = Request::decode(Request::Append(rpc.clone()).encode(LIVES)).unwrap() else {
            panic!("another request");
        };
        prop_assert_eq!(back.entries, rpc.entries.clone());
        same(&Request::Append(rpc));
    }

    #[test]
    fn votes_transfers_and_snapshots_travel(
        vote in votes(),
        last in proptest::option::of(log_ids()),
        leadership_transfer: bool,
        to: u64,
        snapshot: u64,
        position in proptest::collection::vec(any::<u8>(), 0..20),
    ) {
        let rpc = VoteRequest { vote, last_log_id: last, leadership_transfer };
        same(&Request::Vote(rpc.clone()));
        same(&Request::PreVote(rpc));
        same(&Request::Transfer(TransferLeaderRequest::new(vote, to, last)));
        let membership = StoredRaftMembership::new(last, RaftMembership::from(std::collections::BTreeMap::from([(to, replica(1))])));
        let place = Place { origin: Origin::Received, last, membership };
        same(&Request::Install(Install { vote, place, snapshot, bytes: to }));
        same(&Request::Fetch(Fetch { snapshot, position: position.into() }));
        same(&Request::Who);
        same(&Request::MayEnd);
    }

    #[test]
    fn answers_travel(vote in votes(), other in votes(), last in proptest::option::of(log_ids()), granted: bool, bytes: u64) {
        for response in [
            AppendEntriesResponse::Success,
            AppendEntriesResponse::PartialSuccess(last),
            AppendEntriesResponse::Conflict,
            AppendEntriesResponse::HigherVote(vote),
        ] {
            prop_assert_eq!(decode_append_response(encode_append_response(&response)).unwrap(), response);
        }
        let response = VoteResponse { vote, vote_granted: granted, last_log_id: last };
        prop_assert_eq!(decode_vote_response(encode_vote_response(&response)).unwrap(), response);
        for response in [
            Ok(()),
            Err(TransferLeaderError::VoteChanged { expected: vote, actual: other }),
            Err(TransferLeaderError::LogNotFlushed { expected: last, actual: None }),
        ] {
            prop_assert_eq!(decode_transfer_response(encode_transfer_response(&response)).unwrap(), response);
        }
        let presence = Presence { life: bytes, stays: granted };
        prop_assert_eq!(Presence::decode(presence.encode()).unwrap(), presence);
        prop_assert_eq!(decode_may_end(encode_may_end(granted)).unwrap(), granted);
        for state in [
            Installing::Working { bytes, rows: bytes / 3 },
            Installing::Done { vote },
            Installing::Failed { why: "no room".into() },
        ] {
            prop_assert_eq!(Installing::decode(state.encode()).unwrap(), state);
        }
    }

    #[test]
    fn any_bytes_are_a_message_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..120), kind in 0u8..10) {
        for bytes in [bytes.clone(), [&[VERSION, kind], &bytes[..]].concat()] {
            let bytes = Bytes::from(bytes);
            let _ = (Request::decode(bytes.clone()), decode_append_response(bytes.clone()));
            let _ = (decode_vote_response(bytes.clone()), decode_transfer_response(bytes.clone()));
            let _ = (Presence::decode(bytes.clone()), decode_may_end(bytes.clone()));
            let _ = (Installing::decode(bytes.clone()), Piece::decode(bytes, 7, b"at"));
        }
    }

    #[test]
    fn a_piece_that_was_damaged_or_is_another_one_is_refused(
        bytes in proptest::collection::vec(any::<u8>(), 0..60),
        next in proptest::collection::vec(any::<u8>(), 0..9),
        flip: prop::sample::Index,
        bit in 0u8..8,
    ) {
        let piece = Piece::Chunk { bytes: bytes.into(), next: next.into() };
        let sent = piece.encode(7, b"here");
        prop_assert_eq!(Piece::decode(sent.clone(), 7, b"here").unwrap(), piece);
        prop_assert!(Piece::decode(sent.clone(), 7, b"there").is_err());
        prop_assert!(Piece::decode(sent.clone(), 8, b"here").is_err());
        let mut damaged = sent.to_vec();
        // The bytes before the checksum say how to read the rest.
        let at = 2 + flip.index(damaged.len() - 2);
        damaged[at] ^= 1 << bit;
        prop_assert!(Piece::decode(damaged.into(), 7, b"here").is_err());
    }
}

#[test]
fn entries_that_do_not_follow_one_another_are_refused() {
    let entry = |index| RaftEntry { log_id: log_id(1, 1, index), payload: EntryPayload::Blank };
    let vote = RaftVote { leader_id: Leader { term: 1, node_id: 1 }, committed: true };
    let rpc = |prev_log_id, entries| {
        Request::Append(AppendEntriesRequest { vote, prev_log_id, entries, leader_commit: None })
            .encode(LIVES)
    };
    assert!(Request::decode(rpc(None, vec![entry(0), entry(1)])).is_ok());
    assert!(Request::decode(rpc(None, vec![entry(1)])).is_err());
    assert!(Request::decode(rpc(Some(log_id(1, 1, 4)), vec![entry(5), entry(7)])).is_err());
    assert!(Request::decode(rpc(Some(log_id(1, 1, u64::MAX)), vec![entry(0)])).is_err());
}
