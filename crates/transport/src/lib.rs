//! Messages, requests and streams between the peers of a cell, over one connection to each.
//!
//! [`Transport`] is the whole of it for its owner, who brings a [`Handler`] and is told and asked through it. The owner of a
//! simulator brings a [`Network`], too.
//!
//! In reading order: `hello` and `greet` (who is there), `wire` (frames), `lanes` (what waits to be written, and which
//! calls are under way), `conn` (one connection's task), `arrivals` and `serve` (what comes in), `call` (what goes out),
//! `switchboard` (who is connected), `dial` and `accept` (how they come to be).
#![forbid(unsafe_code)]

mod accept;
mod api;
mod arrivals;
mod call;
pub mod cert;
mod conn;
mod dial;
mod greet;
pub mod hello;
mod lanes;
pub mod memory;
mod network;
mod options;
mod refusal;
mod serve;
mod switchboard;
mod tls;
mod transport;
pub mod wire;

pub use api::{CallError, Chunks, Failure, Handler, Identity, PeerInfo, Unreachable};
pub use network::{Io, Listener, Network, Tcp};
pub use options::{Limits, Options, Timeouts, VERSION_MAX, VERSION_MIN};
pub use refusal::Reason;
pub use serve::HANDLER_BROKE;
pub use tls::{Tls, TlsError, host_name};
pub use transport::{StartError, Transport};
