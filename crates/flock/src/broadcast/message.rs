//! What peers say to each other about broadcasts, and how it is written.

use super::{Channel, MessageId, PAYLOAD_BYTES_MAX};
use crate::wire::{DecodeError, Frame, Reader, Writer};
use bytes::Bytes;
use skein_model::HostId;
use std::sync::Arc;

/// Most peers a message can name as the last it passed; see [`Keying::LastPeers`](super::Keying::LastPeers).
pub const PATH_MAX: usize = 4;

/// Most messages one [`Message::Recent`] may speak of.
pub const RECENT_MAX: usize = 4096;

/// A message's name in announcements: five bytes or so in place of the seventeen of a [`MessageId`].
///
/// The tag is a hash of origin and incarnation. Two origins that share one (one chance in 2³² a pair) lose some of
/// each other's announcements, never a payload that is pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Short {
    /// Hash of origin and incarnation; see [`MessageId::tag`].
    pub tag: u32,
    /// Which broadcast of that run of the origin; from 1.
    pub seq: u32,
}

/// "I have this message; ask me."
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Have {
    /// Which.
    pub short: Short,
    /// How long the announcement waited for company, in milliseconds, 255 for longer: so that the receiver knows when
    /// the payload would have come had it been pushed.
    pub held: u8,
}

/// Broadcasts of one origin that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first of them.
    pub first: Short,
    /// How many come after the first; below [`RECENT_MAX`].
    pub more: u32,
}

/// What stays the same of a broadcast from hop to hop, as it is written: whoever holds it shares it with all others
/// of the process who do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Body {
    /// `| origin: u64 | incarnation | seq | hash of a peer: u32, oldest first | × path | payload |`
    pub bytes: Arc<Bytes>,
    /// Where the hashes begin.
    pub path_at: u8,
}

impl Body {
    fn new(id: MessageId, parts: [&[u8]; 2]) -> Self {
        let mut writer = Writer::bare(24 + parts[0].len() + parts[1].len());
        writer.host(id.origin);
        writer.varint(id.incarnation);
        writer.varint(u64::from(id.seq));
        let path_at = writer.len() as u8; // 24 at most
        parts.iter().for_each(|part| writer.raw(part));
        Self { bytes: Arc::new(writer.finish()), path_at }
    }

    /// All of it that `reader` has left, and what it is about.
    fn read(mut reader: Reader) -> Result<(Self, MessageId), DecodeError> {
        let (bytes, before) = (reader.tail(), reader.remaining());
        let id = read_id(&mut reader)?;
        Ok((Self { bytes, path_at: (before - reader.remaining()) as u8 }, id))
    }

    /// The run of the origin that it is of.
    pub fn run(&self) -> (HostId, u64) {
        let id = read_id(&mut Reader::over(Bytes::clone(&self.bytes)));
        // Nobody has a body that was not written or read before.
        id.map_or((HostId(0), 0), |id| (id.origin, id.incarnation))
    }

    fn after_id(&self) -> usize {
        usize::from(self.path_at)
    }
}

/// A broadcast under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gossip {
    /// Which.
    pub id: MessageId,
    /// Whom it is for.
    pub channel: Channel,
    /// Links passed, the one it came by included; 255 for more.
    pub hops: u8,
    /// How many hashes of last peers stand in front of the payload; at most [`PATH_MAX`].
    pub path: u8,
    pub(super) body: Body,
}

impl Gossip {
    /// A broadcast that has passed no link.
    pub fn new(id: MessageId, channel: Channel, payload: &[u8]) -> Self {
        Self { id, channel, hops: 0, path: 0, body: Body::new(id, [&[], payload]) }
    }

    /// The same with other hashes of last peers, four bytes each and [`PATH_MAX`] at most.
    pub fn by_path(&self, path: &[u8]) -> Self {
        let body = Body::new(self.id, [path, &self.payload()]);
        Self { path: (path.len() / 4) as u8, body, ..*self }
    }

    /// What the origin wants told.
    pub fn payload(&self) -> Bytes {
        self.body.bytes.slice(self.body.after_id() + 4 * usize::from(self.path)..)
    }

    /// The hashes of the last peers that it passed: four bytes each, oldest first.
    pub fn passed(&self) -> &[u8] {
        &self.body.bytes[self.body.after_id()..][..4 * usize::from(self.path)]
    }

    /// The bytes for the transport: a [`Message::Gossip`], or a [`Message::Supply`].
    pub fn encode(&self, supply: bool) -> Frame {
        let mut writer = Writer::new(FIRST_TAG + u8::from(supply), 3);
        writer.u8(self.channel as u8 | self.path << 4);
        writer.u8(self.hops);
        writer.frame_with(&self.body.bytes)
    }
}

/// A message of the broadcast part; tags 0x20 to 0x2F. Sources: Leitão, Pereira, Rodrigues, "Epidemic Broadcast
/// Trees" (SRDS 2007) for GOSSIP, IHAVE, GRAFT and PRUNE; the others are ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// `0x20 | channel + 16 × path: u8 | hops: u8 | origin: u64 | incarnation | seq | body |`: a payload, pushed
    /// along the tree or sent to the peer that grafted.
    Gossip(Gossip),
    /// `0x21`, same fields: a payload sent to a peer that pulled, outside of any tree.
    Supply(Gossip),
    /// `0x22 (| tag: u32 | seq | held: u8 |)+`: the sender has these.
    Have(Vec<Have>),
    /// `0x23 (| tag: u32 | seq |)+`: the sender has these or will have them soon; whoever does not know the origin asks
    /// the first that says so and tells it on at once. See [`Start::Scout`](super::Start::Scout).
    Scout(Vec<Short>),
    /// `0x24 (| tag: u32 | seq |)+`: send me these, and what follows of their origins.
    Graft(Vec<Short>),
    /// `0x25 (| tag: u32 | seq |)+`: send me these.
    Pull(Vec<Short>),
    /// `0x26 | tag: u32 | seq |`: I had this already; push me nothing more of its origin.
    Prune(Short),
    /// `0x27 | tag: u32 |`: push me what follows of this origin; your way to it is shorter.
    Adopt(u32),
    /// `0x28 | tag: u32 |`: push me nothing more of this origin; I found a shorter way.
    Release(u32),
    /// `0x29 (| tag: u32 | first | more |)+`: what the sender still holds, told once to a new neighbour.
    Recent(Vec<Span>),
}

/// How many kinds of message there are; see [`Message::kind`].
pub const KINDS: usize = 10;

const FIRST_TAG: u8 = 0x20;

impl Message {
    /// Its place among the [`KINDS`], the order of the variants.
    pub fn kind(&self) -> usize {
        match self {
            Self::Gossip(_) => 0,
            Self::Supply(_) => 1,
            Self::Have(_) => 2,
            Self::Scout(_) => 3,
            Self::Graft(_) => 4,
            Self::Pull(_) => 5,
            Self::Prune(_) => 6,
            Self::Adopt(_) => 7,
            Self::Release(_) => 8,
            Self::Recent(_) => 9,
        }
    }

    /// The bytes for the transport.
    pub fn encode(&self) -> Frame {
        let tag = FIRST_TAG + self.kind() as u8;
        let mut writer = Writer::new(tag, 12);
        match self {
            Self::Gossip(gossip) => return gossip.encode(false),
            Self::Supply(gossip) => return gossip.encode(true),
            Self::Have(list) => list.iter().for_each(|have| {
                write_short(&mut writer, have.short);
                writer.u8(have.held);
            }),
            Self::Scout(list) | Self::Graft(list) | Self::Pull(list) => {
                list.iter().for_each(|short| write_short(&mut writer, *short));
            }
            Self::Prune(short) => write_short(&mut writer, *short),
            Self::Adopt(tag) | Self::Release(tag) => writer.u32(*tag),
            Self::Recent(spans) => spans.iter().for_each(|span| {
                write_short(&mut writer, span.first);
                writer.varint(u64::from(span.more));
            }),
        }
        writer.frame()
    }

    /// The message with this tag whose fields `reader` holds.
    pub fn decode(tag: u8, mut reader: Reader) -> Result<Self, DecodeError> {
        let message = match tag {
            0x20 => return Ok(Self::Gossip(read_gossip(reader)?)),
            0x21 => return Ok(Self::Supply(read_gossip(reader)?)),
            0x22 => Self::Have(list(&mut reader, |reader| {
                Ok(Have { short: read_short(reader)?, held: reader.u8("how long it waited")? })
            })?),
            0x23 => Self::Scout(list(&mut reader, read_short)?),
            0x24 => Self::Graft(list(&mut reader, read_short)?),
            0x25 => Self::Pull(list(&mut reader, read_short)?),
            0x26 => Self::Prune(read_short(&mut reader)?),
            0x27 => Self::Adopt(reader.u32("the tag of an origin")?),
            0x28 => Self::Release(reader.u32("the tag of an origin")?),
            0x29 => Self::Recent(spans(&mut reader)?),
            _ => return Err(DecodeError::Tag(tag)),
        };
        reader.end()?;
        Ok(message)
    }
}

fn write_short(writer: &mut Writer, short: Short) {
    writer.u32(short.tag);
    writer.varint(u64::from(short.seq));
}

fn read_short(reader: &mut Reader) -> Result<Short, DecodeError> {
    Ok(Short { tag: reader.u32("the tag of an origin")?, seq: read_seq(reader)? })
}

fn read_seq(reader: &mut Reader) -> Result<u32, DecodeError> {
    match u32::try_from(reader.varint("the number of a broadcast")?) {
        Ok(seq) if seq != 0 => Ok(seq),
        _ => Err(DecodeError::Range("the number of a broadcast")),
    }
}

/// One or more of the same until the message ends; each takes five bytes at least, so bytes pay for what is allocated.
fn list<T>(
    reader: &mut Reader,
    mut one: impl FnMut(&mut Reader) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    let mut all = Vec::with_capacity(1 + reader.remaining() / 16);
    all.push(one(reader)?);
    while reader.remaining() != 0 {
        all.push(one(reader)?);
    }
    Ok(all)
}

fn spans(reader: &mut Reader) -> Result<Vec<Span>, DecodeError> {
    let mut left = RECENT_MAX as u64;
    list(reader, |reader| {
        let first = read_short(reader)?;
        let more = reader.varint("how many follow")?;
        left = match left.checked_sub(more.saturating_add(1)) {
            Some(left) => left,
            None => return Err(DecodeError::Range("how many follow")),
        };
        let more = more as u32; // below RECENT_MAX, as just seen
        if first.seq.checked_add(more).is_none() {
            return Err(DecodeError::Range("how many follow"));
        }
        Ok(Span { first, more })
    })
}

fn read_gossip(mut reader: Reader) -> Result<Gossip, DecodeError> {
    let head = reader.u8("the channel")?;
    let channel = Channel::from_u8(head & 0x0F).ok_or(DecodeError::Range("the channel"))?;
    let path = head >> 4;
    if usize::from(path) > PATH_MAX {
        return Err(DecodeError::Range("the path"));
    }
    let hops = reader.u8("the hops")?;
    if hops == 0 {
        return Err(DecodeError::Range("the hops"));
    }
    let (body, id) = Body::read(reader)?;
    match (body.bytes.len() - body.after_id()).checked_sub(4 * usize::from(path)) {
        None => return Err(DecodeError::Short("the path")),
        Some(payload) if payload > PAYLOAD_BYTES_MAX => return Err(DecodeError::Range("the payload")),
        Some(_) => {}
    }
    Ok(Gossip { id, channel, hops, path, body })
}

fn read_id(reader: &mut Reader) -> Result<MessageId, DecodeError> {
    let origin = reader.host("the origin")?;
    let incarnation = reader.varint("the incarnation")?;
    Ok(MessageId { origin, incarnation, seq: read_seq(reader)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn short() -> impl Strategy<Value = Short> {
        (any::<u32>(), 1_u32..).prop_map(|(tag, seq)| Short { tag, seq })
    }

    fn gossip() -> impl Strategy<Value = Gossip> {
        let id = (any::<u64>(), any::<u64>(), 1_u32..).prop_map(|(origin, incarnation, seq)| MessageId {
            origin: HostId(origin),
            incarnation,
            seq,
        });
        (id, 0_u8..4, 1_u8.., 0_usize..=4, prop::collection::vec(any::<u8>(), 16..64)).prop_map(
            |(id, channel, hops, path, body)| {
                let gossip = Gossip::new(id, Channel::from_u8(channel).unwrap(), &body[16..]);
                Gossip { hops, ..gossip.by_path(&body[..4 * path]) }
            },
        )
    }

    fn message() -> impl Strategy<Value = Message> {
        let shorts = || prop::collection::vec(short(), 1..9);
        let span = (1_u32..1 << 30, any::<u32>(), 0_u32..400)
            .prop_map(|(seq, tag, more)| Span { first: Short { tag, seq }, more });
        let have = (short(), any::<u8>()).prop_map(|(short, held)| Have { short, held });
        prop_oneof![
            gossip().prop_map(Message::Gossip),
            gossip().prop_map(Message::Supply),
            prop::collection::vec(have, 1..9).prop_map(Message::Have),
            shorts().prop_map(Message::Scout),
            shorts().prop_map(Message::Graft),
            shorts().prop_map(Message::Pull),
            short().prop_map(Message::Prune),
            any::<u32>().prop_map(Message::Adopt),
            any::<u32>().prop_map(Message::Release),
            prop::collection::vec(span, 1..9).prop_map(Message::Recent),
        ]
    }

    proptest! {
        #[test]
        fn a_message_reads_back_as_written(message in message()) {
            let (tag, reader) = Reader::new(message.encode()).unwrap();
            prop_assert_eq!(Message::decode(tag, reader), Ok(message));
        }

        #[test]
        fn any_bytes_are_a_message_or_an_error(
            tag in 0x1E_u8..0x2C, rest in prop::collection::vec(any::<u8>(), 0..80),
        ) {
            let bytes = Bytes::from([&[tag][..], &rest].concat());
            let (tag, reader) = Reader::new(&bytes).unwrap();
            if let Ok(message) = Message::decode(tag, reader) {
                let again = message.encode();
                let (tag, reader) = Reader::new(&again).unwrap();
                prop_assert_eq!(Message::decode(tag, reader), Ok(message));
            }
        }
    }

    fn refused(bytes: &'static [u8]) -> DecodeError {
        let (tag, reader) = Reader::new(Bytes::from_static(bytes)).unwrap();
        Message::decode(tag, reader).unwrap_err()
    }

    #[test]
    fn a_list_of_nothing_a_zeroth_broadcast_and_a_span_without_end_are_refused() {
        assert_eq!(refused(&[0x22]), DecodeError::Short("the tag of an origin"));
        assert_eq!(refused(&[0x23, 1, 2, 3, 4, 0]), DecodeError::Range("the number of a broadcast"));
        assert_eq!(refused(&[0x29, 1, 2, 3, 4, 1, 0xFF, 0x7F]), DecodeError::Range("how many follow"));
        assert_eq!(refused(&[0x26, 1, 2, 3, 4, 1, 9]), DecodeError::Trailing(1));
    }

    #[test]
    fn a_payload_beyond_the_limit_is_refused() {
        let id = MessageId { origin: HostId(1), incarnation: 1, seq: 1 };
        let gossip = |bytes: usize| {
            let gossip = Gossip { hops: 1, ..Gossip::new(id, Channel::App, &vec![0; bytes]) };
            let (tag, reader) = Reader::new(gossip.encode(false)).unwrap();
            Message::decode(tag, reader)
        };
        assert!(gossip(PAYLOAD_BYTES_MAX).is_ok());
        assert_eq!(gossip(PAYLOAD_BYTES_MAX + 1), Err(DecodeError::Range("the payload")));
    }
}
