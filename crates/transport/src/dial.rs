//! Opening connections: at most one attempt to an address at a time, and waits between those that fail.

use crate::api::Unreachable;
use crate::conn::{Conn, End, Origin};
use crate::greet::{self, Greeted, Refused};
use crate::options::Timeouts;
use crate::refusal::{By, Reason};
use crate::switchboard::{State, Switchboard, Waited};
use bytes::Bytes;
use skein_model::HostId;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};

/// Addresses whose failures are remembered.
const DIALS_MAX: usize = 1024;

/// A connection that ended sooner than this counts as another failure.
const SHORT_LIFE: Duration = Duration::from_secs(5);

/// What is known about opening a connection to an address that has none.
#[derive(Default)]
pub(crate) struct Dial {
    pub(crate) running: bool,
    /// The owner hung up: what waits is still sent, but nothing is told.
    pub(crate) hung_up: bool,
    posts: VecDeque<Bytes>,
    posts_bytes: usize,
    /// Whether anything was posted.
    posted: bool,
    failed: Option<Failed>,
}

/// The last failure.
#[derive(Clone)]
struct Failed {
    times: u32,
    until: Instant,
    why: Unreachable,
    text: String,
}

impl Dial {
    /// What waits for the connection.
    pub(crate) fn take_posts(&mut self, addr: SocketAddr) -> Waited {
        self.posts_bytes = 0;
        let wanted = (self.posted && !self.hung_up).then_some(addr);
        self.posted = false;
        Waited { posts: std::mem::take(&mut self.posts), wanted }
    }
}

/// Sees to it that a connection which has ended is known to have, also if its task is dropped or the handler panics in it.
struct Running<'a> {
    board: &'a Arc<Switchboard>,
    conn: &'a Arc<Conn>,
    end: Option<End>,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let end = self.end.take().unwrap_or(End::Closed);
        self.conn.lanes().end(&end.to_string());
        self.board.unregister(self.conn, &end);
    }
}

/// How long to wait after so many failures in a row: doubling from `min` to `max`, and up to a half more, but never beyond `max`.
fn backoff(times: u32, min: Duration, max: Duration, luck: &mut u64) -> Duration {
    let base = min.saturating_mul(1 << times.saturating_sub(1).min(20)).min(max);
    let jitter = base.mul_f64(draw(luck) as f64 / u64::MAX as f64 / 2.0);
    (base + jitter).min(max)
}

/// SplitMix64, after Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014).
pub(crate) fn draw(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Switchboard {
    /// See `Transport::post`.
    pub(crate) fn post(self: &Arc<Switchboard>, to: SocketAddr, bytes: Bytes) {
        let limits = &self.options.limits;
        if limits.post_bytes_max < bytes.len() || self.closing() {
            return self.unreached(to, Unreachable::Refused);
        }
        let mut state = self.state();
        let Err(bytes) = self.post_now(&mut state, to, bytes) else { return };
        let expected = state.hosts.get(&to).copied();
        let dial = state.dial(to);
        if let Some(failed) = &dial.failed
            && !dial.running
            && Instant::now() < failed.until
        {
            let why = failed.why;
            drop(state);
            return self.unreached(to, why);
        }
        if limits.posts_bytes_max < dial.posts_bytes + bytes.len() {
            drop(state);
            return self.unreached(to, Unreachable::TimedOut);
        }
        dial.posts_bytes += bytes.len();
        dial.posts.push_back(bytes);
        dial.posted = true;
        dial.hung_up = false;
        self.start(dial, to, expected);
    }

    /// The connection to a host, opened if there is none. The error says why there is none.
    pub(crate) async fn reach(
        self: &Arc<Switchboard>,
        host: HostId,
        deadline: Instant,
    ) -> Result<Arc<Conn>, String> {
        let mut changed = self.changed.subscribe();
        loop {
            changed.mark_unchanged();
            let addr = {
                let mut state = self.state();
                if self.closing() {
                    return Err("the transport is closing".into());
                }
                if let Some(conn) = state.peers.get(&host).and_then(|peer| peer.current()) {
                    return Ok(conn.clone());
                }
                let Some(addr) = state.book.get(&host).copied() else {
                    return Err("nobody has said where it is".into());
                };
                let dial = state.dial(addr);
                if let Some(failed) = &dial.failed
                    && !dial.running
                {
                    let wait = failed.until.saturating_duration_since(Instant::now());
                    if !wait.is_zero() {
                        return Err(format!(
                            "{addr}: {}; tried again in {} ms",
                            failed.text,
                            wait.as_millis()
                        ));
                    }
                }
                self.start(dial, addr, Some(host));
                addr
            };
            match timeout_at(deadline, changed.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err("the transport is closing".into()),
                Err(_) => return Err(format!("no connection to {addr} in time")),
            }
        }
    }

    fn start(self: &Arc<Switchboard>, dial: &mut Dial, to: SocketAddr, expected: Option<HostId>) {
        if !std::mem::replace(&mut dial.running, true) {
            let board = self.clone();
            tokio::spawn(async move { board.dial(to, expected).await });
        }
    }

    /// One attempt, and the connection's life if it succeeds.
    async fn dial(self: Arc<Switchboard>, to: SocketAddr, expected: Option<HostId>) {
        let mut stopped = self.stopped.subscribe();
        let opened = tokio::select! {
            biased;
            _ = stopped.wait_for(|stopped| *stopped) => return,
            opened = self.open(to, expected) => opened,
        };
        let (conn, greeted) = match opened {
            Ok(opened) => opened,
            Err((why, text)) => return self.failed(to, why, text),
        };
        let (since, before) = (conn.since, conn.failures);
        let in_order = self.run(&conn, greeted).await;
        // An address that takes connections and drops them is no better than one that takes none.
        if !in_order && since.elapsed() < SHORT_LIFE {
            let text = "the connection was lost soon after it was made".into();
            self.state().blame(to, before, text, &self.options.timeouts);
        }
    }

    /// Runs an agreed connection to its end; whether that came in good order.
    pub(crate) async fn run(self: &Arc<Switchboard>, conn: &Arc<Conn>, greeted: Greeted) -> bool {
        let mut running = Running { board: self, conn, end: None };
        let end = match self.handler() {
            Some(handler) => conn.run(greeted.io, greeted.first, &handler, self).await,
            None => End::Closed,
        };
        let end = running.end.insert(end);
        tracing::debug!(peer = %conn.peer.identity.host, addr = %conn.peer.addr, "connection ended: {end}");
        matches!(end, End::Retired | End::Closed)
    }

    async fn open(
        self: &Arc<Switchboard>,
        to: SocketAddr,
        expected: Option<HostId>,
    ) -> Result<(Arc<Conn>, Greeted), (Unreachable, String)> {
        let timeouts = &self.options.timeouts;
        let io = match timeout(timeouts.connect, self.options.network.connect(to)).await {
            Ok(Ok(io)) => io,
            Ok(Err(error)) if error.kind() == io::ErrorKind::TimedOut => {
                return Err((Unreachable::TimedOut, error.to_string()));
            }
            Ok(Err(error)) => return Err((Unreachable::Refused, error.to_string())),
            Err(_) => return Err((Unreachable::TimedOut, "no answer to connecting".into())),
        };
        let number = self.next_id();
        let refused = match timeout(timeouts.handshake, greet::connect(self, io, number, expected)).await {
            Ok(Ok(mut greeted)) => {
                let origin = Origin { opener: self.options.identity.host, number, dialled: Some(to) };
                let failures = self.state().failures(to);
                let conn = greeted.conn(self, origin, failures);
                match self.register(&conn) {
                    Ok(()) => return Ok((conn, greeted)),
                    Err((reason, text)) => {
                        greet::refuse(&mut greeted.io, reason, &text, timeouts.handshake).await;
                        Refused { by: By::Us, reason, text }
                    }
                }
            }
            Ok(Err(refused)) => refused,
            Err(_) => {
                let text = "it did not say who it is in time".into();
                self.refusals.note(By::Us, Reason::Slow, to, "it did not say who it is in time");
                return Err((Unreachable::TimedOut, text));
            }
        };
        let Refused { by, reason, text } = refused;
        self.refusals.note(by, reason, to, &text);
        Err((Unreachable::Refused, text))
    }

    /// There is no connection to the address.
    fn failed(&self, to: SocketAddr, why: Unreachable, text: String) {
        let mut guard = self.state();
        let state = &mut *guard;
        let connected = state.addrs.contains_key(&to);
        let dial = state.dial(to);
        dial.running = false;
        let before = dial.failed.as_ref().map_or(0, |failed| failed.times);
        let waited = dial.take_posts(to);
        dial.hung_up = false;
        state.blame(to, before, text, &self.options.timeouts);
        if let Some(failed) = &mut state.dial(to).failed {
            failed.why = why;
        }
        // The other end may have connected to us meanwhile.
        let mut lost = !connected && waited.wanted.is_some();
        for post in waited.posts {
            lost |= self.post_now(state, to, post).is_err() && waited.wanted.is_some();
        }
        drop(guard);
        if lost {
            self.unreached(to, why);
        }
        self.changed();
    }
}

impl State {
    /// An attempt, or a connection, came to nothing after `before` others: the next one has to wait. Unless it runs already.
    fn blame(&mut self, to: SocketAddr, before: u32, text: String, timeouts: &Timeouts) {
        let times = before.saturating_add(1);
        let wait = backoff(times, timeouts.backoff_min, timeouts.backoff_max, &mut self.luck);
        let dial = self.dial(to);
        if !dial.running {
            tracing::debug!(addr = %to, times, ?wait, "no connection: {text}");
            dial.failed = Some(Failed { times, until: Instant::now() + wait, why: Unreachable::Lost, text });
        }
    }

    /// How many attempts in a row have failed.
    pub(crate) fn failures(&self, to: SocketAddr) -> u32 {
        self.dials.get(&to).and_then(|dial| dial.failed.as_ref()).map_or(0, |failed| failed.times)
    }

    /// What is known about an address; forgets old failures when there are many.
    fn dial(&mut self, to: SocketAddr) -> &mut Dial {
        if DIALS_MAX <= self.dials.len() && !self.dials.contains_key(&to) {
            let now = Instant::now();
            self.dials.retain(|_, dial| {
                dial.running || dial.failed.as_ref().is_some_and(|failed| now < failed.until)
            });
        }
        self.dials.entry(to).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_their_bound_and_vary() {
        let (min, max) = (Duration::from_millis(100), Duration::from_secs(5));
        let mut luck = 1;
        let mut waits = Vec::new();
        for times in 1..40 {
            let wait = backoff(times, min, max, &mut luck);
            let base = min * (1 << (times - 1).min(10));
            assert!(base.min(max) <= wait && wait <= (base + base / 2).min(max), "{times}: {wait:?}");
            waits.push(backoff(1, min, max, &mut luck));
        }
        waits.sort();
        waits.dedup();
        assert!(30 < waits.len());
    }
}
