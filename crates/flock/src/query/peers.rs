//! Which peers a partial answer has counted.

use crate::wire::{DecodeError, Reader, Writer};
use skein_model::HostId;

/// Most peers in one partial answer: as many as fit in a message with room for the aggregate. A peer whose branches hold more sends
/// them on to the asker one by one.
pub const PEERS_MAX: usize = 20_000;

/// Hosts by rising ID, each once: 8 bytes each in memory, 1 to 9 on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct PeerSet {
    hosts: Vec<HostId>,
}

impl PeerSet {
    /// Just one.
    pub fn of(host: HostId) -> Self {
        Self { hosts: vec![host] }
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.hosts.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty()
    }

    /// Whether the host is in it.
    pub fn has(&self, host: HostId) -> bool {
        self.hosts.binary_search(&host).is_ok()
    }

    /// By rising ID.
    pub fn iter(&self) -> impl Iterator<Item = HostId> {
        self.hosts.iter().copied()
    }

    /// Whether no host is in both. Costs a search in the larger set for each host of the smaller.
    pub fn is_disjoint(&self, other: &PeerSet) -> bool {
        let (small, large) = if self.len() < other.len() { (self, other) } else { (other, self) };
        !small.hosts.iter().any(|host| large.has(*host))
    }

    /// Takes in all of the other.
    pub fn merge(&mut self, other: &PeerSet) {
        self.hosts.extend_from_slice(&other.hosts);
        // Two sorted runs, which this sort merges in one pass.
        self.hosts.sort();
        self.hosts.dedup();
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        self.hosts.capacity() * size_of::<HostId>()
    }

    /// `| count: varint | first: varint | gap to the next, less one: varint | ... |`
    pub(crate) fn encode(&self, writer: &mut Writer) {
        writer.varint(self.hosts.len() as u64);
        let mut next = 0_u64;
        for host in &self.hosts {
            writer.varint(host.0.wrapping_sub(next));
            next = host.0.wrapping_add(1);
        }
    }

    pub(crate) fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        let count = reader.count(1, "peers")?;
        if count > PEERS_MAX {
            return Err(DecodeError::Range("peers"));
        }
        let mut hosts = Vec::with_capacity(count);
        let mut next = Some(0_u64);
        for _ in 0..count {
            let gap = reader.varint("peer")?;
            let host = next.and_then(|next| next.checked_add(gap)).ok_or(DecodeError::Range("peer"))?;
            hosts.push(HostId(host));
            next = host.checked_add(1);
        }
        Ok(Self { hosts })
    }
}

impl FromIterator<HostId> for PeerSet {
    fn from_iter<I: IntoIterator<Item = HostId>>(hosts: I) -> Self {
        let mut hosts: Vec<HostId> = hosts.into_iter().collect();
        hosts.sort();
        hosts.dedup();
        Self { hosts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_set_reads_back_as_written(hosts in prop::collection::vec(any::<u64>(), 0..50), last: bool) {
            let set: PeerSet = hosts.into_iter().chain(last.then_some(u64::MAX)).map(HostId).collect();
            let mut writer = Writer::new(0, 16);
            set.encode(&mut writer);
            let (_, mut reader) = Reader::new(writer.finish()).unwrap();
            prop_assert_eq!(PeerSet::decode(&mut reader), Ok(set));
            prop_assert_eq!(reader.end(), Ok(()));
        }

        #[test]
        fn what_is_read_is_a_set(bytes in prop::collection::vec(any::<u8>(), 1..60)) {
            let (_, mut reader) = Reader::new(bytes::Bytes::from(bytes)).unwrap();
            if let Ok(set) = PeerSet::decode(&mut reader) {
                prop_assert!(set.hosts.is_sorted_by(|a, b| a < b));
            }
        }

        #[test]
        fn sets_merge_and_meet_like_sets(a in prop::collection::btree_set(0_u64..40, 0..9),
                                         b in prop::collection::btree_set(0_u64..40, 0..9)) {
            let (one, other): (PeerSet, PeerSet) =
                (a.iter().copied().map(HostId).collect(), b.iter().copied().map(HostId).collect());
            prop_assert_eq!(one.is_disjoint(&other), a.is_disjoint(&b));
            let mut both = one;
            both.merge(&other);
            prop_assert_eq!(both, a.union(&b).copied().map(HostId).collect());
        }
    }
}
