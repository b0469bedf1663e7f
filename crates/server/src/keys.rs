//! `/catalog`: the users' small replicated store. A key is read from the leader of the catalog or, when asked for, from
//! what a member has at hand; changed under a condition; and watched.

use crate::body::Body;
use crate::conditions::{Conditions, Tags};
use crate::dispatch::State;
use crate::headers::{CATALOG_READ, RequestHeaders, clip};
use crate::intake::{BodyLimit, read_body};
use crate::json::push_entry;
use crate::params::{Place, decoded, encode};
use crate::problem::{Answer, Kind, Problem};
use crate::reply::{empty, whole};
use crate::route::Verb;
use crate::row::{checked_value, content_type, counted, put_value};
use bytes::BytesMut;
use http::header::{CACHE_CONTROL, ETAG, HeaderValue, LINK};
use http::{Response, StatusCode};
use hyper::body::Incoming;
use skein_cell::catalog::command::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use skein_cell::catalog::{Freshness, KeyEntry, KeyExpect};
use skein_model::TxClock;
use skein_model::number::parse_u64;
use std::time::Duration;

/// How long a watch waits unless told otherwise, and at most.
const WATCH_DEFAULT: Duration = Duration::from_secs(30);
const WATCH_MAX: Duration = Duration::from_secs(60);
/// Keys on one page of a list, unless fewer are asked for; also the most.
const PAGE_KEYS_MAX: usize = 1000;
/// A page ends after so many bytes, however many keys were asked for.
const PAGE_BYTES_MAX: usize = 1 << 20;

/// The parameters of `/catalog`, not decoded. Of a repeated one the first counts, unknown ones are ignored.
#[derive(Debug, Default, PartialEq, Eq)]
struct Params<'a> {
    local: Option<&'a str>,
    watch: Option<&'a str>,
    timeout: Option<&'a str>,
    prefix: Option<&'a str>,
    after: Option<&'a str>,
    limit: Option<&'a str>,
}

impl<'a> Params<'a> {
    fn parse(query: Option<&'a str>) -> Params<'a> {
        let mut params = Params::default();
        for pair in query.unwrap_or_default().split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let slot = match name {
                "local" => &mut params.local,
                "watch" => &mut params.watch,
                "timeout" => &mut params.timeout,
                "prefix" => &mut params.prefix,
                "after" => &mut params.after,
                "limit" => &mut params.limit,
                _ => continue,
            };
            slot.get_or_insert(value);
        }
        params
    }

    fn freshness(&self) -> Answer<Freshness> {
        match self.local {
            None | Some("false") => Ok(Freshness::Linearizable),
            Some("" | "true") => Ok(Freshness::Local),
            Some(other) => Err(Problem::bad_request(format!(
                "Bad value for local: {}. It is true or false.",
                clip(other)
            ))),
        }
    }

    /// The version that is known, and how long to wait for another.
    fn watch(&self) -> Answer<Option<(u64, Duration)>> {
        let Some(known) = self.watch else {
            return match self.timeout {
                None => Ok(None),
                Some(_) => Err(Problem::bad_request(
                    "The parameter timeout belongs to watch, as in ?watch=7&timeout=30s.",
                )),
            };
        };
        let version = parse_u64(known).map_err(|_| {
            Problem::bad_request(format!(
                "Bad version for watch: {}. It is the number in an ETag of this key, or 0 for a key without value.",
                clip(known)
            ))
        })?;
        Ok(Some((version, self.timeout.map_or(Ok(WATCH_DEFAULT), span)?.min(WATCH_MAX))))
    }

    fn limit(&self) -> Answer<usize> {
        let Some(text) = self.limit else { return Ok(PAGE_KEYS_MAX) };
        match text.parse::<usize>() {
            Ok(limit @ 1..) => Ok(limit.min(PAGE_KEYS_MAX)),
            _ => Err(Problem::bad_request(format!(
                "Bad integer for limit: {}. It is at least 1; a page has at most {PAGE_KEYS_MAX} keys.",
                clip(text)
            ))),
        }
    }
}

/// A time such as `30s`, `500ms` or `1m`; a bare number counts seconds.
fn span(text: &str) -> Answer<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let millis = match unit {
        "ms" => Some(1),
        "" | "s" => Some(1000),
        "m" => Some(60_000),
        _ => None,
    };
    let whole =
        number.parse::<u64>().ok().zip(millis).and_then(|(number, millis)| number.checked_mul(millis));
    whole.map(Duration::from_millis).ok_or_else(|| {
        Problem::bad_request(format!(
            "Bad time for timeout: {}. Write for example 30s, 500ms or 1m; a watch waits at most 60s.",
            clip(text)
        ))
    })
}

/// The key that a segment of the path names. Keys are texts.
fn key_in_path(segment: &str) -> Answer<String> {
    text("the path", segment, Place::Path)
}

fn text(what: &str, raw: &str, place: Place) -> Answer<String> {
    let bytes = decoded(what, raw, place)?;
    let text = std::str::from_utf8(&bytes).map_err(|why| {
        Problem::bad_request(format!(
            "A key of the catalog is UTF-8, and {what} is not from byte {} on.",
            why.valid_up_to()
        ))
    })?;
    if KEY_BYTES_MAX < text.len() {
        return Err(Problem::too_large("A key of the catalog", KEY_BYTES_MAX, "bytes"));
    }
    Ok(text.to_owned())
}

/// The ETag of a key is its version, decimal and quoted, as that of the atlas.
fn tag(version: u64) -> Option<HeaderValue> {
    HeaderValue::try_from(format!("\"{version}\"")).ok()
}

fn put_tag(response: &mut Response<Body>, version: u64) {
    if let Some(tag) = tag(version) {
        response.headers_mut().insert(ETAG, tag);
    }
}

/// Says how the answer was read, and that it is not to be kept: a key has no `Date` up to which it is known.
fn put_read(response: &mut Response<Body>, freshness: Freshness) {
    let headers = response.headers_mut();
    headers.insert(CATALOG_READ.clone(), said(freshness));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
}

fn said(freshness: Freshness) -> HeaderValue {
    HeaderValue::from_static(match freshness {
        Freshness::Linearizable => "linearizable",
        Freshness::Local => "local",
    })
}

/// GET and HEAD of a key.
pub(crate) async fn get(
    state: &State,
    segment: &str,
    query: Option<&str>,
    headers: &RequestHeaders<'_>,
) -> Answer {
    let key = key_in_path(segment)?;
    let params = Params::parse(query);
    let conditions = Conditions::parse(headers)?;
    let mut freshness = params.freshness()?;
    let catalog = state.cell.catalog();
    let (entry, known) = match params.watch()? {
        Some((version, wait)) => {
            freshness = Freshness::Local;
            let watching = catalog.watch_key(&key, version, wait);
            let entry = tokio::select! {
                biased;
                () = state.stopped() => {
                    return Err(Problem::new(
                        Kind::ShuttingDown,
                        "The server is stopping, so the watch ends. Watch at another peer.",
                    )
                    .closing());
                }
                entry = watching => entry?,
            };
            (entry, Some(version))
        }
        None => (catalog.get_key(&key, freshness, state.deadline()).await?, None),
    };
    let version = entry.as_ref().map_or(0, |entry| entry.version);
    if known == Some(version) {
        let mut response = empty(StatusCode::NOT_MODIFIED);
        put_tag(&mut response, version);
        put_read(&mut response, freshness);
        return Ok(response);
    }
    let Some(KeyEntry { value, .. }) = entry else {
        let problem = Problem::new(
            Kind::KeyNotFound,
            format!("The catalog has no value for the key {:?}.", clip(&key)),
        );
        return Err(problem.header(CATALOG_READ.clone(), said(freshness)));
    };
    if let Some(tags) = &conditions.if_match
        && !tags.contain(TxClock(version))
    {
        return Err(stale(&key, version));
    }
    let unchanged = conditions.if_none_match.is_some_and(|tags| tags.contain(TxClock(version)));
    let mut response = empty(if unchanged { StatusCode::NOT_MODIFIED } else { StatusCode::OK });
    if !unchanged {
        put_value(&mut response, counted(state, value)?);
    }
    put_tag(&mut response, version);
    put_read(&mut response, freshness);
    Ok(response)
}

fn stale(key: &str, version: u64) -> Box<Problem> {
    let problem = Problem::new(
        Kind::Stale,
        format!("The key {:?} is at version {version}, which If-Match does not list.", clip(key)),
    )
    .member("version", version);
    match tag(version) {
        Some(tag) => problem.header(ETAG, tag),
        None => problem,
    }
}

/// What a change demands of its key.
fn expect(headers: &RequestHeaders<'_>) -> Answer<KeyExpect> {
    let conditions = Conditions::parse(headers)?;
    match (conditions.if_match, conditions.if_none_match) {
        (None, None) => Ok(KeyExpect::Anything),
        (Some(Tags::Any), None) => Ok(KeyExpect::Present),
        (Some(Tags::Listed(versions)), None) if versions.len() == 1 => Ok(KeyExpect::Version(versions[0].0)),
        (None, Some(Tags::Any)) => Ok(KeyExpect::Absent),
        _ => Err(Problem::bad_request(
            "A change of a key takes one condition: If-Match with * or one version, or If-None-Match: *. \
             Nothing was changed.",
        )),
    }
}

/// PUT of a key.
pub(crate) async fn put(
    state: &State,
    segment: &str,
    headers: &RequestHeaders<'_>,
    body: Incoming,
) -> Answer {
    let key = key_in_path(segment)?;
    let expect = expect(headers)?;
    let content_type = content_type(headers.content_type)?;
    let limit = BodyLimit { what: "A value of the catalog", bytes_max: VALUE_BYTES_MAX };
    let intake = read_body(&state.config, body, limit, headers.expects_continue).await?;
    let value = checked_value(content_type, intake.bytes.clone())?;
    let outcome = state.cell.catalog().put_key(&key, value, expect, state.deadline()).await?;
    let mut response = empty(StatusCode::OK);
    put_tag(&mut response, outcome.version);
    Ok(response)
}

/// DELETE of a key; 200 also if it had no value.
pub(crate) async fn delete(state: &State, segment: &str, headers: &RequestHeaders<'_>) -> Answer {
    let key = key_in_path(segment)?;
    state.cell.catalog().delete_key(&key, expect(headers)?, state.deadline()).await?;
    Ok(empty(StatusCode::OK))
}

/// GET of `/catalog`: one page of keys and values.
pub(crate) async fn list(state: &State, query: Option<&str>) -> Answer {
    let params = Params::parse(query);
    let freshness = params.freshness()?;
    let limit = params.limit()?;
    let prefix = text("the parameter prefix", params.prefix.unwrap_or_default(), Place::Query)?;
    let mut after = params.after.map(|raw| text("the parameter after", raw, Place::Query)).transpose()?;
    let deadline = state.deadline();
    let mut out = BytesMut::from(&b"["[..]);
    let mut listed = 0;
    let complete = loop {
        let left = limit - listed;
        if left == 0 || PAGE_BYTES_MAX <= out.len() {
            break false;
        }
        let keys =
            state.cell.catalog().list_keys(&prefix, after.as_deref(), left, freshness, deadline).await?;
        let Some((last, _)) = keys.last() else { break true };
        let last = last.clone();
        for (key, entry) in &keys {
            if 0 < listed {
                out.extend_from_slice(b",\n");
            }
            push_entry(&mut out, key, entry.version, &entry.value);
            listed += 1;
        }
        after = Some(last);
    };
    out.extend_from_slice(b"]");
    let mut response = whole("application/json", out);
    put_read(&mut response, freshness);
    if let (false, Some(after)) = (complete, &after)
        && let Ok(link) = HeaderValue::try_from(next_link(state, &params, &prefix, after, freshness))
    {
        response.headers_mut().insert(LINK, link);
    }
    Ok(response)
}

/// Leads to the page after the key `after`.
fn next_link(state: &State, params: &Params<'_>, prefix: &str, after: &str, freshness: Freshness) -> String {
    let host = &state.config.share_http_addr;
    let host = host.strip_suffix(":80").unwrap_or(host);
    let mut link = format!(
        "<http://{host}/catalog?prefix={}&after={}",
        encode(prefix.as_bytes()),
        encode(after.as_bytes())
    );
    if let Some(limit) = params.limit {
        link.push_str(&format!("&limit={limit}"));
    }
    if freshness == Freshness::Local {
        link.push_str("&local=true");
    }
    link.push_str(">; rel=\"next\"");
    link
}

/// Which handler a method of a key has.
pub(crate) async fn key(
    state: &State,
    verb: Verb,
    segment: &str,
    query: Option<&str>,
    headers: &RequestHeaders<'_>,
    body: Incoming,
) -> Answer {
    match verb {
        Verb::Put => put(state, segment, headers, body).await,
        Verb::Delete => delete(state, segment, headers).await,
        _ => get(state, segment, query, headers).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderMap;
    use proptest::prelude::*;

    fn expected(pairs: &[(&'static str, &'static str)]) -> Answer<KeyExpect> {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, HeaderValue::from_static(value));
        }
        expect(&RequestHeaders::pick(&map))
    }

    #[test]
    fn a_change_takes_at_most_one_condition_and_one_version() {
        assert_eq!(expected(&[]).unwrap(), KeyExpect::Anything);
        assert_eq!(expected(&[("if-match", "\"7\"")]).unwrap(), KeyExpect::Version(7));
        assert_eq!(expected(&[("if-match", "*")]).unwrap(), KeyExpect::Present);
        assert_eq!(expected(&[("if-none-match", "*")]).unwrap(), KeyExpect::Absent);
        for pairs in [
            &[("if-match", "\"7\", \"8\"")][..],
            &[("if-none-match", "\"7\"")],
            &[("if-match", "*"), ("if-none-match", "*")],
        ] {
            assert_eq!(expected(pairs).unwrap_err().kind, Kind::BadRequest, "{pairs:?}");
        }
    }

    #[test]
    fn a_watch_has_a_version_and_a_time_within_bounds() {
        let watch = |query| Params::parse(Some(query)).watch();
        assert_eq!(watch("local=true").unwrap(), None);
        assert_eq!(watch("watch=7").unwrap(), Some((7, WATCH_DEFAULT)));
        assert_eq!(watch("watch=0&timeout=500ms").unwrap(), Some((0, Duration::from_millis(500))));
        assert_eq!(watch("watch=0&timeout=2").unwrap(), Some((0, Duration::from_secs(2))));
        assert_eq!(watch("watch=1&timeout=10m").unwrap(), Some((1, WATCH_MAX)));
        for query in ["watch=", "watch=x", "watch=1&timeout=", "watch=1&timeout=soon", "timeout=3s"] {
            assert_eq!(watch(query).unwrap_err().kind, Kind::BadRequest, "{query}");
        }
    }

    #[test]
    fn a_read_is_local_only_when_that_is_asked_for() {
        let freshness = |query| Params::parse(Some(query)).freshness();
        assert_eq!(freshness("").unwrap(), Freshness::Linearizable);
        assert_eq!(freshness("local").unwrap(), Freshness::Local);
        assert_eq!(freshness("local=true&local=no").unwrap(), Freshness::Local);
        assert_eq!(freshness("local=yes").unwrap_err().kind, Kind::BadRequest);
    }

    #[test]
    fn a_key_is_text_within_its_limit() {
        assert_eq!(key_in_path("app%2Fcolour%20of%20sky").unwrap(), "app/colour of sky");
        assert_eq!(key_in_path("%FF").unwrap_err().kind, Kind::BadRequest);
        assert_eq!(key_in_path(&"k".repeat(KEY_BYTES_MAX + 1)).unwrap_err().kind, Kind::TooLarge);
    }

    proptest! {
        #[test]
        fn arbitrary_queries_never_panic(query in any::<String>()) {
            let params = Params::parse(Some(&query));
            let _ = (params.freshness(), params.watch(), params.limit());
        }

        #[test]
        fn every_time_is_refused_or_read(text in "[0-9]{0,25}[a-z]{0,3}") {
            let _ = span(&text);
        }
    }
}
