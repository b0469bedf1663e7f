//! From the bytes of a file to rows: JSON Lines, CSV, and the lines that `skein export` writes.

use crate::args::Format;
use serde::Deserialize;
use serde::de::{Deserializer as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use skein_model::limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use std::fmt;
use std::io::{self, BufRead};

/// Longest line we keep in memory: the largest value, and as much again for key and quoting.
const LINE_BYTES_MAX: usize = 2 * VALUE_BYTES_MAX;

/// One row of the file, as members of an operation of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The number of its line, from 1; for CSV of the line its record begins on.
    pub line: u64,
    /// What tells the row from others of its table.
    pub key: Vec<u8>,
    /// `"key":…,"value":…`, without braces.
    pub members: Vec<u8>,
}

/// A line that is not a row. The line is left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadLine {
    /// Its number, from 1; for CSV the line its record begins on.
    pub line: u64,
    /// Why it is not a row.
    pub reason: String,
}

/// Rows and bad lines in the order of the file.
pub trait Source: Send {
    /// The next row or bad line; `None` at the end. An error is the file's, not a line's.
    fn next(&mut self) -> io::Result<Option<Result<Row, BadLine>>>;
}

/// Reads `input` as `format`, keyed by `field`.
pub fn open<R: BufRead + Send + 'static>(
    input: R,
    format: Format,
    field: &str,
    numbers: bool,
) -> io::Result<Box<dyn Source>> {
    Ok(match format {
        Format::Jsonl => {
            Box::new(Lines { input, line: 0, kind: LineKind::Object { field: field.to_owned() } })
        }
        Format::Rows => Box::new(Lines { input, line: 0, kind: LineKind::Exported }),
        Format::Csv => Box::new(Csv::open(input, field, numbers)?),
    })
}

struct Lines<R> {
    input: R,
    line: u64,
    kind: LineKind,
}

enum LineKind {
    Object { field: String },
    Exported,
}

impl<R: BufRead + Send> Source for Lines<R> {
    fn next(&mut self) -> io::Result<Option<Result<Row, BadLine>>> {
        loop {
            let read = read_line(&mut self.input, LINE_BYTES_MAX)?;
            self.line += 1;
            let row = match read {
                LineRead::End => return Ok(None),
                LineRead::TooLong(bytes) => {
                    Err(format!("it is {bytes} bytes long; at most {LINE_BYTES_MAX} are read"))
                }
                LineRead::Line(mut bytes) => {
                    if self.line == 1 && bytes.starts_with(b"\xef\xbb\xbf") {
                        bytes.drain(..3);
                    }
                    if bytes.iter().all(u8::is_ascii_whitespace) {
                        continue;
                    }
                    match &self.kind {
                        LineKind::Object { field } => object_row(self.line, &bytes, field),
                        LineKind::Exported => exported_row(self.line, &bytes),
                    }
                }
            };
            let line = self.line;
            return Ok(Some(row.map_err(|reason| BadLine { line, reason })));
        }
    }
}

enum LineRead {
    Line(Vec<u8>),
    TooLong(u64),
    End,
}

/// One line without its end (`\n` or `\r\n`). One longer than `max` is read over, not kept.
fn read_line(input: &mut impl BufRead, max: usize) -> io::Result<LineRead> {
    let mut line = Vec::new();
    let mut bytes = 0u64;
    let mut ended = false;
    while !ended {
        let chunk = input.fill_buf()?;
        if chunk.is_empty() {
            if bytes == 0 {
                return Ok(LineRead::End);
            }
            break;
        }
        let (part, used) = match chunk.iter().position(|b| *b == b'\n') {
            Some(end) => {
                ended = true;
                (&chunk[..end], end + 1)
            }
            None => (chunk, chunk.len()),
        };
        bytes += part.len() as u64 + u64::from(ended);
        if line.len() + part.len() <= max {
            line.extend_from_slice(part);
        } else {
            // Already too long: give the memory back and only count on.
            line = Vec::new();
        }
        input.consume(used);
    }
    let length = bytes - u64::from(ended);
    if length > max as u64 {
        return Ok(LineRead::TooLong(length));
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    Ok(LineRead::Line(line))
}

/// The row that one JSON object is: the value is the line as it stands.
fn object_row(number: u64, line: &[u8], field: &str) -> Result<Row, String> {
    let text =
        std::str::from_utf8(line).map_err(|e| format!("it is not UTF-8 after byte {}", e.valid_up_to()))?;
    let mut json = serde_json::Deserializer::from_str(text);
    let found = json.deserialize_any(FieldOf { field }).and_then(|found| json.end().map(|()| found));
    let raw = match found.map_err(|e| describe(&e))? {
        Found::Once(raw) => raw,
        Found::Missing => return Err(format!("it has no member {field:?}")),
        Found::Twice => return Err(format!("it has more than one member {field:?}")),
        Found::NotAnObject => return Err("it is not a JSON object".to_owned()),
    };
    let key = key_text(raw.get()).ok_or_else(|| format!("{field:?} is neither a string nor a number"))?;
    row(number, &key, text.trim().as_bytes())
}

/// serde_json counts lines of its own; ours are the file's.
fn describe(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rfind(" at line 1 column ") {
        Some(at) => format!("{} at column {}", &text[..at], error.column()),
        None => text,
    }
}

/// A string's content, or a number as it is written.
fn key_text(raw: &str) -> Option<String> {
    match raw.as_bytes().first()? {
        b'"' => serde_json::from_str(raw).ok(),
        b'-' | b'0'..=b'9' => Some(raw.to_owned()),
        _ => None,
    }
}

fn row(line: u64, key: &str, value: &[u8]) -> Result<Row, String> {
    check_sizes(key.len(), value.len())?;
    let mut members = Vec::with_capacity(key.len() + value.len() + 20);
    members.extend_from_slice(b"\"key\":");
    serde_json::to_writer(&mut members, key).map_err(|e| e.to_string())?;
    members.extend_from_slice(b",\"value\":");
    members.extend_from_slice(value);
    Ok(Row { line, key: key.as_bytes().to_vec(), members })
}

fn check_sizes(key: usize, value: usize) -> Result<(), String> {
    if KEY_BYTES_MAX < key {
        return Err(format!("its key has {key} bytes; a key has at most {KEY_BYTES_MAX}"));
    }
    if VALUE_BYTES_MAX < value {
        return Err(format!("its value has {value} bytes; a value has at most {VALUE_BYTES_MAX}"));
    }
    Ok(())
}

enum Found {
    Once(Box<RawValue>),
    Missing,
    Twice,
    NotAnObject,
}

/// Finds one member of an object and validates the rest without keeping it.
struct FieldOf<'a> {
    field: &'a str,
}

impl<'de> Visitor<'de> for FieldOf<'_> {
    type Value = Found;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Found, A::Error> {
        let mut found = Found::Missing;
        while let Some(name) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            if name != self.field {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let raw = map.next_value::<Box<RawValue>>()?;
            found = if matches!(found, Found::Missing) { Found::Once(raw) } else { Found::Twice };
        }
        Ok(found)
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Found, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Found::NotAnObject)
    }
    fn visit_bool<E>(self, _: bool) -> Result<Found, E> {
        Ok(Found::NotAnObject)
    }
    fn visit_i64<E>(self, _: i64) -> Result<Found, E> {
        Ok(Found::NotAnObject)
    }
    fn visit_u64<E>(self, _: u64) -> Result<Found, E> {
        Ok(Found::NotAnObject)
    }
    fn visit_f64<E>(self, _: f64) -> Result<Found, E> {
        Ok(Found::NotAnObject)
    }
    fn visit_str<E>(self, _: &str) -> Result<Found, E> {
        Ok(Found::NotAnObject)
    }
    fn visit_unit<E>(self) -> Result<Found, E> {
        Ok(Found::NotAnObject)
    }
}

/// A line of `skein export`.
#[derive(Deserialize)]
struct Exported<'a> {
    key: Option<String>,
    #[serde(rename = "keyBase64")]
    key_base64: Option<String>,
    #[serde(borrow)]
    value: Option<&'a RawValue>,
}

/// How a scan shows a value that is not JSON.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Encoded<'a> {
    #[serde(rename = "contentType", borrow)]
    content_type: &'a RawValue,
    #[serde(borrow)]
    base64: &'a RawValue,
}

fn exported_row(number: u64, line: &[u8]) -> Result<Row, String> {
    let text =
        std::str::from_utf8(line).map_err(|e| format!("it is not UTF-8 after byte {}", e.valid_up_to()))?;
    let parsed: Exported<'_> = serde_json::from_str(text).map_err(|e| describe(&e))?;
    let value = parsed.value.ok_or("it has no member \"value\"")?.get();
    let (name, key) = match (parsed.key, parsed.key_base64) {
        (Some(key), None) => ("key", key),
        (None, Some(key)) => ("keyBase64", key),
        _ => return Err("it has not exactly one of the members \"key\" and \"keyBase64\"".to_owned()),
    };
    check_sizes(key.len(), value.len())?;
    let mut members = Vec::with_capacity(key.len() + value.len() + 24);
    members.extend_from_slice(format!("\"{name}\":").as_bytes());
    serde_json::to_writer(&mut members, &key).map_err(|e| e.to_string())?;
    match serde_json::from_str::<Encoded<'_>>(value) {
        Ok(encoded) => {
            let (content_type, base64) = (encoded.content_type.get(), encoded.base64.get());
            members
                .extend_from_slice(format!(",\"contentType\":{content_type},\"base64\":{base64}").as_bytes());
        }
        Err(_) => {
            members.extend_from_slice(b",\"value\":");
            members.extend_from_slice(value.as_bytes());
        }
    }
    // The two spellings of keys must not be taken for each other.
    let mut identity = key.into_bytes();
    identity.push(u8::from(name == "keyBase64"));
    Ok(Row { line: number, key: identity, members })
}

struct Csv<R> {
    reader: csv::Reader<R>,
    /// Column names as JSON strings.
    names: Vec<String>,
    key_column: usize,
    numbers: bool,
    record: csv::ByteRecord,
}

impl<R: BufRead + Send> Csv<R> {
    fn open(input: R, field: &str, numbers: bool) -> io::Result<Csv<R>> {
        let mut reader = csv::ReaderBuilder::new().flexible(false).from_reader(input);
        let header = reader.headers().map_err(io::Error::from)?.clone();
        let header: Vec<&str> = header
            .iter()
            .enumerate()
            .map(|(i, n)| if i == 0 { n.trim_start_matches('\u{feff}') } else { n })
            .collect();
        let wrong = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
        let columns: Vec<usize> = (0..header.len()).filter(|i| header[*i] == field).collect();
        let key_column = match columns[..] {
            [only] => only,
            [] => {
                return Err(wrong(format!(
                    "the CSV header has no column {field:?}; it has {}",
                    header.join(", ")
                )));
            }
            _ => return Err(wrong(format!("the CSV header has more than one column {field:?}"))),
        };
        let names = header.iter().map(serde_json::to_string).collect::<Result<_, _>>()?;
        Ok(Csv { reader, names, key_column, numbers, record: csv::ByteRecord::new() })
    }

    fn row(&self, line: u64) -> Result<Row, String> {
        let cell = |at: usize| {
            std::str::from_utf8(&self.record[at])
                .map_err(|_| format!("column {} is not UTF-8", self.names[at]))
        };
        let mut value = Vec::with_capacity(self.record.as_slice().len() * 2);
        for (at, name) in self.names.iter().enumerate() {
            value.push(if at == 0 { b'{' } else { b',' });
            value.extend_from_slice(name.as_bytes());
            value.push(b':');
            let text = cell(at)?;
            if self.numbers && is_json_number(text) {
                value.extend_from_slice(text.as_bytes());
            } else {
                serde_json::to_writer(&mut value, text).map_err(|e| e.to_string())?;
            }
        }
        value.push(b'}');
        row(line, cell(self.key_column)?, &value)
    }
}

impl<R: BufRead + Send> Source for Csv<R> {
    fn next(&mut self) -> io::Result<Option<Result<Row, BadLine>>> {
        match self.reader.read_byte_record(&mut self.record) {
            Ok(false) => Ok(None),
            Ok(true) => {
                let line = self.record.position().map_or(0, csv::Position::line);
                Ok(Some(self.row(line).map_err(|reason| BadLine { line, reason })))
            }
            Err(e) => match e.kind() {
                csv::ErrorKind::UnequalLengths { pos, expected_len, len } => {
                    let reason = format!("it has {len} columns, the header {expected_len}");
                    Ok(Some(Err(BadLine { line: pos.as_ref().map_or(0, csv::Position::line), reason })))
                }
                _ => Err(e.into()),
            },
        }
    }
}

/// Whether a cell is a number as JSON writes it, so that `007` and `1e` stay strings.
fn is_json_number(text: &str) -> bool {
    text.starts_with(|c: char| c == '-' || c.is_ascii_digit())
        && text.ends_with(|c: char| c.is_ascii_digit())
        && serde_json::from_str::<IgnoredAny>(text).is_ok()
}

#[cfg(test)]
mod tests;
