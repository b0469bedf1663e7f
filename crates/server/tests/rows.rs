//! Rows, batches and scans as a client meets them.

mod support;

use support::{Running, ask};

#[test]
fn a_row_goes_through_its_life() {
    let server = Running::solo();
    let missing = server.get("/table/0x1?key=apple");
    assert_eq!((missing.status, missing.problem().as_str()), (404, "row-not-found"));
    assert_eq!(missing.said("value-txclock"), "0");
    assert!(missing.header("read-txclock").is_some() && missing.header("server-txclock").is_some());

    let created = server.post("/table/0x1?key=apple", &[], "{\"v\": 1.0}\n");
    assert_eq!(created.status, 200, "{created:?}");
    let (tag, time) = (created.said("etag"), created.said("value-txclock"));
    assert_eq!(tag, format!("\"0x{:X}\"", time.parse::<u64>().unwrap()));
    assert!(created.header("transaction-id").is_some());

    let read = server.get("/table/1?key=apple");
    assert_eq!((read.status, read.text()), (200, "{\"v\": 1.0}\n"), "byte for byte");
    assert_eq!(read.said("content-type"), "application/json");
    assert_eq!((read.said("etag"), read.said("value-txclock")), (tag, time));
    assert_eq!(read.said("vary"), "Read-TxClock");
    assert!(read.header("last-modified").is_some() && read.header("date").is_some());

    let head = server.ask("HEAD", "/table/0x1?key=apple", &[]);
    assert_eq!((head.status, head.body.len(), head.said("content-length")), (200, 0, "11"));

    let again = server.post("/table/0x1?key=apple", &[], "2");
    assert_eq!((again.status, again.problem().as_str()), (409, "collision"));

    let known = server.ask("GET", "/table/0x1?key=apple", &[("if-none-match", tag)]);
    assert_eq!((known.status, known.body.len(), known.said("etag")), (304, 0, tag));
    let known = server.ask("GET", "/table/0x1?key=apple", &[("condition-txclock", time)]);
    assert_eq!(known.status, 304);

    let deleted = server.ask("DELETE", "/table/0x1?key=apple", &[("if-match", tag)]);
    assert_eq!(deleted.status, 200);
    let gone = server.get("/table/0x1?key=apple");
    assert_eq!((gone.status, gone.said("value-txclock")), (404, deleted.said("value-txclock")));
    let past = server.ask("GET", "/table/0x1?key=apple", &[("read-txclock", time)]);
    assert_eq!((past.status, past.text()), (200, "{\"v\": 1.0}\n"));
    assert_eq!(past.said("read-txclock"), time);
}

#[test]
fn a_stale_write_is_refused_with_the_latest_version() {
    let server = Running::solo();
    let first = server.put("/table/0x1?key=a", "1");
    let second = server.put("/table/0x1?key=a", "2");
    let stale = ask(server.data, "PUT", "/table/0x1?key=a", &[("if-match", first.said("etag"))], b"3");
    assert_eq!((stale.status, stale.problem().as_str()), (412, "stale"));
    assert_eq!(stale.said("etag"), second.said("etag"));
    assert_eq!(stale.said("value-txclock"), second.said("value-txclock"));
    let condition = first.said("value-txclock");
    let stale = ask(server.data, "PUT", "/table/0x1?key=a", &[("condition-txclock", condition)], b"3");
    assert_eq!(stale.status, 412);
    let absent = ask(server.data, "PUT", "/table/0x1?key=a", &[("if-none-match", "*")], b"3");
    assert_eq!(absent.status, 412);
    assert_eq!(server.get("/table/0x1?key=a").text(), "2");
    let fresh = second.said("value-txclock");
    let written = ask(server.data, "PUT", "/table/0x1?key=a", &[("condition-txclock", fresh)], b"3");
    assert_eq!(written.status, 200);
}

#[test]
fn other_content_is_kept_with_its_type() {
    let server = Running::solo();
    let written =
        ask(server.data, "PUT", "/table/0x1?key=p", &[("content-type", "image/png")], b"\x89PNG\x00");
    assert_eq!(written.status, 200);
    let read = server.get("/table/0x1?key=p");
    assert_eq!((read.said("content-type"), &read.body[..]), ("image/png", &b"\x89PNG\x00"[..]));
    let rows = server.get("/table/0x1").json();
    assert_eq!(rows[0]["value"]["contentType"], "image/png");
    assert_eq!(rows[0]["value"]["base64"], "iVBORwA=");
}

#[test]
fn named_tables_need_the_schema_and_keys_in_paths_are_decoded() {
    let server = Running::solo();
    let unknown = server.get("/fruit/apple");
    assert_eq!((unknown.status, unknown.problem().as_str()), (404, "table-not-found"));
    let schema = "table fruit { id : 0x1; };";
    let put = ask(server.admin, "PUT", "/admin/treode/schema", &[], schema.as_bytes());
    assert_eq!(put.status, 200, "{put:?}");
    assert_eq!(ask(server.admin, "GET", "/admin/schema", &[], b"").text(), schema);
    let bad = ask(server.admin, "PUT", "/admin/schema", &[], b"tabel x;");
    assert_eq!((bad.status, bad.problem().as_str()), (400, "invalid-schema"));

    assert_eq!(server.put("/fruit/a%2Fb%20c", "1").status, 200);
    assert_eq!(server.get("/table/fruit?key=a/b+c").text(), "1");
    assert_eq!(server.get("/fruit").json()[0]["key"], "a/b c");
    assert_eq!(server.get("/fruit/").json()[0]["key"], "a/b c");
    let bad = server.get("/fruit/a%zz");
    assert_eq!((bad.status, bad.problem().as_str()), (400, "bad-request"));
}

#[test]
fn a_batch_is_written_whole_and_its_status_can_be_asked() {
    let server = Running::solo();
    let body = r#"[{"table":"0x1","key":"a","op":"create","value":1},{"table":"0x2","key":"b","op":"update","value":2}]"#;
    let written = server.post("/batch-write", &[("transaction-id", "00BEEF")], body);
    assert_eq!((written.status, written.said("transaction-id")), (200, "beef"));
    let time = written.said("value-txclock");
    assert_eq!(server.get("/table/2?key=b").said("value-txclock"), time);

    let repeated = server.post("/batch-write", &[("transaction-id", "beef")], body);
    assert_eq!((repeated.status, repeated.said("value-txclock")), (200, time));
    let other = server.post("/batch-write", &[("transaction-id", "beef")], &body.replace("2}", "3}"));
    assert_eq!((other.status, other.problem().as_str()), (422, "transaction-id-reused"));

    let status = server.ask("GET", "/tx-status", &[("transaction-id", "BeeF")]);
    assert_eq!((status.status, status.said("value-txclock")), (200, time));
    let unknown = server.ask("GET", "/tx-status/", &[("transaction-id", "f00d")]);
    assert_eq!((unknown.status, unknown.problem().as_str()), (409, "transaction-aborted"));
    let late = ask(server.data, "PUT", "/table/1?key=z", &[("transaction-id", "f00d")], b"1");
    assert_eq!((late.status, late.problem().as_str()), (409, "transaction-aborted"));
    assert_eq!(server.get("/tx-status").status, 400);

    let collides = server.post("/batch-write", &[], body);
    assert_eq!(collides.status, 409);
    assert!(collides.json()["detail"].as_str().unwrap().contains("\"a\""), "{collides:?}");
}

#[test]
fn pages_linked_together_are_one_snapshot_of_the_table() {
    let server = Running::solo();
    for i in 0..25 {
        server.put(&format!("/table/0x1?key=k{i:02}"), &i.to_string());
    }
    let mut target = "/table/0x1?limit=10".to_owned();
    let mut keys = Vec::new();
    let mut pages = 0;
    loop {
        let page = server.get(&target);
        assert_eq!(page.status, 200);
        keys.extend(page.json().as_array().unwrap().iter().map(|r| r["key"].as_str().unwrap().to_owned()));
        pages += 1;
        // What is written between two pages is not seen by the later ones.
        server.put("/table/0x1?key=k99", "new");
        let Some(link) = page.header("link") else { break };
        let url =
            link.strip_prefix("<http://shared.example").unwrap().strip_suffix(">; rel=\"next\"").unwrap();
        assert!(url.starts_with("/table/0x1?key=k"), "{link}");
        target = url.to_owned();
    }
    assert_eq!(pages, 3);
    assert_eq!(keys, (0..25).map(|i| format!("k{i:02}")).collect::<Vec<_>>());
}

#[test]
fn a_limit_of_nothing_gives_nothing_and_leads_to_the_first_row() {
    let server = Running::solo();
    assert!(server.get("/table/0x1?limit=0").header("link").is_none(), "an empty table has no next page");
    server.put("/table/0x1?key=a", "1");
    for limit in ["0", "-5"] {
        let page = server.get(&format!("/table/0x1?limit={limit}"));
        assert_eq!(page.text(), "[]");
        assert!(page.said("link").contains(&format!("?key=a&time={}", page_time(&server))), "{page:?}");
    }
    let all = server.get("/table/0x1?limit=1");
    assert!(all.header("link").is_none(), "the last page has no next one");
}

fn page_time(server: &Running) -> String {
    server.get("/table/0x1?key=a").said("value-txclock").to_owned()
}

#[test]
fn a_long_scan_is_streamed_as_an_array_or_as_lines() {
    let server = Running::solo();
    let value = "x".repeat(900);
    for batch in 0..4 {
        let ops: Vec<_> = (0..100)
            .map(|i| {
                format!(
                    r#"{{"table":"0x1","key":"k{:03}","op":"update","value":"{value}"}}"#,
                    batch * 100 + i
                )
            })
            .collect();
        assert_eq!(server.post("/batch-write", &[], &format!("[{}]", ops.join(","))).status, 200);
    }
    let array = server.get("/table/0x1");
    assert!(array.whole);
    assert_eq!(
        (array.said("transfer-encoding"), array.said("content-type")),
        ("chunked", "application/json")
    );
    assert_eq!(array.json().as_array().unwrap().len(), 400);

    let lines = server.ask("GET", "/table/0x1", &[("accept", "application/x-ndjson")]);
    assert_eq!(lines.said("content-type"), "application/x-ndjson");
    assert!(lines.whole && lines.header("read-txclock").is_some());
    let keys: Vec<String> = lines
        .text()
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["key"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(keys, (0..400).map(|i| format!("k{i:03}")).collect::<Vec<_>>());

    let from = server.get("/table/0x1?key=k390&end=k395&scan=1").json();
    assert_eq!(from.as_array().unwrap().len(), 5);
    let empty = server.get("/table/0x2");
    assert_eq!(empty.text(), "[]");
    let slices = [0, 1]
        .map(|s| server.get(&format!("/table/0x1?slice={s}&nslices=2")).json().as_array().unwrap().len());
    assert_eq!(slices[0] + slices[1], 400);
    assert!(slices.iter().all(|n| *n > 0));
}

#[test]
fn every_version_of_a_row_can_be_scanned() {
    let server = Running::solo();
    let times: Vec<String> = ["1", "2"]
        .iter()
        .map(|v| server.put("/table/0x1?key=a", v).said("value-txclock").to_owned())
        .collect();
    server.ask("DELETE", "/table/0x1?key=a", &[]);
    assert_eq!(server.get("/table/0x1").text(), "[]");
    let all = server.get("/table/0x1?pick=between").json();
    let values: Vec<_> = all.as_array().unwrap().iter().map(|r| r["value"].clone()).collect();
    assert_eq!(values, [serde_json::Value::Null, 2.into(), 1.into()]);
    let then = server.get(&format!("/table/0x1?until={}", times[0])).json();
    assert_eq!(then[0]["value"], 1);
    let bad = server.get("/table/0x1?since=abc");
    assert_eq!(bad.status, 400);
    assert!(bad.json()["detail"].as_str().unwrap().starts_with("Bad time for since: abc"));
}
