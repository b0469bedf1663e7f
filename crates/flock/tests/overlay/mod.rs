//! A small world for the broadcast part alone: peers with links that the test puts up and cuts, and messages that take
//! their time. Whatever a peer sends over a link that is down when it would arrive is lost.
#![allow(dead_code)] // every user takes what it needs

use bytes::Bytes;
use rand::Rng;
use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;
use skein_flock::broadcast::{Broadcast, Channel, Config, Event, MessageId};
use skein_flock::io::{Cx, Effect, Outbox};
use skein_flock::links::{Link, LinkSet, Links};
use skein_flock::{Addr, Frame, Peer, Time};
use skein_model::HostId;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// How long a message takes.
#[derive(Clone, Debug)]
pub enum Latency {
    /// The same on every link.
    Constant(Duration),
    /// Drawn once for each link: the median times e to the power of a normal variable times `sigma`.
    Lognormal { median: Duration, sigma: f64 },
    /// Peers live in three regions by number; one way within, and between the regions.
    Regions { within: Duration, between: [Duration; 3] },
}

pub struct Node {
    pub broadcast: Broadcast,
    pub links: Links,
    pub alive: bool,
    pub events: Vec<Event>,
    /// Added to all it sends.
    pub slow: Duration,
    incarnation: u64,
    woken: Option<Time>,
}

enum What {
    Message { from: usize, bytes: Frame },
    Wake,
}

/// What was seen of one broadcast.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub began: Time,
    pub delivered: usize,
    pub last: Time,
    pub last_hops: u8,
}

pub struct World {
    pub config: Arc<Config>,
    pub now: Time,
    pub nodes: Vec<Node>,
    pub rng: Xoshiro256PlusPlus,
    pub latency: Latency,
    /// By ordered pair.
    delays: BTreeMap<(usize, usize), Duration>,
    queue: BinaryHeap<Reverse<(Time, u64, usize)>>,
    waiting: Vec<What>,
    free: Vec<usize>,
    targets: Vec<usize>,
    order: u64,
    /// Deliveries by message.
    pub seen: BTreeMap<MessageId, Seen>,
    /// Who got what; kept only when asked for.
    pub who: Option<BTreeMap<MessageId, BTreeSet<usize>>>,
    pub keep_events: bool,
    /// Bytes of all messages, two each for the frame.
    pub bytes: u64,
    pub messages: u64,
    pub payloads: u64,
}

pub fn addr(at: usize) -> Addr {
    let [_, a, b, c] = (at as u32).to_be_bytes();
    SocketAddr::new(Ipv4Addr::new(10, a, b, c).into(), 7000).into()
}

fn index(addr: Addr) -> usize {
    match addr.ip() {
        std::net::IpAddr::V4(ip) => {
            let [_, a, b, c] = ip.octets();
            u32::from_be_bytes([0, a, b, c]) as usize
        }
        std::net::IpAddr::V6(_) => panic!("an address of nobody"),
    }
}

pub fn peer(at: usize) -> Peer {
    Peer { id: HostId(1 + at as u64), addr: addr(at) }
}

impl World {
    pub fn new(config: Config, count: usize, latency: Latency, seed: u64) -> Self {
        let config = Arc::new(config);
        let nodes = (0..count).map(|at| Node {
            broadcast: Broadcast::new(config.clone(), peer(at).id, 1),
            links: Links::default(),
            alive: true,
            events: Vec::new(),
            slow: Duration::ZERO,
            incarnation: 1,
            woken: None,
        });
        Self {
            nodes: nodes.collect(),
            config,
            now: Time(1_000_000_000),
            rng: Xoshiro256PlusPlus::seed_from_u64(seed),
            latency,
            delays: BTreeMap::new(),
            queue: BinaryHeap::new(),
            waiting: Vec::new(),
            free: Vec::new(),
            targets: Vec::new(),
            order: 0,
            seen: BTreeMap::new(),
            who: None,
            keep_events: false,
            bytes: 0,
            messages: 0,
            payloads: 0,
        }
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.rng.next_u64() % n.max(1) as u64) as usize
    }

    /// A connected graph in which every peer has `degree` links (one fewer here and there).
    pub fn regular(mut self, degree: usize) -> Self {
        let count = self.nodes.len();
        // A ring keeps it in one piece; the rest is drawn.
        (0..count).for_each(|at| self.link(at, (at + 1) % count));
        for _ in 2..degree {
            let mut order: Vec<usize> = (0..count).collect();
            (1..count).for_each(|at| {
                let other = self.below(at + 1);
                order.swap(at, other);
            });
            for pair in order.chunks_exact(2) {
                self.link(pair[0], pair[1]);
            }
        }
        self
    }

    pub fn linked(&self, a: usize, b: usize) -> bool {
        self.nodes[a].links.find(peer(b)).is_some()
    }

    fn draw_delay(&mut self, a: usize, b: usize) -> Duration {
        match &self.latency {
            Latency::Constant(delay) => *delay,
            Latency::Lognormal { median, sigma } => {
                let (median, sigma) = (*median, *sigma);
                let unit =
                    |rng: &mut Xoshiro256PlusPlus| (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
                let (u, v) = (unit(&mut self.rng).max(1e-12), unit(&mut self.rng));
                let normal = (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos();
                median.mul_f64((normal * sigma).exp())
            }
            Latency::Regions { within, between } => match (a % 3, b % 3) {
                (x, y) if x == y => *within,
                (x, y) => between[x + y - 1],
            },
        }
    }

    pub fn link(&mut self, a: usize, b: usize) {
        if a == b || self.linked(a, b) || !self.nodes[a].alive || !self.nodes[b].alive {
            return;
        }
        let delay = self.draw_delay(a, b);
        self.delays.insert((a.min(b), a.max(b)), delay);
        for (at, other) in [(a, b), (b, a)] {
            let now = self.now;
            let Some(link) = self.nodes[at].links.insert(peer(other), now) else { panic!("too many links") };
            self.step(at, |broadcast, cx| broadcast.link_up(link, cx));
        }
    }

    pub fn cut(&mut self, a: usize, b: usize) {
        for (at, other) in [(a, b), (b, a)] {
            if let Some(link) = self.nodes[at].links.find(peer(other)) {
                self.nodes[at].links.remove(link);
                if self.nodes[at].alive {
                    self.step(at, |broadcast, cx| broadcast.link_down(link, cx));
                }
            }
        }
    }

    pub fn neighbours(&self, at: usize) -> Vec<usize> {
        self.nodes[at].links.iter().map(|(_, it)| index(it.peer.addr)).collect()
    }

    /// The peer is gone, and its neighbours know at once.
    pub fn kill(&mut self, at: usize) {
        self.nodes[at].alive = false;
        self.neighbours(at).into_iter().for_each(|other| self.cut(at, other));
    }

    /// The peer is back, without links and without memory.
    pub fn restart(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        node.incarnation += 1;
        node.alive = true;
        node.woken = None;
        node.broadcast = Broadcast::new(self.config.clone(), peer(at).id, node.incarnation);
    }

    pub fn publish(&mut self, at: usize, payload: impl Into<Bytes>) -> MessageId {
        let payload = payload.into();
        let mut id = None;
        self.step(at, |broadcast, cx| id = broadcast.publish(Channel::App, payload, cx).ok());
        id.expect("a broadcast of fair size")
    }

    /// Brings a message as if a neighbour had sent it.
    pub fn inject(
        &mut self,
        from: usize,
        to: usize,
        bytes: impl Into<Frame>,
    ) -> Result<(), skein_flock::Refused> {
        let (tag, reader) = skein_flock::wire::Reader::new(bytes)?;
        let link = self.nodes[to].links.find(peer(from)).expect("a link");
        let mut done = Ok(());
        self.step(to, |broadcast, cx| done = broadcast.handle(link, tag, reader, cx));
        done
    }

    pub fn step(&mut self, at: usize, act: impl FnOnce(&mut Broadcast, &mut Cx<'_>)) {
        let mut out = Outbox::default();
        let node = &mut self.nodes[at];
        let mut cx =
            Cx { now: self.now, rng: &mut self.rng, me: peer(at), links: &node.links, out: &mut out };
        act(&mut node.broadcast, &mut cx);
        let slow = node.slow;
        while let Some(event) = node.broadcast.next_event() {
            if let Event::Delivered { id, hops, .. } = &event {
                let seen = self.seen.entry(*id).or_default();
                if seen.delivered == 0 {
                    seen.began = self.now;
                }
                seen.delivered += 1;
                (seen.last, seen.last_hops) = (self.now, *hops);
                if let Some(who) = &mut self.who {
                    assert!(who.entry(*id).or_default().insert(at), "{id:?} delivered twice at {at}");
                }
            }
            if self.keep_events {
                node.events.push(event);
            }
        }
        if let Some(due) = node.broadcast.next_deadline()
            && node.woken.is_none_or(|woken| due < woken)
        {
            node.woken = Some(due);
            self.push(due, at, What::Wake);
        }
        for effect in out.effects {
            let Effect::Send { to, bytes } = effect else { continue };
            self.bytes += bytes.len() as u64 + 2;
            self.messages += 1;
            self.payloads += u64::from(matches!(bytes.get(0), Some(0x20 | 0x21)));
            let to = index(to);
            let delay = self.delays[&(at.min(to), at.max(to))] + slow;
            self.push(self.now + delay, to, What::Message { from: at, bytes });
        }
    }

    fn push(&mut self, at: Time, to: usize, what: What) {
        let place = match self.free.pop() {
            Some(place) => {
                (self.waiting[place], self.targets[place]) = (what, to);
                place
            }
            None => {
                self.waiting.push(what);
                self.targets.push(to);
                self.waiting.len() - 1
            }
        };
        self.order += 1;
        self.queue.push(Reverse((at, self.order, place)));
    }

    /// Lets everything happen until `until`.
    pub fn run_until(&mut self, until: Time) {
        while let Some(Reverse((at, _, place))) = self.queue.peek().copied() {
            if at > until {
                break;
            }
            self.queue.pop();
            self.now = at;
            let what = std::mem::replace(&mut self.waiting[place], What::Wake);
            let to = self.targets[place];
            self.free.push(place);
            if !self.nodes[to].alive {
                continue;
            }
            match what {
                What::Wake => {
                    if self.nodes[to].woken == Some(at) {
                        self.nodes[to].woken = None;
                        self.step(to, |broadcast, cx| broadcast.deadline(cx));
                    }
                }
                What::Message { from, bytes } => {
                    let Some(link) = self.nodes[to].links.find(peer(from)) else { continue };
                    let Ok((tag, reader)) = skein_flock::wire::Reader::new(bytes) else { continue };
                    self.step(to, |broadcast, cx| {
                        let _ = broadcast.handle(link, tag, reader, cx);
                    });
                }
            }
        }
        self.now = self.now.max(until);
    }

    pub fn run_for(&mut self, wait: Duration) {
        self.run_until(self.now + wait);
    }

    /// When flooding from `at` would have reached the last peer, and how many links away that is.
    pub fn bound(&self, at: usize) -> Duration {
        let mut best = vec![u64::MAX; self.nodes.len()];
        let mut queue = BinaryHeap::from([Reverse((0_u64, at))]);
        best[at] = 0;
        while let Some(Reverse((so_far, at))) = queue.pop() {
            if so_far > best[at] {
                continue;
            }
            for other in self.neighbours(at) {
                let delay = self.delays[&(at.min(other), at.max(other))] + self.nodes[at].slow;
                let next = so_far + delay.as_micros() as u64;
                if next < best[other] && self.nodes[other].alive {
                    best[other] = next;
                    queue.push(Reverse((next, other)));
                }
            }
        }
        Duration::from_micros(best.into_iter().filter(|it| *it != u64::MAX).max().unwrap_or(0))
    }

    /// Peers that can be reached from `at` over links.
    pub fn component(&self, at: usize) -> BTreeSet<usize> {
        let (mut all, mut queue) = (BTreeSet::from([at]), vec![at]);
        while let Some(at) = queue.pop() {
            for other in self.neighbours(at) {
                if self.nodes[other].alive && all.insert(other) {
                    queue.push(other);
                }
            }
        }
        all
    }

    /// The links of `at` to these peers.
    pub fn link_set(&self, at: usize, others: &[usize]) -> LinkSet {
        let mut set = LinkSet::default();
        others.iter().filter_map(|other| self.link_to(at, *other)).for_each(|link| set.insert(link));
        set
    }

    pub fn link_to(&self, at: usize, other: usize) -> Option<Link> {
        self.nodes[at].links.find(peer(other))
    }
}
