//! Payloads kept for those who ask, within a budget of bytes and age.

use super::message::{Gossip, Message, Short, Span};
use super::{Channel, MessageId};
use crate::links::{Link, LinkSet};
use crate::time::Time;
use bytes::Bytes;
use std::collections::VecDeque;
use std::time::Duration;

/// One broadcast that was here.
#[derive(Clone, Debug)]
pub struct Kept {
    pub id: MessageId,
    /// [`MessageId::tag`], so that a search need not hash.
    pub tag: u32,
    /// Key of the tree it travels by.
    pub key: u32,
    /// When it came.
    pub at: Time,
    pub channel: Channel,
    /// Links it passed to get here; 0 for one's own.
    pub hops: u8,
    pub path: u8,
    /// Whether the tree was not known when it came.
    pub fresh: bool,
    /// By which link it came; `None` for one's own, and when the link is down.
    pub from: Option<Link>,
    /// Who was sent it when it came.
    pub pushed: LinkSet,
    /// Who was sent it on request, once and twice.
    pub given: [LinkSet; 2],
    /// As to be sent on: the path with ourselves in it, then the payload.
    pub body: Bytes,
}

impl Kept {
    pub fn short(&self) -> Short {
        Short { tag: self.tag, seq: self.id.seq }
    }

    /// The message that takes it one link farther.
    pub fn onward(&self) -> Gossip {
        let hops = self.hops.saturating_add(1);
        Gossip { id: self.id, channel: self.channel, hops, path: self.path, body: self.body.clone() }
    }

    /// The encoded message that takes it one link farther along a tree.
    pub fn push(&self) -> Bytes {
        Message::Gossip(self.onward()).encode()
    }

    /// Counts a request of the neighbour at `link`; false when it has asked too often.
    pub fn give(&mut self, link: Link) -> bool {
        match self.given.iter_mut().find(|given| !given.has(link)) {
            Some(given) => given.insert(link),
            None => return false,
        }
        true
    }
}

/// Broadcasts in the order they came.
#[derive(Debug, Default)]
pub struct Cache {
    kept: VecDeque<Kept>,
    bytes: usize,
}

impl Cache {
    /// Keeps one more; the oldest make room.
    pub fn keep(&mut self, kept: Kept, bytes_max: usize, count_max: usize) {
        self.bytes += kept.body.len();
        self.kept.push_back(kept);
        while self.kept.len() > 1 && (self.bytes > bytes_max || self.kept.len() > count_max) {
            self.drop_oldest();
        }
    }

    /// Drops what came before `horizon`, and its room when nothing is left.
    pub fn expire(&mut self, horizon: Time) {
        while self.kept.front().is_some_and(|kept| kept.at < horizon) {
            self.drop_oldest();
        }
        if self.kept.is_empty() {
            self.kept = VecDeque::new();
        }
    }

    /// When the oldest has to go, given how long each may stay; an eighth late, so that many go at once.
    pub fn due(&self, age: Duration) -> Option<Time> {
        self.kept.front().map(|kept| kept.at + age + age / 8)
    }

    /// The broadcast, if it is still kept. The newest are found quickest.
    pub fn find(&mut self, short: Short) -> Option<&mut Kept> {
        self.kept.iter_mut().rev().find(|kept| kept.tag == short.tag && kept.id.seq == short.seq)
    }

    /// All that is kept, by runs of numbers.
    pub fn spans(&self) -> Vec<Span> {
        let mut all: Vec<Short> = self.kept.iter().map(Kept::short).collect();
        all.sort_unstable();
        let mut spans: Vec<Span> = Vec::new();
        for short in all {
            match spans.last_mut() {
                Some(span) if follows(span, short) => span.more += 1,
                _ => spans.push(Span { first: short, more: 0 }),
            }
        }
        spans
    }

    /// Forgets what the neighbour at `link`, which is gone, was given or gave.
    pub fn cut(&mut self, link: Link) {
        for kept in &mut self.kept {
            kept.pushed.remove(link);
            kept.given.iter_mut().for_each(|given| given.remove(link));
            if kept.from == Some(link) {
                kept.from = None;
            }
        }
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Bytes on the heap, payloads included.
    pub fn heap_bytes(&self) -> usize {
        self.kept.capacity() * size_of::<Kept>() + self.bytes
    }

    fn drop_oldest(&mut self) {
        if let Some(kept) = self.kept.pop_front() {
            self.bytes -= kept.body.len();
        }
    }
}

fn follows(span: &Span, short: Short) -> bool {
    span.first.tag == short.tag && span.first.seq + span.more + 1 == short.seq
}

#[cfg(test)]
mod tests {
    use super::*;
    use skein_model::HostId;

    fn kept(origin: u64, seq: u32, at: Time, bytes: usize) -> Kept {
        let id = MessageId { origin: HostId(origin), incarnation: 1, seq };
        Kept {
            id,
            tag: id.tag(),
            key: id.tag(),
            at,
            channel: Channel::App,
            hops: 1,
            path: 0,
            fresh: false,
            from: None,
            pushed: LinkSet::default(),
            given: Default::default(),
            body: vec![0; bytes].into(),
        }
    }

    #[test]
    fn the_oldest_make_room_for_bytes_and_for_count() {
        let mut cache = Cache::default();
        (1..=5).for_each(|seq| cache.keep(kept(1, seq, Time(0), 10), 35, 100));
        assert_eq!(cache.kept.iter().map(|kept| kept.id.seq).collect::<Vec<_>>(), [3, 4, 5]);
        cache.keep(kept(1, 6, Time(0), 0), 35, 2);
        assert_eq!(cache.kept.len(), 2);
    }

    #[test]
    fn what_is_too_old_goes_and_its_room_with_it() {
        let mut cache = Cache::default();
        (1..=4).for_each(|seq| cache.keep(kept(1, seq, Time(u64::from(seq)), 10), 100, 100));
        cache.expire(Time(3));
        assert_eq!(cache.kept.len(), 2);
        cache.expire(Time(9));
        assert_eq!(cache.heap_bytes(), 0);
    }

    #[test]
    fn spans_name_runs_of_one_origin() {
        let mut cache = Cache::default();
        for seq in [4, 1, 2, 9, 3] {
            cache.keep(kept(1, seq, Time(0), 1), 100, 100);
        }
        let spans = cache.spans();
        assert_eq!(
            spans.iter().map(|span| (span.first.seq, span.more)).collect::<Vec<_>>(),
            [(1, 3), (9, 0)]
        );
    }

    #[test]
    fn a_neighbour_is_given_a_payload_twice_at_most() {
        let mut kept = kept(1, 1, Time(0), 1);
        let link = Link::from_index(3).unwrap();
        assert_eq!([(); 3].map(|()| kept.give(link)), [true, true, false]);
    }
}
