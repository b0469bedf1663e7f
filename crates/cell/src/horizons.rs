//! Looks after retention: raises the oldest readable times as days go by, and has the store reclaim what they free.

use crate::cell::Inner;
use skein_cohort::Cohort;
use skein_model::{Retain, TableId};
use std::collections::BTreeMap;
use std::sync::Weak;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How long one attempt to raise horizons may take; the next interval tries again.
const RAISE_WITHIN: Duration = Duration::from_secs(10);
/// Between two reclaims at least; and at least ten times as long as the last one took.
const RECLAIM_PERIOD_MIN: Duration = Duration::from_secs(30);

/// Runs until the cell is gone or stopping.
pub(crate) async fn look_after(cell: Weak<Inner>, interval: Duration, mut stopping: watch::Receiver<bool>) {
    let mut tick = tokio::time::interval(interval);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut reclaim_due = false;
    let mut reclaim_not_before = Instant::now();
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
                tracing::warn!(%error, "raise horizons; tried again soon");
                continue;
            }
        }
        if *stopping.borrow() {
            return;
        }
        if reclaim_due && reclaim_not_before <= Instant::now() {
            let started = Instant::now();
            match reclaim(&cohort).await {
                Ok(()) => reclaim_due = false,
                Err(error) => tracing::warn!(error, "reclaim superseded versions; tried again later"),
            }
            reclaim_not_before = Instant::now() + RECLAIM_PERIOD_MIN.max(started.elapsed() * 10);
        }
    }
}

/// Compacts in the background; reads and writes go on.
async fn reclaim(cohort: &Cohort) -> Result<(), String> {
    // What a crash could forget may not be dropped for: first make the horizons durable.
    cohort.checkpoint().await.map_err(|e| e.to_string())?;
    let rows = cohort.rows().clone();
    tokio::task::spawn_blocking(move || rows.reclaim())
        .await
        .map_err(|e| e.to_string())?
        .map_err(|e| e.to_string())
}
