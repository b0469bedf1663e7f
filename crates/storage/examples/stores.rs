//! What do many stores cost in one process, and how fast is one copied? Takes a directory to make and delete; prints what it
//! measured. With 0 stores, or 0 rows, that half is left out. `cargo run --release -p skein-storage --example stores -- DIR [STORES] [ROWS]`

use bytes::Bytes;
use skein_model::{ContentType, GroupId, TableId, TxClock, TxId, Value};
use skein_storage::drives::{Drives, RealDrives};
use skein_storage::engine::EngineOptions;
use skein_storage::rows::{Changes, Commit, ExportPosition, Import, Rows, Write};
use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let dir = args.next().ok_or("give a directory to make; it is deleted afterwards")?;
    let stores = args.next().map_or(Ok(256), |text| text.parse())?;
    let rows = args.next().map_or(Ok(1_000_000), |text| text.parse())?;
    std::fs::create_dir(&dir)?;
    let copied = || if rows == 0 { Ok(()) } else { copy(Path::new(&dir), rows) };
    let done = if stores == 0 { copied() } else { many(Path::new(&dir), stores).and_then(|()| copied()) };
    std::fs::remove_dir_all(&dir)?;
    done
}

/// Numbers of this process as the system has them.
fn process() -> Result<String, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.map(|rest| rest.split_whitespace().collect::<Vec<_>>().join(" ")).unwrap_or_default()
    };
    let files = std::fs::read_dir("/proc/self/fd")?.count();
    Ok(format!("RSS {}, {} threads, {files} open files", line("VmRSS:"), line("Threads:")))
}

/// Processor time of this process so far, in ticks of 10 ms.
fn ticks() -> Result<u64, Box<dyn Error>> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    Ok(fields.get(11).ok_or("utime")?.parse::<u64>()? + fields.get(12).ok_or("stime")?.parse::<u64>()?)
}

fn put(rows: &Rows, from: u64, count: u64, position: u64) -> Result<(), Box<dyn Error>> {
    // As far apart as random ones, and none twice: the factor is odd.
    let spread = |n: u64| n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let keys: Vec<[u8; 8]> = (from..from + count).map(|n| spread(n).to_be_bytes()).collect();
    let value =
        |n: u64| -> Vec<u8> { (0..100u64).map(|at| b'a' + (spread(n + at * 77) >> 59) as u8).collect() };
    let values: Vec<Value> = (from..from + count)
        .map(|n| Value { content_type: ContentType::Json, bytes: Bytes::from(value(n)) })
        .collect();
    let writes =
        keys.iter().zip(&values).map(|(key, value)| Write { table: TableId(1), key, value: Some(value) });
    let id = TxId::from_be_bytes(&position.to_be_bytes());
    let mut changes = Changes::at(position, Bytes::from(position.to_string()));
    let commit = Commit { id: &id, time: TxClock(position), fingerprint: 0, writes: writes.collect() };
    changes.commits.push(commit);
    Ok(rows.apply(changes)?)
}

fn many(dir: &Path, stores: u64) -> Result<(), Box<dyn Error>> {
    println!("before: {}", process()?);
    for what in ["make", "open again"] {
        let began = Instant::now();
        let drives = RealDrives::open(dir, EngineOptions::default())?;
        let mut open = Vec::new();
        for group in 1..=stores {
            open.push(Rows::open(drives.open(GroupId(group))?)?);
        }
        println!("{what} {stores} stores: {:.2?}; {}", began.elapsed(), process()?);
        if what == "make" {
            let began = Instant::now();
            for rows in &open {
                put(rows, 0, 100, 1)?;
                rows.checkpoint()?;
            }
            println!("100 rows and a checkpoint in each: {:.2?}; {}", began.elapsed(), process()?);
        }
        std::thread::sleep(Duration::from_secs(1));
        let (before, began) = (ticks()?, Instant::now());
        std::thread::sleep(Duration::from_secs(5));
        println!("idle for {:.1?}: {} ms of processor time", began.elapsed(), 10 * (ticks()? - before));
        if what != "make" {
            let (began, each) = (Instant::now(), 200);
            for round in 0..each {
                for rows in &open {
                    put(rows, 100 + 10 * round, 10, 2 + round)?;
                }
            }
            let rows = stores * each * 10;
            let stats = drives.stats();
            println!(
                "{rows} rows in rounds over all: {:.2?}; {} checkpoints, {} KiB unflushed of {}; {}",
                began.elapsed(),
                stats.checkpoints,
                stats.memtable_bytes >> 10,
                stats.write_buffer_bytes >> 10,
                process()?
            );
        }
    }
    Ok(())
}

fn copy(dir: &Path, count: u64) -> Result<(), Box<dyn Error>> {
    let drives = RealDrives::open(dir, EngineOptions::default())?;
    let group = GroupId(1_000_000);
    let rows = Rows::open(drives.open(group)?)?;
    for (position, from) in (0..count).step_by(1000).enumerate() {
        put(&rows, from, 1000, position as u64 + 1)?;
    }
    rows.checkpoint()?;
    let export = rows.export()?;
    let began = Instant::now();
    let (mut next, mut read) = (Some(ExportPosition::default()), 0);
    while let Some(at) = next {
        let chunk = export.chunk(&at, 1 << 20)?;
        read += chunk.bytes.len();
        next = chunk.next;
    }
    let rate = |bytes: usize, took: Duration| bytes as f64 / 1e6 / took.as_secs_f64();
    println!("read {} MB of {count} rows: {:.0} MB/s", read / 1_000_000, rate(read, began.elapsed()));
    let began = Instant::now();
    let staged = drives.stage(group)?;
    let mut import = Import::begin(staged.clone())?;
    let mut next = Some(ExportPosition::default());
    while let Some(at) = next {
        let chunk = export.chunk(&at, 1 << 20)?;
        import.chunk(&chunk.bytes)?;
        next = chunk.next;
    }
    let imported = import.finish(count, None)?;
    drives.promote(group)?;
    let took = began.elapsed();
    println!(
        "copied it, durably: {took:.2?}, {:.0} MB/s; {}",
        rate(imported.bytes as usize, took),
        process()?
    );
    let began = Instant::now();
    let digest = export.digest()?;
    println!("digest {digest}: {:.0} MB/s", rate(read, began.elapsed()));
    if Rows::open(staged)?.digest()? != digest {
        return Err("the copy is not like the original".into());
    }
    Ok(())
}
