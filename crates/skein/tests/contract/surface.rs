//! Everything around the rows: which paths and methods there are, `/openapi.json`, health, metrics, request IDs.

use crate::support::Server;
use crate::support::shared::{Solo, Table, problem, problem_saying, solo};
use crate::support::wire::{Reply, ask};
use std::collections::{BTreeMap, BTreeSet};

const METHODS: [&str; 5] = ["GET", "HEAD", "PUT", "POST", "DELETE"];

/// Every path and its methods besides OPTIONS, as `docs/HTTP.md` lists them.
const DATA: [(&str, &str); 15] = [
    ("/table/{table}", "GET HEAD PUT POST DELETE"),
    ("/{name}/{key}", "GET HEAD PUT POST DELETE"),
    ("/{name}", "GET HEAD"),
    ("/batch-write", "POST"),
    ("/tx-status", "GET HEAD"),
    ("/atlas", "GET HEAD PUT"),
    ("/peers", "GET HEAD"),
    ("/hosts", "GET HEAD"),
    ("/flock", "GET HEAD"),
    ("/catalog/{catalogKey}", "GET HEAD PUT DELETE"),
    ("/catalog", "GET HEAD"),
    ("/metrics", "GET HEAD"),
    ("/health/live", "GET HEAD"),
    ("/health/ready", "GET HEAD"),
    ("/openapi.json", "GET HEAD"),
];
const ADMIN: [(&str, &str); 15] = [
    ("/admin/schema", "GET HEAD PUT"),
    ("/admin/treode/schema", "GET HEAD PUT"),
    ("/admin/atlas", "GET HEAD PUT"),
    ("/admin/treode/atlas", "GET HEAD PUT"),
    ("/admin/tables", "GET HEAD"),
    ("/admin/treode/tables", "GET HEAD"),
    ("/admin/status", "GET HEAD"),
    ("/admin/drain", "POST"),
    ("/admin/rejoin", "POST"),
    ("/admin/forget", "POST"),
    ("/admin/ping", "GET HEAD"),
    ("/metrics", "GET HEAD"),
    ("/health/live", "GET HEAD"),
    ("/health/ready", "GET HEAD"),
    ("/openapi.json", "GET HEAD"),
];

/// Both ports with what they have to serve.
fn ports(solo: &Solo) -> [(&str, &'static [(&'static str, &'static str)]); 2] {
    [(&solo.server.http, &DATA), (&solo.server.admin, &ADMIN)]
}

/// A path with its blanks filled in.
fn example(table: &Table, path: &str) -> String {
    path.replace("{table}", &table.id())
        .replace("{name}", &table.name())
        .replace("{key}", "k")
        .replace("{catalogKey}", "k")
}

#[test]
fn the_document_lists_exactly_what_is_served() {
    let solo = solo();
    for (addr, served) in ports(&solo) {
        let reply = ask(addr, "GET", "/openapi.json", &[], b"");
        assert_eq!((reply.status, reply.said("content-type")), (200, "application/json"));
        let document = reply.json();
        assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
        let listed: BTreeMap<String, BTreeSet<String>> = document["paths"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(path, item)| {
                let methods = item.as_object().unwrap().keys().filter(|name| *name != "parameters");
                (path.clone(), methods.map(|name| name.to_uppercase()).collect())
            })
            .collect();
        let wanted = served
            .iter()
            .map(|(path, methods)| {
                let methods = methods.split(' ').chain(["OPTIONS"]).map(str::to_owned).collect();
                ((*path).to_owned(), methods)
            })
            .collect();
        assert_eq!(listed, wanted);
        // What the document points at is there.
        let text = reply.text();
        for reference in text.split("\"$ref\":\"#").skip(1) {
            let pointer = reference.split('"').next().unwrap();
            assert!(document.pointer(pointer).is_some(), "{pointer}");
        }
    }
}

#[test]
fn every_method_that_is_listed_is_served_and_no_other() {
    let table = Table::new();
    for (addr, served) in ports(&table.solo) {
        for (path, methods) in served {
            let methods: Vec<&str> = methods.split(' ').collect();
            for slash in ["", "/"] {
                if path.ends_with("ey}") && slash == "/" {
                    continue;
                }
                let path = format!("{}{slash}", example(&table, path));
                let allow = format!("{}, OPTIONS", methods.join(", "));
                for method in METHODS {
                    table.put("k", "1");
                    assert_eq!(table.solo.ask("PUT", "/catalog/k", &[], "1").status, 200);
                    // A body that is no atlas, schema, batch or value: nothing is to change here.
                    let reply = ask(addr, method, &path, &[], if method == "GET" { b"" } else { b"{" });
                    if methods.contains(&method) {
                        assert!(!matches!(reply.status, 404 | 405 | 500..), "{method} {path}: {reply:?}");
                    } else {
                        assert_eq!(
                            (reply.status, reply.said("allow")),
                            (405, allow.as_str()),
                            "{method} {path}"
                        );
                        if method != "HEAD" {
                            problem_saying(&reply, 405, "method-not-allowed", &allow);
                        }
                    }
                }
                for strange in ["PATCH", "TRACE", "get", "PROPFIND", "CONNECTED"] {
                    let reply = ask(addr, strange, &path, &[], b"");
                    problem(&reply, 405, "method-not-allowed");
                    assert_eq!(reply.said("allow"), allow, "{strange} {path}");
                }
                let options = ask(addr, "OPTIONS", &path, &[], b"");
                assert_eq!((options.status, options.said("allow")), (204, allow.as_str()), "{path}");
                assert!(options.body.is_empty() && options.header("x-request-id").is_some());
            }
        }
    }
    assert_eq!(table.solo.ask("OPTIONS", "*", &[], "").status, 204);
}

#[test]
fn anything_else_is_a_404_that_leads_on() {
    let solo = solo();
    for path in [
        "/",
        "//",
        "/a/b/c",
        "/t1/a/",
        "/t1/a/b",
        "//a",
        "/table",
        "/table/",
        "/table/0x1/a",
        "/table//",
        "/peers/x",
        "/batch-write/x",
        "/tx-status/x",
        "/atlas/x",
        "/health",
        "/health/x",
        "/metrics/x",
        "/admin/schema",
        "/admin",
        "/catalog/a/b",
        "/flock/x",
        "/console",
        "/favicon.ico",
        "/robots.txt",
        "/openapi.json/x",
    ] {
        for method in ["GET", "PUT", "OPTIONS"] {
            problem_saying(&solo.ask(method, path, &[], "1"), 404, "not-found", "/openapi.json");
        }
    }
    for path in [
        "/",
        "/t1/a",
        "/t1",
        "/table/0x1?key=a",
        "/batch-write",
        "/atlas",
        "/admin/",
        "/admin/drives",
        "/admin/treode/",
    ] {
        problem_saying(&solo.admin("GET", path, &[], ""), 404, "not-found", "admin port");
    }
}

#[test]
fn peers_and_hosts_name_this_server() {
    let solo = solo();
    let atlas = solo.get("/atlas").json();
    let host = atlas[0]["hosts"][0].as_str().unwrap().to_owned();
    assert!(
        host.len() == 18
            && host.starts_with("0x")
            && host[2..].bytes().all(|b| b"0123456789ABCDEF".contains(&b)),
        "{host}"
    );
    let shared = "db.example:80";
    let peer = serde_json::json!([{ "weight": 1, "hostId": host, "addr": shared, "sslAddr": null }]);
    let named = serde_json::json!([{ "weight": 1, "addr": shared, "sslAddr": null }]);
    for query in ["", "?slice=0&nslices=1", "?slice=3&nslices=4", "?slice=0x7&nslices=010&unknown=1"] {
        let reply = solo.get(&format!("/peers{query}"));
        assert_eq!((reply.json(), reply.said("content-type")), (peer.clone(), "application/json"), "{query}");
        assert_eq!(solo.get(&format!("/hosts{query}")).json(), named, "{query}");
    }
    for (query, message) in [
        ("slice=0", "Both slice and nslices are needed together."),
        ("nslices=2", "Both slice and nslices are needed together."),
        ("slice=abc&nslices=2", "Bad integer for slice: abc"),
        ("slice=0&nslices=abc", "Bad integer for nslices: abc"),
        ("slice=0&nslices=3", "Number of slices must be a power of two and at least one."),
        ("slice=2&nslices=2", "The slice must be between 0"),
    ] {
        for path in ["/peers", "/hosts"] {
            problem_saying(&solo.get(&format!("{path}?{query}")), 400, "bad-request", message);
        }
    }
}

#[test]
fn a_server_that_serves_rows_says_that_it_is_live_and_ready() {
    let solo = solo();
    for (addr, _) in ports(&solo) {
        for path in ["/health/live", "/health/ready", "/health/ready/"] {
            assert_eq!(ask(addr, "GET", path, &[], b"").status, 200, "{path}");
        }
    }
    assert_eq!(solo.admin("GET", "/admin/ping", &[], "").text(), "pong");
}

/// The value of a series, by its name and labels in any order; 0 if it is not there.
fn series(metrics: &Reply, name: &str, labels: &[&str]) -> u64 {
    let line = metrics.text().lines().find(|line| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|rest| {
            rest.starts_with(['{', ' ']) && labels.iter().all(|label| rest.contains(label))
        })
    });
    line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64)
}

#[test]
fn metrics_count_requests_by_route_method_and_status() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::solo(dir.path());
    let send = |method: &str, target: &str, headers: &[(&str, &str)], body: &str| {
        ask(&server.http, method, target, headers, body.as_bytes()).status
    };
    let batch = r#"[{"table":"0x2","key":"a","op":"update","value":1}]"#;
    let sent: [(&str, &str, &str, u16, u64); 12] = [
        ("PUT", "/table/0x1?key=a", "row", 200, 3),
        ("GET", "/table/0x1?key=a", "row", 200, 2),
        ("HEAD", "/table/0x1?key=a", "row", 200, 1),
        ("GET", "/table/0x1?key=b", "row", 404, 2),
        ("POST", "/table/0x1?key=a", "row", 409, 1),
        ("DELETE", "/table/0x1?key=b", "row", 200, 1),
        ("PATCH", "/table/0x1?key=a", "row", 405, 1),
        ("GET", "/table/0x1", "scan", 200, 2),
        ("POST", "/batch-write", "batch-write", 200, 1),
        ("GET", "/tx-status", "tx-status", 400, 1),
        ("GET", "/atlas", "atlas", 200, 1),
        ("GET", "/nothing/at/all", "unknown", 404, 1),
    ];
    for (method, target, _, status, times) in sent {
        for _ in 0..times {
            let body = if method == "POST" && target == "/batch-write" { batch } else { "1" };
            assert_eq!(send(method, target, &[], body), status, "{method} {target}");
        }
    }
    for addr in [&server.http, &server.admin] {
        let metrics = ask(addr, "GET", "/metrics", &[], b"");
        assert!(metrics.said("content-type").starts_with("text/plain; version=0.0.4"));
        for (method, _, route, status, times) in sent {
            let method = if method == "PATCH" { "other" } else { method };
            let labels = [
                format!("route=\"{route}\""),
                format!("method=\"{method}\""),
                format!("status=\"{status}\""),
            ];
            let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
            assert_eq!(series(&metrics, "skein_http_requests_total", &labels), times, "{labels:?}");
        }
        let timed = series(&metrics, "skein_http_request_seconds_count", &["route=\"row\""]);
        assert_eq!(timed, 11);
        assert!(0 < series(&metrics, "skein_process_resident_bytes", &[]));
        assert!(0 < series(&metrics, "skein_log_bytes", &[]));
        // Every line is a comment or a series with a number.
        for line in metrics.text().lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
            let value = line.rsplit(' ').next().unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
    }
}

#[test]
fn every_answer_names_its_request() {
    let solo = solo();
    let mut seen = BTreeSet::new();
    for path in ["/atlas", "/nothing/at/all", "/t1", "/metrics", "/t1/never-written"] {
        let reply = solo.get(path);
        assert!(seen.insert(reply.said("x-request-id").to_owned()), "{path}");
    }
    for own in ["a", "abc-123", "7f3e/1:2", &"x".repeat(128)] {
        let reply = solo.ask("GET", "/t1/never-written", &[("X-Request-Id", own)], "");
        assert_eq!(reply.said("x-request-id"), own);
        assert_eq!(problem(&reply, 404, "row-not-found")["requestId"], own);
    }
    for wild in ["", "a b", "a\tb", "<x>", "a\"b", "\u{e4}", &"x".repeat(129)] {
        let reply = solo.ask("GET", "/t1/never-written", &[("X-Request-Id", wild)], "");
        let made_up = reply.said("x-request-id");
        assert_ne!(made_up, wild);
        assert!(made_up.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'), "{made_up}");
        problem(&reply, 404, "row-not-found");
    }
}

#[test]
fn a_long_name_does_not_make_a_long_answer() {
    let solo = solo();
    let long = "x".repeat(60_000);
    for path in [
        format!("/{long}/k"),
        format!("/a/b/{long}"),
        format!("/t1?until={long}"),
        format!("/t1?pick={long}"),
    ] {
        let reply = solo.get(&path);
        assert!(matches!(reply.status, 400 | 404), "{}", reply.status);
        assert!(reply.body.len() < 1000, "{}", reply.body.len());
    }
}
