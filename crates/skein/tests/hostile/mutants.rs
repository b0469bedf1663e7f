//! Requests with random faults: whatever they become, the server answers them as a server should.

use crate::sound;
use crate::support::Server;
use crate::support::wire::{Connection, ask};

/// A small generator of numbers that look random and are the same in every run.
struct Rng(u64);

impl Rng {
    fn next(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}

const SOUND: [&str; 8] = [
    "PUT /table/0x1?key=a%20b HTTP/1.1\r\nHost: x\r\nCondition-TxClock: 0x7fffffffffff\r\nContent-Length: 7\r\n\r\n{\"v\":1}",
    "GET /table/0x1?key=a%20b HTTP/1.1\r\nHost: x\r\nIf-None-Match: \"0x1\", W/\"0x2\"\r\nRead-TxClock: 99\r\n\r\n",
    "GET /table/0x1?key=a&time=9&end=z&since=1&until=0x9&pick=through&slice=1&nslices=2&limit=3 HTTP/1.1\r\nHost: x\r\n\r\n",
    "POST /batch-write HTTP/1.1\r\nHost: x\r\nTransaction-ID: beef\r\nContent-Length: 51\r\n\r\n[{\"table\":\"0x1\",\"key\":\"a\",\"op\":\"update\",\"value\":1}]",
    "GET /tx-status HTTP/1.1\r\nHost: x\r\nTransaction-ID: 0BEEF\r\n\r\n",
    "DELETE /table/0x1?key=%FF HTTP/1.1\r\nHost: x\r\nIf-Unmodified-Since: Thu, 01 Jan 2037 00:00:00 GMT\r\n\r\n",
    "PUT /table/0x2?key=b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n123\r\n0\r\n\r\n",
    "GET /table/0x1 HTTP/1.1\r\nHost: x\r\nAccept: application/x-ndjson;q=0.5, */*\r\nExpect: 100-continue\r\n\r\n",
];

/// Breaks a request at a few places.
fn mutate(rng: &mut Rng, sound: &str) -> Vec<u8> {
    let mut bytes = sound.as_bytes().to_vec();
    for _ in 0..=rng.next(3) {
        let at = rng.next(bytes.len());
        match rng.next(6) {
            0 => bytes[at] ^= 1 << rng.next(8),
            1 => bytes[at] = rng.next(256) as u8,
            2 => bytes.insert(at, b"\r\n\0%:,;\"+-0 \xff"[rng.next(13)]),
            3 => {
                bytes.remove(at);
            }
            4 => {
                let end = at + rng.next(bytes.len() - at).min(40);
                let piece = bytes[at..end].to_vec();
                let to = rng.next(bytes.len());
                bytes.splice(to..to, piece);
            }
            _ => bytes.truncate(at.max(1)),
        }
        if bytes.is_empty() {
            bytes.push(b'G');
        }
    }
    bytes
}

#[test]
fn no_mutant_of_a_request_makes_the_server_fail() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::solo(dir.path());
    for (i, request) in SOUND.iter().enumerate() {
        let mut connection = Connection::open(&server.http);
        connection.send(request.as_bytes()).unwrap();
        connection.finish();
        let reply = connection.reply_to("GET").unwrap();
        assert!(matches!(reply.status, 200 | 404 | 410 | 412), "{i}: {reply:?}");
    }
    let mut rng = Rng(42);
    let mut answered = 0;
    for _ in 0..1500 {
        let pick = rng.next(SOUND.len());
        let request = mutate(&mut rng, SOUND[pick]);
        let mut connection = Connection::open(&server.http);
        let _ = connection.send(&request);
        connection.finish();
        while let Some(reply) = connection.reply_to(if request.starts_with(b"HEAD") { "HEAD" } else { "GET" })
        {
            let told = String::from_utf8_lossy(&request).into_owned();
            assert!((200..500).contains(&reply.status), "{told:?}: {reply:?}");
            assert!(reply.whole, "{told:?}: {reply:?}");
            answered += 1;
        }
    }
    assert!(500 < answered, "{answered}");
    // The table is whole and readable.
    let rows = ask(&server.http, "GET", "/table/0x1", &[], b"");
    assert!(rows.status == 200 && rows.whole);
    rows.json();
    sound(&server);
    server.stop();
}
