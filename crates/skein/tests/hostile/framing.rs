//! Where one request ends and the next begins: bodies cut short, broken chunks, contradicting lengths, pipelines.

use crate::support::shared::{Table, problem, problem_saying};
use crate::support::wire::{Connection, Reply, head, say};
use crate::unharmed;

/// A request that nobody meant to send: if it is ever answered with 200, a body was taken for a request.
fn smuggled(table: &Table) -> String {
    format!("PUT {} HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n1", table.row("smuggled"))
}

/// All answers to these bytes, to the end of the connection.
fn answers(table: &Table, bytes: &[u8]) -> Vec<Reply> {
    let mut connection = Connection::open(&table.solo.server.http);
    let _ = connection.send(bytes);
    connection.finish();
    std::iter::from_fn(|| connection.reply_to("GET")).collect()
}

#[test]
fn a_body_that_is_cut_short_writes_nothing() {
    let table = Table::new();
    for (method, path) in [
        ("PUT", table.row("smuggled")),
        ("POST", table.named_row("smuggled")),
        ("POST", "/batch-write".to_owned()),
    ] {
        for framing in [
            "Content-Length: 100\r\n\r\n12",
            "Transfer-Encoding: chunked\r\n\r\n5\r\n12",
            "Transfer-Encoding: chunked\r\n\r\n2\r\n12\r\n",
        ] {
            let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\n{framing}");
            let replies = answers(&table, request.as_bytes());
            assert!(replies.len() <= 1);
            for reply in replies {
                problem_saying(&reply, 400, "bad-request", "Nothing was written");
            }
        }
    }
    unharmed(&table);
}

#[test]
fn broken_chunks_write_nothing_and_end_the_connection() {
    let table = Table::new();
    for chunks in [
        "x\r\n1\r\n0\r\n\r\n",
        "-1\r\n1\r\n0\r\n\r\n",
        "0x1\r\n1\r\n0\r\n\r\n",
        " 1\r\n1\r\n0\r\n\r\n",
        "\r\n1\r\n0\r\n\r\n",
        "1\r\n1x0\r\n\r\n",
        "1\n1\n0\n\n",
        "ffffffffffffffff\r\n1",
        "10000000000000000\r\n1\r\n0\r\n\r\n",
        "fffffffffffffffffffffffffffffffff\r\n1\r\n0\r\n\r\n",
        "1;\r1\r\n1\r\n0\r\n\r\n",
    ] {
        let head = format!(
            "PUT {} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
            table.row("smuggled")
        );
        let request = format!("{head}{chunks}{}", smuggled(&table));
        for reply in answers(&table, request.as_bytes()) {
            assert_eq!(reply.status, 400, "{chunks:?}: {reply:?}");
        }
        assert_eq!(table.get("smuggled").status, 404, "{chunks:?}");
    }
    unharmed(&table);
}

#[test]
fn sound_chunks_are_read_with_extensions_and_trailers() {
    let table = Table::new();
    for chunks in [
        "1\r\n1\r\n2\r\n23\r\n0\r\n\r\n",
        "3;name=value\r\n123\r\n0\r\n\r\n",
        "3\r\n123\r\n0\r\nIf-Match: *\r\nTrailer: x\r\n\r\n",
        "0003\r\n123\r\n000\r\n\r\n",
    ] {
        let head =
            format!("PUT {} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", table.row("a"));
        let replies = answers(&table, format!("{head}{chunks}").as_bytes());
        assert_eq!(replies.len(), 1);
        assert_eq!(replies[0].status, 200, "{chunks:?}: {replies:?}");
        assert_eq!(table.get("a").text(), "123");
        table.delete("a");
    }
    // Extensions and trailers without end are not kept for ever.
    for chunks in [
        format!("3;{}\r\n123\r\n0\r\n\r\n", "x".repeat(1 << 20)),
        format!("0\r\nX: {}\r\n\r\n", "x".repeat(1 << 20)),
    ] {
        let head = format!(
            "PUT {} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
            table.row("smuggled")
        );
        assert!(
            answers(&table, format!("{head}{chunks}").as_bytes()).iter().all(|reply| reply.status == 400)
        );
    }
    unharmed(&table);
}

#[test]
fn lengths_that_contradict_each_other_are_no_way_in() {
    let table = Table::new();
    let inner = smuggled(&table);
    let long = inner.len();
    for headers in [
        format!("Content-Length: 0\r\nContent-Length: {long}\r\n"),
        format!("Content-Length: {long}\r\nContent-Length: 0\r\n"),
        format!("Content-Length: 0, {long}\r\n"),
        "Content-Length: -1\r\n".to_owned(),
        "Content-Length: +1\r\n".to_owned(),
        "Content-Length: 0x10\r\n".to_owned(),
        "Content-Length: 1 0\r\n".to_owned(),
        "Content-Length: \r\n".to_owned(),
        "Content-Length: 99999999999999999999999\r\n".to_owned(),
        "Transfer-Encoding: identity\r\n".to_owned(),
        "Transfer-Encoding: xchunked\r\n".to_owned(),
        "Transfer-Encoding: chunked, gzip\r\n".to_owned(),
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n".to_owned(),
        "Transfer-Encoding : chunked\r\n".to_owned(),
        "Transfer-Encoding:\u{b}chunked\r\n".to_owned(),
        "Transfer-Encoding\r\n: chunked\r\n".to_owned(),
    ] {
        let request = format!("PUT {} HTTP/1.1\r\nHost: x\r\n{headers}\r\n{inner}", table.row("other"));
        let replies = answers(&table, request.as_bytes());
        assert!(replies.len() <= 1, "{headers:?}: {replies:?}");
        assert!(replies.iter().all(|reply| reply.status == 400), "{headers:?}: {replies:?}");
        assert_eq!(table.get("smuggled").status, 404, "{headers:?}");
    }
    unharmed(&table);
}

#[test]
fn a_length_beside_chunks_is_no_way_in() {
    let table = Table::new();
    let body = format!("1\r\n1\r\n0\r\n\r\n{}", smuggled(&table));
    for headers in [
        format!("Content-Length: {}\r\nTransfer-Encoding: chunked\r\n", body.len()),
        format!("Transfer-Encoding: chunked\r\nContent-Length: {}\r\n", body.len()),
        "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n".to_owned(),
        format!("Transfer-Encoding: gzip, chunked\r\nContent-Length: {}\r\n", body.len()),
        format!("transfer-encoding: CHUNKED\r\ncontent-length: {}\r\n", body.len()),
    ] {
        for version in ["1.1", "1.0"] {
            let request =
                format!("PUT {} HTTP/{version}\r\nHost: x\r\n{headers}\r\n{body}", table.row("other"));
            let replies = answers(&table, request.as_bytes());
            // Whoever stands between may have read it by the length: what follows is not ours to answer.
            assert!(replies.len() <= 1, "HTTP/{version} {headers:?}: {replies:?}");
            assert_eq!(table.get("smuggled").status, 404, "HTTP/{version} {headers:?}");
        }
    }
    unharmed(&table);
}

#[test]
fn the_body_of_a_refused_request_is_never_taken_for_the_next_one() {
    let table = Table::new();
    let inner = smuggled(&table);
    for (method, target, headers, status) in [
        ("PUT", "/nowhere/key".to_owned(), "", 404),
        ("PUT", "/nothing/at/all".to_owned(), "", 404),
        ("PATCH", table.row("a"), "", 405),
        ("POST", "/peers".to_owned(), "", 405),
        ("PUT", table.row("a"), "Read-TxClock: abc\r\n", 400),
        ("PUT", table.row("a"), "Content-Type: /\r\n", 400),
        ("PUT", table.row("%zz"), "", 400),
        ("DELETE", table.row("a"), "", 200),
        ("GET", table.row("a"), "", 404),
        ("PUT", table.row("a"), "", 400),
    ] {
        for chunked in [false, true] {
            let framed = match chunked {
                false => format!("Content-Length: {}\r\n\r\n{inner}", inner.len()),
                true => {
                    format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{inner}\r\n0\r\n\r\n", inner.len())
                }
            };
            let request = format!("{method} {target} HTTP/1.1\r\nHost: x\r\n{headers}{framed}");
            let next = format!("GET {} HTTP/1.1\r\nHost: x\r\n\r\n", table.row("honest"));
            let replies = answers(&table, format!("{request}{next}").as_bytes());
            assert_eq!(replies[0].status, status, "{request:?}");
            // The connection goes on with the next request, or it ends; nothing else.
            assert!(replies.len() <= 2, "{request:?}: {replies:?}");
            if let Some(next) = replies.get(1) {
                assert!(matches!(next.status, 200 | 404), "{next:?}");
            }
            assert_eq!(table.get("smuggled").status, 404, "{request:?}");
        }
    }
    unharmed(&table);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let table = Table::new();
    let mut connection = Connection::open(&table.solo.server.http);
    let mut requests = Vec::new();
    let mut expected = Vec::new();
    for i in 0..50 {
        let body = format!("\"{}\"", "x".repeat(i * 37));
        let row = table.row(&format!("k{i}"));
        for (method, sent, status, answer) in [
            ("PUT", body.as_str(), 200, ""),
            ("GET", "", 200, body.as_str()),
            ("HEAD", "", 200, ""),
            ("DELETE", "", 200, ""),
            ("POST", "{", 400, ""),
        ] {
            requests.extend(head(
                method,
                &row,
                &[("X-Request-Id", &format!("{i}-{method}"))],
                sent.as_bytes(),
            ));
            requests.extend(sent.as_bytes());
            expected.push((
                method,
                format!("{i}-{method}"),
                status,
                (status == 200).then(|| answer.to_owned()),
            ));
        }
    }
    connection.send(&requests).unwrap();
    for (method, id, status, body) in expected {
        let reply = connection.reply_to(method).unwrap();
        assert_eq!((reply.said("x-request-id"), reply.status), (id.as_str(), status));
        if let Some(body) = body {
            assert_eq!(reply.text(), body);
        }
    }
    unharmed(&table);
}

#[test]
fn a_client_that_declares_too_much_is_told_without_sending_it() {
    let table = Table::new();
    for length in ["16777217", "99999999999", "18446744073709551615"] {
        let request = format!(
            "PUT {} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n123",
            table.row("smuggled")
        );
        if let Some(reply) = say(&table.solo.server.http, request.as_bytes()) {
            assert!(matches!(reply.status, 400 | 413 | 431), "{length}: {reply:?}");
            if reply.status == 413 {
                problem(&reply, 413, "too-large");
            }
        }
    }
    unharmed(&table);
}
