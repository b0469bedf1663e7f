//! Looks after retention: raises the oldest readable times as days go by, and has the store reclaim what they free.

use crate::cell::Inner;
use skein_cohort::{Cohort, CohortError};
use skein_model::{GroupId, Retain, TableId};
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

/// What is known of one cohort's garbage.
#[derive(Default)]
struct Garbage {
    due: bool,
    not_before: Option<Instant>,
    left: u64,
}

/// Runs until the cell is gone or stopping. Horizons are raised by whoever leads; every replica reclaims what they free.
pub(crate) async fn look_after(cell: Weak<Inner>, interval: Duration, mut stopping: watch::Receiver<bool>) {
    let mut tick = tokio::time::interval(interval);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut garbage: BTreeMap<GroupId, Garbage> = BTreeMap::new();
    let mut warned: Option<Instant> = None;
    loop {
        tokio::select! {
            biased;
            _ = async { stopping.wait_for(|stopping| *stopping).await.map(drop) } => return,
            _ = tick.tick() => {}
        }
        let Some(inner) = cell.upgrade() else { return };
        let cohorts = inner.groups().all();
        let tables: BTreeMap<TableId, Retain> =
            inner.state().schema.tables().map(|(_, table)| (table.id, table.retain)).collect();
        drop(inner);
        garbage.retain(|group, _| cohorts.iter().any(|(it, _)| it == group));
        for (group, cohort) in cohorts {
            if *stopping.borrow() {
                return;
            }
            let heap = garbage.entry(group).or_default();
            if cohort.leader().borrow().leading {
                match cohort.raise_horizons(&tables, Instant::now() + RAISE_WITHIN).await {
                    Ok(raised) => heap.due |= raised,
                    // Somebody else leads now, and raises them.
                    Err(CohortError::NotLeader { .. }) => {}
                    Err(error) => {
                        if warned.is_none_or(|at| WARNING_PERIOD < at.elapsed()) {
                            warned = Some(Instant::now());
                            tracing::warn!(%group, %error, "raise horizons; tried again every {interval:?}");
                        }
                        continue;
                    }
                }
            } else {
                // What the leader raised shows in the rows; whether there is anything to gain is looked at below.
                heap.due = true;
            }
            heap.reclaim(&cohort).await;
        }
    }
}

impl Garbage {
    /// A reclaim reads and writes everything: it has to have something to gain.
    async fn reclaim(&mut self, cohort: &Cohort) {
        let gained = history_bytes(cohort).saturating_sub(self.left);
        let worth_it = RECLAIM_BYTES_MIN.max(self.left / 5) <= gained;
        if !self.due || !worth_it || self.not_before.is_some_and(|until| Instant::now() < until) {
            return;
        }
        let started = Instant::now();
        match reclaim(cohort).await {
            Ok(()) => {
                self.due = false;
                self.left = history_bytes(cohort);
            }
            Err(error) => tracing::warn!(error, "reclaim superseded versions; tried again later"),
        }
        self.not_before = Some(Instant::now() + RECLAIM_PERIOD_MIN.max(started.elapsed() * 10));
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
