//! Rows: GET, HEAD, PUT, POST and DELETE of one key.

use crate::body::Body;
use crate::conditions::{Conditions, Verdict};
use crate::dispatch::State;
use crate::headers::{READ_TX_CLOCK, RequestHeaders, TRANSACTION_ID, VALUE_TX_CLOCK, clip};
use crate::intake::{BodyLimit, read_body};
use crate::json::check_json;
use crate::problem::{Answer, Kind, Problem};
use crate::reply::{date_value, empty, etag_value, number_value, put_version};
use crate::route::Verb;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, DATE, ETAG, HeaderMap, HeaderValue, VARY, X_CONTENT_TYPE_OPTIONS};
use http::{Response, StatusCode};
use hyper::body::Incoming;
use skein_cell::TxOutcome;
use skein_model::limits::{CONTENT_TYPE_BYTES_MAX, KEY_BYTES_MAX, VALUE_BYTES_MAX};
use skein_model::{ContentType, Refusal, RowOp, TableId, Transaction, TxClock, Value, WriteOp};
use std::time::Duration;

/// One row, as a request names it.
#[derive(Debug, Clone)]
pub(crate) struct RowName {
    pub(crate) table: TableId,
    pub(crate) key: Bytes,
}

impl RowName {
    /// Refuses a key that is too long.
    pub(crate) fn check(&self) -> Answer<()> {
        if KEY_BYTES_MAX < self.key.len() {
            return Err(Problem::too_large("A key", KEY_BYTES_MAX, "bytes"));
        }
        Ok(())
    }

    /// Table and key, for a message.
    fn told(&self, state: &State) -> String {
        let key = String::from_utf8_lossy(&self.key);
        let schema = state.cell.schema();
        let name = schema.tables().find(|(_, t)| t.id == self.table).map(|(name, _)| name.to_owned());
        format!("{:?} of table {}", clip(&key), name.unwrap_or_else(|| self.table.to_string()))
    }
}

const VARY_READ_CLOCK: HeaderValue = HeaderValue::from_static("Read-TxClock");
/// Values up to so many bytes are sent without being counted.
const SMALL_VALUE_BYTES: usize = 4 << 10;

/// Reads a row.
pub(crate) async fn get(
    state: &State,
    row: RowName,
    at: Option<TxClock>,
    condition: Option<TxClock>,
    conditions: Conditions,
) -> Answer {
    row.check()?;
    let reply = state.cell.read(row.table, row.key.clone(), at, state.deadline()).await?;
    let Some(value) = reply.value else {
        let problem = Problem::new(
            Kind::RowNotFound,
            match reply.time {
                TxClock::ZERO => format!("The row {} was never written.", row.told(state)),
                time => format!("The row {} was deleted at {time}.", row.told(state)),
            },
        );
        return Err(problem
            .header(READ_TX_CLOCK.clone(), number_value(reply.read_time.0))
            .header(VALUE_TX_CLOCK.clone(), number_value(reply.time.0))
            .header(VARY, VARY_READ_CLOCK));
    };
    let not_modified = match conditions.weigh(reply.time) {
        Verdict::Send => condition.is_some_and(|limit| reply.time <= limit),
        Verdict::NotModified => true,
        Verdict::Failed(header) => {
            let problem = Problem::new(
                Kind::Stale,
                format!(
                    "The row {} does not meet {header}: its version is {}. Read it again without the header.",
                    row.told(state),
                    reply.time
                ),
            );
            return Err(with_latest(problem, reply.time)
                .header(READ_TX_CLOCK.clone(), number_value(reply.read_time.0)));
        }
    };
    let mut response = empty(if not_modified { StatusCode::NOT_MODIFIED } else { StatusCode::OK });
    let headers = response.headers_mut();
    headers.reserve(12);
    put_read(headers, reply.read_time);
    put_version(headers, reply.time);
    headers.insert(VARY, VARY_READ_CLOCK);
    if !not_modified {
        put_value(&mut response, counted(state, value)?);
    }
    Ok(response)
}

/// The value, counted against the memory budget until it is sent if it is not small: a client that reads slowly holds
/// on to it for a while.
pub(crate) fn counted(state: &State, value: Value) -> Answer<Value> {
    let len = value.bytes.len();
    if len <= SMALL_VALUE_BYTES {
        return Ok(value);
    }
    let permit = state.config.memory.try_reserve(len).ok_or_else(|| {
        Problem::overloaded(
            "Requests under way hold all the memory that they may. Try the read again later.",
            Duration::from_secs(1),
        )
    })?;
    Ok(Value { bytes: permit.hold(value.bytes), ..value })
}

fn put_read(headers: &mut HeaderMap, read_time: TxClock) {
    headers.insert(&READ_TX_CLOCK, number_value(read_time.0));
    // The answer is what the row was at the time that was read at, so caches reckon its age from there.
    if let Some(date) = date_value(read_time.seconds()) {
        headers.insert(DATE, date);
    }
}

pub(crate) fn put_value(response: &mut Response<Body>, value: Value) {
    let headers = response.headers_mut();
    match &value.content_type {
        ContentType::Json => {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        ContentType::Other(name) => {
            if let Ok(name) = HeaderValue::from_str(name) {
                headers.insert(CONTENT_TYPE, name);
            }
            // What somebody stored is never to be taken for something more dangerous than it says.
            headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        }
    }
    *response.body_mut() = Body::full(value.bytes);
}

/// Adds the row's latest version to a 412: `Value-TxClock` and `ETag`.
fn with_latest(problem: Box<Problem>, latest: TxClock) -> Box<Problem> {
    let problem = problem.header(VALUE_TX_CLOCK.clone(), number_value(latest.0));
    match etag_value(latest) {
        Some(tag) => problem.header(ETAG, tag),
        None => problem,
    }
}

/// Writes a row: PUT updates, POST creates, DELETE deletes.
pub(crate) async fn write(
    state: &State,
    verb: Verb,
    row: RowName,
    headers: &RequestHeaders<'_>,
    body: Incoming,
) -> Answer {
    row.check()?;
    let client_id = headers.transaction_id()?;
    let condition = headers.condition_clock()?;
    let expect = Conditions::parse(headers)?.into_expects();
    let (op, _held) = if verb == Verb::Delete {
        (WriteOp::Delete, None)
    } else {
        let content_type = content_type(headers.content_type)?;
        let limit = BodyLimit { what: "A value", bytes_max: VALUE_BYTES_MAX };
        let intake = read_body(&state.config, body, limit, headers.expects_continue).await?;
        let value = checked_value(content_type, intake.bytes.clone())?;
        let op = if verb == Verb::Post { WriteOp::Create(value) } else { WriteOp::Update(value) };
        (op, Some(intake))
    };
    // A new row has no version to compare with, so a creation is not held against the condition time.
    let ops = vec![RowOp { table: row.table, key: row.key.clone(), op, expect }];
    commit(state, client_id, condition, ops, &[row]).await
}

/// Runs a transaction and says what became of it. `rows` are the rows of `ops`, in their order.
pub(crate) async fn commit(
    state: &State,
    client_id: Option<skein_model::TxId>,
    condition: Option<TxClock>,
    ops: Vec<RowOp>,
    rows: &[RowName],
) -> Answer {
    let id_from_client = client_id.is_some();
    let id = client_id.unwrap_or_else(|| state.cell.draw_tx_id());
    let id_value = HeaderValue::try_from(id.to_string()).ok();
    let transaction = Transaction { id, id_from_client, condition, ops };
    let outcome = state.cell.write(transaction, state.deadline()).await;
    let name = |op: u32| rows.get(op as usize).map_or_else(String::new, |row| row.told(state));
    let mut problem: Box<Problem> = match outcome {
        Ok(TxOutcome::Committed(time)) => {
            let mut response = empty(StatusCode::OK);
            let headers = response.headers_mut();
            headers.reserve(8);
            if let [_] = rows {
                put_version(headers, time);
            } else {
                headers.insert(&VALUE_TX_CLOCK, number_value(time.0));
            }
            if let Some(id) = id_value {
                headers.insert(TRANSACTION_ID, id);
            }
            return Ok(response);
        }
        Ok(TxOutcome::Refused(Refusal::Collision { op })) => Problem::new(
            Kind::Collision,
            format!("The row {} exists already; nothing was written. Use PUT to replace it.", name(op)),
        ),
        Ok(TxOutcome::Refused(Refusal::Stale { op, latest })) => with_latest(
            Problem::new(
                Kind::Stale,
                format!(
                    "The row {} does not meet {}; nothing was written. The latest version involved is {latest}: \
                     read again and send what follows from it.",
                    name(op),
                    match condition {
                        Some(time) =>
                            format!("Condition-TxClock {time} or the other conditions of the request"),
                        None => "the conditions of the request".to_owned(),
                    }
                ),
            ),
            latest,
        ),
        Ok(TxOutcome::Aborted) => aborted(),
        Err(error) => error.into(),
    };
    if let Some(id) = id_value.filter(|_| !problem.headers.iter().any(|(name, _)| *name == TRANSACTION_ID)) {
        problem.headers.push((TRANSACTION_ID, id));
    }
    Err(problem)
}

/// The transaction was not written and never will be.
pub(crate) fn aborted() -> Box<Problem> {
    Problem::new(
        Kind::TransactionAborted,
        "The transaction was aborted. Nothing of it was written, and with this ID nothing ever will be; \
         run it again with a new Transaction-ID.",
    )
}

/// What a value is, by its `Content-Type`. None, and what curl sends unless told otherwise, count as JSON.
pub(crate) fn content_type(header: Option<&HeaderValue>) -> Answer<ContentType> {
    let Some(header) = header else { return Ok(ContentType::Json) };
    let text = header.to_str().map_err(|_| {
        Problem::bad_request("The Content-Type holds characters other than ASCII; nothing was written.")
    })?;
    content_type_of(text)
}

/// As [`content_type`], of its text.
pub(crate) fn content_type_of(text: &str) -> Answer<ContentType> {
    let text = text.trim();
    let essence = text.split(';').next().unwrap_or_default().trim();
    let is = |name| essence.eq_ignore_ascii_case(name);
    if text.is_empty() || is("application/json") || is("application/x-www-form-urlencoded") {
        return Ok(ContentType::Json);
    }
    if CONTENT_TYPE_BYTES_MAX < text.len() {
        return Err(Problem::too_large("A Content-Type", CONTENT_TYPE_BYTES_MAX, "bytes"));
    }
    let named = essence.split_once('/').is_some_and(|(a, b)| !a.is_empty() && !b.is_empty());
    if !named || !text.bytes().all(|b| b == b' ' || b == b'\t' || b.is_ascii_graphic()) {
        return Err(Problem::bad_request(format!(
            "Bad Content-Type: {:?}. It has the form type/subtype; without one a value counts as JSON.",
            clip(text)
        )));
    }
    Ok(ContentType::Other(text.into()))
}

/// The value, if its bytes are what its type says.
pub(crate) fn checked_value(content_type: ContentType, bytes: Bytes) -> Answer<Value> {
    if content_type == ContentType::Json {
        check_json(&bytes).map_err(|why| {
            Problem::bad_request(format!(
                "The value is not JSON: {why}. Nothing was written. Give other values their own Content-Type."
            ))
        })?;
    }
    Ok(Value { content_type, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(text: &'static str) -> Answer<ContentType> {
        content_type(Some(&HeaderValue::from_static(text)))
    }

    #[test]
    fn json_is_what_says_so_what_says_nothing_and_what_curl_says() {
        for json in
            ["", "application/json", "Application/JSON; charset=utf-8", "application/x-www-form-urlencoded"]
        {
            assert_eq!(typed(json).unwrap(), ContentType::Json, "{json}");
        }
        assert_eq!(content_type(None).unwrap(), ContentType::Json);
        for other in ["text/plain; charset=utf-8", "application/ld+json", "application/jsonx", "image/png"] {
            assert_eq!(typed(other).unwrap(), ContentType::Other(other.into()), "{other}");
        }
    }

    #[test]
    fn what_is_no_media_type_is_not_stored_as_one() {
        for bad in ["json", "/", "text/", "a\tb"] {
            assert_eq!(typed(bad).unwrap_err().kind, Kind::BadRequest, "{bad}");
        }
        let long = HeaderValue::try_from(format!("text/{}", "x".repeat(300))).unwrap();
        assert_eq!(content_type(Some(&long)).unwrap_err().kind, Kind::TooLarge);
    }

    #[test]
    fn a_json_value_is_kept_as_sent_and_anything_else_unseen() {
        let bytes = Bytes::from_static(b" { \"b\": 1.00, \"a\": 2 }\n");
        assert_eq!(checked_value(ContentType::Json, bytes.clone()).unwrap().bytes, bytes);
        let problem = checked_value(ContentType::Json, Bytes::new()).unwrap_err();
        assert!(problem.detail.starts_with("The value is not JSON"));
        assert!(checked_value(ContentType::Other("a/b".into()), Bytes::from_static(b"\xff{")).is_ok());
    }

    #[test]
    fn a_key_past_the_limit_is_refused_with_the_limit() {
        let row = |len| RowName { table: TableId(1), key: Bytes::from(vec![b'k'; len]) };
        assert!(row(KEY_BYTES_MAX).check().is_ok());
        let problem = row(KEY_BYTES_MAX + 1).check().unwrap_err();
        assert_eq!(problem.kind, Kind::TooLarge);
        assert!(problem.detail.contains("16384"));
    }
}
