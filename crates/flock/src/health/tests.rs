use super::*;
use crate::wire::DecodeError;
use proptest::prelude::*;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

const SECOND: Duration = Duration::from_secs(1);

/// Peers that hear each other's broadcasts within 300 ms, but for those that hear nothing.
struct World {
    peers: Vec<Health>,
    deaf: Vec<usize>,
    now: Time,
    rng: Xoshiro256PlusPlus,
    /// Broadcasts on their way: when, from, to, what.
    air: Vec<(Time, usize, usize, Bytes)>,
    broadcasts: usize,
}

impl World {
    fn new(n: usize) -> Self {
        let config = Arc::new(Config::default());
        let peers = (0..n).map(|me| Health::new(config.clone(), HostId(me as u64), 1)).collect();
        let (rng, air) = (Xoshiro256PlusPlus::seed_from_u64(5), Vec::new());
        Self { peers, deaf: Vec::new(), now: Time(1_000_000), rng, air, broadcasts: 0 }
    }

    fn report(&mut self, at: usize, host: usize, reach: Reach) {
        let n = self.peers.len();
        self.peers[at].report(HostId(host as u64), reach, n, self.now, &mut self.rng).unwrap();
    }

    fn fail(&mut self, by: impl IntoIterator<Item = usize>, host: usize) {
        by.into_iter().for_each(|at| self.report(at, host, Reach::Failed));
    }

    /// Time passes in steps of 50 ms.
    fn pass(&mut self, time: Duration) -> &mut Self {
        let end = self.now + time;
        while self.now < end {
            self.now = self.now + Duration::from_millis(50);
            let now = self.now;
            for (_, from, to, payload) in self.air.extract_if(.., |it| it.0 <= now) {
                if !self.deaf.contains(&to) {
                    let _counted = self.peers[to].delivered(HostId(from as u64), &payload, now);
                }
            }
            for from in 0..self.peers.len() {
                if self.peers[from].next_deadline().is_some_and(|due| due <= now) {
                    self.peers[from].deadline(now, &mut self.rng);
                }
                if let Some(payload) = self.peers[from].take_payload() {
                    self.broadcasts += 1;
                    for to in 0..self.peers.len() {
                        let delay = Duration::from_millis(self.rng.random_range(10..300));
                        self.air.push((now + delay, from, to, payload.clone()));
                    }
                }
            }
        }
        self
    }

    fn states(&self, host: usize) -> Vec<State> {
        let others = self.peers.iter().enumerate().filter(|(at, _)| *at != host);
        others.map(|(_, health)| health.state(HostId(host as u64))).collect()
    }

    fn all(&self, host: usize, state: State) -> bool {
        self.states(host).iter().all(|it| *it == state)
    }
}

fn is_avoided(state: &State) -> bool {
    matches!(state, State::Avoided { .. })
}

fn item(host: u64, notice: Notice, counter: u32) -> Item {
    Item { host: HostId(host), notice, number: Number { incarnation: 1, counter }, age: Duration::ZERO }
}

fn lone() -> Health {
    Health::new(Arc::new(Config::default()), HostId(0), 1)
}

#[test]
fn a_dead_peer_is_suspected_then_avoided_then_tried_and_avoided_for_twice_as_long() {
    let mut world = World::new(8);
    world.deaf = vec![7];
    world.fail(0..4, 7);
    world.pass(3 * SECOND);
    assert!(world.all(7, State::Suspected), "{:?}", world.states(7));
    world.pass(4 * SECOND);
    assert!(world.states(7).iter().all(is_avoided), "{:?}", world.states(7));
    world.pass(10 * SECOND);
    assert!(world.all(7, State::Trying), "{:?}", world.states(7));
    world.fail(0..4, 7);
    world.pass(15 * SECOND);
    assert!(world.states(7).iter().all(is_avoided), "the second time is longer: {:?}", world.states(7));
    world.pass(10 * SECOND);
    assert!(world.all(7, State::Trying));
    for at in 0..4 {
        world.report(at, 7, Reach::Reached);
    }
    assert_eq!(world.peers[0].state(HostId(7)), State::Healthy);
    world.pass(40 * SECOND);
    assert!(world.all(7, State::Healthy));
}

#[test]
fn the_owner_is_told_of_every_change_in_order() {
    let mut world = World::new(5);
    world.deaf = vec![4];
    world.fail(0..3, 4);
    world.pass(60 * SECOND);
    let changes = world.peers[3].take_changes();
    let states: Vec<State> = changes.iter().map(|it| it.state).collect();
    assert!(
        matches!(states[..], [State::Suspected, State::Avoided { .. }, State::Trying, State::Healthy]),
        "{states:?}"
    );
    assert!(changes.iter().all(|it| it.host == HostId(4)));
}

#[test]
fn one_slow_link_condemns_nobody() {
    let mut world = World::new(6);
    for _ in 0..120 {
        world.fail([1], 2);
        world.pass(SECOND);
        assert!(world.all(2, State::Healthy));
    }
    assert!(world.broadcasts < 10, "it says so now and then: {}", world.broadcasts);
}

#[test]
fn two_peers_out_of_reach_of_one_that_is_well_do_not_make_a_quorum_with_old_words() {
    let mut world = World::new(6);
    world.deaf = vec![5];
    for at in [0, 1, 2] {
        world.fail([at], 5);
        world.pass(20 * SECOND);
        assert!(world.all(5, State::Healthy), "the first word is forgotten when the third comes");
    }
}

#[test]
fn a_word_taken_back_no_longer_counts() {
    let mut world = World::new(6);
    world.deaf = vec![5];
    world.fail([0, 1], 5);
    world.pass(3 * SECOND);
    world.report(0, 5, Reach::Reached);
    world.pass(3 * SECOND);
    world.fail([2], 5);
    world.pass(3 * SECOND);
    assert!(world.all(5, State::Healthy));
    world.fail([0], 5);
    world.pass(3 * SECOND);
    assert!(world.all(5, State::Suspected));
}

#[test]
fn a_suspected_peer_that_lives_refutes_and_is_healthy_for_all() {
    let mut world = World::new(8);
    world.fail(0..4, 7);
    world.pass(3 * SECOND);
    assert!(world.all(7, State::Healthy), "{:?}", world.states(7));
    assert_eq!(world.peers[7].counters().refuted, 1);
    let suspected = world.peers.iter().filter(|it| it.counters().suspected > 0).count();
    assert!(suspected >= 4, "it had been suspected");
}

#[test]
fn a_restarted_peer_refutes_what_was_said_of_its_earlier_run() {
    let mut world = World::new(8);
    world.deaf = vec![7];
    world.fail(0..4, 7);
    world.pass(8 * SECOND);
    assert!(world.states(7).iter().all(is_avoided));
    world.peers[7] = Health::new(Arc::new(Config::default()), HostId(7), 2);
    world.deaf.clear();
    // Whoever still cannot reach it says so, under the number that it knew.
    world.pass(9 * SECOND);
    world.fail(0..4, 7);
    world.pass(3 * SECOND);
    assert_eq!(world.peers[7].counters().refuted, 1);
    assert!(!world.states(7).iter().any(is_avoided), "{:?}", world.states(7));
}

#[test]
fn a_peer_that_speaks_but_cannot_be_reached_is_avoided_in_the_end() {
    let mut world = World::new(8);
    for round in 0..30 {
        world.fail(0..4, 7);
        world.pass(6 * SECOND);
        // At first it talks itself out of it; then it is avoided or, between two times, tried.
        assert!(round < 12 || !world.states(7).contains(&State::Healthy), "{:?}", world.states(7));
    }
    let most = u64::from(Config::default().refutations_max);
    assert!(world.peers[7].counters().refuted > most, "it said no often enough");
}

#[test]
fn when_a_thousand_peers_see_a_death_a_few_of_them_tell_it() {
    for seed in 0..5 {
        let mut world = World::new(1_000);
        world.rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        world.deaf = vec![999];
        world.fail(0..999, 999);
        world.pass(6 * SECOND);
        assert!(world.all(999, State::Suspected) || world.states(999).iter().any(is_avoided));
        assert!((3..40).contains(&world.broadcasts), "{} broadcasts", world.broadcasts);
    }
}

#[test]
fn a_single_liar_condemns_nobody_and_fills_no_memory() {
    let mut health = lone();
    let mut refused = 0;
    for round in 0..2_000_u64 {
        let items: Vec<Item> =
            (0..32).map(|at| item(100 + (round * 32 + at) % 5_000, Notice::Accused, 0)).collect();
        refused +=
            usize::from(health.delivered(HostId(9), &message::encode(&items), Time(round * 1_000)).is_err());
    }
    assert_eq!(health.unwell().count(), 0);
    assert!(health.cases.len() <= Config::default().each_max && refused > 1_900);
    assert!(health.counters().flooded > 50_000 && health.state_bytes() < 20_000);
}

#[test]
fn many_liars_that_accuse_everybody_are_bounded_and_do_not_push_out_what_is_sure() {
    let mut health = lone();
    for by in 1..=3 {
        health.delivered(HostId(by), &message::encode(&[item(50, Notice::Accused, 0)]), Time(1)).unwrap();
    }
    assert_eq!(health.state(HostId(50)), State::Suspected);
    for by in 1_000..1_200_u64 {
        let items: Vec<Item> = (0..32).map(|at| item(by * 100 + at, Notice::Accused, 0)).collect();
        let _refused = health.delivered(HostId(by), &message::encode(&items), Time(2));
    }
    assert_eq!(health.unwell().collect::<Vec<_>>(), [(HostId(50), State::Suspected)]);
    assert_eq!(health.cases.len(), Config::default().hosts_max);
    assert!(health.state_bytes() < 128 << 10);
}

#[test]
fn nobody_refutes_for_another_or_accuses_itself() {
    let mut health = lone();
    for by in 1..=3 {
        health.delivered(HostId(by), &message::encode(&[item(50, Notice::Accused, 0)]), Time(1)).unwrap();
    }
    for bad in [item(50, Notice::Refuted, 7), item(9, Notice::Accused, 0)] {
        let told = health.delivered(HostId(9), &message::encode(&[bad]), Time(2));
        assert!(matches!(told, Err(Refused::Implausible(_))));
    }
    assert_eq!((health.state(HostId(50)), health.counters().implausible), (State::Suspected, 2));
}

#[test]
fn an_accusation_older_than_the_refutation_or_the_window_is_void() {
    let mut health = lone();
    health.delivered(HostId(50), &message::encode(&[item(50, Notice::Refuted, 2)]), Time(1)).unwrap();
    for by in 1..=3 {
        let told = health.delivered(HostId(by), &message::encode(&[item(50, Notice::Accused, 1)]), Time(2));
        assert_eq!(told, Err(Refused::Stale));
        let old = Item { age: 31 * SECOND, ..item(50, Notice::Accused, 2) };
        assert_eq!(
            health.delivered(HostId(by), &message::encode(&[old]), Time(40_000_000)),
            Err(Refused::Stale)
        );
    }
    assert_eq!((health.state(HostId(50)), health.counters().stale), (State::Healthy, 6));
    let replay = message::encode(&[item(50, Notice::Refuted, 2)]);
    assert_eq!(health.delivered(HostId(50), &replay, Time(41_000_000)), Err(Refused::Stale));
}

#[test]
fn a_liar_that_names_a_number_beyond_all_cannot_keep_a_peer_from_refuting() {
    let mut health = lone();
    let beyond =
        Item { number: Number { incarnation: u64::MAX, counter: u32::MAX }, ..item(50, Notice::Accused, 0) };
    for by in 1..=3 {
        health.delivered(HostId(by), &message::encode(&[beyond]), Time(1)).unwrap();
    }
    assert_eq!(health.state(HostId(50)), State::Suspected);
    health.delivered(HostId(50), &message::encode(&[item(50, Notice::Refuted, 1)]), Time(2)).unwrap();
    assert_eq!(health.state(HostId(50)), State::Healthy);
}

#[test]
fn what_is_no_notice_is_refused() {
    let mut health = lone();
    let good = message::encode(&[item(50, Notice::Accused, 0)]);
    for cut in 0..good.len() {
        assert!(matches!(
            health.delivered(HostId(9), &good.slice(..cut), Time(1)),
            Err(Refused::Malformed(_))
        ));
    }
    let many = message::encode(&vec![item(50, Notice::Accused, 0); ITEMS_MAX + 1]);
    let told = health.delivered(HostId(9), &many, Time(1));
    assert_eq!(told, Err(Refused::Malformed(DecodeError::Range("items"))));
    assert_eq!(health.state_bytes(), size_of::<Health>());
}

#[test]
fn when_all_is_well_again_nothing_is_left() {
    let mut world = World::new(6);
    world.deaf = vec![5];
    world.fail(0..5, 5);
    world.pass(60 * SECOND);
    world.now = world.now + Duration::from_secs(700);
    world.pass(SECOND);
    for health in &world.peers {
        assert!(health.cases.is_empty() && health.pending.is_empty() && health.next_deadline().is_none());
    }
}

proptest! {
    #[test]
    fn a_notice_reads_back_as_written(
        items in prop::collection::vec((any::<u64>(), 0_u8..3, any::<u64>(), any::<u32>(), any::<u32>()), 0..ITEMS_MAX),
    ) {
        let items: Vec<Item> = items.into_iter().map(|(host, notice, incarnation, counter, age)| Item {
            host: HostId(host),
            notice: [Notice::Accused, Notice::Withdrawn, Notice::Refuted][usize::from(notice)],
            number: Number { incarnation, counter },
            age: Duration::from_millis(100) * age,
        }).collect();
        prop_assert_eq!(message::decode(&message::encode(&items)), Ok(items));
    }

    /// Whatever anybody says, fewer than a quorum of peers condemn nobody, and memory is bounded.
    #[test]
    fn two_accusers_condemn_nobody_whatever_they_say(
        words in prop::collection::vec((1_u64..3, prop::collection::vec(any::<u8>(), 0..40), 3_u64..6, 0_u8..3, any::<u32>()), 0..60),
    ) {
        let mut health = lone();
        let mut now = Time(1);
        for (by, bytes, host, notice, counter) in words {
            now = now + SECOND;
            let _any = health.delivered(HostId(by), &bytes.into(), now);
            let notice = [Notice::Accused, Notice::Withdrawn, Notice::Refuted][usize::from(notice)];
            let _any = health.delivered(HostId(by), &message::encode(&[item(host, notice, counter)]), now);
            prop_assert_eq!(health.unwell().count(), 0);
        }
        prop_assert!(health.state_bytes() < 10_000);
    }
}
