//! How messages become bytes and back. Decoding is total: any bytes give a message or a [`DecodeError`], and
//! nothing is allocated that the bytes at hand do not pay for.
//!
//! A message is `| tag: u8 | fields |`; the tag's upper half names the part of the flock it belongs to. Integers
//! are little-endian base-128 varints unless drawn otherwise; the transport frames messages, so a message knows
//! its length from outside. The version of the whole set is [`VERSION`]; the transport's handshake tells it
//! once per connection.

use crate::addr::{Addr, Peer};
use bytes::Bytes;
use skein_model::HostId;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;

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

/// Most bytes that a [`Frame`] keeps in itself: nearly every message but payloads and long lists.
pub const HEAD_BYTES_MAX: usize = 31;

/// A message as the transport sees it: bytes, in two parts that follow each other. The head lies in the frame itself,
/// the body is shared with whoever else holds it. So a payload on its way through many hands is never copied,
/// and a short message takes no memory of its own.
#[derive(Clone, Default)]
pub struct Frame {
    length: u8,
    head: [u8; HEAD_BYTES_MAX],
    body: Option<Arc<Bytes>>,
}

impl Frame {
    /// How many bytes.
    pub fn len(&self) -> usize {
        usize::from(self.length) + self.body().len()
    }

    /// Whether there is not even a tag.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What lies in the frame itself.
    pub fn head(&self) -> &[u8] {
        &self.head[..usize::from(self.length)]
    }

    /// What follows the head.
    pub fn body(&self) -> &[u8] {
        self.body.as_deref().map_or(&[], |body| body)
    }

    /// The byte at this place.
    pub fn get(&self, at: usize) -> Option<u8> {
        let head = self.head();
        head.get(at).or_else(|| self.body().get(at - head.len())).copied()
    }

    /// Both parts in one piece; copied unless one of them is empty.
    pub fn to_bytes(&self) -> Bytes {
        match &self.body {
            None => Bytes::copy_from_slice(self.head()),
            Some(body) if self.length == 0 => Bytes::clone(body),
            Some(body) => [self.head(), body].concat().into(),
        }
    }
}

impl PartialEq for Frame {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len()
            && self.head().iter().chain(self.body()).eq(other.head().iter().chain(other.body()))
    }
}

impl Eq for Frame {}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_bytes().fmt(f)
    }
}

impl From<Bytes> for Frame {
    fn from(bytes: Bytes) -> Self {
        if bytes.len() > HEAD_BYTES_MAX {
            return Self { body: Some(Arc::new(bytes)), ..Self::default() };
        }
        let mut frame = Self { length: bytes.len() as u8, ..Self::default() };
        frame.head[..bytes.len()].copy_from_slice(&bytes);
        frame
    }
}

impl From<&Bytes> for Frame {
    fn from(bytes: &Bytes) -> Self {
        bytes.clone().into()
    }
}

impl From<&Frame> for Frame {
    fn from(frame: &Frame) -> Self {
        frame.clone()
    }
}

/// Writes the fields of a message after each other.
#[derive(Debug)]
pub struct Writer {
    /// All that is written, while it is short.
    head: Frame,
    /// All that is written, when it is longer.
    long: Vec<u8>,
}

impl Writer {
    /// Begins a message with its tag; `room` is a guess at its length.
    pub fn new(tag: u8, room: usize) -> Self {
        let mut writer = Self::bare(room);
        writer.u8(tag);
        writer
    }

    /// Begins a part of a message, without a tag.
    pub fn bare(room: usize) -> Self {
        let long = if room > HEAD_BYTES_MAX { Vec::with_capacity(room) } else { Vec::new() };
        Self { head: Frame::default(), long }
    }

    /// One byte.
    pub fn u8(&mut self, value: u8) {
        self.raw(&[value]);
    }

    /// Base-128 varint, low bits first; one byte up to 127, ten at most.
    pub fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.u8(value as u8);
    }

    /// Four bytes, little-endian.
    pub fn u32(&mut self, value: u32) {
        self.raw(&value.to_le_bytes());
    }

    /// Eight bytes, little-endian.
    pub fn u64(&mut self, value: u64) {
        self.raw(&value.to_le_bytes());
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
        let from = usize::from(self.head.length);
        if self.long.is_empty()
            && let Some(room) = self.head.head.get_mut(from..from + bytes.len())
        {
            room.copy_from_slice(bytes);
            self.head.length += bytes.len() as u8;
            return;
        }
        if self.long.is_empty() {
            self.long.extend_from_slice(self.head.head());
        }
        self.long.extend_from_slice(bytes);
    }

    /// `| length: varint | bytes |`
    pub fn slice(&mut self, bytes: &[u8]) {
        self.varint(bytes.len() as u64);
        self.raw(bytes);
    }

    /// Length so far, tag included.
    pub fn len(&self) -> usize {
        if self.long.is_empty() { usize::from(self.head.length) } else { self.long.len() }
    }

    /// Whether nothing is written; never so of a message, which has at least its tag.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What is written, in one piece.
    pub fn finish(self) -> Bytes {
        if self.long.is_empty() { Bytes::copy_from_slice(self.head.head()) } else { self.long.into() }
    }

    /// The finished message.
    pub fn frame(self) -> Frame {
        if self.long.is_empty() { self.head } else { Bytes::from(self.long).into() }
    }

    /// The finished message, followed by a body that is shared.
    pub fn frame_with(self, body: &Arc<Bytes>) -> Frame {
        let mut frame = self.frame();
        match frame.body {
            None => frame.body = Some(Arc::clone(body)),
            Some(long) => frame = Bytes::from([&long[..], body].concat()).into(),
        }
        frame
    }
}

/// Reads the fields of a message one after the other; shares the bytes rather than copy them.
#[derive(Debug)]
pub struct Reader {
    frame: Frame,
    /// How much of it has been read.
    at: usize,
}

impl Reader {
    /// Splits a message into its tag and a reader of the rest.
    pub fn new(message: impl Into<Frame>) -> Result<(u8, Self), DecodeError> {
        let frame = message.into();
        if frame.len() > MESSAGE_BYTES_MAX {
            return Err(DecodeError::TooLong(frame.len()));
        }
        let mut reader = Self { frame, at: 0 };
        let tag = reader.u8("the tag")?;
        Ok((tag, reader))
    }

    /// Reads a part of a message, which has no tag.
    pub fn over(bytes: Bytes) -> Self {
        Self { frame: bytes.into(), at: 0 }
    }

    /// One byte.
    pub fn u8(&mut self, what: &'static str) -> Result<u8, DecodeError> {
        let byte = self.frame.get(self.at).ok_or(DecodeError::Short(what))?;
        self.at += 1;
        Ok(byte)
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
            Some(bytes) if bytes <= self.remaining() => Ok(count),
            _ => Err(DecodeError::Short(what)),
        }
    }

    /// Four bytes, little-endian.
    pub fn u32(&mut self, what: &'static str) -> Result<u32, DecodeError> {
        self.array(what).map(u32::from_le_bytes)
    }

    /// Eight bytes, little-endian.
    pub fn u64(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        self.array(what).map(u64::from_le_bytes)
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
        let (head, mut array) = (self.frame.head(), [0; N]);
        if let Some(whole) = head.get(self.at..self.at + N) {
            array.copy_from_slice(whole);
        } else {
            let first = head.get(self.at..).unwrap_or_default();
            let from = self.at.saturating_sub(head.len());
            let second = self.frame.body().get(from..from + N - first.len());
            array[..first.len()].copy_from_slice(first);
            array[first.len()..].copy_from_slice(second.ok_or(DecodeError::Short(what))?);
        }
        self.at += N;
        Ok(array)
    }

    /// As many bytes as told, as they are.
    pub fn bytes(&mut self, length: usize, what: &'static str) -> Result<Bytes, DecodeError> {
        if length > self.remaining() {
            return Err(DecodeError::Short(what));
        }
        let bytes = self.part(self.at..self.at + length);
        self.at += length;
        Ok(bytes)
    }

    /// `| length: varint | bytes |`, at most `max` bytes.
    pub fn slice(&mut self, max: usize, what: &'static str) -> Result<Bytes, DecodeError> {
        let length = self.count(1, what)?;
        if length > max {
            return Err(DecodeError::Range(what));
        }
        self.bytes(length, what)
    }

    /// All that is left.
    pub fn rest(self) -> Bytes {
        self.part(self.at..self.frame.len())
    }

    /// All that is left, which can still be read; the sender's own memory where the sender shares it.
    pub fn tail(&self) -> Arc<Bytes> {
        match &self.frame.body {
            Some(body) if self.at == usize::from(self.frame.length) => Arc::clone(body),
            _ => Arc::new(self.part(self.at..self.frame.len())),
        }
    }

    /// Bytes left.
    pub fn remaining(&self) -> usize {
        self.frame.len() - self.at
    }

    /// These bytes of the message, which are there; shared where they lie in one piece of the body.
    fn part(&self, range: Range<usize>) -> Bytes {
        let head = self.frame.head();
        match &self.frame.body {
            Some(body) if head.len() <= range.start => {
                body.slice(range.start - head.len()..range.end - head.len())
            }
            _ if range.end <= head.len() => Bytes::copy_from_slice(&head[range]),
            _ => self.frame.to_bytes().slice(range),
        }
    }

    /// The message has to end here.
    pub fn end(self) -> Result<(), DecodeError> {
        match self.remaining() {
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
            let (tag, mut reader) = Reader::new(writer.finish()).unwrap();
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
            let (_, mut reader) = Reader::new(writer.finish()).unwrap();
            prop_assert_eq!(reader.addr("address"), Ok(addr));
        }

        #[test]
        fn a_message_in_two_parts_reads_like_one_in_one_part(
            head in prop::collection::vec(any::<u8>(), 1..40),
            body in prop::collection::vec(any::<u8>(), 0..40),
            reads in prop::collection::vec((0_u8..7, 0_usize..9), 0..20),
        ) {
            let whole = Bytes::from([&head[..], &body].concat());
            let mut writer = Writer::new(head[0], 0);
            writer.raw(&head[1..]);
            let split = writer.frame_with(&Arc::new(body.into()));
            prop_assert_eq!((split.len(), split.to_bytes()), (whole.len(), whole.clone()));
            prop_assert_eq!(&split, &Frame::from(&whole));
            let (mut one, mut two) = (Reader::over(whole), Reader { frame: split, at: 0 });
            for (kind, length) in reads {
                match kind {
                    0 => prop_assert_eq!(one.u8("it"), two.u8("it")),
                    1 => prop_assert_eq!(one.u32("it"), two.u32("it")),
                    2 => prop_assert_eq!(one.u64("it"), two.u64("it")),
                    3 => prop_assert_eq!(one.array::<3>("it"), two.array::<3>("it")),
                    4 => prop_assert_eq!(one.bytes(length, "it"), two.bytes(length, "it")),
                    5 => prop_assert_eq!(one.tail(), two.tail()),
                    _ => prop_assert_eq!(one.varint("it"), two.varint("it")),
                }
                // What was refused may have been read in part, but equally far.
                prop_assert_eq!(one.remaining(), two.remaining());
            }
            prop_assert_eq!(one.rest(), two.rest());
        }

        #[test]
        fn a_lie_about_a_count_is_refused(count in 4_u64.., rest in 0_usize..4) {
            let mut writer = Writer::new(0, 0);
            writer.varint(count);
            writer.raw(&vec![0; rest]);
            let (_, mut reader) = Reader::new(writer.finish()).unwrap();
            prop_assert!(reader.count(1, "things").is_err());
        }
    }
}
