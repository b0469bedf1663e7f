//! Groups of several replicas over a network that loses, delays and parts, on disks that crash, in virtual time.
//!
//! Reading order: `machine` (what is replicated: the list of all commands), `net` (how replicas reach each other), `cluster`
//! (starting, killing, waiting, and what has to be true at all times), then the stories. `SKEIN_SEEDS` sets how many seeds the
//! seeded stories are told with.
// Helpers are not tests by themselves, and may unwrap like tests.
#![allow(clippy::unwrap_used)]

mod cluster;
mod elections;
mod machine;
mod members;
mod net;
mod snapshots;
mod storms;
