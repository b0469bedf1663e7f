//! Replicas of one cohort that crash, are cut off, hand over and change members while clients write and read; on one thread and
//! tokio's paused clock, so a seed replays.
//!
//! Reading order: `network` (how replicas reach each other), `world` (replicas on machines that crash), `clients` (what they do,
//! and what they were told), then the stories. `SKEIN_SEEDS` sets how many seeds each seeded story is told with.
// Helpers are not tests by themselves, and may unwrap like tests.
#![allow(clippy::unwrap_used)]

mod clients;
mod network;
mod stories;
mod world;
