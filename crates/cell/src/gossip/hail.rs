//! Whom to look for at first, by the names an operator gave.

use skein_model::HostId;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::time::Instant;

/// Between two attempts to find those who are not found yet: names may mean other addresses by then.
const PERIOD: Duration = Duration::from_secs(5);
/// Addresses of one name that are tried.
pub(super) const ADDRS_MAX: usize = 8;

/// Those of the hailed who are not known yet.
#[derive(Default)]
pub(super) struct Missing {
    /// The ones with an address.
    pub(super) addrs: Vec<(HostId, SocketAddr)>,
    /// The ones with a name that has to be looked up.
    pub(super) names: Vec<(HostId, String)>,
}

/// The peers of `--hail`.
pub(super) struct Hails {
    wanted: Vec<(HostId, String)>,
    due: Instant,
}

impl Hails {
    /// Nobody looks for itself.
    pub(super) fn new(mut wanted: Vec<(HostId, String)>, me: HostId) -> Hails {
        wanted.retain(|(host, _)| *host != me);
        Hails { wanted, due: Instant::now() }
    }

    /// When to ask for [`Hails::next`].
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// Those who are not known yet.
    pub(super) fn next(&mut self, now: Instant, known: impl Fn(HostId) -> bool) -> Missing {
        self.due = now + PERIOD;
        let mut missing = Missing::default();
        for (host, name) in self.wanted.iter().filter(|(host, _)| !known(*host)) {
            match name.parse() {
                Ok(addr) => missing.addrs.push((*host, addr)),
                Err(_) => missing.names.push((*host, name.clone())),
            }
        }
        missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_those_not_known_are_looked_for_and_never_oneself() {
        let wanted = [(1, "10.0.0.1:6278"), (2, "two.example:6278"), (3, "10.0.0.3:6278")];
        let wanted = wanted.map(|(host, name)| (HostId(host), name.to_owned()));
        let mut hails = Hails::new(wanted.to_vec(), HostId(1));
        let Missing { addrs, names } = hails.next(Instant::now(), |_| false);
        assert_eq!(addrs, [(HostId(3), "10.0.0.3:6278".parse().unwrap())]);
        assert_eq!(names, [(HostId(2), "two.example:6278".to_owned())]);
        assert_eq!(hails.due(), Instant::now() + PERIOD);
        let Missing { addrs, names } = hails.next(Instant::now(), |host| host == HostId(3));
        assert!(addrs.is_empty() && names.len() == 1);
    }
}
