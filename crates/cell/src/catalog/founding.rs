//! How a cell begins: the first atlas, put in force by one host that has asked everybody it can reach.
//!
//! The founder is the first host of the atlas's cohort 0. It takes everybody's promise not to found another cell for a while,
//! learns their directories on the way, writes down what it is about to do, and begins the catalog's group with itself as the only
//! voter; the first entry is the founding. After a crash it goes on from what it wrote down. Two hosts that begin at once
//! see each other's promises; both give up and try again at different moments. Hosts that cannot reach each other can
//! still found two cells: that is found out when they meet, by the founding's name, and told instead of mended.

use super::command::{Command, Genesis, Outcome, Refusal};
use super::errors::CatalogError;
use super::file;
use super::handle::Inner;
use super::link::{Ask, LinkError, Reply};
use super::state::Founding;
use skein_model::{Cohort, HostId, StoreId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// How long a promise holds.
const PROMISE: Duration = Duration::from_secs(10);
/// How long everybody is waited for.
const ASK_FOR: Duration = Duration::from_secs(2);
/// How long the hosts of the first atlas are looked for before they are called unknown.
const FIND_FOR: Duration = Duration::from_secs(3);
/// The group of one elects itself at once; this is for its disk.
const ELECT_FOR: Duration = Duration::from_secs(10);

/// What this peer has to do with a founding.
pub(super) struct Desk {
    /// To whom it gave its promise, and until when.
    promised: Mutex<Option<(HostId, Instant)>>,
    /// What it is about to found the cell with.
    pub(super) intent: Mutex<Option<Genesis>>,
    /// One founding at a time.
    pub(super) busy: tokio::sync::Mutex<()>,
}

impl Desk {
    pub(super) fn new(intent: Option<Genesis>) -> Desk {
        Desk { promised: Mutex::new(None), intent: Mutex::new(intent), busy: tokio::sync::Mutex::new(()) }
    }

    fn promised(&self) -> MutexGuard<'_, Option<(HostId, Instant)>> {
        self.promised.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn intent(&self) -> Option<Genesis> {
        self.intent.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_intent(&self, intent: Option<Genesis>) {
        *self.intent.lock().unwrap_or_else(PoisonError::into_inner) = intent;
    }

    /// Promises to a founder, unless to another before; tells who has the promise.
    fn promise(&self, founder: HostId) -> HostId {
        let now = Instant::now();
        let mut promised = self.promised();
        match *promised {
            Some((other, until)) if other != founder && now < until => other,
            _ => {
                *promised = Some((founder, now + PROMISE));
                founder
            }
        }
    }

    pub(super) fn release(&self, founder: HostId) {
        let mut promised = self.promised();
        if promised.is_some_and(|(host, _)| host == founder) {
            *promised = None;
        }
    }
}

/// What asking everybody came to.
enum Asked {
    /// These can be members.
    Free(BTreeMap<HostId, StoreId>),
    /// Somebody knows of a founding; it is known here now.
    Founded,
    /// Somebody has promised another.
    Busy(HostId),
}

impl Inner {
    pub(super) fn promise(&self, founder: HostId) -> Reply {
        let founding = self.known.state().founding;
        // A founding that was begun here and not finished has the precedence, whoever asks.
        let unfinished = self.founding.intent().is_some();
        let to = if unfinished { self.me.host } else { self.founding.promise(founder) };
        Reply::Promised { store: self.me.store, founding, to }
    }

    pub(super) async fn put_atlas(
        &self,
        targets: Vec<Cohort>,
        if_version: Option<u64>,
        deadline: Instant,
    ) -> Result<Outcome, CatalogError> {
        if self.known.state().is_founded() || self.look_around(deadline).await? {
            return self.change(Command::PutAtlas { targets, if_version }, deadline).await;
        }
        let Some(founder) = targets.first().and_then(|cohort| cohort.origin().first().copied()) else {
            let detail = "an atlas needs a cohort with hosts".to_owned();
            return Err(Refusal::BadAtlas { detail }.into());
        };
        if founder == self.me.host {
            return self.found(targets, if_version, deadline).await;
        }
        match self.ask(founder, Ask::Found { targets, if_version }, deadline).await {
            Ok(Reply::Changed(Ok(outcome))) => {
                self.set_leader(founder);
                self.follow(outcome.index, deadline).await;
                Ok(outcome)
            }
            Ok(Reply::Changed(Err(refusal))) => Err(refusal.into()),
            Ok(Reply::Failed(text)) => {
                Err(CatalogError::NoFounder { host: founder, why: format!("says: {text}") })
            }
            Ok(Reply::Unknown(why)) => Err(CatalogError::Unknown { why }),
            Err(LinkError::NoAnswer(why)) => Err(CatalogError::Unknown { why }),
            Err(LinkError::NotSent(text)) => {
                Err(CatalogError::NoFounder { host: founder, why: format!("cannot be reached: {text}") })
            }
            Ok(_) => Err(CatalogError::Unknown { why: "the founder's answer is to another question".into() }),
        }
    }

    /// Founds the cell with these cohorts, as their first host; if it turns out to be founded, changes the atlas.
    pub(super) async fn found(
        &self,
        cohorts: Vec<Cohort>,
        if_version: Option<u64>,
        deadline: Instant,
    ) -> Result<Outcome, CatalogError> {
        let waited = |_| CatalogError::BeingFounded { host: self.me.host };
        let busy = timeout_at(deadline, self.founding.busy.lock()).await.map_err(waited)?;
        if let Some(genesis) = self.founding.intent() {
            // Begun before, perhaps in another life of this process.
            self.carry_out(genesis, deadline).await?;
        }
        if self.known.state().is_founded() {
            drop(busy);
            return self.change(Command::PutAtlas { targets: cohorts, if_version }, deadline).await;
        }
        if let Some(expected) = if_version.filter(|version| *version != 0) {
            return Err(Refusal::Stale { subject: super::Subject::Atlas, current: 0, expected }.into());
        }
        let settled = deadline.min(Instant::now() + FIND_FOR);
        let wanted: BTreeSet<HostId> = cohorts.iter().flat_map(Cohort::hosts).collect();
        let members = loop {
            match self.ask_everybody(&wanted, deadline).await? {
                // Peers that have just been started find each other within moments; a wrong ID is told a little later.
                Asked::Free(members)
                    if Instant::now() < settled && wanted.iter().any(|host| !members.contains_key(host)) =>
                {
                    self.release_everybody();
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                Asked::Free(members) => break members,
                Asked::Founded => {
                    drop(busy);
                    return self.change(Command::PutAtlas { targets: cohorts, if_version }, deadline).await;
                }
                Asked::Busy(host) => {
                    let wait = Duration::from_millis(100 + (self.luck)() % 400);
                    if deadline <= Instant::now() + wait {
                        return Err(CatalogError::BeingFounded { host });
                    }
                    tokio::time::sleep(wait).await;
                }
            }
        };
        let genesis = Genesis {
            founding: Founding((self.luck)()),
            cohorts,
            atlas_version: 1,
            schema_version: 0,
            schema: String::new(),
            members,
            opened: false,
        };
        // By the rules of the catalog itself, before anything is written down.
        if let Err(refusal) =
            super::Content::default().apply(1, &self.request(Command::Found(genesis.clone())))
        {
            self.release_everybody();
            return Err(refusal.into());
        }
        self.carry_out(genesis, deadline).await
    }

    /// Goes through with a founding: from here on it is finished, by a later life of this process if need be.
    pub(super) async fn carry_out(
        &self,
        genesis: Genesis,
        deadline: Instant,
    ) -> Result<Outcome, CatalogError> {
        let (disk, intent) = (self.files.clone(), genesis.clone());
        let write = skein_storage::blocking(move || file::write_intent(&*disk, &intent)).await;
        write.map_err(|error| CatalogError::Disk { detail: error.to_string() })??;
        self.founding.set_intent(Some(genesis.clone()));
        let unknown = |why: String| CatalogError::Unknown { why };
        let begun = self.group.initialise(&BTreeSet::from([self.me])).await;
        begun.map_err(|error| unknown(format!("begin the catalog's group: {error}")))?;
        let mut role = self.group.role();
        let elected = deadline.min(Instant::now() + ELECT_FOR);
        match timeout_at(elected, role.wait_for(|role| role.leading)).await {
            Ok(Ok(_)) => {}
            _ => return Err(unknown("the catalog's group has begun, and has no leader yet".into())),
        }
        let founding = genesis.founding;
        let outcome = match self.propose(self.request(Command::Found(genesis)), deadline).await {
            Reply::Changed(Ok(outcome)) => outcome,
            Reply::Changed(Err(Refusal::AlreadyFounded { founding: known })) if known == founding => {
                let version = self.machine.state().borrow().version;
                Outcome { version, changed: true, index: version }
            }
            Reply::Changed(Err(refusal)) => return Err(refusal.into()),
            other => return Err(unknown(format!("the founding is under way: {other:?}"))),
        };
        let reached = self.machine.state().borrow().clone();
        self.known.learn(reached).await?;
        if let Err(error) = self.forget_intent().await {
            // It is carried out once more, and found to be done.
            tracing::warn!(%error, "forget a founding that is done");
        }
        // The file of a cell of one must not be taken for the catalog by the release that wrote it.
        if let Err(error) = self.group.checkpoint().await {
            tracing::warn!(%error, "write the catalog's file");
        }
        Ok(Outcome { version: self.machine.state().borrow().atlas.version, ..outcome })
    }

    /// Goes on with a founding that a crash cut short, unless it had come to nothing and the cell was founded by others meanwhile.
    pub(super) async fn resume(&self, genesis: Genesis, deadline: Instant) -> Result<(), CatalogError> {
        // A term was begun if the group was; then there may be more than a wish.
        let begun = self.group.role().borrow().term != 0;
        if !begun && !genesis.opened {
            self.look_around(deadline).await?;
            let known = self.known.state().founding;
            if known.is_some_and(|known| known != genesis.founding) {
                tracing::warn!(
                    "a founding that was cut short is given up: the cell was founded by others meanwhile"
                );
                return self.forget_intent().await;
            }
        }
        self.carry_out(genesis, deadline).await.map(|_| ())
    }

    async fn forget_intent(&self) -> Result<(), CatalogError> {
        let disk = self.files.clone();
        let removed = skein_storage::blocking(move || file::remove_intent(&*disk)).await;
        removed.map_err(|error| CatalogError::Disk { detail: error.to_string() })??;
        self.founding.set_intent(None);
        Ok(())
    }

    /// Asks whoever is connected, and the hosts of the wanted cohorts: gossip may have told of those without a connection to
    /// them yet.
    async fn ask_everybody(
        &self,
        wanted: &BTreeSet<HostId>,
        deadline: Instant,
    ) -> Result<Asked, CatalogError> {
        let promised_to = self.founding.promise(self.me.host);
        if promised_to != self.me.host {
            return Ok(Asked::Busy(promised_to));
        }
        let began = Instant::now();
        let patience = deadline.min(began + ASK_FOR);
        let mut hosts: BTreeSet<HostId> = self.link.reachable().into_iter().collect();
        hosts.extend(wanted);
        let others: Vec<HostId> = hosts.into_iter().filter(|host| *host != self.me.host).collect();
        let ask = Ask::Promise { founder: self.me.host };
        let asks = others.iter().map(|host| self.ask(*host, ask.clone(), patience));
        let replies = futures_util::future::join_all(asks).await;
        let mut members = BTreeMap::from([(self.me.host, self.me.store)]);
        let mut busy = None;
        let mut founded = None;
        for (host, reply) in others.iter().zip(replies) {
            if let Ok(Reply::Promised { store, founding, to }) = reply {
                members.insert(*host, store);
                founded = founded.or(founding.map(|_| *host));
                busy = busy.or(Some(to).filter(|to| *to != self.me.host));
            }
        }
        if let Some(host) = founded {
            self.release_everybody();
            let wait = deadline.min(Instant::now() + ASK_FOR);
            return match self.ask(host, Ask::State { have: 0 }, wait).await {
                Ok(Reply::State(Some(state))) => {
                    self.known.learn(state).await?;
                    Ok(Asked::Founded)
                }
                _ => Ok(Asked::Busy(host)),
            };
        }
        if let Some(host) = busy {
            self.release_everybody();
            return Ok(Asked::Busy(host));
        }
        if PROMISE / 2 < began.elapsed() {
            // The first promises may be over before the last came.
            return Ok(Asked::Busy(self.me.host));
        }
        Ok(Asked::Free(members))
    }

    /// Lets everybody promise to others again. Nobody waits for it: promises end by themselves.
    fn release_everybody(&self) {
        self.founding.release(self.me.host);
        let patience = Instant::now() + ASK_FOR;
        let body = super::link::encode(&Ask::Release { founder: self.me.host });
        let others = self.link.reachable().into_iter().filter(|host| *host != self.me.host);
        let tells: Vec<_> = others.map(|host| self.link.ask(host, body.clone(), patience)).collect();
        tokio::spawn(async move {
            let _ = futures_util::future::join_all(tells).await;
        });
    }
}
