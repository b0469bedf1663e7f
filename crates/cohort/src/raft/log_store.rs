//! Raft's log on the drive's shared durable log.

use super::codec::{decode_entry, decode_log_id, decode_vote, encode_entry, encode_log_id, encode_vote};
use super::health::{Failure, Health};
use super::types::{RaftEntry, RaftLogId, RaftTypes, RaftVote};
use futures_util::{Stream, stream};
use openraft::entry::RaftEntry as _;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogReader};
use skein_storage::log::{GroupLog, LogError};
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use tokio::sync::oneshot;

/// Bytes of entries read at a time while streaming them.
const READ_BYTES_MAX: usize = 4 << 20;

/// One group's log; clones read the same.
#[derive(Clone)]
pub(crate) struct LogStore {
    log: GroupLog,
    /// Told when the log fails: Raft then stops without a word to those who wait.
    health: Health,
}

impl LogStore {
    pub(crate) fn new(log: GroupLog, health: Health) -> LogStore {
        LogStore { log, health }
    }

    /// Whether the log goes as far as a machine that has applied the entry at `index`.
    pub(crate) fn reaches(&self, index: u64) -> Result<(), String> {
        let state = self.log.state();
        let last = state.last.max(state.purged.map(|(index, _)| index));
        if Some(index) <= last {
            return Ok(());
        }
        let end = last.map_or("holds no entries".to_owned(), |last| format!("ends at entry {last}"));
        Err(format!("the log {end}, and the store has applied entry {index}: the log was lost or cut"))
    }

    /// The vote as last saved, durable or on its way.
    pub(crate) fn vote(&self) -> io::Result<Option<RaftVote>> {
        self.log.state().vote.map(decode_vote).transpose()
    }

    /// Log bytes that Raft has not purged.
    pub(crate) fn bytes_live(&self) -> u64 {
        self.log.bytes_live()
    }

    /// Log bytes of the entries that a store durable up to `position` (index + 1; 0 for none) does not hold.
    pub(crate) fn bytes_since_position(&self, position: u64) -> u64 {
        match position.checked_sub(1) {
            Some(index) => self.log.bytes_since(index),
            None => self.log.bytes_live(),
        }
    }

    /// The log ID of the entry at `index`; `None` if the log no longer holds it.
    pub(crate) fn log_id(&self, index: u64) -> io::Result<Option<RaftLogId>> {
        Ok(self.read(index, index + 1, usize::MAX)?.pop().map(|entry| entry.log_id))
    }

    fn bounds(&self, range: &impl RangeBounds<u64>) -> (u64, u64) {
        let from = match range.start_bound() {
            Bound::Included(i) => *i,
            Bound::Excluded(i) => i.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(i) => i.saturating_add(1),
            Bound::Excluded(i) => *i,
            Bound::Unbounded => u64::MAX,
        };
        (from, to)
    }

    fn read(&self, from: u64, to: u64, bytes_max: usize) -> io::Result<Vec<RaftEntry>> {
        if to <= from {
            return Ok(Vec::new());
        }
        let entries = self.log.read(from, to, bytes_max).map_err(|error| fatal(&self.health, error))?;
        entries.into_iter().map(|(index, bytes)| decode_entry(index, bytes)).collect()
    }
}

/// Notes why Raft is about to stop.
fn fatal(health: &Health, error: LogError) -> io::Error {
    health.fail(Failure::from(&error));
    error.into()
}

/// Runs one operation of the log and waits until it is durable.
async fn durable(
    start: impl FnOnce(Box<dyn FnOnce(Result<(), LogError>) + Send>) -> Result<(), LogError>,
) -> Result<(), LogError> {
    let (done, wait) = oneshot::channel();
    start(Box::new(move |result| {
        // The waiter is gone only when Raft is: then nobody asks.
        let _ = done.send(result);
    }))?;
    wait.await.unwrap_or(Err(LogError::Closed))
}

impl RaftLogReader<RaftTypes> for LogStore {
    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = Result<RaftEntry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (from, to) = self.bounds(&range);
        let chunks = Chunks { store: self.clone(), next: from, to, ready: Vec::new().into_iter() };
        Box::pin(stream::unfold(Some(chunks), |chunks| async move {
            let mut chunks = chunks?;
            match chunks.next() {
                Ok(None) => None,
                Ok(Some(entry)) => Some((Ok(entry), Some(chunks))),
                Err(error) => Some((Err(error), None)),
            }
        }))
    }

    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<RaftEntry>, io::Error> {
        let (from, to) = self.bounds(&range);
        self.read(from, to, usize::MAX)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<RaftEntry>, io::Error> {
        self.read(start, end, READ_BYTES_MAX)
    }

    async fn read_vote(&mut self) -> Result<Option<RaftVote>, io::Error> {
        self.vote()
    }
}

/// A range of entries read in bounded pieces.
struct Chunks {
    store: LogStore,
    next: u64,
    to: u64,
    ready: std::vec::IntoIter<RaftEntry>,
}

impl Chunks {
    fn next(&mut self) -> io::Result<Option<RaftEntry>> {
        if self.ready.len() == 0 {
            self.ready = self.store.read(self.next, self.to, READ_BYTES_MAX)?.into_iter();
        }
        let entry = self.ready.next();
        if let Some(entry) = &entry {
            self.next = entry.index() + 1;
        }
        Ok(entry)
    }
}

impl RaftLogStorage<RaftTypes> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> Result<LogState<RaftTypes>, io::Error> {
        let state = self.log.state();
        let last_purged_log_id = state.purged.map(|(_, id)| decode_log_id(id)).transpose()?;
        let last_log_id = match state.last {
            Some(last) => self.read(last, last + 1, usize::MAX)?.pop().map(|entry| entry.log_id),
            None => None,
        };
        Ok(LogState { last_purged_log_id, last_log_id: last_log_id.or(last_purged_log_id) })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &RaftVote) -> Result<(), io::Error> {
        let saved = durable(|done| self.log.save_vote(encode_vote(vote), done)).await;
        saved.map_err(|error| fatal(&self.health, error))
    }

    async fn save_committed(&mut self, committed: Option<RaftLogId>) -> Result<(), io::Error> {
        if let Some(id) = committed {
            self.log.save_committed(encode_log_id(&id));
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<RaftLogId>, io::Error> {
        self.log.state().committed.map(decode_log_id).transpose()
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<RaftTypes>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = RaftEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries = entries.into_iter().map(|entry| (entry.index(), encode_entry(&entry))).collect();
        let health = self.health.clone();
        let done = Box::new(move |result: Result<(), LogError>| {
            callback.io_completed(result.map_err(|error| fatal(&health, error)));
        });
        self.log.append(entries, done).map_err(|error| fatal(&self.health, error))
    }

    async fn truncate_after(&mut self, last_log_id: Option<RaftLogId>) -> Result<(), io::Error> {
        let truncated = durable(|done| self.log.truncate_after(last_log_id.map(|id| id.index), done)).await;
        truncated.map_err(|error| fatal(&self.health, error))
    }

    async fn purge(&mut self, log_id: RaftLogId) -> Result<(), io::Error> {
        match durable(|done| self.log.purge(log_id.index, encode_log_id(&log_id), done)).await {
            Ok(()) => Ok(()),
            // Not even room for that: the entries stay a while, and the next purge takes them too.
            Err(error @ LogError::Full { .. }) => {
                tracing::warn!(%error, "purge the log; tried again after the next checkpoint");
                Ok(())
            }
            Err(error) => Err(fatal(&self.health, error)),
        }
    }
}
