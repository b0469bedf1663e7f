//! The control file: what has to exist, so that a file that vanished is noticed.
//!
//! Two slots of 4096 bytes, written in turn and in place, so that a full disk cannot stop it and a crash
//! during a write leaves the other slot:
//!
//! ```text
//! | magic "SKEINCTL": 8 | version: u32 | crc32c: u32 | counter: u64 | first: u64 | last: u64
//! | first_sequence: u64 | durable: u64 | closed: u32 | salt: u32 | zeros to 4096 |
//! ```
//!
//! The checksum covers the other 60 bytes. The valid slot with the larger counter counts.

use std::sync::Arc;

use crate::disk::{Disk, DiskFile};
use crate::log::error::LogError;
use crate::log::record::COUNT_MAX;

/// The control file's name.
pub(super) const CONTROL_NAME: &str = "log.control";
/// The version of the control file that we write, and the newest that we read.
pub(super) const CONTROL_VERSION: u32 = 1;
const SLOT_BYTES: u64 = 4096;
const USED_BYTES: usize = 64;
const MAGIC: [u8; 8] = *b"SKEINCTL";

/// What the control file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) struct Control {
    /// The oldest generation that is still needed.
    pub first: u64,
    /// The newest generation that was handed over to be written to; all from `first` to here must exist.
    pub last: u64,
    /// The sequence of the first record in the segment `first`.
    pub first_sequence: u64,
    /// Records up to and including this sequence were durable.
    pub durable: u64,
    /// Whether the log was closed in good order, so that nothing follows `durable`.
    pub closed: bool,
    /// Drawn at random when the log was begun; see [`super::record::seed`].
    pub salt: u32,
}

/// The open control file.
pub(super) struct ControlFile {
    file: Box<dyn DiskFile>,
    path: String,
    counter: u64,
}

/// What was found when the control file was read.
pub(super) enum Found {
    /// There is none, or only zeros: no log was ever begun here.
    Nothing,
    Control {
        control: Control,
        counter: u64,
        /// The other slot is damaged, here; this one may be one update old.
        other_damaged: Option<LogError>,
    },
}

fn encode(control: &Control, counter: u64, version: u32) -> [u8; USED_BYTES] {
    let mut slot = [0; USED_BYTES];
    slot[..8].copy_from_slice(&MAGIC);
    slot[8..12].copy_from_slice(&version.to_le_bytes());
    let numbers = [
        counter,
        control.first,
        control.last,
        control.first_sequence,
        control.durable,
        u64::from(control.closed) | u64::from(control.salt) << 32,
    ];
    for (at, number) in (16..).step_by(8).zip(numbers) {
        slot[at..at + 8].copy_from_slice(&number.to_le_bytes());
    }
    let checksum = checksum(&slot);
    slot[12..16].copy_from_slice(&checksum.to_le_bytes());
    slot
}

fn checksum(slot: &[u8; USED_BYTES]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&slot[..12]), &slot[16..])
}

/// `Ok(None)` for a slot that was never written.
fn decode(slot: &[u8; USED_BYTES], offset: u64, path: &str) -> Result<Option<(u64, Control)>, LogError> {
    if slot.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    let corrupt = |expected: String, found: String| LogError::Corrupt {
        file: path.to_owned(),
        offset,
        expected,
        found,
    };
    let number = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&slot[at..at + 8]);
        u64::from_le_bytes(bytes)
    };
    if slot[..8] != MAGIC {
        return Err(corrupt("SKEINCTL".to_owned(), slot[..8].escape_ascii().to_string()));
    }
    let (version, stored) = (number(8) as u32, (number(8) >> 32) as u32);
    let computed = checksum(slot);
    if stored != computed {
        return Err(corrupt(
            format!("a slot with checksum {computed:08x}"),
            format!("checksum {stored:08x}"),
        ));
    }
    if version > CONTROL_VERSION {
        let file = path.to_owned();
        return Err(LogError::NewerFormat { file, found: version, supported: CONTROL_VERSION });
    }
    let control = Control {
        first: number(24),
        last: number(32),
        first_sequence: number(40),
        durable: number(48),
        closed: number(56) as u32 != 0,
        salt: (number(56) >> 32) as u32,
    };
    let counter = number(16);
    let largest = counter.max(control.last).max(control.first_sequence).max(control.durable);
    let counts = 1 <= control.first && control.first <= control.last.saturating_add(1);
    if COUNT_MAX < largest || !counts || control.first_sequence == 0 {
        return Err(corrupt("the numbers of a log".to_owned(), format!("update {counter}: {control:?}")));
    }
    Ok(Some((counter, control)))
}

/// Reads the control file of a log, if there is one.
pub(super) fn read(disk: &dyn Disk) -> Result<Found, LogError> {
    let path = disk.describe(CONTROL_NAME);
    let names = disk.list().map_err(LogError::io("list the directory of", path.clone()))?;
    if !names.iter().any(|name| name == CONTROL_NAME) {
        return Ok(Found::Nothing);
    }
    let file = disk.open(CONTROL_NAME).map_err(LogError::io("open", path.clone()))?;
    let mut best: Option<(u64, Control)> = None;
    let mut damaged = None;
    for offset in [0, SLOT_BYTES] {
        let mut slot = [0; USED_BYTES];
        let read = file.read_at(&mut slot, offset).map_err(LogError::io("read", path.clone()))?;
        let decoded = if read < USED_BYTES {
            Err(LogError::Corrupt {
                file: path.clone(),
                offset: offset + read as u64,
                expected: "two slots of 4096 bytes".to_owned(),
                found: "the end of the file".to_owned(),
            })
        } else {
            decode(&slot, offset, &path)
        };
        match decoded {
            Ok(None) => {}
            Ok(Some(found)) if best.is_none_or(|(counter, _)| counter < found.0) => best = Some(found),
            Ok(Some(_)) => {}
            // Not damage: whatever the other slot says is older than this.
            Err(error @ LogError::NewerFormat { .. }) => return Err(error),
            Err(error) => damaged = Some(error),
        }
    }
    match (best, damaged) {
        (Some((counter, control)), other_damaged) => Ok(Found::Control { control, counter, other_damaged }),
        (None, Some(error)) => Err(error),
        (None, None) => Ok(Found::Nothing),
    }
}

impl ControlFile {
    /// Makes an empty control file, or takes the one that only holds zeros.
    pub fn create(disk: &dyn Disk) -> Result<ControlFile, LogError> {
        let path = disk.describe(CONTROL_NAME);
        let names = disk.list().map_err(LogError::io("list the directory of", path.clone()))?;
        let file = if names.iter().any(|name| name == CONTROL_NAME) {
            disk.open(CONTROL_NAME)
        } else {
            disk.create(CONTROL_NAME, 2 * SLOT_BYTES)
        };
        Ok(ControlFile { file: file.map_err(LogError::io("create", path.clone()))?, path, counter: 0 })
    }

    /// Opens the control file whose newest slot has `counter`.
    pub fn open(disk: &dyn Disk, counter: u64) -> Result<ControlFile, LogError> {
        let path = disk.describe(CONTROL_NAME);
        let file = disk.open(CONTROL_NAME).map_err(LogError::io("open", path.clone()))?;
        Ok(ControlFile { file, path, counter })
    }

    /// Writes the older slot and syncs it.
    ///
    /// After an error ([`LogError::Failed`]) either slot may be the one that counts, so nothing may be done
    /// that fits only one of them.
    pub fn write(&mut self, control: &Control) -> Result<(), LogError> {
        let counter = self.counter + 1;
        let slot = encode(control, counter, CONTROL_VERSION);
        let offset = counter % 2 * SLOT_BYTES;
        let written = self.file.write_at(&slot, offset).and_then(|()| self.file.sync_data());
        written.map_err(|error| LogError::Failed {
            doing: "write",
            file: self.path.clone(),
            source: Arc::new(error),
        })?;
        self.counter = counter;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemDisk;

    fn found(disk: &MemDisk) -> (Control, bool) {
        match read(disk).unwrap() {
            Found::Control { control, other_damaged, .. } => (control, other_damaged.is_some()),
            Found::Nothing => panic!("nothing found"),
        }
    }

    fn control(last: u64) -> Control {
        Control { first: 1, last, first_sequence: 1, durable: 10 * last, closed: false, salt: 77 }
    }

    #[test]
    fn the_newest_slot_counts_and_a_damaged_one_gives_way_to_the_other() {
        let disk = MemDisk::new();
        assert!(matches!(read(&disk).unwrap(), Found::Nothing));
        let mut file = ControlFile::create(&disk).unwrap();
        assert!(matches!(read(&disk).unwrap(), Found::Nothing));
        for last in 1..=5 {
            file.write(&control(last)).unwrap();
            assert_eq!(found(&disk), (control(last), false));
        }
        // The fifth update is in the second slot.
        disk.flip_bit(CONTROL_NAME, (SLOT_BYTES + 30) * 8).unwrap();
        assert_eq!(found(&disk), (control(4), true));
        disk.flip_bit(CONTROL_NAME, 30 * 8).unwrap();
        let error = read(&disk).err().unwrap().to_string();
        assert!(error.starts_with("memory/log.control is damaged at byte"), "{error}");
    }

    #[test]
    fn numbers_that_no_log_has_are_refused_under_a_right_checksum() {
        let good = control(3);
        assert_eq!(decode(&encode(&good, 1, 1), 0, "f").unwrap(), Some((1, good)));
        for bad in [
            Control { last: u64::MAX, ..good },
            Control { first: u64::MAX, last: u64::MAX, ..good },
            Control { first: 0, ..good },
            Control { first: 5, ..good },
            Control { first_sequence: 0, ..good },
            Control { first_sequence: u64::MAX, ..good },
            Control { durable: u64::MAX, ..good },
        ] {
            let error = decode(&encode(&bad, 1, 1), 0, "f").unwrap_err();
            assert!(matches!(error, LogError::Corrupt { .. }), "{bad:?}: {error}");
        }
        assert!(decode(&encode(&good, u64::MAX, 1), 0, "f").is_err());
    }

    #[test]
    fn a_newer_control_file_is_refused_with_both_versions_named() {
        let disk = MemDisk::new();
        let mut file = ControlFile::create(&disk).unwrap();
        file.write(&control(1)).unwrap();
        disk.open(CONTROL_NAME).unwrap().write_at(&encode(&control(2), 2, 3), 0).unwrap();
        let error = read(&disk).err().unwrap().to_string();
        assert_eq!(error, "memory/log.control has format version 3, and this program knows versions up to 1");
    }
}
