//! A panic in a task ends that task and nothing else. Here it is to end the run.

use std::cell::{Cell, RefCell};
use std::sync::Once;

thread_local! {
    static WATCHED: Cell<bool> = const { Cell::new(false) };
    static FIRST: RefCell<Option<String>> = const { RefCell::new(None) };
}

static HOOK: Once = Once::new();

/// From now on the first panic on this thread is kept for [`take`]. On other threads all is as ever.
pub fn watch() {
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| match WATCHED.get() {
            true => FIRST.with_borrow_mut(|first| {
                first.get_or_insert_with(|| format!("{info}\n{}", std::backtrace::Backtrace::capture()));
            }),
            false => before(info),
        }));
    });
    WATCHED.set(true);
    FIRST.take();
}

/// The panic, and panics are told as ever again.
pub fn stop() -> Option<String> {
    WATCHED.set(false);
    FIRST.take()
}

/// The first panic since the last call.
pub fn take() -> Option<String> {
    FIRST.take()
}
