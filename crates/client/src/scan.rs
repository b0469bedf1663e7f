//! Scans: one snapshot of a table, streamed in parallel slices, each going on where it was after a broken connection.

use crate::answer::{Answer, Verdict};
use crate::client::{Client, Inner};
use crate::errand::{Errand, Home, check_path, error_of};
use crate::error::Error;
use crate::pool::{Call, Fault};
use crate::rows::{Table, check_key, encode};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf as _, Bytes, BytesMut};
use http::Method;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::value::RawValue;
use skein_model::{ContentType, Pick, TxClock, Value};
use std::borrow::Cow;
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};

/// Most slices of one scan.
const SLICES_MAX: u32 = 1024;
/// Longest line that a row may be: the largest value in base64, and its key.
const LINE_BYTES_MAX: usize = 32 << 20;
/// About how many bytes of rows are handed over at once.
const CHUNK_BYTES: usize = 64 << 10;
/// Longest answer to a refused scan that is read.
const PROBLEM_BYTES_MAX: usize = 64 << 10;
/// The pause after an attempt that brought nothing; doubled each time.
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// What a scan selects, and how.
#[derive(Debug, Clone)]
pub struct ScanOptions {
    /// First key, inclusive.
    pub start: Bytes,
    /// Where to stop, exclusive.
    pub end: Option<Bytes>,
    /// Which versions.
    pub pick: Pick,
    /// Versions after this time.
    pub since: TxClock,
    /// Versions at or before this time; now if not given.
    pub until: Option<TxClock>,
    /// How many parts are fetched at the same time: a power of two, at most 1024. With as many as the cell has cohorts or more, each is fetched
    /// from whoever leads its rows.
    pub slices: u32,
}

impl Default for ScanOptions {
    fn default() -> ScanOptions {
        ScanOptions {
            start: Bytes::new(),
            end: None,
            pick: Pick::Latest,
            since: TxClock::ZERO,
            until: None,
            slices: 1,
        }
    }
}

/// A version of a row, from a scan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScannedRow {
    /// The key.
    pub key: Bytes,
    /// The version.
    pub time: TxClock,
    /// The value. `None` is a deletion, which only [`Pick::Between`] and [`Pick::Through`] show; there, a stored JSON `null` looks the same.
    /// Line breaks inside JSON come as blanks.
    pub value: Option<Value>,
}

/// A scan under way. Dropping it ends it.
pub struct Scan {
    until: TxClock,
    parts: mpsc::Receiver<Part>,
    rows: VecDeque<ScannedRow>,
    /// Slices that have not come to their end.
    open: u32,
    /// Ended with it.
    _slices: JoinSet<()>,
}

enum Part {
    Rows(Vec<ScannedRow>),
    End,
    Failed(Error),
}

impl Client {
    /// Begins a scan: one snapshot of a table, however long it takes.
    ///
    /// The client's deadline is how long a slice may go without a row. Errors come here or from [`Scan::next`].
    pub async fn scan(&self, table: &Table, options: ScanOptions) -> Result<Scan, Error> {
        let slices = options.slices;
        if !slices.is_power_of_two() || SLICES_MAX < slices {
            let why = format!("{slices} is not a power of two from 1 to {SLICES_MAX}");
            return Err(Error::Invalid { what: "slices", why });
        }
        check_key(&options.start)?;
        options.end.as_deref().map_or(Ok(()), check_key)?;
        let until = match options.until {
            Some(until) => until,
            None => self.settle_until(table, &options).await?,
        };
        let (door, parts) = mpsc::channel(slices as usize);
        let mut tasks = JoinSet::new();
        for slice in 0..slices {
            let task = SliceTask {
                inner: self.inner.clone(),
                path: table.path()?,
                options: options.clone(),
                until,
                slice,
                patience: self.deadline().saturating_duration_since(Instant::now()),
                at: None,
                door: door.clone(),
            };
            tasks.spawn(task.run());
        }
        Ok(Scan { until, parts, rows: VecDeque::new(), open: slices, _slices: tasks })
    }

    /// The time of a scan of the present: one that all slices have in common, and after all that this client has seen.
    async fn settle_until(&self, table: &Table, options: &ScanOptions) -> Result<TxClock, Error> {
        let path = format!("{}?limit=0&since={}", table.path()?, options.since);
        let call = Call::new(Method::GET, path);
        let errand = Errand { call, home: Home::Anywhere, write: None, deadline: self.deadline() };
        let seen = self.inner.seen();
        let answer = self.inner.run(&errand).await?;
        match (answer.status, answer.clock("read-txclock")) {
            (200, Some(until)) => Ok(Inner::after_seen(until, seen)),
            (200, None) => Err(Error::Unusable { detail: "a scan without Read-TxClock".to_owned() }),
            _ => Err(error_of(&answer, None)),
        }
    }
}

impl Scan {
    /// The time that is shown.
    pub fn until(&self) -> TxClock {
        self.until
    }

    /// The next row; `None` at the end. Within a slice keys ascend, and of one key the newest version comes first; slices mix. After an
    /// error there is nothing more.
    pub async fn next(&mut self) -> Option<Result<ScannedRow, Error>> {
        loop {
            if let Some(row) = self.rows.pop_front() {
                return Some(Ok(row));
            }
            if self.open == 0 {
                return None;
            }
            match self.parts.recv().await {
                Some(Part::Rows(rows)) => self.rows = rows.into(),
                Some(Part::End) => self.open -= 1,
                Some(Part::Failed(error)) => {
                    self.open = 0;
                    return Some(Err(error));
                }
                // A task that ended without a word: never taken for the end of the table.
                None => {
                    self.open = 0;
                    return Some(Err(Error::Unusable { detail: "a slice of the scan was lost".to_owned() }));
                }
            }
        }
    }
}

/// One slice, fetched by one task.
struct SliceTask {
    inner: Arc<Inner>,
    path: String,
    options: ScanOptions,
    until: TxClock,
    slice: u32,
    /// How long it may go without a row.
    patience: Duration,
    /// The last row handed over.
    at: Option<(Bytes, TxClock)>,
    door: mpsc::Sender<Part>,
}

/// How an attempt at a slice ended.
enum Ended {
    /// All rows are there.
    Whole,
    Refused(Answer),
    /// It may be gone on with.
    Broken(String),
    /// Nobody listens any more.
    Deaf,
}

impl SliceTask {
    async fn run(mut self) {
        let number = self.inner.next_number();
        let mut deadline = Instant::now() + self.patience;
        let mut pause = PAUSE_MIN;
        let begun = Instant::now();
        let mut tried = 0;
        let failed = loop {
            if let Err(error) = check_path(&self.target()) {
                break error;
            }
            let order = self.inner.order(Home::Slice(self.slice, self.options.slices));
            let before = self.at.clone();
            let mut last = "no peer is known".to_owned();
            // One at a time, the best first; those that failed lately have moved to the end.
            if let Some(address) = order.get(tried as usize % order.len().max(1)) {
                tried += 1;
                let id = format!("{}-{number}-{tried}", self.inner.name);
                match self.attempt(address, &id, &mut deadline).await {
                    Ended::Whole => {
                        // Nobody listens: nobody minds.
                        let _ = self.door.send(Part::End).await;
                        return;
                    }
                    Ended::Deaf => return,
                    Ended::Refused(answer) => match answer.verdict() {
                        Verdict::NotDone(_) | Verdict::Unsure => last = answer.refused().to_string(),
                        Verdict::Settled | Verdict::Final => break error_of(&answer, None),
                    },
                    Ended::Broken(why) => last = why,
                }
                tracing::debug!(request = %id, why = %last, slice = self.slice, "a scan was interrupted");
                self.inner.suspect();
            }
            if self.at != before {
                // It got on: the next attempt begins with the best peer, and at once.
                (tried, pause) = (0, PAUSE_MIN);
            }
            let now = Instant::now();
            if deadline <= now {
                break Error::Unavailable { tried, waited: begun.elapsed(), last };
            }
            if 0 < tried {
                sleep_until(deadline.min(now + self.inner.jitter(pause))).await;
                pause = (2 * pause).min(PAUSE_MAX);
            }
        };
        let _ = self.door.send(Part::Failed(failed)).await;
    }

    async fn attempt(&mut self, address: &str, id: &str, deadline: &mut Instant) -> Ended {
        let call = Call::new(Method::GET, self.target()).header("accept", "application/x-ndjson");
        let until = (*deadline).min(Instant::now() + self.silence());
        let response = match self.inner.pool.start(address, &call, id, until).await {
            Ok((_, response)) => response,
            Err(Fault::NotSent(why) | Fault::Unsure(why)) => return Ended::Broken(why),
            Err(Fault::Foreign(cell)) => return Ended::Broken(format!("{address} belongs to cell {cell}")),
        };
        let (head, body) = response.into_parts();
        if head.status != 200 {
            let body = timeout_at(until, Limited::new(body, PROBLEM_BYTES_MAX).collect()).await;
            let Ok(Ok(body)) = body else {
                return Ended::Broken(format!("{address} answered {} and broke off", head.status));
            };
            let body = body.to_bytes();
            return Ended::Refused(Answer { status: head.status.as_u16(), headers: head.headers, body });
        }
        self.take(address, body, deadline).await
    }

    /// How long a peer may say nothing: it may have to look at many rows to find one of the slice.
    fn silence(&self) -> Duration {
        self.inner.config.attempt.max(self.patience / 2)
    }

    /// The path and query that begin where this slice is.
    fn target(&self) -> String {
        let options = &self.options;
        let mut target = format!("{}?scan&until={}", self.path, self.until);
        // Writing to a text does not fail.
        let _ = match &self.at {
            Some((key, time)) => write!(target, "&key={}&time={time}", encode(key)),
            None => write!(target, "&key={}", encode(&options.start)),
        };
        if let Some(end) = &options.end {
            let _ = write!(target, "&end={}", encode(end));
        }
        if options.since != TxClock::ZERO {
            let _ = write!(target, "&since={}", options.since);
        }
        let _ = write!(target, "&pick={}", options.pick.name());
        if 1 < options.slices {
            let _ = write!(target, "&slice={}&nslices={}", self.slice, options.slices);
        }
        target
    }

    /// Reads rows off an answer and hands them over.
    async fn take(&mut self, address: &str, mut body: Incoming, deadline: &mut Instant) -> Ended {
        let mut buffer = BytesMut::new();
        // How much of the buffer has no line end in it.
        let mut searched = 0;
        loop {
            let until = (*deadline).min(Instant::now() + self.silence());
            let frame = match timeout_at(until, body.frame()).await {
                Err(_) => return Ended::Broken(format!("{address} stalled")),
                Ok(Some(Err(why))) => return Ended::Broken(format!("{address} broke off: {why}")),
                Ok(frame) => frame.and_then(Result::ok),
            };
            let ended = frame.is_none();
            if let Some(Ok(data)) = frame.map(hyper::body::Frame::into_data) {
                buffer.extend_from_slice(&data);
            }
            if ended && !buffer.is_empty() && buffer.last() != Some(&b'\n') {
                return Ended::Broken(format!("{address} ended in the middle of a row"));
            }
            let (mut rows, mut bytes) = (Vec::new(), 0);
            while let Some(end) = memchr::memchr(b'\n', &buffer[searched..]) {
                let line = buffer.split_to(searched + end).freeze();
                buffer.advance(1);
                searched = 0;
                match parse(&line, self.options.pick) {
                    Ok(row) if self.is_next(&row) => {
                        bytes += line.len();
                        self.at = Some((row.key.clone(), row.time));
                        rows.push(row);
                    }
                    Ok(_) => {}
                    Err(why) => return self.unusable(address, rows, why).await,
                }
                if CHUNK_BYTES <= bytes {
                    bytes = 0;
                    if self.door.send(Part::Rows(std::mem::take(&mut rows))).await.is_err() {
                        return Ended::Deaf;
                    }
                }
            }
            searched = buffer.len();
            if LINE_BYTES_MAX < searched {
                return Ended::Broken(format!("{address} sent a row that is longer than any"));
            }
            if !rows.is_empty() && self.door.send(Part::Rows(rows)).await.is_err() {
                return Ended::Deaf;
            }
            if ended {
                return Ended::Whole;
            }
            // Whoever reads slowly is not what the patience is for.
            *deadline = Instant::now() + self.patience;
        }
    }

    /// Rows that stand before one that cannot be read have been counted as handed over, so they are.
    async fn unusable(&self, address: &str, rows: Vec<ScannedRow>, why: String) -> Ended {
        if !rows.is_empty() && self.door.send(Part::Rows(rows)).await.is_err() {
            return Ended::Deaf;
        }
        Ended::Broken(format!("{address} sent what is no row: {why}"))
    }

    /// Whether a row comes after the last one: of those with which an attempt begins again, some have been seen.
    fn is_next(&self, row: &ScannedRow) -> bool {
        match &self.at {
            None => true,
            Some((key, time)) => *key < row.key || *key == row.key && row.time < *time,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    #[serde(borrow)]
    key: Option<Cow<'a, str>>,
    #[serde(borrow)]
    key_base64: Option<Cow<'a, str>>,
    time: u64,
    #[serde(borrow)]
    value: &'a RawValue,
}

/// How a value that is not JSON is written.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Typed<'a> {
    #[serde(borrow)]
    content_type: Cow<'a, str>,
    #[serde(borrow)]
    base64: Cow<'a, str>,
}

fn parse(line: &Bytes, pick: Pick) -> Result<ScannedRow, String> {
    let row: Line<'_> = serde_json::from_slice(line).map_err(|why| why.to_string())?;
    let decode = |text: &str| STANDARD.decode(text).map(Bytes::from).map_err(|why| why.to_string());
    let key = match (row.key, row.key_base64) {
        (Some(key), None) => Bytes::copy_from_slice(key.as_bytes()),
        (None, Some(key)) => decode(&key)?,
        _ => return Err("it has no key, or two".to_owned()),
    };
    let text = row.value.get();
    let value = if text == "null" && pick != Pick::Latest {
        None
    } else if let Some(typed) = typed_value(text) {
        Some(Value {
            content_type: ContentType::Other(typed.content_type.as_ref().into()),
            bytes: decode(&typed.base64)?,
        })
    } else {
        Some(Value { content_type: ContentType::Json, bytes: line.slice_ref(text.as_bytes()) })
    };
    Ok(ScannedRow { key, time: TxClock(row.time), value })
}

/// What stands for a value that is not JSON. JSON that somebody stored in exactly this form looks the same.
fn typed_value(text: &str) -> Option<Typed<'_>> {
    text.starts_with("{\"contentType\":").then(|| serde_json::from_str(text).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(line: &'static str, pick: Pick) -> Result<ScannedRow, String> {
        parse(&Bytes::from_static(line.as_bytes()), pick)
    }

    #[test]
    fn a_line_is_a_row_with_its_value_as_it_was_written() {
        let got = row(r#"{"key":"a\"b","time":7,"value":{"v": 1.0}}"#, Pick::Latest).unwrap();
        assert_eq!((&got.key[..], got.time), (&b"a\"b"[..], TxClock(7)));
        assert_eq!(got.value.unwrap().bytes, r#"{"v": 1.0}"#);
        let got = row(
            r#"{"keyBase64":"/wA=","time":7,"value":{"contentType":"image/png","base64":"iQ=="}}"#,
            Pick::Latest,
        );
        let got = got.unwrap();
        assert_eq!(&got.key[..], [0xff, 0]);
        assert_eq!(got.value, Some(crate::rows::typed("image/png", &b"\x89"[..])));
    }

    #[test]
    fn a_null_is_a_deletion_only_where_deletions_are_shown() {
        let line = r#"{"key":"a","time":7,"value":null}"#;
        assert_eq!(row(line, Pick::Latest).unwrap().value.unwrap().bytes, "null");
        assert_eq!(row(line, Pick::Between).unwrap().value, None);
    }

    #[test]
    fn what_is_no_row_is_not_taken_for_one() {
        for line in [
            "",
            "{}",
            r#"{"key":"a","time":7}"#,
            r#"{"time":7,"value":1}"#,
            r#"{"key":"a","time":7,"value":1"#,
        ] {
            assert!(row(line, Pick::Latest).is_err(), "{line}");
        }
    }
}
