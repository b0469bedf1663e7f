//! What was written is read, damage is noticed, and a crash leaves one file or the other.

use super::*;
use skein_model::{Atlas, Schema};
use skein_storage::disk::MemDisk;

fn saved() -> Saved {
    let mut content = Content::default();
    let genesis = genesis_of_one(&facts(), Founding(9), HostId(7), StoreId(70));
    let request = |id, command| super::super::Request { id, after: 0, again: false, command };
    content.apply(1, &request(1, super::super::Command::Found(genesis))).unwrap();
    Saved { place: Some(bytes::Bytes::from_static(b"here")), position: 2, content }
}

fn facts() -> Facts {
    let cohorts = Atlas::parse_targets(br#"[{"hosts":["0x7"]}]"#).unwrap();
    Facts {
        atlas: Arc::new(Atlas { version: 3, cohorts }),
        schema_version: 2,
        schema: Arc::new(Schema::parse("table fruit { id: 1; };").unwrap()),
    }
}

fn read_saved(disk: &dyn Disk) -> Option<Saved> {
    match read(disk, REPLICA).unwrap() {
        Some(Found::Saved(saved)) => Some(*saved),
        Some(Found::OfOne(_)) => panic!("format 1"),
        None => None,
    }
}

#[test]
fn a_catalog_comes_back_as_it_was_written() {
    let disk = MemDisk::new();
    assert_eq!(read_saved(&disk), None);
    assert!(!is_there(&disk).unwrap());
    write(&disk, REPLICA, &saved()).unwrap();
    assert!(is_there(&disk).unwrap());
    assert_eq!(read_saved(&disk), Some(saved()));
    let state = &saved().content.state;
    assert_eq!((state.atlas.version, state.schema_version, state.cohorts[0].opened), (3, 2, true));
}

#[test]
fn the_file_of_a_cell_of_one_is_read() {
    let dir = tempfile::tempdir().unwrap();
    catalog_of_one::Catalog::in_dir(dir.path()).store(&facts()).unwrap();
    let disk = skein_storage::disk::RealDisk::open(dir.path()).unwrap();
    let Some(Found::OfOne(found)) = read(&disk, REPLICA).unwrap() else { panic!("not of format 1") };
    assert_eq!(found, facts());
    // The release that wrote it says what to do about the file that takes its place.
    write(&disk, REPLICA, &saved()).unwrap();
    let error = catalog_of_one::Catalog::in_dir(dir.path()).load().unwrap_err();
    assert!(error.to_string().contains("start the newer release"), "{error}");
}

#[test]
fn every_flipped_bit_and_every_cut_is_noticed() {
    let disk = MemDisk::new();
    write(&disk, REPLICA, &saved()).unwrap();
    let good = disk.contents(REPLICA).unwrap();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        let error = parse(&bad, "the catalog").unwrap_err();
        assert!(error.to_string().contains("the catalog"), "flip at {at}: {error}");
        assert!(parse(&good[..at], "the catalog").is_err(), "cut at {at}");
    }
    assert!(parse(&[good, vec![0]].concat(), "the catalog").is_err());
}

#[test]
fn a_newer_format_is_refused_by_its_number() {
    let error = parse(b"skein-catalog 9 0 0\n", "the catalog").unwrap_err();
    assert!(error.to_string().contains("format 9"), "{error}");
}

#[test]
fn a_crash_while_the_file_is_replaced_leaves_the_old_or_the_new_one() {
    let (old, mut new) = (saved(), saved());
    new.position = 9;
    for seed in 0..64 {
        let disk = MemDisk::new();
        write(&disk, REPLICA, &old).unwrap();
        disk.fail_sync_after(seed % 4);
        let done = write(&disk, REPLICA, &new);
        let found = read_saved(&disk.crash(seed)).unwrap();
        assert!(found == new || (done.is_err() && found == old), "seed {seed}: {done:?}");
    }
}

#[test]
fn a_full_disk_leaves_the_old_file_and_room_helps() {
    let disk = MemDisk::new();
    write(&disk, REPLICA, &saved()).unwrap();
    disk.set_capacity(16);
    let error = write(&disk, REPLICA, &saved()).unwrap_err();
    assert!(error.is_full(), "{error}");
    assert_eq!(read_saved(&disk), Some(saved()));
    disk.set_capacity(1 << 20);
    write(&disk, REPLICA, &saved()).unwrap();
}

#[test]
fn a_founding_that_was_begun_is_remembered_until_it_is_done() {
    let disk = MemDisk::new();
    assert_eq!(read_intent(&disk).unwrap(), None);
    let genesis = genesis_of_one(&facts(), Founding(9), HostId(7), StoreId(70));
    write_intent(&disk, &genesis).unwrap();
    assert_eq!(read_intent(&disk.crash_losing_all()).unwrap(), Some(genesis));
    remove_intent(&disk).unwrap();
    remove_intent(&disk).unwrap();
    assert_eq!(read_intent(&disk).unwrap(), None);
}
