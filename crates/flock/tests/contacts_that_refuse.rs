//! A peer among contacts that are gone. In another implementation of the same papers a refused dial ended the search for
//! neighbours, requests that nobody answered occupied places in the active view for ever, and an empty view
//! stopped the shuffles, so that a peer could be alone for the rest of its life.

use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;
use skein_flock::flock::{Config, Remembered};
use skein_flock::{Addr, Effect, Flock, Input, Outbox, Peer, Time, Unreachable};
use skein_model::HostId;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

const TRIP: Duration = Duration::from_millis(50);
const DIAL_TIMEOUT: Duration = Duration::from_secs(3);

fn addr(at: u16) -> Addr {
    let [high, low] = at.to_be_bytes();
    SocketAddr::from((Ipv4Addr::new(10, 0, high, low), 7_400)).into()
}

/// What becomes of a dial to a contact that is gone.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Gone {
    /// Its host says so at once.
    Refuses,
    /// Nobody says anything.
    IsSilent,
}

/// One peer that knows 200 addresses at which nobody lives, and one more at which a second peer does or does not.
struct World {
    now: Time,
    rng: Xoshiro256PlusPlus,
    peers: Vec<(Peer, Flock)>,
    up: bool,
    gone: Gone,
    /// What arrives, when, and at which of the two.
    due: BTreeMap<(Time, u64), (usize, Input)>,
    tick: u64,
    /// Whom the first one tried, and when it did last.
    tried: BTreeSet<Addr>,
    last_try: Time,
}

const FRIEND: u16 = 201;

impl World {
    fn new(gone: Gone, friend_up: bool) -> Self {
        let mut addrs: Vec<Addr> = (1..=200).map(addr).collect();
        addrs.push(addr(FRIEND));
        let config = std::sync::Arc::new(Config::default());
        let loner = Peer { id: HostId(1), addr: addr(1_000) };
        let friend = Peer { id: HostId(2), addr: addr(FRIEND) };
        let remembered = Remembered { addrs, incarnation: 1 };
        let nothing = Remembered { addrs: Vec::new(), incarnation: 1 };
        let mut world = Self {
            now: Time(1_000_000),
            rng: Xoshiro256PlusPlus::seed_from_u64(11),
            peers: vec![
                (loner, Flock::new(config.clone(), loner, remembered)),
                (friend, Flock::new(config, friend, nothing)),
            ],
            up: friend_up,
            gone,
            due: BTreeMap::new(),
            tick: 0,
            tried: BTreeSet::new(),
            last_try: Time(0),
        };
        world.tell(0, Input::Start);
        world.tell(1, Input::Start);
        world
    }

    fn after(&mut self, wait: Duration, to: usize, input: Input) {
        self.tick += 1;
        self.due.insert((self.now + wait, self.tick), (to, input));
    }

    fn tell(&mut self, to: usize, input: Input) {
        let mut out = Outbox::default();
        let (me, flock) = &mut self.peers[to];
        let me = *me;
        // Refusals do not matter here: nobody lies.
        let _ = flock.handle(input, self.now, &mut self.rng, &mut out);
        let mut dialled = BTreeSet::new();
        for effect in out.effects {
            let Effect::Send { to: addr, bytes } = effect else { continue };
            if to == 0 {
                self.tried.insert(addr);
                self.last_try = self.now;
            }
            let other = 1 - to;
            if self.peers[other].0.addr == addr && self.up {
                self.after(TRIP, other, Input::Received { from: me, bytes });
            } else if dialled.insert(addr) {
                let (wait, why) = match self.gone {
                    Gone::Refuses => (TRIP * 2, Unreachable::Refused),
                    Gone::IsSilent => (DIAL_TIMEOUT, Unreachable::TimedOut),
                };
                self.after(wait, to, Input::Unreachable { addr, why });
            }
        }
    }

    fn run(&mut self, wait: Duration) {
        let until = self.now + wait;
        loop {
            let arrival = self.due.first_key_value().map(|((at, _), _)| *at);
            let woken = (0..if self.up { 2 } else { 1 })
                .filter_map(|at| Some((self.peers[at].1.next_deadline()?, at)))
                .min();
            match (arrival, woken) {
                (Some(at), _) if at <= until && woken.is_none_or(|(deadline, _)| at <= deadline) => {
                    self.now = self.now.max(at);
                    if let Some((_, (to, input))) = self.due.pop_first() {
                        self.tell(to, input);
                    }
                }
                (_, Some((deadline, to))) if deadline <= until => {
                    self.now = self.now.max(deadline);
                    self.tell(to, Input::Deadline);
                }
                _ => break,
            }
        }
        self.now = until;
    }

    fn linked(&self) -> bool {
        self.peers.iter().all(|(_, flock)| flock.links().len() == 1)
    }
}

#[test]
fn two_hundred_refused_dials_do_not_keep_a_peer_from_the_one_contact_that_lives() {
    let mut world = World::new(Gone::Refuses, true);
    world.run(Duration::from_secs(5));
    assert!(world.linked(), "tried {} contacts", world.tried.len());
}

// Silent contacts cost a wait each round, and a peer that is not in yet asks only a few at a time lest it be let in many
// times over: about three a second.
#[test]
fn two_hundred_silent_contacts_do_not_keep_a_peer_from_the_one_that_lives() {
    let mut world = World::new(Gone::IsSilent, true);
    world.run(Duration::from_secs(80));
    assert!(world.linked(), "tried {} contacts", world.tried.len());
}

#[test]
fn a_peer_alone_tries_every_contact_and_goes_on_trying() {
    for gone in [Gone::Refuses, Gone::IsSilent] {
        let mut world = World::new(gone, false);
        world.run(Duration::from_secs(80));
        assert_eq!(world.tried.len(), 201, "{gone:?}");
        for minute in 0..10 {
            let before = world.now;
            world.run(Duration::from_secs(60));
            assert!(world.last_try > before, "{gone:?}: nothing tried in minute {minute}");
        }
        assert!(world.peers[0].1.links().is_empty());
    }
}

#[test]
fn a_peer_alone_for_an_hour_is_in_soon_after_somebody_comes_back() {
    for (gone, soon) in [(Gone::Refuses, 45), (Gone::IsSilent, 180)] {
        let mut world = World::new(gone, false);
        world.run(Duration::from_secs(3_600));
        world.up = true;
        world.run(Duration::from_secs(soon));
        assert!(world.linked(), "{gone:?}");
    }
}

#[test]
fn an_hour_alone_adds_nothing_to_what_a_peer_holds() {
    let mut world = World::new(Gone::Refuses, false);
    world.run(Duration::from_secs(120));
    let before = world.peers[0].1.state_bytes();
    world.run(Duration::from_secs(3_600));
    assert_eq!(world.peers[0].1.state_bytes(), before);
}
