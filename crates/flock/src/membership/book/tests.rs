use super::*;
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;
use std::collections::BTreeSet;
use std::net::Ipv6Addr;

const LIMITS: Limits = Limits { contacts: 40, passive: 8, doubtful: 20 };

fn luck() -> Xoshiro256PlusPlus {
    Xoshiro256PlusPlus::seed_from_u64(7)
}

fn addr(number: u32) -> Addr {
    SocketAddr::from((Ipv4Addr::from(0x0A00_0000 + number), 7400)).into()
}

#[test]
fn a_full_book_takes_in_the_new_and_stays_within_its_bound() {
    let (mut book, mut rng) = (Book::new(7400), luck());
    (1..=1000).for_each(|number| assert!(book.hear_of(addr(number), LIMITS, &mut rng)));
    assert_eq!((book.len(), book.passive().count()), (40, 8));
    assert!(book.iter().any(|it| it == addr(1000)), "the newest is there");
    assert!(book.state_bytes() <= size_of::<Book>() + 40 * 4, "four bytes each, and none to spare");
}

#[test]
fn old_and_new_contacts_are_both_kept() {
    let (mut book, mut rng) = (Book::new(7400), luck());
    (1..=80).for_each(|number| _ = book.hear_of(addr(number), LIMITS, &mut rng));
    let old = book.iter().filter(|it| *it < addr(41)).count();
    assert!((5..=30).contains(&old), "{old} of the first half are left among 40");
}

#[test]
fn a_contact_drawn_is_not_drawn_again_until_it_is_heard_of_or_all_are_forgiven() {
    let (mut book, mut rng) = (Book::new(7400), luck());
    (1..=30).for_each(|number| _ = book.hear_of(addr(number), LIMITS, &mut rng));
    let drawn: BTreeSet<Addr> = std::iter::from_fn(|| book.draw(&mut rng)).collect();
    assert_eq!((drawn.len(), book.trusted(), book.doubted()), (30, 0, 30));
    book.trust(addr(3));
    assert_eq!((book.draw(&mut rng), book.draw(&mut rng)), (Some(addr(3)), None));
    book.trust_all();
    assert_eq!((book.trusted(), book.doubted()), (30, 0));
}

#[test]
fn samples_hold_no_doubtful_contact_and_none_twice() {
    let (mut book, mut rng) = (Book::new(7400), luck());
    (1..=30).for_each(|number| _ = book.hear_of(addr(number), LIMITS, &mut rng));
    (1..=10).for_each(|number| book.doubt(addr(number)));
    for count in [0, 1, 7, 20, 100] {
        let sample: BTreeSet<Addr> = book.sample(count, &mut rng).into_iter().collect();
        assert_eq!(sample.len(), count.min(20));
        assert!(sample.iter().all(|it| *it > addr(10)));
    }
}

#[test]
fn the_doubtful_do_not_push_out_more_than_their_share() {
    let (mut book, mut rng) = (Book::new(7400), luck());
    (1..=40).for_each(|number| _ = book.hear_of(addr(number), LIMITS, &mut rng));
    (1..=40).for_each(|number| book.doubt(addr(number)));
    (41..=60).for_each(|number| _ = book.hear_of(addr(number), LIMITS, &mut rng));
    assert_eq!((book.trusted(), book.doubted()), (20, 20), "the new took the places of the doubtful");
    assert!((41..=60).all(|number| book.iter().any(|it| it == addr(number))));
}

#[test]
fn other_ports_and_protocols_are_remembered_too() {
    let (mut book, mut rng) = (Book::new(7400), luck());
    let odd: Vec<Addr> = (1..=200)
        .map(|number: u16| match number % 3 {
            0 => SocketAddr::from((Ipv6Addr::new(0x2001, 0xDB8, 0, 0, 0, 0, 0, number), 7400)).into(),
            1 => SocketAddr::from((Ipv4Addr::new(127, 0, 0, 1), number)).into(),
            _ => SocketAddr::from((Ipv4Addr::from(0xF000_0000 + u32::from(number)), 7400)).into(),
        })
        .collect();
    for it in &odd {
        assert!(book.hear_of(*it, LIMITS, &mut rng));
        assert!(!book.hear_of(*it, LIMITS, &mut rng), "known now");
    }
    assert_eq!(book.len(), 40);
    assert!(book.iter().all(|it| odd.contains(&it)));
    assert!(book.odd.len() <= 41, "freed places are used again");
}

proptest! {
    /// Against a plain list of what is known and a set of who is doubted.
    #[test]
    fn whatever_happens_each_contact_is_in_one_part(
        steps in proptest::collection::vec((0_u8..9, 1_u32..60), 0..300),
        seed: u64,
    ) {
        let (mut book, mut rng) = (Book::new(7400), Xoshiro256PlusPlus::seed_from_u64(seed));
        for (what, number) in steps {
            // Every fourth has a port of its own.
            let addr = match number % 4 {
                0 => SocketAddr::from((Ipv4Addr::from(0x0A00_0000 + number), 1)).into(),
                _ => addr(number),
            };
            match what {
                0..=2 => _ = book.hear_of(addr, LIMITS, &mut rng),
                3 => {
                    book.trust(addr);
                    let at = book.find(addr);
                    prop_assert!(at.is_none_or(|at| at < book.trusted()));
                }
                4 => {
                    book.doubt(addr);
                    let at = book.find(addr);
                    prop_assert!(at.is_none_or(|at| at >= book.trusted()));
                }
                5 => {
                    book.make_passive(addr, LIMITS, &mut rng);
                    prop_assert!(book.passive().any(|it| it == addr));
                }
                6 => {
                    book.not_passive(addr);
                    prop_assert!(book.passive().all(|it| it != addr));
                }
                7 => {
                    book.forget(addr);
                    prop_assert!(book.find(addr).is_none());
                }
                _ => {
                    let trusted = book.trusted();
                    let drawn = book.draw(&mut rng);
                    prop_assert_eq!(drawn.is_some(), trusted > 0);
                    prop_assert!(drawn.is_none_or(|it| book.find(it).is_some_and(|at| at >= book.trusted())));
                }
            }
            let all: Vec<Addr> = book.iter().collect();
            let different: BTreeSet<Addr> = all.iter().copied().collect();
            prop_assert_eq!((all.len(), different.len()), (book.len(), book.len()));
            prop_assert!(usize::from(book.passive) <= book.trusted() && book.trusted() <= book.len());
            prop_assert!(book.len() <= LIMITS.contacts && usize::from(book.passive) <= LIMITS.passive);
            prop_assert_eq!(book.odd.iter().flatten().count(), book.entries.iter().filter(|it| **it >= ODD).count());
        }
    }
}
