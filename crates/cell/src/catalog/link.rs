//! How the catalogs of different peers talk: the seam that carries the bytes, and what the bytes say.
//!
//! ```text
//! | version u8 = 1 | Ask or Reply, in postcard's encoding |
//! ```

use super::command::{Outcome, Refusal, Request};
use super::keys::KeyEntry;
use super::state::{CatalogState, Founding};
use crate::supervisor::Report;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use skein_model::{Cohort, HostId, StoreId};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The layout that this build speaks.
const VERSION: u8 = 1;
/// The longest message. A state, a list or a request at its limit fits.
pub const MESSAGE_BYTES_MAX: usize = 32 << 20;
/// How many keys a list names at most at a time.
pub const LIST_MAX: usize = 1000;
/// How many bytes of values a list holds at most, but for its first one.
pub const LIST_BYTES_MAX: usize = 1 << 20;
/// How long a watch is held at most; ask again then.
pub const WATCH_MAX: Duration = Duration::from_secs(60);

/// Why a host gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The request certainly never reached it.
    #[error("cannot be reached: {0}")]
    NotSent(String),
    /// It may have been reached, and may yet do what was asked.
    #[error("did not answer: {0}")]
    NoAnswer(String),
}

/// Carries requests to the catalog of another host, where [`super::Catalog::answer`] takes them.
pub trait CatalogLink: Send + Sync + 'static {
    /// Asks a host, and waits no longer than the deadline.
    fn ask(&self, to: HostId, body: Bytes, deadline: Instant)
    -> BoxFuture<'static, Result<Bytes, LinkError>>;

    /// The hosts that can be reached now, as far as is known; this one may be among them.
    fn reachable(&self) -> Vec<HostId>;
}

/// What a peer's catalog is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Ask {
    /// Whether it knows of a founding; if not, it shall begin none itself for a while, and promise none to others.
    Promise {
        /// Who is about to found the cell.
        founder: HostId,
    },
    /// The founder gave up; others may.
    Release {
        /// Who.
        founder: HostId,
    },
    /// The first atlas, for the host that founds the cell.
    Found {
        /// The cohorts.
        targets: Vec<Cohort>,
        /// The atlas version it is meant for; 0 for none.
        if_version: Option<u64>,
    },
    /// A change, for the leader.
    Change(Request),
    /// The newest state, if it is newer than this version.
    State {
        /// The version that the asker has.
        have: u64,
    },
    /// One key.
    Get {
        /// Which.
        key: String,
        /// Whether every change acknowledged before has to show.
        fresh: bool,
    },
    /// Some keys.
    List {
        /// With what they begin.
        prefix: String,
        /// After which to begin.
        after: Option<String>,
        /// How many at most.
        max: usize,
        /// Whether every change acknowledged before has to show.
        fresh: bool,
    },
    /// One key, once its version is not this one any more.
    Watch {
        /// Which.
        key: String,
        /// The version that the asker has; 0 for no value.
        version: u64,
        /// How long to wait.
        wait: Duration,
    },
    /// A cohort's leader reports.
    Report(Report),
    /// A state into which every change acknowledged before has gone, if it is newer than this version.
    FreshState {
        /// The version that the asker has.
        have: u64,
    },
}

/// What a peer's catalog says to that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// To [`Ask::Promise`].
    Promised {
        /// The directory of who answers.
        store: StoreId,
        /// The founding it knows of.
        founding: Option<Founding>,
        /// To whom it has given its promise.
        to: HostId,
    },
    /// To [`Ask::Change`] and [`Ask::Found`].
    Changed(Result<Outcome, Refusal>),
    /// The newer state, or that there is none.
    State(Option<Arc<CatalogState>>),
    /// To [`Ask::Get`] and [`Ask::Watch`].
    Key(Option<KeyEntry>),
    /// To [`Ask::List`].
    Keys(Vec<(String, KeyEntry)>),
    /// To a report or a release.
    Done,
    /// It is not for this host to do. Nothing was done.
    Elsewhere {
        /// Who leads, as far as is known there.
        leader: Option<HostId>,
    },
    /// Nothing was done, and why.
    Failed(String),
    /// The change may have been made, or be made yet.
    Unknown(String),
}

/// Bytes are no message between catalogs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a message between catalogs makes no sense: {0}")]
pub(crate) struct Malformed(String);

/// The bytes of an [`Ask`] or a [`Reply`].
pub(crate) fn encode<T: Serialize>(message: &T) -> Bytes {
    // Fails only for types whose length is not known beforehand, which ours are not.
    postcard::to_extend(message, vec![VERSION]).unwrap_or_default().into()
}

/// Reads what [`encode`] wrote. Total.
pub(crate) fn decode<T: for<'a> Deserialize<'a>>(bytes: &[u8]) -> Result<T, Malformed> {
    if MESSAGE_BYTES_MAX < bytes.len() {
        return Err(Malformed(format!("it has {} bytes", bytes.len())));
    }
    match bytes.split_first() {
        Some((&VERSION, body)) => match postcard::take_from_bytes(body) {
            Ok((message, [])) => Ok(message),
            Ok((_, rest)) => Err(Malformed(format!("{} bytes follow it", rest.len()))),
            Err(error) => Err(Malformed(error.to_string())),
        },
        Some((version, _)) => Err(Malformed(format!("version {version}; this release speaks {VERSION}"))),
        None => Err(Malformed("it is empty".into())),
    }
}

/// Checks any bytes as a message in either direction: what is accepted survives being written and read again.
pub(crate) fn fuzz(bytes: &[u8]) {
    match decode::<Ask>(bytes) {
        Ok(ask) => assert_eq!(decode(&encode(&ask)), Ok(ask)),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    match decode::<Reply>(bytes) {
        Ok(reply) => assert_eq!(decode(&encode(&reply)), Ok(reply)),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::content::tests::any_command;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn messages_come_back_and_cut_ones_are_refused(
            id: u128, command in any_command(), cut in any::<prop::sample::Index>(),
        ) {
            let ask = Ask::Change(Request { id, after: 5, again: true, command });
            let bytes = encode(&ask);
            prop_assert_eq!(decode::<Ask>(&bytes).unwrap(), ask);
            prop_assert!(decode::<Ask>(&bytes[..cut.index(bytes.len())]).is_err());
        }

        #[test]
        fn any_bytes_are_a_message_or_refused(mut bytes in prop::collection::vec(any::<u8>(), 1..200)) {
            bytes[0] = VERSION;
            let _ = (decode::<Ask>(&bytes), decode::<Reply>(&bytes));
        }
    }

    #[test]
    fn replies_come_back() {
        let refusal = Refusal::UnknownHosts { hosts: [HostId(1)].into() };
        let replies = [
            Reply::Changed(Err(refusal)),
            Reply::State(Some(Arc::default())),
            Reply::Elsewhere { leader: Some(HostId(2)) },
            Reply::Promised { store: StoreId(1), founding: Some(Founding(2)), to: HostId(3) },
        ];
        for reply in replies {
            assert_eq!(decode::<Reply>(&encode(&reply)).unwrap(), reply);
        }
    }
}
