//! What scans select, held against a model: every pick, window, start, end, slice and page over one history.

use crate::support::shared::{Table, written};
use crate::support::wire::{Connection, Reply};
use serde_json::Value;

/// A version as a scan shows it: key, time, value (`null` for a deletion).
type Version = (Vec<u8>, u64, Value);

/// Keys as they stand in a parameter, and as bytes, in the order of their bytes.
const KEYS: [(&str, &[u8]); 9] = [
    ("", b""),
    ("a", b"a"),
    ("a%00", b"a\0"),
    ("a%20%26%25", b"a &%"),
    ("a%2Fb", b"a/b"),
    ("aa", b"aa"),
    ("b", b"b"),
    ("%C3%A4", "\u{e4}".as_bytes()),
    ("%FF%00", b"\xff\0"),
];

/// A table with a history, and the same history as data: by key, of one key the newest first.
struct History {
    table: Table,
    versions: Vec<(Version, bool)>,
    /// Times of the writes, in their order.
    times: Vec<u64>,
}

impl History {
    fn new() -> History {
        let table = Table::new();
        let mut versions = Vec::new();
        let mut times = Vec::new();
        // A fixed walk that visits keys unevenly, with deletions and JSON nulls among the values.
        let mut walk = 7usize;
        for step in 0..60 {
            walk = (walk * 31 + 11) % 1009;
            let (key, bytes) = KEYS[walk % KEYS.len()];
            let (method, value) = match walk % 5 {
                0 => ("DELETE", Value::Null),
                1 => ("PUT", Value::Null),
                _ => ("PUT", Value::from(step)),
            };
            let body = if method == "PUT" { value.to_string() } else { String::new() };
            let time = written(&table.ask(method, key, &[], &body));
            times.push(time);
            versions.push(((bytes.to_vec(), time, value), method == "DELETE"));
        }
        versions.sort_by(|((a, at, _), _), ((b, bt, _), _)| a.cmp(b).then(bt.cmp(at)));
        History { table, versions, times }
    }

    /// What a scan has to select.
    fn select(&self, scan: &Scan) -> Vec<Version> {
        let mut selected: Vec<Version> = Vec::new();
        // The key of which the newest version that counts was already met.
        let mut done: Option<&[u8]> = None;
        for ((key, time, value), deleted) in &self.versions {
            let before_start = key.as_slice() < scan.key || (key.as_slice() == scan.key && scan.time < *time);
            let past_end = scan.end.is_some_and(|end| end <= key.as_slice());
            let elsewhere = row_hash(&self.table, key) & (scan.nslices - 1) != scan.slice;
            if before_start || past_end || elsewhere || scan.until < *time || done == Some(key) {
                continue;
            }
            let recent = scan.since < *time;
            let wanted = match scan.pick {
                "latest" => {
                    done = Some(key);
                    recent && !deleted
                }
                "between" => recent,
                _ => {
                    if !recent {
                        done = Some(key);
                    }
                    true
                }
            };
            if wanted {
                selected.push((key.clone(), *time, value.clone()));
            }
        }
        selected
    }
}

/// The parameters of a scan.
#[derive(Debug, Clone)]
struct Scan {
    pick: &'static str,
    since: u64,
    until: u64,
    key: &'static [u8],
    time: u64,
    end: Option<&'static [u8]>,
    slice: u32,
    nslices: u32,
}

fn encoded(key: &[u8]) -> &'static str {
    KEYS.iter().find(|(_, bytes)| *bytes == key).unwrap().0
}

impl Scan {
    fn query(&self) -> String {
        let mut query = format!("pick={}&since={}&until={}", self.pick, self.since, self.until);
        if !self.key.is_empty() || self.time != u64::MAX {
            query += &format!("&key={}&time={}", encoded(self.key), self.time);
        }
        query += &self.end.map_or(String::new(), |end| format!("&end={}", encoded(end)));
        if self.nslices != 1 {
            query += &format!("&slice={}&nslices={}", self.slice, self.nslices);
        }
        query
    }
}

/// MurmurHash3 (x86, 32 bits, seed 0) of table ID and key, as published.
fn row_hash(table: &Table, key: &[u8]) -> u32 {
    let id = u64::from_str_radix(&table.id()[2..], 16).unwrap();
    let mut bytes = id.to_le_bytes().to_vec();
    bytes.extend((key.len() as u32).to_le_bytes());
    bytes.extend(key);
    let mix = |word: u32| word.wrapping_mul(0xcc9e_2d51).rotate_left(15).wrapping_mul(0x1b87_3593);
    let mut hash = 0u32;
    for block in bytes.chunks(4) {
        let mut word = [0; 4];
        word[..block.len()].copy_from_slice(block);
        hash ^= mix(u32::from_le_bytes(word));
        if block.len() == 4 {
            hash = hash.rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64);
        }
    }
    hash ^= bytes.len() as u32;
    hash = (hash ^ hash >> 16).wrapping_mul(0x85eb_ca6b);
    hash = (hash ^ hash >> 13).wrapping_mul(0xc2b2_ae35);
    hash ^ hash >> 16
}

fn versions(rows: &[Value]) -> Vec<Version> {
    let key = |row: &Value| match row.get("key") {
        Some(key) => key.as_str().unwrap().as_bytes().to_vec(),
        // The one key here that is not UTF-8.
        None => {
            assert_eq!(row["keyBase64"], "/wA=");
            b"\xff\0".to_vec()
        }
    };
    rows.iter().map(|row| (key(row), row["time"].as_u64().unwrap(), row["value"].clone())).collect()
}

fn rows(reply: &Reply) -> Vec<Version> {
    assert!(reply.status == 200 && reply.whole, "{reply:?}");
    versions(reply.json().as_array().unwrap())
}

/// The target of the link to the next page.
fn next(reply: &Reply) -> Option<String> {
    let link = reply.header("link")?;
    let target = link.strip_prefix("<http://db.example/").and_then(|l| l.strip_suffix(">; rel=\"next\""));
    Some(format!("/{}", target.unwrap_or_else(|| panic!("{link:?}"))))
}

/// Follows the links from a page to the end, and gives all rows.
fn follow(connection: &mut Connection, target: &str, limit: usize) -> Vec<Version> {
    let mut all = Vec::new();
    let mut target = target.to_owned();
    for _ in 0..1000 {
        let reply = connection.ask("GET", &target, &[], b"");
        let page = rows(&reply);
        all.extend_from_slice(&page);
        match next(&reply) {
            None => {
                assert!(page.len() <= limit);
                return all;
            }
            Some(link) => {
                assert_eq!(page.len(), limit, "a page with a link is full");
                target = link;
            }
        }
    }
    panic!("the links go on for ever");
}

/// All combinations of what bounds a scan.
fn scans(history: &History) -> Vec<Scan> {
    let at = |i: usize| history.times[i];
    let last = at(history.times.len() - 1);
    let mut scans = Vec::new();
    for pick in ["latest", "between", "through"] {
        for (since, until) in
            [(0, last), (0, at(20)), (at(25), last), (at(15), at(40)), (at(30), at(30)), (last, last)]
        {
            for (key, time) in [(&b""[..], u64::MAX), (b"a", at(35)), (b"a/b", u64::MAX), (b"\xff\0", at(10))]
            {
                for end in [None, Some(&b"b"[..]), Some(b"\xff\0")] {
                    for (slice, nslices) in [(0, 1), (1, 2), (2, 4)] {
                        scans.push(Scan { pick, since, until, key, time, end, slice, nslices });
                    }
                }
            }
        }
    }
    scans
}

#[test]
fn every_scan_selects_what_the_model_selects_whole_and_in_pages() {
    let history = History::new();
    let scans = scans(&history);
    let mut selected = 0;
    let mut connection = Connection::open(&history.table.solo.server.http);
    for (i, scan) in scans.iter().enumerate() {
        let wanted = history.select(scan);
        selected += wanted.len();
        let target = format!("{}?{}", history.table.path(), scan.query());
        let found = rows(&connection.ask("GET", &target, &[], b""));
        assert_eq!(found, wanted, "{scan:?}");
        let limit = [1, 2, 3, 7, 100][i % 5];
        let paged = follow(&mut connection, &format!("{target}&limit={limit}"), limit);
        assert_eq!(paged, wanted, "in pages of {limit}: {scan:?}");
    }
    assert!(1000 < selected, "the scans have to select something: {selected}");
}

#[test]
fn slices_partition_a_table_and_nest() {
    let table = Table::new();
    let keys: Vec<Vec<u8>> = (0..200).map(|i| format!("key{i}").into_bytes()).collect();
    let ops: Vec<_> = keys
        .iter()
        .map(|key| {
            let key = std::str::from_utf8(key).unwrap();
            format!(r#"{{"table":"{}","key":"{key}","op":"update","value":1}}"#, table.id())
        })
        .collect();
    written(&table.solo.batch(&[], &format!("[{}]", ops.join(","))));
    let slice = |i: u32, n: u32| -> Vec<Vec<u8>> {
        let reply = table.scan(&format!("slice={i}&nslices={n}"));
        rows(&reply).into_iter().map(|(key, _, _)| key).collect()
    };
    for n in [1, 2, 8, 32] {
        let mut all = Vec::new();
        for i in 0..n {
            let part = slice(i, n);
            let mut wanted: Vec<_> = keys.iter().filter(|k| row_hash(&table, k) % n == i).cloned().collect();
            wanted.sort();
            assert_eq!(part, wanted, "slice {i} of {n}");
            let mut halves = slice(i, 2 * n);
            halves.extend(slice(i + n, 2 * n));
            halves.sort();
            assert_eq!(part, halves, "slice {i} of {n} and its halves");
            all.extend(part);
        }
        all.sort();
        all.dedup();
        assert_eq!(all.len(), keys.len(), "of {n}");
    }
    assert_eq!(
        slice(0, 1 << 30).len(),
        keys.iter().filter(|k| row_hash(&table, k).is_multiple_of(1 << 30)).count()
    );
}

#[test]
fn a_link_keeps_every_parameter_and_settles_the_snapshot() {
    let table = Table::new();
    let first = table.put("a", "1");
    for key in ["b", "c%20%26", "d"] {
        table.put(key, "1");
    }
    let last = table.put("d", "2");
    let page = table.scan(&format!(
        "since={}&pick=Between&end=z%2F%3C&limit=0x2&until={last}&time=0xfffffffffffffff0",
        first - 1
    ));
    let target = next(&page).unwrap();
    let (path, query) = target.split_once('?').unwrap();
    assert_eq!(path, table.path());
    let c = table.get("c%20%26").number("value-txclock");
    let wanted = [
        ("key", "c%20%26".to_owned()),
        ("time", c.to_string()),
        ("limit", "2".to_owned()),
        ("end", "z%2F%3C".to_owned()),
        ("since", (first - 1).to_string()),
        ("until", last.to_string()),
        ("pick", "between".to_owned()),
    ];
    let wanted: Vec<_> = wanted.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(query.split('&').collect::<Vec<_>>(), wanted);

    // Without `until` the link carries the time that the page was read at.
    let page = table.solo.get(&format!("/{}?limit=1&slice=0&nslices=1", table.name()));
    let target = next(&page).unwrap();
    assert!(target.starts_with(&format!("/{}?key=b&", table.name())), "{target}");
    assert!(target.contains(&format!("until={}", page.number("read-txclock"))), "{target}");
}

#[test]
fn pages_are_one_snapshot_while_writes_go_on() {
    let table = Table::new();
    for i in 0..20 {
        table.put(&format!("k{i:02}"), "\"old\"");
    }
    let mut target = format!("{}?limit=3", table.path());
    let mut seen = Vec::new();
    for page in 0.. {
        let reply = table.solo.get(&target);
        seen.extend(rows(&reply));
        let Some(link) = next(&reply) else { break };
        target = link;
        table.put(&format!("k{page:02}x"), "\"new\"");
        table.put("k19", "\"new\"");
        table.delete("k18");
    }
    assert_eq!(seen.len(), 20);
    assert!(seen.iter().all(|(_, _, value)| value == "old"), "{seen:?}");
}

#[test]
fn a_streamed_scan_is_one_snapshot_while_its_reader_dawdles() {
    let table = Table::new();
    // More than sockets hold, so that the server has to wait for us.
    let value = format!("\"{}\"", "x".repeat(32 << 10));
    let put_all = |from: usize, value: &str| {
        for part in (from..400).collect::<Vec<_>>().chunks(100) {
            let ops: Vec<_> = part
                .iter()
                .map(|i| {
                    format!(r#"{{"table":"{}","key":"k{i:03}","op":"update","value":{value}}}"#, table.id())
                })
                .collect();
            written(&table.solo.batch(&[], &format!("[{}]", ops.join(","))));
        }
    };
    put_all(0, &value);
    let mut connection = Connection::open(&table.solo.server.http);
    connection.send(&crate::support::wire::head("GET", &table.path(), &[], b"")).unwrap();
    // Its snapshot is taken once the first byte is there; then everything changes.
    connection.wait_for_bytes();
    put_all(1, "\"new\"");
    table.delete("k399");
    let reply = connection.reply_to("GET").unwrap();
    let seen = rows(&reply);
    assert_eq!(seen.len(), 400);
    assert!(seen.iter().all(|(_, _, seen)| seen.as_str() == Some(value.trim_matches('"'))));
    assert_eq!(rows(&table.scan("")).len(), 399);
}
