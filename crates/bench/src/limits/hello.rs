//! A bare HTTP server with one fixed answer: what a `get` costs when there is no database.

use crate::drive::spawn;
use crate::error::BenchError;
use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::net::SocketAddr;
use tokio::sync::oneshot;

/// A server on a thread of its own, until dropped.
#[derive(Debug)]
pub struct HelloServer {
    address: SocketAddr,
    _stop: oneshot::Sender<()>,
}

impl HelloServer {
    /// Starts it on a free loopback port; every answer is 200 with `body` as JSON. Errors: [`BenchError::Start`].
    pub fn start(body: Bytes) -> Result<Self, BenchError> {
        let (listener, address) = listen("the hello server")?;
        let (stop, stopped) = oneshot::channel();
        spawn("skein-bench-hello", move |runtime| runtime.block_on(serve(listener, body, stopped)))?;
        Ok(HelloServer { address, _stop: stop })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// A free loopback port, taken before the thread that serves it starts, so that nobody connects too early.
pub(super) fn listen(what: &'static str) -> Result<(std::net::TcpListener, SocketAddr), BenchError> {
    let start = |source| BenchError::Start { what, source };
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).map_err(start)?;
    listener.set_nonblocking(true).map_err(start)?;
    let address = listener.local_addr().map_err(start)?;
    Ok((listener, address))
}

async fn serve(listener: std::net::TcpListener, body: Bytes, mut stopped: oneshot::Receiver<()>) {
    // Without a listener clients are refused, and the run ends with that.
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    loop {
        let stream = tokio::select! {
            _ = &mut stopped => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                // The client went away between knocking and coming in.
                Err(_) => continue,
            },
        };
        if stream.set_nodelay(true).is_err() {
            continue;
        }
        let body = body.clone();
        let service = service_fn(move |_| {
            let mut answer = hyper::Response::new(Full::new(body.clone()));
            answer
                .headers_mut()
                .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
            async { Ok::<_, Infallible>(answer) }
        });
        tokio::spawn(async move {
            // An error here is the client's end of the connection, and the client counts it.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}
