//! What one peer knows of the others by the flock. Hints all of it: nothing that must not be wrong may rest on it.

use crate::status::Health;
use bytes::Bytes;
use skein_flock::Flock;
use skein_flock::health::State;
use skein_model::HostId;
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// The keys under which peers say something about themselves, all as text.
pub(crate) mod fact {
    /// Where it serves HTTP, `host:port`.
    pub(crate) const HTTP: &str = "http";
    /// Its release.
    pub(crate) const BUILD: &str = "build";
    /// The catalog version it runs by, decimal.
    pub(crate) const SEEN: &str = "seen";
    /// There and "1" while it wants to lead nothing.
    pub(crate) const DRAIN: &str = "drain";
    /// Free bytes on its drive, decimal.
    pub(crate) const DISK_FREE: &str = "disk.free";
}

/// The setting that summarises the newest catalog.
pub(crate) const CATALOG_SETTING: &str = "catalog";

/// What a peer says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PeerFacts {
    /// Where it takes connections of peers.
    pub(crate) addr: SocketAddr,
    /// Where it serves HTTP.
    pub(crate) http: Option<String>,
    /// Its release.
    pub(crate) build: Option<String>,
    /// Whether it wants to lead nothing.
    pub(crate) draining: bool,
    /// The catalog version it runs by.
    pub(crate) seen: Option<u64>,
    /// Free bytes on its drive.
    pub(crate) disk_free: Option<u64>,
}

impl PeerFacts {
    /// A peer of which only the address is known.
    pub(super) fn at(addr: SocketAddr) -> PeerFacts {
        PeerFacts { addr, http: None, build: None, draining: false, seen: None, disk_free: None }
    }
}

/// Everybody heard of, this peer left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct View {
    /// The others.
    pub(crate) peers: BTreeMap<HostId, PeerFacts>,
    /// Those of them that are not well.
    pub(crate) unwell: BTreeMap<HostId, Health>,
    /// The newest summary of the catalog, with its version.
    pub(crate) catalog: Option<(u64, Bytes)>,
}

impl View {
    /// What the flock thinks of a peer.
    pub(crate) fn health(&self, host: HostId) -> Health {
        match self.unwell.get(&host) {
            Some(health) => *health,
            None if self.peers.contains_key(&host) => Health::Healthy,
            None => Health::Missing,
        }
    }

    /// Takes over what the flock knows of a host now.
    pub(super) fn look_at(&mut self, flock: &Flock, host: HostId) {
        let Some(record) = flock.facts().record(host).filter(|_| host != flock.me().id) else {
            self.peers.remove(&host);
            return;
        };
        let text = |key| record.get(key).and_then(|value| std::str::from_utf8(value).ok());
        let facts = PeerFacts {
            addr: record.addr.into(),
            http: text(fact::HTTP).map(str::to_owned),
            build: text(fact::BUILD).map(str::to_owned),
            draining: text(fact::DRAIN) == Some("1"),
            seen: text(fact::SEEN).and_then(|text| text.parse().ok()),
            disk_free: text(fact::DISK_FREE).and_then(|text| text.parse().ok()),
        };
        self.peers.insert(host, facts);
    }

    /// Takes over the summary of the catalog.
    pub(super) fn look_at_catalog(&mut self, flock: &Flock) {
        if let Some((version, value)) = flock.facts().settings().get(CATALOG_SETTING) {
            self.catalog = Some((version, Bytes::copy_from_slice(value)));
        }
    }

    /// Takes over what the flock thinks of everybody.
    pub(super) fn look_at_health(&mut self, flock: &Flock) {
        self.unwell = flock
            .health()
            .unwell()
            .map(|(host, state)| {
                let health = match state {
                    State::Healthy => Health::Healthy,
                    State::Suspected => Health::Suspected,
                    State::Avoided { .. } => Health::Avoided,
                    State::Trying => Health::Tried,
                };
                (host, health)
            })
            .collect();
    }
}
