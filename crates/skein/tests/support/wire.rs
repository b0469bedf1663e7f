//! HTTP/1.1 as bytes: sends exactly what it is told to, and takes answers apart without forgiving anything.

use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

/// An answer, read to its end.
#[derive(Clone)]
pub struct Reply {
    /// Its status.
    pub status: u16,
    /// Names in lower case, in the order in which they came.
    pub headers: Vec<(String, String)>,
    /// Its body, without the framing.
    pub body: Vec<u8>,
    /// Whether the body ended as its framing says. If not, the connection broke off.
    pub whole: bool,
}

impl fmt::Debug for Reply {
    /// With as much of the body as one wants to read.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (status, bytes, whole) =
            (self.status, self.body.len(), if self.whole { "" } else { ", broken off" });
        let start = String::from_utf8_lossy(&self.body[..bytes.min(600)]);
        write!(f, "{status} with {:?} and {bytes} bytes{whole}: {start:?}", self.headers)
    }
}

impl Reply {
    /// A header; the name in lower case. None of ours may be given twice.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str());
        let first = found.next();
        assert_eq!(found.next(), None, "{name} stands twice in {self:?}");
        first
    }

    /// A header that has to be there.
    pub fn said(&self, name: &str) -> &str {
        self.header(name).unwrap_or_else(|| panic!("no {name} in {self:?}"))
    }

    /// A header that has to be there and to be a decimal number.
    pub fn number(&self, name: &str) -> u64 {
        let text = self.said(name);
        let number: u64 = text.parse().unwrap_or_else(|e| panic!("{name}: {text:?}: {e}"));
        assert_eq!(number.to_string(), text, "{name} is not plain decimal");
        number
    }

    /// The body, which has to be UTF-8.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap_or_else(|e| panic!("{e} in {self:?}"))
    }

    /// The body, which has to be JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e} in {self:?}"))
    }
}

/// Headers to send: names and values.
pub type Headers<'a> = &'a [(&'a str, &'a str)];

/// A connection that carries one request after the other.
pub struct Connection {
    stream: TcpStream,
    /// Received and not yet taken apart.
    buffer: Vec<u8>,
    /// An answer that does not come counts as a connection that ended.
    forgiving: bool,
}

impl Connection {
    /// Connects.
    pub fn open(addr: &str) -> Connection {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(super::PATIENCE)).unwrap();
        stream.set_write_timeout(Some(super::PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Connection { stream, buffer: Vec::new(), forgiving: false }
    }

    /// Connects, if that works within `patience`; silence for so long is then taken for the end of the connection.
    pub fn try_open(addr: &str, patience: Duration) -> io::Result<Connection> {
        let addr = addr.parse().map_err(io::Error::other)?;
        let stream = TcpStream::connect_timeout(&addr, patience)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream, buffer: Vec::new(), forgiving: true })
    }

    /// Sends bytes as they are. The server may have closed, for good reasons; the answer tells.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Ends our side: the server sees that nothing more will come.
    pub fn finish(&mut self) {
        // Whether the server was faster does not matter.
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Sends a request and reads its answer.
    pub fn ask(&mut self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        let sent = self.send(&head(method, target, headers, body)).and_then(|()| self.send(body));
        self.reply_to(method).unwrap_or_else(|| panic!("no answer to {method} {target} ({sent:?})"))
    }

    /// The next answer; `None` if the connection ended before one began.
    pub fn reply_to(&mut self, method: &str) -> Option<Reply> {
        loop {
            let end = self.until(|buffer| find(buffer, b"\r\n\r\n"))?;
            let head: Vec<u8> = self.buffer.drain(..end + 4).collect();
            let mut reply = parse_head(&head[..end]);
            if reply.status == 100 {
                continue;
            }
            self.read_body(&mut reply, method);
            return Some(reply);
        }
    }

    fn read_body(&mut self, reply: &mut Reply, method: &str) {
        if method == "HEAD" || matches!(reply.status, 204 | 304) {
            return;
        }
        if reply.header("transfer-encoding") == Some("chunked") {
            assert_eq!(reply.header("content-length"), None, "an answer with two framings: {reply:?}");
            reply.whole = loop {
                let Some(end) = self.until(|buffer| find(buffer, b"\r\n")) else { break false };
                let line: Vec<u8> = self.buffer.drain(..end + 2).collect();
                let size = usize::from_str_radix(std::str::from_utf8(&line[..end]).unwrap(), 16).unwrap();
                let Some(chunk) = self.take(size + 2) else { break false };
                assert_eq!(&chunk[size..], b"\r\n");
                reply.body.extend_from_slice(&chunk[..size]);
                if size == 0 {
                    break true;
                }
            };
            return;
        }
        let length = reply.header("content-length").map(|l| l.parse().unwrap());
        let length: usize = length.unwrap_or_else(|| panic!("an answer without framing: {reply:?}"));
        match self.take(length) {
            Some(body) => reply.body = body,
            None => (reply.body, reply.whole) = (std::mem::take(&mut self.buffer), false),
        }
    }

    fn take(&mut self, length: usize) -> Option<Vec<u8>> {
        self.until(|buffer| (length <= buffer.len()).then_some(()))?;
        Some(self.buffer.drain(..length).collect())
    }

    /// Reads until `seen` sees it; `None` if the connection ends first.
    fn until<T>(&mut self, seen: impl Fn(&[u8]) -> Option<T>) -> Option<T> {
        let mut piece = [0u8; 64 << 10];
        loop {
            if let Some(found) = seen(&self.buffer) {
                return Some(found);
            }
            match self.stream.read(&mut piece) {
                Ok(0) => return None,
                Ok(n) => self.buffer.extend_from_slice(&piece[..n]),
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset || self.forgiving => return None,
                Err(e) => panic!("{e}, having read {:?}", String::from_utf8_lossy(&self.buffer)),
            }
        }
    }

    /// Waits until an answer has begun.
    pub fn wait_for_bytes(&mut self) {
        let began = self.until(|buffer| (!buffer.is_empty()).then_some(()));
        assert!(began.is_some(), "the connection ended before an answer began");
    }

    /// Whether the server ends the connection without another byte. Waits for it.
    pub fn ends(&mut self) -> bool {
        self.until(|buffer| (!buffer.is_empty()).then_some(())).is_none()
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// The head of a request. The length of the body is said if there is one, and always of a PUT or POST.
pub fn head(method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut head = format!("{method} {target} HTTP/1.1\r\nHost: skein.test\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() || matches!(method, "PUT" | "POST") {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    head.push_str("\r\n");
    head.into_bytes()
}

fn parse_head(head: &[u8]) -> Reply {
    let text = std::str::from_utf8(head).unwrap_or_else(|e| panic!("{e} in the head of an answer"));
    let mut lines = text.split("\r\n");
    let first = lines.next().unwrap();
    let mut words = first.splitn(3, ' ');
    let version = words.next().unwrap();
    assert!(matches!(version, "HTTP/1.1" | "HTTP/1.0"), "{first:?} begins no answer");
    let status =
        words.next().and_then(|s| s.parse().ok()).unwrap_or_else(|| panic!("no status in {first:?}"));
    let headers = lines
        .map(|line| {
            let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("{line:?} is no header"));
            (name.to_ascii_lowercase(), value.trim().to_owned())
        })
        .collect();
    Reply { status, headers, body: Vec::new(), whole: true }
}

/// One request on a connection of its own.
pub fn ask(addr: &str, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
    Connection::open(addr).ask(method, target, headers, body)
}

/// What the server answers to these bytes when nothing follows them; `None` if it just closes.
pub fn say(addr: &str, bytes: &[u8]) -> Option<Reply> {
    let mut connection = Connection::open(addr);
    // A server that closes early has still said why.
    let _ = connection.send(bytes);
    connection.finish();
    connection.reply_to("GET")
}
