//! From a request to its answer: finds the route, checks the method, calls the handler, and adds what every answer has.

use crate::body::Body;
use crate::conditions::Conditions;
use crate::config::ServerConfig;
use crate::conn::{ConnState, Connections};
use crate::headers::{RequestHeaders, SERVER_TX_CLOCK, X_REQUEST_ID, clip, sane_request_id};
use crate::metrics::{MetricsHandle, RequestMetrics};
use crate::openapi;
use crate::params::{Place, RawParams, decoded, key_bytes};
use crate::problem::{Answer, Kind, Problem};
use crate::reply::{empty, number_value, whole};
use crate::route::{Found, Label, Port, Route, Verb, find};
use crate::row::{self, RowName};
use crate::warnings::Warnings;
use crate::{admin, batch, facts, flock, keys, scan, status};
use bytes::Bytes;
use http::header::{ALLOW, HeaderValue};
use http::request::Parts;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use metrics::{Gauge, gauge};
use skein_cell::{Cell, TxStatus};
use skein_model::{Schema, TableId};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::watch;
use tokio::time::Instant;

/// What every request of this server shares.
pub(crate) struct State {
    pub(crate) cell: Cell,
    pub(crate) config: ServerConfig,
    pub(crate) metrics: MetricsHandle,
    pub(crate) connections: Connections,
    requests: RequestMetrics,
    ids: RequestIds,
    inflight: AtomicUsize,
    stopping: watch::Sender<bool>,
    warnings: Warnings,
    gauges: Gauges,
}

struct Gauges {
    inflight: Gauge,
    memory: Gauge,
    data: Gauge,
    admin: Gauge,
}

impl State {
    pub(crate) fn new(config: ServerConfig, cell: Cell, metrics: MetricsHandle) -> State {
        let gauges = Gauges {
            inflight: gauge!("skein_http_inflight"),
            memory: gauge!("skein_request_memory_bytes"),
            data: gauge!("skein_http_connections", "port" => "data"),
            admin: gauge!("skein_http_connections", "port" => "admin"),
        };
        State {
            connections: Connections::new(&config),
            cell,
            config,
            metrics,
            requests: RequestMetrics::new(),
            ids: RequestIds::new(),
            inflight: AtomicUsize::new(0),
            stopping: watch::Sender::new(false),
            warnings: Warnings::default(),
            gauges,
        }
    }

    /// When a request that arrives now has waited long enough for a quorum.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.config.request_timeout
    }

    pub(crate) fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// Waits until the server stops. What waits for long gives way to it.
    pub(crate) async fn stopped(&self) {
        let mut stopping = self.stopping.subscribe();
        // The sender is in this very state, so that it cannot be gone.
        let _ = stopping.wait_for(|stopping| *stopping).await;
    }

    pub(crate) fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// Sets the gauges that are read rather than counted.
    pub(crate) fn refresh_metrics(&self) {
        self.gauges.inflight.set(self.inflight.load(Ordering::Relaxed) as f64);
        self.gauges.memory.set(self.config.memory.used() as f64);
        self.gauges.data.set(self.connections.count(Port::Data) as f64);
        self.gauges.admin.set(self.connections.count(Port::Admin) as f64);
    }

    /// The table that a segment of the path names; under `/table/` it may also be an ID.
    fn table_in_path(&self, segment: &str, or_id: bool) -> Answer<TableId> {
        let decoded = decoded("the path", segment, Place::Path)?;
        let name = String::from_utf8_lossy(&decoded);
        if let Some(table) = self.cell.schema().table(&name) {
            return Ok(table.id);
        }
        if or_id
            && looks_like_an_id(&name)
            && let Ok(id) = name.parse()
        {
            return Ok(id);
        }
        let name = clip(&name);
        Err(Problem::new(
            Kind::TableNotFound,
            format!(
                "There is no table {name:?}. Name it in the schema (PUT /admin/schema on the admin port), \
                 or address a table by its ID as /table/0x1."
            ),
        ))
    }
}

/// The table of a batch's operation: a name of the schema, or an ID.
pub(crate) fn table_in_batch(schema: &Schema, text: &str) -> Option<TableId> {
    match schema.table(text) {
        Some(table) => Some(table.id),
        None => looks_like_an_id(text).then(|| text.parse().ok()).flatten(),
    }
}

/// Names begin with a letter, `_` or `$`; IDs are numbers.
fn looks_like_an_id(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit() || c == '#')
}

/// Answers one request.
pub(crate) async fn handle(
    state: Arc<State>,
    port: Port,
    conn: Arc<ConnState>,
    request: Request<Incoming>,
) -> Response<Body> {
    let started = Instant::now();
    let busy = conn.busy();
    let _inflight = Inflight::enter(&state.inflight);
    let (parts, body) = request.into_parts();
    let id = sane_request_id(&parts.headers).cloned().unwrap_or_else(|| state.ids.next());
    let verb = Verb::of(&parts.method);
    let mut label = Label::Unknown;
    let mut response = match answer(&state, port, verb, &parts, body, &mut label).await {
        Ok(response) => response,
        Err(problem) => {
            tell(&state, &problem, &parts, &id);
            problem.into_response(id.to_str().unwrap_or_default())
        }
    };
    if let Body::Scan(scan) = response.body_mut() {
        scan.keep_busy(busy);
    }
    let headers = response.headers_mut();
    if label.is_about_rows() {
        headers.insert(&SERVER_TX_CLOCK, number_value(state.cell.now().0));
    }
    let took = started.elapsed();
    tracing::debug!(
        id = ?id, method = %parts.method, path = parts.uri.path(), status = response.status().as_u16(), ?took, "answered"
    );
    response.headers_mut().insert(&X_REQUEST_ID, id);
    state.requests.record(label, verb, response.status(), took);
    response
}

/// Logs what an operator should see; what clients get wrong is theirs to see.
fn tell(state: &State, problem: &Problem, parts: &Parts, id: &HeaderValue) {
    if !problem.kind.status().is_server_error() {
        return;
    }
    if let Some(held_back) = state.warnings.may_tell(problem.kind, Instant::now()) {
        tracing::warn!(
            id = ?id, method = %parts.method, path = parts.uri.path(), problem = problem.kind.name(),
            detail = problem.detail, held_back, "a request failed"
        );
    }
}

async fn answer(
    state: &State,
    port: Port,
    verb: Verb,
    parts: &Parts,
    body: Incoming,
    label: &mut Label,
) -> Answer {
    let path = parts.uri.path();
    let Some(found) = find(port, path) else {
        if verb == Verb::Options && path == "*" {
            return Ok(empty(StatusCode::NO_CONTENT));
        }
        return Err(nothing_here(port, path));
    };
    let query = parts.uri.query();
    *label = Label::of(found.spec.route);
    let headers = RequestHeaders::pick(&parts.headers);
    match found.spec.route {
        Route::Table | Route::Row | Route::Scan => {
            row_or_scan(state, verb, found, path, query, headers, body, label).await
        }
        // The rest is rarer, and kept out of the future that every connection holds.
        _ => Box::pin(other(state, port, verb, found, query, &headers, body)).await,
    }
}

#[allow(clippy::too_many_arguments)] // One call; a struct for it would only be taken apart again.
async fn row_or_scan(
    state: &State,
    verb: Verb,
    found: Found<'_>,
    path: &str,
    query: Option<&str>,
    headers: RequestHeaders<'_>,
    body: Incoming,
    label: &mut Label,
) -> Answer {
    headers.check()?;
    let at = headers.read_clock()?;
    let table = state.table_in_path(found.table, found.spec.route == Route::Table)?;
    check_verb(found, verb)?;
    if verb == Verb::Options {
        return Ok(options(found));
    }
    let reads = matches!(verb, Verb::Get | Verb::Head);
    let key: Option<Bytes> = match found.spec.route {
        Route::Row => Some(key_bytes("the path", found.key, Place::Path)?),
        Route::Table => {
            let params = RawParams::parse(query);
            if reads && params.ask_for_a_scan() { None } else { params.key()? }
        }
        _ => None,
    };
    match key {
        Some(key) if reads => {
            let condition = headers.condition_clock()?;
            let conditions = Conditions::parse(&headers)?;
            row::get(state, RowName { table, key }, at, condition, conditions).await
        }
        Some(key) => row::write(state, verb, RowName { table, key }, &headers, body).await,
        None if reads => {
            *label = Label::Scan;
            Box::pin(scan::scan(state, table, path, RawParams::parse(query), &headers)).await
        }
        None => Err(Problem::bad_request(format!(
            "A {} under /table/ needs the parameter key, as in {}?key=apple.",
            verb.name(),
            clip(path)
        ))),
    }
}

async fn other(
    state: &State,
    port: Port,
    verb: Verb,
    found: Found<'_>,
    query: Option<&str>,
    headers: &RequestHeaders<'_>,
    body: Incoming,
) -> Answer {
    let route = found.spec.route;
    if matches!(route, Route::BatchWrite | Route::TxStatus) {
        headers.check()?;
        headers.read_clock()?;
    }
    check_verb(found, verb)?;
    if verb == Verb::Options {
        return Ok(options(found));
    }
    match (route, verb) {
        (Route::BatchWrite, _) => batch::batch_write(state, headers, body).await,
        (Route::TxStatus, _) => tx_status(state, headers).await,
        (Route::Atlas, Verb::Put) => facts::put_atlas(state, headers, body).await,
        (Route::Atlas, _) => facts::get_atlas(state, headers),
        (Route::Schema, Verb::Put) => facts::put_schema(state, headers, body).await,
        (Route::Schema, _) => Ok(facts::get_schema(state)),
        (Route::Peers, _) => facts::peers(state, query, true),
        (Route::Hosts, _) => facts::peers(state, query, false),
        (Route::Tables, _) => facts::tables(state).await,
        (Route::Status, _) => status::status(state).await,
        (Route::Flock, _) => flock::flock(state, headers).await,
        (Route::CatalogKey, _) => keys::key(state, verb, found.key, query, headers, body).await,
        (Route::Catalog, _) => keys::list(state, query).await,
        (Route::Drain, _) => Ok(admin::drain(state, true)),
        (Route::Rejoin, _) => Ok(admin::drain(state, false)),
        (Route::Forget, _) => admin::forget(state, query).await,
        (Route::Ping, _) => Ok(facts::ping()),
        (Route::Live, _) => Ok(facts::live()),
        (Route::Ready, _) => facts::ready(state),
        (Route::Metrics, _) => Ok(facts::metrics(state)),
        (Route::OpenApi, _) => Ok(whole("application/json", openapi::document(port))),
        (Route::Table | Route::Row | Route::Scan, _) => Err(nothing_here(port, found.table)),
    }
}

async fn tx_status(state: &State, headers: &RequestHeaders<'_>) -> Answer {
    let id = headers.transaction_id()?.ok_or_else(|| {
        Problem::bad_request("The header Transaction-ID is missing; it says which transaction is meant.")
    })?;
    let said = HeaderValue::try_from(id.to_string()).ok();
    match state.cell.tx_status(id, state.deadline()).await? {
        TxStatus::Committed(time) => {
            let mut response = empty(StatusCode::OK);
            let headers = response.headers_mut();
            headers.insert(&crate::headers::VALUE_TX_CLOCK, number_value(time.0));
            if let Some(id) = said {
                headers.insert(crate::headers::TRANSACTION_ID, id);
            }
            Ok(response)
        }
        TxStatus::Aborted => {
            let problem = row::aborted();
            Err(match said {
                Some(id) => problem.header(crate::headers::TRANSACTION_ID, id),
                None => problem,
            })
        }
    }
}

fn check_verb(found: Found<'_>, verb: Verb) -> Answer<()> {
    if verb == Verb::Options || found.spec.verbs.contains(&verb) {
        return Ok(());
    }
    let allow = found.spec.allow;
    Err(Problem::new(Kind::MethodNotAllowed, format!("Allowed here: {allow}."))
        .header(ALLOW, HeaderValue::from_static(allow)))
}

fn options(found: Found<'_>) -> Response<Body> {
    let mut response = empty(StatusCode::NO_CONTENT);
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(found.spec.allow));
    response
}

fn nothing_here(port: Port, path: &str) -> Box<Problem> {
    let hint = match port {
        Port::Data => {
            "Rows are at /NAME/KEY and /table/ID?key=KEY; a slash in a path key is spelled %2F. \
             GET /openapi.json lists everything."
        }
        Port::Admin => {
            "This is the admin port, which serves no rows. GET /openapi.json lists what it serves."
        }
    };
    Problem::new(Kind::NotFound, format!("Nothing is served at {:?}. {hint}", clip(path)))
}

/// Counts a request for as long as it is being handled, also if its client goes away.
struct Inflight<'a>(&'a AtomicUsize);

impl<'a> Inflight<'a> {
    fn enter(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Inflight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Names requests that came without a name: a prefix of this process and a count.
struct RequestIds {
    prefix: [u8; 8],
    next: AtomicUsize,
}

impl RequestIds {
    fn new() -> Self {
        let mut seed = [0u8; 4];
        if getrandom::fill(&mut seed).is_err() {
            // Only names are at stake: the process ID will do.
            seed = std::process::id().to_be_bytes();
        }
        let mut prefix = [0u8; 8];
        put_hex(&mut prefix, u64::from(u32::from_be_bytes(seed)));
        Self { prefix, next: AtomicUsize::new(1) }
    }

    fn next(&self) -> HeaderValue {
        let mut text = [b'-'; 17];
        text[..8].copy_from_slice(&self.prefix);
        put_hex(&mut text[9..], self.next.fetch_add(1, Ordering::Relaxed) as u64);
        // Hexadecimal digits and a dash are always a header value.
        HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static("0"))
    }
}

/// Fills `out` with the low digits of a number.
fn put_hex(out: &mut [u8], number: u64) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    for (i, digit) in out.iter_mut().rev().enumerate() {
        *digit = HEX[(number >> (4 * i) & 15) as usize];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_differ_and_share_the_prefix_of_the_process() {
        let ids = RequestIds::new();
        let (a, b) = (ids.next(), ids.next());
        assert_ne!(a, b);
        let (a, b) = (a.to_str().unwrap(), b.to_str().unwrap());
        assert_eq!(a[..9], b[..9]);
        assert!(a.ends_with("-00000001") && b.ends_with("-00000002"), "{a} {b}");
    }

    #[test]
    fn what_a_connection_holds_for_its_request_is_small() {
        fn size_of_future<A, B, C, D, F>(_: impl Fn(A, B, C, D) -> F) -> usize {
            size_of::<F>()
        }
        // Every connection, idle or not, has room for one such future: thousands of them have to be cheap.
        let size = size_of_future(handle);
        assert!(size <= 6 << 10, "{size} bytes");
    }

    #[test]
    fn numbers_are_ids_and_identifiers_are_names() {
        assert!(["0x1", "1", "#ff", "010"].iter().all(|t| looks_like_an_id(t)));
        assert!(["fruit", "_x", "$1", ""].iter().all(|t| !looks_like_an_id(t)));
    }
}
