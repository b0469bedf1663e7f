//! The rules one by one, and that they hold whatever is asked in whatever order.

use super::*;
use crate::catalog::command::{KEY_BYTES_MAX, KEYS_BYTES_MAX, KeyExpect, VALUE_BYTES_MAX};
use crate::catalog::recent::REMEMBERED_MAX;
use crate::catalog::state::{Founding, catalog_hosts};
use bytes::Bytes;
use proptest::prelude::*;
use skein_model::{ContentType, Value};
use std::collections::BTreeMap;

fn set(hosts: &[u64]) -> BTreeSet<HostId> {
    hosts.iter().copied().map(HostId).collect()
}

fn settled(hosts: &[u64]) -> Cohort {
    Cohort::Settled { hosts: set(hosts) }
}

fn genesis(cohorts: &[&[u64]]) -> Genesis {
    Genesis {
        founding: Founding(7),
        cohorts: cohorts.iter().map(|hosts| settled(hosts)).collect(),
        atlas_version: 1,
        schema_version: 0,
        schema: String::new(),
        members: (1..=7).map(|id| (HostId(id), StoreId(100 + id))).collect(),
        opened: false,
    }
}

/// A content with nothing but a founding.
pub(crate) fn founded(founding: u64) -> Content {
    let genesis = Genesis { founding: Founding(founding), ..genesis(&[&[1]]) };
    let mut content = Content::default();
    let request = Request { id: 1, after: 0, again: false, command: Command::Found(genesis) };
    content.apply(1, &request).unwrap();
    content
}

fn value(bytes: usize) -> Value {
    Value { content_type: ContentType::Json, bytes: Bytes::from(vec![b'1'; bytes]) }
}

/// A content with the index it is at; every command gets an ID of its own.
struct Replica {
    content: Content,
    index: u64,
}

impl Replica {
    fn new() -> Replica {
        Replica { content: Content::default(), index: 0 }
    }

    fn founded(cohorts: &[&[u64]]) -> Replica {
        let mut replica = Replica::new();
        replica.command(Command::Found(genesis(cohorts))).unwrap();
        replica
    }

    fn request(&mut self, request: &Request) -> Result<Outcome, Refusal> {
        let before = self.content.clone();
        self.index += 1;
        let result = self.content.apply(self.index, request);
        if result.is_err() {
            assert_eq!(self.content, before, "a refusal changes nothing");
        }
        self.content.state.check().unwrap();
        result
    }

    fn command(&mut self, command: Command) -> Result<Outcome, Refusal> {
        self.request(&Request { id: u128::from(self.index) << 64, after: self.index, again: false, command })
    }

    fn put_atlas(&mut self, cohorts: &[&[u64]], if_version: Option<u64>) -> Result<Outcome, Refusal> {
        let targets = cohorts.iter().map(|hosts| settled(hosts)).collect();
        self.command(Command::PutAtlas { targets, if_version })
    }

    fn put_key(&mut self, key: &str, bytes: usize, expect: KeyExpect) -> Result<Outcome, Refusal> {
        self.command(Command::PutKey { key: key.into(), value: value(bytes), expect })
    }
}

#[test]
fn nothing_can_be_changed_before_the_founding_and_it_happens_once() {
    let mut replica = Replica::new();
    assert_eq!(replica.put_atlas(&[&[1]], None), Err(Refusal::NotFounded));
    assert_eq!(replica.put_key("a", 1, KeyExpect::Anything), Err(Refusal::NotFounded));
    replica.command(Command::Found(genesis(&[&[1], &[2]]))).unwrap();
    let state = replica.content.state.clone();
    let groups: Vec<_> = state.cohorts.iter().map(|cohort| (cohort.group, cohort.opened)).collect();
    assert_eq!(groups, [(GroupId(1), false), (GroupId(2), false)]);
    assert_eq!(state.cohorts[1].founders, BTreeMap::from([(HostId(2), StoreId(102))]));
    assert_eq!((state.version, state.atlas.version), (3, 1));
    let again = replica.command(Command::Found(genesis(&[&[3]])));
    assert_eq!(again, Err(Refusal::AlreadyFounded { founding: Founding(7) }));
}

#[test]
fn a_founding_needs_sound_cohorts_and_hosts_that_are_known_by_different_directories() {
    let mut replica = Replica::new();
    let found = |replica: &mut Replica, change: &dyn Fn(&mut Genesis)| {
        let mut genesis = genesis(&[&[1]]);
        change(&mut genesis);
        replica.command(Command::Found(genesis)).unwrap_err()
    };
    let error = found(&mut replica, &|g| g.cohorts = vec![settled(&[1, 2])]);
    assert!(matches!(error, Refusal::BadAtlas { .. }), "{error}");
    let error = found(&mut replica, &|g| g.cohorts = Vec::new());
    assert!(matches!(error, Refusal::BadAtlas { .. }), "{error}");
    let error = found(&mut replica, &|g| g.cohorts = vec![settled(&[8])]);
    assert_eq!(error, Refusal::UnknownHosts { hosts: set(&[8]) });
    assert!(error.to_string().contains("--hail"), "{error}");
    let error = found(&mut replica, &|g| *g.members.get_mut(&HostId(2)).unwrap() = StoreId(101));
    assert_eq!(error, Refusal::StoreTaken { store: StoreId(101), host: HostId(1) });
    let error = found(&mut replica, &|g| g.schema = "table".into());
    assert!(matches!(error, Refusal::BadSchema { .. }), "{error}");
    assert!(!replica.content.state.is_founded());
}

#[test]
fn a_change_of_the_atlas_is_for_the_version_it_names() {
    let mut replica = Replica::founded(&[&[1]]);
    let outcome = replica.put_atlas(&[&[1, 2, 3]], Some(1)).unwrap();
    assert_eq!((outcome.version, outcome.changed), (2, true));
    let stale = Refusal::Stale { subject: Subject::Atlas, current: 2, expected: 1 };
    assert_eq!(replica.put_atlas(&[&[4]], Some(1)), Err(stale));
    let same = replica.put_atlas(&[&[1, 2, 3]], None).unwrap();
    assert_eq!((same.version, same.changed), (2, false));
    assert_eq!(replica.content.state.version, 2, "what is not changed has no new version");
}

#[test]
fn a_host_that_never_joined_is_refused_and_one_that_was_forgotten_can_stay_or_go() {
    let mut replica = Replica::founded(&[&[1, 2, 3]]);
    let unknown = replica.put_atlas(&[&[1, 8, 9]], None);
    assert_eq!(unknown, Err(Refusal::UnknownHosts { hosts: set(&[8, 9]) }));
    replica.command(Command::Forget { host: HostId(3) }).unwrap();
    replica.put_atlas(&[&[1, 2, 3]], None).unwrap();
    replica.put_atlas(&[&[1, 2, 4]], None).unwrap();
    assert!(replica.content.state.atlas.cohorts[0].origin().contains(&HostId(3)));
}

#[test]
fn the_number_of_cohorts_stays_what_the_first_atlas_made_it() {
    let mut replica = Replica::founded(&[&[1], &[1]]);
    let error = replica.put_atlas(&[&[1]], None).unwrap_err();
    assert_eq!(error, Refusal::CohortCount { current: 2, submitted: 1 });
    assert!(error.to_string().contains("submit 2"), "{error}");
    replica.put_atlas(&[&[1], &[2]], None).unwrap();
    assert_eq!(replica.content.state.atlas.cohorts.len(), 2);
}

#[test]
fn only_cohorts_that_changed_are_in_their_state_since_now() {
    let mut replica = Replica::founded(&[&[1], &[2]]);
    replica.put_atlas(&[&[1], &[3]], None).unwrap();
    let since: Vec<u64> = replica.content.state.cohorts.iter().map(|cohort| cohort.since).collect();
    assert_eq!(since, [1, 2]);
    let groups: Vec<GroupId> = replica.content.state.cohorts.iter().map(|cohort| cohort.group).collect();
    assert_eq!(groups, [GroupId(1), GroupId(2)], "a move takes the group along");
}

#[test]
fn joining_twice_is_once_and_another_directory_is_told_what_to_do() {
    let mut replica = Replica::founded(&[&[1, 2, 3]]);
    let join = |host, store| Command::Join { host: HostId(host), store: StoreId(store) };
    assert!(replica.command(join(8, 108)).unwrap().changed);
    assert!(!replica.command(join(8, 108)).unwrap().changed);
    let error = replica.command(join(3, 203)).unwrap_err();
    assert!(error.to_string().contains("skein forget 0x0000000000000003"), "{error}");
    let taken = replica.command(join(9, 103));
    assert_eq!(taken, Err(Refusal::StoreTaken { store: StoreId(103), host: HostId(3) }));
    assert!(replica.command(Command::Forget { host: HostId(3) }).unwrap().changed);
    assert!(!replica.command(Command::Forget { host: HostId(3) }).unwrap().changed);
    assert!(replica.command(join(3, 203)).unwrap().changed);
    assert_eq!(replica.content.state.members[&HostId(3)], StoreId(203));
}

#[test]
fn the_majority_of_a_cohort_cannot_be_forgotten() {
    let mut replica = Replica::founded(&[&[1, 2, 3], &[4]]);
    let forget = |host| Command::Forget { host: HostId(host) };
    replica.command(forget(1)).unwrap();
    let error = replica.command(forget(2));
    assert_eq!(error, Err(Refusal::LastCopies { host: HostId(2), cohort: 0 }));
    let error = replica.command(forget(4));
    assert_eq!(error, Err(Refusal::LastCopies { host: HostId(4), cohort: 1 }));
    replica.command(forget(7)).unwrap();
}

#[test]
fn a_schema_is_checked_and_counted() {
    let mut replica = Replica::founded(&[&[1]]);
    let put = |text: &str, if_version| Command::PutSchema { text: text.into(), if_version };
    assert_eq!(replica.command(put("table a { id: 1; };", Some(0))).unwrap().version, 1);
    assert!(matches!(replica.command(put("table", None)), Err(Refusal::BadSchema { .. })));
    let stale = Refusal::Stale { subject: Subject::Schema, current: 1, expected: 0 };
    assert_eq!(replica.command(put("", Some(0))), Err(stale));
    assert!(replica.content.state.schema.table("a").is_some());
}

#[test]
fn a_key_is_written_and_removed_only_as_it_is_expected() {
    let mut replica = Replica::founded(&[&[1]]);
    let delete = |expect| Command::DeleteKey { key: "k".into(), expect };
    let missing = Refusal::Missing { key: "k".into() };
    assert_eq!(replica.put_key("k", 1, KeyExpect::Present), Err(missing.clone()));
    assert_eq!(replica.command(delete(KeyExpect::Present)), Err(missing));
    assert!(!replica.command(delete(KeyExpect::Anything)).unwrap().changed);
    let first = replica.put_key("k", 1, KeyExpect::Absent).unwrap();
    let exists = Refusal::Exists { key: "k".into(), version: first.version };
    assert_eq!(replica.put_key("k", 1, KeyExpect::Absent), Err(exists));
    let second = replica.put_key("k", 2, KeyExpect::Version(first.version)).unwrap();
    assert!(first.version < second.version);
    let stale = replica.put_key("k", 3, KeyExpect::Version(first.version));
    assert!(matches!(stale, Err(Refusal::Stale { current, .. }) if current == second.version));
    let gone = replica.command(delete(KeyExpect::Version(second.version))).unwrap();
    assert_eq!((gone.version, gone.changed), (0, true));
    assert!(replica.put_key("k", 3, KeyExpect::Absent).unwrap().version > second.version);
    assert_eq!(replica.content.state.version, 1, "keys are no concern of peers that are not members");
}

#[test]
fn lengths_of_keys_and_values_are_limited_with_the_limit_named() {
    let mut replica = Replica::founded(&[&[1]]);
    for bad in ["", &"k".repeat(KEY_BYTES_MAX + 1)] {
        let error = replica.put_key(bad, 1, KeyExpect::Anything).unwrap_err();
        assert!(error.to_string().contains("512"), "{error}");
    }
    replica.put_key(&"k".repeat(KEY_BYTES_MAX), VALUE_BYTES_MAX, KeyExpect::Anything).unwrap();
    let error = replica.put_key("k", VALUE_BYTES_MAX + 1, KeyExpect::Anything).unwrap_err();
    assert!(error.to_string().contains("65536"), "{error}");
    let value = Value { content_type: ContentType::Other("x".repeat(257).into()), bytes: Bytes::new() };
    let long = Command::PutKey { key: "k".into(), value, expect: KeyExpect::Anything };
    assert!(matches!(replica.command(long), Err(Refusal::ContentTypeTooLong { bytes: 257 })));
}

#[test]
fn the_store_is_full_at_its_limit_and_room_comes_back() {
    let mut content = Replica::founded(&[&[1]]).content;
    let mut put = |index: u64, key: String, bytes: usize| {
        let command = Command::PutKey { key, value: value(bytes), expect: KeyExpect::Anything };
        content.apply(index, &Request { id: index.into(), after: index - 1, again: false, command })
    };
    let each = 4 + VALUE_BYTES_MAX;
    let fit = (KEYS_BYTES_MAX / each) as u64;
    for i in 0..fit {
        put(10 + i, format!("{i:04}"), VALUE_BYTES_MAX).unwrap();
    }
    let bytes = (fit as usize + 1) * each;
    assert_eq!(put(1000, "more".into(), VALUE_BYTES_MAX), Err(Refusal::Full { bytes }));
    put(1001, "0000".into(), 0).unwrap();
    put(1002, "more".into(), VALUE_BYTES_MAX).unwrap();
}

#[test]
fn a_request_sent_again_takes_effect_once() {
    let mut replica = Replica::founded(&[&[1]]);
    let command = Command::PutKey { key: "k".into(), value: value(1), expect: KeyExpect::Absent };
    let request = Request { id: 99, after: 1, again: false, command };
    let first = replica.request(&request).unwrap();
    let delete = Command::DeleteKey { key: "k".into(), expect: KeyExpect::Present };
    replica.command(delete).unwrap();
    assert_eq!(replica.request(&request), Ok(first), "the outcome is remembered");
    assert!(replica.content.keys.get("k").is_none(), "and not carried out again");
}

#[test]
fn a_request_that_may_have_been_forgotten_is_refused() {
    let mut replica = Replica::founded(&[&[1]]);
    let command = Command::PutKey { key: "k".into(), value: value(1), expect: KeyExpect::Anything };
    let request = Request { id: 99, after: 1, again: false, command };
    replica.request(&request).unwrap();
    for i in 0..REMEMBERED_MAX {
        replica.put_key(&format!("{}", i % 10), 1, KeyExpect::Anything).unwrap();
    }
    assert!(matches!(replica.request(&request), Err(Refusal::TooOld { after: 1, .. })));
    // The same wish from somebody who knows how far the catalog is.
    replica.request(&Request { id: 100, after: replica.index, ..request }).unwrap();
}

#[test]
fn a_request_that_was_refused_when_sent_again_is_not_carried_out_when_its_first_copy_arrives() {
    let mut replica = Replica::founded(&[&[1]]);
    replica.put_key("k", 1, KeyExpect::Absent).unwrap();
    let command = Command::PutKey { key: "k".into(), value: value(2), expect: KeyExpect::Absent };
    let first = Request { id: 99, after: 1, again: false, command };
    let again = Request { again: true, ..first.clone() };
    replica.index += 1;
    let refused = replica.content.apply(replica.index, &again);
    assert!(matches!(refused, Err(Refusal::Exists { .. })));
    let delete = Command::DeleteKey { key: "k".into(), expect: KeyExpect::Present };
    replica.command(delete).unwrap();
    assert_eq!(replica.request(&first), Err(Refusal::Withdrawn));
    assert!(replica.content.keys.is_empty());
}

#[test]
fn the_catalog_is_kept_by_at_most_five_hosts_of_cohort_0_where_it_is_wanted() {
    let hosts = |cohort| catalog_hosts(&Atlas { version: 1, cohorts: vec![cohort, settled(&[9])] });
    assert_eq!(hosts(settled(&[1, 2, 3])), set(&[1, 2, 3]));
    assert_eq!(hosts(settled(&[1, 2, 3, 4, 5, 6, 7])), set(&[1, 2, 3, 4, 5]));
    let (origin, target) = (set(&[1]), set(&[2]));
    assert_eq!(hosts(Cohort::Issuing { origin: origin.clone(), target: target.clone() }), set(&[1]));
    assert_eq!(hosts(Cohort::Moving { origin, target }), set(&[2]));
    assert!(catalog_hosts(&Atlas::empty()).is_empty());
}

#[test]
fn keys_are_listed_by_prefix_in_order_and_from_where_one_left_off() {
    let mut replica = Replica::founded(&[&[1]]);
    for key in ["b/2", "a", "b/1", "b", "c", "b/10"] {
        replica.put_key(key, 1, KeyExpect::Absent).unwrap();
    }
    let list = |prefix, after, max| -> Vec<&str> {
        replica.content.keys.list(prefix, after, max).map(|(key, _)| key).collect()
    };
    assert_eq!(list("b/", None, 9), ["b/1", "b/10", "b/2"]);
    assert_eq!(list("b/", Some("b/1"), 1), ["b/10"]);
    assert_eq!(list("b/", Some("a"), 9), ["b/1", "b/10", "b/2"], "a position before the prefix is none");
    assert_eq!(list("", None, 9).len(), 6);
    assert!(list("b/", Some("zzz"), 9).is_empty());
}

fn any_cohort() -> impl Strategy<Value = Cohort> {
    let hosts = prop::collection::btree_set((1u64..10).prop_map(HostId), 0..4);
    let hosts = || hosts.clone();
    prop_oneof![
        4 => hosts().prop_map(|hosts| Cohort::Settled { hosts }),
        1 => (hosts(), hosts()).prop_map(|(origin, target)| Cohort::Moving { origin, target }),
        1 => Just(Cohort::Empty),
    ]
}

fn any_expect() -> impl Strategy<Value = KeyExpect> {
    prop_oneof![
        3 => Just(KeyExpect::Anything),
        1 => Just(KeyExpect::Absent),
        1 => Just(KeyExpect::Present),
        1 => (0u64..40).prop_map(KeyExpect::Version),
    ]
}

pub(crate) fn any_command() -> impl Strategy<Value = Command> {
    let version = prop::option::of(0u64..6);
    let step = (1u64..5, 0u64..40, any::<bool>()).prop_map(|(group, since, issuing)| Step {
        group: GroupId(group),
        since,
        from: if issuing { StepFrom::Issuing } else { StepFrom::Moving },
    });
    let host = || (1u64..10).prop_map(HostId);
    prop_oneof![
        1 => prop::collection::vec(any_cohort(), 0..3).prop_map(|cohorts| {
            Command::Found(Genesis { cohorts, ..genesis(&[]) })
        }),
        4 => (prop::collection::vec(any_cohort(), 0..5), version.clone())
            .prop_map(|(targets, if_version)| Command::PutAtlas { targets, if_version }),
        1 => ("[a-z ]{0,8}", version).prop_map(|(text, if_version)| Command::PutSchema { text, if_version }),
        2 => (host(), 101u64..110).prop_map(|(host, store)| Command::Join { host, store: StoreId(store) }),
        2 => host().prop_map(|host| Command::Forget { host }),
        4 => (prop::collection::vec((0u64..5).prop_map(GroupId), 0..3), prop::collection::vec(step, 0..4))
            .prop_map(|(opened, steps)| Command::Advance { opened, steps }),
        3 => ("[a-c]{0,2}", 0usize..9, any_expect())
            .prop_map(|(key, bytes, expect)| Command::PutKey { key, value: value(bytes), expect }),
        1 => ("[a-c]{0,2}", any_expect()).prop_map(|(key, expect)| Command::DeleteKey { key, expect }),
    ]
}

proptest! {
    #[test]
    fn any_commands_leave_a_sound_content_that_comes_back_from_its_bytes(
        commands in prop::collection::vec(any_command(), 0..40),
    ) {
        let mut replica = Replica::founded(&[&[1], &[2, 3, 4]]);
        for command in commands {
            // `command` checks that a refusal changes nothing, and that the state stays sound.
            let _ = replica.command(command);
        }
        let bytes = postcard::to_stdvec(&replica.content).unwrap();
        let back: Content = postcard::from_bytes(&bytes).unwrap();
        prop_assert_eq!(back.keys.bytes(), replica.content.keys.bytes());
        prop_assert_eq!(back, replica.content);
    }

    #[test]
    fn requests_come_back_from_their_bytes_and_cut_ones_are_refused(
        id: u128, after: u64, command in any_command(), cut in any::<prop::sample::Index>(),
    ) {
        let request = Request { id, after, again: after % 2 == 0, command };
        let bytes = request.encode().unwrap();
        prop_assert_eq!(Request::decode(&bytes).unwrap(), request);
        prop_assert!(Request::decode(&bytes[..cut.index(bytes.len())]).is_err());
        let longer = [bytes, vec![0]].concat();
        prop_assert!(Request::decode(&longer).is_err());
    }

    #[test]
    fn any_bytes_are_a_request_or_refused(mut bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Request::decode(&bytes);
        if let Some(first) = bytes.first_mut() {
            *first = 1;
            let _ = Request::decode(&bytes);
            let _ = postcard::from_bytes::<Content>(&bytes);
        }
    }
}
