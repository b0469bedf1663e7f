//! The whole replicated content of the catalog, and how commands change it: the rules, and nothing else.
//!
//! [`Content::apply`] is total and deterministic: every replica that applies the same entries has the same content, and
//! a command either takes effect whole or is refused and changes nothing.

use super::command::{Command, Genesis, Outcome, Refusal, Request, Step, StepFrom, Subject};
use super::keys::Keys;
use super::recent::Recent;
use super::state::{CatalogState, CohortFacts};
use serde::{Deserialize, Serialize};
use skein_model::{Atlas, Cohort, GroupId, HostId, Schema, StoreId};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Everything the catalog's group replicates.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// What every peer is told.
    pub state: Arc<CatalogState>,
    /// The users' store; kept by the catalog's members only.
    pub keys: Keys,
    /// The requests carried out lately.
    recent: Recent,
}

impl Content {
    /// A content that says this, with no keys.
    pub(crate) fn of_state(state: Arc<CatalogState>) -> Content {
        Content { state, ..Content::default() }
    }

    /// Carries out the request that stands in the log at `index`, once: a request that was carried out before gets the
    /// same outcome again.
    ///
    /// On a refusal the content is as it was, but for the memory that a request sent again was refused. `index` rises from call
    /// to call.
    pub fn apply(&mut self, index: u64, request: &Request) -> Result<Outcome, Refusal> {
        if let Some(decided) = self.recent.outcome(request.id) {
            return decided.ok_or(Refusal::Withdrawn);
        }
        self.recent.check_reaches(request.after)?;
        let (version, changed) = match self.carry_out(index, &request.command) {
            Ok(done) => done,
            Err(refusal) => {
                if request.again {
                    // The attempt before this one may still be on its way, and must not be carried out after its sender
                    // was told of a refusal.
                    self.recent.remember(request.id, index, None);
                }
                return Err(refusal);
            }
        };
        let outcome = Outcome { version, changed, index };
        self.recent.remember(request.id, index, Some(outcome));
        Ok(outcome)
    }

    fn carry_out(&mut self, index: u64, command: &Command) -> Result<(u64, bool), Refusal> {
        if !matches!(command, Command::Found(_)) && !self.state.is_founded() {
            return Err(Refusal::NotFounded);
        }
        let state = match command {
            Command::PutKey { key, value, expect } => return self.keys.put(index, key, value, *expect),
            Command::DeleteKey { key, expect } => return self.keys.delete(key, *expect),
            Command::Found(genesis) => Some(found(&self.state, index, genesis)?),
            Command::PutAtlas { targets, if_version } => put_atlas(&self.state, index, targets, *if_version)?,
            Command::PutSchema { text, if_version } => put_schema(&self.state, text, *if_version)?,
            Command::Join { host, store } => join(&self.state, *host, *store)?,
            Command::Forget { host } => forget(&self.state, *host)?,
            Command::Advance { opened, steps } => Some(advance(&self.state, index, opened, steps)?),
        };
        let changed = state.is_some();
        if let Some(mut state) = state {
            state.version = index;
            self.state = Arc::new(state);
        }
        let version = match command {
            Command::PutAtlas { .. } => self.state.atlas.version,
            Command::PutSchema { .. } => self.state.schema_version,
            _ => self.state.version,
        };
        Ok((version, changed))
    }
}

fn found(before: &CatalogState, index: u64, genesis: &Genesis) -> Result<CatalogState, Refusal> {
    if let Some(founding) = before.founding {
        return Err(Refusal::AlreadyFounded { founding });
    }
    check_cohorts(&genesis.cohorts)?;
    let hosts: BTreeSet<HostId> = genesis.cohorts.iter().flat_map(|cohort| cohort.hosts()).collect();
    let unknown = |host: &&HostId| !genesis.members.contains_key(host);
    let unknown: BTreeSet<HostId> = hosts.iter().filter(unknown).copied().collect();
    if !unknown.is_empty() {
        return Err(Refusal::UnknownHosts { hosts: unknown });
    }
    check_stores(genesis)?;
    let mut state = CatalogState {
        founding: Some(genesis.founding),
        version: index,
        atlas: Arc::new(Atlas { version: genesis.atlas_version.max(1), cohorts: genesis.cohorts.clone() }),
        cohorts: Vec::with_capacity(genesis.cohorts.len()),
        cohorts_wanted: u32::try_from(genesis.cohorts.len()).unwrap_or(u32::MAX),
        next_group: GroupId::FIRST,
        schema_version: genesis.schema_version,
        schema: Arc::new(parse_schema(&genesis.schema)?),
        members: genesis.members.clone(),
    };
    for cohort in &genesis.cohorts {
        let founders = cohort.origin().iter().filter_map(|h| Some((*h, *genesis.members.get(h)?))).collect();
        let opened = genesis.opened;
        state.cohorts.push(CohortFacts { group: state.next_group, since: index, founders, opened });
        state.next_group = GroupId(state.next_group.0 + 1);
    }
    Ok(state)
}

fn check_stores(genesis: &Genesis) -> Result<(), Refusal> {
    let mut owners = std::collections::BTreeMap::new();
    for (host, store) in &genesis.members {
        if let Some(owner) = owners.insert(*store, *host) {
            return Err(Refusal::StoreTaken { store: *store, host: owner });
        }
    }
    Ok(())
}

fn check_cohorts(cohorts: &[Cohort]) -> Result<(), Refusal> {
    if !cohorts.len().is_power_of_two() {
        let detail = format!("Number of cohorts must be a power of two. There are {}.", cohorts.len());
        return Err(Refusal::BadAtlas { detail });
    }
    for (position, cohort) in cohorts.iter().enumerate() {
        cohort
            .check()
            .map_err(|fault| Refusal::BadAtlas { detail: format!("Cohort {position}: {fault}") })?;
    }
    Ok(())
}

fn check_version(subject: Subject, current: u64, expected: Option<u64>) -> Result<(), Refusal> {
    match expected {
        Some(expected) if expected != current => Err(Refusal::Stale { subject, current, expected }),
        _ => Ok(()),
    }
}

fn put_atlas(
    before: &CatalogState,
    index: u64,
    targets: &[Cohort],
    if_version: Option<u64>,
) -> Result<Option<CatalogState>, Refusal> {
    check_version(Subject::Atlas, before.atlas.version, if_version)?;
    check_cohorts(targets)?;
    if targets.len() != before.atlas.cohorts.len() {
        let (current, submitted) = (before.atlas.cohorts.len(), targets.len());
        return Err(Refusal::CohortCount { current, submitted });
    }
    // A host that was forgotten while the atlas names it may stay where it is; nothing new is given to it.
    let new = |position: usize, host: &HostId| !before.atlas.cohorts[position].hosts().any(|h| h == *host);
    let unknown: BTreeSet<HostId> = targets
        .iter()
        .enumerate()
        .flat_map(|(position, cohort)| cohort.target().iter().map(move |host| (position, *host)))
        .filter(|(position, host)| !before.members.contains_key(host) && new(*position, host))
        .map(|(_, host)| host)
        .collect();
    if !unknown.is_empty() {
        return Err(Refusal::UnknownHosts { hosts: unknown });
    }
    let Some(atlas) = before.atlas.next(targets) else { return Ok(None) };
    let mut state = before.clone();
    state.cohorts_wanted = u32::try_from(targets.len()).unwrap_or(u32::MAX);
    put_cohorts(&mut state, index, atlas);
    Ok(Some(state))
}

/// Puts an atlas with as many cohorts in force, and notes which of them are in a new state.
fn put_cohorts(state: &mut CatalogState, index: u64, atlas: Atlas) {
    for ((facts, old), new) in state.cohorts.iter_mut().zip(&state.atlas.cohorts).zip(&atlas.cohorts) {
        if old != new {
            facts.since = index;
        }
    }
    state.atlas = Arc::new(atlas);
}

fn put_schema(
    before: &CatalogState,
    text: &str,
    if_version: Option<u64>,
) -> Result<Option<CatalogState>, Refusal> {
    check_version(Subject::Schema, before.schema_version, if_version)?;
    let schema = parse_schema(text)?;
    let mut state = before.clone();
    // Also when the text is the same: whoever put it sees a new version, as with any other text.
    state.schema_version += 1;
    state.schema = Arc::new(schema);
    Ok(Some(state))
}

fn parse_schema(text: &str) -> Result<Schema, Refusal> {
    Schema::parse(text).map_err(|error| Refusal::BadSchema { detail: error.to_string() })
}

fn join(before: &CatalogState, host: HostId, store: StoreId) -> Result<Option<CatalogState>, Refusal> {
    match before.members.get(&host) {
        Some(known) if *known == store => return Ok(None),
        Some(known) => return Err(Refusal::OtherStore { host, known: *known, joining: store }),
        None => {}
    }
    if let Some((owner, _)) = before.members.iter().find(|(_, known)| **known == store) {
        return Err(Refusal::StoreTaken { store, host: *owner });
    }
    let mut state = before.clone();
    state.members.insert(host, store);
    Ok(Some(state))
}

fn forget(before: &CatalogState, host: HostId) -> Result<Option<CatalogState>, Refusal> {
    let mut state = before.clone();
    if state.members.remove(&host).is_none() {
        return Ok(None);
    }
    let left: BTreeSet<HostId> = state.members.keys().copied().collect();
    let needs = |cohort: &Cohort| cohort.hosts().any(|h| h == host) && !cohort.has_quorum(&left);
    if let Some(cohort) = before.atlas.cohorts.iter().position(needs) {
        return Err(Refusal::LastCopies { host, cohort });
    }
    Ok(Some(state))
}

fn advance(
    before: &CatalogState,
    index: u64,
    opened: &[GroupId],
    steps: &[Step],
) -> Result<CatalogState, Refusal> {
    let mut state = before.clone();
    let opened: BTreeSet<&GroupId> = opened.iter().collect();
    let mut changed = false;
    for facts in &mut state.cohorts {
        if !facts.opened && opened.contains(&facts.group) {
            facts.opened = true;
            changed = true;
        }
    }
    let mut atlas = Atlas::clone(&before.atlas);
    for step in steps {
        let Some(position) = before.position(step.group) else { continue };
        if before.cohorts[position].since != step.since {
            continue;
        }
        let next = match (&before.atlas.cohorts[position], step.from) {
            (Cohort::Issuing { origin, target }, StepFrom::Issuing) => {
                Cohort::Moving { origin: origin.clone(), target: target.clone() }
            }
            (Cohort::Moving { target, .. }, StepFrom::Moving) => Cohort::Settled { hosts: target.clone() },
            _ => continue,
        };
        atlas.cohorts[position] = next;
    }
    if atlas.cohorts != before.atlas.cohorts {
        atlas.version += 1;
        put_cohorts(&mut state, index, atlas);
        changed = true;
    }
    if changed { Ok(state) } else { Err(Refusal::NothingToAdvance) }
}

#[cfg(test)]
pub(crate) mod tests;
