//! What was acknowledged is there, at its time and once; what was refused is not; and nothing is there that nobody wrote.

use super::{Answer, Asked, Change, History, Row, Truth, Violation};
use bytes::Bytes;
use skein_model::{TxClock, TxId};
use std::collections::{BTreeMap, BTreeSet};

/// What is known of a transaction by all that anybody was told.
#[derive(Debug, Clone, Default)]
struct Known<'a> {
    changes: Option<&'a BTreeMap<Row, Change>>,
    committed: Option<TxClock>,
    refused: Option<&'a Answer>,
    /// Whether everybody who sent it was told that nothing was done.
    nothing: Option<bool>,
}

/// All transactions of a history; an error if two answers about one contradict each other.
fn known(history: &History) -> Result<BTreeMap<&TxId, Known<'_>>, Violation> {
    let mut all: BTreeMap<&TxId, Known<'_>> = BTreeMap::new();
    for call in history.calls() {
        let id = match &call.asked {
            Asked::Write { id, .. } | Asked::Status { id } => id,
            Asked::Read { .. } | Asked::Scan { .. } => continue,
        };
        let known = all.entry(id).or_default();
        if let Asked::Write { changes, .. } = &call.asked {
            known.changes.get_or_insert(changes);
            let nothing = matches!(call.answer, Answer::Nothing(_));
            known.nothing = Some(known.nothing.unwrap_or(true) && nothing);
        }
        match &call.answer {
            Answer::Committed(time) => match known.committed.replace(*time) {
                Some(before) if before != *time => {
                    return Err(Violation(format!(
                        "transaction {id} was said to be written at {before} and at {time}"
                    )));
                }
                _ => {}
            },
            Answer::Collision | Answer::Stale(_) | Answer::Aborted => known.refused = Some(&call.answer),
            Answer::Nothing(_) | Answer::Unknown(_) => {}
            other => return Err(Violation(format!("transaction {id} was answered {other:?}"))),
        }
        if let (Some(time), Some(refused)) = (known.committed, known.refused) {
            return Err(Violation(format!(
                "transaction {id} was said to be written at {time} and also {refused:?}"
            )));
        }
    }
    let lie = all
        .iter()
        .find_map(|(id, known)| Some((id, known.committed.filter(|_| known.nothing == Some(true))?)));
    match lie {
        Some((id, time)) => Err(Violation(format!(
            "transaction {id} was said not to be written to all who sent it, and was, at {time}"
        ))),
        None => Ok(all),
    }
}

/// Holds all outcomes against the versions there are.
pub fn check(history: &History, truth: &Truth) -> Result<(), Violation> {
    let known = known(history)?;
    // What has to be there, and nothing else may.
    let mut expected: BTreeMap<(&Row, TxClock), (&TxId, Option<&Bytes>)> = BTreeMap::new();
    let mut writers: BTreeMap<&Bytes, &TxId> = BTreeMap::new();
    let mut open: BTreeSet<&TxId> = BTreeSet::new();
    for (id, known) in &known {
        let Some(changes) = known.changes else { continue };
        writers.extend(changes.values().filter_map(|change| Some((change.value()?, *id))));
        match known.committed {
            Some(time) => {
                for (row, change) in changes {
                    if let Some((other, _)) = expected.insert((row, time), (id, change.value())) {
                        return Err(Violation(format!(
                            "transactions {other} and {id} both wrote row {row:?} at {time}"
                        )));
                    }
                }
            }
            None if known.refused.is_none() => {
                open.insert(id);
            }
            None => {}
        }
    }
    if let Some(id) = open.first() {
        return Err(Violation(format!(
            "nobody knows what became of {} transactions, {id} among them: even afterwards nobody could tell",
            open.len()
        )));
    }
    for (row, time, value) in truth.versions() {
        match expected.remove(&(row, time)) {
            Some((_, wrote)) if wrote == value => {}
            Some((id, wrote)) => {
                return Err(Violation(format!(
                    "row {row:?} has {value:?} at {time}; transaction {id} wrote {wrote:?}"
                )));
            }
            None => {
                let writer = value.and_then(|value| writers.get(value));
                let known = writer.map(|id| (id, known[*id].committed, known[*id].refused));
                return Err(Violation(format!(
                    "row {row:?} has {value:?} at {time}, which nobody was told of; its writer, and what it was told: {known:?}"
                )));
            }
        }
    }
    match expected.first_key_value() {
        Some(((row, time), (id, value))) => Err(Violation(format!(
            "lost: transaction {id} was acknowledged at {time}, and row {row:?} does not have its {value:?} ({} rows miss versions)",
            expected.len()
        ))),
        None => Ok(()),
    }
}
