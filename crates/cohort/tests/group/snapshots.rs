//! Replicas that are behind: by a little, and by more than the log still has.

use crate::cluster::{Cluster, seeds, story};
use skein_model::HostId;
use std::time::Duration;

/// Writes so much that a follower that is down needs a snapshot afterwards, and has the log cut.
async fn leave_behind(cluster: &mut Cluster, down: HostId) {
    cluster.kill(down).await;
    for _ in 0..6 {
        cluster.write(60).await;
        for host in cluster.up() {
            cluster.group(host).checkpoint().await.unwrap();
        }
        cluster.run(Duration::from_millis(100)).await;
    }
    let leader = cluster.leader().await;
    cluster.until("the log is cut", |c| c.group(leader).status().log_bytes < 4000).await;
}

#[test]
fn a_follower_a_little_behind_catches_up_from_the_log() {
    story(|| async {
        let mut cluster = Cluster::founded(3, 1).await;
        let leader = cluster.leader().await;
        let down = cluster.up().into_iter().find(|host| *host != leader).unwrap();
        cluster.kill(down).await;
        cluster.write(100).await;
        cluster.start(down).await;
        cluster.converge(&[HostId(1), HostId(2), HostId(3)]).await;
        assert_eq!(cluster.net.pieces_sent(), 0);
        cluster.stop().await;
    });
}

#[test]
fn a_follower_far_behind_takes_a_snapshot_and_goes_on_where_it_was_cut() {
    for seed in seeds(3) {
        story(|| async {
            let mut cluster = Cluster::founded(3, seed).await;
            let leader = cluster.leader().await;
            let down = cluster.up().into_iter().find(|host| *host != leader).unwrap();
            leave_behind(&mut cluster, down).await;
            cluster.net.break_streams_after(&[5, 1, 9]);
            cluster.start(down).await;
            // Writing goes on meanwhile.
            cluster.write(20).await;
            cluster.converge(&[HostId(1), HostId(2), HostId(3)]).await;
            // 360 commands by seven are 52 pieces. Beginning anew after each cut would have taken many more.
            let pieces = cluster.net.pieces_sent();
            assert!((52..80).contains(&pieces), "seed {seed}: {pieces} pieces");
            // And it is as good as the others: it starts again, also before anything else was made durable.
            cluster.kill(down).await;
            cluster.start(down).await;
            cluster.converge(&[HostId(1), HostId(2), HostId(3)]).await;
            cluster.stop().await;
        });
    }
}

#[test]
fn a_follower_killed_while_it_takes_a_snapshot_takes_another() {
    for seed in seeds(6) {
        story(|| async {
            let mut cluster = Cluster::founded(3, seed).await;
            let leader = cluster.leader().await;
            let down = cluster.up().into_iter().find(|host| *host != leader).unwrap();
            leave_behind(&mut cluster, down).await;
            cluster.start(down).await;
            // At a random moment: while pieces arrive, while it is put in place, or just after.
            let moment = cluster.luck.below(400);
            cluster.run(Duration::from_millis(moment)).await;
            cluster.kill(down).await;
            cluster.start(down).await;
            cluster.converge(&[HostId(1), HostId(2), HostId(3)]).await;
            cluster.stop().await;
        });
    }
}

#[test]
fn a_leader_killed_while_it_sends_a_snapshot_is_relieved() {
    for seed in seeds(3) {
        story(|| async {
            let mut cluster = Cluster::founded(3, seed).await;
            let leader = cluster.leader().await;
            let down = cluster.up().into_iter().find(|host| *host != leader).unwrap();
            leave_behind(&mut cluster, down).await;
            cluster.start(down).await;
            let before = cluster.net.pieces_sent();
            cluster.until("pieces travel", |c| before + 3 < c.net.pieces_sent()).await;
            let leader = cluster.leader().await;
            cluster.kill(leader).await;
            cluster.start(leader).await;
            cluster.converge(&[HostId(1), HostId(2), HostId(3)]).await;
            cluster.stop().await;
        });
    }
}
