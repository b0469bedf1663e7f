//! One connection after the handshake: a task that reads, writes and listens for signs of life, until one of these ends it.

use crate::api::{Handler, PeerInfo};
use crate::arrivals::Arrivals;
use crate::lanes::{Control, Lanes};
use crate::network::Io;
use crate::options::{Limits, Timeouts};
use crate::refusal::Reason;
use crate::switchboard::Switchboard;
use crate::wire::{FRAME_BYTES_MAX, Frame, FrameError, HEAD_BYTES};
use bytes::{Buf, Bytes, BytesMut};
use skein_model::HostId;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, MissedTickBehavior};

/// How a connection came to be. Both ends know all of it, so both keep the same one of two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Origin {
    /// Which end connected.
    pub(crate) opener: HostId,
    /// Which of the opener's connections.
    pub(crate) number: u64,
    /// Where to, if that was us.
    pub(crate) dialled: Option<SocketAddr>,
}

impl Origin {
    /// Of two connections between the same processes the one that the larger host ID opened stays; of two that the same end opened,
    /// the older.
    pub(crate) fn outlives(&self, other: &Origin) -> bool {
        (other.opener, self.number) < (self.opener, other.number)
    }
}

/// Everybody's handle to a connection.
pub(crate) struct Conn {
    /// Unique in this process.
    pub(crate) id: u64,
    pub(crate) peer: PeerInfo,
    /// Which run of the peer's process.
    pub(crate) life: u64,
    pub(crate) origin: Origin,
    /// Attempts in a row that failed before it.
    pub(crate) failures: u32,
    pub(crate) limits: Limits,
    pub(crate) timeouts: Timeouts,
    /// TLS checks what arrives, so that frames need not.
    pub(crate) checksummed: bool,
    pub(crate) since: Instant,
    /// One for each call of ours.
    pub(crate) permits: Arc<Semaphore>,
    /// The owner posts to the peer, or the peer to us.
    pub(crate) posts_wanted: AtomicBool,
    lanes: Mutex<Lanes>,
    /// There is something to write.
    pub(crate) wake: Notify,
    /// There is room for answers again.
    drained: Notify,
    /// How often something was read.
    heard: AtomicU64,
    /// Somebody claims to be this peer's next life: no patience with silence.
    hurry: AtomicBool,
    kill: Notify,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum End {
    /// Both ends had agreed.
    #[error("it was closed in good order")]
    Retired,
    /// The transport is closing.
    #[error("the transport is closing")]
    Closed,
    #[error("the other end closed it")]
    Eof,
    #[error("nothing was heard for too long")]
    Silent,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Frame(#[from] FrameError),
    /// The other end broke a rule.
    #[error("the other end {0}")]
    Broke(&'static str),
    #[error("the other end refused it: {text}")]
    Refused { reason: Reason, text: String },
}

impl Conn {
    #[allow(clippy::too_many_arguments)] // it has one caller
    pub(crate) fn new(
        id: u64,
        peer: PeerInfo,
        life: u64,
        origin: Origin,
        failures: u32,
        limits: Limits,
        timeouts: Timeouts,
        checksummed: bool,
    ) -> Conn {
        Conn {
            id,
            peer,
            life,
            origin,
            failures,
            checksummed,
            since: Instant::now(),
            permits: Arc::new(Semaphore::new(limits.calls_max)),
            limits,
            timeouts,
            posts_wanted: AtomicBool::new(false),
            lanes: Mutex::default(),
            wake: Notify::new(),
            drained: Notify::new(),
            heard: AtomicU64::new(0),
            hurry: AtomicBool::new(false),
            kill: Notify::new(),
        }
    }

    /// Never hold it across anything that takes another lock.
    pub(crate) fn lanes(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what waits, and wakes the writer if it has something to do. Most changes leave it nothing: an answer that
    /// arrived, a caller that is done with its answer.
    pub(crate) fn with<T>(&self, change: impl FnOnce(&mut Lanes) -> T) -> T {
        let (result, write) = {
            let mut lanes = self.lanes();
            let result = change(&mut lanes);
            (result, lanes.wants_writing())
        };
        if write {
            self.wake.notify_one();
        }
        result
    }

    pub(crate) fn takes(&self) -> bool {
        self.lanes().takes()
    }

    /// Ends it now; what is under way is lost.
    pub(crate) fn kill(&self) {
        self.kill.notify_one();
    }

    /// Asks for a sign of life, soon.
    pub(crate) fn hurry(&self) {
        self.hurry.store(true, Ordering::Relaxed);
        self.with(|lanes| lanes.control(Control::Ping));
    }

    /// Runs it until it ends. `first` is written before any frame.
    pub(crate) async fn run(
        self: &Arc<Conn>,
        io: Box<dyn Io>,
        first: Bytes,
        handler: &Arc<dyn Handler>,
        board: &Arc<Switchboard>,
    ) -> End {
        let (read, write) = tokio::io::split(io);
        let end = tokio::select! {
            biased;
            () = self.kill.notified() => End::Closed,
            end = self.read(read, handler, board) => end,
            Err(error) = self.write(write, first, board) => End::Io(error),
            end = self.keep(board) => end,
        };
        self.lanes().end(&end.to_string());
        self.permits.close();
        end
    }

    async fn read(
        self: &Arc<Conn>,
        mut io: ReadHalf<Box<dyn Io>>,
        handler: &Arc<dyn Handler>,
        board: &Arc<Switchboard>,
    ) -> End {
        let mut arrivals = Arrivals::new(self.clone(), handler.clone(), board.clone());
        // Grows to what frames need: an idle connection is a small one.
        let mut buffer = BytesMut::new();
        loop {
            if buffer.is_empty() && 4 * READ_BYTES < buffer.capacity() {
                buffer = BytesMut::new();
            }
            buffer.reserve(READ_BYTES);
            match io.read_buf(&mut buffer).await {
                Ok(0) => return if self.lanes().retiring().heard { End::Retired } else { End::Eof },
                Ok(read) => board.metrics.bytes_in.increment(read as u64),
                // How TLS says that the other end is gone without a word.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return End::Eof,
                Err(error) => return End::Io(error),
            }
            self.heard.fetch_add(1, Ordering::Relaxed);
            let mut taken = 0;
            loop {
                match Frame::decode(&buffer[taken..], self.checksummed) {
                    Ok(Some((frame, bytes))) => {
                        if let Err(end) = arrivals.take(frame) {
                            return end;
                        }
                        taken += bytes;
                    }
                    Ok(None) => break,
                    Err(error) => return End::Frame(error),
                }
            }
            buffer.advance(taken);
            // Answers pile up when the other end asks and does not listen: then we do not listen either.
            while self.lanes().clogged(self.limits.calls_max, self.limits.inbound_bytes_max) {
                self.drained.notified().await;
            }
        }
    }

    async fn write(
        &self,
        mut io: WriteHalf<Box<dyn Io>>,
        first: Bytes,
        board: &Switchboard,
    ) -> io::Result<std::convert::Infallible> {
        let mut out = BytesMut::from(&first[..]);
        loop {
            let finished = {
                let mut lanes = self.lanes();
                lanes.gather(&mut out, self.checksummed, Instant::now());
                lanes.finished()
            };
            if !out.is_empty() {
                io.write_all(&out).await?;
                io.flush().await?;
                board.metrics.bytes_out.increment(out.len() as u64);
                out.clear();
                self.drained.notify_one();
                continue;
            }
            if finished {
                io.shutdown().await?;
                // The reader sees the end of the other side, or the keeper its silence.
                return std::future::pending().await;
            }
            if KEEP_BYTES < out.capacity() {
                out = BytesMut::new();
            }
            self.wake.notified().await;
            // Whoever woke us is rarely alone: an applied entry answers dozens of requests, each by a task of its own. Those that
            // are ready to run go first, so that what they have to say shares one write, and one wake-up of the other end.
            tokio::task::yield_now().await;
        }
    }

    /// Listens for silence. Counts ticks instead of reading a clock, so that a process that stood still does not take its own
    /// silence for the other end's.
    async fn keep(&self, board: &Arc<Switchboard>) -> End {
        let tick = self.timeouts.ping / 2;
        let mut ticks = tokio::time::interval_at(Instant::now() + tick, tick);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut heard, mut silent, mut hurried) = (0, 0u32, 0u32);
        let (mut activity, mut idle) = (0, 0u32);
        loop {
            ticks.tick().await;
            let now = self.heard.load(Ordering::Relaxed);
            if now == heard {
                silent += 1;
                hurried += u32::from(self.hurry.load(Ordering::Relaxed));
            } else {
                (silent, hurried) = (0, 0);
                self.hurry.store(false, Ordering::Relaxed);
            }
            heard = now;
            // The first of the ticks in a hurry may have come right behind the question.
            if self.timeouts.dead <= tick * silent || self.timeouts.ping < tick * hurried {
                return End::Silent;
            }
            if self.timeouts.ping <= tick * silent {
                self.with(|lanes| lanes.control(Control::Ping));
            }
            let lanes = self.lanes();
            let unused = lanes.idle() && !self.posts_wanted.load(Ordering::Relaxed);
            idle = if unused && lanes.activity == activity { idle.saturating_add(1) } else { 0 };
            activity = lanes.activity;
            drop(lanes);
            if self.timeouts.linger <= tick.saturating_mul(idle) {
                board.retire(self);
            }
        }
    }
}

/// Room to read into.
const READ_BYTES: usize = 16 << 10;
/// A write buffer that grew beyond this is given back when there is nothing to write.
const KEEP_BYTES: usize = 32 << 10;
const _: () = assert!(READ_BYTES < FRAME_BYTES_MAX + HEAD_BYTES, "frames may take several reads");
