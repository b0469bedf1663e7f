//! The parts put together.

use crate::addr::{Addr, Peer};
use crate::broadcast::{self, Broadcast, Channel, Event};
use crate::facts::{self, Facts};
use crate::health::{self, Health};
use crate::io::{Cx, Effect, Input, Outbox, Refused, Told};
use crate::links::Links;
use crate::membership::{self, Change, Membership, Step};
use crate::query::{self, Queries, QueryId};
use crate::time::Time;
use crate::wire::{Frame, Reader};
use rand::{Rng, RngExt};
use skein_model::HostId;
use std::sync::Arc;

/// Addresses from facts that the membership is given at a time when it is at a loss.
const ADDRESSES_OFFERED: usize = 64;

/// Every knob of the flock; each part documents its own.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Views, heartbeats, the address book.
    pub membership: Arc<membership::Config>,
    /// Trees, announcements, payloads kept.
    pub broadcast: Arc<broadcast::Config>,
    /// Budgets of facts and settings, and how they are kept equal.
    pub facts: Arc<facts::Config>,
    /// Questions asked and answered.
    pub query: Arc<query::Config>,
    /// When peers are suspected, and for how long.
    pub health: Arc<health::Config>,
}

/// What a peer is given when it starts.
#[derive(Clone, Debug, Default)]
pub struct Remembered {
    /// Addresses to try: from configuration, and what the last run remembered.
    pub addrs: Vec<Addr>,
    /// Greater than in every earlier run of this peer; orders its facts and broadcasts across restarts.
    pub incarnation: u64,
}

/// One peer's end of the gossip.
#[derive(Debug)]
pub struct Flock {
    me: Peer,
    incarnation: u64,
    membership: Membership,
    broadcast: Broadcast,
    facts: Facts,
    queries: Queries,
    health: Health,
    /// When anything but the membership has something to do: so that a heartbeat, and most messages are, need not look at
    /// the other parts at all.
    rest_due: Option<Time>,
}

impl Flock {
    /// A peer that has not started; bring [`Input::Start`] first.
    pub fn new(config: Arc<Config>, me: Peer, remembered: Remembered) -> Self {
        let mut flock = Self {
            me,
            incarnation: remembered.incarnation,
            membership: Membership::new(config.membership.clone(), me, &remembered.addrs),
            broadcast: Broadcast::new(config.broadcast.clone(), me.id, remembered.incarnation),
            facts: Facts::new(config.facts.clone(), me.id, remembered.incarnation),
            queries: Queries::new(config.query.clone()),
            health: Health::new(config.health.clone(), me.id, remembered.incarnation),
            rest_due: None,
        };
        flock.rest_due = flock.next_of_the_rest();
        flock
    }

    /// Takes one input and appends what follows to `out`, to be done in order.
    /// * `now`: never before that of an earlier call.
    /// * Errors: [`Refused`] says why the input was dropped; the state is then as it was, but that the sender
    ///   counts as alive if it is a neighbour.
    pub fn handle(
        &mut self,
        input: Input,
        now: Time,
        rng: &mut dyn Rng,
        out: &mut Outbox,
    ) -> Result<(), Refused> {
        if self.membership.has_left() {
            return Ok(());
        }
        let before = out.effects.len();
        let rest_is_due = self.rest_due.is_some_and(|due| due <= now);
        let only_membership = match &input {
            Input::Received { bytes, .. } => bytes.get(0).is_some_and(membership::is_tag),
            Input::Deadline => !rest_is_due,
            _ => false,
        };
        let mut step = Step { now, rng, me: self.me, out };
        let result = match input {
            Input::Received { from, bytes } => self.receive(from, bytes, &mut step),
            Input::Unreachable { addr, why } => {
                self.membership.unreachable(addr, why, &mut step);
                self.facts.unreachable(addr, why, &mut lend(&mut step, self.membership.links()));
                Ok(())
            }
            Input::Deadline => {
                self.membership.deadline(&mut step);
                if rest_is_due && self.broadcast.next_deadline().is_some_and(|due| due <= now) {
                    self.broadcast.deadline(&mut lend(&mut step, self.membership.links()));
                }
                if rest_is_due && self.facts.next_deadline().is_some_and(|due| due <= now) {
                    self.facts.deadline(&mut lend(&mut step, self.membership.links()));
                }
                if rest_is_due && self.queries.next_deadline().is_some_and(|due| due <= now) {
                    let local = View { facts: &self.facts, me: self.me.id, links: self.membership.links() };
                    self.queries.deadline(&local, &mut lend(&mut step, self.membership.links()));
                }
                if rest_is_due && self.health.next_deadline().is_some_and(|due| due <= now) {
                    self.health.deadline(now, step.rng);
                }
                Ok(())
            }
            Input::Start => {
                self.membership.start(&mut step);
                Ok(())
            }
            Input::Hail { addrs } => {
                self.membership.hail(&addrs, &mut step);
                Ok(())
            }
            Input::Leave => {
                if let Some(payload) = self.facts.leave() {
                    let mut cx = lend(&mut step, self.membership.links());
                    // Should it be refused, others find out by asking.
                    let _ = self.broadcast.publish(Channel::Facts, payload, &mut cx);
                }
                self.membership.leave(&mut step);
                Ok(())
            }
            Input::Broadcast { payload } => {
                let mut cx = lend(&mut step, self.membership.links());
                self.broadcast.publish(Channel::App, payload, &mut cx).map(drop)
            }
            Input::Ask { ticket, question } => self.ask(ticket, question, &mut step),
            Input::Report { host, reach } => {
                self.health.report(host, reach, self.facts.hosts_len(), now, step.rng)
            }
            Input::Publish { key, value } => {
                self.facts.publish(&key, &value, &mut lend(&mut step, self.membership.links()))
            }
            Input::Retract { key } => self.facts.retract(&key, &mut lend(&mut step, self.membership.links())),
            Input::Set { key, version, value } => {
                let mut cx = lend(&mut step, self.membership.links());
                self.facts.set(&key, version, value.as_deref(), &mut cx)
            }
        };
        if self.membership.is_at_a_loss() {
            self.offer_known_addresses(&mut step);
        }
        if !only_membership || self.membership.has_changes() {
            self.tell_changes(&mut step);
            self.route(&mut step);
            self.rest_due = self.next_of_the_rest();
        }
        if let Err(refused) = &result {
            self.membership.note(refused);
        }
        for effect in &out.effects[before..] {
            if let Effect::Send { to, .. } = effect {
                self.membership.sent(*to, now);
            }
        }
        result
    }

    /// When to bring [`Input::Deadline`]; ask again after each [`Flock::handle`].
    pub fn next_deadline(&self) -> Option<Time> {
        [self.membership.next_deadline(), self.rest_due].into_iter().flatten().min()
    }

    fn next_of_the_rest(&self) -> Option<Time> {
        let parts = [
            self.broadcast.next_deadline(),
            self.facts.next_deadline(),
            self.queries.next_deadline(),
            self.health.next_deadline(),
        ];
        parts.into_iter().flatten().min()
    }

    /// Reads here and there in the state, so that it comes into the processor's caches; what it gives means nothing. For a
    /// simulator of many peers, which knows whom it will ask next. With `behind`, what lies behind pointers, for which the
    /// first has to be there already.
    /// * `first`: the first byte of the message that is about to arrive.
    pub fn touch(&self, first: Option<u8>, behind: bool) -> u64 {
        let membership = self.membership.touch(behind);
        match first {
            Some(tag) if !membership::is_tag(tag) => {
                let rest = match behind {
                    true => self.next_of_the_rest(),
                    false => {
                        [self.facts.next_deadline(), self.queries.next_deadline()].into_iter().max().flatten()
                    }
                };
                membership ^ self.broadcast.touch(behind) ^ rest.map_or(self.incarnation, |due| due.0)
            }
            _ => membership ^ self.rest_due.map_or(0, |due| due.0),
        }
    }

    /// The active view.
    pub fn links(&self) -> &Links {
        self.membership.links()
    }

    /// The views, and what happened to them.
    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    /// The trees, and what went along them.
    pub fn broadcast(&self) -> &Broadcast {
        &self.broadcast
    }

    /// What is known of all peers, and the settings.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The questions being asked and answered.
    pub fn queries(&self) -> &Queries {
        &self.queries
    }

    /// Who is suspected, avoided or tried.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// Who this is.
    pub fn me(&self) -> Peer {
        self.me
    }

    /// What to start the next run with: neighbours first, then the address book. Its incarnation is one more than
    /// that of this run.
    pub fn remember(&self) -> Remembered {
        Remembered { addrs: self.membership.remember(), incarnation: self.incarnation + 1 }
    }

    /// Bytes held, inline and on the heap, without what all peers of a process share, without the payloads kept
    /// for grafts, which are [`Broadcast::kept_bytes`], and without [`Facts::state_bytes`], [`Queries::state_bytes`] and
    /// [`Health::state_bytes`], which are small while nothing is asked and all are well.
    pub fn state_bytes(&self) -> usize {
        size_of::<Self>()
            - size_of::<Membership>()
            - size_of::<Broadcast>()
            - size_of::<Facts>()
            - size_of::<Queries>()
            - size_of::<Health>()
            + self.membership.state_bytes()
            + self.broadcast.state_bytes()
    }

    fn receive(&mut self, from: Peer, bytes: Frame, step: &mut Step<'_>) -> Result<(), Refused> {
        if from.id == self.me.id || from.addr == self.me.addr {
            return Err(Refused::Implausible("it comes from this peer itself"));
        }
        let (tag, reader) = Reader::new(bytes)?;
        let link = self.membership.heard(from, step.now);
        if membership::is_tag(tag) {
            return self.membership.handle(from, tag, reader, step);
        }
        if matches!(tag, facts::tag::PROBE | facts::tag::ANSWER) {
            return self.facts.handle(from, link, tag, reader, &mut lend(step, self.membership.links()));
        }
        if tag >> 4 == 4 {
            // From anyone: who lost its way up the tree answers the asker directly.
            let local = View { facts: &self.facts, me: self.me.id, links: self.membership.links() };
            let mut cx = lend(step, self.membership.links());
            return self.queries.handle(from, tag, reader, &local, &mut cx);
        }
        // Everything else is between neighbours.
        let Some(link) = link else { return Err(self.membership.disown(from, step)) };
        let mut cx = lend(step, self.membership.links());
        match tag >> 4 {
            2 => self.broadcast.handle(link, tag, reader, &mut cx),
            3 => self.facts.handle(from, Some(link), tag, reader, &mut cx),
            _ => Err(crate::wire::DecodeError::Tag(tag).into()),
        }
    }

    /// The membership has tried all its contacts: peers of whom there are facts may still be there.
    fn offer_known_addresses(&mut self, step: &mut Step<'_>) {
        let known = self.facts.hosts_len();
        let every = known.div_ceil(ADDRESSES_OFFERED).max(1);
        let first = step.rng.random_range(0..every);
        let hosts = self.facts.hosts().skip(first).step_by(every);
        let addrs: Vec<Addr> = hosts.filter_map(|host| Some(self.facts.record(host)?.addr)).collect();
        self.membership.take_help(&addrs, step);
    }

    /// Tells the other parts which links came up and went down.
    fn tell_changes(&mut self, step: &mut Step<'_>) {
        for change in self.membership.take_changes() {
            let mut cx = lend(step, self.membership.links());
            match change {
                Change::Up(link) => {
                    self.broadcast.link_up(link, &mut cx);
                    self.facts.link_up(link, &mut cx);
                }
                Change::Down(link, neighbour) => {
                    self.broadcast.link_down(link, &mut cx);
                    self.facts.link_down(link, &neighbour, &mut cx);
                    let local = View { facts: &self.facts, me: self.me.id, links: self.membership.links() };
                    self.queries.link_down(link, neighbour.peer, &local, &mut cx);
                }
            }
        }
    }

    /// Takes what broadcasts brought to the parts they are for, and what those want to say to the broadcast.
    fn route(&mut self, step: &mut Step<'_>) {
        loop {
            while let Some(event) = self.broadcast.next_event() {
                self.routed(event, step);
            }
            let facts = self.facts.take_broadcast().map(|payload| (Channel::Facts, payload));
            let Some((channel, payload)) =
                facts.or_else(|| self.health.take_payload().map(|payload| (Channel::Health, payload)))
            else {
                break;
            };
            let mut cx = lend(step, self.membership.links());
            // Should it be refused, neighbours find what differs when they next compare, and the next report of a peer out
            // of reach says it again.
            let _ = self.broadcast.publish(channel, payload, &mut cx);
        }
        while let Some(event) = self.facts.take_event() {
            step.out.effects.push(Effect::Told(Told::Facts(event)));
        }
        for query::Event::Answered(answer) in self.queries.take_events() {
            step.out.effects.push(Effect::Told(Told::Answered(answer)));
        }
        for changed in self.health.take_changes() {
            // Whom so many cannot reach is dialled last, and not named to others. A link of ours that works stays.
            if let health::State::Avoided { .. } = changed.state
                && let Some(record) = self.facts.record(changed.host)
            {
                self.membership.avoid(record.addr);
            }
            step.out.effects.push(Effect::Told(Told::Health(changed)));
        }
    }

    fn routed(&mut self, event: Event, step: &mut Step<'_>) {
        let mut cx = lend(step, self.membership.links());
        let local = View { facts: &self.facts, me: self.me.id, links: self.membership.links() };
        // What a part refuses it counts; the broadcast itself was in order.
        match event {
            Event::Delivered { id, channel: Channel::App, payload, hops, .. } => {
                if id.origin != self.me.id {
                    cx.out.effects.push(Effect::Deliver { origin: id.origin, payload, hops });
                }
            }
            Event::Delivered { id, channel: Channel::Facts, payload, from, .. } => {
                let _ = self.facts.delivered(&payload, id.origin, from, &mut cx);
            }
            Event::Delivered { id, channel: Channel::Query, payload, hops, from, forwarded } => {
                let id = query_id(id);
                let _ = self.queries.delivered(id, &payload, hops, from, forwarded, &local, &mut cx);
            }
            Event::Delivered { id, channel: Channel::Health, payload, .. } => {
                let _ = self.health.delivered(id.origin, &payload, cx.now);
            }
            Event::Declined { id, link } => self.queries.declined(query_id(id), link, &local, &mut cx),
            Event::Again { id, link } => self.queries.again(query_id(id), link, &mut cx),
            Event::Grafted { id, link } => self.queries.grafted(query_id(id), link, &cx),
        }
    }

    /// Asks all peers; the answer comes as [`Told::Answered`].
    fn ask(&mut self, ticket: u64, question: query::Question, step: &mut Step<'_>) -> Result<(), Refused> {
        let payload = self.queries.ask(&question, self.me)?;
        let mut cx = lend(step, self.membership.links());
        let id = self.broadcast.publish(Channel::Query, payload, &mut cx)?;
        let local = View { facts: &self.facts, me: self.me.id, links: self.membership.links() };
        self.queries.begin(query_id(id), ticket, question, &local, &cx);
        Ok(())
    }
}

/// A query goes by the name of the broadcast that carried it.
fn query_id(id: broadcast::MessageId) -> QueryId {
    QueryId { origin: id.origin, incarnation: id.incarnation, seq: id.seq }
}

/// What questions see of this peer: its own facts, and `flock.links`, the number of its active links.
struct View<'a> {
    facts: &'a Facts,
    me: HostId,
    links: &'a Links,
}

impl query::Local for View<'_> {
    fn value(&self, key: &str) -> Option<query::Value> {
        match key {
            "flock.links" => Some(query::Value::int(self.links.len() as i64)),
            _ => self.facts.get(self.me, key).map(query::Value::from_fact),
        }
    }

    fn known(&self, each: &mut dyn FnMut(HostId)) {
        self.facts.hosts().for_each(each);
    }
}

/// What a step lends to the parts that may read the links but not change them.
fn lend<'a>(step: &'a mut Step<'_>, links: &'a Links) -> Cx<'a> {
    Cx { now: step.now, rng: step.rng, me: step.me, links, out: step.out }
}
