//! Who may connect to whom, and what strangers can do.
#![allow(clippy::unwrap_used)]

mod support;

use bytes::{Bytes, BytesMut};
use skein_model::{CellId, HostId};
use skein_transport::hello::{Greeting, HEAD_BYTES, Head, Hello};
use skein_transport::memory::MemoryNetwork;
use skein_transport::wire::{Frame, Status};
use skein_transport::{CallError, Io, Network, Options, Reason, Unreachable};
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout};

/// Lets `a` ask `b`, which has to come to nothing; gives the reason.
async fn refused(a: &Peer, b: &Peer) -> String {
    a.knows(b);
    match a.ask(b, ECHO, "").await {
        Err(CallError::NotSent { why, .. }) => {
            assert_eq!((a.connected(), b.connected()), (vec![], vec![]));
            assert_eq!(b.notes.requests.load(Ordering::SeqCst), 0);
            why
        }
        other => panic!("{other:?}"),
    }
}

async fn refused_with(change: impl FnOnce(&mut Options)) -> String {
    let network = MemoryNetwork::new();
    let mut changed = options(&network, 1);
    change(&mut changed);
    refused(&Peer::start(changed).await, &Peer::on(&network, 2).await).await
}

#[tokio::test(start_paused = true)]
async fn a_foreign_cell_is_refused() {
    let why = refused_with(|options| options.identity.cell = CellId(99)).await;
    assert!(why.contains("foreign cell"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn a_hail_with_a_wrong_host_is_refused() {
    let network = MemoryNetwork::new();
    let (a, b) = (Peer::on(&network, 1).await, Peer::on(&network, 2).await);
    a.transport.learn(HostId(3), b.addr());
    let deadline = Instant::now() + Duration::from_secs(1);
    let asked = a.transport.request(HostId(3), ECHO, Bytes::new(), deadline).await;
    let Err(CallError::NotSent { why, .. }) = asked else { panic!("{asked:?}") };
    assert!(why.contains("0x0000000000000003") && why.contains("0x0000000000000002"), "{why}");
    assert_eq!(b.connected(), []);
    // Posted to the address, it is refused as well, until somebody says who is there.
    a.transport.post(b.addr(), Bytes::from("?"));
    until("the refusal", || a.notes.unreachable() == [(b.addr(), Unreachable::Refused)]).await;
    a.knows(&b);
    assert_eq!(a.ask(&b, ECHO, "x").await, Ok(Bytes::from("x")));
}

#[tokio::test(start_paused = true)]
async fn the_newest_common_version_is_spoken_and_none_is_refused() {
    let why = refused_with(|options| options.versions = 2..=3).await;
    assert!(why.contains("speaks 2 to 3") && why.contains("1 to 1"), "{why}");
    let network = MemoryNetwork::new();
    let (mut old, mut new) = (options(&network, 1), options(&network, 2));
    old.versions = 1..=4;
    new.versions = 3..=9;
    let (a, b) = (Peer::start(old).await, Peer::start(new).await);
    a.knows(&b);
    assert!(a.ask(&b, ECHO, "").await.is_ok());
    assert_eq!((a.transport.connected()[0].version, b.transport.connected()[0].version), (4, 4));
}

#[tokio::test(start_paused = true)]
async fn either_owner_may_not_want_the_other_and_both_hear_why() {
    for listener in [true, false] {
        let network = MemoryNetwork::new();
        let (a, b) = (Peer::on(&network, 1).await, Peer::on(&network, 2).await);
        let (who, whom) = if listener { (&b, &a) } else { (&a, &b) };
        who.notes.unwanted.lock().unwrap().push(whom.host);
        let why = refused(&a, &b).await;
        assert!(why.contains("its store is not the one we know"), "{why}");
        // Its owner may change its mind.
        who.notes.unwanted.lock().unwrap().clear();
        sleep(Duration::from_secs(5)).await;
        assert!(a.ask(&b, ECHO, "").await.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn connecting_to_oneself_is_noticed() {
    let network = MemoryNetwork::new();
    let a = Peer::on(&network, 1).await;
    a.transport.post(a.addr(), Bytes::from("me"));
    until("the refusal", || !a.notes.unreachable().is_empty()).await;
    assert_eq!(a.notes.events(), [Event::Unreachable(a.addr(), Unreachable::Refused)]);
}

#[tokio::test(start_paused = true)]
async fn of_two_processes_with_one_host_id_the_newcomer_is_refused_while_the_other_lives() {
    let network = MemoryNetwork::new();
    let (a, b) = two(&network).await;
    assert!(a.ask(&b, ECHO, "").await.is_ok());
    let mut copy = options(&network, 2);
    copy.listen = addr(22);
    copy.seed += 1;
    let copy = Peer::start(copy).await;
    copy.knows(&a);
    let asked = copy.ask(&a, ECHO, "").await;
    assert!(
        matches!(&asked, Err(CallError::NotSent { why, .. }) if why.contains("another live process")),
        "{asked:?}"
    );
    sleep(Duration::from_secs(20)).await;
    assert!(copy.ask(&a, ECHO, "").await.is_err());
    assert_eq!(a.transport.connected()[0].addr, b.addr());
    assert_eq!(a.notes.events(), [Event::Up(b.host)]);
    // The two do not take each other for somebody else either.
    copy.transport.post(b.addr(), Bytes::from("?"));
    until("the refusal", || copy.notes.unreachable() == [(b.addr(), Unreachable::Refused)]).await;
    // Whoever comes after it is welcome.
    drop(b);
    until("the end", || a.connected().is_empty()).await;
    sleep(Duration::from_secs(5)).await;
    assert!(copy.ask(&a, ECHO, "").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_next_life_hastens_the_end_of_a_silent_one() {
    let network = MemoryNetwork::new();
    let (a, b) = two(&network).await;
    assert!(a.ask(&b, ECHO, "").await.is_ok());
    network.silence(b.addr(), true);
    let mut next = options(&network, 2);
    next.listen = addr(22);
    next.seed += 1;
    let next = Peer::start(next).await;
    next.knows(&a);
    let began = Instant::now();
    while next.ask(&a, ECHO, "").await.is_err() {
        sleep(Duration::from_millis(50)).await;
    }
    assert!(began.elapsed() < Duration::from_millis(5500), "{:?}", began.elapsed());
}

// ---- Strangers ----

async fn dial(network: &MemoryNetwork, to: SocketAddr) -> Box<dyn Io> {
    network.connect(to).await.unwrap()
}

/// Whether it is closed within a tenth of a second.
async fn closed(io: &mut Box<dyn Io>) -> bool {
    let mut rest = Vec::new();
    timeout(Duration::from_millis(100), io.read_to_end(&mut rest)).await.is_ok()
}

async fn hear(io: &mut Box<dyn Io>) -> Greeting {
    let mut head = [0; HEAD_BYTES];
    io.read_exact(&mut head).await.unwrap();
    let head = Head::decode(&head).unwrap();
    let mut body = vec![0; head.body_bytes];
    io.read_exact(&mut body).await.unwrap();
    Greeting::decode(head, &body).unwrap()
}

fn hello() -> Hello {
    Hello {
        version_min: 1,
        version_max: 1,
        identity: identity(66),
        life: 1,
        expected: None,
        number: 1,
        share: addr(66),
        build: String::new(),
    }
}

/// A connection of a peer that does what it wants, greeted.
async fn greeted(network: &MemoryNetwork, to: &Peer) -> Box<dyn Io> {
    let mut io = dial(network, to.addr()).await;
    io.write_all(&Greeting::Hello(hello()).encode()).await.unwrap();
    assert!(matches!(hear(&mut io).await, Greeting::Hello(_)));
    io.write_all(&Greeting::Ready.encode()).await.unwrap();
    until("the connection", || to.connected().contains(&HostId(66))).await;
    io
}

#[tokio::test(start_paused = true)]
async fn garbage_is_closed_at_its_first_wrong_byte() {
    let network = MemoryNetwork::new();
    let a = Peer::on(&network, 1).await;
    let mut wrong = Greeting::Hello(hello()).encode();
    wrong[20] ^= 1;
    let ready = Greeting::Ready.encode();
    for garbage in [&b"G"[..], b"SK8", b"\x16\x03\x01", &wrong, &ready] {
        let mut io = dial(&network, a.addr()).await;
        io.write_all(garbage).await.unwrap();
        assert!(closed(&mut io).await, "{}", garbage.escape_ascii());
    }
    assert_eq!(a.notes.events(), []);
}

#[tokio::test(start_paused = true)]
async fn refusals_are_said_with_their_reason() {
    let network = MemoryNetwork::new();
    let a = Peer::on(&network, 1).await;
    let mut foreign = hello();
    foreign.identity.cell = CellId(5);
    let cases = [
        (foreign, Reason::Cell),
        (Hello { version_min: 7, version_max: 9, ..hello() }, Reason::Version),
        (Hello { expected: Some(HostId(4)), ..hello() }, Reason::Host),
        (Hello { identity: identity(1), ..hello() }, Reason::Duplicate),
    ];
    for (hello, expected) in cases {
        let mut io = dial(&network, a.addr()).await;
        io.write_all(&Greeting::Hello(hello).encode()).await.unwrap();
        let Greeting::Refusal { reason, text } = hear(&mut io).await else { panic!("{expected:?}") };
        assert_eq!(reason, expected, "{text}");
        assert!(closed(&mut io).await);
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_slow_to_say_who_it_is_is_closed_and_few_such_are_borne() {
    let network = MemoryNetwork::new();
    let mut narrow = options(&network, 1);
    narrow.limits.half_open_max = 3;
    let (a, b) = (Peer::start(narrow).await, Peer::on(&network, 2).await);
    let began = Instant::now();
    let mut slow = Vec::new();
    for _ in 0..3 {
        slow.push(dial(&network, a.addr()).await);
    }
    sleep(Duration::from_millis(1)).await;
    let mut fourth = dial(&network, a.addr()).await;
    assert!(closed(&mut fourth).await, "there is room for three");
    b.knows(&a);
    assert!(b.ask(&a, ECHO, "").await.is_err());
    // A byte now and then does not help.
    for byte in &Greeting::Hello(hello()).encode()[..5] {
        sleep(Duration::from_millis(500)).await;
        slow[0].write_all(&[*byte]).await.unwrap();
    }
    for mut io in slow {
        let mut rest = Vec::new();
        io.read_to_end(&mut rest).await.unwrap();
        assert_eq!(began.elapsed().as_secs(), 3);
    }
    until("room", || {
        b.connected() == [a.host] || {
            b.transport.post(a.addr(), Bytes::new());
            false
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_breaks_the_rules_loses_its_connection_and_nobody_else_does() {
    let network = MemoryNetwork::new();
    let (a, b) = two(&network).await;
    assert!(b.ask(&a, ECHO, "").await.is_ok());
    let chunk = &[0; 100][..];
    let part = |id| Frame::Request { id, total: 200, service: ECHO, millis: 1000, chunk };
    let breaches: Vec<Vec<Frame<'_>>> = vec![
        // More than announced.
        vec![
            part(1),
            Frame::CallPart { id: 1, chunk },
            Frame::Ping,
            part(2),
            Frame::CallPart { id: 2, chunk: &[0; 101] },
        ],
        // An ID twice.
        vec![part(1), part(1)],
        vec![
            Frame::Request { id: 1, total: 0, service: NEVER, millis: 1000, chunk: b"" },
            Frame::Request { id: 1, total: 0, service: NEVER, millis: 1000, chunk: b"" },
        ],
        // Too long a message, in parts.
        vec![Frame::Post { more: true, chunk: &[0; 32 << 10] }; 33],
        // Gone in the middle of one.
        vec![Frame::Post { more: true, chunk }, Frame::Retire],
    ];
    for frames in breaches {
        let mut io = greeted(&network, &a).await;
        let mut bytes = BytesMut::new();
        for frame in &frames {
            frame.encode(&mut bytes, true);
        }
        // It may be closed before all is written.
        let _ = io.write_all(&bytes).await;
        until("its end", || a.connected() == [b.host]).await;
    }
    for raw in [&[0xFF; 64][..], &[0; 8], b"\x01\0\0\0\0\0\0\0\x0a"] {
        let mut io = greeted(&network, &a).await;
        io.write_all(raw).await.unwrap();
        until("its end", || a.connected() == [b.host]).await;
    }
    assert!(a.ask(&b, ECHO, "").await.is_ok());
    assert_eq!(b.notes.events(), [Event::Up(a.host)]);
}

#[tokio::test(start_paused = true)]
async fn what_belongs_to_nothing_that_is_known_is_passed_over() {
    let network = MemoryNetwork::new();
    let a = Peer::on(&network, 1).await;
    let mut io = greeted(&network, &a).await;
    let mut bytes = BytesMut::new();
    let chunk = b"late";
    for frame in [
        Frame::CallPart { id: 9, chunk },
        Frame::ReplyPart { id: 9, chunk },
        Frame::Reply { id: 9, total: 4, status: Status::Done, chunk },
        Frame::Item { id: 9, total: 4, chunk },
        Frame::Cancel { id: 9 },
        Frame::Credit { id: 9, bytes: u32::MAX },
        Frame::Pong,
        Frame::Retired,
        Frame::Post { more: false, chunk },
    ] {
        frame.encode(&mut bytes, true);
    }
    io.write_all(&bytes).await.unwrap();
    until("the message behind them", || a.notes.posts() == ["late"]).await;
    assert_eq!(a.connected(), [HostId(66)]);
}

#[tokio::test(start_paused = true)]
async fn a_callee_that_sends_more_of_a_stream_than_it_may_loses_its_connection() {
    use futures_util::StreamExt;
    let network = MemoryNetwork::new();
    let a = Peer::on(&network, 1).await;
    let mut io = greeted(&network, &a).await;
    let mut chunks = a.transport.stream(HostId(66), COUNT, count(1, 1));
    let flood = async {
        let mut bytes = BytesMut::new();
        for _ in 0..40 {
            Frame::Item { id: 1, total: 32 << 10, chunk: &[0; 32 << 10] }.encode(&mut bytes, true);
        }
        sleep(Duration::from_millis(50)).await;
        let _ = io.write_all(&bytes).await;
        sleep(Duration::from_millis(50)).await;
        assert_eq!(a.connected(), []);
    };
    let (first, ()) = tokio::join!(chunks.next(), flood);
    assert!(matches!(first, Some(Ok(_))), "{first:?}");
    assert!(chunks.count().await <= 34, "no more than the window and a chunk was kept");
}
