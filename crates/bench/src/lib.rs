//! The load generator behind `skein bench`: what a database does for how many clients, how fast, and how
//! that compares with what the disk and the network alone would allow.
//!
//! It shares its machine with the server it measures, so it is built to cost little: one connection and one
//! task per client on one thread, requests written by hand into a reused buffer ([`request`]), answers read by
//! a small parser that allocates nothing ([`response`]). What is asked is data ([`workload`]), drawn from a
//! seed ([`rng`]); when it is asked is either "as soon as the last answer came" or a fixed schedule
//! ([`schedule`]), and then latency counts from the scheduled moment, so that a stalled server cannot hide its
//! stall by slowing the questions down. Answers are counted in one [`tally`] per thread and told as a table
//! and as JSON ([`report`]).
//!
//! [`drive`] knows nothing of HTTP: it drives anything that is a [`Target`]. [`http`] is Skein's; [`limits`]
//! holds the bare ones (an echo, a fixed answer, a raw `fdatasync`), and the side-by-side runs in
//! `bench-compare` bring their own.
#![forbid(unsafe_code)]

pub mod args;
pub mod drive;
pub mod error;
pub mod http;
pub mod limits;
pub mod report;
pub mod request;
pub mod response;
pub mod rng;
mod run;
pub mod schedule;
pub mod tally;
pub mod workload;

pub use args::{BenchArgs, LoadArgs};
pub use drive::{Client, Target};
pub use error::BenchError;
pub use report::Report;
pub use run::{run, run_load};
pub use tally::{Failure, Outcome, Tally};
pub use workload::{Op, Values, Workload};
