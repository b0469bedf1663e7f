//! The server's own pages, its limits, and clients that mean no good.

mod support;

use skein_server::MemoryBudget;
use std::io::Write;
use std::time::Duration;
use support::{PATIENCE, Running, ask, connect, parse_reply, read_reply, read_to_end, within};

#[test]
fn an_isolated_server_has_an_empty_atlas_and_answers_504_with_a_hint() {
    let hasty = Running::with(false, |config| config.request_timeout = Duration::from_millis(20));
    let row = hasty.get("/table/0x1?key=123");
    assert_eq!((row.status, row.problem().as_str()), (504, "no-atlas"));
    assert!(row.json()["detail"].as_str().unwrap().contains("--solo"));
    // A change of the atlas waits as long as a request may, and on a slow machine it has to.
    let server = Running::with(false, |_| {});
    let atlas = server.get("/atlas");
    assert_eq!((atlas.text(), atlas.said("content-type")), (r#"[{"state":"empty"}]"#, "application/json"));
    assert_eq!(server.get("/health/ready").status, 503);
    assert_eq!(server.get("/health/live").status, 200);

    let tag = atlas.said("etag");
    let hosts = br#"[ {"hosts": ["0xF47F4AA7602F3857"] } ]"#;
    let stale = ask(server.data, "PUT", "/atlas", &[("if-match", "\"77\"")], hosts);
    assert_eq!((stale.status, stale.problem().as_str()), (412, "stale"));
    let put = ask(server.data, "PUT", "/atlas", &[("if-match", tag)], hosts);
    assert_eq!((put.status, put.said("content-length")), (200, "0"), "{put:?}");
    let atlas = server.get("/atlas");
    assert_eq!(atlas.text(), r#"[{"state":"settled","hosts":["0xF47F4AA7602F3857"]}]"#);
    assert_eq!(atlas.said("etag"), put.said("etag"));
    let admin =
        ask(server.admin, "GET", "/admin/treode/atlas", &[("if-none-match", atlas.said("etag"))], b"");
    assert_eq!(admin.status, 304);
    assert_eq!(server.get("/hosts?slice=0&nslices=2").json()[0]["weight"], 1);
    assert_eq!(server.get("/peers").json()[0]["hostId"], "0xF47F4AA7602F3857");
    assert_eq!(server.get("/peers?slice=0").status, 400);
    let even = ask(server.data, "PUT", "/atlas", &[], br#"[{"hosts":["0x1","0x2"]}]"#);
    assert_eq!((even.status, even.problem().as_str()), (400, "invalid-atlas"));
}

#[test]
fn methods_are_told_apart() {
    let server = Running::solo();
    let options = server.ask("OPTIONS", "/table/0x1", &[]);
    assert_eq!((options.status, options.said("allow")), (204, "GET, HEAD, PUT, POST, DELETE, OPTIONS"));
    let wrong = server.ask("DELETE", "/batch-write", &[]);
    assert_eq!((wrong.status, wrong.said("allow")), (405, "POST, OPTIONS"));
    assert_eq!(wrong.problem(), "method-not-allowed");
    assert_eq!(server.ask("PATCH", "/table/0x1?key=a", &[]).status, 405);
    assert_eq!(server.ask("PUT", "/table/0x1", &[]).status, 400);
    assert_eq!(server.get("/").problem(), "not-found");
    assert_eq!(ask(server.admin, "GET", "/table/0x1?key=a", &[], b"").problem(), "not-found");
    assert_eq!(ask(server.admin, "GET", "/admin/ping", &[], b"").text(), "pong");
    assert_eq!(server.ask("HEAD", "/table/0x1", &[]).status, 200);
}

#[test]
fn requests_are_counted_and_named() {
    let server = Running::solo();
    let named = server.ask("GET", "/table/0x1?key=a", &[("x-request-id", "mine-7")]);
    assert_eq!((named.said("x-request-id"), named.json()["requestId"].as_str()), ("mine-7", Some("mine-7")));
    assert_ne!(server.get("/atlas").said("x-request-id"), server.get("/atlas").said("x-request-id"));
    for addr in [server.data, server.admin] {
        let text = ask(addr, "GET", "/metrics", &[], b"").text().to_owned();
        for wanted in [
            "skein_http_requests_total{route=\"row\",method=\"GET\",status=\"404\"}",
            "skein_http_request_seconds_bucket{route=\"row\",le=",
            "skein_process_resident_bytes",
            "skein_build_info{version=",
            "skein_request_memory_bytes",
            "skein_http_connections{port=\"data\"}",
        ] {
            assert!(text.contains(wanted), "{wanted} in {text}");
        }
    }
    let document = server.get("/openapi.json").json();
    assert!(document["paths"]["/batch-write"]["post"].is_object());
}

#[test]
fn what_is_too_large_is_refused_with_the_limit_before_it_is_read() {
    let server = Running::solo();
    let mut stream = connect(server.data);
    stream
        .write_all(b"PUT /table/1?key=a HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 16777217\r\n\r\n")
        .unwrap();
    let bytes = read_to_end(&mut stream);
    assert!(bytes.starts_with(b"HTTP/1.1 413"), "no 100 Continue first");
    let reply = parse_reply(&bytes, false);
    assert_eq!((reply.problem().as_str(), reply.json()["limit"].as_u64()), ("too-large", Some(16 << 20)));

    // Without that question the whole body is sent, and then the answer is still heard.
    let long = ask(server.data, "PUT", "/table/1?key=a", &[], &vec![b'1'; (16 << 20) + 1]);
    assert_eq!((long.status, long.problem().as_str()), (413, "too-large"));
    assert_eq!(server.get("/table/1?key=a").status, 404);

    let key = "k".repeat(16385);
    let long = server.put(&format!("/table/1?key={key}"), "1");
    assert_eq!((long.status, long.json()["limit"].as_u64()), (413, Some(16384)));
    let fits = server.put(&format!("/table/1?key={}", "%6B".repeat(16384)), "1");
    assert_eq!(fits.status, 200);
}

#[test]
fn a_client_that_expects_to_be_told_to_go_on_is() {
    let server = Running::solo();
    let mut stream = connect(server.data);
    stream
        .write_all(b"PUT /table/1?key=a HTTP/1.1\r\nhost: x\r\nconnection: close\r\nexpect: 100-continue\r\ncontent-length: 1\r\n\r\n")
        .unwrap();
    let mut start = [0u8; 25];
    std::io::Read::read_exact(&mut stream, &mut start).unwrap();
    assert_eq!(&start, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"7").unwrap();
    assert_eq!(read_reply(&mut stream, false).status, 200);
}

#[test]
fn malformed_requests_get_clear_answers_and_change_nothing() {
    let server = Running::solo();
    let deep = "[".repeat(100_000);
    for (body, status) in [("", 400), ("{", 400), ("1 2", 400), (deep.as_str(), 400), ("\u{feff}1", 400)] {
        let reply = server.put("/table/1?key=a", body);
        assert_eq!((reply.status, reply.problem().as_str()), (status, "bad-request"));
    }
    for (name, value) in [
        ("read-txclock", "abc"),
        ("condition-txclock", "-1"),
        ("transaction-id", "xyz"),
        ("if-match", "\"abc\""),
        ("content-type", "nonsense"),
    ] {
        let reply = ask(server.data, "PUT", "/table/1?key=a", &[(name, value)], b"1");
        assert_eq!(reply.status, 400, "{name}");
        let detail = reply.json()["detail"].as_str().unwrap().to_ascii_lowercase();
        assert!(detail.contains(name), "{detail}");
    }
    let torn = [("condition-txclock", "1"), ("condition-txclock", "2")];
    assert_eq!(ask(server.data, "PUT", "/table/1?key=a", &torn, b"1").status, 400);
    let future =
        ask(server.data, "PUT", "/table/1?key=a", &[("condition-txclock", "0xFFFFFFFFFFFFFFFF")], b"1");
    assert_eq!((future.status, future.problem().as_str()), (400, "future-time"));
    for body in ["[1,2", "{}", "[{\"table\":\"0x1\"}]", "\u{0}"] {
        assert_eq!(server.post("/batch-write", &[], body).status, 400, "{body}");
    }
    assert_eq!(server.get("/table/1?key=a").status, 404);
}

#[test]
fn a_body_cut_short_writes_nothing() {
    let server = Running::solo();
    let mut stream = connect(server.data);
    stream.write_all(b"PUT /table/1?key=a HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n12").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    read_to_end(&mut stream);
    assert_eq!(server.get("/table/1?key=a").status, 404);
}

#[test]
fn heads_that_are_too_long_are_refused() {
    let server = Running::solo();
    let many: Vec<(String, String)> = (0..200).map(|i| (format!("x-{i}"), "y".to_owned())).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    assert_eq!(server.ask("GET", "/table/1?key=a", &many).status, 431);
    let long = "y".repeat(200_000);
    let mut stream = connect(server.data);
    // The server may have answered, and closed, before all of it is sent.
    let _ = stream.write_all(format!("GET / HTTP/1.1\r\nhost: x\r\nx: {long}\r\n\r\n").as_bytes());
    let bytes = read_to_end(&mut stream);
    assert!(bytes.is_empty() || bytes.starts_with(b"HTTP/1.1 431"), "{:?}", String::from_utf8_lossy(&bytes));
    assert_eq!(server.get(&format!("/table/1?key={}", "k".repeat(70_000))).status, 414);
    let mut stream = connect(server.data);
    stream.write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03nonsense\r\n\r\n").unwrap();
    assert!(read_to_end(&mut stream).starts_with(b"HTTP/1.1 400"));
    assert_eq!(server.get("/health/live").status, 200);
}

#[test]
fn slow_senders_are_cut() {
    let server = Running::with(true, |config| {
        // Long enough for a client that is not slow, also on a machine that is.
        config.header_timeout = Duration::from_secs(2);
        config.idle_timeout = Duration::from_secs(2);
        config.body_timeout = Duration::from_millis(1);
    });
    let mut idle = connect(server.data);
    let mut slow_head = connect(server.data);
    slow_head.write_all(b"GET /table/1?key=a HTTP/1.1\r\n").unwrap();
    let mut slow_body = connect(server.data);
    slow_body.write_all(b"PUT /table/1?key=a HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n12").unwrap();
    assert!(read_to_end(&mut idle).is_empty());
    assert!(read_to_end(&mut slow_head).is_empty());
    let reply = read_reply(&mut slow_body, false);
    assert_eq!((reply.status, reply.problem().as_str()), (408, "slow-request"));
    assert_eq!(server.get("/table/1?key=a").status, 404);
}

#[test]
fn a_reader_that_stops_reading_is_cut_before_the_end_of_the_scan() {
    let server = Running::with(true, |config| config.write_timeout = Duration::from_millis(1));
    let value = format!("\"{}\"", "x".repeat(4 << 20));
    for i in 0..5 {
        assert_eq!(server.put(&format!("/table/1?key=k{i}"), &value).status, 200);
    }
    let mut stream = connect(server.data);
    stream.write_all(b"GET /table/1 HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    // The scan has begun, and goes no further than the buffers between us.
    let mut start = [0u8; 12];
    std::io::Read::read_exact(&mut stream, &mut start).unwrap();
    assert_eq!(&start, b"HTTP/1.1 200");
    // We do not read on. The scan's memory comes back when the server gives the connection up.
    server.until_no_memory_is_held();
    let rest = read_to_end(&mut stream);
    let reply = parse_reply(&[&start, &*rest].concat(), false);
    assert_eq!(reply.status, 200);
    assert!(!reply.whole, "a scan that broke off must not look complete");
}

#[test]
fn over_its_memory_budget_the_server_sheds_load_and_recovers() {
    let server = Running::with(true, |config| config.memory = MemoryBudget::new(100_000));
    let small = "1".repeat(90_000);
    let large = "1".repeat(110_000);
    assert_eq!(server.put("/table/1?key=a", &small).status, 200);
    // The server lets go of a request a moment after we have its answer.
    server.until_no_memory_is_held();
    let shed = server.put("/table/1?key=a", &large);
    assert_eq!((shed.status, shed.problem().as_str(), shed.said("retry-after")), (503, "overloaded", "1"));
    server.until_no_memory_is_held();
    assert_eq!(server.get("/table/1").status, 503, "a scan needs memory too");
    server.until_no_memory_is_held();
    assert_eq!(server.put("/table/1?key=a", &small).status, 200);
    server.until_no_memory_is_held();
    assert_eq!(server.get("/table/1?key=a").body.len(), 90_000);
    server.until_no_memory_is_held();
    server.config.memory.set_limit(1000);
    assert_eq!(server.get("/table/1?key=a").status, 503, "a large value needs memory until it is sent");
    server.until_no_memory_is_held();
}

#[test]
fn connections_past_the_limit_are_refused_and_places_come_free() {
    let server = Running::with(true, |config| config.connections_max = 2);
    let mut held: Vec<_> = (0..2).map(|_| connect(server.data)).collect();
    for stream in &mut held {
        stream.write_all(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        std::io::Read::read_exact(stream, &mut [0u8; 12]).unwrap();
    }
    let refused = parse_reply(&read_to_end(&mut connect(server.data)), false);
    assert_eq!((refused.status, refused.said("retry-after")), (503, "1"));
    assert!(refused.whole);
    assert_eq!(ask(server.admin, "GET", "/health/live", &[], b"").status, 200, "the admin port has its own");
    drop(held);
    within("a place comes free", || {
        let mut stream = connect(server.data);
        let _ = stream.write_all(b"GET /health/live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        // A refusal may be lost with a connection that is closed before our request was read.
        read_to_end(&mut stream).starts_with(b"HTTP/1.1 200")
    });
}

#[test]
fn stopping_lets_the_request_under_way_finish_and_takes_no_new_ones() {
    let mut server = Running::with(true, |config| config.shutdown_grace = PATIENCE);
    let mut open = connect(server.data);
    open.write_all(
        b"PUT /table/1?key=a HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n",
    )
    .unwrap();
    // The server asks for the body once it has begun with the request.
    let mut start = [0u8; 25];
    std::io::Read::read_exact(&mut open, &mut start).unwrap();
    assert_eq!(&start, b"HTTP/1.1 100 Continue\r\n\r\n");
    open.write_all(b"12").unwrap();
    server.stop();
    within("no connection is taken", || {
        let Ok(mut stream) = std::net::TcpStream::connect(server.data) else { return true };
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let _ = stream.write_all(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n");
        !matches!(std::io::Read::read(&mut stream, &mut [0u8; 1]), Ok(1))
    });
    let ready = ask(server.admin, "GET", "/health/ready", &[], b"");
    assert_eq!((ready.status, ready.problem().as_str()), (503, "not-ready"));
    open.write_all(b"34").unwrap();
    let reply = read_reply(&mut open, false);
    assert_eq!((reply.status, reply.header("connection")), (200, Some("close")));
    server.wait();
}
