//! Connections: how many there may be, and how long each may keep us waiting.
//!
//! A request sets no timer of its own. Each connection notes what it waits for and since when, in ticks of
//! [`TICK`]; one sweeper looks at all of them and cuts those that take too long.

use crate::config::ServerConfig;
use crate::dispatch::{State, handle};
use crate::memory::{MemoryBudget, Permit};
use crate::route::Port;
use futures_util::task::AtomicWaker;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use metrics::{Counter, counter};
use std::collections::HashMap;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice, Write as _};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};

/// How finely waiting is measured, and how often the sweeper looks.
pub(crate) const TICK: Duration = Duration::from_millis(250);
/// Longest head of a request in bytes: room for the longest key, percent-encoded, and then some.
const HEAD_BYTES_MAX: usize = 96 << 10;
/// What a connection may have read of a head before it counts against the memory budget: hyper's first buffer.
const HEAD_BYTES_FREE: usize = 8 << 10;
/// Most bytes that a connection reads ahead or holds back.
const BUFFER_BYTES_MAX: usize = 128 << 10;
/// How long accepting pauses when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// What a connection past the limit is told.
const REFUSAL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\n\
    content-length: 141\r\nretry-after: 1\r\nconnection: close\r\n\r\n\
    {\"type\":\"urn:skein:problem:overloaded\",\"title\":\"The server is overloaded\",\"status\":503,\
    \"detail\":\"Too many connections. Try another peer.\"}  \n";

const RUN: u8 = 0;
/// Finish the request under way, then close.
const DRAIN: u8 = 1;
/// Close now.
const CUT: u8 = 2;

/// What a connection waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// A request to begin.
    Idle,
    /// The rest of a request's head.
    Head,
    /// Us.
    Busy,
}

/// One connection, as seen by its task, its requests and the sweeper.
pub(crate) struct ConnState {
    /// The phase in the low two bits, above them the tick in which it began.
    phase: AtomicU64,
    /// The tick after the one since which a write has been waiting for the client; 0 if none does.
    blocked: AtomicU32,
    command: AtomicU8,
    waker: AtomicWaker,
    clock: Arc<AtomicU32>,
}

impl ConnState {
    fn new(clock: Arc<AtomicU32>) -> Self {
        let conn = Self {
            phase: AtomicU64::new(0),
            blocked: AtomicU32::new(0),
            command: AtomicU8::new(RUN),
            waker: AtomicWaker::new(),
            clock,
        };
        conn.enter(Phase::Idle);
        conn
    }

    fn tick(&self) -> u32 {
        self.clock.load(Ordering::Relaxed)
    }

    fn enter(&self, phase: Phase) {
        self.phase.store(u64::from(self.tick()) << 2 | phase as u64, Ordering::Relaxed);
    }

    fn phase(&self) -> (Phase, u32) {
        let packed = self.phase.load(Ordering::Relaxed);
        let phase = match packed & 3 {
            0 => Phase::Idle,
            1 => Phase::Head,
            _ => Phase::Busy,
        };
        (phase, (packed >> 2) as u32)
    }

    /// Notes that a request is being handled, until the guard is dropped.
    pub(crate) fn busy(self: &Arc<Self>) -> Busy {
        self.enter(Phase::Busy);
        Busy(self.clone())
    }

    /// Notes that the client sent something, and answers what for.
    fn bytes_arrived(&self) -> Phase {
        let phase = self.phase().0;
        if phase == Phase::Idle {
            self.enter(Phase::Head);
        }
        phase
    }

    fn write_waits(&self) {
        let since = self.tick() + 1;
        // Only the first wait counts; it ends when bytes move.
        let _ = self.blocked.compare_exchange(0, since, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn write_moved(&self) {
        if self.blocked.load(Ordering::Relaxed) != 0 {
            self.blocked.store(0, Ordering::Relaxed);
        }
    }

    fn order(&self, command: u8) {
        self.command.fetch_max(command, Ordering::Release);
        self.waker.wake();
    }

    /// Why this connection has to go, if it has.
    fn overdue(&self, now: u32, limits: &Limits) -> Option<&'static str> {
        let blocked = self.blocked.load(Ordering::Relaxed);
        if blocked != 0 && limits.write < now.saturating_sub(blocked - 1) {
            return Some("the client stopped reading");
        }
        let (phase, since) = self.phase();
        let waited = now.saturating_sub(since);
        match phase {
            Phase::Idle if limits.idle < waited => Some("idle for too long"),
            Phase::Head if limits.head < waited => Some("the headers took too long"),
            _ => None,
        }
    }
}

/// Marks a connection as busy until it is dropped.
pub(crate) struct Busy(Arc<ConnState>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.enter(Phase::Idle);
    }
}

/// Time limits in ticks.
struct Limits {
    idle: u32,
    head: u32,
    write: u32,
}

fn ticks(limit: Duration) -> u32 {
    u32::try_from(limit.as_millis().div_ceil(TICK.as_millis())).unwrap_or(u32::MAX)
}

/// All connections of a server.
pub(crate) struct Connections {
    clock: Arc<AtomicU32>,
    live: Mutex<HashMap<u64, (Port, Arc<ConnState>)>>,
    next_id: AtomicU64,
    data: AtomicUsize,
    admin: AtomicUsize,
    limits: Limits,
    one_gone: Notify,
    refused: Counter,
}

impl Connections {
    pub(crate) fn new(config: &ServerConfig) -> Self {
        Self {
            clock: Arc::new(AtomicU32::new(0)),
            live: Mutex::new(HashMap::new()),
            next_id: AtomicU64::new(0),
            data: AtomicUsize::new(0),
            admin: AtomicUsize::new(0),
            limits: Limits {
                idle: ticks(config.idle_timeout),
                head: ticks(config.header_timeout),
                write: ticks(config.write_timeout),
            },
            one_gone: Notify::new(),
            refused: counter!("skein_http_connections_refused_total"),
        }
    }

    fn counter(&self, port: Port) -> &AtomicUsize {
        match port {
            Port::Data => &self.data,
            Port::Admin => &self.admin,
        }
    }

    /// Connections open on a port.
    pub(crate) fn count(&self, port: Port) -> usize {
        self.counter(port).load(Ordering::Relaxed)
    }

    fn live(&self) -> MutexGuard<'_, HashMap<u64, (Port, Arc<ConnState>)>> {
        // A panic elsewhere leaves the map whole: it is changed by single calls only.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves the clock on by one tick and cuts the connections that are overdue.
    pub(crate) fn sweep(&self) {
        let now = self.clock.fetch_add(1, Ordering::Relaxed) + 1;
        for (_, conn) in self.live().values() {
            if let Some(reason) = conn.overdue(now, &self.limits) {
                tracing::debug!(reason, "a connection is cut");
                conn.order(CUT);
            }
        }
    }

    fn order_all(&self, port: Port, command: u8) {
        self.live().values().filter(|(at, _)| *at == port).for_each(|(_, conn)| conn.order(command));
    }

    /// Lets requests under way on a port finish for at most `grace`, then cuts what is left. Nothing is to be accepted
    /// there any more.
    pub(crate) async fn drain(&self, port: Port, grace: Duration) {
        self.order_all(port, DRAIN);
        let all_gone = async {
            loop {
                let gone = self.one_gone.notified();
                if self.count(port) == 0 {
                    break;
                }
                gone.await;
            }
        };
        if tokio::time::timeout(grace, all_gone).await.is_err() {
            let connections = self.count(port);
            tracing::warn!(connections, "requests under way did not finish in time and are cut");
            self.order_all(port, CUT);
        }
    }
}

/// A place among the connections, given back when dropped.
struct Place {
    state: Arc<State>,
    port: Port,
    id: u64,
}

impl Place {
    /// `None` if the port has all the connections that it may have.
    fn take(state: &Arc<State>, port: Port, conn: &Arc<ConnState>) -> Option<Place> {
        let connections = &state.connections;
        let max = match port {
            Port::Data => state.config.connections_max,
            Port::Admin => state.config.admin_connections_max,
        };
        // Only the accepting task of the port adds, so the count cannot grow between the look and the addition.
        if max <= connections.count(port) {
            return None;
        }
        connections.counter(port).fetch_add(1, Ordering::Relaxed);
        let id = connections.next_id.fetch_add(1, Ordering::Relaxed);
        connections.live().insert(id, (port, conn.clone()));
        Some(Place { state: state.clone(), port, id })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let connections = &self.state.connections;
        connections.live().remove(&self.id);
        connections.counter(self.port).fetch_sub(1, Ordering::Relaxed);
        connections.one_gone.notify_waiters();
    }
}

/// Accepts connections until `stop` changes.
pub(crate) async fn accept(
    state: Arc<State>,
    listener: TcpListener,
    port: Port,
    mut stop: watch::Receiver<()>,
) {
    loop {
        let accepted = tokio::select! {
            biased;
            _ = stop.changed() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => begin(&state, stream, port),
            Err(error) => {
                // Mostly: out of file descriptors. Those that we have will come free.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn begin(state: &Arc<State>, stream: TcpStream, port: Port) {
    let conn = Arc::new(ConnState::new(state.connections.clock.clone()));
    let Some(place) = Place::take(state, port, &conn) else {
        state.connections.refused.increment(1);
        // The socket does not block, and a client that is not there to read it has lost nothing.
        let _ = stream.into_std().and_then(|mut stream| stream.write(REFUSAL));
        return;
    };
    // Answers go out when they are ready, not when they fill a packet; without it they are only slower.
    let _ = stream.set_nodelay(true);
    tokio::spawn(serve(state.clone(), stream, port, conn, place));
}

async fn serve(state: Arc<State>, stream: TcpStream, port: Port, conn: Arc<ConnState>, place: Place) {
    let _place = place;
    let memory = state.config.memory.clone();
    let watched = Watched { stream, conn: conn.clone(), head: HeadMemory { memory, bytes: 0, permit: None } };
    let for_requests = conn.clone();
    let service = service_fn(move |request| {
        let (state, conn) = (state.clone(), for_requests.clone());
        async move { Ok::<_, Infallible>(handle(state, port, conn, request).await) }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .header_read_timeout(None)
            // A client may end its side once it has asked, and is answered all the same; one that is gone altogether
            // shows when we write.
            .half_close(true)
            .max_header_size(HEAD_BYTES_MAX)
            .max_buf_size(BUFFER_BYTES_MAX)
            .serve_connection(TokioIo::new(watched), service)
    );
    let mut draining = false;
    let ended = poll_fn(|cx| {
        conn.waker.register(cx.waker());
        match conn.command.load(Ordering::Acquire) {
            RUN => {}
            CUT => return Poll::Ready(Ok(())),
            _ if draining => {}
            _ => {
                draining = true;
                connection.as_mut().graceful_shutdown();
            }
        }
        connection.as_mut().poll(cx)
    })
    .await;
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended badly");
    }
}

/// A socket that notes when bytes arrive and when writing has to wait.
struct Watched {
    stream: TcpStream,
    conn: Arc<ConnState>,
    head: HeadMemory,
}

/// What the head of a request occupies while it arrives: nothing worth counting, unless it is unusually long.
struct HeadMemory {
    memory: MemoryBudget,
    bytes: usize,
    permit: Option<Permit>,
}

impl HeadMemory {
    /// Counts bytes that arrived in this phase; an error if there is no memory for such a head.
    fn count(&mut self, phase: Phase, bytes: usize) -> io::Result<()> {
        match phase {
            Phase::Idle => (self.bytes, self.permit) = (bytes, None),
            Phase::Head => self.bytes += bytes,
            Phase::Busy => (self.bytes, self.permit) = (0, None),
        }
        if HEAD_BYTES_FREE < self.bytes && self.permit.is_none() {
            self.permit = self.memory.try_reserve(BUFFER_BYTES_MAX);
            if self.permit.is_none() {
                return Err(io::Error::new(io::ErrorKind::OutOfMemory, "no memory for so long a head"));
            }
        }
        Ok(())
    }
}

impl Watched {
    fn note<T>(&self, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match written {
            Poll::Pending => self.conn.write_waits(),
            Poll::Ready(_) => self.conn.write_moved(),
        }
        written
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        let arrived = buf.filled().len() - before;
        if 0 < arrived {
            let phase = self.conn.bytes_arrived();
            self.head.count(phase, arrived)?;
        }
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.note(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits { idle: 10, head: 4, write: 6 }
    }

    fn conn() -> Arc<ConnState> {
        Arc::new(ConnState::new(Arc::new(AtomicU32::new(100))))
    }

    #[test]
    fn the_refusal_is_as_long_as_it_says() {
        let text = std::str::from_utf8(REFUSAL).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{}", body.len());
        let json: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(json["type"], "urn:skein:problem:overloaded");
    }

    #[test]
    fn an_idle_connection_goes_after_the_idle_time_and_a_started_head_sooner() {
        let conn = conn();
        assert_eq!(conn.overdue(110, &limits()), None);
        assert!(conn.overdue(111, &limits()).is_some());
        conn.bytes_arrived();
        assert_eq!(conn.overdue(104, &limits()), None);
        assert!(conn.overdue(105, &limits()).is_some());
    }

    #[test]
    fn trickling_more_header_bytes_in_buys_no_time() {
        let conn = conn();
        conn.bytes_arrived();
        conn.clock.store(104, Ordering::Relaxed);
        conn.bytes_arrived();
        assert!(conn.overdue(105, &limits()).is_some());
    }

    #[test]
    fn a_request_being_handled_is_never_idle() {
        let conn = conn();
        let busy = conn.busy();
        conn.bytes_arrived();
        assert_eq!(conn.overdue(1_000_000, &limits()), None);
        conn.clock.store(500, Ordering::Relaxed);
        drop(busy);
        assert_eq!(conn.overdue(510, &limits()), None);
        assert!(conn.overdue(511, &limits()).is_some());
    }

    #[test]
    fn a_reader_that_stops_is_cut_and_one_that_goes_on_is_not() {
        let conn = conn();
        let _busy = conn.busy();
        conn.write_waits();
        conn.clock.store(105, Ordering::Relaxed);
        conn.write_waits();
        assert!(conn.overdue(107, &limits()).is_some());
        conn.write_moved();
        conn.write_waits();
        assert_eq!(conn.overdue(107, &limits()), None);
    }

    #[test]
    fn a_long_head_counts_against_the_memory_budget_until_its_request_begins() {
        let memory = MemoryBudget::new(BUFFER_BYTES_MAX);
        let mut head = HeadMemory { memory: memory.clone(), bytes: 0, permit: None };
        head.count(Phase::Idle, HEAD_BYTES_FREE).unwrap();
        assert_eq!(memory.used(), 0);
        head.count(Phase::Head, 1).unwrap();
        assert_eq!(memory.used(), BUFFER_BYTES_MAX);
        let mut other = HeadMemory { memory: memory.clone(), bytes: 0, permit: None };
        assert!(other.count(Phase::Idle, HEAD_BYTES_FREE + 1).is_err());
        head.count(Phase::Busy, 1).unwrap();
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn a_cut_is_not_taken_back_by_a_drain() {
        let conn = conn();
        conn.order(CUT);
        conn.order(DRAIN);
        assert_eq!(conn.command.load(Ordering::Relaxed), CUT);
    }
}
