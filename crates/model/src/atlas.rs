//! The atlas and its rules (being written).
#![allow(missing_docs)]
use crate::HostId;
use std::collections::BTreeSet;

/// A set of peers that replicate one share of the rows, and how it is changing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cohort {
    Empty,
    Settled { hosts: BTreeSet<HostId> },
    Issuing { origin: BTreeSet<HostId>, target: BTreeSet<HostId> },
    Moving { origin: BTreeSet<HostId>, target: BTreeSet<HostId> },
}

/// The versioned array of cohorts; its length is a power of two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Atlas {
    pub version: u64,
    pub cohorts: Vec<Cohort>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct AtlasError(pub String);

impl Atlas {
    /// No atlas yet: one empty cohort, version 0.
    pub fn empty() -> Atlas {
        Atlas { version: 0, cohorts: vec![Cohort::Empty] }
    }
    pub fn is_empty(&self) -> bool {
        self.cohorts.iter().all(|c| *c == Cohort::Empty)
    }
}
