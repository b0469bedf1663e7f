//! What can go wrong with the log, and what state each trouble leaves us in.

use std::io;
use std::sync::Arc;

/// Why the log could not do something. Cheap to clone, because one failed sync answers many callers.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The disk refused while the log was being opened, read or closed. Nothing was changed by this call.
    #[error("{doing} {file}")]
    Io {
        /// What was being done, as a verb.
        doing: &'static str,
        /// The file, as the disk describes it.
        file: String,
        /// The disk's own words.
        source: Arc<io::Error>,
    },
    /// Bytes that were durable once are not what was written. The log refuses to open (or to read the
    /// entry); this replica has to be repaired from the others or from a backup.
    #[error("{file} is damaged at byte {offset}: expected {expected}, found {found}")]
    Corrupt {
        /// The damaged file.
        file: String,
        /// Where in it, in bytes.
        offset: u64,
        /// What should be there.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A file the log needs is gone. The log refuses to open.
    #[error("{file} is missing: {why}")]
    Missing {
        /// The file that should be there.
        file: String,
        /// How we know that it should.
        why: String,
    },
    /// A later version of Skein wrote this file. The log refuses to open and has changed nothing.
    #[error("{file} has format version {found}, and this program knows versions up to {supported}")]
    NewerFormat {
        /// The file.
        file: String,
        /// Its version.
        found: u32,
        /// The newest version we know.
        supported: u32,
    },
    /// No room. Nothing was written; the log goes on, and takes appends again once there is space.
    #[error("the log's drive is full: the next log segment needs {needed} bytes and {free} are free")]
    Full {
        /// Bytes the next segment needs.
        needed: u64,
        /// Bytes the drive has.
        free: u64,
    },
    /// One record would not fit in a segment. Nothing was written.
    #[error("a log record of {bytes} bytes is more than the {max} that fit")]
    TooLarge {
        /// Bytes asked for.
        bytes: u64,
        /// Bytes possible, from the segment size.
        max: u64,
    },
    /// Entries have to follow one another. Nothing was written.
    #[error("the log of group {group} goes on at index {expected}, not at {index}")]
    OutOfOrder {
        /// The Raft group.
        group: u64,
        /// The index given.
        index: u64,
        /// The index wanted.
        expected: u64,
    },
    /// More groups than the state at the start of a segment has room for. Nothing was written.
    #[error("this log has room for {max} groups; larger segments would allow more")]
    TooManyGroups {
        /// The most there can be.
        max: usize,
    },
    /// A write or a sync failed, so what is on the disk after the last durable record is unknown. The log
    /// accepts nothing more; a restart finds out what survived.
    #[error("the log has stopped, because this failed: {doing} {file}")]
    Failed {
        /// What was being done, as a verb.
        doing: &'static str,
        /// The file, as the disk describes it.
        file: String,
        /// The disk's own words.
        source: Arc<io::Error>,
    },
    /// The log was closed. Nothing was written.
    #[error("the log is closed")]
    Closed,
    /// An option makes no sense. Nothing was opened.
    #[error("{option} {problem}")]
    Options {
        /// The option.
        option: &'static str,
        /// What is wrong with it, and what would do.
        problem: String,
    },
}

impl LogError {
    pub(super) fn io(doing: &'static str, file: String) -> impl FnOnce(io::Error) -> LogError {
        move |error| LogError::Io { doing, file, source: Arc::new(error) }
    }

    /// The same trouble as an [`io::Error`], with the kind that fits best and this error inside.
    pub fn into_io(self) -> io::Error {
        let kind = match &self {
            LogError::Io { source, .. } | LogError::Failed { source, .. } => source.kind(),
            LogError::Corrupt { .. } => io::ErrorKind::InvalidData,
            LogError::Missing { .. } => io::ErrorKind::NotFound,
            LogError::NewerFormat { .. } => io::ErrorKind::Unsupported,
            LogError::Full { .. } => io::ErrorKind::StorageFull,
            LogError::TooLarge { .. } | LogError::OutOfOrder { .. } | LogError::Options { .. } => {
                io::ErrorKind::InvalidInput
            }
            LogError::TooManyGroups { .. } => io::ErrorKind::QuotaExceeded,
            LogError::Closed => io::ErrorKind::BrokenPipe,
        };
        io::Error::new(kind, self)
    }
}

impl From<LogError> for io::Error {
    fn from(error: LogError) -> io::Error {
        error.into_io()
    }
}
