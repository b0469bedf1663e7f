//! ETags, HTTP dates, and the conditional headers of RFC 9110 §13: on reads they are weighed here, on writes they become
//! demands that the cell checks together with the write.

use crate::headers::{RequestHeaders, clip};
use crate::problem::{Answer, Problem};
use http::header::HeaderValue;
use skein_model::number::parse_u64;
use skein_model::{Expect, TxClock};
use std::time::UNIX_EPOCH;

/// What `If-Match` or `If-None-Match` lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Tags {
    /// `*`: any version.
    Any,
    /// These versions.
    Listed(Vec<TxClock>),
}

impl Tags {
    pub(crate) fn contain(&self, time: TxClock) -> bool {
        match self {
            Tags::Any => true,
            Tags::Listed(times) => times.contains(&time),
        }
    }
}

/// The conditional headers of a request, typed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Conditions {
    pub(crate) if_match: Option<Tags>,
    pub(crate) if_none_match: Option<Tags>,
    /// Seconds since the Unix epoch.
    pub(crate) modified_since: Option<u64>,
    /// Seconds since the Unix epoch.
    pub(crate) unmodified_since: Option<u64>,
}

/// What the conditions of a read make of a value.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Send,
    /// 304.
    NotModified,
    /// 412, and the header that failed.
    Failed(&'static str),
}

impl Conditions {
    /// Types the headers. A list of ETags that is none is the client's mistake; a date that is none is ignored, as RFC
    /// 9110 wants.
    pub(crate) fn parse(headers: &RequestHeaders<'_>) -> Answer<Conditions> {
        Ok(Conditions {
            if_match: tags("If-Match", &headers.if_match)?,
            if_none_match: tags("If-None-Match", &headers.if_none_match)?,
            modified_since: headers.if_modified_since.and_then(date),
            unmodified_since: headers.if_unmodified_since.and_then(date),
        })
    }

    /// Weighs a read that found a value with this time, in the order of RFC 9110 §13.2.2.
    pub(crate) fn weigh(&self, time: TxClock) -> Verdict {
        match (&self.if_match, self.unmodified_since) {
            (Some(tags), _) if !tags.contain(time) => return Verdict::Failed("If-Match"),
            (None, Some(date)) if date < time.seconds() => return Verdict::Failed("If-Unmodified-Since"),
            _ => {}
        }
        match (&self.if_none_match, self.modified_since) {
            (Some(tags), _) if tags.contain(time) => Verdict::NotModified,
            (None, Some(date)) if time.seconds() <= date => Verdict::NotModified,
            _ => Verdict::Send,
        }
    }

    /// What a write demands of its row. `If-Modified-Since` says nothing about writes.
    pub(crate) fn into_expects(self) -> Vec<Expect> {
        let mut expects = Vec::new();
        match self.if_match {
            Some(Tags::Any) => expects.push(Expect::Live),
            Some(Tags::Listed(times)) => expects.push(Expect::VersionIn(times)),
            None => {
                if let Some(date) = self.unmodified_since {
                    expects.push(Expect::NotAfter(end_of_second(date)));
                }
            }
        }
        match self.if_none_match {
            Some(Tags::Any) => expects.push(Expect::Absent),
            Some(Tags::Listed(times)) => expects.push(Expect::VersionNotIn(times)),
            None => {}
        }
        expects
    }
}

/// The last microsecond of a second: an HTTP date names all of it.
fn end_of_second(seconds: u64) -> TxClock {
    TxClock(seconds.saturating_mul(1_000_000).saturating_add(999_999))
}

/// An HTTP date as seconds since the Unix epoch.
fn date(value: &HeaderValue) -> Option<u64> {
    let date = httpdate::parse_http_date(value.to_str().ok()?).ok()?;
    Some(date.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()))
}

/// The entries of an ETag list: `*` alone, or versions as `"0x4FC"`, `0x4FC` or `W/"0x4FC"`, in the grammar of clocks.
/// `None` if the header is not there.
fn tags(name: &'static str, values: &[&HeaderValue]) -> Answer<Option<Tags>> {
    if values.is_empty() {
        return Ok(None);
    }
    let mut times = Vec::new();
    let mut any = false;
    for value in values {
        let bad = |entry: &str| {
            Problem::bad_request(format!(
                "Bad ETag in {name}: {}. Send * or versions as this server gives them, such as \"0x4FC23BE9A3251\".",
                clip(entry)
            ))
        };
        let text = value.to_str().map_err(|_| bad("bytes that are not ASCII"))?;
        for entry in text.split(',').map(str::trim).filter(|e| !e.is_empty()) {
            match entry_time(entry) {
                Some(time) => times.push(time),
                None if entry == "*" => any = true,
                None => return Err(bad(entry)),
            }
        }
    }
    match (any, times.is_empty()) {
        (true, true) => Ok(Some(Tags::Any)),
        (false, false) => Ok(Some(Tags::Listed(times))),
        _ => Err(Problem::bad_request(format!(
            "Bad ETag list in {name}: it takes either * alone or at least one version."
        ))),
    }
}

fn entry_time(entry: &str) -> Option<TxClock> {
    let entry = entry.strip_prefix("W/").or_else(|| entry.strip_prefix("w/")).unwrap_or(entry);
    let inner = match entry.strip_prefix('"') {
        Some(rest) => rest.strip_suffix('"')?,
        None => entry,
    };
    parse_u64(inner).ok().map(TxClock)
}

/// Longest ETag: `"0x`, sixteen digits, `"`.
pub(crate) const ETAG_BYTES_MAX: usize = 20;

/// Writes the ETag of a version: its time in upper-case hexadecimal, quoted.
pub(crate) fn write_etag(buffer: &mut [u8; ETAG_BYTES_MAX], time: TxClock) -> &[u8] {
    let digits = (64 - time.0.leading_zeros() as usize).div_ceil(4).max(1);
    buffer[..3].copy_from_slice(b"\"0x");
    for (i, byte) in buffer[3..3 + digits].iter_mut().rev().enumerate() {
        *byte = b"0123456789ABCDEF"[(time.0 >> (4 * i) & 15) as usize];
    }
    buffer[3 + digits] = b'"';
    &buffer[..digits + 4]
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderMap;
    use proptest::prelude::*;

    fn etag(time: TxClock) -> String {
        String::from_utf8(write_etag(&mut [0; ETAG_BYTES_MAX], time).to_vec()).unwrap()
    }

    fn conditions(pairs: &[(&'static str, &str)]) -> Answer<Conditions> {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, HeaderValue::from_str(value).unwrap());
        }
        Conditions::parse(&RequestHeaders::pick(&map))
    }

    const T: TxClock = TxClock(1_435_000_000_500_000);
    const T_DATE: &str = "Mon, 22 Jun 2015 19:06:40 GMT";
    const BEFORE: &str = "Mon, 22 Jun 2015 19:06:39 GMT";

    fn weigh(pairs: &[(&'static str, &str)]) -> Verdict {
        conditions(pairs).unwrap().weigh(T)
    }

    #[test]
    fn etags_are_read_quoted_bare_and_weak() {
        for list in ["\"0x10\"", "0x10", "W/\"0x10\"", "\"0xF\" , 0x10", "16", "\"16\","] {
            let tags = conditions(&[("if-match", list)]).unwrap().if_match.unwrap();
            assert!(tags.contain(TxClock(16)), "{list}");
            assert!(!tags.contain(TxClock(17)), "{list}");
        }
        assert_eq!(conditions(&[("if-none-match", "*")]).unwrap().if_none_match, Some(Tags::Any));
    }

    #[test]
    fn an_etag_is_the_time_in_hexadecimal_without_leading_zeros() {
        assert_eq!(etag(TxClock(0x4_FC23_BE9A_3251)), "\"0x4FC23BE9A3251\"");
        assert_eq!((etag(TxClock::ZERO), etag(TxClock(16))), ("\"0x0\"".into(), "\"0x10\"".into()));
        assert_eq!(etag(TxClock::MAX), "\"0xFFFFFFFFFFFFFFFF\"");
    }

    #[test]
    fn a_list_over_several_lines_is_one_list() {
        let tags = conditions(&[("if-match", "0x1"), ("if-match", "0x2")]).unwrap().if_match;
        assert_eq!(tags, Some(Tags::Listed(vec![TxClock(1), TxClock(2)])));
    }

    #[test]
    fn what_is_no_etag_is_refused_and_named() {
        for (name, list) in [
            ("if-match", "\"abc\""),
            ("if-none-match", "\"0x10"),
            ("if-match", ""),
            ("if-match", "*, 0x1"),
            ("if-none-match", "W/"),
            ("if-none-match", "\"0x10\" \"0x11\""),
        ] {
            let problem = conditions(&[(name, list)]).unwrap_err();
            assert!(problem.detail.to_ascii_lowercase().contains(name), "{list}: {}", problem.detail);
        }
    }

    #[test]
    fn reads_are_weighed_in_the_order_of_rfc_9110() {
        let tag = etag(T);
        assert_eq!(weigh(&[]), Verdict::Send);
        assert_eq!(weigh(&[("if-none-match", &tag)]), Verdict::NotModified);
        assert_eq!(weigh(&[("if-none-match", "*")]), Verdict::NotModified);
        assert_eq!(weigh(&[("if-none-match", "0x1")]), Verdict::Send);
        assert_eq!(weigh(&[("if-match", "0x1")]), Verdict::Failed("If-Match"));
        assert_eq!(weigh(&[("if-match", &tag), ("if-unmodified-since", BEFORE)]), Verdict::Send);
        assert_eq!(weigh(&[("if-unmodified-since", BEFORE)]), Verdict::Failed("If-Unmodified-Since"));
        assert_eq!(weigh(&[("if-unmodified-since", T_DATE)]), Verdict::Send);
        assert_eq!(weigh(&[("if-modified-since", T_DATE)]), Verdict::NotModified);
        assert_eq!(weigh(&[("if-modified-since", BEFORE)]), Verdict::Send);
        // With a tag to compare, the coarser date does not count.
        assert_eq!(weigh(&[("if-none-match", "0x1"), ("if-modified-since", T_DATE)]), Verdict::Send);
    }

    #[test]
    fn a_date_that_is_none_is_ignored() {
        assert_eq!(conditions(&[("if-modified-since", "yesterday")]).unwrap(), Conditions::default());
        assert_eq!(conditions(&[("if-unmodified-since", "1435000000")]).unwrap(), Conditions::default());
    }

    #[test]
    fn writes_demand_what_their_headers_say() {
        let expects = |pairs: &[(&'static str, &str)]| conditions(pairs).unwrap().into_expects();
        assert_eq!(expects(&[("if-match", "*")]), [Expect::Live]);
        assert_eq!(expects(&[("if-none-match", "*")]), [Expect::Absent]);
        assert_eq!(expects(&[("if-match", "0x1")]), [Expect::VersionIn(vec![TxClock(1)])]);
        assert_eq!(expects(&[("if-none-match", "0x1")]), [Expect::VersionNotIn(vec![TxClock(1)])]);
        let limit = expects(&[("if-unmodified-since", T_DATE)]);
        assert_eq!(limit, [Expect::NotAfter(TxClock(1_435_000_000_999_999))]);
        assert!(limit[0].holds(T, true), "the date that we send as Last-Modified has to pass");
        assert_eq!(expects(&[("if-modified-since", T_DATE)]), []);
    }

    proptest! {
        #[test]
        fn our_own_etags_are_understood(time in any::<u64>()) {
            prop_assert_eq!(etag(TxClock(time)), format!("\"0x{time:X}\""));
            let tags = conditions(&[("if-match", &etag(TxClock(time)))]).unwrap().if_match;
            prop_assert_eq!(tags, Some(Tags::Listed(vec![TxClock(time)])));
        }

        #[test]
        fn arbitrary_lists_never_panic(list in "[ -~]{0,40}") {
            let _ = conditions(&[("if-match", &list), ("if-modified-since", &list)]);
        }
    }
}
