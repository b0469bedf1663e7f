//! The cell on the network: what goes out to other peers, and who takes what comes in.
//!
//! [`Link`] is what the rest of the cell sends through; it is filled in when the transport is up. [`Door`] stands at the other
//! end: it knows which service a request is for, and passes it on.

use crate::catalog::{CatalogLink, LinkError};
use crate::gossip::Gossip;
use crate::wire::{Envelope, service};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use skein_cohort::peers::{PeerError, Peers, Replica};
use skein_flock::Peer;
use skein_model::{GroupId, HostId, StoreId};
use skein_transport::{CallError, Chunks, Failure, Handler, PeerInfo, Transport, Unreachable};
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use tokio::time::Instant;

/// Codes of [`Failure`]s, in all services.
pub(crate) mod failure {
    /// The request is none, or for somebody else.
    pub(crate) const REFUSED: u16 = 1;
    /// Whoever could answer has not started or is stopping.
    pub(crate) const NOT_READY: u16 = 2;
}

/// A failure of this kind.
pub(crate) fn fail(code: u16, text: impl std::fmt::Display) -> Failure {
    Failure { code, text: text.to_string(), detail: Bytes::new() }
}

/// The way out. Clones are the same; in a cell that stays alone there never is a transport, and nobody is reached.
#[derive(Clone)]
pub(crate) struct Link {
    me: Replica,
    transport: Arc<OnceLock<Transport>>,
    gossip: Gossip,
}

impl Link {
    /// A way out that leads nowhere yet.
    pub(crate) fn new(me: Replica, gossip: Gossip) -> Link {
        Link { me, transport: Arc::default(), gossip }
    }

    /// From now on requests go through this transport.
    pub(crate) fn connect(&self, transport: Transport) {
        // Only the first counts; there is only one.
        let _ = self.transport.set(transport);
    }

    /// The transport, if there is one.
    pub(crate) fn transport(&self) -> Option<&Transport> {
        self.transport.get()
    }

    /// Asks a host; what that says of its health is told the flock.
    pub(crate) async fn request(
        &self,
        to: HostId,
        service: u8,
        body: Bytes,
        deadline: Instant,
    ) -> Result<Bytes, CallError> {
        let Some(transport) = self.transport.get() else {
            return Err(CallError::NotSent {
                peer: to,
                why: "this peer was started without --peer-addr".into(),
            });
        };
        let answer = transport.request(to, service, body, deadline).await;
        self.gossip
            .reached(to, !matches!(answer, Err(CallError::NotSent { .. } | CallError::NoAnswer { .. })));
        answer
    }

    /// The hosts that are connected now.
    pub(crate) fn connected(&self) -> Vec<PeerInfo> {
        self.transport.get().map(Transport::connected).unwrap_or_default()
    }
}

impl Peers for Link {
    fn call(
        &self,
        to: Replica,
        group: GroupId,
        body: Bytes,
        deadline: Instant,
    ) -> BoxFuture<'static, Result<Bytes, PeerError>> {
        let link = self.clone();
        Box::pin(async move {
            let envelope = Envelope { group, from: link.me.store, to: to.store };
            let answer = link.request(to.host, service::GROUP, envelope.seal(&body), deadline).await;
            answer.map_err(peer_error)
        })
    }

    fn fetch(
        &self,
        from: Replica,
        group: GroupId,
        body: Bytes,
    ) -> BoxStream<'static, Result<Bytes, PeerError>> {
        let Some(transport) = self.transport.get() else {
            let error = PeerError::Unreachable("this peer was started without --peer-addr".into());
            return futures_util::stream::iter([Err(error)]).boxed();
        };
        let envelope = Envelope { group, from: self.me.store, to: from.store };
        let chunks = transport.stream(from.host, service::GROUP, envelope.seal(&body));
        chunks.map(|chunk| chunk.map_err(peer_error)).boxed()
    }
}

fn peer_error(error: CallError) -> PeerError {
    match error {
        CallError::NotSent { why, .. } => PeerError::Unreachable(why),
        CallError::NoAnswer { why, .. } => PeerError::NoAnswer(why),
        CallError::Failed(failure) => PeerError::Refused(failure.text),
    }
}

impl CatalogLink for Link {
    fn ask(
        &self,
        to: HostId,
        body: Bytes,
        deadline: Instant,
    ) -> BoxFuture<'static, Result<Bytes, LinkError>> {
        let link = self.clone();
        Box::pin(async move {
            link.request(to, service::CATALOG, body, deadline).await.map_err(|error| match error {
                CallError::NotSent { why, .. } => LinkError::NotSent(why),
                CallError::NoAnswer { why, .. } => LinkError::NoAnswer(why),
                // It was told that the request is none of its business, before anything was done.
                CallError::Failed(failure) => LinkError::NotSent(failure.text),
            })
        })
    }

    fn reachable(&self) -> Vec<HostId> {
        self.connected().into_iter().map(|peer| peer.identity.host).collect()
    }
}

/// Who answers other peers.
pub(crate) trait Services: Send + Sync + 'static {
    /// Whether to talk to this peer; the text says why not, and what to do.
    fn admit(&self, host: HostId, store: StoreId) -> Result<(), String>;
    /// A peer can be reached again.
    fn up(&self, host: HostId);
    /// A message for a replica of ours.
    fn group(&self, group: GroupId, from: Replica, body: Bytes)
    -> BoxFuture<'static, Result<Bytes, Failure>>;
    /// A stream of a replica of ours.
    fn group_stream(&self, group: GroupId, from: Replica, body: Bytes) -> Chunks<Failure>;
    /// A request about rows.
    fn rows(&self, body: Bytes, deadline: Instant) -> BoxFuture<'static, Result<Bytes, Failure>>;
    /// A request about the catalog.
    fn catalog(
        &self,
        from: HostId,
        body: Bytes,
        deadline: Instant,
    ) -> BoxFuture<'static, Result<Bytes, Failure>>;
    /// How the cohorts are that this peer leads.
    fn status(&self) -> BoxFuture<'static, Result<Bytes, Failure>>;
}

/// The way in.
pub(crate) struct Door {
    me: StoreId,
    gossip: Gossip,
    services: OnceLock<Arc<dyn Services>>,
}

impl Door {
    /// Nobody answers yet but the flock.
    pub(crate) fn new(me: StoreId, gossip: Gossip) -> Arc<Door> {
        Arc::new(Door { me, gossip, services: OnceLock::new() })
    }

    /// From now on requests are answered.
    pub(crate) fn open(&self, services: Arc<dyn Services>) {
        // Only the first counts; there is only one.
        let _ = self.services.set(services);
    }

    fn services(&self) -> Result<&Arc<dyn Services>, Failure> {
        self.services.get().ok_or_else(|| fail(failure::NOT_READY, "the peer is starting"))
    }

    /// The replica of ours that is meant; whoever means another one is told so.
    fn envelope(&self, from: &PeerInfo, body: Bytes) -> Result<(GroupId, Replica, Bytes), Failure> {
        let (envelope, body) = Envelope::open(body).map_err(|error| fail(failure::REFUSED, error))?;
        let sender = from.identity;
        if envelope.to != self.me {
            let text = format!("this host has the directory {}, not {}", self.me, envelope.to);
            return Err(fail(failure::REFUSED, text));
        }
        if envelope.from != sender.store {
            let text = format!(
                "{} speaks for the directory {}, and has {}",
                sender.host, envelope.from, sender.store
            );
            return Err(fail(failure::REFUSED, text));
        }
        Ok((envelope.group, Replica { store: sender.store, host: sender.host }, body))
    }
}

impl Handler for Door {
    fn admit(&self, peer: &PeerInfo) -> Result<(), String> {
        match self.services.get() {
            Some(services) => services.admit(peer.identity.host, peer.identity.store),
            None => Ok(()),
        }
    }

    fn up(&self, peer: &PeerInfo) {
        tracing::info!(host = %peer.identity.host, addr = %peer.addr, build = %peer.build, "connected to a peer");
        self.gossip.reached(peer.identity.host, true);
        if let Some(services) = self.services.get() {
            services.up(peer.identity.host);
        }
    }

    fn down(&self, peer: &PeerInfo) {
        tracing::info!(host = %peer.identity.host, addr = %peer.addr, "no longer connected to a peer");
    }

    fn posted(&self, from: &PeerInfo, bytes: Bytes) {
        self.gossip.posted(Peer { id: from.identity.host, addr: from.addr.into() }, bytes);
    }

    fn unreachable(&self, addr: SocketAddr, why: Unreachable) {
        self.gossip.unreachable(addr, why);
    }

    fn request(
        &self,
        from: PeerInfo,
        service: u8,
        body: Bytes,
        deadline: Instant,
    ) -> BoxFuture<'static, Result<Bytes, Failure>> {
        let services = match self.services() {
            Ok(services) => services,
            Err(failure) => return Box::pin(std::future::ready(Err(failure))),
        };
        match service {
            service::GROUP => match self.envelope(&from, body) {
                Ok((group, from, body)) => services.group(group, from, body),
                Err(failure) => Box::pin(std::future::ready(Err(failure))),
            },
            service::ROWS => services.rows(body, deadline),
            service::CATALOG => services.catalog(from.identity.host, body, deadline),
            service::STATUS => services.status(),
            other => {
                let failure = fail(failure::REFUSED, format!("this release has no service {other}"));
                Box::pin(std::future::ready(Err(failure)))
            }
        }
    }

    fn stream(&self, from: PeerInfo, service: u8, body: Bytes) -> Chunks<Failure> {
        let stream = self.services().and_then(|services| {
            if service != service::GROUP {
                return Err(fail(failure::REFUSED, format!("service {service} has no streams")));
            }
            let (group, from, body) = self.envelope(&from, body)?;
            Ok(services.group_stream(group, from, body))
        });
        stream.unwrap_or_else(|failure| futures_util::stream::iter([Err(failure)]).boxed())
    }
}
