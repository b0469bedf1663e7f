//! The seam between the log and stable storage: one directory of files that can be preallocated, written
//! at an offset and synced.
//!
//! [`RealDisk`] is a directory of the machine. [`MemDisk`] lives in memory and can misbehave on request:
//! it forgets what was not synced, fails or delays a sync, flips a bit, cuts a file and runs out of space.

mod mem;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

pub use mem::MemDisk;

/// One directory. Names are plain file names in it, without a path.
pub trait Disk: Send + Sync + 'static {
    /// Opens an existing file for reading and writing.
    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;
    /// Makes a new file of `bytes` bytes, all of them allocated and reading as zero. The file and its name
    /// are durable when this returns; when it fails, no file is left. An existing file is an error.
    fn create(&self, name: &str, bytes: u64) -> io::Result<Box<dyn DiskFile>>;
    /// Removes a file, durably. Handles already open stay usable.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Gives a file a new name, durably, replacing a file that had it. Handles already open stay usable.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// The names of all files in the directory, in no particular order.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Bytes an unprivileged process could still allocate here.
    fn free_bytes(&self) -> io::Result<u64>;
    /// How to name the file in a message to a human: its path.
    fn describe(&self, name: &str) -> String;
}

/// One open file. Writes may be reordered and lost until a later [`DiskFile::sync_data`] has returned.
pub trait DiskFile: Send + Sync {
    /// The file's length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Fills `buf` from byte `at` on; returns how many bytes there were, fewer only at the end of the file.
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize>;
    /// Writes all of `buf` at byte `at`.
    fn write_at(&self, buf: &[u8], at: u64) -> io::Result<()>;
    /// Returns once every earlier write to this file is on stable storage. After a failure nobody knows
    /// which of them are, and asking again does not tell.
    fn sync_data(&self) -> io::Result<()>;
}

/// A directory of this machine.
#[derive(Debug)]
pub struct RealDisk {
    dir: PathBuf,
    /// Open for as long as the disk, so that syncing the directory costs no look-up.
    handle: File,
}

impl RealDisk {
    /// Opens the directory, making it (and its parents) first when it is not there.
    pub fn open(dir: &Path) -> io::Result<RealDisk> {
        if !dir.is_dir() {
            std::fs::create_dir_all(dir)?;
            if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                File::open(parent)?.sync_all()?;
            }
        }
        Ok(RealDisk { dir: dir.to_path_buf(), handle: File::open(dir)? })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn allocate(&self, file: &File, bytes: u64) -> io::Result<()> {
        let flags = rustix::fs::FallocateFlags::empty();
        match rustix::fs::fallocate(file, flags, 0, bytes) {
            Ok(()) => {}
            // A filesystem without preallocation: writing the zeros claims the space just as well.
            Err(rustix::io::Errno::OPNOTSUPP) => {
                let zeros = vec![0; 1 << 20];
                let mut at = 0;
                while at < bytes {
                    let step = (bytes - at).min(zeros.len() as u64);
                    file.write_all_at(&zeros[..step as usize], at)?;
                    at += step;
                }
            }
            Err(errno) => return Err(errno.into()),
        }
        file.sync_all()?;
        self.handle.sync_all()
    }
}

impl Disk for RealDisk {
    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(RealFile(OpenOptions::new().read(true).write(true).open(self.path(name))?)))
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<Box<dyn DiskFile>> {
        let path = self.path(name);
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        if let Err(error) = self.allocate(&file, bytes) {
            // Best effort: the allocation's own error is the one worth reporting.
            let _ = std::fs::remove_file(&path);
            return Err(error);
        }
        Ok(Box::new(RealFile(file)))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.path(name))?;
        self.handle.sync_all()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.path(from), self.path(to))?;
        self.handle.sync_all()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            let entry = entry?;
            // Names that are not UTF-8 are not ours.
            if entry.file_type()?.is_file()
                && let Ok(name) = entry.file_name().into_string()
            {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::fstatvfs(&self.handle)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn describe(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }
}

struct RealFile(File);

impl DiskFile for RealFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buf.len() {
            match self.0.read_at(&mut buf[filled..], at + filled as u64) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn write_at(&self, buf: &[u8], at: u64) -> io::Result<()> {
        self.0.write_all_at(buf, at)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_real_directory_creates_writes_renames_lists_and_removes() {
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::open(&dir.path().join("made/on/demand")).unwrap();
        let file = disk.create("a", 10_000).unwrap();
        assert_eq!(file.len().unwrap(), 10_000);
        assert!(disk.create("a", 1).is_err(), "an existing file is not replaced");
        file.write_at(b"hello", 9_990).unwrap();
        file.sync_data().unwrap();
        disk.rename("a", "b").unwrap();
        assert_eq!(disk.list().unwrap(), ["b"]);
        let mut buf = [1; 20];
        let read = disk.open("b").unwrap().read_at(&mut buf, 9_985).unwrap();
        assert_eq!(&buf[..read], b"\0\0\0\0\0hello\0\0\0\0\0");
        assert!(disk.open("a").is_err());
        assert!(disk.free_bytes().unwrap() > 0);
        assert!(disk.describe("b").ends_with("made/on/demand/b"));
        disk.remove("b").unwrap();
        assert!(disk.list().unwrap().is_empty());
    }
}
