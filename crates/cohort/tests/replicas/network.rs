//! A network in memory: messages take their time, get lost, and stop at cuts.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{BoxStream, StreamExt};
use skein_cohort::Cohort;
use skein_cohort::peers::{PeerError, Peers, Replica};
use skein_model::{GroupId, StoreId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::time::Instant;

/// SplitMix64, so that a failing seed fails again.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// Clones share it.
#[derive(Clone)]
pub struct Network {
    state: Arc<Mutex<State>>,
}

struct State {
    random: Random,
    alive: BTreeMap<StoreId, Cohort>,
    /// From, to: messages that way stop.
    cuts: BTreeSet<(StoreId, StoreId)>,
    /// One message in so many is lost; 0 for none.
    lost_one_in: u64,
    delay_max_micros: u64,
}

impl Network {
    pub fn new(seed: u64) -> Network {
        let state = State {
            random: Random(seed),
            alive: BTreeMap::new(),
            cuts: BTreeSet::new(),
            lost_one_in: 0,
            delay_max_micros: 2_000,
        };
        Network { state: Arc::new(Mutex::new(state)) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn put(&self, store: StoreId, cohort: Option<Cohort>) {
        match cohort {
            Some(cohort) => self.lock().alive.insert(store, cohort),
            None => self.lock().alive.remove(&store),
        };
    }

    pub fn get(&self, store: StoreId) -> Option<Cohort> {
        self.lock().alive.get(&store).cloned()
    }

    pub fn cut(&self, from: StoreId, to: StoreId) {
        self.lock().cuts.insert((from, to));
    }

    pub fn trouble(&self, lost_one_in: u64, delay_max_micros: u64) {
        let mut state = self.lock();
        (state.lost_one_in, state.delay_max_micros) = (lost_one_in, delay_max_micros);
    }

    pub fn heal(&self) {
        self.lock().cuts.clear();
        self.trouble(0, 2_000);
    }

    pub fn as_seen_by(&self, me: Replica) -> Arc<dyn Peers> {
        Arc::new(Link { network: self.clone(), me })
    }

    /// Lets a message travel; says whether it arrived.
    async fn travel(&self, from: StoreId, to: StoreId) -> bool {
        let (arrives, delay) = {
            let mut state = self.lock();
            let lost = state.lost_one_in;
            let lost = lost != 0 && state.random.one_in(lost);
            let max = state.delay_max_micros;
            (!lost && !state.cuts.contains(&(from, to)), state.random.below(max))
        };
        tokio::time::sleep(Duration::from_micros(delay)).await;
        arrives
    }
}

struct Link {
    network: Network,
    me: Replica,
}

impl Peers for Link {
    fn call(
        &self,
        to: Replica,
        _group: GroupId,
        body: Bytes,
        deadline: Instant,
    ) -> BoxFuture<'static, Result<Bytes, PeerError>> {
        let (network, me) = (self.network.clone(), self.me);
        Box::pin(async move {
            let exchange = async {
                if !network.travel(me.store, to.store).await {
                    return std::future::pending().await;
                }
                let Some(cohort) = network.get(to.store) else {
                    return Err(PeerError::Unreachable("nobody there".into()));
                };
                // Goes on where it arrived, whatever becomes of whoever asked.
                let answer = tokio::spawn(async move { cohort.receive(me, body).await });
                let answer = answer.await.map_err(|e| PeerError::NoAnswer(e.to_string()))?;
                if !network.travel(to.store, me.store).await {
                    return std::future::pending().await;
                }
                answer.map_err(|e| PeerError::Refused(e.to_string()))
            };
            let late = || Err(PeerError::NoAnswer("too late".into()));
            tokio::time::timeout_at(deadline, exchange).await.unwrap_or_else(|_| late())
        })
    }

    fn fetch(
        &self,
        from: Replica,
        _group: GroupId,
        body: Bytes,
    ) -> BoxStream<'static, Result<Bytes, PeerError>> {
        let (network, me) = (self.network.clone(), self.me);
        let Some(cohort) = network.get(from.store) else {
            return futures_util::stream::iter([Err(PeerError::Unreachable("nobody there".into()))]).boxed();
        };
        let stream = cohort.serve(me, body);
        stream
            .then(move |item| {
                let network = network.clone();
                async move {
                    match network.travel(from.store, me.store).await {
                        true => item,
                        false => Err(PeerError::NoAnswer("cut".into())),
                    }
                }
            })
            .boxed()
    }
}
