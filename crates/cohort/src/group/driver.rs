//! When to send heartbeats and when to campaign. Raft's own ticks wake every replica many times a second; here a follower
//! sleeps until its leader is overdue.

use super::Timing;
use crate::clock::locked;
use crate::machine::Machine;
use crate::raft::Raft;
use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::Duration;
use tokio::time::Instant;

/// Random numbers from one seed (SplitMix64, Steele et al. 2014).
pub(super) struct Luck(u64);

impl Luck {
    pub(super) fn new(seed: u64) -> Luck {
        Luck(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A moment within `spread`.
    fn within(&mut self, spread: Duration) -> Duration {
        spread.mul_f64((self.next() >> 11) as f64 / (1u64 << 53) as f64)
    }
}

/// What a follower goes by.
pub(super) struct Heard {
    /// The last word of a leader, and the last vote given to a candidate.
    last: Mutex<(Option<Instant>, Option<Instant>)>,
    /// Until then nobody gets this replica's vote, itself included.
    bound_until: Option<Instant>,
}

impl Heard {
    /// `bound`: how long promises of an earlier run may still hold.
    pub(super) fn new(bound: Option<Duration>) -> Heard {
        Heard { last: Mutex::new((None, None)), bound_until: bound.map(|bound| Instant::now() + bound) }
    }

    /// The leader said something.
    pub(super) fn leader(&self) {
        locked(&self.last).0 = Some(Instant::now());
    }

    /// A candidate got this replica's vote.
    pub(super) fn candidate(&self) {
        locked(&self.last).1 = Some(Instant::now());
    }

    /// Whether promises of an earlier run may still hold.
    pub(super) fn is_bound(&self) -> bool {
        self.bound_until.is_some_and(|until| Instant::now() < until)
    }

    /// When to campaign at the earliest.
    fn free_from(&self, timing: &Timing) -> Option<Instant> {
        let (leader, candidate) = *locked(&self.last);
        let leader = leader.map(|at| at + timing.lease);
        // Whoever got the vote is given a moment to make something of it.
        let candidate = candidate.map(|at| at + timing.campaign_spread / 2);
        leader.max(candidate).max(self.bound_until)
    }
}

pub(super) struct Driver<M: Machine> {
    pub(super) life: skein_model::LifeId,
    pub(super) raft: Raft<M>,
    pub(super) timing: Timing,
    pub(super) beats_from: Instant,
    pub(super) heard: std::sync::Arc<Heard>,
    pub(super) luck: Luck,
}

impl<M: Machine> Driver<M> {
    /// Runs until Raft has stopped.
    pub(super) async fn run(mut self) {
        let mut server = self.raft.server_metrics();
        // Drawn anew for each campaign, so that replicas that collided once part.
        let mut patience = self.luck.within(self.timing.campaign_spread);
        let started = Instant::now();
        let mut campaigned: Option<Instant> = None;
        let mut next_beat = started;
        loop {
            let (state, alone, voter) = {
                let server = server.borrow_and_update();
                let voters: BTreeSet<u64> = server.membership_config.voter_ids().collect();
                let voter = voters.contains(&self.life.0);
                (server.state, voter && voters.len() == 1, voter)
            };
            let now = Instant::now();
            let wake = match state {
                ServerState::Shutdown => return,
                ServerState::Leader if alone => None,
                ServerState::Leader => {
                    if next_beat <= now {
                        next_beat = beat_after(self.beats_from, self.timing.heartbeat, now);
                        if self.raft.trigger().heartbeat().await.is_err() {
                            return;
                        }
                    }
                    Some(next_beat)
                }
                _ if alone || voter => {
                    let again = campaigned.map(|at| at + self.timing.campaign_spread);
                    let due = if alone {
                        // The only voter asks nobody, and nobody else can have been elected.
                        again.unwrap_or(now)
                    } else {
                        self.heard.free_from(&self.timing).max(again).unwrap_or(started) + patience
                    };
                    if due <= now {
                        campaigned = Some(now);
                        patience = self.luck.within(self.timing.campaign_spread);
                        if self.raft.trigger().elect(!alone).await.is_err() {
                            return;
                        }
                    }
                    // A campaign just begun is given its time.
                    Some(due.max(now + self.timing.campaign_spread / 8))
                }
                _ => None,
            };
            tokio::select! {
                biased;
                changed = server.changed() => if changed.is_err() { return },
                () = sleep_until(wake) => {}
            }
        }
    }
}

/// The first beat later than `now` of those that follow each other every `period` from `origin` on.
fn beat_after(origin: Instant, period: Duration, now: Instant) -> Instant {
    let since = now.saturating_duration_since(origin).as_nanos();
    let period = period.as_nanos().max(1);
    // What is left of the period fits, as the period did.
    now + Duration::from_nanos(u64::try_from(period - since % period).unwrap_or(u64::MAX))
}

async fn sleep_until(wake: Option<Instant>) {
    match wake {
        Some(wake) => tokio::time::sleep_until(wake).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_that_begin_at_different_moments_beat_together() {
        let (origin, period) = (Instant::now(), Duration::from_millis(300));
        let at = |millis| origin + Duration::from_millis(millis);
        for now in [0, 1, 150, 299] {
            assert_eq!(beat_after(origin, period, at(now)), at(300), "after {now} ms");
        }
        assert_eq!(beat_after(origin, period, at(300)), at(600));
        // A group that is older than the process's origin waits no longer than others.
        assert_eq!(beat_after(at(1000), period, at(10)), at(310));
    }
}
