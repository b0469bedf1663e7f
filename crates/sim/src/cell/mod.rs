//! The whole cell from one seed: the real code of three to seven peers on a simulated network, disks and clocks.
//!
//! * [`luck`]: all randomness, in streams that do not disturb each other.
//! * [`trace`]: what happened, as a hash that two runs of one seed share.
//! * [`net`]: the network of [turmoil](https://docs.rs/turmoil) under the transport.
//! * [`machine`]: what outlives a process: drives, a wall clock that errs.
//! * [`system`]: what a peer offers to be tested. The tests have one that is right by construction, and plant bugs in it.
//! * [`cohorts`]: replicated cohorts alone, with the real log, Raft and transport.
//! * [`whole`]: the whole cell.
//! * [`plan`]: what a seed stands for: how many peers, cohorts and clients, and which faults.
//! * [`workload`]: clients; [`nemesis`]: faults; [`finale`]: what is asked when all is healed.
//! * [`shared`]: what these share; [`panics`]: how a task that panics is noticed.
//! * [`tally`]: what happened in a run; one in which nothing did counts as failed.
//! * [`world`]: a run.

pub mod cohorts;
#[cfg(test)]
mod fake;
pub mod finale;
pub mod luck;
pub mod machine;
pub mod nemesis;
pub mod net;
pub mod panics;
pub mod plan;
pub mod shared;
pub mod system;
pub mod tally;
pub mod trace;
pub mod whole;
pub mod workload;
pub mod world;

#[cfg(test)]
mod tests;

pub use plan::Plan;
pub use system::{Peer, Place, System, Trouble};
pub use world::{Failure, Outcome, run};
