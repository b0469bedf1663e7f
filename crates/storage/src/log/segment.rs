//! Segment files: their names, their header, and making them.
//!
//! ```text
//! | magic "SKEINLOG": 8 bytes | version: u32 | crc32c: u32 | generation: u64 | bytes: u64
//! | salt: u32 | zero: u32 | zeros to 4096 | records |
//! ```
//!
//! The checksum covers the other 36 bytes. `generation` counts every life of every segment file of this
//! log from 1 and is also in the file's name; a recycled file gets a new one. `salt` is the log's own.

use crate::disk::{Disk, DiskFile};
use crate::log::error::LogError;
use crate::log::record::{RECORD_HEADER, seed};

/// Records start here.
pub(super) const SEGMENT_HEADER: u64 = 4096;
/// The version of segments that we write, and the newest that we read.
pub(super) const SEGMENT_VERSION: u32 = 2;
/// Kept free behind the records for the record that ends a segment and the closing mark.
pub(super) const SEGMENT_TRAILER: u64 = 2 * RECORD_HEADER as u64;

const MAGIC: [u8; 8] = *b"SKEINLOG";
const HEADER_BYTES: usize = 40;

/// The file name of a generation.
pub(super) fn segment_name(generation: u64) -> String {
    format!("log-{generation:016}.segment")
}

/// The generation in a file name, if it is one of a segment.
pub(super) fn parse_segment_name(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("log-")?.strip_suffix(".segment")?;
    let generation = digits.parse().ok()?;
    (segment_name(generation) == name).then_some(generation)
}

/// One life of a segment file.
pub(super) struct Segment {
    pub generation: u64,
    pub bytes: u64,
    /// Where the checksums of its records start from.
    pub seed: u32,
    pub file: Box<dyn DiskFile>,
}

impl Segment {
    pub fn name(&self) -> String {
        segment_name(self.generation)
    }

    /// Records other than the last ones end here or earlier.
    pub fn records_end(&self) -> u64 {
        self.bytes - SEGMENT_TRAILER
    }

    /// Makes a file of `bytes` bytes into the segment `generation`, out of `spare` (a file of the same size
    /// that nobody needs) or newly created. Durable when this returns.
    pub fn prepare(
        disk: &dyn Disk,
        salt: u32,
        generation: u64,
        bytes: u64,
        spare: Option<&str>,
    ) -> std::io::Result<Segment> {
        let name = segment_name(generation);
        let file = match spare {
            Some(spare) => {
                disk.rename(spare, &name)?;
                disk.open(&name)?
            }
            None => disk.create(&name, bytes)?,
        };
        file.write_at(&encode_header(salt, generation, bytes), 0)?;
        file.sync_data()?;
        Ok(Segment { generation, bytes, seed: seed(salt, generation), file })
    }

    /// Opens the segment file of `generation` and checks its header and length.
    pub fn open(disk: &dyn Disk, salt: u32, generation: u64) -> Result<Segment, LogError> {
        let name = segment_name(generation);
        let path = disk.describe(&name);
        let file = disk.open(&name).map_err(LogError::io("open", path.clone()))?;
        let mut header = [0; HEADER_BYTES];
        let read = file.read_at(&mut header, 0).map_err(LogError::io("read", path.clone()))?;
        let (found_salt, found, bytes) = decode_header(&header[..read], &path)?;
        if found_salt != salt {
            return Err(LogError::Corrupt {
                file: path,
                offset: 32,
                expected: format!("the salt of this log, {salt:08x}"),
                found: format!("{found_salt:08x}: a file of another log"),
            });
        }
        if found != generation {
            return Err(LogError::Corrupt {
                file: path,
                offset: 16,
                expected: format!("generation {generation}, as in its name"),
                found: format!("generation {found}"),
            });
        }
        let len = file.len().map_err(LogError::io("measure", path.clone()))?;
        if len < bytes || bytes < SEGMENT_HEADER + SEGMENT_TRAILER {
            return Err(LogError::Corrupt {
                file: path,
                offset: len,
                expected: format!("{bytes} bytes, as its header says"),
                found: format!("the end of the file after {len}"),
            });
        }
        Ok(Segment { generation, bytes, seed: seed(salt, generation), file })
    }
}

fn encode_header(salt: u32, generation: u64, bytes: u64) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&SEGMENT_VERSION.to_le_bytes());
    header[16..24].copy_from_slice(&generation.to_le_bytes());
    header[24..32].copy_from_slice(&bytes.to_le_bytes());
    header[32..36].copy_from_slice(&salt.to_le_bytes());
    let checksum = header_checksum(&header);
    header[12..16].copy_from_slice(&checksum.to_le_bytes());
    header
}

/// Over everything but the checksum itself.
fn header_checksum(header: &[u8; HEADER_BYTES]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&header[..12]), &header[16..])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

/// Salt, generation and size from a header, which may have been cut short.
fn decode_header(bytes: &[u8], path: &str) -> Result<(u32, u64, u64), LogError> {
    let corrupt = |offset: u64, expected: &str, found: String| LogError::Corrupt {
        file: path.to_owned(),
        offset,
        expected: expected.to_owned(),
        found,
    };
    let Ok(header) = <&[u8; HEADER_BYTES]>::try_from(bytes) else {
        return Err(corrupt(
            bytes.len() as u64,
            "a segment header of 40 bytes",
            format!("the end of the file after {}", bytes.len()),
        ));
    };
    if header[..8] != MAGIC {
        let found = header[..8].escape_ascii().to_string();
        return Err(corrupt(0, "a segment header that starts with SKEINLOG", found));
    }
    let stored = u32_at(header, 12);
    let computed = header_checksum(header);
    if stored != computed {
        let expected = format!("a segment header with checksum {computed:08x}");
        return Err(corrupt(12, &expected, format!("checksum {stored:08x}")));
    }
    let version = u32_at(header, 8);
    if version > SEGMENT_VERSION {
        let file = path.to_owned();
        return Err(LogError::NewerFormat { file, found: version, supported: SEGMENT_VERSION });
    }
    Ok((u32_at(header, 32), u64_at(header, 16), u64_at(header, 24)))
}

#[cfg(test)]
pub(super) fn header_of_version(version: u32, salt: u32, generation: u64, bytes: u64) -> [u8; HEADER_BYTES] {
    let mut header = encode_header(salt, generation, bytes);
    header[8..12].copy_from_slice(&version.to_le_bytes());
    let checksum = header_checksum(&header);
    header[12..16].copy_from_slice(&checksum.to_le_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_carry_the_generation_and_foreign_names_do_not() {
        assert_eq!(segment_name(42), "log-0000000000000042.segment");
        for generation in [1, 42, u64::MAX] {
            assert_eq!(parse_segment_name(&segment_name(generation)), Some(generation));
        }
        for name in ["log-42.segment", "log-.segment", "log.control", "log-0000000000000042.segment.bak"] {
            assert_eq!(parse_segment_name(name), None, "{name}");
        }
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_noticed() {
        let header = encode_header(3, 7, 1 << 20);
        assert_eq!(decode_header(&header, "f").unwrap(), (3, 7, 1 << 20));
        for bit in 0..HEADER_BYTES * 8 {
            let mut damaged = header;
            damaged[bit / 8] ^= 1 << (bit % 8);
            let error = decode_header(&damaged, "f").unwrap_err();
            assert!(matches!(error, LogError::Corrupt { .. }), "bit {bit}: {error}");
        }
    }

    #[test]
    fn a_newer_version_is_named_beside_ours() {
        let error = decode_header(&header_of_version(9, 3, 7, 1 << 20), "f").unwrap_err();
        assert_eq!(error.to_string(), "f has format version 9, and this program knows versions up to 2");
    }
}
