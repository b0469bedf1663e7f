//! Hostile and broken clients, against the real binary: every one of them gets a clear answer or is cut, nothing that they
//! smuggle in is written, memory stays bounded, and everybody else goes on being served.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "../support/mod.rs"]
mod support;

mod crowds;
mod framing;
mod mutants;
mod nonsense;

use support::Server;
use support::shared::Table;
use support::wire::ask;

/// What a server resides in, in bytes.
fn resident_bytes(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().trim().parse::<u64>().unwrap() << 10
}

/// Checks that nothing was written to the table's row `smuggled`, and that others are served as before.
fn unharmed(table: &Table) {
    assert_eq!(table.get("smuggled").number("value-txclock"), 0, "something was smuggled in");
    let time = table.put("honest", "1");
    assert_eq!(table.get("honest").number("value-txclock"), time);
    sound(&table.solo.server);
}

/// Checks that no part of a server failed.
fn sound(server: &Server) {
    assert_eq!(ask(&server.admin, "GET", "/health/ready", &[], b"").status, 200);
    let complaints = server.complaints();
    assert!(!complaints.contains("panicked"), "{complaints}");
}
