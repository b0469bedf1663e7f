//! Payloads kept for those who ask, within a budget of bytes and age.

use super::message::{Body, Gossip, Short, Span};
use super::{Channel, MessageId};
use crate::links::{Link, LinkSet};
use crate::time::Time;
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// One broadcast that was here; small, as there may be a thousand of them.
#[derive(Clone, Debug)]
pub struct Kept {
    /// As to be sent on, with ourselves in the path: the parts of a [`Body`], which so take no more room than they need.
    bytes: Arc<Bytes>,
    /// When it came.
    pub at: Time,
    short: Short,
    /// Key of the tree it travels by.
    pub key: u32,
    /// Who was sent it when it came.
    pub pushed: LinkSet,
    /// Who was sent it on request, once and twice.
    pub given: [LinkSet; 2],
    channel: Channel,
    path: u8,
    /// Links it passed to get here; 0 for one's own.
    hops: u8,
    /// By which link it came; [`OWN`] for one's own, and when the link is down.
    from: u8,
    /// Whether the tree was not known when it came.
    pub fresh: bool,
    path_at: u8,
}

/// No link.
const OWN: u8 = u8::MAX;

impl Kept {
    /// A broadcast as it is sent on, but that `hops` are still those it passed to get here.
    pub fn new(onward: Gossip, at: Time, key: u32, fresh: bool, from: Option<Link>, pushed: LinkSet) -> Self {
        Self {
            at,
            short: Short { tag: onward.id.tag(), seq: onward.id.seq },
            key,
            pushed,
            given: Default::default(),
            channel: onward.channel,
            path: onward.path,
            hops: onward.hops,
            from: from.map_or(OWN, |link| link.index() as u8),
            fresh,
            path_at: onward.body.path_at,
            bytes: onward.body.bytes,
        }
    }

    pub fn short(&self) -> Short {
        self.short
    }

    pub fn id(&self) -> MessageId {
        let (origin, incarnation) = self.body().run();
        MessageId { origin, incarnation, seq: self.short.seq }
    }

    fn body(&self) -> Body {
        Body { bytes: Arc::clone(&self.bytes), path_at: self.path_at }
    }

    /// By which link it came; `None` for one's own, and when the link is down.
    pub fn from(&self) -> Option<Link> {
        Link::from_index(self.from.into())
    }

    /// The message that takes it one link farther.
    pub fn onward(&self) -> Gossip {
        let (channel, path, hops) = (self.channel, self.path, self.hops.saturating_add(1));
        Gossip { id: self.id(), channel, hops, path, body: self.body() }
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
        self.bytes += kept.bytes.len();
        if self.kept.len() == self.kept.capacity() {
            // Doubling would leave half of it empty, at every peer.
            self.kept.reserve_exact(8 + self.kept.len() / 8);
        }
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
        self.kept.iter_mut().rev().find(|kept| kept.short == short)
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
            if kept.from() == Some(link) {
                kept.from = OWN;
            }
        }
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Of the oldest and the newest.
    pub fn touch(&self) -> u64 {
        let (oldest, newest) = (self.kept.front(), self.kept.back());
        oldest.map_or(0, |kept| kept.at.0) ^ newest.map_or(0, |kept| kept.at.0 ^ u64::from(kept.short.seq))
    }

    /// Bytes on the heap, payloads included.
    pub fn heap_bytes(&self) -> usize {
        self.kept.capacity() * size_of::<Kept>() + self.bytes
    }

    fn drop_oldest(&mut self) {
        if let Some(kept) = self.kept.pop_front() {
            self.bytes -= kept.bytes.len();
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
        let gossip = Gossip::new(id, Channel::App, &vec![0; bytes]);
        Kept::new(gossip, at, id.tag(), false, None, LinkSet::default())
    }

    #[test]
    fn what_is_kept_of_a_broadcast_is_its_name_and_a_share_of_its_bytes() {
        let id = MessageId { origin: HostId(77), incarnation: 1 << 40, seq: 9 };
        let gossip = Gossip { hops: 3, ..Gossip::new(id, Channel::Facts, b"words") };
        let link = Link::from_index(2);
        let kept = Kept::new(gossip.clone(), Time(5), 1, true, link, LinkSet::default());
        assert_eq!((kept.id(), kept.from()), (id, link));
        assert_eq!(kept.onward(), Gossip { hops: 4, ..gossip });
        assert_eq!(size_of::<Kept>(), 40);
    }

    #[test]
    fn the_oldest_make_room_for_bytes_and_for_count() {
        let mut cache = Cache::default();
        // Ten bytes of name and ten of payload each.
        (1..=5).for_each(|seq| cache.keep(kept(1, seq, Time(0), 10), 70, 100));
        assert_eq!(cache.kept.iter().map(|kept| kept.short.seq).collect::<Vec<_>>(), [3, 4, 5]);
        cache.keep(kept(1, 6, Time(0), 0), 70, 2);
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
