//! A small world for queries: peers, links with latencies, and a broadcast that floods or follows a tree, and mends itself.

use crate::addr::{Addr, Peer};
use crate::io::{Cx, Effect, Outbox, Refused};
use crate::links::{Link, LinkSet, Links};
use crate::query::*;
use crate::time::Time;
use crate::wire::Reader;
use bytes::Bytes;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use skein_model::HostId;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

pub(crate) fn peer(id: u64) -> Peer {
    let ip = Ipv4Addr::from(0x0A00_0000 + id as u32);
    Peer { id: HostId(id), addr: Addr::from(SocketAddr::from((ip, 7000))) }
}

pub(crate) const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Facts: `bit` is a number with one bit, another for each peer, so that a sum tells who is in it and how often; `id` is its ID.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    pub(crate) me: u64,
    pub(crate) known: Vec<HostId>,
}

impl Local for Facts {
    fn value(&self, key: &str) -> Option<Value> {
        match key {
            "bit" => Some(Value::int(1 << self.me)),
            "id" => Some(Value::int(self.me as i64)),
            "topics" => Value::counters([(format!("t{}", self.me % 3), 1), ("all".into(), 2)]),
            _ => None,
        }
    }

    fn known(&self, each: &mut dyn FnMut(HostId)) {
        self.known.iter().copied().for_each(each);
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Happens {
    /// A broadcast's push from one to another, with the hops it has made then.
    Push {
        from: u64,
        to: u64,
        hops: u8,
    },
    /// The answer to a push that was not needed.
    Prune {
        from: u64,
        to: u64,
    },
    Message {
        from: u64,
        to: u64,
        bytes: Bytes,
    },
    LinkDown {
        at: u64,
        other: u64,
    },
    Deadline {
        at: u64,
    },
    Kill {
        at: u64,
    },
    /// Those who lack the question take it from neighbours that have it.
    Mend,
}

pub(crate) struct One {
    pub(crate) queries: Queries,
    pub(crate) links: Links,
    pub(crate) facts: Facts,
    pub(crate) alive: bool,
    /// With how many hops it came, and from whom.
    question: Option<(u8, Option<u64>)>,
}

pub(crate) struct World {
    pub(crate) peers: BTreeMap<u64, One>,
    pub(crate) rng: Xoshiro256PlusPlus,
    pub(crate) now: Time,
    queue: BinaryHeap<std::cmp::Reverse<(Time, u64, usize)>>,
    happens: Vec<Option<Happens>>,
    /// Latency of each pair, lower ID first; made up when first needed.
    latency: BTreeMap<(u64, u64), Duration>,
    /// Pushes go along these only, if there are any.
    pub(crate) tree: BTreeSet<(u64, u64)>,
    payload: Bytes,
    pub(crate) id: QueryId,
    pub(crate) answers: Vec<(Time, Answer)>,
    pub(crate) refused: Vec<(u64, Refused)>,
    pub(crate) messages: usize,
    /// How long until a death is noticed by a neighbour, at most.
    pub(crate) notice: Duration,
}

impl World {
    /// Peers 0 to `n - 1` in a ring with as many chords as make `degree` links each, on average.
    pub(crate) fn new(n: u64, degree: u64, seed: u64) -> Self {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        let mut edges: BTreeSet<(u64, u64)> =
            (0..n).map(|at| (at, (at + 1) % n)).map(|(a, b)| (a.min(b), a.max(b))).collect();
        edges.retain(|(a, b)| a != b);
        for _ in 0..4 * n {
            let (a, b) = (rng.random_range(0..n), rng.random_range(0..n));
            if a < b && (edges.len() as u64) < n * degree / 2 {
                edges.insert((a, b));
            }
        }
        let known: Vec<HostId> = (0..n).map(HostId).collect();
        let config = Arc::new(Config::default());
        let one = |me| One {
            queries: Queries::new(config.clone()),
            links: Links::default(),
            facts: Facts { me, known: known.clone() },
            alive: true,
            question: None,
        };
        let mut world = Self {
            peers: (0..n).map(|me| (me, one(me))).collect(),
            rng,
            now: Time(0),
            queue: BinaryHeap::new(),
            happens: Vec::new(),
            latency: BTreeMap::new(),
            tree: BTreeSet::new(),
            payload: Bytes::new(),
            id: QueryId { origin: HostId(0), incarnation: 1, seq: 1 },
            answers: Vec::new(),
            refused: Vec::new(),
            messages: 0,
            notice: ms(3_000),
        };
        for (a, b) in edges {
            let fits = |world: &World, at| world.peers[&at].links.len() < LINKS_MAX;
            if fits(&world, a) && fits(&world, b) {
                world.one(a).links.insert(peer(b), Time(0));
                world.one(b).links.insert(peer(a), Time(0));
            }
        }
        world
    }

    pub(crate) fn one(&mut self, at: u64) -> &mut One {
        self.peers.get_mut(&at).unwrap()
    }

    pub(crate) fn neighbours(&self, at: u64) -> Vec<u64> {
        self.peers[&at].links.iter().map(|(_, neighbour)| neighbour.peer.id.0).collect()
    }

    pub(crate) fn link(&self, at: u64, to: u64) -> Option<Link> {
        self.peers[&at].links.find(peer(to))
    }

    /// From now on pushes follow the shortest ways from `root`.
    pub(crate) fn settle_tree(&mut self, root: u64) {
        let (mut seen, mut line) = (BTreeSet::from([root]), std::collections::VecDeque::from([root]));
        while let Some(at) = line.pop_front() {
            for next in self.neighbours(at) {
                if seen.insert(next) {
                    self.tree.insert((at, next));
                    line.push_back(next);
                }
            }
        }
    }

    pub(crate) fn after(&mut self, wait: Duration, what: Happens) {
        self.happens.push(Some(what));
        let at = self.now + wait;
        self.queue.push(std::cmp::Reverse((at, self.happens.len() as u64, self.happens.len() - 1)));
    }

    fn latency(&mut self, a: u64, b: u64) -> Duration {
        let rng = &mut self.rng;
        *self.latency.entry((a.min(b), a.max(b))).or_insert_with(|| ms(rng.random_range(5..60)))
    }

    /// One step of a peer's queries; what it sends is on its way after that.
    pub(crate) fn step<T>(&mut self, at: u64, step: impl FnOnce(&mut Queries, &Facts, &mut Cx) -> T) -> T {
        let (now, mut out) = (self.now, Outbox::default());
        let one = self.peers.get_mut(&at).unwrap();
        let mut cx = Cx { now, rng: &mut self.rng, me: peer(at), links: &one.links, out: &mut out };
        let result = step(&mut one.queries, &one.facts, &mut cx);
        let (events, deadline) = (one.queries.take_events(), one.queries.next_deadline());
        self.answers.extend(events.into_iter().map(|Event::Answered(answer)| (now, *answer)));
        for effect in out.effects {
            if let Effect::Send { to, bytes } = effect {
                let to = self.peers.keys().copied().find(|id| peer(*id).addr == to).unwrap();
                let wait = self.latency(at, to);
                self.messages += 1;
                self.after(wait, Happens::Message { from: at, to, bytes: bytes.to_bytes() });
            }
        }
        if let Some(deadline) = deadline {
            self.after(deadline.since(now), Happens::Deadline { at });
        }
        result
    }

    pub(crate) fn ask(&mut self, asker: u64, question: Question) {
        self.id.origin = HostId(asker);
        let id = self.id;
        self.payload = self.step(asker, |queries, facts, cx| {
            let payload = queries.ask(&question, cx.me).unwrap();
            queries.begin(id, 7, question, facts, cx);
            payload
        });
        self.deliver(asker, None, 0);
        for round in 1..40 {
            self.after(ms(300 * round), Happens::Mend);
        }
    }

    /// The broadcast reaches a peer for the first time.
    fn deliver(&mut self, at: u64, from: Option<u64>, hops: u8) {
        self.one(at).question = Some((hops, from));
        let (mut forwarded, mut pushed) = (LinkSet::default(), Vec::new());
        for next in self.neighbours(at) {
            if Some(next) != from && (self.tree.is_empty() || self.tree.contains(&(at, next))) {
                forwarded.insert(self.link(at, next).unwrap());
                pushed.push(next);
            }
        }
        for to in pushed {
            let wait = self.latency(at, to);
            self.after(wait, Happens::Push { from: at, to, hops: hops + 1 });
        }
        let link = from.map(|from| self.link(at, from).unwrap());
        let (id, payload) = (self.id, self.payload.clone());
        let told = self
            .step(at, |queries, facts, cx| queries.delivered(id, &payload, hops, link, forwarded, facts, cx));
        told.unwrap();
    }

    /// Breaks a link; each side notices in its own time.
    pub(crate) fn cut(&mut self, a: u64, b: u64) {
        for (at, other) in [(a, b), (b, a)] {
            let wait = self.rng.random_range(0..=self.notice.as_millis() as u64);
            self.after(ms(wait), Happens::LinkDown { at, other });
        }
    }

    pub(crate) fn run(&mut self) {
        for _ in 0..2_000_000 {
            if self.queue.is_empty() {
                return;
            }
            self.happen_next();
        }
        panic!("it goes on for ever");
    }

    /// Does the next thing only.
    pub(crate) fn happen_next(&mut self) {
        if let Some(std::cmp::Reverse((time, _, at))) = self.queue.pop() {
            self.now = time;
            let what = self.happens[at].take().unwrap();
            self.happen(what);
        }
    }

    fn happen(&mut self, what: Happens) {
        let lives = |world: &World, at: &u64| world.peers[at].alive;
        match what {
            Happens::Push { from, to, hops } if lives(self, &to) => {
                if self.link(to, from).is_none() {
                    // The connection broke meanwhile, and what was on it is gone.
                } else if let Some((_, parent)) = self.peers[&to].question {
                    if parent == Some(from) {
                        return;
                    }
                    let wait = self.latency(from, to);
                    self.after(wait, Happens::Prune { from: to, to: from });
                } else {
                    self.deliver(to, Some(from), hops);
                }
            }
            Happens::Prune { from, to } if lives(self, &to) => {
                let (id, link) = (self.id, self.link(to, from));
                if let Some(link) = link {
                    self.step(to, |queries, facts, cx| queries.declined(id, link, facts, cx));
                }
            }
            Happens::Message { from, to, bytes } if lives(self, &to) => self.receive(from, to, bytes),
            Happens::LinkDown { at, other } if lives(self, &at) => {
                if let Some(link) = self.link(at, other) {
                    self.one(at).links.remove(link);
                    self.step(at, |queries, facts, cx| queries.link_down(link, peer(other), facts, cx));
                }
            }
            Happens::Deadline { at } if lives(self, &at) => {
                let now = self.now;
                if self.peers[&at].queries.next_deadline().is_some_and(|due| due <= now) {
                    self.step(at, |queries, facts, cx| queries.deadline(facts, cx));
                }
            }
            Happens::Kill { at } => {
                self.one(at).alive = false;
                for other in self.neighbours(at) {
                    self.cut(at, other);
                }
            }
            Happens::Mend => {
                let lacking: Vec<u64> = self.peers.keys().copied().collect();
                for at in lacking {
                    if !lives(self, &at) || self.peers[&at].question.is_some() {
                        continue;
                    }
                    let has = |other: &u64| {
                        lives(self, other)
                            && self.peers[other].question.is_some()
                            && self.link(*other, at).is_some()
                    };
                    let Some(giver) = self.neighbours(at).into_iter().find(has) else { continue };
                    let (id, link) = (self.id, self.link(giver, at).unwrap());
                    self.step(giver, |queries, _, cx| queries.grafted(id, link, cx));
                    let hops = self.peers[&giver].question.unwrap().0 + 1;
                    let wait = self.latency(at, giver);
                    self.after(wait, Happens::Push { from: giver, to: at, hops });
                }
            }
            _ => {}
        }
    }

    pub(crate) fn receive(&mut self, from: u64, to: u64, bytes: Bytes) {
        let (tag, reader) = Reader::new(&bytes).unwrap();
        let told = self.step(to, |queries, facts, cx| queries.handle(peer(from), tag, reader, facts, cx));
        if let Err(refused) = told {
            self.refused.push((to, refused));
        }
    }

    /// Who is alive and can be reached from a peer over links between the living.
    pub(crate) fn reachable(&self, from: u64) -> BTreeSet<u64> {
        let (mut seen, mut line) = (BTreeSet::from([from]), vec![from]);
        while let Some(at) = line.pop() {
            for next in self.neighbours(at) {
                if self.peers[&next].alive && seen.insert(next) {
                    line.push(next);
                }
            }
        }
        seen
    }

    /// The one answer, after checking what holds of every answer to `sum bit`.
    pub(crate) fn sum_of_bits(&self) -> (BTreeSet<u64>, &Answer) {
        assert_eq!(self.answers.len(), 1, "one question, one answer");
        let (at, answer) = &self.answers[0];
        let Found::Sum { ints, .. } = answer.tally.found else { panic!("not a sum") };
        let counted: BTreeSet<u64> = (0..100).filter(|bit| ints >> bit & 1 == 1).collect();
        // A peer counted twice would carry over into the bit of another.
        assert_eq!(counted.len(), answer.coverage.counted, "each counted once: {ints:b}");
        assert_eq!(answer.tally.valued, answer.coverage.counted as u64);
        assert_eq!(answer.coverage.counted + answer.coverage.missing, answer.coverage.known);
        for host in &answer.coverage.missing_named {
            assert!(!counted.contains(&host.0), "{host} is called missing and is counted");
        }
        assert!(answer.took <= answer.question.within && at.since(Time(0)) >= answer.took);
        (counted, answer)
    }
}

pub(crate) fn sum_of_bits(within: Duration) -> Question {
    Question { filter: Filter::All, aggregate: Aggregate::Sum { key: "bit".into() }, within }
}
