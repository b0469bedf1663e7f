//! The active links of a peer, by small numbers that other parts can keep sets of.

use crate::addr::{Addr, Peer};
use crate::time::Time;

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
    /// When anything last came from it.
    pub heard: Time,
    /// When anything last went to it.
    pub sent: Time,
    /// Whether it was asked for a sign of life since.
    pub(crate) probed: bool,
}

/// The active view: written by the membership, read by all. Lower places are taken first, so that it needs no
/// more memory than the most links there ever were at once.
#[derive(Clone, Debug, Default)]
pub struct Links {
    places: Vec<Option<Neighbour>>,
}

impl Links {
    /// The neighbour at a link.
    pub fn get(&self, link: Link) -> Option<&Neighbour> {
        self.places.get(link.index())?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, link: Link) -> Option<&mut Neighbour> {
        self.places.get_mut(link.index())?.as_mut()
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
        let mut set = LinkSet::default();
        self.iter().for_each(|(link, _)| set.insert(link));
        set
    }

    /// How many are up.
    pub fn len(&self) -> usize {
        self.places.iter().flatten().count()
    }

    /// Whether the peer is alone.
    pub fn is_empty(&self) -> bool {
        self.places.iter().all(Option::is_none)
    }

    /// In rising order of links.
    pub fn iter(&self) -> impl Iterator<Item = (Link, &Neighbour)> {
        self.places.iter().enumerate().filter_map(|(at, place)| place.as_ref().map(|it| (Link(at as u8), it)))
    }

    /// Takes a neighbour in; `None` when all places are taken.
    pub fn insert(&mut self, peer: Peer, now: Time) -> Option<Link> {
        let at = self.places.iter().position(Option::is_none).unwrap_or(self.places.len());
        if at == LINKS_MAX {
            return None;
        }
        if at == self.places.len() {
            self.places.reserve_exact(1);
            self.places.push(None);
        }
        self.places[at] = Some(Neighbour { peer, since: now, heard: now, sent: now, probed: false });
        Some(Link(at as u8))
    }

    /// Frees the place of a link, and says who was there.
    pub fn remove(&mut self, link: Link) -> Option<Neighbour> {
        self.places.get_mut(link.index())?.take()
    }

    /// Bytes held, inline and on the heap.
    pub fn state_bytes(&self) -> usize {
        size_of::<Self>() + self.places.capacity() * size_of::<Option<Neighbour>>()
    }
}
