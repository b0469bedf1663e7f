//! The shell around the sequencer: one task that takes all requests that have arrived, has them judged, and
//! proposes what was decided as one Raft entry while earlier entries are still being written.
//!
//! The same task begins and ends the reigns, so that no entry is ever built across their boundaries. A reign ends when
//! leadership does, and also when one of its entries was refused: those after it may rest on it. It may begin
//! again in the same term, once the fate of every entry of it is known.

use crate::entry::EntryReign;
use crate::error::CohortError;
use crate::group::{Fate, Group, Role, Throttle};
use crate::rows_machine::RowsMachine;
use crate::sequencer::{Observed, Sequencer, Verdict};
use crate::shared::{Reply, Shared, Waiter};
use bytes::Bytes;
use metrics::{Counter, Histogram};
use skein_model::{TableId, Transaction, TxClock, TxId};
use skein_storage::log::{GroupLog, Reservation};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;

/// How long the waiters of a reign that ended wait to see whether their entries come through after all.
const GRACE: Duration = Duration::from_millis(500);
/// An entry does not grow beyond this many bytes, even while more requests wait, unless a single transaction does.
const ENTRY_BYTES_MAX: usize = 4 << 20;
/// Requests taken at a time.
const TAKE_MAX: usize = 4096;

/// Something for the sequencer to do, in the reign it was brought in: by the next one, somebody else may have done it. Each
/// reply comes once the answer is durable.
pub(crate) struct Request {
    /// The reign, by the sequence of its first entry.
    pub(crate) first: u64,
    pub(crate) wish: Wish,
    pub(crate) reply: oneshot::Sender<Reply>,
}

pub(crate) enum Wish {
    Write {
        tx: Arc<Transaction>,
        /// It may have come before, or may come again.
        again: bool,
        fingerprint: u64,
        observed: Observed,
    },
    Resolve {
        id: TxId,
        observed: Observed,
    },
    /// Raise the ceiling above a time, or horizons, or both.
    Raise {
        floor: TxClock,
        horizons: Vec<(Option<TableId>, TxClock)>,
    },
}

impl Request {
    /// At least as many bytes as the request adds to an entry, the entry's own share included.
    fn bytes(&self) -> usize {
        match &self.wish {
            Wish::Write { tx, .. } => transaction_bytes(tx),
            Wish::Resolve { .. } => 256,
            Wish::Raise { horizons, .. } => 256 + 17 * horizons.len(),
        }
    }
}

/// Says whether the disk has room for more, and if not, why.
pub type Room = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

pub(crate) struct Proposer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) group: Group<RowsMachine>,
    pub(crate) role: watch::Receiver<Role>,
    pub(crate) log: GroupLog,
    pub(crate) room: Room,
    /// See [`crate::entry::Entry::proposer`].
    pub(crate) run: u64,
    pub(crate) in_flight_max: usize,
    /// See [`CohortOptions::pipeline_from`](crate::CohortOptions::pipeline_from).
    pub(crate) pipeline_from: usize,
    /// Told how long entries take.
    pub(crate) throttle: Option<Arc<dyn Throttle>>,
    pub(crate) ruling: Ruling,
    pub(crate) entry_transactions: Histogram,
    pub(crate) entries: Counter,
}

/// What the proposer is about.
pub(crate) struct Ruling {
    /// The reign, while there is one.
    reign: Option<OwnReign>,
    /// The last reign of the present term, while the fate of its entries is not known.
    settling: Option<OwnReign>,
    /// The last sequence used.
    last: u64,
    /// When to stop waiting for the entries of reigns that ended, and up to which.
    give_up: Option<(Instant, u64)>,
    /// Rung when an entry was refused, and when the last entry of a reign that ended is settled.
    news: Arc<Notify>,
}

struct OwnReign {
    term: u64,
    sequencer: Sequencer,
    in_flight: Arc<Semaphore>,
    /// An entry was refused.
    broken: Arc<AtomicBool>,
}

impl Ruling {
    pub(crate) fn new() -> Ruling {
        Ruling { reign: None, settling: None, last: 0, give_up: None, news: Arc::new(Notify::new()) }
    }
}

/// Waiters of the entry being built.
#[derive(Default)]
struct Building {
    waiters: Vec<Waiter>,
    floor: TxClock,
    /// Room in the log for all that was decided.
    room: Vec<Reservation>,
}

/// What came of asking for leave to propose.
enum Leave {
    Given(OwnedSemaphorePermit),
    /// Entries in flight wait for room in the store, which may take any time.
    StoreFull,
    /// The reign may be over.
    Look,
}

impl Proposer {
    pub(crate) async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        let mut arrived = Vec::new();
        let mut taken: VecDeque<Request> = VecDeque::new();
        // Whether the last entry left some behind because it was full.
        let mut left_over = false;
        loop {
            self.follow();
            if taken.is_empty() {
                let give_up = self.ruling.give_up.map(|(at, _)| at);
                let news = self.ruling.news.clone();
                tokio::select! {
                    biased;
                    changed = self.role.changed() => if changed.is_err() {
                        // The group is gone, and with it every chance to propose.
                        return self.end(&mut requests).await;
                    },
                    () = news.notified() => {}
                    () = at(give_up) => {}
                    n = requests.recv_many(&mut arrived, TAKE_MAX) => if n == 0 { return },
                }
                taken.extend(arrived.drain(..));
                if taken.is_empty() {
                    continue;
                }
            }
            // The first of many wakes us: those who are ready to ask, too, go first, so that they share the entry.
            tokio::task::yield_now().await;
            // A reign may have begun or ended while we waited for the request.
            self.follow();
            let Some(reign) = &self.ruling.reign else {
                taken.drain(..).for_each(|request| self.refuse_without_reign(request));
                continue;
            };
            let crowd = left_over || self.pipeline_from <= taken.len() + requests.len();
            let permit = match self.leave(reign.in_flight.clone(), crowd).await {
                Leave::Given(permit) => permit,
                Leave::Look => continue,
                Leave::StoreFull => {
                    taken.drain(..).for_each(|request| self.refuse_for_the_store(request));
                    continue;
                }
            };
            // More may have arrived while earlier entries were being written: they share this entry.
            while taken.len() < TAKE_MAX
                && let Ok(request) = requests.try_recv()
            {
                taken.push_back(request);
            }
            self.build(&mut taken, permit).await;
            left_over = !taken.is_empty();
        }
    }

    /// Refuses everything until nobody asks any more.
    async fn end(&mut self, requests: &mut mpsc::Receiver<Request>) {
        self.ruling.reign = None;
        if !reads_alone(&self.shared, &self.group) {
            self.shared.end_reign(None);
        }
        self.shared.give_up(self.ruling.last, "the replica stopped");
        while let Some(request) = requests.recv().await {
            self.refuse_without_reign(request);
        }
    }

    /// Begins or ends a reign as the group's role says, and stops waiting for what takes too long.
    fn follow(&mut self) {
        let role = *self.role.borrow_and_update();
        let over = self.ruling.reign.as_ref().is_some_and(|reign| {
            let lost = !role.leading || role.term != reign.term;
            // The only member that stopped writing is still the only one that knows: it goes on answering reads.
            (lost && !reads_alone(&self.shared, &self.group)) || reign.broken.load(Ordering::Acquire)
        });
        if over && let Some(reign) = self.ruling.reign.take() {
            // Its reports ring from now on.
            reign.broken.store(true, Ordering::Release);
            self.ruling.settling = Some(reign);
            self.ruling.give_up = Some((Instant::now() + GRACE, self.ruling.last));
            self.shared.end_reign(role.leader);
        }
        if self.ruling.reign.is_none() && role.leading {
            let max = self.in_flight_max;
            let settling = self.ruling.settling.take_if(|reign| {
                // Everything of earlier terms is settled: an entry of this term is applied.
                reign.term != role.term || max <= reign.in_flight.available_permits()
            });
            drop(settling);
            if self.ruling.settling.is_none() {
                self.begin(role);
            }
        }
        if self.ruling.reign.is_none() {
            self.shared.seat().leader = role.leader;
        }
        if let Some((at, last)) = self.ruling.give_up
            && at <= Instant::now()
        {
            self.ruling.give_up = None;
            self.shared.give_up(last, "this replica lost the leadership before it was written");
        }
    }

    fn begin(&mut self, role: Role) {
        let first = self.ruling.last + 2;
        self.ruling.last = first;
        let reign = EntryReign { term: role.term, first };
        self.shared.begin_reign(role.term, first, role.leader, Instant::now());
        self.ruling.reign = Some(OwnReign {
            term: role.term,
            sequencer: Sequencer::new(reign, self.run),
            in_flight: Arc::new(Semaphore::new(self.in_flight_max)),
            broken: Arc::new(AtomicBool::new(false)),
        });
    }

    /// Leave to propose an entry: beside those in flight for a crowd, else when they have landed. What an entry costs, on all
    /// replicas, hardly depends on how much is in it, so those who come meanwhile share the next.
    async fn leave(&mut self, in_flight: Arc<Semaphore>, crowd: bool) -> Leave {
        let max = u32::try_from(self.in_flight_max).unwrap_or(u32::MAX);
        let wanted = if crowd { 1 } else { max };
        // All of them were waited for; one is kept.
        let one = |mut permit: OwnedSemaphorePermit| permit.split(1).map_or(Leave::Look, Leave::Given);
        if let Ok(permit) = in_flight.clone().try_acquire_many_owned(wanted) {
            return one(permit);
        }
        let give_up = self.ruling.give_up.map(|(at, _)| at);
        tokio::select! {
            biased;
            permit = in_flight.acquire_many_owned(wanted) => permit.map_or(Leave::Look, one),
            _ = self.role.changed() => Leave::Look,
            () = self.ruling.news.notified() => Leave::Look,
            () = at(give_up) => Leave::Look,
            () = self.shared.store_fills_up() => Leave::StoreFull,
        }
    }

    /// Has requests judged, up to an entry's worth of them, and proposes what was decided.
    async fn build(&mut self, taken: &mut VecDeque<Request>, permit: OwnedSemaphorePermit) {
        // Out of its place while an entry is built, so that nobody else begins or ends it.
        let Some(mut reign) = self.ruling.reign.take() else { return };
        reign.sequencer.applied(self.shared.applied());
        let mut building = Building::default();
        let bytes_max = self.entry_bytes_max();
        while let Some(request) = taken.front() {
            let so_far = reign.sequencer.bytes();
            if 0 < so_far && bytes_max < so_far + request.bytes() {
                break;
            }
            let Some(request) = taken.pop_front() else { break };
            self.handle(&mut reign.sequencer, request, &mut building);
        }
        let proposal = self.finish(&mut reign, building, permit);
        let term = reign.term;
        self.ruling.reign = Some(reign);
        if let Some((bytes, report)) = proposal {
            self.group.propose(bytes, term, move |fate| report.finish(fate)).await;
        }
    }

    fn entry_bytes_max(&self) -> usize {
        ENTRY_BYTES_MAX.min(self.log.entry_bytes_max())
    }

    fn refuse_for_the_store(&self, request: Request) {
        let detail = self.shared.store_full().unwrap_or_else(|| "the store had no room".to_owned());
        let error = self.shared.failure().unwrap_or(CohortError::Full { detail });
        let _ = request.reply.send(Reply::Failed(error));
    }

    fn refuse_without_reign(&self, request: Request) {
        let leader = self.shared.seat().leader;
        let error = self.shared.refusal().unwrap_or(CohortError::NotLeader { leader });
        let _ = request.reply.send(Reply::Failed(error));
    }

    fn handle(&self, sequencer: &mut Sequencer, request: Request, building: &mut Building) {
        if let Some(failure) = self.shared.failure() {
            let _ = request.reply.send(Reply::Failed(failure));
            return;
        }
        if request.first != sequencer.first() {
            let leader = self.shared.seat().leader;
            let _ = request.reply.send(Reply::Failed(CohortError::NotLeader { leader }));
            return;
        }
        let bytes = request.bytes();
        let room = match self.hold(bytes) {
            Ok(room) => room,
            Err(full) => {
                let _ = request.reply.send(Reply::Failed(full));
                return;
            }
        };
        let before = sequencer.bytes();
        let wall = self.shared.wall();
        let Request { wish, reply, .. } = request;
        match wish {
            Wish::Write { tx, again, fingerprint, observed } => {
                if reply.is_closed() {
                    return; // The client was told that the time ran out; it is still undecided.
                }
                let issue = |sequence, after| self.shared.seat().clock.issue(sequence, wall, after);
                let verdict = sequencer.write(issue, &tx, again, fingerprint, &observed);
                self.answer(sequencer, verdict, tx.id.clone(), reply, building);
            }
            Wish::Resolve { id, observed } => {
                let verdict = sequencer.resolve(&id, &observed);
                self.answer(sequencer, verdict, id, reply, building);
            }
            Wish::Raise { floor, horizons } => {
                building.floor = building.floor.max(floor);
                if let Some(horizon) = horizons.iter().map(|(_, time)| *time).max() {
                    self.shared.seat().clock.pass_horizon(horizon);
                }
                let sequence = sequencer.touch(&horizons);
                let outcome = crate::entry::Outcome::Aborted; // Nobody looks at it.
                let id = TxId::from_be_bytes(&[]);
                self.answer(sequencer, Verdict::Decided { outcome, sequence }, id, reply, building);
            }
        }
        if before < sequencer.bytes() {
            building.room.push(room);
        }
    }

    /// Room for so many more bytes, on the drive, in the store and in the log.
    fn hold(&self, bytes: usize) -> Result<Reservation, CohortError> {
        (self.room)().map_err(|detail| CohortError::Full { detail })?;
        if let Some(detail) = self.shared.store_full() {
            return Err(CohortError::Full { detail });
        }
        let max = self.log.entry_bytes_max();
        if max < bytes {
            let detail = format!("an entry of the log takes {max} bytes, and this transaction needs {bytes}");
            return Err(CohortError::Full { detail });
        }
        self.log.hold(bytes as u64).map_err(CohortError::from)
    }

    fn answer(
        &self,
        sequencer: &Sequencer,
        verdict: Verdict,
        id: TxId,
        reply: oneshot::Sender<Reply>,
        building: &mut Building,
    ) {
        match verdict {
            Verdict::Decided { outcome, sequence } if sequencer.sequence() <= sequence => {
                building.waiters.push(Waiter { id, outcome, reply });
            }
            Verdict::Decided { outcome, sequence } => {
                self.shared.join(sequence, Waiter { id, outcome, reply });
            }
            Verdict::LookAgain => {
                let _ = reply.send(Reply::LookAgain);
            }
            Verdict::IdReused => {
                let _ = reply.send(Reply::Failed(CohortError::IdReused { id }));
            }
        }
    }

    /// The entry that was built, if there is one, with its waiters registered. The permit comes back when its fate is known.
    fn finish(
        &mut self,
        reign: &mut OwnReign,
        building: Building,
        permit: OwnedSemaphorePermit,
    ) -> Option<(Bytes, Report)> {
        let Building { waiters, floor, room } = building;
        let ceiling = self.shared.seat().clock.next_ceiling(self.shared.wall(), floor);
        let (sequence, bytes) = reign.sequencer.take(ceiling)?;
        self.ruling.last = sequence;
        self.entries.increment(1);
        self.entry_transactions.record(waiters.len() as f64);
        self.shared.register(reign.term, sequence, waiters);
        let report = Report {
            shared: self.shared.clone(),
            term: reign.term,
            sequence,
            why: None,
            broken: reign.broken.clone(),
            news: self.ruling.news.clone(),
            permit: Some(permit),
            throttle: self.throttle.clone(),
            proposed: Instant::now(),
            _room: room,
        };
        Some((bytes, report))
    }
}

/// Whether this replica has stopped writing and is the only member: then nobody else writes either, and what is here can be
/// read as before.
pub(crate) fn reads_alone(shared: &Shared, group: &Group<RowsMachine>) -> bool {
    if shared.failure().is_none() {
        return false;
    }
    let status = group.status();
    status.members.iter().all(|member| member.replica == status.me)
}

/// Returns at this time, or never.
async fn at(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => std::future::pending().await,
    }
}

/// Travels with a proposed entry; whatever becomes of the entry, it is settled then.
struct Report {
    shared: Arc<Shared>,
    term: u64,
    sequence: u64,
    /// Why nothing is known, once that has been said.
    why: Option<String>,
    broken: Arc<AtomicBool>,
    news: Arc<Notify>,
    /// Held until the fate is known.
    permit: Option<OwnedSemaphorePermit>,
    throttle: Option<Arc<dyn Throttle>>,
    proposed: Instant,
    /// Held as long, a little longer than the log needs.
    _room: Vec<Reservation>,
}

impl Report {
    fn finish(mut self, fate: Fate) {
        match fate {
            // Its waiters heard of it when it was applied.
            Fate::Applied { .. } => {
                if let Some(throttle) = &self.throttle {
                    throttle.wrote(self.proposed.elapsed());
                }
            }
            Fate::NotWritten { .. } => {
                // What was decided after it may rest on it.
                self.broken.store(true, Ordering::Release);
                self.shared.not_written(self.sequence);
            }
            Fate::Unknown { why } => self.why = Some(why),
        }
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        // Finds nobody if the waiters were answered.
        let why = self.why.as_deref().unwrap_or("the replica stopped");
        self.shared.not_reported(self.term, self.sequence, why);
        drop(self.permit.take());
        if self.broken.load(Ordering::Acquire) {
            self.news.notify_one();
        }
    }
}

/// At least as many bytes as the transaction takes in the log.
fn transaction_bytes(tx: &Transaction) -> usize {
    use skein_model::{ContentType, WriteOp};
    let rows: usize = tx
        .ops
        .iter()
        .map(|op| {
            let value = match &op.op {
                WriteOp::Create(value) | WriteOp::Update(value) => {
                    let name =
                        if let ContentType::Other(name) = &value.content_type { name.len() } else { 0 };
                    value.bytes.len() + name
                }
                WriteOp::Hold | WriteOp::Delete => 0,
            };
            op.key.len() + value + 24
        })
        .sum();
    rows + tx.id.as_be_bytes().len() + 160
}
