//! Why connections are refused, and how that is told: to the other end, in a metric, and in the log, there at most once per kind and
//! minute, because whoever is refused comes back.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $label:literal;)*) => {
        /// The kinds of refusal. Their numbers are part of the wire form, their labels those of the metric
        /// `skein_peer_refused_total`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Reason {
            $($(#[$doc])* $name,)*
        }

        impl Reason {
            /// All of them.
            pub const ALL: &'static [Reason] = &[$(Reason::$name),*];

            /// Its number.
            pub fn code(self) -> u8 {
                match self { $(Reason::$name => $code,)* }
            }

            /// Its label.
            pub fn label(self) -> &'static str {
                match self { $(Reason::$name => $label,)* }
            }

            /// By its number; one of a later release is [`Reason::Other`].
            pub fn from_code(code: u8) -> Reason {
                match code { $($code => Reason::$name,)* _ => Reason::Other }
            }
        }
    };
}

reasons! {
    /// A kind that this release does not know.
    Other = 0, "other";
    /// It belongs to another database.
    Cell = 1, "cell";
    /// It is not the host that was to be reached.
    Host = 2, "host";
    /// No wire version that both ends speak.
    Version = 3, "version";
    /// The owner does not want it: see [`Handler::admit`](crate::Handler::admit).
    Admission = 4, "admission";
    /// Another live process goes by the same host ID.
    Duplicate = 5, "duplicate";
    /// We connected to ourselves.
    Oneself = 6, "self";
    /// It is not a peer of Skein, or speaks no sense.
    Malformed = 7, "malformed";
    /// It did not say in time who it is.
    Slow = 8, "slow";
    /// It speaks TLS and we do not, or the reverse.
    Tls = 9, "tls";
    /// Its certificate is not of our CA, has expired, or is missing.
    Certificate = 10, "certificate";
    /// Its certificate names another host.
    CertificateHost = 11, "certificate_host";
    /// There are too many connections.
    Full = 12, "full";
    /// We are about to stop.
    Closing = 13, "closing";
}

/// Which end said no.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum By {
    Us,
    Them,
}

const LOG_AT_MOST_EVERY: Duration = Duration::from_secs(60);

/// Counts refusals and logs some.
#[derive(Default)]
pub(crate) struct Refusals {
    /// By whom and why: when it was last logged, and how many have not been since.
    logged: Mutex<BTreeMap<(By, Reason), (Instant, u64)>>,
}

impl Refusals {
    /// Notes one: `addr` is the other end, `text` the whole story.
    pub(crate) fn note(&self, by: By, reason: Reason, addr: SocketAddr, text: &str) {
        match by {
            By::Us => metrics::counter!("skein_peer_refused_total", "reason" => reason.label()).increment(1),
            By::Them => {
                metrics::counter!("skein_peer_refused_by_total", "reason" => reason.label()).increment(1)
            }
        }
        let Some(unlogged) = self.due(by, reason, Instant::now()) else { return };
        let kind = reason.label();
        match by {
            By::Us => tracing::warn!(%addr, kind, unlogged, "connection refused: {text}"),
            By::Them => tracing::warn!(%addr, kind, unlogged, "the other end refused the connection: {text}"),
        }
    }

    /// Whether to log, and how many were not logged before.
    fn due(&self, by: By, reason: Reason, now: Instant) -> Option<u64> {
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        match logged.get_mut(&(by, reason)) {
            Some((last, unlogged)) if now.duration_since(*last) < LOG_AT_MOST_EVERY => {
                *unlogged += 1;
                None
            }
            Some((last, unlogged)) => {
                *last = now;
                Some(std::mem::take(unlogged))
            }
            None => {
                logged.insert((by, reason), (now, 0));
                Some(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_told_apart_by_number_and_label() {
        let mut labels: Vec<_> = Reason::ALL.iter().map(|reason| reason.label()).collect();
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), Reason::ALL.len());
        for reason in Reason::ALL {
            assert_eq!(Reason::from_code(reason.code()), *reason);
        }
        assert_eq!(Reason::from_code(255), Reason::Other);
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_refusal_is_logged_once_a_minute_and_the_others_are_counted() {
        let refusals = Refusals::default();
        let due = |by, reason| refusals.due(by, reason, Instant::now());
        assert_eq!(due(By::Us, Reason::Cell), Some(0));
        assert_eq!(due(By::Us, Reason::Cell), None);
        assert_eq!(due(By::Us, Reason::Host), Some(0));
        assert_eq!(due(By::Them, Reason::Cell), Some(0));
        tokio::time::advance(Duration::from_secs(30)).await;
        assert_eq!(due(By::Us, Reason::Cell), None);
        tokio::time::advance(Duration::from_secs(30)).await;
        assert_eq!(due(By::Us, Reason::Cell), Some(2));
    }
}
