//! What is fuzzed: every function here takes any bytes, hands them to one of the places that read what others
//! wrote, and panics if the answer breaks a promise. A clean refusal is a fine answer.
//!
//! Each is a libFuzzer target under `fuzz_targets/`; the test `smoke` runs all of them over the seeds and some mutations
//! of them, without a fuzzer.
#![forbid(unsafe_code)]

mod bytes_of;
mod chunks;
mod flock;
mod flock_wire;
mod log;
mod log_image;

pub use chunks::chunks;
pub use flock::flock_handle;
pub use flock_wire::{flock_broadcast, flock_facts, flock_membership, flock_query};
pub use log::log;

use bytes::Bytes;
use bytes_of::Take;
use skein_cell::catalog::{self as replicated, Request};
use skein_cell::catalog_of_one::{CATALOG_FORMAT, Catalog, CatalogError};
use skein_cohort::Outcome;
use skein_cohort::entry::{Entry, EntryBuilder, EntryReign};
use skein_model::number::parse_u64;
use skein_model::{Atlas, Cohort, HostId, Pick, Schema, TableId, TxClock, TxId};
use skein_server::fuzzing;
use skein_storage::rows::{TxRecord, decode_head, decode_past};
use std::path::Path;
use std::str::from_utf8;

/// One fuzz target.
pub type Target = fn(&[u8]);

/// All of them by name; the name is also that of the directory with its seeds.
pub const TARGETS: [(&str, Target); 24] = [
    ("schema", schema),
    ("atlas", atlas),
    ("numbers", numbers),
    ("batch", batch),
    ("target", target),
    ("headers", headers),
    ("link", link),
    ("entry", entry),
    ("raft", raft),
    ("rows", rows),
    ("log", log),
    ("catalog", catalog),
    ("flock_membership", flock_membership),
    ("flock_broadcast", flock_broadcast),
    ("flock_facts", flock_facts),
    ("flock_query", flock_query),
    ("flock_handle", flock_handle),
    ("frame", frame),
    ("greeting", greeting),
    ("group", group),
    ("peer_messages", peer_messages),
    ("catalog_messages", catalog_messages),
    ("flock_memory", flock_memory),
    ("chunks", chunks),
];

/// A schema text: it reads again as the same schema, or its errors can be printed.
pub fn schema(data: &[u8]) {
    let Ok(text) = from_utf8(data) else { return };
    match Schema::parse(text) {
        Ok(schema) => {
            assert_eq!(schema.text(), text);
            let mut last = None;
            for (name, table) in schema.tables() {
                assert!(last < Some(name), "tables come sorted and once");
                last = Some(name);
                assert_eq!(schema.table(name), Some(table));
                // Neither may panic, whatever was asked for.
                let _ =
                    (table.retain.oldest_readable(TxClock::MAX), table.retain.oldest_readable(TxClock::ZERO));
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// An atlas as an administrator submits it: what is accepted is sound, prints, and reads again as the same.
pub fn atlas(data: &[u8]) {
    match Atlas::parse_targets(data) {
        Ok(cohorts) => {
            assert!(cohorts.len().is_power_of_two());
            assert!(!cohorts.contains(&Cohort::Empty));
            let atlas = Atlas { version: 1, cohorts };
            let again = Atlas::parse_targets(atlas.to_json().as_bytes());
            assert_eq!(again.as_ref(), Ok(&atlas.cohorts), "from {}", atlas.to_json());
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// Numbers, times and IDs: what is accepted reads again as printed.
pub fn numbers(data: &[u8]) {
    let Ok(text) = from_utf8(data) else { return };
    let number = parse_u64(text);
    assert_eq!(text.parse(), number.clone().map(TxClock));
    assert_eq!(text.parse(), number.clone().map(HostId));
    if let Ok(number) = number {
        assert_eq!(TxClock(number).to_string().parse(), Ok(TxClock(number)));
        assert_eq!(TableId(number).to_string().parse(), Ok(TableId(number)));
    }
    if let Ok(id) = text.parse::<TxId>() {
        assert_eq!(id.to_string().parse(), Ok(id.clone()));
        assert_eq!(TxId::from_be_bytes(id.as_be_bytes()), id);
    }
    if let Ok(pick) = text.parse::<Pick>() {
        assert!(pick.name().eq_ignore_ascii_case(text));
    }
}

/// The body of a batch.
pub fn batch(data: &[u8]) {
    fuzzing::batch(data);
}

/// The path and query of a request.
pub fn target(data: &[u8]) {
    if let Ok(text) = from_utf8(data) {
        fuzzing::target(text);
    }
}

/// The headers of a request, one to a line.
pub fn headers(data: &[u8]) {
    if let Ok(text) = from_utf8(data) {
        fuzzing::headers(text);
    }
}

/// The link from one page of a scan to the next: a query, a line feed, and the row that the next page begins with.
pub fn link(data: &[u8]) {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let Ok(query) = from_utf8(&data[..end]) else { return };
    let mut rest = Take(data.get(end + 1..).unwrap_or_default());
    let (time, until) = (rest.number(), rest.number());
    fuzzing::link(query, rest.0, TxClock(time), TxClock(until));
}

/// An entry of a cohort: what is read survives being written and read again.
pub fn entry(data: &[u8]) {
    let entry = match Entry::decode(Bytes::copy_from_slice(data)) {
        Ok(entry) => entry,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let reign = entry.reign.unwrap_or(EntryReign { term: 0, first: 0 });
    let mut builder = EntryBuilder::new(reign, entry.proposer, entry.sequence);
    builder.horizons(&entry.horizons);
    for decision in &entry.decisions {
        builder.decision(&decision.id, decision.fingerprint, &decision.outcome, decision.writes.len());
        for write in &decision.writes {
            builder.write(write.table, &write.key, write.value.as_ref());
        }
        assert!(
            matches!(decision.outcome, Outcome::Committed(_)) || decision.writes.is_empty(),
            "a transaction that was not committed writes nothing"
        );
    }
    let again = builder.finish(entry.ceiling);
    // The oldest version has no reign; it is written back with one.
    let reign_bytes = if entry.reign.is_none() { 16 } else { 0 };
    assert!(again.len() <= data.len() + reign_bytes, "nothing was made up");
    let entry = Entry { reign: Some(reign), ..entry };
    assert_eq!(Entry::decode(again), Ok(entry));
}

/// What Raft keeps about itself in the log and the store.
pub fn raft(data: &[u8]) {
    skein_cohort::fuzzing::raft_records(data);
}

/// Values of the row store. The records of transactions are canonical: they are written back as they were read.
pub fn rows(data: &[u8]) {
    let encoded = Bytes::copy_from_slice(data);
    match (decode_head(&encoded), decode_past(&encoded)) {
        (Ok(head), Ok(past)) => {
            assert_eq!(head, past);
            let (live, value) = (head.is_live(), head.into_value(&encoded));
            assert_eq!(live, value.is_some());
            assert!(value.is_none_or(|value| encoded.ends_with(&value.bytes)));
        }
        (Err(head), Err(past)) => assert_eq!(head, past),
        (head, past) => panic!("read as {head:?} from one keyspace and as {past:?} from the other"),
    }
    if let Ok(record) = TxRecord::decode(&encoded) {
        assert_eq!(record.encode(), encoded);
    }
}

/// The catalog file, as it is and as the body of a file whose first line is right.
pub fn catalog(data: &[u8]) {
    let header = format!("skein-catalog {CATALOG_FORMAT} {:08x} {}\n", crc32c::crc32c(data), data.len());
    let catalog = Catalog::in_dir(Path::new("fuzz"));
    for file in [data, &[header.as_bytes(), data].concat()] {
        match catalog.parse(file) {
            Ok(facts) => {
                let json = facts.atlas.to_json();
                assert!(facts.atlas.is_empty() || Atlas::parse_targets(json.as_bytes()).is_ok(), "{json}");
            }
            Err(CatalogError::Io { .. }) => panic!("parsing does no input"),
            Err(error) => assert!(error.to_string().contains("fuzz/catalog"), "{error}"),
        }
    }
    // The file of a catalog that is replicated, and an entry of its log.
    let format = replicated::file::CATALOG_FORMAT;
    let header = format!("skein-catalog {format} {:08x} {}\n", crc32c::crc32c(data), data.len());
    for file in [data, &[header.as_bytes(), data].concat()] {
        match replicated::file::parse(file, "fuzz/catalog") {
            Ok(replicated::file::Found::Saved(saved)) => saved.content.state.check().expect("a sound state"),
            Ok(replicated::file::Found::OfOne(_)) => {}
            Err(error) => assert!(error.to_string().contains("fuzz/catalog"), "{error}"),
        }
    }
    if let Ok(request) = Request::decode(data) {
        let again = request.encode().map(|bytes| Request::decode(&bytes));
        assert!(again.is_err() || again == Ok(Ok(request)));
    }
}

/// Frames between peers, one after the other, with checksums and without.
pub fn frame(data: &[u8]) {
    skein_transport::wire::fuzz(data);
}

/// What both ends of a connection say first, also under right checksums.
pub fn greeting(data: &[u8]) {
    skein_transport::hello::fuzz(data);
}

/// What the replicas of a group say to each other, pieces of snapshots included.
pub fn group(data: &[u8]) {
    skein_cohort::fuzzing::group_messages(data);
}

/// What peers ask each other about rows and cohorts, and their answers.
pub fn peer_messages(data: &[u8]) {
    skein_cell::fuzzing::peer_messages(data);
}

/// What the catalogs of peers say to each other.
pub fn catalog_messages(data: &[u8]) {
    skein_cell::fuzzing::catalog_messages(data);
}

/// What a peer remembers of the others across restarts.
pub fn flock_memory(data: &[u8]) {
    skein_cell::fuzzing::memory(data);
}
