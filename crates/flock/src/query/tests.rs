//! Queries over trees that hold, that break, and among liars.

mod harness;
mod hostile;

pub(crate) use harness::peer;

use super::*;
use harness::{Happens, World, ms, sum_of_bits};
use proptest::prelude::*;
use rand::RngExt;
use std::collections::BTreeSet;

const LONG: Duration = Duration::from_secs(12);

#[test]
fn a_peer_alone_answers_itself_at_once() {
    let mut world = World::new(1, 0, 1);
    world.ask(0, sum_of_bits(LONG));
    let (counted, answer) = world.sum_of_bits();
    assert_eq!((counted, answer.took), (BTreeSet::from([0]), Duration::ZERO));
    assert!(answer.coverage.is_complete());
}

#[test]
fn in_a_settled_tree_all_answer_with_one_message_each() {
    for seed in 0..20 {
        let mut world = World::new(60, 5, seed);
        world.settle_tree(3);
        world.ask(3, sum_of_bits(LONG));
        world.run();
        let (counted, answer) = world.sum_of_bits();
        assert_eq!(counted.len(), 60);
        assert!(answer.coverage.is_complete(), "{}", answer.coverage);
        assert_eq!((world.messages, world.refused.len()), (59, 0));
        assert!(world.peers.values().all(|one| one.queries.next_deadline().is_none()), "all is forgotten");
    }
}

#[test]
fn in_a_flood_the_links_that_decline_are_not_waited_for() {
    for seed in 0..20 {
        let mut world = World::new(60, 5, seed);
        world.ask(3, sum_of_bits(LONG));
        world.run();
        let (counted, answer) = world.sum_of_bits();
        assert_eq!(counted.len(), 60);
        assert!(answer.coverage.is_complete() && answer.took < ms(3_000), "{:?}", answer.took);
    }
}

#[test]
fn a_known_peer_that_is_dead_is_told_to_be_missing_after_a_short_wait() {
    let mut world = World::new(30, 5, 5);
    world.one(0).facts.known.push(HostId(99));
    world.settle_tree(0);
    world.ask(0, sum_of_bits(LONG));
    world.run();
    let (counted, answer) = world.sum_of_bits();
    assert_eq!((counted.len(), &answer.coverage.missing_named[..]), (30, &[HostId(99)][..]));
    assert!(!answer.coverage.is_complete() && !answer.coverage.cut_off);
    assert!(answer.took < ms(3_000), "{:?}", answer.took);
    let text = answer.coverage.to_string();
    assert_eq!(text, "partial: 30 of 31 known peers; nothing from 0x0000000000000063");
}

#[test]
fn a_counted_peer_that_the_asker_had_not_heard_of_is_told() {
    let mut world = World::new(30, 5, 5);
    world.one(0).facts.known.truncate(20);
    world.ask(0, sum_of_bits(LONG));
    world.run();
    let (counted, answer) = world.sum_of_bits();
    assert_eq!((counted.len(), answer.coverage.unheard_of, answer.coverage.known), (30, 10, 30));
}

#[test]
fn what_comes_after_the_deadline_is_neither_waited_for_nor_silently_left_out() {
    // Nobody notices anything in time: the deadline alone ends it.
    for seed in 0..20 {
        let mut world = World::new(40, 4, seed);
        world.notice = Duration::from_secs(100);
        world.settle_tree(0);
        let victim = world.neighbours(0)[0];
        world.after(ms(1), Happens::Kill { at: victim });
        world.ask(0, sum_of_bits(ms(2_000)));
        world.run();
        let (counted, answer) = world.sum_of_bits();
        assert!(!counted.contains(&victim) && !answer.coverage.is_complete());
        assert_eq!(answer.took, ms(2_000));
        assert!(answer.coverage.cut_off);
    }
}

#[test]
fn the_children_of_a_parent_that_died_after_their_answers_are_counted_once() {
    // A chain of five; the one in the middle dies at every millisecond there is, before, during and after its own answer.
    for at in 0..500 {
        let mut world = World::new(5, 2, 9);
        world.notice = ms(50);
        let last = *world.neighbours(0).last().unwrap();
        let link = world.link(0, last).unwrap();
        world.one(0).links.remove(link);
        let link = world.link(last, 0).unwrap();
        world.one(last).links.remove(link);
        world.settle_tree(0);
        world.after(ms(at), Happens::Kill { at: 2 });
        world.ask(0, sum_of_bits(LONG));
        world.run();
        let (counted, answer) = world.sum_of_bits();
        assert!(counted.is_superset(&BTreeSet::from([0, 1])));
        // Once the question had passed the middle, those beyond count in any case.
        let asked = |id: u64| world.peers[&id].queries.counters().questions == 1;
        for id in [3, 4] {
            assert_eq!(counted.contains(&id), asked(id), "killed after {at} ms: {}", answer.coverage);
        }
    }
}

#[test]
fn a_busy_peer_says_so_at_once_and_is_missing() {
    let mut world = World::new(20, 4, 2);
    let config = Config { running_max: 0, ..Config::default() };
    world.one(5).queries = Queries::new(Arc::new(config));
    world.tree.clear();
    world.ask(0, sum_of_bits(LONG));
    world.run();
    let (counted, answer) = world.sum_of_bits();
    assert!(!counted.contains(&5) && counted.contains(&0));
    assert!(answer.coverage.missing_named.contains(&HostId(5)), "{}", answer.coverage);
    assert!(answer.took < Duration::from_secs(6), "{:?}", answer.took);
}

#[test]
fn every_aggregate_comes_through_whole() {
    let world = |text: &str| {
        let mut world = World::new(50, 5, 4);
        let (aggregate, filter) = Aggregate::parse_question(text).unwrap();
        world.ask(7, Question { filter, aggregate, within: LONG });
        world.run();
        let (_, answer) = world.answers.remove(0);
        assert!(answer.coverage.is_complete());
        answer
    };
    let answer = world("count where id >= 10 and not id = 11");
    assert_eq!((answer.tally.matched, answer.coverage.counted), (39, 50));
    let answer = world("list 3 where id > 40");
    assert_eq!(answer.tally.found, Found::List(vec![HostId(41), HostId(42), HostId(43)]));
    assert_eq!(answer.more(), 6);
    let answer = world("sum id");
    assert_eq!((answer.sum(), answer.mean()), (Some(1225.0), Some(24.5)));
    let held = |id: i64| (Number::Int(id), HostId(id as u64));
    assert_eq!(world("range id where id < 30").tally.found, Found::Range(Some((held(0), held(29)))));
    assert_eq!(world("histogram id by 10, 20.5").tally.found, Found::Histogram(vec![10, 11, 29]));
    assert_eq!(world("top 2 id").tally.found, Found::TopPeers(vec![held(49), held(48)]));
    assert_eq!(world("bottom 2 id").tally.found, Found::TopPeers(vec![held(0), held(1)]));
    let Found::TopLabels(totals) = world("trends 2 topics").tally.found else { panic!() };
    assert_eq!((totals.top(2), totals.short()), (vec![("all".into(), 100), ("t0".into(), 17)], 0));
    let answer = world("sum nowhere");
    assert_eq!((answer.tally.matched, answer.tally.valued, answer.mean()), (50, 0, None));
}

#[test]
fn the_same_seed_gives_the_same_answer_at_the_same_time() {
    let run = |seed| {
        let mut world = World::new(40, 5, seed);
        world.after(ms(90), Happens::Kill { at: 9 });
        world.ask(0, sum_of_bits(LONG));
        world.run();
        (world.answers, world.messages, world.now)
    };
    assert_eq!(run(3), run(3));
}

/// Peers die, links break, and all who survive are counted, once.
fn survivors_are_counted_once(
    seed: u64,
    n: u64,
    degree: u64,
    settled: bool,
    kills: &[(u64, u64)],
    cuts: &[(u64, u64)],
    notice: u64,
) -> Result<(), TestCaseError> {
    let mut world = World::new(n, degree, seed);
    world.notice = ms(notice);
    if settled {
        world.settle_tree(0);
    }
    for (at, victim) in kills.iter().copied() {
        if victim < n {
            world.after(ms(at), Happens::Kill { at: victim });
        }
    }
    for (at, victim) in cuts.iter().copied() {
        let neighbours = if victim < n { world.neighbours(victim) } else { Vec::new() };
        if !neighbours.is_empty() {
            let other = neighbours[world.rng.random_range(0..neighbours.len())];
            world.after(ms(at), Happens::LinkDown { at: victim, other });
            world.after(ms(at + notice), Happens::LinkDown { at: other, other: victim });
        }
    }
    world.ask(0, sum_of_bits(Duration::from_secs(30)));
    world.run();
    let (counted, answer) = world.sum_of_bits();
    let survivors = world.reachable(0);
    let late: Vec<_> = survivors.difference(&counted).collect();
    prop_assert!(late.is_empty(), "{late:?} of {survivors:?} are not counted: {}", answer.coverage);
    prop_assert_eq!(answer.coverage.known as u64, n);
    let dead: BTreeSet<u64> = (0..n).filter(|id| !counted.contains(id)).collect();
    let named: BTreeSet<u64> = answer.coverage.missing_named.iter().map(|host| host.0).collect();
    prop_assert_eq!(dead, named);
    prop_assert!(
        world.peers.values().filter(|one| one.alive).all(|one| one.queries.next_deadline().is_none())
    );
    Ok(())
}

#[test]
fn a_stray_from_a_neighbour_of_the_asker_is_kept_aside_until_the_tree_has_spoken() {
    // Peer 2 dies after it passed its children's answers on; one of them is a neighbour of the asker as well, which had asked it in vain.
    survivors_are_counted_once(8037967675093521293, 40, 4, false, &[(253, 15), (7, 2)], &[(28, 2)], 517)
        .unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Peers die and links break at any moment; the tree may be settled or a flood. All survivors that can be reached are counted,
    /// nobody twice, and what is said of the coverage is true.
    #[test]
    fn whoever_dies_meanwhile_survivors_are_counted_once(
        seed: u64, n in 2_u64..60, degree in 2_u64..7, settled: bool,
        kills in prop::collection::vec((0_u64..900, 1_u64..60), 0..8),
        cuts in prop::collection::vec((0_u64..900, 0_u64..60), 0..6), notice in 10_u64..3_000,
    ) {
        survivors_are_counted_once(seed, n, degree, settled, &kills, &cuts, notice)?;
    }

    /// However short the time, the answer comes in it, counts nobody twice and says who is not in it.
    #[test]
    fn a_short_deadline_is_kept_and_costs_peers_but_not_the_truth(
        seed: u64, n in 2_u64..60, within in 100_u64..800, kills in prop::collection::vec((0_u64..300, 1_u64..60), 0..4),
    ) {
        let mut world = World::new(n, 4, seed);
        for (at, victim) in kills {
            if victim < n {
                world.after(ms(at), Happens::Kill { at: victim });
            }
        }
        world.ask(0, sum_of_bits(ms(within)));
        world.run();
        let (counted, answer) = world.sum_of_bits();
        prop_assert_eq!(answer.coverage.is_complete(), counted.len() as u64 == n);
        prop_assert_eq!(answer.coverage.known as u64, n);
    }
}
