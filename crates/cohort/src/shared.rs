//! What the tasks of one cohort share: the clock, how far entries are applied, and who waits for which.

use crate::clock::{CohortClock, locked};
use crate::entry::Outcome;
use crate::error::CohortError;
use crate::pins::Pins;
use skein_model::{TxClock, TxId};
use skein_storage::rows::RowsError;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock};
use tokio::sync::{oneshot, watch};

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

/// The waiters of one proposed entry.
type EntryWaiters = (u64, Vec<Waiter>);

pub(crate) struct Shared {
    pub(crate) wall: WallClock,
    pub(crate) clock: Mutex<CohortClock>,
    /// Sequence of the last own entry that is applied; readers of rows load it before they look.
    applied: AtomicU64,
    applied_watch: watch::Sender<u64>,
    waiting: Mutex<VecDeque<EntryWaiters>>,
    /// What scans under way still need.
    pub(crate) pins: Pins,
    failure: OnceLock<CohortError>,
    /// No more transactions are taken.
    closing: AtomicBool,
    /// Why an entry that is durable cannot be applied yet: the store has no room.
    store_full: watch::Sender<Option<String>>,
}

impl Shared {
    pub(crate) fn new(wall: WallClock, ceiling: TxClock) -> Shared {
        Shared {
            wall,
            clock: Mutex::new(CohortClock::starting_at(ceiling)),
            applied: AtomicU64::new(0),
            applied_watch: watch::channel(0).0,
            waiting: Mutex::new(VecDeque::new()),
            pins: Pins::default(),
            failure: OnceLock::new(),
            closing: AtomicBool::new(false),
            store_full: watch::channel(None).0,
        }
    }

    pub(crate) fn wall(&self) -> u64 {
        (self.wall)()
    }

    pub(crate) fn clock(&self) -> MutexGuard<'_, CohortClock> {
        locked(&self.clock)
    }

    /// Sequence of the last own entry that readers can see.
    pub(crate) fn applied(&self) -> u64 {
        self.applied.load(Ordering::Acquire)
    }

    /// An own entry is applied and visible: lets readers of the present see it. Comes before its waiters are told.
    pub(crate) fn entry_applied(&self, sequence: u64, ceiling: TxClock) {
        self.clock().applied(sequence, ceiling);
        self.applied.store(sequence, Ordering::Release);
        self.applied_watch.send_replace(sequence);
    }

    /// An entry of somebody else, or of an earlier run, is applied.
    pub(crate) fn foreign_entry_applied(&self, ceiling: TxClock) {
        self.clock().saw_ceiling(ceiling);
    }

    pub(crate) fn watch_applied(&self) -> watch::Receiver<u64> {
        self.applied_watch.subscribe()
    }

    /// Registers the waiters of an entry before it is proposed.
    pub(crate) fn register(&self, sequence: u64, waiters: Vec<Waiter>) {
        locked(&self.waiting).push_back((sequence, waiters));
    }

    /// Adds a waiter to an entry proposed before, or answers it if that entry is applied already.
    pub(crate) fn join(&self, sequence: u64, waiter: Waiter) {
        let mut waiting = locked(&self.waiting);
        if self.applied() < sequence
            && let Some((_, waiters)) = waiting.iter_mut().find(|(s, _)| *s == sequence)
        {
            waiters.push(waiter);
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
        match waiting.iter().position(|(s, _)| *s == sequence) {
            Some(at) => waiting.remove(at).map(|(_, waiters)| waiters).unwrap_or_default(),
            None => Vec::new(),
        }
    }

    /// The entry is durable and applied: answers everybody who waited for it.
    pub(crate) fn complete(&self, sequence: u64) {
        for waiter in self.take_waiters(sequence) {
            let _ = waiter.reply.send(Reply::Done(waiter.outcome));
        }
    }

    /// The entry will not be reported on; `error` says what to tell each waiter.
    pub(crate) fn abandon(&self, sequence: u64, error: impl Fn(&Waiter) -> CohortError) {
        for waiter in self.take_waiters(sequence) {
            let error = error(&waiter);
            let _ = waiter.reply.send(Reply::Failed(error));
        }
    }

    /// Why an outcome is not known: this replica's failure, or what `otherwise` says.
    pub(crate) fn why_unknown(&self, otherwise: &str) -> String {
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
        // Those who wait for an entry find out that it may never come.
        self.applied_watch.send_modify(|_| ());
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
        self.store_full.send_if_modified(|present| {
            let changes = present.is_some() != detail.is_some();
            if changes {
                *present = detail;
            }
            changes
        });
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
