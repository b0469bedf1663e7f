//! One row in both spellings: statuses, headers, bodies, keys, deletions.

use crate::support::shared::{Table, etag, problem, problem_saying, solo, written};
use crate::support::wire::Reply;

/// Seconds since 1970 of the only date form that we send.
pub fn seconds(date: &str) -> u64 {
    let words: Vec<&str> = date.split(' ').collect();
    let [weekday, day, month, year, time, "GMT"] = words[..] else { panic!("{date:?} is no HTTP date") };
    assert!(weekday.len() == 4 && weekday.ends_with(','), "{date:?}");
    assert!(day.len() == 2 && year.len() == 4 && time.len() == 8, "{date:?}");
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = months.iter().position(|m| *m == month).unwrap() as i64 + 1;
    let (year, day): (i64, i64) = (year.parse().unwrap(), day.parse().unwrap());
    let clock: Vec<i64> = time.split(':').map(|part| part.parse().unwrap()).collect();
    // Days since 1970 in the Gregorian calendar, with years that begin in March.
    let (y, m) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    let weekdays = ["Thu,", "Fri,", "Sat,", "Sun,", "Mon,", "Tue,", "Wed,"];
    assert_eq!(weekdays[(days % 7) as usize], weekday, "{date:?}");
    (days * 86_400 + clock[0] * 3600 + clock[1] * 60 + clock[2]) as u64
}

/// Checks that the three ways in which a version is said agree, and gives it.
fn version(reply: &Reply) -> u64 {
    let time = reply.number("value-txclock");
    assert_eq!(reply.said("etag"), etag(time));
    assert_eq!(seconds(reply.said("last-modified")), time / 1_000_000);
    time
}

#[test]
fn a_row_goes_through_its_life_in_either_spelling() {
    let table = Table::new();
    for path in [table.row("life"), table.named_row("another")] {
        let ask = |method, body| table.solo.ask(method, &path, &[], body);
        let missing = ask("GET", "");
        problem(&missing, 404, "row-not-found");
        assert_eq!(missing.number("value-txclock"), 0);

        let created = ask("POST", r#"{"v":1}"#);
        let first = written(&created);
        assert_eq!(version(&created), first);
        let read = ask("GET", "");
        assert_eq!((read.status, read.text(), version(&read)), (200, r#"{"v":1}"#, first));

        let collides = ask("POST", "2");
        problem(&collides, 409, "collision");
        assert_eq!(collides.header("value-txclock"), None, "a collision says no version");
        assert_eq!(ask("GET", "").text(), r#"{"v":1}"#);

        let second = written(&ask("PUT", "3"));
        assert!(first < second);
        let deleted = written(&ask("DELETE", ""));
        assert!(second < deleted);
        let gone = ask("GET", "");
        problem(&gone, 404, "row-not-found");
        assert_eq!(gone.number("value-txclock"), deleted);

        let again = written(&ask("POST", "4"));
        assert!(deleted < again, "a deleted row can be created");
        assert_eq!(ask("GET", "").text(), "4");
    }
}

#[test]
fn both_spellings_are_the_same_row() {
    let table = Table::new();
    table.put("apple", "1");
    let by_name = format!("/table/{}?key=apple", table.name());
    for path in
        [by_name, table.named_row("apple"), table.row("apple"), format!("{}/?key=apple", table.path())]
    {
        assert_eq!(table.solo.get(&path).text(), "1", "{path}");
    }
    written(&table.solo.ask("PUT", &table.named_row("apple"), &[], "2"));
    assert_eq!(table.get("apple").text(), "2");
    let decimal = u64::from_str_radix(&table.id()[2..], 16).unwrap();
    for id in [
        format!("{decimal}"),
        format!("0{decimal:o}"),
        format!("%23{decimal:X}"),
        format!("0X{decimal:016x}"),
    ] {
        assert_eq!(table.solo.get(&format!("/table/{id}?key=apple")).text(), "2", "{id}");
    }
}

#[test]
fn a_read_says_what_was_read_and_when() {
    let table = Table::new();
    let time = table.put("a", "[1, 2]");
    let read = table.get("a");
    assert_eq!((read.status, read.text()), (200, "[1, 2]"));
    assert_eq!(version(&read), time);
    assert_eq!(read.said("content-type"), "application/json");
    assert_eq!(read.said("content-length"), "6");
    assert_eq!(read.said("vary"), "Read-TxClock");
    let read_time = read.number("read-txclock");
    assert!(time <= read_time, "a read shows every write acknowledged before");
    assert_eq!(seconds(read.said("date")), read_time / 1_000_000);
    assert!(read_time <= read.number("server-txclock"));

    let past = table.ask("GET", "a", &[("Read-TxClock", &(time + 5).to_string())], "");
    assert_eq!((past.status, past.number("read-txclock")), (200, time + 5));
    assert_eq!(seconds(past.said("date")), (time + 5) / 1_000_000);
}

#[test]
fn a_write_says_its_version_and_its_transaction_and_nothing_else() {
    let table = Table::new();
    for (method, body) in [("POST", "1"), ("PUT", "2"), ("DELETE", "")] {
        let reply = table.ask(method, "a", &[], body);
        let time = written(&reply);
        assert_eq!(version(&reply), time, "{method}");
        assert!(time <= reply.number("server-txclock"), "{method}");
        assert_eq!(reply.said("content-length"), "0");
        let id = reply.said("transaction-id");
        assert!(
            !id.is_empty() && id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)),
            "{id}"
        );
        assert!(reply.header("date").is_some());
    }
}

#[test]
fn head_is_get_without_the_body() {
    let table = Table::new();
    let time = table.put("a", "[1, 2]");
    table.put("b", "2");
    table.delete("b");
    let at = (time + 1).to_string();
    let fixed: &[(&str, &str)] = &[("Read-TxClock", &at), ("X-Request-Id", "same")];
    let tag = etag(time);
    let known: &[(&str, &str)] = &[("Read-TxClock", &at), ("X-Request-Id", "same"), ("If-None-Match", &tag)];
    let other: &[(&str, &str)] = &[("Read-TxClock", &at), ("X-Request-Id", "same"), ("If-Match", "\"0x1\"")];
    let scan = format!("{}?until={}", table.path(), time);
    let page = format!("{}?until={}&limit=1", table.path(), time);
    let cases = [
        (table.row("a"), fixed),
        (table.named_row("a"), fixed),
        (table.row("a"), known),
        (table.row("a"), other),
        (table.row("b"), fixed),
        (table.row("missing"), fixed),
        (scan, fixed),
        (page, fixed),
        ("/nothing/here/at-all".to_owned(), fixed),
        ("/no_such_table/k".to_owned(), fixed),
        ("/atlas".to_owned(), fixed),
        ("/peers".to_owned(), fixed),
        ("/openapi.json".to_owned(), fixed),
        ("/health/live".to_owned(), fixed),
    ];
    for (path, headers) in cases {
        let get = table.solo.ask("GET", &path, headers, "");
        let head = table.solo.ask("HEAD", &path, headers, "");
        assert_eq!(head.status, get.status, "{path}");
        assert!(head.body.is_empty());
        // A reading of the clock differs from one request to the next, and without a body there is nothing to chunk.
        let lasting = |reply: &Reply| -> Vec<(String, String)> {
            let fresh = |name: &str| match name {
                "server-txclock" | "transfer-encoding" => true,
                "date" => reply.header("etag").is_none(),
                _ => false,
            };
            reply.headers.iter().filter(|(name, _)| !fresh(name)).cloned().collect()
        };
        assert_eq!(lasting(&head), lasting(&get), "{path}");
    }
}

#[test]
fn deleting_what_is_not_there_succeeds_and_leaves_a_tombstone() {
    let table = Table::new();
    let first = table.delete("never");
    let gone = table.get("never");
    problem_saying(&gone, 404, "row-not-found", "deleted");
    assert_eq!(gone.number("value-txclock"), first);
    let second = table.delete("never");
    assert!(first < second);
    let before = (first - 1).to_string();
    let missing = table.ask("GET", "never", &[("Read-TxClock", &before)], "");
    problem_saying(&missing, 404, "row-not-found", "never written");
    assert_eq!((missing.number("value-txclock"), missing.number("read-txclock")), (0, first - 1));
}

#[test]
fn a_delete_ignores_its_body() {
    let table = Table::new();
    table.put("a", "1");
    let reply = table.ask("DELETE", "a", &[("Content-Type", "nonsense")], "{this is no JSON");
    assert_eq!(reply.status, 200);
    assert_eq!(table.get("a").status, 404);
}

#[test]
fn a_missing_row_is_a_404_whatever_the_conditions_say() {
    let table = Table::new();
    let deleted = {
        table.put("gone", "1");
        table.delete("gone")
    };
    for key in ["never", "gone"] {
        for header in [
            ("Condition-TxClock", "9"),
            ("If-Match", "*"),
            ("If-Match", "\"0x1\""),
            ("If-None-Match", "*"),
            ("If-Modified-Since", "Thu, 01 Jan 2037 00:00:00 GMT"),
            ("If-Unmodified-Since", "Thu, 01 Jan 1970 00:00:01 GMT"),
        ] {
            let reply = table.ask("GET", key, &[header], "");
            problem(&reply, 404, "row-not-found");
            assert_eq!(reply.number("value-txclock"), if key == "gone" { deleted } else { 0 });
            assert!(reply.header("read-txclock").is_some());
            assert_eq!(reply.said("vary"), "Read-TxClock");
        }
    }
}

#[test]
fn keys_in_paths_and_parameters_are_decoded_once() {
    let table = Table::new();
    // As it stands in the path, as it stands in the parameter, and as a scan shows it.
    let cases = [
        ("plain", "plain", "plain"),
        ("a%2Fb", "a/b", "a/b"),
        ("a%20b", "a+b", "a b"),
        ("a+b", "a%2Bb", "a+b"),
        ("%2541", "%2541", "%41"),
        ("q%3Fx%26y%3D1", "q?x%26y%3D1", "q?x&y=1"),
        ("%C3%A4", "%c3%a4", "ä"),
        ("%00", "%00", "\u{0}"),
        (".", ".", "."),
        ("..", "..", ".."),
        ("%22%5C", "%22%5C", "\"\\"),
    ];
    for (i, (path, parameter, _)) in cases.iter().enumerate() {
        written(&table.solo.ask("PUT", &table.named_row(path), &[], &i.to_string()));
        assert_eq!(table.get(parameter).text(), i.to_string(), "{path} and {parameter}");
    }
    let scanned = table.scan("").json();
    let mut keys: Vec<_> =
        scanned.as_array().unwrap().iter().map(|row| row["key"].as_str().unwrap()).collect();
    let mut wanted: Vec<_> = cases.iter().map(|(_, _, key)| *key).collect();
    wanted.sort_unstable();
    assert_eq!(keys, wanted, "in the order of their bytes");
    keys.dedup();
    assert_eq!(keys.len(), cases.len());
}

#[test]
fn a_key_may_be_empty_or_any_bytes() {
    let table = Table::new();
    table.put("", "0");
    table.put("%FF%FE", "1");
    assert_eq!(table.get("").text(), "0");
    assert_eq!(table.get("%ff%fe").text(), "1");
    assert_eq!(table.solo.get(&table.named_row("%FF%FE")).text(), "1");
    let rows = table.scan("").json();
    assert_eq!(rows[0]["key"], "");
    assert_eq!((rows[1]["keyBase64"].as_str(), rows[1].get("key")), (Some("//4="), None));
}

#[test]
fn a_percent_without_two_digits_is_refused_and_named() {
    let table = Table::new();
    for bad in ["%", "a%2", "%zz", "%%41", "a%4"] {
        for path in [table.row(bad), table.named_row(bad)] {
            for method in ["GET", "PUT", "DELETE"] {
                let reply = table.solo.ask(method, &path, &[], "1");
                problem_saying(&reply, 400, "bad-request", "percent-encoding");
            }
        }
    }
    for query in ["end=%", "key=%G0&scan"] {
        problem_saying(&table.scan(query), 400, "bad-request", "percent-encoding");
    }
    problem(&table.solo.get("/table/0x1%zz?key=a"), 400, "bad-request");
    assert_eq!(table.scan("").text(), "[]", "nothing was written");
}

#[test]
fn of_repeated_parameters_the_first_counts_and_unknown_ones_are_ignored() {
    let table = Table::new();
    written(&table.solo.ask("PUT", &format!("{}&key=second&Read-TxClock=7&x", table.row("first")), &[], "1"));
    assert_eq!(table.get("first").text(), "1");
    assert_eq!(table.get("second").status, 404);
    assert_eq!(
        table.solo.get(&format!("{}?key=ignored&limit=abc&x=%ff", table.named_row("first"))).text(),
        "1"
    );
    assert_eq!(table.scan("limit=1&limit=abc").status, 200);
}

#[test]
fn a_write_under_table_needs_a_key() {
    let table = Table::new();
    for method in ["PUT", "POST", "DELETE"] {
        let reply = table.solo.ask(method, &table.path(), &[], "1");
        problem_saying(&reply, 400, "bad-request", "key");
    }
    // `key` is the row's, also beside what would make a GET a scan.
    written(&table.solo.ask("PUT", &format!("{}&limit=1", table.row("a")), &[], "1"));
    assert_eq!(table.get("a").text(), "1");
}

#[test]
fn a_key_has_a_limit_that_the_answer_names() {
    let table = Table::new();
    let longest = "k".repeat(16 << 10);
    table.put(&longest, "1");
    assert_eq!(table.solo.get(&table.named_row(&longest)).text(), "1");
    let longer = format!("{longest}k");
    for (method, path) in [
        ("PUT", table.row(&longer)),
        ("GET", table.row(&longer)),
        ("POST", table.named_row(&longer)),
        ("DELETE", table.named_row(&longer)),
    ] {
        let refused = problem_saying(&table.solo.ask(method, &path, &[], "1"), 413, "too-large", "16384");
        assert_eq!(refused["limit"], 16384);
    }
    // Percent-encoded it is three times as long, and still within the limit.
    let encoded = "%6B".repeat(16 << 10);
    assert_eq!(table.get(&encoded).text(), "1");
}

#[test]
fn a_table_that_does_not_exist_is_a_404_whatever_the_method() {
    let solo = solo();
    for path in
        ["/nowhere/key", "/table/nowhere?key=a", "/nowhere", "/table/nowhere", "/0x1/key", "/t501/key"]
    {
        for method in ["GET", "HEAD", "PUT", "POST", "DELETE", "PATCH"] {
            let reply = solo.ask(method, path, &[], "");
            assert_eq!(reply.status, 404, "{method} {path}");
            assert!(reply.header("server-txclock").is_some());
            if method != "HEAD" {
                problem_saying(&reply, 404, "table-not-found", "schema");
            }
        }
    }
    for id in ["0xg", "1x", "09", "0x10000000000000000", "18446744073709551616", "%23"] {
        problem(&solo.get(&format!("/table/{id}?key=a")), 404, "table-not-found");
    }
    problem(&solo.get("/table/0xFFFFFFFFFFFFFFFF?key=a"), 404, "row-not-found");
}
