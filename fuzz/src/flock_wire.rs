//! What the parts of a flock read: each reads any bytes, and what it accepts, written again, reads the same and is no
//! longer than what was read.

use bytes::Bytes;
use skein_flock::wire::{DecodeError, Reader};
use skein_flock::{broadcast, facts, membership, query};
use std::fmt::Debug;
use std::str::from_utf8;

/// Checks one reader on one message.
fn message<M: Debug + PartialEq>(
    data: &[u8],
    decode: impl Fn(u8, Reader) -> Result<M, DecodeError>,
    encode: impl Fn(&M) -> Bytes,
) {
    let read = |bytes: &Bytes| Reader::new(bytes).and_then(|(tag, reader)| decode(tag, reader));
    stable(data, read, encode);
}

fn stable<M: Debug + PartialEq>(
    data: &[u8],
    read: impl Fn(&Bytes) -> Result<M, DecodeError>,
    write: impl Fn(&M) -> Bytes,
) -> Option<M> {
    stable_but(data, read, write, M::eq)
}

fn stable_but<M: Debug>(
    data: &[u8],
    read: impl Fn(&Bytes) -> Result<M, DecodeError>,
    write: impl Fn(&M) -> Bytes,
    same: impl Fn(&M, &M) -> bool,
) -> Option<M> {
    match read(&Bytes::copy_from_slice(data)) {
        Ok(value) => {
            let written = write(&value);
            assert!(written.len() <= data.len(), "{value:?} was made up: {written:?}");
            let again = read(&written);
            assert!(again.as_ref().is_ok_and(|again| same(again, &value)), "{value:?} became {again:?}");
            Some(value)
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            None
        }
    }
}

/// Signs of life, joins, walks, shuffles.
pub fn flock_membership(data: &[u8]) {
    use membership::Message::{self, Link, Offer, Return};
    // Contacts may come back in another order: those on the first one's port are written first.
    let sorted = |message: &Message| {
        let mut message = message.clone();
        if let Link { known } | Offer { known } | Return { known } = &mut message {
            known.sort_unstable();
        }
        message
    };
    let read = |bytes: &Bytes| Reader::new(bytes).and_then(|(tag, reader)| Message::decode(tag, reader));
    let same = |left: &Message, right: &Message| sorted(left) == sorted(right);
    stable_but(data, read, |message| message.encode().to_bytes(), same);
}

/// Payloads and what a tree needs besides.
pub fn flock_broadcast(data: &[u8]) {
    message(data, broadcast::Message::decode, |message| message.encode().to_bytes());
}

/// What is compared of facts and settings, and the facts and settings themselves as a broadcast carries them.
pub fn flock_facts(data: &[u8]) {
    message(data, facts::Message::decode, facts::Message::encode);
    stable(data, facts::decode_items, |items| facts::encode_items(items));
}

/// Answers on their way up; behind a first byte of 0 a question, of 1 a question's text, of 2 a question, its
/// length before it, and a partial answer to it.
pub fn flock_query(data: &[u8]) {
    message(data, query::Message::decode, query::Message::encode);
    let Some((kind, rest)) = data.split_first() else { return };
    match kind {
        0 => drop(stable(rest, query::Asked::decode, query::Asked::encode)),
        1 => {
            let Ok(text) = from_utf8(rest) else { return };
            match query::Aggregate::parse_question(text) {
                Ok((aggregate, filter)) => assert!(!format!("{aggregate:?} {filter:?}").is_empty()),
                Err(error) => assert!(!error.to_string().is_empty()),
            }
        }
        2 => {
            let Some((length, rest)) = rest.split_first() else { return };
            let (question, body) = rest.split_at(usize::from(*length).min(rest.len()));
            let Ok(asked) = query::Asked::decode(&Bytes::copy_from_slice(question)) else { return };
            let aggregate = &asked.question.aggregate;
            let read = |body: &Bytes| query::Partial::decode(body, aggregate);
            if let Some(partial) = stable(body, read, query::Partial::encode) {
                let mut merged = query::Partial::empty(aggregate);
                merged.merge(partial.clone(), aggregate);
                assert_eq!(merged.peers, partial.peers, "nothing is added to nobody's answer");
                assert_eq!(merged.lost, partial.lost);
            }
        }
        _ => {}
    }
}
