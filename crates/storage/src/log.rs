//! The durable log: one per drive, shared by all Raft groups on it, and the truth about what was
//! acknowledged.
//!
//! Callers append entries, votes, truncations and purges through a [`GroupLog`] and are told by a callback
//! when each is on stable storage. One writer thread takes everything that has arrived, writes it with one
//! write and one sync, and then runs the callbacks; what arrives meanwhile goes into the next round. A lone
//! append waits for nobody.
//!
//! On disk the log is a row of preallocated segment files and a small control file. A keeper thread
//! prepares the next segment before it is needed and takes back those whose entries have all been purged.
//! `docs/FORMAT.md` has the pictures. In reading order: [`mod@error`], `record`, `segment`, `control` (bytes),
//! `recover` (what a stopped log holds), `group`, `room` (memory), `shared`, `writer`, `keeper`, `open`,
//! `read` (the running log), `pump` (without threads), [`mod@report`].

mod control;
pub mod error;
mod group;
mod keeper;
mod open;
mod pump;
mod read;
mod record;
mod recover;
pub mod report;
mod room;
mod segment;
mod shared;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, ThreadId};
use std::time::Duration;

use bytes::Bytes;

pub use error::LogError;
pub use pump::Pump;
pub use report::{LogCut, LogGroupReport, LogReport, LogSegmentReport};

use crate::disk::Disk;
use group::Group;
use record::{BLOB_BYTES_MAX, ENTRY_PREFIX, RECORD_HEADER, Summary, padded};
use segment::{SEGMENT_HEADER, SEGMENT_TRAILER};
use shared::{Shared, Work};

/// Called once, on the writer thread, when the work is durable or has failed. It must not block, and must
/// not panic: the log would stop.
pub type Done = Box<dyn FnOnce(Result<(), LogError>) + Send>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere is reported where it happened; the data here is changed in single steps.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How a log is kept. Segment size may change from one opening to the next.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// Size of a segment file in bytes. A record cannot be longer than [`LogOptions::record_bytes_max`].
    pub segment_bytes: u64,
    /// Payloads of the newest entries are kept in memory up to this many bytes, over all groups.
    pub cache_bytes: usize,
    /// Once nothing has arrived for this long, the log notes (without a sync of its own) that everything is
    /// durable, so that damage even to the last records is recognized as such.
    pub idle_mark: Duration,
}

impl Default for LogOptions {
    fn default() -> LogOptions {
        LogOptions { segment_bytes: 64 << 20, cache_bytes: 16 << 20, idle_mark: Duration::from_millis(50) }
    }
}

impl LogOptions {
    /// Checks that segments are of a usable size.
    ///
    /// Errors: [`LogError::Options`].
    pub fn check(&self) -> Result<(), LogError> {
        const MIN: u64 = 16 << 10;
        const MAX: u64 = 2 << 30;
        if !(MIN..=MAX).contains(&self.segment_bytes) || !self.segment_bytes.is_multiple_of(4096) {
            let problem = format!(
                "({}) has to be a multiple of 4096 between {MIN} and {MAX}; try {}",
                self.segment_bytes,
                LogOptions::default().segment_bytes,
            );
            return Err(LogError::Options { option: "log.segment_bytes", problem });
        }
        Ok(())
    }

    /// Kept free in each segment for the state of the groups it opens with.
    fn state_bytes_max(&self) -> u64 {
        (self.segment_bytes / 4).min(8 << 20)
    }

    fn groups_max(&self) -> usize {
        (self.state_bytes_max() / Summary::bytes_max(1)) as usize
    }

    /// The longest record there can be, header included: a segment less its own needs.
    pub fn record_bytes_max(&self) -> u64 {
        self.segment_bytes - SEGMENT_HEADER - SEGMENT_TRAILER - self.state_bytes_max()
    }
}

/// What the log is doing, for humans and monitoring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogStats {
    /// Bytes of all segment files, spare ones included.
    pub bytes_on_disk: u64,
    /// Record bytes of the entries that groups still have.
    pub live_bytes: u64,
    /// Segment files with records, being written, or prepared; spare ones are not counted.
    pub segments: usize,
    /// Pieces of work done since the log was opened: appends, votes, truncations, purges.
    pub appends: u64,
    /// Rounds of the writer since the log was opened, each with one sync.
    pub syncs: u64,
    /// Every record up to and including this sequence is durable.
    pub durable_sequence: u64,
}

/// What a group has besides its entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupState {
    /// The vote last saved.
    pub vote: Option<Bytes>,
    /// The index last purged, and the log ID given with it.
    pub purged: Option<(u64, Bytes)>,
    /// The committed hint last saved; after a restart perhaps an earlier one.
    pub committed: Option<Bytes>,
    /// Index of the first entry there is.
    pub first: Option<u64>,
    /// Index of the last entry there is.
    pub last: Option<u64>,
}

/// An open log. Clones share it; it closes when the last of them and of its [`GroupLog`]s is gone.
#[derive(Clone)]
pub struct Log {
    handle: Arc<Handle>,
}

/// A Raft group's view of the log. Clones share it.
#[derive(Clone)]
pub struct GroupLog {
    handle: Arc<Handle>,
    group: Arc<Group>,
}

/// Closes the log when dropped.
struct Handle {
    shared: Arc<Shared>,
    /// Held by whoever waits for the threads to end.
    threads: Mutex<Vec<JoinHandle<()>>>,
    thread_ids: Mutex<Vec<ThreadId>>,
    /// Of a log without threads.
    turns: Option<Arc<Mutex<pump::Turns>>>,
}

impl Log {
    /// Opens the log on `disk`, or begins one where there is none.
    ///
    /// A torn tail is cut off. Anything else that is not as it was written is an error that names file and
    /// offset; the log is then as it was. Nobody else may have the directory open.
    pub fn open(disk: Arc<dyn Disk>, options: LogOptions) -> Result<Log, LogError> {
        open::open(disk, options)
    }

    /// As [`Log::open`], without threads: the same code does the same work when the owner calls the [`Pump`]. For
    /// simulations, where a seed decides what happens when. Appends that need a segment at once make one themselves.
    pub fn open_pumped(disk: Arc<dyn Disk>, options: LogOptions) -> Result<(Log, Pump), LogError> {
        open::open_pumped(disk, options)
    }

    /// The view of the Raft group `id`, which need not exist yet.
    pub fn group(&self, id: u64) -> GroupLog {
        let group = lock(&self.handle.shared.groups)
            .entry(id)
            .or_insert_with(|| Arc::new(Group::new(id, group::GroupMemory::default())))
            .clone();
        GroupLog { handle: self.handle.clone(), group }
    }

    /// The groups that ever wrote something, in order.
    pub fn groups(&self) -> Vec<u64> {
        let groups: BTreeMap<u64, Arc<Group>> = lock(&self.handle.shared.groups).clone();
        groups.values().filter(|group| group.lock().counted).map(|group| group.id).collect()
    }

    /// Whether the log takes appends; if not for good, why.
    pub fn health(&self) -> Result<(), LogError> {
        self.handle.shared.check()
    }

    /// Numbers about the log, as of now.
    pub fn stats(&self) -> LogStats {
        self.handle.shared.stats()
    }

    /// Writes and syncs what is queued and a closing mark, and stops. Later appends are refused. Closing
    /// twice does nothing. Called from a completion callback, it only asks for the close.
    pub fn close(&self) {
        self.handle.close();
    }

    /// Reads a stopped log without changing it: what is in it, and what opening it would cut.
    ///
    /// Errors are those of [`Log::open`].
    pub fn verify(disk: &dyn Disk) -> Result<LogReport, LogError> {
        report::verify(disk)
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl GroupLog {
    /// The group's ID.
    pub fn id(&self) -> u64 {
        self.group.id
    }

    /// Checks that appends of `bytes` payload bytes in total would find room, beside everything queued and
    /// [held](GroupLog::hold), and has more segments prepared if not. Holds nothing. May block while a
    /// segment is being prepared, which takes milliseconds.
    ///
    /// Errors: [`LogError::Full`], until there is space again; [`LogError::TooLarge`], [`LogError::Failed`].
    pub fn reserve(&self, bytes: u64) -> Result<(), LogError> {
        self.handle.shared.promise(bytes)
    }

    /// The most payload bytes that one entry can have.
    pub fn entry_bytes_max(&self) -> usize {
        let record = usize::try_from(self.handle.shared.options.record_bytes_max()).unwrap_or(usize::MAX);
        // Less what the padding of a record may take.
        record.saturating_sub(RECORD_HEADER + ENTRY_PREFIX + 8)
    }

    /// As [`GroupLog::reserve`], and keeps the room from other reservations until the result is dropped.
    /// Drop it once the append has been accepted.
    pub fn hold(&self, bytes: u64) -> Result<Reservation, LogError> {
        let shared = &self.handle.shared;
        shared.held.fetch_add(bytes, Ordering::Relaxed);
        let reservation = Reservation { shared: shared.clone(), bytes };
        // What is held, ours included, has been added already.
        shared.promise(0)?;
        Ok(reservation)
    }

    /// Appends entries with consecutive indexes (any but `u64::MAX`), after the last one there is. They are visible to
    /// [`GroupLog::read`] at once; `done` is called when they are durable, or have failed.
    ///
    /// On an error nothing was queued and `done` is dropped without being called. May block while a segment
    /// is being prepared, if [`GroupLog::reserve`] was not asked.
    pub fn append(&self, entries: Vec<(u64, Bytes)>, done: Done) -> Result<(), LogError> {
        let max = self.handle.shared.options.record_bytes_max();
        for (_, payload) in &entries {
            let bytes = padded((RECORD_HEADER + ENTRY_PREFIX + payload.len()) as u64);
            if max < bytes {
                return Err(LogError::TooLarge { bytes, max });
            }
        }
        self.submit(Work::Entries(entries), done)
    }

    /// Saves the group's vote: any bytes, up to 512 of them. Errors as for [`GroupLog::append`].
    pub fn save_vote(&self, vote: Bytes, done: Done) -> Result<(), LogError> {
        check_blob(&vote)?;
        self.submit(Work::Vote(vote), done)
    }

    /// Removes all entries after `index`, or all entries. Errors as for [`GroupLog::append`].
    pub fn truncate_after(&self, index: Option<u64>, done: Done) -> Result<(), LogError> {
        self.submit(Work::Truncate(index), done)
    }

    /// Notes that entries up to and including `index` (perhaps beyond the last one there is) will never be
    /// asked for again; the log goes on after it. `log_id` is any bytes, up to 512. Segments that hold
    /// nothing else are reused soon after `done`. A purge that would go back changes nothing. Errors as for
    /// [`GroupLog::append`].
    pub fn purge(&self, index: u64, log_id: Bytes, done: Done) -> Result<(), LogError> {
        check_blob(&log_id)?;
        if index == u64::MAX {
            return Err(LogError::OutOfOrder { group: self.group.id, index, expected: 0 });
        }
        self.submit(Work::Purge { index, log_id }, done)
    }

    /// Forgets the group: its entries, vote, purge and hint are as if they had never been, and hold no segment and take
    /// no room in new ones once this is durable. For a replica that is removed for good; should the group come back, it
    /// begins anew, also through this view. Errors as for [`GroupLog::append`].
    pub fn forget(&self, done: Done) -> Result<(), LogError> {
        if !self.group.lock().counted {
            // It never wrote anything.
            self.handle.shared.check()?;
            done(Ok(()));
            return Ok(());
        }
        self.submit(Work::Forget, done)
    }

    /// Notes how far the group has committed, in any bytes, up to 512 (longer ones are ignored). It is
    /// written along with the group's next record, or at close, and never synced for its own sake.
    pub fn save_committed(&self, committed: Bytes) {
        if committed.len() <= BLOB_BYTES_MAX {
            let mut memory = self.group.lock();
            memory.summary.committed = Some(committed);
            memory.hint_unwritten = true;
        }
    }

    /// The group's state, what is queued included.
    pub fn state(&self) -> GroupState {
        let summary = self.group.lock().summary.clone();
        GroupState {
            vote: summary.vote,
            purged: summary.purged,
            committed: summary.committed,
            first: summary.span.map(|(first, _)| first),
            last: summary.span.map(|(_, last)| last),
        }
    }

    /// The entries that exist from `from` on, up to but not including `to_exclusive`, in order: as many as
    /// have `bytes_max` payload bytes together, but at least one when there is any.
    ///
    /// Errors: [`LogError::Corrupt`] or [`LogError::Io`] when an entry cannot be read back.
    pub fn read(
        &self,
        from: u64,
        to_exclusive: u64,
        bytes_max: usize,
    ) -> Result<Vec<(u64, Bytes)>, LogError> {
        read::read(&*self.handle.shared.disk, &self.group, from..to_exclusive, bytes_max)
    }

    /// Bytes in the log of the entries after `index`, for deciding when a checkpoint is worth it.
    pub fn bytes_since(&self, index: u64) -> u64 {
        self.group.lock().bytes_since(index)
    }

    /// Bytes in the log of all entries that are not purged.
    pub fn bytes_live(&self) -> u64 {
        self.group.lock().bytes_live()
    }

    fn submit(&self, work: Work, done: Done) -> Result<(), LogError> {
        self.handle.shared.submit(&self.group, work, Some(done))
    }
}

impl fmt::Debug for GroupLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupLog").field("id", &self.group.id).finish_non_exhaustive()
    }
}

fn check_blob(blob: &Bytes) -> Result<(), LogError> {
    if blob.len() > BLOB_BYTES_MAX {
        return Err(LogError::TooLarge { bytes: blob.len() as u64, max: BLOB_BYTES_MAX as u64 });
    }
    Ok(())
}

/// Room in the log that other reservations cannot have; see [`GroupLog::hold`].
#[must_use = "dropping it gives the room back"]
pub struct Reservation {
    shared: Arc<Shared>,
    bytes: u64,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.shared.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservation").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl Handle {
    fn close(&self) {
        self.shared.ask_to_close();
        if let Some(turns) = &self.turns {
            return pump::close(&self.shared, turns);
        }
        if lock(&self.thread_ids).contains(&std::thread::current().id()) {
            // The log's own threads cannot wait for themselves; they end without us.
            return;
        }
        let mut threads = lock(&self.threads);
        for thread in threads.drain(..) {
            // A panic there has been reported, and has stopped the log.
            let _ = thread.join();
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.close();
    }
}

/// A count that only grows, for [`LogStats`].
#[derive(Default)]
struct Count(AtomicU64);

impl Count {
    fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
