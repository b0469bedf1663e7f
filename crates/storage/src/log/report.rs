//! A look at a stopped log, for `skein doctor`.

use super::error::LogError;
use super::recover::scan;
use crate::disk::Disk;

/// What a stopped log holds. Empty where there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogReport {
    /// The segments in use and prepared, oldest first.
    pub segments: Vec<LogSegmentReport>,
    /// The groups in the log, by ID.
    pub groups: Vec<LogGroupReport>,
    /// Records in all segments.
    pub records: u64,
    /// The sequence of the last record; 0 when there is none.
    pub last_sequence: u64,
    /// Whether the log was closed in good order.
    pub closed: bool,
    /// What opening the log would cut off; never anything that was acknowledged.
    pub cut: Option<LogCut>,
    /// Files that opening the log would reuse or remove.
    pub unused: Vec<String>,
    /// Damage that does no harm, for instance to one of two copies.
    pub warnings: Vec<String>,
}

/// One segment of a stopped log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSegmentReport {
    /// The file, as the disk describes it.
    pub file: String,
    /// Counts the lives of all segment files, from 1.
    pub generation: u64,
    /// Size of the file.
    pub bytes: u64,
    /// Bytes up to the end of the last record.
    pub used: u64,
    /// Records in it.
    pub records: u64,
    /// The sequence of its first record.
    pub first_sequence: Option<u64>,
}

/// One Raft group in a stopped log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogGroupReport {
    /// The group's ID.
    pub id: u64,
    /// Index of its first entry.
    pub first: Option<u64>,
    /// Index of its last entry.
    pub last: Option<u64>,
    /// The last index that was purged.
    pub purged: Option<u64>,
    /// Whether it has voted.
    pub has_vote: bool,
    /// Record bytes of its entries.
    pub bytes: u64,
}

/// A torn tail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogCut {
    /// The file, as the disk describes it.
    pub file: String,
    /// Where the log ends in it.
    pub offset: u64,
    /// Whole records behind that place, none of which was ever acknowledged.
    pub records: usize,
}

/// See [`super::Log::verify`].
pub(super) fn verify(disk: &dyn Disk) -> Result<LogReport, LogError> {
    let Some(found) = scan(disk, 0)? else { return Ok(LogReport::default()) };
    let segments: Vec<LogSegmentReport> = found
        .segments
        .iter()
        .map(|walked| LogSegmentReport {
            file: disk.describe(&walked.segment.name()),
            generation: walked.segment.generation,
            bytes: walked.segment.bytes,
            used: walked.end,
            records: walked.records,
            first_sequence: walked.first_sequence,
        })
        .collect();
    let groups = found
        .groups
        .iter()
        .map(|(id, memory)| LogGroupReport {
            id: *id,
            first: memory.summary.span.map(|(first, _)| first),
            last: memory.summary.span.map(|(_, last)| last),
            purged: memory.summary.purged.as_ref().map(|(index, _)| *index),
            has_vote: memory.summary.vote.is_some(),
            bytes: memory.bytes_live(),
        })
        .collect();
    let cut = found.tail.filter(|_| !found.stale.is_empty()).map(|tail| LogCut {
        file: segments[tail.segment].file.clone(),
        offset: tail.at,
        records: found.stale.len(),
    });
    Ok(LogReport {
        records: segments.iter().map(|segment| segment.records).sum(),
        groups,
        last_sequence: found.last_sequence,
        closed: found.control.closed && found.control.durable == found.last_sequence,
        cut,
        unused: found.unused.iter().map(|name| disk.describe(name)).collect(),
        warnings: found.control_damage.iter().map(ToString::to_string).collect(),
        segments,
    })
}
