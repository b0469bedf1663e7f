//! A door for fuzz targets into the decoders of Raft's own records on disk, and of what the replicas of a group say to each other. Not
//! part of the interface.

use crate::raft::codec::{
    decode_entry, decode_log_id, decode_place, decode_vote, encode_entry, encode_log_id, encode_place,
    encode_vote,
};
use crate::raft::rpc::{
    Installing, Piece, Presence, Request, decode_append_response, decode_may_end, decode_transfer_response,
    decode_vote_response, encode_append_response, encode_may_end, encode_transfer_response,
    encode_vote_response,
};
use bytes::Bytes;
use std::fmt::Debug;
use std::io;

/// Bytes as each of the records that Raft keeps. Whatever they are, there is an answer; and what is accepted means the
/// same once written again.
pub fn raft_records(bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    if let Ok(entry) = decode_entry(7, bytes.clone()) {
        assert_eq!(decode_entry(7, encode_entry(&entry)).ok(), Some(entry));
    }
    if let Ok(vote) = decode_vote(bytes.clone()) {
        assert_eq!(encode_vote(&vote), bytes);
    }
    if let Ok(id) = decode_log_id(bytes.clone()) {
        assert_eq!(encode_log_id(&id), bytes);
    }
    if let Ok(place) = decode_place(bytes) {
        assert_eq!(decode_place(encode_place(&place)).ok(), Some(place));
    }
}

/// Bytes as each of the messages between the replicas of a group, and as a piece of a snapshot. Whatever they are, there is an answer;
/// and what is accepted is written again as it was read.
pub fn group_messages(bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    again(&bytes, Request::decode, |(lives, request)| request.encode(*lives));
    again(&bytes, decode_append_response, encode_append_response);
    again(&bytes, decode_vote_response, encode_vote_response);
    again(&bytes, decode_transfer_response, encode_transfer_response);
    again(&bytes, Installing::decode, Installing::encode);
    again(&bytes, Presence::decode, |presence| presence.encode());
    again(&bytes, decode_may_end, |may| encode_may_end(*may));
    let (snapshot, position) = (7, &b"here"[..]);
    // The checksum guards the rest of a piece, so it is also put right.
    let mut right = bytes.to_vec();
    Piece::put_checksum(&mut right, snapshot, position);
    for bytes in [bytes, right.into()] {
        if let Ok(piece) = Piece::decode(bytes, snapshot, position) {
            let read = Piece::decode(piece.encode(snapshot, position), snapshot, position);
            assert_eq!(read.ok(), Some(piece));
        }
    }
}

/// What is read is written so that it reads the same.
fn again<T: Debug>(bytes: &Bytes, read: impl Fn(Bytes) -> io::Result<T>, write: impl Fn(&T) -> Bytes) {
    match read(bytes.clone()) {
        Ok(message) => {
            let back = read(write(&message));
            assert!(
                back.as_ref().is_ok_and(|back| format!("{back:?}") == format!("{message:?}")),
                "{message:?} became {back:?}"
            );
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_a_record_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            super::raft_records(&bytes);
        }

        #[test]
        fn any_bytes_are_a_message_of_a_group_or_refused(
            bytes in proptest::collection::vec(any::<u8>(), 0..100), kind in 0u8..10,
        ) {
            super::group_messages(&bytes);
            super::group_messages(&[&[2, kind], &bytes[..]].concat());
        }
    }
}
