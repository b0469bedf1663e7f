//! When to compare notes with which neighbour, and how much a neighbour may cost.

use super::config::Config;
use crate::links::Link;
use crate::time::Time;
use rand::{Rng, RngExt};
use std::time::Duration;

#[derive(Clone, Copy, Debug, Default)]
struct Place {
    /// When to open the next exchange out of turn.
    due: Option<Time>,
    /// How long after opening to open again, unless all was the same; zero while nothing is known to differ.
    wait: Duration,
    /// When the neighbour's share was last added to `left`.
    filled: Time,
    /// Bytes that the neighbour may still cost.
    left: u32,
}

/// Per link 48 bytes; see the module.
#[derive(Debug, Default)]
pub struct Pace {
    places: Vec<Place>,
    /// When to open an exchange with any neighbour.
    turn: Option<Time>,
    /// When a neighbour was last heard of facts.
    pub heard: Option<Time>,
}

impl Pace {
    fn place(&mut self, link: Link) -> &mut Place {
        if self.places.len() <= link.index() {
            self.places.reserve_exact(link.index() + 1 - self.places.len());
            self.places.resize(link.index() + 1, Place::default());
        }
        &mut self.places[link.index()]
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        self.places.capacity() * size_of::<Place>()
    }

    /// A neighbour is there: compare soon.
    pub fn begin(&mut self, link: Link, now: Time, config: &Config, rng: &mut dyn Rng) {
        let due = Some(now + rng.random_range(Duration::ZERO..=Duration::from_secs(1)));
        let left = config.link_bytes_per_second.saturating_mul(4);
        *self.place(link) = Place { due, wait: Duration::ZERO, filled: now, left };
        if self.turn.is_none() {
            self.turn = Some(now + turn(config, rng));
        }
    }

    /// The neighbour is not there any more.
    pub fn end(&mut self, link: Link, last: bool) {
        *self.place(link) = Place::default();
        if last {
            self.turn = None;
        }
    }

    /// An exchange is opened: when it finds differences, another follows.
    pub fn opened(&mut self, link: Link, now: Time, config: &Config) {
        let place = self.place(link);
        place.wait = (place.wait * 2).max(config.retry);
        place.due = (place.wait < config.exchange_every).then_some(now + place.wait);
    }

    /// An exchange found nothing different.
    pub fn same(&mut self, link: Link) {
        let place = self.place(link);
        (place.due, place.wait) = (None, Duration::ZERO);
    }

    /// The neighbour has more for us.
    pub fn more(&mut self, link: Link, now: Time, config: &Config) {
        let place = self.place(link);
        let due = now + config.next_chunk;
        place.due = Some(place.due.map_or(due, |it| it.min(due)));
        place.wait = Duration::ZERO;
    }

    /// A link to which an exchange is to be opened now.
    pub fn take_due(&mut self, now: Time) -> Option<Link> {
        let at = self.places.iter().position(|place| place.due.is_some_and(|due| due <= now))?;
        self.places[at].due = None;
        Link::from_index(at)
    }

    /// Whether it is time for an exchange with any neighbour; the next turn is then set.
    pub fn take_turn(&mut self, now: Time, config: &Config, rng: &mut dyn Rng) -> bool {
        let due = self.turn.is_some_and(|turn| turn <= now);
        if due {
            self.turn = Some(now + turn(config, rng));
        }
        due
    }

    /// The earliest that something is due.
    pub fn next(&self) -> Option<Time> {
        self.places.iter().filter_map(|place| place.due).chain(self.turn).min()
    }

    /// Whether the neighbour has any of its share left.
    pub fn affords(&mut self, link: Link, now: Time, config: &Config) -> bool {
        let place = self.place(link);
        let most = u64::from(config.link_bytes_per_second) * 4;
        let micros = u64::try_from(now.since(place.filled).as_micros()).unwrap_or(u64::MAX);
        let more = micros.saturating_mul(u64::from(config.link_bytes_per_second)) / 1_000_000;
        if more > 0 {
            place.left = u32::try_from((u64::from(place.left) + more).min(most)).unwrap_or(u32::MAX);
            place.filled = now;
        }
        place.left > 0
    }

    /// The neighbour has cost so much.
    pub fn charge(&mut self, link: Link, bytes: usize) {
        let place = self.place(link);
        place.left = place.left.saturating_sub(u32::try_from(bytes).unwrap_or(u32::MAX));
    }
}

/// Neither in step with others nor ever sooner than three quarters of the time.
fn turn(config: &Config, rng: &mut dyn Rng) -> Duration {
    let every = config.exchange_every;
    rng.random_range(every * 3 / 4..=every * 5 / 4)
}
