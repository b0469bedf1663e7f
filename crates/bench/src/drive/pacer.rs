//! Lets arrivals go at their moments, to within about a tenth of a millisecond.

use super::{Moments, Queue};
use crate::error::BenchError;
use std::sync::Arc;
use std::time::Instant;

/// Adds a permit to the queue for each arrival when it is due, until the run's end, and closes it then.
///
/// On a thread of its own that sleeps in the kernel: the runtime's timers round each wait up to a whole
/// millisecond, which is longer than most answers take. The thread ends with the run. Errors:
/// [`BenchError::Start`].
pub(super) fn release(queue: Arc<Queue>, moments: Moments) -> Result<(), BenchError> {
    let pace = move || {
        let mut released = 0;
        loop {
            let now = Instant::now();
            let due = queue.arrivals.due(now.saturating_duration_since(moments.start));
            queue.gate.add_permits((due - released) as usize);
            released = due;
            if moments.ended(now) {
                queue.gate.close();
                return;
            }
            let next = moments.start + queue.arrivals.offset(released);
            let next = moments.end.map_or(next, |end| next.min(end));
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    };
    std::thread::Builder::new()
        .name("skein-bench-pace".to_owned())
        .spawn(pace)
        .map_err(|source| BenchError::Start { what: "the arrival timer", source })?;
    Ok(())
}
