//! The perfect catalog.

use skein_cohort::peers::Replica;
use skein_model::{Atlas, Cohort, HostId, StoreId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What all peers know at once.
pub struct Board {
    atlas: Arc<Atlas>,
    stores: BTreeMap<HostId, StoreId>,
    /// The first members of each cohort.
    founders: Vec<BTreeSet<Replica>>,
    /// Cohorts that had a leader once.
    opened: BTreeSet<usize>,
    /// The members of each cohort as its leader last said that they are committed.
    members: BTreeMap<usize, BTreeSet<Replica>>,
}

impl Default for Board {
    fn default() -> Board {
        Board {
            atlas: Arc::new(Atlas::empty()),
            stores: BTreeMap::new(),
            founders: Vec::new(),
            opened: BTreeSet::new(),
            members: BTreeMap::new(),
        }
    }
}

impl Board {
    /// A host says which directory it is.
    pub fn join(&mut self, host: HostId, store: StoreId) -> Result<(), String> {
        match self.stores.entry(host).or_insert(store) {
            known if *known == store => Ok(()),
            known => {
                Err(format!("{host} is known with store {known}, not {store}: it has to be forgotten first"))
            }
        }
    }

    /// The next directory that says it is this host is believed.
    pub fn forget(&mut self, host: HostId) {
        self.stores.remove(&host);
    }

    /// Whether this is the directory of the host.
    pub fn admits(&self, host: HostId, store: StoreId) -> bool {
        self.stores.get(&host) == Some(&store)
    }

    /// The atlas.
    pub fn atlas(&self) -> Arc<Atlas> {
        self.atlas.clone()
    }

    /// Asks for these hosts.
    pub fn put(&mut self, cohorts: &[BTreeSet<HostId>]) -> Result<(), String> {
        let all_known = cohorts.iter().flatten().all(|host| self.stores.contains_key(host));
        if !all_known {
            return Err("not all hosts have joined".into());
        }
        let wanted: Vec<Cohort> =
            cohorts.iter().map(|hosts| Cohort::Settled { hosts: hosts.clone() }).collect();
        if self.atlas.is_empty() {
            self.founders = cohorts.iter().map(|hosts| self.replicas(hosts)).collect();
        }
        if let Some(next) = self.atlas.next(&wanted) {
            self.atlas = Arc::new(next);
        }
        Ok(())
    }

    fn replicas(&self, hosts: &BTreeSet<HostId>) -> BTreeSet<Replica> {
        let replica = |host: &HostId| Some(Replica { store: *self.stores.get(host)?, host: *host });
        hosts.iter().filter_map(replica).collect()
    }

    /// Who should be the members of a cohort now; `None` while one of them has not joined.
    pub fn wanted(&self, cohort: usize) -> Option<BTreeSet<Replica>> {
        let hosts = match self.atlas.cohorts.get(cohort)? {
            Cohort::Moving { target, .. } => target,
            other => other.origin(),
        };
        let replicas = self.replicas(hosts);
        (replicas.len() == hosts.len() && !replicas.is_empty()).then_some(replicas)
    }

    /// Those to begin a cohort with, if it has not begun.
    pub fn founders(&self, cohort: usize) -> Option<BTreeSet<Replica>> {
        self.founders.get(cohort).filter(|_| !self.opened.contains(&cohort)).cloned()
    }

    /// Whether a cohort begins with this replica, whether or not it has begun.
    pub fn is_founder(&self, cohort: usize, replica: Replica) -> bool {
        self.founders.get(cohort).is_some_and(|founders| founders.contains(&replica))
    }

    /// A cohort has a leader.
    pub fn opened(&mut self, cohort: usize) {
        self.opened.insert(cohort);
    }

    /// The leader of a cohort says that these are its members, and that this is committed.
    pub fn has_members(&mut self, cohort: usize, members: BTreeSet<Replica>) {
        let hosts: BTreeSet<HostId> = members.iter().map(|replica| replica.host).collect();
        self.members.insert(cohort, members);
        if let Some(Cohort::Moving { target, .. }) = self.atlas.cohorts.get(cohort)
            && *target == hosts
        {
            self.change(cohort, Cohort::Settled { hosts });
        }
    }

    /// A cohort's leader has seen that it is to move: so the move begins.
    pub fn seen(&mut self, cohort: usize) {
        if let Some(Cohort::Issuing { origin, target }) = self.atlas.cohorts.get(cohort).cloned() {
            self.change(cohort, Cohort::Moving { origin, target });
        }
    }

    fn change(&mut self, cohort: usize, to: Cohort) {
        let mut atlas = Atlas::clone(&self.atlas);
        atlas.version += 1;
        atlas.cohorts[cohort] = to;
        self.atlas = Arc::new(atlas);
    }

    /// Whether a replica is surely not needed any more.
    pub fn is_spare(&self, cohort: usize, replica: Replica) -> bool {
        let settled = self
            .atlas
            .cohorts
            .get(cohort)
            .is_some_and(|c| c.is_settled() && !c.origin().contains(&replica.host));
        settled && self.members.get(&cohort).is_some_and(|members| !members.contains(&replica))
    }
}
