//! Small files that are replaced whole: after a crash there is the old one or the new one.
//!
//! ```text
//! NAME FORMAT CRC32C BYTES\n      FORMAT decimal, CRC32C of the body in hexadecimal, BYTES of the body
//! body
//! ```

use skein_storage::disk::Disk;
use std::io;

/// Far longer than any first line.
const HEADER_BYTES_MAX: usize = 128;

/// Why a small file could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SmallFileError {
    /// The system failed.
    #[error("{verb} {path}: {source}")]
    Io {
        /// What was being done.
        verb: &'static str,
        /// To what.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// It is not what was once written.
    #[error("{path} is damaged: {detail}")]
    Damaged {
        /// Which file.
        path: String,
        /// What was expected and found.
        detail: String,
    },
    /// A later release wrote it.
    #[error("{path} has format {found}; this release reads up to {known}; start the newer release")]
    Newer {
        /// Which file.
        path: String,
        /// Its format.
        found: u32,
        /// The newest that can be read.
        known: u32,
    },
}

impl SmallFileError {
    /// Whether freeing room on the drive would help.
    pub(crate) fn is_full(&self) -> bool {
        match self {
            SmallFileError::Io { source, .. } => {
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            SmallFileError::Damaged { .. } | SmallFileError::Newer { .. } => false,
        }
    }
}

/// Puts a file in place of the one of that name, durably. Blocks. After an error the old one is still there, but for a failure
/// to make the new name durable: then it is either.
pub(crate) fn replace(disk: &dyn Disk, name: &str, format: u32, body: &[u8]) -> Result<(), SmallFileError> {
    let header = format!("{name} {format} {:08x} {}\n", crc32c::crc32c(body), body.len());
    let bytes = [header.as_bytes(), body].concat();
    let temporary = format!("{name}.new");
    let failed = |verb| {
        let path = disk.describe(name);
        move |source| SmallFileError::Io { verb, path, source }
    };
    match disk.remove(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("clear")(error)),
        _ => {}
    }
    let write = || {
        let file = disk.create(&temporary, bytes.len() as u64)?;
        file.write_at(&bytes, 0)?;
        file.sync_data()
    };
    if let Err(error) = write() {
        // Best effort: a leftover is removed by the next attempt and never read.
        let _ = disk.remove(&temporary);
        return Err(failed("write")(error));
    }
    disk.rename(&temporary, name).map_err(failed("replace"))
}

/// The format and body of a file, of a format up to `known`; `None` if there is none. Blocks.
pub(crate) fn read(
    disk: &dyn Disk,
    name: &str,
    known: u32,
    bytes_max: u64,
) -> Result<Option<(u32, Vec<u8>)>, SmallFileError> {
    let failed = |verb| {
        let path = disk.describe(name);
        move |source| SmallFileError::Io { verb, path, source }
    };
    let file = match disk.open(name) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("open")(error)),
    };
    let damaged = |detail: String| SmallFileError::Damaged { path: disk.describe(name), detail };
    let len = file.len().map_err(failed("read"))?;
    if bytes_max + (HEADER_BYTES_MAX as u64) < len {
        return Err(damaged(format!("it has {len} bytes, far more than fit")));
    }
    let mut bytes = vec![0; usize::try_from(len).map_err(|e| damaged(e.to_string()))?];
    let read = file.read_at(&mut bytes, 0).map_err(failed("read"))?;
    bytes.truncate(read);
    let end = bytes.iter().take(HEADER_BYTES_MAX).position(|b| *b == b'\n');
    let end = end.ok_or_else(|| damaged("it has no first line".into()))?;
    let header = std::str::from_utf8(&bytes[..end]).map_err(|e| damaged(format!("first line: {e}")))?;
    let mut words = header.split(' ');
    if words.next() != Some(name) {
        return Err(damaged(format!("its first line does not begin with {name}")));
    }
    let format = words.next().and_then(|word| word.parse::<u32>().ok());
    let format = format.ok_or_else(|| damaged("its first line names no format".into()))?;
    if known < format {
        return Err(SmallFileError::Newer { path: disk.describe(name), found: format, known });
    }
    let expected = words.next().and_then(|word| u32::from_str_radix(word, 16).ok());
    let length = words.next().and_then(|word| word.parse::<usize>().ok());
    let body = bytes.split_off(end + 1);
    if length != Some(body.len()) {
        return Err(damaged(format!("it has {} bytes after its first line, not {length:?}", body.len())));
    }
    let found = crc32c::crc32c(&body);
    if expected != Some(found) {
        return Err(damaged(format!("its checksum is {found:08x}, expected {expected:08x?}")));
    }
    Ok(Some((format, body)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use skein_storage::disk::MemDisk;

    #[test]
    fn a_file_is_the_last_one_put_there() {
        let disk = MemDisk::new();
        assert!(read(&disk, "flock", 1, 100).unwrap().is_none());
        for body in ["one", "", "three"] {
            replace(&disk, "flock", 1, body.as_bytes()).unwrap();
            assert_eq!(read(&disk, "flock", 1, 100).unwrap(), Some((1, body.as_bytes().to_vec())));
        }
    }

    #[test]
    fn a_newer_format_and_another_file_are_refused() {
        let disk = MemDisk::new();
        replace(&disk, "flock", 3, b"x").unwrap();
        assert!(matches!(read(&disk, "flock", 2, 100), Err(SmallFileError::Newer { found: 3, .. })));
        disk.rename("flock", "other").unwrap();
        assert!(matches!(read(&disk, "other", 3, 100), Err(SmallFileError::Damaged { .. })));
    }

    #[test]
    fn every_flipped_byte_and_every_cut_is_noticed() {
        let disk = MemDisk::new();
        replace(&disk, "flock", 1, b"some words").unwrap();
        let file = disk.open("flock").unwrap();
        let mut good = vec![0; file.len().unwrap() as usize];
        file.read_at(&mut good, 0).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x11;
            file.write_at(&bad, 0).unwrap();
            assert!(read(&disk, "flock", 1, 100).is_err(), "flip at {at}");
        }
        file.write_at(&good, 0).unwrap();
        assert!(read(&disk, "flock", 1, 100).unwrap().is_some());
    }
}
