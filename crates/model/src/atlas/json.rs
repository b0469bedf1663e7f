//! The atlas as administrators write and read it: a JSON array with an object for each cohort.
//!
//! ```text
//! [{"state":"settled","hosts":["0x0000000000000001"]}]
//! ```
//!
//! The text comes from outside and may be hostile. It is cut into pieces that borrow from it, level by level, so
//! the memory it takes stays within a small multiple of its length, and deep nesting costs no stack.

use super::{Atlas, Cohort, CohortFault, check_targets};
use crate::HostId;
use crate::limits::ATLAS_BYTES_MAX;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::BTreeSet;
use std::fmt::Write;

/// How much of an offending piece an error repeats, in characters.
const QUOTE_CHARS_MAX: usize = 40;

/// Why a text is not an atlas that an administrator may submit. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AtlasError {
    /// The text is longer than [`ATLAS_BYTES_MAX`].
    #[error("The atlas has {bytes} bytes, and at most {ATLAS_BYTES_MAX} are allowed.")]
    TooLong {
        /// Length of the text.
        bytes: usize,
    },
    /// The text is not well-formed JSON; holds the parser's message, which names line and column.
    #[error("The atlas is not well-formed JSON: {0}")]
    Json(String),
    /// The text is JSON, but not an array.
    #[error("The atlas needs to be a JSON array of cohorts.")]
    NotArray,
    /// The number of cohorts is not a power of two; zero is not one either.
    #[error("Number of cohorts must be a power of two. There are {cohorts}.")]
    Count {
        /// How many there are.
        cohorts: usize,
    },
    /// One cohort is not sound; the first such is told.
    #[error("Cohort {cohort}: {fault}")]
    Cohort {
        /// Its position in the array, from zero.
        cohort: usize,
        /// What is wrong with it.
        fault: CohortFault,
    },
}

#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow, default)]
    state: Option<&'a RawValue>,
    #[serde(borrow, default)]
    hosts: Option<&'a RawValue>,
    #[serde(borrow, default)]
    origin: Option<&'a RawValue>,
    #[serde(borrow, default)]
    target: Option<&'a RawValue>,
}

impl Atlas {
    /// Reads the cohorts that an administrator submits.
    ///
    /// Hosts are JSON integers or strings in the grammar of [`crate::number`]; lists are sets; the state has any letter
    /// case and is *settled* if not given; members we do not know are ignored, so what a later version of
    /// Skein prints can be submitted again. Every cohort returned is sound, none is empty, and their number is a power of two.
    pub fn parse_targets(json: &[u8]) -> Result<Vec<Cohort>, AtlasError> {
        if ATLAS_BYTES_MAX < json.len() {
            return Err(AtlasError::TooLong { bytes: json.len() });
        }
        let pieces: Vec<&RawValue> = serde_json::from_slice(json).map_err(|error| match error.is_data() {
            true => AtlasError::NotArray,
            false => AtlasError::Json(error.to_string()),
        })?;
        let cohorts = pieces
            .iter()
            .enumerate()
            .map(|(cohort, piece)| parse_cohort(piece).map_err(|fault| AtlasError::Cohort { cohort, fault }))
            .collect::<Result<Vec<_>, _>>()?;
        check_targets(&cohorts)?;
        Ok(cohorts)
    }

    /// The cohorts as compact JSON, hosts ascending and in the full sixteen digits.
    pub fn to_json(&self) -> String {
        let mut out = String::from("[");
        for (i, cohort) in self.cohorts.iter().enumerate() {
            out.push_str(if i == 0 { "{" } else { ",{" });
            match cohort {
                Cohort::Empty => out.push_str(r#""state":"empty""#),
                Cohort::Settled { hosts } => {
                    out.push_str(r#""state":"settled""#);
                    push_hosts(&mut out, "hosts", hosts);
                }
                Cohort::Issuing { origin, target } => {
                    out.push_str(r#""state":"issuing""#);
                    push_hosts(&mut out, "origin", origin);
                    push_hosts(&mut out, "target", target);
                }
                Cohort::Moving { origin, target } => {
                    out.push_str(r#""state":"moving""#);
                    push_hosts(&mut out, "origin", origin);
                    push_hosts(&mut out, "target", target);
                }
            }
            out.push('}');
        }
        out.push(']');
        out
    }
}

fn push_hosts(out: &mut String, name: &str, hosts: &BTreeSet<HostId>) {
    // Writing to a `String` cannot fail.
    let _ = write!(out, r#","{name}":["#);
    for (i, host) in hosts.iter().enumerate() {
        let comma = if i == 0 { "" } else { "," };
        let _ = write!(out, r#"{comma}"{host}""#);
    }
    out.push(']');
}

fn parse_cohort(piece: &RawValue) -> Result<Cohort, CohortFault> {
    // serde would also take the members from an array, by position.
    if !piece.get().starts_with('{') {
        return Err(CohortFault::Malformed);
    }
    let fields: Fields<'_> = serde_json::from_str(piece.get()).map_err(|_| CohortFault::Malformed)?;
    let state = match fields.state {
        None => "settled".to_owned(),
        Some(piece) => serde_json::from_str::<String>(piece.get())
            .map_err(|_| CohortFault::State(quote(piece)))?
            .to_ascii_lowercase(),
    };
    let hosts = parse_hosts(fields.hosts)?;
    let origin = parse_hosts(fields.origin)?;
    let target = parse_hosts(fields.target)?;
    let only_hosts = !hosts.is_empty() && origin.is_empty() && target.is_empty();
    let only_both = hosts.is_empty() && !origin.is_empty() && !target.is_empty();
    match state.as_str() {
        "settled" if only_hosts => Ok(Cohort::Settled { hosts }),
        "settled" => Err(CohortFault::NotSettled),
        "issuing" if only_both => Ok(Cohort::Issuing { origin, target }),
        "issuing" => Err(CohortFault::NotIssuing),
        "moving" if only_both => Ok(Cohort::Moving { origin, target }),
        "moving" => Err(CohortFault::NotMoving),
        "empty" if hosts.is_empty() && origin.is_empty() && target.is_empty() => Ok(Cohort::Empty),
        "empty" => Err(CohortFault::NotEmpty),
        _ => Err(CohortFault::State(fields.state.map(quote).unwrap_or_default())),
    }
}

fn parse_hosts(list: Option<&RawValue>) -> Result<BTreeSet<HostId>, CohortFault> {
    let Some(list) = list else { return Ok(BTreeSet::new()) };
    let pieces: Vec<&RawValue> = serde_json::from_str(list.get()).map_err(|_| CohortFault::Malformed)?;
    pieces.into_iter().map(|piece| parse_host(piece).ok_or_else(|| CohortFault::Host(quote(piece)))).collect()
}

fn parse_host(piece: &RawValue) -> Option<HostId> {
    if piece.get().starts_with('"') {
        serde_json::from_str::<String>(piece.get()).ok()?.parse().ok()
    } else {
        serde_json::from_str::<u64>(piece.get()).ok().map(HostId)
    }
}

/// The beginning of a piece of JSON, for an error.
fn quote(piece: &RawValue) -> String {
    match piece.get().char_indices().nth(QUOTE_CHARS_MAX) {
        None => piece.get().to_owned(),
        Some((end, _)) => format!("{}…", &piece.get()[..end]),
    }
}
