//! The cohort as its users see it: read, write, scan, ask.

use crate::clock::ReadAt;
use crate::entry::Outcome;
use crate::error::CohortError;
use crate::group::{
    Failure, Group, GroupError, GroupOptions, GroupStatus, Reconcile, Role, SuspendClock, Throttle, Timing,
};
use crate::life::Beginning;
use crate::peers::{PeerError, Peers, Replica};
use crate::pins::{KEPT_FOR, Pin};
use crate::proposer::{Proposer, Request, Room, Ruling, Wish, reads_alone};
use crate::recorded::{fingerprint, recorded};
use crate::rows_machine::RowsMachine;
use crate::sequencer::{Latest, Observed, depends_on_rows};
use crate::shared::{Reign, Reply, Shared, WallClock};
use bytes::Bytes;
use futures_util::stream::BoxStream;
use skein_model::{
    GroupId, HostId, LifeId, Pick, Refusal, Retain, Slice, StoreId, TableId, Transaction, TxClock, TxId,
    Value, Window,
};
use skein_storage::blocking;
use skein_storage::drives::Drives;
use skein_storage::log::GroupLog;
use skein_storage::rows::{ChunkBudget, Digest, Rows, ScanPosition, ScanRow, ScanSpec};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

/// How long a replica whose lease has run out asks the others whether it still leads, before it sends readers elsewhere.
const CONFIRM_WITHIN: Duration = Duration::from_secs(1);
/// Between two looks at whether the lease is back.
const CONFIRM_PAUSE: Duration = Duration::from_millis(5);

/// How a cohort is run.
#[derive(Clone)]
pub struct CohortOptions {
    /// The group that replicates the cohort.
    pub group: GroupId,
    /// This replica.
    pub me: Replica,
    /// Whether the group begins with this directory, whether or not it has begun: then its replica needs no ID that was drawn.
    pub founder: bool,
    /// The group's part of the log.
    pub log: GroupLog,
    /// Where the rows are.
    pub drives: Arc<dyn Drives>,
    /// The other replicas.
    pub peers: Arc<dyn Peers>,
    /// Heartbeats and elections.
    pub timing: Timing,
    /// When heartbeats leave; see [`GroupOptions::beats_from`].
    pub beats_from: Instant,
    /// Slows down the snapshots that this replica sends; `None` for as fast as they are taken.
    pub throttle: Option<Arc<dyn Throttle>>,
    /// Tells how long the machine has been suspended; `None` where that cannot be.
    pub suspend_clock: Option<SuspendClock>,
    /// Differs from every value ever given before, here and elsewhere: recognises this run's own entries. All the replica's luck.
    pub run: u64,
    /// Microseconds since the Unix epoch.
    pub wall: WallClock,
    /// Says whether the disk has room for more writes.
    pub room: Room,
    /// Entries proposed and not yet applied, at most.
    pub entries_in_flight_max: usize,
    /// So many requests have to wait before an entry is proposed while others are in flight, unless the last one was full. Fewer
    /// spare a request half a round trip; more make larger entries, whose cost is shared by all in them. 1: always at once.
    pub pipeline_from: usize,
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
    group: Group<RowsMachine>,
    drives: Arc<dyn Drives>,
    log: GroupLog,
    id: GroupId,
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

/// A time to read at, and whose wish that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// The present.
    Present,
    /// A client's wish, which must not push the clock far ahead.
    Asked(TxClock),
    /// Settled by a leader, whose clock may be far from this one's.
    Promised(TxClock),
}

impl At {
    fn asked(at: Option<TxClock>) -> At {
        at.map_or(At::Present, At::Asked)
    }
}

impl Cohort {
    /// Opens the replica: its store, and Raft, which applies what the log is known to hold beyond it.
    ///
    /// Returns while the cohort may still be without a leader; a new replica waits to be [initialised](Cohort::initialise) or
    /// to be added by a leader.
    ///
    /// Errors: what keeps the replica from running; nothing runs then.
    pub async fn open(options: CohortOptions) -> Result<Cohort, CohortError> {
        let (drives, id) = (options.drives.clone(), options.group);
        let life = Beginning {
            drives: &options.drives,
            group: id,
            log: &options.log,
            store: options.me.store,
            founder: options.founder,
            drawn: LifeId(mixed(options.run)),
        };
        let life = life.live().await?;
        let opened = blocking(move || -> Result<Rows, CohortError> { Ok(Rows::open(drives.open(id)?)?) });
        let rows = opened.await.map_err(|e| CohortError::DiskFailed { detail: e.to_string() })??;
        let shared = Arc::new(Shared::new(options.wall.clone(), rows));
        let machine = RowsMachine::open(id, options.run, options.drives.clone(), shared.clone())?;
        let failing = shared.clone();
        let group_options = GroupOptions {
            me: options.me,
            life,
            group: id,
            peers: options.peers.clone(),
            timing: options.timing,
            beats_from: options.beats_from,
            seed: options.run,
            checkpoint_log_bytes: options.checkpoint_log_bytes,
            throttle: options.throttle.clone(),
            suspend_clock: options.suspend_clock.clone(),
            on_failure: Arc::new(move |failure: &Failure| match failure {
                Failure::Closed => {
                    failing.fail_quietly(CohortError::Closing);
                }
                failure => failing.fail(failure.clone().into()),
            }),
        };
        let opened = Group::open(options.log.clone(), Arc::new(machine), group_options).await;
        let group = opened.map_err(|e| shared.failure().unwrap_or_else(|| e.into()))?;
        tokio::spawn(follow_room(group.waits_for_room(), shared.clone()));
        let (requests, receiver) = mpsc::channel(options.waiting_max.max(1));
        let proposer = Proposer {
            shared: shared.clone(),
            group: group.clone(),
            role: group.role(),
            log: options.log.clone(),
            room: options.room.clone(),
            run: options.run,
            in_flight_max: options.entries_in_flight_max.max(1),
            pipeline_from: options.pipeline_from,
            throttle: options.throttle.clone(),
            ruling: Ruling::new(),
            entry_transactions: metrics::histogram!("skein_entry_transactions"),
            entries: metrics::counter!("skein_entries_total"),
        };
        tokio::spawn(proposer.run(receiver));
        let CohortOptions { drives, log, waiting_max, .. } = options;
        let inner = Inner { shared, group, drives, log, id, requests, waiting_max };
        Ok(Cohort { inner: Arc::new(inner) })
    }

    /// The life of this replica.
    pub fn life(&self) -> LifeId {
        self.inner.group.life()
    }

    /// Says whether this replica stays; see [`Group::retire`]. One that is to be removed retires before it asks for
    /// leave with [`crate::group::may_end`].
    pub fn retire(&self, on: bool) {
        self.inner.group.retire(on);
    }

    /// Makes these replicas the cohort's first members. All of them may be told, each with the same set; a replica that has
    /// been told before, or was added to a cohort, keeps the members it has.
    pub async fn initialise(&self, members: &BTreeSet<Replica>) -> Result<(), CohortError> {
        self.inner.group.initialise(members).await.map_err(|error| self.group_error(error))
    }

    /// Returns once this replica leads and serves rows; or says why it has stopped.
    pub async fn leads(&self) -> Result<(), CohortError> {
        let shared = &self.inner.shared;
        let mut changes = shared.watch_applied();
        let done = changes.wait_for(|_| shared.failure().is_some() || shared.seat().reign.is_some());
        let stopped = done.await.is_err();
        match shared.failure() {
            Some(failure) => Err(failure),
            None if stopped => Err(CohortError::Closing),
            None => Ok(()),
        }
    }

    /// Who leads the cohort, and in which term, as far as is known here; changes can be waited for.
    pub fn leader(&self) -> watch::Receiver<Role> {
        self.inner.group.role()
    }

    /// The members, who of them lags by how much, and how snapshots are getting on.
    pub fn status(&self) -> GroupStatus {
        self.inner.group.status()
    }

    /// Takes one step towards having exactly these members; see [`Group::reconcile`].
    pub async fn reconcile(&self, wanted: &BTreeSet<Replica>) -> Result<Reconcile, CohortError> {
        self.inner.group.reconcile(wanted).await.map_err(|error| self.group_error(error))
    }

    /// Hands leadership over to a member; see [`Group::transfer`].
    pub async fn transfer(&self, to: StoreId) -> Result<(), CohortError> {
        self.inner.group.transfer(to).await.map_err(|error| self.group_error(error))
    }

    /// The host can be reached again; see [`Group::peer_up`].
    pub async fn peer_up(&self, host: HostId) {
        self.inner.group.peer_up(host).await;
    }

    /// The answer to a message that another replica sent with [`Peers::call`].
    pub async fn receive(&self, from: Replica, body: Bytes) -> Result<Bytes, GroupError> {
        self.inner.group.receive(from, body).await
    }

    /// The other end of [`Peers::fetch`].
    pub fn serve(&self, from: Replica, body: Bytes) -> BoxStream<'static, Result<Bytes, PeerError>> {
        self.inner.group.serve(from, body)
    }

    /// The present: at or after every time issued or promised here.
    pub fn now(&self) -> TxClock {
        self.inner.shared.seat().clock.now(self.inner.shared.wall())
    }

    /// Why this replica has stopped answering, if it has.
    pub fn failure(&self) -> Option<CohortError> {
        self.inner.shared.failure()
    }

    /// The rows as this replica has them, for statistics.
    pub fn rows(&self) -> Rows {
        self.inner.shared.rows()
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
        let fingerprint = if tx.id_from_client { fingerprint(&tx) } else { 0 };
        let depends = depends_on_rows(&tx);
        let mut again = again;
        let mut first = None;
        let tx = Arc::new(tx);
        loop {
            let (reign, rows, mut observed) = self.observe(tx.condition)?;
            if *first.get_or_insert(reign.first) != reign.first {
                // Since it came, somebody else may have led, and have been asked the same.
                return Err(CohortError::NotLeader { leader: self.inner.shared.seat().leader });
            }
            let recorded_always = again || tx.id_from_client;
            if recorded_always && let Some(record) = rows.tx(&tx.id).map_err(|e| self.rows_error(e))? {
                let outcome = recorded(&tx.id, record, tx.id_from_client.then_some(fingerprint))?;
                self.wait_visible(&reign, &outcome, &tx.id, deadline).await?;
                return Ok(outcome);
            }
            if depends {
                for op in &tx.ops {
                    let latest = rows.latest(op.table, &op.key).map_err(|e| self.rows_error(e))?;
                    let time = latest_possible(&rows, latest.time, op.table, tx.condition);
                    observed.rows.push(Latest { time, live: latest.live });
                }
            }
            let (reply, answer) = oneshot::channel();
            let wish = Wish::Write { tx: tx.clone(), again, fingerprint, observed };
            self.submit(Request { first: reign.first, wish, reply })?;
            match self.answer(answer, deadline, &tx.id).await? {
                // A refusal that is not written down is only as true as the rows it was judged by are the newest.
                Reply::Done(outcome @ Outcome::Refused(_)) if !recorded_always => {
                    self.confirm(&reign, deadline).await?;
                    return Ok(outcome);
                }
                Reply::Done(outcome) => return Ok(outcome),
                // It took a while: the same may have come a second time, and be done.
                Reply::LookAgain => again = true,
                Reply::Failed(error) => return Err(error),
            }
        }
    }

    /// What a look-up needs to begin: the reign it is for, the rows, and how far they are at least.
    fn observe(&self, condition: Option<TxClock>) -> Result<(Reign, Rows, Observed), CohortError> {
        let shared = &self.inner.shared;
        if let Some(refusal) = shared.refusal() {
            return Err(self.elsewhere(refusal));
        }
        // The order matters: what is applied after this line may or may not be seen by the look-ups.
        let observed = Observed { sequence: shared.applied(), rows: Vec::new() };
        let seat = shared.seat();
        let reign = seat.reign()?;
        if let Some(condition) = condition {
            seat.clock.check_asked(shared.wall(), condition)?;
        }
        Ok((reign, seat.rows.clone(), observed))
    }

    /// The error, unless other members may do what this one cannot any more.
    fn elsewhere(&self, error: CohortError) -> CohortError {
        if !error.is_fatal() || reads_alone(&self.inner.shared, &self.inner.group) {
            return error;
        }
        let me = self.inner.group.me();
        CohortError::NotLeader { leader: self.inner.shared.seat().leader.filter(|leader| *leader != me) }
    }

    /// What became of a transaction; if nothing was decided it is aborted now, for good.
    pub async fn tx_status(&self, id: TxId, deadline: Instant) -> Result<Outcome, CohortError> {
        loop {
            let (reign, rows, observed) = self.observe(None)?;
            if let Some(record) = rows.tx(&id).map_err(|e| self.rows_error(e))? {
                let outcome = recorded(&id, record, None)?;
                self.wait_visible(&reign, &outcome, &id, deadline).await?;
                return Ok(outcome);
            }
            let (reply, answer) = oneshot::channel();
            let wish = Wish::Resolve { id: id.clone(), observed };
            self.submit(Request { first: reign.first, wish, reply })?;
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
            let (read_time, rows) = self.read_time(At::asked(at), deadline).await?;
            return match rows.read(table, key, read_time).map_err(|e| self.rows_error(e)) {
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
        let shared = self.inner.shared.clone();
        let (until, rows, pin) = loop {
            let (until, rows) = self.read_time(At::asked(options.until), deadline).await?;
            let own = rows.has_own_horizon(options.table);
            match shared.pins.pin(options.table, until, rows.horizon(options.table), own) {
                Ok(pin) => break (until, rows, pin),
                Err(_) if options.until.is_none() && Instant::now() < deadline => continue,
                Err(oldest) => return Err(CohortError::Gone { oldest }),
            }
        };
        let window = Window { pick: options.pick, since: options.since, until };
        let spec = ScanSpec { table: options.table, window, slice: options.slice, end: options.end };
        Ok(Scan {
            rows,
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
        Ok(self.read_time(At::asked(at), deadline).await?.0)
    }

    /// The next rows of a scan at a fixed time, `spec.window.until`, from a position on, and where to go on; `None` at
    /// the end. A chunk may be empty and still have a successor.
    ///
    /// Remembers nothing but that the history at that time has to stay readable for [`KEPT_FOR`], so
    /// that whoever leads the cohort next can go on with the scan. Runs on the blocking pool, so that a long scan holds
    /// up no write.
    ///
    /// The time is one that a leader settled with [`Cohort::promise`], of this cohort or of another one in the same scan. How far
    /// it lies ahead of this machine's wall clock does not matter, then: clocks may differ, and the lead carries over.
    ///
    /// Errors: [`CohortError::Gone`] when the history at that time is no longer kept, [`CohortError::NotLeader`].
    pub async fn scan_chunk(
        &self,
        spec: ScanSpec,
        from: ScanPosition,
        budget: ChunkBudget,
        deadline: Instant,
    ) -> Result<(Vec<ScanRow>, Option<ScanPosition>), CohortError> {
        let (until, rows) = self.read_time(At::Promised(spec.window.until), deadline).await?;
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
    /// never passes a scan under way. Scans that began under an earlier leader are not known here until they go on,
    /// so a new leader raises nothing for as long as it would have kept their history: [`KEPT_FOR`].
    pub async fn raise_horizons(
        &self,
        tables: &BTreeMap<TableId, Retain>,
        deadline: Instant,
    ) -> Result<bool, CohortError> {
        let (reign, rows, _) = self.observe(None)?;
        if !reign.founding && reign.since.elapsed() < KEPT_FOR {
            return Ok(false);
        }
        let now = TxClock(self.inner.shared.wall());
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
        self.raise(&reign, TxClock::ZERO, horizons, deadline).await?;
        Ok(true)
    }

    /// Makes the store durable up to here, and has the log cut soon after.
    ///
    /// On an error other than damage everything is as it was, and the call may be repeated.
    pub async fn checkpoint(&self) -> Result<(), CohortError> {
        self.inner.group.checkpoint().await.map_err(CohortError::from)
    }

    /// Stops taking requests, waits at most `grace` for those under way, and leaves the store checkpointed.
    /// The log stays open; its owner closes it afterwards. Who leads hands over before, if that is to be quick.
    pub async fn close(&self, grace: Duration) {
        self.inner.shared.begin_closing();
        let deadline = Instant::now() + grace;
        let reign = self.inner.shared.seat().reign;
        if let Some(reign) = reign {
            // A last entry: when it is applied, so is everything proposed before.
            match self.raise(&reign, TxClock::ZERO, Vec::new(), deadline).await {
                Ok(()) | Err(CohortError::NotLeader { .. }) => {}
                Err(error) => tracing::warn!(%error, "closing without waiting for writes under way"),
            }
        }
        if let Err(error) = self.checkpoint().await {
            tracing::warn!(%error, "closing without a checkpoint; the next start replays the log");
        }
        self.inner.group.close().await;
    }

    /// Stops the replica at once and deletes all it has: its life ends, and its store and its part of the log go. The caller has
    /// made sure that the cohort does not count on it any more.
    ///
    /// Errors: what could not be deleted; call it, or [`crate::remove_replica`], again then.
    pub async fn remove(&self) -> Result<(), CohortError> {
        self.inner.shared.begin_closing();
        self.inner.group.close().await;
        crate::life::remove_replica(self.inner.drives.clone(), self.inner.id, &self.inner.log).await
    }

    /// A fingerprint of the rows, equal on replicas that have applied the same. Reads the whole store.
    pub async fn digest(&self) -> Result<Digest, CohortError> {
        let rows = self.rows();
        let digest = blocking(move || rows.digest()).await;
        Ok(digest.map_err(|e| CohortError::DiskFailed { detail: e.to_string() })??)
    }

    /// Log bytes that a restart would have to apply again.
    pub fn log_bytes_since_checkpoint(&self) -> u64 {
        self.inner.group.log_bytes_since_checkpoint()
    }

    /// A time at which everything at or before it is applied, and after which every later write lies, whoever leads then;
    /// and the rows to look at.
    async fn read_time(&self, at: At, deadline: Instant) -> Result<(TxClock, Rows), CohortError> {
        let shared = &self.inner.shared;
        let mut settle = false;
        loop {
            // A failed log stops writes only: what was acknowledged is in the store, and can still be read.
            if let Some(failure @ CohortError::Damaged { .. }) = shared.failure() {
                return Err(self.elsewhere(failure));
            }
            let (step, reign, rows) = {
                let mut seat = shared.seat();
                let reign = seat.reign()?;
                let step = match at {
                    At::Present => seat.clock.read_present(shared.wall(), settle),
                    At::Asked(time) => {
                        seat.clock.check_asked(shared.wall(), time)?;
                        seat.clock.read_at(time)
                    }
                    At::Promised(time) => seat.clock.read_at(time),
                };
                (step, reign, seat.rows.clone())
            };
            match step {
                ReadAt::Now(time) => {
                    if at == At::Present {
                        self.confirm(&reign, deadline).await?;
                    }
                    return Ok((time, rows));
                }
                ReadAt::AfterEntry { time, sequence } => {
                    self.wait_applied(&reign, sequence, deadline).await?;
                    return Ok((time, rows));
                }
                ReadAt::RaiseCeiling { time } => {
                    if at == At::Present {
                        self.confirm(&reign, deadline).await?;
                    }
                    match (self.raise(&reign, time, Vec::new(), deadline).await, at) {
                        (Ok(()), _) => {}
                        (Err(error @ CohortError::NotLeader { .. }), _) => return Err(error),
                        // The present can be read a little in the past instead: reads go on when writes cannot.
                        (Err(_), At::Present) => settle = true,
                        (Err(error), At::Asked(_) | At::Promised(_)) => return Err(error),
                    }
                }
            }
        }
    }

    /// Makes sure that nobody had led a later term at some moment since the caller took its time to read at.
    async fn confirm(&self, reign: &Reign, deadline: Instant) -> Result<(), CohortError> {
        if self.inner.group.lease_valid(reign.term) {
            return Ok(());
        }
        self.confirm_by_asking(reign, deadline).await
    }

    /// As [`Cohort::confirm`], without a lease to go by: asks the other members, who thereby renew it.
    async fn confirm_by_asking(&self, reign: &Reign, deadline: Instant) -> Result<(), CohortError> {
        let (shared, group) = (&self.inner.shared, &self.inner.group);
        let deadline = deadline.min(Instant::now() + CONFIRM_WITHIN);
        while shared.reigns(reign) {
            if reads_alone(shared, group) {
                return Ok(());
            }
            match tokio::time::timeout_at(deadline, group.read_barrier()).await {
                Ok(Ok(())) if group.lease_valid(reign.term) => return Ok(()),
                // Leadership is being handed over, or the lease ran out again.
                Ok(Ok(())) if Instant::now() < deadline => tokio::time::sleep(CONFIRM_PAUSE).await,
                Ok(Err(GroupError::NotLeader { leader })) => return Err(CohortError::NotLeader { leader }),
                Ok(Err(GroupError::Stopped(_))) if reads_alone(shared, group) => return Ok(()),
                // Others may have elected somebody whom we cannot hear.
                Ok(_) | Err(_) => return Err(CohortError::NotLeader { leader: None }),
            }
        }
        Err(CohortError::NotLeader { leader: shared.seat().leader })
    }

    async fn wait_applied(&self, reign: &Reign, sequence: u64, deadline: Instant) -> Result<(), CohortError> {
        let started = Instant::now();
        let shared = &self.inner.shared;
        let mut applied = shared.watch_applied();
        let wait =
            applied.wait_for(|at| sequence <= *at || shared.failure().is_some() || !shared.reigns(reign));
        match tokio::time::timeout_at(deadline, wait).await {
            Ok(Ok(at)) if sequence <= *at => Ok(()),
            Ok(Ok(_) | Err(_)) => {
                let leader = shared.seat().leader;
                Err(shared.failure().map_or(CohortError::NotLeader { leader }, |e| self.elsewhere(e)))
            }
            Err(_) => Err(CohortError::TimedOut { waited: started.elapsed() }),
        }
    }

    /// Waits until readers of the present see what an outcome found in the store tells of: the store has an entry a
    /// moment before they do.
    async fn wait_visible(
        &self,
        reign: &Reign,
        outcome: &Outcome,
        id: &TxId,
        deadline: Instant,
    ) -> Result<(), CohortError> {
        let outstanding = {
            let seat = self.inner.shared.seat();
            let time = match outcome {
                Outcome::Committed(time) | Outcome::Refused(Refusal::Stale { latest: time, .. }) => *time,
                // Only the oldest outstanding entry can be in the store already.
                Outcome::Refused(Refusal::Collision { .. }) => seat.clock.oldest_outstanding(),
                Outcome::Aborted => return Ok(()),
            };
            seat.clock.outstanding_at(time)
        };
        let Some(sequence) = outstanding else { return Ok(()) };
        match self.wait_applied(reign, sequence, deadline).await {
            Err(CohortError::TimedOut { .. }) => {
                let why = "the time ran out before it could be shown".to_owned();
                Err(CohortError::Unknown { id: id.clone(), why })
            }
            other => other,
        }
    }

    async fn raise(
        &self,
        reign: &Reign,
        floor: TxClock,
        horizons: Vec<(Option<TableId>, TxClock)>,
        deadline: Instant,
    ) -> Result<(), CohortError> {
        let started = Instant::now();
        let (reply, answer) = oneshot::channel();
        self.submit(Request { first: reign.first, wish: Wish::Raise { floor, horizons }, reply })?;
        match tokio::time::timeout_at(deadline, answer).await {
            // Nobody asked for a transaction, so there is none to look up: say what stopped us.
            Ok(Ok(Reply::Failed(CohortError::Unknown { .. }))) => {
                let leader = self.inner.shared.seat().leader;
                Err(self.failure().unwrap_or(CohortError::NotLeader { leader }))
            }
            Err(_) => Err(self.failure().unwrap_or(CohortError::TimedOut { waited: started.elapsed() })),
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

    fn group_error(&self, error: GroupError) -> CohortError {
        match error {
            GroupError::NotLeader { leader } => CohortError::NotLeader { leader },
            GroupError::Stopped(failure) => self.failure().unwrap_or_else(|| failure.into()),
            other => CohortError::Members { detail: other.to_string() },
        }
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
            let chunk = blocking(move || {
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

/// The time to hold against a condition: that of the row's newest version, but where the row has none there may
/// have been a tombstone, up to the horizon, that is forgotten. Somebody who saw an older version (not: nothing, at
/// time zero) has to be told that it is gone.
fn latest_possible(rows: &Rows, found: TxClock, table: TableId, condition: Option<TxClock>) -> TxClock {
    match condition {
        Some(condition) if found == TxClock::ZERO && condition != TxClock::ZERO => rows.horizon(table),
        _ => found,
    }
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

/// A number that is as unlike others of its kind as `n` is, and unlike `n` (SplitMix64's finaliser, Steele et al. 2014).
fn mixed(n: u64) -> u64 {
    let z = n.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
