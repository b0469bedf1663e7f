//! Scans: one time for all cohorts that hold rows of the slice, and their chunks merged in the order of keys.

use crate::api::*;
use crate::cell::{Cell, is_alone};
use crate::merge::{Merge, Source};
use crate::router::{CohortRows, Router, unexpected};
use crate::wire::{Told, Want};
use skein_cohort::ScanOptions;
use skein_model::TxClock;
use skein_storage::rows::{ChunkBudget, ScanPosition, ScanRow, ScanSpec};
use tokio::time::Instant;

impl Cell {
    /// Begins a scan: settles one time for all cohorts that hold rows of the slice.
    pub async fn scan(&self, request: ScanRequest, deadline: Instant) -> Result<Scan, CellError> {
        let router = &self.inner.router;
        let routes = router.routes(deadline).await?;
        let positions = Router::positions(&routes, request.slice);
        let window = request.window;
        if let [position] = positions[..]
            && is_alone(&routes, position, self.host())
            && let Some(Some(cohort)) = routes.local.get(position)
        {
            cohort.leads().await?;
            let options = ScanOptions {
                table: request.table,
                pick: window.pick,
                since: window.since,
                until: window.until,
                key: request.key,
                time: request.time,
                end: request.end,
                slice: request.slice,
            };
            let scan = cohort.scan(options, deadline).await?;
            return Ok(Scan { until: scan.until(), rows: ScanRows::Here(scan) });
        }
        let places: Vec<_> =
            positions.iter().map(|position| router.place(&routes, *position)).collect::<Result<_, _>>()?;
        let promises = places.iter().map(|place| async {
            match router.ask(place, Want::Promise(window.until), None, deadline, None).await? {
                Told::Promised(time) => Ok(time),
                other => Err(unexpected(&other)),
            }
        });
        // Whatever was acknowledged before has a time at or before that of its own leader's promise.
        let mut until = TxClock::ZERO;
        for promised in futures_util::future::join_all(promises).await {
            until = until.max(promised?);
        }
        let spec = ScanSpec {
            table: request.table,
            window: window.until(until),
            slice: request.slice,
            end: request.end,
        };
        let source = |place| {
            Box::new(CohortRows { router: router.clone(), place, spec: spec.clone() }) as Box<dyn Source>
        };
        let from = ScanPosition { key: request.key, time: request.time };
        let merge = Merge::new(places.into_iter().map(source).collect(), &from);
        Ok(Scan { until, rows: ScanRows::Merged(merge) })
    }
}

/// A scan under way; a consistent snapshot however long it takes.
pub struct Scan {
    until: TxClock,
    rows: ScanRows,
}

enum ScanRows {
    /// All rows are with this peer, and nobody else has a say.
    Here(skein_cohort::Scan),
    /// From whoever leads.
    Merged(Merge),
}

impl Scan {
    /// The settled upper bound of the scan's window.
    pub fn until(&self) -> TxClock {
        self.until
    }

    /// The next selected versions, at most `rows_max` of them and about `bytes_max` bytes of values; empty
    /// at the end of the scan, and only there.
    pub async fn next(&mut self, rows_max: usize, bytes_max: usize) -> Result<Vec<ScanRow>, CellError> {
        let budget = ChunkBudget { rows: rows_max, bytes: bytes_max };
        match &mut self.rows {
            ScanRows::Here(scan) => Ok(scan.next(budget).await?),
            ScanRows::Merged(merge) => merge.next(budget).await,
        }
    }
}
