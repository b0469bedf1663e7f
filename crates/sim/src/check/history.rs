//! What clients asked for, when, and what they were told.

use bytes::Bytes;
use skein_model::{Slice, TableId, TxClock, TxId};
use std::collections::BTreeMap;
use std::fmt;

/// A moment by a clock that all clients share. Calls that share one overlap, as far as anybody can tell.
pub type Moment = u64;

/// A row, wherever it is kept.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Row {
    /// Its table.
    pub table: TableId,
    /// Its key.
    pub key: Bytes,
}

impl fmt::Debug for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.table.0, String::from_utf8_lossy(&self.key))
    }
}

/// What a transaction does to one row. No two transactions of a history write the same bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Writes a value.
    Put(Bytes),
    /// Writes a value if there is none.
    Create(Bytes),
    /// Writes a tombstone.
    Delete,
}

impl Change {
    /// What the row holds afterwards.
    pub fn value(&self) -> Option<&Bytes> {
        match self {
            Change::Put(value) | Change::Create(value) => Some(value),
            Change::Delete => None,
        }
    }
}

/// What a transaction asks of its rows before it writes any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demand {
    /// Nothing, beyond what [`Change::Create`] asks.
    None,
    /// Its one row's newest version is a value of this time.
    Version(TxClock),
}

/// What a client asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// One row, at a time or at present.
    Read {
        /// The row.
        row: Row,
        /// The time; `None` for the present.
        at: Option<TxClock>,
    },
    /// A transaction; sent again, it is another call.
    Write {
        /// Its name.
        id: TxId,
        /// What it demands.
        demand: Demand,
        /// What it does to each row.
        changes: BTreeMap<Row, Change>,
    },
    /// What became of a transaction.
    Status {
        /// Its name.
        id: TxId,
    },
    /// The newest versions of a share of a table.
    Scan {
        /// The table.
        table: TableId,
        /// The share.
        slice: Slice,
        /// The time; `None` for the present.
        at: Option<TxClock>,
    },
}

/// What the client was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// A read found a version, or time 0 and nothing.
    Found {
        /// The time that was read at.
        read_time: TxClock,
        /// Time of the version.
        time: TxClock,
        /// Its value; `None` for a tombstone or a row never written.
        value: Option<Bytes>,
    },
    /// The transaction is written, all of it at this time.
    Committed(TxClock),
    /// The transaction is not written and never will be: a created row exists.
    Collision,
    /// The transaction is not written and never will be: of all its rows, this is the newest version's time.
    Stale(TxClock),
    /// The transaction is not written and never will be.
    Aborted,
    /// The rows of a scan, in the order in which they came: key, time and value.
    Scanned {
        /// The time that all of it shows.
        until: TxClock,
        /// What came.
        rows: Vec<(Bytes, TxClock, Bytes)>,
        /// Whether it came to its end.
        complete: bool,
    },
    /// Nothing was done: for certain. For a write, a later call with the same ID may yet do it.
    Nothing(String),
    /// The client knows nothing, and was told so; or it is gone.
    Unknown(String),
}

/// One call of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Who called.
    pub client: u64,
    /// When.
    pub invoked: Moment,
    /// When the answer was there; [`Moment::MAX`] if none came.
    pub answered: Moment,
    /// For what.
    pub asked: Asked,
    /// And the answer.
    pub answer: Answer,
}

/// All calls of all clients.
#[derive(Debug, Clone, Default)]
pub struct History {
    calls: Vec<Call>,
}

/// How a call is found again when its answer comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(usize);

impl History {
    /// A client calls. Until [`History::end`], the outcome counts as unknown.
    pub fn begin(&mut self, client: u64, invoked: Moment, asked: Asked) -> CallId {
        let answer = Answer::Unknown("no answer came".into());
        self.calls.push(Call { client, invoked, answered: Moment::MAX, asked, answer });
        CallId(self.calls.len() - 1)
    }

    /// The call is answered.
    pub fn end(&mut self, call: CallId, answered: Moment, answer: Answer) {
        let call = &mut self.calls[call.0];
        // An answer that tells nothing ends nothing: what was asked for may happen at any later time.
        call.answered = if matches!(answer, Answer::Unknown(_)) { Moment::MAX } else { answered };
        call.answer = answer;
    }

    /// All calls, in the order in which they began.
    pub fn calls(&self) -> &[Call] {
        &self.calls
    }

    /// The transactions that somebody sent and nobody yet knows the end of.
    pub fn unsettled(&self) -> Vec<TxId> {
        let mut open = BTreeMap::new();
        for call in &self.calls {
            let (Asked::Write { id, .. } | Asked::Status { id }) = &call.asked else { continue };
            let sent = matches!(call.asked, Asked::Write { .. });
            match &call.answer {
                Answer::Committed(_) | Answer::Collision | Answer::Stale(_) | Answer::Aborted => {
                    open.insert(id, false);
                }
                _ if sent => {
                    open.entry(id).or_insert(true);
                }
                _ => {}
            }
        }
        open.into_iter().filter(|(_, open)| *open).map(|(id, _)| id.clone()).collect()
    }

    /// Ends the history: asks after each transaction whose end nobody knows, which aborts it if it was never decided.
    /// `status` answers [`Answer::Committed`] or [`Answer::Aborted`].
    pub fn settle(&mut self, now: Moment, mut status: impl FnMut(&TxId) -> Answer) {
        for id in self.unsettled() {
            let answer = status(&id);
            let call = self.begin(u64::MAX, now, Asked::Status { id });
            self.end(call, now, answer);
        }
    }
}
