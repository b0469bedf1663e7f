//! Several rows written together, or not at all.

use crate::client::{Client, draw_tx_id};
use crate::errand::{Errand, Home};
use crate::error::Error;
use crate::pool::Call;
use crate::rows::{Table, Written, check_key, check_value, written};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Method;
use serde::de::IgnoredAny;
use skein_model::limits::{BATCH_BYTES_MAX, BATCH_OPS_MAX};
use skein_model::{ContentType, TxClock, TxId, Value};
use tokio::time::Instant;

/// Operations on different rows of any tables, to be written whole or not at all by [`Client::commit`].
#[derive(Debug, Clone, Default)]
pub struct Batch {
    ops: Vec<Op>,
    condition: Option<TxClock>,
    id: Option<TxId>,
}

#[derive(Debug, Clone)]
struct Op {
    table: Table,
    key: Bytes,
    kind: Kind,
}

#[derive(Debug, Clone)]
pub(crate) enum Kind {
    Create(Value),
    Update(Value),
    Hold,
    Delete,
}

impl Batch {
    /// Nothing yet.
    pub fn new() -> Batch {
        Batch::default()
    }

    /// Writes a row, whether or not it has a value.
    pub fn put(self, table: &Table, key: impl AsRef<[u8]>, value: Value) -> Batch {
        self.op(table, key.as_ref(), Kind::Update(value))
    }

    /// Writes a row that must have no value.
    pub fn create(self, table: &Table, key: impl AsRef<[u8]>, value: Value) -> Batch {
        self.op(table, key.as_ref(), Kind::Create(value))
    }

    /// Deletes a row.
    pub fn delete(self, table: &Table, key: impl AsRef<[u8]>) -> Batch {
        self.op(table, key.as_ref(), Kind::Delete)
    }

    /// Demands that a row has not changed since [`Batch::unchanged_since`], and leaves it as it is.
    pub fn hold(self, table: &Table, key: impl AsRef<[u8]>) -> Batch {
        self.op(table, key.as_ref(), Kind::Hold)
    }

    /// All held, updated and deleted rows must have their latest version at or before this time.
    pub fn unchanged_since(mut self, time: TxClock) -> Batch {
        self.condition = Some(time);
        self
    }

    /// The transaction ID, which names the batch for good: with the same one it happens once, however often it is sent, by whomever.
    /// Otherwise the client draws one.
    pub fn id(mut self, id: TxId) -> Batch {
        self.id = Some(id);
        self
    }

    pub(crate) fn op(mut self, table: &Table, key: &[u8], kind: Kind) -> Batch {
        self.ops.push(Op { table: table.clone(), key: Bytes::copy_from_slice(key), kind });
        self
    }

    /// The body of the request. Values go in as they are, so they are checked to be one JSON value each.
    fn body(&self) -> Result<Vec<u8>, Error> {
        let invalid = |what, why: String| Error::Invalid { what, why };
        if BATCH_OPS_MAX < self.ops.len() {
            let why =
                format!("it has {} operations, and at most {BATCH_OPS_MAX} are allowed", self.ops.len());
            return Err(invalid("batch", why));
        }
        let mut body = vec![b'['];
        for (number, op) in self.ops.iter().enumerate() {
            check_key(&op.key)?;
            if 0 < number {
                body.push(b',');
            }
            body.extend_from_slice(b"{\"table\":");
            push_string(&mut body, op.table.name())?;
            match std::str::from_utf8(&op.key) {
                Ok(key) => {
                    body.extend_from_slice(b",\"key\":");
                    push_string(&mut body, key)?;
                }
                Err(_) => push_base64(&mut body, "keyBase64", &op.key),
            }
            let (name, value) = match &op.kind {
                Kind::Create(value) => ("create", Some(value)),
                Kind::Update(value) => ("update", Some(value)),
                Kind::Hold => ("hold", None),
                Kind::Delete => ("delete", None),
            };
            body.extend_from_slice(b",\"op\":\"");
            body.extend_from_slice(name.as_bytes());
            body.push(b'"');
            if let Some(value) = value {
                check_value(value)?;
                match &value.content_type {
                    ContentType::Json => {
                        serde_json::from_slice::<IgnoredAny>(&value.bytes)
                            .map_err(|why| invalid("value", format!("it is not JSON: {why}")))?;
                        body.extend_from_slice(b",\"value\":");
                        body.extend_from_slice(&value.bytes);
                    }
                    ContentType::Other(name) => {
                        push_base64(&mut body, "base64", &value.bytes);
                        body.extend_from_slice(b",\"contentType\":");
                        push_string(&mut body, name)?;
                    }
                }
            }
            body.push(b'}');
            if BATCH_BYTES_MAX <= body.len() {
                return Err(invalid("batch", format!("it has more than {BATCH_BYTES_MAX} bytes")));
            }
        }
        body.push(b']');
        Ok(body)
    }
}

fn push_string(body: &mut Vec<u8>, text: &str) -> Result<(), Error> {
    // Writing a text to memory does not fail.
    serde_json::to_writer(body, text).map_err(|why| Error::Invalid { what: "batch", why: why.to_string() })
}

fn push_base64(body: &mut Vec<u8>, name: &str, bytes: &[u8]) {
    body.extend_from_slice(format!(",\"{name}\":\"{}\"", STANDARD.encode(bytes)).as_bytes());
}

impl Client {
    /// Writes a batch, whole or not at all.
    ///
    /// Errors: [`Error::Stale`] if a held, updated or deleted row changed since [`Batch::unchanged_since`], [`Error::Collision`] if a created one
    /// has a value, [`Error::Unknown`] if the deadline came before the outcome.
    pub async fn commit(&self, batch: &Batch) -> Result<Written, Error> {
        self.commit_by(batch, self.deadline()).await
    }

    pub(crate) async fn commit_by(&self, batch: &Batch, deadline: Instant) -> Result<Written, Error> {
        let id = match &batch.id {
            Some(id) => id.clone(),
            None => draw_tx_id()?,
        };
        let mut call = Call::new(Method::POST, "/batch-write").header("transaction-id", &id);
        if let Some(condition) = batch.condition {
            call = call.header("condition-txclock", condition);
        }
        call.body = batch.body()?.into();
        let home = batch.ops.first().map_or(Home::Anywhere, |op| op.table.home(&op.key));
        let errand = Errand { call, home, write: Some(id.clone()), deadline };
        let answer = self.inner.run(&errand).await?;
        let written = written(&answer, id)?;
        for op in &batch.ops {
            let value = match &op.kind {
                // White space around a value is not kept.
                Kind::Create(value) | Kind::Update(value) => {
                    Some(Value { bytes: value.bytes.slice_ref(value.bytes.trim_ascii()), ..value.clone() })
                }
                Kind::Delete => None,
                Kind::Hold => continue,
            };
            self.inner.wrote(&op.table, &op.key, value, written.time);
        }
        Ok(written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::{json, typed};

    fn body(batch: &Batch) -> serde_json::Value {
        serde_json::from_slice(&batch.body().unwrap()).unwrap()
    }

    #[test]
    fn a_batch_says_what_the_interface_wants_to_hear() {
        let table = Table::id(1);
        let batch = Batch::new()
            .create(&table, "a\"b", json(&1).unwrap())
            .put(&Table::named("fruit"), [0xff, 0], typed("image/png", &b"\x89"[..]))
            .hold(&table, "h")
            .delete(&table, "d");
        assert_eq!(
            body(&batch),
            serde_json::json!([
                {"table": "0x0000000000000001", "key": "a\"b", "op": "create", "value": 1},
                {"table": "fruit", "keyBase64": "/wA=", "op": "update", "base64": "iQ==", "contentType": "image/png"},
                {"table": "0x0000000000000001", "key": "h", "op": "hold"},
                {"table": "0x0000000000000001", "key": "d", "op": "delete"}])
        );
    }

    #[test]
    fn a_value_cannot_smuggle_in_another_operation() {
        let bytes = Bytes::from_static(br#"1},{"table":"0x1","key":"x","op":"delete""#);
        let value = Value { content_type: ContentType::Json, bytes };
        let refused = Batch::new().put(&Table::id(1), "k", value).body();
        assert!(matches!(refused, Err(Error::Invalid { what: "value", .. })), "{refused:?}");
    }

    #[test]
    fn what_is_past_a_limit_is_not_sent() {
        let key = vec![b'k'; 20_000];
        assert!(matches!(
            Batch::new().delete(&Table::id(1), &key).body(),
            Err(Error::Invalid { what: "key", .. })
        ));
        let many = (0..=BATCH_OPS_MAX).fold(Batch::new(), |b, n| b.delete(&Table::id(1), n.to_string()));
        assert!(matches!(many.body(), Err(Error::Invalid { what: "batch", .. })));
    }
}
