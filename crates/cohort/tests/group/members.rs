//! Changing who is in the group.

use crate::cluster::{Cluster, GROUP, seeds, story};
use skein_cohort::group::{GroupError, Reconcile, may_end};
use skein_model::HostId;
use std::collections::BTreeSet;
use std::time::Duration;

fn hosts(numbers: &[u64]) -> Vec<HostId> {
    numbers.iter().copied().map(HostId).collect()
}

#[test]
fn a_group_grows_from_one_to_three_to_five_and_shrinks_to_one() {
    for seed in seeds(3) {
        story(|| async {
            let mut cluster = Cluster::of(5, seed).await;
            let first = cluster.replicas([1]);
            cluster.group(HostId(1)).initialise(&first).await.unwrap();
            cluster.write(40).await;
            cluster.reconcile(1..=3).await;
            cluster.converge(&hosts(&[1, 2, 3])).await;
            cluster.write(20).await;
            cluster.reconcile(1..=5).await;
            cluster.converge(&hosts(&[1, 2, 3, 4, 5])).await;
            cluster.reconcile([4]).await;
            assert_eq!(cluster.leader().await, HostId(4));
            cluster.converge(&hosts(&[4])).await;
            let status = cluster.group(HostId(4)).status();
            assert_eq!(status.members.len(), 1);
            assert!(!status.changing);
            cluster.stop().await;
        });
    }
}

#[test]
fn everything_moves_to_new_hosts_the_leader_included() {
    for seed in seeds(3) {
        story(|| async {
            let mut cluster = Cluster::founded(3, seed).await;
            for host in 4..=6 {
                cluster.add(HostId(host)).await;
            }
            cluster.write(30).await;
            cluster.reconcile(4..=6).await;
            for host in 1..=3 {
                cluster.kill(HostId(host)).await;
            }
            cluster.converge(&hosts(&[4, 5, 6])).await;
            cluster.stop().await;
        });
    }
}

#[test]
fn a_move_is_aimed_elsewhere_midway_and_called_off() {
    for seed in seeds(3) {
        story(|| async {
            let mut cluster = Cluster::founded(3, seed).await;
            for host in 4..=5 {
                cluster.add(HostId(host)).await;
            }
            cluster.write(30).await;
            for wanted in [&[1, 2, 4][..], &[3, 4, 5], &[1, 2, 3, 4, 5]] {
                let wanted = cluster.replicas(wanted.iter().copied());
                for _ in 0..1 + cluster.luck.below(3) {
                    cluster.reconcile_once(&wanted).await;
                }
                cluster.write(5).await;
            }
            cluster.reconcile(1..=3).await;
            cluster.converge(&hosts(&[1, 2, 3])).await;
            cluster.stop().await;
        });
    }
}

#[test]
fn a_host_whose_disk_was_lost_is_replaced_by_its_new_store() {
    for seed in seeds(3) {
        story(|| async {
            let mut cluster = Cluster::founded(3, seed).await;
            cluster.write(30).await;
            let lost = cluster.replica(2).store;
            cluster.wipe(HostId(2)).await;
            // The old store votes and acknowledges nothing any more, and two of three go on.
            cluster.write(30).await;
            cluster.reconcile(1..=3).await;
            cluster.converge(&hosts(&[1, 2, 3])).await;
            let status = {
                let leader = cluster.leader().await;
                cluster.group(leader).status()
            };
            assert!(status.members.iter().all(|member| member.replica.store != lost));
            cluster.stop().await;
        });
    }
}

#[test]
fn a_replica_that_begins_again_in_its_directory_is_another_member_and_hears_nothing_meant_for_the_one_before()
{
    for seed in seeds(3) {
        story(|| async {
            let mut cluster = Cluster::founded(3, seed).await;
            cluster.write(30).await;
            let over = cluster.group(HostId(2)).life();
            cluster.begin_again(HostId(2)).await;
            // The group still counts on the life that is over, and two of three go on.
            cluster.write(30).await;
            cluster.run(Duration::from_secs(2)).await;
            assert_eq!(cluster.group(HostId(2)).status().log_end, 0, "nothing comes to it");
            cluster.reconcile(1..=3).await;
            cluster.converge(&hosts(&[1, 2, 3])).await;
            let now = cluster.group(HostId(2)).life();
            assert_ne!(over, now);
            let status = {
                let leader = cluster.leader().await;
                cluster.group(leader).status()
            };
            let lives: BTreeSet<_> = status.members.iter().map(|member| member.life).collect();
            assert!(lives.contains(&now) && !lives.contains(&over));
            cluster.stop().await;
        });
    }
}

#[test]
fn who_retires_is_not_made_a_member_and_gets_leave_to_end_only_where_it_is_none() {
    story(|| async {
        let mut cluster = Cluster::founded(3, 5).await;
        cluster.add(HostId(4)).await;
        cluster.write(5).await;
        let leader = cluster.leader().await;
        let all = cluster.replicas(1..=4);
        let ask = |cluster: &Cluster, host: u64| {
            let group = cluster.group(HostId(host));
            let (peers, life, all) = (cluster.net.end_of(group.me()), group.life(), all.clone());
            async move { may_end(&peers, GROUP, life, &all, Duration::from_secs(1)).await }
        };
        cluster.group(HostId(4)).retire(true);
        let group = cluster.group(leader).clone();
        for _ in 0..5 {
            let (group, wanted) = (group.clone(), all.clone());
            let step = cluster.while_stepping(async move { group.reconcile(&wanted).await }).await;
            assert!(matches!(step, Ok(Reconcile::Waiting(_))), "{step:?}");
        }
        let leave = ask(&cluster, 4);
        assert!(cluster.while_stepping(leave).await, "nobody counts on it");
        cluster.group(HostId(2)).retire(true);
        let leave = ask(&cluster, 2);
        assert!(!cluster.while_stepping(leave).await, "it is a member");
        cluster.group(HostId(2)).retire(false);
        // It may change its mind for as long as it has not ended.
        cluster.group(HostId(4)).retire(false);
        cluster.reconcile(1..=4).await;
        let leave = ask(&cluster, 4);
        assert!(!cluster.while_stepping(leave).await);
        cluster.converge(&hosts(&[1, 2, 3, 4])).await;
        cluster.stop().await;
    });
}

#[test]
fn without_a_quorum_a_change_says_who_does_not_answer() {
    story(|| async {
        let mut cluster = Cluster::founded(3, 2).await;
        cluster.add(HostId(4)).await;
        cluster.write(5).await;
        let leader = cluster.leader().await;
        let others: Vec<HostId> = [1, 2, 3].into_iter().map(HostId).filter(|host| *host != leader).collect();
        let wanted = cluster.replicas(1..=4);
        cluster.run(Duration::from_millis(300)).await;
        let group = cluster.group(leader).clone();
        for host in &others {
            cluster.kill(*host).await;
        }
        let told = cluster.while_stepping(async move {
            let mut last = None;
            for _ in 0..10 {
                last = Some(group.reconcile(&wanted).await);
                if matches!(&last, Some(Ok(Reconcile::Changing { silent })) if !silent.is_empty()) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
            last
        });
        let told = told.await;
        let Some(Ok(Reconcile::Changing { silent })) = told else { panic!("{told:?}") };
        let silent: BTreeSet<HostId> = silent.iter().map(|replica| replica.host).collect();
        assert_eq!(silent, others.iter().copied().collect());
        for host in &others {
            cluster.start(*host).await;
        }
        cluster.reconcile(1..=3).await;
        cluster.converge(&hosts(&[1, 2, 3])).await;
        cluster.stop().await;
    });
}

#[test]
fn a_set_that_makes_no_sense_is_refused() {
    story(|| async {
        let mut cluster = Cluster::founded(1, 2).await;
        let group = cluster.group(HostId(1)).clone();
        let refused = cluster.while_stepping(async move { group.reconcile(&BTreeSet::new()).await }).await;
        assert!(matches!(refused, Err(GroupError::Membership(_))), "{refused:?}");
        cluster.stop().await;
    });
}
