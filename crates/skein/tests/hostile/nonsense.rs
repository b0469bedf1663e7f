//! Requests that are no requests, and requests whose parts are nonsense.

use crate::support::shared::{Table, problem, problem_saying};
use crate::support::wire::{Connection, ask, head, say};
use crate::unharmed;

/// A request with these bytes as target and headers.
fn raw(method: &str, target: &[u8], headers: &[u8], body: &[u8]) -> Vec<u8> {
    let mut request = format!("{method} ").into_bytes();
    request.extend_from_slice(target);
    request.extend_from_slice(b" HTTP/1.1\r\nHost: x\r\n");
    request.extend_from_slice(headers);
    request.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
    request.extend_from_slice(body);
    request
}

#[test]
fn what_is_no_request_is_a_400_or_cut() {
    let table = Table::new();
    let addr = &table.solo.server.http;
    let mut requests: Vec<Vec<u8>> = [
        "nonsense\r\n\r\n",
        "GET\r\n\r\n",
        "GET /\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        "GET / HTTP/1.1 x\r\n\r\n",
        "GET / http/1.1\r\n\r\n",
        "GET  / HTTP/1.1\r\n\r\n",
        "G\tT / HTTP/1.1\r\n\r\n",
        "G(T / HTTP/1.1\r\n\r\n",
        "GET http://[ HTTP/1.1\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "GET / HTTP/1.1\r\nno colon\r\n\r\n",
        "GET / HTTP/1.1\r\n: no name\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : x\r\n\r\n",
        "GET / HTTP/1.1\r\nHo st: x\r\n\r\n",
        "GET / HTTP/1.1\r\n Host: x\r\n\r\n",
        "GET / HTTP/1.1\r\nA: b\r\n folded\r\n\r\n",
        "GET / HTTP/1.1\r\nA: b\u{0}c\r\n\r\n",
        "GET / HTTP/1.1\r\nA: b\rc\r\n\r\n",
        "GET / HTTP/1.1\r\n\u{e4}: b\r\n\r\n",
        "GET / HTTP/1.1\r\nA: \u{1}\r\n\r\n",
    ]
    .iter()
    .map(|text| text.as_bytes().to_vec())
    .collect();
    requests.push(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec());
    requests.push(vec![0; 4096]);
    requests.push(vec![0xff; 4096]);
    for request in requests {
        if let Some(reply) = say(addr, &request) {
            assert_eq!(reply.status, 400, "{:?}: {reply:?}", String::from_utf8_lossy(&request));
        }
    }
    for cut in ["", "\r\n", "G", "GET / HTTP/1.1", "GET / HTTP/1.1\r\nHost: x\r\n"] {
        let reply = say(addr, cut.as_bytes());
        assert!(reply.as_ref().is_none_or(|r| r.status == 400), "{cut:?}: {reply:?}");
    }
    // A host alone is a target that HTTP has, and that nothing is served at.
    for request in ["GET nonsense HTTP/1.1\r\n\r\n", "CONNECT db.example:7070 HTTP/1.1\r\n\r\n"] {
        problem(&say(addr, request.as_bytes()).unwrap(), 404, "not-found");
    }
    unharmed(&table);
}

#[test]
fn heads_that_are_too_long_are_refused_as_such() {
    let table = Table::new();
    let addr = &table.solo.server.http;
    let long = format!("X-Long: {}\r\n", "x".repeat(100 << 10));
    let many: String = (0..200).map(|i| format!("X-{i}: y\r\n")).collect();
    for headers in [&long, &many] {
        let reply = say(addr, &raw("GET", table.row("a").as_bytes(), headers.as_bytes(), b"")).unwrap();
        assert_eq!(reply.status, 431, "{reply:?}");
    }
    // Without an end it is refused all the same.
    let endless = format!("GET / HTTP/1.1\r\nX-Long: {}", "x".repeat(200 << 10));
    assert_eq!(say(addr, endless.as_bytes()).unwrap().status, 431);
    let target = format!("{}&x={}", table.row("a"), "x".repeat(70_000));
    assert_eq!(say(addr, &raw("GET", target.as_bytes(), b"", b"")).unwrap().status, 414);
    // What fits is served.
    let fits: String = (0..90).map(|i| format!("X-{i}: {}\r\n", "y".repeat(900))).collect();
    let reply = say(addr, &raw("GET", table.row("a").as_bytes(), fits.as_bytes(), b"")).unwrap();
    problem(&reply, 404, "row-not-found");
    unharmed(&table);
}

#[test]
fn bytes_that_are_not_utf_8_are_data_in_keys_and_mistakes_elsewhere() {
    let table = Table::new();
    let addr = &table.solo.server.http;
    // Raw bytes in a target: taken for what they are or refused, but never half of it.
    for target in [format!("{}\u{ff}", table.row("a")), format!("{}?key=\u{80}", table.path())] {
        let target: Vec<u8> = target.chars().map(|c| c as u32 as u8).collect();
        if let Some(reply) = say(addr, &raw("PUT", &target, b"", b"1")) {
            assert!(matches!(reply.status, 200 | 400), "{reply:?}");
        }
    }
    for (name, text) in [
        ("Read-TxClock", "Bad time for Read-TxClock"),
        ("Condition-TxClock", "Bad time for Condition-TxClock"),
        ("Transaction-ID", "Bad Transaction-ID"),
        ("If-Match", "If-Match"),
        ("If-None-Match", "If-None-Match"),
        ("Content-Type", "Content-Type"),
    ] {
        let header: Vec<u8> = [name.as_bytes(), b": \xff\xfe\r\n"].concat();
        let reply = say(addr, &raw("PUT", table.row("smuggled").as_bytes(), &header, b"1")).unwrap();
        problem_saying(&reply, 400, "bad-request", text);
    }
    let request = raw("GET", table.row("a").as_bytes(), b"X-Request-Id: \xff\r\nAccept: \xff\r\n", b"");
    problem(&say(addr, &request).unwrap(), 404, "row-not-found");
    for query in ["pick=%ff", "time=%ff", "since=%c3", "until=%ff", "slice=%ff&nslices=2", "limit=%ff"] {
        problem(&table.scan(query), 400, "bad-request");
    }
    problem(&table.solo.get("/table/%ff?key=a"), 404, "table-not-found");
    problem(&table.solo.get("/%ff/a"), 404, "table-not-found");
    unharmed(&table);
}

#[test]
fn json_that_nests_endlessly_is_refused_at_little_cost() {
    let table = Table::new();
    let server = &table.solo.server;
    let before = crate::resident_bytes(server);
    for open in ["[", "{\"a\":", "[{\"table\":"] {
        let endless = open.repeat(100_000);
        problem(&table.ask("PUT", "smuggled", &[], &endless), 400, "bad-request");
        problem(&table.solo.batch(&[], &endless), 400, "bad-request");
        problem(&table.solo.batch(&[], &format!("[{endless}")), 400, "bad-request");
        let in_value =
            format!(r#"[{{"table":"{}","key":"smuggled","op":"update","value":{endless}"#, table.name());
        problem(&table.solo.batch(&[], &in_value), 400, "bad-request");
        let atlas = ask(&server.admin, "PUT", "/admin/atlas", &[], endless.as_bytes());
        problem(&atlas, 400, "invalid-atlas");
        problem(&ask(&server.admin, "PUT", "/admin/schema", &[], endless.as_bytes()), 400, "invalid-schema");
    }
    let closed = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    problem_saying(&table.ask("PUT", "smuggled", &[], &closed), 400, "bad-request", "128");
    let ignored =
        format!(r#"[{{"table":"{}","key":"a","op":"update","value":1,"x":{closed}}}]"#, table.name());
    assert!(matches!(table.solo.batch(&[], &ignored).status, 200 | 400));
    let grown = crate::resident_bytes(server).saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes");
    unharmed(&table);
}

#[test]
fn enormous_numbers_are_refused_wherever_they_stand() {
    let table = Table::new();
    let digits = "9".repeat(50_000);
    let zeros = format!("{}1", "0".repeat(50_000));
    for name in ["Read-TxClock", "Condition-TxClock", "If-Match", "Transaction-ID"] {
        let reply = table.ask("PUT", "smuggled", &[(name, &digits)], "1");
        problem(&reply, 400, "bad-request");
        assert!(reply.body.len() < 1000, "{}", reply.body.len());
    }
    for name in ["time", "since", "until", "limit"] {
        problem(&table.scan(&format!("{name}={digits}")), 400, "bad-request");
    }
    problem(&table.scan(&format!("slice=0&nslices={digits}")), 400, "bad-request");
    problem(&table.solo.get(&format!("/table/{digits}?key=a")), 404, "table-not-found");
    // So many zeros are still a number.
    assert_eq!(table.ask("GET", "a", &[("Condition-TxClock", &zeros)], "").status, 404);
    // Numbers inside of JSON are not ours to judge.
    table.put("number", &digits);
    assert_eq!(table.get("number").text(), digits);
    table.put("number", "1e999999999");
    assert!(table.scan("").text().contains("1e999999999"));
    unharmed(&table);
}

#[test]
fn the_older_and_the_longer_forms_of_requests_work() {
    let table = Table::new();
    let addr = &table.solo.server.http;
    table.put("a", "1");
    for request in [
        format!("GET {} HTTP/1.0\r\n\r\n", table.row("a")),
        format!("GET {} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", table.row("a")),
        format!("\r\n\r\nGET {} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", table.row("a")),
        format!(
            "GET http://elsewhere.example{} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            table.row("a")
        ),
        format!("GET {} HTTP/1.1\nHost: x\nConnection: close\n\n", table.row("a")),
    ] {
        let mut connection = Connection::open(addr);
        connection.send(request.as_bytes()).unwrap();
        let reply = connection.reply_to("GET").unwrap();
        assert_eq!((reply.status, reply.text()), (200, "1"), "{request}");
        assert!(connection.ends(), "{request}");
    }
    // A client may end its side of the connection when it has asked.
    for request in [head("GET", &table.row("a"), &[], b""), head("GET", &table.path(), &[], b"")] {
        assert_eq!(say(addr, &request).unwrap().status, 200);
    }
    // A scan for HTTP/1.0 has no chunks; the end of the connection is the end of the table.
    let mut connection = Connection::open(addr);
    connection.send(format!("GET {}?limit=9 HTTP/1.0\r\n\r\n", table.path()).as_bytes()).unwrap();
    assert_eq!(connection.reply_to("GET").unwrap().json()[0]["key"], "a");
    unharmed(&table);
}
