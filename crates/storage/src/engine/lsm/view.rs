//! All keyspaces as of one moment: the buffers as they were, entries and tables below a sequence number.

use super::buffer::{Buffer, Entry};
use super::merge::{Merge, Source, of_buffers};
use super::{Shared, lock};
use crate::engine::{EngineError, Keyspace, Range, View, is_empty_range};
use bytes::Bytes;
use lsm_tree::{AbstractTree, Guard, SeqNo};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::Ordering;

pub(super) struct LsmView {
    shared: Arc<Shared>,
    seqno: SeqNo,
    /// By [`Keyspace::slot`]: those with entries, the newest first.
    buffers: [Vec<Arc<Buffer>>; 4],
}

impl LsmView {
    /// A view as of now.
    pub(super) fn of(shared: &Arc<Shared>) -> LsmView {
        // Nobody freezes buffers while this is held. They are taken before the number: what was flushed and left them before
        // is then visible in the tables; what is flushed and leaves them afterwards is still here.
        let mut views = lock(&shared.views);
        let mut buffers = Keyspace::ALL.map(|keyspace| shared.images[keyspace.slot()].buffers());
        let seqno = shared.visible.load(Ordering::Acquire);
        *views.entry(seqno).or_insert(0) += 1;
        drop(views);
        // Only now: a batch below the number may just have gone in.
        buffers.iter_mut().for_each(|buffers| buffers.retain(|buffer| !buffer.is_empty()));
        LsmView { shared: shared.clone(), seqno, buffers }
    }
}

impl Drop for LsmView {
    fn drop(&mut self) {
        let mut views = lock(&self.shared.views);
        if let Some(count) = views.get_mut(&self.seqno) {
            *count -= 1;
            if *count == 0 {
                views.remove(&self.seqno);
            }
        }
    }
}

impl View for LsmView {
    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let mut buffers = self.buffers[keyspace.slot()].iter();
        if let Some(value) = buffers.find_map(|buffer| buffer.get(key, self.seqno)) {
            return Ok(value);
        }
        let value = self.shared.tree(keyspace).get(key, self.seqno);
        Ok(value.map_err(|e| self.shared.read_error(keyspace, e))?.map(Bytes::from))
    }

    fn range<'a>(&'a self, keyspace: Keyspace, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Range<'a> {
        if is_empty_range(from, to) {
            return Box::new(std::iter::empty());
        }
        let stored = self.shared.tree(keyspace).range::<&[u8], _>((from, to), self.seqno, None);
        let stored =
            stored.map(|entry| entry.into_inner().map(|(key, value)| (Bytes::from(key), Bytes::from(value))));
        let error = move |e| self.shared.read_error(keyspace, e);
        let buffers = &self.buffers[keyspace.slot()];
        if buffers.is_empty() {
            return Box::new(stored.map(move |entry| entry.map_err(error)));
        }
        let tables: Source<'a> =
            Box::new(stored.map(|entry| entry.map(|(key, value)| Entry::of_table(key, value))));
        let sources = of_buffers(buffers, from, to, self.seqno).chain([tables]);
        Box::new(Merge::new(sources).filter_map(move |entry| match entry {
            Ok(entry) => entry.value.map(|value| Ok((entry.key, value))),
            Err(e) => Some(Err(error(e))),
        }))
    }
}
