//! `skein doctor`: looks over a stopped server's directory and says what is wrong, where, and what it would do.
//!
//! It goes on after the first damage, so that one run shows all of it, and it repairs nothing. (Opening the store
//! removes, as any start would, files that a crash left behind and that no list of tables names.)

use crate::args::DoctorArgs;
use crate::home::{self, HomeError, Lock};
use crate::init;
use crate::say;
use crate::serve::{engine_exit, log_exit};
use crate::trouble::{Exit, Trouble};
use crate::units::Bytes;
use skein_cell::catalog::file::{self, FileError, Found};
use skein_model::GroupId;
use skein_storage::disk::{Disk as _, RealDisk};
use skein_storage::drives::RealDrives;
use skein_storage::engine::{Engine as _, EngineError, EngineOptions, LsmEngine, VerifyReport};
use skein_storage::log::{Log, LogReport};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// What was found in one part of the directory.
#[derive(Debug, Default)]
struct Finding {
    /// What is well, or what there is to know.
    notes: Vec<String>,
    /// What is wrong: file, place and detail.
    damage: Vec<String>,
    /// What kept us from looking, and the code to exit with.
    unread: Option<(String, Exit)>,
}

impl Finding {
    fn note(text: impl Into<String>) -> Finding {
        Finding { notes: vec![text.into()], ..Finding::default() }
    }

    fn failed(error: &(dyn std::error::Error + 'static), exit: Exit) -> Finding {
        let mut text = error.to_string();
        let mut next = error.source();
        while let Some(cause) = next {
            let cause_text = cause.to_string();
            if !text.ends_with(&cause_text) {
                text.push_str(": ");
                text.push_str(&cause_text);
            }
            next = cause.source();
        }
        if exit == Exit::Damaged {
            Finding { damage: vec![text], ..Finding::default() }
        } else {
            Finding { unread: Some((text, exit)), ..Finding::default() }
        }
    }
}

/// Runs `skein doctor`.
pub fn run(args: &DoctorArgs) -> Result<Exit, Trouble> {
    let dir = &args.dir;
    let trouble = |e: &HomeError| init::trouble(format!("cannot check {}", dir.display()), dir, e);
    let identity = match home::read_identity(dir) {
        // Damage here is one finding among others.
        Err(e @ HomeError::Damaged { .. }) => Finding::failed(&e, Exit::Damaged),
        Err(e) => return Err(trouble(&e)),
        Ok(identity) => {
            let created = SystemTime::UNIX_EPOCH + Duration::from_secs(identity.created_seconds);
            let created = humantime::format_rfc3339_seconds(created);
            Finding::note(format!(
                "host {}, cell {}, store {}, initialised {created}",
                identity.host, identity.cell, identity.store
            ))
        }
    };
    let _lock = Lock::take(dir).map_err(|e| trouble(&e))?;

    let (mut log, spans) = check_log(&dir.join("log"));
    let (mut store, reached) = check_stores(dir);
    if let (Some(spans), Some(reached)) = (&spans, reached) {
        for group in spans.keys().chain(reached.keys()).filter(|group| **group != GroupId::CATALOG) {
            let span = spans.get(group).copied().unwrap_or_default();
            let reached = reached.get(group).copied().unwrap_or_default();
            store.damage.extend(span.purged.and_then(|purged| gap(*group, purged, reached)));
            log.damage.extend(behind(*group, &span, reached));
        }
        store.damage.dedup();
        log.damage.dedup();
    }
    let catalog = check_catalog(dir, spans.unwrap_or_default());
    let mut exit = Exit::Done;
    let parts = [("identity", identity), ("catalog", catalog), ("log", log), ("store", store)];
    for (name, finding) in &parts {
        print(name, finding);
        if !finding.damage.is_empty() {
            exit = Exit::Damaged;
        } else if let Some((_, code)) = &finding.unread
            && exit == Exit::Done
        {
            exit = *code;
        }
    }
    say::out(match exit {
        Exit::Done => format!("{} is healthy", dir.display()),
        Exit::Damaged => {
            let count: usize = parts.iter().map(|(_, finding)| finding.damage.len()).sum();
            format!(
                "{} is damaged in {count} place{}; a server refuses what it cannot trust: restore a backup",
                dir.display(),
                if count == 1 { "" } else { "s" }
            )
        }
        _ => format!("{} could not be checked completely", dir.display()),
    });
    Ok(exit)
}

fn print(name: &str, finding: &Finding) {
    let lines = finding
        .damage
        .iter()
        .map(|text| format!("DAMAGED: {text}"))
        .chain(finding.unread.iter().map(|(text, _)| format!("NOT CHECKED: {text}")))
        .chain(finding.notes.iter().cloned());
    for (at, line) in lines.enumerate() {
        say::out(format_args!("{:<9} {line}", if at == 0 { name } else { "" }));
    }
}

/// `spans` says which entries the log holds, if it could be read.
fn check_catalog(dir: &Path, spans: BTreeMap<GroupId, Span>) -> Finding {
    let is_used = !spans.is_empty();
    let span = spans.get(&GroupId::CATALOG).copied().unwrap_or_default();
    let files = match RealDisk::open(dir) {
        Ok(files) => files,
        Err(e) => return Finding::failed(&e, Exit::Failed),
    };
    let exit = |e: &FileError| match e {
        FileError::Damaged { .. } => Exit::Damaged,
        FileError::Newer { .. } => Exit::WrongDirectory,
        _ => Exit::Failed,
    };
    let mut notes = Vec::new();
    let mut newest = None;
    let mut reached = 0;
    // A member's own replica of the catalog, and the newest that the peer learned from whomever.
    for name in [file::REPLICA, file::LEARNED] {
        let (atlas, schema_version, schema) = match file::read(&files, name) {
            Ok(None) => continue,
            Ok(Some(Found::OfOne(facts))) => (facts.atlas, facts.schema_version, facts.schema),
            Ok(Some(Found::Saved(saved))) => {
                if name == file::REPLICA {
                    reached = saved.position;
                }
                let state = &saved.content.state;
                (state.atlas.clone(), state.schema_version, state.schema.clone())
            }
            Err(e) => return Finding::failed(&e, exit(&e)),
        };
        newest = newest.max(Some((atlas.version, schema_version)));
        notes.push(format!(
            "atlas version {} with {} cohort{}, schema version {schema_version} with {} tables",
            atlas.version,
            atlas.cohorts.len(),
            if atlas.cohorts.len() == 1 { "" } else { "s" },
            schema.tables().count()
        ));
    }
    notes.dedup();
    let path = files.describe(file::REPLICA);
    let lost = span.purged.filter(|purged| reached <= *purged).map(|purged| {
        format!("{path}: it holds the first {reached} entries of the catalog's log, which begins after entry {purged}")
    });
    let damage: Vec<String> = lost.into_iter().chain(behind(GroupId::CATALOG, &span, reached)).collect();
    match newest {
        _ if !damage.is_empty() => Finding { notes, damage, ..Finding::default() },
        None if is_used => Finding {
            damage: vec![format!("{path}: it is missing, and the log holds entries that rest on it")],
            ..Finding::default()
        },
        None => Finding::note("none yet"),
        Some(_) => Finding { notes, ..Finding::default() },
    }
}

/// Which entries of a group a log holds.
#[derive(Debug, Default, Clone, Copy)]
struct Span {
    /// The last entry that it let go.
    purged: Option<u64>,
    /// The last entry that it ever held.
    last: Option<u64>,
}

/// What there is to say of the log, and which entries it holds of each group that ever wrote to it, if that can be told.
fn check_log(dir: &Path) -> (Finding, Option<BTreeMap<GroupId, Span>>) {
    if !dir.is_dir() {
        return (Finding::note("none yet"), Some(BTreeMap::new()));
    }
    let disk = match RealDisk::open(dir) {
        Ok(disk) => disk,
        Err(e) => return (Finding::failed(&e, Exit::Failed), None),
    };
    match Log::verify(&disk) {
        Ok(report) => {
            let spans = report.groups.iter().map(|group| {
                let span = Span { purged: group.purged, last: group.last.max(group.purged) };
                (GroupId(group.id), span)
            });
            (describe_log(&report), Some(spans.collect()))
        }
        Err(e) => (Finding::failed(&e, log_exit(&e)), None),
    }
}

/// Entries that neither log nor store has. `purged` is the last entry that the log let go, `reached` how many
/// entries the store has on disk.
fn gap(group: GroupId, purged: u64, reached: u64) -> Option<String> {
    (reached <= purged).then(|| {
        format!("the tables of group {group} hold the log's first {reached} entries, and the log begins after entry {purged}: those between are gone")
    })
}

/// Entries that the store has applied and the log never held: its end is gone, or all of it.
fn behind(group: GroupId, span: &Span, reached: u64) -> Option<String> {
    let held = span.last.map_or(0, |last| last + 1);
    (held < reached).then(|| {
        format!(
            "it holds the first {held} entries of group {group}, and the store has {reached}: the log was lost or cut"
        )
    })
}

fn describe_log(report: &LogReport) -> Finding {
    let bytes = report.segments.iter().map(|segment| segment.bytes).sum();
    let mut finding = Finding::note(format!(
        "{} records in {} segments of {} together, every checksum right; {}",
        report.records,
        report.segments.len(),
        Bytes(bytes),
        if report.closed { "closed in good order" } else { "not closed in good order; a start recovers it" }
    ));
    if let Some(cut) = &report.cut {
        finding.notes.push(format!(
            "a start would cut {} unacknowledged records from {} at byte {}",
            cut.records, cut.file, cut.offset
        ));
    }
    for file in &report.unused {
        finding.notes.push(format!("a start would reuse or remove {file}"));
    }
    finding.notes.extend(report.warnings.iter().map(|warning| format!("harmless: {warning}")));
    finding
}

/// What the stores hold, and how many entries of the log the tables of each group have on disk, if that can be told of all.
fn check_stores(dir: &Path) -> (Finding, Option<BTreeMap<GroupId, u64>>) {
    let stores = match RealDrives::store_dirs(dir) {
        Ok(stores) => stores,
        Err(e) => return (Finding::failed(&e, Exit::Failed), None),
    };
    if stores.is_empty() {
        return (Finding::note("none yet"), Some(BTreeMap::new()));
    }
    let mut all = Finding::default();
    let mut reached = Some(BTreeMap::new());
    let (mut files, mut bytes) = (0, 0);
    for (group, dir) in &stores {
        match check_store(dir) {
            Ok((report, position)) => {
                files += report.files;
                bytes += report.bytes;
                let damage = report.damaged.iter();
                all.damage.extend(damage.map(|damage| format!("{}: {}", damage.what, damage.detail)));
                reached = reached.map(|mut reached| {
                    reached.insert(*group, position);
                    reached
                });
            }
            Err(e) => {
                let finding = Finding::failed(&e, engine_exit(&e));
                all.damage.extend(finding.damage);
                all.unread = all.unread.or(finding.unread);
                reached = None;
            }
        }
    }
    let groups = if stores.len() == 1 { String::new() } else { format!("{} groups, ", stores.len()) };
    let right = if all.damage.is_empty() && all.unread.is_none() { ", every checksum right" } else { "" };
    all.notes.push(format!("{groups}{files} files, {} read{right}", Bytes(bytes)));
    (all, reached)
}

/// Reads a store from end to end; also says how many entries of the log it has on disk.
fn check_store(dir: &Path) -> Result<(VerifyReport, u64), EngineError> {
    // Opening would complete a creation that was cut short; a check changes nothing.
    if !LsmEngine::is_there(dir)? {
        return Ok((VerifyReport::default(), 0));
    }
    // Without threads that compact: a check should not rewrite what it checks.
    let options = EngineOptions { cache_bytes: 8 << 20, compaction_threads: 0, ..EngineOptions::default() };
    let engine = LsmEngine::open(dir, options)?;
    Ok((engine.verify()?, engine.durable_position()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_the_log_goes_on_from_has_no_gap() {
        // Entries count from 0: having let go of entry 4, the log goes on with the sixth.
        assert_eq!(gap(GroupId(1), 4, 5), None);
        assert_eq!(gap(GroupId(1), 4, 9), None);
        assert!(gap(GroupId(1), 4, 4).is_some_and(|text| text.contains("after entry 4")));
        assert!(gap(GroupId(1), 0, 0).is_some());
    }

    #[test]
    fn a_log_that_ends_before_the_store_does_was_lost_or_cut() {
        let until = |last| Span { purged: None, last };
        assert_eq!(behind(GroupId(1), &until(Some(4)), 5), None);
        assert_eq!(behind(GroupId(1), &until(Some(9)), 5), None);
        assert!(behind(GroupId(1), &until(Some(3)), 5).is_some());
        assert!(behind(GroupId(1), &Span::default(), 1).is_some());
        assert_eq!(behind(GroupId(1), &Span::default(), 0), None);
    }

    #[test]
    fn an_error_that_quotes_its_cause_is_told_once() {
        let error = std::io::Error::other("read x: gone");
        assert_eq!(Finding::failed(&error, Exit::Damaged).damage, ["read x: gone"]);
        assert!(Finding::failed(&error, Exit::Failed).damage.is_empty());
    }
}
