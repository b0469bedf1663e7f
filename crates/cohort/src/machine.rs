//! What a [`Group`](crate::group::Group) replicates: a seam that the cohort's rows and the catalog fill.
//!
//! A machine applies entries in the order of the log, and keeps with each the group's *place*: opaque bytes that say how far it
//! is. Whatever it holds after a crash, the place has to be the one that was stored with just that state; entries
//! beyond it are applied again.

use bytes::Bytes;
use std::future::Future;

/// Why a machine did not do as asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MachineError {
    /// There is no room. Nothing was changed; the same call is tried again until there is some.
    #[error("no room: {0}")]
    Full(String),
    /// What is stored failed a check. The replica stops.
    #[error("damaged: {0}")]
    Damaged(String),
    /// The disk failed. The replica stops.
    #[error("the disk failed: {0}")]
    Failed(String),
    /// The machine is closing.
    #[error("closing")]
    Closing,
    /// A chunk or a snapshot from another replica is not as it should be. It is thrown away and fetched again.
    #[error("refused: {0}")]
    Refused(String),
}

/// One entry of the log, committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where it stands in the log. Positions count from 1: `index + 1`.
    pub index: u64,
    /// The term in which it was appended.
    pub term: u64,
    /// To be stored atomically with what the entry changes.
    pub place: Bytes,
    /// What was proposed; `None` for an entry of Raft's own, of which only the place matters.
    pub command: Option<Bytes>,
}

impl Entry {
    /// The machine's position once the entry is applied; 0 stands for an empty machine.
    pub fn position(&self) -> u64 {
        self.index + 1
    }
}

/// A replicated state machine. Shared: reads come from anywhere, while `apply` and `promote` are never called side by side.
///
/// No method blocks the caller's thread for long; what does goes through `skein_storage::blocking`.
pub trait Machine: Send + Sync + 'static {
    /// A consistent view of the state, for a snapshot.
    type View: View;
    /// A snapshot on its way in.
    type Staging: Staging;

    /// The place stored last; `None` for an empty machine.
    fn place(&self) -> Option<Bytes>;

    /// Applies an entry, with its place, atomically. It need not be durable afterwards.
    ///
    /// On [`MachineError::Full`] nothing was changed, and the same entry comes again a little later; any other error stops the
    /// replica. Bytes that cannot be understood are [`MachineError::Damaged`].
    fn apply(&self, entry: Entry) -> impl Future<Output = Result<(), MachineError>> + Send;

    /// How far the machine would survive a crash right now: a position, 0 for not at all.
    fn durable_position(&self) -> u64;

    /// Makes everything applied so far durable. After an error other than damage everything is as it was.
    fn checkpoint(&self) -> impl Future<Output = Result<(), MachineError>> + Send;

    /// A view of the state as of now, which stays as it is while entries go on being applied.
    fn view(&self) -> impl Future<Output = Result<Self::View, MachineError>> + Send;

    /// Begins to receive a snapshot beside the present state. What was staged before is thrown away, unless it is just being promoted.
    fn stage(&self) -> impl Future<Output = Result<Self::Staging, MachineError>> + Send;

    /// Puts a complete snapshot in the place of the present state, durably and atomically, with this place.
    fn promote(
        &self,
        staged: Self::Staging,
        place: Bytes,
    ) -> impl Future<Output = Result<(), MachineError>> + Send;
}

/// A consistent view of a machine's state.
pub trait View: Send + Sync + 'static {
    /// The place stored with this state.
    fn place(&self) -> Option<Bytes>;

    /// About how many bytes all chunks have together, for telling how long it takes.
    fn bytes_estimate(&self) -> u64;

    /// About how many rows there are in all chunks, for a machine that has such things.
    fn rows_estimate(&self) -> u64 {
        0
    }

    /// The chunk that begins at `from` (empty for the first), of about `bytes_max` bytes at most, and where the next one begins;
    /// `None` after the last. May block: it is called where that does no harm.
    ///
    /// Errors: [`MachineError::Refused`] for a position that no chunk ever named.
    fn chunk(&self, from: &[u8], bytes_max: usize) -> Result<Option<Chunk>, MachineError>;
}

/// A piece of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// The machine's own bytes. The group adds a checksum on the way.
    pub bytes: Bytes,
    /// Where the next chunk begins. At most 64 KiB.
    pub next: Bytes,
}

/// A snapshot on its way in. Dropping it throws it away, at the latest when the machine is opened again.
pub trait Staging: Send + 'static {
    /// Adds the next chunk. Chunks come in order, each once.
    fn write(&mut self, chunk: Bytes) -> impl Future<Output = Result<(), MachineError>> + Send;

    /// Rows that the chunks so far brought, for a machine that has such things.
    fn rows(&self) -> u64 {
        0
    }
}
