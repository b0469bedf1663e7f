use super::*;
use crate::facts::forest::Element;

const HONEST: usize = 0;
const LIAR: usize = 1;
const OTHER: usize = 2;

/// An honest peer, its lying neighbour, and an owner whose facts are at stake.
fn net() -> Net {
    let mut net = Net::of(3, 9);
    net.link(HONEST, LIAR);
    net.link(HONEST, OTHER);
    net.publish(OTHER, "k", "true");
    net.publish(HONEST, "mine", "true");
    net.run(10 * SECOND);
    net
}

fn whole(host: u64, version: Version, entries: &[(&str, &[u8])]) -> Item {
    let mut body = Writer::bare(0);
    for (key, value) in entries {
        record::write(Entry { key, counter: 1, value: Some(value) }, &mut body);
    }
    Item::Whole { host: HostId(host), addr: peer(7).addr, version, floor: 0, body: body.finish() }
}

fn version(incarnation: u64, counter: u64) -> Version {
    Version { incarnation, counter }
}

impl Net {
    fn lie(&mut self, items: Vec<Item>) -> Result<(), Refused> {
        self.receive(HONEST, peer(LIAR), &Message::Items { more: false, items }.encode())
    }

    /// Nothing of what is known changes by what is done.
    fn unmoved<T>(&mut self, act: impl FnOnce(&mut Self) -> T) -> T {
        let (sums, bytes) = (self.sums(), self.nodes[HONEST].facts.state_bytes());
        let result = act(self);
        assert_eq!(self.sums(), sums);
        assert_eq!(self.nodes[HONEST].facts.state_bytes(), bytes);
        result
    }
}

#[test]
fn bytes_that_are_no_message_are_refused_and_counted() {
    let mut net = net();
    for bytes in [&[0x3F][..], &[0x30, 1], &[0x35, 0, 9], &[0x32, 2, 0, 0], &[0x33, 0, 0, 0, 99], &[0x31, 0]]
    {
        let bytes = Bytes::copy_from_slice(bytes);
        let refused = net.unmoved(|net| net.receive(HONEST, peer(LIAR), &bytes));
        assert!(matches!(refused, Err(Refused::Malformed(_))), "{bytes:?}: {refused:?}");
    }
    assert_eq!(net.nodes[HONEST].facts.counters().malformed, 6);
    let link = net.nodes[HONEST].links.find(peer(LIAR));
    let refused = net.unmoved(|net| {
        net.step(HONEST, |facts, cx| facts.delivered(&Bytes::from_static(&[9]), peer(LIAR).id, link, cx))
    });
    assert!(matches!(refused, Err(Refused::Malformed(_))));
}

#[test]
fn strangers_are_refused_all_but_the_question_whether_one_is_there() {
    let mut net = net();
    let stranger = peer(7);
    let digest = Message::Digest { records: 1, settings: 2 }.encode();
    assert_eq!(net.unmoved(|net| net.receive(HONEST, stranger, &digest)), Err(Refused::Stranger(stranger)));
    let items = Message::Items { more: false, items: vec![whole(50, version(1, 1), &[])] }.encode();
    assert_eq!(net.unmoved(|net| net.receive(HONEST, stranger, &items)), Err(Refused::Stranger(stranger)));
    assert_eq!(
        net.unmoved(|net| net.receive(HONEST, stranger, &Message::Answer.encode())),
        Err(Refused::Stale)
    );
    let bytes = net.bytes;
    assert_eq!(net.unmoved(|net| net.receive(HONEST, stranger, &Message::Probe.encode())), Ok(()));
    assert_eq!(net.bytes - bytes, 1, "the answer is no longer than the question");
    assert_eq!(net.nodes[HONEST].facts.counters().strangers, 2);
}

#[test]
fn a_broadcast_of_somebody_elses_facts_is_refused() {
    let mut net = net();
    let link = net.nodes[HONEST].links.find(peer(LIAR));
    let payload = encode_items(&[whole(peer(OTHER).id.0, version(1, 9), &[("k", b"false")])]);
    let refused =
        net.unmoved(|net| net.step(HONEST, |facts, cx| facts.delivered(&payload, peer(LIAR).id, link, cx)));
    assert_eq!(refused, Err(Refused::Implausible("a broadcast of somebody else's facts")));
    assert_eq!(net.get(HONEST, OTHER, "k").as_deref(), Some("true"));
}

#[test]
fn an_owner_that_is_quoted_falsely_sets_it_right() {
    let mut net = net();
    net.lie(vec![whole(peer(OTHER).id.0, version(1, 9), &[("k", b"false")])]).unwrap();
    assert_eq!(net.get(HONEST, OTHER, "k").as_deref(), Some("false"), "a forwarded word cannot be checked");
    net.run(MINUTE);
    assert_eq!(net.get(HONEST, OTHER, "k").as_deref(), Some("true"));
    assert!(net.agree());
    // At the same version, too.
    let now = net.nodes[OTHER].facts.own;
    let mut body = Writer::bare(0);
    record::write(Entry { key: "k", counter: now.counter, value: Some(b"zzzzz") }, &mut body);
    let (host, addr, floor) = (peer(OTHER).id, peer(OTHER).addr, now.counter);
    net.lie(vec![Item::Whole { host, addr, version: now, floor, body: body.finish() }]).unwrap();
    assert_eq!(net.get(HONEST, OTHER, "k").as_deref(), Some("zzzzz"));
    net.run(MINUTE);
    assert_eq!(net.get(LIAR, OTHER, "k").as_deref(), Some("true"));
    assert!(net.agree());
    // And about the honest peer to its face.
    net.lie(vec![whole(peer(HONEST).id.0, version(1, 4), &[("mine", b"false")])]).unwrap();
    net.run(MINUTE);
    assert_eq!(net.get(OTHER, HONEST, "mine").as_deref(), Some("true"));
    assert!(net.agree());
}

#[test]
fn versions_that_no_owner_reaches_are_refused() {
    let mut net = net();
    let host = peer(OTHER).id.0;
    let far = [version(1, 2 + (1 << 24)), version(2 + (1 << 50), 1)];
    for version in far {
        let forged = whole(host, version, &[("k", b"false")]);
        let refused = net.unmoved(|net| net.lie(vec![forged]));
        assert_eq!(refused, Err(Refused::Implausible("a version that no owner reaches")));
        let gone = Item::Gone { host: HostId(host), version };
        let refused = net.unmoved(|net| net.lie(vec![gone]));
        assert_eq!(refused, Err(Refused::Implausible("a version that no owner reaches")));
    }
    for version in [version(INCARNATION_MAX + 1, 1), version(1, COUNTER_MAX + 1), version(1, 0)] {
        let forged = whole(host, version, &[]);
        assert!(matches!(net.unmoved(|net| net.lie(vec![forged])), Err(Refused::Malformed(_))));
    }
    assert_eq!(net.nodes[HONEST].facts.counters().implausible, 4);
}

#[test]
fn facts_over_their_owners_budget_are_refused() {
    let mut net = net();
    let refused = net.unmoved(|net| net.lie(vec![whole(50, version(1, 1), &[("k", &[0; 4096])])]));
    assert_eq!(refused, Err(Refused::Implausible("facts over their owner's budget")));
    let keys: Vec<String> = (0..65).map(|key| format!("k{key:02}")).collect();
    let entries: Vec<(&str, &[u8])> = keys.iter().map(|key| (key.as_str(), &[][..])).collect();
    let refused = net.unmoved(|net| net.lie(vec![whole(50, version(1, 1), &entries)]));
    assert_eq!(refused, Err(Refused::Implausible("more keys than an owner may have")));
    // Bit by bit does not do either.
    net.lie(vec![whole(50, version(1, 1), &entries[..64])]).unwrap();
    let mut changes = Writer::bare(0);
    record::write(Entry { key: "x", counter: 2, value: Some(b"") }, &mut changes);
    let more = Item::Changes {
        host: HostId(50),
        version: version(1, 2),
        base: 1,
        floor: 0,
        changes: changes.finish(),
    };
    let refused = net.lie(vec![more]);
    assert_eq!(refused, Err(Refused::Implausible("more keys than an owner may have")));
}

#[test]
fn what_was_said_before_is_refused_in_any_order() {
    let mut net = net();
    let old = net.nodes[OTHER].facts.own_record().unwrap().item(Version::NONE);
    net.publish(OTHER, "k", "newer");
    net.run(3 * SECOND);
    for _ in 0..3 {
        let old = old.clone();
        assert_eq!(net.unmoved(|net| net.lie(vec![old])), Err(Refused::Stale));
    }
    let setting = |version| Item::Setting { key: "s".into(), version, value: Some(Bytes::from_static(b"v")) };
    net.lie(vec![setting(5)]).unwrap();
    assert_eq!(net.lie(vec![setting(5)]), Err(Refused::Stale));
    assert_eq!(net.lie(vec![setting(4)]), Err(Refused::Stale));
    assert_eq!(net.get(HONEST, OTHER, "k").as_deref(), Some("newer"));
}

#[test]
fn a_flood_of_owners_and_settings_stays_within_the_bounds() {
    let config = Config { hosts_max: 500, settings_max: 50, doubts_max: 20, ..Config::default() };
    let mut net = Net::with(2, 9, config);
    net.link(HONEST, LIAR);
    let mut refused = 0;
    for round in 0..50_u64 {
        let owners = (0..100).map(|at| whole(1000 + round * 100 + at, version(1, 1), &[("k", b"v")]));
        let settings =
            (0..100).map(|at| Item::Setting { key: format!("{round}-{at}").into(), version: 1, value: None });
        let result = net.lie(owners.chain(settings).collect());
        refused += u64::from(result.is_err());
        net.run(SECOND);
    }
    assert!(refused >= 40, "{refused}");
    let facts = &net.nodes[HONEST].facts;
    assert_eq!((facts.hosts_len(), facts.settings().forest.len()), (500, 50));
    assert!(facts.state_bytes() < 200_000, "{}", facts.state_bytes());
    let gone: Vec<Item> =
        (0..400).map(|at| Item::Gone { host: HostId(1000 + at), version: version(1, 1) }).collect();
    net.lie(gone).unwrap();
    assert_eq!(
        (0..400).filter(|at| net.nodes[HONEST].facts.departed.doubted(place_of(HostId(1000 + at)))).count(),
        20
    );
    // The honest peer can still say what it likes.
    net.publish(HONEST, "mine", "true");
}

#[test]
fn a_neighbour_that_asks_more_than_its_share_is_not_answered() {
    let config = Config { link_bytes_per_second: 10_000, ..Config::default() };
    let mut net = Net::with(2, 9, config);
    net.link(HONEST, LIAR);
    for at in 0..200 {
        net.nodes[HONEST].facts.put(Record::new(HostId(100 + at), peer(3).addr, version(1, 1), 0, &[]));
    }
    let ask = Message::Listing {
        set: Set::Records,
        salt: 0,
        lists: vec![List { prefix: Prefix::ALL, elements: vec![] }],
    };
    let before = net.bytes;
    let answers = (0..1000).map(|_| net.receive(HONEST, peer(LIAR), &ask.encode())).collect::<Vec<_>>();
    assert!(net.bytes - before <= 40_000 + 8_000, "{} bytes given", net.bytes - before);
    assert_eq!(answers.last(), Some(&Err(Refused::Flood)));
    net.run(10 * SECOND);
    assert_eq!(net.receive(HONEST, peer(LIAR), &Message::Same.encode()), Ok(()), "it is heard again later");
}
