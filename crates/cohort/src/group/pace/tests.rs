use super::*;

const CHUNK: usize = 1 << 20;

/// Copies as fast as is allowed for `span` while entries take what `entry` says of the rate; gives the bytes copied.
async fn copy(pace: &Pace, span: Duration, mut entry: impl FnMut(f64) -> Option<Duration>) -> usize {
    let end = Instant::now() + span;
    let mut sent = 0;
    let mut since = (Instant::now(), 0);
    while Instant::now() < end {
        pace.take(CHUNK).await;
        sent += CHUNK;
        // A receiver that takes a gigabyte in a second.
        tokio::time::sleep(Duration::from_micros(1000)).await;
        let elapsed = since.0.elapsed();
        if Duration::from_millis(50) <= elapsed {
            let rate = (sent - since.1) as f64 / elapsed.as_secs_f64();
            since = (Instant::now(), sent);
            if let Some(took) = entry(rate) {
                (0..20).for_each(|_| pace.wrote(took));
            }
        }
    }
    sent
}

async fn write_alone(pace: &Pace, took: Duration) {
    for _ in 0..300 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        pace.wrote(took);
    }
}

const USUAL: Duration = Duration::from_millis(2);

#[tokio::test(start_paused = true)]
async fn while_nobody_writes_nothing_waits() {
    let pace = Pace::new(CopyRate::Adaptive);
    write_alone(&pace, USUAL).await;
    let sent = copy(&pace, Duration::from_secs(5), |_| None).await;
    assert!(400 * CHUNK < sent / 5, "{} MiB a second", sent / 5 / CHUNK);
}

#[tokio::test(start_paused = true)]
async fn writers_that_do_not_suffer_do_not_hold_a_copy_back_for_long() {
    let pace = Pace::new(CopyRate::Adaptive);
    write_alone(&pace, USUAL).await;
    copy(&pace, Duration::from_secs(3), |_| Some(USUAL)).await;
    let sent = copy(&pace, Duration::from_secs(5), |_| Some(USUAL)).await;
    assert!(300 * CHUNK < sent / 5, "{} MiB a second", sent / 5 / CHUNK);
}

#[tokio::test(start_paused = true)]
async fn writers_that_suffer_slow_a_copy_down_to_what_they_bear() {
    let pace = Pace::new(CopyRate::Adaptive);
    write_alone(&pace, USUAL).await;
    // Above 20 MB/s entries take three times as long.
    let suffers = |rate: f64| Some(if 20e6 < rate { 3 * USUAL } else { USUAL });
    copy(&pace, Duration::from_secs(3), suffers).await;
    let sent = copy(&pace, Duration::from_secs(20), suffers).await;
    let rate = sent as f64 / 20.0;
    assert!((8e6..32e6).contains(&rate), "{rate} bytes a second");
}

#[tokio::test(start_paused = true)]
async fn a_copy_ends_some_day_however_much_writers_suffer() {
    let pace = Pace::new(CopyRate::Adaptive);
    write_alone(&pace, USUAL).await;
    let sent = copy(&pace, Duration::from_secs(20), |_| Some(50 * USUAL)).await;
    assert!(RATE_MIN * 0.9 < sent as f64 / 20.0, "{} bytes a second", sent / 20);
}

#[tokio::test(start_paused = true)]
async fn a_fixed_rate_is_kept_to() {
    let pace = Pace::new(CopyRate::Bytes(10_000_000));
    let sent = copy(&pace, Duration::from_secs(10), |_| None).await;
    assert!((9e6..12e6).contains(&(sent as f64 / 10.0)), "{} bytes a second", sent / 10);
}

#[tokio::test(start_paused = true)]
async fn without_a_limit_nobody_waits_for_writers() {
    let pace = Pace::new(CopyRate::Unlimited);
    write_alone(&pace, USUAL).await;
    let sent = copy(&pace, Duration::from_secs(5), |_| Some(50 * USUAL)).await;
    assert!(400 * CHUNK < sent / 5, "{} MiB a second", sent / 5 / CHUNK);
}
