//! Three peers of a flock, what connects them, and a fuzzer between them that reorders, cuts, changes and makes up
//! what they are told.

use crate::bytes_of::Take;
use bytes::Bytes;
use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;
use skein_flock::flock::{Config, Remembered};
use skein_flock::links::LINKS_MAX;
use skein_flock::wire::{MESSAGE_BYTES_MAX, Reader};
use skein_flock::{Addr, Effect, Flock, Frame, Input, Outbox, Peer, Time, Unreachable};
use skein_model::HostId;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// How many peers; one more is known by name only.
const PEERS: usize = 3;

/// A peer that asks to be woken again and again without time passing would keep a core busy.
const WAKES_AT_ONCE_MAX: usize = 64;

/// Steps of a script after which it ends, so that a long input is no slow input.
const STEPS_MAX: usize = 400;

fn peer(at: usize) -> Peer {
    let addr: Addr = SocketAddr::from((Ipv4Addr::new(10, 0, 0, at as u8 + 1), 7400)).into();
    Peer { id: HostId(at as u64 + 1), addr }
}

fn at(addr: Addr) -> Option<usize> {
    (0..PEERS).find(|at| peer(*at).addr == addr)
}

struct World {
    now: Time,
    config: Arc<Config>,
    rng: Xoshiro256PlusPlus,
    flocks: Vec<Flock>,
    gone: [bool; PEERS],
    /// What was sent and has not arrived, by sender and receiver, in order.
    wires: BTreeMap<(usize, usize), VecDeque<Frame>>,
    incarnation: u64,
    /// Whether all bytes so far came from the peers themselves, and none of them forgot anything.
    honest: bool,
    sent: u64,
    delivered: BTreeSet<(usize, Bytes)>,
}

impl World {
    fn new(seed: u64) -> Self {
        let config = Arc::new(Config::default());
        let addrs: Vec<Addr> = (0..PEERS).map(|at| peer(at).addr).collect();
        let remembered = Remembered { addrs, incarnation: 1 };
        let mut world = Self {
            now: Time(1_000_000),
            rng: Xoshiro256PlusPlus::seed_from_u64(seed),
            flocks: (0..PEERS).map(|at| Flock::new(config.clone(), peer(at), remembered.clone())).collect(),
            config,
            gone: [false; PEERS],
            wires: BTreeMap::new(),
            incarnation: 1,
            honest: true,
            sent: 0,
            delivered: BTreeSet::new(),
        };
        for at in 0..PEERS {
            world.tell(at, Input::Start);
        }
        world
    }

    fn tell(&mut self, to: usize, input: Input) {
        let mut out = Outbox::default();
        let flock = &mut self.flocks[to];
        let before = flock.links().set();
        let refused = flock.handle(input, self.now, &mut self.rng, &mut out).is_err();
        if refused {
            // It may tell the sender that they are no neighbours, and see to what is due anyway.
            let only_sends = out.effects.iter().all(|effect| matches!(effect, Effect::Send { .. }));
            assert!(only_sends, "who refuses takes nothing on: {:?}", out.effects);
            assert_eq!(flock.links().set(), before, "who refuses keeps its links");
        }
        assert!(flock.links().len() <= LINKS_MAX);
        let mut neighbours = BTreeSet::new();
        for (_, neighbour) in flock.links().iter() {
            assert_ne!(neighbour.peer.id, peer(to).id, "nobody is its own neighbour");
            // A liar can name a peer at an address that is not its own; until nobody answers there, it is two.
            let Peer { id, addr } = neighbour.peer;
            let fresh = neighbours.insert(if self.honest { (Some(id), None) } else { (None, Some(addr)) });
            assert!(fresh, "{} is a neighbour of {} twice", neighbour.peer, peer(to));
        }
        for effect in out.effects {
            match effect {
                Effect::Send { to: addr, bytes } => {
                    assert!(bytes.len() <= MESSAGE_BYTES_MAX);
                    assert!(Reader::new(&bytes).is_ok(), "what is sent has a tag");
                    if !self.gone[to]
                        && let Some(other) = at(addr)
                    {
                        self.wires.entry((to, other)).or_default().push_back(bytes);
                    }
                }
                Effect::Deliver { payload, .. } => {
                    let fresh = self.delivered.insert((to, payload.clone()));
                    assert!(fresh || !self.honest, "{} got {payload:?} twice", peer(to));
                }
                Effect::Close { to: addr } => {
                    if let Some(other) = at(addr)
                        && !self.gone[other]
                    {
                        while self.arrive(to, other) {}
                        self.tell(other, Input::Unreachable { addr: peer(to).addr, why: Unreachable::Lost });
                    }
                }
                Effect::Remember | Effect::Told(_) => {}
            }
        }
    }

    /// Hands over the oldest message from one to the other, if there is one.
    fn arrive(&mut self, from: usize, to: usize) -> bool {
        let Some(bytes) = self.wires.get_mut(&(from, to)).and_then(VecDeque::pop_front) else { return false };
        if self.gone[to] {
            let addr = peer(to).addr;
            self.tell(from, Input::Unreachable { addr, why: Unreachable::Refused });
        } else {
            self.tell(to, Input::Received { from: peer(from), bytes });
        }
        true
    }

    fn settle(&mut self) {
        for _ in 0..200 {
            let Some((&(from, to), _)) = self.wires.iter().find(|(_, queue)| !queue.is_empty()) else {
                return;
            };
            self.arrive(from, to);
        }
    }

    fn pass(&mut self, wait: Duration) {
        let until = self.now + wait;
        let (mut last, mut wakes) = (self.now, 0);
        for _ in 0..300 {
            let next = (0..PEERS)
                .filter(|at| !self.gone[*at])
                .filter_map(|at| Some((self.flocks[at].next_deadline()?, at)))
                .min();
            let Some((deadline, at)) = next.filter(|(deadline, _)| *deadline <= until) else {
                self.now = until;
                return;
            };
            self.now = self.now.max(deadline);
            wakes = if self.now == last { wakes + 1 } else { 0 };
            assert!(wakes < WAKES_AT_ONCE_MAX * PEERS, "{} never sleeps", peer(at));
            last = self.now;
            self.tell(at, Input::Deadline);
        }
    }

    fn cut(&mut self, one: usize, other: usize) {
        for (from, to) in [(one, other), (other, one)] {
            self.wires.remove(&(from, to));
            let addr = peer(to).addr;
            self.tell(from, Input::Unreachable { addr, why: Unreachable::Lost });
        }
    }

    fn step(&mut self, take: &mut Take<'_>) {
        let op = take.byte();
        let one = usize::from(op) % PEERS;
        let other = (one + 1 + usize::from(op / 3) % (PEERS - 1)) % PEERS;
        match op >> 4 {
            0..=2 => drop(self.arrive(one, other)),
            3 | 4 => self.settle(),
            5 | 6 => self.pass(Duration::from_millis(take.number().min(100_000))),
            7 => {
                // The oldest message, changed.
                let changed = self.wires.get_mut(&(one, other)).and_then(VecDeque::front_mut).map(|bytes| {
                    let mut copy = bytes.to_bytes().to_vec();
                    let place = usize::from(take.byte()) % copy.len().max(1);
                    match take.byte() {
                        0 => copy.truncate(place),
                        1 => copy.extend_from_slice(take.bytes(8)),
                        bits => copy[place] ^= bits,
                    }
                    *bytes = Bytes::from(copy).into();
                });
                self.honest &= changed.is_none();
                self.arrive(one, other);
            }
            8 | 9 => {
                // Made up, in the name of a peer or of one that nobody knows.
                let from = if op & 8 == 0 { peer(other) } else { peer(PEERS) };
                let length = take.number().min(4096) as usize;
                self.honest = false;
                self.tell(
                    one,
                    Input::Received { from, bytes: Bytes::copy_from_slice(take.bytes(length)).into() },
                );
            }
            10 | 11 => {
                self.sent += 1;
                let mut payload = self.sent.to_be_bytes().to_vec();
                payload.resize(8 + usize::from(take.byte()), 0);
                self.tell(one, Input::Broadcast { payload: payload.into() });
            }
            12 => self.cut(one, other),
            13 => {
                // The oldest goes to the end of its queue: a transport that reorders is outside the contract, and
                // must not do harm either.
                if let Some(queue) = self.wires.get_mut(&(one, other)) {
                    queue.rotate_left(queue.len().min(1));
                }
            }
            14 => {
                self.honest = false;
                match op & 3 {
                    0 => self.tell(one, Input::Hail { addrs: vec![peer(other).addr, peer(PEERS).addr] }),
                    1 => {
                        self.tell(one, Input::Leave);
                        self.gone[one] = true;
                    }
                    _ => self.restart(one),
                }
            }
            _ => {
                let why =
                    [Unreachable::Refused, Unreachable::TimedOut, Unreachable::Lost][usize::from(op) % 3];
                let addr = if op & 8 == 0 { peer(other).addr } else { peer(PEERS).addr };
                self.tell(one, Input::Unreachable { addr, why });
            }
        }
    }

    fn restart(&mut self, who: usize) {
        self.wires.retain(|(from, to), _| *from != who && *to != who);
        self.incarnation += 1;
        let addrs = (0..PEERS).map(|at| peer(at).addr).collect();
        let remembered = Remembered { addrs, incarnation: self.incarnation };
        self.flocks[who] = Flock::new(self.config.clone(), peer(who), remembered);
        self.gone[who] = false;
        self.tell(who, Input::Start);
    }
}

/// Three flocks told the truth, lies and nonsense in an order that the bytes choose: nobody panics, refuses and acts
/// all the same, is its own neighbour, keeps a core busy, or delivers a broadcast twice as long as nobody lied.
pub fn flock_handle(data: &[u8]) {
    let mut take = Take(data);
    let mut world = World::new(u64::from(take.byte()));
    if take.byte() & 1 == 0 {
        // Mostly, let them find each other before trouble begins.
        world.settle();
        world.pass(Duration::from_secs(1));
        world.settle();
    }
    for _ in 0..STEPS_MAX {
        if take.0.is_empty() {
            break;
        }
        world.step(&mut take);
    }
    world.settle();
    world.pass(Duration::from_secs(5));
}
