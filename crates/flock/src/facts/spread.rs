//! What is to be broadcast, and when: at most one payload in each interval.

use super::config::Config;
use super::forest::Element;
use super::message::{Item, encode_items};
use super::version::Version;
use super::{Facts, place_of};
use crate::time::Time;
use bytes::Bytes;
use skein_model::HostId;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What is to be broadcast.
#[derive(Debug, Default)]
pub struct Spread {
    /// The version of ours that was broadcast last.
    told: Version,
    /// When something of ours is to be told.
    own: Option<Time>,
    /// Places of settings to be told.
    settings: BTreeSet<u64>,
    settings_due: Option<Time>,
    /// Owners to be said to be gone.
    gone: BTreeMap<u64, (HostId, Version)>,
    last: Option<Time>,
    ready: VecDeque<Bytes>,
}

impl Spread {
    fn soonest(&self, now: Time, config: &Config) -> Time {
        let due = now + config.coalesce;
        self.last.map_or(due, |last| due.max(last + config.broadcast_interval))
    }

    /// Our record has a new version.
    pub fn own(&mut self, now: Time, config: &Config) {
        let due = self.soonest(now, config);
        self.own.get_or_insert(due);
    }

    /// A setting is to be told at a time.
    pub fn setting(&mut self, place: u64, due: Time) {
        self.settings.insert(place);
        self.settings_due.get_or_insert(due);
    }

    /// Somebody else told the setting.
    pub fn setting_was_told(&mut self, place: u64) {
        self.settings.remove(&place);
        if self.settings.is_empty() {
            self.settings_due = None;
        }
    }

    /// An owner is to be said to be gone.
    pub fn gone(&mut self, place: u64, host: HostId, version: Version, now: Time, config: &Config) {
        self.gone.insert(place, (host, version));
        self.own(now, config);
    }

    /// Somebody else said that the owner is gone, or the owner that it is not.
    pub fn gone_was_told(&mut self, place: u64) {
        self.gone.remove(&place);
    }

    /// When the next payload is due.
    pub fn due(&self) -> Option<Time> {
        let due = self.own.into_iter().chain(self.settings_due).min()?;
        Some(due)
    }

    /// The next payload.
    pub fn take(&mut self) -> Option<Bytes> {
        self.ready.pop_front()
    }

    /// Bytes on the heap, about.
    pub fn heap_bytes(&self) -> usize {
        let ready = self.ready.iter().map(|it| it.len() + size_of::<Bytes>()).sum::<usize>();
        self.settings.len() * 16 + self.gone.len() * 40 + ready
    }
}

impl Facts {
    /// Makes the next payload ready, if it is due.
    pub(super) fn flush(&mut self, now: Time) {
        let config = &self.config;
        if self.spread.due().is_none_or(|due| now < due) {
            return;
        }
        if let Some(next) =
            self.spread.last.map(|last| last + config.broadcast_interval).filter(|next| now < *next)
        {
            // A setting came due right after a broadcast of something else.
            self.spread.own = self.spread.own.map(|due| due.max(next));
            self.spread.settings_due = self.spread.settings_due.map(|due| due.max(next));
            return;
        }
        let mut room = config.broadcast_bytes_max;
        let mut items = Vec::new();
        let mut fits = |item: Item| {
            let bytes = item.bytes_about();
            let fits = bytes <= room || items.is_empty();
            if fits {
                room = room.saturating_sub(bytes);
                items.push(item);
            }
            fits
        };
        if self.spread.told != self.own
            && let Some(record) = self.records.get(place_of(self.me))
        {
            fits(record.item(self.spread.told));
            self.spread.told = self.own;
        }
        while let Some((&place, &(host, version))) = self.spread.gone.first_key_value() {
            if !fits(Item::Gone { host, version }) {
                break;
            }
            self.spread.gone.remove(&place);
        }
        while let Some(&place) = self.spread.settings.first() {
            if let Some(setting) = self.settings.forest.get(place)
                && !fits(setting.item(Version::NONE))
            {
                break;
            }
            self.spread.settings.remove(&place);
        }
        let next = now + config.broadcast_interval;
        self.spread.own = (!self.spread.gone.is_empty()).then_some(next);
        self.spread.settings_due = (!self.spread.settings.is_empty()).then_some(next);
        if !items.is_empty() {
            self.spread.last = Some(now);
            self.spread.ready.push_back(encode_items(&items));
            self.counters.broadcasts += 1;
        }
    }
}
