//! Keeps a number of clients busy for a while and counts what comes of it.

use crate::error::BenchError;
use crate::schedule::Arrivals;
use crate::tally::{Failure, Outcome, Tally};
use crate::workload::{Op, Ops, Values, Workload};
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

mod pacer;
mod prefill;

pub use prefill::prefill;

/// Something that can be asked: a database, or a limit to hold one against.
pub trait Target: Clone + Send + Sync + 'static {
    /// One of its clients.
    type Client: Client;

    /// Client number `number` (from 0), connected. Called on the thread the client will live on.
    fn connect(&self, number: u64) -> impl Future<Output = Result<Self::Client, BenchError>> + Send;

    /// Most rows of `value_bytes` bytes that one [`Op::Fill`] may ask for; at least 1.
    fn fill_rows_max(&self, value_bytes: usize) -> u64;
}

/// One client of a target: does one operation at a time.
pub trait Client: Send + 'static {
    /// Does `op`, with values drawn from `values`, and checks the answer.
    ///
    /// May be dropped before it ends; the next call then starts afresh.
    fn perform(&mut self, op: Op, values: &mut Values) -> impl Future<Output = Outcome> + Send;
}

/// How long a run measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// Operations started within this time after the warm-up.
    For(Duration),
    /// This many operations after the warm-up, all clients together.
    Ops(u64),
}

/// One run: what is asked, by how many, for how long.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What is asked.
    pub workload: Workload,
    /// How many clients, each with one operation at a time; at least 1.
    pub clients: u64,
    /// How many threads they live on; at least 1.
    pub threads: u64,
    /// Rows of the key spread.
    pub keys: u64,
    /// Bytes of each value.
    pub value_bytes: usize,
    /// Seed of all that is random.
    pub seed: u64,
    /// Time before anything is counted.
    pub warmup: Duration,
    /// When to end.
    pub length: Length,
    /// Arrivals per second in all; `None` asks again as soon as the answer is there.
    pub rate: Option<u64>,
    /// How long an operation may take before it is given up and counted as a failure.
    pub timeout: Duration,
}

/// The moments of one run, the same for all its threads.
#[derive(Clone, Copy, Debug)]
struct Moments {
    start: Instant,
    /// Nothing that was due before this is counted.
    measure: Instant,
    /// Nothing is started from here on; `None` when the number of operations decides.
    end: Option<Instant>,
}

impl Moments {
    fn new(start: Instant, plan: &Plan) -> Self {
        let measure = start + plan.warmup;
        let end = match (plan.length, plan.rate) {
            (Length::For(time), _) => Some(measure + time),
            // At a fixed rate the number says when the last one is due.
            (Length::Ops(ops), Some(rate)) => Some(measure + Arrivals::new(rate, 0, 1).offset(ops)),
            (Length::Ops(_), None) => None,
        };
        Moments { start, measure, end }
    }

    fn ended(&self, now: Instant) -> bool {
        self.end.is_some_and(|end| now >= end)
    }
}

/// What the clients of one thread share.
struct Shared {
    plan: Plan,
    tally: Mutex<Tally>,
    /// Operations counted so far by all threads, for [`Length::Ops`].
    taken: Arc<AtomicU64>,
}

impl Shared {
    fn tally(&self) -> MutexGuard<'_, Tally> {
        // A panic while counting voids the run anyway: its thread never reports.
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Does one run against `target` on threads of its own and gives what was counted.
///
/// All clients are connected before the first of them asks. Errors: those of [`Target::connect`],
/// [`BenchError::Start`], [`BenchError::LostThread`]; there are then no numbers.
pub async fn drive<T: Target>(plan: &Plan, target: &T) -> Result<Tally, BenchError> {
    let threads = plan.threads.clamp(1, plan.clients.max(1));
    let taken = Arc::new(AtomicU64::new(0));
    let (go, gone) = watch::channel(None);
    let (ready_tx, mut ready) = mpsc::unbounded_channel();
    let mut reports = Vec::new();
    for thread in 0..threads {
        let (plan, target, taken) = (plan.clone(), target.clone(), taken.clone());
        let (gone, ready_tx) = (gone.clone(), ready_tx.clone());
        let (report_tx, report) = oneshot::channel();
        spawn("skein-bench-load", move |runtime| {
            let tally = runtime.block_on(run_thread(plan, target, taken, (thread, threads), ready_tx, gone));
            // The other end is only gone when the whole run was given up.
            let _ = report_tx.send(tally);
        })?;
        reports.push(report);
    }
    drop(ready_tx);
    let mut connected = 0;
    while ready.recv().await.is_some() {
        connected += 1;
    }
    if connected == threads {
        // Every thread is waiting for it, or has ended and will be missed below.
        let _ = go.send(Some(Moments::new(Instant::now(), plan)));
    }
    // Nothing is measured unless all are there: the others now find that nobody will start them.
    drop(go);
    let mut total = Tally::new();
    let mut failed = None;
    for report in reports {
        match report.await.unwrap_or(Err(BenchError::LostThread)) {
            Ok(tally) => total.merge(&tally),
            // The thread that could not connect knows why; those that waited for it do not.
            Err(BenchError::LostThread) => failed = failed.or(Some(BenchError::LostThread)),
            Err(error) => failed = Some(error),
        }
    }
    failed.map_or(Ok(total), Err)
}

/// Starts a named thread with a runtime of its own.
pub(crate) fn spawn(
    name: &'static str,
    work: impl FnOnce(tokio::runtime::Runtime) + Send + 'static,
) -> Result<(), BenchError> {
    let start = |source| BenchError::Start { what: name, source };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(start)?;
    std::thread::Builder::new().name(name.to_owned()).spawn(move || work(runtime)).map_err(start)?;
    Ok(())
}

/// One thread's share of a run: `thread` out of `threads`.
async fn run_thread<T: Target>(
    plan: Plan,
    target: T,
    taken: Arc<AtomicU64>,
    (thread, threads): (u64, u64),
    ready: mpsc::UnboundedSender<()>,
    mut gone: watch::Receiver<Option<Moments>>,
) -> Result<Tally, BenchError> {
    let mut clients = Vec::new();
    for number in (thread..plan.clients).step_by(threads as usize) {
        clients.push((number, target.connect(number).await?));
    }
    // The drive only goes away with the run itself. Once no thread holds its sender, all have connected or failed.
    let _ = ready.send(());
    drop(ready);
    let moments = match gone.wait_for(Option::is_some).await {
        Ok(moments) => (*moments).ok_or(BenchError::LostThread)?,
        Err(_) => return Err(BenchError::LostThread),
    };

    let shared = Arc::new(Shared { plan, tally: Mutex::new(Tally::new()), taken });
    let mut tasks = Vec::new();
    let queue = shared.plan.rate.map(|rate| {
        let arrivals = Arrivals::new(rate, thread, threads);
        Arc::new(Queue { arrivals, gate: Semaphore::new(0), next: AtomicU64::new(0) })
    });
    if let Some(queue) = &queue {
        pacer::release(queue.clone(), moments)?;
    }
    for (number, client) in clients {
        let worker = Worker {
            ops: Ops::new(shared.plan.workload, shared.plan.keys, shared.plan.seed, number),
            values: Values::new(shared.plan.value_bytes, shared.plan.seed, number),
            client,
            shared: shared.clone(),
            moments,
        };
        tasks.push(match &queue {
            None => tokio::spawn(worker.run_closed()),
            Some(queue) => tokio::spawn(worker.run_open(queue.clone())),
        });
    }
    for task in tasks {
        task.await.map_err(|_| BenchError::LostThread)?;
    }
    let mut tally = shared.tally().clone();
    if let (Some(queue), Some(end)) = (queue, moments.end) {
        let warmup = queue.arrivals.before(moments.measure - moments.start);
        let due = queue.arrivals.before(end - moments.start) - warmup;
        tally.unsent = due.saturating_sub(tally.done() + tally.failed());
    }
    Ok(tally)
}

/// The arrivals of one thread, waiting for a client that is free.
struct Queue {
    arrivals: Arrivals,
    /// A permit per arrival that is due and not taken.
    gate: Semaphore,
    /// Number of the next arrival to be taken.
    next: AtomicU64,
}

/// One client at work.
struct Worker<C> {
    client: C,
    ops: Ops,
    values: Values,
    shared: Arc<Shared>,
    moments: Moments,
}

impl<C: Client> Worker<C> {
    /// Does the next operation; gives when it ended.
    async fn step(&mut self) -> (Instant, Outcome) {
        let op = self.ops.next_op();
        let answer =
            tokio::time::timeout(self.shared.plan.timeout, self.client.perform(op, &mut self.values));
        let outcome = answer.await.unwrap_or(Err(Failure::Named("timed out")));
        (Instant::now(), outcome)
    }

    /// Asks again as soon as the answer is there.
    async fn run_closed(mut self) {
        let mut start = Instant::now();
        while !self.moments.ended(start) {
            let counts = start >= self.moments.measure;
            if let (true, Length::Ops(ops)) = (counts, self.shared.plan.length)
                && self.shared.taken.fetch_add(1, Ordering::Relaxed) >= ops
            {
                return;
            }
            let (end, outcome) = self.step().await;
            if counts {
                self.shared.tally().record(start, start, end, outcome);
            }
            start = Instant::now();
        }
    }

    /// Takes an arrival whenever one is due, however long ago.
    async fn run_open(mut self, queue: Arc<Queue>) {
        while let Ok(permit) = queue.gate.acquire().await {
            permit.forget();
            let due = self.moments.start + queue.arrivals.offset(queue.next.fetch_add(1, Ordering::Relaxed));
            let start = Instant::now();
            if self.moments.ended(start) || self.moments.ended(due) {
                return;
            }
            let (end, outcome) = self.step().await;
            if due >= self.moments.measure {
                self.shared.tally().record(due, start, end, outcome);
            }
        }
    }
}

#[cfg(test)]
mod tests;
