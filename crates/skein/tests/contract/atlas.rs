//! The atlas: who serves the rows, and what a server answers that was never told.

use crate::support::shared::{problem, problem_saying, written};
use crate::support::wire::{Connection, Headers, Reply, ask, head};
use crate::support::{Server, within};
use serde_json::json;

/// The server's own ID, as its start says it.
fn host(dir: &std::path::Path) -> String {
    let identity = std::fs::read_to_string(dir.join("skein.id")).unwrap();
    identity.lines().find_map(|line| line.strip_prefix("host ")).unwrap().trim().to_owned()
}

#[test]
fn a_server_that_was_never_told_its_place_answers_504_and_how_to_tell_it() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&["--init", "--request-timeout", "200ms"], dir.path());
    let get = |target: &str| ask(&server.http, "GET", target, &[], b"");
    let atlas = get("/atlas");
    assert_eq!((atlas.json(), atlas.said("etag")), (json!([{ "state": "empty" }]), "\"0\""));
    assert_eq!(get("/peers").text(), "[]");
    assert_eq!(get("/health/live").status, 200);
    problem(&get("/health/ready"), 503, "not-ready");
    problem_saying(&ask(&server.admin, "GET", "/health/ready", &[], b""), 503, "not-ready", "PUT /atlas");

    let batch = br#"[{"table":"0x1","key":"a","op":"update","value":1}]"#;
    let id = [("Transaction-ID", "c0ffee")];
    let requests: [(&str, &str, Headers<'_>, &[u8]); 7] = [
        ("GET", "/table/0x1?key=a", &[], b""),
        ("PUT", "/table/0x1?key=a", &[], b"1"),
        ("POST", "/table/0x1?key=a", &[], b"1"),
        ("DELETE", "/table/0x1?key=a", &[], b""),
        ("GET", "/table/0x1", &[], b""),
        ("POST", "/batch-write", &[], batch),
        ("GET", "/tx-status", &id, b""),
    ];
    let ask_it = |i: usize| {
        let (method, target, headers, body) = requests[i];
        ask(&server.http, method, target, headers, body)
    };
    std::thread::scope(|scope| {
        let asked: Vec<_> = (0..requests.len()).map(|i| scope.spawn(move || ask_it(i))).collect();
        for reply in asked {
            let reply = reply.join().unwrap();
            let refused = problem_saying(&reply, 504, "no-atlas", "--solo");
            assert!(refused["detail"].as_str().unwrap().contains("/atlas"));
            assert!(reply.header("server-txclock").is_some());
        }
    });
    // Mistakes are still told as such.
    problem(&get("/fruit/apple"), 404, "table-not-found");
    problem(&get("/table/0x1?key=%zz"), 400, "bad-request");
    problem(&ask(&server.admin, "PUT", "/admin/schema", &[], b"table a { id : 1; };"), 504, "no-atlas");

    server.stop();

    // From here on with as much patience as a busy machine may need: a change of the atlas waits like any request.
    let server = Server::start(&[], dir.path());
    let get = |target: &str| ask(&server.http, "GET", target, &[], b"");
    let put =
        |headers: &[(&str, &str)], body: &str| ask(&server.http, "PUT", "/atlas", headers, body.as_bytes());
    let host = host(dir.path());
    let settled = format!(r#"[{{"hosts":["{host}"]}}]"#);
    problem_saying(&put(&[], r#"[{"hosts":["0x1"]}]"#), 400, "atlas-unsupported", &host);
    problem(&put(&[("If-Match", "\"7\"")], &settled), 412, "stale");
    assert_eq!(get("/atlas").json(), json!([{ "state": "empty" }]));
    let told = put(&[("If-Match", "\"0\"")], &settled);
    assert_eq!((told.status, told.text(), told.said("etag")), (200, "", "\"1\""));
    assert_eq!(get("/atlas").json(), json!([{ "state": "settled", "hosts": [host] }]));
    assert_eq!(get("/health/ready").status, 200);
    assert_eq!(get("/peers").json()[0]["hostId"], *host);
    let time = written(&ask(&server.http, "PUT", "/table/0x1?key=a", &[], b"1"));
    server.kill();

    // It remembers, without being told again.
    let server = Server::start(&[], dir.path());
    let read = ask(&server.http, "GET", "/table/0x1?key=a", &[], b"");
    assert_eq!((read.text(), read.number("value-txclock")), ("1", time));
}

#[test]
fn requests_that_wait_for_an_atlas_are_answered_when_it_comes() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&["--init", "--request-timeout", "60s"], dir.path());
    let mut waiting = Connection::open(&server.http);
    waiting.send(&head("PUT", "/table/0x1?key=a", &[], b"1")).unwrap();
    waiting.send(b"1").unwrap();
    // The request that asks is one of those in flight.
    within(|| {
        ask(&server.admin, "GET", "/metrics", &[], b"")
            .text()
            .contains("skein_http_inflight 2\n")
            .then_some(())
    });
    let body = format!(r#"[{{"state":"Settled","hosts":["{}"]}}]"#, host(dir.path()));
    assert_eq!(ask(&server.admin, "PUT", "/admin/treode/atlas", &[], body.as_bytes()).status, 200);
    let time = written(&waiting.reply_to("PUT").unwrap());
    assert_eq!(ask(&server.http, "GET", "/table/0x1?key=a", &[], b"").number("value-txclock"), time);
}

#[test]
fn an_atlas_has_a_version_that_makes_puts_conditional() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::solo(dir.path());
    let host = host(dir.path());
    let get = |headers: &[(&str, &str)]| ask(&server.http, "GET", "/atlas", headers, b"");
    let put =
        |headers: &[(&str, &str)], body: &str| ask(&server.http, "PUT", "/atlas", headers, body.as_bytes());
    let atlas = get(&[]);
    assert_eq!((atlas.said("etag"), atlas.said("content-type")), ("\"1\"", "application/json"));
    assert_eq!(atlas.json(), json!([{ "state": "settled", "hosts": [host] }]));
    for path in ["/admin/atlas", "/admin/treode/atlas", "/admin/atlas/"] {
        assert_eq!(ask(&server.admin, "GET", path, &[], b"").text(), atlas.text(), "{path}");
    }
    for known in ["\"1\"", "1", "W/\"1\"", "*", "\"0\", \"1\""] {
        let reply = get(&[("If-None-Match", known)]);
        assert_eq!((reply.status, reply.body.len(), reply.said("etag")), (304, 0, "\"1\""), "{known}");
    }
    assert_eq!(get(&[("If-None-Match", "\"2\"")]).status, 200);

    // What is put is what is there: nothing changes, in any spelling of the host.
    let number = u64::from_str_radix(&host[2..], 16).unwrap();
    for body in [
        atlas.text().to_owned(),
        format!(r#"[{{"hosts":["{host}"]}}]"#),
        format!(r#" [ {{ "hosts" : [ {number} ], "state" : "SETTLED", "note": 1 }} ]"#),
        format!(r##"[{{"hosts":["#{number:x}","{host}"]}}]"##),
    ] {
        for headers in [&[][..], &[("If-Match", "\"1\"")], &[("If-Match", "*")]] {
            let reply = put(headers, &body);
            assert_eq!((reply.status, reply.said("etag")), (200, "\"1\""), "{body}");
        }
        let stale = put(&[("If-Match", "\"2\"")], &body);
        assert_eq!(problem(&stale, 412, "stale")["version"], 1);
        assert_eq!(stale.said("etag"), "\"1\"");
    }
}

#[test]
fn an_atlas_with_a_mistake_is_refused_and_nothing_changes() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::solo(dir.path());
    let put = |body: &str| -> Reply { ask(&server.http, "PUT", "/atlas", &[], body.as_bytes()) };
    let before = ask(&server.http, "GET", "/atlas", &[], b"").body;
    let even = r#"["0x1","0x2"]"#;
    let (one, two) = (r#"["0x1"]"#, r#"["0x2"]"#);
    let cases = [
        ("".to_owned(), "JSON"),
        ("[".to_owned(), "JSON"),
        ("{}".to_owned(), "array"),
        ("7".to_owned(), "array"),
        ("[]".to_owned(), "Number of cohorts must be a power of two."),
        (
            format!(r#"[{{"hosts":{one}}},{{"hosts":{one}}},{{"hosts":{one}}}]"#),
            "Number of cohorts must be a power of two.",
        ),
        ("[7]".to_owned(), "Malformed cohort"),
        (r#"[{"hosts":7}]"#.to_owned(), "Malformed cohort"),
        (r#"[{"state":"lost","hosts":["0x1"]}]"#.to_owned(), "Malformed state"),
        (r#"[{"state":7,"hosts":["0x1"]}]"#.to_owned(), "Malformed state"),
        (r#"[{"hosts":["0xg"]}]"#.to_owned(), "Malformed host ID"),
        (r#"[{"hosts":[-1]}]"#.to_owned(), "Malformed host ID"),
        (r#"[{"hosts":[1.5]}]"#.to_owned(), "Malformed host ID"),
        (r#"[{"hosts":[null]}]"#.to_owned(), "Malformed host ID"),
        (r#"[{"hosts":["18446744073709551616"]}]"#.to_owned(), "Malformed host ID"),
        (format!(r#"[{{"hosts":{even}}}]"#), "The cohort needs an odd number of hosts."),
        (
            format!(r#"[{{"state":"issuing","origin":{even},"target":{one}}}]"#),
            "The origin needs an odd number of hosts.",
        ),
        (
            format!(r#"[{{"state":"moving","origin":{one},"target":{even}}}]"#),
            "The target needs an odd number of hosts.",
        ),
        (format!(r#"[{{"state":"issuing","origin":{one},"target":{one}}}]"#), "This cohort appears settled."),
        ("[{}]".to_owned(), "A settled cohort should have only hosts"),
        (r#"[{"hosts":[]}]"#.to_owned(), "A settled cohort should have only hosts"),
        (format!(r#"[{{"hosts":{one},"target":{two}}}]"#), "A settled cohort should have only hosts"),
        (
            format!(r#"[{{"state":"issuing","origin":{one}}}]"#),
            "An issuing cohort should have only an origin and target",
        ),
        (
            format!(r#"[{{"state":"moving","target":{one}}}]"#),
            "A moving cohort should have only an origin and target",
        ),
        (
            format!(r#"[{{"state":"empty","hosts":{one}}}]"#),
            "An empty cohort should not have hosts, origin or target",
        ),
        (r#"[{"state":"empty"}]"#.to_owned(), "cannot be empty"),
    ];
    for (body, message) in &cases {
        problem_saying(&put(body), 400, "invalid-atlas", message);
    }
    for foreign in [
        format!(r#"[{{"hosts":{one}}}]"#),
        format!(r#"[{{"state":"moving","origin":{one},"target":{two}}}]"#),
    ] {
        problem(&put(&foreign), 400, "atlas-unsupported");
    }
    problem_saying(&put(&"[".repeat(1 << 20)), 400, "invalid-atlas", "JSON");
    let refused = problem(&put(&" ".repeat((1 << 20) + 1)), 413, "too-large");
    assert_eq!(refused["limit"], 1 << 20);
    for bad in ["abc", "\"x\"", ""] {
        let reply = ask(&server.http, "PUT", "/atlas", &[("If-Match", bad)], &before);
        problem_saying(&reply, 400, "bad-request", "If-Match");
    }
    assert_eq!(ask(&server.http, "GET", "/atlas", &[], b"").body, before);
    assert_eq!(ask(&server.http, "GET", "/atlas", &[], b"").said("etag"), "\"1\"");
}
