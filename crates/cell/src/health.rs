//! How this peer itself is doing: its tables, whether it serves rows, and the gauges that are read rather than counted.

use crate::api::{CellError, Readiness, TableInfo};
use crate::cell::Cell;
use crate::status::CopyStatus;
use skein_cohort::CohortError;
use skein_model::{TableId, TxClock};
use skein_storage::blocking;
use std::collections::BTreeMap;

impl Cell {
    /// The tables that hold rows on this host.
    pub async fn tables(&self) -> Result<Vec<TableInfo>, CellError> {
        let mut oldest: BTreeMap<TableId, TxClock> = BTreeMap::new();
        for (_, cohort) in self.inner.groups.all() {
            let rows = cohort.rows();
            let tables = blocking(move || rows.tables())
                .await
                .map_err(|e| CellError::DiskFailed { detail: e.to_string() })?
                .map_err(|e| CellError::from(CohortError::from(e)))?;
            for table in tables {
                let known = oldest.entry(table.id).or_default();
                *known = table.horizon.max(*known);
            }
        }
        let schema = self.schema();
        let name = |id| schema.tables().find(|(_, table)| table.id == id).map(|(name, _)| name.to_owned());
        Ok(oldest.into_iter().map(|(id, oldest)| TableInfo { id, name: name(id), oldest }).collect())
    }

    /// Whether rows are being served.
    pub fn readiness(&self) -> Readiness {
        let inner = &self.inner;
        if let Some(conflict) = *inner.catalog.conflict().borrow() {
            return Readiness::NotReady(conflict.to_string());
        }
        let routes = inner.routes.borrow().clone();
        if routes.local.is_empty() {
            return Readiness::NotReady("there is no atlas; PUT /atlas, or start with --solo".into());
        }
        for facts in &routes.state.cohorts {
            if let Some(failure) = inner.groups.failure(facts.group) {
                return Readiness::NotReady(failure);
            }
        }
        match inner.log.health() {
            Ok(()) => Readiness::Ready,
            Err(error) => Readiness::NotReady(error.to_string()),
        }
    }

    /// Refreshes the gauges that are read rather than counted. Called before metrics are rendered.
    pub fn refresh_metrics(&self) {
        let inner = &self.inner;
        let log = inner.log.stats();
        metrics::gauge!("skein_log_bytes").set(log.bytes_on_disk as f64);
        metrics::gauge!("skein_log_live_bytes").set(log.live_bytes as f64);
        inner.drives.stats();
        let replicas = inner.groups.all();
        let replay: u64 = replicas.iter().map(|(_, cohort)| cohort.log_bytes_since_checkpoint()).sum();
        metrics::gauge!("skein_log_replay_bytes").set(replay as f64);
        let leading = replicas.iter().filter(|(_, cohort)| cohort.leader().borrow().leading).count();
        metrics::gauge!("skein_replicas").set(replicas.len() as f64);
        metrics::gauge!("skein_replicas_led").set(leading as f64);
        metrics::gauge!("skein_peers_known").set(inner.gossip.look().peers.len() as f64);
        metrics::gauge!("skein_peers_connected").set(inner.link.connected().len() as f64);
        let state = inner.state();
        let moving = state.atlas.cohorts.iter().filter(|cohort| !cohort.is_settled()).count();
        metrics::gauge!("skein_cohorts_moving").set(moving as f64);
        let led = inner.led();
        let copies: Vec<_> =
            led.iter().flat_map(|it| &it.replicas).filter_map(|replica| replica.copy).collect();
        let sum = |of: fn(&CopyStatus) -> u64| copies.iter().map(of).sum::<u64>() as f64;
        metrics::gauge!("skein_copies").set(copies.len() as f64);
        metrics::gauge!("skein_copy_bytes_arrived").set(sum(|copy| copy.bytes));
        metrics::gauge!("skein_copy_bytes_expected").set(sum(|copy| copy.bytes_total.max(copy.bytes)));
        metrics::gauge!("skein_copy_rows_arrived").set(sum(|copy| copy.rows));
        metrics::gauge!("skein_copy_rows_expected").set(sum(|copy| copy.rows_total.max(copy.rows)));
        metrics::gauge!("skein_copy_bytes_per_second").set(sum(|copy| copy.bytes_per_second.unwrap_or(0)));
        let rows: u64 = led.iter().map(|it| it.rows).sum();
        metrics::gauge!("skein_rows_led").set(rows as f64);
        let lag = led.iter().flat_map(|it| &it.replicas).filter_map(|it| it.lag).max().unwrap_or(0);
        metrics::gauge!("skein_replica_lag_entries").set(lag as f64);
    }
}
