//! Several peers in one process, over a network in memory: they find each other, share an atlas, move rows about, and go on
//! when one of them is gone.

mod many;

use many::{Peers, hosts, key, soon};
use skein_cell::{CellError, PutAtlasError, Readiness};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_atlas_put_on_one_peer_is_served_by_all() {
    let mut peers = Peers::new();
    peers.start_all(3).await;
    let reader = peers.cell(3).clone();
    // Nobody serves a row before there is an atlas, and everybody says so.
    assert!(matches!(reader.readiness(), Readiness::NotReady(why) if why.contains("atlas")));
    peers.put_atlas(2, &[&[1, 2, 3]]).await;
    let time = peers.put(1, "apple", "1").await;
    for host in [1, 2, 3] {
        assert_eq!(peers.get(host, "apple").await, Some((time, "1".into())), "through {host}");
    }
    // Whoever is asked answers the same atlas.
    peers
        .until("all peers have the atlas", |peers| (1..=3).all(|host| peers.cell(host).atlas().version == 1))
        .await;
    peers.until_met(3).await;
    let status = peers.cell(2).status(soon()).await;
    assert_eq!(status.peers.len(), 3);
    assert_eq!(status.cohorts.len(), 1);
    assert_eq!(status.cohorts[0].replicas.len(), 3);
    peers.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_of_one_grows_to_three_and_shrinks_to_another_one_with_all_its_rows() {
    let mut peers = Peers::new();
    peers.start_solo(1).await;
    let mut times = Vec::new();
    for n in 0..200 {
        times.push(peers.put(1, &key(n), &n.to_string()).await);
    }
    peers.start(2).await;
    peers.start(3).await;
    peers.until_met(3).await;
    peers.put_atlas(1, &[&[1, 2, 3]]).await;
    peers.until_settled(1).await;
    for (n, time) in times.iter().enumerate() {
        assert_eq!(peers.get(3, &key(n)).await, Some((*time, n.to_string().into())));
    }
    let status = peers.cell(1).status(soon()).await;
    assert_eq!(status.cohorts[0].replicas.iter().filter(|replica| replica.votes).count(), 3);
    peers.put_atlas(3, &[&[2]]).await;
    peers.until_settled(3).await;
    for (n, time) in times.iter().enumerate() {
        assert_eq!(peers.get(1, &key(n)).await, Some((*time, n.to_string().into())));
    }
    // The rows are not kept where nobody looks for them any more.
    peers.until("peer 1 removed its replica", |peers| peers.stores(1) == 0).await;
    peers.until("peer 3 removed its replica", |peers| peers.stores(3) == 0).await;
    peers.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_leader_dies_writes_resume_and_nothing_acknowledged_is_lost() {
    let mut peers = Peers::new();
    peers.start_all(3).await;
    peers.put_atlas(1, &[&[1, 2, 3]]).await;
    let before = peers.put(2, "a", "before").await;
    let leader = peers.leader(2).await;
    let others: Vec<u64> = (1..=3).filter(|host| *host != leader).collect();
    peers.kill(leader).await;
    let after = peers.put(others[0], "b", "after").await;
    assert!(before < after);
    assert_eq!(peers.get(others[1], "a").await, Some((before, "before".into())));
    // It comes back and is one of them again.
    peers.start(leader).await;
    assert_eq!(peers.get(leader, "b").await, Some((after, "after".into())));
    peers.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scan_over_four_cohorts_is_one_snapshot_in_key_order() {
    let mut peers = Peers::new();
    peers.start_all(3).await;
    peers.put_atlas(1, &[[1, 2, 3].as_slice(); 4]).await;
    let mut wanted = Vec::new();
    for n in 0..100 {
        peers.put(1 + n as u64 % 3, &key(n), &n.to_string()).await;
        wanted.push(key(n));
    }
    wanted.sort();
    for host in 1..=3 {
        assert_eq!(peers.scan(host, 1, 0, 7).await, wanted, "through {host}");
    }
    // Slices, read through different peers, add up to the table.
    for nslices in [2, 8] {
        let mut all = Vec::new();
        for slice in 0..nslices {
            all.extend(peers.scan(1 + slice % 3, nslices, slice, 3).await);
        }
        all.sort();
        assert_eq!(all, wanted, "{nslices} slices");
    }
    let rows: Vec<String> = (0..10).map(key).collect();
    assert!(matches!(peers.put_many(1, &rows).await, Err(CellError::ManyCohorts { .. })));
    peers.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_spread_and_a_peer_that_drains_hands_over_what_it_leads() {
    let mut peers = Peers::new();
    peers.start_all(3).await;
    peers.put_atlas(1, &[[1, 2, 3].as_slice(); 8]).await;
    peers
        .until_leads("each peer leads two or three of eight cohorts", |leads| {
            leads.iter().sum::<u32>() == 8 && leads.iter().all(|it| (2..=3).contains(it))
        })
        .await;
    peers.cell(2).drain(true);
    peers.until_leads("the draining peer leads nothing", |leads| leads == [4, 0, 4]).await;
    peers.restart(2).await;
    assert!(peers.cell(2).is_draining(), "remembered across a restart");
    peers.cell(2).drain(false);
    peers.until_leads("it leads its share again", |leads| leads.iter().all(|it| (2..=3).contains(it))).await;
    peers.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_steps_down_serves_on_without_leading_until_it_is_started_again() {
    let mut peers = Peers::new();
    peers.start_all(3).await;
    peers.cell(1).put_atlas(hosts(&[&[1, 2, 3]]), None, soon()).await.unwrap();
    // Of hosts that lead equally little, the first is preferred.
    peers.until_leads("the first leads", |leads| leads == [1, 0, 0]).await;
    peers.cell(1).step_down(Duration::from_secs(20)).await;
    peers.until_leads("another one leads", |leads| leads[0] == 0 && leads.iter().sum::<u32>() == 1).await;
    let after = peers.put(1, "b", "after").await;
    assert_eq!(peers.get(1, "b").await, Some((after, "after".into())));
    assert!(!peers.cell(1).is_draining(), "only a drained peer stays drained");
    // Longer than those who lead take to look who should.
    tokio::time::sleep(Duration::from_millis(1200)).await;
    peers.until_leads("nobody hands it back", |leads| leads[0] == 0 && leads.iter().sum::<u32>() == 1).await;
    peers.restart(1).await;
    peers.until_leads("it leads again", |leads| leads == [1, 0, 0]).await;
    peers.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_comes_back_with_an_empty_disk_is_refused_until_it_is_forgotten() {
    let mut peers = Peers::new();
    peers.start_all(3).await;
    peers.put_atlas(1, &[&[1, 2, 3]]).await;
    let time = peers.put(1, "a", "kept").await;
    peers
        .until("all have the atlas", |peers| (1..=3).all(|host| peers.cell(host).atlas().version == 1))
        .await;
    peers.kill(3).await;
    peers.wipe(3);
    peers.start(3).await;
    // It finds nobody who talks to it, so it serves nothing.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(matches!(peers.cell(3).readiness(), Readiness::NotReady(_)));
    peers.cell(1).forget(skein_model::HostId(3), soon()).await.unwrap();
    assert_eq!(peers.get(3, "a").await, Some((time, "kept".into())));
    peers.until_voters(1, 3).await;
    peers.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_atlas_with_a_host_that_nobody_knows_or_another_version_is_refused() {
    let mut peers = Peers::new();
    peers.start_solo(1).await;
    let refused = peers.cell(1).put_atlas(hosts(&[&[1, 2, 9]]), None, soon()).await;
    assert!(
        matches!(&refused, Err(PutAtlasError::Catalog(why)) if why.to_string().contains("--hail")),
        "{refused:?}"
    );
    let stale = peers.cell(1).put_atlas(hosts(&[&[1]]), Some(7), soon()).await;
    assert!(matches!(stale, Err(PutAtlasError::Stale { current: 1, expected: 7 })), "{stale:?}");
    peers.put(1, "still", "served").await;
    peers.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cell_whose_peers_all_stopped_comes_back_as_it_was() {
    let mut peers = Peers::new();
    peers.start_all(3).await;
    peers.put_atlas(1, &[&[1, 2, 3], &[1, 2, 3]]).await;
    let mut times = Vec::new();
    for n in 0..30 {
        times.push(peers.put(1 + n as u64 % 3, &key(n), "x").await);
    }
    for host in 1..=3 {
        peers.kill(host).await;
    }
    for host in [2, 3, 1] {
        peers.start(host).await;
    }
    for (n, time) in times.iter().enumerate() {
        assert_eq!(peers.get(1 + n as u64 % 3, &key(n)).await, Some((*time, "x".into())));
    }
    peers.stop().await;
}
