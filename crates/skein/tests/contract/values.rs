//! Values and their types: JSON byte for byte, anything else as it came.

use crate::support::shared::{Table, problem, problem_saying, written};
use crate::support::wire::ask;

/// Writes a value under a content type, and gives type and bytes that come back.
fn there_and_back(table: &Table, content_type: Option<&str>, value: &[u8]) -> (String, Vec<u8>) {
    let headers: Vec<_> = content_type.map(|c| ("Content-Type", c)).into_iter().collect();
    let put = ask(&table.solo.server.http, "PUT", &table.row("v"), &headers, value);
    assert_eq!(put.status, 200, "{content_type:?} {put:?}");
    let read = table.get("v");
    assert_eq!(read.status, 200);
    (read.said("content-type").to_owned(), read.body)
}

#[test]
fn json_comes_back_byte_for_byte() {
    let table = Table::new();
    for value in [
        "null",
        "true",
        "0",
        "-0",
        "1.00",
        "1E400",
        "123456789012345678901234567890.000",
        "\"\\u0041\\ud83e\\udda2 \u{1f9a2}\"",
        " \t\r\n{ \"b\" : 1 , \"a\" : [ ] , \"b\" : 2 }\n",
        "\"\\ud800\"",
        "[]",
        "\"\"",
    ] {
        let (content_type, bytes) = there_and_back(&table, None, value.as_bytes());
        assert_eq!((content_type.as_str(), bytes.as_slice()), ("application/json", value.as_bytes()));
    }
}

#[test]
fn what_curl_says_and_what_says_nothing_counts_as_json() {
    let table = Table::new();
    for name in [
        None,
        Some(""),
        Some("application/json"),
        Some("APPLICATION/JSON"),
        Some("application/json; charset=utf-8"),
        Some("application/json;v=1"),
        Some("application/x-www-form-urlencoded"),
        Some("application/x-www-form-urlencoded; charset=UTF-8"),
    ] {
        assert_eq!(
            there_and_back(&table, name, b"{ }"),
            ("application/json".to_owned(), b"{ }".to_vec()),
            "{name:?}"
        );
        let headers: Vec<_> = name.map(|c| ("Content-Type", c)).into_iter().collect();
        let bad = ask(&table.solo.server.http, "PUT", &table.row("v"), &headers, b"{");
        problem_saying(&bad, 400, "bad-request", "not JSON");
    }
}

#[test]
fn other_values_come_back_with_their_type_unseen() {
    let table = Table::new();
    let bytes: Vec<u8> = (0..=255).collect();
    for name in ["image/png", "text/plain; charset=utf-8", "application/ld+json", "text/html", "x/y"] {
        for value in [&bytes[..], b"", b"{not json"] {
            assert_eq!(there_and_back(&table, Some(name), value), (name.to_owned(), value.to_vec()));
            assert_eq!(table.get("v").said("x-content-type-options"), "nosniff");
        }
    }
    let head = table.ask("HEAD", "v", &[], "");
    assert_eq!((head.said("content-type"), head.said("content-length")), ("x/y", "9"));
    table.put("v", "1");
    assert_eq!(table.get("v").header("x-content-type-options"), None, "JSON needs no such care");
}

#[test]
fn other_values_stand_in_scans_as_base64_with_their_type() {
    let table = Table::new();
    there_and_back(&table, Some("image/png"), b"\x89PNG\x00\xff");
    let row = table.scan("").json()[0].clone();
    assert_eq!(row["value"], serde_json::json!({ "contentType": "image/png", "base64": "iVBORwD/" }));
    there_and_back(&table, Some("text/x-\"q\""), b"");
    assert_eq!(
        table.scan("").json()[0]["value"],
        serde_json::json!({ "contentType": "text/x-\"q\"", "base64": "" })
    );
}

#[test]
fn json_stands_in_scans_as_it_was_sent() {
    let table = Table::new();
    let value = "{ \"n\" : 1.000 ,\n \"n\" : \"a\\nb\" }";
    let time = table.put("a", value);
    let array = table.scan("");
    assert_eq!(array.text(), format!("[{{\"key\":\"a\",\"time\":{time},\"value\":{value}}}]"));
    let lines = table.solo.ask("GET", &table.path(), &[("Accept", "application/x-ndjson")], "");
    assert_eq!(
        lines.text(),
        format!("{{\"key\":\"a\",\"time\":{time},\"value\":{}}}\n", value.replace('\n', " "))
    );
}

#[test]
fn what_is_not_json_is_refused_and_nothing_is_written() {
    let table = Table::new();
    for value in [
        "",
        " ",
        "{",
        "[}",
        "nul",
        "1 2",
        "{} x",
        "{'a':1}",
        "[1,]",
        "{\"a\":1,}",
        "01",
        "+1",
        ".5",
        "1.",
        "NaN",
        "-",
        "\"\t\"",
        "\"\\x\"",
        "\u{feff}1",
        "[1",
        "\"",
        "//c\n1",
    ] {
        for method in ["PUT", "POST"] {
            let reply = table.ask(method, "v", &[], value);
            problem_saying(&reply, 400, "bad-request", "not JSON");
        }
    }
    for value in [&b"\"\xff\""[..], b"\xc3", b"\"\xed\xa0\x80\"", b"\"\xc0\xaf\""] {
        let reply = ask(&table.solo.server.http, "PUT", &table.row("v"), &[], value);
        problem_saying(&reply, 400, "bad-request", "UTF-8");
    }
    assert_eq!(table.get("v").number("value-txclock"), 0);
}

#[test]
fn json_may_nest_128_deep_and_no_deeper() {
    let table = Table::new();
    let nested = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
    table.put("deep", &nested(128));
    assert_eq!(table.get("deep").text(), nested(128));
    assert!(table.scan("").text().contains(&nested(128)));
    problem_saying(&table.ask("PUT", "deep", &[], &nested(129)), 400, "bad-request", "128");
    let objects = format!("{}1{}", "{\"a\":".repeat(129), "}".repeat(129));
    problem_saying(&table.ask("PUT", "deep", &[], &objects), 400, "bad-request", "128");
    let brackets_in_text = format!("\"{}\"", "[".repeat(5000));
    table.put("text", &brackets_in_text);
}

#[test]
fn a_content_type_that_is_none_is_refused() {
    let table = Table::new();
    for name in ["json", "/", "text/", "/plain", "; charset=utf-8", "te\u{e9}t/plain"] {
        let reply = table.ask("PUT", "v", &[("Content-Type", name)], "1");
        problem_saying(&reply, 400, "bad-request", "Content-Type");
    }
    let long = format!("text/{}", "x".repeat(252));
    let refused =
        problem_saying(&table.ask("PUT", "v", &[("Content-Type", &long)], "1"), 413, "too-large", "256");
    assert_eq!(refused["limit"], 256);
    let longest = &long[..256];
    written(&table.ask("PUT", "v", &[("Content-Type", longest)], "1"));
    assert_eq!(table.get("v").said("content-type"), longest);
}

#[test]
fn null_is_a_value_and_not_a_deletion() {
    let table = Table::new();
    let time = table.put("n", "null");
    let read = table.get("n");
    assert_eq!((read.status, read.text(), read.number("value-txclock")), (200, "null", time));
    problem(&table.ask("POST", "n", &[], "1"), 409, "collision");
    assert_eq!(table.scan("").json(), serde_json::json!([{ "key": "n", "time": time, "value": null }]));
}

#[test]
fn a_value_has_a_limit_that_the_answer_names() {
    let table = Table::new();
    let max = 16 << 20;
    let largest = format!("\"{}\"", "x".repeat(max - 2));
    let time = table.put("big", &largest);
    let read = table.get("big");
    assert!(read.text() == largest, "the largest value comes back as sent");
    let refused =
        problem_saying(&table.ask("PUT", "big", &[], &format!("{largest} ")), 413, "too-large", "16777216");
    assert_eq!(refused["limit"], 16_777_216);
    // Of unknown length beforehand, it is refused when it gets there.
    let mut body = Vec::new();
    for _ in 0..17 {
        body.extend_from_slice(b"100000\r\n");
        body.resize(body.len() + (1 << 20), b'1');
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"0\r\n\r\n");
    let mut connection = crate::support::wire::Connection::open(&table.solo.server.http);
    let head = format!("PUT {} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", table.row("big"));
    let _ = connection.send(head.as_bytes()).and_then(|()| connection.send(&body));
    problem(&connection.reply_to("PUT").unwrap(), 413, "too-large");
    assert_eq!(table.ask("HEAD", "big", &[], "").number("value-txclock"), time, "nothing was written");
}

#[test]
fn a_client_that_waits_to_be_asked_is_told_at_once_what_is_too_large() {
    let table = Table::new();
    let mut connection = crate::support::wire::Connection::open(&table.solo.server.http);
    let head = |length: usize| {
        format!(
            "PUT {} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n",
            table.row("e")
        )
    };
    connection.send(head(17 << 20).as_bytes()).unwrap();
    problem(&connection.reply_to("PUT").unwrap(), 413, "too-large");
    let mut connection = crate::support::wire::Connection::open(&table.solo.server.http);
    connection.send(head(4).as_bytes()).unwrap();
    connection.send(b"1234").unwrap();
    assert_eq!(connection.reply_to("PUT").unwrap().status, 200);
    assert_eq!(table.get("e").text(), "1234");
}
