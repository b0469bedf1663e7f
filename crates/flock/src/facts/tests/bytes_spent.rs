use super::*;
use crate::facts::forest::Element;

fn body(counter: u64, text: &str) -> Bytes {
    let mut body = Writer::bare(0);
    record::write(Entry { key: "disk_free", counter, value: Some(text.as_bytes()) }, &mut body);
    body.finish()
}

/// The record of an owner that is not on the network.
fn record_of(owner: u64, counter: u64, text: &str) -> Record {
    let addr = SocketAddr::from(([127, 0, 0, 1], 9)).into();
    let host = HostId(1000 + owner);
    Record::new(host, addr, Version { incarnation: 1_700_000_000_000_000, counter }, 0, &body(counter, text))
}

/// Two peers that know `known` owners; then one of them hears of `missed` changes more.
fn catch_up(known: u64, missed: u64, seed: u64) -> (u64, u64) {
    let mut net = Net::of(2, seed);
    for owner in 0..known {
        for at in 0..2 {
            net.nodes[at].facts.put(record_of(owner, 1, "12345678"));
        }
    }
    for at in 0..missed {
        net.nodes[0].facts.put(record_of(at * known / missed, 2, "23456789"));
    }
    net.link(0, 1);
    let end = net.now + MINUTE;
    while !net.agree() && net.tick(end) {}
    assert!(net.agree(), "{missed} of {known}");
    net.run(SECOND);
    (net.bytes, missed * 45)
}

#[test]
fn an_exchange_that_finds_nothing_costs_eighteen_bytes() {
    for known in [0, 1, 1000] {
        // Nobody is asked whether it is there.
        let config = Config { probe_every: 10_000 * MINUTE, ..Config::default() };
        let mut net = Net::with(2, 1, config);
        for owner in 0..known {
            (0..2).for_each(|at| drop(net.nodes[at].facts.put(record_of(owner, 1, "x"))));
        }
        net.link(0, 1);
        net.run(3 * SECOND);
        net.bytes = 0;
        let before: u64 = net.nodes.iter().map(|it| it.facts.counters().opened).sum();
        net.run(10 * MINUTE);
        let opened = net.nodes.iter().map(|it| it.facts.counters().opened).sum::<u64>() - before;
        assert_eq!(net.bytes, 18 * opened, "{known} owners");
        assert!((36..=54).contains(&opened), "{opened} exchanges of two peers in ten minutes");
    }
}

#[test]
fn an_idle_peer_spends_less_than_one_byte_a_second() {
    let mut net = Net::ring(30, 1);
    (0..30).for_each(|at| net.publish(at, "k", "v"));
    net.run(5 * MINUTE);
    assert!(net.agree());
    let (bytes, broadcasts) = (net.bytes, net.broadcasts);
    net.run(60 * MINUTE);
    let each = (net.bytes - bytes) as f64 / 30.0 / 3600.0;
    assert_eq!(net.broadcasts, broadcasts);
    assert!(each < 1.0, "{each:.2} bytes a second");
}

#[test]
fn catching_up_costs_bytes_in_proportion_to_what_was_missed() {
    for (known, missed) in [(1_000, 1), (1_000, 100), (10_000, 1), (10_000, 30), (10_000, 1000)] {
        let (bytes, payload) = catch_up(known, missed, 7);
        println!("{missed} of {known}: {bytes} bytes, of them about {payload} payload");
        assert!(bytes <= 400 + 320 * missed, "{missed} of {known}: {bytes} bytes");
    }
}

#[test]
fn catching_up_among_a_hundred_thousand_costs_no_more_per_change_than_their_logarithm() {
    for missed in [1, 100, 10_000] {
        let (bytes, payload) = catch_up(100_000, missed, 7);
        println!("{missed} of 100000: {bytes} bytes, of them about {payload} payload");
        assert!(bytes <= 500 + 400 * missed, "{missed}: {bytes} bytes");
    }
}

#[test]
fn one_change_among_many_facts_of_one_owner_travels_alone() {
    let mut net = Net::of(2, 1);
    net.link(0, 1);
    for key in 0..60 {
        net.publish(0, &format!("key{key}"), "a value of about thirty bytes.");
    }
    net.run(3 * SECOND);
    net.unlink(0, 1);
    net.publish(0, "key7", "another");
    net.run(MINUTE);
    net.bytes = 0;
    net.link(0, 1);
    net.run(3 * SECOND);
    assert!(net.agree());
    assert!(net.bytes < 250, "{} bytes", net.bytes);
}

#[test]
fn a_new_peer_fetches_all_in_chunks_at_little_more_than_their_size() {
    let mut net = Net::of(2, 3);
    for owner in 0..20_000 {
        net.nodes[0].facts.put(record_of(owner, 1, &"y".repeat(40)));
    }
    let whole = encode_items(
        &net.nodes[0].facts.records.iter().map(|(_, it)| it.item(Version::NONE)).collect::<Vec<_>>(),
    );
    net.link(0, 1);
    let (end, began) = (net.now + MINUTE, net.now);
    let mut most = 0;
    while !net.agree() && net.tick(end) {
        let on_their_way = net.queue.values().map(|(_, what)| match what {
            What::Message { bytes, .. } => bytes.len(),
            _ => 0,
        });
        most = most.max(on_their_way.sum());
    }
    assert!(net.agree());
    let (bytes, took) = (net.bytes, net.now.since(began));
    println!("{} bytes of records took {bytes} bytes and {took:?}; at most {most} at once", whole.len());
    assert!(bytes < whole.len() as u64 * 21 / 20, "{bytes} bytes for {}", whole.len());
    assert!(most <= 4 * net.config.chunk_bytes, "{most} bytes at once");
    assert!(took < 20 * SECOND);
}

#[test]
fn a_fact_takes_few_bytes_in_memory() {
    let mut net = Net::of(1, 1);
    let empty = net.nodes[0].facts.state_bytes();
    for owner in 0..10_000 {
        net.nodes[0].facts.put(record_of(owner, 1, "12345678"));
    }
    let each = (net.nodes[0].facts.state_bytes() - empty) / 10_000;
    println!("an empty peer {empty} bytes, an owner with one fact {each}");
    assert!(empty < 1500, "{empty} bytes for a peer that knows nothing");
    assert!(each < 170, "{each} bytes for an owner with one fact of 17 bytes");
}
