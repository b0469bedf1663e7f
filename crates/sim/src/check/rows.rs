//! The calls on each row are linearizable.
//!
//! A transaction's effect on a row is a call on it, whether or not its sender heard of it: what became of it is known in the
//! end. Sent several times it is one call, made when it was sent first; it had happened by the time of the first answer that
//! told so.

use super::linear::{self, Action, Version};
use super::{Answer, Asked, Change, Demand, History, Moment, Row, Violation};
use skein_model::{TxClock, TxId};
use std::collections::BTreeMap;

/// All that was asked and answered about one transaction.
struct Merged<'a> {
    demand: Demand,
    changes: &'a BTreeMap<Row, Change>,
    invoked: Moment,
    answered: Moment,
    answer: Option<&'a Answer>,
}

/// Looks at each row by itself.
pub fn check(history: &History) -> Result<(), Violation> {
    let mut rows: BTreeMap<&Row, Vec<linear::Call>> = BTreeMap::new();
    let mut transactions: BTreeMap<&TxId, Merged<'_>> = BTreeMap::new();
    for call in history.calls() {
        match &call.asked {
            Asked::Read { row, at: None } => {
                if let Answer::Found { time, value, .. } = &call.answer {
                    let action = Action::Read(Version { time: time.0, live: value.is_some() });
                    let read = linear::Call { invoked: call.invoked, answered: call.answered, action };
                    rows.entry(row).or_default().push(read);
                }
            }
            Asked::Write { id, demand, changes } => {
                let merged = transactions.entry(id).or_insert(Merged {
                    demand: *demand,
                    changes,
                    invoked: call.invoked,
                    answered: Moment::MAX,
                    answer: None,
                });
                merged.invoked = merged.invoked.min(call.invoked);
            }
            Asked::Status { .. } | Asked::Read { .. } | Asked::Scan { .. } => {}
        }
    }
    for call in history.calls() {
        let (Asked::Write { id, .. } | Asked::Status { id }) = &call.asked else { continue };
        let Some(merged) = transactions.get_mut(id) else { continue };
        match &call.answer {
            // An answer to a question after it says that it was written, but not why it was refused.
            Answer::Committed(_) | Answer::Collision | Answer::Stale(_) => {
                merged.answered = merged.answered.min(call.answered);
                merged.answer = Some(&call.answer);
            }
            _ => {}
        }
    }
    for merged in transactions.values() {
        for (row, change) in merged.changes {
            if let Some(action) = action(merged, change) {
                let call = linear::Call { invoked: merged.invoked, answered: merged.answered, action };
                rows.entry(row).or_default().push(call);
            }
        }
    }
    for (row, calls) in rows {
        linear::check(&calls).map_err(|why| Violation(format!("row {row:?} is not linearizable: {why}")))?;
    }
    Ok(())
}

/// What the transaction did to the row, or found there, if that can be told of this one row.
fn action(merged: &Merged<'_>, change: &Change) -> Option<Action> {
    let single = merged.changes.len() == 1;
    match (merged.answer?, change, merged.demand) {
        (Answer::Committed(TxClock(time)), Change::Create(_), _) => Some(Action::Create(Some(*time))),
        (Answer::Committed(TxClock(time)), Change::Put(_), Demand::Version(expected)) => {
            Some(Action::WriteIf { expected: expected.0, result: Ok(*time) })
        }
        (Answer::Committed(TxClock(time)), change, _) => {
            Some(Action::Write(Version { time: *time, live: change.value().is_some() }))
        }
        (Answer::Collision, Change::Create(_), _) if single => Some(Action::Create(None)),
        (Answer::Stale(latest), _, Demand::Version(expected)) if single => {
            Some(Action::WriteIf { expected: expected.0, result: Err(latest.0) })
        }
        _ => None,
    }
}
