//! What a [`Transport`](crate::Transport) is told when it starts: who it is, where it listens, and its bounds.

use crate::api::Identity;
use crate::network::{Network, Tcp};
use crate::tls::Tls;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

/// The oldest wire version that this release speaks.
pub const VERSION_MIN: u16 = 1;
/// The newest wire version that this release speaks.
pub const VERSION_MAX: u16 = 1;

/// How a transport starts. [`Options::new`] gives sound values for everything that has one.
#[derive(Clone)]
pub struct Options {
    /// Who we are.
    pub identity: Identity,
    /// Where to take connections of peers; port 0 stands for any free one.
    pub listen: SocketAddr,
    /// Where other peers reach us, if that is not the address listened on; port 0 stands for the one listened on. An unspecified IP (`0.0.0.0`, `::`) here, or in
    /// `listen` without this, is told to peers as it is and is of no use to them.
    pub share: Option<SocketAddr>,
    /// Makes and takes the connections.
    pub network: Arc<dyn Network>,
    /// With it, every connection is mutual TLS; without it, none is.
    pub tls: Option<Tls>,
    /// Our build, for logs and status pages of the other ends; at most [`BUILD_BYTES_MAX`](crate::hello::BUILD_BYTES_MAX) bytes.
    pub build: Arc<str>,
    /// The wire versions that we speak. The newest that both ends speak is used.
    pub versions: RangeInclusive<u16>,
    /// Another random number at each start of the process (not the same one twice, or a copy of this directory that runs
    /// elsewhere cannot be told from us). Also the seed of jitter.
    pub seed: u64,
    /// Bounds on memory.
    pub limits: Limits,
    /// Bounds on waiting.
    pub timeouts: Timeouts,
}

impl Options {
    /// Everything but what cannot be guessed.
    pub fn new(identity: Identity, listen: SocketAddr, seed: u64) -> Options {
        Options {
            identity,
            listen,
            share: None,
            network: Arc::new(Tcp),
            tls: None,
            build: env!("CARGO_PKG_VERSION").into(),
            versions: VERSION_MIN..=VERSION_MAX,
            seed,
            limits: Limits::default(),
            timeouts: Timeouts::default(),
        }
    }
}

/// Bounds on what peers can make us hold. Bytes are those of the caller's bodies, without what frames and tables add.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Largest body of a request, an answer, or one chunk of a stream; 64 KiB to 1 GiB.
    pub body_bytes_max: usize,
    /// Largest posted message; 1 KiB to 16 MiB.
    pub post_bytes_max: usize,
    /// Posted messages that wait for one connection, together; at least one message. What comes on top is dropped and told as
    /// unreachable.
    pub posts_bytes_max: usize,
    /// Requests and streams that may be under way on one connection from one end; 1 to 1,000,000. Further ones wait.
    pub calls_max: usize,
    /// Bodies of requests that one connection brought and that are not answered, and of answers that are not whole,
    /// together; at least one body. A request on top of them is not taken.
    pub inbound_bytes_max: usize,
    /// How far a stream's callee may run ahead of its reader; 4 KiB to 64 MiB. The last chunk may go beyond.
    pub stream_window_bytes: u32,
    /// Connections that have not said who they are; 1 to 65,536. Further ones are closed at once.
    pub half_open_max: usize,
    /// Connections together; 1 to 1,000,000. Further ones are refused.
    pub connections_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            body_bytes_max: 64 << 20,
            post_bytes_max: 1 << 20,
            posts_bytes_max: 8 << 20,
            calls_max: 4096,
            inbound_bytes_max: 256 << 20,
            stream_window_bytes: 1 << 20,
            half_open_max: 128,
            connections_max: 10_000,
        }
    }
}

/// Bounds on waiting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// For the network to connect; more than zero.
    pub connect: Duration,
    /// For both ends to have said who they are, TLS included; more than zero.
    pub handshake: Duration,
    /// A connection on which nothing was heard for this long is asked for a sign of life; more than zero.
    pub ping: Duration,
    /// A connection on which nothing was heard for this long is dead; at least twice `ping`. Told in steps of half of `ping`,
    /// so that a process that was stopped for a while does not take its own silence for that of others.
    pub dead: Duration,
    /// Wait after the first failure to connect, doubled by each further one; up to a half comes on top by chance.
    pub backoff_min: Duration,
    /// Longest wait after a failure to connect; at least `backoff_min`.
    pub backoff_max: Duration,
    /// A connection that nobody has any use for is kept this long.
    pub linger: Duration,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts {
            connect: Duration::from_secs(3),
            handshake: Duration::from_secs(3),
            ping: Duration::from_secs(2),
            dead: Duration::from_secs(6),
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_secs(5),
            linger: Duration::from_secs(30),
        }
    }
}

impl Options {
    /// What is wrong with them, if anything: the name of the option, its value and what would do.
    pub(crate) fn check(&self) -> Result<(), String> {
        fn within(name: &str, value: usize, range: RangeInclusive<usize>) -> Result<(), String> {
            if range.contains(&value) {
                return Ok(());
            }
            Err(format!("{name} is {value}; it has to be {} to {}", range.start(), range.end()))
        }
        let (limits, timeouts) = (&self.limits, &self.timeouts);
        within("body_bytes_max", limits.body_bytes_max, 64 << 10..=1 << 30)?;
        within("post_bytes_max", limits.post_bytes_max, 1 << 10..=16 << 20)?;
        within("posts_bytes_max", limits.posts_bytes_max, limits.post_bytes_max..=1 << 30)?;
        within("calls_max", limits.calls_max, 1..=1_000_000)?;
        within("inbound_bytes_max", limits.inbound_bytes_max, limits.body_bytes_max..=1 << 40)?;
        within("stream_window_bytes", limits.stream_window_bytes as usize, 4 << 10..=64 << 20)?;
        within("half_open_max", limits.half_open_max, 1..=65_536)?;
        within("connections_max", limits.connections_max, 1..=1_000_000)?;
        within("length of build", self.build.len(), 0..=crate::hello::BUILD_BYTES_MAX)?;
        if self.versions.is_empty() {
            return Err(format!("versions {:?} has none", self.versions));
        }
        for (name, value) in [
            ("connect", timeouts.connect),
            ("handshake", timeouts.handshake),
            ("ping", timeouts.ping),
            ("backoff_min", timeouts.backoff_min),
        ] {
            if value < Duration::from_millis(1) {
                return Err(format!("{name} is {value:?}; it has to be at least 1 ms"));
            }
        }
        if timeouts.dead < 2 * timeouts.ping {
            return Err(format!(
                "dead is {:?}; it has to be at least twice ping, {:?}, or one lost answer ends a connection",
                timeouts.dead, timeouts.ping
            ));
        }
        if timeouts.backoff_max < timeouts.backoff_min {
            return Err(format!(
                "backoff_max is {:?}; it has to be at least backoff_min, {:?}",
                timeouts.backoff_max, timeouts.backoff_min
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skein_model::{CellId, HostId, StoreId};

    fn options() -> Options {
        let identity = Identity { cell: CellId(1), host: HostId(2), store: StoreId(3) };
        Options::new(identity, SocketAddr::from(([127, 0, 0, 1], 0)), 4)
    }

    #[test]
    fn defaults_are_sound() {
        assert_eq!(options().check(), Ok(()));
    }

    #[test]
    fn what_is_out_of_range_is_named_with_what_would_do() {
        let mut wrong = options();
        wrong.timeouts.dead = Duration::from_secs(3);
        assert!(wrong.check().unwrap_err().contains("at least twice ping, 2s"));
        let mut wrong = options();
        wrong.limits.calls_max = 0;
        assert_eq!(wrong.check().unwrap_err(), "calls_max is 0; it has to be 1 to 1000000");
        let mut wrong = options();
        wrong.versions = RangeInclusive::new(3, 2);
        assert!(wrong.check().is_err());
    }
}
