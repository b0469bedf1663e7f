//! Taking connections, and telling the owner who could not be reached.

use crate::greet::{self, Refused};
use crate::network::{Io, Listener};
use crate::refusal::{By, Reason};
use crate::switchboard::Switchboard;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// Wait after a failure to take a connection: most likely there are no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Counts a connection that has not said who it is.
struct HalfOpen(Arc<Switchboard>);

impl HalfOpen {
    fn new(board: &Arc<Switchboard>) -> Option<HalfOpen> {
        let mut state = board.state();
        if board.options.limits.half_open_max <= state.half_open {
            return None;
        }
        state.half_open += 1;
        Some(HalfOpen(board.clone()))
    }
}

impl Drop for HalfOpen {
    fn drop(&mut self) {
        self.0.state().half_open -= 1;
    }
}

/// Takes connections until everything stops. `_ended` is dropped behind the listener: arguments are, last first.
pub(crate) async fn listen(
    board: Arc<Switchboard>,
    _ended: watch::Sender<()>,
    mut listener: Box<dyn Listener>,
) {
    let mut stopped = board.stopped.subscribe();
    loop {
        let accepted = tokio::select! {
            biased;
            _ = stopped.wait_for(|stopped| *stopped) => return,
            accepted = listener.accept() => accepted,
        };
        let (io, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                let text = format!("taking a connection failed: {error}");
                board.refusals.note(By::Us, Reason::Other, board.share, &text);
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(half_open) = HalfOpen::new(&board) else {
            let max = board.options.limits.half_open_max;
            let text = format!("{max} connections have not said yet who they are");
            board.refusals.note(By::Us, Reason::Full, from, &text);
            continue;
        };
        let board = board.clone();
        tokio::spawn(async move { greet(board, io, from, half_open).await });
    }
}

async fn greet(board: Arc<Switchboard>, io: Box<dyn Io>, from: SocketAddr, half_open: HalfOpen) {
    let mut stopped = board.stopped.subscribe();
    let patience = board.options.timeouts.handshake;
    let greeted = tokio::select! {
        biased;
        _ = stopped.wait_for(|stopped| *stopped) => return,
        greeted = timeout(patience, greet::listen(&board, io)) => greeted,
    };
    let mut greeted = match greeted {
        Ok(Ok(greeted)) => greeted,
        Ok(Err(Refused { by, reason, text })) => return board.refusals.note(by, reason, from, &text),
        Err(_) => {
            let text = format!("it did not say who it is within {patience:?}");
            return board.refusals.note(By::Us, Reason::Slow, from, &text);
        }
    };
    drop(half_open);
    let conn = greeted.conn(&board, greeted.accepted(), 0);
    if let Err((reason, text)) = board.register(&conn) {
        // The other end counts it as connected, so it is told in a frame.
        greeted.refuse_late(reason, &text, patience).await;
        return board.refusals.note(By::Us, reason, from, &text);
    }
    board.run(&conn, greeted).await;
}

/// Tells the owner who could not be reached, until everything stops.
pub(crate) async fn announce(board: Arc<Switchboard>) {
    let mut stopped = board.stopped.subscribe();
    loop {
        tokio::select! {
            biased;
            _ = stopped.wait_for(|stopped| *stopped) => return,
            () = board.unreached_wake.notified() => {}
        }
        let Some(handler) = board.handler() else { return };
        for (addr, why) in board.take_unreached() {
            handler.unreachable(addr, why);
        }
    }
}
