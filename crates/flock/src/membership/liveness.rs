//! Heartbeats on silent links, and a bounded detector: silence, a question, more silence, dead.

use super::{Membership, Message, Step};
use crate::addr::{Addr, Peer};
use crate::io::{Down, Effect, Refused};
use crate::links::Link;
use crate::time::Time;
use std::time::Duration;

/// Heartbeats due within this share of their interval are sent together: one wake-up serves all links.
const TOGETHER: u32 = 5;

impl Membership {
    /// Any message is a sign of life. Gives the link of the sender, if it is a neighbour.
    pub(crate) fn heard(&mut self, from: Peer, now: Time) -> Option<Link> {
        let link = self.links.find(from)?;
        let neighbour = self.links.get_mut(link)?;
        neighbour.note_heard(now);
        self.probed.remove(link);
        Some(link)
    }

    /// Any message keeps the link from falling silent.
    pub(crate) fn sent(&mut self, to: Addr, now: Time) {
        if let Some(link) = self.links.find_addr(to)
            && let Some(neighbour) = self.links.get_mut(link)
        {
            neighbour.note_sent(now);
        }
    }

    /// Sends what heartbeats are due, asks the silent, gives up the dead.
    pub(super) fn look_at_links(&mut self, step: &mut Step<'_>) {
        let (now, config) = (step.now, self.config.clone());
        let mut due = Time(u64::MAX);
        let mut dead = crate::links::LinkSet::default();
        for link in self.links.set().iter() {
            let Some(neighbour) = self.links.get_mut(link) else { continue };
            let (silence, to) = (neighbour.silence(now), neighbour.peer.addr);
            if config.dead <= silence {
                dead.insert(link);
                continue;
            }
            if config.probe <= silence && !self.probed.has(link) {
                self.probed.insert(link);
                neighbour.note_sent(now);
                step.out.send(to, Message::Probe.encode());
            } else if config.beat - config.beat / TOGETHER <= neighbour.neglect(now) {
                neighbour.note_sent(now);
                step.out.send(to, Message::Beat.encode());
            }
            let bound = if self.probed.has(link) { config.dead } else { config.probe };
            due = due.min(now + bound.saturating_sub(silence));
            due = due.min(now + config.beat.saturating_sub(neighbour.neglect(now)));
        }
        // Never now again, whatever the configuration says.
        self.beat_due = due.max(now + Duration::from_millis(1));
        for link in dead.iter() {
            self.counters.silent += 1;
            if let Some(neighbour) = self.links.get(link) {
                step.out.effects.push(Effect::Close { to: neighbour.peer.addr });
            }
            self.mourn(link, Down::Silent, step);
        }
    }

    /// The neighbour is dead, or as good as.
    pub(super) fn mourn(&mut self, link: Link, why: Down, step: &mut Step<'_>) {
        if let Some(neighbour) = self.take_down(link, why, step) {
            self.book.doubt(neighbour.peer.addr);
            self.refill.died(step.now);
            if self.refill.disaster() {
                self.call_after_disaster(step);
            }
            self.shuffle_sooner(step);
        }
    }

    /// A heartbeat from somebody who believes in a link that we do not have. Taken up when we want one, else denied.
    pub(super) fn adopt(&mut self, from: Peer, step: &mut Step<'_>) -> Result<(), Refused> {
        self.serve(step.now)?;
        if self.links.len() < self.config.active && !self.is_past(from, step.now) {
            self.make_link(from, step);
            return Ok(());
        }
        Err(self.disown(from, step))
    }
}
