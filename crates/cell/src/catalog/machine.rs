//! The catalog as a state machine of its Raft group: in memory, with a file that is written at checkpoints.

use super::command::{Outcome, Refusal, Request, RequestFault};
use super::content::Content;
use super::file::{self, FILE_BYTES_MAX, FileError, REPLICA, Saved};
use super::state::CatalogState;
use bytes::{Bytes, BytesMut};
use skein_cohort::machine::{Chunk, Entry, Machine, MachineError, Staging, View};
use skein_storage::disk::Disk;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// How many results of applied entries are kept for those who proposed them. Whoever waits is told as soon as the entry is
/// applied, so a few would do.
const RESULTS_MAX: usize = 256;

/// What an entry came to.
pub(crate) type Applied = Result<Outcome, Refusal>;

/// The replica's content, its place in the log, and who wants to know of changes.
pub struct CatalogMachine {
    disk: Arc<dyn Disk>,
    now: Mutex<Now>,
    durable: AtomicU64,
    /// Held while the file is written, so that an older content never replaces a newer one.
    writing: Arc<tokio::sync::Mutex<()>>,
    state: watch::Sender<Arc<CatalogState>>,
    /// How far the log is applied; whoever waits for a key waits for this.
    position: watch::Sender<u64>,
}

#[derive(Default)]
struct Now {
    saved: Saved,
    results: VecDeque<(u64, Applied)>,
}

impl CatalogMachine {
    /// A machine that goes on from what the replica's file said. Opens nothing.
    pub(crate) fn new(disk: Arc<dyn Disk>, saved: Saved) -> CatalogMachine {
        CatalogMachine {
            disk,
            durable: AtomicU64::new(saved.position),
            writing: Arc::default(),
            state: watch::Sender::new(saved.content.state.clone()),
            position: watch::Sender::new(saved.position),
            now: Mutex::new(Now { saved, results: VecDeque::new() }),
        }
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the content. The closure holds up applying, so it only looks.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&Content) -> T) -> T {
        look(&self.now().saved.content)
    }

    /// The state that the replica has reached; changes can be waited for.
    pub(crate) fn state(&self) -> watch::Receiver<Arc<CatalogState>> {
        self.state.subscribe()
    }

    /// Entries applied, from the first; changes can be waited for.
    pub(crate) fn position(&self) -> watch::Receiver<u64> {
        self.position.subscribe()
    }

    /// What the entry at `index` came to; `None` if it was applied long ago, or not yet, or was none of ours.
    pub(crate) fn result(&self, index: u64) -> Option<Applied> {
        self.now().results.iter().rev().find(|(at, _)| *at == index).map(|(_, result)| result.clone())
    }

    /// Tells of a new content.
    fn tell(&self, state: Arc<CatalogState>, position: u64) {
        self.state.send_if_modified(|old| {
            let changes = !Arc::ptr_eq(old, &state);
            *old = state;
            changes
        });
        self.position.send_replace(position);
    }

    /// Writes the file, in a place where it may block.
    async fn write(&self, saved: Saved) -> Result<(), MachineError> {
        let disk = self.disk.clone();
        let written = skein_storage::blocking(move || file::write(&*disk, REPLICA, &saved)).await;
        written.map_err(|unfinished| MachineError::Failed(unfinished.to_string()))?.map_err(machine_error)
    }
}

fn machine_error(error: FileError) -> MachineError {
    match error {
        error if error.is_full() => MachineError::Full(error.to_string()),
        FileError::Io { .. } => MachineError::Failed(error.to_string()),
        FileError::Damaged { .. } | FileError::Newer { .. } => MachineError::Damaged(error.to_string()),
    }
}

impl Machine for CatalogMachine {
    type View = CatalogView;
    type Staging = CatalogStaging;

    fn place(&self) -> Option<Bytes> {
        self.now().saved.place.clone()
    }

    async fn apply(&self, entry: Entry) -> Result<(), MachineError> {
        let position = entry.position();
        let request = match &entry.command {
            Some(command) => Some(Request::decode(command).map_err(|fault| match fault {
                // A replica that skipped what it does not understand would differ from the others for good.
                RequestFault::Newer { .. } | RequestFault::Malformed(_) => {
                    MachineError::Damaged(fault.to_string())
                }
            })?),
            None => None,
        };
        let state = {
            let mut now = self.now();
            if let Some(request) = request {
                let result = now.saved.content.apply(entry.index, &request);
                now.results.push_back((entry.index, result));
                if RESULTS_MAX < now.results.len() {
                    now.results.pop_front();
                }
            }
            now.saved.place = Some(entry.place);
            now.saved.position = position;
            now.saved.content.state.clone()
        };
        self.tell(state, position);
        Ok(())
    }

    fn durable_position(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    async fn checkpoint(&self) -> Result<(), MachineError> {
        let _one_at_a_time = self.writing.clone().lock_owned().await;
        let saved = self.now().saved.clone();
        let position = saved.position;
        if position == self.durable_position() {
            return Ok(());
        }
        self.write(saved).await?;
        self.durable.store(position, Ordering::Release);
        Ok(())
    }

    async fn view(&self) -> Result<CatalogView, MachineError> {
        let saved = self.now().saved.clone();
        let place = saved.place.clone();
        Ok(CatalogView { place, bytes: file::encode(&saved).into() })
    }

    async fn stage(&self) -> Result<CatalogStaging, MachineError> {
        Ok(CatalogStaging { bytes: BytesMut::new() })
    }

    async fn promote(&self, staged: CatalogStaging, place: Bytes) -> Result<(), MachineError> {
        let mut saved: Saved = postcard::from_bytes(&staged.bytes)
            .map_err(|error| MachineError::Refused(format!("a snapshot of the catalog: {error}")))?;
        let sound = saved.content.state.check();
        sound.map_err(|fault| MachineError::Refused(format!("a snapshot of the catalog: {fault}")))?;
        saved.place = Some(place);
        let _one_at_a_time = self.writing.clone().lock_owned().await;
        self.write(saved.clone()).await?;
        let (state, position) = (saved.content.state.clone(), saved.position);
        self.durable.store(position, Ordering::Release);
        self.now().saved = saved;
        self.tell(state, position);
        Ok(())
    }
}

/// The catalog as of one entry, in the bytes that its file would have.
pub struct CatalogView {
    place: Option<Bytes>,
    bytes: Bytes,
}

impl View for CatalogView {
    fn place(&self) -> Option<Bytes> {
        self.place.clone()
    }

    fn bytes_estimate(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn chunk(&self, from: &[u8], bytes_max: usize) -> Result<Option<Chunk>, MachineError> {
        let at = match from {
            [] => 0,
            from => match <[u8; 8]>::try_from(from).map(u64::from_le_bytes).map(usize::try_from) {
                Ok(Ok(at)) if at <= self.bytes.len() => at,
                _ => return Err(MachineError::Refused("no such place in a snapshot of the catalog".into())),
            },
        };
        if at == self.bytes.len() {
            return Ok(None);
        }
        let end = self.bytes.len().min(at.saturating_add(bytes_max.max(1)));
        let next = Bytes::copy_from_slice(&(end as u64).to_le_bytes());
        Ok(Some(Chunk { bytes: self.bytes.slice(at..end), next }))
    }
}

/// A snapshot on its way in, in memory: it is small.
pub struct CatalogStaging {
    bytes: BytesMut,
}

impl Staging for CatalogStaging {
    async fn write(&mut self, chunk: Bytes) -> Result<(), MachineError> {
        let bytes = self.bytes.len() as u64 + chunk.len() as u64;
        if FILE_BYTES_MAX < bytes {
            let text = format!("a snapshot of the catalog has {bytes} bytes and more, and none is that long");
            return Err(MachineError::Refused(text));
        }
        self.bytes.extend_from_slice(&chunk);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
