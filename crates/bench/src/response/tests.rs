use super::*;
use crate::rng::Rng;

/// Heads and bodies of the answers that were complete.
type Answers = Vec<(Head, Vec<u8>)>;

/// Reads `stream` cut into the given pieces, as a connection would: what is not consumed stays and grows.
fn read_all<'a>(
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> Result<(Answers, ResponseReader), ResponseError> {
    let mut reader = ResponseReader::new();
    let (mut pending, mut answers, mut body) = (Vec::new(), Vec::new(), Vec::new());
    for piece in pieces {
        pending.extend_from_slice(piece);
        loop {
            let (used, head) = reader.feed(&pending, &mut |bytes| body.extend_from_slice(bytes))?;
            pending.drain(..used);
            match head {
                Some(head) => answers.push((head, std::mem::take(&mut body))),
                None => break,
            }
        }
    }
    Ok((answers, reader))
}

fn read_one(stream: &[u8]) -> Result<(Head, Vec<u8>), ResponseError> {
    let (mut answers, _) = read_all([stream])?;
    assert_eq!(answers.len(), 1, "{}", String::from_utf8_lossy(stream));
    Ok(answers.remove(0))
}

const TWO: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nValue-TxClock: 1436030718013001\r\n\
    content-length: 7\r\n\r\n\"hello\"\
    HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n4\r\nabcd\r\n10;x=\"y\"\r\n0123456789ABCDEF\r\n\
    0\r\nTrailer: t\r\n\r\n";

#[test]
fn answers_read_the_same_however_the_network_cuts_them() {
    let (whole, _) = read_all([TWO]).unwrap();
    assert_eq!(whole.len(), 2);
    assert_eq!(whole[0].0, Head { status: 200, value_tx_clock: Some(1_436_030_718_013_001), reusable: true });
    assert_eq!(whole[0].1, b"\"hello\"");
    assert_eq!(whole[1].1, b"abcd0123456789ABCDEF");
    for at in 1..TWO.len() {
        assert_eq!(read_all([&TWO[..at], &TWO[at..]]).unwrap().0, whole, "cut at {at}");
    }
    assert_eq!(read_all(TWO.chunks(1)).unwrap().0, whole, "byte by byte");
}

#[test]
fn answers_without_a_body_end_with_their_head() {
    for head in [
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 20\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    ] {
        let (_, body) = read_one(head.as_bytes()).unwrap();
        assert_eq!(body, b"", "{head}");
    }
}

#[test]
fn an_interim_answer_is_passed_over() {
    let stream = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\nok";
    let (head, body) = read_one(stream).unwrap();
    assert_eq!((head.status, body), (201, b"ok".to_vec()));
}

#[test]
fn a_server_that_closes_is_not_asked_again() {
    let (head, _) =
        read_one(b"HTTP/1.1 503 Busy\r\nConnection: x, Close\r\nContent-Length: 0\r\n\r\n").unwrap();
    assert_eq!((head.status, head.reusable), (503, false));
    let (head, _) = read_one(b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
    assert!(!head.reusable);
}

#[test]
fn a_body_without_length_ends_with_the_connection() {
    let (answers, mut reader) = read_all([&b"HTTP/1.1 200 OK\r\n\r\nall of"[..], b" this"]).unwrap();
    assert!(answers.is_empty());
    let head = reader.finish().unwrap().unwrap();
    assert_eq!((head.status, head.reusable), (200, false));
}

#[test]
fn an_answer_cut_short_is_an_error_and_silence_is_not() {
    assert_eq!(ResponseReader::new().finish(), Ok(None));
    for stream in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
    ] {
        let (answers, mut reader) = read_all([stream.as_bytes()]).unwrap();
        assert!(answers.is_empty());
        assert_eq!(reader.finish(), Err(ResponseError::CutShort));
    }
}

#[test]
fn heads_that_could_be_read_two_ways_are_refused() {
    for (headers, error) in [
        ("Content-Length: 1\r\nContent-Length: 2\r\n", ResponseError::Length),
        ("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n", ResponseError::Length),
        ("Content-Length: -1\r\n", ResponseError::Length),
        ("Content-Length: \r\n", ResponseError::Length),
        ("Content-Length: 99999999999999999999\r\n", ResponseError::Length),
        ("Transfer-Encoding: gzip\r\n", ResponseError::Coding),
        ("Transfer-Encoding: gzip, chunked\r\n", ResponseError::Coding),
    ] {
        let stream = format!("HTTP/1.1 200 OK\r\n{headers}\r\nx");
        assert_eq!(read_all([stream.as_bytes()]).unwrap_err(), error, "{headers}");
    }
}

#[test]
fn malformed_chunks_are_refused() {
    for chunks in
        ["\r\n", "g\r\n", "2\r\nabc\r\n", "2\r\nab\rx", "-1\r\n", "1111111111111111\r\n", "1x\r\na\r\n"]
    {
        let stream = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
        assert_eq!(read_all([stream.as_bytes()]).unwrap_err(), ResponseError::Chunk, "{chunks:?}");
    }
}

#[test]
fn what_never_ends_is_refused() {
    let head = [b"HTTP/1.1 200 OK\r\nX: ".as_slice(), &vec![b'a'; HEAD_BYTES_MAX]].concat();
    assert_eq!(read_all([&head[..]]).unwrap_err(), ResponseError::HeadTooLong);
    let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".as_slice();
    let extension = [chunked, b"1;", &vec![b'a'; 20_000]].concat();
    assert_eq!(read_all([&extension[..]]).unwrap_err(), ResponseError::Chunk);
    let trailers = [chunked, b"0\r\n", b"a: b\r\n".repeat(5000).as_slice()].concat();
    assert_eq!(read_all([&trailers[..]]).unwrap_err(), ResponseError::Chunk);
}

#[test]
fn garbage_never_panics() {
    let mut rng = Rng::new(42, 0);
    for _ in 0..3000 {
        // A real stream with a few bytes replaced gets further in than noise alone.
        let mut stream = TWO.to_vec();
        for _ in 0..=rng.below(4) {
            let at = rng.below(stream.len() as u64) as usize;
            stream[at] = rng.next_u64() as u8;
        }
        let cut = rng.below(stream.len() as u64) as usize;
        if let Ok((answers, mut reader)) = read_all([&stream[..cut], &stream[cut..]]) {
            let bytes: usize = answers.iter().map(|(_, body)| body.len()).sum();
            assert!(bytes <= stream.len());
            let _ = reader.finish();
        }
    }
}
