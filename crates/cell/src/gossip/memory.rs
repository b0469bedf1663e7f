//! What the flock's driver remembers across restarts, in one small file.

use crate::small_file::{self, SmallFileError};
use crate::wire;
use serde::{Deserialize, Serialize};
use skein_model::HostId;
use skein_storage::disk::Disk;
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

#[cfg(test)]
mod tests {
    use super::*;
    use skein_storage::disk::MemDisk;

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
