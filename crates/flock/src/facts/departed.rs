//! Who is gone, and how we know.
//!
//! Saying "I am here" costs every peer bytes for every other, for ever: ten thousand peers that each say it once
//! an hour cost each of them more than all other idle traffic. So nobody says it, and somebody asks: each peer asks
//! one owner after the other, beginning anywhere, one in `probe_every`, which costs a peer the same in a cell of any size;
//! and a peer that loses a link asks the neighbour that was there (random probes as in Das, Gupta and Motivala,
//! "SWIM", DSN 2002, each in turn as its section 4.3 has it). An owner that cannot be reached twice is said to be gone, with the last version heard from
//! it. It has `grace` to say anything newer; then it is dropped by all, and remembered as gone at that version
//! for `horizon`, so that a peer that was away cannot bring it back.

use super::config::Config;
use super::message::Item;
use super::version::Version;
use crate::addr::Addr;
use crate::time::Time;
use rand::{Rng, RngExt};
use skein_model::HostId;
use std::collections::{BTreeMap, VecDeque};

/// Most probes under way.
const PROBES_MAX: usize = 32;

/// How often an owner is asked before it is said to be gone.
const TRIES: u8 = 2;

#[derive(Clone, Copy, Debug)]
struct Doubt {
    host: HostId,
    version: Version,
    until: Time,
}

#[derive(Clone, Copy, Debug)]
struct Tombstone {
    host: HostId,
    version: Version,
    since: Time,
}

#[derive(Clone, Copy, Debug)]
struct Probe {
    host: HostId,
    addr: Addr,
    version: Version,
    due: Time,
    tries: u8,
    /// Asked, and waiting for the answer until `due`; else to be asked then.
    asked: bool,
}

/// What is to be done about a probe that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Ask this owner.
    Ask(HostId, Addr),
    /// It did not answer: say that it is gone.
    Gone(HostId, Version),
}

/// See the module.
#[derive(Debug, Default)]
pub struct Departed {
    doubts: BTreeMap<u64, Doubt>,
    /// No doubt ends before this.
    first_end: Option<Time>,
    tombstones: BTreeMap<u64, Tombstone>,
    /// By rising time; those that were raised meanwhile are here twice.
    buried: VecDeque<(Time, u64)>,
    probes: Vec<Probe>,
    /// When to ask the next owner.
    turn: Option<Time>,
}

impl Departed {
    /// Doubts that an owner at this version is there; false when there are too many doubts already.
    pub fn doubt(&mut self, place: u64, host: HostId, version: Version, now: Time, config: &Config) -> bool {
        if let Some(doubt) = self.doubts.get_mut(&place) {
            doubt.version = doubt.version.max(version);
            return true;
        }
        if self.doubts.len() >= config.doubts_max {
            return false;
        }
        let until = now + config.grace;
        self.first_end = Some(self.first_end.map_or(until, |first| first.min(until)));
        self.doubts.insert(place, Doubt { host, version, until });
        true
    }

    /// Whether the owner is in doubt.
    pub fn doubted(&self, place: u64) -> bool {
        self.doubts.contains_key(&place)
    }

    /// The owner said something at this version: it is there, unless we heard that it went later than that.
    pub fn heard(&mut self, place: u64, version: Version) {
        if self.doubts.get(&place).is_some_and(|doubt| doubt.version < version) {
            self.doubts.remove(&place);
        }
        if self.tombstones.get(&place).is_some_and(|tombstone| tombstone.version < version) {
            self.tombstones.remove(&place);
        }
    }

    /// A doubt that has lasted long enough.
    pub fn take_ended(&mut self, now: Time) -> Option<(u64, HostId, Version)> {
        if self.first_end.is_none_or(|first| now < first) {
            return None;
        }
        let ended =
            self.doubts.iter().find(|(_, doubt)| doubt.until <= now).map(|(place, doubt)| (*place, *doubt));
        let Some((place, doubt)) = ended else {
            self.first_end = self.doubts.values().map(|doubt| doubt.until).min();
            return None;
        };
        self.doubts.remove(&place);
        Some((place, doubt.host, doubt.version))
    }

    /// Remembers an owner as gone at a version.
    pub fn bury(&mut self, place: u64, host: HostId, version: Version, now: Time, config: &Config) {
        self.doubts.remove(&place);
        self.tombstones.insert(place, Tombstone { host, version, since: now });
        self.buried.push_back((now, place));
        self.forget(now, config);
    }

    /// Forgets those that are gone for longer than the horizon, and the oldest where there are too many.
    pub fn forget(&mut self, now: Time, config: &Config) {
        while let Some(&(since, place)) = self.buried.front() {
            if now.since(since) <= config.horizon && self.buried.len() <= config.tombstones_max {
                break;
            }
            self.buried.pop_front();
            if self.tombstones.get(&place).is_some_and(|tombstone| tombstone.since == since) {
                self.tombstones.remove(&place);
            }
        }
    }

    /// The version at which the owner is remembered as gone.
    pub fn gone_at(&self, place: u64) -> Option<Version> {
        self.tombstones.get(&place).map(|tombstone| tombstone.version)
    }

    /// The word to others that the owner is gone.
    pub fn gone(&self, place: u64) -> Option<Item> {
        self.tombstones.get(&place).map(|it| Item::Gone { host: it.host, version: it.version })
    }

    /// Asks an owner at the given time whether it is there, unless it is asked already.
    pub fn probe(&mut self, host: HostId, addr: Addr, version: Version, due: Time) {
        if self.probes.len() < PROBES_MAX && self.probes.iter().all(|probe| probe.host != host) {
            self.probes.push(Probe { host, addr, version, due, tries: 0, asked: false });
        }
    }

    /// The owner answered; false when it was not asked.
    pub fn answered(&mut self, host: HostId) -> bool {
        let before = self.probes.len();
        self.probes.retain(|probe| !(probe.host == host && probe.asked));
        self.probes.len() < before
    }

    /// Nobody can be reached at an address: whoever was asked there does not answer.
    pub fn unreachable(&mut self, addr: Addr, now: Time) {
        self.probes
            .iter_mut()
            .filter(|probe| probe.addr == addr && probe.asked)
            .for_each(|probe| probe.due = now);
    }

    /// What is to be done about a probe that is due. `version_now` gives the version of an owner that is worth
    /// asking about: one that is no neighbour and that we hold facts of.
    pub fn take_probe(
        &mut self,
        now: Time,
        config: &Config,
        rng: &mut dyn Rng,
        version_now: impl Fn(HostId) -> Option<Version>,
    ) -> Option<Due> {
        let at = self.probes.iter().position(|probe| probe.due <= now)?;
        let probe = &mut self.probes[at];
        if version_now(probe.host) != Some(probe.version) {
            self.probes.swap_remove(at);
            return self.take_probe(now, config, rng, version_now);
        }
        if !probe.asked {
            probe.asked = true;
            probe.due = now + config.probe_timeout;
            return Some(Due::Ask(probe.host, probe.addr));
        }
        probe.tries += 1;
        if probe.tries < TRIES {
            probe.asked = false;
            probe.due = now + rng.random_range(config.probe_timeout..=config.probe_timeout * 3);
            return self.take_probe(now, config, rng, version_now);
        }
        let Probe { host, version, .. } = self.probes.swap_remove(at);
        Some(Due::Gone(host, version))
    }

    /// Whether it is time to ask the next owner; the next turn is then set.
    pub fn take_turn(&mut self, now: Time, config: &Config, rng: &mut dyn Rng) -> bool {
        let due = self.turn.is_some_and(|turn| turn <= now);
        if due || self.turn.is_none() {
            let every = config.probe_every;
            self.turn = Some(now + rng.random_range(every / 2..=every * 3 / 2));
        }
        due
    }

    /// Asks nobody until told to.
    pub fn rest(&mut self) {
        self.turn = None;
    }

    /// The earliest that something is due.
    pub fn next(&self) -> Option<Time> {
        self.probes.iter().map(|probe| probe.due).chain(self.first_end).chain(self.turn).min()
    }

    /// Bytes on the heap, about.
    pub fn heap_bytes(&self) -> usize {
        let doubts = self.doubts.len() * (size_of::<Doubt>() + 16);
        let tombstones = self.tombstones.len() * (size_of::<Tombstone>() + 16);
        doubts + tombstones + self.buried.capacity() * 16 + self.probes.capacity() * size_of::<Probe>()
    }
}
