//! One scan over many cohorts: their rows come in chunks, each chunk from whoever leads then, and are put in key order.
//!
//! All chunks are read at one time, so together they are a snapshot however long it takes; a chunk is asked for by position, so
//! a change of leaders midway neither repeats nor skips a row. Each key belongs to one cohort, so the order among the versions
//! of a key is the one in which that cohort gives them.
//!
//! Memory: a chunk for each cohort, and one that is being read ahead, of [`HELD_BYTES`] together (a chunk of one row, which
//! may be larger, is the exception). Nothing is read ahead of a reader that does not read.

use crate::api::CellError;
use futures_util::future::BoxFuture;
use skein_storage::rows::{ChunkBudget, ScanPosition, ScanRow};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use tokio::task::JoinHandle;

/// What the chunks of all cohorts shall take together.
const HELD_BYTES: usize = 8 << 20;
/// The least and the most that one chunk takes.
const CHUNK_BYTES: std::ops::RangeInclusive<usize> = 16 << 10..=1 << 20;
/// Rows of one chunk at most.
const CHUNK_ROWS: usize = 4096;

/// A chunk of one cohort's rows, and where the next one begins.
pub(crate) type Chunk = (Vec<ScanRow>, Option<ScanPosition>);

/// Gives the rows of one cohort.
pub(crate) trait Source: Send + Sync + 'static {
    /// The rows from a position on. An empty chunk may have a successor.
    fn chunk(&self, from: ScanPosition, budget: ChunkBudget) -> BoxFuture<'static, Result<Chunk, CellError>>;
}

/// Rows of several cohorts in key order.
pub(crate) struct Merge {
    streams: Vec<Stream>,
    /// The next key of every stream that has rows at hand.
    heads: BinaryHeap<Reverse<(bytes::Bytes, usize)>>,
    /// Streams that have to be filled before anything can be given out.
    empty: Vec<usize>,
    budget: ChunkBudget,
    /// Whether anybody asked for more than the first rows: until then nothing is read ahead.
    goes_on: bool,
}

struct Stream {
    source: Box<dyn Source>,
    rows: VecDeque<ScanRow>,
    next: Next,
}

/// Where the rows after those at hand are.
enum Next {
    /// Not asked for yet.
    From(ScanPosition),
    /// On their way, from here on.
    Coming { from: ScanPosition, reading: Reading },
    /// Nowhere.
    End,
}

/// A chunk being read; given up when dropped.
struct Reading(JoinHandle<Result<Chunk, CellError>>);

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Merge {
    /// From the same position in all.
    pub(crate) fn new(sources: Vec<Box<dyn Source>>, from: &ScanPosition) -> Merge {
        let share = HELD_BYTES / (2 * sources.len().max(1));
        let bytes = share.clamp(*CHUNK_BYTES.start(), *CHUNK_BYTES.end());
        let stream = |source| Stream { source, rows: VecDeque::new(), next: Next::From(from.clone()) };
        Merge {
            empty: (0..sources.len()).collect(),
            streams: sources.into_iter().map(stream).collect(),
            heads: BinaryHeap::new(),
            budget: ChunkBudget { rows: CHUNK_ROWS, bytes },
            goes_on: false,
        }
    }

    /// The next rows, within the budget; none at the end, and only there.
    ///
    /// After an error the rows that were not given out are still there, and the call may be repeated. Cancel safe.
    pub(crate) async fn next(&mut self, budget: ChunkBudget) -> Result<Vec<ScanRow>, CellError> {
        let (mut out, mut bytes) = (Vec::new(), 0);
        let first = self.heads.is_empty() && self.empty.len() == self.streams.len();
        self.goes_on |= !first;
        loop {
            if !self.empty.is_empty() {
                // What is in order already need not wait for a leader.
                if !out.is_empty() {
                    return Ok(out);
                }
                self.fill(budget).await?;
            }
            let Some(Reverse((_, at))) = self.heads.pop() else { return Ok(out) };
            let stream = &mut self.streams[at];
            if let Some(row) = stream.rows.pop_front() {
                bytes += row_bytes(&row);
                out.push(row);
            }
            match stream.rows.front() {
                Some(row) => self.heads.push(Reverse((row.key.clone(), at))),
                None if matches!(stream.next, Next::End) => {}
                None => self.empty.push(at),
            }
            if budget.rows <= out.len() || budget.bytes <= bytes {
                return Ok(out);
            }
        }
    }

    /// Reads until every stream has rows at hand or is at its end; all at the same time.
    async fn fill(&mut self, asked: ChunkBudget) -> Result<(), CellError> {
        let budget = if self.goes_on {
            self.budget
        } else {
            ChunkBudget { rows: self.budget.rows.min(asked.rows), bytes: self.budget.bytes.min(asked.bytes) }
        };
        for at in &self.empty {
            self.streams[*at].read(budget);
        }
        while let Some(at) = self.empty.last().copied() {
            let stream = &mut self.streams[at];
            stream.take().await?;
            if let Some(row) = stream.rows.front() {
                self.heads.push(Reverse((row.key.clone(), at)));
                self.empty.pop();
                // Ahead, while the reader is busy with these.
                if self.goes_on {
                    stream.read(self.budget);
                }
            } else if matches!(stream.next, Next::End) {
                self.empty.pop();
            } else {
                stream.read(budget);
            }
        }
        Ok(())
    }
}

impl Stream {
    /// Begins to read the next chunk, if there is one and it is not being read.
    fn read(&mut self, budget: ChunkBudget) {
        if let Next::From(from) = &self.next {
            let reading = Reading(tokio::spawn(self.source.chunk(from.clone(), budget)));
            self.next = Next::Coming { from: from.clone(), reading };
        }
    }

    /// Waits for the chunk that is being read.
    async fn take(&mut self) -> Result<(), CellError> {
        let Next::Coming { from, reading } = &mut self.next else { return Ok(()) };
        let from = from.clone();
        let chunk = (&mut reading.0).await;
        self.next = Next::From(from);
        let chunk =
            chunk.map_err(|error| CellError::Unreachable { detail: format!("read a chunk: {error}") })?;
        let (rows, next) = chunk?;
        self.rows = rows.into();
        self.next = next.map_or(Next::End, Next::From);
        Ok(())
    }
}

/// As a [`ChunkBudget`] counts.
fn row_bytes(row: &ScanRow) -> usize {
    row.key.len() + row.value.as_ref().map_or(0, |value| value.bytes.len()) + ScanRow::OVERHEAD_BYTES
}

#[cfg(test)]
mod tests;
