use super::*;
use crate::graph::Graph;
use crate::network::Latency;
use std::sync::Arc;

/// Floods numbers over a graph that all know.
struct Flood {
    seen: u64,
    beat: Option<Time>,
}

struct World {
    graph: Arc<Graph>,
    failures: Vec<(u64, Node, Node, Unreachable)>,
}

impl Protocol for Flood {
    type Message = u8;
    type Report = u8;
    type Shared = World;

    fn handle(&mut self, event: Event<u8>, io: &mut Io<'_, Self>) {
        match event {
            Event::Received { from, message } => self.pass(message, Some(from), io),
            Event::Unreachable { node, why } => {
                let failure = (io.now.0, io.me, node, why);
                io.shared.failures.push(failure);
            }
            Event::Deadline => {
                self.beat = Some(io.now + Duration::from_secs(1));
                io.report(255);
            }
            Event::Start => {}
        }
    }

    fn next_deadline(&self) -> Option<Time> {
        self.beat
    }

    fn size(_: &u8) -> usize {
        3
    }

    fn kind(message: &u8) -> u8 {
        *message
    }

    fn digest(message: &u8) -> u64 {
        u64::from(*message)
    }
}

impl Flood {
    fn pass(&mut self, number: u8, from: Option<Node>, io: &mut Io<'_, Self>) {
        if self.seen & 1 << number == 0 {
            self.seen |= 1 << number;
            io.report(number);
            let graph = io.shared.graph.clone();
            for to in graph.neighbours(io.me.0) {
                if Some(Node(*to)) != from {
                    io.send(Node(*to), number);
                }
            }
        }
    }
}

fn flooded(graph: Graph, network: Network, seed: u64) -> Sim<Flood> {
    let world = World { graph: Arc::new(graph), failures: Vec::new() };
    let len = world.graph.len();
    let mut sim = Sim::new(network, world, seed);
    for _ in 0..len {
        sim.add(Flood { seen: 0, beat: None });
    }
    sim
}

fn ring(len: u32) -> Graph {
    Graph::new((0..len).map(|at| [(at + len - 1) % len, (at + 1) % len]))
}

fn lognormal() -> Network {
    Network { latency: Latency::Lognormal { median: ms(40), sigma: 0.5 }, ..Network::default() }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn broadcast(sim: &mut Sim<Flood>, from: u32, number: u8) {
    sim.act(Node(from), |peer, io| peer.pass(number, None, io));
}

#[test]
fn a_warm_flood_takes_exactly_the_shortest_paths() {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(1);
    let mut sim = flooded(Graph::random_regular(500, 5, &mut rng), lognormal(), 1);
    for from in 0..500 {
        // Every link is dialled by one of these.
        broadcast(&mut sim, from, (from % 60) as u8);
    }
    sim.run_for(Duration::from_secs(10));
    sim.take_reports();
    let start = sim.now();
    broadcast(&mut sim, 7, 60);
    sim.run_for(Duration::from_secs(10));
    let graph = sim.shared().graph.clone();
    let bound = graph.flood(7, |from, to| sim.delay(Node(from), Node(to)));
    let mut seen = vec![None; 500];
    for (at, node, number) in sim.take_reports() {
        assert_eq!(number, 60);
        seen[node.index()] = Some(at.0 - start.0);
    }
    assert_eq!(seen, bound);
}

#[test]
fn one_seed_replays_and_another_does_not() {
    let run = |seed, network: &Network| {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(2);
        let mut sim = flooded(Graph::random_regular(200, 5, &mut rng), network.clone(), seed);
        for number in 0..20 {
            broadcast(&mut sim, u32::from(number) * 7, number);
            sim.run_for(ms(30));
        }
        sim.kill(Node(9), Death::Reset);
        sim.run_for(Duration::from_secs(20));
        (sim.trace(), sim.counters().events)
    };
    let rough = Network { loss: 0.05, breaks: 0.01, jitter: 0.3, ..lognormal() };
    assert_eq!(run(3, &rough), run(3, &rough));
    assert_ne!(run(3, &rough).0, run(4, &rough).0);
    assert_ne!(run(3, &rough).0, run(3, &lognormal()).0);
}

#[test]
fn the_first_message_waits_for_the_handshake_and_later_ones_keep_their_order() {
    let mut sim = flooded(ring(3), Network::default(), 1);
    sim.act(Node(0), |_, io| io.send(Node(1), 1));
    sim.act(Node(0), |_, io| io.send(Node(1), 2));
    sim.run_for(ms(149));
    assert_eq!(sim.take_reports(), []);
    assert_eq!(sim.in_flight().count(), 2);
    sim.run_for(ms(1));
    assert_eq!(sim.take_reports(), [(Time(150_000), Node(1), 1), (Time(150_000), Node(1), 2)]);
    sim.slow(Node(0), ms(500));
    sim.act(Node(0), |_, io| io.send(Node(1), 3));
    sim.slow(Node(0), ms(0));
    sim.act(Node(0), |_, io| io.send(Node(1), 4));
    sim.run_for(ms(600));
    let order: Vec<u8> = sim.take_reports().into_iter().filter(|it| it.1 == Node(1)).map(|it| it.2).collect();
    assert_eq!(order, [3, 4]);
}

#[test]
fn the_ways_to_die_show_as_they_do_on_a_real_network() {
    for (death, lost_after, dial_fails_after, why) in [
        (Death::Refusing, 50, 100, Unreachable::Refused),
        (Death::Reset, 50, 3_000, Unreachable::TimedOut),
        (Death::Silent, 20_050, 3_000, Unreachable::TimedOut),
    ] {
        let mut sim = flooded(ring(4), Network::default(), 1);
        sim.act(Node(0), |_, io| io.send(Node(1), 1));
        sim.run_for(Duration::from_secs(1));
        let start = sim.now().0;
        sim.kill(Node(1), death);
        sim.act(Node(0), |_, io| io.send(Node(1), 2));
        sim.act(Node(3), |_, io| io.send(Node(1), 2));
        sim.run_for(Duration::from_secs(30));
        let mut failures = std::mem::take(&mut sim.shared_mut().failures);
        failures.retain_mut(|failure| {
            failure.0 -= start;
            failure.1 != Node(2)
        });
        let mut expected = vec![
            (lost_after * 1_000, Node(0), Node(1), Unreachable::Lost),
            (dial_fails_after * 1_000, Node(3), Node(1), why),
        ];
        expected.sort_by_key(|failure| failure.0);
        assert_eq!(failures, expected, "{death:?}");
    }
}

#[test]
fn a_closed_connection_is_told_to_the_other_end_behind_the_last_message() {
    let mut sim = flooded(ring(3), Network::default(), 1);
    sim.act(Node(0), |_, io| {
        io.send(Node(1), 1);
        io.close(Node(1));
    });
    sim.run_for(Duration::from_secs(1));
    assert_eq!(sim.take_reports().first(), Some(&(Time(150_000), Node(1), 1)));
    assert_eq!(sim.shared().failures, [(150_000, Node(1), Node(0), Unreachable::Lost)]);
}

#[test]
fn a_partition_swallows_messages_and_a_healed_one_carries_them_again() {
    let mut sim = flooded(ring(2), Network::default(), 1);
    sim.isolate(Node(1), 1);
    sim.act(Node(0), |_, io| io.send(Node(1), 1));
    sim.run_for(Duration::from_secs(5));
    assert_eq!(sim.take_reports(), []);
    assert_eq!(sim.shared().failures, [(3_000_000, Node(0), Node(1), Unreachable::TimedOut)]);
    sim.isolate(Node(1), 0);
    sim.act(Node(0), |_, io| io.send(Node(1), 2));
    sim.run_for(ms(150));
    assert_eq!(sim.take_reports(), [(Time(5_150_000), Node(1), 2)]);
}

#[test]
fn a_restarted_peer_knows_nothing_of_its_old_connections() {
    let mut sim = flooded(ring(3), Network::default(), 1);
    sim.act(Node(0), |_, io| io.send(Node(1), 1));
    sim.run_for(Duration::from_secs(1));
    sim.take_reports();
    sim.kill(Node(1), Death::Silent);
    sim.restart(Node(1), Flood { seen: 0, beat: None });
    sim.act(Node(0), |_, io| io.send(Node(1), 2));
    sim.run_for(Duration::from_secs(1));
    assert_eq!(sim.take_reports(), []);
    assert_eq!(sim.shared().failures, [(1_100_000, Node(0), Node(1), Unreachable::Lost)]);
    sim.act(Node(0), |_, io| io.send(Node(1), 3));
    sim.run_for(Duration::from_secs(1));
    assert_eq!(sim.take_reports().first(), Some(&(Time(2_150_000), Node(1), 3)));
}

#[test]
fn deadlines_come_when_named_and_loss_only_delays() {
    let network = Network { loss: 0.3, ..Network::default() };
    let mut sim = flooded(ring(40), network, 6);
    sim.act(Node(5), |peer, io| peer.beat = Some(io.now + ms(250)));
    broadcast(&mut sim, 0, 1);
    sim.run_for(Duration::from_secs(60));
    let reports = sim.take_reports();
    let beats: Vec<u64> = reports.iter().filter(|it| it.2 == 255).map(|it| it.0.0).collect();
    assert_eq!(beats, (0..60).map(|at| 250_000 + at * 1_000_000).collect::<Vec<_>>());
    assert_eq!(reports.iter().filter(|it| it.2 == 1).count(), 40);
    // A ring of twenty steps each way, each with a handshake, would take 3 seconds without loss.
    assert!(reports.iter().filter(|it| it.2 == 1).map(|it| it.0.0).max() > Some(3_200_000));
}
