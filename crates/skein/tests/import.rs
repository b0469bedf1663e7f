//! Import and export: real files through real processes, and a server made up by the test that fails as it is told.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use support::{Server, get, put, run, run_with_input, said};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn rows(server: &Server, table: &str) -> BTreeMap<String, serde_json::Value> {
    let all: Vec<serde_json::Value> =
        serde_json::from_str(&get(&server.http, &format!("/table/{table}")).body).unwrap();
    all.into_iter().map(|row| (row["key"].as_str().unwrap().to_owned(), row["value"].clone())).collect()
}

fn file(dir: &Path, name: &str, content: &str) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, content).unwrap();
    path
}

#[test]
fn good_lines_go_in_and_bad_ones_are_told_by_number() {
    let root = tempfile::tempdir().unwrap();
    let server = Server::solo(&root.path().join("data"));
    let input = file(root.path(), "in.jsonl", "{\"id\":1}\noops\n{\"id\":\"two\",\"x\": 1.0}\n{\"x\":3}\n");
    let done = run(&["import", "--table", "0x1", "--key", "id", "--url", &server.url(), text(&input)]);
    assert_eq!(done.status.code(), Some(6), "{}", said(&done));
    let told = said(&done);
    assert!(told.contains("imported 2 rows") && told.contains("left out 2 bad lines"), "{told}");
    assert!(told.contains("line 2: ") && told.contains("line 4: it has no member \"id\""), "{told}");
    assert_eq!(rows(&server, "0x1").into_keys().collect::<Vec<_>>(), ["1", "two"]);
    assert_eq!(get(&server.http, "/table/0x1?key=two").body, "{\"id\":\"two\",\"x\": 1.0}");
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 2, "a finished import leaves no notes behind");
    server.stop();
}

#[test]
fn a_row_that_only_the_server_refuses_is_a_bad_line_and_its_neighbours_go_in() {
    let root = tempfile::tempdir().unwrap();
    let server = Server::solo(&root.path().join("data"));
    let deep = format!("{{\"id\":2,\"x\":{}{}}}", "[".repeat(500), "]".repeat(500));
    let input = file(root.path(), "in.jsonl", &format!("{{\"id\":1}}\n{deep}\n{{\"id\":3}}\n"));
    let done = run(&[
        "import",
        "--table",
        "0x1",
        "--key",
        "id",
        "--parallel",
        "1",
        "--url",
        &server.url(),
        text(&input),
    ]);
    assert_eq!(done.status.code(), Some(6), "{}", said(&done));
    assert!(said(&done).contains("line 2: the server refused it: 400"), "{}", said(&done));
    assert_eq!(rows(&server, "0x1").into_keys().collect::<Vec<_>>(), ["1", "3"]);
    server.stop();
}

#[test]
fn the_last_line_of_a_key_wins_however_many_connections_there_are() {
    let root = tempfile::tempdir().unwrap();
    let server = Server::solo(&root.path().join("data"));
    let lines: String = (0..400).map(|n| format!("{{\"id\":{},\"n\":{n}}}\n", n % 7)).collect();
    let input = file(root.path(), "in.jsonl", &lines);
    let done = run(&["import", "--table", "0x1", "--key", "id", "--url", &server.url(), text(&input)]);
    assert_eq!(done.status.code(), Some(0), "{}", said(&done));
    for (key, value) in rows(&server, "0x1") {
        let key: u64 = key.parse().unwrap();
        let last = (0..400).filter(|n| n % 7 == key).max().unwrap();
        assert_eq!(value["n"], last);
    }
    server.stop();
}

#[test]
fn csv_goes_in_as_objects() {
    let root = tempfile::tempdir().unwrap();
    let server = Server::solo(&root.path().join("data"));
    let input = file(root.path(), "in.csv", "id,name,n\na,\"x, y\",1\nb,z,02\n");
    let done =
        run(&["import", "--table", "0x1", "--key", "id", "--numbers", "--url", &server.url(), text(&input)]);
    assert_eq!(done.status.code(), Some(0), "{}", said(&done));
    assert_eq!(get(&server.http, "/table/0x1?key=a").body, r#"{"id":"a","name":"x, y","n":1}"#);
    assert_eq!(get(&server.http, "/table/0x1?key=b").body, r#"{"id":"b","name":"z","n":"02"}"#);
    server.stop();
}

#[test]
fn a_table_that_is_missing_is_said_before_anything_is_sent_and_can_be_created() {
    let root = tempfile::tempdir().unwrap();
    let server = Server::solo(&root.path().join("data"));
    let input = file(root.path(), "in.jsonl", "{\"id\":1}\n");
    let (url, admin) = (server.url(), server.admin_url());
    let import =
        ["import", "--table", "fruit", "--key", "id", "--url", &url, "--admin-url", &admin, text(&input)];
    let missing = run(&import);
    assert_eq!(missing.status.code(), Some(1));
    assert!(said(&missing).contains("--create-table"), "{}", said(&missing));
    let created = run(&[&import[..], &["--create-table=0x77"]].concat());
    assert_eq!(created.status.code(), Some(0), "{}", said(&created));
    assert_eq!(get(&server.http, "/fruit/1").body, "{\"id\":1}");
    assert_eq!(get(&server.http, "/table/0x77?key=1").status, 200);
    server.stop();
}

#[test]
fn an_export_is_the_table_as_it_was_and_comes_back_in() {
    let root = tempfile::tempdir().unwrap();
    let server = Server::solo(&root.path().join("data"));
    let url = server.url();
    let lines: String = (0..1000).map(|n| format!("{{\"id\":\"k{n:04}\",\"n\":{n}}}\n")).collect();
    let input = file(root.path(), "in.jsonl", &lines);
    let done = run(&["import", "--table", "0x1", "--key", "id", "--url", &url, text(&input)]);
    assert_eq!(done.status.code(), Some(0), "{}", said(&done));
    // A value that spreads over lines, and one that is not JSON.
    put(&server.http, "/table/0x1?key=z1", "{\n  \"a\": 1\n}");
    let plain =
        support::http(&server.http, "PUT", "/table/0x1?key=z2", &[("Content-Type", "text/plain")], "hi\n");
    let then: u64 = plain.header("value-txclock").unwrap().parse().unwrap();
    put(&server.http, "/table/0x1?key=k0000", "\"changed\"");

    let out = root.path().join("out.jsonl");
    let exported =
        run(&["export", "--table", "0x1", "--until", &then.to_string(), "--url", &url, "--out", text(&out)]);
    assert_eq!(exported.status.code(), Some(0), "{}", said(&exported));
    assert!(said(&exported).contains("exported 1002 rows"), "{}", said(&exported));
    let copied = run(&["import", "--table", "0x2", "--format", "rows", "--url", &url, text(&out)]);
    assert_eq!(copied.status.code(), Some(0), "{}", said(&copied));
    let (mut now, copy) = (rows(&server, "0x1"), rows(&server, "0x2"));
    now.insert("k0000".into(), serde_json::json!({"id": "k0000", "n": 0}));
    assert_eq!(copy, now);
    let plain = get(&server.http, "/table/0x2?key=z2");
    assert_eq!((plain.header("content-type").as_deref(), plain.body.as_str()), (Some("text/plain"), "hi\n"));

    let values = run(&["export", "--table", "0x2", "--values-only", "--url", &url]);
    let values = String::from_utf8(values.stdout).unwrap();
    assert_eq!(values.lines().count(), 1002);
    assert!(values.starts_with("{\"id\":\"k0000\",\"n\":0}\n"), "{}", &values[..100]);
    server.stop();
}

#[test]
fn an_export_of_nothing_there_leaves_no_file() {
    let root = tempfile::tempdir().unwrap();
    let server = Server::solo(&root.path().join("data"));
    let out = root.path().join("out.jsonl");
    let refused = run(&["export", "--table", "fruit", "--url", &server.url(), "--out", text(&out)]);
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    assert!(said(&refused).contains("fruit"), "{}", said(&refused));
    assert!(!out.exists());
    server.stop();
}

#[test]
fn a_server_that_is_away_is_named() {
    let root = tempfile::tempdir().unwrap();
    let input = file(root.path(), "in.jsonl", "{\"id\":1}\n");
    // Nobody is given this port unless he asks for it.
    let url = "http://127.0.0.1:1";
    for args in [
        &["import", "--table", "0x1", "--key", "id", "--url", url, text(&input)][..],
        &["export", "--table", "0x1", "--url", url],
    ] {
        let refused = run(args);
        assert_eq!(refused.status.code(), Some(1));
        let told = said(&refused);
        assert!(told.contains(url) && told.contains("is the server running?"), "{told}");
    }
}

#[test]
fn serve_loads_a_file_once() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("data");
    let input = file(root.path(), "in.jsonl", "{\"id\":1}\n{\"id\":2}\n");
    let load = format!("fruit:id={}", input.display());
    let server = Server::start(&["--solo", "--init", "--import", &load], &dir);
    server.wait_for_line("imported 2 rows into fruit");
    put(&server.http, "/fruit/1", "\"mine\"");
    server.stop();
    let server = Server::start(&["--solo", "--import", &load], &dir);
    server.wait_for_line(&format!("{} was loaded into fruit", input.display()));
    assert_eq!(get(&server.http, "/fruit/1").body, "\"mine\"");
    server.stop();
}

/// What the made-up server does with one request to write a batch.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Written,
    /// The server takes the request and hangs up without an answer.
    HangUp,
    /// 503, try again at once.
    Overloaded,
    /// An answer that trying again does not change.
    Broken,
}

/// A batch as the made-up server received it: its transaction ID, its keys, and what was done with it.
type Received = (String, Vec<String>, Fate);

/// A server that says yes to every table and treats the batches as told, the last fate for all that follow.
struct MadeUp {
    url: String,
    received: Arc<Mutex<Vec<Received>>>,
}

impl MadeUp {
    fn new(fates: &[Fate]) -> MadeUp {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let received: Arc<Mutex<Vec<Received>>> = Arc::default();
        let (log, fates) = (received.clone(), fates.to_vec());
        // It ends with the process; connections are served one after the other.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                while serve_one(&stream, &fates, &log) {}
            }
        });
        MadeUp { url, received }
    }

    fn take(&self) -> Vec<Received> {
        std::mem::take(&mut self.received.lock().unwrap())
    }
}

/// Answers one request; false when the connection is over.
fn serve_one(stream: &TcpStream, fates: &[Fate], log: &Mutex<Vec<Received>>) -> bool {
    let mut reader = BufReader::new(stream);
    let (mut id, mut length, mut first) = (String::new(), 0, String::new());
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return false;
        }
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        if first.is_empty() {
            first = line.to_owned();
        }
        if let Some((name, value)) = line.split_once(": ") {
            match name {
                "transaction-id" => id = value.to_owned(),
                "content-length" => length = value.parse().unwrap(),
                _ => {}
            }
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let answer = if first.starts_with("POST /batch-write") {
        let mut log = log.lock().unwrap();
        let fate = fates[log.len().min(fates.len() - 1)];
        let ops: Vec<serde_json::Value> = serde_json::from_slice(&body).unwrap();
        log.push((id, ops.iter().map(|op| op["key"].as_str().unwrap().to_owned()).collect(), fate));
        match fate {
            Fate::Written => "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            Fate::HangUp => return false,
            Fate::Overloaded => {
                "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n"
            }
            Fate::Broken => "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 4\r\n\r\nsick",
        }
    } else {
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]"
    };
    (&mut &*stream).write_all(answer.as_bytes()).is_ok()
}

#[test]
fn a_batch_is_sent_again_under_the_same_id_until_it_is_in() {
    let root = tempfile::tempdir().unwrap();
    let server = MadeUp::new(&[Fate::Overloaded, Fate::HangUp, Fate::Written]);
    let input = file(root.path(), "in.jsonl", "{\"id\":1}\n{\"id\":2}\n");
    let done = run(&[
        "import",
        "--table",
        "0x1",
        "--key",
        "id",
        "--parallel",
        "1",
        "--url",
        &server.url,
        text(&input),
    ]);
    assert_eq!(done.status.code(), Some(0), "{}", said(&done));
    let received = server.take();
    assert_eq!(received.len(), 3);
    assert!(
        received.iter().all(|(id, keys, _)| *id == received[0].0 && *keys == ["1", "2"]),
        "{}",
        received.len()
    );
}

#[test]
fn an_interrupted_import_goes_on_where_it_stopped() {
    let root = tempfile::tempdir().unwrap();
    let server = MadeUp::new(&[Fate::Written, Fate::Written, Fate::Broken, Fate::Written]);
    let lines: String = (0..10).map(|n| format!("{{\"id\":{n}}}\n")).collect();
    let input = file(root.path(), "in.jsonl", &lines);
    let import = [
        "import",
        "--table",
        "0x1",
        "--key",
        "id",
        "--parallel",
        "1",
        "--batch",
        "2",
        "--url",
        &server.url,
        text(&input),
    ];
    let stopped = run(&import);
    assert_eq!(stopped.status.code(), Some(1), "{}", said(&stopped));
    let told = said(&stopped);
    assert!(
        told.contains("sick") && told.contains("4 rows are in") && told.contains("run the same command"),
        "{told}"
    );
    assert!(root.path().join("in.jsonl.skein-progress").exists());

    let changed = run(&[&import[..], &["--numbers"]].concat());
    assert_eq!(changed.status.code(), Some(1), "{}", said(&changed));
    assert!(said(&changed).contains("the format differs"), "{}", said(&changed));

    let done = run(&import);
    assert_eq!(done.status.code(), Some(0), "{}", said(&done));
    assert!(
        said(&done).contains("imported 6 rows") && said(&done).contains("4 rows were in"),
        "{}",
        said(&done)
    );
    assert!(!root.path().join("in.jsonl.skein-progress").exists());
    let received = server.take();
    let written: Vec<&Received> = received.iter().filter(|(_, _, fate)| *fate == Fate::Written).collect();
    let keys: Vec<String> = written.iter().flat_map(|(_, keys, _)| keys.clone()).collect();
    assert_eq!(keys, (0..10).map(|n| n.to_string()).collect::<Vec<_>>());
    // The batch that failed came again under its own ID.
    assert_eq!(received[2].0, received[3].0);
}

#[test]
fn importing_a_file_a_second_time_on_purpose_writes_it_a_second_time() {
    let root = tempfile::tempdir().unwrap();
    let server = Server::solo(&root.path().join("data"));
    let input = file(root.path(), "in.jsonl", "{\"id\":1}\n");
    let url = server.url();
    let import = ["import", "--table", "0x1", "--key", "id", "--url", &url, text(&input)];
    assert_eq!(run(&import).status.code(), Some(0));
    put(&server.http, "/table/0x1?key=1", "\"changed\"");
    assert_eq!(run(&import).status.code(), Some(0));
    assert_eq!(get(&server.http, "/table/0x1?key=1").body, "{\"id\":1}");
    server.stop();
}

#[test]
fn standard_input_can_be_imported() {
    let root = tempfile::tempdir().unwrap();
    let server = Server::solo(&root.path().join("data"));
    let done = run_with_input(
        &["import", "--table", "0x1", "--key", "id", "--url", &server.url(), "-"],
        b"{\"id\":1}\n",
    );
    assert_eq!(done.status.code(), Some(0), "{}", said(&done));
    assert_eq!(get(&server.http, "/table/0x1?key=1").status, 200);
    server.stop();
}

#[test]
fn an_import_that_waits_for_input_or_answers_ends_when_it_is_told_to() {
    let server = MadeUp::new(&[Fate::Overloaded]);
    let args = ["import", "--table", "0x1", "--key", "id", "--batch", "1", "--url", &server.url, "-"];
    let mut child = support::skein().args(args).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    // The second line closes the first batch, which is then tried for ever.
    input.write_all(b"{\"id\":1}\n{\"id\":1}\n").unwrap();
    support::within(|| (!server.received.lock().unwrap().is_empty()).then_some(()));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let status = support::within(|| child.try_wait().unwrap());
    assert_eq!(status.code(), Some(130));
    drop(input);
}

#[test]
fn an_import_outlives_a_server_that_is_killed_and_started_again() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("data");
    // While it is away, nobody else may be given its port.
    let own = format!("{}:0", support::start::own_loopback());
    let server = Server::start(&["--solo", "--init", "--http-addr", &own], &dir);
    let (url, addr) = (server.url(), server.http.clone());
    let lines: String = (0..2000).map(|n| format!("{{\"id\":{n},\"n\":{}}}\n", n * 7)).collect();
    let input = file(root.path(), "in.jsonl", &lines);
    let import =
        ["import", "--table", "0x1", "--key", "id", "--batch", "10", "--parallel", "4", "--url", &url];
    let child = support::skein()
        .args(import)
        .arg(&input)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    support::within(|| (50 < count(&addr)).then_some(()));
    server.kill();
    let server = Server::start(&["--solo", "--http-addr", &addr], &dir);
    let done = child.wait_with_output().unwrap();
    assert_eq!(done.status.code(), Some(0), "{}", said(&done));
    let rows = rows(&server, "0x1");
    assert_eq!(rows.len(), 2000);
    for (key, row) in rows {
        assert_eq!(row["n"], key.parse::<u64>().unwrap() * 7, "row {key}");
    }
    // Each row was written once, however often its batch was sent.
    let versions = get(&addr, "/table/0x1?pick=between").body;
    let versions: Vec<serde_json::Value> = serde_json::from_str(&versions).unwrap();
    assert_eq!(versions.len(), 2000);
    server.stop();
}

fn count(addr: &str) -> usize {
    get(addr, "/table/0x1?pick=latest&limit=51").body.lines().filter(|line| line.contains("\"key\"")).count()
}
