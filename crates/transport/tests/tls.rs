//! Mutual TLS, and loopback TCP with and without it.
#![allow(clippy::unwrap_used)]

mod support;

use bytes::Bytes;
use futures_util::TryStreamExt;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use skein_model::HostId;
use skein_transport::cert::{Pem, make_ca, make_peer};
use skein_transport::hello::{Greeting, Head, Hello};
use skein_transport::memory::MemoryNetwork;
use skein_transport::{CallError, Io, Network, Options, Reason, StartError, Tcp, Tls, Transport, host_name};
use std::net::SocketAddr;
use std::sync::Arc;
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

fn tls(ca: &Pem, trusted: &Pem, host: u64) -> Tls {
    let peer = make_peer(ca, HostId(host), &[]).unwrap();
    Tls::from_pem(&trusted.certificate, &peer.certificate, &peer.key).unwrap()
}

fn with(mut options: Options, tls: Tls) -> Options {
    options.tls = Some(tls);
    options
}

async fn refused(a: Options, b: Options) -> String {
    let (a, b) = (Peer::start(a).await, Peer::start(b).await);
    a.knows(&b);
    match a.ask(&b, ECHO, "").await {
        Err(CallError::NotSent { why, .. }) => {
            until("both ends", || a.connected().is_empty() && b.connected().is_empty()).await;
            why
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn peers_with_certificates_of_one_ca_talk() {
    let network = MemoryNetwork::new();
    let ca = make_ca().unwrap();
    let a = Peer::start(with(options(&network, 1), tls(&ca, &ca, 1))).await;
    let b = Peer::start(with(options(&network, 2), tls(&ca, &ca, 2))).await;
    a.knows(&b);
    let body = Bytes::from(vec![5; 3 << 20]);
    assert!(a.ask(&b, ECHO, body.clone()).await == Ok(body));
    b.transport.post(a.addr(), Bytes::from("back"));
    until("the post", || a.notes.posts() == ["back"]).await;
    let chunks: Vec<Bytes> =
        a.transport.stream(b.host, COUNT, count(20, 100_000)).try_collect().await.unwrap();
    assert_eq!(chunks.len(), 20);
}

#[tokio::test]
async fn certificates_of_another_ca_are_refused_by_either_end() {
    let network = MemoryNetwork::new();
    let (ours, theirs) = (make_ca().unwrap(), make_ca().unwrap());
    let (a, b) = (options(&network, 1), options(&network, 2));
    let why = refused(with(a, tls(&ours, &ours, 1)), with(b, tls(&theirs, &ours, 2))).await;
    assert!(why.contains("its certificate cannot be trusted"), "{why}");
    let (a, b) = (options(&network, 3), options(&network, 4));
    let why = refused(with(a, tls(&theirs, &ours, 3)), with(b, tls(&ours, &ours, 4))).await;
    assert!(why.contains("does not trust our certificate"), "{why}");
}

#[tokio::test]
async fn a_certificate_has_to_name_the_host_that_shows_it() {
    let network = MemoryNetwork::new();
    let ca = make_ca().unwrap();
    // One's own is looked at before anything starts.
    let notes = Arc::new(Notes::default());
    let wrong = with(options(&network, 1), tls(&ca, &ca, 9));
    let error = Transport::start(wrong, Arc::new(Recorder(notes))).await.err();
    assert!(matches!(error, Some(StartError::Tls(_))), "{error:?}");
    // Who does not look is found out by the others: this one says it is host 1, with the certificate of host 9.
    let b = Peer::start(with(options(&network, 2), tls(&ca, &ca, 2))).await;
    let liar = make_peer(&ca, HostId(9), &[]).unwrap();
    let mut io = connect_tls(&network, &ca, &liar, b.addr()).await;
    let hello = Hello {
        version_min: 1,
        version_max: 1,
        identity: identity(1),
        life: 1,
        expected: None,
        number: 1,
        share: addr(1),
        build: String::new(),
    };
    io.write_all(&Greeting::Hello(hello).encode()).await.unwrap();
    let mut answer = Vec::new();
    io.read_to_end(&mut answer).await.unwrap();
    let (head, body) = answer.split_first_chunk().unwrap();
    let Ok(Greeting::Refusal { reason, .. }) = Greeting::decode(Head::decode(head).unwrap(), body) else {
        panic!("a refusal")
    };
    assert_eq!(reason, Reason::CertificateHost);
    // Who shows none is not even greeted.
    let mut io =
        connect_tls(&network, &ca, &Pem { certificate: String::new(), key: String::new() }, b.addr()).await;
    assert!(io.read_to_end(&mut Vec::new()).await.is_err());
    assert_eq!(b.notes.events(), []);
}

/// Connects as a TLS client that is not Skein's; without a certificate if `own` has none.
async fn connect_tls(network: &MemoryNetwork, ca: &Pem, own: &Pem, to: SocketAddr) -> TlsStream<Box<dyn Io>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.certificate.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = if own.key.is_empty() {
        builder.with_no_client_auth()
    } else {
        let certificate = CertificateDer::from_pem_slice(own.certificate.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap();
        builder.with_client_auth_cert(vec![certificate], key).unwrap()
    };
    let name = ServerName::try_from(host_name(HostId(2))).unwrap();
    let io = network.connect(to).await.unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, io).await.unwrap()
}

#[tokio::test]
async fn with_and_without_tls_do_not_mix_and_the_words_say_so() {
    let network = MemoryNetwork::new();
    let ca = make_ca().unwrap();
    let why = refused(options(&network, 1), with(options(&network, 2), tls(&ca, &ca, 2))).await;
    assert!(why.contains("this peer takes nothing else"), "{why}");
    let why = refused(with(options(&network, 3), tls(&ca, &ca, 3)), options(&network, 4)).await;
    assert!(why.contains("does not speak TLS"), "{why}");
}

/// Over the machine's own network.
async fn over_tcp(ca: Option<&Pem>) {
    let start = |host| {
        let mut options = options(&MemoryNetwork::new(), host);
        options.network = Arc::new(Tcp);
        options.listen = addr(0);
        options.tls = ca.map(|ca| tls(ca, ca, host));
        Peer::start(options)
    };
    let (a, b) = (start(1).await, start(2).await);
    a.knows(&b);
    let asked = (0..200).map(|at| {
        let body = Bytes::from(vec![at as u8; at * at * 5]);
        let asked = a.ask(&b, ECHO, body.clone());
        async move { assert!(asked.await == Ok(body), "{at}") }
    });
    futures_util::future::join_all(asked).await;
    for at in 0..100u8 {
        a.transport.post(b.addr(), vec![at; 5000].into());
    }
    until("all posts", || b.notes.posts().len() == 100).await;
    let chunks: Vec<Bytes> =
        b.transport.stream(a.host, COUNT, count(50, 300_000)).try_collect().await.unwrap();
    assert_eq!(chunks.len(), 50);
    let nobody = a.transport.request(HostId(9), ECHO, Bytes::new(), tokio::time::Instant::now());
    assert!(matches!(nobody.await, Err(CallError::NotSent { .. })));
    drop(b.transport);
    until("the end", || a.connected().is_empty()).await;
    a.transport.close(std::time::Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_all_works_over_tcp() {
    over_tcp(None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_all_works_over_tcp_with_tls() {
    over_tcp(Some(&make_ca().unwrap())).await;
}
