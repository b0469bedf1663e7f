//! The client: what it knows of the cell, and how it comes to know it.

use crate::answer::Answer;
use crate::cache::Cache;
use crate::config::{Config, TIME_MAX};
use crate::errand::Home;
use crate::error::Error;
use crate::memo;
use crate::pool::{Call, Fault, Pool};
use crate::topology::Topology;
use http::Method;
use skein_model::limits::SKEW_MAX_MICROS;
use skein_model::{TxClock, TxId};
use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{Notify, Semaphore};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};

/// Shortest time between two questions for the topology, however often it seems to be wrong.
const REFRESH_MIN: Duration = Duration::from_millis(200);
/// Pause between two rounds of all contacts while connecting.
const CONNECT_PAUSE: Duration = Duration::from_millis(100);
/// Most addresses that are remembered beyond the topology and the contacts.
const SPARE_MAX: usize = 64;

/// A client of one cell. Cheap to clone; all clones share connections, topology and cache.
#[derive(Clone)]
pub struct Client {
    pub(crate) inner: Arc<Inner>,
    deadline: Duration,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("cell", &self.inner.pool.cell())
            .field("deadline", &self.deadline)
            .finish()
    }
}

pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) pool: Pool,
    pub(crate) cache: Mutex<Cache>,
    pub(crate) under_way: Semaphore,
    /// What the request IDs of this client begin with.
    pub(crate) name: String,
    topology: RwLock<Arc<Topology>>,
    /// Addresses that were good once, newest first.
    spare: Mutex<VecDeque<String>>,
    /// Wakes whoever asks for the topology.
    suspect: Arc<Notify>,
    numbers: AtomicU64,
    turns: AtomicUsize,
    /// The latest time that the cell gave this client.
    seen: AtomicU64,
    /// The cell's clock when it was last told, and when that was.
    now: Mutex<(TxClock, Instant)>,
    refresher: Mutex<Option<AbortHandle>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        let refresher = self.refresher.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(refresher) = refresher.take() {
            refresher.abort();
        }
    }
}

impl Client {
    /// Finds the cell: by the memo of an earlier run, if there is one, and by the contacts, until one of them answers.
    ///
    /// Errors: [`Error::Invalid`], [`Error::WrongCell`], and [`Error::Unavailable`] if nobody answers within the deadline.
    pub async fn connect(config: Config) -> Result<Client, Error> {
        let config = config.check()?;
        let begun = Instant::now();
        let remembered = match &config.memo {
            None => None,
            Some(path) => match memo::load(path).await {
                Ok(found) => found,
                Err(error) => {
                    tracing::warn!(path = %path.display(), error = &error as &dyn std::error::Error, "the memo of the topology is not used");
                    None
                }
            },
        };
        // A memo of another cell is of no use to somebody who knows which one is wanted.
        let remembered = remembered.filter(|memo| config.cell.is_none_or(|cell| cell == memo.cell));
        let cell = config.cell.or(remembered.as_ref().map(|memo| memo.cell));
        let pool = Pool::new(config.connect, config.idle_max, cell);
        let mut addresses: Vec<String> = config.contacts.clone();
        addresses.extend(remembered.iter().flat_map(|memo| memo.peers.values().cloned()));
        let mut seen = BTreeSet::new();
        addresses.retain(|address| seen.insert(address.clone()));
        let topology = first_topology(&pool, &addresses, &config, begun).await?;
        let spare =
            remembered.into_iter().flat_map(|memo| memo.peers.into_values()).take(SPARE_MAX).collect();
        let deadline = config.deadline;
        let inner = Arc::new(Inner {
            pool,
            cache: Mutex::new(Cache::new(config.cache_bytes_max)),
            under_way: Semaphore::new(config.requests_max),
            name: draw_name()?,
            topology: RwLock::new(Arc::new(topology.clone())),
            spare: Mutex::new(spare),
            suspect: Arc::new(Notify::new()),
            numbers: AtomicU64::new(0),
            turns: AtomicUsize::new(0),
            seen: AtomicU64::new(0),
            now: Mutex::new((TxClock::ZERO, Instant::now())),
            refresher: Mutex::new(None),
            config,
        });
        inner.keep(&topology).await;
        let refresher =
            tokio::spawn(refresh(Arc::downgrade(&inner), inner.suspect.clone(), inner.config.refresh));
        *inner.refresher.lock().unwrap_or_else(PoisonError::into_inner) = Some(refresher.abort_handle());
        Ok(Client { inner, deadline })
    }

    /// The same client with another deadline for what is asked through it.
    pub fn within(&self, deadline: Duration) -> Client {
        Client { inner: self.inner.clone(), deadline: deadline.min(TIME_MAX) }
    }

    /// What this client knows of the cell.
    pub fn topology(&self) -> Arc<Topology> {
        self.inner.topology()
    }

    /// The latest time that the cell gave this client: nothing that it has seen is later.
    pub fn seen(&self) -> TxClock {
        self.inner.seen()
    }

    /// A new transaction ID. Its first digits are the time.
    pub fn draw_tx_id(&self) -> Result<TxId, Error> {
        draw_tx_id()
    }

    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.deadline
    }
}

/// Asks the addresses in turn until one of them tells the topology.
async fn first_topology(
    pool: &Pool,
    addresses: &[String],
    config: &Config,
    begun: Instant,
) -> Result<Topology, Error> {
    let deadline = begun + config.deadline;
    let mut tried = 0;
    let mut last = "no peer is known".to_owned();
    loop {
        let mut foreign = None;
        let mut silent = false;
        for address in addresses {
            if deadline <= Instant::now() {
                break;
            }
            tried += 1;
            let until = deadline.min(Instant::now() + config.attempt);
            match ask_topology(pool, address, "hello", until).await {
                Ok(topology) => return Ok(topology),
                Err(Fault::Foreign(found)) => {
                    last = format!("{address} belongs to cell {found}");
                    foreign = Some((address.clone(), found));
                }
                Err(Fault::NotSent(why) | Fault::Unsure(why)) => {
                    silent = true;
                    last = why;
                }
            }
            tracing::debug!(why = %last, "a contact did not tell the topology");
        }
        if let (Some((address, found)), Some(wanted), false) = (foreign, pool.cell(), silent) {
            return Err(Error::WrongCell { address, found, wanted });
        }
        if deadline <= Instant::now() + CONNECT_PAUSE {
            return Err(Error::Unavailable { tried, waited: begun.elapsed(), last });
        }
        sleep(CONNECT_PAUSE).await;
    }
}

async fn ask_topology(pool: &Pool, address: &str, id: &str, until: Instant) -> Result<Topology, Fault> {
    let answer = pool.fetch(address, &Call::new(Method::GET, "/flock"), id, until).await?;
    if answer.status != 200 {
        return Err(Fault::Unsure(format!("{address}: {}", answer.refused())));
    }
    let told = Topology::parse(&answer.body).map_err(|why| Fault::Unsure(format!("{address}: {why}")))?;
    match pool.cell() {
        Some(cell) if cell != told.cell => Err(Fault::Foreign(told.cell)),
        _ => Ok(told),
    }
}

/// Asks for the topology now and then, and when it seems to be wrong. Ends with the client.
async fn refresh(client: Weak<Inner>, suspect: Arc<Notify>, every: Duration) {
    loop {
        // Whether it was woken or waited long enough does not matter.
        let _ = timeout(every, suspect.notified()).await;
        // Not held while waiting, or the client would never end.
        let Some(inner) = client.upgrade() else { return };
        inner.refresh().await;
        drop(inner);
        sleep(REFRESH_MIN).await;
    }
}

impl Inner {
    pub(crate) fn topology(&self) -> Arc<Topology> {
        self.topology.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn seen(&self) -> TxClock {
        TxClock(self.seen.load(Ordering::Acquire))
    }

    pub(crate) fn saw_time(&self, time: TxClock) {
        self.seen.fetch_max(time.0, Ordering::AcqRel);
    }

    /// Takes note of the times in an answer.
    pub(crate) fn saw(&self, answer: &Answer) {
        for name in ["value-txclock", "read-txclock"] {
            if let Some(time) = answer.clock(name) {
                self.saw_time(time);
            }
        }
        if let Some(told) = answer.clock("server-txclock") {
            let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
            if now.0 < told {
                *now = (told, Instant::now());
            }
        }
    }

    /// The later of a present that one peer tells and what this client has seen elsewhere. What lies further ahead than clocks may differ is a lie,
    /// and no peer would read there.
    pub(crate) fn after_seen(told: TxClock, seen: TxClock) -> TxClock {
        if seen.0.saturating_sub(told.0) < SKEW_MAX_MICROS / 2 { told.max(seen) } else { told }
    }

    /// About what the cell's clock shows now: what it was last told to be, and what passed since.
    pub(crate) fn about_now(&self) -> TxClock {
        let (told, at) = *self.now.lock().unwrap_or_else(PoisonError::into_inner);
        TxClock(told.0.saturating_add(u64::try_from(at.elapsed().as_micros()).unwrap_or(u64::MAX)))
    }

    pub(crate) fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// The topology seems to be wrong.
    pub(crate) fn suspect(&self) {
        self.suspect.notify_one();
    }

    /// Between half of the pause and all of it.
    pub(crate) fn jitter(&self, pause: Duration) -> Duration {
        let luck = getrandom::u32().map_or(1.0, |luck| 0.5 + f64::from(luck) / f64::from(u32::MAX) / 2.0);
        pause.mul_f64(luck)
    }

    /// Everybody that may be asked, the best first; those that failed lately come last.
    pub(crate) fn order(&self, home: Home<'_>) -> Vec<String> {
        let topology = self.topology();
        let cohort = match home {
            Home::Anywhere => None,
            Home::Row(table, key) => topology.cohort_of(table, key),
            Home::Slice(slice, nslices) => topology.cohort_of_slice(slice, nslices),
        };
        let turn = self.turns.fetch_add(1, Ordering::Relaxed);
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        let mut order: Vec<&str> = topology.order(cohort, turn);
        order.extend(self.config.contacts.iter().map(String::as_str));
        order.extend(spare.iter().map(String::as_str));
        let mut seen = BTreeSet::new();
        order.retain(|address| seen.insert(*address));
        let (mut order, resting): (Vec<&str>, Vec<&str>) =
            order.into_iter().partition(|address| !self.pool.rests(address));
        order.extend(resting);
        order.into_iter().map(str::to_owned).collect()
    }

    /// Asks peers for the topology until one tells it.
    async fn refresh(&self) {
        let until = Instant::now() + self.config.attempt;
        for address in self.order(Home::Anywhere) {
            let id = format!("{}-{}-1", self.name, self.next_number());
            match ask_topology(&self.pool, &address, &id, until).await {
                Ok(told) => return self.keep(&told).await,
                Err(fault) => tracing::debug!(address, ?fault, "a peer did not tell the topology"),
            }
            if until <= Instant::now() {
                return;
            }
        }
    }

    /// Goes by this topology from now on, and remembers the addresses.
    async fn keep(&self, told: &Topology) {
        let known = self.topology();
        if *known != *told {
            let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
            for address in known.peers.values().filter(|address| !told.peers.values().any(|a| a == *address))
            {
                spare.retain(|old| old != address);
                spare.push_front(address.clone());
            }
            spare.truncate(SPARE_MAX);
            *self.topology.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(told.clone());
        }
        let Some(path) = &self.config.memo else { return };
        // What no peer can be found by is worth nothing, and the same need not be written again.
        if told.peers.is_empty() || memo::load(path).await.is_ok_and(|memo| memo.as_ref() == Some(told)) {
            return;
        }
        if let Err(error) = memo::save(path, told).await {
            tracing::warn!(path = %path.display(), error = &error as &dyn std::error::Error, "the topology was not kept for later runs");
        }
    }
}

fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|why| Error::Invalid { what: "randomness", why: format!("the system gives none: {why}") })?;
    Ok(bytes)
}

fn draw_name() -> Result<String, Error> {
    Ok(format!("{:08x}", u32::from_be_bytes(random()?)))
}

pub(crate) fn draw_tx_id() -> Result<TxId, Error> {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(TxId::draw(u64::try_from(wall.as_micros()).unwrap_or(u64::MAX), random()?))
}
