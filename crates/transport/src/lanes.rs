//! What waits to be written on one connection, and which calls are under way on it. No IO, no waiting: the connection's task asks
//! [`Lanes::gather`] for the next bytes, everybody else pushes.
//!
//! Small things go before large ones, and large bodies take turns chunk by chunk, so a heartbeat waits for one batch at most.
//! Posts are one line, in order.

use crate::wire::{CHUNK_BYTES_MAX, Frame, HEAD_BYTES, Status};
use bytes::{Bytes, BytesMut};
use std::collections::{BTreeMap, VecDeque};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// Bodies up to this go before larger ones.
pub(crate) const SMALL_BYTES_MAX: usize = 4 << 10;
/// How much is gathered for one write.
pub(crate) const BATCH_BYTES: usize = 128 << 10;

/// How a call of ours ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Done(Bytes),
    /// An encoded failure.
    Failed(Bytes),
    /// The other end did not take it.
    NotTaken(String),
    /// The connection ended first; `sent` tells whether all of the request had been given to it.
    Lost {
        sent: bool,
        why: String,
    },
    /// It came and could not be held.
    TooLarge {
        bytes: u32,
    },
}

/// What a stream of ours brings.
#[derive(Debug)]
pub(crate) enum Arrival {
    Item(Bytes),
    End(Answer),
}

/// Who waits for a call of ours.
pub(crate) enum Waiter {
    Request(oneshot::Sender<Answer>),
    /// `room`: what the callee may still send, as it knows or is about to hear.
    Stream {
        arrivals: mpsc::UnboundedSender<Arrival>,
        room: i64,
    },
}

/// A call of ours.
struct Call {
    begun: bool,
    sent: bool,
    waiter: Waiter,
}

/// A call of theirs.
pub(crate) struct Serving {
    pub(crate) abort: AbortHandle,
    /// Of the caller's body.
    pub(crate) bytes: usize,
    /// What a stream may still send.
    pub(crate) credit: i64,
    /// Wakes the stream when there is credit again.
    pub(crate) waits: Option<oneshot::Sender<()>>,
}

/// What a message is, but for its body.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Request { id: u64, service: u8, deadline: Instant },
    Stream { id: u64, service: u8, credit: u32 },
    Reply { id: u64, status: Status },
    Item { id: u64 },
}

/// A body on its way out.
struct Message {
    kind: Kind,
    body: Bytes,
    /// How much of it is written; all of a small body at once.
    at: usize,
    begun: bool,
    /// Told when the last of it is written.
    done: Option<oneshot::Sender<()>>,
}

/// Frames without a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Control {
    Cancel(u64),
    Credit(u64, u32),
    Ping,
    Pong,
    Retired,
}

/// The connection has ended, or takes nothing new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ended;

/// See the module.
#[derive(Default)]
pub(crate) struct Lanes {
    ended: bool,
    control: VecDeque<Control>,
    posts: VecDeque<Bytes>,
    /// How much of the first post is written.
    post_at: usize,
    posts_bytes: usize,
    small: VecDeque<Message>,
    bulk: VecDeque<Message>,
    /// Bodies of replies and items in `small` and `bulk`.
    answer_bytes: usize,
    /// Requests of ours in `small` and `bulk`.
    starts: usize,
    calls: BTreeMap<u64, Call>,
    next_id: u64,
    serving: BTreeMap<u64, Serving>,
    /// Bodies of what is served.
    serving_bytes: usize,
    retiring: Retiring,
    /// Something was posted here once, so who follows has to wait for `Retired`.
    pub(crate) ever_posted: bool,
    /// Counts what is more than a sign of life.
    pub(crate) activity: u64,
}

/// How far the two ends have agreed to end the connection in good order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Retiring {
    /// We start nothing new.
    pub(crate) wanted: bool,
    /// We said so, behind all that we had started.
    pub(crate) said: bool,
    /// They said so.
    pub(crate) heard: bool,
    /// They have taken all that we posted.
    pub(crate) confirmed: bool,
}

impl Lanes {
    /// Whether new things may be started here.
    pub(crate) fn takes(&self) -> bool {
        !self.ended && !self.retiring.wanted && !self.retiring.heard
    }

    pub(crate) fn retiring(&self) -> Retiring {
        self.retiring
    }

    /// Starts nothing new from now on.
    pub(crate) fn retire(&mut self) {
        self.retiring.wanted = true;
    }

    /// The other end starts nothing new, and what it posted has been taken.
    pub(crate) fn heard_retire(&mut self) {
        self.retiring.heard = true;
        self.retiring.wanted = true;
        self.control.push_back(Control::Retired);
    }

    pub(crate) fn heard_retired(&mut self) {
        self.retiring.confirmed = true;
    }

    pub(crate) fn control(&mut self, control: Control) {
        if !self.ended {
            self.control.push_back(control);
        }
    }

    /// Bytes of posts that wait.
    pub(crate) fn posts_bytes(&self) -> usize {
        self.posts_bytes
    }

    pub(crate) fn post(&mut self, bytes: Bytes) -> Result<(), Ended> {
        if !self.takes() {
            return Err(Ended);
        }
        self.ever_posted = true;
        self.activity += 1;
        self.posts_bytes += bytes.len();
        self.posts.push_back(bytes);
        Ok(())
    }

    /// Starts a call; gives its ID.
    pub(crate) fn call(
        &mut self,
        body: Bytes,
        waiter: Waiter,
        kind: impl FnOnce(u64) -> Kind,
    ) -> Result<u64, Ended> {
        if !self.takes() {
            return Err(Ended);
        }
        self.activity += 1;
        self.next_id += 1;
        let id = self.next_id;
        self.calls.insert(id, Call { begun: false, sent: false, waiter });
        self.starts += 1;
        self.push(kind(id), body, None);
        Ok(id)
    }

    /// Gives a call of ours up. `Some(sent)` if it was still under way.
    pub(crate) fn take_back(&mut self, id: u64) -> Option<bool> {
        let call = self.calls.remove(&id)?;
        if call.begun {
            self.control.push_back(Control::Cancel(id));
        }
        Some(call.sent)
    }

    /// The reader of a stream of ours has taken `bytes`.
    pub(crate) fn grant(&mut self, id: u64, bytes: u32) {
        if let Some(Call { waiter: Waiter::Stream { room, .. }, .. }) = self.calls.get_mut(&id) {
            *room += i64::from(bytes);
            self.control(Control::Credit(id, bytes));
        }
    }

    /// An answer to a call of ours begins: whether anybody waits for it.
    pub(crate) fn awaits(&self, id: u64) -> bool {
        self.calls.contains_key(&id)
    }

    /// An item begins. `None`: nobody waits for it; `Some(false)`: it comes without credit.
    pub(crate) fn item(&mut self, id: u64, cost: i64) -> Option<bool> {
        match &mut self.calls.get_mut(&id)?.waiter {
            Waiter::Request(_) => Some(false),
            Waiter::Stream { room, .. } if *room <= 0 => Some(false),
            Waiter::Stream { room, .. } => {
                *room -= cost;
                Some(true)
            }
        }
    }

    /// An item is whole.
    pub(crate) fn deliver(&mut self, id: u64, item: Bytes) {
        self.activity += 1;
        if let Some(Call { waiter: Waiter::Stream { arrivals, .. }, .. }) = self.calls.get(&id) {
            // A reader that is gone takes its call back itself.
            let _ = arrivals.send(Arrival::Item(item));
        }
    }

    /// A call of ours has ended.
    pub(crate) fn settle(&mut self, id: u64, answer: Answer) {
        self.activity += 1;
        if let Some(call) = self.calls.remove(&id) {
            call.waiter.tell(answer);
        }
    }

    /// How many calls of theirs are served or answered, and what their bodies hold.
    pub(crate) fn served(&self) -> (usize, usize) {
        (self.serving.len(), self.serving_bytes)
    }

    /// A call of theirs begins. False if one with the ID is under way, which is their fault; it is not served then.
    pub(crate) fn serve(&mut self, id: u64, serving: Serving) -> bool {
        self.activity += 1;
        if self.ended || self.serving.contains_key(&id) {
            serving.abort.abort();
            return self.ended;
        }
        self.serving_bytes += serving.bytes;
        self.serving.insert(id, serving);
        true
    }

    /// A call of theirs is taken back: its handler is stopped.
    pub(crate) fn cancel(&mut self, id: u64) {
        self.forget(id, |serving| serving.abort.abort());
    }

    /// A call of theirs has been answered; false if it was taken back before.
    pub(crate) fn finish(&mut self, id: u64) -> bool {
        self.forget(id, |_| {})
    }

    fn forget(&mut self, id: u64, then: impl FnOnce(Serving)) -> bool {
        let Some(serving) = self.serving.remove(&id) else { return false };
        self.serving_bytes -= serving.bytes;
        then(serving);
        true
    }

    /// The credit of a stream of theirs, to read or change.
    pub(crate) fn serving(&mut self, id: u64) -> Option<&mut Serving> {
        self.serving.get_mut(&id)
    }

    /// Answers a call of theirs.
    pub(crate) fn reply(&mut self, id: u64, status: Status, body: Bytes) {
        if !self.ended {
            self.push(Kind::Reply { id, status }, body, None);
        }
    }

    /// Sends an item of a stream of theirs. A large one tells `done` when it is written, and nothing more may be sent for
    /// the stream before.
    pub(crate) fn send_item(&mut self, id: u64, body: Bytes, done: Option<oneshot::Sender<()>>) {
        if !self.ended {
            self.push(Kind::Item { id }, body, done);
        }
    }

    fn push(&mut self, kind: Kind, body: Bytes, done: Option<oneshot::Sender<()>>) {
        if matches!(kind, Kind::Reply { .. } | Kind::Item { .. }) {
            self.answer_bytes += body.len();
        }
        let small = body.len() <= SMALL_BYTES_MAX;
        let message = Message { kind, body, at: 0, begun: false, done };
        if small { self.small.push_back(message) } else { self.bulk.push_back(message) }
    }

    /// Whether more answers wait than the other end may make us hold.
    pub(crate) fn clogged(&self, calls_max: usize, bytes_max: usize) -> bool {
        8 * calls_max < self.small.len() + self.bulk.len() + self.control.len()
            || bytes_max < self.answer_bytes
    }

    /// Everything that was to be said on a retired connection has been said.
    pub(crate) fn finished(&self) -> bool {
        self.retiring.said
            && self.retiring.heard
            && self.calls.is_empty()
            && self.serving.is_empty()
            && self.control.is_empty()
            && self.small.is_empty()
            && self.bulk.is_empty()
    }

    /// Whether nobody has any use for the connection now, but for posts.
    pub(crate) fn idle(&self) -> bool {
        self.calls.is_empty() && self.serving.is_empty() && self.posts.is_empty()
    }

    /// Whether the writer should have a look: there is something to write, or the connection may have nothing to stay for.
    pub(crate) fn wants_writing(&self) -> bool {
        self.retiring.wanted
            || !self.control.is_empty()
            || !self.posts.is_empty()
            || !self.small.is_empty()
            || !self.bulk.is_empty()
    }

    /// Appends what is to be written next, some [`BATCH_BYTES`]. Nothing: there is nothing.
    pub(crate) fn gather(&mut self, out: &mut BytesMut, checksummed: bool, now: Instant) {
        while out.len() < BATCH_BYTES {
            let Some(control) = self.control.pop_front() else { break };
            let frame = match control {
                Control::Cancel(id) => Frame::Cancel { id },
                Control::Credit(id, bytes) => Frame::Credit { id, bytes },
                Control::Ping => Frame::Ping,
                Control::Pong => Frame::Pong,
                Control::Retired => Frame::Retired,
            };
            frame.encode(out, checksummed);
        }
        while out.len() < BATCH_BYTES {
            let posted = self.gather_post(out, checksummed);
            let Some(message) = self.small.pop_front() else {
                if posted {
                    continue;
                }
                break;
            };
            self.gather_message(message, out, checksummed, now);
        }
        // One chunk of a large body goes with every batch, however much small there is.
        loop {
            let Some(message) = self.bulk.pop_front() else { break };
            if let Some(rest) = self.gather_message(message, out, checksummed, now) {
                self.bulk.push_back(rest);
            }
            if BATCH_BYTES <= out.len() {
                break;
            }
        }
        if self.retiring.wanted && !self.retiring.said && self.posts.is_empty() && self.starts == 0 {
            self.retiring.said = true;
            Frame::Retire.encode(out, checksummed);
        }
    }

    fn gather_post(&mut self, out: &mut BytesMut, checksummed: bool) -> bool {
        let Some(post) = self.posts.front() else { return false };
        let end = post.len().min(self.post_at + CHUNK_BYTES_MAX);
        let more = end < post.len();
        Frame::Post { more, chunk: &post[self.post_at..end] }.encode(out, checksummed);
        self.post_at = end;
        if !more {
            self.posts_bytes -= post.len();
            self.post_at = 0;
            self.posts.pop_front();
        }
        true
    }

    /// Appends the next part of a message and gives the message back if that was not the last.
    fn gather_message(
        &mut self,
        mut message: Message,
        out: &mut BytesMut,
        checksummed: bool,
        now: Instant,
    ) -> Option<Message> {
        let end = message.body.len().min(message.at + CHUNK_BYTES_MAX);
        let (chunk, total) = (&message.body[message.at..end], message.body.len() as u32);
        let last = end == message.body.len();
        let begun = message.begun;
        let frame = match message.kind {
            Kind::Request { id, .. } | Kind::Stream { id, .. } => {
                if last {
                    self.starts -= 1;
                }
                let Some(call) = self.calls.get_mut(&id) else {
                    // Taken back; if it had begun, `Cancel` was said.
                    self.starts -= usize::from(!last);
                    return None;
                };
                call.begun = true;
                call.sent = last;
                match message.kind {
                    _ if begun => Frame::CallPart { id, chunk },
                    Kind::Stream { service, credit, .. } => {
                        Frame::Stream { id, total, service, credit, chunk }
                    }
                    Kind::Request { service, deadline, .. } => {
                        let left = deadline.saturating_duration_since(now).as_millis();
                        let millis = u32::try_from(left).unwrap_or(u32::MAX);
                        Frame::Request { id, total, service, millis, chunk }
                    }
                    Kind::Reply { .. } | Kind::Item { .. } => return None,
                }
            }
            Kind::Reply { id, .. } | Kind::Item { id } if begun => Frame::ReplyPart { id, chunk },
            Kind::Reply { id, status } => Frame::Reply { id, total, status, chunk },
            Kind::Item { id } => Frame::Item { id, total, chunk },
        };
        out.reserve(HEAD_BYTES + 64 + chunk.len());
        frame.encode(out, checksummed);
        message.at = end;
        message.begun = true;
        if !last {
            return Some(message);
        }
        if matches!(message.kind, Kind::Reply { .. } | Kind::Item { .. }) {
            self.answer_bytes -= message.body.len();
        }
        if let Some(done) = message.done.take() {
            // A stream that is gone does not care.
            let _ = done.send(());
        }
        None
    }

    /// The connection has ended: everybody who waits is told `why`, handlers are stopped, and nothing more is taken.
    pub(crate) fn end(&mut self, why: &str) {
        self.ended = true;
        for (_, call) in std::mem::take(&mut self.calls) {
            call.waiter.tell(Answer::Lost { sent: call.sent, why: why.to_owned() });
        }
        for (_, serving) in std::mem::take(&mut self.serving) {
            serving.abort.abort();
        }
        self.serving_bytes = 0;
        self.control.clear();
        self.posts.clear();
        self.posts_bytes = 0;
        self.small.clear();
        self.bulk.clear();
        self.answer_bytes = 0;
        self.starts = 0;
    }
}

impl Waiter {
    fn tell(self, answer: Answer) {
        // Nobody left to hear it is fine.
        match self {
            Waiter::Request(waiter) => drop(waiter.send(answer)),
            Waiter::Stream { arrivals, .. } => drop(arrivals.send(Arrival::End(answer))),
        }
    }
}

#[cfg(test)]
mod tests;
