//! Whether a replica can go on, and if not, why.

use crate::machine::MachineError;
use skein_storage::log::LogError;
use std::fmt;
use std::sync::Arc;
use tokio::sync::watch;

/// Why a replica stopped for good; a restart finds out what survived.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// Stored data failed a check.
    #[error("stored data is damaged: {0}")]
    Damaged(String),
    /// The disk failed; what it was writing is unknown.
    #[error("the disk failed: {0}")]
    DiskFailed(String),
    /// The owner closed it.
    #[error("the replica is closed")]
    Closed,
}

impl From<&LogError> for Failure {
    fn from(error: &LogError) -> Failure {
        match error {
            LogError::Closed => Failure::Closed,
            LogError::Corrupt { .. } | LogError::Missing { .. } | LogError::NewerFormat { .. } => {
                Failure::Damaged(error.to_string())
            }
            _ => Failure::DiskFailed(with_cause(error)),
        }
    }
}

impl From<MachineError> for Failure {
    fn from(error: MachineError) -> Failure {
        match error {
            MachineError::Damaged(detail) | MachineError::Refused(detail) => Failure::Damaged(detail),
            MachineError::Full(detail) | MachineError::Failed(detail) => Failure::DiskFailed(detail),
            MachineError::Closing => Failure::Closed,
        }
    }
}

/// The error's text and that of what caused it.
fn with_cause(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Called with the first failure, by whoever found it; must not block.
pub type OnFailure = Arc<dyn Fn(&Failure) + Send + Sync>;

/// A replica's failure, if it has one; clones share it. The first reason stays.
#[derive(Clone)]
pub(crate) struct Health {
    failure: Arc<watch::Sender<Option<Failure>>>,
    on_failure: OnFailure,
}

impl Health {
    pub(crate) fn new(on_failure: OnFailure) -> Health {
        Health { failure: Arc::new(watch::channel(None).0), on_failure }
    }

    pub(crate) fn fail(&self, failure: Failure) {
        let first = self.failure.send_if_modified(|present| {
            let first = present.is_none();
            if first {
                *present = Some(failure.clone());
            }
            first
        });
        if first {
            (self.on_failure)(&failure);
        }
    }

    pub(crate) fn failure(&self) -> Option<Failure> {
        self.failure.borrow().clone()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Option<Failure>> {
        self.failure.subscribe()
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Health").field("failure", &self.failure()).finish_non_exhaustive()
    }
}
