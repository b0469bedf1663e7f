//! How a cell begins, and how it does not.

use crate::world::{World, settled, soon, within};
use skein_cell::catalog::{CatalogError, Command, Refusal};
use skein_model::{Atlas, HostId, Schema, StoreId};
use skein_storage::disk::Disk;
use std::sync::Arc;

#[tokio::test(start_paused = true)]
async fn a_peer_founds_its_own_cell_and_it_survives_a_crash() {
    let mut world = World::of(&[1]).await;
    let outcome = world.at(1).put_atlas(vec![settled(&[1])], None, soon()).await.unwrap();
    assert_eq!((outcome.version, outcome.changed), (1, true));
    let before = world.state(1);
    assert_eq!(before.members[&HostId(1)], StoreId(101));
    for seed in 0..8 {
        world.restart(1, seed).await;
        let after = world.until(1, |state| state.is_founded()).await;
        assert_eq!(after, before);
    }
}

#[tokio::test(start_paused = true)]
async fn an_atlas_put_anywhere_is_founded_by_its_first_host_and_known_everywhere() {
    let world = World::of(&[1, 2, 3]).await;
    world.at(3).put_atlas(vec![settled(&[2])], Some(0), soon()).await.unwrap();
    assert!(world.state(3).is_founded(), "who put it sees it at once");
    assert!(world.at(2).info().leading);
    let state = world.until(1, |state| state.is_founded()).await;
    assert_eq!(state.members.keys().copied().collect::<Vec<_>>(), [HostId(1), HostId(2), HostId(3)]);
    assert_eq!(state.founding, world.state(2).founding);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_is_no_member_routes_by_what_it_learned_after_a_restart_alone() {
    let mut world = World::of(&[1, 2]).await;
    world.at(2).put_atlas(vec![settled(&[1])], None, soon()).await.unwrap();
    // Kept soon after it was learned.
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    let disks = world.crash(2, 5).await;
    world.crash(1, 5).await;
    world.start(2, disks).await;
    assert_eq!(world.state(2).atlas.cohorts, [settled(&[1])]);
}

#[tokio::test(start_paused = true)]
async fn two_hosts_that_found_a_cell_at_once_make_one() {
    for offset in [0, 1, 2, 3, 5, 20] {
        let world = World::of(&[1, 2, 3]).await;
        let late = async {
            tokio::time::sleep(std::time::Duration::from_millis(offset)).await;
            world.at(2).put_atlas(vec![settled(&[2])], None, soon()).await
        };
        let (one, two) = tokio::join!(world.at(1).put_atlas(vec![settled(&[1])], None, soon()), late);
        // One founds it; the other changes its atlas.
        let (one, two) = (one.unwrap(), two.unwrap());
        assert_eq!(one.version.min(two.version), 1, "{offset}");
        assert_eq!(one.version.max(two.version), 2, "{offset}");
        let state = world.until(3, |state| 2 <= state.atlas.version).await;
        assert_eq!(state.founding, world.state(1).founding, "{offset}");
        assert_eq!(state.founding, world.state(2).founding, "{offset}");
    }
}

#[tokio::test(start_paused = true)]
async fn hosts_that_cannot_be_reached_are_no_members_and_nothing_is_founded_with_them() {
    let world = World::of(&[1, 2]).await;
    let error = world.at(1).put_atlas(vec![settled(&[1, 2, 3])], None, soon()).await.unwrap_err();
    assert_eq!(error, CatalogError::Refused(Refusal::UnknownHosts { hosts: [HostId(3)].into() }));
    let error = world.at(1).put_atlas(vec![settled(&[7])], None, soon()).await.unwrap_err();
    assert!(matches!(error, CatalogError::NoFounder { host: HostId(7), .. }), "{error}");
    assert!(!world.state(1).is_founded());
    // Nobody is bound by the attempt.
    world.at(2).put_atlas(vec![settled(&[2])], None, within(1)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn nothing_but_an_atlas_founds_a_cell() {
    let world = World::of(&[1]).await;
    let schema = Command::PutSchema { text: String::new(), if_version: None };
    let error = world.at(1).change(schema, soon()).await.unwrap_err();
    assert_eq!(error, CatalogError::Refused(Refusal::NotFounded));
    let stale = world.at(1).put_atlas(vec![settled(&[1])], Some(3), soon()).await.unwrap_err();
    assert!(matches!(stale, CatalogError::Refused(Refusal::Stale { current: 0, .. })), "{stale}");
}

#[tokio::test(start_paused = true)]
async fn a_crash_at_any_moment_of_the_founding_leaves_none_or_one_that_is_finished() {
    let mut finished = 0;
    for micros in 0..60 {
        let mut world = World::of(&[1, 2]).await;
        {
            let put = world.at(1).put_atlas(vec![settled(&[1])], None, soon());
            let _ = tokio::time::timeout(std::time::Duration::from_micros(micros * 150), put).await;
        }
        let disks = world.crash(1, micros).await;
        let has_begun = disks.files.list().unwrap().iter().any(|name| name == "catalog.founding");
        let was_done = disks.files.list().unwrap().iter().any(|name| name == "catalog");
        world.start(1, disks).await;
        if has_begun || was_done {
            world.until(1, |state| state.is_founded()).await;
            finished += 1;
        } else {
            tokio::time::sleep(std::time::Duration::from_secs(3)).await;
            assert!(!world.state(1).is_founded() || world.at(1).info().leading);
        }
        // Either way there is a cell in the end, and it is one.
        world.at(2).put_atlas(vec![settled(&[1])], None, within(60)).await.unwrap();
        assert_eq!(world.state(1).founding, world.state(2).founding);
    }
    assert!(0 < finished, "no crash hit a founding under way");
}

#[tokio::test(start_paused = true)]
async fn the_catalog_of_a_cell_of_one_goes_on_with_its_rows_schema_and_versions() {
    let dir = tempfile::tempdir().unwrap();
    let facts = skein_cell::catalog_of_one::Facts {
        atlas: Arc::new(Atlas { version: 4, cohorts: vec![settled(&[1])] }),
        schema_version: 3,
        schema: Arc::new(Schema::parse("table fruit { id: 1; };").unwrap()),
    };
    skein_cell::catalog_of_one::Catalog::in_dir(dir.path()).store(&facts).unwrap();
    let bytes = std::fs::read(dir.path().join("catalog")).unwrap();
    let mut world = World::default();
    let disks = World::fresh(101);
    disks.files.create("catalog", bytes.len() as u64).unwrap().write_at(&bytes, 0).unwrap();
    disks.files.open("catalog").unwrap().sync_data().unwrap();
    world.start(1, disks).await;
    let state = world.until(1, |state| state.is_founded()).await;
    assert_eq!((state.atlas.version, state.schema_version), (4, 3));
    assert!(state.schema.table("fruit").is_some());
    assert!(state.cohorts[0].opened, "its rows are there, so nobody begins the group anew");
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    world.restart(1, 1).await;
    assert_eq!(world.until(1, |state| state.is_founded()).await, state);
}

#[tokio::test(start_paused = true)]
async fn cells_that_were_founded_apart_do_not_mix() {
    let world = World::of(&[1, 2]).await;
    world.net.cut(1, &[2]);
    world.at(1).put_atlas(vec![settled(&[1])], None, soon()).await.unwrap();
    world.at(2).put_atlas(vec![settled(&[2])], None, soon()).await.unwrap();
    world.net.heal();
    let mut conflict = world.at(1).conflict();
    tokio::time::timeout(std::time::Duration::from_secs(30), async {
        // The versions are the same, so nobody fetches; a summary tells all the same.
        let theirs = world.at(2).summary();
        assert!(world.at(1).catch_up(&theirs, &[], within(1)).await.is_err());
        conflict.wait_for(Option::is_some).await.unwrap();
    })
    .await
    .unwrap();
    assert_eq!(world.state(1).atlas.cohorts, [settled(&[1])]);
    assert_eq!(world.state(2).atlas.cohorts, [settled(&[2])]);
}

#[tokio::test(start_paused = true)]
async fn a_host_with_another_directory_is_told_what_to_do_until_it_is_forgotten() {
    let world = World::founded(&[1]).await;
    let join = |store| Command::Join { host: HostId(5), store: StoreId(store) };
    world.at(1).change(join(105), soon()).await.unwrap();
    assert_eq!(world.at(1).admit(HostId(5), StoreId(105)), Ok(()));
    assert_eq!(world.at(1).admit(HostId(6), StoreId(7)), Ok(()), "not known yet, so not refused");
    let words = world.at(1).admit(HostId(5), StoreId(205)).unwrap_err();
    assert!(words.contains("skein forget 0x0000000000000005"), "{words}");
    assert!(world.at(1).change(join(205), soon()).await.is_err());
    world.at(1).change(Command::Forget { host: HostId(5) }, soon()).await.unwrap();
    world.at(1).change(join(205), soon()).await.unwrap();
    assert_eq!(world.at(1).admit(HostId(5), StoreId(205)), Ok(()));
}
