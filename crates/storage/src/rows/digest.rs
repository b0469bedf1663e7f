//! A fingerprint of a store, for comparing replicas.

use super::transfer::is_left_behind;
use super::{Rows, RowsError, meta, retention::Horizons};
use crate::engine::{ENGINE_KEY, Keyspace, View};
use std::fmt;
use std::ops::Bound;
use xxhash_rust::xxh3::Xxh3;

/// What two replicas that applied the same have in common, byte for byte: heads, past, outcomes of transactions, ceiling
/// and horizons. What the horizons have passed does not count, because each replica drops it when it pleases.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Digest {
    /// The sum of a hash of each entry.
    pub hash: u128,
    /// How many there are.
    pub entries: u64,
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x} over {} entries", self.hash, self.entries)
    }
}

impl Rows {
    /// The digest of everything applied so far. Reads the whole store; blocks as long as that takes.
    pub fn digest(&self) -> Result<Digest, RowsError> {
        let view = self.engine().view()?;
        let (meta, _) = meta::load(&*view)?;
        of(&*view, &meta.horizons)
    }
}

/// The digest of a view with these horizons.
pub(super) fn of(view: &dyn View, horizons: &Horizons) -> Result<Digest, RowsError> {
    let mut digest = Digest::default();
    for keyspace in Keyspace::ALL {
        let from: &[u8] = if keyspace == Keyspace::Meta { &[ENGINE_KEY + 1] } else { &[] };
        for entry in view.range(keyspace, Bound::Included(from), Bound::Unbounded) {
            let (key, value) = entry?;
            let counts = match keyspace {
                Keyspace::Meta => meta::is_ceiling_or_horizon(&key),
                _ => !is_left_behind(horizons, keyspace, &key, &value),
            };
            if counts {
                let mut hash = Xxh3::new();
                update(&mut hash, keyspace, &key, &value);
                // A sum does not depend on the order, and unlike with XOR no pair of equal entries vanishes.
                digest.hash = digest.hash.wrapping_add(hash.digest128());
                digest.entries += 1;
            }
        }
    }
    Ok(digest)
}

/// Adds an entry to a hash, so that no two different ones add the same bytes.
pub(super) fn update(hash: &mut Xxh3, keyspace: Keyspace, key: &[u8], value: &[u8]) {
    hash.update(&[keyspace.slot() as u8]);
    hash.update(&(key.len() as u64).to_le_bytes());
    hash.update(key);
    hash.update(&(value.len() as u64).to_le_bytes());
    hash.update(value);
}
