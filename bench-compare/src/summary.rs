//! What the rounds say together: medians, and ratios within each round, because both sides of a round had the
//! same machine in the same minute.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

/// Why rounds could not be summed up. Nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum SummaryError {
    /// A round's file could not be read.
    #[error("read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A round's file is not what the load generator writes.
    #[error("understand {path}")]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// There is no first round.
    #[error("{dir} holds no etcd-1.json: nothing to sum up")]
    Empty {
        /// The directory.
        dir: PathBuf,
    },
}

/// The parts of a round's file that are summed up.
#[derive(Debug, Deserialize)]
struct Round {
    machine: Value,
    runs: Vec<Run>,
}

#[derive(Debug, Deserialize)]
struct Run {
    workload: String,
    clients: u64,
    ops_per_second: f64,
    errors: BTreeMap<String, u64>,
    latency_us: Option<Latency>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
struct Latency {
    p50: f64,
    p99: f64,
}

/// One side of a line: each round's numbers, in order.
#[derive(Debug, Default, Serialize)]
pub struct Side {
    /// Operations per second.
    pub ops_per_second: Vec<f64>,
    /// Median latency in microseconds.
    pub p50_us: Vec<f64>,
    /// 99th percentile in microseconds.
    pub p99_us: Vec<f64>,
    /// Failed operations of all rounds.
    pub errors: u64,
}

impl Side {
    fn add(&mut self, run: &Run) {
        self.ops_per_second.push(run.ops_per_second);
        if let Some(latency) = run.latency_us {
            self.p50_us.push(latency.p50);
            self.p99_us.push(latency.p99);
        }
        self.errors += run.errors.values().sum::<u64>();
    }
}

/// One workload with one number of clients.
#[derive(Debug, Serialize)]
pub struct Line {
    /// What was asked.
    pub workload: String,
    /// By how many clients.
    pub clients: u64,
    /// etcd's numbers.
    pub etcd: Side,
    /// Skein's numbers.
    pub skein: Side,
    /// Skein's operations per second over etcd's, round by round.
    pub ratios: Vec<f64>,
}

/// One limit of the machine.
#[derive(Debug, Serialize)]
pub struct Limit {
    /// What was measured.
    pub workload: String,
    /// By how many clients.
    pub clients: u64,
    /// Its numbers.
    pub numbers: Side,
}

/// Everything the rounds say.
#[derive(Debug, Serialize)]
pub struct Summary {
    /// How many rounds.
    pub rounds: usize,
    /// The machine, as the first round describes it.
    pub machine: Value,
    /// Versions, commit and settings, as given on the command line.
    pub facts: BTreeMap<String, String>,
    /// Workloads in the order they were asked.
    pub lines: Vec<Line>,
    /// Limits in the order they were measured.
    pub limits: Vec<Limit>,
}

impl Summary {
    /// Reads rounds 1, 2, … from `dir` until one is missing.
    pub fn read(dir: &Path, facts: BTreeMap<String, String>) -> Result<Self, SummaryError> {
        let mut summary =
            Summary { rounds: 0, machine: Value::Null, facts, lines: Vec::new(), limits: Vec::new() };
        while dir.join(format!("etcd-{}.json", summary.rounds + 1)).exists() {
            let round = summary.rounds + 1;
            let etcd = read(dir.join(format!("etcd-{round}.json")))?;
            let skein = read(dir.join(format!("skein-{round}.json")))?;
            let limits = dir.join(format!("limits-{round}.json"));
            summary.add(&etcd, &skein);
            if limits.exists() {
                summary.add_limits(&read(limits)?);
            }
        }
        if summary.rounds == 0 {
            return Err(SummaryError::Empty { dir: dir.to_owned() });
        }
        Ok(summary)
    }

    /// Adds a round. Runs that only one side has are left out: there is nothing to hold them against.
    fn add(&mut self, etcd: &Round, skein: &Round) {
        if self.rounds == 0 {
            self.machine = skein.machine.clone();
        }
        self.rounds += 1;
        for theirs in &etcd.runs {
            let same = |run: &&Run| (&run.workload, run.clients) == (&theirs.workload, theirs.clients);
            let Some(ours) = skein.runs.iter().find(same) else { continue };
            let place = self
                .lines
                .iter()
                .position(|line| (&line.workload, line.clients) == (&theirs.workload, theirs.clients));
            let place = place.unwrap_or_else(|| {
                self.lines.push(Line {
                    workload: theirs.workload.clone(),
                    clients: theirs.clients,
                    etcd: Side::default(),
                    skein: Side::default(),
                    ratios: Vec::new(),
                });
                self.lines.len() - 1
            });
            let line = &mut self.lines[place];
            line.etcd.add(theirs);
            line.skein.add(ours);
            if theirs.ops_per_second > 0.0 {
                line.ratios.push(ours.ops_per_second / theirs.ops_per_second);
            }
        }
    }

    fn add_limits(&mut self, round: &Round) {
        for run in &round.runs {
            let place = self
                .limits
                .iter()
                .position(|limit| (&limit.workload, limit.clients) == (&run.workload, run.clients));
            let place = place.unwrap_or_else(|| {
                self.limits.push(Limit {
                    workload: run.workload.clone(),
                    clients: run.clients,
                    numbers: Side::default(),
                });
                self.limits.len() - 1
            });
            self.limits[place].numbers.add(run);
        }
    }

    /// The table, ready for a Markdown page.
    pub fn markdown(&self) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "Medians of {} rounds, etcd and Skein in turns; ratios are Skein over etcd within each round.\n",
            self.rounds
        );
        out.push_str(
            "| workload | clients | etcd ops/s | skein ops/s | ratio (each round) | etcd p50 / p99 ms | skein p50 / p99 ms | errors etcd / skein |\n\
             | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
        );
        for line in &self.lines {
            let each: Vec<_> = line.ratios.iter().map(|ratio| format!("{ratio:.2}")).collect();
            let _ = writeln!(
                out,
                "| {} | {} | {:.0} | {:.0} | {} ({}) | {} / {} | {} / {} | {} / {} |",
                line.workload,
                line.clients,
                median(&line.etcd.ops_per_second).unwrap_or(0.0),
                median(&line.skein.ops_per_second).unwrap_or(0.0),
                median(&line.ratios).map_or("-".to_owned(), |ratio| format!("{ratio:.2}")),
                each.join(", "),
                ms(&line.etcd.p50_us),
                ms(&line.etcd.p99_us),
                ms(&line.skein.p50_us),
                ms(&line.skein.p99_us),
                line.etcd.errors,
                line.skein.errors,
            );
        }
        if !self.limits.is_empty() {
            out.push_str("\n| limit | clients | per second | p50 / p99 ms |\n| --- | ---: | ---: | ---: |\n");
            for limit in &self.limits {
                let _ = writeln!(
                    out,
                    "| {} | {} | {:.0} | {} / {} |",
                    limit.workload,
                    limit.clients,
                    median(&limit.numbers.ops_per_second).unwrap_or(0.0),
                    ms(&limit.numbers.p50_us),
                    ms(&limit.numbers.p99_us),
                );
            }
        }
        out.push('\n');
        if let Value::Object(machine) = &self.machine {
            for (name, value) in machine {
                let _ =
                    writeln!(out, "- {name}: {}", value.as_str().map_or(value.to_string(), str::to_owned));
            }
        }
        for (name, value) in &self.facts {
            let _ = writeln!(out, "- {name}: {value}");
        }
        out
    }
}

fn read(path: PathBuf) -> Result<Round, SummaryError> {
    let bytes = std::fs::read(&path).map_err(|source| SummaryError::Read { path: path.clone(), source })?;
    serde_json::from_slice(&bytes).map_err(|source| SummaryError::Json { path, source })
}

/// The middle one, or the mean of the middle two; `None` of nothing.
fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

/// The median in milliseconds.
fn ms(us: &[f64]) -> String {
    median(us).map_or("-".to_owned(), |us| format!("{:.2}", us / 1000.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(runs: &[(&str, u64, f64)]) -> Round {
        let runs: Vec<_> = runs
            .iter()
            .map(|(workload, clients, rate)| {
                serde_json::json!({
                    "workload": workload, "clients": clients, "ops_per_second": rate,
                    "errors": {"503": 2}, "latency_us": {"p50": 1000.0, "p99": 2500.0},
                })
            })
            .collect();
        serde_json::from_value(serde_json::json!({"machine": {"cores": 2}, "runs": runs})).unwrap()
    }

    fn empty() -> Summary {
        Summary {
            rounds: 0,
            machine: Value::Null,
            facts: BTreeMap::from([("commit".to_owned(), "abc".to_owned())]),
            lines: Vec::new(),
            limits: Vec::new(),
        }
    }

    #[test]
    fn ratios_are_taken_within_rounds_and_only_of_what_both_were_asked() {
        let mut summary = empty();
        summary.add(&round(&[("put", 64, 10.0), ("get", 64, 20.0)]), &round(&[("put", 64, 40.0)]));
        summary.add(&round(&[("put", 64, 5.0)]), &round(&[("put", 64, 25.0), ("put", 1, 9.0)]));
        assert_eq!(summary.lines.len(), 1);
        assert_eq!(summary.lines[0].ratios, [4.0, 5.0]);
        assert_eq!(summary.lines[0].skein.errors, 4);
    }

    #[test]
    fn the_table_has_a_line_per_workload_and_the_facts_below() {
        let mut summary = empty();
        summary.add(&round(&[("put", 64, 10.0)]), &round(&[("put", 64, 40.0)]));
        summary.add_limits(&round(&[("fsync", 1, 3000.0)]));
        let table = summary.markdown();
        let line = "| put | 64 | 10 | 40 | 4.00 (4.00) | 1.00 / 2.50 | 1.00 / 2.50 | 2 / 2 |\n";
        assert!(table.contains(line), "{table}");
        assert!(table.contains("| fsync | 1 | 3000 | 1.00 / 2.50 |\n"), "{table}");
        assert!(table.contains("- cores: 2\n- commit: abc\n"), "{table}");
    }

    #[test]
    fn a_median_is_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0]), Some(2.5));
    }
}
