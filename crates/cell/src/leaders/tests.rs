//! Even, the same everywhere, and nobody who should not lead.

use super::*;
use proptest::prelude::*;

fn set(hosts: impl IntoIterator<Item = u64>) -> BTreeSet<HostId> {
    hosts.into_iter().map(HostId).collect()
}

fn settled(cohorts: Vec<BTreeSet<HostId>>) -> Atlas {
    Atlas { version: 1, cohorts: cohorts.into_iter().map(|hosts| Cohort::Settled { hosts }).collect() }
}

fn loads(leaders: &[Option<HostId>]) -> BTreeMap<HostId, usize> {
    let mut loads = BTreeMap::new();
    leaders.iter().flatten().for_each(|host| *loads.entry(*host).or_default() += 1);
    loads
}

#[test]
fn cohorts_on_the_same_hosts_are_led_in_turn() {
    let atlas = settled(vec![set(1..=3); 4]);
    let leaders = preferred_leaders(&atlas, &set([]), &set([]));
    assert_eq!(leaders, [1, 2, 3, 1].map(|id| Some(HostId(id))));
}

#[test]
fn a_draining_or_avoided_host_leads_nothing() {
    let atlas = settled(vec![set(1..=3); 4]);
    let leaders = preferred_leaders(&atlas, &set([1]), &set([2]));
    assert_eq!(leaders, [Some(HostId(3)); 4]);
    assert_eq!(preferred_leaders(&atlas, &set([1, 2]), &set([3])), [None; 4]);
}

#[test]
fn a_moving_cohort_is_led_by_one_who_stays_or_else_by_the_origin() {
    let moving = |origin, target| Cohort::Moving { origin, target };
    let atlas =
        Atlas { version: 2, cohorts: vec![moving(set(1..=3), set(3..=5)), moving(set([1]), set([9]))] };
    let leaders = preferred_leaders(&atlas, &set([]), &set([]));
    assert_eq!(leaders, [Some(HostId(3)), Some(HostId(1))]);
}

#[test]
fn a_chain_of_hand_overs_evens_out_what_choosing_in_turn_did_not() {
    // In turn, 1 and 2 would take the first two, and the third cohort would have to be a second one of 1's or 2's;
    // 3 is reached only through the first.
    let atlas = settled(vec![set([1, 2, 3]), set([1, 2, 3]), set([1]), set([2])]);
    let leaders = preferred_leaders(&atlas, &set([]), &set([]));
    assert_eq!(loads(&leaders).values().max(), Some(&2), "four cohorts and three hosts");
    assert_eq!(loads(&leaders).len(), 3, "{leaders:?}");
}

proptest! {
    #[test]
    fn with_the_same_hosts_everywhere_the_numbers_differ_by_one_at_most(
        hosts in prop::collection::btree_set(0u64..50, 1..8), power in 0u32..8, out in 0u64..50,
    ) {
        let atlas = settled(vec![set(hosts.iter().copied()); 1 << power]);
        let leaders = preferred_leaders(&atlas, &set([out]), &set([]));
        let fit = hosts.len() - usize::from(hosts.contains(&out));
        let loads = loads(&leaders);
        if 0 < fit {
            let least = if loads.len() < fit { 0 } else { loads.values().copied().min().unwrap_or(0) };
            prop_assert!(loads.values().copied().max().unwrap_or(0) <= least + 1);
        }
    }

    #[test]
    fn no_single_hand_over_would_even_the_numbers_out(
        cohorts in prop::collection::vec(prop::collection::btree_set(0u64..9, 1..5), 16),
        out in prop::collection::btree_set(0u64..9, 0..3),
    ) {
        let out = set(out);
        let atlas = settled(cohorts.into_iter().map(set).collect());
        let leaders = preferred_leaders(&atlas, &out, &set([]));
        let loads = loads(&leaders);
        let load = |host: &HostId| loads.get(host).copied().unwrap_or(0);
        for (leader, cohort) in leaders.iter().zip(&atlas.cohorts) {
            let fit: Vec<HostId> = cohort.hosts().filter(|host| !out.contains(host)).collect();
            prop_assert_eq!(leader.is_some(), !fit.is_empty());
            if let Some(leader) = leader {
                prop_assert!(fit.contains(leader));
                prop_assert!(fit.iter().all(|host| load(leader) <= load(host) + 1));
            }
        }
    }

    #[test]
    fn a_cohort_that_the_others_share_no_host_with_does_not_disturb_them(
        cohorts in prop::collection::vec(prop::collection::btree_set(0u64..9, 1..5), 8),
    ) {
        let mut atlas = settled(cohorts.into_iter().map(set).collect());
        let before = preferred_leaders(&atlas, &set([]), &set([]));
        atlas.cohorts.insert(3, Cohort::Settled { hosts: set([100]) });
        let mut after = preferred_leaders(&atlas, &set([]), &set([]));
        prop_assert_eq!(after.remove(3), Some(HostId(100)));
        prop_assert_eq!(after, before);
    }
}
