//! The snapshot on its way in: fetched by a task of its own, while the leader asks now and then how far it is.

use super::rpc::{Fetch, Install, Installing, Lives, Piece, Request};
use super::state_machine::{RaftSnapshot, SnapshotData};
use super::{Member, Raft, types::RaftVote};
use crate::clock::locked;
use crate::machine::{Machine, MachineError, Staging};
use crate::peers::{PeerError, Peers};
use bytes::Bytes;
use futures_util::StreamExt;
use openraft::SnapshotMeta;
use openraft::storage::Snapshot;
use skein_model::GroupId;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// How long a question is kept waiting for news.
const NEWS_PATIENCE: Duration = Duration::from_secs(1);
/// A stream that brings nothing for so long is taken for cut.
const PIECE_PATIENCE: Duration = Duration::from_secs(10);
/// Between two attempts to go on.
const RETRY: Duration = Duration::from_millis(200);
/// Without a new piece for so long, the snapshot is given up.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// The one snapshot that is being received, or was last.
pub(crate) struct Inbound {
    current: Mutex<Option<Current>>,
}

struct Current {
    from: Member,
    snapshot: u64,
    vote: RaftVote,
    state: watch::Receiver<Installing>,
    task: JoinHandle<()>,
}

impl Drop for Current {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Inbound {
    pub(crate) fn new() -> Inbound {
        Inbound { current: Mutex::new(None) }
    }

    /// Stops receiving.
    pub(crate) fn stop(&self) {
        locked(&self.current).take();
    }

    /// Begins to fetch the snapshot for `life`, this replica's, unless it is being fetched already, and tells how far it is.
    #[expect(clippy::too_many_arguments, reason = "what a snapshot needs, once")]
    pub(crate) async fn install<M: Machine>(
        &self,
        install: Install,
        from: Member,
        life: u64,
        peers: &Arc<dyn Peers>,
        group: GroupId,
        raft: &Raft<M>,
        machine: &Arc<M>,
    ) -> Installing {
        let mut state = {
            let mut current = locked(&self.current);
            match &*current {
                Some(c) if c.from == from && c.snapshot == install.snapshot => c.state.clone(),
                // A leader that was deposed does not know yet.
                Some(c) if install.vote < c.vote => return Installing::Done { vote: c.vote },
                _ => {
                    let (tell, state) = watch::channel(Installing::Working { bytes: 0, rows: 0 });
                    let (vote, snapshot) = (install.vote, install.snapshot);
                    let receiver = Receiver {
                        install,
                        from,
                        life,
                        peers: peers.clone(),
                        group,
                        raft: raft.clone(),
                        machine: machine.clone(),
                        tell,
                    };
                    // Dropping the one before gives up what it had.
                    let task = tokio::spawn(receiver.run());
                    *current = Some(Current { from, snapshot, vote, state: state.clone(), task });
                    state
                }
            }
        };
        let done = state.wait_for(|state| !matches!(state, Installing::Working { .. }));
        match tokio::time::timeout(NEWS_PATIENCE, done).await {
            Ok(Ok(state)) => return state.clone(),
            Ok(Err(_)) => return Installing::Failed { why: "receiving it was stopped".into() },
            Err(_) => {}
        }
        let working = state.borrow();
        working.clone()
    }
}

struct Receiver<M: Machine> {
    install: Install,
    from: Member,
    life: u64,
    peers: Arc<dyn Peers>,
    group: GroupId,
    raft: Raft<M>,
    machine: Arc<M>,
    tell: watch::Sender<Installing>,
}

impl<M: Machine> Receiver<M> {
    async fn run(self) {
        let end = match self.receive().await {
            Ok(vote) => Installing::Done { vote },
            Err(why) => {
                tracing::warn!(from = %self.from.replica.host, group = %self.group, why, "receive a snapshot");
                Installing::Failed { why }
            }
        };
        self.tell.send_replace(end);
    }

    async fn receive(&self) -> Result<RaftVote, String> {
        let mut staged = self.machine.stage().await.map_err(|e| e.to_string())?;
        let mut position = Bytes::new();
        let mut arrived = 0;
        let mut heard = Instant::now();
        loop {
            let before = position.clone();
            match self.read(&mut staged, &mut position, &mut arrived).await {
                Ok(()) => break,
                Err(Cut::ForGood(why)) => return Err(why),
                Err(Cut::Perhaps(why)) => {
                    if before != position {
                        heard = Instant::now();
                    }
                    if SILENCE_MAX < heard.elapsed() {
                        return Err(why);
                    }
                    tracing::info!(from = %self.from.replica.host, group = %self.group, why, arrived, "a snapshot was cut; going on");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
        let place = self.install.place.clone();
        let meta = SnapshotMeta { last_log_id: place.last, last_membership: place.membership };
        let snapshot: RaftSnapshot<M> = Snapshot { meta, snapshot: SnapshotData::Incoming(staged) };
        let installed = self.raft.install_full_snapshot(self.install.vote, snapshot).await;
        installed.map(|response| response.vote).map_err(|e| e.to_string())
    }

    /// Reads pieces until the end or a cut.
    async fn read(
        &self,
        staged: &mut M::Staging,
        position: &mut Bytes,
        arrived: &mut u64,
    ) -> Result<(), Cut> {
        let id = self.install.snapshot;
        let request = Request::Fetch(Fetch { snapshot: id, position: position.clone() });
        let request = request.encode(Lives { from: self.life, to: self.from.life });
        let mut pieces = self.peers.fetch(self.from.replica, self.group, request);
        loop {
            let piece = match tokio::time::timeout(PIECE_PATIENCE, pieces.next()).await {
                Ok(Some(Ok(piece))) => piece,
                Ok(Some(Err(PeerError::Refused(why)))) => return Err(Cut::ForGood(why)),
                Ok(Some(Err(error))) => return Err(Cut::Perhaps(error.to_string())),
                Ok(None) => return Err(Cut::Perhaps("the stream ended early".into())),
                Err(_) => return Err(Cut::Perhaps("the stream stalled".into())),
            };
            // A damaged piece is fetched again, from the last good position.
            match Piece::decode(piece, id, position).map_err(|e| Cut::Perhaps(e.to_string()))? {
                Piece::End => return Ok(()),
                Piece::Chunk { bytes, next } => {
                    let length = bytes.len() as u64;
                    // A chunk that is written in part cannot be written again: the whole snapshot begins anew.
                    staged.write(bytes).await.map_err(|e: MachineError| Cut::ForGood(e.to_string()))?;
                    *position = next;
                    *arrived += length;
                    self.tell.send_replace(Installing::Working { bytes: *arrived, rows: staged.rows() });
                }
            }
        }
    }
}

/// Why no more pieces came.
enum Cut {
    /// The snapshot is lost.
    ForGood(String),
    /// It may go on.
    Perhaps(String),
}
