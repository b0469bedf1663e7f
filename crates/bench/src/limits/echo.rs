//! Bytes over TCP and back: what any request costs on this machine's loopback.

use super::hello::listen;
use crate::drive::{Client, Target, spawn};
use crate::error::BenchError;
use crate::tally::{Done, Failure, Outcome};
use crate::workload::{Op, Values};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

/// Bytes sent and echoed: about a small request and its answer.
pub const ECHO_BYTES: usize = 200;

/// An echo on a thread of its own, until dropped.
#[derive(Debug)]
pub struct EchoServer {
    address: SocketAddr,
    _stop: oneshot::Sender<()>,
}

impl EchoServer {
    /// Starts it on a free loopback port. Errors: [`BenchError::Start`].
    pub fn start() -> Result<Self, BenchError> {
        let (listener, address) = listen("the echo server")?;
        let (stop, stopped) = oneshot::channel();
        spawn("skein-bench-echo", move |runtime| runtime.block_on(serve(listener, stopped)))?;
        Ok(EchoServer { address, _stop: stop })
    }

    /// As something to drive.
    pub fn target(&self) -> EchoTarget {
        EchoTarget { address: self.address }
    }
}

async fn serve(listener: std::net::TcpListener, mut stopped: oneshot::Receiver<()>) {
    // Without a listener clients are refused, and the run ends with that.
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    loop {
        tokio::select! {
            _ = &mut stopped => return,
            accepted = listener.accept() => {
                // The client may have gone away between knocking and coming in.
                let Ok((mut stream, _)) = accepted else { continue };
                tokio::spawn(async move {
                    // An error is the client's end of the connection, and the client counts it.
                    let _ = stream.set_nodelay(true);
                    let mut buffer = [0; 4096];
                    while let Ok(bytes @ 1..) = stream.read(&mut buffer).await {
                        if stream.write_all(&buffer[..bytes]).await.is_err() {
                            return;
                        }
                    }
                });
            }
        }
    }
}

/// The echo as a target. Every operation is one round trip.
#[derive(Clone, Debug)]
pub struct EchoTarget {
    address: SocketAddr,
}

/// One connection to the echo.
#[derive(Debug)]
pub struct EchoClient {
    /// Gone after a failure: the echo is this process, so nothing that failed will work again.
    stream: Option<TcpStream>,
    number: u8,
}

impl Target for EchoTarget {
    type Client = EchoClient;

    async fn connect(&self, _number: u64) -> Result<EchoClient, BenchError> {
        let connect = |source| BenchError::Connect { address: self.address.to_string(), source };
        let stream = TcpStream::connect(self.address).await.map_err(connect)?;
        stream.set_nodelay(true).map_err(connect)?;
        Ok(EchoClient { stream: Some(stream), number: 0 })
    }

    fn fill_rows_max(&self, _value_bytes: usize) -> u64 {
        1
    }
}

impl Client for EchoClient {
    async fn perform(&mut self, _op: Op, _values: &mut Values) -> Outcome {
        let failure = |_| Failure::Named("connection lost");
        let Some(mut stream) = self.stream.take() else {
            tokio::task::yield_now().await;
            return Err(Failure::Named("connection lost"));
        };
        self.number = self.number.wrapping_add(1);
        let sent = [self.number; ECHO_BYTES];
        let mut back = [0; ECHO_BYTES];
        stream.write_all(&sent).await.map_err(failure)?;
        stream.read_exact(&mut back).await.map_err(failure)?;
        if back != sent {
            return Err(Failure::Named("another echo"));
        }
        self.stream = Some(stream);
        Ok(Done { rows: 0, bytes: ECHO_BYTES as u64 })
    }
}
