//! `skein export`: a table as JSON Lines, one consistent snapshot, complete or an error.

use crate::args::ExportArgs;
use crate::client::{Answer, Call, Connection, Target, path_segment};
use crate::say;
use crate::trouble::{Exit, Trouble};
use http::{Method, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Why an export is not complete.
#[derive(Debug, thiserror::Error)]
enum ExportError {
    /// The server's stream broke off.
    #[error("the answer broke off after {rows} rows")]
    Broken { rows: u64, source: hyper::Error },
    /// The stream ended within a row, or holds something that is no row.
    #[error("the answer is not what a scan sends, at row {row}: {detail}")]
    Malformed { row: u64, detail: String },
    /// Our own output failed.
    #[error("write {to}")]
    Write { to: String, source: io::Error },
}

/// Runs `skein export`.
pub async fn run(args: ExportArgs) -> Result<Exit, Trouble> {
    let failed = || Trouble::new(Exit::Failed, format!("cannot export {}", args.table));
    let target: Target =
        args.url.parse().map_err(|e| Trouble::new(Exit::Config, "cannot export").because(e))?;
    let mut path = format!("/table/{}?pick=latest", path_segment(&args.table));
    if let Some(until) = args.until {
        path.push_str(&format!("&until={until}"));
    }
    let call = Call::new(Method::GET, path).header("accept", "application/x-ndjson");
    let response = Connection::new(target)
        .start(call)
        .await
        .map_err(|e| failed().because_of(&e).next("is the server running? --url names it"))?;
    if response.status() != StatusCode::OK {
        return Err(refused(response, failed()).await);
    }
    let outcome = match &args.out {
        Some(out) => to_file(response.into_body(), out, args.values_only).await,
        None => {
            // Locked per write: a lock held across an await would not be `Send`.
            copy(response.into_body(), &mut BufWriter::new(io::stdout()), "standard output", args.values_only)
                .await
        }
    };
    match outcome {
        Ok(rows) => {
            say::err(format_args!("exported {rows} rows of {}", args.table));
            Ok(Exit::Done)
        }
        // Whoever read our output has seen enough, as `head` does: no trouble, but not all of the table either.
        Err(ExportError::Write { source, .. }) if source.kind() == io::ErrorKind::BrokenPipe => {
            Ok(Exit::Interrupted)
        }
        Err(error) => Err(failed().because_of(&error).next(match error {
            ExportError::Write { .. } => "make room there and run the command again",
            _ => "what was written is not the whole table; run the command again",
        })),
    }
}

async fn refused(response: http::Response<Incoming>, trouble: Trouble) -> Trouble {
    let status = response.status();
    let body = http_body_util::Limited::new(response.into_body(), 1 << 20).collect().await;
    let body = body.map(|body| body.to_bytes()).unwrap_or_default();
    let answer = Answer { status, retry_after: None, body };
    let trouble = trouble.because(format!("the server answers {}", answer.explanation()));
    match answer.problem_type() {
        Some(kind) if kind.ends_with("table-not-found") => {
            trouble.next("look at the names with GET /admin/schema, or name the table by ID: --table 0x1")
        }
        _ => trouble,
    }
}

/// Writes to a file beside `out` and gives it the name only when it is whole.
async fn to_file(body: Incoming, out: &Path, values_only: bool) -> Result<u64, ExportError> {
    let mut part = out.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let failed = |source| ExportError::Write { to: out.display().to_string(), source };
    let mut file = BufWriter::with_capacity(1 << 16, File::create(&part).map_err(failed)?);
    let copied = copy(body, &mut file, &part.display().to_string(), values_only).await;
    let finished = copied.and_then(|rows| {
        let file = file.into_inner().map_err(|e| failed(e.into_error()))?;
        file.sync_all().and_then(|()| fs::rename(&part, out)).map_err(failed)?;
        Ok(rows)
    });
    if finished.is_err() {
        // It holds part of a table under a name that nobody asked for.
        let _ = fs::remove_file(&part);
    }
    finished
}

async fn copy(
    mut body: Incoming,
    out: &mut impl Write,
    to: &str,
    values_only: bool,
) -> Result<u64, ExportError> {
    let mut lines = RowLines::default();
    let failed = |source| ExportError::Write { to: to.to_owned(), source };
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|source| ExportError::Broken { rows: lines.rows, source })?;
        if let Ok(data) = frame.into_data() {
            lines.take(&data, |line| {
                if values_only { write_value(line, out) } else { write_line(line, out) }.map_err(failed)
            })?;
        }
    }
    let rows = lines.finish()?;
    out.flush().map_err(failed)?;
    Ok(rows)
}

/// A row of a scan.
#[derive(Deserialize)]
struct ScanLine<'a> {
    #[serde(borrow)]
    value: &'a RawValue,
}

/// Cuts the stream into lines, and checks that each is a row and the last one is whole.
#[derive(Default)]
struct RowLines {
    rest: Vec<u8>,
    rows: u64,
}

impl RowLines {
    fn take(
        &mut self,
        mut data: &[u8],
        mut write: impl FnMut(&RowLine<'_>) -> Result<(), ExportError>,
    ) -> Result<(), ExportError> {
        while let Some(end) = data.iter().position(|b| *b == b'\n') {
            let (line, after) = (&data[..end], &data[end + 1..]);
            data = after;
            if self.rest.is_empty() {
                write(&self.parse(line)?)?;
            } else {
                let mut whole = std::mem::take(&mut self.rest);
                whole.extend_from_slice(line);
                write(&self.parse(&whole)?)?;
            }
            self.rows += 1;
        }
        self.rest.extend_from_slice(data);
        Ok(())
    }

    fn parse<'a>(&self, line: &'a [u8]) -> Result<RowLine<'a>, ExportError> {
        let parsed: ScanLine<'a> = serde_json::from_slice(line)
            .map_err(|e| ExportError::Malformed { row: self.rows + 1, detail: e.to_string() })?;
        Ok(RowLine { line, value: parsed.value.get() })
    }

    fn finish(self) -> Result<u64, ExportError> {
        if self.rest.is_empty() {
            return Ok(self.rows);
        }
        Err(ExportError::Malformed {
            row: self.rows + 1,
            detail: "it ends in the middle of a line".to_owned(),
        })
    }
}

struct RowLine<'a> {
    line: &'a [u8],
    value: &'a str,
}

fn write_line(row: &RowLine<'_>, out: &mut impl Write) -> io::Result<()> {
    out.write_all(row.line)?;
    out.write_all(b"\n")
}

fn write_value(row: &RowLine<'_>, out: &mut impl Write) -> io::Result<()> {
    out.write_all(row.value.as_bytes())?;
    out.write_all(b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(chunks: &[&str], values_only: bool) -> Result<(String, u64), ExportError> {
        let mut lines = RowLines::default();
        let mut out = Vec::new();
        for chunk in chunks {
            lines.take(chunk.as_bytes(), |row| {
                if values_only { write_value(row, &mut out) } else { write_line(row, &mut out) }.unwrap();
                Ok(())
            })?;
        }
        let rows = lines.finish()?;
        Ok((String::from_utf8(out).unwrap(), rows))
    }

    #[test]
    fn rows_come_out_as_they_came_in_wherever_the_stream_is_cut() {
        let text =
            "{\"key\":\"a\",\"time\":1,\"value\":{\"x\": 1}}\n{\"key\":\"b\",\"time\":2,\"value\":\"é\"}\n";
        for at in (0..=text.len()).filter(|at| text.is_char_boundary(*at)) {
            let (whole, rows) = cut(&[&text[..at], &text[at..]], false).unwrap();
            assert_eq!((whole.as_str(), rows), (text, 2));
            let (values, _) = cut(&[&text[..at], &text[at..]], true).unwrap();
            assert_eq!(values, "{\"x\": 1}\n\"é\"\n");
        }
    }

    #[test]
    fn a_stream_that_ends_within_a_row_is_not_a_table() {
        let refused = cut(&["{\"key\":\"a\",\"time\":1,\"value\":1}\n{\"key\":"], false).unwrap_err();
        assert!(refused.to_string().contains("row 2"), "{refused}");
    }

    #[test]
    fn something_else_than_rows_is_noticed() {
        assert!(cut(&["<html>\n"], false).is_err());
    }

    #[test]
    fn an_empty_table_is_an_empty_file() {
        assert_eq!(cut(&[], false).unwrap(), (String::new(), 0));
    }
}
