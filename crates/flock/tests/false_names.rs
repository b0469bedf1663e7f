//! A liar that names peers at addresses that are not theirs.

use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;
use skein_flock::flock::{Config, Remembered};
use skein_flock::membership::{Message, Want};
use skein_flock::{Addr, Flock, Input, Outbox, Peer, Time};
use skein_model::HostId;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

fn peer(id: u64, port: u16) -> Peer {
    let addr: Addr = SocketAddr::from((Ipv4Addr::new(10, 0, 0, id as u8), port)).into();
    Peer { id: HostId(id), addr }
}

#[test]
fn nobody_takes_itself_or_a_neighbour_for_a_newcomer_by_another_name_or_address() {
    let me = peer(1, 7_400);
    let mut flock = Flock::new(Arc::new(Config::default()), me, Remembered::default());
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(3);
    let mut tell = |flock: &mut Flock, input| {
        // Whether the lie is refused or comes to nothing does not matter.
        let _ = flock.handle(input, Time(1_000_000), &mut rng, &mut Outbox::default());
    };
    tell(&mut flock, Input::Start);
    let neighbour = peer(2, 7_400);
    tell(&mut flock, Input::Received { from: neighbour, bytes: Message::Join.encode() });
    assert_eq!(flock.links().len(), 1, "who joins an empty flock is let in");
    let misnamed = Peer { id: HostId(77), ..neighbour };
    for joiner in [peer(1, 7_272), peer(2, 7_272), misnamed] {
        for want in [Want::One, Want::Two] {
            let walk = Message::Walk { want, hops: 0, joiner };
            tell(&mut flock, Input::Received { from: neighbour, bytes: walk.encode() });
        }
    }
    let known: Vec<Peer> = flock.links().iter().map(|(_, neighbour)| neighbour.peer).collect();
    assert_eq!(known, [neighbour]);
}
