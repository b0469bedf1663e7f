//! Real processes for tests: the binary under test, servers that end with the test, and a small HTTP client.
#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, reason = "clippy does not see that helpers of tests are tests")]

pub mod shared;
pub mod start;
pub mod wire;

use start::{Process, try_start};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Far longer than anything here takes, so that only a hang runs into it.
const PATIENCE: Duration = Duration::from_secs(60);

/// The binary under test, without settings of the machine it runs on.
pub fn skein() -> Command {
    skein_under(Command::new(env!("CARGO_BIN_EXE_skein")))
}

/// The binary under test as the last words of a command that runs it.
pub fn skein_in(mut wrapper: Command) -> Command {
    wrapper.arg(env!("CARGO_BIN_EXE_skein"));
    skein_under(wrapper)
}

fn skein_under(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("SKEIN_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// Runs the binary to its end.
pub fn run(args: &[&str]) -> Output {
    skein().args(args).output().unwrap()
}

/// Runs the binary to its end with something on its standard input.
pub fn run_with_input(args: &[&str], input: &[u8]) -> Output {
    let mut child = skein()
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

/// What the process said on both of its outputs.
pub fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A `skein serve` on free ports of the loopback; killed when dropped.
pub struct Server {
    process: Process,
    lines: Mutex<Receiver<String>>,
    complaints: Arc<Mutex<String>>,
    /// Address of the data port.
    pub http: String,
    /// Address of the admin port.
    pub admin: String,
    /// Where it takes connections of peers; empty for nowhere.
    pub peer: String,
}

impl Server {
    /// Starts `skein serve` with these flags and this directory, and waits until it is ready.
    pub fn start(flags: &[&str], dir: &Path) -> Server {
        try_start(flags, dir).unwrap_or_else(|refused| panic!("the server did not become ready: {refused:?}"))
    }

    /// Starts a solo server in a new directory.
    pub fn solo(dir: &Path) -> Server {
        Server::start(&["--solo", "--init"], dir)
    }

    /// `http://` and the address of the data port.
    pub fn url(&self) -> String {
        format!("http://{}", self.http)
    }

    /// `http://` and the address of the admin port.
    pub fn admin_url(&self) -> String {
        format!("http://{}", self.admin)
    }

    /// What it has said on standard error so far.
    pub fn complaints(&self) -> String {
        self.complaints.lock().unwrap().clone()
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.process.0.id()
    }

    /// Waits for a line on standard output that begins so.
    pub fn wait_for_line(&self, start: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.lock().unwrap().recv_timeout(left) {
                Ok(line) if line.starts_with(start) => return line,
                Ok(_) => {}
                Err(e) => panic!("no line that begins with {start:?}: {e}"),
            }
        }
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        let pid = rustix::process::Pid::from_child(&self.process.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    /// Waits for the end of the process.
    pub fn wait(&mut self) -> ExitStatus {
        within(|| self.process.0.try_wait().unwrap())
    }

    /// Ends the process as a crash would.
    pub fn kill(mut self) {
        self.process.0.kill().unwrap();
        self.process.0.wait().unwrap();
    }

    /// Stops the server in good order.
    pub fn stop(mut self) {
        self.terminate();
        assert_eq!(self.wait().code(), Some(0));
    }
}

/// Asks again and again until there is an answer.
pub fn within<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "nothing happened within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// An answer to [`http`].
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    headers: Vec<(String, String)>,
    /// Its body.
    pub body: String,
}

impl Answer {
    /// A header's value; the name in lower case.
    pub fn header(&self, name: &str) -> Option<String> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.clone())
    }
}

/// One request on a connection of its own, whose answer is text.
pub fn http(addr: &str, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let reply = wire::ask(addr, method, path, headers, body.as_bytes());
    assert!(reply.whole, "{reply:?}");
    let body = reply.text().to_owned();
    Answer { status: reply.status, headers: reply.headers, body }
}

/// Reads a row.
pub fn get(addr: &str, path: &str) -> Answer {
    http(addr, "GET", path, &[], "")
}

/// Writes a row and gives its time.
pub fn put(addr: &str, path: &str, value: &str) -> u64 {
    let answer = http(addr, "PUT", path, &[], value);
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.header("value-txclock").unwrap().parse().unwrap()
}
