//! Puts together how the cell is doing: what this peer knows, and what the leaders elsewhere say.

use crate::cell::{Cell, Inner};
use crate::progress::of_move;
use crate::status::{CatalogMember, CatalogStatus, CellStatus, CohortStatus, Health, PeerStatus};
use crate::wire::{self, LedStatus, service};
use bytes::Bytes;
use skein_model::{Cohort, GroupId, HostId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// What leaders said, and when they were asked.
pub(crate) type Told = (Instant, Arc<BTreeMap<GroupId, (HostId, LedStatus)>>);

/// How long other peers may take to say how their cohorts are; whoever takes longer is left out.
const ASK_WITHIN: Duration = Duration::from_millis(1500);

impl Inner {
    /// As [`Inner::led_everywhere`], or what somebody else was told who began to ask at most `age` before now. Who comes while others
    /// ask waits for their answer, so that many who ask at a time cost no more than two.
    async fn led_lately(
        &self,
        deadline: Instant,
        age: Duration,
    ) -> Arc<BTreeMap<GroupId, (HostId, LedStatus)>> {
        let now = Instant::now();
        let Ok(mut told) = tokio::time::timeout_at(deadline, self.told.lock()).await else {
            return Arc::new(self.led_everywhere(deadline).await);
        };
        if let Some((began, led)) = &*told
            && now <= *began + age
        {
            return led.clone();
        }
        let began = Instant::now();
        let led = Arc::new(self.led_everywhere(deadline).await);
        *told = Some((began, led.clone()));
        led
    }

    /// What all leaders that can be reached say, by group: the latest term wins.
    async fn led_everywhere(&self, deadline: Instant) -> BTreeMap<GroupId, (HostId, LedStatus)> {
        let deadline = deadline.min(Instant::now() + ASK_WITHIN);
        let state = self.state();
        let connected: BTreeSet<HostId> =
            self.link.connected().into_iter().map(|peer| peer.identity.host).collect();
        let hosts: BTreeSet<HostId> = state.atlas.cohorts.iter().flat_map(Cohort::hosts).collect();
        let asked =
            hosts.intersection(&connected).filter(|host| **host != self.me().host).map(|host| async {
                let answer = self.link.request(*host, service::STATUS, Bytes::new(), deadline);
                let answer = tokio::time::timeout_at(deadline, answer).await.ok()?.ok()?;
                let led = wire::decode::<Vec<LedStatus>>("status", &answer).ok()?;
                Some(led.into_iter().map(|led| (*host, led)).collect::<Vec<_>>())
            });
        let told = futures_util::future::join_all(asked).await;
        let mut all: BTreeMap<GroupId, (HostId, LedStatus)> = BTreeMap::new();
        let own = self.led().into_iter().map(|led| (self.me().host, led));
        for (host, led) in told.into_iter().flatten().flatten().chain(own) {
            if all.get(&led.group).is_none_or(|(_, known)| known.term < led.term) {
                self.router.leaders().learn(led.group, host);
                all.insert(led.group, (host, led));
            }
        }
        all
    }
}

impl Cell {
    /// The cell as this peer knows it. Leaders elsewhere are asked for what only they know, until the deadline.
    pub async fn status(&self, deadline: Instant) -> CellStatus {
        self.status_lately(deadline, Duration::ZERO).await
    }

    /// As [`Cell::status`], but what leaders elsewhere said may be as old as `age`: they are asked that often at most, however
    /// many ask this peer.
    pub async fn status_lately(&self, deadline: Instant, age: Duration) -> CellStatus {
        let inner = &self.inner;
        let led = inner.led_lately(deadline, age).await;
        let state = inner.state();
        let preferred = inner.preferred();
        let cohorts = state.atlas.cohorts.iter().zip(&state.cohorts).enumerate();
        let cohorts: Vec<CohortStatus> = cohorts
            .map(|(index, (cohort, facts))| {
                let told = led.get(&facts.group);
                let local = inner.groups.get(facts.group);
                let role = local.as_ref().map(|cohort| *cohort.leader().borrow());
                let leader = told.map(|(host, _)| *host).or(role.and_then(|it| it.leader).map(|it| it.host));
                CohortStatus {
                    index,
                    group: facts.group,
                    state: cohort.clone(),
                    leader: leader.or_else(|| inner.router.leaders().known(facts.group)),
                    preferred: preferred.get(index).copied().flatten(),
                    term: told.map_or(role.map_or(0, |role| role.term), |(_, led)| led.term),
                    committed: told.map_or(0, |(_, led)| led.committed),
                    replicas: told.map(|(_, led)| led.replicas.clone()).unwrap_or_default(),
                    bytes: told.map(|(_, led)| led.bytes),
                    rows: told.map(|(_, led)| led.rows),
                    moving: of_move(cohort, told.map(|(_, led)| led)),
                    failure: inner.groups.failure(facts.group),
                }
            })
            .collect();
        let mut peers = self.peers();
        for peer in &mut peers {
            let leads = cohorts.iter().filter(|cohort| cohort.leader == Some(peer.host)).count();
            peer.leads = u32::try_from(leads).unwrap_or(u32::MAX);
        }
        CellStatus {
            cell: inner.options.cell,
            host: inner.options.host,
            atlas_version: state.atlas.version,
            peers,
            cohorts,
            catalog: self.flock_status(),
        }
    }

    /// Everybody known, by ascending host; this peer included.
    pub fn peers(&self) -> Vec<PeerStatus> {
        let inner = &self.inner;
        let (state, view, options) = (inner.state(), inner.gossip.look(), &inner.options);
        let connected: BTreeSet<HostId> =
            inner.link.connected().into_iter().map(|peer| peer.identity.host).collect();
        let leaders: Vec<Option<HostId>> =
            state.cohorts.iter().map(|facts| inner.router.leaders().known(facts.group)).collect();
        let mut hosts: BTreeSet<HostId> = state.atlas.cohorts.iter().flat_map(Cohort::hosts).collect();
        hosts.extend(state.members.keys());
        hosts.extend(view.peers.keys());
        hosts.insert(options.host);
        let peer = |host: HostId| {
            let is_me = host == options.host;
            let facts = view.peers.get(&host);
            let cohorts = state.atlas.cohorts.iter().filter(|c| c.hosts().any(|it| it == host)).count();
            let leads = leaders.iter().filter(|leader| **leader == Some(host)).count();
            let own_addr = inner.link.transport().map(|transport| transport.share_addr().to_string());
            PeerStatus {
                host,
                store: state.members.get(&host).copied().or(is_me.then_some(options.store)),
                is_me,
                health: if is_me { Health::Healthy } else { view.health(host) },
                connected: is_me || connected.contains(&host),
                peer_addr: if is_me { own_addr } else { facts.map(|it| it.addr.to_string()) },
                http_addr: if is_me {
                    Some(options.share_http_addr.clone())
                } else {
                    facts.and_then(|it| it.http.clone())
                },
                build: if is_me {
                    Some(options.build.clone())
                } else {
                    facts.and_then(|it| it.build.clone())
                },
                draining: if is_me {
                    inner.gossip.is_draining()
                } else {
                    facts.is_some_and(|it| it.draining)
                },
                seen: if is_me { Some(state.version) } else { facts.and_then(|it| it.seen) },
                disk_free_bytes: if is_me {
                    inner.space.free_bytes()
                } else {
                    facts.and_then(|it| it.disk_free)
                },
                cohorts: u32::try_from(cohorts).unwrap_or(u32::MAX),
                leads: u32::try_from(leads).unwrap_or(u32::MAX),
            }
        };
        hosts.into_iter().map(peer).collect()
    }

    /// Where the catalog is kept: its members, its leader, how far it is.
    pub fn flock_status(&self) -> CatalogStatus {
        let info = self.inner.catalog.info();
        let peers = self.peers();
        let group = self.inner.catalog.group().status();
        let member = |host: HostId| {
            let peer = peers.iter().find(|peer| peer.host == host);
            let votes = group.members.iter().any(|it| it.voter && it.replica.host == host);
            CatalogMember {
                host,
                votes: (!group.members.is_empty()).then_some(votes),
                peer_addr: peer.and_then(|it| it.peer_addr.clone()),
                http_addr: peer.and_then(|it| it.http_addr.clone()),
            }
        };
        CatalogStatus {
            version: info.version,
            schema_version: self.inner.state().schema_version,
            term: info.term,
            commit_index: (0 < info.committed).then(|| info.committed - 1),
            leader: info.leader,
            members: info.members.iter().copied().map(member).collect(),
        }
    }
}
