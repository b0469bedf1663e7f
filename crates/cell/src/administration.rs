//! What an administrator asks of the cell: another schema, another atlas, a peer that leads nothing, a directory given up; and
//! which peers hold what.

use crate::api::HostWeight;
use crate::catalog::{CatalogError, Command, Outcome};
use crate::cell::Cell;
use crate::errors::{PutAtlasError, PutSchemaError};
use skein_model::{Atlas, Cohort, HostId, Schema, Slice};
use std::sync::Arc;
use tokio::time::Instant;

impl Cell {
    /// Replaces the schema; answers when the new one is durable, and in force on this peer.
    ///
    /// Errors: those of the text; the catalog's, after which nothing changed but for [`CatalogError::Unknown`].
    pub async fn put_schema(&self, text: &str, deadline: Instant) -> Result<(), PutSchemaError> {
        Schema::parse(text)?;
        let command = Command::PutSchema { text: text.to_owned(), if_version: None };
        let outcome = self.inner.catalog.change(command, deadline).await?;
        self.catch_up(outcome, deadline).await;
        Ok(())
    }

    /// Asks for new cohorts; answers when the change is durable, and in force on this peer. `if_version` makes it conditional.
    ///
    /// Errors: those of the targets; the catalog's, after which nothing changed but for [`CatalogError::Unknown`].
    pub async fn put_atlas(
        &self,
        targets: Vec<Cohort>,
        if_version: Option<u64>,
        deadline: Instant,
    ) -> Result<Arc<Atlas>, PutAtlasError> {
        let changed = self.inner.catalog.put_atlas(targets, if_version, deadline).await;
        let outcome = changed.map_err(|error| match error {
            CatalogError::NoFounder { .. } => PutAtlasError::Unsupported {
                detail: format!(
                    "{error}; start it with --hail and the address of this peer, or begin with this host alone: PUT \
                     [{{\"hosts\":[\"{}\"]}}].",
                    self.host()
                ),
            },
            other => other.into(),
        })?;
        self.catch_up(outcome, deadline).await;
        Ok(self.atlas())
    }

    /// Takes over the catalog with the change of this index, so that whoever asked for it finds it here, and requests go by it.
    /// Should that fail, the flock brings it a little later.
    async fn catch_up(&self, outcome: Outcome, deadline: Instant) {
        // What changed nothing left the version as it was.
        let index = if outcome.changed { outcome.index } else { self.inner.state().version };
        if self.inner.state().version < index
            && let Ok(state) = self.inner.catalog.read_linearizable(deadline).await
            && let Err(error) = self.inner.catalog.learn(state).await
        {
            tracing::error!(%error, "take over a change of the catalog");
        }
        let mut routes = self.inner.routes.subscribe();
        let followed = routes.wait_for(|routes| index <= routes.state.version);
        if tokio::time::timeout_at(deadline, followed).await.is_err() {
            tracing::warn!(index, "requests here do not go by the newest catalog yet");
        }
    }

    /// Says that a host's directory is lost for good; it may then come back with another one. Tells whether the directory was
    /// known.
    ///
    /// Errors: the catalog's; nothing changed but after [`CatalogError::Unknown`].
    pub async fn forget(&self, host: HostId, deadline: Instant) -> Result<bool, CatalogError> {
        let outcome = self.inner.catalog.change(Command::Forget { host }, deadline).await?;
        self.catch_up(outcome, deadline).await;
        Ok(outcome.changed)
    }

    /// Has this peer lead nothing (or, with `false`, its share again). Remembered across restarts.
    pub fn drain(&self, on: bool) {
        self.inner.gossip.drain(on);
    }

    /// Whether this peer wants to lead nothing.
    pub fn is_draining(&self) -> bool {
        self.inner.gossip.is_draining()
    }

    /// The peers that store part of a slice, with their weights.
    pub fn hosts(&self, slice: Slice) -> Vec<HostWeight> {
        let options = &self.inner.options;
        let view = self.inner.gossip.look();
        let addr = |host: HostId| match view.peers.get(&host) {
            _ if host == options.host => Some(options.share_http_addr.clone()),
            Some(peer) => peer.http.clone(),
            None => None,
        };
        let weights = self.atlas().slice_weights(slice).into_iter();
        weights.map(|(host, weight)| HostWeight { weight, host, addr: addr(host), ssl_addr: None }).collect()
    }
}
