//! The schema language (being written).
#![allow(missing_docs)]
use crate::TableId;
use std::collections::BTreeMap;

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

/// One table of the schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableSchema {
    pub id: TableId,
    pub retain: Retain,
}

/// The accepted schema: its text, verbatim, and what it says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Schema {
    text: String,
    tables: BTreeMap<String, TableSchema>,
}

/// Everything that is wrong with a schema text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SchemaError(pub String);

impl Schema {
    pub fn parse(text: &str) -> Result<Schema, SchemaError> {
        Ok(Schema { text: text.to_owned(), tables: BTreeMap::new() })
    }
    pub fn text(&self) -> &str {
        &self.text
    }
    pub fn table(&self, name: &str) -> Option<&TableSchema> {
        self.tables.get(name)
    }
    pub fn tables(&self) -> impl Iterator<Item = (&str, &TableSchema)> {
        self.tables.iter().map(|(n, t)| (n.as_str(), t))
    }
    /// The retention of a table by ID; the default for one the schema does not name.
    pub fn retain(&self, id: TableId) -> Retain {
        self.tables.values().find(|t| t.id == id).map(|t| t.retain).unwrap_or_default()
    }
}
