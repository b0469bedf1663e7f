//! A door for fuzz targets into the decoders of what peers say to each other, and of what they remember of each other on disk. Not part of
//! the interface.

use crate::catalog::{self, Summary};
use crate::gossip;
use crate::status::ReplicaStatus;
use crate::wire::{self, Ask, Envelope, LedStatus, Refused, Told};
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;

/// Bytes as each of the messages between peers: envelopes of groups, requests about rows and their answers, the status of what a peer
/// leads. Whatever they are, there is an answer; and what is accepted survives being written and read again.
pub fn peer_messages(bytes: &[u8]) {
    again::<Ask>(bytes);
    again::<Result<Told, Refused>>(bytes);
    again::<Vec<LedStatus>>(bytes);
    again::<Vec<ReplicaStatus>>(bytes);
    if let Ok((envelope, body)) = Envelope::open(Bytes::copy_from_slice(bytes)) {
        assert_eq!(&envelope.seal(&body)[..], bytes);
    }
}

fn again<T: Serialize + DeserializeOwned + PartialEq + Debug>(bytes: &[u8]) {
    match wire::decode::<T>("message", bytes) {
        Ok(message) => {
            let back = wire::encode(&message).map(|bytes| wire::decode::<T>("message", &bytes));
            assert!(
                back.as_ref().is_ok_and(|back| back.as_ref() == Ok(&message)),
                "{message:?} became {back:?}"
            );
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// Bytes as each of the messages between catalogs, and as what gossip tells of the newest one.
pub fn catalog_messages(bytes: &[u8]) {
    catalog::fuzz_messages(bytes);
    if let Some(summary) = Summary::decode(bytes) {
        assert_eq!(Summary::decode(&summary.encode()), Some(summary));
    }
}

/// Bytes as the file in which the driver of the flock remembers the others, as they are and behind a first line that is right. None of
/// them stops a peer from starting.
pub fn memory(bytes: &[u8]) {
    gossip::fuzz_memory(bytes);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_a_message_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            super::peer_messages(&bytes);
            super::catalog_messages(&bytes);
            super::memory(&bytes);
        }
    }
}
