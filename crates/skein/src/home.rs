//! A server's directory: who it belongs to (`skein.id`) and who uses it now (`LOCK`).
//!
//! ```text
//! DIR/skein.id    whose directory this is; written once, by init
//! DIR/LOCK        locked by the process that uses the directory; holds its process ID
//! DIR/skein.toml  optional configuration, the user's
//! DIR/log, DIR/cohorts  the durable log and the rows: see the cell and storage crates
//! ```

use skein_model::number::parse_u64;
use skein_model::{CellId, HostId, StoreId};
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Version of the directory's layout and of `skein.id` itself.
pub const FORMAT_VERSION: u32 = 2;
const IDENTITY_FILE: &str = "skein.id";
const IDENTITY_TEMPORARY: &str = "skein.id.new";
const LOCK_FILE: &str = "LOCK";
/// Far longer than any `skein.id`; more is not one.
const IDENTITY_BYTES_MAX: u64 = 4096;

/// Whose directory it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The server's own ID.
    pub host: HostId,
    /// The database it is part of.
    pub cell: CellId,
    /// The directory's own ID, drawn when it was initialised: a host whose disk was lost comes back with another. In format 1,
    /// which had none, it is the host's number.
    pub store: StoreId,
    /// When the directory was initialised, in whole seconds since the Unix epoch.
    pub created_seconds: u64,
}

/// Why a directory could not be taken into use. It is as it was.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// The directory does not exist, or is not a directory.
    #[error("{dir} is not a directory")]
    NotADirectory {
        /// The directory.
        dir: PathBuf,
    },
    /// The directory has no `skein.id`.
    #[error("{dir} is not initialised: it has no {IDENTITY_FILE}")]
    NotInitialised {
        /// The directory.
        dir: PathBuf,
    },
    /// The directory holds files, and they are not ours.
    #[error("{dir} is not empty (it holds {example:?}) and is no Skein directory")]
    Foreign {
        /// The directory.
        dir: PathBuf,
        /// One of the files in it.
        example: String,
    },
    /// The directory was initialised with other IDs.
    #[error("{dir} already belongs to host {} of cell {}", found.host, found.cell)]
    OtherIds {
        /// The directory.
        dir: PathBuf,
        /// The IDs it has.
        found: Identity,
    },
    /// Another process has the directory locked.
    #[error("{dir} is in use by {}", holder_text(*holder))]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// The process, if it has said which one it is.
        holder: Option<u32>,
    },
    /// `skein.id` was written by a later release.
    #[error("{file} has format {found}; this release reads up to {FORMAT_VERSION}")]
    NewerFormat {
        /// The file.
        file: PathBuf,
        /// The version it says.
        found: u32,
    },
    /// `skein.id` is not what init wrote.
    #[error("{file} is damaged: {detail}")]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// The system refused to read or write.
    #[error("{action} {path}")]
    Io {
        /// What we tried, a bare verb.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

fn holder_text(holder: Option<u32>) -> String {
    holder.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

fn io_error(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> HomeError {
    let path = path.into();
    move |source| HomeError::Io { action, path, source }
}

/// The exclusive use of a directory, until dropped or until the process ends in any way.
#[derive(Debug)]
pub struct Lock {
    /// Held only for the lock on it: closing the file is what releases it.
    _file: File,
}

impl Lock {
    /// Takes the directory for this process, or says who has it. The file itself stays behind.
    pub fn take(dir: &Path) -> Result<Lock, HomeError> {
        if !dir.is_dir() {
            return Err(HomeError::NotADirectory { dir: dir.to_owned() });
        }
        let path = dir.join(LOCK_FILE);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(io_error("open", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                // Only a hint: the holder may be just about to write it.
                let _ = file.take(32).read_to_string(&mut text);
                return Err(HomeError::InUse { dir: dir.to_owned(), holder: text.trim().parse().ok() });
            }
            Err(TryLockError::Error(e)) => return Err(io_error("lock", path)(e)),
        }
        // The process ID only makes the refusal of a second process friendlier, so a full disk must not matter.
        let _ = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Lock { _file: file })
    }
}

/// What [`initialise`] found and did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Initialised {
    /// The directory is new.
    New(Identity),
    /// The directory had the wanted IDs already; nothing was changed.
    Already(Identity),
}

impl Initialised {
    /// Whose directory it now is.
    pub fn identity(self) -> Identity {
        match self {
            Initialised::New(identity) | Initialised::Already(identity) => identity,
        }
    }
}

/// Creates the directory (and those above it) if it is missing, readable by its owner only.
pub fn create_directory(dir: &Path) -> Result<(), HomeError> {
    if dir.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io_error("create", dir))?;
    let parent = match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    sync_directory(parent)
}

/// Makes a directory this host's; safe to interrupt and repeat. `lock` shows that nobody else is at it.
///
/// IDs not given are drawn from the operating system for a new directory, and taken as they are from an old one.
pub fn initialise(
    dir: &Path,
    _lock: &Lock,
    host: Option<HostId>,
    cell: Option<CellId>,
) -> Result<Initialised, HomeError> {
    match read_identity(dir) {
        Ok(found) => {
            let same = host.is_none_or(|h| h == found.host) && cell.is_none_or(|c| c == found.cell);
            return if same {
                Ok(Initialised::Already(found))
            } else {
                Err(HomeError::OtherIds { dir: dir.to_owned(), found })
            };
        }
        Err(HomeError::NotInitialised { .. }) => {}
        Err(other) => return Err(other),
    }
    if let Some(example) = foreign_file(dir)? {
        return Err(HomeError::Foreign { dir: dir.to_owned(), example });
    }
    let identity = Identity {
        host: host.map_or_else(|| draw_id(dir).map(HostId), Ok)?,
        cell: cell.map_or_else(|| draw_id(dir).map(CellId), Ok)?,
        store: draw_id(dir).map(StoreId)?,
        created_seconds: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs()),
    };
    write_durably(dir, IDENTITY_FILE, IDENTITY_TEMPORARY, encode(&identity).as_bytes())?;
    Ok(Initialised::New(identity))
}

/// Reads and checks `skein.id`.
pub fn read_identity(dir: &Path) -> Result<Identity, HomeError> {
    if !dir.is_dir() {
        return Err(HomeError::NotADirectory { dir: dir.to_owned() });
    }
    let path = dir.join(IDENTITY_FILE);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(HomeError::NotInitialised { dir: dir.to_owned() });
        }
        Err(e) => return Err(io_error("open", path)(e)),
    };
    let mut bytes = Vec::new();
    file.take(IDENTITY_BYTES_MAX).read_to_end(&mut bytes).map_err(io_error("read", &path))?;
    decode(&bytes).map_err(|wrong| match wrong {
        Undecodable::Newer(found) => HomeError::NewerFormat { file: path, found },
        Undecodable::Damaged(detail) => HomeError::Damaged { file: path, detail },
    })
}

fn draw_id(dir: &Path) -> Result<u64, HomeError> {
    loop {
        // Zero would be a valid ID, but reads like a forgotten one.
        match getrandom::u64() {
            Ok(0) => {}
            Ok(id) => return Ok(id),
            Err(e) => return Err(io_error("draw IDs for", dir)(io::Error::other(e))),
        }
    }
}

/// A file that neither we nor the file system put there.
fn foreign_file(dir: &Path) -> Result<Option<String>, HomeError> {
    for entry in fs::read_dir(dir).map_err(io_error("list", dir))? {
        let name = entry.map_err(io_error("list", dir))?.file_name();
        let ours = [LOCK_FILE, IDENTITY_TEMPORARY, "skein.toml", "lost+found"];
        if !ours.iter().any(|known| name == *known) {
            return Ok(Some(name.to_string_lossy().into_owned()));
        }
    }
    Ok(None)
}

/// Replaces `dir/name` so that after a crash it is either the old or the new file, whole.
pub fn write_durably(dir: &Path, name: &str, temporary: &str, bytes: &[u8]) -> Result<(), HomeError> {
    let (path, temporary) = (dir.join(name), dir.join(temporary));
    let write = || {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, &path)
    };
    write().map_err(io_error("write", &path))?;
    sync_directory(dir)
}

fn sync_directory(dir: &Path) -> Result<(), HomeError> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(io_error("sync", dir))
}

/// The text of `skein.id`: six lines, the last with the CRC-32C of those before it.
fn encode(identity: &Identity) -> String {
    let created = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(identity.created_seconds);
    let text = format!(
        "skein directory, format {FORMAT_VERSION}\nhost {}\ncell {}\nstore {}\ncreated {}\n",
        identity.host,
        identity.cell,
        identity.store,
        humantime::format_rfc3339_seconds(created),
    );
    let check = crc32c::crc32c(text.as_bytes());
    format!("{text}crc32c {check:08x}\n")
}

#[derive(Debug, PartialEq, Eq)]
enum Undecodable {
    Newer(u32),
    Damaged(String),
}

fn decode(bytes: &[u8]) -> Result<Identity, Undecodable> {
    let damaged = |detail: &str| Undecodable::Damaged(detail.to_owned());
    let text = std::str::from_utf8(bytes).map_err(|_| damaged("it is not text"))?;
    let version = text
        .lines()
        .next()
        .and_then(|line| line.strip_prefix("skein directory, format "))
        .and_then(|version| version.parse::<u32>().ok())
        .ok_or_else(|| damaged("its first line does not name a format"))?;
    if FORMAT_VERSION < version {
        return Err(Undecodable::Newer(version));
    }
    let (body, check) = text
        .strip_suffix('\n')
        .and_then(|text| text.rfind('\n'))
        .map(|end| text.split_at(end + 1))
        .ok_or_else(|| damaged("it is cut short"))?;
    let expected = format!("crc32c {:08x}\n", crc32c::crc32c(body.as_bytes()));
    if check != expected {
        let detail = format!("its last line is {:?}, expected {:?}", check.trim_end(), expected.trim_end());
        return Err(Undecodable::Damaged(detail));
    }
    let field = |name: &str| {
        body.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
            .ok_or_else(|| Undecodable::Damaged(format!("it has no line {name:?}")))
    };
    let created =
        humantime::parse_rfc3339(field("created")?).map_err(|e| Undecodable::Damaged(e.to_string()))?;
    let id = |name: &str| -> Result<u64, Undecodable> {
        parse_u64(field(name)?).map_err(|e| Undecodable::Damaged(format!("{name}: {e}")))
    };
    let host = id("host")?;
    Ok(Identity {
        host: HostId(host),
        cell: CellId(id("cell")?),
        store: StoreId(if version == 1 { host } else { id("store")? }),
        created_seconds: created.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs()),
    })
}

#[cfg(test)]
mod tests;
