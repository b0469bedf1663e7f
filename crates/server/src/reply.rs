//! The pieces that answers are made of: header values, dates, and small whole answers.

use crate::body::Body;
use crate::conditions::{ETAG_BYTES_MAX, write_etag};
use crate::headers::VALUE_TX_CLOCK;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, ETAG, HeaderMap, HeaderValue, LAST_MODIFIED};
use http::{Response, StatusCode};
use skein_model::TxClock;
use std::cell::RefCell;
use std::time::{Duration, UNIX_EPOCH};

/// The first second of the year 10000, which HTTP dates cannot tell.
const DATE_SECONDS_END: u64 = 253_402_300_800;

/// A number as a header value.
pub(crate) fn number_value(number: u64) -> HeaderValue {
    // Copied from the stack: one allocation of the right size, where converting the number itself takes two.
    HeaderValue::from_bytes(itoa::Buffer::new().format(number).as_bytes()).unwrap_or_else(|_| number.into())
}

/// Seconds since the Unix epoch as an HTTP date; `None` past the year 9999.
pub(crate) fn date_value(seconds: u64) -> Option<HeaderValue> {
    thread_local! {
        // Neighbouring requests ask for the same second, above all for the present one.
        static LAST: RefCell<Option<(u64, HeaderValue)>> = const { RefCell::new(None) };
    }
    if DATE_SECONDS_END <= seconds {
        return None;
    }
    LAST.with_borrow_mut(|last| {
        if let Some((known, value)) = last
            && *known == seconds
        {
            return Some(value.clone());
        }
        let text = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds));
        let value = HeaderValue::try_from(text).ok()?;
        *last = Some((seconds, value.clone()));
        Some(value)
    })
}

/// The ETag of a version as a header value.
pub(crate) fn etag_value(time: TxClock) -> Option<HeaderValue> {
    HeaderValue::from_bytes(write_etag(&mut [0; ETAG_BYTES_MAX], time)).ok()
}

/// Says the version in all three ways: `Value-TxClock`, `ETag` and `Last-Modified`.
pub(crate) fn put_version(headers: &mut HeaderMap, time: TxClock) {
    headers.insert(&VALUE_TX_CLOCK, number_value(time.0));
    if let Some(value) = etag_value(time) {
        headers.insert(ETAG, value);
    }
    if let Some(value) = date_value(time.seconds()) {
        headers.insert(LAST_MODIFIED, value);
    }
}

/// An answer without a body.
pub(crate) fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// A 200 with these bytes.
pub(crate) fn whole(content_type: &'static str, bytes: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::full(bytes));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_said_in_three_ways() {
        let mut headers = HeaderMap::new();
        put_version(&mut headers, TxClock(0x4_FC23_BE9A_3251));
        assert_eq!(headers["value-txclock"], "1403130358674001");
        assert_eq!(headers["etag"], "\"0x4FC23BE9A3251\"");
        assert_eq!(headers["last-modified"], "Wed, 18 Jun 2014 22:25:58 GMT");
    }

    #[test]
    fn a_time_past_all_dates_has_no_date_and_does_no_harm() {
        assert!(date_value(DATE_SECONDS_END - 1).is_some());
        assert!(date_value(DATE_SECONDS_END).is_none());
        let mut headers = HeaderMap::new();
        put_version(&mut headers, TxClock::MAX);
        assert!(!headers.contains_key("last-modified"));
    }

    #[test]
    fn the_remembered_date_is_not_given_for_another_second() {
        assert_ne!(date_value(1), date_value(2));
        assert_eq!(date_value(1), date_value(1));
    }
}
