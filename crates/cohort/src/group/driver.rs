//! When to send heartbeats and when to campaign. Raft's own ticks wake every replica many times a second; here a follower
//! sleeps until its leader is overdue.

use super::Timing;
use crate::machine::Machine;
use crate::peers::Replica;
use crate::raft::Raft;
use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use std::time::Duration;

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

pub(super) struct Driver<M: Machine> {
    pub(super) me: Replica,
    pub(super) raft: Raft<M>,
    pub(super) timing: Timing,
    pub(super) luck: Luck,
}

impl<M: Machine> Driver<M> {
    /// Runs until Raft has stopped.
    pub(super) async fn run(mut self) {
        let mut server = self.raft.server_metrics();
        loop {
            let (state, alone, voter) = {
                let server = server.borrow_and_update();
                let membership = server.membership_config.membership();
                let voters: std::collections::BTreeSet<u64> = membership.voter_ids().collect();
                let voter = voters.contains(&self.me.store.0);
                (server.state, voter && voters.len() == 1, voter)
            };
            let patience = match state {
                ServerState::Shutdown => return,
                ServerState::Leader if alone => None,
                ServerState::Leader => {
                    if self.raft.trigger().heartbeat().await.is_err() {
                        return;
                    }
                    Some(self.timing.heartbeat)
                }
                _ if alone => {
                    if self.raft.trigger().elect(false).await.is_err() {
                        return;
                    }
                    Some(self.timing.lease)
                }
                _ if voter => Some(self.timing.lease + self.luck.within(self.timing.campaign_spread)),
                _ => None,
            };
            tokio::select! {
                biased;
                changed = server.changed() => if changed.is_err() { return },
                () = sleep(patience) => {}
            }
        }
    }
}

async fn sleep(patience: Option<Duration>) {
    match patience {
        Some(patience) => tokio::time::sleep(patience).await,
        None => std::future::pending().await,
    }
}
