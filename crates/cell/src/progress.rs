//! How far a cohort's move is, from what its leader tells.

use crate::status::{CopyStatus, MoveStatus, ReplicaStatus};
use crate::wire::LedStatus;
use skein_model::{Cohort, HostId};

/// How a cohort's move stands; `None` when it is settled. `led` is what its leader tells, if it could be asked.
///
/// What counts as rows to be copied are those of each host that the target adds: none of it while the host has nothing, what it
/// says has arrived while it is sent a copy, all of it once it follows the log.
pub(crate) fn of_move(cohort: &Cohort, led: Option<&LedStatus>) -> Option<MoveStatus> {
    if cohort.is_settled() || *cohort == Cohort::Empty {
        return None;
    }
    let waits_for = match (cohort, led) {
        (Cohort::Issuing { .. }, _) => Some("a quorum of every cohort to know of it".to_owned()),
        (_, Some(led)) => led.waits_for.clone(),
        (_, None) => Some("an answer of the cohort's leader".to_owned()),
    };
    let Some(led) = led else { return Some(MoveStatus { waits_for, ..MoveStatus::default() }) };
    let parts: Vec<CopyStatus> =
        cohort.target().difference(cohort.origin()).map(|host| part(led, *host)).collect();
    let sum = |of: fn(&CopyStatus) -> u64| parts.iter().map(of).sum::<u64>();
    let under_way = parts.iter().filter(|part| part.bytes < part.bytes_total);
    // The slowest copy decides; with one that has not begun, nobody knows.
    let left = under_way.map(seconds_left).collect::<Option<Vec<u64>>>();
    Some(MoveStatus {
        bytes: sum(|part| part.bytes),
        bytes_total: Some(sum(|part| part.bytes_total)),
        rows: sum(|part| part.rows),
        rows_total: Some(sum(|part| part.rows_total)),
        bytes_per_second: parts.iter().filter_map(|part| part.bytes_per_second).reduce(|a, b| a + b),
        seconds_left: left.and_then(|left| left.into_iter().max()),
        waits_for,
    })
}

/// What one new host has, and has to have.
fn part(led: &LedStatus, host: HostId) -> CopyStatus {
    let none = CopyStatus { bytes_total: led.bytes, rows_total: led.rows, ..CopyStatus::default() };
    let Some(replica) = led.replicas.iter().find(|replica| replica.host == host) else { return none };
    match replica.copy {
        // The totals are estimates; what has arrived is counted.
        Some(copy) => CopyStatus {
            bytes_total: copy.bytes_total.max(copy.bytes),
            rows_total: copy.rows_total.max(copy.rows),
            ..copy
        },
        None if follows(replica, led) => CopyStatus { bytes: led.bytes, rows: led.rows, ..none },
        None => none,
    }
}

/// Whether a replica has anything of the log: then it has had its copy, or needs none.
fn follows(replica: &ReplicaStatus, led: &LedStatus) -> bool {
    replica.votes || replica.lag.is_some_and(|lag| lag < led.committed)
}

fn seconds_left(copy: &CopyStatus) -> Option<u64> {
    let pace = copy.bytes_per_second.filter(|pace| 0 < *pace)?;
    Some((copy.bytes_total - copy.bytes).div_ceil(pace))
}

#[cfg(test)]
mod tests {
    use super::*;
    use skein_model::{GroupId, StoreId};
    use std::collections::BTreeSet;

    fn hosts(hosts: &[u64]) -> BTreeSet<HostId> {
        hosts.iter().map(|host| HostId(*host)).collect()
    }

    fn replica(host: u64, votes: bool, lag: Option<u64>, copy: Option<CopyStatus>) -> ReplicaStatus {
        ReplicaStatus { host: HostId(host), store: StoreId(host), votes, lag, copy }
    }

    fn led(replicas: Vec<ReplicaStatus>) -> LedStatus {
        LedStatus {
            group: GroupId(1),
            term: 1,
            committed: 500,
            bytes: 1000,
            rows: 10,
            replicas,
            changing: false,
            waits_for: Some("0x2 to catch up".into()),
        }
    }

    fn copy(bytes: u64, rows: u64, pace: Option<u64>) -> Option<CopyStatus> {
        Some(CopyStatus { bytes, bytes_total: 1200, rows, rows_total: 10, bytes_per_second: pace })
    }

    fn growing() -> Cohort {
        Cohort::Moving { origin: hosts(&[1]), target: hosts(&[1, 2, 3]) }
    }

    #[test]
    fn a_settled_cohort_has_no_progress() {
        assert_eq!(of_move(&Cohort::Settled { hosts: hosts(&[1]) }, Some(&led(vec![]))), None);
        assert_eq!(of_move(&Cohort::Empty, None), None);
    }

    #[test]
    fn before_anything_is_copied_all_of_it_is_to_be_copied_to_each_new_host() {
        let issuing = Cohort::Issuing { origin: hosts(&[1]), target: hosts(&[1, 2, 3]) };
        let told = of_move(&issuing, Some(&led(vec![replica(1, true, Some(0), None)]))).unwrap();
        assert_eq!((told.bytes, told.bytes_total, told.rows, told.rows_total), (0, Some(2000), 0, Some(20)));
        assert!(told.waits_for.unwrap().contains("quorum of every cohort"));
        // One that was added and has nothing of the log yet makes no difference.
        let added = led(vec![replica(2, false, Some(500), None), replica(3, false, None, None)]);
        let told = of_move(&growing(), Some(&added)).unwrap();
        assert_eq!((told.bytes, told.rows, told.seconds_left), (0, 0, None));
    }

    #[test]
    fn copies_add_up_and_the_slowest_tells_how_long_it_takes() {
        let both = led(vec![
            replica(1, true, Some(0), None),
            replica(2, false, None, copy(200, 1, Some(100))),
            replica(3, false, None, copy(700, 6, Some(10))),
        ]);
        let told = of_move(&growing(), Some(&both)).unwrap();
        assert_eq!((told.bytes, told.bytes_total), (900, Some(2400)));
        assert_eq!((told.rows, told.rows_total), (7, Some(20)));
        assert_eq!((told.bytes_per_second, told.seconds_left), (Some(110), Some(50)));
        assert_eq!(told.waits_for.as_deref(), Some("0x2 to catch up"));
    }

    #[test]
    fn a_copy_whose_pace_is_not_known_leaves_the_end_unknown() {
        let one = led(vec![
            replica(2, false, None, copy(200, 1, Some(100))),
            replica(3, false, None, copy(700, 6, None)),
        ]);
        let told = of_move(&growing(), Some(&one)).unwrap();
        assert_eq!((told.bytes_per_second, told.seconds_left), (Some(100), None));
        let stalled = led(vec![replica(2, false, None, copy(200, 1, Some(0))), replica(3, true, None, None)]);
        assert_eq!(of_move(&growing(), Some(&stalled)).unwrap().seconds_left, None);
    }

    #[test]
    fn whoever_follows_the_log_has_its_copy_and_an_estimate_is_never_below_what_arrived() {
        let late =
            led(vec![replica(2, false, Some(20), None), replica(3, false, None, copy(5000, 99, Some(100)))]);
        let told = of_move(&growing(), Some(&late)).unwrap();
        assert_eq!((told.bytes, told.bytes_total), (6000, Some(6000)));
        assert_eq!((told.rows, told.rows_total), (109, Some(109)));
    }

    #[test]
    fn without_the_leaders_word_the_amounts_are_not_known() {
        let told = of_move(&growing(), None).unwrap();
        assert_eq!((told.bytes_total, told.rows_total, told.seconds_left), (None, None, None));
        assert!(told.waits_for.unwrap().contains("leader"));
    }

    #[test]
    fn a_move_that_only_takes_hosts_away_has_nothing_to_copy() {
        let shrinking = Cohort::Moving { origin: hosts(&[1, 2, 3]), target: hosts(&[1]) };
        let told = of_move(&shrinking, Some(&led(vec![]))).unwrap();
        assert_eq!((told.bytes, told.bytes_total, told.rows_total), (0, Some(0), Some(0)));
    }
}
