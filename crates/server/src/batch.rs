//! `/batch-write`: many operations on many rows, written whole or not at all.

use crate::dispatch::{State, table_in_batch};
use crate::headers::{RequestHeaders, clip};
use crate::intake::{BodyLimit, read_body};
use crate::json::check_depth;
use crate::problem::{Answer, Problem};
use crate::row::{RowName, checked_value, commit, content_type_of};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hyper::body::Incoming;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use skein_model::limits::{BATCH_BYTES_MAX, BATCH_OPS_MAX};
use skein_model::{ContentType, RowOp, TableId, Value, WriteOp};
use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

/// Runs a batch.
pub(crate) async fn batch_write(state: &State, headers: &RequestHeaders<'_>, body: Incoming) -> Answer {
    let client_id = headers.transaction_id()?;
    let condition = headers.condition_clock()?;
    let limit = BodyLimit { what: "The body of a batch", bytes_max: BATCH_BYTES_MAX };
    let intake = read_body(&state.config, body, limit, headers.expects_continue).await?;
    let schema = state.cell.schema();
    let ops = parse_batch(&intake.bytes, |table| table_in_batch(&schema, table))?;
    let rows: Vec<RowName> = ops.iter().map(|op| RowName { table: op.table, key: op.key.clone() }).collect();
    commit(state, client_id, condition, ops, &rows).await
}

/// The operations of a batch. Values and keys share memory with `body`.
///
/// `resolve` finds a table by name or ID. Errors come in the order of `docs/HTTP.md`: first the JSON as a whole, then
/// element by element, then what concerns all of them.
pub(crate) fn parse_batch(body: &Bytes, resolve: impl Fn(&str) -> Option<TableId>) -> Answer<Vec<RowOp>> {
    let text = std::str::from_utf8(body).map_err(|why| {
        Problem::bad_request(format!("The batch is not UTF-8 from byte {} on.", why.valid_up_to()))
    })?;
    let malformed = |why| Problem::bad_request(format!("The batch is not JSON: {why}. Nothing was written."));
    let elements = match serde_json::from_str::<Elements<'_>>(text).map_err(malformed)? {
        Elements::Listed(elements) => elements,
        Elements::TooMany => return Err(Problem::too_large("A batch", BATCH_OPS_MAX, "operations")),
        Elements::NoList => {
            return Err(Problem::bad_request(
                "Batch must have some writes. The body has to be a JSON array of operations.",
            ));
        }
    };
    let mut seen = HashSet::with_capacity(elements.len());
    let mut ops = Vec::with_capacity(elements.len());
    for (number, element) in elements.iter().enumerate() {
        ops.push(element.operation(body, number, &resolve, &mut seen)?);
    }
    if ops.iter().all(|op| op.op == WriteOp::Hold) {
        return Err(Problem::bad_request(
            "Batch must have some writes. Add a create, an update or a delete; holds alone write nothing.",
        ));
    }
    Ok(ops)
}

/// A table as an operation names it, so that a name and the ID behind it are seen to be the same.
#[derive(PartialEq, Eq, Hash)]
enum TableRef<'a> {
    Known(TableId),
    Unknown(Cow<'a, str>),
}

enum Elements<'a> {
    Listed(Vec<Element<'a>>),
    TooMany,
    NoList,
}

/// One operation as it was sent; the last of repeated members counts.
#[derive(Default)]
struct Element<'a> {
    table: Option<&'a RawValue>,
    key: Option<&'a RawValue>,
    key_base64: Option<&'a RawValue>,
    op: Option<&'a RawValue>,
    value: Option<&'a RawValue>,
    base64: Option<&'a RawValue>,
    content_type: Option<&'a RawValue>,
}

impl<'a> Element<'a> {
    fn operation(
        &self,
        body: &Bytes,
        number: usize,
        resolve: &impl Fn(&str) -> Option<TableId>,
        seen: &mut HashSet<(TableRef<'a>, Bytes)>,
    ) -> Answer<RowOp> {
        let bad = |what: String| {
            Problem::bad_request(format!("{what} (operation {number} of the batch; nothing was written)"))
        };
        let missing = |name: &str| bad(format!("There is no attribute called '{name}'"));
        let text = |name: &str, raw: &'a RawValue| {
            string(raw).ok_or_else(|| bad(format!("The attribute '{name}' has to be a string")))
        };
        let table = text("table", self.table.ok_or_else(|| missing("table"))?)?;
        let key = match (self.key, self.key_base64) {
            (Some(_), Some(_)) => return Err(bad("There are both 'key' and 'keyBase64'".to_owned())),
            (Some(raw), None) => shared(body, text("key", raw)?),
            (None, Some(raw)) => Bytes::from(
                STANDARD
                    .decode(text("keyBase64", raw)?.as_bytes())
                    .map_err(|why| bad(format!("Bad base64 in 'keyBase64': {why}")))?,
            ),
            (None, None) => return Err(missing("key")),
        };
        let op = text("op", self.op.ok_or_else(|| missing("op"))?)?;
        let resolved = resolve(&table);
        let named = match resolved {
            Some(id) => TableRef::Known(id),
            None => TableRef::Unknown(table.clone()),
        };
        if !seen.insert((named, key.clone())) {
            let key = String::from_utf8_lossy(&key);
            return Err(bad(format!("Multiple rows found for \"{}:{}\".", clip(&table), clip(&key))));
        }
        let write: fn(Value) -> WriteOp = match op.as_ref() {
            op if op.eq_ignore_ascii_case("create") => WriteOp::Create,
            op if op.eq_ignore_ascii_case("update") => WriteOp::Update,
            op if op.eq_ignore_ascii_case("hold") => |_| WriteOp::Hold,
            op if op.eq_ignore_ascii_case("delete") => |_| WriteOp::Delete,
            op => {
                return Err(bad(format!("Unsupported operation: {:?}.", clip(op))));
            }
        };
        let has_value = op.eq_ignore_ascii_case("create") || op.eq_ignore_ascii_case("update");
        let value = if has_value { self.value(body, &bad)? } else { no_value() };
        let table = resolved.ok_or_else(|| bad(format!("Bad table ID: {}", clip(&table))))?;
        let name = RowName { table, key };
        name.check()?;
        Ok(RowOp { table, key: name.key, op: write(value), expect: Vec::new() })
    }

    fn value(&self, body: &Bytes, bad: &impl Fn(String) -> Box<Problem>) -> Answer<Value> {
        match (self.value, self.base64) {
            (Some(_), Some(_)) => Err(bad("There are both 'value' and 'base64'".to_owned())),
            (None, None) => Err(bad("There is no attribute called 'value'".to_owned())),
            (Some(raw), None) => {
                let json = raw.get().as_bytes();
                check_depth(json).map_err(|why| bad(format!("Bad 'value': {why}")))?;
                within_limit(json.len())?;
                Ok(Value { content_type: ContentType::Json, bytes: body.slice_ref(json) })
            }
            (None, Some(raw)) => {
                let encoded =
                    string(raw).ok_or_else(|| bad("The attribute 'base64' has to be a string".to_owned()))?;
                let bytes = STANDARD
                    .decode(encoded.as_bytes())
                    .map_err(|why| bad(format!("Bad base64 in 'base64': {why}")))?;
                within_limit(bytes.len())?;
                let name = self.content_type.and_then(string).ok_or_else(|| {
                    bad("There is no attribute called 'contentType' with the 'base64'".to_owned())
                })?;
                checked_value(content_type_of(&name)?, Bytes::from(bytes))
            }
        }
    }
}

fn no_value() -> Value {
    Value { content_type: ContentType::Json, bytes: Bytes::new() }
}

fn within_limit(len: usize) -> Answer<()> {
    if skein_model::limits::VALUE_BYTES_MAX < len {
        return Err(Problem::too_large("A value", skein_model::limits::VALUE_BYTES_MAX, "bytes"));
    }
    Ok(())
}

/// A JSON string as text; borrowed if it has no escapes.
fn string(raw: &RawValue) -> Option<Cow<'_, str>> {
    let inner = raw.get().strip_prefix('"')?.strip_suffix('"')?;
    if memchr::memchr(b'\\', inner.as_bytes()).is_none() {
        return Some(Cow::Borrowed(inner));
    }
    serde_json::from_str::<String>(raw.get()).ok().map(Cow::Owned)
}

/// Text as bytes that share memory with the body where they can.
fn shared(body: &Bytes, text: Cow<'_, str>) -> Bytes {
    match text {
        Cow::Borrowed(text) => body.slice_ref(text.as_bytes()),
        Cow::Owned(text) => Bytes::from(text),
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Elements<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ElementsVisitor(std::marker::PhantomData))
    }
}

struct ElementsVisitor<'a>(std::marker::PhantomData<&'a ()>);

/// The methods of a visitor that answer `$default` to everything that is neither a map nor a list.
macro_rules! scalars_give {
    ($default:expr) => {
        fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
            Ok($default)
        }
        fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
            Ok($default)
        }
        fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
            Ok($default)
        }
        fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
            Ok($default)
        }
        fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
            Ok($default)
        }
        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok($default)
        }
    };
}

impl<'de: 'a, 'a> Visitor<'de> for ElementsVisitor<'a> {
    type Value = Elements<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of operations")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = list.next_element::<Element<'a>>()? {
            if elements.len() == BATCH_OPS_MAX {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                return Ok(Elements::TooMany);
            }
            elements.push(element);
        }
        Ok(Elements::Listed(elements))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Elements::NoList)
    }

    scalars_give!(Elements::NoList);
}

impl<'de: 'a, 'a> Deserialize<'de> for Element<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ElementVisitor(std::marker::PhantomData))
    }
}

struct ElementVisitor<'a>(std::marker::PhantomData<&'a ()>);

impl<'de: 'a, 'a> Visitor<'de> for ElementVisitor<'a> {
    type Value = Element<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an operation")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut element = Element::default();
        while let Some(name) = map.next_key::<Name>()? {
            let slot = match name {
                Name::Table => &mut element.table,
                Name::Key => &mut element.key,
                Name::KeyBase64 => &mut element.key_base64,
                Name::Op => &mut element.op,
                Name::Value => &mut element.value,
                Name::Base64 => &mut element.base64,
                Name::ContentType => &mut element.content_type,
                Name::Other => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            *slot = Some(map.next_value::<&RawValue>()?);
        }
        Ok(element)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Element::default())
    }

    // A scalar has no attributes, which is what the first check will say.
    scalars_give!(Element::default());
}

/// The members of an operation that we know.
#[derive(serde::Deserialize)]
#[serde(field_identifier, rename_all = "camelCase")]
enum Name {
    Table,
    Key,
    #[serde(rename = "keyBase64")]
    KeyBase64,
    Op,
    Value,
    Base64,
    ContentType,
    #[serde(other)]
    Other,
}

#[cfg(test)]
mod tests;
