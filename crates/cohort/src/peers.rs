//! How the replicas of a group reach each other: a seam that the cell fills with the transport.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use skein_model::{GroupId, HostId, StoreId};
use tokio::time::Instant;

/// Where a replica of a group lives. There may be several there one after the other, but only one at a time:
/// [`LifeId`](skein_model::LifeId) tells them apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Replica {
    /// The directory.
    pub store: StoreId,
    /// The host that has this directory.
    pub host: HostId,
}

/// Why a peer did not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// It cannot be reached; nothing was sent.
    #[error("cannot be reached: {0}")]
    Unreachable(String),
    /// It was asked and gave no answer.
    #[error("did not answer: {0}")]
    NoAnswer(String),
    /// It answered that it cannot: it has no such replica, or is closing.
    #[error("refused: {0}")]
    Refused(String),
}

/// Carries bytes to the same group on another host, where `receive` and `serve` of the group take them.
pub trait Peers: Send + Sync + 'static {
    /// Asks the replica of `group` on the host, which must have this store.
    fn call(
        &self,
        to: Replica,
        group: GroupId,
        body: Bytes,
        deadline: Instant,
    ) -> BoxFuture<'static, Result<Bytes, PeerError>>;

    /// Asks for a stream. The other end produces no faster than this is read.
    fn fetch(
        &self,
        from: Replica,
        group: GroupId,
        body: Bytes,
    ) -> BoxStream<'static, Result<Bytes, PeerError>>;
}

/// Nobody else: for a group of one.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoPeers;

impl Peers for NoPeers {
    fn call(
        &self,
        to: Replica,
        _group: GroupId,
        _body: Bytes,
        _deadline: Instant,
    ) -> BoxFuture<'static, Result<Bytes, PeerError>> {
        Box::pin(async move { Err(no_peer(to)) })
    }

    fn fetch(
        &self,
        from: Replica,
        _group: GroupId,
        _body: Bytes,
    ) -> BoxStream<'static, Result<Bytes, PeerError>> {
        Box::pin(futures_util::stream::iter([Err(no_peer(from))]))
    }
}

fn no_peer(replica: Replica) -> PeerError {
    PeerError::Unreachable(format!("{} is not known", replica.host))
}
