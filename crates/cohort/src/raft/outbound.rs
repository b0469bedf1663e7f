//! Snapshots on their way out. A leader names a view and asks a follower to fetch it; the follower reads chunk by chunk, at
//! its own pace, and goes on where it was when the connection is cut. The leader keeps no chunk.

use super::codec::{Origin, Place};
use super::pace::Pace;
use super::rpc::{Fetch, Install, Installing, Lives, Piece, Request};
use super::state_machine::RaftSnapshotMeta;
use super::types::{Member, RaftVote};
use crate::clock::locked;
use crate::machine::{Machine, MachineError, View};
use crate::peers::{PeerError, Peers};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use skein_model::GroupId;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

/// Bytes of a chunk, about.
const CHUNK_BYTES: usize = 512 << 10;
/// Between two questions to a follower how far it is, if it does not answer.
const RETRY: Duration = Duration::from_millis(500);
/// How long a follower may take to answer how far it is; it takes a while on purpose.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);
/// A follower that says nothing for so long loses its snapshot, and gets another once it is back.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Slows snapshots down: waits until so many bytes may be sent. Shared by all groups of a process that are to share a limit.
pub trait Throttle: Send + Sync + 'static {
    /// Waits until `bytes` more may be sent.
    fn take(&self, bytes: usize) -> BoxFuture<'static, ()>;

    /// Told how long an entry that was proposed here took until it was applied. Called for every entry: cheap.
    fn wrote(&self, _took: Duration) {}
}

/// How far a snapshot on its way to a replica is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotProgress {
    /// Bytes that the replica has.
    pub bytes: u64,
    /// About how many there are.
    pub bytes_total: u64,
    /// Rows that the replica has; 0 where the machine knows no rows.
    pub rows: u64,
    /// About how many there are.
    pub rows_total: u64,
    /// Bytes a second of late; `None` while too little has been heard to tell.
    pub bytes_per_second: Option<u64>,
    /// Index of the last entry it holds.
    pub index: u64,
}

struct Out<V> {
    view: Arc<V>,
    to: Member,
    progress: SnapshotProgress,
    pace: Pace,
    /// Whether the receiver has said anything about it.
    heard: bool,
}

/// The snapshots that are being sent, by name; clones share them.
pub(crate) struct Outbound<M: Machine> {
    sending: Arc<Mutex<BTreeMap<u64, Out<M::View>>>>,
    next: Arc<AtomicU64>,
    throttle: Option<Arc<dyn Throttle>>,
}

impl<M: Machine> Clone for Outbound<M> {
    fn clone(&self) -> Self {
        Outbound { sending: self.sending.clone(), next: self.next.clone(), throttle: self.throttle.clone() }
    }
}

/// Forgets a snapshot when whoever sends it is done or gone.
struct Kept<'a, M: Machine>(&'a Outbound<M>, u64);

impl<M: Machine> Drop for Kept<'_, M> {
    fn drop(&mut self) {
        locked(&self.0.sending).remove(&self.1);
    }
}

impl<M: Machine> Outbound<M> {
    /// `seed` should differ from run to run, so that no name means two snapshots.
    pub(crate) fn new(seed: u64, throttle: Option<Arc<dyn Throttle>>) -> Outbound<M> {
        Outbound { sending: Arc::default(), next: Arc::new(AtomicU64::new(seed)), throttle }
    }

    /// How far the snapshot to a life is, if there is one.
    pub(crate) fn progress(&self, to: u64) -> Option<SnapshotProgress> {
        let sending = locked(&self.sending);
        let out = sending.values().find(|out| out.to.life == to)?;
        Some(SnapshotProgress { bytes_per_second: out.pace.per_second(Instant::now()), ..out.progress })
    }

    /// Index of the oldest snapshot that somebody is fetching: its receiver needs the log from there.
    pub(crate) fn oldest_index(&self) -> Option<u64> {
        locked(&self.sending).values().filter(|out| out.heard).map(|out| out.progress.index).min()
    }

    /// Has a snapshot of `from`, the life that sends, fetched and installed; returns the follower's vote then.
    #[expect(clippy::too_many_arguments, reason = "what a snapshot needs, once")]
    pub(crate) async fn send(
        &self,
        peers: &Arc<dyn Peers>,
        group: GroupId,
        from: u64,
        to: Member,
        vote: RaftVote,
        meta: RaftSnapshotMeta,
        view: Arc<M::View>,
    ) -> Result<RaftVote, String> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let bytes_total = view.bytes_estimate();
        let index = meta.last_log_id.map_or(0, |last| last.index);
        let place =
            Place { origin: Origin::Received, last: meta.last_log_id, membership: meta.last_membership };
        let request = Request::Install(Install { vote, place, snapshot: id, bytes: bytes_total });
        let request = request.encode(Lives { from, to: to.life });
        let progress = SnapshotProgress {
            bytes: 0,
            bytes_total,
            rows: 0,
            rows_total: view.rows_estimate(),
            bytes_per_second: None,
            index,
        };
        locked(&self.sending).insert(id, Out { view, to, progress, pace: Pace::default(), heard: false });
        let _kept = Kept(self, id);
        // Who never answers is not worth keeping a view for.
        let (mut heard, mut silence_max) = (Instant::now(), ANSWER_PATIENCE);
        loop {
            let deadline = Instant::now() + ANSWER_PATIENCE;
            let answer =
                tokio::time::timeout_at(deadline, peers.call(to.replica, group, request.clone(), deadline));
            let error = match answer.await {
                Ok(Ok(bytes)) => {
                    (heard, silence_max) = (Instant::now(), SILENCE_MAX);
                    match Installing::decode(bytes).map_err(|e| e.to_string())? {
                        Installing::Done { vote } => return Ok(vote),
                        Installing::Failed { why } => return Err(why),
                        Installing::Working { bytes, rows } => {
                            if let Some(out) = locked(&self.sending).get_mut(&id) {
                                (out.progress.bytes, out.progress.rows) = (bytes, rows);
                                out.pace.note(Instant::now(), bytes);
                                out.heard = true;
                            }
                            continue;
                        }
                    }
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer".to_owned(),
            };
            if silence_max < heard.elapsed() {
                return Err(error);
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// The pieces that a follower asks for.
    pub(crate) fn serve(&self, from: Member, fetch: Fetch) -> BoxStream<'static, Result<Bytes, PeerError>> {
        let id = fetch.snapshot;
        let state = Some((self.clone(), fetch.position));
        Box::pin(stream::unfold(state, move |state| async move {
            let (outbound, position) = state?;
            match outbound.piece(from, id, position.clone()).await {
                Ok(piece) => {
                    let bytes = piece.encode(id, &position);
                    let rest = match piece {
                        Piece::Chunk { next, .. } => Some((outbound, next)),
                        Piece::End => None,
                    };
                    Some((Ok(bytes), rest))
                }
                Err(error) => Some((Err(error), None)),
            }
        }))
    }

    async fn piece(&self, from: Member, id: u64, position: Bytes) -> Result<Piece, PeerError> {
        let view = match locked(&self.sending).get(&id) {
            Some(out) if out.to == from => out.view.clone(),
            _ => return Err(PeerError::Refused("this snapshot is not being sent any more".into())),
        };
        let chunk = skein_storage::blocking(move || view.chunk(&position, CHUNK_BYTES)).await;
        match chunk.map_err(|e| PeerError::NoAnswer(e.to_string()))? {
            Ok(None) => Ok(Piece::End),
            Ok(Some(chunk)) => {
                if let Some(throttle) = &self.throttle {
                    throttle.take(chunk.bytes.len()).await;
                }
                Ok(Piece::Chunk { bytes: chunk.bytes, next: chunk.next })
            }
            Err(error @ MachineError::Refused(_)) => Err(PeerError::Refused(error.to_string())),
            Err(error) => Err(PeerError::NoAnswer(error.to_string())),
        }
    }
}
