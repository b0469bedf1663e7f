//! Looks after retention: raises the oldest readable times as days go by, and has the store reclaim what they free.

use crate::cell::Inner;
use skein_cohort::Cohort;
use skein_model::{Retain, TableId};
use skein_storage::engine::Keyspace;
use std::collections::BTreeMap;
use std::sync::Weak;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// How long one attempt to raise horizons may take; the next interval tries again.
const RAISE_WITHIN: Duration = Duration::from_secs(10);
/// Between two reclaims at least; and at least ten times as long as the last one took.
const RECLAIM_PERIOD_MIN: Duration = Duration::from_secs(30);
/// What history has to have grown by since the last reclaim, or a fifth if that is more.
const RECLAIM_BYTES_MIN: u64 = 64 << 10;
/// Between two warnings about the same trouble.
const WARNING_PERIOD: Duration = Duration::from_secs(60);

/// Runs until the cell is gone or stopping.
pub(crate) async fn look_after(cell: Weak<Inner>, interval: Duration, mut stopping: watch::Receiver<bool>) {
    let mut tick = tokio::time::interval(interval);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut reclaim_due = false;
    let mut reclaim_not_before = Instant::now();
    let mut left_by_reclaim = 0;
    let mut warned: Option<Instant> = None;
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            _ = stopping.wait_for(|stopping| *stopping) => return,
        }
        let Some(inner) = cell.upgrade() else { return };
        let Some(cohort) = inner.cohort() else { continue };
        let tables: BTreeMap<TableId, Retain> =
            inner.facts().schema.tables().map(|(_, table)| (table.id, table.retain)).collect();
        drop(inner);
        match cohort.raise_horizons(&tables, Instant::now() + RAISE_WITHIN).await {
            Ok(raised) => reclaim_due |= raised,
            Err(error) => {
                if warned.is_none_or(|at| WARNING_PERIOD < at.elapsed()) {
                    warned = Some(Instant::now());
                    tracing::warn!(%error, "raise horizons; tried again every {interval:?}");
                }
                continue;
            }
        }
        if *stopping.borrow() {
            return;
        }
        // A reclaim reads and writes everything: it has to have something to gain.
        let gained = history_bytes(&cohort).saturating_sub(left_by_reclaim);
        let worth_it = RECLAIM_BYTES_MIN.max(left_by_reclaim / 5) <= gained;
        if reclaim_due && worth_it && reclaim_not_before <= Instant::now() {
            let started = Instant::now();
            match reclaim(&cohort).await {
                Ok(()) => {
                    reclaim_due = false;
                    left_by_reclaim = history_bytes(&cohort);
                }
                Err(error) => tracing::warn!(error, "reclaim superseded versions; tried again later"),
            }
            reclaim_not_before = Instant::now() + RECLAIM_PERIOD_MIN.max(started.elapsed() * 10);
        }
    }
}

/// Bytes that history and the outcomes of transactions take, what is not on disk yet included.
fn history_bytes(cohort: &Cohort) -> u64 {
    let stats = cohort.rows().stats();
    stats.disk_bytes_of(Keyspace::Past) + stats.disk_bytes_of(Keyspace::Tx) + stats.memtable_bytes
}

/// Compacts in the background; reads and writes go on.
async fn reclaim(cohort: &Cohort) -> Result<(), String> {
    // What a crash could forget may not be dropped for: first make the horizons durable.
    cohort.checkpoint().await.map_err(|e| e.to_string())?;
    let rows = cohort.rows();
    skein_storage::blocking(move || rows.reclaim())
        .await
        .map_err(|e| e.to_string())?
        .map_err(|e| e.to_string())
}
