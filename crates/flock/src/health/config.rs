//! The knobs of health.

use std::time::Duration;

/// When peers are suspected, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// How many different peers have to accuse one; 2 to 8. With 1 any peer could condemn any other. In a flock of fewer than
    /// `quorum + 1` peers nobody is ever suspected, and the owner has only its own eyes.
    pub quorum: usize,
    /// How long an accusation counts; 10 s to 2 min.
    pub window: Duration,
    /// How long a suspected peer has to refute; some broadcasts' time: 2 s to 30 s.
    pub suspected_for: Duration,
    /// How long a peer is avoided the first time; 5 s to 1 min. Twice as long each time after.
    pub avoid_first: Duration,
    /// How long at most; 1 min to 1 h.
    pub avoid_max: Duration,
    /// How long a peer counts as being tried; without accusations it is healthy after that. 10 s to 2 min.
    pub try_for: Duration,
    /// How long a peer has to be healthy until it is forgotten that it had been avoided, and that it refuted; 2 min to 1 h.
    pub forgive_after: Duration,
    /// How often a peer can refute before it is not listened to any more, until it is forgiven; 1 to 10.
    pub refutations_max: u8,
    /// How long a peer waits between its own refutations; 1 s to 1 min.
    pub refute_every: Duration,
    /// The least time between two of a peer's broadcasts about health; 500 ms to 10 s.
    pub every: Duration,
    /// Steps of the time by which peers wait for each other's word; the time a broadcast takes to most of them: 100 ms to 1 s.
    pub slot: Duration,
    /// After this many broadcasts about health within [`Config::window`], a peer puts off its own accusations; 20 to 1,000.
    pub heard_max: u32,
    /// Most hosts of whom something is kept; 64 to 4,096, at about 250 bytes each at most.
    pub hosts_max: usize,
    /// Most accusations kept for one host; from [`Config::quorum`] to 16.
    pub accusers_max: usize,
    /// Most hosts that one peer can accuse at a time; 8 to `hosts_max / 4`.
    pub each_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            quorum: 3,
            window: Duration::from_secs(30),
            suspected_for: Duration::from_secs(5),
            avoid_first: Duration::from_secs(10),
            avoid_max: Duration::from_secs(600),
            try_for: Duration::from_secs(30),
            forgive_after: Duration::from_secs(600),
            refutations_max: 3,
            refute_every: Duration::from_secs(5),
            every: Duration::from_secs(1),
            slot: Duration::from_millis(400),
            heard_max: 100,
            hosts_max: 256,
            accusers_max: 6,
            each_max: 32,
        }
    }
}
