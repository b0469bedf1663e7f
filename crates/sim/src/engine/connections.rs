//! One peer's ends of its connections. Few, so a plain list is fastest: the peers' numbers lie together in front,
//! and the first eight connections lie in the list itself, where one look at memory finds them.

use super::Node;

const INLINE: usize = 8;

/// One end of a connection.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Connection {
    /// Nothing sent from here arrives before this, so that messages stay in order.
    pub free_at: u64,
    /// The same at both ends, and never used again.
    pub id: u32,
    /// When something last went or came, in milliseconds.
    pub used: u32,
    /// It will turn out to be broken; nothing sent on it arrives.
    pub doomed: bool,
}

/// The time as [`Connection::used`] has it.
pub(super) fn millis(micros: u64) -> u32 {
    u32::try_from(micros / 1_000).unwrap_or(u32::MAX)
}

#[derive(Debug, Default)]
pub(super) struct Connections {
    peers: [u32; INLINE],
    count: u8,
    first: [Connection; INLINE],
    /// Behind the first, when these are full.
    more: Vec<(Node, Connection)>,
}

impl Connections {
    #[inline]
    pub fn find(&mut self, peer: Node) -> Option<&mut Connection> {
        let inline = &self.peers[..usize::from(self.count)];
        if let Some(at) = inline.iter().position(|one| *one == peer.0) {
            return Some(&mut self.first[at]);
        }
        self.more.iter_mut().find(|one| one.0 == peer).map(|one| &mut one.1)
    }

    /// Takes a connection to a peer that has none.
    pub fn add(&mut self, peer: Node, connection: Connection) {
        let at = usize::from(self.count);
        if at < INLINE {
            self.peers[at] = peer.0;
            self.first[at] = connection;
            self.count += 1;
        } else {
            self.more.push((peer, connection));
        }
    }

    /// Whether there was this very connection.
    pub fn remove(&mut self, peer: Node, id: u32) -> bool {
        if let Some(at) = self.more.iter().position(|one| one.0 == peer && one.1.id == id) {
            self.more.swap_remove(at);
            if self.more.is_empty() {
                // A storm's connections are not kept room for.
                self.more = Vec::new();
            }
            return true;
        }
        let inline = 0..usize::from(self.count);
        let Some(at) = inline.into_iter().find(|at| self.peers[*at] == peer.0 && self.first[*at].id == id)
        else {
            return false;
        };
        let (last_peer, last) = self.more.pop().unwrap_or_else(|| {
            self.count -= 1;
            (Node(self.peers[usize::from(self.count)]), self.first[usize::from(self.count)])
        });
        if at < usize::from(self.count) {
            self.peers[at] = last_peer.0;
            self.first[at] = last;
        }
        true
    }

    /// One that was not used since `before`, in microseconds, and is not waiting to fail.
    pub fn idle(&self, before: u64) -> Option<(Node, u32)> {
        let idle = |one: &Connection| one.used < millis(before) && one.free_at < before && !one.doomed;
        self.iter().find(|(_, one)| idle(one)).map(|(peer, one)| (peer, one.id))
    }

    /// Reads all of the list itself.
    pub fn touch(&self) -> u64 {
        self.first.iter().step_by(2).fold(u64::from(self.count), |sum, one| sum ^ one.free_at)
    }

    pub fn iter(&self) -> impl Iterator<Item = (Node, &Connection)> {
        let inline = self.peers.iter().zip(&self.first).take(usize::from(self.count));
        let inline = inline.map(|(peer, one)| (Node(*peer), one));
        inline.chain(self.more.iter().map(|(peer, one)| (*peer, one)))
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        self.more.capacity() * size_of::<(Node, Connection)>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn a_list_of_connections_is_a_map_by_peer(steps in proptest::collection::vec((0_u32..14, any::<bool>()), 0..80)) {
            let mut list = Connections::default();
            let mut model = BTreeMap::new();
            for (id, (peer, add)) in (0..).zip(steps) {
                if add && !model.contains_key(&peer) {
                    list.add(Node(peer), Connection { id, ..Connection::default() });
                    model.insert(peer, id);
                } else if !add {
                    let known = model.remove(&peer);
                    prop_assert!(!list.remove(Node(peer), u32::MAX));
                    prop_assert_eq!(list.remove(Node(peer), known.unwrap_or(0)), known.is_some());
                }
                let mut all: Vec<(u32, u32)> = list.iter().map(|(peer, one)| (peer.0, one.id)).collect();
                all.sort_unstable();
                prop_assert_eq!(all, model.clone().into_iter().collect::<Vec<_>>());
                prop_assert_eq!(list.find(Node(peer)).map(|one| one.id), model.get(&peer).copied());
            }
        }
    }
}
