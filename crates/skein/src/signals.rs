//! The two signals that ask a command to end.

use crate::trouble::Exit;
use tokio::signal::unix::{SignalKind, signal};

/// Waits for SIGINT or SIGTERM and says with which code a process that obeys at once would exit.
///
/// Should the system refuse to tell us of signals, it waits for ever and their default action stays in force.
pub async fn stop() -> Exit {
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => Exit::Interrupted,
        _ = terminate.recv() => Exit::Terminated,
    }
}
