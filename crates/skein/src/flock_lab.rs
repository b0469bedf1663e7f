//! `skein flock-lab`: a page on which anybody can watch the gossip and step it.
//!
//! The page is part of the binary and loads nothing from elsewhere. The flock runs here, in `skein_sim::lab`: the page
//! sends what was done so far, as a seed and a list of actions, and is answered with the state that this leads to. So
//! the server keeps nothing that matters; the sessions it remembers only spare it from doing everything again.
//!
//! | request | answer |
//! | --- | --- |
//! | `GET /` and the page's other files | the page |
//! | `POST /api/state` with a [`Question`] as JSON | a [`View`](skein_sim::lab::View) as JSON |
//!
//! A question that cannot be answered gets a problem document (RFC 9457): `bad-request` (400) when it is not one,
//! `impossible` (422) when an action cannot be done where it stands, `too-much` (422) when the session would pass a
//! bound. A browser lets other sites' pages send no JSON here without our consent, which we never give, and names
//! other than this machine's own are turned away, so that no site can pose as this one (DNS rebinding).

mod assets;
mod reply;

use crate::args::FlockLabArgs;
use crate::say;
use crate::signals::Stops;
use crate::trouble::{Exit, Trouble};
use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HOST, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use reply::{problem, with_body};
use skein_sim::lab::{LabError, Question, Sessions, TEXT_BYTES_MAX};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// Connections at a time; a browser opens about six.
const CONNECTIONS_MAX: usize = 64;
/// A question: the actions, and room for the rest.
const QUESTION_BYTES_MAX: usize = TEXT_BYTES_MAX + 4096;
/// How long a request may take to arrive, its head and its body each.
const ARRIVAL_MAX: Duration = Duration::from_secs(10);
/// How long answers under way may take once we are to stop.
const GRACE: Duration = Duration::from_secs(2);
/// After an error of accept, most likely for want of open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What all requests share.
struct Lab {
    sessions: Mutex<Sessions>,
    /// One simulation at a time: each keeps a processor busy.
    turn: Arc<Semaphore>,
    /// Only names of this machine are answered.
    local_only: bool,
}

/// Runs `skein flock-lab` until SIGTERM or SIGINT.
pub async fn run(args: FlockLabArgs) -> Result<Exit, Trouble> {
    let mut stops = Stops::listen();
    let cannot = |e: &std::io::Error| {
        Trouble::new(Exit::Failed, format!("cannot listen on {}", args.addr))
            .because_of(e)
            .next("stop the process that has the address, or name another: --addr 127.0.0.1:7081")
    };
    let listener = TcpListener::bind(args.addr).await.map_err(|e| cannot(&e))?;
    let addr = listener.local_addr().map_err(|e| cannot(&e))?;
    let warning = warning(addr);
    let local_only = warning.is_none();
    if let Some(warning) = warning {
        say::err(warning);
    }
    say::out(format_args!("flock lab on http://{}/ until SIGTERM or Ctrl-C", reachable(addr)));
    let lab = Arc::new(Lab {
        sessions: Mutex::new(Sessions::default()),
        turn: Arc::new(Semaphore::new(1)),
        local_only,
    });
    let (stopper, stop) = watch::channel(());
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            _ = stops.next() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if connections.len() < CONNECTIONS_MAX => {
                    connections.spawn(serve(lab.clone(), stream, stop.clone()));
                }
                Ok(_) => {}
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
    stopper.send_replace(());
    let all_gone = async { while connections.join_next().await.is_some() {} };
    // What is not done by then is cut; the page asks again when it finds somebody.
    let _ = tokio::time::timeout(GRACE, all_gone).await;
    say::out("stopped");
    Ok(Exit::Done)
}

/// What to say of an address that is not for this machine alone.
fn warning(addr: SocketAddr) -> Option<String> {
    (!addr.ip().is_loopback()).then(|| {
        format!(
            "skein: warning: {addr} can be reached from other machines, and the page asks nobody who they are"
        )
    })
}

/// How a browser on this machine reaches an address that we listen on.
fn reachable(addr: SocketAddr) -> String {
    if addr.ip().is_unspecified() { format!("localhost:{}", addr.port()) } else { addr.to_string() }
}

async fn serve(lab: Arc<Lab>, stream: TcpStream, mut stop: watch::Receiver<()>) {
    // Without it answers are only slower.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let lab = lab.clone();
        async move { Ok::<_, Infallible>(answer(&lab, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(ARRIVAL_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        // A connection that ends badly is a browser that went away.
        _ = connection.as_mut() => return,
        _ = stop.changed() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

async fn answer(lab: &Arc<Lab>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    if lab.local_only && !names_this_machine(request.headers().get(HOST)) {
        let detail = "the lab answers to this machine's own names only: localhost, 127.0.0.1 or [::1]";
        return problem(StatusCode::MISDIRECTED_REQUEST, "misdirected", detail);
    }
    let path = request.uri().path();
    if path == "/api/state" {
        return match *request.method() {
            Method::POST => state(lab, request).await,
            _ => not_allowed("POST"),
        };
    }
    match (assets::find(path), request.method()) {
        (None, _) => problem(StatusCode::NOT_FOUND, "not-found", "nothing is served here; the page is at /"),
        (Some(asset), &Method::GET | &Method::HEAD) => {
            with_body(StatusCode::OK, asset.media_type, Bytes::from_static(asset.bytes))
        }
        (Some(_), _) => not_allowed("GET, HEAD"),
    }
}

/// `POST /api/state`.
async fn state(lab: &Arc<Lab>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    if !is_json(request.headers().get(CONTENT_TYPE)) {
        let detail = "a question is sent as application/json";
        return problem(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not-json", detail);
    }
    let body = Limited::new(request.into_body(), QUESTION_BYTES_MAX).collect();
    let body = match tokio::time::timeout(ARRIVAL_MAX, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(e)) if e.is::<http_body_util::LengthLimitError>() => {
            let detail = format!("a question has at most {QUESTION_BYTES_MAX} bytes");
            return problem(StatusCode::PAYLOAD_TOO_LARGE, "too-large", &detail);
        }
        Ok(Err(_)) => {
            return problem(StatusCode::BAD_REQUEST, "bad-request", "the question did not arrive whole");
        }
        Err(_) => {
            return problem(StatusCode::REQUEST_TIMEOUT, "slow-request", "the question arrived too slowly");
        }
    };
    let question: Question = match serde_json::from_slice(&body) {
        Ok(question) => question,
        Err(e) => return problem(StatusCode::BAD_REQUEST, "bad-request", &format!("not a question: {e}")),
    };
    // The semaphore is never closed; a permit that could not be had would only mean two simulations at a time.
    let turn = lab.turn.clone().acquire_owned().await.ok();
    let of_task = lab.clone();
    let simulated = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        let mut sessions = of_task.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.view(&question).map(|view| serde_json::to_vec(&view))
    });
    match simulated.await {
        Ok(Ok(Ok(json))) => with_body(StatusCode::OK, "application/json", json.into()),
        Ok(Ok(Err(e))) => problem(StatusCode::INTERNAL_SERVER_ERROR, "internal", &e.to_string()),
        Ok(Err(e)) => refusal(&e),
        Err(_) => {
            // The flock's own checks failed; what is half done cannot be trusted.
            *lab.sessions.lock().unwrap_or_else(PoisonError::into_inner) = Sessions::default();
            let detail =
                "the simulation failed; its seed and actions show the same again, please report them";
            problem(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
        }
    }
}

fn refusal(error: &LabError) -> Response<Full<Bytes>> {
    let (status, kind) = match error {
        LabError::Parse(_) | LabError::Origin { .. } => (StatusCode::BAD_REQUEST, "bad-request"),
        LabError::Impossible { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "impossible"),
        LabError::TooMuch { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "too-much"),
    };
    problem(status, kind, &error.to_string())
}

fn not_allowed(allowed: &'static str) -> Response<Full<Bytes>> {
    let mut response = problem(
        StatusCode::METHOD_NOT_ALLOWED,
        "method-not-allowed",
        &format!("only {allowed} is understood here"),
    );
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}

fn is_json(content_type: Option<&HeaderValue>) -> bool {
    let text = content_type.and_then(|value| value.to_str().ok()).unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json")
}

/// Whether the `Host` of a request means us: a name of the loopback, whatever the port.
fn names_this_machine(host: Option<&HeaderValue>) -> bool {
    let Some(host) = host.and_then(|value| value.to_str().ok()) else { return false };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost")
        || bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_answered() {
        let means_us = |host: &str| names_this_machine(Some(&HeaderValue::from_str(host).unwrap()));
        for host in [
            "localhost",
            "LOCALHOST:7080",
            "127.0.0.1",
            "127.0.0.1:7080",
            "[::1]:7080",
            "[::1]",
            "127.8.8.8:1",
        ] {
            assert!(means_us(host), "{host}");
        }
        for host in
            ["example.com", "localhost.example.com:7080", "10.0.0.1:7080", "127.0.0.1.example.com", ""]
        {
            assert!(!means_us(host), "{host}");
        }
        assert!(!names_this_machine(None));
    }

    #[test]
    fn an_address_that_others_can_reach_is_warned_of() {
        for (addr, warned) in [
            ("127.0.0.1:7080", false),
            ("[::1]:7080", false),
            ("0.0.0.0:7080", true),
            ("192.0.2.1:7080", true),
        ] {
            assert_eq!(warning(addr.parse().unwrap()).is_some(), warned, "{addr}");
        }
        assert_eq!(reachable("0.0.0.0:7080".parse().unwrap()), "localhost:7080");
    }

    #[test]
    fn json_is_told_by_its_media_type() {
        let taken = |value: &'static str| is_json(Some(&HeaderValue::from_static(value)));
        assert!(taken("application/json") && taken("Application/JSON; charset=utf-8"));
        assert!(!taken("text/plain") && !taken("application/jsonp") && !is_json(None));
    }
}
