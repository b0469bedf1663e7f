//! Moves from the first wish to the end, with everything that can come between.

use super::*;
use crate::catalog::{Content, Founding, Genesis, Request};
use proptest::prelude::*;

fn set(hosts: &[u64]) -> BTreeSet<HostId> {
    hosts.iter().copied().map(HostId).collect()
}

fn settled(hosts: &[u64]) -> Cohort {
    Cohort::Settled { hosts: set(hosts) }
}

/// A catalog and what its leader heard; host N has store 100 + N.
struct Desk {
    content: Content,
    observed: Observed,
    index: u64,
}

impl Desk {
    /// A founded cell of hosts 1..=9.
    fn with(cohorts: &[&[u64]]) -> Desk {
        let mut desk = Desk { content: Content::default(), observed: Observed::default(), index: 0 };
        desk.command(Command::Found(Genesis {
            founding: Founding(7),
            cohorts: cohorts.iter().map(|hosts| settled(hosts)).collect(),
            atlas_version: 1,
            schema_version: 0,
            schema: String::new(),
            members: (1..=9).map(|id| (HostId(id), StoreId(100 + id))).collect(),
            opened: false,
        }));
        desk
    }

    fn command(&mut self, command: Command) {
        self.index += 1;
        let request = Request { id: self.index.into(), after: self.index - 1, again: false, command };
        self.content.apply(self.index, &request).unwrap();
    }

    fn put(&mut self, cohorts: &[&[u64]]) {
        let targets = cohorts.iter().map(|hosts| settled(hosts)).collect();
        self.command(Command::PutAtlas { targets, if_version: None });
    }

    fn cohort(&self, position: usize) -> &Cohort {
        &self.content.state.atlas.cohorts[position]
    }

    fn all_see(&mut self, hosts: &[u64]) {
        let version = self.content.state.version;
        hosts.iter().for_each(|id| self.observed.saw(HostId(*id), version));
    }

    /// The leader of the cohort's group reports, running by the newest catalog, that it is at these hosts.
    fn reports(&mut self, position: usize, hosts: Option<&[u64]>) -> Report {
        let report = Report {
            group: self.content.state.cohorts[position].group,
            term: 1,
            catalog: self.content.state.version,
            settled_at: hosts.map(|hosts| hosts.iter().map(|id| (HostId(*id), StoreId(100 + id))).collect()),
        };
        self.observed.report(report.clone());
        report
    }

    /// Lets the supervisor act once; whether it had anything to say.
    fn step(&mut self) -> bool {
        let command = next_command(&self.content.state, &self.observed);
        let acts = command.is_some();
        if let Some(command) = command {
            self.command(command);
        }
        acts
    }

    fn is_issuing(&self, position: usize) -> bool {
        matches!(self.cohort(position), Cohort::Issuing { .. })
    }

    fn is_moving(&self, position: usize) -> bool {
        matches!(self.cohort(position), Cohort::Moving { .. })
    }
}

#[test]
fn a_settled_cell_needs_nothing_once_its_groups_have_opened() {
    let mut desk = Desk::with(&[&[1], &[1]]);
    assert!(!desk.step(), "nobody has reported");
    desk.reports(0, Some(&[1]));
    desk.reports(1, None);
    assert!(desk.step());
    assert!(desk.content.state.cohorts.iter().all(|cohort| cohort.opened));
    assert!(!desk.step());
}

#[test]
fn a_move_goes_from_issuing_to_moving_to_settled() {
    let mut desk = Desk::with(&[&[1]]);
    desk.put(&[&[1, 2, 3]]);
    desk.all_see(&[1]);
    assert!(!desk.step(), "the target has no quorum");
    desk.all_see(&[2]);
    assert!(desk.step());
    assert!(desk.is_moving(0));
    desk.reports(0, None);
    assert!(desk.step(), "the group has opened");
    assert!(!desk.step(), "its members are changing");
    desk.reports(0, Some(&[1]));
    assert!(!desk.step(), "its members have not changed");
    desk.reports(0, Some(&[1, 2, 3]));
    assert!(desk.step());
    assert_eq!(*desk.cohort(0), settled(&[1, 2, 3]));
    assert_eq!(desk.content.state.atlas.version, 4);
    assert!(!desk.step());
}

#[test]
fn moves_begin_only_when_a_quorum_of_every_cohort_knows() {
    let mut desk = Desk::with(&[&[1], &[4, 5, 6]]);
    desk.put(&[&[2], &[4, 5, 6]]);
    desk.all_see(&[1, 2, 4]);
    assert!(!desk.step());
    desk.all_see(&[6]);
    assert!(desk.step());
    assert!(desk.is_moving(0));
    assert_eq!(*desk.cohort(1), settled(&[4, 5, 6]));
}

#[test]
fn having_seen_an_older_catalog_does_not_count() {
    let mut desk = Desk::with(&[&[1]]);
    desk.all_see(&[1, 2, 3]);
    desk.put(&[&[1, 2, 3]]);
    assert!(!desk.step());
    // A change of something else does not ask everybody again.
    desk.all_see(&[1, 2, 3]);
    desk.command(Command::PutSchema { text: "table a { id: 1; };".into(), if_version: None });
    assert!(desk.step());
    assert!(desk.is_moving(0));
}

#[test]
fn a_report_from_before_the_move_does_not_end_it() {
    let mut desk = Desk::with(&[&[1]]);
    desk.put(&[&[2]]);
    desk.all_see(&[1, 2]);
    assert!(desk.step());
    let arrived = desk.reports(0, Some(&[2]));
    // Before the supervisor hears of it, the move is cancelled, undone by the group, and wished for again.
    desk.observed = Observed::default();
    desk.put(&[&[1]]);
    assert_eq!(*desk.cohort(0), settled(&[1]));
    desk.put(&[&[2]]);
    desk.all_see(&[1, 2]);
    assert!(desk.step());
    assert!(desk.is_moving(0));
    desk.observed.report(arrived);
    assert!(desk.step(), "that the group has opened is true all the same");
    assert!(desk.is_moving(0), "the report is about the move that was cancelled");
    desk.reports(0, Some(&[2]));
    assert!(desk.step());
    assert_eq!(*desk.cohort(0), settled(&[2]));
}

#[test]
fn a_move_that_is_aimed_elsewhere_is_issued_anew_and_ends_at_its_new_target() {
    let mut desk = Desk::with(&[&[1]]);
    desk.put(&[&[2]]);
    desk.all_see(&[1, 2, 3]);
    desk.step();
    desk.put(&[&[3]]);
    assert!(desk.is_issuing(0));
    desk.reports(0, Some(&[2]));
    desk.step();
    assert!(desk.is_issuing(0), "who saw the first aim has not seen the second");
    desk.all_see(&[1, 3]);
    assert!(desk.step());
    assert!(desk.is_moving(0));
    assert!(!desk.step(), "it is at the old target");
    desk.reports(0, Some(&[3]));
    assert!(desk.step());
    assert_eq!(*desk.cohort(0), settled(&[3]));
}

#[test]
fn many_cohorts_move_at_once_and_each_ends_by_itself() {
    let before: Vec<&[u64]> = vec![&[1, 2, 3]; 64];
    let after: Vec<&[u64]> = vec![&[3, 4, 5]; 64];
    let mut desk = Desk::with(&before);
    desk.put(&after);
    desk.all_see(&[1, 2, 3, 4]);
    assert!(desk.step());
    assert!((0..64).all(|position| desk.is_moving(position)), "one command moves all");
    for position in 0..64 {
        desk.reports(position, if position % 2 == 0 { Some(&[3, 4, 5]) } else { None });
    }
    assert!(desk.step());
    for position in 0..64 {
        assert_eq!(desk.is_moving(position), position % 2 == 1, "{position}");
    }
}

#[test]
fn a_host_that_came_back_with_another_directory_is_not_where_the_rows_went() {
    let mut desk = Desk::with(&[&[1, 2, 3]]);
    desk.put(&[&[3, 4, 5]]);
    desk.all_see(&[1, 2, 3, 4, 5]);
    desk.step();
    desk.command(Command::Forget { host: HostId(5) });
    desk.reports(0, Some(&[3, 4, 5]));
    desk.step();
    assert!(desk.is_moving(0), "5 is not known by any directory");
    desk.command(Command::Join { host: HostId(5), store: StoreId(205) });
    assert!(!desk.step(), "the report names the lost directory");
    let mut report = desk.reports(0, Some(&[3, 4, 5]));
    report.settled_at.as_mut().unwrap().insert(HostId(5), StoreId(205));
    desk.observed.report(report);
    assert!(desk.step());
    assert_eq!(*desk.cohort(0), settled(&[3, 4, 5]));
}

#[test]
fn a_deposed_leaders_report_does_not_replace_its_successors() {
    let mut desk = Desk::with(&[&[1, 2, 3]]);
    desk.put(&[&[3, 4, 5]]);
    desk.all_see(&[1, 2, 3, 4, 5]);
    desk.step();
    let mut old = desk.reports(0, Some(&[3, 4, 5]));
    let mut new = old.clone();
    (old.term, new.term) = (1, 2);
    new.settled_at = None;
    desk.observed.report(new);
    desk.observed.report(old);
    desk.step();
    assert!(desk.is_moving(0));
}

#[test]
fn a_step_that_a_change_of_the_atlas_overtook_is_left_out() {
    let mut desk = Desk::with(&[&[1], &[1]]);
    desk.put(&[&[2], &[2]]);
    desk.all_see(&[1, 2]);
    let late = next_command(&desk.content.state, &desk.observed).unwrap();
    desk.put(&[&[1], &[2]]);
    desk.command(late);
    assert_eq!(*desk.cohort(0), settled(&[1]), "cancelled");
    assert!(desk.is_moving(1), "not concerned by the cancellation");
}

#[test]
fn strangers_do_not_fill_the_memory() {
    let mut desk = Desk::with(&[&[1]]);
    let report = Report { group: GroupId(99), term: 1, catalog: 1, settled_at: None };
    desk.observed.report(report);
    (1000..2000).for_each(|id| desk.observed.saw(HostId(id), 5));
    desk.observed.saw(HostId(1), 5);
    desk.observed.keep_only_known(&desk.content.state);
    assert_eq!(desk.observed.seen, BTreeMap::from([(HostId(1), 5)]));
    assert!(desk.observed.reports.is_empty());
}

/// What may happen to a cell while it moves.
#[derive(Debug, Clone)]
enum Event {
    Put(Vec<BTreeSet<HostId>>),
    See(u64),
    Report { position: usize, is_there: bool },
    NewLeader,
    Act,
}

fn event() -> impl Strategy<Value = Event> {
    let hosts = prop::sample::subsequence((1..=6).map(HostId).collect::<Vec<_>>(), 3);
    let hosts = prop_oneof![hosts, (1u64..=6).prop_map(|id| vec![HostId(id)])];
    let cohort = hosts.prop_map(|hosts| hosts.into_iter().collect::<BTreeSet<_>>());
    prop_oneof![
        1 => prop::collection::vec(cohort, 4).prop_map(Event::Put),
        6 => (1u64..=6).prop_map(Event::See),
        6 => (0usize..4, any::<bool>()).prop_map(|(position, is_there)| Event::Report { position, is_there }),
        1 => Just(Event::NewLeader),
        6 => Just(Event::Act),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_a_cohort_settles_only_where_its_replicas_are_and_in_the_end_all_do(
        events in prop::collection::vec(event(), 0..80),
    ) {
        let mut desk = Desk::with(&[&[1u64][..]; 4]);
        let mut wanted = vec![set(&[1]); 4];
        // Where each group's replicas truly are.
        let mut places = wanted.clone();
        let finish = (0..4).flat_map(|_| {
            let see = (1..=6).map(Event::See);
            let act = || std::iter::once(Event::Act);
            see.chain(act()).chain((0..4).map(|position| Event::Report { position, is_there: true })).chain(act())
        });
        for event in events.into_iter().chain(finish) {
            match event {
                Event::Put(targets) => {
                    let cohorts = targets.iter().map(|hosts| Cohort::Settled { hosts: hosts.clone() }).collect();
                    desk.command(Command::PutAtlas { targets: cohorts, if_version: None });
                    wanted = targets;
                }
                Event::See(id) => desk.all_see(&[id]),
                Event::Report { position, is_there } => {
                    // A leader takes its group where the catalog wants it, and says so.
                    let replicas = desk.content.state.wanted_replicas(position);
                    if is_there {
                        places[position] = replicas.iter().map(|r| r.host).collect();
                    }
                    let here: Vec<u64> = places[position].iter().map(|host| host.0).collect();
                    desk.reports(position, is_there.then_some(&here));
                }
                Event::NewLeader => desk.observed = Observed::default(),
                Event::Act => {
                    let before = desk.content.state.clone();
                    desk.step();
                    for (position, place) in places.iter().enumerate() {
                        let was_moving = matches!(before.atlas.cohorts[position], Cohort::Moving { .. });
                        if was_moving && desk.cohort(position).is_settled() {
                            prop_assert_eq!(place, desk.cohort(position).target());
                        }
                    }
                }
            }
            desk.content.state.check().unwrap();
        }
        for (position, target) in wanted.iter().enumerate() {
            prop_assert_eq!(desk.cohort(position), &Cohort::Settled { hosts: target.clone() });
        }
    }
}
