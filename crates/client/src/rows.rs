//! Single rows: read, written, and what became of a write.

use crate::answer::Answer;
use crate::client::{Client, Inner, draw_tx_id};
use crate::errand::{Errand, Home, error_of};
use crate::error::Error;
use crate::pool::Call;
use bytes::Bytes;
use http::Method;
use http::header::{CONTENT_TYPE, HeaderValue};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use skein_model::limits::{CONTENT_TYPE_BYTES_MAX, KEY_BYTES_MAX, VALUE_BYTES_MAX};
use skein_model::{ContentType, TableId, TxClock, TxId, Value};
use std::sync::Arc;

/// What stands for itself in a path and a query.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// A table, as requests name it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Table {
    name: Arc<str>,
    id: Option<TableId>,
}

impl Table {
    /// The table with this ID. Every ID is a table that exists.
    pub fn id(id: u64) -> Table {
        Table { name: TableId(id).to_string().into(), id: Some(TableId(id)) }
    }

    /// The table that the schema calls so. Where a cell has several cohorts, its requests may take one step more than with
    /// [`Table::named_with_id`], because only the ID tells who leads a row's cohort.
    pub fn named(name: impl Into<Arc<str>>) -> Table {
        Table { name: name.into(), id: None }
    }

    /// As [`Table::named`], with the ID that the schema gives it. A wrong one costs a step and nothing else.
    pub fn named_with_id(name: impl Into<Arc<str>>, id: u64) -> Table {
        Table { name: name.into(), id: Some(TableId(id)) }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn home<'a>(&self, key: &'a [u8]) -> Home<'a> {
        Home::Row(self.id, key)
    }

    /// `/table/NAME`.
    pub(crate) fn path(&self) -> Result<String, Error> {
        if self.name.is_empty() || 256 < self.name.len() {
            let why = format!("a table's name has 1 to 256 bytes, and this one {}", self.name.len());
            return Err(Error::Invalid { what: "table", why });
        }
        Ok(format!("/table/{}", percent_encode(self.name.as_bytes(), ENCODED)))
    }

    fn row_path(&self, key: &[u8]) -> Result<String, Error> {
        check_key(key)?;
        Ok(format!("{}?key={}", self.path()?, encode(key)))
    }
}

/// A key as it stands in a query.
pub(crate) fn encode(key: &[u8]) -> percent_encoding::PercentEncode<'_> {
    percent_encode(key, ENCODED)
}

pub(crate) fn check_key(key: &[u8]) -> Result<(), Error> {
    if KEY_BYTES_MAX < key.len() {
        let why = format!("it has {} bytes, and at most {KEY_BYTES_MAX} are allowed", key.len());
        return Err(Error::Invalid { what: "key", why });
    }
    Ok(())
}

/// A row at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The value; `None` if the row had none.
    pub value: Option<Value>,
    /// The version: when it was written or deleted; zero for a row never written.
    pub time: TxClock,
    /// The moment: no later write of this row gets a time at or before it.
    pub read_time: TxClock,
}

impl Row {
    /// The value read as JSON; `None` if there is none. Errors: [`Error::Decode`].
    pub fn json<T: DeserializeOwned>(&self) -> Result<Option<T>, Error> {
        let read = |value: &Value| serde_json::from_slice(&value.bytes);
        self.value.as_ref().map(read).transpose().map_err(|why| Error::Decode { why: why.to_string() })
    }
}

/// A write that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The time of the new versions.
    pub time: TxClock,
    /// The transaction.
    pub id: TxId,
}

/// A value in JSON. Errors: [`Error::Invalid`] for what has no JSON form, as a map whose keys are no texts.
pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Value, Error> {
    match serde_json::to_vec(value) {
        Ok(bytes) => Ok(Value { content_type: ContentType::Json, bytes: bytes.into() }),
        Err(why) => Err(Error::Invalid { what: "value", why: why.to_string() }),
    }
}

/// A value that is not JSON, under its media type, as `image/png`.
pub fn typed(content_type: &str, bytes: impl Into<Bytes>) -> Value {
    Value { content_type: ContentType::Other(content_type.into()), bytes: bytes.into() }
}

/// What a write of one row does.
#[derive(Debug, Clone)]
pub(crate) enum RowWrite {
    Put(Value),
    Create(Value),
    Delete,
}

impl Client {
    /// Reads a row as it is now: every write acknowledged before is seen.
    pub async fn get(&self, table: &Table, key: impl AsRef<[u8]>) -> Result<Row, Error> {
        self.read(table, key.as_ref(), None, self.deadline()).await
    }

    /// Reads a row as it was at a time. Errors: [`Error::HistoryGone`] where that is no longer kept.
    pub async fn get_at(&self, table: &Table, key: impl AsRef<[u8]>, at: TxClock) -> Result<Row, Error> {
        self.read(table, key.as_ref(), Some(at), self.deadline()).await
    }

    /// Writes a row, whether or not it has a value.
    pub async fn put(&self, table: &Table, key: impl AsRef<[u8]>, value: Value) -> Result<Written, Error> {
        self.write(table, key.as_ref(), RowWrite::Put(value), None).await
    }

    /// Writes a row if its latest version is at or before `unchanged_since`. Errors: [`Error::Stale`].
    pub async fn put_if(
        &self,
        table: &Table,
        key: impl AsRef<[u8]>,
        value: Value,
        unchanged_since: TxClock,
    ) -> Result<Written, Error> {
        self.write(table, key.as_ref(), RowWrite::Put(value), Some(unchanged_since)).await
    }

    /// Writes a row that has no value. Errors: [`Error::Collision`].
    pub async fn create(&self, table: &Table, key: impl AsRef<[u8]>, value: Value) -> Result<Written, Error> {
        self.write(table, key.as_ref(), RowWrite::Create(value), None).await
    }

    /// Deletes a row, whether or not it has a value.
    pub async fn delete(&self, table: &Table, key: impl AsRef<[u8]>) -> Result<Written, Error> {
        self.write(table, key.as_ref(), RowWrite::Delete, None).await
    }

    /// Deletes a row if its latest version is at or before `unchanged_since`. Errors: [`Error::Stale`].
    pub async fn delete_if(
        &self,
        table: &Table,
        key: impl AsRef<[u8]>,
        unchanged_since: TxClock,
    ) -> Result<Written, Error> {
        self.write(table, key.as_ref(), RowWrite::Delete, Some(unchanged_since)).await
    }

    /// What became of a transaction: the time at which it was written, or `None` if it was not. If nothing was decided it is aborted
    /// by asking, so the answer never changes.
    pub async fn tx_status(&self, id: &TxId) -> Result<Option<TxClock>, Error> {
        let call = Call::new(Method::GET, "/tx-status").header("transaction-id", id);
        let errand = Errand { call, home: Home::Anywhere, write: None, deadline: self.deadline() };
        let answer = self.inner.run(&errand).await?;
        match answer.status {
            200 => time_of(&answer).map(Some),
            409 => Ok(None),
            _ => Err(error_of(&answer, None)),
        }
    }

    pub(crate) async fn read(
        &self,
        table: &Table,
        key: &[u8],
        at: Option<TxClock>,
        deadline: tokio::time::Instant,
    ) -> Result<Row, Error> {
        let mut known = self.inner.cache().get(table.name(), key);
        if let (Some(known), Some(at)) = (&known, at)
            && known.time <= at
            && at <= known.read_time
        {
            return Ok(Row { read_time: at, ..known.clone() });
        }
        // A later version says nothing about what was there before; and of what is not there, nothing is saved by asking whether it is.
        known = known.filter(|row| row.value.is_some() && at.is_none_or(|at| row.time <= at));
        let path = table.row_path(key)?;
        loop {
            let mut call = Call::new(Method::GET, path.clone());
            if let Some(at) = at {
                call = call.header("read-txclock", at);
            }
            if let Some(row) = &known {
                call = call.header("condition-txclock", row.time);
            }
            let errand = Errand { call, home: table.home(key), write: None, deadline };
            let answer = self.inner.run(&errand).await?;
            let read_time = || answer.clock("read-txclock").ok_or_else(|| unusable("it lacks Read-TxClock"));
            let row = match answer.status {
                200 => Row {
                    time: time_of(&answer)?,
                    read_time: read_time()?,
                    value: Some(Value { content_type: content_type(&answer), bytes: answer.body.clone() }),
                },
                304 => match known.take() {
                    Some(row) if answer.clock("value-txclock") == Some(row.time) => {
                        Row { read_time: read_time()?, ..row }
                    }
                    // What we have is newer than what the peer speaks of: asked without it, it says.
                    Some(_) => continue,
                    None => return Err(unusable("a 304 that was not asked for")),
                },
                404 if answer.refused().kind == "row-not-found" => {
                    Row { time: time_of(&answer)?, read_time: read_time()?, value: None }
                }
                _ => return Err(error_of(&answer, None)),
            };
            self.inner.cache().put(table.name(), key, &row);
            return Ok(row);
        }
    }

    async fn write(
        &self,
        table: &Table,
        key: &[u8],
        write: RowWrite,
        condition: Option<TxClock>,
    ) -> Result<Written, Error> {
        let id = draw_tx_id()?;
        let (method, value) = match write {
            RowWrite::Put(value) => (Method::PUT, Some(value)),
            RowWrite::Create(value) => (Method::POST, Some(value)),
            RowWrite::Delete => (Method::DELETE, None),
        };
        let mut call = Call::new(method, table.row_path(key)?).header("transaction-id", &id);
        if let Some(condition) = condition {
            call = call.header("condition-txclock", condition);
        }
        if let Some(value) = &value {
            check_value(value)?;
            if let ContentType::Other(name) = &value.content_type {
                let value = HeaderValue::from_str(name)
                    .map_err(|_| Error::Invalid { what: "content type", why: format!("{name:?} is none") })?;
                call.headers.push((CONTENT_TYPE, value));
            }
            call.body = value.bytes.clone();
        }
        let errand =
            Errand { call, home: table.home(key), write: Some(id.clone()), deadline: self.deadline() };
        let answer = self.inner.run(&errand).await?;
        let written = written(&answer, id)?;
        self.inner.wrote(table, key, value, written.time);
        Ok(written)
    }
}

impl Inner {
    /// Takes note of what this client wrote. What is not JSON is left to be read: the server has the last word on its type.
    pub(crate) fn wrote(&self, table: &Table, key: &[u8], value: Option<Value>, time: TxClock) {
        if value.as_ref().is_none_or(|value| value.content_type == ContentType::Json) {
            self.cache().put(table.name(), key, &Row { value, time, read_time: time });
        }
    }
}

pub(crate) fn check_value(value: &Value) -> Result<(), Error> {
    if VALUE_BYTES_MAX < value.bytes.len() {
        let why = format!("it has {} bytes, and at most {VALUE_BYTES_MAX} are allowed", value.bytes.len());
        return Err(Error::Invalid { what: "value", why });
    }
    match &value.content_type {
        ContentType::Other(name) if CONTENT_TYPE_BYTES_MAX < name.len() => {
            let why =
                format!("it has {} bytes, and at most {CONTENT_TYPE_BYTES_MAX} are allowed", name.len());
            Err(Error::Invalid { what: "content type", why })
        }
        _ => Ok(()),
    }
}

/// The outcome of a write from an answer that settles it.
pub(crate) fn written(answer: &Answer, id: TxId) -> Result<Written, Error> {
    if !(200..300).contains(&answer.status) {
        return Err(error_of(answer, Some(&id)));
    }
    match answer.clock("value-txclock") {
        Some(time) => Ok(Written { time, id }),
        None => Err(Error::Unknown {
            id,
            waited: std::time::Duration::ZERO,
            last: "an answer without Value-TxClock, which no peer gives".to_owned(),
        }),
    }
}

fn time_of(answer: &Answer) -> Result<TxClock, Error> {
    answer.clock("value-txclock").ok_or_else(|| unusable("it lacks Value-TxClock"))
}

fn unusable(detail: &str) -> Error {
    Error::Unusable { detail: detail.to_owned() }
}

fn content_type(answer: &Answer) -> ContentType {
    match answer.header("content-type") {
        None | Some("application/json") => ContentType::Json,
        Some(other) => ContentType::Other(other.into()),
    }
}
