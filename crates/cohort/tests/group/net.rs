//! How replicas reach each other, or do not.

use crate::cluster::Luck;
use crate::machine::ListMachine;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, stream};
use skein_cohort::group::Group;
use skein_cohort::peers::{PeerError, Peers, Replica};
use skein_model::{GroupId, HostId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

#[derive(Default)]
struct State {
    up: BTreeMap<Replica, Group<ListMachine>>,
    /// Directed links that carry nothing, and say nothing.
    cut: BTreeSet<(HostId, HostId)>,
    /// Of a thousand messages, so many are lost.
    loss: u64,
    delay_max: Duration,
    /// The next streams end after so many pieces.
    stream_pieces: Vec<usize>,
    pieces_sent: u64,
    luck: Luck,
}

/// The network; clones share it.
#[derive(Clone, Default)]
pub struct Net(Arc<Mutex<State>>);

impl Net {
    pub fn new(seed: u64) -> Net {
        let net = Net::default();
        net.with(|state| {
            state.luck = Luck::new(seed);
            state.delay_max = Duration::from_millis(3);
        });
        net
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.0.lock().unwrap())
    }

    pub fn plug_in(&self, replica: Replica, group: Group<ListMachine>) {
        self.with(|state| state.up.insert(replica, group));
    }

    pub fn unplug(&self, replica: Replica) {
        self.with(|state| state.up.remove(&replica));
    }

    /// Nothing gets from `from` to `to` any more.
    pub fn cut(&self, from: HostId, to: HostId) {
        self.with(|state| state.cut.insert((from, to)));
    }

    /// Hosts of either side hear nothing of the other.
    pub fn part(&self, one: &[HostId], other: &[HostId]) {
        for a in one {
            for b in other {
                self.cut(*a, *b);
                self.cut(*b, *a);
            }
        }
    }

    pub fn heal(&self) {
        self.with(|state| {
            state.cut.clear();
            state.loss = 0;
        });
    }

    pub fn lose(&self, of_a_thousand: u64) {
        self.with(|state| state.loss = of_a_thousand);
    }

    /// The next streams break off, each after so many pieces.
    pub fn break_streams_after(&self, pieces: &[usize]) {
        self.with(|state| state.stream_pieces = pieces.iter().rev().copied().collect());
    }

    pub fn pieces_sent(&self) -> u64 {
        self.with(|state| state.pieces_sent)
    }

    pub fn end_of(&self, me: Replica) -> Arc<dyn Peers> {
        Arc::new(End { me, net: self.clone() })
    }

    /// Whether a message gets through, and how long that takes.
    fn passage(&self, from: HostId, to: HostId) -> Option<Duration> {
        self.with(|state| {
            let delay = state.delay_max.mul_f64(state.luck.below(1000) as f64 / 1000.0);
            let lost = state.luck.below(1000) < state.loss;
            (!lost && !state.cut.contains(&(from, to))).then_some(delay)
        })
    }

    fn group(&self, of: Replica) -> Result<Group<ListMachine>, PeerError> {
        self.with(|state| match state.up.get(&of) {
            Some(group) => Ok(group.clone()),
            None if state.up.keys().any(|other| other.host == of.host) => {
                Err(PeerError::Refused("another store lives there now".into()))
            }
            None => Err(PeerError::Unreachable("nobody listens".into())),
        })
    }
}

struct End {
    me: Replica,
    net: Net,
}

impl Peers for End {
    fn call(
        &self,
        to: Replica,
        _group: GroupId,
        body: Bytes,
        deadline: Instant,
    ) -> BoxFuture<'static, Result<Bytes, PeerError>> {
        let (me, net) = (self.me, self.net.clone());
        Box::pin(async move {
            let lost = || async {
                tokio::time::sleep_until(deadline).await;
                Err(PeerError::NoAnswer("lost".into()))
            };
            let Some(delay) = net.passage(me.host, to.host) else { return lost().await };
            tokio::time::sleep(delay).await;
            let group = net.group(to)?;
            // Whoever asked may be gone: what was asked is carried out all the same.
            let answer = tokio::spawn(async move { group.receive(me, body).await });
            let answer = answer.await.map_err(|e| PeerError::NoAnswer(e.to_string()))?;
            let Some(delay) = net.passage(to.host, me.host) else { return lost().await };
            tokio::time::sleep(delay).await;
            net.group(to).map_err(|_| PeerError::NoAnswer("it went away".into()))?;
            answer.map_err(|e| PeerError::Refused(e.to_string()))
        })
    }

    fn fetch(
        &self,
        from: Replica,
        _group: GroupId,
        body: Bytes,
    ) -> BoxStream<'static, Result<Bytes, PeerError>> {
        let (me, net) = (self.me, self.net.clone());
        let group = match net.group(from) {
            Ok(group) => group,
            Err(error) => return Box::pin(stream::iter([Err(error)])),
        };
        let pieces = net.with(|state| state.stream_pieces.pop()).unwrap_or(usize::MAX);
        let stream = group.serve(me, body).take(pieces).then(move |piece| {
            let net = net.clone();
            async move {
                net.with(|state| state.pieces_sent += 1);
                match net.passage(from.host, me.host) {
                    Some(delay) if net.group(from).is_ok() => tokio::time::sleep(delay).await,
                    _ => return Err(PeerError::NoAnswer("the connection broke".into())),
                }
                piece
            }
        });
        Box::pin(stream)
    }
}
