//! A run: a seed's plan, carried out and judged.

use super::finale;
use super::nemesis::Nemesis;
use super::net::SimNetwork;
use super::plan::{Fault, Plan};
use super::shared::{Order, Phase, Shared};
use super::system::{Peer, Place, System, Trouble};
use super::tally::Tally;
use super::trace::Trace;
use super::workload::{Client, check_keys};
use crate::check;
use skein_model::HostId;
use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Where peers take connections of peers.
const PEER_PORT: u16 = 6278;

/// A run that showed what it was to show.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// What happened.
    pub tally: Tally,
    /// Two runs of one seed have the same.
    pub trace: u64,
    /// Simulated time, ms.
    pub simulated_millis: u64,
}

/// A run that did not.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{why}")]
pub struct Failure {
    /// What promise was broken, or what did not happen.
    pub why: String,
    /// What did happen, and when it ended.
    pub outcome: Outcome,
}

/// Carries out a plan.
pub fn run<S: System>(system: S, plan: Plan, trace: Trace) -> Result<Outcome, Box<Failure>> {
    let shared = Shared::new(plan, trace);
    super::panics::watch();
    let judged = carry_out(&Rc::new(system), &shared).and_then(|()| judge(&shared));
    super::panics::stop();
    let outcome = Outcome {
        tally: shared.tally.borrow().clone(),
        trace: shared.trace.hash().0,
        simulated_millis: shared.millis(),
    };
    match judged {
        Ok(()) => Ok(outcome),
        Err(why) => Err(Box::new(Failure { why, outcome })),
    }
}

fn carry_out<S: System>(system: &Rc<S>, shared: &Rc<Shared>) -> Result<(), String> {
    let plan = &shared.plan;
    let mut sim = turmoil::Builder::new()
        .tick_duration(Duration::from_millis(plan.tick_millis))
        .simulation_duration(Duration::from_secs(100_000))
        .min_message_latency(Duration::from_millis(0))
        .max_message_latency(Duration::from_millis(plan.latency_millis))
        .tcp_capacity(4096)
        .rng_seed(shared.luck.fork("network", 0).draw())
        .epoch(std::time::UNIX_EPOCH + Duration::from_micros(super::machine::EPOCH_MICROS))
        .build();
    let addrs: Rc<RefCell<Vec<(HostId, SocketAddr)>>> = Rc::default();
    for (index, name) in plan.names().into_iter().enumerate() {
        let (system, shared, addrs) = (system.clone(), shared.clone(), addrs.clone());
        let ip: IpAddr = [10, 0, 0, index as u8 + 1].into();
        addrs.borrow_mut().push((HostId(index as u64 + 1), SocketAddr::new(ip, PEER_PORT)));
        // Turmoil names a host by a name, or by its address; both are known to it afterwards.
        sim.host(name, move || Box::pin(peer(system.clone(), shared.clone(), addrs.clone(), index)));
    }
    for (index, name) in plan.names().into_iter().enumerate() {
        addrs.borrow_mut()[index].1 = SocketAddr::new(sim.lookup(name), PEER_PORT);
    }
    let mut nemesis = Nemesis::new(shared.clone(), system.clone());
    // Until everybody goes by the first atlas, nothing goes wrong.
    shared.orders.borrow_mut()[0].push_back(Order::Atlas(shared.goal()));
    let began =
        |shared: &Shared| shared.atlases.borrow().iter().all(|a| a.as_ref().is_some_and(|a| !a.is_empty()));
    until(&mut sim, shared, 60_000, |shared| began(shared), |_| ())
        .map_err(|why| format!("{why}: not all peers have the first atlas: {:?}", shared.atlases.borrow()))?;
    shared.trace.say(|| "chaos begins".into());
    shared.phase.set(Phase::Chaos);
    let end = shared.millis() + plan.chaos_millis;
    until(&mut sim, shared, u64::MAX, |shared| end <= shared.millis(), |sim| nemesis.act(sim))?;
    shared.phase.set(Phase::Healing);
    nemesis.heal(&mut sim);
    let first = shared.luck.fork("finale", 0).below(plan.peers as u64) as usize;
    shared.orders.borrow_mut()[first].push_back(Order::Finale);
    let healed = |shared: &Shared| shared.ending.borrow().complete;
    until(&mut sim, shared, plan.heal_millis, healed, |sim| nemesis.nurse(sim)).map_err(|why| {
        let ending = shared.ending.borrow();
        let waiting = match ending.waiting_for.is_empty() {
            true => format!("peer-{first}, which was to look, does not run or has not begun"),
            false => format!("still waiting for {}", ending.waiting_for),
        };
        format!("{why}: the cell did not heal: {waiting}")
    })
}

/// Lets time pass until something is so.
fn until<'a>(
    sim: &mut turmoil::Sim<'a>,
    shared: &Shared,
    millis_max: u64,
    is_so: impl Fn(&Shared) -> bool,
    mut between: impl FnMut(&mut turmoil::Sim<'a>),
) -> Result<(), String> {
    let begun = shared.millis();
    loop {
        sim.step().map_err(|error| format!("a peer's process failed: {error}"))?;
        shared.now.fetch_add(shared.plan.tick_millis * 1000, Ordering::Relaxed);
        shared.trace.set_now(shared.millis());
        if let Some(why) = shared.broken.borrow().clone() {
            return Err(why);
        }
        if let Some(why) = super::panics::take() {
            return Err(format!("panicked: {why}"));
        }
        if is_so(shared) {
            return Ok(());
        }
        if millis_max < shared.millis() - begun {
            return Err(format!("after {millis_max} ms"));
        }
        between(sim);
    }
}

/// The process of a peer.
async fn peer<S: System>(
    system: Rc<S>,
    shared: Rc<Shared>,
    addrs: Rc<RefCell<Vec<(HostId, SocketAddr)>>>,
    index: usize,
) -> turmoil::Result {
    let machine = shared.machines.borrow()[index].clone();
    let lives = machine.lives;
    let peers = addrs.borrow().clone();
    let place = Place {
        addr: peers[index].1,
        network: SimNetwork { peer: index as u64, trace: shared.trace.clone() },
        seed: shared.luck.fork("process", index as u64 | lives << 8).draw(),
        peers,
        machine,
    };
    let peer = loop {
        match Box::pin(system.open(place.clone())).await {
            Ok(peer) => break peer,
            // A full disk, or an ID that is still taken: whoever looks after the server tries again.
            Err(why) => {
                shared.count("starts that failed");
                shared.trace.say(|| format!("peer-{index} does not start: {why}"));
                sleep(Duration::from_millis(500)).await;
            }
        }
    };
    shared.trace.say(|| format!("peer-{index} is up"));
    for n in 0..shared.plan.clients as u64 {
        let number = (lives << 16) | ((index as u64) << 8) | n;
        tokio::task::spawn_local(Box::pin(Client::new(shared.clone(), peer.clone(), number).live()));
    }
    tokio::task::spawn_local(watch(shared.clone(), peer.clone(), index));
    Box::pin(administrate(shared, peer, index)).await
}

/// Looks every now and then what the peer knows and how it is.
async fn watch<P: Peer>(shared: Rc<Shared>, peer: Rc<P>, index: usize) {
    let mut rounds = 0u64;
    loop {
        if let Some(why) = peer.failure() {
            shared.trace.say(|| format!("peer-{index} ends: {why}"));
            shared.ended.borrow_mut().insert(index);
            std::future::pending::<()>().await;
        }
        let atlas = peer.atlas();
        if shared.atlas.borrow().version < atlas.version {
            shared.trace.say(|| format!("peer-{index} has atlas {atlas:?}"));
            shared.count("atlas versions");
            *shared.atlas.borrow_mut() = atlas.clone();
        }
        shared.atlases.borrow_mut()[index] = Some(atlas);
        if rounds.is_multiple_of(5) {
            let leaders = peer.leaders().await;
            let mut known = shared.leaders.borrow_mut();
            let changes = known.iter().zip(&leaders).filter(|(old, new)| new.is_some() && old != new).count();
            for (known, leader) in known.iter_mut().zip(leaders) {
                *known = leader.or(*known);
            }
            shared.tally.borrow_mut().add("leaders seen to change", changes as u64);
        }
        if shared.phase.get() == Phase::Over {
            match peer.digests().await {
                Ok(digests) => shared.digests.borrow_mut()[index] = Some(digests),
                Err(trouble) => {
                    shared.trace.say(|| format!("peer-{index} cannot tell what it holds: {trouble:?}"))
                }
            }
        }
        rounds += 1;
        sleep(Duration::from_millis(50)).await;
    }
}

/// Does what an administrator asks of the peer.
async fn administrate<P: Peer>(shared: Rc<Shared>, peer: Rc<P>, index: usize) -> turmoil::Result {
    loop {
        let next = shared.orders.borrow_mut()[index].pop_front();
        let Some(order) = next else {
            sleep(Duration::from_millis(20)).await;
            continue;
        };
        shared.trace.say(|| format!("peer-{index} is asked: {order:?}"));
        if order == Order::Finale {
            Box::pin(finale::tell(shared.clone(), peer.clone())).await;
            continue;
        }
        let give_up = Instant::now() + Duration::from_secs(30);
        loop {
            let done = match &order {
                Order::Atlas(cohorts) => peer.put_atlas(cohorts).await,
                Order::Drain(on) => peer.drain(*on).await,
                Order::Forget(host) => peer.forget(*host).await,
                Order::Finale => Ok(()),
            };
            let why = match done {
                Ok(()) => {
                    if let Order::Forget(host) = &order {
                        shared.forgotten.borrow_mut().insert(*host);
                    }
                    break shared.count("orders carried out");
                }
                Err(Trouble::Broken(why)) => break shared.break_with(why),
                Err(Trouble::Nothing(why) | Trouble::Unknown(why)) => why,
            };
            shared.trace.say(|| format!("peer-{index} cannot do {order:?}: {why}"));
            // An administrator would be told of a newer wish, too.
            let newer = matches!(&order, Order::Atlas(cohorts) if *cohorts != shared.goal());
            if give_up < Instant::now() && order != Order::Finale || newer {
                shared.count("orders given up");
                break;
            }
            sleep(Duration::from_millis(300)).await;
        }
    }
}

/// Holds what clients saw against what is there in the end, and asks whether enough happened.
fn judge(shared: &Shared) -> Result<(), String> {
    let history = shared.history.borrow();
    let ending = shared.ending.borrow();
    check::check(&history, &ending.truth).map_err(|violation| violation.to_string())?;
    check_keys(&shared.keys.borrow())?;
    let mut tally = shared.tally.borrow_mut();
    tally.add("versions at the end", ending.truth.versions().count() as u64);
    tally.require([
        ("commits", 20),
        ("reads", 20),
        ("conditional puts", 3),
        ("creations", 3),
        ("deletions", 3),
        ("scans", 1),
        ("reads back in time", 1),
    ])?;
    let kinds = shared.plan.faults.iter().filter(|fault| 0 < tally.get(fault.name())).count();
    if kinds * 2 < shared.plan.faults.len() {
        return Err(format!("too little happened: {kinds} kinds of faults of {:?}", shared.plan.faults));
    }
    // One alone may have been put at a peer that died with it.
    if 3 <= tally.get(Fault::Move.name()) {
        tally.require([("atlas versions", 2)])?;
    }
    Ok(())
}
