//! Counting requests: handles made once, so that a request costs two atomic additions and a pushed sample.

use crate::route::{Label, Verb};
use metrics::{Counter, Histogram, counter, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use std::sync::OnceLock;
use std::time::Duration;

/// Upper bounds of the latency buckets, in seconds.
const SECONDS: [f64; 17] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
];
/// Upper bounds of the size buckets, in bytes.
const BYTES: [f64; 11] = [
    64.0,
    256.0,
    1024.0,
    4096.0,
    16384.0,
    65536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
];
/// Upper bounds of the buckets of everything else: counts of things.
const COUNTS: [f64; 13] =
    [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0, 16384.0];

/// The statuses that answers have; any other one is counted as the last.
const STATUSES: [&str; 25] = [
    "200", "204", "304", "400", "404", "405", "408", "409", "410", "412", "413", "422", "500", "503", "504",
    "507", "201", "206", "403", "411", "415", "416", "429", "501", "other",
];

/// The registry of all metrics of this process; clones share it.
#[derive(Clone)]
pub struct MetricsHandle {
    prometheus: PrometheusHandle,
}

impl std::fmt::Debug for MetricsHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MetricsHandle")
    }
}

impl MetricsHandle {
    /// Everything registered, in the text format of Prometheus.
    pub fn render(&self) -> String {
        self.prometheus.render()
    }

    /// Sorts samples that wait into their buckets; they would pile up if nobody fetched `/metrics`. The running server
    /// does this every second.
    pub fn upkeep(&self) {
        self.prometheus.run_upkeep();
    }
}

/// Installs the process's metrics recorder and answers the handle that renders it. Call it before anything registers a
/// metric, since what was registered earlier is lost; calling it again answers the same handle.
pub fn install_metrics() -> MetricsHandle {
    static INSTALLED: OnceLock<MetricsHandle> = OnceLock::new();
    INSTALLED
        .get_or_init(|| {
            let recorder = PrometheusBuilder::new()
                .set_buckets(&COUNTS)
                .and_then(|b| b.set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS))
                .and_then(|b| b.set_buckets_for_metric(Matcher::Suffix("_bytes".into()), &BYTES))
                // The only error is an empty list of buckets, and these are not.
                .unwrap_or_default()
                .build_recorder();
            let handle = MetricsHandle { prometheus: recorder.handle() };
            if metrics::set_global_recorder(recorder).is_err() {
                tracing::warn!("another metrics recorder was installed before ours; /metrics will be empty");
            }
            describe();
            handle
        })
        .clone()
}

fn describe() {
    metrics::describe_counter!(
        "skein_http_requests_total",
        "Requests answered, by route, method and status."
    );
    metrics::describe_histogram!("skein_http_request_seconds", "Time from headers read to headers sent.");
    metrics::describe_gauge!("skein_http_connections", "Connections open, by port.");
    metrics::describe_counter!("skein_http_connections_refused_total", "Connections refused at the limit.");
    metrics::describe_gauge!("skein_http_inflight", "Requests being handled.");
    metrics::describe_gauge!("skein_request_memory_bytes", "Bytes held by request bodies and scans.");
    metrics::describe_gauge!("skein_process_resident_bytes", "Resident memory of this process.");
    metrics::describe_gauge!("skein_build_info", "Always 1; the labels say which build this is.");
    gauge!("skein_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
}

/// The metrics of requests.
pub(crate) struct RequestMetrics {
    /// By label, method and status; registered at first use, so that only what happened is shown.
    answered: Box<[OnceLock<Counter>]>,
    seconds: [Histogram; Label::ALL.len()],
}

impl RequestMetrics {
    pub(crate) fn new() -> Self {
        let cells = Label::ALL.len() * Verb::COUNT * STATUSES.len();
        Self {
            answered: std::iter::repeat_with(OnceLock::new).take(cells).collect(),
            seconds: Label::ALL
                .map(|label| histogram!("skein_http_request_seconds", "route" => label.name())),
        }
    }

    /// Counts one answer.
    pub(crate) fn record(&self, label: Label, verb: Verb, status: http::StatusCode, took: Duration) {
        let status = status_index(status);
        let cell = (label as usize * Verb::COUNT + verb as usize) * STATUSES.len() + status;
        self.answered[cell]
            .get_or_init(|| {
                counter!(
                    "skein_http_requests_total",
                    "route" => label.name(), "method" => verb.name(), "status" => STATUSES[status]
                )
            })
            .increment(1);
        self.seconds[label as usize].record(took.as_secs_f64());
    }
}

fn status_index(status: http::StatusCode) -> usize {
    let text = status.as_str();
    STATUSES.iter().position(|s| *s == text).unwrap_or(STATUSES.len() - 1)
}

/// Resident memory of this process in bytes; `None` where `/proc` does not tell.
pub(crate) fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::StatusCode;

    #[test]
    fn an_answer_is_counted_once_under_its_route_method_and_status() {
        let handle = install_metrics();
        let requests = RequestMetrics::new();
        for _ in 0..3 {
            requests.record(
                Label::Hosts,
                Verb::Delete,
                StatusCode::METHOD_NOT_ALLOWED,
                Duration::from_micros(70),
            );
        }
        handle.upkeep();
        let text = handle.render();
        let counted = "skein_http_requests_total{route=\"hosts\",method=\"DELETE\",status=\"405\"} 3";
        assert!(text.contains(counted), "{text}");
        assert!(
            text.contains("skein_http_request_seconds_bucket{route=\"hosts\",le=\"0.00005\"} 0"),
            "{text}"
        );
        assert!(
            text.contains("skein_http_request_seconds_bucket{route=\"hosts\",le=\"0.0001\"} 3"),
            "{text}"
        );
    }

    #[test]
    fn every_status_of_a_problem_has_its_own_count() {
        for kind in crate::problem::Kind::ALL {
            assert!(status_index(kind.status()) < STATUSES.len() - 1, "{}", kind.name());
        }
        assert_eq!(STATUSES[status_index(StatusCode::IM_A_TEAPOT)], "other");
    }

    #[test]
    fn a_process_knows_how_much_memory_it_occupies() {
        if let Some(bytes) = resident_bytes() {
            assert!((1 << 20..1 << 40).contains(&bytes));
        }
    }
}
