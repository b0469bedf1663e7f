//! What a peer keeps on its drives: the durable log, and the rows with their history.
//!
//! The log is the truth and the rows are its image: whatever was acknowledged is in [`log`], and what the row
//! store lost in a crash is applied again from there. Read in this order: [`disk`] (the seam to stable
//! storage, real or in memory), [`log`], then [`engine`] and [`rows`]; [`drives`] is where a peer finds all of them.
#![forbid(unsafe_code)]

pub mod disk;

pub mod drives;
pub mod engine;
pub mod log;
pub mod rows;

mod blocking;

pub use blocking::{Unfinished, blocking};
