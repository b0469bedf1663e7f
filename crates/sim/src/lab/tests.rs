//! A session is its seed and its actions, and nothing else.

use super::*;

fn ask(actions: &str) -> Question {
    Question { seed: 7, actions: actions.into(), ..Question::default() }
}

fn view(actions: &str) -> View {
    Sessions::default().view(&ask(actions)).unwrap()
}

const STORY: &str = "a8.t3000.bC.m5.sD500.t700.kE.h2.bC.t1500.a2.rE.t1000.lB.K30.t2000.bA.t900";

#[test]
fn the_same_seed_and_actions_give_the_same_state() {
    let first =
        Sessions::default().view(&Question { since: Some(0), origin: Some("A".into()), ..ask(STORY) });
    let again =
        Sessions::default().view(&Question { since: Some(0), origin: Some("A".into()), ..ask(STORY) });
    assert_eq!(first.unwrap(), again.unwrap());
}

#[test]
fn playing_in_small_steps_and_rewinding_give_the_state_that_a_replay_gives() {
    let mut sessions = Sessions::default();
    let words: Vec<&str> = STORY.split('.').collect();
    let mut so_far = String::new();
    for word in &words {
        match word.strip_prefix('t').and_then(|millis| millis.parse::<u32>().ok()) {
            // As the page plays: many short waits.
            Some(millis) => {
                for _ in 0..millis / 100 {
                    so_far.push_str(".t100");
                    sessions.view(&ask(&so_far[1..])).unwrap();
                }
            }
            None => so_far.push_str(&format!(".{word}")),
        }
    }
    assert_eq!(sessions.view(&ask(&so_far[1..])).unwrap(), view(STORY));
    for kept in (1..words.len()).rev().step_by(3) {
        let beginning = words[..kept].join(".");
        assert_eq!(sessions.view(&ask(&beginning)).unwrap(), view(&beginning), "{beginning}");
    }
    // A wait that is cut in the middle, and forward again.
    let before = view(STORY);
    sessions.view(&ask("a8.t1234")).unwrap();
    assert_eq!(sessions.view(&ask(STORY)).unwrap(), before);
}

#[test]
fn broadcasts_are_counted_as_they_travel_and_reach_everybody_once_there_is_a_tree() {
    let (done, under_way) = (view("a20.t8000.bF.t2000.bF.t2000"), view("a20.t8000.bF.t2000.bF.t60"));
    let latest = &done.broadcasts[0];
    assert_eq!((latest.reached, latest.expected, latest.payloads, latest.rmr), (19, 19, 19, 0.0));
    assert_eq!(latest.from, "F");
    assert!(1 < latest.ldh && 40_000 < latest.ldt, "{latest:?}");
    // What is still on its way counts for nothing yet.
    let latest = &under_way.broadcasts[0];
    assert!(0 < latest.reached && latest.reached < 19 && latest.rmr == 0.0, "{latest:?}");
}

#[test]
fn the_tree_of_an_origin_has_a_way_to_everybody_and_a_slow_peer_ends_up_at_its_rim() {
    let shown = |actions: &str| {
        let question = Question { origin: Some("F".into()), ..ask(actions) };
        Sessions::default().view(&question).unwrap()
    };
    let state = shown("a20.t8000.bF.t2000.bF.t2000");
    let pushes: u32 = state.edges.iter().map(|edge| (edge.2 & 3).count_ones()).sum();
    assert_eq!(pushes, 19, "one parent for everybody but the origin");
    assert!(state.peers.iter().all(|peer| peer.hops.is_some()));
    let children_of = |state: &View, at: u16| state.peers.iter().filter(|peer| peer.from == Some(at)).count();
    let busy = (0..20_u16).filter(|at| *at != 5).max_by_key(|at| children_of(&state, *at)).unwrap();
    assert!(children_of(&state, busy) > 0);
    let slowed = format!("a20.t8000.bF.t2000.bF.t2000.s{}500.bF.t3000.bF.t3000", PeerNo(busy));
    let slowed = shown(&slowed);
    assert_eq!(children_of(&slowed, busy), 0);
    assert_eq!(slowed.broadcasts[0].reached, 19);
}

#[test]
fn the_dead_are_noticed_and_the_survivors_find_together() {
    let before = view("a30.t8000.K50.t100");
    assert_eq!(before.up, 15);
    assert!(before.edges.iter().any(|edge| edge.2 & 4 != 0), "nobody can know yet");
    let after = view("a30.t8000.K50.t10000");
    assert_eq!((after.up, after.parts), (15, 1));
    assert!(after.edges.iter().all(|edge| edge.2 & 4 == 0));
}

#[test]
fn another_seed_is_another_story() {
    let other = Sessions::default().view(&Question { seed: 8, ..ask(STORY) }).unwrap();
    assert_ne!(View { seed: 7, ..other }, view(STORY));
}

#[test]
fn what_cannot_be_done_is_refused_and_leaves_no_trace() {
    let mut sessions = Sessions::default();
    for (actions, at, why) in [
        ("kA", 1, Impossible::Nobody(PeerNo(0))),
        ("a2.kC", 2, Impossible::Nobody(PeerNo(2))),
        ("a2.kA.kA", 3, Impossible::Down(PeerNo(0))),
        ("a2.kA.bA", 3, Impossible::Down(PeerNo(0))),
        ("a2.lB.lB", 3, Impossible::Down(PeerNo(1))),
        ("a2.rB", 2, Impossible::Up(PeerNo(1))),
        ("a2.t100.sZ5", 3, Impossible::Nobody(PeerNo(25))),
    ] {
        match sessions.view(&ask(actions)) {
            Err(LabError::Impossible { at: found, why: told, .. }) => assert_eq!((found, told), (at, why)),
            other => panic!("{actions}: {other:?}"),
        }
    }
    assert_eq!(sessions.view(&ask("a2.t200")).unwrap(), view("a2.t200"));
    assert_eq!(sessions.view(&ask("a2.kA.t50")).unwrap(), view("a2.kA.t50"));
}

#[test]
fn a_session_is_bounded_in_peers_and_time() {
    let too_much = |actions: &str| match Sessions::default().view(&ask(actions)) {
        Err(LabError::TooMuch { at, why, .. }) => (at, why),
        other => panic!("{actions}: {other:?}"),
    };
    assert_eq!(too_much("a600.bA.a401"), (3, Impossible::Full(600)));
    assert_eq!(too_much("t3600000.t1"), (2, Impossible::TooLate));
    assert_eq!(too_much("h3601"), (1, Impossible::TooLate));
}

#[test]
fn only_a_few_sessions_are_remembered() {
    let mut sessions = Sessions::default();
    for seed in 0..20 {
        sessions.view(&Question { seed, ..ask("a2") }).unwrap();
    }
    assert_eq!(sessions.len(), SESSIONS_MAX);
    for seed in 0..8 {
        sessions.view(&Question { seed, ..ask("a1000") }).unwrap();
    }
    assert!(sessions.len() <= 4, "{}", sessions.len());
}

#[test]
fn an_origin_that_nobody_can_be_called_is_refused_and_one_that_is_not_there_yet_is_none() {
    let early = Sessions::default().view(&Question { origin: Some("C".into()), ..ask("a2") });
    assert_eq!(early.unwrap().origin, None);
    for name in ["", "a", "1", "ALM", "B1"] {
        let refused = Sessions::default().view(&Question { origin: Some(name.into()), ..ask("a2") });
        assert!(matches!(refused, Err(LabError::Origin { .. })), "{name}: {refused:?}");
    }
}

#[test]
fn a_question_with_unknown_members_is_none() {
    // Not serde_json, which this crate does without: TOML has the same rules.
    assert!(toml::from_str::<Question>("seed = 1\nactions = \"a\"").is_ok());
    assert!(toml::from_str::<Question>("seed = 1\nactions = \"a\"\nsudo = true").is_err());
    assert!(toml::from_str::<Question>("actions = \"a\"").is_err());
}
