//! The users' store, as one peer offers it: reads here or at the leader, and waiting for a change.

use super::Catalog;
use super::command::{Command, KeyExpect, Outcome, Refusal};
use super::errors::CatalogError;
use super::handle::Inner;
use super::keys::{KeyEntry, check_key, check_value};
use super::link::{Ask, LIST_BYTES_MAX, LIST_MAX, Reply, WATCH_MAX};
use skein_model::{HostId, Value};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// How long a member is waited for to answer a read that any member may answer.
const PATIENCE: Duration = Duration::from_millis(1500);
/// Before everybody is asked again.
const PAUSE: Duration = Duration::from_millis(100);
/// How long one member holds a watch before another one is asked to.
const WATCH_TURN: Duration = Duration::from_secs(5);

/// How fresh a read has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// Every change acknowledged before the read shows.
    Linearizable,
    /// What a member of the catalog has at hand; this peer, if it is one. It may be behind, and goes on when there is no leader.
    Local,
}

impl Catalog {
    /// Reads a key; `None` if it has no value.
    pub async fn get_key(
        &self,
        key: &str,
        freshness: Freshness,
        deadline: Instant,
    ) -> Result<Option<KeyEntry>, CatalogError> {
        check_key(key)?;
        let ask = Ask::Get { key: key.to_owned(), fresh: freshness == Freshness::Linearizable };
        match self.inner.read_keys(ask, freshness, deadline).await? {
            Reply::Key(entry) => Ok(entry),
            _ => Err(odd_answer()),
        }
    }

    /// Up to `max` keys that begin with `prefix` and come after `after`, in the order of their bytes. May give fewer than
    /// `max` though there are more: only an empty answer is the end.
    pub async fn list_keys(
        &self,
        prefix: &str,
        after: Option<&str>,
        max: usize,
        freshness: Freshness,
        deadline: Instant,
    ) -> Result<Vec<(String, KeyEntry)>, CatalogError> {
        let ask = Ask::List {
            prefix: prefix.to_owned(),
            after: after.map(str::to_owned),
            max,
            fresh: freshness == Freshness::Linearizable,
        };
        match self.inner.read_keys(ask, freshness, deadline).await? {
            Reply::Keys(keys) => Ok(keys),
            _ => Err(odd_answer()),
        }
    }

    /// Waits until the key is at another version than `version` (0: has no value), and gives what it has then; the same version
    /// after `wait` is the answer that nothing happened.
    ///
    /// A member that is behind the version asked about waits until it is past it. Several changes may show as one.
    pub async fn watch_key(
        &self,
        key: &str,
        version: u64,
        wait: Duration,
    ) -> Result<Option<KeyEntry>, CatalogError> {
        check_key(key)?;
        let until = Instant::now() + wait.min(WATCH_MAX);
        for turn in 0.. {
            let began = Instant::now();
            let left = until.saturating_duration_since(began);
            // Another member after a while: the one that was asked may have been cut off from the rest, and not know.
            let ask = Ask::Watch { key: key.to_owned(), version, wait: left.min(WATCH_TURN) };
            match self.inner.read_members(ask, turn, until + PATIENCE).await? {
                Reply::Key(entry) => {
                    let changed = entry.as_ref().map_or(0, |entry| entry.version) != version;
                    if changed || until <= Instant::now() {
                        return Ok(entry);
                    }
                    // It came back early: its replica is closing.
                    if began.elapsed() < WATCH_TURN.min(left) {
                        tokio::time::sleep(PAUSE).await;
                    }
                }
                _ => return Err(odd_answer()),
            }
        }
        Err(odd_answer())
    }

    /// Writes a key. The outcome's version is the key's new one.
    pub async fn put_key(
        &self,
        key: &str,
        value: Value,
        expect: KeyExpect,
        deadline: Instant,
    ) -> Result<Outcome, CatalogError> {
        check_key(key)?;
        check_value(&value)?;
        self.change(Command::PutKey { key: key.to_owned(), value, expect }, deadline).await
    }

    /// Removes a key; the outcome says whether it was there.
    pub async fn delete_key(
        &self,
        key: &str,
        expect: KeyExpect,
        deadline: Instant,
    ) -> Result<Outcome, CatalogError> {
        check_key(key)?;
        self.change(Command::DeleteKey { key: key.to_owned(), expect }, deadline).await
    }
}

fn odd_answer() -> CatalogError {
    CatalogError::NotLed { why: "the answer is to another question".into() }
}

impl Inner {
    async fn read_keys(
        &self,
        ask: Ask,
        freshness: Freshness,
        deadline: Instant,
    ) -> Result<Reply, CatalogError> {
        if !self.known.state().is_founded() && !self.look_around(deadline).await? {
            return Err(Refusal::NotFounded.into());
        }
        match freshness {
            Freshness::Linearizable => self.ask_leader(ask, deadline).await,
            Freshness::Local => self.read_members(ask, 0, deadline).await,
        }
    }

    /// Asks a member of the catalog: this peer first, if it is one, then the others; at another turn another one first.
    async fn read_members(&self, ask: Ask, turn: usize, deadline: Instant) -> Result<Reply, CatalogError> {
        if !self.known.state().is_founded() && !self.look_around(deadline).await? {
            return Err(Refusal::NotFounded.into());
        }
        let mut why = "no member of the catalog is known".to_owned();
        loop {
            let members = self.known.state().catalog_hosts();
            let here = members.get(&self.me.host).copied();
            let others = members.iter().copied().filter(|host| *host != self.me.host);
            let mut members: Vec<HostId> = here.into_iter().chain(others).collect();
            let first = turn % members.len().max(1);
            members.rotate_left(first);
            for host in members {
                match self.ask(host, ask.clone(), self.patience(&ask, deadline)).await {
                    Ok(reply @ (Reply::Key(_) | Reply::Keys(_))) => return Ok(reply),
                    Ok(Reply::Failed(text)) => why = format!("host {host}: {text}"),
                    Ok(_) => why = format!("host {host} has no replica of the catalog yet"),
                    Err(error) => why = format!("host {host} {error}"),
                }
            }
            if deadline <= Instant::now() + PAUSE {
                return Err(CatalogError::NotLed { why });
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn patience(&self, ask: &Ask, deadline: Instant) -> Instant {
        let wait = if let Ask::Watch { wait, .. } = ask { *wait } else { Duration::ZERO };
        deadline.min(Instant::now() + wait + PATIENCE)
    }

    /// Answers what is asked about keys, at this peer.
    pub(super) async fn answer_keys(&self, ask: Ask, deadline: Instant) -> Reply {
        let fresh = matches!(ask, Ask::Get { fresh: true, .. } | Ask::List { fresh: true, .. });
        if fresh {
            if let Err(reply) = self.barrier(deadline).await {
                return reply;
            }
        } else if !self.keeps_keys() {
            return self.elsewhere();
        }
        match ask {
            Ask::Get { key, .. } => Reply::Key(self.machine.look(|content| content.keys.get(&key).cloned())),
            Ask::List { prefix, after, max, .. } => Reply::Keys(self.list(&prefix, after.as_deref(), max)),
            Ask::Watch { key, version, wait } => {
                let until = deadline.min(Instant::now() + wait.min(WATCH_MAX));
                Reply::Key(self.watch(&key, version, until).await)
            }
            _ => Reply::Failed("that is not about keys".into()),
        }
    }

    /// Whether this peer is a member, with a replica that has something.
    fn keeps_keys(&self) -> bool {
        let state = self.machine.state().borrow().clone();
        let hosts: std::collections::BTreeSet<HostId> = self.known.state().catalog_hosts();
        state.is_founded() && hosts.contains(&self.me.host) && self.group.failure().is_none()
    }

    fn list(&self, prefix: &str, after: Option<&str>, max: usize) -> Vec<(String, KeyEntry)> {
        self.machine.look(|content| {
            let mut bytes = 0;
            let mut listed = Vec::new();
            for (key, entry) in content.keys.list(prefix, after, max.min(LIST_MAX)) {
                bytes += key.len() + entry.value.bytes.len();
                if !listed.is_empty() && LIST_BYTES_MAX < bytes {
                    break;
                }
                listed.push((key.to_owned(), entry.clone()));
            }
            listed
        })
    }

    async fn watch(&self, key: &str, version: u64, until: Instant) -> Option<KeyEntry> {
        let mut position = self.machine.position();
        loop {
            let applied = *position.borrow_and_update();
            let entry = self.machine.look(|content| content.keys.get(key).cloned());
            let current = entry.as_ref().map_or(0, |entry| entry.version);
            // A replica that has not applied the version asked about is behind who asks.
            if current != version && version < applied {
                return entry;
            }
            match timeout_at(until, position.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return entry,
            }
        }
    }
}
