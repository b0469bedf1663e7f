//! How links come about: a newcomer is spread over the network, random walks look for places, and a link is taken
//! apart to let somebody in.

use super::{Membership, Message, Phase, Step, Want};
use crate::addr::Peer;
use crate::io::{Down, Effect, Refused};
use crate::links::{Link, LinkSet};
use rand::RngExt;
use std::time::Duration;

/// A walk that comes to somebody who is the joiner's neighbour already goes on; so it may end this many hops early.
const SPARE_HOPS: u8 = 2;

/// A link younger than this is the last to be given up when there are too many.
const YOUNG: Duration = Duration::from_secs(2);

impl Membership {
    /// A newcomer came to us as its contact. It becomes a neighbour if there is room anyway, and its search begins.
    pub(super) fn handle_join(&mut self, from: Peer, step: &mut Step<'_>) -> Result<(), Refused> {
        self.serve(step.now)?;
        self.forget_past_links(from, step);
        if self.links.len() < self.config.active {
            if self.phase != Phase::Settled && self.refill.joins() {
                self.begin_to_move();
            }
            self.make_link(from, step);
        } else {
            self.hear_of(from.addr, step);
        }
        self.spread(None, self.config.spread_hops, from, step);
        Ok(())
    }

    /// A newcomer on its way to where its walks part.
    pub(super) fn handle_spread(
        &mut self,
        from: Peer,
        link: Option<Link>,
        hops: u8,
        joiner: Peer,
        step: &mut Step<'_>,
    ) -> Result<(), Refused> {
        self.relay_for(from, link, step)?;
        if joiner != step.me {
            self.hear_of(joiner.addr, step);
            self.spread(link, hops, joiner, step);
        }
        Ok(())
    }

    /// Whether something on its way through the network is taken from there: only from neighbours, past ones for a while
    /// included, and only so much.
    fn relay_for(&mut self, from: Peer, link: Option<Link>, step: &mut Step<'_>) -> Result<(), Refused> {
        if link.is_none() && !self.is_past(from, step.now) {
            return Err(self.disown(from, step));
        }
        self.serve(step.now)
    }

    fn spread(&mut self, from: Option<Link>, hops: u8, joiner: Peer, step: &mut Step<'_>) {
        let mut back = LinkSet::default();
        from.into_iter().chain(self.links.find(joiner)).for_each(|link| back.insert(link));
        if hops > 0
            && let Some(next) = self.any_link(back, step)
        {
            return self.pass(next, &Message::Spread { hops: hops - 1, joiner }, step);
        }
        let twos = self.config.active / 2;
        let mut used = back;
        for at in 0..twos + self.config.active % 2 {
            let want = if at < twos { Want::Two } else { Want::One };
            let next = self.any_link(used, step).or_else(|| {
                let mut joiners = LinkSet::default();
                self.links.find(joiner).into_iter().for_each(|link| joiners.insert(link));
                self.any_link(joiners, step)
            });
            match next {
                Some(next) => {
                    used.insert(next);
                    let hops = self.config.walk_hops;
                    self.pass(next, &Message::Walk { want, hops: hops.saturating_sub(1), joiner }, step);
                }
                None if self.links.find(joiner).is_none() => self.settle(want, joiner, step),
                None => {}
            }
        }
    }

    /// Somebody's search for links, here for a hop or at its end.
    pub(super) fn handle_walk(
        &mut self,
        from: Peer,
        link: Option<Link>,
        want: Want,
        hops: u8,
        joiner: Peer,
        step: &mut Step<'_>,
    ) -> Result<(), Refused> {
        self.relay_for(from, link, step)?;
        if joiner == step.me {
            return Ok(());
        }
        self.hear_of(joiner.addr, step);
        let known = self.links.find(joiner);
        let suits = want == Want::One && self.links.len() != self.config.active;
        if known.is_none() && (suits || hops <= SPARE_HOPS) {
            self.settle(want, joiner, step);
            return Ok(());
        }
        let mut back = LinkSet::default();
        link.into_iter().chain(known).for_each(|link| back.insert(link));
        match self.any_link(back, step) {
            Some(next) if hops > 0 => self.pass(next, &Message::Walk { want, hops: hops - 1, joiner }, step),
            _ if known.is_none() => self.settle(want, joiner, step),
            _ => {}
        }
        Ok(())
    }

    /// Somebody dialled us because it needs links, and gets some as if its walk had ended here.
    pub(super) fn handle_neighbour(
        &mut self,
        from: Peer,
        want: Want,
        step: &mut Step<'_>,
    ) -> Result<(), Refused> {
        self.serve(step.now)?;
        self.forget_past_links(from, step);
        self.hear_of(from.addr, step);
        self.book.trust(from.addr);
        self.settle(want, from, step);
        Ok(())
    }

    /// Somebody has taken us for a neighbour.
    pub(super) fn handle_link(
        &mut self,
        from: Peer,
        link: Option<Link>,
        known: &[crate::Addr],
        step: &mut Step<'_>,
    ) -> Result<(), Refused> {
        self.serve(step.now)?;
        let asked = self.expected > 0 && step.now < self.expected_until;
        if link.is_none() && self.links.len() > self.config.active && !asked {
            return Err(self.disown(from, step));
        }
        if link.is_none() {
            self.bring_up(from, step);
        }
        known.iter().for_each(|addr| self.hear_of(*addr, step));
        self.introduce_surplus(step);
        Ok(())
    }

    /// A neighbour has dropped us, perhaps for somebody who now expects a link from us.
    pub(super) fn handle_unlink(
        &mut self,
        from: Peer,
        link: Option<Link>,
        instead: Option<Peer>,
        leaves: bool,
        step: &mut Step<'_>,
    ) -> Result<(), Refused> {
        let Some(neighbour) = link.and_then(|link| self.take_down(link, Down::Dropped, step)) else {
            // It declines a link that we offered, and so it lives.
            self.book.trust(from.addr);
            return Err(Refused::Stale);
        };
        step.out.effects.push(Effect::Close { to: from.addr });
        if leaves {
            self.book.forget(neighbour.peer.addr);
        } else {
            self.book.make_passive(neighbour.peer.addr, self.config.limits(), step.rng);
        }
        if let Some(instead) = instead.filter(|it| it.id != step.me.id && it.addr != step.me.addr)
            && self.links.find(instead).is_none()
        {
            self.make_link(instead, step);
        }
        Ok(())
    }

    /// Takes the peer for a neighbour, and says so.
    pub(super) fn make_link(&mut self, peer: Peer, step: &mut Step<'_>) {
        if self.bring_up(peer, step).is_some() {
            let known = self.book.sample(self.config.link_known, step.rng);
            self.send(peer.addr, &Message::Link { known }, step);
            self.introduce_surplus(step);
        }
    }

    /// Starts a walk of our own.
    pub(super) fn walk(&mut self, want: Want, step: &mut Step<'_>) {
        if let Some(next) = self.any_link(LinkSet::default(), step) {
            self.expect(if want == Want::Two { 2 } else { 1 }, step.now);
            let message = Message::Walk { want, hops: self.config.walk_hops, joiner: step.me };
            self.pass(next, &message, step);
        }
    }

    /// The search of somebody who is no neighbour ends here.
    fn settle(&mut self, want: Want, joiner: Peer, step: &mut Step<'_>) {
        let (links, active) = (self.links.len(), self.config.active);
        match want {
            _ if links < active => self.make_link(joiner, step),
            Want::One if links == active => self.make_link(joiner, step),
            Want::One => self.hand_over(joiner, step),
            Want::Two => {
                self.hand_over(joiner, step);
                self.make_link(joiner, step);
            }
        }
    }

    /// Drops a neighbour and points it at somebody else.
    fn hand_over(&mut self, to: Peer, step: &mut Step<'_>) {
        if let Some(link) = self.any_link(LinkSet::default(), step)
            && let Some(neighbour) = self.take_down(link, Down::Dropped, step)
        {
            self.counters.entered += 1;
            self.part_from(neighbour.peer, Some(to), step);
        }
    }

    /// With two links too many, introduces two neighbours to each other and drops both.
    fn introduce_surplus(&mut self, step: &mut Step<'_>) {
        while self.links.len() >= self.config.active + 2 {
            let mut young = LinkSet::default();
            let old_enough = |since: crate::Time| step.now.since(since) >= YOUNG;
            self.links
                .iter()
                .filter(|(_, it)| !old_enough(it.since))
                .for_each(|(link, _)| young.insert(link));
            if self.links.len() < young.len() + 2 {
                young = LinkSet::default();
            }
            let Some(one) = self.any_link(young, step) else { return };
            young.insert(one);
            let Some(other) = self.any_link(young, step) else { return };
            let (Some(one), Some(other)) =
                (self.take_down(one, Down::Dropped, step), self.take_down(other, Down::Dropped, step))
            else {
                return;
            };
            self.counters.introduced += 1;
            self.part_from(one.peer, Some(other.peer), step);
            self.part_from(other.peer, None, step);
        }
    }

    fn part_from(&mut self, peer: Peer, instead: Option<Peer>, step: &mut Step<'_>) {
        // It closes the connection, not we: what it has on the way to us should still arrive.
        self.send(peer.addr, &Message::Unlink { instead }, step);
        self.book.make_passive(peer.addr, self.config.limits(), step.rng);
    }

    /// Somebody who asks for a link has none with us, whatever we believe: it restarted, or forgot us.
    fn forget_past_links(&mut self, from: Peer, step: &mut Step<'_>) {
        let past: Vec<Link> = self
            .links
            .iter()
            .filter(|(_, it)| it.peer.id == from.id || it.peer.addr == from.addr)
            .map(|(link, _)| link)
            .collect();
        for link in past {
            self.take_down(link, Down::Dropped, step);
        }
    }

    fn pass(&mut self, next: Link, message: &Message, step: &mut Step<'_>) {
        if let Some(neighbour) = self.links.get(next) {
            let to = neighbour.peer.addr;
            self.send(to, message, step);
        }
    }

    /// True once in `n` times.
    pub(super) fn once_in(&self, n: u32, step: &mut Step<'_>) -> bool {
        step.rng.random_range(0..n.max(1)) == 0
    }
}
