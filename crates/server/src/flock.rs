//! `GET /flock`: who keeps the catalog and who leads which cohort, for clients that go to the right peer by themselves.

use crate::conditions::Conditions;
use crate::dispatch::State;
use crate::headers::RequestHeaders;
use crate::problem::{Answer, Kind, Problem};
use crate::reply::{empty, whole};
use crate::status::CatalogBody;
use http::StatusCode;
use http::header::{CACHE_CONTROL, ETAG, HeaderValue};
use serde::{Deserialize, Serialize};
use skein_cell::CellStatus;
use skein_model::{HostId, TxClock};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;
use tokio::time::Instant;

/// How long leaders elsewhere are asked. Who has not answered by then is told as last known.
const PATIENCE: Duration = Duration::from_millis(500);
/// As old may be what leaders elsewhere said: many clients ask, and leaders seldom change.
const AGE_MAX: Duration = Duration::from_millis(500);

/// Where everything is, as one peer knows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlockBody {
    /// The cell.
    pub cell: String,
    /// Version of the atlas; 0 for none.
    pub atlas_version: u64,
    /// The group that keeps the catalog.
    pub catalog: CatalogBody,
    /// The cohorts in the order of the atlas. A row's is its hash modulo their number.
    pub cohorts: Vec<Led>,
    /// Where the peers serve HTTP; those that have not said are left out.
    pub peers: Vec<Reach>,
}

/// One cohort.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Led {
    /// Its position in the atlas.
    pub index: usize,
    /// Who leads it, as far as known.
    pub leader: Option<String>,
    /// Raft's term; 0 if not known.
    pub term: u64,
    /// Who holds its rows.
    pub hosts: Vec<String>,
}

/// One peer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reach {
    /// Which.
    pub host: String,
    /// Where it serves HTTP.
    pub http_addr: String,
}

impl From<CellStatus> for FlockBody {
    fn from(status: CellStatus) -> FlockBody {
        let cohorts = status.cohorts.into_iter().map(|cohort| Led {
            index: cohort.index,
            leader: cohort.leader.map(|leader| leader.to_string()),
            term: cohort.term,
            hosts: cohort.state.origin().iter().map(HostId::to_string).collect(),
        });
        let peers = status
            .peers
            .into_iter()
            .filter_map(|peer| Some(Reach { host: peer.host.to_string(), http_addr: peer.http_addr? }));
        FlockBody {
            cell: status.cell.to_string(),
            atlas_version: status.atlas_version,
            catalog: status.catalog.into(),
            cohorts: cohorts.collect(),
            peers: peers.collect(),
        }
    }
}

impl FlockBody {
    /// A number for everything in it but the catalog's commit index and version, which move while nothing else does.
    fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        let members = self.catalog.members.iter().map(|m| (&m.host, m.votes, &m.peer_addr, &m.http_addr));
        (&self.cell, self.atlas_version, self.catalog.term, &self.catalog.leader).hash(&mut hasher);
        members.collect::<Vec<_>>().hash(&mut hasher);
        (&self.cohorts, &self.peers).hash(&mut hasher);
        hasher.finish()
    }
}

/// Answers `GET /flock`.
pub(crate) async fn flock(state: &State, headers: &RequestHeaders<'_>) -> Answer {
    let conditions = Conditions::parse(headers)?;
    let body = FlockBody::from(state.cell.status_lately(Instant::now() + PATIENCE, AGE_MAX).await);
    let digest = body.digest();
    let known = conditions.if_none_match.is_some_and(|tags| tags.contain(TxClock(digest)));
    let mut response = if known {
        empty(StatusCode::NOT_MODIFIED)
    } else {
        // Texts, numbers and lists of them always have a JSON form.
        let bytes = serde_json::to_vec(&body)
            .map_err(|error| Problem::new(Kind::Internal, format!("write the flock: {error}")))?;
        whole("application/json", bytes)
    };
    // Weak: two answers with the same tag may differ in the commit index.
    if let Ok(tag) = HeaderValue::try_from(format!("W/\"0x{digest:X}\"")) {
        response.headers_mut().insert(ETAG, tag);
    }
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::MemberBody;

    fn body() -> FlockBody {
        let member = MemberBody {
            host: "0x1".into(),
            votes: Some(true),
            peer_addr: None,
            http_addr: Some("a:1".into()),
        };
        FlockBody {
            cell: "0xC".into(),
            atlas_version: 3,
            catalog: CatalogBody {
                version: 9,
                schema_version: 1,
                term: 2,
                commit_index: Some(9),
                leader: Some("0x1".into()),
                members: vec![member],
            },
            cohorts: vec![Led { index: 0, leader: None, term: 4, hosts: vec!["0x1".into()] }],
            peers: vec![Reach { host: "0x1".into(), http_addr: "a:1".into() }],
        }
    }

    #[test]
    fn the_tag_changes_with_leaders_members_and_addresses_and_not_with_every_commit() {
        let tag = body().digest();
        let mut later = body();
        later.catalog.commit_index = Some(10);
        later.catalog.version = 10;
        assert_eq!(later.digest(), tag);
        let changes: [fn(&mut FlockBody); 6] = [
            |b| b.atlas_version += 1,
            |b| b.catalog.term += 1,
            |b| b.catalog.leader = None,
            |b| b.catalog.members.clear(),
            |b| b.cohorts[0].leader = Some("0x1".into()),
            |b| b.peers[0].http_addr = "b:1".into(),
        ];
        for change in changes {
            let mut changed = body();
            change(&mut changed);
            assert_ne!(changed.digest(), tag, "{changed:?}");
        }
    }
}
