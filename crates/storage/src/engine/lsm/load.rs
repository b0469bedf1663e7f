//! Loading in bulk: sorted entries become tables without passing through buffers.
//!
//! The trees' own loader borrows its tree, so it lives on the stack of a thread of its own, which ends with the load.
//! Tables that a load leaves behind when it is given up are in no list, and are removed like those of a failed flush.

use super::{Shared, check, lock};
use crate::engine::{EngineError, Keyspace, Load};
use bytes::Bytes;
use lsm_tree::{AbstractTree, AnyIngestion, AnyTree, Slice};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

type Entries = Vec<(Bytes, Bytes)>;

/// Parts that may wait for the thread.
const PARTS_MAX: usize = 2;

enum Order {
    Add(Keyspace, Entries),
    Finish,
}

/// A load under way.
pub(super) struct LsmLoad {
    orders: Option<SyncSender<Order>>,
    thread: Option<JoinHandle<Result<(), EngineError>>>,
}

impl LsmLoad {
    pub(super) fn begin(shared: &Arc<Shared>) -> Result<LsmLoad, EngineError> {
        let is_empty = Keyspace::ALL.iter().all(|keyspace| shared.tree(*keyspace).table_count() == 0);
        if lock(&shared.writer).position != 0 || !is_empty {
            return Err(EngineError::NotEmpty { what: shared.dir_guard.dir.display().to_string() });
        }
        let (orders, taken) = sync_channel(PARTS_MAX);
        let shared = shared.clone();
        let thread = std::thread::Builder::new()
            .name("skein-load".to_owned())
            .spawn(move || run(&shared, &taken))
            .map_err(|e| EngineError::io("start a thread to load rows", e))?;
        Ok(LsmLoad { orders: Some(orders), thread: Some(thread) })
    }

    /// What the thread ended with.
    fn outcome(&mut self) -> Result<(), EngineError> {
        self.orders = None;
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(outcome)) => outcome,
            Some(Err(_)) => Err(failed("the thread that loads rows panicked")),
            None => Err(failed("it has failed before")),
        }
    }
}

fn failed(why: &str) -> EngineError {
    EngineError::Io { what: "load rows".to_owned(), source: std::io::Error::other(why.to_owned()) }
}

impl Load for LsmLoad {
    fn add(&mut self, keyspace: Keyspace, entries: Entries) -> Result<(), EngineError> {
        let sent =
            self.orders.as_ref().is_some_and(|orders| orders.send(Order::Add(keyspace, entries)).is_ok());
        if sent { Ok(()) } else { self.outcome().and(Err(failed("its thread has ended"))) }
    }

    fn finish(mut self: Box<Self>) -> Result<(), EngineError> {
        if let Some(orders) = &self.orders {
            // Should the thread have ended, its outcome says why.
            let _ = orders.send(Order::Finish);
        }
        self.outcome()
    }
}

impl Drop for LsmLoad {
    fn drop(&mut self) {
        if self.thread.is_some() {
            // Given up, or failed; whoever needed to know was told.
            let _ = self.outcome();
        }
    }
}

fn run(shared: &Arc<Shared>, orders: &Receiver<Order>) -> Result<(), EngineError> {
    let finished = load(shared, orders)?;
    if finished {
        shared.publish_tables();
        shared.note_runs();
        shared.core.request_compaction(shared);
    } else {
        shared.sweep();
    }
    Ok(())
}

/// True when the load was finished, false when it was given up.
fn load(shared: &Shared, orders: &Receiver<Order>) -> Result<bool, EngineError> {
    // Keeps unfinished tables from being taken for leftovers.
    let _under_way = shared.begin_compaction();
    let trees = Keyspace::ALL.map(|keyspace| AnyTree::Standard(shared.tree(keyspace).clone()));
    let mut open: Option<(Keyspace, AnyIngestion<'_>)> = None;
    while let Ok(order) = orders.recv() {
        let Order::Add(keyspace, entries) = order else {
            finish(shared, open)?;
            return Ok(true);
        };
        let error = |e| check::tree_error(&shared.path(keyspace), e);
        if open.as_ref().is_none_or(|(current, _)| *current != keyspace) {
            finish(shared, open.take())?;
            open = Some((keyspace, trees[keyspace.slot()].ingestion().map_err(error)?));
        }
        if let Some((_, ingestion)) = &mut open {
            for (key, value) in entries {
                // A copy of the key: the table's index keeps some of them, and each would keep the part it came with.
                ingestion.write(Slice::from(&key[..]), Slice::from(value)).map_err(error)?;
            }
        }
    }
    Ok(false)
}

fn finish(shared: &Shared, open: Option<(Keyspace, AnyIngestion<'_>)>) -> Result<(), EngineError> {
    let Some((keyspace, ingestion)) = open else { return Ok(()) };
    let error = |e| check::tree_error(&shared.path(keyspace), e);
    {
        // No batch goes in while the tables take their place.
        let _writer = lock(&shared.writer);
        match ingestion {
            AnyIngestion::Standard(ingestion) => ingestion.finish().map_err(error)?,
            AnyIngestion::Blob(_) => return Err(failed("it is a tree with separated values")),
        }
    }
    shared.images[keyspace.slot()].follow(shared.tree(keyspace), &[]);
    shared.see_tables(keyspace);
    Ok(())
}
