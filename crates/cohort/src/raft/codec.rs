//! Raft's own records as bytes. All integers are little-endian; drawn in `docs/FORMAT.md`.
//!
//! ```text
//! log id:      | term u64 | node u64 | index u64 |
//! vote:        | term u64 | node u64 | committed u8 |
//! entry:       | term u64 | node u64 | kind u8 (0 blank, 1 command, 4 membership) | body |   (the log keeps the index)
//! membership:  | configs u16 | { voters u16 | node u64 … } … | nodes u16 | { node u64 | host u64 | store u64 } … |
//! place:       | 3 u8 | origin u8 (0 applied, 1 received) | flag u8 | log id | flag u8 | log id of the membership | membership |
//! ```
//!
//! A node is a life of a replica. Before it was, it was a store, so memberships named no stores; and before there were peers it was a host,
//! so they named no hosts either. Those are still read, each node as its own store, and as its own host:
//!
//! ```text
//! kind 3:      | configs u16 | { voters u16 | node u64 … } … | nodes u16 | { node u64 | host u64 } … |
//! place 2:     | 2 u8 | as place 3, with a membership as in kind 3 |
//! kind 2:      | configs u16 | { voters u16 | node u64 … } … | nodes u16 | node u64 … |
//! old place:   | flag u8 | log id | flag u8 | log id of the membership | membership as in kind 2 |
//! ```

use super::types::{Command, Leader, RaftEntry, RaftLogId, RaftMembership, RaftVote, StoredRaftMembership};
use crate::peers::Replica;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use openraft::{EntryPayload, LogId};
use skein_model::{HostId, StoreId};
use std::collections::{BTreeMap, BTreeSet};
use std::io;

pub(super) fn malformed(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("a Raft record is malformed at its {what}"))
}

pub(super) fn need(bytes: &Bytes, n: usize, what: &'static str) -> io::Result<()> {
    if bytes.len() < n { Err(malformed(what)) } else { Ok(()) }
}

fn get_leader(bytes: &mut Bytes) -> io::Result<Leader> {
    need(bytes, 16, "leader")?;
    Ok(Leader { term: bytes.get_u64_le(), node_id: bytes.get_u64_le() })
}

fn put_leader(out: &mut BytesMut, leader: &Leader) {
    out.put_u64_le(leader.term);
    out.put_u64_le(leader.node_id);
}

fn put_log_id(out: &mut BytesMut, id: &RaftLogId) {
    put_leader(out, &id.leader_id);
    out.put_u64_le(id.index);
}

fn get_log_id(bytes: &mut Bytes) -> io::Result<RaftLogId> {
    let leader_id = get_leader(bytes)?;
    need(bytes, 8, "index")?;
    Ok(LogId { leader_id, index: bytes.get_u64_le() })
}

pub(crate) fn encode_log_id(id: &RaftLogId) -> Bytes {
    let mut out = BytesMut::with_capacity(24);
    put_log_id(&mut out, id);
    out.freeze()
}

pub(crate) fn decode_log_id(mut bytes: Bytes) -> io::Result<RaftLogId> {
    let id = get_log_id(&mut bytes)?;
    if bytes.is_empty() { Ok(id) } else { Err(malformed("end")) }
}

pub(super) fn put_vote(out: &mut BytesMut, vote: &RaftVote) {
    put_leader(out, &vote.leader_id);
    out.put_u8(u8::from(vote.committed));
}

pub(super) fn get_vote(bytes: &mut Bytes) -> io::Result<RaftVote> {
    let leader_id = get_leader(bytes)?;
    need(bytes, 1, "vote")?;
    match bytes.get_u8() {
        flag @ 0..=1 => Ok(RaftVote { leader_id, committed: flag == 1 }),
        _ => Err(malformed("vote")),
    }
}

pub(crate) fn encode_vote(vote: &RaftVote) -> Bytes {
    let mut out = BytesMut::with_capacity(17);
    put_vote(&mut out, vote);
    out.freeze()
}

pub(crate) fn decode_vote(mut bytes: Bytes) -> io::Result<RaftVote> {
    let vote = get_vote(&mut bytes)?;
    if bytes.is_empty() { Ok(vote) } else { Err(malformed("vote")) }
}

/// Counts fit: a group has a handful of members, which [`Group`](crate::group::Group) sees to.
fn put_membership(out: &mut BytesMut, membership: &RaftMembership) {
    let configs = membership.get_joint_config();
    out.put_u16_le(configs.len() as u16);
    for config in configs {
        out.put_u16_le(config.len() as u16);
        config.iter().for_each(|node| out.put_u64_le(*node));
    }
    out.put_u16_le(membership.nodes().count() as u16);
    for (node, replica) in membership.nodes() {
        out.put_u64_le(*node);
        out.put_u64_le(replica.host.0);
        out.put_u64_le(replica.store.0);
    }
}

fn get_nodes(bytes: &mut Bytes) -> io::Result<BTreeSet<u64>> {
    need(bytes, 2, "node count")?;
    let count = bytes.get_u16_le() as usize;
    need(bytes, count * 8, "nodes")?;
    Ok((0..count).map(|_| bytes.get_u64_le()).collect())
}

/// What memberships say of a node besides its number.
#[derive(Clone, Copy)]
enum Told {
    /// Nothing, as written before there were peers.
    Nothing,
    /// Its host, as written while a node was a store.
    Host,
    /// Its host and its store.
    Replica,
}

fn get_membership(bytes: &mut Bytes, told: Told) -> io::Result<RaftMembership> {
    need(bytes, 2, "config count")?;
    let configs = (0..bytes.get_u16_le()).map(|_| get_nodes(bytes)).collect::<io::Result<Vec<_>>>()?;
    let of_store = |node: u64, host: u64| (node, Replica { store: StoreId(node), host: HostId(host) });
    let nodes: BTreeMap<u64, Replica> = match told {
        Told::Nothing => get_nodes(bytes)?.into_iter().map(|node| of_store(node, node)).collect(),
        Told::Host => {
            need(bytes, 2, "node count")?;
            let count = bytes.get_u16_le() as usize;
            need(bytes, count * 16, "nodes")?;
            (0..count).map(|_| of_store(bytes.get_u64_le(), bytes.get_u64_le())).collect()
        }
        Told::Replica => {
            need(bytes, 2, "node count")?;
            let count = bytes.get_u16_le() as usize;
            need(bytes, count * 24, "nodes")?;
            let node = |_| {
                let node = bytes.get_u64_le();
                let host = HostId(bytes.get_u64_le());
                (node, Replica { host, store: StoreId(bytes.get_u64_le()) })
            };
            (0..count).map(node).collect()
        }
    };
    if configs.is_empty() {
        return Ok(RaftMembership::default());
    }
    RaftMembership::new(configs, nodes).map_err(|_| malformed("membership"))
}

pub(crate) fn encode_entry(entry: &RaftEntry) -> Bytes {
    let body = if let EntryPayload::Normal(command) = &entry.payload { command.0.len() } else { 64 };
    let mut out = BytesMut::with_capacity(17 + body);
    put_leader(&mut out, &entry.log_id.leader_id);
    match &entry.payload {
        EntryPayload::Blank => out.put_u8(0),
        EntryPayload::Normal(command) => {
            out.put_u8(1);
            out.put_slice(&command.0);
        }
        EntryPayload::Membership(membership) => {
            out.put_u8(4);
            put_membership(&mut out, membership);
        }
    }
    out.freeze()
}

pub(crate) fn decode_entry(index: u64, mut bytes: Bytes) -> io::Result<RaftEntry> {
    let leader_id = get_leader(&mut bytes)?;
    need(&bytes, 1, "entry kind")?;
    let payload = match bytes.get_u8() {
        0 if bytes.is_empty() => EntryPayload::Blank,
        1 => EntryPayload::Normal(Command(bytes)),
        kind @ 2..=4 => {
            let told = match kind {
                2 => Told::Nothing,
                3 => Told::Host,
                _ => Told::Replica,
            };
            let membership = get_membership(&mut bytes, told)?;
            if !bytes.is_empty() {
                return Err(malformed("membership"));
            }
            EntryPayload::Membership(membership)
        }
        _ => return Err(malformed("entry kind")),
    };
    Ok(RaftEntry { log_id: LogId { leader_id, index }, payload })
}

pub(super) fn put_optional_log_id(out: &mut BytesMut, id: Option<&RaftLogId>) {
    out.put_u8(u8::from(id.is_some()));
    if let Some(id) = id {
        put_log_id(out, id);
    }
}

pub(super) fn get_optional_log_id(bytes: &mut Bytes) -> io::Result<Option<RaftLogId>> {
    need(bytes, 1, "flag")?;
    match bytes.get_u8() {
        0 => Ok(None),
        1 => get_log_id(bytes).map(Some),
        _ => Err(malformed("flag")),
    }
}

/// How a state machine came to hold what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Every entry was applied here, so the log reaches as far.
    Applied,
    /// Received as a snapshot, and nothing applied since: the log may end before it.
    Received,
}

/// What a state machine keeps about its own place in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) origin: Origin,
    pub(crate) last: Option<RaftLogId>,
    pub(crate) membership: StoredRaftMembership,
}

impl Default for Place {
    fn default() -> Place {
        Place { origin: Origin::Applied, last: None, membership: StoredRaftMembership::default() }
    }
}

const PLACE_VERSION: u8 = 3;
/// The place of when a node was a store.
const PLACE_OF_STORES: u8 = 2;

pub(crate) fn encode_place(place: &Place) -> Bytes {
    let mut out = BytesMut::with_capacity(160);
    out.put_u8(PLACE_VERSION);
    out.put_u8(u8::from(place.origin == Origin::Received));
    put_optional_log_id(&mut out, place.last.as_ref());
    put_optional_log_id(&mut out, place.membership.log_id().as_ref());
    put_membership(&mut out, place.membership.membership());
    out.freeze()
}

pub(crate) fn decode_place(mut bytes: Bytes) -> io::Result<Place> {
    need(&bytes, 2, "version")?;
    let told = match bytes[0] {
        PLACE_VERSION => Told::Replica,
        PLACE_OF_STORES => Told::Host,
        _ => Told::Nothing,
    };
    let origin = match (told, bytes[1]) {
        (Told::Nothing, _) | (_, 0) => Origin::Applied,
        (_, 1) => Origin::Received,
        _ => return Err(malformed("origin")),
    };
    if !matches!(told, Told::Nothing) {
        bytes.advance(2);
    }
    let last = get_optional_log_id(&mut bytes)?;
    let at = get_optional_log_id(&mut bytes)?;
    let membership = get_membership(&mut bytes, told)?;
    if !bytes.is_empty() {
        return Err(malformed("end"));
    }
    Ok(Place { origin, last, membership: StoredRaftMembership::new(at, membership) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn log_id(term: u64, node: u64, index: u64) -> RaftLogId {
        LogId { leader_id: Leader { term, node_id: node }, index }
    }

    proptest! {
        #[test]
        fn log_ids_and_votes_come_back(term: u64, node: u64, index: u64, committed: bool) {
            let id = log_id(term, node, index);
            prop_assert_eq!(decode_log_id(encode_log_id(&id)).unwrap(), id);
            let vote = RaftVote { leader_id: id.leader_id, committed };
            prop_assert_eq!(decode_vote(encode_vote(&vote)).unwrap(), vote);
        }

        #[test]
        fn commands_come_back(term: u64, node: u64, index: u64, body in proptest::collection::vec(any::<u8>(), 0..50)) {
            let entry = RaftEntry {
                log_id: log_id(term, node, index),
                payload: EntryPayload::Normal(Command(Bytes::from(body))),
            };
            prop_assert_eq!(decode_entry(index, encode_entry(&entry)).unwrap(), entry);
        }

        #[test]
        fn memberships_come_back_with_the_hosts_of_their_nodes(
            nodes in proptest::collection::btree_map(any::<u64>(), any::<(u64, u64)>(), 1..5),
            index: u64,
            received: bool,
        ) {
            let replica = |(host, store)| Replica { host: HostId(host), store: StoreId(store) };
            let nodes: BTreeMap<u64, Replica> = nodes.into_iter().map(|(n, it)| (n, replica(it))).collect();
            let membership = RaftMembership::from(nodes);
            let entry = RaftEntry {
                log_id: log_id(1, 2, index),
                payload: EntryPayload::Membership(membership.clone()),
            };
            prop_assert_eq!(decode_entry(index, encode_entry(&entry)).unwrap(), entry);
            let place = Place {
                origin: if received { Origin::Received } else { Origin::Applied },
                last: received.then(|| log_id(3, 4, index)),
                membership: StoredRaftMembership::new(Some(log_id(1, 2, index)), membership),
            };
            prop_assert_eq!(decode_place(encode_place(&place)).unwrap(), place);
        }

        #[test]
        fn any_bytes_decode_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let bytes = Bytes::from(bytes);
            let _ = (decode_entry(1, bytes.clone()), decode_vote(bytes.clone()), decode_log_id(bytes.clone()), decode_place(bytes));
        }
    }

    #[test]
    fn what_was_written_while_a_node_was_a_store_is_read_with_each_node_as_its_own_store() {
        let replica = Replica { host: HostId(3), store: StoreId(7) };
        let membership = RaftMembership::from(BTreeMap::from([(7, replica)]));
        let mut old = BytesMut::new();
        for word in [1u16, 1] {
            old.put_u16_le(word);
        }
        old.put_u64_le(7);
        old.put_u16_le(1);
        old.put_u64_le(7);
        old.put_u64_le(3);
        let mut entry = BytesMut::new();
        put_leader(&mut entry, &Leader { term: 1, node_id: 7 });
        entry.put_u8(3);
        entry.put_slice(&old);
        assert_eq!(
            decode_entry(4, entry.freeze()).unwrap().payload,
            EntryPayload::Membership(membership.clone())
        );
        for (origin, byte) in [(Origin::Applied, 0), (Origin::Received, 1)] {
            let mut place = BytesMut::from(&[2, byte][..]);
            put_optional_log_id(&mut place, Some(&log_id(1, 7, 9)));
            put_optional_log_id(&mut place, Some(&log_id(1, 7, 4)));
            place.put_slice(&old);
            let place = decode_place(place.freeze()).unwrap();
            let expected = StoredRaftMembership::new(Some(log_id(1, 7, 4)), membership.clone());
            assert_eq!((place.origin, place.membership), (origin, expected));
        }
    }

    #[test]
    fn what_a_database_of_one_wrote_is_read_with_each_node_as_its_own_host() {
        let membership =
            RaftMembership::from(BTreeMap::from([(7, Replica { host: HostId(7), store: StoreId(7) })]));
        let mut old = BytesMut::new();
        for word in [1u16, 1] {
            old.put_u16_le(word);
        }
        old.put_u64_le(7);
        old.put_u16_le(1);
        old.put_u64_le(7);
        let mut entry = BytesMut::new();
        put_leader(&mut entry, &Leader { term: 1, node_id: 7 });
        entry.put_u8(2);
        entry.put_slice(&old);
        let entry = decode_entry(4, entry.freeze()).unwrap();
        assert_eq!(entry.payload, EntryPayload::Membership(membership.clone()));
        let mut place = BytesMut::new();
        put_optional_log_id(&mut place, Some(&log_id(1, 7, 9)));
        put_optional_log_id(&mut place, Some(&log_id(1, 7, 4)));
        place.put_slice(&old);
        let place = decode_place(place.freeze()).unwrap();
        let stored = StoredRaftMembership::new(Some(log_id(1, 7, 4)), membership);
        assert_eq!(place, Place { origin: Origin::Applied, last: Some(log_id(1, 7, 9)), membership: stored });
    }
}
