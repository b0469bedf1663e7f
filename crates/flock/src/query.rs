//! Questions to all peers about their own facts, answered up the asker's broadcast tree.
//!
//! The question travels as a broadcast ([`Channel::Query`](crate::broadcast::Channel)). Whoever forwarded it to a peer is its
//! parent; those to whom it forwards it are its children, until they decline (they had it already) or others take it from it after
//! all. A peer merges what its children answer into its own and sends that to its parent, once: when all children have answered,
//! declined or vanished, or when its share of the time is used up (as in TAG: Madden et al., OSDI 2002, whose deeper nodes too
//! answer earlier). In a settled tree that is one message down and one up for each peer.
//!
//! **Nobody is counted twice.** A partial answer says whom it counts, by ID, so two that overlap are seen to, whatever happened on
//! the way. That is what lets a peer be generous when its way up breaks: if its parent vanishes before or after it answered, or had
//! answered already, it sends its partial answer straight to the asker, as a *stray*. The asker keeps strays aside until
//! the tree has answered, and then takes in, largest first, those of whom nobody is counted yet. Sets of honest peers are nested
//! or disjoint (a peer's set contains its children's whole), so that takes the most that can be taken. The price is about 8
//! bytes for each peer and hop; the gain beside the safety is that an answer can name who is missing.
//!
//! **Nobody is silently left out.** A partial answer also says who was asked in vain. The asker counts as missing all of them, and all
//! that it knows from facts, who are not counted in the end; see [`Coverage`].
//!
//! What it cannot do: a peer that lies about its facts, or about peers that it claims to speak for, is believed as far as its numbers
//! are possible ones; and peers it claims are not counted again when they speak for themselves.

pub mod aggregate;
pub mod answer;
mod asking;
pub mod exact;
pub mod filter;
pub mod labels;
pub mod message;
mod parse;
pub mod peers;
pub mod tally;
#[cfg(test)]
mod tests;
pub mod value;

pub use aggregate::{Aggregate, End};
pub use answer::{Answer, Coverage};
pub use filter::{Compare, Filter};
pub use message::{Asked, Message, Partial, QueryId, Question};
pub use parse::ParseError;
pub use peers::{PEERS_MAX, PeerSet};
pub use tally::{Found, Tally};
pub use value::{Number, Value};

use crate::addr::Peer;
use crate::io::{Cx, Refused};
use crate::links::{LINKS_MAX, Link, LinkSet};
use crate::time::Time;
use crate::wire::Reader;
use asking::Asking;
use bytes::Bytes;
use skein_model::HostId;
use std::sync::Arc;
use std::time::Duration;

/// The knobs of queries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Questions that a peer answers at a time; 8 to 1,000. Beyond, it says so to its parent at once and is missing in the answer.
    pub running_max: usize,
    /// Questions that a peer asks at a time, and that are answered for any one asker; 1 to 100.
    pub asking_max: usize,
    /// The shortest time a question may give; 50 ms to 1 s.
    pub within_min: Duration,
    /// The longest; 10 s to 5 min. A peer remembers a question that long, and its own partial answer with it.
    pub within_max: Duration,
    /// By how many hops a question's time is divided; see [`Asked::share`]. Somewhat above the depth of the tree (10,000 peers
    /// with five links each: 8 to 9 hops); 8 to 60.
    pub depth: u8,
    /// How long the asker waits for more once the tree has answered without losing anybody, but known peers are missing: they may
    /// have got the question late, or be dead without its having been noticed. As long as the broadcast takes for a repair;
    /// 200 ms to 5 s.
    pub late: Duration,
    /// How long it waits when peers were lost, after the last stray came in: as long as silent death takes to be noticed, and
    /// then some; 1 s to 10 s.
    pub silent: Duration,
    /// Most strays the asker keeps for a question; 1,000 to 100,000.
    pub strays_max: usize,
    /// Most peers in them taken together, at 8 bytes each; 10,000 to 10 million.
    pub stray_peers_max: usize,
    /// Most strays from one peer: its own, and those it passes on for children; more than [`LINKS_MAX`].
    pub strays_each_max: u8,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            running_max: 64,
            asking_max: 16,
            within_min: Duration::from_millis(100),
            within_max: Duration::from_secs(60),
            depth: 20,
            late: Duration::from_secs(1),
            silent: Duration::from_secs(4),
            strays_max: 16_384,
            stray_peers_max: 1 << 20,
            strays_each_max: 2 * LINKS_MAX as u8,
        }
    }
}

/// What a query sees of the peer that it runs on.
pub trait Local {
    /// What this peer publishes about itself under a key.
    fn value(&self, key: &str) -> Option<Value>;

    /// Calls `each` for every peer of whom there are facts, in any order, our own included or not.
    fn known(&self, each: &mut dyn FnMut(HostId));
}

/// What the owner of the flock is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// One of our own questions is answered.
    Answered(Box<Answer>),
}

/// What was counted since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Questions we answered, in full or in part.
    pub questions: u64,
    /// Questions we could not take because too many were running.
    pub busy: u64,
    /// Questions of our own that were answered.
    pub asked: u64,
    /// Partial answers taken in from children.
    pub partials_in: u64,
    /// Partial answers sent to parents.
    pub partials_out: u64,
    /// Strays kept as the asker.
    pub strays_in: u64,
    /// Strays sent to askers, those for children included.
    pub strays_out: u64,
    /// Bytes of all of our messages about queries.
    pub bytes_out: u64,
    /// Messages that could not be read.
    pub malformed: u64,
    /// Partial answers from peers that are not our children.
    pub strangers: u64,
    /// What was said twice or about a query that is over.
    pub stale: u64,
    /// What could not be so.
    pub implausible: u64,
    /// Strays beyond what the asker has room for.
    pub flooded: u64,
}

impl Counters {
    fn sent(&mut self, bytes: &Bytes, stray: bool) {
        self.bytes_out += bytes.len() as u64;
        if stray {
            self.strays_out += 1;
        } else {
            self.partials_out += 1;
        }
    }
}

/// How a child stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Its answer is awaited.
    Waiting,
    /// It had the question from elsewhere; should it answer nonetheless, that counts.
    Declined,
    /// It has answered.
    Answered,
    /// The link to it went down first.
    Gone,
}

#[derive(Clone, Copy, Debug)]
struct Child {
    host: HostId,
    link: Link,
    standing: Standing,
}

/// Where our partial answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Up {
    /// We asked ourselves.
    Asker,
    /// To the neighbour that asked us.
    Parent(Peer),
    /// It is gone: straight to the asker.
    Orphan,
}

/// A question being answered, or answered and not yet forgotten.
#[derive(Debug)]
struct Running {
    id: QueryId,
    asked: Arc<Asked>,
    up: Up,
    children: Vec<Child>,
    partial: Partial,
    /// Whether our partial answer went up; it is kept, should the parent vanish after all.
    answered: bool,
    /// When to answer with what there is.
    due: Time,
    /// When nobody wants to know any more.
    forget: Time,
}

impl Running {
    fn is_waiting(&self) -> bool {
        self.children.iter().any(|child| child.standing == Standing::Waiting)
    }

    fn send_up(&self, counters: &mut Counters, cx: &mut Cx) {
        let (id, body) = (self.id, self.partial.encode());
        let (to, message) = match self.up {
            Up::Asker => return,
            Up::Parent(parent) => (parent.addr, Message::Partial { id, body }),
            Up::Orphan => (self.asked.asker.addr, Message::Stray { id, body }),
        };
        let bytes = message.encode();
        counters.sent(&bytes, self.up == Up::Orphan);
        cx.out.send(to, bytes);
    }

    fn next(&self) -> Time {
        if self.answered { self.forget } else { self.due.min(self.forget) }
    }
}

/// All queries of one peer: those it asks and those it helps to answer.
#[derive(Debug)]
pub struct Queries {
    config: Arc<Config>,
    running: Vec<Running>,
    asking: Vec<Asking>,
    events: Vec<Event>,
    counters: Box<Counters>,
}

impl Queries {
    /// Without any.
    pub fn new(config: Arc<Config>) -> Self {
        let counters = Box::default();
        Self { config, running: Vec::new(), asking: Vec::new(), events: Vec::new(), counters }
    }

    /// What was counted.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// What happened since the last time, in order.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// Bytes in memory, heap included. Nothing but the struct itself while no query runs.
    pub fn state_bytes(&self) -> usize {
        let running: usize = self
            .running
            .iter()
            .map(|run| {
                let sets = run.partial.peers.heap_bytes() + run.partial.lost.heap_bytes();
                sets + run.partial.tally.heap_bytes() + run.children.capacity() * size_of::<Child>()
            })
            .sum();
        size_of::<Self>()
            + size_of::<Counters>()
            + running
            + self.running.capacity() * size_of::<Running>()
            + self.asking.iter().map(Asking::heap_bytes).sum::<usize>()
            + self.asking.capacity() * size_of::<Asking>()
    }

    /// When to call [`Queries::deadline`].
    pub fn next_deadline(&self) -> Option<Time> {
        self.running.iter().map(Running::next).min()
    }

    /// The payload to broadcast for a question; then comes [`Queries::begin`].
    /// * Errors: [`Refused::Implausible`] for a question beyond the limits, [`Refused::Flood`] when too many are being asked.
    pub fn ask(&mut self, question: &Question, me: Peer) -> Result<Bytes, Refused> {
        let fault = question.filter.fault().or_else(|| question.aggregate.fault());
        let within = self.config.within_min..=self.config.within_max;
        let fault =
            fault.or((!within.contains(&question.within)).then_some("the time given is out of range"));
        if let Some(fault) = fault {
            self.counters.implausible += 1;
            return Err(Refused::Implausible(fault));
        }
        if self.asking.len() >= self.config.asking_max {
            self.counters.flooded += 1;
            return Err(Refused::Flood);
        }
        Ok(Asked { asker: me, depth: self.config.depth, question: question.clone() }.encode())
    }

    /// A question of ours went out as this broadcast, whose own delivery is still to be told to [`Queries::delivered`].
    pub fn begin(&mut self, id: QueryId, ticket: u64, question: Question, local: &dyn Local, cx: &Cx) {
        let deadline = cx.now + question.within;
        let asked = Arc::new(Asked { asker: cx.me, depth: self.config.depth, question });
        self.asking.push(Asking::new(id, ticket, cx.now));
        self.running.push(Running {
            id,
            partial: own(&asked.question, cx.me.id, local),
            asked,
            up: Up::Asker,
            children: Vec::new(),
            answered: false,
            due: deadline,
            forget: deadline,
        });
    }

    /// A question arrived by broadcast: `from` a link or, for our own, `None`, and was `forwarded` over others.
    /// * Errors: [`Refused::Malformed`], [`Refused::Implausible`] when it speaks for another than who broadcast it or gives a time
    ///   out of range, [`Refused::Stale`] when it runs already. When too many run it is not refused but answered at once:
    ///   with nothing.
    #[expect(clippy::too_many_arguments, reason = "it is what the broadcast tells of a delivery")]
    pub fn delivered(
        &mut self,
        id: QueryId,
        payload: &Bytes,
        hops: u8,
        from: Option<Link>,
        forwarded: LinkSet,
        local: &dyn Local,
        cx: &mut Cx,
    ) -> Result<(), Refused> {
        let children = forwarded.iter().filter_map(|link| {
            let host = cx.links.get(link)?.peer.id;
            Some(Child { host, link, standing: Standing::Waiting })
        });
        let children: Vec<Child> = children.collect();
        if let Some(at) = self.find(id) {
            let run = &mut self.running[at];
            if run.up != Up::Asker || from.is_some() || !run.children.is_empty() {
                self.counters.stale += 1;
                return Err(Refused::Stale);
            }
            run.children = children;
            self.proceed(at, local, cx);
            return Ok(());
        }
        let asked = Asked::decode(payload).inspect_err(|_| self.counters.malformed += 1)?;
        let within = asked.question.within;
        if asked.asker.id != id.origin || id.origin == cx.me.id || within > self.config.within_max {
            self.counters.implausible += 1;
            return Err(Refused::Implausible("a question that its asker cannot have asked"));
        }
        let parent = from.and_then(|link| cx.links.get(link)).map(|neighbour| neighbour.peer);
        let up = parent.map_or(Up::Orphan, Up::Parent);
        let mut run = Running {
            id,
            partial: Partial::empty(&asked.question.aggregate),
            up,
            children,
            answered: false,
            due: cx.now + asked.share(hops),
            forget: cx.now + within,
            asked: Arc::new(asked),
        };
        let of_origin = self.running.iter().filter(|other| other.id.origin == id.origin).count();
        if self.running.len() >= self.config.running_max || of_origin >= self.config.asking_max {
            self.counters.busy += 1;
            run.partial.lost = run.children.iter().map(|child| child.host).chain([cx.me.id]).collect();
            run.send_up(&mut self.counters, cx);
            return Ok(());
        }
        self.counters.questions += 1;
        run.partial = own(&run.asked.question, cx.me.id, local);
        self.running.push(run);
        self.proceed(self.running.len() - 1, local, cx);
        Ok(())
    }

    /// The neighbour that we forwarded the question to had it already.
    pub fn declined(&mut self, id: QueryId, link: Link, local: &dyn Local, cx: &mut Cx) {
        let Some(at) = self.find(id) else { return };
        let waits = |child: &&mut Child| child.link == link && child.standing == Standing::Waiting;
        if let Some(child) = self.running[at].children.iter_mut().find(waits) {
            child.standing = Standing::Declined;
            self.proceed(at, local, cx);
        }
    }

    /// The question came again from a neighbour that thinks we had it from there alone, and would wait for our answer.
    pub fn again(&mut self, id: QueryId, link: Link, cx: &mut Cx) {
        let (Some(at), Some(neighbour)) = (self.find(id), cx.links.get(link)) else { return };
        if self.running[at].up != Up::Parent(neighbour.peer) {
            let bytes = Message::Elsewhere { id }.encode();
            self.counters.bytes_out += bytes.len() as u64;
            cx.out.send(neighbour.peer.addr, bytes);
        }
    }

    /// The neighbour took the question from us after all, though we had not forwarded it.
    pub fn grafted(&mut self, id: QueryId, link: Link, cx: &Cx) {
        let (Some(at), Some(neighbour)) = (self.find(id), cx.links.get(link)) else { return };
        let (host, children) = (neighbour.peer.id, &mut self.running[at].children);
        match children.iter().position(|child| child.host == host) {
            Some(at) if children[at].standing == Standing::Answered => {}
            Some(at) => children[at] = Child { host, link, standing: Standing::Waiting },
            // Links come and go while a question runs; only a liar sees to it that so many do.
            None if children.len() >= 4 * LINKS_MAX => {}
            None => children.push(Child { host, link, standing: Standing::Waiting }),
        }
    }

    /// The link to a neighbour is down.
    pub fn link_down(&mut self, link: Link, neighbour: Peer, local: &dyn Local, cx: &mut Cx) {
        for at in (0..self.running.len()).rev() {
            let run = &mut self.running[at];
            if run.up == Up::Parent(neighbour) {
                run.up = Up::Orphan;
                if run.answered {
                    // Whether the parent passed our answer on nobody can tell us; the asker will see.
                    run.send_up(&mut self.counters, cx);
                    continue;
                }
            }
            let waits = |child: &&mut Child| child.link == link && child.standing == Standing::Waiting;
            if let Some(child) = run.children.iter_mut().find(waits) {
                child.standing = Standing::Gone;
                run.partial.lost.merge(&PeerSet::of(child.host));
                self.proceed(at, local, cx);
            }
        }
    }

    /// A message of ours arrived from a peer, neighbour or not.
    /// * Errors: [`Refused::Malformed`]; [`Refused::Stale`] when it was said before or the query is over; [`Refused::Stranger`] when
    ///   only a child may say it; [`Refused::Implausible`]; [`Refused::Flood`].
    pub fn handle(
        &mut self,
        from: Peer,
        tag: u8,
        reader: Reader,
        local: &dyn Local,
        cx: &mut Cx,
    ) -> Result<(), Refused> {
        let done = Message::decode(tag, reader).map_err(Refused::from).and_then(|message| match message {
            Message::Partial { id, body } => self.handle_partial(from, id, body, local, cx),
            Message::Stray { id, body } => self.handle_stray(from, id, body, local, cx),
            Message::Elsewhere { id } => {
                let at = self.find(id).ok_or(Refused::Stale)?;
                let child = self.running[at].children.iter_mut().find(|child| child.host == from.id);
                let child = child.ok_or(Refused::Stranger(from))?;
                if child.standing != Standing::Waiting {
                    return Err(Refused::Stale);
                }
                child.standing = Standing::Declined;
                self.proceed(at, local, cx);
                Ok(())
            }
        });
        match &done {
            Ok(()) => {}
            Err(Refused::Malformed(_)) => self.counters.malformed += 1,
            Err(Refused::Stranger(_)) => self.counters.strangers += 1,
            Err(Refused::Stale) => self.counters.stale += 1,
            Err(Refused::Flood) => self.counters.flooded += 1,
            Err(_) => self.counters.implausible += 1,
        }
        done
    }

    fn handle_partial(
        &mut self,
        from: Peer,
        id: QueryId,
        body: Bytes,
        local: &dyn Local,
        cx: &mut Cx,
    ) -> Result<(), Refused> {
        let at = self.find(id).ok_or(Refused::Stale)?;
        let run = &mut self.running[at];
        let child = run.children.iter_mut().find(|child| child.host == from.id);
        let child = child.ok_or(Refused::Stranger(from))?;
        if child.standing == Standing::Answered {
            return Err(Refused::Stale);
        }
        let partial = sound(&body, &run.asked)?;
        if !partial.peers.has(from.id) && !partial.lost.has(from.id) {
            return Err(Refused::Implausible("a partial answer without its sender"));
        }
        if !partial.peers.is_disjoint(&run.partial.peers) {
            return Err(Refused::Implausible("a partial answer that counts others again"));
        }
        child.standing = Standing::Answered;
        self.counters.partials_in += 1;
        let full = run.partial.peers.len() + partial.peers.len() > PEERS_MAX && run.up != Up::Asker;
        if run.answered || full {
            // Too late for our own answer, or too much: the asker takes it as it is.
            let bytes = Message::Stray { id, body }.encode();
            let asker = run.asked.asker;
            self.counters.sent(&bytes, true);
            cx.out.send(asker.addr, bytes);
        } else {
            run.partial.merge(partial, &run.asked.question.aggregate);
        }
        self.proceed(at, local, cx);
        Ok(())
    }

    fn handle_stray(
        &mut self,
        from: Peer,
        id: QueryId,
        body: Bytes,
        local: &dyn Local,
        cx: &mut Cx,
    ) -> Result<(), Refused> {
        let at = self.find(id).ok_or(Refused::Stale)?;
        let run = &self.running[at];
        if run.up != Up::Asker {
            return Err(Refused::Implausible("a stray to a peer that did not ask"));
        }
        let partial = sound(&body, &run.asked)?;
        let own = partial.peers.has(from.id);
        let asking = self.asking.iter_mut().find(|asking| asking.id == id).ok_or(Refused::Stale)?;
        asking.keep(from.id, partial, &self.config)?;
        self.counters.strays_in += 1;
        // A child that sends a stray has lost the link to us, and will not answer over it any more. What it says is kept aside
        // like any stray: perhaps another was its parent, and passed it on.
        let run = &mut self.running[at];
        let waits = |child: &&mut Child| child.host == from.id && child.standing == Standing::Waiting;
        if let Some(child) = run.children.iter_mut().find(waits).filter(|_| own) {
            child.standing = Standing::Gone;
            run.partial.lost.merge(&PeerSet::of(from.id));
        }
        self.proceed(at, local, cx);
        Ok(())
    }

    /// The moment that [`Queries::next_deadline`] named has come.
    pub fn deadline(&mut self, local: &dyn Local, cx: &mut Cx) {
        for at in (0..self.running.len()).rev() {
            let run = &mut self.running[at];
            if run.next() > cx.now {
                continue;
            }
            let late = run.children.iter().filter(|child| child.standing == Standing::Waiting);
            let late: PeerSet = late.map(|child| child.host).collect();
            if run.up == Up::Asker {
                run.partial.lost.merge(&late);
                self.finish(at, local, cx.now);
            } else if run.forget <= cx.now {
                self.running.swap_remove(at);
            } else {
                run.partial.lost.merge(&late);
                self.answer(at, cx);
            }
        }
    }

    /// Answers if there is nothing left to wait for.
    fn proceed(&mut self, at: usize, local: &dyn Local, cx: &mut Cx) {
        let run = &self.running[at];
        if run.is_waiting() || run.answered {
            return;
        }
        if run.up != Up::Asker {
            return self.answer(at, cx);
        }
        let Some(asking) = self.asking.iter_mut().find(|asking| asking.id == run.id) else { return };
        match asking.wait(&run.partial, &self.config, local, cx.now) {
            Some(until) if until < run.forget => self.running[at].due = until,
            Some(_) => self.running[at].due = run.forget,
            None => self.finish(at, local, cx.now),
        }
    }

    fn answer(&mut self, at: usize, cx: &mut Cx) {
        let run = &mut self.running[at];
        run.answered = true;
        run.send_up(&mut self.counters, cx);
    }

    /// Gives the answer to our own question.
    fn finish(&mut self, at: usize, local: &dyn Local, now: Time) {
        let run = self.running.swap_remove(at);
        let Some(place) = self.asking.iter().position(|asking| asking.id == run.id) else { return };
        let asking = self.asking.swap_remove(place);
        let cut_off = run.forget <= now;
        self.counters.asked += 1;
        let answer = asking.answer(run.partial, &run.asked.question, cut_off, local, now);
        self.events.push(Event::Answered(Box::new(answer)));
    }

    fn find(&self, id: QueryId) -> Option<usize> {
        self.running.iter().position(|run| run.id == id)
    }
}

/// What this peer itself has to say.
fn own(question: &Question, me: HostId, local: &dyn Local) -> Partial {
    let matches = question.filter.holds(&|key| local.value(key));
    let tally = if matches {
        let value = question.aggregate.key().and_then(|key| local.value(key));
        Tally::of(&question.aggregate, me, value)
    } else {
        Tally::empty(&question.aggregate)
    };
    Partial { peers: PeerSet::of(me), lost: PeerSet::default(), tally }
}

/// A partial answer that can be so.
fn sound(body: &Bytes, asked: &Asked) -> Result<Partial, Refused> {
    let aggregate = &asked.question.aggregate;
    let partial = Partial::decode(body, aggregate)?;
    match partial.tally.fault(&partial.peers, aggregate) {
        Some(fault) => Err(Refused::Implausible(fault)),
        None if partial.peers.has(asked.asker.id) => {
            Err(Refused::Implausible("a partial answer that counts the asker"))
        }
        None => Ok(partial),
    }
}
