//! What applying costs: puts of random keys, some to an entry, over the engine on disk.
//!
//! `cargo run --release -p skein-storage --example apply -- [puts] [keys] [puts per entry] [write buffer, MiB]`
//!
//! Prints processor time of the thread that applies and of the whole process per put, which the load of the machine
//! hardly touches; flushes and compactions are in the latter. Uses the server's allocator.

use bytes::Bytes;
use skein_model::{ContentType, TableId, TxClock, TxId, Value};
use skein_storage::engine::{Engine, EngineOptions, LsmEngine};
use skein_storage::rows::{Changes, Commit, Rows, Write};
use std::sync::Arc;
use std::time::Instant;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let given: Vec<u64> = std::env::args().skip(1).map(|arg| arg.parse()).collect::<Result<_, _>>()?;
    let argument = |n: usize, default: u64| given.get(n).copied().unwrap_or(default).max(1);
    let (puts, keys, per_entry) = (argument(0, 1_000_000), argument(1, 100_000), argument(2, 24));
    let options = EngineOptions { write_buffer_bytes: argument(3, 64) << 20, ..EngineOptions::default() };
    let dir = tempfile::tempdir_in(".")?;
    let engine = Arc::new(LsmEngine::open(dir.path(), options)?);
    let rows = Rows::open(engine.clone())?;

    let mut luck = 7_u64;
    let mut draw = move || {
        luck = luck.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        luck >> 16
    };
    let (mut position, mut time) = (0, 1 << 40);
    let mut apply = |keys: &mut dyn Iterator<Item = u64>| -> Result<(), Box<dyn std::error::Error>> {
        position += 1;
        let entry: Vec<(String, Value, TxId, TxClock)> = keys
            .map(|key| {
                time += 17;
                let value = Value { content_type: ContentType::Json, bytes: Bytes::from(vec![b'7'; 100]) };
                let id = (u128::from(time) << 64 | u128::from(draw())).to_be_bytes();
                (format!("k{key:011}"), value, TxId::from_be_bytes(&id), TxClock(time))
            })
            .collect();
        let commits = entry.iter().map(|(key, value, id, time)| Commit {
            id,
            time: *time,
            fingerprint: time.0,
            writes: vec![Write { table: TableId(0xBE7C), key: key.as_bytes(), value: Some(value) }],
        });
        let mut changes =
            Changes::at(position, Bytes::from_static(b"0123456789012345678901234567890123456789"));
        changes.commits = commits.collect();
        changes.ceiling = Some(TxClock(time));
        Ok(rows.apply(changes)?)
    };
    let mut next = 0;
    while next < keys {
        let end = keys.min(next + 500);
        apply(&mut (next..end))?;
        next = end;
    }
    let mut luck = 99_u64;
    let (thread, process, wall) = (thread_cpu()?, process_cpu()?, Instant::now());
    let mut done = 0;
    while done < puts {
        apply(&mut (0..per_entry).map(|_| {
            luck = luck.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (luck >> 33) % keys
        }))?;
        done += per_entry;
    }
    let per_put = |ns: u64| ns as f64 / 1000.0 / done as f64;
    println!(
        "{done} puts: {:.2} us of the applying thread, {:.2} us of the process, {:.2} us by the clock; {:?}",
        per_put(thread_cpu()? - thread),
        per_put(process_cpu()? - process),
        per_put(wall.elapsed().as_nanos() as u64),
        engine.stats(),
    );
    Ok(())
}

/// Nanoseconds that this thread ran.
fn thread_cpu() -> Result<u64, Box<dyn std::error::Error>> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    Ok(text.split(' ').next().unwrap_or_default().parse()?)
}

/// Nanoseconds that all threads of this process ran.
fn process_cpu() -> Result<u64, Box<dyn std::error::Error>> {
    let mut sum = 0;
    for task in std::fs::read_dir("/proc/self/task")? {
        let text = std::fs::read_to_string(task?.path().join("schedstat"))?;
        sum += text.split(' ').next().unwrap_or_default().parse::<u64>()?;
    }
    Ok(sum)
}
