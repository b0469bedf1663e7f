//! A catalog of several members: they follow cohort 0, and what was acknowledged outlives any minority of them.

use crate::world::{World, settled, soon, within};
use bytes::Bytes;
use skein_cell::catalog::{CatalogError, Command, Freshness, KeyExpect, Refusal};
use skein_cell::supervisor::Report;
use skein_model::{ContentType, HostId, StoreId, Value};
use std::collections::BTreeSet;
use std::time::Duration;

fn value(text: &str) -> Value {
    Value { content_type: ContentType::Json, bytes: Bytes::copy_from_slice(text.as_bytes()) }
}

/// Waits until these hosts, and only they, have a vote, as the leader among them knows it.
async fn voters(world: &World, hosts: &[u64]) -> u64 {
    let wanted: BTreeSet<HostId> = hosts.iter().copied().map(HostId).collect();
    for _ in 0..600 {
        for host in hosts.iter().filter(|host| world.is_up(**host)) {
            let info = world.at(*host).info();
            let voters: BTreeSet<HostId> = info.voters.iter().map(|replica| replica.host).collect();
            if info.leading && voters == wanted {
                return *host;
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let infos: Vec<_> =
        hosts.iter().filter(|host| world.is_up(**host)).map(|host| world.at(*host).info()).collect();
    panic!("{hosts:?} are not the voters: {infos:#?}");
}

/// The leaders of the cohorts say that their replicas are where the catalog wants them, until the atlas is settled.
async fn move_to(world: &World, at: u64, hosts: &[u64]) {
    world.at(at).put_atlas(vec![settled(hosts)], None, soon()).await.unwrap();
    for _ in 0..100 {
        let state = world.state(at);
        if state.atlas.cohorts == [settled(hosts)] {
            return;
        }
        let voters = state.wanted_replicas(0);
        let report = Report::of(state.cohorts[0].group, 1, state.version, Some(&voters));
        world.at(at).report(report, soon()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    panic!("the move does not end: {:?}", world.state(at));
}

#[tokio::test(start_paused = true)]
async fn the_catalog_goes_where_cohort_0_goes_with_everything_in_it() {
    let world = World::of(&[1, 2, 3, 4, 5]).await;
    world.at(1).put_atlas(vec![settled(&[1])], None, soon()).await.unwrap();
    world.at(1).put_key("k", value("1"), KeyExpect::Absent, soon()).await.unwrap();
    for hosts in [&[1, 2, 3][..], &[1, 2, 3, 4, 5], &[4], &[5], &[2, 3, 4]] {
        move_to(&world, 2, hosts).await;
        voters(&world, hosts).await;
        let entry = world.at(hosts[0]).get_key("k", Freshness::Linearizable, soon()).await.unwrap();
        assert_eq!(entry.unwrap().value, value("1"), "{hosts:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn changes_go_on_when_the_leader_is_gone_and_nothing_acknowledged_is_missing() {
    for seed in 0..4u64 {
        let mut world = World::founded(&[1, 2, 3]).await;
        let mut acknowledged = Vec::new();
        for round in 0..3u64 {
            let leader = voters(&world, &[1, 2, 3]).await;
            for i in 0..5 {
                let key = format!("{round}-{i}");
                world.at(1 + i % 3).put_key(&key, value("1"), KeyExpect::Absent, soon()).await.unwrap();
                acknowledged.push(key);
            }
            let disks = world.crash(leader, seed * 10 + round).await;
            let other = 1 + leader % 3;
            let began = tokio::time::Instant::now();
            let key = format!("{round}-without");
            world.at(other).put_key(&key, value("1"), KeyExpect::Absent, soon()).await.unwrap();
            assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
            acknowledged.push(key);
            world.start(leader, disks).await;
        }
        for host in [1, 2, 3] {
            let keys =
                world.at(host).list_keys("", None, 100, Freshness::Linearizable, soon()).await.unwrap();
            let keys: BTreeSet<String> = keys.into_iter().map(|(key, _)| key).collect();
            assert_eq!(keys, acknowledged.iter().cloned().collect(), "seed {seed}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn all_members_crash_at_once_and_come_back_with_everything() {
    let mut world = World::founded(&[1, 2, 3]).await;
    voters(&world, &[1, 2, 3]).await;
    for seed in 0..4u64 {
        let key = format!("{seed}");
        let put = world.at(1 + seed % 3).put_key(&key, value("1"), KeyExpect::Absent, soon()).await.unwrap();
        let mut disks = Vec::new();
        for host in [1, 2, 3] {
            disks.push((host, world.crash(host, seed).await));
        }
        for (host, disks) in disks {
            world.start(host, disks).await;
        }
        for host in [1, 2, 3] {
            let entry = world.at(host).get_key(&key, Freshness::Linearizable, soon()).await.unwrap();
            assert_eq!(entry.unwrap().version, put.version, "seed {seed}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn of_many_who_compare_and_set_at_once_one_wins_though_leaders_fall() {
    for seed in 0..6u64 {
        let mut world = World::founded(&[1, 2, 3]).await;
        let leader = voters(&world, &[1, 2, 3]).await;
        let attempts = (0..9).map(|i| {
            let catalog = world.at(1 + i % 3).clone();
            async move {
                let value = value(&format!("{i}"));
                (i, catalog.put_key("k", value, KeyExpect::Absent, within(15)).await)
            }
        });
        let attempts = tokio::spawn(futures_util::future::join_all(attempts.collect::<Vec<_>>()));
        tokio::time::sleep(Duration::from_millis(seed)).await;
        world.restart(leader, seed).await;
        let results = attempts.await.unwrap();
        let won: Vec<u64> = results.iter().filter(|(_, r)| r.is_ok()).map(|(i, _)| *i).collect();
        let unknown = |i: u64| {
            matches!(results[i as usize].1, Err(CatalogError::Unknown { .. } | CatalogError::NotLed { .. }))
        };
        let entry = world.at(1).get_key("k", Freshness::Linearizable, soon()).await.unwrap().unwrap();
        let stands: u64 = String::from_utf8(entry.value.bytes.to_vec()).unwrap().parse().unwrap();
        assert!(won.len() <= 1, "seed {seed}: {results:?}");
        assert!(won.iter().all(|winner| *winner == stands), "seed {seed}: {stands} stands, of {results:?}");
        assert!(won.contains(&stands) || unknown(stands), "seed {seed}: {stands} stands, of {results:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_cut_off_leader_reads_and_changes_nothing_and_learns_of_the_rest_later() {
    for from in [1, 2, 3] {
        let world = World::founded(&[1, 2, 3]).await;
        let leader = voters(&world, &[1, 2, 3]).await;
        let others: Vec<u64> = [1, 2, 3].into_iter().filter(|host| *host != leader).collect();
        let first = world.at(from).put_key("k", value("1"), KeyExpect::Absent, soon()).await.unwrap();
        world.net.cut(leader, &others);
        let second =
            world.at(others[0]).put_key("k", value("2"), KeyExpect::Version(first.version), soon()).await;
        let second = second.unwrap();
        let stale = world.at(leader).get_key("k", Freshness::Linearizable, within(3)).await;
        assert!(matches!(stale, Err(CatalogError::NotLed { .. })), "{stale:?}");
        let put =
            world.at(leader).put_key("k", value("3"), KeyExpect::Version(first.version), within(3)).await;
        assert!(matches!(put, Err(CatalogError::Unknown { .. } | CatalogError::NotLed { .. })), "{put:?}");
        world.net.heal();
        let entry = world.at(leader).get_key("k", Freshness::Linearizable, soon()).await.unwrap().unwrap();
        assert_eq!((entry.version, entry.value), (second.version, value("2")));
    }
}

#[tokio::test(start_paused = true)]
async fn reads_of_the_present_never_go_back_while_leaders_change() {
    for seed in 0..4u64 {
        let mut world = World::founded(&[1, 2, 3]).await;
        voters(&world, &[1, 2, 3]).await;
        let mut version = 0;
        for round in 0..6u64 {
            let writer = 1 + (seed + round) % 3;
            match world.at(writer).put_key("k", value("1"), KeyExpect::Anything, soon()).await {
                Ok(put) => {
                    assert!(version < put.version);
                    version = put.version;
                }
                // Whoever is cut off from just the leader waits in vain; that changed nothing.
                Err(CatalogError::NotLed { .. }) => assert_eq!(round % 2, 1),
                Err(error) => panic!("seed {seed}, round {round}: {error}"),
            }
            if round % 2 == 0 {
                let leader = voters(&world, &[1, 2, 3]).await;
                let others: Vec<u64> = [1, 2, 3].into_iter().filter(|host| *host != leader).collect();
                world.net.cut(leader, &others[..1]);
            } else {
                world.net.heal();
                world.restart(1 + round % 3, seed).await;
            }
            for host in [1, 2, 3] {
                match world.at(host).get_key("k", Freshness::Linearizable, within(8)).await {
                    Ok(entry) => assert_eq!(entry.unwrap().version, version, "seed {seed}, round {round}"),
                    Err(CatalogError::NotLed { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_outlives_the_leader_and_the_member_that_held_it() {
    let mut world = World::founded(&[1, 2, 3]).await;
    world.start(4, World::fresh(104)).await;
    world.until(4, |state| state.is_founded()).await;
    let leader = voters(&world, &[1, 2, 3]).await;
    let first = world.at(1).put_key("k", value("1"), KeyExpect::Absent, soon()).await.unwrap();
    let watcher = world.at(4).clone();
    let watch =
        tokio::spawn(async move { watcher.watch_key("k", first.version, Duration::from_secs(40)).await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.restart(1, 3).await;
    world.restart(leader, 4).await;
    let second =
        world.at(2).put_key("k", value("2"), KeyExpect::Version(first.version), soon()).await.unwrap();
    assert_eq!(watch.await.unwrap().unwrap().unwrap().version, second.version);
}

#[tokio::test(start_paused = true)]
async fn a_member_with_an_empty_disk_is_no_voter_until_it_is_forgotten_and_joins_anew() {
    let mut world = World::founded(&[1, 2, 3]).await;
    voters(&world, &[1, 2, 3]).await;
    world.at(1).put_key("k", value("1"), KeyExpect::Absent, soon()).await.unwrap();
    world.crash(3, 1).await;
    world.start(3, World::fresh(303)).await;
    let join = || Command::Join { host: HostId(3), store: StoreId(303) };
    let refused = world.at(3).change(join(), soon()).await;
    assert!(matches!(refused, Err(CatalogError::Refused(Refusal::OtherStore { .. }))), "{refused:?}");
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(world.at(3).info().voters.len(), 0);
    world.at(1).change(Command::Forget { host: HostId(3) }, soon()).await.unwrap();
    voters(&world, &[1, 2]).await;
    world.at(3).change(join(), soon()).await.unwrap();
    voters(&world, &[1, 2, 3]).await;
    let entry = world.at(3).get_key("k", Freshness::Local, soon()).await.unwrap();
    assert_eq!(entry.unwrap().value, value("1"));
}

#[tokio::test(start_paused = true)]
async fn a_move_goes_on_under_the_next_leader_of_the_catalog() {
    let mut world = World::founded(&[1, 2, 3]).await;
    world.start(4, World::fresh(104)).await;
    world.at(4).change(Command::Join { host: HostId(4), store: StoreId(104) }, soon()).await.unwrap();
    let leader = voters(&world, &[1, 2, 3]).await;
    world.at(4).put_atlas(vec![settled(&[2, 3, 4])], None, soon()).await.unwrap();
    world.restart(leader, 7).await;
    move_to(&world, 4, &[2, 3, 4]).await;
    voters(&world, &[2, 3, 4]).await;
}
