//! The HTTP contract of `docs/HTTP.md`, asked of the real binary over real sockets: one module for each of its parts.
//!
//! Most tests share one solo server ([`support::shared`]) and have a table of their own on it; those about schema, atlas,
//! retention and limits start their own.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "../support/mod.rs"]
mod support;

mod atlas;
mod batch;
mod clocks;
mod conditions;
mod history;
mod rows;
mod scans;
mod schema;
mod surface;
mod transactions;
mod values;
mod windows;
