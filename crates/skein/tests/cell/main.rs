//! Cells of several real processes, driven as an administrator and an application drive them.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "../support/mod.rs"]
mod support;

mod addresses;
mod moves;
mod operations;
mod peers;
mod tls;
mod walkthrough;
