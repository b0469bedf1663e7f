//! What replicas go through.

use crate::clients::{Histories, TABLE, client, value, write_of};
use crate::world::{World, on_runtime, pause, replica, seeds, soon};
use skein_cohort::{CohortError, Outcome};
use skein_model::{StoreId, WriteOp};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;

/// What may go wrong, drawn from the seed.
#[derive(Default, Debug)]
struct Happened {
    crashes: u64,
    cuts: u64,
    transfers: u64,
    moves: u64,
    clocks: u64,
}

async fn trouble(world: &World, end: Instant, moves: bool) -> Happened {
    let mut happened = Happened::default();
    while Instant::now() < end {
        pause(200 + world.below(1_500)).await;
        let any = 1 + world.below(world.machines());
        let who = if world.below(3) == 0 { any } else { world.leader().unwrap_or(any) };
        match world.below(if moves { 7 } else { 6 }) {
            0 => {
                world.crash(who);
                happened.crashes += 1;
                pause(world.below(2_500)).await;
                world.boot(who).await;
            }
            1 => {
                world.isolate(who, world.below(2) == 0);
                happened.cuts += 1;
                pause(500 + world.below(3_000)).await;
                world.network.heal();
            }
            2 => {
                world.network.trouble(5 + world.below(20), 20_000);
                happened.cuts += 1;
                pause(world.below(3_000)).await;
                world.network.heal();
            }
            3 | 4 => {
                if let Some(leader) = world.leader().and_then(|leader| world.cohort(leader)) {
                    happened.transfers += u64::from(leader.transfer(StoreId(any)).await.is_ok());
                }
            }
            5 => {
                world.shift_wall(any, world.below(20_000_000) as i64 - 10_000_000);
                happened.clocks += 1;
            }
            _ => {
                let first = world.below(world.machines());
                let count = [1, 3, 3, 5][world.below(4) as usize].min(world.machines());
                let wanted = (0..count).map(|n| replica(1 + (first + n) % world.machines()));
                world.want(wanted.collect());
                happened.moves += 1;
            }
        }
    }
    happened
}

fn told_from_one_seed(seed: u64, machines: u64, members: u64, moves: bool) {
    on_runtime(async {
        let what = format!("seed {seed}");
        let world = World::new(seed, machines, members).await;
        world.wait_for_leader().await;
        let histories = Histories::default();
        let end = Instant::now() + Duration::from_secs(15);
        let clients: Vec<_> =
            (0..4).map(|n| tokio::spawn(client(world.clone(), histories.clone(), seed, n, end))).collect();
        let mover = moves.then(|| {
            let world = world.clone();
            tokio::spawn(async move {
                loop {
                    pause(300).await;
                    let _ = world.reconcile().await;
                }
            })
        });
        let happened = trouble(&world, end, moves).await;
        for client in clients {
            client.await.unwrap();
        }
        if let Some(mover) = mover {
            mover.abort();
        }
        world.settle(&what).await;
        let (calls, open, repeated) = histories.counts();
        histories.check(&world, &what).await;
        println!("{what}: {calls} calls, {open} open, {repeated} repeated, {happened:?}");
        assert!(100 < calls, "{what}: only {calls} calls were answered");
    });
}

#[test]
fn three_replicas_are_one_row_store_through_crashes_cuts_and_handovers() {
    for seed in seeds(3) {
        told_from_one_seed(seed, 3, 3, false);
    }
}

#[test]
fn five_machines_are_one_row_store_while_members_come_and_go() {
    for seed in seeds(3) {
        told_from_one_seed(1_000 + seed, 5, 3, true);
    }
}

#[test]
fn a_leader_that_is_cut_off_sends_readers_and_writers_elsewhere_and_the_next_one_has_everything() {
    on_runtime(async {
        let world = World::new(1, 3, 3).await;
        let old = world.wait_for_leader().await;
        let cohort = world.cohort(old).unwrap();
        let before = cohort.write(write_of(1, true, "a", WriteOp::Update(value(1))), false, soon()).await;
        let Ok(Outcome::Committed(before)) = before else { panic!("{before:?}") };
        world.isolate(old, false);
        let next = loop {
            pause(20).await;
            if let Some(next) =
                (1..=3).find(|n| *n != old && world.cohort(*n).unwrap().leader().borrow().leading)
            {
                break next;
            }
        };
        let next = world.cohort(next).unwrap();
        let read = next.read(TABLE, b"a", None, soon()).await.unwrap();
        assert_eq!(read.time, before);
        let after = next.write(write_of(2, true, "a", WriteOp::Update(value(2))), false, soon()).await;
        let Ok(Outcome::Committed(after)) = after else { panic!("{after:?}") };
        assert!(before < after && read.read_time < after);
        let stale = cohort.read(TABLE, b"a", None, soon()).await;
        assert!(matches!(stale, Err(CohortError::NotLeader { .. })), "{stale:?}");
        let refused = cohort.write(write_of(3, true, "a", WriteOp::Create(value(3))), false, soon()).await;
        assert!(
            matches!(refused, Err(CohortError::NotLeader { .. } | CohortError::Unknown { .. })),
            "{refused:?}"
        );
        world.settle("after all").await;
    });
}

#[test]
fn a_write_that_went_unanswered_is_done_once_however_often_it_is_repeated() {
    on_runtime(async {
        let world = World::new(2, 3, 3).await;
        let old = world.wait_for_leader().await;
        let tx = || write_of(9, false, "a", WriteOp::Update(value(9)));
        let first = world.cohort(old).unwrap().write(tx(), false, soon()).await.unwrap();
        world.crash(old);
        let next = loop {
            pause(20).await;
            if let Some(next) = world.leader() {
                break next;
            }
        };
        let next = world.cohort(next).unwrap();
        assert_eq!(next.write(tx(), true, soon()).await.unwrap(), first);
        assert_eq!(next.tx_status(tx().id, soon()).await.unwrap(), first);
        // A refusal is remembered too, so that a duplicate that comes late cannot make it untrue.
        let create = || write_of(10, false, "a", WriteOp::Create(value(10)));
        let refused = next.write(create(), true, soon()).await.unwrap();
        assert!(matches!(refused, Outcome::Refused(_)));
        next.write(write_of(11, false, "a", WriteOp::Delete), false, soon()).await.unwrap();
        assert_eq!(next.write(create(), true, soon()).await.unwrap(), refused);
        world.settle("after all").await;
    });
}

#[test]
fn a_replica_that_is_added_gets_the_rows_by_snapshot_and_is_the_same() {
    on_runtime(async {
        let world = World::new(3, 3, 1).await;
        let only = world.cohort(world.wait_for_leader().await).unwrap();
        for number in 1..400 {
            let key = format!("k{}", number % 50);
            only.write(write_of(number, true, &key, WriteOp::Update(value(number))), false, soon())
                .await
                .unwrap();
        }
        only.checkpoint().await.unwrap();
        pause(1_000).await;
        world.want((1..=3).map(replica).collect::<BTreeSet<_>>());
        world.settle("grown").await;
        assert_eq!(only.status().committed_voters.len(), 3);
    });
}
