//! Which host should lead which cohort, so that all lead about as many. Every peer computes the same from the atlas.

use skein_model::{Atlas, Cohort, HostId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// The host that should lead each cohort, in the atlas's order; `None` where nobody is left to choose.
///
/// Hosts that are `draining` or `avoided` lead nothing. Among the others the numbers of led cohorts are as even as the
/// atlas allows: within one where all cohorts have the same hosts, and in general such that no chain of hand-overs would
/// bring the most and the least loaded of its hosts closer together. While a cohort moves, hosts that are in both origin and target come first,
/// then the origin's: the others have no vote before the very end.
///
/// Cohorts choose in turn, each the least loaded of its hosts, the smaller ID on a tie; then chains of hand-overs
/// even out what that left uneven, as in Harvey et al., "Semi-matchings for bipartite graphs and load
/// balancing" (2003).
pub fn preferred_leaders(
    atlas: &Atlas,
    draining: &BTreeSet<HostId>,
    avoided: &BTreeSet<HostId>,
) -> Vec<Option<HostId>> {
    let fit = |host: &HostId| !draining.contains(host) && !avoided.contains(host);
    let candidates: Vec<Vec<HostId>> = atlas.cohorts.iter().map(|cohort| candidates(cohort, fit)).collect();
    let mut chosen = Chosen::default();
    for hosts in &candidates {
        let least = hosts.iter().copied().min_by_key(|host| (chosen.load(*host), *host));
        chosen.give(least);
    }
    // Each chain lowers the sum of squares of the loads, so there cannot be many; the bound is for our own mistakes.
    for _ in 0..candidates.len() * candidates.len() {
        if !chosen.even_out(&candidates) {
            break;
        }
    }
    chosen.leaders
}

fn candidates(cohort: &Cohort, fit: impl Fn(&HostId) -> bool) -> Vec<HostId> {
    let stay: Vec<HostId> = cohort.origin().intersection(cohort.target()).copied().filter(&fit).collect();
    if stay.is_empty() { cohort.origin().iter().copied().filter(&fit).collect() } else { stay }
}

#[derive(Default)]
struct Chosen {
    leaders: Vec<Option<HostId>>,
    loads: BTreeMap<HostId, usize>,
}

impl Chosen {
    fn load(&self, host: HostId) -> usize {
        self.loads.get(&host).copied().unwrap_or(0)
    }

    fn give(&mut self, host: Option<HostId>) {
        self.leaders.push(host);
        if let Some(host) = host {
            *self.loads.entry(host).or_default() += 1;
        }
    }

    /// Finds a host and another with at least two cohorts fewer, between which cohorts can be handed on in a chain; does it.
    fn even_out(&mut self, candidates: &[Vec<HostId>]) -> bool {
        let mut led: BTreeMap<HostId, Vec<usize>> = BTreeMap::new();
        for (position, leader) in self.leaders.iter().enumerate() {
            if let Some(leader) = leader {
                led.entry(*leader).or_default().push(position);
            }
        }
        let mut by_load: Vec<HostId> = led.keys().copied().collect();
        by_load.sort_by_key(|host| (std::cmp::Reverse(self.load(*host)), *host));
        by_load.into_iter().any(|from| self.hand_on_from(from, &led, candidates))
    }

    fn hand_on_from(
        &mut self,
        from: HostId,
        led: &BTreeMap<HostId, Vec<usize>>,
        candidates: &[Vec<HostId>],
    ) -> bool {
        // How each host was reached first: by being given which cohort, from whom.
        let mut reached: BTreeMap<HostId, (usize, HostId)> = BTreeMap::new();
        let mut queue = VecDeque::from([from]);
        while let Some(host) = queue.pop_front() {
            if self.load(host) + 2 <= self.load(from) {
                let mut at = host;
                while let Some((position, giver)) = reached.get(&at).copied().filter(|_| at != from) {
                    self.leaders[position] = Some(at);
                    at = giver;
                }
                *self.loads.entry(host).or_default() += 1;
                if let Some(load) = self.loads.get_mut(&from) {
                    *load -= 1;
                }
                return true;
            }
            for position in led.get(&host).into_iter().flatten() {
                for next in &candidates[*position] {
                    if *next != from && !reached.contains_key(next) {
                        reached.insert(*next, (*position, host));
                        queue.push_back(*next);
                    }
                }
            }
        }
        false
    }
}

#[cfg(test)]
mod tests;
