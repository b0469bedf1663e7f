//! The settings of a client.

use crate::error::Error;
use skein_model::CellId;
use std::path::PathBuf;
use std::time::Duration;

/// Longest address that is taken from anybody.
const ADDRESS_BYTES_MAX: usize = 256;

/// Longest time that a setting may be; further ahead, clocks end.
pub(crate) const TIME_MAX: Duration = Duration::from_secs(365 * 86_400);

/// The settings of a client; `Config::new` has the defaults.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where some peers serve rows: `host:port` or `http://host:port`. One that lives is enough; may be empty if `memo` names
    /// a file from an earlier run.
    pub contacts: Vec<String>,
    /// The cell that the peers have to belong to; otherwise that of the first one that answers, or of the memo.
    pub cell: Option<CellId>,
    /// A file that keeps the cell and its addresses between runs; made when there is something to keep. A damaged one is ignored. Remove it
    /// when the peers have been given another cell.
    pub memo: Option<PathBuf>,
    /// How long a request is tried altogether, with all its repeats. [`crate::Client::within`] gives another.
    pub deadline: Duration,
    /// How long one peer is waited for before another is asked; somewhat longer than the servers' own `--request-timeout`, so that
    /// what they have to say arrives.
    pub attempt: Duration,
    /// How long opening a connection may take.
    pub connect: Duration,
    /// How often the topology is asked for, besides whenever it seems to be wrong.
    pub refresh: Duration,
    /// Most requests under way; more wait, within their deadline. Each may hold a value of 16 MiB.
    pub requests_max: usize,
    /// Most connections kept open to one peer while nothing is asked of it.
    pub idle_max: usize,
    /// Most bytes of rows kept in the cache; 0 for no cache.
    pub cache_bytes_max: usize,
}

impl Config {
    /// The defaults, with these contacts.
    pub fn new<S: Into<String>>(contacts: impl IntoIterator<Item = S>) -> Config {
        Config {
            contacts: contacts.into_iter().map(Into::into).collect(),
            cell: None,
            memo: None,
            deadline: Duration::from_secs(20),
            attempt: Duration::from_secs(7),
            connect: Duration::from_secs(2),
            refresh: Duration::from_secs(10),
            requests_max: 256,
            idle_max: 32,
            cache_bytes_max: 0,
        }
    }

    /// Checks the settings and brings the contacts into the form `host:port`.
    pub(crate) fn check(mut self) -> Result<Config, Error> {
        for contact in &mut self.contacts {
            *contact = address(contact).ok_or_else(|| Error::Invalid {
                what: "contacts",
                why: format!("{contact:?} is not an address; write for example localhost:7070"),
            })?;
        }
        if self.contacts.is_empty() && self.memo.is_none() {
            return Err(Error::Invalid {
                what: "contacts",
                why: "there is none, and no memo of an earlier run either; name one peer at least".to_owned(),
            });
        }
        for (what, zero) in [
            ("deadline", self.deadline.is_zero()),
            ("attempt", self.attempt.is_zero()),
            ("connect", self.connect.is_zero()),
            ("refresh", self.refresh.is_zero()),
            ("requests_max", self.requests_max == 0),
        ] {
            if zero {
                return Err(Error::Invalid { what, why: "must be more than zero".to_owned() });
            }
        }
        for time in [&mut self.deadline, &mut self.attempt, &mut self.connect, &mut self.refresh] {
            *time = (*time).min(TIME_MAX);
        }
        // The semaphore that counts requests takes no more.
        self.requests_max = self.requests_max.min(1 << 20);
        Ok(self)
    }
}

/// An address as `host:port`, port 80 if none is given; `None` for what is none.
pub(crate) fn address(text: &str) -> Option<String> {
    let text = text.strip_prefix("http://").unwrap_or(text);
    let text = text.strip_suffix('/').unwrap_or(text);
    if ADDRESS_BYTES_MAX < text.len() || text.contains('@') {
        return None;
    }
    let authority: http::uri::Authority = text.parse().ok()?;
    if authority.host().is_empty() {
        return None;
    }
    let port = match authority.port() {
        Some(port) => port.as_u16(),
        None if authority.as_str() == authority.host() => 80,
        None => return None,
    };
    (port != 0).then(|| format!("{}:{port}", authority.host()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for (text, wanted) in [
            ("localhost:7070", Some("localhost:7070")),
            ("http://a.example:7070/", Some("a.example:7070")),
            ("http://[::1]:7070", Some("[::1]:7070")),
            ("a.example", Some("a.example:80")),
            ("", None),
            ("a:0", None),
            ("a:99999", None),
            ("user@host:1", None),
            ("a b:1", None),
            ("http://a:1/path", None),
            ("https://a:1", None),
        ] {
            assert_eq!(address(text).as_deref(), wanted, "{text:?}");
        }
    }

    #[test]
    fn settings_that_make_no_sense_are_told_by_name() {
        let refused = |config: Config| match config.check() {
            Err(Error::Invalid { what, .. }) => what,
            other => panic!("{other:?}"),
        };
        assert_eq!(refused(Config::new(Vec::<String>::new())), "contacts");
        assert_eq!(
            refused(Config::new(["nonsense/"]).clone_with(|c| c.contacts = vec!["a b".into()])),
            "contacts"
        );
        assert_eq!(refused(Config::new(["a:1"]).clone_with(|c| c.attempt = Duration::ZERO)), "attempt");
        assert_eq!(refused(Config::new(["a:1"]).clone_with(|c| c.requests_max = 0)), "requests_max");
    }

    impl Config {
        fn clone_with(mut self, change: impl FnOnce(&mut Config)) -> Config {
            change(&mut self);
            self
        }
    }
}
