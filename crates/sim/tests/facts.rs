//! Facts and settings of whole flocks: real membership, real broadcasts, a network that loses messages.

use skein_flock::facts::Facts;
use skein_flock::io::Input;
use skein_sim::{Cluster, Death, Network, Node, World};
use std::time::Duration;

fn lossy(size: usize, seed: u64) -> Cluster {
    Cluster::with(size, seed, Network { loss: 0.01, ..Network::default() }, World::default())
}

fn say(cluster: &mut Cluster, node: Node, key: &str, value: &str) {
    let input = Input::Publish { key: key.into(), value: value.to_owned().into() };
    cluster.sim.act(node, |peer, io| peer.input(input, io)).expect("a live peer").expect("a fact that fits");
}

fn facts(cluster: &Cluster) -> impl Iterator<Item = (Node, &Facts)> {
    cluster.sim.live().map(|(node, peer)| (node, peer.flock.facts()))
}

/// How long until all live peers know the same.
fn agreed(cluster: &mut Cluster, within: Duration) -> Option<Duration> {
    cluster.run_while_not(Duration::from_millis(100), within, |cluster| {
        let sums = cluster.sim.live().next().map(|(_, peer)| peer.flock.facts().sums());
        facts(cluster).all(|(_, it)| Some(it.sums()) == sums)
    })
}

/// The first live peer that does not hold what `node` says to be `value`.
fn ignorant(cluster: &Cluster, node: Node, key: &str, value: Option<&str>) -> Option<Node> {
    let host = cluster.sim.get(node).expect("a live peer").flock.me().id;
    let value = value.map(str::as_bytes);
    facts(cluster).find(|(_, it)| it.get(host, key) != value).map(|(node, _)| node)
}

#[test]
fn what_anyone_says_is_known_to_all_within_seconds_and_never_forgotten() {
    let mut cluster = lossy(100, 1);
    cluster.join_all().settle(30);
    for node in 0..100 {
        say(&mut cluster, Node(node), "disk_free", "17");
    }
    cluster.settle(3);
    for node in (0..100).step_by(10) {
        assert_eq!(ignorant(&cluster, Node(node), "disk_free", Some("17")), None, "about {node}");
    }
    say(&mut cluster, Node(7), "disk_free", "16");
    cluster.settle(2);
    assert_eq!(ignorant(&cluster, Node(7), "disk_free", Some("16")), None);
    assert!(agreed(&mut cluster, Duration::from_secs(60)).is_some());
    cluster.settle(600);
    assert!(facts(&cluster).all(|(_, it)| it.hosts_len() == 100), "nobody is taken for dead");
}

#[test]
fn a_new_peer_learns_all_at_once_and_a_restarted_one_replaces_what_it_said_before() {
    let mut cluster = lossy(60, 2);
    cluster.join_all().settle(20);
    for node in 0..60 {
        say(&mut cluster, Node(node), "build", "0.1.0");
    }
    cluster.settle(5);
    let new = cluster.join(Node(5));
    cluster.settle(8);
    let known = cluster.sim.get(new).unwrap().flock.facts().hosts_len();
    assert_eq!(known, 60);
    cluster.kill(Node(9), Death::Reset).settle(1);
    cluster.restart(Node(9), Node(5)).settle(10);
    assert_eq!(ignorant(&cluster, Node(9), "build", None), None);
    say(&mut cluster, Node(9), "build", "0.1.1");
    cluster.settle(3);
    assert_eq!(ignorant(&cluster, Node(9), "build", Some("0.1.1")), None);
}

#[test]
fn who_leaves_is_forgotten_at_once_and_who_dies_after_the_grace() {
    let mut cluster = lossy(60, 3);
    cluster.join_all().settle(20);
    for node in 0..60 {
        say(&mut cluster, Node(node), "build", "0.1.0");
    }
    cluster.settle(10);
    cluster.leave(Node(30)).settle(3);
    let left = facts(&cluster).filter(|(_, it)| it.hosts_len() != 59).count();
    assert!(left <= 1, "{left} peers have not heard of the leave");
    cluster.kill(Node(40), Death::Silent).kill(Node(41), Death::Refusing).settle(40);
    assert!(facts(&cluster).all(|(_, it)| it.hosts_len() == 59));
    cluster.settle(100);
    assert!(facts(&cluster).all(|(_, it)| it.hosts_len() == 57));
    assert!(agreed(&mut cluster, Duration::from_secs(60)).is_some());
}

#[test]
fn two_halves_that_were_apart_agree_soon_after_they_meet() {
    let mut cluster: Cluster = Cluster::new(100, 4);
    cluster.join_all().settle(30);
    for node in 0..100 {
        say(&mut cluster, Node(node), "load", "0");
    }
    cluster.settle(10);
    cluster.partition(|node| u8::from(node.index() < 50)).settle(30);
    for node in (0..100).step_by(5) {
        say(&mut cluster, Node(node), "load", "9");
        cluster.settle(1);
    }
    cluster.settle(300);
    cluster.heal();
    let all_know = |cluster: &Cluster| {
        (0..100).step_by(5).all(|node| ignorant(cluster, Node(node), "load", Some("9")).is_none())
    };
    let step = Duration::from_millis(100);
    let took = cluster.run_while_not(step, Duration::from_secs(45), |cluster| all_know(cluster));
    println!("all know what was said meanwhile {took:?} after the mend");
    assert!(took.is_some());
    // Some may just have been taken for dead by the other half, where they did not hear it.
    let took = agreed(&mut cluster, Duration::from_secs(200));
    println!("all know the same {took:?} after that");
    assert!(took.is_some());
    assert!(facts(&cluster).all(|(_, it)| it.hosts_len() == 100), "each half has taken the other back");
    assert!(all_know(&cluster));
}

#[test]
fn settings_reach_all_though_few_hear_of_them_from_the_catalog() {
    let mut cluster = lossy(100, 5);
    cluster.join_all().settle(20);
    for node in [3, 50, 99] {
        let input = Input::Set { key: "pace".into(), version: 4, value: Some("fast".into()) };
        cluster.sim.act(Node(node), |peer, io| peer.input(input, io)).unwrap().unwrap();
    }
    cluster.settle(4);
    assert!(facts(&cluster).all(|(_, it)| it.settings().get("pace") == Some((4, b"fast"))));
}
