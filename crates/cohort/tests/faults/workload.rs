//! Clients that put, create, delete, batch, read and ask, all drawn from one seed.

use crate::journal::Journal;
use crate::machine::{HOUR, Machine, Random, SECOND, id, json, op, soon, tx};
use skein_cohort::{Cohort, CohortError, Outcome};
use skein_model::{Transaction, TxClock, WriteOp};

const KEYS: [&str; 5] = ["a", "b", "c", "d", "e"];

/// What the clients may do beside reading and writing.
#[derive(Clone, Copy)]
pub struct Plan {
    pub clients: u64,
    pub steps: u64,
    pub checkpoints: bool,
    /// The wall clock stands still, steps, leaps ahead and falls back.
    pub clock_jumps: bool,
}

/// Runs all clients of a plan to their end or first trouble; an answer that is neither an outcome nor a version
/// is handed to `trouble`.
pub async fn run(
    machine: &Machine,
    cohort: &Cohort,
    journal: &Journal,
    seed: u64,
    plan: Plan,
    trouble: impl Fn(CohortError) + Copy,
) {
    let clients = (0..plan.clients).map(|client| async move {
        let mut random = Random(seed.wrapping_mul(0x1000).wrapping_add(client));
        let mut latest_seen = TxClock::ZERO;
        for step in 0..plan.steps {
            let number = (seed << 32) + (client << 16) + step;
            if let Err(error) =
                one_step(machine, cohort, journal, &mut random, number, &mut latest_seen, plan).await
            {
                trouble(error);
            }
        }
    });
    futures_util::future::join_all(clients).await;
}

async fn one_step(
    machine: &Machine,
    cohort: &Cohort,
    journal: &Journal,
    random: &mut Random,
    number: u64,
    latest_seen: &mut TxClock,
    plan: Plan,
) -> Result<(), CohortError> {
    if plan.clock_jumps && random.one_in(12) {
        // Ahead of every time so far, or far back.
        let now = cohort.now().0;
        machine.set_wall(if random.one_in(2) { now + random.below(10 * SECOND) } else { now - HOUR });
    } else {
        machine.advance(random.below(3));
    }
    match random.below(20) {
        0..=10 => {
            let tx = draw(random, number, *latest_seen);
            if let Outcome::Committed(time) = journal.write(cohort, tx, soon()).await? {
                assert!(
                    *latest_seen < time,
                    "{number:x} was written at {time}, after {latest_seen} was seen"
                );
                *latest_seen = time;
            }
        }
        11..=14 => {
            let key = KEYS[random.below(5) as usize];
            let read = journal.read(cohort, key, None, soon()).await?;
            let at = read.read_time;
            assert!(*latest_seen <= at, "{number:x} read at {at}, after {latest_seen} was seen");
            *latest_seen = at;
        }
        15 => {
            let key = KEYS[random.below(5) as usize];
            // A little before or after what was seen.
            let at = TxClock(latest_seen.0.saturating_sub(2) + random.below(5));
            match journal.read(cohort, key, Some(at), soon()).await {
                Ok(_) => *latest_seen = at.max(*latest_seen),
                Err(CohortError::FutureTime(_)) => {}
                Err(error) => return Err(error),
            }
        }
        // The status of one of the last transactions of this client, of this one, or of one to come.
        16 | 17 => {
            let other = number.wrapping_add(random.below(6)).wrapping_sub(4);
            journal.status(cohort, id(other), soon()).await?;
        }
        18 if plan.checkpoints => cohort.checkpoint().await?,
        _ => tokio::task::yield_now().await,
    }
    Ok(())
}

/// A transaction over one to four rows; its values name it.
fn draw(random: &mut Random, number: u64, latest_seen: TxClock) -> Transaction {
    let mut keys = KEYS.to_vec();
    let count = if random.one_in(2) { 1 } else { 1 + random.below(4) };
    let long = random.one_in(8);
    let ops = (0..count).map(|place| {
        let key = keys.swap_remove(random.below(keys.len() as u64) as usize);
        let padding = if long { "x".repeat(700) } else { String::new() };
        let value = json(&format!("{number:x}.{place}{padding}"));
        let kind = match random.below(10) {
            0 | 1 if place > 0 => WriteOp::Delete,
            2 => WriteOp::Create(value),
            3 if place > 0 => WriteOp::Hold,
            _ => WriteOp::Update(value),
        };
        op(key, kind)
    });
    let mut tx = tx(number, ops.collect());
    if random.one_in(3) {
        tx.condition = Some(latest_seen);
    }
    if random.one_in(9) && tx.ops.len() == 1 {
        tx.ops[0].op = WriteOp::Delete;
    }
    tx
}
