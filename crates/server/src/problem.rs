//! What goes wrong, as the client sees it: RFC 9457 problem documents with a stable type.

use crate::body::Body;
use crate::headers::{RETRY_AFTER, TRANSACTION_ID};
use crate::json::push_string;
use crate::reply::number_value;
use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use skein_cell::CellError;
use std::time::Duration;

/// Every type of problem that the server answers with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    BadRequest,
    FutureTime,
    InvalidSchema,
    InvalidAtlas,
    AtlasUnsupported,
    NotFound,
    TableNotFound,
    RowNotFound,
    KeyNotFound,
    MethodNotAllowed,
    SlowRequest,
    Collision,
    TransactionAborted,
    LastCopies,
    OtherStore,
    HistoryGone,
    Stale,
    TooLarge,
    TransactionIdReused,
    Internal,
    Damaged,
    DiskFailed,
    NoLeader,
    TwoCells,
    NotReady,
    Overloaded,
    ShuttingDown,
    NoAtlas,
    NotHere,
    OutcomeUnknown,
    TimedOut,
    DiskFull,
    ManyCohorts,
    CatalogFull,
}

impl Kind {
    /// All of them, in the order of their statuses.
    pub(crate) const ALL: [Kind; 34] = [
        Kind::BadRequest,
        Kind::FutureTime,
        Kind::InvalidSchema,
        Kind::InvalidAtlas,
        Kind::AtlasUnsupported,
        Kind::NotFound,
        Kind::TableNotFound,
        Kind::RowNotFound,
        Kind::KeyNotFound,
        Kind::MethodNotAllowed,
        Kind::SlowRequest,
        Kind::Collision,
        Kind::TransactionAborted,
        Kind::LastCopies,
        Kind::OtherStore,
        Kind::HistoryGone,
        Kind::Stale,
        Kind::TooLarge,
        Kind::TransactionIdReused,
        Kind::Internal,
        Kind::Damaged,
        Kind::DiskFailed,
        Kind::ManyCohorts,
        Kind::NoLeader,
        Kind::TwoCells,
        Kind::NotReady,
        Kind::Overloaded,
        Kind::ShuttingDown,
        Kind::NoAtlas,
        Kind::NotHere,
        Kind::OutcomeUnknown,
        Kind::TimedOut,
        Kind::DiskFull,
        Kind::CatalogFull,
    ];

    /// The status, the last part of the `type`, and the `title`.
    fn facts(self) -> (StatusCode, &'static str, &'static str) {
        use StatusCode as S;
        match self {
            Kind::BadRequest => (S::BAD_REQUEST, "bad-request", "The request is malformed"),
            Kind::FutureTime => (S::BAD_REQUEST, "future-time", "The time lies in the future"),
            Kind::InvalidSchema => (S::BAD_REQUEST, "invalid-schema", "The schema is not valid"),
            Kind::InvalidAtlas => (S::BAD_REQUEST, "invalid-atlas", "The atlas is not valid"),
            Kind::AtlasUnsupported => {
                (S::BAD_REQUEST, "atlas-unsupported", "This release cannot serve that atlas")
            }
            Kind::NotFound => (S::NOT_FOUND, "not-found", "Nothing is served here"),
            Kind::TableNotFound => (S::NOT_FOUND, "table-not-found", "The table does not exist"),
            Kind::RowNotFound => (S::NOT_FOUND, "row-not-found", "The row has no value"),
            Kind::KeyNotFound => (S::NOT_FOUND, "key-not-found", "The key has no value"),
            Kind::MethodNotAllowed => {
                (S::METHOD_NOT_ALLOWED, "method-not-allowed", "The method is not allowed here")
            }
            Kind::SlowRequest => (S::REQUEST_TIMEOUT, "slow-request", "The request arrived too slowly"),
            Kind::Collision => (S::CONFLICT, "collision", "The row exists already"),
            Kind::TransactionAborted => (S::CONFLICT, "transaction-aborted", "The transaction was aborted"),
            Kind::LastCopies => (S::CONFLICT, "last-copies", "Rows would be lost"),
            Kind::OtherStore => (S::CONFLICT, "other-store", "The directory is another one"),
            Kind::HistoryGone => (S::GONE, "history-gone", "That history is no longer kept"),
            Kind::Stale => (S::PRECONDITION_FAILED, "stale", "It was changed meanwhile"),
            Kind::TooLarge => (S::PAYLOAD_TOO_LARGE, "too-large", "The request is too large"),
            Kind::TransactionIdReused => (
                S::UNPROCESSABLE_ENTITY,
                "transaction-id-reused",
                "The transaction ID was used for something else",
            ),
            Kind::Internal => (S::INTERNAL_SERVER_ERROR, "internal", "The server failed"),
            Kind::Damaged => (S::INTERNAL_SERVER_ERROR, "damaged", "Stored data is damaged"),
            Kind::DiskFailed => (S::SERVICE_UNAVAILABLE, "disk-failed", "The disk failed"),
            Kind::ManyCohorts => {
                (S::NOT_IMPLEMENTED, "many-cohorts", "The rows of the batch belong to several cohorts")
            }
            Kind::NoLeader => (S::SERVICE_UNAVAILABLE, "no-leader", "Nobody leads the catalog just now"),
            Kind::TwoCells => (S::SERVICE_UNAVAILABLE, "two-cells", "Two databases have the same cell ID"),
            Kind::NotReady => (S::SERVICE_UNAVAILABLE, "not-ready", "Rows are not being served"),
            Kind::Overloaded => (S::SERVICE_UNAVAILABLE, "overloaded", "The server is overloaded"),
            Kind::ShuttingDown => (S::SERVICE_UNAVAILABLE, "shutting-down", "The server is stopping"),
            Kind::NoAtlas => (S::GATEWAY_TIMEOUT, "no-atlas", "The cell has no atlas"),
            Kind::NotHere => (S::GATEWAY_TIMEOUT, "not-here", "No peer in reach serves this row"),
            Kind::OutcomeUnknown => (S::GATEWAY_TIMEOUT, "outcome-unknown", "The outcome is not known yet"),
            Kind::TimedOut => (S::GATEWAY_TIMEOUT, "timed-out", "No quorum answered in time"),
            Kind::DiskFull => (S::INSUFFICIENT_STORAGE, "disk-full", "The disk is full"),
            Kind::CatalogFull => (S::INSUFFICIENT_STORAGE, "catalog-full", "The catalog is full"),
        }
    }

    pub(crate) fn status(self) -> StatusCode {
        self.facts().0
    }

    /// The part of the `type` that tells problems apart: `stale` in `urn:skein:problem:stale`.
    pub(crate) fn name(self) -> &'static str {
        self.facts().1
    }

    pub(crate) fn title(self) -> &'static str {
        self.facts().2
    }
}

/// One problem, on its way to the client.
#[derive(Debug)]
pub(crate) struct Problem {
    pub(crate) kind: Kind,
    /// Names the offending thing and says what to do next.
    pub(crate) detail: String,
    /// Numbers beyond the members that every problem has.
    pub(crate) members: Vec<(&'static str, u64)>,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    /// Whether the connection cannot carry another request, because the body of this one was left unread.
    pub(crate) close: bool,
}

/// What a handler gives: an answer, or a problem. Boxed so that the good path moves few bytes.
pub(crate) type Answer<T = Response<Body>> = Result<T, Box<Problem>>;

impl Problem {
    pub(crate) fn new(kind: Kind, detail: impl Into<String>) -> Box<Problem> {
        Box::new(Problem {
            kind,
            detail: detail.into(),
            members: Vec::new(),
            headers: Vec::new(),
            close: false,
        })
    }

    pub(crate) fn bad_request(detail: impl Into<String>) -> Box<Problem> {
        Problem::new(Kind::BadRequest, detail)
    }

    /// A request past a limit: names the limit, in bytes or operations.
    pub(crate) fn too_large(what: &str, limit: usize, unit: &str) -> Box<Problem> {
        Problem::new(
            Kind::TooLarge,
            format!("{what} is limited to {limit} {unit}; nothing was written. Send less at a time."),
        )
        .member("limit", limit as u64)
    }

    pub(crate) fn overloaded(detail: impl Into<String>, retry_after: Duration) -> Box<Problem> {
        Problem::new(Kind::Overloaded, detail).retry_after(retry_after)
    }

    pub(crate) fn member(mut self: Box<Self>, name: &'static str, value: u64) -> Box<Self> {
        self.members.push((name, value));
        self
    }

    pub(crate) fn header(mut self: Box<Self>, name: HeaderName, value: HeaderValue) -> Box<Self> {
        self.headers.push((name, value));
        self
    }

    /// Asks the client to come back after a while, in whole seconds and at least one.
    pub(crate) fn retry_after(self: Box<Self>, after: Duration) -> Box<Self> {
        let seconds = after.as_secs() + u64::from(0 < after.subsec_nanos());
        self.header(RETRY_AFTER, number_value(seconds.max(1)))
    }

    pub(crate) fn closing(mut self: Box<Self>) -> Box<Self> {
        self.close = true;
        self
    }

    /// The answer to send for request `request_id`.
    pub(crate) fn into_response(self, request_id: &str) -> Response<Body> {
        let bytes = self.document(request_id);
        let mut response = Response::new(Body::full(bytes));
        *response.status_mut() = self.kind.status();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.close {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        headers.extend(self.headers);
        response
    }

    fn document(&self, request_id: &str) -> Bytes {
        let mut out = BytesMut::with_capacity(256 + self.detail.len());
        out.extend_from_slice(b"{\"type\":\"urn:skein:problem:");
        out.extend_from_slice(self.kind.name().as_bytes());
        out.extend_from_slice(b"\",\"title\":");
        push_string(&mut out, self.kind.title());
        out.extend_from_slice(b",\"status\":");
        out.extend_from_slice(self.kind.status().as_str().as_bytes());
        out.extend_from_slice(b",\"detail\":");
        push_string(&mut out, &self.detail);
        for (name, value) in &self.members {
            out.extend_from_slice(b",");
            push_string(&mut out, name);
            out.extend_from_slice(b":");
            out.extend_from_slice(itoa::Buffer::new().format(*value).as_bytes());
        }
        out.extend_from_slice(b",\"instance\":");
        push_string(&mut out, &format!("urn:skein:request:{request_id}"));
        out.extend_from_slice(b",\"requestId\":");
        push_string(&mut out, request_id);
        out.extend_from_slice(b"}\n");
        out.freeze()
    }
}

impl From<CellError> for Box<Problem> {
    fn from(error: CellError) -> Self {
        let said = error.to_string();
        match error {
            CellError::NoAtlas => Problem::new(
                Kind::NoAtlas,
                format!(
                    "{said}. PUT an atlas that names this host to /atlas, or start the server with --solo \
                     if it shall run alone. Nothing was written."
                ),
            ),
            CellError::Unreachable { .. } => Problem::new(
                Kind::NotHere,
                format!(
                    "{said}. Nothing was written. See GET /atlas for who serves which rows, and try again."
                ),
            ),
            CellError::Catalog { .. } => {
                Problem::new(Kind::NoLeader, said).retry_after(Duration::from_secs(1))
            }
            CellError::ManyCohorts { .. } => Problem::new(
                Kind::ManyCohorts,
                format!("{said}. Nothing was written. Send a batch for each cohort, or the rows one by one."),
            ),
            CellError::TimedOut { .. } => {
                Problem::new(Kind::TimedOut, format!("{said}. Nothing was written. Try again."))
            }
            CellError::Unknown { id, .. } => {
                let problem = Problem::new(
                    Kind::OutcomeUnknown,
                    format!(
                        "{said}. It may yet be written: GET /tx-status with the header Transaction-ID: {id}, \
                         or send the same request again with that header."
                    ),
                );
                match HeaderValue::try_from(id.to_string()) {
                    Ok(value) => problem.header(TRANSACTION_ID, value),
                    Err(_) => problem,
                }
            }
            CellError::Gone { oldest } => Problem::new(
                Kind::HistoryGone,
                format!("{said}. The oldest time that can be read is {oldest}."),
            )
            .member("oldest", oldest.0),
            CellError::FutureTime(future) => {
                Problem::new(Kind::FutureTime, format!("{said}. Nothing was written."))
                    .member("latest", future.latest.0)
            }
            CellError::Full { .. } => Problem::new(
                Kind::DiskFull,
                format!("{said}. Nothing was written; reads go on. Free space and send the request again."),
            ),
            CellError::Overloaded { retry_after, .. } => {
                Problem::overloaded(format!("{said}. Nothing was written. Try again later."), retry_after)
            }
            CellError::IdReused { .. } => Problem::new(
                Kind::TransactionIdReused,
                format!("{said}. Nothing was written. Choose a new Transaction-ID for a new transaction."),
            ),
            CellError::Damaged { .. } => Problem::new(
                Kind::Damaged,
                format!("{said}. Stop the server and run skein doctor on its directory."),
            ),
            CellError::DiskFailed { .. } => Problem::new(
                Kind::DiskFailed,
                format!("{said}. Writes are refused until the server is started again."),
            ),
            CellError::ShuttingDown => {
                Problem::new(Kind::ShuttingDown, format!("{said}. Nothing was written. Try another peer."))
                    .retry_after(Duration::from_secs(1))
                    .closing()
            }
            // `CellError` may grow; until a new variant has a home here, it is at least not hidden.
            _ => Problem::new(Kind::Internal, said),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skein_model::{TxClock, TxId};

    fn parsed(problem: &Problem) -> serde_json::Value {
        serde_json::from_slice(&problem.document("id-1")).unwrap()
    }

    #[test]
    fn a_problem_document_has_every_member_that_clients_rely_on() {
        let problem = Problem::bad_request("Bad time for since: \"abc\"\n");
        let json = parsed(&problem);
        assert_eq!(json["type"], "urn:skein:problem:bad-request");
        assert_eq!(json["status"], 400);
        assert_eq!(json["detail"], "Bad time for since: \"abc\"\n");
        assert_eq!(json["requestId"], "id-1");
        assert!(json["title"].is_string() && json["instance"].is_string());
    }

    #[test]
    fn every_kind_has_its_own_name_and_an_error_status() {
        let names: std::collections::BTreeSet<_> = Kind::ALL.iter().map(|k| k.name()).collect();
        assert_eq!(names.len(), Kind::ALL.len());
        assert!(Kind::ALL.iter().all(|k| k.status().is_client_error() || k.status().is_server_error()));
    }

    #[test]
    fn an_unknown_outcome_names_the_transaction_to_ask_about() {
        let id: TxId = "beef".parse().unwrap();
        let problem = Box::<Problem>::from(CellError::Unknown { id, why: "no answer".to_owned() });
        let response = problem.into_response("r");
        assert_eq!(response.status(), 504);
        assert_eq!(response.headers()["transaction-id"], "beef");
    }

    #[test]
    fn lost_history_says_how_far_back_one_can_read() {
        let problem = Box::<Problem>::from(CellError::Gone { oldest: TxClock(77) });
        assert_eq!(parsed(&problem)["oldest"], 77);
    }

    #[test]
    fn an_overload_asks_for_whole_seconds_of_patience() {
        let problem = Problem::overloaded("x", Duration::from_millis(1200));
        assert_eq!(problem.into_response("r").headers()["retry-after"], "2");
    }
}
