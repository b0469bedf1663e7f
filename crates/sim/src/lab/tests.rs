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
