//! `kill -9` under load, in start-up, in shutdown: what was acknowledged is there, what was not is whole or absent.

use crate::history::{self, version_at};
use crate::ledger::{Fate, Ledger};
use crate::load::{Client, Load, SCHEMA, TABLES, path, send};
use crate::luck::{Luck, number_from_environment};
use crate::support::start::{Starting, try_start};
use crate::support::wire::{Connection, ask};
use crate::support::{Server, run, said, within};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Segments and checkpoints so small that both come and go all the time.
const FLAGS: [&str; 5] = ["--solo", "--log-segment", "64KiB", "--checkpoint-every", "96KiB"];
const CLIENTS: u64 = 8;

#[test]
fn whatever_a_kill_meets_acknowledged_writes_stay_and_no_batch_is_half_there() {
    let kills = number_from_environment("SKEIN_KILLS").unwrap_or(4);
    let mut luck = Luck::of_run(20_261_122);
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("data");
    let mut flags = FLAGS.to_vec();
    flags.push("--init");
    let mut server = Server::start(&flags, &dir);
    assert_eq!(ask(&server.admin, "PUT", "/admin/schema", &[], SCHEMA.as_bytes()).status, 200);

    let mut load = Load { value_bytes_max: 2000, ..Load::default() };
    let mut ledger = Ledger::default();
    for round in 0..kills {
        let acks = 30 + luck.below(400);
        work_until_killed(server, &mut load, &mut ledger, acks, &mut luck);
        let cut_starts = [0, 0, 1, 3][luck.below(4) as usize];
        for _ in 0..cut_starts {
            let starting = Starting::spawn(&FLAGS, &dir);
            pass(Duration::from_micros(luck.below(60_000)));
            starting.kill();
        }
        server = Server::start(&FLAGS, &dir);
        settle(&server, &mut ledger, &mut luck);
        let (committed, dead, _) = ledger.counts();
        eprintln!(
            "kill {}: {committed} transactions written, {dead} not, {cut_starts} starts cut",
            round + 1
        );
    }
    let mut connection = Connection::open(&server.http);
    let everything = history::versions(&mut connection, &TABLES).unwrap();
    ledger.check(&everything);
    ledger.check_settled(&everything);
    let complaints = server.complaints();
    assert!(!complaints.contains("panicked"), "{complaints}");
    server.stop();
    assert!(1 < oldest_segment(&dir), "the log was never recycled: this test tests too little");
    let doctor = run(&["doctor", dir.to_str().unwrap()]);
    assert_eq!(doctor.status.code(), Some(0), "{}", said(&doctor));
}

/// Lets clients work, ends the server one way or another, and takes down what they did.
fn work_until_killed(server: Server, load: &mut Load, ledger: &mut Ledger, acks: u64, luck: &mut Luck) {
    load.may_end.store(false, Ordering::SeqCst);
    let load = &*load;
    let before = load.acknowledged.load(Ordering::Relaxed);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|name| Client::new(load, luck.split(), name, &server.http))
            .collect::<Vec<_>>()
            .into_iter()
            .map(|client| scope.spawn(move || client.run()))
            .collect();
        within(|| (before + acks <= load.acknowledged.load(Ordering::Relaxed)).then_some(()));
        pass(Duration::from_micros(luck.below(4000)));
        load.may_end.store(true, Ordering::SeqCst);
        match luck.below(10) {
            0..7 => server.kill(),
            7..9 => {
                // In the middle of the last checkpoint, with luck.
                server.terminate();
                pass(Duration::from_micros(luck.below(25_000)));
                server.kill();
            }
            _ => server.stop(),
        }
        for client in clients {
            let Ledger { attempts, seen, .. } = client.join().unwrap();
            ledger.attempts.extend(attempts);
            ledger.seen.extend(seen);
        }
    });
}

/// Checks all there is, then finds out what became of every attempt that was not answered.
pub fn settle(server: &Server, ledger: &mut Ledger, luck: &mut Luck) {
    let mut connection = Connection::open(&server.http);
    let before = history::versions(&mut connection, &TABLES).unwrap();
    Ledger::check_latest(&before, &history::latest(&mut connection, &TABLES).unwrap());
    ledger.check(&before);
    for _ in 0..50 {
        let (row, versions) = before.iter().nth(luck.below(before.len() as u64) as usize).unwrap();
        let time = *versions.keys().nth(luck.below(versions.len() as u64) as usize).unwrap();
        for at in [time - 1, time] {
            let at_text = at.to_string();
            let reply = connection.ask("GET", &path(row), &[("Read-TxClock", &at_text)], b"");
            let (time, value) = version_at(&before, row, at);
            assert_eq!(reply.number("value-txclock"), time, "{row:?} at {at}: {reply:?}");
            assert_eq!(reply.status, if value.is_some() { 200 } else { 404 }, "{row:?} at {at}: {reply:?}");
            assert!(value.is_none_or(|value| value == reply.text()), "{row:?} at {at} has another value");
        }
    }

    let newest =
        before.values().filter_map(|versions| versions.keys().next_back()).max().copied().unwrap_or(0);
    let clocks_of_their_own = ledger.times_may_meet;
    for attempt in ledger.attempts.values_mut() {
        let Some(id) = attempt.id.clone() else { continue };
        // Those already told, now and then too: an answer must never change.
        if attempt.fate != Fate::Unknown && !luck.percent(2) {
            continue;
        }
        let fate = match luck.below(2) {
            0 => {
                let reply = connection.ask("GET", "/tx-status", &[("Transaction-ID", &id)], b"");
                match reply.status {
                    200 => Fate::Committed(reply.number("value-txclock")),
                    409 => Fate::Dead,
                    _ => panic!("{reply:?}"),
                }
            }
            _ => {
                let first = send(&mut connection, attempt).unwrap();
                let again = send(&mut connection, attempt).unwrap();
                assert_eq!(first.status, again.status, "{attempt:?}: {first:?}, then {again:?}");
                match first.status {
                    200 => {
                        let time = first.number("value-txclock");
                        assert_eq!(time, again.number("value-txclock"), "{attempt:?}");
                        Fate::Committed(time)
                    }
                    409 | 412 => Fate::Dead,
                    _ => panic!("{attempt:?}: {first:?}"),
                }
            }
        };
        let is_open = matches!(attempt.fate, Fate::Unknown | Fate::Undecided);
        assert!(is_open || attempt.fate == fate, "now {fate:?}: {attempt:?}");
        attempt.fate = fate;
        if let Fate::Committed(time) = fate {
            let was_there = attempt.changes.iter().all(|change| {
                before.get(&change.row).and_then(|versions| versions.get(&time)) == Some(&change.value)
            });
            assert!(
                was_there || newest < time || clocks_of_their_own,
                "told {time}, when others were done: {attempt:?}"
            );
        }
    }
    let after = history::versions(&mut connection, &TABLES).unwrap();
    ledger.check(&after);
    ledger.check_settled(&after);
}

/// Waits less time than a sleep can be trusted with.
fn pass(time: Duration) {
    let begun = Instant::now();
    while begun.elapsed() < time {
        std::thread::yield_now();
    }
}

/// The generation of the oldest segment of the log.
fn oldest_segment(dir: &Path) -> u64 {
    let names = std::fs::read_dir(dir.join("log")).unwrap().map(|e| e.unwrap().file_name());
    let generation = |name: std::ffi::OsString| {
        name.to_str()?.strip_prefix("log-")?.strip_suffix(".segment")?.parse::<u64>().ok()
    };
    names.filter_map(generation).min().unwrap()
}

#[test]
fn a_start_that_is_killed_again_and_again_still_gets_there() {
    let root = tempfile::tempdir().unwrap();
    let mut luck = Luck::of(7);
    let mut flags = FLAGS.to_vec();
    flags.push("--init");
    // From the very first byte on: the directory, its identity and its log are all made by the first starts.
    for _ in 0..12 {
        let starting = Starting::spawn(&flags, root.path());
        pass(Duration::from_micros(luck.below(50_000)));
        starting.kill();
    }
    let server = try_start(&flags, root.path()).unwrap_or_else(|refused| panic!("{refused:?}"));
    crate::support::put(&server.http, "/table/0x2?key=a", "1");
    server.kill();
    let server = Server::start(&FLAGS, root.path());
    assert_eq!(crate::support::get(&server.http, "/table/0x2?key=a").body, "1");
}
