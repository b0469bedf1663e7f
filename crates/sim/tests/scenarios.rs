//! The scenario files, with few peers so that every run of the tests can bear them: their targets hold at
//! that size too, but for those named beside.

use skein_sim::run::run;
use skein_sim::{FlockPeer, Measure, Scenario, World};
use std::path::Path;

const PEERS: usize = 250;

/// Targets that are about ten thousand peers.
fn only_for_many(name: &str) -> &'static [Measure] {
    match name {
        // The scouts' round trip is a greater part of a shorter way.
        "unseen-origin" => &[Measure::LdtOverBound],
        // Four hundred in a thousand rather than one in a hundred are slow.
        "slow-60" | "slow-500" => &[Measure::RoutedAround],
        _ => &[],
    }
}

fn holds(name: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios").join(format!("{name}.toml"));
    let scenario = Scenario::read(&file).expect("a scenario of ours");
    let (outcome, _) = run::<FlockPeer>(&scenario, 1, Some(PEERS), World::default());
    for (measure, target) in &scenario.targets {
        if !only_for_many(name).contains(measure) {
            let value = outcome.value(*measure);
            let met = value.is_some_and(|value| target.met(value));
            assert!(met, "{name}: {}: {value:?} where {target:?}", measure.text());
        }
    }
}

#[test]
fn steady_trees_are_without_redundancy_and_as_fast_as_a_flood() {
    holds("one-origin");
    holds("twenty-in-turn");
    holds("twenty-at-once");
}

#[test]
fn an_origin_never_seen_before_reaches_all_without_a_flood() {
    holds("unseen-origin");
}

#[test]
fn mass_deaths_lose_no_broadcast_among_the_survivors() {
    holds("kill-80");
    holds("kill-95");
    holds("kill-95-refused");
}

#[test]
fn churn_keeps_no_broadcast_from_those_who_stay() {
    holds("churn");
}

#[test]
fn who_start_at_the_same_instant_end_up_well_mixed() {
    holds("cold-start");
}

#[test]
fn storms_silence_and_partitions_end_well() {
    holds("join-storm");
    holds("silent-death");
    holds("partition");
}

#[test]
fn idle_peers_and_joins_are_cheap() {
    holds("idle");
    holds("join-cost");
}
