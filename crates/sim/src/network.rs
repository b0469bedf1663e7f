//! How long a message takes, what is lost on the way, and what becomes of connections.

use crate::engine::Node;
use std::time::Duration;

/// How long a message takes one way between two peers, when neither is slowed down. The same in both
/// directions and for the whole life of the two, so that shortest paths can be computed.
#[derive(Clone, Debug)]
pub enum Latency {
    /// The same for every pair.
    Constant(Duration),
    /// Drawn once per pair: the logarithm is normal.
    Lognormal {
        /// Half of the pairs take at most this.
        median: Duration,
        /// Standard deviation of the logarithm; 0.5 gives a 95th percentile of 2.3 medians. 0 to 1.5.
        sigma: f64,
    },
    /// Peer number modulo three is its region.
    Regions([[Duration; 3]; 3]),
}

/// What the network does to messages and connections. Everything may be changed while the simulation runs.
#[derive(Clone, Debug)]
pub struct Network {
    /// How long a message takes.
    pub latency: Latency,
    /// Of each message, at most this part of its latency is added at random. 0 to 1.
    pub jitter: f64,
    /// Chance of each message to be lost once below the connection, which then sends it again. 0 to 0.5.
    pub loss: f64,
    /// How long the connection waits before it sends again; doubles while the message keeps being lost.
    pub resend_after: Duration,
    /// Chance of each message to find that the connection has broken; both ends are told. 0 to 0.1.
    pub breaks: f64,
    /// After this long without an answer a dial is given up.
    pub dial_timeout: Duration,
    /// After this long without an acknowledgement the connection counts as lost.
    pub silence_timeout: Duration,
    /// Connections unused for this long are closed by the transport, and nobody is told.
    pub idle_close: Duration,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            latency: Latency::Constant(Duration::from_millis(50)),
            jitter: 0.0,
            loss: 0.0,
            resend_after: Duration::from_millis(200),
            breaks: 0.0,
            dial_timeout: Duration::from_secs(3),
            silence_timeout: Duration::from_secs(20),
            idle_close: Duration::from_secs(30),
        }
    }
}

/// The latency model made ready for fast answers.
#[derive(Debug)]
pub(crate) struct Delays {
    model: Latency,
    constant: Option<u64>,
    seed: u64,
    /// Of the lognormal model: 1024 quantiles, in microseconds.
    quantiles: Vec<u32>,
}

impl Delays {
    pub(crate) fn new(model: Latency, seed: u64) -> Self {
        let constant = match model {
            Latency::Constant(constant) => Some(micros(constant)),
            _ => None,
        };
        let quantiles = match model {
            Latency::Lognormal { median, sigma } => (0..1024)
                .map(|at| {
                    let z = normal_quantile((f64::from(at) + 0.5) / 1024.0);
                    (median.as_micros() as f64 * (sigma * z).exp()) as u32
                })
                .collect(),
            _ => Vec::new(),
        };
        Self { model, constant, seed, quantiles }
    }

    /// Microseconds one way between two peers.
    #[inline]
    pub(crate) fn between(&self, a: Node, b: Node) -> u64 {
        if let Some(constant) = self.constant {
            return constant;
        }
        let (low, high) = (a.0.min(b.0), a.0.max(b.0));
        match &self.model {
            Latency::Constant(constant) => micros(*constant),
            Latency::Lognormal { .. } => {
                let draw = mix(self.seed ^ (u64::from(low) << 32 | u64::from(high)));
                u64::from(self.quantiles[(draw >> 54) as usize])
            }
            Latency::Regions(matrix) => micros(matrix[low as usize % 3][high as usize % 3]),
        }
    }
}

pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// The finaliser of SplitMix64: every bit of the result depends on every bit of the input.
pub(crate) fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// Where a standard normal variable is below with chance `p`, to within 0.00045.
/// * Source: Abramowitz and Stegun, "Handbook of Mathematical Functions" (1964), 26.2.23.
fn normal_quantile(p: f64) -> f64 {
    if p > 0.5 {
        return -normal_quantile(1.0 - p);
    }
    let t = (-2.0 * p.ln()).sqrt();
    let above = 2.515517 + t * (0.802853 + t * 0.010328);
    let below = 1.0 + t * (1.432788 + t * (0.189269 + t * 0.001308));
    above / below - t
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lognormal_latencies_have_the_median_and_the_spread_asked_for() {
        let model = Latency::Lognormal { median: Duration::from_millis(40), sigma: 0.5 };
        let delays = Delays::new(model, 9);
        let mut drawn: Vec<u64> = (0..10_000).map(|at| delays.between(Node(at), Node(at + 7))).collect();
        drawn.sort_unstable();
        assert!((38_500..41_500).contains(&drawn[5_000]), "median {}", drawn[5_000]);
        // exp(0.5 * 1.6449) = 2.276
        assert!((87_000..95_500).contains(&drawn[9_500]), "95th percentile {}", drawn[9_500]);
        assert_eq!(delays.between(Node(3), Node(8)), delays.between(Node(8), Node(3)));
    }

    #[test]
    fn regions_are_told_by_the_matrix() {
        let ms = Duration::from_millis;
        let near_far = [[ms(1), ms(40), ms(80)], [ms(40), ms(2), ms(60)], [ms(80), ms(60), ms(3)]];
        let delays = Delays::new(Latency::Regions(near_far), 1);
        assert_eq!(delays.between(Node(0), Node(3)), 1_000);
        assert_eq!(delays.between(Node(2), Node(3)), 80_000);
        assert_eq!(delays.between(Node(5), Node(4)), 60_000);
    }
}
