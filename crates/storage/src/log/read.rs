//! Reading entries back: from memory when they are recent, else from their segments.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::error::LogError;
use super::group::Group;
use super::record::{ALIGN, Body, decode};
use super::segment::Segment;
use crate::disk::Disk;

/// Neighbouring entries are read together, up to this many bytes.
const RUN_BYTES: u64 = 1 << 20;

struct Wanted {
    index: u64,
    op: u64,
    length: u32,
    source: Source,
}

enum Source {
    Memory(Bytes),
    Disk { segment: Arc<Segment>, at: u64 },
}

/// The entries of `range` that exist, until their payloads have `bytes_max` bytes, at least one.
pub(super) fn read(
    disk: &dyn Disk,
    group: &Group,
    range: Range<u64>,
    bytes_max: usize,
) -> Result<Vec<(u64, Bytes)>, LogError> {
    let wanted = choose(group, range, bytes_max);
    let mut entries = Vec::with_capacity(wanted.len());
    let mut rest = wanted.as_slice();
    while let Some(next) = rest.first() {
        match &next.source {
            Source::Memory(payload) => {
                entries.push((next.index, payload.clone()));
                rest = &rest[1..];
            }
            Source::Disk { segment, at } => {
                let run = run_length(rest, segment, *at);
                if !read_run(disk, group, segment, *at, &rest[..run], &mut entries)? {
                    return Ok(entries);
                }
                rest = &rest[run..];
            }
        }
    }
    Ok(entries)
}

fn choose(group: &Group, range: Range<u64>, bytes_max: usize) -> Vec<Wanted> {
    let memory = group.lock();
    let Some((first, last)) = memory.summary.span else { return Vec::new() };
    let mut wanted = Vec::new();
    let mut bytes = 0;
    for index in range.start.max(first)..range.end.min(last.saturating_add(1)) {
        let Some(slot) = memory.slot(index) else { break };
        let source = match (&slot.payload, &slot.segment) {
            (Some(payload), _) => Source::Memory(payload.clone()),
            (None, Some(segment)) => {
                Source::Disk { segment: segment.clone(), at: u64::from(slot.offset) * ALIGN }
            }
            // A slot has its payload until it has its place.
            (None, None) => break,
        };
        bytes += slot.length as usize;
        if !wanted.is_empty() && bytes_max < bytes {
            break;
        }
        wanted.push(Wanted { index, op: slot.op, length: slot.length, source });
    }
    wanted
}

/// How many of `wanted`, from the first on, are close together in `segment`.
fn run_length(wanted: &[Wanted], segment: &Arc<Segment>, start: u64) -> usize {
    let inside = wanted.iter().position(|wanted| match &wanted.source {
        Source::Disk { segment: other, at } => {
            !Arc::ptr_eq(segment, other) || RUN_BYTES < at + u64::from(wanted.length) - start
        }
        Source::Memory(_) => true,
    });
    inside.unwrap_or(wanted.len()).max(1)
}

/// Reads one run and appends its entries; false when an entry went away while we read.
fn read_run(
    disk: &dyn Disk,
    group: &Group,
    segment: &Arc<Segment>,
    start: u64,
    run: &[Wanted],
    entries: &mut Vec<(u64, Bytes)>,
) -> Result<bool, LogError> {
    let end = run.iter().map(|wanted| place(wanted) + u64::from(wanted.length)).max().unwrap_or(start);
    let mut buffer = vec![0; (end - start) as usize];
    let path = || disk.describe(&segment.name());
    let read = segment.file.read_at(&mut buffer, start).map_err(LogError::io("read", path()))?;
    for wanted in run {
        let at = place(wanted);
        let from = (at - start) as usize;
        let to = from + wanted.length as usize;
        let found = match buffer.get(from..to.min(read)).map(|bytes| decode(segment.seed, bytes)) {
            Some(Ok((head, Body::Entry { index, payload })))
                if (head.group, index) == (group.id, wanted.index) =>
            {
                entries.push((index, Bytes::copy_from_slice(payload)));
                continue;
            }
            Some(Ok((head, _))) => format!("record {} of group {}", head.sequence, head.group),
            Some(Err(damage)) => damage.to_string(),
            None => "the end of the file".to_owned(),
        };
        // The segment may have been reused since we looked, because the entry was purged or overwritten.
        let still_there = group.lock().slot(wanted.index).is_some_and(|slot| slot.op == wanted.op);
        if !still_there {
            return Ok(false);
        }
        let expected = format!("entry {} of group {}", wanted.index, group.id);
        return Err(LogError::Corrupt { file: path(), offset: at, expected, found });
    }
    Ok(true)
}

fn place(wanted: &Wanted) -> u64 {
    match &wanted.source {
        Source::Disk { at, .. } => *at,
        Source::Memory(_) => 0,
    }
}
