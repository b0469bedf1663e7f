//! The seam to the network: connecting and listening. [`Tcp`] is the machine's; the simulator brings its own.

use futures_util::future::BoxFuture;
use std::io;
use std::net::SocketAddr;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

/// One connection, in both directions.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Makes connections.
pub trait Network: Send + Sync + 'static {
    /// Connects to a listener. Dropping the future gives up.
    fn connect(&self, to: SocketAddr) -> BoxFuture<'static, io::Result<Box<dyn Io>>>;
    /// Begins to take connections; port 0 stands for any free one.
    fn listen(&self, on: SocketAddr) -> BoxFuture<'static, io::Result<Box<dyn Listener>>>;
}

/// Takes connections.
pub trait Listener: Send {
    /// The address that is listened on.
    fn local_addr(&self) -> io::Result<SocketAddr>;
    /// The next connection, and where it comes from.
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Box<dyn Io>, SocketAddr)>>;
}

/// The machine's network.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tcp;

impl Network for Tcp {
    fn connect(&self, to: SocketAddr) -> BoxFuture<'static, io::Result<Box<dyn Io>>> {
        Box::pin(async move {
            let stream = TcpStream::connect(to).await?;
            // Frames are put together before they are written: waiting for more would only delay them.
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Io>)
        })
    }

    fn listen(&self, on: SocketAddr) -> BoxFuture<'static, io::Result<Box<dyn Listener>>> {
        Box::pin(async move { Ok(Box::new(TcpListener::bind(on).await?) as Box<dyn Listener>) })
    }
}

impl Listener for TcpListener {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        TcpListener::local_addr(self)
    }

    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Box<dyn Io>, SocketAddr)>> {
        Box::pin(async move {
            let (stream, from) = TcpListener::accept(self).await?;
            stream.set_nodelay(true)?;
            Ok((Box::new(stream) as Box<dyn Io>, from))
        })
    }
}
