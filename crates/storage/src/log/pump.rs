//! The log without threads: its owner takes the writer's turns and the keeper's.
//!
//! It is the same writer and the same keeper. What they wait for in their threads is here told by [`Pump::on_work`], and
//! a segment that a caller needs at once is prepared by that caller. So nothing waits for another thread, and the order
//! of everything is the order of calls.

use std::sync::{Arc, Mutex, OnceLock, TryLockError};

use super::keeper::{self, Found};
use super::lock;
use super::shared::{Op, Shared};
use super::writer::{Next, Writer};

/// Tells the owner that there is something to do.
type Wake = Box<dyn Fn() + Send + Sync>;

/// What a log that is pumped has more than one with threads.
#[derive(Default)]
pub(super) struct Pumped {
    /// Held while a segment is prepared or taken back, which callers do too.
    pub keeping: Mutex<()>,
    wake: OnceLock<Wake>,
}

impl Pumped {
    pub fn wake(&self) {
        if let Some(wake) = self.wake.get() {
            wake();
        }
    }
}

/// Runs a log that was opened with [`super::Log::open_pumped`]. Nothing is written, and no callback called, but in its
/// methods, and when the log is closed.
///
/// Between [`Pump::write`] and [`Pump::sync`] the owner of a simulated disk lets the time of a sync pass: a crash then
/// finds written bytes that are not durable, as on a machine.
pub struct Pump {
    turns: Arc<Mutex<Turns>>,
    shared: Arc<Shared>,
}

/// Where the writer and the keeper stand.
pub(super) struct Turns {
    writer: Writer,
    /// Of the round under way: written, and not yet synced.
    ops: Vec<Op>,
    is_written: bool,
    found: Option<Found>,
    has_ended: bool,
}

impl Turns {
    pub fn new(writer: Writer) -> Turns {
        Turns { writer, ops: Vec::new(), is_written: false, found: None, has_ended: false }
    }

    fn write(&mut self, shared: &Shared) -> bool {
        if self.is_written || self.has_ended {
            return self.is_written;
        }
        match self.writer.take(&mut self.ops) {
            Next::Nothing => {
                keeper::catch_up(shared, &mut self.found);
                false
            }
            Next::Work => match self.writer.write_ops(&self.ops) {
                Ok(()) => {
                    self.is_written = true;
                    true
                }
                Err(fault) => {
                    shared.fail(fault);
                    self.end(shared);
                    false
                }
            },
            Next::End => {
                self.end(shared);
                false
            }
        }
    }

    fn sync(&mut self, shared: &Shared) {
        if !std::mem::take(&mut self.is_written) {
            return;
        }
        match self.writer.sync_written() {
            Ok(()) => self.writer.finish_round(&mut self.ops),
            Err(fault) => {
                shared.fail(fault);
                return self.end(shared);
            }
        }
        keeper::catch_up(shared, &mut self.found);
    }

    fn end(&mut self, shared: &Shared) {
        if !std::mem::replace(&mut self.has_ended, true) {
            self.writer.end(&mut self.ops);
            lock(&shared.queue).writer_ended = true;
            keeper::note_close(shared);
        }
    }
}

impl Pump {
    pub(super) fn new(shared: Arc<Shared>, turns: Arc<Mutex<Turns>>) -> Pump {
        Pump { turns, shared }
    }

    /// Has `wake` called whenever there may be something to do, from whatever caller of the log brings it. It must not
    /// call the pump. Only the first one counts; it is also called now, for what came before.
    pub fn on_work(&self, wake: impl Fn() + Send + Sync + 'static) {
        if let Some(pumped) = &self.shared.pumped {
            let _ = pumped.wake.set(Box::new(wake));
            pumped.wake();
        }
    }

    /// Takes everything that is queued and writes it. True when there is something to [`Pump::sync`] now.
    pub fn write(&self) -> bool {
        lock(&self.turns).write(&self.shared)
    }

    /// Makes durable what was written, calls the callbacks, prepares the next segment and takes back those nobody needs.
    /// Does nothing when nothing is written.
    pub fn sync(&self) {
        lock(&self.turns).sync(&self.shared);
    }

    /// [`Pump::write`] and [`Pump::sync`] in one; true when there was something to do.
    pub fn round(&self) -> bool {
        let mut turns = lock(&self.turns);
        let wrote = turns.write(&self.shared);
        turns.sync(&self.shared);
        wrote
    }

    /// Notes, without a sync, that everything is durable, as the log with threads does when nothing has arrived for
    /// [`super::LogOptions::idle_mark`]. Does nothing in the middle of a round.
    pub fn mark_idle(&self) {
        let mut turns = lock(&self.turns);
        if !turns.is_written
            && !turns.has_ended
            && let Err(fault) = turns.writer.put_idle_mark()
        {
            self.shared.fail(fault);
        }
    }

    /// Whether the log was closed, or has failed, and all callers were told.
    pub fn has_ended(&self) -> bool {
        lock(&self.turns).has_ended
    }
}

/// Does what is left to do in a log that is being closed. When the pump is at it right now, perhaps because a callback
/// closes the log, its next round does that.
pub(super) fn close(shared: &Shared, turns: &Mutex<Turns>) {
    let mut turns = match turns.try_lock() {
        Ok(turns) => turns,
        Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        Err(TryLockError::WouldBlock) => return,
    };
    // Nothing is accepted any more, so this is one round, or two.
    while !turns.has_ended {
        turns.sync(shared);
        turns.write(shared);
    }
}
