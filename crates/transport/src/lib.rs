//! Messages, requests and streams between the peers of a cell.
#![forbid(unsafe_code)]

mod api;
mod network;

pub use api::{CallError, Chunks, Failure, Handler, Identity, PeerInfo, Unreachable};
pub use network::{Io, Listener, Network, Tcp};
