//! The requests that were carried out lately, so that one that is sent again takes effect once.
//!
//! The memory is bounded by number, so it has to know how far back it reaches: a request names a place of the log that
//! was decided before it was sent first, and if the memory has let go of anything later than that, nobody can tell whether
//! the request was among it. It is then refused instead of being carried out twice.

use super::command::{Outcome, Refusal};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// How many requests are remembered.
pub(crate) const REMEMBERED_MAX: usize = 1024;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Recent {
    /// In the order of the log: which request, in which entry, and what it came to; `None` if it was refused for good.
    done: VecDeque<(u128, u64, Option<Outcome>)>,
    /// Index of the newest request that is no longer remembered; 0 for none.
    forgotten: u64,
}

impl Recent {
    /// What a request came to, if it is remembered: the outcome, or that it was refused for good.
    pub(crate) fn outcome(&self, id: u128) -> Option<Option<Outcome>> {
        self.done.iter().rev().find(|(done, ..)| *done == id).map(|(.., outcome)| *outcome)
    }

    /// Refuses a request that might have been carried out and forgotten since.
    pub(crate) fn check_reaches(&self, after: u64) -> Result<(), Refusal> {
        if after < self.forgotten { Err(Refusal::TooOld { after, since: self.forgotten }) } else { Ok(()) }
    }

    pub(crate) fn remember(&mut self, id: u128, index: u64, outcome: Option<Outcome>) {
        self.done.push_back((id, index, outcome));
        while REMEMBERED_MAX < self.done.len() {
            if let Some((_, oldest, _)) = self.done.pop_front() {
                self.forgotten = oldest;
            }
        }
    }
}
