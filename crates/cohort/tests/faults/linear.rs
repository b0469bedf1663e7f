//! A checker: could these calls on one row have happened one at a time, each between being made and being answered?
//!
//! It tries all orders that respect that (Wing and Gong, 1993), and remembers which sets of calls, done in whatever
//! order, led to which state (Lowe, 2017), so that it does not try them twice. It trusts the times of versions only to
//! tell versions apart and to rise.

use std::collections::HashSet;

/// A version of the row; time 0 for a row never written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Version {
    pub time: u64,
    pub live: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Found this version.
    Read(Version),
    /// Wrote this version, whatever there was.
    Write(Version),
    /// Was to write if the newest version is a value of the time `expected`: did at this time, or found the other.
    WriteIf { expected: u64, result: Result<u64, u64> },
    /// Was to write if there is no value: did at this time, or found one.
    Create(Option<u64>),
}

/// An action, and when it was called for and answered, by a counter that all callers share.
#[derive(Debug, Clone)]
pub struct Call {
    pub invoked: u64,
    pub answered: u64,
    pub action: Action,
}

/// The row after the action, if the action could have had this result.
fn after(row: Version, action: &Action) -> Option<Version> {
    let written = |time: u64, live: bool| (row.time < time).then_some(Version { time, live });
    match action {
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

/// Says why the calls cannot have happened one at a time; the row begins as never written.
pub fn check(calls: &[Call]) -> Result<(), String> {
    let mut calls = calls.to_vec();
    calls.sort_by_key(|call| call.invoked);
    let mut tried: HashSet<(Vec<u64>, Version)> = HashSet::new();
    // Which calls are done, as a set of bits, and what the row is then.
    let mut open = vec![(vec![0u64; calls.len().div_ceil(64)], Version::default())];
    let mut furthest = (0, Version::default(), Vec::new());
    while let Some((done, row)) = open.pop() {
        let is_done = |n: usize| done[n / 64] >> (n % 64) & 1 == 1;
        let waiting = || (0..calls.len()).filter(|n| !is_done(*n));
        // Nothing can come before a call that was answered before it was made.
        let Some(limit) = waiting().map(|n| calls[n].answered).min() else { return Ok(()) };
        let next: Vec<usize> = waiting().take_while(|n| calls[*n].invoked < limit).collect();
        let count = calls.len() - waiting().count();
        if furthest.0 <= count {
            furthest = (count, row, next.iter().map(|n| calls[*n].clone()).collect());
        }
        for n in next {
            let Some(row) = after(row, &calls[n].action) else { continue };
            let mut done = done.clone();
            done[n / 64] |= 1 << (n % 64);
            if tried.insert((done.clone(), row)) {
                open.push((done, row));
            }
        }
    }
    let (count, row, next) = furthest;
    Err(format!(
        "{count} of {} calls fit; then the row is {row:?}, and none of {next:#?} can follow",
        calls.len()
    ))
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
}
