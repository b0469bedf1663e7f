//! What happens when: a queue of events by time, first in first out among those of the same microsecond.
//!
//! A hierarchy of timing wheels, each with 2048 slots, the first of one microsecond each. Putting in and taking
//! out cost the same however many events wait, where a binary heap pays a logarithm of cache misses.
//! * Source: Varghese and Lauck, "Hashed and Hierarchical Timing Wheels" (SOSP 1987), scheme 7.

const BITS: u32 = 11;
const SLOTS: usize = 1 << BITS;
const WORDS: usize = SLOTS / 64;
/// Six digits of eleven bits say any 64-bit time.
const LEVELS: usize = 6;
const NONE: u32 = u32::MAX;

/// Where an event stands in its list; small, as these are what the wheels turn over.
#[derive(Clone, Copy, Debug)]
struct Entry {
    at: u64,
    next: u32,
}

#[derive(Clone, Copy, Debug)]
struct List {
    head: u32,
    tail: u32,
}

#[derive(Debug)]
struct Level {
    lists: Vec<List>,
    occupied: [u64; WORDS],
}

impl Level {
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

/// Events of type `T` by time in microseconds.
#[derive(Debug)]
pub struct Wheel<T> {
    entries: Vec<Entry>,
    /// The event of each entry; looked at only as it goes in and comes out.
    values: Vec<Option<T>>,
    free: u32,
    levels: Vec<Level>,
    now: u64,
    len: usize,
}

impl<T> Default for Wheel<T> {
    fn default() -> Self {
        let level = || Level { lists: vec![List { head: NONE, tail: NONE }; SLOTS], occupied: [0; WORDS] };
        Self {
            entries: Vec::new(),
            values: Vec::new(),
            free: NONE,
            levels: (0..LEVELS).map(|_| level()).collect(),
            now: 0,
            len: 0,
        }
    }
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
        let place = if self.free == NONE {
            self.entries.push(Entry { at, next: NONE });
            self.values.push(Some(value));
            (self.entries.len() - 1) as u32
        } else {
            let place = self.free;
            let entry = &mut self.entries[place as usize];
            self.free = entry.next;
            *entry = Entry { at, next: NONE };
            self.values[place as usize] = Some(value);
            place
        };
        self.len += 1;
        self.link(place, at);
    }

    /// Takes out the earliest event that is not after `until`, with its time.
    pub fn pop(&mut self, until: u64) -> Option<(u64, T)> {
        if self.len == 0 {
            return None;
        }
        loop {
            let slot = self.now as usize & (SLOTS - 1);
            if let Some(slot) = self.levels[0].first_from(slot) {
                let at = self.now & !(SLOTS as u64 - 1) | slot as u64;
                if at > until {
                    return None;
                }
                self.now = at;
                return self.take(slot).map(|value| (at, value));
            }
            if !self.turn(until) {
                return None;
            }
        }
    }

    /// All events that wait, with their times, in no useful order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        let all = self.entries.iter().zip(&self.values);
        all.filter_map(|(entry, value)| value.as_ref().map(|value| (entry.at, value)))
    }

    /// Bytes held, not counting what the events themselves hold.
    pub fn bytes(&self) -> usize {
        let entries = self.entries.capacity() * size_of::<Entry>();
        entries
            + self.values.capacity() * size_of::<Option<T>>()
            + LEVELS * (SLOTS * size_of::<List>() + WORDS * 8)
    }

    fn link(&mut self, place: u32, at: u64) {
        // The highest digit in which the time differs from now says which wheel has to turn before it comes.
        let level = match at ^ self.now {
            0 => 0,
            apart => ((63 - apart.leading_zeros()) / BITS) as usize,
        };
        let slot = (at >> (level as u32 * BITS)) as usize & (SLOTS - 1);
        let level = &mut self.levels[level];
        let list = &mut level.lists[slot];
        if list.head == NONE {
            list.head = place;
            level.occupied[slot / 64] |= 1 << (slot % 64);
        } else {
            self.entries[list.tail as usize].next = place;
        }
        list.tail = place;
    }

    fn take(&mut self, slot: usize) -> Option<T> {
        let level = &mut self.levels[0];
        let place = level.lists[slot].head;
        let entry = &mut self.entries[place as usize];
        level.lists[slot].head = entry.next;
        if entry.next == NONE {
            level.occupied[slot / 64] &= !(1 << (slot % 64));
        }
        entry.next = self.free;
        self.free = place;
        self.len -= 1;
        self.values[place as usize].take()
    }

    /// Goes on to the next occupied slot of the lowest wheel that has one, and spreads it over the wheels below.
    /// Keeps the order of equal times: a slot is spread before anything can be put directly where it goes.
    fn turn(&mut self, until: u64) -> bool {
        for level in 1..LEVELS {
            let shift = level as u32 * BITS;
            let digit = (self.now >> shift) as usize & (SLOTS - 1);
            let Some(slot) = self.levels[level].first_from(digit + 1) else { continue };
            let above = if level + 1 == LEVELS { 0 } else { self.now >> (shift + BITS) << (shift + BITS) };
            let start = above | (slot as u64) << shift;
            if start > until {
                return false;
            }
            self.now = start;
            let lists = &mut self.levels[level];
            lists.occupied[slot / 64] &= !(1 << (slot % 64));
            let mut place = std::mem::replace(&mut lists.lists[slot].head, NONE);
            while place != NONE {
                let entry = &mut self.entries[place as usize];
                let (at, next) = (entry.at, std::mem::replace(&mut entry.next, NONE));
                self.link(place, at);
                place = next;
            }
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
