//! The client against peers that fail, lie and break off, each played by the test itself.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod stage;

use skein_client::{
    Batch, Client, Config, Error, Fate, Pick, ScanOptions, Table, TransactionOptions, TxClock, json,
};
use stage::{Asked, Peer, Reply, flock};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

fn config(peers: &[&Peer]) -> Config {
    let mut config = Config::new(peers.iter().map(|peer| peer.address()));
    config.deadline = PATIENCE;
    config.attempt = PATIENCE;
    // Only when something fails: the tests decide when.
    config.refresh = PATIENCE;
    config
}

/// A read that finds `1`, and a write, both at time 7.
fn row(asked: &Asked) -> Reply {
    match asked.method.as_str() {
        "GET" => Reply::ok("1").header("value-txclock", 7).header("read-txclock", 9),
        _ => Reply::ok("").header("value-txclock", 7),
    }
}

#[tokio::test]
async fn a_write_goes_to_the_leader_under_an_id() {
    let other = Peer::start(row).await;
    let leader = Peer::start(row).await;
    let told = flock("0xC", &[("0x1", &other.address()), ("0x2", &leader.address())], Some("0x2"));
    for peer in [&other, &leader] {
        peer.tell(&told);
    }
    let client = Client::connect(config(&[&other])).await.unwrap();
    let written = client.put(&Table::id(1), "a/b", json(&1).unwrap()).await.unwrap();
    assert_eq!(written.time, TxClock(7));
    let asked = leader.rows();
    assert_eq!(asked.len(), 1);
    assert_eq!(
        (asked[0].method.as_str(), asked[0].target.as_str()),
        ("PUT", "/table/0x0000000000000001?key=a%2Fb")
    );
    assert_eq!(asked[0].header("transaction-id"), Some(written.id.to_string().as_str()));
    assert!(asked[0].header("x-request-id").is_some());
    assert!(other.rows().is_empty());
}

#[tokio::test]
async fn after_a_lost_answer_a_write_is_repeated_elsewhere_under_the_same_id() {
    let leader = Peer::start(|_| Reply::cut()).await;
    let other = Peer::start(row).await;
    let told = flock("0xC", &[("0x1", &leader.address()), ("0x2", &other.address())], Some("0x1"));
    for peer in [&leader, &other] {
        peer.tell(&told);
    }
    let client = Client::connect(config(&[&leader])).await.unwrap();
    client.put(&Table::id(1), "a", json(&1).unwrap()).await.unwrap();
    let (first, second) = (leader.rows(), other.rows());
    assert_eq!((first.len(), second.len()), (1, 1));
    assert_eq!(first[0].header("transaction-id"), second[0].header("transaction-id"));
    assert_eq!(first[0].body, second[0].body);
}

#[tokio::test]
async fn an_outcome_that_stays_unknown_is_reported_with_its_id_and_a_refusal_without_sending_as_not_done() {
    let peer = Peer::start(|_| Reply::problem(504, "outcome-unknown")).await;
    peer.tell(&flock("0xC", &[("0x1", &peer.address())], Some("0x1")));
    let client = Client::connect(config(&[&peer])).await.unwrap().within(Duration::from_secs(2));
    let error = client.put(&Table::id(1), "a", json(&1).unwrap()).await.unwrap_err();
    let Error::Unknown { id, .. } = &error else { panic!("{error}") };
    assert_eq!(error.fate(), Fate::Unknown);
    assert!(peer.rows().iter().all(|asked| asked.header("transaction-id") == Some(id.to_string().as_str())));

    let busy = Peer::start(|_| Reply::problem(503, "overloaded")).await;
    busy.tell(&flock("0xC", &[("0x1", &busy.address())], Some("0x1")));
    let client = Client::connect(config(&[&busy])).await.unwrap().within(Duration::from_secs(2));
    let error = client.put(&Table::id(1), "a", json(&1).unwrap()).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    assert_eq!(error.fate(), Fate::NotDone);
}

#[tokio::test]
async fn a_refusal_after_a_lost_answer_is_settled_by_asking_what_became_of_the_transaction() {
    for (status, wanted) in [(200, true), (409, false)] {
        let turn = AtomicU32::new(0);
        let peer =
            Peer::start(move |asked| match (asked.target.as_str(), turn.fetch_add(1, Ordering::SeqCst)) {
                ("/tx-status", _) if status == 200 => Reply::ok("").header("value-txclock", 7),
                ("/tx-status", _) => Reply::problem(409, "transaction-aborted"),
                (_, 0) => Reply::cut(),
                _ => Reply::problem(404, "table-not-found"),
            })
            .await;
        peer.tell(&flock("0xC", &[("0x1", &peer.address())], Some("0x1")));
        let client = Client::connect(config(&[&peer])).await.unwrap();
        let outcome = client.put(&Table::named("gone"), "a", json(&1).unwrap()).await;
        match outcome {
            Ok(written) => assert!(wanted && written.time == TxClock(7)),
            Err(Error::Refused(refused)) => assert!(!wanted && refused.kind == "table-not-found"),
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn a_peer_of_another_cell_gets_no_rows() {
    let ours = Peer::start(row).await;
    let theirs = Peer::start(row).await;
    // It is even said to lead.
    ours.tell(&flock("0xC", &[("0x1", &ours.address()), ("0x2", &theirs.address())], Some("0x2")));
    theirs.tell(&flock("0xD", &[("0x2", &theirs.address())], Some("0x2")));
    let client = Client::connect(config(&[&ours])).await.unwrap();
    client.put(&Table::id(1), "a", json(&1).unwrap()).await.unwrap();
    assert_eq!((ours.rows().len(), theirs.rows().len()), (1, 0));

    let mut wanted = config(&[&theirs]);
    wanted.cell = Some(skein_client::CellId(0xC));
    let refused = Client::connect(wanted).await.unwrap_err();
    assert!(matches!(refused, Error::WrongCell { .. }), "{refused}");
}

#[tokio::test]
async fn lies_about_leaders_and_addresses_cost_time_only() {
    let honest = Peer::start(row).await;
    let dead = Peer::start(row).await;
    let nowhere = dead.address();
    drop(dead);
    honest.tell(&flock("0xC", &[("0x1", nowhere.as_str()), ("0x2", "999.999.999.999:1")], Some("0x1")));
    let client = Client::connect(config(&[&honest])).await.unwrap();
    client.put(&Table::id(1), "a", json(&1).unwrap()).await.unwrap();
    assert_eq!(honest.rows().len(), 1);
}

#[tokio::test]
async fn a_restart_finds_the_cell_by_its_memo_and_a_damaged_memo_is_no_harm() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cell");
    let (first, second) = (Peer::start(row).await, Peer::start(row).await);
    let told = flock("0xC", &[("0x1", &first.address()), ("0x2", &second.address())], Some("0x1"));
    first.tell(&told);
    second.tell(&told);
    let with_memo = |peers: &[&Peer]| Config { memo: Some(path.clone()), ..config(peers) };
    drop(Client::connect(with_memo(&[&first])).await.unwrap());

    let gone = first.address();
    drop(first);
    let mut later = with_memo(&[]);
    later.contacts = vec![gone.clone()];
    let client = Client::connect(later.clone()).await.unwrap();
    client.put(&Table::id(1), "a", json(&1).unwrap()).await.unwrap();
    assert_eq!(second.rows().len(), 1);
    drop(client);

    std::fs::write(&path, "nonsense").unwrap();
    later.deadline = Duration::from_secs(2);
    let error = Client::connect(later).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    Client::connect(with_memo(&[&second])).await.unwrap();
    assert!(std::fs::read_to_string(&path).unwrap().contains(&second.address()), "it was written anew");
}

#[tokio::test]
async fn a_transaction_reads_at_one_time_holds_what_it_read_and_runs_again_when_overtaken() {
    let runs = Arc::new(AtomicU32::new(0));
    let commits = AtomicU32::new(0);
    let peer = Peer::start(move |asked| match asked.method.as_str() {
        "GET" => {
            let time = asked.header("read-txclock").map_or(100, |time| time.parse().unwrap());
            Reply::ok("1").header("value-txclock", 7).header("read-txclock", time)
        }
        _ if commits.fetch_add(1, Ordering::SeqCst) == 0 => {
            Reply::problem(412, "stale").header("value-txclock", 101)
        }
        _ => Reply::ok("").header("value-txclock", 200),
    })
    .await;
    peer.tell(&flock("0xC", &[("0x1", &peer.address())], Some("0x1")));
    let client = Client::connect(config(&[&peer])).await.unwrap();
    let table = Table::id(1);
    let sum = client
        .transaction(|tx| {
            let (table, runs) = (table.clone(), runs.clone());
            async move {
                runs.fetch_add(1, Ordering::SeqCst);
                let a: i64 = tx.get(&table, "a").await?.json()?.unwrap_or(0);
                let b: i64 = tx.get(&table, "b").await?.json()?.unwrap_or(0);
                tx.put(&table, "a", json(&(a + b))?);
                assert_eq!(tx.get(&table, "a").await?.json()?, Some(a + b), "its own write");
                Ok::<_, Error>(a + b)
            }
        })
        .await
        .unwrap();
    assert_eq!((sum, runs.load(Ordering::SeqCst)), (2, 2));
    let asked = peer.rows();
    let said: Vec<_> = asked.iter().map(|a| (a.method.as_str(), a.header("read-txclock"))).collect();
    // The second run reads after what the refusal told of: 101.
    let get = |at| ("GET", at);
    assert_eq!(
        said,
        [
            get(None),
            get(Some("100")),
            ("POST", None),
            get(None),
            get(Some("101")),
            get(Some("101")),
            ("POST", None)
        ]
    );
    assert_eq!(asked[2].header("condition-txclock"), Some("100"));
    assert_eq!(asked[6].header("condition-txclock"), Some("101"));
    assert_ne!(asked[2].header("transaction-id"), asked[6].header("transaction-id"));
    let ops: serde_json::Value = serde_json::from_slice(&asked[6].body).unwrap();
    assert_eq!((&ops[0]["op"], &ops[0]["key"], &ops[0]["value"]), (&"update".into(), &"a".into(), &2.into()));
    assert_eq!(
        (&ops[1]["op"], &ops[1]["key"], ops.as_array().unwrap().len()),
        (&"hold".into(), &"b".into(), 2)
    );
}

#[tokio::test]
async fn a_transaction_that_is_always_overtaken_ends_and_one_of_unknown_outcome_is_not_run_again() {
    let peer = Peer::start(|asked| match asked.method.as_str() {
        "GET" => Reply::ok("1").header("value-txclock", 7).header("read-txclock", 100),
        _ => Reply::problem(412, "stale").header("value-txclock", 100),
    })
    .await;
    peer.tell(&flock("0xC", &[("0x1", &peer.address())], Some("0x1")));
    let client = Client::connect(config(&[&peer])).await.unwrap();
    let table = Table::id(1);
    let run = |client: Client, tries| {
        let (table, runs) = (table.clone(), Arc::new(AtomicU32::new(0)));
        async move {
            let counted = runs.clone();
            let body = move |tx: skein_client::Transaction| {
                let table = table.clone();
                counted.fetch_add(1, Ordering::SeqCst);
                async move {
                    tx.get(&table, "a").await?;
                    tx.put(&table, "a", json(&2)?);
                    Ok::<_, Error>(())
                }
            };
            let options = TransactionOptions { tries, ..TransactionOptions::default() };
            let error = client.transaction_with(options, body).await.unwrap_err();
            (error, runs.load(Ordering::SeqCst))
        }
    };
    let (error, runs) = run(client, 3).await;
    assert!(matches!(error, Error::Contention { tries: 3 }), "{error}");
    assert_eq!(runs, 3);

    let peer = Peer::start(|asked| match asked.method.as_str() {
        "GET" => Reply::ok("1").header("value-txclock", 7).header("read-txclock", 100),
        _ => Reply::cut(),
    })
    .await;
    peer.tell(&flock("0xC", &[("0x1", &peer.address())], Some("0x1")));
    let client = Client::connect(config(&[&peer])).await.unwrap().within(Duration::from_secs(2));
    let (error, runs) = run(client, 3).await;
    assert_eq!((error.fate(), runs), (Fate::Unknown, 1), "{error}");
}

#[tokio::test]
async fn the_cache_serves_a_snapshot_only_from_rows_that_were_true_together() {
    // Row a is at 10 and read until 50; row b changed at 60.
    let peer = Peer::start(|asked| {
        let at = asked.header("read-txclock").map(|at| at.parse::<u64>().unwrap());
        let (time, now) = if asked.target.ends_with("=a") { (10, 50) } else { (60, 70) };
        // Before 60, b had another version.
        let (time, value) = if at.is_some_and(|at| at < time) { (5, "\"old\"") } else { (time, "\"new\"") };
        let condition = asked.header("condition-txclock").map(|c| c.parse::<u64>().unwrap());
        let reply = if condition.is_some_and(|c| time <= c) { Reply::status(304) } else { Reply::ok(value) };
        reply
            .header("value-txclock", time)
            .header("read-txclock", at.unwrap_or(now))
            .header("server-txclock", 70)
    })
    .await;
    peer.tell(&flock("0xC", &[("0x1", &peer.address())], Some("0x1")));
    let client = Client::connect(Config { cache_bytes_max: 1 << 20, ..config(&[&peer]) }).await.unwrap();
    let table = Table::id(1);
    assert_eq!(client.get(&table, "a").await.unwrap().read_time, TxClock(50));
    assert_eq!(client.get(&table, "b").await.unwrap().time, TxClock(60));
    let before = peer.rows().len();
    let options = TransactionOptions { max_age: Duration::from_secs(3600), ..TransactionOptions::default() };
    let read = client
        .transaction_with(options, |tx| {
            let table = table.clone();
            async move {
                let a: Option<String> = tx.get(&table, "a").await?.json()?;
                let b: Option<String> = tx.get(&table, "b").await?.json()?;
                Ok::<_, Error>((a, b, tx.snapshot()))
            }
        })
        .await
        .unwrap();
    // What is cached of b was not yet true at 50.
    assert_eq!(read, (Some("new".to_owned()), Some("old".to_owned()), Some(TxClock(50))));
    let asked = &peer.rows()[before..];
    assert_eq!(asked.len(), 1, "a came from the cache: {asked:?}");
    assert_eq!((asked[0].header("read-txclock"), asked[0].header("condition-txclock")), (Some("50"), None));

    // What has not changed is not sent again.
    assert_eq!(client.get(&table, "b").await.unwrap().value.unwrap().bytes, "\"new\"");
    assert_eq!(peer.rows().last().unwrap().header("condition-txclock"), Some("60"));
}

#[tokio::test]
async fn a_scan_goes_on_after_a_broken_connection_without_repeating_or_skipping_a_row() {
    const ROWS: usize = 500;
    let key = |n: usize| format!("k{n:04}");
    let turn = AtomicU32::new(0);
    let peer = Peer::start(move |asked| {
        if asked.target.contains("limit=0") {
            return Reply::ok("[]").header("read-txclock", 1000);
        }
        assert!(asked.target.contains("until=1000"), "{}", asked.target);
        let from = asked.target.split("&key=").nth(1).unwrap().split('&').next().unwrap().to_owned();
        let line = |n| format!("{{\"key\":\"{}\",\"time\":{n},\"value\":{n}}}\n", key(n));
        let body: String = (0..ROWS).filter(|n| from <= key(*n)).map(line).collect();
        // Somewhere in the middle of a row, seven times.
        match turn.fetch_add(1, Ordering::SeqCst) {
            broken @ 0..7 => Reply::ok(&body).cut_at(body.len() / (5 + broken as usize)),
            _ => Reply::ok(&body),
        }
    })
    .await;
    peer.tell(&flock("0xC", &[("0x1", &peer.address())], Some("0x1")));
    let client = Client::connect(config(&[&peer])).await.unwrap();
    let options = ScanOptions { pick: Pick::Between, ..ScanOptions::default() };
    let mut scan = client.scan(&Table::id(1), options).await.unwrap();
    assert_eq!(scan.until(), TxClock(1000));
    let mut seen = Vec::new();
    while let Some(row) = scan.next().await {
        seen.push(String::from_utf8(row.unwrap().key.to_vec()).unwrap());
    }
    assert_eq!(seen, (0..ROWS).map(key).collect::<Vec<_>>());
    assert_eq!(peer.rows().len(), 1 + 8);
}

#[tokio::test]
async fn arguments_that_cannot_be_are_refused_before_anything_is_sent() {
    let peer = Peer::start(row).await;
    peer.tell(&flock("0xC", &[("0x1", &peer.address())], Some("0x1")));
    let client = Client::connect(config(&[&peer])).await.unwrap();
    let table = Table::id(1);
    let key = vec![0; 16 * 1024 + 1];
    assert!(matches!(client.get(&table, &key).await, Err(Error::Invalid { what: "key", .. })));
    let bad = skein_client::typed("a\nb", "x");
    assert!(matches!(client.put(&table, "k", bad).await, Err(Error::Invalid { what: "content type", .. })));
    let slices = ScanOptions { slices: 3, ..ScanOptions::default() };
    assert!(matches!(client.scan(&table, slices).await, Err(Error::Invalid { what: "slices", .. })));
    // Each of them would do.
    let (start, end) = (vec![0; 16 * 1024].into(), Some(vec![1; 16 * 1024].into()));
    let keys = ScanOptions { start, end, until: Some(TxClock(1)), ..ScanOptions::default() };
    let first = client.scan(&table, keys).await.unwrap().next().await;
    assert!(matches!(first, Some(Err(Error::Invalid { what: "keys", .. }))), "{first:?}");
    let nothing = client.commit(&Batch::new().put(&table, &key, json(&1).unwrap())).await;
    assert!(matches!(nothing, Err(Error::Invalid { what: "key", .. })));
    assert!(peer.rows().is_empty());
}
