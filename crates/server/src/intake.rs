//! Reading the body of a request: never more than its limit, never more than the memory there is, and not for ever.

use crate::config::ServerConfig;
use crate::memory::Permit;
use crate::problem::{Answer, Kind, Problem};
use bytes::Bytes;
use http_body::Frame;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::time::{Duration, Instant};

/// The slowest body we wait for, beyond `body_timeout`: bytes in one second.
const BODY_BYTES_PER_SECOND_MIN: usize = 64 << 10;
/// What is set aside for a body at once on its sender's word; the rest is made room for as it arrives.
const BODY_BYTES_TRUSTED: usize = 256 << 10;

/// How much of a refused body is read and forgotten, so that its sender gets to hear why.
const DISCARD_BYTES_MAX: usize = 128 << 20;
/// For how long.
const DISCARD_TIME_MAX: Duration = Duration::from_secs(5);

/// A body read whole, and the memory that is reserved for it until this is dropped.
#[derive(Debug)]
pub(crate) struct Intake {
    pub(crate) bytes: Bytes,
    _permit: Permit,
}

/// What a body is called and how long it may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BodyLimit {
    /// For the message: "A value".
    pub(crate) what: &'static str,
    pub(crate) bytes_max: usize,
}

impl BodyLimit {
    fn exceeded(self) -> Box<Problem> {
        Problem::too_large(self.what, self.bytes_max, "bytes").closing()
    }
}

/// Reads a whole body. `expects_continue` says that the client does not send it before it is asked to.
pub(crate) async fn read_body<B>(
    config: &ServerConfig,
    body: B,
    limit: BodyLimit,
    expects_continue: bool,
) -> Answer<Intake>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: std::fmt::Display,
{
    let mut body = pin!(body);
    let declared = body.size_hint().exact();
    if declared.is_some_and(|length| (limit.bytes_max as u64) < length) {
        if !expects_continue {
            discard(body).await;
        }
        return Err(limit.exceeded());
    }
    let Some(mut permit) = config.memory.try_reserve(0) else {
        return Err(no_room());
    };
    let mut first = Bytes::new();
    let mut gathered: Vec<u8> = Vec::new();
    let mut received = 0usize;
    let started = Instant::now();
    loop {
        // The timer costs nothing unless the frame is not there yet.
        let frame = match tokio::time::timeout(config.body_timeout, next_frame(body.as_mut())).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(None) => break,
            Ok(Some(Err(why))) => {
                return Err(Problem::bad_request(format!(
                    "The body broke off after {received} bytes: {why}. Nothing was written."
                ))
                .closing());
            }
            Err(_) => return Err(slow(received)),
        };
        let Ok(data) = frame.into_data() else {
            continue; // Trailers mean nothing to us.
        };
        let too_long = limit.bytes_max - received < data.len();
        if too_long || !permit.try_grow(data.len()) {
            let refused = if too_long { limit.exceeded() } else { no_room() };
            // What was read so far is of no use any more, and others may need its place.
            drop((data, first, gathered, permit));
            discard(body).await;
            return Err(refused);
        }
        received += data.len();
        if first.is_empty() && gathered.is_empty() {
            first = data; // A small body is this one piece, and is not copied.
            continue;
        }
        if gathered.is_empty() {
            let expected = declared.map_or(0, |n| (n as usize).min(BODY_BYTES_TRUSTED));
            gathered.reserve(expected.max(first.len() + data.len()));
            gathered.extend_from_slice(&first);
            first = Bytes::new();
        } else if gathered.capacity() - gathered.len() < data.len()
            && let Some(length) = declared
        {
            // Its sender has earned trust by now. Room for all of it costs nothing until it is filled; growing
            // by doubling would for a moment hold three times what was received.
            gathered.reserve_exact((length as usize).saturating_sub(gathered.len()));
        }
        gathered.extend_from_slice(&data);
        let earned = Duration::from_secs((received / BODY_BYTES_PER_SECOND_MIN) as u64);
        if config.body_timeout + earned < started.elapsed() {
            return Err(slow(received));
        }
    }
    let bytes = if gathered.is_empty() { first } else { Bytes::from(gathered) };
    Ok(Intake { bytes, _permit: permit })
}

async fn next_frame<B: http_body::Body>(mut body: Pin<&mut B>) -> Option<Result<Frame<B::Data>, B::Error>> {
    poll_fn(|cx| body.as_mut().poll_frame(cx)).await
}

/// Reads and forgets the rest of a body, within reason. Most clients listen only once they have sent everything, and
/// would take a connection closed before for a failed one instead of seeing why they were refused.
async fn discard<B: http_body::Body<Data = Bytes>>(mut body: Pin<&mut B>) {
    let all = async {
        let mut left = DISCARD_BYTES_MAX;
        while let Some(Ok(frame)) = next_frame(body.as_mut()).await {
            let len = frame.data_ref().map_or(0, Bytes::len);
            match left.checked_sub(len) {
                Some(less) => left = less,
                None => break,
            }
        }
    };
    // In the end the connection is closed either way.
    let _ = tokio::time::timeout(DISCARD_TIME_MAX, all).await;
}

fn no_room() -> Box<Problem> {
    Problem::overloaded(
        "Requests under way hold all the memory that they may; nothing was written. Try again later.",
        Duration::from_secs(1),
    )
    .closing()
}

fn slow(received: usize) -> Box<Problem> {
    Problem::new(
        Kind::SlowRequest,
        format!("The body stopped or crawled after {received} bytes; nothing was written. Send it again."),
    )
    .closing()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryBudget;
    use http_body_util::{Full, StreamBody};
    use std::convert::Infallible;

    const LIMIT: BodyLimit = BodyLimit { what: "A value", bytes_max: 10 };

    fn config(memory: usize) -> ServerConfig {
        ServerConfig { memory: MemoryBudget::new(memory), ..ServerConfig::default() }
    }

    /// A body in pieces whose length is not known beforehand.
    fn pieces(pieces: &[&'static [u8]]) -> impl http_body::Body<Data = Bytes, Error = Infallible> + use<> {
        let frames: Vec<_> = pieces.iter().map(|p| Ok(Frame::data(Bytes::from_static(p)))).collect();
        StreamBody::new(futures_util::stream::iter(frames))
    }

    /// A body of 11 bytes that nobody may read: hyper would then say 100 Continue.
    struct Unasked;

    impl http_body::Body for Unasked {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            panic!("the body was read")
        }

        fn size_hint(&self) -> http_body::SizeHint {
            http_body::SizeHint::with_exact(11)
        }
    }

    #[tokio::test]
    async fn a_body_in_pieces_is_put_together_and_counted() {
        let config = config(100);
        let intake = read_body(&config, pieces(&[b"ab", b"", b"cde", b"f"]), LIMIT, false).await.unwrap();
        assert_eq!((&intake.bytes[..], config.memory.used()), (&b"abcdef"[..], 6));
        drop(intake);
        assert_eq!(config.memory.used(), 0);
    }

    #[tokio::test]
    async fn a_body_in_one_piece_is_not_copied() {
        let bytes = Bytes::from(vec![7; 10]);
        let intake = read_body(&config(100), Full::new(bytes.clone()), LIMIT, false).await.unwrap();
        assert_eq!(intake.bytes.as_ptr(), bytes.as_ptr());
    }

    #[tokio::test]
    async fn a_body_past_the_limit_is_refused_whether_or_not_it_said_its_length() {
        let config = config(100);
        let declared = read_body(&config, Full::new(Bytes::from(vec![7; 11])), LIMIT, false).await;
        assert_eq!(declared.unwrap_err().kind, Kind::TooLarge);
        let streamed = read_body(&config, pieces(&[b"12345", b"678901"]), LIMIT, false).await;
        assert_eq!(streamed.unwrap_err().kind, Kind::TooLarge);
        assert_eq!(config.memory.used(), 0);
    }

    #[tokio::test]
    async fn a_client_that_waits_to_be_asked_is_refused_without_being_asked() {
        assert_eq!(read_body(&config(100), Unasked, LIMIT, true).await.unwrap_err().kind, Kind::TooLarge);
    }

    #[tokio::test]
    async fn a_body_that_the_memory_cannot_hold_is_turned_away() {
        let config = config(8);
        let refused = read_body(&config, pieces(&[b"12345", b"6789"]), LIMIT, false).await;
        assert_eq!(refused.unwrap_err().kind, Kind::Overloaded);
        assert_eq!(config.memory.used(), 0);
    }

    #[tokio::test]
    async fn a_body_that_stops_is_given_up() {
        let config = ServerConfig { body_timeout: Duration::from_millis(1), ..config(100) };
        let stopped = StreamBody::new(futures_util::stream::pending::<Result<Frame<Bytes>, Infallible>>());
        assert_eq!(read_body(&config, stopped, LIMIT, false).await.unwrap_err().kind, Kind::SlowRequest);
    }
}
