//! The cohort as its users see it: read, write, scan, ask.

use crate::clock::ReadAt;
use crate::entry::Outcome;
use crate::error::CohortError;
use crate::group::{Failure, Group, GroupOptions, Timing};
use crate::peers::{NoPeers, Replica};
use crate::pins::Pin;
use crate::proposer::{Proposer, Request, Room};
use crate::recorded::{fingerprint, recorded};
use crate::rows_machine::RowsMachine;
use crate::sequencer::{Latest, Observed, Sequencer, depends_on_rows};
use crate::shared::{Reply, Shared, WallClock};
use bytes::Bytes;
use skein_model::{
    GroupId, HostId, Pick, Refusal, Retain, Slice, StoreId, TableId, Transaction, TxClock, TxId, Value,
    Window,
};
use skein_storage::log::GroupLog;
use skein_storage::rows::{ChunkBudget, Rows, ScanPosition, ScanRow, ScanSpec};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;

/// How a cohort is run.
#[derive(Clone)]
pub struct CohortOptions {
    /// The host that this replica lives on; its ID in Raft.
    pub host: u64,
    /// Differs from every value ever given before: recognises this run's own entries.
    pub run: u64,
    /// Microseconds since the Unix epoch.
    pub wall: WallClock,
    /// Says whether the disk has room for more writes.
    pub room: Room,
    /// Entries proposed and not yet applied, at most. More lets a lone writer pipeline; fewer makes larger groups.
    pub entries_in_flight_max: usize,
    /// Transactions that may wait for the sequencer before new ones are turned away.
    pub waiting_max: usize,
    /// The store is checkpointed, and the log cut, when the log holds this many bytes past the last checkpoint.
    pub checkpoint_log_bytes: u64,
}

/// A handle on one replica of a cohort; clones share it.
#[derive(Clone)]
pub struct Cohort {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    rows: Rows,
    group: Group<RowsMachine>,
    requests: mpsc::Sender<Request>,
    waiting_max: usize,
}

/// The answer to a read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// The time read at.
    pub read_time: TxClock,
    /// Time of the version found; zero for a row never written.
    pub time: TxClock,
    /// Its value; `None` for a tombstone or a row never written.
    pub value: Option<Value>,
}

/// Which rows and versions to scan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanOptions {
    /// The table.
    pub table: TableId,
    /// How to pick among versions.
    pub pick: Pick,
    /// Exclusive lower bound.
    pub since: TxClock,
    /// Inclusive upper bound; `None` for the present.
    pub until: Option<TxClock>,
    /// First key.
    pub key: Bytes,
    /// On the first key, start at its newest version at or before this time.
    pub time: TxClock,
    /// Stop before this key.
    pub end: Option<Bytes>,
    /// Which share of the table.
    pub slice: Slice,
}

/// A scan under way.
pub struct Scan {
    rows: Rows,
    shared: Arc<Shared>,
    spec: Arc<ScanSpec>,
    next: Option<ScanPosition>,
    until: TxClock,
    _pin: Pin,
}

impl Cohort {
    /// Opens the replica: recovers Raft, applies what the log holds beyond the store, and becomes leader of a
    /// cohort of one. Returns when rows can be served.
    pub async fn open(log: GroupLog, rows: Rows, options: CohortOptions) -> Result<Cohort, CohortError> {
        let meta = rows.meta();
        let shared = Arc::new(Shared::new(options.wall.clone(), meta.ceiling));
        let machine = RowsMachine { rows: rows.clone(), run: options.run, shared: shared.clone() };
        // A cohort of one lives on the host that its store is named after.
        let me = Replica { store: StoreId(options.host), host: HostId(options.host) };
        let failing = shared.clone();
        let group_options = GroupOptions {
            me,
            group: GroupId(log.id()),
            peers: Arc::new(NoPeers),
            timing: Timing::default(),
            seed: options.run,
            checkpoint_log_bytes: options.checkpoint_log_bytes,
            throttle: None,
            suspend_clock: None,
            on_failure: Arc::new(move |failure: &Failure| match failure {
                Failure::Closed => {
                    failing.fail_quietly(CohortError::Closing);
                }
                failure => failing.fail(failure.clone().into()),
            }),
        };
        let opened = Group::open(log.clone(), Arc::new(machine), group_options).await;
        let group = opened.map_err(|e| shared.failure().unwrap_or_else(|| e.into()))?;
        group
            .initialise(&BTreeSet::from([me]))
            .await
            .map_err(|e| shared.failure().unwrap_or_else(|| e.into()))?;
        let term = lead(&group).await.map_err(|e| shared.failure().unwrap_or(e))?;
        tokio::spawn(follow_room(group.waits_for_room(), shared.clone()));
        let (requests, receiver) = mpsc::channel(options.waiting_max.max(1));
        let proposer = Proposer {
            shared: shared.clone(),
            group: group.clone(),
            term,
            log: log.clone(),
            room: options.room.clone(),
            sequencer: Sequencer::new(term, options.run, 1),
            in_flight: Arc::new(Semaphore::new(options.entries_in_flight_max.max(1))),
            entry_transactions: metrics::histogram!("skein_entry_transactions"),
            entries: metrics::counter!("skein_entries_total"),
        };
        tokio::spawn(proposer.run(receiver));
        let inner = Inner { shared, rows, group, requests, waiting_max: options.waiting_max };
        Ok(Cohort { inner: Arc::new(inner) })
    }

    /// The present: at or after every time issued, seen or promised.
    pub fn now(&self) -> TxClock {
        self.inner.shared.clock().now(self.inner.shared.wall())
    }

    /// Why this replica has stopped answering, if it has.
    pub fn failure(&self) -> Option<CohortError> {
        self.inner.shared.failure()
    }

    /// The rows, for statistics.
    pub fn rows(&self) -> &Rows {
        &self.inner.rows
    }

    /// Runs a transaction and answers when its outcome is durable.
    ///
    /// With `again` the transaction may have come here, or to another replica, before, or may yet come a second time:
    /// if it has an outcome, that is the answer, and whatever becomes of it is recorded. Without, only for IDs that a
    /// client chose.
    pub async fn write(
        &self,
        tx: Transaction,
        again: bool,
        deadline: Instant,
    ) -> Result<Outcome, CohortError> {
        let shared = &self.inner.shared;
        if let Some(refusal) = shared.refusal() {
            return Err(refusal);
        }
        if let Some(condition) = tx.condition {
            shared.clock().check_asked(shared.wall(), condition)?;
        }
        let fingerprint = if tx.id_from_client { fingerprint(&tx) } else { 0 };
        let depends = depends_on_rows(&tx);
        let tx = Arc::new(tx);
        loop {
            // The order matters: what is applied after this line may or may not be seen by the look-ups.
            let mut observed = Observed { sequence: shared.applied(), rows: Vec::new() };
            if (again || tx.id_from_client)
                && let Some(record) = self.inner.rows.tx(&tx.id).map_err(|e| self.rows_error(e))?
            {
                let outcome = recorded(&tx.id, record, tx.id_from_client.then_some(fingerprint))?;
                self.wait_visible(&outcome, &tx.id, deadline).await?;
                return Ok(outcome);
            }
            if depends {
                for op in &tx.ops {
                    let latest = self.inner.rows.latest(op.table, &op.key).map_err(|e| self.rows_error(e))?;
                    let time = self.latest_possible(latest.time, op.table, tx.condition);
                    observed.rows.push(Latest { time, live: latest.live });
                }
            }
            let (reply, answer) = oneshot::channel();
            self.submit(Request::Write { tx: tx.clone(), again, fingerprint, observed, reply })?;
            match self.answer(answer, deadline, &tx.id).await? {
                Reply::Done(outcome) => return Ok(outcome),
                Reply::LookAgain => continue,
                Reply::Failed(error) => return Err(error),
            }
        }
    }

    /// The time to hold against a condition: that of the row's newest version, but where the row has none there may
    /// have been a tombstone, up to the horizon, that is forgotten. Somebody who saw an older version (not: nothing, at
    /// time zero) has to be told that it is gone.
    fn latest_possible(&self, found: TxClock, table: TableId, condition: Option<TxClock>) -> TxClock {
        match condition {
            Some(condition) if found == TxClock::ZERO && condition != TxClock::ZERO => {
                self.inner.rows.horizon(table)
            }
            _ => found,
        }
    }

    /// What became of a transaction; if nothing was decided it is aborted now, for good.
    pub async fn tx_status(&self, id: TxId, deadline: Instant) -> Result<Outcome, CohortError> {
        loop {
            if let Some(refusal) = self.inner.shared.refusal() {
                return Err(refusal);
            }
            let observed = Observed { sequence: self.inner.shared.applied(), rows: Vec::new() };
            if let Some(record) = self.inner.rows.tx(&id).map_err(|e| self.rows_error(e))? {
                let outcome = recorded(&id, record, None)?;
                self.wait_visible(&outcome, &id, deadline).await?;
                return Ok(outcome);
            }
            let (reply, answer) = oneshot::channel();
            self.submit(Request::Resolve { id: id.clone(), observed, reply })?;
            match self.answer(answer, deadline, &id).await? {
                Reply::Done(outcome) => return Ok(outcome),
                Reply::LookAgain => continue,
                Reply::Failed(error) => return Err(error),
            }
        }
    }

    /// Reads a row at `at`, or at the present.
    pub async fn read(
        &self,
        table: TableId,
        key: &[u8],
        at: Option<TxClock>,
        deadline: Instant,
    ) -> Result<Read, CohortError> {
        loop {
            let read_time = self.read_time(at, deadline).await?;
            return match self.inner.rows.read(table, key, read_time).map_err(|e| self.rows_error(e)) {
                Ok(Some(version)) => Ok(Read { read_time, time: version.time, value: version.value }),
                Ok(None) => Ok(Read { read_time, time: TxClock::ZERO, value: None }),
                // The horizon passed what was the present when we looked at the clock.
                Err(CohortError::Gone { .. }) if at.is_none() && Instant::now() < deadline => continue,
                Err(error) => Err(error),
            };
        }
    }

    /// Begins a scan: settles its upper bound, and keeps the history at that time until the scan is dropped.
    pub async fn scan(&self, options: ScanOptions, deadline: Instant) -> Result<Scan, CohortError> {
        let (shared, rows) = (self.inner.shared.clone(), &self.inner.rows);
        let (until, pin) = loop {
            let until = self.read_time(options.until, deadline).await?;
            let own = rows.has_own_horizon(options.table);
            match shared.pins.pin(options.table, until, rows.horizon(options.table), own) {
                Ok(pin) => break (until, pin),
                Err(_) if options.until.is_none() && Instant::now() < deadline => continue,
                Err(oldest) => return Err(CohortError::Gone { oldest }),
            }
        };
        let window = Window { pick: options.pick, since: options.since, until };
        let spec = ScanSpec { table: options.table, window, slice: options.slice, end: options.end };
        Ok(Scan {
            rows: self.inner.rows.clone(),
            shared,
            spec: Arc::new(spec),
            next: Some(ScanPosition { key: options.key, time: options.time }),
            until,
            _pin: pin,
        })
    }

    /// Settles a time to read at: `at`, or the present. Everything at or before it is applied, and no write will ever
    /// get a time at or before it, whoever leads the cohort then.
    ///
    /// Errors: [`CohortError::FutureTime`] for a time too far ahead, [`CohortError::NotLeader`].
    pub async fn promise(&self, at: Option<TxClock>, deadline: Instant) -> Result<TxClock, CohortError> {
        self.read_time(at, deadline).await
    }

    /// The next rows of a scan at a fixed time, `spec.window.until`, from a position on, and where to go on; `None` at
    /// the end. A chunk may be empty and still have a successor.
    ///
    /// Remembers nothing but that the history at that time has to stay readable for [`KEPT_FOR`](crate::KEPT_FOR), so
    /// that whoever leads the cohort next can go on with the scan. Runs on the blocking pool, so that a long scan holds
    /// up no write.
    ///
    /// Errors: [`CohortError::Gone`] when the history at that time is no longer kept, [`CohortError::NotLeader`].
    pub async fn scan_chunk(
        &self,
        spec: ScanSpec,
        from: ScanPosition,
        budget: ChunkBudget,
        deadline: Instant,
    ) -> Result<(Vec<ScanRow>, Option<ScanPosition>), CohortError> {
        let until = self.read_time(Some(spec.window.until), deadline).await?;
        let rows = self.inner.rows.clone();
        let own = rows.has_own_horizon(spec.table);
        let pinned = self.inner.shared.pins.pin(spec.table, until, rows.horizon(spec.table), own);
        let pin = pinned.map_err(|oldest| CohortError::Gone { oldest })?;
        let chunk = tokio::task::spawn_blocking(move || {
            let mut out = Vec::new();
            rows.scan_chunk(&spec, &from, budget, &mut |row| out.push(row)).map(|next| (out, next))
        });
        let chunk = chunk.await.map_err(|e| damaged(format!("scan: {e}")))?;
        let (out, next) = chunk.map_err(|error| self.inner.shared.note(error))?;
        if next.is_some() {
            // With too many scans under way it goes on as long as no horizon happens to pass it.
            let _ = pin.keep(Instant::now());
        }
        Ok((out, next))
    }

    /// Raises the oldest readable times to what `retain` says, in steps of [`Retain::step_micros`], and returns whether any rose.
    ///
    /// `tables` are those with a retention of their own; all others follow the default. A horizon never falls, and
    /// never passes a scan under way.
    pub async fn raise_horizons(
        &self,
        tables: &BTreeMap<TableId, Retain>,
        deadline: Instant,
    ) -> Result<bool, CohortError> {
        let now = TxClock(self.inner.shared.wall());
        let rows = &self.inner.rows;
        let horizons = self.inner.shared.pins.intend(Instant::now(), |pinned| {
            let mut horizons = Vec::new();
            for (table, retain) in tables {
                let wanted = retain.oldest_readable(now).min(pinned);
                let present = rows.horizon(*table);
                let step = TxClock(present.0.saturating_add(retain.step_micros()));
                if step <= wanted || !rows.has_own_horizon(*table) {
                    horizons.push((Some(*table), wanted.max(present)));
                }
            }
            // The default last: a table with a longer retention has to have its own horizon before the default rises.
            let default = Retain::default().oldest_readable(now).min(pinned);
            if rows.default_horizon() < default {
                horizons.push((None, default));
            }
            horizons
        });
        if horizons.is_empty() {
            return Ok(false);
        }
        self.raise(TxClock::ZERO, horizons, deadline).await?;
        Ok(true)
    }

    /// Makes the store durable up to here, and has the log cut soon after.
    ///
    /// On an error other than damage everything is as it was, and the call may be repeated.
    pub async fn checkpoint(&self) -> Result<(), CohortError> {
        self.inner.group.checkpoint().await.map_err(CohortError::from)
    }

    /// Stops taking requests, waits at most `grace` for those under way, and leaves the store checkpointed.
    /// The log stays open; its owner closes it afterwards.
    pub async fn close(&self, grace: Duration) {
        self.inner.shared.begin_closing();
        let deadline = Instant::now() + grace;
        // A last entry: when it is applied, so is everything proposed before.
        if let Err(error) = self.raise(TxClock::ZERO, Vec::new(), deadline).await {
            tracing::warn!(%error, "closing without waiting for writes under way");
        }
        if let Err(error) = self.inner.group.checkpoint().await {
            tracing::warn!(%error, "closing without a checkpoint; the next start replays the log");
        }
        self.inner.group.close().await;
    }

    /// Log bytes that a restart would have to apply again.
    pub fn log_bytes_since_checkpoint(&self) -> u64 {
        self.inner.group.log_bytes_since_checkpoint()
    }

    /// A time at which everything at or before it is applied, and after which every later write lies.
    async fn read_time(&self, at: Option<TxClock>, deadline: Instant) -> Result<TxClock, CohortError> {
        let shared = &self.inner.shared;
        // A failed log stops writes only: what was acknowledged is in the store, and can still be read.
        if let Some(failure @ CohortError::Damaged { .. }) = shared.failure() {
            return Err(failure);
        }
        let mut settle = false;
        loop {
            let step = {
                let mut clock = shared.clock();
                match at {
                    None => clock.read_present(shared.wall(), settle),
                    Some(time) => {
                        clock.check_asked(shared.wall(), time)?;
                        clock.read_at(time)
                    }
                }
            };
            match step {
                ReadAt::Now(time) => return Ok(time),
                ReadAt::AfterEntry { time, sequence } => {
                    self.wait_applied(sequence, deadline).await?;
                    return Ok(time);
                }
                ReadAt::RaiseCeiling { time } => {
                    match (self.raise(time, Vec::new(), deadline).await, at) {
                        (Ok(()), _) => {}
                        // The present can be read a little in the past instead: reads go on when writes cannot.
                        (Err(_), None) => settle = true,
                        (Err(error), Some(_)) => return Err(error),
                    }
                }
            }
        }
    }

    async fn wait_applied(&self, sequence: u64, deadline: Instant) -> Result<(), CohortError> {
        let started = Instant::now();
        let mut applied = self.inner.shared.watch_applied();
        let shared = &self.inner.shared;
        let wait = applied.wait_for(|at| sequence <= *at || shared.failure().is_some());
        match tokio::time::timeout_at(deadline, wait).await {
            Ok(Ok(at)) if sequence <= *at => Ok(()),
            Ok(Ok(_) | Err(_)) => Err(shared.failure().unwrap_or(CohortError::Closing)),
            Err(_) => Err(CohortError::TimedOut { waited: started.elapsed() }),
        }
    }

    /// Waits until readers of the present see what an outcome found in the store tells of: the store has an entry a
    /// moment before they do.
    async fn wait_visible(&self, outcome: &Outcome, id: &TxId, deadline: Instant) -> Result<(), CohortError> {
        let time = match outcome {
            Outcome::Committed(time) | Outcome::Refused(Refusal::Stale { latest: time, .. }) => *time,
            // Only the oldest outstanding entry can be in the store already.
            Outcome::Refused(Refusal::Collision { .. }) => self.inner.shared.clock().oldest_outstanding(),
            Outcome::Aborted => return Ok(()),
        };
        let outstanding = self.inner.shared.clock().outstanding_at(time);
        let Some(sequence) = outstanding else { return Ok(()) };
        match self.wait_applied(sequence, deadline).await {
            Err(CohortError::TimedOut { .. }) => {
                let why = "the time ran out before it could be shown".to_owned();
                Err(CohortError::Unknown { id: id.clone(), why })
            }
            other => other,
        }
    }

    async fn raise(
        &self,
        floor: TxClock,
        horizons: Vec<(Option<TableId>, TxClock)>,
        deadline: Instant,
    ) -> Result<(), CohortError> {
        let started = Instant::now();
        let (reply, answer) = oneshot::channel();
        self.submit(Request::Raise { floor, horizons, reply })?;
        match tokio::time::timeout_at(deadline, answer).await {
            // Nobody asked for a transaction, so there is none to look up: say what stopped us.
            Ok(Ok(Reply::Failed(CohortError::Unknown { .. }))) | Err(_) => {
                Err(self.failure().unwrap_or(CohortError::TimedOut { waited: started.elapsed() }))
            }
            Ok(Ok(Reply::Failed(error))) => Err(error),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(CohortError::Closing),
        }
    }

    fn submit(&self, request: Request) -> Result<(), CohortError> {
        self.inner.requests.try_send(request).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => CohortError::Overloaded { waiting: self.inner.waiting_max },
            mpsc::error::TrySendError::Closed(_) => CohortError::Closing,
        })
    }

    async fn answer(
        &self,
        answer: oneshot::Receiver<Reply>,
        deadline: Instant,
        id: &TxId,
    ) -> Result<Reply, CohortError> {
        let why = match tokio::time::timeout_at(deadline, answer).await {
            Ok(Ok(reply)) => return Ok(reply),
            Ok(Err(_)) => "the replica stopped",
            Err(_) => "the time ran out while it was being written",
        };
        Err(CohortError::Unknown { id: id.clone(), why: why.into() })
    }

    fn rows_error(&self, error: skein_storage::rows::RowsError) -> CohortError {
        self.inner.shared.note(error)
    }
}

impl Scan {
    /// The settled upper bound.
    pub fn until(&self) -> TxClock {
        self.until
    }

    /// The next versions, at most about `budget`; empty only at the end. Runs on the blocking pool, so that a long
    /// scan holds up no write.
    pub async fn next(&mut self, budget: ChunkBudget) -> Result<Vec<ScanRow>, CohortError> {
        while let Some(from) = self.next.take() {
            let (rows, spec) = (self.rows.clone(), self.spec.clone());
            let chunk = skein_storage::blocking(move || {
                let mut out = Vec::new();
                rows.scan_chunk(&spec, &from, budget, &mut |row| out.push(row)).map(|next| (out, next))
            });
            let chunk = chunk.await.map_err(|e| damaged(format!("scan: {e}")))?;
            let (out, next) = chunk.map_err(|error| self.shared.note(error))?;
            self.next = next;
            if !out.is_empty() {
                return Ok(out);
            }
        }
        Ok(Vec::new())
    }
}

/// Waits until the only voter leads, which is when it has applied everything it had acknowledged before; returns its term.
async fn lead(group: &Group<RowsMachine>) -> Result<u64, CohortError> {
    let (mut role, mut failure) = (group.role(), group.watch_failure());
    // No limit: replaying is progress, and a failure ends the wait.
    tokio::select! {
        biased;
        _ = failure.wait_for(Option::is_some) => {}
        leading = role.wait_for(|role| role.leading) => {
            if let Ok(role) = leading {
                return Ok(role.term);
            }
        }
    }
    Err(group.failure().map_or(CohortError::Closing, CohortError::from))
}

/// Tells the cohort when an entry waits for room in the store.
async fn follow_room(mut room: tokio::sync::watch::Receiver<Option<String>>, shared: Arc<Shared>) {
    while room.changed().await.is_ok() {
        shared.set_store_full(room.borrow_and_update().clone());
    }
}

fn damaged(error: impl std::fmt::Display) -> CohortError {
    CohortError::Damaged { detail: error.to_string() }
}
