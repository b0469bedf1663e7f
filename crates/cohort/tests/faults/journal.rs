//! What the clients of a cohort saw, in the order in which they saw it.

use skein_cohort::{Cohort, CohortError, Outcome, Read};
use skein_model::{Transaction, TxClock, TxId};
use std::sync::{Arc, Mutex};
use tokio::time::Instant;

use crate::machine::TABLE;

#[derive(Debug, Clone)]
pub enum Event {
    /// About to be sent.
    Sent(Transaction),
    /// A transaction's outcome, as its writer or somebody who asked for its status was told.
    Told(TxId, Outcome),
    /// The answer to a read of a row.
    Found(String, Read),
}

/// Clones share it.
#[derive(Clone, Default)]
pub struct Journal {
    events: Arc<Mutex<Vec<Event>>>,
}

impl Journal {
    pub fn len(&self) -> usize {
        self.events.lock().unwrap().len()
    }

    pub fn events(&self) -> Vec<Event> {
        self.events.lock().unwrap().clone()
    }

    fn add(&self, event: Event) {
        self.events.lock().unwrap().push(event);
    }

    pub async fn write(
        &self,
        cohort: &Cohort,
        tx: Transaction,
        deadline: Instant,
    ) -> Result<Outcome, CohortError> {
        self.add(Event::Sent(tx.clone()));
        let id = tx.id.clone();
        let outcome = cohort.write(tx, false, deadline).await?;
        self.add(Event::Told(id, outcome.clone()));
        Ok(outcome)
    }

    pub async fn status(&self, cohort: &Cohort, id: TxId, deadline: Instant) -> Result<Outcome, CohortError> {
        let outcome = cohort.tx_status(id.clone(), deadline).await?;
        self.add(Event::Told(id, outcome.clone()));
        Ok(outcome)
    }

    pub async fn read(
        &self,
        cohort: &Cohort,
        key: &str,
        at: Option<TxClock>,
        deadline: Instant,
    ) -> Result<Read, CohortError> {
        let read = cohort.read(TABLE, key.as_bytes(), at, deadline).await?;
        self.add(Event::Found(key.to_owned(), read.clone()));
        Ok(read)
    }
}
