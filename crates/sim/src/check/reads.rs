//! Every read and every scan is the state at its time, and its time is not before what was acknowledged before it.

use super::{Answer, Asked, Call, History, Moment, Row, Truth, Violation};
use bytes::Bytes;
use skein_model::{Slice, TableId, TxClock};
use std::collections::BTreeMap;

/// Holds all reads and scans against the versions there are.
pub fn check(history: &History, truth: &Truth) -> Result<(), Violation> {
    let acknowledged = Acknowledged::of(history);
    for call in history.calls() {
        match (&call.asked, &call.answer) {
            (Asked::Read { row, at }, Answer::Found { read_time, time, value }) => {
                if at.is_some_and(|at| at != *read_time) {
                    return Err(Violation(format!("asked for {at:?}, read at {read_time}: {call:?}")));
                }
                let (there, found) = truth.at(row, *read_time);
                if (there, found) != (*time, value.as_ref()) {
                    return Err(Violation(format!(
                        "row {row:?} has {found:?} of {there} at {read_time}, and a read found {value:?} of {time}: {call:?}"
                    )));
                }
            }
            (Asked::Scan { table, slice, at }, Answer::Scanned { until, rows, complete }) => {
                if at.is_some_and(|at| at != *until) {
                    return Err(Violation(format!("asked for {at:?}, scanned at {until}: {}", brief(call))));
                }
                if let (None, Some((time, row))) = (at, acknowledged.before(call.invoked))
                    && *until < time
                {
                    return Err(Violation(format!(
                        "a scan shows {until}, though a write of {row:?} at {time} was acknowledged before it began: {}",
                        brief(call)
                    )));
                }
                snapshot(truth, *table, *slice, *until, rows, *complete)
                    .map_err(|why| Violation(format!("{why}: {}", brief(call))))?;
            }
            (_, Answer::Nothing(_) | Answer::Unknown(_))
            | (Asked::Write { .. } | Asked::Status { .. }, _) => {}
            _ => return Err(Violation(format!("the answer does not fit the question: {call:?}"))),
        }
    }
    Ok(())
}

/// The call without its rows.
fn brief(call: &Call) -> String {
    format!("client {} at {}..{}: {:?}", call.client, call.invoked, call.answered, call.asked)
}

/// Whether these are the first rows of the table at that time, or all of them.
fn snapshot(
    truth: &Truth,
    table: TableId,
    slice: Slice,
    until: TxClock,
    rows: &[(Bytes, TxClock, Bytes)],
    complete: bool,
) -> Result<(), String> {
    let mut there = truth.scan(table, slice, until);
    for (n, (key, time, value)) in rows.iter().enumerate() {
        match there.next() {
            Some(row) if row == (key, *time, value) => {}
            other => {
                return Err(format!(
                    "row {n} of the scan is {key:?} of {time}, and at {until} there is {other:?}"
                ));
            }
        }
    }
    match there.next() {
        Some((key, time, _)) if complete => Err(format!(
            "the scan ended after {} rows, before {key:?} of {time}, which is there at {until}",
            rows.len()
        )),
        _ => Ok(()),
    }
}

/// The latest time of any write that was acknowledged by a moment.
struct Acknowledged<'a> {
    /// By the moment of the answer, each entry the latest so far.
    latest: BTreeMap<Moment, (TxClock, &'a Row)>,
}

impl<'a> Acknowledged<'a> {
    fn of(history: &'a History) -> Acknowledged<'a> {
        let mut latest: BTreeMap<Moment, (TxClock, &Row)> = BTreeMap::new();
        for call in history.calls() {
            if let (Asked::Write { changes, .. }, Answer::Committed(time)) = (&call.asked, &call.answer)
                && let Some(row) = changes.keys().next()
            {
                let entry = latest.entry(call.answered).or_insert((*time, row));
                *entry = (*entry).max((*time, row));
            }
        }
        let mut max = None;
        for entry in latest.values_mut() {
            max = max.max(Some(*entry));
            *entry = max.unwrap_or(*entry);
        }
        Acknowledged { latest }
    }

    fn before(&self, moment: Moment) -> Option<(TxClock, &'a Row)> {
        self.latest.range(..moment).next_back().map(|(_, entry)| *entry)
    }
}
