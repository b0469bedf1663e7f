//! An engine in memory that can forget, fail and fill up.

use super::{
    Drop, DropRule, ENGINE_KEY, Engine, EngineError, EngineStats, Keyspace, Load, Range, VerifyReport, View,
    WriteBatch, is_empty_range,
};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The four maps by [`Keyspace::slot`]; shared with views and copied when written to while one is alive.
type Image = [Arc<BTreeMap<Bytes, Bytes>>; 4];

/// Something to go wrong once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// No room.
    Full,
    /// The operating system says no.
    Io,
    /// The store is damaged.
    Damaged,
}

impl Fault {
    fn error(self, what: &str) -> EngineError {
        let what = format!("{what} (in memory)");
        match self {
            Fault::Full => EngineError::Full { what },
            Fault::Io => EngineError::Io { what, source: std::io::Error::other("injected fault") },
            Fault::Damaged => EngineError::Damaged { what, detail: "injected fault".to_owned() },
        }
    }
}

/// An [`Engine`] in memory. It holds two images: what was written, and what the last checkpoint made durable.
///
/// A write while a view is alive copies the map it changes, so this is for tests and simulations.
#[derive(Default)]
pub struct MemEngine {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    volatile: Image,
    volatile_position: u64,
    durable: Image,
    durable_position: u64,
    rule: Option<DropRule>,
    reclaimed: u64,
    checkpoints: u64,
    next_write: Option<Fault>,
    next_checkpoint: Option<Fault>,
    full: bool,
}

impl MemEngine {
    /// An empty engine.
    pub fn new() -> MemEngine {
        MemEngine::default()
    }

    /// The engine as it is found after a crash now: what the last checkpoint made durable, without faults.
    pub fn crash(&self) -> MemEngine {
        self.crash_in_checkpoint(0)
    }

    /// The engine as it is found after a crash in the middle of a checkpoint that had flushed the first `flushed`
    /// keyspaces of [`Keyspace::ALL`].
    pub fn crash_in_checkpoint(&self, flushed: usize) -> MemEngine {
        let state = self.lock();
        let mut image = state.durable.clone();
        let mut position = state.durable_position;
        for keyspace in Keyspace::ALL.into_iter().take(flushed) {
            image[keyspace.slot()] = state.volatile[keyspace.slot()].clone();
            if keyspace == Keyspace::Meta {
                position = state.volatile_position;
            }
        }
        let survivor = State {
            volatile: image.clone(),
            volatile_position: position,
            durable: image,
            durable_position: position,
            ..State::default()
        };
        MemEngine { state: Arc::new(Mutex::new(survivor)) }
    }

    /// The next write fails and changes nothing.
    pub fn fail_next_write(&self, fault: Fault) {
        self.lock().next_write = Some(fault);
    }

    /// The next checkpoint fails and makes nothing durable.
    pub fn fail_next_checkpoint(&self, fault: Fault) {
        self.lock().next_checkpoint = Some(fault);
    }

    /// While full, writes and checkpoints answer [`EngineError::Full`].
    pub fn set_full(&self, full: bool) {
        self.lock().full = full;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing below panics half-way through a change, so a poisoned lock still guards a whole state.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine for MemEngine {
    fn write(&self, mut batch: WriteBatch, position: u64) -> Result<(), EngineError> {
        let mut state = self.lock();
        if let Some(fault) = state.next_write.take().or(state.full.then_some(Fault::Full)) {
            return Err(fault.error("write"));
        }
        if position <= state.volatile_position {
            return Err(EngineError::OutOfOrder { given: position, last: state.volatile_position });
        }
        for keyspace in Keyspace::ALL {
            let entries = batch.take(keyspace);
            if entries.is_empty() {
                continue;
            }
            let map = Arc::make_mut(&mut state.volatile[keyspace.slot()]);
            for (key, value) in entries {
                match value {
                    Some(value) => map.insert(key, value),
                    None => map.remove(&key),
                };
            }
        }
        state.volatile_position = position;
        Ok(())
    }

    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Ok(self.lock().volatile[keyspace.slot()].get(key).cloned())
    }

    fn view(&self) -> Result<Box<dyn View>, EngineError> {
        Ok(Box::new(MemView { image: self.lock().volatile.clone() }))
    }

    fn checkpoint(&self) -> Result<u64, EngineError> {
        let mut state = self.lock();
        if let Some(fault) = state.next_checkpoint.take().or(state.full.then_some(Fault::Full)) {
            return Err(fault.error("checkpoint"));
        }
        state.durable = state.volatile.clone();
        state.durable_position = state.volatile_position;
        state.checkpoints += 1;
        Ok(state.durable_position)
    }

    fn durable_position(&self) -> u64 {
        self.lock().durable_position
    }

    fn set_drop_rule(&self, rule: DropRule) {
        self.lock().rule = Some(rule);
    }

    fn compact(&self, keyspace: Keyspace) -> Result<(), EngineError> {
        let mut state = self.lock();
        let Some(rule) = state.rule.clone() else { return Ok(()) };
        let drop: Drop = rule(state.durable_position);
        // As on disk: a compaction sees only what was flushed, and what it drops is gone for good at once.
        let doomed: Vec<(Bytes, Bytes)> = state.durable[keyspace.slot()]
            .iter()
            .filter(|(key, value)| {
                (keyspace != Keyspace::Meta || key.first() != Some(&ENGINE_KEY)) && drop(keyspace, key, value)
            })
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        for (key, value) in doomed {
            Arc::make_mut(&mut state.durable[keyspace.slot()]).remove(&key);
            // An entry overwritten since is a newer version of the key, which the compaction does not see.
            if state.volatile[keyspace.slot()].get(&key) == Some(&value) {
                Arc::make_mut(&mut state.volatile[keyspace.slot()]).remove(&key);
            }
            state.reclaimed += 1;
        }
        Ok(())
    }

    fn load(&self) -> Result<Box<dyn Load>, EngineError> {
        let state = self.lock();
        if state.volatile_position != 0 || state.volatile.iter().any(|map| !map.is_empty()) {
            return Err(EngineError::NotEmpty { what: "the store (in memory)".to_owned() });
        }
        Ok(Box::new(MemLoad { state: self.state.clone() }))
    }

    fn set_memory(&self, _cache_bytes: u64, _write_buffer_bytes: u64) {}

    fn stats(&self) -> EngineStats {
        let state = self.lock();
        let bytes = |image: &Image, slot: usize| -> u64 {
            image[slot].iter().map(|(key, value)| (key.len() + value.len()) as u64).sum()
        };
        EngineStats {
            disk_bytes: std::array::from_fn(|slot| bytes(&state.durable, slot)),
            entries: std::array::from_fn(|slot| state.volatile[slot].len() as u64),
            versions_reclaimed: state.reclaimed,
            checkpoints: state.checkpoints,
            stalled: state.full,
            ..EngineStats::default()
        }
    }

    fn verify(&self) -> Result<VerifyReport, EngineError> {
        Ok(VerifyReport::default())
    }
}

struct MemLoad {
    state: Arc<Mutex<State>>,
}

impl Load for MemLoad {
    fn add(&mut self, keyspace: Keyspace, entries: Vec<(Bytes, Bytes)>) -> Result<(), EngineError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fault) = state.next_write.take().or(state.full.then_some(Fault::Full)) {
            return Err(fault.error("load"));
        }
        Arc::make_mut(&mut state.volatile[keyspace.slot()]).extend(entries);
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<(), EngineError> {
        Ok(())
    }
}

struct MemView {
    image: Image,
}

impl View for MemView {
    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Ok(self.image[keyspace.slot()].get(key).cloned())
    }

    fn range<'a>(&'a self, keyspace: Keyspace, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Range<'a> {
        if is_empty_range(from, to) {
            return Box::new(std::iter::empty());
        }
        let range = self.image[keyspace.slot()].range::<[u8], _>((from, to));
        Box::new(range.map(|(key, value)| Ok((key.clone(), value.clone()))))
    }
}
