//! What happens when: a queue of events by time, first in first out among those of the same microsecond.
//!
//! A hierarchy of timing wheels, each with 2048 slots. Putting in and taking out cost the same however many events
//! wait, where a binary heap pays a logarithm of cache misses. The events of a slot lie one after the other in memory,
//! so whoever takes them out in turn hardly ever waits for it. The lowest wheel is no wheel: the 2048 microseconds that
//! are next are sorted as they come up.
//! * Source: Varghese and Lauck, "Hashed and Hierarchical Timing Wheels" (SOSP 1987), scheme 7.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

const BITS: u32 = 11;
const SLOTS: usize = 1 << BITS;
const WORDS: usize = SLOTS / 64;
/// Six digits of eleven bits say any 64-bit time; the lowest has no wheel.
const LEVELS: usize = 6;

/// Events with their times, in the order they were put in.
type Slot<T> = Vec<(u64, Option<T>)>;

#[derive(Debug)]
struct Level<T> {
    slots: Vec<Slot<T>>,
    occupied: [u64; WORDS],
}

impl<T> Level<T> {
    /// The first occupied slot from `from` on.
    fn first_from(&self, from: usize) -> Option<usize> {
        let mut word = from / 64;
        if word >= WORDS {
            return None;
        }
        let mut bits = self.occupied[word] & (u64::MAX << (from % 64));
        while bits == 0 {
            word += 1;
            if word == WORDS {
                return None;
            }
            bits = self.occupied[word];
        }
        Some(word * 64 + bits.trailing_zeros() as usize)
    }
}

/// An event put in for so soon that its slot had come up already.
#[derive(Debug)]
struct Soon<T> {
    at: u64,
    serial: u64,
    value: T,
}

impl<T> Ord for Soon<T> {
    /// The earliest is the greatest, as [`BinaryHeap`] wants it.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.serial).cmp(&(self.at, self.serial))
    }
}

impl<T> PartialOrd for Soon<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> PartialEq for Soon<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<T> Eq for Soon<T> {}

/// Events of type `T` by time in microseconds.
#[derive(Debug)]
pub struct Wheel<T> {
    /// The slot that has come up, as it was filled.
    due: Slot<T>,
    /// The order in which it is emptied: the time's lowest digit, then the place in `due`.
    order: Vec<(u16, u32)>,
    /// How many of these are out.
    taken: usize,
    /// What was put in for the time of that slot since it came up.
    soon: BinaryHeap<Soon<T>>,
    serial: u64,
    /// From the second digit on.
    levels: Vec<Level<T>>,
    now: u64,
    len: usize,
}

impl<T> Default for Wheel<T> {
    fn default() -> Self {
        let level = || Level { slots: (0..SLOTS).map(|_| Vec::new()).collect(), occupied: [0; WORDS] };
        Self {
            due: Vec::new(),
            order: Vec::new(),
            taken: 0,
            soon: BinaryHeap::new(),
            serial: 0,
            levels: (1..LEVELS).map(|_| level()).collect(),
            now: 0,
            len: 0,
        }
    }
}

/// The digit of a time.
fn digit(at: u64, level: usize) -> usize {
    (at >> (level as u32 * BITS)) as usize & (SLOTS - 1)
}

impl<T> Wheel<T> {
    /// How many events wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Puts in an event for the time `at`; a time in the past comes next. The past is what lies before the last
    /// event taken out, or before the `until` up to which nothing was left to take.
    pub fn push(&mut self, at: u64, value: T) {
        let at = at.max(self.now);
        self.len += 1;
        match self.level(at) {
            0 => {
                self.serial += 1;
                self.soon.push(Soon { at, serial: self.serial, value });
            }
            level => self.put(level, at, Some(value)),
        }
    }

    /// Takes out the earliest event that is not after `until`, with its time.
    pub fn pop(&mut self, until: u64) -> Option<(u64, T)> {
        if self.len == 0 {
            return None;
        }
        loop {
            let due =
                self.order.get(self.taken).map(|(low, place)| (self.window() | u64::from(*low), *place));
            let soon = self.soon.peek().map(|soon| soon.at);
            let at = match (due, soon) {
                // What came up with its slot was put in before what came later.
                (Some((at, _)), soon) if soon.is_none_or(|soon| at <= soon) => at,
                (_, Some(at)) => at,
                (_, None) if self.turn(until) => continue,
                (_, None) => return None,
            };
            if at > until {
                return None;
            }
            self.now = at;
            self.len -= 1;
            let value = match due {
                Some((due, place)) if due == at => {
                    self.taken += 1;
                    self.due[place as usize].1.take()
                }
                _ => self.soon.pop().map(|soon| soon.value),
            };
            return value.map(|value| (at, value));
        }
    }

    /// The next events, of those that have come up with their slot; a look ahead, which may miss some.
    pub fn upcoming(&self) -> impl Iterator<Item = &T> {
        self.order[self.taken..].iter().filter_map(|(_, place)| self.due[*place as usize].1.as_ref())
    }

    /// All events that wait, with their times, in no useful order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        let slots = self.levels.iter().flat_map(|level| &level.slots).chain([&self.due]).flatten();
        let slots = slots.filter_map(|(at, value)| value.as_ref().map(|value| (*at, value)));
        slots.chain(self.soon.iter().map(|soon| (soon.at, &soon.value)))
    }

    /// Bytes held, not counting what the events themselves hold.
    pub fn bytes(&self) -> usize {
        let slots = self.levels.iter().flat_map(|level| &level.slots).chain([&self.due]);
        slots.map(|slot| slot.capacity() * size_of::<(u64, Option<T>)>()).sum::<usize>()
            + self.order.capacity() * size_of::<(u16, u32)>()
            + self.soon.capacity() * size_of::<Soon<T>>()
            + self.levels.len() * (SLOTS * size_of::<Slot<T>>() + WORDS * 8)
    }

    /// The first microsecond of the slot that has come up.
    fn window(&self) -> u64 {
        self.now & !(SLOTS as u64 - 1)
    }

    /// The highest digit in which the time differs from now says which wheel has to turn before it comes.
    fn level(&self, at: u64) -> usize {
        match at ^ self.now {
            0 => 0,
            apart => ((63 - apart.leading_zeros()) / BITS) as usize,
        }
    }

    fn put(&mut self, level: usize, at: u64, value: Option<T>) {
        let slot = digit(at, level);
        let level = &mut self.levels[level - 1];
        level.slots[slot].push((at, value));
        level.occupied[slot / 64] |= 1 << (slot % 64);
    }

    /// Goes on to the next occupied slot of the lowest wheel that has one, and spreads it over the wheels below; called when
    /// nothing is left of what has come up. Keeps the order of equal times: a slot is spread before anything can be put
    /// directly where it goes.
    fn turn(&mut self, until: u64) -> bool {
        for level in 1..LEVELS {
            let shift = level as u32 * BITS;
            let wheel = &mut self.levels[level - 1];
            let Some(slot) = wheel.first_from(digit(self.now, level) + 1) else { continue };
            let above = if level + 1 == LEVELS { 0 } else { self.now >> (shift + BITS) << (shift + BITS) };
            let start = above | (slot as u64) << shift;
            if start > until {
                return false;
            }
            wheel.occupied[slot / 64] &= !(1 << (slot % 64));
            let spread = std::mem::take(&mut wheel.slots[slot]);
            self.now = start;
            self.order.clear();
            self.taken = 0;
            if level == 1 {
                self.due = spread;
            } else {
                self.due.clear();
                for (at, value) in spread {
                    match self.level(at) {
                        0 => self.due.push((at, value)),
                        lower => self.put(lower, at, value),
                    }
                }
            }
            self.order.extend(self.due.iter().zip(0..).map(|((at, _), place)| (digit(*at, 0) as u16, place)));
            self.order.sort_unstable();
            return true;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn events_come_out_by_time_and_then_as_they_went_in(
            steps in proptest::collection::vec((0_u64..4, 0_u32..45, any::<u64>()), 1..300),
        ) {
            let mut wheel = Wheel::default();
            let mut model = BTreeMap::new();
            let mut now = 0;
            for (serial, (kind, bits, random)) in steps.into_iter().enumerate() {
                let wait = random & ((1 << bits) - 1);
                if kind > 0 {
                    wheel.push(now + wait, serial);
                    model.insert((now + wait, serial), ());
                } else {
                    let until = now + wait;
                    let expected = model.first_key_value().map(|(key, ())| *key).filter(|key| key.0 <= until);
                    prop_assert_eq!(wheel.pop(until), expected);
                    now = expected.map_or(until, |key| key.0);
                    model.retain(|key, ()| Some(*key) != expected);
                }
                prop_assert_eq!(wheel.len(), model.len());
            }
            while let Some((key, ())) = model.pop_first() {
                prop_assert_eq!(wheel.pop(u64::MAX), Some(key));
            }
            prop_assert_eq!(wheel.pop(u64::MAX), None);
        }
    }

    #[test]
    fn the_furthest_time_is_a_time_too() {
        let mut wheel = Wheel::default();
        wheel.push(u64::MAX, 'z');
        wheel.push(1, 'a');
        assert_eq!(wheel.pop(0), None);
        assert_eq!(wheel.pop(u64::MAX), Some((1, 'a')));
        assert_eq!(wheel.pop(u64::MAX - 1), None);
        assert_eq!(wheel.pop(u64::MAX), Some((u64::MAX, 'z')));
    }
}
