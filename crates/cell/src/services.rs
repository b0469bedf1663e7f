//! What this peer does for others: the inner side of the [door](crate::link::Door).

use crate::cell::Inner;
use crate::link::{Services, fail, failure};
use crate::wire::{self, Ask};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use skein_cohort::peers::Replica;
use skein_model::{GroupId, HostId, StoreId};
use skein_transport::{Chunks, Failure};
use std::sync::{Arc, Weak};
use tokio::time::Instant;

/// Answers for a cell as long as it lives.
pub(crate) struct CellServices(pub(crate) Weak<Inner>);

impl CellServices {
    fn inner(&self) -> Result<Arc<Inner>, Failure> {
        self.0.upgrade().ok_or_else(|| fail(failure::NOT_READY, "the peer is stopping"))
    }
}

fn no_replica(group: GroupId) -> Failure {
    fail(failure::REFUSED, format!("this host has no replica of group {group}"))
}

/// An answer that is there already.
fn at_once(answer: Failure) -> BoxFuture<'static, Result<Bytes, Failure>> {
    Box::pin(std::future::ready(Err(answer)))
}

impl Services for CellServices {
    fn admit(&self, host: HostId, store: StoreId) -> Result<(), String> {
        let Some(inner) = self.0.upgrade() else { return Err("the peer is stopping".into()) };
        inner.catalog().admit(host, store)
    }

    fn up(&self, host: HostId) {
        let Some(inner) = self.0.upgrade() else { return };
        // Short, and away from the connection that has just come up.
        tokio::spawn(async move {
            for (_, cohort) in inner.groups().all() {
                cohort.peer_up(host).await;
            }
            inner.catalog().group().peer_up(host).await;
        });
    }

    fn group(
        &self,
        group: GroupId,
        from: Replica,
        body: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, Failure>> {
        let inner = match self.inner() {
            Ok(inner) => inner,
            Err(failure) => return at_once(failure),
        };
        Box::pin(async move {
            let answer = match inner.groups().get(group) {
                _ if group == GroupId::CATALOG => inner.catalog().receive(from, body).await,
                Some(cohort) => cohort.receive(from, body).await,
                None => return Err(no_replica(group)),
            };
            answer.map_err(|error| fail(failure::REFUSED, error))
        })
    }

    fn group_stream(&self, group: GroupId, from: Replica, body: Bytes) -> Chunks<Failure> {
        let chunks = self.inner().and_then(|inner| match inner.groups().get(group) {
            _ if group == GroupId::CATALOG => Ok(inner.catalog().serve(from, body)),
            Some(cohort) => Ok(cohort.serve(from, body)),
            None => Err(no_replica(group)),
        });
        match chunks {
            Ok(chunks) => chunks.map(|chunk| chunk.map_err(|error| fail(failure::REFUSED, error))).boxed(),
            Err(failure) => futures_util::stream::iter([Err(failure)]).boxed(),
        }
    }

    fn rows(&self, body: Bytes, deadline: Instant) -> BoxFuture<'static, Result<Bytes, Failure>> {
        let inner = match self.inner() {
            Ok(inner) => inner,
            Err(failure) => return at_once(failure),
        };
        Box::pin(async move {
            let ask: Ask =
                wire::decode("request about rows", &body).map_err(|e| fail(failure::REFUSED, e))?;
            drop(body);
            let answer = inner.router().answer(ask, deadline).await;
            wire::encode(&answer).map_err(|e| fail(failure::REFUSED, e))
        })
    }

    fn catalog(
        &self,
        from: HostId,
        body: Bytes,
        deadline: Instant,
    ) -> BoxFuture<'static, Result<Bytes, Failure>> {
        let inner = match self.inner() {
            Ok(inner) => inner,
            Err(failure) => return at_once(failure),
        };
        Box::pin(async move { Ok(inner.catalog().answer(from, body, deadline).await) })
    }

    fn status(&self) -> BoxFuture<'static, Result<Bytes, Failure>> {
        let inner = match self.inner() {
            Ok(inner) => inner,
            Err(failure) => return at_once(failure),
        };
        Box::pin(async move { wire::encode(&inner.led()).map_err(|e| fail(failure::REFUSED, e)) })
    }
}
