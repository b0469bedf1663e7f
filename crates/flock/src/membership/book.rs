//! The address book: some hundreds of contacts, four bytes each for IPv4 peers on the usual port.
//!
//! One list in three parts, `| passive | idle | doubtful |`. The passive view of HyParView is its front: contacts
//! heard of lately. What a newer contact pushes out of there stays in the idle part, a sample of all that was ever
//! heard of. Whoever was dialled is doubtful until something comes from it, so that no list of open dials is
//! needed and nobody is dialled twice. The doubtful are kept, because the other side of a partition is among them.

use crate::addr::Addr;
use rand::{Rng, RngExt};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Entries from here up are no IPv4 addresses (240.0.0.0/4 is reserved, RFC 1112) but places in `odd`.
const ODD: u32 = 0xF000_0000;

/// Contacts, and what is thought of them.
#[derive(Clone, Debug)]
pub(crate) struct Book {
    entries: Vec<u32>,
    /// Addresses of another port or another protocol; freed places hold `None`.
    odd: Vec<Option<Addr>>,
    passive: u16,
    /// Entries from here on are doubtful.
    doubtful: u16,
    port: u16,
}

impl Book {
    /// Of a peer that listens on `port`, as most others are expected to.
    pub(crate) fn new(port: u16) -> Self {
        Self { entries: Vec::new(), odd: Vec::new(), passive: 0, doubtful: 0, port }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// How many have not been found wanting.
    pub(crate) fn trusted(&self) -> usize {
        usize::from(self.doubtful)
    }

    /// How many were dialled and have not answered.
    pub(crate) fn doubted(&self) -> usize {
        self.entries.len() - self.trusted()
    }

    /// The passive view.
    pub(crate) fn passive(&self) -> impl Iterator<Item = Addr> {
        self.entries[..usize::from(self.passive)].iter().filter_map(|entry| self.decode(*entry))
    }

    /// Passive, idle, doubtful.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Addr> {
        self.entries.iter().filter_map(|entry| self.decode(*entry))
    }

    /// Takes in a contact from configuration or an earlier run; those beyond the limit are left out.
    pub(crate) fn recall(&mut self, addr: Addr, limits: Limits) {
        if self.entries.len() < limits.contacts && self.find(addr).is_none() {
            let entry = self.encode(addr);
            self.entries.push(entry);
            self.doubtful += 1;
            self.passive = self.passive.max(self.entries.len().min(limits.passive) as u16);
        }
    }

    /// Takes in a contact somebody spoke of, as one of the passive view. A known one stays what it is. Beyond
    /// `limits` a random other one is forgotten.
    pub(crate) fn hear_of(&mut self, addr: Addr, limits: Limits, rng: &mut dyn Rng) -> bool {
        if self.find(addr).is_some() {
            return false;
        }
        if self.entries.len() >= limits.contacts.max(1) {
            self.forget_one(limits, rng);
        }
        let entry = self.encode(addr);
        if self.entries.capacity() == self.entries.len() {
            // Doubling would hold twice the memory for good.
            self.entries.reserve_exact(16.min(limits.contacts.saturating_sub(self.entries.len())).max(1));
        }
        self.entries.push(entry);
        let mut at = self.entries.len() - 1;
        at = self.swap_into(at, Part::Idle);
        if usize::from(self.passive) < limits.passive {
            self.entries.swap(at, usize::from(self.passive));
            self.passive += 1;
        } else if self.passive > 0 {
            self.entries.swap(at, rng.random_range(0..usize::from(self.passive)));
        }
        true
    }

    /// Something came from the contact: it lives.
    pub(crate) fn trust(&mut self, addr: Addr) {
        if let Some(at) = self.find(addr).filter(|at| *at >= self.trusted()) {
            self.swap_into(at, Part::Idle);
        }
    }

    /// The contact was dialled, or does not answer.
    pub(crate) fn doubt(&mut self, addr: Addr) {
        if let Some(at) = self.find(addr) {
            self.doubt_at(at);
        }
    }

    /// Takes the contact out of the passive view, where neighbours have no place.
    pub(crate) fn not_passive(&mut self, addr: Addr) {
        if let Some(at) = self.find(addr).filter(|at| *at < usize::from(self.passive)) {
            self.passive -= 1;
            self.entries.swap(at, usize::from(self.passive));
        }
    }

    /// Puts a contact that lives into the passive view, taking it in if need be.
    pub(crate) fn make_passive(&mut self, addr: Addr, limits: Limits, rng: &mut dyn Rng) {
        self.trust(addr);
        if self.hear_of(addr, limits, rng) {
            return;
        }
        let Some(at) = self.find(addr).filter(|at| *at >= usize::from(self.passive)) else { return };
        if usize::from(self.passive) < limits.passive {
            self.entries.swap(at, usize::from(self.passive));
            self.passive += 1;
        } else if self.passive > 0 {
            self.entries.swap(at, rng.random_range(0..usize::from(self.passive)));
        }
    }

    /// Leaves the contact out: it said goodbye.
    pub(crate) fn forget(&mut self, addr: Addr) {
        if let Some(at) = self.find(addr) {
            self.remove(at);
        }
    }

    /// Draws a contact nobody doubts, half of the time from the passive view, and doubts it from now on.
    pub(crate) fn draw(&mut self, rng: &mut dyn Rng) -> Option<Addr> {
        let passive = usize::from(self.passive);
        let until = if passive > 0 && rng.random_bool(0.5) { passive } else { self.trusted() };
        if until == 0 {
            return None;
        }
        let at = rng.random_range(0..until);
        let addr = self.decode(self.entries[at]);
        self.doubt_at(at);
        addr
    }

    /// A random doubtful contact.
    pub(crate) fn any_doubtful(&self, rng: &mut dyn Rng) -> Option<Addr> {
        let from = self.trusted();
        if from == self.entries.len() {
            return None;
        }
        self.decode(self.entries[rng.random_range(from..self.entries.len())])
    }

    /// Everybody deserves another chance.
    pub(crate) fn trust_all(&mut self) {
        self.doubtful = self.entries.len() as u16;
    }

    /// Up to `count` different contacts nobody doubts, for others to know.
    pub(crate) fn sample(&self, count: usize, rng: &mut dyn Rng) -> Vec<Addr> {
        let (trusted, count) = (self.trusted(), count.min(self.trusted()));
        // Floyd's sampling: each place is drawn once, whatever was drawn before.
        let mut places: Vec<usize> = Vec::with_capacity(count);
        for last in trusted - count..trusted {
            let at = rng.random_range(0..=last);
            places.push(if places.contains(&at) { last } else { at });
        }
        places.into_iter().filter_map(|at| self.decode(self.entries[at])).collect()
    }

    /// Bytes held, inline and on the heap.
    pub(crate) fn state_bytes(&self) -> usize {
        size_of::<Self>()
            + self.entries.capacity() * size_of::<u32>()
            + self.odd.capacity() * size_of::<Option<Addr>>()
    }

    fn doubt_at(&mut self, at: usize) {
        self.swap_into(at, Part::Doubtful);
    }

    /// Moves the entry to the edge of another part and says where it is then.
    fn swap_into(&mut self, mut at: usize, part: Part) -> usize {
        match part {
            Part::Idle => {
                if at >= self.trusted() {
                    self.entries.swap(at, usize::from(self.doubtful));
                    at = usize::from(self.doubtful);
                    self.doubtful += 1;
                }
            }
            Part::Doubtful => {
                if at < usize::from(self.passive) {
                    self.passive -= 1;
                    self.entries.swap(at, usize::from(self.passive));
                    at = usize::from(self.passive);
                }
                if at < self.trusted() {
                    self.doubtful -= 1;
                    self.entries.swap(at, usize::from(self.doubtful));
                    at = usize::from(self.doubtful);
                }
            }
        }
        at
    }

    /// Makes room: one of the doubtful while they are more than their share, else any that is not passive.
    fn forget_one(&mut self, limits: Limits, rng: &mut dyn Rng) {
        let from = if self.doubted() > limits.doubtful { self.trusted() } else { usize::from(self.passive) };
        let from = from.min(self.entries.len() - 1);
        self.remove(rng.random_range(from..self.entries.len()));
    }

    fn remove(&mut self, at: usize) {
        let at = self.swap_into(at, Part::Doubtful);
        let entry = self.entries.swap_remove(at);
        if entry >= ODD {
            self.odd[(entry - ODD) as usize] = None;
        }
    }

    fn find(&self, addr: Addr) -> Option<usize> {
        let entry = match addr.ip() {
            IpAddr::V4(ip) if addr.port() == self.port && u32::from(ip) < ODD => u32::from(ip),
            _ => ODD + self.odd.iter().position(|odd| *odd == Some(addr))? as u32,
        };
        // Sixteen at a time without a branch, for messages bring dozens of contacts to be looked up among hundreds.
        let among = |known: &[u32]| known.iter().fold(false, |found, known| found | (*known == entry));
        let from = 16 * self.entries.chunks(16).position(among)?;
        self.entries[from..].iter().position(|known| *known == entry).map(|at| from + at)
    }

    fn encode(&mut self, addr: Addr) -> u32 {
        if let IpAddr::V4(ip) = addr.ip()
            && addr.port() == self.port
            && u32::from(ip) < ODD
        {
            return ip.into();
        }
        let at = self.odd.iter().position(Option::is_none).unwrap_or_else(|| {
            self.odd.reserve_exact(1);
            self.odd.push(None);
            self.odd.len() - 1
        });
        self.odd[at] = Some(addr);
        ODD + at as u32
    }

    fn decode(&self, entry: u32) -> Option<Addr> {
        if entry >= ODD {
            return self.odd.get((entry - ODD) as usize).copied().flatten();
        }
        Some(SocketAddr::from((Ipv4Addr::from(entry), self.port)).into())
    }
}

/// How large the parts of a [`Book`] may become.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) contacts: usize,
    pub(crate) passive: usize,
    pub(crate) doubtful: usize,
}

enum Part {
    Idle,
    Doubtful,
}

#[cfg(test)]
mod tests;
