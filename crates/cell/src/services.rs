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

/// An answer that is there already.
fn at_once(answer: Failure) -> BoxFuture<'static, Result<Bytes, Failure>> {
    Box::pin(std::future::ready(Err(answer)))
}

impl Services for CellServices {
    fn admit(&self, host: HostId, store: StoreId) -> Result<(), String> {
        let Some(inner) = self.0.upgrade() else { return Err("the peer is stopping".into()) };
        match inner.state().members.get(&host) {
            Some(known) if *known != store => Err(format!(
                "host {host} is known by the directory {known} and comes with {store}; if its old directory is lost for \
                 good, run: skein forget {host}"
            )),
            _ => Ok(()),
        }
    }

    fn group(&self, group: GroupId, _from: Replica, _body: Bytes) -> BoxFuture<'static, Result<Bytes, Failure>> {
        at_once(fail(failure::REFUSED, format!("this host has no replica of group {group}")))
    }

    fn group_stream(&self, group: GroupId, _from: Replica, _body: Bytes) -> Chunks<Failure> {
        let failure = fail(failure::REFUSED, format!("this host has no replica of group {group}"));
        futures_util::stream::iter([Err(failure)]).boxed()
    }

    fn rows(&self, body: Bytes, deadline: Instant) -> BoxFuture<'static, Result<Bytes, Failure>> {
        let inner = match self.inner() {
            Ok(inner) => inner,
            Err(failure) => return at_once(failure),
        };
        Box::pin(async move {
            let ask: Ask = wire::decode("request about rows", &body).map_err(|e| fail(failure::REFUSED, e))?;
            drop(body);
            let answer = inner.router().answer(ask, deadline).await;
            wire::encode(&answer).map_err(|e| fail(failure::REFUSED, e))
        })
    }

    fn catalog(&self, _from: HostId, _body: Bytes, _deadline: Instant) -> BoxFuture<'static, Result<Bytes, Failure>> {
        at_once(fail(failure::REFUSED, "this host keeps a catalog of its own"))
    }

    fn status(&self) -> BoxFuture<'static, Result<Bytes, Failure>> {
        let inner = match self.inner() {
            Ok(inner) => inner,
            Err(failure) => return at_once(failure),
        };
        Box::pin(async move { wire::encode(&inner.led()).map_err(|e| fail(failure::REFUSED, e)) })
    }
}
