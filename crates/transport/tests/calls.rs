//! Requests: answers, failures, deadlines, cancelling, and what is known when there is no answer.
#![allow(clippy::unwrap_used)]

mod support;

use bytes::Bytes;
use skein_transport::memory::MemoryNetwork;
use skein_transport::{CallError, HANDLER_BROKE, Unreachable};
use std::sync::atomic::Ordering;
use std::time::Duration;
use support::*;
use tokio::time::{Instant, sleep, timeout};

fn soon() -> Instant {
    Instant::now() + Duration::from_millis(500)
}

#[tokio::test(start_paused = true)]
async fn a_request_is_answered_over_a_connection_opened_for_it() {
    let (a, b) = two(&MemoryNetwork::new()).await;
    assert_eq!(a.ask(&b, ECHO, "hello").await, Ok(Bytes::from("hello")));
    assert_eq!(a.connected(), [b.host]);
    // And back over the same.
    assert_eq!(b.ask(&a, ECHO, "").await, Ok(Bytes::new()));
    assert_eq!(a.notes.events(), [Event::Up(b.host)]);
    assert_eq!(b.notes.events(), [Event::Up(a.host)]);
    let info = &b.transport.connected()[0];
    assert_eq!((info.identity, info.addr, info.version), (identity(1), a.addr(), 1));
}

#[tokio::test(start_paused = true)]
async fn bodies_of_all_sizes_arrive_whole_and_side_by_side() {
    let (a, b) = two(&MemoryNetwork::new()).await;
    let sizes = [0, 1, 4096, 4097, 32_767, 32_768, 32_769, 65_536, 1 << 20, (16 << 20) + 1];
    let asked = sizes.map(|size| {
        let body: Bytes = (0..size).map(|at: usize| (at % 251) as u8).collect::<Vec<_>>().into();
        let asked = a.ask(&b, ECHO, body.clone());
        async move { assert!(asked.await == Ok(body), "{size} bytes") }
    });
    futures_util::future::join_all(asked).await;
}

#[tokio::test(start_paused = true)]
async fn failures_and_broken_handlers_are_told() {
    let (a, b) = two(&MemoryNetwork::new()).await;
    let Err(CallError::Failed(failure)) = a.ask(&b, FAIL, "why").await else { panic!("a failure") };
    assert_eq!((failure.code, failure.text.as_str(), &failure.detail[..]), (7, "as asked for", &b"why"[..]));
    let Err(CallError::Failed(failure)) = a.ask(&b, BREAK, "").await else { panic!("a failure") };
    assert_eq!(failure.code, HANDLER_BROKE);
    assert_eq!(a.ask(&b, ECHO, "still there").await, Ok(Bytes::from("still there")));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_passes_cancels_the_handler_and_the_outcome_is_unknown() {
    let (a, b) = two(&MemoryNetwork::new()).await;
    let asked = Instant::now();
    let result = a.transport.request(b.host, NEVER, Bytes::new(), soon()).await;
    assert!(matches!(result, Err(CallError::NoAnswer { .. })), "{result:?}");
    assert_eq!(asked.elapsed(), Duration::from_millis(500));
    until("the handler's end", || b.notes.cancelled.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test(start_paused = true)]
async fn dropping_a_request_cancels_the_handler() {
    let (a, b) = two(&MemoryNetwork::new()).await;
    let asked = timeout(Duration::from_millis(100), a.ask(&b, NEVER, ""));
    assert!(asked.await.is_err());
    until("the handler's end", || b.notes.cancelled.load(Ordering::SeqCst) == 1).await;
    assert_eq!(a.ask(&b, ECHO, "next").await, Ok(Bytes::from("next")));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_sent_is_told_apart_from_what_may_have_arrived() {
    let network = MemoryNetwork::new();
    let (a, b) = two(&network).await;
    let nobody = a.transport.request(skein_model::HostId(9), ECHO, Bytes::new(), soon()).await;
    assert!(
        matches!(&nobody, Err(CallError::NotSent { why, .. }) if why.contains("nobody has said")),
        "{nobody:?}"
    );
    a.transport.learn(skein_model::HostId(9), addr(9));
    let refused = a.transport.request(skein_model::HostId(9), ECHO, Bytes::new(), soon()).await;
    assert!(
        matches!(&refused, Err(CallError::NotSent { why, .. }) if why.contains("refused")),
        "{refused:?}"
    );
    network.silence(b.addr(), true);
    let silent = a.transport.request(b.host, ECHO, Bytes::new(), soon()).await;
    assert!(matches!(&silent, Err(CallError::NotSent { why, .. }) if why.contains("in time")), "{silent:?}");
    network.silence(b.addr(), false);
    assert!(a.ask(&b, ECHO, "").await.is_ok());
    let cut = async {
        sleep(Duration::from_millis(100)).await;
        network.cut(b.addr());
    };
    let (lost, ()) = tokio::join!(a.ask(&b, NEVER, ""), cut);
    assert!(matches!(&lost, Err(CallError::NoAnswer { .. })), "{lost:?}");
    until("the handler's end", || b.notes.cancelled.load(Ordering::SeqCst) == 1).await;
    let itself = a.ask(&a, ECHO, "").await;
    assert!(matches!(&itself, Err(CallError::NotSent { .. })), "{itself:?}");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_was_not_all_sent_was_not_sent() {
    let network = MemoryNetwork::new();
    let (a, b) = two(&network).await;
    assert!(a.ask(&b, ECHO, "").await.is_ok());
    network.silence(b.addr(), true);
    // More than the pipe and one batch hold: the rest never leaves.
    let large = a.transport.request(b.host, ECHO, vec![0; 8 << 20].into(), soon());
    let small = a.transport.request(b.host, ECHO, Bytes::from("small"), soon());
    let (large, small) = tokio::join!(large, small);
    assert!(matches!(&large, Err(CallError::NotSent { .. })), "{large:?}");
    assert!(matches!(&small, Err(CallError::NoAnswer { .. })), "{small:?}");
    network.silence(b.addr(), false);
    assert!(a.ask(&b, ECHO, "after it").await.is_ok());
    assert_eq!(b.notes.requests.load(Ordering::SeqCst), 3, "the large one was never handed over");
}

#[tokio::test(start_paused = true)]
async fn small_requests_pass_large_ones() {
    let (a, b) = two(&MemoryNetwork::new()).await;
    assert!(a.ask(&b, ECHO, "").await.is_ok());
    let large = a.ask(&b, ECHO, vec![1; 32 << 20]);
    let mut large = std::pin::pin!(large);
    // Polled once, so that it waits in the line before the small ones come.
    assert!(timeout(Duration::ZERO, &mut large).await.is_err());
    for _ in 0..5 {
        tokio::select! {
            biased;
            _ = &mut large => panic!("the large one was faster"),
            answer = a.ask(&b, ECHO, "beat") => assert_eq!(answer, Ok(Bytes::from("beat"))),
        }
    }
    assert_eq!(large.await.map(|body| body.len()), Ok(32 << 20));
}

#[tokio::test(start_paused = true)]
async fn no_more_calls_are_under_way_than_allowed_and_the_next_waits_for_its_turn() {
    let network = MemoryNetwork::new();
    let mut few = options(&network, 1);
    few.limits.calls_max = 2;
    let (a, b) = (Peer::start(few).await, Peer::on(&network, 2).await);
    a.knows(&b);
    let wait = late(Duration::from_millis(300));
    let began = Instant::now();
    let (x, y, z, never) = tokio::join!(
        a.ask(&b, LATE, wait.clone()),
        a.ask(&b, LATE, wait.clone()),
        a.ask(&b, LATE, wait.clone()),
        a.transport.request(b.host, ECHO, Bytes::new(), began + Duration::from_millis(100)),
    );
    assert!(x.is_ok() && y.is_ok() && z.is_ok());
    assert!(matches!(&never, Err(CallError::NotSent { why, .. }) if why.contains("under way")), "{never:?}");
    assert!(Duration::from_millis(600) <= began.elapsed());
    assert_eq!(b.notes.requests.load(Ordering::SeqCst), 3);
}

#[tokio::test(start_paused = true)]
async fn requests_beyond_what_the_callee_holds_are_not_taken_and_that_is_known() {
    let network = MemoryNetwork::new();
    let mut narrow = options(&network, 2);
    narrow.limits.body_bytes_max = 64 << 10;
    narrow.limits.inbound_bytes_max = 100 << 10;
    let (a, b) = (Peer::on(&network, 1).await, Peer::start(narrow).await);
    a.knows(&b);
    let too_long = a.ask(&b, ECHO, vec![0; (64 << 10) + 1]).await;
    assert!(
        matches!(&too_long, Err(CallError::NotSent { why, .. }) if why.contains("65536")),
        "{too_long:?}"
    );
    let held = a.transport.request(b.host, NEVER, vec![0; 60 << 10].into(), soon());
    let (held, too_much) = tokio::join!(held, async {
        sleep(Duration::from_millis(100)).await;
        a.ask(&b, ECHO, vec![0; 60 << 10]).await
    });
    assert!(matches!(held, Err(CallError::NoAnswer { .. })));
    assert!(matches!(&too_much, Err(CallError::NotSent { why, .. }) if why.contains("hold")), "{too_much:?}");
    // What was held is free again.
    until("room", || b.notes.cancelled.load(Ordering::SeqCst) == 1).await;
    assert!(a.ask(&b, ECHO, vec![0; 60 << 10]).await.is_ok());
    assert_eq!(b.notes.requests.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn failing_to_connect_is_answered_at_once_while_waiting_to_try_again_and_heals() {
    let network = MemoryNetwork::new();
    let a = Peer::on(&network, 1).await;
    a.transport.learn(skein_model::HostId(2), addr(2));
    let ask = || a.transport.request(skein_model::HostId(2), ECHO, Bytes::new(), soon());
    for _ in 0..200 {
        assert!(matches!(ask().await, Err(CallError::NotSent { .. })));
        sleep(Duration::from_millis(50)).await;
    }
    let b = Peer::on(&network, 2).await;
    let healed = Instant::now();
    while ask().await.is_err() {
        sleep(Duration::from_millis(50)).await;
    }
    assert!(healed.elapsed() <= Duration::from_millis(5050), "{:?}", healed.elapsed());
    assert!(a.notes.unreachable().is_empty(), "nothing was posted");
    // A new address is tried at once, however often the old one failed.
    b.transport.close(Duration::ZERO).await;
    for _ in 0..100 {
        assert!(ask().await.is_err());
        sleep(Duration::from_millis(50)).await;
    }
    let mut moved = options(&network, 2);
    moved.listen = addr(22);
    let b = Peer::start(moved).await;
    a.knows(&b);
    assert_eq!(ask().await, Ok(Bytes::new()));
    assert_ne!(a.notes.unreachable().first().map(|told| told.1), Some(Unreachable::Refused));
}

#[tokio::test(start_paused = true)]
async fn closing_lets_what_is_under_way_finish_and_refuses_the_rest() {
    let (a, b) = two(&MemoryNetwork::new()).await;
    let asked = a.ask(&b, LATE, late(Duration::from_millis(400)));
    let closed = async {
        sleep(Duration::from_millis(100)).await;
        let began = Instant::now();
        b.transport.close(Duration::from_secs(5)).await;
        assert!(began.elapsed() < Duration::from_secs(1), "it waits no longer than it must");
    };
    let refused = async {
        sleep(Duration::from_millis(200)).await;
        a.ask(&b, ECHO, "").await
    };
    let (answered, (), refused) = tokio::join!(asked, closed, refused);
    assert!(answered.is_ok(), "{answered:?}");
    assert!(matches!(refused, Err(CallError::NotSent { .. })), "{refused:?}");
    assert!(matches!(b.ask(&a, ECHO, "").await, Err(CallError::NotSent { .. })));
    assert_eq!(b.connected(), []);
}

#[tokio::test(start_paused = true)]
async fn closing_cuts_short_what_outlasts_its_grace() {
    let (a, b) = two(&MemoryNetwork::new()).await;
    let closed = async {
        sleep(Duration::from_millis(100)).await;
        b.transport.close(Duration::from_millis(300)).await;
    };
    let (lost, ()) = tokio::join!(a.ask(&b, NEVER, ""), closed);
    assert!(matches!(lost, Err(CallError::NoAnswer { .. })), "{lost:?}");
    until("the handler's end", || b.notes.cancelled.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_request_without_time_is_not_sent() {
    let (a, b) = two(&MemoryNetwork::new()).await;
    assert!(a.ask(&b, ECHO, "").await.is_ok());
    let asked = a.transport.request(b.host, ECHO, Bytes::new(), Instant::now()).await;
    assert!(matches!(asked, Err(CallError::NotSent { .. })), "{asked:?}");
    sleep(Duration::from_secs(1)).await;
    assert_eq!(b.notes.requests.load(Ordering::SeqCst), 1);
}

/// Owns the transport that it answers for.
struct Owner(std::sync::Mutex<Option<skein_transport::Transport>>, Recorder);

impl skein_transport::Handler for Owner {
    fn admit(&self, peer: &skein_transport::PeerInfo) -> Result<(), String> {
        self.1.admit(peer)
    }
    fn up(&self, peer: &skein_transport::PeerInfo) {
        self.1.up(peer);
    }
    fn down(&self, peer: &skein_transport::PeerInfo) {
        self.1.down(peer);
    }
    fn posted(&self, from: &skein_transport::PeerInfo, bytes: Bytes) {
        assert_ne!(bytes, "break", "as asked for");
        self.1.posted(from, bytes);
    }
    fn unreachable(&self, addr: std::net::SocketAddr, why: Unreachable) {
        self.1.unreachable(addr, why);
    }
    fn request(
        &self,
        from: skein_transport::PeerInfo,
        service: u8,
        body: Bytes,
        deadline: Instant,
    ) -> futures_util::future::BoxFuture<'static, Result<Bytes, skein_transport::Failure>> {
        self.1.request(from, service, body, deadline)
    }
    fn stream(
        &self,
        from: skein_transport::PeerInfo,
        service: u8,
        body: Bytes,
    ) -> skein_transport::Chunks<skein_transport::Failure> {
        self.1.stream(from, service, body)
    }
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_holds_its_transport_is_let_go_by_closing_and_may_panic() {
    let network = MemoryNetwork::new();
    let notes = std::sync::Arc::new(Notes::default());
    let owner = std::sync::Arc::new(Owner(None.into(), Recorder(notes.clone())));
    let transport = skein_transport::Transport::start(options(&network, 1), owner.clone()).await.unwrap();
    *owner.0.lock().unwrap() = Some(transport.clone());
    let gone = std::sync::Arc::downgrade(&owner);
    drop(owner);
    let b = Peer::on(&network, 2).await;
    b.transport.post(transport.local_addr(), Bytes::from("break"));
    until("the loss", || b.notes.unreachable() == [(addr(1), Unreachable::Lost)]).await;
    assert!(transport.connected().is_empty());
    b.transport.learn(skein_model::HostId(1), transport.local_addr());
    until("another connection", || {
        notes.events().len() == 3 || {
            b.transport.post(addr(1), Bytes::new());
            false
        }
    })
    .await;
    // What is left of it then is held by the owner alone.
    let closing = transport.clone();
    drop(transport);
    closing.close(Duration::ZERO).await;
    drop(closing);
    until("the owner's end", || gone.upgrade().is_none()).await;
}
