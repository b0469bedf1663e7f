//! A server process from its birth: it becomes ready, or it refuses and says why, or it is killed on the way.

use super::{Server, skein, within};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// How often a start is tried again because somebody took the port that it had found free.
const PORT_TRIES: u32 = 5;

/// An address of this machine that no other test is given: its ports stay free while the server that had them is away.
///
/// On Linux all of 127.0.0.0/8 is the loopback; elsewhere there is only the one address that all share.
pub fn own_loopback() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(2);
    if !cfg!(target_os = "linux") {
        return "127.0.0.1".to_owned();
    }
    let [_, _, b, a] = std::process::id().to_be_bytes();
    // Never 127.0.…, where everybody else is.
    format!("127.{}.{a}.{}", 100 + b % 100, NEXT.fetch_add(1, Ordering::Relaxed) % 250)
}

/// A process that does not outlive the test.
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A `skein serve` that has just been started.
pub struct Starting {
    process: Process,
    lines: Receiver<String>,
    complaints: Arc<Mutex<String>>,
    reader: JoinHandle<()>,
    scratch: tempfile::TempDir,
}

/// A server that ended before it was ready.
#[derive(Debug)]
pub struct Refused {
    /// How it ended.
    pub status: ExitStatus,
    /// What it said on standard error.
    pub said: String,
}

impl Starting {
    /// Starts `skein serve` with these flags and this directory. What the harness sets, it sets through the
    /// environment, so that a flag may say otherwise.
    pub fn spawn(flags: &[&str], dir: &Path) -> Starting {
        Starting::spawn_as(skein(), flags, dir)
    }

    /// As [`Starting::spawn`], by a command that ends in the binary: it may run elsewhere.
    pub fn spawn_as(mut binary: Command, flags: &[&str], dir: &Path) -> Starting {
        let scratch = tempfile::tempdir().unwrap();
        let mut child = binary
            .arg("serve")
            .env("SKEIN_HTTP_ADDR", "127.0.0.1:0")
            .env("SKEIN_ADMIN_ADDR", "127.0.0.1:0")
            .env("SKEIN_PEER_ADDR", "127.0.0.1:0")
            .env("SKEIN_MEMORY", "128MiB")
            .env("SKEIN_DISK_RESERVE", "1MiB")
            .env("SKEIN_REQUEST_TIMEOUT", "10s")
            .arg("--ready-file")
            .arg(scratch.path().join("ready"))
            .args(flags)
            .arg(dir)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || hand_on(BufReader::new(out), &sender));
        let complaints = Arc::new(Mutex::new(String::new()));
        let heard = complaints.clone();
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(err).lines().map_while(Result::ok) {
                eprintln!("{line}");
                heard.lock().unwrap().push_str(&(line + "\n"));
            }
        });
        Starting { process: Process(child), lines, complaints, reader, scratch }
    }

    /// Ends the process as a crash would.
    pub fn kill(mut self) {
        self.process.0.kill().unwrap();
        self.process.0.wait().unwrap();
    }

    /// Waits until the server is ready or has ended.
    pub fn ready(mut self) -> Result<Server, Refused> {
        let ready = self.scratch.path().join("ready");
        let text = within(|| match self.process.0.try_wait().unwrap() {
            Some(status) => Some(Err(status)),
            None => std::fs::read_to_string(&ready).ok().map(Ok),
        });
        match text {
            Ok(text) => {
                let addresses: serde_json::Value = serde_json::from_str(&text).unwrap();
                let address = |name: &str| addresses[name].as_str().unwrap().to_owned();
                Ok(Server {
                    http: address("http"),
                    admin: address("admin"),
                    // Null where a server takes no peers.
                    peer: addresses["peer"].as_str().unwrap_or_default().to_owned(),
                    process: self.process,
                    lines: Mutex::new(self.lines),
                    complaints: self.complaints,
                })
            }
            Err(status) => {
                // Its pipe is closed, so this ends.
                self.reader.join().unwrap();
                let said = std::mem::take(&mut *self.complaints.lock().unwrap());
                Err(Refused { status, said })
            }
        }
    }
}

/// Starts a server and waits until it is ready or has ended for a reason of its own.
pub fn try_start(flags: &[&str], dir: &Path) -> Result<Server, Refused> {
    let mut tries = 0;
    loop {
        tries += 1;
        match Starting::spawn(flags, dir).ready() {
            Err(refused) if refused.said.contains("Address already in use") && tries < PORT_TRIES => {}
            outcome => return outcome,
        }
    }
}

/// Standard output is read to its end whether or not anybody listens, or the server would block.
fn hand_on(out: impl BufRead, sender: &Sender<String>) {
    for line in out.lines().map_while(Result::ok) {
        let _ = sender.send(line);
    }
}
