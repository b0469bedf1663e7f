//! A whole flock under test, in the words of its tests: join, broadcast, kill, look.
//!
//! ```
//! use skein_sim::Cluster;
//! let mut cluster: Cluster = Cluster::new(20, 7);
//! cluster.join_all().settle(30);
//! assert_eq!(cluster.len(), 20);
//! ```

use crate::engine::{Death, Node, Sim};
use crate::flock_peer::{FlockPeer, World};
use crate::graph::Graph;
use crate::network::{Network, mix};
use crate::subject::{Report, Subject, payload};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use skein_flock::Time;
use std::time::Duration;

/// Reports are taken in at least this often, so that they do not pile up.
const SLICE: Duration = Duration::from_millis(25);

/// What became of one broadcast.
#[derive(Clone, Debug)]
pub struct Broadcast {
    /// Who sent it.
    pub origin: Node,
    /// When.
    pub at: Time,
    /// When it reached someone for the last time.
    pub last: Time,
    /// Most links it passed on its way to someone.
    pub hops: u8,
    /// How many it reached.
    pub count: usize,
    /// How often it reached someone again who had it already and was not restarted since.
    pub again: usize,
    reached: Vec<u64>,
}

impl Broadcast {
    /// Whether the peer got it; the origin has it from the start.
    pub fn reached(&self, node: Node) -> bool {
        self.reached.get(node.index() / 64).is_some_and(|word| word & 1 << (node.index() % 64) != 0)
    }

    fn mark(&mut self, node: Node) -> bool {
        if self.reached.len() <= node.index() / 64 {
            self.reached.resize(node.index() / 64 + 1, 0);
        }
        let word = &mut self.reached[node.index() / 64];
        let bit = 1 << (node.index() % 64);
        let new = *word & bit == 0;
        *word |= bit;
        new
    }
}

/// A link that one end dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// When.
    pub at: Time,
    /// Who dropped it.
    pub node: Node,
    /// Whose link it was.
    pub neighbour: Node,
}

/// What the asker was told; see [`Report::Answer`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Answer {
    /// When.
    pub at: Time,
    /// Who had asked.
    pub asker: Node,
    /// Peers counted.
    pub counted: usize,
    /// Peers known.
    pub known: usize,
    /// The value.
    pub value: f64,
}

/// Peers of one protocol, ours unless said otherwise, and what is measured of them.
pub struct Cluster<P: Subject = FlockPeer> {
    /// The simulation below, for whatever is not offered here.
    pub sim: Sim<P>,
    /// Links dropped, when [`Cluster::watch_drops`] asked for them.
    pub drops: Vec<Dropped>,
    /// Answers, in the order in which they came.
    pub answers: Vec<Answer>,
    size: usize,
    runs: Vec<u32>,
    remembered: Vec<Vec<Node>>,
    up_since: Vec<Time>,
    broadcasts: Vec<Broadcast>,
    payload_bytes: usize,
    watch_drops: bool,
    rng: Xoshiro256PlusPlus,
}

impl Cluster {
    /// A flock of `size` peers with default knobs on the default network; nobody has joined yet.
    pub fn new(size: usize, seed: u64) -> Self {
        Self::with(size, seed, Network::default(), World::default())
    }
}

impl<P: Subject> Cluster<P> {
    /// As [`Cluster::new`], on a network and in a world of one's own.
    pub fn with(size: usize, seed: u64, network: Network, shared: P::Shared) -> Self {
        Self {
            sim: Sim::new(network, shared, seed),
            drops: Vec::new(),
            answers: Vec::new(),
            size,
            runs: Vec::with_capacity(size),
            remembered: Vec::new(),
            up_since: Vec::with_capacity(size),
            broadcasts: Vec::new(),
            payload_bytes: 64,
            watch_drops: false,
            rng: Xoshiro256PlusPlus::seed_from_u64(mix(seed ^ 0x636C_7573_7465_7200)),
        }
    }

    /// How many peers it is meant to have.
    pub fn len(&self) -> usize {
        self.size
    }

    /// Whether it is meant to have none.
    pub fn is_empty(&self) -> bool {
        self.size == 0
    }

    /// Bytes of every payload broadcast from now on; at least 4, 64 at first.
    pub fn payload_bytes(&mut self, bytes: usize) -> &mut Self {
        self.payload_bytes = bytes;
        self
    }

    /// Keeps [`Cluster::drops`] from now on.
    pub fn watch_drops(&mut self) -> &mut Self {
        self.watch_drops = true;
        self
    }

    /// Everyone joins through the first, a thousand a second.
    pub fn join_all(&mut self) -> &mut Self {
        let over = Duration::from_millis(self.size as u64);
        self.join_over(over)
    }

    /// Everyone who has not joined joins through the first, evenly over a while.
    pub fn join_over(&mut self, over: Duration) -> &mut Self {
        self.join_missing(over, |_| Node(0))
    }

    /// Everyone who has not joined joins evenly over a while, each through one that began before it.
    pub fn join_through_earlier(&mut self, over: Duration) -> &mut Self {
        self.join_missing(over, |cluster| match cluster.sim.len() {
            0 => Node(0),
            earlier => Node(cluster.rng.random_range(0..earlier as u32)),
        })
    }

    fn join_missing(&mut self, over: Duration, contact: impl Fn(&mut Self) -> Node) -> &mut Self {
        let begin = self.now();
        let missing = self.size - self.sim.len().min(self.size);
        for at in 0..missing {
            self.run_until(begin + over.mul_f64(at as f64 / missing as f64));
            let contact = contact(self);
            self.join(contact);
        }
        self.run_until(begin + over);
        self
    }

    /// One more joins through a contact.
    pub fn join(&mut self, contact: Node) -> Node {
        let node = Node(self.sim.len() as u32);
        self.runs.push(0);
        self.up_since.push(self.now());
        let contacts = if contact == node { Vec::new() } else { vec![contact] };
        let peer = P::create(self.sim.shared_mut(), node, 0, &contacts);
        self.sim.add(peer)
    }

    /// Lets some seconds pass.
    pub fn settle(&mut self, seconds: u64) -> &mut Self {
        self.run(Duration::from_secs(seconds))
    }

    /// Lets time pass.
    pub fn run(&mut self, wait: Duration) -> &mut Self {
        self.run_until(self.now() + wait)
    }

    /// Lets time pass until it is `until`.
    pub fn run_until(&mut self, until: Time) -> &mut Self {
        while self.now() < until {
            let slice = (self.now() + SLICE).min(until);
            self.sim.run_until(slice);
            self.absorb();
        }
        self
    }

    /// Lets time pass until `done` says so, asked every `every`; how long that took, or `None` when it did not
    /// within `most`.
    pub fn run_while_not(
        &mut self,
        every: Duration,
        most: Duration,
        mut done: impl FnMut(&Self) -> bool,
    ) -> Option<Duration> {
        let begin = self.now();
        loop {
            if done(self) {
                return Some(self.now().since(begin));
            }
            if self.now().since(begin) >= most {
                return None;
            }
            self.run(every);
        }
    }

    /// The time.
    pub fn now(&self) -> Time {
        self.sim.now()
    }

    /// Tells all from one peer; gives the number under which [`Cluster::told`] knows it. Nothing is sent when
    /// the peer is dead.
    pub fn broadcast(&mut self, from: Node) -> usize {
        let number = self.broadcasts.len();
        let now = self.now();
        let mut broadcast =
            Broadcast { origin: from, at: now, last: now, hops: 0, count: 0, again: 0, reached: Vec::new() };
        broadcast.mark(from);
        self.broadcasts.push(broadcast);
        let payload = payload(number as u32, self.payload_bytes);
        self.sim.act(from, |peer, io| peer.broadcast(payload, io));
        self.absorb();
        number
    }

    /// What became of a broadcast so far.
    pub fn told(&self, number: usize) -> &Broadcast {
        &self.broadcasts[number]
    }

    /// All broadcasts so far, in the order of their numbers.
    pub fn broadcasts(&self) -> &[Broadcast] {
        &self.broadcasts
    }

    /// Peers that have been up from `margin` before the broadcast until now, and how many of them it missed.
    pub fn missed(&self, number: usize, margin: Duration) -> (usize, usize) {
        let broadcast = &self.broadcasts[number];
        let stable = self.sim.live().filter(|(node, _)| self.up_since[node.index()] + margin <= broadcast.at);
        stable.fold((0, 0), |(all, missed), (node, _)| {
            (all + 1, missed + usize::from(!broadcast.reached(node)))
        })
    }

    /// Asks all from one peer how many links they have; the answer comes into [`Cluster::answers`]. False when
    /// it cannot be asked.
    pub fn ask_links(&mut self, from: Node, within: Duration) -> bool {
        let asked = self.sim.act(from, |peer, io| peer.ask_links(within, io)).unwrap_or(false);
        self.absorb();
        asked
    }

    /// One says something about itself; see [`Subject::say`].
    pub fn say(&mut self, node: Node, version: u32, bytes: usize) -> bool {
        let said = self.sim.act(node, |peer, io| peer.say(version, bytes, io)).unwrap_or(false);
        self.absorb();
        said
    }

    /// Kills one.
    pub fn kill(&mut self, node: Node, death: Death) -> &mut Self {
        if let Some(peer) = self.sim.get(node) {
            let remembered = peer.remembered();
            if self.remembered.len() <= node.index() {
                self.remembered.resize(node.index() + 1, Vec::new());
            }
            self.remembered[node.index()] = remembered;
            self.sim.kill(node, death);
        }
        self
    }

    /// Kills a part of the live ones, drawn at random, all at the same moment.
    pub fn kill_part(&mut self, part: f64, death: Death) -> &mut Self {
        let live = self.live();
        self.kill_some(live, part, death)
    }

    /// The same, but spares one.
    pub fn kill_part_but(&mut self, part: f64, death: Death, spared: Node) -> &mut Self {
        let mut live = self.live();
        live.retain(|node| *node != spared);
        self.kill_some(live, part, death)
    }

    fn kill_some(&mut self, mut live: Vec<Node>, part: f64, death: Death) -> &mut Self {
        let count = (live.len() as f64 * part).round() as usize;
        for _ in 0..count {
            let at = self.rng.random_range(0..live.len());
            let node = live.swap_remove(at);
            // What the dead remember is not asked for, so it need not be kept.
            self.sim.kill(node, death);
        }
        self
    }

    /// One says goodbye and ends.
    pub fn leave(&mut self, node: Node) -> &mut Self {
        self.sim.act(node, |peer, io| peer.leave(io));
        self.absorb();
        self.sim.kill(node, Death::Refusing);
        self
    }

    /// Starts a dead one again with what it remembered, and with the contact given besides.
    pub fn restart(&mut self, node: Node, contact: Node) -> &mut Self {
        let at = node.index();
        let mut contacts = self.remembered.get_mut(at).map(std::mem::take).unwrap_or_default();
        if !contacts.contains(&contact) {
            contacts.push(contact);
        }
        self.runs[at] += 1;
        self.up_since[at] = self.now();
        let peer = P::create(self.sim.shared_mut(), node, self.runs[at], &contacts);
        self.sim.restart(node, peer);
        self
    }

    /// Makes every message from and to one take this much longer.
    pub fn slow(&mut self, node: Node, extra: Duration) -> &mut Self {
        self.sim.slow(node, extra);
        self
    }

    /// Cuts the network: `side` says which part a peer is in.
    pub fn partition(&mut self, side: impl Fn(Node) -> u8) -> &mut Self {
        (0..self.sim.len() as u32).for_each(|at| self.sim.isolate(Node(at), side(Node(at))));
        self
    }

    /// Mends the network.
    pub fn heal(&mut self) -> &mut Self {
        self.partition(|_| 0)
    }

    /// The live ones in rising order.
    pub fn live(&self) -> Vec<Node> {
        self.sim.live().map(|(node, _)| node).collect()
    }

    /// One of the live ones, drawn at random.
    /// * Panics: when all are dead.
    pub fn any(&mut self) -> Node {
        for _ in 0..100 {
            let node = Node(self.rng.random_range(0..self.sim.len() as u32));
            if self.sim.get(node).is_some() {
                return node;
            }
        }
        let live = self.live();
        live[self.rng.random_range(0..live.len())]
    }

    /// Luck for the test's own choices.
    pub fn rng(&mut self) -> &mut Xoshiro256PlusPlus {
        &mut self.rng
    }

    /// Since when a peer has been up, in its present run.
    pub fn up_since(&self, node: Node) -> Time {
        self.up_since[node.index()]
    }

    /// The live overlay, and who is who in it. Links to the dead are left out.
    pub fn graph(&self) -> (Graph, Vec<Node>) {
        let live = self.live();
        let mut numbers = vec![u32::MAX; self.sim.len()];
        live.iter().enumerate().for_each(|(at, node)| numbers[node.index()] = at as u32);
        let mut neighbours = Vec::new();
        let graph = Graph::new(self.sim.live().map(|(_, peer)| {
            neighbours.clear();
            peer.neighbours(&mut neighbours);
            let known = neighbours.iter().filter_map(|node| numbers.get(node.index()).copied());
            known.filter(|number| *number != u32::MAX).collect::<Vec<_>>()
        }));
        (graph, live)
    }

    /// Sizes of the parts of which the living remember each other, at one end at least, largest first.
    pub fn acquainted(&self) -> Vec<usize> {
        let live = self.live();
        let known = self.sim.live().map(|(_, peer)| {
            let known = peer.remembered().into_iter();
            known.filter_map(|node| live.binary_search(&node).ok().map(|at| at as u32)).collect::<Vec<_>>()
        });
        Graph::new(known).components()
    }

    /// Sizes of the components of the live overlay, largest first.
    pub fn components(&self) -> Vec<usize> {
        self.graph().0.components()
    }

    /// When a flood from `origin` over the links as they are now would have reached the last one, after how
    /// many microseconds: the bound for any broadcast. Leaves out whom `counts` does not accept.
    pub fn bound(&self, origin: Node, counts: impl Fn(Node) -> bool) -> u64 {
        let (graph, live) = self.graph();
        let Some(source) = live.iter().position(|node| *node == origin) else { return 0 };
        let delay = |from: u32, to: u32| self.sim.delay(live[from as usize], live[to as usize]);
        let times = graph.flood(source as u32, delay);
        times
            .iter()
            .zip(&live)
            .filter(|(_, node)| counts(**node))
            .filter_map(|(time, _)| *time)
            .max()
            .unwrap_or(0)
    }

    fn absorb(&mut self) {
        for (at, node, report) in self.sim.take_reports() {
            match report {
                Report::Delivered { number, hops } => {
                    let Some(broadcast) = self.broadcasts.get_mut(number as usize) else { continue };
                    if broadcast.mark(node) {
                        broadcast.count += 1;
                        broadcast.last = at;
                        broadcast.hops = broadcast.hops.max(hops);
                    } else if self.up_since[node.index()] < broadcast.at {
                        broadcast.again += 1;
                    }
                }
                Report::LinkDown(neighbour) if self.watch_drops => {
                    self.drops.push(Dropped { at, node, neighbour });
                }
                Report::LinkUp(_) | Report::LinkDown(_) => {}
                Report::Answer { counted, known, value } => {
                    self.answers.push(Answer { at, asker: node, counted, known, value });
                }
            }
        }
    }
}
