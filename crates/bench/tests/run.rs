//! One whole call of the load generator, as the binary makes it.

use clap::Parser;
use skein_bench::{BenchArgs, BenchError};

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    bench: BenchArgs,
}

fn args(args: &[&str]) -> BenchArgs {
    Cli::parse_from(std::iter::once(&"bench").chain(args)).bench
}

#[tokio::test]
async fn the_limits_of_the_machine_need_no_server_and_end_up_in_the_json() {
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("out.json");
    let mut args = args(&["--workload", "fsync,loopback,hello", "--ops", "20", "--warmup", "0s"]);
    args.load.clients = vec![1, 2];
    args.load.json = Some(json.clone());
    args.dir = dir.path().to_owned();
    skein_bench::run(args).await.unwrap();

    let results: serde_json::Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    let runs: Vec<_> = results["runs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|run| {
            (
                run["workload"].as_str().unwrap(),
                run["clients"].as_u64().unwrap(),
                run["ops"].as_u64().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        runs,
        [("fsync", 1, 20), ("loopback", 1, 20), ("loopback", 2, 20), ("hello", 1, 20), ("hello", 2, 20)]
    );
    assert!(results["machine"]["cores"].as_u64().unwrap() >= 1);
    assert!(results["runs"][0]["latency_us"]["p99.9"].as_f64().unwrap() > 0.0);
    let left: Vec<_> =
        std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["out.json"], "the file that was synced is gone");
}

#[tokio::test]
async fn without_a_server_the_run_ends_with_its_address() {
    // Nobody is given this port unless he asks for it.
    let address = "127.0.0.1:1";
    let mut args = args(&["--workload", "put", "--ops", "20"]);
    args.urls = vec![format!("http://{address}")];
    let error = skein_bench::run(args).await.unwrap_err();
    assert!(matches!(&error, BenchError::Connect { address: named, .. } if named == address), "{error}");
}

#[tokio::test]
async fn a_result_file_that_cannot_be_written_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut args = args(&["--workload", "loopback", "--ops", "2", "--warmup", "0s", "--clients", "1"]);
    args.load.json = Some(dir.path().join("no/such/dir.json"));
    let error = skein_bench::run(args).await.unwrap_err().to_string();
    assert!(error.contains("no/such/dir.json"), "{error}");
}
