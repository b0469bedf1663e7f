//! A small HTTP client for the commands that talk to a running server: one connection kept alive, and which
//! failures are worth another try.

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use std::fmt;
use std::io;
use std::str::FromStr;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longer than any server's own `request_timeout` is likely to be, so that its 504 arrives before we give up.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest answer that is kept whole: schemas and problems, never tables.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// A server's address: `http://host:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    authority: String,
    connect: String,
}

/// A text that is no server's address; the message says how one is written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a server's address: {why}; write for example http://127.0.0.1:7070")]
pub struct TargetError {
    text: String,
    why: &'static str,
}

impl FromStr for Target {
    type Err = TargetError;
    fn from_str(text: &str) -> Result<Target, TargetError> {
        let wrong = |why| TargetError { text: text.to_owned(), why };
        let uri: http::Uri = text.trim_end_matches('/').parse().map_err(|_| wrong("it is not a URL"))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => return Err(wrong("https is not there yet")),
            _ => return Err(wrong("it does not begin with http://")),
        }
        let authority = uri.authority().ok_or_else(|| wrong("it names no host"))?;
        if uri.path_and_query().is_some_and(|path| path.as_str() != "/") {
            return Err(wrong("it has a path"));
        }
        let connect = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80));
        Ok(Target { authority: authority.as_str().to_owned(), connect })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.authority)
    }
}

/// Why there was no answer. Whether the server took the request is unknown, except for `Connect`.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No connection: the server has not seen the request.
    #[error("connect to {target}")]
    Connect {
        /// The server.
        target: Target,
        /// Why not.
        source: io::Error,
    },
    /// The connection broke before the answer was complete.
    #[error("talk to {target}")]
    Broken {
        /// The server.
        target: Target,
        /// How it broke.
        source: hyper::Error,
    },
    /// No answer came in time.
    #[error("{target} did not answer within {waited:?}")]
    TimedOut {
        /// The server.
        target: Target,
        /// How long we waited.
        waited: Duration,
    },
    /// The answer is not one that Skein gives.
    #[error("the answer of {target} is unusable: {detail}")]
    Unusable {
        /// The server.
        target: Target,
        /// What is wrong with it.
        detail: String,
    },
}

/// An answer read to its end.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// `Retry-After` in seconds, if the server gave one.
    pub retry_after: Option<Duration>,
    /// Its body.
    pub body: Bytes,
}

impl Answer {
    /// What the server says went wrong: the detail of a problem document, or the plain text.
    pub fn explanation(&self) -> String {
        #[derive(serde::Deserialize)]
        struct Problem {
            title: Option<String>,
            detail: Option<String>,
        }
        let text = match serde_json::from_slice::<Problem>(&self.body) {
            Ok(Problem { title: Some(title), detail: Some(detail) }) => format!("{title}: {detail}"),
            Ok(Problem { title, detail }) => title.or(detail).unwrap_or_default(),
            Err(_) => String::from_utf8_lossy(&self.body).trim().chars().take(500).collect(),
        };
        format!("{} {text}", self.status).trim_end().to_owned()
    }

    /// The problem document's `type`, if there is one.
    pub fn problem_type(&self) -> Option<String> {
        #[derive(serde::Deserialize)]
        struct Typed {
            r#type: String,
        }
        serde_json::from_slice::<Typed>(&self.body).ok().map(|t| t.r#type)
    }

    /// Whether the same request may succeed later: the server is overloaded, full, or has no quorum just now.
    pub fn worth_retrying(&self) -> bool {
        matches!(
            self.status,
            StatusCode::TOO_MANY_REQUESTS
                | StatusCode::SERVICE_UNAVAILABLE
                | StatusCode::GATEWAY_TIMEOUT
                | StatusCode::INSUFFICIENT_STORAGE
        )
    }
}

/// One request: everything but where it goes.
#[derive(Debug, Clone)]
pub struct Call {
    method: Method,
    path: String,
    headers: Vec<(&'static str, String)>,
    body: Bytes,
}

impl Call {
    /// A request without body for a path that is already percent-encoded.
    pub fn new(method: Method, path: impl Into<String>) -> Call {
        Call { method, path: path.into(), headers: Vec::new(), body: Bytes::new() }
    }

    /// Adds a header; `name` is lower-case.
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Call {
        self.headers.push((name, value.into()));
        self
    }

    /// Gives the request a body.
    pub fn body(mut self, body: impl Into<Bytes>) -> Call {
        self.body = body.into();
        self
    }
}

/// One connection to one server, opened when it is first needed and again after it broke.
#[derive(Debug)]
pub struct Connection {
    target: Target,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl Connection {
    /// A connection that is not open yet.
    pub fn new(target: Target) -> Connection {
        Connection { target, sender: None }
    }

    /// Sends a request and reads the whole answer. Never sends anything twice.
    pub async fn call(&mut self, call: Call) -> Result<Answer, ClientError> {
        let response = self.start(call).await?;
        let status = response.status();
        let retry_after = response
            .headers()
            .get(header::RETRY_AFTER)
            .and_then(|v| v.to_str().ok()?.parse().ok())
            .map(Duration::from_secs);
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect();
        match timeout(ANSWER_TIMEOUT, body).await {
            Ok(Ok(body)) => Ok(Answer { status, retry_after, body: body.to_bytes() }),
            Ok(Err(e)) => {
                self.sender = None;
                let target = self.target.clone();
                Err(match e.downcast::<hyper::Error>() {
                    Ok(source) => ClientError::Broken { target, source: *source },
                    Err(other) => ClientError::Unusable { target, detail: other.to_string() },
                })
            }
            Err(_) => Err(self.timed_out()),
        }
    }

    /// Sends a request and gives the answer when its head is there; the body streams.
    pub async fn start(&mut self, call: Call) -> Result<Response<Incoming>, ClientError> {
        let request = self.request(call)?;
        let still_open = match &mut self.sender {
            Some(sender) => sender.ready().await.is_ok(),
            None => false,
        };
        if !still_open {
            self.sender = None;
        }
        let sender = match &mut self.sender {
            Some(sender) => sender,
            None => {
                let sender = self.connect().await?;
                self.sender.insert(sender)
            }
        };
        match timeout(ANSWER_TIMEOUT, sender.send_request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(source)) => {
                self.sender = None;
                Err(ClientError::Broken { target: self.target.clone(), source })
            }
            Err(_) => Err(self.timed_out()),
        }
    }

    fn timed_out(&mut self) -> ClientError {
        self.sender = None;
        ClientError::TimedOut { target: self.target.clone(), waited: ANSWER_TIMEOUT }
    }

    fn request(&self, call: Call) -> Result<Request<Full<Bytes>>, ClientError> {
        let unusable = |detail: String| ClientError::Unusable { target: self.target.clone(), detail };
        let mut builder = Request::builder()
            .method(call.method)
            .uri(call.path)
            .header(header::HOST, &self.target.authority)
            .header(header::USER_AGENT, concat!("skein/", env!("CARGO_PKG_VERSION")));
        for (name, value) in &call.headers {
            let value = HeaderValue::from_str(value).map_err(|e| unusable(format!("header {name}: {e}")))?;
            builder = builder.header(*name, value);
        }
        builder.body(Full::new(call.body)).map_err(|e| unusable(e.to_string()))
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, ClientError> {
        let failed = |source| ClientError::Connect { target: self.target.clone(), source };
        let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(&self.target.connect))
            .await
            .map_err(|_| failed(io::ErrorKind::TimedOut.into()))?
            .map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|source| ClientError::Broken { target: self.target.clone(), source })?;
        // Ends by itself when the sender is dropped or the server hangs up; its error reaches the sender.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(sender)
    }
}

/// Percent-encodes a text for use as one path segment.
pub fn path_segment(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_plain_http_address() {
        let target: Target = "http://127.0.0.1:7070/".parse().unwrap();
        assert_eq!(target.to_string(), "http://127.0.0.1:7070");
        assert_eq!("http://db1".parse::<Target>().unwrap().connect, "db1:80");
        assert_eq!("http://[::1]:7070".parse::<Target>().unwrap().connect, "[::1]:7070");
        for text in ["", "127.0.0.1:7070", "https://db1", "http://db1/x", "ftp://db1", "http://"] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_problem_is_told_in_its_own_words() {
        let answer = |body: &'static str| Answer {
            status: StatusCode::NOT_FOUND,
            retry_after: None,
            body: Bytes::from_static(body.as_bytes()),
        };
        let problem = answer(r#"{"type":"urn:x:table-not-found","title":"No such table","detail":"add it"}"#);
        assert_eq!(problem.explanation(), "404 Not Found No such table: add it");
        assert_eq!(problem.problem_type().as_deref(), Some("urn:x:table-not-found"));
        assert_eq!(answer("plain\n").explanation(), "404 Not Found plain");
        assert_eq!(answer("").explanation(), "404 Not Found");
    }

    #[test]
    fn a_path_segment_keeps_slashes_to_itself() {
        assert_eq!(path_segment("a b/c%é"), "a%20b%2Fc%25%C3%A9");
    }
}
