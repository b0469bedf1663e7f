//! Writes HTTP/1.1 requests into a buffer that is used again and again.

use std::fmt::Write as _;

/// Spells requests for one table of one server. The parts that never change are joined once.
#[derive(Clone, Debug)]
pub struct Requests {
    /// Table as the batch body names it.
    table: String,
    /// `/table/T?key=`, percent-encoded.
    row_path: String,
    /// `/table/T`, percent-encoded.
    table_path: String,
    /// The rest of the request line and the headers that all requests share, up to the last header's line end.
    shared: String,
}

/// A key a request may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// A row of the key spread.
    Spread(u64),
    /// The row that only this client writes.
    Own(u64),
}

impl Key {
    /// Twelve bytes for any number that occurs, so that all requests of a workload have one size.
    fn write(self, out: &mut Vec<u8>) {
        let (letter, number) = match self {
            Key::Spread(number) => (b'k', number),
            Key::Own(number) => (b'c', number),
        };
        out.push(letter);
        write_padded(out, number, 11);
    }
}

/// Writes `number` in decimal with at least `width` (at most 20) digits.
fn write_padded(out: &mut Vec<u8>, mut number: u64, width: usize) {
    let mut digits = [b'0'; 20];
    let mut at = digits.len();
    while number > 0 {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
    }
    out.extend_from_slice(&digits[at.min(digits.len() - width)..]);
}

/// Writes the decimal digits of `number`.
fn write_number(out: &mut Vec<u8>, number: u64) {
    write_padded(out, number, 1);
}

impl Requests {
    /// Requests to `host` (as in the `Host` header) about `table`, an ID or a name.
    pub fn new(host: &str, table: &str) -> Self {
        let mut path = String::from("/table/");
        for byte in table.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~$".contains(&byte) {
                path.push(byte as char);
            } else {
                // Writing to a string cannot fail.
                let _ = write!(path, "%{byte:02X}");
            }
        }
        Requests {
            table: serde_json::Value::from(table).to_string(),
            row_path: format!("{path}?key="),
            table_path: path,
            shared: format!(" HTTP/1.1\r\nHost: {host}\r\n"),
        }
    }

    fn row(&self, out: &mut Vec<u8>, method: &[u8], key: Key) {
        out.clear();
        out.extend_from_slice(method);
        out.extend_from_slice(self.row_path.as_bytes());
        key.write(out);
        out.extend_from_slice(self.shared.as_bytes());
    }

    /// Reads a row.
    pub fn get(&self, out: &mut Vec<u8>, key: Key) {
        self.row(out, b"GET ", key);
        out.extend_from_slice(b"\r\n");
    }

    /// Writes a row; with a condition time, only if it was not written after that.
    pub fn put(&self, out: &mut Vec<u8>, key: Key, condition: Option<u64>, value: &[u8]) {
        self.row(out, b"PUT ", key);
        if let Some(time) = condition {
            out.extend_from_slice(b"Condition-TxClock: ");
            write_number(out, time);
            out.extend_from_slice(b"\r\n");
        }
        write_length(out, value.len());
        out.extend_from_slice(value);
    }

    /// Reads the whole table, a row a line.
    pub fn scan(&self, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(b"GET ");
        out.extend_from_slice(self.table_path.as_bytes());
        out.extend_from_slice(self.shared.as_bytes());
        out.extend_from_slice(b"Accept: application/x-ndjson\r\n\r\n");
    }

    /// Writes all of a batch's rows or none; `body` comes from [`Requests::begin_batch`] and its kin.
    pub fn batch(&self, out: &mut Vec<u8>, body: &[u8]) {
        out.clear();
        out.extend_from_slice(b"POST /batch-write");
        out.extend_from_slice(self.shared.as_bytes());
        write_length(out, body.len());
        out.extend_from_slice(body);
    }

    /// Starts the body of a batch.
    pub fn begin_batch(&self, body: &mut Vec<u8>) {
        body.clear();
        body.push(b'[');
    }

    /// Adds a row to a batch.
    pub fn add_to_batch(&self, body: &mut Vec<u8>, key: Key, value: &[u8]) {
        if body.last() != Some(&b'[') {
            body.push(b',');
        }
        body.extend_from_slice(b"{\"table\":");
        body.extend_from_slice(self.table.as_bytes());
        body.extend_from_slice(b",\"key\":\"");
        key.write(body);
        body.extend_from_slice(b"\",\"op\":\"update\",\"value\":");
        body.extend_from_slice(value);
        body.push(b'}');
    }

    /// Ends the body of a batch.
    pub fn end_batch(&self, body: &mut Vec<u8>) {
        body.push(b']');
    }
}

fn write_length(out: &mut Vec<u8>, length: usize) {
    out.extend_from_slice(b"Content-Type: application/json\r\nContent-Length: ");
    write_number(out, length as u64);
    out.extend_from_slice(b"\r\n\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&Requests, &mut Vec<u8>)) -> String {
        // What a request before it left in the buffer must not show.
        let mut out = b"left over".to_vec();
        write(&Requests::new("localhost:7070", "0xBE7C"), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_get_names_its_row() {
        assert_eq!(
            written(|requests, out| requests.get(out, Key::Spread(42))),
            "GET /table/0xBE7C?key=k00000000042 HTTP/1.1\r\nHost: localhost:7070\r\n\r\n"
        );
    }

    #[test]
    fn a_put_carries_its_value_and_its_condition() {
        assert_eq!(
            written(|requests, out| requests.put(out, Key::Own(7), Some(1_436_030_718_013_001), b"\"v\"")),
            "PUT /table/0xBE7C?key=c00000000007 HTTP/1.1\r\nHost: localhost:7070\r\n\
             Condition-TxClock: 1436030718013001\r\nContent-Type: application/json\r\nContent-Length: 3\r\n\r\n\"v\""
        );
        assert!(
            !written(|requests, out| requests.put(out, Key::Own(7), None, b"1"))
                .contains("Condition-TxClock")
        );
    }

    #[test]
    fn a_scan_asks_for_lines() {
        assert_eq!(
            written(|requests, out| requests.scan(out)),
            "GET /table/0xBE7C HTTP/1.1\r\nHost: localhost:7070\r\nAccept: application/x-ndjson\r\n\r\n"
        );
    }

    #[test]
    fn a_batch_is_json_with_one_update_per_row() {
        let request = written(|requests, out| {
            let mut body = b"left over".to_vec();
            requests.begin_batch(&mut body);
            requests.add_to_batch(&mut body, Key::Spread(1), b"\"a\"");
            requests.add_to_batch(&mut body, Key::Spread(2), b"\"b\"");
            requests.end_batch(&mut body);
            requests.batch(out, &body);
        });
        let (head, body) = request.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("POST /batch-write HTTP/1.1\r\n"), "{head}");
        assert!(head.ends_with(&format!("Content-Length: {}", body.len())), "{head}");
        let rows: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(
            rows,
            serde_json::json!([
                {"table": "0xBE7C", "key": "k00000000001", "op": "update", "value": "a"},
                {"table": "0xBE7C", "key": "k00000000002", "op": "update", "value": "b"},
            ])
        );
    }

    #[test]
    fn a_table_name_cannot_break_out_of_its_place() {
        let requests = Requests::new("h", "a b\"/ü\r\n");
        let mut out = Vec::new();
        requests.scan(&mut out);
        assert!(out.starts_with(b"GET /table/a%20b%22%2F%C3%BC%0D%0A HTTP/1.1\r\n"));
        let mut body = Vec::new();
        requests.begin_batch(&mut body);
        requests.add_to_batch(&mut body, Key::Spread(0), b"1");
        requests.end_batch(&mut body);
        let rows: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(rows[0]["table"], "a b\"/ü\r\n");
    }

    #[test]
    fn numbers_are_written_in_decimal() {
        for number in [0, 9, 10, 12_345, u64::MAX] {
            let mut out = Vec::new();
            write_number(&mut out, number);
            assert_eq!(String::from_utf8(out).unwrap(), number.to_string());
        }
    }
}
