//! How the cell is doing, as one peer knows it: for `skein status`, `GET /flock` and the health pages.
//!
//! These types travel between peers (their serde form is binary and for peers only). What people read is written by the
//! server, with IDs as text.

use serde::{Deserialize, Serialize};
use skein_model::{CellId, Cohort, GroupId, HostId, StoreId};

/// The whole cell, as this peer sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CellStatus {
    /// The cell.
    pub cell: CellId,
    /// The peer that answers.
    pub host: HostId,
    /// Version of the atlas in force here; 0 for none.
    pub atlas_version: u64,
    /// Everybody known, by ascending host; this peer included.
    pub peers: Vec<PeerStatus>,
    /// The cohorts in the order of the atlas.
    pub cohorts: Vec<CohortStatus>,
    /// The catalog's own group.
    pub catalog: CatalogStatus,
}

/// What the flock thinks of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Health {
    /// Nothing is held against it.
    Healthy,
    /// Several peers could not reach it, and it has not answered to that yet.
    Suspected,
    /// It is left alone for a while.
    Avoided,
    /// It had been avoided and is being tried again.
    Tried,
    /// It is named by the catalog or the atlas, and nothing has been heard of it since this peer started, or it left.
    Missing,
}

impl Health {
    /// One lower-case word for people.
    pub fn name(self) -> &'static str {
        match self {
            Health::Healthy => "healthy",
            Health::Suspected => "suspected",
            Health::Avoided => "avoided",
            Health::Tried => "tried",
            Health::Missing => "missing",
        }
    }
}

/// One peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Which.
    pub host: HostId,
    /// The directory that the catalog knows it by; `None` before it joined.
    pub store: Option<StoreId>,
    /// Whether it is the peer that answers.
    pub is_me: bool,
    /// What the flock thinks of it.
    pub health: Health,
    /// Whether a connection to it is up now; true for oneself.
    pub connected: bool,
    /// Where it takes connections of peers.
    pub peer_addr: Option<String>,
    /// Where it serves HTTP.
    pub http_addr: Option<String>,
    /// Its release.
    pub build: Option<String>,
    /// Whether it is handing over what it leads, and wants to lead nothing.
    pub draining: bool,
    /// The catalog version it runs by.
    pub seen: Option<u64>,
    /// Free bytes on its drive.
    pub disk_free_bytes: Option<u64>,
    /// How many cohorts of the atlas it is in.
    pub cohorts: u32,
    /// How many of those it leads, as far as known here.
    pub leads: u32,
}

/// One cohort, told by its leader if that could be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CohortStatus {
    /// Its position in the atlas.
    pub index: usize,
    /// Its group; never used again for another.
    pub group: GroupId,
    /// What the atlas says.
    pub state: Cohort,
    /// Who leads it; `None` if that is not known.
    pub leader: Option<HostId>,
    /// Who should lead it when all are well.
    pub preferred: Option<HostId>,
    /// Raft's term; 0 if not known.
    pub term: u64,
    /// Entries committed; 0 if not known.
    pub committed: u64,
    /// Its replicas, by ascending host.
    pub replicas: Vec<ReplicaStatus>,
    /// Rows' bytes on the leader's disk, history included.
    pub bytes: Option<u64>,
    /// About how many rows the leader has, deleted ones that are not yet reclaimed included.
    pub rows: Option<u64>,
    /// How its move stands; `None` when it is settled.
    pub moving: Option<MoveStatus>,
    /// Why the replica of the answering peer has stopped, if it has.
    pub failure: Option<String>,
}

/// One replica of a cohort, as its leader sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaStatus {
    /// Where.
    pub host: HostId,
    /// Which directory.
    pub store: StoreId,
    /// Whether it has a vote; one that is catching up has none.
    pub votes: bool,
    /// Entries that it has yet to take; `None` if the leader does not know.
    pub lag: Option<u64>,
    /// The copy of the rows that it is just being sent, if it is.
    pub copy: Option<CopyStatus>,
}

/// A copy of a cohort's rows on its way to a replica.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyStatus {
    /// Bytes that the replica has.
    pub bytes: u64,
    /// About how many there are.
    pub bytes_total: u64,
    /// Rows that the replica has.
    pub rows: u64,
    /// About how many there are.
    pub rows_total: u64,
    /// Bytes a second during the last ten seconds; `None` while that cannot be told.
    pub bytes_per_second: Option<u64>,
}

/// How far the copying for a move is, all new replicas of the cohort together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveStatus {
    /// Bytes that have reached the new replicas.
    pub bytes: u64,
    /// About how many bytes have to; `None` if the cohort's leader did not say.
    pub bytes_total: Option<u64>,
    /// Rows that have reached the new replicas.
    pub rows: u64,
    /// About how many rows have to; `None` if the cohort's leader did not say.
    pub rows_total: Option<u64>,
    /// Bytes a second, of late; `None` while nothing is being copied, or too little was heard to tell.
    pub bytes_per_second: Option<u64>,
    /// How long copying may yet take at the present pace; `None` where that cannot be told.
    pub seconds_left: Option<u64>,
    /// What it waits for, in words.
    pub waits_for: Option<String>,
}

/// The group that keeps the catalog.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogStatus {
    /// Version of the newest catalog known here; 0 before it is founded.
    pub version: u64,
    /// Version of the schema in it.
    pub schema_version: u64,
    /// Raft's term; 0 where this peer is no member.
    pub term: u64,
    /// The last committed entry of its group, if this peer is a member.
    pub commit_index: Option<u64>,
    /// Who leads it; `None` if that is not known.
    pub leader: Option<HostId>,
    /// Its members, by ascending host.
    pub members: Vec<CatalogMember>,
}

/// One member of the catalog's group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogMember {
    /// Which peer.
    pub host: HostId,
    /// Whether it has a vote already; `None` where this peer, being no member, does not know.
    pub votes: Option<bool>,
    /// Where it takes connections of peers.
    pub peer_addr: Option<String>,
    /// Where it serves HTTP.
    pub http_addr: Option<String>,
}
