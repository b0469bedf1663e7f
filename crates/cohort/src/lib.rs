//! One cohort: the replicas that share some of the rows, as one Raft group.
//!
//! A write passes through these files in this order:
//!
//! 1. [`cohort`]: looks up what the transaction depends on, and hands it over;
//! 2. `proposer`: the one task that takes all that arrived and asks
//! 3. [`sequencer`]: checks conditions against what is stored *and* what is proposed, gives the time by [`clock`],
//!    and packs the decision into an [`entry`];
//! 4. `raft`: appends the entry to the durable log, commits it, applies it to the rows;
//! 5. `shared`: tells the readers that it is applied, then the waiting writer.
//!
//! Who leads does so by *reigns*, and what may be read and told when leadership moves is written down in `shared`.
//! Entry, clock and sequencer are pure: they read no clock, own no randomness and do no IO.
#![forbid(unsafe_code)]

pub mod clock;
mod cohort;
pub mod entry;
mod error;
#[doc(hidden)]
pub mod fuzzing;
pub mod group;
mod housekeeping;
mod life;
pub mod machine;
pub mod peers;
mod pins;
mod proposer;
mod raft;
mod recorded;
mod rows_machine;
pub mod sequencer;
mod shared;

pub use cohort::{Cohort, CohortOptions, Read, Scan, ScanOptions};
pub use entry::Outcome;
pub use error::CohortError;
pub use life::remove_replica;
pub use pins::KEPT_FOR;
pub use proposer::Room;
pub use shared::WallClock;
