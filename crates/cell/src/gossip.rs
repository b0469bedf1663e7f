//! Drives this peer's end of the flock: one task that brings it messages, time and wishes, and does what it asks for.
//!
//! What the flock knows is offered to the rest of the cell as a [`View`], renewed when something changes. Where peers are is
//! passed on to whoever connects to them. What has to outlive the process is in a small file, and the incarnation of a run is
//! durable in it before the run says its first word: others would otherwise take old facts for newer ones.

mod hail;
mod memory;
mod view;

pub(crate) use memory::fuzz as fuzz_memory;
pub(crate) use view::{CATALOG_SETTING, PeerFacts, View, fact};

use crate::gossip::hail::Hails;
use crate::gossip::memory::{BOOK_MAX, Memory};
use crate::small_file::SmallFileError;
use bytes::Bytes;
use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;
use skein_flock::flock::{Config, Remembered};
use skein_flock::health::Reach;
use skein_flock::io::Told;
use skein_flock::{Effect, Flock, Input, Outbox, Peer, Time, Unreachable};
use skein_model::HostId;
use skein_storage::blocking;
use skein_storage::disk::Disk;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Messages and reports that wait for the task; what comes on top is dropped, as the network might have done.
const INBOX_MAX: usize = 4096;
/// Changes of the view are gathered this long.
const VIEW_WAIT: Duration = Duration::from_millis(20);
/// Between two writes of what is remembered.
const REMEMBER_PERIOD: Duration = Duration::from_secs(10);

/// Carries the flock's messages: what [`skein_transport::Transport`] does for it.
pub(crate) trait Carrier: Send + Sync + 'static {
    /// Sends a message to an address, at most once.
    fn post(&self, to: SocketAddr, bytes: Bytes);
    /// Nothing more will be posted there for now.
    fn hang_up(&self, addr: SocketAddr);
    /// A host is reached there.
    fn learn(&self, host: HostId, addr: SocketAddr);
}

impl Carrier for skein_transport::Transport {
    fn post(&self, to: SocketAddr, bytes: Bytes) {
        skein_transport::Transport::post(self, to, bytes);
    }

    fn hang_up(&self, addr: SocketAddr) {
        skein_transport::Transport::hang_up(self, addr);
    }

    fn learn(&self, host: HostId, addr: SocketAddr) {
        skein_transport::Transport::learn(self, host, addr);
    }
}

/// Something for the task.
enum Event {
    Posted { from: Peer, bytes: Bytes },
    Unreachable { addr: SocketAddr, why: Unreachable },
    Report { host: HostId, reach: Reach },
    Resolved { host: HostId, addrs: Vec<SocketAddr> },
}

/// What this peer says about itself and the catalog; the task brings the flock up to it.
#[derive(Default)]
struct Wishes {
    facts: BTreeMap<&'static str, Option<Bytes>>,
    catalog: Option<(u64, Bytes)>,
    draining: Option<bool>,
    /// This peer is about to stop.
    leaving: bool,
    /// Hosts that could not be reached when last tried.
    failed: BTreeSet<HostId>,
}

/// A handle on the flock's task; clones share it.
#[derive(Clone)]
pub(crate) struct Gossip {
    shared: Arc<Shared>,
}

struct Shared {
    events: mpsc::Sender<Event>,
    wishes: Mutex<Wishes>,
    wished: Notify,
    view: watch::Sender<Arc<View>>,
}

/// The other end of a [`Gossip`] that has not begun.
pub(crate) struct Inbox(mpsc::Receiver<Event>);

/// What the task begins with.
pub(crate) struct Setup {
    /// This host, and where peers reach it.
    pub(crate) me: Peer,
    /// Takes messages to others.
    pub(crate) carrier: Arc<dyn Carrier>,
    /// Where the small file is.
    pub(crate) disk: Arc<dyn Disk>,
    /// Peers to look for: their IDs and where they might be, `host:port`.
    pub(crate) hail: Vec<(HostId, String)>,
    /// All of its luck.
    pub(crate) seed: u64,
    /// Microseconds since the Unix epoch.
    pub(crate) wall: u64,
    /// Ends it, with goodbyes, when true.
    pub(crate) stopping: watch::Receiver<bool>,
}

impl Gossip {
    /// A handle, and what [`Gossip::start`] begins with. What arrives before is kept.
    pub(crate) fn new() -> (Gossip, Inbox) {
        let (events, inbox) = mpsc::channel(INBOX_MAX);
        let view = watch::channel(Arc::new(View::default())).0;
        let shared = Shared { events, wishes: Mutex::default(), wished: Notify::new(), view };
        (Gossip { shared: Arc::new(shared) }, Inbox(inbox))
    }

    /// Begins: remembers the last run, makes this run's incarnation durable, and looks for others. Gives the task, and whether
    /// this peer was draining when it last stopped.
    pub(crate) async fn start(
        &self,
        inbox: Inbox,
        setup: Setup,
    ) -> Result<(JoinHandle<()>, bool), SmallFileError> {
        let disk = setup.disk.clone();
        let wall = setup.wall;
        let begin = move || {
            let mut memory = Memory::load(&*disk)?;
            // Later than every earlier run, also when the directory is new and the host is not.
            memory.incarnation = (memory.incarnation + 1).max(wall / 1000);
            match memory.store(&*disk) {
                // A full disk must not keep a peer from answering reads. The wall clock makes the next run's incarnation
                // later all the same, unless it is set back meanwhile.
                Err(error) if error.is_full() => {
                    tracing::warn!(%error, "note that this run began; done again when there is room");
                }
                stored => stored?,
            }
            Ok(memory)
        };
        let memory = match blocking(begin).await {
            Ok(memory) => memory?,
            Err(unfinished) => {
                let (path, source) = (setup.disk.describe("flock"), unfinished.into());
                return Err(SmallFileError::Io { verb: "read", path, source });
            }
        };
        let addrs = memory.addrs.iter().map(|addr| (*addr).into()).collect();
        let remembered = Remembered { addrs, incarnation: memory.incarnation };
        let mut view = View::default();
        for (host, addr, http) in &memory.book {
            setup.carrier.learn(*host, *addr);
            let mut facts = PeerFacts::at(*addr);
            facts.http.clone_from(http);
            view.peers.insert(*host, facts);
        }
        self.shared.view.send_replace(Arc::new(view.clone()));
        let draining = memory.draining;
        self.wishes().draining.get_or_insert(draining);
        if draining {
            self.publish(fact::DRAIN, Some("1".into()));
        }
        let driver = Driver {
            flock: Flock::new(Arc::new(Config::default()), setup.me, remembered),
            shared: self.shared.clone(),
            carrier: setup.carrier,
            hails: Hails::new(setup.hail, setup.me.id),
            rng: Xoshiro256PlusPlus::seed_from_u64(setup.seed),
            began: Instant::now(),
            heard_of: memory.book.iter().map(|(host, ..)| *host).collect(),
            view,
            view_due: None,
            memory,
            disk: setup.disk,
            remember_due: None,
            out: Outbox::default(),
        };
        Ok((tokio::spawn(driver.run(inbox.0, setup.stopping)), draining))
    }

    /// What is known of the others.
    pub(crate) fn view(&self) -> watch::Receiver<Arc<View>> {
        self.shared.view.subscribe()
    }

    /// What is known of the others now.
    pub(crate) fn look(&self) -> Arc<View> {
        self.shared.view.borrow().clone()
    }

    /// Says something about this peer, or with `None` says it no more.
    pub(crate) fn publish(&self, key: &'static str, value: Option<String>) {
        self.wishes().facts.insert(key, value.map(Bytes::from));
        self.shared.wished.notify_one();
    }

    /// Tells all peers of a catalog, unless a newer one is known.
    pub(crate) fn tell_catalog(&self, version: u64, summary: Bytes) {
        let mut wishes = self.wishes();
        if wishes.catalog.as_ref().is_none_or(|(known, _)| *known < version) {
            wishes.catalog = Some((version, summary));
            self.shared.wished.notify_one();
        }
    }

    /// Remembers, durably and soon, whether this peer wants to lead nothing, and tells all peers.
    pub(crate) fn drain(&self, on: bool) {
        let leaving = {
            let mut wishes = self.wishes();
            wishes.draining = Some(on);
            wishes.leaving
        };
        self.publish(fact::DRAIN, (on || leaving).then(|| "1".into()));
    }

    /// Tells all peers that this one wants to lead nothing from now on because it is about to stop; its next run wants to again.
    pub(crate) fn leave(&self) {
        self.wishes().leaving = true;
        self.publish(fact::DRAIN, Some("1".into()));
    }

    /// Whether this peer wants to lead nothing: it is draining, or about to stop.
    pub(crate) fn leads_nothing(&self) -> bool {
        let wishes = self.wishes();
        wishes.draining == Some(true) || wishes.leaving
    }

    /// Whether this peer was told to lead nothing.
    pub(crate) fn is_draining(&self) -> bool {
        self.wishes().draining == Some(true)
    }

    /// A message came.
    pub(crate) fn posted(&self, from: Peer, bytes: Bytes) {
        self.tell(Event::Posted { from, bytes });
    }

    /// An address cannot be reached.
    pub(crate) fn unreachable(&self, addr: SocketAddr, why: skein_transport::Unreachable) {
        let why = match why {
            skein_transport::Unreachable::Refused => Unreachable::Refused,
            skein_transport::Unreachable::TimedOut => Unreachable::TimedOut,
            skein_transport::Unreachable::Lost => Unreachable::Lost,
        };
        self.tell(Event::Unreachable { addr, why });
    }

    /// A host answered a request, or did not. Only news is passed on.
    pub(crate) fn reached(&self, host: HostId, answered: bool) {
        let news = {
            let mut wishes = self.wishes();
            if answered { wishes.failed.remove(&host) } else { wishes.failed.insert(host) }
        };
        if news || !answered {
            let reach = if answered { Reach::Reached } else { Reach::Failed };
            self.tell(Event::Report { host, reach });
        }
    }

    fn wishes(&self) -> MutexGuard<'_, Wishes> {
        self.shared.wishes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, event: Event) {
        if self.shared.events.try_send(event).is_err() {
            metrics::counter!("skein_flock_dropped_total").increment(1);
        }
    }
}

/// Waits until the channel says stop, or nobody is left to say so.
async fn stopped(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

/// The task.
struct Driver {
    flock: Flock,
    shared: Arc<Shared>,
    carrier: Arc<dyn Carrier>,
    hails: Hails,
    rng: Xoshiro256PlusPlus,
    /// The flock's time zero.
    began: Instant,
    /// Hosts of whom the view still says what was remembered.
    heard_of: BTreeSet<HostId>,
    view: View,
    view_due: Option<Instant>,
    memory: Memory,
    disk: Arc<dyn Disk>,
    remember_due: Option<Instant>,
    out: Outbox,
}

impl Driver {
    async fn run(mut self, mut inbox: mpsc::Receiver<Event>, mut stopping: watch::Receiver<bool>) {
        self.input(Input::Start);
        self.take_wishes().await;
        loop {
            let dues = [self.flock_due(), self.view_due, self.remember_due, Some(self.hails.due())];
            let due = dues.into_iter().flatten().min().unwrap_or_else(Instant::now);
            let shared = self.shared.clone();
            tokio::select! {
                biased;
                () = stopped(&mut stopping) => break,
                () = shared.wished.notified() => self.take_wishes().await,
                event = inbox.recv() => match event {
                    Some(event) => self.take(event),
                    None => break,
                },
                () = tokio::time::sleep_until(due) => {}
            }
            self.look_at_clock().await;
        }
        // What was wished together with the end still counts.
        self.take_wishes().await;
        self.input(Input::Leave);
        self.remember().await;
    }

    fn flock_due(&self) -> Option<Instant> {
        let due = self.flock.next_deadline()?;
        // A deadline too far away to be told is never reached.
        self.began.checked_add(Duration::from_micros(due.0))
    }

    async fn look_at_clock(&mut self) {
        let now = Instant::now();
        if self.flock_due().is_some_and(|due| due <= now) {
            self.input(Input::Deadline);
        }
        if self.view_due.is_some_and(|due| due <= now) {
            self.view_due = None;
            self.shared.view.send_replace(Arc::new(self.view.clone()));
        }
        if self.remember_due.is_some_and(|due| due <= now) {
            self.remember().await;
        }
        if self.hails.due() <= now {
            self.hail(now);
        }
    }

    /// Looks for those of the hailed whom nobody has told of yet.
    fn hail(&mut self, now: Instant) {
        let known = |host: HostId| self.view.peers.contains_key(&host) && !self.heard_of.contains(&host);
        let hail::Missing { addrs, names } = self.hails.next(now, known);
        for (host, addr) in addrs {
            self.resolved(host, vec![addr]);
        }
        for (host, name) in names {
            let shared = self.shared.clone();
            tokio::spawn(async move {
                match tokio::net::lookup_host(&name).await {
                    Ok(addrs) => {
                        let addrs = addrs.take(hail::ADDRS_MAX).collect();
                        // Should there be no room, it is looked up again soon.
                        let _ = shared.events.try_send(Event::Resolved { host, addrs });
                    }
                    Err(error) => tracing::warn!(%host, name, %error, "look up the address of a hailed peer"),
                }
            });
        }
    }

    fn resolved(&mut self, host: HostId, addrs: Vec<SocketAddr>) {
        if let Some(first) = addrs.first()
            && !self.view.peers.contains_key(&host)
        {
            self.carrier.learn(host, *first);
        }
        self.input(Input::Hail { addrs: addrs.into_iter().map(Into::into).collect() });
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Posted { from, bytes } => self.input(Input::Received { from, bytes: bytes.into() }),
            Event::Unreachable { addr, why } => self.input(Input::Unreachable { addr: addr.into(), why }),
            Event::Report { host, reach } => self.input(Input::Report { host, reach }),
            Event::Resolved { host, addrs } => self.resolved(host, addrs),
        }
    }

    /// Brings the flock up to what this peer wants to say.
    async fn take_wishes(&mut self) {
        let (facts, catalog, draining) = {
            let mut wishes = self.shared.wishes.lock().unwrap_or_else(PoisonError::into_inner);
            (std::mem::take(&mut wishes.facts), wishes.catalog.clone(), wishes.draining)
        };
        for (key, value) in facts {
            let key = key.to_owned();
            self.input(match value {
                Some(value) => Input::Publish { key, value },
                None => Input::Retract { key },
            });
        }
        if let Some((version, summary)) = catalog
            && self.flock.facts().settings().get(CATALOG_SETTING).is_none_or(|(known, _)| known < version)
        {
            self.input(Input::Set { key: CATALOG_SETTING.into(), version, value: Some(summary) });
            self.view.look_at_catalog(&self.flock);
            self.view_changed();
        }
        if let Some(draining) = draining
            && self.memory.draining != draining
        {
            self.memory.draining = draining;
            self.remember().await;
        }
    }

    /// Brings the flock an input and does what it asks for.
    fn input(&mut self, input: Input) {
        let micros = Instant::now().saturating_duration_since(self.began).as_micros();
        let now = Time(u64::try_from(micros).unwrap_or(u64::MAX));
        let mut out = std::mem::take(&mut self.out);
        if let Err(refused) = self.flock.handle(input, now, &mut self.rng, &mut out) {
            tracing::trace!(%refused, "the flock dropped an input");
        }
        for effect in out.effects.drain(..) {
            match effect {
                Effect::Send { to, bytes } => self.carrier.post(to.into(), bytes.to_bytes()),
                Effect::Close { to } => self.carrier.hang_up(to.into()),
                Effect::Remember => self.remember_soon(),
                Effect::Told(told) => self.told(told),
                // Nothing is broadcast but what the flock itself broadcasts.
                Effect::Deliver { .. } => {}
            }
        }
        self.out = out;
    }

    fn told(&mut self, told: Told) {
        match told {
            Told::LinkUp(peer) => {
                self.carrier.learn(peer.id, peer.addr.into());
                self.view.peers.entry(peer.id).or_insert_with(|| PeerFacts::at(peer.addr.into()));
                self.view_changed();
            }
            Told::Facts(skein_flock::facts::Event::Changed { host, .. }) => {
                self.heard_of.remove(&host);
                let before = self.view.peers.get(&host).map(|it| it.addr);
                self.view.look_at(&self.flock, host);
                let after = self.view.peers.get(&host).map(|it| it.addr);
                if let Some(addr) = after.filter(|_| before != after) {
                    self.carrier.learn(host, addr);
                    self.remember_soon();
                }
                self.view_changed();
            }
            Told::Facts(skein_flock::facts::Event::Gone { host }) => {
                self.view.peers.remove(&host);
                self.view_changed();
            }
            Told::Facts(skein_flock::facts::Event::SettingChanged { .. }) => {
                self.view.look_at_catalog(&self.flock);
                self.view_changed();
            }
            Told::Health(_) => {
                self.view.look_at_health(&self.flock);
                self.view_changed();
            }
            // Links come and go; facts tell who is there. (And whatever else a later flock tells.)
            _ => {}
        }
    }

    fn view_changed(&mut self) {
        self.view_due.get_or_insert_with(|| Instant::now() + VIEW_WAIT);
    }

    fn remember_soon(&mut self) {
        self.remember_due.get_or_insert_with(|| Instant::now() + REMEMBER_PERIOD);
    }

    /// Writes down what the next run begins with. A failure is told, and mended by the next attempt.
    async fn remember(&mut self) {
        self.remember_due = None;
        self.memory.addrs = self.flock.remember().addrs.into_iter().map(Into::into).collect();
        let peers = self.view.peers.iter().take(BOOK_MAX);
        self.memory.book = peers.map(|(host, it)| (*host, it.addr, it.http.clone())).collect();
        let (memory, disk) = (self.memory.clone(), self.disk.clone());
        let stored = blocking(move || memory.store(&*disk)).await;
        let error = match stored {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(unfinished) => unfinished.to_string(),
        };
        tracing::warn!(error, "write down where the other peers are");
        self.remember_soon();
    }
}

#[cfg(test)]
mod tests;
