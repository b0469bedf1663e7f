//! The question and the answers as bytes.

use super::aggregate::Aggregate;
use super::filter::Filter;
use super::peers::PeerSet;
use super::tally::Tally;
use crate::addr::Peer;
use crate::wire::{DecodeError, Reader, Writer};
use bytes::Bytes;
use skein_model::HostId;
use std::time::Duration;

/// Tag of [`Message::Partial`].
pub const TAG_PARTIAL: u8 = 0x40;

/// Tag of [`Message::Stray`].
pub const TAG_STRAY: u8 = 0x41;

/// Tag of [`Message::Elsewhere`].
pub const TAG_ELSEWHERE: u8 = 0x42;

/// First byte of a question's payload; another form would have another.
const FORM: u8 = 1;

/// Names a query: the broadcast that carried the question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueryId {
    /// Who asked.
    pub origin: HostId,
    /// In which run of the asker.
    pub incarnation: u64,
    /// Which of its broadcasts in that run.
    pub seq: u32,
}

/// What somebody wants to know of all peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Which peers it is about.
    pub filter: Filter,
    /// What about them.
    pub aggregate: Aggregate,
    /// When the answer is given, whoever has not answered by then; in whole milliseconds, within the bounds of
    /// [`Config`](super::Config).
    pub within: Duration,
}

/// A question as it travels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Who wants the answer, and where those can send theirs who have lost the way they were asked.
    pub asker: Peer,
    /// How many hops the asker divides the time by; see [`Asked::share`].
    pub depth: u8,
    /// What it asks.
    pub question: Question,
}

impl Asked {
    /// How long a peer that many hops away may take, from when it was asked to its answer: less with every hop, so that a parent
    /// still has time to take in what its slowest child says. A step of the time is `within / depth`, and pays for a hop down, a hop
    /// up and what the broadcast needed to repair itself in between. Peers beyond `depth` hops have the last step.
    pub fn share(&self, hops: u8) -> Duration {
        let steps = self.depth.saturating_sub(hops).max(1);
        self.question.within * u32::from(steps) / u32::from(self.depth.max(1))
    }

    /// The broadcast's payload:
    /// `| form: u8 = 1 | asker: peer | depth: u8 | within, ms: varint | filter | aggregate |`
    pub fn encode(&self) -> Bytes {
        let mut writer = Writer::new(FORM, 64);
        writer.peer(self.asker);
        writer.u8(self.depth);
        writer.varint(self.question.within.as_millis() as u64);
        self.question.filter.encode(&mut writer);
        self.question.aggregate.encode(&mut writer);
        writer.finish()
    }

    /// Reads a payload.
    pub fn decode(payload: &Bytes) -> Result<Self, DecodeError> {
        let (form, mut reader) = Reader::new(payload)?;
        if form != FORM {
            return Err(DecodeError::Tag(form));
        }
        let asker = reader.peer("asker")?;
        let depth = reader.u8("depth")?;
        let within = Duration::from_millis(reader.varint("within")?);
        let filter = Filter::decode(&mut reader)?;
        let aggregate = Aggregate::decode(&mut reader)?;
        reader.end()?;
        Ok(Self { asker, depth, question: Question { filter, aggregate, within } })
    }
}

/// What some peers have answered together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partial {
    /// Exactly those whose facts are in the tally.
    pub peers: PeerSet,
    /// Peers that were asked and of whom nothing came. Some of them may yet be counted elsewhere.
    pub lost: PeerSet,
    /// Of the peers.
    pub tally: Tally,
}

impl Partial {
    /// Of nobody.
    pub fn empty(aggregate: &Aggregate) -> Self {
        Self { peers: PeerSet::default(), lost: PeerSet::default(), tally: Tally::empty(aggregate) }
    }

    /// Takes in that of other peers; no peer may be in both.
    pub fn merge(&mut self, other: Partial, aggregate: &Aggregate) {
        self.peers.merge(&other.peers);
        self.lost.merge(&other.lost);
        self.tally.merge(other.tally, aggregate);
    }

    /// `| peers | lost | tally |`
    pub fn encode(&self) -> Bytes {
        // The writer's first byte is a message's tag; here it is the kind of body, of which there is one.
        let mut writer = Writer::new(FORM, 16 + 8 * self.peers.len());
        self.peers.encode(&mut writer);
        self.lost.encode(&mut writer);
        self.tally.encode(&mut writer);
        writer.finish()
    }

    /// Reads a body as an answer to a question with this aggregate.
    pub fn decode(body: &Bytes, aggregate: &Aggregate) -> Result<Self, DecodeError> {
        let (form, mut reader) = Reader::new(body)?;
        if form != FORM {
            return Err(DecodeError::Tag(form));
        }
        let peers = PeerSet::decode(&mut reader)?;
        let lost = PeerSet::decode(&mut reader)?;
        let tally = Tally::decode(&mut reader, aggregate)?;
        reader.end()?;
        Ok(Self { peers, lost, tally })
    }
}

/// What peers send each other about a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// From a child to its parent: all that it and those below it have to say.
    Partial {
        /// About which query.
        id: QueryId,
        /// [`Partial::encode`]; what it means depends on the question.
        body: Bytes,
    },
    /// To the asker itself, from a peer whose parent is gone or has answered already.
    Stray {
        /// About which query.
        id: QueryId,
        /// As above.
        body: Bytes,
    },
    /// To a neighbour that thinks it asked us: another was quicker, and is our parent.
    Elsewhere {
        /// About which query.
        id: QueryId,
    },
}

impl Message {
    /// `| tag: u8 | origin: u64 le | incarnation: varint | seq: varint | body |`; [`Message::Elsewhere`] has no body.
    pub fn encode(&self) -> Bytes {
        let (tag, id, body) = match self {
            Self::Partial { id, body } => (TAG_PARTIAL, id, &body[..]),
            Self::Stray { id, body } => (TAG_STRAY, id, &body[..]),
            Self::Elsewhere { id } => (TAG_ELSEWHERE, id, &[][..]),
        };
        let mut writer = Writer::new(tag, 20 + body.len());
        writer.host(id.origin);
        writer.varint(id.incarnation);
        writer.varint(id.seq.into());
        writer.raw(body);
        writer.finish()
    }

    /// Reads what follows the tag.
    pub fn decode(tag: u8, mut reader: Reader) -> Result<Self, DecodeError> {
        if !matches!(tag, TAG_PARTIAL | TAG_STRAY | TAG_ELSEWHERE) {
            return Err(DecodeError::Tag(tag));
        }
        let (origin, incarnation) = (reader.host("origin")?, reader.varint("incarnation")?);
        let seq = u32::try_from(reader.varint("seq")?).map_err(|_| DecodeError::Range("seq"))?;
        let id = QueryId { origin, incarnation, seq };
        if tag == TAG_ELSEWHERE {
            reader.end()?;
            return Ok(Self::Elsewhere { id });
        }
        let body = reader.rest();
        Ok(if tag == TAG_PARTIAL { Self::Partial { id, body } } else { Self::Stray { id, body } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::aggregate::tests::aggregates;
    use crate::query::filter::tests::filters;
    use crate::query::tests::peer;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_question_reads_back_as_written(filter in filters(), aggregate in aggregates(), ms: u32, depth: u8) {
            let question = Question { filter, aggregate, within: Duration::from_millis(ms.into()) };
            let asked = Asked { asker: peer(3), depth, question };
            prop_assert_eq!(Asked::decode(&asked.encode()), Ok(asked));
        }

        #[test]
        fn a_message_reads_back_as_written(seq: u32, incarnation: u64, body: Vec<u8>, stray: bool) {
            let (id, body) = (QueryId { origin: HostId(5), incarnation, seq }, Bytes::from(body));
            let message = if stray { Message::Stray { id, body } } else { Message::Partial { id, body } };
            for message in [message, Message::Elsewhere { id }] {
                let (tag, reader) = Reader::new(message.encode()).unwrap();
                prop_assert_eq!(Message::decode(tag, reader), Ok(message));
            }
        }

        #[test]
        fn any_bytes_are_a_message_or_an_error(aggregate in aggregates(), bytes in prop::collection::vec(any::<u8>(), 1..80)) {
            let bytes = Bytes::from(bytes);
            let _ = Asked::decode(&bytes);
            let _ = Partial::decode(&bytes, &aggregate);
            let (tag, reader) = Reader::new(&bytes).unwrap();
            let _ = Message::decode(tag, reader);
        }

        #[test]
        fn a_parent_has_more_time_than_its_children(ms in 100_u64..60_000, depth in 1_u8..40, hops in 0_u8..39) {
            let question =
                Question { filter: Filter::All, aggregate: Aggregate::Count, within: Duration::from_millis(ms) };
            let asked = Asked { asker: peer(3), depth, question };
            prop_assert_eq!(asked.share(0), asked.question.within);
            prop_assert!(asked.share(hops + 1) <= asked.share(hops));
            if hops + 1 < depth {
                let step = asked.question.within / u32::from(depth);
                prop_assert!(asked.share(hops) - asked.share(hops + 1) + Duration::from_nanos(2) >= step);
            }
        }
    }
}
