//! Skein and etcd side by side: one load generator, one histogram, two protocols.
//!
//! `skein-bench-compare etcd …` and `… skein …` each ask one of them and write JSON; `… summary …` reads what
//! rounds of both have left and prints ratios. The script `run` beside this package does all of it.
#![forbid(unsafe_code)]

mod etcd;
mod summary;

use clap::{Parser, Subcommand};
use skein_bench::{BenchArgs, BenchError, LoadArgs, Workload};
use std::error::Error;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Parser)]
#[command(version, about = "Skein and etcd side by side")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Asks etcd over gRPC.
    Etcd(EtcdArgs),
    /// Asks Skein over HTTP, as `skein bench` does.
    Skein(BenchArgs),
    /// Reads the rounds of both and prints one table with their ratios.
    Summary(SummaryArgs),
}

#[derive(clap::Args)]
struct EtcdArgs {
    /// Where etcd's nodes listen for clients, separated by commas.
    #[arg(long = "url", default_value = "http://127.0.0.1:2379", value_delimiter = ',')]
    urls: Vec<String>,

    /// Connections to each node that the clients of a thread share. A gRPC connection carries many requests at once, so fewer
    /// than clients cost both sides less.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=256))]
    connections: u64,

    #[command(flatten)]
    load: LoadArgs,
}

#[derive(clap::Args)]
struct SummaryArgs {
    /// Directory with `etcd-N.json` and `skein-N.json` for N = 1, 2, …, and `limits-N.json` where measured.
    dir: PathBuf,

    /// A fact to be recorded with the numbers, as NAME=VALUE; any number of them.
    #[arg(long = "fact", value_parser = parse_fact)]
    facts: Vec<(String, String)>,

    /// Also write the table's numbers to this file, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

fn parse_fact(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("it should look like NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Etcd(args) => on_runtime(ask_etcd(args)),
        Command::Skein(args) => on_runtime(skein_bench::run(args)),
        Command::Summary(args) => summarise(args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("skein-bench-compare: {error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                eprintln!("  because: {error}");
                cause = error.source();
            }
            ExitCode::FAILURE
        }
    }
}

fn on_runtime(work: impl Future<Output = Result<(), BenchError>>) -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(work)?)
}

async fn ask_etcd(args: EtcdArgs) -> Result<(), BenchError> {
    if args.load.workloads.contains(&Workload::Scan) {
        return Err(BenchError::Options(
            "workload scan is not asked of etcd: it has no streamed scan to compare with".to_owned(),
        ));
    }
    let target = etcd::EtcdTarget::new(&args.urls, args.connections);
    skein_bench::run_load(&args.load, &target, "etcd", ".".as_ref()).await?;
    Ok(())
}

fn summarise(args: SummaryArgs) -> Result<(), Box<dyn Error>> {
    let summary = summary::Summary::read(&args.dir, args.facts.into_iter().collect())?;
    if let Some(path) = &args.json {
        std::fs::write(path, serde_json::to_vec_pretty(&summary)?).map_err(|source| BenchError::File {
            action: "write",
            path: path.clone(),
            source,
        })?;
    }
    std::io::stdout().write_all(summary.markdown().as_bytes())?;
    Ok(())
}
