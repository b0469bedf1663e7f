//! What a person did, as text short enough to share: `a10.t5000.bF.kH` adds ten peers, waits five seconds,
//! broadcasts from F and kills H.
//!
//! | word | does |
//! | --- | --- |
//! | `a`, `a10` | adds one peer, or so many; each joins through a peer that is up |
//! | `kF` | kills F: it is silent from now on |
//! | `K50` | kills so many percent of those that are up, drawn from the seed |
//! | `rF` | restarts F, which remembers what it wrote down last |
//! | `lF` | F leaves politely |
//! | `sF500`, `sF0` | slows F's messages down by so many milliseconds, or no longer |
//! | `bF` | broadcasts from F |
//! | `m`, `m5` | until the next message has arrived, or so many |
//! | `h`, `h5` | until the next heartbeat of the flock, or so many: one heartbeat interval each |
//! | `t1000` | waits so many milliseconds |
//!
//! Peers are named as columns of a spreadsheet are: A to Z, AA, AB and so on, in the order in which they were added.
//! Neighbouring words that only count on, `t500.t500`, are one: `t1000`. A text has one canonical form.

use std::fmt;
use std::str::FromStr;

/// Most peers that a session may ever have, the dead included.
pub const PEERS_MAX: usize = 1_000;
/// Most actions in a session, counted after merging.
pub const ACTIONS_MAX: usize = 10_000;
/// Longest text of actions that is read, in bytes.
pub const TEXT_BYTES_MAX: usize = 128 << 10;
/// Longest wait in one action, in milliseconds, and longest session altogether: an hour.
pub const MILLIS_MAX: u32 = 3_600_000;
/// Most messages or heartbeats to wait for in one action.
pub const COUNT_MAX: u32 = 100_000;
/// Slowest that a peer can be made, in milliseconds on top of the network's latency.
pub const SLOW_MILLIS_MAX: u32 = 10_000;

/// A peer by its number in the order of addition, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerNo(pub u16);

impl PeerNo {
    /// As an index into a list of all peers.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for PeerNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Base 26 without a zero: after Z comes AA.
        let mut letters = [0_u8; 4];
        let (mut at, mut left) = (letters.len(), u32::from(self.0) + 1);
        while left > 0 {
            at -= 1;
            letters[at] = b'A' + ((left - 1) % 26) as u8;
            left = (left - 1) / 26;
        }
        letters[at..].iter().try_for_each(|letter| write!(f, "{}", char::from(*letter)))
    }
}

/// One thing that a person did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Adds so many peers.
    Add(u32),
    /// A peer falls silent.
    Kill(PeerNo),
    /// So many percent of those that are up fall silent at once.
    KillShare(u32),
    /// A peer that is down starts again.
    Restart(PeerNo),
    /// A peer says goodbye and stops.
    Leave(PeerNo),
    /// What a peer sends is late by so many milliseconds from now on.
    Slow(PeerNo, u32),
    /// A peer tells all others something.
    Broadcast(PeerNo),
    /// Until so many messages have arrived.
    Messages(u32),
    /// So many heartbeat intervals.
    Heartbeats(u32),
    /// So many milliseconds.
    Wait(u32),
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counted = |f: &mut fmt::Formatter<'_>, word: char, count: u32| match count {
            1 => write!(f, "{word}"),
            _ => write!(f, "{word}{count}"),
        };
        match *self {
            Action::Add(count) => counted(f, 'a', count),
            Action::Kill(peer) => write!(f, "k{peer}"),
            Action::KillShare(percent) => write!(f, "K{percent}"),
            Action::Restart(peer) => write!(f, "r{peer}"),
            Action::Leave(peer) => write!(f, "l{peer}"),
            Action::Slow(peer, millis) => write!(f, "s{peer}{millis}"),
            Action::Broadcast(peer) => write!(f, "b{peer}"),
            Action::Messages(count) => counted(f, 'm', count),
            Action::Heartbeats(count) => counted(f, 'h', count),
            Action::Wait(millis) => write!(f, "t{millis}"),
        }
    }
}

/// Why a text is not a list of actions.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// The text is too long to be read.
    #[error("the actions have {bytes} bytes, and at most {TEXT_BYTES_MAX} are read")]
    TooLong {
        /// How long it is.
        bytes: usize,
    },
    /// There are more actions than a session takes.
    #[error("there are more than {ACTIONS_MAX} actions")]
    TooMany,
    /// A word that no action is written as.
    #[error("action {at}, {word:?}: {why}")]
    Word {
        /// Which one, from 1, before merging.
        at: usize,
        /// The word; its beginning, if it is long.
        word: String,
        /// What is wrong with it.
        why: &'static str,
    },
}

/// Words are shown in errors up to here.
const WORD_SHOWN_MAX: usize = 16;

impl FromStr for Action {
    type Err = &'static str;

    fn from_str(word: &str) -> Result<Self, &'static str> {
        let mut rest = word;
        let kind = match rest.chars().next() {
            Some(kind) => {
                rest = &rest[kind.len_utf8()..];
                kind
            }
            None => return Err("there is nothing between two dots"),
        };
        let digits_at = rest.find(|c: char| !c.is_ascii_uppercase()).unwrap_or(rest.len());
        let (name, digits) = rest.split_at(digits_at);
        let number = match digits {
            "" => None,
            _ if !digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                return Err(
                    "after the first letter only a peer's name in capitals and a number are understood",
                );
            }
            _ => Some(digits.parse::<u32>().map_err(|_| "the number is too large")?),
        };
        let within = |range: std::ops::RangeInclusive<u32>| match number {
            Some(number) if !range.contains(&number) => Err("the number is out of range"),
            Some(number) => Ok(number),
            None if range.contains(&1) => Ok(1),
            None => Err("a number is missing"),
        };
        let action = match kind {
            'a' => Action::Add(within(1..=PEERS_MAX as u32)?),
            'K' => Action::KillShare(
                number.filter(|n| (1..=100).contains(n)).ok_or("percent from 1 to 100 are wanted")?,
            ),
            'm' => Action::Messages(within(1..=COUNT_MAX)?),
            'h' => Action::Heartbeats(within(1..=COUNT_MAX)?),
            't' => Action::Wait(
                number
                    .filter(|n| (1..=MILLIS_MAX).contains(n))
                    .ok_or("milliseconds from 1 to an hour's are wanted")?,
            ),
            's' => {
                let millis = number
                    .filter(|n| *n <= SLOW_MILLIS_MAX)
                    .ok_or("milliseconds from 0 to 10000 are wanted")?;
                return Ok(Action::Slow(peer(name)?, millis));
            }
            'k' | 'r' | 'l' | 'b' if number.is_some() => return Err("a peer's name is letters only"),
            'k' => return Ok(Action::Kill(peer(name)?)),
            'r' => return Ok(Action::Restart(peer(name)?)),
            'l' => return Ok(Action::Leave(peer(name)?)),
            'b' => return Ok(Action::Broadcast(peer(name)?)),
            _ => return Err("an action begins with one of a k K r l s b m h t"),
        };
        if name.is_empty() { Ok(action) } else { Err("this action names no peer") }
    }
}

fn peer(name: &str) -> Result<PeerNo, &'static str> {
    if name.is_empty() {
        return Err("a peer's name in capitals is missing");
    }
    let number = name.bytes().try_fold(0_u32, |number, letter| {
        number.checked_mul(26)?.checked_add(u32::from(letter - b'A') + 1).filter(|n| *n <= PEERS_MAX as u32)
    });
    match number {
        Some(number) => Ok(PeerNo((number - 1) as u16)),
        None => Err("there can be no such peer"),
    }
}

/// A list of actions in canonical form: what counts on is merged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Actions {
    list: Vec<Action>,
}

impl Actions {
    /// The actions in order.
    pub fn as_slice(&self) -> &[Action] {
        &self.list
    }

    /// Adds an action at the end, or counts the last one on; a count that would pass its bound starts anew.
    pub fn push(&mut self, action: Action) -> Result<(), ParseError> {
        if let Some(last) = self.list.last_mut()
            && let Some(both) = merged(*last, action)
        {
            *last = both;
            return Ok(());
        }
        if self.list.len() == ACTIONS_MAX {
            return Err(ParseError::TooMany);
        }
        self.list.push(action);
        Ok(())
    }

    /// How far two lists are the same: the number of whole actions, and the part of the next one that both begin
    /// with, if it is one that counts.
    pub fn common_prefix(&self, other: &Actions) -> (usize, Option<Action>) {
        let whole = self.list.iter().zip(&other.list).take_while(|(a, b)| a == b).count();
        let part = match (self.list.get(whole), other.list.get(whole)) {
            (Some(a), Some(b)) => shorter(*a, *b),
            _ => None,
        };
        (whole, part)
    }
}

impl Actions {
    /// Whether these actions are all done on the way to the other ones.
    pub fn is_beginning_of(&self, other: &Actions) -> bool {
        let (whole, part) = self.common_prefix(other);
        match self.list.len() - whole {
            0 => true,
            // The last one may have gone on since, if it is done in full.
            1 => part.is_some() && part == self.list.last().copied(),
            _ => false,
        }
    }
}

impl Action {
    /// What is left of an action that counts, after a part of it; `None` when nothing is.
    pub fn without(self, part: Action) -> Option<Action> {
        let left = |whole: u32, part: u32| whole.checked_sub(part).filter(|left| *left > 0);
        match (self, part) {
            (Action::Add(a), Action::Add(b)) => left(a, b).map(Action::Add),
            (Action::Messages(a), Action::Messages(b)) => left(a, b).map(Action::Messages),
            (Action::Heartbeats(a), Action::Heartbeats(b)) => left(a, b).map(Action::Heartbeats),
            (Action::Wait(a), Action::Wait(b)) => left(a, b).map(Action::Wait),
            _ => Some(self),
        }
    }
}

/// Two neighbouring actions as one, where that says the same.
fn merged(last: Action, next: Action) -> Option<Action> {
    let sum = |a: u32, b: u32, max: u32| a.checked_add(b).filter(|sum| *sum <= max);
    match (last, next) {
        (Action::Add(a), Action::Add(b)) => sum(a, b, PEERS_MAX as u32).map(Action::Add),
        (Action::Messages(a), Action::Messages(b)) => sum(a, b, COUNT_MAX).map(Action::Messages),
        (Action::Heartbeats(a), Action::Heartbeats(b)) => sum(a, b, COUNT_MAX).map(Action::Heartbeats),
        (Action::Wait(a), Action::Wait(b)) => sum(a, b, MILLIS_MAX).map(Action::Wait),
        _ => None,
    }
}

/// The lesser of two actions of one kind that counts.
fn shorter(a: Action, b: Action) -> Option<Action> {
    match (a, b) {
        (Action::Add(a), Action::Add(b)) => Some(Action::Add(a.min(b))),
        (Action::Messages(a), Action::Messages(b)) => Some(Action::Messages(a.min(b))),
        (Action::Heartbeats(a), Action::Heartbeats(b)) => Some(Action::Heartbeats(a.min(b))),
        (Action::Wait(a), Action::Wait(b)) => Some(Action::Wait(a.min(b))),
        _ => None,
    }
}

impl FromStr for Actions {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(ParseError::TooLong { bytes: text.len() });
        }
        let mut actions = Self::default();
        if text.is_empty() {
            return Ok(actions);
        }
        for (at, word) in text.split('.').enumerate() {
            let action = word.parse().map_err(|why| ParseError::Word {
                at: at + 1,
                word: word.chars().take(WORD_SHOWN_MAX).collect(),
                why,
            })?;
            actions.push(action)?;
        }
        Ok(actions)
    }
}

impl fmt::Display for Actions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.list.iter().enumerate().try_for_each(|(at, action)| {
            if at > 0 {
                f.write_str(".")?;
            }
            action.fmt(f)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn actions(text: &str) -> Actions {
        text.parse().unwrap()
    }

    #[test]
    fn peers_are_named_as_columns_are() {
        let names: Vec<String> = [0, 25, 26, 51, 52, 701, 702, 999].map(|no| PeerNo(no).to_string()).to_vec();
        assert_eq!(names, ["A", "Z", "AA", "AZ", "BA", "ZZ", "AAA", "ALL"]);
    }

    #[test]
    fn what_counts_on_becomes_one_action() {
        assert_eq!(actions("a.a.t500.t500.bA.m.m.h.h2.kA").to_string(), "a2.t1000.bA.m2.h3.kA");
        // Killing twice is not killing two.
        assert_eq!(actions("K50.K50").to_string(), "K50.K50");
        assert_eq!(actions("").as_slice(), []);
    }

    #[test]
    fn a_count_that_is_full_starts_anew() {
        assert_eq!(actions("t3600000.t5").to_string(), "t3600000.t5");
    }

    #[test]
    fn bad_words_are_refused_and_shown() {
        for (text, at) in [
            ("x", 1),
            ("a5.", 2),
            (".a", 1),
            ("a.k", 2),
            ("kA1", 1),
            ("t", 1),
            ("t0", 1),
            ("sA", 1),
            ("sA10001", 1),
            ("K101", 1),
            ("a1001", 1),
            ("kALM", 1),
            ("mA", 1),
            ("a-1", 1),
            ("t99999999999", 1),
            ("ä", 1),
            ("kß", 1),
        ] {
            match text.parse::<Actions>() {
                Err(ParseError::Word { at: found, .. }) => assert_eq!(found, at, "{text}"),
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn lists_are_bounded() {
        let many = vec!["kA"; ACTIONS_MAX + 1].join(".");
        assert_eq!(many.parse::<Actions>(), Err(ParseError::TooMany));
        let long = "a".repeat(TEXT_BYTES_MAX + 1);
        assert_eq!(long.parse::<Actions>(), Err(ParseError::TooLong { bytes: TEXT_BYTES_MAX + 1 }));
    }

    #[test]
    fn lists_share_a_beginning_also_within_a_wait() {
        let prefix = |a: &str, b: &str| actions(a).common_prefix(&actions(b));
        assert_eq!(prefix("a5.t900.kA", "a5.t700"), (1, Some(Action::Wait(700))));
        assert_eq!(prefix("a5.t900", "a5.t900.kA"), (2, None));
        assert_eq!(prefix("a5.kA", "a5.kB"), (1, None));
        assert_eq!(prefix("a5", "a7"), (0, Some(Action::Add(5))));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_and_the_canonical_form_reads_back(text in "[akKrlsbmht.A-D0-9]{0,40}") {
            if let Ok(read) = text.parse::<Actions>() {
                prop_assert_eq!(read.to_string().parse::<Actions>(), Ok(read));
            }
        }

        #[test]
        fn a_name_reads_back(no in 0..PEERS_MAX as u16) {
            prop_assert_eq!(peer(&PeerNo(no).to_string()), Ok(PeerNo(no)));
        }
    }
}
