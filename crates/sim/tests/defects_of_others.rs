//! What another implementation of the same papers gets wrong at scale, asked of ours; `bench-compare/flock` measures
//! that one in the same simulator.

use skein_sim::{Cluster, Death, Node};
use std::time::Duration;

const PEERS: usize = 300;

fn settled(seed: u64) -> Cluster {
    let mut cluster = Cluster::new(PEERS, seed);
    cluster.join_all().settle(40);
    cluster
}

/// Everyone tells everyone: what reaches whom says more than links do.
fn all_hear_all(cluster: &mut Cluster) {
    let live = cluster.live();
    let numbers: Vec<usize> = live.iter().map(|node| cluster.broadcast(*node)).collect();
    cluster.settle(20);
    for (number, origin) in numbers.into_iter().zip(&live) {
        let missed = live.iter().filter(|node| !cluster.told(number).reached(**node)).count();
        assert_eq!(missed, 0, "from {origin:?}");
    }
}

#[test] // there, a refused dial ends the search, and most survivors stay alone
fn refused_dials_do_not_end_the_search_for_neighbours() {
    let mut cluster = settled(5);
    cluster.kill_part(0.95, Death::Refusing).settle(15);
    let (graph, _) = cluster.graph();
    assert_eq!(graph.components().len(), 1);
    let degrees = graph.degree_histogram();
    assert_eq!(degrees[0], 0, "{degrees:?}");
    all_hear_all(&mut cluster);
}

#[test] // there, a request that is never answered occupies a place in the active view until the peer hears from its target
fn requests_that_nobody_answers_do_not_occupy_places() {
    let mut cluster = settled(6);
    cluster.kill_part(0.8, Death::Silent).settle(60);
    let (graph, _) = cluster.graph();
    let degrees = graph.degree_histogram();
    assert_eq!(graph.components().len(), 1);
    assert_eq!(degrees[..4].iter().sum::<usize>(), 0, "{degrees:?}");
}

#[test] // there, a peer whose view is empty no longer shuffles, and nobody hears of it again
fn a_peer_that_was_cut_off_from_all_others_is_in_again_after_ten_minutes() {
    let mut cluster = settled(7);
    cluster.partition(|node| u8::from(node == Node(17))).settle(600);
    let alone = |cluster: &Cluster| cluster.components().len() > 1;
    assert!(alone(&cluster));
    cluster.heal();
    let took = cluster.run_while_not(Duration::from_millis(500), Duration::from_secs(90), |it| !alone(it));
    assert!(took.is_some());
}

#[test] // there, half of the survivors' broadcasts never reach the rest
fn broadcasts_begun_right_after_a_mass_death_reach_every_survivor() {
    let mut cluster = settled(8);
    cluster.kill_part(0.8, Death::Reset);
    let live = cluster.live();
    let numbers: Vec<usize> = live
        .iter()
        .map(|node| {
            cluster.run(Duration::from_millis(100));
            cluster.broadcast(*node)
        })
        .collect();
    cluster.settle(30);
    for number in numbers {
        let missed = live.iter().filter(|node| !cluster.told(number).reached(**node)).count();
        assert_eq!(missed, 0, "broadcast {number}");
    }
}

#[test] // there, what is known of peers grows with every peer ever heard of
fn idle_peers_hold_no_more_after_twenty_minutes() {
    let mut cluster = Cluster::new(60, 9);
    cluster.join_all().settle(300);
    for node in 0..20 {
        cluster.broadcast(Node(node));
    }
    cluster.settle(120);
    let held = |cluster: &Cluster| {
        let each = cluster.sim.live().map(|(_, peer)| peer.flock.state_bytes());
        each.collect::<Vec<_>>()
    };
    let before = held(&cluster);
    cluster.settle(1_200);
    let after = held(&cluster);
    let grown = before.iter().zip(&after).map(|(before, after)| after.saturating_sub(*before)).max();
    assert!(grown <= Some(256), "{grown:?} of {:?}", before.iter().max());
    let sum = |all: &[usize]| all.iter().sum::<usize>();
    assert!(sum(&after) <= sum(&before) + 60 * 64, "{} then {}", sum(&before), sum(&after));
}
