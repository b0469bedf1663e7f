//! Whether a replica can go on, and if not, why.

use crate::machine::MachineError;
use skein_storage::log::LogError;
use std::fmt;
use std::sync::{Arc, OnceLock};
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

/// Called with the first failure, by whoever found it and before anybody else hears of it; must not block.
pub type OnFailure = Arc<dyn Fn(&Failure) + Send + Sync>;

/// A replica's failure, if it has one; clones share it. The first reason stays.
///
/// The owner is told first: whoever acts on a failure (Raft, which stops leading) finds that the owner knows why.
#[derive(Clone)]
pub(crate) struct Health {
    first: Arc<OnceLock<Failure>>,
    tell: Arc<watch::Sender<Option<Failure>>>,
    on_failure: OnFailure,
}

impl Health {
    pub(crate) fn new(on_failure: OnFailure) -> Health {
        Health { first: Arc::default(), tell: Arc::new(watch::channel(None).0), on_failure }
    }

    /// Notes a failure. Returns when the owner was told of the first one, whoever tells it.
    pub(crate) fn fail(&self, failure: Failure) {
        let mut first = false;
        let failure = self.first.get_or_init(|| {
            first = true;
            (self.on_failure)(&failure);
            failure
        });
        if first {
            self.tell.send_replace(Some(failure.clone()));
        }
    }

    pub(crate) fn failure(&self) -> Option<Failure> {
        self.first.get().cloned()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Option<Failure>> {
        self.tell.subscribe()
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Health").field("failure", &self.failure()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_hears_of_a_failure_before_anybody_can_act_on_it() {
        let others: Arc<OnceLock<watch::Receiver<Option<Failure>>>> = Arc::default();
        let told = Arc::new(watch::channel(0).0);
        let (seen, count) = (others.clone(), told.clone());
        let health = Health::new(Arc::new(move |_| {
            let acted = seen.get().is_some_and(|others| others.borrow().is_some());
            assert!(!acted, "others were told first");
            count.send_modify(|times| *times += 1);
        }));
        assert!(others.set(health.watch()).is_ok());
        health.fail(Failure::DiskFailed("first".to_owned()));
        health.fail(Failure::Closed);
        assert_eq!(*told.borrow(), 1);
        let first = Some(Failure::DiskFailed("first".to_owned()));
        assert_eq!((health.failure(), &*others.get().unwrap().borrow()), (first.clone(), &first));
    }
}
