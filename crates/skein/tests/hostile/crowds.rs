//! Many clients at once that want nothing, or too much, or take their time.

use crate::support::Server;
use crate::support::shared::{Table, problem, written};
use crate::support::wire::{Connection, ask};
use crate::{resident_bytes, sound, unharmed};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::time::Duration;

/// Idle connections; both sides need a file descriptor for each.
const IDLE: usize = 2000;

/// Raises the limit of open files for this process and those that it starts.
fn allow_open_files(count: u64) {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < count) {
        setrlimit(Resource::Nofile, Rlimit { current: Some(count), maximum: limit.maximum }).unwrap();
    }
}

#[test]
fn two_thousand_idle_connections_cost_little_and_disturb_nobody() {
    allow_open_files(IDLE as u64 * 2);
    let dir = tempfile::tempdir().unwrap();
    let server = Server::solo(dir.path());
    let put = || written(&ask(&server.http, "PUT", "/table/0x1?key=a", &[], b"1"));
    put();
    let before = resident_bytes(&server);
    let mut idle: Vec<Connection> = (0..IDLE).map(|_| Connection::open(&server.http)).collect();
    for (i, connection) in idle.iter_mut().enumerate() {
        match i % 4 {
            // Some are silent, some have begun a head, some a body, and some were served and stay.
            0 => {}
            1 => connection.send(b"GET /table/0x1?key=a HTTP/1.1\r\nHost: ").unwrap(),
            2 => connection
                .send(b"PUT /table/0x1?key=smuggled HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n1")
                .unwrap(),
            _ => assert_eq!(connection.ask("GET", "/table/0x1?key=a", &[], b"").text(), "1"),
        }
    }
    let time = put();
    let read = ask(&server.http, "GET", "/table/0x1?key=a", &[], b"");
    assert_eq!((read.status, read.number("value-txclock")), (200, time));
    let grown = resident_bytes(&server).saturating_sub(before);
    assert!(grown < 64 << 20, "{} KiB for each connection", grown / IDLE as u64 / 1024);
    // They are all still served when they wake up.
    let reply = idle[3].ask("GET", "/table/0x1?key=a", &[], b"");
    assert_eq!(reply.number("value-txclock"), time);
    // The last that began a head: the first may have been at it for too long by now.
    let begun = &mut idle[IDLE - 3];
    begun.send(b"x\r\n\r\n").unwrap();
    assert_eq!(begun.reply_to("GET").unwrap().status, 200);
    drop(idle);
    put();
    assert_eq!(ask(&server.http, "GET", "/table/0x1?key=smuggled", &[], b"").status, 404);
    sound(&server);
    server.stop();
}

#[test]
fn bodies_that_want_more_than_the_memory_budget_are_turned_away() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&["--solo", "--init", "--memory", "128MiB"], dir.path());
    written(&ask(&server.http, "PUT", "/table/0x1?key=a", &[], b"1"));
    let part = vec![b'1'; 2 << 20];
    let mut senders: Vec<Connection> = (0..100)
        .map(|i| {
            let mut sender = Connection::open(&server.http);
            let head =
                format!("PUT /table/0x1?key=k{i} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", 4 << 20);
            // One that is turned away is closed, with what it still has to send.
            let _ = sender.send(head.as_bytes()).and_then(|()| sender.send(&part));
            sender
        })
        .collect();
    // Together they send 200 MiB and announce 400. What is turned away may linger in an allocator that gives back
    // late, but it does not add up.
    let resident = resident_bytes(&server);
    assert!(resident < 240 << 20, "{resident} bytes for bodies that never end");
    // Reading costs no such memory.
    assert_eq!(ask(&server.http, "GET", "/table/0x1?key=a", &[], b"").text(), "1");
    let mut turned_away = 0;
    for sender in &mut senders {
        sender.finish();
        if let Some(reply) = sender.reply_to("PUT") {
            match reply.status {
                503 => {
                    problem(&reply, 503, "overloaded");
                    assert!(1 <= reply.number("retry-after"));
                    turned_away += 1;
                }
                // Cut short, or too slow where it takes long to send all the others.
                other => assert!(matches!(other, 400 | 408), "{reply:?}"),
            }
        }
    }
    assert!(0 < turned_away);
    drop(senders);
    // Once they are gone there is room again.
    crate::support::within(|| {
        let big =
            ask(&server.http, "PUT", "/table/0x1?key=a", &[("Content-Type", "a/b")], &vec![b'1'; 4 << 20]);
        (big.status == 200).then_some(())
    });
    assert_eq!(ask(&server.http, "GET", "/table/0x1", &[], b"").json().as_array().unwrap().len(), 1);
    sound(&server);
}

#[test]
fn clients_that_are_too_slow_are_cut() {
    let table = Table::new();
    let addr = &table.solo.server.http;
    // A head that stops, one that crawls on, and a body that stops: all at once, for these take their time.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut stopped = Connection::open(addr);
            stopped.send(b"GET / HTTP/1.1\r\nHost: ").unwrap();
            assert!(stopped.reply_to("GET").is_none_or(|reply| reply.status == 408));
        });
        scope.spawn(|| {
            let mut crawling = Connection::open(addr);
            crawling.send(b"GET / HTTP/1.1\r\nX-Crawl: ").unwrap();
            let cut = (0..600).any(|_| {
                std::thread::sleep(Duration::from_millis(50));
                crawling.send(b"x").is_err()
            });
            assert!(cut, "a head may not take half a minute");
        });
        scope.spawn(|| {
            let mut stopped = Connection::open(addr);
            let head =
                format!("PUT {} HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n1", table.row("smuggled"));
            stopped.send(head.as_bytes()).unwrap();
            problem(&stopped.reply_to("PUT").unwrap(), 408, "slow-request");
            assert!(stopped.ends());
        });
    });
    unharmed(&table);
}

#[test]
fn clients_that_vanish_leave_nothing_behind() {
    let table = Table::new();
    let value = format!("\"{}\"", "x".repeat(1 << 20));
    for i in 0..20 {
        table.put(&format!("k{i}"), &value);
    }
    for target in [table.path(), format!("{}?limit=100", table.path()), table.row("k1")] {
        for _ in 0..20 {
            let mut connection = Connection::open(&table.solo.server.http);
            connection.send(format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).unwrap();
            connection.wait_for_bytes();
        }
    }
    crate::support::within(|| {
        let metrics = ask(&table.solo.server.admin, "GET", "/metrics", &[], b"");
        let used = metrics
            .text()
            .lines()
            .find_map(|l| l.strip_prefix("skein_request_memory_bytes "))
            .unwrap()
            .to_owned();
        // Other tests use the same server, but none of them for long.
        (used == "0").then_some(())
    });
    unharmed(&table);
}
