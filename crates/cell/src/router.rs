//! Takes requests about rows to whoever leads their cohort: this very peer, or another one.

use crate::api::CellError;
use crate::catalog::CatalogState;
use crate::link::{Link, failure};
use crate::merge::{Chunk, Source};
use crate::routing::{Attempt, Errand, Leaders};
use crate::wire::{self, Ask, Refused, Told, Want, service};
use futures_util::future::BoxFuture;
use skein_cohort::{Cohort, CohortError, Outcome};
use skein_model::{GroupId, HostId, Slice, TxId};
use skein_storage::rows::{ChunkBudget, ScanPosition, ScanSpec};
use skein_transport::CallError;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// How long a scan waits for the next chunk of a cohort, leaders' elections included.
const CHUNK_PATIENCE: Duration = Duration::from_secs(20);

/// What requests are routed by: the catalog as known here, and the replicas that this peer has.
#[derive(Clone, Default)]
pub(crate) struct Routes {
    /// The newest catalog known.
    pub(crate) state: Arc<CatalogState>,
    /// This peer's replicas, by the cohort's position in the atlas.
    pub(crate) local: Vec<Option<Cohort>>,
}

/// Where a cohort is.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// Its group.
    pub(crate) group: GroupId,
    /// Who may lead it, this peer first if it is among them.
    pub(crate) hosts: Vec<HostId>,
}

/// Routes requests; clones share what they learn.
#[derive(Clone)]
pub(crate) struct Router {
    me: HostId,
    link: Link,
    leaders: Arc<Leaders>,
    routes: watch::Receiver<Arc<Routes>>,
}

impl Router {
    /// Routes by what `routes` says at any time.
    pub(crate) fn new(me: HostId, link: Link, seed: u64, routes: watch::Receiver<Arc<Routes>>) -> Router {
        Router { me, link, leaders: Arc::new(Leaders::new(seed)), routes }
    }

    /// Who leads which group, as far as was found out.
    pub(crate) fn leaders(&self) -> &Leaders {
        &self.leaders
    }

    /// The routes in force; waits for an atlas until the deadline.
    pub(crate) async fn routes(&self, deadline: Instant) -> Result<Arc<Routes>, CellError> {
        {
            let routes = self.routes.borrow();
            if !routes.local.is_empty() {
                return Ok(routes.clone());
            }
        }
        let mut changes = self.routes.clone();
        match tokio::time::timeout_at(deadline, changes.wait_for(|routes| !routes.local.is_empty())).await {
            Ok(Ok(routes)) => Ok(routes.clone()),
            Ok(Err(_)) | Err(_) => Err(CellError::NoAtlas),
        }
    }

    /// Where the cohort at a position of the atlas is.
    pub(crate) fn place(&self, routes: &Routes, position: usize) -> Result<Place, CellError> {
        let (Some(cohort), Some(facts)) =
            (routes.state.atlas.cohorts.get(position), routes.state.cohorts.get(position))
        else {
            return Err(CellError::NoAtlas);
        };
        let mut hosts: Vec<HostId> = cohort.hosts().collect();
        // Asking oneself is cheap, and the answer says who leads.
        hosts.sort_by_key(|host| *host != self.me);
        Ok(Place { group: facts.group, hosts })
    }

    /// The positions of the cohorts that hold rows of a slice.
    pub(crate) fn positions(routes: &Routes, slice: Slice) -> Vec<usize> {
        let cohorts = routes.state.atlas.cohorts.len();
        let first = slice.slice() as usize & cohorts.saturating_sub(1);
        (first..cohorts).step_by(slice.nslices() as usize).collect()
    }

    /// Asks the leader of a cohort. `id` is that of the transaction, if it is about one.
    pub(crate) async fn ask(
        &self,
        place: &Place,
        want: Want,
        id: Option<&TxId>,
        deadline: Instant,
        unsure: Option<String>,
    ) -> Result<Told, CellError> {
        let first = AtomicBool::new(unsure.is_none());
        let errand = Errand { group: place.group, hosts: &place.hosts, id, deadline, unsure };
        // A future that is dropped midway may have done its work, so every later attempt is a repetition.
        let again = || !first.swap(false, Ordering::Relaxed);
        self.leaders
            .ask(errand, |host, until| {
                let want = want.clone();
                let again = again();
                async move {
                    if host == self.me {
                        self.ask_here(place, want, again, until).await
                    } else {
                        metrics::counter!("skein_forwards_total").increment(1);
                        self.ask_there(host, place, want, until).await
                    }
                }
            })
            .await
            .map_err(|error| match (error, id) {
                (CellError::IdReused { .. }, Some(id)) => CellError::IdReused { id: id.clone() },
                (error, _) => error,
            })
    }

    async fn ask_here(&self, place: &Place, want: Want, again: bool, deadline: Instant) -> Attempt<Told> {
        let Some(cohort) = self.replica(place.group) else { return Attempt::Elsewhere(None) };
        match carry_out(&cohort, want, again, deadline).await {
            Ok(told) => Attempt::Done(told),
            // Where nobody else has a vote, nobody else has a better answer.
            Err(error) if place.hosts == [self.me] => match error {
                CohortError::NotLeader { .. } => cohort
                    .failure()
                    .map_or(Attempt::Elsewhere(None), |failure| Attempt::Final(failure.into())),
                error => Attempt::Final(error.into()),
            },
            Err(error) => attempt(error.into(), self.me),
        }
    }

    async fn ask_there(&self, host: HostId, place: &Place, want: Want, deadline: Instant) -> Attempt<Told> {
        let patience = deadline.saturating_duration_since(Instant::now());
        let body = match wire::encode(&Ask { group: place.group, patience, want }) {
            Ok(body) => body,
            Err(error) => return Attempt::NotDone(error.to_string()),
        };
        match self.link.request(host, service::ROWS, body, deadline).await {
            Ok(answer) => match wire::decode::<Result<Told, Refused>>("answer about rows", &answer) {
                Ok(Ok(told)) => Attempt::Done(told),
                // Where nobody else has a vote, nobody will go on without it.
                Ok(Err(refused @ (Refused::Damaged(_) | Refused::DiskFailed(_))))
                    if place.hosts.len() == 1 =>
                {
                    Attempt::Final(refused.into_cell_error(None))
                }
                Ok(Err(refused)) => attempt(refused, host),
                Err(error) => Attempt::Unsure(format!("the answer of {host} is {error}")),
            },
            Err(CallError::NotSent { why, .. }) => {
                Attempt::NotDone(format!("{host} cannot be reached: {why}"))
            }
            Err(CallError::NoAnswer { why, .. }) => Attempt::Unsure(format!("{host} did not answer: {why}")),
            Err(CallError::Failed(error)) if error.code == failure::NOT_READY => {
                Attempt::NotDone(format!("{host}: {error}"))
            }
            Err(CallError::Failed(error)) => Attempt::Unsure(format!("{host}: {error}")),
        }
    }

    /// This peer's replica of a group.
    pub(crate) fn replica(&self, group: GroupId) -> Option<Cohort> {
        let routes = self.routes.borrow();
        let position = routes.state.position(group)?;
        routes.local.get(position)?.clone()
    }

    /// The answer to another peer's request about rows. Only a replica of this peer answers: nobody forwards twice.
    pub(crate) async fn answer(&self, ask: Ask, deadline: Instant) -> Result<Told, Refused> {
        let deadline = deadline.min(Instant::now() + ask.patience);
        let cohort = self.replica(ask.group).ok_or(Refused::NoReplica)?;
        // It may be a repetition, or be repeated, or come late.
        carry_out(&cohort, ask.want, true, deadline).await.map_err(Refused::from)
    }
}

/// Has a replica do what is wanted.
async fn carry_out(cohort: &Cohort, want: Want, again: bool, deadline: Instant) -> Result<Told, CohortError> {
    Ok(match want {
        Want::Read { table, key, at } => {
            let read = cohort.read(table, &key, at, deadline).await?;
            Told::Read { read_time: read.read_time, time: read.time, value: read.value }
        }
        Want::Write(tx) => Told::Written(cohort.write(tx, again, deadline).await?.into()),
        Want::TxStatus(id) => Told::Status(match cohort.tx_status(id, deadline).await? {
            Outcome::Committed(time) => crate::TxStatus::Committed(time),
            Outcome::Refused(_) | Outcome::Aborted => crate::TxStatus::Aborted,
        }),
        Want::Promise(at) => Told::Promised(cohort.promise(at, deadline).await?),
        Want::Chunk { spec, position, rows, bytes } => {
            let budget = ChunkBudget {
                rows: wire::CHUNK_ROWS_MAX.min(rows as usize),
                bytes: wire::CHUNK_BYTES_MAX.min(bytes as usize),
            };
            let (rows, next) = cohort.scan_chunk(spec.into(), position.into(), budget, deadline).await?;
            Told::Chunk {
                rows: rows.into_iter().map(Into::into).collect(),
                next: next.as_ref().map(Into::into),
            }
        }
    })
}

/// What a refusal means for who looks for the leader.
pub(crate) fn attempt(refused: Refused, host: HostId) -> Attempt<Told> {
    match refused {
        Refused::NotLeader(leader) => Attempt::Elsewhere(leader.map(|(_, host)| host)),
        Refused::NoReplica => Attempt::Elsewhere(None),
        Refused::TimedOut(waited) => Attempt::NotDone(format!("{host} waited {waited:?} for a quorum")),
        Refused::Closing => Attempt::NotDone(format!("{host} is stopping")),
        Refused::Unknown(why) | Refused::Other(why) => Attempt::Unsure(why),
        // The replica stopped, at which point nobody knows; the others go on without it.
        Refused::Damaged(detail) | Refused::DiskFailed(detail) => {
            Attempt::Unsure(format!("{host}: {detail}"))
        }
        refused @ (Refused::Gone(_) | Refused::Future(_) | Refused::Full(_) | Refused::Overloaded(_)) => {
            Attempt::Final(refused.into_cell_error(None))
        }
        // Without the ID, which whoever asked puts in.
        Refused::IdReused => Attempt::Final(CellError::IdReused { id: TxId::from_be_bytes(&[]) }),
    }
}

/// The chunks of one cohort, for a scan.
pub(crate) struct CohortRows {
    pub(crate) router: Router,
    pub(crate) place: Place,
    pub(crate) spec: ScanSpec,
}

impl Source for CohortRows {
    fn chunk(&self, from: ScanPosition, budget: ChunkBudget) -> BoxFuture<'static, Result<Chunk, CellError>> {
        let (router, place) = (self.router.clone(), self.place.clone());
        let want = Want::Chunk {
            spec: (&self.spec).into(),
            position: (&from).into(),
            rows: u32::try_from(budget.rows).unwrap_or(u32::MAX),
            bytes: u32::try_from(budget.bytes).unwrap_or(u32::MAX),
        };
        Box::pin(async move {
            match router.ask(&place, want, None, Instant::now() + CHUNK_PATIENCE, None).await? {
                Told::Chunk { rows, next } => {
                    Ok((rows.into_iter().map(Into::into).collect(), next.map(Into::into)))
                }
                other => Err(unexpected(&other)),
            }
        })
    }
}

/// A peer answered something else than was asked.
pub(crate) fn unexpected(told: &Told) -> CellError {
    CellError::Unreachable { detail: format!("a peer answered what was not asked: {told:?}") }
}
