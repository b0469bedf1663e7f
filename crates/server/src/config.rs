//! What the operator may set about the HTTP server, and the defaults.

use crate::MemoryBudget;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

/// Settings of the HTTP server.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Where rows are served.
    pub http_addr: SocketAddr,
    /// Where the administrator's pages are served.
    pub admin_addr: SocketAddr,
    /// `host:port` under which clients reach `http_addr`; stands in the links of paged scans.
    pub share_http_addr: String,
    /// How long a request waits for a quorum before it is answered with `timed-out`.
    pub request_timeout: Duration,
    /// What request bodies and scans under way may occupy together.
    pub memory: MemoryBudget,
    /// How long a connection may stay open without a request.
    pub idle_timeout: Duration,
    /// How long the headers of a request may take to arrive, from their first byte.
    pub header_timeout: Duration,
    /// How long the body of a request may make no progress. A body may take this long and one second for every
    /// 64 KiB altogether.
    pub body_timeout: Duration,
    /// How long a client may leave an answer unread before its connection is cut.
    pub write_timeout: Duration,
    /// Most connections on the data port; one more is answered 503 and closed.
    pub connections_max: usize,
    /// Most connections on the admin port.
    pub admin_connections_max: usize,
    /// How long requests in flight may take to finish when the server stops.
    pub shutdown_grace: Duration,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            http_addr: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 7070)),
            admin_addr: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 9990)),
            share_http_addr: "localhost:7070".to_owned(),
            request_timeout: Duration::from_secs(5),
            memory: MemoryBudget::new(64 << 20),
            idle_timeout: Duration::from_secs(120),
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(15),
            write_timeout: Duration::from_secs(60),
            connections_max: 4096,
            admin_connections_max: 256,
            shutdown_grace: Duration::from_secs(10),
        }
    }
}
