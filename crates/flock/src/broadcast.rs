//! Broadcasts: Plumtree with a tree per origin.
//!
//! Every peer has a place in the tree of every origin it lately heard of: a parent link that brings the origin's messages
//! and child links to push them along. All other links carry short announcements, gathered for some milliseconds. From these
//! a peer learns that its parent failed it, and grafts itself to an announcer; that another link would have been clearly
//! quicker, and turns to it; and, when a link comes up, what the two sides missed of each other. A payload that comes
//! twice prunes the link it came by.
//!
//! An origin without a tree (it is new, it restarted, or too many others spoke since) starts from no flood, but from scouts; see
//! [`Start::Scout`]. Trees are directed and never shared, so one origin's slow leaf is not another's trunk.
//!
//! Sources: Leitão, Pereira, Rodrigues, "Epidemic Broadcast Trees" (SRDS 2007), sections 3.3 to 3.8, for push, lazy
//! push, graft and prune. Ours: trees by origin, scouts, parents chosen by time instead of hops, windows, spans.

mod cache;
mod config;
mod message;
mod receive;
mod seen;
mod trees;
mod wanted;

pub use config::{Config, Keying, Start};
pub use message::{Gossip, Have, KINDS, Message, PATH_MAX, RECENT_MAX, Short, Span};
pub use seen::{LEAP_MAX, WINDOW};

use crate::io::{Cx, Refused};
use crate::links::{Link, LinkSet};
use crate::time::Time;
use crate::wire::{Frame, Reader};
use bytes::Bytes;
use cache::Cache;
use seen::Seen;
use skein_model::HostId;
use std::collections::VecDeque;
use std::sync::Arc;
use trees::Trees;
use wanted::{Want, Wanted};

/// Longest payload of a broadcast, in bytes. Rows never travel by gossip; what does should fit a few packets.
pub const PAYLOAD_BYTES_MAX: usize = 64 << 10;

/// Announcements are sent before [`Config::announce_after`] when as many as this wait.
const ANNOUNCE_COUNT_MAX: usize = 256;

/// Which part of the flock a broadcast is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Channel {
    /// The owner of the flock.
    App = 0,
    /// [`crate::facts`].
    Facts = 1,
    /// [`crate::query`].
    Query = 2,
    /// [`crate::health`].
    Health = 3,
}

impl Channel {
    /// The channel with this number.
    pub fn from_u8(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::App,
            1 => Self::Facts,
            2 => Self::Query,
            3 => Self::Health,
            _ => return None,
        })
    }
}

/// A broadcast's name, never used twice: a restarted origin counts anew, in a greater incarnation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId {
    /// Who broadcast it.
    pub origin: HostId,
    /// In which run of the origin.
    pub incarnation: u64,
    /// Which one of that run; from 1.
    pub seq: u32,
}

impl MessageId {
    /// Hash of origin and incarnation that stands for both in announcements.
    pub fn tag(self) -> u32 {
        let mixed = mix(self.origin.0 ^ mix(self.incarnation));
        (mixed >> 32) as u32
    }
}

/// Spreads every bit over all (the finaliser of splitmix64).
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let value = (value ^ value >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ value >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ value >> 31
}

/// What other parts of the flock have to know; drained by [`Broadcast::next_event`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A broadcast is here, once; one's own too.
    Delivered {
        /// Which.
        id: MessageId,
        /// Whom it is for.
        channel: Channel,
        /// What it says.
        payload: Bytes,
        /// Links it passed; 0 for one's own.
        hops: u8,
        /// By which link it came; `None` for one's own.
        from: Option<Link>,
        /// Links it was pushed on along.
        forwarded: LinkSet,
    },
    /// The neighbour that we pushed it to had it already.
    Declined {
        /// Which.
        id: MessageId,
        /// Where.
        link: Link,
    },
    /// It came again, and the sender was not told so by the broadcast: it was asked for, or comes from the parent.
    Again {
        /// Which.
        id: MessageId,
        /// From where.
        link: Link,
    },
    /// A neighbour that we had not pushed it to has now taken it from us.
    Grafted {
        /// Which.
        id: MessageId,
        /// Where.
        link: Link,
    },
}

/// What was done so far. Counts begin again at 0 after 2³² - 1: four bytes each, for a peer has a few dozen of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages sent, by [`Message::kind`].
    pub sent: [u32; KINDS],
    /// Messages received and understood, by [`Message::kind`].
    pub received: [u32; KINDS],
    /// Payloads that came again.
    pub duplicates: u32,
    /// Times a link turned out quicker than the parent and became it.
    pub turned: u32,
    /// Announced messages that never came.
    pub given_up: u32,
    /// Requests for payloads that are no longer kept.
    pub unavailable: u32,
    /// Refused: not a message.
    pub malformed: u32,
    /// Refused: it cannot be so.
    pub implausible: u32,
    /// Refused: said before, or too late to matter.
    pub stale: u32,
    /// Refused: more than the sender's share.
    pub flood: u32,
}

/// An announcement that waits for company.
#[derive(Clone, Copy, Debug)]
struct Announcement {
    short: Short,
    at: Time,
    links: LinkSet,
}

/// One peer's part in everybody's broadcasts.
#[derive(Debug)]
pub struct Broadcast {
    config: Arc<Config>,
    me: HostId,
    incarnation: u64,
    /// Of our latest broadcast.
    seq: u32,
    /// The tree of [`Start::Shared`].
    shared: LinkSet,
    seen: Seen,
    trees: Trees,
    cache: Cache,
    wanted: Wanted,
    announcements: Vec<Announcement>,
    events: VecDeque<Event>,
    counters: Counters,
}

impl Broadcast {
    /// A peer that has heard of nobody.
    /// * `incarnation`: greater than in every earlier run of this peer.
    pub fn new(config: Arc<Config>, me: HostId, incarnation: u64) -> Self {
        Self {
            config,
            me,
            incarnation,
            seq: 0,
            shared: LinkSet::default(),
            seen: Seen::default(),
            trees: Trees::default(),
            cache: Cache::default(),
            wanted: Wanted::default(),
            announcements: Vec::new(),
            events: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// Tells all peers. The owner's own copy comes as [`Event::Delivered`] with no hops.
    /// * Errors: [`Refused::TooLarge`] beyond [`PAYLOAD_BYTES_MAX`], [`Refused::Flood`] when a run has used up all its
    ///   2³² numbers; nothing was sent.
    pub fn publish(
        &mut self,
        channel: Channel,
        payload: Bytes,
        cx: &mut Cx<'_>,
    ) -> Result<MessageId, Refused> {
        if payload.len() > PAYLOAD_BYTES_MAX {
            let (bytes, max) = (payload.len(), PAYLOAD_BYTES_MAX);
            return Err(Refused::TooLarge { what: "a broadcast", bytes, max });
        }
        self.seq = self.seq.checked_add(1).ok_or(Refused::Flood)?;
        let id = MessageId { origin: self.me, incarnation: self.incarnation, seq: self.seq };
        let gossip = Gossip::new(id, channel, &payload);
        self.take(gossip, None, None, false, cx);
        Ok(id)
    }

    /// Takes a message of this part (tags 0x20 to 0x2F) from a neighbour.
    /// * Errors: why it was dropped; but for the counters, nothing has changed then.
    pub fn handle(&mut self, from: Link, tag: u8, reader: Reader, cx: &mut Cx<'_>) -> Result<(), Refused> {
        let done = Message::decode(tag, reader).map_err(Refused::from).and_then(|message| {
            bump(&mut self.counters.received[message.kind()]);
            self.receive(from, message, cx)
        });
        match &done {
            Err(Refused::Malformed(_)) => bump(&mut self.counters.malformed),
            Err(Refused::Stale) => bump(&mut self.counters.stale),
            Err(Refused::Flood) => bump(&mut self.counters.flood),
            Err(_) => bump(&mut self.counters.implausible),
            Ok(()) => {}
        }
        done
    }

    /// A link came up: the neighbour is told what is kept here, and takes what it missed.
    pub fn link_up(&mut self, link: Link, cx: &mut Cx<'_>) {
        self.shared.insert(link);
        if !self.cache.is_empty() {
            self.send(link, &Message::Recent(self.cache.spans()), cx);
        }
    }

    /// A link is down: nothing is expected of it any more, and what was asked there is asked elsewhere.
    pub fn link_down(&mut self, link: Link, cx: &mut Cx<'_>) {
        self.shared.remove(link);
        self.trees.cut(link);
        self.cache.cut(link);
        self.wanted.cut(link, cx.now);
        self.announcements.iter_mut().for_each(|announcement| announcement.links.remove(link));
    }

    /// When to call [`Broadcast::deadline`]; ask again after each call of anything.
    pub fn next_deadline(&self) -> Option<Time> {
        let announce = self.announcements.first().map(|first| first.at + self.config.announce_after);
        let expire = self.cache.due(self.config.keep_for);
        [announce, self.wanted.due(), expire].into_iter().flatten().min()
    }

    /// Does what is due.
    pub fn deadline(&mut self, cx: &mut Cx<'_>) {
        if self.announcements.first().is_some_and(|first| first.at + self.config.announce_after <= cx.now) {
            self.announce(cx);
        }
        if self.wanted.due().is_some_and(|due| due <= cx.now) {
            self.ask_again(cx);
        }
        if self.cache.due(self.config.keep_for).is_some_and(|due| due <= cx.now) {
            self.cache.expire(cx.now - self.config.keep_for);
        }
    }

    /// What happened since the last call; ask until there is nothing.
    pub fn next_event(&mut self) -> Option<Event> {
        let event = self.events.pop_front();
        if self.events.is_empty() {
            self.events = VecDeque::new();
        }
        event
    }

    /// Links that the origin's broadcasts are pushed along from here; of its latest run that was heard of.
    pub fn eager(&self, origin: HostId) -> LinkSet {
        let incarnation = if origin == self.me { Some(self.incarnation) } else { self.seen.latest(origin) };
        let key = incarnation.map(|incarnation| MessageId { origin, incarnation, seq: 1 }.tag());
        key.and_then(|key| self.trees.get(key)).map_or(LinkSet::default(), |tree| tree.children)
    }

    /// What was done so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How many origins have a tree here.
    pub fn trees(&self) -> usize {
        self.trees.len()
    }

    /// Bytes of state, inline and on the heap, without the payloads that are kept: those are [`Broadcast::kept_bytes`].
    pub fn state_bytes(&self) -> usize {
        size_of::<Self>()
            + self.seen.heap_bytes()
            + self.trees.heap_bytes()
            + self.wanted.heap_bytes()
            + self.announcements.capacity() * size_of::<Announcement>()
            + self.events.capacity() * size_of::<Event>()
    }

    /// See [`Flock::touch`](crate::Flock::touch).
    pub(crate) fn touch(&self, behind: bool) -> u64 {
        if behind {
            return self.seen.touch() ^ self.trees.touch() ^ self.cache.touch();
        }
        let counters = &self.counters;
        let counts = counters.sent[0] ^ counters.received[KINDS - 1] ^ counters.flood ^ self.seq;
        let lengths = self.seen.len() ^ self.trees.len() ^ self.announcements.len() ^ self.events.len();
        u64::from(counts) ^ lengths as u64 ^ self.wanted.due().map_or(0, |due| due.0) ^ self.incarnation
    }

    /// Bytes of payloads kept for grafts, and of the list of them.
    pub fn kept_bytes(&self) -> usize {
        self.cache.heap_bytes()
    }

    fn send(&mut self, link: Link, message: &Message, cx: &mut Cx<'_>) {
        self.send_bytes(link, message.kind(), message.encode(), cx);
    }

    fn send_bytes(&mut self, link: Link, kind: usize, bytes: Frame, cx: &mut Cx<'_>) {
        if let Some(neighbour) = cx.links.get(link) {
            bump(&mut self.counters.sent[kind]);
            cx.out.send(neighbour.peer.addr, bytes);
        }
    }

    /// Sends all announcements that wait, one message a link.
    fn announce(&mut self, cx: &mut Cx<'_>) {
        let waiting = std::mem::take(&mut self.announcements);
        for link in cx.links.set().iter() {
            let haves = waiting.iter().filter(|it| it.links.has(link)).map(|it| {
                let held = cx.now.since(it.at).as_millis();
                Have { short: it.short, held: held.min(255) as u8 }
            });
            let haves: Vec<Have> = haves.collect();
            if !haves.is_empty() {
                self.send(link, &Message::Have(haves), cx);
            }
        }
    }

    /// Asks for what was awaited in vain.
    fn ask_again(&mut self, cx: &mut Cx<'_>) {
        let (config, trees, given_up) = (&self.config, &self.trees, &mut self.counters.given_up);
        let mut asks: Vec<(Link, bool, Short)> = Vec::new();
        self.wanted.each_due(cx.now, |want| {
            let late = cx.now.since(want.since) > config.give_up_after;
            let Some(link) = (!late).then(|| want.next()).flatten() else {
                bump(given_up);
                return false;
            };
            want.due = cx.now + want.patience(config.graft_again);
            // What is to be had outside the tree is pulled as long as there is a tree that may bring the next.
            let parent = trees.get(want.short.tag).and_then(|tree| tree.parent);
            asks.push((link, want.pull && parent.is_some_and(|parent| parent != link), want.short));
            true
        });
        self.ask(asks, cx);
    }

    /// Sends requests: pulls where the flag says so, else grafts.
    fn ask(&mut self, mut asks: Vec<(Link, bool, Short)>, cx: &mut Cx<'_>) {
        asks.sort_unstable();
        for group in asks.chunk_by(|one, next| (one.0, one.1) == (next.0, next.1)) {
            let shorts = group.iter().map(|(_, _, short)| *short).collect();
            let (link, pull, _) = group[0];
            self.send(link, &if pull { Message::Pull(shorts) } else { Message::Graft(shorts) }, cx);
        }
    }
}

/// One more.
fn bump(counter: &mut u32) {
    *counter = counter.wrapping_add(1);
}

/// Room for one more, and for few besides: lists that live as long as the peer should not be half empty.
fn grow<T>(list: &mut Vec<T>) {
    if list.len() == list.capacity() {
        list.reserve_exact(2 + list.len() / 64);
    }
}
