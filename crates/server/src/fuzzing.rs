//! Doors for fuzz targets into the parsers that read bytes from clients. Not part of the interface.

use crate::batch::parse_batch;
use crate::conditions::Conditions;
use crate::dispatch::table_in_batch;
use crate::headers::RequestHeaders;
use crate::params::{Place, RawParams, decode, encode};
use crate::route::{Port, find};
use crate::row::content_type;
use crate::scan::ScanParams;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use skein_cell::ScanRow;
use skein_model::{Schema, TxClock};

/// The body of a batch. Whatever it is, there is an answer; and what is accepted is within its limits.
pub fn batch(body: &[u8]) {
    let schema = Schema::default();
    if let Ok(ops) = parse_batch(&Bytes::copy_from_slice(body), |name| table_in_batch(&schema, name)) {
        assert!((1..=skein_model::limits::BATCH_OPS_MAX).contains(&ops.len()));
        assert!(ops.iter().all(|op| op.key.len() <= skein_model::limits::KEY_BYTES_MAX));
    }
}

/// A path and a query. Whatever they are, there is an answer; and a decoded key survives being encoded again.
pub fn target(text: &str) {
    let (path, query) = text.split_once('?').map_or((text, None), |(path, query)| (path, Some(query)));
    for port in [Port::Data, Port::Admin] {
        if let Some(found) = find(port, path)
            && let Ok(key) = decode(found.key, Place::Path)
        {
            let again = encode(&key).to_string();
            assert_eq!(decode(&again, Place::Path).ok().as_deref(), Some(&key[..]));
        }
    }
    // What is wrong with them is the client's to hear; here only that it can be said.
    let _ = ScanParams::parse(&RawParams::parse(query), TxClock(1 << 50));
}

/// Lines of headers, `name: value`. Whatever they are, there is an answer.
pub fn headers(text: &str) {
    let mut map = HeaderMap::new();
    for (name, value) in text.lines().filter_map(|line| line.split_once(':')) {
        if let (Ok(name), Ok(value)) =
            (http::HeaderName::try_from(name.trim()), HeaderValue::from_str(value.trim()))
        {
            map.append(name, value);
        }
    }
    let picked = RequestHeaders::pick(&map);
    let _ = (picked.check(), picked.read_clock(), picked.condition_clock(), picked.transaction_id());
    let _ = (picked.wants_lines(), content_type(picked.content_type));
    if let Ok(conditions) = Conditions::parse(&picked) {
        let _ = conditions.weigh(TxClock(1 << 50));
        let _ = conditions.into_expects();
    }
}

/// A scan's query, and the row and the upper bound that its next page begins with. The link to that page asks for the
/// same scan from that row on.
pub fn link(query: &str, key: &[u8], time: TxClock, until: TxClock) {
    let now = TxClock(1 << 50);
    let Ok(params) = ScanParams::parse(&RawParams::parse(Some(query)), now) else { return };
    let (key, until) = (Bytes::copy_from_slice(key), until.max(params.since));
    let row = ScanRow { key: key.clone(), time, value: None };
    let link = params.next_link("db.example", "/fruit", until, &row);
    assert!(HeaderValue::from_str(&link).is_ok(), "{link}");
    let query =
        link.strip_prefix("<http://db.example/fruit?").and_then(|l| l.strip_suffix(">; rel=\"next\""));
    let next = ScanParams::parse(&RawParams::parse(query), now);
    let limit = Some(params.limit.unwrap_or_default());
    assert_eq!(next.ok(), Some(ScanParams { key, time, until: Some(until), limit, ..params }), "{link}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_doors_hold_against_anything(bytes in any::<Vec<u8>>(), text in any::<String>(), time: u64, until: u64) {
            batch(&bytes);
            target(&text);
            headers(&text);
            link(&text, &bytes, TxClock(time), TxClock(until));
        }
    }
}
