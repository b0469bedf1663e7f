//! The active links of a peer, by small numbers that other parts can keep sets of.

use crate::addr::{Addr, Peer};
use crate::time::Time;
use std::time::Duration;

/// Most links a peer can have at once; one bit each in a [`LinkSet`].
pub const LINKS_MAX: usize = 16;

/// A place in [`Links`]. It names the same neighbour until that link is down, and then may name another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Link(u8);

impl Link {
    /// As an index below [`LINKS_MAX`].
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    /// The link with this index; `None` from [`LINKS_MAX`] on.
    pub fn from_index(index: usize) -> Option<Self> {
        (index < LINKS_MAX).then_some(Self(index as u8))
    }
}

/// A set of links, two bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
pub struct LinkSet(pub u16);

impl LinkSet {
    /// Whether the link is in the set.
    pub fn has(self, link: Link) -> bool {
        self.0 & (1 << link.0) != 0
    }

    /// Takes the link in.
    pub fn insert(&mut self, link: Link) {
        self.0 |= 1 << link.0;
    }

    /// Leaves the link out.
    pub fn remove(&mut self, link: Link) {
        self.0 &= !(1 << link.0);
    }

    /// How many.
    pub fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those in both sets.
    pub fn and(self, other: LinkSet) -> LinkSet {
        LinkSet(self.0 & other.0)
    }

    /// Those in this set and not in the other.
    pub fn without(self, other: LinkSet) -> LinkSet {
        LinkSet(self.0 & !other.0)
    }

    /// In rising order.
    pub fn iter(self) -> impl Iterator<Item = Link> {
        (0..LINKS_MAX as u8).map(Link).filter(move |link| self.has(*link))
    }
}

/// What is known of the neighbour at a link.
#[derive(Clone, Copy, Debug)]
pub struct Neighbour {
    /// Who it is.
    pub peer: Peer,
    /// Since when the link is up.
    pub since: Time,
    /// When anything last came from it and went to it; see [`clock`].
    heard: u32,
    sent: u32,
}

/// Milliseconds, which come round every 49 days: enough for times that are never more than some seconds ago.
fn clock(now: Time) -> u32 {
    (now.0 / 1000) as u32
}

impl Neighbour {
    /// How long nothing has come from it.
    pub fn silence(&self, now: Time) -> Duration {
        Duration::from_millis(clock(now).wrapping_sub(self.heard).into())
    }

    /// How long nothing has gone to it.
    pub fn neglect(&self, now: Time) -> Duration {
        Duration::from_millis(clock(now).wrapping_sub(self.sent).into())
    }

    pub(crate) fn note_heard(&mut self, now: Time) {
        self.heard = clock(now);
    }

    pub(crate) fn note_sent(&mut self, now: Time) {
        self.sent = clock(now);
    }
}

/// The active view: written by the membership, read by all. Lower places are taken first, so that it needs no
/// more memory than the most links there ever were at once.
#[derive(Clone, Debug, Default)]
pub struct Links {
    up: LinkSet,
    /// What is at places that are not up is of the past.
    places: Vec<Neighbour>,
}

impl Links {
    /// The neighbour at a link.
    pub fn get(&self, link: Link) -> Option<&Neighbour> {
        self.places.get(link.index()).filter(|_| self.up.has(link))
    }

    pub(crate) fn get_mut(&mut self, link: Link) -> Option<&mut Neighbour> {
        self.places.get_mut(link.index()).filter(|_| self.up.has(link))
    }

    /// The link to the peer, if it is a neighbour.
    pub fn find(&self, peer: Peer) -> Option<Link> {
        self.iter().find(|(_, neighbour)| neighbour.peer == peer).map(|(link, _)| link)
    }

    /// The link to whoever listens at the address.
    pub fn find_addr(&self, addr: Addr) -> Option<Link> {
        self.iter().find(|(_, neighbour)| neighbour.peer.addr == addr).map(|(link, _)| link)
    }

    /// All links that are up.
    pub fn set(&self) -> LinkSet {
        self.up
    }

    /// How many are up.
    pub fn len(&self) -> usize {
        self.up.len()
    }

    /// Whether the peer is alone.
    pub fn is_empty(&self) -> bool {
        self.up.is_empty()
    }

    /// In rising order of links.
    pub fn iter(&self) -> impl Iterator<Item = (Link, &Neighbour)> {
        let places = self.places.iter().enumerate().map(|(at, place)| (Link(at as u8), place));
        places.filter(|(link, _)| self.up.has(*link))
    }

    /// Takes a neighbour in; `None` when all places are taken.
    pub fn insert(&mut self, peer: Peer, now: Time) -> Option<Link> {
        let link = Link::from_index((!self.up.0).trailing_zeros() as usize)?;
        let neighbour = Neighbour { peer, since: now, heard: clock(now), sent: clock(now) };
        if link.index() == self.places.len() {
            self.places.reserve_exact(1);
            self.places.push(neighbour);
        } else {
            self.places[link.index()] = neighbour;
        }
        self.up.insert(link);
        Some(link)
    }

    /// Frees the place of a link, and says who was there.
    pub fn remove(&mut self, link: Link) -> Option<Neighbour> {
        let neighbour = self.get(link).copied();
        self.up.remove(link);
        neighbour
    }

    /// See [`Flock::touch`](crate::Flock::touch).
    pub(crate) fn touch(&self) -> u64 {
        self.places.iter().fold(0, |sum, place| sum ^ place.peer.id.0 ^ u64::from(place.sent))
    }

    /// Bytes held, inline and on the heap.
    pub fn state_bytes(&self) -> usize {
        size_of::<Self>() + self.places.capacity() * size_of::<Neighbour>()
    }
}
