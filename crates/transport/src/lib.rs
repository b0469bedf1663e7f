//! Messages, requests and streams between the peers of a cell.
#![forbid(unsafe_code)]

mod api;
pub mod hello;
mod network;
mod options;
mod refusal;
mod tls;
mod transport;

pub use api::{CallError, Chunks, Failure, Handler, Identity, PeerInfo, Unreachable};
pub use network::{Io, Listener, Network, Tcp};
pub use options::{Limits, Options, Timeouts, VERSION_MAX, VERSION_MIN};
pub use refusal::Reason;
pub use tls::{Tls, TlsError, host_name};
pub use transport::{StartError, Transport};
