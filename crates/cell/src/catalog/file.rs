//! The catalog's small files: a first line for people and checks, then the content in binary.
//!
//! ```text
//! skein-catalog 2 CRC32C BYTES\n     CRC32C of the body in hexadecimal, BYTES of the body
//! | body: Saved, in postcard's encoding |
//! ```
//!
//! A file is replaced whole: written beside its place, synced, renamed over it. So it is always the old or the new one.
//! Format 1 is that of a cell of one, [`crate::catalog_of_one`], in the same place: what it says becomes the beginning of the
//! catalog that replaces it.

use super::command::Genesis;
use super::content::Content;
use super::state::Founding;
use crate::catalog_of_one::{self, Facts};
use serde::{Deserialize, Serialize};
use skein_model::{HostId, StoreId};
use skein_storage::disk::Disk;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// The layout that this build writes, and the newest that it reads.
pub const CATALOG_FORMAT: u32 = 2;
/// The longest file that is read. Users' keys, atlas, schema and members at their limits take less than half of it.
pub const FILE_BYTES_MAX: u64 = 64 << 20;

/// The replica's own state, as of one entry of its log.
pub const REPLICA: &str = "catalog";
/// The newest state that was learned, from whomever.
pub const LEARNED: &str = "catalog.learned";
/// A founding that was begun.
pub const INTENT: &str = "catalog.founding";

const MAGIC: &str = "skein-catalog";

/// Why a file of the catalog could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// The system said no. If the file was being written, the old one is still there.
    #[error("{verb} {file}: {source}")]
    Io {
        /// What was being done.
        verb: &'static str,
        /// To which file.
        file: String,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not what was once written.
    #[error("{file} is damaged: {detail}")]
    Damaged {
        /// Which.
        file: String,
        /// What was expected and found.
        detail: String,
    },
    /// The file was written by a newer release.
    #[error("{file} has format {found}; this release reads up to {CATALOG_FORMAT}; start the newer release")]
    Newer {
        /// Which.
        file: String,
        /// Its format.
        found: u32,
    },
}

impl FileError {
    /// Whether freeing space on the drive would help.
    pub fn is_full(&self) -> bool {
        match self {
            FileError::Io { source, .. } => {
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            FileError::Damaged { .. } | FileError::Newer { .. } => false,
        }
    }
}

/// What a file holds, and where in the log of the catalog's group that is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// The group's own record of the place; `None` for a state that was learned.
    pub place: Option<bytes::Bytes>,
    /// Entries of the log that the content includes, from the first.
    pub position: u64,
    /// The content; without keys if it was learned.
    pub content: Content,
}

/// A file of the catalog, by what it is.
#[derive(Debug)]
pub enum Found {
    /// The catalog of a cell of one, of format 1.
    OfOne(Facts),
    /// A replica's state, or one that was learned.
    Saved(Box<Saved>),
}

/// Reads a file of the catalog; `None` if there is none. Blocks.
pub fn read(disk: &dyn Disk, name: &str) -> Result<Option<Found>, FileError> {
    let Some(bytes) = read_bytes(disk, name)? else { return Ok(None) };
    parse(&bytes, &disk.describe(name)).map(Some)
}

/// What a file with these bytes holds; `file` only names it in errors. Total: any bytes give a catalog or an error.
pub fn parse(bytes: &[u8], file: &str) -> Result<Found, FileError> {
    if format(bytes) == Some(1) {
        let dir = Path::new(file).parent().unwrap_or(Path::new(""));
        let facts = catalog_of_one::Catalog::in_dir(dir).parse(bytes).map_err(|error| of_one(error, file))?;
        return Ok(Found::OfOne(facts));
    }
    let body = open(bytes, file)?;
    decode(body, file).map(|saved| Found::Saved(Box::new(saved)))
}

/// Puts `saved` in the place of what the file says, durably. Blocks. On an error the old file stays.
pub fn write(disk: &dyn Disk, name: &str, saved: &Saved) -> Result<(), FileError> {
    write_body(disk, name, &encode(saved))
}

/// Whether this peer ever knew of a catalog. One that holds rows did, so that if this says no, its files are lost. Blocks.
pub fn is_there(disk: &dyn Disk) -> Result<bool, FileError> {
    let list = |source| FileError::Io { verb: "look for", file: disk.describe(REPLICA), source };
    let names = disk.list().map_err(list)?;
    Ok([REPLICA, LEARNED, INTENT].iter().any(|name| names.iter().any(|found| found == name)))
}

/// The founding that was begun here; `None` if none was. Blocks.
pub(crate) fn read_intent(disk: &dyn Disk) -> Result<Option<Genesis>, FileError> {
    let Some(bytes) = read_bytes(disk, INTENT)? else { return Ok(None) };
    decode(open(&bytes, &disk.describe(INTENT))?, &disk.describe(INTENT)).map(Some)
}

/// Notes the founding that is about to begin, durably. Blocks.
pub(crate) fn write_intent(disk: &dyn Disk, genesis: &Genesis) -> Result<(), FileError> {
    write_body(disk, INTENT, &encode(genesis))
}

/// Forgets the founding that was begun. Blocks.
pub(crate) fn remove_intent(disk: &dyn Disk) -> Result<(), FileError> {
    match disk.remove(INTENT) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(FileError::Io { verb: "remove", file: disk.describe(INTENT), source: error })
        }
        _ => Ok(()),
    }
}

/// How the catalog of a cell of one goes on: as the first command of one that is replicated.
pub(crate) fn genesis_of_one(facts: &Facts, founding: Founding, host: HostId, store: StoreId) -> Genesis {
    Genesis {
        founding,
        cohorts: facts.atlas.cohorts.clone(),
        atlas_version: facts.atlas.version,
        schema_version: facts.schema_version,
        schema: facts.schema.text().to_owned(),
        members: BTreeMap::from([(host, store)]),
        opened: true,
    }
}

pub(crate) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    // Fails only for types whose length is not known beforehand, which ours are not.
    postcard::to_stdvec(value).unwrap_or_default()
}

fn decode<T: for<'a> Deserialize<'a>>(body: &[u8], file: &str) -> Result<T, FileError> {
    let damaged = |detail: String| FileError::Damaged { file: file.to_owned(), detail };
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Ok(value),
        Ok((_, rest)) => Err(damaged(format!("{} bytes follow its content", rest.len()))),
        Err(error) => Err(damaged(format!("its content: {error}"))),
    }
}

/// The format that the first line names, if there is such a line.
fn format(bytes: &[u8]) -> Option<u32> {
    let line = bytes.split(|b| *b == b'\n').next()?;
    let mut words = std::str::from_utf8(line).ok()?.split(' ');
    if words.next()? != MAGIC {
        return None;
    }
    words.next()?.parse().ok()
}

/// Checks the first line, and gives what follows it.
fn open<'a>(bytes: &'a [u8], file: &str) -> Result<&'a [u8], FileError> {
    let damaged = |detail: &str| FileError::Damaged { file: file.to_owned(), detail: detail.to_owned() };
    match format(bytes) {
        Some(found) if CATALOG_FORMAT < found => {
            return Err(FileError::Newer { file: file.to_owned(), found });
        }
        Some(CATALOG_FORMAT) => {}
        Some(_) => return Err(damaged("its format is not one that this file can have")),
        None => return Err(damaged("its first line does not name a format of catalogs")),
    }
    let end = bytes.iter().position(|b| *b == b'\n').ok_or_else(|| damaged("it has no first line"))?;
    let (line, body) = (&bytes[..end], &bytes[end + 1..]);
    if line != header(body).as_bytes() {
        return Err(damaged("its length or checksum is not what its first line says"));
    }
    Ok(body)
}

fn header(body: &[u8]) -> String {
    format!("{MAGIC} {CATALOG_FORMAT} {:08x} {}", crc32c::crc32c(body), body.len())
}

fn read_bytes(disk: &dyn Disk, name: &str) -> Result<Option<Vec<u8>>, FileError> {
    let io = |source| FileError::Io { verb: "read", file: disk.describe(name), source };
    let file = match disk.open(name) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(error)),
    };
    let len = file.len().map_err(io)?;
    if FILE_BYTES_MAX < len {
        let detail = format!("it has {len} bytes, and no catalog is that long");
        return Err(FileError::Damaged { file: disk.describe(name), detail });
    }
    let mut bytes = vec![0; len as usize];
    let read = file.read_at(&mut bytes, 0).map_err(io)?;
    bytes.truncate(read);
    Ok(Some(bytes))
}

fn write_body(disk: &dyn Disk, name: &str, body: &[u8]) -> Result<(), FileError> {
    let temporary = format!("{name}.new");
    let bytes = [header(body).as_bytes(), b"\n", body].concat();
    let io = |verb, source| FileError::Io { verb, file: disk.describe(name), source };
    let write = || {
        // One may be left from an attempt that was cut short; nobody reads it.
        match disk.remove(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = disk.create(&temporary, bytes.len() as u64)?;
        file.write_at(&bytes, 0)?;
        file.sync_data()
    };
    if let Err(error) = write() {
        // Best effort: the next attempt removes it first.
        let _ = disk.remove(&temporary);
        return Err(io("write", error));
    }
    disk.rename(&temporary, name).map_err(|error| io("replace", error))
}

fn of_one(error: catalog_of_one::CatalogError, file: &str) -> FileError {
    let file = file.to_owned();
    match error {
        catalog_of_one::CatalogError::Io { verb, source, .. } => FileError::Io { verb, file, source },
        catalog_of_one::CatalogError::Damaged { detail, .. } => FileError::Damaged { file, detail },
        catalog_of_one::CatalogError::Newer { found, .. } => FileError::Newer { file, found },
    }
}

/// A learned state as it is kept on disk: without keys, and at no place of any log.
pub(crate) fn learned(state: &Arc<super::CatalogState>) -> Saved {
    Saved { place: None, position: 0, content: Content::of_state(state.clone()) }
}

#[cfg(test)]
mod tests;
