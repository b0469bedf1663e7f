//! Bits flip and files shrink: the log is right, or it says where it is not.

use super::*;
use crate::disk::Disk;
use crate::log::control::CONTROL_NAME;
use crate::log::record::{Body, decode, encode, peek_length, seed};
use crate::log::segment::{header_of_version, parse_segment_name};

/// A closed log of several segments, and what is in it.
fn closed_log(seed: u64) -> (MemDisk, BTreeMap<u64, Contents>) {
    let disk = MemDisk::new();
    let log = open(&disk);
    let mut random = Random(seed);
    let mut models: BTreeMap<u64, Contents> = BTreeMap::new();
    for number in 0..160 {
        let id = 1 + random.below(3);
        let model = models.entry(id).or_default();
        let action = Action::draw(&mut random, model);
        action.apply(model);
        let group = log.group(id);
        // Some alone, some together.
        if number % 3 == 0 {
            wait(|done| action.submit(&group, done)).unwrap();
        } else {
            action.submit(&group, ignore()).unwrap();
        }
    }
    log.close();
    drop(log);
    // The hooks and files of the original stay behind.
    (disk.killed(), models)
}

fn right_or_refused(disk: &MemDisk, expected: &BTreeMap<u64, Contents>, what: &str) -> bool {
    match try_open(disk) {
        Ok(log) => {
            assert_eq!(&contents(&log), expected, "{what}: opened, but not what was acknowledged");
            true
        }
        Err(error) => {
            let text = error.to_string();
            assert!(text.contains("memory/log"), "{what}: {text}");
            assert!(
                matches!(
                    error,
                    LogError::Corrupt { .. } | LogError::Missing { .. } | LogError::NewerFormat { .. }
                ),
                "{what}: {text}"
            );
            let verified = Log::verify(disk).expect_err("the doctor sees it too").to_string();
            assert_eq!(verified, text, "{what}");
            false
        }
    }
}

#[test]
fn a_flipped_bit_anywhere_is_harmless_or_named() {
    let (disk, expected) = closed_log(11);
    assert!(right_or_refused(&disk.killed(), &expected, "undamaged"));
    let mut random = Random(5);
    let mut refused = 0;
    let names = disk.list().unwrap();
    assert!(names.len() > 4, "{names:?}");
    for name in &names {
        let bits = disk.contents(name).unwrap().len() as u64 * 8;
        for number in 0..120 {
            // The first bytes of each file are few and important.
            let bit = random.below(if number < 30 { 400 } else { bits });
            let damaged = disk.killed();
            damaged.flip_bit(name, bit).unwrap();
            refused += u32::from(!right_or_refused(&damaged, &expected, &format!("{name} bit {bit}")));
        }
    }
    assert!(refused > 60, "only {refused} flips were noticed");
}

#[test]
fn every_flipped_byte_among_the_records_is_noticed() {
    let disk = MemDisk::new();
    let log = open(&disk);
    let group = log.group(1);
    for index in 1..=6 {
        append(&group, index, &[index as u8; 24]).unwrap();
    }
    log.close();
    let used = Log::verify(&disk).unwrap().segments[0].used;
    for byte in SEGMENT_HEADER..used {
        let damaged = disk.killed();
        damaged.flip_bit("log-0000000000000001.segment", byte * 8 + byte % 8).unwrap();
        let error = Log::verify(&damaged).expect_err("damage among closed records");
        let LogError::Corrupt { offset, .. } = error else { panic!("byte {byte}: {error}") };
        assert!((offset..offset + 72).contains(&byte), "byte {byte} was found at {offset}");
    }
}

#[test]
fn a_file_cut_short_or_gone_is_harmless_or_named() {
    let (disk, expected) = closed_log(12);
    let mut random = Random(6);
    for name in disk.list().unwrap() {
        let len = disk.contents(&name).unwrap().len() as u64;
        for _ in 0..25 {
            let cut = random.below(len);
            let damaged = disk.killed();
            damaged.truncate(&name, cut).unwrap();
            right_or_refused(&damaged, &expected, &format!("{name} cut to {cut}"));
        }
        let damaged = disk.killed();
        damaged.remove(&name).unwrap();
        right_or_refused(&damaged, &expected, &format!("{name} removed"));
    }
}

#[test]
fn the_loss_of_any_segment_in_use_is_noticed_also_without_a_close() {
    let (closed, _) = closed_log(13);
    let log = open(&closed);
    append(&log.group(5), 1, b"acknowledged").unwrap();
    let crashed = closed.crash_losing_all();
    let segments = Log::verify(&crashed).unwrap().segments;
    assert!(segments.len() > 2);
    for segment in segments.iter().filter(|segment| segment.records > 0) {
        let damaged = crashed.killed();
        damaged.remove(segment.file.strip_prefix("memory/").unwrap()).unwrap();
        let error = try_open(&damaged).unwrap_err();
        assert!(matches!(&error, LogError::Missing { file, .. } if *file == segment.file), "{error}");
    }
    let damaged = crashed.killed();
    damaged.remove(CONTROL_NAME).unwrap();
    let error = try_open(&damaged).unwrap_err().to_string();
    assert!(error.starts_with("memory/log.control is missing: there are"), "{error}");
}

#[test]
fn damage_to_the_last_entry_is_noticed_once_the_log_has_been_idle() {
    let disk = MemDisk::new();
    let options = LogOptions { idle_mark: Duration::from_millis(1), ..small() };
    let log = Log::open(Arc::new(disk.clone()), options).unwrap();
    append(&log.group(1), 1, b"the last entry").unwrap();
    let syncs = log.stats().syncs;
    eventually("writing a mark", || Log::verify(&disk.killed()).unwrap().last_sequence == 2);
    assert_eq!(log.stats().syncs, syncs, "a mark asks for no sync");
    let crashed = disk.killed();
    assert_eq!(Log::verify(&crashed).unwrap().last_sequence, 2, "there is one mark, not many");
    crashed.flip_bit("log-0000000000000001.segment", (SEGMENT_HEADER + 50) * 8).unwrap();
    let error = try_open(&crashed).unwrap_err();
    assert!(matches!(error, LogError::Corrupt { offset: SEGMENT_HEADER, .. }), "{error}");
}

#[test]
fn an_entry_damaged_while_the_log_runs_is_an_error_that_names_the_place() {
    let disk = MemDisk::new();
    let log = open(&disk);
    let group = log.group(1);
    for index in 1..=20 {
        append(&group, index, &[0; 1000]).unwrap();
    }
    disk.flip_bit("log-0000000000000001.segment", (SEGMENT_HEADER + 60) * 8).unwrap();
    let error = group.read(1, 3, 10_000).unwrap_err();
    assert!(matches!(error, LogError::Corrupt { offset: SEGMENT_HEADER, .. }), "{error}");
    assert_eq!(group.read(2, 3, 10_000).unwrap().len(), 1);
}

#[test]
fn a_newer_format_is_refused_with_both_versions_named_and_nothing_is_changed() {
    let (disk, _) = closed_log(14);
    let Some(name) = disk.list().unwrap().into_iter().rfind(|name| parse_segment_name(name).is_some()) else {
        panic!("no segment");
    };
    let salt = disk.contents(&name).unwrap()[32..36].try_into().map(u32::from_le_bytes).unwrap();
    let generation = parse_segment_name(&name).unwrap();
    disk.open(&name).unwrap().write_at(&header_of_version(3, salt, generation, SEGMENT), 0).unwrap();
    let before: Vec<_> = disk.list().unwrap().iter().map(|name| disk.contents(name).unwrap()).collect();
    let error = try_open(&disk).unwrap_err().to_string();
    assert_eq!(error, format!("memory/{name} has format version 3, and this program knows versions up to 2"));
    let after: Vec<_> = disk.list().unwrap().iter().map(|name| disk.contents(name).unwrap()).collect();
    assert!(before == after);
}

#[test]
fn a_segment_of_another_log_is_refused() {
    let (disk, _) = closed_log(15);
    let (other, _) = closed_log(16);
    let file = Log::verify(&disk).unwrap().segments[0].file.clone();
    let name = file.strip_prefix("memory/").unwrap();
    let generation = parse_segment_name(name).unwrap();
    let foreign = other.contents(&Log::verify(&other).unwrap().segments[0].file["memory/".len()..]).unwrap();
    let foreign_generation = foreign[16..24].try_into().map(u64::from_le_bytes).unwrap();
    disk.open(name).unwrap().write_at(&foreign, 0).unwrap();
    let error = try_open(&disk).unwrap_err();
    assert!(
        matches!(error, LogError::Corrupt { offset: 32, .. }),
        "{error}: {generation} {foreign_generation}"
    );
}

/// Either half of the control file may be the newer one.
const SLOTS: [u64; 2] = [0, 4096];

#[test]
fn a_missing_first_segment_is_noticed_even_when_the_control_file_is_damaged() {
    let disk = MemDisk::new();
    let log = open(&disk);
    for index in 1..=40 {
        append(&log.group(1), index, &[1; 3000]).unwrap();
    }
    log.close();
    let first = Log::verify(&disk).unwrap().segments[0].file.clone();
    for slot in SLOTS {
        let damaged = disk.killed();
        damaged.flip_bit(CONTROL_NAME, (slot + 20) * 8).unwrap();
        damaged.remove(&first["memory/".len()..]).unwrap();
        let error = try_open(&damaged).unwrap_err();
        assert!(matches!(error, LogError::Corrupt { .. } | LogError::Missing { .. }), "{error}");
    }
}

#[test]
fn an_old_half_of_the_control_file_is_not_believed_that_the_log_was_closed() {
    let disk = MemDisk::new();
    let log = open(&disk);
    append(&log.group(1), 1, b"before the close").unwrap();
    settle(&log);
    log.close();
    let at = Log::verify(&disk).unwrap().segments[0].used;
    let log = open(&disk);
    append(&log.group(1), 2, b"acknowledged").unwrap();
    append(&log.group(1), 3, b"acknowledged, and says so of the one before").unwrap();
    for slot in SLOTS {
        let damaged = disk.killed();
        damaged.flip_bit(CONTROL_NAME, (slot + 20) * 8).unwrap();
        damaged.flip_bit("log-0000000000000001.segment", (at + 50) * 8).unwrap();
        let error = try_open(&damaged).unwrap_err();
        assert!(matches!(error, LogError::Corrupt { offset, .. } if offset == at), "{error}");
    }
}

#[test]
fn half_a_control_file_is_enough_whatever_became_of_the_segments_it_still_names() {
    let disk = MemDisk::new();
    let log = open(&disk);
    let group = log.group(1);
    for index in 1..=200 {
        append(&group, index, &[1; 3000]).unwrap();
        if index % 50 != 0 {
            continue;
        }
        // More segments are let go at once than are kept to be used again: the first of them stay, the others go.
        settle(&log);
        wait(|done| group.purge(index - 2, Bytes::from_static(b"purged"), done)).unwrap();
        eventually("freeing", || log.stats().segments <= 3);
        eventually("deleting", || disk.list().unwrap().len() <= 3 + keeper::SPARES_MAX + 1);
        for slot in SLOTS {
            let damaged = disk.killed();
            damaged.flip_bit(CONTROL_NAME, (slot + 20) * 8).unwrap();
            let log = try_open(&damaged).unwrap_or_else(|error| panic!("slot {slot} after {index}: {error}"));
            let state = log.group(1).state();
            assert_eq!((state.first, state.last), (Some(index - 1), Some(index)), "slot {slot}");
        }
    }
}

#[test]
fn a_segment_that_goes_on_without_the_state_of_a_group_is_refused() {
    let disk = MemDisk::new();
    let log = open(&disk);
    for index in 1..=20 {
        append(&log.group(1), index, &[1; 3000]).unwrap();
    }
    let disk = disk.killed();
    let name = "log-0000000000000002.segment";
    // Another record of the same length, in the place of the state and as right as that was.
    let segment = disk.contents(name).unwrap();
    let state = &segment[SEGMENT_HEADER as usize..];
    let state = &state[..peek_length(state) as usize];
    let salt = u32::from_le_bytes(segment[32..36].try_into().unwrap());
    let (head, body) = decode(seed(salt, 2), state).unwrap();
    assert!(matches!(body, Body::State(_)));
    let hint = Body::Committed(&[0; 17]);
    let mut forged = Vec::new();
    encode(&mut forged, seed(salt, 2), head.sequence, head.mark, head.group, &hint);
    forged.truncate(state.len());
    assert_eq!(forged.len(), state.len());
    disk.open(name).unwrap().write_at(&forged, SEGMENT_HEADER).unwrap();
    let error = try_open(&disk).unwrap_err().to_string();
    let named = format!("memory/{name} is damaged at byte 4096: expected the state of every group");
    assert!(error.starts_with(&named), "{error}");
}
