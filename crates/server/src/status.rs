//! `GET /admin/status`: how the cell is doing, as JSON. The same types read it again in the commands that
//! show it. IDs are texts, because JSON's numbers lose the last bits of 64.

use crate::dispatch::State;
use crate::problem::{Answer, Kind, Problem};
use crate::reply::whole;
use serde::{Deserialize, Serialize};
use skein_cell::{
    CatalogStatus, CellStatus, CohortStatus, CopyStatus, MoveStatus, PeerStatus, ReplicaStatus,
};
use skein_model::{Cohort, HostId};
use std::collections::BTreeSet;

const JSON: &str = "application/json";

/// The whole cell as one peer sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusBody {
    /// The cell.
    pub cell: String,
    /// The peer that answers.
    pub host: String,
    /// Version of the atlas in force there; 0 for none.
    pub atlas_version: u64,
    /// Everybody known, by ascending host.
    pub peers: Vec<PeerBody>,
    /// The cohorts in the order of the atlas.
    pub cohorts: Vec<CohortBody>,
    /// Where the catalog is kept.
    pub catalog: CatalogBody,
}

/// One peer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerBody {
    /// Which.
    pub host: String,
    /// Its directory; absent before it joined.
    pub store: Option<String>,
    /// Whether it is the peer that answers.
    pub is_me: bool,
    /// healthy, suspected, avoided, tried or missing.
    pub health: String,
    /// Whether a connection is up.
    pub connected: bool,
    /// Where it takes connections of peers.
    pub peer_addr: Option<String>,
    /// Where it serves HTTP.
    pub http_addr: Option<String>,
    /// Its release.
    pub build: Option<String>,
    /// Whether it hands over what it leads.
    pub draining: bool,
    /// Version of the catalog it runs by.
    pub seen: Option<u64>,
    /// Free bytes on its drive.
    pub disk_free_bytes: Option<u64>,
    /// How many cohorts it is in.
    pub cohorts: u32,
    /// How many of those it leads.
    pub leads: u32,
}

/// One cohort.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CohortBody {
    /// Its position in the atlas.
    pub index: usize,
    /// Its Raft group.
    pub group: u64,
    /// empty, settled, issuing or moving.
    pub state: String,
    /// The peers that hold the rows.
    pub origin: Vec<String>,
    /// The peers that shall hold them; the same when settled.
    pub target: Vec<String>,
    /// Who leads it.
    pub leader: Option<String>,
    /// Who should when all are well.
    pub preferred: Option<String>,
    /// Raft's term.
    pub term: u64,
    /// Entries committed.
    pub committed: u64,
    /// Its replicas, by ascending host.
    pub replicas: Vec<ReplicaBody>,
    /// Bytes on the leader's disk.
    pub bytes: Option<u64>,
    /// Rows, about.
    pub rows: Option<u64>,
    /// How the move stands.
    pub moving: Option<MoveBody>,
    /// Why the replica of the peer that answers has stopped.
    pub failure: Option<String>,
}

/// One replica of a cohort.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaBody {
    /// Where.
    pub host: String,
    /// Which directory.
    pub store: String,
    /// Whether it has a vote.
    pub votes: bool,
    /// Entries that it has yet to take.
    pub lag: Option<u64>,
    /// The copy of the rows that it is just being sent.
    pub copy: Option<CopyBody>,
}

/// A copy of a cohort's rows on its way.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CopyBody {
    /// Bytes that have arrived.
    pub bytes: u64,
    /// About how many there are.
    pub bytes_total: u64,
    /// Rows that have arrived.
    pub rows: u64,
    /// About how many there are.
    pub rows_total: u64,
    /// Bytes a second, of late.
    pub bytes_per_second: Option<u64>,
}

/// How far a move is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MoveBody {
    /// Bytes copied.
    pub bytes: u64,
    /// Bytes to copy.
    pub bytes_total: Option<u64>,
    /// Rows copied.
    pub rows: u64,
    /// Rows to copy.
    pub rows_total: Option<u64>,
    /// Bytes a second, of late.
    pub bytes_per_second: Option<u64>,
    /// How long it may yet take.
    pub seconds_left: Option<u64>,
    /// What it waits for.
    pub waits_for: Option<String>,
}

/// The group that keeps the catalog.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CatalogBody {
    /// The newest version known to the peer that answers; 0 before it is founded.
    pub version: u64,
    /// Version of the schema.
    pub schema_version: u64,
    /// Raft's term; 0 if not known.
    pub term: u64,
    /// The last committed entry; absent where the answering peer is no member.
    pub commit_index: Option<u64>,
    /// Who leads it.
    pub leader: Option<String>,
    /// Its members.
    pub members: Vec<MemberBody>,
}

/// A member of the catalog's group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberBody {
    /// Which peer.
    pub host: String,
    /// Whether it has a vote already; absent where the answering peer does not know.
    pub votes: Option<bool>,
    /// Where it takes connections of peers.
    pub peer_addr: Option<String>,
    /// Where it serves HTTP.
    pub http_addr: Option<String>,
}

fn text(id: impl ToString) -> String {
    id.to_string()
}

fn texts(hosts: &BTreeSet<HostId>) -> Vec<String> {
    hosts.iter().map(text).collect()
}

impl From<CellStatus> for StatusBody {
    fn from(status: CellStatus) -> StatusBody {
        StatusBody {
            cell: text(status.cell),
            host: text(status.host),
            atlas_version: status.atlas_version,
            peers: status.peers.into_iter().map(PeerBody::from).collect(),
            cohorts: status.cohorts.into_iter().map(CohortBody::from).collect(),
            catalog: status.catalog.into(),
        }
    }
}

impl From<PeerStatus> for PeerBody {
    fn from(peer: PeerStatus) -> PeerBody {
        PeerBody {
            host: text(peer.host),
            store: peer.store.map(text),
            is_me: peer.is_me,
            health: peer.health.name().to_owned(),
            connected: peer.connected,
            peer_addr: peer.peer_addr,
            http_addr: peer.http_addr,
            build: peer.build,
            draining: peer.draining,
            seen: peer.seen,
            disk_free_bytes: peer.disk_free_bytes,
            cohorts: peer.cohorts,
            leads: peer.leads,
        }
    }
}

impl From<CohortStatus> for CohortBody {
    fn from(cohort: CohortStatus) -> CohortBody {
        let state = match &cohort.state {
            Cohort::Empty => "empty",
            Cohort::Settled { .. } => "settled",
            Cohort::Issuing { .. } => "issuing",
            Cohort::Moving { .. } => "moving",
        };
        CohortBody {
            index: cohort.index,
            group: cohort.group.0,
            state: state.to_owned(),
            origin: texts(cohort.state.origin()),
            target: texts(cohort.state.target()),
            leader: cohort.leader.map(text),
            preferred: cohort.preferred.map(text),
            term: cohort.term,
            committed: cohort.committed,
            replicas: cohort.replicas.into_iter().map(ReplicaBody::from).collect(),
            bytes: cohort.bytes,
            rows: cohort.rows,
            moving: cohort.moving.map(MoveBody::from),
            failure: cohort.failure,
        }
    }
}

impl From<ReplicaStatus> for ReplicaBody {
    fn from(replica: ReplicaStatus) -> ReplicaBody {
        ReplicaBody {
            host: text(replica.host),
            store: text(replica.store),
            votes: replica.votes,
            lag: replica.lag,
            copy: replica.copy.map(CopyBody::from),
        }
    }
}

impl From<CopyStatus> for CopyBody {
    fn from(copy: CopyStatus) -> CopyBody {
        CopyBody {
            bytes: copy.bytes,
            bytes_total: copy.bytes_total,
            rows: copy.rows,
            rows_total: copy.rows_total,
            bytes_per_second: copy.bytes_per_second,
        }
    }
}

impl From<MoveStatus> for MoveBody {
    fn from(progress: MoveStatus) -> MoveBody {
        MoveBody {
            bytes: progress.bytes,
            bytes_total: progress.bytes_total,
            rows: progress.rows,
            rows_total: progress.rows_total,
            bytes_per_second: progress.bytes_per_second,
            seconds_left: progress.seconds_left,
            waits_for: progress.waits_for,
        }
    }
}

impl From<CatalogStatus> for CatalogBody {
    fn from(catalog: CatalogStatus) -> CatalogBody {
        let members = catalog.members.into_iter();
        CatalogBody {
            version: catalog.version,
            schema_version: catalog.schema_version,
            term: catalog.term,
            commit_index: catalog.commit_index,
            leader: catalog.leader.map(text),
            members: members
                .map(|member| MemberBody {
                    host: text(member.host),
                    votes: member.votes,
                    peer_addr: member.peer_addr,
                    http_addr: member.http_addr,
                })
                .collect(),
        }
    }
}

pub(crate) async fn status(state: &State) -> Answer {
    let status = state.cell.status(state.deadline()).await;
    let body = serde_json::to_vec(&StatusBody::from(status));
    // Texts, numbers and lists of them always have a JSON form.
    let body = body.map_err(|error| Problem::new(Kind::Internal, format!("write the status: {error}")))?;
    Ok(whole(JSON, body))
}

#[cfg(test)]
mod tests {
    use super::*;
    use skein_model::{CellId, GroupId, StoreId};

    #[test]
    fn a_status_reads_back_what_was_written_and_names_ids_as_texts() {
        let hosts = BTreeSet::from([HostId(1), HostId(2), HostId(u64::MAX)]);
        let cohort = CohortStatus {
            index: 0,
            group: GroupId(1),
            state: Cohort::Moving { origin: BTreeSet::from([HostId(1)]), target: hosts },
            leader: Some(HostId(1)),
            preferred: None,
            term: 7,
            committed: 9,
            replicas: vec![ReplicaStatus {
                host: HostId(1),
                store: StoreId(5),
                votes: true,
                lag: None,
                copy: None,
            }],
            bytes: Some(10),
            rows: Some(2),
            moving: Some(MoveStatus { bytes: 1, bytes_total: Some(2), ..MoveStatus::default() }),
            failure: None,
        };
        let status = CellStatus {
            cell: CellId(3),
            host: HostId(1),
            atlas_version: 2,
            peers: Vec::new(),
            cohorts: vec![cohort],
            catalog: CatalogStatus::default(),
        };
        let body = StatusBody::from(status);
        let json = serde_json::to_value(&body).unwrap();
        assert_eq!(json["cohorts"][0]["state"], "moving");
        assert_eq!(json["cohorts"][0]["target"][2], "0xFFFFFFFFFFFFFFFF");
        assert_eq!(json["cohorts"][0]["moving"]["bytesTotal"], 2);
        assert_eq!(serde_json::from_value::<StatusBody>(json).unwrap(), body);
    }
}
