//! The knobs of the broadcasts, with the defaults that measured best.

use std::time::Duration;

/// What an origin's first broadcast, or the first after its tree was forgotten, starts from at a peer that has no
/// place in its tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Push to every neighbour; whoever gets it twice prunes. Plumtree's own start: quick, and costs a payload per
    /// link and direction.
    Flood,
    /// Push along one tree that all unknown origins share and mend, as Plumtree has for everything.
    Shared,
    /// Push to every neighbour for the first `eager_hops` links, where hardly anyone gets it twice. Beyond, a short
    /// announcement runs ahead through every link; each peer grafts to the first neighbour that announces it, so that
    /// the tree of quickest paths is there before the payload, which follows a round trip behind.
    Scout {
        /// Links that the payload is pushed along at first, 0 to 4: with a views of 5, four links reach some 400 peers.
        eager_hops: u8,
    },
}

/// What the trees are kept by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keying {
    /// A tree for each run of each origin.
    Origin,
    /// A tree for each last peers that a message passed, 1 to 4 of them: "the path is the key", asked for by the first
    /// users' page. Kept to be measured beside [`Keying::Origin`]; all peers have to agree.
    LastPeers(u8),
}

/// Every knob of the broadcasts.
#[derive(Clone, Debug)]
pub struct Config {
    /// What an unknown origin starts from.
    pub start: Start,
    /// What trees are kept by.
    pub keying: Keying,
    /// Most trees kept, 16 to 1024; 16 bytes each. With [`Keying::LastPeers`] of k and d links: (d - 1)ᵏ or more.
    pub trees_max: usize,
    /// Most runs of origins whose past broadcasts are remembered, 256 to 65 536; 44 bytes each. More origins than this
    /// within [`Config::keep_for`] and a late copy may be delivered again.
    pub origins_max: usize,
    /// How long an announcement waits for others to share its message, 0 to 100 ms.
    pub announce_after: Duration,
    /// How long an announced message is awaited from the parent before it is grafted elsewhere: more than paths differ
    /// by when all is well, 50 ms to 1 s. At 200 ms some peers behind a peer slow by 500 ms find no quicker way in time
    /// with the first message, and wait again with the second.
    pub graft_after: Duration,
    /// How long an answer to a graft is awaited before another is asked; more than a round trip, 100 ms to 3 s. Doubles
    /// each time all were asked.
    pub graft_again: Duration,
    /// How long a message is asked for, 5 s to 5 min.
    pub give_up_after: Duration,
    /// How much sooner than the parent another link has to be to count as quicker, 1 to 100 ms.
    pub quicker_by: Duration,
    /// How often in a row it has to be before it becomes the parent, 1 to 10.
    pub quicker_times: u8,
    /// How much sooner than the parent another link has to be to become the parent at once, 10 to 500 ms: more than a
    /// link's latency changes from message to message.
    pub much_quicker_by: Duration,
    /// Payloads kept for grafts: bytes, at least a few of the longest (256 KiB and more).
    pub keep_bytes_max: usize,
    /// Payloads kept for grafts: how many, 64 to 4096.
    pub keep_count_max: usize,
    /// Payloads kept for grafts: how long, 10 s to 5 min; as long as a partition may last and its two sides still learn
    /// from each other what they missed.
    pub keep_for: Duration,
    /// Most announced messages awaited at once, 256 to 16 384; 40 bytes each while it lasts.
    pub wanted_max: usize,
    /// Of these, most that one neighbour was first to announce.
    pub wanted_share: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            start: Start::Scout { eager_hops: 2 },
            keying: Keying::Origin,
            trees_max: 64,
            origins_max: 1024,
            announce_after: Duration::from_millis(20),
            graft_after: Duration::from_millis(100),
            graft_again: Duration::from_millis(400),
            give_up_after: Duration::from_secs(30),
            quicker_by: Duration::from_millis(8),
            quicker_times: 2,
            much_quicker_by: Duration::from_millis(40),
            keep_bytes_max: 4 << 20,
            keep_count_max: 1024,
            keep_for: Duration::from_secs(60),
            wanted_max: 4096,
            wanted_share: 2048,
        }
    }
}
