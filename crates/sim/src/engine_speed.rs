//! How fast the engine is by itself: a flood over a random graph, by peers that do almost nothing.

use crate::engine::{Event, Io, Node, Protocol, Sim};
use crate::graph::Graph;
use crate::network::{Latency, Network};
use bytes::Bytes;
use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;
use skein_flock::Time;
use std::time::Duration;

#[derive(Default)]
struct Flooder {
    seen: u64,
}

impl Flooder {
    fn pass(&mut self, message: Bytes, from: Option<Node>, io: &mut Io<'_, Self>) {
        let bit = 1 << (message.first().copied().unwrap_or_default() & 63);
        if self.seen & bit == 0 {
            self.seen |= bit;
            for at in 0..io.shared.neighbours(io.me.0).len() {
                let to = Node(io.shared.neighbours(io.me.0)[at]);
                if Some(to) != from {
                    io.send(to, message.clone());
                }
            }
        }
    }
}

impl Protocol for Flooder {
    type Message = Bytes;
    type Report = ();
    type Shared = Graph;

    fn handle(&mut self, event: Event<Bytes>, io: &mut Io<'_, Self>) {
        if let Event::Received { from, message } = event {
            self.pass(message, Some(from), io);
        }
    }

    fn next_deadline(&self) -> Option<Time> {
        None
    }

    fn size(message: &Bytes) -> usize {
        message.len()
    }

    fn kind(_: &Bytes) -> u8 {
        0
    }

    fn digest(message: &Bytes) -> u64 {
        message.len() as u64
    }
}

/// Peers on a random graph of degree 5 with lognormal latencies, ready to flood.
pub struct Flood {
    sim: Sim<Flooder>,
    rounds: u8,
}

impl Flood {
    /// Peers that have all begun, and nothing more.
    pub fn new(peers: usize, seed: u64) -> Self {
        let graph = Graph::random_regular(peers, 5, &mut Xoshiro256PlusPlus::seed_from_u64(seed));
        let latency = Latency::Lognormal { median: Duration::from_millis(50), sigma: 0.5 };
        let mut sim = Sim::new(Network { latency, ..Network::default() }, graph, seed);
        for _ in 0..peers {
            sim.add(Flooder::default());
        }
        Self { sim, rounds: 0 }
    }

    /// Floods one message more, of 64 at most; gives the number of events so far.
    pub fn round(&mut self) -> u64 {
        let payload = Bytes::from(vec![self.rounds; 64]);
        let from = Node(u32::from(self.rounds) % self.sim.len().max(1) as u32);
        self.rounds += 1;
        self.sim.act(from, |peer, io| peer.pass(payload, None, io));
        self.sim.run_for(Duration::from_secs(5));
        self.sim.counters().events
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_flood_brings_every_message_over_every_link() {
        let mut flood = super::Flood::new(200, 1);
        flood.round();
        flood.round();
        let events = flood.round();
        // Starts, and per round every link both ways less the one on which it first came.
        let (most, fewest) = (200 + 3 * (200 * 5 - 199), 200 + 3 * (200 * 5 - 8 - 199));
        assert!((fewest..=most).contains(&events), "{events}");
    }
}
