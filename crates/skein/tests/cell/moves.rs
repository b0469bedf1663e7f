//! Moves as an administrator sees them: planned, watched, aimed elsewhere midway, cancelled.

use crate::peers::{FIRST, Ground, Peer, SECOND, THIRD, settled, wait_for_atlas};
use crate::support::within;
use serde_json::Value;
use std::time::Duration;

const ROWS: u64 = 20_000;

/// A cell of one with rows in it, and two peers that have joined and hold nothing.
fn ground(ground: &Ground) -> [Peer; 3] {
    let first = ground.start(FIRST, None);
    first.put_atlas(&[&[FIRST]]);
    first.load(usize::try_from(ROWS).unwrap());
    let [second, third] = [SECOND, THIRD].map(|host| ground.start(host, Some(&first)));
    within(|| {
        let joined = |peer: &Value| peer["store"].is_string() && peer["health"] == "healthy";
        let status = first.status();
        let peers = status["peers"].as_array()?;
        (peers.len() == 3 && peers.iter().all(joined)).then_some(())
    });
    [first, second, third]
}

/// Every row is where any peer says it is.
fn check_rows(peer: &Peer) {
    let reply = within(|| Some(peer.get("/table/0x2")).filter(|reply| reply.status == 200));
    assert_eq!(reply.json().as_array().unwrap().len() as u64, ROWS);
}

/// Waits until the only cohort's move looks so, as its leader tells it.
fn wait_for_move(peer: &Peer, looks: impl Fn(&Value) -> bool) -> Value {
    within(|| {
        let progress = peer.status()["cohorts"][0]["moving"].clone();
        (!progress.is_null() && looks(&progress)).then_some(progress)
    })
}

#[test]
fn a_move_that_waits_for_a_dead_peer_says_so_and_can_be_cancelled() {
    let ground = Ground::new();
    let [first, second, third] = self::ground(&ground);
    third.server.kill();
    let hosts = [FIRST, SECOND, THIRD].join(",");
    let planned = first.command(&["atlas", "plan", "--hosts", &hosts]);
    assert!(planned.contains("2 copies, about") && planned.contains("leads after: "), "{planned}");
    let applied = first.command(&["atlas", "apply", "--hosts", &hosts, "--yes", "--detach"]);
    assert!(applied.contains("the atlas is taken"), "{applied}");

    // The second has its rows by and by; the third has none, and is what is waited for.
    let progress = wait_for_move(&second, |progress| {
        let rows = |name: &str| progress[name].as_u64().unwrap_or(0);
        0 < rows("rows") && rows("rowsTotal") == 2 * rows("rows")
    });
    assert!(ROWS <= progress["rows"].as_u64().unwrap(), "{progress}");
    assert!(0 < progress["bytesTotal"].as_u64().unwrap(), "{progress}");
    wait_for_move(&first, |progress| progress["waitsFor"].as_str().is_some_and(|why| why.contains(THIRD)));
    let said = second.command(&["status"]);
    assert!(said.contains("cohort 0 is moving: ") && said.contains(" rows"), "{said}");

    let said = second.command(&["atlas", "cancel"]);
    assert!(said.contains("cancelled: 1 cohort "), "{said}");
    wait_for_atlas(&[&first, &second], &settled(&[&[FIRST]]));
    assert!(first.command(&["atlas", "watch"]).contains("settled: 1 cohort"));
    assert!(first.command(&["atlas", "cancel"]).contains("nothing is moving"));
    check_rows(&second);
}

#[test]
fn a_move_can_be_aimed_elsewhere_at_any_moment() {
    let ground = Ground::new();
    let [first, second, third] = self::ground(&ground);
    // Wherever the copying is when the next atlas comes, the last one counts.
    let aims: [(&[&str], u64); 5] = [
        (&[FIRST, SECOND, THIRD], 400),
        (&[SECOND], 900),
        (&[FIRST], 0),
        (&[FIRST, SECOND, THIRD], 50),
        (&[THIRD], 0),
    ];
    for (hosts, pause) in aims {
        within(|| {
            let body = serde_json::json!([{ "hosts": hosts }]).to_string();
            let reply = second.ask("PUT", "/atlas", &[("content-type", "application/json")], &body);
            assert!(matches!(reply.status, 200 | 503 | 504), "{reply:?}");
            (reply.status == 200).then_some(())
        });
        std::thread::sleep(Duration::from_millis(pause));
    }
    wait_for_atlas(&[&first, &second, &third], &settled(&[&[THIRD]]));
    check_rows(&first);
    // Nobody else is needed any more.
    first.server.kill();
    second.server.kill();
    check_rows(&third);
}
