//! The numbers, as a table for the eye and as JSON for everything else.

use crate::drive::{Length, Plan};
use crate::tally::Tally;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Latencies of one run in microseconds, over successful operations only.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Latency {
    /// Smallest.
    pub min: f64,
    /// Mean.
    pub mean: f64,
    /// Half took at most this.
    pub p50: f64,
    /// 90 % took at most this.
    pub p90: f64,
    /// 99 % took at most this.
    pub p99: f64,
    /// 99.9 % took at most this.
    #[serde(rename = "p99.9")]
    pub p999: f64,
    /// Largest.
    pub max: f64,
}

/// One run: what was asked, and what came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Who was asked.
    pub system: String,
    /// What was asked.
    pub workload: &'static str,
    /// By how many clients.
    pub clients: u64,
    /// On how many threads.
    pub threads: u64,
    /// Bytes of each value.
    pub value_bytes: usize,
    /// Rows of the key spread.
    pub keys: u64,
    /// Seed of the questions.
    pub seed: u64,
    /// Scheduled arrivals per second; `None` when each client asked as fast as it was answered.
    pub rate: Option<u64>,
    /// From the first counted operation's start to the last one's end.
    pub seconds: f64,
    /// Operations that succeeded.
    pub ops: u64,
    /// Operations that succeeded, per second.
    pub ops_per_second: f64,
    /// Failed operations by HTTP status or kind.
    pub errors: BTreeMap<String, u64>,
    /// Scheduled arrivals that no client was free to send before the end.
    pub unsent: u64,
    /// Absent when nothing succeeded.
    pub latency_us: Option<Latency>,
    /// Rows read per second; scans only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows_per_second: Option<f64>,
    /// Bytes of answers read per second; scans only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<f64>,
}

impl Report {
    /// Tells what `tally` counted when `system` was asked as `plan` says.
    pub fn new(system: &str, plan: &Plan, tally: &Tally) -> Self {
        let seconds = tally.seconds();
        let per_second = |count: u64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
        let us = |nanos: u64| nanos as f64 / 1000.0;
        let latency = &tally.latency;
        let scan = tally.rows > 0;
        Report {
            system: system.to_owned(),
            workload: plan.workload.name(),
            clients: plan.clients,
            threads: plan.threads,
            value_bytes: plan.value_bytes,
            keys: plan.keys,
            seed: plan.seed,
            rate: plan.rate,
            seconds,
            ops: tally.done(),
            ops_per_second: per_second(tally.done()),
            errors: tally.failures.iter().map(|(failure, count)| (failure.to_string(), *count)).collect(),
            unsent: tally.unsent,
            latency_us: (tally.done() > 0).then(|| Latency {
                min: us(latency.min()),
                mean: latency.mean() / 1000.0,
                p50: us(latency.value_at_quantile(0.5)),
                p90: us(latency.value_at_quantile(0.9)),
                p99: us(latency.value_at_quantile(0.99)),
                p999: us(latency.value_at_quantile(0.999)),
                max: us(latency.max()),
            }),
            rows_per_second: scan.then(|| per_second(tally.rows)),
            bytes_per_second: scan.then(|| per_second(tally.bytes)),
        }
    }

    /// The line above the rows of the table.
    pub fn table_head() -> String {
        format!(
            "{:<10} {:<9} {:>7} {:>10} {:>9} {:>9} {:>9} {:>9} {:>9}  {}",
            "system",
            "workload",
            "clients",
            "ops/s",
            "p50 us",
            "p90 us",
            "p99 us",
            "p99.9 us",
            "max us",
            "errors"
        )
    }

    /// This run's row of the table.
    pub fn table_row(&self) -> String {
        let mut row = format!(
            "{:<10} {:<9} {:>7} {:>10}",
            self.system,
            self.workload,
            self.clients,
            rounded(self.ops_per_second)
        );
        // Writing to a string cannot fail.
        match &self.latency_us {
            Some(l) => {
                for value in [l.p50, l.p90, l.p99, l.p999, l.max] {
                    let _ = write!(row, " {:>9}", rounded(value));
                }
            }
            None => row.extend(std::iter::repeat_n(format!(" {:>9}", "-"), 5)),
        }
        row.push_str("  ");
        row.push_str(&self.remarks());
        row.trim_end().to_owned()
    }

    /// Errors, arrivals not sent, and a scan's throughput; `-` when there is nothing to say.
    fn remarks(&self) -> String {
        let mut remarks = Vec::new();
        for (kind, count) in &self.errors {
            remarks.push(format!("{count} x {kind}"));
        }
        if self.unsent > 0 {
            remarks.push(format!("{} due but never sent", self.unsent));
        }
        if let (Some(rows), Some(bytes)) = (self.rows_per_second, self.bytes_per_second) {
            remarks.push(format!("{} rows/s, {} MB/s", rounded(rows), rounded(bytes / 1e6)));
        }
        if remarks.is_empty() { "-".to_owned() } else { remarks.join(", ") }
    }
}

/// Three significant digits or whole numbers, whichever is more.
fn rounded(value: f64) -> String {
    let digits = match value {
        v if v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.digits$}")
}

/// The machine a number comes from, without which it means little.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Name and release of the operating system's kernel.
    pub kernel: String,
    /// The processor's name for itself; empty where it is not told.
    pub cpu: String,
    /// Cores this process may use.
    pub cores: usize,
    /// Bytes of memory; 0 where it is not told.
    pub memory_bytes: u64,
}

impl Machine {
    /// The one we run on.
    pub fn here() -> Self {
        let uname = rustix::system::uname();
        let cpu_info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let memory_info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        Machine {
            kernel: format!("{} {}", uname.sysname().to_string_lossy(), uname.release().to_string_lossy()),
            cpu: field(&cpu_info, "model name").unwrap_or_default().to_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: field(&memory_info, "MemTotal")
                .and_then(|text| text.strip_suffix(" kB")?.parse::<u64>().ok())
                .map_or(0, |kib| kib * 1024),
        }
    }
}

/// The value of the first line `name : value`.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim())
    })
}

/// Everything one call measured.
#[derive(Clone, Debug, Serialize)]
pub struct Results {
    /// Version of this load generator.
    pub version: &'static str,
    /// The command line, as typed.
    pub command: Vec<String>,
    /// Where it ran.
    pub machine: Machine,
    /// Seconds of warm-up before each run.
    pub warmup_seconds: f64,
    /// Seconds each run was to measure, if it was not a number of operations.
    pub duration_seconds: Option<f64>,
    /// One entry per run, in order.
    pub runs: Vec<Report>,
}

impl Results {
    /// Gathers the reports of runs of one `length`, each after `warmup`.
    pub fn new(warmup: std::time::Duration, length: Length, runs: Vec<Report>) -> Self {
        Results {
            version: env!("CARGO_PKG_VERSION"),
            command: std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect(),
            machine: Machine::here(),
            warmup_seconds: warmup.as_secs_f64(),
            duration_seconds: match length {
                Length::For(time) => Some(time.as_secs_f64()),
                Length::Ops(_) => None,
            },
            runs,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tally::{Done, Failure};
    use crate::workload::Workload;
    use std::time::{Duration, Instant};

    fn plan() -> Plan {
        Plan {
            workload: Workload::Put,
            clients: 64,
            threads: 1,
            keys: 10,
            value_bytes: 100,
            seed: 1,
            warmup: Duration::ZERO,
            length: Length::Ops(1),
            rate: None,
            timeout: Duration::from_secs(1),
        }
    }

    /// A thousand operations of 1 to 1000 µs, one after the other, and one failure.
    fn tally() -> Tally {
        let mut tally = Tally::new();
        let mut t = Instant::now();
        for us in 1..=1000 {
            let end = t + Duration::from_micros(us);
            tally.record(t, t, end, Ok(Done::default()));
            t = end;
        }
        tally.record(t, t, t, Err(Failure::Status(503)));
        tally
    }

    #[test]
    fn percentiles_and_rate_are_those_of_the_operations() {
        let report = Report::new("skein", &plan(), &tally());
        let latency = report.latency_us.unwrap();
        for (value, about) in
            [(latency.p50, 500.0), (latency.p90, 900.0), (latency.p99, 990.0), (latency.p999, 999.0)]
        {
            assert!((value - about).abs() < about / 500.0, "{value} is not about {about}");
        }
        // 1000 operations in 1 + 2 + … + 1000 µs.
        assert!((report.ops_per_second - 1000.0 / 0.5005).abs() < 0.01, "{}", report.ops_per_second);
    }

    #[test]
    fn a_row_lines_up_with_its_head_and_names_its_errors() {
        let (head, row) = (Report::table_head(), Report::new("skein", &plan(), &tally()).table_row());
        assert_eq!(head.find("errors"), row.find("1 x 503"), "{head}\n{row}");
    }

    #[test]
    fn nothing_done_is_told_as_such() {
        let mut tally = Tally::new();
        let t = Instant::now();
        tally.record(t, t, t, Err(Failure::Named("timed out")));
        let report = Report::new("skein", &plan(), &tally);
        let (head, row) = (Report::table_head(), report.table_row());
        assert_eq!(head.find("errors"), row.find("1 x timed out"), "{head}\n{row}");
        assert!(serde_json::to_value(&report).unwrap()["latency_us"].is_null());
    }

    #[test]
    fn a_scan_tells_rows_and_bytes_and_other_workloads_do_not() {
        let mut tally = Tally::new();
        let t = Instant::now();
        tally.record(t, t, t + Duration::from_secs(2), Ok(Done { rows: 1000, bytes: 8_000_000 }));
        let report = Report::new("skein", &plan(), &tally);
        assert_eq!((report.rows_per_second, report.bytes_per_second), (Some(500.0), Some(4_000_000.0)));
        assert!(report.table_row().ends_with("500 rows/s, 4.00 MB/s"));
        let json = serde_json::to_value(Report::new("skein", &plan(), &Tally::new())).unwrap();
        assert!(json.get("rows_per_second").is_none());
    }

    #[test]
    fn a_field_of_the_kernels_files_is_found_by_its_whole_name() {
        let text = "model\t\t: 17\nmodel name\t: A CPU: fast\n";
        assert_eq!(field(text, "model name"), Some("A CPU: fast"));
        assert_eq!(field(text, "name"), None);
    }
}
