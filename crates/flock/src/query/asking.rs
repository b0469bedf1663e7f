//! The asker's end of a query: strays, when to stop waiting, and who is in the answer.

use super::answer::{Answer, Coverage, MISSING_NAMED_MAX};
use super::message::{Partial, QueryId, Question};
use super::peers::PeerSet;
use super::{Config, Local};
use crate::io::Refused;
use crate::time::Time;
use hashbrown::HashMap;
use skein_model::HostId;
use std::cmp::Reverse;

/// A question of our own that is not answered yet.
#[derive(Debug)]
pub(super) struct Asking {
    pub(super) id: QueryId,
    ticket: u64,
    since: Time,
    /// Kept aside until the tree has answered.
    strays: Vec<Partial>,
    /// Peers in them, those that are in several counted several times.
    stray_peers: usize,
    /// Strays by sender; looked up, never walked.
    senders: HashMap<HostId, u8>,
    /// Strays that there was no room for.
    dropped: usize,
}

impl Asking {
    pub(super) fn new(id: QueryId, ticket: u64, now: Time) -> Self {
        let (strays, senders) = (Vec::new(), HashMap::new());
        Self { id, ticket, since: now, strays, stray_peers: 0, senders, dropped: 0 }
    }

    pub(super) fn heap_bytes(&self) -> usize {
        let strays: usize = self
            .strays
            .iter()
            .map(|stray| stray.peers.heap_bytes() + stray.lost.heap_bytes() + stray.tally.heap_bytes())
            .sum();
        strays + self.strays.capacity() * size_of::<Partial>() + self.senders.capacity() * 18
    }

    /// Keeps a stray for later.
    pub(super) fn keep(&mut self, from: HostId, partial: Partial, config: &Config) -> Result<(), Refused> {
        let sent = self.senders.get(&from).copied().unwrap_or(0);
        if sent >= config.strays_each_max {
            return Err(Refused::Flood);
        }
        let size = partial.peers.len() + partial.lost.len();
        if self.strays.len() >= config.strays_max || self.stray_peers + size > config.stray_peers_max {
            self.dropped += 1;
            return Err(Refused::Flood);
        }
        self.senders.insert(from, sent + 1);
        self.stray_peers += size;
        self.strays.push(partial);
        Ok(())
    }

    /// Until when to wait for more, now that all children have answered or a stray came in; `None` when there is nothing to wait for.
    pub(super) fn wait(&self, tree: &Partial, config: &Config, local: &dyn Local, now: Time) -> Option<Time> {
        // Looking closely costs a walk through all strays, so with many of them it is not done for each.
        if self.strays.len() < 16 || self.strays.len().is_power_of_two() {
            let known = known(local);
            let (counted, lost, _) = self.together(tree);
            if known.iter().chain(lost.iter()).all(|host| counted.has(host)) {
                return None;
            }
        }
        let lost_any = !tree.lost.is_empty() || !self.strays.is_empty();
        Some(now + if lost_any { config.silent } else { config.late })
    }

    /// Who is counted, who was lost on the way, and which strays are taken in.
    fn together(&self, tree: &Partial) -> (PeerSet, PeerSet, Vec<usize>) {
        let mut order: Vec<usize> = (0..self.strays.len()).collect();
        order.sort_by_key(|at| (Reverse(self.strays[*at].peers.len()), self.strays[*at].peers.iter().next()));
        let (mut counted, mut lost) = (tree.peers.clone(), tree.lost.clone());
        let mut taken = Vec::new();
        for at in order {
            let stray = &self.strays[at];
            lost.merge(&stray.lost);
            if stray.peers.is_disjoint(&counted) {
                counted.merge(&stray.peers);
                taken.push(at);
            }
        }
        (counted, lost, taken)
    }

    /// The answer: the tree's, and those strays of whom nobody is in it.
    pub(super) fn answer(
        mut self,
        tree: Partial,
        question: &Question,
        cut_off: bool,
        local: &dyn Local,
        now: Time,
    ) -> Answer {
        let (counted, lost, taken) = self.together(&tree);
        // Those that only repeat what came up the tree as well are no loss.
        let says_more = |stray: &&Partial| !stray.peers.iter().all(|host| counted.has(host));
        let left_out = self.strays.iter().filter(says_more).count();
        let mut tally = tree.tally;
        for at in taken {
            let aggregate = &question.aggregate;
            let stray = std::mem::replace(&mut self.strays[at], Partial::empty(aggregate));
            tally.merge(stray.tally, aggregate);
        }
        let before = known(local);
        let mut all = before.clone();
        all.merge(&lost);
        all.merge(&counted);
        let missing: Vec<HostId> = all.iter().filter(|host| !counted.has(*host)).collect();
        let coverage = Coverage {
            counted: counted.len(),
            known: all.len(),
            missing: missing.len(),
            missing_named: missing.into_iter().take(MISSING_NAMED_MAX).collect(),
            unheard_of: counted.iter().filter(|host| !before.has(*host)).count(),
            left_out: left_out + self.dropped,
            cut_off,
        };
        Answer {
            ticket: self.ticket,
            question: question.clone(),
            tally,
            coverage,
            took: now.since(self.since),
        }
    }
}

fn known(local: &dyn Local) -> PeerSet {
    let mut hosts = Vec::new();
    local.known(&mut |host| hosts.push(host));
    hosts.into_iter().collect()
}
