//! What every peer knows of the cell: the atlas, the schema, who belongs to it.

use serde::{Deserialize, Serialize};
use skein_cohort::peers::Replica;
use skein_model::{Atlas, Cohort, GroupId, HostId, Schema, StoreId};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

/// The most voters that the catalog's group has: more would make every change slower and no safer.
pub const CATALOG_HOSTS_MAX: usize = 5;

/// Names one founding of a cell: drawn at random when the first atlas is put in force. Peers with different ones belong to
/// different databases, whatever their cell ID says.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Founding(pub u64);

impl fmt::Display for Founding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Founding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Founding({self})")
    }
}

/// What the catalog keeps of one cohort besides its place in the atlas.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CohortFacts {
    /// Its Raft group.
    pub group: GroupId,
    /// The catalog version at which the atlas gave the cohort the state it has. Whoever runs by an older catalog does not
    /// know that state, and what they report does not count for it.
    pub since: u64,
    /// The replicas that begin the group, all with this one set as its first membership.
    pub founders: BTreeMap<HostId, StoreId>,
    /// Whether the group has begun. Nobody may begin it again, whatever their disk says.
    pub opened: bool,
}

/// The catalog but for the users' keys, as of one version. The default is that of a peer that was told nothing.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Body", into = "Body")]
pub struct CatalogState {
    /// Which founding of the cell this belongs to; `None` before there is one.
    pub founding: Option<Founding>,
    /// Index in the catalog's log of the last change of anything here; 0 before the founding.
    pub version: u64,
    /// The atlas in force.
    pub atlas: Arc<Atlas>,
    /// One for each cohort of the atlas, in its order; none while the atlas is empty.
    pub cohorts: Vec<CohortFacts>,
    /// How many cohorts the administrator asked for last.
    pub cohorts_wanted: u32,
    /// The next group that will be given out.
    pub next_group: GroupId,
    /// Counts the changes of the schema.
    pub schema_version: u64,
    /// The schema in force.
    pub schema: Arc<Schema>,
    /// The peers that joined, and the directory that each is known by.
    pub members: BTreeMap<HostId, StoreId>,
}

impl Default for CatalogState {
    fn default() -> CatalogState {
        CatalogState {
            founding: None,
            version: 0,
            atlas: Arc::new(Atlas::empty()),
            cohorts: Vec::new(),
            cohorts_wanted: 1,
            next_group: GroupId::FIRST,
            schema_version: 0,
            schema: Arc::new(Schema::default()),
            members: BTreeMap::new(),
        }
    }
}

impl fmt::Debug for CatalogState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CatalogState")
            .field("founding", &self.founding)
            .field("version", &self.version)
            .field("atlas", &self.atlas)
            .field("cohorts", &self.cohorts)
            .field("schema_version", &self.schema_version)
            .field("members", &self.members)
            .finish_non_exhaustive()
    }
}

impl CatalogState {
    /// Whether the cell has been founded.
    pub fn is_founded(&self) -> bool {
        self.founding.is_some()
    }

    /// The replica that a host keeps; `None` for one that did not join, or was forgotten.
    pub fn replica(&self, host: HostId) -> Option<Replica> {
        self.members.get(&host).map(|store| Replica { store: *store, host })
    }

    /// The replicas that these hosts keep; hosts without a known directory are left out.
    pub fn replicas<'a>(&self, hosts: impl IntoIterator<Item = &'a HostId>) -> BTreeSet<Replica> {
        hosts.into_iter().filter_map(|host| self.replica(*host)).collect()
    }

    /// The replicas that the group of the cohort at this position shall have now: those of its hosts; of the target while
    /// it is moving, of the origin while it is issuing. Empty for a position that the atlas does not have.
    pub fn wanted_replicas(&self, position: usize) -> BTreeSet<Replica> {
        self.atlas.cohorts.get(position).map_or_else(BTreeSet::new, |cohort| self.replicas(wanted(cohort)))
    }

    /// Where in the atlas the group's cohort stands; `None` for the catalog's group and those that are no more.
    pub fn position(&self, group: GroupId) -> Option<usize> {
        self.cohorts.iter().position(|cohort| cohort.group == group)
    }

    /// The hosts that shall keep the catalog: those of cohort 0, the first [`CATALOG_HOSTS_MAX`] of them. An odd number;
    /// none before the founding.
    pub fn catalog_hosts(&self) -> BTreeSet<HostId> {
        catalog_hosts(&self.atlas)
    }

    /// The replicas that shall keep the catalog.
    pub fn catalog_replicas(&self) -> BTreeSet<Replica> {
        self.replicas(&self.catalog_hosts())
    }

    /// Says which rule the state breaks, if any: for states that come from a disk or another peer.
    pub fn check(&self) -> Result<(), StateFault> {
        if self.founding.is_some() != (0 < self.version) {
            return Err(StateFault("founding and version contradict each other"));
        }
        if self.atlas.is_empty() {
            let blank = self.atlas.version == 0 && self.atlas.cohorts.len() == 1 && self.cohorts.is_empty();
            return if blank { Ok(()) } else { Err(StateFault("an empty atlas has cohorts")) };
        }
        if self.founding.is_none() || self.atlas.version == 0 {
            return Err(StateFault("there is an atlas and no founding"));
        }
        if !self.atlas.cohorts.len().is_power_of_two() || self.atlas.cohorts.len() != self.cohorts.len() {
            return Err(StateFault("the number of cohorts"));
        }
        if self.atlas.cohorts.iter().any(|cohort| cohort.check().is_err()) {
            return Err(StateFault("a cohort of the atlas"));
        }
        let groups: BTreeSet<GroupId> = self.cohorts.iter().map(|cohort| cohort.group).collect();
        let in_range = |group: &GroupId| GroupId::FIRST <= *group && *group < self.next_group;
        if groups.len() != self.cohorts.len() || !groups.iter().all(in_range) {
            return Err(StateFault("the groups of the cohorts"));
        }
        if self.cohorts.iter().any(|cohort| self.version < cohort.since || cohort.founders.is_empty()) {
            return Err(StateFault("the facts of a cohort"));
        }
        let stores: BTreeSet<&StoreId> = self.members.values().collect();
        if stores.len() != self.members.len() {
            return Err(StateFault("two members have the same store"));
        }
        Ok(())
    }
}

/// The hosts that shall keep the catalog of a cell with this atlas; see [`CatalogState::catalog_hosts`].
pub fn catalog_hosts(atlas: &Atlas) -> BTreeSet<HostId> {
    atlas
        .cohorts
        .first()
        .map_or_else(BTreeSet::new, |cohort| wanted(cohort).iter().copied().take(CATALOG_HOSTS_MAX).collect())
}

/// The hosts that shall hold a cohort's rows as things stand: until the move has begun, those that hold them.
pub(crate) fn wanted(cohort: &Cohort) -> &BTreeSet<HostId> {
    match cohort {
        Cohort::Moving { target, .. } => target,
        Cohort::Empty | Cohort::Settled { .. } | Cohort::Issuing { .. } => cohort.origin(),
    }
}

/// A catalog that came from a disk or a peer contradicts itself; nothing was taken from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the catalog contradicts itself: {0}")]
pub struct StateFault(pub &'static str);

/// The binary form: what is shared or parsed in memory stands whole in it.
#[derive(Serialize, Deserialize)]
struct Body {
    founding: Option<Founding>,
    version: u64,
    atlas: Arc<Atlas>,
    cohorts: Vec<CohortFacts>,
    cohorts_wanted: u32,
    next_group: GroupId,
    schema_version: u64,
    schema: String,
    members: BTreeMap<HostId, StoreId>,
}

impl From<CatalogState> for Body {
    fn from(state: CatalogState) -> Body {
        Body {
            founding: state.founding,
            version: state.version,
            atlas: state.atlas,
            cohorts: state.cohorts,
            cohorts_wanted: state.cohorts_wanted,
            next_group: state.next_group,
            schema_version: state.schema_version,
            schema: state.schema.text().to_owned(),
            members: state.members,
        }
    }
}

impl TryFrom<Body> for CatalogState {
    type Error = StateFault;

    fn try_from(body: Body) -> Result<CatalogState, StateFault> {
        let schema = Schema::parse(&body.schema).map_err(|_| StateFault("the schema cannot be read"))?;
        let state = CatalogState {
            founding: body.founding,
            version: body.version,
            atlas: body.atlas,
            cohorts: body.cohorts,
            cohorts_wanted: body.cohorts_wanted,
            next_group: body.next_group,
            schema_version: body.schema_version,
            schema: Arc::new(schema),
            members: body.members,
        };
        state.check()?;
        Ok(state)
    }
}
