//! The two signals that ask a command to end.

use crate::trouble::Exit;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGINT and SIGTERM, from the moment this is made.
#[derive(Debug)]
pub struct Stops {
    /// `None` if the system refuses to tell us; then their default action stays in force.
    signals: Option<(Signal, Signal)>,
}

impl Stops {
    /// Begins to listen; needs a runtime.
    pub fn listen() -> Stops {
        let signals = signal(SignalKind::interrupt())
            .and_then(|interrupt| signal(SignalKind::terminate()).map(|terminate| (interrupt, terminate)));
        Stops { signals: signals.ok() }
    }

    /// Waits for the next of them and says with which code a process that obeys at once would exit.
    pub async fn next(&mut self) -> Exit {
        let Some((interrupt, terminate)) = &mut self.signals else {
            return std::future::pending().await;
        };
        tokio::select! {
            _ = interrupt.recv() => Exit::Interrupted,
            _ = terminate.recv() => Exit::Terminated,
        }
    }
}
