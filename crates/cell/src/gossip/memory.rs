//! What the flock's driver remembers across restarts, in one small file.

use crate::small_file::{self, SmallFileError};
use crate::wire;
use serde::{Deserialize, Serialize};
use skein_model::HostId;
use skein_storage::disk::{Disk, MemDisk};
use std::net::SocketAddr;

const NAME: &str = "flock";
const FORMAT: u32 = 1;
const BYTES_MAX: u64 = 1 << 20;
/// Peers whose addresses are kept by name; whoever is left out is found through the others.
pub(super) const BOOK_MAX: usize = 4096;

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Memory {
    /// Of the last run; the next one has to have a greater one.
    pub(super) incarnation: u64,
    /// Whether an operator asked this peer to lead nothing.
    pub(super) draining: bool,
    /// Where peers were, neighbours first.
    pub(super) addrs: Vec<SocketAddr>,
    /// Who was where, and where it served HTTP.
    pub(super) book: Vec<(HostId, SocketAddr, Option<String>)>,
}

impl Memory {
    /// What was remembered; nothing at the first start. A file that is damaged counts as lost, loudly: all of it can be
    /// learnt again.
    pub(super) fn load(disk: &dyn Disk) -> Result<Memory, SmallFileError> {
        let body = match small_file::read(disk, NAME, FORMAT, BYTES_MAX) {
            Ok(Some((_, body))) => body,
            Ok(None) => return Ok(Memory::default()),
            Err(error @ SmallFileError::Damaged { .. }) => {
                tracing::warn!(%error, "forgot where the other peers are; --hail finds them again");
                return Ok(Memory::default());
            }
            Err(error) => return Err(error),
        };
        Ok(wire::decode("memory of the flock", &body).unwrap_or_else(|error| {
            tracing::warn!(%error, "forgot where the other peers are; --hail finds them again");
            Memory::default()
        }))
    }

    /// Writes it down, durably. Blocks.
    pub(super) fn store(&self, disk: &dyn Disk) -> Result<(), SmallFileError> {
        let body = wire::encode(self).map_err(|error| SmallFileError::Damaged {
            path: disk.describe(NAME),
            detail: error.to_string(),
        })?;
        small_file::replace(disk, NAME, FORMAT, &body)
    }
}

/// Checks any bytes as the file, and as what follows a first line that is right: unless a newer release wrote it, a peer starts with
/// it.
pub(crate) fn fuzz(bytes: &[u8]) {
    let as_it_is = MemDisk::new();
    let written = as_it_is.create(NAME, bytes.len() as u64).and_then(|file| file.write_at(bytes, 0));
    assert!(written.is_ok());
    match Memory::load(&as_it_is) {
        Ok(_) | Err(SmallFileError::Newer { .. }) => {}
        Err(error) => panic!("a peer does not start: {error}"),
    }
    let behind_a_line = MemDisk::new();
    assert!(small_file::replace(&behind_a_line, NAME, FORMAT, bytes).is_ok());
    match Memory::load(&behind_a_line) {
        Ok(memory) => {
            assert!(memory.store(&behind_a_line).is_ok());
            assert!(Memory::load(&behind_a_line).is_ok_and(|again| again == memory));
        }
        Err(error) => panic!("a peer does not start: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_remembered_comes_back_and_what_is_damaged_counts_as_forgotten() {
        let disk = MemDisk::new();
        assert_eq!(Memory::load(&disk).unwrap(), Memory::default());
        let addr: SocketAddr = "10.0.0.7:6278".parse().unwrap();
        let memory = Memory {
            incarnation: 9,
            draining: true,
            addrs: vec![addr],
            book: vec![(HostId(7), addr, Some("seven:7070".into()))],
        };
        memory.store(&disk).unwrap();
        assert_eq!(Memory::load(&disk.crash_losing_all()).unwrap(), memory);
        disk.flip_bit(NAME, 8 * 30).unwrap();
        assert_eq!(Memory::load(&disk).unwrap(), Memory::default());
    }
}
