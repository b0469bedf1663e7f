use super::*;
use crate::limits::ATLAS_BYTES_MAX;
use proptest::prelude::*;

fn hosts(ids: &[u64]) -> BTreeSet<HostId> {
    ids.iter().copied().map(HostId).collect()
}

fn settled(ids: &[u64]) -> Cohort {
    Cohort::Settled { hosts: hosts(ids) }
}

fn issuing(origin: &[u64], target: &[u64]) -> Cohort {
    Cohort::Issuing { origin: hosts(origin), target: hosts(target) }
}

fn moving(origin: &[u64], target: &[u64]) -> Cohort {
    Cohort::Moving { origin: hosts(origin), target: hosts(target) }
}

fn atlas(version: u64, cohorts: &[Cohort]) -> Atlas {
    Atlas { version, cohorts: cohorts.to_vec() }
}

fn refusal(json: &str) -> String {
    Atlas::parse_targets(json.as_bytes()).unwrap_err().to_string()
}

// Reading and printing.

#[test]
fn the_atlas_of_the_users_page_is_read_and_printed() {
    let read = Atlas::parse_targets(br#"[ {"hosts": ["0xF47F4AA7602F3857"] } ]"#).unwrap();
    assert_eq!(read, [settled(&[0xF47F_4AA7_602F_3857])]);
    let printed = atlas(1, &read).to_json();
    assert_eq!(printed, r#"[{"state":"settled","hosts":["0xF47F4AA7602F3857"]}]"#);
    assert_eq!(printed.len(), 52);
}

#[test]
fn no_atlas_yet_prints_as_one_empty_cohort() {
    assert_eq!(Atlas::empty().to_json(), r#"[{"state":"empty"}]"#);
}

#[test]
fn changing_cohorts_print_origin_and_target_with_ascending_hosts() {
    assert_eq!(
        atlas(3, &[issuing(&[1], &[3, 1, 2]), moving(&[2], &[1])]).to_json(),
        concat!(
            r#"[{"state":"issuing","origin":["0x0000000000000001"],"#,
            r#""target":["0x0000000000000001","0x0000000000000002","0x0000000000000003"]},"#,
            r#"{"state":"moving","origin":["0x0000000000000002"],"target":["0x0000000000000001"]}]"#
        )
    );
}

#[test]
fn hosts_are_integers_or_strings_in_the_number_grammar_and_collapse() {
    let read =
        Atlas::parse_targets(br##"[{"state":"SETTLED","hosts":[1,"0x2",3,"#3","03","+3"]}]"##).unwrap();
    assert_eq!(read, [settled(&[1, 2, 3])]);
    let read = Atlas::parse_targets(br#"[{"hosts":[18446744073709551615]}]"#).unwrap();
    assert_eq!(read, [settled(&[u64::MAX])]);
}

#[test]
fn members_that_are_null_or_unknown_count_as_not_given() {
    let json = br#"[{"state":null,"hosts":["1"],"origin":null,"target":[],"progress":{"rows":[1,2]}}]"#;
    assert_eq!(Atlas::parse_targets(json).unwrap(), [settled(&[1])]);
}

#[test]
fn each_broken_rule_has_its_message() {
    let cases = [
        (r#"[{"hosts":[1,2]}]"#, "Cohort 0: The cohort needs an odd number of hosts."),
        (r#"[{"hosts":[1]},{"hosts":[1,1,2]}]"#, "Cohort 1: The cohort needs an odd number of hosts."),
        (r#"[{"state":"issuing","origin":[1,2],"target":[1]}]"#, "The origin needs an odd number of hosts."),
        (r#"[{"state":"moving","origin":[1],"target":[1,2]}]"#, "The target needs an odd number of hosts."),
        (r#"[{"state":"issuing","origin":[1],"target":["0x1"]}]"#, "This cohort appears settled."),
        (r#"[{"state":"moving","origin":[1],"target":[1]}]"#, "This cohort appears settled."),
        (r#"[{}]"#, "A settled cohort should have only hosts"),
        (r#"[{"hosts":[]}]"#, "A settled cohort should have only hosts"),
        (r#"[{"hosts":[1],"target":[2]}]"#, "A settled cohort should have only hosts"),
        (r#"[{"origin":[1],"target":[2]}]"#, "A settled cohort should have only hosts"),
        (r#"[{"state":"issuing","hosts":[1]}]"#, "An issuing cohort should have only an origin and target"),
        (r#"[{"state":"issuing","origin":[1]}]"#, "An issuing cohort should have only an origin and target"),
        (r#"[{"state":"moving","hosts":[1],"origin":[1],"target":[2]}]"#, "A moving cohort should have only"),
        (r#"[{"state":"empty","hosts":[1]}]"#, "An empty cohort should not have hosts, origin or target"),
        (r#"[{"state":"empty"}]"#, "A submitted cohort cannot be empty"),
        (r#"[1]"#, "Cohort 0: Malformed cohort"),
        (r#"[["settled",[1]]]"#, "Malformed cohort"),
        (r#"[{"hosts":1}]"#, "Malformed cohort"),
        (r#"[{"hosts":{"1":1}}]"#, "Malformed cohort"),
        (r#"[{"hosts":[1],"hosts":[2]}]"#, "Malformed cohort"),
        (r#"[{"state":"resting","hosts":[1]}]"#, "Malformed state: \"resting\""),
        (r#"[{"state":1,"hosts":[1]}]"#, "Malformed state: 1"),
        (r#"[{"hosts":[-1]}]"#, "Malformed host ID: -1"),
        (r#"[{"hosts":[1.0]}]"#, "Malformed host ID: 1.0"),
        (r#"[{"hosts":[18446744073709551616]}]"#, "Malformed host ID: 18446744073709551616"),
        (r#"[{"hosts":["here"]}]"#, "Malformed host ID: \"here\""),
        (r#"[{"hosts":[null]}]"#, "Malformed host ID: null"),
        (r#"[]"#, "Number of cohorts must be a power of two."),
        (
            r#"[{"hosts":[1]},{"hosts":[2]},{"hosts":[3]}]"#,
            "Number of cohorts must be a power of two. There are 3.",
        ),
        (r#"{"hosts":[1]}"#, "The atlas needs to be a JSON array of cohorts."),
        ("", "The atlas is not well-formed JSON"),
        (r#"[{"hosts":[1]}"#, "The atlas is not well-formed JSON"),
        (r#"[{"hosts":[1]}] and"#, "The atlas is not well-formed JSON"),
    ];
    for (json, message) in cases {
        let told = refusal(json);
        assert!(told.contains(message), "{json}: {told}");
    }
    assert!(Atlas::parse_targets(b"[{\"state\":\"\xff\"}]").is_err());
}

#[test]
fn an_atlas_past_the_limit_is_refused_unread() {
    let bytes = ATLAS_BYTES_MAX + 1;
    assert_eq!(Atlas::parse_targets(&vec![b'['; bytes]), Err(AtlasError::TooLong { bytes }));
}

#[test]
fn deep_nesting_costs_no_stack() {
    for opening in ["[", "[{\"hosts\":", "[{\"other\":", "[[", "[{\"hosts\":[[[[{\"a\":["] {
        let json = opening.repeat(ATLAS_BYTES_MAX / opening.len());
        assert!(Atlas::parse_targets(json.as_bytes()).is_err());
    }
    let depth = ATLAS_BYTES_MAX / 4;
    let json = format!("[{{\"hosts\":[1],\"other\":{}{}}}]", "[".repeat(depth), "]".repeat(depth));
    assert_eq!(Atlas::parse_targets(json.as_bytes()).unwrap(), [settled(&[1])]);
}

#[test]
fn an_error_quotes_only_the_beginning_of_a_long_piece() {
    let told = refusal(&format!(r#"[{{"hosts":["{}"]}}]"#, "é".repeat(100_000)));
    assert!(told.chars().count() < 100, "{told}");
    assert!(told.ends_with('…'), "{told}");
}

// Who decides, and who has which rows.

#[test]
fn an_empty_cohort_never_has_a_quorum() {
    assert!(!Cohort::Empty.has_quorum(&hosts(&[])));
    assert!(!Cohort::Empty.has_quorum(&hosts(&[1, 2, 3])));
}

#[test]
fn a_settled_cohort_is_decided_by_a_majority_of_its_hosts() {
    let cohort = settled(&[1, 2, 3]);
    assert!(cohort.has_quorum(&hosts(&[1, 3])));
    assert!(cohort.has_quorum(&hosts(&[1, 2, 3, 4])));
    assert!(!cohort.has_quorum(&hosts(&[2])));
    assert!(!cohort.has_quorum(&hosts(&[2, 4, 5, 6])));
    assert!(settled(&[1]).has_quorum(&hosts(&[1])));
}

#[test]
fn a_changing_cohort_is_decided_by_majorities_of_origin_and_target() {
    for cohort in [issuing(&[1, 2, 3], &[3, 4, 5]), moving(&[1, 2, 3], &[3, 4, 5])] {
        assert!(cohort.has_quorum(&hosts(&[1, 3, 4])));
        assert!(cohort.has_quorum(&hosts(&[1, 2, 4, 5])));
        assert!(!cohort.has_quorum(&hosts(&[1, 2, 3])), "no majority of the target");
        assert!(!cohort.has_quorum(&hosts(&[3, 4, 5])), "no majority of the origin");
        assert_eq!(cohort.hosts().collect::<BTreeSet<_>>(), hosts(&[1, 2, 3, 4, 5]));
    }
}

#[test]
fn a_row_belongs_to_the_cohort_of_its_low_hash_bits() {
    let four = atlas(1, &[settled(&[1]), settled(&[2]), settled(&[3]), settled(&[4])]);
    assert_eq!([0x8c08_3d39, 0xc061_a04c, 0x7aa7_479a, u32::MAX].map(|h| four.cohort_for(h)), [1, 0, 2, 3]);
    assert_eq!(Atlas::empty().cohort_for(u32::MAX), 0);
}

#[test]
fn weights_count_the_cohorts_of_the_slice_that_each_host_is_in() {
    let cohorts = [[1, 2, 6], [1, 3, 7], [1, 4, 8], [2, 3, 8], [2, 4, 7], [3, 5, 6], [4, 5, 8], [5, 6, 7]];
    let atlas = atlas(1, &cohorts.map(|ids| settled(&ids)));
    let weights = |slice, nslices| -> Vec<(u64, u32)> {
        let slice = Slice::new(slice, nslices).unwrap();
        atlas.slice_weights(slice).into_iter().map(|(host, weight)| (host.0, weight)).collect()
    };
    assert_eq!(weights(1, 2), [(1, 1), (2, 1), (3, 3), (5, 2), (6, 2), (7, 2), (8, 1)]);
    assert_eq!(weights(1, 4), [(1, 1), (3, 2), (5, 1), (6, 1), (7, 1)]);
    assert_eq!(weights(1, 8), [(1, 1), (3, 1), (7, 1)]);
    assert_eq!(weights(1, 16), [(1, 1), (3, 1), (7, 1)]);
    assert_eq!(weights(9, 16), [(1, 1), (3, 1), (7, 1)]);
    assert_eq!(weights(0, 1), (1..=8).map(|host| (host, 3)).collect::<Vec<_>>());
}

#[test]
fn weights_count_origin_and_target_of_a_changing_cohort_once_each() {
    let atlas = atlas(1, &[issuing(&[1], &[1, 2, 3]), Cohort::Empty]);
    assert_eq!(atlas.slice_weights(Slice::ALL), [(HostId(1), 1), (HostId(2), 1), (HostId(3), 1)]);
    assert_eq!(atlas.slice_weights(Slice::new(1, 2).unwrap()), []);
}

// What becomes of an atlas when another is submitted.

#[test]
fn the_first_atlas_is_taken_as_given() {
    let given = [settled(&[1]), issuing(&[1], &[2])];
    assert_eq!(Atlas::empty().next(&given), Some(atlas(1, &given)));
}

#[test]
fn submitting_what_is_there_changes_nothing() {
    let now = atlas(4, &[settled(&[1]), issuing(&[1], &[2]), moving(&[1], &[3]), settled(&[1])]);
    assert_eq!(now.next(&now.cohorts), None);
    // Only targets count: the same wish in other words.
    assert_eq!(now.next(&[settled(&[1]), settled(&[2]), settled(&[3]), moving(&[9], &[1])]), None);
}

#[test]
fn a_new_target_starts_a_move() {
    let now = atlas(1, &[settled(&[1])]);
    let then = now.next(&[settled(&[1, 2, 3])]);
    assert_eq!(then, Some(atlas(2, &[issuing(&[1], &[1, 2, 3])])));
}

#[test]
fn submitting_the_origin_cancels_the_move_at_once() {
    for changing in [issuing(&[1], &[2]), moving(&[1], &[2])] {
        assert_eq!(atlas(5, &[changing]).next(&[settled(&[1])]), Some(atlas(6, &[settled(&[1])])));
    }
}

#[test]
fn a_move_is_re_aimed_from_where_the_rows_are() {
    for changing in [issuing(&[1], &[2]), moving(&[1], &[2])] {
        assert_eq!(atlas(5, &[changing]).next(&[settled(&[3])]), Some(atlas(6, &[issuing(&[1], &[3])])));
    }
}

#[test]
fn cohorts_change_one_by_one() {
    let now = atlas(7, &[settled(&[1]), moving(&[2], &[3]), moving(&[4], &[5]), settled(&[6])]);
    let then = now.next(&[settled(&[1]), settled(&[3]), settled(&[4]), settled(&[7])]);
    assert_eq!(
        then,
        Some(atlas(8, &[settled(&[1]), moving(&[2], &[3]), settled(&[4]), issuing(&[6], &[7])]))
    );
}

#[test]
fn more_cohorts_show_at_once() {
    let now = atlas(1, &[settled(&[1])]);
    let then = now.next(&[settled(&[1]), settled(&[2])]);
    assert_eq!(then, Some(atlas(2, &[settled(&[1]), issuing(&[1], &[2])])));
}

#[test]
fn several_cohorts_on_the_same_peers_stay_several() {
    let now = atlas(1, &[settled(&[1])]);
    let then = now.next(&[settled(&[1]), settled(&[1])]);
    assert_eq!(then, Some(atlas(2, &[settled(&[1]), settled(&[1])])));
}

#[test]
fn fewer_cohorts_show_once_every_half_has_settled_alike() {
    let now = atlas(2, &[settled(&[1]), settled(&[2])]);
    let then = now.next(&[settled(&[1])]).unwrap();
    assert_eq!(then, atlas(3, &[settled(&[1]), issuing(&[2], &[1])]));
    assert_eq!(then.clone().shrunk_to(1), then, "not before it has settled");
    let alike = atlas(3, &[moving(&[1], &[2]), moving(&[1], &[2])]);
    assert_eq!(alike.clone().shrunk_to(1), alike, "nor while both halves move alike");
    let done = atlas(4, &[settled(&[1]), settled(&[1])]);
    assert_eq!(done.clone().shrunk_to(1), atlas(4, &[settled(&[1])]));
    assert_eq!(done.clone().shrunk_to(2), done, "two were asked for");
}

#[test]
fn fewer_cohorts_show_at_once_when_nothing_has_to_move() {
    let now = atlas(2, &[settled(&[1]), settled(&[1]), settled(&[1]), settled(&[1])]);
    assert_eq!(now.next(&[settled(&[1]), settled(&[1])]), Some(atlas(3, &[settled(&[1]), settled(&[1])])));
    // Cancelling a split gives the one cohort back.
    let split = atlas(2, &[settled(&[1]), moving(&[1], &[2])]);
    assert_eq!(split.next(&[settled(&[1])]), Some(atlas(3, &[settled(&[1])])));
}

#[test]
fn an_atlas_that_does_not_repeat_itself_does_not_shrink() {
    let now = atlas(2, &[settled(&[1]), settled(&[2]), settled(&[1]), settled(&[3])]);
    assert_eq!(now.clone().shrunk_to(2), now);
    assert_eq!(now.clone().shrunk_to(0), now);
    assert_eq!(now.clone().shrunk_to(3), now);
    assert_eq!(now.clone().shrunk_to(8), now);
}

#[test]
fn what_breaks_the_rules_becomes_no_atlas() {
    let now = atlas(1, &[settled(&[1])]);
    let two = settled(&[1, 2]);
    for submitted in [&[][..], &[Cohort::Empty], &[two], &[settled(&[2]), settled(&[2]), settled(&[2])]] {
        assert_eq!(now.next(submitted), None);
        assert_eq!(Atlas::empty().next(submitted), None);
    }
}

fn any_hosts() -> impl Strategy<Value = BTreeSet<HostId>> {
    // Few peers, so that equal sets are common; an even number of them now and then is made odd.
    prop::collection::btree_set((1..5u64).prop_map(HostId), 1..4).prop_map(|mut hosts| {
        if hosts.len() % 2 == 0 {
            hosts.pop_last();
        }
        hosts
    })
}

fn any_cohort() -> impl Strategy<Value = Cohort> {
    (any_hosts(), any_hosts(), any::<bool>()).prop_map(|(origin, target, told)| {
        if origin == target {
            Cohort::Settled { hosts: target }
        } else if told {
            Cohort::Moving { origin, target }
        } else {
            Cohort::Issuing { origin, target }
        }
    })
}

fn any_cohorts() -> impl Strategy<Value = Vec<Cohort>> {
    (0..4u32).prop_flat_map(|log| prop::collection::vec(any_cohort(), 1 << log))
}

/// What a supervisor makes of the atlas when every move has ended.
fn finished(atlas: &Atlas, asked: usize) -> Atlas {
    let settle = |cohort: &Cohort| Cohort::Settled { hosts: cohort.target().clone() };
    Atlas { version: atlas.version + 1, cohorts: atlas.cohorts.iter().map(settle).collect() }.shrunk_to(asked)
}

proptest! {
    #[test]
    fn every_atlas_is_sound_and_takes_each_share_from_where_its_rows_are(now in any_cohorts(), wish in any_cohorts()) {
        let now = atlas(9, &now);
        if let Some(then) = now.next(&wish) {
            prop_assert_eq!(then.version, 10);
            prop_assert_ne!(&then.cohorts, &now.cohorts);
            prop_assert_eq!(check_targets(&then.cohorts), Ok(()));
            for hash in 0..8u32 {
                let (before, after) = (&now.cohorts[now.cohort_for(hash)], &then.cohorts[then.cohort_for(hash)]);
                prop_assert_eq!(after.target(), wish[hash as usize % wish.len()].target());
                // No share may claim to be with peers that its rows have not reached.
                prop_assert_eq!(after.origin(), before.origin());
            }
        }
    }

    #[test]
    fn a_wish_submitted_twice_changes_nothing_more(now in any_cohorts(), wish in any_cohorts()) {
        if let Some(then) = atlas(1, &now).next(&wish) {
            prop_assert_eq!(then.next(&wish), None);
        }
    }

    #[test]
    fn after_the_moves_the_atlas_is_the_one_asked_for(now in any_cohorts(), wish in any_cohorts()) {
        let now = atlas(1, &now);
        let then = finished(&now.next(&wish).unwrap_or(now), wish.len());
        let asked: Vec<_> = wish.iter().map(|c| Cohort::Settled { hosts: c.target().clone() }).collect();
        prop_assert_eq!(then.cohorts, asked);
    }

    #[test]
    fn a_move_is_cancelled_by_submitting_what_was_there(before in prop::collection::vec(any_hosts(), 4), wish in any_cohorts()) {
        let before = atlas(1, &before.into_iter().map(|hosts| Cohort::Settled { hosts }).collect::<Vec<_>>());
        if let Some(then) = before.next(&wish) {
            // An atlas that shrank at once kept every row where it was.
            let back = then.next(&before.cohorts);
            prop_assert_eq!(back.unwrap_or(then).cohorts, before.cohorts);
        }
    }

    #[test]
    fn an_atlas_reads_back_as_printed(cohorts in any_cohorts()) {
        prop_assert_eq!(Atlas::parse_targets(atlas(1, &cohorts).to_json().as_bytes()), Ok(cohorts));
    }

    #[test]
    fn any_bytes_are_an_atlas_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        let _ = Atlas::parse_targets(&bytes);
    }

    #[test]
    fn whatever_is_pieced_together_reads_as_a_sound_atlas_or_not_at_all(pieces in prop::collection::vec(
        prop::sample::select(vec![
            "[", "]", "{", "}", ",", ":", "\"state\"", "\"hosts\"", "\"origin\"", "\"target\"", "\"moving\"",
            "\"settled\"", "[1]", "[2]", "\"empty\"", "null", "[{\"hosts\":[1]},", "{\"hosts\":[3]}", "1e9", "\"\\u0000\"",
        ]),
        0..24,
    )) {
        if let Ok(cohorts) = Atlas::parse_targets(pieces.concat().as_bytes()) {
            prop_assert_eq!(check_targets(&cohorts), Ok(()));
        }
    }
}
