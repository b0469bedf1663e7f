//! The users' store, from peers that keep it and peers that do not.

use crate::world::{World, settled, soon, within};
use bytes::Bytes;
use skein_cell::catalog::{CatalogError, Command, Freshness, KeyExpect, Refusal};
use skein_model::{ContentType, Value};
use std::time::Duration;

fn value(text: &str) -> Value {
    Value { content_type: ContentType::Json, bytes: Bytes::copy_from_slice(text.as_bytes()) }
}

/// Peers 1, 2 and 3, of which only 1 keeps the catalog.
async fn one_member() -> World {
    let world = World::of(&[1, 2, 3]).await;
    world.at(1).put_atlas(vec![settled(&[1])], None, soon()).await.unwrap();
    world.until(2, |state| state.is_founded()).await;
    world.until(3, |state| state.is_founded()).await;
    world
}

#[tokio::test(start_paused = true)]
async fn a_key_written_at_one_peer_is_read_at_another() {
    let world = one_member().await;
    let put = world.at(2).put_key("a/b", value("1"), KeyExpect::Absent, soon()).await.unwrap();
    for host in [1, 2, 3] {
        for freshness in [Freshness::Linearizable, Freshness::Local] {
            let entry = world.at(host).get_key("a/b", freshness, soon()).await.unwrap().unwrap();
            assert_eq!((entry.version, entry.value), (put.version, value("1")));
            let list = world.at(host).list_keys("a/", None, 10, freshness, soon()).await.unwrap();
            assert_eq!(list.len(), 1);
        }
    }
    world.at(3).delete_key("a/b", KeyExpect::Version(put.version), soon()).await.unwrap();
    assert_eq!(world.at(2).get_key("a/b", Freshness::Linearizable, soon()).await, Ok(None));
}

#[tokio::test(start_paused = true)]
async fn of_many_who_compare_and_set_at_once_exactly_one_wins() {
    let world = one_member().await;
    for round in 0..10u64 {
        let expect = match world.at(1).get_key("k", Freshness::Local, soon()).await.unwrap() {
            None => KeyExpect::Absent,
            Some(entry) => KeyExpect::Version(entry.version),
        };
        let attempts = (0..12).map(|i| {
            let catalog = world.at(1 + i % 3).clone();
            async move { catalog.put_key("k", value(&format!("{round}-{i}")), expect, soon()).await }
        });
        let results = futures_util::future::join_all(attempts).await;
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1, "{results:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_wakes_for_a_write_a_removal_and_not_for_other_keys() {
    let world = one_member().await;
    for host in [1, 3] {
        let first = world.at(1).put_key("k", value("1"), KeyExpect::Absent, soon()).await.unwrap();
        let at_once = world.at(host).watch_key("k", 0, Duration::from_secs(10)).await.unwrap();
        assert_eq!(at_once.unwrap().version, first.version);
        let (seen, second) =
            tokio::join!(world.at(host).watch_key("k", first.version, Duration::from_secs(10)), async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                world.at(2).put_key("other", value("1"), KeyExpect::Anything, soon()).await.unwrap();
                tokio::time::sleep(Duration::from_secs(1)).await;
                world.at(2).put_key("k", value("2"), KeyExpect::Anything, soon()).await.unwrap()
            });
        assert_eq!(seen.unwrap().unwrap().version, second.version);
        let (seen, _) =
            tokio::join!(world.at(host).watch_key("k", second.version, Duration::from_secs(10)), async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                world.at(2).delete_key("k", KeyExpect::Present, soon()).await.unwrap()
            });
        assert_eq!(seen.unwrap(), None);
        let began = tokio::time::Instant::now();
        assert_eq!(world.at(host).watch_key("k", 0, Duration::from_secs(5)).await, Ok(None));
        assert!(Duration::from_secs(5) <= began.elapsed() && began.elapsed() < Duration::from_secs(6));
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_whose_answer_was_lost_is_made_once() {
    let world = one_member().await;
    world.net.cut_one_way(1, 2);
    let heal = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        world.net.heal();
    };
    // Whoever did not remember that it did this already would say that the key exists.
    let (put, ()) = tokio::join!(world.at(2).put_key("k", value("1"), KeyExpect::Absent, soon()), heal);
    let entry = world.at(1).get_key("k", Freshness::Linearizable, soon()).await.unwrap().unwrap();
    assert_eq!(put.unwrap().version, entry.version);
}

#[tokio::test(start_paused = true)]
async fn a_change_whose_answer_never_comes_is_unknown_and_one_never_sent_is_not() {
    let world = one_member().await;
    world.net.cut_one_way(1, 2);
    let error = world.at(2).put_key("k", value("1"), KeyExpect::Absent, within(3)).await.unwrap_err();
    assert!(matches!(error, CatalogError::Unknown { .. }), "{error:?}");
    world.net.heal();
    assert!(world.at(2).get_key("k", Freshness::Linearizable, soon()).await.unwrap().is_some());
    world.net.cut(1, &[2, 3]);
    let error = world.at(2).put_key("l", value("1"), KeyExpect::Absent, within(3)).await.unwrap_err();
    assert!(matches!(error, CatalogError::NotLed { .. }), "{error:?}");
    world.net.heal();
    assert_eq!(world.at(2).get_key("l", Freshness::Linearizable, soon()).await, Ok(None));
}

#[tokio::test(start_paused = true)]
async fn acknowledged_keys_survive_crashes_and_what_is_refused_says_why() {
    let mut world = World::founded(&[1]).await;
    for seed in 0..6u64 {
        let key = format!("{seed}");
        world.at(1).put_key(&key, value("1"), KeyExpect::Absent, soon()).await.unwrap();
        world.restart(1, seed).await;
    }
    let keys = world.at(1).list_keys("", None, 100, Freshness::Linearizable, soon()).await.unwrap();
    assert_eq!(keys.len(), 6);
    let long = world.at(1).put_key(&"k".repeat(513), value("1"), KeyExpect::Anything, soon()).await;
    assert_eq!(long, Err(CatalogError::Refused(Refusal::KeyLength { bytes: 513 })));
}

#[tokio::test(start_paused = true)]
async fn a_peer_whose_knowledge_is_old_is_not_mistaken_for_one_that_repeats_itself() {
    let world = one_member().await;
    // More requests than are remembered, of which 2 hears nothing: keys are no part of what it learns.
    for i in 0..1100 {
        world.at(1).put_key("k", value(&format!("{i}")), KeyExpect::Anything, soon()).await.unwrap();
    }
    world.at(2).put_key("k", value("\"last\""), KeyExpect::Present, soon()).await.unwrap();
    let command = Command::PutSchema { text: "table a { id: 1; };".into(), if_version: Some(0) };
    world.at(3).change(command, soon()).await.unwrap();
    assert_eq!(world.state(3).schema_version, 1, "who changes something sees it");
}

#[tokio::test(start_paused = true)]
async fn a_cut_off_peer_that_keeps_the_catalog_reads_what_it_has() {
    let world = one_member().await;
    world.at(1).put_key("k", value("1"), KeyExpect::Absent, soon()).await.unwrap();
    world.net.cut(1, &[2, 3]);
    assert!(world.at(1).get_key("k", Freshness::Local, within(1)).await.unwrap().is_some());
    let error = world.at(2).get_key("k", Freshness::Local, within(2)).await.unwrap_err();
    assert!(matches!(error, CatalogError::NotLed { .. }), "{error}");
}
