//! Everything at once, from one seed: what was acknowledged stays, what was refused never appears, and there is one lease.

use crate::cluster::{Cluster, seeds, story};
use skein_model::HostId;
use std::time::Duration;

#[test]
fn writes_survive_kills_partitions_losses_handovers_and_moves() {
    for seed in seeds(4) {
        story(|| async {
            let mut cluster = Cluster::founded(3, seed).await;
            cluster.add(HostId(4)).await;
            cluster.add(HostId(5)).await;
            cluster.checkpoint_log_bytes = 4096;
            let mut wanted: Vec<u64> = vec![1, 2, 3];
            for round in 0..200 {
                // A run in which nothing was written proves nothing.
                if 40 <= round && 50 < cluster.fates.lock().unwrap().applied.len() {
                    break;
                }
                // Whoever believes to lead is written to.
                for host in cluster.up() {
                    if cluster.group(host).role().borrow().leading {
                        for _ in 0..5 {
                            cluster.propose_to(host).await;
                        }
                    }
                }
                match cluster.luck.below(10) {
                    0 => {
                        let host = HostId(1 + cluster.luck.below(5));
                        // Whichever three are the members, two of them are up in the end, so that something is written.
                        let down_max = if round < 40 { 2 } else { 1 };
                        if !cluster.is_up(host) {
                            cluster.start(host).await;
                        } else if 5 - cluster.up().len() < down_max {
                            cluster.kill(host).await;
                        }
                    }
                    1 => {
                        let (a, b) = (1 + cluster.luck.below(5), 1 + cluster.luck.below(5));
                        cluster.net.cut(HostId(a), HostId(b));
                    }
                    2 | 7 => cluster.net.heal(),
                    3 => cluster.net.lose(20),
                    4 => {
                        let to = cluster.luck.below(5) + 1;
                        let to = cluster.replica(to).store;
                        for host in cluster.up() {
                            let group = cluster.group(host).clone();
                            tokio::spawn(async move { group.transfer(to).await });
                        }
                    }
                    5 => {
                        for host in cluster.up() {
                            let group = cluster.group(host).clone();
                            tokio::spawn(async move { group.checkpoint().await });
                        }
                    }
                    6 => {
                        let choices: [&[u64]; 4] = [&[1, 2, 3], &[3, 4, 5], &[1, 2, 3, 4, 5], &[2, 4, 5]];
                        wanted = choices[cluster.luck.below(4) as usize].to_vec();
                    }
                    _ => {}
                }
                for host in cluster.up() {
                    let (group, wanted) =
                        (cluster.group(host).clone(), cluster.replicas(wanted.iter().copied()));
                    tokio::spawn(async move { group.reconcile(&wanted).await });
                }
                let pause = cluster.luck.below(500);
                cluster.run(Duration::from_millis(pause)).await;
            }
            cluster.net.heal();
            for host in 1..=5 {
                if !cluster.is_up(HostId(host)) {
                    cluster.start(HostId(host)).await;
                }
            }
            cluster.reconcile(1..=5).await;
            let all: Vec<HostId> = (1..=5).map(HostId).collect();
            cluster.converge(&all).await;
            assert!(50 < cluster.fates.lock().unwrap().applied.len(), "seed {seed}");
            cluster.stop().await;
        });
    }
}
