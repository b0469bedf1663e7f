//! What the parts of a run share: the clock, the history, what peers are asked to do, and what they were seen to do.

use super::luck::Luck;
use super::machine::Machine;
use super::plan::Plan;
use super::tally::Tally;
use super::trace::Trace;
use crate::check::history::CallId;
use crate::check::{Answer, Asked, Demand, History, Moment, Truth, linear};
use skein_model::{Atlas, HostId, Slice, Transaction, TxClock};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Peers are starting and get their first atlas; nothing goes wrong.
    Beginning,
    /// Clients call, and things go wrong.
    Chaos,
    /// Nothing goes wrong any more, and no client calls.
    Healing,
    /// All is told, and held against what was seen.
    Over,
}

/// Something that an administrator asks of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Put this atlas.
    Atlas(Vec<BTreeSet<HostId>>),
    /// Drain, or stop draining.
    Drain(bool),
    /// Let another directory take the place of this host's.
    Forget(HostId),
    /// Wait until all is settled, and tell everything there is.
    Finale,
}

/// What clients saw of the catalog's keys; `None` stands for a call that came to nothing.
pub type KeyCalls = BTreeMap<String, Vec<Option<linear::Call>>>;

/// A transaction that was sent, to be sent again.
#[derive(Debug, Clone)]
pub struct Sent {
    /// It.
    pub tx: Transaction,
    /// What the checkers call its demand.
    pub demand: Demand,
}

/// How the run ended, told by the peer that was asked.
#[derive(Debug, Default)]
pub struct Ending {
    /// All versions.
    pub truth: Truth,
    /// What is missing so far, in words; empty when all is told.
    pub waiting_for: String,
    /// Whether all is told.
    pub complete: bool,
}

/// Shared by all parts of a run, which is one thread.
pub struct Shared {
    /// What the run is.
    pub plan: Plan,
    /// All luck.
    pub luck: Luck,
    /// What happened.
    pub trace: Trace,
    /// True time since the run began, µs, at the start of the current tick.
    pub now: Arc<AtomicU64>,
    /// How far the run is.
    pub phase: Cell<Phase>,
    /// What clients saw.
    pub history: RefCell<History>,
    /// What clients saw of the catalog's keys.
    pub keys: RefCell<KeyCalls>,
    /// Counts.
    pub tally: RefCell<Tally>,
    /// The servers.
    pub machines: RefCell<Vec<Machine>>,
    /// What each peer is asked to do.
    pub orders: RefCell<Vec<VecDeque<Order>>>,
    /// Transactions sent lately.
    pub sent: RefCell<VecDeque<Sent>>,
    /// Times that somebody read or wrote at, lately.
    pub times: RefCell<VecDeque<TxClock>>,
    /// Slices to be scanned, by whoever comes first.
    pub slices: RefCell<VecDeque<(Slice, TxClock)>>,
    /// Who is known to lead each cohort.
    pub leaders: RefCell<Vec<Option<HostId>>>,
    /// The hosts of each cohort that were last asked for.
    pub goal: RefCell<Vec<BTreeSet<HostId>>>,
    /// The newest atlas that was seen anywhere.
    pub atlas: RefCell<Arc<Atlas>>,
    /// For each peer, the atlas it goes by, if it is up.
    pub atlases: RefCell<Vec<Option<Arc<Atlas>>>>,
    /// Digests of all replicas by peer, when the end has come.
    pub digests: RefCell<Vec<Option<Vec<super::system::Digest>>>>,
    /// Hosts whose lost directory was forgotten as asked.
    pub forgotten: RefCell<BTreeSet<HostId>>,
    /// Peers whose process ended by itself, to be started again.
    pub ended: RefCell<BTreeSet<usize>>,
    /// The first thing that may not happen and did.
    pub broken: RefCell<Option<String>>,
    /// The end.
    pub ending: RefCell<Ending>,
}

impl Shared {
    /// A run that is about to begin.
    pub fn new(plan: Plan, trace: Trace) -> Rc<Shared> {
        let now = Arc::new(AtomicU64::new(0));
        let machines = (0..plan.peers).map(|index| Machine::new(index, now.clone())).collect();
        Rc::new(Shared {
            luck: Luck::new(plan.seed),
            trace,
            now,
            phase: Cell::new(Phase::Beginning),
            history: RefCell::default(),
            keys: RefCell::default(),
            tally: RefCell::default(),
            machines: RefCell::new(machines),
            orders: RefCell::new(vec![VecDeque::new(); plan.peers]),
            sent: RefCell::default(),
            times: RefCell::default(),
            slices: RefCell::default(),
            leaders: RefCell::new(vec![None; plan.atlas.len()]),
            goal: RefCell::new(plan.atlas.iter().map(hosts_of).collect()),
            atlas: RefCell::new(Arc::new(Atlas::empty())),
            atlases: RefCell::new(vec![None; plan.peers]),
            digests: RefCell::new(vec![None; plan.peers]),
            forgotten: RefCell::default(),
            ended: RefCell::default(),
            broken: RefCell::default(),
            ending: RefCell::default(),
            plan,
        })
    }

    /// Milliseconds since the run began.
    pub fn millis(&self) -> u64 {
        self.now.load(Ordering::Relaxed) / 1000
    }

    /// The moment of a call that is made now. All hosts live through a tick one after the other, so that a call is
    /// as early as the tick's start, and an answer as late as its end.
    pub fn invoked(&self) -> Moment {
        self.now.load(Ordering::Relaxed)
    }

    /// The moment of an answer that comes now.
    pub fn answered(&self) -> Moment {
        self.invoked() + self.plan.tick_millis * 1000
    }

    /// Counts one.
    pub fn count(&self, what: &'static str) {
        self.tally.borrow_mut().count(what);
    }

    /// Something happened that may not.
    pub fn break_with(&self, why: String) {
        self.trace.say(|| format!("BROKEN: {why}"));
        self.broken.borrow_mut().get_or_insert(why);
    }

    /// A client calls.
    pub fn begin(&self, client: u64, asked: Asked) -> CallId {
        self.trace.say(|| format!("client {client:x}: {asked:?}"));
        self.history.borrow_mut().begin(client, self.invoked(), asked)
    }

    /// A client was answered.
    pub fn end(&self, client: u64, call: CallId, answer: Answer) {
        self.trace.say(|| format!("client {client:x}: -> {}", brief(&answer)));
        self.history.borrow_mut().end(call, self.answered(), answer);
    }

    /// A time that others may read at.
    pub fn saw_time(&self, time: TxClock) {
        let mut times = self.times.borrow_mut();
        times.push_back(time);
        if 200 < times.len() {
            times.pop_front();
        }
    }

    /// A transaction that others may ask after, or send again.
    pub fn was_sent(&self, sent: Sent) {
        let mut all = self.sent.borrow_mut();
        all.push_back(sent);
        if 60 < all.len() {
            all.pop_front();
        }
    }
}

/// The hosts on these machines.
pub fn hosts_of(machines: &BTreeSet<usize>) -> BTreeSet<HostId> {
    machines.iter().map(|index| HostId(*index as u64 + 1)).collect()
}

/// The answer in a line.
fn brief(answer: &Answer) -> String {
    match answer {
        Answer::Scanned { until, rows, complete } => {
            format!("{} rows at {until}, complete: {complete}", rows.len())
        }
        other => format!("{other:?}"),
    }
}

impl Shared {
    /// The hosts that the atlas should come to, cohort by cohort: what was last asked for.
    pub fn goal(&self) -> Vec<BTreeSet<HostId>> {
        self.goal.borrow().clone()
    }
}
