//! Work that blocks, called from a task.

use tokio::runtime::{Handle, RuntimeFlavor};

/// The work was not done, or nobody knows how far: it panicked, or the runtime was shut down before it began.
#[derive(Debug, thiserror::Error)]
#[error("work that blocks did not finish: {detail}")]
pub struct Unfinished {
    detail: String,
}

impl From<Unfinished> for std::io::Error {
    fn from(unfinished: Unfinished) -> std::io::Error {
        std::io::Error::other(unfinished)
    }
}

/// Runs `work` where it may block: on the blocking pool of a runtime of many threads, and in place on a runtime of one
/// thread.
///
/// In place, because a pool would bring a second thread into a simulation, and with it an order of events that no seed
/// decides. Dropping the future does not stop work that has begun.
///
/// Errors: [`Unfinished`]; in place, a panic of `work` is the caller's. Panics outside of a runtime.
pub async fn blocking<T, F>(work: F) -> Result<T, Unfinished>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::CurrentThread => Ok(work()),
        _ => {
            tokio::task::spawn_blocking(work).await.map_err(|error| Unfinished { detail: error.to_string() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    fn runs_here(mut builder: tokio::runtime::Builder) -> bool {
        let runtime = builder.build().unwrap();
        runtime.block_on(async {
            let here = thread::current().id();
            blocking(move || thread::current().id() == here).await.unwrap()
        })
    }

    #[test]
    fn a_runtime_of_one_thread_does_it_in_place_and_one_of_many_elsewhere() {
        assert!(runs_here(tokio::runtime::Builder::new_current_thread()));
        assert!(!runs_here(tokio::runtime::Builder::new_multi_thread()));
    }

    #[test]
    fn a_panic_elsewhere_comes_back_as_an_error() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let outcome = runtime.block_on(blocking(|| panic!("on purpose")));
        assert!(outcome.unwrap_err().to_string().contains("panic"));
    }
}
