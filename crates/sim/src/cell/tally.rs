//! What happened in a run. One in which too little happened has not shown anything, and counts as failed.

use std::collections::BTreeMap;

/// Counts by name.
#[derive(Debug, Clone, Default)]
pub struct Tally(BTreeMap<&'static str, u64>);

impl Tally {
    /// Counts one.
    pub fn count(&mut self, what: &'static str) {
        self.add(what, 1);
    }

    /// Counts several.
    pub fn add(&mut self, what: &'static str, n: u64) {
        *self.0.entry(what).or_default() += n;
    }

    /// How many there were.
    pub fn get(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or(0)
    }

    /// All counts, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.0.iter().map(|(what, n)| (*what, *n))
    }

    /// Adds another run's.
    pub fn merge(&mut self, other: &Tally) {
        for (what, n) in other.iter() {
            self.add(what, n);
        }
    }

    /// Names the first of these that did not happen often enough.
    pub fn require(&self, wanted: impl IntoIterator<Item = (&'static str, u64)>) -> Result<(), String> {
        for (what, least) in wanted {
            let n = self.get(what);
            if n < least {
                return Err(format!(
                    "too little happened: {n} of \"{what}\", and a run that shows something has {least}"
                ));
            }
        }
        Ok(())
    }
}
