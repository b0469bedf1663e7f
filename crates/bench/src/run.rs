//! One call of the load generator: each workload with each number of clients, in order.

use crate::args::{BenchArgs, LoadArgs};
use crate::drive::{Plan, Target, drive, prefill};
use crate::error::BenchError;
use crate::http::HttpTarget;
use crate::limits::echo::EchoServer;
use crate::limits::fsync;
use crate::limits::hello::HelloServer;
use crate::report::{Report, Results};
use crate::tally::Tally;
use crate::workload::{Values, Workload};
use bytes::Bytes;
use std::io::Write;
use std::path::Path;

/// Runs what `args` ask for against a Skein server and prints a row per run as it ends; with `--json`, also
/// writes a file when all have ended.
///
/// Failed requests are part of the numbers, not errors. Errors: anything that left a run without numbers; rows
/// printed before it stand, and no JSON is written.
pub async fn run(args: BenchArgs) -> Result<(), BenchError> {
    args.load.check()?;
    // Resolved even if only limits are asked for: a URL nobody could use should not go unnoticed.
    let target = HttpTarget::resolve(&args.urls, &args.table).await?;
    run_load(&args.load, &target, "skein", &args.dir).await?;
    Ok(())
}

/// Runs `load` against `target`, which is printed as `system`; `dir` is where the `fsync` workload makes its
/// file. Prints and writes as [`run`] does, and gives the reports.
pub async fn run_load<T: Target>(
    load: &LoadArgs,
    target: &T,
    system: &str,
    dir: &Path,
) -> Result<Vec<Report>, BenchError> {
    load.check()?;
    if !load.workloads.iter().all(|workload| workload.is_limit()) {
        // A server that is not there is news before the table's head, not under it.
        target.connect(0).await?;
    }
    if load.prefill {
        prefill(target, load.keys, load.value_bytes, load.seed).await?;
    }
    print(&Report::table_head());
    let mut reports = Vec::new();
    for workload in &load.workloads {
        for clients in &load.clients {
            let mut plan = plan(load, *workload, *clients);
            if *workload == Workload::Fsync {
                if Some(clients) != load.clients.first() {
                    // One disk, one appender: more clients would measure the same again.
                    continue;
                }
                (plan.clients, plan.threads) = (1, 1);
            }
            let tally = measure(&plan, target, dir).await?;
            let system = if workload.is_limit() { "limit" } else { system };
            let report = Report::new(system, &plan, &tally);
            print(&report.table_row());
            reports.push(report);
        }
    }
    let missing = reports.iter().any(|report| report.workload != "put" && report.errors.contains_key("404"));
    if missing && !load.prefill {
        print("404 means that rows to be read were never written: run again with --prefill");
    }
    if let Some(path) = &load.json {
        let results = Results::new(load.warmup, load.length(), reports.clone());
        let mut json = serde_json::to_vec_pretty(&results)?;
        json.push(b'\n');
        std::fs::write(path, json).map_err(|source| BenchError::File {
            action: "write",
            path: path.clone(),
            source,
        })?;
    }
    Ok(reports)
}

fn plan(load: &LoadArgs, workload: Workload, clients: u64) -> Plan {
    Plan {
        workload,
        clients,
        threads: load.threads.min(clients),
        keys: load.keys,
        value_bytes: load.value_bytes,
        seed: load.seed,
        warmup: load.warmup,
        length: load.length(),
        rate: load.rate,
        timeout: load.timeout,
    }
}

async fn measure<T: Target>(plan: &Plan, target: &T, dir: &Path) -> Result<Tally, BenchError> {
    match plan.workload {
        Workload::Fsync => {
            let (plan, dir) = (plan.clone(), dir.to_owned());
            tokio::task::spawn_blocking(move || fsync::measure(&plan, &dir))
                .await
                .map_err(|_| BenchError::LostThread)?
        }
        Workload::Loopback => drive(plan, &EchoServer::start()?.target()).await,
        Workload::Hello => {
            let body = Bytes::copy_from_slice(Values::new(plan.value_bytes, plan.seed, 0).next_value());
            let server = HelloServer::start(body)?;
            drive(plan, &HttpTarget::at(server.address(), "localhost", "0xBE7C")).await
        }
        _ => drive(plan, target).await,
    }
}

/// Prints a line now, not when a buffer happens to be full.
fn print(line: &str) {
    let mut out = std::io::stdout().lock();
    // Nobody reading is no reason to stop: the JSON may be what is wanted.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
