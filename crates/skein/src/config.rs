//! The server's settings: flags over environment over `skein.toml` over [`Config::default`].

use crate::args::{LogFormat, Settings};
use crate::memory::{Available, BUDGET_BYTES_MIN, Split};
use crate::units::{Bytes, CopyRate, Memory, Span};
use serde::Deserialize;
use skein_model::HostId;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs as _};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

/// Where peers connect unless told otherwise.
const PEER_ADDR: &str = ":6278";
/// Longest wait for a quorum that we accept; more is surely a slip of the unit.
const REQUEST_TIMEOUT_MAX: Duration = Duration::from_secs(600);
/// Segments that the log can work with.
const LOG_SEGMENT_BYTES: RangeInclusive<u64> = (64 << 10)..=(2 << 30);

/// Everything that can be set in `skein.toml`. Its defaults are the only home of the defaults.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where rows are served over HTTP: `host:port`, or `:port` for all addresses of the machine.
    pub http_addr: String,
    /// Where administration is served over HTTP.
    pub admin_addr: String,
    /// Where connections of peers are taken; without it `:6278`, and nowhere where this host alone is the cell.
    pub peer_addr: Option<String>,
    /// Where peers reach `peer_addr`; without it, that address, or one that this machine has where that is all of them.
    pub share_peer_addr: Option<String>,
    /// Peers to look for at first, each `ID=host:port`.
    pub hail: Vec<String>,
    /// The CA of the certificates that peers show each other, as PEM. With it, peers talk mutual TLS.
    pub peer_tls_ca: Option<PathBuf>,
    /// This host's certificate, as PEM.
    pub peer_tls_cert: Option<PathBuf>,
    /// The key of this host's certificate, as PEM.
    pub peer_tls_key: Option<PathBuf>,
    /// Where others reach `http_addr`; without it, its public form.
    pub share_http_addr: Option<String>,
    /// Where others reach `admin_addr`; without it, its public form.
    pub share_admin_addr: Option<String>,
    /// How long a request waits for a quorum.
    pub request_timeout: Span,
    /// The whole memory budget: cache, write buffers and requests under way.
    pub memory: Memory,
    /// Disk space that is never written to: below it writes are refused with 507.
    pub disk_reserve: Bytes,
    /// Size of one file of the durable log; no transaction can be larger than three quarters of it.
    pub log_segment: Bytes,
    /// The store is written out, and the log behind it recycled, when the log holds this much.
    pub checkpoint_every: Bytes,
    /// How fast copies leave that replicas on other hosts begin with.
    pub copy_rate: CopyRate,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Which log lines are written: a level, or `tracing` directives such as `info,skein_server=debug`.
    pub log_level: String,
    /// Whether this host alone is the cell.
    pub solo: bool,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            http_addr: ":7070".into(),
            admin_addr: ":9990".into(),
            peer_addr: None,
            share_peer_addr: None,
            hail: Vec::new(),
            peer_tls_ca: None,
            peer_tls_cert: None,
            peer_tls_key: None,
            share_http_addr: None,
            share_admin_addr: None,
            request_timeout: Span(Duration::from_secs(5)),
            memory: Memory::Percent(25),
            disk_reserve: Bytes(256 << 20),
            log_segment: Bytes(64 << 20),
            checkpoint_every: Bytes(96 << 20),
            copy_rate: CopyRate::Adaptive,
            log_format: LogFormat::Text,
            log_level: "info".into(),
            solo: false,
        }
    }
}

/// A setting that cannot be used, and where it stands.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file named with `--config` cannot be read.
    #[error("read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file is not TOML of the settings we know. The text shows line and column.
    #[error("{path}: {detail}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong, with line and column.
        detail: String,
    },
    /// A value makes no sense, alone or beside another one.
    #[error("{0}")]
    Value(String),
}

/// Settings that fit together, ready for the cell and the server.
#[derive(Debug, Clone)]
pub struct CheckedConfig {
    /// Where to serve rows.
    pub http_addr: SocketAddr,
    /// Where to serve administration.
    pub admin_addr: SocketAddr,
    /// Where to take connections of peers; `None` for nowhere.
    pub peer_addr: Option<SocketAddr>,
    /// Where peers reach this one, if that was named.
    pub share_peer_addr: Option<String>,
    /// Peers to look for at first, and where.
    pub hail: Vec<(HostId, String)>,
    /// What mutual TLS between peers needs; `None` for none.
    pub peer_tls: Option<TlsFiles>,
    /// Where others reach the rows; `None` when the port is only known after binding.
    pub share_http_addr: Option<String>,
    /// How long a request waits for a quorum.
    pub request_timeout: Duration,
    /// The memory setting as given, for the start message.
    pub memory_setting: Memory,
    /// What a share of memory is a share of.
    pub available: Available,
    /// The memory budget and its parts.
    pub memory: Split,
    /// Disk space that stays free.
    pub disk_reserve: u64,
    /// Size of one file of the durable log, in bytes.
    pub log_segment: u64,
    /// How much the log may hold before the store is written out, in bytes.
    pub checkpoint_every: u64,
    /// How fast copies leave that replicas on other hosts begin with.
    pub copy_rate: CopyRate,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Which log lines are written.
    pub log_level: String,
    /// Whether this host alone is the cell.
    pub solo: bool,
}

/// Where the PEM files for mutual TLS between peers are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The CA's certificate.
    pub ca: PathBuf,
    /// This host's certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Config {
    /// Reads the file that `--config` names, which must exist, or else `DIR/skein.toml` if it exists.
    pub fn load(named: Option<&Path>, dir: &Path) -> Result<Config, ConfigError> {
        let path = named.map_or_else(|| dir.join("skein.toml"), Path::to_path_buf);
        match fs::read_to_string(&path) {
            Ok(text) => toml::from_str(&text)
                .map_err(|e| ConfigError::File { path, detail: e.to_string().trim_end().to_owned() }),
            Err(e) if e.kind() == io::ErrorKind::NotFound && named.is_none() => Ok(Config::default()),
            Err(source) => Err(ConfigError::Read { path, source }),
        }
    }

    /// Lays flags and environment, which clap has already laid over each other, over the file.
    pub fn overlay(mut self, settings: &Settings) -> Config {
        fn lay<T: Clone>(over: &Option<T>, under: &mut T) {
            if let Some(value) = over {
                under.clone_from(value);
            }
        }
        lay(&settings.http_addr, &mut self.http_addr);
        lay(&settings.admin_addr, &mut self.admin_addr);
        if settings.peer_addr.is_some() {
            self.peer_addr.clone_from(&settings.peer_addr);
        }
        if settings.share_peer_addr.is_some() {
            self.share_peer_addr.clone_from(&settings.share_peer_addr);
        }
        if !settings.hail.is_empty() {
            self.hail.clone_from(&settings.hail);
        }
        for (over, under) in [
            (&settings.peer_tls_ca, &mut self.peer_tls_ca),
            (&settings.peer_tls_cert, &mut self.peer_tls_cert),
            (&settings.peer_tls_key, &mut self.peer_tls_key),
        ] {
            if over.is_some() {
                under.clone_from(over);
            }
        }
        if settings.share_http_addr.is_some() {
            self.share_http_addr.clone_from(&settings.share_http_addr);
        }
        if settings.share_admin_addr.is_some() {
            self.share_admin_addr.clone_from(&settings.share_admin_addr);
        }
        lay(&settings.request_timeout, &mut self.request_timeout);
        lay(&settings.memory, &mut self.memory);
        lay(&settings.disk_reserve, &mut self.disk_reserve);
        lay(&settings.log_segment, &mut self.log_segment);
        lay(&settings.checkpoint_every, &mut self.checkpoint_every);
        lay(&settings.copy_rate, &mut self.copy_rate);
        lay(&settings.log_format, &mut self.log_format);
        lay(&settings.log_level, &mut self.log_level);
        self.solo |= settings.solo;
        self
    }

    /// The only door to a server: resolves addresses and amounts, and refuses what cannot work.
    pub fn check(self, available: Available) -> Result<CheckedConfig, ConfigError> {
        let http_addr = resolve("http_addr", &self.http_addr)?;
        let admin_addr = resolve("admin_addr", &self.admin_addr)?;
        if http_addr.port() == admin_addr.port() && http_addr.port() != 0 && overlap(http_addr, admin_addr) {
            return Err(ConfigError::Value(format!(
                "http_addr ({}) and admin_addr ({}) are the same; give them different ports, for example :7070 and :9990",
                self.http_addr, self.admin_addr
            )));
        }
        let peer_addr = match &self.peer_addr {
            None if self.solo => None,
            given => Some(resolve("peer_addr", given.as_deref().unwrap_or(PEER_ADDR))?),
        };
        for (name, other) in [("http_addr", http_addr), ("admin_addr", admin_addr)] {
            if peer_addr
                .is_some_and(|peer| peer.port() == other.port() && peer.port() != 0 && overlap(peer, other))
            {
                return Err(ConfigError::Value(format!(
                    "peer_addr and {name} ({other}) are the same; give them different ports, for example {PEER_ADDR} for peers"
                )));
            }
        }
        if self.solo && !self.hail.is_empty() {
            return Err(ConfigError::Value(
                "hail looks for other peers, and solo says that there are none; leave one of them out"
                    .to_owned(),
            ));
        }
        let hail = self.hail.iter().map(|text| parse_hail(text)).collect::<Result<Vec<_>, _>>()?;
        let peer_tls = match (self.peer_tls_ca, self.peer_tls_cert, self.peer_tls_key) {
            (None, None, None) => None,
            (Some(ca), Some(cert), Some(key)) => Some(TlsFiles { ca, cert, key }),
            _ => {
                return Err(ConfigError::Value(
                    "peer_tls_ca, peer_tls_cert and peer_tls_key belong together; give all three, or none \
                     (skein cert makes them)"
                        .to_owned(),
                ));
            }
        };
        let timeout = self.request_timeout.0;
        if timeout.is_zero() || REQUEST_TIMEOUT_MAX < timeout {
            return Err(ConfigError::Value(format!(
                "request_timeout ({}) is not between 1ms and {}; try 5s",
                self.request_timeout,
                Span(REQUEST_TIMEOUT_MAX)
            )));
        }
        let memory = Split::of(self.memory, available).ok_or_else(|| {
            ConfigError::Value(format!(
                "memory ({}) is too little to take in one full batch; give it at least {}, or 25%",
                self.memory,
                Bytes(BUDGET_BYTES_MIN)
            ))
        })?;
        let segment = self.log_segment;
        if !LOG_SEGMENT_BYTES.contains(&segment.0) || !segment.0.is_multiple_of(4096) {
            return Err(ConfigError::Value(format!(
                "log_segment ({segment}) is not a multiple of 4KiB between {} and {}; try 64MiB",
                Bytes(*LOG_SEGMENT_BYTES.start()),
                Bytes(*LOG_SEGMENT_BYTES.end())
            )));
        }
        for (name, addr) in [
            ("share_peer_addr", &self.share_peer_addr),
            ("share_http_addr", &self.share_http_addr),
            ("share_admin_addr", &self.share_admin_addr),
        ] {
            if let Some(addr) = addr
                && !is_host_and_port(addr)
            {
                let text = format!("{name} ({addr}) is not host:port; try db1.example.com:7070");
                return Err(ConfigError::Value(text));
            }
        }
        Ok(CheckedConfig {
            share_peer_addr: self.share_peer_addr,
            peer_addr,
            hail,
            peer_tls,
            share_http_addr: self.share_http_addr.or_else(|| public_form(http_addr)),
            http_addr,
            admin_addr,
            request_timeout: timeout,
            memory_setting: self.memory,
            available,
            memory,
            disk_reserve: self.disk_reserve.0,
            log_segment: self.log_segment.0,
            checkpoint_every: self.checkpoint_every.0,
            copy_rate: self.copy_rate,
            log_format: self.log_format,
            log_level: self.log_level,
            solo: self.solo,
        })
    }
}

fn is_host_and_port(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

/// A peer to look for: its ID, and where it might be.
fn parse_hail(text: &str) -> Result<(HostId, String), ConfigError> {
    let wrong = |why: String| {
        ConfigError::Value(format!(
            "hail ({text}) names no peer: {why}; write for example 0xF47F4AA7602F3857=db1.example.com:6278"
        ))
    };
    let (id, addr) = text.split_once('=').ok_or_else(|| wrong("it has no =".to_owned()))?;
    let id = id.trim().parse().map_err(|e| wrong(format!("its ID: {e}")))?;
    if !is_host_and_port(addr) {
        return Err(wrong(format!("{addr:?} is not host:port")));
    }
    Ok((id, addr.to_owned()))
}

fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified()
}

/// `:port` becomes all addresses of the machine, IPv6 included where the system has it.
fn resolve(name: &str, text: &str) -> Result<SocketAddr, ConfigError> {
    let wrong = |why: String| {
        ConfigError::Value(format!(
            "{name} ({text}) is not an address to listen on: {why}; write :7070 for all addresses or 127.0.0.1:7070"
        ))
    };
    if let Some(port) = text.strip_prefix(':') {
        let port: u16 = port.parse().map_err(|_| wrong("the port is not a number up to 65535".into()))?;
        let wildcard = if TcpListener::bind("[::]:0").is_ok() { "[::]" } else { "0.0.0.0" };
        return format!("{wildcard}:{port}").parse().map_err(|_| wrong("it does not parse".into()));
    }
    let mut addrs = text.to_socket_addrs().map_err(|e| wrong(e.to_string()))?;
    addrs.next().ok_or_else(|| wrong("the name has no address".into()))
}

/// What to tell others: the address itself, or the machine's name in place of "all addresses".
fn public_form(addr: SocketAddr) -> Option<String> {
    if addr.port() == 0 {
        return None;
    }
    if addr.ip().is_unspecified() {
        let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let name = if name.is_empty() { "localhost".to_owned() } else { name };
        return Some(format!("{name}:{}", addr.port()));
    }
    Some(addr.to_string())
}

#[cfg(test)]
mod tests;
