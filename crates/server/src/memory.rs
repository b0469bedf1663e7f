//! How much memory requests may hold: a count of bytes that is reserved before they are read.

use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A shared budget of bytes; clones share it.
#[derive(Debug, Clone)]
pub struct MemoryBudget {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    used: AtomicUsize,
    limit: AtomicUsize,
}

impl MemoryBudget {
    /// A budget of `limit` bytes, none of them in use.
    pub fn new(limit: usize) -> Self {
        Self { shared: Arc::new(Shared { used: AtomicUsize::new(0), limit: AtomicUsize::new(limit) }) }
    }

    /// Reserves `bytes` until the permit is dropped; `None`, and nothing reserved, if they do not fit.
    pub fn try_reserve(&self, bytes: usize) -> Option<Permit> {
        let mut permit = Permit { budget: self.clone(), bytes: 0 };
        permit.try_grow(bytes).then_some(permit)
    }

    /// Bytes reserved now.
    pub fn used(&self) -> usize {
        self.shared.used.load(Ordering::Relaxed)
    }

    /// Bytes that may be reserved altogether.
    pub fn limit(&self) -> usize {
        self.shared.limit.load(Ordering::Relaxed)
    }

    /// Sets the limit. What is reserved above a lowered limit stays reserved; nothing is added to it.
    pub fn set_limit(&self, bytes: usize) {
        self.shared.limit.store(bytes, Ordering::Relaxed);
    }
}

/// Bytes reserved from a [`MemoryBudget`]; dropping it gives them back.
#[derive(Debug)]
pub struct Permit {
    budget: MemoryBudget,
    bytes: usize,
}

impl Permit {
    /// Reserves `more` bytes on top; false, and nothing changed, if they do not fit.
    pub fn try_grow(&mut self, more: usize) -> bool {
        let limit = self.budget.limit();
        let grown = self.budget.shared.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(more).filter(|sum| *sum <= limit)
        });
        if grown.is_ok() {
            self.bytes += more;
        }
        grown.is_ok()
    }

    /// The same bytes, holding the permit for as long as any part of them is in use.
    pub(crate) fn hold(self, bytes: Bytes) -> Bytes {
        Bytes::from_owner(Held { bytes, _permit: self })
    }

    /// Bytes this permit holds.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.budget.shared.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Bytes that answer for the memory they occupy.
struct Held {
    bytes: Bytes,
    _permit: Permit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn held_bytes_keep_their_permit_until_the_last_part_is_gone() {
        let budget = MemoryBudget::new(100);
        let bytes = budget.try_reserve(10).unwrap().hold(Bytes::from_static(b"0123456789"));
        let part = bytes.slice(3..5);
        drop(bytes);
        assert_eq!((&part[..], budget.used()), (&b"34"[..], 10));
        drop(part);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn bytes_come_back_when_the_permit_is_dropped() {
        let budget = MemoryBudget::new(100);
        let mut permit = budget.try_reserve(60).unwrap();
        assert!(budget.try_reserve(41).is_none());
        assert!(permit.try_grow(40));
        assert!(!permit.try_grow(1));
        assert_eq!((budget.used(), permit.bytes()), (100, 100));
        drop(permit);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn lowering_the_limit_only_refuses_what_comes_after() {
        let budget = MemoryBudget::new(100);
        let permit = budget.try_reserve(80).unwrap();
        budget.set_limit(50);
        assert!(budget.try_reserve(1).is_none());
        drop(permit);
        assert!(budget.try_reserve(50).is_some());
        assert!(budget.try_reserve(usize::MAX).is_none());
    }
}
