//! What of that which others send is taken in.

use super::forest::{Element, place_of};
use super::message::{Item, Message, Set};
use super::record::{self, Record};
use super::version::Version;
use super::{Event, Facts};
use crate::addr::Addr;
use crate::io::{Cx, Refused};
use crate::links::Link;
use bytes::Bytes;
use skein_model::HostId;
use std::cmp::Ordering;

/// What to tell the neighbour that sent items.
#[derive(Debug, Default)]
struct Back {
    /// It does not know these.
    items: Vec<Item>,
    /// We lack what came before.
    have: Vec<(u64, Version)>,
}

/// A record as it came.
struct Word<'a> {
    host: HostId,
    addr: Addr,
    version: Version,
    floor: u64,
    body: &'a Bytes,
}

impl Facts {
    /// Takes in what is news to us of some items, by broadcast of `origin` or (`None`) by exchange, and gives how
    /// many were.
    /// * Errors: why the first of them was refused, when none was taken in.
    pub(super) fn take_items(
        &mut self,
        items: Vec<Item>,
        origin: Option<HostId>,
        link: Link,
        cx: &mut Cx<'_>,
    ) -> Result<usize, Refused> {
        let mut back = Back::default();
        let (mut taken, mut first) = (0, None);
        for item in items {
            match self.take_item(item, origin, &mut back, cx) {
                Ok(()) => taken += 1,
                Err(refused) => drop(first.get_or_insert(refused)),
            }
        }
        self.counters.applied += taken as u64;
        if !back.have.is_empty() {
            self.counters.gaps += back.have.len() as u64;
            let have = Message::Have { set: Set::Records, differ: false, elements: back.have };
            self.tell(link, &have, cx);
            // It may lack the same, and have asked for it as we do.
            self.pace.again(link, cx.now, &self.config);
        }
        // In a broadcast the neighbour only passes on; what it lacks shows in the next exchange.
        if origin.is_none() && !back.items.is_empty() {
            let mut room = self.config.chunk_bytes;
            back.items.retain(|item| {
                room = room.saturating_sub(item.bytes_about());
                room > 0
            });
            self.tell(link, &Message::Items { more: false, items: back.items }, cx);
        }
        match first {
            Some(refused) if taken == 0 => Err(refused),
            _ => Ok(taken),
        }
    }

    fn take_item(
        &mut self,
        item: Item,
        origin: Option<HostId>,
        back: &mut Back,
        cx: &mut Cx<'_>,
    ) -> Result<(), Refused> {
        match item {
            Item::Whole { host, addr, version, floor, body } => {
                only_the_owner(host, origin)?;
                self.take_whole(Word { host, addr, version, floor, body: &body }, back, cx)
            }
            Item::Changes { host, version, base, floor, changes } => {
                only_the_owner(host, origin)?;
                self.take_changes(host, version, base, floor, &changes, back, cx)
            }
            Item::Gone { host, version } => self.take_gone(host, version, origin, back, cx),
            Item::Setting { key, version, value } => self.take_setting(&key, version, value, back),
        }
    }

    fn take_whole(&mut self, word: Word<'_>, back: &mut Back, cx: &mut Cx<'_>) -> Result<(), Refused> {
        let Word { host, addr, version, floor, body } = word;
        let place = place_of(host);
        let new = Record::new(host, addr, version, floor, body);
        if host == self.me {
            return self.hear_of_ourselves(version, self.own_record() != Some(&new), cx);
        }
        let ours = self.records.get(place);
        self.plausible(ours, &new)?;
        if let Some(gone) = self.departed.gone_at(place).filter(|gone| version <= *gone) {
            back.items.push(Item::Gone { host, version: gone });
            return Err(Refused::Stale);
        }
        match ours.map(|it| (version.cmp(&it.version), it)) {
            Some((Ordering::Less, _)) => return Err(Refused::Stale),
            Some((Ordering::Equal, it)) if *it == new => return Err(Refused::Stale),
            Some((Ordering::Equal, it)) if !new.beats(it) => {
                back.items.push(it.item(Version::NONE));
                return Err(Refused::Stale);
            }
            Some(_) => {}
            None if self.records.len() >= self.config.hosts_max => {
                return Err(Refused::TooMany { what: "owners of facts", max: self.config.hosts_max });
            }
            None => {}
        }
        self.take_in(new)
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the fields of one item, and what every item is taken with"
    )]
    fn take_changes(
        &mut self,
        host: HostId,
        version: Version,
        base: u64,
        floor: u64,
        changes: &Bytes,
        back: &mut Back,
        cx: &mut Cx<'_>,
    ) -> Result<(), Refused> {
        let place = place_of(host);
        if host == self.me {
            return self.hear_of_ourselves(version, self.own != version, cx);
        }
        if self.departed.gone_at(place).is_some_and(|gone| version <= gone) {
            return Err(Refused::Stale);
        }
        let Some(ours) = self.records.get(place) else {
            back.have.push((place, Version::NONE));
            return Ok(());
        };
        if version <= ours.version {
            return Err(Refused::Stale);
        }
        if version.incarnation != ours.version.incarnation || ours.version.counter < base {
            let have = (place, ours.version);
            self.plausible_leap(ours.version, version)?;
            back.have.push(have);
            return Ok(());
        }
        let new = ours.after(version, floor, changes);
        self.plausible(Some(ours), &new)?;
        self.take_in(new)
    }

    fn take_gone(
        &mut self,
        host: HostId,
        version: Version,
        origin: Option<HostId>,
        back: &mut Back,
        cx: &mut Cx<'_>,
    ) -> Result<(), Refused> {
        let place = place_of(host);
        if host == self.me {
            // Of nothing, nothing is missed.
            self.own_record().ok_or(Refused::Stale)?;
            return self.hear_of_ourselves(version, true, cx);
        }
        let Some(ours) = self.records.get(place) else { return Err(Refused::Stale) };
        self.plausible_leap(ours.version, version)?;
        if version < ours.version {
            back.items.push(ours.item(Version::NONE));
            return Err(Refused::Stale);
        }
        if origin == Some(host) {
            self.drop_owner(place, host, version, cx.now);
            return Ok(());
        }
        self.spread.gone_was_told(place);
        let known = self.departed.doubted(place);
        match self.departed.doubt(place, host, version, cx.now, &self.config) {
            true if known => Err(Refused::Stale),
            true => Ok(()),
            false => Err(Refused::Flood),
        }
    }

    fn take_setting(
        &mut self,
        key: &Bytes,
        version: u64,
        value: Option<Bytes>,
        back: &mut Back,
    ) -> Result<(), Refused> {
        let Ok(key) = std::str::from_utf8(key) else { return Err(Refused::Implausible("a setting's name")) };
        match self.settings.put(key, version, value.as_deref(), self.bounds()) {
            Ok(place) => {
                self.spread.setting_was_told(place);
                if self.config.tell_changes {
                    self.events.push_back(Event::SettingChanged { key: key.into() });
                }
                Ok(())
            }
            Err(Refused::Stale) => {
                let place = super::settings::place_of(key);
                if let Some(ours) = self.settings.forest.get(place) {
                    match (ours.version, ours.value.as_deref()) == (version, value.as_deref()) {
                        true => self.spread.setting_was_told(place),
                        false => back.items.push(ours.item(Version::NONE)),
                    }
                }
                Err(Refused::Stale)
            }
            Err(refused) => Err(refused),
        }
    }

    /// Somebody quotes us: after a restart what we said before, else what we never said.
    fn hear_of_ourselves(&mut self, version: Version, differs: bool, cx: &mut Cx<'_>) -> Result<(), Refused> {
        // An older run's facts are ended by our saying anything at all in this one.
        let unsaid = self.own.counter == 0;
        if version < self.own && !unsaid || version == self.own && !differs {
            return Err(Refused::Stale);
        }
        self.plausible_leap(self.own, version)?;
        self.outbid(version, cx);
        Ok(())
    }

    /// Whether an owner that was at `known` can be at `version` now.
    fn plausible_leap(&self, known: Version, version: Version) -> Result<(), Refused> {
        let leap = match version.incarnation.checked_sub(known.incarnation) {
            None => true,
            Some(0) => version.counter <= known.counter.saturating_add(self.config.counter_leap_max),
            Some(leap) => leap <= self.config.incarnation_leap_max,
        };
        if leap { Ok(()) } else { Err(Refused::Implausible("a version that no owner reaches")) }
    }

    fn plausible(&self, ours: Option<&Record>, new: &Record) -> Result<(), Refused> {
        ours.map_or(Ok(()), |ours| self.plausible_leap(ours.version, new.version))?;
        if new.body().len() > self.config.record_bytes_max {
            return Err(Refused::Implausible("facts over their owner's budget"));
        }
        if new.entries().count() > self.config.keys_max {
            return Err(Refused::Implausible("more keys than an owner may have"));
        }
        let bytes = self.record_bytes + new.body().len() - ours.map_or(0, |it| it.body().len());
        if bytes > self.config.total_bytes_max {
            return Err(Refused::TooLarge {
                what: "the facts of all peers",
                bytes,
                max: self.config.total_bytes_max,
            });
        }
        Ok(())
    }

    fn take_in(&mut self, new: Record) -> Result<(), Refused> {
        let (host, version) = (new.host, new.version);
        let place = place_of(host);
        self.departed.heard(place, version);
        self.spread.gone_was_told(place);
        let old = self.put(new);
        if self.config.tell_changes {
            let old = old.as_ref().map_or(&[][..], Record::body);
            let new = self.records.get(place).map_or(&[][..], Record::body);
            let keys = changed_keys(old, new);
            self.events.extend(keys.into_iter().map(|key| Event::Changed { host, key }));
        }
        Ok(())
    }
}

fn only_the_owner(host: HostId, origin: Option<HostId>) -> Result<(), Refused> {
    match origin {
        Some(origin) if origin != host => Err(Refused::Implausible("a broadcast of somebody else's facts")),
        _ => Ok(()),
    }
}

/// The keys under which two bodies say different things.
fn changed_keys(old: &[u8], new: &[u8]) -> Vec<String> {
    let facts = |body| record::entries(body).filter_map(|it| it.value.map(|value| (it.key, value)));
    let (mut old, mut new) = (facts(old).peekable(), facts(new).peekable());
    let mut keys = Vec::new();
    loop {
        let key = match (old.peek(), new.peek()) {
            (None, None) => return keys,
            (Some((key, _)), None) | (None, Some((key, _))) => *key,
            (Some((a, _)), Some((b, _))) => *a.min(b),
        };
        let was = old.next_if(|(its, _)| *its == key);
        let is = new.next_if(|(its, _)| *its == key);
        if was.map(|it| it.1) != is.map(|it| it.1) {
            keys.push(key.to_owned());
        }
    }
}
