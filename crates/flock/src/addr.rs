//! Where a peer listens, and who it is.

use skein_model::HostId;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// The address on which a peer takes gossip. Eighteen bytes in memory; IPv4 is kept mapped into IPv6, so
/// that there is one form to compare. On the wire an IPv4 address takes seven bytes, an IPv6 one nineteen.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Addr {
    ip: [u8; 16],
    port: [u8; 2],
}

impl Addr {
    /// The IP address; IPv4 where the address is a mapped one.
    pub fn ip(self) -> IpAddr {
        IpAddr::V6(Ipv6Addr::from(self.ip)).to_canonical()
    }

    /// All eighteen bytes: the IP address as IPv6, then the port, both big-endian.
    pub fn octets(self) -> [u8; 18] {
        let mut octets = [0; 18];
        octets[..16].copy_from_slice(&self.ip);
        octets[16..].copy_from_slice(&self.port);
        octets
    }

    /// The TCP port.
    pub fn port(self) -> u16 {
        u16::from_be_bytes(self.port)
    }
}

impl From<SocketAddr> for Addr {
    fn from(addr: SocketAddr) -> Self {
        let ip = match addr.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        Self { ip: ip.octets(), port: addr.port().to_be_bytes() }
    }
}

impl From<Addr> for SocketAddr {
    fn from(addr: Addr) -> Self {
        SocketAddr::new(addr.ip(), addr.port())
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SocketAddr::from(*self).fmt(f)
    }
}

impl fmt::Debug for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A peer as the transport knows it from the handshake: its ID and the address it says it listens on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Peer {
    /// Which host it is; stays when the address changes.
    pub id: HostId,
    /// Where it takes gossip.
    pub addr: Addr,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.id, self.addr)
    }
}
