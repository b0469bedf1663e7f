//! Facts of several peers on a network made of queues.

mod bad_input;
mod bytes_spent;
mod convergence;
mod departures;
mod owner;

use super::*;
use crate::io::Outbox;
use crate::links::Links;
use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;
use std::collections::BTreeMap;
use std::net::SocketAddr;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// One peer of the network.
struct Node {
    peer: Peer,
    facts: Facts,
    links: Links,
    up: bool,
    incarnation: u64,
    told: Vec<Event>,
}

enum What {
    Message { from: usize, bytes: Bytes },
    Payload { origin: HostId, payload: Bytes },
    Unreachable { addr: Addr },
}

/// Peers, the links between them, and what is on its way; a link delivers in 10 ms and in order, or not at all.
struct Net {
    nodes: Vec<Node>,
    now: Time,
    queue: BTreeMap<(Time, u64), (usize, What)>,
    sent: u64,
    rng: Xoshiro256PlusPlus,
    /// Of a hundred messages, so many are lost.
    loss: u32,
    /// Peers in different groups do not reach each other.
    groups: Vec<u8>,
    /// Bytes of all messages but broadcasts.
    bytes: u64,
    broadcasts: u64,
    config: Arc<Config>,
}

fn peer(at: usize) -> Peer {
    let addr = SocketAddr::from(([127, 0, 0, 1], 1000 + at as u16)).into();
    Peer { id: HostId(at as u64 + 1), addr }
}

impl Net {
    /// So many peers, without links.
    fn of(count: usize, seed: u64) -> Self {
        Self::with(count, seed, Config::default())
    }

    fn with(count: usize, seed: u64, config: Config) -> Self {
        let config = Arc::new(config);
        let nodes = (0..count).map(|at| Node {
            peer: peer(at),
            facts: Facts::new(config.clone(), peer(at).id, 1),
            links: Links::default(),
            up: true,
            incarnation: 1,
            told: Vec::new(),
        });
        Self {
            nodes: nodes.collect(),
            now: Time(1_000_000),
            queue: BTreeMap::new(),
            sent: 0,
            rng: Xoshiro256PlusPlus::seed_from_u64(seed),
            loss: 0,
            groups: vec![0; count],
            bytes: 0,
            broadcasts: 0,
            config,
        }
    }

    /// A ring with as many chords as peers.
    fn ring(count: usize, seed: u64) -> Self {
        let mut net = Self::of(count, seed);
        for at in 0..count {
            net.link(at, (at + 1) % count);
        }
        for at in 0..count {
            let other = net.rng.random_range(0..count);
            net.link(at, other);
        }
        net
    }

    fn link(&mut self, a: usize, b: usize) {
        let (one, other) = (self.nodes[a].peer, self.nodes[b].peer);
        if a == b || self.nodes[a].links.find(other).is_some() {
            return;
        }
        for (at, peer) in [(a, other), (b, one)] {
            let now = self.now;
            let link = self.nodes[at].links.insert(peer, now).unwrap();
            self.step(at, |facts, cx| facts.link_up(link, cx));
        }
    }

    fn unlink(&mut self, a: usize, b: usize) {
        for (at, other) in [(a, peer(b)), (b, peer(a))] {
            if let Some(link) = self.nodes[at].links.find(other) {
                let neighbour = self.nodes[at].links.remove(link).unwrap();
                self.step(at, |facts, cx| facts.link_down(link, &neighbour, cx));
            }
        }
    }

    /// Every link between peers that do not reach each other goes down; links that were cut so come back by `link`.
    fn unlink_unreachable(&mut self) {
        for a in 0..self.nodes.len() {
            for b in 0..a {
                if !self.reach(a, b) {
                    self.unlink(a, b);
                }
            }
        }
    }

    fn reach(&self, a: usize, b: usize) -> bool {
        self.nodes[a].up && self.nodes[b].up && self.groups[a] == self.groups[b]
    }

    fn kill(&mut self, at: usize) {
        self.nodes[at].up = false;
        self.unlink_unreachable();
    }

    /// A killed peer starts anew, knowing nothing.
    fn restart(&mut self, at: usize) {
        let (config, now) = (self.config.clone(), self.now);
        let node = &mut self.nodes[at];
        node.incarnation += 1;
        node.up = true;
        node.links = Links::default();
        node.facts = Facts::new(config, node.peer.id, node.incarnation);
        self.queue.retain(|(time, _), (to, _)| *to != at || *time < now);
    }

    fn step<T>(&mut self, at: usize, act: impl FnOnce(&mut Facts, &mut Cx<'_>) -> T) -> T {
        let mut out = Outbox::default();
        let node = &mut self.nodes[at];
        let mut cx =
            Cx { now: self.now, rng: &mut self.rng, me: node.peer, links: &node.links, out: &mut out };
        let result = act(&mut node.facts, &mut cx);
        node.told.extend(std::iter::from_fn(|| node.facts.take_event()));
        let payloads: Vec<Bytes> = std::iter::from_fn(|| node.facts.take_broadcast()).collect();
        for effect in out.effects {
            let (to, bytes) = match effect {
                Effect::Send { to, bytes } => (to, bytes.to_bytes()),
                // Connections cost nothing here.
                Effect::Close { .. } => continue,
                other => panic!("facts do not ask for {other:?}"),
            };
            assert!(bytes.len() <= crate::wire::MESSAGE_BYTES_MAX);
            self.bytes += bytes.len() as u64;
            self.deliver(at, to, bytes);
        }
        payloads.into_iter().for_each(|payload| self.broadcast(at, payload));
        result
    }

    fn enqueue(&mut self, wait: Duration, to: usize, what: What) {
        self.sent += 1;
        self.queue.insert((self.now + wait, self.sent), (to, what));
    }

    fn deliver(&mut self, from: usize, to: Addr, bytes: Bytes) {
        let at = usize::from(to.port()).wrapping_sub(1000);
        if self.rng.random_range(0..100) < self.loss {
            return;
        }
        if at >= self.nodes.len() || !self.reach(from, at) {
            return self.enqueue(Duration::from_millis(20), from, What::Unreachable { addr: to });
        }
        self.enqueue(Duration::from_millis(10), at, What::Message { from, bytes });
    }

    /// To all that can be reached over links, each some time after whom it has it from, or not at all.
    fn broadcast(&mut self, from: usize, payload: Bytes) {
        self.broadcasts += 1;
        let mut reached = vec![false; self.nodes.len()];
        let mut next = vec![(from, Duration::ZERO)];
        reached[from] = true;
        while let Some((at, waited)) = next.pop() {
            let links: Vec<usize> =
                self.nodes[at].links.iter().map(|(_, it)| usize::from(it.peer.addr.port() - 1000)).collect();
            for to in links {
                if self.reach(at, to) && !std::mem::replace(&mut reached[to], true) {
                    let wait = waited + Duration::from_millis(self.rng.random_range(10..30));
                    next.push((to, wait));
                    if self.rng.random_range(0..100) >= self.loss {
                        let what =
                            What::Payload { origin: self.nodes[from].peer.id, payload: payload.clone() };
                        self.enqueue(wait, to, what);
                    }
                }
            }
        }
    }

    /// Lets time pass until something happens, at most until `end`; false when nothing did.
    fn tick(&mut self, end: Time) -> bool {
        let due = self.nodes.iter().enumerate().filter(|(_, it)| it.up);
        let due = due.filter_map(|(at, it)| Some((it.facts.next_deadline()?, at))).min();
        let arrives = self.queue.first_key_value().map(|((time, _), _)| *time);
        match (arrives, due) {
            (Some(time), _) if time <= end && due.is_none_or(|(due, _)| time <= due) => {
                self.now = self.now.max(time);
                let (_, (to, what)) = self.queue.pop_first().unwrap();
                self.arrive(to, what);
            }
            (_, Some((time, at))) if time <= end => {
                self.now = self.now.max(time);
                self.step(at, |facts, cx| facts.deadline(cx));
                let next = self.nodes[at].facts.next_deadline();
                assert!(next.is_none_or(|next| next > self.now), "peer {at} is never done");
            }
            _ => {
                self.now = end;
                return false;
            }
        }
        true
    }

    fn arrive(&mut self, to: usize, what: What) {
        if !self.nodes[to].up {
            return;
        }
        match what {
            What::Unreachable { addr } => {
                self.step(to, |facts, cx| facts.unreachable(addr, Unreachable::Refused, cx));
            }
            What::Message { from, bytes } => drop(self.receive(to, self.nodes[from].peer, &bytes)),
            What::Payload { origin, payload } => {
                let link = self.nodes[to].links.iter().next().map(|(link, _)| link);
                self.step(to, |facts, cx| facts.delivered(&payload, origin, link, cx).ok());
            }
        }
    }

    /// A message arrives at a peer at once.
    fn receive(&mut self, to: usize, from: Peer, bytes: &Bytes) -> Result<(), Refused> {
        let link = self.nodes[to].links.find(from);
        let (tag, reader) = Reader::new(bytes)?;
        self.step(to, |facts, cx| facts.handle(from, link, tag, reader, cx))
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.tick(end) {}
    }

    fn publish(&mut self, at: usize, key: &str, value: &str) {
        self.step(at, |facts, cx| facts.publish(key, value.as_bytes(), cx)).unwrap();
    }

    fn get(&self, at: usize, host: usize, key: &str) -> Option<String> {
        let value = self.nodes[at].facts.get(peer(host).id, key)?;
        Some(String::from_utf8(value.to_vec()).unwrap())
    }

    /// The sums of the peers that are up.
    fn sums(&self) -> Vec<(u64, u64)> {
        self.nodes.iter().filter(|it| it.up).map(|it| it.facts.sums()).collect()
    }

    fn agree(&self) -> bool {
        let sums = self.sums();
        sums.iter().all(|sum| *sum == sums[0])
    }

    /// What is kept by step is what it would be if it were counted anew.
    fn check_invariants(&self) {
        for node in &self.nodes {
            let facts = &node.facts;
            assert_eq!(
                facts.record_bytes,
                facts.records.iter().map(|(_, it)| it.body().len()).sum::<usize>()
            );
            let settings = facts.settings.forest.iter();
            let bytes: usize =
                settings.map(|(_, it)| it.key.len() + it.value.as_ref().map_or(0, |it| it.len())).sum();
            assert_eq!(facts.settings.bytes(), bytes);
            if let Some(record) = facts.own_record() {
                assert_eq!(record.version, facts.own);
            }
        }
    }
}
