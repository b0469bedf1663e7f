//! A disk that fills up: writes are refused whole, reads go on, and when there is space again so do writes.

use crate::history;
use crate::kill::settle;
use crate::ledger::Ledger;
use crate::load::{Client, Load, SCHEMA, TABLES};
use crate::luck::Luck;
use crate::support::wire::{Connection, ask};
use crate::support::{Server, run, said, within};
use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::Ordering;

const MIB: u64 = 1 << 20;
const DISK_BYTES: u64 = 40 * MIB;
const FLAGS: [&str; 9] = [
    "--solo",
    "--log-segment",
    "256KiB",
    "--checkpoint-every",
    "1MiB",
    "--disk-reserve",
    "6MiB",
    "--log-level",
    "error",
];

/// A small file system in memory, gone with the test however it ends.
struct SmallDisk {
    root: tempfile::TempDir,
}

impl SmallDisk {
    /// Says why if this process may not mount.
    fn mount() -> Result<SmallDisk, String> {
        let root = tempfile::tempdir().unwrap();
        let size = format!("size={DISK_BYTES}");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "skein-torture"]).arg(root.path());
        let mounted = mount.output().map_err(|e| e.to_string())?;
        if mounted.status.success() { Ok(SmallDisk { root }) } else { Err(said(&mounted)) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Takes this much space, or what is left of it.
    fn fill(&self, bytes: u64) {
        let mut file = File::options().append(true).create(true).open(self.path("filler")).unwrap();
        let piece = [7u8; 64 << 10];
        for _ in 0..bytes.div_ceil(piece.len() as u64) {
            match file.write_all(&piece) {
                Ok(()) => {}
                Err(e) if e.kind() == ErrorKind::StorageFull => return,
                Err(e) => panic!("{e}"),
            }
        }
    }

    fn free(&self) {
        fs::remove_file(self.path("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily, since a failed test may still have a server on it.
        let unmounted = Command::new("umount").arg("-l").arg(self.root.path()).output();
        if !unmounted.as_ref().is_ok_and(|output| output.status.success()) {
            eprintln!("{} stays mounted: {unmounted:?}", self.root.path().display());
        }
    }
}

#[test]
fn a_full_disk_refuses_writes_whole_goes_on_reading_and_recovers() {
    let disk = match SmallDisk::mount() {
        Ok(disk) => disk,
        Err(why) => {
            eprintln!("NOT TESTED: a full disk, because a small one cannot be mounted here: {why}");
            return;
        }
    };
    let mut luck = Luck::of_run(5);
    let dir = disk.path("data");
    let mut flags = FLAGS.to_vec();
    flags.push("--init");
    let server = Server::start(&flags, &dir);
    assert_eq!(ask(&server.admin, "PUT", "/admin/schema", &[], SCHEMA.as_bytes()).status, 200);
    let mut load = Load { value_bytes_max: 30_000, disk_may_fill: true, ..Load::default() };
    let mut ledger = Ledger::default();

    // Down to the reserve, by rows alone.
    disk.fill(22 * MIB);
    work(&server, &mut load, &mut ledger, &mut luck, |load| 60 <= load.full.load(Ordering::Relaxed), || {});
    assert!(0 < load.acknowledged.load(Ordering::Relaxed));
    check_beside_writes(&server, &ledger);

    // Space again, and writes go on by themselves.
    disk.free();
    wait_until_writable(&server);
    let acknowledged = load.acknowledged.load(Ordering::Relaxed);
    let enough = |load: &Load| acknowledged + 50 <= load.acknowledged.load(Ordering::Relaxed);
    work(&server, &mut load, &mut ledger, &mut luck, enough, || {});

    // Somebody else takes all there is, the reserve too, in the middle of writes.
    load.full.store(0, Ordering::Relaxed);
    let full = |load: &Load| 60 <= load.full.load(Ordering::Relaxed);
    work(&server, &mut load, &mut ledger, &mut luck, full, || disk.fill(DISK_BYTES));
    check_beside_writes(&server, &ledger);
    disk.fill(DISK_BYTES);
    server.kill();

    let server = Server::start(&FLAGS, &dir);
    let everything = history::versions(&mut Connection::open(&server.http), &TABLES).unwrap();
    ledger.check(&everything);
    let write = ask(&server.http, "PUT", "/table/0x2?key=probe", &[], b"{\"n\":0,}");
    assert_eq!(write.status, 400, "{write:?}");
    let write = ask(&server.http, "PUT", "/table/0x3?key=probe", &[], b"1");
    assert_eq!(write.status, 507, "{write:?}");
    assert!(write.text().contains("urn:skein:problem:disk-full\""), "{write:?}");

    disk.free();
    wait_until_writable(&server);
    settle(&server, &mut ledger, &mut luck);
    let (committed, dead, unknown) = ledger.counts();
    eprintln!("{committed} transactions written, {dead} not, {unknown} unknown");
    assert!(!server.complaints().contains("panicked"), "{}", server.complaints());
    server.stop();
    let doctor = run(&["doctor", dir.to_str().unwrap()]);
    assert_eq!(doctor.status.code(), Some(0), "{}", said(&doctor));
}

/// Lets clients work until `enough`; `meanwhile` happens once they do.
fn work(
    server: &Server,
    load: &mut Load,
    ledger: &mut Ledger,
    luck: &mut Luck,
    enough: impl Fn(&Load) -> bool,
    meanwhile: impl FnOnce(),
) {
    load.stop.store(false, Ordering::Relaxed);
    let load = &*load;
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|name| {
                let client = Client::new(load, luck.split(), name, &server.http);
                scope.spawn(move || client.run())
            })
            .collect();
        let begun = load.acknowledged.load(Ordering::Relaxed);
        within(|| (begun != load.acknowledged.load(Ordering::Relaxed)).then_some(()));
        meanwhile();
        within(|| (enough(load) || clients.iter().any(|client| client.is_finished())).then_some(()));
        load.stop.store(true, Ordering::Relaxed);
        for client in clients {
            let Ledger { attempts, seen, .. } = client.join().unwrap();
            ledger.attempts.extend(attempts);
            ledger.seen.extend(seen);
        }
    });
}

/// Checks what is there, without taking what is not there yet for dead: it may still wait for space.
fn check_beside_writes(server: &Server, ledger: &Ledger) {
    let mut connection = Connection::open(&server.http);
    let everything = history::versions(&mut connection, &TABLES).unwrap();
    Ledger::check_latest(&everything, &history::latest(&mut connection, &TABLES).unwrap());
    ledger.clone().check(&everything);
}

fn wait_until_writable(server: &Server) {
    within(|| {
        let write = ask(&server.http, "PUT", "/table/0x3?key=probe", &[], b"1");
        assert!(matches!(write.status, 200 | 507), "{write:?}");
        (write.status == 200).then_some(())
    });
}

#[test]
fn below_the_reserve_nothing_is_written_and_reads_go_on() {
    let root = tempfile::tempdir().unwrap();
    let server = Server::solo(root.path());
    crate::support::put(&server.http, "/table/0x1?key=old", "1");
    server.stop();

    let server =
        Server::start(&["--solo", "--disk-reserve", "100000TiB", "--log-level", "error"], root.path());
    let batch =
        br#"[{"table":"0x1","key":"a","op":"update","value":1},{"table":"0x1","key":"old","op":"delete"}]"#;
    for refused in [
        ask(&server.http, "PUT", "/table/0x1?key=new", &[], b"2"),
        ask(&server.http, "DELETE", "/table/0x1?key=old", &[], b""),
        ask(&server.http, "POST", "/batch-write", &[], batch),
    ] {
        assert_eq!(refused.status, 507, "{refused:?}");
        assert!(refused.text().contains("urn:skein:problem:disk-full\""), "{refused:?}");
    }
    let rows = |server: &Server| crate::support::get(&server.http, "/table/0x1").body;
    let before = rows(&server);
    assert!(
        before.contains("\"old\"") && !before.contains("\"new\"") && !before.contains("\"a\""),
        "{before}"
    );
    server.kill();

    let server = Server::start(&["--solo"], root.path());
    assert_eq!(rows(&server), before);
    crate::support::put(&server.http, "/table/0x1?key=new", "2");
}

#[test]
fn a_start_below_the_reserve_in_a_new_directory_serves_reads() {
    let root = tempfile::tempdir().unwrap();
    let flags = ["--solo", "--init", "--disk-reserve", "100000TiB", "--log-level", "error"];
    let server = Server::start(&flags, root.path());
    assert_eq!(crate::support::get(&server.http, "/table/0x1?key=a").status, 404);
    assert_eq!(ask(&server.http, "PUT", "/table/0x1?key=a", &[], b"1").status, 507);
}
