//! What a peer does with each kind of message.

use super::cache::Kept;
use super::seen::Sight;
use super::*;

/// How an announcement was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// By one that has it, some milliseconds after it came.
    Have,
    /// Ahead of the payload.
    Scout,
    /// By a new neighbour.
    Recent,
}

/// What follows from a list of announcements.
#[derive(Default)]
struct Asks {
    asks: Vec<(Link, bool, Short)>,
    relay: Vec<Short>,
    /// Whether some found no room.
    flood: bool,
}

impl Broadcast {
    pub(super) fn receive(&mut self, from: Link, message: Message, cx: &mut Cx<'_>) -> Result<(), Refused> {
        match message {
            Message::Gossip(gossip) => self.on_payload(from, gossip, false, cx),
            Message::Supply(gossip) => self.on_payload(from, gossip, true, cx),
            Message::Have(list) => {
                let list = list.into_iter().map(|have| (have.short, u64::from(have.held)));
                self.on_announced(from, list, Kind::Have, cx)
            }
            Message::Scout(list) => {
                self.on_announced(from, list.into_iter().map(|short| (short, 0)), Kind::Scout, cx)
            }
            Message::Recent(spans) => {
                let each = |span: Span| {
                    (0..=span.more).map(move |more| Short { seq: span.first.seq + more, ..span.first })
                };
                self.on_announced(from, spans.into_iter().flat_map(each).map(|it| (it, 0)), Kind::Recent, cx)
            }
            Message::Graft(list) => self.on_request(from, &list, true, cx),
            Message::Pull(list) => self.on_request(from, &list, false, cx),
            Message::Prune(short) => self.on_prune(from, short),
            Message::Adopt(tag) => self.on_adopt(from, tag),
            Message::Release(tag) => match self.trees.get_mut(tag) {
                Some(tree) if tree.children.has(from) => {
                    tree.children.remove(from);
                    Ok(())
                }
                _ => Err(Refused::Stale),
            },
        }
    }

    fn on_payload(
        &mut self,
        from: Link,
        gossip: Gossip,
        supplied: bool,
        cx: &mut Cx<'_>,
    ) -> Result<(), Refused> {
        let id = gossip.id;
        if id.origin == self.me && (id.incarnation, id.seq) > (self.incarnation, self.seq) {
            return Err(Refused::Implausible("a broadcast of ours that we never made"));
        }
        if gossip.hops == u8::MAX {
            // What went so far goes in circles: among peers that hear of more origins than they remember.
            return Err(Refused::Implausible("a broadcast that passed too many links"));
        }
        let path = match self.config.keying {
            Keying::Origin => 0,
            Keying::LastPeers(count) => gossip.hops.min(count),
        };
        if gossip.path != path {
            return Err(Refused::Implausible("a path of another length than agreed"));
        }
        let short = Short { tag: id.tag(), seq: id.seq };
        match self.seen.sight_of(id) {
            Sight::TooFar => Err(Refused::Implausible("a broadcast far ahead of its origin")),
            Sight::TooOld => Err(Refused::Stale),
            // Its origin may be forgotten when there are many; what is still kept was here all the same.
            Sight::New if self.seen.len() < self.config.origins_max || self.cache.find(short).is_none() => {
                let want = self.wanted.remove(short);
                self.take(gossip, Some(from), want, supplied, cx);
                Ok(())
            }
            Sight::New | Sight::Seen => {
                bump(&mut self.counters.duplicates);
                self.needs_no_announcement(from, short);
                // From the parent it comes again when we have just turned to it.
                if !supplied && self.trees.get(short.tag).is_none_or(|tree| tree.parent != Some(from)) {
                    self.prune(from, &gossip, cx);
                } else {
                    self.events.push_back(Event::Again { id, link: from });
                }
                Ok(())
            }
        }
    }

    /// It was here already: the neighbour shall not push to us any more.
    fn prune(&mut self, from: Link, gossip: &Gossip, cx: &mut Cx<'_>) {
        // Should we have pushed to each other at once, the neighbour's own prune ends the other direction.
        let short = Short { tag: gossip.id.tag(), seq: gossip.id.seq };
        if self.cache.find(short).is_some_and(|kept| kept.fresh) {
            self.shared.remove(from);
        }
        self.send(from, &Message::Prune(short), cx);
    }

    /// Takes a broadcast that was not here before: keeps it, pushes it on, announces it where it is not pushed.
    pub(super) fn take(
        &mut self,
        gossip: Gossip,
        from: Option<Link>,
        want: Option<Want>,
        supplied: bool,
        cx: &mut Cx<'_>,
    ) {
        let (id, short) = (gossip.id, Short { tag: gossip.id.tag(), seq: gossip.id.seq });
        self.seen.mark(id, cx.now, self.config.origins_max);
        let mut others = cx.links.set();
        from.into_iter().for_each(|from| others.remove(from));
        let [announcers, holders, told, wanted_by] = match &want {
            Some(want) => [want.announcers, want.holders, want.told, want.wanted_by],
            None => Default::default(),
        };
        let (key, onward) = self.onward_path(&gossip, from.is_none());
        let fresh = self.trees.get(key).is_none();
        let mut scouts = LinkSet::default();
        let mut eager = LinkSet::default();
        if fresh {
            match self.config.start {
                Start::Flood => eager = others,
                Start::Shared => eager = self.shared.and(others),
                Start::Scout { eager_hops } if gossip.hops < eager_hops => {
                    eager = others.without(announcers);
                }
                // Whoever told us first is told later, as ever, lest it depend on a single neighbour.
                Start::Scout { .. } => scouts = others.without(announcers).without(told),
            }
        }
        let tree = self.trees.plant(key, self.config.trees_max);
        if let Some(from) = from
            && !supplied
            && tree.parent != Some(from)
        {
            tree.turn_to(from);
        }
        if fresh {
            tree.children = eager;
        }
        wanted_by.iter().for_each(|link| tree.children.insert(link));
        // A child that has it from elsewhere has turned to another.
        tree.children = tree.children.without(holders);
        eager = tree.children.and(others);
        scouts = scouts.without(eager);
        let late = others.without(eager).without(scouts).without(holders).without(told);
        let parent = tree.parent;

        let payload = gossip.payload();
        if !eager.is_empty() {
            let hops = onward.hops.saturating_add(1);
            let frame = Gossip { hops, ..onward.clone() }.encode(false);
            eager.iter().for_each(|link| self.send_bytes(link, 0, frame.clone(), cx));
        }
        let kept = Kept::new(onward, cx.now, key, fresh, from, eager);
        self.cache.keep(kept, self.config.keep_bytes_max, self.config.keep_count_max);
        if !scouts.is_empty() {
            let bytes = Message::Scout(vec![short]).encode();
            scouts.iter().for_each(|link| self.send_bytes(link, 3, bytes.clone(), cx));
        }
        if !late.is_empty() {
            self.announcements.push(Announcement { short, at: cx.now, links: late });
            if self.announcements.len() >= ANNOUNCE_COUNT_MAX {
                self.announce(cx);
            }
        }
        self.events.push_back(Event::Delivered {
            id,
            channel: gossip.channel,
            payload,
            hops: gossip.hops,
            from,
            forwarded: eager,
        });
        // One announced it before the parent brought it: is it always so?
        if let Some(want) = want
            && from.is_some()
            && parent == from
            && want.holders.has(want.first)
            && !supplied
        {
            self.compare(want.first, short, want.since, cx.now, cx);
        }
    }

    /// The key of the tree by which the broadcast travels on, and the broadcast with ourselves in its path.
    fn onward_path(&self, gossip: &Gossip, own: bool) -> (u32, Gossip) {
        let Keying::LastPeers(count) = self.config.keying else {
            return (gossip.id.tag(), gossip.clone());
        };
        let passed = gossip.passed();
        let mine = mix(self.me.0) as u32;
        let path: Vec<u8> = [passed, &mine.to_le_bytes()].concat();
        let keep = 4 * usize::from(count).min(PATH_MAX);
        let drop = path.len().saturating_sub(keep);
        let key = passed.chunks(4).fold(u64::from(own), |key, peer| {
            peer.iter().fold(key, |key, byte| mix(key << 8 ^ key >> 56 ^ u64::from(*byte)))
        });
        (key as u32, gossip.by_path(&path[drop..]))
    }

    fn on_announced(
        &mut self,
        from: Link,
        list: impl Iterator<Item = (Short, u64)>,
        kind: Kind,
        cx: &mut Cx<'_>,
    ) -> Result<(), Refused> {
        let mut asks = Asks::default();
        for (short, held) in list {
            let would = cx.now - std::time::Duration::from_millis(held);
            match self.seen.sight(short.tag, short.seq) {
                Sight::New => self.want(from, short, would, kind, &mut asks, cx),
                Sight::Seen if kind == Kind::Have => {
                    self.needs_no_announcement(from, short);
                    if let Some(kept) = self.cache.find(short)
                        && kept.from().is_some_and(|it| it != from)
                    {
                        let came = kept.at;
                        self.compare(from, short, would, came, cx);
                    }
                }
                Sight::Seen if kind == Kind::Recent => self.needs_no_announcement(from, short),
                Sight::Seen | Sight::TooOld | Sight::TooFar => {}
            }
        }
        if !asks.relay.is_empty() {
            let bytes = Message::Scout(asks.relay).encode();
            let mut others = cx.links.set();
            others.remove(from);
            others.iter().for_each(|link| self.send_bytes(link, 3, bytes.clone(), cx));
        }
        self.ask(asks.asks, cx);
        if asks.flood { Err(Refused::Flood) } else { Ok(()) }
    }

    /// A broadcast that is not here was announced at `from`, which would have pushed it here at `would`.
    fn want(&mut self, from: Link, short: Short, would: Time, kind: Kind, asks: &mut Asks, cx: &mut Cx<'_>) {
        let config = &self.config;
        let tree = match config.keying {
            Keying::Origin => self.trees.get(short.tag),
            Keying::LastPeers(_) => None,
        };
        let parent = tree.and_then(|tree| tree.parent);
        // Nobody else is going to bring it, unless an unknown origin's messages travel by other rules.
        let by_tree = config.keying == Keying::Origin && config.start != Start::Shared;
        let orphan = by_tree && (parent.is_none() || parent == Some(from));
        if let Some(want) = self.wanted.get(short) {
            want.announcers.insert(from);
            if kind != Kind::Scout {
                want.holders.insert(from);
            }
            if want.asked.is_empty() && orphan {
                want.asked.insert(from);
                want.due = cx.now + config.graft_again;
                asks.asks.push((from, false, short));
            }
            return;
        }
        let relay = kind == Kind::Scout && tree.is_none();
        let at_once = orphan || kind == Kind::Recent;
        let mut only = LinkSet::default();
        only.insert(from);
        let none = LinkSet::default();
        let mut told = if relay { cx.links.set() } else { none };
        told.remove(from);
        let want = Want {
            short,
            since: would,
            due: cx.now + if at_once { config.graft_again } else { config.graft_after },
            announcers: only,
            holders: if kind == Kind::Scout { none } else { only },
            asked: if at_once { only } else { none },
            wanted_by: none,
            told,
            first: from,
            rounds: 0,
            pull: kind == Kind::Recent,
        };
        if !self.wanted.add(want, config.wanted_max, config.wanted_share) {
            asks.flood = true;
            return;
        }
        if at_once {
            asks.asks.push((from, !orphan, short));
            if config.start == Start::Shared && tree.is_none() {
                self.shared.insert(from);
            }
        }
        if relay {
            asks.relay.push(short);
        }
    }

    /// The parent brought a broadcast at `came`; by `link` it would have been here at `would`.
    fn compare(&mut self, link: Link, short: Short, would: Time, came: Time, cx: &mut Cx<'_>) {
        if self.config.keying != Keying::Origin || would + self.config.quicker_by > came {
            return;
        }
        let Some(tree) = self.trees.get_mut(short.tag) else { return };
        let Some(parent) = tree.parent.filter(|parent| *parent != link) else { return };
        let much = would + self.config.much_quicker_by <= came;
        let times = if much { 1 } else { self.config.quicker_times };
        if !tree.outdone(link, short.seq, times) {
            return;
        }
        tree.turn_to(link);
        bump(&mut self.counters.turned);
        self.send(link, &Message::Adopt(short.tag), cx);
        self.send(parent, &Message::Release(short.tag), cx);
    }

    /// A neighbour asks for payloads, and with `graft` for what follows too.
    fn on_request(
        &mut self,
        from: Link,
        list: &[Short],
        graft: bool,
        cx: &mut Cx<'_>,
    ) -> Result<(), Refused> {
        let mut done = Err(Refused::Stale);
        for short in list {
            match self.supply(from, *short, graft, cx) {
                Err(Refused::Stale) => {}
                other => done = other,
            }
        }
        done
    }

    fn supply(&mut self, from: Link, short: Short, graft: bool, cx: &mut Cx<'_>) -> Result<(), Refused> {
        let mut key = short.tag;
        if let Some(kept) = self.cache.find(short) {
            key = kept.key;
            if kept.from() == Some(from) {
                return Err(Refused::Implausible("a request for what the asker itself gave us"));
            }
            if !kept.give(from) {
                return Err(Refused::Flood);
            }
            let (onward, fresh) = (kept.onward(), kept.fresh);
            let id = onward.id;
            self.send_bytes(from, usize::from(!graft), onward.encode(!graft), cx);
            self.needs_no_announcement(from, short);
            self.events.push_back(Event::Grafted { id, link: from });
            if graft && fresh {
                self.shared.insert(from);
            }
        } else if let Some(want) = self.wanted.get(short) {
            want.wanted_by.insert(from);
            return Ok(());
        } else if self.seen.sight(short.tag, short.seq) == Sight::Seen {
            bump(&mut self.counters.unavailable);
        } else {
            return Err(Refused::Stale);
        }
        if graft {
            let tree = self.trees.plant(key, self.config.trees_max);
            tree.children.insert(from);
            if tree.parent == Some(from) {
                tree.parent = None;
            }
        }
        Ok(())
    }

    fn on_prune(&mut self, from: Link, short: Short) -> Result<(), Refused> {
        let mut pushed = false;
        let kept = self.cache.find(short).map(|kept| {
            pushed = kept.pushed.has(from);
            kept.pushed.remove(from);
            (kept.id(), kept.key, kept.fresh)
        });
        let key = kept.map_or(short.tag, |(_, key, _)| key);
        let Some(tree) = self.trees.get_mut(key).filter(|tree| tree.children.has(from)) else {
            // It may have released itself from the tree while this push was on its way to it.
            return match kept.filter(|_| pushed) {
                Some((id, _, _)) => {
                    self.events.push_back(Event::Declined { id, link: from });
                    Ok(())
                }
                None => Err(Refused::Stale),
            };
        };
        tree.children.remove(from);
        if let Some((id, _, fresh)) = kept {
            if fresh {
                self.shared.remove(from);
            }
            self.events.push_back(Event::Declined { id, link: from });
        }
        Ok(())
    }

    fn on_adopt(&mut self, from: Link, tag: u32) -> Result<(), Refused> {
        if self.seen.origin(tag).is_none() {
            return Err(Refused::Stale);
        }
        let tree = self.trees.plant(tag, self.config.trees_max);
        if tree.parent == Some(from) {
            return Err(Refused::Implausible("a parent that wants to be a child"));
        }
        tree.children.insert(from);
        Ok(())
    }

    /// The neighbour has it: an announcement that waits need not go there.
    fn needs_no_announcement(&mut self, link: Link, short: Short) {
        if let Some(waiting) = self.announcements.iter_mut().find(|it| it.short == short) {
            waiting.links.remove(link);
        }
    }
}
