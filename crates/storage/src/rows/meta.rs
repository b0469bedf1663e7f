//! The store's own facts in `Meta`.
//!
//! ```text
//! format       | u32 le |
//! applied      opaque: what the owner of the log wrote with the last batch
//! ceiling      | time: u64 le |
//! horizon      | time: u64 le |
//! horizon/     | table: u64 be | in the key; | time: u64 le |
//! ```

use super::codec::ROWS_FORMAT;
use super::retention::{Horizons, Raise};
use super::{MetaState, RowsError};
use crate::engine::{ENGINE_KEY, EngineError, Keyspace, View, WriteBatch};
use bytes::{BufMut, Bytes, BytesMut};
use skein_model::{TableId, TxClock};
use std::ops::Bound;

const FORMAT: &[u8] = b"format";
const APPLIED: &[u8] = b"applied";
const CEILING: &[u8] = b"ceiling";
const DEFAULT_HORIZON: &[u8] = b"horizon";
const HORIZON: &[u8] = b"horizon/";

/// Everything in `Meta`, and whether the store is still without a format, that is, empty.
pub(super) fn load(view: &dyn View) -> Result<(MetaState, bool), RowsError> {
    let mut meta = MetaState { applied: None, ceiling: TxClock::ZERO, horizons: Horizons::default() };
    let mut fresh = true;
    let mut entries = Vec::new();
    for entry in view.range(Keyspace::Meta, Bound::Included(&[ENGINE_KEY + 1]), Bound::Unbounded) {
        entries.push(entry?);
    }
    // The format first: an unknown one must not be reported as damage of what it changed.
    if let Some((_, value)) = entries.iter().find(|(key, _)| key == FORMAT) {
        let found = u32::from_le_bytes(value[..].try_into().map_err(|_| damaged(FORMAT))?);
        if ROWS_FORMAT < found {
            return Err(EngineError::NewerFormat {
                what: "the store".to_owned(),
                found,
                supported: ROWS_FORMAT,
            }
            .into());
        }
        fresh = false;
    }
    for (key, value) in entries {
        match &key[..] {
            FORMAT => {}
            APPLIED => meta.applied = Some(value),
            CEILING => meta.ceiling = time(&key, &value)?,
            DEFAULT_HORIZON => meta.horizons.default = time(&key, &value)?,
            other => {
                let table = other.strip_prefix(HORIZON).and_then(|table| table.try_into().ok());
                let table = TableId(u64::from_be_bytes(table.ok_or_else(|| damaged(other))?));
                meta.horizons.tables.insert(table, time(other, &value)?);
            }
        }
    }
    Ok((meta, fresh))
}

/// Marks the store as being of our format.
pub(super) fn put_format(batch: &mut WriteBatch) {
    let format = Bytes::copy_from_slice(&ROWS_FORMAT.to_le_bytes());
    batch.push(Keyspace::Meta, Bytes::from_static(FORMAT), format);
}

pub(super) fn put_applied(batch: &mut WriteBatch, applied: Bytes) {
    batch.push(Keyspace::Meta, Bytes::from_static(APPLIED), applied);
}

/// Whether a key of `Meta` is that of the applied bytes.
pub(super) fn is_applied(key: &[u8]) -> bool {
    key == APPLIED
}

pub(super) fn put_ceiling(batch: &mut WriteBatch, ceiling: TxClock) {
    batch.push(Keyspace::Meta, Bytes::from_static(CEILING), encode_time(ceiling));
}

pub(super) fn put_horizon(batch: &mut WriteBatch, (table, time): Raise) {
    let key = match table {
        None => Bytes::from_static(DEFAULT_HORIZON),
        Some(table) => {
            let mut key = BytesMut::from(HORIZON);
            key.put_u64(table.0);
            key.freeze()
        }
    };
    batch.push(Keyspace::Meta, key, encode_time(time));
}

/// Whether a key of `Meta` is one that is the same in all replicas that applied the same.
pub(super) fn is_ceiling_or_horizon(key: &[u8]) -> bool {
    key == CEILING || key.starts_with(DEFAULT_HORIZON)
}

fn encode_time(time: TxClock) -> Bytes {
    Bytes::copy_from_slice(&time.0.to_le_bytes())
}

fn time(key: &[u8], value: &[u8]) -> Result<TxClock, RowsError> {
    Ok(TxClock(u64::from_le_bytes(value.try_into().map_err(|_| damaged(key))?)))
}

fn damaged(key: &[u8]) -> RowsError {
    EngineError::Damaged {
        what: "the keyspace meta".to_owned(),
        detail: format!("the entry {:?} is not one of ours", String::from_utf8_lossy(key)),
    }
    .into()
}
