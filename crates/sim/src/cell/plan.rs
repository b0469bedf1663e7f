//! What a seed stands for.

use super::luck::Luck;
use super::machine::Machine;
use std::collections::BTreeSet;

/// The ways in which things go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A machine loses power, and with it what was not synced.
    PowerLoss,
    /// A process is killed; what it wrote is there.
    Kill,
    /// The machine that leads a cohort loses power.
    LeaderLoss,
    /// All machines lose power at once.
    Blackout,
    /// No message passes between some peers and the others.
    Partition,
    /// As `Partition`; the links come back one by one.
    Swizzle,
    /// No message passes from one peer to another; the other way they do.
    OneWay,
    /// Messages between two peers are held back, and come all at once.
    Hold,
    /// Messages between two peers are lost now and then, which cuts what a connection still carries.
    Loss,
    /// A link is slow.
    SlowLink,
    /// A disk is slow to sync.
    SlowDisk,
    /// A disk fails to sync, once and for all for that process.
    FailingSync,
    /// A drive has no room.
    FullDisk,
    /// A wall clock jumps.
    ClockJump,
    /// A wall clock runs fast or slow.
    ClockDrift,
    /// Hosts of the atlas change; perhaps again before the first change is through, perhaps back.
    Move,
    /// A peer is asked to lead nothing for a while.
    Drain,
    /// A machine loses its disk, and comes back as new.
    Wipe,
}

impl Fault {
    /// All there are.
    pub const ALL: [Fault; 18] = [
        Fault::PowerLoss,
        Fault::Kill,
        Fault::LeaderLoss,
        Fault::Blackout,
        Fault::Partition,
        Fault::Swizzle,
        Fault::OneWay,
        Fault::Hold,
        Fault::Loss,
        Fault::SlowLink,
        Fault::SlowDisk,
        Fault::FailingSync,
        Fault::FullDisk,
        Fault::ClockJump,
        Fault::ClockDrift,
        Fault::Move,
        Fault::Drain,
        Fault::Wipe,
    ];

    /// Its name in counts and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Fault::PowerLoss => "power loss",
            Fault::Kill => "kill",
            Fault::LeaderLoss => "leader loss",
            Fault::Blackout => "blackout",
            Fault::Partition => "partition",
            Fault::Swizzle => "swizzled partition",
            Fault::OneWay => "one-way partition",
            Fault::Hold => "held messages",
            Fault::Loss => "lost messages",
            Fault::SlowLink => "slow link",
            Fault::SlowDisk => "slow disk",
            Fault::FailingSync => "failing sync",
            Fault::FullDisk => "full disk",
            Fault::ClockJump => "clock jump",
            Fault::ClockDrift => "clock drift",
            Fault::Move => "atlas put",
            Fault::Drain => "drain",
            Fault::Wipe => "wiped disk",
        }
    }
}

/// A run, as its seed draws it. Each leaves out some kinds of faults, so that the others meet situations that the missing
/// ones would have prevented (Groce et al., "Swarm Testing", 2012).
#[derive(Debug, Clone)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// How many peers there are.
    pub peers: usize,
    /// The hosts of each cohort of the first atlas, by place of their machine.
    pub atlas: Vec<BTreeSet<usize>>,
    /// Clients on each peer.
    pub clients: usize,
    /// How many rows they fight for.
    pub keys: u64,
    /// How long a client waits between two calls at most, ms.
    pub think_millis: u64,
    /// How long load and faults last, ms of simulated time.
    pub chaos_millis: u64,
    /// How long a message takes at most when all is well, ms.
    pub latency_millis: u64,
    /// Mean time between two faults, ms.
    pub pause_millis: u64,
    /// What may go wrong.
    pub faults: Vec<Fault>,
    /// Simulated time that passes between two looks at the network, ms.
    pub tick_millis: u64,
    /// How long healing may take, ms.
    pub heal_millis: u64,
}

impl Plan {
    /// The plan of a seed.
    pub fn draw(seed: u64) -> Plan {
        let mut luck = Luck::new(seed).fork("plan", 0);
        let peers = luck.between(3, 7) as usize;
        let cohorts = 1usize << luck.below(4);
        let atlas = (0..cohorts).map(|_| Plan::hosts(&mut luck, peers)).collect();
        let mut faults: Vec<Fault> = Fault::ALL.into_iter().filter(|_| !luck.one_in(3)).collect();
        if faults.is_empty() {
            faults.push(Fault::LeaderLoss);
        }
        let chaos_millis = luck.between(20, 40) * 1000;
        // So that each kind has its turn, and some have more.
        let pause_max = chaos_millis / (2 * faults.len() as u64 + 2);
        Plan {
            seed,
            peers,
            atlas,
            clients: luck.between(1, 3) as usize,
            keys: luck.between(20, 300),
            think_millis: luck.between(40, 200),
            chaos_millis,
            latency_millis: luck.between(1, 12),
            pause_millis: luck.between(pause_max / 3, pause_max),
            faults,
            tick_millis: luck.between(2, 4),
            heal_millis: 180_000,
        }
    }

    /// Hosts for a cohort: an odd number of the machines.
    pub fn hosts(luck: &mut Luck, peers: usize) -> BTreeSet<usize> {
        let size = match luck.below(10) {
            0 => 1,
            1..=6 => 3,
            _ => 5,
        };
        let size = if peers < size { 3.min(peers) } else { size };
        let all: Vec<usize> = (0..peers).collect();
        luck.sample(&all, size).into_iter().collect()
    }

    /// The plan in a line.
    pub fn brief(&self) -> String {
        let sizes: Vec<String> = self.atlas.iter().map(|hosts| hosts.len().to_string()).collect();
        let faults: Vec<&str> = self.faults.iter().map(|fault| fault.name()).collect();
        format!(
            "{} peers, cohorts of {}, {} clients each, {} rows, {} s; {}",
            self.peers,
            sizes.join("+"),
            self.clients,
            self.keys,
            self.chaos_millis / 1000,
            faults.join(", ")
        )
    }

    /// The names of all machines.
    pub fn names(&self) -> Vec<String> {
        (0..self.peers).map(Machine::name).collect()
    }
}
