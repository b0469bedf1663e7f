//! Answers that lie, repeat, flood or come from the wrong side.

use super::harness::{Happens, World, ms, peer, sum_of_bits};
use super::{Event, LONG};
use crate::io::Refused;
use crate::query::*;
use crate::wire::{DecodeError, Writer};

/// Peer 1 has asked peer 0, which asked its neighbour on the other side and waits for it.
fn waiting() -> (World, u64, u64) {
    let mut world = World::new(5, 2, 1);
    let (child, other) = (world.neighbours(0)[0], world.neighbours(0)[1]);
    world.ask(other, sum_of_bits(LONG));
    let mut asked = Vec::new();
    while asked.is_empty() {
        world.happen_next();
        asked = world.peers[&0].queries.running.iter().map(|run| run.id).collect();
    }
    (world, child, other)
}

fn sum(peers: &[u64], ints: i128) -> Partial {
    let peers: PeerSet = peers.iter().copied().map(HostId).collect();
    let count = peers.len() as u64;
    let found = Found::Sum { ints, floats: Default::default() };
    Partial { peers, lost: PeerSet::default(), tally: Tally { matched: count, valued: count, found } }
}

/// What peer 0 makes of a partial answer; its state has to be as before when it refuses.
fn say(world: &mut World, from: u64, partial: &Partial) -> Result<(), Refused> {
    let bytes = Message::Partial { id: world.id, body: partial.encode() }.encode();
    raw(world, from, bytes)
}

fn raw(world: &mut World, from: u64, bytes: Bytes) -> Result<(), Refused> {
    let before = format!("{:?}", world.peers[&0].queries.running);
    let sent = world.messages;
    let (tag, reader) = Reader::new(&bytes).unwrap();
    let told = world.step(0, |queries, facts, cx| queries.handle(peer(from), tag, reader, facts, cx));
    if told.is_err() {
        assert_eq!(format!("{:?}", world.peers[&0].queries.running), before);
        assert_eq!(world.messages, sent, "a refused message is not answered");
    }
    told
}

fn counters(world: &World) -> Counters {
    *world.peers[&0].queries.counters()
}

#[test]
fn a_partial_answer_from_a_peer_that_was_not_asked_is_refused() {
    let (mut world, _, other) = waiting();
    for from in [other, 3, 77] {
        assert_eq!(say(&mut world, from, &sum(&[from], 1)), Err(Refused::Stranger(peer(from))));
    }
    assert_eq!(counters(&world).strangers, 3);
}

#[test]
fn a_child_that_has_the_question_from_elsewhere_says_so_once_and_is_not_waited_for() {
    let (mut world, child, other) = waiting();
    let elsewhere = Message::Elsewhere { id: world.id }.encode();
    assert_eq!(raw(&mut world, other, elsewhere.clone()), Err(Refused::Stranger(peer(other))));
    let sent = world.messages;
    assert_eq!(raw(&mut world, child, elsewhere.clone()), Ok(()));
    assert_eq!(world.messages, sent + 1, "nothing is left to wait for, so it answers");
    assert_eq!(raw(&mut world, child, elsewhere), Err(Refused::Stale));
}

#[test]
fn a_partial_answer_that_comes_twice_counts_once() {
    let (mut world, child, _) = waiting();
    let bytes = Message::Partial { id: world.id, body: sum(&[child], 1).encode() }.encode();
    assert_eq!(raw(&mut world, child, bytes.clone()), Ok(()));
    assert_eq!(raw(&mut world, child, bytes), Err(Refused::Stale));
    assert_eq!((counters(&world).partials_in, counters(&world).stale), (1, 1));
}

#[test]
fn a_partial_answer_whose_numbers_cannot_be_is_refused() {
    let (mut world, child, other) = waiting();
    let mut many = sum(&[child], 1);
    many.tally.matched = u64::MAX;
    let bad = [sum(&[child], i128::MAX), many, sum(&[child, 0], 3), sum(&[child, other], 3), sum(&[88], 1)];
    for partial in &bad {
        assert!(matches!(say(&mut world, child, partial), Err(Refused::Implausible(_))), "{partial:?}");
    }
    assert_eq!(counters(&world).implausible, bad.len() as u64);
    assert_eq!(say(&mut world, child, &sum(&[child], 1)), Ok(()), "the truth is still welcome");
}

#[test]
fn bytes_that_are_no_answer_are_refused() {
    let (mut world, child, _) = waiting();
    let good = Message::Partial { id: world.id, body: sum(&[child], 1).encode() }.encode();
    for cut in 1..good.len() {
        let told = raw(&mut world, child, good.slice(..cut));
        assert!(matches!(told, Err(Refused::Malformed(_) | Refused::Stale)), "{cut}: {told:?}");
    }
    let longer = Bytes::from([&good[..], &[0]].concat());
    assert_eq!(raw(&mut world, child, longer), Err(Refused::Malformed(DecodeError::Trailing(1))));
    assert_eq!(
        raw(&mut world, child, Bytes::from_static(&[0x4F])),
        Err(Refused::Malformed(DecodeError::Tag(0x4F)))
    );
}

#[test]
fn a_claim_of_more_peers_than_bytes_allocates_nothing() {
    let (mut world, child, _) = waiting();
    let mut writer = Writer::new(1, 9);
    writer.varint(1 << 40);
    let bytes = Message::Partial { id: world.id, body: writer.finish() }.encode();
    assert!(matches!(raw(&mut world, child, bytes), Err(Refused::Malformed(_))));
}

#[test]
fn a_stray_to_a_peer_that_did_not_ask_or_asks_no_more_is_refused() {
    let (mut world, child, _) = waiting();
    let body = sum(&[child], 1).encode();
    let stray = |id| Message::Stray { id, body: body.clone() }.encode();
    let id = world.id;
    let told = raw(&mut world, child, stray(id));
    assert!(matches!(told, Err(Refused::Implausible(_))));
    let old = QueryId { seq: 99, ..id };
    assert_eq!(raw(&mut world, child, stray(old)), Err(Refused::Stale));
}

#[test]
fn strays_of_a_flood_are_bounded_by_sender_and_by_size() {
    let config = Config { stray_peers_max: 2_000, strays_max: 100, ..Config::default() };
    let mut world = World::new(3, 2, 1);
    world.one(0).queries = Queries::new(Arc::new(config.clone()));
    world.ask(0, sum_of_bits(LONG));
    let (mut taken, mut flooded) = (0_usize, 0);
    for round in 0..400_u64 {
        let from = 1_000 + round / 50;
        let partial = sum(&[from, 5_000 + 2 * round], 1);
        let bytes = Message::Stray { id: world.id, body: partial.encode() }.encode();
        match raw(&mut world, from, bytes) {
            Ok(()) => taken += 1,
            Err(Refused::Flood) => flooded += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((taken, flooded), (config.strays_max, 300));
    let many: Vec<u64> = (10_000..13_000).collect();
    let bytes = Message::Stray { id: world.id, body: sum(&many, 1).encode() }.encode();
    assert_eq!(raw(&mut world, 10_000, bytes), Err(Refused::Flood));
    // The liars' strays overlap each other; no peer they name is counted twice.
    world.run();
    let (_, answer) = world.answers.remove(0);
    assert_eq!(answer.tally.valued, answer.coverage.counted as u64);
    assert!(answer.coverage.left_out > 0);
}

#[test]
fn a_liar_that_claims_the_peers_of_others_costs_them_their_place_but_counts_nobody_twice() {
    let mut world = World::new(40, 5, 8);
    world.settle_tree(0);
    let liar = world.neighbours(0)[0];
    let everybody: Vec<u64> = (1..40).collect();
    world.ask(0, sum_of_bits(LONG));
    let lie = sum(&everybody, everybody.iter().map(|id| 1_i128 << id).sum());
    let bytes = Message::Partial { id: world.id, body: lie.encode() }.encode();
    world.after(ms(1), Happens::Message { from: liar, to: 0, bytes });
    world.run();
    let (counted, _) = world.sum_of_bits();
    assert_eq!(counted.len(), 40);
    assert!(world.refused.iter().any(|(at, refused)| *at == 0 && matches!(refused, Refused::Implausible(_))));
}

#[test]
fn questions_beyond_the_limits_are_refused_before_they_are_sent() {
    let mut queries = Queries::new(Arc::new(Config::default()));
    let good = sum_of_bits(LONG);
    let too_long = Question { within: Duration::from_secs(3_600), ..good.clone() };
    let too_short = Question { within: Duration::ZERO, ..good.clone() };
    let no_key = Question { aggregate: Aggregate::Sum { key: String::new() }, ..good.clone() };
    for question in [too_long, too_short, no_key] {
        assert!(matches!(queries.ask(&question, peer(1)), Err(Refused::Implausible(_))));
    }
    assert!(queries.ask(&good, peer(1)).is_ok());
    assert_eq!(queries.counters().implausible, 3);
}

#[test]
fn no_more_questions_than_allowed_are_asked_at_a_time() {
    let mut world = World::new(2, 1, 1);
    let most = Config::default().asking_max as u32;
    for seq in 1..=most {
        world.id.seq = seq;
        world.ask(0, sum_of_bits(LONG));
    }
    assert_eq!(world.one(0).queries.ask(&sum_of_bits(LONG), peer(0)), Err(Refused::Flood));
    assert!(world.peers[&0].queries.state_bytes() < 20_000);
}

#[test]
fn a_question_that_speaks_for_another_asker_is_refused() {
    let mut world = World::new(3, 2, 1);
    let asked = Asked { asker: peer(2), depth: 20, question: sum_of_bits(LONG) };
    let id = QueryId { origin: HostId(1), incarnation: 1, seq: 1 };
    let link = world.link(0, 1);
    for (payload, malformed) in [(asked.encode(), false), (Bytes::from_static(b"?"), true)] {
        let told = world.step(0, |queries, facts, cx| {
            queries.delivered(id, &payload, 1, link, LinkSet::default(), facts, cx)
        });
        assert_eq!(matches!(told, Err(Refused::Malformed(_))), malformed);
        assert_eq!(matches!(told, Err(Refused::Implausible(_))), !malformed);
    }
    assert_eq!(world.peers[&0].queries.next_deadline(), None);
}

#[test]
fn a_flood_of_questions_from_one_asker_leaves_room_for_others() {
    let mut world = World::new(3, 2, 1);
    let link = world.link(0, 1);
    let mut deliver = |origin: u64, seq: u32| {
        let asked = Asked { asker: peer(origin), depth: 20, question: sum_of_bits(LONG) };
        let id = QueryId { origin: HostId(origin), incarnation: 1, seq };
        world.step(0, |queries, facts, cx| {
            queries.delivered(id, &asked.encode(), 1, link, LinkSet::default(), facts, cx)
        })
    };
    (0..1_000).for_each(|seq| assert_eq!(deliver(1, seq), Ok(())));
    assert_eq!(deliver(2, 1), Ok(()));
    let counters = counters(&world);
    let most = Config::default().asking_max as u64;
    assert_eq!((counters.questions, counters.busy), (most + 1, 1_000 - most));
    assert!(world.peers[&0].queries.state_bytes() < 20_000);
    let unanswered: Vec<Event> = world.one(0).queries.take_events();
    assert_eq!(unanswered, []);
}
