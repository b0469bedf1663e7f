//! How fast snapshots leave this process: as fast as they are taken while nobody writes, and while somebody does, no
//! faster than the writers bear.
//!
//! What the writers bear is judged by the time from an entry's proposal to its application, which suffers alike when the
//! disk, the processor or the network is busy. What it usually is, is learned while nothing is copied; while something is,
//! the rate falls by a factor when entries take much longer than that, and rises step by step when they do not: the rule by
//! which TCP shares a link (Chiu and Jain, "Analysis of the Increase and Decrease Algorithms", 1989), with a
//! rise that is a factor, too, because rates worth having lie a hundredfold apart.

use super::Throttle;
use crate::clock::locked;
use futures_util::future::BoxFuture;
use metrics::{Counter, Gauge};
use std::sync::Mutex;
use std::time::Duration;
use tokio::time::Instant;

/// How fast snapshots may leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CopyRate {
    /// As fast as writers bear; at full speed while nobody writes.
    #[default]
    Adaptive,
    /// As fast as they are taken, whatever that does to others.
    Unlimited,
    /// So many bytes each second, all together, whether somebody writes or not.
    Bytes(u64),
}

/// How long entries are watched before the rate is judged anew.
const WINDOW: Duration = Duration::from_millis(100);
/// The slowest that writers can make a copy, in bytes each second: it has to end some day.
const RATE_MIN: f64 = 8e6;
/// Where a copy begins while somebody writes.
const RATE_FIRST: f64 = 32e6;
/// Beyond this there is nothing to hold back.
const RATE_MAX: f64 = 1e9;
/// Entries may take so many times as long as usual before the rate falls.
const BEARABLE: f64 = 1.4;
/// What the rate is multiplied by when entries take longer than is bearable, and when they do not.
const FALL: f64 = 0.7;
const RISE: f64 = 1.15;
/// Without a chunk for so long, nothing is being copied.
const COPYING: Duration = Duration::from_secs(2);
/// After an entry somebody counts as writing for so long.
const WRITING: Duration = Duration::from_millis(500);
/// How much a window counts in what is usual.
const LEARN: f64 = 0.1;

/// Slows all snapshots of a process down together; see the module.
#[derive(Debug)]
pub struct Pace {
    wanted: CopyRate,
    state: Mutex<State>,
    metrics: Metrics,
}

struct Metrics {
    bytes: Counter,
    waited: Gauge,
    rate: Gauge,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

#[derive(Debug)]
struct State {
    window: Option<Instant>,
    /// Entries of the window, and how long they took in all.
    entries: u32,
    took: Duration,
    /// What an entry usually takes, in seconds, while nothing is copied.
    usual: Option<f64>,
    /// The rate while somebody writes.
    rate: f64,
    last_entry: Option<Instant>,
    last_chunk: Option<Instant>,
    /// When the next chunk may leave.
    next: Option<Instant>,
}

impl Pace {
    /// A pace that nobody has set yet.
    pub fn new(wanted: CopyRate) -> Pace {
        Pace {
            wanted,
            state: Mutex::new(State {
                window: None,
                entries: 0,
                took: Duration::ZERO,
                usual: None,
                rate: RATE_FIRST,
                last_entry: None,
                last_chunk: None,
                next: None,
            }),
            metrics: Metrics {
                bytes: metrics::counter!("skein_copy_sent_bytes_total"),
                waited: metrics::gauge!("skein_copy_held_back_seconds_total"),
                rate: metrics::gauge!("skein_copy_rate_bytes"),
            },
        }
    }

    /// How long a chunk of so many bytes has to wait.
    fn charge(&self, bytes: usize, now: Instant) -> Duration {
        let mut state = locked(&self.state);
        state.look(now);
        state.last_chunk = Some(now);
        let rate = match self.wanted {
            CopyRate::Unlimited => None,
            CopyRate::Bytes(rate) => Some(rate.max(1) as f64),
            CopyRate::Adaptive => {
                let writing = state.last_entry.is_some_and(|at| now < at + WRITING);
                writing.then_some(state.rate)
            }
        };
        self.metrics.bytes.increment(bytes as u64);
        self.metrics.rate.set(rate.unwrap_or(0.0));
        let Some(rate) = rate else {
            state.next = None;
            return Duration::ZERO;
        };
        // What was not used is gone: no bursts.
        let at = state.next.unwrap_or(now).max(now);
        state.next = Some(at + Duration::from_secs_f64(bytes as f64 / rate));
        at.saturating_duration_since(now)
    }
}

impl State {
    /// Ends the window if it is over, and judges by it.
    fn look(&mut self, now: Instant) {
        let began = *self.window.get_or_insert(now);
        if now < began + WINDOW {
            return;
        }
        if 0 < self.entries {
            let took = self.took.as_secs_f64() / f64::from(self.entries);
            let copying = self.last_chunk.is_some_and(|at| now < at + COPYING);
            match self.usual {
                _ if !copying => {
                    let usual = self.usual.unwrap_or(took);
                    self.usual = Some(usual + LEARN * (took - usual));
                    self.rate = RATE_FIRST;
                }
                Some(usual) if BEARABLE * usual < took => self.rate = RATE_MIN.max(self.rate * FALL),
                Some(_) => self.rate = RATE_MAX.min(self.rate * RISE),
                // Nothing to go by: at the rate that it began with.
                None => {}
            }
        }
        (self.window, self.entries, self.took) = (Some(now), 0, Duration::ZERO);
    }
}

impl Throttle for Pace {
    fn take(&self, bytes: usize) -> BoxFuture<'static, ()> {
        let wait = self.charge(bytes, Instant::now());
        if wait.is_zero() {
            return Box::pin(std::future::ready(()));
        }
        self.metrics.waited.increment(wait.as_secs_f64());
        Box::pin(tokio::time::sleep(wait))
    }

    fn wrote(&self, took: Duration) {
        let now = Instant::now();
        let mut state = locked(&self.state);
        state.entries += 1;
        state.took += took;
        state.last_entry = Some(now);
        state.look(now);
    }
}

#[cfg(test)]
mod tests;
