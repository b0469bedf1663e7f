//! What was written to a keyspace and is in no table yet.
//!
//! Made for a single writer that should have little to do: an entry is appended in the order of writing, and a hash table of
//! whole keys leads to the newest entry of each, which leads to the one before it. Nothing is sorted until somebody reads a range,
//! or the buffer is flushed. Sorting many entries at once by the part in which their keys differ takes a fraction
//! of what it takes to find the place of each when it comes: a skip list or a tree misses the processor's cache at every step.
//!
//! ```text
//! chunks: | 512 entries | 512 entries | ...    full, and never changed again
//! tail:   | up to 511 entries |                at the end of what was written
//! runs:   positions of entries in the order of their keys, over all chunks that a reader of ranges has met
//! ```
//!
//! A reader of ranges sorts the chunks that no run covers, and merges runs as long as one is less than twice the one after it; so there
//! are few, and an entry takes part in few sorts. The tail is short enough to be searched from end to end.

use super::lock;
use bytes::Bytes;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry as Place;
use lsm_tree::SeqNo;
use std::cmp::Ordering;
use std::ops::Bound;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use xxhash_rust::xxh3::xxh3_64;

/// Entries of a chunk.
const CHUNK: usize = 512;

/// What an entry takes beyond the bytes of key and value: itself, its place in the hash table and in runs, and what allocations
/// round up.
const ENTRY_BYTES: u64 = 128;

/// No entry. There is no entry at this position: it would take 2^39 bytes of entries before.
const NONE: u32 = u32::MAX;

/// One write of a key.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) key: Bytes,
    /// `None` deletes.
    pub(super) value: Option<Bytes>,
    /// Of its batch.
    pub(super) seqno: SeqNo,
    /// Position of the key's entry before this one; only kept if the buffer is indexed.
    previous: u32,
}

impl Entry {
    /// One found in a table; older than any in memory.
    pub(super) fn of_table(key: Bytes, value: Bytes) -> Entry {
        Entry { key, value: Some(value), seqno: 0, previous: NONE }
    }
}

type Chunks = Vec<Arc<Vec<Entry>>>;

/// Positions of entries, by ascending key; of one key, the newest first.
type Run = Arc<Vec<u32>>;

/// The entries of one keyspace, in memory. One thread at a time writes, any number read.
pub(super) struct Buffer {
    is_indexed: bool,
    state: RwLock<State>,
    runs: Mutex<Runs>,
}

#[derive(Default)]
struct State {
    chunks: Arc<Chunks>,
    tail: Vec<Entry>,
    /// The newest entry of each key.
    newest: HashTable<Newest>,
}

#[derive(Clone, Copy)]
struct Newest {
    /// Half of the key's hash: keys are compared only where these agree.
    hash: u32,
    at: u32,
}

#[derive(Default)]
struct Runs {
    /// What the runs point into.
    chunks: Arc<Chunks>,
    runs: Vec<Run>,
}

impl Buffer {
    /// An empty one. With an index, the newest entry of a key is found at once; without, by looking at ranges.
    pub(super) fn new(is_indexed: bool) -> Buffer {
        Buffer { is_indexed, state: RwLock::default(), runs: Mutex::default() }
    }

    /// An empty one of the same kind.
    pub(super) fn new_like(&self) -> Buffer {
        Buffer::new(self.is_indexed)
    }

    pub(super) fn is_empty(&self) -> bool {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.tail.is_empty() && state.chunks.is_empty()
    }

    /// Adds the entries of a batch; `seqno` is higher than in all calls before. A later entry of a key wins over an earlier one, also within
    /// the batch. Returns the bytes of memory taken, roughly.
    pub(super) fn append(&self, entries: Vec<(Bytes, Option<Bytes>)>, seqno: SeqNo) -> u64 {
        let mut bytes = 0;
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *state;
        for (key, value) in entries {
            bytes += (key.len() + value.as_ref().map_or(0, Bytes::len)) as u64 + ENTRY_BYTES;
            let previous = if self.is_indexed { state.index(&key) } else { NONE };
            state.tail.push(Entry { key, value, seqno, previous });
            if state.tail.len() == CHUNK {
                let full = std::mem::replace(&mut state.tail, Vec::with_capacity(CHUNK));
                Arc::make_mut(&mut state.chunks).push(Arc::new(full));
            }
        }
        bytes
    }

    /// The newest value of a key with a sequence number lower than `below`: `Some(None)` if that is a deletion, `None` if there
    /// is no such entry.
    pub(super) fn get(&self, key: &[u8], below: SeqNo) -> Option<Option<Bytes>> {
        if !self.is_indexed {
            return self.range(Bound::Included(key), Bound::Included(key), below).next().map(|e| e.value);
        }
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let hash = short_hash(key);
        let is_it = |newest: &Newest| newest.hash == hash && state.entry(newest.at).key == key;
        let mut at = state.newest.find(spread(hash), is_it)?.at;
        while at != NONE {
            let entry = state.entry(at);
            if entry.seqno < below {
                return Some(entry.value.clone());
            }
            at = entry.previous;
        }
        None
    }

    /// Of each key between two bounds, the newest entry with a sequence number lower than `below`, deletions included, by ascending
    /// key. What is written later does not show.
    pub(super) fn range(&self, from: Bound<&[u8]>, to: Bound<&[u8]>, below: SeqNo) -> Entries {
        let (chunks, tail) = {
            let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
            let wanted = |e: &&Entry| e.seqno < below && is_after(&e.key, from) && is_before(&e.key, to);
            let mut tail: Vec<Entry> = state.tail.iter().rev().filter(wanted).cloned().collect();
            // Stable: of one key the newest stays first.
            tail.sort_by(|a, b| a.key.cmp(&b.key));
            (state.chunks.clone(), tail)
        };
        let (chunks, runs) = self.runs_over(chunks);
        let start = |run: Run| {
            let at = run.partition_point(|at| !is_after(&entry(&chunks, *at).key, from));
            Cursor { run, at }
        };
        let cursors = runs.into_iter().map(start).collect();
        Entries { cursors, tail: tail.into_iter().peekable(), chunks, to: owned(to), below, last: None }
    }

    /// Runs over at least these chunks, and what they point into.
    fn runs_over(&self, chunks: Arc<Chunks>) -> (Arc<Chunks>, Vec<Run>) {
        let mut runs = lock(&self.runs);
        let covered = runs.chunks.len();
        if covered < chunks.len() {
            runs.runs.push(Arc::new(sorted(positions(covered, chunks.len()), &chunks)));
            runs.chunks = chunks;
        }
        let runs = &mut *runs;
        while let [.., older, newer] = &runs.runs[..]
            && older.len() < 2 * newer.len()
        {
            let both = older.iter().chain(newer.iter()).copied().collect();
            let merged = sorted(both, &runs.chunks);
            runs.runs.pop();
            runs.runs.pop();
            runs.runs.push(Arc::new(merged));
        }
        (runs.chunks.clone(), runs.runs.clone())
    }
}

impl State {
    fn entry(&self, at: u32) -> &Entry {
        entry_of(&self.chunks, &self.tail, at)
    }

    /// Makes the entry about to be appended the newest of its key; returns the position of the one that was.
    fn index(&mut self, key: &[u8]) -> u32 {
        let State { chunks, tail, newest } = self;
        let at = u32::try_from(chunks.len() * CHUNK + tail.len()).unwrap_or(NONE);
        assert!(at < NONE, "a write buffer has at most {NONE} entries");
        let hash = short_hash(key);
        let is_it = |newest: &Newest| newest.hash == hash && entry_of(chunks, tail, newest.at).key == key;
        match newest.entry(spread(hash), is_it, |newest| spread(newest.hash)) {
            Place::Occupied(mut place) => std::mem::replace(&mut place.get_mut().at, at),
            Place::Vacant(place) => {
                place.insert(Newest { hash, at });
                NONE
            }
        }
    }
}

/// The entry at a position, which is in the chunks or after them in the tail.
fn entry_of<'a>(chunks: &'a Chunks, tail: &'a [Entry], at: u32) -> &'a Entry {
    let (chunk, offset) = (at as usize / CHUNK, at as usize % CHUNK);
    chunks.get(chunk).map_or_else(|| &tail[offset], |chunk| &chunk[offset])
}

fn entry(chunks: &Chunks, at: u32) -> &Entry {
    &chunks[at as usize / CHUNK][at as usize % CHUNK]
}

/// Positions of all entries in some chunks.
fn positions(from_chunk: usize, to_chunk: usize) -> Vec<u32> {
    (from_chunk * CHUNK..to_chunk * CHUNK).map(|at| at as u32).collect()
}

/// Sorts positions by the keys there; of one key, the newest comes first.
///
/// Most keys are told apart by eight bytes after those that all have in common, which are compared as a number.
fn sorted(positions: Vec<u32>, chunks: &Chunks) -> Vec<u32> {
    let key = |at: u32| &entry(chunks, at).key[..];
    let Some(first) = positions.first().map(|at| key(*at)) else { return positions };
    let common = |shared: usize, at: &u32| {
        let pairs = first[..shared].iter().zip(key(*at));
        pairs.take_while(|(a, b)| a == b).count()
    };
    let shared = positions.iter().fold(first.len(), common);
    let mut marked: Vec<(u64, u32)> =
        positions.into_iter().map(|at| (mark(&key(at)[shared..]), at)).collect();
    marked.sort_unstable_by(|(mark_a, a), (mark_b, b)| {
        mark_a.cmp(mark_b).then_with(|| key(*a).cmp(key(*b))).then_with(|| b.cmp(a))
    });
    marked.into_iter().map(|(_, at)| at).collect()
}

/// The first eight bytes as a number that is in the same order; what is missing counts as zeros.
fn mark(bytes: &[u8]) -> u64 {
    match bytes.first_chunk() {
        Some(eight) => u64::from_be_bytes(*eight),
        None => {
            bytes.iter().zip((0..8).rev()).fold(0, |sum, (byte, place)| sum | u64::from(*byte) << (8 * place))
        }
    }
}

/// Half of a key's hash.
fn short_hash(key: &[u8]) -> u32 {
    (xxh3_64(key) >> 32) as u32
}

/// A hash for the table, which goes by the highest and the lowest bits.
fn spread(hash: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(hash)
}

fn is_after(key: &[u8], from: Bound<&[u8]>) -> bool {
    match from {
        Bound::Included(from) => from <= key,
        Bound::Excluded(from) => from < key,
        Bound::Unbounded => true,
    }
}

fn is_before(key: &[u8], to: Bound<&[u8]>) -> bool {
    match to {
        Bound::Included(to) => key <= to,
        Bound::Excluded(to) => key < to,
        Bound::Unbounded => true,
    }
}

fn owned(bound: Bound<&[u8]>) -> Bound<Bytes> {
    bound.map(Bytes::copy_from_slice)
}

/// What [`Buffer::range`] yields. Holds no lock.
pub(super) struct Entries {
    cursors: Vec<Cursor>,
    tail: std::iter::Peekable<std::vec::IntoIter<Entry>>,
    chunks: Arc<Chunks>,
    to: Bound<Bytes>,
    below: SeqNo,
    /// The key yielded last.
    last: Option<Bytes>,
}

struct Cursor {
    run: Run,
    at: usize,
}

impl Entries {
    /// The first of all that is left, whatever its sequence number.
    fn advance(&mut self) -> Option<Entry> {
        let mut first: Option<(usize, u32)> = None;
        for (which, cursor) in self.cursors.iter().enumerate() {
            let Some(at) = cursor.run.get(cursor.at).copied() else { continue };
            let is_first = first.is_none_or(|(_, other)| {
                let keys = entry(&self.chunks, at).key.cmp(&entry(&self.chunks, other).key);
                // Of one key, the newer one is further on.
                keys.then_with(|| other.cmp(&at)) == Ordering::Less
            });
            if is_first {
                first = Some((which, at));
            }
        }
        let Some((which, at)) = first else { return self.tail.next() };
        let found = entry(&self.chunks, at);
        // What is in the tail is newer than anything in a chunk.
        if let Some(newer) = self.tail.next_if(|tail| tail.key <= found.key) {
            return Some(newer);
        }
        let found = found.clone();
        self.cursors[which].at += 1;
        Some(found)
    }
}

impl Iterator for Entries {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        loop {
            let found = self.advance()?;
            if !is_before(&found.key, self.to.as_ref().map(|to| &to[..])) {
                // All that follows lies beyond the bound too.
                self.cursors.clear();
                self.tail = Vec::new().into_iter().peekable();
                return None;
            }
            if self.below <= found.seqno || self.last.as_ref() == Some(&found.key) {
                continue;
            }
            self.last = Some(found.key.clone());
            return Some(found);
        }
    }
}

#[cfg(test)]
mod tests;
