//! Who leads, and who may think so.

use crate::cluster::{Cluster, seeds, story};
use skein_cohort::group::GroupError;
use skein_model::HostId;
use std::time::Duration;

#[test]
fn a_killed_leader_is_replaced_within_two_seconds_and_nothing_is_lost() {
    for seed in seeds(4) {
        story(|| async {
            let mut cluster = Cluster::founded(3, seed).await;
            cluster.write(20).await;
            let first = cluster.leader().await;
            cluster.kill(first).await;
            let waited = cluster
                .until("another leads", |c| c.up().iter().any(|h| c.group(*h).role().borrow().leading))
                .await;
            assert!(waited < Duration::from_millis(2500), "seed {seed}: {waited:?}");
            cluster.write(20).await;
            cluster.start(first).await;
            cluster.converge(&[HostId(1), HostId(2), HostId(3)]).await;
            cluster.stop().await;
        });
    }
}

#[test]
fn a_leader_cut_off_has_lost_its_lease_before_another_leads() {
    for seed in seeds(4) {
        story(|| async {
            let mut cluster = Cluster::founded(3, seed).await;
            cluster.write(5).await;
            let old = cluster.leader().await;
            let term = cluster.group(old).role().borrow().term;
            let others: Vec<HostId> = cluster.up().into_iter().filter(|host| *host != old).collect();
            cluster.net.part(&[old], &others);
            // What it takes now it cannot commit.
            let orphan = cluster.propose_to(old).await;
            // `step` checks all the while that no two have a lease.
            cluster
                .until("another leads", |c| others.iter().any(|h| c.group(*h).role().borrow().leading))
                .await;
            assert!(!cluster.group(old).lease_valid(term));
            let group = cluster.group(old).clone();
            let read = cluster.while_stepping(async move { group.read_barrier().await }).await;
            assert!(matches!(read, Err(GroupError::NoQuorum(_) | GroupError::NotLeader { .. })), "{read:?}");
            cluster.write(5).await;
            cluster.net.heal();
            cluster.until("the old one has heard", |c| c.group(old).role().borrow().term != term).await;
            cluster.converge(&[HostId(1), HostId(2), HostId(3)]).await;
            assert!(!cluster.fates.lock().unwrap().applied.contains(&orphan));
            cluster.stop().await;
        });
    }
}

#[test]
fn a_follower_that_starts_again_helps_nobody_to_power_while_its_leader_counts_on_it() {
    for seed in seeds(4) {
        story(|| async {
            let mut cluster = Cluster::founded(3, seed).await;
            cluster.write(5).await;
            let leader = cluster.leader().await;
            let others: Vec<HostId> = cluster.up().into_iter().filter(|host| *host != leader).collect();
            // One follower no longer hears the leader, and would campaign; the other forgets its promise.
            cluster.net.cut(leader, others[0]);
            cluster.run(Duration::from_millis(850)).await;
            cluster.kill(others[1]).await;
            cluster.start(others[1]).await;
            cluster.net.cut(leader, others[1]);
            cluster.run(Duration::from_secs(3)).await;
            cluster.net.heal();
            cluster.converge(&[HostId(1), HostId(2), HostId(3)]).await;
            cluster.stop().await;
        });
    }
}

#[test]
fn all_replicas_start_again_with_everything_acknowledged() {
    for seed in seeds(4) {
        story(|| async {
            let mut cluster = Cluster::founded(3, seed).await;
            cluster.write(30).await;
            for _ in 0..10 {
                let host = cluster.leader().await;
                cluster.propose_to(host).await;
            }
            for host in cluster.up() {
                cluster.kill(host).await;
            }
            for host in 1..=3 {
                cluster.start(HostId(host)).await;
            }
            cluster.converge(&[HostId(1), HostId(2), HostId(3)]).await;
            cluster.stop().await;
        });
    }
}

#[test]
fn leadership_is_handed_over_in_a_moment() {
    for seed in seeds(4) {
        story(|| async {
            let mut cluster = Cluster::founded(3, seed).await;
            cluster.write(10).await;
            let old = cluster.leader().await;
            let term = cluster.group(old).role().borrow().term;
            let next = cluster.up().into_iter().find(|host| *host != old).unwrap();
            cluster.run(Duration::from_millis(300)).await;
            let (group, to) = (cluster.group(old).clone(), cluster.replica(next.0).store);
            let handover = tokio::spawn(async move { group.transfer(to).await });
            let waited = cluster.until("the other leads", |c| c.group(next).role().borrow().leading).await;
            // Without it nobody would lead before the lease is over. (The log has threads of its own, which a busy machine holds up.)
            assert!(waited < Duration::from_millis(500), "seed {seed}: {waited:?}");
            assert!(!cluster.group(old).lease_valid(term));
            cluster.while_stepping(handover).await.unwrap().unwrap();
            cluster.converge(&[HostId(1), HostId(2), HostId(3)]).await;
            cluster.stop().await;
        });
    }
}

#[test]
fn a_handover_to_somebody_who_cannot_take_it_ends_with_a_leader_again() {
    story(|| async {
        let mut cluster = Cluster::founded(3, 5).await;
        cluster.write(10).await;
        let old = cluster.leader().await;
        let next = cluster.up().into_iter().find(|host| *host != old).unwrap();
        cluster.run(Duration::from_millis(300)).await;
        // From everybody: the others would elect it, too, once the lease is over.
        for host in cluster.up().into_iter().filter(|host| *host != next) {
            cluster.net.cut(host, next);
        }
        let (group, to) = (cluster.group(old).clone(), cluster.replica(next.0).store);
        let outcome = cluster.while_stepping(async move { group.transfer(to).await }).await;
        assert!(matches!(outcome, Err(GroupError::NoQuorum(_))), "{outcome:?}");
        cluster.write(10).await;
        cluster.net.heal();
        cluster.converge(&[HostId(1), HostId(2), HostId(3)]).await;
        cluster.stop().await;
    });
}
