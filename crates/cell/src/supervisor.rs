//! When a cohort that is moving goes on: decided from what the peers report, by whoever leads the catalog.
//!
//! The rules are pure. [`Observed`] gathers what was heard and forgets nothing newer for something older;
//! [`next_command`] compares it with the catalog. What comes of it is a command with the states it was decided for, so that a
//! change of the atlas at the same moment leaves out exactly the steps it overtook. A new leader of the catalog starts with
//! nothing observed: peers repeat their reports for as long as the catalog does not show them.

use crate::catalog::{CatalogState, Command, Step, StepFrom};
use serde::{Deserialize, Serialize};
use skein_cohort::peers::Replica;
use skein_model::{Cohort, GroupId, HostId, StoreId};
use std::collections::{BTreeMap, BTreeSet};

/// What the leader of a cohort's group says of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The group.
    pub group: GroupId,
    /// The term in which the reporter leads it.
    pub term: u64,
    /// The catalog version that the reporter ran by *before* it looked at the members.
    pub catalog: u64,
    /// The voters, if the membership is committed, not joint, and without anybody who is still learning.
    pub settled_at: Option<BTreeMap<HostId, StoreId>>,
}

impl Report {
    /// A report of a group with exactly these voters.
    pub fn of(group: GroupId, term: u64, catalog: u64, voters: Option<&BTreeSet<Replica>>) -> Report {
        let settled_at = voters.map(|voters| voters.iter().map(|r| (r.host, r.store)).collect());
        Report { group, term, catalog, settled_at }
    }
}

/// What the catalog's leader has heard.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    seen: BTreeMap<HostId, u64>,
    reports: BTreeMap<GroupId, Report>,
}

impl Observed {
    /// A host runs by this catalog version, or a newer one.
    pub fn saw(&mut self, host: HostId, version: u64) {
        let seen = self.seen.entry(host).or_default();
        *seen = version.max(*seen);
    }

    /// The catalog version a host runs by, as far as heard; 0 if nothing was.
    pub fn seen(&self, host: HostId) -> u64 {
        self.seen.get(&host).copied().unwrap_or(0)
    }

    /// A cohort's leader reports; one that was overtaken by a later one is dropped.
    pub fn report(&mut self, report: Report) {
        let known = self.reports.get(&report.group).map(|known| (known.term, known.catalog));
        if known.is_none_or(|known| known <= (report.term, report.catalog)) {
            self.reports.insert(report.group, report);
        }
    }

    /// Lets go of what the catalog has no use for, so that strangers cannot fill the memory.
    pub fn keep_only_known(&mut self, state: &CatalogState) {
        let hosts: BTreeSet<HostId> = state.atlas.cohorts.iter().flat_map(Cohort::hosts).collect();
        self.seen.retain(|host, _| hosts.contains(host) || state.members.contains_key(host));
        let groups: BTreeSet<GroupId> = state.cohorts.iter().map(|facts| facts.group).collect();
        self.reports.retain(|group, _| groups.contains(group));
    }
}

/// What can be said to the catalog now; `None` if nothing has been reached.
///
/// A move begins (issuing → moving) when a quorum of *every* cohort runs by a catalog that has it, so that whoever is asked
/// for a row knows where else to look; it ends (moving → settled) when the group's leader has seen its membership be exactly
/// the target's replicas, running by a catalog that has the move.
pub fn next_command(state: &CatalogState, observed: &Observed) -> Option<Command> {
    if state.atlas.is_empty() {
        return None;
    }
    let reported = |group: &GroupId| observed.reports.get(group);
    let opened: Vec<GroupId> = state
        .cohorts
        .iter()
        .filter(|facts| !facts.opened && reported(&facts.group).is_some())
        .map(|facts| facts.group)
        .collect();
    let mut everybody_knows = BTreeMap::new();
    let mut steps = Vec::new();
    for (cohort, facts) in state.atlas.cohorts.iter().zip(&state.cohorts) {
        let from = match cohort {
            Cohort::Issuing { .. } => {
                let known = everybody_knows
                    .entry(facts.since)
                    .or_insert_with(|| is_known_everywhere(state, observed, facts.since));
                if !*known {
                    continue;
                }
                StepFrom::Issuing
            }
            Cohort::Moving { target, .. } => {
                let arrived =
                    reported(&facts.group).is_some_and(|r| has_arrived(state, target, facts.since, r));
                if !arrived {
                    continue;
                }
                StepFrom::Moving
            }
            Cohort::Empty | Cohort::Settled { .. } => continue,
        };
        steps.push(Step { group: facts.group, since: facts.since, from });
    }
    let idle = opened.is_empty() && steps.is_empty();
    (!idle).then_some(Command::Advance { opened, steps })
}

fn is_known_everywhere(state: &CatalogState, observed: &Observed, since: u64) -> bool {
    let known: BTreeSet<HostId> =
        observed.seen.iter().filter(|(_, seen)| since <= **seen).map(|(host, _)| *host).collect();
    state.atlas.cohorts.iter().all(|cohort| cohort.has_quorum(&known))
}

fn has_arrived(state: &CatalogState, target: &BTreeSet<HostId>, since: u64, report: &Report) -> bool {
    let wanted: Option<BTreeMap<HostId, StoreId>> =
        target.iter().map(|host| Some((*host, *state.members.get(host)?))).collect();
    since <= report.catalog && wanted.is_some() && report.settled_at == wanted
}

#[cfg(test)]
mod tests;
