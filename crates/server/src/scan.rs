//! Scans: the versions of a table in key order, streamed with bounded memory or in pages that link to the next.

use crate::body::{Body, BrokenOff};
use crate::conn::Busy;
use crate::dispatch::State;
use crate::headers::{READ_TX_CLOCK, RequestHeaders};
use crate::json::{Format, push_row};
use crate::memory::Permit;
use crate::params::{Place, RawParams, encode, integer, key_bytes, text, time};
use crate::problem::{Answer, Problem};
use crate::reply::{number_value, whole};
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream::{Stream, try_unfold};
use http::Response;
use http::header::{CONTENT_TYPE, HeaderValue, LINK, VARY};
use skein_cell::{CellError, Scan, ScanRequest, ScanRow, ScanWindow};
use skein_model::{Pick, Slice, TableId, TxClock};
use std::fmt::Write as _;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// Most rows fetched from the cell at once.
const CHUNK_ROWS_MAX: usize = 2048;
/// About how many bytes of values are fetched at once.
const CHUNK_BYTES: usize = 64 << 10;
/// What a scan under way counts for in the memory budget: one chunk as rows and one as text, generously.
const SCAN_RESERVED_BYTES: usize = 4 * CHUNK_BYTES;
/// A page of a scan ends after the row with which it reaches so many bytes, whatever its limit.
pub(crate) const PAGE_BYTES_MAX: usize = 16 << 20;

/// The parameters of a scan, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ScanParams {
    pub(crate) key: Bytes,
    pub(crate) time: TxClock,
    pub(crate) end: Option<Bytes>,
    pub(crate) since: TxClock,
    pub(crate) until: Option<TxClock>,
    pub(crate) pick: Pick,
    pub(crate) slice: Slice,
    pub(crate) limit: Option<i32>,
}

impl ScanParams {
    /// Checks the parameters in the order that `docs/HTTP.md` promises. `now` is where a scan ends that says no `until`.
    pub(crate) fn parse(raw: &RawParams<'_>, now: TxClock) -> Answer<ScanParams> {
        let key = raw.key()?.unwrap_or_default();
        let end = raw.end.map(|end| key_bytes("the parameter end", end, Place::Query)).transpose()?;
        let from = raw.time.map_or(Ok(TxClock::MAX), |t| time("time", t))?;
        let since = raw.since.map_or(Ok(TxClock::ZERO), |t| time("since", t))?;
        let until = raw.until.map(|t| time("until", t)).transpose()?;
        if until.unwrap_or(now) < since {
            return Err(Problem::bad_request(format!(
                "Since must preceed until. since was {since}, until {}.",
                until.unwrap_or(now)
            )));
        }
        let pick = match raw.pick {
            None => Pick::Latest,
            Some(pick) => {
                let name = text("pick", pick)?;
                name.parse()
                    .map_err(|why: skein_model::window::PickError| Problem::bad_request(why.to_string()))?
            }
        };
        let slice = raw.slice()?;
        let limit = raw.limit.map(|limit| integer("limit", limit)).transpose()?;
        Ok(ScanParams { key, time: from, end, since, until, pick, slice, limit })
    }

    fn request(&self, table: TableId) -> ScanRequest {
        ScanRequest {
            table,
            window: ScanWindow { pick: self.pick, since: self.since, until: self.until },
            key: self.key.clone(),
            time: self.time,
            end: self.end.clone(),
            slice: self.slice,
        }
    }

    /// The link to the page that begins with a row: the same path and parameters, with the upper bound that this
    /// scan settled on, so that all pages are one snapshot.
    pub(crate) fn next_link(&self, host: &str, path: &str, until: TxClock, row: &ScanRow) -> String {
        let host = host.strip_suffix(":80").unwrap_or(host);
        let mut link = format!("<http://{host}{path}?key={}&time={}", encode(&row.key), row.time);
        // Writing to a string does not fail.
        let _ = write!(link, "&limit={}", self.limit.unwrap_or_default());
        if let Some(end) = &self.end {
            let _ = write!(link, "&end={}", encode(end));
        }
        if self.since != TxClock::ZERO {
            let _ = write!(link, "&since={}", self.since);
        }
        let _ = write!(link, "&until={until}");
        if self.pick != Pick::Latest {
            let _ = write!(link, "&pick={}", self.pick.name());
        }
        if self.slice != Slice::ALL {
            let _ = write!(link, "&slice={}&nslices={}", self.slice.slice(), self.slice.nslices());
        }
        link.push_str(">; rel=\"next\"");
        link
    }
}

/// Scans a table. `path` is the path of the request, for the link.
pub(crate) async fn scan(
    state: &State,
    table: TableId,
    path: &str,
    raw: RawParams<'_>,
    headers: &RequestHeaders<'_>,
) -> Answer {
    let at = headers.read_clock()?;
    let mut params = ScanParams::parse(&raw, at.unwrap_or_else(|| state.cell.now()))?;
    // A reader of the past who takes no notice of `until` is not to be shown the present instead.
    params.until = params.until.or(at);
    let format = if headers.wants_lines() { Format::Lines } else { Format::Array };
    let permit = state.config.memory.try_reserve(SCAN_RESERVED_BYTES).ok_or_else(|| {
        Problem::overloaded(
            "Requests under way hold all the memory that they may. Try the scan again later.",
            Duration::from_secs(1),
        )
    })?;
    let scan = state.cell.scan(params.request(table), state.deadline()).await?;
    let until = scan.until();
    let mut response = match params.limit {
        Some(limit) => page(state, &params, scan, format, limit, path, permit).await?,
        None => stream(scan, format, permit).await?,
    };
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(format.media_type()));
    headers.insert(&READ_TX_CLOCK, number_value(until.0));
    headers.insert(VARY, HeaderValue::from_static("Accept, Read-TxClock"));
    Ok(response)
}

/// One page, whole, so that its headers can link to the next one.
async fn page(
    state: &State,
    params: &ScanParams,
    mut scan: Scan,
    format: Format,
    limit: i32,
    path: &str,
    mut permit: Permit,
) -> Answer {
    let limit = usize::try_from(limit).unwrap_or(0);
    let mut writer = Writer::new(format);
    let mut rows = 0;
    let next = 'page: loop {
        // One more than there is room for tells whether there is a next page.
        let wanted = (limit - rows).saturating_add(1).min(CHUNK_ROWS_MAX);
        let chunk = scan.next(wanted, CHUNK_BYTES).await?;
        if chunk.is_empty() {
            break None;
        }
        let before = writer.out.len();
        for row in chunk {
            if rows == limit || PAGE_BYTES_MAX <= writer.out.len() {
                break 'page Some(row);
            }
            writer.push(&row);
            rows += 1;
        }
        if !permit.try_grow(writer.out.len() - before) {
            return Err(Problem::overloaded(
                "Requests under way hold all the memory that they may. Try again later, or with a smaller limit.",
                Duration::from_secs(1),
            ));
        }
    };
    writer.finish();
    let mut response = whole(format.media_type(), permit.hold(writer.out.freeze()));
    if let Some(row) = next {
        let link = params.next_link(&state.config.share_http_addr, path, scan.until(), &row);
        let value = HeaderValue::from_bytes(link.as_bytes())
            .map_err(|_| Problem::bad_request("The path of the request does not fit into a link."))?;
        response.headers_mut().insert(LINK, value);
    }
    Ok(response)
}

/// A stream of all rows. The first chunk is there before the answer begins, so that what fails at once has a status.
async fn stream(scan: Scan, format: Format, permit: Permit) -> Answer {
    let mut chunks = chunks(scan);
    let first = poll_fn(|cx| chunks.as_mut().poll_next(cx)).await.transpose()?;
    let mut writer = Writer::new(format);
    let Some(rows) = first else {
        writer.finish();
        return Ok(Response::new(Body::full(writer.out.freeze())));
    };
    rows.iter().for_each(|row| writer.push(row));
    let chunk = Some(writer.take());
    let body = ScanBody { chunk, chunks, fetched: None, done: false, writer, _permit: permit, _busy: None };
    Ok(Response::new(Body::Scan(Box::new(body))))
}

/// Rows on their way to text.
struct Writer {
    out: BytesMut,
    format: Format,
    begun: bool,
}

impl Writer {
    fn new(format: Format) -> Writer {
        Writer { out: BytesMut::new(), format, begun: false }
    }

    fn push(&mut self, row: &ScanRow) {
        match (self.format, self.begun) {
            (Format::Array, false) => self.out.put_u8(b'['),
            (Format::Array, true) => self.out.extend_from_slice(b",\n"),
            (Format::Lines, _) => {}
        }
        self.begun = true;
        push_row(&mut self.out, row, self.format);
        if self.format == Format::Lines {
            self.out.put_u8(b'\n');
        }
    }

    fn finish(&mut self) {
        match (self.format, self.begun) {
            (Format::Array, false) => self.out.extend_from_slice(b"[]"),
            (Format::Array, true) => self.out.put_u8(b']'),
            (Format::Lines, _) => {}
        }
    }

    fn take(&mut self) -> Bytes {
        let chunk = std::mem::take(&mut self.out);
        // The next chunk will be about as long.
        self.out = BytesMut::with_capacity(chunk.len() + chunk.len() / 8);
        chunk.freeze()
    }
}

type Chunks = Pin<Box<dyn Stream<Item = Result<Vec<ScanRow>, CellError>> + Send>>;

/// The rows of a scan in chunks of some size, none of them empty.
fn chunks(scan: Scan) -> Chunks {
    Box::pin(try_unfold(scan, |mut scan| async move {
        let rows = scan.next(CHUNK_ROWS_MAX, CHUNK_BYTES).await?;
        Ok((!rows.is_empty()).then_some((rows, scan)))
    }))
}

/// A scan being sent. The store reads one chunk ahead of what the connection has taken, and no further: a slow reader
/// slows the scan, and nothing piles up.
pub(crate) struct ScanBody {
    /// Ready to be sent.
    chunk: Option<Bytes>,
    chunks: Chunks,
    /// What `chunks` gave while the chunk before was being sent.
    fetched: Option<Option<Result<Vec<ScanRow>, CellError>>>,
    /// Whether all of it was fetched, or it broke off.
    done: bool,
    writer: Writer,
    _permit: Permit,
    _busy: Option<Busy>,
}

impl ScanBody {
    /// Keeps the connection from being taken for idle until the scan is over.
    pub(crate) fn keep_busy(&mut self, busy: Busy) {
        self._busy = Some(busy);
    }

    /// The next piece of the answer.
    pub(crate) fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BrokenOff>>> {
        loop {
            self.fetch_ahead(cx);
            if let Some(chunk) = self.chunk.take() {
                return Poll::Ready(Some(Ok(chunk)));
            }
            if self.done {
                return Poll::Ready(None);
            }
            match self.fetched.take() {
                None => return Poll::Pending,
                Some(Some(Ok(rows))) => {
                    // Begun before the rows are written out, so that the store works meanwhile.
                    self.fetch_ahead(cx);
                    rows.iter().for_each(|row| self.writer.push(row));
                    self.chunk = Some(self.writer.take());
                }
                Some(Some(Err(error))) => {
                    self.done = true;
                    tracing::warn!(%error, "a scan broke off");
                    return Poll::Ready(Some(Err(BrokenOff(error.to_string()))));
                }
                Some(None) => {
                    self.done = true;
                    self.writer.finish();
                    let last = std::mem::take(&mut self.writer.out).freeze();
                    self.chunk = (!last.is_empty()).then_some(last);
                }
            }
        }
    }

    fn fetch_ahead(&mut self, cx: &mut Context<'_>) {
        if !self.done
            && self.fetched.is_none()
            && let Poll::Ready(rows) = self.chunks.as_mut().poll_next(cx)
        {
            self.fetched = Some(rows);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: TxClock = TxClock(1_000);

    fn parse(query: &str) -> Answer<ScanParams> {
        ScanParams::parse(&RawParams::parse(Some(query)), NOW)
    }

    fn detail(query: &str) -> String {
        parse(query).unwrap_err().detail
    }

    fn row(key: &[u8], time: u64) -> ScanRow {
        ScanRow { key: Bytes::copy_from_slice(key), time: TxClock(time), value: None }
    }

    #[test]
    fn a_bare_scan_covers_the_whole_table_up_to_now() {
        let params = parse("").unwrap();
        assert_eq!((params.time, params.since, params.until), (TxClock::MAX, TxClock::ZERO, None));
        assert_eq!((params.pick, params.slice, params.limit), (Pick::Latest, Slice::ALL, None));
        assert!(params.key.is_empty() && params.end.is_none());
    }

    #[test]
    fn bad_parameters_are_told_in_the_order_of_the_interface() {
        let all = "time=a&since=b&until=c&pick=d&slice=e&limit=f";
        let mut query = all.to_owned();
        for (fault, mended, start) in [
            ("time=a", "time=1", "Bad time for time: a"),
            ("since=b", "since=9", "Bad time for since: b"),
            ("until=c", "until=8", "Bad time for until: c"),
            ("until=8", "until=9", "Since must preceed until."),
            ("pick=d", "pick=Through", "Pick must be latest, between or through."),
            ("slice=e", "slice=e&nslices=3", "Both slice and nslices are needed together."),
            ("slice=e", "slice=0", "Bad integer for slice: e"),
            ("nslices=3", "nslices=2", "Number of slices must be a power of two"),
            ("limit=f", "limit=5", "Bad integer for limit: f"),
        ] {
            assert!(query.contains(fault), "{query}");
            assert!(detail(&query).starts_with(start), "{query}: {}", detail(&query));
            query = query.replace(fault, mended);
        }
        assert_eq!(parse(&query).unwrap().limit, Some(5));
    }

    #[test]
    fn since_has_to_precede_the_present_when_until_is_not_given() {
        assert!(parse("since=1000").is_ok());
        assert!(detail("since=1001").starts_with("Since must preceed until."));
    }

    #[test]
    fn the_link_keeps_every_parameter_and_pins_the_snapshot() {
        let params = parse("limit=10&since=5&pick=between&slice=1&nslices=2&end=z%2F").unwrap();
        let link = params.next_link("db.example:80", "/fruit", TxClock(900), &row(b"a b&c", 7));
        assert_eq!(
            link,
            "<http://db.example/fruit?key=a%20b%26c&time=7&limit=10&end=z%2F&since=5&until=900&pick=between&slice=1&nslices=2>; rel=\"next\""
        );
        let short = parse("limit=1").unwrap().next_link("h:7070", "/table/0x1", TxClock(3), &row(b"k", 2));
        assert_eq!(short, "<http://h:7070/table/0x1?key=k&time=2&limit=1&until=3>; rel=\"next\"");
    }

    #[test]
    fn rows_are_strung_together_as_one_array_or_as_lines() {
        let text = |format, rows: &[ScanRow]| {
            let mut writer = Writer::new(format);
            rows.iter().for_each(|r| writer.push(r));
            writer.finish();
            String::from_utf8(writer.out.to_vec()).unwrap()
        };
        let rows = [row(b"a", 1), row(b"b", 2)];
        assert_eq!(text(Format::Array, &[]), "[]");
        assert_eq!(text(Format::Lines, &[]), "");
        let array: serde_json::Value = serde_json::from_str(&text(Format::Array, &rows)).unwrap();
        assert_eq!(array[1]["key"], "b");
        let lines = text(Format::Lines, &rows);
        assert!(lines.ends_with('\n'));
        assert!(lines.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()));
        assert_eq!(lines.lines().count(), 2);
    }

    /// The bytes that a client gets from a real HTTP/1.1 connection whose answer is a scan of these chunks.
    async fn sent(format: Format, chunks: Vec<Result<Vec<ScanRow>, CellError>>) -> String {
        use futures_util::StreamExt;
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (mut client, server) = tokio::io::duplex(1 << 16);
        let service = hyper::service::service_fn(move |_| {
            let body = ScanBody {
                chunk: None,
                // As from a store that takes a moment, in which what is ready gets sent.
                chunks: Box::pin(futures_util::stream::iter(chunks.clone()).then(|chunk| async {
                    tokio::task::yield_now().await;
                    chunk
                })),
                fetched: None,
                done: false,
                writer: Writer::new(format),
                _permit: crate::MemoryBudget::new(0).try_reserve(0).unwrap(),
                _busy: None,
            };
            std::future::ready(Ok::<_, std::convert::Infallible>(Response::new(Body::Scan(Box::new(body)))))
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .serve_connection(hyper_util::rt::TokioIo::new(server), service);
        client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        let _ = connection.await;
        let mut bytes = String::new();
        client.read_to_string(&mut bytes).await.unwrap();
        bytes
    }

    const LAST_CHUNK: &str = "\r\n0\r\n\r\n";

    #[tokio::test]
    async fn a_scan_that_breaks_off_never_looks_like_one_that_ended() {
        for format in [Format::Array, Format::Lines] {
            let whole = sent(format, vec![Ok(vec![row(b"a", 1)]), Ok(vec![row(b"b", 2)])]).await;
            assert!(whole.ends_with(LAST_CHUNK) && whole.contains("\"b\""), "{whole}");
            // Of the rows before the break as many arrive as were on the wire by then.
            let chunks = vec![Ok(vec![row(b"a", 1)]), Ok(vec![row(b"b", 2)]), Err(CellError::ShuttingDown)];
            let broken = sent(format, chunks).await;
            assert!(broken.starts_with("HTTP/1.1 200 OK"), "{broken}");
            assert!(!broken.ends_with(LAST_CHUNK) && !broken.contains(']'), "{broken}");
        }
    }

    proptest! {
        #[test]
        fn following_a_link_asks_for_the_same_scan_from_the_next_row_on(
            key in any::<Vec<u8>>(), end in any::<Option<Vec<u8>>>(), time in any::<u64>(),
            since in 0u64..1000, through in any::<bool>(), slice in 0u32..8, limit in any::<i32>(),
        ) {
            let first = ScanParams {
                key: Bytes::new(),
                time: TxClock::MAX,
                end: end.map(Bytes::from),
                since: TxClock(since),
                until: None,
                pick: if through { Pick::Through } else { Pick::Latest },
                slice: Slice::new(slice.into(), 8).unwrap(),
                limit: Some(limit),
            };
            let link = first.next_link("h:1", "/t", NOW, &row(&key, time));
            let query = link.split_once('?').unwrap().1.split_once('>').unwrap().0;
            let next = parse(query).unwrap();
            let wanted = ScanParams { key: Bytes::from(key), time: TxClock(time), until: Some(NOW), ..first };
            prop_assert_eq!(next, wanted);
        }

        #[test]
        fn arbitrary_queries_never_panic(query in "((key|time|end|since|until|pick|slice|nslices|limit)=?[-+%0-9a-z#]{0,6}&?){0,8}") {
            let _ = parse(&query);
        }
    }
}
