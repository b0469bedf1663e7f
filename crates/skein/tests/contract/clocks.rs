//! Times: how they are spelled, how far ahead they may lie, and what a read at a time promises.

use crate::support::Server;
use crate::support::shared::{Table, problem, problem_saying, solo, written};
use crate::support::wire;
use std::time::{SystemTime, UNIX_EPOCH};

const FIVE_MINUTES: u64 = 300_000_000;

#[test]
fn a_time_may_be_decimal_hexadecimal_or_octal() {
    let table = Table::new();
    let time = table.put("a", "1");
    for (i, text) in [
        format!("{time}"),
        format!("0x{time:x}"),
        format!("0X{time:X}"),
        format!("#{time:x}"),
        format!("0{time:o}"),
        format!("+{time}"),
    ]
    .iter()
    .enumerate()
    {
        let read = table.ask("GET", "a", &[("Read-TxClock", text)], "");
        assert_eq!((read.status, read.number("read-txclock")), (200, time), "{text}");
        assert_eq!(table.ask("GET", "a", &[("Condition-TxClock", text)], "").status, 304, "{text}");
        assert_eq!(
            table.ask("PUT", &format!("b{i}"), &[("Condition-TxClock", text)], "1").status,
            200,
            "{text}"
        );
        let scanned = table.scan(&format!("until={}", text.replace('#', "%23")));
        assert_eq!(scanned.number("read-txclock"), time, "{text}");
    }
    let zero = table.ask("GET", "a", &[("Read-TxClock", "0")], "");
    assert!(matches!(zero.status, 404 | 410), "{zero:?}");
}

#[test]
fn a_time_that_is_none_is_refused_and_quoted() {
    let table = Table::new();
    for bad in [
        "abc",
        "",
        "-1",
        "0x",
        "09",
        "1.5",
        "1e3",
        "18446744073709551616",
        "0x10000000000000000",
        "1 2",
        "++1",
    ] {
        for name in ["Read-TxClock", "Condition-TxClock"] {
            for method in ["GET", "PUT", "POST", "DELETE"] {
                let reply = table.ask(method, "a", &[(name, bad)], "1");
                problem_saying(&reply, 400, "bad-request", &format!("Bad time for {name}: {bad}"));
            }
            let reply = table.solo.batch(&[(name, bad)], "[]");
            problem_saying(&reply, 400, "bad-request", &format!("Bad time for {name}: {bad}"));
        }
        for name in ["time", "since", "until"] {
            let query = format!("{name}={}", bad.replace(' ', "%20").replace('+', "%2B"));
            problem_saying(&table.scan(&query), 400, "bad-request", &format!("Bad time for {name}: {bad}"));
        }
    }
    assert_eq!(table.scan("pick=between").text(), "[]", "nothing was written");
}

#[test]
fn a_bad_read_time_is_told_before_anything_else() {
    let solo = solo();
    let bad = [("Read-TxClock", "abc"), ("Transaction-ID", "xyz")];
    for (method, path) in [
        ("GET", "/nowhere/key"),
        ("PATCH", "/table/0x1?key=a"),
        ("GET", "/nowhere"),
        ("GET", "/batch-write"),
        ("GET", "/tx-status"),
        ("PUT", "/tx-status"),
    ] {
        problem_saying(
            &solo.ask(method, path, &bad, ""),
            400,
            "bad-request",
            "Bad time for Read-TxClock: abc",
        );
    }
    for path in ["/peers", "/atlas", "/health/live"] {
        assert_eq!(solo.ask("GET", path, &bad, "").status, 200, "{path} reads no rows");
    }
}

#[test]
fn a_read_in_the_past_shows_what_was() {
    let table = Table::new();
    let first = table.put("a", "1");
    let second = table.put("a", "2");
    let deleted = table.delete("a");
    let at = |time: u64| table.ask("GET", "a", &[("Read-TxClock", &time.to_string())], "");
    for (time, version, value) in
        [(first, first, "1"), (second - 1, first, "1"), (second, second, "2"), (deleted - 1, second, "2")]
    {
        let read = at(time);
        assert_eq!((read.status, read.text()), (200, value));
        assert_eq!((read.number("value-txclock"), read.number("read-txclock")), (version, time));
    }
    assert_eq!(at(first - 1).number("value-txclock"), 0);
    let gone = at(deleted);
    problem(&gone, 404, "row-not-found");
    assert_eq!((gone.number("value-txclock"), gone.number("read-txclock")), (deleted, deleted));
}

#[test]
fn the_future_may_be_asked_about_for_less_than_five_minutes_of_the_wall_clock() {
    // On a server of its own: what is read here holds for every row, and moves the clock for all.
    let dir = tempfile::tempdir().unwrap();
    let server = Server::solo(dir.path());
    let ask = |method, name, time: u64| {
        wire::ask(&server.http, method, "/table/0x1?key=a", &[(name, &time.to_string())], b"1")
    };
    let first = written(&ask("PUT", "X-Nothing", 0));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as u64;
    // Half a minute to either side is far more than the test takes.
    let (near, far) = (now + FIVE_MINUTES - 30_000_000, now + FIVE_MINUTES + 30_000_000);
    for time in [far, u64::MAX] {
        let refused = problem(&ask("GET", "Read-TxClock", time), 400, "future-time");
        let latest = refused["latest"].as_u64().unwrap();
        assert!((near..far).contains(&latest), "{latest}");
        for method in ["PUT", "DELETE"] {
            problem(&ask(method, "Condition-TxClock", time), 400, "future-time");
        }
        let scan = wire::ask(&server.http, "GET", &format!("/table/0x1?until={time}"), &[], b"");
        problem(&scan, 400, "future-time");
        let condition = [("Condition-TxClock", &*time.to_string())];
        let batch = br#"[{"table":"0x1","key":"a","op":"delete"}]"#;
        problem(&wire::ask(&server.http, "POST", "/batch-write", &condition, batch), 400, "future-time");
        // The condition of a read is only compared.
        assert_eq!(ask("GET", "Condition-TxClock", time).status, 304);
    }
    assert_eq!(ask("GET", "X-Nothing", 0).number("value-txclock"), first, "nothing was written");
    let read = ask("GET", "Read-TxClock", near);
    assert_eq!((read.status, read.number("read-txclock")), (200, near));
    let second = written(&ask("PUT", "X-Nothing", 0));
    assert!(near < second, "what was read at {near} may not change");
    // The clock that was read ahead moves the limit nowhere.
    problem(&ask("GET", "Read-TxClock", second + FIVE_MINUTES), 400, "future-time");
}

#[test]
fn no_write_gets_a_time_at_or_before_one_that_was_read() {
    let table = Table::new();
    let first = table.put("a", "1");
    let ahead = first + 20_000_000;
    assert_eq!(table.ask("GET", "a", &[("Read-TxClock", &ahead.to_string())], "").text(), "1");
    let second = table.put("a", "2");
    assert!(ahead < second, "the read at {ahead} would have to change");
    assert_eq!(table.ask("GET", "a", &[("Read-TxClock", &ahead.to_string())], "").text(), "1");
    let scanned = second + 20_000_000;
    table.scan(&format!("until={scanned}"));
    let third = table.put("new", "3");
    assert!(scanned < third);
    assert!(third <= table.get("new").number("read-txclock"), "and a plain read still sees it");
    let present = table.get("a").number("read-txclock");
    assert!(present < table.put("a", "4"), "also after a read at the present");
}

#[test]
fn a_write_comes_after_its_condition_time() {
    let table = Table::new();
    let now = table.put("a", "1");
    let ahead = now + 5_000_000;
    let time = written(&table.ask("PUT", "a", &[("Condition-TxClock", &ahead.to_string())], "2"));
    assert!(ahead < time);
    assert!(time < table.put("a", "3"), "a plain PUT never fails with 412, wherever the row's version lies");
}

#[test]
fn a_header_given_twice_has_to_say_the_same() {
    let table = Table::new();
    let time = table.put("a", "1").to_string();
    for name in ["Read-TxClock", "Condition-TxClock"] {
        let same = table.ask("GET", "a", &[(name, &time), (name, &time)], "");
        assert!(matches!(same.status, 200 | 304), "{name}");
        let torn = table.ask("GET", "a", &[(name, &time), (name, "7")], "");
        problem_saying(&torn, 400, "bad-request", name);
    }
    for (name, one, two) in [
        ("Transaction-ID", "abc1", "abc2"),
        ("Content-Type", "text/plain", "image/png"),
        ("If-Unmodified-Since", "Thu, 01 Jan 2037 00:00:00 GMT", "Thu, 01 Jan 2037 00:00:01 GMT"),
    ] {
        let torn = table.ask("PUT", "b", &[(name, one), (name, two)], "1");
        problem_saying(&torn, 400, "bad-request", name);
    }
    assert_eq!(table.get("b").status, 404);
}

#[test]
fn the_cells_clock_is_said_with_every_answer_about_rows_and_never_falls() {
    let table = Table::new();
    let mut last = table.put("a", "1");
    let cases: [(&str, String, wire::Headers<'_>, u16); 9] = [
        ("GET", table.row("a"), &[], 200),
        ("GET", table.row("a"), &[("If-None-Match", "*")], 304),
        ("GET", table.row("a"), &[("Read-TxClock", "abc")], 400),
        ("GET", table.row("b"), &[], 404),
        ("PATCH", table.row("a"), &[], 405),
        ("POST", table.row("a"), &[], 409),
        ("PUT", table.row("a"), &[("If-Match", "\"0x1\"")], 412),
        ("GET", table.path(), &[], 200),
        ("POST", "/batch-write".to_owned(), &[], 400),
    ];
    for (method, path, headers, status) in cases {
        let reply = table.solo.ask(method, &path, headers, "1");
        assert_eq!(reply.status, status, "{method} {path}");
        let now = reply.number("server-txclock");
        assert!(last <= now, "{method} {path}");
        last = now;
    }
    for path in ["/peers", "/atlas", "/metrics", "/nothing/at/all"] {
        assert_eq!(table.solo.get(path).header("server-txclock"), None, "{path}");
    }
}
