//! The flock and iroh-gossip side by side: the same simulator, the same scenarios, the same seeds, the same metrics.
//!
//! `docs/FLOCK.md`, "Beside iroh-gossip", has what came out and what to know about it.

mod iroh;
mod state;
mod table;

use clap::{Parser, Subcommand, ValueEnum};
use iroh::{Iroh, Key8, Key32, Shared};
use serde::{Deserialize, Serialize};
use skein_sim::run::{Outcome, run};
use skein_sim::scenario::ScenarioError;
use skein_sim::{FlockPeer, Measure, Scenario, World};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use std::alloc::System;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Runs the flock and iroh-gossip through the scenarios of `crates/sim/scenarios`.
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs one scenario with one protocol and prints a line of JSON for each seed.
    Run {
        /// Which protocol.
        subject: Subject,
        /// Name of a scenario, or the path of a scenario file.
        scenario: String,
        /// Seeds to run instead of those in the file, such as 1,2,3.
        #[arg(long, value_delimiter = ',')]
        seeds: Vec<u64>,
        /// Number of peers instead of that in the file.
        #[arg(long)]
        peers: Option<usize>,
    },
    /// Reads such lines and prints a Markdown table of them.
    Table {
        /// Files with the lines.
        files: Vec<PathBuf>,
    },
}

/// A protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[value(rename_all = "kebab-case")]
enum Subject {
    /// Ours.
    Flock,
    /// iroh-gossip, whose peers are named by public keys of 32 bytes.
    Iroh,
    /// iroh-gossip if names were as short as ours, 8 bytes; to see what the names cost.
    IrohShort,
}

/// One run, as a line of JSON.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    scenario: String,
    subject: Subject,
    peers: usize,
    seed: u64,
    /// What was measured; null for what never happened.
    values: Vec<(Measure, Option<f64>)>,
    /// Bytes that the allocator got back, for each peer, when the states were dropped at the end, and those of
    /// the struct itself.
    state: f64,
    /// The same before the scenario's last phase, when that phase is to pass without a change.
    state_before: Option<f64>,
    /// Of the machine, for the run itself.
    seconds: f64,
    events: u64,
}

fn main() -> ExitCode {
    let result = match Args::parse().command {
        Command::Run { subject, scenario, seeds, peers } => runs(subject, &scenario, seeds, peers),
        Command::Table { files } => table::print(&files).map_err(|error| error.to_string()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("skein-flock-compare: {error}");
            ExitCode::from(2)
        }
    }
}

/// The scenario of this name.
/// * `keep`: whether connections stay although nothing is sent, because the transport sees to it by itself.
fn scenario(name: &str, keep: bool) -> Result<Scenario, String> {
    let path = if name.contains(['/', '.']) {
        PathBuf::from(name)
    } else {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crates/sim/scenarios");
        folder.join(format!("{name}.toml"))
    };
    let told = |error: ScenarioError| format!("{error}");
    let text = std::fs::read_to_string(&path).map_err(|error| format!("read {}: {error}", path.display()))?;
    let given = Scenario::parse(&path, &text).map_err(told)?;
    if !keep {
        return Ok(given);
    }
    let mut table: toml::Table = text.parse().map_err(|error| format!("{error}"))?;
    let network = table.entry("network").or_insert_with(|| toml::Table::new().into());
    if let Some(network) = network.as_table_mut() {
        network.insert("idle_close".into(), "1000000s".into());
    }
    Scenario::parse(&path, &table.to_string()).map_err(told)
}

fn runs(subject: Subject, name: &str, seeds: Vec<u64>, peers: Option<usize>) -> Result<(), String> {
    let scenario = scenario(name, subject != Subject::Flock)?;
    let seeds = if seeds.is_empty() { scenario.seeds.clone() } else { seeds };
    for seed in seeds {
        let line = match subject {
            Subject::Flock => one::<FlockPeer>(&scenario, seed, peers, World::default),
            Subject::Iroh => one::<Iroh<Key32>>(&scenario, seed, peers, Shared::default),
            Subject::IrohShort => one::<Iroh<Key8>>(&scenario, seed, peers, Shared::default),
        };
        let peers = peers.unwrap_or(scenario.peers.0);
        let line = Line { scenario: name.into(), subject, peers, seed, ..line };
        println!("{}", serde_json::to_string(&line).map_err(|error| error.to_string())?);
    }
    Ok(())
}

fn one<P: skein_sim::Subject>(
    scenario: &Scenario,
    seed: u64,
    peers: Option<usize>,
    shared: impl Fn() -> P::Shared,
) -> Line {
    let grows = scenario.targets.contains_key(&Measure::StateGrowth);
    let state_before = grows.then(|| {
        let mut before = scenario.clone();
        before.phase.pop();
        let (_, cluster) = run::<P>(&before, seed, peers, shared());
        state::of(cluster, allocated)
    });
    let began = Instant::now();
    let (outcome, cluster): (Outcome, _) = run::<P>(scenario, seed, peers, shared());
    let seconds = began.elapsed().as_secs_f64();
    Line {
        scenario: String::new(),
        subject: Subject::Flock,
        peers: 0,
        seed,
        values: outcome.values.iter().map(|(name, it)| (*name, it.is_finite().then_some(*it))).collect(),
        state: state::of(cluster, allocated),
        state_before,
        seconds,
        events: outcome.events,
    }
}

/// Bytes asked of the allocator and not given back.
fn allocated() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}
