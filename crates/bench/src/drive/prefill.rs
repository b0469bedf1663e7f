//! Writes the rows that a reading workload needs.

use super::{Client, Target};
use crate::error::BenchError;
use crate::tally::Failure;
use crate::workload::{Op, Values};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;

/// Connections that fill side by side: enough to keep a group commit busy.
const CLIENTS: u64 = 8;
/// A fill request is far larger than any measured one, so it may take this long.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Writes rows `0..keys` with values of `value_bytes` bytes drawn from `seed`, on the calling runtime.
///
/// Errors: those of [`Target::connect`]; [`BenchError::Prefill`] when a request failed, and then the client that
/// met it has stopped, so that a dead server is not asked for every row.
pub async fn prefill<T: Target>(
    target: &T,
    keys: u64,
    value_bytes: usize,
    seed: u64,
) -> Result<(), BenchError> {
    let chunk = target.fill_rows_max(value_bytes).max(1);
    let next = Arc::new(AtomicU64::new(0));
    let failures: Arc<Mutex<Vec<Failure>>> = Arc::default();
    let mut tasks = JoinSet::new();
    for number in 0..CLIENTS {
        let mut client = target.connect(number).await?;
        let (next, failures) = (next.clone(), failures.clone());
        tasks.spawn(async move {
            let mut values = Values::new(value_bytes, seed, number);
            loop {
                let first = next.fetch_add(chunk, Ordering::Relaxed);
                if first >= keys {
                    return;
                }
                let fill = Op::Fill { first, count: chunk.min(keys - first) };
                let answer = tokio::time::timeout(TIMEOUT, client.perform(fill, &mut values)).await;
                if let Err(failure) = answer.unwrap_or(Err(Failure::Named("timed out"))) {
                    failures.lock().unwrap_or_else(PoisonError::into_inner).push(failure);
                    return;
                }
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.map_err(|_| BenchError::LostThread)?;
    }
    let failures = failures.lock().unwrap_or_else(PoisonError::into_inner);
    match failures.first() {
        None => Ok(()),
        Some(first) => {
            Err(BenchError::Prefill { keys, failed: failures.len() as u64, first: first.to_string() })
        }
    }
}
