//! Carrying a whole store to another replica: [`Export`] reads a consistent view in chunks, [`Import`] puts them into a
//! fresh engine.
//!
//! Entries travel as they are stored, in ascending order of keys, keyspace by keyspace with `Meta` last. What the
//! horizons have passed stays behind, so replicas that compacted at different times export the same. A chunk:
//!
//! ```text
//! at   0 | crc32c of bytes 4..length: u32
//!      4 | length: u32              of the whole chunk
//!      8 | "SkRw": 4 bytes
//!     12 | version: u16 = 1
//!     14 | keyspace: u8             0 head, 1 past, 2 tx, 3 meta
//!     15 | last: u8                 1 in the last chunk, else 0
//!     16 | export: u64              xxh3-64 of the view's facts in meta; the same in all chunks of an export
//!     24 | number: u64              counts the chunks of an export, from 0
//!     32 | entries: u32
//!     36 | zero: u32
//!     40 | { key length: u16 | value length: u32 | key | value } ...
//! ```

mod export;
mod import;

pub(super) use export::is_left_behind;
pub use export::{Export, ExportChunk};
pub use import::{Import, ImportError, Imported};

use crate::engine::Keyspace;
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The version of chunks that we write, and the newest that we read.
pub const CHUNK_VERSION: u16 = 1;
const MAGIC: [u8; 4] = *b"SkRw";
const HEADER: usize = 40;
const ENTRY_PREFIX: usize = 6;

/// The keyspaces in the order in which they travel.
const STEPS: [Keyspace; 4] = [Keyspace::Head, Keyspace::Past, Keyspace::Tx, Keyspace::Meta];

/// Where an export goes on: after the chunks before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExportPosition {
    /// The number of the next chunk.
    number: u64,
    /// Position in [`STEPS`].
    step: u8,
    /// The last key of that keyspace that was given; empty for none.
    after: Bytes,
}

impl ExportPosition {
    /// The position as bytes, to be sent to whoever has the [`Export`]: `| number: u64 | step: u8 | key |`
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(9 + self.after.len());
        out.put_u64_le(self.number);
        out.put_u8(self.step);
        out.put_slice(&self.after);
        out.freeze()
    }

    /// Reads what [`ExportPosition::encode`] wrote; `None` if it did not write this.
    pub fn decode(encoded: &[u8]) -> Option<ExportPosition> {
        let mut rest = encoded;
        let number = rest.try_get_u64_le().ok()?;
        let step = rest.try_get_u8().ok().filter(|step| usize::from(*step) < STEPS.len())?;
        Some(ExportPosition { number, step, after: Bytes::copy_from_slice(rest) })
    }

    fn keyspace(&self) -> Keyspace {
        STEPS[usize::from(self.step)]
    }
}

/// Writes one chunk.
struct ChunkWriter {
    out: BytesMut,
    entries: u32,
}

impl ChunkWriter {
    fn new(bytes: usize) -> ChunkWriter {
        let mut out = BytesMut::with_capacity(HEADER + bytes);
        out.put_bytes(0, HEADER);
        ChunkWriter { out, entries: 0 }
    }

    fn len(&self) -> usize {
        self.out.len() - HEADER
    }

    fn push(&mut self, key: &[u8], value: &[u8]) {
        // Keys have at most 65,535 bytes in any engine, and values are far below 4 GiB by the limits.
        self.out.put_u16_le(key.len() as u16);
        self.out.put_u32_le(value.len() as u32);
        self.out.put_slice(key);
        self.out.put_slice(value);
        self.entries += 1;
    }

    fn finish(mut self, export: u64, at: &ExportPosition, last: bool) -> Bytes {
        let length = self.out.len() as u32;
        let mut head = &mut self.out[4..HEADER];
        head.put_u32_le(length);
        head.put_slice(&MAGIC);
        head.put_u16_le(CHUNK_VERSION);
        head.put_u8(at.step);
        head.put_u8(u8::from(last));
        head.put_u64_le(export);
        head.put_u64_le(at.number);
        head.put_u32_le(self.entries);
        let checksum = crc32c::crc32c(&self.out[4..]);
        self.out[..4].copy_from_slice(&checksum.to_le_bytes());
        self.out.freeze()
    }
}

/// A chunk taken apart.
struct Chunk {
    step: u8,
    last: bool,
    export: u64,
    number: u64,
    entries: Vec<(Bytes, Bytes)>,
}

/// Takes a chunk apart; every byte has to be accounted for.
fn decode(chunk: &Bytes) -> Result<Chunk, ImportError> {
    let damaged = |detail: String| ImportError::Damaged { detail };
    if chunk.len() < HEADER {
        return Err(damaged(format!("it has {} bytes, and its header alone takes {HEADER}", chunk.len())));
    }
    let mut head = &chunk[..HEADER];
    let checksum = head.get_u32_le();
    let length = head.get_u32_le() as usize;
    if length != chunk.len() {
        return Err(damaged(format!("it should have {length} bytes, and has {}", chunk.len())));
    }
    let found = crc32c::crc32c(&chunk[4..]);
    if checksum != found {
        return Err(damaged(format!("its checksum is {found:08x}, expected {checksum:08x}")));
    }
    if head[..4] != MAGIC {
        return Err(damaged("it does not begin as chunks of rows do".to_owned()));
    }
    head.advance(4);
    let version = head.get_u16_le();
    if CHUNK_VERSION < version {
        return Err(ImportError::NewerFormat { found: version, supported: CHUNK_VERSION });
    }
    let (step, last) = (head.get_u8(), head.get_u8());
    if STEPS.len() <= usize::from(step) || 1 < last {
        return Err(damaged(format!("it names keyspace {step} and has flag {last}")));
    }
    let (export, number, count) = (head.get_u64_le(), head.get_u64_le(), head.get_u32_le());
    let mut rest = chunk.slice(HEADER..);
    // A count is only a claim, so it reserves no more than there are bytes for.
    let mut entries = Vec::with_capacity((count as usize).min(rest.len() / ENTRY_PREFIX));
    while !rest.is_empty() {
        let short = || damaged(format!("its entry {} is cut short", entries.len()));
        let key_bytes = usize::from(rest.try_get_u16_le().map_err(|_| short())?);
        let value_bytes = rest.try_get_u32_le().map_err(|_| short())? as usize;
        if rest.len() < key_bytes.saturating_add(value_bytes) {
            return Err(short());
        }
        entries.push((rest.split_to(key_bytes), rest.split_to(value_bytes)));
    }
    if entries.len() != count as usize {
        return Err(damaged(format!("it should have {count} entries, and has {}", entries.len())));
    }
    Ok(Chunk { step, last: last == 1, export, number, entries })
}
