//! What can keep a benchmark from giving a number. A request that failed is not in here: it is counted.

use std::io;
use std::path::PathBuf;

/// Why a benchmark could not be run, or its numbers not be kept. Rows written so far stay written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// The options contradict each other; nothing was sent.
    #[error("{0}")]
    Options(String),
    /// The URL names nothing we can speak to; nothing was sent.
    #[error("cannot use the URL {url}: {reason}; it should look like http://127.0.0.1:7070")]
    Url {
        /// As given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Nobody answered at the target's address; nothing was measured.
    #[error("connect to {address}")]
    Connect {
        /// Host and port.
        address: String,
        /// What the network said.
        #[source]
        source: io::Error,
    },
    /// The rows a workload reads could not be written first; some of them may be there.
    #[error("fill the table with {keys} rows: {failed} requests failed, the first with: {first}")]
    Prefill {
        /// Rows wanted.
        keys: u64,
        /// Requests that failed.
        failed: u64,
        /// What the first of them met.
        first: String,
    },
    /// A thread or socket of the load generator itself could not be started; nothing was measured.
    #[error("start {what}")]
    Start {
        /// The thing that did not start.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A thread of the load generator ended early, so its numbers are missing and the run is void.
    #[error("a load thread ended before it had counted its answers")]
    LostThread,
    /// A file could not be written or synced: the one measured, or the one the results go to.
    #[error("{action} {path}")]
    File {
        /// What we were doing, as a verb phrase.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The results could not be put into JSON; they were printed all the same.
    #[error("write the results as JSON")]
    Json(#[from] serde_json::Error),
}
