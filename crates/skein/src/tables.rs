//! Adds a table to the schema of a running server, for imports into a table that is not there yet.

use crate::client::{Answer, Call, ClientError, Connection};
use http::Method;
use skein_model::schema::RESERVED_NAMES;
use skein_model::{Schema, TableId};

/// Why a table could not be added. The schema is as it was, except after `Client`, which leaves that open.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The admin port did not answer.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The admin port refused.
    #[error("the schema was not changed: {0}")]
    Refused(String),
    /// The table exists, under another ID than the one asked for.
    #[error("table {name} is there already, with ID {found}")]
    OtherId {
        /// The table.
        name: String,
        /// Its ID.
        found: TableId,
    },
    /// The name or the ID cannot be used.
    #[error("{0}")]
    Unusable(String),
}

/// What [`ensure`] found or did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ensured {
    /// The table was there already, or is named by its ID and needs no schema.
    Existing,
    /// The table was added, with this ID.
    Created(TableId),
}

/// Makes sure that the schema has table `name`; a new one gets `id`, or the next free ID.
pub async fn ensure(admin: &mut Connection, name: &str, id: Option<TableId>) -> Result<Ensured, TableError> {
    if name.starts_with("0x") || name.starts_with("0X") {
        return Ok(Ensured::Existing);
    }
    let answer = accepted(admin.call(Call::new(Method::GET, "/admin/schema")).await?)?;
    let text = String::from_utf8(answer.body.to_vec())
        .map_err(|_| TableError::Unusable("the server's schema is not UTF-8".into()))?;
    let Some((text, id)) = with_table(&text, name, id)? else { return Ok(Ensured::Existing) };
    accepted(admin.call(Call::new(Method::PUT, "/admin/schema").body(text)).await?)?;
    Ok(Ensured::Created(id))
}

fn accepted(answer: Answer) -> Result<Answer, TableError> {
    if answer.status.is_success() { Ok(answer) } else { Err(TableError::Refused(answer.explanation())) }
}

/// The schema's text with the table added; `None` if it has it.
fn with_table(text: &str, name: &str, id: Option<TableId>) -> Result<Option<(String, TableId)>, TableError> {
    if RESERVED_NAMES.contains(&name) {
        let text = format!("{name} cannot be a table's name: the server uses /{name} itself");
        return Err(TableError::Unusable(text));
    }
    let schema = Schema::parse(text)
        .map_err(|e| TableError::Unusable(format!("the server's schema is beyond this release: {e}")))?;
    if let Some(found) = schema.table(name) {
        return match id {
            Some(id) if id != found.id => Err(TableError::OtherId { name: name.to_owned(), found: found.id }),
            _ => Ok(None),
        };
    }
    let used: Vec<u64> = schema.tables().map(|(_, table)| table.id.0).collect();
    let id = match id {
        Some(id) if used.contains(&id.0) => {
            return Err(TableError::Unusable(format!("ID {id} belongs to another table of the schema")));
        }
        Some(id) => id,
        // Beside the low IDs that people use by hand without a schema.
        None => TableId((0x1000..).find(|id| !used.contains(id)).unwrap_or(u64::MAX)),
    };
    let separator = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    let text = format!("{text}{separator}table {name} {{ id: 0x{:X}; }};\n", id.0);
    Schema::parse(&text)
        .map_err(|e| TableError::Unusable(format!("{name} cannot be a table's name: {e}")))?;
    Ok(Some((text, id)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_added_behind_what_is_there() {
        let (text, id) = with_table("", "fruit", None).unwrap().unwrap();
        let (text, second) = with_table(&text, "nuts", None).unwrap().unwrap();
        assert_eq!((id, second), (TableId(0x1000), TableId(0x1001)));
        let schema = Schema::parse(&text).unwrap();
        assert_eq!(schema.table("fruit").map(|t| t.id), Some(id));
        assert_eq!(schema.table("nuts").map(|t| t.id), Some(second));
    }

    #[test]
    fn a_table_that_is_there_is_left_alone() {
        let text = "table fruit { id: 0x7; };";
        assert_eq!(with_table(text, "fruit", None).unwrap(), None);
        assert_eq!(with_table(text, "fruit", Some(TableId(7))).unwrap(), None);
        assert!(matches!(with_table(text, "fruit", Some(TableId(8))), Err(TableError::OtherId { .. })));
        assert!(matches!(with_table(text, "nuts", Some(TableId(7))), Err(TableError::Unusable(_))));
    }

    #[test]
    fn a_name_that_the_schema_cannot_hold_is_refused() {
        for name in ["batch-write", "two words", "a;b", ""] {
            assert!(matches!(with_table("", name, None), Err(TableError::Unusable(_))), "{name}");
        }
    }
}
