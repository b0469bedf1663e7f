//! Who is connected, where everybody is, and which connections are being tried. All of it under one lock that is never held while
//! anybody else's code runs.

use crate::api::{Handler, PeerInfo, Unreachable};
use crate::conn::{Conn, End};
use crate::dial::Dial;
use crate::lanes::Ended;
use crate::options::Options;
use crate::refusal::{Reason, Refusals};
use bytes::Bytes;
use skein_model::HostId;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, watch};

/// Counters that are asked for once.
pub(crate) struct Metrics {
    pub(crate) bytes_in: metrics::Counter,
    pub(crate) bytes_out: metrics::Counter,
    pub(crate) served: metrics::Counter,
    connections: metrics::Gauge,
}

/// See the module.
pub(crate) struct Switchboard {
    pub(crate) options: Options,
    /// Where others reach us.
    pub(crate) share: SocketAddr,
    pub(crate) metrics: Metrics,
    pub(crate) refusals: Refusals,
    /// Raised whenever somebody who waits for a connection may want to look again.
    pub(crate) changed: watch::Sender<u64>,
    /// True once the transport is closing: no new calls.
    pub(crate) closing: watch::Sender<bool>,
    /// True once everything has to end.
    pub(crate) stopped: watch::Sender<bool>,
    /// The owner, until the end: it may own us.
    handler: Mutex<Option<Arc<dyn Handler>>>,
    /// Held while the handler hears that a peer is up or down, so that it hears it in order.
    announce: Mutex<()>,
    state: Mutex<State>,
    unreached: Mutex<BTreeMap<SocketAddr, Unreachable>>,
    /// There is something in `unreached`.
    pub(crate) unreached_wake: Notify,
    ids: AtomicU64,
}

/// What the lock guards.
#[derive(Default)]
pub(crate) struct State {
    /// Where hosts are said to be.
    pub(crate) book: BTreeMap<HostId, SocketAddr>,
    /// Who is said to be there.
    pub(crate) hosts: BTreeMap<SocketAddr, HostId>,
    /// Who is connected.
    pub(crate) peers: BTreeMap<HostId, Peer>,
    /// Under which addresses they are connected.
    pub(crate) addrs: BTreeMap<SocketAddr, HostId>,
    pub(crate) dials: BTreeMap<SocketAddr, Dial>,
    pub(crate) half_open: usize,
    pub(crate) conns: usize,
    /// State of the generator of jitter.
    pub(crate) luck: u64,
}

/// A peer with a connection at least.
pub(crate) struct Peer {
    /// The last that takes anything is where new things are started.
    conns: Vec<Arc<Conn>>,
    /// Addresses to tell about when the last connection is gone.
    wanted: BTreeSet<SocketAddr>,
    /// What waits until the other end has taken all posts of an older connection.
    held: Option<Held>,
}

struct Held {
    by: u64,
    posts: VecDeque<Bytes>,
    bytes: usize,
}

/// What a new connection brings along: posts that waited for it.
#[derive(Default)]
pub(crate) struct Waited {
    pub(crate) posts: VecDeque<Bytes>,
    /// The owner still wants to hear of the address they were for.
    pub(crate) wanted: Option<SocketAddr>,
}

impl Peer {
    /// The connection to start new things on.
    pub(crate) fn current(&self) -> Option<&Arc<Conn>> {
        self.conns.iter().rev().find(|conn| conn.takes())
    }

    /// Posts, or holds back, in order. `Ok(false)`: too much waits already.
    fn post(&mut self, bytes: Bytes, bytes_max: usize) -> Result<bool, Ended> {
        if let Some(held) = &mut self.held {
            if bytes_max < held.bytes + bytes.len() {
                return Ok(false);
            }
            held.bytes += bytes.len();
            held.posts.push_back(bytes);
            return Ok(true);
        }
        let conn = self.current().ok_or(Ended)?;
        conn.with(|lanes| {
            if bytes_max < lanes.posts_bytes() + bytes.len() {
                return Ok(false);
            }
            lanes.post(bytes).map(|()| true)
        })
    }

    /// Whatever was posted on this connection has to be there before anything is posted on another.
    fn hold_for(&mut self, conn: &Conn) {
        let lanes = conn.lanes();
        if self.held.is_none() && lanes.ever_posted && !lanes.retiring().confirmed {
            self.held = Some(Held { by: conn.id, posts: VecDeque::new(), bytes: 0 });
        }
    }

    fn want(&mut self, addr: SocketAddr) {
        self.wanted.insert(addr);
        for conn in &self.conns {
            conn.posts_wanted.store(true, Ordering::Relaxed);
        }
    }

    fn unwant(&mut self) {
        self.wanted.clear();
        for conn in &self.conns {
            conn.posts_wanted.store(false, Ordering::Relaxed);
        }
    }
}

impl Switchboard {
    pub(crate) fn new(options: Options, share: SocketAddr, handler: Arc<dyn Handler>) -> Switchboard {
        Switchboard {
            share,
            metrics: Metrics {
                bytes_in: metrics::counter!("skein_peer_received_bytes_total"),
                bytes_out: metrics::counter!("skein_peer_sent_bytes_total"),
                served: metrics::counter!("skein_peer_requests_served_total"),
                connections: metrics::gauge!("skein_peer_connections"),
            },
            refusals: Refusals::default(),
            changed: watch::Sender::new(0),
            closing: watch::Sender::new(false),
            stopped: watch::Sender::new(false),
            handler: Mutex::new(Some(handler)),
            announce: Mutex::new(()),
            state: Mutex::new(State { luck: options.seed, ..State::default() }),
            unreached: Mutex::default(),
            unreached_wake: Notify::new(),
            ids: AtomicU64::new(1),
            options,
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The owner; `None` once everything has ended.
    pub(crate) fn handler(&self) -> Option<Arc<dyn Handler>> {
        self.handler.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Another number than any before.
    pub(crate) fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn closing(&self) -> bool {
        *self.closing.borrow()
    }

    pub(crate) fn changed(&self) {
        self.changed.send_modify(|version| *version += 1);
    }

    /// Ends everything, at once.
    pub(crate) fn stop(&self) {
        self.closing.send_replace(true);
        self.stopped.send_replace(true);
        let conns: Vec<_> = self.conns();
        for conn in conns {
            conn.kill();
        }
        self.changed();
        // Not dropped under the lock: it may hold the last handle to us, whose end comes here again.
        let handler = self.handler.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(handler);
    }

    /// All connections, by host.
    pub(crate) fn conns(&self) -> Vec<Arc<Conn>> {
        self.state().peers.values().flat_map(|peer| peer.conns.iter().cloned()).collect()
    }

    pub(crate) fn connected(&self) -> Vec<PeerInfo> {
        let state = self.state();
        state.peers.values().filter_map(|peer| peer.conns.last()).map(|conn| conn.peer.clone()).collect()
    }

    pub(crate) fn learn(&self, host: HostId, addr: SocketAddr) {
        let mut state = self.state();
        state.learn(host, addr);
        drop(state);
        self.changed();
    }

    /// Whether one process may be connected to us beside those that are: not if another goes by the same host ID. Those
    /// that are in its way are then asked for a sign of life.
    pub(crate) fn room_for(&self, host: HostId, life: u64) -> Result<(), (Reason, String)> {
        let state = self.state();
        if self.closing() {
            return Err((Reason::Closing, "we are closing".into()));
        }
        let max = self.options.limits.connections_max;
        if max <= state.conns {
            return Err((
                Reason::Full,
                format!("there are {} connections; at most {max} are held", state.conns),
            ));
        }
        let Some(peer) = state.peers.get(&host) else { return Ok(()) };
        let Some(other) = peer.conns.iter().find(|conn| conn.life != life) else { return Ok(()) };
        let text = format!(
            "another live process is host {host}, at {}: if this one is its copy, give it an ID of its own by \
             skein init; if it is its next life, this passes by itself",
            other.peer.addr
        );
        for conn in &peer.conns {
            conn.hurry();
        }
        Err((Reason::Duplicate, text))
    }

    /// A connection is agreed on. Of two to the same peer the one that is not kept is retired. The handler hears of a peer
    /// that is new.
    pub(crate) fn register(&self, conn: &Arc<Conn>) -> Result<(), (Reason, String)> {
        let _announce = self.announce.lock().unwrap_or_else(PoisonError::into_inner);
        self.room_for(conn.peer.identity.host, conn.life)?;
        let new = self.state().register(conn, self.options.limits.posts_bytes_max);
        self.metrics.connections.increment(1);
        if new && let Some(handler) = self.handler() {
            handler.up(&conn.peer);
        }
        self.changed();
        if self.closing() {
            // It may have missed being told.
            conn.with(|lanes| lanes.retire());
            if *self.stopped.borrow() {
                conn.kill();
            }
        }
        Ok(())
    }

    /// A connection has ended, and why.
    pub(crate) fn unregister(&self, conn: &Arc<Conn>, end: &End) {
        let announce = self.announce.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = self.state().unregister(conn);
        self.release(conn);
        self.metrics.connections.decrement(1);
        let handler = self.handler();
        if gone.is_some()
            && let Some(handler) = &handler
        {
            handler.down(&conn.peer);
        }
        drop(announce);
        if let End::Refused { reason, text } = end {
            self.refusals.note(crate::refusal::By::Them, *reason, conn.peer.addr, text);
        }
        for addr in gone.unwrap_or_default() {
            self.unreached(addr, Unreachable::Lost);
        }
        self.changed();
    }

    /// Tells the handler soon that an address cannot be reached. Not at once: whoever posts may hold locks that it needs.
    pub(crate) fn unreached(&self, addr: SocketAddr, why: Unreachable) {
        if *self.stopped.borrow() {
            return;
        }
        self.unreached.lock().unwrap_or_else(PoisonError::into_inner).insert(addr, why);
        self.unreached_wake.notify_one();
    }

    pub(crate) fn take_unreached(&self) -> BTreeMap<SocketAddr, Unreachable> {
        std::mem::take(&mut self.unreached.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Posts over a connection that is there; gives the message back if there is none.
    pub(crate) fn post_now(&self, state: &mut State, to: SocketAddr, bytes: Bytes) -> Result<(), Bytes> {
        let Some(peer) = state.addrs.get(&to).copied().and_then(|host| state.peers.get_mut(&host)) else {
            return Err(bytes);
        };
        match peer.post(bytes.clone(), self.options.limits.posts_bytes_max) {
            Ok(true) => peer.want(to),
            Ok(false) => self.unreached(to, Unreachable::TimedOut),
            Err(Ended) => return Err(bytes),
        }
        Ok(())
    }

    /// The peer posted to us, or the owner to it.
    pub(crate) fn posts_wanted(&self, conn: &Arc<Conn>, addr: SocketAddr) {
        if let Some(peer) = self.state().peers.get_mut(&conn.peer.identity.host) {
            peer.want(addr);
        }
    }

    /// The owner has nothing more to post there.
    pub(crate) fn hang_up(&self, addr: SocketAddr) {
        let mut state = self.state();
        if let Some(dial) = state.dials.get_mut(&addr) {
            dial.hung_up = true;
        }
        if let Some(peer) = state.addrs.get(&addr).copied().and_then(|host| state.peers.get_mut(&host)) {
            peer.unwant();
        }
        drop(state);
        self.unreached.lock().unwrap_or_else(PoisonError::into_inner).remove(&addr);
    }

    /// Starts nothing new on a connection.
    pub(crate) fn retire(&self, conn: &Conn) {
        conn.with(|lanes| lanes.retire());
    }

    /// The other end starts nothing new on a connection. If there is another, that is the one to use, in order.
    pub(crate) fn stepped_back(&self, conn: &Arc<Conn>) {
        if let Some(peer) = self.state().peers.get_mut(&conn.peer.identity.host)
            && peer.current().is_some()
        {
            peer.hold_for(conn);
        }
    }

    /// The other end has taken all that was posted on a connection: what was held back for that goes on.
    pub(crate) fn release(&self, conn: &Arc<Conn>) {
        let mut state = self.state();
        let Some(peer) = state.peers.get_mut(&conn.peer.identity.host) else { return };
        let Some(held) = peer.held.take_if(|held| held.by == conn.id) else { return };
        for post in held.posts {
            // If there is no connection, its end is told as the loss of what was posted.
            let _ = peer.post(post, usize::MAX);
        }
    }
}

impl State {
    pub(crate) fn learn(&mut self, host: HostId, addr: SocketAddr) {
        if self.book.insert(host, addr) == Some(addr) {
            self.hosts.insert(addr, host);
            return;
        }
        self.hosts.retain(|_, known| *known != host);
        self.hosts.insert(addr, host);
        // A new address is no old failure's heir.
        if self.dials.get(&addr).is_some_and(|dial| !dial.running) {
            self.dials.remove(&addr);
        }
    }

    /// True if the peer had no connection before.
    fn register(&mut self, conn: &Arc<Conn>, posts_bytes_max: usize) -> bool {
        let host = conn.peer.identity.host;
        let share = conn.peer.addr;
        self.conns += 1;
        // It says itself where it is, unless that is nowhere.
        if share.ip().is_unspecified() {
            if let Some(dialled) = conn.origin.dialled {
                self.learn(host, dialled);
            }
        } else {
            self.learn(host, share);
        }
        let mut waited = Vec::new();
        for addr in [conn.origin.dialled, Some(share)].into_iter().flatten() {
            self.addrs.insert(addr, host);
            waited.extend(self.dials.get_mut(&addr).map(|dial| dial.take_posts(addr)));
        }
        if let Some(dialled) = conn.origin.dialled {
            self.dials.remove(&dialled);
        }
        let mut new = false;
        let peer = self.peers.entry(host).or_insert_with(|| {
            new = true;
            Peer { conns: Vec::new(), wanted: BTreeSet::new(), held: None }
        });
        match peer.current().cloned() {
            Some(other) if other.origin.outlives(&conn.origin) => {
                conn.with(|lanes| lanes.retire());
                peer.conns.insert(0, conn.clone());
            }
            other => {
                if let Some(other) = other.or_else(|| peer.conns.last().cloned()) {
                    other.with(|lanes| lanes.retire());
                    peer.hold_for(&other);
                }
                peer.conns.push(conn.clone());
            }
        }
        conn.posts_wanted.store(!peer.wanted.is_empty(), Ordering::Relaxed);
        for waited in waited {
            if let Some(wanted) = waited.wanted {
                peer.want(wanted);
            }
            for post in waited.posts {
                // There is a connection that takes it, and what waited was within the bound.
                let _ = peer.post(post, posts_bytes_max.saturating_mul(2));
            }
        }
        new
    }

    /// If it was the last connection of its peer: the addresses to tell about.
    fn unregister(&mut self, conn: &Arc<Conn>) -> Option<BTreeSet<SocketAddr>> {
        let host = conn.peer.identity.host;
        self.conns -= 1;
        let peer = self.peers.get_mut(&host)?;
        peer.conns.retain(|other| other.id != conn.id);
        if !peer.conns.is_empty() {
            return None;
        }
        let wanted = std::mem::take(&mut peer.wanted);
        self.peers.remove(&host);
        self.addrs.retain(|_, known| *known != host);
        Some(wanted)
    }
}
