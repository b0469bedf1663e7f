//! The request headers that mean something to us, picked out in one pass.

use crate::problem::{Answer, Problem};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use skein_model::{TxClock, TxId};

pub(crate) static SERVER_TX_CLOCK: HeaderName = HeaderName::from_static("server-txclock");
pub(crate) static READ_TX_CLOCK: HeaderName = HeaderName::from_static("read-txclock");
pub(crate) static VALUE_TX_CLOCK: HeaderName = HeaderName::from_static("value-txclock");
pub(crate) const TRANSACTION_ID: HeaderName = HeaderName::from_static("transaction-id");
/// How an answer from the catalog was read: `linearizable` or `local`.
pub(crate) static CATALOG_READ: HeaderName = HeaderName::from_static("catalog-read");
pub(crate) static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(crate) const RETRY_AFTER: HeaderName = header::RETRY_AFTER;

/// Longest `X-Request-Id` that we take over from a client, in bytes.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// The headers of one request, still as text.
#[derive(Default)]
pub(crate) struct RequestHeaders<'a> {
    pub(crate) read: Option<&'a HeaderValue>,
    pub(crate) condition: Option<&'a HeaderValue>,
    pub(crate) transaction_id: Option<&'a HeaderValue>,
    pub(crate) content_type: Option<&'a HeaderValue>,
    pub(crate) if_match: Vec<&'a HeaderValue>,
    pub(crate) if_none_match: Vec<&'a HeaderValue>,
    pub(crate) if_modified_since: Option<&'a HeaderValue>,
    pub(crate) if_unmodified_since: Option<&'a HeaderValue>,
    pub(crate) accept: Vec<&'a HeaderValue>,
    /// Whether the client waits for `100 Continue` before it sends the body.
    pub(crate) expects_continue: bool,
    /// A header that was given twice with different values, where no choice between them is safe.
    pub(crate) torn: Option<&'static str>,
}

impl<'a> RequestHeaders<'a> {
    /// Picks the headers out. Lists go on over several lines; of the others a repeated one has to say the same.
    pub(crate) fn pick(headers: &'a HeaderMap) -> Self {
        let mut picked = RequestHeaders::default();
        for (name, value) in headers {
            let differs = match name.as_str() {
                "read-txclock" => keep_first(&mut picked.read, value).then_some("Read-TxClock"),
                "condition-txclock" => {
                    keep_first(&mut picked.condition, value).then_some("Condition-TxClock")
                }
                "transaction-id" => keep_first(&mut picked.transaction_id, value).then_some("Transaction-ID"),
                "content-type" => keep_first(&mut picked.content_type, value).then_some("Content-Type"),
                "if-match" => push(&mut picked.if_match, value),
                "if-none-match" => push(&mut picked.if_none_match, value),
                "if-modified-since" => {
                    keep_first(&mut picked.if_modified_since, value).then_some("If-Modified-Since")
                }
                "if-unmodified-since" => {
                    keep_first(&mut picked.if_unmodified_since, value).then_some("If-Unmodified-Since")
                }
                "accept" => push(&mut picked.accept, value),
                "expect" => {
                    picked.expects_continue = value.as_bytes().eq_ignore_ascii_case(b"100-continue");
                    None
                }
                _ => None,
            };
            picked.torn = picked.torn.or(differs);
        }
        picked
    }

    /// Refuses headers that contradict themselves.
    pub(crate) fn check(&self) -> Answer<()> {
        match self.torn {
            None => Ok(()),
            Some(name) => Err(Problem::bad_request(format!(
                "The header {name} was given more than once, with different values. Send it once."
            ))),
        }
    }

    /// `Read-TxClock`, if it is there.
    pub(crate) fn read_clock(&self) -> Answer<Option<TxClock>> {
        self.read.map(|value| clock("Read-TxClock", value)).transpose()
    }

    /// `Condition-TxClock`, if it is there.
    pub(crate) fn condition_clock(&self) -> Answer<Option<TxClock>> {
        self.condition.map(|value| clock("Condition-TxClock", value)).transpose()
    }

    /// `Transaction-ID`, if it is there.
    pub(crate) fn transaction_id(&self) -> Answer<Option<TxId>> {
        self.transaction_id
            .map(|value| {
                let text = String::from_utf8_lossy(value.as_bytes());
                text.parse().map_err(|why| {
                    Problem::bad_request(format!("Bad Transaction-ID: {} ({why})", clip(&text)))
                })
            })
            .transpose()
    }

    /// Whether the client asks for one JSON object to the line.
    pub(crate) fn wants_lines(&self) -> bool {
        self.accept.iter().filter_map(|v| v.to_str().ok()).flat_map(|list| list.split(',')).any(|item| {
            let mut parts = item.split(';').map(str::trim);
            let named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("application/x-ndjson"));
            named && !parts.any(refuses)
        })
    }
}

/// Whether a parameter of an `Accept` entry is a weight of zero.
fn refuses(parameter: &str) -> bool {
    let weight = parameter.strip_prefix("q=").or_else(|| parameter.strip_prefix("Q="));
    weight.and_then(|q| q.trim().parse::<f32>().ok()).is_some_and(|q| q <= 0.0)
}

/// Takes one more line of a list, which never contradicts the others.
fn push<'a>(list: &mut Vec<&'a HeaderValue>, value: &'a HeaderValue) -> Option<&'static str> {
    list.push(value);
    None
}

/// Keeps the first value; true if another one differs from it.
fn keep_first<'a>(slot: &mut Option<&'a HeaderValue>, value: &'a HeaderValue) -> bool {
    match slot {
        None => {
            *slot = Some(value);
            false
        }
        Some(first) => *first != value,
    }
}

fn clock(name: &str, value: &HeaderValue) -> Answer<TxClock> {
    let text = String::from_utf8_lossy(value.as_bytes());
    text.parse().map_err(|why| Problem::bad_request(format!("Bad time for {name}: {} ({why})", clip(&text))))
}

/// At most the first 80 characters, so that an answer never grows with a hostile request.
pub(crate) fn clip(text: &str) -> &str {
    text.char_indices().nth(80).map_or(text, |(end, _)| &text[..end])
}

/// The client's request ID, if it gave one that is fit to be logged and sent back.
pub(crate) fn sane_request_id(headers: &HeaderMap) -> Option<&HeaderValue> {
    headers.get(&X_REQUEST_ID).filter(|id| {
        let bytes = id.as_bytes();
        (1..=REQUEST_ID_BYTES_MAX).contains(&bytes.len())
            && bytes.iter().all(|b| b.is_ascii_graphic() && !b"\"\\<>".contains(b))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn clocks_are_read_in_every_base() {
        let map = map(&[("Read-TxClock", "0x10"), ("Condition-TxClock", "010")]);
        let picked = RequestHeaders::pick(&map);
        assert_eq!(picked.read_clock().unwrap(), Some(TxClock(16)));
        assert_eq!(picked.condition_clock().unwrap(), Some(TxClock(8)));
    }

    #[test]
    fn a_bad_clock_is_quoted_in_the_answer() {
        let map = map(&[("Read-TxClock", "abc")]);
        let problem = RequestHeaders::pick(&map).read_clock().unwrap_err();
        assert!(problem.detail.starts_with("Bad time for Read-TxClock: abc"), "{}", problem.detail);
    }

    #[test]
    fn a_repeated_condition_that_contradicts_itself_is_refused() {
        let same = map(&[("Condition-TxClock", "5"), ("Condition-TxClock", "5")]);
        assert!(RequestHeaders::pick(&same).check().is_ok());
        let torn = map(&[("Condition-TxClock", "5"), ("Condition-TxClock", "6")]);
        let problem = RequestHeaders::pick(&torn).check().unwrap_err();
        assert!(problem.detail.contains("Condition-TxClock"));
    }

    #[test]
    fn a_transaction_id_has_to_be_hexadecimal() {
        let good = map(&[("Transaction-ID", "00BeeF")]);
        assert_eq!(RequestHeaders::pick(&good).transaction_id().unwrap(), Some("beef".parse().unwrap()));
        let bad = map(&[("Transaction-ID", "x")]);
        let problem = RequestHeaders::pick(&bad).transaction_id().unwrap_err();
        assert!(problem.detail.starts_with("Bad Transaction-ID: x"));
    }

    #[test]
    fn lines_are_sent_only_to_clients_that_ask_for_them() {
        let wants = |accept| RequestHeaders::pick(&map(&[("Accept", accept)])).wants_lines();
        assert!(wants("application/x-ndjson"));
        assert!(wants("text/html, Application/X-NDJSON;q=0.9, */*"));
        assert!(!wants("application/x-ndjson;q=0"));
        assert!(!wants("application/json, */*"));
    }

    #[test]
    fn only_tame_request_ids_are_taken_over() {
        assert!(sane_request_id(&map(&[("X-Request-Id", "abc-123")])).is_some());
        assert!(sane_request_id(&map(&[("X-Request-Id", "a b")])).is_none());
        assert!(sane_request_id(&map(&[("X-Request-Id", "")])).is_none());
        assert!(sane_request_id(&map(&[])).is_none());
    }

    #[test]
    fn long_texts_are_clipped_at_a_character() {
        assert_eq!(clip(&"é".repeat(200)).chars().count(), 80);
        assert_eq!(clip("abc"), "abc");
    }
}
