//! Broadcasts over a small world of links that come and go; see `overlay`.

mod overlay;

use bytes::Bytes;
use overlay::{Latency, World, peer};
use proptest::prelude::*;
use skein_flock::Refused;
use skein_flock::broadcast::{
    Channel, Config, Event, Gossip, Have, Keying, Message, MessageId, PAYLOAD_BYTES_MAX, Short, Span, Start,
};
use std::collections::BTreeSet;
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

fn world(count: usize, seed: u64) -> World {
    world_of(Config::default(), count, seed)
}

fn world_of(config: Config, count: usize, seed: u64) -> World {
    let mut world = World::new(config, count, Latency::Constant(MS * 50), seed).regular(5);
    world.who = Some(Default::default());
    world
}

fn delivered(world: &World, id: MessageId) -> &BTreeSet<usize> {
    &world.who.as_ref().expect("a world that notes who got what")[&id]
}

/// Broadcasts from each of `origins`, a second apart, and gives payload messages and the ratio of the last to the bound.
fn round(world: &mut World, origins: &[usize]) -> (u64, f64) {
    let before = world.payloads;
    let mut worst = 0.0_f64;
    for at in origins {
        let id = world.publish(*at, vec![7; 20]);
        world.run_for(S * 3);
        let seen = &world.seen[&id];
        assert_eq!(seen.delivered, world.component(*at).len());
        worst = worst.max(seen.last.since(seen.began).as_secs_f64() / world.bound(*at).as_secs_f64());
    }
    (world.payloads - before, worst)
}

#[test]
fn a_known_origin_reaches_everyone_once_and_as_quickly_as_a_flood() {
    let mut world = world(300, 1);
    let origins = [3, 77, 150, 299];
    round(&mut world, &origins);
    let (payloads, worst) = round(&mut world, &origins);
    assert_eq!((payloads, worst), (4 * 299, 1.0));
}

#[test]
fn an_origin_never_heard_of_costs_no_second_payload_and_two_links_of_time() {
    let mut world = world_of(Config { start: Start::Scout { eager_hops: 0 }, ..Config::default() }, 300, 2);
    let (payloads, _) = round(&mut world, &[42]);
    assert_eq!(payloads, 299);
    let seen = world.seen.values().next().unwrap();
    assert_eq!(seen.last.since(seen.began), world.bound(42) + MS * 100);
}

#[test]
fn every_way_to_keep_trees_delivers_to_everyone_once() {
    let starts = [Start::Flood, Start::Shared, Start::Scout { eager_hops: 3 }];
    let keyings = [Keying::Origin, Keying::LastPeers(3), Keying::LastPeers(4)];
    for config in starts
        .iter()
        .flat_map(|start| keyings.map(|keying| Config { start: *start, keying, ..Config::default() }))
    {
        let mut world = world_of(config, 60, 3);
        round(&mut world, &[1, 2, 30, 1, 2, 59, 58, 57]);
    }
}

#[test]
fn the_edges_that_are_told_of_make_the_tree() {
    let mut world = world(60, 4);
    world.keep_events = true;
    for nth in 0..3 {
        world.nodes.iter_mut().for_each(|node| node.events.clear());
        let id = world.publish(9, vec![nth]);
        world.run_for(S * 3);
        let mut edges = BTreeSet::new();
        let mut parents = BTreeSet::new();
        for at in 0..60 {
            let to = |link| {
                world.neighbours(at).into_iter().find(|it| world.link_to(at, *it) == Some(link)).unwrap()
            };
            for event in &world.nodes[at].events {
                match event {
                    Event::Delivered { from, forwarded, payload, channel, .. } => {
                        assert_eq!((payload, *channel), (&Bytes::from(vec![nth]), Channel::App));
                        edges.extend(forwarded.iter().map(|link| (at, to(link))));
                        parents.extend(from.map(|link| (to(link), at)));
                    }
                    Event::Grafted { id: of, link } => {
                        assert_eq!(*of, id);
                        edges.insert((at, to(*link)));
                    }
                    Event::Again { .. } => {}
                    Event::Declined { id: of, link } => {
                        assert_eq!(*of, id);
                        assert!(edges.remove(&(at, to(*link))));
                    }
                }
            }
        }
        assert_eq!(edges, parents);
        assert_eq!(edges.len(), 59);
    }
}

#[test]
fn a_new_neighbour_learns_what_it_missed() {
    let mut world = World::new(Config::default(), 4, Latency::Constant(MS * 10), 5);
    world.link(0, 1);
    world.link(2, 3);
    let ids: Vec<_> = (0..40).map(|nth| world.publish(0, vec![nth])).collect();
    let id = world.publish(3, vec![99]);
    world.run_for(S);
    world.link(1, 2);
    world.run_for(S);
    for id in ids.iter().chain([&id]) {
        assert_eq!(world.seen[id].delivered, 4);
    }
}

#[test]
fn a_restarted_origin_is_heard_and_hears_itself_no_second_time() {
    let mut world = world(30, 6);
    let first = world.publish(5, vec![1]);
    world.run_for(S);
    world.kill(5);
    world.run_for(S);
    world.restart(5);
    for other in [6, 20] {
        world.link(5, other);
    }
    // Its own old broadcast comes back to it as news, for it remembers nothing.
    world.who.as_mut().unwrap().get_mut(&first).unwrap().remove(&5);
    world.run_for(S);
    let second = world.publish(5, vec![2]);
    assert_eq!((second.seq, second.incarnation), (1, 2));
    world.run_for(S * 2);
    assert_eq!(delivered(&world, second).len(), 30);
}

#[test]
fn a_slow_peer_is_routed_around() {
    for (extra, messages) in [(500, 1), (60, 2)] {
        let mut world = world(400, 7);
        for _ in 0..2 {
            round(&mut world, &[0]);
        }
        (0..400).filter(|at| at % 20 == 7).for_each(|at| world.nodes[at].slow = MS * extra);
        for _ in 0..messages {
            round(&mut world, &[0]);
        }
        let (payloads, worst) = round(&mut world, &[0]);
        assert_eq!(worst, 1.0, "+{extra} ms");
        // After the slow payloads of the first message were pruned there is no second payload.
        assert_eq!(payloads, 399, "+{extra} ms");
    }
}

#[test]
fn idle_peers_hold_no_more_than_their_trees() {
    let mut world = world(100, 8);
    let origins: Vec<usize> = (0..20).collect();
    for _ in 0..3 {
        round(&mut world, &origins);
    }
    world.run_for(S * 120);
    let most = |world: &World| world.nodes.iter().map(|node| node.broadcast.state_bytes()).max().unwrap();
    let busy = most(&world);
    assert!(busy <= 1600, "{busy} bytes");
    let messages = world.messages;
    world.run_for(S * 3600);
    assert_eq!((most(&world), world.messages), (busy, messages));
    assert_eq!(world.nodes.iter().map(|node| node.broadcast.kept_bytes()).max(), Some(0));
}

#[test]
fn a_payload_too_large_is_refused_to_its_author() {
    let mut world = world(4, 9);
    let mut done = Ok(());
    world.step(0, |broadcast, cx| {
        done = broadcast.publish(Channel::App, vec![0; PAYLOAD_BYTES_MAX + 1].into(), cx).map(drop);
    });
    let (bytes, max) = (PAYLOAD_BYTES_MAX + 1, PAYLOAD_BYTES_MAX);
    assert_eq!(done, Err(Refused::TooLarge { what: "a broadcast", bytes, max }));
    assert_eq!(world.messages, 0);
}

fn gossip(origin: usize, seq: u32) -> Gossip {
    let id = MessageId { origin: peer(origin).id, incarnation: 1, seq };
    let mut gossip = Gossip::new(id, Channel::App, b"lies");
    gossip.hops = 1;
    gossip
}

#[test]
fn lies_about_our_own_broadcasts_and_about_numbers_are_refused() {
    let mut world = world(6, 10);
    let neighbour = world.neighbours(0)[0];
    let mut bring = |gossip: Gossip| world.inject(neighbour, 0, Message::Gossip(gossip).encode());
    assert_eq!(bring(gossip(0, 1)), Err(Refused::Implausible("a broadcast of ours that we never made")));
    assert_eq!(
        bring(gossip(3, 1).by_path(&[0; 4])),
        Err(Refused::Implausible("a path of another length than agreed"))
    );
    assert_eq!(bring(gossip(3, 500)), Ok(()));
    assert_eq!(bring(gossip(3, u32::MAX)), Err(Refused::Implausible("a broadcast far ahead of its origin")));
    assert_eq!(bring(gossip(3, 300)), Err(Refused::Stale));
    assert_eq!(bring(gossip(3, 499)), Ok(()));
    let counters = *world.nodes[0].broadcast.counters();
    assert_eq!((counters.implausible, counters.stale), (3, 1));
}

#[test]
fn bytes_that_are_no_message_are_refused_and_counted() {
    let mut world = world(6, 11);
    let neighbour = world.neighbours(0)[0];
    for bytes in [&b"\x20"[..], b"\x22", b"\x2F", b"\x26\x01\x02\x03\x04\x01\x01", b"\x20\x0F\x01"] {
        let done = world.inject(neighbour, 0, Bytes::copy_from_slice(bytes));
        assert!(matches!(done, Err(Refused::Malformed(_))), "{bytes:?}");
    }
    assert_eq!(world.nodes[0].broadcast.counters().malformed, 5);
}

#[test]
fn replayed_and_unasked_for_control_messages_change_nothing() {
    let mut world = world(6, 12);
    let neighbour = world.neighbours(0)[0];
    let short = Short { tag: 77, seq: 3 };
    for message in [
        Message::Graft(vec![short]),
        Message::Pull(vec![short]),
        Message::Prune(short),
        Message::Adopt(77),
        Message::Release(77),
    ] {
        assert_eq!(world.inject(neighbour, 0, message.encode()), Err(Refused::Stale), "{message:?}");
    }
    assert_eq!(world.nodes[0].broadcast.trees(), 0);
    assert_eq!(world.nodes[0].broadcast.counters().stale, 5);
}

#[test]
fn a_payload_is_supplied_to_one_neighbour_twice_at_most() {
    let mut world = world(6, 13);
    let id = world.publish(0, vec![1]);
    world.run_for(S);
    let neighbour = world.neighbours(0)[0];
    let pull = Message::Pull(vec![Short { tag: id.tag(), seq: 1 }]).encode();
    let asked: Vec<_> = (0..4).map(|_| world.inject(neighbour, 0, pull.clone())).collect();
    let refusals = asked.iter().filter(|done| **done == Err(Refused::Flood)).count();
    assert!(refusals >= 2, "{asked:?}");
}

#[test]
fn announcements_of_what_does_not_exist_fill_a_bounded_list_and_are_given_up() {
    let config = Config { wanted_max: 100, wanted_share: 60, ..Config::default() };
    let mut world = world_of(config, 6, 14);
    let around = world.neighbours(0);
    let mut floods = 0;
    for (nth, from) in around.iter().enumerate() {
        for tag in 0..200 {
            let short = Short { tag: 1000 * nth as u32 + tag, seq: 1 };
            let message = if nth % 2 == 0 {
                Message::Have(vec![Have { short, held: 0 }])
            } else {
                Message::Recent(vec![Span { first: short, more: 0 }])
            };
            floods += usize::from(world.inject(*from, 0, message.encode()) == Err(Refused::Flood));
        }
    }
    assert_eq!(floods, 200 * around.len() - 100);
    world.run_for(S * 60);
    assert_eq!(world.nodes[0].broadcast.counters().given_up, 100);
    assert_eq!(world.nodes[0].broadcast.next_deadline(), None);
}

#[test]
fn invented_origins_do_not_grow_the_state_beyond_its_bounds() {
    let config = Config { trees_max: 16, origins_max: 32, keep_bytes_max: 64 << 10, ..Config::default() };
    let mut world = world_of(config, 6, 15);
    world.who = None; // more origins at a time than are remembered: delivered again here and there
    let neighbour = world.neighbours(0)[0];
    for origin in 100..3000 {
        world.inject(neighbour, 0, Message::Gossip(gossip(origin, 1)).encode()).unwrap();
        world.run_for(MS);
    }
    world.run_for(S * 120);
    let broadcast = &world.nodes[0].broadcast;
    assert_eq!(broadcast.trees(), 16);
    assert!(broadcast.state_bytes() < 4096, "{}", broadcast.state_bytes());
    assert_eq!(broadcast.kept_bytes(), 0);
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let figures = |seed| {
        let mut world = world(50, seed);
        round(&mut world, &[1, 2, 3, 2]);
        format!("{:?}", (world.bytes, world.messages, world.seen))
    };
    assert_eq!(figures(16), figures(16));
    assert_ne!(figures(16), figures(17));
}

/// One thing that happens to a world.
#[derive(Clone, Debug)]
enum Act {
    Publish(usize),
    Cut(usize, usize),
    Link(usize, usize),
    Kill(usize),
    Restart(usize),
    Wait(u64),
}

fn act(count: usize) -> impl Strategy<Value = Act> {
    let at = 0..count;
    prop_oneof![
        6 => at.clone().prop_map(Act::Publish),
        3 => (at.clone(), 0_usize..5).prop_map(|(at, nth)| Act::Cut(at, nth)),
        3 => (at.clone(), at.clone()).prop_map(|(a, b)| Act::Link(a, b)),
        1 => at.clone().prop_map(Act::Kill),
        1 => at.prop_map(Act::Restart),
        6 => (0_u64..400).prop_map(Act::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// Whatever breaks, and in whatever order messages come: every broadcast whose origin lived on is delivered once
    /// to all that are connected to it in the end. That nobody gets it twice is asserted by the world.
    #[test]
    fn every_broadcast_reaches_all_that_stay_connected(
        seed: u64,
        count in 2_usize..24,
        variant in 0_usize..5,
        acts in prop::collection::vec(act(24), 1..60),
    ) {
        let config = match variant {
            0 => Config { start: Start::Flood, ..Config::default() },
            1 => Config { start: Start::Shared, ..Config::default() },
            2 => Config { start: Start::Scout { eager_hops: 0 }, ..Config::default() },
            3 => Config { start: Start::Flood, keying: Keying::LastPeers(2), ..Config::default() },
            _ => Config::default(),
        };
        let latency = Latency::Lognormal { median: MS * 40, sigma: 0.8 };
        let mut world = World::new(config, count, latency, seed).regular(4);
        world.who = Some(Default::default());
        let mut ids: Vec<(usize, MessageId)> = Vec::new();
        for act in acts {
            match act {
                Act::Publish(at) if world.nodes[at % count].alive => {
                    let at = at % count;
                    ids.push((at, world.publish(at, vec![0; 10])));
                }
                Act::Cut(at, nth) => {
                    let at = at % count;
                    let around = world.neighbours(at);
                    if !around.is_empty() {
                        world.cut(at, around[nth % around.len()]);
                    }
                }
                Act::Link(a, b) if world.neighbours(a % count).len().max(world.neighbours(b % count).len()) < 12 => {
                    world.link(a % count, b % count);
                }
                Act::Kill(at) if world.nodes[at % count].alive => {
                    let at = at % count;
                    world.kill(at);
                    ids.retain(|(origin, _)| *origin != at);
                    // What it had is gone, and what comes to it again is news.
                    world.who.as_mut().unwrap().values_mut().for_each(|who| {
                        who.remove(&at);
                    });
                }
                Act::Restart(at) if !world.nodes[at % count].alive => world.restart(at % count),
                Act::Wait(ms) => world.run_for(MS * ms as u32),
                _ => {}
            }
        }
        world.run_for(S * 20);
        for (origin, id) in ids {
            let (got, all) = (delivered(&world, id), world.component(origin));
            prop_assert!(got.is_superset(&all), "{id:?} of {origin} missed {:?}", all.difference(got).collect::<Vec<_>>());
        }
    }
}
