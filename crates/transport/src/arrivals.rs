//! What arrives on one connection: parts become bodies, bodies go to whom they are for. Memory is bounded by
//! `Limits::inbound_bytes_max`, whatever the other end claims or sends.

use crate::api::Handler;
use crate::conn::{Conn, End};
use crate::hello::printable;
use crate::lanes::{Answer, Control, Serving};
use crate::serve;
use crate::switchboard::Switchboard;
use crate::wire::{Frame, Status};
use bytes::{Bytes, BytesMut};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

/// What one item costs of a stream's credit beyond its bytes, so that empty ones are not free.
pub(crate) const ITEM_COST: i64 = 64;

/// Room taken for a body before its bytes are there.
const AHEAD_BYTES: usize = 256 << 10;

/// See the module.
pub(crate) struct Arrivals {
    conn: Arc<Conn>,
    handler: Arc<dyn Handler>,
    board: Arc<Switchboard>,
    /// Bodies of callers that are not whole.
    calls: BTreeMap<u64, Partial<CallKind>>,
    /// Bodies of callees that are not whole.
    replies: BTreeMap<u64, Partial<ReplyKind>>,
    /// What all of them may come to.
    partial_bytes: usize,
    post: BytesMut,
}

/// A body that is not whole.
struct Partial<K> {
    kind: K,
    total: usize,
    body: BytesMut,
}

#[derive(Clone, Copy)]
enum CallKind {
    Request { service: u8, deadline: Instant },
    Stream { service: u8, credit: u32 },
}

#[derive(Clone, Copy)]
enum ReplyKind {
    Reply(Status),
    Item,
}

impl<K> Partial<K> {
    fn new(kind: K, total: u32, chunk: &[u8]) -> Partial<K> {
        let total = total as usize;
        let mut body = BytesMut::with_capacity(total.min(AHEAD_BYTES).max(chunk.len()));
        body.extend_from_slice(chunk);
        Partial { kind, total, body }
    }

    /// Adds a part; tells whether the body is whole.
    fn add(&mut self, chunk: &[u8]) -> Result<bool, End> {
        if self.total < self.body.len() + chunk.len() {
            return Err(End::Broke("sent more of a body than it had announced"));
        }
        if self.body.capacity() < self.body.len() + chunk.len() {
            self.body.reserve((self.total - self.body.len()).min(self.body.len().max(AHEAD_BYTES)));
        }
        self.body.extend_from_slice(chunk);
        Ok(self.body.len() == self.total)
    }
}

impl Arrivals {
    pub(crate) fn new(conn: Arc<Conn>, handler: Arc<dyn Handler>, board: Arc<Switchboard>) -> Arrivals {
        Arrivals {
            conn,
            handler,
            board,
            calls: BTreeMap::new(),
            replies: BTreeMap::new(),
            partial_bytes: 0,
            post: BytesMut::new(),
        }
    }

    /// Takes one frame. An error ends the connection.
    pub(crate) fn take(&mut self, frame: Frame<'_>) -> Result<(), End> {
        match frame {
            Frame::Post { more, chunk } => self.post(more, chunk)?,
            Frame::Request { id, total, service, millis, chunk } => {
                let deadline = Instant::now() + Duration::from_millis(u64::from(millis));
                self.call(id, total, chunk, CallKind::Request { service, deadline })?;
            }
            Frame::Stream { id, total, service, credit, chunk } => {
                self.call(id, total, chunk, CallKind::Stream { service, credit })?;
            }
            Frame::CallPart { id, chunk } => {
                // Of a call that was not taken, or taken back, parts may still be on their way.
                let Some(partial) = self.calls.get_mut(&id) else { return Ok(()) };
                if partial.add(chunk)?
                    && let Some(Partial { kind, total, body }) = self.calls.remove(&id)
                {
                    self.partial_bytes -= total;
                    self.serve(id, kind, body.freeze())?;
                }
            }
            Frame::Reply { id, total, status, chunk } => {
                if self.conn.lanes().awaits(id) {
                    self.reply(id, total, chunk, ReplyKind::Reply(status))?;
                }
            }
            Frame::Item { id, total, chunk } => {
                let cost = i64::from(total) + ITEM_COST;
                let awaited = self.conn.lanes().item(id, cost);
                match awaited {
                    Some(true) => self.reply(id, total, chunk, ReplyKind::Item)?,
                    Some(false) => return Err(End::Broke("sent more of a stream than it was allowed to")),
                    None => {}
                }
            }
            Frame::ReplyPart { id, chunk } => {
                let Some(partial) = self.replies.get_mut(&id) else { return Ok(()) };
                if partial.add(chunk)?
                    && let Some(Partial { kind, total, body }) = self.replies.remove(&id)
                {
                    self.partial_bytes -= total;
                    self.settle(id, kind, body.freeze());
                }
                // The caller may have given up meanwhile.
                if !self.conn.lanes().awaits(id) {
                    self.drop_reply(id);
                }
            }
            Frame::Cancel { id } => {
                if let Some(partial) = self.calls.remove(&id) {
                    self.partial_bytes -= partial.total;
                }
                self.conn.with(|lanes| lanes.cancel(id));
            }
            Frame::Credit { id, bytes } => {
                let mut lanes = self.conn.lanes();
                if let Some(serving) = lanes.serving(id) {
                    serving.credit = serving.credit.saturating_add(i64::from(bytes));
                    if let Some(waits) = serving.waits.take() {
                        // A stream that is gone does not care.
                        let _ = waits.send(());
                    }
                }
            }
            Frame::Ping => self.conn.with(|lanes| lanes.control(Control::Pong)),
            Frame::Pong => {}
            Frame::Retire => {
                if !self.post.is_empty() {
                    return Err(End::Broke("retired in the middle of a message"));
                }
                self.conn.with(|lanes| lanes.heard_retire());
                self.board.stepped_back(&self.conn);
            }
            Frame::Retired => {
                self.conn.lanes().heard_retired();
                self.board.release(&self.conn);
            }
            Frame::Refusal { reason, text } => {
                return Err(End::Refused { reason, text: printable(text) });
            }
        }
        Ok(())
    }

    fn post(&mut self, more: bool, chunk: &[u8]) -> Result<(), End> {
        if self.conn.limits.post_bytes_max < self.post.len() + chunk.len() {
            return Err(End::Broke("posted a message that is too long"));
        }
        let message = if more || !self.post.is_empty() {
            self.post.extend_from_slice(chunk);
            if more {
                return Ok(());
            }
            std::mem::take(&mut self.post).freeze()
        } else {
            Bytes::copy_from_slice(chunk)
        };
        self.conn.lanes().activity += 1;
        if !self.conn.posts_wanted.load(Ordering::Relaxed) {
            self.board.posts_wanted(&self.conn, self.conn.peer.addr);
        }
        self.handler.posted(&self.conn.peer, message);
        Ok(())
    }

    fn call(&mut self, id: u64, total: u32, chunk: &[u8], kind: CallKind) -> Result<(), End> {
        if self.calls.contains_key(&id) {
            return Err(End::Broke("used the ID of a call twice"));
        }
        let limits = &self.conn.limits;
        let bytes = total as usize;
        let (serving, serving_bytes) = self.conn.lanes().served();
        let held = self.partial_bytes.saturating_add(serving_bytes);
        let no = if limits.body_bytes_max < bytes {
            format!("a request of {total} bytes; at most {} are taken", limits.body_bytes_max)
        } else if limits.inbound_bytes_max < held.saturating_add(bytes) {
            format!("requests of this connection hold {held} bytes already; this one has {total}")
        } else if 2 * limits.calls_max <= serving + self.calls.len() {
            // Twice: those that were taken back may not have ended yet.
            format!("{} requests of this connection are under way already", serving + self.calls.len())
        } else if self.board.closing() {
            "it is closing".to_owned()
        } else if chunk.len() == bytes {
            return self.serve(id, kind, Bytes::copy_from_slice(chunk));
        } else {
            self.partial_bytes += bytes;
            self.calls.insert(id, Partial::new(kind, total, chunk));
            return Ok(());
        };
        self.conn.with(|lanes| lanes.reply(id, Status::NotTaken, no.into_bytes().into()));
        Ok(())
    }

    /// A call is whole: hands it over.
    fn serve(&mut self, id: u64, kind: CallKind, body: Bytes) -> Result<(), End> {
        let (conn, handler) = (self.conn.clone(), self.handler.clone());
        let (bytes, peer) = (body.len(), conn.peer.clone());
        self.board.metrics.served.increment(1);
        // The handler is asked before anything is locked, because it may call back; the task is spawned under the lock, or its
        // answer could be there before the call is known.
        let done = match kind {
            CallKind::Request { service, deadline } => {
                let answer = handler.request(peer, service, body, deadline);
                let mut lanes = self.conn.lanes();
                let abort = tokio::spawn(serve::request(conn, id, answer)).abort_handle();
                lanes.serve(id, Serving { abort, bytes, credit: 0, waits: None })
            }
            CallKind::Stream { service, credit } => {
                let chunks = handler.stream(peer, service, body);
                let mut lanes = self.conn.lanes();
                let abort = tokio::spawn(serve::stream(conn, id, chunks)).abort_handle();
                lanes.serve(id, Serving { abort, bytes, credit: i64::from(credit), waits: None })
            }
        };
        if done { Ok(()) } else { Err(End::Broke("used the ID of a call twice")) }
    }

    fn reply(&mut self, id: u64, total: u32, chunk: &[u8], kind: ReplyKind) -> Result<(), End> {
        if self.replies.contains_key(&id) {
            return Err(End::Broke("began an answer within another"));
        }
        let bytes = total as usize;
        if chunk.len() == bytes {
            self.settle(id, kind, Bytes::copy_from_slice(chunk));
            return Ok(());
        }
        let limits = &self.conn.limits;
        if limits.body_bytes_max < bytes
            || limits.inbound_bytes_max < self.partial_bytes.saturating_add(bytes)
        {
            // Its parts will find nobody. A stream's callee has to be told to stop, too.
            self.conn.with(|lanes| {
                lanes.control(Control::Cancel(id));
                lanes.settle(id, Answer::TooLarge { bytes: total });
            });
            return Ok(());
        }
        self.partial_bytes += bytes;
        self.replies.insert(id, Partial::new(kind, total, chunk));
        Ok(())
    }

    /// An answer or item is whole.
    fn settle(&mut self, id: u64, kind: ReplyKind, body: Bytes) {
        let answer = match kind {
            ReplyKind::Item => return self.conn.lanes().deliver(id, body),
            ReplyKind::Reply(Status::Done) => Answer::Done(body),
            ReplyKind::Reply(Status::Failed) => Answer::Failed(body),
            ReplyKind::Reply(Status::NotTaken) => {
                Answer::NotTaken(String::from_utf8_lossy(&body).chars().take(512).collect())
            }
        };
        // The writer is woken because a retired connection may have nothing to stay for now.
        self.conn.with(|lanes| lanes.settle(id, answer));
    }

    fn drop_reply(&mut self, id: u64) {
        if let Some(partial) = self.replies.remove(&id) {
            self.partial_bytes -= partial.total;
        }
    }
}
