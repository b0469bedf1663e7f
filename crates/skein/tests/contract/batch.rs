//! `/batch-write`: what is written together, what is refused, and in which order mistakes are told.

use crate::support::shared::{Table, etag, problem, problem_saying, solo, written};
use crate::support::wire::{Reply, ask};
use std::sync::atomic::{AtomicBool, Ordering};

/// A batch on one table: pieces of operations without their table.
fn batch(table: &Table, headers: &[(&str, &str)], ops: &[&str]) -> Reply {
    let ops: Vec<_> = ops.iter().map(|op| format!(r#"{{"table":"{}",{op}}}"#, table.name())).collect();
    table.solo.batch(headers, &format!("[{}]", ops.join(",")))
}

#[test]
fn all_operations_of_a_batch_happen_at_one_time() {
    let (one, two) = (Table::new(), Table::new());
    let held = one.put("held", "1");
    one.put("deleted", "1");
    one.put("updated", "1");
    let body = format!(
        r#"[{{"table":"{}","key":"created","op":"create","value":{{"v":1}}}},
            {{"table":"{}","key":"held","op":"HOLD"}},
            {{"op":"Update","value":[2],"key":"updated","table":"{}","extra":[{{}}],"note":null}},
            {{"table":"{}","key":"missing","op":"update","value":3}},
            {{"table":"{}","key":"deleted","op":"dElEtE"}},
            {{"table":"{}","key":"never","op":"delete","value":"ignored"}}]"#,
        one.name(),
        one.id(),
        one.name(),
        two.id(),
        one.name(),
        two.name()
    );
    let reply = one.solo.batch(&[], &body);
    let time = written(&reply);
    assert!(held < time && time <= reply.number("server-txclock"));
    assert!(!reply.said("transaction-id").is_empty());
    for (table, key, value) in
        [(&one, "created", r#"{"v":1}"#), (&one, "updated", "[2]"), (&two, "missing", "3")]
    {
        let read = table.get(key);
        assert_eq!((read.text(), read.number("value-txclock")), (value, time), "{key}");
    }
    for (table, key) in [(&one, "deleted"), (&two, "never")] {
        let gone = table.get(key);
        assert_eq!((gone.status, gone.number("value-txclock")), (404, time), "{key}");
    }
    assert_eq!(one.get("held").number("value-txclock"), held, "a held row keeps its version");
}

#[test]
fn a_batch_takes_any_content_type_and_both_spellings_of_its_path() {
    let table = Table::new();
    let body = format!(r#"[{{"table":"{}","key":"a","op":"update","value":1}}]"#, table.id());
    for path in ["/batch-write", "/batch-write/"] {
        for name in ["application/x-www-form-urlencoded", "text/plain", "application/json"] {
            written(&table.solo.ask("POST", path, &[("Content-Type", name)], &body));
        }
    }
}

#[test]
fn a_collision_or_a_stale_row_stops_the_whole_batch() {
    let table = Table::new();
    let old = table.put("old", "1");
    let new = table.put("new", "1");
    let before = (new - 1).to_string();
    let write = r#""key":"w","op":"update","value":2"#;

    let collides = batch(&table, &[], &[write, r#""key":"old","op":"create","value":2"#]);
    problem_saying(&collides, 409, "collision", "\"old\"");
    assert_eq!(collides.header("value-txclock"), None);
    for op in ["hold", "update", "delete"] {
        let other = format!(r#""key":"new","op":"{op}","value":2"#);
        let stale =
            batch(&table, &[("Condition-TxClock", &before)], &[write, &other, r#""key":"old","op":"hold""#]);
        problem_saying(&stale, 412, "stale", "\"new\"");
        assert_eq!((stale.number("value-txclock"), stale.said("etag")), (new, etag(new).as_str()), "{op}");
    }
    let both = [r#""key":"new","op":"update","value":2"#, r#""key":"old","op":"create","value":2"#, write];
    problem(&batch(&table, &[("Condition-TxClock", &before)], &both), 409, "collision");
    assert_eq!((table.get("w").status, table.get("old").number("value-txclock")), (404, old));

    let fresh = new.to_string();
    written(&batch(&table, &[("Condition-TxClock", &fresh)], &[write, r#""key":"new","op":"hold""#]));
}

#[test]
fn a_stale_batch_says_the_latest_version_of_all_its_rows() {
    let table = Table::new();
    let first = table.put("a", "1");
    table.put("b", "1");
    let last = table.put("c", "1");
    let at = (first - 1).to_string();
    let ops = [
        r#""key":"a","op":"update","value":2"#,
        r#""key":"c","op":"create","value":2"#,
        r#""key":"b","op":"hold""#,
    ];
    // As a create, c collides; once it is deleted only a and b are stale, and c is still the latest of all.
    problem(&batch(&table, &[("Condition-TxClock", &at)], &ops), 409, "collision");
    let last = {
        assert!(first < last);
        table.delete("c")
    };
    let stale = batch(&table, &[("Condition-TxClock", &at)], &ops);
    problem_saying(&stale, 412, "stale", "\"a\"");
    assert_eq!(stale.number("value-txclock"), last);
}

#[test]
fn without_a_condition_a_batch_is_never_stale_and_creates_ignore_it() {
    let table = Table::new();
    table.put("a", "1");
    written(&batch(&table, &[], &[r#""key":"a","op":"update","value":2"#]));
    table.delete("a");
    written(&batch(&table, &[("Condition-TxClock", "1")], &[r#""key":"a","op":"create","value":3"#]));
    // What the If- headers say about single rows, they do not say about batches.
    written(&batch(
        &table,
        &[("If-None-Match", "*"), ("If-Match", "\"0x1\"")],
        &[r#""key":"a","op":"update","value":4"#],
    ));
    assert_eq!(table.get("a").text(), "4");
}

#[test]
fn values_of_a_batch_are_kept_as_written_without_the_blanks_around() {
    let table = Table::new();
    let value = "{ \"b\" : 1.00 ,\n\t\"a\" : \"\\u0041\" , \"b\": -0 }";
    written(&batch(&table, &[], &[&format!("\"key\":\"a\",\"op\":\"create\",\"value\": \t{value}\n ")]));
    assert_eq!(table.get("a").text(), value);
    written(&batch(&table, &[], &[r#""key":"n","op":"create","value":null"#]));
    assert_eq!((table.get("n").status, table.get("n").text()), (200, "null"));
}

#[test]
fn keys_and_values_that_are_not_text_come_as_base64() {
    let table = Table::new();
    written(&batch(
        &table,
        &[],
        &[
            r#""keyBase64":"/wA=","op":"create","base64":"iVBORw==","contentType":"image/png""#,
            r#""key":"j","op":"create","base64":"eyB9","contentType":"application/json""#,
            r#""key":"\u00e4\n","op":"create","value":1"#,
        ],
    ));
    let image = table.get("%FF%00");
    assert_eq!((image.said("content-type"), &image.body[..]), ("image/png", &b"\x89PNG"[..]));
    assert_eq!((table.get("j").said("content-type"), table.get("j").text()), ("application/json", "{ }"));
    assert_eq!(table.get("%c3%a4%0a").text(), "1");
    written(&batch(&table, &[], &[r#""keyBase64":"ag==","op":"delete""#]));
    assert_eq!(table.get("j").status, 404);
}

#[test]
fn of_repeated_members_the_last_counts() {
    let table = Table::new();
    written(&batch(&table, &[], &[r#""key":"x","key":"a","op":"delete","op":"update","value":1,"value":2"#]));
    assert_eq!((table.get("a").text(), table.get("x").status), ("2", 404));
}

#[test]
fn mistakes_are_told_element_by_element_in_order() {
    let table = Table::new();
    let good = format!(r#"{{"table":"{}","key":"good","op":"update","value":1}}"#, table.name());
    let name = table.name();
    // Each of these would also make a later check fail.
    let cases = [
        (r#"{}"#.to_owned(), "There is no attribute called 'table'"),
        (r#"7"#.to_owned(), "There is no attribute called 'table'"),
        (r#"[]"#.to_owned(), "There is no attribute called 'table'"),
        (r#"null"#.to_owned(), "There is no attribute called 'table'"),
        (r#"{"table":"nowhere"}"#.to_owned(), "There is no attribute called 'key'"),
        (r#"{"table":"nowhere","key":"k"}"#.to_owned(), "There is no attribute called 'op'"),
        (
            format!(r#"{{"table":"{name}","key":"good","op":"bad"}}"#),
            &*format!("Multiple rows found for \"{name}:good\"."),
        ),
        (r#"{"table":"nowhere","key":"k","op":"BaD"}"#.to_owned(), "Unsupported operation: \"BaD\"."),
        (r#"{"table":"nowhere","key":"k","op":"create"}"#.to_owned(), "There is no attribute called 'value'"),
        (r#"{"table":"nowhere","key":"k","op":"Update"}"#.to_owned(), "There is no attribute called 'value'"),
        (r#"{"table":"nowhere","key":"k","op":"create","value":1}"#.to_owned(), "Bad table ID: nowhere"),
        (r#"{"table":"nowhere","key":"k","op":"hold"}"#.to_owned(), "Bad table ID: nowhere"),
        (r#"{"table":"","key":"k","op":"delete"}"#.to_owned(), "Bad table ID: "),
        (r#"{"table":1,"key":"k","op":"hold"}"#.to_owned(), "'table' has to be a string"),
        (format!(r#"{{"table":"{name}","key":1,"op":"hold"}}"#), "'key' has to be a string"),
        (format!(r#"{{"table":"{name}","key":null,"op":"hold"}}"#), "'key' has to be a string"),
        (format!(r#"{{"table":"{name}","key":"k","op":{{}}}}"#), "'op' has to be a string"),
        (
            format!(r#"{{"table":"{name}","key":"k","keyBase64":"aw==","op":"hold"}}"#),
            "both 'key' and 'keyBase64'",
        ),
        (format!(r#"{{"table":"{name}","keyBase64":"a","op":"hold"}}"#), "base64"),
        (
            format!(r#"{{"table":"{name}","key":"k","op":"create","value":1,"base64":"aw=="}}"#),
            "both 'value' and 'base64'",
        ),
        (format!(r#"{{"table":"{name}","key":"k","op":"create","base64":"aw=="}}"#), "'contentType'"),
        (
            format!(r#"{{"table":"{name}","key":"k","op":"create","base64":"!","contentType":"a/b"}}"#),
            "base64",
        ),
        (
            format!(r#"{{"table":"{name}","key":"k","op":"create","base64":"aw==","contentType":"b"}}"#),
            "Content-Type",
        ),
        (
            format!(r#"{{"table":"{name}","key":"k","op":"create","base64":"ew==","contentType":""}}"#),
            "not JSON",
        ),
    ];
    for (element, message) in &cases {
        // The element after it is worse, and is not looked at.
        let reply = table.solo.batch(&[], &format!("[{good},{element},{{}}]"));
        problem_saying(&reply, 400, "bad-request", message);
    }
    assert_eq!(table.get("good").status, 404, "nothing was written");
}

#[test]
fn the_same_row_is_found_however_it_is_spelled() {
    let table = Table::new();
    let (name, id) = (table.name(), table.id());
    for (one, two) in [
        (format!(r#""table":"{name}","key":"a""#), format!(r#""table":"{name}","key":"a""#)),
        (format!(r#""table":"{name}","key":"a""#), format!(r#""table":"{id}","key":"a""#)),
        (format!(r#""table":"{id}","key":"a""#), format!(r#""table":"{id}","keyBase64":"YQ==""#)),
        (format!(r#""table":"{id}","key":"a""#), format!(r#""table":"{id}","key":"\u0061""#)),
        (r#""table":"nowhere","key":"a""#.to_owned(), r#""table":"nowhere","key":"a""#.to_owned()),
    ] {
        let body = format!(r#"[{{{one},"op":"hold"}},{{{two},"op":"hold"}}]"#);
        let reply = table.solo.batch(&[], &body);
        // An unknown table is told at the first of the two, before the second is looked at.
        let message =
            if one.contains("nowhere") { "Bad table ID: nowhere" } else { "Multiple rows found for" };
        problem_saying(&reply, 400, "bad-request", message);
    }
}

#[test]
fn a_batch_without_writes_is_refused() {
    let table = Table::new();
    let hold = format!(r#"[{{"table":"{}","key":"a","op":"hold"}}]"#, table.name());
    for body in ["[]", " [ ]\n", "{}", "7", "null", "\"text\"", "true", r#"{"table":"x"}"#, &hold] {
        problem_saying(&table.solo.batch(&[], body), 400, "bad-request", "Batch must have some writes.");
    }
}

#[test]
fn a_batch_that_is_not_json_is_refused() {
    let solo = solo();
    for body in
        ["", " ", "[", "[}", "[]]", "[] []", "[{\"table\":}]", "{", "nul", "[{},]", "[{\"a\":\"\n\"}]"]
    {
        problem_saying(&solo.batch(&[], body), 400, "bad-request", "not JSON");
    }
    let bad = ask(&solo.server.http, "POST", "/batch-write", &[], b"[{\"table\":\"\xff\"}]");
    problem_saying(&bad, 400, "bad-request", "UTF-8");
    let table = Table::new();
    let deep = format!(r#""key":"a","op":"update","value":{}1{}"#, "[".repeat(129), "]".repeat(129));
    problem_saying(&batch(&table, &[], &[&deep]), 400, "bad-request", "128");
}

#[test]
fn headers_of_a_batch_are_checked_before_its_body() {
    let solo = solo();
    for (headers, message) in [
        (
            [("Read-TxClock", "x"), ("Transaction-ID", "x"), ("Condition-TxClock", "x")],
            "Bad time for Read-TxClock: x",
        ),
        (
            [("Read-TxClock", "1"), ("Transaction-ID", "x"), ("Condition-TxClock", "x")],
            "Bad Transaction-ID: x",
        ),
        (
            [("Read-TxClock", "1"), ("Transaction-ID", "1"), ("Condition-TxClock", "x")],
            "Bad time for Condition-TxClock: x",
        ),
    ] {
        problem_saying(&solo.batch(&headers, "{"), 400, "bad-request", message);
    }
}

#[test]
fn a_batch_has_limits_that_the_answer_names() {
    let table = Table::new();
    let ops = |count: usize| {
        let ops: Vec<_> = (0..count)
            .map(|i| format!(r#"{{"table":"{}","key":"k{i}","op":"update","value":1}}"#, table.id()))
            .collect();
        format!("[{}]", ops.join(","))
    };
    written(&table.solo.batch(&[], &ops(10_000)));
    assert_eq!(table.get("k9999").text(), "1");
    let before = table.get("k0").number("value-txclock");
    let limit = |reply: Reply, limit: u64| {
        let refused = problem_saying(&reply, 413, "too-large", &limit.to_string());
        assert_eq!(refused["limit"], limit);
    };
    limit(table.solo.batch(&[], &ops(10_001)), 10_000);
    let long_key = format!(r#""key":"{}","op":"delete""#, "k".repeat((16 << 10) + 1));
    limit(batch(&table, &[], &[r#""key":"k0","op":"delete""#, &long_key]), 16 << 10);
    let long_value = format!(r#""key":"v","op":"update","value":"{}""#, "v".repeat((16 << 20) - 1));
    limit(batch(&table, &[], &[r#""key":"k0","op":"delete""#, &long_value]), 16 << 20);
    let longest = format!(r#""key":"v","op":"update","value":"{}""#, "v".repeat((16 << 20) - 2));
    let blanks = " ".repeat((32 << 20) + 1);
    limit(batch(&table, &[], &[&longest, &blanks]), 32 << 20);
    assert_eq!(table.get("k0").number("value-txclock"), before, "nothing was written");
    written(&batch(&table, &[], &[&longest]));
}

#[test]
fn nobody_ever_sees_half_a_batch() {
    let table = Table::new();
    let pair = |n: usize| {
        let op = |key: &str| format!(r#""key":"{key}","op":"update","value":{n}"#);
        batch(&table, &[], &[&op("a"), &op("z")])
    };
    written(&pair(0));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let mut scans = 0;
                    while !done.load(Ordering::Relaxed) {
                        let rows = table.scan("").json();
                        assert_eq!(rows[0]["value"], rows[1]["value"], "{rows}");
                        assert_eq!(rows[0]["time"], rows[1]["time"], "{rows}");
                        scans += 1;
                    }
                    scans
                })
            })
            .collect();
        for n in 1..60 {
            written(&pair(n));
        }
        done.store(true, Ordering::Relaxed);
        let scans: usize = readers.into_iter().map(|r| r.join().unwrap()).sum();
        assert!(0 < scans);
    });
}
