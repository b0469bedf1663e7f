//! Scenario files: what happens to a flock, what is measured of it, and what it should come to. TOML; one file
//! per question. The folder `scenarios` has ours.
//!
//! ```toml
//! about = "Half of all peers die."
//! peers = 1_000
//! seeds = [1, 2, 3]
//!
//! [network]
//! latency = { constant = "50ms" }
//!
//! [[phase]]
//! join = { over = "1s" }
//! [[phase]]
//! settle = "30s"
//! [[phase]]
//! kill = { part = 0.5, death = "reset", broadcasts = 50 }
//!
//! [targets]
//! one_component = { at_most = 1.5 }
//! delivered = { at_least = 1.0 }
//! ```

use crate::engine::Death;
use crate::measure::Measure;
use crate::network::{Latency, Network};
use serde::de::{Deserializer, Error as _, Unexpected};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A length of time, written as a number and a unit: `"50ms"`, `"10s"`, `"2m"`, `"1h"`; `"1.5s"` too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wait(pub Duration);

impl<'de> Deserialize<'de> for Wait {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = match &text[digits.len()..] {
            "us" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3_600.0,
            _ => 0.0,
        };
        match digits.trim().parse::<f64>() {
            Ok(number) if unit > 0.0 && (0.0..=1e6).contains(&number) => {
                Ok(Self(Duration::from_secs_f64(number * unit)))
            }
            _ => Err(D::Error::invalid_value(
                Unexpected::Str(&text),
                &"a time such as \"50ms\", \"10s\" or \"2m\"",
            )),
        }
    }
}

/// A part of a whole: 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Share(pub f64);

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match f64::deserialize(from)? {
            share if (0.0..=1.0).contains(&share) => Ok(Self(share)),
            other => {
                Err(D::Error::invalid_value(Unexpected::Float(other), &"a part of the whole, 0.0 to 1.0"))
            }
        }
    }
}

/// A whole number from 1 to ten million.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Count(pub usize);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match u64::deserialize(from)? {
            count @ 1..=10_000_000 => Ok(Self(count as usize)),
            other => {
                Err(D::Error::invalid_value(Unexpected::Unsigned(other), &"a number from 1 to 10,000,000"))
            }
        }
    }
}

/// One scenario file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What is asked, in a sentence.
    pub about: String,
    /// How many peers.
    pub peers: Count,
    /// One run for each.
    pub seeds: Vec<u64>,
    /// The network; ours unless said otherwise is 50 ms each way, without loss.
    #[serde(default)]
    pub network: NetworkFile,
    /// What happens, in order.
    pub phase: Vec<Phase>,
    /// What it should come to.
    #[serde(default)]
    pub targets: BTreeMap<Measure, Target>,
}

/// What a measure should be.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// No more than this.
    AtMost(f64),
    /// No less than this.
    AtLeast(f64),
}

impl Target {
    /// Whether a value will do.
    pub fn met(self, value: f64) -> bool {
        match self {
            Self::AtMost(most) => value <= most,
            Self::AtLeast(least) => value >= least,
        }
    }
}

/// The latency model of a scenario; see [`Latency`].
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum LatencyFile {
    /// The same one way for every pair.
    Constant(Wait),
    /// Drawn once per pair.
    Lognormal {
        /// Half of the pairs take at most this.
        median: Wait,
        /// Standard deviation of the logarithm.
        sigma: f64,
    },
    /// Peer number modulo three is its region; one way between and within each.
    Regions([[Wait; 3]; 3]),
}

/// The network of a scenario; see [`Network`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkFile {
    latency: Option<LatencyFile>,
    jitter: Option<Share>,
    loss: Option<Share>,
    resend_after: Option<Wait>,
    breaks: Option<Share>,
    dial_timeout: Option<Wait>,
    silence_timeout: Option<Wait>,
    idle_close: Option<Wait>,
}

impl NetworkFile {
    /// The network it describes.
    pub fn network(&self) -> Network {
        let given = Network::default();
        Network {
            latency: match &self.latency {
                None => given.latency,
                Some(LatencyFile::Constant(wait)) => Latency::Constant(wait.0),
                Some(LatencyFile::Lognormal { median, sigma }) => {
                    Latency::Lognormal { median: median.0, sigma: *sigma }
                }
                Some(LatencyFile::Regions(matrix)) => {
                    Latency::Regions(matrix.map(|row| row.map(|wait| wait.0)))
                }
            },
            jitter: self.jitter.map_or(given.jitter, |share| share.0),
            loss: self.loss.map_or(given.loss, |share| share.0),
            resend_after: self.resend_after.map_or(given.resend_after, |wait| wait.0),
            breaks: self.breaks.map_or(given.breaks, |share| share.0),
            dial_timeout: self.dial_timeout.map_or(given.dial_timeout, |wait| wait.0),
            silence_timeout: self.silence_timeout.map_or(given.silence_timeout, |wait| wait.0),
            idle_close: self.idle_close.map_or(given.idle_close, |wait| wait.0),
        }
    }
}

/// How peers die; see [`Death`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeathFile {
    /// Connections are reset and dials refused at once.
    Refusing,
    /// Connections are reset and dials get no answer.
    Reset,
    /// Connections fall silent and dials get no answer.
    Silent,
}

impl From<DeathFile> for Death {
    fn from(file: DeathFile) -> Self {
        match file {
            DeathFile::Refusing => Self::Refusing,
            DeathFile::Reset => Self::Reset,
            DeathFile::Silent => Self::Silent,
        }
    }
}

/// Something that happens to the flock, and what is measured meanwhile.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// All join, through the first unless said otherwise. Measures `last_in`.
    Join(Join),
    /// Time passes.
    Settle(Wait),
    /// Some tell all. Measures `rmr`, `ldt_over_bound`, `hops`, `delivered`, `control_bytes`, `again`.
    Broadcast(Broadcasts),
    /// The overlay is looked at. Measures `mean_path_over_random`, `degree_min`, `degree_max`, `one_sided`,
    /// `components`, `state_bytes`.
    Look(Look),
    /// Nothing happens for a while. Measures `idle_bytes`, `idle_bytes_with_heartbeats`, `state_growth`.
    Idle(Wait),
    /// Some die at once. Measures `one_component`, `connected`, `delivered`.
    Kill(Kill),
    /// Some die silently. Measures `noticed_p50`, `noticed_p99`, `false_alarms`.
    Silence(Silence),
    /// Some become slow. Measures `routed_around`.
    Slow(Slow),
    /// Peers are killed and restarted all the time. Measures `stable_reached`.
    Churn(Churn),
    /// Some more join one after the other. Measures `join_messages`, `join_bytes`.
    Joins(Joins),
    /// The network is cut in two for a while. Measures `healed`.
    Partition(Partition),
    /// Some say things about themselves while one is cut off. Measures `exchange_bytes`, `catch_up_ratio`,
    /// `catch_up`.
    Facts(Facts),
    /// Some ask all. Measures `query_exact`, `query_over_bound`, `query_messages`, `query_counted`, `query_false`.
    Query(Query),
}

/// See [`Phase::Join`].
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Join {
    /// The first joins now and the last this much later.
    pub over: Wait,
    /// Through whom.
    #[serde(default)]
    pub through: Through,
}

/// Through whom peers join.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Through {
    /// All through the first.
    #[default]
    First,
    /// Each through one of those that began before it, drawn at random, which may not have got anywhere itself.
    Earlier,
}

/// See [`Phase::Look`].
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Look {
    /// From how many peers the paths to all others are counted.
    #[serde(default = "hundred")]
    pub samples: Count,
}

/// See [`Phase::Broadcast`].
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Broadcasts {
    /// How many peers take turns. The same ones in every phase, unless `fresh`.
    pub origins: Count,
    /// How often each does.
    pub rounds: Count,
    /// Time from one broadcast to the next.
    #[serde(default = "two_seconds")]
    pub every: Wait,
    /// All of a round at the same instant rather than in turn.
    #[serde(default)]
    pub together: bool,
    /// Origins that have never told anything before.
    #[serde(default)]
    pub fresh: bool,
    /// Whether it is measured, or only warms up.
    #[serde(default = "yes")]
    pub measured: bool,
    /// Bytes of each payload.
    #[serde(default = "sixty_four")]
    pub payload: Count,
}

/// See [`Phase::Kill`].
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kill {
    /// Of the live ones.
    pub part: Share,
    /// How.
    pub death: DeathFile,
    /// How many broadcasts follow from survivors, from the moment of the kill on.
    #[serde(default)]
    pub broadcasts: usize,
    /// Time between these.
    #[serde(default = "tenth")]
    pub every: Wait,
    /// How long the survivors are watched after the kill, and each broadcast after it was sent.
    #[serde(default = "half_a_minute")]
    pub within: Wait,
}

/// See [`Phase::Silence`].
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Silence {
    /// Of the live ones.
    pub part: Share,
    /// How long is waited for the neighbours to notice.
    #[serde(default = "half_a_minute")]
    pub within: Wait,
}

/// See [`Phase::Slow`].
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slow {
    /// How many become slow.
    pub peers: Count,
    /// What every message from or to them takes longer.
    pub extra: Wait,
    /// How many broadcasts by one origin follow.
    #[serde(default = "twenty")]
    pub rounds: Count,
    /// Time between these.
    #[serde(default = "five_seconds")]
    pub every: Wait,
    /// Routed around means that all but the slow are reached within this many times the bound.
    pub within_bound: f64,
}

/// See [`Phase::Churn`].
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Churn {
    /// Of all peers, die and come back in a minute.
    pub part_per_minute: Share,
    /// How long it goes on.
    #[serde(rename = "for")]
    pub length: Wait,
    /// How they die.
    pub death: DeathFile,
    /// How long each is gone.
    pub gone: Wait,
    /// Time between broadcasts, each from a stable peer drawn at random.
    pub every: Wait,
    /// Stable are peers that were up this long before a broadcast, and stay up for `within` after it.
    pub margin: Wait,
    /// How long each broadcast is given.
    pub within: Wait,
}

/// See [`Phase::Joins`].
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Joins {
    /// How many.
    pub count: Count,
    /// Through contacts drawn at random, evenly over this long.
    pub over: Wait,
}

/// See [`Phase::Partition`].
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Partition {
    /// The smaller side's part.
    pub part: Share,
    /// How long.
    #[serde(rename = "for")]
    pub length: Wait,
    /// How long is waited after it for one component.
    #[serde(default = "two_minutes")]
    pub within: Wait,
}

/// See [`Phase::Facts`].
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Facts {
    /// How many say something before one is cut off; the rest say nothing ever.
    pub known: Count,
    /// How many of these say something else while it is.
    pub missed: Count,
    /// Bytes of each fact.
    pub bytes: Count,
    /// How long it is cut off.
    pub away: Wait,
}

/// See [`Phase::Query`].
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Query {
    /// How many ask, one after the other.
    pub rounds: Count,
    /// How often the first asks before, unmeasured.
    #[serde(default)]
    pub warm: usize,
    /// By when each wants its answer.
    pub within: Wait,
    /// Part of the live that die with each question, just after it was asked.
    #[serde(default)]
    pub killed: Option<Share>,
    /// How they die.
    #[serde(default = "reset")]
    pub death: DeathFile,
}

fn reset() -> DeathFile {
    DeathFile::Reset
}
fn yes() -> bool {
    true
}
fn hundred() -> Count {
    Count(100)
}
fn twenty() -> Count {
    Count(20)
}
fn sixty_four() -> Count {
    Count(64)
}
fn tenth() -> Wait {
    Wait(Duration::from_millis(100))
}
fn two_seconds() -> Wait {
    Wait(Duration::from_secs(2))
}
fn five_seconds() -> Wait {
    Wait(Duration::from_secs(5))
}
fn half_a_minute() -> Wait {
    Wait(Duration::from_secs(30))
}
fn two_minutes() -> Wait {
    Wait(Duration::from_secs(120))
}

/// Why a scenario file is of no use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScenarioError {
    /// It cannot be read.
    #[error("read scenario {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not what a scenario looks like; the text shows the line.
    #[error("scenario {}: {text}", path.display())]
    Parse {
        /// Which.
        path: PathBuf,
        /// What the reader of TOML says of it.
        text: String,
    },
}

impl Scenario {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self, ScenarioError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ScenarioError::Read { path: path.to_owned(), source })?;
        Self::parse(path, &text)
    }

    /// Takes the text of a file; `path` is for the errors.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ScenarioError> {
        let parse = |text: String| ScenarioError::Parse { path: path.to_owned(), text };
        let scenario: Self = toml::from_str(text).map_err(|error| parse(error.to_string()))?;
        match scenario.phase.first() {
            _ if scenario.seeds.is_empty() => Err(parse("`seeds` is empty; give one at least".to_owned())),
            Some(Phase::Join(_)) => Ok(scenario),
            _ => Err(parse("the first [[phase]] has to be a join".to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        Scenario::parse(Path::new("storm.toml"), text).map(|_| ()).unwrap_err().to_string()
    }

    const GOOD: &str = "about = 'x'\npeers = 10\nseeds = [1]\n[[phase]]\njoin = { over = '10s' }\n";

    #[test]
    fn every_scenario_of_ours_can_be_read_and_has_targets() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let mut count = 0;
        for file in std::fs::read_dir(folder).unwrap() {
            let scenario = Scenario::read(&file.unwrap().path()).unwrap();
            assert!(!scenario.targets.is_empty(), "{}", scenario.about);
            count += 1;
        }
        assert!(count > 10);
    }

    #[test]
    fn a_scenario_says_what_it_says() {
        let scenario = Scenario::parse(
            Path::new("a.toml"),
            &(GOOD.to_owned()
                + "[[phase]]\nkill = { part = 0.8, death = 'refusing' }\n[network]\nlatency = { constant = '1.5ms' }\n"),
        )
        .unwrap();
        assert!(matches!(&scenario.phase[0], Phase::Join(join) if join.over.0 == Duration::from_secs(10)));
        assert!(matches!(&scenario.phase[1], Phase::Kill(kill) if kill.part == Share(0.8)));
        let Latency::Constant(latency) = scenario.network.network().latency else { panic!() };
        assert_eq!(latency, Duration::from_micros(1_500));
    }

    #[test]
    fn mistakes_are_named_with_their_file_and_line() {
        for (text, says) in [
            ("peers = 0\n", ["line 1", "1 to 10,000,000"]),
            (
                &format!("{GOOD}[[phase]]\nkill = {{ part = 1.5, death = 'silent' }}\n"),
                ["line 7", "0.0 to 1.0"],
            ),
            (&format!("{GOOD}[[phase]]\nkil = {{ part = 0.5 }}\n"), ["line 7", "unknown variant `kil`"]),
            (&format!("{GOOD}[[phase]]\nsettle = '3 parsecs'\n"), ["line 6", "a time such as"]),
            (
                &format!("{GOOD}[targets]\nspeed = {{ at_most = 3.0 }}\n"),
                ["line 7", "unknown variant `speed`"],
            ),
            (&format!("{GOOD}[network]\nlos = 0.1\n"), ["line 7", "unknown field `los`"]),
            (&GOOD.replace("[1]", "[]"), ["seeds", "empty"]),
            (&GOOD.replace("join = { over = '10s' }", "settle = '1s'"), ["first", "join"]),
        ] {
            let error = error(text);
            assert!(error.starts_with("scenario storm.toml: "), "{error}");
            for part in says {
                assert!(error.contains(part), "{part} is not in: {error}");
            }
        }
    }
}
