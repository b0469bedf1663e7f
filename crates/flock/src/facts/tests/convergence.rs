use super::*;

/// A hundred random things happen; then peace, and all agree with the owners.
fn a_stormy_hour(seed: u64) {
    let count = 12;
    let mut net = Net::ring(count, seed);
    net.loss = 20;
    let mut settings: BTreeMap<String, (u64, Option<Vec<u8>>)> = BTreeMap::new();
    for turn in 0..100_u64 {
        let at = net.rng.random_range(0..count);
        let (key, value) = (format!("k{}", net.rng.random_range(0..6)), format!("v{turn}"));
        match net.rng.random_range(0..20) {
            0..8 if net.nodes[at].up => net.publish(at, &key, &value),
            8..11 if net.nodes[at].up => {
                let _ = net.step(at, |facts, cx| facts.retract(&key, cx));
            }
            11..14 if net.nodes[at].up => {
                let deleted = net.rng.random_range(0..4) == 0;
                let value = (!deleted).then(|| value.into_bytes());
                // An older run may have set a later one; the catalog's versions only grow.
                net.step(at, |facts, cx| facts.set(&key, turn + 1, value.as_deref(), cx)).unwrap();
                settings.insert(key, (turn + 1, value));
            }
            14 if net.nodes[at].up => net.kill(at),
            15 | 16 if !net.nodes[at].up => {
                net.restart(at);
                let other = (at + 1 + net.rng.random_range(0..count - 1)) % count;
                if net.reach(at, other) {
                    net.link(at, other);
                }
            }
            17 => {
                net.groups = (0..count).map(|at| (seed >> at & 1) as u8).collect();
                net.unlink_unreachable();
            }
            18 | 19 => {
                net.groups = vec![0; count];
                for at in 0..count {
                    if net.reach(at, (at + 1) % count) {
                        net.link(at, (at + 1) % count);
                    }
                }
            }
            _ => {}
        }
        let wait = Duration::from_millis(net.rng.random_range(0..20_000));
        net.run(wait);
        net.check_invariants();
    }
    net.loss = 0;
    net.groups = vec![0; count];
    let up: Vec<usize> = (0..count).filter(|at| net.nodes[*at].up).collect();
    for (at, &node) in up.iter().enumerate() {
        net.link(node, up[(at + 1) % up.len()]);
    }
    // Some settings may have been told to nobody but peers that were killed.
    for (key, (version, value)) in &settings {
        let _ = net.step(up[0], |facts, cx| facts.set(key, *version, value.as_deref(), cx));
    }
    // Long enough that each of the dead is asked by somebody, and then for the grace.
    net.run(30 * MINUTE);
    assert!(net.agree(), "seed {seed}: {:?}", net.sums());
    let known: Vec<HostId> = net.nodes[up[0]].facts.hosts().collect();
    assert!(
        known.iter().all(|host| up.iter().any(|at| peer(*at).id == *host)),
        "seed {seed}: the dead are known"
    );
    for &at in &up {
        for &owner in &up {
            let owners: Vec<_> = net.nodes[owner].facts.own().collect();
            let known = net.nodes[at].facts.record(peer(owner).id).map(|it| it.facts().collect::<Vec<_>>());
            assert_eq!(known.unwrap_or_default(), owners, "seed {seed}: {at} about {owner}");
        }
        for (key, (version, value)) in &settings {
            let known = net.nodes[at].facts.settings().get(key);
            assert_eq!(
                known,
                value.as_deref().map(|value| (*version, value)),
                "seed {seed}: {at} about {key}"
            );
        }
    }
    let refused: u64 =
        net.nodes.iter().map(|it| it.facts.counters().implausible + it.facts.counters().floods).sum();
    assert_eq!(refused, 0, "seed {seed}: honest peers are not refused");
}

#[test]
fn whatever_is_lost_cut_off_or_restarted_all_agree_with_the_owners_in_the_end() {
    (0..40).for_each(a_stormy_hour);
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let run = |seed| {
        let mut net = Net::ring(8, seed);
        net.loss = 10;
        for at in 0..8 {
            net.publish(at, "k", "v");
        }
        net.run(5 * MINUTE);
        (net.bytes, net.broadcasts, net.sent, net.sums())
    };
    assert_eq!(run(3), run(3));
    assert_ne!(run(3).2, run(4).2);
}

#[test]
fn a_change_is_everywhere_at_once_and_travels_with_its_kin() {
    let mut net = Net::ring(10, 1);
    net.run(5 * SECOND);
    for key in 0..20 {
        net.publish(3, &format!("key{key}"), "value");
    }
    net.run(Duration::from_millis(200));
    assert!((0..10).all(|at| net.get(at, 3, "key19").is_some()));
    assert_eq!(net.broadcasts, 1);
    for turn in 0..50 {
        net.publish(3, "load", &turn.to_string());
        net.run(SECOND / 10);
    }
    net.run(SECOND);
    assert!((0..10).all(|at| net.get(at, 3, "load").as_deref() == Some("49")));
    assert!(net.broadcasts <= 7, "{} broadcasts for what five seconds brought", net.broadcasts);
}

#[test]
fn changes_heard_out_of_order_are_asked_for_and_not_half_taken_in() {
    let mut net = Net::of(3, 2);
    net.link(0, 1);
    net.link(1, 2);
    net.run(5 * SECOND);
    net.publish(0, "a", "1");
    net.run(2 * SECOND);
    // The second change is lost on its way to peer 2, the third is not.
    net.loss = 100;
    net.publish(0, "b", "2");
    net.run(2 * SECOND);
    net.loss = 0;
    let link = net.nodes[1].links.find(peer(0)).unwrap();
    let second = Item::Changes {
        host: peer(0).id,
        version: Version { incarnation: 1, counter: 2 },
        base: 1,
        floor: 0,
        changes: {
            let mut changes = Writer::bare(0);
            record::write(Entry { key: "b", counter: 2, value: Some(b"2") }, &mut changes);
            changes.finish()
        },
    };
    let payload = encode_items(&[second]);
    net.step(1, |facts, cx| facts.delivered(&payload, peer(0).id, Some(link), cx)).unwrap();
    net.publish(0, "c", "3");
    let before = net.nodes[2].facts.counters().gaps;
    net.run(Duration::from_millis(300));
    assert_eq!(net.nodes[2].facts.counters().gaps, before + 1);
    assert_eq!(net.get(2, 0, "b").as_deref(), Some("2"));
    assert_eq!(net.get(2, 0, "c").as_deref(), Some("3"));
}

#[test]
fn a_setting_that_all_replicas_of_the_catalog_tell_is_broadcast_about_once() {
    let mut net = Net::ring(10, 5);
    net.run(5 * SECOND);
    for at in 0..5 {
        net.step(at, |facts, cx| facts.set("flock.pace", 7, Some(b"fast"), cx)).unwrap();
    }
    net.run(2 * SECOND);
    assert!((0..10).all(|at| net.nodes[at].facts.settings().get("flock.pace") == Some((7, b"fast"))));
    assert!(net.broadcasts <= 3, "{} broadcasts of one setting", net.broadcasts);
    assert_eq!(net.nodes[9].told, [Event::SettingChanged { key: "flock.pace".into() }]);
    net.step(0, |facts, cx| facts.set("flock.pace", 8, None, cx)).unwrap();
    net.run(2 * SECOND);
    assert!((0..10).all(|at| net.nodes[at].facts.settings().get("flock.pace").is_none()));
    let refused = net.step(1, |facts, cx| facts.set("flock.pace", 7, Some(b"fast"), cx));
    assert_eq!(refused, Err(Refused::Stale));
}

#[test]
fn news_that_comes_with_a_link_goes_on_from_neighbour_to_neighbour() {
    let mut net = Net::of(16, 6);
    for at in (0..15).filter(|at| *at != 7) {
        net.link(at, at + 1);
    }
    for at in 0..16 {
        net.publish(at, "k", "v");
    }
    net.run(2 * MINUTE);
    assert_eq!(net.get(15, 0, "k"), None);
    let broadcasts = net.broadcasts;
    net.link(7, 8);
    // Eight peers on either side, one after the other: in turn alone it would take a minute or two.
    net.run(25 * SECOND);
    assert_eq!(net.broadcasts, broadcasts);
    assert!(net.agree());
    assert_eq!(net.get(15, 0, "k").as_deref(), Some("v"));
}
