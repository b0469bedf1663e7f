//! Three peers of a cell, killed, paused and cut off from each other while clients work: nothing acknowledged is lost.

use crate::kill::settle;
use crate::ledger::Ledger;
use crate::load::{Client, Load, SCHEMA};
use crate::luck::{Luck, number_from_environment};
use crate::nets::Nets;
use crate::support::start::{Refused, Starting, own_loopback};
use crate::support::wire::ask;
use crate::support::{Server, run, said, skein, skein_in, within};
use rustix::process::{Pid, Signal, kill_process};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::Duration;

const PEERS: usize = 3;
const CLIENTS: u64 = 8;
/// Segments and checkpoints so small that both come and go all the time.
const SMALL: [&str; 4] = ["--log-segment", "64KiB", "--checkpoint-every", "96KiB"];

/// Where the peers run, and the peers that do.
struct Cell {
    root: tempfile::TempDir,
    nets: Option<Nets>,
    /// Where they all are if there are no networks of their own.
    loopback: String,
    /// Ports of each peer for peers, and on the loopback also for clients.
    ports: Vec<[u16; 3]>,
    peers: Vec<Option<Server>>,
}

/// Something that happens to one peer for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Kill,
    Restart,
    Pause,
    /// Nothing goes in or out.
    CutOff,
    /// What it sends to this other peer is lost.
    Deaf(usize),
}

impl Cell {
    /// Peers that know each other, with so many cohorts of all of them.
    fn start(cohorts: usize) -> Cell {
        let nets = Nets::new(PEERS)
            .inspect_err(|why| eprintln!("no network namespaces here, so no link is cut: {why}"))
            .ok();
        let loopback = own_loopback();
        let free = || TcpListener::bind((loopback.as_str(), 0)).unwrap();
        let ports = (0..PEERS)
            .map(|_| {
                let found = [free(), free(), free()];
                found.map(|listener| listener.local_addr().unwrap().port())
            })
            .collect();
        let peers = (0..PEERS).map(|_| None).collect();
        let mut cell = Cell { root: tempfile::tempdir().unwrap(), nets, loopback, ports, peers };
        for peer in 0..PEERS {
            cell.boot(peer);
        }
        let hosts: Vec<String> = (0..PEERS).map(|peer| format!("\"{}\"", host(peer))).collect();
        let cohort = format!("{{\"hosts\":[{}]}}", hosts.join(","));
        let atlas = format!("[{}]", vec![cohort; cohorts].join(","));
        let first = cell.server(0);
        within(|| {
            let reply = ask(&first.http, "PUT", "/atlas", &[], atlas.as_bytes());
            (reply.status == 200).then_some(())
        });
        within(|| {
            let reply = ask(&first.admin, "PUT", "/admin/schema", &[], SCHEMA.as_bytes());
            (reply.status == 200).then_some(())
        });
        for peer in 0..PEERS {
            cell.wait_for_service(peer);
        }
        cell
    }

    fn ip(&self, peer: usize) -> String {
        self.nets.as_ref().map_or_else(|| self.loopback.clone(), |nets| nets.address(peer))
    }

    fn dir(&self, peer: usize) -> PathBuf {
        self.root.path().join(format!("peer{peer}"))
    }

    fn server(&self, peer: usize) -> &Server {
        self.peers[peer].as_ref().unwrap()
    }

    fn boot(&mut self, peer: usize) {
        let addr = |peer: usize, port: usize| format!("{}:{}", self.ip(peer), self.ports[peer][port]);
        let others = (0..PEERS).filter(|other| *other != peer);
        let hail: Vec<String> = others.map(|other| format!("{}={}", host(other), addr(other, 0))).collect();
        let mut flags: Vec<String> = SMALL.iter().map(|flag| (*flag).to_owned()).collect();
        for (name, value) in [
            ("--host", host(peer)),
            ("--cell", "0xCE11".to_owned()),
            ("--peer-addr", addr(peer, 0)),
            ("--http-addr", addr(peer, 1)),
            ("--admin-addr", addr(peer, 2)),
            ("--hail", hail.join(",")),
        ] {
            flags.extend([name.to_owned(), value]);
        }
        flags.push("--init".to_owned());
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let binary: Command = match &self.nets {
            Some(nets) => skein_in(nets.within(peer)),
            None => skein(),
        };
        let server = Starting::spawn_as(binary, &flags, &self.dir(peer)).ready();
        let server = server.unwrap_or_else(|Refused { status, said }| panic!("{status}: {said}"));
        self.peers[peer] = Some(server);
    }

    /// Waits until rows are served through this peer.
    fn wait_for_service(&self, peer: usize) {
        let door = &self.server(peer).http;
        within(|| (ask(door, "GET", "/table/0x2?key=none", &[], b"").status == 404).then_some(()));
    }

    fn signal(&self, peer: usize, signal: Signal) {
        let pid = Pid::from_raw(self.server(peer).pid() as i32).unwrap();
        kill_process(pid, signal).unwrap();
    }

    fn begin(&mut self, peer: usize, fault: Fault) {
        match fault {
            Fault::Kill => self.peers[peer].take().unwrap().kill(),
            Fault::Restart => self.peers[peer].take().unwrap().stop(),
            Fault::Pause => self.signal(peer, Signal::STOP),
            Fault::CutOff => self.nets.as_ref().unwrap().cut(peer, true),
            Fault::Deaf(other) => self.nets.as_ref().unwrap().lose(peer, other, true),
        }
    }

    fn end(&mut self, peer: usize, fault: Fault) {
        match fault {
            Fault::Kill | Fault::Restart => self.boot(peer),
            Fault::Pause => self.signal(peer, Signal::CONT),
            Fault::CutOff => self.nets.as_ref().unwrap().cut(peer, false),
            Fault::Deaf(other) => self.nets.as_ref().unwrap().lose(peer, other, false),
        }
    }

    fn draw(&self, peer: usize, luck: &mut Luck) -> Fault {
        let kinds = if self.nets.is_some() { 5 } else { 3 };
        match luck.below(kinds) {
            0 => Fault::Kill,
            1 => Fault::Restart,
            2 => Fault::Pause,
            3 => Fault::CutOff,
            _ => Fault::Deaf((peer + 1 + luck.below(PEERS as u64 - 1) as usize) % PEERS),
        }
    }
}

fn host(peer: usize) -> String {
    format!("0x{:016X}", 0xA0 + peer)
}

fn torture(cohorts: usize, default_seed: u64) {
    let faults = number_from_environment("SKEIN_FAULTS").unwrap_or(3);
    let mut luck = Luck::of_run(default_seed);
    let mut cell = Cell::start(cohorts);
    let doors: Vec<String> = (0..PEERS).map(|peer| cell.server(peer).http.clone()).collect();
    let load =
        Load { value_bytes_max: 2000, of_a_cell: true, several_cohorts: 1 < cohorts, ..Load::default() };
    load.may_end.store(true, Ordering::SeqCst);
    let mut ledger = Ledger { times_may_meet: 1 < cohorts, ..Ledger::default() };
    for round in 0..faults {
        let peer = luck.below(PEERS as u64) as usize;
        let fault = cell.draw(peer, &mut luck);
        load.stop.store(false, Ordering::SeqCst);
        let acknowledged = || load.acknowledged.load(Ordering::Relaxed);
        let more = |count: u64| {
            let before = acknowledged();
            within(|| (before + count <= acknowledged()).then_some(()));
        };
        let during = std::thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS)
                .map(|name| Client::of_a_cell(&load, luck.split(), name, doors.clone()))
                .collect::<Vec<_>>()
                .into_iter()
                .map(|client| scope.spawn(move || client.run()))
                .collect();
            more(30 + luck.below(300));
            cell.begin(peer, fault);
            let before = acknowledged();
            // Two peers of three are enough: writes go on while the third is away.
            more(50);
            std::thread::sleep(Duration::from_millis(luck.below(4000)));
            let during = acknowledged() - before;
            cell.end(peer, fault);
            more(50);
            load.stop.store(true, Ordering::SeqCst);
            for client in clients {
                let Ledger { attempts, seen, .. } = client.join().unwrap();
                ledger.attempts.extend(attempts);
                ledger.seen.extend(seen);
            }
            during
        });
        let asked = luck.below(PEERS as u64) as usize;
        cell.wait_for_service(asked);
        settle(cell.server(asked), &mut ledger, &mut luck);
        let (committed, dead, _) = ledger.counts();
        eprintln!(
            "round {}: {fault:?} of peer {peer}, {during} acknowledged meanwhile; {committed} transactions written, {dead} not",
            round + 1
        );
    }
    for peer in 0..PEERS {
        let server = cell.peers[peer].take().unwrap();
        let complaints = server.complaints();
        assert!(!complaints.contains("panicked"), "{complaints}");
        server.stop();
        let doctor = run(&["doctor", cell.dir(peer).to_str().unwrap()]);
        assert_eq!(doctor.status.code(), Some(0), "peer {peer}: {}", said(&doctor));
    }
}

#[test]
fn a_cell_of_three_goes_on_and_loses_nothing_whichever_peer_falls_out() {
    torture(1, 20_261_123);
}

#[test]
fn four_cohorts_on_three_peers_lose_nothing_whichever_peer_falls_out() {
    torture(4, 20_261_124);
}
