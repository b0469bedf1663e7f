//! A scenario carried out: its phases in order, and what was measured.

use crate::cluster::{Cluster, Dropped};
use crate::engine::{Counters, Death, Node, Protocol, Tally};
use crate::graph::Graph;
use crate::measure::Measure;
use crate::scenario::{
    Broadcasts, Churn, Facts, Join, Joins, Kill, Look, Partition, Phase, Query, Scenario, Silence, Slow,
    Target, Through,
};
use crate::subject::{Class, Subject};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use skein_flock::Time;
use std::time::Duration;

/// How often the overlay is looked at while one component is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What one run came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Its seed.
    pub seed: u64,
    /// Values in the order in which they were measured. A measure that several phases take counts with the worst.
    pub values: Vec<(Measure, f64)>,
    /// Hash of all events; see [`Sim::trace`](crate::Sim::trace).
    pub trace: u64,
    /// Events brought to peers.
    pub events: u64,
    /// Simulated time.
    pub simulated: Duration,
}

impl Outcome {
    /// One value.
    pub fn value(&self, measure: Measure) -> Option<f64> {
        self.values.iter().find(|(name, _)| *name == measure).map(|(_, value)| *value)
    }
}

/// Carries a scenario out with one seed.
/// * `shared`: what the peers share; see [`Protocol::Shared`].
/// * `peers`: instead of the number that the scenario names.
pub fn run<P: Subject>(
    scenario: &Scenario,
    seed: u64,
    peers: Option<usize>,
    shared: <P as Protocol>::Shared,
) -> (Outcome, Cluster<P>) {
    let size = peers.unwrap_or(scenario.peers.0);
    let mut run = Run {
        cluster: Cluster::with(size, seed, scenario.network.network(), shared),
        values: Vec::new(),
        scenario,
        origins: Vec::new(),
        used: 0,
    };
    scenario.phase.iter().for_each(|phase| run.phase(phase));
    let outcome = Outcome {
        seed,
        values: run.values,
        trace: run.cluster.sim.trace(),
        events: run.cluster.sim.counters().events,
        simulated: run.cluster.now().since(Time(0)),
    };
    (outcome, run.cluster)
}

struct Run<'a, P: Subject> {
    cluster: Cluster<P>,
    values: Vec<(Measure, f64)>,
    scenario: &'a Scenario,
    /// Peers in the order in which they become origins.
    origins: Vec<Node>,
    /// How many of these have been origins.
    used: usize,
}

impl<P: Subject> Run<'_, P> {
    fn note(&mut self, measure: Measure, value: f64) {
        let worse = |old: f64| match self.scenario.targets.get(&measure) {
            Some(Target::AtMost(_)) => value > old,
            Some(Target::AtLeast(_)) => value < old,
            None => true,
        };
        match self.values.iter().position(|(name, _)| *name == measure) {
            Some(at) if worse(self.values[at].1) => self.values[at].1 = value,
            Some(_) => {}
            None => self.values.push((measure, value)),
        }
    }

    fn phase(&mut self, phase: &Phase) {
        match phase {
            Phase::Join(join) => self.join(join),
            Phase::Settle(wait) => {
                self.cluster.run(wait.0);
            }
            Phase::Broadcast(broadcasts) => self.broadcasts(broadcasts),
            Phase::Look(look) => self.look(look),
            Phase::Idle(wait) => self.idle(wait.0),
            Phase::Kill(kill) => self.kill(kill),
            Phase::Silence(silence) => self.silence(silence),
            Phase::Slow(slow) => self.slow(slow),
            Phase::Churn(churn) => self.churn(churn),
            Phase::Joins(joins) => self.joins(joins),
            Phase::Partition(partition) => self.partition(partition),
            Phase::Facts(facts) => self.facts(facts),
            Phase::Query(query) => self.query(query),
        }
    }

    fn join(&mut self, join: &Join) {
        match join.through {
            Through::First => self.cluster.join_over(join.over.0),
            Through::Earlier => self.cluster.join_through_earlier(join.over.0),
        };
        let whole = self.cluster.len();
        let took = self.cluster.run_while_not(LOOK_EVERY, Duration::from_secs(60), |cluster| {
            cluster.components().first() == Some(&whole)
        });
        self.note(Measure::LastIn, took.map_or(f64::INFINITY, |took| took.as_secs_f64()));
        let mut origins = self.cluster.live();
        for at in (1..origins.len()).rev() {
            let other = self.cluster.rng().random_range(0..=at);
            origins.swap(at, other);
        }
        self.origins = origins;
    }

    fn origins(&mut self, count: usize, fresh: bool) -> Vec<Node> {
        let from = if fresh { self.used } else { 0 };
        let to = (from + count).min(self.origins.len());
        self.used = self.used.max(to);
        self.origins[from.min(to)..to].to_vec()
    }

    fn broadcasts(&mut self, phase: &Broadcasts) {
        let origins = self.origins(phase.origins.0, phase.fresh);
        self.cluster.payload_bytes(phase.payload.0);
        let before = self.cluster.sim.counters().clone();
        let live = self.cluster.live().len();
        let mut told: Vec<(usize, u64)> = Vec::new();
        for _ in 0..phase.rounds.0 {
            for origin in &origins {
                let bound = if phase.measured { self.cluster.bound(*origin, |_| true) } else { 0 };
                told.push((self.cluster.broadcast(*origin), bound));
                if !phase.together {
                    self.cluster.run(phase.every.0);
                }
            }
            if phase.together {
                self.cluster.run(phase.every.0);
            }
        }
        if !phase.measured {
            return;
        }
        let sent = self.cluster.sim.counters().since(&before);
        let payload = sum::<P>(&sent, |class| class == Class::Payload);
        let control = sum::<P>(&sent, |class| class == Class::Control);
        let (mut delivered, mut again, mut ratios, mut worst, mut hops) = (0, 0, 0.0, 0.0_f64, 0);
        for (number, bound) in &told {
            let broadcast = self.cluster.told(*number);
            delivered += broadcast.count;
            again += broadcast.again;
            hops += usize::from(broadcast.hops);
            let ratio = broadcast.last.since(broadcast.at).as_micros() as f64 / (*bound).max(1) as f64;
            ratios += ratio;
            worst = worst.max(ratio);
        }
        let (count, deliveries) = (told.len() as f64, delivered.max(1) as f64);
        self.note(Measure::Rmr, payload.messages as f64 / deliveries - 1.0);
        self.note(Measure::LdtOverBound, ratios / count);
        self.note(Measure::LdtOverBoundMax, worst);
        self.note(Measure::Hops, hops as f64 / count);
        self.note(Measure::Delivered, delivered as f64 / (count * (live - 1).max(1) as f64));
        self.note(Measure::Again, again as f64);
        let beyond = (payload.bytes + control.bytes) as f64 - deliveries * phase.payload.0 as f64;
        self.note(Measure::ControlBytes, beyond / deliveries);
    }

    fn look(&mut self, look: &Look) {
        let (graph, _) = self.cluster.graph();
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(self.cluster.sim.seed());
        let degrees: Vec<u32> = (0..graph.len() as u32).map(|at| graph.neighbours(at).len() as u32).collect();
        let random = Graph::random(&degrees, &mut rng);
        let ratio = graph.mean_path(look.samples.0, &mut rng) / random.mean_path(look.samples.0, &mut rng);
        self.note(Measure::MeanPathOverRandom, ratio);
        self.note(Measure::DegreeMin, degrees.iter().copied().min().unwrap_or_default().into());
        self.note(Measure::DegreeMax, degrees.iter().copied().max().unwrap_or_default().into());
        self.note(Measure::OneSided, graph.one_sided() as f64);
        self.note(Measure::Components, graph.components().len() as f64);
        let state = self.state_bytes();
        self.note(Measure::StateBytes, state);
    }

    fn state_bytes(&self) -> f64 {
        let sum: usize = self.cluster.sim.live().map(|(_, peer)| peer.state_bytes()).sum();
        sum as f64 / self.cluster.sim.live().count().max(1) as f64
    }

    fn idle(&mut self, wait: Duration) {
        let (before, state) = (self.cluster.sim.counters().clone(), self.state_bytes());
        self.cluster.run(wait);
        let sent = self.cluster.sim.counters().since(&before);
        let per = self.cluster.sim.live().count().max(1) as f64 * wait.as_secs_f64();
        let without = sum::<P>(&sent, |class| class != Class::Liveness);
        self.note(Measure::IdleBytes, without.bytes as f64 / per);
        self.note(Measure::IdleBytesWithHeartbeats, sum::<P>(&sent, |_| true).bytes as f64 / per);
        let after = self.state_bytes();
        self.note(Measure::StateBytes, after);
        self.note(Measure::StateGrowth, after - state);
    }

    fn kill(&mut self, kill: &Kill) {
        self.cluster.kill_part(kill.part.0, kill.death.into());
        let begin = self.cluster.now();
        let survivors = self.cluster.live();
        let acquainted = self.cluster.acquainted().first().copied().unwrap_or_default();
        self.note(Measure::Acquainted, acquainted as f64 / survivors.len().max(1) as f64);
        let mut told = Vec::new();
        let (mut one, mut connected) = (None, None);
        let steps = (kill.within.0.as_millis() / LOOK_EVERY.as_millis()) as u32;
        let last_sent = kill.every.0 * kill.broadcasts as u32;
        let steps = steps + (last_sent.as_millis() / LOOK_EVERY.as_millis()) as u32 + 1;
        for step in 0..=steps {
            let now = begin + LOOK_EVERY * step;
            // Those due before the next look, each at its moment.
            while told.len() < kill.broadcasts && begin + kill.every.0 * told.len() as u32 <= now {
                self.cluster.run_until(begin + kill.every.0 * told.len() as u32);
                let at = self.cluster.rng().random_range(0..survivors.len());
                told.push(self.cluster.broadcast(survivors[at]));
            }
            self.cluster.run_until(now);
            let look = one.is_none() || now.since(begin) == kill.within.0;
            if look && now.since(begin) <= kill.within.0 {
                let largest = self.cluster.components().first().copied().unwrap_or_default();
                if largest == survivors.len() && one.is_none() {
                    one = Some(now.since(begin).as_secs_f64());
                }
                connected = Some(largest as f64 / survivors.len().max(1) as f64);
            }
        }
        self.note(Measure::OneComponent, one.unwrap_or(f64::INFINITY));
        self.note(Measure::Connected, connected.unwrap_or_default());
        if !told.is_empty() {
            let due = told.len() * (survivors.len().max(2) - 1);
            let delivered: usize = told
                .iter()
                .map(|number| {
                    survivors.iter().filter(|node| self.cluster.told(*number).reached(**node)).count() - 1
                })
                .sum();
            self.note(Measure::Delivered, delivered as f64 / due as f64);
        }
    }

    fn silence(&mut self, silence: &Silence) {
        let (graph, live) = self.cluster.graph();
        self.cluster.watch_drops();
        self.cluster.drops.clear();
        let begin = self.cluster.now();
        self.cluster.kill_part(silence.part.0, Death::Silent);
        let dead: Vec<bool> = live.iter().map(|node| self.cluster.sim.get(*node).is_none()).collect();
        let mut due = 0;
        for at in 0..live.len() {
            let theirs = graph.neighbours(at as u32).iter().filter(|to| dead[**to as usize]).count();
            due += if dead[at] { 0 } else { theirs };
        }
        self.cluster.run(silence.within.0);
        let (of_dead, of_live): (Vec<Dropped>, Vec<Dropped>) =
            self.cluster.drops.iter().partition(|drop| self.cluster.sim.get(drop.neighbour).is_none());
        let mut times: Vec<f64> = of_dead.iter().map(|drop| drop.at.since(begin).as_secs_f64()).collect();
        let alarms = of_live.len();
        times.sort_by(f64::total_cmp);
        // Who never noticed counts as for ever.
        times.resize(times.len().max(due), f64::INFINITY);
        let quantile =
            |part: f64| times.get(((times.len() as f64 * part) as usize).min(times.len().max(1) - 1));
        let (half, most) = (quantile(0.5).copied(), quantile(0.99).copied());
        self.note(Measure::NoticedP50, half.unwrap_or_default());
        self.note(Measure::NoticedP99, most.unwrap_or_default());
        self.note(Measure::FalseAlarms, alarms as f64);
    }

    fn slow(&mut self, slow: &Slow) {
        let origin = self.origins(1, false);
        let Some(origin) = origin.first().copied() else { return };
        let mut slowed = Vec::new();
        while slowed.len() < slow.peers.0.min(self.cluster.len() / 2) {
            let node = self.cluster.any();
            if node != origin && !slowed.contains(&node) {
                slowed.push(node);
                self.cluster.slow(node, slow.extra.0);
            }
        }
        slowed.sort_unstable();
        let quick = |node: Node| slowed.binary_search(&node).is_err();
        let mut last_late = 0;
        for round in 0..slow.rounds.0 {
            let bound = self.cluster.bound(origin, quick);
            let number = self.cluster.broadcast(origin);
            let sent = self.cluster.now();
            let slack = Duration::from_micros((bound as f64 * slow.within_bound) as u64);
            self.cluster.run_until(sent + slack);
            let told = self.cluster.told(number);
            let late =
                self.cluster.live().iter().filter(|node| quick(**node) && !told.reached(**node)).count();
            if late > 0 {
                last_late = round + 1;
            }
            self.cluster.run_until(sent + slow.every.0);
        }
        self.note(Measure::RoutedAround, last_late as f64);
    }

    fn churn(&mut self, churn: &Churn) {
        let begin = self.cluster.now();
        let end = begin + churn.length.0;
        let per_second = churn.part_per_minute.0 * self.cluster.live().len() as f64 / 60.0;
        let between = Duration::from_secs_f64(1.0 / per_second.max(1e-6));
        let (mut next_kill, mut next_told) = (begin + between, begin + churn.every.0);
        let mut back: std::collections::VecDeque<(Time, Node)> = Default::default();
        let mut waiting: std::collections::VecDeque<usize> = Default::default();
        let (mut all, mut whole, mut due, mut missed) = (0, 0, 0, 0);
        loop {
            let check = waiting.front().map(|number| self.cluster.told(*number).at + churn.within.0);
            let back_at = back.front().map(|(at, _)| *at);
            let going = |at: Time| (at <= end).then_some(at);
            let times = [going(next_kill), going(next_told), back_at, check];
            let Some(now) = times.iter().flatten().min().copied() else { break };
            self.cluster.run_until(now);
            if Some(now) == check
                && let Some(number) = waiting.pop_front()
            {
                let (stable, lacking) = self.cluster.missed(number, churn.margin.0);
                all += 1;
                whole += usize::from(lacking == 0);
                due += stable;
                missed += lacking;
            } else if Some(now) == back_at
                && let Some((_, node)) = back.pop_front()
            {
                let contact = self.cluster.any();
                self.cluster.restart(node, contact);
            } else if now == next_told {
                next_told = next_told + churn.every.0;
                let stable = |cluster: &Cluster<P>, node| cluster.up_since(node) + churn.margin.0 <= now;
                let drawn: Vec<Node> = (0..100).map(|_| self.cluster.any()).collect();
                let origin = drawn.into_iter().find(|node| stable(&self.cluster, *node));
                if let Some(origin) = origin {
                    waiting.push_back(self.cluster.broadcast(origin));
                }
            } else {
                next_kill = next_kill + between;
                let node = self.cluster.any();
                self.cluster.kill(node, churn.death.into());
                back.push_back((now + churn.gone.0, node));
            }
        }
        self.note(Measure::StableReached, whole as f64 / all.max(1) as f64);
        self.note(Measure::StableDelivered, 1.0 - missed as f64 / due.max(1) as f64);
    }

    /// What joins cost beyond the views' upkeep, which is taken from as long before and after. Signs of life are
    /// left out, as every peer sends them for as long as it lives.
    fn joins(&mut self, joins: &Joins) {
        let length = joins.over.0 + Duration::from_secs(5);
        let mut windows = [Tally::default(); 3];
        let mut peers = [0.0; 3];
        for at in 0..3 {
            let begin = self.cluster.sim.counters().clone();
            let start = self.cluster.now();
            for number in 0..if at == 1 { joins.count.0 } else { 0 } {
                self.cluster.run_until(start + joins.over.0.mul_f64(number as f64 / joins.count.0 as f64));
                let contact = self.cluster.any();
                self.cluster.join(contact);
            }
            self.cluster.run_until(start + length);
            windows[at] =
                sum::<P>(&self.cluster.sim.counters().since(&begin), |class| class == Class::Membership);
            peers[at] = self.cluster.live().len() as f64;
        }
        let [before, busy, after] = windows;
        // The joined were there for half of the time in which they came, and for all of that after it.
        let present = (joins.over.0 / 2 + Duration::from_secs(5)).as_secs_f64() / length.as_secs_f64();
        let then = peers[0] + (peers[1] - peers[0]) * present;
        let upkeep =
            |before: u64, after: u64| (before as f64 / peers[0] + after as f64 / peers[2]) / 2.0 * then;
        let count = joins.count.0 as f64;
        let messages = busy.messages as f64 - upkeep(before.messages, after.messages);
        self.note(Measure::JoinMessages, messages / count);
        self.note(Measure::JoinBytes, (busy.bytes as f64 - upkeep(before.bytes, after.bytes)) / count);
    }

    fn facts(&mut self, facts: &Facts) {
        let live = self.cluster.live();
        let Some((away, others)) = live.split_last() else { return };
        let known = &others[..facts.known.0.min(others.len())];
        for (at, node) in known.iter().enumerate() {
            self.cluster.say(*node, at as u32, facts.bytes.0);
            self.cluster.run(Duration::from_millis(20));
        }
        self.cluster.settle(60);
        // Nothing changes for a minute. A comparison is a digest and the word that it is the same.
        let before = self.cluster.sim.counters().clone();
        self.cluster.settle(60);
        let quiet = self.cluster.sim.counters().since(&before);
        let spoken = sum::<P>(&quiet, |class| class == Class::Facts);
        self.note(Measure::ExchangeBytes, spoken.bytes as f64 / (spoken.messages as f64 / 2.0).max(1.0));
        self.cluster.sim.isolate(*away, 1);
        self.cluster.run(facts.away.0 / 2);
        let changed = &known[..facts.missed.0.min(known.len())];
        for (at, node) in changed.iter().enumerate() {
            self.cluster.say(*node, (facts.known.0 + at) as u32, facts.bytes.0);
            self.cluster.run(Duration::from_millis(20));
        }
        self.cluster.run(facts.away.0 / 2);
        self.cluster.sim.isolate(*away, 0);
        let before = self.cluster.sim.counters().clone();
        let (away, witness) = (*away, others[0]);
        let sum_at = |cluster: &Cluster<P>, node| cluster.sim.get(node).map(Subject::facts_sum);
        let took = self.cluster.run_while_not(LOOK_EVERY, Duration::from_secs(120), |cluster| {
            cluster.sim.get(away).is_some_and(|peer| !neighbours(peer).is_empty())
                && sum_at(cluster, away) == sum_at(cluster, witness)
        });
        let length = took.unwrap_or(Duration::from_secs(120)).as_secs_f64();
        let spent = sum::<P>(&self.cluster.sim.counters().since(&before), |class| class == Class::Facts);
        let spent = spent.bytes as f64 - spoken.bytes as f64 * length / 60.0;
        self.note(Measure::CatchUp, took.map_or(f64::INFINITY, |took| took.as_secs_f64()));
        self.note(Measure::CatchUpRatio, spent / (changed.len() * facts.bytes.0) as f64);
    }

    fn query(&mut self, query: &Query) {
        let origins = self.origins(1, false);
        let Some(first) = origins.first().copied() else { return };
        for _ in 0..query.warm {
            self.cluster.ask_links(first, query.within.0);
            self.cluster.run(query.within.0);
        }
        let (mut exact, mut slowest, mut costliest, mut counted, mut lies) =
            (0, 0.0_f64, 0.0_f64, 1.0_f64, 0);
        for _ in 0..query.rounds.0 {
            let live = self.cluster.live();
            let Some(asker) = live.contains(&first).then_some(first) else { return };
            let links = |cluster: &Cluster<P>| -> f64 {
                cluster.sim.live().map(|(_, peer)| neighbours(peer).len()).sum::<usize>() as f64
            };
            let (bound, truth) = (self.cluster.bound(asker, |_| true), links(&self.cluster));
            let (before, asked_at) = (self.cluster.sim.counters().clone(), self.cluster.now());
            self.cluster.answers.clear();
            self.cluster.ask_links(asker, query.within.0);
            if let Some(part) = query.killed {
                // While the question is half-way out.
                self.cluster.run(Duration::from_micros(bound / 2));
                self.cluster.kill_part_but(part.0, query.death.into(), asker);
            }
            let survivors = self.cluster.live().len();
            self.cluster.run(query.within.0 + Duration::from_secs(1));
            let sent = self.cluster.sim.counters().since(&before);
            let Some(answer) = self.cluster.answers.iter().find(|answer| answer.asker == asker).copied()
            else {
                counted = 0.0;
                continue;
            };
            exact += usize::from(answer.value == truth && answer.counted == live.len());
            slowest = slowest.max(answer.at.since(asked_at).as_micros() as f64 / bound.max(1) as f64);
            let messages = sum::<P>(&sent, |class| class == Class::Query).messages as f64;
            costliest = costliest.max(messages / live.len() as f64);
            counted = counted.min(answer.counted.min(survivors) as f64 / survivors as f64);
            lies += usize::from(answer.counted > live.len() || answer.counted > answer.known);
        }
        self.note(Measure::QueryExact, exact as f64 / query.rounds.0 as f64);
        self.note(Measure::QueryOverBound, slowest);
        self.note(Measure::QueryMessages, costliest);
        self.note(Measure::QueryCounted, counted);
        self.note(Measure::QueryFalse, f64::from(lies as u32));
    }

    fn partition(&mut self, partition: &Partition) {
        let border = (self.cluster.len() as f64 * partition.part.0) as u32;
        self.cluster.partition(|node| u8::from(node.0 < border));
        self.cluster.run(partition.length.0);
        self.cluster.heal();
        let whole = self.cluster.live().len();
        let took = self.cluster.run_while_not(LOOK_EVERY, partition.within.0, |cluster| {
            cluster.components().first() == Some(&whole)
        });
        self.note(Measure::Healed, took.map_or(f64::INFINITY, |took| took.as_secs_f64()));
    }
}

fn neighbours<P: Subject>(peer: &P) -> Vec<Node> {
    let mut all = Vec::new();
    peer.neighbours(&mut all);
    all
}

fn sum<P: Subject>(counters: &Counters, which: impl Fn(Class) -> bool) -> Tally {
    counters.sum(|kind| which(P::class(kind)))
}
