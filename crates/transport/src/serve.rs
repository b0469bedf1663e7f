//! The callee's side of one request or stream: a task that runs the handler and sends what it gives.

use crate::api::{Chunks, Failure};
use crate::arrivals::ITEM_COST;
use crate::conn::Conn;
use crate::hello::cut;
use crate::lanes::SMALL_BYTES_MAX;
use crate::wire::Status;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use std::sync::Arc;
use tokio::sync::oneshot;

/// The code of a [`Failure`] whose handler broke.
pub const HANDLER_BROKE: u16 = u16::MAX;

/// How many bytes of small chunks of one stream wait to be written.
const UNWRITTEN_BYTES_MAX: usize = 64 << 10;

/// Texts and details of failures are cut here, together; a failure that long is no help to anybody.
const FAILURE_BYTES_MAX: usize = 1 << 20;

impl Failure {
    pub(crate) fn encode(&self) -> Bytes {
        let text = cut(&self.text, FAILURE_BYTES_MAX);
        let detail = &self.detail[..self.detail.len().min(FAILURE_BYTES_MAX - text.len())];
        let mut bytes = BytesMut::with_capacity(6 + text.len() + detail.len());
        bytes.put_u16_le(self.code);
        bytes.put_u32_le(text.len() as u32);
        bytes.put_slice(text.as_bytes());
        bytes.put_slice(detail);
        bytes.freeze()
    }

    /// Any bytes give a failure: the other end has failed, whatever it says about it.
    pub(crate) fn decode(mut bytes: Bytes) -> Failure {
        if bytes.len() < 6 {
            return Failure { code: HANDLER_BROKE, text: "failed without words".into(), detail: bytes };
        }
        let (code, len) = (bytes.get_u16_le(), bytes.get_u32_le() as usize);
        let text = bytes.split_to(len.min(bytes.len()));
        Failure { code, text: String::from_utf8_lossy(&text).into_owned(), detail: bytes }
    }
}

/// Answers for a handler that panics.
struct Broken<'a> {
    conn: &'a Conn,
    id: u64,
}

impl Drop for Broken<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let text = "the handler of the request broke; the other end's log tells more".into();
            let failure = Failure { code: HANDLER_BROKE, text, detail: Bytes::new() };
            finish(self.conn, self.id, Err(failure));
        }
    }
}

fn finish(conn: &Conn, id: u64, result: Result<Bytes, Failure>) {
    let max = conn.limits.body_bytes_max;
    let (status, body) = match result {
        Ok(body) if max < body.len() => {
            let text = format!("the answer has {} bytes; at most {max} can be sent", body.len());
            (Status::Failed, Failure { code: HANDLER_BROKE, text, detail: Bytes::new() }.encode())
        }
        Ok(body) => (Status::Done, body),
        Err(failure) => (Status::Failed, failure.encode()),
    };
    conn.with(|lanes| {
        if lanes.finish(id) {
            lanes.reply(id, status, body);
        }
    });
}

/// Waits for the handler's answer and sends it.
pub(crate) async fn request(conn: Arc<Conn>, id: u64, answer: BoxFuture<'static, Result<Bytes, Failure>>) {
    let broken = Broken { conn: &conn, id };
    let result = answer.await;
    drop(broken);
    finish(&conn, id, result);
}

/// Pulls the handler's chunks as fast as the caller's credit and the connection allow, one at a time.
pub(crate) async fn stream(conn: Arc<Conn>, id: u64, mut chunks: Chunks<Failure>) {
    let _broken = Broken { conn: &conn, id };
    // Given to the connection since it was last known to be written: a caller may give any credit and read nothing.
    let mut unwritten = 0;
    loop {
        loop {
            let (tell, told) = oneshot::channel();
            {
                let mut lanes = conn.lanes();
                let Some(serving) = lanes.serving(id) else { return };
                if 0 < serving.credit {
                    break;
                }
                serving.waits = Some(tell);
            }
            if told.await.is_err() {
                return;
            }
        }
        let item = match chunks.next().await {
            Some(Ok(item)) if item.len() <= conn.limits.body_bytes_max => item,
            Some(Ok(item)) => {
                let (len, max) = (item.len(), conn.limits.body_bytes_max);
                let text = format!("a chunk of the stream has {len} bytes; at most {max} can be sent");
                return finish(&conn, id, Err(Failure { code: HANDLER_BROKE, text, detail: Bytes::new() }));
            }
            Some(Err(failure)) => return finish(&conn, id, Err(failure)),
            None => return finish(&conn, id, Ok(Bytes::new())),
        };
        // Small items keep their order among themselves; a large one must be out before anything follows it.
        let (done, written) = oneshot::channel();
        unwritten += item.len() + ITEM_COST as usize;
        let wait = SMALL_BYTES_MAX < item.len() || UNWRITTEN_BYTES_MAX < unwritten;
        let alive = conn.with(|lanes| {
            let Some(serving) = lanes.serving(id) else { return false };
            serving.credit -= item.len() as i64 + ITEM_COST;
            lanes.send_item(id, item, wait.then_some(done));
            true
        });
        if !alive || (wait && written.await.is_err()) {
            return;
        }
        if wait {
            unwritten = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_read_as_written_and_any_bytes_are_a_failure() {
        let failure = Failure { code: 7, text: "näh".into(), detail: Bytes::from_static(b"more") };
        let bytes = failure.encode();
        assert_eq!(Failure::decode(bytes.clone()), failure);
        for end in 0..bytes.len() {
            // Neither may panic, and neither is an answer.
            let _ = Failure::decode(bytes.slice(..end)).to_string();
        }
    }

    #[test]
    fn an_endless_text_is_cut() {
        let failure = Failure { code: 1, text: "ü".repeat(1 << 20), detail: Bytes::from(vec![0; 1 << 20]) };
        let read = Failure::decode(failure.encode());
        assert_eq!(read.text.len() + read.detail.len(), FAILURE_BYTES_MAX);
    }
}
