//! Conditional headers: each alone in all its spellings, and all of them together against a model of RFC 9110 §13.

use crate::support::shared::{Table, etag, problem, problem_saying, written};
use crate::support::wire::Connection;

const PAST: &str = "Thu, 01 Jan 1970 00:00:01 GMT";
const FUTURE: &str = "Thu, 01 Jan 2037 00:00:00 GMT";

/// What one conditional header of a case is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tag {
    Absent,
    Any,
    /// The row's present version.
    Same,
    /// Another version.
    Other,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    Absent,
    Before,
    /// At or after the row's present version.
    After,
}

/// One combination of headers.
#[derive(Debug, Clone, Copy)]
struct Case {
    condition: When,
    if_match: Tag,
    if_none_match: Tag,
    unmodified: When,
    modified: When,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Row {
    Never,
    Live,
    Deleted,
}

fn cases(method: &str) -> Vec<Case> {
    let tags = [Tag::Absent, Tag::Any, Tag::Same, Tag::Other];
    let times = [When::Absent, When::Before, When::After];
    let mut cases = Vec::new();
    for condition in times {
        for if_match in tags {
            for if_none_match in tags {
                for unmodified in times {
                    // On a write it means nothing, so a single spelling of it will do.
                    let modified = if method == "GET" { &times[..] } else { &[When::After] };
                    for &modified in modified {
                        cases.push(Case { condition, if_match, if_none_match, unmodified, modified });
                    }
                }
            }
        }
    }
    cases
}

impl Case {
    fn headers(self, version: u64) -> Vec<(&'static str, String)> {
        let mut headers = Vec::new();
        let clock = |when, now: u64| match when {
            When::Absent => None,
            When::Before => Some(now.saturating_sub(1).to_string()),
            When::After => Some(now.to_string()),
        };
        headers.extend(clock(self.condition, version).map(|t| ("Condition-TxClock", t)));
        for (name, tag) in [("If-Match", self.if_match), ("If-None-Match", self.if_none_match)] {
            headers.extend(match tag {
                Tag::Absent => None,
                Tag::Any => Some((name, "*".to_owned())),
                Tag::Same => Some((name, etag(version))),
                Tag::Other => Some((name, etag(version + 1))),
            });
        }
        for (name, when) in [("If-Unmodified-Since", self.unmodified), ("If-Modified-Since", self.modified)] {
            headers.extend(match when {
                When::Absent => None,
                When::Before => Some((name, PAST.to_owned())),
                When::After => Some((name, FUTURE.to_owned())),
            });
        }
        headers
    }

    /// What a GET answers, told by the rules and not by the code.
    fn read(self, row: Row) -> u16 {
        if row != Row::Live {
            return 404;
        }
        let (matches, failed) = (Tag::Same, Tag::Other);
        if self.if_match == failed || (self.if_match == Tag::Absent && self.unmodified == When::Before) {
            return 412;
        }
        let known = self.if_none_match == matches || self.if_none_match == Tag::Any;
        let unchanged = self.if_none_match == Tag::Absent && self.modified == When::After;
        if known || unchanged || self.condition == When::After { 304 } else { 200 }
    }

    /// What a write answers.
    fn write(self, method: &str, row: Row) -> u16 {
        let live = row == Row::Live;
        let stale = [
            self.condition == When::Before && row != Row::Never && method != "POST",
            self.if_match == Tag::Any && !live,
            self.if_match == Tag::Same && !live,
            self.if_match == Tag::Other,
            self.if_match == Tag::Absent && self.unmodified == When::Before && row != Row::Never,
            self.if_none_match == Tag::Any && live,
            self.if_none_match == Tag::Same && live,
        ];
        if method == "POST" && live {
            // That it exists is told before what else is wrong.
            return 409;
        }
        if stale.contains(&true) { 412 } else { 200 }
    }
}

/// Makes one row for each case in a given state, and gives their versions.
fn rows(table: &Table, row: Row, method: &str, count: usize) -> Vec<u64> {
    let ops = |op: &str| -> String {
        let ops: Vec<_> = (0..count)
            .map(|i| {
                format!(r#"{{"table":"{}","key":"{method}{row:?}{i}","op":"{op}","value":0}}"#, table.id())
            })
            .collect();
        format!("[{}]", ops.join(","))
    };
    let mut version = 0;
    if row != Row::Never {
        version = written(&table.solo.batch(&[], &ops("update")));
    }
    if row == Row::Deleted {
        version = written(&table.solo.batch(&[], &ops("delete")));
    }
    vec![version; count]
}

fn every_combination(method: &str) {
    let table = Table::new();
    for row in [Row::Never, Row::Live, Row::Deleted] {
        let cases = cases(method);
        let versions = rows(&table, row, method, cases.len());
        let work: Vec<_> = cases.iter().zip(versions).enumerate().collect();
        // Side by side, so that writes share their syncs.
        std::thread::scope(|scope| {
            for part in work.chunks(work.len().div_ceil(16)) {
                let table = &table;
                scope.spawn(move || {
                    let mut connection = Connection::open(&table.solo.server.http);
                    for (i, (case, version)) in part {
                        check(&mut connection, table, method, row, *i, **case, *version);
                    }
                });
            }
        });
    }
}

fn check(
    connection: &mut Connection,
    table: &Table,
    method: &str,
    row: Row,
    i: usize,
    case: Case,
    version: u64,
) {
    let path = table.row(&format!("{method}{row:?}{i}"));
    let headers = case.headers(version);
    let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
    let body = if matches!(method, "PUT" | "POST") { "1" } else { "" };
    let reply = connection.ask(method, &path, &headers, body.as_bytes());
    let told = format!("{method} of a row {row:?} with {case:?}: {reply:?}");
    if method == "GET" {
        assert_eq!(reply.status, case.read(row), "{told}");
        assert_eq!(reply.number("value-txclock"), version, "{told}");
        return;
    }
    let wanted = case.write(method, row);
    assert_eq!(reply.status, wanted, "{told}");
    let now = connection.ask("GET", &path, &[], b"").number("value-txclock");
    match reply.status {
        200 => assert_eq!(now, reply.number("value-txclock"), "{told}"),
        412 => {
            assert_eq!(now, version, "{told}");
            assert_eq!(reply.number("value-txclock"), version, "{told}");
            assert_eq!(reply.said("etag"), etag(version), "{told}");
        }
        _ => assert_eq!(now, version, "{told}"),
    }
}

#[test]
fn every_combination_of_conditions_on_a_get_follows_the_rfc() {
    every_combination("GET");
}

#[test]
fn every_combination_of_conditions_on_a_put_holds_or_nothing_is_written() {
    every_combination("PUT");
}

#[test]
fn every_combination_of_conditions_on_a_delete_holds_or_nothing_is_written() {
    every_combination("DELETE");
}

#[test]
fn every_combination_of_conditions_on_a_post_holds_or_nothing_is_written() {
    every_combination("POST");
}

#[test]
fn an_etag_may_be_quoted_bare_or_weak_and_in_any_base() {
    let table = Table::new();
    let time = table.put("a", "1");
    let spellings = [
        etag(time),
        format!("0x{time:X}"),
        format!("0x{time:x}"),
        format!("W/{}", etag(time)),
        format!("w/{}", etag(time)),
        format!("\"{time}\""),
        format!("{time}"),
        format!("\"#{time:x}\""),
        format!("\"0x1\", {}", etag(time)),
        format!("0x1,{time:#x} , \"0x2\""),
        format!(", ,{}", etag(time)),
    ];
    for tag in &spellings {
        let known = table.ask("GET", "a", &[("If-None-Match", tag)], "");
        assert_eq!((known.status, known.body.len()), (304, 0), "{tag}");
        assert_eq!(table.ask("GET", "a", &[("If-Match", tag)], "").status, 200, "{tag}");
        problem(&table.ask("PUT", "a", &[("If-None-Match", tag)], "2"), 412, "stale");
    }
    assert_eq!(table.get("a").number("value-txclock"), time);
    for (i, tag) in spellings.iter().enumerate() {
        let (method, body) = if i % 2 == 0 { ("PUT", "2") } else { ("DELETE", "") };
        let key = format!("b{i}");
        let version = table.put(&key, "1");
        let tag = tag.replace(&time.to_string(), &version.to_string());
        let tag = tag
            .replace(&format!("{time:X}"), &format!("{version:X}"))
            .replace(&format!("{time:x}"), &format!("{version:x}"));
        written(&table.ask(method, &key, &[("If-Match", &tag)], body));
    }
}

#[test]
fn a_list_of_etags_may_go_on_over_several_lines() {
    let table = Table::new();
    let time = table.put("a", "1");
    let lines: &[(&str, &str)] =
        &[("If-None-Match", "\"0x1\""), ("If-None-Match", &etag(time)), ("If-None-Match", "0x2")];
    assert_eq!(table.ask("GET", "a", lines, "").status, 304);
    let others: &[(&str, &str)] = &[("If-Match", "\"0x1\""), ("If-Match", "0x2, 0x3")];
    problem(&table.ask("PUT", "a", others, "2"), 412, "stale");
}

#[test]
fn what_is_no_list_of_etags_is_refused_and_named() {
    let table = Table::new();
    table.put("a", "1");
    for bad in [
        "abc",
        "\"abc\"",
        "\"0x1",
        "0x1\"",
        "**",
        "*, \"0x1\"",
        "",
        ",",
        "\"\"",
        "-1",
        "W/",
        "\"0x1\" \"0x2\"",
    ] {
        for name in ["If-Match", "If-None-Match"] {
            for method in ["GET", "PUT", "POST", "DELETE"] {
                problem_saying(&table.ask(method, "a", &[(name, bad)], "1"), 400, "bad-request", name);
            }
        }
    }
}

#[test]
fn a_date_that_is_none_is_ignored() {
    let table = Table::new();
    table.put("a", "1");
    for bad in ["yesterday", "", "0", "2026-01-01", "Thu, 32 Jan 1970 00:00:01 GMT", "1403130358674001"] {
        let read = table.ask("GET", "a", &[("If-Modified-Since", bad), ("If-Unmodified-Since", bad)], "");
        assert_eq!(read.status, 200, "{bad}");
        assert_eq!(table.ask("PUT", "a", &[("If-Unmodified-Since", bad)], "1").status, 200, "{bad}");
    }
}

#[test]
fn a_date_means_the_whole_of_its_second() {
    let table = Table::new();
    let time = table.put("a", "1");
    let said = table.get("a").said("last-modified").to_owned();
    let known = table.ask("GET", "a", &[("If-Modified-Since", &said)], "");
    assert_eq!((known.status, known.number("value-txclock")), (304, time));
    assert_eq!(table.ask("GET", "a", &[("If-Unmodified-Since", &said)], "").status, 200);
    let second = written(&table.ask("PUT", "a", &[("If-Unmodified-Since", &said)], "2"));
    assert!(time < second);
    // The older forms of dates that HTTP still has.
    for past in ["Thursday, 01-Jan-70 00:00:01 GMT", "Thu Jan  1 00:00:01 1970"] {
        assert_eq!(table.ask("GET", "a", &[("If-Unmodified-Since", past)], "").status, 412, "{past}");
        assert_eq!(table.ask("GET", "a", &[("If-Modified-Since", past)], "").status, 200, "{past}");
    }
}

#[test]
fn a_not_modified_says_the_version_and_has_no_body() {
    let table = Table::new();
    let time = table.put("a", "1");
    for (name, value) in [
        ("Condition-TxClock", time.to_string()),
        ("If-None-Match", "*".to_owned()),
        ("If-Modified-Since", FUTURE.to_owned()),
    ] {
        let known = table.ask("GET", "a", &[(name, &value)], "");
        assert_eq!((known.status, known.number("value-txclock")), (304, time), "{name}");
        assert_eq!(known.said("etag"), etag(time));
        assert!(time <= known.number("read-txclock"));
        for header in ["last-modified", "date", "server-txclock", "vary", "x-request-id"] {
            assert!(known.header(header).is_some(), "{name}: no {header}");
        }
        assert_eq!((known.header("content-type"), known.header("content-length")), (None, None));
    }
    let head = table.ask("HEAD", "a", &[("If-None-Match", &etag(time))], "");
    assert_eq!(head.status, 304);
}

#[test]
fn conditions_weigh_the_version_at_the_time_that_is_read() {
    let table = Table::new();
    let first = table.put("a", "1");
    let second = table.put("a", "2");
    let at = first.to_string();
    let past =
        |name: &str, value: &str| table.ask("GET", "a", &[("Read-TxClock", &at), (name, value)], "").status;
    assert_eq!(past("If-None-Match", &etag(first)), 304);
    assert_eq!(past("If-None-Match", &etag(second)), 200);
    assert_eq!(past("If-Match", &etag(second)), 412);
    assert_eq!(past("Condition-TxClock", &at), 304);
}

#[test]
fn a_stale_problem_names_the_row() {
    let table = Table::new();
    let first = table.put("apple", "1");
    let second = table.put("apple", "2");
    let stale = table.ask("PUT", "apple", &[("Condition-TxClock", &first.to_string())], "3");
    problem_saying(&stale, 412, "stale", "\"apple\"");
    assert_eq!((stale.number("value-txclock"), stale.said("etag")), (second, etag(second).as_str()));
    problem_saying(&table.ask("POST", "apple", &[], "3"), 409, "collision", "\"apple\"");
    assert_eq!(table.get("apple").text(), "2");
}

#[test]
fn of_many_who_write_with_the_same_condition_one_wins() {
    let table = Table::new();
    let version = table.put("a", "0");
    let tag = etag(version);
    for (method, key, header) in [
        ("PUT", "a", ("If-Match", tag.as_str())),
        ("PUT", "new", ("If-None-Match", "*")),
        ("POST", "newer", ("X-Nothing", "")),
    ] {
        let winners: usize = std::thread::scope(|scope| {
            let tries: Vec<_> = (0..24)
                .map(|i| {
                    let table = &table;
                    scope.spawn(move || table.ask(method, key, &[header], &i.to_string()).status)
                })
                .collect();
            tries
                .into_iter()
                .map(|t| t.join().unwrap())
                .filter(|status| match status {
                    200 => true,
                    409 | 412 => false,
                    other => panic!("{other}"),
                })
                .count()
        });
        assert_eq!(winners, 1, "{method} {key}");
    }
}
