//! The shell around the sequencer: one task that takes all requests that have arrived, has them judged, and
//! proposes what was decided as one Raft entry while earlier entries are still being written.

use crate::clock::locked;
use crate::error::CohortError;
use crate::group::{Fate, Group};
use crate::rows_machine::RowsMachine;
use crate::sequencer::{Observed, Sequencer, Verdict};
use crate::shared::{Reply, Shared, Waiter};
use bytes::Bytes;
use metrics::{Counter, Histogram};
use skein_model::{TableId, Transaction, TxClock, TxId};
use skein_storage::log::{GroupLog, Reservation};
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

/// An entry does not grow beyond this many bytes, even while more requests wait, unless a single transaction does.
const ENTRY_BYTES_MAX: usize = 4 << 20;
/// Requests taken at a time.
const TAKE_MAX: usize = 4096;

/// Something for the sequencer to do. Each reply comes once the answer is durable.
pub(crate) enum Request {
    Write {
        tx: Arc<Transaction>,
        /// It may have come before, or may come again.
        again: bool,
        fingerprint: u64,
        observed: Observed,
        reply: oneshot::Sender<Reply>,
    },
    Resolve {
        id: TxId,
        observed: Observed,
        reply: oneshot::Sender<Reply>,
    },
    /// Raise the ceiling above a time, or horizons, or both.
    Raise {
        floor: TxClock,
        horizons: Vec<(Option<TableId>, TxClock)>,
        reply: oneshot::Sender<Reply>,
    },
}

impl Request {
    /// At least as many bytes as the request adds to an entry, the entry's own share included.
    fn bytes(&self) -> usize {
        match self {
            Request::Write { tx, .. } => transaction_bytes(tx),
            Request::Resolve { .. } => 256,
            Request::Raise { horizons, .. } => 256 + 17 * horizons.len(),
        }
    }

    fn into_reply(self) -> oneshot::Sender<Reply> {
        match self {
            Request::Write { reply, .. } | Request::Resolve { reply, .. } | Request::Raise { reply, .. } => {
                reply
            }
        }
    }
}

/// Says whether the disk has room for more, and if not, why.
pub type Room = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

pub(crate) struct Proposer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) group: Group<RowsMachine>,
    /// The term that this replica leads.
    pub(crate) term: u64,
    pub(crate) log: GroupLog,
    pub(crate) room: Room,
    pub(crate) sequencer: Sequencer,
    pub(crate) in_flight: Arc<Semaphore>,
    pub(crate) entry_transactions: Histogram,
    pub(crate) entries: Counter,
}

/// Waiters of the entry being built.
#[derive(Default)]
struct Building {
    waiters: Vec<Waiter>,
    floor: TxClock,
    /// Room in the log for all that was decided.
    room: Vec<Reservation>,
}

impl Proposer {
    pub(crate) async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        let mut arrived = Vec::new();
        let mut taken: VecDeque<Request> = VecDeque::new();
        loop {
            if taken.is_empty() && requests.recv_many(&mut arrived, TAKE_MAX).await == 0 {
                return;
            }
            taken.extend(arrived.drain(..));
            let Some(permit) = self.permit().await else {
                // Entries in flight wait for room in the store, which may take any time.
                taken.drain(..).for_each(|request| self.refuse_for_the_store(request));
                continue;
            };
            // More may have arrived while earlier entries were being written: they share this entry.
            while taken.len() < TAKE_MAX
                && let Ok(request) = requests.try_recv()
            {
                taken.push_back(request);
            }
            self.sequencer.applied(self.shared.applied());
            let mut building = Building::default();
            while let Some(request) = taken.front() {
                let so_far = self.sequencer.bytes();
                if 0 < so_far && self.entry_bytes_max() < so_far + request.bytes() {
                    break;
                }
                let Some(request) = taken.pop_front() else { break };
                self.handle(request, &mut building);
            }
            self.propose(&mut building, permit).await;
        }
    }

    /// Leave to propose an entry; `None` if that has to wait for room in the store.
    async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = self.in_flight.clone().try_acquire_owned() {
            return Some(permit);
        }
        tokio::select! {
            // Nobody closes the semaphore.
            permit = self.in_flight.clone().acquire_owned() => permit.ok(),
            () = self.shared.store_fills_up() => None,
        }
    }

    fn entry_bytes_max(&self) -> usize {
        ENTRY_BYTES_MAX.min(self.log.entry_bytes_max())
    }

    fn refuse_for_the_store(&self, request: Request) {
        let detail = self.shared.store_full().unwrap_or_else(|| "the store had no room".to_owned());
        let error = self.shared.failure().unwrap_or(CohortError::Full { detail });
        let _ = request.into_reply().send(Reply::Failed(error));
    }

    fn handle(&mut self, request: Request, building: &mut Building) {
        if let Some(failure) = self.shared.failure() {
            let _ = request.into_reply().send(Reply::Failed(failure));
            return;
        }
        let bytes = request.bytes();
        let room = match self.hold(bytes) {
            Ok(room) => room,
            Err(full) => {
                let _ = request.into_reply().send(Reply::Failed(full));
                return;
            }
        };
        let before = self.sequencer.bytes();
        let wall = self.shared.wall();
        match request {
            Request::Write { tx, again, fingerprint, observed, reply } => {
                if reply.is_closed() {
                    return; // The client was told that the time ran out; it is still undecided.
                }
                let clock = &self.shared.clock;
                let verdict = self.sequencer.write(wall, clock, &tx, again, fingerprint, &observed);
                self.answer(verdict, tx.id.clone(), reply, building);
            }
            Request::Resolve { id, observed, reply } => {
                let verdict = self.sequencer.resolve(&id, &observed);
                self.answer(verdict, id, reply, building);
            }
            Request::Raise { floor, horizons, reply } => {
                building.floor = building.floor.max(floor);
                if let Some(horizon) = horizons.iter().map(|(_, time)| *time).max() {
                    locked(&self.shared.clock).pass_horizon(horizon);
                }
                let sequence = self.sequencer.touch(&horizons);
                let outcome = crate::entry::Outcome::Aborted; // Nobody looks at it.
                let id = TxId::from_be_bytes(&[]);
                self.answer(Verdict::Decided { outcome, sequence }, id, reply, building);
            }
        }
        if before < self.sequencer.bytes() {
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

    fn answer(&mut self, verdict: Verdict, id: TxId, reply: oneshot::Sender<Reply>, building: &mut Building) {
        match verdict {
            Verdict::Decided { outcome, sequence } if self.sequencer.sequence() <= sequence => {
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

    /// Hands the entry being built to Raft, if there is one; the permit comes back when it is applied.
    async fn propose(&mut self, building: &mut Building, permit: OwnedSemaphorePermit) {
        let Building { waiters, floor, room } = std::mem::take(building);
        let ceiling = locked(&self.shared.clock).next_ceiling(self.shared.wall(), floor);
        let Some((sequence, bytes)) = self.sequencer.take(ceiling) else {
            return;
        };
        self.entries.increment(1);
        self.entry_transactions.record(waiters.len() as f64);
        self.shared.register(sequence, waiters);
        let report = Report { shared: self.shared.clone(), sequence, _room: room, _permit: permit };
        self.submit(bytes, report).await;
    }

    async fn submit(&self, bytes: Bytes, report: Report) {
        self.group.propose(bytes, self.term, move |fate| report.finish(fate)).await;
    }
}

/// Travels with a proposed entry; whatever becomes of the entry, its waiters hear of it.
struct Report {
    shared: Arc<Shared>,
    sequence: u64,
    /// Held until the entry is applied, a little longer than the log needs.
    _room: Vec<Reservation>,
    _permit: OwnedSemaphorePermit,
}

impl Report {
    fn finish(self, fate: Fate) {
        match fate {
            Fate::Applied { .. } => self.shared.complete(self.sequence),
            Fate::NotWritten { .. } => {
                // A cohort of one loses leadership only by closing.
                self.shared.clock().dropped(self.sequence);
                self.shared.abandon(self.sequence, |_| CohortError::Closing);
            }
            // The drop below tells the waiters that nothing is known.
            Fate::Unknown { .. } => {}
        }
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        // Finds nobody if `finish` answered them.
        let why = self.shared.why_unknown("the replica stopped");
        self.shared.abandon(self.sequence, |waiter| CohortError::Unknown {
            id: waiter.id.clone(),
            why: why.clone(),
        });
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
