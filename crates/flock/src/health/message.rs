//! What peers tell each other about health, as the payload of a broadcast.

use crate::wire::{DecodeError, Reader, Writer};
use bytes::Bytes;
use skein_model::HostId;
use std::time::Duration;

/// Most items in one payload.
pub const ITEMS_MAX: usize = 32;

/// First byte of the payload; another form would have another.
const FORM: u8 = 1;

/// Ages are told in steps of this.
const AGE_STEP: Duration = Duration::from_millis(100);

/// Orders the refutations of a peer, across its restarts; lower ones and accusations under them are void.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Number {
    /// The run of the peer.
    pub incarnation: u64,
    /// Which refutation of that run; 0 before the first.
    pub counter: u32,
}

/// What is said about a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Notice {
    /// The sender cannot reach it.
    Accused,
    /// The sender can reach it again.
    Withdrawn,
    /// It is the sender itself, and lives.
    Refuted,
}

/// One thing said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Item {
    /// About whom.
    pub host: HostId,
    /// What.
    pub notice: Notice,
    /// Of the host's last refutation that the sender heard; of this one, when it is one.
    pub number: Number,
    /// How long ago the sender saw it, when it said so; told in steps of 100 ms.
    pub age: Duration,
}

/// `| form: u8 = 1 | count: varint | (notice: u8 | host: u64 le | incarnation: varint | counter: varint | age: varint) each |`
pub fn encode(items: &[Item]) -> Bytes {
    let mut writer = Writer::new(FORM, 2 + 16 * items.len());
    writer.varint(items.len() as u64);
    for item in items {
        writer.u8(item.notice as u8);
        writer.host(item.host);
        writer.varint(item.number.incarnation);
        writer.varint(item.number.counter.into());
        writer.varint((item.age.as_millis() / AGE_STEP.as_millis()) as u64);
    }
    writer.finish()
}

/// Reads a payload.
pub fn decode(payload: &Bytes) -> Result<Vec<Item>, DecodeError> {
    let (form, mut reader) = Reader::new(payload)?;
    if form != FORM {
        return Err(DecodeError::Tag(form));
    }
    let count = reader.count(12, "items")?;
    if count > ITEMS_MAX {
        return Err(DecodeError::Range("items"));
    }
    let mut items = Vec::with_capacity(count);
    for _ in 0..count {
        let notice = match reader.u8("notice")? {
            0 => Notice::Accused,
            1 => Notice::Withdrawn,
            2 => Notice::Refuted,
            _ => return Err(DecodeError::Range("notice")),
        };
        let host = reader.host("host")?;
        let incarnation = reader.varint("incarnation")?;
        let counter = u32::try_from(reader.varint("counter")?).map_err(|_| DecodeError::Range("counter"))?;
        let steps = u32::try_from(reader.varint("age")?).map_err(|_| DecodeError::Range("age"))?;
        items.push(Item { host, notice, number: Number { incarnation, counter }, age: AGE_STEP * steps });
    }
    reader.end()?;
    Ok(items)
}
