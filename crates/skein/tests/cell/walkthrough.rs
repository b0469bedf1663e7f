//! The users' page on managing peers, command for command: a first server alone, a second and a third that hail it, the
//! atlas through its states, and two cohorts in a fresh cell.

use crate::peers::{FIRST, Ground, Peer, SECOND, THIRD, settled, wait_for_atlas};
use crate::support::within;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const ROW: &str = "/table/0x1?key=apple";

#[test]
fn from_one_server_to_three() {
    let ground = Ground::new();
    // Just starting out: a server without --solo belongs to nothing.
    let first = ground.start_with(FIRST, None, &["--request-timeout", "200ms"]);
    let row = first.get("/table/0x1?key=123");
    assert_eq!((row.status, row.json()["type"].as_str()), (504, Some("urn:skein:problem:no-atlas")));

    // The rest of the story with more patience, as on a busy machine it may need.
    first.server.stop();
    let first = ground.start(FIRST, None);

    // The cohorts getter and setter.
    let atlas = first.get("/atlas");
    assert_eq!((atlas.text(), atlas.said("content-type")), (r#"[{"state":"empty"}]"#, "application/json"));
    first.put_atlas(&[&[FIRST]]);
    assert_eq!(first.get("/table/0x1?key=123").status, 404);

    // The hail method: the second server learns of the atlas from the first.
    let second = ground.start(SECOND, Some(&first));
    wait_for_atlas(&[&second], &settled(&[&[FIRST]]));
    assert_eq!(second.get("/atlas").text(), format!(r#"[{{"state":"settled","hosts":["{FIRST}"]}}]"#));

    // All servers are equally functional: written on one, read on the other.
    let written = second.put(ROW, r#"{"v":"antelope"}"#);
    let read = first.get(ROW);
    assert_eq!((read.status, read.text()), (200, r#"{"v":"antelope"}"#));
    assert_eq!(read.said("etag"), written.said("etag"));
    // Enough rows that they take a moment to copy.
    first.load(100_000);

    // Settled, issuing and moving.
    let third = ground.start(THIRD, Some(&first));
    wait_for_atlas(&[&third], &settled(&[&[FIRST]]));
    let all = [FIRST, SECOND, THIRD];
    first.put_atlas(&[&all]);
    let mut target = all;
    target.sort_unstable();
    let step = |state: &str| json!([{ "state": state, "origin": [FIRST], "target": target }]);
    assert_eq!(states(&first), [step("issuing"), step("moving"), settled(&[&all])]);
    wait_for_atlas(&[&second, &third], &settled(&[&all]));
    for peer in [&first, &second, &third] {
        assert_eq!(peer.get(ROW).text(), r#"{"v":"antelope"}"#);
    }

    // What the three servers are for: any one of them may fail.
    first.server.kill();
    let again = second.put(ROW, r#"{"v":"aardvark"}"#);
    let read = third.get(ROW);
    assert_eq!((read.text(), read.said("etag")), (r#"{"v":"aardvark"}"#, again.said("etag")));
}

/// The atlases that a peer shows one after the other until one is settled.
fn states(peer: &Peer) -> Vec<Value> {
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut seen: Vec<Value> = Vec::new();
    while Instant::now() < deadline {
        let atlas = peer.atlas();
        if seen.last() != Some(&atlas) {
            seen.push(atlas.clone());
        }
        if atlas[0]["state"] == "settled" {
            return seen;
        }
    }
    panic!("the move did not end: {seen:?}");
}

#[test]
fn two_cohorts_are_scanned_in_parallel() {
    let ground = Ground::new();
    let first = ground.start(FIRST, None);
    let second = ground.start(SECOND, Some(&first));
    within(|| {
        let peers = first.status()["peers"].as_array().unwrap().len();
        (peers == 2).then_some(())
    });
    first.put_atlas(&[&[FIRST], &[SECOND]]);
    wait_for_atlas(&[&first, &second], &settled(&[&[FIRST], &[SECOND]]));

    second.put(ROW, r#"{"v":"antelope"}"#);
    for (key, value) in [
        ("banana", "baboon"),
        ("grape", "giraffe"),
        ("kiwi", "kangaroo"),
        ("orange", "orangutan"),
        ("kiwi", "kangaroo"),
        ("orange", "orangatan"),
    ] {
        first.put(&format!("/table/0x1?key={key}"), &format!(r#"{{"v":"{value}"}}"#));
    }
    let whole = [
        ("apple", "antelope"),
        ("banana", "baboon"),
        ("grape", "giraffe"),
        ("kiwi", "kangaroo"),
        ("orange", "orangatan"),
    ];
    assert_eq!(rows(&first, "/table/0x1"), named(&whole));
    assert_eq!(rows(&second, "/table/0x1"), named(&whole));

    let hosts = |slice: u32| first.get(&format!("/hosts?slice={slice}&nslices=2")).json();
    let at = |peer: &Peer| json!([{ "weight": 1, "addr": peer.server.http, "sslAddr": null }]);
    within(|| (hosts(1) == at(&second)).then_some(()));
    assert_eq!(hosts(0), at(&first));

    // Each slice from the peer that has it; what they give together is the table.
    assert_eq!(
        rows(&first, "/table/0x1?slice=0&nslices=2"),
        named(&[("banana", "baboon"), ("grape", "giraffe"), ("kiwi", "kangaroo")])
    );
    assert_eq!(
        rows(&second, "/table/0x1?slice=1&nslices=2"),
        named(&[("apple", "antelope"), ("orange", "orangatan")])
    );
    // Any other peer gives the same.
    assert_eq!(
        rows(&first, "/table/0x1?slice=1&nslices=2"),
        named(&[("apple", "antelope"), ("orange", "orangatan")])
    );

    // A batch stays within one cohort in this release, and says so.
    let batch = json!([
        {"table": "0x1", "key": "banana", "op": "update", "value": 1},
        {"table": "0x1", "key": "apple", "op": "update", "value": 1}]);
    let refused = first.ask("POST", "/batch-write", &[], &batch.to_string());
    assert_eq!(refused.status, 501, "{refused:?}");
    assert_eq!(refused.json()["type"], "urn:skein:problem:many-cohorts");
    assert_eq!(rows(&first, "/table/0x1"), named(&whole));
}

/// Keys and values of a scan, in its order.
fn rows(peer: &Peer, target: &str) -> Vec<(String, Value)> {
    let reply = peer.get(target);
    assert_eq!(reply.status, 200, "{reply:?}");
    let rows = reply.json();
    let row = |row: &Value| (row["key"].as_str().unwrap().to_owned(), row["value"].clone());
    rows.as_array().unwrap().iter().map(row).collect()
}

fn named(rows: &[(&str, &str)]) -> Vec<(String, Value)> {
    rows.iter().map(|(key, value)| ((*key).to_owned(), json!({ "v": value }))).collect()
}
