//! Messages between the replicas of a group as bytes. Integers are little-endian; `docs/FORMAT.md` draws the records inside.
//!
//! ```text
//! request:   | version u8 = 2 | kind u8 | from: life u64 | to: life u64, 0 for whichever there is | body |
//!   1 append:    | vote | flag u8 | previous log id | flag u8 | committed log id | count u32 | { index u64 | length u32 | entry } … |
//!   2 vote, 3 pre-vote: | vote | flag u8 | last log id | by transfer u8 |
//!   4 transfer:  | vote | to u64 | flag u8 | last log id |
//!   5 install:   | vote | place | snapshot u64 | bytes u64 |
//!   6 fetch:     | snapshot u64 | position |
//!   7 who lives there, 8 may `from` be deleted: nothing more
//! answer:    | version u8 = 2 | kind u8 | body |
//! chunk:     | version u8 = 2 | last u8 | xxh3 of position, next and bytes: u64 | length of next u32 | next | bytes |
//! ```
//!
//! Decoding is total: whatever the bytes, there is a message or an error, and nothing is allocated by what a count claims.

use super::codec::{
    Origin, Place, decode_entry, decode_place, encode_entry, encode_place, get_optional_log_id, get_vote,
    malformed, need, put_optional_log_id, put_vote,
};
use super::types::{RaftTypes, RaftVote};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderError, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use std::io;
use xxhash_rust::xxh3::Xxh3;

const VERSION: u8 = 2;

/// Between which lives of replicas a message goes. A `to` of 0 means whichever there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lives {
    pub(crate) from: u64,
    pub(crate) to: u64,
}

/// What a replica asks of another.
#[derive(Debug, Clone)]
pub(crate) enum Request {
    Append(AppendEntriesRequest<RaftTypes>),
    Vote(VoteRequest<RaftTypes>),
    PreVote(VoteRequest<RaftTypes>),
    Transfer(TransferLeaderRequest<RaftTypes>),
    Install(Install),
    Fetch(Fetch),
    /// Which life is lived there, and whether it stays. Asked before it is made a member.
    Who,
    /// Whether the life that asks may end: to the leader.
    MayEnd,
}

/// The answer to [`Request::Who`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Presence {
    pub(crate) life: u64,
    /// Whether it is to stay, as far as is known there.
    pub(crate) stays: bool,
}

/// "Fetch this snapshot from me, and install it", repeated until it is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Install {
    pub(crate) vote: RaftVote,
    /// What the snapshot holds.
    pub(crate) place: Place,
    /// Names the snapshot while the sender keeps it.
    pub(crate) snapshot: u64,
    /// About how many bytes it has.
    pub(crate) bytes: u64,
}

/// The snapshot's chunks from this position on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fetch {
    pub(crate) snapshot: u64,
    pub(crate) position: Bytes,
}

/// How far a follower is with a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Installing {
    /// So many bytes have arrived, and so many rows with them.
    Working { bytes: u64, rows: u64 },
    /// It is installed, or was not needed; or the follower has this greater vote.
    Done { vote: RaftVote },
    /// It came to nothing.
    Failed { why: String },
}

/// A piece of a snapshot on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Piece {
    Chunk { bytes: Bytes, next: Bytes },
    End,
}

fn begin(kind: u8, capacity: usize) -> BytesMut {
    let mut out = BytesMut::with_capacity(2 + capacity);
    out.put_u8(VERSION);
    out.put_u8(kind);
    out
}

fn begin_request(kind: u8, lives: Lives, capacity: usize) -> BytesMut {
    let mut out = begin(kind, 16 + capacity);
    out.put_u64_le(lives.from);
    out.put_u64_le(lives.to);
    out
}

/// Takes the version off.
fn version(bytes: &mut Bytes) -> io::Result<()> {
    need(bytes, 1, "version")?;
    match bytes.get_u8() {
        VERSION => Ok(()),
        other => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!("a message between replicas has version {other}, and this program knows {VERSION}"),
        )),
    }
}

fn get_u8(bytes: &mut Bytes, what: &'static str) -> io::Result<u8> {
    need(bytes, 1, what)?;
    Ok(bytes.get_u8())
}

fn get_flag(bytes: &mut Bytes, what: &'static str) -> io::Result<bool> {
    match get_u8(bytes, what)? {
        flag @ 0..=1 => Ok(flag == 1),
        _ => Err(malformed(what)),
    }
}

fn get_u32(bytes: &mut Bytes, what: &'static str) -> io::Result<u32> {
    need(bytes, 4, what)?;
    Ok(bytes.get_u32_le())
}

fn get_u64(bytes: &mut Bytes, what: &'static str) -> io::Result<u64> {
    need(bytes, 8, what)?;
    Ok(bytes.get_u64_le())
}

fn at_end(bytes: &Bytes) -> io::Result<()> {
    if bytes.is_empty() { Ok(()) } else { Err(malformed("end")) }
}

/// Lengths fit: entries and positions are far below 4 GiB.
fn put_len(out: &mut BytesMut, bytes: &[u8]) {
    out.put_u32_le(bytes.len() as u32);
}

impl Request {
    pub(crate) fn encode(&self, lives: Lives) -> Bytes {
        match self {
            Request::Append(rpc) => encode_append(lives, rpc),
            Request::Vote(rpc) => encode_vote_request(2, lives, rpc),
            Request::PreVote(rpc) => encode_vote_request(3, lives, rpc),
            Request::Transfer(rpc) => {
                let mut out = begin_request(4, lives, 64);
                put_vote(&mut out, rpc.from_leader());
                out.put_u64_le(*rpc.to_node_id());
                put_optional_log_id(&mut out, rpc.last_log_id());
                out.freeze()
            }
            Request::Install(install) => {
                let mut out = begin_request(5, lives, 256);
                put_vote(&mut out, &install.vote);
                out.put_u64_le(install.snapshot);
                out.put_u64_le(install.bytes);
                out.put_slice(&encode_place(&install.place));
                out.freeze()
            }
            Request::Fetch(fetch) => {
                let mut out = begin_request(6, lives, 8 + fetch.position.len());
                out.put_u64_le(fetch.snapshot);
                out.put_slice(&fetch.position);
                out.freeze()
            }
            Request::Who => begin_request(7, lives, 0).freeze(),
            Request::MayEnd => begin_request(8, lives, 0).freeze(),
        }
    }

    pub(crate) fn decode(mut bytes: Bytes) -> io::Result<(Lives, Request)> {
        version(&mut bytes)?;
        let kind = get_u8(&mut bytes, "kind")?;
        let lives = Lives { from: get_u64(&mut bytes, "sender")?, to: get_u64(&mut bytes, "receiver")? };
        Ok((lives, Request::decode_body(kind, bytes)?))
    }

    fn decode_body(kind: u8, mut bytes: Bytes) -> io::Result<Request> {
        match kind {
            1 => decode_append(bytes).map(Request::Append),
            2 => decode_vote_request(bytes).map(Request::Vote),
            3 => decode_vote_request(bytes).map(Request::PreVote),
            4 => {
                let vote = get_vote(&mut bytes)?;
                let to = get_u64(&mut bytes, "target")?;
                let last = get_optional_log_id(&mut bytes)?;
                at_end(&bytes)?;
                Ok(Request::Transfer(TransferLeaderRequest::new(vote, to, last)))
            }
            5 => {
                let vote = get_vote(&mut bytes)?;
                let snapshot = get_u64(&mut bytes, "snapshot")?;
                let estimate = get_u64(&mut bytes, "size")?;
                let place = decode_place(bytes)?;
                if place.origin != Origin::Received {
                    return Err(malformed("place"));
                }
                Ok(Request::Install(Install { vote, place, snapshot, bytes: estimate }))
            }
            6 => {
                let snapshot = get_u64(&mut bytes, "snapshot")?;
                Ok(Request::Fetch(Fetch { snapshot, position: bytes }))
            }
            7 => at_end(&bytes).map(|()| Request::Who),
            8 => at_end(&bytes).map(|()| Request::MayEnd),
            _ => Err(malformed("kind")),
        }
    }
}

fn encode_append(lives: Lives, rpc: &AppendEntriesRequest<RaftTypes>) -> Bytes {
    let entries: Vec<(u64, Bytes)> =
        rpc.entries.iter().map(|entry| (entry.log_id.index, encode_entry(entry))).collect();
    let mut out =
        begin_request(1, lives, 80 + entries.iter().map(|(_, entry)| 12 + entry.len()).sum::<usize>());
    put_vote(&mut out, &rpc.vote);
    put_optional_log_id(&mut out, rpc.prev_log_id.as_ref());
    put_optional_log_id(&mut out, rpc.leader_commit.as_ref());
    out.put_u32_le(entries.len() as u32);
    for (index, entry) in &entries {
        out.put_u64_le(*index);
        put_len(&mut out, entry);
        out.put_slice(entry);
    }
    out.freeze()
}

fn decode_append(mut bytes: Bytes) -> io::Result<AppendEntriesRequest<RaftTypes>> {
    let vote = get_vote(&mut bytes)?;
    let prev_log_id = get_optional_log_id(&mut bytes)?;
    let leader_commit = get_optional_log_id(&mut bytes)?;
    let count = get_u32(&mut bytes, "entry count")?;
    let mut entries = Vec::new();
    let mut follows: Option<u64> = prev_log_id.map(|id| id.index);
    for _ in 0..count {
        let index = get_u64(&mut bytes, "index")?;
        let length = get_u32(&mut bytes, "entry length")? as usize;
        need(&bytes, length, "entry")?;
        // Raft takes it for granted that entries are consecutive.
        let expected = follows.map_or(Some(0), |last| last.checked_add(1));
        if Some(index) != expected || index == u64::MAX {
            return Err(malformed("index"));
        }
        follows = Some(index);
        entries.push(decode_entry(index, bytes.split_to(length))?);
    }
    at_end(&bytes)?;
    Ok(AppendEntriesRequest { vote, prev_log_id, entries, leader_commit })
}

fn encode_vote_request(kind: u8, lives: Lives, rpc: &VoteRequest<RaftTypes>) -> Bytes {
    let mut out = begin_request(kind, lives, 64);
    put_vote(&mut out, &rpc.vote);
    put_optional_log_id(&mut out, rpc.last_log_id.as_ref());
    out.put_u8(u8::from(rpc.leadership_transfer));
    out.freeze()
}

fn decode_vote_request(mut bytes: Bytes) -> io::Result<VoteRequest<RaftTypes>> {
    let vote = get_vote(&mut bytes)?;
    let last_log_id = get_optional_log_id(&mut bytes)?;
    let leadership_transfer = get_flag(&mut bytes, "transfer flag")?;
    at_end(&bytes)?;
    Ok(VoteRequest { vote, last_log_id, leadership_transfer })
}

pub(crate) fn encode_append_response(response: &AppendEntriesResponse<RaftTypes>) -> Bytes {
    match response {
        AppendEntriesResponse::Success => begin(0, 0),
        AppendEntriesResponse::PartialSuccess(last) => {
            let mut out = begin(1, 32);
            put_optional_log_id(&mut out, last.as_ref());
            out
        }
        AppendEntriesResponse::Conflict => begin(2, 0),
        AppendEntriesResponse::HigherVote(vote) => {
            let mut out = begin(3, 32);
            put_vote(&mut out, vote);
            out
        }
    }
    .freeze()
}

pub(crate) fn decode_append_response(mut bytes: Bytes) -> io::Result<AppendEntriesResponse<RaftTypes>> {
    version(&mut bytes)?;
    let response = match get_u8(&mut bytes, "answer")? {
        0 => AppendEntriesResponse::Success,
        1 => AppendEntriesResponse::PartialSuccess(get_optional_log_id(&mut bytes)?),
        2 => AppendEntriesResponse::Conflict,
        3 => AppendEntriesResponse::HigherVote(get_vote(&mut bytes)?),
        _ => return Err(malformed("answer")),
    };
    at_end(&bytes)?;
    Ok(response)
}

pub(crate) fn encode_vote_response(response: &VoteResponse<RaftTypes>) -> Bytes {
    let mut out = begin(u8::from(response.vote_granted), 64);
    put_vote(&mut out, &response.vote);
    put_optional_log_id(&mut out, response.last_log_id.as_ref());
    out.freeze()
}

pub(crate) fn decode_vote_response(mut bytes: Bytes) -> io::Result<VoteResponse<RaftTypes>> {
    version(&mut bytes)?;
    let vote_granted = get_flag(&mut bytes, "answer")?;
    let vote = get_vote(&mut bytes)?;
    let last_log_id = get_optional_log_id(&mut bytes)?;
    at_end(&bytes)?;
    Ok(VoteResponse { vote, vote_granted, last_log_id })
}

pub(crate) fn encode_transfer_response(response: &TransferLeaderResponse<RaftTypes>) -> Bytes {
    match response {
        Ok(()) => begin(0, 0),
        Err(TransferLeaderError::VoteChanged { expected, actual }) => {
            let mut out = begin(1, 64);
            put_vote(&mut out, expected);
            put_vote(&mut out, actual);
            out
        }
        Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
            let mut out = begin(2, 64);
            put_optional_log_id(&mut out, expected.as_ref());
            put_optional_log_id(&mut out, actual.as_ref());
            out
        }
    }
    .freeze()
}

pub(crate) fn decode_transfer_response(mut bytes: Bytes) -> io::Result<TransferLeaderResponse<RaftTypes>> {
    version(&mut bytes)?;
    let response = match get_u8(&mut bytes, "answer")? {
        0 => Ok(()),
        1 => {
            let expected = get_vote(&mut bytes)?;
            Err(TransferLeaderError::VoteChanged { expected, actual: get_vote(&mut bytes)? })
        }
        2 => {
            let expected = get_optional_log_id(&mut bytes)?;
            let actual = get_optional_log_id(&mut bytes)?;
            Err(TransferLeaderError::LogNotFlushed { expected, actual })
        }
        _ => return Err(malformed("answer")),
    };
    at_end(&bytes)?;
    Ok(response)
}

impl Presence {
    pub(crate) fn encode(self) -> Bytes {
        let mut out = begin(u8::from(self.stays), 8);
        out.put_u64_le(self.life);
        out.freeze()
    }

    pub(crate) fn decode(mut bytes: Bytes) -> io::Result<Presence> {
        version(&mut bytes)?;
        let stays = get_flag(&mut bytes, "answer")?;
        let life = get_u64(&mut bytes, "life")?;
        at_end(&bytes)?;
        Ok(Presence { life, stays })
    }
}

/// The answer to [`Request::MayEnd`].
pub(crate) fn encode_may_end(may: bool) -> Bytes {
    begin(u8::from(may), 0).freeze()
}

pub(crate) fn decode_may_end(mut bytes: Bytes) -> io::Result<bool> {
    version(&mut bytes)?;
    let may = get_flag(&mut bytes, "answer")?;
    at_end(&bytes)?;
    Ok(may)
}

impl Installing {
    pub(crate) fn encode(&self) -> Bytes {
        match self {
            Installing::Working { bytes, rows } => {
                let mut out = begin(0, 16);
                out.put_u64_le(*bytes);
                out.put_u64_le(*rows);
                out
            }
            Installing::Done { vote } => {
                let mut out = begin(1, 32);
                put_vote(&mut out, vote);
                out
            }
            Installing::Failed { why } => {
                let mut out = begin(2, why.len());
                out.put_slice(why.as_bytes());
                out
            }
        }
        .freeze()
    }

    pub(crate) fn decode(mut bytes: Bytes) -> io::Result<Installing> {
        version(&mut bytes)?;
        match get_u8(&mut bytes, "answer")? {
            0 => {
                let arrived = get_u64(&mut bytes, "bytes")?;
                let rows = get_u64(&mut bytes, "rows")?;
                at_end(&bytes)?;
                Ok(Installing::Working { bytes: arrived, rows })
            }
            1 => {
                let vote = get_vote(&mut bytes)?;
                at_end(&bytes)?;
                Ok(Installing::Done { vote })
            }
            2 => Ok(Installing::Failed { why: String::from_utf8_lossy(&bytes).into_owned() }),
            _ => Err(malformed("answer")),
        }
    }
}

fn checksum(snapshot: u64, position: &[u8], next: &[u8], bytes: &[u8]) -> u64 {
    let mut hash = Xxh3::with_seed(snapshot);
    for part in [position, next] {
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.update(bytes);
    hash.digest()
}

impl Piece {
    /// `position` is where the piece begins.
    pub(crate) fn encode(&self, snapshot: u64, position: &[u8]) -> Bytes {
        let (last, next, bytes) = match self {
            Piece::Chunk { bytes, next } => (0, &next[..], &bytes[..]),
            Piece::End => (1, &[][..], &[][..]),
        };
        let mut out = begin(last, 12 + next.len() + bytes.len());
        out.put_u64_le(checksum(snapshot, position, next, bytes));
        put_len(&mut out, next);
        out.put_slice(next);
        out.put_slice(bytes);
        out.freeze()
    }

    /// Gives bytes that look like a piece the checksum that they should have; for tests that change the rest.
    pub(crate) fn put_checksum(piece: &mut [u8], snapshot: u64, position: &[u8]) {
        const AT: usize = 2;
        let Some((head, rest)) = piece.split_at_mut_checked(AT + 12) else { return };
        let length =
            head[AT + 8..].iter().rev().fold(0usize, |length, byte| length << 8 | usize::from(*byte));
        let (next, bytes) = rest.split_at(length.min(rest.len()));
        head[AT..AT + 8].copy_from_slice(&checksum(snapshot, position, next, bytes).to_le_bytes());
    }

    /// Errors also where the piece is not the one that begins at `position`, or was damaged on the way.
    pub(crate) fn decode(mut piece: Bytes, snapshot: u64, position: &[u8]) -> io::Result<Piece> {
        version(&mut piece)?;
        let last = get_flag(&mut piece, "last")?;
        let expected = get_u64(&mut piece, "checksum")?;
        let length = get_u32(&mut piece, "position")? as usize;
        need(&piece, length, "position")?;
        let next = piece.split_to(length);
        let found = checksum(snapshot, position, &next, &piece);
        if found != expected {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("a piece of a snapshot has checksum {found:016x}, expected {expected:016x}"),
            ));
        }
        Ok(if last { Piece::End } else { Piece::Chunk { bytes: piece, next } })
    }
}

#[cfg(test)]
mod tests;
