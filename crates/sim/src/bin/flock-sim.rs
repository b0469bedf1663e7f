//! Runs the flock's scenarios and says which targets are met.
#![forbid(unsafe_code)]

use clap::Parser;
use serde_json::json;
use skein_sim::run::{Outcome, run};
use skein_sim::scenario::{ScenarioError, Target};
use skein_sim::{FlockPeer, Measure, Scenario, World, engine_speed::Flood};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// Runs scenarios of the flock in the simulator and prints measure, target and what was measured.
///
/// Ends with 0 when every target is met, 1 when one is missed, 2 when a scenario cannot be read.
#[derive(Parser)]
struct Args {
    /// Names of scenarios, or paths of scenario files; all of ours when none is given.
    scenarios: Vec<String>,
    /// One scenario more, by name or path.
    #[arg(long)]
    scenario: Vec<String>,
    /// All of ours.
    #[arg(long)]
    all: bool,
    /// Seeds to run instead of those in the file, such as 1,2,3.
    #[arg(long, value_delimiter = ',')]
    seeds: Vec<u64>,
    /// Number of peers instead of that in the file.
    #[arg(long)]
    peers: Option<usize>,
    /// Prints one JSON object per scenario instead of tables.
    #[arg(long)]
    json: bool,
    /// Prints what was sent by kind of message, and what was refused.
    #[arg(long)]
    counters: bool,
    /// Only measures the engine's own speed, with a flood over a random graph.
    #[arg(long)]
    engine: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.engine {
        return engine(&args);
    }
    match files(&args).and_then(|files| {
        files
            .iter()
            .map(|file| Ok((name(file), Scenario::read(file)?)))
            .collect::<Result<Vec<_>, ScenarioError>>()
    }) {
        Ok(scenarios) => {
            // Every one is carried out, also behind one that missed.
            let met: Vec<bool> =
                scenarios.iter().map(|(name, scenario)| measure(name, scenario, &args)).collect();
            if met.iter().all(|met| *met) { ExitCode::SUCCESS } else { ExitCode::from(1) }
        }
        Err(error) => {
            let because = std::error::Error::source(&error).map(|why| format!(": {why}")).unwrap_or_default();
            eprintln!("flock-sim: {error}{because}");
            ExitCode::from(2)
        }
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios")
}

fn name(file: &Path) -> String {
    file.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

fn files(args: &Args) -> Result<Vec<PathBuf>, ScenarioError> {
    let named: Vec<&String> = args.scenarios.iter().chain(&args.scenario).collect();
    if !named.is_empty() && !args.all {
        let path = |name: &&String| {
            if name.contains(['/', '.']) {
                PathBuf::from(name)
            } else {
                folder().join(format!("{name}.toml"))
            }
        };
        return Ok(named.iter().map(path).collect());
    }
    let unreadable = |source| ScenarioError::Read { path: folder(), source };
    let entries = std::fs::read_dir(folder()).map_err(unreadable)?;
    let mut files = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(unreadable)?;
    files.sort();
    Ok(files)
}

fn measure(name: &str, scenario: &Scenario, args: &Args) -> bool {
    let seeds = if args.seeds.is_empty() { &scenario.seeds } else { &args.seeds };
    let peers = args.peers.unwrap_or(scenario.peers.0);
    if !args.json {
        println!("\n{name}: {} {peers} peers.", scenario.about);
    }
    let began = busy();
    let mut outcomes = Vec::new();
    for seed in seeds {
        let start = busy();
        let (outcome, cluster) = run::<FlockPeer>(scenario, *seed, Some(peers), World::default());
        let took = (busy() - start).as_secs_f64();
        if !args.json {
            println!(
                "  seed {seed}: {:.1} M events, {:.0} s simulated in {took:.1} s of processor time ({:.2} M events/s), trace {:016x}",
                outcome.events as f64 / 1e6,
                outcome.simulated.as_secs_f64(),
                outcome.events as f64 / 1e6 / took,
                outcome.trace,
            );
            if args.counters {
                let counters = cluster.sim.counters();
                for (kind, tally) in counters.sent.iter().enumerate().filter(|(_, tally)| tally.messages > 0)
                {
                    println!("    sent {kind:#04x}: {} messages, {} bytes", tally.messages, tally.bytes);
                }
                println!(
                    "    {} dials, {} failed, {} messages lost, {} astray; refused: {:?}",
                    counters.dials,
                    counters.failed_dials,
                    counters.lost,
                    cluster.sim.shared().astray,
                    cluster.sim.shared().refused,
                );
            }
        }
        outcomes.push(outcome);
    }
    let rows = rows(scenario, &outcomes);
    let met = rows.iter().all(|row| row.met != Some(false));
    if args.json {
        let rows: Vec<_> = rows.iter().map(Row::json).collect();
        let traces: Vec<String> = outcomes.iter().map(|outcome| format!("{:016x}", outcome.trace)).collect();
        let seconds = (busy() - began).as_secs_f64();
        println!(
            "{}",
            json!({ "scenario": name, "peers": peers, "seeds": seeds, "met": met, "seconds": seconds,
                "traces": traces, "memory_megabytes": memory(), "measures": rows })
        );
    } else {
        rows.iter().for_each(Row::print);
        if let Some(memory) = memory() {
            println!("  {:<52}{:>14}{memory:>12.0} MB", "memory of the process at its most", "");
        }
        if !met {
            let seeds: Vec<String> = seeds.iter().map(u64::to_string).collect();
            let seeds = seeds.join(",");
            println!(
                "  to replay: cargo run --release -p skein-sim --bin flock-sim -- {name} --seeds {seeds} --peers {peers}"
            );
        }
    }
    met
}

struct Row {
    measure: Measure,
    target: Option<Target>,
    values: Vec<f64>,
    met: Option<bool>,
}

fn rows(scenario: &Scenario, outcomes: &[Outcome]) -> Vec<Row> {
    let mut measures: Vec<Measure> = Vec::new();
    for (measure, _) in outcomes.iter().flat_map(|outcome| &outcome.values) {
        if !measures.contains(measure) {
            measures.push(*measure);
        }
    }
    // A target for what no phase measures is missed, not forgotten.
    measures
        .extend(scenario.targets.keys().filter(|measure| !measures.contains(measure)).collect::<Vec<_>>());
    let row = |measure: &Measure| {
        let values: Vec<f64> = outcomes.iter().filter_map(|outcome| outcome.value(*measure)).collect();
        let target = scenario.targets.get(measure).copied();
        let met = target.map(|target| !values.is_empty() && values.iter().all(|value| target.met(*value)));
        Row { measure: *measure, target, values, met }
    };
    measures.iter().map(row).collect()
}

impl Row {
    fn print(&self) {
        let target = match self.target {
            None => String::new(),
            Some(Target::AtMost(most)) => format!("≤ {most}"),
            Some(Target::AtLeast(least)) => format!("≥ {least}"),
        };
        let values: Vec<String> = self.values.iter().map(|value| short(*value)).collect();
        let verdict = match self.met {
            None => "",
            Some(true) => "  met",
            Some(false) => "  MISSED",
        };
        let unit = self.measure.unit();
        let (text, values) = (self.measure.text(), values.join(", "));
        println!("  {text:<52}{target:>14}   {values} {unit}{verdict}");
    }

    fn json(&self) -> serde_json::Value {
        // JSON has no infinity; what never happened is null.
        let values: Vec<_> = self.values.iter().map(|value| value.is_finite().then_some(*value)).collect();
        json!({ "measure": self.measure, "target": self.target, "values": values, "met": self.met })
    }
}

fn short(value: f64) -> String {
    match value.abs() {
        _ if value.is_infinite() => "never".to_owned(),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.3}"),
        _ => format!("{value:.5}"),
    }
}

/// How long this thread has been running on a processor, so that a busy machine does not spoil the figures;
/// time on the wall where the system does not say.
fn busy() -> Duration {
    static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanos = told.and_then(|told| told.split(' ').next()?.parse().ok());
    nanos.map_or_else(|| BEGAN.elapsed(), Duration::from_nanos)
}

/// Most memory the process held, in megabytes; `None` where the system does not say.
fn memory() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok().map(|kilobytes| kilobytes / 1_024.0)
}

fn engine(args: &Args) -> ExitCode {
    let peers = args.peers.unwrap_or(10_000);
    for seed in if args.seeds.is_empty() { &[1, 2, 3][..] } else { &args.seeds } {
        let mut flood = Flood::new(peers, *seed);
        // Warm: every link is open.
        let (mut events, start) = (flood.round(), busy());
        let before = events;
        (0..50).for_each(|_| events = flood.round());
        let took = (busy() - start).as_secs_f64();
        println!(
            "seed {seed}: {:.1} M events in {took:.2} s, {:.2} M events/s, {:.0} MB",
            (events - before) as f64 / 1e6,
            (events - before) as f64 / 1e6 / took,
            memory().unwrap_or_default(),
        );
    }
    ExitCode::SUCCESS
}
