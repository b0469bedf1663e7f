//! Reads HTTP/1.1 answers from whatever pieces the network cuts them into, and keeps none of their bytes.

/// Longest answer head (status line and headers) in bytes.
pub const HEAD_BYTES_MAX: usize = 16 << 10;
/// Most headers in one answer.
const HEADERS_MAX: usize = 64;
/// Longest trailer section, and longest chunk extension, in bytes.
const LINE_BYTES_MAX: u64 = 16 << 10;

/// Why bytes from the server are not an answer we can read. The connection is of no further use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResponseError {
    /// The head does not parse as HTTP/1.1.
    #[error("the answer's head is malformed: {0}")]
    Head(httparse::Error),
    /// The head is longer than [`HEAD_BYTES_MAX`].
    #[error("the answer's head is longer than {HEAD_BYTES_MAX} bytes")]
    HeadTooLong,
    /// `Content-Length` is no number, given twice differently, or given beside `Transfer-Encoding`.
    #[error("the answer's length is ambiguous")]
    Length,
    /// A transfer coding other than `chunked`.
    #[error("the answer has a transfer coding other than chunked")]
    Coding,
    /// A chunk's size or end is not where it should be.
    #[error("the answer's chunks are malformed")]
    Chunk,
    /// The connection ended inside an answer.
    #[error("the answer was cut short")]
    CutShort,
}

/// What the head of an answer said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// HTTP status.
    pub status: u16,
    /// `Value-TxClock`, when there was one that is a decimal number.
    pub value_tx_clock: Option<u64>,
    /// Whether the connection may carry another request.
    pub reusable: bool,
}

/// Where in a body we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Body {
    /// This many bytes are left.
    Length(u64),
    /// All that comes until the connection ends.
    UntilClose,
    /// In a chunk's size; `digits` of it so far.
    ChunkSize { size: u64, digits: u8 },
    /// Behind a chunk's size, up to the line's end.
    ChunkExtension { size: u64, bytes: u64 },
    /// In a chunk's data.
    ChunkData(u64),
    /// At the line end behind a chunk's data; `cr` once its first half was seen.
    ChunkEnd { cr: bool },
    /// In the trailers: `line` bytes into the current line (a CR not counted), `bytes` in all.
    Trailers { line: u64, bytes: u64 },
    /// Nothing is left.
    Done,
}

/// Reads one answer after the other.
///
/// Fed pieces of the stream in order. Bytes it does not consume have to be fed again, with more behind them:
/// a head is only looked at when it is whole.
#[derive(Debug)]
pub struct ResponseReader {
    head: Option<Head>,
    body: Body,
}

impl Default for ResponseReader {
    fn default() -> Self {
        Self::new()
    }
}

impl ResponseReader {
    /// Ready for an answer's first byte.
    pub fn new() -> Self {
        ResponseReader { head: None, body: Body::Done }
    }

    /// Takes `input`, passes pieces of the body to `sink`, and tells how many bytes were consumed.
    ///
    /// Gives the head once the answer is complete; the reader is then ready for the next one, and what was not
    /// consumed belongs to it. `None` asks for more bytes.
    pub fn feed(
        &mut self,
        input: &[u8],
        sink: &mut impl FnMut(&[u8]),
    ) -> Result<(usize, Option<Head>), ResponseError> {
        let mut used = 0;
        let head = loop {
            if let Some(head) = self.head {
                break head;
            }
            let Some((bytes, head, body)) = parse_head(&input[used..])? else { return Ok((used, None)) };
            used += bytes;
            // An interim answer (100, 103) only announces the real one.
            if head.status >= 200 {
                self.head = Some(head);
                self.body = body;
            }
        };
        used += self.body.feed(&input[used..], sink)?;
        if self.body != Body::Done {
            return Ok((used, None));
        }
        self.head = None;
        Ok((used, Some(head)))
    }

    /// The connection ended after all that was fed: the answer whose end this is, if it may end so.
    ///
    /// `None` when no answer had begun.
    pub fn finish(&mut self) -> Result<Option<Head>, ResponseError> {
        match (self.head.take(), self.body) {
            (None, _) => Ok(None),
            (Some(head), Body::UntilClose) => {
                self.body = Body::Done;
                Ok(Some(head))
            }
            (Some(_), _) => Err(ResponseError::CutShort),
        }
    }
}

/// Parses a head at the start of `input`: its bytes, what it said, and the body that follows.
fn parse_head(input: &[u8]) -> Result<Option<(usize, Head, Body)>, ResponseError> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let bytes = match response.parse(input).map_err(ResponseError::Head)? {
        httparse::Status::Complete(bytes) if bytes <= HEAD_BYTES_MAX => bytes,
        httparse::Status::Partial if input.len() <= HEAD_BYTES_MAX => return Ok(None),
        _ => return Err(ResponseError::HeadTooLong),
    };
    // A complete parse has both.
    let (Some(status), Some(minor)) = (response.code, response.version) else {
        return Err(ResponseError::Head(httparse::Error::Status));
    };
    let mut length = None;
    let mut chunked = false;
    let mut value_tx_clock = None;
    let mut reusable = minor >= 1;
    for header in response.headers.iter() {
        // Compared by length first: most headers are none of ours.
        match header.name.len() {
            14 if header.name.eq_ignore_ascii_case("content-length") => {
                let this = decimal(header.value).ok_or(ResponseError::Length)?;
                if length.is_some_and(|other| other != this) {
                    return Err(ResponseError::Length);
                }
                length = Some(this);
            }
            17 if header.name.eq_ignore_ascii_case("transfer-encoding") => {
                if chunked || !header.value.trim_ascii().eq_ignore_ascii_case(b"chunked") {
                    return Err(ResponseError::Coding);
                }
                chunked = true;
            }
            13 if header.name.eq_ignore_ascii_case("value-txclock") => {
                value_tx_clock = decimal(header.value);
            }
            10 if header.name.eq_ignore_ascii_case("connection") => {
                for option in header.value.split(|b| *b == b',').map(<[u8]>::trim_ascii) {
                    if option.eq_ignore_ascii_case(b"close") {
                        reusable = false;
                    }
                }
            }
            _ => {}
        }
    }
    let body = match (status, chunked, length) {
        (..=199 | 204 | 304, _, _) => Body::Done,
        (_, true, Some(_)) => return Err(ResponseError::Length),
        (_, true, None) => Body::ChunkSize { size: 0, digits: 0 },
        (_, false, Some(0)) => Body::Done,
        (_, false, Some(length)) => Body::Length(length),
        (_, false, None) => {
            reusable = false;
            Body::UntilClose
        }
    };
    Ok(Some((bytes, Head { status, value_tx_clock, reusable }, body)))
}

fn decimal(text: &[u8]) -> Option<u64> {
    let text = text.trim_ascii();
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |number, byte| {
        byte.is_ascii_digit().then_some(())?;
        number.checked_mul(10)?.checked_add(u64::from(byte - b'0'))
    })
}

impl Body {
    /// Consumes body bytes and tells how many; all of `input` unless the body ends in it.
    fn feed(&mut self, input: &[u8], sink: &mut impl FnMut(&[u8])) -> Result<usize, ResponseError> {
        let mut used = 0;
        while used < input.len() && *self != Body::Done {
            let rest = &input[used..];
            // Data goes in one piece, all that is between data byte by byte.
            if let Body::Length(left) | Body::ChunkData(left) = *self {
                let bytes = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
                sink(&rest[..bytes]);
                used += bytes;
                let left = left - bytes as u64;
                *self = match (*self, left) {
                    (Body::ChunkData(_), 0) => Body::ChunkEnd { cr: false },
                    (Body::ChunkData(_), left) => Body::ChunkData(left),
                    (_, 0) => Body::Done,
                    (_, left) => Body::Length(left),
                };
            } else if *self == Body::UntilClose {
                sink(rest);
                used = input.len();
            } else {
                *self = self.step(rest[0])?;
                used += 1;
            }
        }
        Ok(used)
    }

    /// One byte of what is between the data of a chunked body.
    fn step(self, byte: u8) -> Result<Body, ResponseError> {
        Ok(match (self, byte) {
            (Body::ChunkSize { size, digits }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                if digits == 15 {
                    return Err(ResponseError::Chunk);
                }
                // The range above holds hexadecimal digits only.
                let digit = (byte as char).to_digit(16).unwrap_or(0);
                Body::ChunkSize { size: size << 4 | u64::from(digit), digits: digits + 1 }
            }
            (Body::ChunkSize { digits: 0, .. }, _) => return Err(ResponseError::Chunk),
            (Body::ChunkSize { size, .. }, b'\r' | b';' | b' ' | b'\t') => {
                Body::ChunkExtension { size, bytes: 0 }
            }
            (Body::ChunkExtension { size: 0, .. }, b'\n') => Body::Trailers { line: 0, bytes: 0 },
            (Body::ChunkExtension { size, .. }, b'\n') => Body::ChunkData(size),
            (Body::ChunkExtension { size, bytes }, _) if bytes < LINE_BYTES_MAX => {
                Body::ChunkExtension { size, bytes: bytes + 1 }
            }
            (Body::ChunkEnd { cr: false }, b'\r') => Body::ChunkEnd { cr: true },
            (Body::ChunkEnd { cr: true }, b'\n') => Body::ChunkSize { size: 0, digits: 0 },
            (Body::Trailers { line: 0, .. }, b'\n') => Body::Done,
            (Body::Trailers { bytes, .. }, b'\n') if bytes < LINE_BYTES_MAX => {
                Body::Trailers { line: 0, bytes: bytes + 1 }
            }
            (Body::Trailers { line, bytes }, b'\r') if bytes < LINE_BYTES_MAX => {
                Body::Trailers { line, bytes: bytes + 1 }
            }
            (Body::Trailers { line, bytes }, _) if bytes < LINE_BYTES_MAX => {
                Body::Trailers { line: line + 1, bytes: bytes + 1 }
            }
            _ => return Err(ResponseError::Chunk),
        })
    }
}

#[cfg(test)]
mod tests;
