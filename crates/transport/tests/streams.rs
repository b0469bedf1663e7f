//! Streams: whole, in order, no faster than they are read, and ended by either side.
#![allow(clippy::unwrap_used)]

mod support;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use skein_transport::CallError;
use skein_transport::memory::MemoryNetwork;
use std::sync::atomic::Ordering;
use std::time::Duration;
use support::*;
use tokio::time::sleep;

#[tokio::test(start_paused = true)]
async fn chunks_of_all_sizes_arrive_in_order() {
    let (a, b) = two(&MemoryNetwork::new()).await;
    for bytes in [0, 1, 4096, 4097, 100_000, 3 << 20] {
        let chunks: Vec<Bytes> =
            a.transport.stream(b.host, COUNT, count(50, bytes)).try_collect().await.unwrap();
        assert_eq!(chunks.len(), 50, "{bytes}");
        for (at, chunk) in chunks.iter().enumerate() {
            assert!(
                chunk.len() == bytes as usize && chunk.iter().all(|byte| *byte == at as u8),
                "{bytes}, {at}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_comes_behind_the_chunks_before_it_and_ends_the_stream() {
    let (a, b) = two(&MemoryNetwork::new()).await;
    for bytes in [10, 200_000] {
        let got: Vec<_> = a.transport.stream(b.host, FAILING, count(9, bytes)).collect().await;
        assert_eq!(got.len(), 3);
        assert!(got[0].is_ok() && got[1].is_ok());
        assert!(matches!(&got[2], Err(CallError::Failed(failure)) if failure.code == 9), "{:?}", got[2]);
    }
}

#[tokio::test(start_paused = true)]
async fn the_callee_runs_ahead_by_the_window_and_no_further() {
    let network = MemoryNetwork::new();
    let mut narrow = options(&network, 1);
    narrow.limits.stream_window_bytes = 10_000;
    let (a, b) = (Peer::start(narrow).await, Peer::on(&network, 2).await);
    a.knows(&b);
    let mut chunks = a.transport.stream(b.host, COUNT, count(1_000_000, 1000));
    assert_eq!(b.notes.produced.load(Ordering::SeqCst), 0, "nothing before it is polled");
    assert!(chunks.next().await.is_some());
    sleep(Duration::from_secs(60)).await;
    let ahead = b.notes.produced.load(Ordering::SeqCst);
    assert!((9..=11).contains(&ahead), "{ahead}");
    for _ in 0..100 {
        assert!(matches!(chunks.next().await, Some(Ok(_))));
    }
    sleep(Duration::from_secs(60)).await;
    let ahead = b.notes.produced.load(Ordering::SeqCst);
    assert!((101..=115).contains(&ahead), "{ahead}");
    // Others are not held up by it.
    assert!(a.ask(&b, ECHO, "").await.is_ok());
    drop(chunks);
    until("the stream's end", || b.notes.streams_dropped.load(Ordering::SeqCst) == 1).await;
    assert!(b.notes.produced.load(Ordering::SeqCst) <= 115);
}

#[tokio::test(start_paused = true)]
async fn a_stream_whose_connection_breaks_ends_with_an_error() {
    let network = MemoryNetwork::new();
    let (a, b) = two(&network).await;
    let mut chunks = a.transport.stream(b.host, COUNT, count(1_000_000, 100_000));
    assert!(matches!(chunks.next().await, Some(Ok(_))));
    network.cut(b.addr());
    let mut rest: Vec<_> = chunks.collect().await;
    assert!(matches!(rest.pop(), Some(Err(CallError::NoAnswer { .. }))));
    assert!(rest.iter().all(Result::is_ok));
    until("the stream's end", || b.notes.streams_dropped.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test(start_paused = true)]
async fn many_streams_and_requests_share_a_connection() {
    let (a, b) = two(&MemoryNetwork::new()).await;
    let streams = (0..20).map(|at| {
        let chunks = a.transport.stream(b.host, COUNT, count(30, 1000 * at));
        async move {
            let chunks: Vec<Bytes> = chunks.try_collect().await.unwrap();
            chunks.iter().map(Bytes::len).sum::<usize>()
        }
    });
    let (sums, answer) =
        tokio::join!(futures_util::future::join_all(streams), a.ask(&b, ECHO, vec![3; 1 << 20]));
    assert_eq!(sums, (0..20).map(|at| 30 * 1000 * at).collect::<Vec<_>>());
    assert_eq!(answer.map(|body| body.len()), Ok(1 << 20));
}

#[tokio::test(start_paused = true)]
async fn a_caller_with_endless_credit_that_reads_nothing_is_not_produced_for_without_end() {
    let network = MemoryNetwork::new();
    let mut wide = options(&network, 1);
    wide.limits.stream_window_bytes = 64 << 20;
    let (a, b) = (Peer::start(wide).await, Peer::on(&network, 2).await);
    a.knows(&b);
    let mut chunks = a.transport.stream(b.host, COUNT, count(100_000, 1000));
    assert!(chunks.next().await.is_some());
    network.silence(b.addr(), true);
    sleep(Duration::from_secs(3)).await;
    let ahead = b.notes.produced.load(Ordering::SeqCst);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(b.notes.produced.load(Ordering::SeqCst), ahead);
    assert!(ahead < 2000, "{ahead}");
}
