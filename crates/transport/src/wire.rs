//! Frames: what travels once both ends agreed to talk. Everything is little-endian.
//!
//! ```text
//! | len: u32, of what follows the checksum | crc32c of that: u32, zero under TLS | kind: u8 | fields | chunk |
//! 1 post     | more: u8 | chunk
//! 2 request  | id: u64 | total: u32 | service: u8 | milliseconds left: u32 | chunk
//! 3 stream   | id: u64 | total: u32 | service: u8 | credit: u32 | chunk
//! 4 part of a caller's body    | id: u64 | chunk
//! 5 reply    | id: u64 | total: u32 | status: u8 | chunk
//! 6 item     | id: u64 | total: u32 | chunk
//! 7 part of a callee's body    | id: u64 | chunk
//! 8 cancel   | id: u64
//! 9 credit   | id: u64 | bytes: u32
//! 10 ping, 11 pong, 12 retire, 13 retired
//! 14 refusal | as in the greeting
//! ```
//!
//! A body longer than [`CHUNK_BYTES_MAX`] comes in parts, with frames of others between them. IDs are the caller's; each end
//! counts its own.

use crate::hello::{TEXT_BYTES_MAX, encode_refusal};
use crate::refusal::Reason;
use bytes::{BufMut, BytesMut};

/// Most bytes of a body in one frame. Such a frame delays others by some 0.3 ms on a gigabit link.
pub const CHUNK_BYTES_MAX: usize = 32 << 10;
/// Largest `len` of a frame.
pub const FRAME_BYTES_MAX: usize = CHUNK_BYTES_MAX + 1024;
/// Bytes before what `len` counts.
pub const HEAD_BYTES: usize = 8;

/// What a reply says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// The body is the answer; ends a stream in good order.
    Done,
    /// The body is an encoded failure.
    Failed,
    /// The request never reached the handler; the body says why.
    NotTaken,
}

/// One frame, in the bytes it was read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // the module's picture tells the fields
pub enum Frame<'a> {
    Post { more: bool, chunk: &'a [u8] },
    Request { id: u64, total: u32, service: u8, millis: u32, chunk: &'a [u8] },
    Stream { id: u64, total: u32, service: u8, credit: u32, chunk: &'a [u8] },
    CallPart { id: u64, chunk: &'a [u8] },
    Reply { id: u64, total: u32, status: Status, chunk: &'a [u8] },
    Item { id: u64, total: u32, chunk: &'a [u8] },
    ReplyPart { id: u64, chunk: &'a [u8] },
    Cancel { id: u64 },
    Credit { id: u64, bytes: u32 },
    Ping,
    Pong,
    Retire,
    Retired,
    Refusal { reason: Reason, text: &'a str },
}

/// Why bytes are not a frame. The connection is of no use after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Zero, or more than there ever are.
    #[error("a frame of {0} bytes; there are 1 to {FRAME_BYTES_MAX}")]
    Length(usize),
    /// Damaged on the way.
    #[error("the checksum of a frame is wrong")]
    Checksum,
    /// Of a kind that this wire version does not have.
    #[error("a frame of unknown kind {0}")]
    Kind(u8),
    /// Fields are missing, left over, or out of range.
    #[error("a frame of kind {0} cannot be read")]
    Malformed(u8),
}

impl<'a> Frame<'a> {
    /// Appends it. Chunks of more than [`CHUNK_BYTES_MAX`] bytes are our own bug.
    pub fn encode(&self, out: &mut BytesMut, checksummed: bool) {
        let start = out.len();
        out.put_u64_le(0);
        let chunk: &[u8] = match *self {
            Frame::Post { more, chunk } => {
                out.put_slice(&[1, u8::from(more)]);
                chunk
            }
            Frame::Request { id, total, service, millis, chunk } => {
                out.put_u8(2);
                out.put_u64_le(id);
                out.put_u32_le(total);
                out.put_u8(service);
                out.put_u32_le(millis);
                chunk
            }
            Frame::Stream { id, total, service, credit, chunk } => {
                out.put_u8(3);
                out.put_u64_le(id);
                out.put_u32_le(total);
                out.put_u8(service);
                out.put_u32_le(credit);
                chunk
            }
            Frame::CallPart { id, chunk } => {
                out.put_u8(4);
                out.put_u64_le(id);
                chunk
            }
            Frame::Reply { id, total, status, chunk } => {
                out.put_u8(5);
                out.put_u64_le(id);
                out.put_u32_le(total);
                out.put_u8(status as u8);
                chunk
            }
            Frame::Item { id, total, chunk } => {
                out.put_u8(6);
                out.put_u64_le(id);
                out.put_u32_le(total);
                chunk
            }
            Frame::ReplyPart { id, chunk } => {
                out.put_u8(7);
                out.put_u64_le(id);
                chunk
            }
            Frame::Cancel { id } => {
                out.put_u8(8);
                out.put_u64_le(id);
                &[]
            }
            Frame::Credit { id, bytes } => {
                out.put_u8(9);
                out.put_u64_le(id);
                out.put_u32_le(bytes);
                &[]
            }
            Frame::Ping => {
                out.put_u8(10);
                &[]
            }
            Frame::Pong => {
                out.put_u8(11);
                &[]
            }
            Frame::Retire => {
                out.put_u8(12);
                &[]
            }
            Frame::Retired => {
                out.put_u8(13);
                &[]
            }
            Frame::Refusal { reason, text } => {
                out.put_u8(14);
                out.put_slice(&encode_refusal(reason, text));
                &[]
            }
        };
        assert!(chunk.len() <= CHUNK_BYTES_MAX, "bodies are cut before they come here");
        out.put_slice(chunk);
        let (head, body) = out[start..].split_at_mut(HEAD_BYTES);
        head[..4].copy_from_slice(&(body.len() as u32).to_le_bytes());
        if checksummed {
            head[4..].copy_from_slice(&crc32c::crc32c(body).to_le_bytes());
        }
    }

    /// The frame that the bytes begin with and how many bytes it takes; `None`: it is not whole yet.
    pub fn decode(bytes: &'a [u8], checksummed: bool) -> Result<Option<(Frame<'a>, usize)>, FrameError> {
        let Some((head, rest)) = bytes.split_first_chunk::<HEAD_BYTES>() else { return Ok(None) };
        let number = u64::from_le_bytes(*head);
        let (len, checksum) = (number as u32 as usize, (number >> 32) as u32);
        if !(1..=FRAME_BYTES_MAX).contains(&len) {
            return Err(FrameError::Length(len));
        }
        let Some(body) = rest.get(..len) else { return Ok(None) };
        if checksummed && crc32c::crc32c(body) != checksum {
            return Err(FrameError::Checksum);
        }
        Ok(Some((Frame::decode_body(body)?, HEAD_BYTES + len)))
    }

    fn decode_body(body: &'a [u8]) -> Result<Frame<'a>, FrameError> {
        let mut fields = Fields { kind: body[0], rest: &body[1..] };
        let frame = match fields.kind {
            1 => Frame::Post { more: fields.flag()?, chunk: fields.chunk()? },
            2 => Frame::Request {
                id: fields.u64()?,
                total: fields.u32()?,
                service: fields.u8()?,
                millis: fields.u32()?,
                chunk: fields.chunk()?,
            },
            3 => Frame::Stream {
                id: fields.u64()?,
                total: fields.u32()?,
                service: fields.u8()?,
                credit: fields.u32()?,
                chunk: fields.chunk()?,
            },
            4 => Frame::CallPart { id: fields.u64()?, chunk: fields.chunk()? },
            5 => {
                let (id, total) = (fields.u64()?, fields.u32()?);
                let status = match fields.u8()? {
                    0 => Status::Done,
                    1 => Status::Failed,
                    2 => Status::NotTaken,
                    _ => return Err(FrameError::Malformed(5)),
                };
                Frame::Reply { id, total, status, chunk: fields.chunk()? }
            }
            6 => Frame::Item { id: fields.u64()?, total: fields.u32()?, chunk: fields.chunk()? },
            7 => Frame::ReplyPart { id: fields.u64()?, chunk: fields.chunk()? },
            8 => Frame::Cancel { id: fields.u64()? },
            9 => Frame::Credit { id: fields.u64()?, bytes: fields.u32()? },
            10 => Frame::Ping,
            11 => Frame::Pong,
            12 => Frame::Retire,
            13 => Frame::Retired,
            14 => {
                let reason = Reason::from_code(fields.u8()?);
                let [low, high] = [fields.u8()?, fields.u8()?];
                let text = std::str::from_utf8(fields.chunk()?).map_err(|_| FrameError::Malformed(14))?;
                if TEXT_BYTES_MAX < text.len() || text.len() != usize::from(u16::from_le_bytes([low, high])) {
                    return Err(FrameError::Malformed(14));
                }
                Frame::Refusal { reason, text }
            }
            kind => return Err(FrameError::Kind(kind)),
        };
        // A first part cannot hold more than the whole, and parts without anything in them would cost nothing to send for ever.
        let sound = match frame {
            Frame::Request { total, chunk, .. }
            | Frame::Stream { total, chunk, .. }
            | Frame::Reply { total, chunk, .. }
            | Frame::Item { total, chunk, .. } => {
                chunk.len() <= total as usize && (!chunk.is_empty() || total == 0)
            }
            Frame::CallPart { chunk, .. } | Frame::ReplyPart { chunk, .. } => !chunk.is_empty(),
            Frame::Post { more, chunk } => !more || !chunk.is_empty(),
            _ => true,
        };
        if sound && fields.rest.is_empty() { Ok(frame) } else { Err(FrameError::Malformed(fields.kind)) }
    }
}

/// Reads fields off the front of a frame's body.
struct Fields<'a> {
    kind: u8,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], FrameError> {
        let (field, rest) = self.rest.split_first_chunk().ok_or(FrameError::Malformed(self.kind))?;
        self.rest = rest;
        Ok(*field)
    }

    fn u8(&mut self) -> Result<u8, FrameError> {
        self.take().map(|[byte]: [u8; 1]| byte)
    }

    fn flag(&mut self) -> Result<bool, FrameError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(FrameError::Malformed(self.kind)),
        }
    }

    fn u32(&mut self) -> Result<u32, FrameError> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, FrameError> {
        self.take().map(u64::from_le_bytes)
    }

    /// The rest.
    fn chunk(&mut self) -> Result<&'a [u8], FrameError> {
        let chunk = std::mem::take(&mut self.rest);
        if chunk.len() <= CHUNK_BYTES_MAX { Ok(chunk) } else { Err(FrameError::Malformed(self.kind)) }
    }
}

/// Any bytes, as the fuzzer brings them: frames that read are written back byte for byte, but for the reason of a refusal.
pub fn fuzz(data: &[u8]) {
    for checksummed in [false, true] {
        let mut stream = data;
        while let Ok(Some((frame, taken))) = Frame::decode(stream, checksummed) {
            let mut again = BytesMut::new();
            frame.encode(&mut again, checksummed);
            if let Frame::Refusal { .. } = frame {
                // A reason that only a later release knows is read as any other.
                let read = Frame::decode(&again, checksummed);
                assert!(matches!(read, Ok(Some((back, _))) if back == frame), "{frame:?} became {read:?}");
            } else if checksummed {
                assert_eq!(again[..], stream[..taken]);
            } else {
                assert_eq!(again[HEAD_BYTES..], stream[HEAD_BYTES..taken]);
            }
            assert!(taken <= HEAD_BYTES + FRAME_BYTES_MAX);
            stream = &stream[taken..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frames() -> Vec<Frame<'static>> {
        let chunk = b"some bytes";
        let total = 1000;
        vec![
            Frame::Post { more: true, chunk },
            Frame::Post { more: false, chunk: b"" },
            Frame::Request { id: 1, total, service: 2, millis: 3, chunk },
            Frame::Stream { id: u64::MAX, total, service: 255, credit: 4, chunk },
            Frame::CallPart { id: 5, chunk },
            Frame::Reply { id: 6, total: 10, status: Status::Done, chunk },
            Frame::Reply { id: 6, total: 0, status: Status::Failed, chunk: b"" },
            Frame::Reply { id: 6, total: 10, status: Status::NotTaken, chunk },
            Frame::Item { id: 7, total: 11, chunk },
            Frame::ReplyPart { id: 8, chunk },
            Frame::Cancel { id: 9 },
            Frame::Credit { id: 10, bytes: 11 },
            Frame::Ping,
            Frame::Pong,
            Frame::Retire,
            Frame::Retired,
            Frame::Refusal { reason: Reason::Duplicate, text: "no" },
        ]
    }

    #[test]
    fn frames_read_as_written_one_after_the_other() {
        for checksummed in [true, false] {
            let mut bytes = BytesMut::new();
            for frame in frames() {
                frame.encode(&mut bytes, checksummed);
            }
            let mut rest = &bytes[..];
            for frame in frames() {
                let (read, taken) = Frame::decode(rest, checksummed).unwrap().unwrap();
                assert_eq!(read, frame);
                rest = &rest[taken..];
            }
            assert!(rest.is_empty());
        }
    }

    #[test]
    fn a_frame_is_awaited_until_it_is_whole() {
        let mut bytes = BytesMut::new();
        Frame::CallPart { id: 1, chunk: &[7; CHUNK_BYTES_MAX] }.encode(&mut bytes, true);
        for end in [0, 1, HEAD_BYTES - 1, HEAD_BYTES, 100, bytes.len() - 1] {
            assert_eq!(Frame::decode(&bytes[..end], true), Ok(None), "{end} bytes");
        }
    }

    #[test]
    fn lengths_are_judged_before_anything_is_awaited() {
        for len in [0, FRAME_BYTES_MAX as u32 + 1, u32::MAX] {
            let head = u64::from(len).to_le_bytes();
            assert_eq!(Frame::decode(&head, true), Err(FrameError::Length(len as usize)));
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        for frame in frames() {
            let mut bytes = BytesMut::new();
            frame.encode(&mut bytes, true);
            for bit in 0..bytes.len() * 8 {
                let mut damaged = bytes.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                assert!(!matches!(Frame::decode(&damaged, true), Ok(Some(_))), "{frame:?}, bit {bit}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(body in proptest::collection::vec(any::<u8>(), 1..100), kind in 0u8..16) {
            fuzz(&body);
            let mut bytes = (body.len() as u64).to_le_bytes().to_vec();
            bytes.extend_from_slice(&body);
            bytes[HEAD_BYTES] = kind;
            fuzz(&bytes);
            let checksum = crc32c::crc32c(&bytes[HEAD_BYTES..]);
            bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
            fuzz(&bytes);
        }
    }
}
