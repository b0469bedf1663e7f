//! What a peer's state takes, asked of the allocator: it sees what no protocol says of itself, and tells both alike.

use skein_sim::cluster::Cluster;
use skein_sim::{Death, Subject};

/// Bytes per live peer: what goes back to the allocator when the states are dropped, and the structs themselves.
pub fn of<P: Subject>(mut cluster: Cluster<P>, allocated: impl Fn() -> usize) -> f64 {
    let live = cluster.live();
    let mut peers: Vec<P> = Vec::with_capacity(live.len());
    peers.extend(live.iter().filter_map(|node| cluster.sim.kill(*node, Death::Silent)));
    let inline = live.len() * size_of::<P>();
    let held = allocated();
    peers.clear();
    (held - allocated() + inline) as f64 / live.len().max(1) as f64
}
