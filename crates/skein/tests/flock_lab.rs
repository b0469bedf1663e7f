//! `skein flock-lab` as a person and as a browser meet it.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use serde_json::json;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use support::start::Process;
use support::wire::{self, Connection, Reply};
use support::{run, said, skein, within};

/// A lab on a free port of the loopback.
struct Lab {
    process: Process,
    addr: String,
}

impl Lab {
    fn start() -> Lab {
        let mut child =
            skein().args(["flock-lab", "--addr", "127.0.0.1:0"]).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let process = Process(child);
        let addr = line.strip_prefix("flock lab on http://").and_then(|rest| rest.split('/').next());
        Lab { process, addr: addr.unwrap_or_else(|| panic!("it said {line:?}")).to_owned() }
    }

    fn get(&self, path: &str) -> Reply {
        ask(&self.addr, "GET", path, &[], b"")
    }

    fn post(&self, body: &str) -> Reply {
        ask(&self.addr, "POST", "/api/state", &[("content-type", "application/json")], body.as_bytes())
    }

    fn terminate(&mut self) -> Option<i32> {
        let pid = rustix::process::Pid::from_child(&self.process.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        within(|| self.process.0.try_wait().unwrap()).code()
    }
}

/// One request, under a name that the lab answers to.
fn try_on(
    connection: &mut Connection,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Reply {
    let head = String::from_utf8(wire::head(method, path, headers, body)).unwrap();
    let head = head.replacen("skein.test", "localhost", 1);
    // It may have been refused before all of it was sent.
    let _ = connection.send(head.as_bytes()).and_then(|()| connection.send(body));
    connection.reply_to(method).unwrap_or_else(|| panic!("no answer to {method} {path}"))
}

fn ask(addr: &str, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
    try_on(&mut Connection::open(addr), method, path, headers, body)
}

fn refused(reply: &Reply, status: u16, kind: &str) -> String {
    assert_eq!(reply.status, status, "{reply:?}");
    assert_eq!(reply.said("content-type"), "application/problem+json");
    let problem = reply.json();
    assert_eq!(problem["type"], format!("urn:skein:problem:{kind}"));
    assert_eq!(problem["status"], status);
    problem["detail"].as_str().unwrap().to_owned()
}

#[test]
fn the_page_comes_whole_from_the_binary_and_may_load_nothing_from_elsewhere() {
    let lab = Lab::start();
    let page = lab.get("/");
    assert_eq!((page.status, page.said("content-type")), (200, "text/html; charset=utf-8"));
    assert!(page.said("content-security-policy").starts_with("default-src 'none'; script-src 'self'"));
    let script = lab.get("/main.js");
    assert_eq!((script.status, script.said("content-type")), (200, "text/javascript; charset=utf-8"));
    assert_eq!(ask(&lab.addr, "HEAD", "/lab.css", &[], b"").status, 200);
}

#[test]
fn a_seed_and_actions_give_the_same_state_every_time() {
    let lab = Lab::start();
    let question = json!({"seed": 7, "actions": "a9.t3000.bC.t500.t500.kD.t4000", "origin": "C", "since": 0});
    let first = lab.post(&question.to_string());
    assert_eq!((first.status, first.said("content-type")), (200, "application/json"), "{first:?}");
    let state = first.json();
    assert_eq!(state["actions"], "a9.t3000.bC.t1000.kD.t4000");
    assert_eq!((&state["now"], &state["up"], &state["parts"]), (&json!(8_000_000), &json!(8), &json!(1)));
    assert_eq!(state["broadcasts"][0]["reached"], 8);
    assert_eq!(state["peers"][3]["name"], "D");
    // From a rewound session, and from another lab that remembers nothing.
    lab.post(&json!({"seed": 7, "actions": "a9.t2000"}).to_string());
    assert_eq!(lab.post(&question.to_string()).body, first.body);
    assert_eq!(Lab::start().post(&question.to_string()).body, first.body);
}

#[test]
fn bad_requests_are_told_what_is_wrong_with_them() {
    let lab = Lab::start();
    let question = |actions: &str| lab.post(&json!({"seed": 1, "actions": actions}).to_string());
    assert!(refused(&question("a3.x9"), 400, "bad-request").contains("action 2, \"x9\""));
    assert!(refused(&question("a3.kD"), 422, "impossible").contains("there is no peer D yet"));
    assert!(refused(&question("a1000.a"), 422, "too-much").contains("1000 peers"));
    assert!(refused(&question("t3600000.t1"), 422, "too-much").contains("hour"));
    assert!(refused(&lab.post("{"), 400, "bad-request").contains("not a question"));
    assert!(refused(&lab.post("{\"seed\":-1,\"actions\":\"\"}"), 400, "bad-request").contains("-1"));
    let nobody = lab.post(&json!({"seed": 1, "actions": "a2", "origin": "q"}).to_string());
    assert!(refused(&nobody, 400, "bad-request").contains("\"q\""));
    refused(&lab.post(&" ".repeat(200_000)), 413, "too-large");
    refused(&ask(&lab.addr, "POST", "/api/state", &[("content-type", "text/plain")], b"{}"), 415, "not-json");
    refused(&lab.get("/nothing"), 404, "not-found");
    refused(&lab.get("/../Cargo.toml"), 404, "not-found");
    let read = lab.get("/api/state");
    refused(&read, 405, "method-not-allowed");
    assert_eq!(read.said("allow"), "POST");
    refused(&ask(&lab.addr, "DELETE", "/", &[], b""), 405, "method-not-allowed");
    // After all of these it still works.
    assert_eq!(question("a3").status, 200);
}

#[test]
fn other_sites_cannot_pose_as_the_lab() {
    let lab = Lab::start();
    let posing = wire::ask(&lab.addr, "GET", "/", &[], b"");
    refused(&posing, 421, "misdirected");
}

#[test]
fn sigterm_ends_it_with_success_also_while_a_browser_is_connected() {
    let mut lab = Lab::start();
    let mut connection = Connection::open(&lab.addr);
    assert_eq!(try_on(&mut connection, "GET", "/", &[], b"").status, 200);
    assert_eq!(lab.terminate(), Some(0));
}

#[test]
fn a_taken_address_is_told_with_what_to_do() {
    let lab = Lab::start();
    let second = run(&["flock-lab", "--addr", &lab.addr]);
    assert_eq!(second.status.code(), Some(1));
    assert!(said(&second).contains("--addr 127.0.0.1:7081"), "{}", said(&second));
}

/// Where Debian and others put browsers that playwright-core can drive.
const BROWSERS: [&str; 4] = [
    "/usr/bin/chromium",
    "/usr/bin/chromium-browser",
    "/usr/bin/google-chrome",
    "/usr/bin/google-chrome-stable",
];

/// What the browser test needs, or what is missing.
fn browser(folder: &Path) -> Result<PathBuf, String> {
    let named = std::env::var_os("SKEIN_TEST_BROWSER").map(PathBuf::from);
    let known = BROWSERS.iter().map(PathBuf::from);
    let browser = named.into_iter().chain(known).find(|path| path.exists());
    let browser = browser.ok_or("no chromium is installed (SKEIN_TEST_BROWSER may name one)")?;
    if !Command::new("node").arg("--version").output().is_ok_and(|out| out.status.success()) {
        return Err("no node is installed".into());
    }
    if !folder.join("node_modules/playwright-core").exists() {
        return Err(format!("playwright-core is not installed: npm ci --prefix {}", folder.display()));
    }
    Ok(browser)
}

#[test]
fn the_page_works_in_a_real_browser() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab");
    let browser = match browser(&folder) {
        Ok(browser) => browser,
        Err(missing) => {
            // Past the test harness, which would keep it to itself: nobody should believe that it was tested.
            let _ = writeln!(std::io::stderr(), "SKIPPED the flock lab in a browser: {missing}");
            return;
        }
    };
    let lab = Lab::start();
    let pictures = Path::new(env!("CARGO_TARGET_TMPDIR")).join("flock-lab");
    std::fs::create_dir_all(&pictures).unwrap();
    let driven = Command::new("node")
        .arg(folder.join("drive.mjs"))
        .arg(format!("http://{}", lab.addr))
        .args([&browser, &pictures])
        .output()
        .unwrap();
    let told = said(&driven);
    assert!(driven.status.success(), "{told}");
    assert!(told.contains("all is well"), "{told}");
}
