//! The schema: which table IDs have names, and how long their superseded versions stay readable.
//!
//! ```text
//! table fruit { id : 0x1; };                 // superseded versions stay readable since yesterday's midnight
//! table audit { id : 0x2; retain : 90d; };   # an integer with s, m, h, d or w; or forever, or yesterday
//! ```
//!
//! White space is free. `resource "regex";` is accepted and means nothing. A schema text replaces the one before it
//! whole: a table it leaves out keeps its rows and loses its name.

mod error;
mod parse;
#[cfg(test)]
mod tests;

use crate::TableId;
use crate::TxClock;
use std::collections::HashMap;

pub use error::{SchemaError, SchemaFault, SchemaProblem};

/// First path segments that the server keeps to itself; no table can have such a name.
pub const RESERVED_NAMES: [&str; 15] = [
    "table",
    "atlas",
    "hosts",
    "peers",
    "batch-write",
    "tx-status",
    "admin",
    "metrics",
    "health",
    "openapi.json",
    "catalog",
    "flock",
    "console",
    "favicon.ico",
    "robots.txt",
];

const DAY_MICROS: u64 = 86_400_000_000;

/// How long superseded versions of a table stay readable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Retain {
    /// Back to 00:00 UTC of the previous day.
    #[default]
    SinceYesterday,
    /// This many microseconds.
    Micros(u64),
    /// For ever.
    Forever,
}

impl Retain {
    /// The oldest time at which a table kept this way can still be read, when it is `now`.
    pub fn oldest_readable(self, now: TxClock) -> TxClock {
        match self {
            Retain::SinceYesterday => TxClock((now.0 / DAY_MICROS).saturating_sub(1) * DAY_MICROS),
            Retain::Micros(micros) => TxClock(now.0.saturating_sub(micros)),
            Retain::Forever => TxClock::ZERO,
        }
    }

    /// By how many microseconds at least the oldest readable time is worth raising: a hundredth of a duration, from a
    /// second to an hour, so that an idle table costs little.
    pub fn step_micros(self) -> u64 {
        match self {
            Retain::SinceYesterday | Retain::Forever => 1,
            Retain::Micros(micros) => (micros / 100).clamp(1_000_000, 3_600_000_000),
        }
    }
}

/// One table of the schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableSchema {
    /// Where the table's rows live.
    pub id: TableId,
    /// How long superseded versions stay readable.
    pub retain: Retain,
}

/// The accepted schema: its text, verbatim, and what it says. The default is the empty schema.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Schema {
    text: String,
    by_name: HashMap<String, TableSchema>,
    by_id: HashMap<TableId, Retain>,
}

impl Schema {
    /// Reads a schema text; an empty one is the empty schema. The error tells everything that is wrong, not only the
    /// first thing.
    ///
    /// Takes time and memory in proportion to the text, whatever it holds.
    pub fn parse(text: &str) -> Result<Schema, SchemaError> {
        let by_name = parse::parse(text)?;
        let by_id = by_name.values().map(|table| (table.id, table.retain)).collect();
        Ok(Schema { text: text.to_owned(), by_name, by_id })
    }

    /// The text as it was given, comments and all.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The table of this name; letter case matters.
    pub fn table(&self, name: &str) -> Option<&TableSchema> {
        self.by_name.get(name)
    }

    /// All tables by ascending name. Sorts them anew each time.
    pub fn tables(&self) -> impl Iterator<Item = (&str, &TableSchema)> {
        let mut tables: Vec<_> = self.by_name.iter().map(|(name, table)| (name.as_str(), table)).collect();
        tables.sort_unstable_by_key(|(name, _)| *name);
        tables.into_iter()
    }

    /// The retention of a table by ID; the default for one the schema does not name.
    pub fn retain(&self, id: TableId) -> Retain {
        self.by_id.get(&id).copied().unwrap_or_default()
    }
}
