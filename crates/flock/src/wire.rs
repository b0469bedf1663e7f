//! How messages become bytes and back. Decoding is total: any bytes give a message or a [`DecodeError`], and
//! nothing is allocated that the bytes at hand do not pay for.
//!
//! A message is `| tag: u8 | fields |`; the tag's upper half names the part of the flock it belongs to. Integers
//! are little-endian base-128 varints unless drawn otherwise; the transport frames messages, so a message knows
//! its length from outside. The version of the whole set is [`VERSION`]; the transport's handshake tells it
//! once per connection.

use crate::addr::{Addr, Peer};
use bytes::{Buf, Bytes};
use skein_model::HostId;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Version of the wire form; peers of another version are refused in the handshake.
pub const VERSION: u8 = 1;

/// Longest message taken from or given to the transport, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 256 << 10;

/// Why bytes are not a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes end before the message does.
    #[error("the message ends in the middle of {0}")]
    Short(&'static str),
    /// A value that no sender of this version writes.
    #[error("{0} is out of range")]
    Range(&'static str),
    /// No message of this version has the tag.
    #[error("tag {0:#04x} is unknown")]
    Tag(u8),
    /// Bytes are left over after the message.
    #[error("{0} bytes follow the message")]
    Trailing(usize),
    /// Longer than [`MESSAGE_BYTES_MAX`].
    #[error("{0} bytes are more than a message may have")]
    TooLong(usize),
}

/// Writes the fields of a message after each other.
#[derive(Debug)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// Begins a message with its tag; `room` is a guess at its length.
    pub fn new(tag: u8, room: usize) -> Self {
        let mut bytes = Vec::with_capacity(room.max(1));
        bytes.push(tag);
        Self { bytes }
    }

    /// Begins a part of a message, without a tag.
    pub fn bare(room: usize) -> Self {
        Self { bytes: Vec::with_capacity(room) }
    }

    /// One byte.
    pub fn u8(&mut self, value: u8) {
        self.bytes.push(value);
    }

    /// Base-128 varint, low bits first; one byte up to 127, ten at most.
    pub fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }

    /// Four bytes, little-endian.
    pub fn u32(&mut self, value: u32) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// Eight bytes, little-endian.
    pub fn u64(&mut self, value: u64) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// A host's ID, eight bytes.
    pub fn host(&mut self, id: HostId) {
        self.u64(id.0);
    }

    /// `| 4 or 6: u8 | address: 4 or 16 bytes | port: u16 be |`
    pub fn addr(&mut self, addr: Addr) {
        match addr.ip() {
            IpAddr::V4(ip) => {
                self.u8(4);
                self.raw(&ip.octets());
            }
            IpAddr::V6(ip) => {
                self.u8(6);
                self.raw(&ip.octets());
            }
        }
        self.raw(&addr.port().to_be_bytes());
    }

    /// A peer: its ID, then its address.
    pub fn peer(&mut self, peer: Peer) {
        self.host(peer.id);
        self.addr(peer.addr);
    }

    /// Bytes as they are; the reader has to know how many.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// `| length: varint | bytes |`
    pub fn slice(&mut self, bytes: &[u8]) {
        self.varint(bytes.len() as u64);
        self.raw(bytes);
    }

    /// Length so far, tag included.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing is written; never so of a message, which has at least its tag.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The finished message.
    pub fn finish(self) -> Bytes {
        self.bytes.into()
    }
}

/// Reads the fields of a message one after the other; shares the bytes rather than copy them.
#[derive(Debug)]
pub struct Reader {
    bytes: Bytes,
}

impl Reader {
    /// Splits a message into its tag and a reader of the rest.
    pub fn new(message: &Bytes) -> Result<(u8, Self), DecodeError> {
        if message.len() > MESSAGE_BYTES_MAX {
            return Err(DecodeError::TooLong(message.len()));
        }
        let mut bytes = message.clone();
        let tag = bytes.try_get_u8().map_err(|_| DecodeError::Short("the tag"))?;
        Ok((tag, Self { bytes }))
    }

    /// Reads a part of a message, which has no tag.
    pub fn over(bytes: Bytes) -> Self {
        Self { bytes }
    }

    /// One byte.
    pub fn u8(&mut self, what: &'static str) -> Result<u8, DecodeError> {
        self.bytes.try_get_u8().map_err(|_| DecodeError::Short(what))
    }

    /// A varint; refuses what does not fit in 64 bits.
    pub fn varint(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8(what)?;
            let bits = u64::from(byte & 0x7F);
            if bits << shift >> shift != bits {
                return Err(DecodeError::Range(what));
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(DecodeError::Range(what))
    }

    /// A varint that counts things which take at least `each` bytes apiece in the rest of the message, so that
    /// a lie about the count cannot make us allocate.
    pub fn count(&mut self, each: usize, what: &'static str) -> Result<usize, DecodeError> {
        let count = usize::try_from(self.varint(what)?).map_err(|_| DecodeError::Range(what))?;
        match count.checked_mul(each.max(1)) {
            Some(bytes) if bytes <= self.bytes.len() => Ok(count),
            _ => Err(DecodeError::Short(what)),
        }
    }

    /// Four bytes, little-endian.
    pub fn u32(&mut self, what: &'static str) -> Result<u32, DecodeError> {
        self.bytes.try_get_u32_le().map_err(|_| DecodeError::Short(what))
    }

    /// Eight bytes, little-endian.
    pub fn u64(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        self.bytes.try_get_u64_le().map_err(|_| DecodeError::Short(what))
    }

    /// A host's ID.
    pub fn host(&mut self, what: &'static str) -> Result<HostId, DecodeError> {
        self.u64(what).map(HostId)
    }

    /// An address as [`Writer::addr`] writes it. Port 0 and the unspecified address are out of range: nobody
    /// can be reached there.
    pub fn addr(&mut self, what: &'static str) -> Result<Addr, DecodeError> {
        let ip = match self.u8(what)? {
            4 => IpAddr::V4(Ipv4Addr::from(self.array::<4>(what)?)),
            6 => IpAddr::V6(Ipv6Addr::from(self.array::<16>(what)?)),
            _ => return Err(DecodeError::Range(what)),
        };
        let port = u16::from_be_bytes(self.array::<2>(what)?);
        if port == 0 || ip.is_unspecified() || ip != ip.to_canonical() {
            return Err(DecodeError::Range(what));
        }
        Ok(SocketAddr::new(ip, port).into())
    }

    /// A peer as [`Writer::peer`] writes it.
    pub fn peer(&mut self, what: &'static str) -> Result<Peer, DecodeError> {
        Ok(Peer { id: self.host(what)?, addr: self.addr(what)? })
    }

    /// `N` bytes as they are.
    pub fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], DecodeError> {
        let mut array = [0; N];
        self.bytes.try_copy_to_slice(&mut array).map_err(|_| DecodeError::Short(what))?;
        Ok(array)
    }

    /// As many bytes as told, as they are.
    pub fn bytes(&mut self, length: usize, what: &'static str) -> Result<Bytes, DecodeError> {
        if length > self.bytes.len() {
            return Err(DecodeError::Short(what));
        }
        Ok(self.bytes.split_to(length))
    }

    /// `| length: varint | bytes |`, at most `max` bytes.
    pub fn slice(&mut self, max: usize, what: &'static str) -> Result<Bytes, DecodeError> {
        let length = self.count(1, what)?;
        if length > max {
            return Err(DecodeError::Range(what));
        }
        Ok(self.bytes.split_to(length))
    }

    /// All that is left.
    pub fn rest(self) -> Bytes {
        self.bytes
    }

    /// Bytes left.
    pub fn remaining(&self) -> usize {
        self.bytes.len()
    }

    /// The message has to end here.
    pub fn end(self) -> Result<(), DecodeError> {
        match self.bytes.len() {
            0 => Ok(()),
            left => Err(DecodeError::Trailing(left)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_varint_reads_back_as_written(value: u64) {
            let mut writer = Writer::new(7, 0);
            writer.varint(value);
            let (tag, mut reader) = Reader::new(&writer.finish()).unwrap();
            prop_assert_eq!((tag, reader.varint("value")), (7, Ok(value)));
            prop_assert_eq!(reader.end(), Ok(()));
        }

        #[test]
        fn an_address_reads_back_as_written(ip: u128, v4: u32, short: bool, port in 1_u16..) {
            let ip = if short { IpAddr::V4(v4.into()) } else { IpAddr::V6(ip.into()).to_canonical() };
            prop_assume!(!ip.is_unspecified());
            let addr = Addr::from(SocketAddr::new(ip, port));
            let mut writer = Writer::new(0, 0);
            writer.addr(addr);
            let (_, mut reader) = Reader::new(&writer.finish()).unwrap();
            prop_assert_eq!(reader.addr("address"), Ok(addr));
        }

        #[test]
        fn a_lie_about_a_count_is_refused(count in 4_u64.., rest in 0_usize..4) {
            let mut writer = Writer::new(0, 0);
            writer.varint(count);
            writer.raw(&vec![0; rest]);
            let (_, mut reader) = Reader::new(&writer.finish()).unwrap();
            prop_assert!(reader.count(1, "things").is_err());
        }
    }
}
