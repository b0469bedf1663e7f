//! Raw synced appends: the least that any durable write on this disk can take.

use crate::drive::{Length, Plan};
use crate::error::BenchError;
use crate::tally::{Done, Failure, Tally};
use crate::workload::Values;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Bytes of the file that is appended to, over and over. Written once beforehand, so that a sync finds all
/// its space allocated and has no file system metadata to write: as in a log that recycles its segments.
const FILE_BYTES: u64 = 16 << 20;

/// The file, removed when dropped.
struct Scratch {
    file: File,
    path: PathBuf,
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A file left behind is harmless, is named for what it is, and is written over by the next run.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Appends `plan.value_bytes` bytes and syncs them, one after the other, to a file it makes in `dir`.
///
/// Blocks the calling thread. Errors: [`BenchError::File`] when the file cannot be made; an append that fails is
/// counted.
pub fn measure(plan: &Plan, dir: &Path) -> Result<Tally, BenchError> {
    let path = dir.join(format!("skein-bench-fsync-{}", std::process::id()));
    let file_error = |action| {
        let path = path.clone();
        move |source| BenchError::File { action, path, source }
    };
    let file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .open(&path)
        .map_err(file_error("create"))?;
    let scratch = Scratch { file, path: path.clone() };
    preallocate(&scratch.file).map_err(file_error("preallocate"))?;

    let mut values = Values::new(plan.value_bytes, plan.seed, 0);
    let bytes = plan.value_bytes as u64;
    let mut at = 0;
    let mut tally = Tally::new();
    let measure = Instant::now() + plan.warmup;
    let mut counted = 0;
    loop {
        let start = Instant::now();
        let counts = start >= measure;
        match plan.length {
            Length::For(time) if start >= measure + time => return Ok(tally),
            Length::Ops(ops) if counted >= ops => return Ok(tally),
            _ => {}
        }
        if at + bytes > FILE_BYTES {
            at = 0;
        }
        let written =
            scratch.file.write_all_at(values.next_value(), at).and_then(|()| scratch.file.sync_data());
        let end = Instant::now();
        at += bytes;
        if counts {
            counted += 1;
            let outcome = match written {
                Ok(()) => Ok(Done { rows: 0, bytes }),
                Err(_) => Err(Failure::Named("disk error")),
            };
            tally.record(start, start, end, outcome);
        }
    }
}

fn preallocate(file: &File) -> io::Result<()> {
    let zeros = vec![0; 1 << 20];
    for at in (0..FILE_BYTES).step_by(zeros.len()) {
        file.write_all_at(&zeros, at)?;
    }
    file.sync_all()
}
