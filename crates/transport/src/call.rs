//! The caller's side of requests and streams.

use crate::api::{CallError, Chunks, Failure};
use crate::arrivals::ITEM_COST;
use crate::conn::Conn;
use crate::lanes::{Answer, Arrival, Kind, Waiter};
use crate::switchboard::Switchboard;
use bytes::Bytes;
use futures_util::stream;
use skein_model::HostId;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

/// A call that is under way: dropping it takes it back.
struct Ticket {
    conn: Arc<Conn>,
    id: u64,
    /// Freed for the next call when this one is no more.
    _permit: OwnedSemaphorePermit,
}

impl Ticket {
    /// Takes the call back; whether all of it was given to the connection. `None`: it has been answered.
    fn take_back(&self) -> Option<bool> {
        self.conn.with(|lanes| lanes.take_back(self.id))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.take_back();
    }
}

/// The words for errors, by whom was asked.
#[derive(Clone, Copy)]
struct Asked(HostId);

impl Asked {
    fn not_sent(self, why: impl Into<String>) -> CallError {
        CallError::NotSent { peer: self.0, why: why.into() }
    }

    fn no_answer(self, why: impl Into<String>) -> CallError {
        CallError::NoAnswer { peer: self.0, why: why.into() }
    }

    fn result(self, answer: Answer) -> Result<Bytes, CallError> {
        match answer {
            Answer::Done(bytes) => Ok(bytes),
            Answer::Failed(bytes) => Err(CallError::Failed(Failure::decode(bytes))),
            Answer::NotTaken(why) => Err(self.not_sent(format!("it did not take the request: {why}"))),
            Answer::Lost { sent: false, why } => {
                Err(self.not_sent(format!("the connection was lost: {why}")))
            }
            Answer::Lost { sent: true, why } => {
                Err(self.no_answer(format!("the connection was lost: {why}")))
            }
            Answer::TooLarge { bytes } => {
                Err(self
                    .no_answer(format!("an answer of {bytes} bytes cannot be held; others may be arriving")))
            }
        }
    }
}

/// Starts a call on the connection to a host, opening one if there is none.
async fn start(
    board: &Arc<Switchboard>,
    to: HostId,
    body: &Bytes,
    deadline: Instant,
    mut waiter: impl FnMut() -> Waiter,
    kind: impl Fn(u64) -> Kind,
) -> Result<Ticket, CallError> {
    let asked = Asked(to);
    let max = board.options.limits.body_bytes_max;
    if max < body.len() {
        return Err(
            asked.not_sent(format!("the request has {} bytes; at most {max} can be sent", body.len()))
        );
    }
    if to == board.options.identity.host {
        return Err(asked.not_sent("it is this host"));
    }
    if deadline <= Instant::now() {
        return Err(asked.not_sent("no time was left for it"));
    }
    loop {
        let conn = board.reach(to, deadline).await.map_err(|why| asked.not_sent(why))?;
        let permit = match conn.permits.clone().try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => match timeout_at(deadline, conn.permits.clone().acquire_owned()).await {
                Ok(Ok(permit)) => permit,
                // The connection has ended meanwhile; perhaps there is another.
                Ok(Err(_)) => continue,
                Err(_) => {
                    let max = board.options.limits.calls_max;
                    return Err(asked.not_sent(format!("{max} requests were under way all the time")));
                }
            },
        };
        if let Ok(id) = conn.with(|lanes| lanes.call(body.clone(), waiter(), &kind)) {
            return Ok(Ticket { conn, id, _permit: permit });
        }
    }
}

/// See `Transport::request`.
pub(crate) async fn request(
    board: Arc<Switchboard>,
    to: HostId,
    service: u8,
    body: Bytes,
    deadline: Instant,
) -> Result<Bytes, CallError> {
    let asked = Asked(to);
    let mut answer = None;
    let waiter = || {
        let (tell, told) = oneshot::channel();
        answer = Some(told);
        Waiter::Request(tell)
    };
    let ticket =
        start(&board, to, &body, deadline, waiter, |id| Kind::Request { id, service, deadline }).await?;
    let Some(answer) = answer else { return Err(asked.not_sent("it was not started")) };
    // Not kept twice while we wait.
    drop(body);
    match timeout_at(deadline, answer).await {
        Ok(Ok(answer)) => asked.result(answer),
        Ok(Err(_)) => Err(asked.no_answer("the connection is gone")),
        Err(_) => match ticket.take_back() {
            Some(false) => Err(asked.not_sent("the connection was too slow to send it in time")),
            _ => Err(asked.no_answer("no answer in time")),
        },
    }
}

/// Where the reader of a stream stands.
enum Reading {
    Unasked { board: Arc<Switchboard>, from: HostId, service: u8, body: Bytes },
    Open(Open),
    Ended,
}

struct Open {
    asked: Asked,
    ticket: Ticket,
    arrivals: mpsc::UnboundedReceiver<Arrival>,
    /// Taken, and not yet given back as credit.
    taken: i64,
    window: i64,
}

/// See `Transport::stream`.
pub(crate) fn stream(board: Arc<Switchboard>, from: HostId, service: u8, body: Bytes) -> Chunks<CallError> {
    let start = Reading::Unasked { board, from, service, body };
    Box::pin(stream::unfold(start, |mut reading| async move {
        loop {
            let mut open = match reading {
                Reading::Ended => return None,
                Reading::Open(open) => open,
                Reading::Unasked { board, from, service, body } => {
                    match ask(board, from, service, body).await {
                        Ok(open) => open,
                        Err(error) => return Some((Err(error), Reading::Ended)),
                    }
                }
            };
            return match open.arrivals.recv().await {
                Some(Arrival::Item(item)) => {
                    open.took(item.len());
                    Some((Ok(item), Reading::Open(open)))
                }
                Some(Arrival::End(answer)) => match open.asked.result(answer) {
                    Ok(_) => {
                        reading = Reading::Ended;
                        continue;
                    }
                    Err(error) => Some((Err(error), Reading::Ended)),
                },
                None => Some((Err(open.asked.no_answer("the connection is gone")), Reading::Ended)),
            };
        }
    }))
}

async fn ask(board: Arc<Switchboard>, from: HostId, service: u8, body: Bytes) -> Result<Open, CallError> {
    // Nobody has to wait longer than an attempt to connect takes; the stream itself has no deadline.
    let timeouts = &board.options.timeouts;
    let deadline = Instant::now() + timeouts.connect + timeouts.handshake;
    let credit = board.options.limits.stream_window_bytes;
    let window = i64::from(credit);
    let mut receiver = None;
    let waiter = || {
        let (arrivals, taken) = mpsc::unbounded_channel();
        receiver = Some(taken);
        Waiter::Stream { arrivals, room: window }
    };
    let ticket =
        start(&board, from, &body, deadline, waiter, |id| Kind::Stream { id, service, credit }).await?;
    let asked = Asked(from);
    let Some(arrivals) = receiver else { return Err(asked.not_sent("it was not started")) };
    Ok(Open { asked, ticket, arrivals, taken: 0, window })
}

impl Open {
    /// Gives credit for what was taken, not for every little thing.
    fn took(&mut self, bytes: usize) {
        self.taken += bytes as i64 + ITEM_COST;
        if self.window / 4 <= self.taken {
            let credit = u32::try_from(self.taken).unwrap_or(u32::MAX);
            self.ticket.conn.with(|lanes| lanes.grant(self.ticket.id, credit));
            self.taken -= i64::from(credit);
        }
    }
}
