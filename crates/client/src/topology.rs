//! What is known of the cell: who is there, and who leads which cohort. All of it is hearsay: it says where to ask first, and
//! nothing that is right depends on it.

use crate::config::address;
use serde::{Deserialize, Serialize};
use skein_model::{CellId, HostId, TableId, row_hash};
use std::collections::BTreeMap;

/// Most peers that are taken from an answer or a memo.
const PEERS_MAX: usize = 16 << 10;
/// Most cohorts that are taken from an answer or a memo.
const COHORTS_MAX: usize = 64 << 10;
/// Most replicas of one cohort that are looked at.
const HOSTS_MAX: usize = 64;

/// The cell as one of its peers saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    /// The cell.
    pub cell: CellId,
    /// Version of the atlas; 0 for none.
    pub atlas_version: u64,
    /// The cohorts in the order of the atlas; their number is a power of two.
    pub cohorts: Vec<Cohort>,
    /// Where the peers serve rows, as `host:port`.
    pub peers: BTreeMap<HostId, String>,
}

/// Who serves one share of the rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cohort {
    /// Who leads it, if that is known.
    pub leader: Option<HostId>,
    /// Who holds its rows.
    pub hosts: Vec<HostId>,
}

/// Why an answer or a memo is no topology.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TopologyError {
    #[error("it is not the JSON of a topology: {0}")]
    Json(String),
    #[error("the number of cohorts is {0}, and not a power of two")]
    Cohorts(usize),
    #[error("it names {0} {1}, more than a client keeps")]
    TooMany(usize, &'static str),
    #[error("{0:?} is not an ID")]
    Id(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FlockBody {
    cell: String,
    atlas_version: u64,
    cohorts: Vec<Led>,
    peers: Vec<Reach>,
}

#[derive(Deserialize)]
struct Led {
    leader: Option<String>,
    hosts: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Reach {
    host: String,
    http_addr: String,
}

impl Topology {
    /// Reads the answer to `GET /flock`. Peers whose address is none are left out.
    pub(crate) fn parse(json: &[u8]) -> Result<Topology, TopologyError> {
        let body: FlockBody =
            serde_json::from_slice(json).map_err(|why| TopologyError::Json(why.to_string()))?;
        fn id<T: std::str::FromStr>(text: &str) -> Result<T, TopologyError> {
            text.parse().map_err(|_| TopologyError::Id(text.chars().take(40).collect()))
        }
        let cohorts = body.cohorts.iter().map(|led| {
            let leader = led.leader.as_deref().map(id).transpose()?;
            let hosts = led.hosts.iter().take(HOSTS_MAX).map(|host| id(host)).collect::<Result<_, _>>()?;
            Ok(Cohort { leader, hosts })
        });
        let mut peers = BTreeMap::new();
        for reach in &body.peers {
            if let Some(address) = address(&reach.http_addr) {
                peers.insert(id(&reach.host)?, address);
            }
        }
        let mut cohorts = cohorts.collect::<Result<Vec<_>, _>>()?;
        if cohorts.is_empty() {
            // Before the first atlas.
            cohorts.push(Cohort { leader: None, hosts: Vec::new() });
        }
        Topology { cell: id(&body.cell)?, atlas_version: body.atlas_version, cohorts, peers }.check()
    }

    /// Holds what somebody else wrote against what a topology has to be.
    pub(crate) fn check(self) -> Result<Topology, TopologyError> {
        let cohorts = self.cohorts.len();
        if COHORTS_MAX < cohorts {
            return Err(TopologyError::TooMany(cohorts, "cohorts"));
        }
        if !cohorts.is_power_of_two() {
            return Err(TopologyError::Cohorts(cohorts));
        }
        if PEERS_MAX < self.peers.len() {
            return Err(TopologyError::TooMany(self.peers.len(), "peers"));
        }
        Ok(self)
    }

    /// The number of a row's cohort. A table known by name only has no hash; with one cohort it needs none.
    pub(crate) fn cohort_of(&self, table: Option<TableId>, key: &[u8]) -> Option<u32> {
        match table {
            _ if self.cohorts.len() == 1 => Some(0),
            Some(table) => Some(row_hash(table, key) & self.mask()),
            None => None,
        }
    }

    /// The number of the cohort that all rows of a slice belong to, if there is one.
    pub(crate) fn cohort_of_slice(&self, slice: u32, nslices: u32) -> Option<u32> {
        (self.cohorts.len() <= nslices as usize).then_some(slice & self.mask())
    }

    fn mask(&self) -> u32 {
        // The number of cohorts was checked to be small and a power of two.
        (self.cohorts.len() as u32).wrapping_sub(1)
    }

    /// Addresses in the order in which to ask about a cohort's rows: its leader, its other hosts, everybody else. `turn` spreads
    /// those of equal rank.
    pub(crate) fn order(&self, cohort: Option<u32>, turn: usize) -> Vec<&str> {
        let mut order: Vec<&str> = Vec::new();
        let seat = cohort.and_then(|number| self.cohorts.get(number as usize));
        if let Some(seat) = seat {
            let rest = seat.hosts.iter().filter(|host| Some(**host) != seat.leader);
            order.extend(
                seat.leader.iter().chain(rest).filter_map(|host| self.peers.get(host)).map(String::as_str),
            );
        }
        let named = order.len();
        let near = |host: &HostId| seat.is_some_and(|s| s.leader == Some(*host) || s.hosts.contains(host));
        order.extend(self.peers.iter().filter(|(host, _)| !near(host)).map(|(_, address)| address.as_str()));
        let others = order.len() - named;
        if 0 < others {
            order[named..].rotate_left(turn % others);
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flock(cohorts: &str, peers: &str) -> String {
        format!(r#"{{"cell":"0xC","atlasVersion":3,"catalog":{{}},"cohorts":{cohorts},"peers":{peers}}}"#)
    }

    fn three() -> Topology {
        let cohorts = r#"[{"index":0,"leader":"0x2","term":1,"hosts":["0x1","0x2","0x3"]},
                          {"index":1,"leader":null,"term":0,"hosts":["0x3"]}]"#;
        let peers = r#"[{"host":"0x1","httpAddr":"a:1"},{"host":"0x2","httpAddr":"b:1"},
                        {"host":"0x3","httpAddr":"c:1"},{"host":"0x4","httpAddr":"d:1"},
                        {"host":"0x5","httpAddr":"no address"}]"#;
        Topology::parse(flock(cohorts, peers).as_bytes()).unwrap()
    }

    #[test]
    fn the_leader_is_asked_first_then_the_other_hosts_then_the_rest() {
        let topology = three();
        assert_eq!(topology.order(Some(0), 0), ["b:1", "a:1", "c:1", "d:1"]);
        assert_eq!(topology.order(Some(1), 0), ["c:1", "a:1", "b:1", "d:1"]);
        assert_eq!(topology.order(Some(1), 1), ["c:1", "b:1", "d:1", "a:1"]);
        assert_eq!(topology.order(None, 2), ["c:1", "d:1", "a:1", "b:1"]);
    }

    #[test]
    fn a_row_and_a_slice_find_their_cohort() {
        let topology = three();
        assert_eq!(topology.cohort_of(Some(TableId(1)), b"apple"), Some(1));
        assert_eq!(topology.cohort_of(Some(TableId(1)), b"banana"), Some(0));
        assert_eq!(topology.cohort_of(None, b"banana"), None);
        assert_eq!(topology.cohort_of_slice(3, 4), Some(1));
        assert_eq!(topology.cohort_of_slice(0, 1), None, "a whole table belongs to both");
    }

    #[test]
    fn lies_that_cannot_be_a_topology_are_not_believed() {
        let parse = |cohorts: &str, peers: &str| Topology::parse(flock(cohorts, peers).as_bytes());
        let led = r#"{"leader":null,"hosts":[]}"#;
        assert_eq!(
            parse("[]", "[]").unwrap().order(Some(0), 0),
            Vec::<&str>::new(),
            "before the first atlas"
        );
        assert_eq!(parse(&format!("[{led},{led},{led}]"), "[]"), Err(TopologyError::Cohorts(3)));
        assert!(matches!(
            parse(&format!("[{led}]"), r#"[{"host":"x","httpAddr":"a:1"}]"#),
            Err(TopologyError::Id(_))
        ));
        assert!(matches!(Topology::parse(b"[]"), Err(TopologyError::Json(_))));
        let many = vec![led; COHORTS_MAX * 2].join(",");
        assert_eq!(
            parse(&format!("[{many}]"), "[]"),
            Err(TopologyError::TooMany(COHORTS_MAX * 2, "cohorts"))
        );
    }

    #[test]
    fn a_leader_without_an_address_is_passed_over() {
        let cohorts = r#"[{"leader":"0x9","hosts":["0x9","0x1"]}]"#;
        let topology =
            Topology::parse(flock(cohorts, r#"[{"host":"0x1","httpAddr":"a:1"}]"#).as_bytes()).unwrap();
        assert_eq!(topology.order(Some(0), 7), ["a:1"]);
    }
}
