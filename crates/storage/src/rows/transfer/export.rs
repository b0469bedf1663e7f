//! Reading a store in chunks.

use super::{ChunkWriter, ExportPosition, STEPS};
use crate::engine::{ENGINE_KEY, Keyspace, View};
use crate::rows::digest::{self, Digest};
use crate::rows::retention::Horizons;
use crate::rows::{MetaState, Rows, RowsError, meta};
use bytes::Bytes;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};
use xxhash_rust::xxh3::Xxh3;

/// A store as of one moment, to be read in chunks, by several readers if need be. What it needs of the engine is kept
/// while it lives.
pub struct Export {
    // Views go from thread to thread, but are not used by two at once.
    view: Mutex<Box<dyn View>>,
    id: u64,
    meta: MetaState,
    bytes_estimate: u64,
    rows_estimate: u64,
}

/// Entries of a keyspace whose mean size stands for that of all.
const SAMPLE: usize = 64;

/// One chunk of an [`Export`].
#[derive(Debug, Clone)]
pub struct ExportChunk {
    /// To be given to [`super::Import::chunk`] as they are.
    pub bytes: Bytes,
    /// Where the next chunk begins; `None` after the last one.
    pub next: Option<ExportPosition>,
}

impl Rows {
    /// A consistent view of everything applied so far, to be sent to another replica. Neither holds up writes nor is
    /// changed by them.
    pub fn export(&self) -> Result<Export, RowsError> {
        let view = self.engine().view()?;
        let (meta, _) = meta::load(&*view)?;
        let mut hash = Xxh3::new();
        for entry in view.range(Keyspace::Meta, Bound::Included(&[ENGINE_KEY + 1]), Bound::Unbounded) {
            let (key, value) = entry?;
            digest::update(&mut hash, Keyspace::Meta, &key, &value);
        }
        let stats = self.engine().stats();
        let mut bytes_estimate = 0;
        for keyspace in STEPS {
            bytes_estimate += bytes_of(&*view, keyspace, stats.entries_of(keyspace))?;
        }
        let rows_estimate = stats.entries_of(Keyspace::Head);
        Ok(Export { view: Mutex::new(view), id: hash.digest(), meta, bytes_estimate, rows_estimate })
    }
}

impl Export {
    /// Tells exports apart: two with the same ID are of equal stores, so one can go on where the other was cut off.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The store's own facts as of the export.
    pub fn meta(&self) -> &MetaState {
        &self.meta
    }

    /// Bytes that all chunks have together, more or less: for telling how far a copy is.
    pub fn bytes_estimate(&self) -> u64 {
        self.bytes_estimate
    }

    /// Rows that all chunks have together, more or less.
    pub fn rows_estimate(&self) -> u64 {
        self.rows_estimate
    }

    /// The digest of what is exported. Reads all of it.
    pub fn digest(&self) -> Result<Digest, RowsError> {
        digest::of(&**self.view(), &self.meta.horizons)
    }

    /// The chunk at a position: of about `bytes_max` bytes, more only when a single entry is larger. (It may be nearly
    /// empty where most of what was read is left behind.) Blocks while it reads.
    pub fn chunk(&self, at: &ExportPosition, bytes_max: usize) -> Result<ExportChunk, RowsError> {
        let keyspace = at.keyspace();
        let mut chunk = ChunkWriter::new(bytes_max.min(16 << 20));
        let from = match &at.after[..] {
            // The engine's own entries come first in `Meta`, and are not for others.
            [] if keyspace == Keyspace::Meta => Bound::Included(&[ENGINE_KEY + 1][..]),
            [] => Bound::Unbounded,
            key => Bound::Excluded(key),
        };
        let view = self.view();
        let (mut seen, mut after, mut ended) = (0, None, true);
        for entry in view.range(keyspace, from, Bound::Unbounded) {
            let (key, value) = entry?;
            let bytes = super::ENTRY_PREFIX + key.len() + value.len();
            if 0 < seen && bytes_max < seen + bytes {
                ended = false;
                break;
            }
            seen += bytes;
            if !is_left_behind(&self.meta.horizons, keyspace, &key, &value) {
                chunk.push(&key, &value);
            }
            // Not the key itself, which may keep a whole block in memory.
            after = Some(key);
        }
        debug_assert!(chunk.len() <= seen);
        let number = at.number + 1;
        let next = if !ended {
            let after = Bytes::copy_from_slice(&after.unwrap_or_default());
            Some(ExportPosition { number, step: at.step, after })
        } else if usize::from(at.step) + 1 < STEPS.len() {
            Some(ExportPosition { number, step: at.step + 1, after: Bytes::new() })
        } else {
            None
        };
        Ok(ExportChunk { bytes: chunk.finish(self.id, at, next.is_none()), next })
    }

    fn view(&self) -> MutexGuard<'_, Box<dyn View>> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// About how many bytes the entries of a keyspace have in chunks, going by the first ones. (Tables on disk are compressed,
/// chunks are not.)
fn bytes_of(view: &dyn View, keyspace: Keyspace, entries: u64) -> Result<u64, RowsError> {
    let (mut seen, mut bytes) = (0, 0);
    for entry in view.range(keyspace, Bound::Unbounded, Bound::Unbounded).take(SAMPLE) {
        let (key, value) = entry?;
        seen += 1;
        bytes += (super::ENTRY_PREFIX + key.len() + value.len()) as u64;
    }
    Ok(bytes.saturating_mul(entries.max(seen)).checked_div(seen).unwrap_or(0))
}

/// Whether an entry is as good as dropped.
pub(in crate::rows) fn is_left_behind(
    horizons: &Horizons,
    keyspace: Keyspace,
    key: &[u8],
    value: &[u8],
) -> bool {
    horizons.has_passed(keyspace, key, value)
}
