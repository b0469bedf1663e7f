//! One solo server that tests running at the same time share, and a table of its own for each of them.

use super::Server;
use super::wire::{Reply, ask};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tempfile::TempDir;

/// How many tables the shared server's schema names: `t1` is `0x1001` and so on.
const TABLES: u64 = 500;
/// The ID of table `t0`, which does not exist.
const FIRST_TABLE: u64 = 0x1000;

/// The shared server. It lives as long as some test holds it, so that nothing is left behind in the end.
pub struct Solo {
    /// The process.
    pub server: Server,
    next_table: AtomicU64,
    _dir: TempDir,
}

/// The shared server, started if there is none.
pub fn solo() -> Arc<Solo> {
    static SHARED: Mutex<Weak<Solo>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(solo) = shared.upgrade() {
        return solo;
    }
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&["--solo", "--init", "--share-http-addr", "db.example:80"], dir.path());
    let schema: String =
        (1..=TABLES).map(|n| format!("table t{n} {{ id : {:#x}; }};\n", FIRST_TABLE + n)).collect();
    let put = ask(&server.admin, "PUT", "/admin/schema", &[], schema.as_bytes());
    assert_eq!(put.status, 200, "{put:?}");
    let solo = Arc::new(Solo { server, next_table: AtomicU64::new(1), _dir: dir });
    *shared = Arc::downgrade(&solo);
    solo
}

impl Solo {
    /// Asks the data port.
    pub fn ask(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        ask(&self.server.http, method, target, headers, body.as_bytes())
    }

    /// Asks the admin port.
    pub fn admin(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        ask(&self.server.admin, method, target, headers, body.as_bytes())
    }

    /// Reads something from the data port.
    pub fn get(&self, target: &str) -> Reply {
        self.ask("GET", target, &[], "")
    }

    /// Posts a batch.
    pub fn batch(&self, headers: &[(&str, &str)], body: &str) -> Reply {
        self.ask("POST", "/batch-write", headers, body)
    }
}

/// A table of the shared server that nobody else uses.
pub struct Table {
    /// Where it is.
    pub solo: Arc<Solo>,
    number: u64,
}

impl Table {
    /// A new one.
    pub fn new() -> Table {
        let solo = solo();
        let number = solo.next_table.fetch_add(1, Ordering::Relaxed);
        assert!(number <= TABLES, "raise TABLES");
        Table { solo, number }
    }

    /// Its name in the schema.
    pub fn name(&self) -> String {
        format!("t{}", self.number)
    }

    /// Its ID, as `0x…`.
    pub fn id(&self) -> String {
        format!("{:#x}", FIRST_TABLE + self.number)
    }

    /// Its path by ID: `/table/0x…`.
    pub fn path(&self) -> String {
        format!("/table/{}", self.id())
    }

    /// The path of a row by the table's ID; the key as it shall stand in the query.
    pub fn row(&self, key: &str) -> String {
        format!("{}?key={key}", self.path())
    }

    /// The path of a row by the table's name; the key as it shall stand in the path.
    pub fn named_row(&self, key: &str) -> String {
        format!("/{}/{key}", self.name())
    }

    /// Asks about a row.
    pub fn ask(&self, method: &str, key: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        self.solo.ask(method, &self.row(key), headers, body)
    }

    /// Reads a row.
    pub fn get(&self, key: &str) -> Reply {
        self.ask("GET", key, &[], "")
    }

    /// Writes a row and gives its time.
    pub fn put(&self, key: &str, value: &str) -> u64 {
        written(&self.ask("PUT", key, &[], value))
    }

    /// Deletes a row and gives the time of it.
    pub fn delete(&self, key: &str) -> u64 {
        written(&self.ask("DELETE", key, &[], ""))
    }

    /// Scans the table by ID; `query` without the question mark.
    pub fn scan(&self, query: &str) -> Reply {
        self.solo.get(&format!("{}?{query}", self.path()))
    }
}

/// The time of a write, which has to have happened.
pub fn written(reply: &Reply) -> u64 {
    assert_eq!(reply.status, 200, "{reply:?}");
    assert!(reply.whole && reply.body.is_empty(), "{reply:?}");
    reply.number("value-txclock")
}

/// The ETag of a version, as the server spells it.
pub fn etag(time: u64) -> String {
    format!("\"0x{time:X}\"")
}

/// Checks that an answer is this problem, whole and in form, and gives its document.
pub fn problem(reply: &Reply, status: u16, kind: &str) -> serde_json::Value {
    assert_eq!(reply.status, status, "{reply:?}");
    assert!(reply.whole, "{reply:?}");
    assert_eq!(reply.said("content-type"), "application/problem+json", "{reply:?}");
    let json = reply.json();
    assert_eq!(json["type"], format!("urn:skein:problem:{kind}"), "{reply:?}");
    assert_eq!(json["status"], status);
    let request = reply.said("x-request-id");
    assert_eq!(json["requestId"], request);
    assert_eq!(json["instance"], format!("urn:skein:request:{request}"));
    for member in ["title", "detail"] {
        assert!(json[member].as_str().is_some_and(|text| !text.is_empty()), "no {member} in {reply:?}");
    }
    json
}

/// As [`problem`], with a text that `detail` has to hold.
pub fn problem_saying(reply: &Reply, status: u16, kind: &str, text: &str) -> serde_json::Value {
    let json = problem(reply, status, kind);
    let detail = json["detail"].as_str().unwrap();
    assert!(detail.contains(text), "{detail:?} does not hold {text:?}");
    json
}
