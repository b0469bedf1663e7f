//! Where other peers are told to reach this one, if the operator named no address and all of the machine's are listened on.
//!
//! A machine has many addresses, and which of them others can reach is not known to it. A good guess is the one that its own
//! packets to a peer would carry: that peer, at least, can answer to it.

use skein_model::HostId;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

/// How long one name may take to be looked up: the peer is not ready before.
const LOOK_UP_WITHIN: Duration = Duration::from_secs(2);
/// Addresses kept for documentation (RFC 5737, RFC 3849): the way there is the way to anywhere. Nothing is sent.
const ANYWHERE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];

/// An address for peers, and where it is from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shared {
    pub(crate) ip: IpAddr,
    pub(crate) reason: Reason,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The way to a hailed peer begins there.
    Toward(HostId),
    /// The way to any other machine begins there.
    Default,
    /// No way leads to any other machine.
    Nowhere,
}

/// The address to tell, for a peer that listens on all addresses of the family of `listen`.
pub(crate) async fn choose(listen: IpAddr, hail: &[(HostId, String)]) -> Shared {
    let found = hail.iter().map(|(host, name)| async {
        // A name may be unknown for now; it is looked up again when the peer is looked for.
        let found = tokio::time::timeout(LOOK_UP_WITHIN, tokio::net::lookup_host(name.as_str())).await;
        found.into_iter().flatten().flatten().map(|addr| (*host, addr.ip())).collect::<Vec<_>>()
    });
    let hailed = futures_util::future::join_all(found).await.concat();
    choose_by(listen, &hailed, source_toward)
}

/// As [`choose`], by the addresses of those hailed, in their order, and where the way to an address begins.
fn choose_by(
    listen: IpAddr,
    hailed: &[(HostId, IpAddr)],
    source: impl Fn(IpAddr) -> Option<IpAddr>,
) -> Shared {
    // Who listens on IPv4 only is not reached by IPv6. (Who listens on `::` is reached by both.)
    let fits = |ip: &IpAddr| listen.is_ipv6() || ip.is_ipv4();
    let ways: Vec<(HostId, IpAddr)> =
        hailed.iter().filter_map(|(host, to)| Some((*host, source(*to).filter(fits)?))).collect();
    // One that leads off this machine is of use to more peers than one that does not.
    let abroad = ways.iter().find(|(_, ip)| !ip.is_loopback());
    if let Some((host, ip)) = abroad.or_else(|| ways.first()) {
        return Shared { ip: *ip, reason: Reason::Toward(*host) };
    }
    let abroad = ANYWHERE.into_iter().filter_map(source).find(|ip| fits(ip) && !ip.is_loopback());
    if let Some(ip) = abroad {
        return Shared { ip, reason: Reason::Default };
    }
    let ip = if listen.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
    Shared { ip, reason: Reason::Nowhere }
}

/// Where packets to an address would say that they come from. Asks the system's table of routes; sends nothing.
fn source_toward(to: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    // A socket without a connection is given one end by this; the port does not matter.
    socket.connect((to, 9)).ok()?;
    Some(socket.local_addr().ok()?.ip().to_canonical()).filter(|ip| !ip.is_unspecified())
}

impl Shared {
    /// Tells the operator what peers are told, and what to do if it is wrong.
    pub(crate) fn tell(&self, port: u16) {
        let addr = SocketAddr::new(self.ip, port);
        let ask = "if others cannot reach that, give --share-peer-addr HOST:PORT";
        match self.reason {
            Reason::Toward(host) if self.ip.is_loopback() => tracing::info!(
                "peers are told to reach this one at {addr}: the hailed {host} is on this machine, and peers on other \
                 machines cannot connect; for them give --share-peer-addr HOST:PORT"
            ),
            Reason::Toward(host) => {
                tracing::info!(
                    "peers are told to reach this one at {addr}, from where it reaches {host}; {ask}"
                )
            }
            Reason::Default => {
                tracing::info!(
                    "peers are told to reach this one at {addr}, from where it reaches other machines; {ask}"
                )
            }
            Reason::Nowhere => tracing::warn!(
                "peers are told to reach this one at {addr}, as this machine knows no way to another: only peers on this \
                 machine can connect; for others give --share-peer-addr HOST:PORT"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL_V4: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    const ALL: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// A machine with a network of its own, one way out, and IPv6 on the inner side only.
    fn routes(to: IpAddr) -> Option<IpAddr> {
        match to {
            to if to.is_loopback() => Some(to),
            IpAddr::V4(v4) if v4.octets()[0] == 10 => Some(ip("10.0.0.7")),
            IpAddr::V4(_) => Some(ip("198.51.100.7")),
            IpAddr::V6(v6) if v6.segments()[0] == 0xfd00 => Some(ip("fd00::7")),
            IpAddr::V6(_) => None,
        }
    }

    #[test]
    fn the_way_toward_a_hailed_peer_decides() {
        let shared = choose_by(ALL, &[(HostId(3), ip("10.0.0.3"))], routes);
        assert_eq!(shared, Shared { ip: ip("10.0.0.7"), reason: Reason::Toward(HostId(3)) });
    }

    #[test]
    fn of_several_hailed_one_on_another_machine_counts_more() {
        let hailed = [(HostId(1), ip("127.0.0.1")), (HostId(2), ip("10.0.0.3"))];
        assert_eq!(choose_by(ALL, &hailed, routes).ip, ip("10.0.0.7"));
        let here = choose_by(ALL, &hailed[..1], routes);
        assert_eq!(here, Shared { ip: ip("127.0.0.1"), reason: Reason::Toward(HostId(1)) });
    }

    #[test]
    fn who_hails_nobody_tells_where_other_machines_are_reached_from() {
        let shared = choose_by(ALL_V4, &[], routes);
        assert_eq!(shared, Shared { ip: ip("198.51.100.7"), reason: Reason::Default });
    }

    #[test]
    fn an_address_of_the_other_family_is_of_no_use_to_who_does_not_listen_there() {
        let hailed = [(HostId(1), ip("fd00::1"))];
        assert_eq!(choose_by(ALL, &hailed, routes).ip, ip("fd00::7"));
        assert_eq!(choose_by(ALL_V4, &hailed, routes).ip, ip("198.51.100.7"));
    }

    #[test]
    fn a_machine_without_any_way_out_tells_its_own_address_and_says_so() {
        for (listen, told) in [(ALL_V4, "127.0.0.1"), (ALL, "::1")] {
            let shared = choose_by(listen, &[(HostId(1), ip("10.0.0.3"))], |_| None);
            assert_eq!(shared, Shared { ip: ip(told), reason: Reason::Nowhere });
        }
    }

    #[tokio::test]
    async fn the_system_is_asked_for_the_way_to_this_machine_and_a_name_that_is_unknown_is_passed_over() {
        let hail =
            [(HostId(1), "no-such-host.invalid:6278".to_owned()), (HostId(2), "127.0.0.1:6278".to_owned())];
        let shared = choose(ALL_V4, &hail[1..]).await;
        assert_eq!(shared, Shared { ip: ip("127.0.0.1"), reason: Reason::Toward(HostId(2)) });
        assert_ne!(choose(ALL_V4, &hail[..1]).await.reason, Reason::Toward(HostId(1)));
    }
}
