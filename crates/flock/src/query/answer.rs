//! What the asker is told in the end.

use super::exact::ExactSum;
use super::message::Question;
use super::tally::{Found, Tally};
use skein_model::HostId;
use std::fmt;
use std::time::Duration;

/// Most missing peers an answer names.
pub const MISSING_NAMED_MAX: usize = 64;

/// Who is in an answer, and who is not. Never silently partial: every peer that the asker knows of, or that any peer says it asked in
/// vain, is either counted or missing.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Coverage {
    /// Peers whose facts are in the answer, each once.
    pub counted: usize,
    /// Peers that the asker knew of when it gave the answer, those counted and those asked in vain included.
    pub known: usize,
    /// `known - counted`.
    pub missing: usize,
    /// The missing ones, by rising ID; the first [`MISSING_NAMED_MAX`].
    pub missing_named: Vec<HostId>,
    /// Counted peers of whom the asker had not heard before.
    pub unheard_of: usize,
    /// Partial answers that came in and were left out because some of their peers were counted already, or there was no room.
    pub left_out: usize,
    /// Whether the deadline ended it, rather than that everybody had answered or nobody more could be expected to.
    pub cut_off: bool,
}

impl Coverage {
    /// Whether all known peers are counted.
    pub fn is_complete(&self) -> bool {
        self.missing == 0 && !self.cut_off
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_complete() {
            return write!(f, "complete: {} of {} known peers", self.counted, self.known);
        }
        write!(f, "partial: {} of {} known peers", self.counted, self.known)?;
        if let Some((first, others)) = self.missing_named.split_first() {
            write!(f, "; nothing from {first}")?;
            match (others.first(), self.missing) {
                (None, _) => {}
                (Some(second), 2) => write!(f, " and {second}")?,
                (Some(second), missing) => write!(f, ", {second} and {} more", missing - 2)?,
            }
        }
        f.write_str(if self.cut_off { "; cut off by the deadline" } else { "" })
    }
}

/// The answer to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What the owner gave with the question.
    pub ticket: u64,
    /// What was asked.
    pub question: Question,
    /// What was found among the counted peers.
    pub tally: Tally,
    /// Who they are.
    pub coverage: Coverage,
    /// From the question to now.
    pub took: Duration,
}

impl Answer {
    /// The sum that was asked for, rounded once, to the nearest `f64`; `None` when something else was.
    pub fn sum(&self) -> Option<f64> {
        let Found::Sum { ints, floats } = &self.tally.found else { return None };
        let mut sum: ExactSum = floats.clone();
        sum.add_int(*ints);
        Some(sum.to_f64())
    }

    /// The mean of the numbers whose sum was asked for; `None` when something else was, or no peer had one.
    pub fn mean(&self) -> Option<f64> {
        self.sum().filter(|_| self.tally.valued > 0).map(|sum| sum / self.tally.valued as f64)
    }

    /// How many peers match beyond those that the list names.
    pub fn more(&self) -> u64 {
        match &self.tally.found {
            Found::List(hosts) => self.tally.matched.saturating_sub(hosts.len() as u64),
            _ => 0,
        }
    }
}
