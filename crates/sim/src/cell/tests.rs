//! The simulator itself: it lets a right database pass, catches wrong ones, and repeats itself.

use super::fake::{Bug, Fake};
use super::*;

fn plan(seed: u64) -> Plan {
    Plan {
        chaos_millis: 15_000,
        think_millis: 60,
        heal_millis: 20_000,
        pause_millis: 500,
        ..Plan::draw(seed)
    }
}

fn run_fake(bug: Bug, seed: u64) -> Result<Outcome, Box<Failure>> {
    run(Fake::with(bug), plan(seed), trace::Trace::default())
}

#[test]
fn a_right_database_passes_whatever_the_seed() {
    for seed in 1..8 {
        let outcome = run_fake(Bug::None, seed).unwrap_or_else(|failure| panic!("seed {seed}: {failure}"));
        assert!(20 < outcome.tally.get("commits"), "{:?}", outcome.tally);
    }
}

#[test]
fn every_planted_bug_is_caught_and_called_by_its_name() {
    let words = |bug| match bug {
        Bug::None => "",
        Bug::ForgetsAWrite => "lost|a read found|of the scan|linearizable|ended after",
        Bug::ReadsStale => "a read found",
        Bug::TearsScans => "of the scan",
        Bug::WritesTwice => "was said to be written at|and also",
        Bug::LosesUpdates => "linearizable",
        Bug::ReplicasDiffer => "identical",
        Bug::NeverSettles => "to be settled",
        Bug::LiesAboutNothing => "was said not to be written",
        Bug::OverwritesKeys => "catalog key",
        Bug::Panics => "this peer has a bug",
    };
    for bug in Bug::ALL {
        let caught = (1..9).find_map(|seed| run_fake(bug, seed).err());
        let why = caught.unwrap_or_else(|| panic!("{bug:?} was not caught")).why;
        assert!(words(bug).split('|').any(|word| why.contains(word)), "{bug:?}: {why}");
    }
}

#[test]
fn a_seed_repeats_itself() {
    for seed in [3, 4] {
        let first = run_fake(Bug::None, seed).unwrap();
        let again = run_fake(Bug::None, seed).unwrap();
        assert_eq!((first.trace, first.simulated_millis), (again.trace, again.simulated_millis));
    }
    assert_ne!(run_fake(Bug::None, 3).unwrap().trace, run_fake(Bug::None, 4).unwrap().trace);
}

/// Two peers on the simulated network, one of which sends back what it is sent, on links that come and go.
fn echo(seed: u64) -> (u64, u64, u64) {
    use skein_transport::Network;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let trace = trace::Trace::default();
    let echoed = std::sync::Arc::new(AtomicU64::new(0));
    let mut sim = turmoil::Builder::new()
        .rng_seed(seed)
        .max_message_latency(Duration::from_millis(20))
        .simulation_duration(Duration::from_secs(100))
        .build();
    let network = |peer| net::SimNetwork { peer, trace: trace.clone() };
    let server = network(0);
    sim.host("server", move || {
        let server = server.clone();
        async move {
            let mut listener = server.listen("0.0.0.0:77".parse()?).await?;
            loop {
                let (mut io, _) = listener.accept().await?;
                tokio::spawn(async move {
                    let mut bytes = [0; 100];
                    while let Ok(n) = io.read(&mut bytes).await {
                        if n == 0 || io.write_all(&bytes[..n]).await.is_err() {
                            break;
                        }
                    }
                });
            }
        }
    });
    let (client, count) = (network(1), echoed.clone());
    let server = std::net::SocketAddr::new(sim.lookup("server"), 77);
    sim.client("client", async move {
        let mut luck = luck::Luck::new(seed);
        for _ in 0..20 {
            let mut io = client.connect(server).await?;
            for _ in 0..luck.between(1, 20) {
                let sent = vec![luck.draw() as u8; luck.between(1, 100) as usize];
                io.write_all(&sent).await?;
                let mut back = vec![0; sent.len()];
                let patience = Duration::from_millis(500);
                match tokio::time::timeout(patience, io.read_exact(&mut back)).await {
                    Ok(read) => {
                        read?;
                        assert_eq!(sent, back);
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(_) => break,
                }
            }
        }
        Ok(())
    });
    let mut steps = 0;
    while !sim.step().unwrap() {
        steps += 1;
        trace.set_now(steps);
        if steps % 700 == 600 {
            sim.partition("server", "client");
        }
        if steps % 700 == 650 {
            sim.repair("server", "client");
        }
    }
    (trace.hash().0, steps, echoed.load(Ordering::Relaxed))
}

#[test]
fn bytes_pass_the_simulated_network_and_every_byte_is_the_same_the_second_time() {
    let first = echo(5);
    assert!(50 < first.2, "{first:?}");
    assert_eq!(first, echo(5));
    assert_ne!(first.0, echo(6).0);
}
