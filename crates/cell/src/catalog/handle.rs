//! The catalog as one peer has it: what it knows, its replica of the catalog's group, and the way to the leader.

use super::command::{Command, Outcome, Request};
use super::errors::{CatalogError, OpenCatalogError};
use super::file::{self, Found, REPLICA, Saved};
use super::known::{Known, TwoFoundings};
use super::link::CatalogLink;
use super::machine::CatalogMachine;
use super::state::{CatalogState, Founding};
use super::{driver, founding};
use crate::supervisor::{Observed, Report};
use bytes::Bytes;
use futures_util::stream::BoxStream;
use serde::{Deserialize, Serialize};
use skein_cohort::group::{Group, GroupError, GroupOptions, Role};
use skein_cohort::peers::{PeerError, Replica};
use skein_model::{HostId, StoreId};
use skein_storage::disk::Disk;
use skein_storage::log::GroupLog;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Draws random numbers. A simulator may own it; but no two peers, and no two lives of one, may draw the same sequence: requests are told
/// apart by what is drawn.
pub type Luck = Arc<dyn Fn() -> u64 + Send + Sync>;

/// What the catalog of a peer needs.
pub struct CatalogOptions {
    /// Where its files are.
    pub files: Arc<dyn Disk>,
    /// The log of group [`skein_model::GroupId::CATALOG`].
    pub log: GroupLog,
    /// How its replica is run; `me` is this peer.
    pub group: GroupOptions,
    /// The way to the catalogs of other peers.
    pub link: Arc<dyn CatalogLink>,
    /// For the IDs of requests, the founding's name, and back-off.
    pub luck: Luck,
}

/// The catalog of this peer; clones share it.
#[derive(Clone)]
pub struct Catalog {
    pub(super) inner: Arc<Inner>,
    tasks: Arc<Tasks>,
}

pub(super) struct Inner {
    pub(super) me: Replica,
    pub(super) files: Arc<dyn Disk>,
    pub(super) link: Arc<dyn CatalogLink>,
    pub(super) luck: Luck,
    pub(super) known: Known,
    pub(super) machine: Arc<CatalogMachine>,
    pub(super) group: Group<CatalogMachine>,
    pub(super) founding: founding::Desk,
    pub(super) observed: Mutex<Observed>,
    /// Something was observed.
    pub(super) news: Notify,
    /// Who led when somebody was asked last.
    pub(super) leader: Mutex<Option<HostId>>,
}

/// What goes on in the background; ends with the last handle.
struct Tasks(Mutex<Vec<JoinHandle<()>>>);

impl Tasks {
    fn stop(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).drain(..).for_each(|task| task.abort());
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What a peer tells everybody of the catalog it has; a few dozen bytes, for the flock to spread.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Which cell.
    pub founding: Option<Founding>,
    /// Version of the catalog; 0 for none.
    pub version: u64,
    /// Version of the atlas in it.
    pub atlas_version: u64,
    /// Version of the schema in it.
    pub schema_version: u64,
    /// Who keeps it.
    pub members: BTreeSet<HostId>,
}

impl Summary {
    /// Of a state.
    pub fn of(state: &CatalogState) -> Summary {
        Summary {
            founding: state.founding,
            version: state.version,
            atlas_version: state.atlas.version,
            schema_version: state.schema_version,
            members: state.catalog_hosts(),
        }
    }

    /// Its bytes.
    pub fn encode(&self) -> Bytes {
        super::link::encode(self)
    }

    /// Reads what [`Summary::encode`] wrote; `None` for anything else.
    pub fn decode(bytes: &[u8]) -> Option<Summary> {
        super::link::decode(bytes).ok()
    }
}

/// The catalog's group, as this peer sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogInfo {
    /// Version of the newest state known here; 0 before the founding.
    pub version: u64,
    /// The latest term heard of; 0 if this peer is no member.
    pub term: u64,
    /// Who leads, as far as known.
    pub leader: Option<HostId>,
    /// Whether that is this peer.
    pub leading: bool,
    /// Entries of the catalog's log that are applied here, from the first; 0 for none.
    pub applied: u64,
    /// As many are known here to be committed.
    pub committed: u64,
    /// The hosts that shall keep it.
    pub members: BTreeSet<HostId>,
    /// The replicas that have a vote, as this peer's replica knows it; none if it is no member.
    pub voters: BTreeSet<Replica>,
    /// Why this peer's replica stopped, if it did.
    pub failure: Option<String>,
}

impl Catalog {
    /// Opens what this peer has of the catalog: the newest state it learned, and its replica of the catalog's group, which waits
    /// to be made a member where it is none.
    ///
    /// The file of a cell of one becomes the beginning of a replicated catalog with one member, and a founding that a crash
    /// cut short is finished; [`Catalog::state`] tells when.
    pub async fn open(options: CatalogOptions) -> Result<Catalog, OpenCatalogError> {
        let files = options.files.clone();
        let read = move || -> Result<_, file::FileError> {
            let (saved, of_one) = match file::read(&*files, REPLICA)? {
                None => (Saved::default(), None),
                Some(Found::Saved(saved)) => (*saved, None),
                Some(Found::OfOne(facts)) => (Saved::default(), Some(facts)),
            };
            let intent = file::read_intent(&*files)?;
            Ok((saved, of_one, intent, Known::open(files)?))
        };
        let read = skein_storage::blocking(read).await.map_err(|unfinished| file::FileError::Io {
            verb: "read",
            file: options.files.describe(REPLICA),
            source: unfinished.into(),
        })?;
        let (saved, of_one, intent, known) = read?;
        let me = options.group.me;
        let intent = intent.or_else(|| {
            let facts = of_one.filter(|facts| !facts.atlas.is_empty())?;
            let founding = Founding((options.luck)());
            Some(file::genesis_of_one(&facts, founding, me.host, me.store))
        });
        known.learn(saved.content.state.clone()).await?;
        let machine = Arc::new(CatalogMachine::new(options.files.clone(), saved));
        let group = Group::open(options.log, machine.clone(), options.group).await?;
        let inner = Arc::new(Inner {
            me,
            files: options.files,
            link: options.link,
            luck: options.luck,
            known,
            machine,
            group,
            founding: founding::Desk::new(intent),
            observed: Mutex::default(),
            news: Notify::new(),
            leader: Mutex::new(None),
        });
        let tasks = driver::start(&inner);
        Ok(Catalog { inner, tasks: Arc::new(Tasks(Mutex::new(tasks))) })
    }

    /// The newest state known here, replicated or learned; changes can be waited for.
    pub fn state(&self) -> watch::Receiver<Arc<CatalogState>> {
        self.inner.known.watch()
    }

    /// Whether this peer met another cell with the same ID; can be waited for. Whoever carries connections keeps the two apart.
    pub fn conflict(&self) -> watch::Receiver<Option<TwoFoundings>> {
        self.inner.known.conflict()
    }

    /// What to tell others.
    pub fn summary(&self) -> Summary {
        Summary::of(&self.inner.known.state())
    }

    /// Takes a state that somebody else has, if it is newer than the one known here; tells whether it was. It is durable here
    /// before anybody hears of it, unless the disk does not take it.
    ///
    /// Errors: [`TwoFoundings`] if it belongs to another cell; nothing is taken then.
    pub async fn learn(&self, state: Arc<CatalogState>) -> Result<bool, TwoFoundings> {
        self.inner.known.learn(state).await
    }

    /// Fetches the state that somebody told of, from the first of these hosts that has it; tells whether anything was new.
    ///
    /// Errors: [`CatalogError::TwoFoundings`] if the summary is of another cell; [`CatalogError::NotLed`] if nobody could be
    /// asked before the deadline.
    pub async fn catch_up(
        &self,
        summary: &Summary,
        hosts: &[HostId],
        deadline: Instant,
    ) -> Result<bool, CatalogError> {
        self.inner.catch_up(summary, hosts, deadline).await
    }

    /// Whether to talk to a peer that says it is this host with this directory; the text is for its operator.
    pub fn admit(&self, host: HostId, store: StoreId) -> Result<(), String> {
        let state = self.inner.known.state();
        match state.members.get(&host) {
            Some(known) if *known != store => {
                let refusal = super::Refusal::OtherStore { host, known: *known, joining: store };
                Err(refusal.to_string())
            }
            _ => Ok(()),
        }
    }

    /// Asks for a change, wherever the leader is; tries until the deadline.
    ///
    /// The change is made once, however often it had to be sent. Errors: [`CatalogError::Unknown`] if it may have been made; after
    /// any other error it was not, and will not be.
    pub async fn change(&self, command: Command, deadline: Instant) -> Result<Outcome, CatalogError> {
        self.inner.change(command, deadline).await
    }

    /// Puts cohorts in force: founds the cell with them if there is none yet, or changes the atlas by its rules.
    ///
    /// A cell is founded by the first host of its cohort 0, with all hosts that can be reached as members. Errors: as
    /// [`Catalog::change`], and those of a founding.
    pub async fn put_atlas(
        &self,
        targets: Vec<skein_model::Cohort>,
        if_version: Option<u64>,
        deadline: Instant,
    ) -> Result<Outcome, CatalogError> {
        self.inner.put_atlas(targets, if_version, deadline).await
    }

    /// A state into which every change acknowledged before this call has gone.
    pub async fn read_linearizable(&self, deadline: Instant) -> Result<Arc<CatalogState>, CatalogError> {
        self.inner.read_state(deadline).await
    }

    /// A host runs by this catalog version; what the supervisor decides depends on it. Cheap; to be told for every host of
    /// the atlas, this one too, again and again.
    pub fn saw(&self, host: HostId, version: u64) {
        let mut observed = self.inner.observed();
        if observed.seen(host) < version {
            observed.saw(host, version);
            drop(observed);
            self.inner.news.notify_one();
        }
    }

    /// Tells the catalog's leader how a cohort's group is. To be repeated, a second or so apart, while the catalog does not show it.
    pub async fn report(&self, report: Report, deadline: Instant) -> Result<(), CatalogError> {
        self.inner.report(report, deadline).await
    }

    /// The answer to what the catalog of another host asks with [`CatalogLink::ask`].
    pub async fn answer(&self, from: HostId, body: Bytes, deadline: Instant) -> Bytes {
        self.inner.answer(from, body, deadline).await
    }

    /// A message of another replica of the catalog's group.
    pub async fn receive(&self, from: Replica, body: Bytes) -> Result<Bytes, GroupError> {
        self.inner.group.receive(from, body).await
    }

    /// A stream for another replica of the catalog's group.
    pub fn serve(&self, from: Replica, body: Bytes) -> BoxStream<'static, Result<Bytes, PeerError>> {
        self.inner.group.serve(from, body)
    }

    /// Who leads the catalog's group, as this peer's replica knows it.
    pub fn role(&self) -> watch::Receiver<Role> {
        self.inner.group.role()
    }

    /// The catalog's group, as this peer sees it.
    pub fn info(&self) -> CatalogInfo {
        let inner = &self.inner;
        let state = inner.known.state();
        let group = inner.group.status();
        CatalogInfo {
            version: state.version,
            term: group.term,
            leader: group.leader.map(|leader| leader.host).or(inner.last_leader()),
            leading: group.leading,
            applied: group.applied_end,
            committed: group.committed_end,
            members: state.catalog_hosts(),
            voters: group.committed_voters.into_iter().collect(),
            failure: group.failure.map(|failure| failure.to_string()),
        }
    }

    /// The catalog's group, for handing over its leadership.
    pub fn group(&self) -> &Group<CatalogMachine> {
        &self.inner.group
    }

    /// Stops what goes on in the background and this peer's replica. The log stays open. Closing twice does nothing.
    pub async fn close(&self) {
        self.tasks.stop();
        // A start from an old file only takes longer; the log has everything.
        if let Err(error) = self.inner.group.checkpoint().await {
            tracing::debug!(%error, "write the catalog's file while closing");
        }
        if let Err(error) = self.inner.known.keep().await {
            tracing::warn!(%error, "keep the catalog for the next start");
        }
        self.inner.group.close().await;
    }
}

impl Inner {
    pub(super) fn observed(&self) -> std::sync::MutexGuard<'_, Observed> {
        self.observed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request that was never sent before.
    pub(super) fn request(&self, command: Command) -> Request {
        // What is known here was decided before now.
        let after = self.known.state().version.max((*self.machine.position().borrow()).saturating_sub(1));
        Request { id: self.draw_id(), after, again: false, command }
    }

    pub(super) fn draw_id(&self) -> u128 {
        u128::from((self.luck)()) << 64 | u128::from((self.luck)())
    }
}
