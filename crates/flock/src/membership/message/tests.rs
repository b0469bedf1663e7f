use super::*;
use bytes::Bytes;
use proptest::prelude::*;
use skein_model::HostId;
use std::net::Ipv6Addr;

fn addrs() -> impl Strategy<Value = Addr> {
    (any::<u128>(), any::<u32>(), 0_u8..3, 1_u16..).prop_map(|(v6, v4, kind, port)| match kind {
        0 => SocketAddr::new(IpAddr::V6(Ipv6Addr::from(v6 | 1 << 126)).to_canonical(), port).into(),
        1 => SocketAddr::from((Ipv4Addr::from(v4.max(1)), port)).into(),
        _ => SocketAddr::from((Ipv4Addr::from(v4.max(1)), 7400)).into(),
    })
}

fn messages() -> impl Strategy<Value = Message> {
    let peers = || (any::<u64>(), addrs()).prop_map(|(id, addr)| Peer { id: HostId(id), addr });
    let hops = || 0..=HOPS_MAX;
    let wants = || any::<bool>().prop_map(|two| if two { Want::Two } else { Want::One });
    let lists = || proptest::collection::vec(addrs(), 0..=ADDRS_MAX);
    prop_oneof![
        Just(Message::Beat),
        Just(Message::Probe),
        Just(Message::Join),
        (hops(), peers()).prop_map(|(hops, joiner)| Message::Spread { hops, joiner }),
        (wants(), hops(), peers()).prop_map(|(want, hops, joiner)| Message::Walk { want, hops, joiner }),
        wants().prop_map(|want| Message::Neighbour { want }),
        lists().prop_map(|known| Message::Link { known }),
        proptest::option::of(peers()).prop_map(|instead| Message::Unlink { instead }),
        proptest::option::of(peers()).prop_map(|instead| Message::Leave { instead }),
        (hops(), 0..=ADDRS_MAX as u8, addrs()).prop_map(|(hops, count, origin)| Message::Shuffle {
            hops,
            count,
            origin
        }),
        lists().prop_map(|known| Message::Offer { known }),
        lists().prop_map(|known| Message::Return { known }),
    ]
}

/// Lists are sets: the usual port's addresses come first.
fn sorted(message: Message) -> Message {
    let sort = |mut known: Vec<Addr>| {
        known.sort_unstable();
        known
    };
    match message {
        Message::Link { known } => Message::Link { known: sort(known) },
        Message::Offer { known } => Message::Offer { known: sort(known) },
        Message::Return { known } => Message::Return { known: sort(known) },
        other => other,
    }
}

proptest! {
    #[test]
    fn a_message_reads_back_as_written(message in messages()) {
        let (tag, reader) = Reader::new(message.encode()).unwrap();
        prop_assert_eq!(tag, message.tag());
        let read = Message::decode(tag, reader);
        prop_assert_eq!(read.map(sorted), Ok(sorted(message)));
    }

    #[test]
    fn any_bytes_are_a_message_or_an_error(tag: u8, bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let read = Message::decode(tag, Reader::over(bytes.clone().into()));
        if let Ok(message) = read {
            prop_assert!(tag < 0x20);
            prop_assert_eq!(message.tag(), tag);
        }
    }

    #[test]
    fn a_message_cut_short_or_drawn_out_is_refused(message in messages(), cut in 1_usize..40, more in 1_usize..9) {
        let bytes = message.encode().to_bytes();
        if cut < bytes.len() {
            let (tag, reader) = Reader::new(bytes.slice(..bytes.len() - cut)).unwrap();
            prop_assert!(Message::decode(tag, reader).is_err());
        }
        let long: Vec<u8> = bytes.iter().copied().chain(std::iter::repeat_n(0, more)).collect();
        let (tag, reader) = Reader::new(Bytes::from(long)).unwrap();
        prop_assert!(Message::decode(tag, reader).is_err());
    }
}

#[test]
fn messages_are_as_short_as_the_figures_assume() {
    let peer = Peer { id: HostId(7), addr: SocketAddr::from(([10, 0, 0, 1], 7400)).into() };
    let known = |count: u8| (1..=count).map(|at| SocketAddr::from(([10, 0, 0, at], 7400)).into()).collect();
    let lengths = [
        (Message::Beat, 1),
        (Message::Join, 1),
        (Message::Walk { want: Want::Two, hops: 7, joiner: peer }, 17),
        (Message::Link { known: known(8) }, 5 + 8 * 4),
        (Message::Shuffle { hops: 5, count: 8, origin: peer.addr }, 10),
        (Message::Offer { known: known(8) }, 5 + 8 * 4),
    ];
    for (message, length) in lengths {
        assert_eq!(message.encode().len(), length, "{message:?}");
    }
}
