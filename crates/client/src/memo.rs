//! The topology on disk between two runs: one line with a checksum, and JSON.
//!
//! `skein-client 1 <crc32c of the rest, 8 hexadecimal digits>\n{…}`. It is written beside and renamed, so a reader finds the old
//! one or the new one. Whatever is wrong with it, the client goes on without it.

use crate::topology::Topology;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

const MAGIC: &str = "skein-client 1 ";
/// Longest memo that is read: more than any cell needs.
const BYTES_MAX: u64 = 8 << 20;

/// Why there is nothing to be had from a memo.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MemoError {
    #[error("read it")]
    Read(#[from] io::Error),
    #[error("it has {0} bytes, more than a memo ever has")]
    TooLong(u64),
    #[error("it is damaged: {0}")]
    Damaged(String),
}

/// Reads a memo; `None` if there is none.
pub(crate) async fn load(path: &Path) -> Result<Option<Topology>, MemoError> {
    let path = path.to_owned();
    apart(move || {
        let bytes = match std::fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
            Ok(found) if BYTES_MAX < found.len() => return Err(MemoError::TooLong(found.len())),
            Ok(_) => std::fs::read(&path)?,
        };
        decode(&bytes).map(Some)
    })
    .await?
}

/// Does what may wait for a disk on a thread of its own. It goes on though the future is dropped, so nothing is left half done.
async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)
}

fn decode(bytes: &[u8]) -> Result<Topology, MemoError> {
    let damaged = |why: &str| MemoError::Damaged(why.to_owned());
    let rest = bytes.strip_prefix(MAGIC.as_bytes()).ok_or_else(|| damaged("its first line is another"))?;
    let (sum, json) = rest.split_at_checked(8).ok_or_else(|| damaged("it is cut off"))?;
    let json = json.strip_prefix(b"\n").ok_or_else(|| damaged("its first line is another"))?;
    if sum != format!("{:08x}", crc32c::crc32c(json)).as_bytes() {
        return Err(damaged("its checksum is another"));
    }
    let topology: Topology = serde_json::from_slice(json).map_err(|why| damaged(&why.to_string()))?;
    topology.check().map_err(|why| damaged(&why.to_string()))
}

fn encode(topology: &Topology) -> io::Result<Vec<u8>> {
    let json = serde_json::to_vec(topology)?;
    let mut out = format!("{MAGIC}{:08x}\n", crc32c::crc32c(&json)).into_bytes();
    out.extend_from_slice(&json);
    Ok(out)
}

/// Puts the topology in the place of what the memo said.
pub(crate) async fn save(path: &Path, topology: &Topology) -> io::Result<()> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let bytes = encode(topology)?;
    let path = path.to_owned();
    // Several clients, also of one process, may share a memo.
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let beside = path.with_file_name(format!(".{name}.{}-{number}", std::process::id()));
    apart(move || {
        let placed = std::fs::write(&beside, bytes).and_then(|()| std::fs::rename(&beside, &path));
        if placed.is_err() {
            // The first error is the one to tell.
            let _ = std::fs::remove_file(&beside);
        }
        placed
    })
    .await?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::Cohort;
    use skein_model::{CellId, HostId};

    fn topology() -> Topology {
        Topology {
            cell: CellId(u64::MAX),
            atlas_version: 7,
            cohorts: vec![Cohort { leader: Some(HostId(1)), hosts: vec![HostId(1)] }],
            peers: [(HostId(1), "a:1".to_owned())].into(),
        }
    }

    #[test]
    fn a_memo_reads_back_as_written() {
        assert_eq!(decode(&encode(&topology()).unwrap()).unwrap(), topology());
    }

    #[test]
    fn any_flipped_bit_and_any_cut_is_noticed() {
        let good = encode(&topology()).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(decode(&bad).is_err(), "bit {at}");
            assert!(decode(&good[..at]).is_err(), "cut at {at}");
        }
    }

    #[tokio::test]
    async fn a_memo_is_replaced_and_nothing_is_left_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("memo");
        assert!(load(&path).await.unwrap().is_none());
        save(&path, &topology()).await.unwrap();
        let later = Topology { atlas_version: 8, ..topology() };
        save(&path, &later).await.unwrap();
        assert_eq!(load(&path).await.unwrap(), Some(later));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        std::fs::write(&path, b"nonsense").unwrap();
        assert!(load(&path).await.is_err());
    }
}
