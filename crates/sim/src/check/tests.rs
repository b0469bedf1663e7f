//! Planted anomalies: each checker finds what it is there for.

use super::*;
use bytes::Bytes;
use skein_model::{Slice, TableId, TxClock, TxId};
use std::collections::BTreeMap;

const TABLE: TableId = TableId(1);

fn row(key: &str) -> Row {
    Row { table: TABLE, key: Bytes::copy_from_slice(key.as_bytes()) }
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn id(n: u64) -> TxId {
    TxId::from_be_bytes(&n.to_be_bytes())
}

/// A history told call by call; each takes two moments and begins after the one before has ended.
#[derive(Default)]
struct Story {
    history: History,
    truth: Truth,
    now: Moment,
}

impl Story {
    fn call(&mut self, asked: Asked, answer: Answer) -> &mut Story {
        self.now += 10;
        let call = self.history.begin(1, self.now, asked);
        self.history.end(call, self.now + 5, answer);
        self
    }

    fn change(&mut self, n: u64, key: &str, change: Change, answer: Answer) -> &mut Story {
        let changes = BTreeMap::from([(row(key), change)]);
        self.call(Asked::Write { id: id(n), demand: Demand::None, changes }, answer)
    }

    fn put(&mut self, n: u64, key: &str, answer: Answer) -> &mut Story {
        self.change(n, key, Change::Put(bytes(&n.to_string())), answer)
    }

    fn written(&mut self, n: u64, key: &str, time: u64) -> &mut Story {
        self.put(n, key, Answer::Committed(TxClock(time))).holds(key, time, Some(n))
    }

    /// The version is there at the end.
    fn holds(&mut self, key: &str, time: u64, value: Option<u64>) -> &mut Story {
        self.truth.add(row(key), TxClock(time), value.map(|n| bytes(&n.to_string()))).unwrap();
        self
    }

    fn read(
        &mut self,
        key: &str,
        at: Option<u64>,
        read_time: u64,
        time: u64,
        value: Option<u64>,
    ) -> &mut Story {
        let answer = Answer::Found {
            read_time: TxClock(read_time),
            time: TxClock(time),
            value: value.map(|n| bytes(&n.to_string())),
        };
        self.call(Asked::Read { row: row(key), at: at.map(TxClock) }, answer)
    }

    fn scan(&mut self, until: u64, complete: bool, rows: &[(&str, u64, u64)]) -> &mut Story {
        let rows =
            rows.iter().map(|(key, time, n)| (bytes(key), TxClock(*time), bytes(&n.to_string()))).collect();
        let answer = Answer::Scanned { until: TxClock(until), rows, complete };
        self.call(Asked::Scan { table: TABLE, slice: Slice::ALL, at: None }, answer)
    }

    fn status(&mut self, n: u64, answer: Answer) -> &mut Story {
        self.call(Asked::Status { id: id(n) }, answer)
    }

    fn fine(&self) {
        check(&self.history, &self.truth).unwrap();
    }

    fn wrong(&self, because: &str) {
        let Violation(why) = check(&self.history, &self.truth).unwrap_err();
        assert!(why.contains(because), "{why}");
    }
}

fn story() -> Story {
    Story::default()
}

fn unknown() -> Answer {
    Answer::Unknown("timed out".into())
}

#[test]
fn what_could_have_happened_is_accepted() {
    let mut story = story();
    story.written(1, "a", 10).read("a", None, 12, 10, Some(1)).written(2, "b", 15);
    story.scan(20, true, &[("a", 10, 1), ("b", 15, 2)]).scan(21, false, &[("a", 10, 1)]);
    story.change(3, "a", Change::Delete, Answer::Committed(TxClock(30))).holds("a", 30, None);
    story.read("a", None, 31, 30, None).read("a", Some(29), 29, 10, Some(1)).scan(35, true, &[("b", 15, 2)]);
    story.change(4, "b", Change::Create(bytes("4")), Answer::Collision).put(
        5,
        "c",
        Answer::Nothing("no leader".into()),
    );
    story.status(5, Answer::Aborted).read("c", None, 40, 0, None).fine();
}

#[test]
fn an_acknowledged_write_that_is_not_there_is_noticed() {
    story().put(1, "a", Answer::Committed(TxClock(10))).wrong("lost");
    story().put(1, "a", unknown()).status(1, Answer::Committed(TxClock(10))).wrong("lost");
}

#[test]
fn a_write_at_another_time_or_with_another_value_is_noticed() {
    story().put(1, "a", Answer::Committed(TxClock(10))).holds("a", 11, Some(1)).wrong("nobody was told of");
    story().put(1, "a", Answer::Committed(TxClock(10))).holds("a", 10, Some(2)).wrong("wrote");
}

#[test]
fn a_refused_write_that_is_there_is_noticed() {
    for answer in [Answer::Aborted, Answer::Collision, Answer::Stale(TxClock(5))] {
        story().put(1, "a", answer).holds("a", 10, Some(1)).wrong("nobody was told of");
    }
}

#[test]
fn a_transaction_written_twice_is_noticed() {
    story().written(1, "a", 10).holds("a", 20, Some(1)).wrong("nobody was told of");
    story().written(1, "a", 10).written(1, "a", 20).wrong("written at 10 and at 20");
}

#[test]
fn a_write_that_was_said_not_to_have_happened_and_did_is_noticed() {
    let nothing = || Answer::Nothing("no leader".into());
    let mut story = story();
    story.put(1, "a", nothing()).holds("a", 10, Some(1)).status(1, Answer::Committed(TxClock(10)));
    story.wrong("was said not to be written");
    story.put(1, "a", unknown()).fine();
}

#[test]
fn contradicting_answers_are_noticed() {
    story().written(1, "a", 10).status(1, Answer::Aborted).wrong("and also");
}

#[test]
fn an_unknown_outcome_that_stays_unknown_is_noticed() {
    let mut story = story();
    story.put(1, "a", unknown()).wrong("nobody knows");
    assert_eq!(story.history.unsettled(), [id(1)]);
    story.history.settle(99, |_| Answer::Aborted);
    story.fine();
}

#[test]
fn an_unknown_write_may_appear_late() {
    let mut story = story();
    story.put(1, "a", unknown()).read("a", None, 5, 0, None).read("a", None, 12, 10, Some(1));
    story.holds("a", 10, Some(1)).status(1, Answer::Committed(TxClock(10))).fine();
    story.read("a", None, 13, 0, None).wrong("a read found");
}

#[test]
fn a_stale_read_is_noticed() {
    // Right by its time, but the write had been acknowledged.
    story().written(1, "a", 10).read("a", None, 9, 0, None).wrong("not linearizable");
    story().written(1, "a", 10).read("a", None, 12, 0, None).wrong("a read found");
}

#[test]
fn a_read_at_a_time_that_does_not_repeat_is_noticed() {
    story().read("a", Some(12), 12, 0, None).written(1, "a", 10).wrong("a read found");
    story().written(1, "a", 10).read("a", Some(12), 13, 10, Some(1)).wrong("asked for");
}

#[test]
fn times_of_a_row_that_fall_are_noticed() {
    story().written(1, "a", 20).written(2, "a", 10).wrong("not linearizable");
}

#[test]
fn a_lost_update_is_noticed() {
    let mut story = story();
    story.written(1, "a", 10);
    for n in [2, 3] {
        let changes = BTreeMap::from([(row("a"), Change::Put(bytes(&n.to_string())))]);
        let asked = Asked::Write { id: id(n), demand: Demand::Version(TxClock(10)), changes };
        story.call(asked, Answer::Committed(TxClock(10 * n))).holds("a", 10 * n, Some(n));
    }
    story.wrong("not linearizable");
}

#[test]
fn a_scan_that_is_no_snapshot_is_noticed() {
    let base = || {
        let mut story = story();
        story.written(1, "a", 10).written(2, "b", 15).written(3, "a", 20);
        story
    };
    base().scan(20, true, &[("a", 20, 3), ("b", 15, 2)]).fine();
    base().scan(20, true, &[("a", 10, 1), ("b", 15, 2)]).wrong("row 0 of the scan");
    base().scan(20, true, &[("a", 20, 3)]).wrong("ended after 1 rows");
    base().scan(20, true, &[("b", 15, 2)]).wrong("row 0 of the scan");
    base().scan(20, false, &[("a", 20, 3), ("a", 20, 3)]).wrong("row 1 of the scan");
    base().scan(20, true, &[("b", 15, 2), ("a", 20, 3)]).wrong("row 0 of the scan");
    base().scan(16, true, &[("a", 10, 1), ("b", 15, 2)]).wrong("acknowledged before it began");
    base().scan(22, true, &[("a", 20, 3), ("b", 15, 2)]).written(4, "c", 22).wrong("ended after");
}

#[test]
fn a_version_from_nowhere_is_noticed() {
    story().holds("a", 10, Some(1)).wrong("nobody was told of");
    story().written(1, "a", 10).holds("a", 12, None).wrong("nobody was told of");
    let mut truth = Truth::default();
    truth.add(row("a"), TxClock(1), None).unwrap();
    truth.add(row("a"), TxClock(1), None).unwrap_err();
}
