//! What one message of an exchange is answered with. Nothing is remembered between messages: each answer follows
//! from the message and from what one has, so nothing has to be kept per neighbour, and a message lost costs
//! no more than waiting for the next exchange.

use super::forest::{DEPTH_MAX, Element, Forest, Prefix, short};
use super::message::{Item, List, Message, Range, Set};
use super::version::Version;

/// Bytes that the ranges, lists and versions of one answer may take together.
const TALK_BYTES_MAX: usize = 48 << 10;

/// An answer as it grows; what does not fit is left out, and `more` says so.
#[derive(Debug)]
pub struct Answer<'a, E> {
    forest: &'a Forest<E>,
    set: Set,
    salt: u16,
    list_max: usize,
    ranges: Vec<Range>,
    lists: Vec<List>,
    have: Vec<(u64, Version)>,
    /// What the other lacks.
    pub items: Vec<Item>,
    more: bool,
    talk: usize,
    room: usize,
}

impl<'a, E: Element> Answer<'a, E> {
    /// An empty answer with room for so many bytes of items.
    pub fn new(forest: &'a Forest<E>, set: Set, salt: u16, list_max: usize, room: usize) -> Self {
        let (ranges, lists, have, items) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self {
            forest,
            set,
            salt,
            list_max,
            ranges,
            lists,
            have,
            items,
            more: false,
            talk: TALK_BYTES_MAX,
            room,
        }
    }

    fn talks(&mut self, bytes: usize) -> bool {
        let fits = bytes <= self.talk;
        self.talk = self.talk.saturating_sub(if fits { bytes } else { 0 });
        self.more |= !fits;
        fits
    }

    /// Gives an item, if there is room.
    pub fn give(&mut self, item: Item) -> bool {
        let bytes = item.bytes_about();
        if bytes > self.room {
            self.more = true;
            return false;
        }
        self.room -= bytes;
        self.items.push(item);
        true
    }

    fn have(&mut self, place: u64, version: Version) {
        if self.talks(28) {
            self.have.push((place, version));
        }
    }

    /// Goes on with a range of which the sums differ.
    pub fn differ(&mut self, prefix: Prefix, theirs_is_empty: bool) {
        if theirs_is_empty {
            for (_, element) in self.forest.range(prefix) {
                if !self.give(element.item(Version::NONE)) {
                    break;
                }
            }
        } else if prefix.depth == DEPTH_MAX || self.forest.at_most(prefix, self.list_max) {
            let salt = self.salt;
            let elements: Vec<_> =
                self.forest.range(prefix).map(|(place, it)| (place, short(it.fingerprint(), salt))).collect();
            if self.talks(12 + 11 * elements.len()) {
                self.lists.push(List { prefix, elements });
            }
        } else if self.talks(60) {
            let parts = self.forest.parts(prefix).map(|sum| (sum != 0).then(|| short(sum, self.salt)));
            self.ranges.push(Range { prefix, parts });
        }
    }

    /// Answers the sums of the parts of a range, shortened with the salt that came with them.
    pub fn compare(&mut self, range: &Range, salt: u16) {
        let ours = self.forest.parts(range.prefix).map(|sum| (sum != 0).then(|| short(sum, salt)));
        for (at, (ours, theirs)) in ours.into_iter().zip(range.parts).enumerate() {
            if let (true, Some(child)) = (ours != theirs, range.prefix.child(at)) {
                self.differ(child, theirs.is_none());
            }
        }
    }

    /// Answers a list of all that the other has in a range. `gone` gives the word that an owner is gone.
    pub fn check(&mut self, list: &List, salt: u16, gone: impl Fn(u64) -> Option<Item>) {
        let mut theirs = list.elements.iter().copied().peekable();
        let lacking = |answer: &mut Self, place| match gone(place) {
            Some(item) => drop(answer.give(item)),
            None => answer.have(place, Version::NONE),
        };
        for (place, element) in self.forest.range(list.prefix) {
            while let Some((before, _)) = theirs.next_if(|(their, _)| *their < place) {
                lacking(self, before);
            }
            match theirs.next_if(|(their, _)| *their == place) {
                Some((_, sum)) if sum == short(element.fingerprint(), salt) => {}
                Some(_) => self.have(place, element.version()),
                None if self.give(element.item(Version::NONE)) => {}
                None => break,
            }
        }
        for (place, _) in theirs {
            lacking(self, place);
        }
    }

    /// Answers the versions that the other has.
    pub fn weigh(&mut self, place: u64, theirs: Version, differ: bool, gone: impl Fn(u64) -> Option<Item>) {
        match self.forest.get(place) {
            Some(ours) if theirs < ours.version() => drop(self.give(ours.item(theirs))),
            Some(ours) if theirs == ours.version() && differ => drop(self.give(ours.item(Version::NONE))),
            Some(ours) if ours.version() < theirs && differ => self.have(place, ours.version()),
            Some(_) => {}
            None => {
                if let Some(item) = gone(place) {
                    self.give(item);
                } else if differ {
                    self.have(place, Version::NONE);
                }
            }
        }
    }

    /// The messages of the answer, up to four.
    pub fn messages(self) -> impl Iterator<Item = Message> {
        let Answer { set, salt, ranges, lists, have, items, more, .. } = self;
        let ranges = (!ranges.is_empty()).then_some(Message::Ranges { set, salt, ranges });
        let lists = (!lists.is_empty()).then_some(Message::Listing { set, salt, lists });
        let have = (!have.is_empty()).then_some(Message::Have { set, differ: true, elements: have });
        let items = (more || !items.is_empty()).then_some(Message::Items { more, items });
        [ranges, lists, have, items].into_iter().flatten()
    }
}
