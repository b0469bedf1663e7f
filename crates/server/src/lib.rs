//! The HTTP face of a cell: rows, batches, scans, the atlas and the schema, health and metrics.
//!
//! A request is routed from its raw path ([`route`]), its headers and parameters become typed values ([`headers`],
//! [`params`], [`conditions`]), one handler asks the cell, and the answer goes out as a value, a stream of rows or a
//! [`problem`]. What may be asked and what is answered is told in `docs/HTTP.md`; the same route table that
//! routes requests also builds `/openapi.json`.
//!
//! Every connection is one task on hyper's HTTP/1 core. Time limits are kept by one sweeper for all connections
//! ([`conn`]), so a request that is neither slow nor large sets no timer. Bodies and scans count against a
//! [`MemoryBudget`]; past it the server sheds load rather than risk itself.
#![forbid(unsafe_code)]

mod admin;
mod batch;
mod body;
mod conditions;
mod config;
mod conn;
mod dispatch;
mod facts;
mod flock;
#[doc(hidden)]
pub mod fuzzing;
mod headers;
mod intake;
mod json;
mod keys;
mod memory;
mod metrics;
mod openapi;
mod params;
mod problem;
mod refusals;
mod reply;
mod route;
mod row;
mod scan;
mod server;
pub mod status;
mod warnings;

pub use config::ServerConfig;
pub use memory::{MemoryBudget, Permit};
pub use metrics::{MetricsHandle, install_metrics};
pub use server::{BindError, Server};
