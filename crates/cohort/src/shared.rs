//! What the tasks of one replica share: who leads, the clock of the reign, how far entries are applied, who waits for which.
//!
//! A *reign* is one unbroken leadership of this replica: one term, one sequencer, one clock. Requests, entries and waiters carry
//! the reign they belong to. Sequences of entries rise over all reigns of a run, so that what was looked up in one reign is
//! never taken for something looked up in another.
//!
//! Invariants, and where they are tested (`tests/replicas`, beside the tests of each file):
//! * A reign begins when everything of earlier terms is applied here, and its clock starts above the ceiling found then. Every
//!   time that was ever issued in an entry that counts, or promised, lies at or below that ceiling.
//! * A waiter is answered once: when its entry is applied; with "not written" when that can never happen any more, because the
//!   log has an entry of a later term, or the entry was void; with "unknown" when this replica may not find out in time.
//! * A reader of the present gets its time from the clock of a reign, and its answer only if the lease of that
//!   reign's term is valid *afterwards*. So at that moment, which is after the request arrived, nobody else had led a later
//!   term: every write acknowledged before the request was acknowledged by this replica or before its reign, is applied
//!   here, and lies at or before the time read. It does not matter how long the answer takes from there: writes that others
//!   acknowledge meanwhile are later than the ceiling, and so than the time read, and did not end before the read began.
//! * A reader of a named time needs no lease: what is at or below the ceiling is settled for all leaders to come.

use crate::clock::{CohortClock, locked};
use crate::entry::Outcome;
use crate::error::CohortError;
use crate::peers::Replica;
use crate::pins::Pins;
use skein_model::{TxClock, TxId};
use skein_storage::rows::{Rows, RowsError};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

/// Microseconds since the Unix epoch, from whatever clock the owner gives.
pub type WallClock = std::sync::Arc<dyn Fn() -> u64 + Send + Sync>;

/// What the sequencer answers to a waiting request.
#[derive(Debug)]
pub(crate) enum Reply {
    /// The transaction is decided, durably.
    Done(Outcome),
    /// Look the rows up again and come back.
    LookAgain,
    /// The request failed.
    Failed(CohortError),
}

/// One request that waits for its entry.
#[derive(Debug)]
pub(crate) struct Waiter {
    pub(crate) id: TxId,
    pub(crate) outcome: Outcome,
    pub(crate) reply: oneshot::Sender<Reply>,
}

/// A leadership of this replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reign {
    pub(crate) term: u64,
    /// Sequence of the reign's first entry.
    pub(crate) first: u64,
    /// When it began.
    pub(crate) since: Instant,
    /// Nobody led before: no time was ever issued or promised.
    pub(crate) founding: bool,
}

/// Who leads, and by which clock.
pub(crate) struct Seat {
    /// The reign, while this replica leads.
    pub(crate) reign: Option<Reign>,
    /// Who leads, as far as is known here.
    pub(crate) leader: Option<Replica>,
    /// The clock of this reign, or of the last one.
    pub(crate) clock: CohortClock,
    /// The rows as they are; a snapshot from another replica puts others in their place.
    pub(crate) rows: Rows,
}

impl Seat {
    /// The reign; or who to ask instead.
    pub(crate) fn reign(&self) -> Result<Reign, CohortError> {
        self.reign.ok_or(CohortError::NotLeader { leader: self.leader })
    }
}

/// Who waits for the entries of past and present reigns.
#[derive(Default)]
struct Waiting {
    entries: VecDeque<Pending>,
    /// The latest term of which an entry is applied: what is pending of earlier ones is never written.
    superseded: u64,
    /// Entries up to this sequence are past waiting for.
    given_up: u64,
}

/// The waiters of one proposed entry.
struct Pending {
    term: u64,
    sequence: u64,
    waiters: Vec<Waiter>,
}

pub(crate) struct Shared {
    pub(crate) wall: WallClock,
    seat: Mutex<Seat>,
    /// Sequence of the last own entry that is applied; readers of rows load it before they look.
    applied: AtomicU64,
    /// Changes when `applied` does, when the reign ends, and when the replica fails.
    applied_watch: watch::Sender<u64>,
    waiting: Mutex<Waiting>,
    /// What scans under way still need.
    pub(crate) pins: Pins,
    failure: OnceLock<CohortError>,
    /// No more transactions are taken.
    closing: AtomicBool,
    /// Why an entry that is durable cannot be applied yet: the store has no room.
    store_full: watch::Sender<Option<String>>,
}

impl Shared {
    pub(crate) fn new(wall: WallClock, rows: Rows) -> Shared {
        let clock = CohortClock::starting_at(rows.meta().ceiling);
        Shared {
            wall,
            seat: Mutex::new(Seat { reign: None, leader: None, clock, rows }),
            applied: AtomicU64::new(0),
            applied_watch: watch::channel(0).0,
            waiting: Mutex::new(Waiting::default()),
            pins: Pins::default(),
            failure: OnceLock::new(),
            closing: AtomicBool::new(false),
            store_full: watch::channel(None).0,
        }
    }

    pub(crate) fn wall(&self) -> u64 {
        (self.wall)()
    }

    /// Who leads, and the clock; held for nanoseconds.
    pub(crate) fn seat(&self) -> MutexGuard<'_, Seat> {
        locked(&self.seat)
    }

    /// The rows as they are now.
    pub(crate) fn rows(&self) -> Rows {
        self.seat().rows.clone()
    }

    /// Begins a reign whose entries have the sequences from `first` on, which is at least two above all used before. Everything
    /// of earlier terms and reigns is applied or will never be.
    pub(crate) fn begin_reign(&self, term: u64, first: u64, leader: Option<Replica>, now: Instant) {
        {
            let mut seat = self.seat();
            let ceiling = seat.rows.meta().ceiling;
            seat.clock = CohortClock::starting_at(ceiling);
            seat.reign = Some(Reign { term, first, since: now, founding: ceiling == TxClock::ZERO });
            seat.leader = leader;
        }
        self.pins.forget_intentions();
        self.applied.store(first.saturating_sub(1), Ordering::Release);
        self.applied_watch.send_replace(first.saturating_sub(1));
    }

    /// Ends the reign, if there is one; from here on requests are told who leads. Entries under way keep their waiters for now.
    pub(crate) fn end_reign(&self, leader: Option<Replica>) {
        let ended = {
            let mut seat = self.seat();
            seat.leader = leader;
            seat.reign.take().is_some()
        };
        if ended {
            self.applied_watch.send_modify(|_| ());
        }
    }

    /// Whether this reign goes on.
    pub(crate) fn reigns(&self, reign: &Reign) -> bool {
        self.seat().reign.is_some_and(|now| now.first == reign.first)
    }

    /// Sequence of the last own entry that readers can see.
    pub(crate) fn applied(&self) -> u64 {
        self.applied.load(Ordering::Acquire)
    }

    /// An own entry is applied and visible: lets readers of the present see it, then tells its waiters.
    pub(crate) fn entry_applied(&self, sequence: u64, ceiling: TxClock) {
        self.seat().clock.applied(sequence, ceiling);
        self.applied.fetch_max(sequence, Ordering::AcqRel);
        self.applied_watch.send_modify(|at| *at = sequence.max(*at));
        for waiter in self.take_waiters(sequence) {
            let _ = waiter.reply.send(Reply::Done(waiter.outcome));
        }
    }

    /// An entry of somebody else, or of an earlier run, is applied.
    pub(crate) fn foreign_entry_applied(&self, ceiling: TxClock) {
        self.seat().clock.saw_ceiling(ceiling);
    }

    /// The log goes on with an entry of `term`: what is still pending of earlier terms is never written.
    pub(crate) fn term_applied(&self, term: u64) {
        let never = {
            let mut waiting = locked(&self.waiting);
            waiting.superseded = waiting.superseded.max(term);
            take_where(&mut waiting.entries, |pending| pending.term < term)
        };
        self.refuse(never);
    }

    /// A snapshot from another replica took the place of the rows: whether it holds what is pending, nobody can tell from here.
    pub(crate) fn rows_replaced(&self, rows: Rows) {
        {
            let mut seat = self.seat();
            seat.clock.saw_ceiling(rows.meta().ceiling);
            seat.rows = rows;
        }
        self.give_up(u64::MAX, "the replica was overtaken by a snapshot");
    }

    pub(crate) fn watch_applied(&self) -> watch::Receiver<u64> {
        self.applied_watch.subscribe()
    }

    /// Registers the waiters of an entry before it is proposed.
    pub(crate) fn register(&self, term: u64, sequence: u64, waiters: Vec<Waiter>) {
        locked(&self.waiting).entries.push_back(Pending { term, sequence, waiters });
    }

    /// Adds a waiter to an entry proposed before, or answers it if that entry is applied already.
    pub(crate) fn join(&self, sequence: u64, waiter: Waiter) {
        let mut waiting = locked(&self.waiting);
        if self.applied() < sequence
            && let Some(pending) = waiting.entries.iter_mut().find(|pending| pending.sequence == sequence)
        {
            pending.waiters.push(waiter);
            return;
        }
        drop(waiting);
        let reply = if sequence <= self.applied() {
            Reply::Done(waiter.outcome)
        } else {
            let why = self.why_unknown("its entry was not reported on");
            Reply::Failed(CohortError::Unknown { id: waiter.id, why })
        };
        let _ = waiter.reply.send(reply);
    }

    fn take_waiters(&self, sequence: u64) -> Vec<Waiter> {
        let mut waiting = locked(&self.waiting);
        match waiting.entries.iter().position(|pending| pending.sequence == sequence) {
            Some(at) => waiting.entries.remove(at).map(|pending| pending.waiters).unwrap_or_default(),
            None => Vec::new(),
        }
    }

    /// The entry is not written anywhere and never will be.
    pub(crate) fn not_written(&self, sequence: u64) {
        self.refuse(self.take_waiters(sequence));
    }

    /// Raft says no more about the entry. Whether it is written may still turn out here, unless this replica has stopped.
    pub(crate) fn not_reported(&self, term: u64, sequence: u64, why: &str) {
        let (never, lost) = {
            let waiting = locked(&self.waiting);
            (term < waiting.superseded, sequence <= waiting.given_up)
        };
        if never {
            self.not_written(sequence);
        } else if lost || self.failure().is_some() {
            self.lose(self.take_waiters(sequence), why);
        }
    }

    /// Waits no longer for entries up to `sequence`: their fate is unknown here.
    pub(crate) fn give_up(&self, sequence: u64, why: &str) {
        let lost = {
            let mut waiting = locked(&self.waiting);
            if sequence != u64::MAX {
                waiting.given_up = waiting.given_up.max(sequence);
            }
            take_where(&mut waiting.entries, |pending| pending.sequence <= sequence)
        };
        self.lose(lost, why);
    }

    fn refuse(&self, waiters: Vec<Waiter>) {
        if waiters.is_empty() {
            return;
        }
        let leader = self.seat().leader;
        let error = self.refusal().unwrap_or(CohortError::NotLeader { leader });
        for waiter in waiters {
            let _ = waiter.reply.send(Reply::Failed(error.clone()));
        }
    }

    fn lose(&self, waiters: Vec<Waiter>, why: &str) {
        for waiter in waiters {
            let error = CohortError::Unknown { id: waiter.id, why: self.why_unknown(why) };
            let _ = waiter.reply.send(Reply::Failed(error));
        }
    }

    /// Why an outcome is not known: this replica's failure, or what `otherwise` says.
    fn why_unknown(&self, otherwise: &str) -> String {
        self.failure().map_or_else(|| otherwise.to_owned(), |failure| failure.to_string())
    }

    /// Why this replica has stopped writing, if it has.
    pub(crate) fn failure(&self) -> Option<CohortError> {
        self.failure.get().cloned()
    }

    /// The error as the cohort tells it; one that the replica cannot go on after stops it from answering.
    pub(crate) fn note(&self, error: RowsError) -> CohortError {
        let error = CohortError::from(error);
        if error.is_fatal() {
            self.fail(error.clone());
        }
        error
    }

    /// Stops this replica from writing, and after damage also from reading; the first reason stays.
    pub(crate) fn fail(&self, error: CohortError) {
        if self.fail_quietly(error.clone()) {
            tracing::error!(%error, "this replica writes no more; run `skein doctor` on its directory and restart it");
        }
    }

    /// As [`Shared::fail`], for a reason that is no news to whoever runs the server. Says whether it was the first.
    pub(crate) fn fail_quietly(&self, reason: CohortError) -> bool {
        let first = self.failure.set(reason).is_ok();
        if first {
            // Those who wait for an entry find out that it may never come.
            self.give_up(u64::MAX, "the replica stopped");
            self.applied_watch.send_modify(|_| ());
        }
        first
    }

    /// Takes no more transactions; those taken go on.
    pub(crate) fn begin_closing(&self) {
        self.closing.store(true, Ordering::Release);
    }

    /// Why no transaction is taken, if so.
    pub(crate) fn refusal(&self) -> Option<CohortError> {
        self.failure().or_else(|| self.closing.load(Ordering::Acquire).then_some(CohortError::Closing))
    }

    /// A durable entry waits for room in the store, or (`None`) no longer does.
    pub(crate) fn set_store_full(&self, detail: Option<String>) {
        self.store_full.send_replace(detail);
    }

    /// Why the store has no room, if an entry waits for some.
    pub(crate) fn store_full(&self) -> Option<String> {
        self.store_full.borrow().clone()
    }

    /// Returns once an entry waits for room in the store.
    pub(crate) async fn store_fills_up(&self) {
        // The sender is ours, so it cannot be gone.
        let _ = self.store_full.subscribe().wait_for(Option::is_some).await;
    }
}

/// Takes the waiters of those entries that `which` picks.
fn take_where(entries: &mut VecDeque<Pending>, which: impl Fn(&Pending) -> bool) -> Vec<Waiter> {
    let mut taken = Vec::new();
    entries.retain_mut(|pending| {
        let picked = which(pending);
        if picked {
            taken.append(&mut pending.waiters);
        }
        !picked
    });
    taken
}
