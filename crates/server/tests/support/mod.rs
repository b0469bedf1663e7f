//! A server on a real cell in a temporary directory, and a client that sends exactly the bytes it is told to.
#![allow(dead_code)] // Each test file uses its own part.
#![allow(clippy::unwrap_used)] // Only `#[test]` functions are exempt by themselves.

use skein_cell::{Cell, CellOptions};
use skein_model::{CellId, HostId};
use skein_server::{Server, ServerConfig, install_metrics};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// No answer takes longer, on however slow a machine; a test that waits for so long has failed.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Asks again and again until it is so.
pub fn within(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub struct Running {
    pub data: SocketAddr,
    pub admin: SocketAddr,
    pub config: ServerConfig,
    stop: Option<oneshot::Sender<()>>,
    server: Option<JoinHandle<()>>,
    cell: Cell,
    runtime: Runtime,
    _dir: TempDir,
}

impl Running {
    pub fn solo() -> Running {
        Running::with(true, |_| {})
    }

    pub fn with(solo: bool, set: impl FnOnce(&mut ServerConfig)) -> Running {
        let dir = tempfile::tempdir().unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let metrics = install_metrics();
        let mut options = CellOptions::new(dir.path().to_owned(), HostId(0xF47F_4AA7_602F_3857), CellId(1));
        options.solo = solo;
        options.disk_reserve_bytes = 0;
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut config = ServerConfig {
            http_addr: any,
            admin_addr: any,
            share_http_addr: "shared.example:80".to_owned(),
            ..ServerConfig::default()
        };
        set(&mut config);
        let shared = config.clone();
        let (cell, server) = runtime.block_on(async move {
            let cell = Cell::open(options).await.unwrap();
            let server = Server::bind(shared, cell.clone(), metrics).await.unwrap();
            (cell, server)
        });
        let (data, admin) = (server.http_addr(), server.admin_addr());
        let (stop, stopped) = oneshot::channel();
        let server = runtime.spawn(server.run(async move {
            let _ = stopped.await;
        }));
        Running { data, admin, config, stop: Some(stop), server: Some(server), cell, runtime, _dir: dir }
    }

    /// Waits until no request holds any of the memory that requests share.
    pub fn until_no_memory_is_held(&self) {
        within("requests let go of their memory", || self.config.memory.used() == 0);
    }

    /// Tells the server to stop, without waiting for it.
    pub fn stop(&mut self) {
        drop(self.stop.take());
    }

    /// Waits until the stopped server is done.
    pub fn wait(&mut self) {
        if let Some(server) = self.server.take() {
            self.runtime.block_on(server).unwrap();
        }
    }

    /// Sends a request without a body to the data port.
    pub fn ask(&self, method: &str, target: &str, headers: &[(&str, &str)]) -> Reply {
        ask(self.data, method, target, headers, b"")
    }

    pub fn get(&self, target: &str) -> Reply {
        self.ask("GET", target, &[])
    }

    pub fn put(&self, target: &str, value: &str) -> Reply {
        ask(self.data, "PUT", target, &[], value.as_bytes())
    }

    pub fn post(&self, target: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        ask(self.data, "POST", target, headers, body.as_bytes())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
        self.wait();
        let cell = self.cell.clone();
        self.runtime.block_on(cell.shutdown(Duration::from_secs(5)));
    }
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Whether the body ended as its framing says, rather than by the connection's end.
    pub whole: bool,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// A header that has to be there.
    pub fn said(&self, name: &str) -> &str {
        self.header(name).unwrap_or_else(|| panic!("no {name} in {self:?}"))
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e} in {self:?}"))
    }

    /// The last part of a problem's type.
    pub fn problem(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let json = self.json();
        assert_eq!(json["status"], self.status);
        assert_eq!(json["requestId"].as_str(), self.header("x-request-id"));
        json["type"].as_str().unwrap().rsplit(':').next().unwrap().to_owned()
    }
}

/// Sends one request over a connection of its own.
pub fn ask(addr: SocketAddr, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
    let mut head = format!("{method} {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() {
        head.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    head.push_str("\r\n");
    let mut stream = connect(addr);
    stream.write_all(head.as_bytes()).unwrap();
    // The server may answer, and close, without reading the body.
    let _ = stream.write_all(body);
    read_reply(&mut stream, method == "HEAD")
}

pub fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Reads until the other side ends the connection. A reset ends it too.
pub fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut piece = [0u8; 65536];
    loop {
        match stream.read(&mut piece) {
            Ok(0) => return bytes,
            Ok(n) => bytes.extend_from_slice(&piece[..n]),
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => return bytes,
            Err(e) => panic!("{e} after {} bytes", bytes.len()),
        }
    }
}

pub fn read_reply(stream: &mut TcpStream, head_only: bool) -> Reply {
    parse_reply(&read_to_end(stream), head_only)
}

/// Takes an answer apart; everything after its head belongs to its body.
pub fn parse_reply(bytes: &[u8], head_only: bool) -> Reply {
    let split = bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap_or_else(|| {
        panic!("no end of the head in {:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(500)]))
    });
    let head = std::str::from_utf8(&bytes[..split]).unwrap();
    let rest = &bytes[split + 4..];
    let mut lines = head.split("\r\n");
    let status: u16 = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    if status == 100 {
        return parse_reply(rest, head_only);
    }
    let headers: Vec<(String, String)> = lines
        .map(|line| {
            let (name, value) = line.split_once(':').unwrap();
            (name.to_ascii_lowercase(), value.trim().to_owned())
        })
        .collect();
    let header = |name: &str| headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
    let (body, whole) = if head_only {
        (rest.to_vec(), true)
    } else if header("transfer-encoding").as_deref() == Some("chunked") {
        dechunk(rest)
    } else {
        let length = header("content-length").map_or(0, |l| l.parse().unwrap());
        (rest.to_vec(), rest.len() == length)
    };
    Reply { status, headers, body, whole }
}

fn dechunk(mut rest: &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    loop {
        let Some(end) = rest.windows(2).position(|w| w == b"\r\n") else { return (body, false) };
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
        if size == 0 {
            return (body, true);
        }
        let Some(chunk) = rest.get(end + 2..end + 2 + size) else { return (body, false) };
        body.extend_from_slice(chunk);
        rest = rest.get(end + 4 + size..).unwrap_or_default();
    }
}
