//! One replica of a Raft group: a log, a [`Machine`] that follows it, and the other replicas.

mod driver;
mod lease;
mod lives;
mod members;
mod messages;
mod options;
mod pace;
mod role;
mod status;
mod transfer;

use crate::machine::Machine;
use crate::peers::{Peers, Replica};
use crate::raft::health::Health;
use crate::raft::inbound::Inbound;
use crate::raft::outbound::Outbound;
use crate::raft::{
    Applied, Command, EntryResponder, Leader, LogStore, Network, Raft, RaftTypes, StateMachine,
};
use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::error::{ClientWriteError, InitializeError, RaftError};
use openraft::raft::{ClientWriteResult, ReadPolicy};
use openraft::{Config, ServerState};
use skein_model::{GroupId, HostId, LifeId};
use skein_storage::log::GroupLog;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex};
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use crate::raft::health::{Failure, OnFailure};
pub use crate::raft::outbound::{SnapshotProgress, Throttle};
pub use lives::may_end;
pub use members::Reconcile;
pub use options::{GroupOptions, SuspendClock, Timing};
pub use pace::{CopyRate, Pace};
pub use role::Role;
pub use status::{GroupStatus, MemberStatus};

/// Why a group did not do as asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GroupError {
    /// This replica does not lead, or is about to hand over. Nothing was done.
    #[error("this replica does not lead the group{}", match leader { Some(l) => format!("; {} does", l.host), None => String::new() })]
    NotLeader {
        /// Who leads, as far as is known here.
        leader: Option<Replica>,
    },
    /// Too few replicas answered to know.
    #[error("too few replicas of the group answer: {0}")]
    NoQuorum(String),
    /// A change of members is under way already, or this one cannot be made.
    #[error("the members of the group cannot be changed now: {0}")]
    Membership(String),
    /// A message from a peer makes no sense, or is not for this replica. Nothing was done.
    #[error("refused: {0}")]
    Refused(String),
    /// This replica has stopped for good.
    #[error(transparent)]
    Stopped(#[from] Failure),
}

/// What became of a proposed command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It is committed, and applied here.
    Applied {
        /// Its index in the log.
        index: u64,
    },
    /// It was refused before it was written anywhere, and never will be.
    NotWritten {
        /// Who leads, as far as is known here.
        leader: Option<Replica>,
    },
    /// Nobody knows: it may be committed, now or later.
    Unknown {
        /// What cut the wait short.
        why: String,
    },
}

/// One replica of a group; clones share it.
pub struct Group<M: Machine> {
    inner: Arc<Inner<M>>,
}

impl<M: Machine> Clone for Group<M> {
    fn clone(&self) -> Self {
        Group { inner: self.inner.clone() }
    }
}

struct Inner<M: Machine> {
    me: Replica,
    life: LifeId,
    /// Whether this replica is to be deleted, and so must not be made a member.
    retiring: AtomicBool,
    /// Questions under way to replicas that are about to be made members.
    asking: AtomicUsize,
    group: GroupId,
    peers: Arc<dyn Peers>,
    timing: Timing,
    machine: Arc<M>,
    log: LogStore,
    raft: Raft<M>,
    health: Health,
    applied: Arc<Applied>,
    role: watch::Receiver<Role>,
    /// When a leader was last heard, and until when this replica votes for nobody.
    heard: Arc<driver::Heard>,
    /// The term whose leadership is being handed over; there is no lease in it any more.
    handing_over: Arc<AtomicU64>,
    suspended: lease::Suspended,
    outbound: Outbound<M>,
    inbound: Inbound,
    /// A change of members under way.
    changing: Mutex<Option<JoinHandle<Result<(), GroupError>>>>,
    tasks: Vec<JoinHandle<()>>,
}

impl<M: Machine> Drop for Inner<M> {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        self.inbound.stop();
    }
}

impl<M: Machine> Group<M> {
    /// Opens the replica: recovers Raft and applies what is known to be committed beyond the machine's place.
    ///
    /// Returns while the group may still be without a leader; a new replica waits to be [initialised](Group::initialise) or
    /// to be added by a leader.
    ///
    /// Errors: the replica's [`Failure`]; nothing runs then.
    pub async fn open(log: GroupLog, machine: Arc<M>, options: GroupOptions) -> Result<Group<M>, GroupError> {
        let health = Health::new(options.on_failure.clone());
        let store = LogStore::new(log, health.clone());
        let (wrapper, applied) = StateMachine::open(machine.clone(), store.clone(), health.clone())?;
        let stopped = |e: &dyn std::fmt::Display| {
            health.failure().unwrap_or_else(|| Failure::Damaged(format!("Raft stopped while starting: {e}")))
        };
        let config = raft_config(&options.timing).map_err(|e| stopped(&e))?;
        // A replica that starts for the first time has promised nothing to any leader.
        let fresh = store.vote().map_err(|e| stopped(&e))?.is_none() && machine.place().is_none();
        let outbound = Outbound::new(options.seed, options.throttle.clone());
        let network = Network {
            life: options.life.0,
            peers: options.peers.clone(),
            group: options.group,
            patience: options.timing.lease / 2,
            outbound: outbound.clone(),
        };
        let (me, life) = (options.me, options.life);
        let raft = Raft::build(life.0, Arc::new(config), network, store.clone(), wrapper)
            .await
            .map_err(|e| stopped(&e))?;
        applied.set_running();
        raft.run();
        let (role, role_task) = role::watch_role(life, raft.clone(), applied.clone(), health.clone());
        let heard = Arc::new(driver::Heard::new(if fresh { None } else { Some(options.timing.lease) }));
        let driver = driver::Driver {
            life,
            raft: raft.clone(),
            timing: options.timing,
            beats_from: options.beats_from,
            heard: heard.clone(),
            luck: driver::Luck::new(options.seed),
        };
        let keeper = crate::housekeeping::Housekeeper {
            raft: raft.clone(),
            log: store.clone(),
            machine: machine.clone(),
            health: health.clone(),
            applied: applied.clone(),
            outbound: outbound.clone(),
            log_bytes_max: options.checkpoint_log_bytes,
        };
        let tasks = vec![role_task, tokio::spawn(driver.run()), tokio::spawn(keeper.run())];
        let inner = Inner {
            me,
            life,
            retiring: AtomicBool::new(false),
            asking: AtomicUsize::new(0),
            group: options.group,
            peers: options.peers,
            timing: options.timing,
            machine,
            log: store,
            raft,
            health,
            applied,
            role,
            heard,
            handing_over: Arc::new(AtomicU64::new(0)),
            suspended: lease::Suspended::new(options.suspend_clock),
            outbound,
            inbound: Inbound::new(),
            changing: Mutex::new(None),
            tasks,
        };
        Ok(Group { inner: Arc::new(inner) })
    }

    /// This replica.
    pub fn me(&self) -> Replica {
        self.inner.me
    }

    /// Which of those who lived there it is.
    pub fn life(&self) -> LifeId {
        self.inner.life
    }

    /// What the group replicates.
    pub fn machine(&self) -> &Arc<M> {
        &self.inner.machine
    }

    /// Makes these replicas the group's first members. All of them may be told, each with the same set; a replica that has
    /// been told before, or was added to a group, keeps the members it has; so does one that lives in its directory after the
    /// one that could found the group, as it knows nothing of what that one said.
    pub async fn initialise(&self, members: &BTreeSet<Replica>) -> Result<(), GroupError> {
        if self.inner.life != LifeId::founding(self.inner.me.store) {
            return Ok(());
        }
        let members: BTreeMap<u64, Replica> =
            members.iter().map(|replica| (LifeId::founding(replica.store).0, *replica)).collect();
        match self.inner.raft.initialize(members).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(RaftError::APIError(InitializeError::NotInMembers(_))) => {
                let text = format!("{} is not among the first members", self.inner.me.host);
                Err(GroupError::Membership(text))
            }
            Err(RaftError::Fatal(fatal)) => Err(self.stopped(&fatal).into()),
        }
    }

    /// Who leads, and in which term, as far as is known here; changes can be waited for.
    pub fn role(&self) -> watch::Receiver<Role> {
        self.inner.role.clone()
    }

    /// Proposes a command in `term`, which has to be one that this replica leads. `done` is called exactly once, perhaps before this
    /// returns, on whatever task finds out; it must not block.
    pub async fn propose(&self, command: Bytes, term: u64, done: impl FnOnce(Fate) + Send + 'static) {
        let report = Report { done: Some(done), health: self.inner.health.clone() };
        let responder = EntryResponder::new(move |result| report.finish(result));
        let leader = Leader { term, node_id: self.inner.life.0 };
        // Should Raft have stopped, the responder is dropped, and says so.
        let _ = self.inner.raft.write(Command(command)).with_leader(leader).responder(responder).await;
    }

    /// Confirms with a quorum that this replica leads, and waits until all that was acknowledged before the call is applied.
    pub async fn read_barrier(&self) -> Result<(), GroupError> {
        use openraft::error::LinearizableReadError as E;
        let read = self.inner.raft.get_read_linearizer(ReadPolicy::ReadIndex).await;
        let read = read.map_err(|error| match error {
            RaftError::APIError(E::ForwardToLeader(to)) => GroupError::NotLeader { leader: to.leader_node },
            RaftError::APIError(E::QuorumNotEnough(e)) => GroupError::NoQuorum(e.to_string()),
            RaftError::Fatal(fatal) => self.stopped(&fatal).into(),
        })?;
        read.await_ready(&self.inner.raft).await.map(|_| ()).map_err(|fatal| self.stopped(&fatal).into())
    }

    /// The host can be reached again: what waits to be sent there is sent now instead of at the next attempt.
    pub async fn peer_up(&self, host: HostId) {
        let nodes: Vec<u64> = {
            let metrics = self.inner.raft.metrics();
            let metrics = metrics.borrow_watched();
            if metrics.state != ServerState::Leader {
                return;
            }
            let nodes = metrics.membership_config.nodes();
            nodes.filter(|(_, at)| at.host == host).map(|(node, _)| *node).collect()
        };
        // To Raft, nobody means everybody.
        if !nodes.is_empty() {
            // A replica that has stopped sends nothing any more.
            let _ = self.inner.raft.trigger().reset_backoff(nodes).await;
        }
    }

    /// Why this replica has stopped, if it has.
    pub fn failure(&self) -> Option<Failure> {
        self.inner.health.failure()
    }

    /// As [`Group::failure`], to be waited for.
    pub fn watch_failure(&self) -> watch::Receiver<Option<Failure>> {
        self.inner.health.watch()
    }

    /// Why a committed entry waits for room in the machine, if one does; changes can be waited for.
    pub fn waits_for_room(&self) -> watch::Receiver<Option<String>> {
        self.inner.applied.full.subscribe()
    }

    /// Log bytes that a restart would have to apply again.
    pub fn log_bytes_since_checkpoint(&self) -> u64 {
        self.inner.log.bytes_since_position(self.inner.machine.durable_position())
    }

    /// Makes the machine durable up to here, and has the log cut soon after. On an error other than damage everything is as
    /// it was.
    pub async fn checkpoint(&self) -> Result<(), crate::machine::MachineError> {
        let done = self.inner.machine.checkpoint().await;
        if let Err(error @ crate::machine::MachineError::Damaged(_)) = &done {
            self.inner.health.fail(error.clone().into());
        }
        done?;
        let cut = self.inner.raft.trigger().snapshot().await;
        cut.map_err(|fatal| crate::machine::MachineError::Failed(self.stopped(&fatal).to_string()))
    }

    /// Stops the replica. The log and the machine stay open; their owner closes them afterwards, and checkpoints before
    /// if the next start is to be quick. Closing twice does nothing.
    pub async fn close(&self) {
        self.inner.health.fail(Failure::Closed);
        self.inner.tasks.iter().for_each(JoinHandle::abort);
        self.inner.inbound.stop();
        if let Err(error) = self.inner.raft.shutdown().await {
            tracing::error!(%error, "stop Raft");
        }
    }

    fn stopped(&self, error: &dyn std::fmt::Display) -> Failure {
        self.inner.health.failure().unwrap_or_else(|| Failure::DiskFailed(format!("Raft stopped: {error}")))
    }
}

fn raft_config(timing: &Timing) -> Result<Config, String> {
    let lease = u64::try_from(timing.lease.as_millis()).unwrap_or(u64::MAX);
    let config = Config {
        cluster_name: "skein".into(),
        // Heartbeats and elections are the driver's; Raft's own ticks stay off. What is left of these is the lease that followers
        // grant (the longest election timeout) and the patience with a heartbeat (its interval).
        enable_tick: false,
        heartbeat_interval: lease.saturating_sub(2),
        election_timeout_min: lease.saturating_sub(1),
        election_timeout_max: lease,
        enable_pre_vote: Some(true),
        // A leader that starts again is elected again: its old term is not its own any more.
        enable_leader_restore: Some(false),
        removed_leader_step_down: openraft::StepDownPolicy::Never,
        snapshot_policy: openraft::SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: 0,
        purge_batch_size: 1,
        ..Config::default()
    };
    config.validate().map_err(|e| format!("Raft configuration: {e}"))
}

/// Travels with a proposed command; whatever becomes of the command, `done` is called.
struct Report<F: FnOnce(Fate)> {
    done: Option<F>,
    health: Health,
}

impl<F: FnOnce(Fate)> Report<F> {
    fn finish(mut self, result: ClientWriteResult<RaftTypes>) {
        let fate = match result {
            Ok(written) => Fate::Applied { index: written.log_id.index },
            // Refused before it was appended.
            Err(ClientWriteError::ForwardToLeader(to)) => Fate::NotWritten { leader: to.leader_node },
            Err(error) => Fate::Unknown { why: error.to_string() },
        };
        if let Some(done) = self.done.take() {
            done(fate);
        }
    }
}

impl<F: FnOnce(Fate)> Drop for Report<F> {
    fn drop(&mut self) {
        if let Some(done) = self.done.take() {
            let why = self.health.failure().map_or("the replica stopped".to_owned(), |f| f.to_string());
            done(Fate::Unknown { why });
        }
    }
}
