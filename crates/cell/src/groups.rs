//! The life of this peer's replicas: opened when the catalog wants them, begun by their founders, removed when nobody needs
//! them any more.
//!
//! One task, woken by every change of the catalog and now and then, brings what there is in line with what the catalog says.
//! Only when it has done so does this peer say (by the fact `seen`) that it runs by that catalog.
//!
//! A replica is removed only if the atlas has settled without this host *and* whoever leads the group gives it leave: the atlas as
//! known here might be old. From when it asks it tells others that it does not stay, so that nobody makes it a member meanwhile.

use crate::cell::Inner;
use crate::router::Routes;
use crate::status::{CopyStatus, ReplicaStatus};
use crate::wire::LedStatus;
use skein_cohort::group::SnapshotProgress;
use skein_cohort::peers::{Peers, Replica};
use skein_cohort::{Cohort, CohortError, CohortOptions, group::may_end, remove_replica};
use skein_model::{Atlas, GroupId, LifeId, StoreId};
use skein_storage::blocking;
use skein_storage::drives::Life;
use skein_storage::engine::Keyspace;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Between two looks when nothing is told.
const PERIOD: Duration = Duration::from_secs(1);
/// How long others may take to say how a group is.
const ASK_WITHIN: Duration = Duration::from_secs(2);
/// Between two attempts to open a replica that did not open, and two to remove one.
const RETRY: Duration = Duration::from_secs(5);

/// This peer's replicas.
#[derive(Default)]
pub(crate) struct Groups {
    open: Mutex<BTreeMap<GroupId, Cohort>>,
    /// Why a replica did not open, and when that is tried again.
    failed: Mutex<BTreeMap<GroupId, (String, Instant)>>,
}

impl Groups {
    fn open(&self) -> MutexGuard<'_, BTreeMap<GroupId, Cohort>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self) -> MutexGuard<'_, BTreeMap<GroupId, (String, Instant)>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The replica of a group.
    pub(crate) fn get(&self, group: GroupId) -> Option<Cohort> {
        self.open().get(&group).cloned()
    }

    /// All of them, by group.
    pub(crate) fn all(&self) -> Vec<(GroupId, Cohort)> {
        self.open().iter().map(|(group, cohort)| (*group, cohort.clone())).collect()
    }

    /// Why a replica is not there or has stopped.
    pub(crate) fn failure(&self, group: GroupId) -> Option<String> {
        let stopped = self.get(group).and_then(|cohort| cohort.failure()).map(|error| error.to_string());
        stopped.or_else(|| self.failed().get(&group).map(|(why, _)| why.clone()))
    }
}

/// Runs until the cell is gone or stopping.
pub(crate) async fn look_after(cell: Weak<Inner>, mut stopping: watch::Receiver<bool>) {
    let Some(mut changes) = cell.upgrade().map(|inner| inner.catalog().state()) else { return };
    let mut removing: BTreeMap<GroupId, Instant> = BTreeMap::new();
    let mut told = None;
    loop {
        let Some(inner) = cell.upgrade() else { return };
        tell_atlas(&inner.state().atlas, &mut told);
        inner.follow_catalog(&mut removing).await;
        drop(inner);
        tokio::select! {
            biased;
            _ = async { stopping.wait_for(|stopping| *stopping).await.map(drop) } => return,
            changed = changes.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(PERIOD) => {}
        }
    }
}

/// Tells the log of another atlas, and how far its cohorts are.
fn tell_atlas(atlas: &Atlas, told: &mut Option<(u64, usize, usize)>) {
    let count =
        |wanted: fn(&skein_model::Cohort) -> bool| atlas.cohorts.iter().filter(|it| wanted(it)).count();
    let issuing = count(|cohort| matches!(cohort, skein_model::Cohort::Issuing { .. }));
    let moving = count(|cohort| matches!(cohort, skein_model::Cohort::Moving { .. }));
    let now = Some((atlas.version, issuing, moving));
    if now == *told || atlas.is_empty() {
        return;
    }
    *told = now;
    let (version, cohorts) = (atlas.version, atlas.cohorts.len());
    let settled = cohorts - issuing - moving;
    tracing::info!(version, cohorts, settled, issuing, moving, "the atlas");
}

impl Inner {
    /// Brings replicas and routes in line with the newest catalog, and says so.
    pub(crate) async fn follow_catalog(&self, removing: &mut BTreeMap<GroupId, Instant>) {
        let state = self.state();
        let me = self.me();
        for (cohort, facts) in state.atlas.cohorts.iter().zip(&state.cohorts) {
            // Whoever is not known by this directory has to join first.
            let wanted = cohort.hosts().any(|host| host == me.host) && state.replica(me.host) == Some(me);
            if !wanted {
                continue;
            }
            if self.groups().get(facts.group).is_none() && !self.open_replica(facts.group).await {
                continue;
            }
            let founders: BTreeSet<Replica> =
                facts.founders.iter().map(|(host, store)| Replica { store: *store, host: *host }).collect();
            if !facts.opened
                && founders.contains(&me)
                && let Some(replica) = self.groups().get(facts.group)
                && let Err(error) = replica.initialise(&founders).await
            {
                tracing::warn!(group = %facts.group, %error, "begin a cohort; tried again");
            }
        }
        self.publish_routes();
        if state.is_founded() {
            self.gossip().publish(crate::gossip::fact::SEEN, Some(state.version.to_string()));
            self.catalog().saw(me.host, state.version);
        }
        self.remove_replicas(removing).await;
    }

    /// Tells requests where to go.
    pub(crate) fn publish_routes(&self) {
        let state = self.state();
        let local = state.cohorts.iter().map(|facts| self.groups().get(facts.group)).collect();
        self.router().leaders().keep(&state.cohorts.iter().map(|facts| facts.group).collect());
        self.put_routes(Arc::new(Routes { state, local }));
    }

    async fn open_replica(&self, group: GroupId) -> bool {
        if self.groups().failed().get(&group).is_some_and(|(_, until)| Instant::now() < *until) {
            return false;
        }
        match Cohort::open(self.cohort_options(group)).await {
            Ok(cohort) => {
                self.groups().failed().remove(&group);
                self.groups().open().insert(group, cohort);
                true
            }
            Err(error) => {
                tracing::error!(%group, %error, "open a replica; tried again every {RETRY:?}");
                self.groups().failed().insert(group, (error.to_string(), Instant::now() + RETRY));
                false
            }
        }
    }

    fn cohort_options(&self, group: GroupId) -> CohortOptions {
        let (space, options) = (self.space().clone(), self.options());
        let me = self.me();
        let state = self.state();
        let facts = state.position(group).and_then(|at| state.cohorts.get(at));
        CohortOptions {
            group,
            me,
            founder: facts.is_some_and(|facts| facts.founders.get(&me.host) == Some(&me.store)),
            log: self.log().group(group.0),
            drives: self.drives().clone(),
            peers: Arc::new(self.link().clone()),
            timing: options.timing,
            beats_from: self.beats_from,
            throttle: Some(self.pace.clone()),
            suspend_clock: options.suspend_clock.clone(),
            run: self.roll(),
            wall: options.wall.clone(),
            room: Arc::new(move || space.check()),
            entries_in_flight_max: options.entries_in_flight_max,
            pipeline_from: options.pipeline_from,
            waiting_max: options.waiting_max,
            checkpoint_log_bytes: options.checkpoint_log_bytes,
        }
    }

    /// Opens the replicas that the catalog wants, and waits for those that nobody else has a vote in.
    ///
    /// Errors: why one that serves alone cannot.
    pub(crate) async fn open_first(&self) -> Result<(), CohortError> {
        let state = self.state();
        self.follow_catalog(&mut BTreeMap::new()).await;
        for (cohort, facts) in state.atlas.cohorts.iter().zip(&state.cohorts) {
            if !cohort.hosts().eq([self.me().host]) || state.replica(self.me().host) != Some(self.me()) {
                continue;
            }
            match self.groups().get(facts.group) {
                // The atlas is ahead of the members while a move that was called off is taken back: then it is the others who
                // have to be waited for, and not here, where nothing of this peer's runs yet.
                Some(replica) if replica.status().members.iter().any(|it| it.replica != self.me()) => {}
                Some(replica) => replica.leads().await?,
                None => Cohort::open(self.cohort_options(facts.group)).await.map(drop)?,
            }
        }
        Ok(())
    }

    /// Removes the replicas that are not this peer's any more, once their leaders have confirmed it.
    async fn remove_replicas(&self, removing: &mut BTreeMap<GroupId, Instant>) {
        let state = self.state();
        if !state.is_founded() {
            return;
        }
        let here: BTreeSet<GroupId> = self.groups().open().keys().copied().collect();
        let drives = self.drives().clone();
        let stored = match blocking(move || drives.groups()).await {
            Ok(Ok(stored)) => stored,
            Ok(Err(error)) => {
                tracing::warn!(%error, "list the stores of this peer");
                return;
            }
            Err(_) => return,
        };
        for group in here.into_iter().chain(stored).collect::<BTreeSet<_>>() {
            let Some(cohort) = state.position(group).and_then(|at| state.atlas.cohorts.get(at)) else {
                continue;
            };
            let needed = !cohort.is_settled() || cohort.hosts().any(|host| host == self.me().host);
            if needed && let Some(replica) = self.groups().get(group) {
                replica.retire(false);
            }
            if needed || removing.get(&group).is_some_and(|until| Instant::now() < *until) {
                removing.retain(|it, _| *it != group || !needed);
                continue;
            }
            removing.insert(group, Instant::now() + RETRY);
            match self.has_leave(group).await {
                Ok(true) => {}
                Ok(false) => continue,
                Err(error) => {
                    tracing::warn!(%group, error, "ask for leave to remove a replica; tried again");
                    continue;
                }
            }
            match self.remove_replica(group).await {
                Ok(()) => {
                    tracing::info!(%group, "removed the replica: its rows are elsewhere now");
                    removing.remove(&group);
                }
                Err(error) => tracing::warn!(%group, error, "remove a replica; tried again"),
            }
        }
    }

    /// Whether this peer's replica of a group may go: nobody counts on it, and nobody will.
    async fn has_leave(&self, group: GroupId) -> Result<bool, String> {
        let me = self.me();
        let open = self.groups().get(group);
        let life = match &open {
            Some(replica) => replica.life(),
            None => {
                let drives = self.drives().clone();
                let life = blocking(move || drives.life(group)).await.map_err(|error| error.to_string())?;
                match life.map_err(|error| error.to_string())? {
                    Some(Life::Lives(life)) => life,
                    // It was given leave before, and deleting it was cut short.
                    Some(Life::Ended) => return Ok(true),
                    None => LifeId::founding(me.store),
                }
            }
        };
        // The atlas known here may be old: nobody must have put this host back meanwhile.
        let Ok(state) = self.catalog().read_linearizable(Instant::now() + ASK_WITHIN).await else {
            return Ok(false);
        };
        let Some(cohort) = state.position(group).and_then(|at| state.atlas.cohorts.get(at)) else {
            return Ok(false);
        };
        if !cohort.is_settled() || cohort.hosts().any(|host| host == me.host) {
            return Ok(false);
        }
        if let Some(replica) = &open {
            replica.retire(true);
        }
        let peers: Arc<dyn Peers> = Arc::new(self.link().clone());
        let others = state.replicas(&cohort.hosts().collect::<BTreeSet<_>>());
        Ok(may_end(&peers, group, life, &others, ASK_WITHIN).await)
    }

    async fn remove_replica(&self, group: GroupId) -> Result<(), String> {
        let open = self.groups().open().remove(&group);
        self.publish_routes();
        let removed = match open {
            Some(replica) => replica.remove().await,
            None => remove_replica(self.drives().clone(), group, &self.log().group(group.0)).await,
        };
        removed.map_err(|error| error.to_string())
    }

    /// How the cohorts are that this peer leads.
    pub(crate) fn led(&self) -> Vec<LedStatus> {
        let mut led = Vec::new();
        for (group, cohort) in self.groups().all() {
            let status = cohort.status();
            if !status.leading {
                continue;
            }
            let replica = |member: &skein_cohort::group::MemberStatus| ReplicaStatus {
                host: member.replica.host,
                store: StoreId(member.replica.store.0),
                votes: member.voter,
                lag: status.lag(member),
                copy: member.snapshot.as_ref().map(copy_status),
            };
            let stats = cohort.rows().stats();
            led.push(LedStatus {
                group,
                term: status.term,
                committed: status.committed_end,
                bytes: stats.disk_bytes.iter().sum(),
                rows: stats.entries_of(Keyspace::Head),
                replicas: status.members.iter().map(replica).collect(),
                changing: status.changing,
                waits_for: self.waits_for(group),
            });
        }
        led
    }
}

fn copy_status(progress: &SnapshotProgress) -> CopyStatus {
    CopyStatus {
        bytes: progress.bytes,
        bytes_total: progress.bytes_total,
        rows: progress.rows,
        rows_total: progress.rows_total,
        bytes_per_second: progress.bytes_per_second,
    }
}
