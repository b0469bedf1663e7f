//! A door for a fuzz target into the decoders of Raft's own records on disk. Not part of the interface.

use crate::raft::codec::{
    decode_entry, decode_log_id, decode_place, decode_vote, encode_entry, encode_log_id, encode_place,
    encode_vote,
};
use bytes::Bytes;

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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_a_record_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            super::raft_records(&bytes);
        }
    }
}
