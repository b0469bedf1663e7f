//! The way to whoever leads the catalog, and what is done there.

use super::command::{Command, Outcome, Refusal, Request};
use super::errors::CatalogError;
use super::handle::{Inner, Summary};
use super::link::{self, Ask, LinkError, Reply};
use super::state::CatalogState;
use crate::supervisor::Report;
use bytes::Bytes;
use skein_cohort::group::{Fate, GroupError};
use skein_model::HostId;
use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

/// How long one host is waited for before another is asked.
const PATIENCE: Duration = Duration::from_millis(1500);
/// The first pause after a round that came to nothing; it doubles up to the longest.
const PAUSE: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(300);

/// How many hosts that are no members are asked in a round: they may have heard of members that this peer has not.
const STRANGERS: usize = 3;

impl Inner {
    /// Who may lead or know the leader, the likeliest first.
    fn round(&self) -> VecDeque<HostId> {
        let role = *self.group.role().borrow();
        let leading = role.leading.then_some(self.me.host);
        let heard = role.leader.map(|leader| leader.host);
        let members = self.known.state().catalog_hosts();
        let mut strangers = self.link.reachable();
        strangers.retain(|host| !members.contains(host) && *host != self.me.host);
        let turn = (self.luck)() as usize % strangers.len().max(1);
        strangers.rotate_left(turn);
        strangers.truncate(STRANGERS);
        let mut round = VecDeque::new();
        for host in leading.into_iter().chain(self.last_leader()).chain(heard).chain(members).chain(strangers)
        {
            if !round.contains(&host) {
                round.push_back(host);
            }
        }
        round
    }

    /// Asks whoever leads, over and over until the deadline. Asking twice does no harm: a change has its ID.
    pub(super) async fn ask_leader(&self, mut ask: Ask, deadline: Instant) -> Result<Reply, CatalogError> {
        let mut pause = PAUSE;
        // Whether a change may have been made by an attempt whose answer is missing.
        let mut uncertain = false;
        let mut why = "no host is known that keeps the catalog".to_owned();
        loop {
            let mut round = self.round();
            let mut asked = BTreeSet::new();
            while let Some(host) = round.pop_front() {
                if deadline <= Instant::now() {
                    break;
                }
                if !asked.insert(host) {
                    continue;
                }
                if let Ask::Change(request) = &mut ask {
                    request.again = uncertain;
                }
                let patience = deadline.min(Instant::now() + PATIENCE);
                match self.ask(host, ask.clone(), patience).await {
                    Ok(Reply::Elsewhere { leader }) => {
                        why = format!("host {host} does not lead it");
                        leader.into_iter().for_each(|leader| round.push_front(leader));
                    }
                    Ok(Reply::Failed(text)) => why = format!("host {host}: {text}"),
                    Ok(Reply::Unknown(text)) => {
                        why = format!("host {host}: {text}");
                        uncertain = true;
                    }
                    Ok(Reply::Changed(Err(Refusal::TooOld { since, .. }))) => match &mut ask {
                        Ask::Change(request) if !uncertain => {
                            // Certainly not carried out so far, so it can be made anew.
                            (request.id, request.after) = (self.draw_id(), since);
                            asked.remove(&host);
                            round.push_front(host);
                        }
                        _ => return Err(CatalogError::Unknown { why }),
                    },
                    Ok(reply) => {
                        self.set_leader(host);
                        return Ok(reply);
                    }
                    Err(LinkError::NotSent(text)) => why = format!("host {host} cannot be reached: {text}"),
                    Err(LinkError::NoAnswer(text)) => {
                        why = format!("host {host} did not answer: {text}");
                        uncertain = true;
                    }
                }
            }
            let wait = pause.mul_f64(0.5 + ((self.luck)() >> 11) as f64 / (1u64 << 54) as f64);
            if deadline <= Instant::now() + wait {
                return Err(match ask {
                    Ask::Change(_) if uncertain => CatalogError::Unknown { why },
                    _ => CatalogError::NotLed { why },
                });
            }
            tokio::time::sleep(wait).await;
            pause = PAUSE_MAX.min(pause * 2);
        }
    }

    pub(super) fn last_leader(&self) -> Option<HostId> {
        *self.leader.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_leader(&self, host: HostId) {
        *self.leader.lock().unwrap_or_else(PoisonError::into_inner) = Some(host);
    }

    /// Asks one host, which may be this one.
    pub(super) async fn ask(&self, host: HostId, ask: Ask, deadline: Instant) -> Result<Reply, LinkError> {
        if host == self.me.host {
            // The answer to a founding asks others in turn; boxed, as it would contain itself.
            return Ok(Box::pin(self.answer_ask(host, ask, deadline)).await);
        }
        let answer = self.link.ask(host, link::encode(&ask), deadline);
        let bytes = match timeout_at(deadline, answer).await {
            Ok(answer) => answer?,
            Err(_) => return Err(LinkError::NoAnswer("it took too long".into())),
        };
        link::decode(&bytes).map_err(|error| LinkError::NoAnswer(error.to_string()))
    }

    pub(super) async fn answer(&self, from: HostId, body: Bytes, deadline: Instant) -> Bytes {
        let reply = match link::decode::<Ask>(&body) {
            Ok(ask) => self.answer_ask(from, ask, deadline).await,
            Err(error) => Reply::Failed(error.to_string()),
        };
        link::encode(&reply)
    }

    async fn answer_ask(&self, from: HostId, ask: Ask, deadline: Instant) -> Reply {
        match ask {
            Ask::Promise { founder } if founder == from => self.promise(founder),
            Ask::Release { founder } if founder == from => {
                self.founding.release(founder);
                Reply::Done
            }
            Ask::Promise { .. } | Ask::Release { .. } => {
                Reply::Failed("only the founder itself can ask for a promise".into())
            }
            Ask::Found { targets, if_version } => match self.found(targets, if_version, deadline).await {
                Ok(outcome) => Reply::Changed(Ok(outcome)),
                Err(CatalogError::Refused(refusal)) => Reply::Changed(Err(refusal)),
                Err(CatalogError::Unknown { why }) => Reply::Unknown(why),
                Err(error) => Reply::Failed(error.to_string()),
            },
            Ask::Change(request) => self.propose(request, deadline).await,
            Ask::State { have } => {
                Reply::State(Some(self.known.state()).filter(|state| have < state.version))
            }
            Ask::FreshState { have } => match self.barrier(deadline).await {
                Ok(()) => {
                    let state = self.machine.state().borrow().clone();
                    Reply::State(Some(state).filter(|state| have < state.version))
                }
                Err(reply) => reply,
            },
            Ask::Get { .. } | Ask::List { .. } | Ask::Watch { .. } => self.answer_keys(ask, deadline).await,
            Ask::Report(report) => {
                if !self.group.role().borrow().leading {
                    return self.elsewhere();
                }
                self.observed().report(report);
                self.news.notify_one();
                Reply::Done
            }
        }
    }

    pub(super) fn elsewhere(&self) -> Reply {
        let role = *self.group.role().borrow();
        let leader = role.leader.map(|leader| leader.host).or(self.last_leader());
        Reply::Elsewhere { leader: leader.filter(|leader| *leader != self.me.host) }
    }

    /// Confirms that this peer leads, and that everything acknowledged before is applied here.
    pub(super) async fn barrier(&self, deadline: Instant) -> Result<(), Reply> {
        let role = *self.group.role().borrow();
        if !role.leading {
            return Err(self.elsewhere());
        }
        // Nobody else can have acknowledged anything up to now; and what this peer acknowledged was applied here first.
        if self.group.lease_valid(role.term) {
            return Ok(());
        }
        match timeout_at(deadline, self.group.read_barrier()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(GroupError::NotLeader { leader })) => {
                Err(Reply::Elsewhere { leader: leader.map(|leader| leader.host) })
            }
            Ok(Err(error)) => Err(Reply::Failed(error.to_string())),
            Err(_) => Err(Reply::Failed("too few of the catalog's members answer".into())),
        }
    }

    /// Proposes a request, as the leader. Dropping the future leaves its outcome unknown.
    pub(super) async fn propose(&self, request: Request, deadline: Instant) -> Reply {
        let role = *self.group.role().borrow();
        if !role.leading {
            return self.elsewhere();
        }
        let bytes = match request.encode() {
            Ok(bytes) => Bytes::from(bytes),
            Err(refusal) => return Reply::Changed(Err(refusal)),
        };
        let (tell, told) = oneshot::channel();
        let machine = self.machine.clone();
        let done = move |fate| {
            let reply = match fate {
                Fate::Applied { index } => match machine.result(index) {
                    Some(result) => Reply::Changed(result),
                    None => Reply::Unknown("it was carried out, and what came of it is not known".into()),
                },
                Fate::NotWritten { leader } => Reply::Elsewhere { leader: leader.map(|leader| leader.host) },
                Fate::Unknown { why } => Reply::Unknown(why),
            };
            // Whoever asked may have given up.
            let _ = tell.send(reply);
        };
        self.group.propose(bytes, role.term, done).await;
        match timeout_at(deadline, told).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(_)) => Reply::Unknown("this replica of the catalog stopped".into()),
            Err(_) => Reply::Unknown("too few of the catalog's members answered in time".into()),
        }
    }

    pub(super) async fn change(&self, command: Command, deadline: Instant) -> Result<Outcome, CatalogError> {
        // Keys are no part of the state that peers know.
        let is_known = !matches!(command, Command::PutKey { .. } | Command::DeleteKey { .. });
        if !self.known.state().is_founded() && !self.look_around(deadline).await? {
            return Err(Refusal::NotFounded.into());
        }
        match self.ask_leader(Ask::Change(self.request(command)), deadline).await? {
            Reply::Changed(Ok(outcome)) => {
                if is_known && outcome.changed {
                    self.follow(outcome.index, deadline).await;
                }
                Ok(outcome)
            }
            Reply::Changed(Err(refusal)) => Err(refusal.into()),
            _ => Err(CatalogError::Unknown { why: "the leader's answer is to another question".into() }),
        }
    }

    /// Has this peer know what it just changed, if that is to be had: whoever changes something and then looks here sees it.
    pub(super) async fn follow(&self, index: u64, deadline: Instant) {
        let have = self.known.state().version;
        if index <= have {
            return;
        }
        let reached = self.machine.state().borrow().clone();
        if index <= reached.version {
            // Of another founding it cannot be: it is this peer's own.
            let _ = self.known.learn(reached).await;
            return;
        }
        let Some(leader) = self.last_leader() else { return };
        let patience = deadline.min(Instant::now() + PATIENCE);
        if let Ok(Reply::State(Some(state))) = self.ask(leader, Ask::State { have }, patience).await {
            // Of another founding it cannot be: the leader took our change.
            let _ = self.known.learn(state).await;
        }
    }

    /// Asks everybody who can be reached for a state; tells whether the cell is founded.
    pub(super) async fn look_around(&self, deadline: Instant) -> Result<bool, CatalogError> {
        let patience = deadline.min(Instant::now() + PATIENCE);
        let hosts: Vec<HostId> =
            self.link.reachable().into_iter().filter(|host| *host != self.me.host).collect();
        let asks = hosts.iter().map(|host| self.ask(*host, Ask::State { have: 0 }, patience));
        for reply in futures_util::future::join_all(asks).await {
            if let Ok(Reply::State(Some(state))) = reply {
                self.known.learn(state).await?;
            }
        }
        Ok(self.known.state().is_founded())
    }

    pub(super) async fn catch_up(
        &self,
        summary: &Summary,
        hosts: &[HostId],
        deadline: Instant,
    ) -> Result<bool, CatalogError> {
        self.known.check(summary.founding)?;
        let before = self.known.state().version;
        let mut why = "nobody was named who might have it".to_owned();
        for host in hosts.iter().chain(&summary.members).filter(|host| **host != self.me.host) {
            let have = self.known.state().version;
            if summary.version <= have {
                break;
            }
            let patience = deadline.min(Instant::now() + PATIENCE);
            match self.ask(*host, Ask::State { have }, patience).await {
                Ok(Reply::State(Some(state))) => {
                    self.known.learn(state).await?;
                }
                Ok(_) => why = format!("host {host} does not have it yet"),
                Err(error) => why = format!("host {host} {error}"),
            }
            if deadline <= Instant::now() {
                break;
            }
        }
        let after = self.known.state().version;
        if before < after || summary.version <= after {
            Ok(before < after)
        } else {
            Err(CatalogError::NotLed { why })
        }
    }

    pub(super) async fn read_state(&self, deadline: Instant) -> Result<Arc<CatalogState>, CatalogError> {
        if !self.known.state().is_founded() && !self.look_around(deadline).await? {
            return Err(Refusal::NotFounded.into());
        }
        let have = self.known.state().version;
        match self.ask_leader(Ask::FreshState { have }, deadline).await? {
            Reply::State(Some(state)) => {
                self.known.learn(state.clone()).await?;
                Ok(state)
            }
            Reply::State(None) => Ok(self.known.state()),
            _ => Err(CatalogError::NotLed { why: "the leader's answer is to another question".into() }),
        }
    }

    pub(super) async fn report(&self, report: Report, deadline: Instant) -> Result<(), CatalogError> {
        self.ask_leader(Ask::Report(report), deadline).await.map(|_| ())
    }
}
