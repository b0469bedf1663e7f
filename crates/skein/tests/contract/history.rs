//! How far back one can read, and what one is told beyond that.

use crate::support::shared::{problem, problem_saying, written};
use crate::support::wire::{Reply, ask};
use crate::support::{Server, within};
use std::time::{SystemTime, UNIX_EPOCH};

const DAY: u64 = 86_400_000_000;

/// Midnight of yesterday, UTC, in microseconds.
fn yesterday() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as u64;
    (now / DAY - 1) * DAY
}

/// Whether the day is about to end, or began so lately that what is forgotten then may not be forgotten yet.
fn midnight_is_near() -> bool {
    const MOMENT: u64 = 10_000_000;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as u64;
    (now + MOMENT) % DAY < 2 * MOMENT
}

#[test]
fn history_reaches_back_to_midnight_of_yesterday() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::solo(dir.path());
    let ask = |target: &str, headers: &[(&str, &str)]| ask(&server.http, "GET", target, headers, b"");
    let before = yesterday();
    // The first look after retention follows the start at once, but follows it. And at midnight there is another.
    let refused: Reply = within(|| {
        let reply = ask("/table/0x1?key=a", &[("Read-TxClock", "1")]);
        (reply.status == 410 && !midnight_is_near()).then_some(reply)
    });
    let gone = problem(&refused, 410, "history-gone");
    let oldest = gone["oldest"].as_u64().unwrap();
    assert!((before..=yesterday()).contains(&oldest), "{oldest}");
    assert!(gone["detail"].as_str().unwrap().contains(&oldest.to_string()));
    assert!(refused.header("server-txclock").is_some());

    let at = |time: u64| ask("/table/0x1?key=a", &[("Read-TxClock", &time.to_string())]).status;
    assert_eq!((at(oldest), at(oldest - 1)), (404, 410));
    for target in
        [format!("/table/0x1?until={}", oldest - 1), format!("/table/0x1?until={}&limit=5", oldest - 1)]
    {
        assert_eq!(problem(&ask(&target, &[]), 410, "history-gone")["oldest"], oldest);
    }
    let scan = ask("/table/0x1", &[("Read-TxClock", &(oldest - 1).to_string())]);
    problem(&scan, 410, "history-gone");
    assert_eq!(ask(&format!("/table/0x1?until={oldest}"), &[]).text(), "[]");
}

#[test]
fn a_table_forgets_what_its_own_retention_no_longer_covers() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::solo(dir.path());
    let schema = b"table short { id : 0x10; retain : 1s; }; table long { id : 0x11; retain : 4w; };";
    assert_eq!(ask(&server.admin, "PUT", "/admin/schema", &[], schema).status, 200);
    let put = |target: &str, body: &[u8]| written(&ask(&server.http, "PUT", target, &[], body));
    let first = put("/short/a", b"1");
    let second = put("/short/a", b"2");
    let other = put("/long/a", b"1");
    let at = |target: &str, time: u64| {
        ask(&server.http, "GET", target, &[("Read-TxClock", &time.to_string())], b"")
    };
    let refused = within(|| {
        let reply = at("/short/a", second);
        match reply.status {
            200 => {
                assert_eq!((reply.text(), reply.number("value-txclock")), ("2", second));
                None
            }
            _ => Some(reply),
        }
    });
    let oldest = problem_saying(&refused, 410, "history-gone", "oldest")["oldest"].as_u64().unwrap();
    assert!(second < oldest, "{oldest}");
    problem(&at("/short/a", first), 410, "history-gone");
    problem(&ask(&server.http, "GET", &format!("/short?until={first}"), &[], b""), 410, "history-gone");
    // The newest version stays, however old it is, and so does the other table's history.
    let now = ask(&server.http, "GET", "/short/a", &[], b"");
    assert_eq!((now.text(), now.number("value-txclock")), ("2", second));
    assert_eq!(ask(&server.http, "GET", "/short", &[], b"").json()[0]["time"], second);
    assert_eq!(at("/long/a", other).text(), "1");
    // It is not taken back by a longer retention: what is forgotten is forgotten.
    let longer = b"table short { id : 0x10; retain : forever; };";
    assert_eq!(ask(&server.admin, "PUT", "/admin/schema", &[], longer).status, 200);
    problem(&at("/short/a", first), 410, "history-gone");
}

#[test]
fn a_page_whose_snapshot_is_no_longer_kept_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::solo(dir.path());
    let schema = b"table short { id : 0x10; retain : 1s; };";
    assert_eq!(ask(&server.admin, "PUT", "/admin/schema", &[], schema).status, 200);
    for key in ["a", "b", "c"] {
        written(&ask(&server.http, "PUT", &format!("/short/{key}"), &[], b"1"));
    }
    let page = ask(&server.http, "GET", "/short?limit=1", &[], b"");
    let target = page.said("link").split_once("/short").unwrap().1.split_once('>').unwrap().0.to_owned();
    let refused = within(|| {
        let reply = ask(&server.http, "GET", &format!("/short{target}"), &[], b"");
        (reply.status != 200).then_some(reply)
    });
    problem(&refused, 410, "history-gone");
}
