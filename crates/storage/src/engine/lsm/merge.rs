//! Several sorted sources as one, the newest first.

use super::buffer::{Buffer, Entry};
use lsm_tree::SeqNo;
use std::ops::Bound;
use std::sync::Arc;

/// Entries by ascending key, no key twice; or what reading them met.
pub(super) type Source<'a> = Box<dyn Iterator<Item = lsm_tree::Result<Entry>> + Send + 'a>;

/// Merges sources. Of a key that several have, the entry of the first of them is yielded.
pub(super) struct Merge<'a> {
    sources: Vec<Head<'a>>,
}

struct Head<'a> {
    /// What comes next, if it is known already.
    next: Option<Entry>,
    rest: Source<'a>,
}

impl<'a> Merge<'a> {
    pub(super) fn new(sources: impl IntoIterator<Item = Source<'a>>) -> Merge<'a> {
        Merge { sources: sources.into_iter().map(|rest| Head { next: None, rest }).collect() }
    }
}

/// The entries of buffers between two bounds, as sources.
pub(super) fn of_buffers<'a>(
    buffers: &[Arc<Buffer>],
    from: Bound<&[u8]>,
    to: Bound<&[u8]>,
    below: SeqNo,
) -> impl Iterator<Item = Source<'a>> {
    buffers.iter().map(move |buffer| -> Source<'a> { Box::new(buffer.range(from, to, below).map(Ok)) })
}

impl Iterator for Merge<'_> {
    type Item = lsm_tree::Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut ended = false;
        for source in &mut self.sources {
            if source.next.is_none() {
                source.next = match source.rest.next().transpose() {
                    Ok(next) => next,
                    Err(e) => return Some(Err(e)),
                };
                ended |= source.next.is_none();
            }
        }
        if ended {
            self.sources.retain(|source| source.next.is_some());
        }
        let (first, rest) = self.sources.split_first_mut()?;
        let mut first = &mut first.next;
        for Head { next, .. } in rest {
            match (&*first, &*next) {
                (Some(a), Some(b)) if b.key < a.key => first = next,
                // An older entry of the same key.
                (Some(a), Some(b)) if b.key == a.key => *next = None,
                _ => {}
            }
        }
        first.take().map(Ok)
    }
}
