//! What a server says is in it.

use crate::support::wire::{Connection, Reply};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// Table, as it stands in a path, and key.
pub type Row = (&'static str, String);
/// The versions of a row by their times; `None` is a deletion.
pub type Versions = BTreeMap<u64, Option<String>>;
/// Rows and their versions.
pub type History = BTreeMap<Row, Versions>;

#[derive(Deserialize)]
struct Line<'a> {
    key: String,
    time: u64,
    #[serde(borrow)]
    value: &'a RawValue,
}

/// Every version of every row of these tables. An error is the answer that was none, or was cut.
pub fn versions(connection: &mut Connection, tables: &[&'static str]) -> Result<History, Option<Reply>> {
    scan(connection, tables, "pick=between&since=0")
}

/// The newest version of every row of these tables that has a value.
pub fn latest(connection: &mut Connection, tables: &[&'static str]) -> Result<History, Option<Reply>> {
    scan(connection, tables, "pick=latest")
}

fn scan(connection: &mut Connection, tables: &[&'static str], pick: &str) -> Result<History, Option<Reply>> {
    let mut history = History::new();
    for table in tables {
        let target = format!("/table/{table}?{pick}");
        let reply = try_ask(connection, "GET", &target, &[("Accept", "application/x-ndjson")], "")
            .filter(|reply| reply.whole)
            .ok_or(None)?;
        if reply.status != 200 {
            return Err(Some(reply));
        }
        for text in reply.text().lines() {
            let line: Line = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e} in {text:?}"));
            let value = Some(line.value.get().to_owned()).filter(|value| value != "null");
            let before = history.entry((*table, line.key)).or_default().insert(line.time, value);
            assert_eq!(before, None, "two versions of one row at one time: {text}");
        }
    }
    Ok(history)
}

/// The newest versions that have values, of rows with such a history.
pub fn newest(history: &History) -> History {
    history
        .iter()
        .filter_map(|(row, versions)| {
            let (time, value) = versions.last_key_value()?;
            value.as_ref()?;
            Some((row.clone(), Versions::from([(*time, value.clone())])))
        })
        .collect()
}

/// The version that a reader at `at` has to see; time 0 and nothing if there was none.
pub fn version_at(history: &History, row: &Row, at: u64) -> (u64, Option<String>) {
    let seen = history.get(row).and_then(|versions| versions.range(..=at).next_back());
    seen.map_or((0, None), |(time, value)| (*time, value.clone()))
}

/// Sends a request and gives its answer; `None` if the connection broke instead.
pub fn try_ask(
    connection: &mut Connection,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Option<Reply> {
    let head = crate::support::wire::head(method, target, headers, body.as_bytes());
    // A server that is gone shows in the answer that does not come.
    let _ = connection.send(&head).and_then(|()| connection.send(body.as_bytes()));
    connection.reply_to(method)
}
