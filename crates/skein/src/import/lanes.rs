//! Batches to the server: one reader, several lanes, each with one connection and one batch under way.

use super::Meter;
use super::plan::{Batch, Planner, RunId};
use super::source::{BadLine, Source};
use crate::client::{Call, Connection, Target};
use bytes::Bytes;
use http::{Method, StatusCode};
use skein_model::TxId;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// Batches that wait for their lane; with lanes of one mebibyte this bounds the memory of an import.
const WAITING_PER_LANE: usize = 2;
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// What the lanes need to know.
#[derive(Debug, Clone)]
pub struct Run {
    /// The server.
    pub target: Target,
    /// The table, by name or ID.
    pub table: String,
    /// How many lanes.
    pub lanes: u16,
    /// Most rows in one batch.
    pub batch: u32,
    /// What the transaction IDs begin with.
    pub run: RunId,
    /// How long a batch is tried.
    pub retry_for: Duration,
}

/// Why not all batches are in. Those that the [`Meter`] counts are.
#[derive(Debug, thiserror::Error)]
pub enum LaneError {
    /// The input could not be read on.
    #[error("read the file")]
    Read(#[from] io::Error),
    /// The server refused a batch, and would again.
    #[error("the server refused a batch: {0}")]
    Refused(String),
    /// The server was away or overloaded for too long. The last batch may or may not be in.
    #[error("no success within {tried:?}; last: {last}")]
    GaveUp {
        /// How long a batch was tried.
        tried: Duration,
        /// What the last try came to.
        last: String,
    },
    /// We were asked to stop.
    #[error("it was interrupted")]
    Stopped,
    /// A part of this process failed.
    #[error("internal failure: {0}")]
    Internal(String),
}

/// Sends everything that `source` gives. Stops early when `stop` turns true or its sender is gone.
pub async fn send_all(
    run: Run,
    source: Box<dyn Source>,
    meter: Arc<Meter>,
    mut stop: watch::Receiver<bool>,
) -> Result<(), LaneError> {
    let (halt, halted) = watch::channel(false);
    let mut lanes = JoinSet::new();
    let mut doors = Vec::new();
    for _ in 0..run.lanes {
        let (door, batches) = mpsc::channel(WAITING_PER_LANE);
        doors.push(door);
        lanes.spawn(lane(run.clone(), batches, meter.clone(), halted.clone()));
    }
    let reader = tokio::task::spawn_blocking(move || deal(&run, source, &doors, &meter));

    let mut first_error = None;
    loop {
        let ended = tokio::select! {
            ended = lanes.join_next() => ended,
            _ = stop.wait_for(|stop| *stop), if first_error.is_none() => {
                first_error = Some(LaneError::Stopped);
                halt.send_replace(true);
                continue;
            }
        };
        let error = match ended {
            None => break,
            Some(Ok(Ok(()))) => continue,
            Some(Ok(Err(error))) => error,
            Some(Err(e)) => LaneError::Internal(e.to_string()),
        };
        // The lanes that stop because of the first error have nothing to add to it.
        first_error.get_or_insert(error);
        halt.send_replace(true);
    }
    match first_error {
        // The reader may be waiting for input that never comes, so nobody waits for the reader.
        Some(error) => Err(error),
        // Lanes end without an error only when the reader has let go of their doors.
        None => reader.await.unwrap_or_else(|e| Err(LaneError::Internal(e.to_string()))),
    }
}

/// Reads rows and hands batches to the lanes; ends quietly when a lane has gone, which has its own reason.
fn deal(
    run: &Run,
    mut source: Box<dyn Source>,
    doors: &[mpsc::Sender<Batch>],
    meter: &Meter,
) -> Result<(), LaneError> {
    let mut planner = Planner::new(&run.table, run.lanes, run.batch);
    let hand_over = |batch: Batch| {
        if meter.is_done(batch.lane, batch.number) {
            meter.batch_skipped(batch.rows.len() as u64);
            return true;
        }
        doors[batch.lane].blocking_send(batch).is_ok()
    };
    while let Some(next) = source.next()? {
        match next {
            Ok(row) => {
                if let Some(batch) = planner.push(row)
                    && !hand_over(batch)
                {
                    return Ok(());
                }
            }
            Err(bad) => meter.bad_line(bad),
        }
    }
    for batch in planner.finish() {
        if !hand_over(batch) {
            return Ok(());
        }
    }
    Ok(())
}

async fn lane(
    run: Run,
    mut batches: mpsc::Receiver<Batch>,
    meter: Arc<Meter>,
    mut halted: watch::Receiver<bool>,
) -> Result<(), LaneError> {
    let mut connection = Connection::new(run.target.clone());
    loop {
        let batch = tokio::select! {
            biased;
            _ = halted.wait_for(|halted| *halted) => return Err(LaneError::Stopped),
            batch = batches.recv() => batch,
        };
        let Some(batch) = batch else { return Ok(()) };
        let rows = send_batch(&run, &mut connection, &batch, &meter, &mut halted).await?;
        meter.batch_done(batch.lane, batch.number, rows);
    }
}

/// Writes a batch and gives how many of its rows are in. When the server will not have it, its rows go one by
/// one, and those that are refused alone become bad lines.
async fn send_batch(
    run: &Run,
    connection: &mut Connection,
    batch: &Batch,
    meter: &Meter,
    halted: &mut watch::Receiver<bool>,
) -> Result<u64, LaneError> {
    let id = |alone| run.run.transaction(batch.lane, batch.number, alone);
    let rows = batch.rows.len();
    let first_answer = match send(run, connection, id(None), batch.body.clone(), halted).await? {
        Sent::Written => return Ok(rows as u64),
        Sent::Refused(answer) => answer,
    };
    let mut bad = Vec::new();
    for (row, (line, _)) in batch.rows.iter().enumerate() {
        if let Sent::Refused(reason) = send(run, connection, id(Some(row)), batch.alone(row), halted).await? {
            bad.push(BadLine { line: *line, reason: format!("the server refused it: {reason}") });
        }
    }
    if bad.len() == rows && 1 < rows {
        // It is not the rows then: the table has gone, or this is another kind of server.
        return Err(LaneError::Refused(first_answer));
    }
    let written = rows - bad.len();
    bad.into_iter().for_each(|line| meter.bad_line(line));
    Ok(written as u64)
}

/// What became of a request that was answered.
enum Sent {
    Written,
    /// The request itself is at fault, in the server's words.
    Refused(String),
}

/// Sends one request until it is answered for good. Repeating it is safe: its ID lets the server write it once.
async fn send(
    run: &Run,
    connection: &mut Connection,
    id: TxId,
    body: Bytes,
    halted: &mut watch::Receiver<bool>,
) -> Result<Sent, LaneError> {
    let call = Call::new(Method::POST, "/batch-write")
        .header("content-type", "application/json")
        .header("transaction-id", id.to_string())
        .body(body);
    let (started, mut pause) = (Instant::now(), PAUSE_MIN);
    loop {
        // To give up waiting is as safe as to send again: only what was answered counts as written.
        let answered = tokio::select! {
            answered = connection.call(call.clone()) => answered,
            _ = halted.wait_for(|halted| *halted) => return Err(LaneError::Stopped),
        };
        let (last, wanted_pause) = match answered {
            Ok(answer) if answer.status.is_success() => return Ok(Sent::Written),
            Ok(answer) if answer.worth_retrying() => (answer.explanation(), answer.retry_after),
            Ok(answer)
                if matches!(answer.status, StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE) =>
            {
                return Ok(Sent::Refused(answer.explanation()));
            }
            Ok(answer) => return Err(LaneError::Refused(answer.explanation())),
            Err(error) => (chain(&error), None),
        };
        if run.retry_for <= started.elapsed() {
            return Err(LaneError::GaveUp { tried: run.retry_for, last });
        }
        tokio::select! {
            () = tokio::time::sleep(wanted_pause.unwrap_or(pause).min(PAUSE_MAX)) => {}
            _ = halted.wait_for(|halted| *halted) => return Err(LaneError::Stopped),
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
