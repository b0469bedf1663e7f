//! The atlas: which peers replicate which share of the rows, and the rules by which that changes.
//!
//! The atlas is an array of cohorts, its length a power of two; the cohort numbered
//! `row_hash & (length - 1)` owns the row. An administrator submits the wanted cohorts, and
//! [`Atlas::next`] turns that wish into states: a cohort that has to change goes from *settled* to
//! *issuing* (its peers are being told), to *moving* (its rows are being copied), to *settled* again.
//! Until it is settled, both its origin and its target have a say in every quorum.

mod json;
#[cfg(test)]
mod tests;

use crate::{HostId, Slice};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

pub use json::AtlasError;

static NOBODY: BTreeSet<HostId> = BTreeSet::new();

/// A set of peers that replicate one share of the rows, and how it is changing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cohort {
    /// Nobody: the only cohort of a server that was never told its place. It never has a quorum.
    Empty,
    /// These peers hold the rows, and nothing is changing.
    Settled {
        /// The peers; an odd number.
        hosts: BTreeSet<HostId>,
    },
    /// The rows are with the origin and will move; the peers are being told.
    Issuing {
        /// The peers that hold the rows; an odd number.
        origin: BTreeSet<HostId>,
        /// The peers that shall hold them; an odd number, and not the same set.
        target: BTreeSet<HostId>,
    },
    /// The rows are being copied from the origin to the target.
    Moving {
        /// The peers that hold the rows; an odd number.
        origin: BTreeSet<HostId>,
        /// The peers that shall hold them; an odd number, and not the same set.
        target: BTreeSet<HostId>,
    },
}

/// Why a cohort cannot stand in an atlas.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CohortFault {
    /// The cohort is not a JSON object, or one of its lists is not an array.
    #[error("Malformed cohort")]
    Malformed,
    /// The state is none of settled, issuing, moving and empty.
    #[error("Malformed state: {0}")]
    State(String),
    /// A host is neither a JSON integer of 64 bits nor a string in the number grammar.
    #[error("Malformed host ID: {0}")]
    Host(String),
    /// A settled cohort has an even number of hosts.
    #[error("The cohort needs an odd number of hosts.")]
    EvenHosts,
    /// The origin of an issuing or moving cohort has an even number of hosts.
    #[error("The origin needs an odd number of hosts.")]
    EvenOrigin,
    /// The target of an issuing or moving cohort has an even number of hosts.
    #[error("The target needs an odd number of hosts.")]
    EvenTarget,
    /// Origin and target are the same, so there is nothing to issue or move.
    #[error("This cohort appears settled.")]
    AppearsSettled,
    /// A settled cohort lacks hosts, or has an origin or target besides.
    #[error("A settled cohort should have only hosts")]
    NotSettled,
    /// An issuing cohort lacks its origin or target, or has hosts besides.
    #[error("An issuing cohort should have only an origin and target")]
    NotIssuing,
    /// A moving cohort lacks its origin or target, or has hosts besides.
    #[error("A moving cohort should have only an origin and target")]
    NotMoving,
    /// An empty cohort names peers.
    #[error("An empty cohort should not have hosts, origin or target")]
    NotEmpty,
    /// The cohort is empty: it would take its share of the rows away from everybody.
    #[error("A submitted cohort cannot be empty; name the hosts that shall hold its rows.")]
    Empty,
}

impl Cohort {
    /// The peers that hold the rows now; nobody for an empty cohort.
    pub fn origin(&self) -> &BTreeSet<HostId> {
        match self {
            Cohort::Empty => &NOBODY,
            Cohort::Settled { hosts } => hosts,
            Cohort::Issuing { origin, .. } | Cohort::Moving { origin, .. } => origin,
        }
    }

    /// The peers that shall hold the rows in the end; nobody for an empty cohort.
    pub fn target(&self) -> &BTreeSet<HostId> {
        match self {
            Cohort::Empty => &NOBODY,
            Cohort::Settled { hosts } => hosts,
            Cohort::Issuing { target, .. } | Cohort::Moving { target, .. } => target,
        }
    }

    /// Everybody that requests for the cohort's rows go to: origin and target, ascending, each once.
    pub fn hosts(&self) -> impl Iterator<Item = HostId> {
        self.origin().union(self.target()).copied()
    }

    /// Whether nothing is changing and the cohort has peers.
    pub fn is_settled(&self) -> bool {
        matches!(self, Cohort::Settled { .. })
    }

    /// Whether those who `answered` decide for the cohort: a majority of its hosts or, while it is issuing or
    /// moving, a majority of the origin and a majority of the target. Strangers do not count.
    pub fn has_quorum(&self, answered: &BTreeSet<HostId>) -> bool {
        is_majority(self.origin(), answered) && is_majority(self.target(), answered)
    }

    /// Checks the rules for a cohort that somebody submits: odd numbers of peers, an origin that differs from
    /// the target, and not empty.
    pub fn check(&self) -> Result<(), CohortFault> {
        let odd = |hosts: &BTreeSet<HostId>| hosts.len() % 2 == 1;
        match self {
            Cohort::Empty => Err(CohortFault::Empty),
            Cohort::Settled { hosts } if !odd(hosts) => Err(CohortFault::EvenHosts),
            Cohort::Settled { .. } => Ok(()),
            Cohort::Issuing { origin, target } | Cohort::Moving { origin, target } => {
                if !odd(origin) {
                    Err(CohortFault::EvenOrigin)
                } else if !odd(target) {
                    Err(CohortFault::EvenTarget)
                } else if origin == target {
                    Err(CohortFault::AppearsSettled)
                } else {
                    Ok(())
                }
            }
        }
    }

    /// What becomes of this cohort when its rows are wanted at `target`.
    fn toward(&self, target: &BTreeSet<HostId>) -> Cohort {
        if let Cohort::Empty = self {
            // There are no rows yet that would have to move.
            return Cohort::Settled { hosts: target.clone() };
        }
        if self.target() == target {
            return self.clone();
        }
        if self.origin() == target {
            // The origin still has every row, so a cancelled move is settled at once.
            return Cohort::Settled { hosts: target.clone() };
        }
        Cohort::Issuing { origin: self.origin().clone(), target: target.clone() }
    }
}

fn is_majority(hosts: &BTreeSet<HostId>, answered: &BTreeSet<HostId>) -> bool {
    hosts.len() < 2 * hosts.intersection(answered).count()
}

/// The versioned array of cohorts; its length is a power of two.
/// Its binary form is for peers; the one that people write is [`Atlas::to_json`]'s. Decoding checks no rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Atlas {
    /// Counts the changes; 0 before the first one.
    pub version: u64,
    /// The cohorts, in the order in which row hashes pick them.
    pub cohorts: Vec<Cohort>,
}

impl Atlas {
    /// No atlas yet: one empty cohort, version 0.
    pub fn empty() -> Atlas {
        Atlas { version: 0, cohorts: vec![Cohort::Empty] }
    }

    /// Whether no cohort has any peers.
    pub fn is_empty(&self) -> bool {
        self.cohorts.iter().all(|c| *c == Cohort::Empty)
    }

    /// Whether nothing is changing in any cohort.
    pub fn is_settled(&self) -> bool {
        self.cohorts.iter().all(Cohort::is_settled)
    }

    /// The position in [`Atlas::cohorts`] of the cohort that owns the rows of this [`crate::row_hash`].
    pub fn cohort_for(&self, hash: u32) -> usize {
        hash as usize & self.mask()
    }

    /// How many of the cohorts that hold rows of the slice each peer is in, by ascending peer; peers in none are
    /// left out. In a cohort that is changing, both origin and target count.
    pub fn slice_weights(&self, slice: Slice) -> Vec<(HostId, u32)> {
        let first = slice.slice() as usize & self.mask();
        let mut weights = BTreeMap::new();
        for cohort in self.cohorts.iter().skip(first).step_by(slice.nslices() as usize) {
            for host in cohort.hosts() {
                *weights.entry(host).or_insert(0) += 1;
            }
        }
        weights.into_iter().collect()
    }

    /// The atlas that follows when an administrator submits these cohorts; `None` when nothing changes or
    /// when they break the rules ([`Atlas::parse_targets`] has said so already).
    ///
    /// The first atlas is taken as it is given. After that only the targets of the submitted cohorts count, and
    /// each cohort by itself goes on (the target is the old one), goes back (it is the origin: the move is
    /// cancelled) or sets out, possibly re-aimed, from where its rows are.
    ///
    /// With another number of cohorts the array has the larger of both lengths, each side repeated to fill it, until
    /// everything is settled; then [`Atlas::shrunk_to`] cuts it to the number submitted, here at once if
    /// nothing has to move. An `Atlas` does not remember that number: whoever keeps the atlas keeps
    /// `submitted.len()` beside it, also when the answer is `None`.
    ///
    /// Where we differ from the original: there, cohorts that come to equal each other are merged. Here several
    /// cohorts on the same peers are useful (each is its own sequence of writes), so the number is what was asked for.
    pub fn next(&self, submitted: &[Cohort]) -> Option<Atlas> {
        if check_targets(submitted).is_err() {
            return None;
        }
        let cohorts = if self.is_empty() {
            submitted.to_vec()
        } else {
            let size = self.cohorts.len().max(submitted.len());
            let wanted = submitted.iter().map(Cohort::target).cycle();
            self.cohorts.iter().cycle().zip(wanted).take(size).map(|(now, then)| now.toward(then)).collect()
        };
        let next = Atlas { version: self.version.checked_add(1)?, cohorts }.shrunk_to(submitted.len());
        (next.cohorts != self.cohorts).then_some(next)
    }

    /// The same atlas with `count` cohorts, if it has more, is settled, and repeats itself with that period: the end
    /// of a move to fewer cohorts. Otherwise the atlas as it is. The version stays.
    pub fn shrunk_to(mut self, count: usize) -> Atlas {
        if count.is_power_of_two()
            && count < self.cohorts.len()
            && self.is_settled()
            && self.cohorts.iter().skip(count).eq(self.cohorts.iter().take(self.cohorts.len() - count))
        {
            self.cohorts.truncate(count);
        }
        self
    }

    fn mask(&self) -> usize {
        debug_assert!(self.cohorts.len().is_power_of_two());
        self.cohorts.len().saturating_sub(1)
    }
}

/// Checks what is common to every submitted atlas: a power-of-two number of sound cohorts.
fn check_targets(cohorts: &[Cohort]) -> Result<(), AtlasError> {
    if !cohorts.len().is_power_of_two() {
        return Err(AtlasError::Count { cohorts: cohorts.len() });
    }
    for (cohort, found) in cohorts.iter().enumerate() {
        found.check().map_err(|fault| AtlasError::Cohort { cohort, fault })?;
    }
    Ok(())
}
