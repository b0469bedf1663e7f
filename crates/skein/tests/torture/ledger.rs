//! What was asked of the server and what it answered, and whether what is in it now agrees.

use crate::history::{History, Row, Versions, newest, version_at};
use crate::luck::Luck;
use std::collections::BTreeMap;
use std::fmt;

/// One write of a transaction.
#[derive(Clone)]
pub struct Change {
    /// Which row.
    pub row: Row,
    /// Its new value, which tells the attempt; `None` deletes.
    pub value: Option<String>,
}

impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} := {}", self.row.0, self.row.1, brief(self.value.as_deref()))
    }
}

/// The beginning of a value, for people.
pub fn brief(value: Option<&str>) -> String {
    let Some(value) = value else { return "nothing".to_owned() };
    format!("{}… ({} bytes)", value.chars().take(40).collect::<String>(), value.len())
}

/// What is known of an attempt's outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// The server vanished before it answered, or said that it does not know.
    Unknown,
    /// Written, at this time.
    Committed(u64),
    /// Not written, and it never will be: that was decided.
    Dead,
    /// Not written, for want of space or because the server was about to stop. The same ID may be tried again.
    Undecided,
}

/// One transaction that was sent.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// Stands in every value it writes.
    pub number: u64,
    /// Its transaction ID, if the client chose one.
    pub id: Option<String>,
    /// `PUT`, `POST` or `DELETE` of one row, or `BATCH`.
    pub method: &'static str,
    /// Its condition time.
    pub condition: Option<u64>,
    /// What it writes.
    pub changes: Vec<Change>,
    /// What became of it.
    pub fate: Fate,
}

/// A read that was answered: this was the row's newest version at that time.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The row.
    pub row: Row,
    /// The time read at.
    pub at: u64,
    /// The time of the version; 0 for none.
    pub time: u64,
}

/// All attempts and reads so far.
#[derive(Clone, Default)]
pub struct Ledger {
    /// By number.
    pub attempts: BTreeMap<u64, Attempt>,
    /// In no order.
    pub seen: Vec<Seen>,
    /// The rows are in several cohorts, each of which gives its own times.
    pub times_may_meet: bool,
}

/// The number of the attempt that wrote this value.
fn number_of(value: &str) -> u64 {
    let number = value.strip_prefix("{\"n\":").and_then(|rest| rest.split(',').next());
    number.and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("nobody wrote the value {value:?}"))
}

/// A row that differs, what it is in the first and what in the second.
pub fn first_difference(found: &History, wanted: &History) -> Option<(Row, String, String)> {
    let row = found.keys().chain(wanted.keys()).find(|row| found.get(*row) != wanted.get(*row))?;
    let tell = |versions: Option<&Versions>| match versions {
        None => "not there".to_owned(),
        Some(versions) => {
            let versions =
                versions.iter().map(|(time, value)| format!("{time}: {}", brief(value.as_deref())));
            versions.collect::<Vec<_>>().join(", ")
        }
    };
    Some((row.clone(), tell(found.get(row)), tell(wanted.get(row))))
}

/// A value that tells who wrote it and where it belongs, of about so many bytes.
pub fn value_of(number: u64, row: &Row, bytes: usize) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    // Letters without rhyme, because tables are compressed and a full disk would be long in coming.
    let mut luck = Luck::of(number);
    let mut pad = String::with_capacity(bytes + 8);
    while pad.len() < bytes {
        let letters = luck.next().to_le_bytes();
        pad.extend(letters.map(|letter| char::from(LETTERS[usize::from(letter) % 64])));
    }
    format!("{{\"n\":{number},\"row\":\"{}/{}\",\"pad\":\"{pad}\"}}", row.0, row.1)
}

impl Ledger {
    /// Checks the whole of a server's content against everything that was ever answered.
    ///
    /// Attempts of unknown fate whose values are there are committed from now on; those without a transaction
    /// ID whose values are not there are dead from now on: they must never appear later.
    pub fn check(&mut self, history: &History) {
        let mut found: BTreeMap<u64, u64> = BTreeMap::new();
        for (row, versions) in history {
            for (time, value) in versions.iter().filter_map(|(time, v)| Some((time, v.as_ref()?))) {
                let number = number_of(value);
                let attempt = self.attempts.get(&number).unwrap_or_else(|| panic!("no attempt {number}"));
                let written =
                    attempt.changes.iter().any(|c| c.row == *row && c.value.as_ref() == Some(value));
                assert!(written, "{row:?} has at {time} a value that is not what was written: {attempt:?}");
                let before = found.insert(number, *time);
                assert!(before.is_none_or(|b| b == *time), "one transaction at two times: {attempt:?}");
            }
        }
        for attempt in self.attempts.values_mut() {
            let time = found.get(&attempt.number).copied();
            match (attempt.fate, time) {
                (Fate::Dead | Fate::Undecided, None) => {}
                (Fate::Dead | Fate::Undecided, Some(time)) => {
                    panic!("at {time} stands what was not written: {attempt:?}")
                }
                (Fate::Unknown, Some(time)) => attempt.fate = Fate::Committed(time),
                (Fate::Unknown, None) if attempt.id.is_none() => attempt.fate = Fate::Dead,
                (Fate::Unknown, None) => {}
                (Fate::Committed(said), _) => {
                    assert!(time.is_none_or(|t| t == said), "found at {time:?}: {attempt:?}");
                }
            }
            if let Fate::Committed(time) = attempt.fate {
                for change in &attempt.changes {
                    let there = history.get(&change.row).and_then(|versions| versions.get(&time));
                    assert!(there == Some(&change.value), "{change:?} is not in {attempt:?}");
                }
            }
        }
        for seen in &self.seen {
            let (time, _) = version_at(history, &seen.row, seen.at);
            assert_eq!(time, seen.time, "a read promised otherwise: {seen:?}");
        }
    }

    /// Checks what can be checked only once no fate is unknown: every deletion was asked for, and no two transactions
    /// have the same time.
    pub fn check_settled(&self, history: &History) {
        let mut times: BTreeMap<u64, Vec<&Attempt>> = BTreeMap::new();
        for attempt in self.attempts.values() {
            match attempt.fate {
                Fate::Committed(time) => {
                    let others = times.entry(time).or_default();
                    let alone = others.is_empty() || self.times_may_meet;
                    assert!(alone, "transactions at one time: {attempt:?} and {others:?}");
                    others.push(attempt);
                }
                Fate::Dead | Fate::Undecided => {}
                Fate::Unknown => panic!("unsettled: {attempt:?}"),
            }
        }
        for (row, versions) in history {
            for time in versions.iter().filter(|(_, value)| value.is_none()).map(|(time, _)| time) {
                let wanted = times.get(time).is_some_and(|attempts| {
                    let mut changes = attempts.iter().flat_map(|attempt| &attempt.changes);
                    changes.any(|change| change.row == *row && change.value.is_none())
                });
                assert!(wanted, "nobody deleted {row:?} at {time}");
            }
        }
    }

    /// Checks a scan of the newest versions against a scan of all of them.
    pub fn check_latest(history: &History, latest: &History) {
        let expected = newest(history);
        if let Some((row, found, wanted)) = first_difference(latest, &expected) {
            panic!("the newest of {row:?} is {found}, and should be {wanted}");
        }
    }

    /// How many attempts committed, died, and are unknown.
    pub fn counts(&self) -> (usize, usize, usize) {
        let count = |wanted: fn(&Fate) -> bool| self.attempts.values().filter(|a| wanted(&a.fate)).count();
        (
            count(|fate| matches!(fate, Fate::Committed(_))),
            count(|fate| matches!(fate, Fate::Dead | Fate::Undecided)),
            count(|fate| matches!(fate, Fate::Unknown)),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(fate: Fate) -> (Ledger, History) {
        let rows: [Row; 2] = [("0x1", "a".into()), ("0x2", "b".into())];
        let value = value_of(1, &rows[0], 3);
        let changes = vec![
            Change { row: rows[0].clone(), value: Some(value.clone()) },
            Change { row: rows[1].clone(), value: None },
        ];
        let attempt = Attempt { number: 1, id: None, method: "BATCH", condition: None, changes, fate };
        let history = History::from([
            (rows[0].clone(), Versions::from([(7, Some(value))])),
            (rows[1].clone(), Versions::from([(7, None)])),
        ]);
        let ledger =
            Ledger { attempts: BTreeMap::from([(1, attempt)]), seen: Vec::new(), times_may_meet: false };
        (ledger, history)
    }

    fn refuses(fate: Fate, spoil: impl FnOnce(&mut Ledger, &mut History)) {
        let (mut ledger, mut history) = ledger(fate);
        spoil(&mut ledger, &mut history);
        let check = std::panic::AssertUnwindSafe(|| {
            ledger.check(&history);
            ledger.check_settled(&history);
        });
        assert!(std::panic::catch_unwind(check).is_err());
    }

    #[test]
    fn the_ledger_takes_what_is_right() {
        let (mut ledger, history) = ledger(Fate::Committed(7));
        ledger.seen.push(Seen { row: ("0x1", "a".into()), at: 6, time: 0 });
        ledger.check(&history);
        ledger.check_settled(&history);
        let (mut unknown, history) = self::ledger(Fate::Unknown);
        unknown.check(&history);
        assert_eq!(unknown.counts(), (1, 0, 0));
    }

    #[test]
    fn the_ledger_notices_what_is_wrong() {
        refuses(Fate::Committed(8), |_, _| {});
        refuses(Fate::Dead, |_, _| {});
        // Half a batch, acknowledged or not.
        refuses(Fate::Committed(7), |_, history| drop(history.pop_last()));
        refuses(Fate::Unknown, |_, history| drop(history.pop_last()));
        refuses(Fate::Committed(7), |_, history| history.clear());
        // A deletion that nobody asked for, at a time of its own or another row's.
        refuses(Fate::Committed(7), |_, h| drop(h.insert(("0x2", "c".into()), Versions::from([(9, None)]))));
        refuses(Fate::Committed(7), |_, h| drop(h.insert(("0x2", "c".into()), Versions::from([(7, None)]))));
        // A read that promised that there was nothing.
        let read = Seen { row: ("0x1", "a".into()), at: 7, time: 0 };
        refuses(Fate::Committed(7), |ledger, _| ledger.seen.push(read));
        // A second transaction at the same time.
        refuses(Fate::Committed(7), |ledger, history| {
            let row: Row = ("0x1", "z".into());
            let value = value_of(2, &row, 1);
            let mut other = ledger.attempts[&1].clone();
            other.number = 2;
            other.changes = vec![Change { row: row.clone(), value: Some(value.clone()) }];
            ledger.attempts.insert(2, other);
            history.insert(row, Versions::from([(7, Some(value))]));
        });
    }
}
