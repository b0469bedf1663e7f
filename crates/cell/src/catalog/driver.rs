//! What goes on in the background of a peer's catalog.

use super::command::Refusal;
use super::handle::Inner;
use super::link::Reply;
use crate::supervisor;
use skein_cohort::group::{GroupError, Reconcile};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Between two attempts at what failed, and two looks at what may have been missed.
const PAUSE: Duration = Duration::from_secs(1);
/// How long a command of the supervisor's is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Between two steps of a change of members.
const STEP: Duration = Duration::from_millis(250);
/// Between two looks at members that were as wanted.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

pub(super) fn start(inner: &Arc<Inner>) -> Vec<JoinHandle<()>> {
    vec![
        tokio::spawn(follow(inner.clone())),
        tokio::spawn(keep(inner.clone())),
        tokio::spawn(supervise(inner.clone())),
        tokio::spawn(finish_founding(inner.clone())),
        tokio::spawn(gather_members(inner.clone())),
    ]
}

/// Makes known what the replica has reached.
async fn follow(inner: Arc<Inner>) {
    let mut state = inner.machine.state();
    loop {
        let reached = state.borrow_and_update().clone();
        // A conflict was told when it was found; the replica goes on in its own cell.
        let _ = inner.known.learn(reached).await;
        if state.changed().await.is_err() {
            return;
        }
    }
}

/// Keeps what is known across restarts.
async fn keep(inner: Arc<Inner>) {
    let mut known = inner.known.watch();
    loop {
        known.borrow_and_update();
        if let Err(error) = inner.known.keep().await {
            tracing::warn!(%error, "keep the catalog that was learned; this is tried again");
            tokio::time::sleep(PAUSE).await;
        } else if known.changed().await.is_err() {
            return;
        }
    }
}

/// Lets moves go on, while this peer leads the catalog.
async fn supervise(inner: Arc<Inner>) {
    let mut role = inner.group.role();
    let mut state = inner.machine.state();
    loop {
        let leading = role.borrow_and_update().leading;
        let reached = state.borrow_and_update().clone();
        let command = if leading {
            let mut observed = inner.observed();
            observed.keep_only_known(&reached);
            // What this peer leads by, it has seen.
            observed.saw(inner.me.host, reached.version);
            supervisor::next_command(&reached, &observed)
        } else {
            // A later leadership starts anew: what is true then is reported then.
            *inner.observed() = supervisor::Observed::default();
            None
        };
        if let Some(command) = command {
            let request = inner.request(command);
            match inner.propose(request, Instant::now() + PATIENCE).await {
                // Looked at again at once: there may be more to do.
                Reply::Changed(Ok(_)) | Reply::Changed(Err(Refusal::NothingToAdvance)) => continue,
                Reply::Elsewhere { .. } => {}
                other => {
                    tracing::warn!(?other, "let moves go on; this is tried again");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
        tokio::select! {
            biased;
            changed = role.changed() => if changed.is_err() { return },
            changed = state.changed() => if changed.is_err() { return },
            () = inner.news.notified() => {}
        }
    }
}

/// Brings the members of the catalog's group to the hosts of cohort 0, while this peer leads it.
async fn gather_members(inner: Arc<Inner>) {
    let mut role = inner.group.role();
    let mut state = inner.machine.state();
    let mut reported = None;
    loop {
        let leading = role.borrow_and_update().leading;
        let wanted = state.borrow_and_update().catalog_replicas();
        let mut settled = true;
        if leading && !wanted.is_empty() {
            let step = tokio::time::timeout(PATIENCE, inner.group.reconcile(&wanted)).await;
            settled = matches!(step, Ok(Ok(Reconcile::Done)));
            // Repeated many times while a peer is away; told once.
            let told = match &step {
                Ok(Ok(step)) => format!("{:?}", std::mem::discriminant(step)),
                other => format!("{other:?}"),
            };
            if reported.as_ref() != Some(&told) {
                match &step {
                    Ok(Ok(step)) => match crate::duties::describe(step) {
                        Some(waits_for) => {
                            tracing::info!("the members of the catalog change: it waits for {waits_for}")
                        }
                        None => tracing::info!("the members of the catalog are the hosts that shall keep it"),
                    },
                    // Whoever leads now goes on.
                    Ok(Err(GroupError::NotLeader { .. })) => {}
                    Ok(Err(error)) => {
                        tracing::warn!(%error, "change the members of the catalog; this is tried again")
                    }
                    Err(_) => {
                        tracing::warn!("a change of the catalog's members takes long; this is tried again")
                    }
                }
                reported = Some(told);
            }
        }
        let pause = if settled { LOOK_AGAIN } else { STEP };
        tokio::select! {
            biased;
            changed = role.changed() => if changed.is_err() { return },
            changed = state.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Finishes a founding that was begun, in this life of the process or an earlier one.
async fn finish_founding(inner: Arc<Inner>) {
    let mut known = inner.known.watch();
    loop {
        if let Some(genesis) = inner.founding.intent() {
            let _one_at_a_time = inner.founding.busy.lock().await;
            // It may have been finished while we waited.
            if inner.founding.intent().is_some()
                && let Err(error) = inner.resume(genesis, Instant::now() + PATIENCE).await
            {
                tracing::warn!(%error, "found the cell; this is tried again");
            }
        }
        if inner.founding.intent().is_none() && known.borrow_and_update().is_founded() {
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
}
