//! JSON in and out, by hand where rows pass: values are checked but never rewritten.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, BytesMut};
use serde::de::IgnoredAny;
use skein_cell::ScanRow;
use skein_model::{ContentType, Value};

/// How deeply arrays and objects of a JSON value may nest: what common parsers accept on the way back.
pub(crate) const JSON_DEPTH_MAX: usize = 128;

/// Why bytes are not a JSON value that we keep.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JsonError {
    /// JSON travels as UTF-8.
    #[error("the text is not UTF-8 from byte {offset} on")]
    NotUtf8 { offset: usize },
    /// It is not one JSON value with only white space around it.
    #[error("{0}")]
    Malformed(serde_json::Error),
    /// It nests more deeply than [`JSON_DEPTH_MAX`].
    #[error("arrays and objects nest more than {JSON_DEPTH_MAX} deep at byte {offset}")]
    TooDeep { offset: usize },
}

/// Checks that `bytes` are one JSON value and nothing else. Takes linear time and next to no stack.
pub(crate) fn check_json(bytes: &[u8]) -> Result<(), JsonError> {
    let text = std::str::from_utf8(bytes).map_err(|e| JsonError::NotUtf8 { offset: e.valid_up_to() })?;
    serde_json::from_str::<IgnoredAny>(text).map_err(JsonError::Malformed)?;
    check_depth(bytes)
}

/// Checks the nesting of well-formed JSON.
pub(crate) fn check_depth(json: &[u8]) -> Result<(), JsonError> {
    // Without so many opening brackets in it, strings included, a value cannot be too deep.
    if memchr::memchr2_iter(b'[', b'{', json).nth(JSON_DEPTH_MAX).is_none() {
        return Ok(());
    }
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for (offset, byte) in json.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                if JSON_DEPTH_MAX < depth {
                    return Err(JsonError::TooDeep { offset });
                }
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

/// Appends `text` as a JSON string.
pub(crate) fn push_string(out: &mut BytesMut, text: &str) {
    out.reserve(text.len() + 2);
    out.put_u8(b'"');
    let bytes = text.as_bytes();
    let mut clean_from = 0;
    for (i, byte) in bytes.iter().enumerate() {
        if 0x20 <= *byte && *byte != b'"' && *byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&bytes[clean_from..i]);
        clean_from = i + 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                out.extend_from_slice(b"\\u00");
                out.put_u8(HEX[usize::from(byte >> 4)]);
                out.put_u8(HEX[usize::from(byte & 15)]);
            }
        }
    }
    out.extend_from_slice(&bytes[clean_from..]);
    out.put_u8(b'"');
}

/// How the rows of a scan are strung together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// One JSON array.
    Array,
    /// One JSON object to the line.
    Lines,
}

impl Format {
    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Format::Array => "application/json",
            Format::Lines => "application/x-ndjson",
        }
    }
}

/// Appends `{"key":…,"time":…,"value":…}`.
///
/// A key that is not UTF-8 stands as `keyBase64` instead, and a value that is not JSON as an object of its
/// `contentType` and `base64`. In [`Format::Lines`] the line breaks inside a value become blanks: in well-formed JSON
/// they can only be white space between its parts.
pub(crate) fn push_row(out: &mut BytesMut, row: &ScanRow, format: Format) {
    let value_len = row.value.as_ref().map_or(4, |v| v.bytes.len());
    out.reserve(row.key.len() + value_len + 64);
    match std::str::from_utf8(&row.key) {
        Ok(key) => {
            out.extend_from_slice(b"{\"key\":");
            push_string(out, key);
        }
        Err(_) => {
            out.extend_from_slice(b"{\"keyBase64\":\"");
            push_base64(out, &row.key);
            out.put_u8(b'"');
        }
    }
    out.extend_from_slice(b",\"time\":");
    out.extend_from_slice(itoa::Buffer::new().format(row.time.0).as_bytes());
    out.extend_from_slice(b",\"value\":");
    match &row.value {
        None => out.extend_from_slice(b"null"),
        Some(value) => push_value(out, value, format),
    }
    out.put_u8(b'}');
}

/// Appends `{"key":…,"version":…,"value":…}`, the value as in [`push_row`].
pub(crate) fn push_entry(out: &mut BytesMut, key: &str, version: u64, value: &Value) {
    out.reserve(key.len() + value.bytes.len() + 64);
    out.extend_from_slice(b"{\"key\":");
    push_string(out, key);
    out.extend_from_slice(b",\"version\":");
    out.extend_from_slice(itoa::Buffer::new().format(version).as_bytes());
    out.extend_from_slice(b",\"value\":");
    push_value(out, value, Format::Array);
    out.put_u8(b'}');
}

fn push_value(out: &mut BytesMut, value: &Value, format: Format) {
    match &value.content_type {
        ContentType::Json => {
            let start = out.len();
            out.extend_from_slice(&value.bytes);
            if format == Format::Lines && memchr::memchr2(b'\n', b'\r', &value.bytes).is_some() {
                for byte in &mut out[start..] {
                    if matches!(byte, b'\n' | b'\r') {
                        *byte = b' ';
                    }
                }
            }
        }
        ContentType::Other(name) => {
            out.extend_from_slice(b"{\"contentType\":");
            push_string(out, name);
            out.extend_from_slice(b",\"base64\":\"");
            push_base64(out, &value.bytes);
            out.extend_from_slice(b"\"}");
        }
    }
}

fn push_base64(out: &mut BytesMut, bytes: &[u8]) {
    let mut buffer = [0u8; 4096];
    // Whole groups of three bytes, so that only the last piece can have padding.
    for piece in bytes.chunks(3072) {
        // Cannot fail: 3072 bytes make exactly 4096 characters.
        if let Ok(len) = STANDARD.encode_slice(piece, &mut buffer) {
            out.extend_from_slice(&buffer[..len]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;
    use skein_model::TxClock;

    fn row(key: &[u8], value: Option<(&str, &[u8])>) -> ScanRow {
        let value = value.map(|(content_type, bytes)| Value {
            content_type: match content_type {
                "" => ContentType::Json,
                name => ContentType::Other(name.into()),
            },
            bytes: Bytes::copy_from_slice(bytes),
        });
        ScanRow { key: Bytes::copy_from_slice(key), time: TxClock(7), value }
    }

    fn encoded(row: &ScanRow, format: Format) -> String {
        let mut out = BytesMut::new();
        push_row(&mut out, row, format);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn a_row_is_written_with_its_value_byte_for_byte() {
        let text = encoded(&row(b"apple", Some(("", b"{ \"v\" : 1.0e5,\n\"v\":2}"))), Format::Array);
        assert_eq!(text, "{\"key\":\"apple\",\"time\":7,\"value\":{ \"v\" : 1.0e5,\n\"v\":2}}");
    }

    #[test]
    fn a_value_of_several_lines_stays_on_one_line_of_ndjson() {
        let text = encoded(&row(b"a", Some(("", b"{\r\n \"v\": \"x\\n\"\n}"))), Format::Lines);
        assert!(!text.contains('\n') && !text.contains('\r'));
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["value"]["v"], "x\n");
    }

    #[test]
    fn what_is_not_json_or_not_utf8_travels_as_base64() {
        let text = encoded(&row(b"\xff\x00", Some(("image/\"png", b"\x00\x01\x02\x03"))), Format::Array);
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["keyBase64"], "/wA=");
        assert_eq!(json["value"]["contentType"], "image/\"png");
        assert_eq!(json["value"]["base64"], "AAECAw==");
        assert!(json.get("key").is_none());
    }

    #[test]
    fn a_tombstone_is_null() {
        assert_eq!(encoded(&row(b"", None), Format::Lines), "{\"key\":\"\",\"time\":7,\"value\":null}");
    }

    #[test]
    fn only_one_whole_json_value_is_accepted() {
        for good in ["null", " 1 ", "\n[]\t", "{\"a\":[1,2,{}]}", "\"\\ud800\"", "12345678901234567890123"] {
            assert!(check_json(good.as_bytes()).is_ok(), "{good}");
        }
        for bad in ["", "  ", "1 2", "[}", "{\"a\":}", "nul", "[1,]", "\u{feff}1", "'a'"] {
            assert!(check_json(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(matches!(check_json(b"\"\xff\""), Err(JsonError::NotUtf8 { offset: 1 })));
    }

    #[test]
    fn deep_nesting_is_refused_without_using_up_the_stack() {
        let nested = |n: usize| [vec![b'['; n], vec![b']'; n]].concat();
        assert!(check_json(&nested(JSON_DEPTH_MAX)).is_ok());
        assert!(matches!(check_json(&nested(JSON_DEPTH_MAX + 1)), Err(JsonError::TooDeep { offset: 128 })));
        assert!(check_json(&nested(1_000_000)).is_err());
        assert!(check_json(&vec![b'['; 1_000_000]).is_err());
    }

    #[test]
    fn brackets_inside_strings_do_not_count_as_nesting() {
        let text = format!("\"{}\\\"{}\"", "[".repeat(500), "{".repeat(500));
        assert!(check_json(text.as_bytes()).is_ok());
    }

    proptest! {
        #[test]
        fn every_string_survives_a_json_parser(text in any::<String>()) {
            let mut out = BytesMut::new();
            push_string(&mut out, &text);
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }

        #[test]
        fn every_row_is_one_json_object(key in any::<Vec<u8>>(), value in any::<Vec<u8>>(), lines in any::<bool>()) {
            let format = if lines { Format::Lines } else { Format::Array };
            let text = encoded(&row(&key, Some(("a/b", &value))), format);
            let json: serde_json::Value = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(STANDARD.decode(json["value"]["base64"].as_str().unwrap()).unwrap(), value);
            let back = match json.get("key") {
                Some(key) => key.as_str().unwrap().as_bytes().to_vec(),
                None => STANDARD.decode(json["keyBase64"].as_str().unwrap()).unwrap(),
            };
            prop_assert_eq!(back, key);
        }

        #[test]
        fn the_check_agrees_with_a_full_parse(text in "([\\[\\]{}\",:0-9 ]|true|null|\\\\n){0,30}") {
            let full = serde_json::from_str::<serde_json::Value>(&text).is_ok();
            prop_assert_eq!(check_json(text.as_bytes()).is_ok(), full);
        }
    }
}
