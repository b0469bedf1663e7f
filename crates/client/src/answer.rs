//! Answers of peers, and what follows from them for who asked.

use crate::error::Refused;
use bytes::Bytes;
use http::HeaderMap;
use skein_model::TxClock;
use std::time::Duration;

/// Longest `Retry-After` that is minded.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Most of an answer that is no problem document that is quoted.
const QUOTE_CHARS_MAX: usize = 300;

/// An answer, read to its end.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// What is to be done about an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It settles the question, also whether an earlier attempt at a write was carried out.
    Settled,
    /// Another peer would say the same. It says nothing about earlier attempts.
    Final,
    /// Nothing was done; later or elsewhere it may be, after this pause if one was asked for.
    NotDone(Option<Duration>),
    /// A write may have been carried out.
    Unsure,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Problem {
    r#type: Option<String>,
    detail: Option<String>,
    request_id: Option<String>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// A header that holds a time.
    pub(crate) fn clock(&self, name: &str) -> Option<TxClock> {
        self.header(name)?.parse().ok()
    }

    /// The problem that the answer is.
    pub(crate) fn refused(&self) -> Refused {
        let problem = serde_json::from_slice::<Problem>(&self.body).ok();
        let (kind, detail, id) = match problem {
            Some(problem) => (problem.r#type, problem.detail, problem.request_id),
            None => (None, None, None),
        };
        let kind = kind.unwrap_or_default();
        Refused {
            status: self.status,
            kind: kind.strip_prefix("urn:skein:problem:").unwrap_or_default().to_owned(),
            detail: detail.unwrap_or_else(|| {
                String::from_utf8_lossy(&self.body).trim().chars().take(QUOTE_CHARS_MAX).collect()
            }),
            request_id: id.or_else(|| self.header("x-request-id").map(str::to_owned)).unwrap_or_default(),
        }
    }

    /// What is to be done about it.
    pub(crate) fn verdict(&self) -> Verdict {
        let pause = || {
            let seconds = self.header("retry-after")?.parse().ok()?;
            Some(Duration::from_secs(seconds).min(PAUSE_MAX))
        };
        match self.status {
            200..300 | 304 | 412 | 422 => Verdict::Settled,
            // Collisions and aborted transactions; other conflicts are not about rows.
            409 => Verdict::Settled,
            // The server had not taken the request yet.
            408 | 429 => Verdict::NotDone(pause()),
            // Whoever answers so without our kind of document is no peer, but something in between that gave up waiting.
            503 | 504 | 507 => match self.refused().kind.as_str() {
                "" | "outcome-unknown" => Verdict::Unsure,
                "disk-full" => Verdict::Final,
                _ => Verdict::NotDone(pause()),
            },
            501 => Verdict::Final,
            500.. => Verdict::Unsure,
            _ => Verdict::Final,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, kind: &str) -> Answer {
        let body = match kind {
            "" => "<html>Bad gateway</html>".to_owned(),
            kind => format!(r#"{{"type":"urn:skein:problem:{kind}","detail":"why","requestId":"r"}}"#),
        };
        Answer { status, headers: HeaderMap::new(), body: body.into() }
    }

    #[test]
    fn only_what_a_peer_says_for_certain_counts_as_not_done() {
        use Verdict::*;
        for (status, kind, wanted) in [
            (200, "", Settled),
            (409, "collision", Settled),
            (412, "stale", Settled),
            (400, "bad-request", Final),
            (404, "table-not-found", Final),
            (501, "many-cohorts", Final),
            (507, "disk-full", Final),
            (503, "overloaded", NotDone(None)),
            (503, "shutting-down", NotDone(None)),
            (504, "timed-out", NotDone(None)),
            (504, "not-here", NotDone(None)),
            (504, "outcome-unknown", Unsure),
            (504, "", Unsure),
            (502, "", Unsure),
            (500, "internal", Unsure),
        ] {
            assert_eq!(answer(status, kind).verdict(), wanted, "{status} {kind}");
        }
    }

    #[test]
    fn a_pause_that_is_asked_for_is_minded_within_reason() {
        let mut busy = answer(503, "overloaded");
        busy.headers.insert("retry-after", http::HeaderValue::from_static("2"));
        assert_eq!(busy.verdict(), Verdict::NotDone(Some(Duration::from_secs(2))));
        busy.headers.insert("retry-after", http::HeaderValue::from_static("86400"));
        assert_eq!(busy.verdict(), Verdict::NotDone(Some(PAUSE_MAX)));
    }

    #[test]
    fn an_answer_that_is_no_problem_document_is_quoted() {
        let refused = answer(502, "").refused();
        assert_eq!((refused.kind.as_str(), refused.detail.as_str()), ("", "<html>Bad gateway</html>"));
        assert_eq!(answer(404, "row-not-found").refused().kind, "row-not-found");
    }
}
