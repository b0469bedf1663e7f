//! The Rust client against cells of real processes: leaders die, rows move away, contacts are gone.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[allow(dead_code, reason = "not all of it is for this")]
#[path = "../cell/peers.rs"]
mod peers;
#[path = "../support/mod.rs"]
mod support;

use peers::{FIRST, Ground, Peer, SECOND, THIRD, settled, wait_for_atlas};
use skein_client::{Batch, Client, Config, Error, ScanOptions, Table, TransactionOptions, Value, json};
use std::collections::BTreeSet;
use std::time::Duration;
use support::within;
use tokio::runtime::Runtime;

/// As long as a machine that does ten other things may need for an election.
const PATIENCE: Duration = Duration::from_secs(60);

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn config(contacts: &[&Peer]) -> Config {
    let mut config = Config::new(contacts.iter().map(|peer| peer.server.url()));
    config.deadline = PATIENCE;
    config.refresh = Duration::from_secs(1);
    config.cache_bytes_max = 1 << 20;
    config
}

/// Three peers and one cohort on all of them.
fn three(ground: &Ground) -> [Peer; 3] {
    let first = ground.start(FIRST, None);
    let second = ground.start(SECOND, Some(&first));
    let third = ground.start(THIRD, Some(&first));
    let all: &[&[&str]] = &[&[FIRST, SECOND, THIRD]];
    // The others may not have joined yet.
    within(|| {
        let body = serde_json::json!([{ "hosts": [FIRST, SECOND, THIRD] }]).to_string();
        let reply = first.ask("PUT", "/atlas", &[("content-type", "application/json")], &body);
        (reply.status == 200).then_some(())
    });
    wait_for_atlas(&[&first, &second, &third], &settled(all));
    [first, second, third]
}

/// Adds one to a counter, `times` times, and gives how often that happened and how often nobody knows.
async fn count(client: Client, times: u32) -> (u64, u64) {
    let counters = Table::id(1);
    let (mut done, mut unknown) = (0, 0);
    let options = TransactionOptions { tries: 1000, max_age: Duration::from_secs(1) };
    for _ in 0..times {
        let counted = client
            .transaction_with(options.clone(), |tx| {
                let counters = counters.clone();
                async move {
                    let n: u64 = tx.get(&counters, "counter").await?.json()?.unwrap_or(0);
                    let held: u64 = tx.get(&counters, "held").await?.json()?.unwrap_or(0);
                    tx.put(&counters, "counter", json(&(n + 1 + held))?);
                    Ok::<_, Error>(())
                }
            })
            .await;
        match counted {
            Ok(()) => done += 1,
            Err(Error::Unknown { .. }) => unknown += 1,
            Err(error) => panic!("{error}"),
        }
    }
    (done, unknown)
}

async fn counter(client: &Client) -> u64 {
    client.get(&Table::id(1), "counter").await.unwrap().json().unwrap().unwrap_or(0)
}

/// The peer that leads the one cohort, out of the list.
fn take_leader(client: &Client, peers: &mut Vec<Peer>) -> Peer {
    let leader = within(|| client.topology().cohorts[0].leader);
    let at = peers.iter().position(|peer| peer.host.parse() == Ok(leader)).unwrap();
    peers.remove(at)
}

#[test]
fn transactions_count_right_and_a_scan_misses_nothing_though_leaders_die() {
    const ROWS: u32 = 600;
    let ground = Ground::new();
    let mut peers: Vec<Peer> = three(&ground).into();
    let runtime = runtime();
    let client = runtime.block_on(Client::connect(config(&peers.iter().collect::<Vec<_>>()))).unwrap();
    let table = Table::id(2);
    let value = Value { bytes: format!("\"{}\"", "x".repeat(16 << 10)).into(), ..json(&0).unwrap() };
    let mut scan = runtime.block_on(async {
        for first in (0..ROWS).step_by(100) {
            let rows = first..first + 100;
            let batch = rows.fold(Batch::new(), |b, n| b.put(&table, format!("{n:06}"), value.clone()));
            client.commit(&batch).await.unwrap();
        }
        let options = ScanOptions { slices: 2, ..ScanOptions::default() };
        let mut scan = client.scan(&table, options).await.unwrap();
        // Under way, with most of it still to come.
        scan.next().await.unwrap().unwrap();
        scan
    });
    let counting: Vec<_> = (0..4).map(|_| runtime.spawn(count(client.clone(), 25))).collect();
    let leader = take_leader(&client, &mut peers);
    let killed = leader.host;
    leader.server.kill();

    let (mut done, mut unknown) = (0, 0);
    for task in counting {
        let (d, u) = runtime.block_on(task).unwrap();
        (done, unknown) = (done + d, unknown + u);
    }
    let counted = runtime.block_on(counter(&client));
    assert!(
        done <= counted && counted <= done + unknown,
        "{done} done, {unknown} unknown, {counted} counted"
    );
    assert_eq!(done + unknown, 100);

    let keys = runtime.block_on(async {
        let mut keys = BTreeSet::new();
        while let Some(row) = scan.next().await {
            let row = row.unwrap();
            assert_eq!(row.value, Some(value.clone()));
            assert!(keys.insert(row.key.clone()), "{:?} came twice", row.key);
        }
        keys.len() as u32 + 1
    });
    assert_eq!(keys, ROWS);

    // The client has learnt who leads now.
    within(|| client.topology().cohorts[0].leader.filter(|leader| killed.parse() != Ok(*leader)));
}

#[test]
fn a_client_follows_rows_that_move_and_finds_the_cell_again_by_its_memo() {
    let ground = Ground::new();
    let first = ground.start(FIRST, None);
    first.put_atlas(&[&[FIRST]]);
    let second = ground.start(SECOND, Some(&first));
    wait_for_atlas(&[&second], &settled(&[&[FIRST]]));
    let runtime = runtime();
    let memo = ground.path("memo");
    let with_memo = |contacts: &[&Peer]| Config { memo: Some(memo.clone()), ..config(contacts) };
    let client = runtime.block_on(Client::connect(with_memo(&[&first]))).unwrap();
    runtime.block_on(count(client.clone(), 5));

    let counting = runtime.spawn(count(client.clone(), 100));
    within(|| {
        let body = serde_json::json!([{ "hosts": [SECOND] }]).to_string();
        let reply = first.ask("PUT", "/atlas", &[("content-type", "application/json")], &body);
        (reply.status == 200).then_some(())
    });
    wait_for_atlas(&[&first, &second], &settled(&[&[SECOND]]));
    let (done, unknown) = runtime.block_on(counting).unwrap();
    assert_eq!(done + unknown, 100);
    let counted = runtime.block_on(counter(&client));
    assert!(5 + done <= counted && counted <= 5 + done + unknown);
    within(|| client.topology().cohorts[0].leader.filter(|leader| SECOND.parse() == Ok(*leader)));
    drop(client);

    // Its only contact is dead, and the memo knows another one. The catalog is still with the first, so it stops in order.
    let contact = first.server.url();
    first.server.stop();
    let mut later = with_memo(&[]);
    later.contacts = vec![contact.clone()];
    let client = runtime.block_on(Client::connect(later)).unwrap();
    assert_eq!(runtime.block_on(counter(&client)), counted);
    drop(client);

    second.server.stop();
    let mut nobody = Config::new([contact]);
    nobody.deadline = Duration::from_millis(500);
    let error = runtime.block_on(Client::connect(nobody)).unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
}
