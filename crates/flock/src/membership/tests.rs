//! What cannot be seen from outside of the part.

use super::*;
use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;
use skein_model::HostId;
use std::net::SocketAddr;

fn peer(number: u8) -> Peer {
    Peer { id: HostId(number.into()), addr: SocketAddr::from(([10, 0, 0, number], 7400)).into() }
}

struct One {
    membership: Membership,
    rng: Xoshiro256PlusPlus,
    out: Outbox,
}

impl One {
    fn knowing(contacts: &[u8]) -> Self {
        let addrs: Vec<Addr> = contacts.iter().map(|number| peer(*number).addr).collect();
        let membership = Membership::new(Arc::default(), peer(1), &addrs);
        Self { membership, rng: Xoshiro256PlusPlus::seed_from_u64(5), out: Outbox::default() }
    }

    fn at(&mut self, now: Time, act: impl FnOnce(&mut Membership, &mut Step<'_>)) -> Vec<Addr> {
        self.out.effects.clear();
        act(&mut self.membership, &mut Step { now, rng: &mut self.rng, me: peer(1), out: &mut self.out });
        let sent = self.out.effects.iter().filter_map(|effect| match effect {
            Effect::Send { to, .. } => Some(*to),
            _ => None,
        });
        sent.collect()
    }
}

#[test]
fn addresses_from_facts_are_tried_when_the_book_is_at_its_end() {
    let mut one = One::knowing(&[2]);
    assert_eq!(one.at(Time(0), |it, step| it.start(step)), [peer(2).addr]);
    assert!(!one.membership.is_at_a_loss(), "one dial is under way");
    let due = one.membership.next_deadline().unwrap();
    one.at(due, |it, step| it.deadline(step));
    assert!(one.membership.is_at_a_loss() && !one.membership.is_at_a_loss(), "said once");
    let help = [peer(1).addr, peer(2).addr, peer(3).addr];
    one.at(due, |it, step| it.take_help(&help, step));
    let next = one.membership.next_deadline().unwrap();
    assert!(next.since(due) <= Config::default().dial_wait);
    assert_eq!(one.at(next, |it, step| it.deadline(step)), [peer(3).addr], "the one that is new");
}

#[test]
fn all_that_a_full_peer_holds_fits_its_share() {
    let mut one = One::knowing(&[]);
    one.at(Time(0), |it, step| it.start(step));
    for number in 2..60 {
        one.at(Time(number.into()), |it, step| {
            let message = Message::Join.encode();
            let (tag, reader) = Reader::new(&message).unwrap();
            it.handle(peer(number), tag, reader, step).unwrap();
            (0..=255).for_each(|b| {
                it.hear_of(SocketAddr::from(([10, 1, number, b], 7400)).into(), step);
            });
        });
        one.membership.take_changes();
    }
    assert_eq!(one.membership.contacts().count(), Config::default().contacts);
    assert!(one.membership.state_bytes() <= 2_570, "{}", one.membership.state_bytes());
}

#[test]
fn knobs_out_of_range_break_nothing() {
    let extreme = Config {
        active: 100,
        walk_hops: 255,
        beat: Duration::ZERO,
        dead: Duration::ZERO,
        dial_wait: Duration::ZERO,
        walk_wait: Duration::ZERO,
        retry_wait: Duration::ZERO,
        mend_wait: Duration::ZERO,
        shuffle_young_wait: Duration::ZERO,
        shuffle_wait: Duration::ZERO,
        contacts: 0,
        passive: 0,
        ..Config::default()
    };
    let contacts: Vec<Addr> = (2..20).map(|number| peer(number).addr).collect();
    let membership = Membership::new(Arc::new(extreme), peer(1), &contacts);
    let mut one = One { membership, ..One::knowing(&[]) };
    one.at(Time(0), |it, step| it.start(step));
    for number in 2..60 {
        one.at(Time(0), |it, step| {
            let (tag, reader) = Reader::new(Message::Join.encode()).unwrap();
            it.handle(peer(number), tag, reader, step).unwrap();
        });
    }
    assert_eq!(one.membership.links().len(), LINKS_MAX - 2);
    let mut now = Time(0);
    for _ in 0..100 {
        let next = one.membership.next_deadline().unwrap();
        assert!(next >= now, "time does not go back");
        now = next;
        one.at(now, |it, step| it.deadline(step));
        assert!(one.membership.next_deadline().unwrap() > now, "every deadline makes progress");
    }
    let usual = Arc::new(Config::default());
    assert!(Arc::ptr_eq(&usual, &usual.clone().within_bounds()), "what is in range is shared");
}
