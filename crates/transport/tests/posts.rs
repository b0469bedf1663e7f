//! Posts: in order, at most once, and told when they cannot arrive; connections that come, go and cross.
#![allow(clippy::unwrap_used)]

mod support;

use bytes::Bytes;
use skein_transport::memory::MemoryNetwork;
use skein_transport::{CallError, Unreachable};
use std::sync::atomic::Ordering;
use std::time::Duration;
use support::*;
use tokio::time::{Instant, sleep};

fn numbered(at: usize) -> Bytes {
    Bytes::from(at.to_string().into_bytes())
}

#[tokio::test(start_paused = true)]
async fn posts_arrive_in_order_whatever_their_sizes() {
    let network = MemoryNetwork::new();
    let (a, b) = (Peer::on(&network, 1).await, Peer::on(&network, 2).await);
    let posts: Vec<Bytes> = (0..100).map(|at| vec![at as u8; at * at * 10].into()).collect();
    for post in &posts {
        a.transport.post(b.addr(), post.clone());
    }
    until("all posts", || b.notes.posts().len() == posts.len()).await;
    assert!(b.notes.posts() == posts);
    // The answer goes to where the peer says it is, over the same connection.
    b.transport.post(a.addr(), Bytes::from("back"));
    until("the answer", || a.notes.posts() == ["back"]).await;
    assert_eq!(a.notes.unreachable(), []);
    assert_eq!((a.connected(), b.connected()), (vec![b.host], vec![a.host]));
}

#[tokio::test(start_paused = true)]
async fn posts_to_nobody_are_told_once_for_each_failure_and_not_from_within_the_call() {
    let network = MemoryNetwork::new();
    let a = Peer::on(&network, 1).await;
    for _ in 0..10 {
        a.transport.post(addr(9), Bytes::from("?"));
    }
    assert_eq!(a.notes.unreachable(), []);
    until("the failure", || !a.notes.unreachable().is_empty()).await;
    assert_eq!(a.notes.unreachable(), [(addr(9), Unreachable::Refused)]);
    // While waiting to try again, too.
    a.transport.post(addr(9), Bytes::from("?"));
    until("the failure", || a.notes.unreachable().len() == 2).await;
    network.silence(addr(8), true);
    a.transport.post(addr(8), Bytes::from("?"));
    until("the failure", || a.notes.unreachable().contains(&(addr(8), Unreachable::TimedOut))).await;
}

#[tokio::test(start_paused = true)]
async fn a_broken_connection_is_told_to_both_ends_and_the_next_post_opens_another() {
    let network = MemoryNetwork::new();
    let (a, b) = (Peer::on(&network, 1).await, Peer::on(&network, 2).await);
    a.transport.post(b.addr(), Bytes::from("one"));
    until("the post", || b.notes.posts().len() == 1).await;
    network.cut(b.addr());
    until("the loss", || !a.notes.unreachable().is_empty() && !b.notes.unreachable().is_empty()).await;
    assert_eq!(a.notes.unreachable(), [(b.addr(), Unreachable::Lost)]);
    assert_eq!(b.notes.unreachable(), [(a.addr(), Unreachable::Lost)]);
    until("the back-off's end", || {
        a.transport.post(b.addr(), Bytes::from("two"));
        b.notes.posts().contains(&Bytes::from("two"))
    })
    .await;
    let up = [Event::Up(b.host), Event::Down(b.host), Event::Up(b.host)];
    let events = a.notes.events();
    let seen: Vec<_> = events.iter().filter(|e| matches!(e, Event::Up(_) | Event::Down(_))).collect();
    assert_eq!(seen, up.iter().collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn silence_ends_a_connection_and_chatter_or_mere_life_does_not() {
    let network = MemoryNetwork::new();
    let (a, b) = (Peer::on(&network, 1).await, Peer::on(&network, 2).await);
    a.transport.post(b.addr(), Bytes::from("one"));
    until("the post", || b.notes.posts().len() == 1).await;
    sleep(Duration::from_secs(600)).await;
    assert_eq!(a.notes.unreachable(), [], "pings keep it");
    network.silence(b.addr(), true);
    let began = Instant::now();
    until("the loss", || !a.notes.unreachable().is_empty()).await;
    assert_eq!(a.notes.unreachable(), [(b.addr(), Unreachable::Lost)]);
    let waited = began.elapsed();
    assert!(Duration::from_secs(5) <= waited && waited <= Duration::from_secs(8), "{waited:?}");
    assert_eq!(a.connected(), []);
    // It heals by itself: a silent address takes connections again.
    network.silence(b.addr(), false);
    until("another connection", || {
        a.transport.post(b.addr(), Bytes::from("two"));
        b.notes.posts().contains(&Bytes::from("two"))
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn connections_that_cross_become_one_and_nothing_is_lost_or_changes_its_order() {
    for rounds in 0..20 {
        let network = MemoryNetwork::new();
        let (a, b) = (Peer::on(&network, 1).await, Peer::on(&network, 2).await);
        let posts: Vec<Bytes> = (0..200).map(numbered).collect();
        for (at, post) in posts.iter().enumerate() {
            a.transport.post(b.addr(), post.clone());
            b.transport.post(a.addr(), post.clone());
            if at % (rounds + 1) == 0 {
                tokio::task::yield_now().await;
            }
        }
        until("all posts", || a.notes.posts().len() == 200 && b.notes.posts().len() == 200).await;
        assert!(a.notes.posts() == posts && b.notes.posts() == posts, "round {rounds}");
        sleep(Duration::from_secs(10)).await;
        assert_eq!(a.notes.events().iter().filter(|e| !matches!(e, Event::Posted(..))).count(), 1, "only up");
        assert_eq!((a.connected(), b.connected()), (vec![b.host], vec![a.host]));
    }
}

#[tokio::test(start_paused = true)]
async fn calls_on_a_connection_that_is_given_up_for_another_are_answered() {
    let network = MemoryNetwork::new();
    // The lower ID connects first; then the higher one connects without knowing that it is the same peer.
    let mut hidden = options(&network, 1);
    hidden.share = Some(addr(101));
    let (a, b) = (Peer::start(hidden).await, Peer::on(&network, 2).await);
    a.knows(&b);
    let wait = late(Duration::from_secs(3));
    let (answer, posted) = tokio::join!(a.ask(&b, LATE, wait.clone()), async {
        sleep(Duration::from_millis(100)).await;
        a.transport.post(b.addr(), Bytes::from("before"));
        b.transport.post(addr(1), Bytes::from("there"));
        until("both connections", || a.notes.posts().len() == 1).await;
        a.transport.post(b.addr(), Bytes::from("after"));
        until("both posts", || b.notes.posts().len() == 2).await;
        b.notes.posts()
    });
    assert_eq!(answer, Ok(wait));
    assert_eq!(posted, ["before", "after"]);
    sleep(Duration::from_secs(10)).await;
    assert_eq!(a.ask(&b, ECHO, "on").await, Ok(Bytes::from("on")));
    assert_eq!(b.notes.events().iter().filter(|e| matches!(e, Event::Up(_) | Event::Down(_))).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_nobody_needs_is_closed_and_nobody_is_told_who_hung_up() {
    let network = MemoryNetwork::new();
    let (a, b) = (Peer::on(&network, 1).await, Peer::on(&network, 2).await);
    a.transport.post(b.addr(), Bytes::from("bye"));
    a.transport.hang_up(b.addr());
    until("the post", || b.notes.posts() == ["bye"]).await;
    sleep(Duration::from_secs(25)).await;
    assert_eq!(a.connected(), [b.host], "it lingers");
    sleep(Duration::from_secs(10)).await;
    assert_eq!((a.connected(), b.connected()), (vec![], vec![]));
    assert_eq!(a.notes.unreachable(), []);
    // The other end did not hang up.
    assert_eq!(b.notes.unreachable(), [(a.addr(), Unreachable::Lost)]);
    // Requests keep one open, hung up or not.
    a.knows(&b);
    for _ in 0..20 {
        assert!(a.ask(&b, ECHO, "").await.is_ok());
        sleep(Duration::from_secs(10)).await;
    }
    let downs = a.notes.events().iter().filter(|e| matches!(e, Event::Down(_))).count();
    assert_eq!(downs, 1, "the one from before");
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_too_long_is_not_sent_and_one_flood_does_not_fill_memory() {
    let network = MemoryNetwork::new();
    let mut narrow = options(&network, 1);
    narrow.limits.post_bytes_max = 2000;
    narrow.limits.posts_bytes_max = 20_000;
    let (a, b) = (Peer::start(narrow).await, Peer::on(&network, 2).await);
    a.transport.post(b.addr(), vec![0; 2001].into());
    until("the refusal", || a.notes.unreachable() == [(b.addr(), Unreachable::Refused)]).await;
    for at in 0..20 {
        a.transport.post(b.addr(), vec![at; 2000].into());
    }
    until("what there was room for", || b.notes.posts().len() == 10).await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(b.notes.posts().len(), 10);
    assert!(a.notes.unreachable().contains(&(b.addr(), Unreachable::TimedOut)));
}

#[tokio::test(start_paused = true)]
async fn the_last_handle_ends_everything() {
    let network = MemoryNetwork::new();
    let (a, b) = two(&network).await;
    assert!(a.ask(&b, ECHO, "").await.is_ok());
    drop(b.transport);
    until("the loss", || a.connected().is_empty()).await;
    let asked =
        a.transport.request(b.host, ECHO, Bytes::new(), Instant::now() + Duration::from_secs(9)).await;
    assert!(matches!(asked, Err(CallError::NotSent { .. })), "{asked:?}");
    assert_eq!(b.notes.requests.load(Ordering::SeqCst), 1);
    // The address is free for a successor.
    let again = Peer::on(&network, 2).await;
    until("the successor", || a.transport.address(again.host) == Some(again.addr())).await;
}
