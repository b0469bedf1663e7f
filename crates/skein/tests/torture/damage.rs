//! Bytes that rot, files that are cut or vanish: the server says so, or what it serves is right. Never a wrong answer.

use crate::history::{self, History, Row, try_ask};
use crate::ledger::{Fate, Ledger, first_difference};
use crate::load::{Client, Load, SCHEMA, TABLES, path};
use crate::luck::{Luck, number_from_environment};
use crate::support::start::try_start;
use crate::support::wire::{Connection, Reply, ask};
use crate::support::{Server, run, said, within};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Small files, and only errors told: there are many refused requests here.
const FLAGS: [&str; 7] =
    ["--solo", "--log-segment", "64KiB", "--checkpoint-every", "128KiB", "--log-level", "error"];
/// Cases of the short form, unless they take longer than [`SHORT_FORM`].
const CASES: u64 = 40;
const SHORT_FORM: Duration = Duration::from_secs(25);
/// Written and acknowledged last, after all else was; alone in its record, so that it may be taken for a torn tail.
const LAST: &str = "last";

/// A directory of a stopped server, and all that it has to answer.
struct Original {
    root: tempfile::TempDir,
    versions: History,
    latest: History,
    /// Times of committed transactions, by ID.
    committed: Vec<(String, u64)>,
    /// Value and time of [`LAST`]; `None` if the server was stopped in good order and the row is like all others.
    last: Option<(Row, u64, String)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ending {
    Stopped,
    Killed,
}

impl Original {
    fn make(ending: Ending, luck: &mut Luck) -> Original {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("data");
        let mut flags = FLAGS.to_vec();
        flags.push("--init");
        let server = Server::start(&flags, &dir);
        assert_eq!(ask(&server.admin, "PUT", "/admin/schema", &[], SCHEMA.as_bytes()).status, 200);
        let load = Load { value_bytes_max: 1500, ..Load::default() };
        let ledger = work(&load, &server, 500, luck);
        let mut connection = Connection::open(&server.http);
        let versions = history::versions(&mut connection, &TABLES).unwrap();
        let latest = history::latest(&mut connection, &TABLES).unwrap();
        let committed = ledger.attempts.values().filter_map(|attempt| match attempt.fate {
            Fate::Committed(time) => Some((attempt.id.clone()?, time)),
            _ => None,
        });
        let mut original = Original { root, versions, latest, committed: committed.collect(), last: None };
        match ending {
            Ending::Stopped => server.stop(),
            Ending::Killed => {
                let row: Row = (TABLES[1], LAST.to_owned());
                let reply = connection.ask("PUT", &path(&row), &[], b"\"written last\"");
                assert_eq!(reply.status, 200, "{reply:?}");
                let last = (row, reply.number("value-txclock"), "\"written last\"".to_owned());
                server.kill();
                original.last = Some(last);
            }
        }
        original
    }

    fn dir(&self) -> PathBuf {
        self.root.path().join("data")
    }

    /// Every file, by its path below the directory.
    fn files(&self) -> Vec<PathBuf> {
        contents(&self.dir()).into_keys().collect()
    }

    fn copy_to(&self, to: &Path) {
        for (file, bytes) in contents(&self.dir()) {
            fs::create_dir_all(to.join(&file).parent().unwrap()).unwrap();
            fs::write(to.join(file), bytes).unwrap();
        }
    }
}

/// Lets clients work until so many writes were acknowledged.
fn work(load: &Load, server: &Server, acks: u64, luck: &mut Luck) -> Ledger {
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|name| {
                let client = Client::new(load, luck.split(), name, &server.http);
                scope.spawn(move || client.run())
            })
            .collect();
        within(|| (acks <= load.acknowledged.load(Ordering::Relaxed)).then_some(()));
        load.stop.store(true, Ordering::Relaxed);
        let mut ledger = Ledger::default();
        for client in clients {
            ledger.attempts.extend(client.join().unwrap().attempts);
        }
        ledger
    })
}

/// The bytes of every file below a directory.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![dir.to_path_buf()];
    while let Some(next) = dirs.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                let bytes = fs::read(&path).unwrap();
                found.insert(path.strip_prefix(dir).unwrap().to_path_buf(), bytes);
            }
        }
    }
    found
}

/// The files that are not the same, but for the lock, which says who looked last, and for what a crash left in the
/// store and nothing there names any more.
fn changes(before: &BTreeMap<PathBuf, Vec<u8>>, after: &BTreeMap<PathBuf, Vec<u8>>) -> BTreeSet<PathBuf> {
    let files = before.keys().chain(after.keys());
    let may_go = |file: &Path| file.starts_with("cohorts") && !after.contains_key(file);
    let changed = files.filter(|file| before.get(*file) != after.get(*file));
    changed.filter(|file| !file.ends_with("LOCK") && !may_go(file)).cloned().collect()
}

#[derive(Clone, Copy, Debug)]
enum Damage {
    Flip {
        at: u64,
        bit: u8,
    },
    /// A sector that reads as zeros.
    Zero {
        at: u64,
    },
    Cut {
        to: u64,
    },
    Gone,
}

impl Damage {
    /// Something that changes the file.
    fn draw(bytes: &[u8], luck: &mut Luck) -> Damage {
        // Half of the time where something is: a log segment is mostly empty.
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1);
        let end = if luck.percent(50) { used.max(1) } else { bytes.len().max(1) as u64 };
        if bytes.is_empty() {
            return Damage::Gone;
        }
        let at = luck.below(end);
        let sector = (at & !511) as usize;
        let is_empty = bytes[sector..bytes.len().min(sector + 512)].iter().all(|byte| *byte == 0);
        match luck.below(100) {
            0..15 => Damage::Gone,
            15..35 => Damage::Cut { to: at },
            35..50 if !is_empty => Damage::Zero { at: sector as u64 },
            _ => Damage::Flip { at, bit: luck.below(8) as u8 },
        }
    }

    fn inflict(self, file: &Path) {
        let mut bytes = fs::read(file).unwrap();
        match self {
            Damage::Flip { at, bit } => bytes[at as usize] ^= 1 << bit,
            Damage::Zero { at } => {
                let end = bytes.len().min(at as usize + 512);
                bytes[at as usize..end].fill(0);
            }
            Damage::Cut { to } => bytes.truncate(to as usize),
            Damage::Gone => return fs::remove_file(file).unwrap(),
        }
        fs::write(file, bytes).unwrap();
    }
}

/// What a server made of a damaged directory.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    /// It did not start.
    Refused,
    /// It started, and answered that something is damaged.
    Told,
    /// Everything it said is right.
    Right,
}

/// Starts a server on the directory, asks it everything, and holds it to the original. `damaged` is relative.
fn judge(original: &Original, dir: &Path, damaged: &Path, what: &str) -> Verdict {
    let before = contents(dir);
    let doctor = run(&["doctor", dir.to_str().unwrap()]);
    let changed = changes(&before, &contents(dir));
    assert!(changed.is_empty(), "{what}: the doctor changed {changed:?}: {}", said(&doctor));

    let server = match try_start(&FLAGS, dir) {
        Ok(server) => server,
        Err(refused) => {
            let code = refused.status.code();
            assert!(!refused.said.contains("panicked"), "{what}: {refused:?}");
            assert!(matches!(code, Some(5 | 7)), "{what}: {refused:?}");
            assert!(names(&refused.said, dir, damaged), "{what}: not named: {refused:?}");
            assert_eq!(doctor.status.code(), code, "{what}: {}, but {refused:?}", said(&doctor));
            assert!(names(&said(&doctor), dir, damaged), "{what}: not named: {}", said(&doctor));
            return Verdict::Refused;
        }
    };
    let told = question(original, &server, what);
    assert!(!server.complaints().contains("panicked"), "{what}: {}", server.complaints());
    if told.is_empty() {
        return Verdict::Right;
    }
    assert_eq!(doctor.status.code(), Some(5), "{what}: {}, but {told:?}", said(&doctor));
    let heard = format!("{told:?}{}", server.complaints());
    assert!(names(&heard, dir, damaged), "{what}: not named: {heard}");
    Verdict::Told
}

/// Whether a text names the file, or at least its directory and its name, or the tree that a table belongs to.
fn names(text: &str, dir: &Path, file: &Path) -> bool {
    let says = |path: &Path| text.contains(path.to_str().unwrap());
    if file.starts_with("cohorts") {
        return says(&dir.join(file.iter().take(4).collect::<PathBuf>()));
    }
    says(dir) && says(Path::new(file.file_name().unwrap()))
}

/// Asks for everything. Wrong answers are failures of the test; the details of answers that say "damaged" come back.
fn question(original: &Original, server: &Server, what: &str) -> Vec<String> {
    let mut told = Vec::new();
    let mut connection = Connection::open(&server.http);
    let mut scan = |of: fn(&mut Connection, &[&'static str]) -> Result<History, Option<Reply>>,
                    wanted: &History| {
        match of(&mut connection, &TABLES) {
            Ok(mut found) => {
                check_last(original, &mut found, what);
                if let Some((row, found, wanted)) = first_difference(&found, wanted) {
                    panic!("{what}: {row:?} is {found}, and should be {wanted}");
                }
            }
            // The answer was cut: nobody can take it for the whole.
            Err(None) => {
                told.push("a scan was cut".to_owned());
                connection = Connection::open(&server.http);
            }
            Err(Some(reply)) => told.push(damaged_detail(reply.status, reply.text(), what)),
        }
    };
    scan(history::latest, &original.latest);
    scan(history::versions, &original.versions);
    for (row, versions) in original.versions.iter().step_by(3) {
        for (time, value) in versions.iter().rev().take(2) {
            let at = time.to_string();
            let reply = connection.ask("GET", &path(row), &[("Read-TxClock", &at)], b"");
            match (reply.status, value) {
                (200, Some(value)) => {
                    assert!(reply.text() == value, "{what}: {row:?} at {at} has another value")
                }
                (404, None) => {}
                (status, _) => {
                    told.push(damaged_detail(status, reply.text(), &format!("{what}: {row:?} at {at}")));
                    continue;
                }
            }
            assert_eq!(reply.number("value-txclock"), *time, "{what}: {row:?} at {at}: {reply:?}");
        }
    }
    for (id, time) in original.committed.iter().step_by(11) {
        let reply = connection.ask("GET", "/tx-status", &[("Transaction-ID", id)], b"");
        match reply.status {
            200 => assert_eq!(reply.number("value-txclock"), *time, "{what}: {id}"),
            status => told.push(damaged_detail(status, reply.text(), &format!("{what}: transaction {id}"))),
        }
    }
    // A server that has met damage goes on answering that, and to its administrator too.
    let schema = ask(&server.admin, "GET", "/admin/schema", &[], b"");
    assert_eq!((schema.status, schema.text()), (200, SCHEMA), "{what}");
    let write = try_ask(&mut connection, "PUT", &path(&(TABLES[1], "after".into())), &[], "1").unwrap();
    if write.status != 200 {
        told.push(damaged_detail(write.status, write.text(), &format!("{what}: a write")));
    }
    told
}

/// Takes the last write out, which may be there or not, but only as it was.
fn check_last(original: &Original, found: &mut History, what: &str) {
    let Some((row, time, value)) = &original.last else { return };
    if let Some(versions) = found.remove(row) {
        assert_eq!(
            versions,
            history::Versions::from([(*time, Some(value.clone()))]),
            "{what}: the last write"
        );
    }
}

/// The detail of an answer that has to say "damaged".
fn damaged_detail(status: u16, text: &str, what: &str) -> String {
    assert!(status == 500 && text.contains("urn:skein:problem:damaged"), "{what}: {status} {text}");
    text.to_owned()
}

#[test]
fn damage_anywhere_is_told_or_harmless_and_never_a_wrong_answer() {
    let asked = number_from_environment("SKEIN_FLIPS");
    let begun = Instant::now();
    let mut luck = Luck::of_run(4);
    let originals =
        [Ending::Stopped, Ending::Killed].map(|ending| (ending, Original::make(ending, &mut luck)));
    let mut verdicts: BTreeMap<Verdict, u64> = BTreeMap::new();
    for case in 0..asked.unwrap_or(CASES) {
        if asked.is_none() && SHORT_FORM < begun.elapsed() {
            eprintln!("{case} of {CASES} cases were enough for this slow machine");
            break;
        }
        let (ending, original) = &originals[case as usize % 2];
        let files = original.files();
        // Each file in its turn, and not always in the same company.
        let file = &files[((case / 2) * 7 + case / 2 / files.len() as u64) as usize % files.len()];
        let scratch = tempfile::tempdir().unwrap();
        original.copy_to(scratch.path());
        let damage = Damage::draw(&fs::read(scratch.path().join(file)).unwrap(), &mut luck);
        damage.inflict(&scratch.path().join(file));
        let what = format!("{ending:?}, {} {damage:?}", file.display());
        let verdict = judge(original, scratch.path(), file, &what);
        eprintln!("{what}: {verdict:?}");
        *verdicts.entry(verdict).or_default() += 1;
    }
    eprintln!("{verdicts:?}");
    let met = verdicts.get(&Verdict::Refused).unwrap_or(&0) + verdicts.get(&Verdict::Told).unwrap_or(&0);
    let all: u64 = verdicts.values().sum();
    assert!(all / 4 <= met, "hardly any damage met anything: this test tests too little: {verdicts:?}");
}

#[test]
fn an_undamaged_directory_gives_every_answer() {
    let mut luck = Luck::of(11);
    for ending in [Ending::Stopped, Ending::Killed] {
        let original = Original::make(ending, &mut luck);
        let server = Server::start(&FLAGS, &original.dir());
        let told = question(&original, &server, "undamaged");
        assert!(told.is_empty(), "{told:?}");
        let last = crate::support::get(&server.http, &format!("/table/{}?key={LAST}", TABLES[1]));
        assert_eq!(last.status, if ending == Ending::Killed { 200 } else { 404 });
    }
}

#[test]
fn a_directory_without_its_log_is_not_served_nor_one_whose_store_the_log_cannot_bring_back() {
    let mut luck = Luck::of(12);
    let original = Original::make(Ending::Stopped, &mut luck);
    for part in ["log", "cohorts"] {
        let scratch = tempfile::tempdir().unwrap();
        original.copy_to(scratch.path());
        fs::remove_dir_all(scratch.path().join(part)).unwrap();
        let doctor: Output = run(&["doctor", scratch.path().to_str().unwrap()]);
        match try_start(&FLAGS, scratch.path()) {
            // The store is the log's image: a log that was not cut yet brings all of it back.
            Ok(server) if part == "cohorts" => {
                assert_eq!(question(&original, &server, part), Vec::<String>::new());
                assert_eq!(doctor.status.code(), Some(0), "without {part}: {}", said(&doctor));
                continue;
            }
            Ok(_) => panic!("served without {part}: {}", said(&doctor)),
            Err(refused) => assert_eq!(refused.status.code(), Some(5), "without {part}: {refused:?}"),
        }
        assert_eq!(doctor.status.code(), Some(5), "without {part}: {}", said(&doctor));
    }
}
