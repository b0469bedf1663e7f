use super::super::record::{Entry, write};
use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

fn addrs() -> impl Strategy<Value = Addr> {
    (1_u32.., 1_u16..).prop_map(|(ip, port)| SocketAddr::new(IpAddr::V4(ip.into()), port).into())
}

fn versions() -> impl Strategy<Value = Version> {
    (0..=INCARNATION_MAX, 1..=COUNTER_MAX).prop_map(|(incarnation, counter)| Version { incarnation, counter })
}

fn bodies() -> impl Strategy<Value = Bytes> {
    let value = prop::option::of(prop::collection::vec(any::<u8>(), 0..40));
    prop::collection::btree_map("[a-zé]{1,20}", value, 0..6).prop_map(|facts: BTreeMap<String, _>| {
        let mut body = Writer::bare(0);
        for (key, value) in &facts {
            write(Entry { key, counter: 1, value: value.as_deref() }, &mut body);
        }
        body.finish()
    })
}

fn items() -> impl Strategy<Value = Item> {
    let host = any::<u64>().prop_map(HostId);
    prop_oneof![
        (host.clone(), addrs(), versions(), bodies(), any::<u64>()).prop_map(
            |(host, addr, version, body, floor)| {
                Item::Whole { host, addr, version, floor: floor % version.counter, body }
            }
        ),
        (host.clone(), versions(), bodies(), any::<u64>(), any::<u64>()).prop_map(
            |(host, version, changes, base, floor)| {
                let base = base % version.counter;
                Item::Changes { host, version, base, floor: floor % (base + 1), changes }
            }
        ),
        (host, versions()).prop_map(|(host, version)| Item::Gone { host, version }),
        ("[a-z]{1,30}", 1_u64.., prop::option::of(prop::collection::vec(any::<u8>(), 0..40))).prop_map(
            |(key, version, value)| Item::Setting { key: key.into(), version, value: value.map(Bytes::from) }
        ),
    ]
}

fn sets() -> impl Strategy<Value = Set> {
    prop_oneof![Just(Set::Records), Just(Set::Settings)]
}

fn prefixes(deepest: u8) -> impl Strategy<Value = Prefix> {
    (any::<u64>(), 0..=deepest).prop_map(|(bits, depth)| {
        let all = Prefix { bits: 0, depth };
        Prefix { bits: bits & !all.below(), depth }
    })
}

/// Those of some things that rise and do not overlap.
fn rising<T>(mut things: Vec<T>, prefix: impl Fn(&T) -> Prefix) -> Vec<T> {
    things.sort_by_key(|thing| prefix(thing).bits);
    let mut last = None;
    things.retain(|thing| {
        let range = prefix(thing).range();
        let fits = last.is_none_or(|last| *range.start() > last);
        last = if fits { Some(*range.end()) } else { last };
        fits
    });
    things
}

fn messages() -> impl Strategy<Value = Message> {
    let three = 0_u32..1 << 24;
    let range = (prefixes(DEPTH_MAX - 1), prop::array::uniform16(prop::option::of(three.clone())))
        .prop_map(|(prefix, parts)| Range { prefix, parts });
    let list = (prefixes(DEPTH_MAX), prop::collection::btree_map(any::<u64>(), three, 0..5)).prop_map(
        |(prefix, elements)| {
            let within: BTreeMap<u64, u32> = elements
                .into_iter()
                .map(|(place, sum)| (prefix.bits | place & prefix.below(), sum))
                .collect();
            List { prefix, elements: within.into_iter().collect() }
        },
    );
    prop_oneof![
        (any::<u64>(), any::<u64>()).prop_map(|(records, settings)| Message::Digest { records, settings }),
        Just(Message::Same),
        Just(Message::Probe),
        Just(Message::Answer),
        (sets(), any::<u16>(), prop::collection::vec(range, 0..4)).prop_map(|(set, salt, ranges)| {
            Message::Ranges { set, salt, ranges: rising(ranges, |it| it.prefix) }
        }),
        (sets(), any::<u16>(), prop::collection::vec(list, 0..4)).prop_map(|(set, salt, lists)| {
            Message::Listing { set, salt, lists: rising(lists, |it| it.prefix) }
        }),
        (sets(), any::<bool>(), prop::collection::vec((any::<u64>(), versions()), 0..4))
            .prop_map(|(set, differ, elements)| Message::Have { set, differ, elements }),
        (any::<bool>(), prop::collection::vec(items(), 0..4))
            .prop_map(|(more, items)| Message::Items { more, items }),
    ]
}

fn decode(bytes: &Bytes) -> Result<Message, DecodeError> {
    let (tag, reader) = Reader::new(bytes)?;
    Message::decode(tag, reader)
}

proptest! {
    #[test]
    fn a_message_reads_back_as_written(message in messages()) {
        let bytes = message.encode();
        prop_assert_eq!(decode(&bytes), Ok(message));
    }

    #[test]
    fn a_payload_reads_back_as_written_and_is_no_longer_than_announced(
        items in prop::collection::vec(items(), 0..6)
    ) {
        let payload = encode_items(&items);
        prop_assert!(payload.len() <= items.iter().map(Item::bytes_about).sum());
        prop_assert_eq!(decode_items(&payload), Ok(items));
    }

    #[test]
    fn any_bytes_are_a_message_or_an_error(tag in 0x2E_u8..0x3A, bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut whole = vec![tag];
        whole.extend(&bytes);
        let _ = decode_items(&bytes.into());
        if let Ok(message) = decode(&whole.clone().into()) {
            // Varints can be written longer than need be, so equal messages rather than equal bytes.
            prop_assert_eq!(decode(&message.encode()), Ok(message));
        }
    }

    #[test]
    fn a_message_with_a_byte_changed_or_cut_is_a_message_or_an_error(
        message in messages(), at: prop::sample::Index, byte: u8, cut: prop::sample::Index,
    ) {
        let mut bytes = message.encode().to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(message) = decode(&bytes.clone().into()) {
            prop_assert_eq!(decode(&message.encode()), Ok(message));
        }
        bytes.truncate(cut.index(bytes.len()));
        let _ = decode(&bytes.into());
    }
}

#[test]
fn an_exchange_about_nothing_takes_eighteen_bytes() {
    let opened = Message::Digest { records: 7, settings: 8 }.encode();
    assert_eq!(opened.len() + Message::Same.encode().len(), 18);
}

#[test]
fn what_follows_a_message_makes_it_none() {
    let mut bytes = Message::Same.encode().to_vec();
    bytes.push(0);
    assert_eq!(decode(&bytes.into()), Err(DecodeError::Trailing(1)));
    assert_eq!(decode(&Bytes::from_static(&[0x38])), Err(DecodeError::Tag(0x38)));
}

#[test]
fn ranges_that_overlap_or_fall_are_refused() {
    let range = |bits, depth| Range { prefix: Prefix { bits, depth }, parts: [None; 16] };
    let message = |ranges| Message::Ranges { set: Set::Records, salt: 1, ranges }.encode();
    let (a, b, inside) = (range(0x1 << 60, 1), range(0x2 << 60, 1), range(0x12 << 56, 2));
    assert!(decode(&message(vec![a.clone(), b.clone()])).is_ok());
    for wrong in
        [vec![b.clone(), a.clone()], vec![a.clone(), a.clone()], vec![a, inside], vec![range(0, 0), b]]
    {
        assert_eq!(decode(&message(wrong)), Err(DecodeError::Range("a prefix")));
    }
}
