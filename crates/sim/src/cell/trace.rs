//! What happened, as a hash: two runs of one seed have the same one, or the simulator is not deterministic.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Clones share it. Only one thread uses it; it can be sent because a network has to be.
#[derive(Clone, Default)]
pub struct Trace(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    hash: u64,
    events: u64,
    now_millis: u64,
    print: bool,
    print_bytes: bool,
    on_tick: Option<Box<dyn Fn() + Send>>,
}

impl Trace {
    /// A trace that prints what it is told in words, and what bytes pass.
    pub fn printing(words: bool, bytes: bool) -> Trace {
        let trace = Trace::default();
        trace.lock().print = words;
        trace.lock().print_bytes = bytes;
        trace
    }

    /// The simulated time, for the events from now on.
    pub fn set_now(&self, millis: u64) {
        let mut state = self.lock();
        state.now_millis = millis;
        if let Some(on_tick) = &state.on_tick {
            on_tick();
        }
    }

    /// Calls this whenever simulated time moves on.
    pub fn on_tick(&self, call: impl Fn() + Send + 'static) {
        self.lock().on_tick = Some(Box::new(call));
    }

    /// Something that is told in words.
    pub fn say(&self, what: impl FnOnce() -> String) {
        let what = what();
        let mut state = self.lock();
        state.add(what.as_bytes());
        if state.print {
            println!("{:>9.3} {what}", state.now_millis as f64 / 1000.0);
        }
    }

    /// Bytes that a peer sent or was given.
    pub fn bytes(&self, peer: u64, bytes: &[u8]) {
        let mut state = self.lock();
        state.hash = state.hash.wrapping_add(peer + 1);
        state.add(bytes);
        if state.print_bytes {
            println!(
                "{:>9.3} peer-{peer} is given {} bytes, {:016x}",
                state.now_millis as f64 / 1000.0,
                bytes.len(),
                state.hash
            );
        }
    }

    /// The hash of all so far, and how many events there were.
    pub fn hash(&self) -> (u64, u64) {
        let state = self.lock();
        (state.hash, state.events)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn add(&mut self, bytes: &[u8]) {
        self.events += 1;
        self.hash = xxh3_64_with_seed(bytes, self.hash.rotate_left(17) ^ self.now_millis);
    }
}
