//! What the transport carries and whom it tells.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use skein_model::{CellId, HostId, StoreId};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::time::Instant;

/// Who a peer is. Both ends of a connection tell each other, and both check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    /// The database it is part of.
    pub cell: CellId,
    /// Which of its servers.
    pub host: HostId,
    /// Which life of that server's disk.
    pub store: StoreId,
}

/// The other end of a connection, as the handshake told it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerInfo {
    /// Who it is.
    pub identity: Identity,
    /// Where it takes connections of peers.
    pub addr: SocketAddr,
    /// Wire version that both ends speak.
    pub version: u16,
    /// Its build, for logs and status pages.
    pub build: Arc<str>,
}

/// Why there is no connection to an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreachable {
    /// It said no at once: nobody listens there, or it is not who we looked for, or it does not want us.
    Refused,
    /// It said nothing in time.
    TimedOut,
    /// The connection that was there broke or was closed from the other side.
    Lost,
}

/// The answer to a request that was carried out but came to nothing: the callee's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Failure {
    /// What kind, in the callee's service.
    pub code: u16,
    /// For humans.
    pub text: String,
    /// For programs; may be empty.
    pub detail: Bytes,
}

/// Why a request was not answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The request certainly never reached the peer's handler.
    #[error("{peer} cannot be reached: {why}")]
    NotSent {
        /// Whom we meant.
        peer: HostId,
        /// Why not.
        why: String,
    },
    /// It was sent, and no answer came: it may have been carried out, or may still be.
    #[error("{peer} did not answer: {why}")]
    NoAnswer {
        /// Whom we asked.
        peer: HostId,
        /// Why not.
        why: String,
    },
    /// The peer answered with a failure.
    #[error(transparent)]
    Failed(#[from] Failure),
}

/// The chunks of an answer. The callee's are taken no faster than the caller's are read.
pub type Chunks<E> = BoxStream<'static, Result<Bytes, E>>;

/// Answers peers. Methods without a future must not block.
pub trait Handler: Send + Sync + 'static {
    /// Whether to talk to this peer at all; asked at the end of each handshake, on both sides. The text is sent to the other end
    /// and logged on both.
    fn admit(&self, peer: &PeerInfo) -> Result<(), String>;

    /// A connection to the peer is up, the first there is.
    fn up(&self, peer: &PeerInfo);

    /// The last connection to the peer is down.
    fn down(&self, peer: &PeerInfo);

    /// A message posted by a peer; see `Transport::post`.
    fn posted(&self, from: &PeerInfo, bytes: Bytes);

    /// What was posted to an address could not be delivered, or the connection there broke.
    fn unreachable(&self, addr: SocketAddr, why: Unreachable);

    /// A request. Dropping the future cancels it: the caller gave up, or is gone.
    fn request(
        &self,
        from: PeerInfo,
        service: u8,
        body: Bytes,
        deadline: Instant,
    ) -> BoxFuture<'static, Result<Bytes, Failure>>;

    /// A request for a stream. Dropping the stream cancels it.
    fn stream(&self, from: PeerInfo, service: u8, body: Bytes) -> Chunks<Failure>;
}
