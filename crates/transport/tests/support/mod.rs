//! Peers for tests: a handler that notes what it is told and answers a few services.
#![allow(dead_code, clippy::unwrap_used)] // each test file uses its part

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{StreamExt, stream};
use skein_model::{CellId, HostId, StoreId};
use skein_transport::memory::MemoryNetwork;
use skein_transport::{
    CallError, Chunks, Failure, Handler, Identity, Options, PeerInfo, Transport, Unreachable,
};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

pub const ECHO: u8 = 0;
pub const NEVER: u8 = 1;
pub const FAIL: u8 = 2;
pub const BREAK: u8 = 3;
/// Answers after as many milliseconds as the body says.
pub const LATE: u8 = 4;
/// Streams: as many chunks of so many bytes as the body says, for ever, failing after two.
pub const COUNT: u8 = 0;
pub const FAILING: u8 = 2;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Up(HostId),
    Down(HostId),
    Posted(HostId, Bytes),
    Unreachable(SocketAddr, Unreachable),
}

#[derive(Default)]
pub struct Notes {
    pub events: Mutex<Vec<Event>>,
    /// Whom not to admit.
    pub unwanted: Mutex<Vec<HostId>>,
    pub requests: AtomicUsize,
    /// Handlers' futures that were dropped before they answered.
    pub cancelled: AtomicUsize,
    /// Chunks that streams have given.
    pub produced: AtomicUsize,
    pub streams_dropped: AtomicUsize,
}

impl Notes {
    pub fn events(&self) -> Vec<Event> {
        self.events.lock().unwrap().clone()
    }

    pub fn posts(&self) -> Vec<Bytes> {
        let posted = |event| if let Event::Posted(_, bytes) = event { Some(bytes) } else { None };
        self.events().into_iter().filter_map(posted).collect()
    }

    pub fn unreachable(&self) -> Vec<(SocketAddr, Unreachable)> {
        let told = |event| if let Event::Unreachable(addr, why) = event { Some((addr, why)) } else { None };
        self.events().into_iter().filter_map(told).collect()
    }

    fn note(&self, event: Event) {
        self.events.lock().unwrap().push(event);
    }
}

pub struct Recorder(pub Arc<Notes>);

struct Counted(Arc<Notes>, fn(&Notes) -> &AtomicUsize);

impl Drop for Counted {
    fn drop(&mut self) {
        (self.1)(&self.0).fetch_add(1, Ordering::SeqCst);
    }
}

impl Handler for Recorder {
    fn admit(&self, peer: &PeerInfo) -> Result<(), String> {
        if self.0.unwanted.lock().unwrap().contains(&peer.identity.host) {
            return Err("its store is not the one we know".into());
        }
        Ok(())
    }

    fn up(&self, peer: &PeerInfo) {
        self.0.note(Event::Up(peer.identity.host));
    }

    fn down(&self, peer: &PeerInfo) {
        self.0.note(Event::Down(peer.identity.host));
    }

    fn posted(&self, from: &PeerInfo, bytes: Bytes) {
        self.0.note(Event::Posted(from.identity.host, bytes));
    }

    fn unreachable(&self, addr: SocketAddr, why: Unreachable) {
        self.0.note(Event::Unreachable(addr, why));
    }

    fn request(
        &self,
        from: PeerInfo,
        service: u8,
        body: Bytes,
        _deadline: Instant,
    ) -> BoxFuture<'static, Result<Bytes, Failure>> {
        self.0.requests.fetch_add(1, Ordering::SeqCst);
        let notes = self.0.clone();
        Box::pin(async move {
            match service {
                ECHO => Ok(body),
                NEVER => {
                    let _counted = Counted(notes, |notes| &notes.cancelled);
                    std::future::pending().await
                }
                LATE => {
                    sleep(Duration::from_millis(number(&body))).await;
                    Ok(body)
                }
                BREAK => panic!("as asked for by {}", from.identity.host),
                _ => Err(Failure { code: 7, text: "as asked for".into(), detail: body }),
            }
        })
    }

    fn stream(&self, _from: PeerInfo, service: u8, body: Bytes) -> Chunks<Failure> {
        let notes = self.0.clone();
        let (count, bytes) = (number(&body[..8]), number(&body[8..]) as usize);
        let counted = Counted(notes.clone(), |notes| &notes.streams_dropped);
        let chunks = stream::iter(0..count).map(move |at| {
            let _counted = &counted;
            notes.produced.fetch_add(1, Ordering::SeqCst);
            if service == FAILING && at == 2 {
                return Err(Failure { code: 9, text: "two are enough".into(), detail: Bytes::new() });
            }
            Ok(Bytes::from(vec![at as u8; bytes]))
        });
        Box::pin(chunks)
    }
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().unwrap())
}

/// The body that asks for a stream.
pub fn count(count: u64, bytes: u64) -> Bytes {
    Bytes::from([count.to_le_bytes(), bytes.to_le_bytes()].concat())
}

pub fn late(wait: Duration) -> Bytes {
    Bytes::from((wait.as_millis() as u64).to_le_bytes().to_vec())
}

pub struct Peer {
    pub transport: Transport,
    pub notes: Arc<Notes>,
    pub host: HostId,
}

pub fn identity(host: u64) -> Identity {
    Identity { cell: CellId(1), host: HostId(host), store: StoreId(host + 1000) }
}

pub fn addr(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Host `n` listens on port `n`.
pub fn options(network: &MemoryNetwork, host: u64) -> Options {
    let mut options = Options::new(identity(host), addr(host as u16), 77 * host + 5);
    options.network = Arc::new(network.clone());
    options
}

impl Peer {
    pub async fn start(options: Options) -> Peer {
        let notes = Arc::new(Notes::default());
        let host = options.identity.host;
        let transport = Transport::start(options, Arc::new(Recorder(notes.clone()))).await.unwrap();
        Peer { transport, notes, host }
    }

    pub async fn on(network: &MemoryNetwork, host: u64) -> Peer {
        Peer::start(options(network, host)).await
    }

    pub fn addr(&self) -> SocketAddr {
        self.transport.local_addr()
    }

    pub fn knows(&self, other: &Peer) {
        self.transport.learn(other.host, other.addr());
    }

    pub async fn ask(&self, to: &Peer, service: u8, body: impl Into<Bytes>) -> Result<Bytes, CallError> {
        let deadline = Instant::now() + Duration::from_secs(10);
        self.transport.request(to.host, service, body.into(), deadline).await
    }

    pub fn connected(&self) -> Vec<HostId> {
        self.transport.connected().iter().map(|peer| peer.identity.host).collect()
    }
}

/// Two peers that know each other.
pub async fn two(network: &MemoryNetwork) -> (Peer, Peer) {
    let (a, b) = (Peer::on(network, 1).await, Peer::on(network, 2).await);
    a.knows(&b);
    b.knows(&a);
    (a, b)
}

/// Waits until it is so; a minute at most.
pub async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let waited = timeout(Duration::from_secs(60), async {
        while !so() {
            sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_ok(), "it never came to {what}");
}
