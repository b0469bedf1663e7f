//! Clients that write and read until the server goes away, and remember every answer.

use crate::history::{Row, try_ask};
use crate::ledger::{Attempt, Change, Fate, Ledger, Seen, value_of};
use crate::luck::Luck;
use crate::support::wire::{Connection, Reply};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// How long a client waits for a peer before it asks another; longer than a peer's own patience.
const PATIENCE_WITH_ONE_PEER: Duration = Duration::from_secs(12);

/// A table with a name, and one that is only an ID.
pub const TABLES: [&str; 2] = ["fruit", "0x2"];
/// The schema that names the first of them.
pub const SCHEMA: &str = "table fruit { id: 0x1001; };";
/// Rows of each table that one client alone writes.
const OWN_ROWS: u64 = 12;
/// Rows of each table that all clients write.
const HOT_ROWS: u64 = 4;

/// What clients share.
#[derive(Default)]
pub struct Load {
    /// Numbers for attempts; goes on over restarts.
    pub next: AtomicU64,
    /// Writes acknowledged so far.
    pub acknowledged: AtomicU64,
    /// Writes refused because the disk is full.
    pub full: AtomicU64,
    /// The largest time that any client was told.
    pub told: AtomicU64,
    /// Whether the server may go away.
    pub may_end: AtomicBool,
    /// Tells clients to stop.
    pub stop: AtomicBool,
    /// Whether the server may say that its disk is full or failed.
    pub disk_may_fill: bool,
    /// The largest value is about so long, in bytes.
    pub value_bytes_max: u64,
    /// Peers of a cell fall out and come back: clients go from one to the next, and may be told that there is no quorum.
    pub of_a_cell: bool,
    /// The rows are in several cohorts, whose clocks are their own and over which no batch goes.
    pub several_cohorts: bool,
}

/// One client, with its connection and what it knows of its own rows.
pub struct Client<'a> {
    load: &'a Load,
    luck: Luck,
    name: u64,
    /// The servers that it may ask.
    doors: Vec<String>,
    door: usize,
    /// `None` while none of them takes a connection.
    connection: Option<Connection>,
    own: HashMap<Row, u64>,
    /// What it did and saw.
    pub ledger: Ledger,
}

/// What to do after an answer.
enum Next {
    Go,
    Stop,
}

impl<'a> Client<'a> {
    /// A client on a connection of its own. The name tells its rows from those of others.
    pub fn new(load: &'a Load, luck: Luck, name: u64, addr: &str) -> Client<'a> {
        let mut client = Client::of_a_cell(load, luck, name, vec![addr.to_owned()]);
        client.connection = Some(Connection::open(addr));
        client
    }

    /// A client that asks whichever of these servers takes its connection.
    pub fn of_a_cell(load: &'a Load, luck: Luck, name: u64, doors: Vec<String>) -> Client<'a> {
        let door = name as usize % doors.len();
        Client {
            load,
            luck,
            name,
            doors,
            door,
            connection: None,
            own: HashMap::new(),
            ledger: Ledger::default(),
        }
    }

    /// Works until it is told to stop or the server goes away.
    pub fn run(mut self) -> Ledger {
        while !self.load.stop.load(Ordering::Relaxed) {
            if self.connection.is_none() {
                self.reconnect();
                continue;
            }
            let next = if self.luck.percent(15) { self.read() } else { self.write() };
            if let Next::Stop = next {
                break;
            }
        }
        self.ledger
    }

    /// Tries the next server.
    fn reconnect(&mut self) {
        self.door = (self.door + 1) % self.doors.len();
        self.connection = Connection::try_open(&self.doors[self.door], PATIENCE_WITH_ONE_PEER).ok();
        if self.connection.is_none() {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn row(&mut self) -> Row {
        let table = TABLES[self.luck.below(2) as usize];
        let key = if self.luck.percent(25) {
            format!("hot-{}", self.luck.below(HOT_ROWS))
        } else {
            format!("c{}-{}", self.name, self.luck.below(OWN_ROWS))
        };
        (table, key)
    }

    fn read(&mut self) -> Next {
        let row = self.row();
        let asked = self.connection.as_mut().and_then(|c| try_ask(c, "GET", &path(&row), &[], ""));
        let Some(reply) = asked.filter(|reply| reply.whole) else {
            return self.gone();
        };
        if self.load.of_a_cell && matches!(reply.status, 503 | 504) {
            return self.turned_away();
        }
        if reply.status == 503 && reply.text().contains("shutting-down") && self.may_end() {
            return Next::Stop;
        }
        assert!(matches!(reply.status, 200 | 404), "{reply:?}");
        let (at, time) = (reply.number("read-txclock"), reply.number("value-txclock"));
        if let Some(mine) = self.own.get(&row) {
            assert!(*mine <= time, "{row:?} was written at {mine}, and later read: {reply:?}");
        }
        self.ledger.seen.push(Seen { row, at, time });
        Next::Go
    }

    fn write(&mut self) -> Next {
        let number = self.load.next.fetch_add(1, Ordering::Relaxed);
        let mut attempt = self.draw(number);
        let told = self.load.told.load(Ordering::SeqCst);
        let reply = self.connection.as_mut().and_then(|connection| send(connection, &attempt));
        let reply = reply.filter(|reply| reply.whole);
        let next = match reply {
            None => self.gone(),
            Some(reply) => {
                attempt.fate = self.fate(&reply);
                if let Fate::Committed(time) = attempt.fate {
                    assert!(
                        told < time || self.load.several_cohorts,
                        "at {told} something was over before this began: {reply:?}"
                    );
                    self.load.told.fetch_max(time, Ordering::SeqCst);
                    self.load.acknowledged.fetch_add(1, Ordering::Relaxed);
                    for change in &attempt.changes {
                        if !change.row.1.starts_with("hot") {
                            self.own.insert(change.row.clone(), time);
                        }
                    }
                }
                if self.load.of_a_cell && matches!(reply.status, 503 | 504) {
                    self.turned_away()
                } else if reply.text().contains("shutting-down") {
                    Next::Stop
                } else {
                    Next::Go
                }
            }
        };
        self.ledger.attempts.insert(number, attempt);
        next
    }

    fn draw(&mut self, number: u64) -> Attempt {
        let method = match self.luck.below(100) {
            0..45 => "PUT",
            45..57 => "POST",
            57..67 => "DELETE",
            _ if self.load.several_cohorts => "PUT",
            _ => "BATCH",
        };
        let mut changes: Vec<Change> = Vec::new();
        let wanted = if method == "BATCH" { 2 + self.luck.below(5) } else { 1 };
        while (changes.len() as u64) < wanted {
            let row = self.row();
            if changes.iter().any(|change| change.row == row) {
                continue;
            }
            // A batch has at least one value, so that what is there of it can be told from what is not.
            let deletes = method == "DELETE" || (!changes.is_empty() && self.luck.percent(20));
            let bytes = self.luck.below(self.load.value_bytes_max) as usize;
            let value = (!deletes).then(|| value_of(number, &row, bytes));
            changes.push(Change { row, value });
        }
        let known = changes.iter().filter_map(|change| self.own.get(&change.row)).max().copied();
        let condition = known.filter(|_| method != "POST" && self.luck.percent(20));
        // A lone deletion leaves no value behind, so it needs a name to be asked about.
        let named = method == "DELETE" || self.luck.percent(50);
        let id = named.then(|| format!("{:x}{number:08x}", self.luck.next() | 1 << 63));
        Attempt { number, id, method, condition, changes, fate: Fate::Unknown }
    }

    fn fate(&self, reply: &Reply) -> Fate {
        let problem = |name: &str| reply.text().contains(&format!("urn:skein:problem:{name}\""));
        let full = self.load.disk_may_fill;
        match reply.status {
            200 => Fate::Committed(reply.number("value-txclock")),
            409 if problem("collision") => Fate::Dead,
            412 if problem("stale") => Fate::Dead,
            503 if problem("shutting-down") && self.may_end() => Fate::Undecided,
            507 if problem("disk-full") && full => {
                self.load.full.fetch_add(1, Ordering::Relaxed);
                Fate::Undecided
            }
            504 if problem("outcome-unknown") && self.load.of_a_cell => Fate::Unknown,
            503 | 504 if self.load.of_a_cell => Fate::Undecided,
            // The log ran out of space between two of its files: said to be unknown, so it may be either.
            504 if problem("outcome-unknown") && (full || self.may_end()) => Fate::Unknown,
            _ => panic!("{reply:?}"),
        }
    }

    fn may_end(&self) -> bool {
        self.load.may_end.load(Ordering::SeqCst)
    }

    /// The server has no quorum, or is about to stop: another may know more.
    fn turned_away(&mut self) -> Next {
        self.connection = None;
        Next::Go
    }

    /// The connection broke.
    fn gone(&mut self) -> Next {
        if self.load.of_a_cell {
            return self.turned_away();
        }
        assert!(self.may_end(), "the server went away by itself");
        Next::Stop
    }
}

/// The path of a row.
pub fn path((table, key): &Row) -> String {
    format!("/table/{table}?key={key}")
}

/// Sends an attempt, for the first time or again.
pub fn send(connection: &mut Connection, attempt: &Attempt) -> Option<Reply> {
    let condition = attempt.condition.map(|time| time.to_string());
    let mut headers = Vec::new();
    headers.extend(attempt.id.as_deref().map(|id| ("Transaction-ID", id)));
    headers.extend(condition.as_deref().map(|time| ("Condition-TxClock", time)));
    if attempt.method != "BATCH" {
        let Change { row, value } = &attempt.changes[0];
        let body = value.as_deref().unwrap_or_default();
        return try_ask(connection, attempt.method, &path(row), &headers, body);
    }
    let ops: Vec<String> = attempt
        .changes
        .iter()
        .map(|Change { row: (table, key), value }| match value {
            Some(value) => format!(r#"{{"table":"{table}","key":"{key}","op":"update","value":{value}}}"#),
            None => format!(r#"{{"table":"{table}","key":"{key}","op":"delete"}}"#),
        })
        .collect();
    try_ask(connection, "POST", "/batch-write", &headers, &format!("[{}]", ops.join(",")))
}
