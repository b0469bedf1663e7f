//! The options of `skein bench`, and the part of them that every load shares.

use crate::drive::Length;
use crate::error::BenchError;
use crate::workload::{Values, Workload};
use std::path::PathBuf;
use std::time::Duration;

/// Options of `skein bench`.
///
/// Example: `skein bench --workload put,get --clients 1,64 --prefill --json bench.json`
#[derive(Clone, Debug, clap::Args)]
pub struct BenchArgs {
    /// The servers of the cell to ask, separated by commas; clients are dealt out to them in turn.
    #[arg(long = "url", default_value = "http://127.0.0.1:7070", value_delimiter = ',')]
    pub urls: Vec<String>,

    /// The table to write and read: an ID, or a name that the schema has. Its rows are overwritten.
    #[arg(long, default_value = "0xBE7C")]
    pub table: String,

    /// Where the file of the `fsync` workload is made, and removed afterwards.
    #[arg(long, default_value = ".")]
    pub dir: PathBuf,

    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would print a comment here as the command's description")]
    pub load: LoadArgs,
}

/// What is asked, by how many clients, for how long; and where the numbers go.
#[derive(Clone, Debug, clap::Args)]
pub struct LoadArgs {
    /// What is asked; several are run one after the other.
    #[arg(long = "workload", value_enum, value_delimiter = ',', default_values_t = [Workload::Put, Workload::Get])]
    pub workloads: Vec<Workload>,

    /// How many clients ask, each on its own connection and one request at a time; several numbers are run one
    /// after the other.
    #[arg(long, value_delimiter = ',', default_values_t = [64], value_parser = clap::value_parser!(u64).range(1..=256))]
    pub clients: Vec<u64>,

    /// Bytes of each value: a JSON string, its quotes included.
    #[arg(long, default_value_t = 100)]
    pub value_bytes: usize,

    /// How many rows the operations spread over.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=99_999_999_999))]
    pub keys: u64,

    /// How long to measure, after the warm-up.
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration, conflicts_with = "ops")]
    pub duration: Duration,

    /// How many operations to measure, instead of a duration.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub ops: Option<u64>,

    /// How long to ask before anything is counted.
    #[arg(long, default_value = "2s", value_parser = humantime::parse_duration)]
    pub warmup: Duration,

    /// Requests per second, sent on schedule whatever the server does; latency then counts from the scheduled
    /// moment. Without it each client asks again as soon as it has its answer.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub rate: Option<u64>,

    /// How long a request may take before it is given up and counted as failed.
    #[arg(long, default_value = "30s", value_parser = humantime::parse_duration)]
    pub timeout: Duration,

    /// Seed of all that is random: the same seed asks the same questions.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,

    /// How many threads ask.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=64))]
    pub threads: u64,

    /// Write all rows of the key spread first, so that there is something to read.
    #[arg(long)]
    pub prefill: bool,

    /// Also write the results to this file, as JSON.
    #[arg(long)]
    pub json: Option<PathBuf>,
}

impl LoadArgs {
    /// Refuses options that contradict each other, with what to do instead.
    pub fn check(&self) -> Result<(), BenchError> {
        let wrong = |text: String| Err(BenchError::Options(text));
        if self.value_bytes < Values::BYTES_MIN {
            return wrong(format!(
                "--value-bytes {} leaves no room for the quotes of a JSON string; give at least {}",
                self.value_bytes,
                Values::BYTES_MIN
            ));
        }
        if self.value_bytes > skein_model::limits::VALUE_BYTES_MAX {
            return wrong(format!(
                "--value-bytes {} is more than a value may have; give at most {}",
                self.value_bytes,
                skein_model::limits::VALUE_BYTES_MAX
            ));
        }
        if self.workloads.contains(&Workload::Batch2) && self.keys < 2 {
            return wrong("workload batch2 writes two different rows; give --keys 2 or more".to_owned());
        }
        if self.rate.is_some() && self.workloads.contains(&Workload::Fsync) {
            return wrong("workload fsync has no schedule; leave out --rate".to_owned());
        }
        Ok(())
    }

    /// When a run ends.
    pub fn length(&self) -> Length {
        self.ops.map_or(Length::For(self.duration), Length::Ops)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        bench: BenchArgs,
    }

    fn parse(args: &[&str]) -> Result<BenchArgs, clap::Error> {
        Cli::try_parse_from(std::iter::once(&"bench").chain(args)).map(|cli| cli.bench)
    }

    #[test]
    fn without_options_it_puts_and_gets_with_64_clients() {
        let args = parse(&[]).unwrap();
        assert_eq!(args.load.workloads, [Workload::Put, Workload::Get]);
        assert_eq!(args.load.clients, [64]);
        assert_eq!(args.load.length(), Length::For(Duration::from_secs(10)));
        args.load.check().unwrap();
    }

    #[test]
    fn workloads_and_clients_are_lists_in_either_spelling() {
        let args =
            parse(&["--workload", "put,scan", "--workload", "hot", "--clients", "1,16", "--clients", "128"])
                .unwrap();
        assert_eq!(args.load.workloads, [Workload::Put, Workload::Scan, Workload::Hot]);
        assert_eq!(args.load.clients, [1, 16, 128]);
    }

    #[test]
    fn operations_and_a_duration_exclude_each_other() {
        assert_eq!(parse(&["--ops", "500"]).unwrap().load.length(), Length::Ops(500));
        assert!(parse(&["--ops", "500", "--duration", "1s"]).is_err());
    }

    #[test]
    fn client_counts_outside_1_to_256_are_refused() {
        assert!(parse(&["--clients", "0"]).is_err());
        assert!(parse(&["--clients", "64,257"]).is_err());
    }

    #[test]
    fn contradictions_are_refused_with_advice() {
        for (args, advice) in [
            (&["--value-bytes", "1"][..], "at least 2"),
            (&["--value-bytes", "99999999"], "at most"),
            (&["--workload", "batch2", "--keys", "1"], "--keys 2"),
            (&["--workload", "fsync", "--rate", "10"], "leave out --rate"),
        ] {
            let error = parse(args).unwrap().load.check().unwrap_err().to_string();
            assert!(error.contains(advice), "{error}");
        }
    }
}
