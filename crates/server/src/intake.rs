//! Reading the body of a request: never more than its limit, never more than the memory there is, and not for ever.

use crate::config::ServerConfig;
use crate::memory::Permit;
use crate::problem::{Answer, Kind, Problem};
use bytes::Bytes;
use std::pin::pin;
use std::time::Duration;

/// The slowest body we wait for, beyond `body_timeout`: bytes in one second.
const BODY_BYTES_PER_SECOND_MIN: usize = 64 << 10;
/// What is set aside for a body at once on its sender's word; the rest is made room for as it arrives.
const BODY_BYTES_TRUSTED: usize = 256 << 10;

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

/// Reads a whole body.
pub(crate) async fn read_body<B>(config: &ServerConfig, body: B, limit: BodyLimit) -> Answer<Intake>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: std::fmt::Display,
{
    let declared = body.size_hint().exact();
    if declared.is_some_and(|length| (limit.bytes_max as u64) < length) {
        return Err(limit.exceeded());
    }
    let budget = &config.memory;
    let no_room = || {
        Problem::overloaded(
            "Requests under way hold all the memory that they may; nothing was written. Try again later.",
            Duration::from_secs(1),
        )
        .closing()
    };
    let mut permit = budget.try_reserve(0).ok_or_else(no_room)?;
    let mut body = pin!(body);
    let mut first = Bytes::new();
    let mut gathered: Vec<u8> = Vec::new();
    let mut received = 0usize;
    let started = std::time::Instant::now();
    loop {
        let frame = std::future::poll_fn(|cx| body.as_mut().poll_frame(cx));
        // The timer costs nothing unless the frame is not there yet.
        let frame = match tokio::time::timeout(config.body_timeout, frame).await {
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
        if limit.bytes_max - received < data.len() {
            return Err(limit.exceeded());
        }
        if !permit.try_grow(data.len()) {
            return Err(no_room());
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
        }
        gathered.extend_from_slice(&data);
        let allowed =
            config.body_timeout + Duration::from_secs((received / BODY_BYTES_PER_SECOND_MIN) as u64);
        if allowed < started.elapsed() {
            return Err(slow(received));
        }
    }
    let bytes = if gathered.is_empty() { first } else { Bytes::from(gathered) };
    Ok(Intake { bytes, _permit: permit })
}

fn slow(received: usize) -> Box<Problem> {
    Problem::new(
        Kind::SlowRequest,
        format!("The body stopped or crawled after {received} bytes; nothing was written. Send it again."),
    )
    .closing()
}
