//! The binary as an administrator meets it: directories, processes, signals, exit codes, configuration.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::fs;
use std::io::Write as _;
use std::net::TcpStream;
use std::path::Path;
use std::process::Stdio;
use support::{Server, get, http, put, run, said, skein};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn init_draws_ids_prints_them_and_keeps_them() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("new/data");
    let first = run(&["init", text(&dir)]);
    assert_eq!(first.status.code(), Some(0), "{}", said(&first));
    let id = fs::read_to_string(dir.join("skein.id")).unwrap();
    let host = id.lines().find_map(|line| line.strip_prefix("host ")).unwrap();
    assert!(said(&first).contains(host), "{}", said(&first));

    let second = run(&["init", text(&dir), "--host", host]);
    assert_eq!(second.status.code(), Some(0));
    assert!(said(&second).contains("already"), "{}", said(&second));
    let other = run(&["init", text(&dir), "--host", "0x1"]);
    assert_eq!(other.status.code(), Some(7));
    assert!(said(&other).contains(host), "{}", said(&other));
    assert_eq!(fs::read_to_string(dir.join("skein.id")).unwrap(), id);
}

#[test]
fn init_leaves_somebody_else_s_directory_alone() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("notes.txt"), "mine").unwrap();
    let refused = run(&["init", text(root.path())]);
    assert_eq!(refused.status.code(), Some(7));
    assert!(said(&refused).contains("notes.txt"), "{}", said(&refused));
    assert!(!root.path().join("skein.id").exists());
}

#[test]
fn serve_and_doctor_say_how_to_initialise_a_directory_that_is_not() {
    let root = tempfile::tempdir().unwrap();
    for command in ["serve", "doctor"] {
        for dir in [root.path().to_path_buf(), root.path().join("missing")] {
            let refused = run(&[command, text(&dir)]);
            assert_eq!(refused.status.code(), Some(7), "{command}: {}", said(&refused));
            assert!(said(&refused).contains("skein init"), "{}", said(&refused));
        }
    }
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0, "looking left something behind");
}

#[test]
fn wrong_usage_and_wrong_configuration_have_their_own_exit_codes() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("data");
    assert_eq!(run(&["serve", "--slo", text(&dir)]).status.code(), Some(2));
    assert_eq!(run(&["serve", "--request-timeout", "5", text(&dir)]).status.code(), Some(2));
    assert_eq!(run(&["import", "--table", "t", "x.jsonl"]).status.code(), Some(2));
    let same_port = run(&["serve", "--init", "--http-addr", ":9990", text(&dir)]);
    assert_eq!(same_port.status.code(), Some(3), "{}", said(&same_port));
    let level = run(&["serve", "--init", "--log-level", "info,=", text(&dir)]);
    assert_eq!(level.status.code(), Some(3), "{}", said(&level));
    assert!(!dir.exists(), "a refused start left a directory behind");

    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("skein.toml"), "memroy = '1GiB'\n").unwrap();
    let misspelt = run(&["serve", "--init", text(&dir)]);
    assert_eq!(misspelt.status.code(), Some(3));
    assert!(said(&misspelt).contains("memroy") && said(&misspelt).contains("line 1"), "{}", said(&misspelt));
}

#[test]
fn help_lists_exit_codes_and_every_command_has_an_example() {
    let help = run(&["--help"]);
    assert!(said(&help).contains("130"), "{}", said(&help));
    for command in ["init", "serve", "import", "export", "doctor"] {
        let help = run(&[command, "--help"]);
        assert_eq!(help.status.code(), Some(0));
        assert!(said(&help).contains("Example"), "{command}: {}", said(&help));
    }
}

#[test]
fn a_terminated_server_exits_with_zero_and_keeps_its_rows() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("data");
    let server = Server::solo(&dir);
    let time = put(&server.http, "/table/0x1?key=a", "{\"v\": 1.0}");
    server.stop();

    let server = Server::start(&["--solo"], &dir);
    let row = get(&server.http, "/table/0x1?key=a");
    assert_eq!((row.status, row.body.as_str()), (200, "{\"v\": 1.0}"));
    assert_eq!(row.header("value-txclock"), Some(time.to_string()));
    server.stop();
}

#[test]
fn a_second_process_is_refused_with_directory_and_holder() {
    let root = tempfile::tempdir().unwrap();
    let server = Server::solo(root.path());
    for args in [
        &["serve", "--http-addr", "127.0.0.1:0", "--admin-addr", "127.0.0.1:0", text(root.path())][..],
        &["init", text(root.path())],
        &["doctor", text(root.path())],
    ] {
        let refused = run(args);
        assert_eq!(refused.status.code(), Some(4), "{args:?}: {}", said(&refused));
        let told = said(&refused);
        assert!(told.contains(&server.pid().to_string()) && told.contains(text(root.path())), "{told}");
    }
    server.stop();
}

#[test]
fn a_port_that_is_taken_is_named_and_the_directory_is_free_again() {
    let root = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let refused = run(&[
        "serve",
        "--solo",
        "--init",
        "--http-addr",
        &addr,
        "--admin-addr",
        "127.0.0.1:0",
        text(root.path()),
    ]);
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    assert!(said(&refused).contains(&addr), "{}", said(&refused));
    Server::start(&["--solo"], root.path()).stop();
}

#[test]
fn a_second_signal_does_not_wait_for_a_request_that_never_ends() {
    let root = tempfile::tempdir().unwrap();
    let mut server = Server::solo(root.path());
    let mut slow = TcpStream::connect(&server.http).unwrap();
    slow.write_all(b"PUT /table/0x1?key=a HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n\"ha").unwrap();
    // A whole request after it shows that the server has got that far.
    put(&server.http, "/table/0x1?key=b", "1");
    server.terminate();
    server.wait_for_line("stopping");
    server.terminate();
    assert_eq!(server.wait().code(), Some(143));
}

#[test]
fn a_server_without_solo_has_no_atlas_until_it_is_given_one() {
    let root = tempfile::tempdir().unwrap();
    let server =
        Server::start(&["--init", "--host", "0xF47F4AA7602F3857", "--request-timeout", "50ms"], root.path());
    let atlas = get(&server.http, "/atlas");
    assert_eq!((atlas.status, atlas.body.as_str()), (200, r#"[{"state":"empty"}]"#));
    let row = get(&server.http, "/table/0x1?key=123");
    assert_eq!(row.status, 504, "{row:?}");
    assert!(row.body.contains("atlas"), "{row:?}");
    server.stop();

    // With as much patience as a busy machine may need.
    let server = Server::start(&[], root.path());
    let taken = http(&server.http, "PUT", "/atlas", &[], r#"[{"hosts":["0xF47F4AA7602F3857"]}]"#);
    assert_eq!(taken.status, 200, "{taken:?}");
    assert_eq!(get(&server.http, "/table/0x1?key=123").status, 404);
    server.stop();
}

#[test]
fn settings_come_from_the_file_unless_the_environment_or_a_flag_says_otherwise() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("skein.toml"), "solo = true\nmemory = '200MiB'\nlog_format = 'json'\n")
        .unwrap();
    let server = Server::start(&["--init"], root.path());
    // The harness sets SKEIN_MEMORY to 128MiB.
    let memory = server.wait_for_line("  memory");
    assert!(memory.contains("128 MiB"), "{memory}");
    put(&server.http, "/table/0x1?key=a", "1");
    server.stop();

    let refused = skein().args(["serve", text(root.path())]).env("SKEIN_MEMORY", "1MiB").output().unwrap();
    assert_eq!(refused.status.code(), Some(3), "{}", said(&refused));
    assert!(said(&refused).contains("128 MiB"), "{}", said(&refused));
}

#[test]
fn the_users_page_spelling_starts_a_server() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("store.db");
    let initialised =
        run(&["init", "-host", "0xF47F4AA7602F3857", "-cell", "0x3B69376FF6CE2141", text(&dir)]);
    assert_eq!(initialised.status.code(), Some(0), "{}", said(&initialised));
    let server = Server::start(&["-solo"], &dir);
    assert!(get(&server.http, "/atlas").body.contains("0xF47F4AA7602F3857"));
    server.stop();
}

#[test]
fn doctor_finds_a_stopped_store_healthy_and_names_what_is_damaged() {
    let root = tempfile::tempdir().unwrap();
    let server = Server::solo(root.path());
    for key in 0..50 {
        put(&server.http, &format!("/table/0x1?key={key}"), "\"value\"");
    }
    server.stop();
    let healthy = run(&["doctor", text(root.path())]);
    assert_eq!(healthy.status.code(), Some(0), "{}", said(&healthy));
    assert!(said(&healthy).contains("is healthy"), "{}", said(&healthy));

    let id = root.path().join("skein.id");
    let whole = fs::read(&id).unwrap();
    let mut flipped = whole.clone();
    flipped[40] ^= 1;
    fs::write(&id, &flipped).unwrap();
    let damaged = run(&["doctor", text(root.path())]);
    assert_eq!(damaged.status.code(), Some(5), "{}", said(&damaged));
    assert!(said(&damaged).contains("skein.id"), "{}", said(&damaged));
    fs::write(&id, &whole).unwrap();

    let catalog = root.path().join("catalog");
    let mut bytes = fs::read(&catalog).unwrap();
    let last = bytes.len() - 3;
    bytes[last] ^= 4;
    fs::write(&catalog, &bytes).unwrap();
    let damaged = run(&["doctor", text(root.path())]);
    assert_eq!(damaged.status.code(), Some(5), "{}", said(&damaged));
    assert!(said(&damaged).contains("catalog"), "{}", said(&damaged));
    // And the server refuses it in the same words.
    let refused = run(&[
        "serve",
        "--solo",
        "--http-addr",
        "127.0.0.1:0",
        "--admin-addr",
        "127.0.0.1:0",
        text(root.path()),
    ]);
    assert_eq!(refused.status.code(), Some(5), "{}", said(&refused));
    assert!(said(&refused).contains("skein doctor"), "{}", said(&refused));
}

#[test]
fn nobody_reading_the_output_is_no_failure() {
    let root = tempfile::tempdir().unwrap();
    let mut child = skein().args(["init", text(root.path())]).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// The only file below a directory whose path ends so, or the first of them by name.
fn first_file(dir: &Path, wanted: impl Fn(&Path) -> bool + Copy) -> std::path::PathBuf {
    let mut found: Vec<_> = Vec::new();
    let mut dirs = vec![dir.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else if wanted(&path) {
                found.push(path);
            }
        }
    }
    found.sort();
    found.swap_remove(0)
}

#[test]
fn doctor_names_the_damaged_file_of_log_and_store_alike() {
    let root = tempfile::tempdir().unwrap();
    let server = Server::solo(root.path());
    for key in 0..50 {
        put(&server.http, &format!("/table/0x1?key={key}"), "\"needle\"");
    }
    server.stop();
    let segment =
        first_file(&root.path().join("log"), |path| path.extension().is_some_and(|e| e == "segment"));
    let table =
        first_file(&root.path().join("cohorts"), |path| path.parent().unwrap().ends_with("head/tables"));
    for file in [segment, table] {
        let whole = fs::read(&file).unwrap();
        let mut damaged = whole.clone();
        let at = whole.windows(6).position(|bytes| bytes == b"needle").unwrap();
        damaged[at] ^= 0x10;
        fs::write(&file, &damaged).unwrap();
        let found = run(&["doctor", text(root.path())]);
        assert_eq!(found.status.code(), Some(5), "{}: {}", file.display(), said(&found));
        assert!(said(&found).contains(text(&file)), "{}: {}", file.display(), said(&found));
        fs::write(&file, &whole).unwrap();
    }
    let healthy = run(&["doctor", text(root.path())]);
    assert_eq!(healthy.status.code(), Some(0), "{}", said(&healthy));
}
