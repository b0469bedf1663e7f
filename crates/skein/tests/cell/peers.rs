//! The peers of one cell, each a process with a directory of its own.

use crate::support::wire::{Reply, ask};
use crate::support::{Server, run, said, within};
use serde_json::{Value, json};
use std::path::PathBuf;

/// The cell of the users' page.
pub const CELL: &str = "0x3B69376FF6CE2141";
/// Its three hosts.
pub const FIRST: &str = "0xF47F4AA7602F3857";
pub const SECOND: &str = "0x4A348994B2B21DA3";
pub const THIRD: &str = "0x4FC3013EE2AE1737";

/// One peer.
pub struct Peer {
    pub host: &'static str,
    pub server: Server,
}

/// Where the directories of a cell's peers are.
pub struct Ground {
    root: tempfile::TempDir,
}

impl Ground {
    pub fn new() -> Ground {
        Ground { root: tempfile::tempdir().unwrap() }
    }

    /// A host's directory.
    pub fn dir(&self, host: &str) -> PathBuf {
        self.root.path().join(host)
    }

    /// A place for other files.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Starts a peer that hails another one, and initialises its directory if that has not been done.
    pub fn start(&self, host: &'static str, hail: Option<&Peer>) -> Peer {
        self.start_with(host, hail, &[])
    }

    /// As [`Ground::start`], with further flags.
    pub fn start_with(&self, host: &'static str, hail: Option<&Peer>, more: &[&str]) -> Peer {
        let mut flags = vec!["--init", "--host", host, "--cell", CELL];
        let hailed = hail.map(|peer| format!("{}={}", peer.host, peer.server.peer));
        if let Some(hailed) = &hailed {
            flags.extend(["--hail", hailed.as_str()]);
        }
        flags.extend(more);
        Peer { host, server: Server::start(&flags, &self.dir(host)) }
    }
}

impl Peer {
    /// A request to the data port.
    pub fn ask(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        ask(&self.server.http, method, target, headers, body.as_bytes())
    }

    pub fn get(&self, target: &str) -> Reply {
        self.ask("GET", target, &[], "")
    }

    /// A write that has to succeed, as often as a client with patience tries it.
    pub fn put(&self, target: &str, body: &str) -> Reply {
        within(|| {
            let reply = self.ask("PUT", target, &[], body);
            assert!(matches!(reply.status, 200 | 503 | 504), "{reply:?}");
            (reply.status == 200).then_some(reply)
        })
    }

    pub fn atlas(&self) -> Value {
        self.get("/atlas").json()
    }

    /// PUTs the atlas with one cohort for each list of hosts.
    pub fn put_atlas(&self, cohorts: &[&[&str]]) {
        let body = json!(cohorts.iter().map(|hosts| json!({ "hosts": hosts })).collect::<Vec<_>>());
        let reply = self.ask("PUT", "/atlas", &[("content-type", "application/json")], &body.to_string());
        assert_eq!((reply.status, reply.said("content-length")), (200, "0"), "{reply:?}");
    }

    pub fn status(&self) -> Value {
        ask(&self.server.admin, "GET", "/admin/status", &[], b"").json()
    }

    /// Writes so many rows of 100 bytes into table 0x2, in batches as large as they may be.
    pub fn load(&self, rows: usize) {
        let value = "x".repeat(98);
        let keys: Vec<usize> = (0..rows).collect();
        for batch in keys.chunks(10_000) {
            let op = |row: &usize| json!({"table": "0x2", "key": format!("{row:08}"), "op": "update", "value": value});
            let ops = json!(batch.iter().map(op).collect::<Vec<_>>()).to_string();
            within(|| {
                let reply = self.ask("POST", "/batch-write", &[], &ops);
                assert!(matches!(reply.status, 200 | 503 | 504), "{reply:?}");
                (reply.status == 200).then_some(())
            });
        }
    }

    /// Runs a command against the admin port and gives what it said; it has to succeed.
    pub fn command(&self, words: &[&str]) -> String {
        let url = self.server.admin_url();
        let output = run(&[words, &["--admin-url", &url]].concat());
        assert_eq!(output.status.code(), Some(0), "{words:?}: {}", said(&output));
        said(&output)
    }
}

/// The atlas of settled cohorts, each list of hosts in ascending order of their IDs, as the server writes it.
pub fn settled(cohorts: &[&[&str]]) -> Value {
    json!(
        cohorts
            .iter()
            .map(|hosts| {
                let mut hosts = hosts.to_vec();
                hosts.sort_unstable();
                json!({ "state": "settled", "hosts": hosts })
            })
            .collect::<Vec<_>>()
    )
}

/// Waits until every peer has an atlas that says so.
pub fn wait_for_atlas(peers: &[&Peer], atlas: &Value) {
    for peer in peers {
        within(|| (peer.atlas() == *atlas).then_some(()));
    }
}
