//! Finds the leader of a cohort, and asks it until there is an answer or no time is left.
//!
//! Who led a group last is remembered. Whoever is asked and does not lead says who does, as far as it knows; that host is asked
//! next, also when the atlas does not name it, as an atlas may be old on either side. When all have been asked there is a short
//! pause with jitter, then all are asked again: an election takes about a second.
//!
//! **Asking again is safe** because a transaction keeps its ID: every leader looks first whether it has an outcome. What is
//! told the client at the end keeps to what is known: once an attempt may have been carried out, running out of time means that
//! the outcome is *unknown*, and so does a later leader's refusal that was given before it looked.

use crate::api::CellError;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use skein_model::{GroupId, HostId, TxId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How long one host is waited for the first time; somebody else may have become leader by then. Doubled each time that a host
/// did not answer, so that a slow leader is not asked in vain for ever.
const PATIENCE_MIN: Duration = Duration::from_millis(1500);
/// The pause after all hosts were asked in vain; doubled each time.
const PAUSE_MIN: Duration = Duration::from_millis(10);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_millis(200);
/// Hints that are followed between two pauses, besides asking everybody once.
const HINTS_MAX: usize = 4;

/// What came of asking one host.
#[derive(Debug)]
pub(crate) enum Attempt<T> {
    /// The answer.
    Done(T),
    /// The leader's answer, which another one would not take back.
    Final(CellError),
    /// It does not lead. Nothing was done.
    Elsewhere(Option<HostId>),
    /// Nothing was done, and later or elsewhere it may be.
    NotDone(String),
    /// It may have been done.
    Unsure(String),
}

/// Who leads which group, as far as was found out; and the luck of pauses.
pub(crate) struct Leaders {
    state: Mutex<State>,
}

struct State {
    known: BTreeMap<GroupId, HostId>,
    rng: Xoshiro256PlusPlus,
}

/// A request to be put to the leader of a group.
pub(crate) struct Errand<'a> {
    /// The group.
    pub(crate) group: GroupId,
    /// Who may lead it, in the order in which to ask.
    pub(crate) hosts: &'a [HostId],
    /// For a transaction, its ID: what may have been done then is unknown rather than not done.
    pub(crate) id: Option<&'a TxId>,
    /// When to give up.
    pub(crate) deadline: Instant,
    /// Why it may have been carried out already, if it may.
    pub(crate) unsure: Option<String>,
}

impl Leaders {
    /// Knows of nobody yet.
    pub(crate) fn new(seed: u64) -> Leaders {
        let state = State { known: BTreeMap::new(), rng: Xoshiro256PlusPlus::seed_from_u64(seed) };
        Leaders { state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who led the group when last heard of.
    pub(crate) fn known(&self, group: GroupId) -> Option<HostId> {
        self.state().known.get(&group).copied()
    }

    /// The host leads the group, or says that this one does.
    pub(crate) fn learn(&self, group: GroupId, host: HostId) {
        let mut state = self.state();
        if state.known.get(&group) != Some(&host) {
            state.known.insert(group, host);
        }
    }

    /// The host does not lead the group, or not any more.
    fn unlearn(&self, group: GroupId, host: HostId) {
        let mut state = self.state();
        if state.known.get(&group) == Some(&host) {
            state.known.remove(&group);
        }
    }

    /// Keeps only the groups that there are.
    pub(crate) fn keep(&self, groups: &BTreeSet<GroupId>) {
        self.state().known.retain(|group, _| groups.contains(group));
    }

    /// Between half of the pause and all of it.
    fn jitter(&self, pause: Duration) -> Duration {
        pause.mul_f64(self.state().rng.random_range(0.5..=1.0))
    }

    /// Asks until the leader answers or the deadline has come. `ask` is given a host, and until when it is waited for; dropping
    /// its future takes the request back, if it can be.
    pub(crate) async fn ask<T, F>(
        &self,
        errand: Errand<'_>,
        mut ask: impl FnMut(HostId, Instant) -> F,
    ) -> Result<T, CellError>
    where
        F: Future<Output = Attempt<T>>,
    {
        let Errand { group, hosts, id, deadline, unsure } = errand;
        let started = Instant::now();
        let mut heard = Heard { unsure, last: None };
        let (mut pause, mut patience) = (PAUSE_MIN, PATIENCE_MIN);
        let mut round = Round::new(self.known(group), hosts);
        loop {
            let Some(host) = round.next() else {
                let next = Instant::now() + self.jitter(pause);
                if deadline <= next {
                    break;
                }
                tokio::time::sleep_until(next).await;
                pause = PAUSE_MAX.min(pause * 2);
                round = Round::new(self.known(group), hosts);
                continue;
            };
            let now = Instant::now();
            if deadline <= now {
                break;
            }
            let until = deadline.min(now + patience);
            match tokio::time::timeout_at(until, ask(host, until)).await {
                Ok(Attempt::Done(answer)) => {
                    self.learn(group, host);
                    return Ok(answer);
                }
                Ok(Attempt::Final(error)) => return Err(heard.at_the_end(error, id)),
                Ok(Attempt::Elsewhere(hint)) => {
                    self.unlearn(group, host);
                    heard.last.get_or_insert_with(|| format!("{host} does not lead the cohort"));
                    round.hint(hint.filter(|hint| *hint != host));
                }
                Ok(Attempt::NotDone(why)) => {
                    self.unlearn(group, host);
                    heard.last = Some(why);
                }
                Ok(Attempt::Unsure(why)) => {
                    self.unlearn(group, host);
                    heard.unsure = Some(why);
                }
                Err(_) => {
                    self.unlearn(group, host);
                    heard.unsure = Some(format!("{host} did not answer within {patience:?}"));
                    patience *= 2;
                }
            }
        }
        Err(heard.in_vain(id, started.elapsed()))
    }
}

/// What the attempts told so far.
struct Heard {
    /// Why one may have been carried out.
    unsure: Option<String>,
    /// Why one was not.
    last: Option<String>,
}

impl Heard {
    /// The leader's word, after what may have happened before.
    fn at_the_end(self, error: CellError, id: Option<&TxId>) -> CellError {
        match (self.unsure, id, &error) {
            // These it says after having looked for an outcome.
            (_, _, CellError::Unknown { .. } | CellError::IdReused { .. }) | (None, ..) | (_, None, _) => {
                error
            }
            (Some(why), Some(id), _) => {
                CellError::Unknown { id: id.clone(), why: format!("{why}; asked again: {error}") }
            }
        }
    }

    /// No time is left.
    fn in_vain(self, id: Option<&TxId>, waited: Duration) -> CellError {
        match (self.unsure, id, self.last) {
            (Some(why), Some(id), _) => CellError::Unknown { id: id.clone(), why },
            (_, _, Some(last)) => CellError::Unreachable {
                detail: format!("no leader of the cohort answered within {waited:.1?}: {last}"),
            },
            _ => CellError::TimedOut { waited },
        }
    }
}

/// Everybody once, and some hints.
struct Round {
    queue: VecDeque<HostId>,
    hints: usize,
}

impl Round {
    fn new(first: Option<HostId>, hosts: &[HostId]) -> Round {
        let rest = hosts.iter().copied().filter(|host| Some(*host) != first);
        Round { queue: first.into_iter().chain(rest).collect(), hints: HINTS_MAX }
    }

    fn next(&mut self) -> Option<HostId> {
        self.queue.pop_front()
    }

    fn hint(&mut self, host: Option<HostId>) {
        if let Some(host) = host
            && let Some(left) = self.hints.checked_sub(1)
        {
            self.hints = left;
            self.queue.retain(|queued| *queued != host);
            self.queue.push_front(host);
        }
    }
}

#[cfg(test)]
mod tests;
