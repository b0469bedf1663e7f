//! What is asked of a cell that nothing disturbs any more: to settle, and to tell everything.

use super::shared::{Phase, Shared};
use super::system::{Digest, Peer, Trouble};
use super::workload::TABLE;
use crate::check::{Asked, Row, Truth};
use skein_model::{GroupId, Slice, StoreId};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Who asks, in the history.
const ASKER: u64 = u64::MAX;

/// Waits until the atlas is what it should be everywhere, asks after all open transactions, and reads everything.
pub async fn tell<P: Peer>(shared: Rc<Shared>, peer: Rc<P>) {
    let waiting = |what: String| {
        let mut ending = shared.ending.borrow_mut();
        if ending.waiting_for != what {
            shared.trace.say(|| format!("finale: waiting for {what}"));
            ending.waiting_for = what;
        }
    };
    let mut put_again = Instant::now();
    loop {
        let goal = shared.goal();
        let settled = shared.atlases.borrow().iter().position(|atlas| {
            atlas
                .as_ref()
                .is_none_or(|atlas| !atlas.is_settled() || atlas.cohorts.iter().map(|c| c.origin()).ne(&goal))
        });
        match settled {
            Some(index) => {
                let atlas = shared.atlases.borrow()[index].clone();
                waiting(format!("the atlas of peer-{index} to be settled as {goal:?}; it is {atlas:?}"));
            }
            None => break,
        }
        // What was put during the chaos may have come in another order than it was asked for.
        let newest = shared.atlas.borrow().clone();
        if Instant::now() >= put_again && newest.cohorts.iter().map(|c| c.target()).ne(&goal) {
            put_again = Instant::now() + Duration::from_secs(3);
            if let Err(trouble) = peer.put_atlas(&goal).await {
                refused(&shared, trouble).await;
            }
        }
        sleep(Duration::from_millis(100)).await;
    }
    let open = shared.history.borrow().unsettled();
    let mut left = open.len();
    for id in open {
        loop {
            waiting(format!("the outcome of transaction {id}, one of {left}"));
            let call = shared.begin(ASKER, Asked::Status { id: id.clone() });
            match peer.status(id.clone(), soon()).await {
                Ok(answer) => {
                    shared.end(ASKER, call, answer);
                    break;
                }
                Err(trouble) => refused(&shared, trouble).await,
            }
        }
        left -= 1;
    }
    let truth = loop {
        waiting("a scan of all versions".into());
        match everything(&*peer).await {
            Ok(truth) => break truth,
            Err(trouble) => refused(&shared, trouble).await,
        }
    };
    // The peers are asked for what they hold only now, so that nothing is written any more while they tell.
    shared.phase.set(Phase::Over);
    loop {
        match compare(&shared) {
            None => break,
            Some(what) => waiting(what),
        }
        sleep(Duration::from_millis(50)).await;
    }
    let mut ending = shared.ending.borrow_mut();
    ending.truth = truth;
    ending.complete = true;
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

async fn refused(shared: &Shared, trouble: Trouble) {
    match trouble {
        Trouble::Broken(why) => shared.break_with(format!("at the end: {why}")),
        Trouble::Nothing(why) | Trouble::Unknown(why) => shared.trace.say(|| format!("finale: {why}")),
    }
    sleep(Duration::from_millis(200)).await;
}

/// All versions of all rows.
async fn everything<P: Peer>(peer: &P) -> Result<Truth, Trouble> {
    let mut scan = peer.scan(TABLE, Slice::ALL, None, true, soon()).await?;
    let mut truth = Truth::default();
    loop {
        let rows = scan.next().await?;
        if rows.is_empty() {
            return Ok(truth);
        }
        for (key, time, value) in rows {
            let row = Row { table: TABLE, key };
            truth.add(row, time, value).map_err(|why| Trouble::Broken(why.to_string()))?;
        }
    }
}

/// What is still missing before the replicas of each group can be said to be identical.
fn compare(shared: &Shared) -> Option<String> {
    let all = shared.digests.borrow();
    let mut groups: BTreeMap<GroupId, BTreeMap<StoreId, &Digest>> = BTreeMap::new();
    for (index, digests) in all.iter().enumerate() {
        let Some(digests) = digests else { return Some(format!("peer-{index} to tell what it holds")) };
        for digest in digests {
            groups.entry(digest.group).or_default().insert(digest.store, digest);
        }
    }
    for (group, replicas) in &groups {
        let mut held = replicas.values().map(|replica| (replica.applied, replica.digest));
        let first = held.next();
        if held.any(|other| Some(other) != first) {
            return Some(format!("the replicas of group {group} to be identical: {replicas:?}"));
        }
    }
    // Whoever is in no cohort may still have a replica that is about to be deleted, but nobody may lack one.
    let replicas: usize =
        groups.iter().filter(|(group, _)| **group != GroupId::CATALOG).map(|(_, r)| r.len()).sum();
    let wanted: usize = shared.goal().iter().map(|hosts| hosts.len()).sum();
    (replicas != wanted).then(|| format!("{wanted} replicas; there are {replicas}: {groups:?}"))
}
