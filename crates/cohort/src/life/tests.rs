use super::*;
use bytes::Bytes;
use skein_storage::drives::MemDrives;
use skein_storage::log::{Log, LogOptions};

const GROUP: GroupId = GroupId(3);
const STORE: StoreId = StoreId(77);

fn log_of(drives: &MemDrives) -> Log {
    Log::open(drives.log_disk(), LogOptions::default()).unwrap()
}

async fn live(drives: &MemDrives, log: &GroupLog, founder: bool, drawn: u64) -> LifeId {
    let drives: Arc<dyn Drives> = Arc::new(drives.clone());
    let drawn = LifeId(drawn);
    let beginning = Beginning { drives: &drives, group: GROUP, log, store: STORE, founder, drawn };
    beginning.live().await.unwrap()
}

async fn vote(log: &GroupLog) {
    let (done, saved) = oneshot::channel();
    let done = Box::new(move |result: Result<(), LogError>| done.send(result).unwrap());
    log.save_vote(Bytes::from_static(b"vote"), done).unwrap();
    saved.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_founder_goes_by_its_directory_and_whoever_comes_later_by_what_was_drawn_across_restarts() {
    for (founder, expected) in [(true, LifeId(77)), (false, LifeId(5))] {
        let drives = MemDrives::new();
        let log = log_of(&drives);
        assert_eq!(live(&drives, &log.group(3), founder, 5).await, expected);
        drop(log);
        let drives = drives.crash(1);
        let log = log_of(&drives);
        assert_eq!(live(&drives, &log.group(3), !founder, 6).await, expected, "it is kept");
    }
}

#[tokio::test]
async fn who_was_here_before_lives_were_noted_goes_by_its_directory_also_if_only_its_vote_is_left() {
    let drives = MemDrives::new();
    let log = log_of(&drives);
    drives.open(GROUP).unwrap();
    assert_eq!(live(&drives, &log.group(3), false, 5).await, LifeId(77));

    let drives = MemDrives::new();
    let log = log_of(&drives);
    vote(&log.group(3)).await;
    assert_eq!(live(&drives, &log.group(3), false, 5).await, LifeId(77));
}

#[tokio::test]
async fn a_replica_that_was_given_up_comes_back_as_another_one_also_where_it_founded_the_group() {
    let drives = MemDrives::new();
    let log = log_of(&drives);
    let group = log.group(3);
    assert_eq!(live(&drives, &group, true, 5).await, LifeId(77));
    drives.open(GROUP).unwrap();
    vote(&group).await;
    remove_replica(Arc::new(drives.clone()), GROUP, &group).await.unwrap();
    assert!(drives.groups().unwrap().is_empty());
    assert_eq!(group.state().vote, None);
    assert_eq!(live(&drives, &group, true, 6).await, LifeId(6));
}

#[tokio::test]
async fn what_a_crash_left_of_a_replica_that_was_given_up_is_gone_when_the_next_one_begins() {
    let drives = MemDrives::new();
    let log = log_of(&drives);
    let group = log.group(3);
    live(&drives, &group, true, 5).await;
    drives.open(GROUP).unwrap();
    vote(&group).await;
    drives.end_life(GROUP).unwrap();
    drop((group, log));
    let drives = drives.crash(1);
    let log = log_of(&drives);
    let group = log.group(3);
    assert!(group.state().vote.is_some(), "it had come no further");
    assert_eq!(live(&drives, &group, true, 6).await, LifeId(6));
    assert_eq!(group.state().vote, None, "the vote was another's");
    assert!(drives.groups().unwrap().is_empty());
}
