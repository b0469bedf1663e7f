//! The drop rule as a compaction filter of the trees.

use super::Shared;
use crate::engine::{Drop, DropRule, ENGINE_KEY, Keyspace};
use lsm_tree::compaction::filter::Context;
use lsm_tree::compaction::{CompactionFilter, Factory, ItemAccessor, Verdict};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, Weak};

/// Holds the rule, which arrives after the trees were opened, and counts what it dropped.
#[derive(Default)]
pub(super) struct RuleSlot {
    rule: RwLock<Option<DropRule>>,
    shared: OnceLock<Weak<Shared>>,
    reclaimed: AtomicU64,
}

impl RuleSlot {
    pub(super) fn set(&self, rule: DropRule) {
        *self.rule.write().unwrap_or_else(PoisonError::into_inner) = Some(rule);
    }

    /// Where to learn the durable position from.
    pub(super) fn follow(&self, shared: &Arc<Shared>) {
        // Set once, by the only open of this slot's engine.
        let _ = self.shared.set(Arc::downgrade(shared));
    }

    pub(super) fn reclaimed(&self) -> u64 {
        self.reclaimed.load(Ordering::Relaxed)
    }

    fn shared(&self) -> Option<Arc<Shared>> {
        self.shared.get().and_then(Weak::upgrade)
    }
}

/// The filter factory of one tree.
pub(super) fn factory(keyspace: Keyspace, slot: Arc<RuleSlot>) -> Option<Arc<dyn Factory>> {
    match keyspace {
        // Its entries are few and overwritten in place.
        Keyspace::Meta => None,
        Keyspace::Head | Keyspace::Past | Keyspace::Tx => {
            Some(Arc::new(FilterFactory { keyspace, slot: AssertUnwindSafe(slot) }))
        }
    }
}

struct FilterFactory {
    keyspace: Keyspace,
    slot: AssertUnwindSafe<Arc<RuleSlot>>,
}

impl Factory for FilterFactory {
    fn name(&self) -> &str {
        self.keyspace.name()
    }

    fn make_filter(&self, _: &Context) -> Box<dyn CompactionFilter> {
        let shared = self.slot.shared();
        let durable = shared.as_ref().map_or(0, |shared| shared.durable.load(Ordering::Acquire));
        let rule = self.slot.rule.read().unwrap_or_else(PoisonError::into_inner).clone();
        Box::new(Filter {
            keyspace: self.keyspace,
            drop: rule.map(|rule| rule(durable)),
            slot: self.slot.0.clone(),
            shared,
            seen: 0,
            dropped: 0,
        })
    }
}

struct Filter {
    keyspace: Keyspace,
    drop: Option<Drop>,
    slot: Arc<RuleSlot>,
    shared: Option<Arc<Shared>>,
    seen: u64,
    dropped: u64,
}

impl CompactionFilter for Filter {
    fn filter_item(&mut self, item: ItemAccessor<'_>, _: &Context) -> lsm_tree::Result<Verdict> {
        self.seen += 1;
        // An error is how a compaction that would take long is made to give way to a shutdown; nothing is lost.
        if self.seen.is_multiple_of(4096) && self.shared.as_ref().is_none_or(|shared| shared.is_closing()) {
            return Err(lsm_tree::Error::Io(std::io::Error::new(
                std::io::ErrorKind::Interrupted,
                "the engine is closing",
            )));
        }
        let Some(drop) = &self.drop else { return Ok(Verdict::Keep) };
        if item.key().first() == Some(&ENGINE_KEY) && self.keyspace == Keyspace::Meta {
            return Ok(Verdict::Keep);
        }
        if drop(self.keyspace, item.key(), &item.value()?) {
            self.dropped += 1;
            // Not `Destroy`: that would uncover an older entry of the same key further down. `Remove` leaves a marker
            // that vanishes in the last level.
            return Ok(Verdict::Remove);
        }
        Ok(Verdict::Keep)
    }

    fn finish(self: Box<Self>) {
        self.slot.reclaimed.fetch_add(self.dropped, Ordering::Relaxed);
        metrics::counter!("skein_versions_reclaimed_total").increment(self.dropped);
    }
}
