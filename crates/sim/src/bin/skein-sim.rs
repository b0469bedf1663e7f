//! `skein-sim`: runs a cell from seeds, with faults, and holds what its clients saw against what it promises.
//!
//! ```sh
//! cargo run -p skein-sim --features cell --bin skein-sim -- --seeds 100
//! ```
#![forbid(unsafe_code)]

use clap::{Parser, ValueEnum};
use skein_sim::cell::cohorts::Cohorts;
use skein_sim::cell::tally::Tally;
use skein_sim::cell::trace::Trace;
use skein_sim::cell::whole::Whole;
use skein_sim::cell::{Failure, Outcome, Plan, run};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A seed whose simulated time stands still for so long hangs.
const STUCK: Duration = Duration::from_secs(60);

/// Runs a simulated cell from seeds; each line tells one.
#[derive(Debug, Parser)]
#[command(name = "skein-sim", version)]
struct Args {
    /// How many seeds.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// How many run at once; 0 for as many as there are processors.
    #[arg(long, default_value_t = 0)]
    jobs: u64,
    /// Print what happens, as it happens.
    #[arg(long)]
    trace: bool,
    /// Print every piece of bytes that the network hands over: where two runs of a seed differ first tells what differs.
    #[arg(long)]
    bytes: bool,
    /// What is simulated.
    #[arg(long, value_enum, default_value_t = What::Cell)]
    what: What,
}

/// What is simulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// The whole cell.
    Cell,
    /// Replicated cohorts, under a catalog that never fails.
    Cohorts,
}

impl What {
    fn name(self) -> &'static str {
        match self {
            What::Cell => "cell",
            What::Cohorts => "cohorts",
        }
    }
}

/// What all seeds came to.
#[derive(Default)]
struct Sum {
    failed: Vec<u64>,
    tally: Tally,
    simulated: Duration,
    worked: Duration,
}

/// Where one thread is, for whoever watches over it.
#[derive(Default)]
struct Progress {
    seed: AtomicU64,
    moved: AtomicU64,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let jobs = match args.jobs {
        0 => std::thread::available_parallelism().map_or(1, |n| n.get() as u64),
        n => n,
    };
    let begun = Instant::now();
    let next = Arc::new(AtomicU64::new(args.first));
    let end = args.first.saturating_add(args.seeds);
    let sum = Arc::new(Mutex::new(Sum::default()));
    let what = args.what;
    let threads: Vec<_> = (0..jobs.min(args.seeds.max(1)))
        .map(|_| {
            let (next, sum, progress) = (next.clone(), sum.clone(), Arc::new(Progress::default()));
            let watched = progress.clone();
            let worker = std::thread::spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if end <= seed {
                        return;
                    }
                    progress.seed.store(seed, Ordering::Relaxed);
                    // A thread for each seed: nothing that one leaves behind on its thread can reach another.
                    let (progress, sum) = (progress.clone(), sum.clone());
                    let done = std::thread::spawn(move || {
                        one(what, seed, (args.trace, args.bytes), &progress, &sum)
                    })
                    .join();
                    if done.is_err() {
                        println!("seed {seed}: the simulator itself panicked");
                        std::process::exit(2);
                    }
                }
            });
            (worker, watched)
        })
        .collect();
    watch_over(&threads, begun, what);
    for (thread, _) in threads {
        let _ = thread.join();
    }
    report(&sum.lock().unwrap_or_else(PoisonError::into_inner), begun.elapsed(), args.seeds)
}

/// Runs one seed and prints its line.
fn one(what: What, seed: u64, print: (bool, bool), progress: &Arc<Progress>, sum: &Mutex<Sum>) {
    let begun = Instant::now();
    let plan = Plan::draw(seed);
    let brief = plan.brief();
    let trace = Trace::printing(print.0, print.1);
    let moved = progress.clone();
    trace.on_tick(move || {
        moved.moved.fetch_add(1, Ordering::Relaxed);
    });
    let result = match what {
        What::Cell => run(Whole, plan, trace),
        What::Cohorts => run(Cohorts::default(), plan, trace),
    };
    let took = begun.elapsed();
    let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
    let (outcome, why) = match &result {
        Ok(outcome) => (outcome, None),
        Err(failure) => {
            let Failure { why, outcome } = failure.as_ref();
            (outcome, Some(why))
        }
    };
    println!("seed {seed}: {} {}", if why.is_none() { "ok" } else { "FAILED" }, line(outcome, took));
    if let Some(why) = why {
        println!("  because: {why}");
        println!("  plan:    {brief}");
        println!("  again:   {} --first {seed} --seeds 1 --trace", command(what));
        sum.failed.push(seed);
    }
    sum.tally.merge(&outcome.tally);
    sum.simulated += Duration::from_millis(outcome.simulated_millis);
    sum.worked += took;
}

fn command(what: What) -> String {
    format!("cargo run -p skein-sim --features cell --bin skein-sim -- --what {}", what.name())
}

fn line(outcome: &Outcome, took: Duration) -> String {
    let simulated = outcome.simulated_millis as f64 / 1000.0;
    let tally = &outcome.tally;
    format!(
        "{simulated:.1} s in {:.2} s ({:.0} x), {} commits, {} reads, {} scans, {} leaders, {} atlases, {} starts, trace {:016x}",
        took.as_secs_f64(),
        simulated / took.as_secs_f64().max(1e-9),
        tally.get("commits"),
        tally.get("reads"),
        tally.get("scans"),
        tally.get("leaders seen to change"),
        tally.get("atlas versions"),
        tally.get("starts"),
        outcome.trace,
    )
}

/// Ends the process should a seed hang, and says which.
fn watch_over(threads: &[(std::thread::JoinHandle<()>, Arc<Progress>)], begun: Instant, what: What) {
    let mut last: Vec<(u64, Instant)> = vec![(0, begun); threads.len()];
    while threads.iter().any(|(thread, _)| !thread.is_finished()) {
        std::thread::sleep(Duration::from_millis(20));
        for ((thread, progress), (moved, since)) in threads.iter().zip(&mut last) {
            let now = progress.moved.load(Ordering::Relaxed);
            if now != *moved {
                (*moved, *since) = (now, Instant::now());
            } else if !thread.is_finished() && STUCK < since.elapsed() {
                let seed = progress.seed.load(Ordering::Relaxed);
                println!("seed {seed}: FAILED: simulated time has stood still for {STUCK:?}");
                println!("  again:   {} --first {seed} --seeds 1 --trace", command(what));
                std::process::exit(3);
            }
        }
    }
}

fn report(sum: &Sum, took: Duration, seeds: u64) -> ExitCode {
    println!();
    for (what, n) in sum.tally.iter() {
        println!("{n:>10} {what}");
    }
    let simulated = sum.simulated.as_secs_f64();
    println!(
        "{} of {seeds} seeds failed; {simulated:.0} s of the cell's time in {:.1} s, {:.0} times as fast on each processor",
        sum.failed.len(),
        took.as_secs_f64(),
        simulated / sum.worked.as_secs_f64().max(1e-9),
    );
    if sum.failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("failed: {:?}", sum.failed);
    ExitCode::FAILURE
}
