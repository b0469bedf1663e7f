//! Where peers tell each other to connect, when nobody said it.

use crate::peers::{FIRST, Ground, SECOND};
use crate::support::within;

#[test]
fn a_peer_on_all_addresses_tells_the_one_from_which_it_reaches_those_it_hails() {
    let ground = Ground::new();
    let first = ground.start_with(FIRST, None, &["--peer-addr", ":0"]);
    let told = first.server.peer.parse::<std::net::SocketAddr>().unwrap();
    assert!(!told.ip().is_unspecified() && told.port() != 0, "{told}");
    within(|| first.server.complaints().contains("--share-peer-addr").then_some(()));

    let port = told.port();
    let hail = format!("{FIRST}=127.0.0.1:{port}");
    let second = ground.start_with(SECOND, None, &["--peer-addr", ":0", "--hail", &hail]);
    let told = second.server.peer.parse::<std::net::SocketAddr>().unwrap();
    assert!(told.ip().is_loopback(), "{told}");
    // What it says is read by another thread.
    within(|| {
        let said = second.server.complaints();
        (said.contains("on this machine") && said.contains("--share-peer-addr")).then_some(())
    });
    within(|| {
        let status = first.status();
        let known = status["peers"].as_array()?.iter().find(|peer| peer["host"] == SECOND)?.clone();
        (known["connected"] == true && known["peerAddr"] == second.server.peer.as_str()).then_some(())
    });
}

#[test]
fn an_address_given_is_told_as_it_is() {
    let ground = Ground::new();
    let first = ground.start_with(FIRST, None, &["--peer-addr", ":0", "--share-peer-addr", "192.0.2.9:6278"]);
    assert_eq!(first.server.peer, "192.0.2.9:6278");
}
