//! Who cannot be reached, by the word of enough peers.
//!
//! The owner reports whom it could not reach, and whom it reached again ([`Health::report`]). A peer tells all others whom it cannot
//! reach (an *accusation*); when [`Config::quorum`] different peers accuse the same one within [`Config::window`], everybody
//! *suspects* it; a little later it is *avoided* for a while, then *tried* again, and avoided for twice as long if it is accused
//! again. So one slow link condemns nobody, and neither does one liar, however often it speaks.
//!
//! Whoever hears itself accused by a quorum refutes with a number greater than in any refutation before, which makes all
//! accusations under lower numbers void (as in SWIM: Das, Gupta, Motivala, DSN 2002, section 4.2, whose incarnation numbers these are). A
//! peer that can speak but not be reached would refute for ever; hence [`Config::refutations_max`].
//!
//! When a peer that all know dies, ten thousand have the same thing to say. Each waits for a random time, most of them
//! long and few of them short, and keeps its peace when a quorum has spoken by then (Nonnenmacher, Biersack, "Scalable
//! Feedback for Large Groups", ToN 1999; their exponential timers, in steps of powers of two). However many peers see a death, about a
//! quorum of them and a few more broadcast it.
//!
//! Every peer judges for itself by what it heard; the judgements agree as far as the broadcasts reached everybody.

mod config;
mod message;
#[cfg(test)]
mod tests;

pub use config::Config;
pub use message::{ITEMS_MAX, Item, Notice, Number};

use crate::io::Refused;
use crate::time::Time;
use bytes::Bytes;
use rand::Rng;
use skein_model::HostId;
use std::sync::Arc;
use std::time::Duration;

/// What the owner saw of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reach {
    /// It answered.
    Reached,
    /// It could not be reached, or said nothing in time.
    Failed,
}

/// How a peer stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
pub enum State {
    /// Nothing is known against it.
    #[default]
    Healthy,
    /// Enough peers say that they cannot reach it; it has [`Config::suspected_for`] to refute.
    Suspected,
    /// Better not to be asked for anything until then.
    Avoided {
        /// When it will be tried again.
        until: Time,
    },
    /// It was avoided long enough: ask it something, and report.
    Trying,
}

/// What the owner is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Changed {
    /// Whose state.
    pub host: HostId,
    /// What it is now.
    pub state: State,
}

/// What was counted since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Accusations heard that counted.
    pub accused: u64,
    /// Broadcasts we asked for.
    pub published: u64,
    /// Accusations of our own that others had made before their time came.
    pub spared: u64,
    /// Refutations we made.
    pub refuted: u64,
    /// Peers that became suspected, as we see it.
    pub suspected: u64,
    /// Payloads that could not be read.
    pub malformed: u64,
    /// Words that only another may say.
    pub implausible: u64,
    /// Accusations older than the window or than the refutation.
    pub stale: u64,
    /// Accusations beyond an accuser's share or our room.
    pub flooded: u64,
}

/// Somebody's word against a host.
#[derive(Clone, Copy, Debug)]
struct Accusation {
    by: HostId,
    at: Time,
}

/// A host of whom something is known.
#[derive(Clone, Debug)]
struct Case {
    host: HostId,
    /// Of its last refutation that we heard.
    number: Number,
    accusations: Vec<Accusation>,
    state: State,
    /// Since when it is in that state.
    since: Time,
    /// When anything was last heard about it.
    touched: Time,
    /// How often it was avoided, as far as not forgiven.
    avoided: u8,
    /// How often it refuted, as far as not forgiven.
    refuted: u8,
    /// When we last told others that we cannot reach it, if they still think so.
    told: Option<Time>,
}

/// Something to tell all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pending {
    item: Item,
    since: Time,
    due: Time,
}

/// What one peer thinks of the health of the others.
#[derive(Debug)]
pub struct Health {
    config: Arc<Config>,
    me: HostId,
    /// By rising host.
    cases: Vec<Case>,
    pending: Vec<Pending>,
    /// Those who accuse us.
    against_us: Vec<Accusation>,
    number: Number,
    last_refuted: Option<Time>,
    last_published: Option<Time>,
    /// Notices heard since, and since when, to see how busy the channel is.
    heard: (u32, Time),
    payload: Option<Bytes>,
    changes: Vec<Changed>,
    counters: Counters,
}

impl Health {
    /// Of a peer that thinks well of everybody.
    /// * `incarnation`: greater than in every earlier run of this peer.
    pub fn new(config: Arc<Config>, me: HostId, incarnation: u64) -> Self {
        Self {
            config,
            me,
            cases: Vec::new(),
            pending: Vec::new(),
            against_us: Vec::new(),
            number: Number { incarnation, counter: 0 },
            last_refuted: None,
            last_published: None,
            heard: (0, Time(0)),
            payload: None,
            changes: Vec::new(),
            counters: Counters::default(),
        }
    }

    /// How a host stands.
    pub fn state(&self, host: HostId) -> State {
        self.find(host).map_or(State::Healthy, |at| self.cases[at].state)
    }

    /// All that are not healthy, by rising ID.
    pub fn unwell(&self) -> impl Iterator<Item = (HostId, State)> {
        let unwell = self.cases.iter().filter(|case| case.state != State::Healthy);
        unwell.map(|case| (case.host, case.state))
    }

    /// What was counted.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// State changes since the last time, in order.
    pub fn take_changes(&mut self) -> Vec<Changed> {
        std::mem::take(&mut self.changes)
    }

    /// The next payload to broadcast on the health channel, if there is one.
    pub fn take_payload(&mut self) -> Option<Bytes> {
        self.payload.take()
    }

    /// Bytes in memory, heap included; nothing but the struct itself while all are healthy.
    pub fn state_bytes(&self) -> usize {
        let words: usize = self.cases.iter().map(|case| case.accusations.capacity()).sum();
        size_of::<Self>()
            + self.cases.capacity() * size_of::<Case>()
            + (words + self.against_us.capacity()) * size_of::<Accusation>()
            + self.pending.capacity() * size_of::<Pending>()
    }

    /// The owner could or could not reach a host.
    /// * `peers`: about how many peers there are; more of them wait longer for each other's word.
    /// * Errors: [`Refused::Flood`] when there are so many cases that there is no room for another.
    pub fn report(
        &mut self,
        host: HostId,
        reach: Reach,
        peers: usize,
        now: Time,
        rng: &mut dyn Rng,
    ) -> Result<(), Refused> {
        if host == self.me {
            return Ok(());
        }
        match reach {
            Reach::Failed => self.failed(host, peers, now, rng),
            Reach::Reached => {
                self.reached(host, now);
                Ok(())
            }
        }
    }

    fn failed(&mut self, host: HostId, peers: usize, now: Time, rng: &mut dyn Rng) -> Result<(), Refused> {
        let at = self.open(host, now)?;
        let (me, window) = (self.me, self.config.window);
        let case = &mut self.cases[at];
        case.accuse(me, now, self.config.accusers_max);
        // Said again before it is forgotten, so that peers who judge differently by now come together again.
        let known = case.told.is_some_and(|told| now.since(told) < window / 2);
        let waits = self.pending.iter().any(|it| it.item.host == host && it.item.notice == Notice::Accused);
        if !known && !waits && self.pending.len() < ITEMS_MAX {
            let item =
                Item { host, notice: Notice::Accused, number: self.cases[at].number, age: Duration::ZERO };
            let due = now + self.patience(peers, rng);
            self.pending.retain(|it| it.item.host != host);
            self.pending.push(Pending { item, since: now, due });
        }
        self.judge(at, now);
        Ok(())
    }

    fn reached(&mut self, host: HostId, now: Time) {
        self.pending.retain(|it| it.item.host != host);
        let Some(at) = self.find(host) else { return };
        let case = &mut self.cases[at];
        case.touched = now;
        if case.is_out_of_use() || case.state == State::Trying {
            // For us it is there, whatever others say.
            case.accusations.clear();
        } else {
            case.accusations.retain(|accusation| accusation.by != self.me);
        }
        if case.told.take().is_some() && self.pending.len() < ITEMS_MAX {
            let (number, notice) = (case.number, Notice::Withdrawn);
            let item = Item { host, notice, number, age: Duration::ZERO };
            self.pending.push(Pending { item, since: now, due: now + self.config.slot });
        }
        if case.is_out_of_use() || case.state == State::Trying {
            self.enter(at, State::Healthy, now);
        } else {
            self.judge(at, now);
        }
    }

    /// Broadcast by somebody on the health channel.
    /// * Errors: [`Refused::Malformed`]; [`Refused::Implausible`] when it refutes for another, [`Refused::Flood`] or
    ///   [`Refused::Stale`] when not one item of it counted. The items before a bad one stand.
    pub fn delivered(&mut self, origin: HostId, payload: &Bytes, now: Time) -> Result<(), Refused> {
        if origin == self.me {
            return Ok(());
        }
        let items = message::decode(payload).inspect_err(|_| self.counters.malformed += 1)?;
        if now.since(self.heard.1) > self.config.window {
            self.heard = (0, now);
        }
        self.heard.0 = self.heard.0.saturating_add(1);
        let mut result = Ok(());
        for item in items {
            let told = match item.notice {
                Notice::Accused => self.accused(origin, item, now),
                Notice::Withdrawn => {
                    self.withdrawn(origin, item, now);
                    Ok(())
                }
                Notice::Refuted => self.refuted(origin, item, now),
            };
            match &told {
                Ok(()) => {}
                Err(Refused::Stale) => self.counters.stale += 1,
                Err(Refused::Flood) => self.counters.flooded += 1,
                Err(_) => self.counters.implausible += 1,
            }
            result = result.and(told);
        }
        result
    }

    fn accused(&mut self, by: HostId, item: Item, now: Time) -> Result<(), Refused> {
        if item.host == by {
            return Err(Refused::Implausible("a peer that accuses itself"));
        }
        if item.age > self.config.window {
            return Err(Refused::Stale);
        }
        let said = now - item.age;
        if item.host == self.me {
            return self.accused_ourselves(by, item.number, said, now);
        }
        let number = self.find(item.host).map(|at| self.cases[at].number);
        if number.is_some_and(|number| item.number < number) {
            return Err(Refused::Stale);
        }
        let by_it = |case: &&Case| case.host != item.host && case.accusations.iter().any(|it| it.by == by);
        if self.cases.iter().filter(by_it).count() >= self.config.each_max {
            return Err(Refused::Flood);
        }
        let at = self.open(item.host, now)?;
        self.counters.accused += 1;
        self.cases[at].accuse(by, said, self.config.accusers_max);
        self.judge(at, now);
        Ok(())
    }

    fn accused_ourselves(
        &mut self,
        by: HostId,
        number: Number,
        said: Time,
        now: Time,
    ) -> Result<(), Refused> {
        // Before our first refutation nobody knows the number of this run.
        if self.number.counter > 0 && number < self.number {
            return Err(Refused::Stale);
        }
        self.counters.accused += 1;
        let window = self.config.window;
        self.against_us.retain(|it| it.by != by && now.since(it.at) < window);
        if self.against_us.len() < self.config.accusers_max {
            self.against_us.push(Accusation { by, at: said });
        }
        let waits = self.last_refuted.is_some_and(|last| now.since(last) < self.config.refute_every);
        if self.against_us.len() >= self.config.quorum && !waits {
            self.number.counter += 1;
            self.against_us.clear();
            self.last_refuted = Some(now);
            self.counters.refuted += 1;
            let (host, number, notice) = (self.me, self.number, Notice::Refuted);
            let item = Item { host, notice, number, age: Duration::ZERO };
            self.pending.retain(|it| it.item.notice != Notice::Refuted);
            self.pending.insert(0, Pending { item, since: now, due: now });
        }
        Ok(())
    }

    fn withdrawn(&mut self, by: HostId, item: Item, now: Time) {
        if item.host == self.me {
            self.against_us.retain(|it| it.by != by);
        } else if let Some(at) = self.find(item.host) {
            self.cases[at].accusations.retain(|it| it.by != by);
            self.judge(at, now);
        }
    }

    fn refuted(&mut self, by: HostId, item: Item, now: Time) -> Result<(), Refused> {
        if by != item.host {
            return Err(Refused::Implausible("a refutation for another"));
        }
        let at = self.open(item.host, now)?;
        let case = &mut self.cases[at];
        if item.number <= case.number {
            return Err(Refused::Stale);
        }
        // Taken over in any case: were it not, peers would differ in which accusations are void.
        case.number = item.number;
        case.touched = now;
        if case.state != State::Healthy {
            if case.refuted >= self.config.refutations_max {
                return Ok(());
            }
            case.refuted += 1;
        }
        case.accusations.retain(|it| it.by == self.me);
        case.told = None;
        match case.state {
            State::Suspected => self.enter(at, State::Healthy, now),
            State::Avoided { .. } => self.enter(at, State::Trying, now),
            State::Healthy | State::Trying => {}
        }
        Ok(())
    }

    /// When to call [`Health::deadline`].
    pub fn next_deadline(&self) -> Option<Time> {
        let pending = self.pending.iter().map(|it| it.due.max(self.may_publish()));
        pending.chain(self.cases.iter().map(|case| case.next(&self.config))).min()
    }

    /// The moment that [`Health::next_deadline`] named has come.
    pub fn deadline(&mut self, now: Time, rng: &mut dyn Rng) {
        for at in (0..self.cases.len()).rev() {
            if self.cases[at].next(&self.config) <= now {
                self.judge(at, now);
            }
        }
        if self.may_publish() <= now && self.pending.iter().any(|it| it.due <= now) {
            self.publish(now, rng);
        }
    }

    fn may_publish(&self) -> Time {
        self.last_published.map_or(Time(0), |last| last + self.config.every)
    }

    /// Puts what is due, and nearly due, into one payload.
    fn publish(&mut self, now: Time, rng: &mut dyn Rng) {
        let busy = now.since(self.heard.1) <= self.config.window && self.heard.0 >= self.config.heard_max;
        let mut items = Vec::new();
        let mut at = 0;
        while at < self.pending.len() {
            let pending = self.pending[at];
            let case = self.find(pending.item.host);
            let spared = pending.item.notice == Notice::Accused
                && case.is_none_or(|case| !self.needs_our_word(&self.cases[case], now));
            if spared {
                self.counters.spared += 1;
            } else if pending.due > now + self.config.slot || items.len() == ITEMS_MAX {
                at += 1;
                continue;
            } else if busy && pending.item.notice != Notice::Refuted {
                // Many speak already; another round of waiting keeps the whole flock within bounds.
                let wait = rng.next_u64() % (self.config.window.as_micros() as u64).max(1);
                self.pending[at].due = now + self.config.slot * 2 + Duration::from_micros(wait);
                at += 1;
                continue;
            } else {
                if let Some(case) = case.filter(|_| pending.item.notice == Notice::Accused) {
                    self.cases[case].told = Some(now);
                }
                let number = case.map_or(pending.item.number, |case| self.cases[case].number);
                items.push(Item { age: now.since(pending.since), number, ..pending.item });
            }
            self.pending.remove(at);
        }
        if !items.is_empty() {
            self.last_published = Some(now);
            self.counters.published += 1;
            // At most one for each call, and it is taken before the next.
            self.payload = Some(message::encode(&items));
        }
    }

    /// Whether our own word against it would still add something.
    fn needs_our_word(&self, case: &Case, now: Time) -> bool {
        let ours = case.accusations.iter().any(|it| it.by == self.me);
        let others = case.fresh(&self.config, now).filter(|it| it.by != self.me).count();
        ours && others < self.config.quorum
    }

    /// How long to wait for others to say the same: with a chance of 1/2 in the last slot, of 1/4 in the one before, and so on, for as
    /// many slots as there are doublings in the number of peers, so that one of them all is expected in the first.
    fn patience(&self, peers: usize, rng: &mut dyn Rng) -> Duration {
        let slots = (peers.max(1)).ilog2() + 1;
        let early = rng.next_u64().leading_zeros().min(slots - 1);
        let within = rng.next_u64() % (self.config.slot.as_micros() as u64).max(1);
        self.config.slot * (slots - 1 - early) + Duration::from_micros(within)
    }

    /// What follows from the accusations and the time.
    fn judge(&mut self, at: usize, now: Time) {
        let config = self.config.clone();
        let case = &mut self.cases[at];
        case.accusations.retain(|it| now.since(it.at) < config.window);
        let enough = case.accusations.len() >= config.quorum;
        match case.state {
            State::Healthy if enough => {
                self.counters.suspected += 1;
                self.enter(at, State::Suspected, now);
            }
            State::Suspected if !enough => self.enter(at, State::Healthy, now),
            State::Suspected if now.since(case.since) >= config.suspected_for => self.avoid(at, now),
            // It had its chance.
            State::Trying if enough => self.avoid(at, now),
            State::Trying if now.since(case.since) >= config.try_for => self.enter(at, State::Healthy, now),
            State::Avoided { until } if until <= now => {
                case.accusations.clear();
                case.told = None;
                self.enter(at, State::Trying, now);
            }
            State::Healthy if case.next(&config) <= now => {
                self.cases.remove(at);
            }
            State::Healthy | State::Suspected | State::Avoided { .. } | State::Trying => {}
        }
    }

    fn avoid(&mut self, at: usize, now: Time) {
        let case = &mut self.cases[at];
        let doubled = self.config.avoid_first.saturating_mul(1 << case.avoided.min(30));
        case.avoided = case.avoided.saturating_add(1);
        let until = now + doubled.min(self.config.avoid_max);
        self.enter(at, State::Avoided { until }, now);
    }

    fn enter(&mut self, at: usize, state: State, now: Time) {
        let case = &mut self.cases[at];
        if case.state != state {
            (case.state, case.since, case.touched) = (state, now, now);
            self.changes.push(Changed { host: case.host, state });
        }
    }

    fn find(&self, host: HostId) -> Option<usize> {
        self.cases.binary_search_by_key(&host, |case| case.host).ok()
    }

    /// The case of a host, a new one if there is none. When there is no room, the case that matters least makes way, if any
    /// matters so little: a healthy host with one accuser at most.
    fn open(&mut self, host: HostId, now: Time) -> Result<usize, Refused> {
        if let Some(at) = self.find(host) {
            return Ok(at);
        }
        if self.cases.len() >= self.config.hosts_max {
            let minor = |case: &&Case| {
                case.state == State::Healthy && case.accusations.len() < 2 && case.told.is_none()
            };
            let least = self.cases.iter().filter(minor).min_by_key(|case| (case.touched, case.host));
            let least = least.map(|case| case.host).ok_or(Refused::Flood)?;
            self.cases.retain(|case| case.host != least);
        }
        let at = self.cases.partition_point(|case| case.host < host);
        let case = Case {
            host,
            number: Number::default(),
            accusations: Vec::new(),
            state: State::Healthy,
            since: now,
            touched: now,
            avoided: 0,
            refuted: 0,
            told: None,
        };
        self.cases.insert(at, case);
        Ok(at)
    }
}

impl Case {
    /// Notes a word against the host; a second of the same peer takes the place of its first.
    fn accuse(&mut self, by: HostId, at: Time, most: usize) {
        self.touched = self.touched.max(at);
        if let Some(accusation) = self.accusations.iter_mut().find(|it| it.by == by) {
            accusation.at = accusation.at.max(at);
        } else if self.accusations.len() < most {
            // More than a quorum's worth of names would say nothing more.
            self.accusations.push(Accusation { by, at });
        }
    }

    fn fresh(&self, config: &Config, now: Time) -> impl Iterator<Item = &Accusation> {
        let window = config.window;
        self.accusations.iter().filter(move |it| now.since(it.at) < window)
    }

    /// Whether it is suspected or avoided.
    fn is_out_of_use(&self) -> bool {
        matches!(self.state, State::Suspected | State::Avoided { .. })
    }

    /// When time alone changes something.
    fn next(&self, config: &Config) -> Time {
        match self.state {
            State::Suspected => self.since + config.suspected_for,
            State::Avoided { until } => until,
            State::Trying => self.since + config.try_for,
            // Then it is forgotten; later when there is something to forgive.
            State::Healthy if self.avoided > 0 || self.refuted > 0 => self.touched + config.forgive_after,
            State::Healthy => self.touched + config.window,
        }
    }
}
