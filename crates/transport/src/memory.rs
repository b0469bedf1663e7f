//! A network within the process, for tests: connections are pipes, and can be cut, held up, or refused, by address.

use crate::network::{Io, Listener, Network};
use futures_util::future::BoxFuture;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::sync::mpsc;

/// How much one direction of a connection holds.
const PIPE_BYTES: usize = 256 << 10;

/// A network; clones are the same.
#[derive(Clone, Default)]
pub struct MemoryNetwork {
    state: Arc<Mutex<State>>,
}

/// The listener's end of a connection, and where it comes from.
type Arrived = (Box<dyn Io>, SocketAddr);

#[derive(Default)]
struct State {
    listeners: BTreeMap<SocketAddr, mpsc::UnboundedSender<Arrived>>,
    last_port: u16,
    /// Who is unreachable: nothing that is sent to or by them arrives.
    silent: BTreeSet<SocketAddr>,
    /// Whom to wake when that changes.
    waiting: Vec<Waker>,
    /// Counts cuts; a connection of an earlier one with an address in `cut` is broken.
    cuts: u64,
    cut: BTreeMap<SocketAddr, u64>,
}

impl MemoryNetwork {
    /// An empty one.
    pub fn new() -> MemoryNetwork {
        MemoryNetwork::default()
    }

    /// Breaks all connections that were made to this address, as a crash of one end would. New ones can be made.
    pub fn cut(&self, addr: SocketAddr) {
        let mut state = self.state();
        state.cuts += 1;
        let cuts = state.cuts;
        state.cut.insert(addr, cuts);
        state.wake();
    }

    /// Whether nothing passes on connections to this address, in neither direction, until it is allowed again. Nothing is
    /// lost; new connections wait.
    pub fn silence(&self, addr: SocketAddr, silent: bool) {
        let mut state = self.state();
        if silent {
            state.silent.insert(addr)
        } else {
            state.silent.remove(&addr)
        };
        state.wake();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn wake(&mut self) {
        for waker in std::mem::take(&mut self.waiting) {
            waker.wake();
        }
    }
}

impl Network for MemoryNetwork {
    fn connect(&self, to: SocketAddr) -> BoxFuture<'static, io::Result<Box<dyn Io>>> {
        let network = self.clone();
        Box::pin(async move {
            std::future::poll_fn(|cx| {
                let mut state = network.state();
                if !state.silent.contains(&to) {
                    return Poll::Ready(());
                }
                state.waiting.push(cx.waker().clone());
                Poll::Pending
            })
            .await;
            let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
            let mut state = network.state();
            state.last_port += 1;
            let from = SocketAddr::new([127, 0, 0, 1].into(), state.last_port);
            let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
            let since = state.cuts;
            let end = |io| Pipe { network: network.clone(), to, since, io };
            let (ours, theirs) = (end(ours), end(theirs));
            let listener = state.listeners.get(&to).ok_or_else(refused)?;
            listener.send((Box::new(theirs), from)).map_err(|_| refused())?;
            Ok(Box::new(ours) as Box<dyn Io>)
        })
    }

    fn listen(&self, on: SocketAddr) -> BoxFuture<'static, io::Result<Box<dyn Listener>>> {
        let network = self.clone();
        Box::pin(async move {
            let mut state = network.state();
            let mut addr = on;
            while addr.port() == 0 || (on.port() == 0 && state.listeners.contains_key(&addr)) {
                state.last_port += 1;
                addr.set_port(30_000 + state.last_port % 30_000);
            }
            let (sender, arrivals) = mpsc::unbounded_channel();
            if state.listeners.get(&addr).is_some_and(|listener| !listener.is_closed()) {
                return Err(io::ErrorKind::AddrInUse.into());
            }
            state.listeners.insert(addr, sender);
            Ok(Box::new(MemoryListener { addr, arrivals }) as Box<dyn Listener>)
        })
    }
}

struct MemoryListener {
    addr: SocketAddr,
    arrivals: mpsc::UnboundedReceiver<Arrived>,
}

impl Listener for MemoryListener {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.addr)
    }

    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Box<dyn Io>, SocketAddr)>> {
        Box::pin(async move { self.arrivals.recv().await.ok_or_else(|| io::ErrorKind::NotConnected.into()) })
    }
}

/// One end of a connection.
struct Pipe {
    network: MemoryNetwork,
    /// The address that the connection was made to.
    to: SocketAddr,
    /// How many cuts there had been.
    since: u64,
    io: DuplexStream,
}

impl Pipe {
    /// Whether anything passes now.
    fn poll_open(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.network.state();
        if state.cut.get(&self.to).is_some_and(|cut| self.since < *cut) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        state.waiting.retain(|waker| !waker.will_wake(cx.waker()));
        state.waiting.push(cx.waker().clone());
        if state.silent.contains(&self.to) { Poll::Pending } else { Poll::Ready(Ok(())) }
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        std::task::ready!(self.poll_open(cx))?;
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        std::task::ready!(self.poll_open(cx))?;
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
