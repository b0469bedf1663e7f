//! Who is in touch with whom: HyParView (Leitão, Pereira, Rodrigues, DSN 2007), with places in the middle of links.
//!
//! As in the paper a peer keeps a small symmetric active view, here [`Links`], and a larger passive view, and mixes
//! the latter by shuffles. Where it differs:
//!
//! * **A newcomer takes two links by entering the middle of one** (Law and Siu, "Distributed construction of random
//!   expander networks", INFOCOM 2003). A random walk that looks for two links ends at some peer; that peer drops a
//!   random neighbour and points it at the newcomer, and becomes a neighbour of the newcomer itself. Everybody else
//!   keeps as many links as before, nobody is dropped and left to find a substitute, and what grows is a random
//!   regular graph, whoever the contact was.
//! * **An odd link** is looked for by a walk that stops at the first peer with too few links, or with one too many,
//!   which hands one over. When it meets neither, the peer where it ends takes one too many. So there are about as
//!   many with one too many as make such walks succeed half of the time, and nobody has to be content with too few.
//! * **Too many links** (two more than wanted) are undone by introducing two neighbours to each other. Entering the
//!   middle of a link elsewhere and undoing that surplus amounts to moving in the overlay; that is how parts that
//!   were cut off from each other grow together again, and how those mix who started at the same moment and took
//!   whoever was nearest.
//! * **The passive view is the front of an address book** of some hundreds of contacts; see [`book`].
#![allow(clippy::module_name_repetitions)]

use crate::addr::{Addr, Peer};
use crate::io::{Down, Effect, Outbox, Refused, Told, Unreachable};
use crate::links::{LINKS_MAX, Link, LinkSet, Links, Neighbour};
use crate::time::Time;
use crate::wire::Reader;
use book::{Book, Limits};
pub use message::{ADDRS_MAX, HOPS_MAX, Message, Want};
use rand::{Rng, RngExt};
use std::sync::Arc;
use std::time::Duration;

mod book;
mod liveness;
mod message;
mod refill;
mod shuffle;
mod walks;

#[cfg(test)]
mod tests;

/// How many past neighbours are remembered as such.
const PAST: usize = 6;

/// Knobs of the membership.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Links wanted; one more is held now and then. 3 to 12. Fewer fall apart, more cost a heartbeat each.
    pub active: usize,
    /// Contacts in the passive view. 10 to 100, well below `contacts`.
    pub passive: usize,
    /// Contacts in the address book, the passive view among them. 4 bytes each on the usual port with IPv4, 24
    /// otherwise. 128 find all survivors when 95 of 100 peers die, 440 when 99 do, most times. 50 to 4,000.
    pub contacts: usize,
    /// Hops of a newcomer before its walks part. 0 to 6.
    pub spread_hops: u8,
    /// Hops of each walk that looks for links (the paper's ARWL). 4 to 16; about the logarithm of the number
    /// of peers to the base `active` - 1 makes its end a random peer.
    pub walk_hops: u8,
    /// Contacts that come with a new link. 0 to 32.
    pub link_known: usize,
    /// Silence on the sender's side after which it sends a heartbeat. 0.2 to 5 s.
    pub beat: Duration,
    /// Silence on the receiver's side after which it asks for a sign of life. 1.3 to 2 times `beat`.
    pub probe: Duration,
    /// Silence after which a neighbour counts as dead. More than `probe` plus a slow link's round trip.
    pub dead: Duration,
    /// Wait between rounds of dialling. 0.1 to 1 s; about a connection's first round trips.
    pub dial_wait: Duration,
    /// Most dials of one round. 4 to 64.
    pub dials: usize,
    /// Wait for walks to bring links, and for a contact to let us in. 0.5 to 5 s; more than `walk_hops` +
    /// `spread_hops` hops take.
    pub walk_wait: Duration,
    /// Longest wait before all contacts are tried again when none answered; the first is a 64th of it. 5 to 120 s.
    pub retry_wait: Duration,
    /// Wait between attempts to find doubtful contacts alive, while there are any. 2 to 60 s.
    pub mend_wait: Duration,
    /// Moves to another place in the overlay, one each `mend_wait`, of a peer that let others in while it was joining
    /// itself, as about half do of those who start together. 0 to 20; with eight, 10,000 peers that started at the same
    /// instant come to a mean path of 1.02 times a random graph's, with five to 1.07, with none to 2.8.
    pub moves: u8,
    /// Wait between shuffles while the address book has room, and after a neighbour's death. 2 to 30 s.
    pub shuffle_young_wait: Duration,
    /// Wait between shuffles otherwise. 10 to 600 s.
    pub shuffle_wait: Duration,
    /// Hops of a shuffle. 2 to 10.
    pub shuffle_hops: u8,
    /// Contacts exchanged by a shuffle while the address book has room. Up to [`ADDRS_MAX`].
    pub shuffle_young: u8,
    /// Contacts exchanged by a shuffle in the long run. 4 to 16.
    pub shuffle_count: u8,
    /// Messages of one kind, relayed or from strangers, that are served in a second. 1,000 to 100,000.
    pub flood: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            active: 5,
            passive: 30,
            contacts: 440,
            spread_hops: 3,
            walk_hops: 7,
            link_known: 8,
            beat: Duration::from_millis(1000),
            probe: Duration::from_millis(1500),
            dead: Duration::from_millis(2750),
            dial_wait: Duration::from_millis(250),
            dials: 32,
            walk_wait: Duration::from_millis(1200),
            retry_wait: Duration::from_secs(32),
            mend_wait: Duration::from_secs(10),
            moves: 8,
            shuffle_young_wait: Duration::from_secs(10),
            shuffle_wait: Duration::from_secs(90),
            shuffle_hops: 5,
            shuffle_young: 48,
            shuffle_count: 8,
            flood: 20_000,
        }
    }
}

impl Config {
    /// With every knob that would break something at its nearest bound: links that have no place, walks that
    /// nobody passes on, waits of no time at all.
    fn within_bounds(self: Arc<Self>) -> Arc<Self> {
        let moment = Duration::from_millis(10);
        let bounded = Self {
            active: self.active.clamp(1, LINKS_MAX - 2),
            spread_hops: self.spread_hops.min(HOPS_MAX),
            walk_hops: self.walk_hops.min(HOPS_MAX),
            shuffle_hops: self.shuffle_hops.min(HOPS_MAX),
            beat: self.beat.max(moment),
            dead: self.dead.max(self.probe),
            dial_wait: self.dial_wait.max(moment),
            walk_wait: self.walk_wait.max(moment),
            retry_wait: self.retry_wait.max(moment * 64),
            mend_wait: self.mend_wait.max(moment),
            shuffle_young_wait: self.shuffle_young_wait.max(moment),
            shuffle_wait: self.shuffle_wait.max(moment),
            ..(*self).clone()
        };
        // All peers of a process go on sharing the one they were given.
        if bounded == *self { self } else { Arc::new(bounded) }
    }

    fn limits(&self) -> Limits {
        Limits {
            contacts: self.contacts.clamp(8, 16_000),
            passive: self.passive.min(self.contacts / 2),
            doubtful: self.contacts / 2,
        }
    }
}

/// What the membership did; all since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Links that came up.
    pub links_up: u32,
    /// Links that went down, for whatever reason.
    pub links_down: u32,
    /// Neighbours that fell silent.
    pub silent: u32,
    /// Neighbours whose connection broke.
    pub lost: u32,
    /// Contacts asked for a link.
    pub dials: u32,
    /// Links given up so that somebody else could enter in their middle.
    pub entered: u32,
    /// Pairs of neighbours introduced to each other because there were too many.
    pub introduced: u32,
    /// Messages dropped because a second's share was used up.
    pub floods: u32,
    /// Messages from peers that are no neighbours, as only neighbours send.
    pub strangers: u32,
    /// Messages that came too late or were never asked for.
    pub stale: u32,
    /// Messages that contradict themselves.
    pub implausible: u32,
    /// Messages that are none.
    pub malformed: u32,
}

/// What a step is lent.
pub(crate) struct Step<'a> {
    pub(crate) now: Time,
    pub(crate) rng: &'a mut dyn Rng,
    pub(crate) me: Peer,
    pub(crate) out: &'a mut Outbox,
}

/// A link came up or went down; drained by the flock after each step.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Change {
    Up(Link),
    Down(Link, Neighbour),
}

/// One peer's views.
#[derive(Debug)]
pub struct Membership {
    config: Arc<Config>,
    links: Links,
    book: Book,
    changes: Vec<Change>,
    phase: Phase,
    /// Neighbours asked for a sign of life since they were last heard.
    probed: LinkSet,
    /// No link needs a look before this.
    beat_due: Time,
    refill: refill::Refill,
    shuffle: shuffle::Shuffling,
    /// Links asked for and not come yet, and until when they are waited for.
    expected: u8,
    expected_until: Time,
    /// Who was a neighbour until lately; what they sent before they knew is no stranger's word.
    /// Low bits of the ID, and the moment it is forgotten in milliseconds.
    past: [(u32, u32); PAST],
    /// Messages served in the second that began then.
    served: u32,
    served_since: Time,
    /// Contacts learnt since the owner was last asked to write them down.
    news: u16,
    counters: Counters,
}

/// Whether messages with this tag are for the membership.
pub(crate) fn is_tag(tag: u8) -> bool {
    tag < 0x20
}

/// How a peer and a moment are kept among past neighbours.
fn past(peer: Peer, at: Time) -> (u32, u32) {
    (peer.id.0 as u32, (at.0 / 1000) as u32)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    New,
    /// Never had a link since the start.
    Outside,
    /// Never had as many links as wanted.
    Inside,
    Settled,
    Left,
}

impl Membership {
    /// Of a peer that has not started, with addresses from configuration and its last run.
    pub fn new(config: Arc<Config>, me: Peer, remembered: &[Addr]) -> Self {
        let config = config.within_bounds();
        let mut book = Book::new(me.addr.port());
        let limits = config.limits();
        remembered.iter().filter(|addr| **addr != me.addr).for_each(|addr| book.recall(*addr, limits));
        Self {
            config,
            links: Links::default(),
            book,
            changes: Vec::new(),
            phase: Phase::New,
            probed: LinkSet::default(),
            beat_due: Time(u64::MAX),
            refill: refill::Refill::default(),
            shuffle: shuffle::Shuffling::default(),
            expected: 0,
            expected_until: Time::default(),
            past: [(0, 0); PAST],
            served: 0,
            served_since: Time::default(),
            news: 0,
            counters: Counters::default(),
        }
    }

    /// The active view.
    pub fn links(&self) -> &Links {
        &self.links
    }

    /// The passive view.
    pub fn passive(&self) -> impl Iterator<Item = Addr> {
        self.book.passive()
    }

    /// Every contact, those of the passive view first and the doubtful ones last.
    pub fn contacts(&self) -> impl Iterator<Item = Addr> {
        self.book.iter()
    }

    /// Addresses for the next run to begin with: neighbours, then contacts in the order of [`Self::contacts`].
    pub fn remember(&self) -> Vec<Addr> {
        let neighbours = self.links.iter().map(|(_, neighbour)| neighbour.peer.addr);
        let others = self.book.iter().filter(|addr| self.links.find_addr(*addr).is_none());
        neighbours.chain(others).collect()
    }

    /// What happened so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Bytes held, inline and on the heap, without the shared configuration.
    pub fn state_bytes(&self) -> usize {
        let inline = size_of::<Self>() - size_of::<Links>() - size_of::<Book>();
        inline
            + self.links.state_bytes()
            + self.book.state_bytes()
            + self.changes.capacity() * size_of::<Change>()
    }

    pub(crate) fn start(&mut self, step: &mut Step<'_>) {
        self.phase = Phase::Outside;
        self.start_shuffling(step);
        self.tend(step);
    }

    /// Takes in more contacts from the owner.
    pub(crate) fn hail(&mut self, addrs: &[Addr], step: &mut Step<'_>) {
        for addr in addrs {
            self.hear_of(*addr, step);
            self.book.trust(*addr);
        }
        self.refill.hurry();
        self.tend(step);
    }

    /// Says goodbye, introducing the neighbours to each other so that none of them has to look for a substitute.
    pub(crate) fn leave(&mut self, step: &mut Step<'_>) {
        let mut link = self.links.iter().map(|(link, _)| link).collect::<Vec<_>>().into_iter();
        while let Some(one) = link.next() {
            let other = link.next().and_then(|other| self.take_down(other, Down::Dropped, step));
            if let Some(one) = self.take_down(one, Down::Dropped, step) {
                self.say_goodbye(one.peer, other.map(|it| it.peer), step);
            }
            if let Some(other) = other {
                self.say_goodbye(other.peer, None, step);
            }
        }
        self.phase = Phase::Left;
    }

    fn say_goodbye(&mut self, peer: Peer, instead: Option<Peer>, step: &mut Step<'_>) {
        self.send(peer.addr, &Message::Leave { instead }, step);
        step.out.effects.push(Effect::Close { to: peer.addr });
    }

    /// Whether [`Self::leave`] was called.
    pub(crate) fn has_left(&self) -> bool {
        self.phase == Phase::Left
    }

    /// When to call [`Self::deadline`].
    pub fn next_deadline(&self) -> Option<Time> {
        match self.phase {
            Phase::New | Phase::Left => None,
            Phase::Outside | Phase::Inside | Phase::Settled => {
                let refill = self.refill.due().unwrap_or(Time(u64::MAX));
                Some(self.beat_due.min(refill).min(self.shuffle.due()))
            }
        }
    }

    pub(crate) fn deadline(&mut self, step: &mut Step<'_>) {
        if self.beat_due <= step.now {
            self.look_at_links(step);
        }
        if self.shuffle.due() <= step.now {
            self.shuffle_if_due(step);
            self.mend_if_due(step);
        }
        self.tend(step);
    }

    /// Takes one message of tags `0x00` to `0x1F`.
    pub(crate) fn handle(
        &mut self,
        from: Peer,
        tag: u8,
        reader: Reader,
        step: &mut Step<'_>,
    ) -> Result<(), Refused> {
        let message = Message::decode(tag, reader)?;
        let link = self.links.find(from);
        let result = match message {
            Message::Beat | Message::Probe if link.is_none() => self.adopt(from, step),
            Message::Beat => Ok(()),
            Message::Probe => {
                self.send(from.addr, &Message::Beat, step);
                Ok(())
            }
            Message::Join => self.handle_join(from, step),
            Message::Spread { hops, joiner } => self.handle_spread(from, link, hops, joiner, step),
            Message::Walk { want, hops, joiner } => self.handle_walk(from, link, want, hops, joiner, step),
            Message::Neighbour { want } => self.handle_neighbour(from, want, step),
            Message::Link { known } => self.handle_link(from, link, &known, step),
            Message::Unlink { instead } => self.handle_unlink(from, link, instead, false, step),
            Message::Leave { instead } => self.handle_unlink(from, link, instead, true, step),
            Message::Shuffle { hops, count, origin } => {
                self.handle_shuffle(from, link, hops, count, origin, step)
            }
            Message::Offer { known } => self.handle_offer(from, &known, step),
            Message::Return { known } => self.handle_return(from, link, &known, step),
        };
        self.tend(step);
        result
    }

    /// Counts why a message was refused.
    pub(crate) fn note(&mut self, refused: &Refused) {
        let counters = &mut self.counters;
        match refused {
            Refused::Malformed(_) => counters.malformed += 1,
            Refused::Stranger(_) => counters.strangers += 1,
            Refused::Implausible(_) => counters.implausible += 1,
            Refused::Stale => counters.stale += 1,
            Refused::Flood => counters.floods += 1,
            Refused::TooLarge { .. } | Refused::TooMany { .. } => {}
        }
    }

    /// The transport could not reach somebody.
    pub(crate) fn unreachable(&mut self, addr: Addr, why: Unreachable, step: &mut Step<'_>) {
        match self.links.find_addr(addr) {
            Some(link) => {
                self.counters.lost += 1;
                self.mourn(link, Down::Lost, step);
            }
            // A connection without a link is closed when it has served its purpose; that says nothing.
            None if why == Unreachable::Lost => {}
            None => self.dial_failed(addr, why),
        }
        self.tend(step);
    }

    /// A neighbour-only message came from somebody who is none: tell them, lest they believe in the link for ever.
    pub(crate) fn disown(&mut self, from: Peer, step: &mut Step<'_>) -> Refused {
        if self.is_past(from, step.now) {
            return Refused::Stale;
        }
        if self.serve(step.now).is_ok() {
            self.send(from.addr, &Message::Unlink { instead: None }, step);
        }
        Refused::Stranger(from)
    }

    /// The next link that came up or went down, in order, as far as the other parts have not been told.
    pub(crate) fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    /// Whether [`Self::take_changes`] has something to give.
    pub(crate) fn has_changes(&self) -> bool {
        !self.changes.is_empty()
    }

    /// See [`Flock::touch`](crate::Flock::touch).
    pub(crate) fn touch(&self, behind: bool) -> u64 {
        if behind {
            return self.links.touch();
        }
        let (refill, shuffle) = (self.refill.due().map_or(0, |due| due.0), self.shuffle.due().0);
        let past = u64::from(self.past[0].0) ^ u64::from(self.past[PAST - 1].1);
        let counts =
            u64::from(self.counters.links_up) ^ u64::from(self.counters.malformed) ^ self.expected_until.0;
        self.beat_due.0 ^ refill ^ shuffle ^ past ^ counts ^ self.links.len() as u64 ^ self.book.len() as u64
    }

    fn send(&mut self, to: Addr, message: &Message, step: &mut Step<'_>) {
        step.out.send(to, message.encode());
    }

    /// Takes a contact in, if it can be one.
    fn hear_of(&mut self, addr: Addr, step: &mut Step<'_>) {
        let limits = self.config.limits();
        if addr != step.me.addr && self.book.hear_of(addr, limits, step.rng) {
            self.news = self.news.saturating_add(1);
            if self.links.find_addr(addr).is_some() {
                self.book.not_passive(addr);
            }
        }
    }

    /// One more neighbour.
    fn bring_up(&mut self, peer: Peer, step: &mut Step<'_>) -> Option<Link> {
        // A walk can name anybody at any address; whom we know by another, ourselves among them, is not taken twice.
        let same = |other: Peer| other.id == peer.id || other.addr == peer.addr;
        if same(step.me) || self.links.iter().any(|(_, neighbour)| same(neighbour.peer)) {
            return None;
        }
        let link = self.links.insert(peer, step.now)?;
        self.probed.remove(link);
        self.hear_of(peer.addr, step);
        self.book.trust(peer.addr);
        self.book.not_passive(peer.addr);
        self.expected = self.expected.saturating_sub(1);
        if self.phase == Phase::Outside {
            // Somebody let us in, without necessarily saying so.
            self.book.trust_all();
            self.phase = Phase::Inside;
        }
        if self.phase == Phase::Inside && self.links.len() >= self.config.active {
            self.phase = Phase::Settled;
        }
        self.beat_due = self.beat_due.min(step.now + self.config.beat);
        self.counters.links_up += 1;
        self.changes.push(Change::Up(link));
        step.out.effects.push(Effect::Told(Told::LinkUp(peer)));
        Some(link)
    }

    /// One neighbour less.
    fn take_down(&mut self, link: Link, why: Down, step: &mut Step<'_>) -> Option<Neighbour> {
        let neighbour = self.links.remove(link)?;
        self.past.rotate_right(1);
        self.past[0] = past(neighbour.peer, step.now + self.config.walk_wait);
        self.counters.links_down += 1;
        self.changes.push(Change::Down(link, neighbour));
        step.out.effects.push(Effect::Told(Told::LinkDown { peer: neighbour.peer, why }));
        Some(neighbour)
    }

    /// Whether the peer was a neighbour until lately, and may not know yet that it is none.
    fn is_past(&self, peer: Peer, now: Time) -> bool {
        let (peer, now) = past(peer, now);
        // Times come round every 49 days; what is left of the wait is a small number.
        let most = self.config.walk_wait.as_millis() as u32;
        self.past.iter().any(|(id, until)| *id == peer && (1..=most).contains(&until.wrapping_sub(now)))
    }

    /// A random neighbour's link, not one of `but`.
    fn any_link(&self, but: LinkSet, step: &mut Step<'_>) -> Option<Link> {
        let set = self.links.set().without(but);
        if set.is_empty() {
            return None;
        }
        set.iter().nth(step.rng.random_range(0..set.len()))
    }

    /// From now on so many links more may come without being turned away.
    fn expect(&mut self, links: u8, now: Time) {
        if self.expected_until <= now {
            self.expected = 0;
        }
        self.expected = self.expected.saturating_add(links);
        self.expected_until = now + self.config.walk_wait * 2;
    }

    /// Counts something that anybody can make us do.
    fn serve(&mut self, now: Time) -> Result<(), Refused> {
        if now.since(self.served_since) >= Duration::from_secs(1) {
            (self.served, self.served_since) = (0, now);
        }
        self.served += 1;
        if self.served > self.config.flood { Err(Refused::Flood) } else { Ok(()) }
    }
}
