//! How far an import has come, in a small file beside its input, so that an interrupted one can go on.

use super::plan::RunId;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

const FORMAT_VERSION: u32 = 1;
/// How much of the file's head and tail tells it from others.
const SAMPLE_BYTES: u64 = 1 << 20;

/// What has to be the same for an import to go on where it stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// The server.
    pub url: String,
    /// The table.
    pub table: String,
    /// The key's member or column.
    pub key: Option<String>,
    /// How the file is read.
    pub format: String,
    /// Whether numbers in CSV become numbers.
    pub numbers: bool,
    /// Rows in one batch.
    pub batch: u32,
    /// How many lanes the rows are dealt to.
    pub lanes: u16,
    /// The input's length in bytes.
    pub file_bytes: u64,
    /// A checksum of its head and tail.
    pub file_sample: u32,
}

/// The progress file's content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    skein_import_progress: u32,
    /// What all transaction IDs of the import begin with.
    pub run: RunId,
    /// What is being imported, and how.
    pub job: Job,
    /// For each lane, how many of its batches are in.
    pub done: Vec<u64>,
}

/// Why the notes of an earlier run cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProgressError {
    /// The file cannot be read or written.
    #[error("{action} {path}")]
    Io {
        /// What we tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file holds something else.
    #[error("{path} does not hold the progress of an import: {detail}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// The notes are about another import.
    #[error("{path} holds the progress of another import: {difference} differs")]
    OtherJob {
        /// The file.
        path: PathBuf,
        /// In what they differ.
        difference: &'static str,
    },
}

impl Progress {
    /// The notes of an import that begins now.
    pub fn new(run: RunId, job: Job) -> Progress {
        let done = vec![0; usize::from(job.lanes)];
        Progress { skein_import_progress: FORMAT_VERSION, run, job, done }
    }

    /// The same notes, further on.
    pub fn at(&self, done: Vec<u64>) -> Progress {
        Progress { done, ..self.clone() }
    }

    /// Reads the notes of an earlier run of `job`; `None` if there are none.
    pub fn load(path: &Path, job: &Job) -> Result<Option<Progress>, ProgressError> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(ProgressError::Io { action: "read", path: path.to_owned(), source }),
        };
        let malformed = |detail: String| ProgressError::Malformed { path: path.to_owned(), detail };
        let found: Progress = serde_json::from_str(&text).map_err(|e| malformed(e.to_string()))?;
        if found.skein_import_progress != FORMAT_VERSION {
            let version = found.skein_import_progress;
            return Err(malformed(format!("it has format {version}, this release reads {FORMAT_VERSION}")));
        }
        if found.done.len() != usize::from(found.job.lanes) {
            return Err(malformed("its lanes do not add up".to_owned()));
        }
        match difference(&found.job, job) {
            None => Ok(Some(found)),
            Some(difference) => Err(ProgressError::OtherJob { path: path.to_owned(), difference }),
        }
    }

    /// Replaces the notes at `path`. Not synced: older notes only mean that batches are sent once more.
    pub fn save(&self, path: &Path) -> Result<(), ProgressError> {
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".new");
        let write = || {
            let mut file = File::create(&temporary)?;
            serde_json::to_writer(&mut file, self)?;
            file.write_all(b"\n")?;
            fs::rename(&temporary, path)
        };
        write().map_err(|source| ProgressError::Io { action: "write", path: path.to_owned(), source })
    }

    /// Removes the notes; an import that is done has none.
    pub fn remove(path: &Path) -> Result<(), ProgressError> {
        match fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(ProgressError::Io { action: "remove", path: path.to_owned(), source: e })
            }
            _ => Ok(()),
        }
    }
}

/// Length of the input and a checksum of its first and last MiB.
pub fn sample(file: &mut File) -> io::Result<(u64, u32)> {
    let bytes = file.metadata()?.len();
    let mut sum = 0;
    for start in [0, bytes.saturating_sub(SAMPLE_BYTES)] {
        file.seek(SeekFrom::Start(start))?;
        let mut buffer = Vec::new();
        io::Read::by_ref(file).take(SAMPLE_BYTES).read_to_end(&mut buffer)?;
        sum = crc32c::crc32c_append(sum, &buffer);
    }
    file.rewind()?;
    Ok((bytes, sum))
}

fn difference(a: &Job, b: &Job) -> Option<&'static str> {
    [
        ("the server", a.url != b.url),
        ("the table", a.table != b.table),
        ("--key", a.key != b.key),
        ("the format", a.format != b.format || a.numbers != b.numbers),
        ("--batch", a.batch != b.batch),
        ("--parallel", a.lanes != b.lanes),
        ("the file's content", a.file_bytes != b.file_bytes || a.file_sample != b.file_sample),
    ]
    .into_iter()
    .find_map(|(name, differs)| differs.then_some(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job() -> Job {
        Job {
            url: "http://127.0.0.1:7070".into(),
            table: "t".into(),
            key: Some("id".into()),
            format: "jsonl".into(),
            numbers: false,
            batch: 500,
            lanes: 2,
            file_bytes: 10,
            file_sample: 7,
        }
    }

    #[test]
    fn notes_come_back_for_the_same_import_and_are_refused_for_another() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.skein-progress");
        assert_eq!(Progress::load(&path, &job()).unwrap(), None);
        let mut notes = Progress::new(RunId(u128::MAX - 1), job());
        notes.done = vec![3, 4];
        notes.save(&path).unwrap();
        assert_eq!(Progress::load(&path, &job()).unwrap(), Some(notes));
        let other = Job { file_sample: 8, ..job() };
        let refused = Progress::load(&path, &other).unwrap_err().to_string();
        assert!(refused.contains("the file's content differs"), "{refused}");
        Progress::remove(&path).unwrap();
        Progress::remove(&path).unwrap();
        assert_eq!(Progress::load(&path, &job()).unwrap(), None);
    }

    #[test]
    fn a_file_that_holds_something_else_is_not_taken_for_notes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        fs::write(&path, "{\"id\":1}\n").unwrap();
        assert!(matches!(Progress::load(&path, &job()), Err(ProgressError::Malformed { .. })));
    }

    #[test]
    fn a_change_at_either_end_of_the_file_changes_its_sample() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let sample_of = |text: &[u8]| {
            fs::write(&path, text).unwrap();
            sample(&mut File::open(&path).unwrap()).unwrap()
        };
        let text = vec![b'a'; 3 << 20];
        let (mut head, mut tail) = (text.clone(), text.clone());
        head[0] = b'b';
        *tail.last_mut().unwrap() = b'b';
        let all = [sample_of(&text), sample_of(&head), sample_of(&tail)];
        assert_eq!(all[0].0, 3 << 20);
        assert!(all[0] != all[1] && all[1] != all[2] && all[0] != all[2]);
    }
}
