//! What a whole flock does, at a size that every run of the tests can bear. `flock-sim` asks the same of ten
//! thousand.

use skein_flock::health::Reach;
use skein_flock::io::Input;
use skein_sim::{Cluster, Death, Latency, Network, Node, World};
use std::time::Duration;

const PEERS: usize = 400;

fn settled(seed: u64) -> Cluster {
    let mut cluster = Cluster::new(PEERS, seed);
    cluster.join_all().settle(40);
    cluster
}

fn one_component(cluster: &mut Cluster, within: Duration) -> Option<Duration> {
    cluster.run_while_not(Duration::from_millis(50), within, |cluster| cluster.components().len() == 1)
}

#[test]
fn a_storm_of_joins_through_one_contact_ends_in_one_even_overlay() {
    let mut cluster: Cluster = Cluster::new(PEERS, 1);
    cluster.join_all();
    assert!(one_component(&mut cluster, Duration::from_secs(3)).is_some(), "{:?}", cluster.components());
    cluster.settle(20);
    let (graph, _) = cluster.graph();
    assert_eq!(graph.one_sided(), 0);
    let degrees = graph.degree_histogram();
    assert_eq!(degrees[..4].iter().sum::<usize>(), 0, "{degrees:?}");
    assert!(degrees.len() <= 8, "{degrees:?}");
    assert!(cluster.sim.live().all(|(_, peer)| peer.flock.state_bytes() < 4_096));
}

#[test]
fn one_seed_replays_to_the_same_bytes_and_another_does_not() {
    let run = |seed| {
        let latency = Latency::Lognormal { median: Duration::from_millis(40), sigma: 0.5 };
        let rough = Network { latency, loss: 0.02, breaks: 0.001, ..Network::default() };
        let mut cluster: Cluster = Cluster::with(150, seed, rough, World::default());
        cluster.join_all().settle(5);
        cluster.broadcast(Node(3));
        cluster.kill_part(0.2, Death::Silent).settle(10);
        (cluster.sim.trace(), cluster.sim.counters().events)
    };
    assert_eq!(run(4), run(4));
    assert_ne!(run(4).0, run(5).0);
}

#[test]
fn a_peer_that_many_cannot_reach_leaves_every_passive_view() {
    let mut cluster: Cluster = Cluster::new(100, 6);
    cluster.join_all().settle(60);
    let gone = Node(17);
    let peer = cluster.sim.get(gone).map(|peer| peer.flock.me()).unwrap();
    for (node, _) in cluster.sim.live().map(|(node, peer)| (node, peer.flock.me())).collect::<Vec<_>>() {
        cluster.say(node, 1, 8);
    }
    cluster.settle(10);
    let holders = |cluster: &Cluster| {
        let live = cluster.sim.live();
        live.filter(|(_, p)| p.flock.membership().passive().any(|addr| addr == peer.addr)).count()
    };
    cluster.kill(gone, Death::Silent).settle(5);
    let before = holders(&cluster);
    assert!(5 < before, "{before}");
    for at in (0..60).step_by(5).map(Node).filter(|node| *node != gone) {
        let failed = Input::Report { host: peer.id, reach: Reach::Failed };
        cluster.sim.act(at, |p, io| p.input(failed, io).unwrap());
    }
    cluster.settle(30);
    assert_eq!(holders(&cluster), 0, "of {before}");
}

#[test]
fn survivors_of_a_mass_death_find_each_other() {
    for (part, death, seconds) in
        [(0.8, Death::Reset, 2), (0.9, Death::Refusing, 5), (0.9, Death::Reset, 8), (0.8, Death::Silent, 12)]
    {
        let mut cluster = settled(2);
        cluster.kill_part(part, death);
        let took = one_component(&mut cluster, Duration::from_secs(seconds));
        assert!(took.is_some(), "{part} {death:?}: {:?}", cluster.components());
    }
}

#[test]
fn a_silent_death_is_noticed_by_all_neighbours() {
    let mut cluster = settled(3);
    cluster.watch_drops();
    let begin = cluster.now();
    let (graph, live) = cluster.graph();
    let victim = Node(77);
    let at = live.iter().position(|node| *node == victim).unwrap() as u32;
    let mut neighbours: Vec<Node> = graph.neighbours(at).iter().map(|to| live[*to as usize]).collect();
    cluster.kill(victim, Death::Silent).settle(10);
    let mut noticed: Vec<Node> = Vec::new();
    // (Links are given up for others now and then, too.)
    for dropped in cluster.drops.iter().filter(|dropped| dropped.neighbour == victim) {
        assert!(dropped.at.since(begin) < Duration::from_millis(3_200), "{dropped:?}");
        noticed.push(dropped.node);
    }
    neighbours.sort_unstable();
    noticed.sort_unstable();
    assert_eq!(noticed, neighbours);
}

#[test]
fn a_slow_peer_is_not_taken_for_a_dead_one() {
    let mut cluster = settled(4);
    cluster.watch_drops();
    cluster.slow(Node(9), Duration::from_millis(500)).settle(30);
    assert_eq!(cluster.drops.iter().filter(|dropped| dropped.neighbour == Node(9)).count(), 0);
}

#[test]
fn the_two_sides_of_a_mended_partition_find_each_other() {
    let mut cluster = settled(5);
    cluster.partition(|node| u8::from(node.0 < 150)).settle(120);
    assert_eq!(cluster.components().first(), Some(&250));
    cluster.heal();
    assert!(one_component(&mut cluster, Duration::from_secs(30)).is_some(), "{:?}", cluster.components());
}

#[test]
fn who_leaves_or_comes_back_is_taken_out_and_in() {
    let mut cluster = settled(6);
    for gone in (10..40).map(Node) {
        cluster.leave(gone);
    }
    cluster.settle(5);
    assert_eq!(cluster.components(), [PEERS - 30]);
    for back in (10..40).map(Node) {
        cluster.restart(back, Node(200));
    }
    cluster.settle(5);
    assert_eq!(cluster.components(), [PEERS]);
}
