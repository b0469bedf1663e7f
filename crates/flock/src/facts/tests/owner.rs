use super::*;

#[test]
fn a_publisher_over_its_budget_is_told_so_and_nothing_changes() {
    let mut net = Net::of(1, 1);
    net.publish(0, "small", "fact");
    let (before, version) = (net.sums(), net.nodes[0].facts.own);
    let large = vec![0; 4090];
    let refused = net.step(0, |facts, cx| facts.publish("large", &large, cx));
    let budget = Refused::TooLarge { what: "all facts of this peer", bytes: 4111, max: 4096 };
    assert_eq!(refused, Err(budget));
    let long = "k".repeat(65);
    let refused = net.step(0, |facts, cx| facts.publish(&long, b"", cx));
    assert_eq!(refused, Err(Refused::TooLarge { what: "a fact's key", bytes: 65, max: 64 }));
    for key in 0..63 {
        assert_eq!(net.sums() == before, key == 0);
        net.publish(0, &format!("k{key}"), "");
    }
    let refused = net.step(0, |facts, cx| facts.publish("one more", b"", cx));
    assert_eq!(refused, Err(Refused::TooMany { what: "facts", max: 64 }));
    assert_eq!(net.nodes[0].facts.own.counter, version.counter + 63);
    net.step(0, |facts, cx| facts.retract("k0", cx)).unwrap();
    net.publish(0, "one more", "");
    assert_eq!(net.nodes[0].facts.own().count(), 64);
}

#[test]
fn the_same_word_again_is_no_news() {
    let mut net = Net::of(2, 1);
    net.link(0, 1);
    net.publish(0, "k", "v");
    net.run(5 * SECOND);
    let broadcasts = net.broadcasts;
    net.publish(0, "k", "v");
    assert_eq!(net.step(0, |facts, cx| facts.retract("other", cx)), Err(Refused::Stale));
    net.run(5 * SECOND);
    assert_eq!((net.broadcasts, net.nodes[0].facts.own.counter), (broadcasts, 1));
}

#[test]
fn retractions_that_were_forgotten_reach_those_who_missed_them() {
    let mut net = Net::of(3, 1);
    net.link(0, 1);
    net.link(1, 2);
    for key in 0..60 {
        net.publish(0, &format!("old{key}"), "v");
    }
    net.run(5 * SECOND);
    net.unlink(1, 2);
    // More come and go than an owner remembers retractions of.
    for round in 0..3 {
        for key in 0..60 {
            let old = if round == 0 { "old".into() } else { format!("r{}k", round - 1) };
            net.step(0, |facts, cx| facts.retract(&format!("{old}{key}"), cx)).unwrap();
            net.publish(0, &format!("r{round}k{key}"), "v");
        }
        net.run(2 * SECOND);
    }
    assert!(net.nodes[0].facts.own_record().unwrap().entries().count() <= 64);
    net.link(1, 2);
    net.run(5 * SECOND);
    assert!(net.agree());
    let keys: Vec<&str> =
        net.nodes[2].facts.record(peer(0).id).unwrap().facts().map(|(key, _)| key).collect();
    assert_eq!(keys.len(), 60);
    assert!(keys.iter().all(|key| key.starts_with("r2k")), "{keys:?}");
}

#[test]
fn every_change_is_told_by_its_key() {
    let mut net = Net::of(2, 1);
    net.link(0, 1);
    for (key, value) in [("a", "1"), ("b", "1"), ("c", "1")] {
        net.publish(0, key, value);
    }
    net.run(3 * SECOND);
    net.nodes[1].told.clear();
    net.publish(0, "b", "2");
    net.step(0, |facts, cx| facts.retract("c", cx)).unwrap();
    net.publish(0, "d", "1");
    net.run(3 * SECOND);
    let host = peer(0).id;
    let expected = ["b", "c", "d"].map(|key| Event::Changed { host, key: key.into() });
    assert_eq!(net.nodes[1].told, expected);
    assert_eq!(net.nodes[0].told, []);
}

#[test]
fn a_restarted_owners_old_facts_end_though_it_says_nothing_new() {
    let mut net = Net::ring(5, 1);
    net.publish(2, "k", "v");
    net.run(5 * SECOND);
    net.kill(2);
    net.restart(2);
    net.link(2, 3);
    net.run(5 * SECOND);
    assert!((0..5).all(|at| net.get(at, 2, "k").is_none()));
    assert!(net.agree());
    net.publish(2, "k2", "v2");
    net.run(5 * SECOND);
    assert!((0..5).all(|at| net.get(at, 2, "k2").is_some()));
}

#[test]
fn an_owner_that_moved_is_known_by_its_new_address() {
    let mut net = Net::of(2, 1);
    net.link(0, 1);
    net.publish(0, "k", "v");
    net.run(3 * SECOND);
    let there: Addr = SocketAddr::from(([127, 0, 0, 1], 9)).into();
    net.step(0, |facts, cx| {
        let mut moved =
            Cx { me: Peer { addr: there, ..cx.me }, now: cx.now, rng: cx.rng, links: cx.links, out: cx.out };
        facts.publish("k", b"v", &mut moved)
    })
    .unwrap();
    net.run(3 * SECOND);
    assert_eq!(net.nodes[1].facts.record(peer(0).id).unwrap().addr, there);
    assert!(net.agree());
}

#[test]
fn the_directory_lists_who_offers_a_service_the_healthy_first() {
    let mut net = Net::ring(6, 1);
    for at in [4, 1, 3] {
        net.step(at, |facts, cx| facts.offer("search", peer(at).addr, cx)).unwrap();
    }
    net.step(2, |facts, cx| facts.offer("mail", peer(2).addr, cx)).unwrap();
    // Not an address, so no offer.
    net.publish(5, "service/search", "somewhere");
    net.run(5 * SECOND);
    let facts = &net.nodes[0].facts;
    assert_eq!(facts.services(), ["mail", "search"]);
    let standing = |host| if host == peer(1).id { Standing::Suspected } else { Standing::Healthy };
    let offers = facts.offers("search", standing);
    let hosts: Vec<HostId> = offers.iter().map(|it| it.host).collect();
    assert_eq!(hosts, [peer(3).id, peer(4).id, peer(1).id]);
    assert_eq!(offers[0].addr, peer(3).addr);
    assert_eq!(offers.iter().take_while(|it| it.standing == Standing::Healthy).count(), 2);
    net.step(3, |facts, cx| facts.withdraw("search", cx)).unwrap();
    net.run(5 * SECOND);
    assert_eq!(net.nodes[0].facts.offers("search", standing).len(), 2);
}
