//! Connections to peers: HTTP/1.1, one request at a time on each, kept open for the next.
//!
//! The first connection to an address, and the first after one failed, begins with the question which cell the peer belongs to:
//! an address may be somebody else's by now, and a row must not go to another database.

use crate::answer::Answer;
use crate::topology::Topology;
use bytes::Bytes;
use http::header::{HOST, HeaderName, HeaderValue, USER_AGENT};
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use skein_model::CellId;
use skein_model::limits::VALUE_BYTES_MAX;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

/// Longest answer that is kept whole: a value, or the topology of a large cell.
const ANSWER_BYTES_MAX: usize = VALUE_BYTES_MAX + (64 << 10);
/// How long an address is left alone after it failed once, if there are others; doubled each time.
const REST_MIN: Duration = Duration::from_millis(100);
/// The longest such time.
const REST_MAX: Duration = Duration::from_secs(10);
/// How long an address of another cell is left alone.
const FOREIGN_REST: Duration = Duration::from_secs(60);
/// Most addresses that something is remembered of.
const DOORS_MAX: usize = 32 << 10;

/// One request: everything but where it goes.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) body: Bytes,
}

impl Call {
    /// A request without a body.
    pub(crate) fn new(method: Method, path: impl Into<String>) -> Call {
        Call { method, path: path.into(), headers: Vec::new(), body: Bytes::new() }
    }

    /// Adds a header whose value is printable by construction.
    pub(crate) fn header(mut self, name: &'static str, value: impl ToString) -> Call {
        if let Ok(value) = HeaderValue::try_from(value.to_string()) {
            self.headers.push((HeaderName::from_static(name), value));
        }
        self
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The peer has not got the request.
    NotSent(String),
    /// The peer belongs to this other cell; it has not got the request.
    Foreign(CellId),
    /// It may have got it.
    Unsure(String),
}

/// All connections.
pub(crate) struct Pool {
    connect: Duration,
    idle_max: usize,
    doors: Mutex<BTreeMap<Arc<str>, Door>>,
    /// Set when the first peer of the cell has answered.
    cell: Mutex<Option<CellId>>,
}

/// What there is at one address.
#[derive(Default)]
struct Door {
    idle: Vec<Sender>,
    /// It has said that it belongs to our cell, and has not failed since.
    known: bool,
    failures: u32,
    rest_until: Option<Instant>,
}

type Sender = SendRequest<Full<Bytes>>;

impl Pool {
    pub(crate) fn new(connect: Duration, idle_max: usize, cell: Option<CellId>) -> Pool {
        Pool { connect, idle_max, doors: Mutex::new(BTreeMap::new()), cell: Mutex::new(cell) }
    }

    fn doors(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Door>> {
        self.doors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is remembered of an address.
    fn with<T>(&self, address: &str, change: impl FnOnce(&mut Door) -> T) -> T {
        let mut doors = self.doors();
        if !doors.contains_key(address) && DOORS_MAX <= doors.len() {
            // Far more than any cell has: whoever invents addresses costs others their connections at worst.
            doors.pop_first();
        }
        change(doors.entry(address.into()).or_default())
    }

    /// The cell, once it is known.
    pub(crate) fn cell(&self) -> Option<CellId> {
        *self.cell.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the cell is this one; the first asked about becomes it.
    fn belongs(&self, found: CellId) -> bool {
        let mut cell = self.cell.lock().unwrap_or_else(PoisonError::into_inner);
        *cell.get_or_insert(found) == found
    }

    /// Whether the address failed lately, so that others are to be preferred.
    pub(crate) fn rests(&self, address: &str) -> bool {
        let now = Instant::now();
        self.doors().get(address).is_some_and(|door| door.rest_until.is_some_and(|until| now < until))
    }

    fn failed(&self, address: &str) {
        self.with(address, |door| {
            door.idle.clear();
            door.known = false;
            door.failures = door.failures.saturating_add(1);
            let rest = REST_MIN.saturating_mul(1 << door.failures.min(10).saturating_sub(1)).min(REST_MAX);
            door.rest_until = Some(Instant::now() + rest);
        });
    }

    /// Asks the peer at `address` and reads the whole answer.
    pub(crate) async fn fetch(
        &self,
        address: &str,
        call: &Call,
        request_id: &str,
        until: Instant,
    ) -> Result<Answer, Fault> {
        let (sender, response) = self.start(address, call, request_id, until).await?;
        let (head, body) = response.into_parts();
        let unsure = |why: String| {
            self.failed(address);
            Fault::Unsure(format!("{address} broke off its answer: {why}"))
        };
        let body = match timeout_at(until, Limited::new(body, ANSWER_BYTES_MAX).collect()).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(why)) => return Err(unsure(why.to_string())),
            Err(_) => return Err(unsure("it stalled".to_owned())),
        };
        self.with(address, |door| {
            door.failures = 0;
            door.rest_until = None;
            if door.idle.len() < self.idle_max {
                door.idle.push(sender);
            }
        });
        Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
    }

    /// Asks the peer at `address` and gives the answer when its head is there. The connection is of no use before the body is read
    /// to its end, and closed when both are dropped.
    pub(crate) async fn start(
        &self,
        address: &str,
        call: &Call,
        request_id: &str,
        until: Instant,
    ) -> Result<(Sender, Response<Incoming>), Fault> {
        let mut request = self.request(address, call, request_id)?;
        // Idle connections may have been closed meanwhile; they give the request back then.
        while let Some(mut sender) = self.with(address, |door| door.idle.pop()) {
            if !matches!(timeout_at(until, sender.ready()).await, Ok(Ok(()))) {
                continue;
            }
            request = match self.send(address, &mut sender, request, until).await? {
                Ok(response) => return Ok((sender, response)),
                Err(unsent) => unsent,
            };
        }
        let mut sender = self.open(address, until).await?;
        if !self.with(address, |door| door.known) {
            self.meet(address, &mut sender, until).await?;
        }
        match self.send(address, &mut sender, request, until).await? {
            Ok(response) => Ok((sender, response)),
            Err(_) => {
                self.failed(address);
                Err(Fault::NotSent(format!("{address} closed the connection")))
            }
        }
    }

    /// Sends a request; gives it back if the connection turned out to be closed before.
    async fn send(
        &self,
        address: &str,
        sender: &mut Sender,
        request: Request<Full<Bytes>>,
        until: Instant,
    ) -> Result<Result<Response<Incoming>, Request<Full<Bytes>>>, Fault> {
        match timeout_at(until, sender.try_send_request(request)).await {
            Ok(Ok(response)) => Ok(Ok(response)),
            Ok(Err(mut error)) => match error.take_message() {
                Some(unsent) => Ok(Err(unsent)),
                None => {
                    self.failed(address);
                    Err(Fault::Unsure(format!("{address} did not answer: {}", error.into_error())))
                }
            },
            Err(_) => {
                self.failed(address);
                Err(Fault::Unsure(format!("{address} did not answer in time")))
            }
        }
    }

    async fn open(&self, address: &str, until: Instant) -> Result<Sender, Fault> {
        let failed = |why: String| {
            self.failed(address);
            Fault::NotSent(format!("{address} cannot be reached: {why}"))
        };
        let until = until.min(Instant::now() + self.connect);
        let stream = match timeout_at(until, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(why)) => return Err(failed(why.to_string())),
            Err(_) => return Err(failed("no answer".to_owned())),
        };
        // Without it an answer may wait for an acknowledgement; it works without, too.
        let _ = stream.set_nodelay(true);
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|why| failed(why.to_string()))?;
        // Ends when the sender and the answers under way are gone.
        tokio::spawn(async move {
            // Whoever waits for an answer hears of it.
            let _ = connection.await;
        });
        Ok(sender)
    }

    /// Makes sure that the peer belongs to our cell.
    async fn meet(&self, address: &str, sender: &mut Sender, until: Instant) -> Result<(), Fault> {
        let not_sent = |why: String| {
            self.failed(address);
            Fault::NotSent(format!("{address} did not say which cell it belongs to: {why}"))
        };
        let request = self.request(address, &Call::new(Method::GET, "/flock"), "hello")?;
        let told = async {
            let response = sender.send_request(request).await.map_err(|why| why.to_string())?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(|why| why.to_string())?.to_bytes();
            if !status.is_success() {
                return Err(format!("it answered {status}"));
            }
            Topology::parse(&body).map(|topology| topology.cell).map_err(|why| why.to_string())
        };
        let cell = match timeout_at(until, told).await {
            Ok(Ok(cell)) => cell,
            Ok(Err(why)) => return Err(not_sent(why)),
            Err(_) => return Err(not_sent("no answer".to_owned())),
        };
        if !self.belongs(cell) {
            self.failed(address);
            self.with(address, |door| door.rest_until = Some(Instant::now() + FOREIGN_REST));
            return Err(Fault::Foreign(cell));
        }
        self.with(address, |door| door.known = true);
        // The connection takes the next request when it has noticed the end of this answer.
        match timeout(self.connect, sender.ready()).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(not_sent("it closed the connection".to_owned())),
        }
    }

    fn request(&self, address: &str, call: &Call, id: &str) -> Result<Request<Full<Bytes>>, Fault> {
        let mut request = Request::builder()
            .method(call.method.clone())
            .uri(&call.path)
            .header(HOST, address)
            .header(USER_AGENT, concat!("skein-client/", env!("CARGO_PKG_VERSION")))
            .header("x-request-id", id);
        for (name, value) in &call.headers {
            request = request.header(name, value);
        }
        request
            .body(Full::new(call.body.clone()))
            .map_err(|why| Fault::NotSent(format!("the request is malformed: {why}")))
    }
}
