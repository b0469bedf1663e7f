//! Raft's own records as bytes. All integers are little-endian; drawn in `docs/FORMAT.md`.
//!
//! ```text
//! log id:      | term u64 | node u64 | index u64 |
//! vote:        | term u64 | node u64 | committed u8 |
//! entry:       | term u64 | node u64 | kind u8 (0 blank, 1 command, 2 membership) | body |   (the log keeps the index)
//! membership:  | configs u16 | { voters u16 | node u64 … } … | nodes u16 | node u64 … |
//! applied:     | flag u8 | log id | flag u8 | log id of the membership | membership |
//! ```

use super::types::{Command, Leader, RaftEntry, RaftLogId, RaftMembership, RaftVote, StoredRaftMembership};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use openraft::impls::EmptyNode;
use openraft::{EntryPayload, LogId};
use std::collections::{BTreeMap, BTreeSet};
use std::io;

fn malformed(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("a Raft record is malformed at its {what}"))
}

fn need(bytes: &Bytes, n: usize, what: &'static str) -> io::Result<()> {
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

pub(crate) fn encode_vote(vote: &RaftVote) -> Bytes {
    let mut out = BytesMut::with_capacity(17);
    put_leader(&mut out, &vote.leader_id);
    out.put_u8(u8::from(vote.committed));
    out.freeze()
}

pub(crate) fn decode_vote(mut bytes: Bytes) -> io::Result<RaftVote> {
    let leader_id = get_leader(&mut bytes)?;
    need(&bytes, 1, "vote")?;
    match (bytes.get_u8(), bytes.is_empty()) {
        (flag @ 0..=1, true) => Ok(RaftVote { leader_id, committed: flag == 1 }),
        _ => Err(malformed("vote")),
    }
}

fn put_membership(out: &mut BytesMut, membership: &RaftMembership) {
    let configs = membership.get_joint_config();
    out.put_u16_le(configs.len() as u16);
    for config in configs {
        out.put_u16_le(config.len() as u16);
        config.iter().for_each(|node| out.put_u64_le(*node));
    }
    out.put_u16_le(membership.nodes().count() as u16);
    membership.nodes().for_each(|(node, _)| out.put_u64_le(*node));
}

fn get_nodes(bytes: &mut Bytes) -> io::Result<BTreeSet<u64>> {
    need(bytes, 2, "node count")?;
    let count = bytes.get_u16_le() as usize;
    need(bytes, count * 8, "nodes")?;
    Ok((0..count).map(|_| bytes.get_u64_le()).collect())
}

fn get_membership(bytes: &mut Bytes) -> io::Result<RaftMembership> {
    need(bytes, 2, "config count")?;
    let configs = (0..bytes.get_u16_le()).map(|_| get_nodes(bytes)).collect::<io::Result<Vec<_>>>()?;
    let nodes: BTreeMap<u64, EmptyNode> =
        get_nodes(bytes)?.into_iter().map(|n| (n, EmptyNode::default())).collect();
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
            out.put_u8(2);
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
        2 => {
            let membership = get_membership(&mut bytes)?;
            if !bytes.is_empty() {
                return Err(malformed("membership"));
            }
            EntryPayload::Membership(membership)
        }
        _ => return Err(malformed("entry kind")),
    };
    Ok(RaftEntry { log_id: LogId { leader_id, index }, payload })
}

fn put_optional_log_id(out: &mut BytesMut, id: Option<&RaftLogId>) {
    out.put_u8(u8::from(id.is_some()));
    if let Some(id) = id {
        put_log_id(out, id);
    }
}

fn get_optional_log_id(bytes: &mut Bytes) -> io::Result<Option<RaftLogId>> {
    need(bytes, 1, "flag")?;
    match bytes.get_u8() {
        0 => Ok(None),
        1 => get_log_id(bytes).map(Some),
        _ => Err(malformed("flag")),
    }
}

/// What the state machine keeps about its own place in the log.
pub(crate) fn encode_applied(last: Option<&RaftLogId>, membership: &StoredRaftMembership) -> Bytes {
    let mut out = BytesMut::with_capacity(96);
    put_optional_log_id(&mut out, last);
    put_optional_log_id(&mut out, membership.log_id().as_ref());
    put_membership(&mut out, membership.membership());
    out.freeze()
}

pub(crate) fn decode_applied(mut bytes: Bytes) -> io::Result<(Option<RaftLogId>, StoredRaftMembership)> {
    let last = get_optional_log_id(&mut bytes)?;
    let at = get_optional_log_id(&mut bytes)?;
    let membership = get_membership(&mut bytes)?;
    if !bytes.is_empty() {
        return Err(malformed("end"));
    }
    Ok((last, StoredRaftMembership::new(at, membership)))
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
        fn memberships_come_back(voters in proptest::collection::btree_set(any::<u64>(), 1..5), index: u64) {
            let membership = RaftMembership::new_with_defaults(vec![voters], []);
            let entry = RaftEntry {
                log_id: log_id(1, 2, index),
                payload: EntryPayload::Membership(membership.clone()),
            };
            prop_assert_eq!(decode_entry(index, encode_entry(&entry)).unwrap(), entry);
            let stored = StoredRaftMembership::new(Some(log_id(1, 2, index)), membership);
            let (last, back) = decode_applied(encode_applied(None, &stored)).unwrap();
            prop_assert_eq!((last, back), (None, stored));
        }

        #[test]
        fn any_bytes_decode_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let bytes = Bytes::from(bytes);
            let _ = (decode_entry(1, bytes.clone()), decode_vote(bytes.clone()), decode_log_id(bytes.clone()), decode_applied(bytes));
        }
    }
}
