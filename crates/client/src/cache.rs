//! Rows with the span of time over which each is known to have been what it is.
//!
//! An entry says: from its version's time to its read time, the row had this value. Rows of several entries were true together
//! exactly if their spans have a moment in common: the latest version time is at or before the earliest read time. Which to use is
//! the transaction's affair; here is only what is known, bounded in bytes, the longest unused going first.
//! Source of the rule: the article on conditional batch writes of TreodeDB.

use crate::rows::Row;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// What an entry costs beyond its key and value, roughly.
const ENTRY_BYTES: usize = 256;

/// Rows by table and key.
pub(crate) struct Cache {
    bytes_max: usize,
    bytes: usize,
    tick: u64,
    rows: HashMap<Arc<[u8]>, Entry>,
    /// Names of the rows, by when they were last used.
    order: BTreeMap<u64, Arc<[u8]>>,
}

struct Entry {
    row: Row,
    bytes: usize,
    tick: u64,
}

impl Cache {
    /// Of at most so many bytes; 0 keeps nothing.
    pub(crate) fn new(bytes_max: usize) -> Cache {
        Cache { bytes_max, bytes: 0, tick: 0, rows: HashMap::new(), order: BTreeMap::new() }
    }

    /// What is known of a row.
    pub(crate) fn get(&mut self, table: &str, key: &[u8]) -> Option<Row> {
        if self.rows.is_empty() {
            return None;
        }
        let name = name(table, key);
        let entry = self.rows.get_mut(&name[..])?;
        self.tick += 1;
        if let Some(name) = self.order.remove(&entry.tick) {
            self.order.insert(self.tick, name);
        }
        entry.tick = self.tick;
        Some(entry.row.clone())
    }

    /// Takes note of a row. A later version replaces an earlier one, and the same version known for longer extends it.
    pub(crate) fn put(&mut self, table: &str, key: &[u8], row: &Row) {
        let bytes = ENTRY_BYTES + table.len() + key.len() + row.value.as_ref().map_or(0, |v| v.bytes.len());
        if self.bytes_max < bytes {
            // One that is larger than all there is room for drives out nothing, but must not leave an older one behind either: the
            // older one stays true for its own span, so it may stay.
            return;
        }
        let name: Arc<[u8]> = name(table, key).into();
        if let Some(entry) = self.rows.get_mut(&name) {
            if (row.time, row.read_time) <= (entry.row.time, entry.row.read_time) {
                return;
            }
            self.bytes = self.bytes - entry.bytes + bytes;
            self.order.remove(&entry.tick);
        } else {
            self.bytes += bytes;
        }
        self.tick += 1;
        self.order.insert(self.tick, name.clone());
        self.rows.insert(name, Entry { row: row.clone(), bytes, tick: self.tick });
        while self.bytes_max < self.bytes {
            let Some((_, oldest)) = self.order.pop_first() else { break };
            if let Some(gone) = self.rows.remove(&oldest) {
                self.bytes -= gone.bytes;
            }
        }
    }
}

/// One name for table and key; no two pairs have the same, as the table's length comes first.
fn name(table: &str, key: &[u8]) -> Vec<u8> {
    let mut name = Vec::with_capacity(4 + table.len() + key.len());
    name.extend_from_slice(&(table.len() as u32).to_le_bytes());
    name.extend_from_slice(table.as_bytes());
    name.extend_from_slice(key);
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use skein_model::{ContentType, TxClock, Value};

    fn row(len: usize, time: u64, read_time: u64) -> Row {
        let value = Value { content_type: ContentType::Json, bytes: vec![b'1'; len].into() };
        Row { value: Some(value), time: TxClock(time), read_time: TxClock(read_time) }
    }

    #[test]
    fn the_longest_unused_goes_first_and_the_bytes_stay_below_the_bound() {
        let mut cache = Cache::new(4 * (ENTRY_BYTES + 102));
        for key in [b"a", b"b", b"c", b"d"] {
            cache.put("t", key, &row(100, 1, 2));
        }
        assert!(cache.get("t", b"a").is_some());
        cache.put("t", b"e", &row(100, 1, 2));
        assert!(cache.get("t", b"b").is_none(), "b was not used since");
        assert!(["a", "c", "d", "e"].iter().all(|key| cache.get("t", key.as_bytes()).is_some()));
        assert!(cache.bytes <= cache.bytes_max);
        cache.put("t", b"f", &row(1000, 1, 2));
        assert!(cache.bytes <= cache.bytes_max && cache.rows.len() == cache.order.len());
        cache.put("t", b"g", &row(100_000, 1, 2));
        assert!(cache.get("t", b"g").is_none(), "too large for any room");
    }

    #[test]
    fn what_is_known_of_a_row_only_grows() {
        let mut cache = Cache::new(1 << 20);
        cache.put("t", b"k", &row(1, 5, 9));
        cache.put("t", b"k", &row(2, 4, 20));
        assert_eq!(cache.get("t", b"k"), Some(row(1, 5, 9)), "an older version is of the past");
        cache.put("t", b"k", &row(1, 5, 7));
        assert_eq!(cache.get("t", b"k"), Some(row(1, 5, 9)));
        cache.put("t", b"k", &row(1, 5, 12));
        assert_eq!(cache.get("t", b"k"), Some(row(1, 5, 12)));
        cache.put("t", b"k", &row(3, 13, 13));
        assert_eq!(cache.get("t", b"k"), Some(row(3, 13, 13)));
        assert_eq!(cache.bytes, ENTRY_BYTES + 2 + 3);
    }

    #[test]
    fn table_and_key_do_not_run_into_each_other() {
        let mut cache = Cache::new(1 << 20);
        cache.put("ab", b"c", &row(1, 1, 1));
        assert!(cache.get("a", b"bc").is_none());
    }

    #[test]
    fn without_room_nothing_is_kept() {
        let mut cache = Cache::new(0);
        cache.put("t", b"k", &row(0, 1, 1));
        assert!(cache.get("t", b"k").is_none() && cache.rows.is_empty());
    }
}
