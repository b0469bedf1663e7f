//! What whoever leads a cohort has to do besides serving it: bring its members in line with the atlas, tell the catalog how far
//! that is, and hand leadership to whom it belongs. And what every peer does for the catalog: spread it, and join it.

use crate::catalog::{Command, Summary};
use crate::cell::Inner;
use crate::leaders::preferred_leaders;
use crate::supervisor::Report;
use skein_cohort::Cohort;
use skein_cohort::group::Reconcile;
use skein_cohort::peers::Replica;
use skein_model::{GroupId, HostId};
use std::collections::BTreeSet;
use std::sync::Weak;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Between two rounds of the leaders' duties.
const PERIOD: Duration = Duration::from_millis(500);
/// How long one thing may take.
const WITHIN: Duration = Duration::from_secs(5);
/// A voter that is this far behind does not take over: writes would wait for it.
const LAG_MAX: u64 = 1000;

/// Runs until the cell is gone or stopping.
pub(crate) async fn lead(cell: Weak<Inner>, mut stopping: watch::Receiver<bool>) {
    let mut tick = tokio::time::interval(PERIOD);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            _ = async { stopping.wait_for(|stopping| *stopping).await.map(drop) } => return,
            _ = tick.tick() => {}
        }
        let Some(inner) = cell.upgrade() else { return };
        let led: Vec<_> =
            inner.groups().all().into_iter().filter(|(_, cohort)| cohort.leader().borrow().leading).collect();
        let preferred = inner.preferred();
        let duties = led.into_iter().map(|(group, cohort)| {
            let inner = &inner;
            let wish = inner.state().position(group).and_then(|at| preferred.get(at).copied().flatten());
            async move { inner.duty(group, &cohort, wish).await }
        });
        futures_util::future::join_all(duties).await;
        if inner.gossip().leads_nothing() {
            inner.hand_over_catalog().await;
        }
    }
}

/// Runs until the cell is gone or stopping: spreads the catalog both ways, and joins it.
pub(crate) async fn spread(cell: Weak<Inner>, mut stopping: watch::Receiver<bool>) {
    let Some((mut view, mut state)) =
        cell.upgrade().map(|inner| (inner.gossip().view(), inner.catalog().state()))
    else {
        return;
    };
    loop {
        let Some(inner) = cell.upgrade() else { return };
        inner.spread_catalog().await;
        drop(inner);
        tokio::select! {
            biased;
            _ = async { stopping.wait_for(|stopping| *stopping).await.map(drop) } => return,
            changed = state.changed() => if changed.is_err() { return },
            changed = view.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(WITHIN) => {}
        }
    }
}

impl Inner {
    /// Who wants to lead nothing.
    fn draining(&self) -> BTreeSet<HostId> {
        let view = self.gossip().look();
        let mut draining: BTreeSet<HostId> =
            view.peers.iter().filter(|(_, it)| it.draining).map(|(host, _)| *host).collect();
        if self.gossip().leads_nothing() {
            draining.insert(self.me().host);
        }
        draining
    }

    /// Who should lead each cohort, in the atlas's order.
    pub(crate) fn preferred(&self) -> Vec<Option<HostId>> {
        let draining = self.draining();
        let avoided = self.gossip().look().unwell.keys().copied().collect();
        preferred_leaders(&self.state().atlas, &draining, &avoided)
    }

    /// One round of the duties of a cohort's leader.
    async fn duty(&self, group: GroupId, cohort: &Cohort, preferred: Option<HostId>) {
        // In this order: the report says by which catalog the members were looked at.
        let state = self.state();
        let Some(position) = state.position(group) else { return };
        let wanted = state.wanted_replicas(position);
        let hosts =
            state.atlas.cohorts.get(position).map(|cohort| crate::catalog::state::wanted(cohort).len());
        if hosts != Some(wanted.len()) {
            self.waits(group, Some("a host of the cohort has to join first".into()));
            return;
        }
        let step = match tokio::time::timeout(WITHIN, cohort.reconcile(&wanted)).await {
            Ok(Ok(step)) => step,
            Ok(Err(error)) => return self.waits(group, Some(error.to_string())),
            Err(_) => return self.waits(group, Some("a quorum of the cohort".into())),
        };
        self.waits(group, describe(&step));
        let term = cohort.leader().borrow().term;
        let facts = &state.cohorts[position];
        let settled = state.atlas.cohorts[position].is_settled();
        if matches!(step, Reconcile::Done) && (!settled || !facts.opened) {
            let report = Report::of(group, term, state.version, Some(&wanted));
            self.report(report).await;
        } else if !facts.opened {
            self.report(Report::of(group, term, state.version, None)).await;
        }
        if matches!(step, Reconcile::Done) {
            self.hand_over(cohort, preferred).await;
        }
    }

    async fn report(&self, report: Report) {
        let group = report.group;
        if let Err(error) = self.catalog().report(report, Instant::now() + WITHIN).await {
            tracing::debug!(%group, %error, "report a cohort to the catalog; done again soon");
        }
    }

    /// Hands leadership to the preferred leader, once it has nearly everything; when draining, to anybody.
    async fn hand_over(&self, cohort: &Cohort, preferred: Option<HostId>) {
        let me = self.me();
        let Some(preferred) = preferred.filter(|host| *host != me.host) else { return };
        let status = cohort.status();
        let ready = status.members.iter().find(|member| {
            member.replica.host == preferred
                && member.voter
                && status.lag(member).is_some_and(|lag| lag <= LAG_MAX)
                && member.silent.is_some_and(|silent| silent < WITHIN)
        });
        let Some(member) = ready else { return };
        match cohort.transfer(member.replica.store).await {
            Ok(()) => metrics::counter!("skein_handovers_total").increment(1),
            Err(error) => tracing::debug!(%error, to = %preferred, "hand over a cohort; tried again"),
        }
    }

    /// Hands over all that this peer leads, to the best of those that can take over; for a peer that stops.
    pub(crate) async fn hand_over_all(&self, within: Duration) {
        let led = self.groups().all().into_iter().filter(|(_, cohort)| cohort.leader().borrow().leading);
        let handovers = led.map(|(_, cohort)| async move {
            if let Some(heir) = heir(&cohort, self.me())
                && let Err(error) = cohort.transfer(heir.store).await
            {
                tracing::debug!(%error, to = %heir.host, "hand over a cohort before stopping");
            }
        });
        let catalog = self.hand_over_catalog();
        let all = async { tokio::join!(futures_util::future::join_all(handovers), catalog) };
        let _ = tokio::time::timeout(within, all).await;
    }

    /// Hands over the catalog, if this peer leads it, to the best of those that want to lead and can.
    async fn hand_over_catalog(&self) {
        let mut status = self.catalog().group().status();
        if !status.leading {
            return;
        }
        let draining = self.draining();
        status.members.retain(|member| !draining.contains(&member.replica.host));
        if let Some(heir) = best(&status, self.me())
            && let Err(error) = self.catalog().group().transfer(heir.store).await
        {
            tracing::debug!(%error, to = %heir.host, "hand over the catalog; tried again while draining");
        }
    }

    /// Tells others of the newest catalog known here, fetches a newer one that others told of, and joins it.
    async fn spread_catalog(&self) {
        let view = self.gossip().look();
        for (host, peer) in &view.peers {
            if let Some(seen) = peer.seen {
                self.catalog().saw(*host, seen);
            }
        }
        let state = self.state();
        if state.is_founded() {
            self.gossip().tell_catalog(state.version, Summary::of(&state).encode());
        }
        if let Some((_, told)) = &view.catalog
            && let Some(summary) = Summary::decode(told)
            && (state.version < summary.version || state.founding != summary.founding)
        {
            let seen =
                view.peers.iter().filter(|(_, it)| it.seen >= Some(summary.version)).map(|(host, _)| *host);
            let hosts: BTreeSet<HostId> = summary.members.iter().copied().chain(seen).collect();
            let hosts: Vec<HostId> = hosts.into_iter().filter(|host| *host != self.me().host).collect();
            if let Err(error) = self.catalog().catch_up(&summary, &hosts, Instant::now() + WITHIN).await {
                tracing::debug!(%error, version = summary.version, "fetch the newer catalog; tried again");
            }
        }
        let state = self.state();
        let me = self.me();
        if state.is_founded() && !state.members.contains_key(&me.host) {
            let join = Command::Join { host: me.host, store: me.store };
            match self.catalog().change(join, Instant::now() + WITHIN).await {
                Ok(outcome) if outcome.changed => tracing::info!("joined the cell"),
                // An earlier attempt did it.
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "join the cell; tried again"),
            }
        }
    }
}

/// Who takes over best.
fn heir(cohort: &Cohort, me: Replica) -> Option<Replica> {
    best(&cohort.status(), me)
}

/// The voter, other than this one, that answers and lags least.
fn best(status: &skein_cohort::group::GroupStatus, me: Replica) -> Option<Replica> {
    let alive = |member: &&skein_cohort::group::MemberStatus| {
        member.voter && member.replica != me && member.silent.is_some_and(|silent| silent < WITHIN)
    };
    let lag = |member: &&skein_cohort::group::MemberStatus| status.lag(member).unwrap_or(u64::MAX);
    status.members.iter().filter(alive).min_by_key(lag).map(|member| member.replica)
}

/// What a step waits for, in words; `None` if nothing.
pub(crate) fn describe(step: &Reconcile) -> Option<String> {
    let names = |hosts: Vec<HostId>| hosts.iter().map(HostId::to_string).collect::<Vec<_>>().join(", ");
    match step {
        Reconcile::Done => None,
        Reconcile::Added(replicas) => {
            Some(format!("{} to begin", names(replicas.iter().map(|it| it.host).collect())))
        }
        Reconcile::CatchingUp(members) => {
            Some(format!("{} to catch up", names(members.iter().map(|it| it.replica.host).collect())))
        }
        Reconcile::Changing { silent } if silent.is_empty() => {
            Some("a change of voters to be committed".into())
        }
        Reconcile::Changing { silent } => {
            Some(format!("an answer of {}", names(silent.iter().map(|it| it.host).collect())))
        }
        Reconcile::HandedOver(to) => Some(format!("{} to go on with it", to.host)),
        Reconcile::Waiting(why) => Some(why.clone()),
    }
}
