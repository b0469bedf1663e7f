//! A cohort on a disk and an engine that crash, fail and fill up, under clocks that jump.
//!
//! Reading order: `machine` (what a cohort runs on), `journal` (what its clients saw), `workload` (what they do),
//! `survive` (what has to be true after a crash), then the stories. `SKEIN_SEEDS` sets how many seeds each
//! seeded story is told with.
// Helpers are not tests by themselves, and may unwrap like tests.
#![allow(clippy::unwrap_used)]

mod clocks;
mod closing;
mod crashes;
mod fsync;
mod journal;
mod machine;
mod order;
mod purges;
mod retention;
mod space;
mod survive;
mod workload;
