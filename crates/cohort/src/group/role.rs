//! Who leads, as one replica knows it.

use crate::machine::Machine;
use crate::peers::Replica;
use crate::raft::health::Health;
use crate::raft::{Applied, Leader, Raft};
use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use skein_model::LifeId;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A replica's part in its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Role {
    /// The latest term heard of.
    pub term: u64,
    /// Who leads that term, if somebody is known to.
    pub leader: Option<Replica>,
    /// Whether this replica leads that term, and has applied everything of earlier terms.
    pub leading: bool,
}

/// Starts to follow the role.
pub(super) fn watch_role<M: Machine>(
    life: LifeId,
    raft: Raft<M>,
    applied: Arc<Applied>,
    health: Health,
) -> (watch::Receiver<Role>, JoinHandle<()>) {
    let (tell, role) = watch::channel(Role::default());
    let task = tokio::spawn(async move {
        let mut server = raft.server_metrics();
        let mut entries = applied.leader.subscribe();
        let mut failure = health.watch();
        loop {
            let next = {
                let server = server.borrow_and_update();
                let stopped = failure.borrow_and_update().is_some();
                // A leader's first entry in its term comes after all entries of earlier terms.
                let first_applied = *entries.borrow_and_update();
                let Leader { term, node_id } = server.vote.leader_id;
                let leads = server.vote.committed && server.state == ServerState::Leader && node_id == life.0;
                let leader: Option<Replica> = server.membership_config.get_node(&node_id).copied();
                Role {
                    term,
                    leader: leader.filter(|_| server.vote.committed && !stopped),
                    leading: leads && !stopped && first_applied == Some(Leader { term, node_id }),
                }
            };
            tell.send_if_modified(|role| {
                let changes = *role != next;
                *role = next;
                changes
            });
            tokio::select! {
                biased;
                changed = failure.changed() => if changed.is_err() { return },
                changed = server.changed() => if changed.is_err() { return },
                changed = entries.changed() => if changed.is_err() { return },
            }
        }
    });
    (role, task)
}
