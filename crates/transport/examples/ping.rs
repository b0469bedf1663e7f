//! What a small request costs: two transports in one process, over loopback TCP.
//!
//! ```sh
//! cargo run --profile bench -p skein-transport --example ping -- [CALLERS] [BYTES] [SECONDS] [tls]
//! ```
//!
//! Prints round trips a second, the processor time of both ends together for each, and how long they take; then
//! what a stream carries.

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use skein_model::{CellId, HostId, StoreId};
use skein_transport::cert::{make_ca, make_peer};
use skein_transport::{Chunks, Failure, Handler, Identity, Options, PeerInfo, Tls, Transport, Unreachable};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::Instant;

struct Echo;

impl Handler for Echo {
    fn admit(&self, _peer: &PeerInfo) -> Result<(), String> {
        Ok(())
    }
    fn up(&self, _peer: &PeerInfo) {}
    fn down(&self, _peer: &PeerInfo) {}
    fn posted(&self, _from: &PeerInfo, _bytes: Bytes) {}
    fn unreachable(&self, _addr: SocketAddr, _why: Unreachable) {}

    fn request(
        &self,
        _from: PeerInfo,
        _service: u8,
        body: Bytes,
        _deadline: Instant,
    ) -> BoxFuture<'static, Result<Bytes, Failure>> {
        Box::pin(std::future::ready(Ok(body)))
    }

    fn stream(&self, _from: PeerInfo, _service: u8, _body: Bytes) -> Chunks<Failure> {
        let chunk = Bytes::from(vec![7; 256 << 10]);
        Box::pin(futures_util::stream::iter((0..4096).map(move |_| Ok(chunk.clone()))))
    }
}

/// Processor time of this process, in seconds; zero where `/proc` is not to be had.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    ticks as f64 / 100.0
}

async fn run() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut args = std::env::args().skip(1);
    let callers: usize = args.next().map_or(Ok(64), |arg| arg.parse())?;
    let bytes: usize = args.next().map_or(Ok(100), |arg| arg.parse())?;
    let seconds: u64 = args.next().map_or(Ok(3), |arg| arg.parse())?;
    let ca = if args.next().as_deref() == Some("tls") { Some(make_ca()?) } else { None };
    let mut transports = Vec::new();
    for host in [1, 2] {
        let identity = Identity { cell: CellId(1), host: HostId(host), store: StoreId(host) };
        let mut options = Options::new(identity, SocketAddr::from(([127, 0, 0, 1], 0)), host);
        if let Some(ca) = &ca {
            let peer = make_peer(ca, HostId(host), &[])?;
            options.tls = Some(Tls::from_pem(&ca.certificate, &peer.certificate, &peer.key)?);
        }
        transports.push(Transport::start(options, Arc::new(Echo)).await?);
    }
    let (a, b) = (transports.remove(0), transports.remove(0));
    a.learn(HostId(2), b.local_addr());
    let body = Bytes::from(vec![1; bytes]);
    a.request(HostId(2), 0, body.clone(), Instant::now() + Duration::from_secs(5)).await?;

    let stop = Arc::new(AtomicBool::new(false));
    let (began, used) = (Instant::now(), cpu());
    let tasks: Vec<_> = (0..callers)
        .map(|_| {
            let (a, body, stop) = (a.clone(), body.clone(), stop.clone());
            tokio::spawn(async move {
                let mut waits = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let asked = Instant::now();
                    if a.request(HostId(2), 0, body.clone(), asked + Duration::from_secs(5)).await.is_err() {
                        break;
                    }
                    waits.push(asked.elapsed());
                }
                waits
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    stop.store(true, Ordering::Relaxed);
    let mut waits = Vec::new();
    for task in tasks {
        waits.extend(task.await?);
    }
    let (took, used) = (began.elapsed().as_secs_f64(), cpu() - used);
    waits.sort_unstable();
    let count = waits.len().max(1);
    let at = |share: f64| waits.get((count as f64 * share) as usize).copied().unwrap_or_default();
    println!(
        "{callers} callers, {bytes} bytes: {:.0} round trips/s, {:.2} µs of processor each, p50 {:?}, p99 {:?}",
        count as f64 / took,
        used * 1e6 / count as f64,
        at(0.5),
        at(0.99)
    );
    let (began, used) = (Instant::now(), cpu());
    let mut chunks = a.stream(HostId(2), 0, Bytes::new());
    let mut total = 0;
    while let Some(chunk) = chunks.next().await {
        total += chunk?.len();
    }
    let took = began.elapsed().as_secs_f64();
    println!(
        "stream: {:.0} MB/s, {:.2} s of processor for each GB",
        total as f64 / took / 1e6,
        (cpu() - used) * 1e9 / total as f64
    );
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(run())
}
