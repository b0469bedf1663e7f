//! Filling a fresh engine with the chunks of an export.

use super::{ExportPosition, decode};
use crate::engine::{Engine, EngineError, Keyspace, Load, WriteBatch};
use crate::rows::codec::{TxRecord, decode_stamp, split_head_key, split_past_key};
use crate::rows::meta;
use bytes::Bytes;
use std::sync::Arc;

/// Why a chunk was not taken, or an import not finished.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The chunk is not as it was made. Nothing was taken from it; fetch it again.
    #[error("a chunk of rows is damaged: {detail}")]
    Damaged {
        /// What is wrong with it.
        detail: String,
    },
    /// The chunk was made by a newer release. Nothing was taken from it; update this one first.
    #[error("a chunk of rows has format {found}, and this version of Skein reads formats up to {supported}")]
    NewerFormat {
        /// Its format.
        found: u16,
        /// The newest format we read.
        supported: u16,
    },
    /// The chunk is of another export than those before. Nothing was taken from it; begin a new import for it.
    #[error("a chunk of rows is of export {found:016x}, and those before were of {expected:016x}")]
    Foreign {
        /// The export of the chunks before.
        expected: u64,
        /// That of this one.
        found: u64,
    },
    /// The chunk is not the next one. Nothing was taken from it; go on from [`Import::position`].
    #[error("a chunk of rows is number {found} of its export, and number {expected} is the next")]
    OutOfOrder {
        /// The next one.
        expected: u64,
        /// This one.
        found: u64,
    },
    /// The last chunk has not come yet. The store is of no use; go on from [`Import::position`], or begin anew.
    #[error("the rows are not complete: chunk {next} and those after it are missing")]
    Incomplete {
        /// The next chunk.
        next: u64,
    },
    /// The engine failed, and the import with it. Begin anew with a fresh engine, after making room if it is full.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// What came with an import.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Imported {
    /// Entries of all keyspaces.
    pub entries: u64,
    /// Rows: the entries of `Head`.
    pub rows: u64,
    /// Bytes of all chunks.
    pub bytes: u64,
}

/// Fills an empty engine with the chunks of an export, in their order. Until [`Import::finish`] has returned, what is in
/// the engine is not to be used.
pub struct Import {
    engine: Arc<dyn Engine>,
    load: Box<dyn Load>,
    export: Option<u64>,
    next: ExportPosition,
    meta: Vec<(Bytes, Bytes)>,
    imported: Imported,
    is_complete: bool,
    has_failed: bool,
}

impl Import {
    /// Begins to fill `engine`, which is empty.
    ///
    /// Errors: [`ImportError::Engine`].
    pub fn begin(engine: Arc<dyn Engine>) -> Result<Import, ImportError> {
        let load = engine.load()?;
        Ok(Import {
            engine,
            load,
            export: None,
            next: ExportPosition::default(),
            meta: Vec::new(),
            imported: Imported::default(),
            is_complete: false,
            has_failed: false,
        })
    }

    /// Where to go on, also after a cut: to be given to [`super::Export::chunk`] of an export with the same ID.
    pub fn position(&self) -> &ExportPosition {
        &self.next
    }

    /// The export that the chunks so far are of.
    pub fn export(&self) -> Option<u64> {
        self.export
    }

    /// What came so far.
    pub fn imported(&self) -> Imported {
        self.imported
    }

    /// Whether the last chunk has come.
    pub fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Takes the next chunk. A chunk that is refused leaves everything as it was. Blocks while the engine is behind.
    pub fn chunk(&mut self, bytes: &Bytes) -> Result<(), ImportError> {
        let chunk = decode(bytes)?;
        if let Some(expected) = self.export.filter(|expected| *expected != chunk.export) {
            return Err(ImportError::Foreign { expected, found: chunk.export });
        }
        if chunk.number != self.next.number || self.is_complete {
            return Err(ImportError::OutOfOrder { expected: self.next.number, found: chunk.number });
        }
        let step = match chunk.step.checked_sub(self.next.step) {
            Some(0) => chunk.step,
            // Keyspaces end without a word; each has at least one chunk.
            Some(1) if 0 < chunk.number => chunk.step,
            _ => {
                let detail = format!("keyspace {} does not follow keyspace {}", chunk.step, self.next.step);
                return Err(ImportError::Damaged { detail });
            }
        };
        let next = ExportPosition { number: chunk.number + 1, step, ..ExportPosition::default() };
        let mut after = if step == self.next.step { self.next.after.clone() } else { Bytes::new() };
        let keyspace = next.keyspace();
        for (key, value) in &chunk.entries {
            if key <= &after || !is_entry(keyspace, key, value) {
                let detail = format!("the entry {} of {keyspace} cannot be there", key.escape_ascii());
                return Err(ImportError::Damaged { detail });
            }
            after = key.clone();
        }
        if chunk.last && keyspace != Keyspace::Meta {
            return Err(ImportError::Damaged { detail: format!("it ends the export in {keyspace}") });
        }
        if self.has_failed {
            let source = std::io::Error::other("an earlier chunk could not be written");
            return Err(EngineError::Io { what: "go on with an import".to_owned(), source }.into());
        }
        self.imported.entries += chunk.entries.len() as u64;
        if keyspace == Keyspace::Head {
            self.imported.rows += chunk.entries.len() as u64;
        }
        self.imported.bytes += bytes.len() as u64;
        if keyspace == Keyspace::Meta {
            self.meta.extend(chunk.entries);
        } else {
            self.load.add(keyspace, chunk.entries).inspect_err(|_| self.has_failed = true)?;
        }
        self.export = Some(chunk.export);
        self.is_complete = chunk.last;
        // A copy, because the key keeps the whole chunk in memory.
        self.next = ExportPosition { after: Bytes::copy_from_slice(&after), ..next };
        Ok(())
    }

    /// What the owner of the log had written with the last batch of the exported store, once the last chunk has come; `None` before,
    /// and for a store that nothing was applied to.
    pub fn applied(&self) -> Option<&Bytes> {
        self.meta.iter().find(|(key, _)| meta::is_applied(key)).map(|(_, applied)| applied)
    }

    /// Makes everything durable, at the `position` in the log that the export stands for, with these `applied` bytes in the place
    /// of those that came. After this the engine holds what was exported, and can be opened with
    /// [`crate::rows::Rows::open`]. Blocks.
    pub fn finish(self, position: u64, applied: Option<Bytes>) -> Result<Imported, ImportError> {
        if !self.is_complete || self.has_failed {
            return Err(ImportError::Incomplete { next: self.next.number });
        }
        self.load.finish()?;
        let mut batch = WriteBatch::new();
        for (key, value) in self.meta {
            batch.push(Keyspace::Meta, key, value);
        }
        if let Some(applied) = applied {
            meta::put_applied(&mut batch, applied);
        }
        // `Meta` comes last, so a store that was not finished does not claim to have anything.
        self.engine.write(batch, position)?;
        self.engine.checkpoint()?;
        Ok(self.imported)
    }
}

/// Whether an entry is one that we would have written there.
fn is_entry(keyspace: Keyspace, key: &[u8], value: &[u8]) -> bool {
    match keyspace {
        Keyspace::Head => split_head_key(key).is_some() && decode_stamp(value).is_ok(),
        Keyspace::Past => split_past_key(key).is_some() && decode_stamp(value).is_ok(),
        Keyspace::Tx => TxRecord::decode(value).is_ok(),
        Keyspace::Meta => key.first().is_some_and(|first| *first != crate::engine::ENGINE_KEY),
    }
}
