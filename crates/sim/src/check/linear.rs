//! Could these calls on one row have happened one at a time, each between being made and being answered?
//!
//! The search is that of Wing and Gong, "Testing and Verifying Concurrent Objects" (1993): take a call that nothing
//! still waiting was answered before, do it, go on. Two facts about rows leave it no choice, so that it never goes back.
//! A call that changes nothing is best done as soon as it fits, since it only stands in the way of others. And
//! the times of a row's versions have to rise, so the next write can only be the earliest that is left.

use std::collections::BTreeSet;

/// A version of the row; time 0 for a row never written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Version {
    /// When it was written, by the row's own clock.
    pub time: u64,
    /// Whether it is a value rather than a tombstone.
    pub live: bool,
}

/// What a call did to the row, or found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Found this version.
    Read(Version),
    /// Wrote this version, whatever there was.
    Write(Version),
    /// Was to write if the newest version is a value of the time `expected`: did at this time, or found the other.
    WriteIf {
        /// The time that the call named.
        expected: u64,
        /// When it wrote, or the time of what it found.
        result: Result<u64, u64>,
    },
    /// Was to write if there is no value: did at this time, or found one.
    Create(Option<u64>),
}

/// An action, and when it was called for and answered, by a counter that all callers share. Calls that share a
/// moment overlap.
#[derive(Debug, Clone)]
pub struct Call {
    /// When it was made.
    pub invoked: u64,
    /// When its answer was there; [`u64::MAX`] for a call that was never answered but is known to have done this.
    pub answered: u64,
    /// What it did.
    pub action: Action,
}

impl Action {
    /// The time of the version that the action wrote.
    fn written(&self) -> Option<u64> {
        match self {
            Action::Write(Version { time, .. })
            | Action::WriteIf { result: Ok(time), .. }
            | Action::Create(Some(time)) => Some(*time),
            Action::Read(_) | Action::WriteIf { result: Err(_), .. } | Action::Create(None) => None,
        }
    }

    /// The row after the action, if the action could have had this result.
    fn after(&self, row: Version) -> Option<Version> {
        let written = |time: u64, live: bool| (row.time < time).then_some(Version { time, live });
        match self {
            Action::Read(found) => (*found == row).then_some(row),
            Action::Write(version) => written(version.time, version.live),
            Action::WriteIf { expected, result } => match (row.live && row.time == *expected, result) {
                (true, Ok(time)) => written(*time, true),
                (false, Err(latest)) => (*latest == row.time).then_some(row),
                _ => None,
            },
            Action::Create(Some(time)) if !row.live => written(*time, true),
            Action::Create(None) if row.live => Some(row),
            Action::Create(_) => None,
        }
    }
}

/// Says why the calls cannot have happened one at a time; the row begins as never written.
pub fn check(calls: &[Call]) -> Result<(), String> {
    let mut by_call: Vec<usize> = (0..calls.len()).collect();
    by_call.sort_by_key(|n| calls[*n].invoked);
    let mut by_call = by_call.into_iter().peekable();
    let mut writes: Vec<(u64, usize)> =
        (0..calls.len()).filter_map(|n| Some((calls[n].action.written()?, n))).collect();
    writes.sort();
    let mut writes = writes.into_iter().peekable();
    // Not done yet, by when they were answered: nothing can come before a call that was answered before it was made.
    let mut waiting: BTreeSet<(u64, usize)> = (0..calls.len()).map(|n| (calls[n].answered, n)).collect();
    // Not done yet, and nothing that waits was answered before them.
    let mut open: Vec<usize> = Vec::new();
    let mut row = Version::default();
    while let Some((limit, _)) = waiting.first().copied() {
        while let Some(n) = by_call.next_if(|n| calls[*n].invoked <= limit) {
            open.push(n);
        }
        let before = open.len();
        open.retain(|n| {
            let fits = calls[*n].action.written().is_none() && calls[*n].action.after(row).is_some();
            if fits {
                waiting.remove(&(calls[*n].answered, *n));
            }
            !fits
        });
        if open.len() < before {
            continue;
        }
        let next = writes.peek().filter(|(_, n)| open.contains(n));
        match next.and_then(|(_, n)| Some((*n, calls[*n].action.after(row)?))) {
            Some((n, after)) => {
                row = after;
                writes.next();
                open.retain(|other| *other != n);
                waiting.remove(&(calls[n].answered, n));
            }
            None => {
                let next: Vec<&Call> = open.iter().map(|n| &calls[*n]).take(8).collect();
                return Err(format!(
                    "{} of {} calls fit; then the row is {row:?}, and none of {next:?} can follow; the next write by time is {:?}",
                    calls.len() - waiting.len(),
                    calls.len(),
                    writes.peek().map(|(_, n)| &calls[*n])
                ));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(invoked: u64, answered: u64, action: Action) -> Call {
        Call { invoked, answered, action }
    }

    fn live(time: u64) -> Version {
        Version { time, live: true }
    }

    fn write(invoked: u64, answered: u64, time: u64) -> Call {
        call(invoked, answered, Action::Write(live(time)))
    }

    fn read(invoked: u64, answered: u64, time: u64) -> Call {
        call(invoked, answered, Action::Read(if time == 0 { Version::default() } else { live(time) }))
    }

    fn write_if(invoked: u64, answered: u64, expected: u64, result: Result<u64, u64>) -> Call {
        call(invoked, answered, Action::WriteIf { expected, result })
    }

    #[test]
    fn a_history_that_could_be_is_accepted() {
        check(&[]).unwrap();
        check(&[read(1, 2, 0), write(3, 6, 10), read(4, 5, 0), read(7, 8, 10)]).unwrap();
        // Two reads beside a write may differ, in this order.
        check(&[write(1, 10, 10), read(2, 3, 0), read(4, 5, 10)]).unwrap();
        // Overlapping writes in either order, whichever was called first.
        check(&[write(1, 4, 20), write(2, 3, 10), read(5, 6, 20)]).unwrap();
        check(&[write(1, 2, 10), write_if(3, 4, 10, Ok(20)), write_if(5, 6, 10, Err(20))]).unwrap();
        let deleted = Action::Write(Version { time: 20, live: false });
        let create = |result| Action::Create(result);
        let ops = [create(Some(10)), create(None), deleted, create(Some(30))];
        let calls = ops.into_iter().enumerate().map(|(n, op)| call(2 * n as u64, 2 * n as u64 + 1, op));
        check(&calls.collect::<Vec<_>>()).unwrap();
    }

    #[test]
    fn a_read_that_misses_an_answered_write_is_noticed() {
        check(&[write(1, 2, 10), read(3, 4, 0)]).unwrap_err();
        check(&[write(1, 2, 10), write(3, 4, 20), read(5, 6, 10)]).unwrap_err();
    }

    #[test]
    fn a_read_from_the_future_is_noticed() {
        check(&[read(1, 2, 10), write(3, 4, 10)]).unwrap_err();
        check(&[read(1, 2, 10)]).unwrap_err();
    }

    #[test]
    fn reads_that_go_back_are_noticed() {
        check(&[write(1, 10, 10), read(2, 3, 10), read(4, 5, 0)]).unwrap_err();
    }

    #[test]
    fn a_lost_update_is_noticed() {
        let calls = [write(1, 2, 10), write_if(3, 6, 10, Ok(20)), write_if(4, 5, 10, Ok(21))];
        check(&calls).unwrap_err();
        let created = [10, 11].map(|time| call(1, 4, Action::Create(Some(time))));
        check(&created).unwrap_err();
    }

    #[test]
    fn a_refusal_without_a_reason_is_noticed() {
        check(&[write(1, 2, 10), write_if(3, 4, 10, Err(10))]).unwrap_err();
        check(&[write(1, 2, 10), write_if(3, 4, 9, Err(9))]).unwrap_err();
        check(&[call(1, 2, Action::Create(None))]).unwrap_err();
    }

    #[test]
    fn times_that_fall_are_noticed() {
        check(&[write(1, 2, 20), write(3, 4, 10)]).unwrap_err();
    }

    #[test]
    fn a_write_whose_answer_was_lost_may_come_late_but_only_once_it_was_called_for() {
        let lost = |invoked, time| call(invoked, u64::MAX, Action::Write(live(time)));
        check(&[lost(1, 20), write(2, 3, 10), read(4, 5, 10), read(6, 7, 20)]).unwrap();
        check(&[read(1, 2, 20), lost(3, 20)]).unwrap_err();
        check(&[lost(1, 20), read(2, 3, 20), read(4, 5, 0)]).unwrap_err();
    }

    #[test]
    fn calls_that_share_a_moment_may_have_come_in_either_order() {
        check(&[read(1, 2, 10), write(2, 3, 10)]).unwrap();
        check(&[write(1, 2, 10), read(2, 3, 0)]).unwrap();
        check(&[write(1, 2, 10), read(3, 3, 0)]).unwrap_err();
    }

    #[test]
    fn a_refused_creation_may_stand_before_or_after_a_deletion_beside_it() {
        let deleted = call(3, 8, Action::Write(Version { time: 20, live: false }));
        check(&[write(1, 2, 10), deleted.clone(), call(4, 7, Action::Create(None))]).unwrap();
        check(&[write(1, 2, 10), deleted, call(9, 10, Action::Create(None))]).unwrap_err();
    }

    /// All orders tried one after the other: slow, and with nothing to be clever about.
    fn possible(calls: &[Call]) -> bool {
        fn go(calls: &[Call], done: &mut Vec<bool>, row: Version) -> bool {
            let waiting: Vec<usize> = (0..calls.len()).filter(|n| !done[*n]).collect();
            let Some(limit) = waiting.iter().map(|n| calls[*n].answered).min() else { return true };
            waiting.into_iter().filter(|n| calls[*n].invoked <= limit).any(|n| {
                let Some(after) = calls[n].action.after(row) else { return false };
                done[n] = true;
                let found = go(calls, done, after);
                done[n] = false;
                found
            })
        }
        go(calls, &mut vec![false; calls.len()], Version::default())
    }

    proptest::proptest! {
        #[test]
        fn it_agrees_with_trying_all_orders(
            drawn in proptest::collection::vec((0u64..8, 0u64..6, 0u8..6, 1u64..4, proptest::bool::ANY), 0..6),
        ) {
            let calls: Vec<Call> = drawn
                .into_iter()
                .map(|(invoked, lasted, kind, time, live)| {
                    let action = match kind {
                        0 | 1 => Action::Read(if live { Version { time, live } } else { Version::default() }),
                        2 => Action::Write(Version { time, live }),
                        3 => Action::WriteIf { expected: time, result: if live { Ok(time + 1) } else { Err(time - 1) } },
                        4 => Action::Create(Some(time)),
                        _ => Action::Create(None),
                    };
                    Call { invoked, answered: invoked + lasted, action }
                })
                .collect();
            proptest::prop_assert_eq!(check(&calls).is_ok(), possible(&calls), "{:?}", calls);
        }
    }

    #[test]
    fn a_history_of_many_thousand_calls_is_checked_and_one_wrong_read_in_it_found() {
        let mut calls: Vec<Call> = (1..=5000u64)
            .flat_map(|n| [write(10 * n, 10 * n + 14, n), read(10 * n + 15, 10 * n + 19, n)])
            .collect();
        check(&calls).unwrap();
        calls[7001].action = Action::Read(live(3499));
        check(&calls).unwrap_err();
    }
}
