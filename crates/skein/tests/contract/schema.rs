//! The schema: names of tables, what is wrong with one, and what becomes of a table that it drops.

use crate::support::Server;
use crate::support::shared::{problem, problem_saying, written};
use crate::support::wire::{Reply, ask};
use tempfile::TempDir;

/// A server of one's own, since its schema is everybody's.
struct Own {
    server: Server,
    _dir: TempDir,
}

impl Own {
    fn new() -> Own {
        let dir = tempfile::tempdir().unwrap();
        Own { server: Server::solo(dir.path()), _dir: dir }
    }

    fn ask(&self, method: &str, target: &str, body: &str) -> Reply {
        ask(&self.server.http, method, target, &[], body.as_bytes())
    }

    fn get_schema(&self) -> Reply {
        ask(&self.server.admin, "GET", "/admin/schema", &[], b"")
    }

    fn put_schema(&self, text: &str) -> Reply {
        ask(&self.server.admin, "PUT", "/admin/schema", &[], text.as_bytes())
    }

    fn accept(&self, text: &str) {
        let reply = self.put_schema(text);
        assert_eq!((reply.status, reply.text()), (200, ""), "{text}: {reply:?}");
        assert_eq!(self.get_schema().text(), text);
    }
}

#[test]
fn a_schema_is_in_force_when_the_put_answers_and_comes_back_as_it_was_put() {
    let own = Own::new();
    let empty = own.get_schema();
    assert_eq!((empty.status, empty.text()), (200, ""));
    assert!(empty.said("content-type").starts_with("text/plain"));
    problem(&own.ask("PUT", "/fruit/apple", "1"), 404, "table-not-found");
    for text in [
        "table fruit { id : 0x1; };",
        "table fruit{id:1;};table _x$9 { id: 010; retain : 90d; };",
        "// a comment\n\ttable\n fruit { id : 18446744073709551615 ; } ;\n\nresource \"/.*\" ;\n# another\n",
        " \n",
    ] {
        own.accept(text);
        let named = own.ask("PUT", "/fruit/apple", "1");
        assert_eq!(named.status, if text.contains("fruit") { 200 } else { 404 }, "{text}");
    }
    own.accept("");
    let form = [("Content-Type", "application/x-www-form-urlencoded")];
    let put = ask(&own.server.admin, "PUT", "/admin/treode/schema", &form, b"table a { id : 0x2; };");
    assert_eq!(put.status, 200);
    assert_eq!(
        ask(&own.server.admin, "GET", "/admin/treode/schema", &[], b"").text(),
        "table a { id : 0x2; };"
    );
}

#[test]
fn rows_belong_to_the_id_whatever_its_name_is() {
    let own = Own::new();
    own.accept("table fruit { id : 0x10; };");
    let time = written(&own.ask("PUT", "/fruit/apple", "1"));
    own.accept("table veg { id : 0x11; };");
    problem(&own.ask("GET", "/fruit/apple", ""), 404, "table-not-found");
    problem(&own.ask("GET", "/table/fruit?key=apple", ""), 404, "table-not-found");
    problem(&own.ask("GET", "/fruit", ""), 404, "table-not-found");
    let batch = r#"[{"table":"fruit","key":"apple","op":"delete"}]"#;
    problem_saying(&own.ask("POST", "/batch-write", batch), 400, "bad-request", "Bad table ID: fruit");
    problem(&own.ask("GET", "/veg/apple", ""), 404, "row-not-found");
    let by_id = own.ask("GET", "/table/0x10?key=apple", "");
    assert_eq!((by_id.text(), by_id.number("value-txclock")), ("1", time), "the rows are kept");
    own.accept("table fruits { id : 16; };");
    assert_eq!(own.ask("GET", "/fruits/apple", "").number("value-txclock"), time);
    own.accept("table fruits { id : 0x12; };");
    problem(&own.ask("GET", "/fruits/apple", ""), 404, "row-not-found");
}

#[test]
fn a_schema_outlives_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let text = "table fruit { id : 0x10; retain : 7d; };\n";
    let server = Server::solo(dir.path());
    assert_eq!(ask(&server.admin, "PUT", "/admin/schema", &[], text.as_bytes()).status, 200);
    let time = written(&ask(&server.http, "PUT", "/fruit/apple", &[], b"1"));
    server.kill();
    let server = Server::start(&["--solo"], dir.path());
    assert_eq!(ask(&server.admin, "GET", "/admin/schema", &[], b"").text(), text);
    assert_eq!(ask(&server.http, "GET", "/fruit/apple", &[], b"").number("value-txclock"), time);
}

#[test]
fn a_schemas_mistakes_are_told_with_line_and_caret_and_nothing_changes() {
    let own = Own::new();
    let before = "table kept { id : 0x1; };";
    own.accept(before);
    let clause = "Bad definition of clause, expected\ntable <tablename> {\n  Field1;Field2;..\n};\nstarting";
    let id = "Id field improper, expected\nid : <long> ;\nbut found";
    let number = "This should be a valid octal (starting with 0), decimal number or hexadecimal number (starting with 0x)";
    let cases = [
        ("tabel fruit { id : 1; };", format!("{clause} at line 1\ntabel fruit {{ id : 1; }};\n^\n\n")),
        ("table a { id : 1; };\n  tble;", format!("{clause} at line 2\n  tble;\n  ^\n\n")),
        ("table a { id ; };", format!("{id} at line 1\ntable a {{ id ; }};\n             ^\n\n")),
        (
            "table a { id : x; };",
            "Expected long at line 1\ntable a { id : x; };\n               ^\n\n".to_owned(),
        ),
        (
            "table a { id : 09; };",
            format!("{number} at line 1\ntable a {{ id : 09; }};\n               ^\n\n"),
        ),
        (
            "table a { id : 1; };\ntable a { id : 2; };",
            "Duplicate table name a at line 2\ntable a { id : 2; };\n      ^\n\n".to_owned(),
        ),
    ];
    for (text, wanted) in &cases {
        let refused = problem(&own.put_schema(text), 400, "invalid-schema");
        assert_eq!(refused["detail"], *wanted, "{text}");
        assert_eq!(own.get_schema().text(), before, "{text}");
    }
    // All of them at once, each at its own line.
    let text = "table a { id : x; };\ntable b { id : 0xg; };\nnonsense;\ntable a { id : 1; };\ntable c { id : 1; };\n";
    let refused = problem(&own.put_schema(text), 400, "invalid-schema");
    let detail = refused["detail"].as_str().unwrap();
    for part in [
        "Expected long at line 1",
        "at line 2",
        &format!("{clause} at line 3"),
        "Duplicate table name a at line 4",
        "Duplicate id",
    ] {
        assert!(detail.contains(part), "{part:?} is not in {detail}");
    }
    assert!(detail.contains("at line 5\ntable c { id : 1; };\n"), "{detail}");
    assert_eq!(own.ask("GET", "/kept", "").text(), "[]", "the schema before is in force");
}

#[test]
fn no_table_can_have_a_name_that_the_server_uses() {
    let own = Own::new();
    for name in
        ["table", "atlas", "hosts", "peers", "admin", "metrics", "health", "catalog", "flock", "console"]
    {
        let refused = own.put_schema(&format!("table {name} {{ id : 1; }};"));
        problem_saying(&refused, 400, "invalid-schema", name);
    }
    for name in [
        "batch-write",
        "tx-status",
        "openapi.json",
        "favicon.ico",
        "robots.txt",
        "9a",
        "a-b",
        "\u{e4}",
        "a b",
    ] {
        problem(&own.put_schema(&format!("table {name} {{ id : 1; }};")), 400, "invalid-schema");
    }
    assert_eq!(own.get_schema().text(), "");
    // Letter case makes another name.
    own.accept("table Atlas { id : 1; }; table TABLE { id : 2; };");
    written(&own.ask("PUT", "/Atlas/a", "1"));
}

#[test]
fn retentions_are_durations_words_or_mistakes() {
    let own = Own::new();
    for good in ["1s", "90m", "24h", "7d", "4w", "forever", "yesterday"] {
        own.accept(&format!("table a {{ id : 1; retain : {good}; }};"));
    }
    for bad in ["7", "d", "0s", "1y", "-1d", "", "99999999999999w", "1 d", "\"7d\""] {
        problem(&own.put_schema(&format!("table a {{ id : 1; retain : {bad}; }};")), 400, "invalid-schema");
    }
}

#[test]
fn a_schema_that_is_too_long_or_no_text_is_refused() {
    let own = Own::new();
    own.accept("table kept { id : 0x1; };");
    let long = format!("// {}\n", "x".repeat(1 << 20));
    let refused = problem_saying(&own.put_schema(&long), 413, "too-large", "1048576");
    assert_eq!(refused["limit"], 1 << 20);
    let binary = ask(&own.server.admin, "PUT", "/admin/schema", &[], b"table \xff { id : 1; };");
    problem_saying(&binary, 400, "invalid-schema", "UTF-8");
    // A text full of mistakes is answered with some of them.
    let mistakes = own.put_schema(&"x;\n".repeat(100_000));
    problem_saying(&mistakes, 400, "invalid-schema", "more problems");
    assert!(mistakes.body.len() < 100_000, "{}", mistakes.body.len());
    assert_eq!(own.get_schema().text(), "table kept { id : 0x1; };");
}

#[test]
fn the_tables_page_lists_ids_names_and_how_far_back_they_reach() {
    let own = Own::new();
    own.accept("table fruit { id : 0x10; }; table unused { id : 0x11; };");
    let time = written(&own.ask("PUT", "/fruit/apple", "1"));
    written(&own.ask("PUT", "/table/0xFFFFFFFFFFFFFFFF?key=a", "1"));
    for path in ["/admin/tables", "/admin/treode/tables", "/admin/tables/"] {
        let reply = ask(&own.server.admin, "GET", path, &[], b"");
        assert_eq!((reply.status, reply.said("content-type")), (200, "application/json"));
        let tables = reply.json();
        let find = |id: &str| {
            let found = tables.as_array().unwrap().iter().find(|table| table["id"] == id);
            found.unwrap_or_else(|| panic!("no {id} in {tables}")).clone()
        };
        let fruit = find("0x0000000000000010");
        assert_eq!(fruit["name"], "fruit");
        assert!(fruit["oldest"].as_u64().unwrap() < time);
        assert_eq!(find("0xFFFFFFFFFFFFFFFF")["name"], serde_json::Value::Null);
    }
}
