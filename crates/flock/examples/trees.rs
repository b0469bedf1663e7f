//! Measures the ways to keep broadcast trees, on a random regular graph without membership:
//! `cargo run -p skein-flock --example trees -- [peers] [seed] [variant]`.

#[path = "../tests/overlay/mod.rs"]
mod overlay;

use overlay::{Latency, World};
use skein_flock::broadcast::{Config, Keying, MessageId, Start};
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);

struct Total {
    messages: u64,
    bytes: u64,
    payloads: u64,
}

fn total(world: &World) -> Total {
    Total { messages: world.messages, bytes: world.bytes, payloads: world.payloads }
}

/// Prints the figures of the broadcasts `ids` since `before`.
fn report(what: &str, world: &World, before: &Total, ids: &[(usize, MessageId)]) {
    let peers = world.nodes.len() as f64;
    let count = ids.len() as f64;
    let rmr = (world.payloads - before.payloads) as f64 / count / (peers - 1.0) - 1.0;
    let bytes = (world.bytes - before.bytes) as f64 / count / peers - 100.0;
    let messages = (world.messages - before.messages) as f64 / count / peers;
    let (mut sum, mut worst, mut missed) = (0.0, 0.0_f64, 0);
    for (at, id) in ids {
        let seen = &world.seen[id];
        let ratio = seen.last.since(seen.began).as_secs_f64() / world.bound(*at).as_secs_f64();
        (sum, worst) = (sum + ratio, worst.max(ratio));
        missed += world.nodes.len() - seen.delivered;
    }
    println!(
        "  {what:34} RMR {rmr:8.5}  LDT/bound mean {:.3} worst {worst:.3}  {messages:5.2} messages {bytes:6.1} bytes a peer  missed {missed}",
        sum / count
    );
}

/// Broadcasts 100 bytes from each, `gap` apart, and waits until all is quiet.
fn round(world: &mut World, origins: &[usize], gap: Duration) -> Vec<(usize, MessageId)> {
    let ids = origins
        .iter()
        .map(|at| {
            let id = world.publish(*at, vec![0; 100]);
            if !gap.is_zero() {
                world.run_for(gap);
            }
            (*at, id)
        })
        .collect();
    world.run_for(Duration::from_secs(5));
    ids
}

fn measure(name: &str, config: Config, latency: Latency, peers: usize, seed: u64) {
    println!("{name}, {latency:?}, {peers} peers, seed {seed}");
    let mut world = World::new(config, peers, latency, seed).regular(5);
    let origins: Vec<usize> = (0..20).map(|at| (at * 487 + 13) % peers).collect();
    let one = &origins[..1];
    let before = total(&world);
    let ids = round(&mut world, one, Duration::ZERO);
    report("the very first broadcast", &world, &before, &ids);
    for _ in 0..5 {
        round(&mut world, one, Duration::ZERO);
    }
    let before = total(&world);
    let ids = round(&mut world, one, Duration::ZERO);
    report("one origin, seventh broadcast", &world, &before, &ids);
    for _ in 0..5 {
        round(&mut world, &origins, MS * 2000);
    }
    let before = total(&world);
    let ids = round(&mut world, &origins, MS * 2000);
    report("20 origins in turn, sixth round", &world, &before, &ids);
    let state: Vec<usize> = world.nodes.iter().map(|node| node.broadcast.state_bytes()).collect();
    let before = total(&world);
    let ids = round(&mut world, &origins, Duration::ZERO);
    report("20 origins at once", &world, &before, &ids);
    let strangers: Vec<usize> = (0..20).map(|at| (at * 491 + 17) % peers).collect();
    let before = total(&world);
    let ids = round(&mut world, &strangers, MS * 2000);
    report("20 origins never seen before", &world, &before, &ids);
    let turned: u64 = world.nodes.iter().map(|node| u64::from(node.broadcast.counters().turned)).sum();
    world.run_for(Duration::from_secs(120));
    println!(
        "  state with 20 trees {} bytes (mean), {} (most); links turned {turned}",
        state.iter().sum::<usize>() / peers,
        state.iter().max().expect("a peer")
    );
}

/// How many broadcasts until slow peers are no longer on anybody's path.
fn slow(config: Config, extra: Duration, peers: usize, seed: u64) {
    let mut world = World::new(config, peers, Latency::Constant(MS * 50), seed).regular(5);
    for _ in 0..3 {
        round(&mut world, &[13], Duration::ZERO);
    }
    world.nodes.iter_mut().skip(7).step_by(20).for_each(|node| node.slow = extra);
    for nth in 1..=8 {
        let before = total(&world);
        let ids = round(&mut world, &[13], Duration::ZERO);
        report(&format!("5 % slow by {extra:?}, broadcast {nth}"), &world, &before, &ids);
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default: usize| args.get(at).and_then(|it| it.parse().ok()).unwrap_or(default);
    let (peers, seed) = (number(0, 10_000), number(1, 1) as u64);
    let which = args.get(2).map_or("scout", String::as_str);
    let config = match which {
        "flood" => Config { start: Start::Flood, ..Config::default() },
        "shared" => Config { start: Start::Shared, ..Config::default() },
        "last3" | "last4" => {
            let count = if which == "last3" { 3 } else { 4 };
            let keying = Keying::LastPeers(count);
            Config { start: Start::Flood, keying, trees_max: 4096, ..Config::default() }
        }
        _ => Config { start: Start::Scout { eager_hops: number(4, 2) as u8 }, ..Config::default() },
    };
    let latency = match args.get(3).map(String::as_str) {
        Some("lognormal") => Latency::Lognormal { median: MS * 50, sigma: 0.5 },
        Some("regions") => Latency::Regions { within: MS * 2, between: [MS * 40, MS * 75, MS * 110] },
        _ => Latency::Constant(MS * 50),
    };
    if args.get(3).is_some_and(|it| it == "slow") {
        slow(config.clone(), MS * 500, peers, seed);
        slow(config, MS * 60, peers, seed);
    } else {
        measure(which, config, latency, peers, seed);
    }
}
