//! Small versioned facts about each peer, and settings, kept equal at all peers.
//!
//! An owner publishes facts under keys; all its facts together are one [`Record`] with one [`Version`], which grows
//! with each change. A change travels at once by broadcast, as what changed since the version broadcast
//! before. Whoever has a record at a version has exactly what the owner had then: a change that builds on one we
//! lack is not taken in, but asked for. What broadcasts miss is mended by anti-entropy: now and then a peer sends a
//! neighbour the sum of the fingerprints of all it has; where the sums differ the two compare those of ever narrower
//! ranges, and in the end send each other what the other lacks. Settings travel the same ways.
//!
//! Only the owner's word counts: a broadcast about somebody else's facts is refused, and an owner that hears
//! itself quoted with a version it never gave says again what is true, with a higher one. A neighbour
//! that passes on facts by anti-entropy cannot be checked; the layers above must not trust facts with more than hints.
//!
//! In reading order: `version`, `record` (one owner), `forest` (all of them, and sums of ranges), `message` (the
//! wire), `exchange` (what is answered), `pace` (when to compare), `apply` (what is taken in), `spread` (what is
//! broadcast), `departed` (who is gone), `settings`, `services`.

mod apply;
mod config;
mod departed;
mod exchange;
mod forest;
mod message;
mod pace;
mod record;
mod services;
mod settings;
mod spread;
mod version;

pub use config::{Config, Counters};
pub use forest::{DEPTH_MAX, Prefix};
pub use message::{Item, List, Message, Range, SETTING_KEY_BYTES_MAX, Set, decode_items, encode_items, tag};
pub use record::{Entry, KEY_BYTES_MAX, Record};
pub use services::{Offer, SERVICE_PREFIX, Standing};
pub use settings::{Setting, Settings};
pub use version::{COUNTER_MAX, INCARNATION_MAX, Version};

use crate::addr::{Addr, Peer};
use crate::io::{Cx, Effect, Refused, Unreachable};
use crate::links::{Link, Neighbour};
use crate::time::Time;
use crate::wire::{Reader, Writer};
use bytes::Bytes;
use departed::{Departed, Due};
use exchange::Answer;
use forest::{Forest, place_of};
use pace::Pace;
use rand::RngExt;
use settings::Bounds;
use skein_model::HostId;
use spread::Spread;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// News of the facts, for the owner of the flock.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Another peer's fact is new, says something else, or was retracted.
    Changed {
        /// Whose.
        host: HostId,
        /// Which.
        key: String,
    },
    /// A setting is new, has another value, or was deleted, by somebody else's word.
    SettingChanged {
        /// Which.
        key: String,
    },
    /// A peer left, or cannot be reached; its facts are dropped.
    Gone {
        /// Who.
        host: HostId,
    },
}

/// The facts of all peers as one peer knows them; see the module.
#[derive(Debug)]
pub struct Facts {
    config: Arc<Config>,
    me: HostId,
    /// The version of our last word.
    own: Version,
    records: Forest<Record>,
    /// Bytes of all bodies.
    record_bytes: usize,
    settings: Settings,
    departed: Departed,
    /// The place of the owner asked last; the next in order is the next to be asked, so that none is left out.
    asked_last: Option<u64>,
    pace: Pace,
    spread: Spread,
    events: VecDeque<Event>,
    counters: Counters,
}

impl Facts {
    /// Knows nothing yet. `incarnation` is greater than in every earlier run of this peer, at most
    /// [`INCARNATION_MAX`].
    pub fn new(config: Arc<Config>, me: HostId, incarnation: u64) -> Self {
        Self {
            config,
            me,
            own: Version { incarnation: incarnation.min(INCARNATION_MAX), counter: 0 },
            records: Forest::default(),
            record_bytes: 0,
            settings: Settings::default(),
            departed: Departed::default(),
            asked_last: None,
            pace: Pace::default(),
            spread: Spread::default(),
            events: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    // What the owner says.

    /// Says something about this peer, or something else under the same key; the same again changes nothing.
    /// * Errors: [`Refused::TooLarge`] for the key or for all facts together, [`Refused::TooMany`] for the keys;
    ///   nothing is then changed.
    pub fn publish(&mut self, key: &str, value: &[u8], cx: &mut Cx<'_>) -> Result<(), Refused> {
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            return Err(Refused::TooLarge { what: "a fact's key", bytes: key.len(), max: KEY_BYTES_MAX });
        }
        let old = self.own_record();
        if old.is_some_and(|it| it.get(key) == Some(value) && it.addr == cx.me.addr) {
            return Ok(());
        }
        self.say(Some((key, Some(value))), cx)
    }

    /// Says a fact of this peer no more.
    /// * Errors: [`Refused::Stale`] when there is no such fact.
    pub fn retract(&mut self, key: &str, cx: &mut Cx<'_>) -> Result<(), Refused> {
        if self.own_record().and_then(|it| it.get(key)).is_none() {
            return Err(Refused::Stale);
        }
        self.say(Some((key, None)), cx)
    }

    /// Sets a setting, or with `None` deletes it: the word of the cell's catalog, which gives the version.
    /// * Errors: [`Refused::Stale`] when a version as high is known, [`Refused::TooLarge`] and [`Refused::TooMany`]
    ///   when it does not fit; nothing is then changed.
    pub fn set(
        &mut self,
        key: &str,
        version: u64,
        value: Option<&[u8]>,
        cx: &mut Cx<'_>,
    ) -> Result<(), Refused> {
        let place = self.settings.put(key, version, value, self.bounds())?;
        // Every replica of the catalog says so at about the same time; whoever hears it meanwhile need not.
        let spare = self.config.broadcast_interval.saturating_sub(self.config.coalesce);
        let wait = self.config.coalesce + cx.rng.random_range(Duration::ZERO..=spare);
        self.spread.setting(place, cx.now + wait);
        Ok(())
    }

    /// Says goodbye: the payload to broadcast on the facts' channel before the links are closed; `None` when we
    /// never said anything.
    pub fn leave(&mut self) -> Option<Bytes> {
        self.own_record()?;
        self.own = self.own.next();
        Some(encode_items(&[Item::Gone { host: self.me, version: self.own }]))
    }

    // What is known.

    /// What a peer says under a key.
    pub fn get(&self, host: HostId, key: &str) -> Option<&[u8]> {
        self.record(host)?.get(key)
    }

    /// All that a peer says.
    pub fn record(&self, host: HostId) -> Option<&Record> {
        self.records.get(place_of(host))
    }

    /// Our own facts by rising key.
    pub fn own(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.own_record().into_iter().flat_map(Record::facts)
    }

    /// Every peer that says anything, this one included, in an order that is the same at every peer.
    pub fn hosts(&self) -> impl Iterator<Item = HostId> {
        self.records.iter().map(|(_, record)| record.host)
    }

    /// How many peers say anything.
    pub fn hosts_len(&self) -> usize {
        self.records.len()
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What happened so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Sums of the fingerprints of all records and of all settings: equal where all is equal.
    pub fn sums(&self) -> (u64, u64) {
        (self.records.sum(), self.settings.forest.sum())
    }

    /// Bytes in memory, about: the facts of all peers included.
    pub fn state_bytes(&self) -> usize {
        let events = self.events.capacity() * size_of::<Event>();
        size_of::<Self>()
            + self.records.heap_bytes()
            + self.settings.forest.heap_bytes()
            + self.departed.heap_bytes()
            + self.spread.heap_bytes()
            + self.pace.heap_bytes()
            + events
    }

    /// The next news.
    pub fn take_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The next payload to broadcast on the facts' channel.
    pub fn take_broadcast(&mut self) -> Option<Bytes> {
        self.spread.take()
    }

    // What happens.

    /// A neighbour is there.
    pub fn link_up(&mut self, link: Link, cx: &mut Cx<'_>) {
        if self.pace.heard.is_some_and(|heard| cx.now.since(heard) > self.config.horizon) {
            self.forget_others();
        }
        self.pace.begin(link, cx.links.len() <= 1, cx.now, &self.config, cx.rng);
        self.departed.take_turn(cx.now, &self.config, cx.rng);
    }

    /// A neighbour is not there any more: `links` has it no longer.
    pub fn link_down(&mut self, link: Link, neighbour: &Neighbour, cx: &mut Cx<'_>) {
        self.pace.end(link, cx.links.is_empty());
        if cx.links.is_empty() {
            self.departed.rest();
        }
        if let Some(record) = self.records.get(place_of(neighbour.peer.id)) {
            let wait = self.config.probe_timeout;
            let due = cx.now + cx.rng.random_range(wait / 2..=wait * 2);
            self.departed.probe(record.host, record.addr, record.version, due);
        }
    }

    /// An address could not be reached, or no longer.
    pub fn unreachable(&mut self, addr: Addr, _: Unreachable, cx: &mut Cx<'_>) {
        self.departed.unreachable(addr, cx.now);
    }

    /// Takes a message of this part; `link` is the one to the sender, if it is a neighbour.
    /// * Errors: [`Refused`] says why it was dropped.
    pub fn handle(
        &mut self,
        from: Peer,
        link: Option<Link>,
        tag: u8,
        reader: Reader,
        cx: &mut Cx<'_>,
    ) -> Result<(), Refused> {
        let bytes = reader.remaining() + 1;
        let handled = self.admit(from, link, tag, reader, bytes, cx);
        match &handled {
            Err(refused) => self.count(refused),
            Ok(()) => self.counters.messages_in += 1,
        }
        handled
    }

    /// Takes the payload of a broadcast by `origin` that came over `from` (`None` for our own).
    /// * Errors: [`Refused`] says why it was dropped.
    pub fn delivered(
        &mut self,
        payload: &Bytes,
        origin: HostId,
        from: Option<Link>,
        cx: &mut Cx<'_>,
    ) -> Result<(), Refused> {
        let Some(link) = from else { return Ok(()) };
        let taken = decode_items(payload)
            .map_err(Refused::from)
            .and_then(|items| self.take_items(items, Some(origin), link, cx).map(drop));
        if let Err(refused) = &taken {
            self.count(refused);
        }
        taken
    }

    /// When to call [`Facts::deadline`].
    pub fn next_deadline(&self) -> Option<Time> {
        [self.spread.due(), self.pace.next(), self.departed.next()].into_iter().flatten().min()
    }

    /// A moment that [`Facts::next_deadline`] named has come.
    pub fn deadline(&mut self, cx: &mut Cx<'_>) {
        self.flush(cx.now);
        while let Some(link) = self.pace.take_due(cx.now) {
            match self.pace.is_busy(link, cx.now, &self.config) {
                true => self.pace.again(link, cx.now, &self.config),
                false => self.open(link, cx),
            }
        }
        if let Some(link) = self.pace.take_turn(cx.links, cx.now, &self.config, cx.rng) {
            self.departed.forget(cx.now, &self.config);
            self.open(link, cx);
        }
        self.look_after_departed(cx);
    }

    // Inside.

    fn own_record(&self) -> Option<&Record> {
        self.record(self.me)
    }

    fn bounds(&self) -> Bounds {
        Bounds { count: self.config.settings_max, bytes: self.config.settings_bytes_max }
    }

    /// Makes our record's next version, with one entry changed.
    fn say(&mut self, change: Option<(&str, Option<&[u8]>)>, cx: &mut Cx<'_>) -> Result<(), Refused> {
        let version = self.own.next();
        let restart = version.incarnation != self.own.incarnation;
        let empty = Record::new(self.me, cx.me.addr, self.own, 0, &[]);
        let old = self.own_record().unwrap_or(&empty);
        let mut changes = Writer::bare(16 + KEY_BYTES_MAX);
        if let Some((key, value)) = change {
            record::write(Entry { key, counter: version.counter, value }, &mut changes);
        }
        let mut new = old.after(version, old.floor, &changes.finish());
        if restart || old.addr != cx.me.addr {
            new = new.restated(cx.me.addr, version);
        }
        let live = new.facts().count();
        // Retractions give way, the oldest first, once they are in the way of facts.
        while new.entries().count() > self.config.keys_max || new.body().len() > self.config.record_bytes_max
        {
            let oldest = new.entries().filter(|it| it.value.is_none()).map(|it| it.counter).min();
            match oldest {
                // Those who lack this very change are below the floor if the floor is the change itself.
                Some(floor) => new = new.after(version, floor, &[]),
                None if live > self.config.keys_max => {
                    return Err(Refused::TooMany { what: "facts", max: self.config.keys_max });
                }
                None => {
                    let (bytes, max) = (new.body().len(), self.config.record_bytes_max);
                    return Err(Refused::TooLarge { what: "all facts of this peer", bytes, max });
                }
            }
        }
        self.own = version;
        self.put(new);
        self.spread.own(cx.now, &self.config);
        Ok(())
    }

    /// Says again all that is ours, with a version above one that somebody gave in our name.
    fn outbid(&mut self, heard: Version, cx: &mut Cx<'_>) {
        let version = self.own.max(heard).next();
        if version.incarnation > INCARNATION_MAX {
            return;
        }
        let empty = Record::new(self.me, cx.me.addr, version, 0, &[]);
        let new = self.own_record().unwrap_or(&empty).restated(cx.me.addr, version);
        self.own = version;
        self.put(new);
        self.counters.outbid += 1;
        self.spread.own(cx.now, &self.config);
    }

    fn put(&mut self, record: Record) -> Option<Record> {
        let bytes = record.body().len();
        let old = self.records.insert(place_of(record.host), record);
        self.record_bytes = self.record_bytes + bytes - old.as_ref().map_or(0, |it| it.body().len());
        old
    }

    fn drop_owner(&mut self, place: u64, host: HostId, version: Version, now: Time) {
        if let Some(old) = self.records.remove(place) {
            self.record_bytes -= old.body().len();
            self.departed.bury(place, host, version.max(old.version), now, &self.config);
            self.counters.gone += 1;
            self.events.push_back(Event::Gone { host });
        }
    }

    /// What we know of others may be older than what others remember of those who are gone: begin anew.
    fn forget_others(&mut self) {
        let others: Vec<HostId> = self.hosts().filter(|host| *host != self.me).collect();
        for host in others {
            if let Some(old) = self.records.remove(place_of(host)) {
                self.record_bytes -= old.body().len();
                self.events.push_back(Event::Gone { host });
            }
        }
        self.departed = Departed::default();
    }

    fn count(&mut self, refused: &Refused) {
        match refused {
            Refused::Malformed(_) => self.counters.malformed += 1,
            Refused::Stranger(_) => self.counters.strangers += 1,
            Refused::Flood => self.counters.floods += 1,
            Refused::Stale => self.counters.stale += 1,
            _ => self.counters.implausible += 1,
        }
    }

    fn send(&mut self, to: Addr, message: &Message, cx: &mut Cx<'_>) -> usize {
        let bytes = message.encode();
        let length = bytes.len();
        self.counters.messages_out += 1;
        self.counters.bytes_out += length as u64;
        cx.out.send(to, bytes);
        length
    }

    /// Sends to a neighbour; what it costs is charged to it.
    fn tell(&mut self, link: Link, message: &Message, cx: &mut Cx<'_>) {
        let Some(to) = cx.links.get(link).map(|neighbour| neighbour.peer.addr) else { return };
        let bytes = self.send(to, message, cx);
        self.pace.charge(link, bytes);
        if matches!(message, Message::Items { .. }) {
            self.counters.item_bytes_out += bytes as u64;
        }
    }

    fn open(&mut self, link: Link, cx: &mut Cx<'_>) {
        self.pace.opened(link, cx.now, &self.config);
        self.counters.opened += 1;
        let (records, settings) = self.sums();
        self.tell(link, &Message::Digest { records, settings }, cx);
    }

    fn admit(
        &mut self,
        from: Peer,
        link: Option<Link>,
        tag: u8,
        reader: Reader,
        bytes: usize,
        cx: &mut Cx<'_>,
    ) -> Result<(), Refused> {
        let Some(link) = link else {
            // Whoever asks whether we are there is told, for no more than it paid.
            return match Message::decode(tag, reader)? {
                Message::Probe => {
                    self.send(from.addr, &Message::Answer, cx);
                    Ok(())
                }
                Message::Answer if self.departed.answered(from.id) => {
                    // We opened the connection, for this.
                    cx.out.effects.push(Effect::Close { to: from.addr });
                    Ok(())
                }
                Message::Answer => Err(Refused::Stale),
                _ => Err(Refused::Stranger(from)),
            };
        };
        if !self.pace.affords(link, cx.now, &self.config) {
            return Err(Refused::Flood);
        }
        self.pace.charge(link, bytes);
        let message = Message::decode(tag, reader)?;
        self.pace.heard = Some(cx.now);
        match message {
            Message::Digest { records, settings } => {
                if (records, settings) == self.sums() {
                    self.pace.same(link);
                    self.counters.same += 1;
                    self.tell(link, &Message::Same, cx);
                    return Ok(());
                }
                if self.pace.is_busy(link, cx.now, &self.config) {
                    self.pace.again(link, cx.now, &self.config);
                    return Ok(());
                }
                self.pace.talks(link, cx.now);
                let (ours, our_settings) = self.sums();
                if records != ours {
                    self.answer(link, cx, |it, _| it.differ(Prefix::ALL, records == 0));
                }
                if settings != our_settings {
                    self.answer_settings(link, cx, |it| it.differ(Prefix::ALL, settings == 0));
                }
            }
            Message::Same => {
                self.pace.same(link);
                self.counters.same += 1;
            }
            Message::Ranges { set, salt, ranges } => {
                let compare = ranges.iter();
                match set {
                    Set::Records => {
                        self.answer(link, cx, |it, _| compare.for_each(|range| it.compare(range, salt)))
                    }
                    Set::Settings => {
                        self.answer_settings(link, cx, |it| {
                            compare.for_each(|range| it.compare(range, salt))
                        });
                    }
                }
            }
            Message::Listing { set, salt, lists } => match set {
                Set::Records => self.answer(link, cx, |it, departed| {
                    lists.iter().for_each(|list| it.check(list, salt, |place| departed.gone(place)));
                }),
                Set::Settings => self.answer_settings(link, cx, |it| {
                    lists.iter().for_each(|list| it.check(list, salt, |_| None));
                }),
            },
            Message::Have { set, differ, elements } => match set {
                Set::Records => self.answer(link, cx, |it, departed| {
                    for (place, theirs) in elements {
                        it.weigh(place, theirs, differ, |place| departed.gone(place));
                    }
                }),
                Set::Settings => self.answer_settings(link, cx, |it| {
                    elements.iter().for_each(|(place, theirs)| it.weigh(*place, *theirs, differ, |_| None));
                }),
            },
            Message::Items { more, items } => {
                self.pace.talks(link, cx.now);
                if more {
                    self.pace.more(link, cx.now, &self.config);
                }
                if !items.is_empty() {
                    let taken = self.take_items(items, None, link, cx)?;
                    if taken > 0 && !more {
                        self.pace.pass_on(link, cx.links, cx.now, &self.config, cx.rng);
                    }
                }
            }
            Message::Probe => self.tell(link, &Message::Answer, cx),
            Message::Answer => {
                if !self.departed.answered(from.id) {
                    return Err(Refused::Stale);
                }
            }
        }
        Ok(())
    }

    fn answer(
        &mut self,
        link: Link,
        cx: &mut Cx<'_>,
        answer: impl FnOnce(&mut Answer<'_, Record>, &Departed),
    ) {
        let salt = cx.rng.random();
        let (list_max, room) = (self.config.list_max, self.config.chunk_bytes);
        let mut whole = Answer::new(&self.records, Set::Records, salt, list_max, room);
        answer(&mut whole, &self.departed);
        let messages: Vec<Message> = whole.messages().collect();
        messages.iter().for_each(|message| self.tell(link, message, cx));
    }

    fn answer_settings(
        &mut self,
        link: Link,
        cx: &mut Cx<'_>,
        answer: impl FnOnce(&mut Answer<'_, Setting>),
    ) {
        let salt = cx.rng.random();
        let (list_max, room) = (self.config.list_max, self.config.chunk_bytes);
        let mut whole = Answer::new(&self.settings.forest, Set::Settings, salt, list_max, room);
        answer(&mut whole);
        let messages: Vec<Message> = whole.messages().collect();
        messages.iter().for_each(|message| self.tell(link, message, cx));
    }

    fn look_after_departed(&mut self, cx: &mut Cx<'_>) {
        while let Some((place, host, version)) = self.departed.take_ended(cx.now) {
            if self.records.get(place).is_some_and(|record| record.version <= version) {
                self.drop_owner(place, host, version, cx.now);
            }
        }
        if !cx.links.is_empty() && self.departed.take_turn(cx.now, &self.config, cx.rng) {
            let begin = self.asked_last.map_or_else(|| cx.rng.random(), |place| place.wrapping_add(1));
            if let Some(record) = self.records.from(begin) {
                self.asked_last = Some(place_of(record.host));
                if record.host != self.me {
                    self.departed.probe(record.host, record.addr, record.version, cx.now);
                }
            }
        }
        loop {
            // Neighbours are watched by the membership.
            let records = &self.records;
            let worth_asking = |host: HostId| {
                let neighbour = cx.links.iter().any(|(_, neighbour)| neighbour.peer.id == host);
                records.get(place_of(host)).filter(|_| !neighbour).map(|it| it.version)
            };
            match self.departed.take_probe(cx.now, &self.config, cx.rng, worth_asking) {
                None => break,
                Some(Due::Ask(_, addr)) => {
                    self.counters.probes += 1;
                    self.send(addr, &Message::Probe, cx);
                }
                // Alone, it is rather us who are gone.
                Some(Due::Gone(..)) if cx.links.is_empty() => {}
                Some(Due::Gone(host, version)) => {
                    let place = place_of(host);
                    if !self.departed.doubted(place)
                        && self.departed.doubt(place, host, version, cx.now, &self.config)
                    {
                        self.spread.gone(place, host, version, cx.now, &self.config);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
