//! The keeper: prepares segments before they are needed and takes back those nobody needs.

use std::io;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use super::control::Control;
use super::error::LogError;
use super::group::Group;
use super::segment::{Segment, segment_name};
use super::shared::{Kept, Queue, Shared};
use super::{LogOptions, lock};
use crate::disk::Disk;

/// Spare segment files kept for reuse; more are deleted.
pub(super) const SPARES_MAX: usize = 2;

/// A look for free segments whose result holds once the log is durable that far.
pub(super) struct Found {
    /// The oldest generation that is needed.
    oldest: u64,
    /// All work before this one has to be durable.
    op: u64,
}

enum Task {
    Prepare,
    Look,
    Free(Found),
    End,
}

/// Runs until the writer has ended.
pub(super) fn run(shared: &Shared) {
    let mut found = None;
    loop {
        match next_task(shared, &mut found) {
            Task::End => break,
            task => do_task(shared, task, &mut found),
        }
    }
    note_close(shared);
}

/// For a log without threads: does everything there is to do.
pub(super) fn catch_up(shared: &Shared, found: &mut Option<Found>) {
    let Some(pumped) = &shared.pumped else { return };
    loop {
        let _one_at_a_time = lock(&pumped.keeping);
        let task = pick_task(&mut lock(&shared.queue), found);
        match task {
            None | Some(Task::End) => return,
            Some(task) => do_task(shared, task, found),
        }
    }
}

fn do_task(shared: &Shared, task: Task, found: &mut Option<Found>) {
    match task {
        // Whoever waits for it sees it in the queue.
        Task::Prepare => drop(try_prepare(shared)),
        Task::Look => *found = look(shared),
        Task::Free(found) => {
            if let Err(fault) = free(shared, &found) {
                shared.fail(fault);
            }
        }
        Task::End => {}
    }
}

/// Makes the next segment ready, and tells whoever waits for one how that went.
pub(super) fn try_prepare(shared: &Shared) -> Result<(), LogError> {
    let outcome = prepare(shared);
    let mut queue = lock(&shared.queue);
    queue.attempts += 1;
    match &outcome {
        Ok(()) => queue.refusal = None,
        Err(fault @ LogError::Failed { .. }) => {
            drop(queue);
            shared.fail(fault.clone());
            return outcome;
        }
        Err(error) => {
            if queue.refusal.is_none() {
                tracing::warn!(%error, "no log segment could be prepared");
            }
            queue.refusal = Some((error.clone(), Instant::now()));
            queue.demand = 0;
        }
    }
    if queue.demand <= queue.room.ready() {
        queue.demand = 0;
    }
    shared.room_changes.notify_all();
    outcome
}

/// Notes that the log was closed in good order, if it was.
pub(super) fn note_close(shared: &Shared) {
    let queue = lock(&shared.queue);
    if queue.fault.is_none() {
        let control = control(shared, &queue, true);
        drop(queue);
        if let Err(error) = lock(&shared.control).write(&control) {
            // The next opening looks for itself.
            tracing::warn!(%error, "the close of the log could not be noted");
        }
    }
}

fn next_task(shared: &Shared, found: &mut Option<Found>) -> Task {
    let mut queue = lock(&shared.queue);
    loop {
        if let Some(task) = pick_task(&mut queue, found) {
            return task;
        }
        queue = shared.keeper_wakes.wait(queue).unwrap_or_else(PoisonError::into_inner);
    }
}

/// What there is to do now, if anything.
fn pick_task(queue: &mut Queue, found: &mut Option<Found>) -> Option<Task> {
    if queue.writer_ended {
        return Some(Task::End);
    }
    if queue.fault.is_none() && !queue.closing {
        if let Some(ready) = found.take_if(|found| found.op <= queue.durable_op) {
            queue.keeper_wants_durable = false;
            return Some(Task::Free(ready));
        }
        if queue.wants_segment() || queue.room.ready() < queue.demand {
            return Some(Task::Prepare);
        }
        if found.is_none() && queue.look_for_free {
            queue.look_for_free = false;
            return Some(Task::Look);
        }
    }
    queue.keeper_wants_durable = found.is_some();
    None
}

/// What the control file should say now.
fn control(shared: &Shared, queue: &Queue, closed: bool) -> Control {
    let first = queue.kept.first_key_value();
    Control {
        first: first.map_or(1, |(generation, _)| *generation),
        last: queue.kept.last_key_value().map_or(0, |(generation, _)| *generation),
        first_sequence: first.and_then(|(_, kept)| kept.first_sequence).unwrap_or(queue.durable_sequence + 1),
        durable: queue.durable_sequence,
        closed,
        salt: shared.salt,
    }
}

/// Makes the next segment ready. The control file names it before anything is written to it, so that its
/// loss would be noticed.
fn prepare(shared: &Shared) -> Result<(), LogError> {
    let (generation, spare) = {
        let mut queue = lock(&shared.queue);
        let last = queue.kept.last_key_value().map_or(0, |(generation, _)| *generation);
        (last + 1, queue.spares.pop())
    };
    let disk = &*shared.disk;
    let segment = make_segment(disk, &shared.options, shared.salt, generation, spare.as_deref())?;
    let control = {
        let queue = lock(&shared.queue);
        Control { last: generation, ..control(shared, &queue, false) }
    };
    // After a failure the control file may name the segment or not, so the file stays.
    lock(&shared.control).write(&control)?;
    let segment = Arc::new(segment);
    let mut queue = lock(&shared.queue);
    queue.kept.insert(generation, Kept { segment: segment.clone(), first_sequence: None });
    queue.room.add(segment);
    shared.metrics.segments.set(queue.kept.len() as f64);
    Ok(())
}

/// Makes a segment file; [`LogError::Full`] when there is no space for it.
pub(super) fn make_segment(
    disk: &dyn Disk,
    options: &LogOptions,
    salt: u32,
    generation: u64,
    spare: Option<&str>,
) -> Result<Segment, LogError> {
    let needed = options.segment_bytes;
    let name = segment_name(generation);
    let path = || disk.describe(&name);
    let free = || disk.free_bytes().map_err(LogError::io("ask for the free space beside", path()));
    if spare.is_none() && free()? < needed {
        return Err(LogError::Full { needed, free: free()? });
    }
    match Segment::prepare(disk, salt, generation, needed, spare) {
        Ok(segment) => Ok(segment),
        Err(error) => {
            remove(disk, &name);
            if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
                return Err(LogError::Full { needed, free: free()? });
            }
            Err(LogError::io("prepare", path())(error))
        }
    }
}

fn remove(disk: &dyn Disk, name: &str) {
    if let Err(error) = disk.remove(name)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(%error, file = disk.describe(name), "could not remove a log segment");
    }
}

/// Finds the oldest segment that still holds an entry of some group.
fn look(shared: &Shared) -> Option<Found> {
    let (mut oldest, first) = {
        let queue = lock(&shared.queue);
        // Entries that are not written yet go here or further on.
        (queue.generation, queue.kept.first_key_value().map(|(generation, _)| *generation))
    };
    let groups: Vec<Arc<Group>> = lock(&shared.groups).values().cloned().collect();
    for group in groups {
        if let Some(generation) = group.lock().oldest_generation() {
            oldest = oldest.min(generation);
        }
    }
    // What the groups' memory no longer has may be so by work that is still queued.
    let op = lock(&shared.queue).next_op;
    first.filter(|first| *first < oldest).map(|_| Found { oldest, op })
}

/// Takes the segments before `found.oldest` out of use.
fn free(shared: &Shared, found: &Found) -> Result<(), LogError> {
    let control = {
        let queue = lock(&shared.queue);
        let Some(first_sequence) = queue.kept.get(&found.oldest).and_then(|kept| kept.first_sequence) else {
            // Its first records are being written; the next look will do.
            return Ok(());
        };
        Control { first: found.oldest, first_sequence, ..control(shared, &queue, false) }
    };
    lock(&shared.control).write(&control)?;
    let mut excess = Vec::new();
    {
        let mut queue = lock(&shared.queue);
        let needed = queue.kept.split_off(&found.oldest);
        let freed = std::mem::replace(&mut queue.kept, needed);
        for kept in freed.into_values() {
            let fits = kept.segment.bytes == shared.options.segment_bytes;
            if fits && queue.spares.len() < SPARES_MAX {
                queue.spares.push(kept.segment.name());
                queue.refusal = None;
            } else {
                excess.push(kept.segment.name());
            }
        }
        shared.metrics.segments.set(queue.kept.len() as f64);
    }
    for name in excess {
        remove(&*shared.disk, &name);
    }
    Ok(())
}
