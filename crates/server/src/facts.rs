//! What is not about rows: the atlas, the peers, the schema, the tables, and how the server is doing.

use crate::body::Body;
use crate::conditions::{Conditions, Tags};
use crate::dispatch::State;
use crate::headers::RequestHeaders;
use crate::intake::{BodyLimit, read_body};
use crate::json::push_string;
use crate::metrics::resident_bytes;
use crate::params::RawParams;
use crate::problem::{Answer, Kind, Problem};
use crate::reply::{empty, whole};
use bytes::BytesMut;
use http::header::{ETAG, HeaderValue};
use http::{Response, StatusCode};
use hyper::body::Incoming;
use metrics::gauge;
use skein_cell::{HostWeight, PutAtlasError, PutSchemaError, Readiness};
use skein_model::{Atlas, TxClock};
use std::fmt::Write as _;

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
/// Longest schema and longest atlas that are read, in bytes.
const FACT_BYTES_MAX: usize = 1 << 20;

/// The ETag of an atlas is its version, decimal and quoted.
fn atlas_etag(version: u64) -> Option<HeaderValue> {
    HeaderValue::try_from(format!("\"{version}\"")).ok()
}

pub(crate) fn get_atlas(state: &State, headers: &RequestHeaders<'_>) -> Answer {
    let conditions = Conditions::parse(headers)?;
    let atlas = state.cell.atlas();
    let known = conditions.if_none_match.is_some_and(|tags| tags.contain(TxClock(atlas.version)));
    let mut response = if known { empty(StatusCode::NOT_MODIFIED) } else { whole(JSON, atlas.to_json()) };
    if let Some(tag) = atlas_etag(atlas.version) {
        response.headers_mut().insert(ETAG, tag);
    }
    Ok(response)
}

pub(crate) async fn put_atlas(state: &State, headers: &RequestHeaders<'_>, body: Incoming) -> Answer {
    let conditions = Conditions::parse(headers)?;
    let limit = BodyLimit { what: "An atlas", bytes_max: FACT_BYTES_MAX };
    let intake = read_body(&state.config, body, limit, headers.expects_continue).await?;
    let targets = Atlas::parse_targets(&intake.bytes)
        .map_err(|why| Problem::new(Kind::InvalidAtlas, format!("{why} Nothing changed.")))?;
    let if_version = match conditions.if_match {
        None | Some(Tags::Any) => None,
        Some(tags) => {
            let current = state.cell.atlas().version;
            if !tags.contain(TxClock(current)) {
                return Err(atlas_stale(current));
            }
            Some(current)
        }
    };
    match state.cell.put_atlas(targets, if_version, state.deadline()).await {
        Ok(atlas) => {
            let mut response = empty(StatusCode::OK);
            if let Some(tag) = atlas_etag(atlas.version) {
                response.headers_mut().insert(ETAG, tag);
            }
            Ok(response)
        }
        Err(PutAtlasError::Atlas(why)) => {
            Err(Problem::new(Kind::InvalidAtlas, format!("{why} Nothing changed.")))
        }
        Err(PutAtlasError::Stale { current, .. }) => Err(atlas_stale(current)),
        Err(PutAtlasError::Unsupported { detail }) => {
            Err(Problem::new(Kind::AtlasUnsupported, format!("{detail} Nothing changed.")))
        }
        Err(PutAtlasError::Catalog(error)) => Err(error.into()),
        Err(other) => Err(Problem::new(Kind::Internal, other.to_string())),
    }
}

fn atlas_stale(current: u64) -> Box<Problem> {
    let problem = Problem::new(
        Kind::Stale,
        format!(
            "The atlas is at version {current}, which If-Match does not list. Nothing changed; GET it again."
        ),
    )
    .member("version", current);
    match atlas_etag(current) {
        Some(tag) => problem.header(ETAG, tag),
        None => problem,
    }
}

/// `/peers` names the hosts, `/hosts` does not.
pub(crate) fn peers(state: &State, query: Option<&str>, with_ids: bool) -> Answer {
    let slice = RawParams::parse(query).slice()?;
    Ok(whole(JSON, peers_json(&state.cell.hosts(slice), with_ids)))
}

fn peers_json(hosts: &[HostWeight], with_ids: bool) -> bytes::Bytes {
    let mut out = BytesMut::from(&b"["[..]);
    let announced = hosts.iter().filter(|h| h.addr.is_some() || h.ssl_addr.is_some());
    for (i, host) in announced.enumerate() {
        // Writing to a buffer that grows does not fail.
        let _ = write!(out, "{}{{\"weight\":{}", if i == 0 { "" } else { "," }, host.weight);
        if with_ids {
            let _ = write!(out, ",\"hostId\":\"{}\"", host.host);
        }
        for (name, addr) in [("addr", &host.addr), ("sslAddr", &host.ssl_addr)] {
            let _ = write!(out, ",\"{name}\":");
            match addr {
                Some(addr) => push_string(&mut out, addr),
                None => out.extend_from_slice(b"null"),
            }
        }
        out.extend_from_slice(b"}");
    }
    out.extend_from_slice(b"]");
    out.freeze()
}

pub(crate) fn get_schema(state: &State) -> Response<Body> {
    whole(TEXT, state.cell.schema().text().to_owned())
}

pub(crate) async fn put_schema(state: &State, headers: &RequestHeaders<'_>, body: Incoming) -> Answer {
    let limit = BodyLimit { what: "A schema", bytes_max: FACT_BYTES_MAX };
    let intake = read_body(&state.config, body, limit, headers.expects_continue).await?;
    let text = std::str::from_utf8(&intake.bytes).map_err(|why| {
        Problem::new(
            Kind::InvalidSchema,
            format!("The schema is not UTF-8 from byte {} on. Nothing changed.", why.valid_up_to()),
        )
    })?;
    match state.cell.put_schema(text, state.deadline()).await {
        Ok(()) => Ok(empty(StatusCode::OK)),
        Err(PutSchemaError::Schema(why)) => Err(Problem::new(Kind::InvalidSchema, why.to_string())),
        Err(PutSchemaError::Catalog(error)) => Err(error.into()),
        Err(other) => Err(Problem::new(Kind::Internal, other.to_string())),
    }
}

pub(crate) async fn tables(state: &State) -> Answer {
    let mut out = BytesMut::from(&b"["[..]);
    for (i, table) in state.cell.tables().await?.iter().enumerate() {
        let _ = write!(out, "{}{{\"id\":\"{}\",\"name\":", if i == 0 { "" } else { "," }, table.id);
        match &table.name {
            Some(name) => push_string(&mut out, name),
            None => out.extend_from_slice(b"null"),
        }
        let _ = write!(out, ",\"oldest\":{}}}", table.oldest);
    }
    out.extend_from_slice(b"]");
    Ok(whole(JSON, out))
}

pub(crate) fn ping() -> Response<Body> {
    whole(TEXT, "pong")
}

/// The process lives: whatever else is wrong, starting it again would not help.
pub(crate) fn live() -> Response<Body> {
    whole(TEXT, "live\n")
}

pub(crate) fn ready(state: &State) -> Answer {
    if state.is_stopping() {
        return Err(Problem::new(Kind::NotReady, "The server is stopping and takes no new work."));
    }
    match state.cell.readiness() {
        Readiness::Ready => Ok(whole(TEXT, "ready\n")),
        Readiness::NotReady(why) => Err(Problem::new(Kind::NotReady, why)),
    }
}

pub(crate) fn metrics(state: &State) -> Response<Body> {
    state.cell.refresh_metrics();
    state.refresh_metrics();
    if let Some(bytes) = resident_bytes() {
        gauge!("skein_process_resident_bytes").set(bytes as f64);
    }
    whole("text/plain; version=0.0.4; charset=utf-8", state.metrics.render())
}

#[cfg(test)]
mod tests {
    use super::*;
    use skein_model::HostId;

    #[test]
    fn peers_without_an_address_are_left_out_and_ids_are_for_peers_only() {
        let host = |host, addr: Option<&str>| HostWeight {
            weight: 1,
            host: HostId(host),
            addr: addr.map(str::to_owned),
            ssl_addr: None,
        };
        let hosts = [host(1, Some("localhost:7070")), host(2, None), host(3, Some("b:1"))];
        assert_eq!(
            peers_json(&hosts, false),
            r#"[{"weight":1,"addr":"localhost:7070","sslAddr":null},{"weight":1,"addr":"b:1","sslAddr":null}]"#
        );
        let with_ids: serde_json::Value = serde_json::from_slice(&peers_json(&hosts, true)).unwrap();
        assert_eq!(with_ids[1]["hostId"], "0x0000000000000003");
        assert_eq!(peers_json(&[], true), "[]");
    }
}
