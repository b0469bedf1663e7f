//! What a [`Flock`](crate::Flock) is told and what it asks for.
//!
//! What it expects of the transport: messages between two peers arrive whole, in order and at most once while their
//! connection lasts; a connection is opened when there is something to send; the handshake proves nothing but tells the
//! ID and address of the other end and the version of the wire form. Loss shows as [`Input::Unreachable`], or as nothing at all.

use crate::addr::{Addr, Peer};
use crate::links::Links;
use crate::time::Time;
use crate::wire::{DecodeError, Frame};
use bytes::Bytes;
use rand::Rng;
use skein_model::HostId;

/// Why a peer could not be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unreachable {
    /// It said no at once: nobody listens there.
    Refused,
    /// It said nothing in time.
    TimedOut,
    /// The connection that was there broke or was closed from the other side.
    Lost,
}

/// One message to send. `bytes` begins with the tag; see [`crate::wire`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send over the connection to `to`, and open one if there is none. If that fails: [`Input::Unreachable`].
    Send {
        /// Where to.
        to: Addr,
        /// The message.
        bytes: Frame,
    },
    /// Send what is queued for the address, then close the connection; no [`Input::Unreachable`] follows.
    Close {
        /// Whose connection.
        to: Addr,
    },
    /// Somebody's broadcast arrived, once.
    Deliver {
        /// Who broadcast it.
        origin: HostId,
        /// What.
        payload: Bytes,
        /// How many links it passed.
        hops: u8,
    },
    /// The address book or the passive view changed enough to be written down; see `Flock::remember`.
    Remember,
    /// Something else happened that the owner may want to act on.
    Told(Told),
}

/// News for the owner of the flock. (Parts add their own kinds.)
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Told {
    /// A link is up.
    LinkUp(Peer),
    /// A link is down.
    LinkDown {
        /// To whom.
        peer: Peer,
        /// Why.
        why: Down,
    },
    /// A question of ours is answered, in full or in part.
    Answered(Box<crate::query::Answer>),
    /// Somebody's health is another now.
    Health(crate::health::Changed),
    /// Somebody's facts or a setting changed, or somebody is gone.
    Facts(crate::facts::Event),
}

/// Why a link went down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Down {
    /// Nothing came from the neighbour for too long.
    Silent,
    /// The transport says that the connection broke.
    Lost,
    /// One of the two ends gave it up, for other links or because it leaves.
    Dropped,
}

/// Something that happened; see `Flock::handle`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Input {
    /// The peer starts: it looks for others with what it was given to remember. Once, and first.
    Start,
    /// A whole message arrived from a peer.
    Received {
        /// Who the handshake said it is.
        from: Peer,
        /// The message.
        bytes: Frame,
    },
    /// A peer cannot be reached, or no longer.
    Unreachable {
        /// Where.
        addr: Addr,
        /// Why.
        why: Unreachable,
    },
    /// The moment that `Flock::next_deadline` named has come.
    Deadline,
    /// Tell all peers. At most `broadcast::PAYLOAD_BYTES_MAX` bytes.
    Broadcast {
        /// What.
        payload: Bytes,
    },
    /// Say something about this peer under a key; see [`Facts::publish`](crate::facts::Facts::publish).
    Publish {
        /// Which fact.
        key: String,
        /// What it says.
        value: Bytes,
    },
    /// Say it no more; see [`Facts::retract`](crate::facts::Facts::retract).
    Retract {
        /// Which fact.
        key: String,
    },
    /// The cell's catalog has a setting at a version; see [`Facts::set`](crate::facts::Facts::set).
    Set {
        /// Which setting.
        key: String,
        /// The higher wins.
        version: u64,
        /// What it says; `None` deletes it.
        value: Option<Bytes>,
    },
    /// Ask all peers; the answer comes as [`Told::Answered`]. See [`Queries::ask`](crate::query::Queries::ask).
    Ask {
        /// Comes back with the answer.
        ticket: u64,
        /// What to ask.
        question: crate::query::Question,
    },
    /// The owner could not reach a host, or reached it (again); see [`crate::health`].
    Report {
        /// Which host.
        host: HostId,
        /// Whether it could.
        reach: crate::health::Reach,
    },
    /// Look for peers at these addresses too, from now on.
    Hail {
        /// Where.
        addrs: Vec<Addr>,
    },
    /// Say goodbye to the neighbours and stop; nothing is answered after this.
    Leave,
}

/// Why an input was refused; the state is then as it was, but for the counter of the reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// The bytes are not a message of this version.
    #[error("not a message: {0}")]
    Malformed(#[from] DecodeError),
    /// Only neighbours may send this.
    #[error("{0} is not a neighbour")]
    Stranger(Peer),
    /// The message says what cannot be so; the text says which part.
    #[error("{0}")]
    Implausible(&'static str),
    /// Said before, or too late to matter.
    #[error("said before")]
    Stale,
    /// The sender sends more than its share.
    #[error("more than its share")]
    Flood,
    /// What the owner gave is too large; nothing was sent.
    #[error("{what} has {bytes} bytes, and at most {max} fit")]
    TooLarge {
        /// Which thing.
        what: &'static str,
        /// Its size.
        bytes: usize,
        /// The most there may be.
        max: usize,
    },
    /// There are as many of these as there may be; nothing was sent.
    #[error("there are {max} {what} already, and no more fit")]
    TooMany {
        /// Of which things.
        what: &'static str,
        /// The most there may be.
        max: usize,
    },
}

/// What a step of the flock asks for, in order, and what it needs from outside to decide.
#[derive(Debug, Default)]
pub struct Outbox {
    /// To be done by the owner, in this order.
    pub effects: Vec<Effect>,
}

impl Outbox {
    /// Sends a message.
    pub fn send(&mut self, to: Addr, bytes: impl Into<Frame>) {
        self.effects.push(Effect::Send { to, bytes: bytes.into() });
    }
}

/// What every part of the flock is lent for one step.
pub struct Cx<'a> {
    /// The time of the step.
    pub now: Time,
    /// All its luck.
    pub rng: &'a mut dyn Rng,
    /// Who we are.
    pub me: Peer,
    /// The active view.
    pub links: &'a Links,
    /// Where effects go.
    pub out: &'a mut Outbox,
}
