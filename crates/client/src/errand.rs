//! What is asked of the cell, of whom, and again.
//!
//! The leader of the row's cohort is asked first, then its other hosts, then everybody else who is known, those that failed lately last. When
//! all have been asked in vain there is a pause, and it begins again, until the deadline. A write that may have been carried out is
//! repeated under the same transaction ID, and from then on only an answer that settles the ID counts: what a peer says of
//! *its* attempt, such as being overloaded, says nothing about the earlier one.

use crate::answer::{Answer, Verdict};
use crate::client::Inner;
use crate::error::{Error, Refused};
use crate::pool::{Call, Fault};
use http::Method;
use skein_model::{CellId, TxId};
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::Instrument as _;

/// The pause after all peers were asked in vain; doubled each time.
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// Longest path and query that a server takes, in bytes.
const PATH_BYTES_MAX: usize = 65_534;

/// Refuses a path that no peer would take, which would be tried in vain until the deadline.
pub(crate) fn check_path(path: &str) -> Result<(), Error> {
    if PATH_BYTES_MAX < path.len() {
        let why = format!(
            "percent-encoded they make {} bytes, and at most {PATH_BYTES_MAX} are allowed",
            path.len()
        );
        return Err(Error::Invalid { what: "keys", why });
    }
    Ok(())
}

/// A request, and what has to be known to repeat it.
#[derive(Debug)]
pub(crate) struct Errand<'a> {
    pub(crate) call: Call,
    /// The cohort that it is for, if that is known: the number of which depends on the topology, so it is worked out anew each time.
    pub(crate) home: Home<'a>,
    /// The ID, for a write. Everything else may be repeated freely.
    pub(crate) write: Option<TxId>,
    pub(crate) deadline: Instant,
}

/// Which rows a request is about.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Home<'a> {
    Anywhere,
    Row(Option<skein_model::TableId>, &'a [u8]),
    Slice(u32, u32),
}

/// How far an errand has come.
struct Progress {
    begun: Instant,
    tried: u32,
    last: String,
    /// A write may have been carried out.
    unsure: bool,
}

impl Inner {
    /// Carries out an errand: gives an answer that is not worth repeating, whatever its status.
    pub(crate) async fn run(&self, errand: &Errand<'_>) -> Result<Answer, Error> {
        let span =
            tracing::debug_span!("skein_request", method = %errand.call.method, path = errand.call.path);
        self.run_inside(errand).instrument(span).await
    }

    async fn run_inside(&self, errand: &Errand<'_>) -> Result<Answer, Error> {
        check_path(&errand.call.path)?;
        let mut progress = self.begin();
        let permit = timeout_at(errand.deadline, self.under_way.acquire()).await;
        // The semaphore is never closed.
        let Ok(Ok(permit)) = permit else {
            progress.last = "too many requests of this client are under way".to_owned();
            return Err(self.give_up(errand, progress));
        };
        let number = self.next_number();
        let mut pause = PAUSE_MIN;
        loop {
            if errand.deadline <= Instant::now() {
                return Err(self.give_up(errand, progress));
            }
            let order = self.order(errand.home);
            let mut asked_for = None;
            let (mut foreign, mut others) = (None, false);
            for address in order {
                if errand.deadline <= Instant::now() {
                    return Err(self.give_up(errand, progress));
                }
                progress.tried += 1;
                let id = format!("{}-{number}-{}", self.name, progress.tried);
                let until = errand.deadline.min(Instant::now() + self.config.attempt);
                let answer = self.pool.fetch(&address, &errand.call, &id, until).await;
                match self.weigh(&address, answer, &mut progress) {
                    Weighed::Done(answer) => return Ok(answer),
                    // Somebody may have done what this one refuses.
                    Weighed::Final(answer) if progress.unsure && errand.write.is_some() => {
                        progress.last = answer.refused().to_string();
                        // The question is a request of its own.
                        drop(permit);
                        return self.settle(errand, answer, progress).await;
                    }
                    Weighed::Final(answer) => return Ok(answer),
                    Weighed::Again(pause) => {
                        others = true;
                        asked_for = asked_for.max(pause);
                    }
                    Weighed::Foreign(found) => foreign = Some((address, found)),
                }
                tracing::debug!(
                    request = %id, why = %progress.last, unsure = progress.unsure, "a peer did not serve a request"
                );
                self.suspect();
            }
            // If everybody belongs elsewhere, asking once more would not change that.
            if let (Some((address, found)), Some(wanted)) = (foreign, self.pool.cell())
                && !others
                && !progress.unsure
            {
                return Err(Error::WrongCell { address, found, wanted });
            }
            let wait = asked_for.unwrap_or_default().max(self.jitter(pause));
            pause = (2 * pause).min(PAUSE_MAX);
            sleep_until(errand.deadline.min(Instant::now() + wait)).await;
        }
    }

    fn begin(&self) -> Progress {
        let last = "no peer is known".to_owned();
        Progress { begun: Instant::now(), tried: 0, last, unsure: false }
    }

    fn weigh(&self, address: &str, answer: Result<Answer, Fault>, progress: &mut Progress) -> Weighed {
        match answer {
            Ok(answer) => {
                self.saw(&answer);
                match answer.verdict() {
                    Verdict::Settled => Weighed::Done(answer),
                    Verdict::Final => Weighed::Final(answer),
                    Verdict::NotDone(pause) => {
                        progress.last = format!("{address}: {}", answer.refused());
                        Weighed::Again(pause)
                    }
                    Verdict::Unsure => {
                        progress.unsure = true;
                        progress.last = format!("{address}: {}", answer.refused());
                        Weighed::Again(None)
                    }
                }
            }
            Err(Fault::NotSent(why)) => {
                progress.last = why;
                Weighed::Again(None)
            }
            Err(Fault::Foreign(cell)) => {
                progress.last = format!("{address} belongs to cell {cell}");
                Weighed::Foreign(cell)
            }
            Err(Fault::Unsure(why)) => {
                progress.unsure = true;
                progress.last = why;
                Weighed::Again(None)
            }
        }
    }

    /// Finds out whether a write happened that one peer would not repeat. Asking aborts it if nothing was decided, so afterwards what
    /// the peer said is the truth.
    async fn settle(
        &self,
        errand: &Errand<'_>,
        refusal: Answer,
        progress: Progress,
    ) -> Result<Answer, Error> {
        let Some(id) = &errand.write else { return Ok(refusal) };
        let ask = Errand {
            call: Call::new(Method::GET, "/tx-status").header("transaction-id", id),
            home: errand.home,
            write: None,
            deadline: errand.deadline,
        };
        match Box::pin(self.run(&ask)).await {
            Ok(answer) if answer.status == 200 => Ok(answer),
            Ok(answer) if answer.refused().kind == "transaction-aborted" => Ok(refusal),
            Ok(_) | Err(_) => Err(self.give_up(errand, progress)),
        }
    }

    fn give_up(&self, errand: &Errand<'_>, progress: Progress) -> Error {
        let waited = progress.begun.elapsed();
        match &errand.write {
            Some(id) if progress.unsure => Error::Unknown { id: id.clone(), waited, last: progress.last },
            _ => Error::Unavailable { tried: progress.tried, waited, last: progress.last },
        }
    }
}

enum Weighed {
    Done(Answer),
    Final(Answer),
    Again(Option<Duration>),
    Foreign(CellId),
}

/// The error that an answer without success is.
pub(crate) fn error_of(answer: &Answer, write: Option<&TxId>) -> Error {
    let refused: Refused = answer.refused();
    match (refused.kind.as_str(), write) {
        ("stale", _) => match answer.clock("value-txclock") {
            Some(latest) => Error::Stale { latest },
            None => Error::Refused(refused),
        },
        ("collision", _) => Error::Collision(refused),
        ("transaction-aborted", Some(id)) => Error::Aborted { id: id.clone() },
        ("history-gone", _) => Error::HistoryGone(refused),
        _ => Error::Refused(refused),
    }
}
