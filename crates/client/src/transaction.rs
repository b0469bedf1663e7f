//! Optimistic transactions: read one snapshot, decide, write if nothing that was read has changed, else again.
//!
//! What a transaction has read was all true together over a span of time: from the latest of its rows' versions to the earliest of
//! their read times. The first read begins the span; each further one narrows it, either by a row of the cache whose own span meets
//! it, or by reading at its end. The write is conditional on that end and holds every row that was only read, so it happens at a moment at
//! which all of them were still as they were seen.

use crate::batch::{Batch, Kind};
use crate::client::{Client, Inner};
use crate::error::Error;
use crate::rows::{Row, Table};
use bytes::Bytes;
use skein_model::{TxClock, Value};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// The pause before the second run; doubled each time.
const PAUSE_MIN: Duration = Duration::from_millis(4);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_millis(250);

/// How a transaction is run.
#[derive(Debug, Clone)]
pub struct TransactionOptions {
    /// Most runs, the first one included; at least 1.
    pub tries: u32,
    /// About how old what is taken from the cache may be in the first run; later runs begin with what is there now. A transaction that writes is right
    /// whatever this is, for what was too old shows when it is written. One that only reads shows the cell as it was up to so long ago. Zero: as it is now.
    pub max_age: Duration,
}

impl Default for TransactionOptions {
    fn default() -> TransactionOptions {
        TransactionOptions { tries: 16, max_age: Duration::ZERO }
    }
}

/// One run of a transaction, as the closure sees it. Clones are the same run.
#[derive(Clone)]
pub struct Transaction {
    run: Arc<Run>,
}

struct Run {
    client: Client,
    deadline: Instant,
    max_age: Duration,
    state: Mutex<State>,
    /// Held by the first read, which decides when everything is read.
    first: tokio::sync::Mutex<()>,
}

type Name = (Table, Bytes);

#[derive(Default)]
struct State {
    /// Over what time all that was read was true: from and to, both inclusive.
    span: Option<(TxClock, TxClock)>,
    reads: BTreeMap<Name, Row>,
    writes: BTreeMap<Name, Kind>,
    /// What is to be read is no longer kept; another run may do better.
    overtaken: bool,
    done: bool,
}

impl Client {
    /// Runs a transaction with the default [`TransactionOptions`]; see [`Client::transaction_with`].
    pub async fn transaction<T, E, F, R>(&self, body: F) -> Result<T, E>
    where
        F: FnMut(Transaction) -> R,
        R: Future<Output = Result<T, E>>,
        E: From<Error>,
    {
        self.transaction_with(TransactionOptions::default(), body).await
    }

    /// Runs `body`, and writes what it wrote, all at once, if nothing that it read has changed meanwhile; otherwise runs it again. So it
    /// should do nothing but read and write through what it is given.
    ///
    /// All runs together have the client's deadline. Errors: what `body` gives, of a run that is over then; [`Error::Contention`] when all tries
    /// were overtaken; [`Error::Unknown`] if the write may have happened, which is never run again; [`Error::Collision`] for a row that
    /// it created without having read that it was not there.
    pub async fn transaction_with<T, E, F, R>(&self, options: TransactionOptions, mut body: F) -> Result<T, E>
    where
        F: FnMut(Transaction) -> R,
        R: Future<Output = Result<T, E>>,
        E: From<Error>,
    {
        let deadline = self.deadline();
        let tries = options.tries.max(1);
        let mut pause = PAUSE_MIN;
        for number in 1..=tries {
            let max_age = if number == 1 { options.max_age } else { Duration::ZERO };
            let run = Arc::new(Run {
                client: self.clone(),
                deadline,
                max_age,
                state: Mutex::default(),
                first: tokio::sync::Mutex::new(()),
            });
            let came = body(Transaction { run: run.clone() }).await;
            let value = match came {
                Ok(value) => value,
                Err(_) if run.state().overtaken && number < tries => {
                    self.pause_before_next_run(&mut pause, deadline, number).await?;
                    continue;
                }
                Err(error) => {
                    run.state().done = true;
                    return Err(error);
                }
            };
            match run.commit().await {
                Ok(()) => return Ok(value),
                Err(Overtaken::By(error)) => {
                    tracing::debug!(number, %error, "a transaction was overtaken");
                    if number < tries {
                        self.pause_before_next_run(&mut pause, deadline, number).await?;
                    }
                }
                Err(Overtaken::Not(error)) => return Err(error.into()),
            }
        }
        Err(Error::Contention { tries }.into())
    }

    async fn pause_before_next_run(
        &self,
        pause: &mut Duration,
        deadline: Instant,
        tries: u32,
    ) -> Result<(), Error> {
        let until = Instant::now() + self.inner.jitter(*pause);
        if deadline <= until {
            return Err(Error::Contention { tries });
        }
        *pause = (2 * *pause).min(PAUSE_MAX);
        sleep_until(until).await;
        Ok(())
    }
}

/// Why a run did not end in a write.
enum Overtaken {
    /// Something changed; the next run may do better.
    By(Error),
    Not(Error),
}

impl Transaction {
    /// Reads a row, with what this transaction itself has written; such a row's `time` is zero.
    pub async fn get(&self, table: &Table, key: impl AsRef<[u8]>) -> Result<Row, Error> {
        let name = (table.clone(), Bytes::copy_from_slice(key.as_ref()));
        if let Some(row) = self.run.at_hand(&name)? {
            return Ok(row);
        }
        // Whoever comes first decides on the time; the others wait for that, and for nothing else.
        let first = self.run.first.lock().await;
        if let Some(row) = self.run.at_hand(&name)? {
            return Ok(row);
        }
        let span = self.run.state().span;
        let Some((from, to)) = span else {
            let row = self.run.begin(&name).await?;
            return Ok(self.run.note(name, row, None));
        };
        drop(first);
        if let Some(row) = self.run.client.inner.cache().get(name.0.name(), &name.1)
            && from.max(row.time) <= to.min(row.read_time)
        {
            return Ok(self.run.note(name, row, Some(to)));
        }
        match self.run.client.read(&name.0, &name.1, Some(to), self.run.deadline).await {
            Ok(row) => Ok(self.run.note(name, row, Some(to))),
            Err(error) => {
                if let Error::HistoryGone(_) = error {
                    self.run.state().overtaken = true;
                }
                Err(error)
            }
        }
    }

    /// Writes a row, if the transaction commits.
    pub fn put(&self, table: &Table, key: impl AsRef<[u8]>, value: Value) {
        self.write(table, key.as_ref(), Kind::Update(value));
    }

    /// Writes a row that must have no value when the transaction commits, or [`Error::Collision`].
    pub fn create(&self, table: &Table, key: impl AsRef<[u8]>, value: Value) {
        self.write(table, key.as_ref(), Kind::Create(value));
    }

    /// Deletes a row, if the transaction commits.
    pub fn delete(&self, table: &Table, key: impl AsRef<[u8]>) {
        self.write(table, key.as_ref(), Kind::Delete);
    }

    /// The latest time at which all that was read so far was true; `None` before the first read.
    pub fn snapshot(&self) -> Option<TxClock> {
        self.run.state().span.map(|(_, to)| to)
    }

    fn write(&self, table: &Table, key: &[u8], kind: Kind) {
        let mut state = self.run.state();
        let name = (table.clone(), Bytes::copy_from_slice(key));
        // A row created and then changed is still to be created.
        let kind = match (state.writes.get(&name), kind) {
            (Some(Kind::Create(_)), Kind::Update(value)) => Kind::Create(value),
            (_, kind) => kind,
        };
        state.writes.insert(name, kind);
    }
}

impl Run {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A row that was written or read before.
    fn at_hand(&self, name: &Name) -> Result<Option<Row>, Error> {
        let state = self.state();
        if state.done {
            return Err(Error::Invalid { what: "transaction", why: "it is over".to_owned() });
        }
        let read_time = state.span.map_or(TxClock::ZERO, |(_, to)| to);
        let own = |value: Option<Value>| Row { value, time: TxClock::ZERO, read_time };
        Ok(match state.writes.get(name) {
            Some(Kind::Create(value) | Kind::Update(value)) => Some(own(Some(value.clone()))),
            Some(Kind::Delete) => Some(own(None)),
            Some(Kind::Hold) | None => state.reads.get(name).cloned(),
        })
    }

    /// The first row read.
    async fn begin(&self, (table, key): &Name) -> Result<Row, Error> {
        let inner = &self.client.inner;
        let oldest = |age: Duration| {
            TxClock(inner.about_now().0.saturating_sub(u64::try_from(age.as_micros()).unwrap_or(u64::MAX)))
        };
        if !self.max_age.is_zero()
            && let Some(row) = inner.cache().get(table.name(), key)
            && oldest(self.max_age) <= row.read_time
        {
            return Ok(row);
        }
        // What this client has seen, or was told is written, may have come from a cohort whose clock is ahead of this one's.
        let seen = inner.seen();
        let row = self.client.read(table, key, None, self.deadline).await?;
        let time = Inner::after_seen(row.read_time, seen);
        if time == row.read_time {
            return Ok(row);
        }
        self.client.read(table, key, Some(time), self.deadline).await
    }

    /// Takes note of a row that was read, at `at` if that is given. If two reads of the same row crossed, the first counts.
    fn note(&self, name: Name, row: Row, at: Option<TxClock>) -> Row {
        let mut state = self.state();
        if let Some(row) = state.reads.get(&name) {
            return row.clone();
        }
        let (from, to) = state.span.unwrap_or((row.time, row.read_time));
        // Another read may have narrowed the span since; what is known at `at` is also known before it, back to its version.
        let to = to.min(at.map_or(row.read_time, |at| at.min(row.read_time)));
        state.span = Some((from.max(row.time), to));
        state.reads.insert(name, row.clone());
        row
    }

    async fn commit(&self) -> Result<(), Overtaken> {
        let (batch, read) = {
            let mut state = self.state();
            state.done = true;
            if let Some((from, to)) = state.span
                && to < from
            {
                let latest = from;
                return Err(Overtaken::By(Error::Stale { latest }));
            }
            if state.writes.is_empty() {
                return Ok(());
            }
            let mut batch = Batch::new();
            if let Some((_, to)) = state.span {
                batch = batch.unchanged_since(to);
            }
            let mut read = false;
            for ((table, key), kind) in &state.writes {
                read |= matches!(kind, Kind::Create(_))
                    && state.reads.contains_key(&(table.clone(), key.clone()));
                batch = batch.op(table, key, kind.clone());
            }
            for (table, key) in state.reads.keys() {
                if !state.writes.contains_key(&(table.clone(), key.clone())) {
                    batch = batch.hold(table, key);
                }
            }
            (batch, read)
        };
        match self.client.commit_by(&batch, self.deadline).await {
            Ok(_) => Ok(()),
            Err(error @ Error::Stale { .. }) => Err(Overtaken::By(error)),
            // It had read that the row was not there.
            Err(error @ Error::Collision(_)) if read => Err(Overtaken::By(error)),
            Err(error) => Err(Overtaken::Not(error)),
        }
    }
}
