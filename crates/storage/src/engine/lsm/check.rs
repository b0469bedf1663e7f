//! Checksums that the trees write but do not test themselves, and the file that marks a store as ours.
//!
//! `STORE: | "SkeinSt1": 8 bytes | format: u32 le | crc32c of the 12 bytes before: u32 le |`

use super::version_file;
use crate::engine::{Damage, EngineError, Keyspace, VerifyReport};
use lsm_tree::{AbstractTree, Tree};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use xxhash_rust::xxh3::Xxh3Default;

const MARKER: &str = "STORE";
const MARKER_MAGIC: &[u8; 8] = b"SkeinSt1";
/// Layout of the store's directory: which trees there are, and what format they have.
const FORMAT: u32 = 1;

/// Tests everything that says which tables there are, before the trees trust it. A store that is not there is fine; says whether it
/// is.
pub(super) fn before_open(dir: &Path) -> Result<bool, EngineError> {
    let complete = read_marker(dir)?;
    for keyspace in Keyspace::ALL {
        let path = dir.join(keyspace.name());
        let current = path.join("current");
        // Tables are only ever written after creation was complete.
        let has_tables = !version_file::table_files(&path)?.is_empty();
        if has_tables && !complete {
            return Err(damaged(&dir.join(MARKER), "it is missing, but there are tables"));
        }
        match current.try_exists() {
            Ok(true) => {
                for id in version_file::read_current(&path)?.ids {
                    version_file::check_footer(&path.join("tables").join(id.to_string()))?;
                }
            }
            Ok(false) if complete => return Err(damaged(&current, "it is missing")),
            Ok(false) => {}
            Err(e) => return Err(io_error("look for", &current, e)),
        }
    }
    Ok(complete)
}

/// Marks the store as fully created, durably.
pub(super) fn mark_complete(dir: &Path) -> Result<(), EngineError> {
    let path = dir.join(MARKER);
    if path.try_exists().map_err(|e| io_error("look for", &path, e))? {
        return Ok(());
    }
    let draft = dir.join("STORE.new");
    let write = || -> io::Result<()> {
        let mut file = File::create(&draft)?;
        file.write_all(&marker_bytes())?;
        file.sync_all()?;
        std::fs::rename(&draft, &path)?;
        File::open(dir)?.sync_all()
    };
    write().map_err(|e| io_error("write", &path, e))
}

fn marker_bytes() -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(MARKER_MAGIC);
    bytes[8..12].copy_from_slice(&FORMAT.to_le_bytes());
    let sum = crc32c::crc32c(&bytes[..12]);
    bytes[12..].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// Whether the store is there and complete.
fn read_marker(dir: &Path) -> Result<bool, EngineError> {
    let path = dir.join(MARKER);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(io_error("read", &path, e)),
    };
    let Ok(bytes) = <[u8; 16]>::try_from(&bytes[..]) else {
        return Err(damaged(&path, &format!("it has {} bytes instead of 16", bytes.len())));
    };
    let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    if &bytes[..8] != MARKER_MAGIC || word(12) != crc32c::crc32c(&bytes[..12]) {
        return Err(damaged(&path, "its checksum is wrong"));
    }
    if FORMAT < word(8) {
        return Err(EngineError::NewerFormat {
            what: path.display().to_string(),
            found: word(8),
            supported: FORMAT,
        });
    }
    Ok(true)
}

/// Reads the marker again for [`verify`](crate::engine::Engine::verify).
pub(super) fn verify_marker(dir: &Path, report: &mut VerifyReport) -> Result<(), EngineError> {
    report.files += 1;
    report.bytes += 16;
    match read_marker(dir) {
        Ok(true) => Ok(()),
        Ok(false) => {
            report.damaged.push(Damage {
                what: dir.join(MARKER).display().to_string(),
                detail: "it is missing".to_owned(),
            });
            Ok(())
        }
        Err(e) => note_damage(e, report),
    }
}

/// Reads every table of a tree, and what lists them, and adds what is damaged to the report.
pub(super) fn verify_tree(path: &Path, tree: &Tree, report: &mut VerifyReport) -> Result<(), EngineError> {
    // Holding the version keeps its tables from being deleted; holding the lock keeps the list from being replaced.
    let version = tree.current_version();
    {
        let _steady = tree.get_version_history_lock();
        report.files += 2;
        match version_file::read_current(path) {
            Ok(list) => report.bytes += list.bytes,
            Err(e) => note_damage(e, report)?,
        }
    }
    let mut buffer = vec![0; 256 << 10];
    for table in version.iter_tables() {
        report.files += 1;
        let found = match checksum(&table.path, &mut buffer) {
            Ok((found, bytes)) => {
                report.bytes += bytes;
                found
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let what = table.path.display().to_string();
                report.damaged.push(Damage { what, detail: "it is missing".to_owned() });
                continue;
            }
            Err(e) => return Err(io_error("read", &table.path, e)),
        };
        let expected = table.checksum().into_u128();
        if found != expected {
            let detail = format!("its checksum is {found:032x}, expected {expected:032x}");
            report.damaged.push(Damage { what: table.path.display().to_string(), detail });
        }
    }
    Ok(())
}

fn note_damage(error: EngineError, report: &mut VerifyReport) -> Result<(), EngineError> {
    match error {
        EngineError::Damaged { what, detail } => {
            report.damaged.push(Damage { what, detail });
            Ok(())
        }
        other => Err(other),
    }
}

fn checksum(path: &Path, buffer: &mut [u8]) -> io::Result<(u128, u64)> {
    let mut file = File::open(path)?;
    let mut hasher = Xxh3Default::new();
    let mut bytes = 0;
    loop {
        let n = match file.read(buffer) {
            Ok(0) => return Ok((hasher.digest128(), bytes)),
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        hasher.update(&buffer[..n]);
        bytes += n as u64;
    }
}

/// What an error of a tree means. Files that the tree lists exist and are as long as it thinks, so a missing or short
/// one is damage.
pub(super) fn tree_error(path: &Path, error: lsm_tree::Error) -> EngineError {
    use lsm_tree::Error;
    let detail = match error {
        Error::Io(e) => match e.kind() {
            io::ErrorKind::NotFound => format!("a file is missing ({e})"),
            io::ErrorKind::UnexpectedEof => format!("a file is too short ({e})"),
            _ => return EngineError::io(format!("read or write in {}", path.display()), e),
        },
        Error::ChecksumMismatch { got, expected } => {
            format!("a block has checksum {:032x}, expected {:032x}", got.into_u128(), expected.into_u128())
        }
        Error::InvalidVersion(found) => format!("a table has format {found}, which we never write"),
        Error::Unrecoverable => "a table or part of one is missing".to_owned(),
        other => format!("a block cannot be parsed ({other})"),
    };
    EngineError::Damaged { what: path.display().to_string(), detail }
}

pub(super) fn damaged(path: &Path, detail: &str) -> EngineError {
    EngineError::Damaged { what: path.display().to_string(), detail: detail.to_owned() }
}

pub(super) fn io_error(verb: &str, path: &Path, error: io::Error) -> EngineError {
    EngineError::io(format!("{verb} {}", path.display()), error)
}
