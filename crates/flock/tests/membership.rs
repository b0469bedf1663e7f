//! One peer's membership, told things by hand: what it does when all is well, when peers die, and what it makes of
//! those who lie, flood, repeat themselves or speak out of turn.

#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;
use skein_flock::flock::{Config, Remembered};
use skein_flock::membership::{self, ADDRS_MAX, Message, Want};
use skein_flock::wire::{MESSAGE_BYTES_MAX, Reader};
use skein_flock::{Addr, Effect, Flock, Input, Outbox, Peer, Refused, Time, Unreachable};
use skein_model::HostId;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

const ACTIVE: usize = 5;

fn peer(number: u32) -> Peer {
    let [_, a, b, c] = number.to_be_bytes();
    Peer { id: HostId(u64::from(number)), addr: SocketAddr::from(([10, a, b, c], 7400)).into() }
}

/// One peer, its clock and its luck.
struct One {
    flock: Flock,
    now: Time,
    rng: Xoshiro256PlusPlus,
}

impl One {
    /// Number 1, which knows `contacts` and has started at one second.
    fn knowing(contacts: impl IntoIterator<Item = u32>) -> (Self, Vec<(Addr, Message)>) {
        let addrs = contacts.into_iter().map(|number| peer(number).addr).collect();
        let flock = Flock::new(Arc::new(Config::default()), peer(1), Remembered { addrs, incarnation: 1 });
        let mut one = Self { flock, now: Time(1_000_000), rng: Xoshiro256PlusPlus::seed_from_u64(3) };
        let sent = one.tell(Input::Start).1;
        (one, sent)
    }

    /// With as many neighbours as it wants, numbers 2 to 6.
    fn settled() -> Self {
        let (mut one, _) = Self::knowing([]);
        (2..2 + ACTIVE as u32).for_each(|number| one.hears(number, &Message::Join).0.unwrap());
        assert_eq!(one.flock.links().len(), ACTIVE);
        one
    }

    fn tell(&mut self, input: Input) -> (Result<(), Refused>, Vec<(Addr, Message)>) {
        let mut out = Outbox::default();
        let result = self.flock.handle(input, self.now, &mut self.rng, &mut out);
        let sent = out.effects.into_iter().filter_map(|effect| match effect {
            Effect::Send { to, bytes } if bytes.get(0).is_some_and(|tag| tag < 0x20) => {
                let (tag, reader) = Reader::new(&bytes).unwrap();
                Some((to, Message::decode(tag, reader).unwrap()))
            }
            _ => None,
        });
        (result, sent.collect())
    }

    fn hears(&mut self, from: u32, message: &Message) -> (Result<(), Refused>, Vec<(Addr, Message)>) {
        self.tell(Input::Received { from: peer(from), bytes: message.encode() })
    }

    /// Lets time pass, bringing deadlines; gives what was sent and when. Every neighbour of `lively` is heard of
    /// twice a second.
    fn wait(&mut self, wait: Duration, lively: impl Fn(u32) -> bool) -> Vec<(Time, Addr, Message)> {
        let (end, mut sent) = (self.now + wait, Vec::new());
        let mut beat = self.now;
        while self.now < end {
            let due = self.flock.next_deadline().map_or(end, |due| due.max(self.now));
            self.now = due.min(beat).min(end);
            let now = self.now;
            if now == due {
                sent.extend(self.tell(Input::Deadline).1.into_iter().map(|(to, it)| (now, to, it)));
            }
            if now == beat {
                beat = now + Duration::from_millis(500);
                for number in self.neighbours().into_iter().filter(|number| lively(*number)) {
                    sent.extend(
                        self.hears(number, &Message::Beat).1.into_iter().map(|(to, it)| (now, to, it)),
                    );
                }
            }
        }
        sent
    }

    fn neighbours(&self) -> Vec<u32> {
        self.flock.links().iter().map(|(_, neighbour)| neighbour.peer.id.0 as u32).collect()
    }

    fn contacts(&self) -> BTreeSet<Addr> {
        self.flock.membership().contacts().collect()
    }

    /// What a message must not change when it is refused.
    fn views(&self) -> (Vec<u32>, BTreeSet<Addr>, usize) {
        (self.neighbours(), self.contacts(), self.flock.membership().state_bytes())
    }
}

fn known(from: u32, count: usize) -> Vec<Addr> {
    (from..).take(count).map(|number| peer(number).addr).collect()
}

#[test]
fn the_first_who_join_become_neighbours_and_are_introduced_to_each_other() {
    let (mut one, _) = One::knowing([]);
    let (_, sent) = one.hears(2, &Message::Join);
    assert!(matches!(&sent[..], [(to, Message::Link { .. })] if *to == peer(2).addr));
    let (_, sent) = one.hears(3, &Message::Join);
    assert!(sent.iter().any(|(to, it)| *to == peer(3).addr && matches!(it, Message::Link { .. })));
    let searches = sent.iter().filter(|(to, it)| {
        *to == peer(2).addr && matches!(it, Message::Spread { joiner, .. } if *joiner == peer(3))
    });
    assert_eq!(searches.count(), 1, "the search for more links starts at the other neighbour: {sent:?}");
}

#[test]
fn a_walk_for_two_links_ends_in_the_middle_of_a_link() {
    let mut one = One::settled();
    let walk = Message::Walk { want: Want::Two, hops: 0, joiner: peer(99) };
    let (result, sent) = one.hears(2, &walk);
    assert_eq!(result, Ok(()));
    assert!(one.neighbours().contains(&99));
    assert_eq!(one.neighbours().len(), ACTIVE, "as many as before");
    let gone = (2..7).find(|number| !one.neighbours().contains(number)).unwrap();
    assert!(sent.contains(&(peer(gone).addr, Message::Unlink { instead: Some(peer(99)) })), "{sent:?}");
}

#[test]
fn whoever_is_dropped_for_somebody_links_up_with_them() {
    let mut one = One::settled();
    let (result, sent) = one.hears(4, &Message::Unlink { instead: Some(peer(99)) });
    assert_eq!(result, Ok(()));
    assert!(one.neighbours().contains(&99) && !one.neighbours().contains(&4));
    assert!(sent.iter().any(|(to, it)| *to == peer(99).addr && matches!(it, Message::Link { .. })));
    assert!(one.flock.membership().passive().any(|addr| addr == peer(4).addr), "it lives, and is remembered");
}

#[test]
fn two_links_too_many_are_undone_by_an_introduction() {
    let mut one = One::settled();
    one.wait(Duration::from_secs(3), |_| true);
    one.hears(50, &Message::Link { known: Vec::new() }).0.unwrap();
    assert_eq!(one.neighbours().len(), ACTIVE + 1, "one too many is borne");
    // Somebody asks at a peer with one too many: it is handed one of those links.
    let (_, sent) = one.hears(51, &Message::Neighbour { want: Want::One });
    assert_eq!(one.neighbours().len(), ACTIVE);
    assert!(sent.iter().any(|(_, it)| *it == Message::Unlink { instead: Some(peer(51)) }));
    one.hears(52, &Message::Link { known: Vec::new() }).0.unwrap();
    let before: BTreeSet<u32> = one.neighbours().into_iter().collect();
    // Asked for, a seventh is taken too; then two old ones are introduced to each other.
    one.hears(53, &Message::Neighbour { want: Want::Two }).0.unwrap();
    let after: BTreeSet<u32> = one.neighbours().into_iter().collect();
    assert!(after.contains(&53) && after.len() <= ACTIVE + 1, "{before:?} became {after:?}");
}

#[test]
fn a_silent_neighbour_is_asked_and_then_given_up() {
    let mut one = One::settled();
    let begin = one.now;
    let sent = one.wait(Duration::from_secs(4), |number| number != 4);
    assert!(!one.neighbours().contains(&4));
    let asked: Vec<Time> = sent
        .iter()
        .filter(|(_, to, it)| *to == peer(4).addr && *it == Message::Probe)
        .map(|(at, ..)| *at)
        .collect();
    assert_eq!(asked, [begin + membership::Config::default().probe], "asked once");
    assert_eq!(one.flock.membership().counters().silent, 1);
    assert!(one.neighbours().iter().filter(|number| **number < 7).count() == ACTIVE - 1, "nobody else is");
}

#[test]
fn a_neighbour_that_became_half_a_second_slower_is_not_given_up() {
    let mut one = One::settled();
    // Heartbeats of 4 come each second; from the second on they take half a second longer.
    for at in [0_u64, 1000, 2500, 3500, 4500, 5500] {
        let until = Time(1_000_000) + Duration::from_millis(at);
        let wait = until.since(one.now);
        one.wait(wait, |number| number != 4);
        assert!(one.neighbours().contains(&4), "at {at} ms");
        one.hears(4, &Message::Beat).0.unwrap();
    }
}

#[test]
fn every_silent_link_carries_a_heartbeat_a_second() {
    let mut one = One::settled();
    let sent = one.wait(Duration::from_secs(10), |_| true);
    for number in 2..7 {
        let beats =
            sent.iter().filter(|(_, to, it)| *to == peer(number).addr && *it == Message::Beat).count();
        assert!((9..=12).contains(&beats), "{beats} heartbeats to {number} in ten seconds");
    }
}

#[test]
fn refused_dials_never_end_the_search() {
    let (mut one, mut sent) = One::knowing(100..160);
    let mut tried = BTreeSet::new();
    // Nobody listens anywhere, and says so at once.
    for _ in 0..2_000 {
        for (to, message) in std::mem::take(&mut sent) {
            if matches!(message, Message::Join | Message::Neighbour { .. }) {
                tried.insert(to);
                let (_, more) = one.tell(Input::Unreachable { addr: to, why: Unreachable::Refused });
                sent.extend(more);
            }
        }
        if sent.is_empty() {
            one.now = one.flock.next_deadline().expect("a peer alone always has something to do");
            sent = one.tell(Input::Deadline).1;
        }
    }
    assert_eq!(tried.len(), 60, "everybody was tried");
    // Minutes later somebody comes back.
    let begin = one.now;
    let mut found = false;
    while !found {
        assert!(one.now.since(begin) < Duration::from_secs(60), "tried again within a minute");
        one.now = one.flock.next_deadline().expect("still trying");
        let mut sent = one.tell(Input::Deadline).1;
        while let Some((addr, message)) = sent.pop() {
            found |= addr == peer(133).addr && message == Message::Join;
            sent.extend(one.tell(Input::Unreachable { addr, why: Unreachable::Refused }).1);
        }
    }
}

#[test]
fn waits_grow_while_nobody_answers() {
    let (mut one, _) = One::knowing(100..103);
    let mut joins = Vec::new();
    let begin = one.now;
    while one.now.since(begin) < Duration::from_secs(600) {
        one.now = one.flock.next_deadline().expect("still trying").max(one.now);
        let (_, sent) = one.tell(Input::Deadline);
        joins.extend(sent.iter().filter(|(_, it)| *it == Message::Join).map(|_| one.now));
    }
    let within = |from: u64, to: u64| {
        let range = begin + Duration::from_secs(from)..begin + Duration::from_secs(to);
        joins.iter().filter(|at| range.contains(at)).count()
    };
    assert!(within(0, 60) > within(540, 600), "fewer as time goes by");
    assert!((2..=12).contains(&within(540, 600)), "but never none: {}", within(540, 600));
}

#[test]
fn all_neighbours_dead_at_once_makes_many_dials_at_once() {
    let mut one = One::settled();
    one.hears(2, &Message::Link { known: known(1000, ADDRS_MAX) }).0.unwrap();
    let mut sent = Vec::new();
    for number in 2..7 {
        let addr = peer(number).addr;
        sent.extend(one.tell(Input::Unreachable { addr, why: Unreachable::Lost }).1);
    }
    let dials: BTreeSet<Addr> =
        sent.iter().filter(|(_, it)| matches!(it, Message::Neighbour { .. })).map(|(to, _)| *to).collect();
    assert!((12..=32).contains(&dials.len()), "{} dials", dials.len());
    // One dead neighbour is no such reason.
    let mut one = One::settled();
    let (_, sent) = one.tell(Input::Unreachable { addr: peer(2).addr, why: Unreachable::Lost });
    assert!(sent.is_empty(), "{sent:?}");
}

/// Who is called in the ten seconds after the neighbours up to `last` died, and others took their places.
fn called_after_deaths(last: u32) -> BTreeSet<Addr> {
    let mut one = One::settled();
    one.hears(2, &Message::Link { known: known(1000, ADDRS_MAX) }).0.unwrap();
    for number in 2..=last {
        one.tell(Input::Unreachable { addr: peer(number).addr, why: Unreachable::Lost }).0.unwrap();
    }
    for number in 2..=last {
        one.hears(2000 + number, &Message::Beat).0.unwrap();
    }
    assert_eq!(one.neighbours().len(), ACTIVE);
    let neighbours: BTreeSet<Addr> = one.neighbours().into_iter().map(|number| peer(number).addr).collect();
    let sent = one.wait(Duration::from_secs(10), |_| true).into_iter();
    let beats = sent.filter(|(.., it)| matches!(it, Message::Beat)).map(|(_, to, _)| to);
    beats.filter(|to| !neighbours.contains(to)).collect()
}

#[test]
fn after_three_deaths_at_once_everybody_known_is_called() {
    let called = called_after_deaths(4);
    // All but those dialled already, who have not answered.
    assert!(called.len() >= ADDRS_MAX / 2, "{}", called.len());
    assert_eq!(called_after_deaths(3).len(), 0, "two deaths may be chance");
}

#[test]
fn everybody_on_the_way_of_a_shuffle_learns_of_its_origin() {
    let mut one = One::settled();
    let origin = peer(50).addr;
    let sent = one.hears(2, &Message::Shuffle { hops: 3, count: 8, origin }).1;
    assert!(matches!(sent[..], [(_, Message::Shuffle { hops: 2, .. })]), "{sent:?}");
    assert!(one.contacts().contains(&origin));
}

#[test]
fn a_walk_under_way_does_not_delay_dials_when_more_links_are_lost() {
    let mut one = One::settled();
    one.hears(2, &Message::Link { known: known(1000, ADDRS_MAX) }).0.unwrap();
    let lost = |number| Input::Unreachable { addr: peer(number).addr, why: Unreachable::Lost };
    one.tell(lost(2)).0.unwrap();
    let sent = one.wait(Duration::from_millis(400), |_| true);
    assert!(sent.iter().any(|(.., it)| matches!(it, Message::Walk { .. })), "one link short: {sent:?}");
    let sent = one.tell(lost(3)).1;
    assert!(sent.iter().any(|(_, it)| matches!(it, Message::Neighbour { .. })), "two short: {sent:?}");
}

#[test]
fn a_walk_under_way_is_waited_for_while_nobody_has_died() {
    let mut one = One::settled();
    one.hears(2, &Message::Link { known: known(1000, ADDRS_MAX) }).0.unwrap();
    one.hears(2, &Message::Leave { instead: None }).0.unwrap();
    let sent = one.wait(Duration::from_millis(400), |_| true);
    assert!(sent.iter().any(|(.., it)| matches!(it, Message::Walk { .. })), "one link short: {sent:?}");
    let sent = one.hears(3, &Message::Leave { instead: None }).1;
    assert!(!sent.iter().any(|(_, it)| matches!(it, Message::Neighbour { .. })), "two short: {sent:?}");
}

#[test]
fn who_leaves_introduces_its_neighbours_and_falls_silent() {
    let mut one = One::settled();
    let (_, sent) = one.tell(Input::Leave);
    assert_eq!(sent.len(), ACTIVE);
    let introduced = sent.iter().filter(|(_, it)| matches!(it, Message::Leave { instead: Some(_) })).count();
    assert_eq!(introduced, ACTIVE / 2);
    assert_eq!((one.flock.links().len(), one.flock.next_deadline()), (0, None));
    assert!(one.hears(9, &Message::Join).1.is_empty(), "nothing is answered any more");
    // And the other side: who left is forgotten as a contact.
    let mut other = One::settled();
    other.hears(3, &Message::Leave { instead: Some(peer(77)) }).0.unwrap();
    assert!(!other.contacts().contains(&peer(3).addr) && other.neighbours().contains(&77));
}

#[test]
fn what_is_remembered_lets_the_next_run_begin_with_neighbours() {
    let mut one = One::settled();
    one.hears(2, &Message::Link { known: known(1000, 40) }).0.unwrap();
    let remembered = one.flock.remember();
    assert_eq!(remembered.incarnation, 2);
    assert_eq!(remembered.addrs.len(), 45);
    let first: BTreeSet<Addr> = remembered.addrs[..ACTIVE].iter().copied().collect();
    assert_eq!(first, (2..7).map(|number| peer(number).addr).collect());
    let mut again = Flock::new(Arc::default(), peer(1), remembered.clone());
    assert_eq!(again.membership().contacts().count(), 45);
    let mut out = Outbox::default();
    again.handle(Input::Start, Time(0), &mut one.rng, &mut out).unwrap();
    assert!(
        out.effects.iter().any(|it| matches!(it, Effect::Send { to, .. } if remembered.addrs.contains(to)))
    );
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let run = || {
        let mut one = One::settled();
        one.hears(2, &Message::Link { known: known(1000, 40) }).0.unwrap();
        let sent = one.wait(Duration::from_secs(60), |number| number != 3);
        format!("{sent:?}")
    };
    assert_eq!(run(), run());
}

// What must not work.

#[test]
fn bytes_that_are_no_message_change_nothing() {
    let mut one = One::settled();
    let before = one.views();
    let oversized = Bytes::from(vec![0x16; MESSAGE_BYTES_MAX + 1]);
    for bytes in [&[][..], &[0x12], &[0x0F], &[0x10, 0], &[0x16, 200, 0], &[0xFF, 1, 2], &oversized] {
        for from in [2, 99] {
            let bytes = Bytes::copy_from_slice(bytes);
            let refused = one.tell(Input::Received { from: peer(from), bytes: bytes.into() });
            assert!(refused.0.is_err() && refused.1.len() <= 1, "{refused:?}");
        }
    }
    assert_eq!(one.views(), before);
    let counters = one.flock.membership().counters();
    assert_eq!(counters.malformed + counters.strangers, 14);
}

#[test]
fn strangers_cannot_send_walks_and_are_told_that_they_are_none() {
    let mut one = One::settled();
    let before = one.views();
    for message in [
        Message::Walk { want: Want::Two, hops: 3, joiner: peer(50) },
        Message::Spread { hops: 3, joiner: peer(50) },
        Message::Shuffle { hops: 3, count: 60, origin: peer(50).addr },
        Message::Beat,
        Message::Probe,
    ] {
        let (result, sent) = one.hears(99, &message);
        assert_eq!(result, Err(Refused::Stranger(peer(99))), "{message:?}");
        assert_eq!(sent, [(peer(99).addr, Message::Unlink { instead: None })]);
    }
    assert_eq!(one.views(), before);
    assert_eq!(one.flock.membership().counters().strangers, 5);
}

#[test]
fn a_peer_that_gives_our_own_name_is_refused() {
    let mut one = One::settled();
    let before = one.views();
    for from in [Peer { id: HostId(1), ..peer(8) }, Peer { addr: peer(1).addr, ..peer(8) }] {
        let refused = one.tell(Input::Received { from, bytes: Message::Join.encode() });
        assert!(matches!(refused.0, Err(Refused::Implausible(_))) && refused.1.is_empty());
    }
    // Nor can it make us our own neighbour.
    one.hears(2, &Message::Walk { want: Want::Two, hops: 0, joiner: peer(1) }).0.unwrap();
    assert_eq!(one.views(), before);
    assert_eq!(one.flock.membership().counters().implausible, 2);
}

#[test]
fn links_nobody_asked_for_do_not_drive_out_the_neighbours() {
    let mut one = One::settled();
    one.wait(Duration::from_secs(10), |_| true);
    for number in 100..1100 {
        let _ = one.hears(number, &Message::Link { known: Vec::new() });
    }
    let honest = one.neighbours().into_iter().filter(|number| *number < 7).count();
    assert_eq!((honest, one.neighbours().len()), (ACTIVE, ACTIVE + 1));
    assert_eq!(one.flock.membership().counters().strangers, 999);
}

#[test]
fn contacts_nobody_asked_for_are_not_taken_in() {
    let mut one = One::settled();
    let before = one.views();
    for message in [Message::Offer { known: known(5000, 64) }, Message::Return { known: known(6000, 64) }] {
        for from in [2, 99] {
            assert_eq!(one.hears(from, &message).0, Err(Refused::Stale));
        }
    }
    assert_eq!(one.views(), before);
    assert_eq!(one.flock.membership().counters().stale, 4);
}

#[test]
fn a_liar_about_views_fills_no_more_than_an_exchange() {
    let mut one = One::settled();
    for number in 0..60 {
        one.hears(2, &Message::Link { known: known(10_000 + number * 10, 10) }).0.unwrap();
    }
    let honest = one.contacts();
    assert_eq!(honest.len(), 440);
    let bytes = one.flock.membership().state_bytes();
    // It waits for our shuffle and answers with lies, again and again.
    one.wait(Duration::from_secs(120), |_| true);
    let lies: BTreeSet<Addr> = known(1_000_000, 640).into_iter().collect();
    let taken = (0..10)
        .filter(|at| one.hears(99, &Message::Offer { known: known(1_000_000 + at * 64, 64) }).0.is_ok());
    assert_eq!(taken.count(), 1, "one answer to one shuffle");
    let believed = one.contacts().intersection(&lies).count();
    assert!(believed <= 64 && one.contacts().len() == 440, "{believed} lies among {}", one.contacts().len());
    assert_eq!(one.flock.membership().state_bytes(), bytes);
}

#[test]
fn a_repeated_goodbye_is_stale() {
    let mut one = One::settled();
    let goodbye = Message::Unlink { instead: Some(peer(80)) };
    one.hears(2, &goodbye).0.unwrap();
    let before = one.views();
    assert_eq!(one.hears(2, &goodbye).0, Err(Refused::Stale));
    assert_eq!(one.hears(99, &Message::Leave { instead: None }).0, Err(Refused::Stale));
    assert_eq!(one.views(), before);
}

#[test]
fn what_was_on_its_way_when_the_link_was_dropped_is_no_strangers_word() {
    let mut one = One::settled();
    one.hears(2, &Message::Unlink { instead: Some(peer(80)) }).0.unwrap();
    let walk = Message::Walk { want: Want::Two, hops: 3, joiner: peer(50) };
    let (result, sent) = one.hears(2, &walk);
    assert_eq!(result, Ok(()));
    assert!(matches!(&sent[..], [(_, Message::Walk { hops: 2, .. })]), "it goes on: {sent:?}");
    one.wait(Duration::from_secs(5), |_| true);
    assert!(one.hears(2, &walk).0.is_err(), "but not for long");
}

#[test]
fn a_flood_is_cut_off_and_costs_no_memory() {
    let mut one = One::settled();
    let flood = membership::Config::default().flood;
    let walk = Message::Walk { want: Want::Two, hops: 9, joiner: peer(50) }.encode();
    let mut sent = 0;
    let mut refused = 0;
    for _ in 0..flood * 2 {
        let (result, out) = one.tell(Input::Received { from: peer(2), bytes: walk.clone() });
        sent += out.len();
        refused += u32::from(result == Err(Refused::Flood));
    }
    assert!(sent as u32 <= flood && refused >= flood, "{sent} sent, {refused} refused");
    assert!(one.flock.membership().state_bytes() < 4096);
    one.now = one.now + Duration::from_secs(1);
    assert_eq!(
        one.tell(Input::Received { from: peer(2), bytes: walk }).0,
        Ok(()),
        "a new second, a new share"
    );
}

#[test]
fn joins_from_ten_thousand_names_leave_the_state_as_large_as_it_was() {
    let mut one = One::settled();
    let mut most = 0;
    for number in 100..10_100 {
        one.hears(number, &Message::Join).0.unwrap();
        most = most.max(one.flock.membership().state_bytes());
    }
    assert_eq!(one.neighbours(), [2, 3, 4, 5, 6], "a full peer sends newcomers on");
    assert!(most <= 2_570, "{most} bytes");
}

#[test]
fn a_restarted_neighbour_gets_a_new_link() {
    let mut one = One::settled();
    let before = one.flock.membership().counters().links_down;
    one.hears(3, &Message::Join).0.unwrap();
    assert_eq!(one.flock.membership().counters().links_down, before + 1);
    assert!(one.neighbours().contains(&3) && one.neighbours().len() == ACTIVE);
    // Under the same name at another address too.
    let moved = Peer { addr: peer(300).addr, ..peer(3) };
    one.tell(Input::Received { from: moved, bytes: Message::Neighbour { want: Want::One }.encode() })
        .0
        .unwrap();
    let threes: Vec<Addr> = one
        .flock
        .links()
        .iter()
        .filter(|(_, it)| it.peer.id == HostId(3))
        .map(|(_, it)| it.peer.addr)
        .collect();
    assert_eq!(threes, [moved.addr]);
}
