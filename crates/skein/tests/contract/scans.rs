//! Scans: parameters, framing, formats and errors. What they select is held against a model in `windows`.

use crate::support::shared::{Table, problem, problem_saying, solo};
use crate::support::wire::Reply;

fn keys(reply: &Reply) -> Vec<String> {
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.json().as_array().unwrap().iter().map(|row| row["key"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_scan_says_its_snapshot_and_streams_the_table_in_every_spelling() {
    let table = Table::new();
    let time = table.put("apple", "{\"v\":1}");
    table.put("banana", "2");
    let paths = [
        table.path(),
        format!("{}/", table.path()),
        format!("/{}", table.name()),
        format!("/{}/", table.name()),
        format!("/table/{}", table.name()),
    ];
    for path in paths {
        let reply = table.solo.get(&path);
        assert_eq!(keys(&reply), ["apple", "banana"], "{path}");
        assert_eq!(reply.json()[0], serde_json::json!({ "key": "apple", "time": time, "value": { "v": 1 } }));
        assert_eq!(reply.said("content-type"), "application/json");
        assert_eq!(reply.said("transfer-encoding"), "chunked");
        assert!(time <= reply.number("read-txclock"));
        for absent in ["value-txclock", "etag", "link", "last-modified"] {
            assert_eq!(reply.header(absent), None, "{path}");
        }
        let page = table.solo.get(&format!("{path}?limit=10"));
        assert_eq!(keys(&page), ["apple", "banana"], "{path}");
        assert!(page.header("content-length").is_some());
    }
}

#[test]
fn a_scan_of_nothing_is_an_empty_array_or_no_lines() {
    let table = Table::new();
    for query in ["", "limit=5", "key=z&scan", "end=a", "since=1", "pick=through", "slice=1&nslices=2"] {
        let reply = table.scan(query);
        assert_eq!((reply.status, reply.text(), reply.header("link")), (200, "[]", None), "{query}");
        let lines = table.solo.ask(
            "GET",
            &format!("{}?{query}", table.path()),
            &[("Accept", "application/x-ndjson")],
            "",
        );
        assert_eq!((lines.status, lines.text()), (200, ""), "{query}");
    }
}

#[test]
fn lines_are_sent_to_those_who_ask_for_them() {
    let table = Table::new();
    for key in ["a", "b", "c"] {
        table.put(key, "{\n\"v\": \"x\\ny\"\r\n}");
    }
    for (accept, lines) in [
        ("application/x-ndjson", true),
        ("text/html, Application/X-NDJSON;q=0.5", true),
        ("application/x-ndjson;q=0, */*", false),
        ("application/json", false),
        ("*/*", false),
        ("nonsense", false),
    ] {
        for query in ["", "?limit=2"] {
            let path = format!("{}{query}", table.path());
            let reply = table.solo.ask("GET", &path, &[("Accept", accept)], "");
            let wanted = if lines { "application/x-ndjson" } else { "application/json" };
            assert_eq!((reply.status, reply.said("content-type")), (200, wanted), "{accept}");
            assert!(reply.said("vary").contains("Accept"));
            if lines {
                let rows: Vec<serde_json::Value> =
                    reply.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
                assert!(reply.text().ends_with('\n'));
                assert_eq!(serde_json::Value::Array(rows), table.solo.get(&path).json(), "{accept}{query}");
                assert_eq!(reply.header("link").is_some(), !query.is_empty());
            }
        }
    }
}

#[test]
fn a_key_alone_reads_a_row_and_with_a_scans_parameter_begins_a_scan() {
    let table = Table::new();
    let time = table.put("a", "1");
    table.put("b", "2");
    assert_eq!(table.scan("key=a").text(), "1");
    assert_eq!(table.scan("key=a&unknown=1").text(), "1");
    for parameter in [
        "time=0xffffffffffffffff",
        "end=zz",
        "since=0",
        &format!("until={}", time + 1_000),
        "pick=latest",
        "slice=0&nslices=1",
        "limit=9",
        "scan",
        "scan=no",
    ] {
        let reply = table.scan(&format!("key=a&{parameter}"));
        assert_eq!(keys(&reply)[0], "a", "{parameter}");
    }
    assert_eq!(
        keys(&table.solo.get(&format!("/{}?key=b", table.name()))),
        ["b"],
        "a name alone is always a scan"
    );
}

#[test]
fn key_and_end_bound_a_scan() {
    let table = Table::new();
    for key in ["a", "a%00", "a%2Fb", "aa", "b", "%C3%A4", "%FF"] {
        table.put(key, "1");
    }
    let count = |query: &str| table.scan(query).json().as_array().unwrap().len();
    assert_eq!(count(""), 7);
    assert_eq!(count("key=a&scan"), 7);
    assert_eq!(keys(&table.scan("key=a&end=b")), ["a", "a\0", "a/b", "aa"]);
    assert_eq!(keys(&table.scan("key=a%00&end=aa")), ["a\0", "a/b"]);
    assert_eq!(keys(&table.scan("key=aaa&end=%C3%A4")), ["b"]);
    assert_eq!(keys(&table.scan("end=a")), Vec::<String>::new());
    assert_eq!(keys(&table.scan("end=")), Vec::<String>::new(), "nothing comes before the empty key");
    assert_eq!(keys(&table.scan("key=b&end=a")), Vec::<String>::new());
    assert_eq!(table.scan("key=%FF&scan").json()[0]["keyBase64"], "/w==");
}

#[test]
fn a_time_begins_in_the_midst_of_the_first_keys_history() {
    let table = Table::new();
    let first = table.put("a", "1");
    let second = table.put("a", "2");
    table.put("b", "3");
    let values = |query: &str| -> Vec<i64> {
        table
            .scan(query)
            .json()
            .as_array()
            .unwrap()
            .iter()
            .map(|row| row["value"].as_i64().unwrap())
            .collect()
    };
    assert_eq!(values(&format!("key=a&time={first}&pick=between")), [1, 3]);
    assert_eq!(values(&format!("key=a&time={second}&pick=between")), [2, 1, 3]);
    assert_eq!(values(&format!("key=a&time={}", second - 1)), [1, 3], "latest is then an older version");
    assert_eq!(values(&format!("key=a&time={}", first - 1)), [3]);
    assert_eq!(values(&format!("time={first}")), [2, 3], "without its key it says nothing");
    assert_eq!(values(&format!("key=aa&time={first}")), [3]);
}

#[test]
fn a_read_time_bounds_a_scan_that_says_no_until() {
    let table = Table::new();
    let first = table.put("a", "1");
    let second = table.put("a", "2");
    let at = first.to_string();
    let then = table.solo.ask("GET", &table.path(), &[("Read-TxClock", &at)], "");
    assert_eq!((then.json()[0]["value"].as_i64(), then.number("read-txclock")), (Some(1), first));
    let until = format!("{}?until={second}", table.path());
    let later = table.solo.ask("GET", &until, &[("Read-TxClock", &at)], "");
    assert_eq!((later.json()[0]["value"].as_i64(), later.number("read-txclock")), (Some(2), second));
    let since = format!("{}?since={second}", table.path());
    let none = table.solo.ask("GET", &since, &[("Read-TxClock", &at)], "");
    problem_saying(&none, 400, "bad-request", "Since must preceed until.");
}

#[test]
fn parameters_are_checked_in_order() {
    let table = Table::new();
    let steps = [
        ("key=%zz", "key=a", "the parameter key"),
        ("end=%zz", "end=b", "the parameter end"),
        ("time=abc", "time=9", "Bad time for time: abc"),
        ("since=abc", "since=20", "Bad time for since: abc"),
        ("until=abc", "until=10", "Bad time for until: abc"),
        ("", "until=10", "Since must preceed until."),
        ("pick=first", "pick=LATEST", "Pick must be latest, between or through."),
        ("slice=abc", "slice=7", "Bad integer for slice: abc"),
        ("nslices=abc", "nslices=3", "Bad integer for nslices: abc"),
        ("", "nslices=4", "Number of slices must be a power of two and at least one."),
        ("", "slice=3", "The slice must be between 0 (inclusive) and the number of slices (exclusive)."),
        ("limit=abc", "limit=1", "Bad integer for limit: abc"),
    ];
    let mut query: Vec<&str> = steps.iter().map(|(bad, _, _)| *bad).filter(|bad| !bad.is_empty()).collect();
    for (_, good, message) in steps {
        problem_saying(&table.scan(&query.join("&")), 400, "bad-request", message);
        // What was just told is mended; the next mistake is found.
        let name = |pair: &str| pair.split('=').next().unwrap().to_owned();
        let mended = if message.starts_with("Since") { "since=10" } else { good };
        for pair in &mut query {
            if name(pair) == name(mended) {
                *pair = mended;
            }
        }
    }
    // Such a time is before all that is kept, which is the next thing to be told.
    problem(&table.scan(&query.join("&")), 410, "history-gone");
}

#[test]
fn slices_and_limits_are_integers_of_32_bits_in_any_base() {
    let table = Table::new();
    table.put("a", "1");
    for (slice, nslices) in
        [("0", "1"), ("0x1", "0x2"), ("01", "010"), ("%231", "%23A0"), ("+1", "%2B4"), ("00", "1073741824")]
    {
        let reply = table.scan(&format!("slice={slice}&nslices={nslices}"));
        let wanted = if nslices == "%23A0" { 400 } else { 200 };
        assert_eq!(reply.status, wanted, "{slice} of {nslices}: {reply:?}");
    }
    for (name, value) in [
        ("slice", "2147483648"),
        ("nslices", "4294967296"),
        ("slice", ""),
        ("nslices", "1.0"),
        ("slice", "09"),
    ] {
        let other = if name == "slice" { "nslices=2" } else { "slice=0" };
        let reply = table.scan(&format!("{name}={value}&{other}"));
        problem_saying(&reply, 400, "bad-request", &format!("Bad integer for {name}: {value}"));
    }
    for limit in ["2147483648", "-2147483649", "abc", "", "1e3"] {
        problem_saying(&table.scan(&format!("limit={limit}")), 400, "bad-request", "Bad integer for limit");
    }
    for alone in ["slice=0", "nslices=2"] {
        problem_saying(&table.scan(alone), 400, "bad-request", "Both slice and nslices are needed together.");
    }
    for (slice, nslices) in [("0", "0"), ("0", "-2"), ("0", "3"), ("0", "2147483647")] {
        let reply = table.scan(&format!("slice={slice}&nslices={nslices}"));
        problem_saying(
            &reply,
            400,
            "bad-request",
            "Number of slices must be a power of two and at least one.",
        );
    }
    for (slice, nslices) in [("-1", "2"), ("2", "2"), ("1", "1"), ("2147483647", "4")] {
        let reply = table.scan(&format!("slice={slice}&nslices={nslices}"));
        problem_saying(&reply, 400, "bad-request", "The slice must be between 0 (inclusive)");
    }
}

#[test]
fn a_limit_of_nothing_or_less_gives_no_rows_and_the_link_to_the_first() {
    let table = Table::new();
    let time = table.put("a", "1");
    for limit in ["0", "-1", "-2147483648"] {
        let page = table.scan(&format!("limit={limit}"));
        assert_eq!((page.status, page.text()), (200, "[]"));
        assert!(page.said("link").contains(&format!("?key=a&time={time}&limit={limit}")), "{page:?}");
    }
    assert_eq!(keys(&table.scan("limit=2147483647")), ["a"]);
}

#[test]
fn a_table_whose_rows_are_all_deleted_is_empty_but_remembers() {
    let table = Table::new();
    table.put("a", "null");
    let alive = table.put("b", "2");
    let a = table.delete("a");
    let b = table.delete("b");
    assert_eq!(table.scan("").text(), "[]");
    assert_eq!(table.scan("limit=1").header("link"), None, "deletions make no next page");
    let all = table.scan("pick=between").json();
    let told: Vec<_> =
        all.as_array().unwrap().iter().map(|r| (r["time"].as_u64().unwrap(), r["value"].clone())).collect();
    assert_eq!(told.len(), 4);
    assert_eq!((told[0].0, &told[0].1), (a, &serde_json::Value::Null));
    assert_eq!((told[2].0, &told[2].1), (b, &serde_json::Value::Null));
    assert_eq!(keys(&table.scan(&format!("until={alive}"))), ["a", "b"]);
    assert_eq!(table.scan(&format!("since={b}&pick=between")).text(), "[]");
    assert_eq!(keys(&table.scan(&format!("since={b}&pick=through"))), ["a", "b"]);
}

#[test]
fn slices_are_those_of_the_published_hash() {
    let solo = solo();
    let put = |table: &str, key: &str| {
        assert_eq!(solo.ask("PUT", &format!("/table/{table}?key={key}"), &[], "1").status, 200);
    };
    // Table, key, and its slice of 2, 4, 8 and 16.
    let published = [
        ("1", "apple", [1, 1, 1, 9]),
        ("1", "banana", [0, 0, 4, 12]),
        ("1", "grape", [0, 2, 2, 10]),
        ("1", "kiwi", [0, 0, 0, 0]),
        ("1", "orange", [1, 1, 5, 13]),
        ("1", "a", [0, 0, 0, 8]),
        ("1", "c", [1, 3, 3, 11]),
        ("0xBE", "apple", [1, 3, 7, 7]),
        ("0xBE", "grape", [1, 1, 5, 13]),
    ];
    for (table, key, _) in published {
        put(table, key);
    }
    for (table, key, slices) in published {
        for (slice, nslices) in slices.iter().zip([2, 4, 8, 16]) {
            for i in 0..nslices {
                let found = keys(&solo.get(&format!("/table/{table}?slice={i}&nslices={nslices}")));
                assert_eq!(found.contains(&key.to_owned()), i == *slice, "{key} in {i} of {nslices}");
            }
        }
    }
}
