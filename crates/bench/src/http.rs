//! Skein as a target: one HTTP/1.1 connection per client, one request at a time.
//!
//! Written on the socket itself because a general client costs several microseconds more per request, which
//! the server under test would lack: both share the machine.

use crate::drive::{Client, Target};
use crate::error::BenchError;
use crate::request::{Key, Requests};
use crate::response::{Head, ResponseReader};
use crate::tally::{Done, Failure, Outcome};
use crate::workload::{Op, Values};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Bytes read from a socket at most at once; a scan arrives in pieces of this size.
const BUFFER_BYTES: usize = 64 << 10;
const _: () = assert!(crate::response::HEAD_BYTES_MAX < BUFFER_BYTES, "a whole head has to fit");

/// Rows written by one request while filling a table: enough that the request's own cost does not matter.
const FILL_ROWS_MAX: u64 = 500;
/// Bytes of values written by one request while filling a table, well below the server's limit for a batch.
const FILL_BYTES_MAX: u64 = 4 << 20;

/// How long a client that could not connect waits before its next attempt, lest a dead server be asked a
/// million times a second.
const RECONNECT_PAUSE: Duration = Duration::from_millis(10);

/// The servers of a cell and one of its tables. Clients are dealt out to the servers in turn; one whose server cannot
/// be reached goes on to the next.
#[derive(Clone, Debug)]
pub struct HttpTarget {
    doors: Arc<[Door]>,
}

/// One server, and requests addressed to it.
#[derive(Clone, Debug)]
struct Door {
    address: SocketAddr,
    requests: Requests,
}

impl HttpTarget {
    /// The servers at `urls` (`http://HOST[:PORT]`, port 80 if not given), resolved now; their table `table`, an ID
    /// or a name. Errors: [`BenchError::Url`], or [`BenchError::Connect`] when a host name is unknown.
    pub async fn resolve(urls: &[String], table: &str) -> Result<Self, BenchError> {
        let mut doors = Vec::new();
        for url in urls {
            doors.push(Door::resolve(url, table).await?);
        }
        Ok(HttpTarget { doors: doors.into() })
    }

    /// The one server at `address`, spoken to as `host`; its table `table`.
    pub fn at(address: SocketAddr, host: &str, table: &str) -> Self {
        HttpTarget { doors: [Door { address, requests: Requests::new(host, table) }].into() }
    }
}

impl Door {
    async fn resolve(url: &str, table: &str) -> Result<Door, BenchError> {
        let wrong = |reason: String| BenchError::Url { url: url.to_owned(), reason };
        let uri: http::Uri = url.parse().map_err(|error: http::uri::InvalidUri| wrong(error.to_string()))?;
        if uri.scheme_str() != Some("http") {
            return Err(wrong("only plain http:// is spoken".to_owned()));
        }
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(wrong("a path has no meaning here".to_owned()));
        }
        let authority = uri.authority().ok_or_else(|| wrong("it names no host".to_owned()))?;
        let address = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80));
        let connect = |source| BenchError::Connect { address: address.clone(), source };
        let resolved = tokio::net::lookup_host(&address)
            .await
            .map_err(connect)?
            .next()
            .ok_or_else(|| connect(io::Error::other("the name has no address")))?;
        Ok(Door { address: resolved, requests: Requests::new(authority.as_str(), table) })
    }
}

impl Target for HttpTarget {
    type Client = HttpClient;

    async fn connect(&self, number: u64) -> Result<HttpClient, BenchError> {
        let door = (number % self.doors.len().max(1) as u64) as usize;
        let Some(Door { address, .. }) = self.doors.get(door) else {
            return Err(BenchError::Url { url: String::new(), reason: "no server is named".to_owned() });
        };
        let stream = open(*address)
            .await
            .map_err(|source| BenchError::Connect { address: address.to_string(), source })?;
        Ok(HttpClient {
            doors: self.doors.clone(),
            door,
            number,
            connection: Some(stream),
            out: Vec::new(),
            body: Vec::new(),
            buffer: vec![0; BUFFER_BYTES],
            own_time: None,
        })
    }

    fn fill_rows_max(&self, value_bytes: usize) -> u64 {
        (FILL_BYTES_MAX / (value_bytes as u64).max(1)).clamp(1, FILL_ROWS_MAX)
    }
}

async fn open(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// One connection and its reused buffers.
#[derive(Debug)]
pub struct HttpClient {
    doors: Arc<[Door]>,
    /// Which of them is spoken to; there is one.
    door: usize,
    number: u64,
    /// Taken out while a request is on it, so that an abandoned request takes its connection along.
    connection: Option<TcpStream>,
    out: Vec<u8>,
    body: Vec<u8>,
    buffer: Vec<u8>,
    /// Time of the last update of this client's own row, if that is known.
    own_time: Option<u64>,
}

impl Client for HttpClient {
    async fn perform(&mut self, op: Op, values: &mut Values) -> Outcome {
        match op {
            Op::Get { key } => {
                self.doors[self.door].requests.get(&mut self.out, Key::Spread(key));
                let mut bytes = 0;
                self.exchange(|piece| bytes += piece.len() as u64).await?;
                if bytes != values.bytes() as u64 {
                    return Err(Failure::Named("value of another length"));
                }
                Ok(Done { rows: 0, bytes })
            }
            Op::Put { key } => {
                self.doors[self.door].requests.put(
                    &mut self.out,
                    Key::Spread(key),
                    None,
                    values.next_value(),
                );
                self.exchange(|_| ()).await?;
                Ok(Done::default())
            }
            Op::Pair { keys } => {
                self.doors[self.door].requests.begin_batch(&mut self.body);
                for key in keys {
                    self.doors[self.door].requests.add_to_batch(
                        &mut self.body,
                        Key::Spread(key),
                        values.next_value(),
                    );
                }
                self.send_batch().await
            }
            Op::Fill { first, count } => {
                self.doors[self.door].requests.begin_batch(&mut self.body);
                for key in first..first + count {
                    self.doors[self.door].requests.add_to_batch(
                        &mut self.body,
                        Key::Spread(key),
                        values.next_value(),
                    );
                }
                self.send_batch().await
            }
            Op::Conditional => {
                // Taken: should the outcome stay unknown, the next update has to do without a condition.
                let condition = self.own_time.take();
                self.doors[self.door].requests.put(
                    &mut self.out,
                    Key::Own(self.number),
                    condition,
                    values.next_value(),
                );
                self.own_time = self.exchange(|_| ()).await?.value_tx_clock;
                if self.own_time.is_none() {
                    return Err(Failure::Named("no Value-TxClock"));
                }
                Ok(Done::default())
            }
            Op::Scan => {
                self.doors[self.door].requests.scan(&mut self.out);
                let mut done = Done::default();
                self.exchange(|piece| {
                    done.rows += memchr::memchr_iter(b'\n', piece).count() as u64;
                    done.bytes += piece.len() as u64;
                })
                .await?;
                Ok(done)
            }
        }
    }
}

impl HttpClient {
    async fn send_batch(&mut self) -> Outcome {
        self.doors[self.door].requests.end_batch(&mut self.body);
        self.doors[self.door].requests.batch(&mut self.out, &self.body);
        self.exchange(|_| ()).await?;
        Ok(Done::default())
    }

    /// Sends `out` and reads the answer, passing its body to `sink`. Connects again if the last request left no
    /// usable connection. Any status other than 2xx is a failure.
    async fn exchange(&mut self, mut sink: impl FnMut(&[u8])) -> Result<Head, Failure> {
        let mut stream = match self.connection.take() {
            Some(stream) => stream,
            None => match open(self.doors[self.door].address).await {
                Ok(stream) => stream,
                Err(_) => {
                    self.door = (self.door + 1) % self.doors.len();
                    tokio::time::sleep(RECONNECT_PAUSE).await;
                    return Err(Failure::Named("cannot connect"));
                }
            },
        };
        let lost = |_| Failure::Named("connection lost");
        stream.write_all(&self.out).await.map_err(lost)?;
        let mut reader = ResponseReader::new();
        let mut filled = 0;
        let head = loop {
            let bytes = stream.read(&mut self.buffer[filled..]).await.map_err(lost)?;
            if bytes == 0 {
                match reader.finish() {
                    Ok(Some(head)) if filled == 0 => break head,
                    _ => return Err(Failure::Named("connection lost")),
                }
            }
            filled += bytes;
            let (used, head) = reader
                .feed(&self.buffer[..filled], &mut sink)
                .map_err(|_| Failure::Named("malformed answer"))?;
            if let Some(head) = head {
                if used < filled {
                    return Err(Failure::Named("bytes nobody asked for"));
                }
                break head;
            }
            // Only an unfinished head stays behind, and that is smaller than the buffer.
            self.buffer.copy_within(used..filled, 0);
            filled -= used;
        };
        if head.reusable {
            self.connection = Some(stream);
        }
        if !(200..300).contains(&head.status) {
            return Err(Failure::Status(head.status));
        }
        Ok(head)
    }
}

#[cfg(test)]
mod tests;
