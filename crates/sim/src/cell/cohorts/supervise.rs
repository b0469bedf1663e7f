//! Opens the replicas that a peer should have, brings the members of those it leads to what is wanted, and gives up the rest.

use super::requests::{Link, room};
use super::{CHECKPOINT_BYTES, Inner, locked};
use skein_cohort::group::{Reconcile, Timing, may_end};
use skein_cohort::peers::{Peers, Replica};
use skein_cohort::{Cohort, CohortOptions};
use skein_model::GroupId;
use skein_storage::drives::Drives;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Looks after everything, for as long as the peer lives.
pub async fn run(inner: Arc<Inner>) {
    let kept = match inner.place.machine.drives.groups() {
        Ok(groups) => groups,
        Err(error) => return fail(&inner, error.to_string()),
    };
    for group in kept {
        if let Err(why) = open(&inner, group).await {
            return fail(&inner, why);
        }
    }
    loop {
        let atlas = locked(&inner.board).atlas();
        for index in 0..atlas.cohorts.len() {
            if let Err(why) = look_after(&inner, index).await {
                return fail(&inner, why);
            }
        }
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
}

fn fail(inner: &Inner, why: String) {
    locked(&inner.failure).get_or_insert(why);
}

fn me(inner: &Inner) -> Replica {
    Replica { store: inner.place.machine.store, host: inner.place.machine.host }
}

async fn open(inner: &Arc<Inner>, group: GroupId) -> Result<Cohort, String> {
    let machine = &inner.place.machine;
    let nth = inner.opened.fetch_add(1, Ordering::Relaxed);
    let clock = machine.clock.clone();
    let options = CohortOptions {
        group,
        me: me(inner),
        founder: locked(&inner.board).is_founder(group.0 as usize - 1, me(inner)),
        log: inner.log.group(group.0),
        drives: Arc::new(machine.drives.clone()),
        peers: Arc::new(Link::new(inner)),
        timing: Timing::default(),
        throttle: None,
        beats_from: tokio::time::Instant::now(),
        suspend_clock: None,
        run: inner.place.seed.wrapping_add(nth << 32) ^ group.0,
        wall: Arc::new(move || clock.read()),
        room: room(),
        entries_in_flight_max: 2,
        pipeline_from: 1,
        waiting_max: 1000,
        checkpoint_log_bytes: CHECKPOINT_BYTES,
    };
    let cohort = Box::pin(Cohort::open(options)).await.map_err(|error| format!("open {group}: {error}"))?;
    locked(&inner.cohorts).insert(group, cohort.clone());
    Ok(cohort)
}

async fn look_after(inner: &Arc<Inner>, index: usize) -> Result<(), String> {
    let group = GroupId(index as u64 + 1);
    let me = me(inner);
    let open_already = locked(&inner.cohorts).get(&group).cloned();
    let involved = locked(&inner.board).atlas().cohorts[index].hosts().any(|host| host == me.host);
    let cohort = match open_already {
        Some(cohort) => cohort,
        None if involved => open(inner, group).await?,
        None => return Ok(()),
    };
    let founders = locked(&inner.board).founders(index).filter(|founders| founders.contains(&me));
    if let Some(founders) = founders
        && let Err(error) = cohort.initialise(&founders).await
    {
        inner.place.network.trace.say(|| format!("{}: cannot begin {group}: {error}", me.host));
    }
    if cohort.leader().borrow().leading {
        locked(&inner.board).opened(index);
        locked(&inner.board).seen(index);
        let wanted = locked(&inner.board).wanted(index);
        if let Some(wanted) = wanted {
            match cohort.reconcile(&wanted).await {
                Ok(Reconcile::Done) => locked(&inner.board).has_members(index, wanted),
                other => {
                    inner.place.network.trace.say(|| format!("{}: {group} on its way: {other:?}", me.host))
                }
            }
        }
        if inner.draining.load(Ordering::Relaxed) {
            let other = cohort.status().committed_voters.into_iter().find(|replica| *replica != me);
            if let Some(other) = other {
                let handed = cohort.transfer(other.store).await;
                inner
                    .place
                    .network
                    .trace
                    .say(|| format!("{}: {group} handed to {}: {handed:?}", me.host, other.host));
            }
        }
    }
    let spare = locked(&inner.board).is_spare(index, me);
    cohort.retire(spare);
    let others = locked(&inner.board).wanted(index).filter(|_| spare).unwrap_or_default();
    let peers: Arc<dyn Peers> = Arc::new(Link::new(inner));
    if spare && may_end(&peers, group, cohort.life(), &others, Duration::from_secs(2)).await {
        inner.place.network.trace.say(|| format!("{}: {group} is given up", me.host));
        locked(&inner.cohorts).remove(&group);
        cohort.remove().await.map_err(|error| format!("remove {group}: {error}"))?;
    }
    Ok(())
}
