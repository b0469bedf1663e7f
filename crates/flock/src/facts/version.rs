//! How a peer's words are ordered, across its restarts too.

/// The most a version's incarnation can be. The two caps leave room above any number an owner can reach by
/// itself, so that an owner can always outbid a liar that speaks in its name.
pub const INCARNATION_MAX: u64 = 1 << 60;

/// The most a version's counter can be; a change every microsecond takes nine years to get there.
pub const COUNTER_MAX: u64 = 1 << 48;

/// The version of what one owner says, or of one setting (whose incarnation is 0).
///
/// Ordered by incarnation, which grows with each start of the owner, then by counter, which grows with each change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Version {
    /// Which start of the owner.
    pub incarnation: u64,
    /// Which change since that start; the first is 1.
    pub counter: u64,
}

impl Version {
    /// Before every version there is: "I have nothing".
    pub const NONE: Version = Version { incarnation: 0, counter: 0 };

    /// The next version the same owner gives; goes on with the next incarnation when the counter is used up.
    pub fn next(self) -> Version {
        match self.counter.checked_add(1) {
            Some(counter) if counter <= COUNTER_MAX => Version { counter, ..self },
            _ => Version { incarnation: self.incarnation.saturating_add(1), counter: 1 },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_go_on_after_the_last_counter() {
        let last = Version { incarnation: 3, counter: COUNTER_MAX };
        assert_eq!(last.next(), Version { incarnation: 4, counter: 1 });
        assert!(last < last.next());
        assert!(Version::NONE < Version::NONE.next());
    }
}
