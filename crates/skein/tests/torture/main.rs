//! The real binary on a real disk, treated badly: killed under load, damaged at rest, run out of space.
//!
//! Each test has a short form, which runs by default, and a long one; `docs/TESTING.md` says how to run it. All luck
//! comes from `SKEIN_SEED`, which a failing test prints; where a kill meets the server is nevertheless up to the machine.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "../support/mod.rs"]
mod support;

mod cell;
mod damage;
mod disk_full;
mod history;
mod kill;
mod ledger;
mod load;
mod luck;
mod nets;
