//! The public face: one [`Transport`] to a process.

use crate::accept;
use crate::api::{CallError, Chunks, Handler, PeerInfo};
use crate::call;
use crate::options::Options;
use crate::switchboard::Switchboard;
use crate::tls::TlsError;
use bytes::Bytes;
use skein_model::HostId;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

/// Why a transport did not start. Nothing runs then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The text names the option.
    #[error("the transport's options are unsound: {0}")]
    Options(String),
    /// The certificates do not fit.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The address is taken, or not ours.
    #[error("listen for peers on {addr}: {source}")]
    Listen {
        /// What was asked for.
        addr: SocketAddr,
        /// What the network says.
        source: std::io::Error,
    },
}

/// Connections to the peers of a cell. A handle: clones are the same transport, and all of it ends with the last one or with
/// [`Transport::close`].
///
/// The handler may hold one too; then only `close` ends it.
#[derive(Clone)]
pub struct Transport {
    shared: Arc<Shared>,
}

struct Shared {
    local: SocketAddr,
    board: Arc<Switchboard>,
    /// Ends when nobody listens any more.
    listening: watch::Receiver<()>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.board.stop();
    }
}

impl Transport {
    /// Begins to listen. From here on the handler is told and asked. Has to be called within a tokio runtime, where everything then
    /// runs.
    pub async fn start(options: Options, handler: Arc<dyn Handler>) -> Result<Transport, StartError> {
        options.check().map_err(StartError::Options)?;
        if let Some(tls) = &options.tls {
            tls.check_own(options.identity.host)?;
        }
        let failed = |source| StartError::Listen { addr: options.listen, source };
        let listener = options.network.listen(options.listen).await.map_err(failed)?;
        let local = listener.local_addr().map_err(failed)?;
        let share = match options.share {
            Some(share) if share.port() == 0 => SocketAddr::new(share.ip(), local.port()),
            Some(share) => share,
            None => local,
        };
        let board = Arc::new(Switchboard::new(options, share, handler));
        let (ended, listening) = watch::channel(());
        tokio::spawn(accept::listen(board.clone(), ended, listener));
        tokio::spawn(accept::announce(board.clone()));
        Ok(Transport { shared: Arc::new(Shared { local, board, listening }) })
    }

    /// The address that is listened on.
    pub fn local_addr(&self) -> SocketAddr {
        self.shared.local
    }

    /// The address that peers are told.
    pub fn share_addr(&self) -> SocketAddr {
        self.shared.board.share
    }

    /// Notes where a host is reached; the newest address wins, and one that is new is tried without the wait that failures at another
    /// have earned. What peers say of themselves when they connect is noted by itself.
    pub fn learn(&self, host: HostId, addr: SocketAddr) {
        if host != self.shared.board.options.identity.host {
            self.shared.board.learn(host, addr);
        }
    }

    /// Where a host is reached, as far as known.
    pub fn address(&self, host: HostId) -> Option<SocketAddr> {
        self.shared.board.state().book.get(&host).copied()
    }

    /// Sends a message to whoever is at the address, at most once, and in order with others while the connection lasts. A
    /// connection is opened if there is none. If that fails or the connection breaks, [`Handler::unreachable`] is told; not from
    /// within this call.
    pub fn post(&self, to: SocketAddr, bytes: Bytes) {
        self.shared.board.post(to, bytes);
    }

    /// The owner has nothing more to post to the address: what is queued is sent, the connection is closed once nothing has
    /// needed it for a while ([`Timeouts::linger`](crate::Timeouts)), and [`Handler::unreachable`] is not told.
    pub fn hang_up(&self, addr: SocketAddr) {
        self.shared.board.hang_up(addr);
    }

    /// Asks a host, opening a connection if there is none. Dropping the future takes the request back: it is not sent if it was not
    /// yet, and the handler's future is dropped if it was.
    ///
    /// [`CallError::NotSent`] means that the peer's handler certainly did not and will not see the request; after
    /// [`CallError::NoAnswer`] it may have, or may yet.
    pub fn request(
        &self,
        to: HostId,
        service: u8,
        body: Bytes,
        deadline: Instant,
    ) -> impl Future<Output = Result<Bytes, CallError>> + Send + 'static {
        call::request(self.shared.board.clone(), to, service, body, deadline)
    }

    /// Asks a host for a stream; nothing happens before it is polled. The callee is at most
    /// [`Limits::stream_window_bytes`](crate::Limits) and a chunk ahead. Ends after the first error. Dropping it cancels it.
    pub fn stream(&self, from: HostId, service: u8, body: Bytes) -> Chunks<CallError> {
        call::stream(self.shared.board.clone(), from, service, body)
    }

    /// Who is connected now, by host.
    pub fn connected(&self) -> Vec<PeerInfo> {
        self.shared.board.connected()
    }

    /// Ends it: new requests are refused at both ends, those under way have until `grace` is over, then all connections are
    /// closed, the handler is let go and the address is free. Closing twice does nothing more; dropping the future leaves it closing.
    pub async fn close(&self, grace: Duration) {
        let board = &self.shared.board;
        board.closing.send_replace(true);
        board.changed();
        for conn in board.conns() {
            board.retire(&conn);
        }
        let mut changed = board.changed.subscribe();
        let emptied = async {
            while board.state().conns != 0 {
                if changed.changed().await.is_err() {
                    break;
                }
            }
        };
        // What is not done in time is cut short.
        let _ = timeout(grace, emptied).await;
        board.stop();
        // Whoever starts again at once needs the address; an error says that it is free.
        let _ = self.shared.listening.clone().changed().await;
    }
}
