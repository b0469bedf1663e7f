//! Checkers: what clients of a cell saw, held against what a cell promises.
//!
//! * [`linear`]: could the calls on one row have happened one at a time?
//! * [`history`]: what clients asked for, when, and what they were told.
//! * [`truth`]: every version of every row, as the cell told it when all was over.
//! * [`outcomes`]: what was acknowledged is there, once; what was refused is not.
//! * [`rows`]: the calls on each row are linearizable.
//! * [`reads`]: every read and scan is the state at its time, and sees what was acknowledged before it.
//!
//! Each takes plain data and says in words what is wrong first. They know no server: the tests of one cohort use them
//! as the simulator of a whole cell does.

pub mod history;
pub mod linear;
pub mod outcomes;
pub mod reads;
pub mod rows;
pub mod truth;

#[cfg(test)]
mod tests;

pub use history::{Answer, Asked, Call, Change, Demand, History, Moment, Row};
pub use truth::Truth;

/// A promise that was not kept, in words for a human.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Violation(pub String);

/// Holds a finished history against the versions that are there at its end, by all checkers.
///
/// Every outcome has to be settled by then: see [`History::settle`].
pub fn check(history: &History, truth: &Truth) -> Result<(), Violation> {
    outcomes::check(history, truth)?;
    reads::check(history, truth)?;
    rows::check(history)
}
