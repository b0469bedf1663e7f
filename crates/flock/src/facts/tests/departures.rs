use super::*;

fn knows(net: &Net, at: usize, host: usize) -> bool {
    net.nodes[at].facts.record(peer(host).id).is_some()
}

#[test]
fn a_peer_that_leaves_is_forgotten_at_once() {
    let mut net = Net::ring(8, 1);
    (0..8).for_each(|at| net.publish(at, "k", "v"));
    net.run(5 * SECOND);
    let payload = net.step(3, |facts, _| facts.leave()).unwrap();
    net.broadcast(3, payload);
    net.run(SECOND / 5);
    net.kill(3);
    net.run(SECOND);
    assert!((0..8).filter(|at| *at != 3).all(|at| !knows(&net, at, 3)));
    assert!(net.nodes[0].told.contains(&Event::Gone { host: peer(3).id }));
    net.run(10 * MINUTE);
    assert!((0..8).filter(|at| *at != 3).all(|at| !knows(&net, at, 3)), "nobody brings it back");
}

#[test]
fn a_peer_that_dies_is_forgotten_after_the_grace() {
    let mut net = Net::ring(8, 2);
    (0..8).for_each(|at| net.publish(at, "k", "v"));
    net.run(5 * SECOND);
    net.kill(3);
    net.run(50 * SECOND);
    assert!((0..8).filter(|at| *at != 3).all(|at| knows(&net, at, 3)), "it may yet say that it is there");
    net.run(2 * MINUTE);
    assert!((0..8).filter(|at| *at != 3).all(|at| !knows(&net, at, 3)));
    assert!(net.agree());
}

#[test]
fn the_dead_of_whom_no_neighbour_is_left_are_found_by_asking() {
    let mut net = Net::ring(30, 3);
    (0..30).for_each(|at| net.publish(at, "k", "v"));
    net.run(MINUTE);
    // All but six die in the same instant; the six find each other.
    let alive = [0, 5, 10, 15, 20, 25];
    (0..30).filter(|at| !alive.contains(at)).for_each(|at| net.nodes[at].up = false);
    for pair in alive.windows(2) {
        net.link(pair[0], pair[1]);
    }
    net.unlink_unreachable();
    net.run(180 * MINUTE);
    for at in alive {
        assert_eq!(net.nodes[at].facts.hosts_len(), alive.len());
    }
}

#[test]
fn an_owner_said_to_be_gone_says_that_it_is_not() {
    let mut net = Net::ring(8, 4);
    net.publish(3, "k", "v");
    net.run(5 * SECOND);
    let version = net.nodes[3].facts.own;
    let payload = encode_items(&[Item::Gone { host: peer(3).id, version }]);
    net.broadcast(6, payload);
    net.run(10 * MINUTE);
    assert!((0..8).all(|at| net.get(at, 3, "k").is_some()));
    assert!((0..8).all(|at| !net.nodes[at].told.contains(&Event::Gone { host: peer(3).id })));
    assert_eq!(net.nodes[3].facts.counters().outbid, 1);
    assert!(net.agree());
}

#[test]
fn a_peer_that_was_away_does_not_bring_back_the_dead() {
    let mut net = Net::ring(8, 5);
    (0..8).for_each(|at| net.publish(at, "k", "v"));
    net.run(5 * SECOND);
    net.groups[6] = 1;
    net.unlink_unreachable();
    net.run(SECOND);
    net.kill(3);
    net.run(5 * MINUTE);
    // While it was away it was said to be gone itself, and keeps what it knew: alone, it says so of nobody.
    assert!(knows(&net, 6, 3) && !knows(&net, 0, 3) && !knows(&net, 0, 6));
    net.groups[6] = 0;
    net.link(6, 0);
    net.link(6, 5);
    for _ in 0..120 {
        net.run(SECOND);
        assert!((0..8).filter(|at| ![3, 6].contains(at)).all(|at| !knows(&net, at, 3)));
    }
    assert!(!knows(&net, 6, 3));
    assert!(
        (0..8).filter(|at| *at != 3).all(|at| net.get(at, 6, "k").is_some()),
        "itself it does bring back"
    );
    assert!(net.agree());
}

#[test]
fn a_peer_that_was_away_for_longer_than_the_dead_are_remembered_begins_anew() {
    let config = Config { horizon: 10 * MINUTE, ..Config::default() };
    let mut net = Net::with(3, 6, config);
    net.link(0, 1);
    net.link(1, 2);
    (0..3).for_each(|at| net.publish(at, "k", "v"));
    net.run(5 * SECOND);
    net.unlink(1, 2);
    net.kill(0);
    net.run(30 * MINUTE);
    net.publish(1, "k", "w");
    assert!(knows(&net, 2, 0));
    net.nodes[1].facts.departed.forget(net.now, &net.config);
    assert_eq!(net.nodes[1].facts.departed.gone_at(place_of(peer(0).id)), None, "nobody remembers");
    net.link(1, 2);
    net.run(MINUTE);
    assert!(!knows(&net, 1, 0) && !knows(&net, 2, 0));
    assert_eq!(net.get(2, 1, "k").as_deref(), Some("w"));
    assert!(net.agree());
}

#[test]
fn the_memory_of_those_who_are_gone_is_bounded() {
    let config = Config { tombstones_max: 10, ..Config::default() };
    let mut departed = Departed::default();
    for host in 0..100 {
        departed.bury(host, HostId(host), Version::NONE.next(), Time(host), &config);
    }
    let remembered: Vec<u64> = (0..100).filter(|host| departed.gone_at(*host).is_some()).collect();
    assert_eq!(remembered, (90..100).collect::<Vec<u64>>());
}
