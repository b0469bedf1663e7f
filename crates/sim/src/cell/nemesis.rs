//! Faults, as the seed wants them, and their end.
//!
//! The nemesis stands outside: between two ticks it changes the network, the disks, the clocks, and which machines run.

use super::luck::Luck;
use super::machine::Machine;
use super::plan::{Fault, Plan};
use super::shared::{Order, Shared, hosts_of};
use super::system::System;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

/// What ends a fault.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Cure {
    /// The machine starts again.
    Start(usize),
    /// Messages pass from one machine to the other again.
    Link(usize, usize),
    /// Messages held back between two machines come now.
    Release(usize, usize),
    /// The link takes as long, and loses as little, as others.
    Normal(usize, usize),
    /// The disk syncs as fast as ever.
    FastDisk(usize),
    /// The drive has room.
    Space(usize),
    /// The peer may lead.
    Undrain(usize),
    /// The atlas is put again, with other hosts or with those from before.
    Aim(Vec<BTreeSet<usize>>),
    /// The host whose disk was lost is forgotten, and starts.
    Forget(usize),
}

/// Chooses faults and carries them out.
pub struct Nemesis<S> {
    shared: Rc<Shared>,
    system: Rc<S>,
    luck: Luck,
    next_millis: u64,
    cures: BTreeMap<(u64, u64), Cure>,
    count: u64,
    down: BTreeSet<usize>,
    /// The hosts of each cohort that were last asked for.
    aim: Vec<BTreeSet<usize>>,
    /// The machine that lost its disk, if one did.
    wiped: Option<usize>,
    /// Kinds that have not been chosen yet: each should happen once at least.
    fresh: Vec<Fault>,
}

impl<S: System> Nemesis<S> {
    /// A nemesis that has done nothing yet.
    pub fn new(shared: Rc<Shared>, system: Rc<S>) -> Nemesis<S> {
        let mut luck = shared.luck.fork("nemesis", 0);
        let aim = shared.plan.atlas.clone();
        let fresh = luck.sample(&shared.plan.faults, shared.plan.faults.len());
        Nemesis {
            shared,
            system,
            luck,
            next_millis: 0,
            cures: BTreeMap::new(),
            count: 0,
            down: BTreeSet::new(),
            aim,
            wiped: None,
            fresh,
        }
    }

    /// Ends what is due, and does harm if that is due.
    pub fn act(&mut self, sim: &mut turmoil::Sim<'_>) {
        let now = self.shared.millis();
        while let Some((&(due, number), _)) = self.cures.first_key_value()
            && due <= now
        {
            if let Some(cure) = self.cures.remove(&(due, number)) {
                self.cure(sim, cure);
            }
        }
        let ended: Vec<usize> = std::mem::take(&mut *self.shared.ended.borrow_mut()).into_iter().collect();
        for index in ended {
            if !self.down.contains(&index) {
                self.shared.count("processes that ended by themselves");
                self.stop(sim, index, false);
                self.later(1000, Cure::Start(index));
            }
        }
        if self.next_millis == 0 {
            self.next_millis = now + self.luck.between(200, 1500);
        }
        if self.next_millis <= now {
            self.next_millis = now + self.luck.between(1, 2 * self.shared.plan.pause_millis);
            let fresh = if self.luck.one_in(2) { self.fresh.pop() } else { None };
            if let Some(fault) = fresh.or_else(|| self.luck.pick(&self.shared.plan.faults).copied()) {
                match self.harm(sim, fault) {
                    true => self.shared.count(fault.name()),
                    // It could not be done now; perhaps later.
                    false if fresh.is_some() => self.fresh.insert(0, fault),
                    false => {}
                }
            }
        }
    }

    /// Ends everything, and starts everybody.
    pub fn heal(&mut self, sim: &mut turmoil::Sim<'_>) {
        self.say("all heals");
        let cures: Vec<Cure> = std::mem::take(&mut self.cures).into_values().collect();
        for orders in self.shared.orders.borrow_mut().iter_mut() {
            orders.clear();
        }
        for cure in cures.iter().filter(|cure| !matches!(cure, Cure::Aim(_))) {
            self.cure(sim, cure.clone());
        }
        for index in 0..self.shared.plan.peers {
            self.order(index, Order::Drain(false));
        }
        // Whoever was asked to forget a host may have died over it.
        if let Some(index) = self.wiped {
            let host = self.shared.machines.borrow()[index].host;
            if !self.shared.forgotten.borrow().contains(&host) {
                self.order((index + 1) % self.shared.plan.peers, Order::Forget(host));
            }
        }
    }

    /// After healing: starts whoever ended by itself again.
    pub fn nurse(&mut self, sim: &mut turmoil::Sim<'_>) {
        let now = self.shared.millis();
        self.next_millis = now + 1_000_000;
        self.act(sim);
    }

    fn say(&self, what: &str) {
        self.shared.trace.say(|| format!("nemesis: {what}"));
    }

    fn later(&mut self, millis: u64, cure: Cure) {
        self.count += 1;
        let due = self.shared.millis() + millis;
        self.cures.insert((due, self.count), cure);
    }

    fn order(&self, index: usize, order: Order) {
        self.shared.orders.borrow_mut()[index].push_back(order);
    }

    fn peers(&self) -> usize {
        self.shared.plan.peers
    }

    /// A machine that runs.
    fn running(&mut self) -> Option<usize> {
        let up: Vec<usize> = (0..self.peers()).filter(|index| !self.down.contains(index)).collect();
        self.luck.pick(&up).copied()
    }

    /// Two machines.
    fn pair(&mut self) -> Option<(usize, usize)> {
        let all: Vec<usize> = (0..self.peers()).collect();
        match self.luck.sample(&all, 2)[..] {
            [a, b] => Some((a, b)),
            _ => None,
        }
    }

    /// How long a fault lasts, ms: mostly short, now and then longer than anybody's patience.
    fn lasting(&mut self) -> u64 {
        if self.luck.one_in(4) { self.luck.between(4000, 12_000) } else { self.luck.between(100, 4000) }
    }

    /// Does harm; false if there was no occasion.
    fn harm(&mut self, sim: &mut turmoil::Sim<'_>, fault: Fault) -> bool {
        let Some(victim) = self.running() else { return false };
        let lasting = self.lasting();
        self.say(&format!("{} (peer-{victim}, {lasting} ms)", fault.name()));
        match fault {
            Fault::PowerLoss | Fault::Kill => {
                // Mostly a majority lives on: otherwise little would happen.
                if self.peers() <= 2 * (self.down.len() + 1) && !self.luck.one_in(4) {
                    return false;
                }
                self.stop(sim, victim, fault == Fault::PowerLoss);
                self.later(lasting, Cure::Start(victim));
            }
            Fault::LeaderLoss => {
                let leaders: Vec<usize> = {
                    let leaders = self.shared.leaders.borrow();
                    leaders.iter().flatten().map(|host| host.0 as usize - 1).collect()
                };
                let Some(victim) = self.luck.pick(&leaders).copied() else { return false };
                if self.down.contains(&victim) {
                    return false;
                }
                self.stop(sim, victim, true);
                self.later(lasting, Cure::Start(victim));
            }
            Fault::Blackout => {
                for index in 0..self.peers() {
                    if !self.down.contains(&index) {
                        self.stop(sim, index, true);
                        let after = self.luck.between(100, 3000);
                        self.later(after, Cure::Start(index));
                    }
                }
            }
            Fault::Partition | Fault::Swizzle => {
                let all: Vec<usize> = (0..self.peers()).collect();
                let size = self.luck.between(1, self.peers() as u64 / 2) as usize;
                let side = self.luck.sample(&all, size);
                let mut after = lasting;
                for a in &side {
                    for b in all.iter().filter(|b| !side.contains(b)) {
                        for (from, to) in [(*a, *b), (*b, *a)] {
                            sim.partition_oneway(Machine::name(from), Machine::name(to));
                            if fault == Fault::Swizzle {
                                after = self.luck.between(lasting / 4, 2 * lasting);
                            }
                            self.later(after, Cure::Link(from, to));
                        }
                    }
                }
            }
            Fault::OneWay => {
                let Some((from, to)) = self.pair() else { return false };
                sim.partition_oneway(Machine::name(from), Machine::name(to));
                self.later(lasting, Cure::Link(from, to));
            }
            Fault::Hold => {
                let Some((a, b)) = self.pair() else { return false };
                sim.hold(Machine::name(a), Machine::name(b));
                self.later(lasting, Cure::Release(a, b));
            }
            Fault::Loss => {
                let Some((a, b)) = self.pair() else { return false };
                let rate = self.luck.between(1, 30) as f64 / 1000.0;
                sim.set_link_fail_rate(Machine::name(a), Machine::name(b), rate);
                self.later(lasting, Cure::Normal(a, b));
            }
            Fault::SlowLink => {
                let Some((a, b)) = self.pair() else { return false };
                let millis = self.luck.between(20, 400);
                sim.set_link_max_message_latency(
                    Machine::name(a),
                    Machine::name(b),
                    Duration::from_millis(millis),
                );
                self.later(lasting, Cure::Normal(a, b));
            }
            Fault::SlowDisk => {
                let micros = self.luck.between(2_000, 500_000);
                self.shared.machines.borrow()[victim].sync.set(micros);
                self.later(lasting, Cure::FastDisk(victim));
            }
            Fault::FailingSync => {
                let soon = self.luck.below(3);
                self.shared.machines.borrow()[victim].drives.log().fail_sync_after(soon);
                // Whoever looks after the server starts it again, on a disk that works.
                let after = self.luck.between(500, 4000);
                self.later(after, Cure::Start(victim));
            }
            Fault::FullDisk => {
                self.shared.machines.borrow()[victim].fill();
                self.later(lasting, Cure::Space(victim));
            }
            Fault::ClockJump => {
                // Further apart than a client may name a time ahead.
                let far = 4_000_000_000;
                let micros = match self.luck.below(3) {
                    0 => self.luck.between(1_000, 100_000),
                    1 => self.luck.between(100_000, 2_000_000),
                    _ => self.luck.between(2_000_000, far),
                } as i64;
                let micros = if self.luck.one_in(2) { micros } else { -micros };
                self.shared.machines.borrow()[victim].clock.jump(micros);
            }
            Fault::ClockDrift => {
                let parts = self.luck.between(0, 100_000) as i64 - 50_000;
                self.shared.machines.borrow()[victim].clock.set_drift(parts);
            }
            Fault::Move => self.aim_elsewhere(victim),
            Fault::Drain => {
                self.order(victim, Order::Drain(true));
                self.later(lasting, Cure::Undrain(victim));
            }
            Fault::Wipe => return self.wipe(sim, victim),
        }
        true
    }

    /// Puts an atlas with other hosts for some cohorts; perhaps another one, or the old one, soon after.
    fn aim_elsewhere(&mut self, asked: usize) {
        let before = self.aim.clone();
        // Few machines leave little choice, and the same hosts again would be no move.
        for _ in 0..20 {
            for hosts in &mut self.aim {
                if !self.luck.one_in(3) {
                    *hosts = Plan::hosts(&mut self.luck, self.shared.plan.peers);
                }
            }
            if self.aim != before {
                break;
            }
        }
        let soon = self.luck.between(50, 3000);
        match self.luck.below(4) {
            0 => self.later(soon, Cure::Aim(before)),
            1 => {
                let other =
                    before.iter().map(|_| Plan::hosts(&mut self.luck, self.shared.plan.peers)).collect();
                self.later(soon, Cure::Aim(other));
            }
            _ => {}
        }
        self.put(asked);
    }

    fn put(&mut self, asked: usize) {
        let goal: Vec<_> = self.aim.iter().map(hosts_of).collect();
        self.say(&format!("atlas {:?} put at peer-{asked}", self.aim));
        *self.shared.goal.borrow_mut() = goal.clone();
        self.order(asked, Order::Atlas(goal));
    }

    /// Takes a machine's disk away; only where its copy is surely not the last one, and once in a run, because
    /// what is lost has to be made up for before more is.
    fn wipe(&mut self, sim: &mut turmoil::Sim<'_>, victim: usize) -> bool {
        let atlas = self.shared.atlas.borrow().clone();
        let host = self.shared.machines.borrow()[victim].host;
        let copies = atlas.cohorts.iter().all(|c| !c.origin().contains(&host) || 3 <= c.origin().len());
        if self.wiped.is_some() || atlas.is_empty() || !atlas.is_settled() || !copies || !self.down.is_empty()
        {
            return false;
        }
        self.wiped = Some(victim);
        self.stop(sim, victim, true);
        self.shared.machines.borrow_mut()[victim].be_wiped();
        let after = self.luck.between(500, 3000);
        self.later(after, Cure::Forget(victim));
        true
    }

    fn stop(&mut self, sim: &mut turmoil::Sim<'_>, index: usize, power: bool) {
        self.say(&format!("peer-{index} stops, power lost: {power}"));
        self.shared.atlases.borrow_mut()[index] = None;
        self.shared.digests.borrow_mut()[index] = None;
        self.shared.orders.borrow_mut()[index].clear();
        // First what is on the disk, then what a dying process may still do to it.
        let seed = self.luck.draw();
        let mut machines = self.shared.machines.borrow_mut();
        match power {
            true => machines[index].lose_power(seed),
            false => machines[index].be_killed(),
        }
        machines[index].fast();
        self.system.crashed(&machines[index]);
        drop(machines);
        sim.crash(Machine::name(index));
        self.down.insert(index);
    }

    fn cure(&mut self, sim: &mut turmoil::Sim<'_>, cure: Cure) {
        self.say(&format!("cure: {cure:?}"));
        match cure {
            Cure::Start(index) => {
                if !self.down.remove(&index) {
                    // It runs, on a disk that failed: it is started again.
                    self.stop(sim, index, true);
                    self.down.remove(&index);
                }
                self.shared.count("starts");
                self.shared.machines.borrow_mut()[index].lives += 1;
                sim.bounce(Machine::name(index));
            }
            Cure::Link(from, to) => sim.repair_oneway(Machine::name(from), Machine::name(to)),
            Cure::Release(a, b) => sim.release(Machine::name(a), Machine::name(b)),
            Cure::Normal(a, b) => {
                let latency = Duration::from_millis(self.shared.plan.latency_millis);
                sim.set_link_max_message_latency(Machine::name(a), Machine::name(b), latency);
                sim.set_link_fail_rate(Machine::name(a), Machine::name(b), 0.0);
                sim.repair(Machine::name(a), Machine::name(b));
            }
            Cure::FastDisk(index) => self.shared.machines.borrow()[index].fast(),
            Cure::Space(index) => self.shared.machines.borrow()[index].free(),
            Cure::Undrain(index) => self.order(index, Order::Drain(false)),
            Cure::Aim(aim) => {
                self.aim = aim;
                let Some(asked) = self.running() else { return };
                self.put(asked);
            }
            Cure::Forget(index) => {
                let host = self.shared.machines.borrow()[index].host;
                match self.running() {
                    Some(asked) => self.order(asked, Order::Forget(host)),
                    None => return self.later(500, Cure::Forget(index)),
                }
                self.cure(sim, Cure::Start(index));
            }
        }
    }
}
