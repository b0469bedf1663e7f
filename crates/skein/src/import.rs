//! `skein import`: a file's rows into a table, in parallel, each row once, in order for each key, and from where
//! it stopped when it is run again.
//!
//! Read [`source`] (bytes to rows), [`plan`] (rows to batches), [`progress`] (which batches are in), then
//! [`lanes`] (batches to the server).

pub mod lanes;
pub mod plan;
pub mod progress;
pub mod source;

use crate::args::{Format, ImportArgs, Load};
use crate::client::{Call, Connection, Target};
use crate::say;
use crate::signals::Stops;
use crate::tables::{self, Ensured, TableError};
use crate::trouble::{Exit, Trouble};
use http::Method;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use lanes::{LaneError, Run};
use plan::RunId;
use progress::{Job, Progress, ProgressError};
use source::BadLine;
use std::fs::File;
use std::io::{self, BufReader, IsTerminal as _, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Bad lines that are reported one by one; the others are only counted.
const BAD_LINES_SHOWN: usize = 20;
const SAVE_EVERY: Duration = Duration::from_secs(1);
const PLAIN_EVERY: Duration = Duration::from_secs(5);

/// What an import came to.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Rows written by this run.
    pub rows: u64,
    /// Rows that an earlier run had written.
    pub rows_before: u64,
    /// The first bad lines.
    pub bad: Vec<BadLine>,
    /// How many bad lines there were.
    pub bad_lines: u64,
}

/// What lanes, reader and display share.
#[derive(Debug)]
pub struct Meter {
    done: Vec<AtomicU64>,
    rows: AtomicU64,
    rows_before: AtomicU64,
    bytes_read: AtomicU64,
    bad_lines: AtomicU64,
    bad: Mutex<Vec<BadLine>>,
}

impl Meter {
    fn new(done: &[u64]) -> Meter {
        Meter {
            done: done.iter().map(|n| AtomicU64::new(*n)).collect(),
            rows: AtomicU64::new(0),
            rows_before: AtomicU64::new(0),
            bytes_read: AtomicU64::new(0),
            bad_lines: AtomicU64::new(0),
            bad: Mutex::new(Vec::new()),
        }
    }

    /// Notes a line that is left out.
    pub fn bad_line(&self, line: BadLine) {
        self.bad_lines.fetch_add(1, Relaxed);
        let mut bad = self.bad.lock().unwrap_or_else(PoisonError::into_inner);
        if bad.len() < BAD_LINES_SHOWN {
            bad.push(line);
        }
    }

    /// Notes that a batch is in.
    pub fn batch_done(&self, lane: usize, number: u64, rows: u64) {
        self.done[lane].store(number + 1, Relaxed);
        self.rows.fetch_add(rows, Relaxed);
    }

    /// Whether an earlier run, or this one, has written a batch.
    pub fn is_done(&self, lane: usize, number: u64) -> bool {
        number < self.done[lane].load(Relaxed)
    }

    /// Notes a batch that an earlier run wrote.
    pub fn batch_skipped(&self, rows: u64) {
        self.rows_before.fetch_add(rows, Relaxed);
    }

    fn done(&self) -> Vec<u64> {
        self.done.iter().map(|n| n.load(Relaxed)).collect()
    }

    fn summary(&self) -> Summary {
        Summary {
            rows: self.rows.load(Relaxed),
            rows_before: self.rows_before.load(Relaxed),
            bad: self.bad.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            bad_lines: self.bad_lines.load(Relaxed),
        }
    }
}

/// Counts the bytes taken from the input, for the progress bar.
struct Counted<R> {
    inner: R,
    meter: Arc<Meter>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.inner.read(buffer)?;
        self.meter.bytes_read.fetch_add(bytes as u64, Relaxed);
        Ok(bytes)
    }
}

/// Runs `skein import`.
pub async fn run(args: ImportArgs) -> Result<Exit, Trouble> {
    let usage = |e: &dyn std::error::Error| Trouble::new(Exit::Config, "cannot import").because(e);
    let target: Target = args.url.parse().map_err(|e| usage(&e))?;
    let admin: Target = args.admin_url.parse().map_err(|e| usage(&e))?;
    if let Some(id) = args.create_table {
        create_table(&mut Connection::new(admin), &args.table, id).await?;
    }
    let is_stdin = args.file.as_os_str() == "-";
    let progress = match &args.resume {
        Some(_) if is_stdin => {
            return Err(Trouble::new(Exit::Config, "cannot import")
                .because("--resume goes with a file, and standard input can be read only once"));
        }
        None if is_stdin => None,
        Some(path) => Some(path.clone()),
        None => {
            let mut path = args.file.clone().into_os_string();
            path.push(".skein-progress");
            Some(path.into())
        }
    };
    let (stopper, stop) = watch::channel(false);
    let mut stops = Stops::listen();
    let signals = tokio::spawn(async move {
        stops.next().await;
        // Nobody listens any more only when the import is over anyway.
        stopper.send_replace(true);
        // Whoever is in a hurry may leave at once: the notes are good, if a second old.
        std::process::exit(stops.next().await.code().into());
    });
    let import = Import {
        label: target.to_string(),
        target,
        format: args.format.unwrap_or_else(|| format_of(&args.file)),
        table: args.table,
        key: args.key,
        numbers: args.numbers,
        batch: args.batch,
        lanes: args.parallel,
        retry_for: args.retry_for.0,
        file: args.file,
        progress,
    };
    let started = Instant::now();
    let outcome = import.run(stop).await;
    signals.abort();
    let summary = outcome?;
    say::out(tell(&summary, &import, started.elapsed()));
    Ok(if summary.bad_lines == 0 { Exit::Done } else { Exit::BadLines })
}

/// Loads a file for `skein serve --import`, once: `state` is a directory of the server's that remembers it.
///
/// Gives the line to print, or `None` if the file was loaded at an earlier start.
pub async fn load_once(
    load: &Load,
    target: Target,
    admin: Target,
    state: &Path,
    stop: watch::Receiver<bool>,
) -> Result<Option<String>, Trouble> {
    let what = format!("{}:{}={}", load.table, load.key, load.file.display());
    let name = format!("{:08x}", crc32c::crc32c(what.as_bytes()));
    let (marker, notes) = (state.join(format!("{name}.done")), state.join(format!("{name}.progress")));
    if marker.exists() {
        return Ok(None);
    }
    let failed = |e: io::Error| {
        Trouble::new(Exit::Failed, format!("cannot load {}", load.file.display()))
            .because(format!("write {}", marker.display()))
            .because_of(&e)
    };
    std::fs::create_dir_all(state).map_err(failed)?;
    create_table(&mut Connection::new(admin), &load.table, None).await?;
    let import = Import {
        label: "this server".to_owned(),
        target,
        table: load.table.clone(),
        key: Some(load.key.clone()),
        format: format_of(&load.file),
        numbers: true,
        batch: 500,
        lanes: 4,
        retry_for: Duration::from_secs(60),
        file: load.file.clone(),
        progress: Some(notes),
    };
    let started = Instant::now();
    let summary = import.run(stop).await?;
    std::fs::write(&marker, format!("{what}\n{} rows\n", summary.rows + summary.rows_before))
        .map_err(failed)?;
    Ok(Some(tell(&summary, &import, started.elapsed())))
}

async fn create_table(
    admin: &mut Connection,
    name: &str,
    id: Option<skein_model::TableId>,
) -> Result<(), Trouble> {
    match tables::ensure(admin, name, id).await {
        Ok(Ensured::Existing) => Ok(()),
        Ok(Ensured::Created(id)) => {
            say::err(format_args!("added table {name} with ID {id} to the schema"));
            Ok(())
        }
        Err(e) => {
            let trouble = Trouble::new(Exit::Failed, format!("cannot add table {name}")).because_of(&e);
            Err(match e {
                TableError::Client(_) => {
                    trouble.next("is the server running? --admin-url names its admin port")
                }
                _ => trouble,
            })
        }
    }
}

fn format_of(file: &Path) -> Format {
    let csv = file.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("csv"));
    if csv { Format::Csv } else { Format::Jsonl }
}

fn tell(summary: &Summary, import: &Import, took: Duration) -> String {
    let rate = summary.rows as f64 / took.as_secs_f64().max(0.001);
    let mut text = format!(
        "imported {} rows into {} in {:.1}s ({rate:.0} rows/s)",
        summary.rows,
        import.table,
        took.as_secs_f64()
    );
    if summary.rows_before != 0 {
        text.push_str(&format!("; {} rows were in from an earlier run", summary.rows_before));
    }
    if summary.bad_lines != 0 {
        text.push_str(&format!("\nleft out {} bad lines:", summary.bad_lines));
        for BadLine { line, reason } in &summary.bad {
            text.push_str(&format!("\n  line {line}: {reason}"));
        }
        let more = summary.bad_lines - summary.bad.len() as u64;
        if more != 0 {
            text.push_str(&format!("\n  and {more} more"));
        }
    }
    text
}

/// One import, ready to run.
struct Import {
    target: Target,
    /// The server's name in the notes.
    label: String,
    table: String,
    key: Option<String>,
    format: Format,
    numbers: bool,
    batch: u32,
    lanes: u16,
    retry_for: Duration,
    file: PathBuf,
    progress: Option<PathBuf>,
}

impl Import {
    fn trouble(&self, exit: Exit) -> Trouble {
        Trouble::new(exit, format!("cannot import {} into {}", self.file.display(), self.table))
    }

    async fn run(&self, stop: watch::Receiver<bool>) -> Result<Summary, Trouble> {
        let cannot_read = |e: io::Error| self.trouble(Exit::Failed).because("read the file").because_of(&e);
        let (input, bytes, notes): (Box<dyn Read + Send>, u64, Progress) = if self.file.as_os_str() == "-" {
            (Box::new(io::stdin()), 0, Progress::new(draw_run_id()?, self.job(0, 0)))
        } else {
            let mut file = File::open(&self.file).map_err(cannot_read)?;
            let (bytes, sample) = progress::sample(&mut file).map_err(cannot_read)?;
            let notes = self.notes(bytes, sample)?;
            (Box::new(file), bytes, notes)
        };
        self.preflight().await?;
        if let Some(path) = &self.progress {
            notes.save(path).map_err(|e| self.cannot_note(&e))?;
        }

        let meter = Arc::new(Meter::new(&notes.done));
        let input = BufReader::with_capacity(1 << 16, Counted { inner: input, meter: meter.clone() });
        let key = self.key.as_deref().unwrap_or_default();
        let source = source::open(input, self.format, key, self.numbers).map_err(cannot_read)?;
        let run = Run {
            target: self.target.clone(),
            table: self.table.clone(),
            lanes: self.lanes,
            batch: self.batch,
            run: notes.run,
            retry_for: self.retry_for,
        };
        let ended = {
            let sending = lanes::send_all(run, source, meter.clone(), stop);
            let watching = self.watch(&meter, &notes, bytes);
            tokio::select! {
                ended = sending => ended,
                never = watching => match never {},
            }
        };
        let noted = self.note(&meter, &notes);
        match ended {
            Ok(()) => {
                if let Some(path) = &self.progress {
                    Progress::remove(path).map_err(|e| self.cannot_note(&e))?;
                }
                Ok(meter.summary())
            }
            Err(error) => Err(self.stopped(error, noted.is_ok(), &meter.summary())),
        }
    }

    fn job(&self, file_bytes: u64, file_sample: u32) -> Job {
        Job {
            url: self.label.clone(),
            table: self.table.clone(),
            key: self.key.clone(),
            format: format!("{:?}", self.format).to_lowercase(),
            numbers: self.numbers,
            batch: self.batch,
            lanes: self.lanes,
            file_bytes,
            file_sample,
        }
    }

    /// The notes of the run that this one continues, or new ones.
    fn notes(&self, bytes: u64, sample: u32) -> Result<Progress, Trouble> {
        let job = self.job(bytes, sample);
        let earlier = match &self.progress {
            Some(path) => Progress::load(path, &job).map_err(|e| match &e {
                ProgressError::OtherJob { path, .. } | ProgressError::Malformed { path, .. } => {
                    self.trouble(Exit::Failed).because_of(&e).next(format!(
                        "run the earlier command again to finish it, or remove {} to begin anew",
                        path.display()
                    ))
                }
                ProgressError::Io { .. } => self.cannot_note(&e),
            })?,
            None => None,
        };
        match earlier {
            Some(notes) => Ok(notes),
            None => Ok(Progress::new(draw_run_id()?, job)),
        }
    }

    fn cannot_note(&self, error: &ProgressError) -> Trouble {
        self.trouble(Exit::Failed)
            .because_of(error)
            .next("name a place for the progress file that can be written: --resume FILE")
    }

    /// Finds out before the first batch whether the server is there and has the table.
    async fn preflight(&self) -> Result<(), Trouble> {
        let path = format!("/table/{}?limit=1", crate::client::path_segment(&self.table));
        let answer =
            Connection::new(self.target.clone()).call(Call::new(Method::GET, path)).await.map_err(|e| {
                self.trouble(Exit::Failed).because_of(&e).next("is the server running? --url names it")
            })?;
        if answer.status.is_success() {
            return Ok(());
        }
        let trouble =
            self.trouble(Exit::Failed).because(format!("the server answers {}", answer.explanation()));
        Err(match answer.problem_type() {
            Some(kind) if kind.ends_with("table-not-found") => trouble.next(
                "add --create-table to have the table added to the schema, or name it by ID: --table 0x1",
            ),
            _ => trouble,
        })
    }

    /// Shows and saves progress for ever; to be dropped.
    async fn watch(&self, meter: &Meter, notes: &Progress, bytes: u64) -> std::convert::Infallible {
        let bar = io::stderr().is_terminal().then(|| self.bar(bytes));
        let (mut saved, mut told, started) = (Instant::now(), Instant::now(), Instant::now());
        loop {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let (rows, read) = (meter.rows.load(Relaxed), meter.bytes_read.load(Relaxed));
            match &bar {
                Some(bar) => {
                    bar.set_position(read);
                    bar.set_message(format!("{rows} rows"));
                }
                None if PLAIN_EVERY <= told.elapsed() => {
                    let share = (read * 100)
                        .checked_div(bytes)
                        .map(|share| format!(", {share}% read"))
                        .unwrap_or_default();
                    say::err(format_args!("{rows} rows in after {}s{share}", started.elapsed().as_secs()));
                    told = Instant::now();
                }
                None => {}
            }
            if SAVE_EVERY <= saved.elapsed() {
                // Should this fail, older notes stay, and they are good too: more batches are sent once more.
                let _ = self.note(meter, notes);
                saved = Instant::now();
            }
        }
    }

    fn bar(&self, bytes: u64) -> ProgressBar {
        let (length, template) = match bytes {
            0 => (None, "{spinner} {msg} {bytes} {elapsed}"),
            _ => (Some(bytes), "{bar:40} {percent}% {msg} {bytes_per_sec} {eta} left"),
        };
        let bar = ProgressBar::with_draw_target(length, ProgressDrawTarget::stderr());
        match ProgressStyle::with_template(template) {
            Ok(style) => bar.with_style(style).with_finish(indicatif::ProgressFinish::AndClear),
            Err(_) => bar,
        }
    }

    fn note(&self, meter: &Meter, notes: &Progress) -> Result<(), ProgressError> {
        let Some(path) = &self.progress else { return Ok(()) };
        notes.at(meter.done()).save(path)
    }

    fn stopped(&self, error: LaneError, noted: bool, summary: &Summary) -> Trouble {
        let exit = if matches!(error, LaneError::Stopped) { Exit::Interrupted } else { Exit::Failed };
        let trouble = Trouble::new(exit, format!("the import of {} stopped", self.file.display()))
            .because_of(&error)
            .because(format!("{} rows are in", summary.rows + summary.rows_before));
        match &self.progress {
            Some(_) if noted => trouble.next("run the same command again to continue where it stopped"),
            Some(_) => {
                trouble.next("run the same command again; some rows will be sent twice, which does no harm")
            }
            None => trouble.next("standard input cannot be resumed; import from a file to be able to"),
        }
    }
}

fn draw_run_id() -> Result<RunId, Trouble> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)
        .map_err(|e| Trouble::new(Exit::Failed, "cannot draw an ID for the import").because(e))?;
    Ok(RunId(u128::from_be_bytes(bytes)))
}
