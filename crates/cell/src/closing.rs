//! How a peer stops.

use crate::cell::Cell;
use skein_storage::blocking;
use std::sync::PoisonError;
use std::time::Duration;
use tokio::time::Instant;

impl Cell {
    /// Hands over what this peer leads, within this time, and tells the others that it wants to lead nothing until it is started
    /// again; rows are served meanwhile and afterwards. For a peer that is about to stop: who asks it until then hardly notices.
    pub async fn step_down(&self, within: Duration) {
        self.inner.gossip.leave();
        self.inner.hand_over_all(within).await;
    }

    /// Hands over what this peer leads, finishes what is in flight, for at most `grace`, and closes the log and the store.
    ///
    /// When this returns within `grace`, nothing of this cell touches the directory any more.
    pub async fn shutdown(&self, grace: Duration) {
        let inner = &self.inner;
        let deadline = Instant::now() + grace;
        inner.hand_over_all(grace / 4).await;
        inner.stopping.send_replace(true);
        let left = || deadline.saturating_duration_since(Instant::now());
        let replicas = inner.groups.all();
        futures_util::future::join_all(replicas.iter().map(|(_, cohort)| cohort.close(left()))).await;
        inner.catalog.close().await;
        if let Some(transport) = inner.link.transport() {
            transport.close(left() / 2).await;
        }
        // One may be compacting, which cannot be interrupted.
        let tasks = std::mem::take(&mut *inner.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        for task in tasks {
            if tokio::time::timeout_at(deadline, task).await.is_err() {
                tracing::warn!("stopping while superseded versions are being reclaimed; that is harmless");
            }
        }
        let log = inner.log.clone();
        if let Err(error) = blocking(move || log.close()).await {
            tracing::error!(%error, "close the log");
        }
    }
}
