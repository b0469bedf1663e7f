//! Percent-encoding, and the query parameters of rows and scans.

use crate::headers::clip;
use crate::problem::{Answer, Problem};
use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use skein_model::{Slice, SliceError, TxClock};
use std::borrow::Cow;

/// What stays as it is when a key goes into a link: the unreserved characters of RFC 3986.
const LINK: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Percent-encodes a key for a link.
pub(crate) fn encode(key: &[u8]) -> impl std::fmt::Display + '_ {
    percent_encode(key, LINK)
}

/// A `%` that two hexadecimal digits do not follow.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the % at byte {offset} is not followed by two hexadecimal digits")]
pub(crate) struct BadEscape {
    offset: usize,
}

/// Where the text stood: a `+` is a blank in a query and a plus in a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Path,
    Query,
}

/// Undoes percent-encoding once.
pub(crate) fn decode(raw: &str, place: Place) -> Result<Cow<'_, [u8]>, BadEscape> {
    let raw = raw.as_bytes();
    let special = |b: &u8| *b == b'%' || (place == Place::Query && *b == b'+');
    let Some(first) = raw.iter().position(special) else {
        return Ok(Cow::Borrowed(raw));
    };
    let mut out = Vec::with_capacity(raw.len());
    out.extend_from_slice(&raw[..first]);
    let mut at = first;
    while at < raw.len() {
        match raw[at] {
            b'%' => {
                let digit = |i: usize| raw.get(i).and_then(|b| (*b as char).to_digit(16));
                let (Some(high), Some(low)) = (digit(at + 1), digit(at + 2)) else {
                    return Err(BadEscape { offset: at });
                };
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            b'+' if place == Place::Query => {
                out.push(b' ');
                at += 1;
            }
            byte => {
                out.push(byte);
                at += 1;
            }
        }
    }
    Ok(Cow::Owned(out))
}

/// As [`decode`], with a bad escape as the client's problem.
pub(crate) fn decoded<'a>(what: &str, raw: &'a str, place: Place) -> Answer<Cow<'a, [u8]>> {
    decode(raw, place).map_err(|why| {
        Problem::bad_request(format!("Bad percent-encoding in {what}: {why}. A plain % is spelled %25."))
    })
}

/// The query parameters we know, not yet decoded. Of a repeated one the first counts, unknown ones are ignored.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct RawParams<'a> {
    pub(crate) key: Option<&'a str>,
    pub(crate) time: Option<&'a str>,
    pub(crate) end: Option<&'a str>,
    pub(crate) since: Option<&'a str>,
    pub(crate) until: Option<&'a str>,
    pub(crate) pick: Option<&'a str>,
    pub(crate) slice: Option<&'a str>,
    pub(crate) nslices: Option<&'a str>,
    pub(crate) limit: Option<&'a str>,
    pub(crate) scan: Option<&'a str>,
}

impl<'a> RawParams<'a> {
    pub(crate) fn parse(query: Option<&'a str>) -> Self {
        let mut params = RawParams::default();
        for pair in query.unwrap_or_default().split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let slot = match name {
                "key" => &mut params.key,
                "time" => &mut params.time,
                "end" => &mut params.end,
                "since" => &mut params.since,
                "until" => &mut params.until,
                "pick" => &mut params.pick,
                "slice" => &mut params.slice,
                "nslices" => &mut params.nslices,
                "limit" => &mut params.limit,
                "scan" => &mut params.scan,
                _ => continue,
            };
            slot.get_or_insert(value);
        }
        params
    }

    /// Whether there is a parameter that only a scan has; with one of them, `key` says where the scan starts.
    pub(crate) fn ask_for_a_scan(&self) -> bool {
        [
            self.time,
            self.end,
            self.since,
            self.until,
            self.pick,
            self.slice,
            self.nslices,
            self.limit,
            self.scan,
        ]
        .iter()
        .any(Option::is_some)
    }

    /// The key, decoded.
    pub(crate) fn key(&self) -> Answer<Option<Bytes>> {
        self.key.map(|raw| key_bytes("the parameter key", raw, Place::Query)).transpose()
    }

    /// `slice` and `nslices`; the whole table without them.
    pub(crate) fn slice(&self) -> Answer<Slice> {
        match (self.slice, self.nslices) {
            (None, None) => Ok(Slice::ALL),
            (Some(slice), Some(nslices)) => {
                let (slice, nslices) = (integer("slice", slice)?, integer("nslices", nslices)?);
                Slice::new(slice.into(), nslices.into()).map_err(|why| {
                    let hint = match why {
                        SliceError::Count => format!("nslices was {nslices}."),
                        SliceError::Range => format!("slice was {slice}, nslices {nslices}."),
                    };
                    Problem::bad_request(format!("{why} {hint}"))
                })
            }
            _ => Err(Problem::bad_request("Both slice and nslices are needed together.")),
        }
    }
}

/// A key as bytes, percent-decoded once.
pub(crate) fn key_bytes(what: &str, raw: &str, place: Place) -> Answer<Bytes> {
    Ok(match decoded(what, raw, place)? {
        Cow::Borrowed(bytes) => Bytes::copy_from_slice(bytes),
        Cow::Owned(bytes) => Bytes::from(bytes),
    })
}

/// A parameter as text; percent-encoded bytes that are not UTF-8 fit no parameter but a key.
pub(crate) fn text<'a>(name: &str, raw: &'a str) -> Answer<Cow<'a, str>> {
    match decoded(name, raw, Place::Query)? {
        Cow::Borrowed(_) => Ok(Cow::Borrowed(raw)),
        Cow::Owned(bytes) => String::from_utf8(bytes)
            .map(Cow::Owned)
            .map_err(|_| Problem::bad_request(format!("The parameter {name} is not UTF-8."))),
    }
}

/// A time in the grammar of clocks. A `+` in front would have become a blank, which is let pass.
pub(crate) fn time(name: &str, raw: &str) -> Answer<TxClock> {
    let value = text(name, raw)?;
    plus_restored(&value)
        .parse()
        .map_err(|why| Problem::bad_request(format!("Bad time for {name}: {} ({why})", clip(&value))))
}

/// An integer of 32 bits: an optional sign, then decimal, `0x` or `#` hexadecimal, or leading-0 octal.
pub(crate) fn integer(name: &str, raw: &str) -> Answer<i32> {
    let value = text(name, raw)?;
    let bad = || Problem::bad_request(format!("Bad integer for {name}: {}", clip(&value)));
    let value = plus_restored(&value);
    let (sign, digits) = match value.strip_prefix('-') {
        Some(digits) => (-1i128, digits),
        None => (1, value),
    };
    if sign < 0 && digits.starts_with('+') {
        return Err(bad());
    }
    let size = skein_model::number::parse_u64(digits).map_err(|_| bad())?;
    i32::try_from(sign * i128::from(size)).map_err(|_| bad())
}

fn plus_restored(value: &str) -> &str {
    value.strip_prefix(' ').unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_path_key_is_decoded_once() {
        assert_eq!(&decode("a%20b%2Fc+d", Place::Path).unwrap()[..], b"a b/c+d");
        assert_eq!(&decode("a%2520", Place::Path).unwrap()[..], b"a%20");
        assert_eq!(&decode("a+b%2B", Place::Query).unwrap()[..], b"a b+");
    }

    #[test]
    fn a_percent_sign_alone_is_an_error_that_says_where() {
        for (raw, offset) in [("%", 0), ("ab%2", 2), ("ab%zz", 2), ("%41%+1", 3)] {
            assert_eq!(decode(raw, Place::Path), Err(BadEscape { offset }), "{raw}");
        }
    }

    #[test]
    fn the_first_of_repeated_parameters_counts_and_strangers_are_ignored() {
        let params = RawParams::parse(Some("x=1&key=a&key=b&Read-TxClock=7&limit=&flag"));
        assert_eq!(params, RawParams { key: Some("a"), limit: Some(""), ..RawParams::default() });
    }

    #[test]
    fn a_key_alone_asks_for_a_row_and_any_scan_parameter_for_a_scan() {
        assert!(!RawParams::parse(Some("key=a")).ask_for_a_scan());
        assert!(!RawParams::parse(None).ask_for_a_scan());
        for name in ["time", "end", "since", "until", "pick", "slice", "nslices", "limit", "scan"] {
            assert!(RawParams::parse(Some(&format!("key=a&{name}=1"))).ask_for_a_scan(), "{name}");
        }
    }

    #[test]
    fn integers_are_read_in_the_grammar_of_the_interface() {
        for (text, value) in
            [("10", 10), ("-1", -1), ("0x10", 16), ("-0x10", -16), ("010", 8), ("%2B5", 5), ("#ff", 255)]
        {
            assert_eq!(integer("limit", text).unwrap(), value, "{text}");
        }
        assert!(integer("limit", "-%2B1").is_err());
        for text in ["", "abc", "-", "--1", "2147483648", "1.5", "09"] {
            let problem = integer("limit", text).unwrap_err();
            assert!(problem.detail.starts_with(&format!("Bad integer for limit: {text}")), "{text}");
        }
    }

    #[test]
    fn slices_are_checked_in_the_order_of_the_interface() {
        let detail = |query| RawParams::parse(Some(query)).slice().unwrap_err().detail;
        assert!(detail("slice=1").starts_with("Both slice and nslices are needed together."));
        assert!(detail("slice=x&nslices=3").starts_with("Bad integer for slice: x"));
        assert!(
            detail("slice=0&nslices=3")
                .starts_with("Number of slices must be a power of two and at least one.")
        );
        assert!(detail("slice=0&nslices=-2").starts_with("Number of slices must be"));
        assert!(detail("slice=2&nslices=2").starts_with("The slice must be between 0 (inclusive)"));
        let slice = RawParams::parse(Some("slice=1&nslices=2")).slice().unwrap();
        assert_eq!((slice.slice(), slice.nslices()), (1, 2));
    }

    #[test]
    fn a_bad_time_is_quoted() {
        assert!(time("since", "abc").unwrap_err().detail.starts_with("Bad time for since: abc"));
        assert!(time("since", "-1").is_err());
        assert_eq!(time("since", "0x10").unwrap(), TxClock(16));
    }

    proptest! {
        #[test]
        fn every_key_comes_back_from_a_link(key in any::<Vec<u8>>()) {
            let link = encode(&key).to_string();
            prop_assert_eq!(&decode(&link, Place::Query).unwrap()[..], &key[..]);
            prop_assert_eq!(&decode(&link, Place::Path).unwrap()[..], &key[..]);
        }

        #[test]
        fn arbitrary_queries_never_panic(query in any::<String>()) {
            let params = RawParams::parse(Some(&query));
            let _ = (params.key(), params.slice(), params.ask_for_a_scan());
            for raw in [params.time, params.limit, params.end].into_iter().flatten() {
                let _ = (time("t", raw), integer("i", raw));
            }
        }

        #[test]
        fn integers_agree_with_the_standard_parser(n in any::<i32>()) {
            prop_assert_eq!(integer("n", &n.to_string()).unwrap(), n);
        }
    }
}
