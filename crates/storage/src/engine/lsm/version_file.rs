//! The files by which a tree says which tables it has, read and tested here because the tree does not test them.
//!
//! `current: | id: u64 le | xxh3-128 of v<id>: u128 le | 0: u8 |`
//!
//! Version files and tables are archives: sections, then a table of contents, then a trailer that locates it:
//!
//! ```text
//! contents: | "TOC!" | sections: u32 le | then of each: position u64 le | length u64 le | name length u16 le | name |
//! trailer:  | "SFA!" | 1: u8 | 0: u8 | xxh3-128 of contents: u128 le | position: u64 le | length: u64 le |
//! ```

use super::check::{damaged, io_error};
use crate::engine::EngineError;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

const TRAILER_BYTES: usize = 38;
const CONTENTS_BYTES_MAX: u64 = 1 << 20;

/// Which tables a tree has.
pub(super) struct TableList {
    /// Their IDs, which are the names of their files.
    pub(super) ids: Vec<u64>,
    /// Bytes of the two files that said so.
    pub(super) bytes: u64,
}

/// Tests `current` and the version file it names, and reads them.
pub(super) fn read_current(tree: &Path) -> Result<TableList, EngineError> {
    let current = tree.join("current");
    let bytes = std::fs::read(&current).map_err(|e| io_error("read", &current, e))?;
    let mut reader = Fields(&bytes);
    let (Some(id), Some(expected), Some(0), true) =
        (reader.u64(), reader.u128(), reader.u8(), reader.0.is_empty())
    else {
        return Err(damaged(&current, "it is not 25 bytes that end in zero"));
    };
    let version = tree.join(format!("v{id}"));
    let content = match std::fs::read(&version) {
        Ok(content) => content,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(damaged(&current, &format!("it names {}, which does not exist", version.display())));
        }
        Err(e) => return Err(io_error("read", &version, e)),
    };
    let found = xxhash_rust::xxh3::xxh3_128(&content);
    if found != expected {
        let detail =
            format!("its checksum is {found:032x}, and {} expects {expected:032x}", current.display());
        return Err(damaged(&version, &detail));
    }
    let ids =
        listed_tables(&content).ok_or_else(|| damaged(&version, "its list of tables cannot be parsed"))?;
    Ok(TableList { ids, bytes: (bytes.len() + content.len()) as u64 })
}

/// The table IDs in a version file.
fn listed_tables(file: &[u8]) -> Option<Vec<u64>> {
    let (trailer_at, trailer) =
        (file.len().checked_sub(TRAILER_BYTES)?, file.get(file.len() - TRAILER_BYTES..)?);
    let (contents_at, _) = parse_trailer(trailer, trailer_at as u64).ok()?;
    let mut contents = Fields(file.get(usize::try_from(contents_at).ok()?..trailer_at)?);
    contents.take(4)?;
    let mut section = None;
    for _ in 0..contents.u32()? {
        let (at, length, name_bytes) = (contents.u64()?, contents.u64()?, contents.u16()?);
        if contents.take(usize::from(name_bytes))? == b"tables" {
            let at = usize::try_from(at).ok()?;
            section = file.get(at..at.checked_add(usize::try_from(length).ok()?)?);
        }
    }
    let mut section = Fields(section?);
    let mut ids = Vec::new();
    for _ in 0..section.u8()? {
        for _ in 0..section.u8()? {
            for _ in 0..section.u32()? {
                ids.push(section.u64()?);
                // Kind of checksum, checksum, base of sequence numbers.
                section.take(1 + 16 + 8)?;
            }
        }
    }
    Some(ids)
}

/// Tests that a table is whole enough to be opened: its trailer and table of contents.
pub(super) fn check_footer(table: &Path) -> Result<(), EngineError> {
    let read = || -> io::Result<Result<(), &'static str>> {
        let mut file = File::open(table)?;
        let length = file.metadata()?.len();
        let Some(trailer_at) = length.checked_sub(TRAILER_BYTES as u64) else {
            return Ok(Err("it is too short for a table"));
        };
        let mut trailer = [0; TRAILER_BYTES];
        file.seek(SeekFrom::Start(trailer_at))?;
        file.read_exact(&mut trailer)?;
        let (at, sum) = match parse_trailer(&trailer, trailer_at) {
            Ok(parsed) => parsed,
            Err(why) => return Ok(Err(why)),
        };
        let mut contents = vec![0; (trailer_at - at) as usize];
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(&mut contents)?;
        if xxhash_rust::xxh3::xxh3_128(&contents) != sum {
            return Ok(Err("the checksum of its table of contents is wrong"));
        }
        Ok(Ok(()))
    };
    match read() {
        Ok(Ok(())) => Ok(()),
        Ok(Err(why)) => Err(damaged(table, why)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Err(damaged(table, "it is missing")),
        Err(e) => Err(io_error("read", table, e)),
    }
}

/// Position and checksum of the table of contents, from the trailer that stands at `trailer_at`.
fn parse_trailer(trailer: &[u8], trailer_at: u64) -> Result<(u64, u128), &'static str> {
    const NOT_ONE: &str = "its trailer is not one";
    let mut fields = Fields(trailer);
    if fields.take(6) != Some(b"SFA!\x01\x00") {
        return Err(NOT_ONE);
    }
    let (Some(sum), Some(at), Some(bytes)) = (fields.u128(), fields.u64(), fields.u64()) else {
        return Err(NOT_ONE);
    };
    if at.checked_add(bytes) != Some(trailer_at) || CONTENTS_BYTES_MAX < bytes {
        return Err("its trailer points outside of it");
    }
    Ok((at, sum))
}

/// The files in a tree's folder of tables, listed or not.
pub(super) fn table_files(tree: &Path) -> Result<Vec<PathBuf>, EngineError> {
    let folder = tree.join("tables");
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(io_error("list", &folder, e)),
    };
    entries.map(|entry| entry.map(|entry| entry.path()).map_err(|e| io_error("list", &folder, e))).collect()
}

/// Little-endian fields taken from the front of a slice; `None` past its end.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn u128(&mut self) -> Option<u128> {
        self.array().map(u128::from_le_bytes)
    }
}
