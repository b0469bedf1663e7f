//! The chunks in which a whole store travels to another replica.

use bytes::{Bytes, BytesMut};
use skein_storage::engine::MemEngine;
use skein_storage::rows::{ExportPosition, Import};
use std::sync::Arc;

/// Bytes of a chunk that say how long it is, and their checksum.
const GUARDED: usize = 8;

/// Chunks, each behind its length in two bytes, one after the other into a fresh store: each as it is, and, if it is refused, once
/// more with the length and the checksum that it should have. A refusal changes nothing.
pub fn chunks(data: &[u8]) {
    if let Some(position) = ExportPosition::decode(data) {
        assert_eq!(&position.encode()[..], data);
    }
    let Ok(mut import) = Import::begin(Arc::new(MemEngine::new())) else { panic!("a fresh store takes rows") };
    let mut stream = data;
    while let Some((length, rest)) = stream.split_first_chunk::<2>() {
        let length = usize::from(u16::from_le_bytes(*length)).min(rest.len());
        let (chunk, rest) = rest.split_at(length);
        stream = rest;
        for chunk in [Bytes::copy_from_slice(chunk), mended(chunk)] {
            let (position, before) = (import.position().clone(), import.imported());
            match import.chunk(&chunk) {
                Ok(()) => {
                    assert_ne!(*import.position(), position);
                    assert_eq!(import.imported().bytes, before.bytes + chunk.len() as u64);
                    assert!(import.imported().rows <= import.imported().entries);
                    break;
                }
                Err(error) => {
                    assert!(!error.to_string().is_empty());
                    assert_eq!((import.position(), import.imported()), (&position, before));
                }
            }
        }
    }
}

/// The chunk with its own length and checksum.
fn mended(chunk: &[u8]) -> Bytes {
    let mut bytes = BytesMut::from(chunk);
    if GUARDED <= bytes.len() {
        let length = bytes.len() as u32;
        bytes[4..GUARDED].copy_from_slice(&length.to_le_bytes());
        let checksum = crc32c::crc32c(&bytes[4..]);
        bytes[..4].copy_from_slice(&checksum.to_le_bytes());
    }
    bytes.freeze()
}
